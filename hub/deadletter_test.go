package hub

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// letters lists dead letters; the query is one of GET /v1/deadletters.
func (h *testHub) letters(query string) (list []letterShape) {
	h.t.Helper()
	var page struct {
		Items []letterShape
		Next  string
	}
	h.do("GET", "/v1/deadletters"+query, "").decode(h.t, &page)
	return page.Items
}

// uris are what letters are about.
func uris(list []letterShape) (names []string) {
	for _, l := range list {
		names = append(names, l.URI[strings.LastIndexByte(l.URI, '/')+1:])
	}
	return names
}

// awaitLetters waits until there are n dead letters, and returns them.
func (h *testHub) awaitLetters(n int) []letterShape {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; pass(5 * time.Millisecond) {
		list := h.letters("")
		if len(list) == n {
			return list
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("there are %d dead letters, want %d: %+v", len(list), n, list)
		}
	}
}

// A faultyCache answers 503 while it is broken, and 403 to whatever has "gone" in its
// path.
type faultyCache struct {
	*calledServer
	broken atomic.Bool
}

func startFaultyCache(t *testing.T) *faultyCache {
	c := &faultyCache{}
	c.broken.Store(true)
	c.calledServer = startCalled(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "gone"):
			http.Error(w, "no", http.StatusForbidden)
		case c.broken.Load():
			http.Error(w, "out of order", http.StatusServiceUnavailable)
		}
	})
	return c
}

// faultySinks are two sinks of a cache that give up at once.
func faultySinks(t *testing.T, c *faultyCache) func(*Config) {
	return withSinks(t, `
- {name: cdn, match: {host: a.example}, purge: {caches: "`+c.url+`", headers: {Authorization: s3cr3t}}, allow: 127.0.0.0/8, retry: {limit: 1}}
- {name: other, match: {host: b.example}, purge: {caches: "`+c.url+`"}, allow: 127.0.0.0/8, retry: {limit: 1}}`)
}

