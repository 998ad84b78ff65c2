package sink

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

const (
	// MaxSinks bounds the sinks of a hub: each reads the journal for itself.
	MaxSinks = 256
	// maxCases bounds the cases of a sink: each notice is held against them in turn.
	maxCases = 100
	// maxTargets bounds the caches of a sink: each is called for every notice.
	maxTargets = 64
	// maxConcurrency bounds the calls of a sink at once; the hub has a bound of its
	// own for all of them.
	maxConcurrency = 256
	// maxTimeout bounds a call: one that hangs holds a place.
	maxTimeout = 5 * time.Minute
	// maxLinger bounds how long a notice waits for more: readers are promised 10 s.
	maxLinger = 10 * time.Second
	// maxAttempts and maxPause bound a schedule.
	maxAttempts = 100
	maxPause    = 24 * time.Hour

	defaultConcurrency = 4
	defaultTimeout     = 10 * time.Second
)

// A Sink is a checked definition.
type Sink struct {
	Definition
	index    int
	display  *Sink // the same without the secrets that stand in its definition
	match    *condition
	not      []*condition
	branches []*branch
	targets  []string // caches, or "" for what is called by URL

	timeout, linger, maxAge time.Duration
	after                   []time.Duration
	attempts                int
	retryOn, ignore         statuses
	allow                   []netip.Prefix
	threshold               uint64 // resources whose sum is above it are left out
	readsBuckets            bool   // a request is made or judged by all buckets at once
	byBucket                bool   // the group waits by bucket, so that each request is about one
	filter                  subscriptions.Filter
}

// A branch is one of the requests of a sink.
type branch struct {
	field  string // where it stands in the definition
	match  *condition
	not    []*condition
	action *action
}

// A Warning tells an operator of what may not be meant.
type Warning struct {
	Sink string `json:"sink"`
	Text string `json:"text"`
}

// String returns the warning as a line.
func (w Warning) String() string { return fmt.Sprintf("sink %q: %s", w.Sink, w.Text) }

// Compile checks definitions, in their order. The first that cannot be used is an
// *[Error]. Of secrets only the names are looked at: see [CheckSecrets].
func Compile(defs []Definition, schemes ...string) ([]*Sink, []Warning, error) {
	if len(defs) > MaxSinks {
		return nil, nil, &Error{Index: MaxSinks, Name: defs[MaxSinks].Name, Reason: fmt.Sprintf("there are more than %d sinks", MaxSinks)}
	}
	var sinks []*Sink
	var warnings []Warning
	fail := func(i int, err error) error {
		e := &Error{Index: i, Name: defs[i].Name, Reason: err.Error()}
		if f, ok := err.(*fieldError); ok {
			e.Field, e.Reason = f.field, f.reason
		}
		return e
	}
	for i := range defs {
		s := &Sink{Definition: defs[i], index: i, display: &Sink{Definition: defs[i].Shown()}}
		err := cmp.Or(s.compile(schemes), s.display.compile(schemes))
		if err == nil && slices.ContainsFunc(sinks, func(o *Sink) bool { return o.Name == s.Name }) {
			err = fault("name", "another sink has it already")
		}
		if err != nil {
			return nil, nil, fail(i, err)
		}
		sinks = append(sinks, s)
		for _, text := range s.warn() {
			warnings = append(warnings, Warning{s.Name, text})
		}
	}
	groups := map[string][]*Sink{}
	for _, s := range sinks {
		if s.Group != "" {
			groups[s.Group] = append(groups[s.Group], s)
		}
	}
	for _, s := range sinks {
		if err := s.joinGroup(groups[s.Group]); err != nil {
			return nil, nil, fail(s.index, err)
		}
		s.display.byBucket = s.byBucket
	}
	return sinks, warnings, nil
}

