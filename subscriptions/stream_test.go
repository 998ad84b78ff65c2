package subscriptions

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

// pipeListener is a listener whose connections are pipes in memory, so that a
// server runs on synctest's clock. A pipe holds nothing: who does not read
// blocks who writes.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// served is a streamer behind a real HTTP server, and a client of it.
type served struct {
	*Streamer
	client *http.Client
}

func serve(t *testing.T, j journal, o StreamOptions) *served {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	o.Portable = true // sockets wait for the system, which knows no other clock
	s := NewStreamer(j, o)
	stop := run(t, s)
	// The server's own deadlines must not end a stream.
	server := &http.Server{Handler: s, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	transport := &http.Transport{DialContext: l.dial, DisableCompression: true}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		<-done
		stop()
		time.Sleep(time.Second) // the server keeps a refused sender for half of it
	})
	return &served{s, &http.Client{Transport: transport}}
}

// run runs s until stop is called.
func run(t testing.TB, s *Streamer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// event is what a reader got: an SSE event, or an object on a line.
type event struct {
	id, kind string
	data     []byte
	at       time.Time
}

func (e event) seq(t testing.TB) uint64 {
	t.Helper()
	var n struct {
		Seq   uint64
		Token string
	}
	if err := json.Unmarshal(e.data, &n); err != nil || n.Token != e.id {
		t.Fatalf("data %s (%v), want JSON with token %s", e.data, err, e.id)
	}
	return n.Seq
}

// reader reads server-sent events as the HTML Standard says.
type reader struct {
	body     io.ReadCloser
	lines    *bufio.Scanner
	lastID   string
	retry    time.Duration
	comments []time.Time
}

func (s *served) do(t testing.TB, method, query, body string, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequest(method, "http://hub.example/v1/stream?"+query, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatalf("%s ?%s: %v", method, query, err)
	}
	return resp
}

func (s *served) open(t testing.TB, query string, header ...string) *reader {
	t.Helper()
	return newReader(t, s.do(t, "GET", query, "", header...))
}

func newReader(t testing.TB, resp *http.Response) *reader {
	t.Helper()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("got %s %s: %s", resp.Status, resp.Header.Get("Content-Type"), b)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return &reader{body: resp.Body, lines: lines}
}

// next returns the next event that a browser would dispatch, and false at the
// end of the stream.
func (r *reader) next() (event, bool) {
	e := event{kind: "message"}
	id, hasID := "", false
	for r.lines.Scan() {
		name, value, _ := strings.Cut(r.lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			if r.lines.Text() != "" {
				r.comments = append(r.comments, time.Now())
				continue
			}
			if hasID {
				r.lastID = id
			}
			if len(e.data) > 0 {
				e.id, e.at = r.lastID, time.Now()
				return e, true
			}
			e = event{kind: "message"}
		case "id":
			id, hasID = value, true
		case "event":
			e.kind = value
		case "data":
			e.data = append(e.data, value...)
		case "retry":
			ms, _ := strconv.Atoi(value)
			r.retry = time.Duration(ms) * time.Millisecond
		}
	}
	return event{}, false
}

// follow reads r in the background; stop returns all its events once it ended.
func (r *reader) follow() (stop func() []event) {
	var got []event
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e, ok := r.next(); ok; e, ok = r.next() {
			got = append(got, e)
		}
	}()
	return func() []event {
		r.body.Close()
		<-done
		return got
	}
}

func notice(uri string) graph.Notice {
	return graph.Notice{Kind: graph.KindRefresh, URI: uri, Type: "html", Reason: graph.ReasonDependency}
}

func cursorAt(j *memJournal, seq uint64) string {
	return graph.Cursor{Epoch: j.epoch, Seq: seq}.String()
}

func seqs(t testing.TB, events []event) (got []uint64) {
	for _, e := range events {
		got = append(got, e.seq(t))
	}
	return got
}

