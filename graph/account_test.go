package graph

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// A ledger is what accounts ought to be, kept by somebody who knows only what was
// asked for and no row.
type ledger struct {
	owner map[string]string
	deps  map[string]map[string]bool
	gone  map[string]Action // how
}

func (l *ledger) accounts(publishers []string) (out []Account) {
	for _, p := range publishers {
		a := Account{Publisher: p}
		for uri, owner := range l.owner {
			if owner == p {
				a.Resources++
				a.Edges += int64(len(l.deps[uri]))
			}
		}
		out = append(out, a)
	}
	return out
}

// update is what an update that is newer than all before does.
func (l *ledger) update(publisher string, u *Update) {
	if how, gone := l.gone[u.URI]; gone && (u.Action == ActionPurge || u.Action == how) {
		return // it had gone already
	}
	if u.Action != ActionUpdate {
		delete(l.owner, u.URI)
		delete(l.deps, u.URI)
		l.gone[u.URI] = u.Action
		return
	}
	delete(l.gone, u.URI)
	l.owner[u.URI] = publisher
	if u.Deps != nil {
		l.deps[u.URI] = map[string]bool{}
		for _, d := range u.Deps {
			if d.URI != u.URI {
				l.deps[u.URI][d.URI] = true
			}
		}
	}
}

func (l *ledger) edit(publisher, uri string, e EdgeEdit) {
	if e.Clear || l.deps[uri] == nil {
		l.deps[uri] = map[string]bool{}
	}
	for _, x := range e.Remove {
		delete(l.deps[uri], x)
	}
	for _, x := range e.Add {
		if x != uri {
			l.deps[uri][x] = true
		}
	}
	l.owner[uri] = publisher
}

// randomUpdate is of one of n resources, and newer than all before.
func (g *rig) randomUpdate(rng *rand.Rand, n int) Update {
	u := Update{URI: named(fmt.Sprint("r", rng.IntN(n))), Hash: g.nextID(), At: g.now()}
	switch k := rng.IntN(10); {
	case k == 0:
		u.Action, u.Hash = ActionDelete, ""
	case k == 1:
		u.Action, u.Hash = ActionPurge, ""
	case k < 8:
		u.Deps = []Dep{}
		for range rng.IntN(6) {
			u.Deps = append(u.Deps, Dep{URI: named(fmt.Sprint("r", rng.IntN(n)))})
		}
	}
	if rng.IntN(3) == 0 {
		u.ID = g.nextID()
	}
	return u
}

func TestAccountsAreWhatPublishersHave(t *testing.T) {
	publishers := []string{"alpha", "beta", "gamma"}
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 1))
		g := newRig(t, Options{KeepAge: 24 * time.Hour, chunk: 1 + rng.IntN(5)})
		l := &ledger{map[string]string{}, map[string]map[string]bool{}, map[string]Action{}}
		everybody := append([]string{LocalPublisher, ""}, publishers...)
		for _, p := range publishers { // so that all have one
			u := Update{URI: named("first " + p), Hash: "h"}
			u.URI = strings.ReplaceAll(u.URI, " ", "_")
			g.applyAs(p, u)
			l.update(p, &u)
		}
		var last []Update
		lastBy := ""
		for step := range 150 {
			g.wait(time.Duration(1+rng.IntN(60)) * time.Second)
			p := everybody[rng.IntN(len(everybody))]
			switch k := rng.IntN(20); {
			case k == 0:
				g.crash(rng)
			case k == 1:
				g.wait(time.Duration(rng.IntN(40*24)) * time.Hour)
			case k < 5:
				uri := named(fmt.Sprint("r", rng.IntN(20)))
				e := EdgeEdit{Clear: rng.IntN(4) == 0}
				for range rng.IntN(4) {
					e.Add = append(e.Add, named(fmt.Sprint("r", rng.IntN(20))))
					e.Remove = append(e.Remove, named(fmt.Sprint("r", rng.IntN(20))))
				}
				g.loop(func(ctx context.Context, s *Store) {
					if _, err := s.EditDependencies(ctx, p, uri, e); err != nil {
						t.Error(err)
					}
				})
				l.edit(p, uri, e)
			case k == 5:
				uri := named(fmt.Sprint("r", rng.IntN(20)))
				g.loop(func(ctx context.Context, s *Store) {
					if _, err := s.ForgetDependents(ctx, uri); err == nil {
						for _, deps := range l.deps {
							delete(deps, uri)
						}
					}
				})
				g.drain()
			case k == 6 && len(last) > 0 && g.now().Sub(last[0].At) < time.Hour && last[0].ID != "":
				g.applyAs(lastBy, last[0]) // a redelivery, perhaps of what has gone since
			default:
				last, lastBy = nil, p
				for range 1 + rng.IntN(4) {
					last = append(last, g.randomUpdate(rng, 20))
				}
				g.applyAs(p, last...)
				for i := range last {
					l.update(p, &last[i])
				}
			}
			got := g.s.Accounts()
			for i := range 20 { // who was not heard of, or has gone, and is not named for long is forgotten
				uri := named(fmt.Sprint("r", i))
				if _, err := g.s.Resource(uri); errors.Is(err, ErrUnknown) && len(l.deps[uri]) == 0 {
					delete(l.owner, uri)
					delete(l.gone, uri)
				}
			}
			if want := l.accounts(publishers); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: accounts %v, want %v", seed, step, got, want)
			}
			g.checkAccounts()
		}
		for uri, deps := range l.deps {
			if got, want := g.dependencies(uri), slices.Sorted(maps.Keys(deps)); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
				t.Errorf("seed %d: %s is made from %v, want %v", seed, uri, got, want)
			}
		}
	}
}

