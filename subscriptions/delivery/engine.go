package delivery

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// defaultGlobal bounds the calls of all: each holds a descriptor and about 50 KB.
	defaultGlobal = 256
	// defaultPerHost bounds the calls of one host: more do not make it faster, and one
	// that hangs takes no more places.
	defaultPerHost = 8
	// slowAfter is how long a call holds its place: one that has had no answer by then
	// most likely hangs, and others go on. Places are held in real time, however fast
	// the clock goes.
	slowAfter = time.Second
	// slowShare bounds the calls that hold none any more, in global limits: each still
	// has its descriptor.
	slowShare = 2
	// cutters bounds how many read the journal for their outlets at once.
	cutters = 4
	// flushEach is how long what is known may be in memory alone; a crash repeats the
	// calls of so long.
	flushEach = 100 * time.Millisecond
	// idleEach is how often the cursors of outlets that have nothing to do are looked at.
	idleEach = time.Minute
	// drain is how long calls may go on when the engine ends.
	drain = 3 * time.Second
)

// A Ledger keeps records: a [graph.Store].
type Ledger interface {
	PutRecords(ctx context.Context, records []graph.Record) error
	Records(prefix string, f func(key string, value []byte) error) error
}

// Options configures an Engine. Head and Oldest are required.
type Options struct {
	Clock     func() time.Time    // nil means time.Now
	ClockRate float64             // how fast it goes; 0 means 1
	Head      func() graph.Cursor // up to where outlets can cut
	Oldest    func() graph.Cursor // before what the journal still has
	Global    int                 // calls at once, beside those without an answer for a second, of which there may be twice as many; 0 means 256
	PerHost   int                 // calls at once at one host, unless an outlet of it may have more; 0 means 8
	Random    func() float64      // from 0 up to 1; nil means the machine's
	Log       *slog.Logger        // nil means none
	// Ended is told of an outlet that ended because of an answer, after it is durable.
	Ended func(name string)
}

// ErrUnknown reports a name that no outlet has, or an id that no dead letter has.
var ErrUnknown = errors.New("there is no such outlet or letter")

// An Engine calls outlets. It is safe for concurrent use and needs [Engine.Run].
type Engine struct {
	o      Options
	ledger Ledger
	log    *slog.Logger

	// attaching is held while outlets come and go.
	attaching sync.Mutex
	// flushing is held while records are written, so that they are written in order.
	flushing sync.Mutex

	mu      sync.Mutex
	outlets map[string]*outlet
	leaving map[string]*outlet // that were taken out while they were called
	resting map[string]*rest   // rows of outlets that are not attached
	hosts   map[string]*host
	ring    queue[*host]   // those with a free place and somebody who wants it
	cutting queue[*outlet] // those whose part of the journal is to be read
	cutters int
	tasks   queue[task] // for workers to begin with
	flights list.List   // calls that hold a place, the oldest first
	slow    list.List   // calls that hold none any more
	loosen  *time.Timer // when the oldest gives up its place, if somebody waits for it
	times   times
	alarm   *time.Timer
	alarmAt time.Time // when it rings
	brake   bool
	running bool
	calling context.Context                 // of all calls
	behind  map[string]map[*outlet]struct{} // who waits for the acknowledgements of an outlet
	dirty   chan struct{}                   // has something when there is something to be written
	changed map[*outlet]struct{}
	rows    map[string][]byte // to be written, nil to be deleted
	work    sync.WaitGroup
	stats   Stats
	settled graph.Cursor // the head of a while ago: whoever has had no news since has had all up to it
}

