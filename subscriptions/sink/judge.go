package sink

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// A decision says what a sink makes of a notice.
type decision struct {
	branch   *branch    // nil: it leaves the notice alone
	subjects []*subject // one for each request to each target
	why      string     // it leaves the notice alone: the field to blame
}

const (
	whySample = "sample"
	whyBucket = "no bucket"
	whyNot    = "match_not"
)

// decide holds a notice against the rules of s. The first case that matches wins.
func (s *Sink) decide(n *graph.Notice) (d decision) {
	own := &subject{notice: n}
	if field := s.match.differs(own, own); field != "" {
		return decision{why: field}
	}
	if !s.sampled(own.url()) {
		return decision{why: whySample}
	}
	for _, b := range s.branches {
		if d = s.decideBranch(b, own); d.branch != nil {
			return d
		}
	}
	return d
}

// decideBranch judges one case. A request that names a bucket is made for each of
// them, and each is judged as if it were the only one.
func (s *Sink) decideBranch(b *branch, own *subject) decision {
	taken := &subject{notice: own.notice, base: own.base, captures: slices.Clip(own.captures)}
	if field := b.match.differs(taken, taken); field != "" {
		return decision{why: field}
	}
	if !b.action.perBucket() {
		if why := s.leavesOut(b, taken, own.notice.Buckets); why != "" {
			return decision{why: why}
		}
		return decision{branch: b, subjects: b.each(s.each(taken))}
	}
	d := decision{why: whyBucket}
	for _, bucket := range own.notice.Buckets {
		one := &subject{notice: own.notice, base: own.base, captures: slices.Clip(taken.captures), bucket: bucket}
		if why := s.leavesOut(b, one, []string{bucket}); why != "" {
			d.why = why
			continue
		}
		d.branch, d.subjects = b, append(d.subjects, one)
	}
	d.subjects = b.each(d.subjects)
	return d
}

// each returns the subjects once for each URL of the action.
func (b *branch) each(subjects []*subject) []*subject {
	if len(b.action.urls) == 1 {
		return subjects
	}
	var all []*subject
	for _, s := range subjects {
		for i := range b.action.urls {
			one := *s
			one.index = i
			all = append(all, &one)
		}
	}
	return all
}

// each returns what a request that names no bucket is made for: once, or in a group
// that waits by bucket once for each.
func (s *Sink) each(taken *subject) []*subject {
	if !s.byBucket || len(taken.notice.Buckets) == 0 {
		return []*subject{taken}
	}
	var all []*subject
	for _, bucket := range taken.notice.Buckets {
		all = append(all, &subject{notice: taken.notice, base: taken.base, captures: taken.captures, bucket: bucket})
	}
	return all
}

// leavesOut judges the buckets, and what is not meant. It returns the field that is
// to blame, "" if nothing is.
func (s *Sink) leavesOut(b *branch, taken *subject, buckets []string) string {
	if !s.match.holds(buckets, taken) || !b.match.holds(buckets, taken) {
		return "bucket"
	}
	for _, not := range [][]*condition{s.not, b.not} {
		for _, c := range not {
			if c.differs(taken, nil) == "" && c.holds(buckets, nil) {
				return whyNot
			}
		}
	}
	return ""
}

// tooOld reports whether a notice of that time is left out by max_age: the cache
// has dropped by itself what it is about.
func (s *Sink) tooOld(at, now time.Time) bool { return s.maxAge > 0 && now.Sub(at) > s.maxAge }

// key names what a request is about: a later one supersedes one that waits. What
// depends on more than a URL or a bucket is about the resource.
func (b *branch) key(s *subject) string {
	which := b.field
	if s.index > 0 {
		which = words(which, fmt.Sprintf("url[%d]", s.index))
	}
	switch a := b.action; {
	case len(a.names) == 0: // the same for all
		return words(which, "*")
	case a.namesOnly("bucket"):
		return words(which, s.bucket)
	case a.namesOnly("url", "host", "path"):
		return words(which, s.url(), s.bucket)
	}
	return words(which, s.notice.Kind.String(), s.notice.URI, s.bucket)
}

// awaited names what the next stage waits for: a bucket, or in a group without any
// the URL.
func (s *subject) awaited() string { return cmp.Or(s.bucket, s.url()) }

// words joins those that are not empty.
func words(list ...string) string {
	return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), " ")
}

// in says of which case something is.
func (b *branch) in(what string) string {
	if b.field == "" {
		return what
	}
	return b.field + ": " + what
}
