package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// tokened things are named by opaque versions; a revert gives an old one back.
const tokened = rendering + 1

// farmSize is how many things of each sort each wiki has: primaries, source pages, and
// pages made of a source and of what it lists.
const farmSize = 24

// A farm is some wikis that show each other's content, with their caches. It knows
// nothing of the hubs' rules.
type farm struct {
	mu     sync.Mutex
	things []*farmThing
	wikis  []*wiki
	serial int // of contents and letters
}

// A farmThing is a resource as it is in the world.
type farmThing struct {
	home    int
	kind    simKind
	uri     string
	content string // equal content is equal
	version string
	rev     int
	changes int
	exists  bool
	history []string // contents, newest last
	list    []int    // a source page: what its page shows

	// Of a page.
	source int
	rank   int // what it shows of its own rank or of a higher one has no effect on its content
	proof  simProof
	gone   bool // it left its cache; the next reader makes it
	made   map[int]simReading
	madeOf []int
	extra  []int // what else its hub was told that it is made from
	makes  int   // since all is calm
	story  []string
}

// A farmMaking is a page being made. When it began is of the machine's clock: what the
// hub's clock showed then is known when it is told.
type farmMaking struct {
	d     int
	began time.Time
	token graph.Cursor
	deps  []int
	reads map[int]simReading
}

// A wiki makes pages of a farm and tells its hub. The farm's lock guards all but a.
type wiki struct {
	f    *farm
	home int
	a    *ally
	rng  *rand.Rand

	outbox  []letter // not answered yet
	inbox   map[string]graph.Cursor
	makings []*farmMaking
	token   graph.Cursor // newest that was heard of
	said    time.Time    // the last time it named
	down    bool         // its hub is; nobody begins to make anything
	calm    bool         // nothing but what is to be made is made
	lost    int          // notices that nobody heeded
	failed  error

	sending sync.Mutex // held while letters are sent, and by who restores the hub
}

// newFarm makes the wikis of an alliance.
func newFarm(l *alliance, seed uint64) *farm {
	f := &farm{}
	rng := rand.New(rand.NewPCG(seed, 0))
	for home, a := range l.allies {
		f.wikis = append(f.wikis, &wiki{f: f, home: home, a: a, rng: rand.New(rand.NewPCG(seed, uint64(1+home))), inbox: map[string]graph.Cursor{}})
	}
	for x := range 3 * farmSize * len(f.wikis) {
		home, sort := x%len(f.wikis), x/(farmSize*len(f.wikis))
		t := &farmThing{home: home, rev: 100 + 1000*x, uri: l.allies[home].uri(fmt.Sprint("p", x))}
		switch sort {
		case 0:
			t.kind = []simKind{numbered, hashed, existence, tokened}[rng.IntN(4)]
			if t.kind == existence {
				t.uri += "#exists"
				t.version, t.content = "0", "0"
			}
		case 1:
			t.kind = numbered
		default:
			t.kind, t.source, t.rank = rendering, x-farmSize*len(f.wikis), 1+rng.IntN(3)
			t.uri = f.things[t.source].uri + "#html"
			t.proof = []simProof{seenAndToken, seenAndToken, seenOnly, tokenOnly}[rng.IntN(4)]
		}
		f.things = append(f.things, t)
	}
	for d, t := range f.things {
		for k := 1 + rng.IntN(4); t.kind == rendering && k > 0; k-- {
			f.addDep(d, rng)
		}
	}
	return f
}

// boot announces most primaries, and makes each page once.
func (f *farm) boot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for x, t := range f.things {
		if w := f.wikis[t.home]; t.kind != rendering && w.rng.IntN(8) > 0 {
			w.edit(x)
		}
	}
	for rank := 1; rank <= 3; rank++ {
		for d, t := range f.things {
			if t.rank == rank {
				f.wikis[t.home].make(d, graph.Cursor{})
			}
		}
	}
}

