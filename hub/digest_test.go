package hub

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/digest"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/auth"
	"github.com/klauspost/compress/zstd"
)

// hourly has an hour pass in a second.
func hourly(c *Config) { c.ClockRate = 3600 }

// closed waits until a channel's digest has all of the journal up to a position, and
// returns its state.
func (h *testHub) closed(channel string, upTo graph.Cursor, header ...string) (s digest.State) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		a := h.do("GET", "/digest/"+channel+"/state.json", "", header...)
		if a.status == 200 {
			if err := json.Unmarshal(a.body, &s); err != nil {
				h.t.Fatal(err)
			}
			if s.LastOffset >= upTo.Seq {
				return s
			}
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the digest of %s is at %d %s", channel, a.status, a.body)
		}
	}
}

// raw sends a request and leaves the answer in its coding.
func (h *testHub) raw(method, path string, header ...string) *reply {
	h.t.Helper()
	return h.do(method, path, "", append([]string{"Accept-Encoding", "identity"}, header...)...)
}

func (h *testHub) manifestOf(channel string, s *digest.State, header ...string) (m digest.Manifest) {
	h.t.Helper()
	a := h.raw("GET", "/digest/"+channel+"/"+s.Manifest, header...)
	if err := json.Unmarshal(a.body, &m); err != nil || a.status != 200 {
		h.t.Fatalf("%s: %d %s %v", s.Manifest, a.status, a.body, err)
	}
	return m
}

// withEntries goes back to an hour that has some.
func (h *testHub) withEntries(channel string, s digest.State, header ...string) (folder string, m digest.Manifest) {
	h.t.Helper()
	for {
		m = h.manifestOf(channel, &s, header...)
		if m.Entries > 0 {
			return "/digest/" + channel + "/" + strings.TrimSuffix(s.Manifest, "manifest.json"), m
		}
		if m.Prev == nil {
			h.t.Fatal("no hour has entries")
		}
		s.Manifest = digest.Hour.Folder(m.From.Add(-time.Hour)) + "manifest.json"
	}
}

