package sink

import (
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// A subject is a notice that is judged, and what templates take their values from.
type subject struct {
	notice   *graph.Notice
	bucket   string // the one that a request is about, "" if it is about none
	index    int    // which of the action's URLs it asks for
	captures []capture
	base     string // caches url, "" if it was not asked for
}

type capture struct {
	name  string
	value value
}

// url is the URI without its aspect: what a server or a cache knows.
func (s *subject) url() string {
	if s.base == "" {
		s.base, _ = graph.SplitAspect(s.notice.URI)
	}
	return s.base
}

func (s *subject) aspect() string {
	_, aspect := graph.SplitAspect(s.notice.URI)
	return aspect
}

func (s *subject) host() string { return graph.Host(s.notice.URI) }

// path is the path of the URL without its first slash.
func (s *subject) path() string {
	_, rest, ok := strings.Cut(s.url(), "://")
	if !ok {
		return ""
	}
	rest, _, _ = strings.Cut(rest, "?")
	_, path, _ := strings.Cut(rest, "/")
	return path
}

// reserved are the fields of a notice that say what a request is about; no capture
// may take their names.
var reserved = []string{"uri", "url", "bucket", "buckets", "notice"}

// fields are the values that every notice has, under the names they have in
// templates.
var fields = map[string]func(s *subject) value{
	"uri":     func(s *subject) value { return value{raw: s.notice.URI} },
	"url":     func(s *subject) value { return value{raw: s.url()} },
	"host":    func(s *subject) value { return value{raw: s.host()} },
	"path":    func(s *subject) value { return value{s.path(), true} },
	"aspect":  func(s *subject) value { return value{s.aspect(), true} },
	"bucket":  func(s *subject) value { return value{raw: s.bucket} },
	"type":    func(s *subject) value { return value{raw: s.notice.Type} },
	"kind":    func(s *subject) value { return value{raw: s.notice.Kind.String()} },
	"version": func(s *subject) value { return value{raw: s.notice.Version} },
	"hash":    func(s *subject) value { return value{raw: s.notice.Hash} },
	"change":  func(s *subject) value { return value{raw: s.notice.Change.String()} },
	"reason":  func(s *subject) value { return value{raw: s.notice.Reason.String()} },
	"lane":    func(s *subject) value { return value{raw: s.notice.Lane.String()} },
	"cause":   func(s *subject) value { return value{raw: s.notice.Cause.URI} },
	"seq":     func(s *subject) value { return value{raw: strconv.FormatUint(s.notice.Cursor.Seq, 10)} },
	"token":   func(s *subject) value { return value{raw: s.notice.Cursor.String()} },
	"at":      func(s *subject) value { return value{raw: s.notice.At.UTC().Format(time.RFC3339Nano)} },
}

// value returns what stands for a name: a capture, or a field of the notice. A
// template was checked to name no other.
func (s *subject) value(name string) value {
	for _, c := range s.captures {
		if c.name == name {
			return c.value
		}
	}
	if f := fields[name]; f != nil {
		return f(s)
	}
	return value{}
}
