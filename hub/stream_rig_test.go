package hub

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/subscriptions"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// A lastingHub goes and comes again: each time on the same address, with the
// same folder and with a clock that does not go back. Beside it runs the reader
// of reference, which keeps the whole journal.
type lastingHub struct {
	t         testing.TB
	cfg       Config
	skip      time.Duration // how far its clock goes while it is away
	transport *http.Transport
	client    *http.Client

	mu      sync.Mutex
	hub     *Hub          // nil while it is away
	up      chan struct{} // closed when there is a hub
	stopRun context.CancelFunc
	ran     chan error
	leave   func() // ends the reader of reference
	journal reference
}

// startLasting runs a hub until the test ends.
func startLasting(t testing.TB, change func(*Config)) *lastingHub {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Data, cfg.Cache = t.TempDir(), minCache
	if change != nil {
		change(&cfg)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	l := &lastingHub{t: t, cfg: cfg, transport: transport, client: &http.Client{Transport: transport}, up: make(chan struct{})}
	l.cfg.Listen = lastingAddress()
	l.start()
	t.Cleanup(l.stop)
	return l
}

// lastingAddress is an address for a hub that goes and comes again. While it is
// away its port stays free only if no connection can get it: it lies below those
// that systems give to who asks for none.
func lastingAddress() string {
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.N(12_000))
		if probe, err := net.Listen("tcp", address); err == nil {
			probe.Close()
			return address
		}
	}
}

// start brings the hub back.
func (l *lastingHub) start() {
	l.t.Helper()
	h, err := New(l.cfg, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.journal.take(l.t, h.store) // of what was written since it left, some is trimmed at once
	ctx, cancel := context.WithCancel(context.Background())
	l.stopRun, l.ran = cancel, make(chan error, 1)
	go func() { l.ran <- h.Run(ctx) }()
	following, stopFollowing := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.journal.follow(following, h.store) }()
	l.leave = func() { stopFollowing(); <-done }
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hub = h
	close(l.up)
}

// stop ends the hub in good order, if it is not away.
func (l *lastingHub) stop() {
	l.t.Helper()
	l.mu.Lock()
	h := l.hub
	if h != nil {
		l.hub, l.up = nil, make(chan struct{})
	}
	l.mu.Unlock()
	if h == nil {
		return
	}
	l.leave() // before the store is closed; it goes on when the hub comes again
	l.stopRun()
	if err := <-l.ran; err != nil {
		l.t.Errorf("Run returned %v, want nil", err)
	}
	l.cfg.ClockStart = h.clock.Now().Add(l.skip)
	l.transport.CloseIdleConnections()
}

// await returns the hub that serves, as soon as there is one; nil if ctx ends first.
func (l *lastingHub) await(ctx context.Context) *Hub {
	for {
		l.mu.Lock()
		h, up := l.hub, l.up
		l.mu.Unlock()
		if h != nil {
			return h
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil
		}
	}
}