var sinkName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func (s *Sink) compile(schemes []string) error {
	if !sinkName.MatchString(s.Name) {
		return fault("name", "%.80q is not a name: small letters, digits, . _ and -, at most 64", s.Name)
	}
	if s.Name == "test" {
		return fault("name", "test is the address at which sinks are tried out")
	}
	var err error
	if s.match, err = compileMatch(&s.Match, schemes); err != nil {
		return under("match", err)
	}
	if s.not, err = compileNot(s.MatchNot, schemes); err != nil {
		return err
	}
	for i, text := range s.Allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fault(indexed("allow", i, s.Allow), "%.80q is not a network, such as 10.0.0.0/8", text)
		}
		s.allow = append(s.allow, p)
	}
	if err := s.compileBranches(schemes); err != nil {
		return err
	}
	if err := s.compileSending(); err != nil {
		return err
	}
	s.filter = s.narrowed(schemes)
	if _, err := subscriptions.Compile(s.filter, schemes...); err != nil {
		return under("match", err)
	}
	return nil
}

func compileNot(list Matches, schemes []string) (not []*condition, err error) {
	for i := range list {
		field := "match_not"
		if len(list) > 1 {
			field = fmt.Sprintf("match_not[%d]", i)
		}
		c, err := compileMatch(&list[i], schemes)
		if err == nil && c.empty() {
			err = fault("", "it asks nothing, and would leave everything out")
		}
		if err != nil {
			return nil, under(field, err)
		}
		not = append(not, c)
	}
	return not, nil
}

// compileBranches reads the cases, or the one request that stands for them.
func (s *Sink) compileBranches(schemes []string) error {
	if len(s.Cases) > maxCases {
		return fault("cases", "more than %d", maxCases)
	}
	cases := s.Cases
	if len(cases) == 0 {
		cases = []Case{{Action: s.Action}}
	} else if s.Action != (Action{}) {
		return fault("cases", "the sink sends something of its own already; it has cases or sends one thing")
	}
	for i := range cases {
		b := &branch{}
		if len(s.Cases) > 0 {
			b.field = fmt.Sprintf("cases[%d]", i)
		}
		if err := b.compile(&cases[i], s, schemes); err != nil {
			return under(b.field, err)
		}
		s.branches = append(s.branches, b)
		s.readsBuckets = s.readsBuckets || b.readsBuckets(s)
		for _, target := range b.action.targets() {
			if !slices.Contains(s.targets, target) {
				s.targets = append(s.targets, target)
			}
		}
	}
	if len(s.targets) > maxTargets {
		return fault("", "it calls more than %d caches", maxTargets)
	}
	return nil
}

func (b *branch) compile(c *Case, s *Sink, schemes []string) (err error) {
	if b.match, err = compileMatch(&c.Match, schemes); err != nil {
		return under("match", err)
	}
	if b.not, err = compileNot(c.MatchNot, schemes); err != nil {
		return err
	}
	captures := map[string]bool{}
	for _, from := range []map[string]bool{s.match.captures, b.match.captures} {
		for name, always := range from {
			if _, twice := captures[name]; twice {
				return fault("match", "%q is captured by the sink's match already", name)
			}
			captures[name] = always
		}
	}
	if b.action, err = compileAction(&c.Action, captures); err != nil {
		return err
	}
	if b.action.cdn && s.match.kinds == 0 && b.match.kinds == 0 {
		b.match.kinds = 1 << graph.KindChanged
		b.match.asksOfResource = true
	}
	if len(s.Allow) > 0 && b.action.foreignHost() && !s.match.hostsNamed() && !b.match.hostsNamed() {
		return fault("match", "the request goes to a host that the notice names, and allow opens networks that are not public: "+
			"name the hosts, by host:, prefix: or a uri: that begins with one")
	}
	return nil
}

// readsBuckets reports whether the request, or whether there is one, depends on more
// than the bucket that it is about.
func (b *branch) readsBuckets(s *Sink) bool {
	if b.action.names["notice"] || b.action.names["buckets"] {
		return true
	}
	conditions := slices.Concat([]*condition{s.match, b.match}, s.not, b.not)
	return !b.action.perBucket() && slices.ContainsFunc(conditions, func(c *condition) bool { return c.buckets.set() })
}

