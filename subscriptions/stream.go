package subscriptions

import (
	"math/rand/v2"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// heartbeatPeriod, spread by 20 % either way, stays below the 30 s after
	// which common proxies cut a silent connection.
	heartbeatPeriod = 15 * time.Second
	// writeDeadline is how long a peer may take nothing before the stream is cut;
	// its reader may come again and resume.
	writeDeadline = 30 * time.Second
	// slowWindow and slowScan cut a reader who takes something, but in a minute
	// moves on by less than five positions of the journal a second while there is
	// more: it never arrives. What counts is how far it came, not how much of it
	// passed its filter.
	slowWindow = time.Minute
	slowScan   = 300
	// heldFor is how long a peer that is full may keep a bundle from being
	// forgotten. Then its stream keeps the rest of one frame and reads the others
	// again: a reader that hangs costs no more than that.
	heldFor = time.Second
	// retryLost, retryRotated and retryShutdown are how long a reader waits on
	// average before it comes again, each spread by half either way: after its
	// connection broke, after rotation, and after a shutdown, when all come at
	// once and the hub wants a moment to start.
	retryLost     = 2 * time.Second
	retryRotated  = 500 * time.Millisecond
	retryShutdown = 5 * time.Second
)

// catchUp tells a reader after a reset how to learn what it missed.
const catchUp = "GET /v1/stream?since=<oldest> serves what the journal still holds; " +
	"POST /v1/status tells the current version of each resource you keep"

// A reason is why a stream ended.
type reason uint8

const (
	stays    reason = iota
	left            // the reader went, or its connection broke
	rotated         // it was old enough
	expired         // its caller's right ended
	slow            // it took nothing, or too little
	shutdown        // the hub ends
	deleted         // its channel was deleted
	access          // its channel was made public or ceased to be: it is judged anew
	failed          // the journal could not be read
	reasons  = iota
)

var reasonNames = [reasons]string{"", "left", "rotated", "expired", "slow", "shutdown", "deleted", "access", "failed"}

func (r reason) String() string { return reasonNames[r] }

// retry is how long the reader waits on average before it comes again.
func (r reason) retry() time.Duration {
	switch r {
	case rotated, expired:
		return retryRotated
	case shutdown:
		return retryShutdown
	}
	return retryLost
}

// A transport takes a stream's bytes to its peer.
type transport interface {
	// write returns how much of b the peer has taken: less than all of it without
	// an error means that it is full for now.
	write(b []byte) (int, error)
}

// A verdict is what a stream waits for.
type verdict uint8

const (
	idle   verdict = iota // news of its class, or its time
	full                  // the peer, or its time
	more                  // nothing: it goes on at once
	behind                // a bundle from the store
	over                  // nothing: it has ended
)

// stream is one reader's connection: a cursor in the journal, and how far the
// peer has taken what lies before it. Whoever owns it calls turn when something
// it waits for has come; nothing is queued for it.
type stream struct {
	s      *Streamer
	class  *class
	format format
	out    transport
	counts [2]account    // whom it is counted for
	pace   time.Duration // least time between two bundles when up to date

	cursor   graph.Cursor // everything up to here was read
	told     graph.Cursor // where the reader would resume
	held     *bundle      // being written, from cursor on …
	heldAt   int          // … so much of it the peer has
	rest     []byte       // begun before it
	unproven bool         // the reader brought cursor: the journal may not have it
	catching bool         // it was behind, and has not come to the head since

	full  bool
	why   reason // it has taken leave
	next  time.Duration
	beat  time.Duration // when to show life if nothing is written before
	end   time.Duration // when it is rotated, or its caller's right ends
	atEnd reason
	moved time.Duration // when the peer last took something
	// From mark at markAt on the reader's progress is judged.
	mark   uint64
	markAt time.Duration
}

// jitter returns a random duration between d·(1−spread) and d·(1+spread), so
// that those who came together do not come together again.
func jitter(d time.Duration, spread float64) time.Duration {
	return time.Duration(float64(d) * (1 + spread*(2*rand.Float64()-1)))
}

