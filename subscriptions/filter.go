package subscriptions

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxFilterValues bounds the values of one filter, all fields together: a
	// compiled value takes about 150 bytes for as long as its stream lives.
	// Longer lists belong into a named channel, which is shared.
	maxFilterValues = 10_000
	// maxFilterPrefixes bounds the prefixes of one filter: unlike the other
	// values, each is compared with every notice (about 5 ns).
	maxFilterPrefixes = 256
	// maxFilterValue bounds one value, in bytes; no URI is longer.
	maxFilterValue = 2048
)

// Filter says which notices a reader wants. An empty field asks nothing; the
// zero Filter wants all notices.
//
// The values of one field are alternatives, and every field that is set must
// agree. URI, Prefix and Host are three ways to say which resource and count as
// one field: a notice passes if any of their values names its resource. Type and
// buckets are those the resource has when the notice is read.
type Filter struct {
	URI    []string `json:"uri,omitempty"`    // exactly this resource; an aspect is another one
	Prefix []string `json:"prefix,omitempty"` // everything under it, by whole path segments
	Host   []string `json:"host,omitempty"`   // everything on this host, with its port if it has one
	Type   []string `json:"type,omitempty"`   // resources of this type
	Bucket []string `json:"bucket,omitempty"` // resources in this bucket
	Kind   []string `json:"kind,omitempty"`   // "changed", "refresh"
	Lane   []string `json:"lane,omitempty"`   // "prompt", "bulk"
}

// FilterError reports the field of a filter that was refused, and why.
type FilterError struct {
	Field  string
	Reason string
}

func (e *FilterError) Error() string { return fmt.Sprintf("filter %s: %s", e.Field, e.Reason) }

// ParseQuery reads a filter from query parameters, each repeatable. A parameter
// it does not know is a *FilterError, because a filter with a typing mistake
// would let everything through.
func ParseQuery(q url.Values) (Filter, error) {
	var f Filter
	fields := map[string]*[]string{"uri": &f.URI, "prefix": &f.Prefix, "host": &f.Host,
		"type": &f.Type, "bucket": &f.Bucket, "kind": &f.Kind, "lane": &f.Lane}
	for name, values := range q {
		field, ok := fields[name]
		if !ok {
			return Filter{}, &FilterError{fmt.Sprintf("%.64q", name),
				"is unknown; use uri, prefix, host, type, bucket, kind or lane"}
		}
		*field = values
	}
	return f, nil
}

// Matcher is a compiled filter. It is safe for concurrent use.
type Matcher struct {
	uris, hosts, types, buckets set
	prefixes                    []string
	kinds, lanes                uint8        // a bit for each value that passes; 0 asks nothing
	list                        graph.ListID // passes what was on it, like a value of uris; 0 is none
	sight                       *sight       // what passes must be in it, unless …
	public                      bool         // … this is what a public channel lets through

	mu    sync.Mutex
	picks []*graph.Pick // not in use
}

// A set of a few values is a list: most filters have one, and there are many of them.
type set struct {
	few  []string
	many map[string]struct{}
}

// fewValues is up to how many values are found faster one by one than by a hash.
const fewValues = 8

func (s *set) has(v string) bool {
	if s.many == nil {
		return slices.Contains(s.few, v)
	}
	_, ok := s.many[v]
	return ok
}

func (s *set) len() int { return len(s.few) + len(s.many) }

// values returns them for reading.
func (s *set) values() []string {
	if s.many == nil {
		return s.few
	}
	return slices.AppendSeq(make([]string, 0, len(s.many)), maps.Keys(s.many))
}

