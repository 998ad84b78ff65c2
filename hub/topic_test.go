package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mmcdole/gofeed"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/auth"
	"github.com/freshwire/freshwire/subscriptions"
)

// documentShape is a document as it is read.
type documentShape struct {
	Channel  string `json:"channel"`
	Resource string `json:"resource"`
	Self     string `json:"self"`
	Hub      string `json:"hub"`
	Epoch    string `json:"epoch"`
	Lane     string `json:"lane"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Prev     uint64 `json:"prev"`
	Reset    *struct{ Reason, Oldest, Newest string }
	Notices  []struct {
		URI   string
		Seq   uint64
		Token string
		Cause struct{ URI string }
	}
}

func (d *documentShape) uris() string {
	var uris []string
	for _, n := range d.Notices {
		uris = append(uris, n.URI[strings.LastIndexByte(n.URI, '/')+1:])
	}
	return strings.Join(uris, " ")
}

// documentOf reads one. What it has beside these members is refused by openapi.json.
func documentOf(t testing.TB, a *reply) (d documentShape) {
	t.Helper()
	if err := json.Unmarshal(a.body, &d); err != nil || a.status != 200 {
		t.Fatalf("got %d %s (%v)", a.status, a.body, err)
	}
	return d
}

// settled waits until all that was written can be read by those who follow it.
func (h *testHub) settled() {
	h.t.Helper()
	f := h.streams.FilterFeed(new(subscriptions.Matcher))
	for deadline := time.Now().Add(10 * time.Second); f.Head() != h.store.Token(); {
		if time.Now().After(deadline) {
			h.t.Fatalf("only what is up to %s can be read, of %s", f.Head(), h.store.Token())
		}
		<-time.After(time.Millisecond)
	}
}

func putPages(t *testing.T, h *testHub, version int, pages ...string) {
	t.Helper()
	for _, page := range pages {
		h.put(fmt.Sprintf(`{"uri":"https://en.example.org/wiki/%s","type":"page","version":"%d"}`, page, version))
	}
	h.settled()
}

func TestATopicIsReadAsDocumentsOneAfterTheOther(t *testing.T) {
	h := startHub(t, nil)
	empty := documentOf(t, h.do("GET", "/topics/all", ""))
	if len(empty.Notices) != 0 || empty.First != 0 || empty.Last != empty.Prev {
		t.Errorf("of a new hub: %+v", empty)
	}
	putPages(t, h, 1, "A", "B")
	putPages(t, h, 2, "A")
	newest := documentOf(t, h.do("GET", "/topics/all", ""))
	if newest.uris() != "B A" || newest.Channel != "all" || newest.Self != h.URL()+"/topics/all" || newest.Hub != h.URL()+"/websub" ||
		newest.First != 1 || newest.Last != 3 || newest.Prev != 0 || newest.Epoch+".3" != h.store.Token().String() || newest.Notices[1].Token != newest.Epoch+".3" {
		t.Errorf("the newest is %+v", newest)
	}
	for _, after := range []string{"1", newest.Epoch + ".1"} {
		if d := documentOf(t, h.do("GET", "/topics/all?after="+after, "")); d.uris() != "B A" || d.First != 2 || d.Prev != 1 || d.Last != 3 {
			t.Errorf("after %s: %+v", after, d)
		}
	}
	if d := documentOf(t, h.do("GET", "/topics/all?after=3", "")); len(d.Notices) != 0 || d.Prev != 3 || d.Last != 3 {
		t.Errorf("after the last: %+v", d)
	}
	one := documentOf(t, h.do("GET", "/topics/resource"+uriQuery("https://en.example.org/wiki/A"), ""))
	if one.uris() != "A" || one.Resource != "https://en.example.org/wiki/A" || one.Channel != "" || one.First != 1 || one.Last != 3 ||
		one.Self != h.URL()+"/topics/resource"+uriQuery("https://en.example.org/wiki/A") {
		t.Errorf("of one resource: %+v", one)
	}
	if d := documentOf(t, h.do("GET", "/topics/host:en.example.org?lane=bulk", "")); len(d.Notices) != 0 || d.Lane != "bulk" || d.Self != h.URL()+"/topics/host:en.example.org?lane=bulk" {
		t.Errorf("of the bulk lane: %+v", d)
	}
	if d := documentOf(t, h.do("GET", "/topics/host%3Aen.example.org?lane=prompt", "")); d.uris() != "B A" || d.Self != h.URL()+"/topics/host:en.example.org?lane=prompt" {
		t.Errorf("of the prompt lane: %+v", d)
	}
}

func TestADocumentIsFollowedToTheNextOne(t *testing.T) {
	h := startHub(t, nil)
	var batch strings.Builder
	for i := range 2300 {
		fmt.Fprintf(&batch, `{"uri":"https://en.example.org/wiki/%d","version":"1"}`+"\n", i)
	}
	h.do("POST", "/v1/updates", batch.String(), "Content-Type", typeNDJSON)
	h.settled()
	got, last := 0, uint64(0)
	for address := "/topics/all?after=0"; address != ""; {
		a := h.do("GET", address, "")
		d := documentOf(t, a)
		if d.Prev != last || d.First != last+1 {
			t.Errorf("after %d comes a document from %d, after %d", last, d.First, d.Prev)
		}
		got, last, address = got+len(d.Notices), d.Last, ""
		for _, link := range a.header.Values("Link") {
			if next, found := strings.CutSuffix(link, `>; rel="next"`); found {
				address = strings.TrimPrefix(next, "<"+h.URL())
			}
		}
	}
	if got != 2300 {
		t.Errorf("%d notices of 2300", got)
	}
	if d := documentOf(t, h.do("GET", "/topics/all", "")); len(d.Notices) != 100 || d.Last != 2300 {
		t.Errorf("the newest has %d up to %d", len(d.Notices), d.Last)
	}
}

func TestTheFormsOfATopic(t *testing.T) {
	h := startHub(t, func(c *Config) { c.PublicURL = "https://hub.example" })
	putPages(t, h, 1, "A")
	for _, c := range []struct {
		query, accept string
		atom          bool
	}{
		{"", "", false},
		{"", "*/*", false},
		{"", "application/json", false},
		{"", "application/atom+xml", true},
		{"", "application/atom+xml;q=0.9, application/json;q=0.8", true},
		{"", "application/atom+xml;q=0.8, application/json;q=0.9", false},
		{"", "application/atom+xml, application/json", false},
		{"", "application/*, application/json;q=0.1", true},
		{"", "application/atom+xml;q=0, */*;q=0.1", false},
		{"", "application/json;q=0, */*;q=0.1", true},
		{"", "text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", false},
		{"", "text/html", false},
		{"", ";;;", false},
		{"?format=atom", "application/json", true},
		{"?format=json", "application/atom+xml", false},
	} {
		a := h.do("GET", "/topics/all"+c.query, "", "Accept", c.accept)
		self, want := "https://hub.example/topics/all", "application/json"
		if c.atom {
			self, want = self+"?format=atom", "application/atom+xml"
		}
		if got := a.header.Get("Content-Type"); got != want {
			t.Errorf("%s %q is answered by %s", c.query, c.accept, got)
			continue
		}
		if got := a.header.Get("Link"); got != `<https://hub.example/websub>; rel="hub", <`+self+`>; rel="self"` {
			t.Errorf("%s %q: Link is %s", c.query, c.accept, got)
		}
		if a.header.Get("Vary") != "Accept, Authorization" {
			t.Errorf("Vary: %s", a.header.Get("Vary"))
		}
		if !c.atom {
			if d := documentOf(t, a); d.Self != self || d.Hub != "https://hub.example/websub" {
				t.Errorf("it says %+v", d)
			}
			continue
		}
		feed, err := gofeed.NewParser().Parse(bytes.NewReader(a.body))
		if err != nil || feed.FeedLink != self || len(feed.Items) != 1 || feed.Items[0].Link != "https://en.example.org/wiki/A" || !bytes.Contains(a.body, []byte(`<link rel="hub" href="https://hub.example/websub">`)) {
			t.Errorf("the feed is %s (%v)", a.body, err)
		}
	}
}

