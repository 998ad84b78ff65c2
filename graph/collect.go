package graph

import (
	"encoding/binary"
	"slices"
	"time"
)

// orphanStep bounds the resources looked at for collection in one commit.
const orphanStep = 1000

// orphaned notes that nobody may depend on x any more. A collected type goes at
// once; a stub after keepID, if it still is one.
func (t *txn) orphaned(x ID) {
	if len(t.s.collect) > 0 && t.s.collect[t.row(x).typ] {
		t.unneeded = append(t.unneeded, x)
	}
	t.noteOrphan(x)
}

// orphanDay is what notes are rounded to, so that a resource whose edges come and
// go has few of them.
const orphanDay = 24 * time.Hour

// orphanDue is when who is noted now is looked at, µs.
func orphanDue(now int64) int64 {
	day := orphanDay.Microseconds()
	return (now + keepID.Microseconds() + day) / day * day
}

// noteOrphan has x looked at for collection after keepID.
func (t *txn) noteOrphan(x ID) { check(t.b.Set(orphanKey(orphanDue(t.now), x), nil, nil)) }

// collect forgets stubs that nobody has named for keepID and that no kept chunk
// of the journal names. Their ids are free.
func (t *txn) collect() {
	it := t.iter([]byte{spaceOrphan}, seqKey(spaceOrphan, uint64(t.now)))
	type candidate struct {
		key []byte
		id  ID
	}
	var due []candidate
	for it.First(); it.Valid() && len(due) < orphanStep; it.Next() {
		due = append(due, candidate{slices.Clone(it.Key()), parseID(it.Key()[9:])})
	}
	check(it.Error())
	check(it.Close())
	for _, c := range due {
		check(t.b.Delete(c.key, nil))
		since := int64(binary.BigEndian.Uint64(c.key[1:])) - (keepID + orphanDay).Microseconds()
		if _, named := t.get(idKey(spaceName, c.id)); named { // a store of an earlier program may have noted it twice
			t.collectOne(c.id, since)
		}
	}
}

// notedSince reports whether x is to be looked at again later. Without it x would
// be forgotten less than keepID after it was last named, and its id, free or
// another's by then, would be looked at once more.
func (t *txn) notedSince(since int64, x ID) bool {
	last := orphanDue(t.now)
	for due := orphanDue(since); due <= last; due += orphanDay.Microseconds() {
		if _, ok := t.get(orphanKey(due, x)); ok {
			return true
		}
	}
	return false
}

// collectOne forgets id if nobody named it since a time. Who was noted more than
// once has its turn at the last of them.
func (t *txn) collectOne(id ID, since int64) {
	w := t.word(id)
	if w.is(wordHot) && t.countDependents(id) == 0 {
		check(t.b.DeleteRange(idKey(spacePosting, id), after(idKey(spacePosting, id)), nil))
		t.put(id, w.with(wordHot|wordDependents, false))
		t.lastDependent(id)
		w = t.word(id)
	}
	r := t.row(id)
	if w.state() != Stub || w.is(wordDependents) || r.is(rowKnown) || t.listed(id) || t.s.peers.exports.has(id) {
		return // in use again; when it becomes an orphan again it is noted again
	}
	if r.ndeps > 0 || r.is(rowArmed) || r.changed > t.s.trimmedTo() || t.keptSince(since) {
		t.noteOrphan(id) // it has edges, a ticker's timer, or the journal names it or may
		return
	}
	if t.notedSince(since, id) {
		return
	}
	uri := t.uri(id)
	t.own(r, nil)
	for _, key := range [][]byte{uriKey(uri), idKey(spaceName, id), idKey(spaceRow, id), idKey(spacePosting, id)} {
		check(t.b.Delete(key, nil))
	}
	check(t.b.Set(idKey(spaceFree, id), nil, nil))
	t.put(id, 0)
	delete(t.rows, id)
	t.s.rows.Remove(id)
	t.s.degrees.Remove(id)
	t.s.ids.Remove(uri)
	t.relabelled = append(t.relabelled, id)
	t.s.free = append(t.s.free, id)
	t.s.collects.Add(1)
	t.s.col.counts[Stub]--
}

// trimmedTo is the position up to which the journal is gone.
func (s *Store) trimmedTo() uint64 {
	oldest, _ := s.journal.bounds()
	return oldest
}

// keptSince reports whether the journal still reaches back to a time at which
// the resource may have been named.
func (t *txn) keptSince(since int64) bool {
	it := t.iter([]byte{spaceJournal}, []byte{spaceJournal + 1})
	defer func() { check(it.Close()) }()
	if !it.First() {
		return false
	}
	_, _, _, at, err := chunkHeader(it.Value())
	check(err)
	return at <= since
}
