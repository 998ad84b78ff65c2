package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

// OutletPrefix begins the names that sinks have for the engine: sink/NAME, or for
// each of several caches sink/NAME/HOST:PORT.
const OutletPrefix = "sink/"

// ErrNoSink reports a name that no sink in force has.
var ErrNoSink = errors.New("there is no such sink")

// An engine calls outlets: a [delivery.Engine].
type engine interface {
	Attach(ctx context.Context, name string, o delivery.Outlet, s delivery.Settings) error
	Detach(ctx context.Context, name string, forget bool) error
	News(name string)
	Control(ctx context.Context, name, action string, from graph.Cursor) error
	State(name string) (delivery.State, bool)
}

// Options configures Sinks. Feed, Engine and Dial are required.
type Options struct {
	Feed   func(*subscriptions.Matcher) *subscriptions.Feed
	Engine engine
	// Dial returns what makes the calls of one sink: to public addresses and to those
	// in allow, each within timeout. Close is called when no more are made.
	Dial      func(allow []netip.Prefix, timeout time.Duration, concurrency int) (c delivery.Caller, close func())
	Clock     func() time.Time // nil means time.Now
	ClockRate float64          // how fast it goes; 0 means 1
	Schemes   []string         // of URIs, as in [graph.CheckURI]
	Observe   bool             // nothing is sent: every sink runs dry
	Log       *slog.Logger     // nil means none
}

// Sinks are those in force. They are safe for concurrent use.
type Sinks struct {
	o         Options
	replacing sync.Mutex // held by whoever changes what is in force

	mu      sync.RWMutex // held briefly
	inForce []*running
}

// A running sink is one in force.
type running struct {
	*Sink
	outlets  []*outlet
	settings []delivery.Settings // of each outlet
	hangUp   func()
}

// A Change is what becomes of a sink when the configuration does: it is added,
// changed or removed.
type Change struct{ Name, Change string }

// What becomes of a sink.
const (
	Added   = "added"
	Changed = "changed"
	Removed = "removed"
)

// New returns sinks of which none is in force yet.
func New(o Options) *Sinks {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.ClockRate = cmp.Or(o.ClockRate, 1)
	return &Sinks{o: o}
}

// Plan says what [Sinks.Replace] would change, or, as an *[Error], why it cannot.
func (s *Sinks) Plan(defs []Definition) ([]Change, error) {
	sinks, _, err := Compile(defs, s.o.Schemes...)
	if err == nil {
		err = CheckSecrets(sinks)
	}
	if err != nil {
		return nil, err
	}
	return changes(s.running(), sinks), nil
}

func (s *Sinks) running() []*running {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.inForce
}

// changes compares definitions by name.
func changes(was []*running, is []*Sink) (list []Change) {
	for _, r := range was {
		if !slices.ContainsFunc(is, func(s *Sink) bool { return s.Name == r.Name }) {
			list = append(list, Change{r.Name, Removed})
		}
	}
	for _, s := range is {
		i := slices.IndexFunc(was, func(r *running) bool { return r.Name == s.Name })
		switch {
		case i < 0:
			list = append(list, Change{s.Name, Added})
		case !reflect.DeepEqual(was[i].Definition, s.Definition):
			list = append(list, Change{s.Name, Changed})
		}
	}
	return list
}

// Replace puts these definitions in force, or none of them if one cannot be used.
// Who is equal is left alone. Who is new begins now. Who is changed goes on at its
// position, also with what waits to be tried again. Who is gone makes no more calls;
// its position and what waits are kept, so that one that comes back under its name
// goes on where it was. Positions are durable when it returns. If one cannot begin, as on a
// disk that is nearly full, those of before go on.
func (s *Sinks) Replace(ctx context.Context, defs []Definition) ([]Change, error) {
	return s.replace(ctx, defs, false)
}

// Begin is Replace for a hub that starts, which is to call for whom it can: a new sink for
// which there is no room on the disk is left out, and logged, until the next Replace.
func (s *Sinks) Begin(ctx context.Context, defs []Definition) error {
	_, err := s.replace(ctx, defs, true)
	return err
}

