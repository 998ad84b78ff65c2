package delivery

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/bubble"
)

// TestDeadLettersThatAreReplayedSlowlyHoldNobodyUp: who replays at a rate does so beside
// what is new, and all of them are taken at once.
func TestDeadLettersThatAreReplayedSlowlyHoldNobodyUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger, b := newLedger(), new(board)
		h := start1(t, ledger, b, Options{})
		var status atomic.Int32
		status.Store(400)
		o := &target{name: "sink/a", answer: func(sent) (int, string) { return int(status.Load()), "" }}
		h.attach(o, Settings{Concurrency: 4})
		const dead = 2*maxRetries + 100
		h.add(prompt(dead)...)
		time.Sleep(time.Minute)
		status.Store(200)
		var letters []Letter
		for after := ""; ; {
			list, next, err := h.e.DeadLetters(t.Context(), o.name, after, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			letters = append(letters, list...)
			if after = next; next == "" {
				break
			}
		}
		if n, err := h.e.Replay(t.Context(), letters, 1); n != dead || err != nil {
			t.Errorf("of %d letters %d were taken, %v", len(letters), n, err)
		}
		time.Sleep(10 * time.Second)
		h.end()
		h = start1(t, ledger.copy(), b, Options{}) // what is to be replayed outlives that
		h.attach(o, Settings{Concurrency: 4})
		before := len(o.calls())
		h.add(prompt(1)...)
		time.Sleep(900 * time.Millisecond)
		if calls := positions(o.calls()[before:]); !slices.Contains(calls, dead+1) {
			t.Errorf("what is new waits for what is replayed: called for %v", calls)
		}
		time.Sleep(dead * time.Second)
		if n := len(o.calls()); n != 2*dead+1 {
			t.Errorf("%d calls in all, want %d", n, 2*dead+1)
		}
		if s := h.state(o.name); s.Letters != 0 || s.Waiting != 0 {
			t.Errorf("at last %+v", s)
		}
		h.end()
	})
}
