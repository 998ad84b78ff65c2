package subscriptions

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

func TestWhoIsShownWhat(t *testing.T) {
	const (
		page, html = "https://a.example/wiki/P", "https://a.example/wiki/P#html"
		template   = "https://a.example/wiki/Template:T"
		foreign    = "https://b.example/wiki/P"
	)
	all := []string{"(everything)"}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("https://a.example/wiki/P%d", i))
	}
	for _, c := range []struct {
		who      string
		prefixes []string
		filter   Filter
		public   bool
		uri      string
		cause    string
		want     showing
	}{
		{"who sees everything is shown everything", all, Filter{}, false, html, foreign, whole},
		{"nobody is shown what does not pass the filter", all, Filter{Type: []string{"page"}}, true, html, page, hidden},
		{"a resource of one's own, and its cause", []string{"https://a.example"}, Filter{}, false, html, template, whole},
		{"a resource of one's own without a cause", []string{html}, Filter{}, false, html, "", whole},
		{"a cause that is not one's own is left out", []string{page}, Filter{}, false, html, template, bare},
		{"also of a resource that was asked for by name", []string{page}, Filter{URI: []string{html}}, false, html, template, bare},
		{"also if the filter asks for the cause", []string{page}, Filter{Prefix: []string{"https://a.example"}}, false, html, template, bare},
		{"a prefix covers aspects", []string{page}, Filter{}, false, html, page, whole},
		{"an aspect does not cover its page", []string{html}, Filter{}, false, html, page, bare},
		{"a prefix is of whole segments", []string{"https://a.example/wik"}, Filter{}, false, html, page, hidden},
		{"another host is not covered", []string{"https://b.example"}, Filter{}, false, html, page, hidden},
		{"nor by asking for it", []string{"https://b.example"}, Filter{Host: []string{"a.example"}}, false, html, page, hidden},
		{"a scheme is no prefix", []string{"https://", "https:", "", "*"}, Filter{}, false, html, page, hidden},
		{"also among many", slices.Concat(many, []string{"https://", "https:", "https:/", "", "*"}), Filter{}, false, html, page, hidden},
		{"no prefix shows nothing", nil, Filter{}, false, html, page, hidden},
		{"one prefix of many", slices.Concat(many, []string{page}), Filter{}, false, html, page, whole},
		{"many prefixes, none of them", many, Filter{}, false, html, page, hidden},
		{"many prefixes, one of them a whole URI", many, Filter{}, false, "https://a.example/wiki/P7#html", page, bare},
		{"a public channel shows what passes it", nil, Filter{Prefix: []string{page}}, true, html, page, whole},
		{"its cause only if it lies in it", nil, Filter{Prefix: []string{page}}, true, html, template, bare},
		{"or is on a host it is about", nil, Filter{Host: []string{"a.example"}}, true, html, template, whole},
		{"or anywhere, if it is about everything", nil, Filter{Type: []string{"html"}}, true, html, foreign, whole},
		{"or is the resource itself", nil, Filter{URI: []string{"https://x.example/"}}, true, html, html, whole},
		{"or one's own", []string{template}, Filter{Prefix: []string{page}}, true, html, template, whole},
	} {
		m, err := Compile(c.filter)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.filter.URI) > 0 && c.public {
			m = &Matcher{list: 7, public: true} // a public channel keeps its URIs as a list
		}
		m.public = c.public
		if len(c.prefixes) != 1 || c.prefixes[0] != all[0] {
			m = m.seenBy(newSight(c.prefixes), c.public)
		}
		n := graph.Notice{URI: c.uri, Type: "html", Cause: graph.Cause{URI: c.cause}, Lists: []graph.ListID{7}}
		if got := m.show(&n); got != c.want {
			t.Errorf("%s: got %d, want %d", c.who, got, c.want)
		}
	}
}

