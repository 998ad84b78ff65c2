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
