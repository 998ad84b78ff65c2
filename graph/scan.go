package graph

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// maxScan bounds the positions that one call of Scan reads: a rare filter
	// shows progress some ten times a second.
	maxScan = 1 << 16
	// maxIndexed is the greatest number of lists that are read by their index; of
	// more the journal itself is read, which asks each chunk once.
	maxIndexed = 64
)

// Scan returns up to limit notices strictly after c that p lets through (0 means
// [MaxListing]), and the position up to which it read, which may lie beyond the
// last of them or move without any. It reads a bounded piece of the journal in
// one call and never waits for more: at the end of what is durable it returns the
// newest position and nothing. A position that cannot be served is a [ResetError].
// A Pick is used by one goroutine at a time; nil is the zero Pick.
func (s *Store) Scan(p *Pick, c Cursor, limit int) ([]Notice, Cursor, error) {
	if err := s.servable(c); err != nil {
		return nil, c, err
	}
	if p == nil {
		p = &Pick{}
	}
	g := gathering{s: s, p: p, limit: clampLimit(limit), reached: c.Seq, left: maxScan, block: math.MaxUint64}
	chunks, newest, _, ok := s.journal.after(c.Seq)
	err := s.resolve(p)
	switch {
	case err != nil || c.Seq == newest:
	case ok:
		g.fromTail(chunks)
	case len(p.Lists) > 0 && len(p.Lists) <= maxIndexed && len(p.URIs) == 0:
		err = g.fromIndex(newest)
	default:
		err = g.fromStore(newest)
	}
	return g.spelled(c, newest, err)
}

// everything is the zero Pick.
var everything Pick

// gathering is what one call of Scan has found so far, not yet spelled out.
type gathering struct {
	s       *Store
	p       *Pick
	limit   int
	left    int // positions that may still be read
	reached uint64
	picked  []selection
	found   int // notices in picked
	scratch []uint16
	ids     []ID        // of the chunk looked at last
	gap     uint64      // the store has nothing up to it, and should
	block   uint64      // that was entered last …
	summing bool        // … and is to be summed up
	passed  []selection // what its summary needs beside picked
	skipped int         // blocks
	arena   chunkArena
}

// spelled ends the call that began after c.
func (g *gathering) spelled(c Cursor, newest uint64, err error) ([]Notice, Cursor, error) {
	s := g.s
	if err != nil { // before what is not there is taken for trimmed
		return nil, c, err
	}
	if cut := max(g.gap, s.journal.cut.Load()); cut > c.Seq { // trimmed while we looked
		newest = max(newest, cut)
		return nil, c, &ResetError{Reason: "trimmed", Oldest: Cursor{s.epoch, cut}, Newest: Cursor{s.epoch, newest}}
	}
	out, err := s.spell(g.picked)
	if err != nil {
		return nil, c, err
	}
	if g.p.sums != nil {
		passed, err := s.spell(g.passed)
		if err == nil {
			err = g.sumUp(out, passed)
		}
		if err != nil {
			return nil, c, err
		}
	}
	if g.p.chooses() {
		out = slices.DeleteFunc(out, func(n Notice) bool { return !g.p.passes(&n) })
	}
	return out, Cursor{s.epoch, g.reached}, nil
}

// full reports whether the call ends here.
func (g *gathering) full() bool { return g.found >= g.limit || g.left <= 0 || g.skipped >= maxSkipped }

// take takes from c what p lets through after what was reached.
func (g *gathering) take(c *chunk) {
	from := int(max(c.first, g.reached+1) - c.first)
	g.scratch = g.p.choose(c, from, g.scratch[:0])
	at := g.scratch[:min(len(g.scratch), g.limit-g.found)]
	end := c.last()
	if len(at) < len(g.scratch) {
		end = c.first + uint64(at[len(at)-1])
	}
	if len(at) == len(c.ids) {
		g.picked = append(g.picked, selection{c: c, from: 0, to: len(c.ids)})
	} else if len(at) > 0 {
		g.picked = append(g.picked, selection{c: c, at: slices.Clone(at)})
	}
	g.found += len(at)
	g.left -= int(end - g.reached)
	g.reached = end
}

// fromTail reads chunks that are in memory.
func (g *gathering) fromTail(chunks []chunk) {
	for i := range chunks {
		if g.full() {
			return
		}
		g.take(&chunks[i])
	}
}

