package claim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/graph"
)

// A hold is what a worker was told of a claim: it was nobody else's from then until
// then, or until it was given back.
type hold struct{ from, until time.Time }

// A crowd is many workers who ask for the same, and what they were told.
type crowd struct {
	t       testing.TB
	r       *rig
	workers int
	lease   time.Duration
	atOnce  int // claims, at most
	rude    int // until so many were handed out some let go of what they hold, or die

	mu     sync.Mutex
	holds  map[string]hold
	made   map[string]time.Time // when that was answered
	handed int
}

// snapshot is what the workers were told up to now.
func (c *crowd) snapshot() (holds map[string]hold, made map[string]time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.holds), maps.Clone(c.made)
}

// took notes what was handed out, maybe long ago: nobody else may have held it then,
// and it may not have been made before. Rude reports whether it may be let go of.
func (c *crowd) took(hs []Handed) (rude bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed += len(hs)
	for _, h := range hs {
		is, was := hold{h.LeaseUntil.Add(-c.lease), h.LeaseUntil}, c.holds[h.URI]
		if is.from.Before(was.until) && was.from.Before(is.until) {
			c.t.Errorf("%s is held from %s to %s, and from %s to %s", h.URI, was.from, was.until, is.from, is.until)
		}
		if made, ok := c.made[h.URI]; ok && made.Before(is.from) {
			c.t.Errorf("%s was made at %s, and is handed out at %s", h.URI, made, is.from)
		}
		if is.until.After(was.until) {
			c.holds[h.URI] = is
		}
	}
	return c.handed < c.rude
}

// until moves the end of what somebody holds, unless another one holds it by now.
func (c *crowd) until(h Handed, t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if is := c.holds[h.URI]; is.until.Equal(h.LeaseUntil) {
		c.holds[h.URI] = hold{is.from, t}
	}
}

func (c *crowd) finished(hs []Handed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range hs {
		if _, ok := c.made[h.URI]; !ok {
			c.made[h.URI] = c.r.now()
		}
	}
}

// work asks and makes until ctx ends.
func (c *crowd) work(ctx context.Context, n int, rng *rand.Rand) {
	for ctx.Err() == nil {
		q := ofType(1+rng.IntN(c.atOnce), time.Second)
		q.Lease = c.lease
		who := local()
		who.Name = fmt.Sprint("worker", n%8)
		got, err := c.r.desk.Claim(ctx, who, q)
		if errors.Is(err, graph.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			c.t.Errorf("claim: %v", err)
			return
		}
		rude := c.took(got)
		var us []graph.Update
		var mine []Handed
		for _, h := range got {
			if rude && c.letGo(ctx, who.Name, h, rng) {
				continue
			}
			mine = append(mine, h)
			us = append(us, graph.Update{URI: h.URI, Hash: "made " + h.Token.String(), Token: h.Token})
		}
		if len(us) == 0 {
			continue
		}
		if _, err := c.r.store.Apply(context.WithoutCancel(ctx), who.Name, us); err != nil {
			return // the store is gone
		}
		c.finished(mine)
	}
}

// letGo does not make what is held, now and then. Somebody who was given it before,
// and is late, may make it meanwhile.
func (c *crowd) letGo(ctx context.Context, holder string, h Handed, rng *rand.Rand) bool {
	var err error
	switch k := rng.IntN(40); {
	case k == 0: // it dies; the lease ends
	case k <= 2:
		if now := c.r.now(); now.Before(h.LeaseUntil) {
			c.until(h, now) // from here on another may hold it
		}
		err = c.r.desk.Release(ctx, holder, h.ID, k == 1)
	case k == 3:
		var longer graph.Claim
		if longer, err = c.r.desk.Extend(ctx, holder, h.ID, 2*c.lease); err == nil {
			c.until(h, longer.LeaseUntil)
		}
	default:
		return false
	}
	if err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, graph.ErrClosed) && ctx.Err() == nil {
		c.t.Errorf("%s: %v", h.URI, err)
	}
	return true
}

