package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/client"
)

const (
	// crashPublishers send beside each other, each a batch of crashBatch updates
	// or a single one.
	crashPublishers, crashBatch = 4, 8
	// crashDependents are made from one template: more than go in one step of a
	// fan-out. After crashEdits edits there is another with others: what changes
	// more often within minutes is told of less often.
	crashDependents, crashEdits = 6000, 5
	// crashFirst is the first version of whatever is published.
	crashFirst = 10
	// crashEnd is on the channel from the beginning, and written once, last of all.
	crashEnd = "https://end.example/"
)

// A crashTrial is a hub that dies again and again under load, with those whom
// it owes something: publishers, an editor of a channel, and readers.
type crashTrial struct {
	t          *testing.T
	p          *hubProcess
	rand       *rand.Rand
	publishers []*crashPublisher
	editor     *channelEditor
	edits      int // of templates
	readers    []*steadyReader
	channels   []*steadyReader // those of the readers that follow the channel
	journal    []noted         // as it was read after the last death
	recovered  []time.Duration // from each start to the first healthz

	partly []int // dependents that were told when the hub died during a fan-out

	halves atomic.Int64 // bodies of which a part was sent
	newest atomic.Uint64
	dying  atomic.Bool
	cut    func() // what fails before the hub is killed, nil for nothing
	death  func() // kills, once in a life
	died   chan struct{}
}

// newCrashTrial starts a hub, and readers from its first position on.
func newCrashTrial(t *testing.T, ctx context.Context, reading *sync.WaitGroup, settings ...string) *crashTrial {
	t.Helper()
	seed := soakSeeds(t)[0]
	t.Logf("SOAK_SEED=%d", seed)
	c := &crashTrial{t: t, rand: rand.New(rand.NewPCG(seed, 0))}
	c.p = startProcess(t, 0, append([]string{"LISTEN=" + lastingAddress()}, settings...)...)
	var listed []string
	for i := range crashPublishers {
		c.publishers = append(c.publishers, &crashPublisher{c: c, rand: rand.New(rand.NewPCG(seed, uint64(i+1))),
			host: fmt.Sprintf("p%d.example", i), n: crashFirst, answered: map[string]graph.Update{}})
		for k := range crashBatch {
			listed = append(listed, crashPage(i, k))
		}
	}
	c.editor = &channelEditor{c: c, rand: rand.New(rand.NewPCG(seed, 99)), uris: listed, on: map[string]bool{}}
	if _, err := c.request(ctx, "PUT", "/v1/channels/watched", `{"uri":["`+crashEnd+`"]}`); err != nil {
		t.Fatal(err)
	}
	start := tokenOf(t, c.p)
	for i, r := range []struct {
		filter client.Filter
		query  string
		plain  bool
	}{
		{plain: true}, {},
		{query: "channel=watched"}, {query: "channel=watched", plain: true},
		{client.Filter{Hosts: []string{"p1.example"}}, "host=p1.example", false},
		{client.Filter{Prefixes: []string{"https://p2.example/b"}}, "prefix=https://p2.example/b", true},
		{client.Filter{Kinds: []string{client.KindRefresh}}, "kind=refresh", false},
		{client.Filter{URIs: []string{crashPage(3, 1)}}, "uri=" + crashPage(3, 1), true},
	} {
		x, err := newSteadyReader(c.p, i, "", start)
		if err != nil {
			t.Fatal(err)
		}
		x.account.filter, x.ask.plain = r.filter, r.plain
		if name, value, ok := strings.Cut(r.query, "="); ok {
			x.ask.query.Set(name, value)
			if name == "channel" { // who is on it changes; this one stays
				x.account.filter.URIs = []string{crashEnd}
				c.channels = append(c.channels, x)
			}
		}
		c.readers = append(c.readers, x)
		reading.Go(func() { x.follow(ctx, func() {}) })
	}
	return c
}

// crashPage is the page of publisher i that stands k-th in its batches.
func crashPage(i, k int) string { return fmt.Sprintf("https://p%d.example/b/%d", i, k) }

// begin begins a life: from now on death kills the hub.
func (c *crashTrial) begin() {
	c.dying.Store(false)
	c.died = make(chan struct{})
	c.death = sync.OnceFunc(func() {
		c.dying.Store(true)
		if c.cut != nil {
			c.cut()
		}
		c.p.cmd.Process.Kill()
		close(c.died)
	})
}

