package graph

import (
	"fmt"
	"testing"
	"time"
)

// Names in traces: X and Y are primaries, P is a primary that the artefact Z is
// made from, D and E are artefacts.
func named(name string) string { return "https://wiki.example/" + name }

// saw is a dependency of a rendering with what it read there; "" if it does not say.
func saw(name, seen string) Dep { return Dep{URI: named(name), Seen: seen} }

func (g *rig) nextID() string {
	g.ids++
	return fmt.Sprint("u", g.ids)
}

// edit is a primary's event: it has this version and hash now.
func (g *rig) edit(name, version, hash string) Result {
	g.t.Helper()
	return g.apply(Update{ID: g.nextID(), URI: named(name), Version: version, Hash: hash, At: g.now()})
}

// render is an artefact's event: it was made from deps, by somebody who held
// token (zero for none) and began now.
func (g *rig) render(name, version, hash string, token Cursor, deps ...Dep) Result {
	g.t.Helper()
	return g.renderFrom(g.now(), name, version, hash, token, deps...)
}

func (g *rig) renderFrom(began time.Time, name, version, hash string, token Cursor, deps ...Dep) Result {
	g.t.Helper()
	return g.apply(Update{ID: g.nextID(), URI: named(name), Type: "html", Version: version, Hash: hash, At: began, Token: token, Deps: deps})
}

func (g *rig) remove(name string) Result {
	g.t.Helper()
	return g.apply(Update{ID: g.nextID(), URI: named(name), Action: ActionDelete, At: g.now()})
}

func (g *rig) purge(name string) Result {
	g.t.Helper()
	return g.apply(Update{ID: g.nextID(), URI: named(name), Action: ActionPurge, At: g.now()})
}

// want checks where a resource stands and how often it was told to refresh.
func (g *rig) want(name string, state State, refreshes int) {
	g.t.Helper()
	if got := g.resource(named(name)).State; got != state {
		g.t.Errorf("%s is %s, want %s (%s)", name, got, state, g.describe(named(name)))
	}
	if got := g.refreshes(named(name)); len(got) != refreshes {
		g.t.Errorf("%s was told to refresh %d times, want %d: %+v", name, len(got), refreshes, got)
	}
}

var noToken Cursor

// trace is the shortest course of events that went wrong without one rule, and
// what is right for D at its end.
type trace struct {
	name      string
	run       func(g *rig)
	state     State
	refreshes int
}

// play runs each trace with jobs that end in the commit that began them, and
// with jobs that take one dependent a step.
func play(t *testing.T, traces []trace) {
	for _, tr := range traces {
		for jobs, o := range map[string]Options{"jobs inline": {}, "jobs in steps": {chunk: 1, inline: -1}} {
			t.Run(tr.name+"/"+jobs, func(t *testing.T) {
				g := newRig(t, o)
				tr.run(g)
				g.wait(time.Second)
				g.want("D", tr.state, tr.refreshes)
			})
		}
	}
}

