package graph

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"
)

// txn builds one commit: what one or more requests, a step of a job or a set of
// due timers do to the store. Nothing of it can be refused once it has begun;
// a store that cannot be read or written ends the process (see fault).
type txn struct {
	s   *Store
	b   *pebble.Batch
	now int64 // µs; never decreases from txn to txn

	rows     map[ID]*row         // rows that differ from the store
	interned map[string]ID       // URIs given an id in this commit
	accepted map[seenID]struct{} // idempotency keys written in this commit

	open     chunk            // notices not yet written
	chunks   []chunk          // written, to be published once durable
	waiting  []timer          // not yet written
	settled  []ID             // left the unsettled set; their dependents may go on
	fresh    []*job           // begun in this request
	unneeded []ID             // of a collected type, and nobody depends on them any more
	trimmed  uint64           // the journal up to it was dropped
	on       *pebble.Iterator // over the lists of resources, for all of the txn
	sessions []PeerID         // with these peers moved
	emitted  int              // notices, also those that wait
	opsMoved bool             // a peer is to be told something
	told     bool             // a level moved
	flipped  []ID             // began or ceased to be unsettled
	by       *account         // of whoever sent the updates that are being applied, nil if there is none
	// Whose type or buckets are others now.
	relabelled []ID
	buf        []byte

	// Who among the resources from … to may depend on something unsettled, as of
	// a generation of the column's inner set; nil when that is not known.
	waiters                *roaring64.Bitmap
	waitersGen             uint64
	waitersFrom, waitersTo ID
}

// cause says which update led to a notice.
type cause struct {
	id  ID
	seq uint64
	uid string
	at  int64
}

// fault carries an error of our own store out of a txn. Applying is arithmetic
// on what the store holds: when that cannot be read there is no half-way.
type fault struct{ err error }

func check(err error) {
	if err != nil {
		panic(fault{err})
	}
}

func (s *Store) begin(now int64) *txn {
	s.now = max(s.now, now)
	return &txn{s: s, b: s.db.NewIndexedBatch(), now: s.now, rows: map[ID]*row{}}
}

// finish writes what the txn still holds in memory into its batch.
func (t *txn) finish() {
	t.flushNotices()
	t.listsMoved()
	t.flushTimers()
	t.flushAccounts()
	t.tellLevels()
	t.flushSessions()
	ids := make([]ID, 0, len(t.rows))
	for id := range t.rows {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		r := t.rows[id]
		t.buf = r.append(t.buf[:0])
		check(t.b.Set(idKey(spaceRow, id), t.buf, nil))
		r.touched = false
		if !r.small() {
			t.s.rows.Remove(id)
		}
	}
	t.s.col.eachPending(func(n uint32, p *page, ops []pageOp) {
		t.buf = appendPageOps(t.buf[:0], ops)
		check(t.b.Merge(pageKey(n), t.buf, nil))
	})
}

func (t *txn) get(key []byte) ([]byte, bool) {
	v, closer, err := t.b.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false
	}
	check(err)
	v = slices.Clone(v)
	check(closer.Close())
	return v, true
}

// row returns what the store remembers of id; the caller does not change it.
func (t *txn) row(id ID) *row {
	if r, ok := t.s.rows.Get(id); ok {
		return r
	}
	r, ok := t.rows[id]
	if !ok {
		var err error
		r, err = readRow(t.s.db, id)
		check(err)
	}
	if r.small() {
		t.s.rows.Add(id, r)
	}
	return r
}

// edit returns the row of id to be changed; it is written with the txn.
func (t *txn) edit(id ID) *row {
	r := t.row(id)
	if !r.touched {
		r.touched = true
		t.rows[id] = r
	}
	return r
}

func (t *txn) word(id ID) word { return t.s.col.get(id) }

// put stores a word and remembers who left the unsettled set.
func (t *txn) put(id ID, w word) {
	old := t.word(id)
	t.s.col.put(id, w)
	if old.unsettled() == w.unsettled() {
		return
	}
	if !w.unsettled() && w.is(wordDependents) {
		t.settled = append(t.settled, id)
	}
	if t.s.peers.exports.has(id) {
		t.flipped = append(t.flipped, id)
	}
}