// fault reports what must not happen while the hub lives. A request that ends
// because it does not is none, nor is one that fails with what the hub writes to.
func (c *crashTrial) fault(who string, err error) {
	answer := (*refused)(nil)
	failed := errors.As(err, &answer) && answer.status >= 500 && c.cut != nil
	if !c.dying.Load() || answer != nil && !failed {
		c.t.Errorf("%s: %v", who, err)
	}
}

// request asks for path and returns the answer, if it is a success and came whole.
func (c *crashTrial) request(ctx context.Context, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.p.url()+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", typeJSON)
	if path == up {
		req.Header.Set("Content-Type", typeNDJSON)
	}
	resp, err := c.p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = &refused{resp.StatusCode, "", string(got)}
	}
	return got, err
}

// apply sends updates. It returns without an error only when the answer was
// read to its end.
func (c *crashTrial) apply(ctx context.Context, us []graph.Update) (res resultShape, err error) {
	var body []byte
	for _, u := range us {
		body = append(AppendUpdate(body, u), '\n')
	}
	got, err := c.request(ctx, "POST", up, string(body))
	if err == nil {
		err = json.Unmarshal(got, &res)
	}
	if err == nil {
		err = c.reached(res.Cursor)
	}
	return res, err
}

// reached notes a position that the hub has named.
func (c *crashTrial) reached(cursor string) error {
	at, err := graph.ParseCursor(cursor)
	for had := c.newest.Load(); err == nil && had < at.Seq && !c.newest.CompareAndSwap(had, at.Seq); {
		had = c.newest.Load()
	}
	return err
}

// A crashPublisher sends one batch after the other, and each again until it is
// answered. What it was answered is in its own memory, which does not die.
type crashPublisher struct {
	c        *crashTrial
	rand     *rand.Rand
	host     string
	n        int            // version of what is sent
	pending  []graph.Update // sent and not answered
	applied  bool           // pending was seen to be there
	retried  int            // batches that were sent again
	doubled  int            // of which the first try had been applied
	answered map[string]graph.Update
}

// next is a batch of pages with one version, or a single page.
func (p *crashPublisher) next() (us []graph.Update) {
	p.n++
	update := func(path string) {
		us = append(us, graph.Update{ID: fmt.Sprintf("%d-%d", p.n, len(us)), URI: "https://" + p.host + path,
			Version: strconv.Itoa(p.n), Hash: fmt.Sprintf("h%d", p.n)})
	}
	if p.n%3 == 0 {
		update(fmt.Sprintf("/s/%d", p.n%7))
		return us
	}
	for k := range crashBatch {
		update(fmt.Sprintf("/b/%d", k))
	}
	return us
}

// run publishes until the hub dies. It calls answered after each answer.
func (p *crashPublisher) run(ctx context.Context, answered func()) {
	for again := p.pending != nil; ; again = false {
		if !again {
			p.pending, p.applied = p.next(), false
		}
		res, err := p.c.apply(ctx, p.pending)
		if err != nil {
			p.c.fault(p.host, err)
			return
		}
		answered()
		want := 0
		if again {
			p.retried++
		}
		if p.applied {
			p.doubled++
			want = len(p.pending)
		}
		if res.Duplicates != want {
			p.c.t.Errorf("%s sent batch %d (again: %t, was there already: %t) and is told of %d duplicates among %d",
				p.host, p.n, again, p.applied, res.Duplicates, len(p.pending))
		}
		for _, u := range p.pending {
			p.answered[u.URI] = u
		}
		p.pending = nil
		pass(time.Duration(p.rand.IntN(4))*time.Millisecond, p.c.died)
	}
}

