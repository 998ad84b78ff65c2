package graph

import (
	"container/heap"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// scenario is a world and what goes wrong in it.
type scenario struct {
	name string
	shape
	edits int
	span  time.Duration // in which they happen

	loss  float64 // of notices
	death float64 // of workers that have begun
	slow  float64 // of renderings that take seconds
	again float64 // of updates that are delivered twice
	crash float64 // of runs in which the hub crashes, three times
	eager float64 // of edits whose editor's own rendering comes at once, often before the edit's event
	claim float64 // of notices that are answered with a claim
	alive bool    // pages are deleted and undeleted, artefacts leave their caches
	late  bool    // a part of the world is heard of late, some of it first as somebody's dependency

	hubs  int           // clusters, with a hub each
	skew  time.Duration // of their clocks, at most
	drop  float64       // of messages between hubs
	dup   float64       // of those that come again later
	apart bool          // links fail for a while
	lost  bool          // hubs are restored from an older copy, or lose all

	tick  time.Duration // of clocks
	delay time.Duration // of updates, at most
	step  time.Duration // between two steps of a job, at most
	chunk int
}

// scenarios are those in which one or the other rule was found to be missing.
func scenarios() []scenario {
	shallow := shape{primaries: 10, layers: 1, width: 14, proofs: []proof{seenAndToken}}
	all := []proof{seenAndToken, seenOnly, tokenOnly, timeOnly, someSeen}
	deep := shape{primaries: 10, layers: 4, width: 6, proofs: all, revisions: true}
	base := scenario{edits: 60, span: 2 * time.Minute, shape: shallow, eager: .3, tick: time.Millisecond,
		delay: 500 * time.Millisecond, step: 300 * time.Millisecond, chunk: 2}
	var list []scenario
	add := func(name string, change func(s *scenario)) {
		s := base
		s.name = name
		change(&s)
		list = append(list, s)
		s.name, s.late = name+", heard of late", true
		list = append(list, s)
	}
	hostile := func(s *scenario) {
		s.loss, s.death, s.slow, s.again, s.crash, s.eager, s.claim = .1, .1, .15, .2, .5, .5, .3
		s.alive, s.revisions, s.tick = true, true, time.Second
	}
	names := map[proof]string{seenAndToken: "seen and token", seenOnly: "seen", tokenOnly: "token", timeOnly: "time"}
	for _, p := range []proof{seenAndToken, seenOnly, tokenOnly, timeOnly} {
		add("shallow, "+names[p], func(s *scenario) {
			s.proofs = []proof{p}
			if p == timeOnly {
				s.tick = time.Second
			}
		})
		add("shallow and hostile, "+names[p], func(s *scenario) { hostile(s); s.proofs = []proof{p} })
	}
	add("shallow and hostile, mixed, slow events", func(s *scenario) { hostile(s); s.proofs, s.delay = all, 5*time.Second })
	add("deep and hostile, mixed", func(s *scenario) { hostile(s); s.shape = deep })
	add("deep and hostile, mixed, slow jobs", func(s *scenario) {
		hostile(s)
		s.shape, s.step, s.chunk = deep, 4*time.Second, 1
	})
	add("cycles, hostile, mixed", func(s *scenario) {
		hostile(s)
		s.shape = deep
		s.layers, s.width, s.cycles = 3, 7, .3
	})
	return list
}

// event is something that happens in a run.
type event struct {
	at time.Time
	n  int // those of one time happen in the order they were planned
	do func()
}

type events []event

func (e events) Len() int { return len(e) }

func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].n < e[j].n
}

func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

func (e *events) Push(x any) { *e = append(*e, x.(event)) }

func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// run plays a scenario by chance.
type run struct {
	*world
	sc       scenario
	queue    events
	planned  int
	stations []*station
	links    []*link
	time     time.Time // which no clock of a hub need show
	arrived  map[int]time.Time
	withheld map[int]bool
	held     map[int][]letter
	firsts   map[int]letter
	driving  bool
	calm     bool // nothing goes wrong any more
	checks   int
	x        int // with whom something is wrong …
	wrong    string
}

// station is a hub and when it does what.
type station struct {
	*rig
	skew     time.Duration // of its clock, and of those of its producers
	workAt   time.Time     // the store's own work; zero if there is none
	upAt     time.Time     // it is down until then
	answered int           // notices heard of so far
	kept     *keepsake
}

// checkEvery is how many events pass between two checks of the invariants.
const checkEvery = 150

