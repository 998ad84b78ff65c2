package sink

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

const (
	// maxValues bounds the values of one field of a match: each is looked at for
	// each notice that got so far.
	maxValues = 1000
	// maxPattern bounds a regular expression, in bytes: its cost grows with it.
	maxPattern = 2048
)

// A values is the condition on one text.
type values struct {
	exact    []string
	patterns []*regexp.Regexp
}

// set reports whether anything is asked.
func (v *values) set() bool { return len(v.exact) > 0 || len(v.patterns) > 0 }

// match reports whether text is one of the values. What the patterns capture goes to
// s, which may be nil; escaped says that text is a part of a URI.
func (v *values) match(text string, s *subject, escaped bool) bool {
	if !v.set() || slices.Contains(v.exact, text) {
		return true
	}
	for _, re := range v.patterns {
		if s == nil || re.NumSubexp() == 0 {
			if re.MatchString(text) {
				return true
			}
			continue
		}
		found := re.FindStringSubmatchIndex(text)
		if found == nil {
			continue
		}
		for i, name := range re.SubexpNames() {
			if name == "" {
				continue
			}
			captured := ""
			if found[2*i] >= 0 {
				captured = text[found[2*i]:found[2*i+1]]
			}
			s.captures = append(s.captures, capture{name, value{captured, escaped}})
		}
		return true
	}
	return false
}

// A condition is a compiled Match.
type condition struct {
	kinds, lanes   uint8 // bits; 0 asks nothing
	reasons        uint32
	changes        uint8
	hosts, types   values
	aspect         values
	uri            values
	prefixes       []string
	buckets        values
	captures       map[string]bool // names that every match has
	asksOfResource bool            // more than of buckets
}

// empty reports whether the condition is met by everything.
func (c *condition) empty() bool { return !c.asksOfResource && !c.buckets.set() }

// differs returns the field that does not agree, "" if all do, buckets apart. What
// is captured goes to captures, if it is not nil.
func (c *condition) differs(s *subject, captures *subject) string {
	n := s.notice
	switch {
	case c.kinds != 0 && c.kinds&(1<<n.Kind) == 0:
		return "kind"
	case c.lanes != 0 && c.lanes&(1<<n.Lane) == 0:
		return "lane"
	case c.changes != 0 && c.changes&(1<<n.Change) == 0:
		return "change"
	case c.reasons != 0 && c.reasons&(1<<n.Reason) == 0:
		return "reason"
	case !c.types.match(n.Type, captures, false):
		return "type"
	case c.hosts.set() && !c.hosts.match(s.host(), captures, false):
		return "host"
	case len(c.prefixes) > 0 && !slices.ContainsFunc(c.prefixes, func(p string) bool { return graph.UnderPrefix(n.URI, p) }):
		return "prefix"
	case c.aspect.set() && !c.aspect.match(s.aspect(), captures, true):
		return "aspect"
	case c.uri.set() && !c.uri.match(s.url(), captures, true):
		return "uri"
	}
	return ""
}

// holds judges the buckets: one of them has to do.
func (c *condition) holds(buckets []string, captures *subject) bool {
	return !c.buckets.set() ||
		slices.ContainsFunc(buckets, func(b string) bool { return c.buckets.match(b, captures, false) })
}

