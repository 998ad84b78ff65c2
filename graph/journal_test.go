package graph

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// journalOf is a store with n updates, one a minute, read through a tail that
// holds only the newest few.
func journalOf(t *testing.T, n int, o Options) *rig {
	o.TailBytes = 5 * chunkOverhead
	g := newRig(t, o)
	for i := range n {
		g.edit("X", fmt.Sprint(100+i), "h"+fmt.Sprint(i))
		g.wait(time.Minute)
	}
	return g
}

func TestReplayAndLiveHaveNoSeam(t *testing.T) {
	g := journalOf(t, 40, Options{})
	ctx := context.Background()
	for limit := 1; limit <= 50; limit += 7 {
		for from := uint64(0); from < 40; from++ {
			c := Cursor{g.s.epoch, from}
			for want := from + 1; want <= 40; {
				ns, next, err := g.s.ReadFrom(ctx, c, limit)
				if err != nil {
					t.Fatalf("from %s: %v", c, err)
				}
				if len(ns) == 0 || len(ns) > limit {
					t.Fatalf("from %s: %d notices with a limit of %d", c, len(ns), limit)
				}
				for _, n := range ns {
					if n.Cursor.Seq != want {
						t.Fatalf("from %s: got position %d, want %d", c, n.Cursor.Seq, want)
					}
					want++
				}
				c = next
			}
		}
	}
}

func TestAReaderOfTheNewestPositionWaitsForMore(t *testing.T) {
	g := journalOf(t, 3, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan error, 1)
	read := func(c Cursor) {
		_, _, err := g.s.ReadFrom(ctx, c, 10)
		got <- err
	}
	go read(g.token())
	g.edit("X", "200", "new")
	if err := <-got; err != nil {
		t.Errorf("reading what came meanwhile: %v", err)
	}
	go read(g.token())
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("a reader that was called off got %v, want %v", err, context.Canceled)
	}
}

func TestAPositionThatCannotBeServedIsSaid(t *testing.T) {
	g := journalOf(t, 60, Options{KeepAge: 30 * time.Minute})
	oldest, newest := g.s.Oldest(), g.token()
	if oldest.Seq < 25 || oldest.Seq > 35 {
		t.Fatalf("after an hour with half an hour kept the journal begins after %s, want about 30", oldest)
	}
	for _, tt := range []struct {
		name   string
		cursor Cursor
		reason string
	}{
		{"of another store", Cursor{g.s.epoch + 1, newest.Seq}, "epoch"},
		{"from before what is kept", Cursor{g.s.epoch, oldest.Seq - 1}, "trimmed"},
		{"from the beginning", Cursor{g.s.epoch, 0}, "trimmed"},
		{"in the future", Cursor{g.s.epoch, newest.Seq + 1}, "future"},
	} {
		_, _, err := g.s.ReadFrom(context.Background(), tt.cursor, 10)
		var reset *ResetError
		if !errors.As(err, &reset) || reset.Reason != tt.reason || reset.Oldest != oldest || reset.Newest != newest {
			t.Errorf("%s: got %v, want a reset for %q between %s and %s", tt.name, err, tt.reason, oldest, newest)
		}
	}
	ns, _, err := g.s.ReadFrom(context.Background(), oldest, 100)
	if err != nil || len(ns) == 0 || ns[0].Cursor.Seq != oldest.Seq+1 {
		t.Errorf("the oldest position that is kept: %d notices, %v", len(ns), err)
	}
}

func TestTrimmingOutlivesARestartAndGivesNoPositionAgain(t *testing.T) {
	g := journalOf(t, 10, Options{KeepAge: time.Minute})
	before := g.token()
	g.wait(time.Hour)
	g.edit("Y", "7", "y") // the sweep of its minute drops all the rest
	g.wait(time.Minute)
	oldest := g.s.Oldest()
	g.wait(time.Hour)
	g.s.workNow(g.now())
	g.crash(nil)
	if got := g.s.Oldest(); got.Seq < oldest.Seq {
		t.Errorf("after a restart the journal begins after %s, before it after %s", got, oldest)
	}
	g.edit("Y", "8", "z")
	if got := g.token(); got.Seq <= before.Seq+1 {
		t.Errorf("a position was given twice: newest is %s, before the restart it was past %s", got, before)
	}
}

func TestTheJournalIsBoundedByBytes(t *testing.T) {
	const keep = 20_000
	g := newRig(t, Options{KeepBytes: keep})
	size := func() uint64 {
		if err := g.s.db.Flush(); err != nil {
			t.Fatal(err)
		}
		n, err := g.s.db.EstimateDiskUsage([]byte{spaceJournal}, []byte{spaceJournal + 1})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range 3000 {
		g.edit(fmt.Sprintf("X%d", i), "100", fmt.Sprintf("%x%x", digestOf(1, uint64(i)), digestOf(2, uint64(i))))
	}
	if got := size(); got < 2*keep {
		t.Fatalf("the journal has only %d bytes: nothing to trim", got)
	}
	g.wait(2 * time.Minute)
	oldest, newest := g.s.Oldest(), g.token()
	if oldest.Seq < newest.Seq/4 || oldest.Seq >= newest.Seq {
		t.Errorf("the journal reaches from %s to %s, want most of it dropped and not all", oldest, newest)
	}
}

func TestSinceFindsTheFirstNoticeAtOrAfterATime(t *testing.T) {
	g := newRig(t, Options{})
	var at []time.Time
	for i := range 50 {
		us := make([]Update, 1+i%3) // some chunks share a moment
		for k := range us {
			us[k] = Update{URI: named(fmt.Sprintf("X%d-%d", i, k)), Version: "100", Hash: "h"}
		}
		g.apply(us...)
		for range us {
			at = append(at, g.now())
		}
		g.wait(time.Duration(1+i%4) * time.Second)
	}
	for _, shift := range []time.Duration{-time.Microsecond, 0, time.Microsecond} {
		for i := range at {
			moment := at[i].Add(shift)
			want := 0
			for want < len(at) && at[want].Before(moment) {
				want++
			}
			got, err := g.s.Since(moment)
			if err != nil || got.Seq != uint64(want) {
				t.Fatalf("since %s: got %s, %v, want the position %d", moment, got, err, want)
			}
		}
	}
}

func TestAnAcceleratedClockWakesTheLoopInTime(t *testing.T) {
	const rate = 1000
	began := time.Now()
	s, err := Open("store", Options{FS: vfs.NewMem(), ClockRate: rate,
		Clock: func() time.Time { return rigStart.Add(time.Since(began) * rate) }})
	if err != nil {
		t.Fatal(err)
	}
	// Less than the loop sleeps when nothing is due.
	ctx, cancel := context.WithTimeout(context.Background(), idle/2)
	defer cancel()
	run, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run) }()
	if _, err := s.Apply(ctx, "p", []Update{{URI: named("D"), Hash: "d", Deps: []Dep{{URI: "ticker:PT5M"}}}}); err != nil {
		t.Error(err)
	}
	for c, ticked := s.Oldest(), false; !ticked; {
		ns, next, err := s.ReadFrom(ctx, c, 10)
		if err != nil {
			t.Errorf("five minutes at %d times the pace: %v", rate, err)
			break
		}
		for _, n := range ns {
			ticked = ticked || n.Reason == ReasonTicker
		}
		c = next
	}
	stop()
	if err := errors.Join(<-ended, s.Close()); err != nil {
		t.Error(err)
	}
}
