package hub

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/federation"
	"github.com/freshwire/freshwire/hub/auth"
)

// ourURL is the name of a hub in these tests, at which nobody needs to find it.
const ourURL = "https://us.example"

// A foreignHub is a peer as far as a hub needs one: it has an identity and a document,
// takes all that it is told, and tells nothing.
type foreignHub struct {
	*httptest.Server
	t  testing.TB
	id *federation.Identity
}

func startForeignHub(t testing.TB) *foreignHub {
	t.Helper()
	f := &foreignHub{t: t}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	f.rekey()
	return f
}

// rekey gives the hub another key.
func (f *foreignHub) rekey() {
	f.t.Helper()
	id, err := federation.OpenIdentity(vfs.NewMem(), "/keys", f.URL)
	if err != nil {
		f.t.Fatal(err)
	}
	f.id = id
}

func (f *foreignHub) fingerprint() string { return f.id.Key().Fingerprint().String() }

func (f *foreignHub) serve(w http.ResponseWriter, r *http.Request) {
	switch strings.TrimPrefix(r.URL.Path, federation.Path) {
	case federation.DocumentPath:
		d := federation.Document{Hub: f.URL, Epoch: "00000f0e", Versions: []int{federation.Version}, Authority: []string{"https://foreign.example"},
			Keys: []federation.JWK{f.id.JWK()}, Limits: federation.Limits{Body: federation.MaxBody, Ops: 100, Interests: 100}, Endpoints: map[string]string{}}
		for _, name := range []string{federation.EndpointInterests, federation.EndpointStream, federation.EndpointAck, federation.EndpointCompare} {
			d.Endpoints[name] = f.URL + federation.Path + name
		}
		b, err := d.Encode()
		if err != nil {
			f.t.Error(err)
		}
		w.Write(b)
	case federation.EndpointInterests:
		var reg struct {
			Base uint64
			Ops  []struct{}
		}
		if err := json.NewDecoder(r.Body).Decode(&reg); err != nil {
			f.t.Error(err)
		}
		fmt.Fprintf(w, `{"applied":%d}`, reg.Base+uint64(len(reg.Ops)))
	case federation.EndpointStream:
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "event: heartbeat\ndata: {}\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	default:
		io.WriteString(w, "{}")
	}
}

// bearer is a token of the foreign hub for another, as a header.
func (f *foreignHub) bearer(audience string) string {
	f.t.Helper()
	token, err := f.id.Token(audience, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return "Bearer " + token
}

// federated sets the name of a hub, what it speaks for, and where its peers lie.
func federated(c *Config) {
	c.PublicURL, c.Federation.Authority, c.Federation.Allow = ourURL, []string{"https://us.example"}, thisMachineOnly
}

// addPeer is the body that adds the foreign hub.
func (f *foreignHub) addPeer(authority ...string) string {
	b, err := json.Marshal(map[string]any{"url": f.URL, "fingerprint": f.fingerprint(), "authority": authority})
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

func peerQuery(u string) string { return "/v1/peer?url=" + url.QueryEscape(u) }

// wantProblem checks that an answer is a refusal of a kind.
func wantProblem(t *testing.T, what string, a *reply, kind *problemKind, field string) {
	t.Helper()
	var p struct{ Type, Field string }
	if err := json.Unmarshal(a.body, &p); err != nil || a.status != kind.status || p.Type != problemBase+kind.slug || p.Field != field {
		t.Errorf("%s: %d %s, want %d %s of %q", what, a.status, a.body, kind.status, kind.slug, field)
	}
}

// becomes waits until a peer is shown as something.
func (h *testHub) becomes(u, what string, is func(p *peerShape) bool) (p peerShape) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); ; pass(10 * time.Millisecond) {
		p = peerShape{}
		h.do("GET", peerQuery(u), "").decode(h.t, &p)
		if is(&p) {
			return p
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the peer does not come to be %s: %+v", what, p)
		}
	}
}

