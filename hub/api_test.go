package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(madeAt)
		os.Exit(code)
	}))
}

// description is openapi.json, read once.
var description = func() routers.Router {
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		panic(err)
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		panic(err)
	}
	return router
}()

// A testHub is a running hub whose every answer is held against openapi.json.
type testHub struct {
	*Hub
	t      testing.TB
	client *http.Client
}

// startHub runs a hub on a free port and a new folder until the test ends.
func startHub(t testing.TB, change func(*Config)) *testHub {
	t.Helper()
	return startHubLogging(t, slog.New(slog.DiscardHandler), change)
}

// startHubLogging is startHub with a log.
func startHubLogging(t testing.TB, log *slog.Logger, change func(*Config)) *testHub {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", t.TempDir(), minCache
	if change != nil {
		change(&cfg)
	}
	return runHub(t, func() (*Hub, error) { return New(cfg, log) })
}

// runHub runs a hub until the test ends.
func runHub(t testing.TB, open func() (*Hub, error)) *testHub {
	t.Helper()
	h, err := open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
	return &testHub{h, t, &http.Client{Transport: transport}}
}

// A reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (a *reply) decode(t testing.TB, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("answer %d %s: %v", a.status, a.body, err)
	}
}

// do sends a request whose headers are pairs of name and value.
func (h *testHub) do(method, path, body string, header ...string) *reply {
	h.t.Helper()
	req, err := http.NewRequest(method, h.URL()+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", typeJSON)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Del(header[i])
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	a := &reply{resp.StatusCode, resp.Header, got}
	h.checkDescribed(req, a)
	return a
}

// checkDescribed fails the test if the answer is not as openapi.json has it.
// What is not described is an address or method that does not exist.
func (h *testHub) checkDescribed(req *http.Request, a *reply) {
	h.t.Helper()
	if a.header.Get(headerRequestID) == "" {
		h.t.Errorf("%s %s: the answer has no %s", req.Method, req.URL, headerRequestID)
	}
	u := *req.URL
	u.Scheme, u.Host = "", ""
	u.Path, u.RawPath = u.EscapedPath(), "" // an escaped slash is part of a name
	bare := &http.Request{Method: req.Method, URL: &u, Header: req.Header}
	route, params, err := description.FindRoute(bare)
	if err != nil {
		if !slices.Contains([]int{404, 405, 421, 403}, a.status) {
			h.t.Errorf("%s %s answers %d and is not described", req.Method, req.URL, a.status)
		}
		return
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: bare, PathParams: params, Route: route},
		Status:                 a.status, Header: a.header, Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	in.SetBodyBytes(a.body)
	if err := openapi3filter.ValidateResponse(context.Background(), in); err != nil {
		h.t.Errorf("%s %s answers %d %s, which is not as described: %v", req.Method, req.URL, a.status, a.body, err)
	}
}

func init() {
	text := func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		b, err := io.ReadAll(body)
		return string(b), err
	}
	openapi3filter.RegisterBodyDecoder(typeNDJSON, text)
	openapi3filter.RegisterBodyDecoder("text/event-stream", text)
	openapi3filter.RegisterBodyDecoder(subscriptions.DocumentAtom, text)
}

// put applies updates and fails the test if they are refused.
func (h *testHub) put(body string) (res resultShape) {
	h.t.Helper()
	a := h.do("POST", "/v1/updates", body)
	if a.status != 200 {
		h.t.Fatalf("updates are refused: %d %s", a.status, a.body)
	}
	a.decode(h.t, &res)
	return res
}

func (h *testHub) token() string {
	h.t.Helper()
	var out struct{ Token string }
	h.do("GET", "/v1/token", "").decode(h.t, &out)
	return out.Token
}

func uriQuery(uri string) string { return "?uri=" + url.QueryEscape(uri) }

func TestTheDescriptionIsValidOpenAPI(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Error(err)
	}
	var want []any
	for _, k := range problemKinds {
		want = append(want, problemBase+k.slug)
	}
	if got := doc.Components.Schemas["Problem"].Value.Properties["type"].Value.Enum; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("openapi.json lists the problems\n%v, want\n%v", got, want)
	}
}

