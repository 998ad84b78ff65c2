package websub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

const (
	// maxSubscriptions bounds those of a hub, about 2 KB of memory each.
	maxSubscriptions = 100_000
	// maxPending bounds the verifications that a hub owes, each a goroutine: many more
	// than those that a minute can bring from honest subscribers.
	maxPending = 10_000
	// maxPendingPerOwner bounds those of one owner, who would else keep all others from
	// being verified; it is what one answers within seconds.
	maxPendingPerOwner = 500
	// anonymousShare is which part of an owner's bounds somebody without a token has:
	// addresses cost less than tokens.
	anonymousShare = 10

	// DefaultPerOwner is many for one who follows channels, and few for the hub.
	DefaultPerOwner = 1000
	// DefaultVerifyRate is what nobody minds who never asked for it.
	DefaultVerifyRate = 10
	// DefaultSignature is what subscribers who know the Recommendation can check.
	DefaultSignature = "sha256"

	// DefaultLeaseMin spares callbacks a verification every other second.
	DefaultLeaseMin = 5 * time.Minute
	// DefaultLease is what subscribers of other hubs are used to.
	DefaultLease = 10 * 24 * time.Hour
	// DefaultLeaseMax has no callback be called for ever that nobody remembers.
	DefaultLeaseMax = 30 * 24 * time.Hour
)

// ErrObserving reports a request to a hub that calls nobody.
var ErrObserving = errors.New("the hub only observes: it calls nobody, and so can verify nothing")

// ErrNoSubscription reports an id of no subscription.
var ErrNoSubscription = errors.New("there is no such subscription")

// A LimitError reports a request for which there is no room.
type LimitError struct {
	Limit int
	Retry time.Duration // when to come again; 0 where waiting does not help
	text  string
}

func (e *LimitError) Error() string { return fmt.Sprintf(e.text, e.Limit) }

// A MovedError reports that subscriptions are taken elsewhere.
type MovedError struct{ URL string }

func (e *MovedError) Error() string { return "subscriptions are taken at another hub" }

// A Requester is who sent a request.
type Requester struct {
	Subject string               // of the token; "" is nobody's
	Address string               // of who has no token: what its subscriptions are counted for
	Viewer  subscriptions.Viewer // what the token shows
	Issued  time.Time            // of the token
	Admin   bool
	// MayPublish reports whether it may change what the hub knows of a URI; "" asks
	// whether it may of any. nil is no.
	MayPublish func(uri string) bool
}

func (w *Requester) owner() Owner {
	if w.Viewer.Anonymous {
		return Owner{Address: w.Address}
	}
	return Owner{Subject: w.Subject}
}

// A Policy is what an operator may change while the hub runs.
type Policy struct {
	DenyTopics   []string // URLs of topics, or their paths
	RequireToken bool     // nobody subscribes without one
}

// A feedSource is where topics are followed.
type feedSource interface {
	Feed(t subscriptions.Topic, v subscriptions.Viewer) (*subscriptions.Feed, error)
}

// Digests are topics that are replaced as a whole when an hour closes.
type Digests interface {
	// Newest returns the number of the newest hour of a channel, 0 if none has closed.
	// Hours are counted on, or else from 1 again.
	Newest(channel string) uint64
	// May reports whether a viewer may read the digests of a channel: nil,
	// subscriptions.ErrNoChannel or a *subscriptions.Refusal.
	May(channel string, v subscriptions.Viewer) error
	// Shows reports whether a viewer who may read the digests gets anything at the topic's
	// address now: not before an hour has closed, nor what was not for everybody then.
	Shows(channel, name string, v subscriptions.Viewer) bool
	// Document returns what a viewer gets at the topic's address now: of the hour that Newest
	// returned before, or of a later one. It must not be changed. It fails as May does.
	Document(channel, name string, v subscriptions.Viewer) (body []byte, contentType string, err error)
	// Watch has news called when an hour of the channel has closed, or May may say something
	// else, until stop is called. News must not block.
	Watch(channel string, news func()) (stop func())
}