func TestPeersAreLookedAtAddedSteeredAndRemovedOverHTTP(t *testing.T) {
	f := startForeignHub(t)
	h := startHub(t, federated)
	var all struct {
		Hub   identityShape
		Items []peerShape
	}
	h.do("GET", "/v1/peers", "").decode(t, &all)
	if all.Hub.URL != ourURL || !strings.HasPrefix(all.Hub.Fingerprint, "SHA256:") || fmt.Sprint(all.Hub.Authority) != "[https://us.example]" || len(all.Hub.Epoch) != 8 || len(all.Items) != 0 {
		t.Errorf("at first there is %+v", all)
	}
	// A look makes nobody a peer.
	var seen identityShape
	h.do("POST", "/v1/peers", `{"url":"`+f.URL+`"}`).decode(t, &seen)
	if seen.URL != f.URL || seen.Fingerprint != f.fingerprint() || fmt.Sprint(seen.Authority) != "[https://foreign.example]" || seen.Epoch != "00000f0e" {
		t.Errorf("it is shown as %+v", seen)
	}
	wantProblem(t, "who was looked at", h.do("GET", peerQuery(f.URL), ""), unknownPeer, "")

	var p peerShape
	a := h.do("POST", "/v1/peers", f.addPeer("https://foreign.example"))
	if a.decode(t, &p); a.status != 200 || p.URL != f.URL || p.Fingerprint != f.fingerprint() || p.Configured || fmt.Sprint(p.Authority) != "[https://foreign.example]" {
		t.Errorf("it is added as %d %s", a.status, a.body)
	}
	h.put(`{"uri":"https://us.example/Page","version":"1","deps":["https://foreign.example/File"]}`)
	p = h.becomes(f.URL, "heard", func(p *peerShape) bool { return p.Phase == "following" && p.Hears.Taken == 1 })
	if p.Hears.Epoch != "00000f0e" || p.Hears.Mirrors != 1 || p.Hears.Generation != 1 || p.Hears.Pending != 0 || p.LastHeard.IsZero() || p.Fault != "" {
		t.Errorf("of what it speaks for there is %+v", p)
	}
	wantProblem(t, "an update of what the peer speaks for", h.do("POST", "/v1/updates", `{"uri":"https://foreign.example/File","version":"1"}`), badValue, "uri")

	h.do("POST", peerQuery(f.URL), `{"action":"pause"}`).decode(t, &p)
	if p.Phase != "paused" {
		t.Errorf("paused it is %+v", p)
	}
	h.do("POST", peerQuery(f.URL), `{"action":"resume"}`)
	h.becomes(f.URL, "heard again", func(p *peerShape) bool { return p.Phase == "following" })
	h.do("POST", peerQuery(f.URL), `{"action":"resync"}`)
	h.becomes(f.URL, "told all anew", func(p *peerShape) bool { return p.Hears.Generation == 2 && p.Hears.Pending == 0 && p.Hears.Taken == 2 })

	// Whoever sits at its URL with another key is not it.
	f.rekey()
	h.do("POST", peerQuery(f.URL), `{"action":"resync"}`)
	p = h.becomes(f.URL, "refused", func(p *peerShape) bool { return strings.Contains(p.Fault, f.fingerprint()) })
	h.do("POST", "/v1/peers", f.addPeer("https://foreign.example"))
	h.becomes(f.URL, "heard with its new key", func(q *peerShape) bool { return q.Phase == "following" && q.Fingerprint != p.Fingerprint })
	h.do("GET", "/v1/peers", "").decode(t, &all)
	if len(all.Items) != 1 || all.Items[0].URL != f.URL {
		t.Errorf("there are %+v", all.Items)
	}

	if a := h.do("DELETE", peerQuery(f.URL), ""); a.status != 204 || len(a.body) > 0 {
		t.Errorf("it is removed by %d %s", a.status, a.body)
	}
	wantProblem(t, "who was removed", h.do("DELETE", peerQuery(f.URL), ""), unknownPeer, "")
	h.put(`{"uri":"https://foreign.example/File","version":"1"}`) // nobody speaks for it any more
}

