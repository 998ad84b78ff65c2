package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/internal/bubble"
)

// A connection is what a hub does with one request for a stream.
type connection struct {
	refuse error // the connection cannot be made
	status int   // 0 means 200
	header map[string]string
	body   string
	hang   bool // after the body nothing comes, and the stream stays open
}

// A scriptedHub answers each request for a stream with the next connection.
type scriptedHub struct {
	t           *testing.T
	connections []connection
	asked       []string // "query | Last-Event-ID" of each request
	at          []time.Duration
	began       time.Time
}

func (h *scriptedHub) RoundTrip(r *http.Request) (*http.Response, error) {
	if h.began.IsZero() {
		h.began = time.Now()
	}
	h.asked = append(h.asked, r.URL.RawQuery+" | "+r.Header.Get("Last-Event-ID"))
	h.at = append(h.at, time.Since(h.began))
	if len(h.connections) == 0 {
		h.t.Errorf("connection %d was not expected", len(h.asked))
		return nil, errors.New("nothing left in the script")
	}
	c := h.connections[0]
	h.connections = h.connections[1:]
	if c.refuse != nil {
		return nil, c.refuse
	}
	body := io.Reader(strings.NewReader(c.body))
	if c.hang {
		body = io.MultiReader(body, silence{r.Context()})
	}
	header := http.Header{"Content-Type": {"text/event-stream"}}
	for k, v := range c.header {
		header.Set(k, v)
	}
	return &http.Response{StatusCode: max(c.status, 200), Header: header, Body: io.NopCloser(body)}, nil
}

// A silence says nothing until its request is given up.
type silence struct{ ctx context.Context }

func (s silence) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// follow reads up to n items of a stream and returns a line for each.
func follow(t *testing.T, h *scriptedHub, o client.StreamOptions, n int) []string {
	t.Helper()
	h.t = t
	c, err := client.New("http://hub.example", client.Options{HTTP: &http.Client{Transport: h}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	var got []string
	for notice, err := range c.Stream(ctx, o) {
		if err != nil {
			got = append(got, "error: "+err.Error())
		} else {
			got = append(got, notice.Kind+" "+notice.URI+" "+notice.Token)
		}
		if len(got) == n {
			break
		}
	}
	return got
}

func frame(seq int, kind, uri string) string {
	return fmt.Sprintf("id: e.%d\nevent: %s\ndata: {\"seq\":%d,\"kind\":%q,\"uri\":%q,\"token\":\"e.%d\"}\n\n", seq, kind, seq, kind, uri, seq)
}

func check(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestAStreamResumesAfterTheLastNotice(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{connections: []connection{
			{body: "retry: 2000\n\n" + frame(1, "changed", "a") + ":\n\n" + frame(2, "refresh", "b")},
			{refuse: errors.New("connection refused")},
			{status: 503},
			{body: frame(3, "refresh", "c"), hang: true},
		}}
		got := follow(t, h, client.StreamOptions{}, 3)
		check(t, "notices", got, []string{"changed a e.1", "refresh b e.2", "refresh c e.3"})
		check(t, "requests", h.asked, []string{" | ", " | e.2", " | e.2", " | e.2"})
		if h.at[1] < 2*time.Second {
			t.Errorf("came again after %v, but the hub asked for 2 s", h.at[1])
		}
	})
}

func TestAPositionWithoutANoticeIsResumedFrom(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{connections: []connection{
			{body: "retry: 1000\n\nid: e.7\n\n"},
			{body: frame(9, "refresh", "b"), hang: true},
		}}
		check(t, "notices", follow(t, h, client.StreamOptions{Filter: client.Filter{Types: []string{"html"}}}, 1), []string{"refresh b e.9"})
		check(t, "requests", h.asked, []string{"type=html | ", "type=html | e.7"})
	})
}

func TestANoticeCutOffInTheMiddleIsAskedForAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		cut := frame(2, "refresh", "b")
		h := &scriptedHub{connections: []connection{
			{body: frame(1, "changed", "a") + cut[:len(cut)-1]},
			{body: frame(2, "refresh", "b"), hang: true},
		}}
		check(t, "notices", follow(t, h, client.StreamOptions{}, 2), []string{"changed a e.1", "refresh b e.2"})
		check(t, "requests", h.asked, []string{" | ", " | e.1"})
	})
}

func TestASilentStreamIsTakenForDead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{connections: []connection{
			{body: frame(1, "changed", "a"), hang: true},
			{body: frame(2, "changed", "b"), hang: true},
		}}
		check(t, "notices", follow(t, h, client.StreamOptions{}, 2), []string{"changed a e.1", "changed b e.2"})
		if d := h.at[1]; d < time.Minute || d > 2*time.Minute {
			t.Errorf("came again after %v, want some seconds more than a minute of silence", d)
		}
	})
}