// intern returns the id of uri, giving it one if it has none.
func (t *txn) intern(uri string) ID {
	if id, ok := t.interned[uri]; ok {
		return id
	}
	id, ok, err := t.s.lookup(uri)
	check(err)
	if ok {
		return id
	}
	if n := len(t.s.free); n > 0 {
		id, t.s.free = t.s.free[n-1], t.s.free[:n-1]
		check(t.b.Delete(idKey(spaceFree, id), nil))
	} else {
		id = t.s.nextID
		t.s.nextID++
	}
	check(t.b.Set(uriKey(uri), appendID(nil, id), nil))
	check(t.b.Set(idKey(spaceName, id), []byte(uri), nil))
	if t.interned == nil {
		t.interned = map[string]ID{}
	}
	t.interned[uri] = id
	t.s.interned.Add(1)
	t.s.col.counts[Stub]++
	if strings.HasPrefix(uri, "ticker:") {
		t.edit(id).typ = typeTicker
		t.relabelled = append(t.relabelled, id)
	}
	return id
}

// uri returns the name of id.
func (t *txn) uri(id ID) string {
	v, ok := t.get(idKey(spaceName, id))
	if !ok {
		check(fmt.Errorf("resource %d has no name", id))
	}
	return string(v)
}

// find returns the id of uri if it has one, also one given in this commit.
func (t *txn) find(uri string) (ID, bool) {
	if id, ok := t.interned[uri]; ok {
		return id, true
	}
	id, ok, err := t.s.lookup(uri)
	check(err)
	return id, ok
}

// notice adds one to the open chunk, or begins another: all notices of a chunk
// share everything but the resource, and stand in id order.
func (t *txn) notice(id ID, head chunk) {
	o := &t.open
	if n := len(o.ids); n == 0 || n == maxChunk || id <= o.ids[n-1] || !o.sameHead(&head) {
		t.flushNotices()
		head.at = t.now
		*o = head
	}
	o.ids = append(o.ids, id)
	t.emitted++
}

// sameHead reports whether notices of c and d may share a chunk.
func (c *chunk) sameHead(d *chunk) bool {
	return c.kind == d.kind && c.reason == d.reason && c.rule == d.rule && c.lane == d.lane &&
		c.change == d.change && c.attempt == d.attempt && c.cause == d.cause && c.causeSeq == d.causeSeq &&
		c.causeID == d.causeID && c.causeAt == d.causeAt && c.version == d.version && c.hash == d.hash
}

// flushNotices writes the open chunk, in parts if it bears very many marks.
func (t *txn) flushNotices() {
	if len(t.open.ids) == 0 {
		return
	}
	c := t.open
	t.open = chunk{}
	lists := t.listsOf(c.ids)
	for ids := c.ids; len(ids) > 0; {
		n := len(ids)
		if lists != nil {
			n = markable(lists)
			c.marks = marksOf(lists[:n])
			lists = lists[n:]
		}
		c.ids, ids = ids[:n:n], ids[n:]
		t.writeChunk(c)
	}
}

func (t *txn) writeChunk(c chunk) {
	c.first = t.s.seq + 1
	t.s.seq += uint64(len(c.ids))
	t.buf = c.append(t.buf[:0])
	check(t.b.Set(seqKey(spaceJournal, c.first), t.buf, nil))
	for i := range c.marks {
		check(t.b.Set(markedKey(c.marks[i].list, c.first), nil, nil))
	}
	t.chunks = append(t.chunks, c)
	if c.kind == KindRefresh && len(t.s.work) > 0 && !t.s.o.Observe {
		t.later(t.now+t.s.retryDelay(int(c.attempt), c.first), timer{kind: timerRetry, ref: c.first,
			chunk: chunk{kind: KindRefresh, attempt: c.attempt, ids: c.ids[:1]}})
	}
}

// changed writes the notice of a change of id and returns its position.
func (t *txn) changed(id ID, head chunk) uint64 {
	t.flushNotices()
	head.kind = KindChanged
	if head.cause == id && head.causeSeq == 0 {
		head.causeSeq = t.s.seq + 1
	}
	t.notice(id, head)
	t.flushNotices()
	return t.s.seq
}

func (t *txn) iter(from, to []byte) *pebble.Iterator {
	it, err := t.b.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	check(err)
	return it
}
