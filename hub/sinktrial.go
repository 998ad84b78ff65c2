package hub

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/sink"
)

// A SinkQuestion describes a notice that need not be: what would each sink send for
// it? What is left out is what an edit of the resource would say.
type SinkQuestion struct {
	URI     string
	Kind    string // "" means changed
	Type    string
	Version string
	Hash    string
	Change  string // "" means updated, of a changed notice
	Reason  string // "" means edit, of a refresh dependency
	Lane    string // "" means prompt
	Buckets []string
}

// A SinkTrial answers a SinkQuestion.
type SinkTrial struct {
	Notice json.RawMessage `json:"notice"` // what was asked about
	Known  bool            `json:"known"`  // the resource is, and gave what the question left out
	Sinks  []sink.Trial    `json:"sinks"`
}

// TrySinks says what the sinks of a configuration would send for a notice, without a
// hub. Nothing is sent.
func TrySinks(cfg Config, q SinkQuestion) (SinkTrial, error) {
	sinks, _, err := sink.Compile(cfg.Sinks, cfg.Schemes...)
	if err != nil {
		return SinkTrial{}, err
	}
	n, err := q.notice(cfg.Schemes, time.Now())
	if err != nil {
		return SinkTrial{}, err
	}
	return trySinks(sinks, n, false), nil
}

func trySinks(sinks []*sink.Sink, n *graph.Notice, known bool) SinkTrial {
	t := SinkTrial{Notice: subscriptions.AppendNotice(nil, n), Known: known, Sinks: []sink.Trial{}}
	for _, s := range sinks {
		t.Sinks = append(t.Sinks, s.Try(n, n.At))
	}
	return t
}

// notice makes the notice that is asked about. What is wrong is a refusal that names
// the field.
func (q *SinkQuestion) notice(schemes []string, now time.Time) (*graph.Notice, error) {
	if err := graph.CheckURI(q.URI, schemes...); err != nil {
		return nil, refuse(badURI, "uri", "%v", err)
	}
	n := &graph.Notice{URI: q.URI, Type: q.Type, Version: q.Version, Hash: q.Hash, At: now, Buckets: q.Buckets}
	for _, t := range []struct{ field, text string }{{"type", q.Type}, {"version", q.Version}, {"hash", q.Hash}} {
		if t.text == "" {
			continue
		}
		if err := checkToken([]byte(t.text), graph.MaxToken); err != nil {
			return nil, inField(t.field, err)
		}
	}
	if len(q.Buckets) > graph.MaxBuckets {
		return nil, exceeds(overLimit, "buckets", graph.MaxBuckets, "buckets")
	}
	for _, b := range q.Buckets {
		if err := checkToken([]byte(b), graph.MaxURI); err != nil {
			return nil, inField("buckets", err)
		}
	}
	var err error
	if n.Kind, err = named("kind", q.Kind, graph.KindChanged, graph.KindChanged, graph.KindRefresh); err != nil {
		return nil, err
	}
	change, reason := graph.ChangeUpdated, graph.ReasonEdit
	if n.Kind == graph.KindRefresh {
		change, reason = graph.ChangeNone, graph.ReasonDependency
	}
	if n.Change, err = named("change", q.Change, change, graph.ChangeCreated, graph.ChangeUpdated, graph.ChangeDeleted); err != nil {
		return nil, err
	}
	if n.Lane, err = named("lane", q.Lane, graph.Prompt, graph.Prompt, graph.Bulk); err != nil {
		return nil, err
	}
	var reasons []graph.Reason
	for r := graph.ReasonEdit; r <= graph.ReasonPeer; r++ {
		reasons = append(reasons, r)
	}
	n.Reason, err = named("reason", q.Reason, reason, reasons...)
	return n, err
}

// inField says of which field a refusal is.
func inField(field string, err error) error {
	if no := (*refusal)(nil); errors.As(err, &no) && no.field == "" {
		no.field = field
	}
	return err
}

// named returns the value of that name, def for none.
func named[T interface {
	~uint8
	String() string
}](field, name string, def T, known ...T) (T, error) {
	if name == "" {
		return def, nil
	}
	if i := slices.IndexFunc(known, func(v T) bool { return v.String() == name }); i >= 0 {
		return known[i], nil
	}
	return def, refuse(badValue, field, "%.40q is unknown", name)
}

// complete fills in what the question leaves out and the store knows.
func (q *SinkQuestion) complete(r *graph.Resource) {
	if q.Type == "" {
		q.Type = r.Type
	}
	if q.Version == "" && q.Hash == "" {
		q.Version, q.Hash = r.Version, r.Hash
	}
	if q.Buckets == nil {
		q.Buckets = r.Buckets
	}
}
