package hub

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/websub"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics is what a hub counts. All label values come from closed sets: routes
// of the API, statuses, states, kinds and reasons; nothing that was sent.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	tokens   *prometheus.CounterVec // refused, by auth.Reason
	reloads  *prometheus.CounterVec
	config   prometheus.Gauge // 1 if the last reload was taken
}

func newMetrics(store *graph.Store, streams *subscriptions.Streamer) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_http_requests_total", Help: "Requests by route, method and status."}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "freshwire_http_request_seconds", Help: "Time to answer, by route; streams are not counted.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .5, 1, 5, 30}}, []string{"route"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_tokens_refused_total", Help: "Requests with a token that was not good, by reason."}, []string{"reason"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "freshwire_config_reloads_total", Help: "Times that the configuration was read again, by what came of it."}, []string{"result"}),
		config: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "freshwire_config_good", Help: "0 from a reload that failed until one that does not: what is in force is not what the file says."}),
	}
	m.config.Set(1)
	for _, result := range []string{"taken", "refused"} {
		m.reloads.WithLabelValues(result)
	}
	m.registry.MustRegister(m.requests, m.seconds, m.tokens, m.reloads, m.config, storeCollector{store}, streamCollector{streams},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// reloaded counts a reload of the configuration.
func (m *metrics) reloaded(taken bool) {
	if !taken {
		m.reloads.WithLabelValues("refused").Inc()
		m.config.Set(0)
		return
	}
	m.reloads.WithLabelValues("taken").Inc()
	m.config.Set(1)
}

const routeStream = "/v1/stream"

// request counts one request. A route that is none is "other", and so is a
// method that no route has.
func (m *metrics) request(method, route string, status int, took time.Duration) {
	if route == "" {
		route = "other"
	}
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, "QUERY":
	default:
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	if route != routeStream {
		m.seconds.WithLabelValues(route).Observe(took.Seconds())
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("freshwire_"+name, help, labels, nil)
}

// storeCollector shows the figures of the store when it is asked.
type storeCollector struct{ store *graph.Store }

var (
	descResources  = desc("resources", "Resources by state.", "state")
	descFailed     = desc("failed_resources", "Ready resources whose retries are exhausted.")
	descAhead      = desc("ahead_markers", "Dependents that have seen more than the store.")
	descJobs       = desc("jobs", "Running fan-outs.")
	descOldest     = desc("journal_oldest", "Position before the oldest kept notice.")
	descNewest     = desc("journal_newest", "Position of the newest notice.")
	descDisk       = desc("store_bytes", "Bytes of the store on disk.")
	descFree       = desc("disk_free_bytes", "Bytes that the store's disk has free.")
	descReadOnly   = desc("read_only", "1 while the disk is nearly full and writes are refused.")
	descUpdates    = desc("updates_total", "Updates accepted.")
	descDuplicates = desc("updates_duplicate_total", "Updates accepted that were sent before.")
	descOutdated   = desc("updates_outdated_total", "Updates accepted that were older than what the store had.")
	descNotices    = desc("notices_total", "Notices written.", "kind", "reason")
)

func (c storeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descResources, descFailed, descAhead, descJobs, descOldest, descNewest, descDisk, descFree, descReadOnly,
		descUpdates, descDuplicates, descOutdated, descNotices} {
		ch <- d
	}
}

func (c storeCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.store.Stats()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for state, n := range s.States {
		gauge(descResources, float64(n), graph.State(state).String())
	}
	gauge(descFailed, float64(s.Failed))
	gauge(descAhead, float64(s.Markers))
	gauge(descJobs, float64(s.Jobs))
	gauge(descOldest, float64(s.Oldest.Seq))
	gauge(descNewest, float64(s.Newest.Seq))
	gauge(descDisk, float64(s.DiskBytes))
	gauge(descFree, float64(s.DiskFree))
	readOnly := 0.0
	if s.ReadOnly {
		readOnly = 1
	}
	gauge(descReadOnly, readOnly)
	counter(descUpdates, s.Updates)
	counter(descDuplicates, s.Duplicates)
	counter(descOutdated, s.Outdated)
	for name, n := range s.Notices {
		kind, reason, _ := strings.Cut(name, " ")
		counter(descNotices, n, kind, reason)
	}
}

// connectionCollector shows who holds connections of the server.
type connectionCollector struct{ *connections }

var (
	descConnections = desc("connections", "Open connections that are no streams.")
	descTooMany     = desc("connections_refused_total", "Connections closed at once because their address has too many.")
	descEvicted     = desc("connections_evicted_total", "Idle connections closed to make room for others.")
)

func (c connectionCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descConnections, descTooMany, descEvicted} {
		ch <- d
	}
}