// addDep lets the source of d list one thing more, of any wiki, now and then one that
// closes a ring.
func (f *farm) addDep(d int, rng *rand.Rand) {
	src := f.things[f.things[d].source]
	x := rng.IntN(len(f.things))
	o := f.things[x]
	ring := o.kind == rendering && o.rank >= f.things[d].rank
	if x != f.things[d].source && x != d && !slices.Contains(src.list, x) && (!ring || rng.IntN(10) == 0) {
		src.list = append(slices.Clone(src.list), x)
	}
}

// pageOf is the page whose source x is, -1 if there is none.
func (f *farm) pageOf(x int) int {
	d := x + farmSize*len(f.wikis)
	if f.things[x].kind == rendering || d >= len(f.things) || f.things[d].kind != rendering {
		return -1
	}
	return d
}

// deps are what a page made now reads, its source first.
func (f *farm) deps(d int) []int {
	t := f.things[d]
	return append([]int{t.source}, f.things[t.source].list...)
}

// result is the content of d made from what was read, some of which does not show.
func (f *farm) result(d int, deps []int, content func(x int) string) string {
	h := fnv.New64a()
	for _, x := range slices.Sorted(slices.Values(deps)) {
		if f.things[x].rank < f.things[d].rank && (d*31+x*17)%5 != 0 {
			fmt.Fprintf(h, "%d=%s;", x, content(x))
		}
	}
	return fmt.Sprintf("r%x", h.Sum64())
}