func TestATopicIsNotSentToWhoHasIt(t *testing.T) {
	h := startHub(t, nil)
	putPages(t, h, 1, "A")
	a := h.do("GET", "/topics/host:en.example.org", "")
	etag := a.header.Get("ETag")
	feed := h.do("GET", "/topics/host:en.example.org?format=atom", "").header.Get("ETag")
	head := h.do("HEAD", "/topics/host:en.example.org", "")
	if head.status != 200 || len(head.body) != 0 || head.header.Get("ETag") != etag || head.header.Get("Link") != a.header.Get("Link") ||
		head.header.Get("Content-Length") != fmt.Sprint(len(a.body)) || head.header.Get("Content-Type") != a.header.Get("Content-Type") {
		t.Errorf("HEAD answers %d %v", head.status, head.header)
	}
	writeElsewhere := func(version int) {
		h.put(fmt.Sprintf(`{"uri":"https://de.example.org/wiki/A","version":"%d"}`, version))
		h.settled()
	}
	if etag == "" || etag == feed || etag[0] != '"' {
		t.Fatalf("the tags are %s and %s", etag, feed)
	}
	for i, c := range []struct {
		method, tags string
		want         int
	}{{"GET", etag, 304}, {"HEAD", etag, 304}, {"GET", `"x", W/` + etag, 304}, {"GET", "*", 304}, {"GET", `"x"`, 200}, {"GET", etag[:9], 200}, {"GET", feed, 200}} {
		writeElsewhere(i + 1)
		a := h.do(c.method, "/topics/host:en.example.org", "", "If-None-Match", c.tags)
		if a.status != c.want || a.status == 304 && len(a.body) > 0 || a.header.Get("ETag") != etag || a.header.Get("Link") == "" || a.header.Get("Cache-Control") != "private, no-cache" {
			t.Errorf("%s of who has %s answers %d %v", c.method, c.tags, a.status, a.header)
		}
	}
	putPages(t, h, 2, "A")
	if a := h.do("GET", "/topics/host:en.example.org", "", "If-None-Match", etag); a.status != 200 || a.header.Get("ETag") == etag {
		t.Errorf("after a change it answers %d %s", a.status, a.header.Get("ETag"))
	}
}