func TestTheBareFrameIsMadeOnceForAllWhoGetIt(t *testing.T) {
	p := newPump(newMemJournal())
	var classes []*class
	for _, prefix := range []string{"https://a.example", "https://a.example/wiki", "https://a.example/wiki/A"} {
		m, err := Compile(Filter{})
		if err != nil {
			t.Fatal(err)
		}
		v := newSight([]string{prefix})
		classes = append(classes, p.join(classKey{sight: keyOf(v)}, m.seenBy(v, false)))
	}
	n := notice("https://a.example/wiki/A")
	n.Cursor, n.Cause.URI = graph.Cursor{Seq: 1}, "https://b.example/"
	p.dispatch([]graph.Notice{n}, n.Cursor)
	for i, c := range classes {
		if len(c.hits) != 1 || c.hits[0] != classes[0].hits[0] || strings.Contains(string(c.hits[0].bytes), "b.example") {
			t.Errorf("class %d has %d frames, want the one that all share, without the cause", i, len(c.hits))
		}
	}
	var r frameRing
	if f := r.of(&n); f.bare() != r.of(&n).bare() {
		t.Error("read back, it is made twice")
	}
}

func TestAThousandTenantsAreNotAllAskedAboutANotice(t *testing.T) {
	p := newPump(newMemJournal())
	for _, f := range []Filter{{}, {Type: []string{"html"}}, {Bucket: []string{"x"}}} {
		m, err := Compile(f)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1000 {
			v := newSight([]string{fmt.Sprintf("https://en.example.org/w%d", i)})
			p.join(classKey{asked: filterKey(f), sight: keyOf(v)}, m.seenBy(v, false))
		}
	}
	n, asked := notice("https://en.example.org/w7/Berlin"), 0
	n.Buckets = []string{"x"}
	p.index.candidates(&n, func(*class) { asked++ })
	if asked != 3 {
		t.Errorf("%d classes were asked, want the three of the one tenant", asked)
	}
}

func TestOfTheStoreIsReadWhatAViewerMaySee(t *testing.T) {
	m, err := Compile(Filter{Type: []string{"html"}})
	if err != nil {
		t.Fatal(err)
	}
	v := newSight([]string{"https://a.example/x", "https://a.example/y"})
	want := []graph.Key{graph.PrefixKey("https://a.example/x"), graph.PrefixKey("https://a.example/y")}
	if got := m.seenBy(v, false).pick().Keys; len(got) != 2 || !slices.Equal(got[0], want) {
		t.Errorf("got %v, want the keys of both prefixes beside that of the type", got)
	}
	if got := m.seenBy(v, true).pick().Keys; len(got) != 1 {
		t.Errorf("by a public channel: got %v, want the key of the type alone", got)
	}
}

func TestNothingIsReadBackForAClassThatEnded(t *testing.T) {
	j := newMemJournal()
	j.add(notice("https://a.example/"))
	s := NewStreamer(j, StreamOptions{Portable: true})
	c := join(t, s.pump, Filter{})
	from := graph.Cursor{Epoch: j.epoch}
	c.end(access)
	b, err := s.replay(c, eventStream{}, from)
	if err != nil || len(b.frames) != 0 || b.to != from {
		t.Errorf("got %+v, %v", b, err)
	}
	if _, ok := c.after(j.Token().Seq); ok {
		t.Error("its streams move on to the head")
	}
}

// The callers of the tests are named by a header.
var someViewers = map[string]Viewer{
	"":         {Anonymous: true, All: true, Prefixes: []string{"https://a.example"}}, // what is not anonymous' counts for nothing
	"admin":    {Name: "admin", All: true},
	"nobody":   {Name: "nobody"},
	"a":        {Name: "a", Prefixes: []string{"https://a.example"}},
	"wiki":     {Name: "wiki", Prefixes: []string{"https://a.example/wiki/", "https://aa.example"}},
	"one":      {Name: "one", Prefixes: []string{"https://b.example/wiki/P1"}},
	"aspect":   {Name: "aspect", Prefixes: []string{"https://a.example/wiki/P3#html", "https://a.example/wiki/Template:T1"}},
	"many":     {Name: "many", Prefixes: manyPages()},
	"stranger": {Name: "stranger", Prefixes: []string{"https://c.example", "https://a.exam"}},
}

func manyPages() (prefixes []string) {
	for i := range 15 {
		prefixes = append(prefixes, fmt.Sprintf("https://%s/wiki/P%d", someHosts[i%3], i))
	}
	return prefixes
}

