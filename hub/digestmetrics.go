package hub

import (
	"time"

	"github.com/freshwire/freshwire/digest"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	descDigests        = desc("digest_channels", "Channels of which there are digests.")
	descDigestClosed   = desc("digest_hours_closed_total", "Hours that were closed, of all channels.")
	descDigestEntries  = desc("digest_entries_total", "Entries in the hours that were closed.")
	descDigestFailures = desc("digest_failures_total", "Tries to make a digest that failed.")
	descDigestTook     = desc("digest_build_seconds", "Time that the newest hour took to be made.")
	descDigestLag      = desc("digest_lag_seconds", "Time of the hub's clock since the end of the newest hour of the channel that is furthest behind.")
	descDigestBytes    = desc("digest_bytes", "Size of all digests.")
	digestDescs        = []*prometheus.Desc{descDigests, descDigestClosed, descDigestEntries, descDigestFailures, descDigestTook, descDigestLag, descDigestBytes}
)

// digestCollector shows the figures of the digests.
type digestCollector struct {
	archive *digest.Archive
	now     func() time.Time
}

func (c digestCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range digestDescs {
		ch <- d
	}
}

func (c digestCollector) Collect(ch chan<- prometheus.Metric) {
	s, list := c.archive.Stats(), c.archive.List()
	bytes, lag := int64(0), time.Duration(0)
	for i := range list {
		bytes += list[i].Bytes
		lag = max(lag, c.now().Sub(list[i].State.Until))
	}
	for _, f := range []figure{
		{descDigests, prometheus.GaugeValue, float64(len(list))}, {descDigestClosed, prometheus.CounterValue, float64(s.Closed)},
		{descDigestEntries, prometheus.CounterValue, float64(s.Entries)}, {descDigestFailures, prometheus.CounterValue, float64(s.Failures)},
		{descDigestTook, prometheus.GaugeValue, s.Took.Seconds()}, {descDigestLag, prometheus.GaugeValue, lag.Seconds()},
		{descDigestBytes, prometheus.GaugeValue, float64(bytes)},
	} {
		f.collect(ch)
	}
}