func TestAStreamBeginsNowAndSaysWhereThatIs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		j.add(notice("https://a.example/1"))
		r := serve(t, j, StreamOptions{}).open(t, "")
		stop := r.follow()
		synctest.Wait()
		if want := cursorAt(j, 1); r.lastID != want {
			t.Errorf("before the first notice the last event id is %q, want %q", r.lastID, want)
		}
		j.add(notice("https://a.example/2"), notice("https://b.example/3"))
		synctest.Wait()
		if got, want := seqs(t, stop()), []uint64{2, 3}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestAFilterComesByQueryOrAsABody(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		s := serve(t, j, StreamOptions{Schemes: []string{"cache"}})
		body := `{"host":["b.example"],"kind":["refresh"],"uri":["cache:x"]}`
		streams := map[string]*http.Response{
			"GET":   s.do(t, "GET", "host=b.example&kind=refresh&uri=cache:x", ""),
			"POST":  s.do(t, "POST", "linger=0", body, "Content-Type", "application/json; charset=utf-8"),
			"QUERY": s.do(t, "QUERY", "", body, "Content-Type", "application/json"),
		}
		stops := map[string]func() []event{}
		for method, resp := range streams {
			stops[method] = newReader(t, resp).follow()
		}
		synctest.Wait()
		changed := notice("https://b.example/3")
		changed.Kind = graph.KindChanged
		j.add(notice("https://a.example/1"), notice("https://b.example/2"), changed, notice("cache:x"))
		synctest.Wait()
		for method, stop := range stops {
			if got, want := seqs(t, stop()), []uint64{2, 4}; !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", method, got, want)
			}
		}
	})
}

func TestLinesAreForWhoAcceptsThem(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		j.add(notice("https://a.example/1"), notice("https://a.example/2"))
		resp := serve(t, j, StreamOptions{MaxAge: 50 * time.Second}).do(t, "GET", "since="+cursorAt(j, 9), "", "Accept", "application/x-ndjson")
		if got := resp.Header.Get("Content-Type"); got != "application/x-ndjson" {
			t.Errorf("got type %s", got)
		}
		synctest.Wait()
		j.add(notice("https://a.example/3"))
		body, err := io.ReadAll(resp.Body) // until it is rotated
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for line := range bytes.Lines(body) {
			var o struct{ Kind, Token string }
			if err := json.Unmarshal(line, &o); err != nil {
				t.Fatalf("line %s: %v", line, err)
			}
			kinds = append(kinds, strings.TrimSpace(o.Kind+" "+o.Token))
		}
		want := []string{"reset " + cursorAt(j, 2), "refresh " + cursorAt(j, 3), "position " + cursorAt(j, 3)}
		if len(kinds) < 4 || !slices.Equal(kinds[:3], want) || kinds[len(kinds)-1] != "retry" {
			t.Errorf("got %q, want %q … retry", kinds, want)
		}
	})
}

func TestAcceptChoosesTheFormat(t *testing.T) {
	for _, c := range []struct {
		accept []string
		want   format
	}{
		{nil, eventStream{}},
		{[]string{"*/*"}, eventStream{}},
		{[]string{"text/event-stream"}, eventStream{}},
		{[]string{"application/json"}, eventStream{}},
		{[]string{"application/x-ndjson"}, lines{}},
		{[]string{"text/html, application/x-ndjson;q=0.5"}, lines{}},
		{[]string{"text/html", "application/x-ndjson"}, lines{}},
		{[]string{"application/x-ndjson;q=0"}, eventStream{}},
		{[]string{"text/event-stream, application/x-ndjson"}, eventStream{}},
		{[]string{";;;,application/x-ndjson"}, lines{}},
	} {
		if got := negotiate(http.Header{"Accept": c.accept}); got != c.want {
			t.Errorf("Accept %q: got %T, want %T", c.accept, got, c.want)
		}
	}
}