// live runs the workers until all is made, or for some claims more and then takes the
// power away.
func (c *crowd) live(rng *rand.Rand, claims int) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var all sync.WaitGroup
	c.mu.Lock()
	enough := c.handed + claims
	c.mu.Unlock()
	for n := range c.workers {
		seed := rng.Uint64()
		all.Go(func() { c.work(ctx, n, rand.New(rand.NewPCG(seed, uint64(n)))) })
	}
	if claims == 0 {
		c.r.until(func() bool { return c.left() == 0 }, "not all is made")
		stop()
		all.Wait()
		return
	}
	c.r.until(func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.handed >= enough
	}, "nothing is handed out any more")
	holds, made := c.snapshot()
	fs := c.r.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	stop()
	all.Wait()
	c.r.stop()
	c.holds, c.made = holds, made
	c.r.fs = fs
	c.r.start()
}

// left is how many are to be made.
func (c *crowd) left() int {
	s := c.r.store.Stats()
	return int(s.States[graph.Ready] + s.States[graph.Pending])
}

func newCrowd(t testing.TB, r *rig, n, workers int) *crowd {
	c := &crowd{t: t, r: r, workers: workers, lease: graph.MaxLease, atOnce: 100, holds: map[string]hold{}, made: map[string]time.Time{}}
	half := n / 2
	r.extracts("bulk.example", half, true)
	r.extracts("prompt.example", n-half, false)
	return c
}

func TestManyClaimersGetEverythingOnceWithinALeaseAcrossPowerCuts(t *testing.T) {
	const n, lives = 10_000, 3
	rng := rand.New(rand.NewPCG(1, 1))
	r := newRig(t, graph.Options{})
	c := newCrowd(t, r, n, 64)
	c.rude, c.lease, c.atOnce = n, 2*time.Minute, 20
	for range lives {
		c.live(rng, n/(lives+2))
		if t.Failed() {
			return
		}
	}
	c.live(rng, 0)
	// Whoever is late may make what somebody else was given, and an update on its way
	// when the power went may be there without an answer.
	if s := r.store.Stats(); s.States[graph.Dirty] > 0 || s.Failed > 0 || c.handed < n {
		t.Errorf("in the end the states are %v, %d failed; %d were handed out", s.States, s.Failed, c.handed)
	}
}

// gated is a store whose claims wait until it is opened.
type gated struct {
	Store
	open  chan struct{}
	asked chan struct{} // has something for each claim that waits
}

// gate has the claims of pools that are made from now on wait.
func (r *rig) gate() *gated {
	g := &gated{Store: r.store, open: make(chan struct{}), asked: make(chan struct{}, 1000)}
	r.desk.mu.Lock()
	defer r.desk.mu.Unlock()
	r.desk.store = g
	return g
}

func (g *gated) Claim(ctx context.Context, uris []string, lease time.Duration) ([]graph.Claim, error) {
	g.asked <- struct{}{}
	<-g.open
	return g.Store.Claim(ctx, uris, lease)
}