func TestTracesOfSeenVersions(t *testing.T) {
	play(t, []trace{
		{"zeroone: existence going from 1 to 0 is heard", func(g *rig) {
			g.edit("X", "1", "h1")
			g.render("D", "", "d", g.token(), saw("X", "1"))
			g.wait(time.Second)
			g.edit("X", "0", "h0")
		}, Ready, 1},
		{"fall: what was seen is not remembered after six opaque versions during one rendering, the token still tells", func(g *rig) {
			g.edit("X", "o1", "h1")
			began := g.token()
			for n := 2; n <= 7; n++ {
				g.edit("X", fmt.Sprint("o", n), fmt.Sprint("h", n))
			}
			g.render("D", "", "d", began, saw("X", "o1"))
		}, Ready, 1},
		{"fall: a revision seen of what its producer only hashes proves nothing, the token still tells", func(g *rig) {
			g.edit("X", "", "h1")
			began := g.token()
			g.edit("X", "", "h2")
			g.render("D", "", "d", began, saw("X", "1182"))
		}, Ready, 1},
		{"ambig: a revision seen of an artefact that was made again at the same revision is not what it is", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "11", "x1", g.token(), saw("P", "1000"))
			began := g.token()
			g.render("Z", "11", "x2", g.token(), saw("P", "1000"))
			g.render("D", "", "d", began, saw("Z", "11"))
		}, Ready, 1},
		{"ambig: neither is one seen of a primary that had two contents at that revision", func(g *rig) {
			g.edit("X", "11", "h1")
			began := g.token()
			g.edit("X", "11", "h2")
			g.render("D", "", "d", began, saw("X", "11"))
		}, Ready, 1},
		{"since: a rendering that saw the revision before a null edit is not stale", func(g *rig) {
			g.edit("X", "10", "a")
			began := g.token()
			g.edit("X", "11", "a")
			g.render("D", "", "d", began, saw("X", "10"))
		}, Clean, 0},
		{"since: a version between two that were received with one hash is no alias of them", func(g *rig) {
			g.edit("X", "10", "a")
			g.edit("X", "12", "a") // the event of 11, with another content, was lost
			g.render("D", "", "d", g.token(), saw("X", "11"))
		}, Ready, 1},
		{"believe: a previous version seen six times running is what there is: the store missed its return", func(g *rig) {
			g.edit("X", "oA", "a")
			g.edit("X", "oB", "b") // A's return is lost
			for range believeAfter + 1 {
				g.render("D", "", "d", g.token(), saw("X", "oA"))
				g.wait(time.Minute)
			}
		}, Clean, 5},
	})
}

func TestTracesOfMarkers(t *testing.T) {
	play(t, []trace{
		{"markclr: the marker of a rendering that saw 9 does not outlive a later one made from 5", func(g *rig) {
			g.edit("X", "5", "h5")
			g.render("D", "", "d", g.token(), saw("X", "9"))
			g.render("D", "", "d", g.token(), saw("X", "4")) // a lagging replica: told once
			g.render("D", "", "d", g.token(), saw("X", "5"))
			g.edit("X", "9", "h9")
		}, Ready, 2},
		{"marknum: who saw 9 is not disturbed while the store learns 7, 8 and 9", func(g *rig) {
			g.edit("X", "5", "h5")
			g.render("D", "", "d", g.token(), saw("X", "9"))
			for _, version := range []string{"7", "8", "9"} {
				g.edit("X", version, "h"+version)
				g.wait(time.Second)
			}
			if got := g.s.markers(); got != 0 {
				g.t.Errorf("%d markers when the store has caught up, want none", got)
			}
		}, Clean, 0},
		{"eqmark: who saw B of A, B, A is stale although B's event never came and the hash is the same", func(g *rig) {
			g.edit("X", "10", "a")
			g.render("D", "", "d", g.token(), saw("X", "11"))
			g.edit("X", "12", "a")
		}, Ready, 1},
		{"eqmark: an event that brings neither version nor hash leaves markers alone", func(g *rig) {
			g.edit("X", "oA", "a")
			g.render("D", "", "d", g.token(), saw("X", "oB"))
			g.edit("X", "oA", "a")
			if got := g.s.markers(); got != 1 {
				g.t.Errorf("%d markers after an event without news, want 1", got)
			}
			g.edit("X", "oB", "b")
		}, Clean, 0},
		{"purge: no marker matches a purge, not even one that holds for every version so far", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "5", "x1", g.token(), saw("P", "1000"))
			g.render("D", "", "d", g.token(), saw("Z", "9"))
			g.want("D", Clean, 0)
			g.purge("Z")
		}, Ready, 1},
	})
}