func (c connectionCollector) Collect(ch chan<- prometheus.Metric) {
	open, refused, evicted := c.counts()
	ch <- prometheus.MustNewConstMetric(descConnections, prometheus.GaugeValue, float64(open))
	ch <- prometheus.MustNewConstMetric(descTooMany, prometheus.CounterValue, float64(refused))
	ch <- prometheus.MustNewConstMetric(descEvicted, prometheus.CounterValue, float64(evicted))
}

// streamCollector shows the figures of the streams.
type streamCollector struct{ streams *subscriptions.Streamer }

var (
	descStreams       = desc("streams", "Open streams.")
	descStreamsOpened = desc("streams_opened_total", "Streams begun.")
	descRefused       = desc("streams_refused_total", "Requests that got no stream.")
	descDelivered     = desc("stream_notices_total", "Notices delivered, counted for each reader.")
	descSent          = desc("stream_bytes_total", "Bytes written to streams.")
	descResets        = desc("stream_resets_total", "Readers told that they missed something.")
	descReplays       = desc("stream_replays_total", "Reads of the store for readers who were behind.")
	descEnded         = desc("streams_ended_total", "Streams that ended, by reason.", "reason")
)

func (c streamCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descStreams, descStreamsOpened, descRefused, descDelivered, descSent, descResets, descReplays, descEnded} {
		ch <- d
	}
}

func (c streamCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.streams.Stats()
	ch <- prometheus.MustNewConstMetric(descStreams, prometheus.GaugeValue, float64(s.Open))
	for _, x := range []struct {
		d *prometheus.Desc
		n uint64
	}{{descStreamsOpened, s.Opened}, {descRefused, s.Refused}, {descDelivered, s.Notices}, {descSent, s.Bytes},
		{descResets, s.Resets}, {descReplays, s.Replays}} {
		ch <- prometheus.MustNewConstMetric(x.d, prometheus.CounterValue, float64(x.n))
	}
	for why, n := range s.Ended {
		ch <- prometheus.MustNewConstMetric(descEnded, prometheus.CounterValue, float64(n), why)
	}
}

// webSubCollector shows the figures of callbacks' subscriptions.
type webSubCollector struct{ hub *websub.Hub }

var (
	descSubscriptions = desc("subscriptions", "WebSub subscriptions in force.")
	descOwed          = desc("websub_pending", "Verifications and denials that are owed to callbacks.")
	descVerified      = desc("websub_verifications_total", "Verifications and denials, by mode and outcome.", "mode", "outcome")
	descSubsEnded     = desc("subscriptions_ended_total", "Subscriptions that ended, by reason.", "reason")
)

func (c webSubCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSubscriptions, descOwed, descVerified, descSubsEnded} {
		ch <- d
	}
}

func (c webSubCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.hub.Stats()
	ch <- prometheus.MustNewConstMetric(descSubscriptions, prometheus.GaugeValue, float64(s.Active))
	ch <- prometheus.MustNewConstMetric(descOwed, prometheus.GaugeValue, float64(s.Pending))
	for name, n := range s.Verified {
		mode, outcome, _ := strings.Cut(name, " ")
		ch <- prometheus.MustNewConstMetric(descVerified, prometheus.CounterValue, float64(n), mode, outcome)
	}
	for why, n := range s.Ended {
		ch <- prometheus.MustNewConstMetric(descSubsEnded, prometheus.CounterValue, float64(n), why)
	}
}