// begin says the first frames: the reader knows at once where it stands, also if
// its connection breaks before the first notice.
func (st *stream) begin(from start, now time.Duration) {
	st.cursor, st.told, st.unproven = from.at, from.at, !from.proven
	st.moved, st.markAt, st.mark = now, now, from.at.Seq
	st.beat = now + jitter(heartbeatPeriod, 0.2)
	b := st.format.open(nil, jitter(retryLost, 0.5))
	switch {
	case from.reset != nil:
		b = st.appendReset(b, from.reset, from.at)
	case !from.told:
		b = st.format.position(b, from.at.String())
	}
	st.rest = b
}

// turn moves the stream on by one bundle at most and returns what it waits for
// next. Due says until when, for the verdicts that know a time.
func (st *stream) turn(now time.Duration) verdict {
	if st.full || !st.flush(now) {
		return st.blocked(now)
	}
	if st.why != stays {
		return over
	}
	if why := st.leaving(now); why != stays {
		return st.takeLeave(why, now)
	}
	if st.held == nil && now >= st.next {
		if v := st.fetch(now); v != idle {
			return v
		}
	}
	if st.held != nil {
		st.full = !st.send(now)
		if st.full {
			return st.blocked(now)
		}
		return more
	}
	// Who has caught up is told where that is at once, also if nothing passed.
	arrived := st.catching && now >= st.next && st.told != st.cursor
	st.catching = st.catching && now < st.next
	if (now >= st.beat || arrived) && !st.showLife(now) {
		return st.blocked(now)
	}
	return idle
}

// took goes on with what was read from the store.
func (st *stream) took(b *bundle, now time.Duration) {
	st.unproven, st.catching = false, true
	st.hold(b, now)
}

// fetch finds the next bundle. Behind means that it is in the store.
func (st *stream) fetch(now time.Duration) verdict {
	head := *st.s.pump.head.Load()
	if st.unproven || st.cursor.Epoch != head.Epoch {
		return behind
	}
	b, ok := st.s.bundle(st.class, st.format, st.cursor)
	switch {
	case !ok:
		return behind
	case b == nil:
		st.pass(head)
		st.mark, st.markAt = st.cursor.Seq, now
	default:
		st.hold(b, now)
	}
	return idle
}

// pass moves over what did not pass the filter, up to head.
func (st *stream) pass(head graph.Cursor) {
	if head.Seq > st.cursor.Seq {
		st.cursor = head
	}
}

// hold makes b what is written next. Up to date with it, the stream lets notices
// gather for its pace.
func (st *stream) hold(b *bundle, now time.Duration) {
	if b.reset != nil {
		if b.reset.Newest != st.cursor {
			st.rest = st.appendReset(st.rest, b.reset, b.reset.Newest)
		}
		return
	}
	if len(b.frames) == 0 {
		st.cursor = b.to
		return
	}
	st.held, st.heldAt = b, 0
	if !b.full && st.pace > 0 {
		st.next = now + st.pace
	}
}

// send writes what is left of the held bundle and reports whether the peer took it.
func (st *stream) send(now time.Duration) bool {
	b := st.held
	if !st.write(b.bytes[st.heldAt:], now, &st.heldAt) {
		return false
	}
	if st.heldAt < len(b.bytes) {
		return true // the peer went
	}
	st.s.stats.notices.Add(uint64(len(b.frames)))
	st.cursor, st.told = b.to, b.frames[len(b.frames)-1].cursor
	st.held, st.heldAt = nil, 0
	return true
}

// flush writes what was begun before.
func (st *stream) flush(now time.Duration) bool {
	if len(st.rest) == 0 {
		return true
	}
	rest, n := st.rest, 0
	st.rest = nil
	if st.write(rest, now, &n) {
		return true
	}
	st.rest = rest[n:]
	return false
}

