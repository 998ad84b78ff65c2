package follow

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/r3labs/sse/v2"
)

const (
	mediaType = "text/event-stream"
	// maxRefusal bounds what is kept of a refusal's body, in bytes: it explains
	// itself in a few sentences, or is a proxy's page.
	maxRefusal = 64 << 10
)

// Refusal is an answer that grants no stream. One with a status of 429 or at
// least 500 passes, unless it is the first answer of all; any other is final.
type Refusal struct {
	// Response is the answer. Its body is in memory, up to 64 KiB of it, and
	// need not be closed.
	Response *http.Response
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the stream is refused: %d %s", r.Response.StatusCode, http.StatusText(r.Response.StatusCode))
}

// retryAfter is how long the server asks to wait; 0 if it does not say.
// Source: RFC 9110, section 10.2.3.
func (r *Refusal) retryAfter() time.Duration {
	text := r.Response.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// NotStream reports a successful answer that is no event stream, such as a
// proxy's page. It is final.
type NotStream struct {
	Media string // what it is instead, "" if it does not say
}

func (e *NotStream) Error() string { return fmt.Sprintf("%q instead of %s", e.Media, mediaType) }

// A silence is why a connection is given up that looks alive.
type silence time.Duration

func (s silence) Error() string { return fmt.Sprintf("silent for %v", time.Duration(s)) }

// A connection is one request and the events it brings.
type connection struct {
	o        *Options
	url      string
	position string // to resume after, "" for none
	granted  func() // called when the server grants the stream

	watchdog *time.Timer
	frames   *frames // nil until the server grants the stream
	err      error   // why it does not, or why the stream ended; io.EOF if in good order
}

// events makes the connection and iterates over what the client makes of it.
// What it yields without data is a position, or the asked wait, alone. After
// the iteration c.err says why it ended.
func (c *connection) events(ctx context.Context) iter.Seq[*sse.Event] {
	return func(yield func(*sse.Event) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		c.watchdog = time.AfterFunc(c.o.Idle, func() { cancel(silence(c.o.Idle)) })
		defer c.watchdog.Stop()

		client := sse.NewClient(c.url, sse.ClientMaxBufferSize(2*MaxEvent)) // frames says what is too long
		client.Connection = &http.Client{Transport: c, CheckRedirect: lastResponse}
		client.ReconnectStrategy = never{}
		if c.position != "" {
			client.LastEventID.Store([]byte(c.position))
		}
		stopped := false
		err := client.SubscribeRawWithContext(ctx, func(m *sse.Event) {
			// The client has no way to stop from here: it hands over the rest.
			if !stopped && !yield(m) {
				stopped = true
				cancel(nil)
			}
		})
		switch {
		case c.frames != nil && c.frames.end != nil:
			c.err = c.frames.end
		case c.err == nil: // it did not come to a request, or not to the end of the body
			c.err = &final{err}
		}
		if cause := context.Cause(ctx); cause != nil {
			c.err = cause
		}
	}
}

// lastResponse leaves redirections to the caller's client, inside RoundTrip.
func lastResponse(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// never is the reconnection of a client that makes one attempt.
type never struct{}

func (never) NextBackOff() time.Duration { return -1 }
func (never) Reset()                     {}

// RoundTrip sends the client's request by the caller's own http.Client, and lets
// the client see nothing but streams.
func (c *connection) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.open(r)
	c.watchdog.Stop()
	if err != nil {
		c.err = err
		return nil, err
	}
	c.frames = newFrames(&body{ReadCloser: resp.Body, watchdog: c.watchdog, idle: c.o.Idle})
	resp.Body = struct {
		io.Reader
		io.Closer
	}{c.frames, resp.Body}
	c.granted()
	return resp, nil
}

// open returns the answer of a server that grants the stream.
func (c *connection) open(r *http.Request) (*http.Response, error) {
	req := r.Clone(r.Context())
	req.Header.Del("Connection") // each version of HTTP has its own way to keep it alive
	for name, values := range c.o.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if c.o.Prepare != nil {
		if err := c.o.Prepare(req); err != nil {
			return nil, &final{err}
		}
	}
	resp, err := c.o.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp)
	}
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media != mediaType {
		resp.Body.Close()
		return nil, &NotStream{media}
	}
	return resp, nil
}

// refusal keeps what resp says, as far as it arrives.
func refusal(resp *http.Response) *Refusal {
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return &Refusal{resp}
}

// final marks an error that another attempt would meet again.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }
