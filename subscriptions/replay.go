package subscriptions

import (
	"errors"
	"fmt"

	"github.com/freshwire/freshwire/graph"
)

// replayBatch is how many notices are read back at once: about what a bundle holds.
const replayBatch = 192

// bundle returns what a class has in memory for a reader at from, nil if there is
// nothing new; ok is false if some of it is in the store alone.
func (s *Streamer) bundle(c *class, f format, from graph.Cursor) (b *bundle, ok bool) {
	hits, ok := c.after(from.Seq)
	if !ok || len(hits) == 0 {
		return nil, ok
	}
	key := bundleKey{c, f, from}
	shared := c.streams.Load() > 1
	if shared {
		if b, ok := s.bundles.Get(key); ok && (b.full || b.to.Seq >= hits[len(hits)-1].cursor.Seq) {
			return b, true
		}
	}
	b = makeBundle(f, hits)
	if shared {
		s.bundles.Add(key, b)
	}
	return b, true
}

// replay reads from the store what a reader at from is to get next. A bundle
// without frames only moves on.
func (s *Streamer) replay(c *class, f format, from graph.Cursor) (*bundle, error) {
	key := bundleKey{c, f, from}
	if b, ok := s.bundles.Get(key); ok && b.full && len(b.frames) > 0 {
		return b, nil
	}
	if c.ended() != stays {
		return &bundle{to: from}, nil
	}
	s.stats.replays.Add(1)
	var frames []*frame
	next, more, err := s.read(c.sel, bothLanes, from, replayBatch, func(n *graph.Notice, how showing) {
		f := s.frames.of(n)
		if how == bare {
			f = f.bare()
		}
		frames = append(frames, f)
	})
	var reset *graph.ResetError
	if errors.As(err, &reset) {
		return &bundle{reset: reset}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(frames) == 0 {
		return &bundle{to: next, full: true}, nil
	}
	b := makeBundle(f, frames)
	if !b.full {
		b.to, b.full = next, more
	}
	if c.streams.Load() > 1 {
		s.bundles.Add(key, b)
	}
	return b, nil
}

// bothLanes is all lanes, as a set of 1<<Lane.
const bothLanes = 1<<graph.Prompt | 1<<graph.Bulk

// read calls pass with up to limit notices strictly after a position that sel lets
// through in some lanes, oldest first. It reads a bounded piece of the store and
// returns up to where, and whether there is more before the head of the pump.
// A position that cannot be served is a *graph.ResetError.
func (s *Streamer) read(sel selector, lanes uint8, from graph.Cursor, limit int, pass func(*graph.Notice, showing)) (next graph.Cursor, more bool, err error) {
	// Not beyond the pump, which is held while a channel changes: what it was then
	// is not judged by what it has just become, nor the other way round.
	head := *s.pump.head.Load()
	m, until := sel.at(from.Seq)
	until = min(until, head.Seq)
	var pick *graph.Pick
	if m != nil && from.Seq < until {
		pick = m.borrow(lanes)
	}
	var notices []graph.Notice
	if pick != nil {
		notices, next, err = s.journal.Scan(pick, from, limit)
		m.giveBack(pick)
	} else { // nothing is let through of it, if the journal has the position
		_, _, err = s.journal.Scan(&graph.Pick{}, from, 1)
		next = graph.Cursor{Epoch: from.Epoch, Seq: max(from.Seq, until)}
	}
	if err != nil {
		return from, false, fmt.Errorf("reading the journal after %s: %w", from, err)
	}
	if next.Seq > until {
		next.Seq = max(from.Seq, until)
	}
	for i := range notices {
		n := &notices[i]
		if n.Cursor.Seq > until {
			break
		}
		if how := m.show(n); how != hidden {
			pass(n, how)
		}
	}
	return next, next.Seq < head.Seq, nil
}
