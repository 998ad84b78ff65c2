package graph

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestDeletesAndUndeletes(t *testing.T) {
	t.Run("a page that is created and deleted twice turns its link blue, red, blue, red", func(t *testing.T) {
		g := newRig(t, Options{})
		g.render("D", "", "red", g.token(), saw("X#exists", "0"))
		turn := func(colour, seen string, refreshes int) {
			t.Helper()
			g.wait(time.Minute)
			g.want("D", Ready, refreshes)
			g.render("D", "", colour, g.token(), saw("X#exists", seen))
			g.want("D", Clean, refreshes)
			g.wait(time.Minute)
		}
		g.edit("X#exists", "1", "1")
		turn("blue", "1", 1)
		g.remove("X#exists")
		turn("red", "0", 2)
		g.edit("X#exists", "1", "1")
		turn("blue", "1", 3)
		g.edit("X#exists", "0", "0")
		turn("red", "0", 4)
	})
	t.Run("a delete of what is gone changes nothing", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("X", "10", "a")
		g.render("D", "", "d", g.token(), saw("X", "10"))
		g.remove("X")
		g.render("D", "", "d", g.token(), saw("X", "0"))
		g.wait(time.Minute)
		heard := len(g.heard)
		for range 2 {
			if res := g.remove("X"); res.Changed != 0 {
				t.Errorf("deleting again: %+v, want nothing changed", res)
			}
		}
		g.purge("X")
		g.wait(time.Minute)
		if got := g.heard[heard:]; len(got) != 0 {
			t.Errorf("notices of a delete of what is gone: %+v", got)
		}
		g.want("D", Clean, 1)
	})
	t.Run("a delete from before the last update is kept out", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("X", "10", "a")
		early := g.now()
		g.wait(time.Minute)
		g.edit("X", "11", "b")
		for _, action := range []Action{ActionDelete, ActionPurge} {
			if res := g.apply(Update{URI: named("X"), Action: action, At: early}); res.Outdated != 1 {
				t.Errorf("%s: %+v, want it outdated", action, res)
			}
		}
		g.want("X", Clean, 0)
	})
	t.Run("after a delete only time orders, until the next update", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("X", "1182", "h")
		early := g.now()
		g.wait(time.Minute)
		g.remove("X")
		redelivered := Update{URI: named("X"), Version: "1182", Hash: "h", At: early}
		if res := g.apply(redelivered); res.Outdated != 1 {
			t.Errorf("an update from before the delete: %+v, want it outdated", res)
		}
		g.wait(time.Minute)
		if res := g.edit("X", "1100", "g"); res.Changed != 1 {
			t.Errorf("undelete to a lower revision: %+v, want it accepted", res)
		}
		if res := g.edit("X", "1099", "f"); res.Outdated != 1 {
			t.Errorf("a lower revision afterwards: %+v, want it outdated", res)
		}
	})
}

func TestWhatChangesNothing(t *testing.T) {
	made := func(t *testing.T) (*rig, int) {
		g := newRig(t, Options{})
		g.edit("X", "10", "a")
		g.render("D", "", "d", g.token(), saw("X", "10"))
		g.wait(time.Minute)
		return g, len(g.heard)
	}
	quiet := func(g *rig, heard int) {
		g.t.Helper()
		g.wait(time.Minute)
		if got := g.heard[heard:]; len(got) != 0 {
			g.t.Errorf("notices: %+v, want none", got)
		}
		g.want("D", Clean, 0)
	}
	t.Run("a null edit tells nobody", func(t *testing.T) {
		g, heard := made(t)
		g.edit("X", "11", "a")
		if r := g.resource(named("X")); r.Version != "11" || !slices.Equal(r.Aliases, []string{"10"}) {
			t.Errorf("X is version %s with aliases %v, want 11 with alias 10", r.Version, r.Aliases)
		}
		quiet(g, heard)
	})
	t.Run("a primary that comes with the version it has and no hash tells nobody", func(t *testing.T) {
		g, heard := made(t)
		g.edit("X", "10", "")
		quiet(g, heard)
	})
	t.Run("a lower revision is kept out", func(t *testing.T) {
		g, heard := made(t)
		if res := g.edit("X", "9", "z"); res.Outdated != 1 || res.Changed != 0 {
			t.Errorf("%+v, want it outdated", res)
		}
		if r := g.resource(named("X")); r.Version != "10" || r.Hash != "a" {
			t.Errorf("X is %s/%s, want 10/a", r.Version, r.Hash)
		}
		quiet(g, heard)
	})
	t.Run("a primary without numbers is kept out by an earlier time", func(t *testing.T) {
		g, _ := made(t)
		g.edit("Y", "oB", "b")
		heard := len(g.heard)
		res := g.apply(Update{URI: named("Y"), Version: "oA", Hash: "a", At: g.now().Add(-time.Second)})
		if res.Outdated != 1 {
			t.Errorf("%+v, want it outdated", res)
		}
		quiet(g, heard)
	})
	t.Run("an update without a hash is a change", func(t *testing.T) {
		g, _ := made(t)
		g.edit("X", "11", "")
		g.wait(time.Minute)
		g.want("D", Ready, 1)
	})
}

