package bench

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxBucket bounds one bucket, in bytes; more padding takes several.
const maxBucket = 200

// until looks again and again whether done, which also tells how far things are.
// When that stands still for the patience, or the whole takes very long, it
// returns false.
func (r *run) until(ctx context.Context, done func() (ok bool, progress uint64, err error)) (bool, error) {
	began := time.Now()
	last, moved := uint64(0), began
	for {
		ok, progress, err := done()
		if ok || err != nil {
			return ok, err
		}
		now := time.Now()
		if progress != last {
			last, moved = progress, now
		}
		if now.Sub(moved) > r.o.Patience || now.Sub(began) > maxPhases*r.o.Patience {
			return false, nil
		}
		if err := pause(ctx, lookAround); err != nil {
			return false, err
		}
	}
}

// prepare opens the reader of the journal and makes the pages known to the hub,
// padded so that a notice is as long as wanted. Later updates leave the padding,
// which is buckets, as it is. It returns the hub's figures after that.
func (r *run) prepare(ctx context.Context) (sample, error) {
	r.witness.add(seat{class: r.plan.everyone}, sourceOf(r.addr.Addr(), 1<<16*readersPerAddr))
	if err := r.opened(ctx, []*pool{r.witness}, 1); err != nil {
		return sample{}, err
	}
	middle := len(r.plan.pages) / 2
	if err := r.introduce(ctx, middle, middle+1, ""); err != nil {
		return sample{}, err
	}
	_, size := r.journal.published()
	buckets := padding(r.o.Size - size)
	for at := 0; at < len(r.plan.pages); at += maxPost {
		if err := r.introduce(ctx, at, min(at+maxPost, len(r.plan.pages)), buckets); err != nil {
			return sample{}, err
		}
	}
	_, r.report.NoticeBytes = r.journal.published()
	return r.sample(ctx)
}

// padding is the member of an update that makes its notices longer by about n
// bytes.
func padding(n int) string {
	n -= len(`,"buckets":[]`)
	var list []string
	for n > 3 {
		size := min(n-3, maxBucket)
		list = append(list, strconv.Quote(strings.Repeat("x", size-1)+string(rune('a'+len(list)))))
		n -= size + 3
	}
	if len(list) == 0 {
		return ""
	}
	return `,"buckets":[` + strings.Join(list, ",") + "]"
}

// introduce publishes an update of each page in [from, to), with a further member.
func (r *run) introduce(ctx context.Context, from, to int, member string) error {
	var body bytes.Buffer
	for i := from; i < to; i++ {
		pg := &r.plan.pages[i]
		pg.version = max(time.Now().UnixNano(), pg.version+1)
		fmt.Fprintf(&body, "%s%d\"%s}\n", pg.line, pg.version, member)
		r.published.add(int32(i), pg.version)
	}
	if _, err := r.hub.UpdateLines(ctx, body.Bytes()); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	return r.journaled(ctx)
}

// journaled waits until the reader of the journal has seen all that was
// acknowledged. In time that is not told apart from never.
func (r *run) journaled(ctx context.Context) error {
	ok, err := r.until(ctx, func() (bool, uint64, error) {
		_, err := r.witness.counts()
		seen, _ := r.journal.published()
		return seen.count >= r.published.count, seen.count, err
	})
	if err == nil && !ok {
		seen, _ := r.journal.published()
		if seen.count == 0 {
			return fmt.Errorf("%w: the hub took updates and told nobody for %v", errNoProgress, r.o.Patience)
		}
		r.report.Stuck = true
	}
	return err
}

// opened waits until n readers of the pools are open.
func (r *run) opened(ctx context.Context, pools []*pool, n int) error {
	open := 0
	ok, err := r.until(ctx, func() (bool, uint64, error) {
		open = 0
		for _, p := range pools {
			k, err := p.counts()
			if err != nil {
				return false, 0, err
			}
			open += k
		}
		return open >= n, uint64(open), nil
	})
	if err == nil && !ok {
		err = fmt.Errorf("%w: %d of %d streams are open, and no more for %v", errNoProgress, open, n, r.o.Patience)
	}
	return err
}

