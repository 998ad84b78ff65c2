package graph

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/errgroup"
)

const (
	// queueLength bounds the requests that wait for the apply loop; more wait at
	// their callers.
	queueLength = 1024
	// groupLimit bounds the requests that share a commit. A request is never split.
	groupLimit = 512
	// flights bounds the commits that are applied and not yet durable: the next
	// ones are built while the disk flushes these.
	flights = 64
	// jobFlights bounds them for jobs: what these have yet to flush, a small
	// update beside them waits for.
	jobFlights = 1
	// idle is how often the loop looks at ages and the journal's size when
	// nothing else wakes it.
	idle = 10 * time.Second
)

// request is one caller's work inside the apply loop. What apply finds out it
// leaves where its caller looks after done, which tells that it is durable.
type request struct {
	apply func(t *txn)
	done  chan error

	mu   sync.Mutex // held while apply runs
	left bool       // nobody waits any more
}

// run applies the request, unless its caller has gone.
func (r *request) run(t *txn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.left {
		r.apply(t)
	}
}

// leave says that nobody waits any more. When it returns, apply has run or never will,
// so that what it writes is the caller's again.
func (r *request) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = true
}

// flight is a commit on its way to the disk.
type flight struct {
	b        *pebble.Batch
	chunks   []chunk
	newest   uint64
	trimmed  uint64
	interned map[string]ID
	ops      bool // there is something to tell a peer
	levels   bool // there is something to tell a client
	reqs     []*request
}

// do runs f in the apply loop and waits until it is durable. If ctx ends first
// it may still be applied. It is refused while the disk is nearly full.
func (s *Store) do(ctx context.Context, f func(t *txn)) error {
	if err := s.Room(); err != nil {
		return err
	}
	return s.relieve(ctx, f)
}

// relieve is do for what takes away more than it writes.
func (s *Store) relieve(ctx context.Context, f func(t *txn)) error {
	r, err := s.submit(ctx, f)
	if err != nil {
		return err
	}
	return s.await(ctx, r)
}

