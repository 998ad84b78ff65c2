package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

// A server notes the calls that it gets, and answers as it is told.
type server struct {
	t      *testing.T
	url    string
	addr   string
	mu     sync.Mutex
	calls  []string
	status func(call string) int // nil is 200
	came   chan string
	held   chan struct{} // answers wait until it is closed; nil is at once
}

func newServer(t *testing.T) *server {
	s := &server{t: t, came: make(chan string, 1000)}
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	s.url, s.addr = ts.URL, strings.TrimPrefix(ts.URL, "http://")
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	call := words(r.Method, r.RequestURI, r.Header.Get("xkey-purge"), r.Header.Get("Surrogate-Key"), string(body))
	s.mu.Lock()
	s.calls = append(s.calls, call)
	status, held := s.status, s.held
	s.mu.Unlock()
	s.came <- call
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
		}
	}
	if status != nil {
		w.WriteHeader(status(call))
	}
}

// answer has calls answered by f from now on.
func (s *server) answer(f func(call string) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = f
}

// hold has answers wait until release is called.
func (s *server) hold() (release func()) {
	held := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
	return func() {
		s.mu.Lock()
		s.held = nil
		s.mu.Unlock()
		close(held)
	}
}

// next returns the next call.
func (s *server) next() string {
	s.t.Helper()
	select {
	case call := <-s.came:
		return call
	case <-time.After(20 * time.Second):
		s.t.Fatal("nobody calls")
		return ""
	}
}

// quiet fails the test if a call has come.
func (s *server) quiet(what string) {
	s.t.Helper()
	select {
	case call := <-s.came:
		s.t.Errorf("%s: %s is called", what, call)
	default:
	}
}

// A plant is sinks with a journal, an engine and the network.
type plant struct {
	*world
	engine *delivery.Engine
	sinks  *Sinks
}

// newPlant runs the engine until the test ends.
func newPlant(t *testing.T, change func(*Options)) *plant {
	t.Helper()
	w := newWorld(t, time.Now)
	feed := w.streams.FilterFeed(mustCompile(t))
	engine, err := delivery.New(w.store, delivery.Options{Head: feed.Head, Oldest: w.store.Oldest})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Feed: w.streams.FilterFeed, Engine: engine, Dial: dial}
	if change != nil {
		change(&o)
	}
	p := &plant{w, engine, New(o)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.sinks.Close()
	})
	return p
}