func (f *farm) note(x int, format string, args ...any) {
	t := f.things[x]
	t.story = append(t.story[max(0, len(t.story)-4):], time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

func (f *farm) change(x int, content string) {
	t := f.things[x]
	t.content = content
	t.changes++
	t.history = append(t.history, content)
}

// before is the last content of x before this one, absent if there was none.
func (f *farm) before(x int) string {
	h := f.things[x].history
	for i := len(h) - 2; i >= 0; i-- {
		if h[i] != absent {
			return h[i]
		}
	}
	return absent
}

// edit changes a primary in one of the ways of a wiki, and tells its hub.
func (w *wiki) edit(x int) {
	f, t, p := w.f, w.f.things[x], w.rng.IntN(100)
	d := f.pageOf(x)
	switch {
	case t.kind == existence:
		t.exists = !t.exists
		t.version = "0"
		if t.exists {
			t.version = "1"
		}
		f.change(x, t.version)
	case p < 8 && t.exists && d < 0:
		t.exists = false
		f.change(x, absent)
	case !t.exists && p < 50 && f.before(x) != absent: // an undelete brings the revision back
		t.exists = true
		f.change(x, f.before(x))
		if t.kind == tokened {
			t.version = "o" + t.content
		}
	case p < 20 && t.exists: // nothing but a new revision
		f.bump(x)
	case p < 30 && t.exists && d < 0 && f.before(x) != absent: // a revert
		f.change(x, f.before(x))
		f.bump(x)
	default:
		if d >= 0 && p < 60 {
			t.list = slices.Clone(t.list)
			if n := len(t.list); n > 0 && w.rng.IntN(2) == 0 {
				i := w.rng.IntN(n)
				t.list = slices.Delete(t.list, i, i+1)
			}
			f.addDep(d, w.rng)
		}
		t.exists = true
		f.serial++
		f.change(x, fmt.Sprint("c", f.serial))
		f.bump(x)
	}
	w.announce(x)
}

// bump gives x the version that its producer names its content by.
func (f *farm) bump(x int) {
	switch t := f.things[x]; t.kind {
	case numbered:
		t.rev++
		t.version = strconv.Itoa(t.rev)
	case tokened:
		t.version = "o" + t.content
	}
}

// announce tells the hub of a primary as it is.
func (w *wiki) announce(x int) {
	t := w.f.things[x]
	u := graph.Update{URI: t.uri, Type: "page", Version: t.version, Hash: t.content}
	if !t.exists && (t.kind != existence || x%2 == 0) {
		u = graph.Update{URI: t.uri, Action: graph.ActionDelete}
	}
	w.write(x, u, w.now())
}

// now is a time that the wiki names, later than all that it named before.
func (w *wiki) now() time.Time {
	w.said = later(w.a.now().Truncate(time.Microsecond), w.said.Add(time.Microsecond))
	return w.said
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// write puts an update into the outbox.
func (w *wiki) write(x int, u graph.Update, at time.Time) {
	w.f.serial++
	u.ID, u.At = strconv.Itoa(w.f.serial), at
	w.f.note(x, "tells %s version %q hash %q at %s token %s deps %d", u.Action, u.Version, u.Hash, at.Format("15:04:05.000"), u.Token, len(u.Deps))
	w.outbox = append(w.outbox, letter{"POST", up, append(AppendUpdate(nil, u), '\n')})
}

// begin has d made by who holds a token.
func (w *wiki) begin(d int, token graph.Cursor) *farmMaking {
	return &farmMaking{d: d, began: time.Now(), token: token, reads: map[int]simReading{}}
}

// readOn reads one thing more; true if m has read all.
func (w *wiki) readOn(m *farmMaking) (done bool) {
	if m.deps == nil {
		m.deps = w.f.deps(m.d)
	}
	if n := len(m.reads); n < len(m.deps) {
		x := m.deps[n]
		m.reads[x] = w.f.read(x, m.d)
	}
	return len(m.reads) == len(m.deps)
}

// read is what a reader finds of x. What left its cache is made for it, unless that
// leads back to the reader.
func (f *farm) read(x, reader int) simReading {
	t := f.things[x]
	home := f.wikis[t.home]
	if t.gone && t.rank < f.things[reader].rank && !home.down {
		home.make(x, home.token)
	}
	r := simReading{content: t.content, change: t.changes}
	switch {
	case !t.exists:
		r.seen = "0"
	case t.kind != rendering && t.version != "":
		r.seen = t.version
	default:
		r.seen = t.content
	}
	return r
}

// make makes d at once.
func (w *wiki) make(d int, token graph.Cursor) {
	m := w.begin(d, token)
	for !w.readOn(m) {
	}
	w.finish(m)
}

// finish writes what was made to the cache and tells the hub.
func (w *wiki) finish(m *farmMaking) {
	t := w.f.things[m.d]
	t.content = w.f.result(m.d, m.deps, func(x int) string { return m.reads[x].content })
	t.exists, t.gone, t.made, t.madeOf, t.extra = true, false, m.reads, m.deps, nil
	t.changes++
	if w.calm {
		t.makes++
	}
	u := graph.Update{URI: t.uri, Type: "html", Hash: t.content, Deps: []graph.Dep{}}
	for _, x := range m.deps {
		d := graph.Dep{URI: w.f.things[x].uri}
		if t.proof != tokenOnly {
			d.Seen = m.reads[x].seen
		}
		u.Deps = append(u.Deps, d)
	}
	if t.proof != seenOnly {
		u.Token = m.token
	}
	clock := w.a.clock.Load()
	at := clock.start.Add(time.Duration(float64(m.began.Sub(clock.began)) * clock.rate)).UTC()
	w.write(m.d, u, at.Truncate(time.Microsecond))
}

// leave ends all makings of d: who deletes it does not want them any more.
func (w *wiki) leave(d int, action graph.Action) {
	t := w.f.things[d]
	w.makings = slices.DeleteFunc(w.makings, func(m *farmMaking) bool { return m.d == d })
	t.gone = action == graph.ActionPurge
	if action == graph.ActionDelete {
		t.exists = false
		w.f.change(d, absent)
	}
	t.extra = nil
	w.write(d, graph.Update{URI: t.uri, Action: action}, w.now())
}

// relink tells the hub of an edge that no update has, or takes one back.
func (w *wiki) relink(d int) {
	t := w.f.things[d]
	verb, x := "add", w.rng.IntN(len(w.f.things))
	if len(t.extra) > 0 && w.rng.IntN(2) == 0 {
		verb, x = "remove", t.extra[0]
		t.extra = slices.Clone(t.extra[1:])
	} else if x == d || slices.Contains(t.madeOf, x) || slices.Contains(t.extra, x) {
		return
	} else {
		t.extra = append(slices.Clone(t.extra), x)
	}
	w.f.note(d, "edge to %s: %s", w.f.things[x].uri, verb)
	w.outbox = append(w.outbox, letter{"PATCH", "/v1/dependencies", fmt.Appendf(nil, `{"uri":%q,%q:[%q]}`, t.uri, verb, w.f.things[x].uri)})
}

// here reports whether the cache holds page d.
func (t *farmThing) here() bool { return t.exists && !t.gone }

// mine draws one of the wiki's own things of a sort.
func (w *wiki) mine(page bool) int {
	n := len(w.f.things) / 3
	x := w.rng.IntN(2 * n)
	if page {
		x = 2*n + w.rng.IntN(n)
	}
	return x - x%len(w.f.wikis) + w.home
}

// act does something that a wiki does.
func (w *wiki) act() {
	f := w.f
	f.mu.Lock()
	defer f.mu.Unlock()
	switch p := w.rng.IntN(100); {
	case p < 25:
		w.edit(w.mine(false))
	case w.down:
	case p < 30: // an editor's own page, or a reader's
		w.makings = append(w.makings, w.begin(w.mine(true), w.token))
	case p < 33:
		if d := w.mine(true); f.things[d].here() {
			w.leave(d, []graph.Action{graph.ActionPurge, graph.ActionDelete}[w.rng.IntN(2)])
		}
	case p < 38:
		if d := w.mine(true); f.things[d].here() {
			w.relink(d)
		}
	default:
		w.answer()
	}
	for range 1 + w.rng.IntN(8) {
		if n := len(w.makings); n > 0 && !w.down {
			i := w.rng.IntN(n)
			if m := w.makings[i]; w.readOn(m) {
				w.makings = slices.Delete(w.makings, i, i+1)
				w.finish(m)
			}
		}
	}
}

// answer begins to make what a notice orders, or loses the notice.
func (w *wiki) answer() {
	for d, t := range w.f.things {
		token, told := w.inbox[t.uri]
		if !told || w.rng.IntN(3) == 0 {
			continue
		}
		delete(w.inbox, t.uri)
		if w.rng.IntN(10) == 0 {
			w.lost++
			return
		}
		if t.here() {
			w.makings = append(w.makings, w.begin(d, token))
		}
		return
	}
}

// send empties the outbox, as far as the hub takes it.
func (w *wiki) send(ctx context.Context) error {
	w.sending.Lock()
	defer w.sending.Unlock()
	for ctx.Err() == nil {
		w.f.mu.Lock()
		list := slices.Clone(w.outbox)
		w.f.mu.Unlock()
		if len(list) == 0 {
			return nil
		}
		m, n := together(list)
		var res resultShape
		if err := w.a.call(m.method, m.path, m.body, &res); err != nil {
			return err
		}
		w.a.sent = append(w.a.sent, list[:n]...)
		at, err := graph.ParseCursor(res.Cursor)
		if err != nil {
			return err
		}
		w.f.mu.Lock()
		w.outbox = w.outbox[n:]
		w.token = at
		w.f.mu.Unlock()
	}
	return nil
}

// run lives until ctx ends, or the hub refuses what it is told.
func (w *wiki) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.f.mu.Lock()
		calm := w.calm
		w.f.mu.Unlock()
		pause := time.Duration(w.rng.IntN(10)) * time.Millisecond
		var err error
		if calm {
			pause = 30 * time.Millisecond
			err = w.tidy(ctx)
		} else {
			w.act()
			err = w.send(ctx)
		}
		if no := (*refused)(nil); errors.As(err, &no) && no.status < 500 {
			w.fail(err)
			return
		}
		if err != nil {
			pause = 20 * time.Millisecond // the hub is away
		}
		pass(pause, ctx.Done())
	}
}

func (w *wiki) fail(err error) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.failed = err
}

