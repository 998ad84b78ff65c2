package hub

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// simKind says how the producer of a thing names its versions.
type simKind uint8

const (
	numbered  simKind = iota // by revisions that count up
	hashed                   // not at all: only hashes
	existence                // "1" and "0": the target of a link
	rendering                // an artefact
)

// simProof is what the producer of a rendering says of what it was made from.
type simProof uint8

const (
	seenAndToken simProof = iota
	tokenOnly
	seenOnly
	timeOnly
)

// absent is the content of what does not exist.
const absent = ""

// A simThing is a resource as it is in the world, and what the hub took of it.
type simThing struct {
	kind    simKind
	uri     string
	content string // equal content is equal
	version string
	rev     int
	changes int
	exists  bool
	history []string // contents, newest last
	list    []int    // a source page: what its rendering reads

	// Of a rendering.
	source int
	rank   int
	proof  simProof
	gone   bool // it left its cache; the next reader makes it
	made   map[int]simReading
	madeOf []int

	view hubView
}

// A simReading is what somebody found when it read a thing.
type simReading struct {
	content string
	change  int // how often it had changed
	seen    string
}

// A hubView is what a hub knows of a thing after what it accepted. Values are
// never changed in place.
type hubView struct {
	heard, known  bool
	version, hash string
	at            time.Time
	reorder       bool
	madeOf        map[int]simReading // of a rendering
	told          simReading         // of a primary
	since         uint64             // where the journal ended before it was sent
}

// A simLetter is an update on its way to the hub, and what it means in the world.
type simLetter struct {
	graph.Update
	x      int
	is     simReading
	madeOf map[int]simReading
}

// after is the view when l has been applied; outdated says that it is kept out.
func (v hubView) after(l *simLetter, kind simKind) (_ hubView, outdated bool) {
	early := v.heard && (l.At.Before(v.at) || l.At.Equal(v.at) && v.reorder)
	if l.Action != graph.ActionUpdate {
		if early {
			return v, true
		}
		if v.heard && !v.known && (l.Action == graph.ActionPurge || v.version == "0") {
			return v, false
		}
		if l.Action == graph.ActionDelete {
			v.version, v.hash = "0", ""
		}
		if l.At.After(v.at) {
			v.at = l.At
		}
		v.heard, v.known, v.reorder, v.madeOf, v.told = true, false, false, nil, l.is
		return v, false
	}
	if kind == rendering && early && v.known {
		v.hash, v.reorder = "", true
		return v, false
	}
	if kind != rendering || l.At.After(v.at) {
		v.at = l.At
	}
	v.version, v.hash = l.Version, l.Hash
	v.heard, v.known, v.reorder, v.madeOf, v.told = true, true, false, l.madeOf, l.is
	return v, false
}

// A simMaking is a rendering under way.
type simMaking struct {
	d     int
	began time.Time
	token graph.Cursor
	deps  []int
	reads map[int]simReading
}

// A simWorld is a wiki with its caches. It knows nothing of the hub's rules.
type simWorld struct {
	rng    *rand.Rand
	things []*simThing
	byURI  map[string]int
	post   func(l simLetter)
	token  func() graph.Cursor
	serial int
}

const simSite = "https://w.example/"

// newSimWorld makes primaries, source pages, and a rendering of each source, in
// layers.
func newSimWorld(rng *rand.Rand, proofs []simProof) *simWorld {
	w := &simWorld{rng: rng, byURI: map[string]int{}}
	primaries, layers, width := 2+rng.IntN(5), 1+rng.IntN(3), 1+rng.IntN(4)
	n := layers * width
	for x := range primaries + 2*n {
		t := &simThing{kind: simKind(rng.IntN(int(rendering))), rev: 100 + 1000*x, uri: simSite + "p" + strconv.Itoa(x)}
		switch {
		case x >= primaries+n:
			t.kind, t.source, t.rank = rendering, x-n, 1+(x-primaries-n)/width
			t.uri = w.things[t.source].uri + "#html"
			t.proof = proofs[rng.IntN(len(proofs))]
		case x >= primaries:
			t.kind = numbered
			t.uri = fmt.Sprintf("https://v%d.example/s%d", x%2, x)
		case t.kind == existence:
			t.uri += "#exists"
			t.version, t.content = "0", "0"
		}
		w.things = append(w.things, t)
		w.byURI[t.uri] = x
	}
	for d, t := range w.things {
		for k := 1 + rng.IntN(3); t.kind == rendering && k > 0; k-- {
			w.addDep(d)
		}
	}
	return w
}