// verify holds what the hub has of this publisher after a death against what
// it had answered.
func (p *crashPublisher) verify(journal []noted) {
	t := p.c.t
	t.Helper()
	told := map[int]map[string]bool{} // by version
	for _, n := range journal {
		if n.Kind != client.KindChanged || !strings.HasPrefix(n.URI, "https://"+p.host+"/") {
			continue
		}
		version, _ := strconv.Atoi(n.Version)
		if told[version] == nil {
			told[version] = map[string]bool{}
		}
		if told[version][n.URI] {
			t.Errorf("version %d of %s was applied twice", version, n.URI)
		}
		told[version][n.URI] = true
	}
	for n := crashFirst + 1; n <= p.n; n++ {
		whole := crashBatch
		if n%3 == 0 {
			whole = 1
		}
		open := n == p.n && p.pending != nil
		if got := len(told[n]); got != whole && !(open && got == 0) {
			t.Errorf("of batch %d of %s, which has %d updates and was answered: %t, %d are in the journal", n, p.host, whole, !open, got)
		}
	}
	p.applied = p.pending != nil && len(told[p.n]) > 0
	want := map[string]graph.Update{}
	for uri, u := range p.answered {
		want[uri] = u
	}
	for _, u := range p.pending {
		if p.applied {
			want[u.URI] = u
		}
	}
	for uri, got := range p.c.states(slices.Collect(maps.Keys(want))) {
		if got.Version != want[uri].Version || got.Hash != want[uri].Hash {
			t.Errorf("%s is version %q with hash %q, but %s with %s was answered or told", uri, got.Version, got.Hash, want[uri].Version, want[uri].Hash)
		}
	}
}

// states asks for the states of resources.
func (c *crashTrial) states(uris []string) map[string]statusShape {
	c.t.Helper()
	question, err := json.Marshal(map[string][]string{"uris": uris})
	if err != nil {
		c.t.Fatal(err)
	}
	got, err := c.request(c.t.Context(), "POST", st, string(question))
	if err != nil {
		c.t.Fatal(err)
	}
	var answer struct{ Resources []statusShape }
	if err := json.Unmarshal(got, &answer); err != nil || len(answer.Resources) != len(uris) {
		c.t.Fatalf("asked for %d states and got %d: %v", len(uris), len(answer.Resources), err)
	}
	states := map[string]statusShape{}
	for _, s := range answer.Resources {
		states[s.URI] = s
	}
	return states
}

// A channelEdit puts a page on the channel or takes it off. It takes effect at a
// position from from to upTo: one position if its own answer named it, more if
// that answer was lost and the edit was sent again.
type channelEdit struct {
	uri        string
	add        bool
	from, upTo uint64
}

// A channelEditor changes the list of the channel one page at a time.
type channelEditor struct {
	c       *crashTrial
	rand    *rand.Rand
	uris    []string
	on      map[string]bool
	pending *channelEdit // sent and not answered
	edits   []channelEdit
	unknown int // edits of which nobody knows at which position they took effect
}

// run edits until the hub dies. It calls wrote after each request was sent, and
// before it is answered.
func (e *channelEditor) run(ctx context.Context, wrote func()) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { wrote() }})
	for again := e.pending != nil; ; again = false {
		if !again {
			uri := e.uris[e.rand.IntN(len(e.uris))]
			e.pending = &channelEdit{uri: uri, add: !e.on[uri], from: e.c.newest.Load()}
		}
		verb := "remove"
		if e.pending.add {
			verb = "add"
		}
		got, err := e.c.request(ctx, "PATCH", chans+"watched", `{"`+verb+`":{"uri":["`+e.pending.uri+`"]}}`)
		var answer editShape
		if err == nil {
			err = json.Unmarshal(got, &answer)
		}
		if err == nil {
			err = e.c.reached(answer.Cursor)
		}
		if err != nil {
			e.c.fault("the editor", err)
			return
		}
		at, _ := graph.ParseCursor(answer.Cursor) // reached has read it
		e.pending.upTo = at.Seq
		switch changed := answer.Added+answer.Removed == 1; {
		case changed:
			e.pending.from = at.Seq
		case again:
			e.unknown++
		default:
			e.c.t.Errorf("an edit that was sent once changed nothing: %s %s: %s", verb, e.pending.uri, got)
		}
		e.edits = append(e.edits, *e.pending)
		e.on[e.pending.uri] = e.pending.add
		e.pending = nil
		pass(time.Duration(e.rand.IntN(6))*time.Millisecond, e.c.died)
	}
}

