package graph

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// timerKind says what is due.
type timerKind uint8

const (
	timerNotice timerKind = iota + 1 // a postponed refresh notice
	timerRetry                       // of all resources of one chunk that are still ready
	timerExpire
	timerTick
	timerLease
)

// timer is due once. One row serves many resources: those of a notice chunk.
type timer struct {
	kind  timerKind
	due   int64
	ref   uint64 // retry: position of the chunk; lease: number of the claim; notice: ownWait or 0
	chunk chunk
}

// ownWait marks the timer of a wait whose end stands in the resource's row.
const ownWait = 1

func (m *timer) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, byte(m.kind)), m.ref)
	return m.chunk.append(b)
}

func decodeTimer(key, b []byte) (timer, error) {
	m := timer{due: int64(binary.BigEndian.Uint64(key[1:]))}
	d := decoder{b: b}
	m.kind, m.ref = timerKind(d.uvarint()), d.uvarint()
	if d.bad || m.kind < timerNotice || m.kind > timerLease {
		return m, fmt.Errorf("timer %x is corrupt", key)
	}
	var err error
	m.chunk, err = decodeChunk(0, d.b)
	return m, err
}

// later sets a timer; those of one due time and head share a row.
func (t *txn) later(due int64, m timer) {
	m.due = due
	if m.kind == timerNotice {
		t.emitted += len(m.chunk.ids)
	}
	if n := len(t.waiting); n > 0 && m.kind == timerNotice {
		last := &t.waiting[n-1]
		ids := last.chunk.ids
		if last.kind == m.kind && last.due == due && last.ref == m.ref && len(ids) < maxChunk && ids[len(ids)-1] < m.chunk.ids[0] &&
			last.chunk.sameHead(&m.chunk) {
			last.chunk.ids = append(ids, m.chunk.ids...)
			return
		}
	}
	m.chunk.at = t.now
	t.waiting = append(t.waiting, m)
}

func (t *txn) flushTimers() {
	for _, m := range t.waiting {
		t.s.ntimers++
		t.buf = m.append(t.buf[:0])
		check(t.b.Set(timerKey(m.due, t.s.ntimers), t.buf, nil))
		if t.s.nextDue == 0 || m.due < t.s.nextDue {
			t.s.nextDue = m.due
		}
	}
	t.waiting = nil
}

// fireLimit bounds the resources whose timers fire in one commit, so that
// updates get in between.
const fireLimit = 4096

// fire runs the timers that are due.
func (t *txn) fire() {
	if t.s.nextDue == 0 || t.s.nextDue > t.now {
		return
	}
	var due []timer
	n := 0
	it := t.iter([]byte{spaceTimer}, seqKey(spaceTimer, uint64(t.now)+1))
	for it.First(); it.Valid() && n < fireLimit; it.Next() {
		m, err := decodeTimer(it.Key(), it.Value())
		check(err)
		due = append(due, m)
		n += max(1, len(m.chunk.ids))
		check(t.b.Delete(slices.Clone(it.Key()), nil))
	}
	check(it.Error())
	check(it.Close())
	for i := range due {
		t.fireOne(&due[i])
		t.drain()
	}
	t.flushTimers()
	t.s.nextDue = t.earliestTimer()
}

func (t *txn) earliestTimer() int64 {
	it := t.iter([]byte{spaceTimer}, []byte{spaceTimer + 1})
	defer func() { check(it.Close()) }()
	if !it.First() {
		check(it.Error())
		return 0
	}
	return int64(binary.BigEndian.Uint64(it.Key()[1:]))
}

func (t *txn) fireOne(m *timer) {
	switch m.kind {
	case timerNotice:
		t.firePostponed(m)
	case timerRetry:
		t.fireRetry(m)
	case timerExpire:
		t.fireExpiry(m.chunk.ids[0], m.due)
	case timerTick:
		t.fireTick(m.chunk.ids[0])
	case timerLease:
		t.fireLease(m.chunk.ids[0], m.ref)
	}
}

// firePostponed writes the notices of those that still wait for one.
func (t *txn) firePostponed(m *timer) {
	head := m.chunk
	head.ids = nil
	for _, id := range m.chunk.ids {
		w := t.word(id)
		if w.state() != Ready || !w.is(wordWaiting) {
			continue
		}
		switch r := t.row(id); {
		case r.noticeDue != 0 && r.noticeDue != m.due, r.noticeDue == 0 && m.ref == ownWait:
			continue // of a wait that has ended; another has begun since
		case r.noticeDue != 0:
			t.edit(id).noticeDue = 0
		}
		t.put(id, w.with(wordWaiting, false))
		t.tell(id, head)
	}
}

// retryDelay is how long after its attempt-th notice a resource is told again.
// The jitter spreads those that were told together; it depends on the position
// alone, so that the same input makes the same store.
func (s *Store) retryDelay(attempt int, seq uint64) int64 {
	if attempt >= len(retryLadder) {
		return retryLadder[len(retryLadder)-1].Microseconds()
	}
	base := retryLadder[attempt].Microseconds()
	return base/2 + int64(digestOf(uint64(s.epoch), seq)%uint64(base))
}