func TestWhoWaitsForDifferentThingsTakesTurns(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	d, err := New(r.store, r.streams, r.channels, Options{}) // that nobody runs: the test gives the turns
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ask := func(name string, polls int) {
		before := d.Stats().Polls
		for range polls {
			all.Go(func() { d.Claim(context.Background(), holder(name, "https://a.example/"+name), ofType(1, MaxWait)) })
		}
		r.until(func() bool { return d.Stats().Polls == before+polls }, "not all polls wait")
	}
	ask("many", 40)
	ask("few", 10)
	ask("one", 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	var got []string
	for q := d.next(); q != nil; q = d.next() {
		got = append(got, q.account.name)
		q.pool.serving--
		d.reply(q, answer{})
	}
	want := append([]string{"many", "few", "one"}, slices.Repeat([]string{"many", "few"}, 9)...)
	if want = append(want, slices.Repeat([]string{"many"}, 30)...); !slices.Equal(got, want) {
		t.Errorf("turns were given to %v, want %v", got, want)
	}
	for _, p := range d.pools {
		p.close()
	}
	all.Wait()
}

func TestWhoWaitsForTheSameIsServedInTurnAndEverybodyGetsAPart(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	const polls = 8
	got := make([]int, polls)
	var all sync.WaitGroup
	for i := range polls {
		all.Go(func() { got[i] = len(r.claim(local(), ofType(10, soon))) })
		r.until(func() bool { return r.desk.Stats().Polls == i+1 }, "a poll does not wait")
	}
	var us []graph.Update
	for i := range polls + 3 {
		us = append(us, graph.Update{URI: page("a.example", i), Version: "10"},
			graph.Update{URI: extract("a.example", i), Type: "extract", Hash: "old", Deps: []graph.Dep{{URI: page("a.example", i), Seen: "10"}}})
	}
	for i := range polls + 3 {
		us = append(us, graph.Update{URI: page("a.example", i), Version: "11"})
	}
	r.apply(us...)
	all.Wait()
	total := 0
	for i, n := range got {
		if total += n; n < 1 || n > 3 {
			t.Errorf("poll %d got %d of %d: %v", i, n, polls+3, got)
		}
	}
}

func TestPromptWorkGoesFirstAndBulkWorkGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	if got := r.claim(local(), ofType(1, 0)); len(got) > 0 {
		t.Fatal("the store is not empty")
	}
	r.extracts("bulk.example", 1500, true)
	r.extracts("prompt.example", 500, false)
	count := map[graph.Lane]int{}
	for _, h := range r.claim(local(), ofType(300, 0)) {
		count[h.Notice.Lane]++
	}
	if count[graph.Prompt] != 270 || count[graph.Bulk] != 30 {
		t.Errorf("of 300 handed out %d are prompt and %d bulk, want nine in ten", count[graph.Prompt], count[graph.Bulk])
	}
	more := r.claim(local(), ofType(1000, 0))
	clear(count)
	for _, h := range more {
		count[h.Notice.Lane]++
	}
	if len(more) != 1000 || count[graph.Prompt] != 230 {
		t.Errorf("of %d more %d are prompt, want the 230 that are left and bulk ones", len(more), count[graph.Prompt])
	}
}

func TestAPoolGoesOnWhereItWasAfterARestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	r.claim(local(), ofType(1, 0))
	r.extracts("a.example", 900, false)
	first := r.claim(local(), ofType(50, 0)) // more is read
	r.finish(first[:20]...)
	r.restart()
	p := r.desk.pools[poolKey(new(local()), new(ofType(1, 0)))]
	if want := first[49].Notice.Cursor.Seq; p == nil || p.lanes[graph.Prompt].at.Seq != want {
		t.Errorf("the pool goes on with %+v, want it after position %d", p, want)
	}
	rest := r.claim(local(), ofType(1000, 0))
	if len(rest) != 850 {
		t.Errorf("after a restart %d are handed out, want the 850 that nobody holds", len(rest))
	}
}

// BenchmarkClaims has 64 workers claim and make 100,000 that are ready.
func BenchmarkClaims(b *testing.B) {
	const n, workers = 100_000, 64
	for b.Loop() {
		b.StopTimer()
		r := newRig(b, graph.Options{})
		c := newCrowd(b, r, n, workers)
		b.StartTimer()
		begin := time.Now()
		c.live(rand.New(rand.NewPCG(1, 1)), 0)
		b.ReportMetric(n/time.Since(begin).Seconds(), "claims/s")
		if c.handed != n || len(c.made) != n {
			b.Errorf("%d were handed out, and %d made", c.handed, len(c.made))
		}
		b.StopTimer()
		r.stop()
		b.StartTimer()
	}
}
