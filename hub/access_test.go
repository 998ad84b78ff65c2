package hub

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/auth"
)

const (
	testIssuer   = "https://issuer.example.org"
	testAudience = "https://hub.example.org"
)

// A keyedHub is a hub that asks for tokens, and the issuer it believes.
type keyedHub struct {
	*testHub
	key *auth.SigningKey
}

func startKeyedHub(t testing.TB, change func(*Config)) *keyedHub {
	t.Helper()
	return startLoggedHub(t, slog.New(slog.DiscardHandler), change)
}

// startLoggedHub is startKeyedHub with a log.
func startLoggedHub(t testing.TB, log *slog.Logger, change func(*Config)) *keyedHub {
	t.Helper()
	key, err := auth.GenerateKey(auth.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	set, err := key.AddTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(name, set, 0o600); err != nil {
		t.Fatal(err)
	}
	h := startHubLogging(t, log, func(c *Config) {
		c.Auth = AuthConfig{JWKS: name, Issuer: testIssuer, Audience: testAudience}
		if change != nil {
			change(c)
		}
	})
	return &keyedHub{h, key}
}

// token makes a token that allows r.
func (h *keyedHub) token(r auth.Rights) string {
	h.t.Helper()
	token, err := h.key.Mint(auth.Grant{Issuer: testIssuer, Audience: testAudience, TTL: time.Hour, Rights: r}, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	return token
}

// as sends a request with a token for r.
func (h *keyedHub) as(r auth.Rights, method, path, body string, header ...string) *reply {
	h.t.Helper()
	return h.do(method, path, body, append(header, "Authorization", "Bearer "+h.token(r))...)
}

var (
	root   = auth.Rights{Subject: "root", Admin: true}
	enwiki = auth.Rights{Subject: "enwiki", Publish: auth.Prefixes{"https://en.example.org/wiki"}, Subscribe: auth.Prefixes{"https://en.example.org/wiki"}}
	dewiki = auth.Rights{Subject: "dewiki", Publish: auth.Prefixes{"https://secret.example.org"}, Subscribe: auth.Prefixes{"https://secret.example.org"}}
)

// foreign are spellings of what enwiki may not touch: of other hosts and paths, and
// of its own prefix used to leave it.
var foreign = []string{
	"https://de.example.org/wiki/A",
	"http://en.example.org/wiki/A",
	"https://en.example.org/wikitext/A",
	"https://en.example.org/w/A",
	"https://en.example.org",
	"https://en.example.org/",
	"https://en.example.org:8443/wiki/A",
	"https://en.example.org:443/wiki/A",
	"https://EN.example.org/wiki/A",
	"HTTPS://de.example.org/wiki/A",
	"https://en.example.org.evil.example/wiki/A",
	"https://evil-en.example.org/wiki/A",
	"https://en.example.org@evil.example/wiki/A",
	"https://evil.example\\@en.example.org/wiki/A",
	"https://evil.example/https://en.example.org/wiki/A",
	"https://en.example.org/wiki/../w/A",
	"https://en.example.org/wiki/%2e%2e/w/A",
	"https://en.example.org/wiki/..%2fw/A/../../x",
	"https://en.example.org/wiki/.%2E/w/A",
	"https://en.example.org//wiki/A",
	"https://en.example.org/%77iki/A",
	"https://en.example.org./wiki/A",
	"https://en%2eexample.org/wiki/A",
	"https://ｅn.example.org/wiki/A",
	"https://en.example.org\t/wiki/A",
	" https://en.example.org/wiki/A",
	"//en.example.org/wiki/A",
	"urn:en.example.org:wiki",
	"https:/en.example.org/wiki/A",
	"https://en.example.org\u0000/wiki/A",
	"https://[::1]/wiki/A",
}

func TestAForeignURIIsRefusedHoweverItIsSpelled(t *testing.T) {
	h := startKeyedHub(t, nil)
	if len(foreign) < 15 {
		t.Fatalf("%d spellings", len(foreign))
	}
	before := h.store.Token()
	for _, uri := range foreign {
		quoted, _ := json.Marshal(uri)
		own := `{"uri":"https://en.example.org/wiki/Own","version":"1"}`
		for name, a := range map[string]*reply{
			"an update":           h.as(enwiki, "POST", "/v1/updates", `{"uri":`+string(quoted)+`,"version":"1"}`),
			"a delete":            h.as(enwiki, "POST", "/v1/updates", `{"uri":`+string(quoted)+`,"action":"delete"}`),
			"one of a batch":      h.as(enwiki, "POST", "/v1/updates", "["+own+`,{"uri":`+string(quoted)+`,"version":"1"}]`),
			"an edit of edges":    h.as(enwiki, "PATCH", "/v1/dependencies", `{"uri":`+string(quoted)+`,"add":["https://en.example.org/wiki/Own"]}`),
			"forgetting of edges": h.as(enwiki, "DELETE", "/v1/dependencies?uri="+url.QueryEscape(uri), ""),
			"a look at it":        h.as(enwiki, "GET", "/v1/resource?uri="+url.QueryEscape(uri), ""),
			"a look at many":      h.as(enwiki, "POST", "/v1/status", `{"uris":["https://en.example.org/wiki/Own",`+string(quoted)+`]}`),
		} {
			var p Problem
			if err := json.Unmarshal(a.body, &p); err != nil || p.Type != problemBase+"bad-uri" && p.Type != problemBase+"forbidden" && p.Type != problemBase+"bad-value" {
				t.Errorf("%s of %q answers %d %s", name, uri, a.status, a.body)
			}
		}
	}
	if after := h.store.Token(); after != before {
		t.Errorf("the journal went from %s to %s", before, after)
	}
	var own struct{ Resources []statusShape }
	json.Unmarshal(h.as(root, "POST", "/v1/status", `{"uris":["https://en.example.org/wiki/Own"]}`).body, &own)
	if len(own.Resources) != 1 || own.Resources[0].Known {
		t.Errorf("a refused batch left %+v", own)
	}
}

func TestWhoMayReadMayNotWriteAndTheOtherWayRound(t *testing.T) {
	h := startKeyedHub(t, nil)
	reader := auth.Rights{Subject: "mirror", Subscribe: auth.Prefixes{"*"}}
	writer := auth.Rights{Subject: "wiki", Publish: auth.Prefixes{"*"}}
	const uri = "https://en.example.org/wiki/A"
	h.as(writer, "POST", "/v1/updates", `{"uri":"`+uri+`","version":"1"}`)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/updates", `{"uri":"` + uri + `","version":"2"}`},
		{"PATCH", "/v1/dependencies", `{"uri":"` + uri + `","clear":true}`},
		{"DELETE", "/v1/dependencies?uri=" + uri, ""},
	} {
		if a, b := h.as(reader, c.method, c.path, c.body), h.as(writer, c.method, c.path, c.body); a.status != 403 || b.status != 200 {
			t.Errorf("%s %s: %d to who reads and %d to who writes", c.method, c.path, a.status, b.status)
		}
	}
	for _, path := range []string{"/v1/resource", "/v1/dependencies", "/v1/dependents", "/v1/why", "/v1/impact", "/v1/stream"} {
		a := h.as(writer, "GET", path+"?uri="+uri, "")
		if a.status != 403 {
			t.Errorf("%s: %d to who writes", path, a.status)
		}
	}
}

func TestATenantChangesItsOwn(t *testing.T) {
	h := startKeyedHub(t, nil)
	for _, uri := range []string{"https://en.example.org/wiki", "https://en.example.org/wiki/A", "https://en.example.org/wiki/A#html"} {
		if a := h.as(enwiki, "POST", "/v1/updates", `{"uri":"`+uri+`","version":"1","aspects":["*"],"deps":["https://secret.example.org/T"]}`); a.status != 200 {
			t.Errorf("%s: %d %s", uri, a.status, a.body)
		}
	}
	if a := h.as(enwiki, "PATCH", "/v1/dependencies", `{"uri":"https://en.example.org/wiki/A","clear":true}`); a.status != 200 {
		t.Errorf("an edit: %d %s", a.status, a.body)
	}
}

func TestUpdateIDsOfTenantsDoNotMeet(t *testing.T) {
	h := startKeyedHub(t, nil)
	other := enwiki
	other.Subject = "enwiki-jobs"
	update := `{"id":"1","uri":"https://en.example.org/wiki/A","version":"%"}`
	for i, who := range []auth.Rights{enwiki, other, enwiki} {
		var got resultShape
		h.as(who, "POST", "/v1/updates", strings.ReplaceAll(update, "%", string(rune('1'+i)))).decode(t, &got)
		if want := i / 2; got.Duplicates != want {
			t.Errorf("update %d of %s: %d duplicates, want %d", i, who.Subject, got.Duplicates, want)
		}
	}
}

// A secret wiki's template makes a page of the open one stale, and the other way
// round. Nothing that either may be shown tells of the other's URIs.
func TestAReaderIsShownNothingOfWhatItMayNotSee(t *testing.T) {
	h := startKeyedHub(t, func(c *Config) { c.Work = []string{"html"} })
	for _, body := range []string{
		`{"uri":"https://secret.example.org/T","version":"1","id":"hidden-id"}`,
		`{"uri":"https://en.example.org/wiki/A","version":"1"}`,
		`{"uri":"https://en.example.org/wiki/A#html","type":"html","hash":"a","deps":[{"uri":"https://secret.example.org/T","seen":"1"},{"uri":"https://en.example.org/wiki/A","seen":"1"}]}`,
		`{"uri":"https://secret.example.org/P#html","type":"html","hash":"p","deps":[{"uri":"https://en.example.org/wiki/A","seen":"1"}]}`,
		`{"uri":"https://secret.example.org/Q","type":"html","hash":"q","deps":["https://en.example.org/wiki/A#html"]}`,
		`{"uri":"https://en.example.org/wiki/B","type":"html","hash":"q","deps":["https://secret.example.org/P#html"]}`,
		`{"uri":"https://secret.example.org/T","version":"2","id":"hidden-id2"}`,
	} {
		if a := h.as(root, "POST", "/v1/updates", body); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	q := func(path, uri string) string { return path + "?uri=" + url.QueryEscape(uri) }
	mine := func(a *reply, want string) {
		t.Helper()
		if a.status != 200 || !strings.Contains(string(a.body), want) {
			t.Errorf("got %d %s, want 200 and %q", a.status, a.body, want)
		}
		if strings.Contains(string(a.body), "secret.example.org") || strings.Contains(string(a.body), "hidden-id") {
			t.Errorf("it shows what it may not: %s", a.body)
		}
	}
	const a = "https://en.example.org/wiki/A"
	mine(h.as(enwiki, "GET", q("/v1/resource", a+"#html"), ""), `"state":"ready"`)
	mine(h.as(enwiki, "POST", "/v1/status", `{"uris":["`+a+`"]}`), a)
	mine(h.as(enwiki, "GET", q("/v1/dependencies", a+"#html"), ""), `{"items":[{"uri":"`+a+`"`)
	mine(h.as(enwiki, "GET", q("/v1/dependencies", a+"#html"), "", "Accept", typeNDJSON), a)
	mine(h.as(enwiki, "GET", q("/v1/dependents", a), ""), a+"#html")
	mine(h.as(enwiki, "GET", q("/v1/dependents", a), "", "Accept", typeNDJSON), a+"#html")
	mine(h.as(enwiki, "GET", q("/v1/why", a+"#html"), ""), "something changed that is not shown to you")
	mine(h.as(enwiki, "GET", q("/v1/why", "https://en.example.org/wiki/B"), ""), "https://en.example.org/wiki/B")
	mine(h.as(enwiki, "GET", q("/v1/impact", a), ""), `"by_host":{"en.example.org":`)
	mine(h.as(enwiki, "GET", "/v1/jobs", ""), `"jobs":[]`)
	mine(h.as(enwiki, "GET", "/v1/token", ""), "token")
	theirs := h.as(dewiki, "GET", q("/v1/dependencies", "https://secret.example.org/P#html"), "")
	if theirs.status != 200 || strings.Contains(string(theirs.body), "en.example.org") {
		t.Errorf("the other tenant is answered %d %s", theirs.status, theirs.body)
	}
	all := h.as(root, "GET", q("/v1/why", a+"#html"), "")
	if !strings.Contains(string(all.body), "secret.example.org/T changed to 2") {
		t.Errorf("an administrator is not told the cause: %s", all.body)
	}
	for _, path := range []string{"/v1/resource", "/v1/dependencies", "/v1/dependents", "/v1/why", "/v1/impact"} {
		there, not := h.as(enwiki, "GET", q(path, "https://secret.example.org/T"), ""), h.as(enwiki, "GET", q(path, "https://secret.example.org/U"), "")
		if there.status != 403 || not.status != 403 ||
			strings.ReplaceAll(string(there.body), "org/T", "org/U") != string(not.body) {
			t.Errorf("%s tells what is there from what is not: %d %s and %d %s", path, there.status, there.body, not.status, not.body)
		}
	}
}

func TestWhoIsLetIn(t *testing.T) {
	h := startKeyedHub(t, nil)
	good := "Bearer " + h.token(enwiki)
	for _, c := range []struct {
		name, method, path, body, authorization string
		want                                    int
		slug                                    string
	}{
		{"a stranger's update", "POST", "/v1/updates", `{"uri":"https://en.example.org/wiki/A","version":"1"}`, "", 401, "unauthorized"},
		{"a stranger's look", "GET", "/v1/token", "", "", 401, "unauthorized"},
		{"a stranger's look at metrics", "GET", "/metrics", "", "", 401, "unauthorized"},
		{"a stranger's stream", "GET", "/v1/stream", "", "", 401, "unauthorized"},
		{"a stranger's look at health", "GET", "/healthz", "", "", 200, ""},
		{"a stranger's look at the description", "GET", "/openapi.json", "", "", 200, ""},
		{"a holder's look", "GET", "/v1/token", "", good, 200, ""},
		{"bearer in small letters", "GET", "/v1/token", "", "b" + good[1:], 200, ""},
		{"a holder's look at metrics", "GET", "/metrics", "", good, 403, "forbidden"},
		{"a holder at a job", "POST", "/v1/jobs/1", `{"paused":true}`, good, 403, "forbidden"},
		{"a holder's reload", "POST", "/v1/reload", "", good, 403, "forbidden"},
		{"a holder's brake", "POST", "/v1/pause", `{"paused":true}`, good, 403, "forbidden"},
		{"a holder's look at the brake", "GET", "/v1/pause", "", good, 403, "forbidden"},
		{"a holder's look at dead letters", "GET", "/v1/deadletters", "", good, 403, "forbidden"},
		{"a holder dropping dead letters", "POST", "/v1/deadletters", `{"action":"drop","filter":{}}`, good, 403, "forbidden"},
		{"a holder at a dead letter", "DELETE", "/v1/deadletters/x", "", good, 403, "forbidden"},
		{"a holder forgetting what others made", "DELETE", "/v1/dependents?uri=https://en.example.org/wiki/A", "", good, 403, "forbidden"},
		{"another scheme", "GET", "/v1/token", "", "Basic cm9vdDpyb290", 401, "bad-token"},
		{"no token after Bearer", "GET", "/v1/token", "", "Bearer ", 401, "bad-token"},
		{"a token that was changed", "GET", "/v1/token", "", good[:len(good)-4] + "AAAA", 401, "bad-token"},
		{"two tokens in one header", "GET", "/v1/token", "", good + ", " + good, 401, "bad-token"},
		{"a bad token where none is needed", "GET", "/healthz", "", "Bearer x", 401, "bad-token"},
		{"a token in the query", "GET", "/v1/token?access_token=" + good[7:], "", "", 401, "unauthorized"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := h.do(c.method, c.path, c.body, "Authorization", c.authorization)
			var p Problem
			if json.Unmarshal(a.body, &p); a.status != c.want || c.slug != "" && p.Type != problemBase+c.slug {
				t.Errorf("got %d %s, want %d %s", a.status, a.body, c.want, c.slug)
			}
			if got := a.header.Get("WWW-Authenticate"); (c.want == 401) != strings.HasPrefix(got, "Bearer") {
				t.Errorf("WWW-Authenticate: %q", got)
			}
		})
	}
	req, _ := http.NewRequest("GET", h.URL()+"/v1/token", nil)
	req.Header["Authorization"] = []string{good, good}
	resp, err := h.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("two Authorization headers: %d", resp.StatusCode)
	}
	if text := string(h.as(root, "GET", "/metrics", "").body); !strings.Contains(text, `freshwire_tokens_refused_total{reason="signature"} 1`) {
		t.Error("refused tokens are not counted")
	}
}

