package hub

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// laneWiki is where the pages of these tests are.
const laneWiki = "https://en.wiki.example/wiki/"

// A laneCache is a cache that is purged: it knows which purges are of own edits, and
// how many others came before each.
type laneCache struct {
	*httptest.Server
	mu   sync.Mutex
	bulk int
	own  map[string]ownPurge // the first of each
	came chan struct{}       // there is something new, perhaps
}

// An ownPurge is when the purge of an own edit came.
type ownPurge struct {
	at   time.Time
	bulk int // that had come before
}

func startLaneCache(t testing.TB) *laneCache {
	c := &laneCache{own: map[string]ownPurge{}, came: make(chan struct{}, 1)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		now := time.Now()
		c.mu.Lock()
		defer c.mu.Unlock()
		name, own := strings.CutPrefix(r.URL.Path, "/wiki/Own_")
		if _, known := c.own[name]; own && !known {
			c.own[name] = ownPurge{now, c.bulk}
		} else if !own {
			c.bulk++
		}
		select {
		case c.came <- struct{}{}:
		default:
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *laneCache) sofar() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bulk
}

// await waits until done, which is called with the lock held.
func (c *laneCache) await(t testing.TB, what string, done func() bool) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		c.mu.Lock()
		ok := done()
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-c.came:
		case <-late:
			t.Fatalf("%s never comes", what)
		}
	}
}

// behindAFanOut is a hub with a store on disk and a sink of so many purges a second, in
// front of which all dependents of a template wait in the bulk lane.
func behindAFanOut(t testing.TB, dependents, rate int) (*testHub, *laneCache) {
	t.Helper()
	data := t.TempDir()
	cfg := DefaultConfig()
	cfg.Data, cfg.Cache = data, 256<<20
	made := 0
	lines := func() ([]byte, error) {
		if made == dependents {
			return nil, io.EOF
		}
		made++
		return AppendUpdate(nil, graph.Update{URI: fmt.Sprintf("%sPage_%07d#html", laneWiki, made), Type: "html", Hash: "1",
			Deps: []graph.Dep{{URI: laneWiki + "Template:Common", Seen: "1"}}}), nil
	}
	if _, err := Import(context.Background(), cfg, nil, lines, nil); err != nil {
		t.Fatal(err)
	}
	cache := startLaneCache(t)
	sinks := withSinks(t, fmt.Sprintf(`
- {name: cache, match: {type: html, kind: [changed, refresh]}, purge: {caches: "%s"}, allow: 127.0.0.0/8, rate: %d, concurrency: 16}`, cache.URL, rate))
	h := startHub(t, func(c *Config) {
		c.Data, c.Cache = cfg.Data, cfg.Cache
		sinks(c)
	})
	control := func(action string) {
		t.Helper()
		if a := h.do("POST", "/v1/sinks/cache", `{"action":"`+action+`"}`); a.status != 200 {
			t.Fatalf("%s: %d %s", action, a.status, a.body)
		}
	}
	control("pause")
	h.put(`{"id":"t","uri":"` + laneWiki + `Template:Common","type":"wikitext","version":"2","hash":"2"}`)
	for began := time.Now(); ; pass(20 * time.Millisecond) {
		var s sinkShape
		h.do("GET", "/v1/sinks/cache", "").decode(t, &s)
		if s.Targets[0].Lag >= uint64(dependents) {
			break
		}
		if time.Since(began) > 3*time.Minute {
			t.Fatalf("of %d dependents %d wait", dependents, s.Targets[0].Lag)
		}
	}
	control("resume")
	return h, cache
}

// editOwn makes one page anew for its own sake, waits for the answer, and returns when
// the update was sent. The purge may come before the answer is read.
func (h *testHub) editOwn(n int) (sent time.Time) {
	h.t.Helper()
	sent = time.Now()
	h.put(fmt.Sprintf(`{"id":"own-%d","uri":"%sOwn_%d#html","type":"html","hash":"1"}`, n, laneWiki, n))
	return sent
}

// BenchmarkAnOwnEditOvertakesAMillion measures how long an own edit takes from
// when its update is sent until the cache is purged, while a million purges of a fan-out
// wait for the same cache, which is sent 1,000 a second.
func BenchmarkAnOwnEditOvertakesAMillion(b *testing.B) {
	const edits = 300
	h, cache := behindAFanOut(b, 1_000_000, 1000)
	sent := h.editOwn(0) // the sink has still to read past the million
	cache.await(b, "the purge of the first own edit", func() bool { return len(cache.own) == 1 })
	firstTook := cache.own["0"].at.Sub(sent)
	pass(3 * time.Second) // what may come at once has
	next := 1
	for b.Loop() {
		first, began, bulk := next, time.Now(), cache.sofar()
		var sent []time.Time
		for ; next < first+edits; next++ {
			sent = append(sent, h.editOwn(next))
			pass(time.Until(began.Add(time.Duration(len(sent)) * 100 * time.Millisecond)))
		}
		cache.await(b, "the purge of an own edit", func() bool { return len(cache.own) == next })
		rate := float64(cache.sofar()-bulk) / time.Since(began).Seconds()
		var took []time.Duration
		for i, at := range sent {
			took = append(took, cache.own[fmt.Sprint(first+i)].at.Sub(at))
		}
		slices.Sort(took)
		for name, d := range map[string]time.Duration{"p50-ms": took[edits/2], "p99-ms": took[edits*99/100], "max-ms": took[edits-1]} {
			b.ReportMetric(float64(d.Microseconds())/1000, name)
		}
		b.ReportMetric(rate, "bulk/s")
		b.ReportMetric(float64(firstTook.Microseconds())/1000, "first-ms")
		if p99 := took[edits*99/100]; p99 > time.Second || firstTook > time.Second || rate < 100 {
			b.Errorf("p99 is %s, the first took %s, beside %.0f a second of the bulk lane", p99, firstTook, rate)
		}
	}
}

// TestAnOwnEditOvertakesTheFanOutOfATemplate asks for the order, which a slow machine
// does not change: of what waits only what is under way already comes before.
func TestAnOwnEditOvertakesTheFanOutOfATemplate(t *testing.T) {
	const dependents, edits, most = 20_000, 10, 300
	h, cache := behindAFanOut(t, dependents, 1000)
	cache.await(t, "the fan-out", func() bool { return cache.bulk > 0 })
	for n := range edits {
		h.editOwn(n)
		before := cache.sofar()
		cache.await(t, "the purge of an own edit", func() bool { _, ok := cache.own[fmt.Sprint(n)]; return ok })
		if further := cache.own[fmt.Sprint(n)].bulk - before; further > most {
			t.Fatalf("%d purges of the fan-out came before own edit %d", further, n)
		}
		cache.await(t, "the rest of the fan-out", func() bool { return cache.bulk > before+50 })
	}
	if n := cache.sofar(); n >= dependents*3/4 {
		t.Errorf("%d of the fan-out had been sent: too few waited", n)
	}
}
