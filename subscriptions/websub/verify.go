package websub

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

const (
	// maxVerifying bounds the verifications at once: callbacks that hang leave most of
	// what the hub calls at once to deliveries.
	maxVerifying = 64
	// maxVerifyingPerOwner bounds those of one owner, who would else keep others waiting
	// by callbacks that hang.
	maxVerifyingPerOwner = 8
	// verifyTime bounds one, the wait for a place at its host included, of the real
	// clock. The call alone has what a delivery has.
	verifyTime = 30 * time.Second
	// patience is how long a verification waits for its turn at a host or an address:
	// long enough to come into the next minute and not into a third one, so that
	// whatever is asked for at once costs a victim twice a minute's calls at most.
	patience = 90 * time.Second
	// maxTries bounds the tries of a verification that found nobody, or somebody in
	// trouble. What answers otherwise has answered.
	maxTries = 3
	// tryAgain is the wait before the second try, and a third of that before the next.
	tryAgain = 5 * time.Second
)

// Admit is asked before an address is dialled for a verification, and books it.
func (h *Hub) Admit(to netip.AddrPort) error {
	if wait := h.addrs.book(Target(to.Addr())); wait > 0 {
		return &crowdedError{wait}
	}
	return nil
}

// An outcome is what became of a call, from a closed set.
type outcome string

const (
	confirmed outcome = "confirmed"
	told      outcome = "told"     // of a denial
	refusedBy outcome = "refused"  // the callback answered something else than the challenge
	unheard   outcome = "unheard"  // nobody answered
	crowded   outcome = "crowded"  // its host was asked too often
	replaced  outcome = "replaced" // by a newer request
)

// launch makes a call that is owed, and gives up the older one of its key. While the
// hub does not run it only stays owed.
func (h *Hub) launch(c, old *call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old != nil && old.cancel != nil {
		old.cancel()
	}
	if h.run == nil {
		return
	}
	run := h.run
	c.ctx, c.cancel = context.WithCancel(run)
	h.work.Go(func() {
		defer c.cancel()
		h.settle(run, c, h.make(c))
	})
}

// make makes a call, in its turn and more than once if need be.
func (h *Hub) make(c *call) outcome {
	deadline := h.o.Clock().Add(patience)
	pause := tryAgain
	for try := 1; ; {
		wait := time.Duration(0)
		if !c.Known {
			wait = h.hosts.book(c.Callback.host())
		}
		if wait == 0 {
			what, answered, later := h.try(c)
			switch {
			case c.ctx.Err() != nil:
				return replaced
			case what == crowded:
				wait = later // it was not called; its turn comes
			case answered || try == maxTries:
				return what
			default:
				try++
				wait, pause = pause, 3*pause
			}
		}
		if h.o.Clock().Add(wait).After(deadline) {
			return crowded
		}
		if !h.sleep(c.ctx, wait) {
			return replaced
		}
	}
}

