package graph

import (
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	// courseSteps is the average number of steps of one course, and minSteps the
	// number that all courses of a run have together.
	courseSteps = 150
	minSteps    = 10_000
	// checkEveryStep is how many steps pass between two checks of the
	// invariants, and crashEveryStep how many do at least between two crashes, in
	// those courses that have some: both are what a run spends its time on.
	checkEveryStep = 7
	crashEveryStep = 40
)

// course is a world in which every single step is drawn: who reads what when,
// which letter arrives, what is lost. What fails is made shorter until it is
// the shortest course that does.
type course struct {
	*world
	t       *rapid.T
	mail    map[int][]letter // on the way; those of one thing arrive in order
	arrived []letter
	makings []*making
	inbox   []Notice
	claims  []Claim
	read    int // notices put in the inbox
	steps   int
	crashes bool
	crashed int // at which step
}

func newCourse(t *rapid.T) *course {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
	o := Options{Work: []string{"html"}, chunk: rapid.IntRange(1, 3).Draw(t, "chunk"), inline: rapid.IntRange(-1, 1).Draw(t, "inline")}
	s := shape{primaries: 4, layers: 2, width: 3, revisions: true, cycles: rapid.SampledFrom([]float64{0, .3}).Draw(t, "cycles"),
		proofs: rapid.SampledFrom([][]proof{{seenAndToken}, {seenOnly}, {tokenOnly}, {timeOnly}, {seenAndToken, seenOnly, tokenOnly, timeOnly, someSeen}}).Draw(t, "proofs")}
	c := &course{t: t, mail: map[int][]letter{}, crashes: rapid.IntRange(0, 2).Draw(t, "crashes") == 0}
	c.world = build(newRig(t, o), rng, s)
	c.tick = rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second}).Draw(t, "tick")
	c.post = func(l letter, _ bool) {
		l.ID = c.newID()
		c.mail[l.x] = append(c.mail[l.x], l)
	}
	for x, th := range c.things {
		switch th.kind {
		case rendering:
			c.complete(c.begin(x, c.g.token()))
		case existence:
			c.flip(x)
		default:
			c.rewrite(x)
		}
	}
	if rapid.Bool().Draw(t, "all known") {
		c.deliverAll()
	}
	return c
}

// pick draws one of a list; of an empty one another step is drawn instead.
func pick[T any](c *course, what string, list []T) (one T, i int) {
	if len(list) == 0 {
		c.t.SkipNow()
	}
	i = rapid.IntRange(0, len(list)-1).Draw(c.t, what)
	return list[i], i
}

func (c *course) pickThing(what string, ok func(x int, t *thing) bool) int {
	var list []int
	for x, t := range c.things {
		if ok(x, t) {
			list = append(list, x)
		}
	}
	x, _ := pick(c, what, list)
	return x
}

func (c *course) pickRendering() int {
	return c.pickThing("rendering", func(_ int, t *thing) bool { return t.kind == rendering && !t.gone })
}

// moment passes between any two steps.
func (c *course) moment() {
	c.g.clock.Add(time.Millisecond.Microseconds())
	c.listen()
}

func (c *course) listen() {
	for _, n := range c.g.heard[c.read:] {
		if d := c.byURI[n.URI]; n.Kind == KindRefresh && !c.things[d].gone {
			c.note(d, "NOTICE %s %s", n.Cursor, n.Reason)
			c.inbox = append(c.inbox, n)
		}
	}
	c.read = len(c.g.heard)
}

// complete reads what m has yet to read and writes it.
func (c *course) complete(m *making) {
	for !c.readOn(m) {
	}
	c.finish(m, false)
}

// readOn reads one thing more; true if m has read all.
func (c *course) readOn(m *making) (done bool) {
	switch {
	case m.deps == nil:
		c.readSource(m)
	case len(m.reads) < len(m.deps):
		c.world.read(m, m.deps[len(m.reads)])
	}
	return len(m.reads) == len(m.deps)
}

func (c *course) deliverAll() {
	for _, x := range slices.Sorted(maps.Keys(c.mail)) {
		for len(c.mail[x]) > 0 {
			c.deliverFirst(x)
		}
	}
}

func (c *course) deliverFirst(x int) {
	l := c.mail[x][0]
	c.mail[x] = c.mail[x][1:]
	c.deliver(l)
	c.arrived = append(c.arrived, l)
	c.listen()
}

