package subscriptions

import (
	"math"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxBundle is how many bytes are gathered for one write: half of what the
	// kernel holds for a reader, so that a reader who keeps up takes it whole.
	maxBundle = 64 << 10
	// sharedBundles is how many of the newest bundles are kept for readers who
	// stand at the same position: 8 MiB at most.
	sharedBundles = 128
)

// A selector says which notices a class of streams gets. It is safe for
// concurrent use.
type selector interface {
	// show says how n is shown, if it passes.
	show(n *graph.Notice) showing
	// at returns what decides strictly after seq, nil if nothing passes there, and
	// up to which position it does.
	at(seq uint64) (m *Matcher, until uint64)
	// routes says under what the index keeps its class to find what passes strictly
	// after head, and from which position on less of that is enough.
	routes(head uint64) (r routes, until uint64)
	// gone says why its streams are to end, if they are.
	gone() reason
}

// A classKey is what the streams of a class have in common.
type classKey struct {
	asked string // of channelKey or filterKey
	sight string // of keyOf
	// watched marks the class of those who read the store themselves ([Feed.Watch]):
	// it is told that there is something, and has no frames.
	watched bool
}

// A class is all streams that ask for the same and may see the same: what is read,
// matched and made ready for one of them is for all of them. So are all feeds that do.
type class struct {
	key     classKey
	sel     selector
	routes  routes // under which the index knows it; guarded by the pump's lock
	streams atomic.Int32
	touched int           // its place in the round that is being made, counted from 1; a hint
	over    atomic.Uint32 // the reason of ended

	mu   sync.Mutex
	base uint64   // all that passed after it, up to the pump's head, is in hits
	hits []*frame // oldest first
}

// changes reports whether what passes may change while c lives.
func (c *class) changes() bool {
	_, fixed := c.sel.(*Matcher)
	return !fixed
}

// add appends a notice that passed. Only the pump does.
func (c *class) add(f *frame) {
	c.mu.Lock()
	c.hits = append(c.hits, f)
	c.mu.Unlock()
}

// forget drops the oldest n hits: who has not had them reads the store.
func (c *class) forget(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n = min(n, len(c.hits)); n == 0 {
		return
	}
	c.base = max(c.base, c.hits[n-1].cursor.Seq)
	// The array stays as it is: bundles share it.
	if c.hits = c.hits[n:]; len(c.hits) == 0 {
		c.hits = nil
	}
}

// restart forgets all: the journal goes on at seq.
func (c *class) restart(seq uint64) {
	c.mu.Lock()
	c.base, c.hits = seq, nil
	c.mu.Unlock()
}

// end has the streams of c end: it has nothing in memory any more, and gets nothing.
func (c *class) end(why reason) {
	c.over.Store(uint32(why)) // before anybody finds that there is nothing
	c.restart(math.MaxUint64)
}

// ended says why the streams of c are to end, if they are.
func (c *class) ended() reason { return reason(c.over.Load()) }

// after returns what passed strictly after seq; ok is false if some of it is in
// the store alone.
func (c *class) after(seq uint64) (hits []*frame, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seq < c.base {
		return nil, false
	}
	if n := len(c.hits); n == 0 || c.hits[n-1].cursor.Seq <= seq {
		return nil, true
	}
	i := sort.Search(len(c.hits), func(i int) bool { return c.hits[i].cursor.Seq > seq })
	return slices.Clip(c.hits[i:]), true
}

// A bundle is a run of frames made ready to be written at once. It does not
// change, so that all readers at one position share it.
type bundle struct {
	frames []*frame
	bytes  []byte
	to     graph.Cursor // where a reader stands who has it all
	full   bool         // there may be more behind it
	reset  *graph.ResetError
}

// makeBundle gathers the first of the frames, as many as fit.
func makeBundle(f format, frames []*frame) *bundle {
	b := &bundle{}
	size, n := 0, 0
	for _, fr := range frames {
		if l := len(f.of(fr)); n == 0 || size+l <= maxBundle {
			size, n = size+l, n+1
			continue
		}
		b.full = true
		break
	}
	b.frames = frames[:n:n]
	b.to = frames[n-1].cursor
	if n == 1 {
		b.bytes = f.of(frames[0])
		return b
	}
	b.bytes = make([]byte, 0, size)
	for _, fr := range b.frames {
		b.bytes = append(b.bytes, f.of(fr)...)
	}
	return b
}

// boundary returns where a reader stands who has taken n bytes of b, and what of
// a frame it has begun and not had.
func (b *bundle) boundary(f format, n int, before graph.Cursor) (at graph.Cursor, rest []byte) {
	at = before
	end := 0
	for _, fr := range b.frames {
		if n == end {
			return at, nil
		}
		end += len(f.of(fr))
		at = fr.cursor
		if n < end {
			return at, slices.Clone(b.bytes[n:end])
		}
	}
	return at, nil
}

// bundleKey names a bundle among those that are shared.
type bundleKey struct {
	class  *class
	format format
	from   graph.Cursor
}
