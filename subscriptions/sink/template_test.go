package sink

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

func TestAValueIsWrittenForItsPlace(t *testing.T) {
	const rules = `{name: a, match: {uri: '^https?://(?P<host>[^/]+)/wiki/(?P<title>.*)$'}, http: {method: POST, `
	cafe := notice("https://e.example/wiki/Caf%C3%A9,_Bar/%22x%22%3B?a=b&c#html/userlang=de", "html", "https://e.example/wiki/Caf%C3%A9,_Bar", "b c")
	for _, tt := range []struct {
		name, request string
		want          func(*Call) string
		text          string
	}{
		{"a segment", `url: "https://s.example/page/{title}/html"`, urlOf, "https://s.example/page/Caf%C3%A9%2C_Bar%2F%22x%22%3B%3Fa%3Db%26c/html"},
		{"a path", `url: "https://s.example/page/{+title}"`, urlOf, "https://s.example/page/Caf%C3%A9,_Bar/%22x%22%3B%3Fa=b&c"},
		{"a query", `url: "https://s.example/?t={title}&x=1"`, urlOf, "https://s.example/?t=Caf%C3%A9%2C_Bar%2F%22x%22%3B%3Fa%3Db%26c&x=1"},
		{"a query as it stands", `url: "https://s.example/?t={+title}&x=1"`, urlOf, "https://s.example/?t=Caf%C3%A9,_Bar/%22x%22%3B?a%3Db%26c&x=1"},
		{"a host", `url: "https://{host}/"`, urlOf, "https://e.example/"},
		{"a part of a host", `url: "https://{type}.s.example:8080/a"`, urlOf, "https://html.s.example:8080/a"},
		{"the resource's URL", `url: "{url}"`, urlOf, "https://e.example/wiki/Caf%C3%A9,_Bar/%22x%22%3B?a=b&c"},
		{"a URL in a segment", `url: "https://s.example/{url}"`, urlOf, "https://s.example/https%3A%2F%2Fe.example%2Fwiki%2FCaf%25C3%25A9%2C_Bar%2F%2522x%2522%253B%3Fa%3Db%26c"},
		{"the path of the resource", `url: "https://s.example/{+path}"`, urlOf, "https://s.example/wiki/Caf%C3%A9,_Bar/%22x%22%3B"},
		{"a header", `url: "{url}", headers: {X-T: "a {title} b"}`, header0, "a Caf%C3%A9%2C_Bar/%22x%22%3B?a=b&c b"},
		{"a header as it stands", `url: "{url}", headers: {X-T: "{+title}"}`, header0, "Caf%C3%A9,_Bar/%22x%22%3B?a=b&c"},
		{"JSON", `url: "{url}", json: {t: "{title}", l: ["{aspect}", 1, true, null], n: {a: "b {type}"}}`, bodyOf, `{"l":["html/userlang=de",1,true,null],"n":{"a":"b html"},"t":"Café,_Bar/\"x\";?a=b\u0026c"}`},
		{"JSON as it stands", `url: "{url}", json: "{+title}"`, bodyOf, `"Caf%C3%A9,_Bar/%22x%22%3B?a=b\u0026c"`},
		{"all buckets", `url: "{url}", json: {b: "{buckets}"}`, bodyOf, `{"b":["https://e.example/wiki/Caf%C3%A9,_Bar","b c"]}`},
		{"a form", `url: "{url}", form: {t: "{title}", "a b": "{kind} {version}"}`, bodyOf, `a%20b=changed%20&t=Caf%C3%A9%2C_Bar%2F%22x%22%3B%3Fa%3Db%26c`},
		{"fields", `url: "https://s.example/?{kind}-{lane}-{change}-{reason}-{hash}-{seq}-{host}"`, urlOf, "https://s.example/?changed-prompt-updated-edit-h-7-e.example"},
		{"the cause", `url: "{url}", json: "{cause} {at}"`, bodyOf, `"https://e.example/cause 2026-11-25T12:00:00Z"`},
	} {
		s := one(t, rules+tt.request+"}}")
		d := s.decide(cafe)
		if d.branch == nil {
			t.Fatalf("%s: %s", tt.name, d.why)
		}
		call, err := d.branch.action.render("", d.subjects[0])
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if got := tt.want(call); got != tt.text {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.text)
		}
	}
	whole := one(t, rules+`url: "https://s.example/", json: "{notice}"}}`).Try(cafe, noon).Sends[0]
	if !strings.HasPrefix(whole.Body, `{"seq":7,"kind":"changed","uri":"https://e.example/wiki/Caf%C3%A9`) {
		t.Errorf("the whole notice is %s", whole.Body)
	}
}