func TestUpdateIDsAreRememberedForADayOfOnePublisher(t *testing.T) {
	g := newRig(t, Options{})
	at := g.now()
	u := func(id, uri, hash string) Update {
		return Update{ID: id, URI: named(uri), Hash: hash, At: at}
	}
	for _, tt := range []struct {
		what      string
		publisher string
		u         Update
		wait      time.Duration
		want      Result
	}{
		{"the first", "wiki", u("1", "X", "a"), 0, Result{Accepted: 1, Changed: 1}},
		{"the same again", "wiki", u("1", "X", "a"), time.Hour, Result{Accepted: 1, Duplicates: 1}},
		{"the same id of another resource", "wiki", u("1", "Y", "a"), 0, Result{Accepted: 1, Changed: 1}},
		{"the same id of another publisher", "commons", u("1", "X", "b"), 0, Result{Accepted: 1, Changed: 1}},
		{"the first once more before a day has passed", "wiki", u("1", "X", "a"), 22*time.Hour + 59*time.Minute, Result{Accepted: 1, Duplicates: 1}},
		{"the first after two days", "wiki", u("1", "X", "c"), 48 * time.Hour, Result{Accepted: 1, Changed: 1}},
	} {
		g.wait(tt.wait)
		got := g.applyAs(tt.publisher, tt.u)
		if got.Cursor = (Cursor{}); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.what, got, tt.want)
		}
	}
}

func TestABatchIsAppliedWholeOrNotAtAll(t *testing.T) {
	g := newRig(t, Options{})
	before := g.dump()
	_, err := g.s.applyNow(g.now(), "test", []Update{
		{URI: named("X"), Version: "1"},
		{URI: named("Y"), At: g.now().Add(MaxFuture + time.Second)},
	})
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Item != 1 || invalid.Field != "at" {
		t.Errorf("error %v, want item 1 refused for its at", err)
	}
	if g.dump() != before {
		t.Errorf("a refused batch changed the store")
	}
}

func TestExpiry(t *testing.T) {
	expiring := func(g *rig, name string) {
		g.apply(Update{ID: g.nextID(), URI: named(name), Type: "html", Hash: "z", At: g.now(), Token: g.token(),
			Deps: []Dep{saw("X", "10")}, Expires: g.now().Add(time.Hour)})
	}
	t.Run("an artefact with dependents is made again, and its hash decides who is told", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("X", "10", "a")
		expiring(g, "Z")
		g.render("D", "", "d", g.token(), saw("Z", "z"))
		g.wait(59 * time.Minute)
		g.want("Z", Clean, 0)
		g.wait(2 * time.Minute)
		g.want("Z", Ready, 1)
		if got := g.refreshes(named("Z"))[0].Reason; got != ReasonExpired {
			t.Errorf("reason %s, want expired", got)
		}
		g.render("Z", "", "z", g.token(), saw("X", "10"))
		g.wait(time.Minute)
		g.want("Z", Clean, 1)
		g.want("D", Clean, 0)
	})
	t.Run("an artefact that nobody depends on is dropped", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("X", "10", "a")
		expiring(g, "Z")
		g.wait(61 * time.Minute)
		g.want("Z", Stub, 0)
		if got := g.dependencies(named("Z")); len(got) != 0 {
			t.Errorf("it still depends on %v", got)
		}
	})
	t.Run("one that was made again without an expiry stays", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("X", "10", "a")
		expiring(g, "Z")
		g.render("Z", "", "z", g.token(), saw("X", "10"))
		g.wait(61 * time.Minute)
		g.want("Z", Clean, 0)
	})
}