// hostsNamed reports whether the operator says on which hosts what matches is.
func (c *condition) hostsNamed() bool {
	return len(c.prefixes) > 0 || c.hosts.set() && len(c.hosts.patterns) == 0 || c.uri.set() && len(c.under(nil)) > 0
}

// compileSending reads how calls are made.
func (s *Sink) compileSending() error {
	for _, d := range []struct {
		field, text string
		into        *time.Duration
		most        time.Duration
	}{{"timeout", s.Timeout, &s.timeout, maxTimeout}, {"linger", s.Linger, &s.linger, maxLinger},
		{"max_age", s.MaxAge, &s.maxAge, math.MaxInt64}} {
		if d.text == "" {
			continue
		}
		var err error
		if *d.into, err = duration(d.text, d.most); err != nil {
			return under(d.field, err)
		}
	}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	switch {
	case !(s.Rate >= 0 && s.Rate <= 1e6):
		return fault("rate", "%v is not a number of calls a second", s.Rate)
	case s.Concurrency < 0 || s.Concurrency > maxConcurrency:
		return fault("concurrency", "%d is not a number from 1 to %d", s.Concurrency, maxConcurrency)
	case s.Sample != nil && !(*s.Sample > 0 && *s.Sample <= 1):
		return fault("sample", "%v is not a part of 1, such as 0.1", *s.Sample)
	case (s.Group == "") != (s.Stage == 0):
		return fault("stage", "a group and a stage belong together")
	case s.Group != "" && !sinkName.MatchString(s.Group):
		return fault("group", "%.80q is not a name: small letters, digits, . _ and -", s.Group)
	case s.Stage < 0:
		return fault("stage", "stages count from 1")
	}
	if s.Concurrency == 0 {
		s.Concurrency = defaultConcurrency
	}
	s.threshold = math.MaxUint64
	if s.Sample != nil && *s.Sample < 1 {
		s.threshold = uint64(*s.Sample * math.MaxUint64)
	}
	return s.compileAnswers()
}

// compileAnswers reads what answers mean.
func (s *Sink) compileAnswers() (err error) {
	retryOn, ignore := s.RetryOn, s.Ignore
	if retryOn == nil {
		retryOn = Texts{"408", "425", "429", "5xx"}
	}
	if ignore == nil && slices.ContainsFunc(s.branches, func(b *branch) bool { return b.action.cdn }) {
		ignore = Texts{"404"} // a cache that does not have it
	}
	if s.retryOn, err = parseStatuses("retry_on", retryOn); err != nil {
		return err
	}
	if s.ignore, err = parseStatuses("ignore", ignore); err != nil {
		return err
	}
	for status := range s.retryOn {
		if s.retryOn[status] && s.ignore[status] {
			return fault("ignore", "%d is in retry_on as well", status)
		}
	}
	for i, text := range s.Retry.After {
		d, err := duration(text, maxPause)
		if err != nil {
			return under("retry", under(indexed("after", i, s.Retry.After), err))
		}
		s.after = append(s.after, d)
	}
	if len(s.after) >= maxAttempts {
		return fault("retry.after", "there are more than %d", maxAttempts-1)
	}
	if limit := s.Retry.Limit; limit != nil {
		if *limit < 1 || *limit > maxAttempts {
			return fault("retry.limit", "%d is not a number of attempts from 1 to %d", *limit, maxAttempts)
		}
		s.attempts = *limit
	}
	return nil
}

func duration(text string, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%.40q is not a duration, such as 5s", text)
	}
	if d > most {
		return 0, fmt.Errorf("%.40q is more than %s", text, most)
	}
	return d, nil
}

// statuses is a set of statuses of HTTP.
type statuses [600]bool