func TestAResetIsShownAndEndsTheStream(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{connections: []connection{{body: "id: f.3\nevent: reset\ndata: " +
			`{"kind":"reset","reason":"epoch","oldest":"f.1","newest":"f.3"}` + "\n\n" + frame(4, "changed", "a"), hang: true}}}
		got := follow(t, h, client.StreamOptions{After: "e.9"}, 0)
		check(t, "items", got, []string{"error: the hub cannot resume there: epoch; its journal holds f.1 to f.3"})
		check(t, "requests", h.asked, []string{" | e.9"})
	})
}

func TestAStreamThatCannotBeginSaysSo(t *testing.T) {
	for _, c := range []struct {
		name string
		connection
		want string
	}{
		{"no hub there", connection{refuse: errors.New("connection refused")},
			`error: Get "http://hub.example/v1/stream": connection refused`},
		{"refused", connection{status: 403}, "error: Forbidden"},
		{"too many streams", connection{status: 429}, "error: Too Many Requests"},
		{"another server", connection{header: map[string]string{"Content-Type": "text/html"}},
			`error: the answer does not come from a freshwire hub: "text/html" instead of text/event-stream`},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				h := &scriptedHub{connections: []connection{c.connection}}
				check(t, "items", follow(t, h, client.StreamOptions{}, 0), []string{c.want})
			})
		})
	}
}

func TestALaterRefusalEndsTheStream(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{connections: []connection{{body: frame(1, "changed", "a")}, {status: 401}}}
		check(t, "items", follow(t, h, client.StreamOptions{}, 0), []string{"changed a e.1", "error: Unauthorized"})
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{connections: []connection{
			{body: frame(1, "changed", "a")},
			{status: 429, header: map[string]string{"Retry-After": "90"}},
			{body: frame(2, "changed", "b"), hang: true},
		}}
		check(t, "notices", follow(t, h, client.StreamOptions{}, 2), []string{"changed a e.1", "changed b e.2"})
		if d := h.at[2] - h.at[1]; d < 90*time.Second || d > 180*time.Second {
			t.Errorf("came again after %v, want 90 to 180 s", d)
		}
	})
}

func TestAHubThatIsAwayIsAskedLessAndLessOften(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{connections: []connection{{body: frame(1, "changed", "a")}}}
		for range 20 {
			h.connections = append(h.connections, connection{refuse: errors.New("connection refused")})
		}
		h.connections = append(h.connections, connection{body: frame(2, "changed", "b"), hang: true})
		check(t, "notices", follow(t, h, client.StreamOptions{}, 2), []string{"changed a e.1", "changed b e.2"})
		for i := 1; i < len(h.at); i++ {
			if d := h.at[i] - h.at[i-1]; d < time.Second || d > 31*time.Second {
				t.Errorf("wait %d was %v, want 1 to 31 s", i, d)
			}
		}
	})
}

func TestAStreamEndsWhereItWasToldTo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		o := client.StreamOptions{Filter: client.Filter{Kinds: []string{"refresh"}}, Since: time.Unix(0, 0), Until: "e.3"}
		h := &scriptedHub{connections: []connection{{body: frame(1, "changed", "a") + frame(2, "refresh", "b") +
			frame(3, "changed", "c") + frame(4, "refresh", "d"), hang: true}}}
		check(t, "notices", follow(t, h, o, 0), []string{"refresh b e.2"})
		check(t, "requests", h.asked, []string{"since=1970-01-01T00%3A00%3A00Z | "})

		empty := &scriptedHub{connections: []connection{{body: "retry: 1000\n\nid: e.3\n\n", hang: true}}}
		check(t, "notices of an empty journal", follow(t, empty, o, 0), nil)
	})
}

func TestAnEventWithoutEndIsNotFromAHub(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{t: t, connections: []connection{{body: frame(1, "changed", "a") + "data: " + strings.Repeat("x", 2<<20)}}}
		c, err := client.New("http://hub.example", client.Options{HTTP: &http.Client{Transport: h}})
		if err != nil {
			t.Fatal(err)
		}
		for _, err = range c.Stream(t.Context(), client.StreamOptions{}) {
		}
		if !errors.Is(err, client.ErrNotHub) {
			t.Errorf("got %v, want ErrNotHub: asking again would bring the same event", err)
		}
	})
}