func urlOf(c *Call) string   { return c.URL }
func bodyOf(c *Call) string  { return c.Body }
func header0(c *Call) string { return c.Headers[0][1] }

// hostile are URIs that want to be somewhere else. Those with control characters no
// publisher could send; they are held back here as well.
var hostile = []string{
	"https://e.example/wiki/..%2F..%2Fadmin",
	"https://e.example/wiki/a%2F..%2F..%2Fadmin?x=/../../",
	"https://e.example/wiki/a../b",
	"https://e.example/wiki/%0D%0AX-Injected:%201",
	"https://e.example/wiki/%0A%0A%7B%22evil%22:1%7D",
	"https://e.example/wiki/%00",
	"https://e.example/wiki/%22,%22evil%22:%22",
	"https://e.example/wiki/%22%7D,%7B%22a%22:%22",
	"https://e.example/wiki/a&action=delete&x=",
	"https://e.example/wiki/a?action=delete#&evil=1",
	"https://e.example/wiki/a%26action%3Ddelete",
	"https://e.example/wiki/a%23evil%3Fx",
	"https://e.example/wiki/@evil.example/",
	"https://e.example/wiki/%40evil.example:80",
	"https://e.example/wiki/a;b=c,d,e%20f",
	"https://e.example/wiki/%FF%FE",
	"https://e.example/wiki/%F0%9F%92%A9",
	"https://e.example/wiki/%5C..%5C..%5Cwindows",
	"https://e.example/wiki/(.*)%7C.*$%5EA+%5B%5D",
	"https://e.example/wiki/%7Btitle%7D%7B+url%7D",
	"https://e.example/wiki/100%25",
	"https://e.example/wiki/%252e%252e%252f",
	"https://e.example/wiki/%E2%80%A8",
	"https://e.example/wiki/*",
	"https://e.example/wiki/",
	"https://e.example/wiki/" + strings.Repeat("x%22", 500),
}