func TestRequestsAboutPeersThatAreWrongAreRefusedEachForItsReason(t *testing.T) {
	f := startForeignHub(t)
	h := startHub(t, federated)
	if a := h.do("POST", "/v1/peers", f.addPeer("https://foreign.example")); a.status != 200 {
		t.Fatal(string(a.body))
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }))
	gone.Close()
	defer page.Close()
	fingerprint := `,"fingerprint":"` + f.fingerprint() + `"`
	for _, c := range []struct {
		name, method, path, body string
		kind                     *problemKind
		field                    string
	}{
		{"no URL", "POST", "/v1/peers", `{}`, missingField, "url"},
		{"a URL with a slash", "POST", "/v1/peers", `{"url":"https://foreign.example/"}`, badValue, "url"},
		{"a URL that is none", "POST", "/v1/peers", `{"url":"foreign"` + fingerprint + `}`, badValue, "url"},
		{"nobody at the URL", "POST", "/v1/peers", `{"url":"` + gone.URL + `"}`, peerUnreachable, "url"},
		{"no hub at the URL", "POST", "/v1/peers", `{"url":"` + page.URL + `"}`, peerUnreachable, "url"},
		{"an address that is not public", "POST", "/v1/peers", `{"url":"http://10.0.0.1"}`, peerUnreachable, "url"},
		{"a fingerprint that is none", "POST", "/v1/peers", `{"url":"https://foreign.example","fingerprint":"SHA256:x"}`, badValue, "fingerprint"},
		{"a fingerprint in hex", "POST", "/v1/peers", `{"url":"https://foreign.example","fingerprint":"` + strings.Repeat("ab", 32) + `"}`, badValue, "fingerprint"},
		{"this hub itself", "POST", "/v1/peers", `{"url":"` + ourURL + `"` + fingerprint + `}`, badValue, "url"},
		{"a prefix that is none", "POST", "/v1/peers", `{"url":"https://foreign.example"` + fingerprint + `,"authority":["x"]}`, badURI, ""},
		{"what we speak for", "POST", "/v1/peers", `{"url":"https://foreign.example"` + fingerprint + `,"authority":["https://us.example"]}`, badValue, "authority"},
		{"what another speaks for", "POST", "/v1/peers", `{"url":"https://foreign.example"` + fingerprint + `,"authority":["https://foreign.example"]}`, badValue, "authority"},
		{"a member that is unknown", "POST", "/v1/peers", `{"url":"https://foreign.example","trust":true}`, unknownField, "trust"},
		{"prefixes that are no list", "POST", "/v1/peers", `{"url":"https://foreign.example","authority":"https://foreign.example"}`, badValue, "authority"},
		{"a list with a parameter", "GET", "/v1/peers?url=x", "", badQuery, "url"},
		{"no peer", "GET", "/v1/peer", "", badQuery, "url"},
		{"a peer that is unknown", "GET", peerQuery("https://nobody.example"), "", unknownPeer, ""},
		{"steering who is unknown", "POST", peerQuery("https://nobody.example"), `{"action":"pause"}`, unknownPeer, ""},
		{"having who is unknown told anew", "POST", peerQuery("https://nobody.example"), `{"action":"resync"}`, unknownPeer, ""},
		{"removing who is unknown", "DELETE", peerQuery("https://nobody.example"), "", unknownPeer, ""},
		{"no action", "POST", peerQuery(f.URL), `{}`, missingField, "action"},
		{"an action that is unknown", "POST", peerQuery(f.URL), `{"action":"drop"}`, badValue, "action"},
	} {
		t.Run(c.name, func(t *testing.T) { wantProblem(t, c.name, h.do(c.method, c.path, c.body), c.kind, c.field) })
	}
	if urls := h.peers.URLs(); !slices.Equal(urls, []string{f.URL}) {
		t.Errorf("the peers are %v", urls)
	}
}

// federationFile is a configuration with peers.
func federationFile(authority string, peers ...string) string {
	return "public-url: " + ourURL + "\nfederation:\n  allow: [127.0.0.0/8, '::1/128']\n  authority: [" + authority + "]\n  peers: [" + strings.Join(peers, ", ") + "]\n"
}

func (f *foreignHub) entry(authority string) string {
	return "{url: '" + f.URL + "', fingerprint: '" + f.fingerprint() + "', authority: [" + authority + "]}"
}

