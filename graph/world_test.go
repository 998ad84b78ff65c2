package graph

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// thingKind says how the producer of a thing names its versions.
type thingKind uint8

const (
	numbered  thingKind = iota // by revisions that count up
	tokened                    // by opaque tokens; a revert gives the old one back
	hashed                     // not at all: only hashes
	existence                  // "1" and "0": the target of a link
	rendering                  // an artefact, made from a source page and what that lists
)

// proof is what the producer of a rendering says of what it was made from.
type proof uint8

const (
	seenAndToken proof = iota
	seenOnly
	tokenOnly
	timeOnly
	someSeen // each dependency or not, and a token
)

// absent is the content of what does not exist.
const absent = ""

// thing is a resource as it is in the world, beside what a hub knows of it.
type thing struct {
	kind    thingKind
	uri     string
	content string // its identity: equal content is equal
	version string
	rev     int
	changes int // how often it changed
	exists  bool
	history []string // contents, newest last
	list    []int    // a source page: what its rendering lists

	// Of a rendering.
	source  int
	rank    int // what it reads of equal or higher rank has no effect on its content
	proof   proof
	carries bool // it carries its source's revision as its version
	asks    bool // as a reader it reports that revision, not the hash
	gone    bool // it left its cache; the next reader makes it
	made    map[int]reading
	madeOf  []int // in the order read

	// What the store accepted last.
	told   reading         // of a primary
	toldOf map[int]reading // of a rendering
}

// reading is what somebody found when it read a thing.
type reading struct {
	content string
	change  int // how often the thing had changed
	seen    string
}

// letter is an update on its way to the hub, with what it means in the world.
type letter struct {
	Update
	x      int
	is     reading
	madeOf map[int]reading
}

// making is a rendering under way.
type making struct {
	d        int
	began    time.Time
	token    Cursor
	deps     []int
	reads    map[int]reading
	revision string // of the source when it was read
}

// world is a wiki with its caches and workers, and a hub, or several such clusters
// with a hub each. Whoever drives it says when its letters arrive.
type world struct {
	g      *rig   // the hub; the first of several
	hubs   []*rig // all of them
	home   []int  // whose hub each thing is at; nil if there is one
	shape  shape
	rng    *rand.Rand
	things []*thing
	byURI  map[string]int
	tick   time.Duration // of the producers' clocks
	post   func(l letter, soon bool)
	ids    int
	serial int // of contents

	renders   map[int]int     // since the start
	toldSince map[string]bool // a refresh notice came after the last accepted update
	listened  map[*rig]int    // notices counted in toldSince
	checked   int             // times the invariants were checked
	log       []logLine
}

type logLine struct {
	at   time.Time
	x    int
	text string
}

// at is the hub of x.
func (w *world) at(x int) *rig {
	if w.home == nil {
		return w.g
	}
	return w.hubs[w.home[x]]
}

// near reports whether the hub of d hears of x at first hand.
func (w *world) near(d, x int) bool { return w.at(d) == w.at(x) }

func (w *world) note(x int, format string, args ...any) {
	w.log = append(w.log, logLine{w.at(x).now(), x, fmt.Sprintf(format, args...)})
}

// story is what happened to x and to what it is made from.
func (w *world) story(x int) string {
	var b strings.Builder
	deps := w.deps(x)
	for _, l := range w.log {
		if l.x == x || slices.Contains(deps, l.x) {
			fmt.Fprintf(&b, "%s %s %s\n", l.at.Format("15:04:05.000"), w.name(l.x), l.text)
		}
	}
	fmt.Fprintf(&b, "at the end:\n")
	for _, y := range append([]int{x}, deps...) {
		fmt.Fprintf(&b, "  %s is %q, version %q; hub: %s\n", w.name(y), w.fresh(y), w.things[y].version, w.at(y).describe(w.things[y].uri))
		if !w.near(x, y) {
			fmt.Fprintf(&b, "    at the hub of %s: %s\n", w.name(x), w.at(x).describe(w.things[y].uri))
		}
	}
	return b.String()
}

