package client

import (
	"net/url"
	"slices"
	"strings"
)

// Filter chooses notices. The zero Filter lets all pass.
//
// The values of one field are alternatives, and every field that is set must
// agree. URIs, Prefixes and Hosts are three ways to say which resource and count
// as one field.
type Filter struct {
	URIs     []string // exactly this resource; an aspect is another one
	Prefixes []string // everything under it, by whole path segments
	Hosts    []string // everything on this host
	Types    []string
	Buckets  []string
	Kinds    []string // KindChanged, KindRefresh
	Lanes    []string // prompt, bulk
}

// query adds f to the parameters of a stream.
func (f *Filter) query(q url.Values) {
	for name, values := range map[string][]string{"uri": f.URIs, "prefix": f.Prefixes, "host": f.Hosts,
		"type": f.Types, "bucket": f.Buckets, "kind": f.Kinds, "lane": f.Lanes} {
		if len(values) > 0 {
			q[name] = values
		}
	}
}

// Match reports whether the hub would let n pass.
func (f *Filter) Match(n *Notice) bool {
	return f.matchResource(n.URI) &&
		(len(f.Types) == 0 || slices.Contains(f.Types, n.Type)) &&
		(len(f.Kinds) == 0 || slices.Contains(f.Kinds, n.Kind)) &&
		(len(f.Lanes) == 0 || slices.Contains(f.Lanes, n.Lane)) &&
		(len(f.Buckets) == 0 || slices.ContainsFunc(n.Buckets, func(b string) bool { return slices.Contains(f.Buckets, b) }))
}

func (f *Filter) matchResource(uri string) bool {
	if len(f.URIs) == 0 && len(f.Prefixes) == 0 && len(f.Hosts) == 0 {
		return true
	}
	return slices.Contains(f.URIs, uri) ||
		slices.ContainsFunc(f.Hosts, func(h string) bool { return strings.EqualFold(h, host(uri)) }) ||
		slices.ContainsFunc(f.Prefixes, func(p string) bool { return under(uri, p) })
}

// host returns the host of a canonical URI with its port, "" if it has none.
func host(uri string) string {
	_, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	return rest
}

// under reports whether a canonical URI lies at or below prefix: …/wiki covers
// …/wiki/A and …/wiki#exists, but not …/wikitext.
func under(uri, prefix string) bool {
	rest, ok := strings.CutPrefix(uri, prefix)
	hierarchical := strings.Contains(uri, "://")
	switch {
	case !ok || hierarchical && host(prefix) == "":
		return false
	case rest == "" || strings.HasSuffix(prefix, "/"):
		return true
	case hierarchical:
		return strings.ContainsRune("/?#", rune(rest[0]))
	}
	return strings.HasSuffix(prefix, ":") || strings.ContainsRune(":/?#", rune(rest[0]))
}
