package digest

import (
	"strings"

	"github.com/freshwire/freshwire/graph"
)

// maxOrigins bounds the hosts that an archive notes, so that the question who may read it
// takes no longer than a few microseconds.
const maxOrigins = 1000

// origins are the beginnings of what an archive names: who may see all under each of them
// may read it.
type origins struct {
	Origins []string `json:"origins"`
	// Everywhere is whether there are more than are noted.
	Everywhere bool `json:"everywhere,omitempty"`

	known   map[string]bool
	last    string
	changed bool
}

// note takes in what an entry names.
func (o *origins) note(e *Entry) {
	o.noteURI(e.URI)
	if e.Cause != "" {
		o.noteURI(e.Cause)
	}
	for _, cause := range e.Causes {
		o.noteURI(cause)
	}
}

func (o *origins) noteURI(uri string) {
	if o.last != "" && graph.UnderPrefix(uri, o.last) {
		return
	}
	at := origin(uri)
	o.last = at
	if o.known[at] || o.Everywhere {
		return
	}
	if o.changed = true; len(o.Origins) == maxOrigins {
		o.Everywhere = true
		return
	}
	if o.known == nil {
		o.known = map[string]bool{}
		for _, known := range o.Origins {
			o.known[known] = true
		}
		if o.known[at] {
			return
		}
	}
	o.known[at] = true
	o.Origins = append(o.Origins, at)
}

// origin is the shortest prefix that a right may name and that a URI lies under.
func origin(uri string) string {
	base, _ := graph.SplitAspect(uri)
	scheme, rest, _ := strings.Cut(base, ":")
	if host, ok := strings.CutPrefix(rest, "//"); ok {
		host, _, _ = strings.Cut(host, "/")
		return scheme + "://" + host
	}
	if end := strings.IndexAny(rest, ":/"); end > 0 {
		rest = rest[:end]
	}
	return scheme + ":" + rest
}