// compileMatch checks m. An error names its field.
func compileMatch(m *Match, schemes []string) (*condition, error) {
	c := &condition{captures: map[string]bool{}}
	var err error
	for _, f := range []struct {
		name string
		from Texts
		into *values
	}{{"type", m.Type, &c.types}, {"host", m.Host, &c.hosts}, {"aspect", m.Aspect, &c.aspect},
		{"uri", m.URI, &c.uri}, {"bucket", m.Bucket, &c.buckets}} {
		c.asksOfResource = c.asksOfResource || f.name != "bucket" && len(f.from) > 0
		if *f.into, err = c.compileValues(f.name, f.from); err != nil {
			return nil, err
		}
	}
	for i, uri := range c.uri.exact {
		if err := graph.CheckURI(uri, schemes...); err != nil {
			return nil, fault(indexed("uri", i, m.URI), "%v", err)
		}
	}
	for i, host := range c.hosts.exact {
		c.hosts.exact[i] = strings.ToLower(host)
	}
	if len(m.Prefix) > maxValues {
		return nil, fault("prefix", "more than %d values", maxValues)
	}
	for i, prefix := range m.Prefix {
		if err := graph.CheckPrefix(prefix, schemes...); err != nil {
			return nil, fault(indexed("prefix", i, m.Prefix), "%v", err)
		}
	}
	c.prefixes = m.Prefix
	c.asksOfResource = c.asksOfResource || len(m.Prefix)+len(m.Kind)+len(m.Lane)+len(m.Reason)+len(m.Change) > 0
	return c, c.compileNames(m)
}

// compileNames reads the fields whose values have few names.
func (c *condition) compileNames(m *Match) error {
	kinds, err := bits("kind", m.Kind, graph.KindChanged, graph.KindRefresh)
	if err != nil {
		return err
	}
	lanes, err := bits("lane", m.Lane, graph.Prompt, graph.Bulk)
	if err != nil {
		return err
	}
	changes, err := bits("change", m.Change, graph.ChangeCreated, graph.ChangeUpdated, graph.ChangeDeleted)
	if err != nil {
		return err
	}
	var reasons []graph.Reason
	for r := graph.ReasonEdit; r <= graph.ReasonPeer; r++ {
		reasons = append(reasons, r)
	}
	c.reasons, err = bits("reason", m.Reason, reasons...)
	c.kinds, c.lanes, c.changes = uint8(kinds), uint8(lanes), uint8(changes)
	return err
}

// bits sets the bit of each named value.
func bits[T interface {
	~uint8
	String() string
}](field string, names Texts, known ...T) (set uint32, err error) {
	for i, name := range names {
		at := slices.IndexFunc(known, func(v T) bool { return v.String() == name })
		if at < 0 {
			var list []string
			for _, v := range known {
				list = append(list, v.String())
			}
			return 0, fault(indexed(field, i, names), "%.40q is none of %s", name, strings.Join(list, ", "))
		}
		set |= 1 << known[at]
	}
	return set, nil
}

// compileValues reads one field. A name that one pattern captures, and a value or
// another pattern does not, could not be relied on.
func (c *condition) compileValues(field string, texts Texts) (v values, err error) {
	if len(texts) > maxValues {
		return v, fault(field, "more than %d values", maxValues)
	}
	seen := map[string]int{}
	for i, text := range texts {
		if !strings.HasPrefix(text, "^") {
			if err := checkValue(field, text); err != nil {
				return v, fault(indexed(field, i, texts), "%v", err)
			}
			v.exact = append(v.exact, text)
			continue
		}
		re, err := compilePattern(field, text)
		if err != nil {
			return v, fault(indexed(field, i, texts), "%v", err)
		}
		for _, name := range re.SubexpNames() {
			if name != "" {
				seen[name]++
			}
		}
		v.patterns = append(v.patterns, re)
	}
	for name, n := range seen {
		if c.captures[name] {
			return v, fault(field, "%q is captured by another field already", name)
		}
		c.captures[name] = n == len(texts)
	}
	return v, nil
}

func checkValue(field, text string) error {
	switch {
	case text == "":
		return fmt.Errorf("it is empty; leave the field out to ask nothing of it, or write ^$ for what has none")
	case field == "uri" && strings.Contains(text, "#"):
		return fmt.Errorf("it has an aspect (what stands after #); match that by the field aspect")
	}
	return nil
}