// fromStore reads the journal itself up to newest.
func (g *gathering) fromStore(newest uint64) error {
	it, err := g.s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: seqKey(spaceJournal, newest+1)})
	if err != nil {
		return err
	}
	there := false // the iterator stands at the chunk to be read next
	for g.reached < newest && !g.full() {
		if len(g.p.Keys) > 0 {
			passed, err := g.enter(newest)
			if err != nil {
				return errors.Join(err, it.Close())
			}
			if passed {
				there = false
				continue
			}
		}
		if !there && !g.seek(it, newest) {
			break
		}
		if err := g.read(it.Key(), it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
		there = it.Next()
	}
	return errors.Join(it.Error(), it.Close())
}

// seek moves an iterator over the journal to the chunk to be read next. What is
// not there was trimmed.
func (g *gathering) seek(it *pebble.Iterator, newest uint64) bool {
	if !seekChunk(it, g.reached) {
		g.gap = newest
		return false
	}
	if first := parseSeq(it.Key()[1:]); first > g.reached+1 {
		g.gap = first - 1
		return false
	}
	return true
}

// seekChunk moves an iterator over the journal to the chunk that holds seq+1,
// which may begin before it.
func seekChunk(it *pebble.Iterator, seq uint64) bool {
	return it.SeekLT(seqKey(spaceJournal, seq+2)) || it.First()
}

// read takes a chunk as it is in the store. Of one that its header rules out
// nothing more is decoded.
func (g *gathering) read(key, value []byte) error {
	first := binary.BigEndian.Uint64(key[1:])
	lane, kind, n, _, err := chunkHeader(value)
	if err != nil {
		return err
	}
	end := first + uint64(n) - 1
	if end <= g.reached {
		return nil
	}
	wanted := g.p.wants(kind, lane)
	if wanted && g.p.chooses() {
		if wanted, err = g.mayChoose(value); err != nil {
			return err
		}
	}
	if !wanted {
		if g.summing {
			c, err := g.arena.decode(first, value)
			if err != nil {
				return err
			}
			g.passed = append(g.passed, selection{c: c, from: int(max(first, g.reached+1) - first), to: n})
		}
		g.left -= int(end - g.reached)
		g.reached = end
		return nil
	}
	c, err := g.arena.decode(first, value)
	if err == nil {
		g.take(c)
	}
	return err
}

// mayChoose reports whether some of a chunk may pass, without copying anything of
// it. Of one that is marked take finds out.
func (g *gathering) mayChoose(value []byte) (bool, error) {
	var c chunk
	r := chunkReader{b: value}
	n := r.head(&c)
	if r.marked || r.bad {
		return true, nil
	}
	if len(g.p.ids) == 0 {
		return false, nil
	}
	for range 3 { // cause, its position, its time
		r.uvarint(math.MaxUint64)
	}
	for range 3 {
		r.text()
	}
	if r.bad {
		return true, nil
	}
	var err error
	if g.ids, err = decodeIDs(r.b, n, 1, idLimit, g.ids[:0]); err != nil {
		return false, err
	}
	for _, id := range g.ids {
		if _, ok := g.p.ids[id]; ok {
			return true, nil
		}
	}
	return false, nil
}

// fromIndex reads the chunks that have notices marked for the lists of p.
func (g *gathering) fromIndex(newest uint64) error {
	starts, horizon, err := g.s.markedChunks(g.p.Lists, g.reached, newest, g.limit)
	if err != nil {
		return err
	}
	it, err := g.s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: seqKey(spaceJournal, newest+1)})
	if err != nil {
		return err
	}
	g.left = math.MaxInt
	for _, first := range starts {
		if g.found >= g.limit {
			return it.Close()
		}
		key := seqKey(spaceJournal, first)
		if !it.SeekGE(key) || !slices.Equal(it.Key(), key) {
			continue // trimmed
		}
		if err := g.read(it.Key(), it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if g.found < g.limit {
		g.reached = max(g.reached, horizon)
	}
	return errors.Join(it.Error(), it.Close())
}

// markedChunks returns the first positions of chunks with notices that are marked
// for one of lists, from the one that may hold seq+1 on, ascending. There are no
// others up to the horizon.
func (s *Store) markedChunks(lists []ListID, seq, newest uint64, limit int) (starts []uint64, horizon uint64, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceList, listMarked}, UpperBound: []byte{spaceList, listMarked + 1}})
	if err != nil {
		return nil, 0, err
	}
	horizon = newest
	each := limit/len(lists) + 16 // some of what is found may be before seq+1
	for _, list := range lists {
		last := uint64(0)
		more, err := eachMarked(it, list, seq, each, func(first uint64) {
			if last = first; first <= newest {
				starts = append(starts, first)
			}
		})
		if err != nil {
			return nil, 0, errors.Join(err, it.Close())
		}
		if more {
			horizon = min(horizon, last) // what is beyond newest is not durable yet
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	i, found := slices.BinarySearch(starts, horizon)
	if found {
		i++
	}
	return starts[:i], horizon, it.Close()
}
