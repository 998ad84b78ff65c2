package graph

import (
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// maxMarks bounds the marks of one chunk: readers of one list decode those of
	// the others. Only a lone notice may have more.
	maxMarks = 1 << 16
	// markOverhead is what a mark in memory costs beside its indexes.
	markOverhead = 32
)

// mark says which notices of a chunk are of resources that were on a list.
type mark struct {
	list ListID
	at   []uint16 // their indexes, ascending
}

// loneIndex is the indexes of each mark of a lone notice.
var loneIndex = []uint16{0}

// appendMarks appends marks, which are ascending by list.
func appendMarks(b []byte, marks []mark) []byte {
	b = appendUvarint(b, uint64(len(marks)))
	next := uint64(1)
	for _, m := range marks {
		b = appendUvarint(b, uint64(m.list)-next)
		next = uint64(m.list) + 1
		b = appendUvarint(b, uint64(len(m.at)))
		least := uint64(0)
		for _, i := range m.at {
			b = appendUvarint(b, uint64(i)-least)
			least = uint64(i) + 1
		}
	}
	return b
}

// marks reads the marks of a chunk of n notices.
func (r *chunkReader) marks(n int) []mark {
	count := r.uvarint(uint64(len(r.b)))
	if r.bad = r.bad || count == 0; r.bad {
		return nil
	}
	marks := make([]mark, count)
	next := uint64(1)
	for k := range marks {
		d := r.uvarint(math.MaxUint32)
		list := next + d
		held := int(r.uvarint(uint64(n)))
		if r.bad = r.bad || list > math.MaxUint32 || held == 0 || held > len(r.b); r.bad {
			return nil
		}
		next = list + 1
		marks[k] = mark{ListID(list), loneIndex}
		if n == 1 {
			r.bad = r.uvarint(0) != 0 || r.bad
			continue
		}
		at := make([]uint16, held)
		least := uint64(0)
		for i := range at {
			v := least + r.uvarint(uint64(n))
			r.bad = r.bad || v >= uint64(n)
			at[i], least = uint16(v), v+1
		}
		marks[k].at = at
	}
	if r.bad {
		return nil
	}
	return marks
}

// markable is how many notices, from the first on, share a chunk, if these are
// the lists of each.
func markable(lists [][]ListID) int {
	sum := 0
	for i, l := range lists {
		if sum += len(l); sum > maxMarks && i > 0 {
			return i
		}
	}
	return len(lists)
}

// marksOf turns the lists of each notice into the notices of each list.
func marksOf(lists [][]ListID) (marks []mark) {
	if len(lists) == 1 && len(lists[0]) > 0 {
		marks = make([]mark, len(lists[0]))
		for k, l := range lists[0] {
			marks[k] = mark{l, loneIndex}
		}
		return marks
	}
	var pairs []uint64 // list<<16 | index
	for i, held := range lists {
		for _, l := range held {
			pairs = append(pairs, uint64(l)<<16|uint64(i))
		}
	}
	slices.Sort(pairs)
	at := make([]uint16, len(pairs))
	for from := 0; from < len(pairs); {
		list := pairs[from] >> 16
		to := from
		for ; to < len(pairs) && pairs[to]>>16 == list; to++ {
			at[to] = uint16(pairs[to])
		}
		marks = append(marks, mark{ListID(list), at[from:to:to]})
		from = to
	}
	return marks
}

// lists is the inverse of marksOf for the notices from … to of a chunk; nil if
// none of the chunk is marked.
func (c *chunk) lists(from, to int) [][]ListID {
	if len(c.marks) == 0 {
		return nil
	}
	out := make([][]ListID, to-from)
	if len(c.marks) == 1 { // many notices of one list share it
		only := []ListID{c.marks[0].list}
		for _, i := range c.marks[0].at {
			if k := int(i) - from; k >= 0 && k < len(out) {
				out[k] = only
			}
		}
		return out
	}
	for _, m := range c.marks {
		for _, i := range m.at {
			if k := int(i) - from; k >= 0 && k < len(out) {
				out[k] = append(out[k], m.list)
			}
		}
	}
	return out
}

// cachedListings bounds the resources whose lists are kept in memory, and
// cachedLists the lists of one of them: at most 16 MB.
const (
	cachedListings = 1 << 16
	cachedLists    = 64
)

