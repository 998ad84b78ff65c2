package websub

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
	"golang.org/x/sync/errgroup"
)

const (
	// sweepPause is the least time between two looks for leases that have ended, of
	// the real clock: each look is at all subscriptions.
	sweepPause = 100 * time.Millisecond
	// sweepLatest is the longest, of the hub's clock: so a clock that was set shows.
	sweepLatest = time.Minute
)

// Run verifies, delivers and ends subscriptions until ctx does, and returns when
// nothing of it is going on any more. What was owed is taken up again: verifications
// that a crash cut off, and deliveries. The streamer and the engine run before.
func (h *Hub) Run(ctx context.Context) error {
	if h.o.Observe {
		<-ctx.Done()
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	h.run = ctx
	owed := make([]*call, 0, len(h.pending))
	for _, c := range h.pending {
		owed = append(owed, c)
	}
	h.mu.Unlock()
	h.resumeAll(ctx)
	for _, c := range owed {
		h.launch(c, nil)
	}
	if err := h.forgetStrangers(ctx); err != nil && ctx.Err() == nil {
		h.o.Log.Warn("owners of nothing stay on disk until the next start", "err", err)
	}
	h.begin(h.noteHad)
	for ctx.Err() == nil {
		h.sleepUntil(ctx, h.sweep(ctx))
	}
	h.mu.Lock()
	h.run = nil
	h.mu.Unlock()
	h.work.Wait()
	for _, e := range h.all() {
		if w := e.feed.Load(); w != nil {
			w.stop() // and it stays: a delivery may still be made
		}
	}
	return nil
}

// noteEach is how long what subscribers had is in memory alone, of the real clock. A
// document names the one before it by that; after a crash it may name an older one,
// which is as good: it shows no gap where there is none, and hides none.
const noteEach = time.Second

// noteHad writes down what subscribers had, again and again until ctx ends and once
// more then.
func (h *Hub) noteHad(ctx context.Context) {
	pause := time.Duration(float64(noteEach) * h.o.ClockRate)
	for ended := false; !ended; {
		select {
		case <-h.took:
			ended = !h.sleep(ctx, pause)
		case <-ctx.Done():
			ended = true
		}
		var records []graph.Record
		for _, e := range h.all() {
			had := [2]graph.Cursor{*e.had[0].Load(), *e.had[1].Load()}
			if had != e.noted && len(records) < graph.MaxRecords {
				e.noted = had
				records = append(records, graph.Record{Key: recordHad + e.sub.Load().ID, Value: encode(had)})
			}
		}
		if len(records) == graph.MaxRecords {
			h.notes() // the rest comes next
		}
		if err := h.ledger.PutRecords(context.WithoutCancel(ctx), records); err != nil {
			h.o.Log.Warn("what subscribers had is not noted", "err", err)
		}
	}
}

// notes says that somebody had something.
func (h *Hub) notes() {
	select {
	case h.took <- struct{}{}:
	default:
	}
}

// forgetStrangers drops what is known of owners who have nothing.
func (h *Hub) forgetStrangers(ctx context.Context) error {
	h.owning.Lock()
	defer h.owning.Unlock()
	gone := h.stale[:min(len(h.stale), graph.MaxRecords/2)]
	h.mu.Lock()
	for subject := range h.sightings {
		if _, has := h.ofOwner[Owner{Subject: subject}]; !has && len(gone) < graph.MaxRecords {
			gone = append(gone, graph.Record{Key: recordOwner + digest(subject)})
			delete(h.sightings, subject)
		}
	}
	h.mu.Unlock()
	return h.ledger.PutRecords(ctx, gone)
}

// begin has f run beside Run, which waits for it, while Run does.
func (h *Hub) begin(f func(ctx context.Context)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx := h.run; ctx != nil {
		h.work.Go(func() { f(ctx) })
	}
}

// sleep waits for d of the hub's clock and reports whether ctx still goes on.
func (h *Hub) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(time.Duration(float64(d) / h.o.ClockRate))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// sweep ends subscriptions whose lease has, and returns when the next one does.
// Source: WebSub, section 5.1: a lease is enforced, and never perpetual.
func (h *Hub) sweep(ctx context.Context) (next time.Time) {
	now := h.o.Clock()
	next = now.Add(sweepLatest)
	for _, e := range h.all() {
		until := e.sub.Load().Until
		if now.Before(until) {
			if until.Before(next) {
				next = until
			}
			continue
		}
		if err := h.expire(ctx, e); err != nil && ctx.Err() == nil {
			h.o.Log.Warn("a subscription whose lease has ended stays on disk", "sub", e.sub.Load().ID, "err", err)
		}
	}
	return next
}

// sleepUntil waits for a time of the hub's clock, or for an earlier lease.
func (h *Hub) sleepUntil(ctx context.Context, t time.Time) {
	pause := max(time.Duration(float64(t.Sub(h.o.Clock()))/h.o.ClockRate), sweepPause)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-h.earlier:
		h.sleep(ctx, time.Duration(float64(sweepPause)*h.o.ClockRate))
	}
}

func (h *Hub) expire(ctx context.Context, e *entry) error {
	defer h.lock(e.key)()
	if h.o.Clock().Before(e.sub.Load().Until) || !h.inForce(e) {
		return nil // it was renewed, or has ended
	}
	h.counts.end(byLease)
	return h.end(ctx, e)
}