func TestAReloadTakesPeersAndTheyAreItsOwn(t *testing.T) {
	folder := t.TempDir()
	one, two, added := startForeignHub(t), startForeignHub(t), startForeignHub(t)
	h := startFileHub(t, folder, federationFile("'https://us.example'", one.entry("'https://one.example'")), func() string { return "" })
	if p := h.becomes(one.URL, "heard", func(p *peerShape) bool { return p.Phase == "following" }); !p.Configured {
		t.Errorf("a peer of the configuration is %+v", p)
	}
	wantProblem(t, "removing it", h.as("DELETE", peerQuery(one.URL), ""), fixedPeer, "")
	wantProblem(t, "changing it", h.as("POST", "/v1/peers", one.addPeer("https://elsewhere.example")), fixedPeer, "")
	if a := h.as("POST", peerQuery(one.URL), `{"action":"pause"}`); a.status != 200 {
		t.Errorf("pausing it: %d %s", a.status, a.body)
	}
	if a := h.as("POST", "/v1/peers", added.addPeer("https://added.example")); a.status != 200 {
		t.Fatal(string(a.body))
	}

	text := federationFile("'https://us.example', 'https://more.example'", one.entry("'https://one.example/wiki'"), two.entry(""))
	// reload has a file taken, and returns what changed.
	reload := func(text string) (changes string, restart []string) {
		t.Helper()
		h.write(t, text)
		done, err := h.Reload(t.Context())
		if err != nil {
			t.Fatalf("%s\nis not taken: %v", text, err)
		}
		var list []string
		for _, c := range done.Changes {
			list = append(list, strings.Join(strings.Fields(c.Section+" "+c.Name+" "+c.Change), " "))
		}
		return strings.Join(list, ", "), done.Restart
	}
	changes, restart := reload(text)
	if want := "federation changed, federation " + one.URL + " changed, federation " + two.URL + " added"; changes != want || len(restart) > 0 {
		t.Errorf("changes are %q, want %q; %v need a restart", changes, want, restart)
	}
	if changes, _ := reload(text); changes != "" {
		t.Errorf("the same again changes %q", changes)
	}
	p := h.becomes(one.URL, "changed", func(p *peerShape) bool { return fmt.Sprint(p.Authority) == "[https://one.example/wiki]" })
	if p.Phase != "paused" {
		t.Errorf("who was paused and changed is %+v", p)
	}
	h.becomes(two.URL, "heard", func(p *peerShape) bool { return p.Phase == "following" && p.Configured })

	// What does not go with a peer that was added over the API is refused whole.
	h.write(t, federationFile("'https://us.example'", two.entry("'https://added.example'")))
	wantProblem(t, "what another speaks for", h.as("POST", "/v1/reload", ""), badConfig, "")
	h.write(t, federationFile("'https://us.example'", strings.Replace(two.entry(""), "SHA256:", "SHA1:", 1)))
	wantProblem(t, "a bad fingerprint", h.as("POST", "/v1/reload", ""), badConfig, "")
	if id := h.peers.Identity(); fmt.Sprint(id.Authority) != "[https://us.example https://more.example]" || len(h.peers.URLs()) != 3 {
		t.Errorf("a configuration that was not taken leaves %v and %v", id.Authority, h.peers.URLs())
	}

	changes, restart = reload(strings.Replace(federationFile("'https://us.example'", two.entry("")), "authority", "interests: 9\n  authority", 1))
	if want := "federation changed, federation " + one.URL + " removed"; changes != want || !slices.Equal(restart, []string{"federation-interests"}) {
		t.Errorf("changes are %q, want %q; %v need a restart", changes, want, restart)
	}
	wantProblem(t, "who is not in the file any more", h.as("GET", peerQuery(one.URL), ""), unknownPeer, "")
	h.becomes(added.URL, "left alone", func(p *peerShape) bool { return p.Phase == "following" && !p.Configured })

	// The configuration takes over who was added, and then it alone ends that.
	if changes, _ := reload(federationFile("'https://us.example'", two.entry(""), added.entry("'https://added.example'"))); changes != "federation "+added.URL+" changed" {
		t.Errorf("changes are %q", changes)
	}
	wantProblem(t, "removing who was added", h.as("DELETE", peerQuery(added.URL), ""), fixedPeer, "")
}

