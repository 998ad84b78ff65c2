package delivery

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/bubble"
)

// letters returns all dead letters of an outlet.
func (h *house) letters(name string) []Letter {
	h.t.Helper()
	list, _, err := h.e.DeadLetters(h.t.Context(), name, "", 0, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

func (h *house) replay(letters []Letter, want int) {
	h.t.Helper()
	if n, err := h.e.Replay(h.t.Context(), letters, 0); n != want || err != nil {
		h.t.Errorf("replayed %d of %d, %v, want %d", n, len(letters), err, want)
	}
}

// TestALaterStageWaitsForALetterThatWhatIsNewerStandsFor: whatever takes the place of a
// dead letter is waited for from where that began.
func TestALaterStageWaitsForALetterThatWhatIsNewerStandsFor(t *testing.T) {
	for _, newer := range []string{"on its way", "a letter too"} {
		t.Run(newer, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				h := start1(t, newLedger(), new(board), Options{})
				var status atomic.Int32
				status.Store(400)
				inner := &target{name: "sink/inner", answer: func(s sent) (int, string) {
					if s.piece.Key == "k" {
						return int(status.Load()), ""
					}
					return 200, ""
				}}
				outer := &target{name: "sink/outer"}
				h.attach(inner, Settings{})
				h.attach(outer, Settings{Behind: []string{inner.name}})
				h.add(note{key: "k", bucket: "b"})
				time.Sleep(time.Second)
				h.add(note{key: "other", bucket: "b"}) // the outer stage is to wait with it for the letter
				time.Sleep(time.Second)
				if newer == "on its way" {
					status.Store(503)
				}
				h.add(note{key: "k", bucket: "b"})
				time.Sleep(time.Second)
				status.Store(503)
				h.replay(h.letters(inner.name), len(h.letters(inner.name)))
				time.Sleep(time.Minute)
				if got := positions(outer.calls()); len(got) != 0 {
					t.Errorf("the outer stage was called for %v", got)
				}
				status.Store(200)
				time.Sleep(time.Hour)
				if got := positions(outer.calls()); !slices.Contains(got, 2) || !slices.Contains(got, 3) {
					t.Errorf("at last the outer stage was called for %v", got)
				}
				h.end()
			})
		})
	}
}

// TestOfLettersOfAKeyTheNewestThatIsThereIsCalled: what was dropped says nothing.
func TestOfLettersOfAKeyTheNewestThatIsThereIsCalled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		var status atomic.Int32
		status.Store(400)
		o := &target{name: "sink/a", answer: func(sent) (int, string) { return int(status.Load()), "" }}
		h.attach(o, Settings{})
		for range 3 {
			h.add(note{key: "k"})
			time.Sleep(time.Second)
		}
		all := h.letters(o.name)
		if n, err := h.e.Drop(t.Context(), all[2:]); n != 1 || err != nil {
			t.Errorf("dropped %d, %v", n, err)
		}
		status.Store(200)
		h.replay(all, 2)
		time.Sleep(time.Second)
		if s := h.state(o.name); s.Letters != 0 || fmt.Sprint(positions(o.calls())) != "[1 2 3 2]" {
			t.Errorf("called for %v, then %+v", positions(o.calls()), s)
		}
		h.end()
	})
}