func TestDeadLettersAreListedShownReplayedAndDropped(t *testing.T) {
	cache := startFaultyCache(t)
	h := startHub(t, faultySinks(t, cache))
	for _, uri := range []string{"a.example/wiki/A1", "a.example/wiki/A2", "a.example/gone/A3", "a.example/talk/A4", "b.example/wiki/B1"} {
		h.put(fmt.Sprintf(`{"uri":"https://%s","version":"1"}`, uri))
	}
	all := h.awaitLetters(5)
	for query, want := range map[string]string{
		"": "A1 A2 A3 A4 B1", "?sink=cdn": "A1 A2 A3 A4", "?sink=other": "B1", "?sink=cd": "", "?status=403": "A3", "?status=503&sink=cdn": "A1 A2 A4", "?status=0": "",
		"?prefix=https://a.example/wiki": "A1 A2", "?prefix=https://a.example/wik": "", "?bucket=https://a.example/wiki/A2": "A2", "?bucket=https://a.example/gone/A3&status=503": "", "?limit=2": "A1 A2",
	} {
		if got := strings.Join(slices.Sorted(slices.Values(uris(h.letters(query)))), " "); got != want {
			t.Errorf("%s lists %q, want %q", query, got, want)
		}
	}
	paged := []letterShape{}
	for after := ""; ; {
		var page struct {
			Items []letterShape
			Next  string
		}
		h.do("GET", "/v1/deadletters?limit=2&after="+after, "").decode(t, &page)
		paged = append(paged, page.Items...)
		if after = page.Next; after == "" {
			break
		}
	}
	if fmt.Sprint(uris(paged)) != fmt.Sprint(uris(all)) {
		t.Errorf("pages have %v, want %v", uris(paged), uris(all))
	}
	one := all[slices.IndexFunc(all, func(l letterShape) bool { return strings.HasSuffix(l.URI, "A1") })]
	a := h.do("GET", "/v1/deadletters/"+one.ID, "")
	var shown letterShape
	a.decode(t, &shown)
	if shown.Sink != "cdn" || shown.Bucket != shown.URI || shown.Lane != "prompt" || shown.Attempts != 1 || shown.At.IsZero() ||
		shown.Request == nil || shown.Request.Method != "PURGE" || !strings.HasSuffix(shown.Request.URL, "/wiki/A1") ||
		shown.Answer == nil || shown.Answer.Status != 503 || shown.Answer.Body != "out of order\n" {
		t.Errorf("shown is %s", a.body)
	}
	if strings.Contains(string(a.body), "s3cr3t") || !strings.Contains(string(a.body), "Authorization") {
		t.Errorf("its headers are shown as %s", a.body)
	}

	// Replayed while the cache is broken, it is a dead letter again.
	replay := func(body string) (done orderedShape) {
		t.Helper()
		a := h.do("POST", "/v1/deadletters", body)
		if a.status != 200 {
			t.Fatalf("%s: %d %s", body, a.status, a.body)
		}
		a.decode(t, &done)
		return done
	}
	for len(cache.came) > 0 {
		<-cache.came
	}
	if a := h.do("POST", "/v1/deadletters/"+one.ID, `{"action":"replay"}`); a.status != 200 {
		t.Errorf("replay of one: %d %s", a.status, a.body)
	}
	if got := cache.next(); got != "PURGE a.example/wiki/A1" {
		t.Errorf("called with %s", got)
	}
	h.awaitLetters(5)
	cache.broken.Store(false)
	if done := replay(`{"action":"replay","filter":{"sink":"cdn","status":503},"rate":1000}`); done.Letters != 3 || done.Done != 3 || done.Next != "" {
		t.Errorf("of a sink: %+v", done)
	}
	if got := uris(h.awaitLetters(2)); fmt.Sprint(got) != "[A3 B1]" {
		t.Errorf("left are %v", got)
	}
	if done := replay(`{"action":"drop","filter":{"prefix":"https://a.example/gone"}}`); done.Done != 1 {
		t.Errorf("dropped: %+v", done)
	}
	left := h.awaitLetters(1)
	if a := h.do("DELETE", "/v1/deadletters/"+left[0].ID, ""); a.status != 204 {
		t.Errorf("a delete: %d %s", a.status, a.body)
	}
	h.awaitLetters(0)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		if a := h.do(method, "/v1/deadletters/"+one.ID, map[string]string{"POST": `{"action":"replay"}`}[method]); a.status != 404 ||
			!strings.Contains(string(a.body), "unknown-dead-letter") {
			t.Errorf("%s of one that is gone: %d %s", method, a.status, a.body)
		}
	}
	if done := replay(`{"action":"replay","filter":{}}`); done != (orderedShape{}) {
		t.Errorf("without letters: %+v", done)
	}
}

func TestADeadLetterOfASinkThatIsGoneStaysUntilItIsDropped(t *testing.T) {
	cache := startFaultyCache(t)
	data := t.TempDir()
	t.Run("with its sink", func(t *testing.T) {
		h := startHub(t, func(c *Config) { faultySinks(t, cache)(c); c.Data = data })
		h.put(`{"uri":"https://a.example/wiki/A1","version":"1"}`)
		h.awaitLetters(1)
	})
	h := startHub(t, func(c *Config) { c.Data = data })
	one := h.awaitLetters(1)[0]
	if a := h.do("POST", "/v1/deadletters/"+one.ID, `{"action":"replay"}`); a.status != 409 || !strings.Contains(string(a.body), "dead-letter-stays") {
		t.Errorf("its replay: %d %s", a.status, a.body)
	}
	var done orderedShape
	h.do("POST", "/v1/deadletters", `{"action":"replay","filter":{}}`).decode(t, &done)
	if done.Letters != 1 || done.Done != 0 {
		t.Errorf("a replay of all: %+v", done)
	}
	h.do("POST", "/v1/deadletters", `{"action":"drop","filter":{"sink":"cdn"}}`).decode(t, &done)
	if done.Done != 1 || len(h.letters("")) != 0 {
		t.Errorf("dropped %+v, left %+v", done, h.letters(""))
	}
}

