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

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/graph"
)

const (
	// defaultMaxAge ends a stream now and then, so that readers spread over hubs
	// behind one address again and no state grows old with them.
	defaultMaxAge = time.Hour
	// defaultMaxPerAddr bounds the streams of one client address: each holds a
	// descriptor, and of the portable kind about 30 KB.
	defaultMaxPerAddr = 256
	// defaultMaxPerName bounds the streams of one viewer, who may come from many
	// addresses.
	defaultMaxPerName = 256
	// defaultMaxPublicPerAddr bounds those of readers without a token, who cannot
	// be told apart: a few pages of a browser or programs of a house.
	defaultMaxPublicPerAddr = 16
	// retryRefused is how long a reader is asked to wait who has too many streams.
	retryRefused = 30 * time.Second
)

// A journal is what a stream asks of the graph.
type journal interface {
	// ReadFrom returns up to limit notices strictly after c and the position to
	// read from next, blocking until there is one or ctx ends. It reports a
	// *graph.ResetError when c cannot be served.
	ReadFrom(ctx context.Context, c graph.Cursor, limit int) ([]graph.Notice, graph.Cursor, error)
	// Scan returns up to limit of the notices strictly after c that p lets
	// through, and the position up to which it read, without waiting for any.
	Scan(p *graph.Pick, c graph.Cursor, limit int) ([]graph.Notice, graph.Cursor, error)
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
	// MaxPerName bounds the open streams of one [Viewer.Name]; 0 means 256.
	MaxPerName int
	// MaxPublicPerAddr bounds the open streams of one client address that come
	// without a token; 0 means 16. They count for MaxPerAddr too.
	MaxPublicPerAddr int
	// MaxStreams bounds the open streams of all, so that descriptors are left for
	// those who publish; 0 means no bound.
	MaxStreams int
	// ClientAddr names the client a request is counted for; nil means the host
	// of its RemoteAddr.
	ClientAddr func(*http.Request) string
	// Viewer tells who asks and what they may be shown; nil means that everybody is
	// shown everything. Its error refuses the request and is given to Problem.
	Viewer func(*http.Request) (Viewer, error)
	// Problem answers a request that is refused before its stream begins; err is a
	// *Refusal, or what Viewer returned. Nil means a plain application/problem+json.
	Problem  func(w http.ResponseWriter, r *http.Request, err error)
	Channels *Channels    // that may be asked for by name; nil means none
	Schemes  []string     // URI schemes allowed in filters, besides those of graph.CheckURI
	Log      *slog.Logger // nil means none

	// Portable has a goroutine for each stream, also where it could do without: a
	// network that the system does not know has no sockets to wait for.
	Portable bool
}

// Streamer serves the journal as server-sent events, or as NDJSON to who accepts
// application/x-ndjson. It is safe for concurrent use, and needs [Streamer.Run].
//
// GET takes the filter from the query; POST and QUERY take it as a JSON body of
// at most 1 MiB. channel= names a channel instead. since= is a time of RFC 3339
// or a cursor, linger= gathers notices for up to 10 s, and the header
// Last-Event-ID wins over since; without either a stream begins now. The first
// frame tells the position, so that even a reader who has had no notice yet
// resumes without loss.
//
// A reader is shown the notices of resources that its [Viewer] may see, and all
// that come by a public channel; what was edited is named to those who may see it
// or follow a public channel that it lies in. Each read is judged by what the
// viewer may see and the channel is then, resumed ones included: nothing that was
// written while a channel was not public is shown because it has become so. When
// it becomes so or ceases to be, the streams of those who do not see everything
// end and are judged anew.
type Streamer struct {
	journal   journal
	o         StreamOptions
	pump      *pump
	portable  *portable
	sockets   *sockets // nil where there are none
	watchers  *watchers
	documents *documents
	frames    frameRing
	bundles   *lru.Cache[bundleKey, *bundle]
	born      time.Time
	closing   atomic.Bool

	mu      sync.Mutex
	open    map[account]int // streams
	streams int             // all of them
	drained chan struct{}   // closed when closing is set and the last stream has ended

	stats struct {
		opened, refused, notices, bytes, resets, replays atomic.Uint64
		ended                                            [reasons]atomic.Uint64
	}
}

// NewStreamer returns a handler that streams log.
func NewStreamer(log journal, o StreamOptions) *Streamer {
	if o.MaxAge <= 0 {
		o.MaxAge = defaultMaxAge
	}
	if o.MaxPerAddr <= 0 {
		o.MaxPerAddr = defaultMaxPerAddr
	}
	if o.MaxPerName <= 0 {
		o.MaxPerName = defaultMaxPerName
	}
	if o.MaxPublicPerAddr <= 0 {
		o.MaxPublicPerAddr = defaultMaxPublicPerAddr
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
	s := &Streamer{journal: log, o: o, pump: newPump(log), born: time.Now(),
		open: make(map[account]int), drained: make(chan struct{})}
	s.bundles, _ = lru.New[bundleKey, *bundle](sharedBundles)
	s.documents = newDocuments()
	s.portable = newPortable(s)
	s.watchers = &watchers{members: map[*class]map[*watcher]struct{}{}}
	s.pump.owners = []owner{s.portable, s.watchers}
	if !o.Portable {
		s.sockets = newSockets(s)
	}
	if s.sockets != nil {
		s.pump.owners = append(s.pump.owners, s.sockets)
	}
	if o.Channels != nil {
		o.Channels.follow(s.pump)
	}
	return s
}

// Run follows the journal for all streams until ctx ends; then those that are
// still open are cut off. It returns an error if the journal could not be read.
func (s *Streamer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.pump.run(ctx) })
	if s.sockets != nil {
		g.Go(func() error { return s.sockets.run(ctx) })
	}
	return g.Wait()
}

