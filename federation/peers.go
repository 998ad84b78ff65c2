package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// MaxPeers bounds the peers of a hub: each has a connection, a few goroutines and,
	// while it is behind, a batch of levels in memory.
	MaxPeers = 256
	// DefaultInterests bounds what one peer may ask for: at about 100 bytes each on disk
	// that is a GB.
	DefaultInterests = 10_000_000
	// recordPeer begins the keys of what is kept of peers.
	recordPeer = "peer "
)

// A Peer is another hub as this one's operator knows it.
type Peer struct {
	URL         string
	Fingerprint Fingerprint // of its key: nothing signed with another is believed
	// Authority are the prefixes it speaks for. None means those that its document
	// claims and the hosts of the content confirm.
	Authority []string
	// Configured says that the configuration names it: it alone ends that.
	Configured bool
}

// peerRecord is what is kept of a peer.
type peerRecord struct {
	Fingerprint string    `json:"fingerprint"`
	Authority   []string  `json:"authority,omitempty"`
	Configured  bool      `json:"configured,omitempty"`
	Paused      bool      `json:"paused,omitempty"`
	Key         *JWK      `json:"key,omitempty"`      // once its document was seen
	Resolved    []string  `json:"resolved,omitempty"` // what it speaks for without an Authority
	Compared    time.Time `json:"compared,omitzero"`
}

// A Dialer makes the clients for calls to one peer. Calls are bounded in time and
// answers in size; Stream is not. Close ends what waits for the next call.
type Dialer func(hub string) (Clients, error)

// Clients call one peer.
type Clients struct {
	Calls, Stream *http.Client
	Close         func()
}

// Options configures [Open]. All but Log, Rate and Interests must be set.
type Options struct {
	Store    *graph.Store
	Identity *Identity
	Dial     Dialer
	// Ask calls the hosts of content: it dials nothing that is not public, unless the
	// operator allows it.
	Ask *http.Client
	// Now is the machine's clock, by which tokens are judged.
	Now func() time.Time
	// Rate is how fast the hub's own time goes, if it is accelerated: then so are
	// heartbeats and the time after which a peer is silent. 0 means 1.
	Rate      float64
	Interests int64 // that one peer may have; 0 means DefaultInterests
	Schemes   []string
	Log       *slog.Logger
}

// Peers are the hubs that this one exchanges with. They are safe for concurrent use.
type Peers struct {
	o    Options
	pace pace

	changing sync.Mutex // held by whoever adds, removes, or names anew what peers speak for

	mu    sync.Mutex
	own   []string
	links map[string]*link // by URL
	run   context.Context  // nil while nothing runs
	group sync.WaitGroup
	ended chan struct{} // closed when streams to peers are to end

	scanning chan struct{} // has room for the one who scans for a peer
}

// Open reads what is kept of peers. Nothing is exchanged before [Peers.Run].
func Open(o Options) (*Peers, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rate == 0 {
		o.Rate = 1
	}
	if o.Interests == 0 {
		o.Interests = DefaultInterests
	}
	p := &Peers{o: o, pace: pace{o.Rate}, links: map[string]*link{}, ended: make(chan struct{}), scanning: make(chan struct{}, 1)}
	err := o.Store.Records(recordPeer, func(key string, value []byte) error {
		var rec peerRecord
		if err := json.Unmarshal(value, &rec); err != nil {
			return fmt.Errorf("what is kept of %q is corrupt: %w", key, err)
		}
		fingerprint, err := ParseFingerprint(rec.Fingerprint)
		if err != nil {
			return fmt.Errorf("what is kept of %q is corrupt: %w", key, err)
		}
		l := p.newLink(Peer{URL: key[len(recordPeer):], Fingerprint: fingerprint, Authority: rec.Authority, Configured: rec.Configured})
		l.paused, l.resolved, l.compared = rec.Paused, rec.Resolved, rec.Compared
		if rec.Key != nil {
			if l.key, err = rec.Key.Key(); err != nil || l.key.Fingerprint() != fingerprint {
				return fmt.Errorf("what is kept of %q is corrupt: its key", key)
			}
		}
		p.links[l.peer.URL] = l
		return nil
	})
	return p, err
}

