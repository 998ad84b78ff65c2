package hub

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A purgeGate stands before a cache, where purges come in. It passes them on, or does
// with the n-th of them, counted from 1, what faults says; and writes down which the
// cache has acknowledged.
type purgeGate struct {
	url string

	mu     sync.Mutex
	faults func(n int, w http.ResponseWriter, r *http.Request) (done bool)
	came   int
}

// A purgeLog has the purges that caches acknowledged, in that order.
type purgeLog struct {
	mu   sync.Mutex
	done []string
}

func (l *purgeLog) add(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = append(l.done, text)
}

// take returns what came since it was last asked.
func (l *purgeLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := l.done
	l.done = nil
	return done
}

// startGate puts a gate before a cache, which has a name in the log.
func startGate(t testing.TB, log *purgeLog, name string, cache *varnish) *purgeGate {
	t.Helper()
	to, err := url.Parse(cache.url)
	if err != nil {
		t.Fatal(err)
	}
	g := &purgeGate{}
	transport := &http.Transport{}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host }, // and the Host as it came
		Transport: transport,
		ModifyResponse: func(a *http.Response) error {
			key := a.Request.Header.Get("xkey-purge") + a.Request.Header.Get("X-Cache-Tags")
			log.add(fmt.Sprintf("%s %d %s %s%s %s", name, a.StatusCode, a.Request.Method, a.Request.Host, a.Request.URL.RequestURI(), key))
			return nil
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.came++
		n, faults := g.came, g.faults
		g.mu.Unlock()
		if faults == nil || !faults(n, w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() { server.Close(); transport.CloseIdleConnections() })
	g.url = server.URL
	return g
}