var errBadToken = errors.New("the token is not good")

func viewerOf(r *http.Request) (Viewer, error) {
	v, ok := someViewers[r.Header.Get("X-Viewer")]
	if !ok {
		return Viewer{All: true}, errBadToken
	}
	return v, nil
}

func TestWhatAViewerMayNotAskForIsRefused(t *testing.T) {
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	for name, public := range map[string]bool{"open": true, "closed": false} {
		if _, _, err := channels.Put(t.Context(), name, Definition{Public: public}); err != nil {
			t.Fatal(err)
		}
	}
	s := serveTCP(t, store, StreamOptions{Channels: channels, Viewer: viewerOf})
	const login = `401 {"type":"urn:freshwire:problem:unauthorized","title":"Unauthorized","status":401,"detail":"send a token, or ask for a public channel"}`
	for _, c := range []struct {
		who, query string
		want       string // the status, and what the body has
	}{
		{"", "channel=open", "200"},
		{"", "", login},
		{"", "uri=https://a.example/", login},
		{"", "uri=berlin", login},
		{"", "channel=closed", login},
		{"", "channel=unknown", login},
		{"", "channel=all", login},
		{"", "channel=host:a.example", login},
		{"", "channel=host:%ff", login},
		{"", "channel=open&uri=https://a.example/", login},
		{"", "channel=unknown&uri=https://a.example/", login},
		{"forger", "channel=open", "401 " + errBadToken.Error()},
		{"nobody", "channel=open", "200"},
		{"nobody", "", "403 forbidden"},
		{"nobody", "channel=closed", `403 forbidden "field":"channel"`},
		{"nobody", "channel=all", `403 forbidden "field":"channel"`},
		{"nobody", "channel=unknown", "404 unknown-channel"},
		{"a", "channel=closed", "200"},
		{"a", "channel=all", "200"},
		{"a", "channel=type:html", "200"},
		{"a", "", "200"},
		{"a", "uri=https://a.example/wiki/A%23html&host=b.example", "200"},
		{"a", "host=b.example&type=page&bucket=x", "200"},
		{"a", "uri=https://a.example/&uri=https://b.example/", `403 forbidden "field":"uri"`},
		{"a", "uri=https://a.example.org/", `403 forbidden "field":"uri"`},
		{"a", "uri=http://a.example/", `403 forbidden "field":"uri"`},
		{"a", "uri=berlin", "400 bad-filter"},
		{"a", "prefix=https://b.example", `403 forbidden "field":"prefix"`},
		{"wiki", "prefix=https://a.example", "200"},
		{"wiki", "prefix=https://a.example/wiki", "200"},
		{"wiki", "prefix=https://a.example/wiki/", "200"},
		{"wiki", "prefix=https://a.example/wiki/A", "200"},
		{"wiki", "prefix=https://a.example/wikitext", `403 forbidden "field":"prefix"`},
		{"wiki", "uri=https://a.example/wiki", `403 forbidden "field":"uri"`},
		{"many", "prefix=https://a.example/wiki/P3&prefix=https://b.example", "200"},
		{"many", "uri=https://a.example/wiki/P30", `403 forbidden "field":"uri"`},
		{"admin", "uri=https://b.example/", "200"},
	} {
		resp := s.do(t, "GET", c.query, "", "X-Viewer", c.who)
		body := []byte{}
		if resp.StatusCode != 200 {
			body, _ = io.ReadAll(resp.Body)
		}
		resp.Body.Close()
		got := fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body)))
		if ok := got == c.want; !ok {
			ok = c.want != login
			for _, part := range strings.Fields(c.want) {
				ok = ok && strings.Contains(got, part)
			}
			if !ok {
				t.Errorf("%q asks for %q: got %s, want %s", c.who, c.query, got, c.want)
			}
		}
		if ask := resp.Header.Get("WWW-Authenticate"); (ask == "Bearer") != (resp.StatusCode == 401 && c.who == "") {
			t.Errorf("%q asks for %q: WWW-Authenticate is %q", c.who, c.query, ask)
		}
		wantOrigin := ""
		if c.who == "" && resp.StatusCode == 200 {
			wantOrigin = "*"
		}
		if got := resp.Header; got.Get("Access-Control-Allow-Origin") != wantOrigin || got.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%q asks for %q: headers %v", c.who, c.query, got)
		}
	}
}