// Run exchanges with all peers until ctx ends, and returns when nothing of it runs.
func (p *Peers) Run(ctx context.Context) error {
	p.mu.Lock()
	p.run = ctx
	for _, l := range p.links {
		p.start(l)
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.run = nil
	p.mu.Unlock()
	p.group.Wait()
	return nil
}

// start has l exchange; p.mu is held.
func (p *Peers) start(l *link) {
	if p.run == nil || l.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(p.run)
	l.stop = stop
	p.group.Go(func() { l.run(ctx) })
}

// spawn runs f beside everything else, until it is stopped or the hub ends.
func (p *Peers) spawn(f func(ctx context.Context)) (stop context.CancelFunc, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return nil, graph.ErrClosed
	}
	ctx, stop := context.WithCancel(p.run)
	p.group.Go(func() {
		defer stop()
		f(ctx)
	})
	return stop, nil
}

// Shutdown ends the streams to peers: they find out by themselves when the hub is back.
func (p *Peers) Shutdown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
	default:
		close(p.ended)
	}
}

var (
	// ErrNoPeer reports that there is no peer of that URL.
	ErrNoPeer = errors.New("there is no such peer")
	// ErrConfigured reports a peer that the configuration names, which alone changes it.
	ErrConfigured = errors.New("the configuration names this peer, and it alone changes it")
	// ErrUnfit reports a peer that cannot be one beside those that there are.
	ErrUnfit = errors.New("it does not go with who speaks for what")
	// ErrTooManyPeers reports that there is no room for one more.
	ErrTooManyPeers = fmt.Errorf("there are %d peers, and no more are taken", MaxPeers)
)

// Plan says what [Peers.Configure] would do, or why it cannot.
func (p *Peers) Plan(own []string, list []Peer) (changes []Change, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.plan(own, list)
}

// A Change is what a configuration does to a peer; the name "" is this hub itself.
type Change struct{ Peer, Change string }

// What a Change does.
const (
	Added   = "added"
	Changed = "changed"
	Removed = "removed"
)

func (p *Peers) plan(own []string, list []Peer) (changes []Change, err error) {
	named := map[string]bool{}
	for _, peer := range list {
		named[peer.URL] = true
	}
	all := slices.Clone(list)
	for _, url := range slices.Sorted(maps.Keys(p.links)) {
		if l := p.links[url]; !named[url] && !l.peer.Configured { // it stays
			all = append(all, l.peer)
		}
	}
	if err := CheckPeers(p.o.Identity.Hub(), own, all, p.o.Schemes...); err != nil {
		return nil, err
	}
	if !slices.Equal(own, p.own) {
		changes = append(changes, Change{"", Changed})
	}
	for _, peer := range list {
		peer.Configured = true
		switch l := p.links[peer.URL]; {
		case l == nil:
			changes = append(changes, Change{peer.URL, Added})
		case !equalPeers(&l.peer, &peer):
			changes = append(changes, Change{peer.URL, Changed})
		}
	}
	for _, url := range slices.Sorted(maps.Keys(p.links)) {
		if l := p.links[url]; l.peer.Configured && !named[url] {
			changes = append(changes, Change{url, Removed})
		}
	}
	return changes, nil
}

func equalPeers(a, b *Peer) bool {
	return a.URL == b.URL && a.Fingerprint == b.Fingerprint && a.Configured == b.Configured && slices.Equal(a.Authority, b.Authority)
}

// CheckPeers reports what is wrong with a configuration of the hub with that URL.
func CheckPeers(hub string, own []string, list []Peer, schemes ...string) error {
	if len(list) > MaxPeers {
		return ErrTooManyPeers
	}
	territories := make([]graph.Territory, len(list))
	for i, peer := range list {
		if err := CheckHub(peer.URL); err != nil {
			return err
		}
		if peer.URL == hub {
			return fmt.Errorf("%s is this hub itself", hub)
		}
		territories[i] = graph.Territory{Peer: peer.URL, Authority: peer.Authority}
	}
	return graph.CheckAuthority(own, territories, schemes...)
}

