package graph

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkCheck verifies a store that was made from a snapshot of a wiki.
func BenchmarkCheck(b *testing.B) {
	for _, size := range importSizes(b) {
		dir := b.TempDir()
		snapshot := record(wikiSnapshot(size))
		if _, err := Import(context.Background(), dir, Options{Cache: 1 << 30}, "bench", snapshot.play(), nil); err != nil {
			b.Fatal(err)
		}
		snapshot = nil
		b.Run(fmt.Sprintf("edges=%d", size), func(b *testing.B) {
			runtime.GC()
			peak := watchHeap()
			keys := 0
			for b.Loop() {
				rep, err := Check(context.Background(), dir, CheckOptions{})
				if err != nil || rep.Found > 0 {
					b.Fatal(err, rep)
				}
				keys = rep.Keys + rep.Edges
			}
			b.ReportMetric(float64(b.N)*float64(keys)/b.Elapsed().Seconds(), "entries/s")
			b.ReportMetric(float64(peak())/(1<<20), "heap-MiB")
		})
	}
}

// watchHeap looks at the heap ten times a second; peak ends that and tells the most.
func watchHeap() (peak func() uint64) {
	var most atomic.Uint64
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapAlloc))
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() uint64 {
		close(stop)
		<-ended
		return most.Load()
	}
}