// try makes a call once. Answered says that another try would bring nothing else, later
// when an address that is crowded may be called.
func (h *Hub) try(c *call) (what outcome, answered bool, later time.Duration) {
	for _, places := range []chan struct{}{c.places, h.verifying} {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-c.ctx.Done():
			return replaced, true, 0
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, verifyTime)
	defer cancel()
	challenge := rand.Text()
	values := url.Values{"hub.mode": {string(c.Mode)}, "hub.topic": {c.Topic}}
	switch c.Mode {
	case Subscribe:
		values.Set("hub.lease_seconds", strconv.FormatInt(int64(c.Lease/time.Second), 10))
		values.Set("hub.challenge", challenge)
	case Unsubscribe:
		values.Set("hub.challenge", challenge)
	case denied:
		values.Set("hub.reason", c.Reason)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Callback.with(values.Encode()), nil)
	if err != nil {
		return unheard, true, 0
	}
	r.Header.Set("User-Agent", userAgent)
	var caller delivery.Caller = h.o.Verifier
	if c.Known {
		caller = h.o.Callbacks
	}
	answer, err := h.o.Engine.Call(ctx, c.Callback.place(), caller, r)
	if err != nil {
		if full := (*crowdedError)(nil); errors.As(err, &full) {
			return crowded, false, full.wait
		}
		return unheard, false, 0
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests {
		return unheard, false, 0
	}
	if c.Mode == denied {
		return told, true, 0
	}
	if answer.StatusCode/100 != 2 {
		return refusedBy, true, 0
	}
	// One byte more tells a body that is longer from the challenge itself.
	b := make([]byte, len(challenge)+1)
	n, err := io.ReadFull(answer.Body, b)
	if err == nil || string(b[:n]) != challenge {
		return refusedBy, true, 0
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return unheard, false, 0 // it broke off
	}
	return confirmed, true, 0
}

const userAgent = "freshwire"

// settle has a call's outcome take effect, unless the call is not the newest any
// more. A call that the hub's end cut off is made again when it starts.
func (h *Hub) settle(ctx context.Context, c *call, what outcome) {
	if ctx.Err() != nil {
		return
	}
	defer h.lock(c.key)()
	e, newest := h.of(c.key)
	if newest != c {
		h.counts.outcome(c.Mode, replaced)
		return
	}
	h.counts.outcome(c.Mode, what)
	var err error
	switch {
	case what == confirmed && c.Mode == Subscribe:
		err = h.establish(ctx, c, e)
	case what == confirmed && e != nil:
		h.counts.end(byItself)
		if err = h.end(ctx, e, graph.Record{Key: recordPending + c.key.String()}); err == nil {
			h.mu.Lock()
			h.unbook(c.key)
			h.mu.Unlock()
		}
	default:
		err = h.forget(ctx, c)
	}
	level := slog.LevelDebug
	if err != nil {
		level = slog.LevelWarn // it is on disk, and taken up again when the hub starts
		h.mu.Lock()
		if h.pending[c.key] == c {
			h.unbook(c.key)
		}
		h.mu.Unlock()
	}
	h.o.Log.LogAttrs(ctx, level, "subscription asked for", slog.String("mode", string(c.Mode)),
		slog.String("key", c.key.String()), slog.String("outcome", string(what)), slog.Any("err", err))
}

// forget drops a call that came to nothing.
func (h *Hub) forget(ctx context.Context, c *call) error {
	err := h.ledger.PutRecords(ctx, []graph.Record{{Key: recordPending + c.key.String()}})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unbook(c.key)
	return err
}

// establish puts in force what a callback confirmed: a subscription, or new terms of
// the one that is there. The key is locked.
func (h *Hub) establish(ctx context.Context, c *call, e *entry) error {
	t, no := parseTopic(c.Topic)
	if no != nil {
		return no
	}
	viewer := h.viewerOf(c.Owner)
	why, err := h.barred(t, viewer)
	var from source
	if err == nil && why == "" {
		from, err = h.source(t, viewer)
	}
	if err != nil {
		why = refused(err)
	}
	if why != "" { // that changed since it was asked for
		return h.deny(ctx, c.terms, c.key, e, why)
	}
	now := h.o.Clock()
	s := &subscription{terms: c.terms, ID: newID(), Made: now, Until: now.Add(c.Lease), From: from.Head()}
	if e != nil {
		old := e.sub.Load()
		s.ID, s.Made, s.From = old.ID, old.Made, old.From
	}
	if err := h.ledger.PutRecords(ctx, []graph.Record{s.record(), {Key: recordPending + c.key.String()}}); err != nil {
		return err
	}
	isNew := e == nil
	h.mu.Lock()
	h.unbook(c.key)
	if isNew {
		e = &entry{key: c.key, topic: t}
		e.has([2]graph.Cursor{s.From, s.From})
	} else {
		h.count(e.sub.Load().Owner, -1, 0)
	}
	e.sub.Store(s)
	h.install(e)
	h.mu.Unlock()
	h.follow(e, from, viewer)
	select {
	case h.earlier <- struct{}{}: // its lease may be the first to end
	default:
	}
	if !isNew {
		return nil
	}
	return h.attach(ctx, e)
}
