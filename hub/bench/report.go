package bench

import (
	"errors"
	"fmt"
	"time"
)

// A Report is what a run found. Its JSON names are stable; counts and sizes are
// of the measured time, exactness is of the whole run.
type Report struct {
	Hub         string  `json:"hub"`
	Mode        Mode    `json:"mode"`
	Filters     Filters `json:"filters"`
	Connections int     `json:"connections"`
	Stalled     int     `json:"stalled"`      // of them, readers that do not read
	NoticeBytes int     `json:"notice_bytes"` // of one notice on the wire
	LingerMS    float64 `json:"linger_ms"`

	ConnectSeconds      float64 `json:"connect_s"` // until all were open
	Seconds             float64 `json:"measured_s"`
	Offered             float64 `json:"offered_per_s"` // 0: as fast as the readers get them
	Published           uint64  `json:"published"`
	PublishedRate       float64 `json:"published_per_s"`
	Deliveries          uint64  `json:"deliveries"`
	DeliveryRate        float64 `json:"deliveries_per_s"`
	ByteRate            float64 `json:"bytes_per_s"`
	HubCPU              float64 `json:"hub_cpu_s"`
	DeliveriesPer       float64 `json:"deliveries_per_hub_cpu_s"`
	BenchCPU            float64 `json:"bench_cpu_s"`
	Stuck               bool    `json:"stuck"`      // readers got nothing for longer than the run's patience
	Latency             Spread  `json:"latency_ms"` // from just before an update was sent to its notice; of those who read
	CatchUp             Spread  `json:"catch_up_ms"`
	HubMemory           Course  `json:"hub_rss_bytes"`
	IdlePerConnection   float64 `json:"hub_idle_bytes_per_connection"` // memory, against before
	LoadedPerConnection float64 `json:"hub_loaded_bytes_per_connection"`
	HubGoroutines       Course  `json:"hub_goroutines"`
	HubShare            float64 `json:"hub_cpu_share"` // of one processor

	Expected    uint64 `json:"expected"` // deliveries the filters ask for
	Lost        uint64 `json:"lost"`
	Duplicated  uint64 `json:"duplicated"`
	Reordered   uint64 `json:"reordered"`
	Unwanted    uint64 `json:"unwanted"`    // outside of the reader's filter
	Altered     uint64 `json:"altered"`     // other bytes than another reader got
	Unjournaled uint64 `json:"unjournaled"` // updates acknowledged, of which no notice was written
	Resets      uint64 `json:"resets"`      // readers told that they missed something
	Disconnects uint64 `json:"disconnects"` // streams that ended and were resumed
	Dropped     uint64 `json:"stalled_dropped"`
	Malformed   uint64 `json:"malformed"` // streams that made no sense
	Fault       string `json:"fault,omitempty"`
}

// A Spread says how long something took, in milliseconds. P50 and P99 are at most
// 3 % too high.
type Spread struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// A Course is a figure of the hub before the readers came, when they had come,
// and when all was done.
type Course struct {
	Before int64 `json:"before"`
	Idle   int64 `json:"idle"`
	After  int64 `json:"after"`
}

// ErrInexact reports that a reader did not get what it should.
var ErrInexact = errors.New("the streams are not exact")

// Err returns an ErrInexact that says what was wrong, or nil.
func (r *Report) Err() error {
	if r.Lost+r.Duplicated+r.Reordered+r.Unwanted+r.Altered+r.Unjournaled+r.Malformed == 0 {
		return nil
	}
	err := fmt.Errorf("%w: of %d deliveries %d lost, %d duplicated, %d reordered, %d unwanted, %d altered; "+
		"%d updates without a notice, %d malformed streams", ErrInexact, r.Expected, r.Lost, r.Duplicated, r.Reordered,
		r.Unwanted, r.Altered, r.Unjournaled, r.Malformed)
	if r.Fault != "" {
		err = fmt.Errorf("%w; the first: %s", err, r.Fault)
	}
	return err
}

func newSpread(h *histogram) Spread {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return Spread{ms(h.quantile(0.5)), ms(h.quantile(0.99)), ms(h.max)}
}

// samples fills in what the hub said of itself: before the readers came, when
// they had come, and in the end.
func (r *Report) samples(before, idle, after sample) {
	r.HubMemory = Course{before.rss, idle.rss, after.rss}
	r.HubGoroutines = Course{before.goroutines, idle.goroutines, after.goroutines}
	n := float64(max(r.Connections, 1))
	r.IdlePerConnection = float64(idle.rss-before.rss) / n
	r.LoadedPerConnection = float64(after.rss-before.rss) / n
}

// window fills in what happened between two moments.
func (r *Report) window(from, to moment) {
	last := to.at
	if to.lastDelivery.After(from.at) {
		last = to.lastDelivery
	}
	took := last.Sub(from.at)
	r.Seconds = took.Seconds()
	r.Deliveries = to.delivered - from.delivered
	r.DeliveryRate = rateOf(r.Deliveries, took)
	r.ByteRate = rateOf(to.bytes-from.bytes, took)
	r.HubCPU = to.hub.cpu - from.hub.cpu
	if r.HubCPU > 0 {
		r.DeliveriesPer = float64(r.Deliveries) / r.HubCPU
	}
	r.HubShare = r.HubCPU / max(to.at.Sub(from.at).Seconds(), 1e-9)
	r.BenchCPU = (to.own - from.own).Seconds()
}

// A moment is what has happened up to then.
type moment struct {
	at           time.Time
	hub          sample
	own          time.Duration // this process's processor time
	delivered    uint64
	bytes        uint64
	written      int64
	lastDelivery time.Time
}
