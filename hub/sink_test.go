package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/auth"
	"github.com/freshwire/freshwire/subscriptions/sink"
	"github.com/goccy/go-yaml"
)

// A called server notes who calls it.
type calledServer struct {
	t     testing.TB
	url   string
	came  chan string
	agent chan string
}

// startCalled runs a server on loopback; answer may be nil.
func startCalled(t testing.TB, answer http.HandlerFunc) *calledServer {
	t.Helper()
	s := &calledServer{t, "", make(chan string, 1000), make(chan string, 1000)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.came <- strings.TrimSpace(fmt.Sprint(r.Method, " ", r.Host, r.RequestURI, " ", r.Header.Get("xkey-purge")))
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *calledServer) next() string {
	s.t.Helper()
	select {
	case call := <-s.came:
		return call
	case <-time.After(20 * time.Second):
		s.t.Fatal("nobody calls")
		return ""
	}
}

// withSinks has a hub start with the sinks of a configuration.
func withSinks(t testing.TB, text string) func(*Config) {
	t.Helper()
	var file struct {
		Sinks []sink.Definition `yaml:"sinks"`
	}
	if err := yaml.UnmarshalWithOptions([]byte("sinks:\n"+text), &file, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Sinks = file.Sinks }
}

// awaitSink waits until one target of a sink is as it should be.
func (h *testHub) awaitSink(name string, done func(sinkTargetShape) bool) sinkShape {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var s sinkShape
		h.do("GET", "/v1/sinks/"+name, "").decode(h.t, &s)
		if done(s.Targets[0]) {
			return s
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the sink stays %+v", s.Targets)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestSinksCallWhatTheConfigurationSays(t *testing.T) {
	cache := startCalled(t, nil)
	h := startHub(t, withSinks(t, `
- {name: varnish, match: {type: html}, xkey: {caches: "`+cache.url+`"}, allow: 127.0.0.0/8}
- {name: plain, match: {type: thumb}, purge: {caches: "`+cache.url+`"}, allow: 127.0.0.0/8}`))
	before := h.token()
	h.put(`{"id":"1","uri":"https://en.example.org/wiki/A#html","type":"html","hash":"1","buckets":["https://en.example.org/wiki/A"]}`)
	if got := cache.next(); got != "PURGE en.example.org/ https://en.example.org/wiki/A" {
		t.Errorf("called with %s", got)
	}
	h.put(`{"id":"2","uri":"https://en.example.org/thumb/B.png?w=320","type":"thumb","hash":"1"}`)
	if got := cache.next(); got != "PURGE en.example.org/thumb/B.png?w=320" {
		t.Errorf("called with %s", got)
	}
	var list struct{ Items []sinkShape }
	h.awaitSink("plain", func(s sinkTargetShape) bool { return s.Sent == 1 })
	h.do("GET", "/v1/sinks", "").decode(t, &list)
	if len(list.Items) != 2 || list.Items[0].Name != "varnish" || list.Items[1].Targets[0].Outlet != "sink/plain/"+strings.TrimPrefix(cache.url, "http://") {
		t.Errorf("listed are %+v", list.Items)
	}
	figures := string(h.do("GET", "/metrics", "").body)
	for _, want := range []string{`freshwire_sink_sent_total{sink="varnish"} 1`, `freshwire_sink_lag{sink="plain"} 0`, "freshwire_delivery_outlets 2", "freshwire_delivery_sent_total 2"} {
		if !strings.Contains(figures, want+"\n") {
			t.Errorf("the metrics have no %s", want)
		}
	}
	control := func(body string) {
		t.Helper()
		if a := h.do("POST", "/v1/sinks/varnish", body); a.status != 200 {
			t.Fatalf("%s: %d %s", body, a.status, a.body)
		}
	}
	control(`{"action":"pause"}`)
	h.awaitSink("varnish", func(s sinkTargetShape) bool { return s.Health == "paused" })
	control(`{"action":"resume"}`)
	control(`{"action":"replay","from":"` + before + `"}`)
	if got := cache.next(); got != "PURGE en.example.org/ https://en.example.org/wiki/A" {
		t.Errorf("replayed is %s", got)
	}
	control(`{"action":"replay","from":"now"}`)
	control(`{"action":"replay","from":"oldest"}`)
	cache.next()
	for body, want := range map[string]string{
		`{}`:                                      "missing-field",
		`{"action":"ping"}`:                       "bad-value",
		`{"action":"replay"}`:                     "missing-field",
		`{"action":"pause","from":"now"}`:         "bad-value",
		`{"action":"replay","from":"x"}`:          "bad-value",
		`{"action":"replay","from":"00000001.1"}`: "cursor-reset",
		`{"action":"replay","from":"` + strings.Split(before, ".")[0] + `.99999999"}`: "cursor-reset",
		`{"act":"pause"}`: "unknown-field",
	} {
		if a := h.do("POST", "/v1/sinks/varnish", body); !strings.Contains(string(a.body), problemBase+want) {
			t.Errorf("%s: %d %s, want %s", body, a.status, a.body, want)
		}
	}
	for _, method := range []string{"GET", "POST"} {
		if a := h.do(method, "/v1/sinks/none", `{"action":"pause"}`); a.status != 404 || !strings.Contains(string(a.body), "unknown-sink") {
			t.Errorf("%s of no sink: %d %s", method, a.status, a.body)
		}
	}
}

func TestASinkIsTriedOutWithoutCallingAnybody(t *testing.T) {
	cache := startCalled(t, nil)
	h := startHub(t, withSinks(t, `
- {name: varnish, match: {type: html}, xkey: {caches: "`+cache.url+`"}, allow: 127.0.0.0/8, dry_run: true}
- {name: rerender, match: {kind: refresh}, http: {url: "https://s.example/{hash}", headers: {Authorization: s3cr3t}}}`))
	h.put(`{"id":"1","uri":"https://en.example.org/wiki/A#html","type":"html","hash":"1","buckets":["https://en.example.org/wiki/A"]}`)
	var got struct {
		Notice json.RawMessage
		Known  bool
		Sinks  []sink.Trial
	}
	h.do("POST", "/v1/sinks/test", `{"uri":"https://en.example.org/wiki/A#html"}`).decode(t, &got)
	if !got.Known || len(got.Sinks) != 2 || len(got.Sinks[0].Sends) != 1 || got.Sinks[0].Sends[0].About != "https://en.example.org/wiki/A" ||
		!strings.Contains(got.Sinks[0].Note, "dry_run") || got.Sinks[1].Why != `match.kind does not agree with "changed"` {
		t.Errorf("of what is known: %+v", got)
	}
	a := h.do("POST", "/v1/sinks/test", `{"uri":"https://en.example.org/new","kind":"refresh","type":"html","hash":"h1","buckets":["b"]}`)
	got.Sinks = nil
	a.decode(t, &got)
	if got.Known || got.Sinks[1].Sends[0].URL != "https://s.example/h1" || strings.Contains(string(a.body), "s3cr3t") {
		t.Errorf("of what is not known: %s", a.body)
	}
	for body, want := range map[string]string{
		`{}`:                           "missing-field",
		`{"uri":"https://A.example/"}`: "bad-uri",
		`{"uri":"https://e.example/a","kind":"new"}`:    "bad-value",
		`{"uri":"https://e.example/a","type":""}`:       "",
		`{"uri":"https://e.example/a","type":"\u0001"}`: "bad-value",
		`{"uri":"https://e.example/a","lane":"fast"}`:   "bad-value",
		`{"uri":"https://e.example/a","reason":"x"}`:    "bad-value",
		`{"uri":"https://e.example/a","change":"x"}`:    "bad-value",
		`{"uri":"https://e.example/a","buckets":[""]}`:  "bad-value",
		`{"uri":"https://e.example/a","x":1}`:           "unknown-field",
	} {
		a := h.do("POST", "/v1/sinks/test", body)
		if want == "" && a.status != 200 || want != "" && !strings.Contains(string(a.body), problemBase+want) {
			t.Errorf("%s: %d %s, want %s", body, a.status, a.body, want)
		}
	}
	select {
	case call := <-cache.came:
		t.Errorf("%s is called", call)
	default:
	}
}

func TestSinksAreForAdministrators(t *testing.T) {
	h := startKeyedHub(t, withSinks(t, `- {name: a, http: {url: "https://s.example/", headers: {X-Token: s3cr3t}}}`))
	for _, path := range []string{"GET /v1/sinks", "GET /v1/sinks/a", "POST /v1/sinks/a", "POST /v1/sinks/test"} {
		method, path, _ := strings.Cut(path, " ")
		body := map[string]string{"/v1/sinks/a": `{"action":"resume"}`, "/v1/sinks/test": `{"uri":"https://e.example/a"}`}[path]
		if method == "GET" {
			body = ""
		}
		if a := h.as(enwiki, method, path, body); a.status != 403 {
			t.Errorf("%s %s for a tenant: %d %s", method, path, a.status, a.body)
		}
		if a := h.do(method, path, body); a.status != 401 {
			t.Errorf("%s %s without a token: %d %s", method, path, a.status, a.body)
		}
		if a := h.as(auth.Rights{Subject: "root", Admin: true}, method, path, body); a.status != 200 || strings.Contains(string(a.body), "s3cr3t") {
			t.Errorf("%s %s for an administrator: %d %s", method, path, a.status, a.body)
		}
	}
}

func TestASinkCallsNoPrivateAddressThatIsNotAllowed(t *testing.T) {
	cache := startCalled(t, nil)
	h := startHub(t, withSinks(t, `- {name: a, purge: {caches: "`+cache.url+`"}}`))
	h.put(`{"id":"1","uri":"https://en.example.org/wiki/A","type":"html","hash":"1"}`)
	s := h.awaitSink("a", func(s sinkTargetShape) bool { return s.Failures > 0 })
	if got := s.Targets[0]; !strings.HasPrefix(got.LastError, "sink refused: 127.0.0.1 is") || got.Waiting != 1 || len(cache.came) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAHubThatObservesCallsNobody(t *testing.T) {
	cache := startCalled(t, nil)
	sinks := withSinks(t, `- {name: a, purge: {caches: "`+cache.url+`"}, allow: 127.0.0.0/8}`)
	h := startHub(t, func(c *Config) { sinks(c); c.Mode = ModeObserve })
	h.put(`{"id":"1","uri":"https://en.example.org/wiki/A","type":"html","hash":"1"}`)
	h.awaitSink("a", func(s sinkTargetShape) bool { return s.Sent == 1 })
	if len(cache.came) != 0 {
		t.Errorf("%s is called", <-cache.came)
	}
}

// TestASinkGoesOnWhereItWasAfterARestart has a cache that is down while the hub is
// stopped and started again; nothing that waited is lost.
func TestASinkGoesOnWhereItWasAfterARestart(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", t.TempDir(), minCache
	down := startCalled(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	up := startCalled(t, nil)
	withSinks(t, `- {name: a, http: {url: "`+down.url+`/{hash}"}, allow: 127.0.0.0/8, match: {type: html}, retry: {after: 1h}}`)(&cfg)
	run := func() (*Hub, func()) {
		h, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		for deadline := time.Now().Add(20 * time.Second); !h.ready.Load(); <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the hub does not get ready")
			}
		}
		return h, func() {
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	put := func(h *Hub, hash string) {
		t.Helper()
		if _, err := h.store.Apply(t.Context(), "test", []graph.Update{{URI: "https://e.example/" + hash, Type: "html", Hash: hash}}); err != nil {
			t.Fatal(err)
		}
	}
	h, stop := run()
	put(h, "1")
	if got := down.next(); !strings.HasSuffix(got, "/1") {
		t.Fatal(got)
	}
	if err := h.sinks.Control(t.Context(), "a", "pause", graph.Cursor{}); err != nil {
		t.Fatal(err)
	}
	put(h, "2")
	stop()
	withSinks(t, `- {name: a, http: {url: "`+up.url+`/{hash}"}, allow: 127.0.0.0/8, match: {type: html}, retry: {after: 1h}}`)(&cfg)
	h, stop = run()
	if err := h.sinks.Control(t.Context(), "a", "resume", graph.Cursor{}); err != nil {
		t.Fatal(err)
	}
	got := []string{up.next(), up.next()}
	if !strings.Contains(strings.Join(got, " "), "/1") || !strings.Contains(strings.Join(got, " "), "/2") {
		t.Errorf("after the restart called are %q", got)
	}
	stop()
}

func TestAFaultOfASinkIsNoSecretsLeak(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data = "127.0.0.1:0", t.TempDir()
	withSinks(t, `- {name: a, http: {url: "https://user:s3cr3t@s.example/"}}`)(&cfg)
	_, err := New(cfg, nil)
	var e *sink.Error
	if !errors.As(err, &e) || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("got %v", err)
	}
}