func TestAChannelIsAskedForByName(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		o := client.StreamOptions{Channel: "cdn", Filter: client.Filter{Types: []string{"html"}}}
		refused := &scriptedHub{connections: []connection{{status: 400}}}
		check(t, "items", follow(t, refused, o, 0), []string{"error: Bad Request"})
		check(t, "requests", refused.asked, []string{"channel=cdn&type=html | "})

		h := &scriptedHub{connections: []connection{{body: frame(7, "changed", "a"), hang: true}}}
		check(t, "notices", follow(t, h, client.StreamOptions{Channel: "cdn", Since: time.Unix(0, 0)}, 1), []string{"changed a e.7"})
		check(t, "requests", h.asked, []string{"channel=cdn&since=1970-01-01T00%3A00%3A00Z | "})
	})
}

// The hub does not tell of notices that are not of the channel, and one of them
// may be where to end.
func TestAChannelEndsWhereItWasToldToOrAfter(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		o := client.StreamOptions{Channel: "cdn", Until: "e.10"}
		for name, end := range map[string]string{"at a position": "id: e.10\n\n", "after it": "id: e.11\n\n",
			"at a notice after it": frame(12, "changed", "b")} {
			h := &scriptedHub{connections: []connection{{body: frame(9, "changed", "a") + end, hang: true}}}
			check(t, "notices, ended "+name, follow(t, h, o, 0), []string{"changed a e.9"})
		}
		h := &scriptedHub{connections: []connection{{body: "id: f.11\n\n" + frame(9, "changed", "a") + "id: e.10\n\n", hang: true}}}
		check(t, "notices after a position of another journal", follow(t, h, o, 0), []string{"changed a e.9"})
	})
}

func TestNothingIsAskedForWhereNothingIsWanted(t *testing.T) {
	check(t, "items", follow(t, &scriptedHub{}, client.StreamOptions{After: "e.3", Until: "e.3"}, 0), nil)
}

func TestTheCallerHearsOfEachPositionAfterItsNotice(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{t: t, connections: []connection{{body: "id: e.1\n\n" + frame(2, "changed", "a") + "id: e.4\n\n" + frame(5, "changed", "b"), hang: true}}}
		c, err := client.New("http://hub.example", client.Options{HTTP: &http.Client{Transport: h}})
		if err != nil {
			t.Fatal(err)
		}
		var course []string
		o := client.StreamOptions{Until: "e.5", Moved: func(cursor string) { course = append(course, "moved "+cursor) }}
		for n := range c.Stream(t.Context(), o) {
			course = append(course, n.URI)
		}
		check(t, "course", course, []string{"moved e.1", "a", "moved e.2", "moved e.4", "b", "moved e.5"})
	})
}

func TestAStreamCarriesWhatEachRequestDoes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var got []http.Header
		h := &scriptedHub{t: t, connections: []connection{{body: frame(1, "changed", "a")}, {body: frame(2, "changed", "b"), hang: true}}}
		watched := roundTrip(func(r *http.Request) (*http.Response, error) {
			got = append(got, r.Header)
			return h.RoundTrip(r)
		})
		tokens := []string{"old", "new"}
		c, err := client.New("http://hub.example", client.Options{HTTP: &http.Client{Transport: watched}, Agent: "test",
			Token: func() (string, error) { return tokens[len(got)], nil }})
		if err != nil {
			t.Fatal(err)
		}
		for range c.Stream(t.Context(), client.StreamOptions{Until: "e.2"}) {
		}
		for i, token := range tokens {
			for name, want := range map[string]string{"Authorization": "Bearer " + token, "User-Agent": "test", "Accept": "text/event-stream"} {
				if i >= len(got) || got[i].Get(name) != want {
					t.Errorf("connection %d: %s is not %q", i, name, want)
				}
			}
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAStreamEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{t: t, connections: []connection{{body: frame(1, "changed", "a"), hang: true}}}
		c, err := client.New("http://hub.example", client.Options{HTTP: &http.Client{Transport: h}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		items := 0
		for _, err := range c.Stream(ctx, client.StreamOptions{}) {
			if err != nil {
				t.Errorf("got error %v, want a quiet end", err)
			}
			items++
			cancel()
		}
		if items != 1 {
			t.Errorf("got %d items, want 1", items)
		}
	})
}

func TestAReaderMayTakeItsTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := &scriptedHub{t: t, connections: []connection{{body: frame(1, "changed", "a") + frame(2, "changed", "b"), hang: true}}}
		c, err := client.New("http://hub.example", client.Options{HTTP: &http.Client{Transport: h}})
		if err != nil {
			t.Fatal(err)
		}
		items := 0
		for range c.Stream(t.Context(), client.StreamOptions{}) {
			time.Sleep(10 * time.Minute) // of the bubble's clock
			if items++; items == 2 {
				break
			}
		}
		if len(h.asked) != 1 {
			t.Errorf("%d connections, want 1: the hub was not silent", len(h.asked))
		}
	})
}