func TestAStreamResumesStrictlyAfterThePosition(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		begun := time.Now()
		for i := range 10 {
			j.add(notice(fmt.Sprintf("https://a.example/%d", i+1)))
			time.Sleep(time.Minute)
		}
		s := serve(t, j, StreamOptions{})
		at := func(minutes int) string {
			return url.QueryEscape(begun.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339))
		}
		for _, c := range []struct {
			name, query, lastID string
			first               uint64
		}{
			{"after the last event id", "", cursorAt(j, 3), 4},
			{"after a cursor", "since=" + cursorAt(j, 3), "", 4},
			{"the last event id wins over since", "since=" + cursorAt(j, 3), cursorAt(j, 7), 8},
			{"from the first notice at a time", "since=" + at(5), "", 6},
			{"from the start of a journal that lost nothing", "since=" + at(-60), "", 1},
			{"from the very first position", "since=" + cursorAt(j, 0), "", 1},
		} {
			r := s.open(t, c.query, "Last-Event-ID", c.lastID)
			stop := r.follow()
			synctest.Wait()
			got := seqs(t, stop())
			if len(got) != int(11-c.first) || got[0] != c.first {
				t.Errorf("%s: got %v, want %d to 10", c.name, got, c.first)
			}
		}
	})
}

func TestAPositionThatCannotBeServedIsAnsweredByAReset(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		begun := time.Now()
		cursorAt := func(seq uint64) string { return graph.Cursor{Epoch: newMemJournal().epoch, Seq: seq}.String() }
		for _, c := range []struct {
			name, query, lastID, reason string
			resumes                     uint64
		}{
			{"another epoch", "", "0000abcd.7", "epoch", 10},
			{"another epoch in since", "since=0000abcd.7", "", "epoch", 10},
			{"trimmed", "", cursorAt(3), "trimmed", 10},
			{"future", "", cursorAt(11), "future", 10},
			{"no cursor at all", "", "12345", "malformed", 10},
			{"a time before all that is kept", "since=" + begun.Add(-time.Hour).UTC().Format(time.RFC3339), "", "trimmed", 4},
		} {
			j := newMemJournal()
			for i := range 10 {
				j.add(notice(fmt.Sprintf("https://a.example/%d", i+1)))
			}
			j.trim(4)
			s := serve(t, j, StreamOptions{})
			r := s.open(t, c.query, "Last-Event-ID", c.lastID)
			stop := r.follow()
			synctest.Wait()
			j.add(notice("https://a.example/11"))
			time.Sleep(tick)
			synctest.Wait()
			got := stop()
			if len(got) == 0 || got[0].kind != "reset" {
				t.Fatalf("%s: got %v, want a reset first", c.name, got)
			}
			want := fmt.Sprintf(`{"kind":"reset","reason":"%[1]s","oldest":"%[2]s","newest":"%[3]s","resumes":"%[4]s","catch_up":"%[5]s","token":"%[4]s"}`,
				c.reason, cursorAt(4), cursorAt(10), cursorAt(c.resumes), catchUp)
			if string(got[0].data) != want || got[0].id != cursorAt(c.resumes) {
				t.Errorf("%s: got %s %s, want %s", c.name, got[0].id, got[0].data, want)
			}
			if rest := seqs(t, got[1:]); len(rest) != int(11-c.resumes) || rest[0] != c.resumes+1 {
				t.Errorf("%s: after the reset got %v, want %d to 11", c.name, rest, c.resumes+1)
			}
			if got := s.Stats().Resets; got != 1 {
				t.Errorf("counted %d resets, want 1", got)
			}
		}
	})
}

func TestAReaderThatIsTrimmedAwayIsToldSo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		for i := range 5000 {
			j.add(notice(fmt.Sprintf("https://a.example/%d", i+1)))
		}
		r := serve(t, j, StreamOptions{}).open(t, "since="+cursorAt(j, 0))
		first, _ := r.next()
		synctest.Wait() // the stream is blocked by a reader that does not read on
		j.trim(4999)
		stop := r.follow()
		time.Sleep(tick)
		synctest.Wait()
		got := append([]event{first}, stop()...)
		i := slices.IndexFunc(got, func(e event) bool { return e.kind == "reset" })
		if i < 1 || i != len(got)-1 || got[i].id != cursorAt(j, 5000) {
			t.Fatalf("got a reset at %d of %d events, want it last, going on from the newest", i, len(got))
		}
		for k, seq := range seqs(t, got[:i]) {
			if seq != uint64(k+1) {
				t.Fatalf("event %d is notice %d", k, seq)
			}
		}
	})
}

