package delivery

import (
	"context"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// Health is how an outlet is, in a word.
type Health string

const (
	Active  Health = "active"  // it is called when there is something
	Paused  Health = "paused"  // somebody paused it
	Failing Health = "failing" // its last call failed, or as many wait for another as may
	Held    Health = "held"    // it waits for those it is behind
	Full    Health = "full"    // it stands still: too many dead letters
)

// A progress counts what became of an outlet's pieces since it was made, and when.
type progress struct {
	Sent    uint64 `json:"sent,omitempty"`
	Ignored uint64 `json:"ignored,omitempty"`
	Failed  uint64 `json:"failed,omitempty"`
	Retried uint64 `json:"retried,omitempty"`
	GivenUp uint64 `json:"given_up,omitempty"`
	Dead    uint64 `json:"dead,omitempty"`
	Skipped uint64 `json:"skipped,omitempty"`
	Merged  uint64 `json:"merged,omitempty"`
	Lost    uint64 `json:"lost,omitempty"`

	LastSuccess time.Time `json:"last_success,omitzero"`
	LastError   string    `json:"last_error,omitempty"`
	FailedAt    time.Time `json:"failed_at,omitzero"`
}

// A State is what is shown of an outlet.
type State struct {
	Health  Health
	Cursors [2]graph.Cursor // by lane: all up to there was taken, or waits apart
	Behind  uint64          // positions from the older of them to the head, 0 if nothing waits
	// Since is when the oldest of what waits was cut from the journal; zero if nothing
	// waits. What is further behind than is cut ahead may be older.
	Since   time.Time
	Calls   int       // in flight
	Waiting int       // pieces that are tried again, or held
	Letters int       // dead ones
	Failed  int       // calls in a row
	Next    time.Time // the next attempt after a failure; zero if none is due

	LastSuccess time.Time
	LastError   string // "" if the last call was taken
	FailedAt    time.Time

	// Counted since the outlet was made: pieces taken, or taken as such by their
	// answer; calls that failed; retries set; contents given up for now; dead letters;
	// notices that were not wanted, and those that a later one stood for; times that the
	// journal had lost what was next.
	Sent, Ignored, Failures, Retried, GivenUp, Dead, Skipped, Merged, Lost uint64
}

// State returns the state of an outlet that is attached.
func (e *Engine) State(name string) (State, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.outlets[name]
	if out == nil {
		return State{}, false
	}
	head := e.headOf(&out.settings)
	p := &out.seen
	s := State{Health: Active, Calls: out.calls, Waiting: out.rows + out.revived, Letters: len(out.letters), Failed: out.failures, Next: out.until,
		LastSuccess: p.LastSuccess, FailedAt: p.FailedAt, Sent: p.Sent, Ignored: p.Ignored, Failures: p.Failed, Retried: p.Retried,
		GivenUp: p.GivenUp, Dead: p.Dead, Skipped: p.Skipped, Merged: p.Merged, Lost: p.Lost}
	if p.FailedAt.After(p.LastSuccess) {
		s.LastError = p.LastError
	}
	s.Since = out.since()
	stalled := false
	for i := range out.lanes {
		l := &out.lanes[i]
		s.Cursors[i] = graph.Cursor{Epoch: head.Epoch, Seq: l.cursor}
		stalled = stalled || l.stalled
		if l.batches.len() > 0 || l.news != l.had {
			s.Behind = max(s.Behind, head.Seq-min(head.Seq, l.cursor))
		}
	}
	if len(out.retries) > 0 && (s.Next.IsZero() || out.retries[0].due.After(s.Next)) {
		s.Next = out.retries[0].due
	}
	if out.settings.Serial && len(out.retries) > 0 {
		s.Waiting = 1
	}
	switch {
	case out.paused:
		s.Health = Paused
	case len(out.letters) >= maxDead:
		s.Health = Full
	case out.failures > 0:
		s.Health = Failing
	case stalled || len(out.held) > 0:
		s.Health = Held
	case out.rows >= maxRetries: // others succeed, and it stands still all the same
		s.Health = Failing
	}
	return s, true
}

// since is when the oldest of what is not settled was cut. The lock is held.
func (out *outlet) since() (at time.Time) {
	older := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for i := range out.lanes {
		if q := &out.lanes[i].batches; q.len() > 0 {
			older(q.items[q.first].cut)
		}
	}
	for _, it := range out.retries {
		older(it.first)
	}
	for _, list := range out.held {
		for _, it := range list {
			older(it.first)
		}
	}
	return at
}

// Stats are the figures of an engine since its start.
type Stats struct {
	Outlets int    // attached
	Open    int    // calls in flight
	Calls   uint64 // made
	Sent    uint64 // pieces that were taken
	Failed  uint64 // calls
	Retried uint64
	GivenUp uint64
	Dead    uint64
	Merged  uint64 // pieces that another one stood for
	Paused  bool
}

// Stats returns the current figures.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.Outlets, s.Open, s.Paused = len(e.outlets), e.flights.Len()+e.slow.Len(), e.brake
	return s
}

// end ends an outlet that an answer ended. The lock is held.
func (e *Engine) end(out *outlet) {
	e.takeOut(out)
	// Its rows are deleted by who has the lock for that.
	e.work.Go(func() {
		err := e.forget(out.name)
		if err == nil {
			err = e.durable(context.WithoutCancel(e.calling), out.name)
		}
		if err != nil {
			e.log.Error("an outlet that ended is not forgotten", "outlet", out.name, "err", err)
		}
		if e.o.Ended != nil {
			e.o.Ended(out.name)
		}
	})
}