// fireRetry tells again those of a chunk that nobody has made since, or gives up.
func (t *txn) fireRetry(m *timer) {
	v, ok := t.get(seqKey(spaceJournal, m.ref))
	if !ok {
		return // an earlier program trimmed it
	}
	c, err := decodeChunk(m.ref, v)
	check(err)
	for _, id := range c.ids {
		w := t.word(id)
		if w.state() != Ready || w.is(wordFailed|wordWaiting) || w.count() != int(m.chunk.attempt) || !t.s.work[t.row(id).typ] {
			continue
		}
		if w.count() >= len(retryLadder) {
			t.put(id, w.with(wordFailed, true))
			continue
		}
		t.put(id, w.withCount(w.count()+1))
		t.tell(id, chunk{kind: KindRefresh, reason: ReasonRetry, lane: Bulk, attempt: m.chunk.attempt + 1,
			cause: c.cause, causeSeq: c.causeSeq, causeID: c.causeID, causeAt: c.causeAt})
	}
}

// fireExpiry makes an artefact ready, or drops it if nobody depends on it.
func (t *txn) fireExpiry(id ID, due int64) {
	if t.row(id).expires != due || !t.row(id).is(rowKnown) {
		return // made again since
	}
	t.edit(id).expires = 0
	w := t.word(id)
	switch {
	case !w.is(wordDependents):
		t.retire(id, ActionPurge, retirement{reason: ReasonExpired, at: t.now})
	case w.state() == Ready || w.state() == Pending:
	case t.waits(id):
		t.put(id, w.with(wordStale, true))
		t.setState(id, Dirty)
	default:
		t.put(id, w.with(wordStale, true))
		t.ready(id, ask{reason: ReasonExpired, cause: cause{id: id, at: t.now}})
	}
}

// typeTicker is the type of resources whose URI is ticker:<ISO 8601 period>:
// they change by themselves, once each period, while somebody depends on them.
const typeTicker = "ticker"

// minTick bounds a ticker: a shorter period would be a busy loop.
const minTick = time.Second

// checkTicker reports what is wrong with uri if it is a ticker.
func checkTicker(uri string) string {
	period, ok := strings.CutPrefix(uri, "ticker:")
	if !ok {
		return ""
	}
	if d, ok := parsePeriod(period); !ok || d < minTick {
		return "a ticker's name is an ISO 8601 period of at least a second, as in ticker:PT1H"
	}
	return ""
}

// parsePeriod reads an ISO 8601 duration of whole numbers; a month counts 30
// days, a year 365.
func parsePeriod(s string) (d time.Duration, ok bool) {
	const day = 24 * time.Hour
	date := map[byte]time.Duration{'Y': 365 * day, 'M': 30 * day, 'W': 7 * day, 'D': day}
	clock := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second}
	s, ok = strings.CutPrefix(s, "P")
	if !ok || s == "" || strings.HasSuffix(s, "T") {
		return 0, false
	}
	units := date
	for s != "" {
		if s[0] == 'T' {
			units, s = clock, s[1:]
			continue
		}
		n := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		if n <= 0 || n > 6 {
			return 0, false
		}
		v, _ := strconv.Atoi(s[:n])
		unit, known := units[s[n]]
		if !known {
			return 0, false
		}
		d, s = d+time.Duration(v)*unit, s[n+1:]
	}
	return d, d > 0
}

// armTicker sets the timer of a ticker that somebody now depends on.
func (t *txn) armTicker(id ID) {
	r := t.row(id)
	if r.is(rowArmed) {
		return
	}
	t.edit(id).set(rowArmed, true)
	period, _ := parsePeriod(strings.TrimPrefix(t.uri(id), "ticker:"))
	t.later(t.now+period.Microseconds(), timer{kind: timerTick, chunk: chunk{ids: []ID{id}}})
}

// fireTick is the ticker's own update.
func (t *txn) fireTick(id ID) {
	r := t.edit(id)
	r.set(rowArmed, false)
	if !t.word(id).is(wordDependents) {
		return
	}
	t.armTicker(id)
	first := !r.is(rowHeard)
	r.set(rowHeard|rowKnown, true)
	r.set(rowMissing|rowDiffering, false)
	r.presumed, r.at = "", t.now
	change := ChangeUpdated
	if first {
		change = ChangeCreated
		t.setState(id, Clean)
	}
	c := cause{id: id, at: t.now}
	t.announce(r, c, change, ReasonTicker, false)
	c.seq = r.changed
	t.startJob(id, jobChange, c)
}

const (
	// flapWindow and flapLimit: an artefact that changed more often than that is damped.
	flapWindow = 10 * time.Minute
	flapLimit  = 6
	// firstInterval is the least time between two refreshes that a damped artefact
	// begins with. It doubles up to maxInterval each time the artefact again
	// changes more than flapLimit times in a window, which grows with it: what
	// never comes to rest is told less and less often. A window within the limit
	// halves it.
	firstInterval = time.Minute
	maxInterval   = time.Hour
)

// flap counts a change of an artefact and damps it if there are too many.
func (t *txn) flap(r *row) {
	window := max(flapWindow.Microseconds(), (flapLimit+2)*r.interval)
	if t.now-r.flapSince > window {
		if r.interval /= 2; r.interval < firstInterval.Microseconds() {
			r.interval = 0
		}
		r.flapSince, r.flaps = t.now, 0
	}
	if r.flaps++; r.flaps > flapLimit {
		r.interval = min(max(2*r.interval, firstInterval.Microseconds()), maxInterval.Microseconds())
		r.flapSince, r.flaps = t.now, 0
	}
	if w := t.word(r.id); w.is(wordDamped) != (r.interval > 0) {
		t.put(r.id, w.with(wordDamped, r.interval > 0))
		r.refreshed = t.now
	}
}