func TestAnIdleStreamShowsLife(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		r := serve(t, j, StreamOptions{}).open(t, "")
		begun := time.Now()
		stop := r.follow()
		time.Sleep(10 * time.Minute)
		stop()
		last := begun
		for _, at := range append(r.comments, time.Now()) {
			if d := at.Sub(last); d > 18100*time.Millisecond {
				t.Errorf("silent for %s, want at most 18 s", d)
			}
			last = at
		}
		if n := len(r.comments); n < 32 || n > 51 {
			t.Errorf("%d heartbeats in 10 min, want one each 12 to 18 s", n)
		}
	})
}

func TestAFilteredReaderLearnsHowFarTheStreamHasCome(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		s := serve(t, j, StreamOptions{})
		r := s.open(t, "uri=https://a.example/rare")
		stop := r.follow()
		for range 600 {
			j.add(notice("https://a.example/common"))
			time.Sleep(100 * time.Millisecond)
		}
		got := stop()
		c, err := graph.ParseCursor(r.lastID)
		if err != nil || c.Seq < 600-181 || len(got) != 0 {
			t.Errorf("last event id %s (%v) and %d events, want at most 18 s behind 600 and none", r.lastID, err, len(got))
		}
		if len(r.comments) != 0 {
			t.Errorf("%d comments, want positions instead", len(r.comments))
		}
	})
}

func TestAStreamIsRotatedAndResumesWithoutLoss(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		s := serve(t, j, StreamOptions{MaxAge: time.Hour})
		stopAdding := make(chan struct{})
		defer close(stopAdding)
		go func() {
			for {
				select {
				case <-time.After(time.Second):
					j.add(notice("https://a.example/"))
				case <-stopAdding:
					return
				}
			}
		}()
		var ages []time.Duration
		lastID := cursorAt(j, 0)
		want := uint64(1)
		for range 8 {
			begun := time.Now()
			r := s.open(t, "", "Last-Event-ID", lastID)
			for e, ok := r.next(); ok; e, ok = r.next() {
				if got := e.seq(t); got != want {
					t.Fatalf("got notice %d, want %d", got, want)
				}
				want++
			}
			if r.lines.Err() != nil {
				t.Fatalf("the stream did not end cleanly: %v", r.lines.Err())
			}
			if r.retry < retryRotated/2 || r.retry > retryRotated*3/2 {
				t.Errorf("asked to come again after %s", r.retry)
			}
			ages, lastID = append(ages, time.Since(begun)), r.lastID
		}
		slices.Sort(ages)
		if ages[0] < 48*time.Minute || ages[7] > time.Hour || ages[7]-ages[0] < time.Minute {
			t.Errorf("streams ended after %v, want spread over 48 to 60 min", ages)
		}
	})
}

func TestShutdownTellsReadersWhenToComeAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		s := serve(t, j, StreamOptions{})
		readers := make([]*reader, 20)
		stops := make([]func() []event, 20)
		for i := range readers {
			readers[i] = s.open(t, "host=b.example")
			stops[i] = readers[i].follow()
		}
		j.add(notice("https://a.example/"))
		synctest.Wait()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatalf("Shutdown: %v", err)
		}
		synctest.Wait()
		waits := map[time.Duration]bool{}
		for i, r := range readers {
			stops[i]()
			if r.retry < retryShutdown/2 || r.retry > retryShutdown*3/2 || r.lastID != cursorAt(j, 1) || r.lines.Err() != nil {
				t.Errorf("reader %d: retry %s at %s (%v)", i, r.retry, r.lastID, r.lines.Err())
			}
			waits[r.retry] = true
		}
		if len(waits) < 10 {
			t.Errorf("20 readers were given %d different waits", len(waits))
		}
		resp := s.do(t, "GET", "", "")
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "5" {
			t.Errorf("a new stream got %s, want 503", resp.Status)
		}
		resp.Body.Close()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("a second Shutdown: %v", err)
		}
		if got := s.Stats(); got.Open != 0 || got.Opened != 20 || got.Refused != 1 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestShutdownDoesNotWaitLongerThanAsked(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		s := serve(t, j, StreamOptions{})
		r := s.open(t, "") // never read
		j.add(notice("https://a.example/" + strings.Repeat("x", 1000)))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
			t.Errorf("got %v, want a timeout", err)
		}
		r.body.Close()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("after the reader went: %v", err)
		}
	})
}