// New reads what l remembers. Nothing is called before [Engine.Run].
func New(l Ledger, o Options) (*Engine, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.ClockRate <= 0 {
		o.ClockRate = 1
	}
	if o.Global <= 0 {
		o.Global = defaultGlobal
	}
	if o.PerHost <= 0 {
		o.PerHost = defaultPerHost
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{o: o, ledger: l, log: o.Log, outlets: map[string]*outlet{}, leaving: map[string]*outlet{}, resting: map[string]*rest{}, hosts: map[string]*host{},
		behind: map[string]map[*outlet]struct{}{}, dirty: make(chan struct{}, 1), changed: map[*outlet]struct{}{}, rows: map[string][]byte{}}
	err := e.load("")
	if err == nil {
		err = l.Records(keyBrake, func(string, []byte) error { e.brake = true; return nil })
	}
	return e, err
}

// Run calls until ctx ends; then it lets calls in flight end for a moment, cuts off the
// rest, and writes down what is known. It returns an error if that cannot be written.
func (e *Engine) Run(ctx context.Context) error {
	calling, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	e.mu.Lock()
	e.running, e.calling = true, calling
	e.settled = e.o.Head()
	e.advance()
	e.mu.Unlock()
	err := e.keep(ctx)
	e.mu.Lock()
	e.running = false
	if e.alarm != nil {
		e.alarm.Stop()
	}
	if e.loosen != nil {
		e.loosen.Stop()
	}
	e.turnAway()
	e.mu.Unlock()
	timer := time.AfterFunc(drain, cut)
	e.work.Wait()
	timer.Stop()
	return errors.Join(err, e.Flush(context.WithoutCancel(ctx)))
}

// keep writes down what is known, a moment after it is, until ctx ends.
func (e *Engine) keep(ctx context.Context) error {
	idle := time.NewTicker(idleEach)
	defer idle.Stop()
	soon := time.NewTimer(flushEach)
	defer soon.Stop()
	for {
		dirty := e.dirty
		for armed := true; armed; {
			select {
			case <-ctx.Done():
				return nil
			case <-idle.C:
				e.passIdle()
			case <-dirty:
				dirty = nil
				soon.Reset(flushEach)
			case <-soon.C:
				armed = false
			}
		}
		var full *graph.NoSpaceError
		err := e.Flush(ctx)
		switch {
		case errors.As(err, &full): // what could not be written is tried again
			soon.Reset(time.Second)
		case err != nil && ctx.Err() == nil:
			return err
		case e.holds():
			soon.Reset(flushEach)
		}
	}
}

// toFlush has keep write, if there is anything to be written. The lock is held.
func (e *Engine) toFlush() {
	if len(e.changed)+len(e.rows) == 0 {
		return
	}
	select {
	case e.dirty <- struct{}{}:
	default:
	}
}

// Attach begins to call an outlet, or goes on where it was left: its state is found by
// name. Of one that is attached it replaces what is called and how, once the calls in
// flight have ended. It is durable when Attach returns nil. A new one whose state cannot
// be written, as on a disk that is nearly full, is not attached.
func (e *Engine) Attach(ctx context.Context, name string, o Outlet, s Settings) error {
	if name == "" || s.Caller == nil && !s.DryRun {
		return fmt.Errorf("outlet %q has no name, or nobody to call", name)
	}
	if s.Serial || s.Concurrency <= 0 {
		s.Concurrency = 1
	}
	known, err := e.attach(ctx, name, o, s)
	if err != nil || known {
		return err
	}
	err = e.durable(ctx, name) // one write for all who attach at once
	e.born(name, err == nil)
	return err
}

// born begins to call a new outlet, or takes it out if it could not be written.
func (e *Engine) born(name string, written bool) {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.outlets[name]
	if out == nil || !out.unborn {
		return // somebody has attached or detached it since
	}
	if written {
		out.unborn = false
		e.want(out)
	} else {
		e.takeOut(out)
		e.rows[keyOutlet+name] = nil // if it was written all the same
	}
	e.advance()
}

// attach is Attach, but that a new one is not written down yet.
func (e *Engine) attach(ctx context.Context, name string, o Outlet, s Settings) (known bool, err error) {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	if err := e.detach(ctx, name); err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	was, known := e.resting[name]
	delete(e.resting, name)
	out := e.newOutlet(name, o, s, was)
	if !known {
		from := s.From
		if from.IsZero() {
			from = e.headOf(&out.settings)
		}
		for lane := range out.lanes {
			out.lanes[lane].start(from.Seq)
		}
		out.unborn = true
		e.changed[out] = struct{}{}
	}
	e.outlets[name] = out
	out.news()
	e.want(out)
	e.recheck(out)
	e.advance()
	return known, nil
}

// headOf is up to where an outlet can cut.
func (e *Engine) headOf(s *Settings) graph.Cursor {
	if s.Head != nil {
		return s.Head()
	}
	return e.o.Head()
}

// Detach stops calling an outlet. Its state is kept for when it is attached again, or
// forgotten with its retries and dead letters; that is durable when Detach returns.
func (e *Engine) Detach(ctx context.Context, name string, forget bool) error {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	if err := e.detach(ctx, name); err != nil || !forget {
		return err
	}
	if err := e.forget(name); err != nil {
		return err
	}
	return e.durable(ctx, name)
}

// detach takes out an outlet, if it is attached, and has what is kept of it rest.
func (e *Engine) detach(ctx context.Context, name string) error {
	e.mu.Lock()
	out := e.outlets[name]
	if out == nil {
		e.mu.Unlock()
		return nil
	}
	e.put(out)
	e.takeOut(out)
	e.mu.Unlock()
	if err := e.durable(ctx, name); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.load(name)
}

// takeOut ends the part of an outlet. The lock is held.
func (e *Engine) takeOut(out *outlet) {
	out.gone = true
	delete(e.outlets, out.name)
	if out.calls > 0 {
		e.leaving[out.name] = out
	}
	delete(e.changed, out)
	e.times.drop(out)
	e.release(out.host)
	for _, prev := range out.settings.Behind {
		delete(e.behind[prev], out)
	}
}

// News says that something may wait for an outlet. One that is not attached is left.
func (e *Engine) News(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if out := e.outlets[name]; out != nil {
		out.news()
		e.want(out)
		e.advance()
	}
}

// Pause puts on the brake for all calls, or takes it off. Calls in flight go on. It is
// durable when Pause returns.
func (e *Engine) Pause(ctx context.Context, paused bool) error {
	e.mu.Lock()
	e.brake = paused
	e.rows[keyBrake] = nil
	if paused {
		e.rows[keyBrake] = []byte("{}")
	}
	e.advance()
	e.mu.Unlock()
	return e.durable(ctx, "")
}

// Paused reports whether the brake is on.
func (e *Engine) Paused() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.brake
}