func TestOrdersForDeadLettersThatCannotBeMeantAreRefused(t *testing.T) {
	h := startHub(t, nil)
	for _, c := range []struct{ body, slug, field string }{
		{`{}`, "missing-field", "action"},
		{`{"action":"replay"}`, "missing-field", "filter"},
		{`{"action":"retry","filter":{}}`, "bad-value", "action"},
		{`{"action":"drop","filter":{},"rate":5}`, "bad-value", "rate"},
		{`{"action":"replay","filter":{},"rate":0}`, "bad-value", "rate"},
		{`{"action":"replay","filter":{"sinks":"a"}}`, "unknown-field", "filter.sinks"},
		{`{"action":"replay","filter":{"sink":"a","sink":"b"}}`, "bad-json", "filter.sink"},
		{`{"action":"replay","filter":{"status":"503"}}`, "bad-value", "filter"},
		{`{"action":"replay","filter":{"status":600}}`, "bad-value", "filter"},
		{`{"action":"replay","filter":{"prefix":"a"}}`, "bad-uri", "prefix"},
		{`{"action":"replay","filter":[]}`, "bad-value", "filter"},
		{`{"action":"replay","filter":{},"after":"x"}`, "bad-value", "after"},
		{`{"action":"replay","filter":{},"all":true}`, "unknown-field", "all"},
	} {
		var p Problem
		a := h.do("POST", "/v1/deadletters", c.body)
		if a.decode(t, &p); p.Type != problemBase+c.slug || p.Field != c.field {
			t.Errorf("%s: %s, want %s of %s", c.body, a.body, c.slug, c.field)
		}
	}
	for query, field := range map[string]string{"?status=x": "status", "?status=600": "status", "?prefix=a": "prefix", "?limit=0": "limit", "?after=x": "after", "?host=a": "host"} {
		var p Problem
		a := h.do("GET", "/v1/deadletters"+query, "")
		if a.decode(t, &p); a.status != 400 || p.Field != field {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
	for _, id := range []string{"x", "..", url.PathEscape("a/b"), "AAAA"} {
		if a := h.do("GET", "/v1/deadletters/"+id, ""); a.status != 404 {
			t.Errorf("%s: %d %s", id, a.status, a.body)
		}
	}
	for body, slug := range map[string]string{`{}`: "missing-field", `{"paused":1}`: "bad-value", `{"pause":true}`: "unknown-field", ``: "bad-json"} {
		if a := h.do("POST", "/v1/pause", body, "Content-Type", typeJSON); !strings.Contains(string(a.body), problemBase+slug) {
			t.Errorf("a pause with %s: %d %s, want %s", body, a.status, a.body, slug)
		}
	}
}

func TestTheBrakeStopsAllCallsAndHoldsOverARestart(t *testing.T) {
	cache := startFaultyCache(t)
	cache.broken.Store(false)
	s := newSubscriber(t)
	data := t.TempDir()
	start := func(t *testing.T) *webSubHub {
		h := startHub(t, func(c *Config) {
			faultySinks(t, cache)(c)
			quickly(c)
			c.Data = data
		})
		return &webSubHub{h, nil}
	}
	paused := func(h *webSubHub) bool {
		var p pauseShape
		h.testHub.do("GET", "/v1/pause", "").decode(t, &p)
		if text := string(h.testHub.do("GET", "/metrics", "").body); strings.Contains(text, "freshwire_delivery_paused 1\n") != p.Paused {
			t.Errorf("the metric says otherwise than %t", p.Paused)
		}
		return p.Paused
	}
	t.Run("it is put on", func(t *testing.T) {
		h := start(t)
		if paused(h) {
			t.Error("a new hub is paused")
		}
		h.open("open")
		h.subscribe(s, "/a")
		h.admin("POST", "/v1/pause", `{"paused":true}`)
		h.edit(aPage, 1)
		h.edit("https://a.example/wiki/A1", 1)
		if !paused(h) {
			t.Error("it is not paused")
		}
	})
	h := start(t)
	h.edit("https://b.example/wiki/B1", 1)
	if !paused(h) {
		t.Error("after a restart it is not paused")
	}
	h.testHub.awaitSink("other", func(s sinkTargetShape) bool { return s.Lag > 0 })
	if s.count(isPost) != 0 || len(cache.came) != 0 {
		t.Errorf("%d deliveries and %d purges were sent all the same", s.count(isPost), len(cache.came))
	}
	h.admin("POST", "/v1/pause", `{"paused":false}`)
	s.await(1, isPost)
	got := []string{cache.next(), cache.next()}
	if slices.Sort(got); fmt.Sprint(got) != "[PURGE a.example/wiki/A1 PURGE b.example/wiki/B1]" {
		t.Errorf("called with %v", got)
	}
}
