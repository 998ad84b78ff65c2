package graph

import (
	"context"
	"slices"
	"time"
)

// EditDependencies changes what uri is made from without saying that it was
// made again: it never becomes stale by it. A dirty resource is looked at again,
// since it may no longer depend on what it waits for. The cursor is the newest
// position when the change was durable. To take edges away is possible also on a
// disk that is nearly full; to add some is a [NoSpaceError] there. The resource is
// then on the publisher's account; a [QuotaError] is as for [Store.Apply].
// Source: the operations put, drop, replace, add and remove of the change
// propagation RFC (T102476).
func (s *Store) EditDependencies(ctx context.Context, publisher, uri string, e EdgeEdit) (c Cursor, err error) {
	u := Update{URI: uri}
	for _, x := range e.Add {
		u.Deps = append(u.Deps, Dep{URI: x})
	}
	if field, reason := u.validate(s.o.Clock()); field != "" {
		return c, &InvalidError{Field: field, Reason: reason}
	}
	if err := u.checkURIs(s.o.Schemes); err != nil {
		return c, &InvalidError{Field: err.field, Reason: err.reason}
	}
	do := s.do
	if len(e.Add) == 0 {
		do = s.relieve
	}
	quota := s.quota(publisher)
	var refused error
	var at Cursor // not read if ctx has ended: it may be written yet
	err = do(ctx, func(t *txn) {
		refused = t.editEdges(publisher, quota, uri, e)
		t.drain()
		at = Cursor{t.s.epoch, t.s.seq}
	})
	if err != nil {
		return c, err
	}
	return at, refused
}

// editEdges gives no id away before it knows that nothing is refused.
func (t *txn) editEdges(publisher string, quota Quota, uri string, e EdgeEdit) error {
	if reason := t.s.authority.Load().foreign(uri); reason != "" {
		return &InvalidError{Field: "uri", Reason: reason}
	}
	var ids []ID
	id, known := t.find(uri)
	if known && !e.Clear {
		ids = t.row(id).depIDs()
	}
	removed := make(map[ID]bool, len(e.Remove))
	for _, x := range e.Remove {
		if xid, ok := t.find(x); ok {
			removed[xid] = true
		}
	}
	ids = slices.DeleteFunc(ids, func(x ID) bool { return removed[x] })
	var added []string
	for _, x := range e.Add {
		xid, _ := t.find(x)
		if _, has := slices.BinarySearch(ids, xid); !has && x != uri {
			added = append(added, x)
		}
	}
	slices.Sort(added)
	added = slices.Compact(added)
	if len(ids)+len(added) > MaxDeps {
		return &InvalidError{Field: "add", Reason: "more than 65536 dependencies"}
	}
	owned, held := t.holds(publisher, id)
	resources := int64(1)
	if owned {
		resources = 0
	}
	if err := quota.admits(t, publisher, resources, int64(len(ids)+len(added)-held)); err != nil {
		return err
	}
	id = t.intern(uri)
	for _, x := range added {
		xid := t.intern(x)
		ids = append(ids, xid)
		if r := t.row(xid); !r.is(rowHeard) && r.presume("") {
			t.edit(xid)
		}
	}
	slices.Sort(ids)
	t.own(t.edit(id), t.billed(publisher))
	t.setEdgesOf(id, ids)
	return nil
}

// setEdgesOf replaces edges alone: markers on what is no longer a dependency
// go, and a dirty resource is looked at again.
func (t *txn) setEdgesOf(id ID, ids []ID) {
	for _, x := range slices.Clone(t.row(id).ahead) {
		if _, ok := slices.BinarySearch(ids, x); !ok {
			t.dropMarker(id, x)
		}
	}
	t.replaceEdges(id, ids)
	r := t.edit(id)
	r.digest = 0
	if len(ids) > 0 {
		r.set(rowArtefact, true)
	}
	t.settle(id, Prompt, cause{id: id, at: t.now})
}

// ForgetDependents drops all edges into uri; of many dependents a job does. It is
// possible also on a disk that is nearly full.
// Source: the operation rpurge of the change propagation RFC (T102476).
func (s *Store) ForgetDependents(ctx context.Context, uri string) (c Cursor, err error) {
	if _, err := s.known(uri); err != nil {
		return c, err
	}
	var at Cursor
	err = s.relieve(ctx, func(t *txn) {
		if id, ok := t.find(uri); ok {
			t.startJob(id, jobForget, cause{id: id, at: t.now})
			t.drain()
		}
		at = Cursor{t.s.epoch, t.s.seq}
	})
	if err != nil {
		return c, err
	}
	return at, nil
}

// forget drops the edge from d to x.
func (t *txn) forget(d, x ID) {
	ids := t.row(d).depIDs()
	if i, ok := slices.BinarySearch(ids, x); ok {
		t.setEdgesOf(d, slices.Delete(ids, i, i+1))
	}
}

// Claim is a worker's lease on a ready resource.
type Claim struct {
	ID         string
	URI        string
	LeaseUntil time.Time
	Token      Cursor // held when the claim was given: send it with the update
}

const (
	// MinLease and MaxLease bound a claim: a shorter one ends before anything is
	// made, a longer one hides a dead worker.
	MinLease = time.Second
	MaxLease = time.Hour
)

// Claim makes those of uris that are ready pending for the length of a lease.
// Others are left out, and so are those whose notice is yet to come and those that
// failed as often as they may. When the lease ends the resource is ready again, with
// a notice; an update of the resource ends the claim. All of this goes for every
// type, whether it is in [Options].Work or not.
func (s *Store) Claim(ctx context.Context, uris []string, lease time.Duration) ([]Claim, error) {
	if err := checkLease(lease); err != nil {
		return nil, err
	}
	var out []Claim
	if err := s.do(ctx, func(t *txn) { out = t.claim(uris, lease) }); err != nil {
		return nil, err
	}
	return out, nil
}