// A quota holds whatever is asked for: with outdated updates that would make
// less, and with what is the publisher's own already.
func TestAnAccountNeverGrowsBeyondItsQuota(t *testing.T) {
	quota := Quota{Resources: 6, Edges: 15}
	refused, admitted := 0, 0
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 2))
		g := newRig(t, Options{Quota: func(p string) Quota {
			if p == "free" {
				return Quota{}
			}
			return quota
		}})
		for range 150 {
			g.wait(time.Second)
			p := []string{"alpha", "beta", "free", LocalPublisher}[rng.IntN(4)]
			var us []Update
			for range 1 + rng.IntN(4) {
				u := g.randomUpdate(rng, 20)
				if rng.IntN(3) == 0 {
					u.At = g.now().Add(-time.Hour)
				}
				us = append(us, u)
			}
			before := g.dump()
			_, err := g.s.applyNow(g.now(), p, us)
			g.listen()
			var over *QuotaError
			switch {
			case errors.As(err, &over):
				refused++
				if p == "free" || p == LocalPublisher {
					t.Fatalf("%s has no quota, and is refused: %v", p, err)
				}
				if after := g.dump(); withoutClock(after) != withoutClock(before) {
					t.Fatalf("a refused request changed the store:\n%s", firstDifference(before, after))
				}
			case err != nil:
				t.Fatal(err)
			default:
				admitted++
			}
			for _, a := range g.s.Accounts() {
				if a.Publisher != "free" && (a.Resources > quota.Resources || a.Edges > quota.Edges) {
					t.Fatalf("seed %d: %+v is more than %+v", seed, a, quota)
				}
			}
		}
	}
	if refused < 20 || admitted < 50 {
		t.Errorf("%d refused, %d admitted: the test is none", refused, admitted)
	}
}