func newRun(t tester, sc scenario, seed uint64) *run {
	rng := rand.New(rand.NewPCG(seed, 1))
	r := &run{sc: sc, arrived: map[int]time.Time{}, withheld: map[int]bool{}, held: map[int][]letter{}, firsts: map[int]letter{}, x: -1}
	g := newRig(t, Options{chunk: sc.chunk, inline: rng.IntN(3) - 1, Work: []string{"html"}})
	r.world = build(g, rng, sc.shape)
	r.tick, r.post, r.time = sc.tick, r.send, g.now()
	r.stations = []*station{{rig: g}}
	if sc.hubs > 1 {
		r.settleClusters(t)
	}
	if !sc.late {
		r.shuffleIDs()
	}
	return r
}

// shuffleIDs lets the store hear of all things in a random order, and not in
// that of the layers: fan-outs go by the order of first hearing.
func (r *run) shuffleIDs() {
	for _, st := range r.stations {
		index := Update{ID: "all", URI: named("index") + st.name(), At: st.now()}
		for _, x := range r.rng.Perm(len(r.things)) {
			index.Deps = append(index.Deps, Dep{URI: r.things[x].uri})
		}
		st.apply(index)
		index.ID, index.Deps = "none", []Dep{}
		st.apply(index)
	}
}

// station is that of x's hub.
func (r *run) station(x int) *station {
	if r.home == nil {
		return r.stations[0]
	}
	return r.stations[r.home[x]]
}

func (r *run) now() time.Time { return r.time }

func (r *run) chance(p float64) bool { return r.rng.Float64() < p }

// upTo is a random time of at least 1 ms and at most d.
func (r *run) upTo(d time.Duration) time.Duration {
	return time.Millisecond * time.Duration(1+r.rng.Int64N(max(1, d.Milliseconds())))
}

func (r *run) later(d time.Duration, f func()) {
	r.planned++
	heap.Push(&r.queue, event{r.now().Add(d), r.planned, f})
}

// atHub does f at a hub, when it is up.
func (r *run) atHub(st *station, f func()) {
	if r.now().Before(st.upAt) {
		r.later(st.upAt.Sub(r.now()), func() { r.atHub(st, f) })
		return
	}
	f()
	r.after(st)
}

// after looks at what a hub did: notices go to workers, work is planned.
func (r *run) after(st *station) {
	fresh := st.heard[st.answered:]
	st.answered = len(st.heard)
	for _, n := range fresh {
		if n.Kind == KindRefresh {
			r.notified(n)
		}
	}
	due, ok := st.due()
	due = due.Add(-st.skew)
	switch step := r.upTo(r.sc.step); {
	case !ok:
		st.workAt = time.Time{}
	case due.After(r.now()):
		st.workAt = due
	case !st.workAt.After(r.now()) || st.workAt.Sub(r.now()) > step:
		st.workAt = r.now().Add(step)
	}
	if st.workAt.Before(st.upAt) && !st.workAt.IsZero() {
		st.workAt = st.upAt
	}
}

// nextWork is the hub whose own work is next, if that is before a time.
func (r *run) nextWork(before time.Time) (next *station) {
	for _, st := range r.stations {
		if !st.workAt.IsZero() && st.workAt.Before(before) {
			next, before = st, st.workAt
		}
	}
	return next
}

// setTime moves all clocks.
func (r *run) setTime(now time.Time) {
	r.time = now
	for _, st := range r.stations {
		st.clock.Store(now.Add(st.skew).UnixMicro())
	}
}

// until plays what is planned up to a time.
func (r *run) until(end time.Time) {
	for r.wrong == "" {
		next := end
		if len(r.queue) > 0 && r.queue[0].at.Before(next) {
			next = r.queue[0].at
		}
		st := r.nextWork(next)
		if st != nil {
			next = st.workAt
		}
		r.setTime(next)
		switch {
		case st != nil:
			st.workAt = time.Time{}
			st.work()
			r.after(st)
		case next.Equal(end):
			return
		default:
			heap.Pop(&r.queue).(event).do()
		}
		if r.checks++; r.checks%checkEvery == 0 && r.driving {
			r.x, r.wrong = r.checkInvariants()
		}
	}
}