// Options configures a Hub. The zero value of each field is its default; those above
// the blank line are required.
type Options struct {
	Feeds     feedSource
	Oldest    func() graph.Cursor // before what the journal still has
	Engine    *delivery.Engine
	Callbacks delivery.Caller // delivers; its limits are those of the operator
	Verifier  delivery.Caller // verifies, with a connection for each call, which asks Hub.Admit
	// Digests are topics too; nil means that there are none.
	Digests Digests
	// CheckURL reports a callback that is never called, nil is none.
	CheckURL func(*url.URL) error

	Clock                            func() time.Time
	ClockRate                        float64 // how fast it goes; 0 means 1
	Log                              *slog.Logger
	LeaseMin, LeaseDefault, LeaseMax time.Duration
	PerOwner                         int    // subscriptions; a tenth of it for each address without a token
	VerifyRate                       int    // verification requests a minute to one host, and to one address
	Signature                        string // sha256, or sha1, sha384, sha512
	Schedule                         delivery.Schedule
	Policy                           Policy
	Moved                            string // URL of the hub that takes subscriptions instead
	Observe                          bool   // calls nobody
}

// A Hub takes subscriptions, verifies them and has topics delivered to them. It is
// safe for concurrent use.
type Hub struct {
	o         Options
	ledger    ledger
	sign      func(key, body []byte) string // X-Hub-Signature
	hosts     *limiter
	addrs     *limiter
	verifying chan struct{} // a place for each verification at once
	denies    atomic.Pointer[denials]
	counts    counts

	// Whoever changes what is known of a key holds one of these.
	changing [64]sync.Mutex
	owning   sync.Mutex // held by whoever changes what an owner may see

	mu        sync.Mutex // held briefly, for what follows
	ids       map[string]*entry
	keys      map[key]*entry
	pending   map[key]*call
	ofOwner   map[Owner]*tally
	ofHost    map[string]int // pending, by host of the callback
	sightings map[string]*sighting
	run       context.Context // nil while the hub does not run
	work      sync.WaitGroup

	stale   []graph.Record // found by load, to be deleted
	took    chan struct{}  // somebody had something since that was noted
	earlier chan struct{}  // a lease ends sooner than those before
}

// A tally is what an owner has.
type tally struct {
	active, pending int
	verifying       chan struct{} // a place for each of its verifications at once
}

// denials is what an operator denies.
type denials struct {
	topics       []subject
	requireToken bool
}

// An entry is a subscription in force.
type entry struct {
	key   key
	topic topic
	sub   atomic.Pointer[subscription]
	feed  atomic.Pointer[watched] // nil while nothing is delivered
	// had is the position of the newest notice that was taken, by lane.
	had   [2]atomic.Pointer[graph.Cursor]
	noted [2]graph.Cursor  // what of that is on disk
	cut   [2]atomic.Uint64 // one more than what the newest piece came after
	// sent and told are the hours of the digest that was sent last, and of the one that was
	// taken last, since the start.
	sent, told atomic.Uint64
}

// has notes what a subscriber had.
func (e *entry) has(had [2]graph.Cursor) {
	for lane := range had {
		e.had[lane].Store(&had[lane])
	}
}

// watched is what a subscription has of its topic, and how to stop hearing of it.
type watched struct {
	source
	feed *subscriptions.Feed // nil of a digest
	sees string              // equal for those who may see the same of a topic
	stop func()
}

// A source is a topic as a viewer may see it: a *subscriptions.Feed, or a digest.
type source interface {
	Err() error
	Head() graph.Cursor
	Watch(news func()) (stop func())
}

// New reads the subscriptions of a store. Nothing is called before [Hub.Run].
func New(l ledger, o Options) (*Hub, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	h := &Hub{o: o, ledger: l, sign: signatures[o.Signature],
		hosts: newLimiter(o.VerifyRate, o.Clock), addrs: newLimiter(o.VerifyRate, o.Clock),
		ids: map[string]*entry{}, keys: map[key]*entry{}, pending: map[key]*call{}, ofOwner: map[Owner]*tally{},
		ofHost: map[string]int{}, sightings: map[string]*sighting{}, earlier: make(chan struct{}, 1), took: make(chan struct{}, 1),
		verifying: make(chan struct{}, maxVerifying)}
	d, err := o.Policy.denials()
	if err != nil {
		return nil, err
	}
	h.denies.Store(d)
	if err := h.load(); err != nil {
		return nil, fmt.Errorf("websub: %w", err)
	}
	return h, nil
}

