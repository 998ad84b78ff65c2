package subscriptions

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/freshwire/freshwire/graph"
)

func TestAFilterPassesANoticeThatEveryFieldAgreesOn(t *testing.T) {
	notice := graph.Notice{URI: "https://en.example.org/wiki/Berlin#html/canonical", Type: "html", Kind: graph.KindRefresh,
		Lane: graph.Bulk, Buckets: []string{"https://en.example.org/wiki/Berlin", "city"}}
	for _, c := range []struct {
		name   string
		filter Filter
		want   bool
	}{
		{"the zero filter passes everything", Filter{}, true},
		{"the exact URI", Filter{URI: []string{notice.URI}}, true},
		{"one of several URIs", Filter{URI: []string{"https://a.example/", notice.URI}}, true},
		{"a URI does not cover its aspects", Filter{URI: []string{"https://en.example.org/wiki/Berlin"}}, false},
		{"a prefix covers whole segments", Filter{Prefix: []string{"https://en.example.org/wiki"}}, true},
		{"a prefix covers the aspects of a page", Filter{Prefix: []string{"https://en.example.org/wiki/Berlin"}}, true},
		{"a prefix does not end inside a segment", Filter{Prefix: []string{"https://en.example.org/wiki/Ber"}}, false},
		{"a prefix may be a host", Filter{Prefix: []string{"https://en.example.org"}}, true},
		{"a prefix of the host's name is no prefix", Filter{Prefix: []string{"https://en.example.or"}}, false},
		{"the host", Filter{Host: []string{"en.example.org"}}, true},
		{"a host in upper case", Filter{Host: []string{"EN.example.org"}}, true},
		{"another host", Filter{Host: []string{"example.org"}}, false},
		{"URI, prefix and host are alternatives", Filter{URI: []string{"https://a.example/"}, Prefix: []string{"https://b.example"},
			Host: []string{"en.example.org"}}, true},
		{"none of URI, prefix and host", Filter{URI: []string{"https://a.example/"}, Prefix: []string{"https://b.example"},
			Host: []string{"c.example"}}, false},
		{"the type", Filter{Type: []string{"page", "html"}}, true},
		{"another type", Filter{Type: []string{"page"}}, false},
		{"one of the buckets", Filter{Bucket: []string{"village", "city"}}, true},
		{"another bucket", Filter{Bucket: []string{"village"}}, false},
		{"the kind", Filter{Kind: []string{"refresh"}}, true},
		{"both kinds", Filter{Kind: []string{"refresh", "changed"}}, true},
		{"the other kind", Filter{Kind: []string{"changed"}}, false},
		{"the lane", Filter{Lane: []string{"bulk"}}, true},
		{"the other lane", Filter{Lane: []string{"prompt"}}, false},
		{"every field agrees", Filter{Host: []string{"en.example.org"}, Type: []string{"html"}, Bucket: []string{"city"},
			Kind: []string{"refresh"}, Lane: []string{"bulk"}}, true},
		{"one field disagrees", Filter{Host: []string{"en.example.org"}, Type: []string{"html"}, Bucket: []string{"city"},
			Kind: []string{"changed"}, Lane: []string{"bulk"}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Compile(c.filter)
			if err != nil {
				t.Fatalf("Compile: %v", err)
			}
			if got := m.Match(&notice); got != c.want {
				t.Errorf("Match = %v, want %v", got, c.want)
			}
		})
	}
}

func TestAFilterThatCannotBeServedNamesItsField(t *testing.T) {
	many := func(n int) (values []string) {
		for i := range n {
			values = append(values, fmt.Sprintf("https://a.example/%d", i))
		}
		return values
	}
	for _, c := range []struct {
		name   string
		filter Filter
		field  string
	}{
		{"a relative URI", Filter{URI: []string{"/wiki/Berlin"}}, "uri"},
		{"a URI that is not canonical", Filter{URI: []string{"https://EN.example.org/"}}, "uri"},
		{"a scheme that is not allowed", Filter{URI: []string{"cache:x"}}, "uri"},
		{"a prefix without a host", Filter{Prefix: []string{"https://"}}, "prefix"},
		{"a prefix that is a scheme", Filter{Prefix: []string{"ticker:"}}, "prefix"},
		{"a prefix under which nothing lies", Filter{Prefix: []string{"https://a.example/x#"}}, "prefix"},
		{"a prefix with a dot segment", Filter{Prefix: []string{"https://a.example/.."}}, "prefix"},
		{"an empty value", Filter{Type: []string{"html", ""}}, "type"},
		{"a value that is too long", Filter{Bucket: []string{strings.Repeat("x", maxFilterValue+1)}}, "bucket"},
		{"a value that is not UTF-8", Filter{Bucket: []string{"\xff"}}, "bucket"},
		{"an unknown kind", Filter{Kind: []string{"change"}}, "kind"},
		{"a kind in upper case", Filter{Kind: []string{"Changed"}}, "kind"},
		{"an unknown lane", Filter{Lane: []string{"fast"}}, "lane"},
		{"too many prefixes", Filter{Prefix: many(maxFilterPrefixes + 1)}, "prefix"},
		{"too many values", Filter{URI: many(maxFilterValues), Host: []string{"a.example"}}, "host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Compile(c.filter)
			var refused *FilterError
			if !errors.As(err, &refused) || refused.Field != c.field {
				t.Errorf("Compile = %v, want a FilterError for %q", err, c.field)
			}
		})
	}
}

