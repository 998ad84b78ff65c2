package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// heartbeats is within which time a hub writes to a silent stream: 15 s and 20 %.
const heartbeats = 18 * time.Second

// tcpRepair makes a socket that is closed say nothing of it to its peer.
// Source: linux/tcp.h; the standard library does not have it.
const tcpRepair = 19

// vanish closes a connection as a machine that loses power does: the peer hears
// nothing, and is answered by a reset when it speaks.
func vanish(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpRepair, 1)
	}); e != nil {
		t.Fatal(e)
	}
	if errors.Is(err, syscall.EPERM) {
		t.Skip("a connection vanishes by TCP_REPAIR, which needs CAP_NET_ADMIN: run as root")
	} else if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// untilMetric waits until a metric has a value.
func untilMetric(t *testing.T, c *http.Client, hub, name string, want float64, patience time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; pass(50 * time.Millisecond) {
		got, err := metricOf(c, hub, name)
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s %s is %v (%v), want %v", patience, name, got, err, want)
		}
	}
}

func TestTheHubNoticesReadersThatVanished(t *testing.T) {
	t.Parallel()
	l := startLasting(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var conns []net.Conn
	open := func(uri string) *sseReader {
		t.Helper()
		a := ask{hub: l.cfg.Listen, query: map[string][]string{"uri": {uri}}, wrap: func(conn net.Conn) net.Conn {
			conns = append(conns, conn)
			return conn
		}}
		frames, err := a.open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return frames
	}
	for range 5 {
		open("https://w.example/nobody-writes-it")
	}
	stays := open("https://w.example/a")
	untilMetric(t, l.client, l.url(), "freshwire_streams", 6, patience)
	for _, conn := range conns[:5] {
		vanish(t, conn)
	}
	gone := time.Now()
	if got, err := metricOf(l.client, l.url(), "freshwire_streams"); err != nil || got != 6 {
		t.Fatalf("the hub already knows: %v streams, %v; they did not vanish", got, err)
	}
	untilMetric(t, l.client, l.url(), "freshwire_streams", 1, heartbeats+7*time.Second)
	t.Logf("noticed after %s", time.Since(gone).Round(time.Millisecond))
	l.publish(1, "/a")
	for {
		f, err := stays.next()
		if err != nil {
			t.Fatalf("the reader that stays: %v", err)
		}
		if len(f.data) > 0 {
			return
		}
	}
}

// longPage is the address of a page whose notice, which names it as its cause
// too, takes about 4 kB.
func longPage(i int) string {
	return fmt.Sprintf("/wiki/%s/%d", strings.Repeat("a-long-title-", 145), i)
}

func TestReadersThatNeverReadCostTheOthersNothing(t *testing.T) {
	t.Parallel()
	const readers, all, stalled, notices = 400, 5, 4, 2000
	p := startProcess(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	publish := func(version int) {
		t.Helper()
		for first := 0; first < notices; first += 100 {
			var paths []string
			for i := first; i < first+100; i++ {
				paths = append(paths, longPage(i))
			}
			if err := post(p.client, p.url(), edits(version, paths...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(1)
	start := tokenOf(t, p)
	var reading sync.WaitGroup
	var others []*steadyReader
	for i := range readers - stalled {
		uri := ""
		if i >= all {
			uri = "https://w.example" + longPage(i*5)
		}
		x, err := newSteadyReader(p, i, uri, start)
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, x)
		reading.Go(func() { x.follow(ctx, func() {}) })
	}
	untilMetric(t, p.client, p.url(), "freshwire_streams", readers-stalled, patience)
	before := p.heap()
	publish(2)
	reachAll(t, ctx, p, others)
	without := p.heap()
	var blocked []*sseReader
	for i := range stalled {
		a := ask{hub: p.addr, query: map[string][]string{}, dialer: net.Dialer{LocalAddr: from(readers+i, 100), Control: smallWindow(4 << 10)}}
		frames, err := a.open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		blocked = append(blocked, frames)
	}
	publish(3)
	journal := reachAll(t, ctx, p, others)
	with := p.heap()
	t.Logf("heap %.1f MB, %.1f MB after %d notices, %.1f MB after as many with %d readers that do not read",
		before/1e6, without/1e6, notices, with/1e6, stalled)
	// Queued for each of them the notices would take 32 MB.
	if with-without > without-before+12e6 {
		t.Errorf("with readers that do not read the heap grows by %.1f MB, without by %.1f MB", (with-without)/1e6, (without-before)/1e6)
	}
	slow := blocked[0]
	account := account{}
	for account.at < journal[len(journal)-1].seq {
		f, err := slow.next()
		if err != nil {
			break // it was let go, and may resume from where it stands
		}
		if err := account.note(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := account.check(journal, 0); err != nil || len(account.list) < 2 {
		t.Errorf("who begins to read at last was told %d things: %v", len(account.list), err)
	}
	cancel()
	reading.Wait()
	checkAll(t, others, journal)
}

// reachAll waits until each reader was told all that is in the journal, and
// returns it.
func reachAll(t *testing.T, ctx context.Context, p *hubProcess, readers []*steadyReader) []noted {
	t.Helper()
	journal := p.journal(ctx)
	for i, x := range readers {
		if err := x.reached(ctx, journal, journal[len(journal)-1].seq); err != nil {
			t.Fatalf("reader %d (%s): %v", i, x.ask.query.Encode(), err)
		}
	}
	return journal
}

// A watch publishes and asks for the hub's health all the time, over connections
// of its own.
type watch struct {
	p         *hubProcess
	dial      func(ctx context.Context, network, address string) (net.Conn, error) // nil means as usual
	away      atomic.Bool                                                          // while the hub is expected to be
	published atomic.Int64
	slowest   [2]time.Duration // health, update
	faults    []error
	mu        sync.Mutex
}

// run watches until stop is closed.
func (w *watch) run(stop <-chan struct{}) {
	var g sync.WaitGroup
	g.Go(func() { w.again(stop, 0, time.Second, w.health) })
	for range 2 {
		g.Go(func() { w.again(stop, 1, 2*time.Second, w.publish) })
	}
	g.Wait()
}

func (w *watch) again(stop <-chan struct{}, which int, limit time.Duration, try func(*http.Client) error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: w.dial}
	c := &http.Client{Transport: transport, Timeout: patience}
	for {
		began, away := time.Now(), w.away.Load()
		err := try(c)
		took := time.Since(began)
		w.mu.Lock()
		if !away && !w.away.Load() {
			w.slowest[which] = max(w.slowest[which], took)
			if err == nil && took > limit*slowdown {
				err = fmt.Errorf("took %s, more than %s", took, limit)
			}
			if err != nil {
				w.faults = append(w.faults, err)
			}
		}
		w.mu.Unlock()
		pass(20*time.Millisecond, stop)
		select {
		case <-stop:
			return
		default:
		}
	}
}

func (w *watch) health(c *http.Client) error {
	resp, err := c.Get(w.p.url() + "/healthz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("healthz: %s", resp.Status)
	}
	return nil
}

// watchPages is how many pages a watch writes, one after the other.
const watchPages = 50

func (w *watch) publish(c *http.Client) error {
	n := w.published.Add(1)
	return post(c, w.p.url(), edits(int(n), fmt.Sprintf("/wiki/%d", n%watchPages)))
}

// report fails the test for each fault.
func (w *watch) report(t *testing.T) {
	t.Helper()
	t.Logf("%d updates; the slowest took %s, the slowest healthz %s", w.published.Load(), w.slowest[1].Round(time.Millisecond), w.slowest[0].Round(time.Millisecond))
	for i, err := range w.faults {
		if i == 5 {
			t.Errorf("and %d more", len(w.faults)-i)
			break
		}
		t.Errorf("meanwhile: %v", err)
	}
}

func TestReadersThatAllComeAtOnceAreServed(t *testing.T) {
	n := 2000
	if s := os.Getenv("SOAK_READERS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("SOAK_READERS: %v", err)
		}
	}
	p := startProcess(t, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	start := tokenOf(t, p)
	opened := make(chan struct{}, 4*n)
	began := time.Now()
	readers := make([]*steadyReader, n)
	var reading, watching sync.WaitGroup
	for i := range readers {
		uri := ""
		if i%100 > 0 {
			uri = fmt.Sprintf("https://w.example/wiki/%d", i%watchPages)
		}
		var err error
		if readers[i], err = newSteadyReader(p, i, uri, start); err != nil {
			t.Fatal(err)
		}
		reading.Go(func() { readers[i].follow(ctx, func() { opened <- struct{}{} }) })
	}
	settle := func(what string, began time.Time) {
		t.Helper()
		for i := range n {
			select {
			case <-opened:
			case <-ctx.Done():
				t.Fatalf("%s: %d of %d readers are back", what, i, n)
			}
		}
		t.Logf("%s: all are back after %s", what, time.Since(began).Round(time.Millisecond))
	}
	settle("at first", began)
	w := &watch{p: p}
	stop := make(chan struct{})
	watching.Go(func() { w.run(stop) })
	for range 2 {
		pass(500 * time.Millisecond)
		began := time.Now()
		for _, x := range readers {
			x.cut()
		}
		settle("cut by something between", began)
	}
	w.away.Store(true)
	p.stop()
	began = time.Now()
	p.start()
	w.away.Store(false)
	settle("cut by a restart", began)
	pass(500 * time.Millisecond)
	close(stop)
	watching.Wait()
	w.report(t)
	journal := reachAll(t, ctx, p, readers)
	cancel()
	reading.Wait()
	checkAll(t, readers, journal)
}
