package graph

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// ListID names a list of resources whose notices are marked and indexed as they
// are written. The caller chooses it and never uses it for another list; 0 is none.
type ListID uint32

// MaxListEdit bounds what one edit adds to a list and removes from it: so many
// keep the apply loop from others for about 3 ms.
const MaxListEdit = 10_000

// ListEdit changes one list, drops others, and writes one record, in one commit.
type ListEdit struct {
	List   ListID   // the list to change; 0 if none is. It exists from its first edit on
	Add    []string // canonical URIs; those without an id are given one
	Remove []string // of both at most MaxListEdit; what is in both ends on the list
	// Drop are lists that end here: from here on nothing is marked for them. Their
	// members are forgotten in the background; what was marked is found for as long
	// as the journal holds it.
	Drop []ListID
	// Key names a record that is written with it. Record is called inside the commit
	// with the position at which the edit takes effect, and returns the value; without
	// Record what is kept under Key is deleted.
	Key    string
	Record func(at Cursor) []byte
}

// ListResult tells what an edit did.
type ListResult struct {
	At             Cursor // every notice after it, and none up to it, is judged with the edit
	Added, Removed int    // who was not on the list before, and who was
}

// lists is what the apply loop keeps of lists in memory, under Store.mu.
type lists struct {
	editing  chan struct{} // has room for whoever edits: one at a time
	ids      idSet         // who is on a list that was not dropped
	known    *simplelru.LRU[ID, []ListID]
	dropped  map[ListID]struct{} // whose members are not all forgotten yet
	dropping []ListID            // the same in the order of dropping
	ended    uint64              // how many were forgotten
	trimNext ListID              // whose index is looked at next
}

func newLists() lists {
	l := lists{editing: make(chan struct{}, 1), dropped: map[ListID]struct{}{}}
	l.known, _ = simplelru.NewLRU[ID, []ListID](cachedListings, nil)
	return l
}

// kept returns those of held that were not dropped.
func (l *lists) kept(held []ListID) []ListID {
	if len(l.dropped) == 0 || !slices.ContainsFunc(held, l.isDropped) {
		return held
	}
	return slices.DeleteFunc(slices.Clone(held), l.isDropped)
}

func (l *lists) isDropped(list ListID) bool {
	_, ok := l.dropped[list]
	return ok
}

// idSet is a set of ids: a bit for each resource, in pages that are there only
// where somebody is in it. Each notice that is written asks it once.
type idSet struct {
	pages []*[bucketSize / 64]uint64
}

func (s *idSet) has(id ID) bool {
	n := int(id >> bucketShift)
	return n < len(s.pages) && s.pages[n] != nil && s.pages[n][id&(bucketSize-1)>>6]>>(id&63)&1 != 0
}

func (s *idSet) add(id ID) {
	n := int(id >> bucketShift)
	if n >= len(s.pages) {
		s.pages = append(s.pages, make([]*[bucketSize / 64]uint64, n+1-len(s.pages))...)
	}
	if s.pages[n] == nil {
		s.pages[n] = new([bucketSize / 64]uint64)
	}
	s.pages[n][id&(bucketSize-1)>>6] |= 1 << (id & 63)
}

func (s *idSet) remove(id ID) {
	if s.has(id) {
		s.pages[id>>bucketShift][id&(bucketSize-1)>>6] &^= 1 << (id & 63)
	}
}

func (s *idSet) count() (n int) {
	for _, p := range s.pages {
		if p != nil {
			for _, w := range p {
				n += bits.OnesCount64(w)
			}
		}
	}
	return n
}

func parseList(b []byte) ListID { return ListID(binary.BigEndian.Uint32(b)) }