func TestTheAPITellsWhatUpdatesSaid(t *testing.T) {
	h := startHub(t, nil)
	before := h.token()
	const page, tmpl, html = "https://e.example/wiki/A", "https://e.example/wiki/Template:T", "https://e.example/wiki/A#html"
	res := h.put(`{"id":"1","uri":"` + tmpl + `","type":"content","version":"7"}
{"id":"2","uri":"` + page + `","type":"content","version":"3"}
{"id":"3","uri":"` + html + `","type":"html","hash":"h1","deps":[{"uri":"` + page + `","seen":"3"},{"uri":"` + tmpl + `","seen":"7"},"https://e.example/wiki/Red#exists"],"buckets":["` + page + `"]}
`)
	if res.Accepted != 3 || res.Duplicates != 0 || res.Cursor == "" {
		t.Errorf("three updates give %+v", res)
	}
	var item struct {
		Items []itemShape
		Next  string
	}
	h.do("GET", "/v1/dependencies"+uriQuery(html)+"&limit=2", "").decode(t, &item)
	if len(item.Items) != 2 || item.Next == "" {
		t.Errorf("first page of two: %+v", item)
	}
	first := item.Items
	item.Next, item.Items = "", nil
	h.do("GET", "/v1/dependencies"+uriQuery(html)+"&limit=2&after="+url.QueryEscape(nextOf(t, h, html)), "").decode(t, &item)
	if len(item.Items) != 1 || item.Next != "" {
		t.Errorf("second page: %+v", item)
	}
	a := h.do("GET", "/v1/dependencies"+uriQuery(html), "", "Accept", typeNDJSON)
	if lines := strings.Count(string(a.body), "\n"); lines != 3 || !strings.HasPrefix(string(a.body), `{"uri":"`+first[0].URI+`","state":`) {
		t.Errorf("as NDJSON:\n%s", a.body)
	}
	h.do("GET", "/v1/dependents"+uriQuery(tmpl), "").decode(t, &item)
	if len(item.Items) != 1 || item.Items[0] != (itemShape{html, "clean"}) {
		t.Errorf("dependents of the template: %+v", item.Items)
	}

	h.put(`{"id":"4","uri":"` + tmpl + `","version":"8"}`)
	var r resourceShape
	h.do("GET", "/v1/resource"+uriQuery(html), "").decode(t, &r)
	if !r.Stale || r.State != "ready" || r.Type != "html" || r.Hash != "h1" || r.Dependencies != 3 || !slices.Equal(r.Buckets, []string{page}) {
		t.Errorf("after the edit the rendering is %+v", r)
	}
	if want := `"kind":"refresh","uri":"` + html + `"`; !strings.Contains(string(r.Last), want) {
		t.Errorf("its last notice is %s, want %s", r.Last, want)
	}
	var states struct{ Resources []statusShape }
	h.do("POST", "/v1/status", `{"uris":["`+tmpl+`","https://e.example/unheard"]}`).decode(t, &states)
	if len(states.Resources) != 2 || states.Resources[0].Version != "8" || states.Resources[1].Known {
		t.Errorf("states: %+v", states)
	}
	var why struct {
		Resource resourceShape
		Last     json.RawMessage
		Chain    []linkShape
		Waiting  []itemShape
		Text     string
	}
	h.do("GET", "/v1/why"+uriQuery(html), "").decode(t, &why)
	if why.Text == "" || len(why.Chain) == 0 || why.Chain[len(why.Chain)-1].URI != tmpl {
		t.Errorf("why: %+v", why)
	}
	if a := h.do("GET", "/v1/impact"+uriQuery(tmpl), ""); !strings.Contains(string(a.body), `"direct":1,"transitive":1,"complete":true`) {
		t.Errorf("impact: %s", a.body)
	}
	if before == h.token() {
		t.Errorf("the token stayed %s over an edit", before)
	}
}

