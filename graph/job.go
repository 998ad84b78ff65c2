package graph

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// jobKind says what a job does at each dependent of its resource.
type jobKind uint8

const (
	jobChange jobKind = iota + 1 // the resource changed
	jobSettle                    // it left the unsettled set
	jobForget                    // its dependents are to forget it
	jobHear                      // a peer's resource was heard of for the first time
)

var jobNames = [...]string{"", "change", "settle", "forget", "hear"}

func (k jobKind) String() string { return jobNames[k] }

const (
	// defaultChunk is how many dependents one step of a job evaluates: more make
	// the small updates beside it wait.
	defaultChunk = 4096
	// defaultInline is the greatest number of dependents whose job ends inside the
	// commit that caused it.
	defaultInline = 256
	// scanLimit bounds the dependents that one step looks at without evaluating them.
	scanLimit = 1 << 16
)

// job walks the dependents of x in id order. It is durable but for skip, whose
// loss costs refreshes only, and the walk's own cache.
//
// A change takes two passes. The first marks those dependents that have
// dependents themselves, so that what is made from both x and them waits for
// them (a diamond is refreshed once). The second evaluates all of them. Posting
// lists are read as they are when a step comes by, never as a snapshot.
type job struct {
	id      uint64
	kind    jobKind
	x       ID
	cause   cause
	lane    Lane
	pass    uint8 // a change: 0 marks, 1 evaluates
	pos     ID    // the next dependent to look at
	again   bool  // x changed meanwhile: one more run
	total   int
	reached int
	emitted int
	began   int64
	paused  bool
	rate    int // dependents per second; 0 = no limit

	skip   *roaring64.Bitmap // made again since the change
	inline bool
	fresh  bool     // not stored yet
	ids    []uint64 // of the current block, from pos on
	next   ID       // where the next block begins
	moved  bool     // ids may have changed
	whole  []uint64 // all dependents, if they stand in one block, for the next pass
	since  int64    // rate: when counting began …
	used   int      // … dependents since then
}

// Job is what is shown of a running fan-out.
type Job struct {
	ID      string
	URI     string // whose change or settling is told
	Kind    string // "change", "settle", "forget" or "hear"
	Cause   Cause
	Reached int // dependents looked at in this pass
	Total   int // dependents when it began
	Emitted int // notices written
	Paused  bool
	Rate    int // dependents a second; 0 means no limit
	Started time.Time
}

type jobKey struct {
	kind jobKind
	x    ID
}

// jobs are the running ones: few, in memory, each with a row in the store.
type jobs struct {
	byResource map[jobKey]*job
	list       []*job // in the order they began
	turn       int    // whose step is next
	lastID     uint64
}

func (js *jobs) any() bool { return len(js.list) > 0 }

func (js *jobs) add(j *job) {
	if js.byResource == nil {
		js.byResource = map[jobKey]*job{}
	}
	js.byResource[jobKey{j.kind, j.x}] = j
	js.list = append(js.list, j)
}

func (js *jobs) remove(j *job) {
	delete(js.byResource, jobKey{j.kind, j.x})
	i := slices.Index(js.list, j)
	js.list = slices.Delete(js.list, i, i+1)
	if js.turn > i {
		js.turn--
	}
}

// edgesMoved tells the jobs of x that its posting list differs from what they read.
func (js *jobs) edgesMoved(x ID) {
	for kind := jobChange; kind <= jobHear; kind++ {
		if j := js.byResource[jobKey{kind, x}]; j != nil {
			j.moved = true
		}
	}
}

// skip lets a running job of x pass over d, which was just compared with x as it is.
func (js *jobs) skip(x, d ID) {
	if len(js.list) == 0 {
		return
	}
	for _, kind := range [...]jobKind{jobChange, jobHear} {
		if j := js.byResource[jobKey{kind, x}]; j != nil {
			j.skip.Add(uint64(d))
		}
	}
}

// ahead reports whether j has yet to tell d.
func (j *job) ahead(d ID) bool {
	tells := j.kind == jobChange || j.kind == jobHear
	return tells && !j.skip.Contains(uint64(d)) && (j.again || j.kind == jobChange && j.pass == 0 || d >= j.pos)
}

// yetToPass reports whether a change of one of d's dependencies has yet to reach it.
func (js *jobs) yetToPass(t *txn, d ID) bool {
	for _, j := range js.list {
		if j.ahead(d) && t.row(d).dependsOn(j.x) {
			return true
		}
	}
	return false
}