func TestABodyIsNotReadForACallerWithoutAToken(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := serve(t, newMemJournal(), StreamOptions{Viewer: viewerOf})
		for _, c := range []struct {
			who, body string
			status    int
		}{{"", "{", 401}, {"", `{"uri":["https://a.example/"]}`, 401}, {"a", "{", 400}, {"a", `{"uri":["https://b.example/"]}`, 403}, {"a", `{"uri":["https://a.example/"]}`, 200}} {
			resp := s.do(t, "POST", "", c.body, "Content-Type", "application/json", "X-Viewer", c.who)
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%q sends %s: got %s, want %d", c.who, c.body, resp.Status, c.status)
			}
		}
	})
}

func TestARightThatHasEndedBeginsNoStream(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		until := time.Now().Add(time.Minute)
		s := serve(t, newMemJournal(), StreamOptions{Viewer: func(*http.Request) (Viewer, error) {
			return Viewer{Prefixes: []string{"https://a.example"}, Expires: until}, nil
		}})
		if body, err := io.ReadAll(s.do(t, "GET", "", "").Body); err != nil || !time.Now().Equal(until) || !strings.Contains(string(body), ": expired\nretry: ") {
			t.Errorf("the stream ended %s after its reader's right, with %q %v", time.Since(until), body, err)
		}
		resp := s.do(t, "GET", "", "")
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || s.Stats().Opened != 1 {
			t.Errorf("afterwards got %s", resp.Status)
		}
	})
}

func TestAViewerAndAnAddressWithoutATokenHaveABoundedNumberOfStreams(t *testing.T) {
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	if _, _, err := channels.Put(t.Context(), "open", Definition{Public: true}); err != nil {
		t.Fatal(err)
	}
	s := serveTCP(t, store, StreamOptions{Channels: channels, Viewer: viewerOf, MaxPerName: 3, MaxPublicPerAddr: 2, MaxPerAddr: 6,
		ClientAddr: func(r *http.Request) string { return r.Header.Get("X-Addr") }})
	var open []*reader
	ask := func(who, addr string, limit int) {
		t.Helper()
		resp := s.do(t, "GET", "channel=open", "", "X-Viewer", who, "X-Addr", addr)
		if limit == 0 {
			open = append(open, newReader(t, resp))
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "30" ||
			!strings.Contains(string(body), "too-many-streams") || !strings.Contains(string(body), fmt.Sprintf(`"limit":%d}`, limit)) {
			t.Errorf("%q at %s: got %s %v: %s, want a limit of %d", who, addr, resp.Status, resp.Header, body, limit)
		}
	}
	for _, addr := range []string{"1", "2", "3"} {
		ask("a", addr, 0)
	}
	ask("a", "4", 3) // whatever the address
	ask("admin", "4", 0)
	ask("", "1", 0)
	ask("", "1", 0)
	ask("", "1", 2)
	ask("", "2", 0)
	for range 3 {
		ask("many", "1", 0) // those of all at the address
	}
	ask("wiki", "1", 6)
	open[0].body.Close()
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Open != len(open)-1; {
		if time.Now().After(deadline) {
			t.Fatalf("%d streams are open", s.Stats().Open)
		}
	}
	ask("a", "4", 0)
	for _, r := range open {
		r.body.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Open != 0 || len(s.Streamer.open) != 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%v are still counted", s.Streamer.open)
		}
	}
}

