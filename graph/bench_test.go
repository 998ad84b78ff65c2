package graph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// benchStore is a store on the real disk with its loop running.
func benchStore(b *testing.B, o Options) *Store {
	b.Helper()
	s, err := Open(b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// wikiShape is a wiki-shaped graph: pages made from about ten templates, modules,
// files and links each, a few of them shared by a tenth to a third of all pages.
type wikiShape struct {
	pages int
	rnd   *rand.Rand
}

func (w *wikiShape) page(i int) string {
	return fmt.Sprintf("https://en.wiki.example/wiki/Page_%07d#html", i)
}

func (w *wikiShape) dep(rnd *rand.Rand) string {
	switch k := rnd.IntN(10); {
	case k < 2:
		return fmt.Sprintf("https://en.wiki.example/wiki/Template:Common_%d", rnd.IntN(5))
	case k < 5:
		return fmt.Sprintf("https://en.wiki.example/wiki/Template:T_%05d", int(rnd.ExpFloat64()*float64(w.pages)/100))
	}
	return fmt.Sprintf("https://en.wiki.example/wiki/Page_%07d#exists", rnd.IntN(w.pages*2))
}

func (w *wikiShape) deps(rnd *rand.Rand) []Dep {
	deps := make([]Dep, 10)
	for i := range deps {
		deps[i] = Dep{URI: w.dep(rnd), Seen: "0"}
	}
	return deps
}

// fill loads the pages in batches and returns the dependencies each has.
func (w *wikiShape) fill(b *testing.B, s *Store) [][]Dep {
	b.Helper()
	all := make([][]Dep, w.pages)
	for i := 0; i < w.pages; i += 1000 {
		var us []Update
		for k := i; k < min(i+1000, w.pages); k++ {
			all[k] = w.deps(w.rnd)
			us = append(us, Update{URI: w.page(k), Type: "html", Hash: "h", Deps: all[k], Buckets: []string{}})
		}
		if _, err := s.Apply(context.Background(), LocalPublisher, us); err != nil {
			b.Fatal(err)
		}
	}
	return all
}

// fsyncRate measures the disk in the same run, as the floor to compare with.
func fsyncRate(b *testing.B) float64 {
	b.Helper()
	f, err := os.CreateTemp(b.TempDir(), "fsync")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 4096)
	start, n := time.Now(), 0
	for ; time.Since(start) < time.Second; n++ {
		if _, err := f.Write(buf); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / time.Since(start).Seconds()
}

func percentile(d []time.Duration, p float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return float64(d[min(int(p*float64(len(d))), len(d)-1)]) / float64(time.Millisecond)
}

// BenchmarkUpdate is the main job: a page made again with one or two of its ten
// dependencies changed, durable when it is acknowledged.
func BenchmarkUpdate(b *testing.B) {
	const pages = 100_000
	s := benchStore(b, Options{Cache: 1 << 30})
	w := &wikiShape{pages: pages, rnd: rand.New(rand.NewPCG(1, 1))}
	all := w.fill(b, s)
	floor := fsyncRate(b)
	for _, c := range []struct{ writers, batch int }{{1, 1}, {8, 1}, {64, 1}, {256, 1}, {1, 100}, {4, 100}} {
		b.Run(fmt.Sprintf("writers=%d/batch=%d", c.writers, c.batch), func(b *testing.B) {
			var mu sync.Mutex
			var latencies []time.Duration
			share := (b.N/c.batch + c.writers) / c.writers
			b.ResetTimer()
			var wg sync.WaitGroup
			for n := range c.writers {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(n), 2))
					for range share {
						us := make([]Update, c.batch)
						for k := range us {
							i := rnd.IntN(pages/c.writers)*c.writers + n // each page has one producer
							deps := slices.Clone(all[i])
							for range 1 + rnd.IntN(2) {
								deps[rnd.IntN(len(deps))] = Dep{URI: w.dep(rnd), Seen: "0"}
							}
							all[i] = deps
							us[k] = Update{URI: w.page(i), Type: "html", Hash: fmt.Sprint(rnd.Uint32()), Deps: deps, Buckets: []string{}}
						}
						start := time.Now()
						if _, err := s.Apply(context.Background(), LocalPublisher, us); err != nil {
							b.Error(err)
							return
						}
						mu.Lock()
						latencies = append(latencies, time.Since(start))
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			updates := float64(share * c.writers * c.batch)
			b.ReportMetric(updates/b.Elapsed().Seconds(), "updates/s")
			b.ReportMetric(percentile(latencies, .5), "p50-ms")
			b.ReportMetric(percentile(latencies, .99), "p99-ms")
			b.ReportMetric(floor, "fsync/s")
		})
	}
}

// BenchmarkUnchanged repeats what the store has: a page made again with the same
// result.
func BenchmarkUnchanged(b *testing.B) {
	const pages, writers, batch = 100_000, 8, 100
	s := benchStore(b, Options{Cache: 1 << 30})
	w := &wikiShape{pages: pages, rnd: rand.New(rand.NewPCG(1, 1))}
	all := w.fill(b, s)
	share := b.N/batch/writers + 1
	b.ResetTimer()
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), 3))
			for range share {
				us := make([]Update, batch)
				for k := range us {
					i := rnd.IntN(pages)
					us[k] = Update{URI: w.page(i), Type: "html", Hash: "h", Deps: all[i], Buckets: []string{}}
				}
				if _, err := s.Apply(context.Background(), LocalPublisher, us); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(share*writers*batch)/b.Elapsed().Seconds(), "updates/s")
}