func TestKeysAreFetchedFromTheirIssuer(t *testing.T) {
	key, err := auth.GenerateKey(auth.ES256)
	if err != nil {
		t.Fatal(err)
	}
	set, err := key.AddTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	var away atomic.Bool
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		w.Write(set)
	}))
	defer issuer.Close()
	allow := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	token, err := key.Mint(auth.Grant{Issuer: testIssuer, Audience: testAudience, TTL: time.Hour, Rights: enwiki}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		away  bool
		allow []netip.Prefix
		want  int
	}{{"an issuer", false, allow, 200}, {"one that is away", true, allow, 503}, {"one in a network that is not allowed", false, nil, 503}} {
		away.Store(c.away)
		h := startHub(t, func(cfg *Config) {
			cfg.Auth = AuthConfig{JWKS: issuer.URL + "/keys", JWKSAllow: c.allow, Issuer: testIssuer, Audience: testAudience}
		})
		if a := h.do("GET", "/v1/token", "", "Authorization", "Bearer "+token); a.status != c.want || c.want == 503 && a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s, want %d", c.name, a.status, a.body, c.want)
		}
	}
}

// frames reads what a stream sends until a text has come.
func (h *keyedHub) frames(r *auth.Rights, query, until string) string {
	h.t.Helper()
	req, err := http.NewRequest("GET", h.URL()+"/v1/stream?"+query, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if r != nil {
		req.Header.Set("Authorization", "Bearer "+h.token(*r))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got []byte
	for b := make([]byte, 4096); !bytes.Contains(got, []byte(until)); {
		n, err := resp.Body.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			h.t.Fatalf("%s ends with %v after %d %s", query, err, resp.StatusCode, got)
		}
	}
	return string(got)
}

func TestAStreamShowsItsReaderWhatItMaySee(t *testing.T) {
	h := startKeyedHub(t, nil)
	from := h.store.Token().String()
	for _, body := range []string{
		`{"uri":"https://secret.example.org/T","version":"1","id":"hidden-id"}`,
		`{"uri":"https://en.example.org/wiki/A#html","type":"html","hash":"a","deps":[{"uri":"https://secret.example.org/T","seen":"1"}]}`,
		`{"uri":"https://secret.example.org/T","version":"2","id":"hidden-id2"}`,
		`{"uri":"https://en.example.org/wiki/B","version":"1"}`,
	} {
		h.as(root, "POST", "/v1/updates", body)
	}
	got := h.frames(&enwiki, "since="+from, "wiki/B")
	if strings.Contains(got, "secret.example.org") || strings.Contains(got, "hidden-id") || !strings.Contains(got, `"kind":"refresh","uri":"https://en.example.org/wiki/A#html"`) {
		t.Errorf("enwiki gets %s", got)
	}
	if got := h.frames(&root, "since="+from, "wiki/B"); !strings.Contains(got, `"cause":{"uri":"https://secret.example.org/T"`) {
		t.Errorf("an administrator gets %s", got)
	}
	for query, want := range map[string]int{"uri=https://secret.example.org/T": 403, "prefix=https://secret.example.org": 403, "channel=none": 404} {
		if a := h.as(enwiki, "GET", "/v1/stream?"+query, ""); a.status != want {
			t.Errorf("%s: %d %s, want %d", query, a.status, a.body, want)
		}
	}
	if a := h.do("GET", "/v1/stream?channel=none", ""); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("a stranger asking for a channel: %d %s", a.status, a.body)
	}
}

