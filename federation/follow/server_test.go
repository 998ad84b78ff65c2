package follow_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/federation/follow"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A turn is what a server does with one connection.
type turn struct {
	absent bool // there is no server
	status int  // 0 means 200
	header map[string]string
	body   string
	after  func(w http.ResponseWriter, r *http.Request) // what follows the body
}

// hang leaves the connection open and says nothing.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// cut breaks the connection off, without the end that HTTP has for a body.
func cut(w http.ResponseWriter, _ *http.Request) {
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// A server takes one turn for each connection, over pipes, so that the clock of
// a synctest bubble can stand still between them.
type server struct {
	t     *testing.T
	turns []turn
	conns chan net.Conn
	done  chan struct{}

	mu    sync.Mutex
	asked []string        // Last-Event-ID of each request
	at    []time.Duration // when each connection was asked for
	began time.Time
	seen  []*http.Request
}

// serve runs a server until the test of a bubble ends, and returns a client
// that reaches it under any name.
func serve(t *testing.T, turns ...turn) (*server, *http.Client) {
	s := &server{t: t, turns: turns, conns: make(chan net.Conn), done: make(chan struct{}), began: time.Now()}
	h := &http.Server{Handler: s}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(s) }()
	transport := &http.Transport{DialContext: s.dial, DisableKeepAlives: true}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		h.Close()
		<-ended
	})
	return s, &http.Client{Transport: transport}
}

func (s *server) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	s.mu.Lock()
	s.at = append(s.at, time.Since(s.began))
	absent := len(s.turns) > 0 && s.turns[0].absent
	if absent {
		s.turns = s.turns[1:]
	}
	s.mu.Unlock()
	if absent {
		return nil, fmt.Errorf("connection refused")
	}
	theirs, ours := net.Pipe()
	select {
	case s.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *server) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *server) Close() error {
	close(s.done)
	return nil
}

func (s *server) Addr() net.Addr { return &net.TCPAddr{} }

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Header.Get("Last-Event-ID"))
	s.seen = append(s.seen, r)
	if len(s.turns) == 0 {
		s.mu.Unlock()
		s.t.Errorf("connection %d was not expected", len(s.asked))
		return
	}
	c := s.turns[0]
	s.turns = s.turns[1:]
	s.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body) // only then does the request notice that the reader goes
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	for name, value := range c.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(max(c.status, 200))
	_, _ = io.WriteString(w, c.body)
	_ = http.NewResponseController(w).Flush()
	if c.after != nil {
		c.after(w, r)
	}
}

// read returns up to n items of a stream, a line for each: id, name and data, or
// the error.
func read(ctx context.Context, o follow.Options, n int) []string {
	var got []string
	for e, err := range follow.Stream(ctx, "http://hub.example/stream", o) {
		if err != nil {
			got = append(got, "error: "+err.Error())
		} else {
			got = append(got, e.ID+"|"+e.Name+"|"+string(e.Data))
		}
		if len(got) == n {
			break
		}
	}
	return got
}

func check(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n  %q\nwant\n  %q", what, got, want)
	}
}

// event is a frame with an id and data.
func event(id int) string { return fmt.Sprintf("id: %d\ndata: d%d\n\n", id, id) }

// events are the frames from one id to another.
func events(from, to int) string {
	var b strings.Builder
	for id := from; id <= to; id++ {
		b.WriteString(event(id))
	}
	return b.String()
}