// now is the time since the streamer was made.
func (s *Streamer) now() time.Duration { return time.Since(s.born) }

// StreamStats are the figures of a Streamer; all but Open count since its start.
type StreamStats struct {
	Open    int               // streams now
	Opened  uint64            // streams begun
	Refused uint64            // requests that got no stream
	Notices uint64            // delivered, counted for each reader
	Bytes   uint64            // written
	Resets  uint64            // readers told that they missed something
	Replays uint64            // reads of the store for readers who were behind
	Ended   map[string]uint64 // streams ended, by reason
}

// Stats returns the current figures.
func (s *Streamer) Stats() StreamStats {
	s.mu.Lock()
	open := s.streams
	s.mu.Unlock()
	ended := make(map[string]uint64, reasons)
	for r := left; r < reasons; r++ {
		ended[r.String()] = s.stats.ended[r].Load()
	}
	return StreamStats{open, s.stats.opened.Load(), s.stats.refused.Load(), s.stats.notices.Load(),
		s.stats.bytes.Load(), s.stats.resets.Load(), s.stats.replays.Load(), ended}
}

// ServeHTTP streams until the client goes, the stream's age is reached or
// [Streamer.Shutdown] is called. A stream over a plain socket of Linux goes on
// after ServeHTTP has returned.
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
		return &Refusal{Status: http.StatusMethodNotAllowed, Slug: "method-not-allowed",
			Detail: "a stream is asked for by GET, POST or QUERY"}
	}
	counts := [2]account{{ofAddr, s.o.ClientAddr(r)}}
	if err := s.admit(counts[0]); err != nil {
		return err
	}
	v, err := s.viewer(r)
	if err == nil {
		counts[1] = v.account(counts[0].name)
		if err = s.count(counts[1]); err != nil {
			counts[1] = account{}
		}
	}
	if err != nil {
		s.release(counts)
		return err
	}
	st, from, err := s.prepare(w, r, &v)
	if err != nil {
		s.release(counts)
		return err
	}
	st.counts = counts
	setHeader(w.Header(), st.format)
	if v.Anonymous { // what everybody is shown, pages of other origins may read
		w.Header().Set("Access-Control-Allow-Origin", "*")
	}
	if s.sockets != nil && isPlainTCP(r) {
		return s.hijack(w, st, from)
	}
	return s.respond(r.Context(), w, st, from)
}

// A viewerError is what [StreamOptions.Viewer] refused a request with.
type viewerError struct{ error }

// viewer returns who asks.
func (s *Streamer) viewer(r *http.Request) (v Viewer, err error) {
	if s.o.Viewer == nil {
		return Viewer{All: true}, nil
	}
	if v, err = s.o.Viewer(r); err != nil {
		return v, &viewerError{err}
	}
	if v.left(time.Now()) <= 0 {
		return v, &Refusal{Status: http.StatusUnauthorized, Slug: slugUnauthorized, Detail: "the token has expired"}
	}
	return v, nil
}

// prepare reads what v asks for and finds where it begins.
func (s *Streamer) prepare(w http.ResponseWriter, r *http.Request, v *Viewer) (st stream, from start, err error) {
	req, err := parseRequest(w, r, v, s.o.Schemes, s.o.Channels)
	if err != nil {
		return st, from, err
	}
	if from, err = begin(s.journal, &req); err != nil {
		return st, from, err
	}
	now := s.now()
	st = stream{s: s, format: req.format, pace: req.linger, atEnd: rotated, end: now + jitter(s.o.MaxAge*9/10, 0.1/0.9)}
	if left := v.left(time.Now()); left < st.end-now {
		st.end, st.atEnd = now+left, expired
	}
	st.class = s.pump.join(req.key, req.selector)
	return st, from, nil
}

// respond streams through the server's own writer. It fails if that cannot be
// flushed or given deadlines, as when something between the server and the
// streamer hides them: the stream would stall.
func (s *Streamer) respond(ctx context.Context, w http.ResponseWriter, st stream, from start) error {
	control := http.NewResponseController(w)
	// The server's own deadlines are for ordinary requests.
	if err := errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Now().Add(writeDeadline))); err != nil {
		s.pump.leave(st.class)
		s.release(st.counts)
		return fmt.Errorf("setting the deadlines of a stream: %w", err)
	}
	s.stats.opened.Add(1)
	w.WriteHeader(http.StatusOK)
	wt := &waiter{stream: st, news: make(chan struct{}, 1)}
	wt.out = &blocking{w, control}
	wt.begin(from, s.now())
	why := left
	if control.Flush() == nil {
		why = s.portable.run(ctx, wt)
	}
	s.ended(&wt.stream, why)
	return nil
}