func TestAClosedHourIsServedWithConditionsRangesAndCodings(t *testing.T) {
	h := startHub(t, hourly)
	var pages []string
	for i := range 40 {
		pages = append(pages, fmt.Sprintf("Page_%d", i))
	}
	putPages(t, h, 1, pages...)
	s := h.closed("all", h.store.Token())
	folder, m := h.withEntries("all", s)
	file := folder + "digest.ndjson"
	plain := h.raw("GET", file)
	if lines := bytes.Count(plain.body, []byte("\n")); plain.status != 200 || uint64(lines) != m.Entries || plain.header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%d lines of %d entries: %d %v", lines, m.Entries, plain.status, plain.header)
	}
	if got := plain.header.Get("Cache-Control"); got != "private, max-age=31536000, immutable" {
		t.Errorf("a closed file is to be kept: %s", got)
	}
	if got := plain.header.Get("Last-Modified"); got != m.ClosedAt.Format(http.TimeFormat) {
		t.Errorf("Last-Modified is %s, closed at %s", got, m.ClosedAt)
	}
	tags := map[string]string{}
	for coding, decode := range map[string]func(io.Reader) (io.Reader, error){
		"gzip": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		"zstd": func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) },
	} {
		a := h.raw("GET", file, "Accept-Encoding", coding)
		r, err := decode(bytes.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(b, plain.body) || a.header.Get("Content-Encoding") != coding || a.header.Get("Content-Length") != fmt.Sprint(len(a.body)) {
			t.Errorf("in %s: %v %v", coding, err, a.header)
		}
		tags[a.header.Get("ETag")] = coding
		part := h.raw("GET", file, "Accept-Encoding", coding, "Range", "bytes=10-19")
		if part.status != 206 || !bytes.Equal(part.body, a.body[10:20]) || part.header.Get("Content-Encoding") != coding {
			t.Errorf("a range in %s: %d %v", coding, part.status, part.header)
		}
		suffix := map[string]string{"gzip": ".gz", "zstd": ".zst"}[coding]
		download := h.raw("GET", file+suffix, "Accept-Encoding", "gzip, zstd")
		if download.header.Get("Content-Encoding") != "" || download.header.Get("Content-Type") != "application/"+coding || !bytes.Equal(download.body, a.body) {
			t.Errorf("%s is no plain download: %v", suffix, download.header)
		}
	}
	tag := plain.header.Get("ETag")
	if tags[tag] = "plain"; len(tags) != 3 {
		t.Errorf("the tags of three codings are %v", tags)
	}
	size := len(plain.body)
	for _, c := range []struct {
		name   string
		method string
		header []string
		want   int
		body   []byte
	}{
		{"its tag", "GET", []string{"If-None-Match", tag}, 304, nil},
		{"its tag in a list", "GET", []string{"If-None-Match", `"x", ` + tag}, 304, nil},
		{"a weak tag", "GET", []string{"If-None-Match", "W/" + tag}, 304, nil},
		{"another coding's tag", "GET", []string{"If-None-Match", h.raw("HEAD", file, "Accept-Encoding", "zstd").header.Get("ETag")}, 200, plain.body},
		{"its date", "GET", []string{"If-Modified-Since", m.ClosedAt.Format(http.TimeFormat)}, 304, nil},
		{"an earlier date", "GET", []string{"If-Modified-Since", m.ClosedAt.Add(-time.Second).Format(http.TimeFormat)}, 200, plain.body},
		{"HEAD", "HEAD", nil, 200, []byte{}},
		{"the end", "GET", []string{"Range", "bytes=-5"}, 206, plain.body[size-5:]},
		{"from the middle", "GET", []string{"Range", "bytes=100-"}, 206, plain.body[100:]},
		{"with its tag", "GET", []string{"Range", "bytes=0-4", "If-Range", tag}, 206, plain.body[:5]},
		{"with another tag", "GET", []string{"Range", "bytes=0-4", "If-Range", `"x"`}, 200, plain.body},
		{"beyond the end", "GET", []string{"Range", fmt.Sprintf("bytes=%d-", size)}, 416, nil},
	} {
		a := h.raw(c.method, file, c.header...)
		if a.status != c.want || c.body != nil && !bytes.Equal(a.body, c.body) {
			t.Errorf("%s: got %d with %d bytes, want %d with %d", c.name, a.status, len(a.body), c.want, len(c.body))
		}
		if c.want == 416 && (a.header.Get("Content-Type") != typeProblem || a.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", size)) {
			t.Errorf("%s: %v %s", c.name, a.header, a.body)
		}
		if c.method == "HEAD" && a.header.Get("Content-Length") != fmt.Sprint(size) {
			t.Errorf("HEAD says %v", a.header)
		}
	}
}

func TestWhatTheClientLikesBestOfTheCodings(t *testing.T) {
	h := startHub(t, hourly)
	putPages(t, h, 1, "A", "B", "C", "D", "E", "F")
	folder, _ := h.withEntries("all", h.closed("all", h.store.Token()))
	for accept, want := range map[string]string{
		"identity": "", "gzip": "gzip", "zstd": "zstd", "gzip, deflate, br, zstd": "zstd", "gzip;q=1, zstd;q=0.5": "gzip", "*": "zstd", "*;q=0, gzip": "gzip",
		"zstd;q=0, gzip": "gzip", "br": "", "identity;q=1, gzip;q=0.5": "", "x-gzip": "gzip", "GZIP": "gzip", "gzip;q=0": "", ";;": "", "identity;q=0": "",
	} {
		a := h.raw("GET", folder+"digest.ndjson", "Accept-Encoding", accept)
		if got := a.header.Get("Content-Encoding"); got != want || a.status != 200 || !strings.HasPrefix(a.header.Get("Vary"), "Accept-Encoding") {
			t.Errorf("%q gets %q (%d, Vary %s), want %q", accept, got, a.status, a.header.Get("Vary"), want)
		}
	}
}