// whole stops the hub and returns all it ever wrote.
func (l *lastingHub) whole() []noted {
	l.t.Helper()
	l.stop()
	h, err := New(l.cfg, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.journal.take(l.t, h.store)
	if err := h.Close(); err != nil {
		l.t.Error(err)
	}
	return l.journal.all(l.t)
}

func (l *lastingHub) url() string { return "http://" + l.cfg.Listen }

// post sends a batch and returns what was not as it should be.
func post(c *http.Client, hub string, body []byte) error {
	resp, err := c.Post(hub+"/v1/updates", typeNDJSON, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = &refused{resp.StatusCode, resp.Header.Get("Retry-After"), string(got)}
	}
	return err
}

// publish sends one new version for each path.
func (l *lastingHub) publish(version int, paths ...string) {
	l.t.Helper()
	if err := post(l.client, l.url(), edits(version, paths...)); err != nil {
		l.t.Fatal(err)
	}
}

// edits is a batch with one new version for each path.
func edits(version int, paths ...string) (body []byte) {
	for _, path := range paths {
		body = append(AppendUpdate(body, graph.Update{URI: "https://w.example" + path, Version: strconv.Itoa(version)}), '\n')
	}
	return body
}

// noted is a notice as the reader of reference has it.
type noted struct {
	seq  uint64
	data string // as a stream must spell it
	client.Notice
}

func asNoted(seq uint64, data string) (noted, error) {
	n := noted{seq: seq, data: data}
	if data == "" {
		return n, nil
	}
	if err := json.Unmarshal([]byte(data), &n.Notice); err != nil {
		return n, fmt.Errorf("%s: %w", data, err)
	}
	return n, nil
}

// reference is the journal as it was read without a stream between.
type reference struct {
	mu     sync.Mutex
	at     graph.Cursor
	began  bool
	moved  chan struct{} // closed when at moves
	notes  []noted
	gaps   []gap
	failed error
}

// A gap is what the reader of reference came too late for on a machine that has
// much else to do: positions after after, up to upTo.
type gap struct{ after, upTo uint64 }

// fill adds what others were told of the gaps, and reports two who were told
// different things.
func (r *reference) fill(lists ...[]told) error {
	for _, g := range r.gaps {
		known := map[uint64]string{}
		for _, list := range lists {
			for _, e := range list {
				if e.data == "" || e.seq <= g.after || e.seq > g.upTo {
					continue
				}
				if had, ok := known[e.seq]; ok && had != e.data {
					return fmt.Errorf("told of %d: %s, and somebody else: %s", e.seq, e.data, had)
				} else if ok {
					continue
				}
				known[e.seq] = e.data
				n, err := asNoted(e.seq, e.data)
				if err != nil {
					return err
				}
				r.notes = append(r.notes, n)
			}
		}
	}
	slices.SortFunc(r.notes, func(a, b noted) int { return cmp.Compare(a.seq, b.seq) })
	return nil
}

// follow reads until ctx ends.
func (r *reference) follow(ctx context.Context, store *graph.Store) {
	for r.read(ctx, store) {
	}
}

// take reads what a store that does not run holds.
func (r *reference) take(t testing.TB, store *graph.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for r.seq() < store.Token().Seq && r.read(ctx, store) {
	}
	if r.failed != nil {
		t.Fatal(r.failed)
	}
}

func (r *reference) seq() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at.Seq
}

func (r *reference) read(ctx context.Context, store *graph.Store) (more bool) {
	if !r.began {
		r.mu.Lock()
		r.at, r.began, r.moved = store.Oldest(), true, make(chan struct{})
		r.mu.Unlock()
	}
	notices, next, err := store.ReadFrom(ctx, r.at, 1000)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return false
	}
	if reset := (*graph.ResetError)(nil); errors.As(err, &reset) && reset.Reason == "trimmed" {
		r.gaps = append(r.gaps, gap{r.at.Seq, reset.Oldest.Seq})
		notices, next, err = nil, reset.Oldest, nil
	}
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			r.failed = fmt.Errorf("reading the journal for reference: %w", err)
			close(r.moved)
		}
		return false
	}
	for i := range notices {
		n, err := asNoted(notices[i].Cursor.Seq, string(subscriptions.AppendNotice(nil, &notices[i])))
		if r.failed = err; err != nil {
			close(r.moved)
			return false
		}
		r.notes = append(r.notes, n)
	}
	r.at = next
	close(r.moved)
	r.moved = make(chan struct{})
	return true
}

// upTo returns the journal when it has been read up to seq.
func (r *reference) upTo(t testing.TB, ctx context.Context, seq uint64) []noted {
	t.Helper()
	for {
		r.mu.Lock()
		at, moved, failed := r.at.Seq, r.moved, r.failed
		r.mu.Unlock()
		if at >= seq || failed != nil {
			return r.all(t)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			t.Fatalf("the reader of reference stands at %d, want %d", at, seq)
		}
	}
}

func (r *reference) all(t testing.TB) []noted {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		t.Fatal(r.failed)
	}
	return r.notes
}