// verify holds the list of the channel against what the editor had answered.
func (e *channelEditor) verify() {
	e.c.t.Helper()
	got, err := e.c.request(e.c.t.Context(), "GET", chans+"watched/uris?limit=1000", "")
	var answer struct{ URIs []string }
	if err == nil {
		err = json.Unmarshal(got, &answer)
	}
	if err != nil {
		e.c.t.Fatal(err)
	}
	for _, uri := range e.uris {
		if on := slices.Contains(answer.URIs, uri); on != e.on[uri] && (e.pending == nil || e.pending.uri != uri) {
			e.c.t.Errorf("%s is on the channel: %t, but the answers say: %t", uri, on, e.on[uri])
		}
	}
}

// judge holds what a reader of the channel was told against the journal: each
// notice by the list that was in force at its position. Where an edit took
// effect at one of several positions, it did so once.
func (e *channelEditor) judge(told []told, journal []noted) error {
	heard := map[uint64]string{}
	last := uint64(0)
	for _, n := range told {
		if n.reset != nil || n.seq < last || n.data != "" && heard[n.seq] != "" {
			return fmt.Errorf("told %d (%+v) after %d", n.seq, n.reset, last)
		}
		if last = n.seq; n.data != "" {
			heard[n.seq] = n.data
		}
	}
	edits, on := map[string][]channelEdit{}, map[string]bool{crashEnd: true}
	all := e.edits
	if e.pending != nil { // it may have taken effect since, or not at all
		open := *e.pending
		open.upTo = math.MaxUint64
		all = append(slices.Clip(all), open)
	}
	for _, edit := range all {
		edits[edit.uri] = append(edits[edit.uri], edit)
	}
	for _, n := range journal {
		got, list := heard[n.seq], edits[n.URI]
		for len(list) > 0 && list[0].upTo < n.seq {
			on[n.URI] = list[0].add
			list = list[1:]
		}
		if len(list) > 0 && list[0].from < n.seq && (got != "") == list[0].add {
			on[n.URI] = list[0].add // from here on, or it would be told by the list before
			list = list[1:]
		}
		edits[n.URI] = list
		if want := map[bool]string{true: n.data}[on[n.URI]]; got != want {
			return fmt.Errorf("at %d it was told %q, want %q", n.seq, got, want)
		}
		delete(heard, n.seq)
	}
	if len(heard) > 0 {
		return fmt.Errorf("it was told %d things that are not in the journal", len(heard))
	}
	return nil
}

// sendHalf sends a part of a batch and then nothing, until the hub dies. It
// calls sent when the part is on its way.
func (c *crashTrial) sendHalf(r *rand.Rand, sent func()) {
	conn, err := net.Dial("tcp", c.p.addr)
	if err != nil {
		c.fault("half a body", err)
		return
	}
	defer conn.Close()
	id := c.halves.Add(1)
	var body []byte
	for k := range crashBatch {
		body = append(AppendUpdate(body, graph.Update{ID: fmt.Sprintf("half-%d-%d", id, k), URI: fmt.Sprintf("https://half.example/%d/%d", id, k), Version: "10"}), '\n')
	}
	head := "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + typeNDJSON + "\r\n"
	// Whole updates are among what is sent, and all but the end may be.
	part := body[:len(body)/crashBatch+r.IntN(len(body)-len(body)/crashBatch)]
	if r.IntN(2) == 0 {
		fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%s", head, len(body), part)
	} else {
		part = part[:bytes.LastIndexByte(part, '\n')+1]
		fmt.Fprintf(conn, "%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", head, len(part), part)
	}
	sent()
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		c.t.Errorf("half a body is answered: %s", got)
	}
}

// template names the template of this time, what is made from it, and says its version.
func (c *crashTrial) template() (uri string, dependent func(i int) string, version int) {
	wiki := fmt.Sprintf("https://fan.example/%d/", c.edits/crashEdits)
	return wiki + "Template", func(i int) string { return fmt.Sprintf("%s%d#html", wiki, i) }, crashFirst + c.edits%crashEdits
}

// render makes all dependents of the template again, from what it is.
func (c *crashTrial) render(ctx context.Context) {
	c.t.Helper()
	template, dependent, version := c.template()
	for first := 0; first < crashDependents; first += 500 {
		var us []graph.Update
		for i := first; i < first+500; i++ {
			us = append(us, graph.Update{ID: fmt.Sprint(version), URI: dependent(i), Type: "html", Hash: fmt.Sprint("made from ", version),
				Deps: []graph.Dep{{URI: template, Seen: strconv.Itoa(version)}}})
		}
		if _, err := c.apply(ctx, us); err != nil {
			c.t.Fatal(err)
		}
	}
}