// startJob tells the dependents of x what happened. A second change while the
// first is being told makes one more run, not two.
func (t *txn) startJob(x ID, kind jobKind, c cause) {
	if !t.word(x).is(wordDependents) {
		return
	}
	if j := t.s.jobs.byResource[jobKey{kind, x}]; j != nil {
		j.cause = c
		j.skip.Clear()
		if j.pass > 0 || j.pos > 0 {
			j.again = true
		}
		if !j.fresh {
			t.saveJob(j)
		}
		return
	}
	n := t.countDependents(x)
	if n == 0 {
		return
	}
	t.s.jobs.lastID++
	j := &job{id: t.s.jobs.lastID, kind: kind, x: x, cause: c, total: n, began: t.now,
		skip: roaring64.New(), fresh: true, inline: n <= t.s.inline}
	if n > PromptFanout {
		j.lane = Bulk
	}
	t.s.jobs.add(j)
	t.fresh = append(t.fresh, j)
}

func (t *txn) countDependents(x ID) int {
	if !t.word(x).is(wordHot) {
		return t.degree(x)
	}
	n := 0
	prefix := idKey(spacePosting, x)
	it := t.iter(prefix, after(prefix))
	for it.First(); it.Valid(); it.Next() {
		c, err := postingCount(it.Value())
		check(err)
		n += c
	}
	check(it.Error())
	check(it.Close())
	return n
}