func TestTracesOfWhatIsGone(t *testing.T) {
	play(t, []trace{
		{"delver: a rendering that saw the page arrives after the page was deleted", func(g *rig) {
			g.edit("X", "1182", "h")
			began := g.token()
			g.wait(10 * time.Second)
			g.remove("X")
			g.render("D", "", "d", began, saw("X", "1182"))
		}, Ready, 1},
		{"delver: a red link needs no marker, deleted or never heard of", func(g *rig) {
			g.edit("X", "1182", "h")
			g.wait(10 * time.Second)
			g.remove("X")
			g.render("D", "", "d", g.token(), saw("X", "0"), saw("Y", "0"))
			if got := g.s.markers(); got != 0 {
				g.t.Errorf("%d markers, want none", got)
			}
		}, Clean, 0},
		{"delver: neither does an artefact that was deleted", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "11", "x1", g.token(), saw("P", "1000"))
			g.wait(10 * time.Second)
			g.remove("Z")
			g.render("D", "", "d", g.token(), saw("Z", "0"))
			if got := g.s.markers(); got != 0 {
				g.t.Errorf("%d markers, want none", got)
			}
		}, Clean, 0},
		{"delver: an undelete brings an old revision back, which is a change", func(g *rig) {
			g.edit("X", "1182", "h")
			g.wait(10 * time.Second)
			g.remove("X")
			g.render("D", "", "d", g.token(), saw("X", "0"))
			g.wait(10 * time.Second)
			if res := g.edit("X", "1100", "g"); res.Changed != 1 {
				g.t.Errorf("an undelete to a lower revision: %+v, want it accepted", res)
			}
		}, Ready, 1},
		{"purge: what was seen of an artefact may be the copy that was purged since", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
			began := g.token()
			g.purge("Z")
			g.render("D", "", "d", began, saw("Z", "x1"))
		}, Ready, 1},
		{"purge: what was seen after the purge is the copy that was made since", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
			g.purge("Z")
			g.render("D", "", "d", g.token(), saw("Z", "x1"))
			if got := g.s.markers(); got != 0 {
				g.t.Errorf("%d markers, want none", got)
			}
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
		}, Clean, 0},
		{"purge: and that copy may be what it was before", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "", "x0", g.token(), saw("P", "1000"))
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
			g.purge("Z")
			g.render("D", "", "d", g.token(), saw("Z", "x0"))
			g.render("Z", "", "x0", g.token(), saw("P", "1000"))
		}, Clean, 0},
		{"purge: a purged artefact that is made again with the same result tells nobody twice", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
			g.render("D", "", "d", g.token(), saw("Z", ""))
			g.wait(time.Second)
			g.purge("Z")
			g.wait(time.Second)
			g.render("D", "", "d", g.token(), saw("Z", "")) // the refresh made it again; its own event follows
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
		}, Clean, 1},
		{"stubedge: a deleted page is not told about its former dependencies", func(g *rig) {
			g.edit("X", "10", "a")
			g.render("D", "", "d", g.token(), saw("X", "10"))
			g.wait(time.Second)
			g.remove("D")
			g.edit("X", "11", "b")
		}, Stub, 0},
	})
}

func TestTracesOfOverlap(t *testing.T) {
	play(t, []trace{
		{"nodropat: two renderings overlap and the one begun earlier is written last", func(g *rig) {
			g.edit("X", "10", "a")
			g.wait(10 * time.Second)
			early, held := g.now(), g.token()
			g.wait(10 * time.Second)
			g.render("D", "", "d1", g.token(), saw("X", "10"))
			g.renderFrom(early, "D", "", "d0", held, saw("X", "9"))
			if r := g.resource(named("D")); r.Hash != "" || !r.Stale {
				g.t.Errorf("hash %q, stale %t after an overlap: want the hash forgotten and stale", r.Hash, r.Stale)
			}
		}, Ready, 1},
		{"nodropat: the same of two renderings of one revision", func(g *rig) {
			g.edit("X", "10", "a")
			g.wait(10 * time.Second)
			early, held := g.now(), g.token()
			g.wait(10 * time.Second)
			g.render("D", "10", "d1", g.token(), saw("X", "10"))
			g.renderFrom(early, "D", "10", "d0", held, saw("X", "10"))
		}, Ready, 1},
		{"nodropat: only a rendering begun later ends the doubt", func(g *rig) {
			g.edit("X", "10", "a")
			g.wait(10 * time.Second)
			early, held := g.now(), g.token()
			g.wait(10 * time.Second)
			late := g.now()
			g.render("D", "", "d1", g.token(), saw("X", "10"))
			g.renderFrom(early, "D", "", "d0", held, saw("X", "10"))
			g.renderFrom(late, "D", "", "d1", held, saw("X", "10")) // begun as early as the one that is in doubt
			g.wait(time.Second)
			g.want("D", Ready, 2)
			g.render("D", "", "d1", g.token(), saw("X", "10"))
		}, Clean, 2},
		{"arrive: an artefact changed when its update arrived, not when its making began", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
			g.wait(20 * time.Second)
			began, held := g.now(), g.token()
			g.wait(8 * time.Second)
			beganD := g.now()
			g.wait(5 * time.Second)
			g.renderFrom(began, "Z", "", "x2", held, saw("P", "1000"))
			g.renderFrom(beganD, "D", "", "d", noToken, saw("Z", ""))
			g.wait(10 * time.Second)
		}, Ready, 1},
		{"arrive: a purge that its cache dates earlier takes that arrival not back", func(g *rig) {
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
			g.wait(20 * time.Second)
			began, held := g.now(), g.token()
			g.wait(time.Second)
			left := g.now()
			g.wait(6 * time.Second)
			beganD := g.now()
			g.wait(6 * time.Second)
			g.renderFrom(began, "Z", "", "x2", held, saw("P", "1000"))
			g.renderFrom(beganD, "D", "", "d", noToken, saw("Z", ""))
			waits := g.resource(named("D")).NoticeDue
			g.apply(Update{ID: g.nextID(), URI: named("Z"), Action: ActionPurge, At: left})
			if got := g.resource(named("D")).NoticeDue; !got.Equal(waits) || waits.IsZero() {
				g.t.Errorf("after the purge D is to be told at %s, before at %s", got, waits)
			}
			g.renderFrom(beganD, "D", "", "d2", noToken, saw("Z", ""))
			g.wait(10 * time.Second)
		}, Ready, 1},
		{"arrive: an artefact made again with an equal hash has not changed since", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
			g.wait(20 * time.Second)
			g.render("Z", "", "x1", g.token(), saw("P", "1000"))
			g.wait(time.Second)
			g.render("D", "", "d", noToken, saw("Z", ""))
			g.wait(10 * time.Second)
		}, Clean, 0},
	})
}