func (o *Options) fill() error {
	orElse := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	orElse(&o.LeaseMin, DefaultLeaseMin)
	orElse(&o.LeaseMax, max(DefaultLeaseMax, o.LeaseMin))
	orElse(&o.LeaseDefault, min(max(DefaultLease, o.LeaseMin), o.LeaseMax))
	if o.LeaseMin < time.Second || o.LeaseMin > o.LeaseDefault || o.LeaseDefault > o.LeaseMax || o.LeaseMax > longest {
		return errors.New("the leases are not at least a second, and least, default and greatest in order")
	}
	if o.PerOwner == 0 {
		o.PerOwner = DefaultPerOwner
	}
	if o.VerifyRate == 0 {
		o.VerifyRate = DefaultVerifyRate
	}
	if o.ClockRate == 0 {
		o.ClockRate = 1
	}
	if o.Signature == "" {
		o.Signature = DefaultSignature
	}
	if signatures[o.Signature] == nil {
		return fmt.Errorf("%.40q is not a signature; there are sha1, sha256, sha384 and sha512", o.Signature)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// load reads the records.
func (h *Hub) load() error {
	err := read(h.ledger, recordOwner, func(_ string, s *sighting) error {
		h.sightings[s.Subject] = s
		return nil
	})
	if err != nil {
		return err
	}
	err = read(h.ledger, recordSubscription, func(id string, s *subscription) error {
		s.ID = id
		t, no := parseTopic(s.Topic)
		if no != nil {
			return no
		}
		u, no := checkCallback(string(s.Callback))
		if no != nil {
			return no
		}
		e := &entry{key: keyOf(t.compared, comparable(u, string(s.Callback))), topic: t}
		e.sub.Store(s)
		e.has([2]graph.Cursor{s.From, s.From})
		h.install(e)
		return nil
	})
	if err == nil {
		err = read(h.ledger, recordHad, func(id string, had *[2]graph.Cursor) error {
			e := h.ids[id]
			if e == nil { // noted while it ended
				h.stale = append(h.stale, graph.Record{Key: recordHad + id})
				return nil
			}
			e.noted = *had
			e.has(*had)
			return nil
		})
	}
	if err != nil {
		return err
	}
	return read(h.ledger, recordPending, func(_ string, c *call) error {
		t, no := parseTopic(c.Topic)
		if no != nil {
			return no
		}
		u, no := checkCallback(string(c.Callback))
		if no != nil {
			return no
		}
		c.key = keyOf(t.compared, comparable(u, string(c.Callback)))
		h.enter(c)
		return nil
	})
}

// lock has the caller alone change what is known of k, until it unlocks.
func (h *Hub) lock(k key) (unlock func()) {
	m := &h.changing[int(k[0])%len(h.changing)]
	m.Lock()
	return m.Unlock
}

// install makes a subscription known. The lock is held.
func (h *Hub) install(e *entry) {
	s := e.sub.Load()
	h.ids[s.ID], h.keys[e.key] = e, e
	h.count(s.Owner, 1, 0)
}

// count changes an owner's tally. The lock is held.
func (h *Hub) count(o Owner, active, pending int) {
	t := h.ofOwner[o]
	if t == nil {
		t = &tally{}
		h.ofOwner[o] = t
	}
	if t.active, t.pending = t.active+active, t.pending+pending; t.active == 0 && t.pending == 0 {
		delete(h.ofOwner, o)
	}
}

// enter makes a call known that is owed. The lock is held, and no other of its key
// is known.
func (h *Hub) enter(c *call) {
	h.pending[c.key] = c
	h.ofHost[c.Callback.host()]++
	h.count(c.Owner, 0, 1)
	t := h.ofOwner[c.Owner]
	if t.verifying == nil {
		t.verifying = make(chan struct{}, maxVerifyingPerOwner)
	}
	c.places = t.verifying
}

// unbook forgets a call. The lock is held.
func (h *Hub) unbook(k key) *call {
	c := h.pending[k]
	if c == nil {
		return nil
	}
	delete(h.pending, k)
	host := c.Callback.host()
	if h.ofHost[host]--; h.ofHost[host] == 0 {
		delete(h.ofHost, host)
	}
	h.count(c.Owner, 0, -1)
	return c
}

// of returns what is in force and what is owed for a key.
func (h *Hub) of(k key) (*entry, *call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keys[k], h.pending[k]
}

// all are the subscriptions in force.
func (h *Hub) all() []*entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*entry, 0, len(h.ids))
	for _, e := range h.ids {
		list = append(list, e)
	}
	return list
}

// newID returns what names one more subscription, and cannot be guessed.
func newID() string { return rand.Text()[:16] }

// outlet is the name of a subscription's outlet.
func outletName(id string) string { return outlets + id }

const outlets = "websub/"

// CheckPolicy reports what cannot be used of what an operator sets.
func CheckPolicy(p Policy, signature string) error {
	if signatures[signature] == nil {
		return fmt.Errorf("%.40q is not a signature; there are sha1, sha256, sha384 and sha512", signature)
	}
	_, err := p.denials()
	return err
}
