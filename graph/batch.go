package graph

import (
	"context"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	// MaxFuture is how far an update's At may be ahead of the hub's clock: a
	// producer whose clock is wrong by more would win every comparison by time.
	MaxFuture = 5 * time.Minute
	// MaxDeps bounds the dependencies of one resource: the longest real list
	// pages have about 50,000 links; 65,536 edges are a commit of about 1 MiB.
	MaxDeps = 65_536
	// MaxURI bounds a URI in bytes; keys of the store hold it whole.
	MaxURI = 2_048
	// MaxToken bounds a version, a hash, what was seen, an update id and a type.
	MaxToken = 255
	// MaxBuckets and MaxAspects bound the lists of one update.
	MaxBuckets = 64
	MaxAspects = 256
)

// edge is one dependency of an update with the id it had when it was looked
// up, 0 if it had none.
type edge struct {
	id   ID
	uri  string
	seen string
}

// prepared is an update with what could be found out beside the apply loop.
type prepared struct {
	*Update
	id     ID
	edges  []edge // distinct, without itself
	digest uint64 // of edges, type, buckets and expiry; 0 if it leaves some of them as they are
	seen   seenID
	at     int64
	found  bool // ids of edges were looked up; a repetition of what the store has needs none
	proven bool // it carries a token or something seen
}

// validate reports what is wrong with an update.
func (u *Update) validate(now time.Time) (field, reason string) {
	switch {
	case len(u.ID) > MaxToken:
		return "id", "longer than 255 bytes"
	case len(u.Type) > MaxToken:
		return "type", "longer than 255 bytes"
	case u.Type == typeTicker:
		return "type", "reserved for tickers"
	case len(u.Version) > MaxToken:
		return "version", "longer than 255 bytes"
	case len(u.Hash) > MaxToken:
		return "hash", "longer than 255 bytes"
	case u.Action > ActionPurge:
		return "action", "not update, delete or purge"
	case u.At.After(now.Add(MaxFuture)):
		return "at", "more than 5 minutes ahead of this hub's clock"
	case !u.At.IsZero() && u.At.Before(time.Unix(0, 0)):
		return "at", "before 1970"
	case len(u.Deps) > MaxDeps:
		return "deps", "more than 65536 dependencies"
	case len(u.Buckets) > MaxBuckets:
		return "buckets", "more than 64 buckets"
	case len(u.Aspects) > MaxAspects:
		return "aspects", "more than 256 aspects"
	case u.Action != ActionUpdate && len(u.Deps) > 0:
		return "deps", "a delete or purge has no dependencies"
	}
	if strings.HasPrefix(u.URI, "ticker:") {
		return "uri", "a ticker is updated by the hub alone; name it as a dependency"
	}
	for _, d := range u.Deps {
		if len(d.Seen) > MaxToken {
			return "deps", "seen is longer than 255 bytes"
		}
		if reason := checkTicker(d.URI); reason != "" {
			return "deps", reason
		}
	}
	for _, a := range u.Aspects {
		if a == "" || len(a) > MaxToken {
			return "aspects", "an aspect is empty or longer than 255 bytes"
		}
	}
	return "", ""
}

// spelled is what u says by itself; no store is looked at.
func (u *Update) spelled(publisher string) prepared {
	p := prepared{Update: u}
	if !u.At.IsZero() {
		p.at = u.At.UnixMicro()
	}
	if u.ID != "" {
		p.seen = seenOf(publisher, u)
	}
	p.collectEdges()
	return p
}

// prepare computes what needs no lock.
func (s *Store) prepare(publisher string, u *Update) (prepared, error) {
	p := u.spelled(publisher)
	p.proven = p.proven || !u.Token.IsZero() && u.Token.Epoch == s.epoch
	var err error
	if p.id, _, err = s.lookup(u.URI); err != nil {
		return p, err
	}
	if p.id != 0 && p.digest != 0 && s.repeats(&p) {
		return p, nil
	}
	return p, s.lookupEdges(&p)
}

// collectEdges makes the list of dependencies distinct and without itself, and
// sums up what the update says apart from its content.
func (p *prepared) collectEdges() {
	u := p.Update
	distinct := make(map[string]struct{}, len(u.Deps))
	p.edges = make([]edge, 0, len(u.Deps))
	var sum uint64
	for _, d := range u.Deps {
		if _, twice := distinct[d.URI]; twice || d.URI == u.URI {
			continue
		}
		distinct[d.URI] = struct{}{}
		p.edges = append(p.edges, edge{uri: d.URI, seen: d.Seen})
		p.proven = p.proven || d.Seen != ""
		sum += xxhash.Sum64String(d.URI) ^ bitsOf(d.Seen)
	}
	if u.Deps == nil {
		return
	}
	if u.Buckets != nil {
		sum = sum*31 + 1
	}
	for _, name := range u.Buckets {
		sum = sum*31 + xxhash.Sum64String(name)
	}
	sum = sum*31 + xxhash.Sum64String(u.Type)
	if !u.Expires.IsZero() {
		sum += uint64(u.Expires.UnixMicro())
	}
	p.digest = max(sum, 1)
}