func (s *Sinks) replace(ctx context.Context, defs []Definition, some bool) ([]Change, error) {
	sinks, warnings, err := Compile(defs, s.o.Schemes...)
	if err == nil {
		err = CheckSecrets(sinks)
	}
	if err != nil {
		return nil, err
	}
	s.replacing.Lock()
	defer s.replacing.Unlock()
	was := s.running()
	for _, w := range warnings {
		s.o.Log.Warn("a sink may not do what is meant", "sink", w.Sink, "warning", w.Text)
	}
	is := make([]*running, 0, len(sinks))
	for _, c := range sinks {
		is = append(is, s.prepare(c, sinks))
	}
	keep := s.matchUp(was, is)
	// Who is changed is replaced without a gap; first stages come first and go last, so
	// that none runs on while that which it waits for is gone.
	var begun []*running
	for _, r := range byStage(is, false) {
		if slices.Contains(keep, r) {
			continue
		}
		begun = append(begun, r)
		err := s.begin(ctx, r)
		if full := (*graph.NoSpaceError)(nil); some && errors.As(err, &full) {
			s.o.Log.Error("a sink is not in force; reload the configuration when there is room", "sink", r.Name, "err", err)
			if err = s.end(ctx, r, was); err == nil {
				is = slices.DeleteFunc(is, func(other *running) bool { return other == r })
			}
		}
		if err != nil {
			return nil, errors.Join(err, s.takeBack(ctx, begun, was))
		}
	}
	for _, r := range byStage(was, true) {
		if slices.Contains(keep, r) {
			continue
		}
		if err := s.end(ctx, r, is); err != nil {
			return nil, err
		}
	}
	s.set(is)
	return changes(was, sinks), nil
}

// takeBack puts those of before in force again, in the place of some that have begun, the
// last of them perhaps in part.
func (s *Sinks) takeBack(ctx context.Context, begun, was []*running) (err error) {
	was = slices.Clone(was)
	sinks := make([]*Sink, len(was))
	for i, r := range was {
		sinks[i] = r.Sink
	}
	for _, r := range slices.Backward(begun) {
		if i := slices.IndexFunc(was, func(old *running) bool { return old.Name == r.Name }); i >= 0 {
			old := was[i]
			was[i] = s.prepare(old.Sink, sinks)
			err = errors.Join(err, s.begin(ctx, was[i]))
			old.close()
		}
		err = errors.Join(err, s.end(ctx, r, was))
	}
	s.set(was)
	return err
}

func (s *Sinks) set(is []*running) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inForce = is
}

// matchUp puts those that stay into is, and returns them.
func (s *Sinks) matchUp(was, is []*running) (keep []*running) {
	for i, r := range is {
		for _, old := range was {
			if old.Name == r.Name && reflect.DeepEqual(old.Definition, r.Definition) && old.byBucket == r.byBucket && sameSettings(old, r) {
				old.Sink.index = r.Sink.index
				is[i] = old
				keep = append(keep, old)
			}
		}
	}
	return keep
}

func sameSettings(a, b *running) bool {
	return slices.EqualFunc(a.settings, b.settings, func(x, y delivery.Settings) bool { return slices.Equal(x.Behind, y.Behind) })
}

// byStage sorts by stage.
func byStage(list []*running, backwards bool) []*running {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *running) int { return a.Stage - b.Stage })
	if backwards {
		slices.Reverse(list)
	}
	return list
}

// outletName is what one target of a sink is to the engine.
func outletName(sink, target string) string {
	if target == "" {
		return OutletPrefix + sink
	}
	return OutletPrefix + sink + "/" + target
}

// prepare makes what is to run of a sink. Nothing is called yet.
func (s *Sinks) prepare(c *Sink, all []*Sink) *running {
	r := &running{Sink: c}
	var behind []string
	for _, o := range all {
		if c.Group == "" || o.Group != c.Group || o.Stage != c.Stage-1 {
			continue
		}
		for _, target := range o.targets {
			behind = append(behind, outletName(o.Name, target))
		}
	}
	for _, target := range c.targets {
		name := outletName(c.Name, target)
		r.outlets = append(r.outlets, &outlet{sink: c, target: target, name: name, now: s.o.Clock, rate: s.o.ClockRate,
			news: func() { s.o.Engine.News(name) }})
		r.settings = append(r.settings, delivery.Settings{
			Host: c.hostOf(target), Concurrency: c.Concurrency, Rate: c.Rate, Schedule: c.schedule(), Behind: behind,
			DryRun: c.DryRun || s.o.Observe,
		})
	}
	return r
}

