package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/subscriptions"
)

// A streamWorld is four wikis whose pages are edited and rendered. Type and
// buckets of a resource never change, so that a notice has one spelling.
type streamWorld struct{ count atomic.Int64 }

const (
	worldHosts, worldPages, worldTemplates, worldBuckets = 4, 40, 6, 5
)

func worldHost(i int) string { return fmt.Sprintf("w%d.example", i%worldHosts) }

func worldPage(host, i int) string {
	return fmt.Sprintf("https://%s/wiki/Section%d/Page%d", worldHost(host), i%3, i%worldPages)
}

func worldTemplate(host, i int) string {
	return fmt.Sprintf("https://%s/wiki/Template:T%d", worldHost(host), i%worldTemplates)
}

// next is something that happens: a template or a page is edited, or a page is
// rendered, which brings its rendering back among those that can become stale.
func (w *streamWorld) next(r *rand.Rand) graph.Update {
	n := w.count.Add(1)
	host, i := r.IntN(worldHosts), r.IntN(worldPages)
	u := graph.Update{ID: strconv.FormatInt(n, 10), Version: strconv.FormatInt(n, 10)}
	switch d := r.IntN(10); {
	case d == 0:
		u.URI, u.Type = worldTemplate(host, i), "template"
	case d < 4:
		u.URI, u.Type, u.Buckets = worldPage(host, i), "page", []string{worldBucket(i)}
	default:
		u.URI, u.Type, u.Version, u.Hash = worldPage(host, i)+"#html", "html", "", strconv.FormatInt(n, 36)
		u.Buckets = []string{worldBucket(i), "all of " + worldHost(host)}
		u.Deps = []graph.Dep{{URI: worldPage(host, i)}, {URI: worldTemplate(host, i)}}
	}
	return u
}

func worldBucket(i int) string { return fmt.Sprintf("shard %d", i%worldBuckets) }

// filter is a random filter that fits the world.
func (w *streamWorld) filter(r *rand.Rand) (f subscriptions.Filter) {
	some := func(most int, one func() string) (list []string) {
		for range 1 + r.IntN(most) {
			list = append(list, one())
		}
		return list
	}
	page := func() string { return worldPage(r.IntN(worldHosts), r.IntN(worldPages)) }
	host := func() string { return worldHost(r.IntN(worldHosts)) }
	switch r.IntN(7) {
	case 0: // everything
	case 1:
		f.URI = some(5, page)
	case 2:
		f.URI = some(60, func() string { return page() + "#html" })
	case 3:
		f.Prefix = some(3, func() string { return fmt.Sprintf("https://%s/wiki/Section%d", host(), r.IntN(3)) })
	case 4:
		f.Host = some(2, host)
	case 5:
		f.Bucket = some(2, func() string { return worldBucket(r.IntN(worldBuckets)) })
	case 6:
		f.URI, f.Host, f.Prefix = some(3, page), some(1, host), some(2, page)
	}
	if r.IntN(3) == 0 {
		f.Type = some(2, func() string { return []string{"html", "page", "template"}[r.IntN(3)] })
	}
	if r.IntN(4) == 0 {
		f.Kind = []string{[]string{client.KindChanged, client.KindRefresh}[r.IntN(2)]}
	}
	if r.IntN(6) == 0 {
		f.Lane = []string{[]string{"prompt", "bulk"}[r.IntN(2)]}
	}
	return f
}

// An exactReader reads one filter over many connections, most of which it cuts.
type exactReader struct {
	mu      sync.Mutex
	account account
	moved   chan struct{} // has one item when account has moved
	ask     ask
	rand    *rand.Rand
	late    time.Duration // how long after the others it begins
	want    uint64        // the last notice that it has to be told
	cuts    int
	err     error // why it gave up
}