func setHeader(h http.Header, f format) {
	h.Set("Content-Type", f.contentType())
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	h.Set("X-Accel-Buffering", "no") // nginx would hold frames back
}

// An account is whom streams are counted for. The zero account counts none.
type account struct {
	kind accountKind
	name string
}

type accountKind uint8

const (
	ofAddr      accountKind = 1 + iota // all from one client address
	ofAnonymous                        // those of them without a token
	ofName                             // all of one viewer
)

// admit counts a stream for an address; its error is a *Refusal.
func (s *Streamer) admit(addr account) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing.Load():
		return &Refusal{Status: http.StatusServiceUnavailable, Slug: "shutting-down",
			Detail: "the hub is shutting down; come again", RetryAfter: retryShutdown}
	case s.o.MaxStreams > 0 && s.streams >= s.o.MaxStreams:
		return &Refusal{Status: http.StatusServiceUnavailable, Slug: "no-room", Limit: int64(s.o.MaxStreams),
			Detail:     fmt.Sprintf("the hub has %d streams open and leaves what it has left to others; come again", s.streams),
			RetryAfter: retryRefused}
	}
	if err := s.countLocked(addr); err != nil {
		return err
	}
	s.streams++
	return nil
}

// count counts an admitted stream for a further account.
func (s *Streamer) count(a account) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.countLocked(a)
}

func (s *Streamer) countLocked(a account) error {
	var limit int
	var who, out string
	switch a.kind {
	case ofAddr:
		limit, who, out = s.o.MaxPerAddr, "this address has", "close one, or ask for more with one filter"
	case ofAnonymous:
		limit, who, out = s.o.MaxPublicPerAddr, "this address has without a token", "close one, or send a token"
	case ofName:
		limit, who, out = s.o.MaxPerName, "the holder of this token has", "close one, or ask for more with one filter"
	default:
		return nil
	}
	if s.open[a] >= limit {
		return &Refusal{Status: http.StatusTooManyRequests, Slug: "too-many-streams", Limit: int64(limit),
			Detail: fmt.Sprintf("%s %d streams open; %s", who, limit, out), RetryAfter: retryRefused}
	}
	s.open[a]++
	return nil
}

// release takes a stream off the accounts it is counted for.
func (s *Streamer) release(counts [2]account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range counts {
		if a.kind == 0 {
			continue
		}
		if s.open[a]--; s.open[a] == 0 {
			delete(s.open, a)
		}
	}
	if s.streams--; s.closing.Load() && s.streams == 0 {
		close(s.drained)
	}
}

// Shutdown asks the readers to come again after a while, ends all streams and
// refuses new ones. It returns when the last one has ended, or with ctx's error
// if a reader that does not read outlasts ctx. Call it before the HTTP server's
// own Shutdown, which would wait for the streams, and while Run runs.
func (s *Streamer) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if first := !s.closing.Swap(true); first && s.streams == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	s.portable.wakeAll()
	if s.sockets != nil {
		s.sockets.wakeAll()
	}
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ended takes a stream off the books. A client that went is no event.
func (s *Streamer) ended(st *stream, why reason) {
	s.stats.ended[why].Add(1)
	if why == slow {
		s.o.Log.Info("slow reader cut", "cursor", st.cursor.String())
	}
	s.pump.leave(st.class)
	s.release(st.counts)
}

// refuse answers a request that got no stream.
func (s *Streamer) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.stats.refused.Add(1)
	if of := (*viewerError)(nil); errors.As(err, &of) {
		s.o.Problem(w, r, of.error)
		return
	}
	var no *Refusal
	if !errors.As(err, &no) {
		s.o.Log.Error("stream could not begin", "err", err)
		no = &Refusal{Status: http.StatusInternalServerError, Slug: "internal", Detail: "the stream could not begin"}
	}
	if no.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(no.RetryAfter/time.Second)))
		w.Header().Set("Connection", "close") // an idle one would keep its descriptor from others
	}
	if no.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110, section 15.5.2
	}
	s.o.Problem(w, r, no)
}

// plainProblem answers without a page that explains the problem's type.
// Source: RFC 9457.
func plainProblem(w http.ResponseWriter, _ *http.Request, err error) {
	var no *Refusal
	if !errors.As(err, &no) {
		no = &Refusal{Status: http.StatusUnauthorized, Slug: slugUnauthorized, Detail: err.Error()}
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(no.Status)
	json.NewEncoder(w).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Field  string `json:"field,omitempty"`
		Limit  int64  `json:"limit,omitempty"`
	}{"urn:freshwire:problem:" + no.Slug, http.StatusText(no.Status), no.Status, no.Detail, no.Field, no.Limit})
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