func (w *world) name(x int) string { return fmt.Sprint("#", x) }

// deps are what a rendering made now reads, its source first.
func (w *world) deps(d int) []int {
	t := w.things[d]
	if t.kind != rendering {
		return nil
	}
	return append([]int{t.source}, w.things[t.source].list...)
}

// matters says whether what d reads of x shows in the result: some of it, as in
// real wikis, does not.
func (w *world) matters(d, x int) bool {
	return w.things[x].rank < w.things[d].rank && (d*31+x*17)%5 != 0
}

// result is the content of d made from what was read.
func (w *world) result(d int, deps []int, content func(x int) string) string {
	f := fnv.New64a()
	for _, x := range slices.Sorted(slices.Values(deps)) {
		if w.matters(d, x) {
			fmt.Fprintf(f, "%d=%s;", x, content(x))
		}
	}
	return fmt.Sprintf("r%x", f.Sum64())
}

// change gives x new content.
func (w *world) change(x int, content string) {
	t := w.things[x]
	t.content = content
	t.changes++
	t.history = append(t.history, content)
}

func (w *world) newContent() string {
	w.serial++
	return fmt.Sprint("c", w.serial)
}

// bump gives x the version that its producer names its content by.
func (w *world) bump(x int) {
	t := w.things[x]
	switch t.kind {
	case numbered:
		t.rev++
		t.version = strconv.Itoa(t.rev)
	case tokened:
		t.version = "o" + t.content
	}
}

// The edits of a wiki; each tells the hub.

func (w *world) rewrite(x int) {
	w.things[x].exists = true
	w.change(x, w.newContent())
	w.bump(x)
	w.announce(x)
}

// flip creates or deletes the target of a link.
func (w *world) flip(x int) {
	t := w.things[x]
	t.exists = !t.exists
	t.version = "0"
	if t.exists {
		t.version = "1"
	}
	w.change(x, t.version)
	w.announce(x)
}

func (w *world) erase(x int) {
	w.things[x].exists = false
	w.change(x, absent)
	w.announce(x)
}

// revive undoes an erasure: the old content and revision come back.
func (w *world) revive(x int) {
	t := w.things[x]
	t.exists = true
	w.change(x, w.before(x))
	if t.kind == tokened {
		t.version = "o" + t.content
	}
	w.announce(x)
}

// revert gives x the content before this one as a new revision.
func (w *world) revert(x int) {
	w.change(x, w.before(x))
	w.bump(x)
	w.announce(x)
}

// before is the last content of x before this one; absent if there was none.
func (w *world) before(x int) string {
	h := w.things[x].history
	for i := len(h) - 2; i >= 0; i-- {
		if h[i] != absent {
			return h[i]
		}
	}
	return absent
}

// touch saves x without a change, as a new revision or not even that.
func (w *world) touch(x int, revision bool) {
	if t := w.things[x]; revision && t.kind == numbered {
		t.rev++
		t.version = strconv.Itoa(t.rev)
	}
	w.announce(x)
}

func (w *world) stamp(at time.Time) time.Time { return at.Truncate(w.tick) }

// announce sends the event of a primary as it is.
func (w *world) announce(x int) {
	t := w.things[x]
	u := Update{URI: t.uri, Version: t.version, Hash: t.content, At: w.stamp(w.at(x).now())}
	switch {
	case !t.exists && (t.kind != existence || x%2 == 0):
		u.Action, u.Version, u.Hash = ActionDelete, "", ""
	case t.kind == hashed:
		u.Version = ""
	case t.kind == tokened && x%3 == 0:
		u.Hash = ""
	}
	w.note(x, "is now %q, version %q, exists %t", t.content, t.version, t.exists)
	w.post(letter{Update: u, x: x, is: w.reading(x)}, false)
}

