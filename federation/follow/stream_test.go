package follow_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/federation/follow"
	"github.com/freshwire/freshwire/internal/bubble"
)

func TestAStreamThatEndsInGoodOrderIsTakenUpAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, h := serve(t, turn{body: event(1) + event(2)}, turn{}, turn{body: event(3), after: hang})
		check(t, "events", read(t.Context(), follow.Options{HTTP: h}, 3), []string{"1||d1", "2||d2", "3||d3"})
		check(t, "Last-Event-ID", s.asked, []string{"", "2", "2"})
	})
}

func TestAServerThatIsAwayForADayIsNotGivenUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		turns := []turn{{body: event(1), after: hang}}
		turns[0].after = func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Second) }
		for range 6000 {
			turns = append(turns, turn{absent: true})
		}
		s, h := serve(t, append(turns, turn{status: 502}, turn{body: event(2), after: hang})...)
		check(t, "events", read(t.Context(), follow.Options{HTTP: h}, 2), []string{"1||d1", "2||d2"})
		if d := s.at[len(s.at)-1]; d < 24*time.Hour {
			t.Errorf("came back after %v, want more than a day of waits", d)
		}
	})
}

func TestAServerThatIsNotThereAtFirstIsAnError(t *testing.T) {
	for _, c := range []struct {
		name string
		turn
		want string
	}{
		{"absent", turn{absent: true}, `error: Get "http://hub.example/stream": connection refused`},
		{"overloaded", turn{status: 503}, "error: the stream is refused: 503 Service Unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				_, h := serve(t, c.turn)
				check(t, "items", read(t.Context(), follow.Options{HTTP: h}, 0), []string{c.want})

				var lost []error
				_, h = serve(t, c.turn, c.turn, turn{body: event(1), after: hang})
				o := follow.Options{HTTP: h, Insist: true, Lost: func(err error, _ time.Duration) { lost = append(lost, err) }}
				check(t, "items if it is insisted on", read(t.Context(), o, 1), []string{"1||d1"})
				if len(lost) != 2 || "error: "+lost[0].Error() != c.want {
					t.Errorf("was lost by %v, want twice %s", lost, c.want)
				}
			})
		})
	}
}

func TestARequestThatCannotBeMadeIsFinal(t *testing.T) {
	refuse := errors.New("no key to sign with")
	for name, c := range map[string]struct {
		url     string
		prepare func(*http.Request) error
		want    string
	}{
		"a bad address": {"http://[::1", nil, "missing ']' in host"},
		"no token":      {"http://hub.example/", func(*http.Request) error { return refuse }, refuse.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			items := 0
			for _, err := range follow.Stream(t.Context(), c.url, follow.Options{Prepare: c.prepare, Insist: true}) {
				if items++; err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %s", err, c.want)
				}
			}
			if items != 1 {
				t.Errorf("%d items, want one", items)
			}
		})
	}
}

func TestARefusalIsFinalAndShownWithItsResponse(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, status := range []int{204, 302, 400, 401, 403, 404, 410, 451} {
			_, h := serve(t, turn{body: event(1)},
				turn{status: status, header: map[string]string{"Content-Type": "application/problem+json"}})
			var refused *follow.Refusal
			for _, err := range follow.Stream(t.Context(), "http://hub.example/", follow.Options{HTTP: h}) {
				errors.As(err, &refused)
			}
			if refused == nil || refused.Response.StatusCode != status ||
				refused.Response.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("status %d: got %v", status, refused)
			}
		}

		const problem = `{"title":"no"}`
		_, h := serve(t, turn{status: 403, body: problem})
		for _, err := range follow.Stream(t.Context(), "http://hub.example/", follow.Options{HTTP: h}) {
			var refused *follow.Refusal
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a refusal", err)
			}
			if text, err := io.ReadAll(refused.Response.Body); string(text) != problem || err != nil {
				t.Errorf("the body is %q, %v, want %q", text, err, problem)
			}
		}
	})
}

func TestAnAnswerThatIsNoStreamIsFinal(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, h := serve(t, turn{body: event(1)}, turn{header: map[string]string{"Content-Type": "text/html"}, body: "<p>soon back"})
		check(t, "items", read(t.Context(), follow.Options{HTTP: h}, 0), []string{"1||d1", `error: "text/html" instead of text/event-stream`})
	})
}

