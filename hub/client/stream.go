package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"time"
)

const (
	// minReconnect is the wait before the first reconnection if the hub does not
	// ask for another: a hub that restarts is away for about so long.
	minReconnect = time.Second
	// maxReconnect caps the doubling of that wait.
	maxReconnect = 30 * time.Second
	// silence is how long a stream may be silent before it counts as dead. A hub
	// sends a comment every 18 s at the latest; three may be lost.
	silence = time.Minute
)

// StreamOptions says which notices to stream, and from where. The zero value
// streams all notices from now on.
type StreamOptions struct {
	Filter Filter
	After  string    // a cursor: strictly what comes after it
	Since  time.Time // what was written at or after it; After goes before it
	// Until is a cursor, not before the place to begin: the iteration ends when
	// it is reached. "" means never.
	Until string
	// Linger is how long the hub may hold notices back to send them together.
	Linger time.Duration
}

// Stream iterates over the notices of the hub as they are written.
//
// When the connection ends or falls silent, Stream connects again after a
// jittered wait and resumes strictly after the last notice, as often as needed.
// It gives up, with an error as the last item, when the first connection cannot
// be made, when the hub refuses it (a *Problem), or when the hub no longer holds
// the position (a *[Reset]: notices were missed, and only the caller knows what
// that means). It ends without an error when ctx ends or Until is reached.
func (c *Client) Stream(ctx context.Context, o StreamOptions) iter.Seq2[Notice, error] {
	return func(yield func(Notice, error) bool) {
		s := stream{client: c, options: o, after: o.After}
		for {
			err := s.connect(ctx, yield)
			switch {
			case errors.Is(err, errStopped) || ctx.Err() != nil:
				return
			case !s.retryable(err):
				yield(Notice{}, err)
				return
			}
			if !pause(ctx, s.wait(err)) {
				return
			}
		}
	}
}

// errStopped reports that the caller left the loop, or has all it asked for.
var errStopped = errors.New("stopped by the reader")

// A stream is where a reader stands between two connections.
type stream struct {
	client  *Client
	options StreamOptions
	after   string        // the last cursor heard
	opened  bool          // a connection was made once
	fails   int           // connections in a row that brought nothing
	retry   time.Duration // what the hub asked for
}

// retryable is the one place that tells a passing fault from a final one. err
// is nil when the hub closed the stream in good order.
func (s *stream) retryable(err error) bool {
	var p *Problem
	var r *Reset
	switch {
	case !s.opened || errors.As(err, &r) || errors.Is(err, ErrNotHub):
		return false
	case errors.As(err, &p):
		return p.Status == http.StatusTooManyRequests || p.Status >= 500
	}
	return true
}

// wait is how long to wait before the next connection. The jitter is drawn after
// the cap, so that readers who lost their hub together do not return together.
func (s *stream) wait(err error) time.Duration {
	var p *Problem
	if errors.As(err, &p) && p.RetryAfter > 0 {
		return p.RetryAfter + rand.N(p.RetryAfter)
	}
	least := minReconnect
	if s.retry > 0 {
		least = s.retry
	}
	return least + rand.N(max(least, min(maxReconnect, least<<min(s.fails, 10))))
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

// connect makes one connection and yields its notices until it ends.
func (s *stream) connect(ctx context.Context, yield func(Notice, error) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(fmt.Errorf("silent for %v", silence)) })
	defer watchdog.Stop()
	s.fails++

	resp, err := s.open(ctx)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()
	s.opened = true
	since := time.Now()
	events := newEventReader(resp.Body, func() { watchdog.Reset(silence) })
	for {
		e, err := events.next()
		watchdog.Stop() // the reader may take its time; only the hub may not
		if events.retry > 0 {
			s.retry = events.retry
		}
		if time.Since(since) > silence {
			s.fails = 0 // not a hub that closes every connection at once
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return because(ctx, err)
		}
		if err := s.take(e, yield); err != nil {
			return err
		}
		watchdog.Reset(silence)
	}
}

// because returns why ctx ended, if that is what lies behind err.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// open asks for the stream and returns the answer of a hub that grants it.
func (s *stream) open(ctx context.Context) (*http.Response, error) {
	req, err := s.client.request(ctx, http.MethodGet, "/v1/stream", s.options.query(s.after), "", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", typeSSE)
	req.Header.Set("Cache-Control", "no-store")
	if s.after != "" {
		req.Header.Set("Last-Event-ID", s.after)
	}
	resp, err := s.client.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, readProblem(resp)
	}
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media != typeSSE {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: %q instead of %s", ErrNotHub, media, typeSSE)
	}
	return resp, nil
}

// take yields what e says. The position moves only after the caller had it.
func (s *stream) take(e event, yield func(Notice, error) bool) error {
	switch e.name {
	case "reset":
		r := new(Reset)
		if err := json.Unmarshal(e.data, r); err != nil {
			return fmt.Errorf("%w: reset: %w", ErrNotHub, err)
		}
		return r
	case KindChanged, KindRefresh:
		var n Notice
		if err := json.Unmarshal(e.data, &n); err != nil {
			return fmt.Errorf("%w: notice: %w", ErrNotHub, err)
		}
		s.fails = 0
		if s.options.wants(&n) && !yield(n, nil) {
			return errStopped
		}
	}
	if s.after = e.id; s.after != "" && s.after == s.options.Until {
		return errStopped
	}
	return nil
}

// wants reports whether n is to be yielded. A filter that the hub applies would
// hide whether Until is reached: then it is applied here.
func (o *StreamOptions) wants(n *Notice) bool { return o.Until == "" || o.Filter.Match(n) }

// query names what to stream. A start time counts only until a cursor is known.
func (o *StreamOptions) query(after string) url.Values {
	q := url.Values{}
	if o.Until == "" {
		o.Filter.query(q)
	}
	if !o.Since.IsZero() && after == "" {
		q.Set("since", o.Since.UTC().Format(time.RFC3339Nano))
	}
	if o.Linger > 0 {
		q.Set("linger", o.Linger.String())
	}
	return q
}
