package subscriptions

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// arrivals counts the notices that readers got.
type arrivals struct {
	mu    sync.Mutex
	moved sync.Cond
	n     int
}

func (a *arrivals) add(n int) {
	a.mu.Lock()
	a.n += n
	a.mu.Unlock()
	a.moved.Broadcast()
}

func (a *arrivals) wait(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.n < n {
		a.moved.Wait()
	}
}

// consume counts the events of an SSE stream until it ends.
func consume(body io.Reader, a *arrivals) {
	buf := make([]byte, 64<<10)
	mark := []byte("\ndata: ")
	kept := 0 // bytes of the last read that may begin a mark
	for {
		n, err := body.Read(buf[kept:])
		if err != nil {
			return
		}
		all := buf[:kept+n]
		a.add(bytes.Count(all, mark))
		kept = copy(buf, all[max(0, len(all)-len(mark)+1):])
	}
}

// BenchmarkStream delivers bursts of 1,000 notices over loopback TCP to readers
// in the same process, who take part of the time.
func BenchmarkStream(b *testing.B) {
	const burst = 1000
	for _, readers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			j := newMemJournal()
			s := NewStreamer(j, StreamOptions{MaxPerAddr: readers})
			defer run(b, s)()
			server := httptest.NewServer(s)
			defer server.Close()
			defer s.Shutdown(b.Context())
			var got arrivals
			got.moved.L = &got.mu
			for range readers {
				resp, err := http.Get(server.URL)
				if err != nil {
					b.Fatal(err)
				}
				defer resp.Body.Close()
				go consume(resp.Body, &got)
			}
			sent := 0
			for b.Loop() {
				for range burst {
					j.add(notice("https://en.example.org/wiki/Berlin#html/canonical"))
				}
				sent += burst
				got.wait(sent * readers)
			}
			b.ReportMetric(float64(sent*readers)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// BenchmarkResume reads a journal of a million notices from its start.
func BenchmarkResume(b *testing.B) {
	const kept = 1_000_000
	j := newMemJournal()
	ns := make([]graph.Notice, kept)
	for i := range ns {
		ns[i] = notice("https://en.example.org/wiki/Berlin#html/canonical")
	}
	j.add(ns...)
	for _, filter := range []string{"", "&uri=https://en.example.org/rare", "&host=rare.example.org&prefix=https://en.example.org/rare"} {
		b.Run("filter="+filter, func(b *testing.B) {
			j.notices[kept-1].URI = "https://en.example.org/rare"
			s := NewStreamer(j, StreamOptions{})
			defer run(b, s)()
			server := httptest.NewServer(s)
			defer server.Close()
			for b.Loop() {
				resp, err := http.Get(server.URL + "?since=" + cursorAt(j, 0) + filter)
				if err != nil {
					b.Fatal(err)
				}
				var got arrivals
				got.moved.L = &got.mu
				go consume(resp.Body, &got)
				want := kept
				if filter != "" {
					want = 1
				}
				got.wait(want)
				resp.Body.Close()
			}
			b.ReportMetric(float64(b.N)*kept/b.Elapsed().Seconds(), "notices/s")
		})
	}
}

// BenchmarkResumeFromStore reads 100,000 edits, each a chunk of its own, back
// from a store whose tail in memory holds the last few of them.
func BenchmarkResumeFromStore(b *testing.B) {
	const kept, batch = 100_000, 1000
	store := openStore(b, time.Now)
	for i := 0; i < kept; i += batch {
		updates := make([]graph.Update, batch)
		for k := range updates {
			updates[k] = graph.Update{URI: fmt.Sprintf("https://en.example.org/wiki/P%d", i+k), Type: "page", Version: "1000"}
		}
		if _, err := store.Apply(b.Context(), "bench", updates); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct {
		viewer string
		v      Viewer
		want   int
	}{{"all", Viewer{All: true}, kept}, {"tenant", Viewer{Prefixes: []string{fmt.Sprintf("https://en.example.org/wiki/P%d", kept-1)}}, 1}} {
		b.Run("viewer="+c.viewer, func(b *testing.B) {
			s := NewStreamer(store, StreamOptions{Viewer: func(*http.Request) (Viewer, error) { return c.v, nil }})
			defer run(b, s)()
			server := httptest.NewServer(s)
			defer server.Close()
			for b.Loop() {
				resp, err := http.Get(server.URL + "?since=" + store.Oldest().String())
				if err != nil {
					b.Fatal(err)
				}
				var got arrivals
				got.moved.L = &got.mu
				go consume(resp.Body, &got)
				got.wait(c.want)
				resp.Body.Close()
			}
			b.ReportMetric(float64(b.N)*kept/b.Elapsed().Seconds(), "notices/s")
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	n := notice("https://en.example.org/wiki/Berlin#html/canonical")
	for _, c := range []struct {
		name   string
		filter Filter
	}{
		{"filter=everything", Filter{}},
		{"filter=uri", Filter{URI: []string{"https://en.example.org/wiki/Hamburg"}}},
		{"filter=host", Filter{Host: []string{"de.example.org"}}},
		{"filter=prefix", Filter{Prefix: []string{"https://en.example.org/wiki/Hamburg"}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			m, err := Compile(c.filter)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				m.Match(&n)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "notices/s")
		})
	}
}