func TestATickerTicksWhileSomebodyDependsOnIt(t *testing.T) {
	g := newRig(t, Options{})
	ticker := Dep{URI: "ticker:PT1H"}
	g.render("D", "", "d0", g.token(), ticker)
	for n := 1; n <= 3; n++ {
		g.wait(time.Hour + time.Second)
		g.want("D", Ready, n)
		g.render("D", "", fmt.Sprint("d", n), g.token(), ticker)
		g.want("D", Clean, n)
	}
	g.apply(Update{ID: g.nextID(), URI: named("D"), At: g.now(), Hash: "last", Deps: []Dep{}})
	g.wait(time.Hour)
	heard := len(g.heard)
	g.wait(5 * time.Hour)
	g.want("D", Clean, 3)
	if got := g.heard[heard:]; len(got) != 0 {
		t.Errorf("a ticker without dependents still writes notices: %+v", got)
	}
	g.render("D", "", "again", g.token(), ticker)
	g.wait(time.Hour + time.Second)
	g.want("D", Ready, 4)
}

func TestStarvationEndsAWaitOfFifteenMinutes(t *testing.T) {
	waiting := func(t *testing.T) *rig {
		g := newRig(t, Options{})
		g.edit("P", "1000", "p")
		g.render("Z", "", "z1", g.token(), saw("P", "1000"))
		g.edit("P", "1001", "q") // Z is ready, and nobody makes it
		g.wait(time.Second)
		g.edit("X", "10", "a")
		g.render("D", "", "d", g.token(), saw("X", "10"), saw("Z", "z1"))
		g.want("D", Dirty, 0)
		return g
	}
	t.Run("who is stale is made ready with what there is", func(t *testing.T) {
		g := waiting(t)
		g.edit("X", "11", "b")
		g.wait(Starvation - time.Minute)
		g.want("D", Dirty, 0)
		g.wait(2*time.Minute + time.Second)
		g.want("D", Ready, 1)
		if got := g.refreshes(named("D"))[0].Reason; got != ReasonStarved {
			t.Errorf("reason %s, want starved", got)
		}
	})
	t.Run("who is not is clean without a notice", func(t *testing.T) {
		g := waiting(t)
		g.wait(Starvation + time.Minute + time.Second)
		g.want("D", Clean, 0)
	})
	t.Run("who begins to wait after hours in which nobody did is not starved at once", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("P", "1000", "p")
		g.render("Z", "", "z1", g.token(), saw("P", "1000"))
		g.edit("X", "10", "a")
		g.wait(time.Minute)
		g.clock.Add((3 * time.Hour).Microseconds()) // nothing was due, so nothing was looked at
		g.edit("P", "1001", "q")
		g.render("D", "", "d", g.token(), saw("X", "10"), saw("Z", "z1"))
		g.edit("X", "11", "b")
		g.wait(Starvation - time.Minute)
		g.want("D", Dirty, 0)
	})
	t.Run("who waits across a restart does not wait anew", func(t *testing.T) {
		g := waiting(t)
		g.edit("X", "11", "b")
		g.wait(10 * time.Minute)
		g.crash(nil)
		g.wait(6*time.Minute + time.Second)
		g.want("D", Ready, 1)
	})
}

