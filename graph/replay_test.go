package graph

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// recorded plays a scenario and returns what was done to its store.
func recorded(t *testing.T, sc scenario, seed uint64) *run {
	t.Helper()
	r := newRun(t, sc, seed)
	r.boot()
	r.drive()
	if r.wrong != "" {
		t.Fatalf("seed %d: %s %s", seed, r.name(r.x), r.wrong)
	}
	return r
}

// sample are the scenarios that are replayed.
func sample() (list []scenario) {
	for _, sc := range scenarios() {
		if strings.HasPrefix(sc.name, "deep") || strings.HasPrefix(sc.name, "cycles") {
			list = append(list, sc)
		}
	}
	return list
}

func TestTheSameInputMakesTheSameStore(t *testing.T) {
	for _, sc := range sample() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			r := recorded(t, sc, 7)
			again := newRig(t, r.g.o)
			for _, in := range r.g.tape {
				again.clock.Store(in.at.UnixMicro())
				in.do(again)
			}
			if diff := firstDifference(r.g.dump(), again.dump()); diff != "" {
				t.Errorf("after %d inputs the stores differ:\n%s", len(r.g.tape), diff)
			}
			if !slices.EqualFunc(r.g.heard, again.heard, sameNotice) {
				t.Errorf("the journals differ")
			}
		})
	}
}

func firstDifference(a, b string) string {
	linesA, linesB := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(linesA), len(linesB)) {
		if linesA[i] != linesB[i] {
			return fmt.Sprintf("line %d of %d and %d\n  %s\n  %s", i, len(linesA), len(linesB), linesA[i], linesB[i])
		}
	}
	if len(linesA) != len(linesB) {
		return fmt.Sprintf("%d and %d lines", len(linesA), len(linesB))
	}
	return ""
}

// sameNotice compares what a notice says for ever; type and buckets are read
// when it is read.
func sameNotice(a, b Notice) bool {
	a.Type, b.Type, a.Buckets, b.Buckets = "", "", nil, nil
	return a.Cursor == b.Cursor && fmt.Sprint(a) == fmt.Sprint(b)
}

// TestHowJobsAreCutDoesNotShow plays the same requests, each followed by all the
// work it causes, on stores that cut that work differently or are restarted in
// between. Tokens are left out: they are positions, and in stores whose jobs
// take turns otherwise notices of one moment stand in another order.
func TestHowJobsAreCutDoesNotShow(t *testing.T) {
	sc := scenario{name: "calm", edits: 25, span: sample()[0].span, shape: shape{primaries: 10, layers: 3, width: 6, proofs: []proof{seenOnly}, revisions: true},
		tick: sample()[0].tick, delay: sample()[0].delay, step: 1, chunk: 2, alive: true, eager: .3, again: .2}
	variants := []struct {
		name     string
		o        Options
		restarts int // one after so many requests; 0 is never
	}{
		{"steps of one", Options{chunk: 1, inline: -1}, 0},
		{"steps of two, and jobs of one inline", Options{chunk: 2, inline: 1}, 0},
		{"steps of a thousand", Options{chunk: 1000, inline: -1}, 0},
		{"all inline", Options{chunk: 1000, inline: 256}, 0},
		{"steps of one, restarted again and again", Options{chunk: 1, inline: -1}, 5},
		{"all inline, restarted now and then", Options{inline: 256}, 23},
	}
	for seed := range max(1, seeds(t)/2) {
		r := recorded(t, sc, seed)
		var want string
		for _, v := range variants {
			g := replay(t, r, v.o, v.restarts)
			got := r.outcome(g)
			if want == "" {
				want = got
			}
			if diff := firstDifference(want, got); diff != "" {
				t.Errorf("seed %d, %q against %q: %s", seed, v.name, variants[0].name, diff)
			}
		}
	}
}

// replay submits to a new store what was submitted to r's.
func replay(t *testing.T, r *run, o Options, restarts int) *rig {
	g := newRig(t, o)
	n := 0
	for _, in := range r.g.tape {
		if in.kind != submitted {
			continue
		}
		g.wait(in.at.Sub(g.now()))
		in.do(g)
		if n++; restarts > 0 && n%restarts == 0 {
			g.crash(nil)
		}
		g.drain()
	}
	g.wait(r.now().Sub(g.now()))
	return g
}

// outcome is what does not depend on how work was cut: where everything stands
// and how often everybody was told.
func (r *run) outcome(g *rig) string {
	var b strings.Builder
	told := map[string]int{}
	for _, n := range g.heard {
		told[n.Kind.String()+" "+n.URI]++
	}
	for _, t := range r.things {
		s := g.status(t.uri)[0]
		fmt.Fprintf(&b, "%s %+v %v %v\n", t.uri, s, g.dependencies(t.uri), g.dependents(t.uri))
	}
	for _, k := range slices.Sorted(maps.Keys(told)) {
		fmt.Fprintf(&b, "%s %d\n", k, told[k])
	}
	return b.String()
}

func TestDeliveringEveryUpdateTwiceChangesNothing(t *testing.T) {
	sc := scenarios()[0]
	sc.alive, sc.edits = true, 30
	r := recorded(t, sc, 5)
	twice := newRig(t, r.g.o)
	for _, in := range r.g.tape {
		twice.clock.Store(in.at.UnixMicro())
		in.do(twice)
		if in.kind == submitted {
			in.do(twice)
		}
	}
	if diff := firstDifference(r.g.dump(), twice.dump()); diff != "" {
		t.Errorf("the stores differ:\n%s", diff)
	}
}

func TestAJournalThatCannotBeReadIsNotTakenForTrimmed(t *testing.T) {
	g := newRig(t, Options{})
	g.edits("A", 3)
	broken := errors.New("the disk cannot be read")
	pass := gathering{s: g.s, p: &Pick{}, gap: 3} // where it broke off nothing is there
	_, _, err := pass.spelled(g.s.Oldest(), 3, broken)
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the fault itself", err)
	}
}