// Control pauses one outlet ("pause"), lets it go on at once, whatever it waits for
// ("resume"), or has it begin again at a position ("replay"). It is durable when Control
// returns.
func (e *Engine) Control(ctx context.Context, name, action string, from graph.Cursor) error {
	e.mu.Lock()
	out := e.outlets[name]
	if out == nil {
		e.mu.Unlock()
		return fmt.Errorf("%w: %.80q", ErrUnknown, name)
	}
	switch action {
	case "pause":
		out.paused = true
	case "resume":
		out.resume()
	case "replay":
		out.replay(from.Seq)
	default:
		e.mu.Unlock()
		return fmt.Errorf("%.40q is not pause, resume or replay", action)
	}
	e.changed[out] = struct{}{}
	e.want(out)
	e.advance()
	e.mu.Unlock()
	return e.durable(ctx, name)
}

// Call makes a call that is no delivery under the limits of all calls: it waits for a
// place at its host. It fails with ctx's error if there is none in time.
func (e *Engine) Call(ctx context.Context, hostName string, c Caller, r *http.Request) (*http.Response, error) {
	w := &waiter{place: make(chan struct{})}
	e.mu.Lock()
	h := e.host(hostName)
	h.wants.push(entry{waiter: w})
	h.users++
	e.ready(h)
	e.advance()
	e.mu.Unlock()
	select {
	case <-w.place:
	case <-ctx.Done():
		e.mu.Lock()
		w.left = true
		got := w.got
		e.mu.Unlock()
		if !got {
			return nil, ctx.Err()
		}
	}
	if w.flight == nil {
		return nil, graph.ErrClosed
	}
	defer func() {
		e.mu.Lock()
		e.giveBack(w.flight)
		e.advance()
		e.mu.Unlock()
	}()
	return c.Do(r)
}