// A told is one thing that a reader was told: a notice, that it missed
// something, or where it stands.
type told struct {
	seq   uint64
	data  string // of a notice, "" of a position
	reset *resetData
}

type resetData struct {
	Kind, Reason, Oldest, Newest, Resumes, Token string
	CatchUp                                      string `json:"catch_up"`
}

// An account is all that one reader was told, in order, over all its connections.
type account struct {
	filter client.Filter
	began  bool   // whether it knows where it began
	start  uint64 // there, if began
	last   string // its last event id
	at     uint64 // of last
	list   []told
}

// note enters what a frame tells. It fails if the frame is none of ours.
func (a *account) note(f sseFrame) error {
	if !f.hasID {
		if len(f.data) > 0 {
			return fmt.Errorf("an event %q with data and no id: %s", f.event, f.data)
		}
		return nil
	}
	c, err := graph.ParseCursor(f.id)
	if err != nil {
		return err
	}
	entry := told{seq: c.Seq, data: string(f.data)}
	switch {
	case f.event == "reset":
		entry.data, entry.reset = "", new(resetData)
		if err := json.Unmarshal(f.data, entry.reset); err != nil || entry.reset.Resumes != f.id {
			return fmt.Errorf("reset with id %s: %s: %v", f.id, f.data, err)
		}
	case len(f.data) > 0 && f.event != client.KindChanged && f.event != client.KindRefresh:
		return fmt.Errorf("an event %q: %s", f.event, f.data)
	}
	a.list = append(a.list, entry)
	a.last, a.at = f.id, c.Seq
	return nil
}

// check holds an account against the journal up to end: nothing lost, nothing
// doubled, nothing out of order, and every gap told.
func (a *account) check(journal []noted, end uint64) error {
	at, i := a.start, 0
	for i < len(journal) && journal[i].seq <= at {
		i++
	}
	began := a.began
	// pass goes over the notices before seq, of which the reader heard none.
	pass := func(seq uint64, what string) error {
		for ; i < len(journal) && journal[i].seq < seq; i++ {
			if began && a.filter.Match(&journal[i].Notice) {
				return fmt.Errorf("lost %d, told %s %d after %d: %s", journal[i].seq, what, seq, at, journal[i].data)
			}
		}
		return nil
	}
	for _, e := range a.list {
		switch {
		case e.reset != nil:
			oldest, err := graph.ParseCursor(e.reset.Oldest)
			if err != nil || e.reset.Reason != "trimmed" || began && oldest.Seq <= at || e.seq < oldest.Seq {
				return fmt.Errorf("after %d a reset that was not due: %+v", at, *e.reset)
			}
			for i < len(journal) && journal[i].seq <= e.seq {
				i++
			}
		case e.seq < at || e.seq == at && e.data != "" && began:
			return fmt.Errorf("told %d after %d: %s", e.seq, at, e.data)
		case e.data == "":
			if err := pass(e.seq+1, "the position"); err != nil {
				return err
			}
		default:
			if err := pass(e.seq, "the notice"); err != nil {
				return err
			}
			if i == len(journal) || journal[i].seq != e.seq || journal[i].data != e.data || !a.filter.Match(&journal[i].Notice) {
				return fmt.Errorf("told %d, which is not in the journal, is another there, or does not pass the filter: %s", e.seq, e.data)
			}
			i++
		}
		at, began = e.seq, true
	}
	if at < end {
		return pass(end+1, "no more; the end is")
	}
	return nil
}

// sseFrame is what stands between two empty lines of an event stream.
type sseFrame struct {
	id, event string
	hasID     bool
	data      []byte
	retry     time.Duration
}

// An sseReader reads an event stream. A frame that breaks off is none.
// Source: HTML Standard, section 9.2.6 Interpreting an event stream.
type sseReader struct {
	lines *bufio.Reader
	body  io.Closer
	plain bool // it is NDJSON, of which each line is a frame
}

