package hub

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// recoveryEdges is how many edges the store has unless BENCH_EDGES says it.
const recoveryEdges = 1_000_000

// recoveryPage is page i of a made-up wiki, made from ten things: six templates,
// few of which are used by most, and four pages that it links to.
func recoveryPage(i, pages int, hash string) graph.Update {
	const wiki = "https://en.wiki.example/wiki/"
	r := rand.New(rand.NewPCG(1, uint64(i)))
	u := graph.Update{URI: fmt.Sprintf("%sPage_%010d#html", wiki, i), Type: "html", Hash: hash}
	templates := max(pages/20, 1)
	for range 6 {
		k := int(r.ExpFloat64()*float64(templates)/20) % templates
		u.Deps = append(u.Deps, graph.Dep{URI: fmt.Sprintf("%sTemplate:T_%06d", wiki, k), Seen: "1183"})
	}
	for range 4 {
		u.Deps = append(u.Deps, graph.Dep{URI: fmt.Sprintf("%sPage_%010d#exists", wiki, r.IntN(pages*6/10+1)), Seen: "0"})
	}
	return u
}

// BenchmarkRecoveryAfterAKill measures how long a hub that was killed under load
// takes from its start to the first healthz that is 200.
func BenchmarkRecoveryAfterAKill(b *testing.B) {
	edges := recoveryEdges
	if s := os.Getenv("BENCH_EDGES"); s != "" {
		var err error
		if edges, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	pages := edges / 10
	cfg := DefaultConfig()
	cfg.Data, cfg.Cache = b.TempDir(), 1<<30
	next := 0
	lines := func() ([]byte, error) {
		if next == pages {
			return nil, io.EOF
		}
		next++
		return AppendUpdate(nil, recoveryPage(next-1, pages, "h")), nil
	}
	res, err := Import(context.Background(), cfg, nil, lines, nil)
	if err != nil {
		b.Fatal(err)
	}
	p := startProcess(b, 0, "DATA="+cfg.Data, "CACHE=256MiB", "LISTEN="+lastingAddress())
	var slowest time.Duration
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		killUnderLoad(b, p, pages, n)
		began := time.Now()
		b.StartTimer()
		p.start()
		if _, err := p.get(p.url() + "/healthz"); err != nil {
			b.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
	}
	b.ReportMetric(float64(res.Edges), "edges")
	b.ReportMetric(float64(res.Resources), "resources")
	b.ReportMetric(float64(slowest.Milliseconds()), "slowest-ms")
}

// killUnderLoad has random pages made anew for some seconds and templates edited,
// so that what is not yet in tables is as much as it gets, and kills the hub.
func killUnderLoad(b *testing.B, p *hubProcess, pages, n int) {
	b.Helper()
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	for k := range 4 {
		publishing.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), uint64(k)))
			for round := 0; ; round++ {
				var body []byte
				for range 100 {
					u := recoveryPage(r.IntN(pages), pages, fmt.Sprintf("h%d-%d-%d", n, k, round))
					body = append(AppendUpdate(body, u), '\n')
				}
				if round%20 == 0 {
					u := graph.Update{ID: fmt.Sprintf("%d-%d-%d", n, k, round), URI: fmt.Sprintf("https://en.wiki.example/wiki/Template:T_%06d", r.IntN(pages/400+1)), Hash: fmt.Sprintf("%d-%d-%d", n, k, round)}
					body = append(AppendUpdate(body, u), '\n')
				}
				err := post(p.client, p.url(), body)
				select {
				case <-stop:
					return
				default:
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	pass(8 * time.Second)
	close(stop)
	p.kill()
	publishing.Wait()
}
