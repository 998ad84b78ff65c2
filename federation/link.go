package federation

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// silence is how long a peer may say nothing before what it left unsettled is
	// settled: four heartbeats. Who waits for it longer shows old pages for nothing.
	silence = 60 * time.Second
	// heartbeat is how often a stream says that there is nothing to tell.
	heartbeat = 15 * time.Second
	// deadAfter is when a stream is given up that brings nothing, not even heartbeats:
	// before the peer counts as silent, so that another connection may still be made.
	deadAfter = 40 * time.Second
)

// A Phase is what goes on with a peer, seen from here.
type Phase string

// The phases of a peer.
const (
	Connecting Phase = "connecting" // its document is being read
	Following  Phase = "following"  // its states are heard
	Waiting    Phase = "waiting"    // something failed, and it is tried again
	Paused     Phase = "paused"     // by an operator
)

// A link is all that passes to and from one peer.
type link struct {
	p   *Peers
	log *slog.Logger

	stop   context.CancelFunc // ends run; of Peers.mu
	kicked chan struct{}      // told when it is not worth to wait

	comparisons chan struct{} // told when one is due

	registering sync.Mutex // what the peer registers follows each other
	comparing   comparing
	telling     turn // streams to the peer: the newest one goes on

	mu       sync.Mutex
	peer     Peer
	paused   bool
	key      Key       // zero until its document was seen
	resolved []string  // what hosts of content confirm
	askNext  time.Time // when to ask them again
	claimed  []string  // for what
	compared time.Time
	due      time.Time // when to compare next; zero means as ever

	phase    Phase
	fault    string
	refused  graph.Epoch             // in which the peer could not go on from our position
	restart  context.CancelCauseFunc // ends the session
	heard    time.Time               // last sign of life
	met      bool                    // it was heard since the hub started
	woken    time.Time               // by a request of the peer
	waking   bool                    // and will be again
	forsaken bool
	counts   Counts
	streams  int
}

// Counts are what passed since the hub started.
type Counts struct {
	Heard    graph.Heard // levels that came
	Refused  uint64      // levels of these that were none
	Told     uint64      // levels that went
	Taken    uint64      // ops that the peer took
	Rejected uint64      // ops that the peer did not carry out
	Denied   uint64      // ops of the peer that were not carried out here
	Faulty   uint64      // requests in its name that were none of the protocol, or did not prove who asks
	First    string      // why the last of those that the peer did not carry out was not
	Sessions uint64
	Failures uint64
	Mended   uint64 // differences found by comparisons
}

func (p *Peers) newLink(peer Peer) *link {
	return &link{p: p, peer: peer, log: p.o.Log.With("peer", peer.URL), kicked: make(chan struct{}, 1), comparisons: make(chan struct{}, 1), phase: Connecting}
}

func (l *link) url() string { return l.peer.URL } // like the fingerprint it never changes

// record is what is kept of the peer.
func (l *link) record() graph.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	rec := peerRecord{Fingerprint: l.peer.Fingerprint.String(), Authority: l.peer.Authority, Configured: l.peer.Configured,
		Paused: l.paused, Resolved: l.resolved, Compared: l.compared}
	if l.key.ID != "" {
		jwk := l.key.JWK()
		rec.Key = &jwk
	}
	value, err := json.Marshal(rec)
	if err != nil {
		panic(err) // texts and times
	}
	return graph.Record{Key: recordPeer + l.url(), Value: value}
}

func (l *link) confirmed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.resolved)
}

// kick ends a wait.
func (l *link) kick() {
	select {
	case l.kicked <- struct{}{}:
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.restart != nil {
		l.restart(errKicked)
	}
}

// compareSoon has what this hub has of the peer compared with what the peer has.
func (l *link) compareSoon() {
	l.mu.Lock()
	l.due = time.Now()
	l.mu.Unlock()
	select {
	case l.comparisons <- struct{}{}:
	default:
	}
}

// wake ends the wait for a peer that asks for something: it is there, and may take now
// what it refused before. It does so now and then, or a peer could have this hub call it
// as often as it likes.
func (l *link) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase != Waiting || l.waking {
		return
	}
	l.waking = true
	time.AfterFunc(time.Until(l.woken.Add(l.p.pace.of(minBackOff))), func() {
		l.mu.Lock()
		l.waking, l.woken = false, time.Now()
		waits := l.phase == Waiting
		l.mu.Unlock()
		if waits {
			l.kick() // also out of the wait of a stream
		}
	})
}

// end stops whatever runs for the link, and streams to the peer.
func (l *link) end() {
	if l.stop != nil {
		l.stop()
	}
	l.telling.end()
}

