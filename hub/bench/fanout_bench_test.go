package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// envLarge adds 10,000 connections to BenchmarkFanout. Like envServer it does not
// begin as the settings of a hub do, which refuses those it does not know.
const envLarge = "FANOUT_LARGE"

// BenchmarkFanout brings notices of about 300 bytes to many readers that want all
// of them: a hub, which writes each to its disk first, beside two servers that
// keep nothing. Each is a process of its own. Under load=full as much is published
// as the readers take, and the latency tells how far behind they are; under
// load=trickle it is 20,000 deliveries a second, all servers the same.
func BenchmarkFanout(b *testing.B) {
	counts := []int{100, 1000}
	if os.Getenv(envLarge) != "" {
		counts = append(counts, 10_000)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	hub := filepath.Join(b.TempDir(), "freshwire")
	if out, err := exec.Command("go", "build", "-o", hub, "github.com/freshwire/freshwire/cmd/freshwire").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for _, n := range counts {
		for _, load := range []string{"full", "trickle"} {
			for _, server := range []string{"freshwire", "nethttp", "r3labs"} {
				b.Run(fmt.Sprintf("connections=%d/load=%s/server=%s", n, load, server), func(b *testing.B) {
					cmd := exec.Command(self)
					cmd.Env = append(os.Environ(), envServer+"="+server)
					if server == "freshwire" {
						cmd = exec.Command(hub, "serve", "--listen", "127.0.0.1:0", "--data", b.TempDir())
					}
					o := Options{Hub: startServer(b, cmd), Connections: n, Duration: 3 * time.Second}
					if load == "trickle" {
						o.Rate = 20_000 / float64(n)
					}
					reportFanout(b, o)
				})
			}
		}
	}
}

func reportFanout(b *testing.B, o Options) {
	var sum Report
	runs := 0.0
	for b.Loop() {
		r, err := Run(b.Context(), o)
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			b.Fatal(err)
		}
		runs++
		sum.Deliveries += r.Deliveries
		sum.HubCPU += r.HubCPU
		sum.Seconds += r.Seconds
		sum.Latency.P50 += r.Latency.P50
		sum.Latency.P99 += r.Latency.P99
		sum.IdlePerConnection += r.IdlePerConnection
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(sum.Deliveries)/max(sum.HubCPU, 0.01), "deliveries/cpu-s")
	b.ReportMetric(float64(sum.Deliveries)/sum.Seconds, "deliveries/s")
	b.ReportMetric(sum.Latency.P50/runs, "p50-ms")
	b.ReportMetric(sum.Latency.P99/runs, "p99-ms")
	b.ReportMetric(sum.IdlePerConnection/runs/1e3, "KB/conn")
}

// startServer runs a server until the benchmark ends and returns its address.
func startServer(b *testing.B, cmd *exec.Cmd) string {
	b.Helper()
	log, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewScanner(log)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if rest, ok := strings.CutPrefix(lines.Text(), "hub at "); ok {
			url, _, _ := strings.Cut(rest, ",")
			go func() {
				for lines.Scan() { // so that it can go on logging
				}
			}()
			return url
		}
	}
	b.Fatalf("the server does not say where it is, but %q", said)
	return ""
}