// send puts an update on its way: those of one thing arrive in order.
func (r *run) send(l letter, soon bool) {
	if r.withheld[l.x] {
		r.held[l.x] = append(r.held[l.x], l)
		if r.driving && r.rng.IntN(3) == 0 {
			r.release(l.x)
		}
		return
	}
	if _, seen := r.firsts[l.x]; !seen && r.sc.late && !r.driving && r.things[l.x].kind != rendering {
		r.firsts[l.x] = l
	}
	l.ID = r.newID()
	delay := r.upTo(r.sc.delay)
	if soon {
		delay = r.upTo(5 * time.Millisecond)
	}
	at := r.now().Add(delay)
	if last := r.arrived[l.x]; !at.After(last) {
		at = last.Add(time.Millisecond)
	}
	r.arrived[l.x] = at
	st := r.station(l.x)
	r.later(at.Sub(r.now()), func() { r.atHub(st, func() { r.take(st, l) }) })
	if r.chance(r.sc.again) && r.driving && !r.calm {
		if r.chance(.3) && (r.sc.tick < time.Second || r.things[l.x].kind == numbered) {
			l.ID = "" // its id is forgotten: only its time or its number tells
		}
		r.later(at.Sub(r.now())+r.upTo(20*time.Second), func() { r.atHub(st, func() { r.take(st, l) }) })
	}
}

// take gives a letter to its hub.
func (r *run) take(st *station, l letter) {
	if st.kept != nil {
		st.kept.since = append(st.kept.since, l)
	}
	r.deliver(l)
}

func (r *run) release(x int) {
	held := r.held[x]
	r.withheld[x], r.held[x] = false, nil
	for _, l := range held {
		r.send(l, false)
	}
}

// notified is a worker that is told to make something.
func (r *run) notified(n Notice) {
	d := r.byURI[n.URI]
	r.note(d, "NOTICE %s %s", n.Cursor, n.Reason)
	if r.things[d].gone || !r.calm && r.driving && r.chance(r.sc.loss) {
		return
	}
	r.later(r.upTo(200*time.Millisecond), func() {
		st := r.station(d)
		if !r.chance(r.sc.claim) || r.now().Before(st.upAt) {
			r.render(d, n.Cursor, true, false)
			return
		}
		c, ok := st.claim(n.URI, 5*time.Minute)
		r.after(st)
		if ok {
			r.note(d, "claimed until %s", c.LeaseUntil)
			r.render(d, c.Token, true, false)
		}
	})
}

// token is what a producer of d gets that asks for one now; none while the hub is down.
func (r *run) token(d int) Cursor {
	st := r.station(d)
	if r.now().Before(st.upAt) {
		return Cursor{}
	}
	return st.token()
}

// render makes d, which takes a while in which the world moves on.
func (r *run) render(d int, token Cursor, mortal, soon bool) {
	takes := 20*time.Millisecond + r.upTo(400*time.Millisecond)
	troubled := r.driving && !r.calm
	if troubled && r.chance(r.sc.slow) {
		takes = 2*time.Second + r.upTo(15*time.Second)
	}
	m := r.begin(d, token)
	if r.renders[d] > maxRenders {
		r.x, r.wrong = d, "it is made without end"
	}
	if mortal && troubled && r.chance(r.sc.death) {
		return
	}
	r.later(time.Millisecond, func() {
		r.readSource(m)
		for _, x := range m.deps[1:] {
			r.later(r.upTo(takes-3*time.Millisecond), func() { r.read(m, x) })
		}
	})
	r.later(takes, func() { r.finish(m, soon || r.rng.IntN(2) == 0) })
}

// boot makes a world that has been rendered once and is at rest.
func (r *run) boot() {
	for x, t := range r.things {
		late := r.rng.Float64()
		r.withheld[x] = r.sc.late && (late < .4 || t.kind == rendering && late < .5)
		known := r.rng.IntN(4) > 0 // else the hub hears of it when it is edited
		post := r.post
		if !known {
			r.post = func(letter, bool) {}
		}
		switch {
		case t.kind == rendering:
			r.later(time.Duration(t.rank)*10*time.Second, func() { r.render(x, r.token(x), false, false) })
		case r.sc.late && late < .15 && !r.isSource(x):
			if t.kind == existence {
				t.version, t.content = "0", "0"
			}
		case t.kind == existence && r.rng.IntN(2) == 0:
			t.exists = true
			r.flip(x)
		case t.kind == existence:
			r.flip(x)
		default:
			r.rewrite(x)
		}
		r.post = post
	}
	r.until(r.now().Add(40 * time.Minute))
	r.driving = true
	clear(r.renders)
}

