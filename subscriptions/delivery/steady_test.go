package delivery

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
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

// TestAFewThatAreNeverTakenHoldNobodyUp: what fails again says nothing new of the other
// side.
func TestAFewThatAreNeverTakenHoldNobodyUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o := &target{name: "sink/a"}
		o.answer = func(s sent) (int, string) {
			if s.piece.Until <= 4 {
				return 503, ""
			}
			return 200, ""
		}
		h.attach(o, Settings{Concurrency: 4})
		h.add(prompt(4)...)
		time.Sleep(time.Hour)
		before := len(o.calls())
		h.add(prompt(1)...)
		time.Sleep(time.Second)
		if calls := positions(o.calls()[before:]); !slices.Contains(calls, 5) {
			t.Errorf("what is new was not called within a second: %v", calls)
		}
		h.end()
	})
}

// TestWhoIsDownIsProbedEverMoreSeldomAndGetsEverythingLater, one call at a time, over a
// restart.
func TestWhoIsDownIsProbedEverMoreSeldomAndGetsEverythingLater(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger, b := newLedger(), new(board)
		h := start1(t, ledger, b, Options{})
		var status atomic.Int32
		status.Store(503)
		o := &target{name: "sink/a", hang: time.Second, answer: func(sent) (int, string) { return int(status.Load()), "" }}
		h.attach(o, Settings{Concurrency: 8})
		const notices = 2 * maxRetries
		h.add(prompt(notices)...)
		time.Sleep(time.Hour)
		if s := h.state(o.name); s.Health != Failing || s.Next.IsZero() || s.LastError != "answered with status 503" {
			t.Errorf("after an hour %+v", s)
		}
		h.end()
		h = start1(t, ledger.copy(), b, Options{})
		h.attach(o, Settings{Concurrency: 8})
		first := len(o.calls())
		time.Sleep(2 * time.Hour)
		probes := o.calls()[first:]
		for i := 1; i < len(probes); i++ {
			if wait := probes[i].at.Sub(probes[i-1].at); wait < 9*time.Minute || wait > 12*time.Minute {
				t.Errorf("probed after %s", wait)
			}
		}
		if first > 40 || len(probes) < 8 {
			t.Errorf("called %d times in the first hour, %d times in the next two", first, len(probes))
		}
		status.Store(200)
		time.Sleep(4 * time.Hour)
		took := map[uint64]bool{}
		for _, s := range o.calls() {
			took[s.piece.Until] = took[s.piece.Until] || s.status == 200
		}
		missing := notices
		for _, ok := range took {
			if ok {
				missing--
			}
		}
		if s := h.state(o.name); missing != 0 || s.Health != Active || s.Letters != 0 || s.Behind != 0 {
			t.Errorf("%d are missing at last: %+v", missing, s)
		}
		h.end()
	})
}

// TestASerialOutletThatIsCutOffKeepsItsRange: whoever was cut off may have been heard.
func TestASerialOutletThatIsCutOffKeepsItsRange(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger, b := newLedger(), new(board)
		h := start1(t, ledger, b, Options{})
		o := &target{name: "websub/a", merge: true, hang: time.Hour}
		h.attach(o, Settings{Serial: true})
		h.add(prompt(3)...)
		time.Sleep(time.Second)
		h.end() // the call is cut off
		b.add(prompt(4)...)
		h = start1(t, ledger.copy(), b, Options{})
		o.hang = 0
		h.attach(o, Settings{Serial: true})
		time.Sleep(time.Minute)
		if got := fmt.Sprint(positions(o.calls())); got != "[3 7]" {
			t.Errorf("called up to %s", got)
		}
		if calls := o.calls(); calls[0].attempt != 1 {
			t.Errorf("the first call is attempt %d", calls[0].attempt)
		}
		h.end()
	})
}

// TestASerialOutletThatIsAttachedAnewSaysTheSameAgain: its call may have been heard.
func TestASerialOutletThatIsAttachedAnewSaysTheSameAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o := &target{name: "websub/a", merge: true, hang: 10 * time.Second}
		h.attach(o, Settings{Serial: true})
		h.add(prompt(3)...)
		time.Sleep(time.Second)
		h.add(prompt(4)...)
		h.attach(o, Settings{Serial: true})
		time.Sleep(time.Minute)
		if got := fmt.Sprint(positions(o.calls())); got != "[3 3 7]" {
			t.Errorf("called up to %s", got)
		}
		h.end()
	})
}

// TestWhoStandsStillSaysSo: with as many retries as there may be, nothing new is called.
func TestWhoStandsStillSaysSo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o := &target{name: "sink/a"}
		o.answer = func(s sent) (int, string) {
			if s.piece.Until == 1 {
				time.Sleep(10 * time.Second) // the last one that is answered
			}
			if s.piece.Until%2 == 0 {
				return 503, ""
			}
			return 200, ""
		}
		h.attach(o, Settings{Concurrency: 8, Schedule: Schedule{Steps: []time.Duration{time.Hour}}})
		h.add(prompt(4 * maxRetries)...)
		time.Sleep(30 * time.Minute)
		if s := h.state(o.name); s.Waiting != maxRetries || s.Health != Failing || s.Behind == 0 {
			t.Errorf("%+v", s)
		}
		h.end()
	})
}

// TestWhoAttachesTogetherSharesAWrite: nobody waits for the write of somebody else to
// begin.
func TestWhoAttachesTogetherSharesAWrite(t *testing.T) {
	l := &gatedLedger{newLedger(), make(chan struct{}), make(chan struct{})}
	h := startWith(t, l, new(board), Options{})
	var all sync.WaitGroup
	all.Go(func() { h.attach(&target{name: "websub/first"}, Settings{Serial: true}) })
	<-l.entered
	const others = 50
	for i := range others {
		all.Go(func() { h.attach(&target{name: fmt.Sprint("websub/", i)}, Settings{Serial: true}) })
	}
	late, look := time.After(10*time.Second), time.NewTicker(time.Millisecond)
	defer look.Stop()
	for h.e.Stats().Outlets <= others {
		select {
		case <-look.C:
		case <-late:
			t.Errorf("%d outlets are attached while one is written down", h.e.Stats().Outlets)
			close(l.gate)
			all.Wait()
			h.end()
			return
		}
	}
	close(l.gate)
	all.Wait()
	if n := l.written(); n > 3 {
		t.Errorf("%d writes", n)
	}
	if rows := l.copy().rows; len(rows) != others+1 {
		t.Errorf("%d of %d are written down", len(rows), others+1)
	}
	h.end()
}

// A gatedLedger tells of its first write, and begins none before the gate is open.
type gatedLedger struct {
	*mapLedger
	entered, gate chan struct{}
}

func (l *gatedLedger) PutRecords(ctx context.Context, records []graph.Record) error {
	select {
	case l.entered <- struct{}{}:
	case <-l.gate:
	}
	<-l.gate
	return l.mapLedger.PutRecords(ctx, records)
}