func compilePattern(field, text string) (*regexp.Regexp, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("it is longer than %d bytes", maxPattern)
	}
	if field == "uri" && strings.Contains(text, "#") {
		return nil, fmt.Errorf("it has a #: a pattern sees the URI without its aspect, which is what stands after #; match that by the field aspect")
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, name := range re.SubexpNames() {
		switch {
		case name == "":
			continue
		case slices.Contains(reserved, name):
			return nil, fmt.Errorf("%q is a field of the notice; capture it by another name", name)
		case names[name]:
			return nil, fmt.Errorf("%q is captured twice", name)
		}
		names[name] = true
	}
	return re, nil
}

// literalPrefix returns what each text begins with that matches, "" if nothing is
// known.
func literalPrefix(pattern *regexp.Regexp) string {
	re, err := syntax.Parse(pattern.String(), syntax.Perl)
	if err != nil {
		return ""
	}
	re = re.Simplify()
	if re.Op != syntax.OpConcat || len(re.Sub) < 2 || re.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	if lit := re.Sub[1]; lit.Op == syntax.OpLiteral && lit.Flags&syntax.FoldCase == 0 {
		return string(lit.Rune)
	}
	return ""
}

// underPrefix turns what URIs begin with into a prefix by whole segments, "" if it
// does not reach beyond the host.
func underPrefix(literal string, schemes []string) string {
	_, rest, ok := strings.Cut(literal, "://")
	if !ok {
		return ""
	}
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return ""
	}
	prefix := literal[:len(literal)-len(rest)+i+1]
	if graph.CheckPrefix(prefix, schemes...) != nil {
		return ""
	}
	return prefix
}

const (
	// maxNarrowValues and maxNarrowPrefixes keep the filter of a sink within what
	// [subscriptions.Compile] takes, and its look-up cheap.
	maxNarrowValues   = 500
	maxNarrowPrefixes = 64
)

// narrow returns a filter that lets through all that one of the conditions might,
// and as little else as the journal's index can tell. What it lets through is judged
// once more.
func narrow(conditions []*condition, schemes []string) subscriptions.Filter {
	var f subscriptions.Filter
	f.Kind = union(conditions, func(c *condition) []string { return names(uint32(c.kinds), graph.KindChanged, graph.KindRefresh) })
	f.Lane = union(conditions, func(c *condition) []string { return names(uint32(c.lanes), graph.Prompt, graph.Bulk) })
	f.Type = union(conditions, func(c *condition) []string { return c.types.all() })
	f.Bucket = union(conditions, func(c *condition) []string { return c.buckets.all() })
	f.Prefix = union(conditions, func(c *condition) []string { return c.under(schemes) })
	if len(f.Prefix) > maxNarrowPrefixes {
		f.Prefix = nil
	}
	if f.Prefix == nil {
		f.Host = union(conditions, func(c *condition) []string { return c.hosts.all() })
	}
	return f
}

// all returns the values if no pattern is among them.
func (v *values) all() []string {
	if len(v.patterns) > 0 {
		return nil
	}
	return v.exact
}

// under returns prefixes under which all lies that meets c, nil if there are none.
func (c *condition) under(schemes []string) []string {
	if len(c.prefixes) > 0 {
		return c.prefixes
	}
	prefixes := slices.Clone(c.uri.exact) // by whole segments, and so with all aspects
	for _, re := range c.uri.patterns {
		p := underPrefix(literalPrefix(re), schemes)
		if p == "" {
			return nil
		}
		prefixes = append(prefixes, p)
	}
	return prefixes
}

func names[T interface {
	~uint8
	String() string
}](set uint32, known ...T) (list []string) {
	for _, v := range known {
		if set&(1<<v) != 0 {
			list = append(list, v.String())
		}
	}
	return list
}

// union puts together what the conditions ask of one field: nil if one of them asks
// nothing.
func union(conditions []*condition, of func(*condition) []string) (all []string) {
	for _, c := range conditions {
		list := of(c)
		if len(list) == 0 {
			return nil
		}
		all = append(all, list...)
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) > maxNarrowValues {
		return nil
	}
	return all
}