// Configure makes own what this hub speaks for and list the peers of the
// configuration; peers that were added otherwise stay. It returns when that is durable.
func (p *Peers) Configure(ctx context.Context, own []string, list []Peer) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.mu.Lock()
	changes, err := p.plan(own, list)
	if err != nil {
		p.mu.Unlock()
		return err
	}
	p.own = slices.Clone(own)
	var gone []*link
	for _, c := range changes {
		if c.Change == Removed {
			gone = append(gone, p.links[c.Peer])
			delete(p.links, c.Peer)
		}
	}
	for _, peer := range list {
		peer.Configured = true
		gone = append(gone, p.put(peer)...)
	}
	p.mu.Unlock()
	return p.changed(ctx, gone)
}

// put makes or changes a link; p.mu is held. It returns those that are to be ended.
func (p *Peers) put(peer Peer) (gone []*link) {
	l := p.links[peer.URL]
	switch {
	case l == nil:
	case equalPeers(&l.peer, &peer):
		return nil
	case l.peer.Fingerprint == peer.Fingerprint:
		l.mu.Lock() // URL and fingerprint are read without it
		l.peer.Authority, l.peer.Configured, l.askNext = peer.Authority, peer.Configured, time.Time{}
		l.mu.Unlock()
		l.kick()
		return nil
	default: // another key: what was open with the old one ends
		gone = []*link{l}
	}
	paused := l != nil && l.isPaused()
	l = p.newLink(peer)
	l.paused = paused
	p.links[peer.URL] = l
	return gone
}

// changed makes durable what there is now, ends what is gone and starts what is new. It
// is done to the end also if ctx ends: links and store would not agree.
func (p *Peers) changed(ctx context.Context, gone []*link) error {
	ctx = context.WithoutCancel(ctx)
	for _, l := range gone {
		l.end()
	}
	if err := p.keep(ctx, gone); err != nil {
		return err
	}
	if err := p.name(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		p.start(l)
	}
	return nil
}

// keep writes down all links, and that others are gone.
func (p *Peers) keep(ctx context.Context, gone []*link) error {
	var records []graph.Record
	p.mu.Lock()
	for _, l := range gone {
		if p.links[l.peer.URL] == nil {
			records = append(records, graph.Record{Key: recordPeer + l.peer.URL})
		}
	}
	for _, l := range p.links {
		records = append(records, l.record())
	}
	p.mu.Unlock()
	return p.o.Store.PutRecords(ctx, records)
}

// name tells the store who speaks for what. What the configuration says goes before
// what hosts of content say.
func (p *Peers) name(ctx context.Context) error {
	p.mu.Lock()
	own := p.own
	taken := map[string]bool{}
	for _, prefix := range own {
		taken[prefix] = true
	}
	// A peer that speaks for a thousand must not keep all others from being named.
	room := graph.MaxAuthority - len(own)
	for _, l := range p.links {
		for _, prefix := range l.peer.Authority {
			taken[prefix] = true
			room--
		}
	}
	var territories []graph.Territory
	for _, url := range slices.Sorted(maps.Keys(p.links)) {
		l := p.links[url]
		t := graph.Territory{Peer: url, Authority: l.peer.Authority}
		if len(t.Authority) == 0 {
			for _, prefix := range l.confirmed() {
				if !taken[prefix] && room > 0 {
					taken[prefix] = true
					t.Authority = append(t.Authority, prefix)
					room--
				}
			}
		}
		territories = append(territories, t)
	}
	if room <= 0 {
		p.o.Log.Warn("there is no room for more that peers speak for", "prefixes", graph.MaxAuthority)
	}
	p.mu.Unlock()
	return p.o.Store.SetAuthority(ctx, own, territories)
}

// Add makes a hub a peer, durably. One that is there already is given another
// fingerprint or authority, unless the configuration names it.
func (p *Peers) Add(ctx context.Context, peer Peer) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	peer.Configured = false
	p.mu.Lock()
	list := []Peer{peer}
	for url, l := range p.links {
		if url != peer.URL {
			list = append(list, l.peer)
		}
	}
	err := CheckPeers(p.o.Identity.Hub(), p.own, list, p.o.Schemes...)
	if err != nil && !errors.Is(err, ErrTooManyPeers) {
		err = fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	if l := p.links[peer.URL]; err == nil && l != nil && l.peer.Configured {
		err = ErrConfigured
	}
	if err != nil {
		p.mu.Unlock()
		return err
	}
	gone := p.put(peer)
	p.mu.Unlock()
	return p.changed(ctx, gone)
}