func TestTracesOfPresumedVersions(t *testing.T) {
	play(t, []trace{
		{"presumed: the first event that everybody saw tells nobody", func(g *rig) {
			g.render("D", "", "d", g.token(), saw("X", "5"))
			g.render("E", "", "e", g.token(), saw("X", "5"))
			g.edit("X", "5", "h5")
			if got := g.s.markers(); got != 0 {
				g.t.Errorf("%d markers on what was never heard of, want none", got)
			}
		}, Clean, 0},
		{"presumed: a delete confirms what everybody saw missing", func(g *rig) {
			g.render("D", "", "d", g.token(), saw("X", "0"))
			g.remove("X")
		}, Clean, 0},
		{"preszero: D saw 0, E saw 5, and 5 is the first event", func(g *rig) {
			g.render("D", "", "d", g.token(), saw("X", "0"))
			g.render("E", "", "e", g.token(), saw("X", "5"))
			g.edit("X", "5", "h5")
		}, Ready, 1},
		{"preszero: E saw 5, D saw 0, and 5 is the first event", func(g *rig) {
			g.render("E", "", "e", g.token(), saw("X", "5"))
			g.render("D", "", "d", g.token(), saw("X", "0"))
			g.edit("X", "5", "h5")
		}, Ready, 1},
		{"preszero: D does not say what it saw, E saw 5, and 5 is the first event", func(g *rig) {
			g.render("D", "", "d", g.token(), saw("X", ""))
			g.render("E", "", "e", g.token(), saw("X", "5"))
			g.edit("X", "5", "h5")
		}, Ready, 1},
		{"prespos: a confirming first event is still a change for who began before it", func(g *rig) {
			g.render("E", "", "e", g.token(), saw("X", "o5"))
			began := g.token()
			g.edit("X", "o5", "")
			g.render("D", "", "d", began, saw("X", "o4"))
		}, Ready, 1},
		{"presart: the version of an artefact confirms nothing", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("D", "", "d", g.token(), saw("Z", "11"))
			g.render("Z", "11", "x2", g.token(), saw("P", "1000"))
		}, Ready, 1},
		{"presart: the hash of an artefact does", func(g *rig) {
			g.edit("P", "1000", "p")
			g.render("D", "", "d", g.token(), saw("Z", "x2"))
			g.render("Z", "11", "x2", g.token(), saw("P", "1000"))
		}, Clean, 0},
		{"a purge confirms nothing, not even that there was nothing", func(g *rig) {
			g.render("D", "", "d", g.token(), saw("Z", "0"))
			g.purge("Z")
		}, Ready, 1},
		{"a purge confirms nothing, although its hash is the presumed one", func(g *rig) {
			g.render("D", "", "d", g.token(), saw("Z", "x1"))
			g.apply(Update{ID: g.nextID(), URI: named("Z"), Action: ActionPurge, Hash: "x1", At: g.now()})
		}, Ready, 1},
	})
}

