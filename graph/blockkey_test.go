package graph

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPrefixesOfAURIAreThoseItLiesUnder(t *testing.T) {
	for _, c := range []struct{ uri, want string }{
		{"https://en.example.org/wiki/A?b=c/d#e", "https://en.example.org https://en.example.org/ https://en.example.org/wiki " +
			"https://en.example.org/wiki/ https://en.example.org/wiki/A https://en.example.org/wiki/A?b=c https://en.example.org/wiki/A?b=c/ " +
			"https://en.example.org/wiki/A?b=c/d https://en.example.org/wiki/A?b=c/d#e"},
		{"https://h:8080/", "https://h:8080 https://h:8080/"},
		{"urn:isbn:12", "urn:isbn urn:isbn: urn:isbn:12"},
		{"ticker:PT1H", "ticker:PT1H"},
	} {
		var got []string
		eachPrefix(c.uri, func(p string) { got = append(got, p) })
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s lies under %q, want %s", c.uri, got, c.want)
		}
	}
}

func TestWhatLiesUnderAPrefixHasItsKey(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "b:c", "/", "//", "?", "#", ":", "wiki", ".", "%20", "="})
	rapid.Check(t, func(t *rapid.T) {
		uri := rapid.SampledFrom([]string{"https://en.example.org", "https://h:8080", "https://[::1]:1", "urn:isbn", "urn", "x:", "https:"}).Draw(t, "begin") +
			strings.Join(rapid.SliceOfN(part, 0, 8).Draw(t, "parts"), "")
		var keys []Key
		eachPrefix(uri, func(p string) { keys = append(keys, PrefixKey(p)) })
		for end := range len(uri) + 1 {
			if prefix := uri[:end]; UnderPrefix(uri, prefix) && !slices.Contains(keys, PrefixKey(prefix)) {
				t.Fatalf("%s lies under %s and does not have its key", uri, prefix)
			}
		}
	})
}

func TestKeysOfOneTextTellWhatItIs(t *testing.T) {
	all := []Key{PrefixKey("html"), HostKey("html"), TypeKey("html"), BucketKey("html"), PrefixKey("")}
	slices.Sort(all)
	if len(slices.Compact(all)) != 5 {
		t.Errorf("a host, a type, a bucket and a prefix of one text share a key: %x", all)
	}
}
