// Package faulty stands between two hubs of a test and makes the network bad.
//
// A [Proxy] passes HTTP requests on, and answers piece by piece as they come, so
// that endless streams go through it. A [Fault] says what befalls them. What
// befalls the n-th request of a caller, a method and a path follows from the seed
// alone, whatever else is under way; when it befalls it is the machine's. The caller
// is whom a request's token names as its issuer, as hubs do, signed or not: so a
// network can be bad between two hubs of many, of which each has one name.
//
// Each request has a connection of its own, on both sides: no client sends one
// again behind a test's back because a kept connection broke, as net/http does.
// The Host header stays the client's. Protocols are not switched. The sockets are
// real, so it does not serve in the bubbles of a fake clock.
package faulty

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"
)

// A Fault is how bad the network is. The zero value is a good one. A probability
// is from 0, never, to 1, always.
type Fault struct {
	Refuse bool // connections are reset at once, before a request is read

	// Blackhole keeps everything open and lets nothing through: requests are taken
	// and do not reach the target, answers fall silent, and neither end sees that the
	// other has gone. When it ends all of these connections are reset, and what was
	// sent meanwhile is lost.
	Blackhole bool

	// Each request, and each piece of an answer's body, waits for Delay and a part of
	// Jitter that is drawn for it.
	Delay, Jitter time.Duration

	CutAfter  int     // bytes of an answer's body after which it is broken off: the mean of what is drawn; 0 is never
	Drop      float64 // probability that a request is broken off before it reaches the target
	Lose      float64 // probability that the target answers and the client's connection is reset instead
	Duplicate float64 // probability that a request with a body of up to 4 MiB is sent twice: at once, or again after the first was answered
	Rate      int     // bytes a second of each answer's body; 0 is without a limit
}

// Counts are how often what happened since the proxy was made.
type Counts struct {
	Requests   int // that were read, whatever became of them
	Dropped    int // by Drop
	Lost       int // by Lose
	Duplicated int // that were to be sent twice; the second is not among Requests, and lost when what it waits for was broken
	Cut        int // requests and answers under way that CutAfter, Set or Cut broke off
	Refused    int // connections, by Refuse
	Held       int // requests and answers under way that a blackhole took
}

// A Proxy passes requests on to a target, under a fault. It is safe for concurrent use.
type Proxy struct {
	t         testing.TB
	url       string
	seed      uint64
	transport *http.Transport
	ctx       context.Context // of all requests
	running   sync.WaitGroup  // connections and second requests

	mu      sync.Mutex
	target  *url.URL // nil when there is none
	fault   Fault
	callers map[string]Fault // of whom another fault befalls
	changed chan struct{}    // closed when a fault is another
	counts  Counts
	asked   map[string]int // how often, by caller, method and path
	open    map[*link]struct{}
}

// New starts a proxy on a free port of the loopback, which passes requests on to
// target, an URL like http://127.0.0.1:PORT; when it is "" every request is reset
// until [Proxy.Target] names one. The end of the test closes it and whatever is open
// through it. It fails the test when it cannot listen.
func New(t testing.TB, target string, seed uint64) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("no port for a proxy: %v", err)
	}
	ctx, end := context.WithCancel(context.Background())
	p := &Proxy{
		t: t, url: "http://" + listener.Addr().String(), seed: seed, ctx: ctx,
		transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		changed:   make(chan struct{}), callers: map[string]Fault{}, asked: map[string]int{}, open: map[*link]struct{}{},
	}
	p.Target(target)
	server := &http.Server{
		Handler: http.HandlerFunc(p.serve), ConnState: p.state,
		ErrorLog:    log.New(io.Discard, "", 0), // of what it breaks itself
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, linkKey{}, c) },
	}
	server.SetKeepAlivesEnabled(false)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(entrance{listener, p}); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the proxy %s stopped: %v", p.url, err)
		}
	}()
	t.Cleanup(func() {
		end()
		if err := server.Close(); err != nil {
			t.Errorf("closing the proxy %s: %v", p.url, err)
		}
		<-served
		p.Cut() // what was accepted while the server closed
		p.running.Wait()
	})
	return p
}

// URL is where the proxy is to be found: http://127.0.0.1:PORT.
func (p *Proxy) URL() string { return p.url }

// Target names where requests go from now on, like [New]; those under way stay
// where they are. It fails the test when that is not an URL with scheme and host.
func (p *Proxy) Target(to string) {
	p.t.Helper()
	var u *url.URL
	if to != "" {
		var err error
		if u, err = url.Parse(to); err != nil || u.Scheme == "" || u.Host == "" {
			p.t.Errorf("no target %q for a proxy; name one like http://127.0.0.1:8080", to)
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = u
}

// Set makes f the fault from now on, also of requests that are under way, whose luck
// stays what was drawn: what f would have cut is cut, waiting follows the new times,
// and nothing that is sent after Set has returned passes a blackhole. Callers with a
// fault of their own keep it.
func (p *Proxy) Set(f Fault) {
	p.change(func() { p.fault = f })
}

// SetFor makes f the fault of one caller's requests, like [Proxy.Set], and nil that of
// all. It befalls a request when its header has been read, which is late for a fault
// that refuses; what names no caller, such as a request for a document, is never
// concerned. A caller is an issuer of tokens, the URL of a hub.
func (p *Proxy) SetFor(caller string, f *Fault) {
	p.change(func() {
		if f == nil {
			delete(p.callers, caller)
		} else {
			p.callers[caller] = *f
		}
	})
}

// change lets other faults befall what is open.
func (p *Proxy) change(set func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := make(map[*link]Fault, len(p.open))
	for l := range p.open {
		before[l] = p.of(l)
	}
	set()
	close(p.changed)
	p.changed = make(chan struct{})
	for l, was := range before {
		f := p.of(l)
		switch {
		case f == was:
		case f.Refuse || was.Blackhole && !f.Blackhole || !f.Blackhole && l.passed > l.limit(f):
			p.cut(l)
		case f.Blackhole && !was.Blackhole && l.busy:
			p.counts.Held++
		}
	}
}

// of is the fault that befalls a link. The lock is held.
func (p *Proxy) of(l *link) Fault {
	if f, ok := p.callers[l.caller]; ok {
		return f
	}
	return p.fault
}

// Cut resets every connection that is open, once: those that come later are not concerned.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.open {
		p.cut(l)
	}
}

// Counts returns what happened so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}