func TestASlowReaderDelaysNobodyAndIsLetGo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		s := serve(t, j, StreamOptions{})
		slow := s.open(t, "since="+cursorAt(j, 0)) // never read
		stops := make([]func() []event, 5)
		for i := range stops {
			stops[i] = s.open(t, "since="+cursorAt(j, 0)).follow()
		}
		var sent []time.Time
		for range 1000 {
			sent = append(sent, time.Now())
			j.add(notice("https://a.example/"))
			time.Sleep(50 * time.Millisecond)
		}
		if got := s.Stats(); got.Ended["slow"] != 1 || got.Open != 5 {
			t.Errorf("%d slow readers cut and %d streams open, want 1 and 5", got.Ended["slow"], got.Open)
		}
		for i, stop := range stops {
			got := stop()
			if len(got) != len(sent) {
				t.Fatalf("reader %d got %d notices, want %d", i, len(got), len(sent))
			}
			for k, e := range got {
				if d := e.at.Sub(sent[k]); d != 0 {
					t.Fatalf("reader %d got notice %d after %s, want at once", i, k, d)
				}
			}
		}
		slow.body.Close()
	})
}

func TestANoticeIsWrittenAtOnceWhenIdleAndGatheredUnderLoad(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			query   string
			every   time.Duration
			longest time.Duration // from a notice to its delivery
			writes  int           // at most, of 1000 notices
		}{
			{"", 100 * time.Millisecond, 0, 1000},
			{"", time.Millisecond, tick, 205},
			{"linger=2s", 10 * time.Millisecond, 2 * time.Second, 7},
			{"linger=10", 10 * time.Millisecond, 10 * time.Second, 3},
		} {
			j := newMemJournal()
			stop := serve(t, j, StreamOptions{}).open(t, c.query).follow()
			time.Sleep(11 * time.Second)
			for range 1000 {
				j.add(notice("https://a.example/"))
				time.Sleep(c.every)
			}
			time.Sleep(11 * time.Second)
			instants := map[time.Time]bool{}
			got := stop()
			for i, e := range got {
				instants[e.at] = true
				if d := e.at.Sub(j.notices[i].At); d > c.longest {
					t.Fatalf("%q: notice %d came after %s, want at most %s", c.query, i, d, c.longest)
				}
			}
			if len(got) != 1000 || len(instants) > c.writes {
				t.Errorf("%q: %d notices in %d writes, want 1000 in at most %d", c.query, len(got), len(instants), c.writes)
			}
		}
	})
}

func TestAnAddressHasABoundedNumberOfStreams(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := serve(t, newMemJournal(), StreamOptions{MaxPerAddr: 3,
			ClientAddr: func(r *http.Request) string { return r.Header.Get("X-Addr") }})
		var open []*reader
		for range 3 {
			open = append(open, s.open(t, "", "X-Addr", "a"))
		}
		resp := s.do(t, "GET", "", "", "X-Addr", "a")
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "30" ||
			resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(body), "too-many-streams") {
			t.Errorf("got %s %v: %s", resp.Status, resp.Header, body)
		}
		other := s.open(t, "", "X-Addr", "b")
		open[1].body.Close()
		synctest.Wait()
		again := s.open(t, "", "X-Addr", "a")
		for _, r := range append(open, other, again) {
			r.body.Close()
		}
		synctest.Wait()
		if len(s.Streamer.open) != 0 || s.Stats().Open != 0 {
			t.Errorf("addresses %v are still counted", s.Streamer.open)
		}
	})
}

