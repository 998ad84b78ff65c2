package graph

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// readAll reads the journal after a position and says how many notices came.
func readAll(b *testing.B, s *Store, at Cursor, limit int) (n int) {
	b.Helper()
	for end := s.Token(); at.Seq < end.Seq; {
		ns, next, err := s.ReadFrom(context.Background(), at, limit)
		if err != nil {
			b.Fatal(err)
		}
		n, at = n+len(ns), next
	}
	return n
}

// scanAll is readAll by a pick.
func scanAll(b *testing.B, s *Store, p *Pick, at Cursor, limit int) (n int) {
	b.Helper()
	for at != s.Token() {
		ns, next, err := s.Scan(p, at, limit)
		if err != nil {
			b.Fatal(err)
		}
		n, at = n+len(ns), next
	}
	return n
}

// settleDisk writes out what is in memory, so that it is read from tables.
func settleDisk(b *testing.B, s *Store) {
	b.Helper()
	if err := s.db.Compact(context.Background(), []byte{0}, []byte{0xff}, true); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkResume reads 100,000 lone edits back from the store, each of another
// page with ten dependencies: in the order the store first heard of them, and in
// a random one. Cold means that no URI and no label is in memory, though the
// store's blocks are.
func BenchmarkResume(b *testing.B) {
	const pages = 100_000
	s := benchStore(b, Options{Cache: 1 << 30, TailBytes: 1})
	w := &wikiShape{pages: pages, rnd: rand.New(rand.NewPCG(1, 1))}
	begin := map[string]Cursor{"order=ids": s.Token()}
	all := w.fill(b, s)
	begin["order=random"] = s.Token()
	order := w.rnd.Perm(pages)
	for i := 0; i < pages; i += 1000 {
		var us []Update
		for _, k := range order[i : i+1000] {
			us = append(us, Update{URI: w.page(k), Type: "html", Hash: "i", Deps: all[k], Buckets: []string{"wiki", "main"}})
		}
		if _, err := s.Apply(context.Background(), "bench", us); err != nil {
			b.Fatal(err)
		}
	}
	settleDisk(b, s)
	for _, order := range []string{"order=ids", "order=random"} {
		for _, limit := range []int{100, 1000, 10_000} {
			for _, cache := range []string{"cold", "warm"} {
				b.Run(fmt.Sprintf("%s/limit=%d/cache=%s", order, limit, cache), func(b *testing.B) {
					n := 0
					for b.Loop() {
						if cache == "cold" {
							b.StopTimer()
							s.forgetSpelling()
							b.StartTimer()
						}
						at := begin[order]
						for range pages / limit {
							ns, next, err := s.ReadFrom(context.Background(), at, limit)
							if err != nil {
								b.Fatal(err)
							}
							n, at = n+len(ns), next
						}
					}
					b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "notices/s")
				})
			}
		}
	}
}

// BenchmarkResumeFanout reads back what a template's change told 100,000 pages.
func BenchmarkResumeFanout(b *testing.B) {
	const pages = 100_000
	s := benchStore(b, Options{Cache: 1 << 30, TailBytes: 1})
	for i := 0; i < pages; i += 5000 {
		us := make([]Update, 5000)
		for k := range us {
			us[k] = Update{URI: fmt.Sprintf("https://en.wiki.example/wiki/Page_%07d#html", i+k), Type: "html", Hash: "h",
				Deps: []Dep{{"https://en.wiki.example/wiki/Template:Hot", "0"}}}
		}
		if _, err := s.Apply(context.Background(), "bench", us); err != nil {
			b.Fatal(err)
		}
	}
	from := s.Token()
	if _, err := s.Apply(context.Background(), "bench", []Update{{URI: "https://en.wiki.example/wiki/Template:Hot", Version: "10"}}); err != nil {
		b.Fatal(err)
	}
	waitForJobs(b, s)
	settleDisk(b, s)
	for _, cache := range []string{"cold", "warm"} {
		b.Run("cache="+cache, func(b *testing.B) {
			n := 0
			for b.Loop() {
				if cache == "cold" {
					b.StopTimer()
					s.forgetSpelling()
					b.StartTimer()
				}
				n += readAll(b, s, from, 1000)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "notices/s")
		})
	}
}