func parseSeq(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// bucketOf is the number of the block of a list's members that a key names.
func bucketOf(key []byte) uint32 { return uint32(key[6])<<16 | uint32(key[7])<<8 | uint32(key[8]) }

// loadLists reads who is on a list.
func (s *Store) loadLists() error {
	prefix := []byte{spaceList, listDropped}
	err := s.scanPrefix(prefix, func(k, _ []byte) error {
		list := parseList(k[2:])
		s.lists.dropped[list] = struct{}{}
		s.lists.dropping = append(s.lists.dropping, list)
		return nil
	})
	if err != nil {
		return err
	}
	var ids []uint64
	return s.scanPrefix([]byte{spaceList, listMembers}, func(k, v []byte) (err error) {
		if s.lists.isDropped(parseList(k[2:])) {
			return nil
		}
		if ids, err = decodeBucket(v, bucketOf(k), ids[:0]); err != nil {
			return err
		}
		for _, id := range ids {
			s.lists.ids.add(ID(id))
		}
		return nil
	})
}

// validate reports what is wrong with an edit.
func (e *ListEdit) validate(schemes []string) error {
	change := len(e.Add) + len(e.Remove)
	switch {
	case change > MaxListEdit && len(e.Add) > 0:
		return &InvalidError{Item: min(len(e.Add)-1, MaxListEdit), Field: "add", Reason: "more than 10000 URIs are added and removed"}
	case change > MaxListEdit:
		return &InvalidError{Item: MaxListEdit, Field: "remove", Reason: "more than 10000 URIs are removed"}
	case len(e.Drop) > MaxListEdit:
		return &InvalidError{Item: MaxListEdit, Field: "drop", Reason: "more than 10000 lists are dropped"}
	case e.List == 0 && change > 0:
		return &InvalidError{Field: "list", Reason: "0 is no list"}
	}
	for i, list := range e.Drop {
		if list == 0 || list == e.List {
			return &InvalidError{Item: i, Field: "drop", Reason: "no list, or the one that is changed"}
		}
	}
	for i, uri := range e.Add {
		if err := CheckURI(uri, schemes...); err != nil {
			return &InvalidError{Item: i, Field: "add", Reason: err.Error()}
		}
		if reason := checkTicker(uri); reason != "" {
			return &InvalidError{Item: i, Field: "add", Reason: reason}
		}
	}
	for i, uri := range e.Remove {
		if err := CheckURI(uri, schemes...); err != nil {
			return &InvalidError{Item: i, Field: "remove", Reason: err.Error()}
		}
	}
	return nil
}

// takesAway reports whether the edit only makes room.
func (e *ListEdit) takesAway() bool { return len(e.Add) == 0 && e.Record == nil }

// EditList applies one edit: all of it or nothing, and durable when EditList
// returns nil. Edits are applied one at a time. Nothing of a list but its index
// is left behind when it is dropped; a list that was dropped is not edited again.
// An [InvalidError] names the URI that was refused, by its index in Add or Remove.
// What only takes away is done also on a disk that is nearly full; all else is a
// [NoSpaceError] there.
func (s *Store) EditList(ctx context.Context, e ListEdit) (ListResult, error) {
	if !e.takesAway() {
		if err := s.Room(); err != nil {
			return ListResult{}, err
		}
	}
	return s.editList(ctx, e, func(f func(t *txn)) (*request, error) { return s.submit(ctx, f) })
}

// editListNow is EditList without the loop.
func (s *Store) editListNow(now int64, e ListEdit) (ListResult, error) {
	return s.editList(context.Background(), e, func(f func(t *txn)) (*request, error) {
		r := &request{apply: f, done: make(chan error, 1)}
		return r, s.stepSync(now, []*request{r})
	})
}

// editList holds the right to edit from before it looks at the list until the
// edit is applied: then what it found out is still so.
func (s *Store) editList(ctx context.Context, e ListEdit, submit func(func(t *txn)) (*request, error)) (res ListResult, err error) {
	if err := e.validate(s.o.Schemes); err != nil {
		return res, err
	}
	for {
		select {
		case s.lists.editing <- struct{}{}:
		case <-s.stopped:
			return res, ErrClosed
		case <-ctx.Done():
			return res, ctx.Err()
		}
		c, err := s.prepareList(ctx, &e, submit)
		if err != nil {
			<-s.lists.editing
			return res, err
		}
		// Once it is submitted it may be applied although ctx has ended: the right to
		// edit is given back there.
		var got ListResult
		stale := false
		r, err := submit(func(t *txn) {
			defer func() { <-s.lists.editing }()
			if stale = c.collects != t.s.collects.Load(); !stale {
				got = t.editList(c)
			}
		})
		if err != nil {
			if r == nil {
				<-s.lists.editing
			}
			return res, err
		}
		if err := s.await(ctx, r); err != nil {
			return res, err
		}
		if !stale {
			return got, nil
		}
	}
}

// listChange is an edit with what could be found out beside the apply loop.
type listChange struct {
	*ListEdit
	collects uint64          // ids were looked up after so many had been given back …
	ended    uint64          // … and lists after so many of them had been forgotten
	add      []ID            // who is not on the list yet, ascending
	remove   []ID            // who is, ascending …
	others   []bool          // … and whether each is on another one
	ends     map[ListID]bool // those of Drop
}

// internAtOnce bounds the resources that get their id in one commit.
const internAtOnce = 1000

// prepareList gives ids to those without, in commits of their own: they do no
// harm if the edit fails, and go like other stubs that nobody names.
func (s *Store) prepareList(ctx context.Context, e *ListEdit, submit func(func(t *txn)) (*request, error)) (*listChange, error) {
	s.mu.RLock()
	c := &listChange{ListEdit: e, ends: map[ListID]bool{}, collects: s.collects.Load(), ended: s.lists.ended}
	dropped := s.lists.isDropped(e.List)
	s.mu.RUnlock()
	if dropped {
		return nil, &InvalidError{Field: "list", Reason: "it was dropped"}
	}
	for _, list := range e.Drop {
		c.ends[list] = true
	}
	add, unknown, err := s.lookupAll(e.Add)
	if err != nil {
		return nil, err
	}
	for part := range slices.Chunk(unknown, internAtOnce) {
		var ids []ID
		r, err := submit(func(t *txn) {
			for _, uri := range part {
				id := t.intern(uri)
				t.noteOrphan(id)
				ids = append(ids, id)
			}
		})
		if err == nil {
			err = s.await(ctx, r)
		}
		if err != nil {
			return nil, err
		}
		add = append(add, ids...)
	}
	remove, _, err := s.lookupAll(e.Remove)
	if err != nil {
		return nil, err
	}
	add, remove = sortedIDs(add), sortedIDs(remove)
	remove = slices.DeleteFunc(remove, func(id ID) bool {
		_, both := slices.BinarySearch(add, id)
		return both
	})
	return c, s.compareMembers(c, add, remove)
}

// lookupAll returns the ids of uris, and those that have none.
func (s *Store) lookupAll(uris []string) (ids []ID, unknown []string, err error) {
	ids = make([]ID, 0, len(uris))
	for _, uri := range uris {
		switch id, ok, err := s.lookup(uri); {
		case err != nil:
			return nil, nil, err
		case ok:
			ids = append(ids, id)
		default:
			unknown = append(unknown, uri)
		}
	}
	return ids, unknown, nil
}

func sortedIDs(ids []ID) []ID {
	slices.Sort(ids)
	return slices.Compact(ids)
}

// compareMembers finds out who of add and remove changes its place.
func (s *Store) compareMembers(c *listChange, add, remove []ID) error {
	if len(add)+len(remove) == 0 {
		return nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceList, listOf}, UpperBound: []byte{spaceList, listOf + 1}})
	if err != nil {
		return err
	}
	for _, id := range add {
		key := listedKey(id, c.List)
		if !it.SeekGE(key) || !slices.Equal(it.Key(), key) {
			c.add = append(c.add, id)
		}
	}
	for _, id := range remove {
		key := listedKey(id, c.List)
		if !it.SeekGE(key) || !slices.Equal(it.Key(), key) {
			continue
		}
		c.remove = append(c.remove, id)
		c.others = append(c.others, s.onOther(it, id, c))
	}
	return errors.Join(it.Error(), it.Close())
}