// edit edits the template; its dependents were made from what it was.
func (c *crashTrial) edit(ctx context.Context) {
	c.t.Helper()
	template, _, version := c.template()
	if _, err := c.apply(ctx, []graph.Update{{ID: fmt.Sprint(version + 1), URI: template, Version: strconv.Itoa(version + 1)}}); err != nil {
		c.t.Fatal(err)
	}
	c.edits++
}

// refreshes is how many the reader of all refreshes was told.
func (c *crashTrial) refreshes() (n int) {
	x := c.readers[slices.IndexFunc(c.readers, func(x *steadyReader) bool { return x.ask.query.Has("kind") })]
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.account.list {
		if e.data != "" {
			n++
		}
	}
	return n
}

// fannedOut waits until no fan-out is running.
func (c *crashTrial) fannedOut(ctx context.Context) {
	c.t.Helper()
	for {
		got, err := c.request(ctx, "GET", "/v1/jobs", "")
		if err != nil {
			c.t.Fatal(err)
		}
		if strings.Contains(string(got), `"jobs":[]`) {
			return
		}
		pass(20*time.Millisecond, ctx.Done())
	}
}

// verifyFanOut checks that each dependent was told once of each edit since it
// was made, and that nothing is left of what was half sent.
func (c *crashTrial) verifyFanOut(journal []noted) {
	c.t.Helper()
	due := map[string]bool{} // it was made and not told since
	told := 0
	for _, n := range journal {
		switch {
		case strings.HasPrefix(n.URI, "https://half.example/"):
			c.t.Errorf("of a batch that never came whole this was applied: %s", n.data)
		case !strings.HasPrefix(n.URI, "https://fan.example/") || strings.HasSuffix(n.URI, "/Template"):
		case n.Kind == client.KindChanged:
			due[n.URI] = true
		case !due[n.URI]:
			c.t.Errorf("%s was told twice of one edit: %s", n.URI, n.data)
		default:
			delete(due, n.URI)
			told++
		}
	}
	if len(due) > 0 {
		c.t.Errorf("%d dependents were not told of the last edit", len(due))
	}
	if want := crashDependents * c.edits; told != want {
		c.t.Errorf("dependents were told %d times, want %d", told, want)
	}
}

// deaths are the moments at which a hub is killed. Each begins when the hub has
// answered some requests, with a random wait that is short against what goes on.
var deaths = []struct {
	name   string
	moment func(ctx context.Context, c *crashTrial, m *crashMoments, soon time.Duration)
}{
	{"whenever it may be", func(ctx context.Context, c *crashTrial, m *crashMoments, soon time.Duration) {
		pass(20*soon, ctx.Done())
		c.death()
	}},
	{"right after an answer", func(_ context.Context, c *crashTrial, m *crashMoments, _ time.Duration) {
		m.answered.arm(c.death)
	}},
	{"while a batch is on its way", func(ctx context.Context, c *crashTrial, m *crashMoments, soon time.Duration) {
		m.answered.arm(func() { go func() { pass(soon/4, ctx.Done()); c.death() }() })
	}},
	{"in the middle of a body", func(ctx context.Context, c *crashTrial, m *crashMoments, soon time.Duration) {
		c.sendHalf(c.rand, func() { pass(soon/4, ctx.Done()); c.death() })
	}},
	{"during a fan-out", func(ctx context.Context, c *crashTrial, m *crashMoments, soon time.Duration) {
		c.edit(ctx)
		if c.edits%2 == 0 {
			for c.refreshes() == crashDependents*(c.edits-1) && ctx.Err() == nil {
				pass(soon/32, ctx.Done())
			}
		}
		pass(soon/2, ctx.Done())
		c.death()
		c.partly = append(c.partly, c.refreshes()-crashDependents*(c.edits-1))
	}},
	{"while a channel is edited", func(ctx context.Context, c *crashTrial, m *crashMoments, soon time.Duration) {
		m.editing.arm(func() { go func() { pass(soon/8, ctx.Done()); c.death() }() })
	}},
}

