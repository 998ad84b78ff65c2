package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// heartbeatPeriod, spread by 20 % either way, stays below the 30 s after
	// which common proxies cut a silent connection.
	heartbeatPeriod = 15 * time.Second
	// tick is the least time between two reads of the journal when a reader is
	// up to date: one event a write costs 6 to 9 µs each, ten a write 0.4 µs.
	tick = 5 * time.Millisecond
	// writeDeadline is how long one write may take before the reader is let go;
	// it may come again and resume. No useful reader takes 30 s for writeSize.
	writeDeadline = 30 * time.Second
	// writeSize is how many bytes are gathered before they are written. A stream
	// holds no more than this and one frame, and nothing while it waits.
	writeSize = 64 << 10
	// readBatch is how many notices are read at once: a full chunk of the journal.
	readBatch = 1024
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

// stream is one reader's connection: a cursor and a filter.
type stream struct {
	s       *Streamer
	w       http.ResponseWriter
	control *http.ResponseController
	matcher *Matcher
	format  format
	pace    time.Duration // least time between two reads when up to date

	cursor graph.Cursor // everything up to here was read
	told   graph.Cursor // where the reader would resume
	beat   time.Time    // when to show life if nothing is written before
	end    time.Time    // when the stream is rotated
}

// newStream fails if w cannot be flushed or given deadlines, as when something
// between the server and the streamer hides them: the streams would stall.
func (s *Streamer) newStream(w http.ResponseWriter, req *streamRequest) (*stream, error) {
	control := http.NewResponseController(w)
	// The server's own deadlines are for ordinary requests.
	if err := errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Now().Add(writeDeadline))); err != nil {
		return nil, fmt.Errorf("setting the deadlines of a stream: %w", err)
	}
	return &stream{s: s, w: w, control: control, matcher: req.matcher, format: req.format,
		pace: max(tick, req.linger),
		end:  time.Now().Add(jitter(s.o.MaxAge*9/10, 0.1/0.9))}, nil
}

// jitter returns a random duration between d·(1−spread) and d·(1+spread), so
// that those who came together do not come together again.
func jitter(d time.Duration, spread float64) time.Duration {
	return time.Duration(float64(d) * (1 + spread*(2*rand.Float64()-1)))
}

// run streams until ctx ends or the stream is old enough, and then takes leave.
// An error means that the connection or the journal broke.
func (st *stream) run(ctx context.Context, from start) error {
	if err := st.open(from); err != nil {
		return err
	}
	newest := st.s.journal.Token()
	for ctx.Err() == nil && time.Now().Before(st.end) {
		if err := st.showLife(); err != nil {
			return err
		}
		if err := st.step(ctx); err != nil {
			return err
		}
		// Behind, read on at once; up to date, let notices gather, but go back
		// to waiting first: after a silence the next notice is written at once.
		if st.cursor.Seq >= newest.Seq {
			st.sleep(ctx)
			newest = st.s.journal.Token()
		}
	}
	return st.leave(ctx)
}

// open sends the header and the first frames: the reader knows at once where it
// stands, also if its connection breaks before the first notice.
func (st *stream) open(from start) error {
	h := st.w.Header()
	h.Set("Content-Type", st.format.contentType())
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	h.Set("X-Accel-Buffering", "no") // nginx would hold frames back
	st.w.WriteHeader(http.StatusOK)
	if err := st.control.Flush(); err != nil {
		return fmt.Errorf("opening a stream: %w", err)
	}
	st.cursor, st.told = from.at, from.at
	b := st.format.open(nil, jitter(retryLost, 0.5))
	switch {
	case from.reset != nil:
		b = st.appendReset(b, from.reset, from.at)
	case !from.told:
		b = st.format.position(b, from.at.String())
	}
	return st.write(b)
}

// step reads once and writes what passes the filter. It waits no longer than
// until there is something else to do.
func (st *stream) step(ctx context.Context) error {
	wake := st.beat
	if st.end.Before(wake) {
		wake = st.end
	}
	ctx, cancel := context.WithDeadline(ctx, wake)
	defer cancel()
	notices, next, err := st.s.journal.ReadFrom(ctx, st.cursor, readBatch)
	var reset *graph.ResetError
	switch {
	case err == nil:
		return st.deliver(notices, next)
	case errors.As(err, &reset) && reset.Newest != st.cursor:
		return st.write(st.appendReset(nil, reset, reset.Newest))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil
	}
	return fmt.Errorf("reading the journal after %s: %w", st.cursor, err)
}

// writeBuffers are lent for one delivery, so that a waiting stream holds none.
var writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, writeSize+maxSharedFrame); return &b }}

// deliver writes those of the notices that pass the filter and moves on to next.
func (st *stream) deliver(notices []graph.Notice, next graph.Cursor) error {
	buf := writeBuffers.Get().(*[]byte)
	defer writeBuffers.Put(buf)
	b, passed := (*buf)[:0], 0
	for i := range notices {
		n := &notices[i]
		if !st.matcher.Match(n) {
			continue
		}
		b = st.format.notice(b, st.s.frames.of(n))
		st.told = n.Cursor
		if passed++; len(b) >= writeSize {
			if err := st.write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	st.cursor = next
	if len(b) > 0 {
		if err := st.write(b); err != nil {
			return err
		}
	}
	st.s.stats.notices.Add(uint64(passed))
	return nil
}

// showLife writes something if nothing was written for a while: the position if
// it moved over notices that did not pass the filter, else a heartbeat.
func (st *stream) showLife() error {
	if time.Now().Before(st.beat) {
		return nil
	}
	if st.told == st.cursor {
		return st.write(st.format.heartbeat(nil, st.cursor.String()))
	}
	st.told = st.cursor
	return st.write(st.format.position(nil, st.cursor.String()))
}

// leave tells the position and when to come again.
func (st *stream) leave(ctx context.Context) error {
	after := retryRotated
	if ctx.Err() != nil {
		after = retryShutdown
	}
	var b []byte
	if st.told != st.cursor {
		b = st.format.position(b, st.cursor.String())
	}
	return st.write(st.format.retry(b, jitter(after, 0.5)))
}

// appendReset says that the reader missed something, or may have, and that the
// stream goes on after resumes.
func (st *stream) appendReset(b []byte, e *graph.ResetError, resumes graph.Cursor) []byte {
	st.s.stats.resets.Add(1)
	st.cursor, st.told = resumes, resumes
	data := []byte(`{"kind":"reset"`)
	data = appendField(data, "reason", e.Reason)
	data = appendField(data, "oldest", e.Oldest.String())
	data = appendField(data, "newest", e.Newest.String())
	data = appendField(data, "resumes", resumes.String())
	data = appendField(data, "catch_up", catchUp)
	data = appendField(data, "token", resumes.String()) // like every other line that a reader resumes from
	return st.format.reset(b, resumes.String(), append(data, '}'))
}

func (st *stream) write(b []byte) error {
	now := time.Now()
	st.beat = now.Add(jitter(heartbeatPeriod, 0.2))
	if len(b) == 0 {
		return nil
	}
	if err := st.control.SetWriteDeadline(now.Add(writeDeadline)); err != nil {
		return err
	}
	n, err := st.w.Write(b)
	st.s.stats.bytes.Add(uint64(n))
	if err != nil {
		return err
	}
	return st.control.Flush()
}

// sleep lets notices gather, but not beyond the next thing to do.
func (st *stream) sleep(ctx context.Context) {
	t := time.NewTimer(min(st.pace, time.Until(st.beat), time.Until(st.end)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
