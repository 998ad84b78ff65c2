package graph

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// wikiSnapshot is about so many edges: pages made from ten things each, of which
// six templates and modules with a long tail, and four pages that are linked to;
// 1.67 resources a page, with URIs of 47 bytes in the mean.
func wikiSnapshot(edges int) []Update {
	pages := edges / 10
	rnd := rand.New(rand.NewPCG(1, 1))
	const wiki = "https://en.wiki.example/wiki/"
	names := func(n int, format string) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = wiki + fmt.Sprintf(format, i)
		}
		return list
	}
	common := names(5, "Template:Common_%d")
	templates := names(max(pages/20, 1), "Template:T_%06d")
	targets := names(max(pages*6/10, 1), "Page_%010d#exists")
	share := [...]float64{.30, .25, .20, .15, .10}
	us := make([]Update, pages)
	for i := range us {
		deps := make([]Dep, 0, 10)
		for k, p := range share {
			if rnd.Float64() < p {
				deps = append(deps, Dep{common[k], "1182"})
			}
		}
		for len(deps) < 6 {
			k := int(rnd.ExpFloat64() * float64(len(templates)) / 20)
			deps = append(deps, Dep{templates[k%len(templates)], "1183"})
		}
		for len(deps) < 10 {
			deps = append(deps, Dep{targets[rnd.IntN(len(targets))], "0"})
		}
		us[i] = Update{URI: fmt.Sprintf("%sPage_%010d#html", wiki, i), Type: "html", Hash: strconv.FormatUint(rnd.Uint64(), 36), Deps: deps, Buckets: []string{}}
	}
	return us
}

func each(us []Update) func() (Update, error) {
	return func() (Update, error) {
		if len(us) == 0 {
			return Update{}, io.EOF
		}
		u := us[0]
		us = us[1:]
		return u, nil
	}
}

// recording is a snapshot in little memory: what is imported comes from a file
// and is not held as a whole.
type recording struct {
	us    []Update // without dependencies
	ends  []uint32 // of each one's in deps
	deps  []uint32 // index of each in table
	table []Dep
}

func record(us []Update) *recording {
	r := &recording{us: us}
	index := map[Dep]uint32{}
	for i := range us {
		for _, d := range us[i].Deps {
			n, known := index[d]
			if !known {
				n = uint32(len(r.table))
				index[d] = n
				r.table = append(r.table, d)
			}
			r.deps = append(r.deps, n)
		}
		r.ends = append(r.ends, uint32(len(r.deps)))
		us[i].Deps = nil
	}
	return r
}

func (r *recording) play() func() (Update, error) {
	i, from := 0, uint32(0)
	return func() (Update, error) {
		if i == len(r.us) {
			return Update{}, io.EOF
		}
		u, to := r.us[i], r.ends[i]
		u.Deps = make([]Dep, to-from)
		for k, n := range r.deps[from:to] {
			u.Deps[k] = r.table[n]
		}
		i, from = i+1, to
		return u, nil
	}
}

// importSizes are those of the benchmarks in edges; BENCH_EDGES adds one.
func importSizes(b *testing.B) []int {
	sizes := []int{1_000_000}
	if s := os.Getenv("BENCH_EDGES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// BenchmarkImport makes a store from a snapshot of a wiki.
func BenchmarkImport(b *testing.B) {
	for _, size := range importSizes(b) {
		snapshot := record(wikiSnapshot(size))
		b.Run(fmt.Sprintf("edges=%d", size), func(b *testing.B) {
			dir, o := "", Options{Cache: 1 << 30}
			var res ImportResult
			for b.Loop() {
				dir = b.TempDir()
				var err error
				if res, err = Import(context.Background(), dir, o, "bench", snapshot.play(), nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(res.Edges)/b.Elapsed().Seconds(), "edges/s")
			s, err := Open(dir, o)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			reportSizes(b, s, res.Edges, res.Resources)
		})
	}
}

// BenchmarkApplyLoad brings the same into a store by updates, for comparison.
func BenchmarkApplyLoad(b *testing.B) {
	const batch = 1000
	for _, size := range importSizes(b) {
		us := wikiSnapshot(size)
		b.Run(fmt.Sprintf("edges=%d", size), func(b *testing.B) {
			for b.Loop() {
				s := benchStore(b, Options{Cache: 1 << 30})
				for i := 0; i < len(us); i += batch {
					if _, err := s.Apply(context.Background(), "bench", us[i:min(i+batch, len(us))]); err != nil {
						b.Fatal(err)
					}
				}
			}
			edges := 0
			for i := range us {
				edges += len(us[i].Deps)
			}
			b.ReportMetric(float64(b.N)*float64(edges)/b.Elapsed().Seconds(), "edges/s")
		})
	}
}

// reportSizes tells what edges and URIs take on disk.
func reportSizes(b *testing.B, s *Store, edges, resources int) {
	b.Helper()
	size := func(space byte) float64 {
		n, err := s.db.EstimateDiskUsage([]byte{space}, []byte{space + 1})
		if err != nil {
			b.Fatal(err)
		}
		return float64(n)
	}
	b.ReportMetric((size(spaceRow)+size(spacePosting))/float64(edges), "bytes/edge")
	b.ReportMetric((size(spaceURI)+size(spaceName))/float64(resources), "URI-bytes/resource")
	b.ReportMetric(float64(resources), "resources")
}
