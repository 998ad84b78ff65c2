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
	// Not beyond the pump, which is held while a channel changes: what it was then
	// is not judged by what it has just become, nor the other way round.
	head := *s.pump.head.Load()
	m, until := c.sel.at(from.Seq)
	until = min(until, head.Seq)
	if m == nil || from.Seq >= until {
		return s.pass(from, until)
	}
	pick := m.borrow()
	notices, next, err := s.journal.Scan(pick, from, replayBatch)
	m.giveBack(pick)
	var reset *graph.ResetError
	if errors.As(err, &reset) {
		return &bundle{reset: reset}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the journal after %s: %w", from, err)
	}
	if next.Seq > until {
		next.Seq = until
	}
	var frames []*frame
	for i := range notices {
		n := &notices[i]
		if n.Cursor.Seq > until {
			break
		}
		switch m.show(n) {
		case whole:
			frames = append(frames, s.frames.of(n))
		case bare:
			frames = append(frames, s.frames.of(n).bare())
		}
	}
	if len(frames) == 0 {
		return &bundle{to: next, full: true}, nil
	}
	b := makeBundle(f, frames)
	if !b.full {
		b.to = next
		b.full = next.Seq < head.Seq
	}
	if c.streams.Load() > 1 {
		s.bundles.Add(key, b)
	}
	return b, nil
}

// pass moves a reader up to a position over what nothing is let through of, if
// the journal has the reader's own.
func (s *Streamer) pass(from graph.Cursor, until uint64) (*bundle, error) {
	_, _, err := s.journal.Scan(&graph.Pick{}, from, 1)
	var reset *graph.ResetError
	if errors.As(err, &reset) {
		return &bundle{reset: reset}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the journal after %s: %w", from, err)
	}
	from.Seq = max(from.Seq, until)
	return &bundle{to: from, full: true}, nil
}