// inForce reports whether e has not ended.
func (h *Hub) inForce(e *entry) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keys[e.key] == e
}

// end ends a subscription, with what else changes at once, and forgets the call of
// its key that is owed if it is among that. Its key is locked.
func (h *Hub) end(ctx context.Context, e *entry, also ...graph.Record) error {
	s := e.sub.Load()
	records := append([]graph.Record{{Key: recordSubscription + s.ID}, {Key: recordHad + s.ID}}, also...)
	if err := h.ledger.PutRecords(ctx, records); err != nil {
		return err
	}
	h.mu.Lock()
	delete(h.ids, s.ID)
	delete(h.keys, e.key)
	h.count(s.Owner, -1, 0)
	h.mu.Unlock()
	e.unfollow()
	if err := h.o.Engine.Detach(ctx, outletName(s.ID), true); !errors.Is(err, delivery.ErrUnknown) {
		return err
	}
	return nil // it has ended there, or never began
}

// deny ends a subscription, if there is one, and owes its callback to be told why.
// The key of both is locked.
func (h *Hub) deny(ctx context.Context, t terms, k key, e *entry, why string) error {
	t.Secret, t.Lease = nil, 0
	c := &call{terms: t, Mode: denied, Reason: why, Known: true, key: k}
	var full *graph.NoSpaceError
	if e != nil {
		err := h.end(ctx, e, c.record())
		if errors.As(err, &full) {
			err = h.end(ctx, e) // it is told all the same, unless the hub dies
		}
		if err != nil {
			return err
		}
	} else if err := h.ledger.PutRecords(ctx, []graph.Record{c.record()}); err != nil && !errors.As(err, &full) {
		return err
	}
	h.mu.Lock()
	old := h.unbook(k)
	h.enter(c)
	h.mu.Unlock()
	h.launch(c, old)
	return nil
}

// look ends a subscription that its owner cannot have any more.
func (h *Hub) look(e *entry) {
	h.begin(func(ctx context.Context) {
		if err := h.judge(ctx, e); err != nil && ctx.Err() == nil {
			h.o.Log.Warn("a subscription that is not allowed goes on until the next start", "sub", e.sub.Load().ID, "err", err)
		}
	})
}

// judge looks whether the owner of a subscription may still have it.
func (h *Hub) judge(ctx context.Context, e *entry) error {
	defer h.lock(e.key)()
	if !h.inForce(e) {
		return nil
	}
	s := e.sub.Load()
	viewer := h.viewerOf(s.Owner)
	why, err := h.barred(e.topic, viewer)
	if err == nil && why == "" {
		if f := e.feed.Load(); f != nil && errors.Is(f.Err(), subscriptions.ErrNoChannel) {
			err = f.Err() // it was deleted, also if there is another one of its name
		}
	}
	var from source
	if err == nil && why == "" {
		from, err = h.source(e.topic, viewer)
	}
	if err != nil {
		why = refused(err)
	}
	if why == "" {
		h.follow(e, from, viewer)
		return nil
	}
	h.counts.end(byDenial)
	return h.deny(ctx, s.terms, e.key, e, why)
}

// follow has a subscription read a source, which is for viewer, from now on.
func (h *Hub) follow(e *entry, from source, viewer subscriptions.Viewer) {
	w := &watched{source: from, sees: seesOf(viewer)}
	w.feed, _ = from.(*subscriptions.Feed)
	name := outletName(e.sub.Load().ID)
	w.stop = from.Watch(func() {
		h.o.Engine.News(name)
		if from.Err() != nil {
			h.look(e)
		}
	})
	if old := e.feed.Swap(w); old != nil {
		old.stop()
	}
	h.o.Engine.News(name) // what came between the two
}

func (e *entry) unfollow() {
	if old := e.feed.Swap(nil); old != nil {
		old.stop()
	}
}

// resumers is how many subscriptions are taken up at once: what is written for them
// shares a flush.
const resumers = 64

// resumeAll takes up all subscriptions when the hub starts.
func (h *Hub) resumeAll(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(resumers)
	for _, e := range h.all() {
		g.Go(func() error {
			if err := h.resume(ctx, e); err != nil && ctx.Err() == nil {
				h.o.Log.Error("a subscription is not delivered to until the next start", "sub", e.sub.Load().ID, "err", err)
			}
			return nil
		})
	}
	g.Wait()
}

func (h *Hub) resume(ctx context.Context, e *entry) error {
	if err := h.expire(ctx, e); err != nil {
		return err
	}
	if err := h.judge(ctx, e); err != nil || !h.inForce(e) {
		return err
	}
	return h.attach(ctx, e)
}

// Ended hears from the engine that a callback said it is gone.
// Source: WebSub, section 7: a hub may end a subscription that is answered 410.
func (h *Hub) Ended(name string) {
	e, err := h.find(strings.TrimPrefix(name, outlets))
	if err != nil {
		return
	}
	h.begin(func(ctx context.Context) {
		defer h.lock(e.key)()
		if !h.inForce(e) {
			return
		}
		h.counts.end(byGone)
		if err := h.end(ctx, e); err != nil && ctx.Err() == nil {
			h.o.Log.Warn("a subscription whose callback is gone stays on disk", "sub", e.sub.Load().ID, "err", err)
		}
	})
}