// TestNothingInAURILeavesItsPlace renders hostile URIs into every place, and reads
// the request as the server would.
func TestNothingInAURILeavesItsPlace(t *testing.T) {
	s := one(t, `{name: a, match: {uri: '^https://(?P<host>[^/]+)/wiki/(?P<title>.*)$'}, cases: [
  {match: {type: segment}, http: {method: POST, url: "https://s.example/page/{title}/html?a={title}&b=1", headers: {X-T: "{title}", X-B: "1"}, json: {t: "{title}", b: 1}}},
  {match: {type: path}, http: {method: POST, url: "https://s.example/page/{+title}?a={+title}&b=1", headers: {X-T: "{+title}", X-B: "1"}, form: {t: "{+title}", b: "1"}}},
  {match: {type: whole}, purge: {caches: "http://c.example:6081"}},
  {match: {type: key}, xkey: {caches: "http://c.example:6081"}},
  {match: {type: ban}, ban: {caches: "http://c.example:6081"}}]}`)
	sent := 0
	for _, uri := range hostile {
		for _, place := range []string{"segment", "path", "whole", "key", "ban"} {
			base, _ := graph.SplitAspect(uri)
			title := strings.TrimPrefix(base, "https://e.example/wiki/")
			d := s.decide(notice(uri, place, uri))
			if d.branch == nil {
				t.Fatalf("%s is left out: %s", uri, d.why)
			}
			call, err := d.branch.action.render(d.branch.action.targets()[0], d.subjects[0])
			if err != nil {
				continue // it is not sent
			}
			sent++
			r := arrives(t, call)
			if r.Header.Get("X-Injected") != "" || len(r.Header) > 8 {
				t.Fatalf("%s in a %s: headers %v", uri, place, r.Header)
			}
			path := r.URL.EscapedPath()
			if hasDotSegment(path) {
				t.Errorf("%s in a %s: the path is %s", uri, place, path)
			}
			switch place {
			case "segment":
				checkSegment(t, uri, title, r)
			case "path":
				q := r.URL.Query()
				if !strings.HasPrefix(path, "/page/") || len(q) != 2 || q.Get("b") != "1" || r.Header.Get("X-B") != "1" {
					t.Errorf("%s in a path: %s %v", uri, r.URL, q)
				}
				if err := r.ParseForm(); err != nil || len(r.PostForm) != 2 || r.PostForm.Get("t") != title || r.PostForm.Get("b") != "1" {
					t.Errorf("%s in a form: %v %v", uri, r.PostForm, err)
				}
			case "whole":
				if r.RequestURI != strings.TrimPrefix(base, "https://e.example") || r.Host != "e.example" {
					t.Errorf("%s is purged as %s of %s", uri, r.RequestURI, r.Host)
				}
			case "key":
				if keys := strings.Fields(r.Header.Get("xkey-purge")); len(keys) != 1 {
					t.Errorf("%s are the keys %q", uri, keys)
				}
			case "ban":
				checkBan(t, uri, r.Header.Get("X-Cache-Tags"))
			}
		}
	}
	if sent < 4*len(hostile) {
		t.Errorf("%d are sent of %d", sent, 5*len(hostile))
	}
}

func checkSegment(t *testing.T, uri, title string, r *http.Request) {
	t.Helper()
	q := r.URL.Query()
	segments := strings.Split(r.URL.EscapedPath(), "/")
	if len(segments) != 4 || segments[3] != "html" {
		t.Errorf("%s makes the path %s", uri, r.URL.EscapedPath())
	} else if got, err := url.PathUnescape(segments[2]); err != nil || got != unescape(title) {
		t.Errorf("%s: the segment says %q", uri, got)
	}
	if len(q) != 2 || q.Get("a") != unescape(title) || q.Get("b") != "1" || r.Header.Get("X-B") != "1" {
		t.Errorf("%s makes the query %v", uri, q)
	}
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body) != 2 || body["t"] != unescape(title) || body["b"] != 1.0 {
		t.Errorf("%s makes the body %v, %v", uri, body, err)
	}
}

// checkBan holds the expression against the very key, and others near it.
func checkBan(t *testing.T, key, text string) {
	t.Helper()
	if strings.ContainsAny(text, " \t\"") {
		t.Fatalf("%s: %q ends the expression", key, text)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	written := string(appendEscaped(nil, key, keyWord))
	for tags, want := range map[string]bool{written: true, "a " + written + " b": true, "a," + written + ",b": true,
		written + "x": false, "x" + written: false, "other": false, "": false} {
		if re.MatchString(tags) != want {
			t.Errorf("%s: %s bans %q: %v, want %v", key, text, tags, !want, want)
		}
	}
}

// arrives sends a call over the wire and returns what a server makes of it.
func arrives(t *testing.T, c *Call) *http.Request {
	t.Helper()
	r, err := c.request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var wire strings.Builder
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire.String())))
	if err != nil {
		t.Fatalf("%v:\n%s", err, wire.String())
	}
	return got
}

func TestAPurgeOfSeveralURLsAsksEachCacheForEach(t *testing.T) {
	n := notice("https://en.example.org/wiki/A?b=c#html", "html", "k")
	for rules, want := range map[string]string{
		`purge: {}`: "https://en.example.org/wiki/A?b=c",
		`purge: {caches: ["http://c1.example:6081", "https://c2.example"]}`: "http://c1.example:6081/wiki/A?b=c [en.example.org] https://c2.example/wiki/A?b=c [en.example.org]",
		`purge: {url: ["{url}", "https://m.example.org/{+path}"]}`:          "https://en.example.org/wiki/A?b=c https://m.example.org/wiki/A",
		`purge: {caches: "http://c1.example:6081", url: ["{url}", "https://m.{host}/{+path}?action=history"]}`: "http://c1.example:6081/wiki/A?b=c [en.example.org] " +
			"http://c1.example:6081/wiki/A?action=history [m.en.example.org]",
		`xkey: {caches: "http://c1.example:6081"}`:          "http://c1.example:6081/ [en.example.org]",
		`surrogate-key: {url: "https://cdn.example/purge"}`: "https://cdn.example/purge",
	} {
		var got []string
		about := map[string]int{}
		for _, c := range one(t, "{name: a, "+rules+"}").Try(n, noon).Sends {
			got = append(got, c.URL)
			if c.Headers != nil && c.Headers[0][0] == "Host" {
				got = append(got, "["+c.Headers[0][1]+"]")
			}
			about[c.About]++
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s:\ngot  %s\nwant %s", rules, strings.Join(got, " "), want)
		}
		if strings.Contains(rules, "url: [") && len(about) != 2 {
			t.Errorf("%s: its requests are about %v", rules, about)
		}
	}
	// On the way through the engine they are still told apart.
	w := newWorld(t, time.Now)
	w.apply(graph.Update{URI: n.URI, Type: "html", Hash: "1"})
	o := w.outlet(one(t, `{name: a, purge: {url: ["{url}", "https://m.example.org/{+path}"]}}`), "")
	var got []string
	for _, p := range cut(t, o, graph.Prompt, 0, 10).Pieces {
		r, _ := send(t, o, &p)
		got = append(got, r.URL.String())
	}
	if fmt.Sprint(got) != "[https://en.example.org/wiki/A?b=c https://m.example.org/wiki/A]" {
		t.Errorf("sent are %q", got)
	}
}

