package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxMetrics bounds what is read of a hub's figures, in bytes.
const maxMetrics = 16 << 20

// A sample is what a hub says of itself at one moment. Figures that it does not
// say, as on systems without /proc, are 0.
type sample struct {
	at         time.Time
	cpu        float64 // seconds of processor time since its start
	rss        int64   // bytes of memory
	goroutines int64
	maxFiles   int64
	openFiles  int64
}

// takeSample asks the hub for its figures.
func takeSample(ctx context.Context, c *http.Client, hub, token string) (sample, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, hub+"/metrics", nil)
	if err != nil {
		return sample{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(req)
	if err != nil {
		return sample{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return sample{}, fmt.Errorf("the figures of the hub, %s/metrics: %s", hub, resp.Status)
	}
	s, err := readSample(io.LimitReader(resp.Body, maxMetrics))
	if err != nil {
		return sample{}, fmt.Errorf("the figures of the hub: %w", err)
	}
	s.at = time.Now()
	return s, nil
}

// readSample reads the text form of Prometheus.
func readSample(r io.Reader) (sample, error) {
	var s sample
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue // a comment, or a series that nobody asks about
		}
		switch name {
		case "process_cpu_seconds_total":
			s.cpu = v
		case "process_resident_memory_bytes":
			s.rss = int64(v)
		case "go_goroutines":
			s.goroutines = int64(v)
		case "process_max_fds":
			s.maxFiles = int64(v)
		case "process_open_fds":
			s.openFiles = int64(v)
		}
	}
	return s, lines.Err()
}
