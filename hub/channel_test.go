package hub

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/freshwire/freshwire/hub/client"
)

// channelAnswer is what is read of an answer about a channel.
type channelAnswer struct {
	Name    string
	Listed  bool
	URIs    int
	Prefix  []string
	Kind    []string
	Public  bool
	BuiltIn bool `json:"built_in"`
	Cursor  string
}

func TestAChannelIsMadeShownChangedAndDeleted(t *testing.T) {
	h := startHub(t, nil)
	expect := func(what string, a *reply, status int) (got channelAnswer) {
		t.Helper()
		if a.status != status {
			t.Fatalf("%s: got %d %s, want %d", what, a.status, a.body, status)
		}
		if err := json.Unmarshal(a.body, &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	made := expect("PUT", h.do("PUT", "/v1/channels/files", `{"uri":["https://a.example/1","https://a.example/2"],"kind":["changed"],"public":true}`), 201)
	if made.Name != "files" || !made.Listed || made.URIs != 2 || !made.Public || len(made.Kind) != 1 || made.Cursor == "" {
		t.Errorf("made %+v", made)
	}
	if shown := expect("GET", h.do("GET", "/v1/channels/files", ""), 200); fmt.Sprint(shown) != fmt.Sprint(made) {
		t.Errorf("shown as %+v, made as %+v", shown, made)
	}
	a := h.do("PATCH", "/v1/channels/files", `{"add":{"uri":["https://a.example/2","https://a.example/3"]},"remove":{"uri":["https://a.example/1"]}}`)
	if !strings.HasPrefix(string(a.body), `{"added":1,"removed":1,"cursor":`) {
		t.Errorf("PATCH: got %d %s", a.status, a.body)
	}
	a = h.do("GET", "/v1/channels/files/uris", "", "Accept", typeNDJSON)
	if string(a.body) != "{\"uri\":\"https://a.example/2\"}\n{\"uri\":\"https://a.example/3\"}\n" {
		t.Errorf("the list is %s", a.body)
	}
	if a = h.do("GET", "/v1/channels/files/uris?limit=1", ""); !strings.HasPrefix(string(a.body), `{"uris":["https://a.example/2"],"next":`) {
		t.Errorf("a page is %s", a.body)
	}
	if again := expect("PUT again", h.do("PUT", "/v1/channels/files", `{"prefix":["https://a.example"]}`), 200); again.Listed || again.URIs != 0 || len(again.Prefix) != 1 {
		t.Errorf("replaced by %+v", again)
	}
	for _, name := range []string{"all", "host:a.example", "type:html"} {
		if got := expect(name, h.do("GET", "/v1/channels/"+name, ""), 200); !got.BuiltIn {
			t.Errorf("%s is not built in: %+v", name, got)
		}
	}
	if a := h.do("GET", "/v1/channels", ""); !bytes.Contains(a.body, []byte(`"items":[{"name":"files"`)) {
		t.Errorf("channels: %s", a.body)
	}
	expect("DELETE", h.do("DELETE", "/v1/channels/files", ""), 200)
	if a := h.do("GET", "/v1/channels/files", ""); a.status != 404 {
		t.Errorf("after its end: %d %s", a.status, a.body)
	}
}

func TestChannelRequestsThatCannotBeMeantAreRefused(t *testing.T) {
	h := startHub(t, nil)
	if a := h.do("PUT", "/v1/channels/plain", `{}`); a.status != 201 {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	many := strings.Repeat(`"https://a.example/",`, 6000)
	for _, c := range []struct{ method, path, body, slug string }{
		{"PUT", "/v1/channels/all", `{}`, "fixed-channel"},
		{"PUT", "/v1/channels/host:a.example", `{}`, "bad-value"},
		{"PUT", "/v1/channels/Files", `{}`, "bad-value"},
		{"PUT", "/v1/channels/x", `{"uri":["https://A.example/"]}`, "bad-uri"},
		{"PUT", "/v1/channels/x", `{"prefix":["berlin"]}`, "bad-filter"},
		{"PUT", "/v1/channels/x", `{"kind":["reset"]}`, "bad-filter"},
		{"PUT", "/v1/channels/x", `{"uris":[]}`, "unknown-field"},
		{"PUT", "/v1/channels/x", `[]`, "bad-value"},
		{"PUT", "/v1/channels/x?public=1", `{}`, "bad-query"},
		{"PATCH", "/v1/channels/plain", `{"add":{"uri":["https://a.example/"]}}`, "fixed-channel"},
		{"PATCH", "/v1/channels/all", `{"add":{"uri":["https://a.example/"]}}`, "fixed-channel"},
		{"PATCH", "/v1/channels/x", `{"add":{"uri":["https://a.example/"]}}`, "unknown-channel"},
		{"PATCH", "/v1/channels/plain", `{"add":{"prefix":["https://a.example/"]}}`, "unknown-field"},
		{"PATCH", "/v1/channels/plain", `{"add":{"uri":[` + strings.TrimSuffix(many, ",") + `]},"remove":{"uri":[` + strings.TrimSuffix(many, ",") + `]}}`, "over-limit"},
		{"DELETE", "/v1/channels/x", ``, "unknown-channel"},
		{"DELETE", "/v1/channels/type:html", ``, "fixed-channel"},
		{"GET", "/v1/channels/x", ``, "unknown-channel"},
		{"GET", "/v1/channels/plain/uris", ``, "fixed-channel"},
		{"GET", "/v1/channels?limit=0", ``, "bad-query"},
		{"GET", "/v1/stream?channel=x", ``, "unknown-channel"},
		{"GET", "/v1/stream?channel=plain&kind=changed", ``, "bad-filter"},
	} {
		a := h.do(c.method, c.path, c.body)
		if !bytes.Contains(a.body, []byte(problemBase+c.slug+`"`)) {
			t.Errorf("%s %s %.60s: got %d %.300s, want %s", c.method, c.path, c.body, a.status, a.body, c.slug)
		}
	}
}

func TestAListOfAnyLengthIsTakenInByLines(t *testing.T) {
	h := startHub(t, nil)
	var lines strings.Builder
	for i := range 25_000 {
		fmt.Fprintf(&lines, "{\"add\":\"https://a.example/wiki/P%d\"}\n", i)
	}
	lines.WriteString("\n{\"remove\":\"https://a.example/wiki/P7\"}\n")
	var zipped, zstded bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write([]byte(lines.String()))
	z.Close()
	e, err := zstd.NewWriter(&zstded)
	if err != nil {
		t.Fatal(err)
	}
	e.Write([]byte(lines.String()))
	e.Close()
	for name, body := range map[string]string{"": lines.String(), "gzip": zipped.String(), "zstd": zstded.String()} {
		channel := "/v1/channels/list" + name
		h.do("PUT", channel, `{"uri":[]}`)
		a := h.do("PATCH", channel, body, "Content-Type", typeNDJSON, "Content-Encoding", name)
		if !strings.HasPrefix(string(a.body), `{"added":25000,"removed":1,`) {
			t.Errorf("%q: got %d %s", name, a.status, a.body)
		}
		if a = h.do("GET", channel, ""); !bytes.Contains(a.body, []byte(`"uris":24999`)) {
			t.Errorf("%q: %s", name, a.body)
		}
	}
	bad := strings.Replace(lines.String(), "https://a.example/wiki/P12345\"", "berlin\"", 1)
	h.do("PUT", "/v1/channels/bad", `{"uri":[]}`)
	a := h.do("PATCH", "/v1/channels/bad", bad, "Content-Type", typeNDJSON)
	if !bytes.Contains(a.body, []byte(`"item":12345`)) || !bytes.Contains(a.body, []byte("the 10000 lines before are kept")) {
		t.Errorf("a bad line: got %d %s", a.status, a.body)
	}
	if a = h.do("GET", "/v1/channels/bad", ""); !bytes.Contains(a.body, []byte(`"uris":10000`)) {
		t.Errorf("after a bad line: %s", a.body)
	}
}

func TestAChannelOutlivesTheHubAndItsStreamSaysWhatItWasAtEachPosition(t *testing.T) {
	dir := t.TempDir()
	run := func() (*testHub, func()) {
		cfg := DefaultConfig()
		cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", dir, minCache
		h, err := New(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		transport := &http.Transport{}
		return &testHub{h, t, &http.Client{Transport: transport}}, func() {
			transport.CloseIdleConnections()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	h, stop := run()
	edit := func(version int) string {
		a := h.do("POST", "/v1/updates", fmt.Sprintf(`[{"uri":"https://a.example/1","version":"%[1]d"},{"uri":"https://a.example/2","version":"%[1]d"}]`, version))
		var r struct{ Cursor string }
		if err := json.Unmarshal(a.body, &r); err != nil {
			t.Fatal(err)
		}
		return r.Cursor
	}
	edit(100)
	h.do("PUT", "/v1/channels/files", `{"uri":["https://a.example/1"]}`)
	edit(101)
	h.do("PATCH", "/v1/channels/files", `{"add":{"uri":["https://a.example/2"]},"remove":{"uri":["https://a.example/1"]}}`)
	edit(102)
	h.do("PUT", "/v1/channels/files", `{"prefix":["https://a.example"]}`)
	end := edit(103)
	stop()
	h, stop = run()
	defer stop()
	hub, err := client.New(h.URL(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	for n, err := range hub.Stream(ctx, client.StreamOptions{Channel: "files", Since: time.Unix(0, 0), Until: end}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, n.URI[len(n.URI)-1:]+" "+n.Version)
	}
	if want := "[1 101 2 102 1 103 2 103]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