// addDep lets the source of d list one thing more, of a lower rank.
func (w *simWorld) addDep(d int) {
	src := w.things[w.things[d].source]
	x := w.rng.IntN(len(w.things))
	if o := w.things[x]; x != w.things[d].source && !slices.Contains(src.list, x) && (o.kind != rendering || o.rank < w.things[d].rank) {
		src.list = append(slices.Clone(src.list), x)
	}
}

// renderingOf is the rendering whose source x is, -1 if there is none.
func (w *simWorld) renderingOf(x int) int {
	return slices.IndexFunc(w.things, func(t *simThing) bool { return t.kind == rendering && t.source == x })
}

// deps are what a rendering made now reads, its source first.
func (w *simWorld) deps(d int) []int {
	t := w.things[d]
	return append([]int{t.source}, w.things[t.source].list...)
}

// result is the content of d made from what was read, some of which does not show.
func (w *simWorld) result(d int, deps []int, content func(x int) string) string {
	f := fnv.New64a()
	for _, x := range slices.Sorted(slices.Values(deps)) {
		if (d*31+x*17)%5 != 0 {
			fmt.Fprintf(f, "%d=%s;", x, content(x))
		}
	}
	return fmt.Sprintf("r%x", f.Sum64())
}

// now is the producers' time; their clocks count milliseconds.
func (w *simWorld) now() time.Time { return time.Now().Truncate(time.Millisecond).UTC() }

func (w *simWorld) change(x int, content string) {
	t := w.things[x]
	t.content = content
	t.changes++
	t.history = append(t.history, content)
}

// before is the last content of x before this one, absent if there was none.
func (w *simWorld) before(x int) string {
	h := w.things[x].history
	for i := len(h) - 2; i >= 0; i-- {
		if h[i] != absent {
			return h[i]
		}
	}
	return absent
}

// edit changes a primary in one of the ways of a wiki, and tells the hub.
func (w *simWorld) edit(x int) {
	t, p := w.things[x], w.rng.IntN(100)
	d := w.renderingOf(x)
	switch {
	case t.kind == existence:
		t.exists = !t.exists
		t.version = "0"
		if t.exists {
			t.version = "1"
		}
		w.change(x, t.version)
	case p < 8 && t.exists && d < 0:
		t.exists = false
		w.change(x, absent)
	case !t.exists && p < 50 && w.before(x) != absent: // an undelete brings the revision back
		t.exists = true
		w.change(x, w.before(x))
	case p < 20 && t.exists: // nothing but a new revision
		w.bump(x)
	case p < 30 && t.exists && d < 0 && w.before(x) != absent: // a revert
		w.change(x, w.before(x))
		w.bump(x)
	default:
		if d >= 0 && p < 50 {
			t.list = slices.Clone(t.list)
			if n := len(t.list); n > 0 && w.rng.IntN(2) == 0 {
				i := w.rng.IntN(n)
				t.list = slices.Delete(t.list, i, i+1)
			}
			w.addDep(d)
		}
		t.exists = true
		w.serial++
		w.change(x, fmt.Sprint("c", w.serial))
		w.bump(x)
	}
	w.announce(x)
}

func (w *simWorld) bump(x int) {
	if t := w.things[x]; t.kind == numbered {
		t.rev++
		t.version = strconv.Itoa(t.rev)
	}
}

