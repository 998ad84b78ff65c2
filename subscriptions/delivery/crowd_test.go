package delivery

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

// TestManyHostsThatHangDelayNobodyElse has more hosts that hang than there are places.
func TestManyHostsThatHangDelayNobodyElse(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{Global: 32, PerHost: 4})
		var good []*target
		for i := range 60 {
			h.attach(&target{name: fmt.Sprint("websub/bad", i), merge: true, hang: 10 * time.Second}, Settings{Serial: true})
			g := &target{name: fmt.Sprint("websub/good", i), merge: true, hang: time.Millisecond}
			h.attach(g, Settings{Serial: true})
			good = append(good, g)
		}
		h.add(prompt(1)...)
		time.Sleep(3 * time.Second)
		for _, g := range good {
			if len(g.calls()) != 1 {
				t.Errorf("%s was called %d times", g.name, len(g.calls()))
			}
		}
		if s := h.e.Stats(); s.Open > 3*32 {
			t.Errorf("%d calls in flight", s.Open)
		}
		time.Sleep(time.Hour)
		if s := h.e.Stats(); s.Sent != 120 || s.Open != 0 {
			t.Errorf("at last %+v", s)
		}
		h.end()
	})
}

// TestAnOwnEditOvertakesAMillionInTheBulkLane is the figure that lanes are for.
func TestAnOwnEditOvertakesAMillionInTheBulkLane(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		h.board.add(slices.Repeat([]note{{lane: graph.Bulk}}, 1_000_000)...)
		o := &target{name: "sink/cache", hang: 2 * time.Millisecond}
		h.attach(o, Settings{Concurrency: 8, Rate: 1000, From: graph.Cursor{Epoch: 1, Seq: 1}})
		time.Sleep(5 * time.Second) // what may come at once has
		const edits = 200
		for range edits {
			h.add(prompt(1)...)
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		var took []time.Duration
		bulk, began := 0, o.calls()[0].at
		for _, s := range o.calls() {
			if s.piece.Lane == graph.Bulk {
				bulk++
				continue
			}
			edit := began.Add(5*time.Second + time.Duration(s.piece.Until-1_000_001)*50*time.Millisecond)
			took = append(took, s.ended.Sub(edit))
		}
		slices.Sort(took)
		if len(took) != edits || took[edits*99/100] > time.Second {
			t.Errorf("%d edits, p50 %s, p99 %s", len(took), took[len(took)/2], took[len(took)*99/100])
		}
		if bulk < 15_000 {
			t.Errorf("%d of the bulk lane in 20 s at 1,000/s", bulk)
		}
		t.Logf("p50 %s, p99 %s, beside %d of the bulk lane", took[edits/2], took[edits*99/100], bulk)
		h.end()
	})
}

// TestHostsTakeTurnsAndAtEachItsOutlets: 50 outlets at one host get no more than the one
// at another.
func TestHostsTakeTurnsAndAtEachItsOutlets(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{Global: 1})
		var crowd []*target
		h.board.add(prompt(100)...)
		if err := h.e.Pause(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			o := &target{name: fmt.Sprint("sink/", i), hang: 500 * time.Millisecond}
			h.attach(o, Settings{Host: "crowd", From: graph.Cursor{Epoch: 1, Seq: 1}})
			crowd = append(crowd, o)
		}
		alone := &target{name: "sink/alone", hang: 500 * time.Millisecond}
		h.attach(alone, Settings{From: graph.Cursor{Epoch: 1, Seq: 1}})
		synctest.Wait()
		if err := h.e.Pause(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50*time.Second + time.Millisecond)
		if n := len(alone.calls()); n < 49 || n > 51 {
			t.Errorf("the host with one outlet had %d of 100 calls", n)
		}
		for _, o := range crowd {
			if n := len(o.calls()); n < 0 || n > 2 {
				t.Errorf("%s had %d of 50", o.name, n)
			}
		}
		h.end()
	})
}

// A sluggish target hangs for its first piece alone.
type sluggish struct{ *target }

func (o sluggish) Do(r *http.Request) (*http.Response, error) {
	if r.Context().Value(pieceKey{}).(sent).piece.Until == 1 {
		select {
		case <-time.After(time.Minute):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return o.target.Do(r)
}

// TestOneCallThatHangsHoldsUpNothingElseOfItsOutlet, neither calls nor the cursor, and it
// is repeated after a crash.
func TestOneCallThatHangsHoldsUpNothingElseOfItsOutlet(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		h.board.add(prompt(40_000)...)
		o := sluggish{&target{name: "sink/a", board: h.board, hang: time.Millisecond}}
		settings := Settings{Concurrency: 8, Rate: 1000, From: graph.Cursor{Epoch: 1}, Caller: o}
		if err := h.e.Attach(t.Context(), o.name, o, settings); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if n := len(o.calls()); n < 29_000 {
			t.Errorf("%d calls in 30 s at 1,000/s", n)
		}
		if s := h.state(o.name); s.Cursors[graph.Prompt].Seq < 29_000 {
			t.Errorf("the cursor is at %v", s.Cursors)
		}
		left, before := h.ledger.copy(), len(o.calls())
		h.end()
		h = start1(t, left, h.board, Options{})
		if err := h.e.Attach(t.Context(), o.name, o, settings); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		repeated := map[uint64]int{}
		for _, s := range o.calls() {
			repeated[s.piece.Until]++
		}
		if repeated[1] != 1 || len(repeated) != 40_000 {
			t.Errorf("the one that hung was answered %d times, and %d of 40,000 were called", repeated[1], len(repeated))
		}
		if n := len(o.calls()) - 40_000; n > 500 {
			t.Errorf("%d calls were repeated (%d before)", n, before)
		}
		if s := h.state(o.name); s.Waiting != 0 || s.Cursors[graph.Prompt].Seq != 40_000 {
			t.Errorf("at last %+v", s)
		}
		h.end()
	})
}

func TestBothLanesOfASerialOutletHaveTheirShare(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		h.board.add(slices.Repeat([]note{{lane: graph.Bulk}}, 1000)...)
		h.board.add(prompt(900)...)
		o := &target{name: "websub/a", hang: time.Millisecond}
		if err := h.e.Pause(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		h.attach(o, Settings{Serial: true})
		if err := h.e.Control(t.Context(), o.name, "replay", graph.Cursor{Epoch: 1}); err != nil {
			t.Fatal(err)
		}
		if err := h.e.Pause(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		calls, bulk := o.calls(), 0
		for _, s := range calls[:min(900, len(calls))] {
			if s.piece.Lane == graph.Bulk {
				bulk++
			}
		}
		if len(calls) != 1900 || bulk < 85 || bulk > 110 {
			t.Errorf("%d calls, of the first 900 are %d of the bulk lane", len(calls), bulk)
		}
		h.end()
	})
}