// write adds to n what the peer takes of b and reports whether it was all. A peer
// that went takes nothing any more.
func (st *stream) write(b []byte, now time.Duration, n *int) bool {
	took, err := st.out.write(b)
	*n += took
	st.s.stats.bytes.Add(uint64(took))
	if took > 0 {
		st.moved = now
		st.beat = now + jitter(heartbeatPeriod, 0.2)
	}
	if err != nil {
		st.gone(reasonOf(err))
		return true
	}
	return took == len(b)
}

// gone ends the stream without a word.
func (st *stream) gone(why reason) {
	st.why, st.rest, st.held, st.full = why, nil, nil, false
}

// blocked judges a stream whose peer is full.
func (st *stream) blocked(now time.Duration) verdict {
	st.full = true
	if st.held != nil && now-st.moved >= heldFor {
		st.letGo()
	}
	lagging := now-st.markAt >= slowWindow
	if lagging && st.cursor.Seq-st.mark >= slowScan {
		st.mark, st.markAt, lagging = st.cursor.Seq, now, false
	}
	if now-st.moved >= writeDeadline || lagging {
		st.gone(slow)
		return over
	}
	return full
}

// letGo keeps the rest of the frame that is being written instead of the bundle.
func (st *stream) letGo() {
	at, rest := st.held.boundary(st.format, st.heldAt, st.cursor)
	if at != st.cursor {
		st.cursor, st.told = at, at
	}
	st.rest, st.held, st.heldAt = rest, nil, 0
}

// leaving says why the stream is to end now, if it is.
func (st *stream) leaving(now time.Duration) reason {
	switch {
	case st.held != nil && st.heldAt > 0:
		return stays // in the middle of a frame, perhaps
	case st.s.closing.Load():
		return shutdown
	case st.class.ended() != stays:
		return st.class.ended()
	case now >= st.end:
		return st.atEnd
	}
	return stays
}

// takeLeave tells the position, why the stream ends and when to come again.
func (st *stream) takeLeave(why reason, now time.Duration) verdict {
	st.held = nil
	head := *st.s.pump.head.Load()
	if hits, ok := st.class.after(st.cursor.Seq); ok && len(hits) == 0 && !st.unproven && head.Epoch == st.cursor.Epoch {
		st.pass(head)
	}
	var b []byte
	if st.told != st.cursor {
		b = st.format.position(b, st.cursor.String())
	}
	st.rest = st.format.leave(b, why, jitter(why.retry(), 0.5))
	ok := st.flush(now)
	if st.why == stays {
		st.why = why
	}
	if !ok {
		return st.blocked(now)
	}
	return over
}

// showLife writes something if nothing was written for a while: the position if
// it moved over notices that did not pass the filter, else a heartbeat.
func (st *stream) showLife(now time.Duration) bool {
	if st.told == st.cursor {
		st.rest = st.format.heartbeat(nil, st.cursor.String())
	} else {
		st.told = st.cursor
		st.rest = st.format.position(nil, st.cursor.String())
	}
	return st.flush(now)
}

// due is when turn is to be called again although nothing has come.
func (st *stream) due(now time.Duration) time.Duration {
	if st.full {
		due := min(st.moved+writeDeadline, st.markAt+slowWindow)
		if st.held != nil {
			due = min(due, st.moved+heldFor)
		}
		return due
	}
	due := min(st.beat, st.end)
	if st.next > now {
		due = min(due, st.next)
	}
	return due
}

// appendReset says that the reader missed something, or may have, and that the
// stream goes on after resumes.
func (st *stream) appendReset(b []byte, e *graph.ResetError, resumes graph.Cursor) []byte {
	st.s.stats.resets.Add(1)
	st.cursor, st.told, st.mark = resumes, resumes, resumes.Seq
	data := []byte(`{"kind":"reset"`)
	data = appendField(data, "reason", e.Reason)
	data = appendField(data, "oldest", e.Oldest.String())
	data = appendField(data, "newest", e.Newest.String())
	data = appendField(data, "resumes", resumes.String())
	data = appendField(data, "catch_up", catchUp)
	data = appendField(data, "token", resumes.String()) // like every other line that a reader resumes from
	return st.format.reset(b, resumes.String(), append(data, '}'))
}