func TestTracesOfLoops(t *testing.T) {
	play(t, []trace{
		{"defer: who proves nothing but a time is told once for one change", func(g *rig) {
			g.edit("X", "10", "a")
			g.wait(10 * time.Second)
			g.render("D", "", "d", noToken, saw("X", ""))
			g.wait(10 * time.Second)
			g.edit("X", "11", "b")
			g.answer(20*time.Second, 300*time.Millisecond, time.Second, "D", saw("X", ""))
		}, Clean, 1},
		{"defer: a wait that an update ended does not end the next one early", func(g *rig) {
			g.edit("X", "10", "a")
			g.render("D", "", "d", noToken, saw("X", "")) // waits for six seconds
			g.wait(5500 * time.Millisecond)
			g.render("D", "", "d", noToken, saw("X", ""))
			g.want("D", Clean, 0)
			g.wait(200 * time.Millisecond)
			g.edit("X", "11", "b")
			g.wait(5 * time.Second)
			g.want("D", Ready, 0)
		}, Ready, 1},
		{"backoff: of two waits that ended while the store was away the last is told", func(g *rig) {
			g.edit("X", "10", "a")
			g.edit("X", "11", "b")
			for n := range 4 {
				g.render("D", "", fmt.Sprint("d", n), g.token(), saw("X", "10"))
			}
			g.clock.Add(time.Minute.Microseconds())
			g.drain()
			if told := g.refreshes(named("D")); told[len(told)-1].Cause.ID != fmt.Sprint("u", g.ids) {
				g.t.Errorf("D was told %+v, want its last update to be the cause of the last", told)
			}
		}, Ready, 3},
		{"backoff: a replica that lags for a minute costs seven notices", func(g *rig) {
			g.edit("X", "10", "a")
			g.edit("X", "11", "b")
			g.render("D", "", "d", g.token(), saw("X", "10"))
			g.answer(time.Minute, 40*time.Millisecond, time.Millisecond, "D", saw("X", "10"))
		}, Ready, 7},
		{"self: a page that names itself does not wait for itself", func(g *rig) {
			g.edit("X", "10", "a")
			for n := range 5 {
				g.render("D", "", fmt.Sprint("d", n), g.token(), saw("X", "10"), saw("D", ""))
				g.wait(time.Second)
			}
			if got := g.dependencies(named("D")); len(got) != 1 {
				g.t.Errorf("D depends on %v, want X alone", got)
			}
		}, Clean, 0},
	})
}

// answer makes name again after each of its notices, for the length of d. A
// rendering takes so long and is dated by a clock of so coarse a tick; it sends
// a token if it also says what it saw.
func (g *rig) answer(d, takes, tick time.Duration, name string, dep Dep) {
	g.t.Helper()
	answered := len(g.refreshes(named(name))) - 1
	if g.resource(named(name)).State == Clean {
		answered++
	}
	for end := g.now().Add(d); g.now().Before(end); g.wait(20 * time.Millisecond) {
		told := g.refreshes(named(name))
		if len(told) <= answered {
			continue
		}
		answered = len(told)
		began, token := g.now().Truncate(tick), noToken
		if dep.Seen != "" {
			token = told[answered-1].Cursor
		}
		g.wait(takes)
		g.renderFrom(began, name, "", "d", token, dep)
	}
}

// slow is a store whose fan-outs never end in the commit that began them, and
// look at one dependent a step.
var slow = Options{chunk: 1, inline: -1}