func parseStatuses(field string, texts Texts) (set statuses, err error) {
	for i, text := range texts {
		n, err := strconv.Atoi(strings.Replace(text, "xx", "00", 1))
		wide := len(text) == 3 && strings.HasSuffix(text, "xx")
		if err != nil || n < 100 || n > 599 || strings.Contains(text, "x") && !wide {
			return set, fault(indexed(field, i, texts), "%.40q is not a status, such as 404 or 5xx", text)
		}
		set[n] = true
		for j := range 100 {
			set[n/100*100+j] = set[n/100*100+j] || wide
		}
	}
	return set, nil
}

// has reports whether a status is in the set.
func (set *statuses) has(status int) bool { return status >= 0 && status < len(set) && set[status] }

// joinGroup checks that there are stages for s to wait for, or that wait for it. If
// one member purges by bucket, all others make a request for each bucket as well: what
// a stage waits for must be the same in all of them.
func (s *Sink) joinGroup(members []*Sink) error {
	has := func(stage int) bool {
		return slices.ContainsFunc(members, func(o *Sink) bool { return o.Stage == stage })
	}
	switch {
	case s.Group == "":
		return nil
	case s.Stage > 1 && !has(s.Stage-1):
		return fault("stage", "group %q has no stage %d for it to wait for", s.Group, s.Stage-1)
	case s.Stage == 1 && !has(2):
		return fault("group", "group %q has one stage alone; there is nothing to put in order", s.Group)
	}
	s.byBucket = slices.ContainsFunc(members, func(o *Sink) bool {
		return slices.ContainsFunc(o.branches, func(b *branch) bool { return b.action.perBucket() })
	})
	return nil
}

// narrowed returns what to ask of the journal.
func (s *Sink) narrowed(schemes []string) subscriptions.Filter {
	all := make([]*condition, 0, len(s.branches))
	for _, b := range s.branches {
		all = append(all, b.match)
	}
	own, cases := narrow([]*condition{s.match}, schemes), narrow(all, schemes)
	pick := func(own, cases []string) []string {
		if len(own) > 0 {
			return own
		}
		return cases
	}
	f := subscriptions.Filter{Kind: pick(own.Kind, cases.Kind), Lane: pick(own.Lane, cases.Lane), Type: pick(own.Type, cases.Type),
		Bucket: pick(own.Bucket, cases.Bucket)}
	// Prefixes and hosts are alternatives in a filter: one of them is enough.
	if f.Prefix = pick(own.Prefix, cases.Prefix); f.Prefix == nil {
		f.Host = pick(own.Host, cases.Host)
	}
	return f
}

// warn tells of what may not be meant.
func (s *Sink) warn() (texts []string) {
	for _, b := range s.branches {
		kinds := s.match.kinds | b.match.kinds
		in := ""
		if b.field != "" {
			in = b.field + ": "
		}
		if b.action.cdn && kinds&(1<<graph.KindRefresh) != 0 {
			texts = append(texts, in+"it empties a cache on refresh: that comes before the rendering is made again, and the origin may fill "+
				"the cache with the old one. Leave kind out, or write kind: changed")
		}
		if b.action.cdn && !s.match.types.set() && !b.match.types.set() && !s.match.aspect.set() && !b.match.aspect.set() {
			texts = append(texts, in+"it empties a cache on changes of everything, also of what renderings are made from, before they are "+
				"made again. Name the renderings: match: {type: html}")
		}
	}
	for _, name := range s.literalSecrets() {
		texts = append(texts, name+" stands in the configuration as it is; write {env:NAME} or {file:PATH}")
	}
	return texts
}

// sampled reports whether a resource is in the sample. It is the same for all sinks
// and all aspects, so that the stages of a group sample alike.
func (s *Sink) sampled(url string) bool {
	if s.threshold == math.MaxUint64 {
		return true
	}
	h := fnv.New64a()
	h.Write([]byte(url))
	return mix(h.Sum64()) <= s.threshold
}

// mix spreads a sum over all bits: the upper ones of FNV hardly differ in URIs that
// differ in their last byte.
// Source: the finalizer of MurmurHash3.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