// Remove ends that a hub is a peer, and forgets what it wanted to hear and what was
// heard of it.
func (p *Peers) Remove(ctx context.Context, url string) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.mu.Lock()
	l := p.links[url]
	switch {
	case l == nil:
		p.mu.Unlock()
		return ErrNoPeer
	case l.peer.Configured:
		p.mu.Unlock()
		return ErrConfigured
	}
	delete(p.links, url)
	p.mu.Unlock()
	return p.changed(ctx, []*link{l})
}

// Pause ends all exchange with a peer, or resumes it, durably. What the peer speaks for
// is kept as it was heard last.
func (p *Peers) Pause(ctx context.Context, url string, paused bool) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	l, err := p.find(url)
	if err != nil {
		return err
	}
	l.pause(paused)
	return p.keep(ctx, nil)
}

// Resync has everything told anew that this hub wants to hear of a peer, asks the hosts
// of content again, and compares afterwards. Nobody is told of what is as it was.
func (p *Peers) Resync(ctx context.Context, url string) error {
	l, err := p.find(url)
	if err != nil {
		return err
	}
	if err := p.o.Store.Reregister(ctx, url); err != nil {
		return err
	}
	l.mu.Lock()
	l.askNext = time.Time{}
	l.mu.Unlock()
	l.kick()
	return p.Compare(url)
}

// Compare has all that is heard of a peer compared with what it has, now, or as soon as
// the peer lets it.
func (p *Peers) Compare(url string) error {
	l, err := p.find(url)
	if err != nil {
		return err
	}
	l.compareSoon()
	return nil
}

func (p *Peers) find(url string) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[url]; l != nil {
		return l, nil
	}
	return nil, ErrNoPeer
}

// Document returns what this hub says of itself.
func (p *Peers) Document() ([]byte, error) {
	p.mu.Lock()
	own := p.own
	p.mu.Unlock()
	hub := p.o.Identity.Hub()
	d := Document{Hub: hub, Epoch: p.o.Store.Token().Epoch.String(), Versions: []int{Version}, Authority: own,
		Keys: []JWK{p.o.Identity.JWK()}, Endpoints: map[string]string{},
		Limits: Limits{Body: MaxBody, Ops: graph.MaxOps, Interests: int(p.o.Interests)}}
	for _, name := range endpointNames {
		d.Endpoints[name] = hub + Path + name
	}
	return d.Encode()
}

// Path is where the endpoints of a hub lie, each by its name.
const Path = "/federation/v1/"

// DocumentPath is where a hub's document lies.
const DocumentPath = "/.well-known/freshwire"

// Seen is who a hub says that it is.
type Seen struct {
	URL         string
	Fingerprint Fingerprint
	Authority   []string
	Epoch       string
}

// Identity returns who this hub is to others.
func (p *Peers) Identity() Seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Seen{p.o.Identity.Hub(), p.o.Identity.Key().Fingerprint(), p.own, p.o.Store.Token().Epoch.String()}
}

// Look finds out who is at a URL; that makes it no peer.
func (p *Peers) Look(ctx context.Context, url string) (Seen, error) {
	if err := CheckHub(url); err != nil {
		return Seen{}, err
	}
	c, err := p.o.Dial(url)
	if err != nil {
		return Seen{}, err
	}
	defer c.Close()
	d, err := fetchDocument(ctx, c.Calls, url)
	if err != nil {
		return Seen{}, err
	}
	key, err := d.Keys[0].Key()
	return Seen{d.Hub, key.Fingerprint(), d.Authority, d.Epoch}, err
}

// pace is how fast the times of the protocol go.
type pace struct{ rate float64 }

// of is how long d of the hub's time is.
func (p pace) of(d time.Duration) time.Duration {
	return max(time.Millisecond, time.Duration(float64(d)/p.rate))
}
