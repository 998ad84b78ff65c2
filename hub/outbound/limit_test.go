package outbound

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/bubble"
)

// foreign is a client whose server is behave at the other end of a pipe. Time is
// that of the test's bubble, so the limits are the real ones.
func foreign(t *testing.T, p Policy, behave func(net.Conn)) *Client {
	t.Helper()
	p.Purpose = "callback"
	c := New(p)
	c.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			behave(theirs)
		}()
		return ours, nil
	}
	t.Cleanup(c.Close)
	return c
}

// request takes a request off conn, so that its client may write it.
func request(conn net.Conn) {
	b := make([]byte, 4096)
	conn.Read(b)
}

// drip writes text again and again, and once in every pause.
func drip(conn net.Conn, text string, pause time.Duration) {
	for {
		if _, err := io.WriteString(conn, text); err != nil {
			return
		}
		time.Sleep(pause)
	}
}

func TestWhateverAServerDoesACallEndsInTime(t *testing.T) {
	silent := func(conn net.Conn) { request(conn); io.Copy(io.Discard, conn) }
	for _, tt := range []struct {
		what   string
		url    string
		policy Policy
		behave func(net.Conn)
		kind   Kind
		within time.Duration
	}{
		{"it never answers", "http://a.example", Policy{}, silent, TimedOut, defaultTimeout},
		{"it never answers a stream", "http://a.example", Policy{Timeout: Unlimited}, silent, TimedOut, headerTimeout},
		{"it takes no request", "http://a.example", Policy{}, func(net.Conn) { time.Sleep(2 * defaultTimeout) }, TimedOut, defaultTimeout},
		{"it says nothing of TLS", "https://a.example", Policy{Timeout: Unlimited}, silent, TimedOut, handshakeTimeout},
		{"it drips its header", "http://a.example", Policy{}, func(conn net.Conn) {
			request(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			drip(conn, "A: b\r\n", time.Second)
		}, TimedOut, defaultTimeout},
		{"it drips its body", "http://a.example", Policy{}, func(conn net.Conn) {
			request(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
			drip(conn, "x", time.Second)
		}, TimedOut, defaultTimeout},
		{"it drips interim answers", "http://a.example", Policy{}, func(conn net.Conn) {
			request(conn)
			drip(conn, "HTTP/1.1 103 Early Hints\r\n\r\n", time.Second)
		}, TimedOut, defaultTimeout},
		{"its header has no end", "http://a.example", Policy{Timeout: Unlimited}, func(conn net.Conn) {
			request(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			drip(conn, "A: b\r\n", 0)
		}, BadAnswer, 0},
		{"its header is long", "http://a.example", Policy{}, func(conn net.Conn) {
			request(conn)
			io.WriteString(conn, "HTTP/1.1 204 No Content\r\nA: "+strings.Repeat("x", maxHeader)+"\r\n\r\n")
		}, BadAnswer, 0},
		{"a line of its header has no end", "http://a.example", Policy{Timeout: Unlimited}, func(conn net.Conn) {
			request(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: ")
			drip(conn, "xxxxxxxxxxxxxxxx", 0)
		}, BadAnswer, 0},
		{"interim answers have no end", "http://a.example", Policy{Timeout: Unlimited}, func(conn net.Conn) {
			request(conn)
			drip(conn, "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n", 0)
		}, BadAnswer, 0},
		{"its trailer has no end", "http://a.example", Policy{Timeout: Unlimited}, func(conn net.Conn) {
			request(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
			drip(conn, "A: b\r\n", 0)
		}, BadAnswer, 0},
		{"its body has no end", "http://a.example", Policy{Timeout: Unlimited}, func(conn net.Conn) {
			request(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			drip(conn, "xxxxxxxxxxxxxxxx", 0)
		}, BadAnswer, 0},
	} {
		t.Run(tt.what, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := foreign(t, tt.policy, tt.behave)
				defer time.Sleep(time.Minute) // until the server has ended as well
				defer c.Close()
				began := time.Now()
				r, err := http.NewRequest(http.MethodGet, tt.url, nil)
				if err != nil {
					t.Fatal(err)
				}
				answer, err := c.Do(r)
				read := 0
				if err == nil {
					var body []byte
					body, err = io.ReadAll(answer.Body)
					read = len(body)
					answer.Body.Close()
				}
				var e *Error
				if took := time.Since(began); !errors.As(err, &e) || e.Kind != tt.kind || took != tt.within || read > defaultMaxAnswer {
					t.Errorf("%v (%v) after %s and %d bytes, want %s after %s", err, errors.Unwrap(err), took, read, tt.kind, tt.within)
				}
			})
		})
	}
}

func TestAStreamMayTakeItsTimeAndBeLong(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := foreign(t, Policy{Timeout: Unlimited, MaxAnswer: Unlimited}, func(conn net.Conn) {
			request(conn)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			drip(conn, "a line of a stream\n", time.Minute)
		})
		defer time.Sleep(2 * time.Minute) // until the server has ended as well
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://a.example", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		began := time.Now()
		if n, err := io.CopyN(io.Discard, answer.Body, 2*defaultMaxAnswer); err != nil {
			t.Errorf("after %d bytes: %v", n, err)
		}
		if time.Since(began) < time.Hour {
			t.Errorf("the test's stream took %s only", time.Since(began))
		}
		cancel()
		var e *Error
		if _, err := io.Copy(io.Discard, answer.Body); !errors.As(err, &e) || e.Kind != Cancelled {
			t.Errorf("given up: %v", err)
		}
	})
}