func (w *world) reading(x int) reading {
	t := w.things[x]
	return reading{content: t.content, change: t.changes}
}

// begin starts to make d by a worker that holds a token.
func (w *world) begin(d int, token Cursor) *making {
	w.renders[d]++
	return &making{d: d, began: w.at(d).now(), token: token, reads: map[int]reading{}}
}

// readSource reads the source page and what it lists.
func (w *world) readSource(m *making) {
	m.deps = w.deps(m.d)
	m.revision = w.things[m.deps[0]].version
	w.read(m, m.deps[0])
}

func (w *world) read(m *making, x int) {
	t := w.things[x]
	if t.gone {
		w.remake(x)
	}
	r := w.reading(x)
	switch {
	case !t.exists && t.kind != rendering:
		r.seen = "0"
	case t.kind == rendering && t.carries && w.things[m.d].asks:
		r.seen = t.version
	case t.kind != rendering && t.version != "":
		r.seen = t.version
	default:
		r.seen = t.content
	}
	m.reads[x] = r
}

// finish writes what was made to the cache and tells the hub.
func (w *world) finish(m *making, soon bool) {
	t := w.things[m.d]
	content := w.result(m.d, m.deps, func(x int) string { return m.reads[x].content })
	u := Update{URI: t.uri, Type: "html", Hash: content, At: w.stamp(m.began), Deps: []Dep{}}
	if t.carries {
		u.Version = m.revision
	}
	// A cache never lets an older revision's rendering replace a newer one's, nor
	// follow it when that was dropped.
	if !t.carries || t.version == "" || !older(m.revision, t.version) {
		t.content, t.exists, t.gone, t.made, t.madeOf = content, true, false, m.reads, m.deps
		t.changes++
		t.version = u.Version
	}
	for _, x := range m.deps {
		d := Dep{URI: w.things[x].uri, Seen: m.reads[x].seen}
		if t.proof == tokenOnly || t.proof == timeOnly || t.proof == someSeen && w.rng.IntN(2) == 0 {
			d.Seen = ""
		}
		u.Deps = append(u.Deps, d)
	}
	if t.proof != seenOnly && t.proof != timeOnly {
		u.Token = m.token
	}
	w.note(m.d, "made %s from %v, begun %s with token %s", content, m.reads, m.began.Format("15:04:05.000"), u.Token)
	w.post(letter{Update: u, x: m.d, is: w.reading(m.d), madeOf: m.reads}, soon)
}

func older(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }

// remake makes d at once, for a reader that found it gone.
func (w *world) remake(d int) {
	w.things[d].gone = false
	m := w.begin(d, w.at(d).token())
	m.deps, m.revision = w.deps(d), w.things[w.things[d].source].version
	for _, x := range m.deps {
		if t := w.things[x]; t.gone && t.rank >= w.things[d].rank {
			m.reads[x] = w.reading(x) // a cycle: what was there before it went
			continue
		}
		w.read(m, x)
	}
	w.finish(m, false)
}

// drop lets d leave its cache.
func (w *world) drop(d int) {
	t := w.things[d]
	t.gone = true
	w.note(d, "left its cache")
	w.post(letter{Update: Update{URI: t.uri, Action: ActionPurge, At: w.stamp(w.at(d).now())}, x: d}, false)
}

// deliver gives a letter to the hub.
func (w *world) deliver(l letter) {
	g := w.at(l.x)
	g.t.Helper()
	w.hear()
	res := g.apply(l.Update)
	w.note(l.x, "hub took %s version %q hash %q at %s token %s id %q: %+v, %s", l.Action, l.Version, l.Hash,
		l.At.Format("15:04:05.000"), l.Token, l.ID, res, g.describe(l.URI))
	if res.Outdated+res.Duplicates > 0 {
		return
	}
	w.toldSince[l.URI] = false
	w.hear()
	t := w.things[l.x]
	switch {
	case l.Action == ActionPurge:
		t.toldOf = nil
	case t.kind == rendering && g.resource(l.URI).Hash != l.Hash: // it overlapped with another, and was not taken
	case t.kind == rendering:
		t.toldOf = l.madeOf
	case l.is.change > t.told.change:
		t.told = l.is
	}
}

