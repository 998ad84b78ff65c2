package subscriptions

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/internal/bubble"
)

func TestAStreamEndsWithTheRightOfItsCallerAndSaysWhy(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		j := newMemJournal()
		begun := time.Now()
		s := serve(t, j, StreamOptions{Viewer: func(r *http.Request) (Viewer, error) {
			v := Viewer{All: true}
			if r.Header.Get("X-Until") != "" {
				v.Expires = begun.Add(7 * time.Minute)
			}
			return v, nil
		}})
		body, err := io.ReadAll(s.do(t, "GET", "", "", "X-Until", "soon").Body)
		if err != nil || !strings.Contains(string(body), ": expired\nretry: ") {
			t.Errorf("got %q %v, want a leave because the right ended", body, err)
		}
		if took := time.Since(begun); took != 7*time.Minute {
			t.Errorf("the stream ended after %s, want 7 min", took)
		}
		if _, err := io.ReadAll(s.do(t, "GET", "", "").Body); err != nil || time.Since(begun) < 50*time.Minute {
			t.Errorf("with a right without end the stream ended after %s (%v)", time.Since(begun), err)
		}
		if got := s.Stats().Ended; got["expired"] != 1 || got["rotated"] != 1 {
			t.Errorf("streams ended %v", got)
		}
	})
}

func TestAllStreamsTogetherAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := serve(t, newMemJournal(), StreamOptions{MaxStreams: 2})
		first, second := s.open(t, ""), s.open(t, "")
		resp := s.do(t, "GET", "", "")
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "30" || !resp.Close ||
			!strings.Contains(string(body), "no-room") {
			t.Errorf("got %s %v: %s", resp.Status, resp.Header, body)
		}
		first.body.Close()
		synctest.Wait()
		s.open(t, "").body.Close()
		second.body.Close()
	})
}

func TestAStreamOverTLSAndHTTP2IsServedAndResumes(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		j := newMemJournal()
		j.add(notice("https://a.example/1"), notice("https://a.example/2"), notice("https://a.example/3"))
		s := NewStreamer(j, StreamOptions{})
		stop := run(t, s)
		server := httptest.NewUnstartedServer(s)
		server.EnableHTTP2 = http2
		server.StartTLS()
		req, err := http.NewRequest("GET", server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Last-Event-ID", cursorAt(j, 1))
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.ProtoAtLeast(2, 0) != http2 {
			t.Errorf("served by %s", resp.Proto)
		}
		r := newReader(t, resp)
		replayed, _ := r.next()
		more, _ := r.next()
		j.add(notice("https://a.example/live"))
		live, _ := r.next()
		if got, want := seqs(t, []event{replayed, more, live}), []uint64{2, 3, 4}; !slices.Equal(got, want) {
			t.Errorf("HTTP/2 %t: got %v, want %v", http2, got, want)
		}
		r.body.Close()
		server.CloseClientConnections()
		server.Close()
		stop()
	}
}