func newExactReader(l *lastingHub, w *streamWorld, n int, seed uint64) *exactReader {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	f := w.filter(r)
	x := &exactReader{rand: r, moved: make(chan struct{}, 1), late: time.Duration(r.IntN(3)*r.IntN(3500)) * time.Millisecond}
	x.account.filter = client.Filter{URIs: f.URI, Prefixes: f.Prefix, Hosts: f.Host, Types: f.Type, Buckets: f.Bucket, Kinds: f.Kind, Lanes: f.Lane}
	// An address of its own for each, or the hub would refuse most.
	x.ask = ask{hub: l.cfg.Listen, query: url.Values{}, client: fmt.Sprintf("10.1.%d.%d", n/250, n%250)}
	if r.IntN(3) == 0 {
		body, err := json.Marshal(f)
		if err != nil {
			l.t.Fatal(err)
		}
		x.ask.body = string(body)
	} else {
		for name, values := range map[string][]string{"uri": f.URI, "prefix": f.Prefix, "host": f.Host,
			"type": f.Type, "bucket": f.Bucket, "kind": f.Kind, "lane": f.Lane} {
			if len(values) > 0 {
				x.ask.query[name] = values
			}
		}
	}
	if r.IntN(3) == 0 { // all there is: whatever lies before the oldest is told by a reset
		x.ask.query.Set("since", "1970-01-01T00:00:00Z")
		x.account.began = true
	}
	if r.IntN(4) == 0 {
		x.ask.query.Set("linger", fmt.Sprintf("%dms", r.IntN(800)))
	}
	return x
}

// run reads until end is closed and the stream then ends. From calm on it does
// not cut any more.
func (x *exactReader) run(ctx context.Context, l *lastingHub, calm, end <-chan struct{}) {
	for pass(x.late, calm, ctx.Done()); l.await(ctx) != nil; {
		var answer *refused
		err := x.connect(ctx, calm)
		switch {
		case errors.As(err, &answer) && answer.status == http.StatusServiceUnavailable: // it is about to go
		case !broken(err):
			x.err = err
			return
		}
		select {
		case <-end:
			return
		default:
		}
		if x.rand.IntN(12) == 0 { // away for so long that some of it is trimmed
			pass(time.Duration(x.rand.IntN(6000))*time.Millisecond, calm, ctx.Done())
		}
	}
	x.err = ctx.Err()
}

// connect reads one connection until it ends, and says how it did.
func (x *exactReader) connect(ctx context.Context, calm <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := x.ask
	a.lastID = x.account.last
	if x.rand.IntN(3) == 0 {
		a.dialer.Control = smallWindow(8 << 10) // what the hub writes at once does not fit
	}
	a.wrap = func(conn net.Conn) net.Conn {
		tcp := conn.(*net.TCPConn)
		if x.rand.IntN(2) == 0 {
			tcp.SetLinger(0) // ends by a reset and not in good order
		}
		select {
		case <-calm:
			return conn
		default:
		}
		x.cuts++
		return &cutConn{conn, x.rand.IntN(1 << x.rand.IntN(18))}
	}
	frames, err := a.open(ctx)
	if err != nil {
		return err
	}
	return x.read(frames)
}

// read enters frames into the account until they end.
func (x *exactReader) read(frames *sseReader) error {
	for {
		f, err := frames.next()
		if err != nil {
			return err
		}
		x.mu.Lock()
		err = x.account.note(f)
		x.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case x.moved <- struct{}{}:
		default:
		}
	}
}

// reached waits until the reader has been told the last notice it wants up to end.
func (x *exactReader) reached(ctx context.Context, journal []noted, end uint64) error {
	x.want = 0
	for i := len(journal) - 1; i >= 0 && x.want == 0; i-- {
		if journal[i].seq <= end && x.account.filter.Match(&journal[i].Notice) {
			x.want = journal[i].seq
		}
	}
	for {
		x.mu.Lock()
		at := x.account.at
		x.mu.Unlock()
		if at >= x.want {
			return nil
		}
		select {
		case <-x.moved:
		case <-ctx.Done():
			return fmt.Errorf("it stands at %d and was not told %d", at, x.want)
		}
	}
}

