package graph

import "time"

const (
	// Starvation is how long a resource may wait for unsettled dependencies
	// before it is made ready with what there is: a stale refresh beats none.
	// It is counted in whole minutes, so it takes up to one more.
	Starvation = 15 * time.Minute
	// PromptFanout is the greatest number of dependents whose notices go in the
	// prompt lane; the notices of more would keep the next editor waiting.
	PromptFanout = 1000
	// maxBackoff bounds the wait of a resource that is born stale again and again.
	maxBackoff = time.Hour
	// maxDeferral bounds a wait computed from a producer's clock, which may be
	// up to five minutes ahead.
	maxDeferral = 6 * time.Minute
)

// retryLadder is the wait before each retry; after the last, as long again, the
// resource has failed.
var retryLadder = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 4 * time.Hour}

// longestRetry is the longest wait between two notices: that of four hours and half
// of it again.
const longestRetry = 6 * time.Hour

// backoff is how long the notice of the n-th stale arrival in a row waits: the
// first two go at once, then 1, 2, 4 … seconds up to an hour.
func backoff(n uint64) time.Duration {
	if n < 3 {
		return 0
	}
	return min(time.Second<<min(n-3, 20), maxBackoff)
}

// ask is why a resource is to be made again, and from when on it may be told.
type ask struct {
	reason Reason
	rule   Rule
	lane   Lane
	cause  cause
	due    int64 // µs; 0 = now
	born   bool  // it was stale on arrival
	// notBefore is a wait of its own, however long, and not one computed from
	// somebody's clock.
	notBefore int64
}

func (a *ask) head() chunk {
	return chunk{kind: KindRefresh, reason: a.reason, rule: a.rule, lane: a.lane,
		cause: a.cause.id, causeSeq: a.cause.seq, causeID: a.cause.uid, causeAt: a.cause.at}
}

// setState moves id, clearing what belongs to the state it leaves.
func (t *txn) setState(id ID, st State) {
	w := t.word(id)
	if w.state() == Dirty && st == Dirty {
		return // it has waited since then
	}
	if w.is(wordWaiting) && t.row(id).noticeDue != 0 {
		t.edit(id).noticeDue = 0 // that wait is over: another's timer must not be taken for an old one
	}
	w = w.withState(st).with(wordFailed|wordWaiting, false).withCount(0)
	if st == Dirty {
		w = w.withCount(int(minuteOf(t.now)))
	}
	if st == Clean || st == Stub {
		w = w.with(wordStale, false)
	}
	t.put(id, w)
}

func minuteOf(us int64) int64 { return us / time.Minute.Microseconds() }

// ready makes id ready and writes its notice, now or when it is due.
func (t *txn) ready(id ID, a ask) {
	due := min(a.due, t.now+maxDeferral.Microseconds())
	var own bool // the wait is its own and not that of a whole fan-out: its row says when it ends
	if a.born {
		r := t.edit(id)
		r.born++
		r.noticeDue, own = 0, true
		if wait := backoff(r.born); wait > 0 {
			due = max(due, t.now+wait.Microseconds())
		}
	}
	if a.notBefore > due {
		due, own = a.notBefore, true
	}
	if t.word(id).is(wordDamped) {
		r := t.row(id)
		due, own = max(due, r.refreshed+r.interval), true
	}
	t.setState(id, Ready)
	if due <= t.now {
		t.tell(id, a.head())
		return
	}
	m := timer{kind: timerNotice, chunk: a.head()}
	if own {
		t.edit(id).noticeDue, m.ref = due, ownWait
	}
	t.put(id, t.word(id).with(wordWaiting, true))
	m.chunk.ids = []ID{id}
	t.later(due, m)
}

// tell writes a refresh notice of a ready resource.
func (t *txn) tell(id ID, head chunk) {
	if t.word(id).is(wordDamped) {
		t.edit(id).refreshed = t.now
	}
	t.notice(id, head)
}

// waits reports whether id has an unsettled dependency.
func (t *txn) waits(id ID) (yes bool) {
	if t.s.col.inner.IsEmpty() {
		return false
	}
	if t.waiters != nil && t.waitersGen == t.s.col.innerGen && t.waitersFrom <= id && id <= t.waitersTo &&
		!t.waiters.Contains(uint64(id)) {
		return false
	}
	t.row(id).eachDep(func(x ID) bool {
		yes = t.word(x).unsettled()
		return !yes
	})
	return yes
}

// settle lets a dirty resource go on if nothing it depends on is unsettled.
func (t *txn) settle(d ID, lane Lane, c cause) {
	w := t.word(d)
	switch {
	case w.state() != Dirty || t.waits(d):
	case w.is(wordStale):
		t.ready(d, ask{reason: ReasonSettled, rule: RuleChange, lane: lane, cause: c, due: t.provableDue(d)})
	case t.s.jobs.yetToPass(t, d):
		// the job will settle it
	default:
		t.setState(d, Clean)
	}
}

// provableDue is when a rendering by who proves nothing but a time is provably
// newer than all its dependencies; 0 for who proves more.
func (t *txn) provableDue(d ID) (due int64) {
	if !t.word(d).is(wordUnproven) {
		return 0
	}
	t.row(d).eachDep(func(x ID) bool {
		if r := t.row(x); r.is(rowHeard) {
			due = max(due, r.changedAt+deferral.Microseconds())
		}
		return true
	})
	return due
}

// starve makes go on who waited too long.
func (t *txn) starve(d ID) {
	w := t.word(d)
	switch {
	case w.state() != Dirty:
	case w.is(wordStale) || t.s.jobs.yetToPass(t, d):
		t.ready(d, ask{reason: ReasonStarved, rule: RuleChange, lane: Bulk, cause: t.newestChange(d)})
	default:
		t.setState(d, Clean)
	}
}

// newestChange names the dependency of d that changed last.
func (t *txn) newestChange(d ID) (c cause) {
	t.row(d).eachDep(func(x ID) bool {
		if r := t.row(x); r.changed > c.seq {
			c = cause{id: x, seq: r.changed, at: t.now}
		}
		return true
	})
	return c
}

// drain does what the request left to be done: dependents of who settled, jobs
// small enough to end here, collected types that nobody needs any more.
func (t *txn) drain() {
	for len(t.settled)+len(t.fresh)+len(t.unneeded) > 0 {
		for len(t.settled) > 0 {
			x := t.settled[0]
			t.settled = t.settled[1:]
			if w := t.word(x); !w.unsettled() && w.is(wordDependents) && t.s.col.counts[Dirty] > 0 {
				t.startJob(x, jobSettle, cause{id: x, seq: t.row(x).changed, at: t.now})
			}
		}
		if len(t.fresh) > 0 {
			j := t.fresh[0]
			t.fresh = t.fresh[1:]
			if j.inline {
				t.runInline(j)
			} else {
				t.saveJob(j)
			}
			continue
		}
		if len(t.unneeded) > 0 {
			x := t.unneeded[0]
			t.unneeded = t.unneeded[1:]
			if w := t.word(x); !w.is(wordDependents) && t.row(x).is(rowKnown) {
				t.retire(x, ActionDelete, retirement{reason: ReasonUnneeded, at: t.now})
			}
		}
	}
}