func (l *link) pause(paused bool) {
	l.mu.Lock()
	l.paused = paused
	l.mu.Unlock()
	if paused {
		l.telling.end()
	}
	l.kick()
}

func (l *link) isPaused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused
}

// enter notes what goes on now; a fault is kept until the peer is heard again.
func (l *link) enter(phase Phase, fault error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = phase
	if fault != nil {
		l.fault = fault.Error()
		l.counts.Failures++
	}
	if phase == Following {
		l.fault = ""
	}
}

// alive notes a sign of life.
func (l *link) alive() {
	l.mu.Lock()
	away := time.Since(l.heard) > l.p.pace.of(absence)
	l.heard, l.met, l.forsaken = time.Now(), true, false
	l.phase, l.fault = Following, ""
	l.mu.Unlock()
	if away {
		l.compareSoon()
	}
}

// heed counts a request of the peer, or in its name, that was refused for what it is.
func (l *link) heed(err error) {
	long, none := (*http.MaxBytesError)(nil), (*graph.InvalidError)(nil)
	if errors.Is(err, ErrToken) || errors.Is(err, ErrMessage) || errors.As(err, &long) || errors.As(err, &none) {
		l.count(func(c *Counts) { c.Faulty++ })
	}
}

func (l *link) count(f func(c *Counts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.counts)
}

// run exchanges with the peer until ctx ends.
func (l *link) run(ctx context.Context) {
	l.mu.Lock()
	l.heard = time.Now()
	l.mu.Unlock()
	var group sync.WaitGroup
	group.Go(func() { l.watch(ctx) })
	group.Go(func() { l.follow(ctx) })
	group.Wait()
}

// watch settles what the peer left unsettled when it falls silent, once.
func (l *link) watch(ctx context.Context) {
	limit := l.p.pace.of(silence)
	for {
		l.mu.Lock()
		left, forsaken := limit-time.Since(l.heard), l.forsaken
		l.mu.Unlock()
		if forsaken {
			left = limit
		}
		if left > 0 {
			if !sleep(ctx, left, nil) {
				return
			}
			continue
		}
		n, err := l.p.o.Store.Forsake(context.WithoutCancel(ctx), l.url())
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.log.Error("what the silent peer left unsettled is not settled", "err", err)
			if !sleep(ctx, limit, nil) {
				return
			}
			continue
		case n > 0:
			l.log.Warn("the peer is silent; what it left unsettled is settled", "resources", n)
		}
		l.mu.Lock()
		l.forsaken = time.Since(l.heard) >= limit
		l.mu.Unlock()
	}
}

// sleep waits for d, or until early is told, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-early:
	}
	return true
}

// A turn is had by the newest of those who take it.
type turn struct {
	mu     sync.Mutex
	cancel context.CancelFunc
	number int
}

// take returns a context that ends with ctx, or when another takes the turn.
func (t *turn) take(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		t.cancel()
	}
	t.cancel = cancel
	t.number++
	mine := t.number
	return ctx, func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.number == mine {
			t.cancel = nil
		}
	}
}

// end ends whoever has the turn.
func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		t.cancel()
	}
}

// Status is how it is with a peer.
type Status struct {
	Peer
	Key       string // its id; "" until its document was seen
	Phase     Phase
	Fault     string    // why it waits
	LastHeard time.Time // last sign of life; zero if none since the hub started
	Silent    bool      // so long that what it left unsettled was settled
	Streams   int       // open, to the peer
	Compared  time.Time // last; zero if never
	InForce   []string  // the prefixes it speaks for now

	Session graph.Session // of what this hub wants to hear of it
	Client  graph.Client  // of what it wants to hear of this hub
	Counts
}

// Status tells how it is with one peer.
func (p *Peers) Status(url string) (Status, error) {
	l, err := p.find(url)
	if err != nil {
		return Status{}, err
	}
	s := Status{}
	if s.Session, err = p.o.Store.Session(url); err != nil {
		return s, ErrNoPeer // it is just being removed, or added
	}
	if s.Client, err = p.o.Store.Client(url); err != nil {
		return s, err
	}
	for _, t := range p.o.Store.Territories() {
		if t.Peer == url {
			s.InForce = t.Authority
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Peer, s.Key, s.Phase, s.Fault, s.Compared, s.Counts, s.Streams = l.peer, l.key.ID, l.phase, l.fault, l.compared, l.counts, l.streams
	s.Silent = l.forsaken
	if l.met {
		s.LastHeard = l.heard
	}
	if l.paused {
		s.Phase = Paused
	}
	return s, nil
}

// URLs names all peers, in order.
func (p *Peers) URLs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	urls := make([]string, 0, len(p.links))
	for url := range p.links {
		urls = append(urls, url)
	}
	slices.Sort(urls)
	return urls
}
