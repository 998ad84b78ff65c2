package delivery

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

func TestThePromptLaneOfALaterStageDoesNotWaitForBulkThatNobodyHasTried(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		inner := &target{name: "sink/inner"}
		outer := &target{name: "sink/outer"}
		h.attach(inner, Settings{Rate: 1})
		h.attach(outer, Settings{Behind: []string{inner.name}})
		for i := range 50 {
			h.board.add(note{lane: graph.Bulk, key: fmt.Sprint(i), bucket: "b"})
		}
		h.add()
		time.Sleep(time.Second)
		h.add(note{key: "own", bucket: "b"})
		time.Sleep(5 * time.Second)
		if !slices.Contains(positions(outer.calls()), 51) {
			t.Errorf("the outer stage was called for %v", positions(outer.calls()))
		}
		h.end()
	})
}

// TestALaterAcknowledgementOfAKeyStandsForWhatFailedBefore, in whichever lane.
func TestALaterAcknowledgementOfAKeyStandsForWhatFailedBefore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger := newLedger()
		h := start1(t, ledger, new(board), Options{})
		inner := &target{name: "sink/inner", answer: func(s sent) (int, string) {
			if s.piece.Lane == graph.Bulk {
				return 503, ""
			}
			return 200, ""
		}}
		outer := &target{name: "sink/outer"}
		h.attach(inner, Settings{})
		h.attach(outer, Settings{Behind: []string{inner.name}})
		h.add(note{lane: graph.Bulk, key: "k", bucket: "b"})
		time.Sleep(10 * time.Minute)
		tried := len(inner.calls())
		h.add(note{key: "k", bucket: "b"})
		time.Sleep(5 * time.Second)
		if got := positions(outer.calls()); !slices.Contains(got, 2) {
			t.Errorf("the outer stage was called for %v", got)
		}
		time.Sleep(100 * time.Hour)
		if n := len(inner.calls()); n != tried+1 {
			t.Errorf("what was older was called %d times more", n-tried-1)
		}
		if s := h.state(inner.name); s.Waiting != 0 || s.Behind != 0 {
			t.Errorf("%+v", s)
		}
		h.end()
	})
}

func TestBeginningAgainKeepsWhatIsHeld(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		var stuck atomic.Bool
		stuck.Store(true)
		inner := &target{name: "sink/inner", answer: func(sent) (int, string) {
			if stuck.Load() {
				return 503, ""
			}
			return 200, ""
		}}
		outer := &target{name: "sink/outer"}
		h.attach(inner, Settings{Schedule: Schedule{Steps: []time.Duration{time.Minute}, Limit: 1000}})
		h.attach(outer, Settings{Behind: []string{inner.name}})
		h.add(note{key: "k", bucket: "b"})
		time.Sleep(10 * time.Second) // it has a row by now
		if err := h.e.Control(t.Context(), outer.name, "replay", h.board.head()); err != nil {
			t.Fatal(err)
		}
		stuck.Store(false)
		time.Sleep(time.Hour)
		if got := positions(outer.calls()); fmt.Sprint(got) != "[1]" {
			t.Errorf("the outer stage was called for %v", got)
		}
		if s := h.state(outer.name); s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
		h.end()
	})
}