func TestAFilterAtItsCapsIsServed(t *testing.T) {
	var f Filter
	for i := range maxFilterValues - maxFilterPrefixes {
		f.URI = append(f.URI, fmt.Sprintf("https://a.example/%d", i))
	}
	for i := range maxFilterPrefixes {
		f.Prefix = append(f.Prefix, fmt.Sprintf("https://b.example/%d", i))
	}
	if _, err := Compile(f); err != nil {
		t.Errorf("Compile = %v, want no error", err)
	}
}

func TestConfiguredSchemesAndBarePrefixesAreServed(t *testing.T) {
	f := Filter{URI: []string{"cache:x"}, Prefix: []string{"https://a.example", "https://a.example/", "https://a.example:8443/x/",
		"urn:isbn", "urn:isbn:", "urn:isbn:97", "cache:maps"}}
	if _, err := Compile(f, "cache"); err != nil {
		t.Errorf("Compile = %v, want no error", err)
	}
}

func TestAQueryIsReadIntoAFilter(t *testing.T) {
	q, err := url.ParseQuery("uri=https%3A%2F%2Fa.example%2F&prefix=p1&prefix=p2&host=h&type=t&bucket=b&kind=changed&lane=bulk")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseQuery(q)
	if err != nil {
		t.Fatalf("ParseQuery: %v", err)
	}
	want := Filter{URI: []string{"https://a.example/"}, Prefix: []string{"p1", "p2"}, Host: []string{"h"}, Type: []string{"t"},
		Bucket: []string{"b"}, Kind: []string{"changed"}, Lane: []string{"bulk"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAnUnknownParameterIsRefusedAndNotIgnored(t *testing.T) {
	_, err := ParseQuery(url.Values{"prefixes": {"https://a.example"}})
	var refused *FilterError
	if !errors.As(err, &refused) || !strings.Contains(refused.Field, "prefixes") {
		t.Errorf("got %v, want a FilterError that names prefixes", err)
	}
}

// matches is what a filter means, in the plainest words.
func matches(f Filter, n graph.Notice) bool {
	among := func(values []string, v string) bool { return len(values) == 0 || slices.Contains(values, v) }
	resource := len(f.URI)+len(f.Prefix)+len(f.Host) == 0 || slices.Contains(f.URI, n.URI) || slices.Contains(f.Host, graph.Host(n.URI))
	for _, p := range f.Prefix {
		resource = resource || n.URI == p || strings.HasPrefix(n.URI, strings.TrimSuffix(p, "/")+"/") || strings.HasPrefix(n.URI, p+"#")
	}
	bucket := len(f.Bucket) == 0
	for _, b := range n.Buckets {
		bucket = bucket || slices.Contains(f.Bucket, b)
	}
	return resource && bucket && among(f.Type, n.Type) && among(f.Kind, n.Kind.String()) && among(f.Lane, n.Lane.String())
}

var (
	someHosts    = []string{"a.example", "b.example", "aa.example"}
	somePaths    = []string{"/", "/wiki/A", "/wiki/AB", "/wiki/A/B", "/wiki/A#exists", "/w"}
	someTypes    = []string{"html", "page", "file"}
	someBuckets  = []string{"x", "y", "z"}
	somePrefixes = []string{"https://a.example", "https://b.example/", "https://a.example/wiki", "https://b.example/wiki/A", "https://aa.example/wiki/"}
)

func drawNotice(t *rapid.T) graph.Notice {
	host, path := rapid.SampledFrom(someHosts).Draw(t, "host"), rapid.SampledFrom(somePaths).Draw(t, "path")
	return graph.Notice{
		Kind: graph.Kind(rapid.IntRange(0, 1).Draw(t, "kind")), Lane: graph.Lane(rapid.IntRange(0, 1).Draw(t, "lane")),
		URI: "https://" + host + path, Type: rapid.SampledFrom(someTypes).Draw(t, "type"),
		Buckets: rapid.SliceOfNDistinct(rapid.SampledFrom(someBuckets), 0, 3, rapid.ID).Draw(t, "buckets"),
	}
}

func drawFilter(t *rapid.T) Filter {
	some := func(name string, values []string) []string {
		if rapid.IntRange(0, 2).Draw(t, name+" set") != 0 {
			return nil
		}
		return rapid.SliceOfNDistinct(rapid.SampledFrom(values), 0, 2, rapid.ID).Draw(t, name)
	}
	var uris []string
	for _, h := range someHosts {
		for _, p := range somePaths {
			uris = append(uris, "https://"+h+p)
		}
	}
	return Filter{URI: some("uri", uris), Prefix: some("prefix", somePrefixes), Host: some("host", someHosts),
		Type: some("type", someTypes), Bucket: some("bucket", someBuckets),
		Kind: some("kind", []string{"changed", "refresh"}), Lane: some("lane", []string{"prompt", "bulk"})}
}

func TestACompiledFilterMeansWhatTheFilterSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, n := drawFilter(t), drawNotice(t)
		m, err := Compile(f)
		if err != nil {
			t.Fatalf("Compile(%+v): %v", f, err)
		}
		if got, want := m.Match(&n), matches(f, n); got != want {
			t.Errorf("%+v on %+v: got %v, want %v", f, n, got, want)
		}
	})
}