// onOther reports whether id is on a list beside the one that c changes and those
// that were dropped or are dropped with it.
func (s *Store) onOther(it *pebble.Iterator, id ID, c *listChange) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for ok := it.SeekGE(onKey(id)); ok && parseID(it.Key()[2:]) == id; ok = it.Next() {
		list := parseList(it.Key()[2+idSize:])
		if list != c.List && !s.lists.isDropped(list) && !c.ends[list] {
			return true
		}
	}
	return false
}

// editList applies an edit. What was open of the notices is of before it.
func (t *txn) editList(c *listChange) ListResult {
	t.flushNotices()
	defer t.listsMoved()
	l := &t.s.lists
	for _, list := range c.Drop {
		if !l.isDropped(list) {
			l.dropped[list] = struct{}{}
			l.dropping = append(l.dropping, list)
			check(t.b.Set(listKey(listDropped, list), binary.BigEndian.AppendUint64(nil, t.s.seq), nil))
		}
	}
	for _, id := range c.add {
		check(t.b.Set(listedKey(id, c.List), nil, nil))
		l.ids.add(id)
		l.known.Remove(id)
	}
	for i, id := range c.remove {
		check(t.b.Delete(listedKey(id, c.List), nil))
		l.known.Remove(id)
		if c.others[i] && c.ended != l.ended { // the other one may be one of those that ended
			t.listsMoved()
			c.others[i] = t.listed(id)
		}
		if !c.others[i] {
			t.unlisted(id)
		}
	}
	t.mergeMembers(c.List, c.add, true)
	t.mergeMembers(c.List, c.remove, false)
	res := ListResult{At: Cursor{t.s.epoch, t.s.seq}, Added: len(c.add), Removed: len(c.remove)}
	switch {
	case c.Key == "":
	case c.Record == nil:
		check(t.b.Delete(recordKey(c.Key), nil))
	default:
		check(t.b.Set(recordKey(c.Key), c.Record(res.At), nil))
	}
	return res
}

// unlisted notes that id is on no list any more.
func (t *txn) unlisted(id ID) {
	t.s.lists.ids.remove(id)
	if w := t.word(id); w.state() == Stub && !w.is(wordDependents) {
		t.noteOrphan(id)
	}
}