// hostOf names whom calls of a target are counted for.
func (s *Sink) hostOf(target string) string {
	if target != "" {
		return target
	}
	for _, b := range s.branches {
		if a := b.action; len(a.caches) == 0 && !a.foreignHost() {
			return a.urls[0].host[0].text
		}
	}
	return OutletPrefix + s.Name // its hosts are those of its notices
}

// begin has the engine call r. What has begun of one that fails, end ends.
func (s *Sinks) begin(ctx context.Context, r *running) error {
	caller, hangUp := s.o.Dial(r.allow, r.timeout, r.Concurrency)
	r.hangUp = hangUp
	for i, o := range r.outlets {
		m, err := subscriptions.Compile(r.filter, s.o.Schemes...)
		if err == nil {
			o.feed = s.o.Feed(m)
			settings := r.settings[i]
			settings.Caller, settings.From = confidant{caller}, o.feed.Head()
			o.stop = o.feed.Watch(o.news)
			err = s.o.Engine.Attach(ctx, o.name, o, settings)
		}
		if err != nil {
			return fmt.Errorf("sink %s: %w", r.Name, err)
		}
	}
	return nil
}

// end has the engine call r no more, but for the outlets that others have taken over;
// what it knows of r stays.
func (s *Sinks) end(ctx context.Context, r *running, is []*running) error {
	for _, o := range r.outlets {
		taken := slices.ContainsFunc(is, func(n *running) bool {
			return slices.ContainsFunc(n.outlets, func(other *outlet) bool { return other.name == o.name })
		})
		if !taken {
			if err := s.o.Engine.Detach(ctx, o.name, false); err != nil {
				return fmt.Errorf("sink %s: %w", r.Name, err)
			}
		}
	}
	r.close()
	return nil
}

// close ends the watching of the journal and the connections.
func (r *running) close() {
	for _, o := range r.outlets {
		o.close()
	}
	r.hangUp()
}

// Close ends the watching of the journal and the connections. The engine's own end
// is what stops the calls.
func (s *Sinks) Close() {
	for _, r := range s.running() {
		r.close()
	}
}

// All returns the sinks in force, in the order of the configuration.
func (s *Sinks) All() []*Sink {
	var all []*Sink
	for _, r := range s.running() {
		all = append(all, r.Sink)
	}
	return all
}

// A Standing says how one target of a sink is doing.
type Standing struct {
	Target string // a cache, "" for what is called by URL
	Outlet string // its name for the engine, and in dead letters
	State  delivery.State
}

// Standing returns how the targets of a sink are doing, or [ErrNoSink].
func (s *Sinks) Standing(name string) (*Sink, []Standing, error) {
	r, err := s.find(name)
	if err != nil {
		return nil, nil, err
	}
	var all []Standing
	for _, o := range r.outlets {
		state, _ := s.o.Engine.State(o.name)
		all = append(all, Standing{o.target, o.name, state})
	}
	return r.Sink, all, nil
}

func (s *Sinks) find(name string) (*running, error) {
	for _, r := range s.running() {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: %.80q", ErrNoSink, name)
}

// Control pauses a sink, resumes it, or has it go back to a position and replay what
// came after; all of its targets, in order.
func (s *Sinks) Control(ctx context.Context, name, action string, from graph.Cursor) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	for _, o := range r.outlets {
		if err := s.o.Engine.Control(ctx, o.name, action, from); err != nil {
			return err
		}
	}
	return nil
}

// schedule says when calls that failed are made again.
func (s *Sink) schedule() delivery.Schedule {
	return delivery.Schedule{Steps: s.after, Limit: s.attempts}
}