func TestADigestThatIsNotThereIsYetToComeOrExpiredOrUnknown(t *testing.T) {
	h := startHub(t, hourly)
	putPages(t, h, 1, "A")
	s := h.closed("all", h.store.Token())
	for _, c := range []struct {
		path string
		want string
	}{
		{"/digest/all/" + digest.Hour.Folder(s.Until.AddDate(0, 0, 1)) + "manifest.json", "404 not-yet"},
		{"/digest/all/" + digest.Day.Folder(s.Until) + "manifest.json", "404 not-yet"},
		{"/digest/all/" + digest.Hour.Folder(s.From.AddDate(0, 0, -1)) + "manifest.json", "404 not-found"},
		{"/digest/all/h/2026/1/1/1/manifest.json", "404 not-found"},
		{"/digest/all/nothing.json", "404 not-found"},
		{"/digest/all/plan.json", "404 not-found"},
		{"/digest/none/state.json", "404 no-digest"},
		{"/digest/all/since?seq=99999", "404 not-yet"},
		{"/digest/all/since?seq=x", "400 bad-query"},
		{"/digest/all/since", "400 bad-query"},
		{"/digest/all/state.json?x=1", "400 bad-query"},
	} {
		a := h.raw("GET", c.path)
		if got := refusedWith(a); got != c.want || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got %s %v, want %s", c.path, got, a.header, c.want)
		}
	}
	for _, path := range []string{"/digest/all/..%2f..%2fkeys", "/digest/..%2f..%2fetc/passwd", "/digest/all/h/2026/11/22/10/..%2f..%2f..%2f..%2f..%2fplan.json", "/digest/.removed/state.json"} {
		if a := h.raw("GET", path); a.status != 404 {
			t.Errorf("%s answers %d %s", path, a.status, a.body)
		}
	}
}

// refusedWith is the status and the kind of a problem.
func refusedWith(a *reply) string {
	var p Problem
	if json.Unmarshal(a.body, &p) != nil {
		return fmt.Sprint(a.status)
	}
	return fmt.Sprintf("%d %s", a.status, strings.TrimPrefix(p.Type, problemBase))
}

// The digests up to their last position and the stream from there are the journal, with
// nothing twice.
func TestDigestsAndTheStreamFromWhereTheyEndAreTheJournal(t *testing.T) {
	h := startHub(t, hourly)
	for i := range 30 {
		putPages(t, h, i+1, "A", fmt.Sprintf("B%d", i%7), fmt.Sprintf("C%d", i))
		<-time.After(60 * time.Millisecond)
	}
	half := h.store.Token()
	s := h.closed("all", half)
	putPages(t, h, 100, "A", "Late")
	putPages(t, h, 101, "Later")
	type hour struct{ first, last, notices uint64 }
	var hours []hour
	had := map[string]uint64{}
	for at := s; ; {
		m := h.manifestOf("all", &at)
		hours = append(hours, hour{m.FirstOffset, m.LastOffset, m.Notices})
		for _, f := range m.Files {
			if f.Role != digest.RoleNDJSON {
				continue
			}
			for line := range strings.Lines(string(h.raw("GET", "/digest/all/"+strings.TrimSuffix(at.Manifest, "manifest.json")+f.Href).body)) {
				var e digest.Entry
				if err := json.Unmarshal([]byte(line), &e); err != nil || e.Offset < m.FirstOffset || e.Offset > m.LastOffset {
					t.Fatalf("%s: %v", line, err)
				}
				had[e.URI] += e.Count
			}
		}
		if m.Prev == nil {
			break
		}
		at.Manifest = digest.Hour.Folder(m.From.Add(-time.Hour)) + "manifest.json"
	}
	slices.Reverse(hours)
	next, sum := hours[0].first, uint64(0)
	for _, one := range hours {
		if one.first != next || one.notices != one.last-one.first+1 {
			t.Fatalf("an hour has %+v, and is to begin at %d", one, next)
		}
		next, sum = one.last+1, sum+one.notices
	}
	if next != s.LastOffset+1 || sum != s.LastOffset {
		t.Fatalf("the hours have %d notices up to %d, and end with %d", sum, next-1, s.LastOffset)
	}
	// What the stream has from there on is the rest.
	base, err := url.Parse(h.URL() + "/digest/all/state.json")
	if err != nil {
		t.Fatal(err)
	}
	from, err := base.Parse(s.Stream)
	if err != nil {
		t.Fatal(err)
	}
	streamed, err := h.client.Get(from.String())
	if err != nil {
		t.Fatal(err)
	}
	defer streamed.Body.Close()
	newest := h.store.Token().Seq
	for at := s.LastOffset; at < newest; {
		n, err := nextNotice(streamed.Body)
		if err != nil || n.Seq != at+1 {
			t.Fatalf("after %d the stream has %d: %v", at, n.Seq, err)
		}
		at, had[n.URI] = n.Seq, had[n.URI]+1
	}
	all, _, err := h.store.Scan(nil, h.store.Oldest(), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		had[n.URI]--
	}
	for uri, n := range had {
		if n != 0 {
			t.Errorf("%s was told %d times too often", uri, int64(n))
		}
	}
}