func TestRetriesOutliveAJournalThatIsKeptForLess(t *testing.T) {
	g := newRig(t, Options{Work: []string{"html"}, KeepAge: 30 * time.Minute})
	g.edit("X", "10", "a")
	g.render("D", "", "d", g.token(), saw("X", "10"))
	g.edit("X", "11", "b")
	for hour := range 24 {
		g.edit("Y", fmt.Sprint(hour), "y")
		g.wait(time.Hour)
	}
	if r := g.resource(named("D")); r.State != Ready || !r.Failed {
		t.Errorf("after a day: %s, want ready and failed", g.describe(named("D")))
	}
	if g.s.Oldest().Seq < 3 {
		t.Errorf("the journal begins at %s: nothing was trimmed when the retries had been", g.s.Oldest())
	}
}

func TestRetriesAfterOneFiveFifteenSixtyAndTwoHundredFortyMinutesThenFailed(t *testing.T) {
	g := newRig(t, Options{Work: []string{"html"}})
	g.edit("X", "10", "a")
	g.render("D", "", "d", g.token(), saw("X", "10"))
	g.apply(Update{ID: g.nextID(), URI: named("map"), Type: "map", Hash: "m", At: g.now(), Token: g.token(), Deps: []Dep{saw("X", "10")}})
	g.wait(time.Minute)
	g.edit("X", "11", "b")
	g.wait(24 * time.Hour)
	told := g.refreshes(named("D"))
	if len(told) != 1+len(retryLadder) {
		t.Fatalf("told %d times, want %d", len(told), 1+len(retryLadder))
	}
	for n, notice := range told {
		if notice.Attempt != n {
			t.Errorf("notice %d is attempt %d", n, notice.Attempt)
		}
		if n == 0 {
			continue
		}
		base := retryLadder[n-1]
		if got := notice.At.Sub(told[n-1].At); got < base/2 || got > base*3/2 {
			t.Errorf("retry %d came after %s, want %s give or take half", n, got, base)
		}
		if notice.Reason != ReasonRetry || notice.Lane != Bulk {
			t.Errorf("retry %d: reason %s, lane %s", n, notice.Reason, notice.Lane)
		}
	}
	if r := g.resource(named("D")); r.State != Ready || !r.Failed {
		t.Errorf("after the last retry: %s, want ready and failed", g.describe(named("D")))
	}
	g.want("map", Ready, 1) // nobody makes maps: told once
	g.loop(func(ctx context.Context, s *Store) {
		if err := s.Retry(ctx, named("D")); err != nil {
			t.Errorf("retry by hand: %v", err)
		}
		if err := s.Retry(ctx, named("map")); !errors.Is(err, ErrUnknown) {
			t.Errorf("retry of what has not failed: %v, want ErrUnknown", err)
		}
	})
	g.want("D", Ready, 2+len(retryLadder))
	if g.resource(named("D")).Failed {
		t.Errorf("retried by hand it is still failed")
	}
}

func TestStaleArrivalsInARowWaitLongerEachTimeUpToAnHour(t *testing.T) {
	g := newRig(t, Options{})
	g.edit("X", "11", "b")
	want := []time.Duration{0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600}
	for n, seconds := range want {
		arrived := g.now()
		g.render("D", "", "d", g.token(), saw("X", "10"))
		g.wait(2 * time.Hour)
		told := g.refreshes(named("D"))
		if len(told) != n+1 {
			t.Fatalf("stale arrival %d: %d notices", n+1, len(told))
		}
		if got := told[n].At.Sub(arrived); got != seconds*time.Second {
			t.Errorf("stale arrival %d was told after %s, want %s", n+1, got, seconds*time.Second)
		}
	}
	g.render("D", "", "d", g.token(), saw("X", "11"))
	g.edit("X", "12", "c")
	g.wait(time.Second)
	g.want("D", Ready, len(want)+1)
	g.render("D", "", "d", g.token(), saw("X", "11"))
	g.want("D", Ready, len(want)+2) // the row was broken: this stale arrival is a first one
}

