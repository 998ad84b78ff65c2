package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

// A call is what a method puts on the wire, and what comes back.
type call struct {
	name   string
	do     func(ctx context.Context, c *client.Client) (any, error)
	method string
	target string // path and query
	media  string // Content-Type of the body
	body   string
	answer string
	want   string // the result as JSON
}

var calls = []call{
	{"updates are sent one a line, and only what was said of them",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Update(ctx,
				client.Update{URI: "https://a.example/p?x=1&y=<2>", Version: "1182"},
				client.Update{ID: "i1", URI: "https://a.example/p#html", Type: "html", Hash: "9e1c", Token: "5f3a0000.7",
					At:   time.Date(2026, 11, 22, 2, 12, 49, 976_000_000, time.UTC),
					Deps: []client.Dep{{URI: "https://a.example/p", Seen: "1182"}, {URI: "https://a.example/q"}}, Buckets: []string{"https://a.example/p"}},
				client.Update{URI: "https://a.example/r", Action: client.ActionUpdate, Deps: []client.Dep{}, Buckets: []string{}})
		},
		"POST", "/v1/updates", "application/x-ndjson",
		`{"uri":"https://a.example/p?x=1&y=<2>","version":"1182"}
{"id":"i1","uri":"https://a.example/p#html","type":"html","hash":"9e1c","at":"2026-11-22T02:12:49.976Z","token":"5f3a0000.7","deps":[{"uri":"https://a.example/p","seen":"1182"},"https://a.example/q"],"buckets":["https://a.example/p"]}
{"uri":"https://a.example/r","action":"update","deps":[],"buckets":[]}
`,
		`{"accepted":3,"changed":2,"duplicates":1,"outdated":0,"cursor":"5f3a0000.9"}`,
		`{"accepted":3,"changed":2,"duplicates":1,"outdated":0,"cursor":"5f3a0000.9"}`},
	{"encoded updates are sent as they are",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.UpdateLines(ctx, []byte("{\"uri\": \"https://a.example/p\"}\n"))
		},
		"POST", "/v1/updates", "application/x-ndjson", "{\"uri\": \"https://a.example/p\"}\n",
		`{"accepted":1,"changed":1,"duplicates":0,"outdated":0,"cursor":"5f3a0000.1"}`,
		`{"accepted":1,"changed":1,"duplicates":0,"outdated":0,"cursor":"5f3a0000.1"}`},
	{"status asks for many",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Status(ctx, "https://a.example/p", "https://a.example/q")
		},
		"POST", "/v1/status", "application/json", `{"uris":["https://a.example/p","https://a.example/q"]}`,
		`{"resources":[{"uri":"https://a.example/p","state":"clean","known":true,"version":"2"},{"uri":"https://a.example/q","state":"stub"}]}`,
		`[{"uri":"https://a.example/p","state":"clean","known":true,"version":"2"},{"uri":"https://a.example/q","state":"stub","known":false}]`},
	{"a listing is asked for page by page, its address escaped",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Dependencies(ctx, "https://a.example/p#html", "17", 100)
		},
		"GET", "/v1/dependencies?after=17&limit=100&uri=https%3A%2F%2Fa.example%2Fp%23html", "", "",
		`{"items":[{"uri":"https://a.example/p","state":"clean"}],"next":"18"}`,
		`{"items":[{"uri":"https://a.example/p","state":"clean"}],"next":"18"}`},
	{"the other direction likewise",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Dependents(ctx, "https://a.example/p", "", 0)
		},
		"GET", "/v1/dependents?uri=https%3A%2F%2Fa.example%2Fp", "", "",
		`{"items":[]}`, `{"items":[]}`},
	{"a channel is made",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.PutChannel(ctx, "files", client.ChannelDefinition{URI: []string{}, Kind: []string{"changed"}, Public: true, Digest: true})
		},
		"PUT", "/v1/channels/files", "application/json", `{"uri":[],"kind":["changed"],"public":true,"digest":true}`,
		`{"name":"files","kind":["changed"],"public":true,"digest":true,"listed":true,"uris":0,"cursor":"5f3a0000.9"}`,
		`{"name":"files","kind":["changed"],"public":true,"digest":true,"listed":true,"uris":0,"cursor":"5f3a0000.9"}`},
	{"a channel without a list is made without one",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.PutChannel(ctx, "files", client.ChannelDefinition{Prefix: []string{"https://a.example/p"}})
		},
		"PUT", "/v1/channels/files", "application/json", `{"prefix":["https://a.example/p"]}`,
		`{"name":"files","prefix":["https://a.example/p"],"listed":false,"uris":0}`,
		`{"name":"files","prefix":["https://a.example/p"],"listed":false,"uris":0}`},
	{"a list is changed",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.EditChannel(ctx, "files", []string{"https://a.example/p?x=1&y=2"}, nil)
		},
		"PATCH", "/v1/channels/files", "application/json", `{"add":{"uri":["https://a.example/p?x=1&y=2"]}}`,
		`{"added":1,"removed":0,"cursor":"5f3a0000.9"}`, `{"added":1,"removed":0,"cursor":"5f3a0000.9"}`},
	{"a list is changed by lines",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.LoadChannel(ctx, "files", strings.NewReader("{\"add\":\"https://a.example/p\"}\n"))
		},
		"PATCH", "/v1/channels/files", "application/x-ndjson", "{\"add\":\"https://a.example/p\"}\n",
		`{"added":1,"removed":0,"cursor":"5f3a0000.9"}`, `{"added":1,"removed":0,"cursor":"5f3a0000.9"}`},
	{"channels are listed",
		func(ctx context.Context, c *client.Client) (any, error) {
			list, next, err := c.Channels(ctx, "a b", 1)
			return []any{list, next}, err
		},
		"GET", "/v1/channels?after=a+b&limit=1", "", "", `{"built_in":["all"],"items":[{"name":"files","listed":false,"uris":0}],"next":"files"}`,
		`[[{"name":"files","listed":false,"uris":0}],"files"]`},
	{"subscriptions are listed page by page",
		func(ctx context.Context, c *client.Client) (any, error) {
			list, next, err := c.Subscriptions(ctx, "ABC", 2)
			return []any{len(list), list[0].Health, list[1].ID, next}, err
		},
		"GET", "/v1/subscriptions?after=ABC&limit=2", "", "", `{"items":[{"id":"B","health":"active"},{"id":"C","health":"paused"}],"next":"C"}`,
		`[2,"active","C","C"]`},
	{"a built-in channel's name is escaped",
		func(ctx context.Context, c *client.Client) (any, error) { return c.Channel(ctx, "type:text/html") },
		"GET", "/v1/channels/type:text%2Fhtml", "", "", `{"name":"type:text/html","type":["text/html"],"listed":false,"uris":0,"built_in":true}`,
		`{"name":"type:text/html","type":["text/html"],"listed":false,"uris":0,"built_in":true}`},
	{"a list is read",
		func(ctx context.Context, c *client.Client) (any, error) {
			var all []string
			for uri, err := range c.ChannelURIs(ctx, "files") {
				if err != nil {
					return nil, err
				}
				all = append(all, uri)
			}
			return all, nil
		},
		"GET", "/v1/channels/files/uris", "", "", "{\"uri\":\"https://a.example/p\"}\n{\"uri\":\"https://a.example/q\"}\n",
		`["https://a.example/p","https://a.example/q"]`},
	{"a channel is deleted",
		func(ctx context.Context, c *client.Client) (any, error) { return c.DeleteChannel(ctx, "files") },
		"DELETE", "/v1/channels/files", "", "", `{"cursor":"5f3a0000.9"}`, `"5f3a0000.9"`},
	{"edges are edited",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.EditDependencies(ctx, "https://a.example/p#html", client.EdgeEdit{Add: []string{"https://a.example/p"}, Clear: true})
		},
		"PATCH", "/v1/dependencies", "application/json",
		`{"uri":"https://a.example/p#html","add":["https://a.example/p"],"clear":true}`, `{"cursor":"5f3a0000.9"}`, `"5f3a0000.9"`},
	{"edges out of a resource are forgotten",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.ForgetDependencies(ctx, "https://a.example/p")
		},
		"DELETE", "/v1/dependencies?uri=https%3A%2F%2Fa.example%2Fp", "", "", `{"cursor":"5f3a0000.9"}`, `"5f3a0000.9"`},
	{"edges into a resource are forgotten",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.ForgetDependents(ctx, "https://a.example/p")
		},
		"DELETE", "/v1/dependents?uri=https%3A%2F%2Fa.example%2Fp", "", "", `{"cursor":"5f3a0000.9"}`, `"5f3a0000.9"`},
	{"a token is a text",
		func(ctx context.Context, c *client.Client) (any, error) { return c.Token(ctx) },
		"GET", "/v1/token", "", "", `{"token":"5f3a0000.9"}`, `"5f3a0000.9"`},
	{"impact names its limit",
		func(ctx context.Context, c *client.Client) (any, error) { return c.Impact(ctx, "urn:x", 5) },
		"GET", "/v1/impact?limit=5&uri=urn%3Ax", "", "",
		`{"uri":"urn:x","direct":2,"transitive":3,"complete":true,"depth":2,"by_type":{"html":3}}`,
		`{"uri":"urn:x","direct":2,"transitive":3,"complete":true,"depth":2,"by_type":{"html":3}}`},
	{"a job is controlled by its id",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.ControlJob(ctx, "7", true, 100)
		},
		"POST", "/v1/jobs/7", "application/json", `{"paused":true,"rate":100}`,
		`{"id":"7","uri":"urn:x","kind":"change","reached":1,"total":4,"emitted":1,"paused":true,"rate":100,"started":"2026-11-22T02:12:49Z"}`,
		`{"id":"7","uri":"urn:x","kind":"change","reached":1,"total":4,"emitted":1,"paused":true,"rate":100,"started":"2026-11-22T02:12:49Z"}`},
}