// TestTracesOfRunningJobs needs jobs that are under way.
// A wait of its own that ended unheard, because another rendering overlapped, left
// its end behind, and the timer of the next wait was taken for one of before.
func TestTraceAWaitThatIsOverDoesNotSwallowTheNextNotice(t *testing.T) {
	g := newRig(t, Options{})
	g.edit("P", "1000", "p")
	g.render("Z", "", "z1", g.token(), saw("P", "1000"))
	g.edit("X", "", "x")
	deps := []Dep{saw("X", ""), saw("Z", "")}
	before := g.now()
	for range 3 { // it waits until a rendering is provably newer
		g.clock.Add(time.Millisecond.Microseconds())
		g.render("D", "", "d", noToken, deps...)
	}
	g.edit("P", "1001", "p2")
	g.renderFrom(before, "D", "", "d", noToken, deps...)
	g.wait(10 * time.Second)
	g.want("D", Dirty, 0)
	g.render("Z", "", "z2", g.token(), saw("P", "1001"))
	g.wait(10 * time.Second)
	g.want("D", Ready, 1)
}

func TestTracesOfRunningJobs(t *testing.T) {
	t.Run("skip: who is made again before the fan-out reaches it is not told", func(t *testing.T) {
		g := newRig(t, slow)
		g.edit("X", "10", "a")
		g.render("D", "", "d", g.token(), saw("X", "10"))
		g.wait(time.Second)
		g.edit("X", "11", "b")
		if s := g.status(named("D"))[0]; !s.Stale {
			t.Errorf("D is not stale while the change is on its way to it")
		}
		g.render("D", "", "e", g.token(), saw("X", "11"))
		if s := g.status(named("D"))[0]; s.Stale || s.State != Clean {
			t.Errorf("D is %s, stale %t, right after it was made from the new version", s.State, s.Stale)
		}
		g.wait(time.Second)
		g.want("D", Clean, 0)
	})
	t.Run("skip: a second change during the fan-out makes one more run, for all", func(t *testing.T) {
		g := newRig(t, slow)
		g.edit("X", "10", "a")
		for _, d := range []string{"D", "E", "F"} {
			g.render(d, "", "d", g.token(), saw("X", "10"))
		}
		g.edit("X", "11", "b")
		for len(g.refreshes(named("D"))) == 0 { // pass one, then D
			g.work()
		}
		g.render("D", "", "e", g.token(), saw("X", "11"))
		g.render("F", "", "e", g.token(), saw("X", "11"))
		g.edit("X", "12", "c")
		g.wait(time.Second)
		g.want("D", Ready, 2)
		g.want("E", Ready, 1)
		g.want("F", Ready, 1)
	})
	t.Run("postings are read as they are: who comes during a fan-out is judged once", func(t *testing.T) {
		g := newRig(t, slow)
		g.edit("X", "10", "a")
		old := g.token()
		for _, d := range []string{"D", "E", "F"} {
			g.render(d, "", "d", g.token(), saw("X", "10"))
		}
		g.edit("X", "11", "b")
		for len(g.refreshes(named("D"))) == 0 {
			g.work()
		}
		g.apply(Update{ID: g.nextID(), URI: named("F"), Hash: "f", At: g.now(), Deps: []Dep{}}) // no longer made from X
		g.render("G", "", "g", g.token(), saw("X", "11"))                                       // a new one, from what X is
		g.render("H", "", "h", old, saw("X", "10"))                                             // a new one, from what X was
		g.wait(time.Second)
		g.want("D", Ready, 1)
		g.want("E", Ready, 1)
		g.want("F", Clean, 0)
		g.want("G", Clean, 0)
		g.want("H", Ready, 1)
	})
	t.Run("losing the skip set in a crash costs a refresh, and loses none", func(t *testing.T) {
		g := newRig(t, slow)
		g.edit("X", "10", "a")
		for _, d := range []string{"D", "E"} {
			g.render(d, "", "d", g.token(), saw("X", "10"))
		}
		g.edit("X", "11", "b")
		g.render("D", "", "e", g.token(), saw("X", "11"))
		g.crash(nil)
		g.wait(time.Second)
		g.want("D", Ready, 1)
		g.want("E", Ready, 1)
	})
}

