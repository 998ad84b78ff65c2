package subscriptions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// defaultMaxAge ends a stream now and then, so that readers spread over hubs
	// behind one address again and no state grows old with them.
	defaultMaxAge = time.Hour
	// defaultMaxPerAddr bounds the streams of one client address: each holds a
	// connection and a goroutine, about 30 KiB.
	defaultMaxPerAddr = 256
	// retryRefused is how long a reader is asked to wait who has too many streams.
	retryRefused = 30 * time.Second
)

// A journal is what a stream asks of the graph.
type journal interface {
	// ReadFrom returns up to limit notices strictly after c and the position to
	// read from next, blocking until there is one or ctx ends. It reports a
	// *graph.ResetError when c cannot be served.
	ReadFrom(ctx context.Context, c graph.Cursor, limit int) ([]graph.Notice, graph.Cursor, error)
	// Since returns the position before the first notice written at or after t.
	Since(t time.Time) (graph.Cursor, error)
	// Token returns the newest position.
	Token() graph.Cursor
	// Oldest returns the position before the oldest kept notice.
	Oldest() graph.Cursor
}

// StreamOptions configures a Streamer. The zero value of each field is its default.
type StreamOptions struct {
	// MaxAge ends a stream at 80 to 100 % of it, and the reader resumes; 0 means 1 h.
	MaxAge time.Duration
	// MaxPerAddr bounds the open streams of one client address; 0 means 256.
	MaxPerAddr int
	// ClientAddr names the client a request is counted for; nil means the host
	// of its RemoteAddr.
	ClientAddr func(*http.Request) string
	// Problem answers a request that is refused before its stream begins; slug
	// names the type of problem. Nil means a plain application/problem+json.
	Problem func(w http.ResponseWriter, r *http.Request, status int, slug, detail string)
	Schemes []string     // URI schemes allowed in filters, besides those of graph.CheckURI
	Log     *slog.Logger // nil means none
}

// Streamer serves the journal as server-sent events, or as NDJSON to who accepts
// application/x-ndjson. It is safe for concurrent use.
//
// GET takes the filter from the query; POST and QUERY take it as a JSON body of
// at most 1 MiB. since= is a time of RFC 3339 or a cursor, linger= gathers
// notices for up to 10 s, and the header Last-Event-ID wins over since; without
// either a stream begins now. The first frame tells the position, so that even
// a reader who has had no notice yet resumes without loss.
type Streamer struct {
	journal journal
	o       StreamOptions
	frames  frameRing
	base    context.Context // ends when Shutdown is called
	close   context.CancelFunc

	mu      sync.Mutex
	open    map[string]int // streams by client address
	streams int            // sum of open
	drained chan struct{}  // closed when base has ended and so has the last stream

	stats struct{ opened, refused, notices, bytes, resets, slow atomic.Uint64 }
}

// NewStreamer returns a handler that streams log.
func NewStreamer(log journal, o StreamOptions) *Streamer {
	if o.MaxAge <= 0 {
		o.MaxAge = defaultMaxAge
	}
	if o.MaxPerAddr <= 0 {
		o.MaxPerAddr = defaultMaxPerAddr
	}
	if o.ClientAddr == nil {
		o.ClientAddr = remoteHost
	}
	if o.Problem == nil {
		o.Problem = plainProblem
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	base, cancel := context.WithCancel(context.Background())
	return &Streamer{journal: log, o: o, base: base, close: cancel,
		open: make(map[string]int), drained: make(chan struct{})}
}

// StreamStats are the figures of a Streamer; all but Open count since its start.
type StreamStats struct {
	Open    int    // streams now
	Opened  uint64 // streams begun
	Refused uint64 // requests that got no stream
	Notices uint64 // delivered, counted for each reader
	Bytes   uint64 // written
	Resets  uint64 // readers told that they missed something
	Slow    uint64 // readers let go because a write took too long
}

// Stats returns the current figures.
func (s *Streamer) Stats() StreamStats {
	s.mu.Lock()
	open := s.streams
	s.mu.Unlock()
	return StreamStats{open, s.stats.opened.Load(), s.stats.refused.Load(), s.stats.notices.Load(),
		s.stats.bytes.Load(), s.stats.resets.Load(), s.stats.slow.Load()}
}

// ServeHTTP streams until the client goes, the stream's age is reached or
// [Streamer.Shutdown] is called.
func (s *Streamer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.serve(w, r); err != nil {
		s.refuse(w, r, err)
	}
}

// serve returns an error only if the stream did not begin.
func (s *Streamer) serve(w http.ResponseWriter, r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodPost, methodQuery:
	default:
		w.Header().Set("Allow", "GET, POST, QUERY")
		return &refusal{status: http.StatusMethodNotAllowed, slug: "method-not-allowed",
			detail: "a stream is asked for by GET, POST or QUERY"}
	}
	addr := s.o.ClientAddr(r)
	if err := s.admit(addr); err != nil {
		return err
	}
	defer s.release(addr)
	req, err := parseRequest(w, r, s.o.Schemes)
	if err != nil {
		return err
	}
	from, err := begin(s.journal, &req)
	if err != nil {
		return err
	}
	st, err := s.newStream(w, &req)
	if err != nil {
		return err
	}
	s.stats.opened.Add(1)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.base, cancel)()
	if err := st.run(ctx, from); err != nil {
		s.ended(r.Context(), err)
	}
	return nil
}

// admit counts a stream for addr; its error is a *refusal.
func (s *Streamer) admit(addr string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base.Err() != nil {
		return &refusal{http.StatusServiceUnavailable, "shutting-down", "the hub is shutting down; come again", retryShutdown}
	}
	if s.open[addr] >= s.o.MaxPerAddr {
		return &refusal{http.StatusTooManyRequests, "too-many-streams", fmt.Sprintf(
			"this address has %d streams open; close one, or ask for more with one filter", s.o.MaxPerAddr), retryRefused}
	}
	s.open[addr]++
	s.streams++
	return nil
}

func (s *Streamer) release(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[addr]--; s.open[addr] == 0 {
		delete(s.open, addr)
	}
	s.streams--
	if s.base.Err() != nil && s.streams == 0 {
		close(s.drained)
	}
}

// Shutdown asks the readers to come again after a while, ends all streams and
// refuses new ones. It returns when the last one has ended, or with ctx's error
// if a reader that does not read outlasts ctx. Call it before the HTTP server's
// own Shutdown, which would wait for the streams.
func (s *Streamer) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := s.base.Err() == nil
	s.close()
	if first && s.streams == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ended judges why a stream broke off. A client that went is no event.
func (s *Streamer) ended(client context.Context, err error) {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		s.stats.slow.Add(1)
		s.o.Log.Info("slow reader let go", "err", err)
	case errors.Is(err, graph.ErrClosed), client.Err() != nil:
	default:
		s.o.Log.Warn("stream broke off", "err", err)
	}
}

// refuse answers a request that got no stream.
func (s *Streamer) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.stats.refused.Add(1)
	var no *refusal
	if !errors.As(err, &no) {
		s.o.Log.Error("stream could not begin", "err", err)
		no = &refusal{status: http.StatusInternalServerError, slug: "internal", detail: "the stream could not begin"}
	}
	if no.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(no.retryAfter/time.Second)))
	}
	s.o.Problem(w, r, no.status, no.slug, no.detail)
}

// plainProblem answers without a page that explains the problem's type.
// Source: RFC 9457.
func plainProblem(w http.ResponseWriter, _ *http.Request, status int, slug, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{
		"type": "urn:freshwire:problem:" + slug, "title": http.StatusText(status), "status": status, "detail": detail})
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
