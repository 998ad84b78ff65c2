package sink

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// notice is a change of a resource in some buckets.
func notice(uri, typ string, buckets ...string) *graph.Notice {
	return &graph.Notice{Cursor: graph.Cursor{Epoch: 1, Seq: 7}, Kind: graph.KindChanged, URI: uri, Type: typ, Hash: "h", Change: graph.ChangeUpdated,
		Reason: graph.ReasonEdit, At: noon, Buckets: buckets, Cause: graph.Cause{URI: "https://e.example/cause"}}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// one compiles a sink that is written on one line.
func one(t testing.TB, text string) *Sink {
	t.Helper()
	return compile(t, "sinks: ["+text+"]")[0]
}

func TestWhichNoticesASinkTakes(t *testing.T) {
	page := notice("https://en.example.org/wiki/Berlin#html/canonical", "html", "https://en.example.org/wiki/Berlin", "site")
	refresh := *page
	refresh.Kind, refresh.Change, refresh.Reason, refresh.Lane = graph.KindRefresh, graph.ChangeNone, graph.ReasonDependency, graph.Bulk
	bare := notice("https://en.example.org/wiki/Berlin", "content")
	for _, tt := range []struct {
		name, rules string
		n           *graph.Notice
		why         string // "" is taken
	}{
		{"all", `http: {url: "{url}"}`, page, ""},
		{"its type", `match: {type: [mobile, html]}, http: {url: "{url}"}`, page, ""},
		{"another type", `match: {type: mobile}, http: {url: "{url}"}`, page, `match.type does not agree with "html"`},
		{"a type by pattern", `match: {type: "^ht"}, http: {url: "{url}"}`, page, ""},
		{"its host, in capitals", `match: {host: EN.example.org}, http: {url: "{url}"}`, page, ""},
		{"another host", `match: {host: de.example.org}, http: {url: "{url}"}`, page, `match.host does not agree with "en.example.org"`},
		{"hosts by pattern", `match: {host: '^[a-z]+\.example\.org$'}, http: {url: "{url}"}`, page, ""},
		{"a prefix", `match: {prefix: "https://en.example.org/wiki/"}, http: {url: "{url}"}`, page, ""},
		{"the prefix that is the page", `match: {prefix: "https://en.example.org/wiki/Berlin"}, http: {url: "{url}"}`, page, ""},
		{"a prefix by half a segment", `match: {prefix: "https://en.example.org/wiki/Ber"}, http: {url: "{url}"}`, page, "match.prefix does not hold"},
		{"the URI without aspect", `match: {uri: "https://en.example.org/wiki/Berlin"}, http: {url: "{url}"}`, page, ""},
		{"another URI", `match: {uri: "https://en.example.org/wiki/Rome"}, http: {url: "{url}"}`, page, "match.uri does not agree"},
		{"a pattern to the end", `match: {uri: '^https://[^/]+/wiki/Berlin$'}, http: {url: "{url}"}`, page, ""},
		{"a pattern from the start alone", `match: {uri: '^wiki'}, http: {url: "{url}"}`, page, "match.uri does not agree"},
		{"its aspect", `match: {aspect: html/canonical}, http: {url: "{url}"}`, page, ""},
		{"an aspect by pattern", `match: {aspect: '^html'}, http: {url: "{url}"}`, page, ""},
		{"no aspect", `match: {aspect: '^$'}, http: {url: "{url}"}`, page, `match.aspect does not agree with "html/canonical"`},
		{"no aspect, and it has none", `match: {aspect: '^$'}, http: {url: "{url}"}`, bare, ""},
		{"a bucket", `match: {bucket: site}, http: {url: "{url}"}`, page, ""},
		{"a bucket it has not", `match: {bucket: other}, http: {url: "{url}"}`, page, "match.bucket does not agree"},
		{"a kind", `match: {kind: changed}, http: {url: "{url}"}`, page, ""},
		{"the other kind", `match: {kind: changed}, http: {url: "{url}"}`, &refresh, `match.kind does not agree with "refresh"`},
		{"a lane", `match: {lane: prompt}, http: {url: "{url}"}`, &refresh, `match.lane does not agree with "bulk"`},
		{"a reason", `match: {reason: [edit, dependency]}, http: {url: "{url}"}`, &refresh, ""},
		{"another reason", `match: {reason: edit}, http: {url: "{url}"}`, &refresh, "match.reason"},
		{"a change", `match: {change: [created, deleted]}, http: {url: "{url}"}`, page, "match.change"},
		{"all fields have to agree", `match: {type: html, host: de.example.org}, http: {url: "{url}"}`, page, "match.host"},
		{"what is not meant", `match_not: {uri: '^https://[^/]+/wiki/B'}, http: {url: "{url}"}`, page, "match_not is met"},
		{"one of those not meant", `match_not: [{type: mobile}, {type: html}], http: {url: "{url}"}`, page, "match_not is met"},
		{"of one not meant half", `match_not: {type: html, lane: bulk}, http: {url: "{url}"}`, page, ""},
		{"a purge on a change", `purge: {}`, page, ""},
		{"a purge on a refresh", `purge: {}`, &refresh, "match.kind"},
		{"a purge on a refresh that is asked for", `match: {kind: refresh}, purge: {}`, &refresh, ""},
		{"by bucket without any", `xkey: {caches: "http://a.example"}`, bare, "the resource has none"},
		{"by a bucket it has not", `match: {bucket: "^x"}, xkey: {caches: "http://a.example"}`, page, "match.bucket"},
	} {
		got := one(t, "{name: a, "+tt.rules+"}").Try(tt.n, noon)
		if (got.Why == "") != (tt.why == "") || !strings.Contains(got.Why, tt.why) {
			t.Errorf("%s: got %q, want %q", tt.name, got.Why, tt.why)
		}
		if (got.Why == "") != (len(got.Sends) > 0) {
			t.Errorf("%s: %d requests, although %q", tt.name, len(got.Sends), got.Why)
		}
	}
}

func TestTheFirstCaseThatMatchesWins(t *testing.T) {
	s := one(t, `{name: a, match: {host: e.example}, match_not: {type: draft}, cases: [
  {match: {uri: '^https://e.example/a/(?P<x>.+)'}, http: {url: "https://s.example/a/{x}"}},
  {match: {type: html}, match_not: {uri: '^https://e.example/b/no'}, http: {url: "https://s.example/html"}},
  {http: {method: POST, url: "https://s.example/rest"}}]}`)
	for uri, want := range map[string]string{
		"https://e.example/a/1":   "GET https://s.example/a/1",
		"https://e.example/b/1":   "GET https://s.example/html",
		"https://e.example/b/no1": "POST https://s.example/rest",
	} {
		got := s.Try(notice(uri, "html"), noon)
		if len(got.Sends) != 1 || got.Sends[0].Method+" "+got.Sends[0].URL != want {
			t.Errorf("%s: %+v, want %s", uri, got, want)
		}
	}
	if got := s.Try(notice("https://e.example/a/1", "draft"), noon); got.Why != "cases[0]: match_not is met; cases[1]: match.type does not agree with \"draft\"; cases[2]: match_not is met" {
		t.Errorf("why not: %q", got.Why)
	}
	if got := s.Try(notice("https://f.example/a/1", "html"), noon); got.Why != `match.host does not agree with "f.example"` {
		t.Errorf("why not: %q", got.Why)
	}
}

func TestEachBucketIsJudgedByItself(t *testing.T) {
	s := one(t, `{name: a, match: {bucket: ['^https://(?P<site>[^/]+)/', x]}, match_not: {bucket: '^https://e.example/No'},
  cases: [{match: {bucket: '^(?P<all>.)'}, surrogate-key: {url: "https://cdn.example/purge", key: "{all} {bucket}"}}]}`)
	var got []string
	for _, c := range s.Try(notice("https://e.example/1", "html", "https://e.example/1", "y", "https://e.example/No", "x"), noon).Sends {
		got = append(got, c.About, fmt.Sprint(c.Headers))
	}
	want := []string{"cases[0] https://e.example/1", "[[Surrogate-Key h https://e.example/1]]", "cases[0] x", "[[Surrogate-Key x x]]"}
	// The key takes more than the bucket, so that it is about the resource.
	want[0], want[2] = "cases[0] changed https://e.example/1 https://e.example/1", "cases[0] changed https://e.example/1 x"
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAGroupThatWaitsByBucketSendsByBucket(t *testing.T) {
	sinks := compile(t, `sinks:
- {name: inner, group: g, stage: 1, purge: {caches: ["http://in.example", "http://in2.example"]}}
- {name: outer, group: g, stage: 2, surrogate-key: {url: "https://out.example/"}}`)
	n := notice("https://e.example/1#html", "html", "b1", "b2")
	var about []string
	for _, c := range sinks[0].Try(n, noon).Sends {
		about = append(about, c.About)
	}
	if want := []string{"https://e.example/1 b1", "https://e.example/1 b1", "https://e.example/1 b2", "https://e.example/1 b2"}; !slices.Equal(about, want) {
		t.Errorf("stage 1 sends %q, want %q", about, want)
	}
	if got := sinks[0].Try(notice("https://e.example/1", "html"), noon).Sends; len(got) != 2 || got[0].About != "https://e.example/1" {
		t.Errorf("what has no bucket is sent as %+v", got)
	}
}

func TestASampleIsTheSameForAllAspectsAndSinks(t *testing.T) {
	a, b := one(t, `{name: a, sample: 0.25, purge: {}}`), one(t, `{name: b, sample: 0.25, http: {url: "{url}"}}`)
	taken := 0
	for i := range 10_000 {
		url := fmt.Sprintf("https://e.example/wiki/%d", i)
		first := a.Try(notice(url, "html"), noon).Why == ""
		if again := a.Try(notice(url+"#html", "html"), noon).Why == ""; again != first {
			t.Fatalf("%s is in the sample by one aspect alone", url)
		}
		if other := b.Try(notice(url, "html"), noon).Why == ""; other != first {
			t.Fatalf("%s is in the sample of one sink alone", url)
		}
		if first {
			taken++
		}
	}
	if taken < 2300 || taken > 2700 {
		t.Errorf("%d of 10,000 are a quarter", taken)
	}
}

func TestWhatIsOlderThanTheCacheIsLeftOut(t *testing.T) {
	s := one(t, `{name: a, max_age: 24h, purge: {}}`)
	n := notice("https://e.example/1", "html")
	if got := s.Try(n, noon.Add(24*time.Hour)); got.Why != "" {
		t.Errorf("at its age it is left out: %q", got.Why)
	}
	if got := s.Try(n, noon.Add(24*time.Hour+1)); !strings.Contains(got.Why, "max_age") {
		t.Errorf("beyond it, it is sent: %+v", got)
	}
}

// TestTheJournalIsAskedForAllThatMatches holds the filter that reading is narrowed by
// against the rules: it may let more through, and never less.
func TestTheJournalIsAskedForAllThatMatches(t *testing.T) {
	rules := []string{
		`match: {type: html}, purge: {}`,
		`match: {type: "^h"}, purge: {}`,
		`match: {host: e.example, prefix: "https://f.example/"}, purge: {}`,
		`match: {host: e.example}, purge: {}`,
		`match: {host: [e.example, f.example], uri: '^https://e\.example/wiki/(?P<t>.+)$'}, purge: {}`,
		`match: {uri: ['^https://e\.example/wiki/(?P<t>.+)$', 'https://f.example/wiki/A']}, purge: {}`,
		`match: {uri: '^https://(?P<host>[^/]+)/wiki/(?P<t>.+)$'}, http: {url: "{url}"}`,
		`match: {uri: '^(?i)https://e.example/WIKI/A$'}, http: {url: "{url}"}`,
		`match: {uri: '^https://e\.example/wiki/|^https://f\.example/'}, http: {url: "{url}"}`,
		`match: {uri: '^https://e\.exam'}, http: {url: "{url}"}`,
		`match: {uri: 'https://e.example/wiki/A'}, http: {url: "{url}"}`,
		`match: {bucket: b1}, xkey: {caches: "http://a.example"}`,
		`match: {bucket: ["^b", x]}, xkey: {caches: "http://a.example"}`,
		`match: {kind: refresh, lane: bulk}, http: {url: "{url}"}`,
		`cases: [{match: {type: html}, purge: {}}, {match: {kind: refresh}, http: {url: "{url}"}}]`,
		`cases: [{match: {type: html, prefix: "https://e.example/"}, purge: {}}, {match: {type: mobile, host: f.example}, purge: {}}]`,
		`match: {lane: prompt}, cases: [{match: {prefix: "https://e.example/"}, purge: {}}, {match: {prefix: "https://f.example/wiki/"}, purge: {}}]`,
	}
	var notices []*graph.Notice
	for _, host := range []string{"e.example", "f.example"} {
		for _, path := range []string{"/", "/wiki/A", "/wiki/A/b", "/wiki/A#html", "/w?a=b"} {
			for _, typ := range []string{"html", "mobile", ""} {
				for lane := graph.Prompt; lane <= graph.Bulk; lane++ {
					for kind := graph.KindChanged; kind <= graph.KindRefresh; kind++ {
						n := notice("https://"+host+path, typ)
						if path == "/wiki/A" {
							n.Buckets = []string{"b1", "x"}
						}
						n.Lane, n.Kind = lane, kind
						notices = append(notices, n)
					}
				}
			}
		}
	}
	for _, text := range rules {
		s := one(t, "{name: a, "+text+"}")
		m, err := subscriptions.Compile(s.filter)
		if err != nil {
			t.Fatal(err)
		}
		let, taken := 0, 0
		for _, n := range notices {
			takes := s.decide(n).branch != nil
			if takes {
				taken++
			}
			if m.Match(n) {
				let++
			} else if takes {
				t.Errorf("%s: %s %s of type %q is never read, filter %+v", text, n.Kind, n.URI, n.Type, s.filter)
			}
		}
		if strings.Contains(text, "{type: html}, purge") && !strings.Contains(text, "cases") && let != taken {
			t.Errorf("%s: %d are read for %d that match", text, let, taken)
		}
	}
}

func TestOfTheJournalIsReadAsLittleAsTheRulesCanSay(t *testing.T) {
	for rules, want := range map[string]string{
		`match: {host: [e.example, f.example], uri: '^https://e\.example/wiki/(?P<t>.+)$'}, purge: {}`:               `{"prefix":["https://e.example/wiki/"],"kind":["changed"]}`,
		`match: {host: [f.example, e.example], type: html, uri: '^https://[^/]+/wiki/'}, http: {url: "{url}"}`:       `{"host":["e.example","f.example"],"type":["html"]}`,
		`match: {bucket: "^b", lane: bulk}, xkey: {caches: "http://a.example"}`:                                      `{"kind":["changed"],"lane":["bulk"]}`,
		`match: {bucket: b}, cases: [{match: {type: a}, purge: {}}, {match: {type: b, host: e.example}, purge: {}}]`: `{"type":["a","b"],"bucket":["b"],"kind":["changed"]}`,
	} {
		if got := asJSON(t, one(t, "{name: a, "+rules+"}").filter); got != want {
			t.Errorf("%s: reads %s, want %s", rules, got, want)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	n := notice("https://en.example.org/wiki/Berlin#html/canonical", "html", "https://en.example.org/wiki/Berlin")
	for name, text := range map[string]string{
		"rule=type":          `{name: a, match: {type: html}, xkey: {caches: "http://a.example"}}`,
		"rule=pattern":       `{name: a, match: {type: html, uri: '^https://(?P<host>[^/]+)/wiki/(?P<title>.+)$'}, http: {url: "https://{host}/api/rest_v1/page/html/{title}"}}`,
		"rule=pattern/not":   `{name: a, match: {type: html, uri: '^https://(?P<host>[^/]+)/wiki/(?P<title>.+)$'}, match_not: {uri: '^https://[^/]+/wiki/(User|Talk):'}, http: {url: "https://{host}/api/rest_v1/page/html/{title}"}}`,
		"rule=none/type":     `{name: a, match: {type: mobile}, purge: {}}`,
		"rule=none/pattern":  `{name: a, match: {uri: '^https://(?P<host>[^/]+)/wiki/User:(?P<title>.+)$'}, purge: {}}`,
		"rule=cases/of=five": `{name: a, cases: [{match: {type: a}, purge: {}}, {match: {type: b}, purge: {}}, {match: {type: c}, purge: {}}, {match: {type: d}, purge: {}}, {match: {type: html}, purge: {}}]}`,
	} {
		s := one(b, text)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.decide(n)
			}
		})
	}
}