// withoutClock leaves out what goes by time alone.
func withoutClock(dump string) string {
	var kept []string
	for line := range strings.Lines(dump) {
		if !strings.HasPrefix(line, `"Mnow"`) && !strings.HasPrefix(line, `"Mnextid"`) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

func TestQuotas(t *testing.T) {
	page := func(name string, deps ...string) Update {
		u := Update{URI: named(name), Hash: "h-" + name + strings.Join(deps, "-"), Deps: []Dep{}}
		for _, d := range deps {
			u.Deps = append(u.Deps, Dep{URI: named(d)})
		}
		return u
	}
	quota := Quota{Resources: 2, Edges: 3}
	g := newRig(t, Options{Quota: func(string) Quota { return quota }})
	send := func(what, want string, us ...Update) {
		t.Helper()
		g.wait(time.Second)
		_, err := g.s.applyNow(g.now(), "alpha", us)
		g.listen()
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	send("as much as it may", "", page("A", "x", "y"), page("B", "x"))
	send("the same again", "", page("A", "x", "y"), page("B", "x"))
	send("one resource more", "the publisher has 2 resources, this might add 1, and 2 is the limit", page("C"))
	send("one edge more", "the publisher has 3 edges, this might add 1, and 3 is the limit", page("B", "x", "y"))
	again := page("C")
	again.ID = "1"
	send("a second one of two", "the publisher has 2 resources, this might add 1, and 2 is the limit", page("A"), again)
	if got := g.dependencies(named("A")); len(got) != 2 {
		t.Errorf("of a request that was refused this was applied: A is made from %v", got)
	}
	send("other edges", "", page("A", "z", "y"))
	send("a resource twice in one request", "", page("A", "z", "y"), page("A", "y"), page("A", "y", "z"))
	send("less", "", page("A", "y"))
	send("another instead, in a request of its own", "", Update{URI: named("B"), Action: ActionDelete})
	send("room for what was refused, which is no duplicate", "", again)
	if got := g.resource(named("C")); !got.Known {
		t.Errorf("C is %+v", got)
	}
	send("others", "", page("C", "x", "y"))
	g.applyAs(LocalPublisher, page("C", "x", "y", "z"))
	if got := g.s.Accounts(); !slices.Equal(got, []Account{{"alpha", 1, 1}}) {
		t.Errorf("when another has updated C: %v", got)
	}
	send("room that is left by that", "", page("E"))
	send("a redelivery, although what it was of is another's by now", "", again)
	send("what somebody else has goes", "", Update{URI: named("C"), Action: ActionPurge})
	g.applyAs(LocalPublisher, page("C", "x", "y", "z"))
	send("that goes as well", "", Update{URI: named("E"), Action: ActionDelete})
	quota = Quota{Resources: 1, Edges: 1}
	send("others' edges left as they are come along", "the publisher has 1 resources, this might add 1, and 1 is the limit",
		Update{URI: named("C"), Hash: "new"})
	quota = Quota{Edges: 3}
	send("and they count", "the publisher has 1 edges, this might add 3, and 3 is the limit", Update{URI: named("C"), Hash: "new"})
	quota = Quota{Edges: 5}
	send("a large one", "", page("A", "x", "y", "z"))
	less, more := page("A"), page("B", "x", "y", "z")
	less.At = g.now().Add(-time.Hour)
	send("more beside an outdated update that would make less", "the publisher has 3 edges, this might add 3, and 5 is the limit", less, more)
	quota = Quota{Edges: 1, Resources: 1}
	send("more than it may by now, but less than it had", "", page("A", "y", "z"))
	send("and less", "", page("A", "z"))
	g.applyAs("beta", page("A", "z"))
	if got := g.s.Accounts(); !slices.Equal(got, []Account{{"alpha", 0, 0}, {"beta", 1, 1}}) {
		t.Errorf("when another has said the same of A: %v", got)
	}
	send("back again", "", page("A", "z"))

	edit := func(want string, e EdgeEdit) {
		t.Helper()
		g.loop(func(ctx context.Context, s *Store) {
			_, err := s.EditDependencies(ctx, "alpha", named("A"), e)
			if got := fmt.Sprint(err); got != want {
				t.Errorf("%+v: got %q, want %q", e, got, want)
			}
		})
	}
	edit("the publisher has 1 edges, this might add 1, and 1 is the limit", EdgeEdit{Add: []string{named("new")}})
	edit("<nil>", EdgeEdit{Add: []string{named("y")}, Remove: []string{named("z")}})
	edit("<nil>", EdgeEdit{Clear: true})
	if _, err := g.s.Resource(named("new")); !errors.Is(err, ErrUnknown) {
		t.Errorf("a refused edge made its resource known: %v", err)
	}
}

func FuzzAccount(f *testing.F) {
	f.Add((&account{Account: Account{"alpha", 7, 1 << 40}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAccount(seqKey(spaceAccount, 3), b)
		if err != nil {
			return
		}
		again, err := decodeAccount(seqKey(spaceAccount, 3), a.append(nil))
		if err != nil || *again != *a {
			t.Errorf("%x reads as %+v, which reads back as %+v, %v", b, a, again, err)
		}
	})
}

// BenchmarkAccounts is what accounts and quotas cost an update, beside one of
// whoever has none.
func BenchmarkAccounts(b *testing.B) {
	const pages, batch = 10_000, 100
	s := benchStore(b, Options{Quota: func(publisher string) Quota {
		if publisher == "bounded" {
			return Quota{1e9, 1e9}
		}
		return Quota{}
	}})
	w := &wikiShape{pages: pages, rnd: rand.New(rand.NewPCG(1, 1))}
	w.fill(b, s)
	for _, publisher := range []string{LocalPublisher, "unbounded", "bounded"} {
		b.Run("publisher="+publisher, func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(2, 2))
			n := 0
			for b.Loop() {
				us := make([]Update, batch)
				for k := range us {
					n++
					us[k] = Update{URI: w.page(n % pages), Type: "html", Hash: fmt.Sprint(rnd.Uint32()), Deps: w.deps(rnd), Buckets: []string{}}
				}
				if _, err := s.Apply(context.Background(), publisher, us); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(batch*float64(b.N)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}