// Compile checks f and makes it fit for matching. A *FilterError names the
// field that cannot be served. URIs and prefixes must be canonical, schemes as
// in [graph.CheckURI]: others name no resource, and the reader would wait for ever.
func Compile(f Filter, schemes ...string) (*Matcher, error) {
	if err := f.bounded(); err != nil {
		return nil, err
	}
	for _, uri := range f.URI {
		if err := graph.CheckURI(uri, schemes...); err != nil {
			return nil, &FilterError{"uri", err.Error()}
		}
	}
	for _, prefix := range f.Prefix {
		if err := graph.CheckPrefix(prefix, schemes...); err != nil {
			return nil, &FilterError{"prefix", err.Error()}
		}
	}
	hosts := make([]string, len(f.Host))
	for i, host := range f.Host {
		hosts[i] = strings.ToLower(host)
	}
	kinds, err := mask("kind", f.Kind, graph.KindChanged, graph.KindRefresh)
	if err != nil {
		return nil, err
	}
	lanes, err := mask("lane", f.Lane, graph.Prompt, graph.Bulk)
	if err != nil {
		return nil, err
	}
	return &Matcher{uris: newSet(f.URI), hosts: newSet(hosts), types: newSet(f.Type), buckets: newSet(f.Bucket),
		prefixes: f.Prefix, kinds: kinds, lanes: lanes}, nil
}

// bounded checks the caps, and that each value is text.
func (f *Filter) bounded() error {
	if len(f.Prefix) > maxFilterPrefixes {
		return &FilterError{"prefix", fmt.Sprintf("has more than %d values", maxFilterPrefixes)}
	}
	total := 0
	for _, field := range []struct {
		name   string
		values []string
	}{{"uri", f.URI}, {"prefix", f.Prefix}, {"host", f.Host}, {"type", f.Type},
		{"bucket", f.Bucket}, {"kind", f.Kind}, {"lane", f.Lane}} {
		if total += len(field.values); total > maxFilterValues {
			return &FilterError{field.name, fmt.Sprintf("makes more than %d values", maxFilterValues)}
		}
		for _, v := range field.values {
			switch {
			case v == "":
				return &FilterError{field.name, "has an empty value; leave the field out to ask nothing of it"}
			case len(v) > maxFilterValue:
				return &FilterError{field.name, fmt.Sprintf("has a value longer than %d bytes", maxFilterValue)}
			case !utf8.ValidString(v):
				return &FilterError{field.name, "has a value that is not UTF-8"}
			}
		}
	}
	return nil
}

// mask sets the bit of each named value.
func mask[T interface {
	~uint8
	String() string
}](field string, names []string, known ...T) (bits uint8, err error) {
next:
	for _, name := range names {
		for _, v := range known {
			if v.String() == name {
				bits |= 1 << v
				continue next
			}
		}
		return 0, &FilterError{field, fmt.Sprintf("%.64q is unknown; use %s or %s", name, known[0], known[1])}
	}
	return bits, nil
}

func newSet(values []string) set {
	if len(values) <= fewValues {
		return set{few: slices.Clone(values)}
	}
	s := set{many: make(map[string]struct{}, len(values))}
	for _, v := range values {
		s.many[v] = struct{}{}
	}
	return s
}

// Match reports whether n passes the filter.
func (m *Matcher) Match(n *graph.Notice) bool {
	return (m.kinds == 0 || m.kinds&(1<<n.Kind) != 0) &&
		(m.lanes == 0 || m.lanes&(1<<n.Lane) != 0) &&
		(m.types.len() == 0 || m.types.has(n.Type)) &&
		m.matchBucket(n.Buckets) &&
		(m.list != 0 && slices.Contains(n.Lists, m.list) || m.matchResource(n.URI)) &&
		(!m.narrowed() || m.sight.sees(n.URI))
}

// narrowed reports whether what passes must be in sight.
func (m *Matcher) narrowed() bool { return m.sight != nil && !m.public }

func (m *Matcher) asksNoResource() bool {
	return m.list == 0 && m.uris.len() == 0 && m.hosts.len() == 0 && len(m.prefixes) == 0
}

func (m *Matcher) matchBucket(buckets []string) bool {
	if m.buckets.len() == 0 {
		return true
	}
	for _, b := range buckets {
		if m.buckets.has(b) {
			return true
		}
	}
	return false
}

func (m *Matcher) matchResource(uri string) bool {
	if m.asksNoResource() {
		return true
	}
	if m.uris.has(uri) || m.hosts.len() > 0 && m.hosts.has(graph.Host(uri)) {
		return true
	}
	for _, prefix := range m.prefixes {
		if graph.UnderPrefix(uri, prefix) {
			return true
		}
	}
	return false
}

