package graph

import (
	"errors"
	"math/bits"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// blockShift: the journal is summed up in blocks of 4,096 positions, seq>>12.
	blockShift = 12
	// summaryBits is how many bits of a summary there are for each key, and
	// summaryProbes how many of them a key sets: one key of a hundred that does not
	// stand in a block seems to.
	summaryBits, summaryProbes = 10, 7
	// summaryFormat is the first byte of a summary.
	summaryFormat = 1
	// cachedSummaries bounds those in memory: about 10 MB, four million positions.
	cachedSummaries = 1024
	// maxSkipped bounds the blocks that one call of Scan passes over.
	maxSkipped = 4096
)

// A summary of a block says by which keys its notices can be chosen: a byte of
// format, then a Bloom filter. It is derived: losing one costs a scan, and so it
// is written beside the apply loop and nobody waits for the disk.
type summary []byte

func newSummary(keys []Key) summary {
	b := make(summary, 1+max(8, (len(keys)*summaryBits+7)/8))
	b[0] = summaryFormat
	for _, k := range keys {
		b.probe(k, func(i uint64) bool {
			b[1+i>>3] |= 1 << (i & 7)
			return true
		})
	}
	return b
}

// probe calls f with the bits of a key until it returns false.
func (b summary) probe(k Key, f func(i uint64) bool) {
	n := uint64(len(b)-1) * 8
	h, step := uint64(k), bits.RotateLeft64(uint64(k)*0x9e3779b97f4a7c15, 31)|1
	for range summaryProbes {
		i, _ := bits.Mul64(h, n) // h/2^64 of n
		if !f(i) {
			return
		}
		h += step
	}
}

// has reports whether a key may stand in the block.
func (b summary) has(k Key) bool {
	all := true
	b.probe(k, func(i uint64) bool {
		all = b[1+i>>3]>>(i&7)&1 != 0
		return all
	})
	return all
}

// fits reports whether for each group one of its keys may stand in the block.
func (b summary) fits(groups [][]Key) bool {
	for _, keys := range groups {
		if !slices.ContainsFunc(keys, b.has) {
			return false
		}
	}
	return true
}

// summaryOf returns the summary of a block; nil if there is none.
func (s *Store) summaryOf(block uint64) (summary, error) {
	if b, ok := s.summaries.Get(block); ok {
		return b, nil
	}
	v, closer, err := s.db.Get(blockKey(block))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	b := summary(slices.Clone(v))
	if err := closer.Close(); err != nil {
		return nil, err
	}
	if len(b) < 2 || b[0] != summaryFormat {
		return nil, nil // another program's: it is made anew
	}
	s.summaries.Add(block, b)
	return b, nil
}

// summing is a block that is being summed up, over as many calls of Scan as its
// reading takes.
type summing struct {
	next uint64 // position that must come next; 0 if no block is being summed up
	keys []Key
	last []Key // of the notice before: neighbours share most of theirs
	mine []Key
}

// begins reports whether a position is the first of its block: there is none 0.
func begins(seq uint64) bool { return seq == 1 || seq&(1<<blockShift-1) == 0 }

// add takes in a notice. It reports whether that was the last one of its block;
// then keys are all of it.
func (b *summing) add(n *Notice) (whole bool) {
	seq := n.Cursor.Seq
	if begins(seq) {
		b.next, b.keys, b.last = seq, b.keys[:0], b.last[:0]
	}
	if seq != b.next {
		b.next = 0
		return false
	}
	b.next++
	b.mine = appendKeys(b.mine[:0], n)
	for i, k := range b.mine {
		if i >= len(b.last) || b.last[i] != k {
			b.keys = append(b.keys, k)
		}
	}
	b.last, b.mine = b.mine, b.last
	return begins(b.next)
}

// appendKeys appends all keys that a notice can be chosen by.
func appendKeys(keys []Key, n *Notice) []Key {
	keys = append(keys, TypeKey(n.Type), HostKey(Host(n.URI)))
	eachPrefix(n.URI, func(prefix string) { keys = append(keys, PrefixKey(prefix)) })
	for _, name := range n.Buckets {
		keys = append(keys, BucketKey(name))
	}
	return keys
}

// sumUp takes in what a call has read of the journal, in order, and keeps the
// summaries of the blocks that are whole now.
func (g *gathering) sumUp(read, passed []Notice) error {
	b := g.p.sums
	for len(read)+len(passed) > 0 {
		from := &read
		if len(read) == 0 || len(passed) > 0 && passed[0].Cursor.Seq < read[0].Cursor.Seq {
			from = &passed
		}
		n := &(*from)[0]
		*from = (*from)[1:]
		block := n.Cursor.Seq >> blockShift
		if begins(n.Cursor.Seq) {
			if sum, err := g.s.summaryOf(block); err != nil {
				return err
			} else if sum != nil { // it was read because something of it fits
				b.next = 0
				continue
			}
		}
		if !b.add(n) {
			continue
		}
		slices.Sort(b.keys)
		sum := newSummary(slices.Compact(b.keys))
		if err := g.s.keepSummary(block, sum); err != nil {
			return err
		}
		b.next = 0
	}
	return nil
}

// keepSummary keeps a summary for later readers. It is the one thing that a reader
// writes, and saves them work alone: on a disk that is nearly full it is not written.
func (s *Store) keepSummary(block uint64, sum summary) error {
	s.summaries.Add(block, sum)
	if s.Room() != nil {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.db.Set(blockKey(block), sum, pebble.NoSync)
}

// enter looks at the block of the position that is read next. It passes over it if
// nothing of it can pass, and otherwise says whether it is to be summed up.
func (g *gathering) enter(newest uint64) (passed bool, err error) {
	block := (g.reached + 1) >> blockShift
	if block == g.block {
		return false, nil
	}
	sum, err := g.s.summaryOf(block)
	if err != nil {
		return false, err
	}
	if sum == nil || sum.fits(g.p.Keys) {
		g.block = block
		continued := g.p.sums != nil && g.p.sums.next == g.reached+1
		g.summing = sum == nil && !g.p.chooses() && (begins(g.reached+1) || continued || g.summing)
		if g.summing && g.p.sums == nil {
			g.p.sums = &summing{}
		}
		return false, nil
	}
	g.skipped++
	g.summing = false
	g.reached = min(newest, (block+1)<<blockShift-1)
	return true, nil
}