func TestARedirectionIsFollowedByTheCallersClient(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, h := serve(t, turn{status: 307, header: map[string]string{"Location": "http://other.example/there"}},
			turn{body: event(5), after: hang})
		o := follow.Options{HTTP: h, LastEventID: "4", Header: http.Header{"Authorization": {"Bearer secret"}}}
		check(t, "events", read(t.Context(), o, 1), []string{"5||d5"})
		check(t, "Last-Event-ID", s.asked, []string{"4", "4"})
		if got := s.seen[0].Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("sent Authorization %q", got)
		}
		if got := s.seen[1].Header.Get("Authorization"); s.seen[1].URL.Path != "/there" || got != "" {
			t.Errorf("asked another host for %s with Authorization %q", s.seen[1].URL.Path, got)
		}
	})
}

func TestEachRequestIsPrepared(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, h := serve(t, turn{body: event(1)}, turn{body: event(2), after: hang})
		h.Timeout = time.Millisecond // is for answers that end
		n := 0
		o := follow.Options{HTTP: h, Header: http.Header{"User-Agent": {"x"}}, Prepare: func(r *http.Request) error {
			n++
			r.Method, r.URL.RawQuery = "QUERY", "n="+strings.Repeat("i", n)
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2
			return nil
		}}
		check(t, "events", read(t.Context(), o, 2), []string{"1||d1", "2||d2"})
		for i, want := range []string{"QUERY n=i", "QUERY n=ii"} {
			r := s.seen[i]
			if got := r.Method + " " + r.URL.RawQuery; got != want || r.ContentLength != 2 || r.UserAgent() != "x" ||
				r.Header.Get("Accept") != "text/event-stream" || r.Header.Get("Cache-Control") == "" {
				t.Errorf("request %d is %s, header %v", i, got, r.Header)
			}
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		date := time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat)
		s, h := serve(t, turn{body: event(1)},
			turn{status: 429, header: map[string]string{"Retry-After": "90"}},
			turn{status: 503, header: map[string]string{"Retry-After": date}},
			turn{status: 503, header: map[string]string{"Retry-After": "99999999"}},
			turn{status: 503, header: map[string]string{"Retry-After": "soon"}},
			turn{body: event(2), after: hang})
		check(t, "events", read(t.Context(), follow.Options{HTTP: h}, 2), []string{"1||d1", "2||d2"})
		for i, want := range [][2]time.Duration{{90 * time.Second, 180 * time.Second}, {7 * time.Minute, 20 * time.Minute},
			{time.Hour, 2 * time.Hour}, {time.Second, 31 * time.Second}} {
			if d := s.at[i+2] - s.at[i+1]; d < want[0] || d > want[1] {
				t.Errorf("wait %d was %v, want %v to %v", i, d, want[0], want[1])
			}
		}
	})
}

func TestRetryIsHonouredWithinReason(t *testing.T) {
	for text, want := range map[string][2]time.Duration{
		"5000": {5 * time.Second, 35 * time.Second}, "1": {100 * time.Millisecond, time.Second},
		"2000000000": {time.Hour, 2 * time.Hour}, "x": {time.Second, 3 * time.Second}, "-5": {time.Second, 3 * time.Second},
	} {
		t.Run(text, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s, h := serve(t, turn{body: "retry: " + text + "\n\n" + event(1)}, turn{body: event(2), after: hang})
				check(t, "events", read(t.Context(), follow.Options{HTTP: h}, 2), []string{"1||d1", "2||d2"})
				if d := s.at[1]; d < want[0] || d > want[1] {
					t.Errorf("came again after %v, want %v to %v", d, want[0], want[1])
				}
			})
		})
	}
}

// Two thirds of those who lost a server that is away for long come back in
// different seconds: with the jitter before the cap all would wait 30 s.
func TestTheWaitIsDrawnAfterTheCap(t *testing.T) {
	seconds := map[time.Duration]bool{}
	bubble.Test(t, func(t *testing.T) {
		turns := []turn{{body: event(1)}}
		for range 60 {
			turns = append(turns, turn{absent: true})
		}
		s, h := serve(t, append(turns, turn{body: event(2), after: hang})...)
		check(t, "events", read(t.Context(), follow.Options{HTTP: h}, 2), []string{"1||d1", "2||d2"})
		for i := 1; i < len(s.at); i++ {
			d := s.at[i] - s.at[i-1]
			if d < time.Second || d > 31*time.Second {
				t.Errorf("wait %d was %v, want 1 to 31 s", i, d)
			}
			if i > 10 {
				seconds[d.Truncate(time.Second)] = true
			}
		}
	})
	if len(seconds) < 15 {
		t.Errorf("50 waits fell into %d different seconds, want them spread", len(seconds))
	}
}

