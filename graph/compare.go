package graph

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
)

// Two hubs compare what the one wants to hear of with what the other has noted, and what
// the one has heard with what the other has: should messages, or a row of a store, have
// been lost in spite of all, it comes to light. Whoever depends asks; the owner answers.
// URIs fall into leaves by the beginning of their SHA-256, each side sums up its leaves,
// and only leaves whose sums differ are listed.

const (
	// Leaves is how many ranges there are at the bottom of a comparison: one for each of
	// the first four hex digits of the SHA-256 of a URI. The sums of all take 1 MiB.
	Leaves = 1 << 16
	// MaxLeaves bounds the leaves that are listed. Each page of a listing is a scan of all
	// that a peer wants, and one leaf of sixteen holds a sixteenth of it: of a million
	// resources 13 pages, and as many scans of a few seconds on each side. If more differ,
	// something has gone wrong at large, and to tell everything anew ([Store.Reregister])
	// is cheaper and surer.
	MaxLeaves = Leaves / 16
	// MaxEntries bounds the entries of one page: what both sides hold in memory, and the
	// ops that a page of a hostile owner can cause.
	MaxEntries = 5000
	// maxEntryBytes bounds the URIs of a page together, so that it fits into a message of
	// 1 MiB whatever their length. One URI always has room.
	maxEntryBytes = 512 << 10
)

// A Sum stands for what is in a range of URIs, in any order: the sums, modulo 2^64, of
// one hash for each URI that is wanted, and of one for each state that was heard in the
// epoch of the owner's store. It is zero for an empty range.
type Sum struct{ Interests, States uint64 }

func (a *Sum) add(b Sum) {
	a.Interests += b.Interests
	a.States += b.States
}

// A Horizon is how far one side of a comparison saw.
type Horizon struct {
	Epoch Epoch // of the owner's store; of a dependent the one it has met
	// Position is that of the newest level that the owner had given a number to, or up to
	// which the dependent had heard.
	Position uint64
}

// Sums are what one side has of the other at one moment. They are never changed.
type Sums struct {
	Horizon
	leaves [Leaves]Sum
}

// Of returns the sum of the URIs whose SHA-256 begins with up to four hex digits, in
// lower case; all of them if there are none.
func (s *Sums) Of(prefix string) (sum Sum, err error) {
	if len(prefix) > 4 {
		return Sum{}, fmt.Errorf("prefix %.20q: more than 4 hex digits", prefix)
	}
	from, n := 0, Leaves
	for _, c := range []byte(prefix) {
		digit := strings.IndexByte("0123456789abcdef", c)
		if digit < 0 {
			return Sum{}, fmt.Errorf("prefix %q: write hex digits in lower case", prefix)
		}
		n /= 16
		from += digit * n
	}
	for i := range s.leaves[from : from+n] {
		sum.add(s.leaves[from+i])
	}
	return sum, nil
}

// CompareEntry is one URI of a listing.
type CompareEntry struct {
	URI  string
	Sver uint64 // number of the level that the owner tells, or that was heard last
	// State is a hash of the content and of how often it changed; 0 if the resource was
	// not heard of in the epoch of the owner's store, and then Sver of a dependent is 0.
	State uint64
}

// agrees reports whether what two sides have of one URI is the same.
func (e *CompareEntry) agrees(o *CompareEntry) bool {
	return e.State == o.State && (e.State == 0 || e.Sver == o.Sver)
}

// ComparePage is a part of a listing, sorted by leaf and then by URI.
type ComparePage struct {
	Horizon
	Entries []CompareEntry
	More    bool // go on after the last URI
}

// InterestSums sums up what a peer wants to hear, and what this hub has of that. It reads
// all of it, beside everything else; all that it speaks of is durable.
func (s *Store) InterestSums(ctx context.Context, peer string) (*Sums, error) {
	return s.sums(ctx, peer, false)
}