// nextOf returns where the second page of two dependencies begins.
func nextOf(t testing.TB, h *testHub, uri string) string {
	var page struct {
		Items []itemShape
		Next  string
	}
	h.do("GET", "/v1/dependencies"+uriQuery(uri)+"&limit=2", "").decode(t, &page)
	return page.Next
}

func TestEdgesCanBeChangedWithoutAnUpdate(t *testing.T) {
	h := startHub(t, nil)
	const d = "https://e.example/d"
	edges := func() string {
		return string(h.do("GET", "/v1/dependencies"+uriQuery(d), "", "Accept", typeNDJSON).body)
	}
	patch := func(body string) {
		t.Helper()
		if a := h.do("PATCH", "/v1/dependencies", body); a.status != 200 {
			t.Fatalf("PATCH %s: %d %s", body, a.status, a.body)
		}
	}
	patch(`{"uri":"` + d + `","add":["https://e.example/x","https://e.example/y"]}`)
	patch(`{"uri":"` + d + `","add":["https://e.example/z"],"remove":["https://e.example/x"]}`)
	if got := edges(); strings.Count(got, "\n") != 2 || strings.Contains(got, "/x") {
		t.Errorf("after adding x, y, z and removing x:\n%s", got)
	}
	patch(`{"uri":"` + d + `","clear":true,"add":["https://e.example/x"]}`)
	if got := edges(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "/x") {
		t.Errorf("after replacing all by x:\n%s", got)
	}
	if a := h.do("DELETE", "/v1/dependents"+uriQuery("https://e.example/x"), ""); a.status != 200 || edges() != "" {
		t.Errorf("after forgetting the dependents of x (%d %s):\n%s", a.status, a.body, edges())
	}
	patch(`{"uri":"` + d + `","add":["https://e.example/x"]}`)
	if a := h.do("DELETE", "/v1/dependencies"+uriQuery(d), ""); a.status != 200 || edges() != "" {
		t.Errorf("after forgetting the dependencies of d (%d %s):\n%s", a.status, a.body, edges())
	}
}

func TestAListingAsLinesIsWhole(t *testing.T) {
	h := startHub(t, nil)
	const x, n = "https://e.example/x", 2*linesPage + 7
	var body []byte
	for i := range n {
		body = append(AppendUpdate(body, graph.Update{URI: fmt.Sprintf("https://e.example/d%d", i), Hash: "h", Deps: []graph.Dep{{URI: x, Seen: "1"}}}), '\n')
	}
	h.put(string(body))
	a := h.do("GET", "/v1/dependents"+uriQuery(x), "", "Accept", "application/json;q=0.5, application/x-ndjson")
	seen := map[string]bool{}
	for line := range strings.Lines(string(a.body)) {
		var it itemShape
		if err := json.Unmarshal([]byte(line), &it); err != nil || it.State != "clean" {
			t.Fatalf("line %q: %v", line, err)
		}
		seen[it.URI] = true
	}
	if len(seen) != n {
		t.Errorf("%d dependents are listed, want %d", len(seen), n)
	}
}

func TestAListingThatBreaksIsNotTakenForWhole(t *testing.T) {
	broken := errors.New("disk")
	page := func(after string) ([]graph.Item, string, error) {
		if after == "" {
			return []graph.Item{{URI: "tile:a"}}, "next", nil
		}
		return nil, "", broken
	}
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("the answer ends with %v, want it broken off", p)
		}
	}()
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	items, next, _ := page("")
	writePages(w, r, items, next, page, appendItem)
}

func TestTheLogQuotesWhatWasSentAndKeepsAnsweredWritesAtDebug(t *testing.T) {
	var log bytes.Buffer
	h := &Hub{log: slog.New(slog.NewTextHandler(&log, nil)), metrics: newMetrics(nil, nil)}
	handler := h.front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/fine" {
			writeProblem(w, notFound.problem(""))
		}
	}))
	for _, path := range []string{"/fine", "/a%0Alevel=ERROR%20msg=forged"} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://localhost"+path, nil))
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `path="/a\nlevel=ERROR msg=forged"`) || !strings.Contains(got, "level=INFO") {
		t.Errorf("logged:\n%s\nwant one line with the path quoted", got)
	}
}
