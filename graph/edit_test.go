package graph

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// readyD is a store in which D is ready: X has changed since it was made.
func readyD(t *testing.T, o Options) *rig {
	g := newRig(t, o)
	g.edit("X", "10", "a")
	g.render("D", "", "d", g.token(), saw("X", "10"))
	g.wait(time.Minute)
	g.edit("X", "11", "b")
	g.wait(time.Second)
	g.want("D", Ready, 1)
	return g
}

func TestClaims(t *testing.T) {
	hold := func(t *testing.T, o Options) (*rig, Claim) {
		g := readyD(t, o)
		c, ok := g.claim(named("D"), 5*time.Minute)
		if !ok {
			t.Fatalf("D cannot be claimed: %s", g.describe(named("D")))
		}
		g.want("D", Pending, 1)
		return g, c
	}
	t.Run("what is claimed cannot be claimed again, and neither can what is not ready", func(t *testing.T) {
		g, _ := hold(t, Options{})
		for _, name := range []string{"D", "X", "nowhere"} {
			if _, ok := g.claim(named(name), time.Minute); ok {
				t.Errorf("%s was claimed", name)
			}
		}
	})
	t.Run("when the lease ends it is ready again, with a notice", func(t *testing.T) {
		g, c := hold(t, Options{})
		g.wait(5*time.Minute - time.Second)
		g.want("D", Pending, 1)
		g.wait(2 * time.Second)
		g.want("D", Ready, 2)
		if err := g.s.releaseNow(g.now(), c.ID, false); !errors.Is(err, ErrUnknown) {
			t.Errorf("giving back a claim that is over: %v, want ErrUnknown", err)
		}
		if got := g.refreshes(named("D"))[1].Reason; got != ReasonLease {
			t.Errorf("reason %s, want lease", got)
		}
	})
	t.Run("a lease outlives a restart", func(t *testing.T) {
		g, _ := hold(t, Options{})
		g.wait(4 * time.Minute)
		g.crash(nil)
		g.want("D", Pending, 1)
		g.wait(time.Minute + time.Second)
		g.want("D", Ready, 2)
	})
	t.Run("the holder may extend it", func(t *testing.T) {
		g, c := hold(t, Options{})
		g.wait(4 * time.Minute)
		g.loop(func(ctx context.Context, s *Store) {
			if _, err := s.ExtendClaim(ctx, c.ID, 10*time.Minute); err != nil {
				t.Errorf("extend: %v", err)
			}
		})
		g.wait(9 * time.Minute)
		g.want("D", Pending, 1)
		g.wait(2 * time.Minute)
		g.want("D", Ready, 2)
	})
	t.Run("the update ends it", func(t *testing.T) {
		g, c := hold(t, Options{})
		g.render("D", "", "e", c.Token, saw("X", "11"))
		g.want("D", Clean, 1)
		g.wait(10 * time.Minute)
		g.want("D", Clean, 1)
	})
	t.Run("a change while it is held is found when the update comes", func(t *testing.T) {
		g, c := hold(t, Options{})
		g.edit("X", "12", "c")
		g.wait(time.Second)
		g.want("D", Pending, 1)
		g.render("D", "", "e", c.Token, saw("X", "11"))
		g.wait(time.Second)
		g.want("D", Ready, 2)
	})
	t.Run("given back it is told at once", func(t *testing.T) {
		g, c := hold(t, Options{})
		g.release(c, false)
		g.want("D", Ready, 2)
	})
}

