package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"golang.org/x/sync/errgroup"
)

const (
	// maxPost bounds the updates of one request: a hub takes 5,000, and with 500 a
	// commit already costs little for each.
	maxPost = 500
	// windowLook is how often a publisher looks whether the readers have caught up.
	windowLook = 500 * time.Microsecond
)

// A press publishes updates of the pages of a plan.
type press struct {
	o       *Options
	hub     *client.Client
	plan    *plan
	arrived func() uint64 // deliveries so far
	room    int64         // deliveries that may be due at rate 0

	sent    atomic.Int64 // updates on their way or answered
	written atomic.Int64 // updates the hub has acknowledged
	due     atomic.Int64 // deliveries that follow from what was sent
	stuck   atomic.Bool  // the readers got nothing for too long
}

// run publishes until end, or until limit updates are sent if it is not 0. Each
// publisher has pages of its own, so that the versions of a page rise. It returns
// what was acknowledged.
func (p *press) run(ctx context.Context, end time.Time, limit int) (tally, error) {
	count := min(p.o.Publishers, len(p.plan.pages))
	tallies := make([]tally, count)
	g, ctx := errgroup.WithContext(ctx)
	began, before := time.Now(), int64(p.arrived())
	p.due.Store(before)
	for i := range count {
		w := &publisher{press: p, next: i, step: count, share: p.o.Rate / float64(count),
			began: began, end: end, limit: int64(limit), done: &tallies[i]}
		if p.o.Rate > 0 {
			w.began = began.Add(time.Duration(float64(i) / p.o.Rate * float64(time.Second)))
		}
		g.Go(func() error { return w.run(ctx) })
	}
	err := g.Wait()
	var all tally
	for _, t := range tallies {
		all.count += t.count
		all.sum += t.sum
	}
	return all, err
}

// A publisher has one request in flight.
type publisher struct {
	*press
	next, step int     // its pages are every step-th
	share      float64 // updates a second, 0 for as many as the window lets through
	began, end time.Time
	limit      int64
	count      float64 // updates it has sent
	done       *tally
}

func (w *publisher) run(ctx context.Context) error {
	var body []byte
	for {
		n, err := w.turn(ctx)
		if n == 0 || err != nil {
			return err
		}
		if n = w.grant(n); n == 0 {
			return nil
		}
		if body, err = w.post(ctx, body[:0], n); err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
	}
}

// grant takes up to n updates from what may be sent in all.
func (w *publisher) grant(n int) int {
	if after := w.sent.Add(int64(n)); w.limit > 0 && after > w.limit {
		over := min(after-w.limit, int64(n))
		w.sent.Add(-over)
		n -= int(over)
	}
	return n
}

// turn waits until there is something to publish and returns how much: 0 at the end.
func (w *publisher) turn(ctx context.Context) (int, error) {
	if w.share == 0 {
		return w.windowed(ctx)
	}
	for {
		now := time.Now()
		if !now.Before(w.end) {
			return 0, nil
		}
		if n := int(now.Sub(w.began).Seconds()*w.share - w.count); n > 0 {
			return min(n, maxPost), nil
		}
		next := w.began.Add(time.Duration((w.count + 1) / w.share * float64(time.Second)))
		if next.After(w.end) {
			next = w.end
		}
		if err := pause(ctx, time.Until(next)); err != nil {
			return 0, err
		}
	}
}

// windowed waits until the readers are close enough behind. Readers that get
// nothing for too long end the publishing: what they lack will be counted.
func (w *publisher) windowed(ctx context.Context) (int, error) {
	n := min(max(w.o.Window/(2*w.step), 1), maxPost)
	progress, since := uint64(0), time.Now()
	for {
		now := time.Now()
		arrived := w.arrived()
		switch {
		case !now.Before(w.end) || w.stuck.Load():
			return 0, nil
		case w.due.Load()-int64(arrived) <= w.room:
			return n, nil
		case arrived != progress:
			progress, since = arrived, now
		case now.Sub(since) > w.o.Patience:
			w.stuck.Store(true)
			return 0, nil
		}
		if err := pause(ctx, windowLook); err != nil {
			return 0, err
		}
	}
}

// post publishes the next n updates. Their versions are the time.
func (w *publisher) post(ctx context.Context, body []byte, n int) ([]byte, error) {
	pages := w.plan.pages
	due, sent := int64(0), tally{}
	now := time.Now().UnixNano()
	for i := range int64(n) {
		pg := &pages[w.next]
		pg.version = max(now+i-int64(n)+1, pg.version+1)
		body = append(body, pg.line...)
		body = strconv.AppendInt(body, pg.version, 10)
		body = append(body, "\"}\n"...)
		sent.add(int32(w.next), pg.version)
		due += pg.fanout
		if w.next += w.step; w.next >= len(pages) {
			w.next %= w.step
		}
	}
	w.due.Add(due)
	w.count += float64(n)
	r, err := w.hub.UpdateLines(ctx, body)
	if err == nil && r.Changed != n {
		err = fmt.Errorf("of %d new versions the hub took %d", n, r.Changed)
	}
	if err != nil {
		return body, err
	}
	w.written.Add(int64(n))
	w.done.count += sent.count
	w.done.sum += sent.sum
	return body, nil
}

// pause waits for d, or returns why ctx ended before.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