// bitsOf tells what was seen apart from which dependency it was seen of.
func bitsOf(seen string) uint64 { return xxhash.Sum64String(seen) * 0x9e3779b97f4a7c15 }

// repeats reports whether p says the same of its dependencies as its last
// update did. It reads beside the apply loop, so it is only a hint.
func (s *Store) repeats(p *prepared) bool {
	v, closer, err := s.db.Get(idKey(spaceRow, p.id))
	if err != nil {
		return false
	}
	defer closer.Close()
	return encodedDigest(v) == p.digest
}

func (s *Store) lookupEdges(p *prepared) error {
	for i := range p.edges {
		id, _, err := s.lookup(p.edges[i].uri)
		if err != nil {
			return err
		}
		p.edges[i].id = id
	}
	p.found = true
	return nil
}

// Apply applies a batch: all of it or nothing. It is durable, with all its
// notices, when Apply returns nil. Updates of one caller are applied in order.
// Publisher is the scope of update ids, and has an account. An [InvalidError] names
// the item that was refused, a [QuotaError] what would be too many; then nothing
// changed. On a disk that is nearly full all is refused with a [NoSpaceError],
// deletes and purges too: others have to hear of them, which takes more than their
// edges give.
func (s *Store) Apply(ctx context.Context, publisher string, us []Update) (Result, error) {
	batch, err := s.prepareAll(s.o.Clock(), publisher, us)
	if err != nil {
		return Result{}, err
	}
	var res Result
	if err := s.do(ctx, batch.into(&res)); err != nil {
		return Result{}, err
	}
	return res, batch.refused
}

// batch is a request to apply updates.
type batch struct {
	publisher string
	quota     Quota
	items     []prepared
	collects  uint64     // ids were looked up after so many had been given back
	authority *authority // which let the updates pass
	refused   error
}

func (s *Store) prepareAll(now time.Time, publisher string, us []Update) (*batch, error) {
	b := &batch{publisher: publisher, quota: s.quota(publisher), items: make([]prepared, len(us))}
	s.mu.RLock()
	b.collects = s.collects.Load()
	s.mu.RUnlock()
	b.authority = s.authority.Load()
	for i := range us {
		if field, reason := us[i].validate(now); field != "" {
			return nil, &InvalidError{Item: i, Field: field, Reason: reason}
		}
		if reason := b.authority.foreign(us[i].URI); reason != "" {
			return nil, &InvalidError{Item: i, Field: "uri", Reason: reason}
		}
		if err := us[i].checkURIs(s.o.Schemes); err != nil {
			return nil, &InvalidError{Item: i, Field: err.field, Reason: err.reason}
		}
		var err error
		if b.items[i], err = s.prepare(publisher, &us[i]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *batch) into(res *Result) func(t *txn) {
	return func(t *txn) {
		if a := t.s.authority.Load(); a != b.authority { // a peer may speak for one of them now
			for i := range b.items {
				if reason := a.foreign(b.items[i].URI); reason != "" {
					b.refused = &InvalidError{Item: i, Field: "uri", Reason: reason}
					return
				}
			}
		}
		if b.collects != t.s.collects.Load() { // an id may belong to another resource now
			for i := range b.items {
				p := &b.items[i]
				p.id, _ = t.find(p.URI)
				p.found = false
			}
		}
		if b.quota != (Quota{}) {
			resources, edges := b.growth(t)
			if b.refused = b.quota.admits(t, b.publisher, resources, edges); b.refused != nil {
				return
			}
		}
		t.by = t.billed(b.publisher)
		*res = Result{Accepted: len(b.items)}
		for i := range b.items {
			switch t.apply(&b.items[i]) {
			case outcomeChanged:
				res.Changed++
			case outcomeDuplicate:
				res.Duplicates++
			case outcomeOutdated:
				res.Outdated++
			}
		}
		t.drain()
		t.flushNotices()
		res.Cursor = Cursor{t.s.epoch, t.s.seq}
		t.s.counters.updates += uint64(res.Accepted)
		t.s.counters.duplicates += uint64(res.Duplicates)
		t.s.counters.outdated += uint64(res.Outdated)
	}
}

// fieldError is what is wrong with one field of an update.
type fieldError struct{ field, reason string }

// checkURIs reports the first URI of u that is not canonical.
func (u *Update) checkURIs(schemes []string) *fieldError {
	if err := CheckURI(u.URI, schemes...); err != nil {
		return &fieldError{"uri", err.Error()}
	}
	for i := range u.Deps {
		if err := CheckURI(u.Deps[i].URI, schemes...); err != nil {
			return &fieldError{"deps", err.Error()}
		}
	}
	for _, name := range u.Buckets {
		if name == "" || len(name) > MaxURI || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return &fieldError{"buckets", "a bucket is empty, longer than 2048 bytes or has control characters"}
		}
	}
	return nil
}