// publishFor sends what happens in the world until stop is closed. What the hub
// did not acknowledge is sent again.
func (w *streamWorld) publishFor(l *lastingHub, r *rand.Rand, stop <-chan struct{}) error {
	for {
		var body []byte
		for range 1 + r.IntN(12) {
			body = append(AppendUpdate(body, w.next(r)), '\n')
		}
		for {
			l.await(context.Background())
			err := post(l.client, l.url(), body)
			if err == nil {
				break
			}
			if answer := (*refused)(nil); errors.As(err, &answer) && answer.status != http.StatusServiceUnavailable {
				return err
			}
		}
		pass(time.Duration(5+r.IntN(25))*time.Millisecond, stop)
		select {
		case <-stop:
			return nil
		default:
		}
	}
}

// soakSeeds are the seeds to play: one, or as many as SOAK_SEEDS says.
func soakSeeds(t *testing.T) (seeds []uint64) {
	number := func(name string, none uint64) uint64 {
		if os.Getenv(name) == "" {
			return none
		}
		n, err := strconv.ParseUint(os.Getenv(name), 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	first := number("SOAK_SEED", rand.Uint64N(1<<32))
	for seed := first; seed < first+number("SOAK_SEEDS", 1); seed++ {
		seeds = append(seeds, seed)
	}
	return seeds
}

func TestReadersLoseNothingUnderLoadCutsTrimsAndRestarts(t *testing.T) {
	t.Parallel()
	for _, seed := range soakSeeds(t) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { playStreams(t, seed, 200) })
	}
}

// playStreams lets a world happen to so many readers, and holds each against
// the journal.
func playStreams(t *testing.T, seed uint64, n int) {
	l := startLasting(t, func(c *Config) {
		c.TrustedProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Work = []string{"html"} // what nobody renders is told again, in bulk
		// The journal is kept for six seconds, and looked at each second.
		c.ClockRate, c.KeepAge = 60, 6*time.Minute
	})
	l.skip = 4*time.Minute + 30*time.Second // and when the hub comes again, only its last 1.5 s
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var w streamWorld
	var publishing, reading sync.WaitGroup
	quiet, calm, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	for i := range 3 {
		publishing.Go(func() {
			if err := w.publishFor(l, rand.New(rand.NewPCG(seed, uint64(1000+i))), quiet); err != nil {
				t.Errorf("a publisher is refused: %v", err)
			}
		})
	}
	readers := make([]*exactReader, n)
	for i := range readers {
		readers[i] = newExactReader(l, &w, i, seed)
		reading.Go(func() { readers[i].run(ctx, l, calm, end) })
	}
	for stage := range uint64(3) {
		if stage > 0 {
			l.stop()
			l.start()
		}
		pass(3 * time.Second)
		l.journal.upTo(t, ctx, 250*(stage+1)) // a slow machine takes longer
	}
	close(quiet)
	publishing.Wait()
	close(calm)
	store := l.await(ctx).store
	newest, oldest := store.Token().Seq, store.Oldest().Seq
	journal := l.journal.upTo(t, ctx, newest)
	for i, x := range readers {
		if err := x.reached(ctx, journal, newest); err != nil {
			t.Errorf("reader %d (%s%s): %v", i, x.ask.query.Encode(), x.ask.body, err)
		}
	}
	close(end)
	l.whole()
	reading.Wait()
	var lists [][]told
	for _, x := range readers {
		lists = append(lists, x.account.list)
	}
	if err := l.journal.fill(lists...); err != nil {
		t.Error(err)
	}
	journal = l.journal.all(t)
	cuts, resets := 0, 0
	for i, x := range readers {
		if x.err != nil {
			t.Errorf("reader %d gave up: %v", i, x.err)
		}
		if err := x.account.check(journal, x.want); err != nil {
			t.Errorf("reader %d (%s%s): %v", i, x.ask.query.Encode(), x.ask.body, err)
		}
		cuts += x.cuts
		for _, e := range x.account.list {
			if e.reset != nil {
				resets++
			}
		}
	}
	bulk := 0
	for i := range journal {
		bulk += strings.Count(journal[i].Lane, "bulk")
	}
	t.Logf("%d notices (%d bulk), trimmed up to %d; %d cuts, %d resets; the reader of reference has the gaps %v",
		len(journal), bulk, oldest, cuts, resets, l.journal.gaps)
	if oldest == 0 || cuts < n || resets == 0 || bulk == 0 {
		t.Error("the run does not show what it should; see the line above")
	}
}