func TestWhoIsNoAdministratorSeesNoPeers(t *testing.T) {
	f := startForeignHub(t)
	h := startKeyedHub(t, federated)
	if a := h.as(root, "POST", "/v1/peers", f.addPeer("https://foreign.example")); a.status != 200 {
		t.Fatal(string(a.body))
	}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/peers", ""}, {"POST", "/v1/peers", `{"url":"` + f.URL + `"}`}, {"POST", "/v1/peers", f.addPeer("https://foreign.example")},
		{"GET", peerQuery(f.URL), ""}, {"POST", peerQuery(f.URL), `{"action":"pause"}`}, {"DELETE", peerQuery(f.URL), ""},
	} {
		what := c.method + " " + c.path
		wantProblem(t, what+" of a stranger", h.do(c.method, c.path, c.body), unauthorized, "")
		wantProblem(t, what+" of a holder", h.as(enwiki, c.method, c.path, c.body), forbidden, "")
		wantProblem(t, what+" of the peer", h.do(c.method, c.path, c.body, "Authorization", f.bearer(ourURL)), badToken, "")
	}
	var p peerShape
	h.as(root, "GET", peerQuery(f.URL), "").decode(t, &p)
	if p.Phase == "paused" {
		t.Errorf("it is %+v", p)
	}
	if a := h.as(root, "DELETE", peerQuery(f.URL), ""); a.status != 204 {
		t.Errorf("an administrator is answered %d %s", a.status, a.body)
	}
}

func TestWhatPassesBetweenHubsIsCounted(t *testing.T) {
	f := startForeignHub(t)
	h := startHub(t, federated)
	h.do("POST", "/v1/peers", f.addPeer("https://foreign.example"))
	h.put(`{"uri":"https://us.example/Page","version":"1","deps":["https://foreign.example/File"]}`)
	h.becomes(f.URL, "heard", func(p *peerShape) bool { return p.Phase == "following" && p.Hears.Taken == 1 })
	for body, want := range map[string]int{
		`{"epoch":"00000f0e","generation":1,"base":0,"ops":[{"n":1,"op":"add","uri":"https://us.example/Page"},{"n":2,"op":"add","uri":"https://nobody.example/"}]}`: 200,
		`{}`: 400,
	} {
		if a := h.do("POST", "/federation/v1/interests", body, "Authorization", f.bearer(ourURL)); a.status != want {
			t.Errorf("%s is answered by %d %s", body, a.status, a.body)
		}
	}
	text := string(h.do("GET", "/metrics", "").body)
	for name, value := range map[string]string{`peer_up`: "1", `peer_heard_total,result="changed"`: "0", `peer_heard_total,result="same"`: "0", `peer_heard_total,result="old"`: "0",
		`peer_heard_total,result="unwanted"`: "0", `peer_heard_total,result="refused"`: "0", `peer_told_total`: "0", `peer_mirrors`: "1", `peer_interests`: "1", `peer_pending_ops`: "0",
		`peer_rejected_total,by="hub"`: "1", `peer_rejected_total,by="peer"`: "0", `peer_faulty_requests_total`: "1", `peer_failures_total`: "0", `peer_silence_seconds`: "0", `peer_mended_total`: "0"} {
		metric, label, _ := strings.Cut(name, ",")
		if label != "" {
			label = "," + label
		}
		// Labels are in the order of their names.
		want, other := "freshwire_"+metric+`{peer="`+f.URL+`"`+label+"} "+value, "freshwire_"+metric+"{"+strings.TrimPrefix(label+",", ",")+`peer="`+f.URL+`"} `+value
		if !strings.Contains(text, want) && !strings.Contains(text, other) {
			t.Errorf("%s is not there", want)
		}
	}
	h.do("DELETE", peerQuery(f.URL), "")
	if text := string(h.do("GET", "/metrics", "").body); strings.Contains(text, f.URL) {
		t.Error("who was removed is still counted")
	}
}

func TestAHubThatNobodyElseCouldNameExchangesWithNobody(t *testing.T) {
	h := startHub(t, nil)
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/peers", ""}, {"POST", "/v1/peers", `{"url":"https://a.example"}`}, {"GET", peerQuery("https://a.example"), ""},
		{"POST", peerQuery("https://a.example"), `{"action":"pause"}`}, {"DELETE", peerQuery("https://a.example"), ""},
		{"GET", federation.DocumentPath, ""}, {"POST", "/federation/v1/interests", "{}"}, {"POST", "/federation/v1/ack", "{}"}, {"GET", "/federation/v1/stream", ""},
	} {
		wantProblem(t, c.method+" "+c.path, h.do(c.method, c.path, c.body), noFederation, "")
	}
	if text := string(h.do("GET", "/metrics", "").body); strings.Contains(text, "freshwire_peer_") {
		t.Error("it counts peers")
	}
}

