package hub

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/auth"
)

// A benchWiki sends renderings of 2,000 pages with about ten dependencies each,
// of which one or two are others than the time before.
type benchWiki struct {
	url    string
	client *http.Client
	token  string // "" is a hub without keys
	sent   atomic.Int64
}

const benchPages = 2000

func newBenchWiki(b *testing.B, workers int, keyed bool) *benchWiki {
	cache := func(c *Config) { c.Cache = 256 << 20 }
	w := &benchWiki{}
	var h *testHub
	if keyed {
		k := startKeyedHub(b, cache)
		h, w.token = k.testHub, k.token(auth.Rights{Subject: "wiki", Publish: auth.Prefixes{"https://en.wikipedia.example/wiki"}})
	} else {
		h = startHub(b, cache)
	}
	h.client.Transport.(*http.Transport).MaxIdleConnsPerHost = workers
	w.url, w.client = h.URL()+"/v1/updates", h.client
	var body []byte
	for i := range benchPages {
		body = append(AppendUpdate(body, w.next()), '\n')
		if i%500 == 499 {
			if err := w.post(body); err != nil {
				b.Fatal(err)
			}
			body = body[:0]
		}
	}
	return w
}

// next returns the next rendering. Of its ten dependencies the last changes with
// each round over all pages, and so does its hash.
func (w *benchWiki) next() graph.Update {
	n := int(w.sent.Add(1))
	page, round := n%benchPages, n/benchPages
	u := graph.Update{ID: fmt.Sprintf("b-%d", n), URI: fmt.Sprintf("https://en.wikipedia.example/wiki/Article_%d#html/canonical", page),
		Type: "html", Hash: fmt.Sprintf("%040x", n), At: time.Now()}
	for j := range 9 {
		u.Deps = append(u.Deps, graph.Dep{URI: fmt.Sprintf("https://en.wikipedia.example/wiki/Template:T%d", (page*7+j*31)%500), Seen: "1"})
	}
	u.Deps = append(u.Deps, graph.Dep{URI: fmt.Sprintf("https://en.wikipedia.example/wiki/Link_%d#exists", (page*13+round)%3000), Seen: "1"})
	return u
}

func (w *benchWiki) post(body []byte) error {
	req, err := http.NewRequest(http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", typeNDJSON)
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%d %s", resp.StatusCode, got)
	}
	return err
}

// BenchmarkUpdatesOverHTTP counts durable updates a second, client and hub in
// one process on all cores.
func BenchmarkUpdatesOverHTTP(b *testing.B) {
	for _, c := range []struct {
		inFlight, batch int
		keyed           bool
	}{{64, 1, false}, {64, 1, true}, {8, 100, false}, {8, 100, true}} {
		b.Run(fmt.Sprintf("inflight=%d/batch=%d/deps=10/token=%t", c.inFlight, c.batch, c.keyed), func(b *testing.B) {
			w := newBenchWiki(b, c.inFlight, c.keyed)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range c.inFlight {
				wg.Go(func() {
					var body []byte
					for left.Add(-1) >= 0 {
						body = body[:0]
						for range c.batch {
							body = append(AppendUpdate(body, w.next()), '\n')
						}
						if err := w.post(body); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N*c.batch)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}