func TestWhoProvesNothingButATimeIsToldWhenARenderingIsProvablyNewer(t *testing.T) {
	for _, tt := range []struct {
		name string
		dep  func(g *rig) (Cursor, Dep)
		want time.Duration
	}{
		{"with neither token nor seen", func(g *rig) (Cursor, Dep) { return noToken, saw("X", "") }, deferral},
		{"with a token", func(g *rig) (Cursor, Dep) { return g.token(), saw("X", "") }, 0},
		{"with seen", func(g *rig) (Cursor, Dep) { return noToken, saw("X", "10") }, 0},
		{"with a token of another epoch", func(g *rig) (Cursor, Dep) { return Cursor{rigEpoch + 1, 1}, saw("X", "") }, deferral},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, Options{})
			g.edit("X", "10", "a")
			g.wait(time.Minute)
			token, dep := tt.dep(g)
			g.render("D", "", "d", token, dep)
			g.want("D", Clean, 0)
			g.wait(time.Minute)
			changed := g.now()
			g.edit("X", "11", "b")
			if got := g.resource(named("D")); got.State != Ready {
				t.Errorf("D is %s, want ready whenever it is told", got.State)
			}
			g.wait(time.Minute)
			g.want("D", Ready, 1)
			if got := g.refreshes(named("D"))[0].At.Sub(changed); got != tt.want {
				t.Errorf("told after %s, want %s", got, tt.want)
			}
		})
	}
}

func TestAFlappingArtefactIsToldLessOftenButToldItsLastChange(t *testing.T) {
	g := newRig(t, Options{})
	g.edit("X", "10", "a")
	g.render("D", "", "d0", g.token(), saw("X", "10"))
	answered := 0
	flap := func(d time.Duration) (notices int) {
		before := len(g.refreshes(named("D")))
		for end, n := g.now().Add(d), 0; g.now().Before(end); n++ {
			version := fmt.Sprint(10 + g.ids)
			g.edit("X", version, "x"+version)
			g.wait(5 * time.Second)
			if told := len(g.refreshes(named("D"))); told > answered {
				answered = told
				g.render("D", "", "made from "+version, g.token(), saw("X", version))
			}
		}
		return len(g.refreshes(named("D"))) - before
	}
	first, hour := flap(flapWindow), flap(6*flapWindow)
	if first > 2*(flapLimit+1) || hour > 6*flapLimit {
		t.Errorf("%d notices in the first ten minutes and %d in the hour after: want at most %d, then %d", first, hour, 2*(flapLimit+1), 6*flapLimit)
	}
	if got := g.resource(named("D")).Damping; got <= 0 || got > time.Hour {
		t.Errorf("least interval %s while it flaps, want one of at most an hour", got)
	}
	g.wait(2 * time.Hour)
	g.want("D", Ready, len(g.refreshes(named("D"))))
	if answered == len(g.refreshes(named("D"))) {
		t.Errorf("the last change was never told")
	}
}

func TestARenderingThatRepeatsItselfStillWaitsForUnsettledDependencies(t *testing.T) {
	g := newRig(t, Options{})
	g.edit("P", "1000", "p")
	g.render("Z", "", "z1", g.token(), saw("P", "1000"))
	g.render("D", "", "d", g.token(), saw("Z", "z1"))
	g.edit("P", "1001", "q")
	g.want("Z", Ready, 1)
	g.render("D", "", "d", g.token(), saw("Z", "z1"))
	g.want("D", Dirty, 0)
}

func TestAClockThatStepsBackHoldsNobodyUp(t *testing.T) {
	g := newRig(t, Options{Work: []string{"html"}})
	g.edit("X", "10", "a")
	g.render("D", "", "d", g.token(), saw("X", "10"))
	g.wait(time.Hour)
	g.clock.Add(-(30 * time.Minute).Microseconds())
	g.edit("X", "11", "b")
	g.want("D", Ready, 1)
	g.render("D", "", "e", g.token(), saw("X", "11"))
	g.want("D", Clean, 1)
	g.edit("X", "12", "c")
	g.wait(24 * time.Hour)
	if !g.resource(named("D")).Failed {
		t.Errorf("D was not retried to the end: %s", g.describe(named("D")))
	}
}