func TestAReaderWithoutATokenIsWrittenToTwiceASecond(t *testing.T) {
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	if _, _, err := channels.Put(t.Context(), "open", Definition{Public: true}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		query string
		v     Viewer
		want  time.Duration
	}{{"channel=open", Viewer{Anonymous: true}, publicLinger}, {"channel=open&linger=2s", Viewer{Anonymous: true}, 2 * time.Second},
		{"channel=open", Viewer{}, 0}, {"linger=100ms", Viewer{All: true}, 100 * time.Millisecond}} {
		r, err := http.NewRequest("GET", "/?"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseRequest(nil, r, &c.v, nil, channels); err != nil || got.linger != c.want {
			t.Errorf("%+v asks for %s: gathered for %s (%v), want %s", c.v, c.query, got.linger, err, c.want)
		}
	}
}

// hostsOf returns the hosts of what comes until r ends or has n notices more.
func hostsOf(r *reader, n int) (hosts string) {
	for range n {
		e, ok := r.next()
		if !ok {
			return hosts + "end"
		}
		for _, host := range someHosts {
			if strings.Contains(string(e.data), "https://"+host) {
				hosts += host + " "
			}
		}
	}
	return hosts
}

func TestAChannelThatCeasesToBePublicIsJudgedAnew(t *testing.T) {
	transports(t, judgedAnew)
}

func judgedAnew(t *testing.T, o StreamOptions) {
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	o.Channels, o.Viewer = channels, viewerOf
	s := serveTCP(t, store, o)
	put := func(public bool) graph.Cursor {
		t.Helper()
		info, _, err := channels.Put(t.Context(), "news", Definition{Public: public})
		if err != nil {
			t.Fatal(err)
		}
		return info.At
	}
	version := 1000
	write := func() { // one notice of each host
		t.Helper()
		version++
		var updates []graph.Update
		for _, host := range someHosts {
			updates = append(updates, graph.Update{URI: "https://" + host + "/wiki/P1", Type: "page", Version: fmt.Sprint(version)})
		}
		if _, err := store.Apply(t.Context(), "test", updates); err != nil {
			t.Fatal(err)
		}
	}
	const everything, own = "a.example b.example aa.example ", "a.example "
	put(false)
	write()
	from := store.Oldest().String()
	before := s.open(t, "channel=news&since="+from, "X-Viewer", "a")
	if got := hostsOf(before, 1); got != own {
		t.Errorf("of a channel that is not public, got %s", got)
	}
	put(true) // nothing of before is public
	if got := hostsOf(before, 1); got != "end" {
		t.Errorf("made public, the stream goes on with %s", got)
	}
	write()
	anonymous, tenant, admin := s.open(t, "channel=news&since="+from), s.open(t, "channel=news", "X-Viewer", "a", "Last-Event-ID", before.lastID), s.open(t, "channel=news&since="+from, "X-Viewer", "admin")
	if got := hostsOf(anonymous, 3); got != everything {
		t.Errorf("without a token, got %s", got)
	}
	if got := hostsOf(tenant, 3); got != everything {
		t.Errorf("resumed after it was made public, got %s", got)
	}
	if got := hostsOf(admin, 6); got != everything+everything {
		t.Errorf("who sees everything got %s", got)
	}
	put(true) // replaced, it stays public
	write()
	if got := hostsOf(anonymous, 3) + hostsOf(tenant, 3) + hostsOf(admin, 3); got != everything+everything+everything {
		t.Errorf("replaced by a public one, got %s", got)
	}
	at := tenant.lastID
	put(false)
	write()
	if got := hostsOf(anonymous, 1) + hostsOf(tenant, 1) + hostsOf(admin, 3); got != "endend"+everything {
		t.Errorf("no longer public, got %s", got)
	}
	resp := s.do(t, "GET", "channel=news", "", "Last-Event-ID", at)
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("resumed without a token: %s", resp.Status)
	}
	again := s.open(t, "channel=news&since="+from, "X-Viewer", "a")
	if got := hostsOf(again, 4); got != strings.Repeat(own, 4) {
		t.Errorf("read from its start, it shows %s", got)
	}
	resumed := s.open(t, "channel=news", "X-Viewer", "a", "Last-Event-ID", at)
	if got := hostsOf(resumed, 1); got != own {
		t.Errorf("resumed, got %s", got)
	}
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Ended["access"] != 3; {
		if time.Now().After(deadline) {
			t.Fatalf("streams ended %v, want three that were judged anew", s.Stats().Ended)
		}
	}
	for _, r := range []*reader{before, anonymous, tenant, admin, again, resumed} {
		r.body.Close()
	}
}