// Z settles while a change of X is still on its way to D.
func TestTraceJobawareADirtyDependentWaitsForTheFanOutThatHasYetToPassIt(t *testing.T) {
	g := newRig(t, slow)
	g.edit("X", "10", "a")
	g.edit("P", "1000", "p")
	for n := range 8 {
		// They have dependents too: the fan-out marks them first, one a step.
		g.render(fmt.Sprint("other", n), "", "o", g.token(), saw("X", "10"))
		g.render(fmt.Sprint("another", n), "", "o", g.token(), saw(fmt.Sprint("other", n), "o"))
	}
	g.render("Z", "", "z1", g.token(), saw("P", "1000"))
	g.render("D", "", "d", g.token(), saw("X", "10"), saw("Z", "z1"))
	g.render("E", "", "e", g.token(), saw("D", "d"))
	g.wait(time.Second)
	g.edit("P", "1001", "q")
	g.wait(time.Second)
	g.render("D", "", "d2", g.token(), saw("X", "10"), saw("Z", "z1")) // waits for Z, not stale
	g.want("D", Dirty, 0)
	g.render("E", "", "e2", g.token(), saw("D", "d2")) // waits for D
	g.want("E", Dirty, 0)
	g.edit("X", "11", "b")
	g.render("Z", "", "z1", g.token(), saw("P", "1001")) // Z settles unchanged
	for g.work() {
		if d, e := g.resource(named("D")), g.resource(named("E")); d.State == Clean || e.State == Clean {
			t.Fatalf("D is %s and E is %s before X's change has reached D", d.State, e.State)
		}
	}
	g.want("D", Ready, 1)
	g.render("D", "", "d2", g.token(), saw("X", "11"), saw("Z", "z1"))
	g.wait(time.Second)
	g.want("D", Clean, 1)
	g.want("E", Clean, 0)
}

// D comes before Z in the order of fan-outs, and is made from X and from Z, which
// is made from X too.
func TestTraceDiamondWhoIsMadeFromXTwiceIsToldOnce(t *testing.T) {
	for jobs, o := range map[string]Options{"inline": {}, "in steps": slow} {
		t.Run(jobs, func(t *testing.T) {
			g := newRig(t, o)
			g.edit("X", "10", "a")
			g.render("D", "", "d", g.token(), saw("X", "10"), saw("Z", "z1"))
			g.render("Z", "", "z1", g.token(), saw("X", "10"))
			g.wait(time.Minute)
			g.edit("X", "11", "b")
			g.wait(time.Second)
			g.want("Z", Ready, 1)
			g.want("D", Dirty, 0)
			g.render("Z", "", "z2", g.token(), saw("X", "11"))
			g.wait(time.Second)
			g.want("D", Ready, 1)
			g.render("D", "", "d2", g.token(), saw("X", "11"), saw("Z", "z2"))
			g.wait(time.Minute)
			g.want("Z", Clean, 1)
			g.want("D", Clean, 1)
		})
	}
}

func TestTraceFailedADependencyThatFailedIsSettled(t *testing.T) {
	prepare := func(t *testing.T) *rig {
		g := newRig(t, Options{Work: []string{"html"}})
		g.edit("P", "1000", "p")
		g.render("Z", "", "z1", g.token(), saw("P", "1000"))
		g.edit("P", "1001", "q")
		return g
	}
	t.Run("failed: a dependent of what failed does not wait for it", func(t *testing.T) {
		g := prepare(t)
		g.wait(24 * time.Hour)
		if r := g.resource(named("Z")); !r.Failed || r.State != Ready {
			t.Fatalf("Z after a day without an answer: %s, want it ready and failed", g.describe(named("Z")))
		}
		g.render("D", "", "d", g.token(), saw("Z", "z1"))
		g.want("D", Clean, 0)
	})
	t.Run("failed: failing wakes who waits", func(t *testing.T) {
		g := prepare(t)
		for n := 0; !g.resource(named("Z")).Failed; n++ {
			if n > 24*12 {
				t.Fatalf("Z has not failed after a day: %s", g.describe(named("Z")))
			}
			if g.resource(named("D")).State != Dirty {
				g.render("D", "", fmt.Sprint("d", n), g.token(), saw("Z", "z1"))
				g.want("D", Dirty, 0)
			}
			g.wait(5 * time.Minute) // less than it may wait
		}
		g.want("D", Clean, 0)
	})
}