func TestAfterTheLastRetryWhatFailedIsNotClaimedAndWhatNobodyMadeIs(t *testing.T) {
	t.Run("failed it is told with the next retry, and after the last it has failed", func(t *testing.T) {
		g := readyD(t, Options{Work: []string{"html"}})
		c, _ := g.claim(named("D"), 5*time.Minute)
		failUntilFailed(t, g, c)
		if _, ok := g.claim(c.URI, time.Minute); ok {
			t.Error("what failed as often as it may was claimed")
		}
		g.loop(func(ctx context.Context, s *Store) {
			if err := s.Retry(ctx, c.URI); err != nil {
				t.Errorf("retry: %v", err)
			}
		})
		if _, ok := g.claim(c.URI, time.Minute); !ok {
			t.Error("what is to be tried again by hand cannot be claimed")
		}
	})
	t.Run("what was given up because nobody came is made by who comes at last", func(t *testing.T) {
		g := readyD(t, Options{Work: []string{"html"}})
		g.wait(24 * time.Hour)
		if !g.resource(named("D")).Failed {
			t.Fatalf("D has not failed: %s", g.describe(named("D")))
		}
		c, ok := g.claim(named("D"), 5*time.Minute)
		if !ok {
			t.Fatalf("D cannot be claimed: %s", g.describe(named("D")))
		}
		told := len(g.refreshes(c.URI))
		g.wait(6 * time.Minute)
		g.want("D", Ready, told+1)
		c, _ = g.claim(c.URI, 5*time.Minute)
		g.render("D", "", "e", c.Token, saw("X", "11"))
		g.want("D", Clean, told+1)
	})
}

// failUntilFailed lets the making of what is claimed fail at each attempt.
func failUntilFailed(t *testing.T, g *rig, c Claim) {
	t.Helper()
	for n := 0; ; n++ {
		g.release(c, true)
		if g.resource(c.URI).Failed {
			if n != len(retryLadder) {
				t.Errorf("failed after %d retries, want %d", n, len(retryLadder))
			}
			return
		}
		told, released := len(g.refreshes(c.URI)), g.now()
		for len(g.refreshes(c.URI)) == told {
			due, ok := g.due()
			if !ok || due.Sub(released) > 8*time.Hour {
				t.Fatalf("no retry after a failure: %s", g.describe(c.URI))
			}
			g.wait(max(due.Sub(g.now()), time.Millisecond))
		}
		if got := g.now().Sub(released); got < retryLadder[n]/2 || got > 2*retryLadder[n] {
			t.Errorf("retry %d came %s after the failure, want about %s", n+1, got, retryLadder[n])
		}
		c, _ = g.claim(c.URI, 5*time.Minute)
	}
}

func TestDependenciesOfAnUpdate(t *testing.T) {
	g := newRig(t, Options{})
	deps := func(list []Dep) []string {
		t.Helper()
		g.apply(Update{ID: g.nextID(), URI: named("D"), Hash: g.nextID(), At: g.now(), Token: g.token(), Deps: list})
		got := g.dependencies(named("D"))
		for _, x := range []string{"X", "Y", "Z"} {
			if both := slices.Contains(g.dependents(named(x)), named("D")); both != slices.Contains(got, named(x)) {
				t.Errorf("the directions of the edge from D to %s disagree", x)
			}
		}
		return got
	}
	for _, tt := range []struct {
		what string
		deps []Dep
		want []string
	}{
		{"a list", []Dep{saw("X", ""), saw("Y", "")}, []string{named("X"), named("Y")}},
		{"another list replaces it, and twice counts once", []Dep{saw("Y", ""), saw("Z", ""), saw("Y", "")}, []string{named("Y"), named("Z")}},
		{"none leaves it as it is", nil, []string{named("Y"), named("Z")}},
		{"an empty one drops all", []Dep{}, nil},
	} {
		if got := deps(tt.deps); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
	}
	g.edit("X", "10", "a")
	g.edit("Y", "10", "a")
	g.wait(time.Minute)
	g.want("D", Clean, 0)
}