func TestABadRequestIsRefusedBeforeTheStreamBegins(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		type refused struct {
			status int
			slug   string
		}
		s := serve(t, newMemJournal(), StreamOptions{Problem: func(w http.ResponseWriter, _ *http.Request, err error) {
			no := err.(*Refusal)
			if no.Detail == "" {
				t.Errorf("%s has no detail", no.Slug)
			}
			w.WriteHeader(no.Status)
			io.WriteString(w, no.Slug)
		}})
		for _, c := range []struct {
			method, query, body, contentType string
			want                             refused
		}{
			{"PUT", "", "", "", refused{405, "method-not-allowed"}},
			{"DELETE", "", "", "", refused{405, "method-not-allowed"}},
			{"GET", "uri=%zz", "", "", refused{400, "bad-query"}},
			{"GET", "uri=a;b", "", "", refused{400, "bad-query"}},
			{"GET", "since=1&since=2", "", "", refused{400, "bad-query"}},
			{"GET", "linger=1&linger=2", "", "", refused{400, "bad-query"}},
			{"GET", "since=yesterday", "", "", refused{400, "bad-since"}},
			{"GET", "since=2026-11-22", "", "", refused{400, "bad-since"}},
			{"GET", "linger=11s", "", "", refused{400, "bad-linger"}},
			{"GET", "linger=-1s", "", "", refused{400, "bad-linger"}},
			{"GET", "linger=99999999999999999999", "", "", refused{400, "bad-linger"}},
			{"GET", "linger=soon", "", "", refused{400, "bad-linger"}},
			{"GET", "uris=https://a.example/", "", "", refused{400, "bad-filter"}},
			{"GET", "uri=berlin", "", "", refused{400, "bad-filter"}},
			{"GET", "kind=reset", "", "", refused{400, "bad-filter"}},
			{"GET", "host=", "", "", refused{400, "bad-filter"}},
			{"POST", "uri=https://a.example/", "{}", "application/json", refused{400, "bad-filter"}},
			{"POST", "", "{}", "text/plain", refused{415, "bad-content-type"}},
			{"POST", "", "{}", "", refused{415, "bad-content-type"}},
			{"POST", "", "", "application/json", refused{400, "bad-filter"}},
			{"POST", "", "null", "application/json", refused{400, "bad-filter"}},
			{"POST", "", "[]", "application/json", refused{400, "bad-filter"}},
			{"POST", "", "{}{}", "application/json", refused{400, "bad-filter"}},
			{"POST", "", `{"uris":[]}`, "application/json", refused{400, "bad-filter"}},
			{"POST", "", `{"uri":"https://a.example/"}`, "application/json", refused{400, "bad-filter"}},
			{"POST", "", "{\"bucket\":[\"\xff\"]}", "application/json", refused{400, "bad-filter"}},
			{"QUERY", "", `{"kind":["reset"]}`, "application/json", refused{400, "bad-filter"}},
			{"POST", "", `{"bucket":["` + strings.Repeat("x", maxFilterBody) + `"]}`, "application/json", refused{413, "body-too-large"}},
		} {
			resp := s.do(t, c.method, c.query, c.body, "Content-Type", c.contentType)
			slug, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if got := (refused{resp.StatusCode, string(slug)}); got != c.want {
				t.Errorf("%s ?%s %.40s: got %v, want %v", c.method, c.query, c.body, got, c.want)
			}
		}
		if got := s.Stats(); got.Open != 0 || got.Opened != 0 {
			t.Errorf("got %+v, want no stream begun", got)
		}
	})
}

// plainWriter hides what a stream needs of the server's writer.
type plainWriter struct{ http.ResponseWriter }

func TestAServerThatCannotStreamIsFoundOutAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewStreamer(newMemJournal(), StreamOptions{})
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(plainWriter{w}, r) })}
		go server.Serve(l)
		defer server.Close()
		transport := &http.Transport{DialContext: l.dial}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("http://hub.example/v1/stream")
		if err != nil || resp.StatusCode != http.StatusInternalServerError {
			t.Fatalf("got %v %v, want 500", resp, err)
		}
		resp.Body.Close()
	})
}

