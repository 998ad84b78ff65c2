package hub

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/outbound"
	"github.com/freshwire/freshwire/subscriptions/delivery"
	"github.com/freshwire/freshwire/subscriptions/sink"
	"github.com/go-chi/chi/v5"
)

// openSinks makes the sinks; none is in force before the hub runs. What they name has to
// be there: a hub does not start without a secret that it is to send.
func (h *Hub) openSinks() error {
	h.sinks = sink.New(sink.Options{Feed: h.streams.FilterFeed, Engine: h.delivery, Dial: dialSink, Clock: h.clock.Now,
		ClockRate: h.cfg.ClockRate, Schemes: h.cfg.Schemes, Observe: h.cfg.Mode == ModeObserve, Log: h.log.With("component", "sinks")})
	_, err := h.sinks.Plan(h.cfg.Sinks)
	return err
}

// dialSink returns a client for the calls of one sink: its limits are its own, and so
// are its connections.
func dialSink(allow []netip.Prefix, timeout time.Duration, concurrency int) (delivery.Caller, func()) {
	c := outbound.New(outbound.Policy{Purpose: "sink", Allow: allow, Timeout: timeout,
		Keep: concurrency * 2, KeepPerHost: concurrency})
	return c, c.Close
}

// sinkShape is a sink in force, as administrators are shown it.
type sinkShape struct {
	Name       string            `json:"name"`
	Summary    string            `json:"summary"`
	Definition sink.Definition   `json:"definition"` // without secrets
	Targets    []sinkTargetShape `json:"targets"`
}

// sinkTargetShape is how one cache, or what is called by URL, is doing.
type sinkTargetShape struct {
	Cache       string      `json:"cache,omitempty"`
	Outlet      string      `json:"outlet"` // its name in dead letters
	Health      string      `json:"health"`
	Cursors     laneCursors `json:"cursors"`
	Lag         uint64      `json:"lag"`
	Calls       int         `json:"calls"`
	Waiting     int         `json:"waiting"`
	DeadLetters int         `json:"dead_letters"`
	Sent        uint64      `json:"sent"`
	Ignored     uint64      `json:"ignored"`
	Failures    uint64      `json:"failures"`
	Skipped     uint64      `json:"skipped"`
	Merged      uint64      `json:"merged"`
	Lost        uint64      `json:"lost,omitempty"`
	LastError   string      `json:"last_error,omitempty"`
	LastSuccess time.Time   `json:"last_success,omitzero"`
	NextAttempt time.Time   `json:"next_attempt,omitzero"`
}

type laneCursors struct {
	Prompt string `json:"prompt"`
	Bulk   string `json:"bulk"`
}

func shapeTarget(t *sink.Standing) sinkTargetShape {
	s := &t.State
	return sinkTargetShape{Cache: t.Target, Outlet: t.Outlet, Health: string(s.Health),
		Cursors: laneCursors{s.Cursors[graph.Prompt].String(), s.Cursors[graph.Bulk].String()}, Lag: s.Behind, Calls: s.Calls,
		Waiting: s.Waiting, DeadLetters: s.Letters, Sent: s.Sent, Ignored: s.Ignored, Failures: s.Failures, Skipped: s.Skipped,
		Merged: s.Merged, Lost: s.Lost, LastError: s.LastError, LastSuccess: s.LastSuccess.UTC(), NextAttempt: s.Next.UTC()}
}

func (h *Hub) shapeSink(name string) (sinkShape, error) {
	s, standing, err := h.sinks.Standing(name)
	if errors.Is(err, sink.ErrNoSink) {
		return sinkShape{}, refuse(unknownSink, "name", "%v", err)
	}
	if err != nil {
		return sinkShape{}, err
	}
	shape := sinkShape{Name: s.Name, Summary: s.Summary(), Definition: s.Shown(), Targets: []sinkTargetShape{}}
	for i := range standing {
		shape.Targets = append(shape.Targets, shapeTarget(&standing[i]))
	}
	return shape, nil
}

// getSinks lists the sinks in force, in the order of the configuration.
func (h *Hub) getSinks(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	items := []sinkShape{}
	for _, s := range h.sinks.All() {
		shape, err := h.shapeSink(s.Name)
		if err != nil {
			continue // a reload has just taken it away
		}
		items = append(items, shape)
	}
	return writeJSON(w, struct {
		Items []sinkShape `json:"items"`
	}{items})
}

func (h *Hub) getSink(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	shape, err := h.shapeSink(chi.URLParam(r, "name"))
	if err != nil {
		return err
	}
	return writeJSON(w, shape)
}

// postSink pauses a sink, resumes it, or has it replay what came after a position.
func (h *Hub) postSink(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	name := chi.URLParam(r, "name")
	if _, err := h.shapeSink(name); err != nil {
		return err
	}
	action, at, err := h.readSteering(w, r, "pause", "resume", "replay")
	if err != nil {
		return err
	}
	if err := h.sinks.Control(r.Context(), name, action, at); err != nil {
		return fmt.Errorf("sink %s: %w", name, err)
	}
	shape, err := h.shapeSink(name)
	if err != nil {
		return err
	}
	return writeJSON(w, shape)
}

// postSinkTest says what each sink in force would send for a notice.
func (h *Hub) postSinkTest(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var q SinkQuestion
	err := h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) { return h.readQuestion(s, name, &q) })
	})
	if err != nil {
		return err
	}
	if q.URI == "" {
		return refuse(missingField, "uri", "say which resource changes")
	}
	known := true
	res, err := h.store.Resource(q.URI)
	switch {
	case errors.Is(err, graph.ErrUnknown):
		known = false
	case err != nil:
		return fmt.Errorf("sink test: %w", err)
	default:
		q.complete(&res)
	}
	n, err := q.notice(h.cfg.Schemes, h.clock.Now())
	if err != nil {
		return err
	}
	n.Cursor = h.store.Token()
	return writeJSON(w, trySinks(h.sinks.All(), n, known))
}

// readQuestion reads one member of a question.
func (h *Hub) readQuestion(s *scanner, name string, q *SinkQuestion) (err error) {
	texts := map[string]*string{"kind": &q.Kind, "type": &q.Type, "version": &q.Version, "hash": &q.Hash,
		"change": &q.Change, "reason": &q.Reason, "lane": &q.Lane}
	switch {
	case name == "uri":
		q.URI, err = s.uri(h.cfg.Schemes)
	case name == "buckets":
		q.Buckets, err = s.texts(graph.MaxBuckets)
	case texts[name] != nil:
		var t []byte
		t, err = s.text()
		*texts[name] = string(t)
	default:
		err = errNoMember
	}
	return err
}