// crashMoments are those at which somebody may want to kill.
type crashMoments struct{ answered, editing armed }

// An armed is something that happens often, and what is to be done the next time.
type armed struct{ next atomic.Pointer[func()] }

func (a *armed) arm(f func()) { a.next.Store(&f) }

func (a *armed) happened() {
	if f := a.next.Swap(nil); f != nil {
		(*f)()
	}
}

// live is one life of the hub: it ends in the way of death number n, by how.
func (c *crashTrial) live(ctx context.Context, n int, how func(*crashTrial)) {
	c.t.Helper()
	d := deaths[n%len(deaths)]
	if d.name == "during a fan-out" {
		c.render(ctx)
	}
	c.begin()
	var m crashMoments
	var working sync.WaitGroup
	warm := make(chan struct{}, 100)
	for _, p := range c.publishers {
		working.Go(func() {
			p.run(ctx, func() {
				m.answered.happened()
				select {
				case warm <- struct{}{}:
				default:
				}
			})
		})
	}
	working.Go(func() { c.editor.run(ctx, m.editing.happened) })
	for range 2 {
		r := rand.New(rand.NewPCG(c.rand.Uint64(), 0))
		working.Go(func() { c.sendHalf(r, func() {}) })
	}
	for range 30 + c.rand.IntN(60) {
		select {
		case <-warm:
		case <-ctx.Done():
			c.t.Fatal("the hub does not answer")
		}
	}
	d.moment(ctx, c, &m, time.Duration(c.rand.IntN(10_000))*time.Microsecond)
	select {
	case <-c.died:
	case <-ctx.Done():
		c.t.Fatalf("the hub did not die %s", d.name)
	}
	how(c)
	working.Wait()
}

// come starts the hub again, and holds it against all that it had promised.
func (c *crashTrial) come(ctx context.Context) {
	c.t.Helper()
	began := time.Now()
	c.p.start()
	if _, err := c.p.get(c.p.url() + "/healthz"); err != nil {
		c.t.Fatal(err)
	}
	c.recovered = append(c.recovered, time.Since(began))
	journal := c.p.journal(ctx)
	if len(journal) < len(c.journal) || uint64(len(journal)) < c.newest.Load() {
		c.t.Errorf("the journal ends at %d, but %d was read of it and position %d was answered", len(journal), len(c.journal), c.newest.Load())
	}
	for i := range min(len(journal), len(c.journal)) {
		if journal[i].data != c.journal[i].data {
			c.t.Errorf("position %d named %s and names %s now", i+1, c.journal[i].data, journal[i].data)
			break
		}
	}
	c.journal = journal
	for _, p := range c.publishers {
		p.verify(journal)
	}
	c.editor.verify()
}

// end lets everybody come to rest and holds the readers against the journal.
func (c *crashTrial) end(ctx context.Context, leave context.CancelFunc, reading *sync.WaitGroup) {
	t := c.t
	t.Helper()
	c.fannedOut(ctx)
	if _, err := c.apply(ctx, []graph.Update{{ID: "end", URI: crashEnd, Version: "10"}}); err != nil {
		t.Fatal(err)
	}
	journal := c.p.journal(ctx)
	for i, x := range c.readers {
		if err := x.reached(ctx, journal, journal[len(journal)-1].seq); err != nil {
			t.Errorf("reader %d (%s): %v", i, x.ask.query.Encode(), err)
		}
	}
	leave()
	reading.Wait()
	c.verifyFanOut(journal)
	others := slices.DeleteFunc(slices.Clone(c.readers), func(x *steadyReader) bool { return slices.Contains(c.channels, x) })
	checkAll(t, others, journal)
	for i, x := range c.channels {
		if err := c.editor.judge(x.account.list, journal); err != nil || x.err != nil {
			t.Errorf("reader %d of the channel: %v, %v", i, x.err, err)
		}
	}
	retried, doubled := 0, 0
	for _, p := range c.publishers {
		retried += p.retried
		doubled += p.doubled
	}
	t.Logf("%d deaths: %d notices, %d edits of the channel (%d of them at an unknown position), %d batches sent again of which %d were there, %d bodies broken off, %d dependents told at death",
		len(c.recovered), len(journal), len(c.editor.edits), c.editor.unknown, retried, doubled, c.halves.Load(), c.partly)
	t.Logf("healthy again after at most %s, %s in the mean", slices.Max(c.recovered).Round(time.Millisecond), mean(c.recovered).Round(time.Millisecond))
	if slices.Max(c.recovered) > crashRecovery*slowdown {
		t.Errorf("the hub was healthy again after %s, want %s", c.recovered, crashRecovery)
	}
}