func dial(_ []netip.Prefix, timeout time.Duration, _ int) (delivery.Caller, func()) {
	transport := &http.Transport{}
	return &http.Client{Timeout: timeout, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		transport.CloseIdleConnections
}

// put puts sinks in force.
func (p *plant) put(text string) []Change {
	p.t.Helper()
	changes, err := p.sinks.Replace(p.t.Context(), read(p.t, "sinks:\n"+text))
	if err != nil {
		p.t.Fatal(err)
	}
	return changes
}

// page changes the rendering of a page.
func (p *plant) page(name, hash string) string {
	p.t.Helper()
	uri := "https://e.example/wiki/" + name
	p.apply(graph.Update{URI: uri, Type: "html", Hash: hash, Buckets: []string{uri}})
	return uri
}

// settled waits until nothing of a sink is under way, and returns its state.
func (p *plant) settled(name string, done func(delivery.State) bool) delivery.State {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, all, err := p.sinks.Standing(name)
		if err != nil {
			p.t.Fatal(err)
		}
		if done(all[0].State) {
			return all[0].State
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s stays %+v", name, all[0].State)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestANewSinkBeginsNow(t *testing.T) {
	s, p := newServer(t), newPlant(t, nil)
	p.page("Before", "1")
	p.put(`- {name: a, match: {type: html}, purge: {caches: "` + s.url + `"}}`)
	p.page("After", "1")
	if call := s.next(); call != "PURGE /wiki/After" {
		t.Errorf("first called is %s", call)
	}
	p.settled("a", func(st delivery.State) bool { return st.Sent == 1 && st.Calls == 0 })
	s.quiet("nothing else")
}

func TestRetriesDeadLettersAndWhatIsIgnored(t *testing.T) {
	s, p := newServer(t), newPlant(t, nil)
	tries := map[string]int{}
	var mu sync.Mutex
	s.answer(func(call string) int {
		mu.Lock()
		defer mu.Unlock()
		tries[call]++
		switch {
		case strings.HasSuffix(call, "Twice") && tries[call] < 3:
			return 503
		case strings.HasSuffix(call, "Never"):
			return 500
		case strings.HasSuffix(call, "Forbidden"):
			return 403
		case strings.HasSuffix(call, "Absent"):
			return 404
		}
		return 200
	})
	p.put(`- {name: a, match: {type: html}, purge: {caches: "` + s.url + `"}, retry: {after: [1ms, 2ms], limit: 4}}`)
	for _, name := range []string{"Twice", "Never", "Forbidden", "Absent", "Fine"} {
		p.page(name, "1")
	}
	st := p.settled("a", func(st delivery.State) bool { return st.Sent == 2 && st.Ignored == 1 && st.Letters == 2 })
	mu.Lock()
	defer mu.Unlock()
	if tries["PURGE /wiki/Twice"] != 3 || tries["PURGE /wiki/Never"] != 4 || tries["PURGE /wiki/Forbidden"] != 1 || tries["PURGE /wiki/Absent"] != 1 || st.Waiting != 0 {
		t.Errorf("tries %v, state %+v", tries, st)
	}
	letters, _, err := p.engine.DeadLetters(t.Context(), "sink/a/"+s.addr, "", 0, nil)
	if err != nil || len(letters) != 2 || letters[0].Status != 500 || letters[0].Attempts != 4 || letters[1].Status != 403 || letters[0].URL != s.url+"/wiki/Never" {
		t.Errorf("dead letters: %+v, %v", letters, err)
	}
}

func TestWhatCannotBeMadeIsADeadLetterWithItsReason(t *testing.T) {
	s, p := newServer(t), newPlant(t, nil)
	p.put(`- {name: a, match: {uri: '^https://e.example/wiki/a(?P<rest>.*)$'}, http: {url: "` + s.url + `/x/{+rest}"}}`)
	p.page("a../admin", "1")
	p.settled("a", func(st delivery.State) bool { return st.Letters == 1 })
	letters, _, err := p.engine.DeadLetters(t.Context(), "sink/a", "", 0, nil)
	if err != nil || len(letters) != 1 || !strings.Contains(letters[0].Error, "dot segments") || letters[0].Attempts != 1 {
		t.Errorf("%+v, %v", letters, err)
	}
	s.quiet("it is not sent")
}

func TestNoSecretIsKeptWithADeadLetter(t *testing.T) {
	t.Setenv("CDN_PASS", "s3cr3t")
	s, p := newServer(t), newPlant(t, nil)
	s.answer(func(string) int { return 403 })
	p.put(`- {name: a, http: {url: "` + s.url + `/", headers: {X-Pass: "{env:CDN_PASS}"}}}`)
	p.page("A", "1")
	p.settled("a", func(st delivery.State) bool { return st.Letters == 1 })
	letters, _, err := p.engine.DeadLetters(t.Context(), "sink/a", "", 0, nil)
	if err != nil || len(letters) != 1 || strings.Contains(fmt.Sprint(letters), "s3cr3t") {
		t.Errorf("%+v, %v", letters, err)
	}
	records := 0
	if err := p.store.Records("", func(key string, value []byte) error {
		records++
		if strings.Contains(key+string(value), "s3cr3t") {
			t.Errorf("%s keeps a secret: %s", key, value)
		}
		return nil
	}); err != nil || records == 0 {
		t.Errorf("%d records, %v", records, err)
	}
}

func TestADryRunDoesAllButCall(t *testing.T) {
	for _, observe := range []bool{false, true} {
		s, p := newServer(t), newPlant(t, func(o *Options) { o.Observe = observe })
		p.put(fmt.Sprintf(`- {name: a, dry_run: %v, match: {type: html}, purge: {caches: "%s"}}`, !observe, s.url))
		for i := range 5 {
			p.page(fmt.Sprint(i), "1")
		}
		p.settled("a", func(st delivery.State) bool { return st.Sent == 5 && st.Behind == 0 })
		s.quiet("a dry run")
	}
}

func TestACacheThatIsDownHoldsUpNoOther(t *testing.T) {
	up, down, p := newServer(t), newServer(t), newPlant(t, nil)
	defer down.hold()()
	p.put(`- {name: a, match: {type: html}, xkey: {caches: ["` + down.url + `", "` + up.url + `"]}, timeout: 30s, concurrency: 1}`)
	for i := range 20 {
		uri := p.page(fmt.Sprint(i), "1")
		if call := up.next(); call != "PURGE / "+uri {
			t.Errorf("called with %s", call)
		}
	}
	down.next()
	down.quiet("it has one call that hangs")
}

func TestPurgesOfOneKeyThatWaitAreOne(t *testing.T) {
	s, p := newServer(t), newPlant(t, nil)
	release := s.hold()
	p.put(`- {name: a, match: {type: html}, xkey: {caches: "` + s.url + `"}, concurrency: 1}`)
	first := p.page("A", "1")
	s.next() // it is under way, and answered late
	for i := range 10 {
		p.page("A", fmt.Sprint(i+2))
		p.page("B", fmt.Sprint(i))
	}
	p.settled("a", func(st delivery.State) bool { return st.Merged == 9 }) // of B; those of A wait behind the call
	release()
	got := []string{s.next(), s.next()}
	slices.Sort(got)
	if want := []string{"PURGE / " + first, "PURGE / https://e.example/wiki/B"}; !slices.Equal(got, want) {
		t.Errorf("then %q are called, want %q", got, want)
	}
	p.settled("a", func(st delivery.State) bool { return st.Sent == 3 && st.Behind == 0 })
	s.quiet("21 changes")
}

// TestStagesAreCalledInOrderOfTheirAnswers has an inner cache that takes purges by URL
// and an outer one that takes them by key.
func TestStagesAreCalledInOrderOfTheirAnswers(t *testing.T) {
	inner, outer, p := newServer(t), newServer(t), newPlant(t, nil)
	var mu sync.Mutex
	stuck := true
	inner.answer(func(call string) int {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(call, "/Stuck") && stuck {
			return 503
		}
		return 200
	})
	p.put(`- {name: outer, group: g, stage: 2, match: {type: html}, surrogate-key: {url: "` + outer.url + `/purge"}}
- {name: inner, group: g, stage: 1, match: {type: html}, purge: {caches: "` + inner.url + `"}, retry: {after: [5ms], limit: 100}}`)
	p.page("Stuck", "1")
	inner.next()
	uri := p.page("Fine", "1")
	if call := outer.next(); call != "POST /purge "+uri {
		t.Errorf("the outer cache is called with %s", call)
	}
	inner.mu.Lock()
	if !slices.Contains(inner.calls, "PURGE /wiki/Fine") {
		t.Error("the outer cache is called before the inner one")
	}
	inner.mu.Unlock()
	outer.quiet("what is stuck")
	mu.Lock()
	stuck = false
	mu.Unlock()
	if call := outer.next(); call != "POST /purge https://e.example/wiki/Stuck" {
		t.Errorf("then with %s", call)
	}
}

func TestAReloadTakesSinksOverWhereTheyAre(t *testing.T) {
	s, other, p := newServer(t), newServer(t), newPlant(t, nil)
	const stays = `- {name: stays, match: {type: html}, http: {url: "%s/stays/{hash}"}}` + "\n"
	if got := p.put(fmt.Sprintf(stays, s.url) + `- {name: moves, match: {type: html}, http: {url: "` + s.url + `/wrong/{hash}"}, retry: {after: [1h], limit: 9}}
- {name: goes, match: {type: html}, http: {url: "` + s.url + `/goes/{hash}"}}`); fmt.Sprint(got) != "[{stays added} {moves added} {goes added}]" {
		t.Errorf("at first: %v", got)
	}
	s.answer(func(call string) int {
		if strings.Contains(call, "/wrong/") {
			return 500
		}
		return 200
	})
	p.page("A", "1")
	calls := []string{s.next(), s.next(), s.next()}
	slices.Sort(calls)
	if want := []string{"GET /goes/1", "GET /stays/1", "GET /wrong/1"}; !slices.Equal(calls, want) {
		t.Fatalf("called are %q", calls)
	}
	p.settled("moves", func(st delivery.State) bool { return st.Waiting == 1 })
	p.settled("goes", func(st delivery.State) bool { return st.Sent == 1 })
	kept := p.sinks.inForce[0]

	after := fmt.Sprintf(stays, s.url) + `- {name: moves, match: {type: html}, http: {url: "` + other.url + `/right/{hash}"}, retry: {after: [1h], limit: 9}}
- {name: new, match: {type: html}, http: {url: "` + s.url + `/new/{hash}"}}`
	if plan, err := p.sinks.Plan(read(t, "sinks:\n"+after)); err != nil || fmt.Sprint(plan) != "[{goes removed} {moves changed} {new added}]" {
		t.Errorf("planned are %v, %v", plan, err)
	}
	p.put(after)
	if p.sinks.inForce[0] != kept {
		t.Error("a sink that is equal is made anew")
	}
	if err := p.sinks.Control(t.Context(), "moves", "resume", graph.Cursor{}); err != nil {
		t.Fatal(err)
	}
	if call := other.next(); call != "GET /right/1" {
		t.Errorf("what waited is sent as %s", call)
	}
	p.page("A", "2")
	calls = []string{s.next(), s.next(), other.next()}
	slices.Sort(calls)
	if want := []string{"GET /new/2", "GET /right/2", "GET /stays/2"}; !slices.Equal(calls, want) {
		t.Errorf("after the reload called are %q", calls)
	}
	if _, _, err := p.sinks.Standing("goes"); !errors.Is(err, ErrNoSink) {
		t.Errorf("a sink that is gone: %v", err)
	}
	// One that comes back goes on where it was.
	p.put(after + "\n" + `- {name: goes, match: {type: html}, http: {url: "` + s.url + `/goes/{hash}"}}`)
	if call := s.next(); call != "GET /goes/2" {
		t.Errorf("one that comes back calls %s", call)
	}
}

func TestDefinitionsThatCannotBeUsedLeaveThoseInForce(t *testing.T) {
	s, p := newServer(t), newPlant(t, nil)
	p.put(`- {name: a, match: {type: html}, purge: {caches: "` + s.url + `"}}`)
	bad := read(t, `sinks: [{name: b, purge: {}}, {name: c, match: {uri: "^("}, purge: {}}]`)
	var e *Error
	if _, err := p.sinks.Replace(t.Context(), bad); !errors.As(err, &e) || e.Name != "c" {
		t.Errorf("got %v", err)
	}
	p.page("A", "1")
	if call := s.next(); call != "PURGE /wiki/A" || len(p.sinks.All()) != 1 {
		t.Errorf("called is %s, in force are %d", call, len(p.sinks.All()))
	}
}

func TestASinkIsPausedResumedAndReplayed(t *testing.T) {
	s, p := newServer(t), newPlant(t, nil)
	p.put(`- {name: a, match: {type: html}, purge: {caches: "` + s.url + `"}}`)
	before := p.store.Token()
	if err := p.sinks.Control(t.Context(), "a", "pause", graph.Cursor{}); err != nil {
		t.Fatal(err)
	}
	p.page("A", "1")
	p.settled("a", func(st delivery.State) bool { return st.Health == delivery.Paused })
	s.quiet("a paused sink")
	if err := p.sinks.Control(t.Context(), "a", "resume", graph.Cursor{}); err != nil {
		t.Fatal(err)
	}
	s.next()
	p.settled("a", func(st delivery.State) bool { return st.Sent == 1 })
	if err := p.sinks.Control(t.Context(), "a", "replay", before); err != nil {
		t.Fatal(err)
	}
	if call := s.next(); call != "PURGE /wiki/A" {
		t.Errorf("replayed is %s", call)
	}
	if err := p.sinks.Control(t.Context(), "none", "pause", graph.Cursor{}); !errors.Is(err, ErrNoSink) {
		t.Errorf("of no sink: %v", err)
	}
}

func TestAnOutletOfEachTargetHasANameThatStays(t *testing.T) {
	_, p := newServer(t), newPlant(t, func(o *Options) { o.Observe = true })
	p.put(`- {name: a, cases: [{match: {type: html}, xkey: {caches: ["http://10.0.0.1:6081", "http://10.0.0.2"]}}, {match: {type: mobile}, purge: {}}]}`)
	var names []string
	_, all, err := p.sinks.Standing("a")
	for _, s := range all {
		names = append(names, s.Outlet)
	}
	if err != nil || !slices.Equal(names, []string{"sink/a/10.0.0.1:6081", "sink/a/10.0.0.2", "sink/a"}) {
		t.Errorf("%q, %v", names, err)
	}
}

// A full engine has no room for one more outlet.
type fullEngine struct {
	engine
	full string // the outlet that it has no room for
}

func (e *fullEngine) Attach(ctx context.Context, name string, o delivery.Outlet, s delivery.Settings) error {
	if name == e.full {
		return &graph.NoSpaceError{Free: 1, Floor: 2}
	}
	return e.engine.Attach(ctx, name, o, s)
}

func TestSinksThatCannotAllBeginLeaveThoseBeforeThemInForce(t *testing.T) {
	old, other := newServer(t), newServer(t)
	p := newPlant(t, func(o *Options) { o.Engine = &fullEngine{o.Engine, "sink/z"} })
	was := `
- {name: a, match: {uri: '^https://e.example/wiki/(?P<t>.+)$', type: html}, purge: {url: "` + old.url + `/wiki/{t}"}}`
	p.put(was)
	_, err := p.sinks.Replace(t.Context(), read(t, `sinks:
- {name: a, match: {uri: '^https://e.example/wiki/(?P<t>.+)$', type: html}, purge: {url: "`+other.url+`/a/{t}"}}
- {name: b, match: {uri: '^https://e.example/wiki/(?P<t>.+)$', type: html}, purge: {url: "`+other.url+`/b/{t}"}}
- {name: z, match: {uri: '^https://e.example/wiki/(?P<t>.+)$', type: html}, purge: {url: "`+other.url+`/z/{t}"}}
`))
	if full := (*graph.NoSpaceError)(nil); !errors.As(err, &full) {
		t.Fatalf("there is no room for one of them: %v", err)
	}
	if all := p.sinks.All(); len(all) != 1 || all[0].Name != "a" {
		t.Errorf("in force are %v", all)
	}
	p.page("Page", "1")
	if call := old.next(); call != "PURGE /wiki/Page" {
		t.Errorf("called is %s", call)
	}
	p.settled("a", func(st delivery.State) bool { return st.Sent == 1 && st.Calls == 0 })
	other.quiet("of what is not in force")
	if changes := p.put(was); len(changes) != 0 {
		t.Errorf("to put those in force that are changes %v", changes)
	}
	p.page("Page", "2")
	old.next()
	other.quiet("of what is not in force")
}

func TestAHubThatStartsCallsForTheSinksThatItCan(t *testing.T) {
	s := newServer(t)
	p := newPlant(t, func(o *Options) { o.Engine = &fullEngine{o.Engine, "sink/b"} })
	three := read(t, `sinks:
- {name: a, match: {type: html}, http: {url: "`+s.url+`/a"}}
- {name: b, match: {type: html}, http: {url: "`+s.url+`/b"}}
- {name: c, match: {type: html}, http: {url: "`+s.url+`/c"}}
`)
	if err := p.sinks.Begin(t.Context(), three); err != nil {
		t.Fatal(err)
	}
	p.page("Page", "1")
	got := []string{s.next(), s.next()}
	slices.Sort(got)
	if fmt.Sprint(got) != "[GET /a GET /c]" {
		t.Errorf("called are %v", got)
	}
	if changes, err := p.sinks.Plan(three); err != nil || fmt.Sprint(changes) != "[{b added}]" {
		t.Errorf("the next reload would change %v, %v", changes, err)
	}
}
