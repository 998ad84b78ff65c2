package graph

import (
	"fmt"
	"maps"
	"slices"
)

// Invariants of the state machine that hold at every moment, each a function
// that says what is wrong, "" if nothing, and with whom.

// edgesEvery is how many checks pass between two of all edges, which are many.
const edgesEvery = 3

// checkInvariants returns the first that is broken.
func (w *world) checkInvariants() (x int, wrong string) {
	now := w.statuses()
	checks := []func([]Status) (int, string){w.checkClean, w.checkReady, w.checkDirty, w.checkEdges}
	if w.checked++; w.checked%edgesEvery != 0 {
		checks = checks[:3]
	}
	for _, check := range checks {
		if x, wrong := check(now); wrong != "" {
			return x, wrong
		}
	}
	return -1, ""
}

// statuses is what the hub says of all things at one moment.
func (w *world) statuses() []Status {
	out := make([]Status, len(w.things))
	for h, g := range w.hubs {
		uris := make([]string, len(w.things))
		for x, t := range w.things {
			uris[x] = t.uri
		}
		for x, s := range g.status(uris...) {
			if w.home == nil || w.home[x] == h {
				out[x] = s
			}
		}
	}
	return out
}

// checkEdges: x lists d as a dependent iff d lists x as a dependency, and d's
// dependencies are those of its last accepted update.
func (w *world) checkEdges([]Status) (int, string) {
	dependents := map[*rig]map[string][]string{}
	for _, g := range w.hubs {
		dependents[g] = map[string][]string{}
	}
	for x, t := range w.things {
		deps := w.at(x).dependencies(t.uri)
		var want []string
		for y := range t.toldOf {
			if y != x {
				want = append(want, w.things[y].uri)
			}
		}
		slices.Sort(want)
		if got := slices.Sorted(slices.Values(deps)); !slices.Equal(got, want) && t.toldOf != nil {
			return x, fmt.Sprintf("it depends on %v, want %v", got, want)
		}
		for _, y := range deps {
			dependents[w.at(x)][y] = append(dependents[w.at(x)][y], t.uri)
		}
	}
	for _, g := range w.hubs {
		for x, t := range w.things {
			got, want := slices.Sorted(slices.Values(g.dependents(t.uri))), slices.Sorted(slices.Values(dependents[g][t.uri]))
			if !slices.Equal(got, want) {
				return x, fmt.Sprintf("its dependents are %v, want %v", got, want)
			}
		}
	}
	return -1, ""
}

// checkClean: who was made from what a primary was before the hub last heard of
// it is stale, at every moment, whether the change has reached it or not.
func (w *world) checkClean(now []Status) (int, string) {
	for d, t := range w.things {
		s := now[d]
		if s.Stale {
			continue
		}
		for _, x := range slices.Sorted(maps.Keys(t.toldOf)) {
			had := t.toldOf[x]
			if has := w.things[x].told; w.near(d, x) && w.things[x].kind != rendering && has.change > had.change && has.content != had.content {
				return d, fmt.Sprintf("it is %s and not stale, but was made from %q of %s, and the hub has heard of %q",
					s.State, had.content, w.name(x), has.content)
			}
		}
	}
	return -1, ""
}

// checkReady: a ready resource was told since its last update, or has a time at
// which it will be; a pending one has a lease; and the store knows when.
func (w *world) checkReady(now []Status) (int, string) {
	w.hear()
	for x, t := range w.things {
		if now[x].State < Ready || now[x].Failed {
			continue
		}
		due, timed := w.at(x).due()
		r := w.at(x).resource(t.uri)
		switch {
		case r.State == Pending && (r.LeaseUntil.IsZero() || !timed || due.After(r.LeaseUntil)):
			return x, fmt.Sprintf("it is pending until %s, and the store is next due %s", r.LeaseUntil, due)
		case r.State == Pending:
		case !r.NoticeDue.IsZero():
			if own := r.NoticeDue.After(w.at(x).now()); !timed || own && due.After(r.NoticeDue) {
				return x, fmt.Sprintf("it is to be told at %s, and the store is next due %s", r.NoticeDue, due)
			}
		case !w.toldSince[t.uri]:
			return x, "it is ready, and nobody was told"
		case !timed:
			return x, "it was told, and there is no retry"
		}
	}
	return -1, ""
}

// checkDirty: who waits, waits for an unsettled dependency or for a change that
// is on its way to it; and not longer than starvation allows.
func (w *world) checkDirty(now []Status) (int, string) {
	for x, t := range w.things {
		if now[x].State != Dirty || len(w.at(x).s.Jobs()) > 0 {
			continue
		}
		unsettled := func(s Status) bool { return s.Unsettled }
		if !slices.ContainsFunc(w.at(x).status(w.at(x).dependencies(t.uri)...), unsettled) {
			return x, "it waits for nobody"
		}
	}
	return -1, ""
}