func TestNothingIsLostOrDoubledAcrossRandomDisconnects(t *testing.T) {
	for range 4 {
		seed := rand.Uint64()
		bubble.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			j := newMemJournal()
			j.short = rand.New(rand.NewPCG(seed, 1))
			s := serve(t, j, StreamOptions{MaxAge: time.Minute})
			var wg sync.WaitGroup
			const notices = 3000
			wg.Go(func() {
				random := rand.New(rand.NewPCG(seed, 2))
				for left := notices; left > 0; {
					batch := make([]graph.Notice, min(left, 1+random.IntN(1+random.IntN(300))))
					for i := range batch {
						batch[i] = randomNotice(random)
					}
					j.add(batch...)
					left -= len(batch)
					time.Sleep(time.Duration(random.IntN(4000)) * time.Millisecond)
				}
			})
			for i := range 24 {
				reader := rand.New(rand.NewPCG(seed, uint64(3+i)))
				filter := randomFilter(random)
				wg.Go(func() {
					end := func() string { return cursorAt(j, notices) }
					got := readToTheEnd(t, s, filter.query(), graph.Cursor{Epoch: j.epoch}, end, 5*time.Second, reader)
					var want []uint64
					for _, n := range j.all() {
						if matches(filter, n) {
							want = append(want, n.Cursor.Seq)
						}
					}
					if !slices.Equal(got, want) {
						t.Errorf("seed %d, reader %d, filter %+v: got %d notices, want %d:\n%v\n%v", seed, i, filter, len(got), len(want), got, want)
					}
				})
			}
			wg.Wait()
		})
	}
}

// query asks for a filter.
func (f Filter) query() url.Values {
	return url.Values{"uri": f.URI, "prefix": f.Prefix, "host": f.Host, "type": f.Type, "bucket": f.Bucket, "kind": f.Kind, "lane": f.Lane}
}

// readToTheEnd follows what a query asks for from a position over many connections, most of
// them broken after a random number of bytes and a pause after each, until it
// has come to the end.
func readToTheEnd(t *testing.T, s *served, query url.Values, from graph.Cursor, end func() string, pause time.Duration, random *rand.Rand) (got []uint64) {
	if random.IntN(2) == 0 {
		query.Set("linger", (pause * time.Duration(random.IntN(100)) / 100).String())
	}
	for lastID := from.String(); lastID != end(); {
		resp := s.do(t, "GET", query.Encode(), "", "Last-Event-ID", lastID)
		if random.IntN(8) > 0 {
			resp.Body = limited{io.LimitReader(resp.Body, int64(random.IntN(1<<(8+random.IntN(10))))), resp.Body}
		}
		r := newReader(t, resp)
		r.lastID = lastID
		for e, ok := r.next(); ok; e, ok = r.next() {
			if e.kind == "reset" {
				t.Errorf("got a reset: %s", e.data)
			}
			got = append(got, e.seq(t))
		}
		r.body.Close()
		lastID = r.lastID
		time.Sleep(time.Duration(random.Int64N(int64(pause))))
	}
	return got
}

type limited struct {
	io.Reader
	io.Closer
}

func pick(random *rand.Rand, values []string) []string {
	if random.IntN(3) > 0 {
		return nil
	}
	return []string{values[random.IntN(len(values))]}
}

func randomFilter(random *rand.Rand) Filter {
	return Filter{Prefix: pick(random, somePrefixes), Host: pick(random, someHosts), Type: pick(random, someTypes),
		Bucket: pick(random, someBuckets), Kind: pick(random, []string{"changed", "refresh"})}
}

func randomNotice(random *rand.Rand) graph.Notice {
	return graph.Notice{Kind: graph.Kind(random.IntN(2)), URI: "https://" + someHosts[random.IntN(3)] + somePaths[random.IntN(len(somePaths))],
		Type: someTypes[random.IntN(3)], Buckets: pick(random, someBuckets), Lane: graph.Lane(random.IntN(2))}
}