func TestChannelsAreTheirOwnersToChangeAndEverybodysToReadIfPublic(t *testing.T) {
	h := startKeyedHub(t, nil)
	reader := auth.Rights{Subject: "mirror", Subscribe: auth.Prefixes{"https://en.example.org"}}
	stranger := auth.Rights{}
	const own, secret = `"https://en.example.org/wiki/A"`, `"https://secret.example.org/T"`
	for i, c := range []struct {
		who          auth.Rights
		method, path string
		body         string
		want         int
	}{
		{stranger, "PUT", "mine", `{"uri":[]}`, 401},
		{enwiki, "PUT", "mine", `{"uri":[` + own + `]}`, 201},
		{enwiki, "PUT", "theirs", `{"uri":[` + secret + `]}`, 403},
		{enwiki, "PUT", "open", `{"prefix":["https://en.example.org/wiki"],"public":true}`, 403},
		{enwiki, "PUT", "others", `{"uri":[],"owner":"dewiki"}`, 403},
		{enwiki, "PATCH", "mine", `{"add":{"uri":[` + secret + `]}}`, 403},
		{enwiki, "PATCH", "mine", `{"add":{"uri":["https://en.example.org/wiki/B"]},"remove":{"uri":[` + secret + `]}}`, 200},
		{dewiki, "PUT", "mine", `{"uri":[]}`, 403},
		{dewiki, "PATCH", "mine", `{"remove":{"uri":[` + own + `]}}`, 403},
		{dewiki, "DELETE", "mine", ``, 403},
		{dewiki, "GET", "mine", ``, 404},
		{dewiki, "GET", "mine/uris", ``, 404},
		{stranger, "GET", "mine", ``, 401},
		{stranger, "GET", "none", ``, 401},
		{stranger, "GET", "all", ``, 401},
		{enwiki, "GET", "all", ``, 200},
		{enwiki, "GET", "mine", ``, 200},
		{root, "PUT", "public", `{"uri":[` + own + `],"public":true,"owner":"enwiki"}`, 201},
		{stranger, "GET", "public", ``, 200},
		{stranger, "GET", "public/uris", ``, 200},
		{dewiki, "GET", "public", ``, 200},
		{stranger, "PATCH", "public", `{"add":{"uri":[` + own + `]}}`, 401},
		{dewiki, "PATCH", "public", `{"add":{"uri":[` + secret + `]}}`, 403},
		{enwiki, "PATCH", "public", `{"add":{"uri":[` + secret + `]}}`, 403},
		{enwiki, "PUT", "public", `{"prefix":["https://secret.example.org"],"public":true}`, 403},
		{enwiki, "PATCH", "public", `{"add":{"uri":["https://en.example.org/wiki/B"]}}`, 200},
		{root, "PUT", "admins", `{"uri":[` + own + `,` + secret + `]}`, 201},
		{enwiki, "PATCH", "admins", `{"remove":{"uri":[` + own + `]}}`, 403},
		{root, "PUT", "mine", `{"uri":[` + own + `,` + secret + `]}`, 200},
		{enwiki, "DELETE", "mine", ``, 200},
	} {
		var a *reply
		if c.who.Anonymous() {
			a = h.do(c.method, "/v1/channels/"+c.path, c.body)
		} else {
			a = h.as(c.who, c.method, "/v1/channels/"+c.path, c.body)
		}
		if a.status != c.want {
			t.Errorf("%d: %s %s %s %s: %d %s, want %d", i, c.who.Subject, c.method, c.path, c.body, a.status, a.body, c.want)
		}
	}
	if a := h.as(enwiki, "PATCH", "/v1/channels/public", `{"add":`+own+"}\n"+`{"add":`+secret+"}\n", "Content-Type", typeNDJSON); a.status != 403 || !strings.Contains(string(a.body), `"item":1`) {
		t.Errorf("a foreign line: %d %s", a.status, a.body)
	}
	for name, c := range map[string]struct {
		a    *reply
		want string
	}{
		"a stranger": {h.do("GET", "/v1/channels", ""), `"public"`}, "its owner": {h.as(enwiki, "GET", "/v1/channels", ""), `"public"`},
		"another": {h.as(dewiki, "GET", "/v1/channels", ""), `"public"`},
	} {
		if text := string(c.a.body); !strings.Contains(text, c.want) || strings.Contains(text, "admins") {
			t.Errorf("%s is shown %s", name, text)
		}
	}
	from := h.store.Token().String()
	h.as(root, "POST", "/v1/updates", `[{"uri":`+secret+`,"version":"1"},{"uri":`+own+`,"version":"1"}]`)
	for name, got := range map[string]string{
		"a stranger of a public channel":      h.frames(nil, "channel=public&since="+from, "wiki/A"),
		"a reader of a channel with both":     h.frames(&reader, "channel=admins&since="+from, "wiki/A"),
		"a reader of the channel that is all": h.frames(&reader, "channel=all&since="+from, "wiki/A"),
	} {
		if strings.Contains(got, "secret") {
			t.Errorf("%s gets %s", name, got)
		}
	}
	if got := h.frames(&root, "channel=admins&since="+from, "wiki/A"); !strings.Contains(got, "secret.example.org/T") {
		t.Errorf("an administrator gets %s", got)
	}
	for _, path := range []string{"/v1/channels", "/v1/channels/public", "/v1/channels/public/uris"} {
		if got := h.do("GET", path, "", "Origin", "https://elsewhere.example").header.Get("Access-Control-Allow-Origin"); got != "*" {
			t.Errorf("%s to a stranger: Access-Control-Allow-Origin %q", path, got)
		}
		if got := h.as(enwiki, "GET", path, "").header.Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("%s to a holder: Access-Control-Allow-Origin %q", path, got)
		}
	}
}