// crashRecovery is how long a hub that was killed may take until it serves.
const crashRecovery = 5 * time.Second

func mean(list []time.Duration) (sum time.Duration) {
	for _, d := range list {
		sum += d
	}
	return sum / time.Duration(len(list))
}

// soakKills is how often the hub is killed: as SOAK_KILLS says, or in each way once.
func soakKills(t *testing.T) int {
	if s := os.Getenv("SOAK_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("SOAK_KILLS: %q is not a number above 0", s)
		}
		return n
	}
	return len(deaths)
}

func TestAJudgementOfAChannelIsExact(t *testing.T) {
	const x, y = "https://w.example/x", "https://w.example/y"
	var journal []noted
	for i, uri := range []string{x, y, x, y, x, x, crashEnd} {
		journal = append(journal, noted{uint64(i + 1), uri + strconv.Itoa(i), client.Notice{URI: uri}})
	}
	e := channelEditor{edits: []channelEdit{{x, true, 1, 1}, {y, true, 3, 3}, {x, false, 4, 6}}}
	for _, c := range []struct {
		name string
		seqs []uint64
		want string // part of what is found, "" for nothing
	}{
		{"taken off at 4", []uint64{3, 4, 7}, ""},
		{"taken off at 5", []uint64{3, 4, 5, 7}, ""},
		{"taken off at 6", []uint64{3, 4, 5, 6, 7}, ""},
		{"taken off twice", []uint64{3, 4, 6, 7}, "at 6"},
		{"before it was on", []uint64{1, 3, 4, 7}, "at 1"},
		{"lost the first", []uint64{4, 7}, "at 3"},
		{"lost the last", []uint64{3, 4}, "at 7"},
		{"out of order", []uint64{4, 3, 7}, "told 3"},
		{"twice", []uint64{3, 4, 4, 7}, "told 4"},
		{"what is not there", []uint64{3, 4, 7, 8}, "1 things"},
	} {
		var list []told
		for _, seq := range c.seqs {
			entry := told{seq: seq, data: "?"}
			if seq <= uint64(len(journal)) {
				entry.data = journal[seq-1].data
			}
			list = append(list, entry)
		}
		err := e.judge(list, journal)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: found %v, want %q", c.name, err, c.want)
		}
	}
}

func TestAHubThatIsKilledAtAnyMomentKeepsWhatItAnsweredAndReadersResume(t *testing.T) {
	t.Parallel()
	kills := soakKills(t)
	ctx, leave := context.WithTimeout(context.Background(), patience+time.Duration(kills)*10*time.Second)
	defer leave()
	readers, stopReading := context.WithCancel(ctx)
	defer stopReading()
	var reading sync.WaitGroup
	c := newCrashTrial(t, readers, &reading)
	for n := range kills {
		c.live(ctx, n, func(c *crashTrial) { c.p.kill() })
		c.come(ctx)
		if t.Failed() {
			t.Fatalf("in life %d, which ended %s", n, deaths[n%len(deaths)].name)
		}
	}
	c.end(ctx, stopReading, &reading)
	c.sound(ctx)
}

// sound kills the hub once more and has the store that it leaves checked.
func (c *crashTrial) sound(ctx context.Context) {
	c.p.kill()
	cfg := DefaultConfig()
	for _, e := range c.p.env {
		if data, ok := strings.CutPrefix(e, envPrefix+"DATA="); ok {
			cfg.Data = data
		}
	}
	rep, err := Check(ctx, cfg, nil, false, nil)
	if err != nil || rep.Found > 0 {
		c.t.Errorf("check: %v, %d findings, the first of them %+v", err, rep.Found, rep.Findings[:min(len(rep.Findings), 3)])
	}
	c.p.start()
}
