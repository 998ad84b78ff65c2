package graph

import (
	"slices"
	"testing"
	"time"
)

// editAlone makes one edit after the other in a world at rest, lets each come
// to an end, and counts the refresh notices: got are those written, and want is
// the least possible, one for each rendering that something it reads changed for.
func editAlone(t *testing.T, s shape, seed uint64) (got, want int) {
	t.Helper()
	r := newRun(t, scenario{shape: s, tick: time.Second, delay: 50 * time.Millisecond, step: 100 * time.Millisecond, chunk: 2}, seed)
	r.boot()
	for n := range 12 {
		r.until(r.now().Add(10 * time.Second))
		x := r.rng.IntN(s.primaries + s.layers*s.width)
		heard, before := len(r.g.heard), r.contents()
		switch {
		case n%4 == 3 && r.things[x].told.change > 0:
			r.touch(x, true) // a null edit of what the hub knows
		case r.things[x].kind == existence:
			r.flip(x)
		default:
			r.rewrite(x)
		}
		r.until(r.now().Add(time.Hour))
		for _, n := range r.g.heard[heard:] {
			if n.Kind == KindRefresh {
				got++
			}
		}
		moved := func(x int) bool { return r.things[x].content != before[x] }
		for d, t := range r.things {
			if t.kind == rendering && slices.ContainsFunc(r.deps(d), moved) {
				want++
			}
		}
		if x, wrong := r.atRest(); wrong != "" {
			t.Fatalf("seed %d: %s %s\n%s", seed, r.name(x), wrong, r.story(x))
		}
	}
	return got, want
}

func (w *world) contents() []string {
	out := make([]string, len(w.things))
	for x, t := range w.things {
		out[x] = t.content
	}
	return out
}

func TestAnIsolatedEditTellsEachAffectedRenderingOnce(t *testing.T) {
	names := map[proof]string{seenAndToken: "seen and token", seenOnly: "seen", tokenOnly: "token", timeOnly: "time"}
	for p, name := range names {
		t.Run("diamonds one deep, "+name, func(t *testing.T) {
			t.Parallel()
			for seed := range 2 * seeds(t) {
				got, want := editAlone(t, shape{primaries: 10, layers: 2, width: 14, proofs: []proof{p}}, seed)
				if got != want {
					t.Errorf("seed %d: %d notices, want %d", seed, got, want)
				}
			}
		})
		t.Run("four layers, "+name, func(t *testing.T) {
			t.Parallel()
			got, want := 0, 0
			for seed := range 2 * seeds(t) {
				g, w := editAlone(t, shape{primaries: 10, layers: 4, width: 8, proofs: []proof{p}}, seed)
				got, want = got+g, want+w
			}
			if got < want || float64(got) > 1.1*float64(want) {
				t.Errorf("%d notices, want %d and at most a tenth more", got, want)
			}
		})
	}
}