// openAll opens the readers, and looks at the hub when all are there.
func (r *run) openAll(ctx context.Context) (sample, error) {
	r.say("opening %d streams", r.o.Connections)
	began := time.Now()
	for i, s := range r.plan.seats {
		r.pools[i%len(r.pools)].add(s, sourceOf(r.addr.Addr(), i))
	}
	if err := r.opened(ctx, r.pools, r.o.Connections); err != nil {
		return sample{}, err
	}
	r.report.ConnectSeconds = time.Since(began).Seconds()
	r.say("opened in %.2f s", r.report.ConnectSeconds)
	if r.o.Mode != Resume { // there the readers are at work already
		if err := pause(ctx, settling); err != nil {
			return sample{}, err
		}
	}
	return r.sample(ctx)
}

// publish publishes for the time of the warm-up and of the measurement, and
// returns the moments at which the latter began and ended.
func (r *run) publish(ctx context.Context) (from, to moment, err error) {
	r.say("publishing for %v, measured after %v", r.o.Warmup+r.o.Duration, r.o.Warmup)
	g, ctx := errgroup.WithContext(ctx)
	telling, stop := context.WithCancel(ctx)
	g.Go(func() error {
		defer stop()
		t, err := r.press.run(ctx, time.Now().Add(r.o.Warmup+r.o.Duration), r.o.Notices)
		r.published.count += t.count
		r.published.sum += t.sum
		to = moment{at: time.Now(), written: r.press.written.Load()}
		return err
	})
	g.Go(func() error {
		r.tell(telling)
		return nil
	})
	g.Go(func() error {
		if err := pause(ctx, r.o.Warmup); err != nil {
			return err
		}
		var err error
		from, err = r.moment(ctx)
		for _, p := range r.pools {
			p.measureFrom(from.at)
		}
		return err
	})
	return from, to, g.Wait()
}

// measureFrom has the latency of what is published from now on counted.
func (p *pool) measureFrom(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = at.UnixNano()
}

// tell says once a second how far things are.
func (r *run) tell(ctx context.Context) {
	began := time.Now()
	delivered, written := r.delivered(), r.press.written.Load()
	for pause(ctx, time.Second) == nil {
		d, w := r.delivered(), r.press.written.Load()
		r.say("%3.0f s: %d notices/s, %d deliveries/s", time.Since(began).Seconds(), w-written, d-delivered)
		delivered, written = d, w
	}
}

// truths waits for the journal to be whole, and says what the readers of each
// class should have got after from, and up to where.
func (r *run) truths(ctx context.Context, from uint64) (byClass [][]uint64, to uint64, err error) {
	if err := r.journaled(ctx); err != nil {
		return nil, 0, err
	}
	byClass, to = r.journal.truths(r.plan, from)
	return byClass, to, nil
}

// drain waits until the readers have everything. Those that are not served any
// more it leaves behind: what they lack is counted as lost.
func (r *run) drain(ctx context.Context, truths [][]uint64) error {
	goals := make([]uint64, len(truths))
	for c, truth := range truths {
		if len(truth) > 0 {
			goals[c] = truth[len(truth)-1]
		}
	}
	behind := 0
	ok, err := r.until(ctx, func() (bool, uint64, error) {
		behind = 0
		for _, p := range r.pools {
			behind += p.behind(goals)
		}
		return behind == 0, r.delivered(), nil
	})
	if err == nil && !ok {
		r.say("%d readers got nothing more for %v", behind, r.o.Patience)
		r.report.Stuck = true
	}
	return err
}

// behind counts the readers that have not come to the goal of their class.
func (p *pool) behind(goals []uint64) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.readers {
		if goal := goals[r.seat.class]; !r.seat.stalled && goal > 0 && (!r.hasLast || r.last < goal) {
			n++
		}
	}
	return n
}