// BenchmarkScanRare looks in a journal of a million lone notices for the few of
// one page, of one list, and of one host.
func BenchmarkScanRare(b *testing.B) {
	const notices, pages, every = 1_000_000, 100_000, 1000
	s := benchStore(b, Options{Cache: 1 << 30, TailBytes: 1})
	page := func(i int) string {
		if i == every {
			return "https://rare.example/wiki/Page"
		}
		return fmt.Sprintf("https://en.wiki.example/wiki/Page_%07d", i)
	}
	ctx := context.Background()
	if _, err := s.EditList(ctx, ListEdit{List: 7, Add: []string{page(every)}}); err != nil {
		b.Fatal(err)
	}
	for i := 0; i < notices; i += 5000 {
		us := make([]Update, 5000)
		for k := range us {
			us[k] = Update{URI: page((i + k) % pages), Type: "item", Hash: fmt.Sprint(i / pages)}
		}
		if _, err := s.Apply(ctx, "bench", us); err != nil {
			b.Fatal(err)
		}
	}
	settleDisk(b, s)
	const found = notices / pages
	run := func(name string, p Pick, before func()) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				before()
				q := p
				b.StartTimer()
				if n := scanAll(b, s, &q, s.Oldest(), 1000); p.Keys == nil && n != found && p.Kinds == 0 {
					b.Fatalf("%d notices, want %d", n, found)
				}
			}
			b.ReportMetric(float64(b.N)*notices/b.Elapsed().Seconds(), "positions/s")
		})
	}
	nothing := func() {}
	run("by=uri", Pick{URIs: []string{page(every)}}, nothing)
	run("by=kind", Pick{Kinds: 1 << KindRefresh, URIs: []string{page(every)}}, nothing)
	run("by=list", Pick{Lists: []ListID{7}}, nothing)
	host := Pick{Keys: [][]Key{{HostKey("rare.example")}}}
	run("by=host/summaries=cold", host, func() { s.forgetSummaries(b) })
	run("by=host/summaries=warm", host, nothing)
}

// BenchmarkMarking writes chunks of a fan-out and lone notices, with nobody
// listed, with a million others listed, and with everybody on one list.
func BenchmarkMarking(b *testing.B) {
	const members = 1_000_000
	for _, c := range []string{"nobody", "others", "all"} {
		for _, size := range []int{1, maxChunk} {
			b.Run(fmt.Sprintf("listed=%s/chunk=%d", c, size), func(b *testing.B) {
				s := benchStore(b, Options{Cache: 1 << 30})
				from := ID(1)
				if c == "others" {
					from = members + 1
				}
				if c != "nobody" {
					listMany(b, s, members)
				}
				n := 0
				rnd := rand.New(rand.NewPCG(1, 1))
				for b.Loop() {
					err := s.do(context.Background(), func(t *txn) {
						for range 10_000 / size {
							base := from + ID(rnd.IntN(members-maxChunk))
							for i := range size {
								t.notice(base+ID(i), chunk{kind: KindRefresh, reason: ReasonDependency})
							}
							t.flushNotices()
							n += size
						}
					})
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "notices/s")
			})
		}
	}
}

// listMany puts the resources 1 … n on one list, by what edits would write.
func listMany(b *testing.B, s *Store, n int) {
	b.Helper()
	for i := 0; i < n; i += MaxListEdit {
		c := &listChange{ListEdit: &ListEdit{List: 1}}
		for k := range MaxListEdit {
			c.add = append(c.add, ID(i+k+1))
		}
		if err := s.do(context.Background(), func(t *txn) { t.editList(c) }); err != nil {
			b.Fatal(err)
		}
	}
	settleDisk(b, s)
}

// BenchmarkSweepLists is what a sweep does about 100,000 lists, each of which has
// three chunks, two of them trimmed.
func BenchmarkSweepLists(b *testing.B) {
	const all = 100_000
	s := benchStore(b, Options{})
	for from := ListID(1); from < all; from += 1000 {
		err := s.do(context.Background(), func(t *txn) {
			for list := from; list < from+1000; list++ {
				for _, seq := range []uint64{5, 50, 500} {
					check(t.b.Set(markedKey(list, seq), nil, nil))
				}
			}
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	settleDisk(b, s)
	s.journal.trimmedTo(100)
	var took time.Duration
	for b.Loop() {
		err := s.do(context.Background(), func(t *txn) {
			start := time.Now()
			t.trimMarks()
			took += time.Since(start)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(took.Seconds()*1000/float64(b.N), "ms/sweep")
}

// BenchmarkEditList changes 10,000 members of a list of a million, beside which
// nothing else happens; held is how long the commit has the loop for itself.
func BenchmarkEditList(b *testing.B) {
	s := benchStore(b, Options{Cache: 1 << 30})
	uris := make([]string, MaxListEdit)
	for i := range uris {
		uris[i] = fmt.Sprintf("https://en.wiki.example/wiki/Page_%07d", i)
	}
	var held time.Duration
	n := 0
	for b.Loop() {
		e := ListEdit{List: 1, Add: uris}
		if n++; n%2 == 0 {
			e.Add, e.Remove = nil, uris
		}
		_, err := s.editList(context.Background(), e, func(f func(t *txn)) (*request, error) {
			return s.submit(context.Background(), func(t *txn) {
				start := time.Now()
				f(t)
				held = max(held, time.Since(start))
			})
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*MaxListEdit/b.Elapsed().Seconds(), "members/s")
	b.ReportMetric(held.Seconds()*1000, "held-ms")
}

// forgetSummaries drops the summaries of blocks from disk and memory.
func (s *Store) forgetSummaries(b *testing.B) {
	b.Helper()
	if err := s.db.DeleteRange([]byte{spaceList, listBlock}, []byte{spaceList, listBlock + 1}, pebble.Sync); err != nil {
		b.Fatal(err)
	}
	s.summaries.Purge()
}

// forgetSpelling drops URIs and labels from memory.
func (s *Store) forgetSpelling() {
	for i := range s.spelling.shards {
		sh := &s.spelling.shards[i]
		sh.mu.Lock()
		clear(sh.pairs)
		sh.mu.Unlock()
	}
}