func TestQuotasAndPacesAreThoseOfATokensSubject(t *testing.T) {
	h := startKeyedHub(t, func(c *Config) { c.PublisherResources, c.PublisherRequests = 2, 8 })
	put := func(who auth.Rights, name string) *reply {
		return h.as(who, "POST", "/v1/updates", `{"uri":"https://en.example.org/wiki/`+name+`","version":"1"}`)
	}
	other := enwiki
	other.Subject = "enwiki-jobs"
	for i, c := range []struct {
		who  auth.Rights
		name string
		want int
	}{{enwiki, "A", 200}, {enwiki, "B", 200}, {enwiki, "C", 507}, {other, "C", 200}, {enwiki, "A", 200}} {
		a := put(c.who, c.name)
		if a.status != c.want {
			t.Errorf("%d: %s of %s: %d %s, want %d", i, c.name, c.who.Subject, a.status, a.body, c.want)
		}
	}
	h.as(root, "PUT", "/v1/channels/public", `{"uri":[],"public":true}`)
	for name, ask := range map[string]func() int{
		"a publisher": func() int { return put(enwiki, "A").status },
		"a stranger":  func() int { return h.do("GET", "/v1/channels/public", "").status },
	} {
		asked := 1
		for ; ask() != http.StatusTooManyRequests && asked < 500; asked++ {
		}
		if asked == 500 {
			t.Errorf("%s is never told to wait", name)
		}
		if a := put(other, "D"); a.status != 200 {
			t.Errorf("%s has used up what another publisher may: %d %s", name, a.status, a.body)
		}
	}
}