func TestASilentConnectionIsDead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var lost []error
		s, h := serve(t, turn{body: event(1), after: hang}, turn{body: event(2), after: hang}, turn{body: event(3), after: hang})
		o := follow.Options{HTTP: h, Lost: func(err error, _ time.Duration) { lost = append(lost, err) }}
		check(t, "events", read(t.Context(), o, 2), []string{"1||d1", "2||d2"})
		if d := s.at[1]; d < time.Minute || d > 63*time.Second {
			t.Errorf("came again after %v, want a minute and a few seconds", d)
		}
		if len(lost) != 1 || lost[0].Error() != "silent for 1m0s" {
			t.Errorf("was lost by %v, want a silence", lost)
		}
	})
}

func TestAServerThatDoesNotAnswerIsDead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, h := serve(t)
		h.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		check(t, "items", read(t.Context(), follow.Options{HTTP: h, Idle: time.Second}, 0), []string{"error: silent for 1s"})
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCommentsAreLifeAndNoEvents(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, h := serve(t, turn{body: event(1) + ":\n\n: hello\n\n\n\n", after: func(w http.ResponseWriter, r *http.Request) {
			for range 20 {
				time.Sleep(45 * time.Second)
				_, _ = io.WriteString(w, ":\n\n")
				_ = http.NewResponseController(w).Flush()
			}
			_, _ = io.WriteString(w, event(2))
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		}})
		check(t, "events", read(t.Context(), follow.Options{HTTP: h}, 2), []string{"1||d1", "2||d2"})
		check(t, "Last-Event-ID", s.asked, []string{""})
	})
}

func TestAReaderThatTakesItsTimeIsNoSilence(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, h := serve(t, turn{body: events(1, 5), after: hang})
		n := 0
		for range follow.Stream(t.Context(), "http://hub.example/", follow.Options{HTTP: h}) {
			time.Sleep(10 * time.Minute)
			if n++; n == 5 {
				break
			}
		}
		if len(s.asked) != 1 {
			t.Errorf("%d connections, want 1", len(s.asked))
		}
	})
}

// The connection breaks while the reader is at the second of three events: the
// next one asks for what comes after what was handled, and nothing comes twice.
func TestThePositionIsTheLastEventThatWasHandled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, h := serve(t, turn{body: events(1, 3), after: cut}, turn{body: event(4), after: hang})
		var course []string
		o := follow.Options{HTTP: h, Moved: func(id string) { course = append(course, "moved "+id) }}
		for e, err := range follow.Stream(t.Context(), "http://hub.example/", o) {
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			course = append(course, "handled "+e.ID)
			if e.ID == "4" {
				break
			}
		}
		check(t, "course", course, []string{"handled 1", "moved 1", "handled 2", "moved 2", "handled 3", "moved 3", "handled 4"})
		check(t, "Last-Event-ID", s.asked, []string{"", "3"})
	})
}

func TestAnIDWithoutDataMovesThePositionAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var moved []string
		s, h := serve(t, turn{body: "retry: 1000\n\nid: 7\n\n"}, turn{body: "id: 8\nevent: nothing\n\n" + event(9), after: hang})
		o := follow.Options{HTTP: h, LastEventID: "6", Moved: func(id string) { moved = append(moved, id) }}
		check(t, "events", read(t.Context(), o, 1), []string{"9||d9"})
		check(t, "Last-Event-ID", s.asked, []string{"6", "7"})
		check(t, "positions", moved, []string{"7", "8"})
	})
}

func TestAnIDThatCannotBeSentBackIsIgnored(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		bad := []string{"id: \x00\ndata: a\n\n", "id: a\x01b\n\n", "id:\ndata: b\n\n", "id\ndata: c\n\n", "id: " + strings.Repeat("x", 5000) + "\ndata: d\n\n"}
		s, h := serve(t, turn{body: event(1) + strings.Join(bad, "")}, turn{body: event(2), after: hang})
		check(t, "events", read(t.Context(), follow.Options{HTTP: h}, 6), []string{"1||d1", "1||a", "1||b", "1||c", "1||d", "2||d2"})
		check(t, "Last-Event-ID", s.asked, []string{"", "1"})
	})
}

