package graph

import (
	"slices"
	"strconv"
	"time"
)

const (
	// margin is how far clocks of producers may disagree where only times speak.
	// With 1 s clocks off by ±1.5 s, 2 s lost refreshes and 5 s lost none.
	margin = 5 * time.Second
	// deferral is how long after a change who proves nothing but a time is told:
	// a rendering begun then is provably newer, so it is told once, not eleven times.
	deferral = margin + time.Second
	// believeAfter is how many stale arrivals in a row it takes to believe a
	// previous version: the store must have missed the dependency going back.
	believeAfter = 5
)

// verdict answers: is dependency X newer than what D was made from?
type verdict uint8

const (
	notNewer verdict = iota
	newer
	ahead // not newer; D saw what the store has yet to hear of
)

// evidence is what an update of D says about one dependency X.
type evidence struct {
	seen     string
	at       int64  // when D's making began, µs
	token    uint64 // journal position held then …
	hasToken bool   // … if any, of this epoch
	born     uint64 // stale arrivals of D in a row
}

// number reads a version that orders: a decimal integer, but not the existence
// flags 0 and 1, which like all other tokens are only equal or different.
func number(s string) (uint64, bool) {
	if s == "" || s == "0" || s == "1" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// judge decides by the first rule that can. x was heard of; baseVersion yields
// the version of the resource that x is an aspect of, "" if it is none.
func judge(x *row, e evidence, baseVersion func() string) (verdict, Rule) {
	if e.seen == "" {
		return judgeUnseen(x, e)
	}
	if e.seen == x.hash && !x.purged() {
		return notNewer, RuleSame
	}
	if x.purged() {
		v, rule := judgeUnseen(x, e)
		switch {
		case v == newer:
			return v, rule
		case e.seen == x.hash:
			return notNewer, RuleSame
		}
		return ahead, rule
	}
	if x.identifies() && (e.seen == x.version || slices.Contains(x.aliases, e.seen)) {
		return notNewer, RuleSame
	}
	if e.seen == versionNone && x.deleted() {
		return notNewer, RuleAbsent
	}
	saw, ok1 := number(e.seen)
	has, ok2 := number(x.version)
	switch {
	case ok1 && ok2 && saw < has:
		return newer, RuleLower
	case ok1 && ok2 && saw > has:
		// An aspect's own version is older than its base's as a matter of course.
		if base, ok := number(baseVersion()); ok && saw <= base {
			return notNewer, RuleHigher
		}
		return ahead, RuleHigher
	case ok1 && ok2:
		return judgeUnseen(x, e)
	}
	if slices.Contains(x.previous, e.seen) {
		if e.born >= believeAfter {
			if v, _ := judgeUnseen(x, e); v == notNewer {
				return ahead, RuleBelieved
			}
		}
		return newer, RulePrevious
	}
	v, rule := judgeUnseen(x, e)
	if v == notNewer {
		v = ahead
	}
	return v, rule
}

// judgeUnseen decides by token, else by clocks.
func judgeUnseen(x *row, e evidence) (verdict, Rule) {
	v := notNewer
	if e.hasToken {
		if x.changed > e.token {
			v = newer
		}
		return v, RuleToken
	}
	if x.changedAt+margin.Microseconds() >= e.at {
		v = newer
	}
	return v, RuleTime
}

// match is what a marker says when its dependency has an event.
type match uint8

const (
	noMatch   match = iota // it goes, and the dependent is stale
	matchGo                // it goes, and the dependent stays
	matchKeep              // it stays: the store is still behind
)

// matchMarker compares what a dependent ahead of x saw with what x is now.
func matchMarker(x *row, seen string) match {
	switch {
	case x.purged():
		return noMatch
	case seen == x.hash && seen != "":
		return matchGo
	case x.identifies() && (seen == x.version || slices.Contains(x.aliases, seen)):
		return matchGo
	}
	saw, ok1 := number(seen)
	has, ok2 := number(x.version)
	if ok1 && ok2 && saw > has {
		return matchKeep
	}
	return noMatch
}

// presume notes in a resource never heard of what a dependent saw of it. Every
// edge counts, in any order; "0" is a value like any other. It reports whether
// the row changed.
func (r *row) presume(seen string) bool {
	before, was := r.flags, r.presumed
	switch {
	case seen == "":
		r.set(rowMissing, true)
	case r.presumed == "":
		r.presumed = seen
	case r.presumed != seen:
		r.set(rowDiffering, true)
	}
	return r.flags != before || r.presumed != was
}

// confirms reports whether the first event of r is what all its dependents saw,
// so that none of them need be told. A purge never confirms.
func (r *row) confirms(version, hash string, artefact bool) bool {
	if r.is(rowHeard|rowMissing|rowDiffering) || r.presumed == "" {
		return false
	}
	return r.presumed == hash || r.presumed == version && !artefact
}