// fail has the purges that come from now on meet faults.
func (g *purgeGate) fail(faults func(n int, w http.ResponseWriter, r *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.came, g.faults = 0, faults
}

// changed tells the hub of a new rendering of a page, whose URL is its bucket.
func (h *testHub) changed(id, path, kind string) {
	h.t.Helper()
	page := "https://" + site + path
	h.put(fmt.Sprintf(`{"id":%q,"uri":%q,"type":%q,"hash":%q,"buckets":[%q]}`, id, page+"#"+kind, kind, id, page))
}

// awaitPurged waits until a sink has had n purges taken and nothing is left to do.
func (h *testHub) awaitPurged(name string, n uint64) {
	h.t.Helper()
	h.awaitSink(name, func(s sinkTargetShape) bool {
		return s.Sent == n && s.Lag == 0 && s.Calls == 0 && s.Waiting == 0 && s.DeadLetters == 0
	})
}

// TestOneChangeEmptiesAllThatACacheHasOfAPage has each kind of sink empty a real cache.
func TestOneChangeEmptiesAllThatACacheHasOfAPage(t *testing.T) {
	t.Parallel()
	o, log := startOrigin(t), &purgeLog{}
	cache := startVarnish(t, o.url, "xkey.vcl", "ban.vcl", "purge.vcl")
	gate := startGate(t, log, "cache", cache)
	to := `caches: "` + gate.url + `"}, allow: 127.0.0.0/8}`
	h := startHub(t, withSinks(t, `
- {name: xkey, match: {type: html}, xkey: {`+to+`
- {name: ban, match: {type: tagged}, ban: {`+to+`
- {name: plain, match: {type: thumb}, purge: {`+to))
	readers := allVariants(t)
	const beside = "/wiki/Rome"
	sent := map[string]uint64{}
	for i, c := range []struct {
		sink, kind, path string
		call             string
		otherURL         bool // whether the page under another URL is emptied by the same call
	}{
		{"xkey", "html", "/wiki/Berlin", "cache 200 PURGE " + site + "/ https://" + site + "/wiki/Berlin", true},
		{"xkey", "html", "/wiki/Washington,_D.C.", "cache 200 PURGE " + site + "/ https://" + site + "/wiki/Washington,_D.C.", true},
		{"ban", "tagged", "/wiki/C++", "cache 200 BAN " + site + "/ " + banOf("https://"+site+"/wiki/C++"), true},
		{"ban", "tagged", "/wiki/Berlin", "cache 200 BAN " + site + "/ " + banOf("https://"+site+"/wiki/Berlin"), true},
		{"plain", "thumb", "/wiki/Berlin", "cache 200 PURGE " + site + "/wiki/Berlin ", false},
		{"plain", "thumb", "/wiki/C++", "cache 200 PURGE " + site + "/wiki/C++ ", false},
	} {
		now := fmt.Sprint("new", i)
		other := c.path + "?uselang=de"
		for range 2 { // the first time it is brought in, unless it is there
			for _, r := range readers {
				r.get(cache.url, c.path)
				r.get(cache.url, other)
				r.get(cache.url, beside)
			}
		}
		for v, r := range readers {
			if content, hit := r.get(cache.url, c.path); content == now || !hit {
				t.Errorf("%s before the change as %v: %q, hit %t", c.path, variants[v], content, hit)
			}
		}
		o.set(c.path, now)
		h.changed(fmt.Sprint(i), c.path, c.kind)
		sent[c.sink]++
		h.awaitPurged(c.sink, sent[c.sink])
		if got := log.take(); !slices.Equal(got, []string{c.call}) {
			t.Errorf("%s: the cache was called with %q, want %q alone", c.sink, got, c.call)
		}
		for v, r := range readers {
			// Gzip and plain are one object, which the plain reader has brought in.
			hitHere := variants[v]["Accept-Encoding"] == "gzip"
			if content, hit := r.get(cache.url, c.path); content != now || hit != hitHere {
				t.Errorf("%s: %s as %v is %q, hit %t, want %q, %t", c.sink, c.path, variants[v], content, hit, now, hitHere)
			}
			if content, hit := r.get(cache.url, other); (content == now) != c.otherURL || hit != (hitHere || !c.otherURL) {
				t.Errorf("%s: %s as %v is %q, hit %t", c.sink, other, variants[v], content, hit)
			}
			if _, hit := r.get(cache.url, beside); !hit {
				t.Errorf("%s: a page beside it is gone", c.sink)
			}
		}
	}
}

// cacheLayers are two real caches, the outer one before the inner one, each emptied by
// a sink of the hub through a gate.
type cacheLayers struct {
	*testHub
	log          *purgeLog
	origin       *origin
	inner, outer *varnish
	gate         *purgeGate // before the inner cache
}

// startLayers starts them. With ordered the sinks are one group.
func startLayers(t *testing.T, ordered bool) *cacheLayers {
	t.Helper()
	l := &cacheLayers{log: &purgeLog{}, origin: startOrigin(t)}
	l.inner = startVarnish(t, l.origin.url, "xkey.vcl")
	l.outer = startVarnish(t, l.inner.url, "xkey.vcl")
	l.gate = startGate(t, l.log, "inner", l.inner)
	outer := startGate(t, l.log, "outer", l.outer)
	first, second := "", ""
	if ordered {
		first, second = ", group: cdn, stage: 1", ", group: cdn, stage: 2"
	}
	l.testHub = startHub(t, withSinks(t, `
- {name: inner, match: {type: html}, xkey: {caches: "`+l.gate.url+`"}, allow: 127.0.0.0/8, timeout: 2s, retry: {after: [100ms], limit: 50}`+first+`}
- {name: outer, match: {type: html}, xkey: {caches: "`+outer.url+`"}, allow: 127.0.0.0/8, retry: {after: [100ms], limit: 50}`+second+`}`))
	return l
}

// TestAnOuterCacheIsNeverFilledFromAStaleInnerOne has the purge of the inner cache fail
// in several ways while readers ask the outer one all the time.
func TestAnOuterCacheIsNeverFilledFromAStaleInnerOne(t *testing.T) {
	t.Parallel()
	l := startLayers(t, true)
	const path = "/wiki/Berlin"
	l.origin.set(path, "0")
	var settled atomic.Int64 // rounds whose purges were acknowledged in both layers
	var reads atomic.Int64
	stop, readers := make(chan struct{}), sync.WaitGroup{}
	end := sync.OnceFunc(func() { close(stop); readers.Wait() })
	defer end()
	for i := range variants {
		c := newCacheReader(t, variants[i])
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond): // the machine has others to serve
				}
				oldest := settled.Load()
				resp, body, err := c.request(http.MethodGet, l.outer.url, path)
				var round int64
				if err == nil {
					_, err = fmt.Sscan(body, &round)
				}
				if err != nil || resp.StatusCode != http.StatusOK || round < oldest {
					t.Errorf("a reader gets %v %q, %v, which is older than %d", resp, body, err, oldest)
					return
				}
				reads.Add(1)
			}
		})
	}
	// more waits until the readers have read on: the caches are full before a round, and
	// after it what is stale would have been seen.
	more := func() {
		t.Helper()
		from := reads.Load()
		for deadline := time.Now().Add(20 * time.Second); reads.Load() < from+200 && !t.Failed(); <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nobody reads")
			}
		}
	}
	more()
	for round, fault := range []func(n int, w http.ResponseWriter, r *http.Request) bool{
		func(n int, w http.ResponseWriter, r *http.Request) bool { // it is down for a while
			if n <= 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n <= 3
		},
		func(n int, w http.ResponseWriter, r *http.Request) bool { // the connection breaks
			if n <= 2 {
				panic(http.ErrAbortHandler)
			}
			return false
		},
		func(n int, w http.ResponseWriter, r *http.Request) bool { // it hangs until the hub gives up
			if n == 1 {
				<-r.Context().Done()
			}
			return n == 1
		},
	} {
		now := int64(round + 1)
		l.gate.fail(fault)
		l.origin.set(path, fmt.Sprint(now))
		l.changed(fmt.Sprint(now), path, "html")
		l.awaitPurged("inner", uint64(now))
		l.awaitPurged("outer", uint64(now))
		settled.Store(now)
		more()
		key := " 200 PURGE " + site + "/ https://" + site + path
		if got, want := l.log.take(), []string{"inner" + key, "outer" + key}; !slices.Equal(got, want) {
			t.Errorf("round %d: acknowledged are %q, want %q", now, got, want)
		}
	}
	end()
	if s := l.awaitSink("inner", func(sinkTargetShape) bool { return true }).Targets[0]; s.Failures != 6 {
		t.Errorf("%d purges of the inner cache failed, want 6", s.Failures)
	}
}

