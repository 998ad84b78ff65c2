package digest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// largeHour are the notices of the largest hour that is designed for; LARGE_HOUR=n has
// another number.
const largeHour = 2_000_000

// A madeUpJournal has an hour of notices that are made as they are read.
type madeUpJournal struct {
	n     uint64
	start time.Time
}

func (j *madeUpJournal) Since(t time.Time) (graph.Cursor, error) {
	if t.After(j.start) {
		return j.Token(), nil
	}
	return j.Oldest(), nil
}
func (j *madeUpJournal) Oldest() graph.Cursor { return graph.Cursor{Epoch: 1} }
func (j *madeUpJournal) Token() graph.Cursor  { return graph.Cursor{Epoch: 1, Seq: j.n} }
func (j *madeUpJournal) Room() error          { return nil }

// read makes renderings of pages that a few templates reach, in the order of a fan-out:
// by id, and so in no order of their URIs.
func (j *madeUpJournal) read(after graph.Cursor, limit int) (ns []graph.Notice, next graph.Cursor, err error) {
	next = graph.Cursor{Epoch: 1, Seq: min(after.Seq+uint64(limit), j.n)}
	ns = make([]graph.Notice, 0, limit)
	for seq := after.Seq + 1; seq <= next.Seq; seq++ {
		page := seq * 0x9e3779b97f4a7c15 >> 20
		ns = append(ns, graph.Notice{Cursor: graph.Cursor{Epoch: 1, Seq: seq}, Kind: graph.KindRefresh, Type: "html",
			URI:    "https://en.example.org/wiki/Article_about_" + strconv.FormatUint(page, 36) + "#html/canonical",
			Reason: graph.ReasonDependency, At: j.start.Add(time.Duration(seq) * time.Millisecond),
			Cause: graph.Cause{URI: "https://en.example.org/wiki/Template:Infobox_" + strconv.FormatUint(seq>>16, 10), At: j.start}})
	}
	return ns, next, nil
}

// BenchmarkHour builds one hour, from the journal to state.json, with all its views and
// codings.
func BenchmarkHour(b *testing.B) {
	large := largeHour
	if n, err := strconv.Atoi(os.Getenv("LARGE_HOUR")); err == nil {
		large = n
	}
	for _, n := range []int{10_000, large} {
		b.Run(fmt.Sprintf("notices=%d", n), func(b *testing.B) {
			var m *Manifest
			peak := watchMemory(b)
			for b.Loop() {
				m = buildHour(b, n)
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
			b.ReportMetric(float64(peak()>>20), "MiB-peak")
			for _, role := range []string{RoleNDJSON, RoleAtom, RoleJSONFeed, RoleChangeList} {
				var plain, zst, gz int64
				for _, f := range m.Files {
					if f.Role == role {
						plain += f.Size
						gz += f.Codings[0].Size
						zst += f.Codings[1].Size
					}
				}
				b.Logf("%s: %.1f MB, gzip %.1f MB, zstd %.1f MB", role, float64(plain)/1e6, float64(gz)/1e6, float64(zst)/1e6)
			}
		})
	}
}

func buildHour(b *testing.B, n int) *Manifest {
	b.Helper()
	start := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	now := start
	j := &madeUpJournal{uint64(n), start}
	dir := b.TempDir()
	a, err := Open(Options{Dir: filepath.Join(dir, "digest"), Keys: filepath.Join(dir, "keys"), Clock: func() time.Time { return now }, Journal: j,
		Base: "https://hub.example/digest", Hub: "https://hub.example/websub"})
	if err != nil {
		b.Fatal(err)
	}
	ch := &Channel{Name: "all", Read: j.read, Head: j.Token, Public: func(uint64, uint64) bool { return true }}
	s := a.newSeries("all")
	if _, err := s.step(context.Background(), ch); err != nil {
		b.Fatal(err)
	}
	now = start.Add(time.Hour + Grace)
	if _, err := s.step(context.Background(), ch); err != nil {
		b.Fatal(err)
	}
	h := s.now()
	if h == nil || h.hours[0].Notices != uint64(n) {
		b.Fatal("the hour did not close")
	}
	m, err := a.manifest(s.dir, h.hours[0].folder)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// watchMemory returns what the heap had at most since, beyond what it had before.
func watchMemory(b *testing.B) func() uint64 {
	b.Helper()
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	runtime.GC()
	metrics.Read(heap)
	before, peak := heap[0].Value.Uint64(), uint64(0)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				metrics.Read(heap)
				peak = max(peak, heap[0].Value.Uint64())
			}
		}
	})
	return func() uint64 {
		close(stop)
		done.Wait()
		return peak - min(peak, before)
	}
}
