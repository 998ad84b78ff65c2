package graph

import (
	"fmt"
	"slices"
)

// The oracle knows the world and nothing of the rules: an artefact is stale iff
// a fresh rendering would read something else than what its cached copy was
// made from, anywhere, whether it shows in the result or not.

// maxRenders is how often a thing may be made in a run before that counts as a
// loop without end.
const maxRenders = 4000

// fresh is what a reader finds of x now; what left its cache is made for it.
func (w *world) fresh(x int) string {
	if !w.things[x].gone {
		return w.things[x].content
	}
	return w.result(x, w.deps(x), w.fresh) // result reads lower ranks alone, so this ends
}

// staleBecause says what a fresh rendering of d would read differently, "" if
// nothing.
func (w *world) staleBecause(d int) string {
	t := w.things[d]
	deps := w.deps(d)
	if !slices.Equal(t.madeOf, deps) {
		return fmt.Sprintf("it was made from %v, and would be from %v", t.madeOf, deps)
	}
	for _, x := range deps {
		if w.things[x].gone && w.things[x].rank >= t.rank {
			continue // a cycle through what nobody has made: there is no answer
		}
		if had, has := t.made[x].content, w.fresh(x); x != d && had != has {
			return fmt.Sprintf("it was made from %q of %s, which is %q", had, w.name(x), has)
		}
	}
	return ""
}

// atRest checks what must hold when everything that was sent has arrived and
// everything that was asked for has been made: no refresh is lost, nobody waits,
// nobody was made without end. It returns the first thing that is wrong with
// anybody, and whom it is wrong with.
func (w *world) atRest() (x int, wrong string) {
	for x, t := range w.things {
		if t.kind != rendering || t.gone {
			continue
		}
		r := w.at(x).resource(t.uri)
		switch {
		case !r.Known:
			return x, "the hub does not know it"
		case w.staleBecause(x) != "":
			return x, "lost refresh: it is " + r.State.String() + ", but " + w.staleBecause(x)
		case r.State != Clean:
			return x, "it is " + r.State.String() + " for ever"
		case r.Stale:
			return x, "it is said to be stale for ever"
		case w.renders[x] > maxRenders:
			return x, fmt.Sprintf("it was made %d times", w.renders[x])
		}
	}
	return -1, ""
}