func TestAPositionThatCannotBeServedIsToldInTheDocument(t *testing.T) {
	h := startHub(t, nil)
	putPages(t, h, 1, "A", "B")
	other := graph.Cursor{Epoch: h.store.Token().Epoch + 1, Seq: 1}
	for after, reason := range map[string]string{"7": "future", other.String(): "epoch"} {
		d := documentOf(t, h.do("GET", "/topics/all?after="+after, ""))
		if d.Reset == nil || d.Reset.Reason != reason || d.Reset.Newest != h.store.Token().String() || d.uris() != "A B" {
			t.Errorf("after %s: %+v", after, d)
		}
		feed := h.do("GET", "/topics/all?format=atom&after="+after, "")
		if !bytes.Contains(feed.body, []byte(`reason="`+reason+`"`)) {
			t.Errorf("after %s the feed is %s", after, feed.body)
		}
	}
}

// What a topic shows to whom is what a stream of the same shows.
func TestWhoIsShownATopic(t *testing.T) {
	h := startKeyedHub(t, func(c *Config) { c.Work = []string{"html"} })
	for name, public := range map[string]bool{"open": true, "closed": false} {
		if a := h.as(root, "PUT", "/v1/channels/"+name, fmt.Sprintf(`{"prefix":["https://en.example.org/","https://secret.example.org/"],"public":%t}`, public)); a.status != 201 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	for _, body := range []string{
		`{"uri":"https://secret.example.org/T","version":"1"}`,
		`{"uri":"https://en.example.org/wiki/A","type":"html","hash":"1","deps":[{"uri":"https://secret.example.org/T","seen":"1"}]}`,
		`{"uri":"https://secret.example.org/T","version":"2"}`,
	} {
		h.as(root, "POST", "/v1/updates", body)
	}
	h.settled()
	nothing := auth.Rights{Subject: "nothing", Publish: auth.Prefixes{"https://en.example.org/wiki"}}
	resource := func(uri string) string { return "resource?uri=" + url.QueryEscape(uri) }
	for _, c := range []struct {
		who   *auth.Rights
		topic string
		want  string // the resources shown, or status and slug
	}{
		{nil, "open", "A T A"},
		{nil, "closed", "401 unauthorized"},
		{nil, "absent", "401 unauthorized"},
		{nil, "all", "401 unauthorized"},
		{nil, resource("https://en.example.org/wiki/A"), "401 unauthorized"},
		{&nothing, "open", "A T A"},
		{&nothing, "closed", "404 unknown-channel"},
		{&nothing, "absent", "404 unknown-channel"},
		{&nothing, "all", "404 unknown-channel"},
		{&nothing, resource("https://en.example.org/wiki/A"), "403 forbidden"},
		{&enwiki, "open", "A T A"},
		{&enwiki, "closed", "A A"},
		{&enwiki, "absent", "404 unknown-channel"},
		{&enwiki, "all", "A A"},
		{&enwiki, resource("https://en.example.org/wiki/A"), "A A"},
		{&enwiki, resource("https://secret.example.org/T"), "403 forbidden"},
		{&enwiki, resource("https://secret.example.org/U"), "403 forbidden"},
		{&enwiki, "host:secret.example.org", ""},
		{&dewiki, "closed", "T"},
		{&root, "closed", "A T A"},
		{&root, "all", "A T A"},
		{&root, resource("https://secret.example.org/T"), "T"},
	} {
		var a *reply
		if c.who == nil {
			a = h.do("GET", "/topics/"+c.topic, "")
		} else {
			a = h.as(*c.who, "GET", "/topics/"+c.topic, "")
		}
		got := ""
		if a.status == 200 {
			d := documentOf(t, a)
			got = d.uris()
		} else {
			var p Problem
			json.Unmarshal(a.body, &p)
			got = fmt.Sprintf("%d %s", a.status, strings.TrimPrefix(p.Type, problemBase))
		}
		if got != c.want {
			t.Errorf("%v is shown of %s: %s, want %s", c.who, c.topic, got, c.want)
		}
		if anonymous := c.who == nil; a.status == 200 && (a.header.Get("Access-Control-Allow-Origin") == "*") != anonymous ||
			a.status == 200 && a.header.Get("Cache-Control") != map[bool]string{true: "public, no-cache", false: "private, no-cache"}[anonymous] {
			t.Errorf("%v, %s: headers %v", c.who, c.topic, a.header)
		}
		if bytes.Contains(a.body, []byte(`"https://secret.example.org/T"`)) && !strings.Contains(c.want, "T") {
			t.Errorf("%v is told of what it may not see: %s", c.who, a.body)
		}
	}
	for _, who := range []auth.Rights{nothing, enwiki} {
		absent, hidden := h.as(who, "GET", "/topics/absent", ""), h.as(who, "GET", "/topics/closed", "")
		if who.Subject == "nothing" && (hidden.status != absent.status || strings.ReplaceAll(string(hidden.body), "closed", "absent") != string(absent.body)) {
			t.Errorf("what is hidden answers %s, what is not there %s", hidden.body, absent.body)
		}
	}
	if a := h.as(root, "PUT", "/v1/channels/open", `{"prefix":["https://en.example.org/","https://secret.example.org/"]}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := h.do("GET", "/topics/open", ""); a.status != 401 {
		t.Errorf("a channel that is not public any more answers %d %s", a.status, a.body)
	}
}

func TestResourceIsNoNameForAChannel(t *testing.T) {
	h := startHub(t, nil)
	if a := h.do("PUT", "/v1/channels/resource", "{}"); a.status != 400 || !strings.Contains(string(a.body), "topics of resources") {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := h.do("GET", "/topics/resource", ""); a.status != 400 {
		t.Errorf("the topic of no resource answers %d %s", a.status, a.body)
	}
}

func TestHEADIsAnsweredAsGETWithoutABody(t *testing.T) {
	h := startHub(t, nil)
	for path, want := range map[string]int{"/healthz": 200, "/openapi.json": 200, "/v1/token": 200, "/metrics": 200, "/topics/all": 200,
		"/v1/resource": 400, "/v1/updates": 405, "/v1/stream": 405, "/nothing": 404} {
		resp, err := h.client.Head(h.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("HEAD %s answers %s, want %d", path, resp.Status, want)
		}
	}
}