// MirrorSums sums up what this hub wants to hear of a peer, and what it has heard. If both
// hubs are at rest they are the [Store.InterestSums] of the peer. Run [Store.AuditMirrors]
// first: they tell what there is, and not what there ought to be.
func (s *Store) MirrorSums(ctx context.Context, peer string) (*Sums, error) {
	return s.sums(ctx, peer, true)
}

func (s *Store) sums(ctx context.Context, peer string, mirrors bool) (*Sums, error) {
	sums, err := s.readSums(ctx, peer, mirrors)
	if err == nil {
		err = s.relieve(ctx, func(*txn) {}) // as of levels: what was read is durable when this is
	}
	if err != nil {
		return nil, err
	}
	return sums, nil
}

func (s *Store) readSums(ctx context.Context, peer string, mirrors bool) (sums *Sums, err error) {
	v, err := s.view(peer, mirrors)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.snap.Close()) }()
	sums = &Sums{Horizon: v.Horizon}
	err = v.each(ctx, nil, func(e *sighting) { sums.leaves[e.leaf].add(e.sum()) })
	return sums, err
}

// InterestEntries lists what a peer wants to hear in some leaves, at most [MaxLeaves],
// after a URI, "" for the first: up to limit entries, and no more than [MaxEntries]. A page
// is a scan of all that the peer wants, beside everything else; all that it speaks of is
// durable.
func (s *Store) InterestEntries(ctx context.Context, peer string, leaves []uint16, after string, limit int) (ComparePage, error) {
	return s.entries(ctx, peer, false, leaves, after, limit)
}

// MirrorEntries lists what this hub wants to hear of a peer likewise.
func (s *Store) MirrorEntries(ctx context.Context, peer string, leaves []uint16, after string, limit int) (ComparePage, error) {
	return s.entries(ctx, peer, true, leaves, after, limit)
}

func (s *Store) entries(ctx context.Context, peer string, mirrors bool, leaves []uint16, after string, limit int) (ComparePage, error) {
	in, err := newSpan(leaves, after)
	if err != nil {
		return ComparePage{}, err
	}
	page, err := s.readEntries(ctx, peer, mirrors, in, limit)
	if err == nil {
		err = s.relieve(ctx, func(*txn) {})
	}
	if err != nil {
		return ComparePage{}, err
	}
	return page, nil
}

func (s *Store) readEntries(ctx context.Context, peer string, mirrors bool, in *span, limit int) (page ComparePage, err error) {
	v, err := s.view(peer, mirrors)
	if err != nil {
		return page, err
	}
	defer func() { err = errors.Join(err, v.snap.Close()) }()
	l := earliest{limit: min(max(limit, 1), MaxEntries)}
	err = v.each(ctx, &in.leaves, func(e *sighting) {
		if k := (leafURI{e.leaf, string(e.uri)}); in.has(k) {
			l.take(listed{k, e.sver, e.state})
		}
	})
	page.Horizon, page.Entries, page.More = v.Horizon, l.sorted(), l.cut != nil
	return page, err
}

// leafURI is what listings are sorted by.
type leafURI struct {
	leaf uint16
	uri  string
}

func leafOf(uri string) leafURI {
	sum := sha256.Sum256([]byte(uri))
	return leafURI{binary.BigEndian.Uint16(sum[:]), uri}
}

func (k leafURI) compare(o leafURI) int {
	return cmp.Or(cmp.Compare(k.leaf, o.leaf), cmp.Compare(k.uri, o.uri))
}

// leafSet is a set of leaves.
type leafSet [Leaves / 64]uint64

func (l *leafSet) has(leaf uint16) bool { return l[leaf/64]>>(leaf%64)&1 != 0 }

// span is which URIs are listed: those of some leaves, after one and up to another.
type span struct {
	leaves      leafSet
	after, upTo *leafURI // nil = no bound
}

func newSpan(leaves []uint16, after string) (*span, error) {
	if len(leaves) > MaxLeaves {
		return nil, &InvalidError{Item: MaxLeaves, Field: "leaves", Reason: fmt.Sprintf("more than %d; have everything told anew", MaxLeaves)}
	}
	in := &span{}
	for _, leaf := range leaves {
		in.leaves[leaf/64] |= 1 << (leaf % 64)
	}
	in.from(after)
	return in, nil
}

