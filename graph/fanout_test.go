package graph

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// crowd is a store in which many are made from X, and what they were made from.
type crowd struct {
	*rig
	uris []string
	made []string // the version of X that each was made from
}

const (
	crowdSize = 20_000
	crowdStep = 2000 // how many a step of the fan-out evaluates
	remade    = 500  // how many are made again between two steps
)

func newCrowd(t *testing.T, n int) *crowd {
	c := &crowd{rig: newRig(t, Options{chunk: crowdStep})}
	c.edit("X", "1000", "a")
	token := c.token()
	var us []Update
	for i := range n {
		c.uris, c.made = append(c.uris, named(fmt.Sprint("d", i))), append(c.made, "1000")
		us = append(us, c.update(i, "1000", token))
		if i%50 == 0 { // some have dependents of their own, and are marked in a first pass
			us = append(us, Update{URI: c.uris[i] + "#map", Type: "map", Hash: "m", At: c.now(), Token: token, Deps: []Dep{{URI: c.uris[i], Seen: "d"}}})
		}
	}
	for len(us) > 0 {
		batch := us[:min(len(us), 2000)]
		c.apply(batch...)
		us = us[len(batch):]
	}
	c.wait(time.Minute)
	return c
}

// update is the rendering of i from a version of X. Its hash never differs.
func (c *crowd) update(i int, version string, token Cursor) Update {
	return Update{URI: c.uris[i], Type: "html", Hash: "d", At: c.now(), Token: token, Deps: []Dep{saw("X", version)}}
}

func TestDuringAFanOutStatusIsRightForAllAndWhoIsMadeAgainIsNotTold(t *testing.T) {
	c := newCrowd(t, crowdSize)
	rng := rand.New(rand.NewPCG(1, 5))
	heard := len(c.heard)
	c.edit("X", "1001", "b")
	fresh := map[string]int{} // who was made from the new version, after how many notices
	rounds := 0
	for busy := true; busy; rounds++ {
		var us []Update
		for range remade {
			i := rng.IntN(len(c.uris))
			c.made[i] = "1001"
			us = append(us, c.update(i, "1001", c.token()))
		}
		c.apply(us...)
		for _, u := range us {
			fresh[u.URI] = len(c.heard)
		}
		c.statusIsRight(rounds)
		busy = c.work()
		c.statusIsRight(rounds)
		if t.Failed() {
			return
		}
	}
	if rounds < crowdSize/crowdStep/2 {
		t.Errorf("the fan-out took %d steps, want at least %d: nothing came between", rounds, crowdSize/crowdStep/2)
	}
	told := map[string]int{}
	for i, n := range c.heard[heard:] {
		if n.Kind != KindRefresh {
			continue
		}
		if n.Lane != Bulk {
			t.Errorf("%s of a fan-out to %d is in the %s lane", n.Cursor, crowdSize, n.Lane)
		}
		if told[n.URI]++; told[n.URI] > 1 {
			t.Errorf("%s was told %d times", n.URI, told[n.URI])
		}
		if after, ok := fresh[n.URI]; ok && heard+i >= after {
			t.Errorf("%s was told at %s, after it was made from the new version", n.URI, n.Cursor)
		}
	}
	for i, uri := range c.uris {
		if c.made[i] == "1000" && told[uri] != 1 {
			t.Errorf("%s is made from the old version and was told %d times", uri, told[uri])
		}
	}
	t.Logf("%d of %d were made again meanwhile, %d were told", len(fresh), len(c.uris), len(told))
}

// statusIsRight: at every moment exactly those made from the old version are
// said to be stale, and no other state than clean is given to who is not.
func (c *crowd) statusIsRight(round int) {
	c.t.Helper()
	wrong := 0
	for i, s := range c.status(c.uris...) {
		old := c.made[i] == "1000"
		if s.Stale != old || !old && s.State != Clean {
			if wrong++; wrong <= 3 {
				c.t.Errorf("round %d: %s is %s, stale %t, but made from %s", round, s.URI, s.State, s.Stale, c.made[i])
			}
		}
	}
	if wrong > 3 {
		c.t.Errorf("round %d: and %d more", round, wrong-3)
	}
}
