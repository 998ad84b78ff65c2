package subscriptions

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// tick is the least time between two looks at the journal while it grows: one
	// event a write costs 6 to 9 µs each, ten a write 0.4 µs.
	tick = 5 * time.Millisecond
	// readBatch is how many notices are read at once: a full chunk of the journal.
	readBatch = 1024
	// keptBytes bounds the frames that are kept for readers who are nearly up to
	// date; who is further behind reads the store.
	keptBytes = 32 << 20
	// keptAge is how long they are kept: time for a few sweeps over 10,000 readers.
	keptAge = 2 * time.Second
	// hitSize is what a frame costs a class that keeps it, in bytes.
	hitSize = 16
)

// A pump follows the journal for all streams: each notice is read, matched and
// made a frame of once, whoever wants it.
type pump struct {
	journal journal
	owners  []owner

	mu      sync.Mutex // held while notices are matched and while classes come and go
	classes map[classKey]*class
	changes map[string][]*class // those whose selector may change, by what they ask
	index   *index
	changed []changed
	rounds  []round // kept, oldest first
	bytes   int     // of their frames
	head    atomic.Pointer[graph.Cursor]
}

// An owner moves streams on. News tells it which classes have something new; it
// does not block.
type owner interface{ news([]*class) }

// A round is what one look at the journal brought, for it to be forgotten together.
type round struct {
	at      time.Time
	bytes   int
	classes []*class
	hits    []int // of each
}

func newPump(j journal) *pump {
	p := &pump{journal: j, classes: map[classKey]*class{}, changes: map[string][]*class{}, index: newIndex()}
	newest := j.Token()
	p.head.Store(&newest)
	return p
}

// run follows the journal until ctx ends or the store is closed.
func (p *pump) run(ctx context.Context) error {
	for {
		notices, next, err := p.read(ctx)
		var reset *graph.ResetError
		switch {
		case errors.As(err, &reset):
			p.restart(reset.Newest)
			continue
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			p.expire(time.Now())
			continue
		case ctx.Err() != nil || errors.Is(err, graph.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		p.dispatch(notices, next)
		// Behind, read on at once; up to date, let notices gather, but go back to
		// waiting first: after a silence the next notice is written at once.
		if next == p.journal.Token() && !pause(ctx, tick) {
			return nil
		}
	}
}

// read waits for notices, but while there is something to be forgotten no longer
// than until then.
func (p *pump) read(ctx context.Context) ([]graph.Notice, graph.Cursor, error) {
	p.mu.Lock()
	kept := len(p.rounds) > 0
	p.mu.Unlock()
	if kept {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, keptAge/2)
		defer cancel()
	}
	return p.journal.ReadFrom(ctx, *p.head.Load(), readBatch)
}

// pause waits for d and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// dispatch gives notices to the classes that want them and moves the head to next.
func (p *pump) dispatch(notices []graph.Notice, next graph.Cursor) {
	now := time.Now()
	r := round{at: now}
	p.mu.Lock()
	for i := range notices {
		p.match(&notices[i], &r)
	}
	if r.bytes > 0 {
		p.rounds = append(p.rounds, r)
		p.bytes += r.bytes
	}
	p.head.Store(&next)
	if len(p.changed) > 0 {
		p.settle(next.Seq)
	}
	p.mu.Unlock()
	p.expire(now)
	if len(r.classes) > 0 {
		for _, o := range p.owners {
			o.news(r.classes)
		}
	}
}

// match gives n to the classes that want it.
func (p *pump) match(n *graph.Notice, r *round) {
	var f *frame
	var without *frame // its cause
	p.index.candidates(n, func(c *class) {
		if c.key.watched {
			if !r.has(c) && c.sel.show(n) != hidden {
				r.count(c, 0)
			}
			return
		}
		if k := len(c.hits); k > 0 && c.hits[k-1].cursor == n.Cursor {
			return
		}
		shown := c.sel.show(n)
		if shown == hidden {
			return
		}
		if f == nil {
			f = newFrame(n)
			r.bytes += len(f.bytes)
		}
		hit := f
		if shown == bare {
			if without == nil {
				without = f.bare()
				r.bytes += len(without.bytes)
			}
			hit = without
		}
		c.add(hit)
		r.bytes += hitSize
		r.count(c, 1)
	})
}

// has reports whether something of the round is for c.
func (r *round) has(c *class) bool {
	k := c.touched - 1
	return k >= 0 && k < len(r.classes) && r.classes[k] == c
}

// count notes that c got so many frames more.
func (r *round) count(c *class, frames int) {
	if r.has(c) {
		r.hits[c.touched-1] += frames
		return
	}
	r.classes, r.hits = append(r.classes, c), append(r.hits, frames)
	c.touched = len(r.classes)
}

// expire forgets what is old or too much.
func (p *pump) expire(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.rounds) && (p.bytes > keptBytes || now.Sub(p.rounds[n].at) >= keptAge) {
		r := &p.rounds[n]
		for i, c := range r.classes {
			c.forget(r.hits[i])
		}
		p.bytes -= r.bytes
		n++
	}
	clear(p.rounds[:n])
	if p.rounds = p.rounds[n:]; len(p.rounds) == 0 {
		p.rounds = nil
	}
}