// nextNotice reads a stream up to the end of the next notice.
func nextNotice(r io.Reader) (n struct {
	Seq uint64
	URI string
}, err error) {
	var line []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, one); err != nil {
			return n, err
		}
		if one[0] != '\n' {
			line = append(line, one[0])
			continue
		}
		if data, ok := bytes.CutPrefix(line, []byte("data: {\"seq\"")); ok {
			return n, json.Unmarshal(append([]byte(`{"seq"`), data...), &n)
		}
		line = line[:0]
	}
}

var (
	everything = auth.Rights{Subject: "reader", Subscribe: auth.Prefixes{"*"}}
	nothing    = auth.Rights{Subject: "nothing", Publish: auth.Prefixes{"https://en.example.org/wiki"}}
)

func (h *keyedHub) bearer(r auth.Rights) []string {
	return []string{"Authorization", "Bearer " + h.token(r)}
}

// startDigestedHub runs a hub with digests of a public channel and of others.
func startDigestedHub(t *testing.T) (h *keyedHub, states map[string]digest.State) {
	t.Helper()
	h = startKeyedHub(t, hourly)
	for name, definition := range map[string]string{
		"open":   `{"host":["en.example.org"],"public":true,"digest":true}`,
		"closed": `{"host":["en.example.org","secret.example.org"],"digest":true}`,
		"one":    `{"prefix":["https://en.example.org/wiki"],"digest":true}`,
		"none":   `{"prefix":["https://en.example.org/wiki"],"public":true}`,
	} {
		if a := h.as(root, "PUT", "/v1/channels/"+name, definition); a.status/100 != 2 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	for _, uri := range []string{"https://en.example.org/wiki/A", "https://secret.example.org/B"} {
		h.as(root, "POST", "/v1/updates", `{"uri":"`+uri+`","version":"1"}`)
	}
	h.settled()
	states = map[string]digest.State{}
	for _, name := range []string{"all", "open", "closed", "one"} {
		states[name] = h.closed(name, h.store.Token(), h.bearer(root)...)
	}
	return h, states
}

func TestWhoMayReadADigest(t *testing.T) {
	h, states := startDigestedHub(t)
	for _, c := range []struct {
		who  *auth.Rights
		name string
		want string
	}{
		{nil, "open", "200"}, {nil, "closed", "401 unauthorized"}, {nil, "all", "401 unauthorized"}, {nil, "one", "401 unauthorized"}, {nil, "absent", "401 unauthorized"},
		{nil, "none", "404 no-digest"},
		{&enwiki, "open", "200"}, {&enwiki, "one", "200"}, {&enwiki, "closed", "403 forbidden"}, {&enwiki, "all", "403 forbidden"}, {&enwiki, "absent", "404 no-digest"},
		{&nothing, "open", "200"}, {&nothing, "one", "403 forbidden"},
		{&everything, "closed", "200"}, {&everything, "all", "200"}, {&root, "all", "200"},
	} {
		var header []string
		if c.who != nil {
			header = h.bearer(*c.who)
		}
		names := []string{"state.json", "feed.atom", "feed.json", "hours.atom", "changelist.xml", "recent/changelist.xml", "capabilitylist.xml", "since?seq=0"}
		if s, ok := states[c.name]; ok {
			names = append(names, s.Manifest, s.Manifest+".sig", strings.Replace(s.Manifest, "manifest.json", "digest.ndjson", 1))
		}
		for _, name := range names {
			for _, method := range []string{"GET", "HEAD"} {
				a := h.raw(method, "/digest/"+c.name+"/"+name, header...)
				got := refusedWith(a)
				if got = got[:min(len(got), len(c.want))]; method == "HEAD" {
					got, c.want = fmt.Sprint(a.status), c.want[:3]
				}
				if name == "recent/changelist.xml" && c.want == "200" {
					if strings.Contains(string(a.body), "secret") && c.name != "all" && c.name != "closed" {
						t.Errorf("%s shows %s", c.name, a.body)
					}
				}
				if got != c.want {
					t.Errorf("%v %s of %s: got %s, want %s", c.who, name, c.name, got, c.want)
				}
				if cors := a.header.Get("Access-Control-Allow-Origin"); (cors == "*") != (c.who == nil && c.want == "200") {
					t.Errorf("%v %s of %s: Access-Control-Allow-Origin is %q", c.who, name, c.name, cors)
				}
				if cached := a.header.Get("Cache-Control"); strings.Contains(cached, "public") && c.who != nil {
					t.Errorf("what was asked for with a token is %s", cached)
				}
			}
		}
	}
	if a := h.as(enwiki, "PUT", "/v1/channels/mine", `{"prefix":["https://en.example.org/wiki"],"digest":true}`); refusedWith(a) != "403 forbidden" {
		t.Errorf("who is no administrator has a digest made: %d %s", a.status, a.body)
	}
}

func TestDigestsAreListedForWhoMayReadThem(t *testing.T) {
	h, _ := startDigestedHub(t)
	for _, c := range []struct {
		who  []string
		want string
	}{{nil, "open"}, {h.bearer(enwiki), "one open"}, {h.bearer(everything), "all closed one open"}} {
		var listed struct{ Items []digestShape }
		a := h.raw("GET", "/v1/digests", c.who...)
		if err := json.Unmarshal(a.body, &listed); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, item := range listed.Items {
			names = append(names, item.Channel)
		}
		page, source := h.raw("GET", "/digest/", c.who...), h.raw("GET", "/.well-known/resourcesync", c.who...)
		if strings.Join(names, " ") != c.want {
			t.Errorf("listed are %v, want %s", names, c.want)
		}
		for _, name := range []string{"all", "closed", "one", "open"} {
			shown := slices.Contains(names, name)
			if bytes.Contains(page.body, []byte("/digest/"+name+"/")) != shown || bytes.Contains(source.body, []byte("/digest/"+name+"/")) != shown {
				t.Errorf("%s is on the page or in the source description, or is not, for %s", name, c.want)
			}
		}
		if page.header.Get("Content-Security-Policy") != digest.IndexPolicy {
			t.Errorf("the page is sent with %v", page.header)
		}
	}
}

func TestABrowserOfAnyOriginMayAskForPublicDigestsWithConditions(t *testing.T) {
	h := startKeyedHub(t, nil)
	h.as(root, "PUT", "/v1/channels/open", `{"host":["en.example.org"],"public":true,"digest":true}`)
	h.as(root, "PUT", "/v1/channels/closed", `{"host":["en.example.org"],"digest":true}`)
	for name, want := range map[string]string{"open": "*", "closed": "", "absent": ""} {
		a := h.raw("OPTIONS", "/digest/"+name+"/feed.atom", "Origin", "https://page.example", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "if-none-match")
		if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != want || strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "If-None-Match") != (want == "*") {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
	}
}

// A hub that was off publishes the hours that it missed, and goes on.
func TestAHubThatWasOffPublishesTheHoursItMissed(t *testing.T) {
	dir := t.TempDir()
	start := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	run := func(at time.Time, during func(h *testHub)) {
		cfg := DefaultConfig()
		cfg.Listen, cfg.Data, cfg.Cache, cfg.ClockStart, cfg.ClockRate = "127.0.0.1:0", dir, minCache, at, 3600
		hub, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- hub.Run(ctx) }()
		during(&testHub{hub, t, http.DefaultClient})
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	var before digest.State
	run(start, func(h *testHub) {
		putPages(t, h, 1, "A", "B")
		before = h.closed("all", h.store.Token())
		putPages(t, h, 2, "B")
	})
	run(start.Add(30*time.Hour), func(h *testHub) {
		for {
			s := h.closed("all", h.store.Token())
			if !s.From.Before(start.Add(30 * time.Hour)) {
				reasons := map[string]int{}
				for from := before.Until; from.Before(s.Until); from = from.Add(time.Hour) {
					m := h.manifestOf("all", &digest.State{Manifest: digest.Hour.Folder(from) + "manifest.json"})
					reasons[m.Reason]++
					if m.Complete != (m.Reason == "") || m.Reason == "missed" && m.From.Sub(before.Until) > 2*time.Hour && m.Entries > 0 {
						t.Errorf("hour %d: %+v", m.Seq, m)
					}
				}
				if reasons["missed"] < 25 || reasons[""] < 1 || len(reasons) != 2 {
					t.Errorf("the hours since are %v", reasons)
				}
				if _, err := h.archive.Find("all", digest.Day.Folder(start)+"manifest.json", false); err != nil {
					t.Errorf("the day that ended meanwhile: %v", err)
				}
				return
			}
		}
	})
}
