package hub

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
	"github.com/freshwire/freshwire/subscriptions/sink"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// openDelivery makes what calls others: the engine, and those it calls for. Nobody is
// called before the hub runs.
func (h *Hub) openDelivery() error {
	all, err := subscriptions.Compile(subscriptions.Filter{})
	if err != nil {
		return err
	}
	h.delivery, err = delivery.New(h.store, delivery.Options{Clock: h.clock.Now, ClockRate: h.cfg.ClockRate,
		Head: h.streams.FilterFeed(all).Head, Oldest: h.store.Oldest, PerHost: callsPerHost, Log: h.log.With("component", "delivery"), Ended: h.outletEnded})
	if err != nil {
		return err
	}
	if err := h.openSinks(); err != nil {
		return err
	}
	h.metrics.registry.MustRegister(deliveryCollector{h.delivery}, sinkCollector{h.sinks})
	return h.openCallbacks()
}

// callOut calls others until ctx ends, and returns when what is known of it is on disk.
// InForce is closed when the sinks of the configuration are, or cannot be.
func (h *Hub) callOut(ctx context.Context, inForce chan<- struct{}) error {
	defer h.callbacks.Close()
	defer h.sinks.Close()
	h.inForce.mu.Lock()
	err := h.sinks.Begin(ctx, h.inForce.config.Sinks)
	h.inForce.mu.Unlock()
	close(inForce)
	if err != nil && ctx.Err() == nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.delivery.Run(ctx) })
	g.Go(func() error { return h.websub.Run(ctx) })
	return g.Wait()
}

// readSteering reads what is to be done with a sink or a subscription, one of actions, and
// where a replay begins: a cursor, oldest or now.
func (h *Hub) readSteering(w http.ResponseWriter, r *http.Request, actions ...string) (action string, at graph.Cursor, err error) {
	var from string
	err = h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) error {
			into := map[string]*string{"action": &action, "from": &from}[name]
			if into == nil {
				return errNoMember
			}
			t, err := s.text()
			*into = string(t)
			return err
		})
	})
	last := len(actions) - 1
	all := strings.Join(actions[:last], ", ") + " or " + actions[last]
	switch {
	case err != nil:
		return "", at, err
	case action == "":
		return "", at, refuse(missingField, "action", "say %s", all)
	case !slices.Contains(actions, action):
		return "", at, refuse(badValue, "action", "%.40q is not %s", action, all)
	case action == "replay":
		at, err = h.replayFrom(from)
	case from != "":
		err = refuse(badValue, "from", "only a replay begins somewhere")
	}
	return action, at, err
}

// replayFrom reads where a replay begins, and refuses what the journal does not have.
func (h *Hub) replayFrom(from string) (at graph.Cursor, err error) {
	oldest, newest := h.store.Oldest(), h.store.Token()
	switch from {
	case "":
		return at, refuse(missingField, "from", "say after which position, or oldest, or now")
	case "oldest":
		return oldest, nil
	case "now":
		return newest, nil
	}
	if at, err = graph.ParseCursor(from); err != nil {
		return at, refuse(badValue, "from", "%v", err)
	}
	if at.Epoch != oldest.Epoch || at.Seq < oldest.Seq || at.Seq > newest.Seq {
		return at, refuse(cursorReset, "from", "the journal reaches from %s to %s", oldest, newest)
	}
	return at, nil
}

// A figure is one metric, and what it is worth.
type figure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value float64
}

func (f *figure) collect(ch chan<- prometheus.Metric, labels ...string) {
	ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value, labels...)
}

var (
	descOutlets   = desc("delivery_outlets", "Subscriptions and sinks, each cache of one counted, that are called.")
	descCalling   = desc("delivery_calls", "Calls under way.")
	descBrake     = desc("delivery_paused", "1 while the brake on all calls is on.")
	descCalls     = desc("delivery_calls_total", "Calls made.")
	descTaken     = desc("delivery_sent_total", "Calls that were taken.")
	descFailures  = desc("delivery_failures_total", "Calls that failed.")
	descRetries   = desc("delivery_retries_total", "Calls that were set to be made again.")
	descGivenUp   = desc("delivery_given_up_total", "Contents of subscriptions that were given up for now.")
	descDead      = desc("delivery_dead_letters_total", "Calls that became dead letters.")
	descMerged    = desc("delivery_merged_total", "Notices that a later one about the same stood for.")
	deliveryDescs = []*prometheus.Desc{descOutlets, descCalling, descBrake, descCalls, descTaken, descFailures, descRetries, descGivenUp, descDead, descMerged}
)