func TestEachCallPutsTheseBytesOnTheWire(t *testing.T) {
	for _, c := range slices.Concat(calls, peerCalls) {
		t.Run(c.name, func(t *testing.T) {
			var got call
			hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = call{method: r.Method, target: r.RequestURI, media: r.Header.Get("Content-Type"), body: string(body)}
				if a := r.Header.Get("Authorization"); a != "Bearer secret" {
					t.Errorf("Authorization: %q, want the bearer token", a)
				}
				io.WriteString(w, c.answer)
			}))
			defer hub.Close()
			result, err := c.do(t.Context(), connect(t, hub, client.Options{Token: func() (string, error) { return "secret", nil }}))
			if err != nil {
				t.Fatal(err)
			}
			if got.method != c.method || got.target != c.target || got.media != c.media {
				t.Errorf("got %s %s (%s), want %s %s (%s)", got.method, got.target, got.media, c.method, c.target, c.media)
			}
			if got.body != c.body {
				t.Errorf("body: got\n%s\nwant\n%s", got.body, c.body)
			}
			if b, _ := json.Marshal(result); string(b) != c.want {
				t.Errorf("result: got\n%s\nwant\n%s", b, c.want)
			}
		})
	}
}

func connect(t *testing.T, hub *httptest.Server, o client.Options) *client.Client {
	t.Helper()
	o.HTTP = hub.Client()
	c, err := client.New(hub.URL+"/", o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve answers every request with this.
func serve(t *testing.T, status int, header map[string]string, body string) *client.Client {
	t.Helper()
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(hub.Close)
	return connect(t, hub, client.Options{})
}

func TestARefusalIsAProblemThatNamesTheItem(t *testing.T) {
	c := serve(t, 400, map[string]string{"Content-Type": "application/problem+json"},
		`{"type":"urn:freshwire:problem:bad-uri","title":"A URI is not in its canonical form","status":400,"detail":"no scheme","item":0,"field":"uri","help":"write it in full"}`)
	_, err := c.Update(t.Context(), client.Update{URI: "x"})
	var p *client.Problem
	if !errors.As(err, &p) {
		t.Fatalf("got %v, want a *Problem", err)
	}
	if p.Type != "urn:freshwire:problem:bad-uri" || p.Status != 400 || p.Item == nil || *p.Item != 0 || p.Help != "write it in full" {
		t.Errorf("got %+v", p)
	}
	if got, want := err.Error(), "item 0: uri: no scheme"; got != want {
		t.Errorf("text: got %q, want %q", got, want)
	}
}

func TestAProxysErrorPageIsAProblemWithItsStatus(t *testing.T) {
	c := serve(t, 502, map[string]string{"Content-Type": "text/html", "Retry-After": "7"}, "<h1>Bad gateway</h1>")
	_, err := c.Token(t.Context())
	var p *client.Problem
	if !errors.As(err, &p) || p.Status != 502 || p.Title != "Bad Gateway" || p.RetryAfter != 7*time.Second {
		t.Errorf("got %#v, want a *Problem of 502 with Retry-After 7 s", err)
	}
}

func TestAnAnswerThatIsNotAHubsIsRecognised(t *testing.T) {
	c := serve(t, 200, nil, "<h1>It works!</h1>")
	if _, err := c.Token(t.Context()); !errors.Is(err, client.ErrNotHub) {
		t.Errorf("got %v, want ErrNotHub", err)
	}
}

func TestOnlyAnHTTPAddressNamesAHub(t *testing.T) {
	for _, s := range []string{"", "127.0.0.1:8420", "ftp://a.example", "http://", "http://a.example?x=1", "http://a b"} {
		if _, err := client.New(s, client.Options{}); err == nil {
			t.Errorf("New(%q) succeeded, want an error", s)
		}
	}
	c, err := client.New("https://hub.example/freshwire/", client.Options{})
	if err != nil || c.URL() != "https://hub.example/freshwire" {
		t.Errorf("got %v, %v, want the address without its last slash", c, err)
	}
}

func TestAWholeListingIsReadPageByPage(t *testing.T) {
	pages := map[string]client.Page{
		"":  {Items: []client.Item{{URI: "a"}, {URI: "b"}}, Next: "b"},
		"b": {Items: []client.Item{{URI: "c"}}},
	}
	var got []string
	for item, err := range client.Items(func(after string) (client.Page, error) { return pages[after], nil }) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, item.URI)
	}
	if want := []string{"a", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAListingThatBreaksOffSaysSo(t *testing.T) {
	broken := errors.New("broken")
	var got []string
	for item, err := range client.Items(func(after string) (client.Page, error) {
		if after == "" {
			return client.Page{Items: []client.Item{{URI: "a"}}, Next: "a"}, nil
		}
		return client.Page{}, broken
	}) {
		if err != nil {
			got = append(got, err.Error())
			continue
		}
		got = append(got, item.URI)
	}
	if want := []string{"a", "broken"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestADependencyIsReadInBothForms(t *testing.T) {
	var u client.Update
	if err := json.Unmarshal([]byte(`{"uri":"x","deps":["a",{"uri":"b","seen":"2"}]}`), &u); err != nil {
		t.Fatal(err)
	}
	if want := []client.Dep{{URI: "a"}, {URI: "b", Seen: "2"}}; !slices.Equal(u.Deps, want) {
		t.Errorf("got %v, want %v", u.Deps, want)
	}
	if err := json.Unmarshal([]byte(`{"uri":"x","deps":[7]}`), &u); err == nil {
		t.Error("a number passed for a dependency")
	}
}

func TestAFilterMatchesWhatTheHubWouldLetPass(t *testing.T) {
	n := client.Notice{URI: "https://a.example/wiki/Berlin#html", Kind: client.KindRefresh, Type: "html", Lane: "prompt",
		Buckets: []string{"https://a.example/wiki/Berlin"}}
	for _, c := range []struct {
		name   string
		filter client.Filter
		want   bool
	}{
		{"the empty filter lets all pass", client.Filter{}, true},
		{"its own address", client.Filter{URIs: []string{"x", n.URI}}, true},
		{"the page is another resource", client.Filter{URIs: []string{"https://a.example/wiki/Berlin"}}, false},
		{"a folder above it", client.Filter{Prefixes: []string{"https://a.example/wiki/"}}, true},
		{"its page as prefix", client.Filter{Prefixes: []string{"https://a.example/wiki/Berlin"}}, true},
		{"half a segment is no prefix", client.Filter{Prefixes: []string{"https://a.example/wiki/Ber"}}, false},
		{"a scheme is no prefix", client.Filter{Prefixes: []string{"https://"}}, false},
		{"its host, whatever the case", client.Filter{Hosts: []string{"A.example"}}, true},
		{"another host", client.Filter{Hosts: []string{"b.example"}}, false},
		{"address or host", client.Filter{URIs: []string{"x"}, Hosts: []string{"a.example"}}, true},
		{"host and kind", client.Filter{Hosts: []string{"a.example"}, Kinds: []string{client.KindChanged}}, false},
		{"its type", client.Filter{Types: []string{"file", "html"}}, true},
		{"its lane", client.Filter{Lanes: []string{"bulk"}}, false},
		{"its bucket", client.Filter{Buckets: []string{"https://a.example/wiki/Berlin"}}, true},
		{"another bucket", client.Filter{Buckets: []string{"https://a.example/wiki/Bern"}}, false},
	} {
		if got := c.filter.Match(&n); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	isbn := client.Notice{URI: "urn:isbn:1"}
	for prefix, want := range map[string]bool{"urn:isbn": true, "urn:isbn:": true, "urn:is": false} {
		if got := (&client.Filter{Prefixes: []string{prefix}}).Match(&isbn); got != want {
			t.Errorf("%s under %s: got %v, want %v", isbn.URI, prefix, got, want)
		}
	}
}

func TestAResultAddsUp(t *testing.T) {
	r := client.Result{Accepted: 1, Changed: 1, Cursor: "a"}
	r.Add(client.Result{Accepted: 3, Duplicates: 2, Outdated: 1, Cursor: "b"})
	if want := (client.Result{Accepted: 4, Changed: 1, Duplicates: 2, Outdated: 1, Cursor: "b"}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

func TestALoadWhoseLinesFailSaysWhatFailed(t *testing.T) {
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("the hub takes a load that broke off for whole")
		}
	}))
	defer hub.Close()
	broken := errors.New("broken")
	lines := io.MultiReader(strings.NewReader("{\"add\":\"https://a.example/p\"}\n"), iotest.ErrReader(broken))
	_, err := connect(t, hub, client.Options{}).LoadChannel(t.Context(), "files", lines)
	if err != broken {
		t.Errorf("got %v, want the error of the lines as it is", err)
	}
}

func TestAListThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	for _, sent := range []string{"", "{\"uri\":\"https://a.example/p\"}\n", "{\"uri\":\"https://a.example/p\"}\n{\"uri\":\"https://a.ex"} {
		hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, sent)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
		defer hub.Close()
		var got []string
		var last error
		for uri, err := range connect(t, hub, client.Options{}).ChannelURIs(t.Context(), "files") {
			if last = err; err == nil {
				got = append(got, uri)
			}
		}
		if last == nil || errors.Is(last, client.ErrNotHub) || len(got) != strings.Count(sent, "\n") {
			t.Errorf("after %q: got %v, %v, want the whole lines and what broke", sent, got, last)
		}
	}
}

func TestAListThatNoHubWouldGiveIsRecognised(t *testing.T) {
	for _, body := range []string{"<h1>It works!</h1>", strings.Repeat("x", 1<<20)} {
		c := serve(t, 200, nil, body)
		for _, err := range c.ChannelURIs(t.Context(), "files") {
			if !errors.Is(err, client.ErrNotHub) {
				t.Errorf("%.20s: got %v, want ErrNotHub", body, err)
			}
		}
	}
	for _, err := range serve(t, 404, nil, "").ChannelURIs(t.Context(), "files") {
		if p := (*client.Problem)(nil); !errors.As(err, &p) || p.Status != 404 {
			t.Errorf("got %v, want a *Problem of 404", err)
		}
	}
}
