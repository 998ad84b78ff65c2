package subscriptions

import (
	"crypto/sha256"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// Viewer is what a stream knows of its caller. The zero Viewer is somebody whose
// token shows nothing but public channels.
type Viewer struct {
	// Name is whose streams are counted together, whatever address they come from;
	// "" is nobody in particular.
	Name string
	// All shows everything, whatever Prefixes has.
	All bool
	// Prefixes are those under which resources are shown, as [graph.UnderPrefix] says.
	Prefixes []string
	// Anonymous is a caller without a token, who is shown public channels alone.
	Anonymous bool
	// Expires is when its right ends, and with it its stream; zero means never.
	Expires time.Time
}

// sight returns what v may be shown.
func (v *Viewer) sight() *sight {
	switch {
	case v.Anonymous:
		return newSight(nil)
	case v.All:
		return nil
	}
	return newSight(v.Prefixes)
}

// A sight is what a viewer may be shown: the resources under some prefixes. A nil
// sight is everything. It does not change.
type sight struct {
	key      string // equal for equal prefixes
	prefixes []string
	many     set // of them, unless they are compared faster one by one
}

func newSight(prefixes []string) *sight {
	prefixes = slices.Compact(slices.Sorted(slices.Values(prefixes)))
	v := &sight{prefixes: prefixes}
	if len(prefixes) > fewValues {
		v.many = newSet(prefixes)
	}
	h := sha256.New()
	for _, p := range prefixes {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	v.key = string(h.Sum(nil))
	return v
}

// keyOf is the key of v, "" of who sees everything.
func keyOf(v *sight) string {
	if v == nil {
		return ""
	}
	return v.key
}

// nothing reports whether v is of no resource at all.
func (v *sight) nothing() bool { return v != nil && len(v.prefixes) == 0 }

// sees reports whether the resource uri is in v.
func (v *sight) sees(uri string) (seen bool) {
	if v == nil {
		return true
	}
	if v.many.len() == 0 {
		return slices.ContainsFunc(v.prefixes, func(p string) bool { return graph.UnderPrefix(uri, p) })
	}
	eachPrefix(uri, func(p string) { seen = seen || v.many.has(p) && graph.UnderPrefix(uri, p) })
	return seen
}

// reaches reports whether something under prefix may be in v.
func (v *sight) reaches(prefix string) bool {
	return v.sees(prefix) || slices.ContainsFunc(v.prefixes, func(p string) bool { return graph.UnderPrefix(p, prefix) })
}

// refuse returns why a filter is not served to a viewer who would wait for ever,
// nil if it is. Hosts, types and buckets are narrowed without a word: they are no
// secrets of anybody.
func (v *sight) refuse(f *Filter) error {
	if v == nil {
		return nil
	}
	if v.nothing() {
		return &Refusal{Status: http.StatusForbidden, Slug: slugForbidden, Detail: "the token shows no resource; ask for a public channel"}
	}
	for _, uri := range f.URI {
		if !v.sees(uri) {
			return &Refusal{Status: http.StatusForbidden, Slug: slugForbidden, Field: "uri", Detail: fmt.Sprintf("the token does not show %.140q", uri)}
		}
	}
	for _, prefix := range f.Prefix {
		if !v.reaches(prefix) {
			return &Refusal{Status: http.StatusForbidden, Slug: slugForbidden, Field: "prefix", Detail: fmt.Sprintf("the token shows nothing under %.140q", prefix)}
		}
	}
	return nil
}

const (
	slugForbidden    = "forbidden"
	slugUnauthorized = "unauthorized"
)

// unauthorized refuses a caller without a token. Of a channel it does not tell
// whether there is none or it is not public.
func unauthorized() *Refusal {
	return &Refusal{Status: http.StatusUnauthorized, Slug: slugUnauthorized, Detail: "send a token, or ask for a public channel"}
}

// A showing is how a notice is shown.
type showing uint8

const (
	hidden showing = iota
	bare           // without its cause
	whole
)

// seenBy returns m for a viewer of v, who gets what passes m and is in v, or all
// that passes if it comes by a public channel.
func (m *Matcher) seenBy(v *sight, public bool) *Matcher {
	return &Matcher{uris: m.uris, hosts: m.hosts, types: m.types, buckets: m.buckets, prefixes: m.prefixes,
		kinds: m.kinds, lanes: m.lanes, list: m.list, sight: v, public: public}
}

// show says how n is shown, if it is. Who may not see what was edited is not told
// of it, but for a public channel's own resources: to follow those it is public.
// What is on its list does not count, which only the store knows.
func (m *Matcher) show(n *graph.Notice) showing {
	cause := n.Cause.URI
	switch {
	case !m.Match(n):
		return hidden
	case m.sight == nil, cause == "", m.sight.sees(cause):
		return whole
	case m.public && (cause == n.URI || m.matchResource(cause)):
		return whole
	}
	return bare
}

// A view is a channel for viewers who do not see everything. A notice passes it
// that they see, or that passes a version which was public, if the channel still is.
type view struct {
	ch     *channel
	sight  *sight
	public bool // the channel was when the view was taken; it is gone when that changes
	// lasting views outlive that, and are as public as the channel is: for those who
	// keep nothing of what they have read.
	lasting bool
	// open views show what everybody would see if the channel were public all the time.
	open bool

	mu   sync.Mutex
	seen map[seeing]*Matcher
}

func newView(ch *channel, v *sight) *view {
	return &view{ch: ch, sight: v, public: ch.newest().Public, seen: map[seeing]*Matcher{}}
}

// A seeing is a version of a channel seen by those who may see all of it, or not.
type seeing struct {
	m      *Matcher
	public bool
}

func (w *view) isPublic() bool {
	if w.lasting {
		return w.ch.newest().Public
	}
	return w.public
}

// shut reports whether nothing of the channel can be seen any more.
func (w *view) shut() bool { return w.sight.nothing() && !w.isPublic() && !w.open }

// of returns how a version is seen, nil if nothing of it is.
func (w *view) of(m *Matcher) *Matcher {
	if m == nil {
		return nil
	}
	how := seeing{m, w.open || w.isPublic() && m.public}
	if w.sight.nothing() && !how.public {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.seen[how]
	if s == nil {
		if len(w.seen) >= maxVersions {
			clear(w.seen) // most of them decide nothing any more
		}
		s = m.seenBy(w.sight, how.public)
		w.seen[how] = s
	}
	return s
}

func (w *view) show(n *graph.Notice) showing {
	if n.Cursor.Seq == 0 {
		return hidden
	}
	m, _ := w.at(n.Cursor.Seq - 1)
	if m == nil {
		return hidden
	}
	return m.show(n)
}

func (w *view) at(seq uint64) (*Matcher, uint64) {
	m, until := w.ch.at(seq)
	return w.of(m), until
}

func (w *view) routes(head uint64) (routes, uint64) { return w.ch.routesOf(head, w.of) }

func (w *view) gone() reason {
	switch why := w.ch.gone(); {
	case why != stays:
		return why
	case !w.lasting && w.ch.newest().Public != w.public:
		return access
	}
	return stays
}

// account is whom a viewer's streams are counted for, beside its address.
func (v *Viewer) account(addr string) account {
	switch {
	case v.Anonymous:
		return account{ofAnonymous, addr}
	case v.Name != "":
		return account{ofName, v.Name}
	}
	return account{}
}

// left is how long v's right still lasts.
func (v *Viewer) left(now time.Time) time.Duration {
	if v.Expires.IsZero() {
		return math.MaxInt64
	}
	return v.Expires.Sub(now)
}