// hear takes note of who was told.
func (w *world) hear() {
	for _, g := range w.hubs {
		for _, n := range g.heard[w.listened[g]:] {
			w.toldSince[n.URI] = w.toldSince[n.URI] || n.Kind == KindRefresh
		}
		w.listened[g] = len(g.heard)
	}
}

// newID names an update.
func (w *world) newID() string {
	w.ids++
	return strconv.Itoa(w.ids)
}

// shape is what a world is made of.
type shape struct {
	primaries     int
	layers, width int
	cycles        float64 // of edges that may lead to an equal or higher rank
	proofs        []proof
	revisions     bool // some renderings carry revisions
}

// build makes a world of primaries, of source pages, and of a rendering of each
// source, in layers.
func build(g *rig, rng *rand.Rand, s shape) *world {
	w := &world{g: g, hubs: []*rig{g}, listened: map[*rig]int{}, shape: s, rng: rng, tick: time.Millisecond, byURI: map[string]int{}, renders: map[int]int{}, toldSince: map[string]bool{}}
	n := s.layers * s.width
	for x := range s.primaries + 2*n {
		t := &thing{kind: thingKind(rng.IntN(int(rendering))), uri: named(fmt.Sprint(x)), rev: 100 + 1000*x}
		switch {
		case x >= s.primaries+n:
			t.kind, t.source = rendering, x-n
			t.rank = 1 + (x-s.primaries-n)/s.width
			t.proof = s.proofs[rng.IntN(len(s.proofs))]
			t.carries = s.revisions && w.things[t.source].kind == numbered && rng.IntN(2) == 0
			t.asks = rng.IntN(2) == 0
		case x >= s.primaries:
			t.kind = numbered
			if rng.IntN(4) == 0 {
				t.kind = hashed
			}
		}
		w.things = append(w.things, t)
		w.byURI[t.uri] = x
	}
	for d, t := range w.things {
		for k := 1 + rng.IntN(4); t.kind == rendering && k > 0; k-- {
			w.addDep(d)
		}
	}
	return w
}

// addDep lets the source of d list one thing more.
func (w *world) addDep(d int) {
	t, s := w.things[d], w.shape
	src := w.things[t.source]
	for range 20 {
		x := w.rng.IntN(len(w.things))
		if t.rank > 1 && w.rng.IntN(2) == 0 { // the layer below
			x = s.primaries + (s.layers+t.rank-2)*s.width + w.rng.IntN(s.width)
		}
		o := w.things[x]
		upward := o.kind == rendering && o.rank >= t.rank
		if x == t.source || upward && w.rng.Float64() >= s.cycles || slices.Contains(src.list, x) ||
			w.isSource(x) && w.rng.IntN(3) > 0 {
			continue
		}
		src.list = append(src.list, x)
		return
	}
}

func (w *world) isSource(x int) bool { return w.renderingOf(x) >= 0 }

// renderingOf is the rendering whose source x is, -1 if there is none.
func (w *world) renderingOf(x int) int {
	return slices.IndexFunc(w.things, func(t *thing) bool { return t.kind == rendering && t.source == x })
}

// relist changes what a source lists, which is part of its content.
func (w *world) relist(x int) {
	t := w.things[x]
	t.list = slices.Clone(t.list)
	if n := len(t.list); n > 0 && w.rng.IntN(2) == 0 {
		i := w.rng.IntN(n)
		t.list = slices.Delete(t.list, i, i+1)
	}
	if w.rng.IntN(2) == 0 {
		w.addDep(w.renderingOf(x))
	}
}