// tidy makes what the hub says is to be made, and what has left its cache.
func (w *wiki) tidy(ctx context.Context) error {
	f := w.f
	f.mu.Lock()
	for _, m := range w.makings {
		for !w.readOn(m) {
		}
		w.finish(m)
	}
	w.makings = nil
	for d, t := range f.things {
		if t.home == w.home && t.gone {
			w.make(d, w.token)
		}
	}
	f.mu.Unlock()
	if err := w.send(ctx); err != nil {
		return err
	}
	states, err := w.states(w.home, true)
	if err != nil {
		return err
	}
	f.mu.Lock()
	for d, t := range f.things {
		if states[t.uri].State == "ready" && t.here() {
			w.make(d, w.token)
		}
	}
	f.mu.Unlock()
	return w.send(ctx)
}

// states asks the hub for how it is with the things of a home; with pages alone.
func (w *wiki) states(home int, pages bool) (map[string]statusShape, error) {
	var question struct {
		URIs []string `json:"uris"`
	}
	for _, t := range w.f.things {
		if t.home == home && (!pages || t.kind == rendering) {
			question.URIs = append(question.URIs, t.uri)
		}
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	var answer struct{ Resources []statusShape }
	if err := w.a.call("POST", st, body, &answer); err != nil {
		return nil, err
	}
	states := map[string]statusShape{}
	for _, s := range answer.Resources {
		states[s.URI] = s
	}
	return states, nil
}

// listen takes the notices of what is to be made from the hub's stream until ctx ends.
func (w *wiki) listen(ctx context.Context) {
	for last := ""; ctx.Err() == nil; pass(20*time.Millisecond, ctx.Done()) {
		frames, err := (&ask{hub: w.a.addr, query: url.Values{"kind": {"refresh"}}, lastID: last}).open(ctx)
		for err == nil {
			var frame sseFrame
			if frame, err = frames.next(); err != nil {
				break
			}
			if frame.hasID {
				last = frame.id
			}
			if frame.event != "refresh" {
				continue
			}
			var n struct{ URI, Token string }
			at, parseErr := graph.Cursor{}, json.Unmarshal(frame.data, &n)
			if parseErr == nil {
				at, parseErr = graph.ParseCursor(n.Token)
			}
			if parseErr != nil {
				w.fail(parseErr)
				return
			}
			w.f.mu.Lock()
			w.inbox[n.URI] = at
			w.f.mu.Unlock()
		}
	}
}

// staleBecause is what a fresh making of d would read differently than what is in the
// cache was made from, "" if nothing.
func (f *farm) staleBecause(d int) string {
	t := f.things[d]
	if deps := f.deps(d); !slices.Equal(t.madeOf, deps) {
		return fmt.Sprintf("it was made from %v, and would be from %v", t.madeOf, deps)
	}
	for _, x := range t.madeOf {
		if had, has := t.made[x].content, f.things[x].content; had != has {
			return fmt.Sprintf("it was made from %q of %s, which is %q", had, f.things[x].uri, has)
		}
	}
	return ""
}

// edges are what the hub was told that d is made from.
func (f *farm) edges(d int) (edges []string) {
	if t := f.things[d]; t.here() {
		for _, x := range slices.Concat(t.madeOf, t.extra) {
			edges = append(edges, f.things[x].uri)
		}
	}
	slices.Sort(edges)
	return slices.Compact(edges)
}

// tell shows what is wrong with x: what it is, what happened to it last, and what the
// hubs have.
func (f *farm) tell(x int, wrong string) string {
	t := f.things[x]
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n  it is %q, version %q, exists %t", t.uri, wrong, t.content, t.version, t.exists)
	for _, line := range t.story {
		fmt.Fprintf(&b, "\n  %s", line)
	}
	for _, w := range f.wikis {
		var r json.RawMessage
		err := w.a.call("GET", "/v1/resource?uri="+url.QueryEscape(t.uri), nil, &r)
		fmt.Fprintf(&b, "\n  at hub %d: %.700s %v", w.home, r, err)
	}
	return b.String()
}
