package delivery

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/graph"
)

// An instant outlet has something new whenever it is asked, as long as some is left,
// and is answered at once.
type instant struct {
	left *atomic.Int64
	keys bool
}

func (o *instant) Cut(_ context.Context, lane graph.Lane, after uint64, room int) (Cut, error) {
	c := Cut{Until: after}
	if lane == graph.Bulk {
		return c, nil
	}
	for range room {
		if o.left.Add(-1) < 0 {
			return c, nil
		}
		c.Until++
		p := Piece{After: c.Until - 1, Until: c.Until}
		if o.keys {
			p.Key = fmt.Sprint("https://d.example/wiki/", c.Until)
		}
		c.Pieces = append(c.Pieces, p)
	}
	c.More = true
	return c, nil
}

var nowhere, _ = http.NewRequest(http.MethodPost, "https://d.example/hook", nil)

func (o *instant) Request(context.Context, *Piece, int) (*http.Request, error) { return nowhere, nil }

func (o *instant) Judge(*Piece, Answer) Verdict { return Done }

func (o *instant) Do(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(""))}, nil
}

// BenchmarkCalls is what the engine itself costs a call, to outlets whose other side
// answers at once: 500 at 100 hosts, or one. Cursors are written to a real store, in
// memory or on disk, or to nobody.
func BenchmarkCalls(b *testing.B) {
	for _, c := range []struct {
		name    string
		outlets int
		each    Settings
	}{
		{"500 serial", 500, Settings{Serial: true}},
		{"500 of 4 at once", 500, Settings{Concurrency: 4}},
		{"one of 64 at once", 1, Settings{Concurrency: 64}},
	} {
		for _, kept := range []string{"nowhere", "in memory", "on disk"} {
			b.Run(c.name+"/"+kept, func(b *testing.B) {
				var l Ledger = forgetful{}
				switch kept {
				case "in memory":
					l = benchStore(b, "/store", vfs.NewMem())
				case "on disk":
					l = benchStore(b, b.TempDir(), nil)
				}
				benchCalls(b, l, c.outlets, c.each)
			})
		}
	}
}

// benchStore opens a store that runs until the benchmark ends.
func benchStore(b *testing.B, path string, fs vfs.FS) *graph.Store {
	s, err := graph.Open(path, graph.Options{FS: fs})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-ended
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

func benchCalls(b *testing.B, l Ledger, outlets int, each Settings) {
	zero := func() graph.Cursor { return graph.Cursor{Epoch: 1, Seq: 1 << 40} }
	e, err := New(l, Options{Head: zero, Oldest: func() graph.Cursor { return graph.Cursor{Epoch: 1} }})
	if err != nil {
		b.Fatal(err)
	}
	var left atomic.Int64
	for i := range outlets {
		o := &instant{left: &left, keys: !each.Serial}
		each.Host, each.From, each.Caller = fmt.Sprint("h", i%100), graph.Cursor{Epoch: 1, Seq: 1}, o
		if err := e.Attach(b.Context(), fmt.Sprint("o", i), o, each); err != nil {
			b.Fatal(err)
		}
	}
	left.Store(int64(b.N))
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ResetTimer()
	go func() { ended <- e.Run(ctx) }()
	for e.Stats().Sent < uint64(b.N) {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	stop()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}

// A forgetful ledger keeps nothing, so that what is measured is the engine's.
type forgetful struct{}

func (forgetful) PutRecords(context.Context, []graph.Record) error { return nil }

func (forgetful) Records(string, func(string, []byte) error) error { return nil }

// BenchmarkIdle is what an outlet costs that has nothing to do, each at a host of its
// own, and what it costs to wait for a time.
func BenchmarkIdle(b *testing.B) {
	for _, outlets := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(outlets), func(b *testing.B) { benchIdle(b, outlets) })
	}
}

func benchIdle(b *testing.B, outlets int) {
	for b.Loop() {
		e, err := New(forgetful{}, Options{Head: func() graph.Cursor { return graph.Cursor{Epoch: 1, Seq: 1} }, Oldest: func() graph.Cursor { return graph.Cursor{Epoch: 1} }})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		o := &instant{left: new(atomic.Int64)}
		names, hosts := make([]string, outlets), make([]string, outlets)
		for i := range names {
			names[i], hosts[i] = fmt.Sprintf("websub/%010d", i), fmt.Sprintf("h%010d.example", i)
		}
		before := inUse()
		for i, name := range names {
			if err := e.Attach(ctx, name, o, Settings{Serial: true, Host: hosts[i], Caller: o}); err != nil {
				b.Fatal(err)
			}
		}
		go func() { done <- e.Run(ctx) }()
		for busy := true; busy; {
			time.Sleep(10 * time.Millisecond)
			e.mu.Lock()
			busy = e.cutting.len() > 0 || e.cutters > 0
			e.mu.Unlock()
		}
		b.ReportMetric(float64(inUse()-before)/float64(outlets), "B/idle")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		runtime.KeepAlive(e)
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
