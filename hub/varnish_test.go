package hub

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// newCacheReader is a reader, or whoever purges, with connections of its own.
func newCacheReader(t testing.TB, vary map[string]string) *cacheReader {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &cacheReader{t, &http.Client{Transport: transport}, vary}
}

// get returns the content of a page, its first word, and whether the cache had it.
func (c *cacheReader) get(cache, path string) (content string, hit bool) {
	c.t.Helper()
	resp, body, err := c.request(http.MethodGet, cache, path)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("%s: %v, %v", path, resp, err)
	}
	content, _, _ = strings.Cut(body, " ")
	return content, resp.Header.Get("X-Hits") != "0"
}

// purge sends what empties the cache and wants it done.
func (c *cacheReader) purge(method, cache, path string, header ...string) {
	c.t.Helper()
	if resp, body, err := c.request(method, cache, path, header...); err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("%s %s %v: %v %s, %v", method, path, header, resp, body, err)
	}
}

// banOf is what a ban of a key says.
func banOf(key string) string { return `(?:^|[\s,])` + regexp.QuoteMeta(key) + `(?:$|[\s,])` }

// allVariants are a reader for each kind of answer.
func allVariants(t testing.TB) (list []*cacheReader) {
	for _, v := range variants {
		list = append(list, newCacheReader(t, v))
	}
	return list
}

func TestARealCacheForgetsWhatItIsToldTo(t *testing.T) {
	t.Parallel()
	o := startOrigin(t)
	inner := startVarnish(t, o.url, "xkey.vcl", "ban.vcl", "purge.vcl")
	outer := startVarnish(t, inner.url, "xkey.vcl", "ban.vcl", "purge.vcl")
	readers, purger := allVariants(t), newCacheReader(t, nil)
	// Their purges are spelled with what stands in keys: dots, a plus and commas.
	paths := []string{"/wiki/Berlin", "/wiki/Washington,_D.C.", "/wiki/C++"}
	const beside = "/wiki/Rome"
	content := map[string]string{paths[0]: "1", paths[1]: "1", paths[2]: "1"}
	// all wants of each variant what a cache has: a hit of the old, or the new one.
	all := func(cache *varnish, path string, wantHit bool, want string) {
		t.Helper()
		for i, c := range readers {
			// Gzip and plain are one object, which Varnish inflates for who cannot.
			hitHere := wantHit || variants[i]["Accept-Encoding"] == "gzip"
			if content, hit := c.get(cache.url, path); content != want || hit != hitHere {
				t.Errorf("%s as %v: got %q, hit %t, want %q, %t", path, variants[i], content, hit, want, hitHere)
			}
		}
	}
	for _, c := range []struct {
		name  string
		empty func(cache *varnish, path string)
	}{
		{"PURGE of a URL", func(cache *varnish, path string) { purger.purge("PURGE", cache.url, path) }},
		{"PURGE of a key", func(cache *varnish, path string) {
			purger.purge("PURGE", cache.url, "/", "xkey-purge", "https://"+site+path)
		}},
		{"BAN of a key", func(cache *varnish, path string) {
			purger.purge("BAN", cache.url, "/", "X-Cache-Tags", banOf("https://"+site+path))
		}},
	} {
		for _, path := range paths {
			old := content[path]
			for range 2 { // the first time it is brought in, unless it is there
				for _, r := range readers {
					r.get(outer.url, path)
					r.get(outer.url, beside)
				}
			}
			now := old + "+"
			content[path] = now
			o.set(path, now)
			o.take(path)
			o.take(beside)
			all(outer, path, true, old)
			c.empty(inner, path)
			all(outer, path, true, old) // it has its own copies
			all(inner, path, false, now)
			c.empty(outer, path)
			all(outer, path, false, now)
			for _, r := range readers {
				r.get(outer.url, beside)
			}
			if got, near := o.take(path), o.take(beside); got != len(readers)-1 || near != 0 {
				t.Errorf("%s: the origin served %s %d times and a page beside it %d times, want %d and 0", c.name, path, got, near, len(readers)-1)
			}
		}
	}
	now := content[paths[0]]
	all(outer, paths[0], true, now)
	purger.purge("PURGE", outer.url, "/", "xkey-purge", "https://"+site+"/all") // one of several keys
	all(outer, paths[0], false, now)
	for _, bad := range [][]string{{"X-Cache-Tags", ""}, {"X-Cache-Tags", ". && obj.status == 200"}} {
		if resp, body, err := purger.request("BAN", outer.url, "/", bad...); err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a ban of %q is answered %v %s, %v", bad[1], resp, body, err)
		}
	}
	all(outer, paths[0], true, now)
}
