package follow

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/r3labs/sse/v2"
)

const (
	// minWait is the wait before the first reconnection if the server does not
	// ask for another: one that restarts is away for about so long.
	minWait = time.Second
	// maxWait caps the doubling of that wait.
	maxWait = 30 * time.Second
	// minAsked and maxAsked bound what a server may ask for: it is neither to be
	// hammered at its own wish, nor can a mistake of its make readers stay away.
	minAsked = 100 * time.Millisecond
	maxAsked = time.Hour
	// defaultIdle is how long a connection may be silent. Servers send a comment
	// every 15 to 30 s, below the time after which proxies cut: one may be lost.
	defaultIdle = time.Minute
	// maxID bounds an id, in bytes: it is sent back in a header, and servers
	// take 8 KiB of those or more. Those of hubs have 128 at most.
	maxID = 4 << 10
)

// Options configures a stream. The zero value of each field is its default.
type Options struct {
	HTTP   *http.Client // nil means http.DefaultClient; its Timeout does not apply
	Header http.Header  // sent with each request
	// Prepare may change the request of each connection before it is sent, for
	// example to give it a fresh access token. Its header holds Last-Event-ID
	// unless the stream begins. An error ends the stream.
	Prepare func(*http.Request) error
	// LastEventID is the id to begin after; "" leaves it to the server.
	LastEventID string
	// Moved is called with each new position, when the events up to it have been
	// handled: those of its own loop, and ids that come without data.
	Moved func(id string)
	// Opened is called when a server grants the stream, Lost before the wait for
	// the next connection; err is io.EOF if the server closed it in good order.
	Opened func()
	Lost   func(err error, wait time.Duration)
	// Idle is how long a connection may be silent before it counts as dead, from
	// the request on; comments are life. 0 means 60 s.
	Idle time.Duration
	// Insist goes on asking although no stream was granted yet. Otherwise a
	// server that cannot be reached at first is an error.
	Insist bool
}

// Event is one event of a stream.
type Event struct {
	ID   string // the last id heard, also of an event that carries none
	Name string // "" when the stream names none
	Data []byte // never empty; the reader may keep it
}

// Stream iterates over the events that url serves. An event without data moves
// the position and is not yielded; neither are comments.
//
// When the connection ends or falls silent, Stream connects again after a
// jittered wait and asks for what comes strictly after the last event that the
// loop has handled, as often as needed. It gives up with an error as the last
// item: when the first connection cannot be made (but see [Options.Insist]), and
// at any time when the server refuses the request ([*Refusal]), answers with
// something else ([*NotStream]) or sends an event that is too long
// ([ErrTooLong]). It ends without an error when ctx ends.
func Stream(ctx context.Context, url string, o Options) iter.Seq2[Event, error] {
	if o.HTTP == nil {
		o.HTTP = http.DefaultClient
	}
	if o.HTTP.Timeout != 0 {
		own := *o.HTTP
		own.Timeout = 0
		o.HTTP = &own
	}
	if o.Idle <= 0 {
		o.Idle = defaultIdle
	}
	return func(yield func(Event, error) bool) {
		s := stream{o: &o, url: url, position: o.LastEventID, opened: o.Insist}
		for {
			err := s.connect(ctx, yield)
			switch {
			case errors.Is(err, errStopped) || ctx.Err() != nil:
				return
			case !s.passes(err):
				yield(Event{}, err)
				return
			}
			wait := s.wait(err)
			if o.Lost != nil {
				o.Lost(err, wait)
			}
			if !pause(ctx, wait) {
				return
			}
		}
	}
}

// errStopped reports that the caller left the loop.
var errStopped = errors.New("stopped by the reader")

// A stream is where a reader stands between two connections.
type stream struct {
	o        *Options
	url      string
	position string        // the last id handled
	opened   bool          // a connection was made once, or is insisted on
	fails    int           // connections in a row that brought nothing
	retry    time.Duration // what the server asked for, 0 if it did not
}

// connect makes one connection and yields its events until it ends.
func (s *stream) connect(ctx context.Context, yield func(Event, error) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	s.fails++
	c := &connection{o: s.o, url: s.url, position: s.position, granted: func() {
		s.opened = true
		if s.o.Opened != nil {
			s.o.Opened()
		}
	}}
	// The client calls back from a loop that it cannot be made to leave. Pulled,
	// it runs beside this one, and ends also if the reader's loop panics.
	next, stop := iter.Pull(c.events(ctx))
	defer stop()
	defer cancel()
	begun := time.Now()
	for {
		m, ok := next()
		if time.Since(begun) > s.o.Idle {
			s.fails = 0 // not a server that closes every connection at once
		}
		if !ok {
			return c.err
		}
		if err := s.take(m, yield); err != nil {
			return err
		}
		if ctx.Err() != nil { // by the reader, who need not get what has arrived
			return ctx.Err()
		}
	}
}

// take yields what m says. The position moves only after the reader had it.
func (s *stream) take(m *sse.Event, yield func(Event, error) bool) error {
	if ms, err := strconv.ParseUint(string(m.Retry), 10, 31); err == nil && ms > 0 {
		s.retry = min(max(minAsked, time.Duration(ms)*time.Millisecond), maxAsked)
	}
	id := s.position
	if isID(m.ID) {
		id = string(m.ID)
	}
	if len(m.Data) > 0 {
		s.fails = 0
		if !yield(Event{id, string(m.Event), m.Data}, nil) {
			return errStopped
		}
	}
	if id != s.position {
		s.fails, s.position = 0, id
		if s.o.Moved != nil {
			s.o.Moved(id)
		}
	}
	return nil
}

// isID reports whether the server can be asked for what comes after an id. What
// cannot be sent in a header is ignored, as the format says of NUL.
func isID(id []byte) bool {
	for _, c := range id {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return len(id) > 0 && len(id) <= maxID
}

// passes is the one place that tells a passing fault from a final one. err is
// io.EOF when the server closed the stream in good order.
func (s *stream) passes(err error) bool {
	var refused *Refusal
	var other *NotStream
	var ours *final
	switch {
	case !s.opened, errors.Is(err, ErrTooLong), errors.As(err, &other), errors.As(err, &ours):
		return false
	case errors.As(err, &refused):
		status := refused.Response.StatusCode
		return status == http.StatusTooManyRequests || status >= 500
	}
	return true
}

// wait is how long to wait before the next connection. The jitter is drawn after
// the cap, so that readers who lost their server together do not return together.
func (s *stream) wait(err error) time.Duration {
	var refused *Refusal
	if errors.As(err, &refused) {
		if asked := min(refused.retryAfter(), maxAsked); asked > 0 {
			return asked + rand.N(asked)
		}
	}
	least := minWait
	if s.retry > 0 {
		least = s.retry
	}
	return least + rand.N(max(least, min(maxWait, least<<min(s.fails, 10))))
}

// pause waits for d and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
