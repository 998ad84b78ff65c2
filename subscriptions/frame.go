package subscriptions

import (
	"slices"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

// AppendNotice appends n as one line of JSON without a line end. Fields that are
// empty are left out; "token" is the notice's own cursor, for a producer to send
// back with its update and for a reader to resume from.
func AppendNotice(b []byte, n *graph.Notice) []byte {
	return appendNotice(b, n, n.Cursor.String())
}

// appendNotice is AppendNotice for a caller that has the cursor's text already.
func appendNotice(b []byte, n *graph.Notice, token string) []byte {
	return appendAfterCause(appendCause(appendBeforeCause(b, n), &n.Cause), n, token)
}

func appendBeforeCause(b []byte, n *graph.Notice) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, n.Cursor.Seq, 10)
	b = appendField(b, "kind", n.Kind.String())
	b = appendField(b, "uri", n.URI)
	b = appendField(b, "type", n.Type)
	b = appendField(b, "version", n.Version)
	b = appendField(b, "hash", n.Hash)
	b = appendField(b, "change", n.Change.String())
	b = appendField(b, "reason", n.Reason.String())
	b = appendField(b, "rule", n.Rule.String())
	return appendField(b, "lane", n.Lane.String())
}

func appendAfterCause(b []byte, n *graph.Notice, token string) []byte {
	if n.Attempt != 0 {
		b = append(b, `,"attempt":`...)
		b = strconv.AppendInt(b, int64(n.Attempt), 10)
	}
	b = appendTime(b, "at", n.At)
	for i, bucket := range n.Buckets {
		if i == 0 {
			b = append(b, `,"buckets":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendString(b, bucket)
	}
	if len(n.Buckets) > 0 {
		b = append(b, ']')
	}
	b = appendField(b, "token", token)
	return append(b, '}')
}

func appendCause(b []byte, c *graph.Cause) []byte {
	if c.URI == "" {
		return b
	}
	b = append(b, `,"cause":{"uri":`...)
	b = appendString(b, c.URI)
	b = appendField(b, "id", c.ID)
	b = appendTime(b, "at", c.At)
	return append(b, '}')
}

// appendField appends a further member of an object, unless it is empty. The
// name needs no escaping.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return appendString(b, value)
}

// appendTime appends t in UTC to the nanosecond, unless it is zero.
// Source: RFC 3339.
func appendTime(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":"`...)
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

// appendString appends s as a JSON string. All control characters and what
// else some reader takes for a line end (U+2028, U+2029) are escaped, because a
// frame is made of lines. Bytes that are no UTF-8 become U+FFFD.
// Source: RFC 8259, section 7.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); {
		if plain[s[i]] {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r < 0xa0 || r == 0x2028 || r == 0x2029 || r == utf8.RuneError && size == 1 {
			b = append(b, s[done:i]...)
			b = appendEscape(b, r)
			done = i + size
		}
		i += size
	}
	b = append(b, s[done:]...)
	return append(b, '"')
}

// plain marks the bytes that stand in a JSON string as they are, all else apart.
var plain = func() (t [256]bool) {
	for c := byte(' '); c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

func appendEscape(b []byte, r rune) []byte {
	if r == '"' || r == '\\' {
		return append(b, '\\', byte(r))
	}
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

// A format is how events are written to a stream.
type format interface {
	contentType() string
	// open begins a stream whose reader comes again after retry if it breaks.
	open(b []byte, retry time.Duration) []byte
	// of returns a notice's bytes, which nobody changes.
	of(f *frame) []byte
	// reset appends the JSON object data, after which the reader is at id.
	reset(b []byte, id string, data []byte) []byte
	// position tells how far the stream has come, so that a reader whose filter
	// passes little does not resume from far behind.
	position(b []byte, id string) []byte
	// heartbeat shows that the connection lives when the position is id as before.
	heartbeat(b []byte, id string) []byte
	// leave says why a stream ends and asks its reader to wait so long.
	leave(b []byte, why reason, after time.Duration) []byte
}

// eventStream is text/event-stream.
// Source: HTML Standard, section 9.2 Server-sent events.
type eventStream struct{}

func (eventStream) contentType() string { return "text/event-stream" }

func (eventStream) open(b []byte, retry time.Duration) []byte { return appendRetry(b, retry) }

func (eventStream) of(f *frame) []byte { return f.bytes }

func (eventStream) reset(b []byte, id string, data []byte) []byte {
	b = append(b, "id: "...)
	b = append(b, id...)
	b = append(b, "\nevent: reset\ndata: "...)
	b = append(b, data...)
	return append(b, "\n\n"...)
}

// position appends a frame of an id and nothing else. The standard's steps to
// dispatch an event first set the last event id, and only then drop an event
// without data: the reader sees nothing, and resumes from here.
func (eventStream) position(b []byte, id string) []byte {
	b = append(b, "id: "...)
	b = append(b, id...)
	return append(b, "\n\n"...)
}

func (eventStream) heartbeat(b []byte, _ string) []byte { return append(b, ":\n\n"...) }

func (eventStream) leave(b []byte, why reason, after time.Duration) []byte {
	b = append(b, ": "...)
	b = append(b, why.String()...)
	return appendRetry(append(b, '\n'), after)
}

func appendRetry(b []byte, after time.Duration) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, after.Milliseconds(), 10)
	return append(b, "\n\n"...)
}

// lines is application/x-ndjson: one object a line, told apart by "kind".
type lines struct{}

func (lines) contentType() string { return "application/x-ndjson" }

// open says nothing: there is no program that reads lines and comes again by itself.
func (lines) open(b []byte, _ time.Duration) []byte { return b }

func (lines) of(f *frame) []byte { return f.line() }

func (lines) reset(b []byte, _ string, data []byte) []byte {
	b = append(b, data...)
	return append(b, '\n')
}

func (lines) position(b []byte, id string) []byte {
	b = append(b, `{"kind":"position"`...)
	b = appendField(b, "token", id)
	return append(b, "}\n"...)
}

// heartbeat repeats the position: not every reader of lines bears an empty one.
func (l lines) heartbeat(b []byte, id string) []byte { return l.position(b, id) }

func (lines) leave(b []byte, why reason, after time.Duration) []byte {
	b = append(b, `{"kind":"retry","after_ms":`...)
	b = strconv.AppendInt(b, after.Milliseconds(), 10)
	b = appendField(b, "reason", why.String())
	return append(b, "}\n"...)
}

// frame is a notice ready for the wire: an SSE event, which ends in the notice's
// JSON and two line ends.
type frame struct {
	cursor           graph.Cursor
	bytes            []byte
	data             int32 // where the JSON begins
	cause, afterward int32 // where the member "cause" begins, if there is one, and ends
	causeless        atomic.Pointer[frame]
}

func newFrame(n *graph.Notice) *frame {
	id := n.Cursor.String()
	b := make([]byte, 0, frameSize)
	b = append(b, "id: "...)
	b = append(b, id...)
	b = append(b, "\nevent: "...)
	b = append(b, n.Kind.String()...)
	b = append(b, "\ndata: "...)
	f := &frame{cursor: n.Cursor, data: int32(len(b))}
	b = appendBeforeCause(b, n)
	f.cause = int32(len(b))
	b = appendCause(b, &n.Cause)
	f.afterward = int32(len(b))
	f.bytes = append(appendAfterCause(b, n, id), "\n\n"...)
	return f
}

// bare is the frame without its cause, for readers who may not see what was
// edited. It is made once for all of them.
func (f *frame) bare() *frame {
	if f.cause == f.afterward {
		return f
	}
	if b := f.causeless.Load(); b != nil {
		return b
	}
	b := &frame{cursor: f.cursor, data: f.data, cause: f.cause, afterward: f.cause,
		bytes: slices.Concat(f.bytes[:f.cause], f.bytes[f.afterward:])}
	if !f.causeless.CompareAndSwap(nil, b) {
		return f.causeless.Load()
	}
	return b
}

// line is the JSON with one line end.
func (f *frame) line() []byte { return f.bytes[f.data : len(f.bytes)-1] }

const (
	// frameSize is a frame of the usual length, in bytes.
	frameSize = 448
	// sharedFrames is how many of the newest frames readers share: all that a
	// hub under load writes within a few ticks.
	sharedFrames = 2048
	// maxSharedFrame bounds one of them, in bytes, and so all to 8 MiB, and to 16
	// with those without their cause.
	maxSharedFrame = 4 << 10
)

// frameRing keeps frames that were read back from the store, so that each is made
// once for all who catch up together. A slot is never given to an older notice: who catches up does not
// take the frames from those who are there.
type frameRing [sharedFrames]atomic.Pointer[frame]

func (r *frameRing) of(n *graph.Notice) *frame {
	slot := &r[n.Cursor.Seq%sharedFrames]
	held := slot.Load()
	if held != nil && held.cursor == n.Cursor {
		return held
	}
	f := newFrame(n)
	if (held == nil || held.cursor.Seq < n.Cursor.Seq) && len(f.bytes) <= maxSharedFrame {
		slot.CompareAndSwap(held, f)
	}
	return f
}
