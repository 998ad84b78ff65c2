package graph

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// MaxListing bounds one page of a listing.
const MaxListing = 10_000

// known returns the id of a resource the store heard of.
func (s *Store) known(uri string) (ID, error) {
	id, ok, err := s.lookup(uri)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s", ErrUnknown, uri)
	}
	return id, err
}

// Resource returns what the store knows of uri, or [ErrUnknown].
func (s *Store) Resource(uri string) (Resource, error) {
	id, err := s.known(uri)
	if err != nil {
		return Resource{}, err
	}
	n, err := s.countOf(id)
	if err != nil {
		return Resource{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, err := readRow(s.db, id)
	if err != nil {
		return Resource{}, err
	}
	w := s.col.get(id)
	out := Resource{
		URI: uri, Type: r.typ, State: w.state(), Known: r.is(rowKnown), Stale: s.stale(r, w), Failed: w.is(wordFailed), Unsettled: w.unsettled(), Peer: s.speakerFor(uri, w),
		Version: r.version, Hash: r.hash, Aliases: r.aliases, At: timeOf(r.at), ChangedAt: timeOf(r.changedAt),
		Dependencies: r.ndeps, Dependents: n, Buckets: r.buckets, Expires: timeOf(r.expires), BornStale: int(r.born),
		Damping: time.Duration(r.interval) * time.Microsecond, LeaseUntil: timeOf(r.lease),
	}
	if r.changed > 0 {
		out.Changed = Cursor{s.epoch, r.changed}
	}
	if w.state() == Ready {
		out.Attempt = w.count()
		if w.is(wordWaiting) {
			if out.NoticeDue, err = s.noticeDue(r); err != nil {
				return Resource{}, err
			}
		}
	}
	return out, nil
}

// noticeDue is when the notice of r is due that waits, by itself or until a
// rendering is provably newer than what changed last.
func (s *Store) noticeDue(r *row) (time.Time, error) {
	due := r.noticeDue
	if due == 0 {
		for _, x := range r.depIDs() {
			xr, err := readRow(s.db, x)
			if err != nil {
				return time.Time{}, err
			}
			due = max(due, xr.changedAt+deferral.Microseconds())
		}
	}
	return timeOf(max(due, s.now)), nil
}

// stale reports whether r is made from something that is newer now: its own bit
// says so, or a change of a dependency is on its way to it.
func (s *Store) stale(r *row, w word) bool {
	if w.is(wordStale) {
		return true
	}
	for _, j := range s.jobs.list {
		if j.ahead(r.id) && r.dependsOn(j.x) && !s.willMatch(j.x, r) {
			return true
		}
	}
	return false
}

// willMatch reports whether the job of x will find that r saw x as it is now.
func (s *Store) willMatch(x ID, r *row) bool {
	if !slices.Contains(r.ahead, x) {
		return false
	}
	seen, closer, err := s.db.Get(markerKey(x, r.id))
	if err != nil {
		return false
	}
	defer closer.Close()
	xr, err := readRow(s.db, x)
	return err == nil && matchMarker(xr, string(seen)) != noMatch
}

// Status answers for many resources at one moment. A URI the store never heard
// of is a stub that is not known.
func (s *Store) Status(uris []string) ([]Status, error) {
	ids := make([]ID, len(uris))
	for i, uri := range uris {
		id, _, err := s.lookup(uri)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Status, len(uris))
	for i, uri := range uris {
		out[i].URI = uri
		if ids[i] == 0 {
			continue
		}
		r, err := readRow(s.db, ids[i])
		if err != nil {
			return nil, err
		}
		w := s.col.get(ids[i])
		out[i] = Status{URI: uri, State: w.state(), Known: r.is(rowKnown), Stale: s.stale(r, w), Failed: w.is(wordFailed),
			Unsettled: w.unsettled(), Version: r.version, Hash: r.hash, At: timeOf(r.at)}
	}
	return out, nil
}

// speakerFor is the peer that speaks for a mirror.
func (s *Store) speakerFor(uri string, w word) string {
	if !w.is(wordMirror) {
		return ""
	}
	return s.SpeakerOf(uri)
}

// position of a listing: the last id listed, in the text form of a cursor.
func (s *Store) position(after string) (ID, error) {
	if after == "" {
		return 0, nil
	}
	c, err := ParseCursor(after)
	if err != nil {
		return 0, err
	}
	if c.Epoch != s.epoch {
		return 0, fmt.Errorf("%w of this store: %s; begin the listing anew", ErrCursor, after)
	}
	return ID(c.Seq), nil
}

// listing returns the resource that is listed and the position to go on from.
func (s *Store) listing(uri, after string) (id, from ID, err error) {
	if id, err = s.known(uri); err == nil {
		from, err = s.position(after)
	}
	return id, from, err
}

// items spells out a page of ids of which there may be one more than limit.
func (s *Store) items(ids []ID, limit int) (items []Item, next string, err error) {
	if len(ids) > limit {
		ids = ids[:limit]
		next = Cursor{s.epoch, uint64(ids[limit-1])}.String()
	}
	items = make([]Item, len(ids))
	for i, id := range ids {
		if items[i].URI, err = s.nameOf(id); err != nil {
			return nil, "", err
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i, id := range ids {
		items[i].State = s.col.get(id).state()
	}
	return items, next, nil
}

func clampLimit(limit int) int {
	if limit <= 0 || limit > MaxListing {
		return MaxListing
	}
	return limit
}

// Dependencies lists up to limit of what uri is made from, in the order the
// store first heard of them, strictly after a position ("" is the start). Next
// is where to go on, "" at the end.
func (s *Store) Dependencies(uri, after string, limit int) (items []Item, next string, err error) {
	limit = clampLimit(limit)
	id, from, err := s.listing(uri, after)
	if err != nil {
		return nil, "", err
	}
	r, err := readRow(s.db, id)
	if err != nil {
		return nil, "", err
	}
	ids := r.depIDs()
	i, _ := slices.BinarySearch(ids, from+1)
	ids = ids[i:]
	return s.items(ids[:min(len(ids), limit+1)], limit)
}

// Dependents lists up to limit of what is made from uri, likewise.
func (s *Store) Dependents(uri, after string, limit int) (items []Item, next string, err error) {
	limit = clampLimit(limit)
	id, from, err := s.listing(uri, after)
	if err != nil {
		return nil, "", err
	}
	var ids []ID
	err = eachDependent(s.db, id, from+1, func(d ID) bool {
		ids = append(ids, d)
		return len(ids) <= limit
	})
	if err != nil {
		return nil, "", err
	}
	return s.items(ids, limit)
}

// eachDependent calls f with the dependents of x at or after from, ascending,
// until it returns false. Cold and hot lists differ in their keys alone.
func eachDependent(db pebble.Reader, x, from ID, f func(ID) bool) error {
	prefix := idKey(spacePosting, x)
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	var ids []uint64
	ok := it.First()
	if ok && len(it.Key()) > len(prefix) {
		ok = it.SeekGE(bucketKey(x, uint32(from>>bucketShift)))
	}
	for ; ok; ok = it.Next() {
		if ids, err = decodeAnyBlock(it.Key(), it.Value(), ids[:0]); err != nil {
			return errors.Join(err, it.Close())
		}
		i, _ := slices.BinarySearch(ids, uint64(from))
		for _, d := range ids[i:] {
			if !f(ID(d)) {
				return it.Close()
			}
		}
	}
	return errors.Join(it.Error(), it.Close())
}

func decodeAnyBlock(key, value []byte, into []uint64) ([]uint64, error) {
	if len(key) == 1+idSize {
		return decodePosting(value, into)
	}
	k := key[1+idSize:]
	return decodeBucket(value, uint32(k[0])<<16|uint32(k[1])<<8|uint32(k[2]), into)
}

// countOf counts the dependents of x.
func (s *Store) countOf(x ID) (n int, err error) {
	prefix := idKey(spacePosting, x)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return 0, err
	}
	for it.First(); it.Valid(); it.Next() {
		c, err := postingCount(it.Value())
		if err != nil {
			return 0, errors.Join(err, it.Close())
		}
		n += c
	}
	return n, errors.Join(it.Error(), it.Close())
}

// Jobs lists the running fan-outs in the order they began. One that ends leaves
// the list a moment before its last notices are durable.
func (s *Store) Jobs() []Job {
	s.mu.RLock()
	list := make([]job, len(s.jobs.list))
	for i, j := range s.jobs.list {
		list[i] = *j
	}
	s.mu.RUnlock()
	out := make([]Job, 0, len(list))
	for i := range list {
		j := &list[i]
		uri, err1 := s.nameOf(j.x)
		var causeURI string
		var err2 error
		if j.cause.id != 0 {
			causeURI, err2 = s.nameOf(j.cause.id)
		}
		if err1 != nil || err2 != nil {
			continue // given back since
		}
		out = append(out, Job{ID: jobName(j.id), URI: uri, Kind: j.kind.String(), Reached: min(j.reached, j.total), Total: j.total,
			Emitted: j.emitted, Paused: j.paused, Rate: j.rate, Started: timeOf(j.began),
			Cause: Cause{URI: causeURI, ID: j.cause.uid, At: timeOf(j.cause.at)}})
	}
	return out
}

func jobName(id uint64) string { return fmt.Sprintf("j%d", id) }

// ControlJob pauses or resumes a job and limits it to rate dependents a second
// (0 = no limit). An ended or unknown one is [ErrUnknown]. It writes one small row
// over another, so it is possible also on a disk that is nearly full.
func (s *Store) ControlJob(ctx context.Context, id string, paused bool, rate int) error {
	if rate < 0 {
		return &InvalidError{Field: "rate", Reason: "below 0"}
	}
	found := false
	err := s.relieve(ctx, func(t *txn) {
		for _, j := range t.s.jobs.list {
			if jobName(j.id) == id {
				j.paused, j.rate, found = paused, rate, true
				t.saveJob(j)
			}
		}
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: job %s", ErrUnknown, id)
	}
	return err
}