// BenchmarkFanout changes a template that a million renderings are made from,
// alone and beside 500 small updates a second.
func BenchmarkFanout(b *testing.B) {
	const dependents = 1_000_000
	const hot, cold = "https://en.wiki.example/wiki/Template:Hot", "https://en.wiki.example/wiki/Template:Cold"
	s := benchStore(b, Options{Cache: 1 << 30})
	page := func(i int) string { return fmt.Sprintf("https://en.wiki.example/wiki/Page_%07d#html", i) }
	for i := 0; i < dependents; i += 5000 {
		us := make([]Update, 5000)
		for k := range us {
			us[k] = Update{URI: page(i + k), Type: "html", Hash: "h", Deps: []Dep{{hot, "0"}}}
		}
		if _, err := s.Apply(context.Background(), LocalPublisher, us); err != nil {
			b.Fatal(err)
		}
	}
	for _, beside := range []bool{false, true} {
		b.Run(fmt.Sprintf("dependents=%d/beside=%v", dependents, beside), func(b *testing.B) {
			var idle, busy []time.Duration
			var took time.Duration
			for b.Loop() {
				b.StopTimer()
				makeAllClean(b, s, page, dependents)
				quiet := smallUpdates(s, cold, time.Second)
				idle = append(idle, <-quiet...)
				before := s.Token().Seq
				version := fmt.Sprint(before + 10)
				b.StartTimer()
				start := time.Now()
				if _, err := s.Apply(context.Background(), LocalPublisher, []Update{{URI: hot, Version: version, Hash: version}}); err != nil {
					b.Fatal(err)
				}
				stop := make(chan struct{})
				small := make(chan []time.Duration, 1)
				if beside {
					go func() { small <- smallUntil(s, cold, stop) }()
				}
				waitForJobs(b, s)
				took += time.Since(start)
				close(stop)
				if beside {
					busy = append(busy, <-small...)
				}
				if n := s.Token().Seq - before; n < dependents {
					b.Fatalf("%d notices, want at least %d", n, dependents)
				}
			}
			b.ReportMetric(float64(b.N)*dependents/took.Seconds(), "notices/s")
			b.ReportMetric(percentile(idle, .99), "idle-p99-ms")
			if beside {
				b.ReportMetric(percentile(busy, .99), "p99-ms")
			}
		})
	}
}

// BenchmarkFanoutBesideRenderings makes 10,000 of a million dependents again,
// with the new version seen, while their template's change is being told. It
// fails if one of them is told afterwards, or if the status of any is wrong at
// any moment it is asked for.
func BenchmarkFanoutBesideRenderings(b *testing.B) {
	const dependents, made = 1_000_000, 10_000
	const hot = "https://en.wiki.example/wiki/Template:Hot"
	page := func(i int) string { return fmt.Sprintf("https://en.wiki.example/wiki/Page_%07d#html", i) }
	ctx := context.Background()
	apply := func(s *Store, us ...Update) Cursor {
		res, err := s.Apply(ctx, LocalPublisher, us)
		if err != nil {
			b.Fatal(err)
		}
		return res.Cursor
	}
	for b.Loop() {
		s := benchStore(b, Options{Cache: 1 << 30})
		for i := 0; i < dependents; i += 5000 {
			us := make([]Update, 5000)
			for k := range us {
				us[k] = Update{URI: page(i + k), Type: "html", Hash: "h", Deps: []Dep{{hot, "0"}}}
			}
			apply(s, us...)
		}
		rnd := rand.New(rand.NewPCG(9, 9))
		answered := map[string]Cursor{}
		checked, during := 0, 0
		from := apply(s, Update{URI: hot, Version: "10", Hash: "10"})
		pace := func(rate int) {
			for _, j := range s.Jobs() {
				if err := s.ControlJob(ctx, j.ID, false, rate); err != nil && !errors.Is(err, ErrUnknown) {
					b.Fatal(err)
				}
			}
		}
		pace(dependents / 4) // slow enough that all of them are made while it runs
		for len(answered) < made {
			var us []Update
			for range 100 {
				us = append(us, Update{URI: page(rnd.IntN(dependents)), Type: "html", Hash: "i", Deps: []Dep{{hot, "10"}}})
			}
			c := apply(s, us...)
			if len(s.Jobs()) > 0 {
				during += len(us)
			}
			for _, u := range us {
				answered[u.URI] = c
			}
			checked += checkStatus(b, s, answered, page(rnd.IntN(dependents)), us[0].URI)
		}
		pace(0)
		waitForJobs(b, s)
		told := 0
		for c := from; c != s.Token(); {
			ns, next, err := s.ReadFrom(ctx, c, 10_000)
			if err != nil {
				b.Fatal(err)
			}
			for _, n := range ns {
				if n.Kind != KindRefresh {
					continue
				}
				told++
				if at, ok := answered[n.URI]; ok && n.Cursor.Seq > at.Seq {
					b.Fatalf("%s was made again by %s and told at %s", n.URI, at, n.Cursor)
				}
			}
			c = next
		}
		if told > dependents || told < dependents-len(answered) {
			b.Fatalf("%d were told, want between %d and %d", told, dependents-len(answered), dependents)
		}
		b.ReportMetric(float64(dependents-told), "spared")
		b.ReportMetric(float64(during), "made-during")
		b.ReportMetric(float64(checked), "statuses")
	}
}