func TestWhatCannotBeSaidIsNotSent(t *testing.T) {
	const rules = `{name: a, match: {uri: '^https?://[^/]+/(?P<a>[^/]*)(?:/(?P<b>.*))?$'}, `
	for _, tt := range []struct{ name, request, uri, want string }{
		{"dots in a segment", `http: {url: "https://s.example/x/{a}/y"}`, "https://e.example/..%2e", ""},
		{"two dots", `http: {url: "https://s.example/x/{b}"}`, "https://e.example/a/b", ""},
		{"dots that a pattern cuts out", `match: {uri: '^https://[^/]+/a(?P<c>.*)$'}, http: {url: "https://s.example/x/{+c}"}`, "https://e.example/a../b", "dot segments"},
		{"dots alone", `match: {uri: '^https://[^/]+/a(?P<c>.*)$'}, http: {url: "https://s.example/x/{c}"}`, "https://e.example/a..", "dot segments"},
		{"an empty segment", `http: {url: "https://s.example/x/{b}"}`, "https://e.example/a", "empty"},
		{"an empty segment in the middle", `http: {url: "https://s.example/{b}/x"}`, "https://e.example/a", "empty"},
		{"a host that is none", `http: {url: "https://{a}/"}`, "https://e.example/x@y", "host"},
		{"a host with a path", `http: {url: "https://{b}.s.example/"}`, "https://e.example/a/evil.example/", "host"},
		{"a host with a port before another", `http: {url: "https://{b}:80/"}`, "https://e.example/a/evil.example:90", "host"},
		{"a port in a part of a host", `http: {url: "https://cdn-{b}/"}`, "https://e.example/a/x:81", "part of a host"},
		{"an empty host", `http: {url: "https://{b}/"}`, "https://e.example/a", "host"},
		{"bytes that are no text, in JSON", `http: {url: "https://s.example/", json: "{a}"}`, "https://e.example/%FF", "UTF-8"},
		{"a resource that is not on the web", `match: {}, purge: {}`, "urn:a:b", "no address"},
		{"a host header that is none", `http: {url: "https://s.example/", headers: {Host: "{b}"}}`, "https://e.example/a/b/c", "host"},
	} {
		rule := rules
		if strings.HasPrefix(tt.request, "match:") {
			rule = `{name: a, `
		}
		got := one(t, rule+tt.request+"}").Try(notice(tt.uri, "html"), noon)
		if len(got.Sends) != 1 || (got.Sends[0].Fault == "") != (tt.want == "") || !strings.Contains(got.Sends[0].Fault, tt.want) {
			t.Errorf("%s: %+v, want a fault with %q", tt.name, got, tt.want)
		}
	}
	for bucket, want := range map[string]string{"a b": "space", "a&&b": ""} {
		got := one(t, `{name: a, ban: {caches: "http://c.example", key: "{+bucket}"}}`).Try(notice("https://e.example/", "html", bucket), noon)
		if len(got.Sends) != 1 || !strings.Contains(got.Sends[0].Fault, want) || (got.Sends[0].Fault == "") != (want == "") {
			t.Errorf("a ban of %q: %+v", bucket, got)
		}
	}
	long := one(t, `{name: a, http: {url: "https://s.example/", json: "{buckets}"}}`)
	n := notice("https://e.example/", "html")
	for range 64 {
		n.Buckets = append(n.Buckets, strings.Repeat("x", 2000))
	}
	if got := long.Try(n, noon).Sends[0]; !strings.Contains(got.Fault, "longer than") {
		t.Errorf("a request of 128 KB: %.200s", got.Fault)
	}
}

// FuzzTemplate holds that whatever a capture says, the URL that comes out has the
// host, the number of segments and the parameters that the operator wrote.
func FuzzTemplate(f *testing.F) {
	for _, uri := range hostile {
		f.Add(strings.TrimPrefix(uri, "https://e.example/wiki/"))
	}
	known := func(string) error { return nil }
	segment, err := parseAddress("https://s.example/a/{x}/b?c={x}&d={+x}", known)
	if err != nil {
		f.Fatal(err)
	}
	path, err := parseAddress("https://s.example/a/{+x}", known)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := &subject{notice: notice("https://e.example/", "html"), captures: []capture{{"x", value{text, true}}}}
		if to, _, err := segment.render(s, nil); err == nil {
			u, err := url.Parse(to)
			if err != nil || u.Host != "s.example" || u.User != nil || u.Fragment != "" || strings.Count(u.EscapedPath(), "/") != 3 {
				t.Fatalf("%q: %s, %v", text, to, err)
			}
			if q, err := url.ParseQuery(u.RawQuery); err != nil || len(q) != 2 || q.Get("c") != unescape(text) || len(q["d"]) != 1 {
				t.Fatalf("%q: query %v, %v", text, q, err)
			}
		}
		if to, _, err := path.render(s, nil); err == nil {
			u, err := url.Parse(to)
			if err != nil || u.Host != "s.example" || u.RawQuery != "" || u.Fragment != "" || !strings.HasPrefix(u.JoinPath().Path, "/a/") {
				t.Fatalf("%q: %s, %v", text, to, err)
			}
		}
		for _, at := range []place{inHeader, inKey, inBan, inJSON} {
			for _, raw := range []bool{false, true} {
				p := part{name: "x", raw: raw, place: at}
				b, err := p.appendValue(nil, value{text, true})
				if err != nil {
					continue
				}
				if at != inJSON && hasControl(string(b)) || at == inJSON && !utf8.Valid(b) || at == inBan && strings.ContainsAny(string(b), " \t") {
					t.Fatalf("%q at %d is %q", text, at, b)
				}
			}
		}
	})
}