// from has what is up to a URI left out; nothing if it is "".
func (in *span) from(after string) {
	if after != "" {
		k := leafOf(after)
		in.after = &k
	}
}

func (in *span) has(k leafURI) bool {
	return in.leaves.has(k.leaf) && (in.after == nil || k.compare(*in.after) > 0) && (in.upTo == nil || k.compare(*in.upTo) <= 0)
}

// earliest keeps the first of what is put into it in any order: a heap with the last of
// them on top.
type earliest struct {
	limit int
	kept  listedHeap
	bytes int
	cut   *leafURI // the first that found no room: nothing from there on is kept
}

type listed struct {
	leafURI
	sver, state uint64
}

type listedHeap []listed

func (h listedHeap) Len() int           { return len(h) }
func (h listedHeap) Less(i, j int) bool { return h[i].compare(h[j].leafURI) > 0 }
func (h listedHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *listedHeap) Push(x any)        { *h = append(*h, x.(listed)) }

func (h *listedHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (l *earliest) take(e listed) {
	if l.cut != nil && e.compare(*l.cut) >= 0 {
		return
	}
	heap.Push(&l.kept, e)
	l.bytes += len(e.uri)
	for len(l.kept) > l.limit || l.bytes > maxEntryBytes && len(l.kept) > 1 {
		out := heap.Pop(&l.kept).(listed)
		l.bytes -= len(out.uri)
		l.cut = &out.leafURI
	}
}

func (l *earliest) sorted() []CompareEntry {
	slices.SortFunc(l.kept, func(a, b listed) int { return a.compare(b.leafURI) })
	out := make([]CompareEntry, len(l.kept))
	for i, e := range l.kept {
		out[i] = CompareEntry{e.uri, e.sver, e.state}
	}
	return out
}

// view is one side of a comparison at one moment.
type view struct {
	Horizon
	snap    *pebble.Snapshot
	p       PeerID
	mirrors bool // what this hub has of the peer, and not what the peer wants
	client  client
	count   int64 // mirrors that there are said to be
}

// view takes a snapshot, and notes how far it reaches: nothing moves between the two.
func (s *Store) view(peer string, mirrors bool) (*view, error) {
	v := &view{p: s.authority.Load().numbers[peer], mirrors: mirrors}
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.peers.sessions[v.p]
	if c == nil {
		return nil, fmt.Errorf("peer %q: %w", peer, ErrUnknown)
	}
	v.Horizon = Horizon{s.epoch, s.peers.level}
	if mirrors {
		v.Horizon, v.count = Horizon{c.owner, c.position}, c.mirrors
	}
	if c := s.peers.clients[v.p]; c != nil {
		v.client = *c
	}
	v.snap = s.db.NewSnapshot()
	return v, nil
}

// sighting is what one side has of one URI. It is valid until the next.
type sighting struct {
	id    ID
	leaf  uint16
	uri   []byte
	name  uint64 // eight other bytes of the SHA-256 of the URI
	row   *row   // as much of it as is told
	sver  uint64
	state uint64 // see [CompareEntry]
	told  uint64 // at the owner: digest of the level that is told
}

func (e *sighting) sum() Sum {
	if e.state == 0 {
		return Sum{Interests: e.name}
	}
	b := make([]byte, 0, 24)
	for _, n := range []uint64{e.name, e.sver, e.state} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return Sum{e.name, xxhash.Sum64(b)}
}

// stateHash is what both sides make of a state; never 0. Hubs of other versions compute
// it too: its bytes are for ever. What is unsettled is left out, because a dependent
// settles for itself what a silent owner left so.
func stateHash(known bool, cver uint64, version, hash string) uint64 {
	b := append(make([]byte, 0, 128), oneIf(known))
	b = appendText(appendText(binary.AppendUvarint(b, cver), version), hash)
	return max(1, xxhash.Sum64(b))
}

// each calls f with all that there is in some leaves, nil for all, in the order of ids, so
// that names and rows are read beside it in one go. What has no name is passed over: the
// audits see to it.
func (v *view) each(ctx context.Context, leaves *leafSet, f func(e *sighting)) error {
	names, err := v.iter([]byte{spaceName})
	if err != nil {
		return err
	}
	rows, err := v.iter([]byte{spaceRow})
	if err != nil {
		return errors.Join(err, names.Close())
	}
	var e sighting
	var r row
	err = v.ids(ctx, func(id ID, value []byte) error {
		if !seek(names, spaceName, id) {
			return names.Error()
		}
		r = row{id: id}
		e = sighting{id: id, uri: names.Value(), row: &r}
		digest := sha256.Sum256(e.uri)
		e.leaf, e.name = binary.BigEndian.Uint16(digest[:]), binary.BigEndian.Uint64(digest[8:])
		if leaves != nil && !leaves.has(e.leaf) {
			return nil
		}
		if seek(rows, spaceRow, id) {
			if err := r.decodeTold(rows.Value()); err != nil {
				return err
			}
		}
		if err := v.look(&e, value); err != nil {
			return fmt.Errorf("resource %d: %w", id, err)
		}
		f(&e)
		return rows.Error()
	})
	return errors.Join(err, names.Close(), rows.Close())
}

// ids calls f with each resource and the row of the peer.
func (v *view) ids(ctx context.Context, f func(id ID, value []byte) error) error {
	prefix := []byte{spacePeer, peerInterest}
	if v.mirrors {
		prefix = peerKey(peerMirror, v.p)
	}
	it, err := v.iter(prefix)
	if err != nil {
		return err
	}
	n := 0
	for it.First(); it.Valid() && err == nil; it.Next() {
		if n++; n%lookEvery == 0 {
			err = ctx.Err()
		}
		id, ok := ID(0), false
		if v.mirrors {
			id, ok = mirrorOf(it.Key())
		} else {
			id, ok = interestOf(it.Key(), v.p)
		}
		if ok && err == nil {
			err = f(id, it.Value())
		}
	}
	return errors.Join(err, it.Error(), it.Close())
}

func (v *view) iter(prefix []byte) (*pebble.Iterator, error) {
	return v.snap.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
}

// mirrorOf reads the resource from the key of a mirror.
func mirrorOf(key []byte) (ID, bool) {
	if len(key) != 6+idSize {
		return 0, false
	}
	return parseID(key[6:]), true
}

// interestOf reads the resource from the key of an interest, false if it is not that of p.
func interestOf(key []byte, p PeerID) (ID, bool) {
	if len(key) != 2+idSize+4 {
		return 0, false
	}
	return parseID(key[2:]), PeerID(binary.BigEndian.Uint32(key[2+idSize:])) == p
}

// seek moves an iterator over a space forward to id, and reports whether it is there.
func seek(it *pebble.Iterator, space byte, id ID) bool {
	key := idKey(space, id)
	return it.SeekGE(key) && bytes.Equal(it.Key(), key)
}

// look takes over what the row of the peer says.
func (v *view) look(e *sighting, value []byte) error {
	if v.mirrors {
		m, err := decodeMirror(value)
		e.sver, e.state = m.heard(v.Epoch, e.row)
		return err
	}
	i, err := decodeInterest(value)
	e.sver, e.told = i.sver, i.digest
	// What there is counts, and not the digest of what was told.
	if l := levelOf(e.row, 0); l.Heard {
		e.state = stateHash(l.Known, l.Cver, l.Version, l.Hash)
	}
	return err
}

// heard is what a mirror with this row has heard in the epoch of its owner; zeros if
// nothing.
func (m *mirror) heard(owner Epoch, r *row) (sver, state uint64) {
	if m.epoch == 0 || m.epoch != owner || !r.is(rowHeard) {
		return 0, 0
	}
	return m.sver, stateHash(r.is(rowKnown), m.cver, r.version, r.hash)
}

// decodeTold reads of a row what levelOf looks at, but for the time of its change, which
// goes with the count: dependencies, which may be many, are left alone.
func (r *row) decodeTold(b []byte) error {
	d := decoder{b: b}
	for d.next(fieldChanged) {
		switch d.tag {
		case fieldFlags:
			r.flags = rowFlags(d.uvarint())
		case fieldType:
			r.typ = d.text()
		case fieldVersion:
			r.version = d.text()
		case fieldHash:
			r.hash = d.text()
		case fieldAliases:
			r.aliases = d.texts()
		case fieldChanged:
			r.changed = d.uvarint()
		default:
			d.skipField()
		}
	}
	if d.bad {
		return fmt.Errorf("%w: resource %d, field %d", errRow, r.id, d.tag)
	}
	return nil
}

// mending is what one URI needs.
type mending uint8

const (
	mendNothing mending = iota
	mendAdd             // the owner does not know that we want it
	mendDrop            // … or that we do not
	// The number of the level is not what it should be. How often the content changed
	// still tells what was missed.
	mendNumber
	// Content, or how often it changed, is not what it should be: numbers tell nothing.
	mendAnew
)

// need decides what a URI needs of which the owner has there, nil for nothing, and this
// hub has here, nil for no mirror. Asked and answered are how far this hub had heard before
// it asked, and the owner when it answered; heard is how far this hub has now.
//
// What is on its way is no difference. What the owner told by a number up to asked had been
// given and heard before it answered, so that what it says of it is no older than what this
// hub has; and what was given later has a number above answered.
func need(here, there *CompareEntry, asked, answered, heard uint64) mending {
	switch {
	case there == nil && here == nil:
		return mendNothing
	case there == nil:
		return mendAdd
	case here == nil:
		return mendDrop
	case here.agrees(there), there.Sver > asked: // it is yet to be heard
		return mendNothing
	case here.State != 0 && here.Sver > answered && here.Sver <= heard:
		return mendNothing // it was heard since
	case here.State != 0 && there.State != 0 && here.Sver != there.Sver:
		return mendNumber
	}
	return mendAnew
}

// MendInterests makes good what differs from a page of the owner's [Store.InterestEntries]
// of these leaves after a URI, and returns how many that were: it asks for what the
// owner does not tell, gives up what nobody here wants, and has anew what is not what it
// should be. What is wrong with the owner's own rows [Store.AuditInterests] mends there, and
// [Store.AuditMirrors] what ought to be a mirror here; call them first. Asked is the
// horizon of the [Store.MirrorSums] that were taken before the owner was asked. An
// [EpochError] says that the owner's store is another than then, an [InvalidError] that the
// page is not what was asked for. A position that the owner cannot have told is mended too,
// also with no leaves; who reads the owner's levels goes on from [Session].Position then.
func (s *Store) MendInterests(ctx context.Context, peer string, asked Horizon, leaves []uint16, after string, page ComparePage) (mended int, err error) {
	in, err := newSpan(leaves, after)
	if err != nil {
		return 0, err
	}
	if err := s.checkPage(in, &page); err != nil {
		return 0, err
	}
	if asked.Epoch != page.Epoch {
		return 0, &EpochError{Has: asked.Epoch, Got: page.Epoch}
	}
	if page.More {
		k := leafOf(page.Entries[len(page.Entries)-1].URI)
		in.upTo = &k
	}
	r := &reconciler{s: s, peer: peer, p: s.authority.Load().numbers[peer], asked: asked, answered: page.Horizon}
	if err := r.commit(ctx, nil); err != nil {
		return 0, err
	}
	for theirs, more := page.Entries, len(leaves) > 0; more; {
		ours, err := s.readEntries(ctx, peer, true, in, MaxEntries)
		if err != nil {
			return r.mended, err
		}
		n := len(theirs)
		if more = ours.More; more {
			last := ours.Entries[len(ours.Entries)-1].URI
			in.from(last)
			n, _ = slices.BinarySearchFunc(theirs, *in.after, func(e CompareEntry, k leafURI) int { return cmp.Or(leafOf(e.URI).compare(k), -1) })
		}
		for part := range slices.Chunk(differences(ours.Entries, theirs[:n]), auditStep) {
			if err := r.commit(ctx, part); err != nil {
				return r.mended, err
			}
		}
		theirs = theirs[n:]
	}
	return r.mended, nil
}

// checkPage reports what is wrong with a page that a peer sent: whatever it says must not
// become an op that the peer refuses, or one for each of any number of URIs.
func (s *Store) checkPage(in *span, page *ComparePage) error {
	switch {
	case len(page.Entries) > MaxEntries:
		return &InvalidError{Item: MaxEntries, Field: "entries", Reason: fmt.Sprintf("more than %d", MaxEntries)}
	case page.Position > maxLevel:
		return &InvalidError{Field: "position", Reason: "more than 2^62"}
	case page.More && len(page.Entries) == 0:
		return &InvalidError{Field: "entries", Reason: "there are more, and there are none"}
	}
	var last *leafURI
	for i := range page.Entries {
		e := &page.Entries[i]
		k := leafOf(e.URI)
		switch {
		case CheckURI(e.URI, s.o.Schemes...) != nil:
			return &InvalidError{Item: i, Field: "uri", Reason: CheckURI(e.URI, s.o.Schemes...).Error()}
		case !in.has(k) || last != nil && k.compare(*last) <= 0:
			return &InvalidError{Item: i, Field: "uri", Reason: "it was not asked for, or is not in its place"}
		case e.Sver > maxLevel:
			return &InvalidError{Item: i, Field: "sver", Reason: "more than 2^62"}
		}
		last = &k
	}
	return nil
}

// difference is a URI of which two sides do not have the same; nil is nothing.
type difference struct{ here, there *CompareEntry }

func (d *difference) uri() string {
	if d.there != nil {
		return d.there.URI
	}
	return d.here.URI
}

// differences goes through two sorted listings.
func differences(here, there []CompareEntry) (out []difference) {
	for i, j := 0, 0; i < len(here) || j < len(there); {
		order := 0
		switch {
		case i == len(here):
			order = 1
		case j == len(there):
			order = -1
		default:
			order = leafOf(here[i].URI).compare(leafOf(there[j].URI))
		}
		d := difference{}
		if order <= 0 {
			d.here = &here[i]
			i++
		}
		if order >= 0 {
			d.there = &there[j]
			j++
		}
		if order != 0 || !d.here.agrees(d.there) {
			out = append(out, d)
		}
	}
	return out
}

// reconciler mends what differs from one page.
type reconciler struct {
	s               *Store
	peer            string
	p               PeerID
	asked, answered Horizon
	mended          int
}

// commit looks at some differences once more, as things are now, and mends what still is
// one; with none it looks at the position.
func (r *reconciler) commit(ctx context.Context, part []difference) error {
	var refused error
	n := 0
	err := r.s.relieve(ctx, func(t *txn) { n, refused = r.mendAll(t, part) })
	if err != nil {
		return err
	}
	r.mended += n
	return refused
}

func (r *reconciler) mendAll(t *txn, part []difference) (mended int, err error) {
	if t.s.peers.sessions[r.p] == nil {
		return 0, fmt.Errorf("peer %q: %w", r.peer, ErrUnknown)
	}
	c := t.session(r.p)
	if c.owner != r.answered.Epoch {
		return 0, &EpochError{Has: c.owner, Got: r.answered.Epoch}
	}
	if len(part) == 0 {
		return r.mendPosition(t, c), nil
	}
	if c.taken == 0 && (c.last > 0 || c.covered != allIDs) {
		return 0, nil // the owner is yet to hear of this generation, which tells all anew
	}
	pending := t.pendingOps(r.p, c)
	for i := range part {
		if r.mend(t, c, &part[i], pending) {
			mended++
		}
	}
	return mended, nil
}

// mendPosition goes back to where the owner is, if it has given no such number: what it
// gives from now on would not be heard.
func (r *reconciler) mendPosition(t *txn, c *session) (mended int) {
	if r.asked.Position <= r.answered.Position || c.position <= r.answered.Position {
		return 0
	}
	c.position = r.answered.Position
	t.keep(r.p, c)
	return 1
}

// pendingOps are the URIs of what the owner has yet to take, up to [MaxOps]: they differ
// for now. One that is beyond, or was taken since the owner answered, may be mended for
// nothing. That is harmless, as ops say in their order what is wanted, and a level that is
// told again is heard as what it is.
func (t *txn) pendingOps(p PeerID, c *session) map[string]bool {
	pending := map[string]bool{}
	prefix := peerKey(peerOp, p)
	it := t.iter(peerSeqKey(peerOp, p, c.taken+1), after(prefix))
	for it.First(); it.Valid() && len(pending) < MaxOps; it.Next() {
		added, uri, err := decodeOp(it.Value())
		check(err)
		if uri == "" {
			name, _ := t.get(idKey(spaceName, added))
			uri = string(name)
		}
		pending[uri] = true
	}
	check(errors.Join(it.Error(), it.Close()))
	return pending
}

// mend mends one difference, if it still is one.
func (r *reconciler) mend(t *txn, c *session, d *difference, pending map[string]bool) bool {
	uri := d.uri()
	if pending[uri] {
		return false
	}
	var here *CompareEntry
	var m mirror
	id, ok := t.find(uri)
	if v, has := t.get(mirrorKey(r.p, id)); ok && has {
		var err error
		m, err = decodeMirror(v)
		check(err)
		here = &CompareEntry{URI: uri}
		here.Sver, here.State = m.heard(c.owner, t.row(id))
	}
	switch need(here, d.there, r.asked.Position, r.answered.Position, c.position) {
	case mendNothing:
		return false
	case mendDrop:
		t.tellDrop(r.p, uri)
		return true
	case mendNumber:
		m.sver = r.answered.Position // what is told from now on is above it, and all before is old
		check(t.b.Set(mirrorKey(r.p, id), m.append(nil), nil))
	case mendAnew:
		m.epoch = 0
		check(t.b.Set(mirrorKey(r.p, id), m.append(nil), nil))
	}
	if id > c.covered {
		return false // it is yet to be asked for
	}
	t.tellAdd(r.p, id)
	return true
}

// AuditInterests looks at each resource that a peer wants to hear, and at each level that
// is to be told it: those that do not fit each other, or are not of what the resource is,
// are told anew. It returns how many that were, and one more if their count was wrong. It
// goes through all of them beside everything else; the apply loop looks at what seems
// wrong.
func (s *Store) AuditInterests(ctx context.Context, peer string) (mended int, err error) {
	l, err := s.lookAtInterests(ctx, peer)
	if err != nil {
		return 0, err
	}
	if l.misfit || len(l.doubts) > auditStep {
		if mended, err = s.auditInterests(ctx, l.p); err != nil {
			return mended, err
		}
		if l, err = s.lookAtInterests(ctx, peer); err != nil {
			return mended, err
		}
	}
	if len(l.doubts) == 0 && l.count == l.client.interests {
		return mended, nil
	}
	n := 0
	err = s.relieve(ctx, func(t *txn) {
		n = 0
		for _, id := range l.doubts[:min(len(l.doubts), auditStep)] {
			if t.auditInterest(l.p, id) {
				n++
			}
		}
		// What came and went since moved both alike, unless the peer began anew.
		c := t.s.peers.clients[l.p]
		if c != nil && c.epoch == l.client.epoch && c.generation == l.client.generation && l.count != l.client.interests {
			c.interests += l.count - l.client.interests
			t.keepClient(l.p, c)
			n++
		}
	})
	return mended + n, err
}

// interestLook is what there is to see of the interests of a peer without the apply loop.
type interestLook struct {
	p      PeerID
	client client
	count  int64 // interests there are
	// misfit is whether interests and levels do not belong to each other.
	misfit bool
	doubts []ID // told something else, it seems; at most auditStep and one
}

func (s *Store) lookAtInterests(ctx context.Context, peer string) (l interestLook, err error) {
	v, err := s.view(peer, false)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, v.snap.Close()) }()
	l.p, l.client = v.p, v.client
	var pairs uint64 // each id and number is added once as an interest and taken away once as a level
	err = v.each(ctx, nil, func(e *sighting) {
		l.count++
		pairs += digestOf(uint64(e.id), e.sver)
		s.mu.RLock()
		w, wanted := s.col.get(e.id), s.peers.exports.has(e.id)
		s.mu.RUnlock()
		if level := levelOf(e.row, w); (!wanted || level.digest() != e.told) && len(l.doubts) <= auditStep {
			l.doubts = append(l.doubts, e.id)
		}
	})
	if err != nil {
		return l, err
	}
	levels := peerKey(peerLevel, v.p)
	it, err := v.iter(levels)
	if err != nil {
		return l, err
	}
	n := 0
	for it.First(); it.Valid() && err == nil; it.Next() {
		if n++; n%lookEvery == 0 {
			err = ctx.Err()
		}
		sver := parseSeq(it.Key()[len(levels):])
		l.misfit = l.misfit || len(it.Value()) != idSize || sver > v.Position
		if len(it.Value()) == idSize {
			pairs -= digestOf(uint64(parseID(it.Value())), sver)
		}
	}
	l.misfit = l.misfit || pairs != 0
	return l, errors.Join(err, it.Error(), it.Close())
}