func newSSEReader(body io.ReadCloser) *sseReader {
	return &sseReader{lines: bufio.NewReaderSize(body, 4<<10), body: body}
}

// nextLine returns what the next line of NDJSON tells, as the event stream would
// tell it.
func (r *sseReader) nextLine() (sseFrame, error) {
	line, err := r.lines.ReadBytes('\n')
	if err != nil {
		return sseFrame{}, err
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	var l struct{ Kind, Token, Resumes string }
	if err := json.Unmarshal(line, &l); err != nil {
		return sseFrame{}, fmt.Errorf("a line that is no object: %q: %w", line, err)
	}
	switch l.Kind {
	case "retry":
		return sseFrame{}, nil
	case "position":
		return sseFrame{id: l.Token, hasID: true}, nil
	case "reset":
		return sseFrame{id: l.Resumes, hasID: true, event: l.Kind, data: line}, nil
	}
	return sseFrame{id: l.Token, hasID: true, event: l.Kind, data: line}, nil
}

// next returns the next frame that says more than a comment.
func (r *sseReader) next() (sseFrame, error) {
	if r.plain {
		return r.nextLine()
	}
	var f sseFrame
	said := false
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			return sseFrame{}, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			if said {
				return f, nil
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			continue
		case "id":
			f.id, f.hasID = value, true
		case "event":
			f.event = value
		case "data":
			f.data = append(f.data, value...)
		case "retry":
			ms, err := strconv.Atoi(value)
			if err != nil {
				return sseFrame{}, fmt.Errorf("retry: %w", err)
			}
			f.retry = time.Duration(ms) * time.Millisecond
		default:
			return sseFrame{}, fmt.Errorf("a line that is no field: %q", line)
		}
		said = true
	}
}

// An ask is a request for a stream over a connection of its own.
type ask struct {
	hub    string // host and port
	query  url.Values
	body   string // a filter, sent by POST
	lastID string
	client string // for X-Forwarded-For, "" for none
	dialer net.Dialer
	wrap   func(net.Conn) net.Conn // nil means as it is
	hold   bool                    // keep the connection also if the stream is refused
	plain  bool                    // as NDJSON
}

// A refused is an answer that does not grant what was asked for.
type refused struct {
	status     int
	retryAfter string
	body       string
}

func (e *refused) Error() string { return fmt.Sprintf("%d %s", e.status, e.body) }

// open connects. The connection ends with ctx.
func (a *ask) open(ctx context.Context) (*sseReader, error) {
	conn, err := a.dialer.DialContext(ctx, "tcp", a.hub)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	if a.wrap != nil {
		conn = a.wrap(conn)
	}
	method := "GET"
	if a.body != "" {
		method = "POST"
	}
	var head strings.Builder
	fmt.Fprintf(&head, "%s /v1/stream?%s HTTP/1.1\r\nHost: %s\r\n", method, a.query.Encode(), a.hub)
	media := "text/event-stream"
	if a.plain {
		media = typeNDJSON
		fmt.Fprintf(&head, "Accept: %s\r\n", media)
	}
	for name, value := range map[string]string{"Last-Event-ID": a.lastID, "X-Forwarded-For": a.client} {
		if value != "" {
			fmt.Fprintf(&head, "%s: %s\r\n", name, value)
		}
	}
	if a.body != "" {
		fmt.Fprintf(&head, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(a.body))
	}
	if _, err := io.WriteString(conn, head.String()+"\r\n"+a.body); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 4<<10), nil)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		if !a.hold {
			conn.Close()
		}
		return nil, &refused{resp.StatusCode, resp.Header.Get("Retry-After"), string(text)}
	}
	if got := resp.Header.Get("Content-Type"); got != media {
		conn.Close()
		return nil, fmt.Errorf("the stream is of type %q", got)
	}
	frames := newSSEReader(struct {
		io.Reader
		io.Closer
	}{resp.Body, conn})
	frames.plain = a.plain
	return frames, nil
}