// block returns the dependents of x at or after from that stand in one block,
// and where the next block begins; none at the end.
func (t *txn) block(x, from ID) (ids []uint64, next ID) {
	if from > allIDs {
		return nil, from
	}
	if !t.word(x).is(wordHot) {
		ids = t.coldDependents(x)
		i, _ := slices.BinarySearch(ids, uint64(from))
		return ids[i:], allIDs + 1
	}
	it := t.iter(bucketKey(x, uint32(from>>bucketShift)), after(idKey(spacePosting, x)))
	defer func() { check(it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		k := it.Key()
		bucket := uint32(k[6])<<16 | uint32(k[7])<<8 | uint32(k[8])
		var err error
		ids, err = decodeBucket(it.Value(), bucket, ids[:0])
		check(err)
		i, _ := slices.BinarySearch(ids, uint64(from))
		if ids = ids[i:]; len(ids) > 0 {
			return ids, ID(bucket+1) << bucketShift
		}
	}
	check(it.Error())
	return nil, allIDs + 1
}

// saveJob writes the row of j.
func (t *txn) saveJob(j *job) {
	j.fresh = false
	t.buf = j.append(t.buf[:0])
	check(t.b.Set(seqKey(spaceJob, j.id), t.buf, nil))
}

func (t *txn) endJob(j *job) {
	if !j.fresh {
		check(t.b.Delete(seqKey(spaceJob, j.id), nil))
	}
	t.s.jobs.remove(j)
}

// runInline ends j within this commit.
func (t *txn) runInline(j *job) {
	for !t.step(j, 1<<30) {
	}
	t.endJob(j)
}

// step advances j by up to limit dependents; it reports whether j has ended.
func (t *txn) step(j *job, limit int) bool {
	x := t.row(j.x)
	before := t.emitted
	markers := func(ids []uint64) map[ID]string { return nil }
	if j.kind == jobChange {
		markers = func(ids []uint64) map[ID]string { return t.markersOn(j.x, ID(ids[0]), ID(ids[len(ids)-1])) }
	}
	for n, scanned := 0, 0; n < limit && scanned < max(limit, scanLimit); {
		if j.moved || len(j.ids) == 0 {
			from := j.pos
			if !j.moved && j.next > from {
				from = j.next
			}
			t.load(j, from)
			if len(j.ids) == 0 {
				return t.endPass(j, before)
			}
		}
		// One slice of a block at a time: markers are looked up for it as a range.
		part := j.ids[:min(len(j.ids), limit-n, scanLimit)]
		done := t.visit(j, x, part, markers(part), limit-n)
		n += done.evaluated
		scanned += done.passed
		j.reached += done.evaluated
		j.used += done.passed
		if !j.moved {
			j.ids = j.ids[done.passed:]
		}
	}
	j.emitted += t.emitted - before
	return false
}

// load reads the dependents of j's resource at or after from, unless the pass before has
// read them all and they are as they were.
func (t *txn) load(j *job, from ID) {
	if j.moved {
		j.moved, j.whole = false, nil
	}
	if from == 0 && len(j.whole) > 0 {
		j.ids, j.next = j.whole, allIDs+1
		return
	}
	if j.ids, j.next = t.block(j.x, from); from == 0 && j.next > allIDs {
		j.whole = j.ids
	}
}

// progress is how far a visit came.
type progress struct{ passed, evaluated int }

// visit does j's work at each of ids, ascending, and stops after limit evaluations.
func (t *txn) visit(j *job, x *row, ids []uint64, marked map[ID]string, limit int) (p progress) {
	t.sieve(ids)
	for _, v := range ids {
		if p.evaluated == limit {
			break
		}
		d := ID(v)
		j.pos = d + 1
		p.passed++
		w := t.word(d)
		seen, has := marked[d]
		switch {
		case j.kind == jobSettle:
			if w.state() != Dirty {
				continue
			}
			t.settle(d, j.lane, j.cause)
		case j.kind == jobForget:
			t.forget(d, j.x)
		case j.kind == jobHear && !j.skip.Contains(v):
			t.hearAt(x, d, j.lane, j.cause)
		case j.kind == jobHear:
			t.settle(d, j.lane, j.cause)
		case j.pass == 0:
			// Who is ahead of x is left to the second pass: only there is its marker used up.
			if !w.is(wordDependents) || has || j.skip.Contains(v) {
				continue
			}
			t.foresee(d)
		case j.skip.Contains(v):
			t.settle(d, j.lane, j.cause)
		default:
			t.changeAt(x, d, seen, has, j.lane, j.cause)
		}
		p.evaluated++
	}
	return p
}

// foresee marks a dependent that others wait for, without a notice.
func (t *txn) foresee(d ID) {
	w := t.word(d)
	if w.state() == Stub {
		return
	}
	t.put(d, w.with(wordStale, true))
	if w.state() == Clean {
		t.setState(d, Dirty)
	}
}

// endPass ends a pass, a run or the job, which it reports.
func (t *txn) endPass(j *job, before int) bool {
	j.emitted += t.emitted - before
	j.pos, j.next, j.ids = 0, 0, nil
	switch {
	case j.again:
		j.again, j.pass, j.reached = false, 0, 0
	case j.kind == jobChange && j.pass == 0:
		j.pass, j.reached = 1, 0
	default:
		return true
	}
	return false
}

// sieveLimit is the greatest number of unsettled resources whose dependents are
// looked up for a slice of a fan-out, instead of the dependencies of each dependent.
const sieveLimit = 32

// sieve prepares waits for the resources between the first and the last of ids:
// who is made from nothing unsettled is told apart without reading its row.
func (t *txn) sieve(ids []uint64) {
	c := t.s.col
	t.waiters = nil
	if len(ids) < sieveLimit || c.inner.IsEmpty() || c.inner.GetCardinality() > sieveLimit {
		return
	}
	t.waiters = roaring64.New()
	t.waitersGen, t.waitersFrom, t.waitersTo = c.innerGen, ID(ids[0]), ID(ids[len(ids)-1])
	for u := c.inner.Iterator(); u.HasNext(); {
		x := ID(u.Next())
		for from := t.waitersFrom; from <= t.waitersTo; {
			list, next := t.block(x, from)
			if len(list) == 0 {
				break
			}
			t.waiters.AddMany(list)
			from = next
		}
	}
}

func (j *job) append(b []byte) []byte {
	b = append(b, byte(j.kind), byte(j.lane), j.pass, oneIf(j.again), oneIf(j.paused))
	for _, v := range []uint64{uint64(j.x), uint64(j.pos), uint64(j.total), uint64(j.reached), uint64(j.emitted),
		uint64(j.began), uint64(j.rate), uint64(j.cause.id), j.cause.seq, uint64(j.cause.at)} {
		b = binary.AppendUvarint(b, v)
	}
	return appendText(b, j.cause.uid)
}

func oneIf(on bool) byte {
	if on {
		return 1
	}
	return 0
}

func decodeJob(id uint64, b []byte) (*job, error) {
	if len(b) < 5 {
		return nil, fmt.Errorf("job %d is corrupt", id)
	}
	j := &job{id: id, kind: jobKind(b[0]), lane: Lane(b[1]), pass: b[2], again: b[3] == 1, paused: b[4] == 1, skip: roaring64.New()}
	d := decoder{b: b[5:]}
	j.x, j.pos = ID(d.uvarint()), ID(d.uvarint())
	j.total, j.reached, j.emitted = int(d.uvarint()), int(d.uvarint()), int(d.uvarint())
	j.began, j.rate = int64(d.uvarint()), int(d.uvarint())
	j.cause = cause{id: ID(d.uvarint()), seq: d.uvarint(), at: int64(d.uvarint())}
	j.cause.uid = d.text()
	if d.bad || len(d.b) > 0 || j.kind < jobChange || j.kind > jobHear || j.lane > Bulk || j.pass > 1 {
		return nil, fmt.Errorf("job %d is corrupt", id)
	}
	return j, nil
}

// allowed is how many dependents j may look at in a step at now.
func (j *job) allowed(now int64, chunk int) int {
	if j.paused {
		return 0
	}
	if j.rate == 0 {
		return chunk
	}
	const second = 1_000_000
	if now-j.since > second {
		j.since, j.used = now, 0
	}
	return max(0, min(chunk, j.rate-j.used))
}