// checkStatus asks for the state of resources and says how many it asked for.
func checkStatus(b *testing.B, s *Store, answered map[string]Cursor, uris ...string) int {
	b.Helper()
	status, err := s.Status(uris)
	if err != nil {
		b.Fatal(err)
	}
	for _, st := range status {
		if _, fresh := answered[st.URI]; st.Stale == fresh {
			b.Fatalf("%s: stale is %v, made again is %v", st.URI, st.Stale, fresh)
		}
	}
	return len(status)
}

// makeAllClean lets every rendering be made again, by what the store would do
// for their updates: writing a million of these is not what is measured.
func makeAllClean(b *testing.B, s *Store, page func(int) string, n int) {
	b.Helper()
	err := s.do(context.Background(), func(t *txn) {
		for i := range n {
			id, ok := t.find(page(i))
			if !ok {
				b.Fatalf("%s is unknown", page(i))
			}
			t.put(id, t.word(id).with(wordStale, false).withState(Clean))
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.db.Flush(); err != nil {
		b.Fatal(err)
	}
}

func waitForJobs(b *testing.B, s *Store) {
	b.Helper()
	for len(s.Jobs()) > 0 {
		time.Sleep(100 * time.Microsecond)
	}
	if err := s.do(context.Background(), func(*txn) {}); err != nil { // what was written is durable
		b.Fatal(err)
	}
}

func smallUpdates(s *Store, uri string, d time.Duration) chan []time.Duration {
	stop, out := make(chan struct{}), make(chan []time.Duration, 1)
	time.AfterFunc(d, func() { close(stop) })
	go func() { out <- smallUntil(s, uri, stop) }()
	return out
}

// smallUntil sends 500 updates a second, each with ten dependencies, and
// returns how long each took to be durable.
func smallUntil(s *Store, uri string, stop <-chan struct{}) (d []time.Duration) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	w := &wikiShape{pages: 10_000}
	rnd := rand.New(rand.NewPCG(7, 7))
	for i := 0; ; i++ {
		select {
		case <-stop:
			return d
		case <-tick.C:
		}
		start := time.Now()
		u := Update{URI: fmt.Sprintf("%s/%d", uri, i%1000), Type: "html", Hash: fmt.Sprint(i), Deps: w.deps(rnd)}
		if _, err := s.Apply(context.Background(), LocalPublisher, []Update{u}); err != nil {
			return d
		}
		d = append(d, time.Since(start))
	}
}

// BenchmarkSize reports what edges and URIs take on disk after a compaction.
func BenchmarkSize(b *testing.B) {
	for b.Loop() {
		s := benchStore(b, Options{Cache: 1 << 30})
		w := &wikiShape{pages: 100_000, rnd: rand.New(rand.NewPCG(1, 1))}
		w.fill(b, s)
		if err := s.db.Compact(context.Background(), []byte{0}, []byte{0xff}, true); err != nil {
			b.Fatal(err)
		}
		size := func(space byte) float64 {
			n, err := s.db.EstimateDiskUsage([]byte{space}, []byte{space + 1})
			if err != nil {
				b.Fatal(err)
			}
			return float64(n)
		}
		edges, resources := 0, 0
		for _, space := range []byte{spaceRow, spaceName} {
			it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
			if err != nil {
				b.Fatal(err)
			}
			for it.First(); it.Valid(); it.Next() {
				if space == spaceName {
					resources++
					continue
				}
				r, err := decodeRow(parseID(it.Key()[1:]), it.Value())
				if err != nil {
					b.Fatal(err)
				}
				edges += r.ndeps
			}
			if err := it.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(size(spaceRow)/float64(edges), "row-bytes/edge")
		b.ReportMetric(size(spacePosting)/float64(edges), "posting-bytes/edge")
		b.ReportMetric((size(spaceURI)+size(spaceName))/float64(resources), "URI-bytes/resource")
		b.ReportMetric(float64(edges), "edges")
	}
}