// drive lets the world be edited for a while, and then come to rest.
func (r *run) drive() {
	var primaries, artefacts []int
	for x, t := range r.things {
		if t.kind == rendering {
			artefacts = append(artefacts, x)
		} else {
			primaries = append(primaries, x)
		}
	}
	for range r.sc.edits {
		x, d := primaries[r.rng.IntN(len(primaries))], artefacts[r.rng.IntN(len(artefacts))]
		at := r.upTo(r.sc.span)
		r.later(at, func() { r.edit(x) })
		if r.chance(.1) { // more versions in a short time than anybody remembers
			every := r.upTo(400 * time.Millisecond)
			for n := range 8 {
				r.later(at+time.Duration(n)*every, func() { r.edit(x) })
			}
		}
		if r.chance(r.sc.eager) {
			r.later(r.upTo(r.sc.span), func() {
				if !r.things[d].gone {
					r.render(d, r.token(d), false, false)
				}
			})
		}
		if r.sc.alive && r.chance(.1) {
			r.later(r.upTo(r.sc.span), func() {
				if !r.things[d].gone && r.things[d].exists {
					r.drop(d)
				}
			})
		}
	}
	r.troubles()
	r.later(r.sc.span+20*time.Second, func() { r.calm = true })
	r.until(r.now().Add(r.sc.span + 26*time.Hour))
}

// troubles plans what the hub suffers.
func (r *run) troubles() {
	for _, st := range r.stations {
		if r.chance(r.sc.crash) {
			for range 3 {
				r.later(r.upTo(r.sc.span), func() { r.crashHub(st) })
			}
		}
	}
	r.troubleClusters()
	for x := range r.things {
		if r.withheld[x] {
			r.later(r.upTo(r.sc.span+30*time.Second), func() { r.release(x) })
		}
		if first, ok := r.firsts[x]; ok && r.rng.IntN(3) == 0 { // once more, its id forgotten
			first.ID = ""
			r.later(r.upTo(r.sc.span), func() {
				if !r.withheld[x] {
					st := r.station(x)
					r.atHub(st, func() { r.take(st, first) })
				}
			})
		}
	}
}

func (r *run) crashHub(st *station) {
	if r.now().Before(st.upAt) {
		return
	}
	st.upAt = r.now().Add(r.upTo(5 * time.Second))
	for x := range r.things {
		if r.station(x) == st {
			r.note(x, "the hub crashes")
		}
	}
	st.crash(r.rng)
	r.after(st)
}

// edit changes a primary in one of the ways of a wiki.
func (r *run) edit(x int) {
	t := r.things[x]
	p := r.rng.Float64()
	source := r.isSource(x)
	switch {
	case t.kind == existence:
		r.flip(x)
	case r.sc.alive && p < .08 && t.exists && !source:
		r.erase(x)
	case !t.exists && p < .5 && r.before(x) != absent:
		r.revive(x)
	case r.sc.alive && p < .2 && t.exists:
		r.touch(x, r.rng.IntN(2) == 0)
	case p < .3 && t.exists && r.before(x) != absent && !source:
		r.revert(x)
	default:
		if source && r.chance(.4) {
			r.relist(x)
		}
		r.rewrite(x)
	}
	if source && r.chance(r.sc.eager) {
		d := r.renderingOf(x)
		r.render(d, r.token(d), false, true)
	}
}

// seeds is how many seeds of each scenario are played: SOAK_SEEDS for long runs.
func seeds(t *testing.T) uint64 {
	s := os.Getenv("SOAK_SEEDS")
	if s == "" {
		return 2
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatalf("SOAK_SEEDS: %v", err)
	}
	return n
}

func TestNoRefreshIsLostAndNobodyWaitsForEver(t *testing.T) {
	first := uint64(1)
	if s := os.Getenv("SOAK_SEED"); s != "" { // begin with this one
		first, _ = strconv.ParseUint(s, 10, 64)
	}
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+seeds(t); seed++ {
				r := newRun(t, sc, seed)
				r.boot()
				r.drive()
				if r.wrong == "" {
					r.x, r.wrong = r.atRest()
				}
				if r.wrong == "" {
					r.x, r.wrong = r.checkInvariants()
				}
				if r.wrong != "" {
					t.Fatalf("seed %d: %s %s\n%s", seed, r.name(r.x), r.wrong, r.story(r.x))
				}
			}
		})
	}
}