func TestBucketsAreKeptUntilTheyAreReplaced(t *testing.T) {
	g := newRig(t, Options{})
	g.edit("X", "10", "a")
	for _, tt := range []struct {
		what          string
		buckets, want []string
	}{
		{"set", []string{"page", "site"}, []string{"page", "site"}},
		{"absent", nil, []string{"page", "site"}},
		{"replaced", []string{"page"}, []string{"page"}},
		{"empty", []string{}, nil},
	} {
		g.apply(Update{ID: g.nextID(), URI: named("D"), Hash: g.nextID(), At: g.now(), Deps: []Dep{saw("X", "10")}, Buckets: tt.buckets})
		if got := g.resource(named("D")).Buckets; !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
		if got := g.heard[len(g.heard)-1].Buckets; !slices.Equal(got, tt.want) {
			t.Errorf("%s: the notice carries %v, want %v", tt.what, got, tt.want)
		}
	}
}

func TestEdgeCallsNeverMakeStale(t *testing.T) {
	edited := func(g *rig, name string, e EdgeEdit) {
		g.t.Helper()
		g.loop(func(ctx context.Context, s *Store) {
			if _, err := s.EditDependencies(ctx, "test", named(name), e); err != nil {
				g.t.Errorf("edit dependencies of %s: %v", name, err)
			}
		})
		g.wait(time.Minute)
	}
	t.Run("an edge to what is newer makes nobody stale, its next change does", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("X", "10", "a")
		g.render("D", "", "d", g.token(), saw("X", "10"))
		g.edit("Y", "10", "a")
		edited(g, "D", EdgeEdit{Add: []string{named("Y")}})
		g.want("D", Clean, 0)
		g.edit("Y", "11", "b")
		g.wait(time.Minute)
		g.want("D", Ready, 1)
	})
	t.Run("who no longer depends on what it waits for goes on", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("P", "1000", "p")
		g.render("Z", "", "z1", g.token(), saw("P", "1000"))
		g.edit("P", "1001", "q")
		g.render("D", "", "d", g.token(), saw("Z", "z1"))
		g.want("D", Dirty, 0)
		edited(g, "D", EdgeEdit{Remove: []string{named("Z")}})
		g.want("D", Clean, 0)
	})
	t.Run("an edge that is removed takes its marker along", func(t *testing.T) {
		g := newRig(t, Options{})
		g.edit("X", "10", "a")
		g.render("D", "", "d", g.token(), saw("X", "11"))
		edited(g, "D", EdgeEdit{Clear: true})
		if got := g.s.markers(); got != 0 {
			t.Errorf("%d markers without edges", got)
		}
		g.edit("X", "12", "c")
		g.wait(time.Minute)
		g.want("D", Clean, 0)
	})
	t.Run("forgetting all dependents drops their edges and tells nobody", func(t *testing.T) {
		g := newRig(t, Options{chunk: 1, inline: -1})
		g.edit("X", "10", "a")
		for _, d := range []string{"D", "E", "F"} {
			g.render(d, "", "d", g.token(), saw("X", "10"))
		}
		g.loop(func(ctx context.Context, s *Store) {
			if _, err := s.ForgetDependents(ctx, named("X")); err != nil {
				t.Errorf("forget: %v", err)
			}
		})
		g.wait(time.Minute)
		if got := g.dependents(named("X")); len(got) != 0 {
			t.Errorf("dependents left: %v", got)
		}
		g.edit("X", "11", "b")
		g.wait(time.Minute)
		g.want("D", Clean, 0)
	})
}