func TestFaultsOfAFederationAreNamed(t *testing.T) {
	const fingerprint = "SHA256:AZ+Az4YQuIQBw+s+2ujnbVVw+OsOCGOTI+8K77EjY2w"
	peer := func(url string, authority ...string) PeerConfig { return PeerConfig{url, fingerprint, authority} }
	for want, change := range map[string]func(c *Config){
		"federation-interests: below 1":                             func(c *Config) { c.Federation.Interests = 0 },
		"public-url: other hubs know this one by it":                func(c *Config) { c.PublicURL = "" },
		"public-url: \"https://us.example/hub\" is not of the form": func(c *Config) { c.PublicURL = "https://us.example/hub" },
		"federation: authority of this hub: \"us\"":                 func(c *Config) { c.Federation.Authority = []string{"us"} },
		"federation: peers: \"https://a.example\": fingerprint":     func(c *Config) { c.Federation.Peers = []PeerConfig{{"https://a.example", "x", nil}} },
		"freshwire peer look https://a.example":                     func(c *Config) { c.Federation.Peers = []PeerConfig{{URL: "https://a.example"}} },
		"federation: hub \"https://a.example/\"":                    func(c *Config) { c.Federation.Peers = []PeerConfig{peer("https://a.example/")} },
		"federation: https://us.example is this hub itself":         func(c *Config) { c.Federation.Peers = []PeerConfig{peer(ourURL)} },
		"named twice": func(c *Config) {
			c.Federation.Peers = []PeerConfig{peer("https://a.example"), peer("https://a.example")}
		},
		"both this hub and https://a.example are to speak for": func(c *Config) { c.Federation.Peers = []PeerConfig{peer("https://a.example", "https://us.example")} },
		"both https://a.example and https://b.example are to spe": func(c *Config) {
			c.Federation.Peers = []PeerConfig{peer("https://a.example", "urn:isbn"), peer("https://b.example", "urn:isbn")}
		},
		"there are 256 peers": func(c *Config) {
			c.Federation.Peers = make([]PeerConfig, 257)
			for i := range c.Federation.Peers {
				c.Federation.Peers[i] = peer(fmt.Sprintf("https://a%d.example", i))
			}
		},
	} {
		c := DefaultConfig()
		c.Data = t.TempDir()
		federated(&c)
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestAHubWithPeersKeepsItsName(t *testing.T) {
	folder, f := t.TempDir(), startForeignHub(t)
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", filepath.Join(folder, "data"), minCache
	federated(&cfg)
	t.Run("at first", func(t *testing.T) {
		h := runHub(t, func() (*Hub, error) { return New(cfg, slog.New(slog.DiscardHandler)) })
		if a := h.do("POST", "/v1/peers", f.addPeer("https://foreign.example")); a.status != 200 {
			t.Fatal(string(a.body))
		}
		h.becomes(f.URL, "heard", func(p *peerShape) bool { return p.Phase == "following" })
		h.do("POST", peerQuery(f.URL), `{"action":"pause"}`)
	})
	t.Run("again", func(t *testing.T) {
		h := runHub(t, func() (*Hub, error) { return New(cfg, slog.New(slog.DiscardHandler)) })
		h.becomes(f.URL, "paused still", func(p *peerShape) bool { return p.Phase == "paused" && p.Fingerprint == f.fingerprint() })
		wantProblem(t, "its request", h.do("POST", "/federation/v1/ack", `{"position":"00000001.1"}`, "Authorization", f.bearer(ourURL)), peerPaused, "")
	})
	cfg.PublicURL, cfg.Federation.Authority = "", nil
	if h, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "public-url: this hub has peers") {
		t.Errorf("without its name: %v, %v", h, err)
	}
}

func TestTokensOfPeersAndOfUsersAreGoodWhereTheyBelong(t *testing.T) {
	f := startForeignHub(t)
	h := startKeyedHub(t, func(c *Config) { federated(c); c.PublicURL = testAudience })
	if a := h.as(root, "POST", "/v1/peers", f.addPeer("https://foreign.example")); a.status != 200 {
		t.Fatal(string(a.body))
	}
	for deadline := time.Now().Add(patience); ; pass(10 * time.Millisecond) {
		if s, err := h.peers.Status(f.URL); err == nil && s.Key != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its key is not seen")
		}
	}
	peer, user := f.bearer(testAudience), "Bearer "+h.token(root)
	const interests = `{"epoch":"00000f0e","generation":1,"base":0,"ops":[{"n":1,"op":"add","uri":"https://us.example/Page"}]}`
	if a := h.do("POST", "/federation/v1/interests", interests, "Authorization", peer); a.status != 200 || string(bytes.TrimSpace(a.body)) != `{"applied":1}` {
		t.Errorf("a peer is answered %d %s", a.status, a.body)
	}
	if a := h.do("POST", "/federation/v1/ack", `{"position":"00000f0e.1"}`, "Authorization", peer); a.status != 200 {
		t.Errorf("a peer is answered %d %s", a.status, a.body)
	}
	a := h.do("POST", "/federation/v1/interests", strings.ReplaceAll(interests, `"base":0,"ops":[{"n":1`, `"base":6,"ops":[{"n":7`), "Authorization", peer)
	wantProblem(t, "a gap", a, interestGap, "")
	if !strings.Contains(string(a.body), `"epoch":"00000f0e","generation":1,"applied":1`) {
		t.Errorf("a gap is answered %s", a.body)
	}
	wantProblem(t, "a long body", h.do("POST", "/federation/v1/interests", strings.Repeat(" ", federation.MaxBody+1), "Authorization", peer), bodyTooLarge, "")
	wantProblem(t, "no message", h.do("POST", "/federation/v1/ack", `{}`, "Authorization", peer), badMessage, "")
	if first := h.firstEvent(peer); !strings.Contains(first, "https://us.example/Page") {
		t.Errorf("a peer is told %s", first)
	}

	stranger := startForeignHub(t)
	other, err := auth.GenerateKey(auth.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	// The issuer of users' tokens may not pass for a peer either, even under its name.
	posing, err := other.Mint(auth.Grant{Issuer: f.URL, Audience: testAudience, TTL: 5 * time.Minute, Rights: root}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/federation/v1/interests", "/federation/v1/ack", "/federation/v1/stream"} {
		method := map[bool]string{true: "GET", false: "POST"}[strings.HasSuffix(path, "stream")]
		wantProblem(t, path+" with a user's token", h.do(method, path, "{}", "Authorization", user), notAPeer, "")
		wantProblem(t, path+" with that of a stranger", h.do(method, path, "{}", "Authorization", stranger.bearer(testAudience)), notAPeer, "")
		wantProblem(t, path+" with a user's token in the peer's name", h.do(method, path, "{}", "Authorization", "Bearer "+posing), badPeerToken, "")
		wantProblem(t, path+" with one for another hub", h.do(method, path, "{}", "Authorization", f.bearer("https://other.example")), badPeerToken, "")
		wantProblem(t, path+" without one", h.do(method, path, "{}"), badPeerToken, "")
	}
	for _, c := range []struct{ method, path, body string }{{"GET", "/v1/token", ""}, {"POST", "/v1/updates", `{"uri":"https://us.example/Page","version":"1"}`},
		{"GET", "/v1/peers", ""}, {"GET", "/v1/stream", ""}, {"GET", "/metrics", ""}} {
		if a := h.do(c.method, c.path, c.body, "Authorization", peer); a.status != 401 {
			t.Errorf("%s %s with the token of a peer: %d %s", c.method, c.path, a.status, a.body)
		}
	}
	d := h.do("GET", federation.DocumentPath, "")
	doc, err := federation.DecodeDocument(bytes.NewReader(d.body))
	if err != nil || d.status != 200 || doc.Hub != testAudience || d.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("everybody is told %d %s, %v", d.status, d.body, err)
	}
}

// firstEvent reads a stream between hubs up to the data of its first event.
func (h *keyedHub) firstEvent(bearer string) string {
	h.t.Helper()
	r, err := http.NewRequest("GET", h.URL()+"/federation/v1/stream", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", bearer)
	a, err := h.client.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer a.Body.Close()
	for lines := bufio.NewScanner(a.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			return text
		}
	}
	return ""
}