// actions are the steps a course is made of.
func (c *course) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":     func(*rapid.T) { c.check() },
		"edit": func(*rapid.T) { c.editOne() },
		"deliver": func(*rapid.T) {
			c.deliverFirst(c.pickThing("letter", func(x int, _ *thing) bool { return len(c.mail[x]) > 0 }))
		},
		"deliver again": func(t *rapid.T) {
			l, _ := pick(c, "letter", c.arrived)
			if c.things[l.x].kind == numbered && rapid.Bool().Draw(t, "id forgotten") && !slices.Contains(c.things[l.x].history, absent) {
				l.ID = "" // numbers tell what is old, but for what was deleted within a second: an undelete brings its number back
			}
			c.deliver(l)
		},
		"begin": func(*rapid.T) { c.makings = append(c.makings, c.begin(c.pickRendering(), c.g.token())) },
		"read": func(*rapid.T) {
			m, _ := pick(c, "making", c.makings)
			c.readOn(m)
		},
		"finish": func(*rapid.T) {
			m, i := pick(c, "making", c.makings)
			c.makings = slices.Delete(c.makings, i, i+1)
			c.complete(m)
		},
		"die": func(*rapid.T) {
			_, i := pick(c, "making", c.makings)
			c.makings = slices.Delete(c.makings, i, i+1)
		},
		"answer": func(*rapid.T) {
			n := c.takeNotice()
			c.makings = append(c.makings, c.begin(c.byURI[n.URI], n.Cursor))
		},
		"lose a notice": func(*rapid.T) { c.takeNotice() },
		"claim":         func(*rapid.T) { c.claimOne() },
		"give back":     func(t *rapid.T) { c.giveBack(rapid.Bool().Draw(t, "failed")) },
		"drop":          func(*rapid.T) { c.drop(c.pickRendering()) },
		"wait": func(t *rapid.T) {
			c.g.wait(rapid.SampledFrom([]time.Duration{100 * time.Millisecond, time.Second, 7 * time.Second, time.Minute, 16 * time.Minute}).Draw(t, "for"))
		},
		"work": func(*rapid.T) { c.g.work() },
		"crash": func(t *rapid.T) {
			if !c.crashes || c.steps < c.crashed+crashEveryStep {
				t.SkipNow()
			}
			c.crashed = c.steps
			c.g.crash(c.rng)
		},
	}
}

func (c *course) takeNotice() Notice {
	n, i := pick(c, "notice", c.inbox)
	c.inbox = slices.Delete(c.inbox, i, i+1)
	return n
}

func (c *course) claimOne() {
	n := c.takeNotice()
	if claim, ok := c.g.claim(n.URI, 5*time.Minute); ok {
		c.claims = append(c.claims, claim)
		c.makings = append(c.makings, c.begin(c.byURI[n.URI], claim.Token))
	}
}

// giveBack returns a claim, which may be over.
func (c *course) giveBack(failed bool) {
	claim, i := pick(c, "claim", c.claims)
	c.claims = slices.Delete(c.claims, i, i+1)
	if r := c.g.resource(claim.URI); r.State == Pending && r.LeaseUntil.Equal(claim.LeaseUntil) {
		c.g.release(claim, failed)
	}
}

// editOne edits a primary in a way that is drawn.
func (c *course) editOne() {
	x := c.pickThing("page", func(_ int, t *thing) bool { return t.kind != rendering })
	t, source := c.things[x], c.isSource(x)
	how := rapid.SampledFrom([]string{"rewrite", "revert", "touch", "save", "erase", "relist"}).Draw(c.t, "how")
	switch {
	case t.kind == existence:
		c.flip(x)
	case !t.exists && how == "revert" && c.before(x) != absent:
		c.revive(x)
	case !t.exists:
		c.rewrite(x)
	case how == "revert" && !source && c.before(x) != absent:
		c.revert(x)
	case how == "touch" || how == "save":
		c.touch(x, how == "save")
	case how == "erase" && !source:
		c.erase(x)
	case how == "relist" && source:
		c.relist(x)
		c.rewrite(x)
	default:
		c.rewrite(x)
	}
}

func (c *course) check() {
	c.moment()
	if c.steps++; c.steps%checkEveryStep == 0 {
		c.fail(c.checkInvariants())
	}
}

func (c *course) fail(x int, wrong string) {
	if wrong != "" {
		c.t.Fatalf("%s %s\n%s", c.name(x), wrong, c.story(x))
	}
}

// rest lets everything arrive and everything that is asked for be made, for 26
// hours: long enough for the last retry and the longest wait.
func (c *course) rest() {
	clear(c.renders)
	for _, m := range c.makings {
		c.complete(m)
	}
	c.makings = nil
	for end := c.g.now().Add(26 * time.Hour); c.g.now().Before(end); {
		c.deliverAll()
		c.g.drain()
		c.listen()
		notices := c.inbox
		c.inbox = nil
		for _, n := range notices {
			c.complete(c.begin(c.byURI[n.URI], n.Cursor))
			if c.renders[c.byURI[n.URI]] > maxRenders {
				c.fail(c.byURI[n.URI], "it is made without end")
			}
		}
		if len(notices) > 0 {
			c.g.wait(50 * time.Millisecond)
			continue
		}
		due, ok := c.g.due()
		if !ok {
			break
		}
		c.g.wait(max(due.Sub(c.g.now()), time.Millisecond))
	}
	c.fail(c.atRest())
	c.fail(c.checkInvariants())
}

func TestAnyCourseOfEventsEndsWithEverybodyFresh(t *testing.T) {
	setFlag(t, "rapid.steps", courseSteps)
	setFlag(t, "rapid.checks", 20)
	for steps := 0; steps < minSteps && !t.Failed(); {
		rapid.Check(t, func(t *rapid.T) {
			c := newCourse(t)
			t.Repeat(c.actions())
			steps += c.steps
			c.rest()
		})
	}
}

// setFlag gives a flag of rapid a value for one test, unless it has one from
// the command line.
func setFlag(t *testing.T, name string, value int) {
	f := flag.Lookup(name)
	if f.Value.String() != f.DefValue {
		return
	}
	if err := f.Value.Set(strconv.Itoa(value)); err != nil {
		t.Fatalf("flag %s: %v", name, err)
	}
	t.Cleanup(func() { _ = f.Value.Set(f.DefValue) })
}