// listsOf returns the lists that each of ids, ascending, is on now; nil if none
// of them is on any.
func (t *txn) listsOf(ids []ID) (out [][]ListID) {
	l := &t.s.lists
	var missing []int
	for i, id := range ids {
		if !l.ids.has(id) {
			continue
		}
		if out == nil {
			out = make([][]ListID, len(ids))
		}
		if held, ok := l.known.Get(id); ok {
			out[i] = l.kept(held)
			continue
		}
		missing = append(missing, i)
	}
	if len(missing) > 0 {
		t.readLists(ids, missing, out)
	}
	if !slices.ContainsFunc(out, func(held []ListID) bool { return len(held) > 0 }) {
		return nil
	}
	return out
}

// readLists looks up the lists of ids[i] for each i of missing. Those of a
// fan-out are not kept: they would drive out who is edited again and again.
func (t *txn) readLists(ids []ID, missing []int, out [][]ListID) {
	if t.on == nil {
		t.on = t.iter([]byte{spaceList, listOf}, []byte{spaceList, listOf + 1})
	}
	it := t.on
	var shared []ListID // what the one before is on: in a fan-out often the same
	ok := it.SeekGE(onKey(ids[missing[0]]))
	for _, i := range missing {
		id := ids[i]
		ok = ok && seekID(it, id)
		var held []ListID
		for ; ok && parseID(it.Key()[2:]) == id; ok = it.Next() {
			held = append(held, parseList(it.Key()[2+idSize:]))
		}
		check(it.Error())
		if len(missing) <= spelledIDs && len(held) <= cachedLists {
			t.s.lists.known.Add(id, held)
		}
		if held = t.s.lists.kept(held); slices.Equal(held, shared) {
			held = shared
		}
		shared, out[i] = held, held
	}
}

// listsMoved has what a txn wrote of who is on which list be seen by it.
func (t *txn) listsMoved() {
	if t.on != nil {
		check(t.on.Close())
		t.on = nil
	}
}

// nearby is how many keys are passed one by one before an iterator seeks.
const nearby = 8

// seekID moves an iterator over the lists of resources forward to the first key
// of id or beyond.
func seekID(it *pebble.Iterator, id ID) bool {
	for range nearby {
		if parseID(it.Key()[2:]) >= id {
			return true
		}
		if !it.Next() {
			return false
		}
	}
	return it.SeekGE(onKey(id))
}

// listed reports whether id is on a list.
func (t *txn) listed(id ID) bool { return t.listsOf([]ID{id}) != nil }

// trimmedLists bounds the lists whose index is looked at in one sweep. Of
// 100,000 lists each has its turn four times a day.
const trimmedLists = 256

// trimMarks drops from the index of some lists what the journal no longer holds.
func (t *txn) trimMarks() {
	cut := max(t.trimmed, t.s.trimmedTo())
	if cut == 0 {
		return
	}
	l := &t.s.lists
	it := t.iter([]byte{spaceList, listMarked}, []byte{spaceList, listMarked + 1})
	defer func() { check(it.Close()) }()
	for range trimmedLists {
		if !it.SeekGE(listKey(listMarked, l.trimNext)) {
			check(it.Error())
			l.trimNext = 0
			return
		}
		list := parseList(it.Key()[2:])
		if parseSeq(it.Key()[2+4:]) <= cut {
			check(t.b.DeleteRange(markedKey(list, 0), markedKey(list, cut+1), nil))
		}
		l.trimNext = list + 1 // after the last one it is 0 again
	}
}

// eachMarked calls f with the positions of up to limit chunks that have notices
// marked for list, the one that holds seq+1 or the first after it first. More
// reports whether there are others.
func eachMarked(it *pebble.Iterator, list ListID, seq uint64, limit int, f func(first uint64)) (more bool, err error) {
	prefix := listKey(listMarked, list)
	within := func() bool { return slices.Equal(it.Key()[:len(prefix)], prefix) }
	// The chunk that holds seq+1 may begin before it.
	ok := it.SeekLT(markedKey(list, seq+2))
	switch {
	case ok && within():
	case ok:
		ok = it.Next()
	default:
		ok = it.SeekGE(markedKey(list, 0))
	}
	for n := 0; ok && within(); ok, n = it.Next(), n+1 {
		if n == limit {
			return true, nil
		}
		f(parseSeq(it.Key()[len(prefix):]))
	}
	return false, it.Error()
}