// at makes a Matcher a selector that never changes.
func (m *Matcher) at(uint64) (*Matcher, uint64) { return m, math.MaxUint64 }

func (m *Matcher) gone() reason { return stays }

// routes says where the index keeps who has this filter.
func (m *Matcher) routes(uint64) (r routes, until uint64) {
	switch {
	case !m.asksNoResource():
		r = routes{uris: m.uris.values(), prefixes: m.prefixes, hosts: m.hosts.values()}
		if m.list != 0 {
			r.lists = []graph.ListID{m.list}
		}
	case m.narrowed(): // else all of a thousand tenants would be asked about each notice
		r.prefixes = m.sight.prefixes
	case m.buckets.len() > 0:
		r.buckets = m.buckets.values()
	case m.types.len() > 0:
		r.types = m.types.values()
	default:
		r.any = true
	}
	return r, 0
}

// borrow returns how to read the journal for what passes this filter in some lanes,
// for one reader to use until it gives it back: what it remembers from one read
// serves the next. Nil is nothing at all.
func (m *Matcher) borrow(lanes uint8) *graph.Pick {
	if m.lanes != 0 {
		if lanes &= m.lanes; lanes == 0 {
			return nil
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.IndexFunc(m.picks, func(p *graph.Pick) bool { return p.Lanes == lanes }); i >= 0 {
		p := m.picks[i]
		m.picks = slices.Delete(m.picks, i, i+1)
		return p
	}
	p := m.pick()
	p.Lanes = lanes
	return p
}

// giveBack keeps p for the next reader.
func (m *Matcher) giveBack(p *graph.Pick) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.picks) < sparePicks {
		m.picks = append(m.picks, p)
	}
}

// sparePicks bounds the picks a matcher keeps: one for each of a few readers who
// catch up at once.
const sparePicks = 4

// pick says what a read of the journal may leave out.
func (m *Matcher) pick() *graph.Pick {
	p := &graph.Pick{Kinds: m.kinds, Lanes: m.lanes}
	resources := len(m.prefixes) > 0 || m.hosts.len() > 0
	switch {
	case resources:
		var keys []graph.Key
		for _, prefix := range m.prefixes {
			keys = append(keys, graph.PrefixKey(prefix))
		}
		for _, host := range m.hosts.values() {
			keys = append(keys, graph.HostKey(host))
		}
		for _, uri := range m.uris.values() {
			keys = append(keys, graph.PrefixKey(uri))
		}
		if m.list == 0 { // what was on a list has no key
			p.Keys = append(p.Keys, keys)
		}
	case m.list != 0 || m.uris.len() > 0:
		p.URIs = m.uris.values()
		if m.list != 0 {
			p.Lists = []graph.ListID{m.list}
		}
	}
	if m.narrowed() {
		var keys []graph.Key
		for _, prefix := range m.sight.prefixes {
			keys = append(keys, graph.PrefixKey(prefix))
		}
		p.Keys = append(p.Keys, keys)
	}
	for _, field := range []struct {
		values []string
		key    func(string) graph.Key
	}{{m.types.values(), graph.TypeKey}, {m.buckets.values(), graph.BucketKey}} {
		if len(field.values) == 0 {
			continue
		}
		var keys []graph.Key
		for _, v := range field.values {
			keys = append(keys, field.key(v))
		}
		p.Keys = append(p.Keys, keys)
	}
	return p
}

// key is the same for filters that let the same through by the same values.
func (f Filter) key() string {
	f.Host = slices.Clone(f.Host)
	for i, host := range f.Host {
		f.Host[i] = strings.ToLower(host)
	}
	for _, field := range []*[]string{&f.URI, &f.Prefix, &f.Host, &f.Type, &f.Bucket, &f.Kind, &f.Lane} {
		sorted := slices.Clone(*field)
		slices.Sort(sorted)
		*field = slices.Compact(sorted)
	}
	text, err := json.Marshal(f)
	if err != nil {
		panic(err) // lists of strings
	}
	sum := sha256.Sum256(text)
	return string(sum[:])
}