// broken reports whether err is what a reader sees when its hub goes, or when
// it cut the connection itself.
func broken(err error) bool {
	var timeout net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errCut) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.As(err, &timeout) && timeout.Timeout() ||
		strings.HasSuffix(err.Error(), "unexpected EOF reading trailer") // which net/http does not export
}

// cutConn cuts itself off after so many bytes.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.Join(errCut, c.Close())
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// smallWindow is for a net.Dialer: it lets what is not read yet fill the
// connection soon. It has to be set before the connection is made, or the
// window that was offered first makes the sender wait for more than fits.
func smallWindow(bytes int) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, bytes)
		}); e != nil {
			return e
		}
		return err
	}
}

// pass waits for d, and less if one of the channels ends first.
func pass(d time.Duration, sooner ...<-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	sooner = append(sooner, nil, nil)
	select {
	case <-t.C:
	case <-sooner[0]:
	case <-sooner[1]:
	}
}

// errCut is what a reader sees of a connection that it cut on purpose.
var errCut = errors.New("cut on purpose")

func TestAnAccountThatIsNotExactIsFound(t *testing.T) {
	var journal []noted
	for seq := uint64(1); seq <= 9; seq++ {
		n := graph.Notice{Cursor: graph.Cursor{Seq: seq}, URI: "https://w.example/even"}
		if seq%2 == 1 {
			n.URI = "https://w.example/odd"
		}
		data := string(subscriptions.AppendNotice(nil, &n))
		journal = append(journal, noted{seq, data, client.Notice{URI: n.URI}})
	}
	notice := func(seq uint64) told { return told{seq: seq, data: journal[seq-1].data} }
	trimmed := func(oldest, resumes uint64) told {
		return told{seq: resumes, reset: &resetData{Reason: "trimmed", Oldest: graph.Cursor{Seq: oldest}.String()}}
	}
	for _, c := range []struct {
		name string
		list []told
		want string // part of what is found, "" for nothing
	}{
		{"all of it", []told{notice(2), notice(4), notice(6), notice(8)}, ""},
		{"positions between", []told{{seq: 1}, notice(2), {seq: 2}, {seq: 3}, notice(4), notice(6), {seq: 7}, notice(8)}, ""},
		{"a gap that was told", []told{notice(2), trimmed(5, 5), notice(6), notice(8)}, ""},
		{"a gap up to the newest", []told{notice(2), trimmed(5, 7), notice(8)}, ""},
		{"one is lost", []told{notice(2), notice(6), notice(8)}, "lost 4"},
		{"the last is lost", []told{notice(2), notice(4), notice(6)}, "lost 8"},
		{"the first is lost", []told{notice(4), notice(6), notice(8)}, "lost 2"},
		{"a position beyond one", []told{notice(2), {seq: 4}, notice(6), notice(8)}, "lost 4"},
		{"one comes twice", []told{notice(2), notice(2), notice(4), notice(6), notice(8)}, "told 2 after 2"},
		{"two change places", []told{notice(4), notice(2), notice(6), notice(8)}, "lost 2"},
		{"a position behind", []told{notice(2), notice(4), {seq: 3}, notice(6), notice(8)}, "told 3 after 4"},
		{"one of another filter", []told{notice(2), notice(3), notice(4), notice(6), notice(8)}, "told 3, which"},
		{"one with other data", []told{{seq: 2, data: "{}"}, notice(4), notice(6), notice(8)}, "told 2, which"},
		{"a reset that was not due", []told{notice(2), trimmed(2, 5), notice(6), notice(8)}, "not due"},
		{"a reset to what is gone", []told{notice(2), trimmed(5, 4), notice(6), notice(8)}, "not due"},
		{"a loss after a reset", []told{notice(2), trimmed(3, 3), notice(6), notice(8)}, "lost 4"},
	} {
		a := account{filter: client.Filter{URIs: []string{"https://w.example/even"}}, began: true, list: c.list}
		err := a.check(journal, 9)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: found %v, want %q", c.name, err, c.want)
		}
	}
}