func TestAnEventThatTheEndCutsOffIsAskedForAgain(t *testing.T) {
	whole := "id: 2\ndata: {\"whole\":true}\n\n"
	for i := 1; i < len(whole); i++ {
		for _, end := range []func(http.ResponseWriter, *http.Request){nil, cut} {
			bubble.Test(t, func(t *testing.T) {
				s, h := serve(t, turn{body: event(1) + whole[:i], after: end}, turn{body: whole, after: hang})
				check(t, "events after "+whole[:i], read(t.Context(), follow.Options{HTTP: h}, 2), []string{"1||d1", "2||{\"whole\":true}"})
				check(t, "Last-Event-ID", s.asked, []string{"", "1"})
			})
		}
	}
}

func TestAnEventOfUpToAMebibyteIsRead(t *testing.T) {
	const head = "id: 1\ndata: "
	data := strings.Repeat("x", follow.MaxEvent-len(head)-2)
	for name, c := range map[string]struct{ body, want string }{
		"in one line":        {head + data + "\n\n", "1||" + data},
		"in many":            {"id: 1\n" + strings.Repeat("data: x\n", 1000) + "\n", "1||" + strings.Repeat("x\n", 999) + "x"},
		"one byte more":      {head + data + "x\n\n", "error: " + follow.ErrTooLong.Error()},
		"without end":        {"data: " + strings.Repeat("x", 2*follow.MaxEvent), "error: " + follow.ErrTooLong.Error()},
		"lines without end":  {strings.Repeat("data: x\n", follow.MaxEvent/4), "error: " + follow.ErrTooLong.Error()},
		"between small ones": {events(2, 9) + head + data + "\n\n", "2||d2"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				_, h := serve(t, turn{body: c.body, after: hang})
				got := read(t.Context(), follow.Options{HTTP: h}, 1)
				if len(got) != 1 || got[0] != c.want {
					t.Errorf("got %.80q, want %.80q", got, c.want)
				}
			})
		})
	}
}

func TestAStreamEndsWithItsContext(t *testing.T) {
	for name, end := range map[string]turn{"while it reads": {body: event(1), after: hang}, "while it waits": {body: event(1)}} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				_, h := serve(t, end)
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				check(t, "events", read(ctx, follow.Options{HTTP: h}, 0), []string{"1||d1"})
			})
		})
	}
	t.Run("while events are ready", func(t *testing.T) {
		bubble.Test(t, func(t *testing.T) {
			_, h := serve(t, turn{body: events(1, 100), after: hang})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n := 0
			for range follow.Stream(ctx, "http://hub.example/", follow.Options{HTTP: h}) {
				n++
				cancel()
			}
			if n != 1 {
				t.Errorf("%d events, want none after the end of the context", n)
			}
		})
	})
}

// The bubble of each case ends only when no goroutine of it is left.
func TestNothingIsLeftHoweverTheLoopIsLeft(t *testing.T) {
	for name, leave := range map[string]func(){
		"by a panic":     func() { panic("the reader is broken") },
		"by ending":      runtime.Goexit,
		"by breaking it": nil,
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				_, h := serve(t, turn{body: events(1, 100), after: hang})
				done := make(chan any)
				go func() {
					defer func() { done <- recover() }()
					for range follow.Stream(t.Context(), "http://hub.example/", follow.Options{HTTP: h}) {
						if leave == nil {
							break
						}
						leave()
					}
				}()
				if got := <-done; (got != nil) != (name == "by a panic") {
					t.Errorf("the loop panicked with %v", got)
				}
			})
		})
	}
}

func TestTheReaderHearsOfConnections(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var course []string
		_, h := serve(t, turn{body: event(1)}, turn{absent: true}, turn{body: event(2), after: hang})
		o := follow.Options{HTTP: h, Opened: func() { course = append(course, "opened") }, Lost: func(err error, wait time.Duration) {
			course = append(course, "lost: "+err.Error())
			if wait < time.Second {
				t.Errorf("waits %v", wait)
			}
		}}
		read(t.Context(), o, 2)
		check(t, "course", course, []string{"opened", "lost: EOF", `lost: Get "http://hub.example/stream": connection refused`, "opened"})
	})
}

func TestAStreamCanBeIteratedTwice(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, h := serve(t, turn{body: event(1), after: hang}, turn{body: event(1), after: hang})
		stream := follow.Stream(t.Context(), "http://hub.example/", follow.Options{HTTP: h, LastEventID: "0"})
		for range 2 {
			for e := range stream {
				if e.ID != "1" {
					t.Errorf("got id %s", e.ID)
				}
				break
			}
		}
		if !slices.Equal(s.asked, []string{"0", "0"}) {
			t.Errorf("asked after %q, want to begin anew", s.asked)
		}
	})
}