// restart goes on at newest: what lies between was trimmed before it was read.
// Streams find that out by themselves, each for its own position, as they do each
// heartbeat; who watches is told.
func (p *pump) restart(newest graph.Cursor) {
	p.mu.Lock()
	p.rounds, p.bytes = nil, 0
	var watched []*class
	for _, c := range p.classes {
		c.restart(newest.Seq)
		if c.key.watched {
			watched = append(watched, c)
		}
	}
	p.head.Store(&newest)
	p.mu.Unlock()
	for _, o := range p.owners {
		o.news(watched)
	}
}

// join returns the class of key for one more stream. If there is none yet, sel
// decides for it from the head on.
func (p *pump) join(key classKey, sel selector) *class {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.classes[key]
	if c == nil {
		c = &class{key: key, sel: sel, base: p.head.Load().Seq}
		p.keepOrEnd(c)
	}
	c.streams.Add(1)
	return c
}

// drop makes a class unknown. The lock is held.
func (p *pump) drop(c *class) {
	if p.classes[c.key] == c {
		delete(p.classes, c.key)
		p.index.remove(c)
		if c.changes() {
			changeAt(p.changes, []string{c.key.asked}, func(l []*class) []*class { return without(l, c) })
		}
	}
}

// leave ends a stream's part in its class.
func (p *pump) leave(c *class) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.streams.Add(-1) == 0 {
		p.drop(c)
	}
}

// keepOrEnd makes a class known unless its selector is gone. The lock is held.
func (p *pump) keepOrEnd(c *class) {
	if why := c.sel.gone(); why != stays {
		c.end(why)
	} else {
		p.keep(c)
	}
}

// keep makes a class known under the routes that it has from the head on. The
// lock is held.
func (p *pump) keep(c *class) {
	head := p.head.Load().Seq
	until := uint64(0)
	c.routes, until = c.sel.routes(head)
	p.classes[c.key] = c
	p.index.add(c)
	if c.changes() {
		p.changes[c.key.asked] = append(p.changes[c.key.asked], c)
	}
	if until > head {
		p.changed = append(p.changed, changed{c, until})
	}
}

// hold keeps notices from being matched while what is asked for changes, until
// release is called.
func (p *pump) hold(asked string) (release func()) {
	p.mu.Lock()
	return func() {
		classes := slices.Clone(p.changes[asked])
		for _, c := range classes {
			p.drop(c)
			p.keepOrEnd(c)
		}
		p.mu.Unlock()
		if len(classes) == 0 {
			return
		}
		for _, o := range p.owners {
			o.news(classes)
		}
	}
}

// changed is a class that is found under more routes than it needs from a
// position on.
type changed struct {
	c  *class
	at uint64
}

// settle drops the old routes of classes whose change lies behind the head. The
// lock is held.
func (p *pump) settle(head uint64) {
	list := p.changed
	p.changed = nil
	for _, ch := range list {
		switch {
		case ch.at > head:
			p.changed = append(p.changed, ch)
		case p.classes[ch.c.key] == ch.c:
			p.drop(ch.c)
			p.keep(ch.c)
		}
	}
}
