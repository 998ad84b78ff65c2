package delivery

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

// TestWhoComesBackAfterItWasGivenUpNeedsNoNews: the next content may be long in coming.
func TestWhoComesBackAfterItWasGivenUpNeedsNoNews(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		var down atomic.Bool
		down.Store(true)
		o := &target{name: "websub/a", merge: true, answer: func(sent) (int, string) {
			if down.Load() {
				return 503, ""
			}
			return 200, ""
		}}
		h.attach(o, Settings{Serial: true})
		h.add(prompt(3)...)
		time.Sleep(120 * time.Hour)
		tried := len(o.calls())
		if s := h.state(o.name); s.GivenUp == 0 || s.Behind != 3 {
			t.Errorf("after five days %+v", s)
		}
		if tried > 30 {
			t.Errorf("tried %d times", tried)
		}
		down.Store(false)
		time.Sleep(24 * time.Hour)
		calls := o.calls()
		if last := calls[len(calls)-1]; last.status != 200 || last.piece.After != 0 || last.piece.Until != 3 {
			t.Errorf("at last %+v", last)
		}
		h.end()
	})
}

// TestASerialOutletThatIsAttachedAgainWaitsForItsCall: its settings may change while it
// is called.
func TestASerialOutletThatIsAttachedAgainWaitsForItsCall(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o := &target{name: "websub/a", merge: true, hang: 5 * time.Second}
		h.attach(o, Settings{Serial: true})
		for range 5 {
			h.add(prompt(1)...)
			time.Sleep(time.Second)
			h.attach(o, Settings{Serial: true})
		}
		if err := h.e.Detach(t.Context(), o.name, false); err != nil {
			t.Fatal(err)
		}
		h.attach(o, Settings{Serial: true})
		time.Sleep(time.Minute)
		if most := o.mostOpen(); most != 1 {
			t.Errorf("%d calls at once", most)
		}
		if calls := o.calls(); calls[len(calls)-1].piece.Until != 5 || h.hosts() != 1 {
			t.Errorf("%d calls, %d hosts", len(calls), h.hosts())
		}
		h.end()
	})
}

func TestRetryAfterHoldsTheWholeOutlet(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		var later atomic.Bool
		o := &target{name: "sink/a", answer: func(sent) (int, string) {
			if !later.Swap(true) {
				return 429, "600"
			}
			return 200, ""
		}}
		h.attach(o, Settings{Concurrency: 4})
		h.add(prompt(1)...)
		time.Sleep(time.Second)
		h.add(prompt(10)...)
		time.Sleep(9 * time.Minute)
		if n := len(o.calls()); n != 1 {
			t.Errorf("%d calls within the time that was asked for", n)
		}
		time.Sleep(2 * time.Minute)
		if n := len(o.calls()); n != 12 {
			t.Errorf("%d calls afterwards", n)
		}
		h.end()
	})
}

func TestOneURLThatAsksForADayStopsNoOtherForADay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o := &target{name: "sink/a", answer: func(s sent) (int, string) {
			if s.piece.Until == 1 && s.attempt == 1 {
				return 503, "86400"
			}
			return 200, ""
		}}
		h.attach(o, Settings{Concurrency: 4})
		h.add(prompt(1)...)
		time.Sleep(time.Second)
		h.add(prompt(10)...)
		time.Sleep(11 * time.Minute)
		if n := len(o.calls()); n != 11 {
			t.Errorf("%d calls, want one of the first and ten of the others", n)
		}
		time.Sleep(24 * time.Hour)
		if n := len(o.calls()); n != 12 {
			t.Errorf("%d calls a day later", n)
		}
		h.end()
	})
}

// TestIdleCursorsKeepAheadOfTheTrimming, in few writes, and never pass what waits.
func TestIdleCursorsKeepAheadOfTheTrimming(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		idle, paused := &target{name: "websub/idle", merge: true}, &target{name: "websub/paused", merge: true}
		h.attach(idle, Settings{Serial: true})
		h.attach(paused, Settings{Serial: true})
		if err := h.e.Control(t.Context(), paused.name, "pause", graph.Cursor{}); err != nil {
			t.Fatal(err)
		}
		h.add(prompt(1)...)
		time.Sleep(time.Second)
		puts := h.ledger.written()
		for range 1000 {
			h.board.add(prompt(100)...) // not for them
			time.Sleep(5 * time.Minute)
			h.board.mu.Lock()
			h.board.oldest = uint64(max(0, len(h.board.notes)-5000))
			h.board.mu.Unlock()
			if s := h.state(idle.name); min(s.Cursors[0].Seq, s.Cursors[1].Seq) < h.board.first().Seq {
				t.Fatalf("at %d a cursor is %v", h.board.first().Seq, s.Cursors)
			}
		}
		if n := h.ledger.written() - puts; n > 150 {
			t.Errorf("%d writes", n)
		}
		if s := h.state(paused.name); s.Cursors[0].Seq != 0 {
			t.Errorf("one that was not told passed what waits: %+v", s)
		}
		h.end()
	})
}