func TestCollectionPassesOverWhoIsStillOfUse(t *testing.T) {
	t.Run("who lost its last dependent twice is forgotten a month after the second time", func(t *testing.T) {
		g := newRig(t, Options{KeepAge: 24 * time.Hour})
		for range 2 {
			g.render("D", "", "d", g.token(), saw("X", "0"), saw("Y", "0"))
			g.render("D", "", "d", g.token(), saw("Y", "0"))
			g.days(3)
		}
		g.days(26)
		if _, err := g.s.Resource(named("X")); err != nil {
			t.Errorf("after 29 days: %v, want it remembered", err)
		}
		g.days(9)
		if _, err := g.s.Resource(named("X")); !errors.Is(err, ErrUnknown) {
			t.Errorf("after 38 days: %v, want ErrUnknown", err)
		}
	})
	t.Run("a note on an id that is free is passed over", func(t *testing.T) {
		g := newRig(t, Options{})
		if err := g.s.db.Set(orphanKey(g.now().UnixMicro(), 7), nil, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		g.days(1)
	})
	t.Run("a stub that was given edges by hand keeps them", func(t *testing.T) {
		g := newRig(t, Options{KeepAge: 24 * time.Hour})
		g.render("D", "", "d", g.token(), saw("X", "0"), saw("Y", "0"))
		g.render("D", "", "d", g.token(), saw("Y", "0"))
		g.loop(func(ctx context.Context, s *Store) {
			if _, err := s.EditDependencies(ctx, LocalPublisher, named("X"), EdgeEdit{Add: []string{named("Z")}}); err != nil {
				t.Error(err)
			}
		})
		g.days(40)
		if got := g.dependencies(named("X")); !slices.Equal(got, []string{named("Z")}) {
			t.Errorf("X is made from %v", got)
		}
		if got := g.dependents(named("Z")); !slices.Equal(got, []string{named("X")}) {
			t.Errorf("%v is made from Z", got)
		}
	})
	t.Run("a ticker is not forgotten before its timer", func(t *testing.T) {
		g := newRig(t, Options{KeepAge: 24 * time.Hour})
		g.render("D", "", "d", g.token(), Dep{URI: "ticker:P50D"})
		g.render("D", "", "d", g.token(), saw("Y", "0"))
		g.days(40)
		g.render("E", "", "e", g.token(), saw("Z", "0")) // gets the first id that is free
		g.render("G", "", "g", g.token(), saw("E", "e"))
		g.days(15)
		if got := g.s.Token().Seq; got != 3 {
			t.Errorf("%d notices, want the three of the updates", got)
		}
	})
	t.Run("who was only ever named but is made from others is kept, and goes when its edges have gone", func(t *testing.T) {
		g := newRig(t, Options{KeepAge: 24 * time.Hour})
		g.edit("X", "10", "a")
		edit := func(e EdgeEdit) {
			g.loop(func(ctx context.Context, s *Store) {
				if _, err := s.EditDependencies(ctx, "test", named("S"), e); err != nil {
					t.Error(err)
				}
			})
		}
		edit(EdgeEdit{Add: []string{named("X")}})
		g.render("D", "", "d", g.token(), saw("S", ""))
		g.render("D", "", "d", g.token(), saw("X", "10"))
		g.days(34)
		if got := g.dependents(named("X")); !slices.Equal(got, []string{named("S"), named("D")}) {
			t.Errorf("dependents of X: %v, want S and D", got)
		}
		if got := g.dependencies(named("S")); !slices.Equal(got, []string{named("X")}) {
			t.Errorf("S is made from %v, want X", got)
		}
		edit(EdgeEdit{Clear: true})
		g.days(34)
		if _, err := g.s.Resource(named("S")); !errors.Is(err, ErrUnknown) {
			t.Errorf("without edges: %v, want ErrUnknown", err)
		}
	})
}

func TestCollection(t *testing.T) {
	t.Run("a stub that nobody has named for a month is forgotten once the journal is", func(t *testing.T) {
		g := newRig(t, Options{KeepAge: 24 * time.Hour})
		g.render("D", "", "d", g.token(), saw("X", "0"), saw("Y", "0"))
		g.render("D", "", "d", g.token(), saw("Y", "0"))
		g.days(29)
		if _, err := g.s.Resource(named("X")); err != nil {
			t.Errorf("after 29 days: %v, want it remembered", err)
		}
		g.days(5)
		if _, err := g.s.Resource(named("X")); !errors.Is(err, ErrUnknown) {
			t.Errorf("after 34 days: %v, want ErrUnknown", err)
		}
		if _, err := g.s.Resource(named("Y")); err != nil {
			t.Errorf("a stub with a dependent: %v, want it remembered", err)
		}
		g.render("E", "", "e", g.token(), saw("X", "0"), saw("new", "0"))
		if got := g.dependencies(named("E")); len(got) != 2 {
			t.Errorf("E depends on %v", got)
		}
	})
	t.Run("a collected type is deleted when its last dependent goes", func(t *testing.T) {
		g := newRig(t, Options{Collect: []string{"thumb"}})
		g.edit("X", "10", "a")
		g.apply(Update{ID: g.nextID(), URI: named("thumb"), Type: "thumb", Hash: "t", At: g.now(), Deps: []Dep{saw("X", "10")}})
		g.render("D", "", "d", g.token(), saw("thumb", "t"))
		g.render("E", "", "e", g.token(), saw("thumb", "t"))
		g.render("D", "", "d", g.token(), saw("X", "10"))
		g.wait(time.Minute)
		g.want("thumb", Clean, 0)
		g.remove("E")
		g.wait(time.Minute)
		g.want("thumb", Stub, 0)
		last := g.heard[len(g.heard)-1]
		if last.URI != named("thumb") || last.Reason != ReasonUnneeded || last.Change != ChangeDeleted {
			t.Errorf("the last notice is %+v, want thumb deleted as unneeded", last)
		}
	})
}

// days lets days pass for the sweeps, in steps of six hours.
func (g *rig) days(n int) {
	g.t.Helper()
	for range 4 * n {
		g.wait(6 * time.Hour)
	}
}

func TestAfterAPurgeAnOlderRevisionsRenderingIsHeardAndMadeAgain(t *testing.T) {
	g := newRig(t, Options{})
	g.edit("P", "20116", "p")
	g.render("D", "20116", "new", g.token(), saw("P", "20116"))
	g.apply(Update{URI: named("D"), Action: ActionPurge})
	g.render("D", "20115", "old", g.token(), saw("P", "20115"))
	g.want("D", Ready, 1)
	g.render("D", "20116", "new", g.token(), saw("P", "20116"))
	g.want("D", Clean, 1)
}

// TestWhoGivesUpWaitingReadsNothingThatIsStillWritten is for the race detector.
func TestWhoGivesUpWaitingReadsNothingThatIsStillWritten(t *testing.T) {
	g := readyD(t, Options{})
	ended, end := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	for _, call := range []func() error{
		func() error { _, err := g.s.Claim(ended, []string{named("D")}, time.Minute); return err },
		func() error { _, err := g.s.ExtendClaim(ended, "00000001.2", time.Minute); return err },
		func() error { return g.s.ReleaseClaim(ended, "00000001.2", false) },
		func() error { return g.s.Retry(ended, named("D")) },
		func() error { return g.s.PutRecords(ended, []Record{{"k", []byte("v")}}) },
		func() error {
			_, err := g.s.EditDependencies(ended, LocalPublisher, named("D"), EdgeEdit{Clear: true})
			return err
		},
		func() error { _, err := g.s.ForgetDependents(ended, named("X")); return err },
		func() error { _, err := g.s.EditList(ended, ListEdit{List: 1}); return err },
		func() error {
			_, err := g.s.Apply(ended, LocalPublisher, []Update{{URI: named("X"), Version: "12"}})
			return err
		},
	} {
		calls.Go(func() {
			if err := call(); !errors.Is(err, context.Canceled) {
				t.Errorf("a call whose context has ended says %v", err)
			}
		})
	}
	for len(g.s.queue) < 9 {
		runtime.Gosched()
	}
	// The loop applies them at the moment at which their callers go, in no order.
	g.s.writing.Lock()
	context.AfterFunc(ended, g.s.writing.Unlock)
	g.loop(func(context.Context, *Store) {
		end()
		calls.Wait()
	})
}
