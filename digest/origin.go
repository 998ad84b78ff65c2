package digest

import (
	"slices"
	"strings"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxOrigins bounds the prefixes that an archive notes, so that the question who may
	// read it takes no longer than some microseconds.
	maxOrigins = 1000
	// maxSegments bounds those of one host, which may have its pages at its root.
	maxSegments = 16
)

// origins are the beginnings of all that an archive names: who may see what lies under
// each of them may read it. They are prefixes that rights may name, as
// https://en.example.org/wiki, or https://en.example.org if there are many on a host.
type origins struct {
	Origins []string `json:"origins"`
	// Everywhere is whether there are more than are noted.
	Everywhere bool `json:"everywhere,omitempty"`

	changed bool
	last    [2]string // that were noted of URIs and of causes, for most of what follows lies under them too
}

// note takes in what an entry names.
func (o *origins) note(e *Entry) {
	o.noteURI(e.URI, &o.last[0])
	if e.Cause != "" {
		o.noteURI(e.Cause, &o.last[1])
	}
	for _, cause := range e.Causes {
		o.noteURI(cause, &o.last[1])
	}
}

func (o *origins) noteURI(uri string, last *string) {
	if o.Everywhere || *last != "" && graph.UnderPrefix(uri, *last) {
		return
	}
	host, at := origin(uri)
	under := func(prefix string) bool { return graph.UnderPrefix(at, prefix) }
	if i := slices.IndexFunc(o.Origins, under); i >= 0 {
		*last = o.Origins[i]
		return
	}
	ofHost := func(prefix string) bool { return graph.UnderPrefix(prefix, host) }
	segments := 0
	for _, prefix := range o.Origins {
		if ofHost(prefix) {
			segments++
		}
	}
	if segments == maxSegments {
		o.Origins, at = slices.DeleteFunc(o.Origins, ofHost), host
	}
	if o.changed = true; len(o.Origins) == maxOrigins {
		o.Everywhere = true
		return
	}
	o.Origins, *last = append(o.Origins, at), at
}

// origin returns the shortest prefix that a right may name and that a URI lies under, and
// the one with a segment of its path.
func origin(uri string) (host, at string) {
	base, _ := graph.SplitAspect(uri)
	scheme, rest, _ := strings.Cut(base, ":")
	if authority, ok := strings.CutPrefix(rest, "//"); ok {
		authority, path, _ := strings.Cut(authority, "/")
		host = scheme + "://" + authority
		if segment, _, _ := strings.Cut(path, "/"); segment != "" && !strings.ContainsAny(segment, "?") {
			return host, host + "/" + segment
		}
		return host, host
	}
	if end := strings.IndexAny(rest, ":/"); end > 0 {
		rest = rest[:end]
	}
	return scheme + ":" + rest, scheme + ":" + rest
}