// deliveryCollector shows the figures of all calls together.
type deliveryCollector struct{ engine *delivery.Engine }

func (c deliveryCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range deliveryDescs {
		ch <- d
	}
}

func (c deliveryCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.engine.Stats()
	brake := 0.0
	if s.Paused {
		brake = 1
	}
	for _, f := range []figure{
		{descOutlets, prometheus.GaugeValue, float64(s.Outlets)}, {descCalling, prometheus.GaugeValue, float64(s.Open)},
		{descBrake, prometheus.GaugeValue, brake}, {descCalls, prometheus.CounterValue, float64(s.Calls)},
		{descTaken, prometheus.CounterValue, float64(s.Sent)}, {descFailures, prometheus.CounterValue, float64(s.Failed)},
		{descRetries, prometheus.CounterValue, float64(s.Retried)}, {descGivenUp, prometheus.CounterValue, float64(s.GivenUp)},
		{descDead, prometheus.CounterValue, float64(s.Dead)}, {descMerged, prometheus.CounterValue, float64(s.Merged)},
	} {
		f.collect(ch)
	}
}

var (
	descSinkLag      = desc("sink_lag", "Positions of the journal that a sink's hindmost cache has not had; 0 if nothing waits.", "sink")
	descSinkWaiting  = desc("sink_waiting", "Calls of a sink that are to be made again, or wait for the stage before.", "sink")
	descSinkLetters  = desc("sink_dead_letters", "Dead letters of a sink.", "sink")
	descSinkSent     = desc("sink_sent_total", "Calls of a sink that were taken.", "sink")
	descSinkIgnored  = desc("sink_ignored_total", "Calls of a sink whose answer counts as done.", "sink")
	descSinkFailures = desc("sink_failures_total", "Calls of a sink that failed.", "sink")
	descSinkSkipped  = desc("sink_skipped_total", "Notices that a sink left out because they were older than max_age.", "sink")
	descSinkMerged   = desc("sink_merged_total", "Notices of a sink that a later one about the same stood for.", "sink")
	sinkDescs        = []*prometheus.Desc{descSinkLag, descSinkWaiting, descSinkLetters, descSinkSent, descSinkIgnored, descSinkFailures,
		descSinkSkipped, descSinkMerged}
)

// sinkCollector shows how each sink is doing, under the name that its operator gave it.
type sinkCollector struct{ sinks *sink.Sinks }

func (c sinkCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range sinkDescs {
		ch <- d
	}
}

func (c sinkCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.sinks.All() {
		_, targets, err := c.sinks.Standing(s.Name)
		if err != nil {
			continue // a reload has just taken it away
		}
		var sum delivery.State
		for i := range targets {
			t := &targets[i].State
			sum.Behind = max(sum.Behind, t.Behind)
			sum.Waiting, sum.Letters = sum.Waiting+t.Waiting, sum.Letters+t.Letters
			sum.Sent, sum.Ignored, sum.Failures = sum.Sent+t.Sent, sum.Ignored+t.Ignored, sum.Failures+t.Failures
			sum.Skipped, sum.Merged = sum.Skipped+t.Skipped, sum.Merged+t.Merged
		}
		for _, f := range []figure{
			{descSinkLag, prometheus.GaugeValue, float64(sum.Behind)}, {descSinkWaiting, prometheus.GaugeValue, float64(sum.Waiting)},
			{descSinkLetters, prometheus.GaugeValue, float64(sum.Letters)}, {descSinkSent, prometheus.CounterValue, float64(sum.Sent)},
			{descSinkIgnored, prometheus.CounterValue, float64(sum.Ignored)}, {descSinkFailures, prometheus.CounterValue, float64(sum.Failures)},
			{descSinkSkipped, prometheus.CounterValue, float64(sum.Skipped)}, {descSinkMerged, prometheus.CounterValue, float64(sum.Merged)},
		} {
			f.collect(ch, s.Name)
		}
	}
}