// auditInterests looks at all levels and interests of a peer in the apply loop.
func (s *Store) auditInterests(ctx context.Context, p PeerID) (mended int, err error) {
	levels := peerKey(peerLevel, p)
	mended, err = s.auditKeys(ctx, levels, after(levels), func(t *txn, key, _ []byte) bool { return t.auditLevel(p, key) })
	if err != nil {
		return mended, err
	}
	all := []byte{spacePeer, peerInterest}
	n, err := s.auditKeys(ctx, all, after(all), func(t *txn, key, _ []byte) bool {
		id, ok := interestOf(key, p)
		return ok && t.auditInterest(p, id)
	})
	return mended + n, err
}

// auditLevel: a level belongs to an interest of that number. If there is none in its
// resource, the one that was is lost.
func (t *txn) auditLevel(p PeerID, key []byte) (mended bool) {
	v, ok := t.get(key)
	if !ok {
		return false // it has moved
	}
	sver := parseSeq(key[6:])
	if len(v) != idSize {
		check(t.b.Delete(key, nil))
		return true
	}
	id := parseID(v)
	i, has := t.interest(p, id)
	if has && i.sver == sver && sver <= maxLevel {
		if sver <= t.s.peers.level {
			return false
		}
		t.s.peers.level, t.told = sver, true // numbers are never given twice
		return true
	}
	check(t.b.Delete(key, nil))
	if _, named := t.get(idKey(spaceName, id)); !has && named && t.s.peers.clients[p] != nil {
		t.s.peers.exports.add(id)
		t.tellOne(p, id, t.levelDigest(id))
	}
	return true
}

// auditInterest: an interest has a level, of what its resource is.
func (t *txn) auditInterest(p PeerID, id ID) (mended bool) {
	i, has := t.interest(p, id)
	if !has {
		return false
	}
	level := peerSeqKey(peerLevel, p, i.sver)
	v, told := t.get(level)
	told = told && len(v) == idSize && parseID(v) == id
	digest := t.levelDigest(id)
	_, named := t.get(idKey(spaceName, id))
	if told && named && i.digest == digest && t.s.peers.exports.has(id) {
		return false
	}
	if told {
		check(t.b.Delete(level, nil))
	}
	if !named {
		check(t.b.Delete(interestKey(id, p), nil))
		t.s.peers.exports.remove(id)
		return true
	}
	t.s.peers.exports.add(id)
	t.tellOne(p, id, digest)
	return true
}
