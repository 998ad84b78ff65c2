package delivery

import (
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/bubble"
)

// TestWhoComesBackAfterItWasGivenUpNeedsNoNews: the next content may be long in coming.
func TestWhoComesBackAfterItWasGivenUpNeedsNoNews(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		down := true
		o := &target{name: "websub/a", merge: true, answer: func(sent) (int, string) {
			if down {
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
		down = false
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
		if o.most != 1 {
			t.Errorf("%d calls at once", o.most)
		}
		if calls := o.calls(); calls[len(calls)-1].piece.Until != 5 || len(h.e.hosts) != 1 {
			t.Errorf("%d calls, %d hosts", len(calls), len(h.e.hosts))
		}
		h.end()
	})
}