// mergeMembers adds ids, ascending, to the blocks of a list or removes them.
func (t *txn) mergeMembers(list ListID, ids []ID, add bool) {
	var ops []postingOp
	for i, id := range ids {
		ops = append(ops, postingOp{uint64(id & (bucketSize - 1)), add})
		if i+1 == len(ids) || ids[i+1]>>bucketShift != id>>bucketShift {
			t.buf = appendPostingOps(t.buf[:0], ops)
			check(t.b.Merge(membersKey(list, uint32(id>>bucketShift)), t.buf, nil))
			ops = ops[:0]
		}
	}
}

// forgetStep bounds the members of dropped lists, and the lists, that are
// forgotten in one commit.
const forgetStep = 1000

// forgetDropped forgets some of the members of the lists that were dropped.
func (t *txn) forgetDropped() {
	l := &t.s.lists
	for left := forgetStep; left > 0 && len(l.dropping) > 0; left-- {
		list := l.dropping[0]
		n, more := t.forgetMembers(list, left)
		left -= n
		if more {
			return
		}
		check(t.b.Delete(listKey(listDropped, list), nil))
		delete(l.dropped, list)
		l.dropping = l.dropping[1:]
		l.ended++
	}
}

// forgetMembers forgets up to limit members of a dropped list. More reports
// whether it has others.
func (t *txn) forgetMembers(list ListID, limit int) (n int, more bool) {
	prefix := listKey(listMembers, list)
	it := t.iter(prefix, after(prefix))
	var ids []ID
	var block []uint64
	for ok := it.First(); ok; ok = it.Next() {
		var err error
		block, err = decodeBucket(it.Value(), bucketOf(it.Key()), block[:0])
		check(err)
		if more = len(ids)+len(block) > limit; more {
			block = block[:limit-len(ids)]
		}
		for _, id := range block {
			ids = append(ids, ID(id))
		}
		if more {
			t.mergeMembers(list, ids[len(ids)-len(block):], false)
			break
		}
		check(t.b.Delete(slices.Clone(it.Key()), nil))
	}
	check(it.Error())
	check(it.Close())
	for _, id := range ids {
		check(t.b.Delete(listedKey(id, list), nil))
		t.s.lists.known.Remove(id)
	}
	t.listsMoved()
	t.unlistAll(ids)
	return len(ids), more
}

// unlistAll notes who of ids, ascending, is on no list any more.
func (t *txn) unlistAll(ids []ID) {
	for part := range slices.Chunk(ids, maxChunk) {
		for _, id := range part {
			t.s.lists.ids.add(id) // a list that was dropped before the last restart is not among them
		}
		lists := t.listsOf(part)
		for i, id := range part {
			if lists == nil || len(lists[i]) == 0 {
				t.unlisted(id)
			}
		}
	}
}

// Listed lists up to limit members of a list in the order the store first heard
// of them, strictly after a position ("" is the start). Next is where to go on,
// "" at the end. A list that does not exist has none.
func (s *Store) Listed(list ListID, after string, limit int) (uris []string, next string, err error) {
	limit = clampLimit(limit)
	from, err := s.position(after)
	if err != nil {
		return nil, "", err
	}
	var ids []ID
	err = s.eachMember(list, uint32((from+1)>>bucketShift), func(bucket uint32, block []byte) (bool, error) {
		members, err := decodeBucket(block, bucket, nil)
		i, _ := slices.BinarySearch(members, uint64(from)+1)
		for _, id := range members[i:] {
			ids = append(ids, ID(id))
		}
		return len(ids) <= limit, err
	})
	if err != nil {
		return nil, "", err
	}
	if len(ids) > limit {
		ids = ids[:limit]
		next = Cursor{s.epoch, uint64(ids[limit-1])}.String()
	}
	uris = make([]string, len(ids))
	for i, id := range ids {
		if uris[i], err = s.nameOf(id); err != nil {
			return nil, "", err
		}
	}
	return uris, next, nil
}

// CountListed counts the members of a list.
func (s *Store) CountListed(list ListID) (n int, err error) {
	err = s.eachMember(list, 0, func(_ uint32, block []byte) (bool, error) {
		members, err := postingCount(block)
		n += members
		return true, err
	})
	return n, err
}

// eachMember calls f with the blocks of a list's members, from a bucket on, until
// it returns false. A list that was dropped has none.
func (s *Store) eachMember(list ListID, bucket uint32, f func(bucket uint32, block []byte) (bool, error)) error {
	s.mu.RLock()
	dropped := s.lists.isDropped(list)
	s.mu.RUnlock()
	if dropped {
		return nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: membersKey(list, bucket), UpperBound: after(listKey(listMembers, list))})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		more, err := f(bucketOf(it.Key()), it.Value())
		if err != nil {
			return errors.Join(fmt.Errorf("list %d: %w", list, err), it.Close())
		}
		if !more {
			break
		}
	}
	return errors.Join(it.Error(), it.Close())
}
