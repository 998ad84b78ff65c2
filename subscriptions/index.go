package subscriptions

import (
	"slices"
	"strings"

	"github.com/freshwire/freshwire/graph"
)

// routes are where the index keeps a class: under each value of the one field
// of its filter that rules out most, or, if it names no resource, bucket or type,
// with those that are asked about every notice.
type routes struct {
	lists                                 []graph.ListID
	uris, prefixes, hosts, buckets, types []string
	any                                   bool
}

// and returns the routes of r and of more.
func (r routes) and(more routes) routes {
	return routes{slices.Concat(r.lists, more.lists), slices.Concat(r.uris, more.uris), slices.Concat(r.prefixes, more.prefixes),
		slices.Concat(r.hosts, more.hosts), slices.Concat(r.buckets, more.buckets), slices.Concat(r.types, more.types), r.any || more.any}
}

// An index finds the classes that may want a notice, at a cost that does not
// depend on how many others there are.
type index struct {
	lists                                 map[graph.ListID][]*class
	uris, prefixes, hosts, buckets, types map[string][]*class
	any                                   []*class
}

func newIndex() *index {
	return &index{lists: map[graph.ListID][]*class{}, uris: map[string][]*class{}, prefixes: map[string][]*class{},
		hosts: map[string][]*class{}, buckets: map[string][]*class{}, types: map[string][]*class{}}
}

// add puts c under its routes, and remove takes it from there.
func (x *index) add(c *class)    { x.change(c, func(l []*class) []*class { return append(l, c) }) }
func (x *index) remove(c *class) { x.change(c, func(l []*class) []*class { return without(l, c) }) }

// without removes c from a list whose order does not matter.
func without(l []*class, c *class) []*class {
	if i := slices.Index(l, c); i >= 0 {
		last := len(l) - 1
		l[i], l[last] = l[last], nil
		l = l[:last]
	}
	return l
}

func (x *index) change(c *class, f func([]*class) []*class) {
	changeAt(x.lists, c.routes.lists, f)
	changeAt(x.uris, c.routes.uris, f)
	changeAt(x.prefixes, c.routes.prefixes, f)
	changeAt(x.hosts, c.routes.hosts, f)
	changeAt(x.buckets, c.routes.buckets, f)
	changeAt(x.types, c.routes.types, f)
	if c.routes.any {
		x.any = f(x.any)
	}
}

func changeAt[K comparable](m map[K][]*class, keys []K, f func([]*class) []*class) {
	for _, k := range keys {
		if l := f(m[k]); len(l) > 0 {
			m[k] = l
		} else {
			delete(m, k)
		}
	}
}

// candidates calls f with each class that may want n, some of them more than once.
func (x *index) candidates(n *graph.Notice, f func(*class)) {
	each := func(l []*class) {
		for _, c := range l {
			f(c)
		}
	}
	each(x.any)
	for _, l := range n.Lists {
		each(x.lists[l])
	}
	if len(x.uris) > 0 {
		each(x.uris[n.URI])
	}
	if len(x.hosts) > 0 {
		each(x.hosts[graph.Host(n.URI)])
	}
	if len(x.types) > 0 {
		each(x.types[n.Type])
	}
	if len(x.buckets) > 0 {
		for _, b := range n.Buckets {
			each(x.buckets[b])
		}
	}
	if len(x.prefixes) > 0 {
		eachPrefix(n.URI, func(p string) { each(x.prefixes[p]) })
	}
}

// eachPrefix calls f with all that may be a prefix of uri by whole segments: up to
// and including a separator, before one, and the whole. Some are none, which
// [graph.UnderPrefix] tells.
func eachPrefix(uri string, f func(prefix string)) {
	separators := "/?#:"
	if _, rest, _ := strings.Cut(uri, ":"); strings.HasPrefix(rest, "//") {
		separators = "/?#"
	}
	for i := 0; i < len(uri); i++ {
		if strings.IndexByte(separators, uri[i]) >= 0 {
			f(uri[:i])
			if (uri[i] == '/' || uri[i] == ':') && i+1 < len(uri) {
				f(uri[:i+1])
			}
		}
	}
	f(uri)
}