// announce sends the event of a primary as it is.
func (w *simWorld) announce(x int) {
	t := w.things[x]
	u := graph.Update{URI: t.uri, Type: "page", Version: t.version, Hash: t.content, At: w.now(), Buckets: []string{"b" + strconv.Itoa(x%3)}}
	if !t.exists && (t.kind != existence || x%2 == 0) {
		u = graph.Update{URI: t.uri, Action: graph.ActionDelete, At: u.At}
	}
	w.post(simLetter{Update: u, x: x, is: w.reading(x)})
}

func (w *simWorld) reading(x int) simReading {
	t := w.things[x]
	return simReading{content: t.content, change: t.changes}
}

func (w *simWorld) begin(d int, token graph.Cursor) *simMaking {
	return &simMaking{d: d, began: w.now(), token: token, reads: map[int]simReading{}}
}

// readOn reads one thing more; true if m has read all.
func (w *simWorld) readOn(m *simMaking) (done bool) {
	if m.deps == nil {
		m.deps = w.deps(m.d)
	}
	if n := len(m.reads); n < len(m.deps) {
		w.read(m, m.deps[n])
	}
	return len(m.reads) == len(m.deps)
}

func (w *simWorld) read(m *simMaking, x int) {
	t := w.things[x]
	if t.gone { // who asks for it has it made
		made := w.begin(x, w.token())
		for !w.readOn(made) {
		}
		w.finish(made)
	}
	r := w.reading(x)
	switch {
	case !t.exists && t.kind != rendering:
		r.seen = "0"
	case t.kind != rendering && t.version != "":
		r.seen = t.version
	default:
		r.seen = t.content
	}
	m.reads[x] = r
}

// finish writes what was made to the cache and tells the hub.
func (w *simWorld) finish(m *simMaking) {
	for !w.readOn(m) {
	}
	t := w.things[m.d]
	t.content = w.result(m.d, m.deps, func(x int) string { return m.reads[x].content })
	t.exists, t.gone, t.made, t.madeOf = true, false, m.reads, m.deps
	t.changes++
	u := graph.Update{URI: t.uri, Type: "html", Hash: t.content, At: m.began, Deps: []graph.Dep{}, Buckets: []string{"b" + strconv.Itoa(m.d%3)}}
	for _, x := range m.deps {
		d := graph.Dep{URI: w.things[x].uri}
		if t.proof == seenAndToken || t.proof == seenOnly {
			d.Seen = m.reads[x].seen
		}
		u.Deps = append(u.Deps, d)
	}
	if t.proof == seenAndToken || t.proof == tokenOnly {
		u.Token = m.token
	}
	w.post(simLetter{Update: u, x: m.d, is: w.reading(m.d), madeOf: m.reads})
}

// drop lets d leave its cache.
func (w *simWorld) drop(d int) {
	t := w.things[d]
	t.gone = true
	w.post(simLetter{Update: graph.Update{URI: t.uri, Action: graph.ActionPurge, At: w.now()}, x: d})
}

// staleBecause is the oracle: what a fresh rendering of d would read differently
// than its cached copy did, "" if nothing.
func (w *simWorld) staleBecause(d int) string {
	t := w.things[d]
	if deps := w.deps(d); !slices.Equal(t.madeOf, deps) {
		return fmt.Sprintf("it was made from %v, and would be from %v", t.madeOf, deps)
	}
	for _, x := range t.madeOf {
		if had, has := t.made[x].content, w.fresh(x); had != has {
			return fmt.Sprintf("it was made from %q of %s, which is %q", had, w.things[x].uri, has)
		}
	}
	return ""
}

// fresh is what a reader finds of x now.
func (w *simWorld) fresh(x int) string {
	if !w.things[x].gone {
		return w.things[x].content
	}
	return w.result(x, w.deps(x), w.fresh)
}