func TestWithKeysAHubListensToTheWorldUnderAnyName(t *testing.T) {
	h := startKeyedHub(t, func(c *Config) { c.Listen = "0.0.0.0:0" })
	if a := h.do("GET", "/healthz", "", "Host", "hub.example.org"); a.status != 200 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := h.do("GET", "/v1/token", "", "Host", "rebound.example"); a.status != 401 {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

// A lockedBuffer is written by many.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestNothingSecretLeavesTheHub(t *testing.T) {
	var log lockedBuffer
	h := startLoggedHub(t, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), nil)
	token, other := h.token(enwiki), h.token(root)
	forged := token[:len(token)-6] + "AAAAAA"
	// Names of channels are no secrets, users in URIs are.
	secrets := []string{"c2VjcmV0OnNlY3JldA", "top-secret@"}
	for _, token := range []string{token, other, forged} {
		secrets = append(secrets, strings.Split(token, ".")...)
	}
	var answers strings.Builder
	for _, c := range []struct{ method, path, body, authorization string }{
		{"GET", "/v1/token", "", "Bearer " + token},
		{"GET", "/v1/token", "", "Bearer " + forged},
		{"GET", "/v1/token", "", "Basic c2VjcmV0OnNlY3JldA"},
		{"GET", "/v1/token?access_token=" + token, "", ""},
		{"GET", "/v1/token?access_token=" + token, "", "Bearer " + other},
		{"POST", "/v1/updates", `{"uri":"https://user:top-secret@en.example.org/wiki/A"}`, "Bearer " + other},
		{"POST", "/v1/updates", `{"uri":"https://en.example.org/wiki/A","version":"1","cause":"top-secret"`, "Bearer " + other},
		{"GET", "/v1/resource?uri=" + url.QueryEscape("https://top-secret.example.org/x"), "", "Bearer " + other},
		{"GET", "/v1/channels/top-secret", "", "Bearer " + other},
		{"GET", "/v1/stream?channel=top-secret&since=x", "", "Bearer " + other},
		{"GET", "/metrics", "", "Bearer " + other},
	} {
		a := h.do(c.method, c.path, c.body, "Authorization", c.authorization)
		if !strings.Contains(c.path+c.body, "top-secret") {
			answers.Write(a.body)
		}
	}
	text := log.String()
	if !strings.Contains(text, "status=401") || !strings.Contains(text, "status=200") {
		t.Fatalf("requests are not logged:\n%s", text)
	}
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("the log shows %.20q…:\n%s", s, text)
		}
		if strings.Contains(answers.String(), s) {
			t.Errorf("an answer shows %.20q…: %s", s, answers.String())
		}
	}
	for _, path := range []string{h.cfg.Data, h.cfg.Auth.JWKS, ".go:"} {
		if strings.Contains(answers.String(), path) {
			t.Errorf("an answer shows the path %q: %s", path, answers.String())
		}
	}
}