func checkLease(lease time.Duration) error {
	if lease < MinLease || lease > MaxLease {
		return &InvalidError{Field: "lease_s", Reason: "not between 1 second and 1 hour"}
	}
	return nil
}

func (t *txn) claim(uris []string, lease time.Duration) (out []Claim) {
	for _, uri := range uris {
		id, ok := t.find(uri)
		if !ok {
			continue
		}
		w := t.word(id)
		if w.state() != Ready || w.is(wordWaiting) || w.is(wordFailed) && t.row(id).failures > uint64(len(retryLadder)) {
			continue // who was given up because nobody came is made by who comes at last
		}
		t.flushNotices()
		r := t.edit(id)
		r.lease = t.now + lease.Microseconds()
		r.claim++
		t.setState(id, Pending)
		t.later(r.lease, timer{kind: timerLease, ref: r.claim, chunk: chunk{ids: []ID{id}}})
		out = append(out, t.claimOf(r, uri))
	}
	return out
}

// claimOf spells out the claim on r. Its id names the resource and the number of
// the claim, so that an earlier holder cannot end a later claim.
func (t *txn) claimOf(r *row, uri string) Claim {
	return Claim{ID: Cursor{Epoch(r.claim), uint64(r.id)}.String(), URI: uri, LeaseUntil: timeOf(r.lease),
		Token: Cursor{t.s.epoch, t.s.seq}}
}

// holder finds the resource of a claim that is still held.
func (t *txn) holder(claimID string) (*row, bool) {
	c, err := ParseCursor(claimID)
	if err != nil || c.Seq == 0 || ID(c.Seq) >= t.s.nextID {
		return nil, false
	}
	r := t.row(ID(c.Seq))
	return r, Epoch(r.claim) == c.Epoch && r.lease > 0 && t.word(r.id).state() == Pending
}

// ExtendClaim moves the end of a lease. A claim that is over is [ErrUnknown].
func (s *Store) ExtendClaim(ctx context.Context, id string, lease time.Duration) (c Claim, err error) {
	if err := checkLease(lease); err != nil {
		return c, err
	}
	held := false
	var longer Claim
	err = s.do(ctx, func(t *txn) {
		var r *row
		if r, held = t.holder(id); held {
			r = t.edit(r.id)
			r.lease = t.now + lease.Microseconds()
			t.later(r.lease, timer{kind: timerLease, ref: r.claim, chunk: chunk{ids: []ID{r.id}}})
			longer = t.claimOf(r, t.uri(r.id))
		}
	})
	switch {
	case err != nil:
		return c, err
	case !held:
		return c, ErrUnknown
	}
	return longer, nil
}

// ReleaseClaim gives a claim back: the resource is ready again, with a notice
// at once, or, when making it failed, with the next retry. After the last retry
// it has failed. A claim that is over is [ErrUnknown].
func (s *Store) ReleaseClaim(ctx context.Context, id string, failed bool) error {
	var refused error
	err := s.do(ctx, func(t *txn) { refused = t.release(id, failed) })
	if err == nil {
		err = refused
	}
	return err
}

func (t *txn) release(id string, failed bool) error {
	r, held := t.holder(id)
	if !held {
		return ErrUnknown
	}
	r = t.edit(r.id)
	r.lease = 0
	a := ask{reason: ReasonLease, lane: Bulk, cause: cause{id: r.id, seq: r.changed, at: t.now}}
	if failed {
		r.failures++
		if int(r.failures) > len(retryLadder) {
			t.setState(r.id, Ready)
			t.put(r.id, t.word(r.id).with(wordFailed, true))
			return nil
		}
		a.reason, a.notBefore = ReasonRetry, t.now+t.s.retryDelay(int(r.failures)-1, r.claim)
	}
	t.ready(r.id, a)
	return nil
}

// fireLease ends a claim that its holder neither ended nor extended.
func (t *txn) fireLease(id ID, claim uint64) {
	r := t.row(id)
	if r.claim != claim || r.lease == 0 || r.lease > t.now || t.word(id).state() != Pending {
		return
	}
	t.edit(id).lease = 0
	t.ready(id, ask{reason: ReasonLease, lane: Bulk, cause: cause{id: id, seq: r.changed, at: t.now}})
}

// Retry makes a failed resource ready again, with a notice. One that has not
// failed is [ErrUnknown].
func (s *Store) Retry(ctx context.Context, uri string) error {
	found := false
	err := s.do(ctx, func(t *txn) {
		id, ok := t.find(uri)
		if found = ok && t.word(id).is(wordFailed); found {
			t.edit(id).failures = 0
			t.ready(id, ask{reason: ReasonRetry, cause: cause{id: id, seq: t.row(id).changed, at: t.now}})
		}
	})
	if err == nil && !found {
		err = ErrUnknown
	}
	return err
}

// claimNow is Claim without the loop, at a given time.
func (s *Store) claimNow(now time.Time, uris []string, lease time.Duration) (out []Claim, err error) {
	err = s.stepSync(now.UnixMicro(), []*request{{apply: func(t *txn) { out = t.claim(uris, lease) }}})
	return out, err
}

// releaseNow is ReleaseClaim without the loop, at a given time.
func (s *Store) releaseNow(now time.Time, id string, failed bool) error {
	var refused error
	err := s.stepSync(now.UnixMicro(), []*request{{apply: func(t *txn) { refused = t.release(id, failed) }}})
	if err == nil {
		err = refused
	}
	return err
}
