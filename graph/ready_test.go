package graph

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"
)

// allReady lists what is ready, a few at a time.
func allReady(t *testing.T, s *Store, limit int) (ns []Notice) {
	t.Helper()
	for after := ""; ; {
		page, next, err := s.Ready(after, limit)
		if err != nil {
			t.Fatalf("ready after %q: %v", after, err)
		}
		if len(page) > limit {
			t.Fatalf("a page has %d of what is ready, at most %d were asked for", len(page), limit)
		}
		ns = append(ns, page...)
		if after = next; next == "" {
			return ns
		}
	}
}

func TestWhatIsReadyIsFoundAlsoWhenItsNoticeWasTrimmed(t *testing.T) {
	g := newRig(t, Options{KeepAge: time.Hour, inline: -1})
	var want []string
	g.edit("X", "10", "a")
	for i := range 3000 { // more than a page of states
		g.render(fmt.Sprint("D", i), "", "d", g.token(), saw(fmt.Sprint("X", i%3), "1"))
	}
	g.editList(ListEdit{List: 3, Add: []string{named("D0"), named("D3"), named("D4")}})
	g.editList(ListEdit{List: 4, Add: []string{named("D0")}})
	g.editList(ListEdit{List: 5, Add: []string{named("D3")}})
	g.editList(ListEdit{Drop: []ListID{5}})
	g.edit("X0", "2", "b")
	for i := 0; i < 3000; i += 3 {
		want = append(want, named(fmt.Sprint("D", i)))
	}
	g.drain()
	for g.s.Oldest().Seq < g.token().Seq {
		g.wait(time.Hour)
	}
	made, held := named("D9"), named("D12")
	g.render("D9", "", "e", g.token(), saw("X0", "2"))
	if _, ok := g.claim(held, time.Hour); !ok {
		t.Fatal("D12 is not ready")
	}
	waits, _ := g.claim(named("D15"), time.Hour)
	g.release(waits, true) // it is told with the next retry
	want = slices.DeleteFunc(want, func(uri string) bool { return uri == made || uri == held || uri == waits.URI })
	for _, limit := range []int{1, 7, MaxListing} {
		var got []string
		for _, n := range allReady(t, g.s, limit) {
			got = append(got, n.URI)
			lists := map[string][]ListID{named("D0"): {3, 4}, named("D3"): {3}}[n.URI]
			if n.Kind != KindRefresh || n.Lane != Bulk || n.Reason != ReasonRetry || n.Type != "html" || n.Cursor != g.token() ||
				!n.At.Equal(g.now()) || !slices.Equal(n.Lists, lists) {
				t.Errorf("got %+v, want it on lists %v at %s", n, lists, g.token())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d at a time: got %d of %v …, want %d", limit, len(got), got[:min(3, len(got))], len(want))
		}
	}
	if _, _, err := g.s.Ready("00000001.5", 1); err == nil {
		t.Error("a position of another store is taken")
	}
}

// TestReadyIsWhoWasTold lets a store do all it does and compares the listing with
// what each resource says of itself.
func TestReadyIsWhoWasTold(t *testing.T) {
	for seed := range seeds(t) {
		t.Run("seed="+strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			m := newListModel(t, seed)
			for range 40 {
				for range 5 {
					m.step()
				}
				got := map[string]Notice{}
				for _, n := range allReady(t, m.s, 1+m.rng.IntN(5)) {
					got[n.URI] = n
				}
				for _, name := range m.names {
					rs, err := m.s.Resource(named(name))
					if err != nil {
						continue
					}
					n, listed := got[named(name)]
					if told := rs.State == Ready && rs.NoticeDue.IsZero(); listed != told {
						t.Fatalf("%s is listed: %t, and is %+v", name, listed, rs)
					}
					if listed && !slices.Equal(n.Lists, m.on()[n.URI]) {
						t.Fatalf("%s is said to be on lists %v, and is on %v", name, n.Lists, m.on()[n.URI])
					}
				}
			}
		})
	}
}

// BenchmarkReady finds a thousand that are ready among ten million.
func BenchmarkReady(b *testing.B) {
	s := benchStore(b, Options{})
	rng := rand.New(rand.NewPCG(1, 2))
	s.mu.Lock()
	s.nextID = 10_000_000
	for id := ID(1); id < s.nextID; id++ {
		w := word(0).withState(Clean)
		if rng.IntN(10_000) == 0 {
			w = word(0).withState(Ready).with(wordWaiting, true) // without a name: it is passed over
		}
		s.col.put(id, w)
	}
	s.col.eachPending(func(uint32, *page, []pageOp) {})
	s.mu.Unlock()
	for b.Loop() {
		for after := ""; ; {
			_, next, err := s.Ready(after, 1000)
			if err != nil {
				b.Fatal(err)
			}
			if after = next; next == "" {
				break
			}
		}
	}
	b.ReportMetric(10_000_000*float64(b.N)/b.Elapsed().Seconds(), "resources/s")
}