// TestWithoutAGroupAnOuterCacheKeepsWhatIsStale is what the test above is compared with:
// the same sinks without an order, and the inner purge comes last.
func TestWithoutAGroupAnOuterCacheKeepsWhatIsStale(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("ordered %t", ordered), func(t *testing.T) {
			t.Parallel()
			l := startLayers(t, ordered)
			const path = "/wiki/Berlin"
			reader := newCacheReader(t, nil)
			reader.get(l.outer.url, path)
			came, release := make(chan struct{}), make(chan struct{})
			let := sync.OnceFunc(func() { close(release) })
			t.Cleanup(let)
			l.gate.fail(func(n int, _ http.ResponseWriter, _ *http.Request) bool {
				if n == 1 {
					close(came)
				}
				<-release
				return false
			})
			l.origin.set(path, "2")
			l.changed("2", path, "html")
			<-came
			if ordered {
				// The outer sink has read the notice, and holds its purge.
				l.awaitSink("outer", func(s sinkTargetShape) bool { return s.Waiting == 1 })
			} else {
				l.awaitPurged("outer", 1)
			}
			// A reader asks the outer cache, which is filled again if it is empty.
			if content, hit := reader.get(l.outer.url, path); content != "1" || hit != ordered {
				t.Fatalf("while the inner purge is held a reader gets %q, hit %t", content, hit)
			}
			let()
			l.awaitPurged("inner", 1)
			l.awaitPurged("outer", 1)
			want := map[bool]string{true: "2", false: "1"}[ordered]
			if content, hit := reader.get(l.outer.url, path); content != want || hit == ordered {
				t.Errorf("in the end the outer cache has %q, hit %t, want %q", content, hit, want)
			}
			if content, _ := reader.get(l.inner.url, path); content != "2" {
				t.Errorf("in the end the inner cache has %q", content)
			}
		})
	}
}
