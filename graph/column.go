package graph

import (
	"math/bits"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// word is what is resident of a resource: two bytes in pages of 1,024. A zero
// word is a stub nobody depends on, so that a page of those needs no memory.
//
//	bits 0–2   state
//	bits 12–15 dirty: the minute, modulo 16, it became so; ready: retries so far
type word uint16

const (
	wordState      word = 7
	wordStale      word = 1 << 3  // a dependency is newer; sticky until it is made again
	wordFailed     word = 1 << 4  // ready, retries exhausted: settled
	wordUnproven   word = 1 << 5  // its last update carried neither seen nor token
	wordDamped     word = 1 << 6  // it flaps: its row has a least interval
	wordWaiting    word = 1 << 7  // ready, and its notice is yet to come
	wordDependents word = 1 << 8  // somebody depends on it
	wordHot        word = 1 << 9  // its posting list is in buckets
	wordMirror     word = 1 << 10 // a peer speaks for it …
	wordPeerBusy   word = 1 << 11 // … and says it is unsettled
	wordCount           = 12      // shift of the four-bit count
)

func (w word) state() State { return State(w & wordState) }

func (w word) is(f word) bool { return w&f != 0 }

func (w word) count() int { return int(w >> wordCount) }

func (w word) with(f word, on bool) word {
	if on {
		return w | f
	}
	return w &^ f
}

func (w word) withState(s State) word { return w&^wordState | word(s) }

func (w word) withCount(n int) word { return w&(1<<wordCount-1) | word(n&15)<<wordCount }

// unsettled reports whether dependents wait for it.
func (w word) unsettled() bool {
	if w.is(wordMirror) {
		return w.is(wordPeerBusy)
	}
	switch w.state() {
	case Dirty, Pending:
		return true
	case Ready:
		return !w.is(wordFailed)
	}
	return false
}

// page is the resident half of a state page.
type page struct {
	words   [pageSize]uint16
	dirty   uint16                // how many are Dirty
	written [pageSize / 64]uint64 // slots that differ from the store
	pending bool                  // some slot does
}

// column holds every resource's word and what is counted over them.
type column struct {
	pages  []*page
	counts [5]uint64 // by State; those never given an id are not in it
	failed uint64
	// inner are the unsettled resources somebody depends on: whoever waits,
	// waits for one of these. Gen counts who came in.
	inner    *roaring64.Bitmap
	innerGen uint64
	pending  []uint32 // pages with slots to write
}

func newColumn() *column { return &column{inner: roaring64.New()} }

func (c *column) get(id ID) word {
	if n := id / pageSize; n < ID(len(c.pages)) && c.pages[n] != nil {
		return word(c.pages[n].words[id%pageSize])
	}
	return 0
}

func (c *column) page(n uint32) *page {
	for n >= uint32(len(c.pages)) {
		c.pages = append(c.pages, make([]*page, max(64, len(c.pages)/4))...)
	}
	if c.pages[n] == nil {
		c.pages[n] = &page{}
	}
	return c.pages[n]
}

// put stores a word and keeps the counts true.
func (c *column) put(id ID, w word) {
	p := c.page(uint32(id / pageSize))
	slot := id % pageSize
	old := word(p.words[slot])
	if old == w {
		return
	}
	p.words[slot] = uint16(w)
	if !p.pending {
		p.pending = true
		c.pending = append(c.pending, uint32(id/pageSize))
	}
	p.written[slot/64] |= 1 << (slot % 64)
	c.count(p, old, w)
	if was, is := old.unsettled() && old.is(wordDependents), w.unsettled() && w.is(wordDependents); was != is {
		if is {
			c.innerGen++
			c.inner.Add(uint64(id))
		} else {
			c.inner.Remove(uint64(id))
		}
	}
}

func (c *column) count(p *page, old, w word) {
	c.counts[old.state()]--
	c.counts[w.state()]++
	if old.state() == Dirty {
		p.dirty--
	}
	if w.state() == Dirty {
		p.dirty++
	}
	if old.is(wordFailed) {
		c.failed--
	}
	if w.is(wordFailed) {
		c.failed++
	}
}

// noState reports a word that no program of this format has written.
func noState(w uint16) bool { return word(w).state() > Pending }

// load takes a page as it was stored. Its words have states that there are.
func (c *column) load(n uint32, words *[pageSize]uint16) {
	p := c.page(n)
	p.words = *words
	for slot, v := range words {
		w := word(v)
		if w == 0 {
			continue
		}
		c.count(p, 0, w)
		if w.unsettled() && w.is(wordDependents) {
			c.inner.Add(uint64(n)*pageSize + uint64(slot))
		}
	}
}

// eachPending yields the pages to write with their changed slots, and forgets them.
func (c *column) eachPending(f func(n uint32, p *page, ops []pageOp)) {
	var ops []pageOp
	for _, n := range c.pending {
		p := c.pages[n]
		ops = ops[:0]
		for i, set := range p.written {
			for ; set != 0; set &= set - 1 {
				slot := i*64 + bits.TrailingZeros64(set)
				ops = append(ops, pageOp{uint16(slot), p.words[slot]})
			}
		}
		f(n, p, ops)
		p.written, p.pending = [pageSize / 64]uint64{}, false
	}
	c.pending = c.pending[:0]
}

// eachDirty yields every Dirty resource, ascending.
func (c *column) eachDirty(f func(ID, word)) {
	for n, p := range c.pages {
		if p == nil || p.dirty == 0 {
			continue
		}
		for slot, v := range p.words {
			if w := word(v); w.state() == Dirty {
				f(ID(n)*pageSize+ID(slot), w)
			}
		}
	}
}