// submit hands f to the apply loop.
func (s *Store) submit(ctx context.Context, f func(t *txn)) (*request, error) {
	r := &request{apply: f, done: make(chan error, 1)}
	select {
	case s.queue <- r:
		return r, nil
	case <-s.stopped:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// await waits until what was submitted is durable. If ctx ends first it has been applied
// or never is; in neither case it runs when await returns.
func (s *Store) await(ctx context.Context, r *request) error {
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		r.leave()
		return ctx.Err()
	case <-s.stopped:
		select {
		case err := <-r.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Run applies what is submitted and runs jobs and timers until ctx ends. It
// returns an error if the store could not be read or written; then nothing
// more is acknowledged.
func (s *Store) Run(ctx context.Context) error {
	defer s.stop.Do(func() { close(s.stopped) })
	w := writer{s: s, commits: make(chan flight, flights), landed: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(w.land)
	g.Go(func() error {
		select {
		case err := <-s.broken:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		s.watchSpace(ctx, w.landed)
		return nil
	})
	g.Go(func() error {
		defer close(w.commits)
		return w.loop(ctx)
	})
	return g.Wait()
}

// writer is the single writer and its way to the disk.
type writer struct {
	s       *Store
	commits chan flight
	landed  chan struct{} // a commit became durable, or there is room again
}

// loop applies requests, and between them what is due without being asked.
func (w *writer) loop(ctx context.Context) error {
	s := w.s
	wake := time.NewTimer(0)
	defer wake.Stop()
	var reqs []*request
	busy := true
	for ctx.Err() == nil {
		reqs = reqs[:0]
		if !busy || len(w.commits) >= jobFlights {
			wake.Reset(s.sleep(busy))
			select {
			case r := <-s.queue:
				reqs = append(reqs, r)
			case <-w.landed: // also wakes for nothing: what is due is looked at again
			case <-wake.C:
			case <-ctx.Done():
				return nil
			}
		}
		reqs = s.gather(reqs)
		if len(reqs) > 0 {
			f, err := s.step(s.o.Clock().UnixMicro(), slices.Clone(reqs), nil)
			if err != nil {
				return err
			}
			w.depart(ctx, f)
		}
		if busy && len(w.commits) >= jobFlights {
			continue
		}
		s.tellRoom(s.space.short.Load())
		f, more, err := s.advance(s.o.Clock().UnixMicro())
		if err != nil {
			return err
		}
		if f.b != nil {
			w.depart(ctx, f)
		}
		busy = more
	}
	return nil
}

// depart hands a commit to who waits for the disk. If that one has stopped,
// callers learn from the end of Run that nothing more is acknowledged.
func (w *writer) depart(ctx context.Context, f flight) {
	select {
	case w.commits <- f:
	default:
		select {
		case w.commits <- f:
		case <-ctx.Done():
		}
	}
}

// sleep is how long the loop may wait for a request.
func (s *Store) sleep(busy bool) time.Duration {
	d := idle
	if busy {
		return d // until a commit lands
	}
	if due, ok := s.nextTimer(); ok {
		d = min(d, time.Duration(float64(due.Sub(s.o.Clock()))/s.o.ClockRate))
	}
	return max(d, time.Millisecond)
}

func (s *Store) gather(reqs []*request) []*request {
	for len(reqs) < groupLimit {
		select {
		case r := <-s.queue:
			reqs = append(reqs, r)
		default:
			return reqs
		}
	}
	return reqs
}

// land waits for the disk and tells who waits for it, in order.
func (w *writer) land() error {
	for f := range w.commits {
		if err := w.s.landOne(f); err != nil {
			return err
		}
		select {
		case w.landed <- struct{}{}:
		default:
		}
	}
	return nil
}

func (s *Store) landOne(f flight) error {
	err := f.b.SyncWait()
	if err == nil {
		for uri, id := range f.interned {
			s.ids.Add(uri, id)
		}
		if f.trimmed > 0 {
			s.journal.trimmedTo(f.trimmed)
		}
		if len(f.chunks) > 0 {
			s.journal.publish(f.chunks, f.newest)
			s.counters.count(f.chunks)
		}
		if f.ops {
			s.peers.ops.ring()
		}
		if f.levels {
			s.peers.levels.ring()
		}
		err = f.b.Close()
	}
	for _, r := range f.reqs {
		if r.done != nil {
			r.done <- err
		}
	}
	return err
}

// step builds and applies one commit of requests, or of what work does.
func (s *Store) step(now int64, reqs []*request, work func(t *txn)) (f flight, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			broken, ok := p.(fault)
			if !ok {
				panic(p)
			}
			err = fmt.Errorf("store: %w", broken.err)
		}
	}()
	t := s.begin(now)
	defer t.listsMoved()
	t.sweep() // first: who begins to wait in this minute has not waited since sixteen
	for _, r := range reqs {
		r.run(t)
		t.drain()
	}
	if work != nil {
		work(t)
		t.drain()
	}
	t.finish()
	f = flight{b: t.b, chunks: t.chunks, newest: s.seq, trimmed: t.trimmed, interned: t.interned, ops: t.opsMoved, levels: t.told, reqs: reqs}
	if t.b.Empty() && len(reqs) == 0 {
		return flight{}, t.b.Close()
	}
	if t.b.Empty() { // what was asked for needed no write: it is durable with what came before
		check(t.b.LogData(nil, nil))
	}
	err = s.db.ApplyNoSyncWait(t.b, pebble.Sync)
	s.spelling.forget(t.relabelled...)
	return f, err
}

// stepSync is step and its landing in one, for use without the loop.
func (s *Store) stepSync(now int64, reqs []*request) error {
	f, err := s.step(now, reqs, nil)
	if err != nil || f.b == nil {
		return err
	}
	return s.landOne(f)
}

// tellRoom tells the apply loop, between two steps, whether the disk is nearly full.
func (s *Store) tellRoom(short bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.short = short
}

// advance does one piece of what is due without being asked: ages, timers, one
// step of one job. More reports whether there is another at once. While the disk
// is nearly full only what makes room goes on: ages, which trim the journal, and
// forgetting edges and members of lists. All else is durable and waits.
func (s *Store) advance(now int64) (f flight, more bool, err error) {
	if !s.due(now) {
		return flight{}, false, nil
	}
	f, err = s.step(now, nil, func(t *txn) {
		if !s.short {
			t.fire()
			t.tellStarving()
		}
		t.advanceJob()
		t.forgetDropped()
	})
	return f, err == nil && s.due(now), err
}

// due reports whether advance has something to do at now.
func (s *Store) due(now int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if minuteOf(now) > s.swept || len(s.lists.dropping) > 0 {
		return true
	}
	if !s.short && (len(s.starving) > 0 || s.nextDue != 0 && s.nextDue <= now) {
		return true
	}
	for _, j := range s.jobs.list {
		if s.mayStep(j) && j.allowed(now, 1) > 0 {
			return true
		}
	}
	return false
}

// mayStep reports whether j is not held up by a disk that is nearly full.
func (s *Store) mayStep(j *job) bool { return !s.short || j.kind == jobForget }

// nextTimer is when advance will next have something to do although nothing is
// submitted: a timer, or somebody who waits too long.
func (s *Store) nextTimer() (time.Time, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var due int64
	if !s.short {
		due = s.nextDue
	}
	if len(s.lists.dropping) > 0 {
		due = s.now
	}
	if s.col.counts[Dirty] > 0 && !s.short {
		if minute := (s.swept + 1) * time.Minute.Microseconds(); due == 0 || minute < due {
			due = minute
		}
	}
	for _, j := range s.jobs.list {
		if !j.paused && s.mayStep(j) {
			if soon := max(s.now, j.since+time.Second.Microseconds()); due == 0 || soon < due {
				due = soon
			}
		}
	}
	return timeOf(due), due != 0
}

// sweep does once a minute what goes by age.
func (t *txn) sweep() {
	s := t.s
	minute := minuteOf(t.now)
	if minute <= s.swept {
		return
	}
	if s.swept == 0 {
		s.swept = minute - 1
	}
	// Sixteen minutes are all the column can tell apart; after a longer pause
	// everybody has waited long enough.
	var over [16]bool
	for m := s.swept + 1; m <= minute && m <= s.swept+16; m++ {
		over[m&15] = true
	}
	if s.col.counts[Dirty] > 0 {
		s.col.eachDirty(func(id ID, w word) {
			if over[w.count()] {
				s.starving = append(s.starving, id)
			}
		})
	}
	s.swept = minute
	check(t.b.Set(metaKey(metaNow), binary.BigEndian.AppendUint64(nil, uint64(t.now)), nil))
	check(t.b.Set(metaKey(metaNextID), binary.BigEndian.AppendUint64(nil, uint64(s.nextID)), nil))
	t.forgetSeen()
	t.trim()
	t.trimMarks()
	t.collect()
}

// tellStarving makes some of those go on who waited too long.
func (t *txn) tellStarving() {
	s := t.s
	n := min(len(s.starving), s.chunk)
	for _, id := range s.starving[:n] {
		t.starve(id)
	}
	s.starving = s.starving[n:]
	t.drain()
}

// advanceJob takes one step of the job whose turn it is.
func (t *txn) advanceJob() {
	js := &t.s.jobs
	for range js.list {
		j := js.list[js.turn%len(js.list)]
		js.turn = (js.turn + 1) % len(js.list)
		limit := j.allowed(t.now, t.s.chunk)
		if limit == 0 || !t.s.mayStep(j) {
			continue
		}
		if t.step(j, limit) {
			t.endJob(j)
		} else {
			t.saveJob(j)
		}
		t.drain()
		return
	}
}

// applyNow is Apply without the loop, at a given time.
func (s *Store) applyNow(now time.Time, publisher string, us []Update) (Result, error) {
	b, err := s.prepareAll(now, publisher, us)
	if err != nil {
		return Result{}, err
	}
	var res Result
	if err = s.stepSync(now.UnixMicro(), []*request{{apply: b.into(&res)}}); err == nil {
		err = b.refused
	}
	return res, err
}

// workNow is one piece of the loop's own work, at a given time.
func (s *Store) workNow(now time.Time) (busy bool) {
	f, more, err := s.advance(now.UnixMicro())
	if err == nil && f.b != nil {
		err = s.landOne(f)
	}
	if err != nil {
		panic(errors.Join(errors.New("store without a loop"), err))
	}
	return more
}

// markers counts who is ahead of the store.
func (s *Store) markers() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.nmarkers
}
