package claim

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"golang.org/x/sync/errgroup"
)

const (
	// MaxClaims bounds what one poll is given: it is one commit, which keeps the apply
	// loop from others for about 3 ms, and one answer of about half a megabyte.
	MaxClaims = 1000
	// MaxTypes bounds the types of one poll: each is compared with every notice.
	MaxTypes = 100
	// MaxWait bounds how long a poll waits: proxies give up after a minute.
	MaxWait = time.Minute
	// maxPolls and maxPollsEach bound the polls that wait, of all and of one account:
	// each is a connection with its goroutine, about 40 KB.
	maxPolls     = 8192
	maxPollsEach = 1024
	// maxPools and maxPoolsEach bound the pools that are remembered, of all and of one
	// account. Which one is forgotten begins with a scan when it is asked again.
	maxPools     = 2000
	maxPoolsEach = 200
	// servers is how many polls are served at once. Their claims share commits; more
	// would only wait in the store's queue, before updates.
	servers = 32
	// keepEvery is how often cursors are written and channels looked at. What was
	// claimed since is offered again after a crash, and refused by the graph.
	keepEvery = 2 * time.Second
	// closeAfter is after how many of these a pool that nobody asks is closed: workers
	// come back within seconds, or they are gone.
	closeAfter = 150
)

// Records in the store.
const (
	recordKey  = "claim/key"
	recordPool = "claim/pool/"
)

// ErrUnknown reports a claim that is over, or never was the holder's.
var ErrUnknown = errors.New("the claim is over, or is another's")

// A LimitError reports a poll for which there is no room.
type LimitError struct {
	Limit int
	text  string
}

func (e *LimitError) Error() string { return fmt.Sprintf(e.text, e.Limit) }

var (
	errPollsEach = &LimitError{maxPollsEach, "%d polls of yours wait"}
	errPools     = &LimitError{maxPoolsEach, "polls of yours wait for %d different things"}
)

// Store is what a desk asks of the graph.
type Store interface {
	Claim(ctx context.Context, uris []string, lease time.Duration) ([]graph.Claim, error)
	ExtendClaim(ctx context.Context, id string, lease time.Duration) (graph.Claim, error)
	ReleaseClaim(ctx context.Context, id string, failed bool) error
	Ready(after string, limit int) (ns []graph.Notice, next string, err error)
	Records(prefix string, f func(key string, value []byte) error) error
	PutRecords(ctx context.Context, records []graph.Record) error
}

// A Claimer is who asks for work.
type Claimer struct {
	// Name is whose claims and polls these are: nobody else ends or extends them.
	Name    string
	Viewer  subscriptions.Viewer // what it may be shown
	All     bool                 // it may make everything, whatever Publish has
	Publish []string             // prefixes under which it may, as [graph.UnderPrefix] says
}

// mayMake reports whether the claimer may send an update of uri.
func (c *Claimer) mayMake(uri string) bool {
	return c.All || slices.ContainsFunc(c.Publish, func(p string) bool { return graph.UnderPrefix(uri, p) })
}

// A Request asks for work: of a channel or of some types, of which exactly one is set.
type Request struct {
	Channel string
	Types   []string      // 1 to MaxTypes
	Max     int           // 1 to MaxClaims
	Lease   time.Duration // graph.MinLease to graph.MaxLease
	Wait    time.Duration // up to MaxWait, if there is nothing at once
}

func (r *Request) validate() error {
	bad := func(field, reason string, args ...any) error {
		return &graph.InvalidError{Field: field, Reason: fmt.Sprintf(reason, args...)}
	}
	switch {
	case (r.Channel == "") == (len(r.Types) == 0):
		return bad("channel", "ask for a channel or for types")
	case len(r.Types) > MaxTypes:
		return bad("types", "more than %d", MaxTypes)
	case r.Max < 1 || r.Max > MaxClaims:
		return bad("max", "not between 1 and %d", MaxClaims)
	case r.Lease < graph.MinLease || r.Lease > graph.MaxLease:
		return bad("lease_s", "not between %s and %s", graph.MinLease, graph.MaxLease)
	case r.Wait < 0 || r.Wait > MaxWait:
		return bad("wait_s", "not between 0 and %s", MaxWait)
	}
	return nil
}

// Handed is one claim that was given, with what told of it. Its ID is of use to its
// holder alone.
type Handed struct {
	graph.Claim
	Notice graph.Notice
}

// Options configures a Desk. The zero value of each field is its default.
type Options struct {
	Log *slog.Logger // nil means none
	// MaxPolls is how many polls may wait, of all; 0 means maxPolls, and more are never
	// let in. Whoever serves few connections leaves some for others.
	MaxPolls int
}

// Stats are figures of a desk.
type Stats struct {
	Polls, Pools                       int    // polls that wait, and pools that are asked
	Handed, Extended, Failed, Released uint64 // claims given, extended, failed and given back
	Resets                             uint64 // positions that could not be served
}

// An account is whose polls are counted together.
type account struct {
	name         string
	polls, pools int
}

// A poll is one request that waits.
type poll struct {
	pool    *pool
	account *account
	max     int
	lease   time.Duration
	served  bool // its turn has come
	left    bool // it waits no longer: it is answered with what there is
	answer  chan answer
}

type answer struct {
	claims []Handed
	err    error
}

// A Desk hands out what is ready. It is safe for concurrent use.
type Desk struct {
	store    Store
	streams  *subscriptions.Streamer
	channels *subscriptions.Channels
	log      *slog.Logger
	maxPolls int
	signer   signer
	signing  sync.Mutex
	signs    bool // the signer is durable

	mu       sync.Mutex
	turn     sync.Cond // somebody's turn has come, or the desk ends
	pools    map[string]*pool
	accounts map[string]*account
	turns    []*pool // whose turn comes, one poll each
	polls    int
	asked    uint64
	ended    bool
	unsaved  []graph.Record // deletes of pools that were forgotten

	bell  chan struct{}
	newMu sync.Mutex
	fresh map[*pool]struct{} // pools that have news

	stats struct{ handed, extended, failed, released, resets atomic.Uint64 }
}

// New returns a desk that goes on where an earlier one of the same store was. The
// streamer must run for news to come.
func New(store Store, streams *subscriptions.Streamer, channels *subscriptions.Channels, o Options) (*Desk, error) {
	d := &Desk{store: store, streams: streams, channels: channels, log: o.Log, maxPolls: maxPolls, pools: map[string]*pool{}, accounts: map[string]*account{},
		bell: make(chan struct{}, 1), fresh: map[*pool]struct{}{}}
	d.turn.L = &d.mu
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if o.MaxPolls > 0 {
		d.maxPolls = min(o.MaxPolls, maxPolls)
	}
	err := store.Records(recordKey, func(_ string, value []byte) error {
		d.signer = slices.Clone(value)
		return nil
	})
	if err == nil {
		err = store.Records(recordPool, d.load)
	}
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	if len(d.signer) != keySize {
		d.signer = make([]byte, keySize)
		rand.Read(d.signer)
	} else {
		d.signs = true
	}
	return d, nil
}

// poolRecord is how a pool is kept.
type poolRecord struct {
	Owner string `json:"owner,omitempty"`
	place
}

func (d *Desk) load(key string, value []byte) error {
	var r poolRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return fmt.Errorf("pool %.100q: %w", key, err)
	}
	p := newPool(d, strings.TrimPrefix(key, recordPool), d.account(r.Owner))
	p.resume(r.place)
	p.account.pools++
	d.pools[p.key] = p
	return nil
}

// account returns that of a name. The lock is held.
func (d *Desk) account(name string) *account {
	a := d.accounts[name]
	if a == nil {
		a = &account{name: name}
		d.accounts[name] = a
	}
	return a
}

// drop forgets an account that has nothing. The lock is held.
func (d *Desk) drop(a *account) {
	if a.polls == 0 && a.pools == 0 {
		delete(d.accounts, a.name)
	}
}

// poolKey is equal for requests that are served from one pool. All that it is made of
// is told apart, whatever it contains.
func poolKey(c *Claimer, r *Request) string {
	sorted := func(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }
	id := struct {
		Channel          string
		Types            []string
		All, SeesAll     bool
		Publish, Subject []string
	}{r.Channel, sorted(r.Types), c.All, c.Viewer.All, nil, nil}
	if !c.All {
		id.Publish = sorted(c.Publish)
	}
	if !c.Viewer.All {
		id.Subject = sorted(c.Viewer.Prefixes)
	}
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(id); err != nil {
		panic(err) // strings and flags alone
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Claim gives up to r.Max of what is ready, durably, and waits for some if there is
// nothing; after r.Wait it returns none. Those who wait for the same are served in
// turn, and those who wait for different things take turns.
//
// Nothing is given that the claimer may not make or may not see; it stays for others.
// A claim ends by an update of its resource, by [Desk.Release], or with its lease. If
// ctx ends the claims are given back.
//
// It fails with a *[graph.InvalidError], [subscriptions.ErrNoChannel], a
// *[subscriptions.Refusal] or *[subscriptions.FilterError], a *[LimitError], and with
// what [graph.Store.Claim] says.
func (d *Desk) Claim(ctx context.Context, c Claimer, r Request) ([]Handed, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	if err := d.keepSigner(ctx); err != nil {
		return nil, err
	}
	q, err := d.join(&c, &r)
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(r.Wait)
	defer wait.Stop()
	var a answer
	select {
	case a = <-q.answer:
	case <-wait.C:
		d.leave(q, false)
		a = <-q.answer
	case <-ctx.Done():
		d.leave(q, true)
		a = <-q.answer
	}
	if a.err != nil && len(a.claims) == 0 {
		return nil, a.err
	}
	if ctx.Err() != nil {
		for _, h := range a.claims {
			d.store.ReleaseClaim(context.WithoutCancel(ctx), h.ID, false) // if it fails, the lease ends
			d.stats.released.Add(1)
		}
		return nil, ctx.Err()
	}
	for i := range a.claims {
		a.claims[i].ID = d.signer.sign(c.Name, a.claims[i].ID)
	}
	return a.claims, nil
}

// keepSigner makes what signs ids durable before it signs the first: holders know
// their claims longer than a hub lives.
func (d *Desk) keepSigner(ctx context.Context) (err error) {
	d.signing.Lock()
	defer d.signing.Unlock()
	if !d.signs {
		err = d.store.PutRecords(ctx, []graph.Record{{Key: recordKey, Value: d.signer}})
		d.signs = err == nil
	}
	return err
}

// join has a poll wait for its turn.
func (d *Desk) join(c *Claimer, r *Request) (*poll, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.account(c.Name)
	defer d.drop(a)
	switch {
	case d.ended:
		return nil, graph.ErrClosed
	case d.polls >= d.maxPolls:
		return nil, &LimitError{d.maxPolls, "%d polls wait at the hub"}
	case a.polls >= maxPollsEach:
		return nil, errPollsEach
	}
	p, err := d.poolOf(a, c, r)
	if err != nil {
		return nil, err
	}
	q := &poll{pool: p, account: a, max: r.Max, lease: r.Lease, answer: make(chan answer, 1)}
	d.asked++
	d.polls++
	a.polls++
	p.used, p.idle = d.asked, 0
	p.waiting = append(p.waiting, q)
	p.dry = false // whoever comes looks for itself
	d.enqueue(p)
	return q, nil
}

// poolOf returns the pool of a request, opened. The lock is held.
func (d *Desk) poolOf(a *account, c *Claimer, r *Request) (*pool, error) {
	key := poolKey(c, r)
	p := d.pools[key]
	if p != nil && p.open != nil {
		return p, nil
	}
	o, err := d.opened(c, r)
	if err != nil {
		return nil, err
	}
	if p == nil {
		if err := d.makeRoom(a); err != nil {
			return nil, err
		}
		p = newPool(d, key, a)
		a.pools++
		d.pools[key] = p
	}
	o.stop = o.feed.Watch(func() { d.ring(p) })
	p.begin(o)
	return p, nil
}

// opened finds what a request asks for.
func (d *Desk) opened(c *Claimer, r *Request) (o *opened, err error) {
	o = &opened{edits: func() uint64 { return 0 }, publish: c.mayMake}
	if r.Channel != "" {
		o.feed, err = d.streams.Feed(subscriptions.Topic{Channel: r.Channel}, c.Viewer)
		o.edits = func() uint64 { return d.channels.Edits(r.Channel) }
	} else {
		o.feed, err = d.streams.FilteredFeed(subscriptions.Filter{Type: r.Types, Kind: []string{graph.KindRefresh.String()}}, c.Viewer)
	}
	return o, err
}

// makeRoom forgets a pool that nobody asks, if there are too many: one of the
// account's if it has too many itself. The lock is held.
func (d *Desk) makeRoom(a *account) error {
	if a.pools < maxPoolsEach && len(d.pools) < maxPools {
		return nil
	}
	var oldest *pool
	for _, p := range d.pools {
		if p.busy() || a.pools >= maxPoolsEach && p.account != a {
			continue
		}
		if oldest == nil || p.used < oldest.used {
			oldest = p
		}
	}
	if oldest == nil {
		return errPools
	}
	d.forget(oldest)
	return nil
}

// busy reports whether somebody asks a pool. The lock of the desk is held.
func (p *pool) busy() bool { return len(p.waiting) > 0 || p.serving > 0 }

// forget drops a pool and what is kept of it. The lock is held.
func (d *Desk) forget(p *pool) {
	delete(d.pools, p.key)
	p.account.pools--
	d.drop(p.account)
	d.unsaved = append(d.unsaved, graph.Record{Key: recordPool + p.key})
	p.lost = true
	if !p.busy() {
		p.close()
	}
}

// leave has a poll wait no longer. One whose turn has not come gets it first, unless
// there is nothing, or it is to be answered at once; one that is being served gets
// what there is.
func (d *Desk) leave(q *poll, atOnce bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q.left = true
	if i := slices.Index(q.pool.waiting, q); i >= 0 && (atOnce || q.served || q.pool.dry) {
		q.pool.waiting = slices.Delete(q.pool.waiting, i, i+1)
		d.reply(q, answer{})
	}
}

// reply answers a poll. The lock is held.
func (d *Desk) reply(q *poll, a answer) {
	d.polls--
	q.account.polls--
	d.drop(q.account)
	q.answer <- a
}

// enqueue gives a pool a place among those whose turn comes, if it has something to
// look for and somebody who waits. The lock is held.
func (d *Desk) enqueue(p *pool) {
	if !p.queued && !p.dry && len(p.waiting) > 0 {
		p.queued = true
		d.turns = append(d.turns, p)
		d.turn.Signal()
	}
}

// ring notes that a pool has news. It is called by the pump and waits for nobody.
func (d *Desk) ring(p *pool) {
	d.newMu.Lock()
	d.fresh[p] = struct{}{}
	d.newMu.Unlock()
	select {
	case d.bell <- struct{}{}:
	default:
	}
}

// Run serves polls until ctx ends, and writes down where the pools are. Then polls
// are answered with [graph.ErrClosed].
func (d *Desk) Run(ctx context.Context) error {
	// A claim that was begun is answered, or its lease would have to end first.
	lasting := context.WithoutCancel(ctx)
	var g errgroup.Group
	for range servers {
		g.Go(func() error {
			d.serve(lasting)
			return nil
		})
	}
	g.Go(func() error {
		d.listen(ctx)
		return nil
	})
	err := d.keep(ctx)
	d.end()
	err = errors.Join(err, g.Wait(), d.save(lasting))
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pools {
		p.close()
	}
	if errors.Is(err, graph.ErrClosed) {
		return nil
	}
	return err
}

// end has nobody wait any more.
func (d *Desk) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	for _, p := range append(slices.Collect(maps.Values(d.pools)), d.turns...) { // also pools that were forgotten
		for _, q := range p.waiting {
			d.reply(q, answer{err: graph.ErrClosed})
		}
		p.waiting = nil
	}
	d.turn.Broadcast()
}

// listen gives those a turn who have news.
func (d *Desk) listen(ctx context.Context) {
	for {
		select {
		case <-d.bell:
		case <-ctx.Done():
			return
		}
		d.newMu.Lock()
		fresh := d.fresh
		d.fresh = map[*pool]struct{}{}
		d.newMu.Unlock()
		d.mu.Lock()
		for p := range fresh {
			d.wake(p)
		}
		d.mu.Unlock()
	}
}

// wake has a pool look again. The lock is held.
func (d *Desk) wake(p *pool) {
	p.news++
	p.dry = false
	d.enqueue(p)
}

// next returns the poll whose turn it is, which is then being served; nil if none has
// its turn. The pool stands at the end again if others wait there. The lock is held.
func (d *Desk) next() *poll {
	for len(d.turns) > 0 {
		p := d.turns[0]
		d.turns = slices.Delete(d.turns, 0, 1)
		p.queued = false
		if len(p.waiting) == 0 {
			continue
		}
		q := p.waiting[0]
		p.waiting = slices.Delete(p.waiting, 0, 1)
		p.serving++
		d.enqueue(p)
		return q
	}
	return nil
}

// serve serves one poll after another, of one pool after another.
func (d *Desk) serve(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.ended {
		q := d.next()
		if q == nil {
			d.turn.Wait()
			continue
		}
		p := q.pool
		news, others := p.news, len(p.waiting)+p.serving-1
		d.mu.Unlock()
		claims, dry, err := p.attend(ctx, q.max, others, q.lease)
		d.stats.handed.Add(uint64(len(claims)))
		d.mu.Lock()
		p.serving--
		p.dry = p.dry || dry && p.news == news
		q.served = true
		d.served(p, q, answer{claims, err})
	}
}

// served answers a poll, or has it wait on. The lock is held.
func (d *Desk) served(p *pool, q *poll, a answer) {
	if endsFeed(a.err) && !p.lost {
		d.forget(p)
	}
	switch {
	case len(a.claims) > 0 || a.err != nil || q.left:
		d.reply(q, a)
	case d.ended:
		d.reply(q, answer{err: graph.ErrClosed})
	default:
		p.waiting = slices.Insert(p.waiting, 0, q)
	}
	if p.dry {
		p.waiting = slices.DeleteFunc(p.waiting, func(q *poll) bool {
			if q.left {
				d.reply(q, answer{})
			}
			return q.left
		})
	}
	d.enqueue(p)
	if p.lost && !p.busy() {
		p.close()
	}
}

// endsFeed reports whether a pool has nothing to read any more.
func endsFeed(err error) bool {
	var no *subscriptions.Refusal
	return errors.Is(err, subscriptions.ErrNoChannel) || errors.As(err, &no)
}

// keep writes down where the pools are, has those look again whose channel was
// changed, and closes those that nobody asks.
func (d *Desk) keep(ctx context.Context) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		if err := d.save(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		d.look()
	}
}

func (d *Desk) look() {
	var asked []*pool
	d.mu.Lock()
	for _, p := range d.pools {
		switch p.idle++; {
		case p.open == nil:
		case p.busy():
			p.idle = 0
			asked = append(asked, p)
		case p.idle >= closeAfter:
			p.close()
		}
	}
	d.mu.Unlock()
	for _, p := range asked {
		if p.changed() {
			d.mu.Lock()
			d.wake(p)
			d.mu.Unlock()
		}
	}
}

// save writes the cursors that have moved. On a disk that is nearly full what is new
// waits.
func (d *Desk) save(ctx context.Context) error {
	d.mu.Lock()
	records := d.unsaved
	d.unsaved = nil
	pools := slices.Collect(maps.Values(d.pools))
	d.mu.Unlock()
	deletes := len(records)
	for _, p := range pools {
		if r, moved := p.record(); moved {
			records = append(records, r)
		}
	}
	for part := range slices.Chunk(records, graph.MaxRecords) {
		var full *graph.NoSpaceError
		err := d.store.PutRecords(ctx, part)
		if err == nil {
			continue
		}
		for _, p := range pools {
			p.saved = place{}
		}
		d.mu.Lock()
		d.unsaved = append(d.unsaved, records[:deletes]...)
		d.mu.Unlock()
		if errors.As(err, &full) {
			return nil
		}
		return err
	}
	return nil
}

// Extend moves the end of a claim's lease to a length of time from now. A claim that
// is over, or not the holder's, is [ErrUnknown].
func (d *Desk) Extend(ctx context.Context, holder, id string, lease time.Duration) (graph.Claim, error) {
	inner, ok := d.signer.open(holder, id)
	if !ok {
		return graph.Claim{}, ErrUnknown
	}
	c, err := d.store.ExtendClaim(ctx, inner, lease)
	if err == nil {
		d.stats.extended.Add(1)
	}
	c.ID = id
	return c, unknown(err)
}

// Release gives a claim back: its resource is ready again, for anybody, at once or, if
// making it failed, after a wait that grows each time; who failed at it as often as
// there are retries leaves it failed. A claim that is over, or not the holder's, is
// [ErrUnknown].
func (d *Desk) Release(ctx context.Context, holder, id string, failed bool) error {
	inner, ok := d.signer.open(holder, id)
	if !ok {
		return ErrUnknown
	}
	err := d.store.ReleaseClaim(ctx, inner, failed)
	switch {
	case err == nil && failed:
		d.stats.failed.Add(1)
	case err == nil:
		d.stats.released.Add(1)
	}
	return unknown(err)
}

func unknown(err error) error {
	if errors.Is(err, graph.ErrUnknown) {
		return ErrUnknown
	}
	return err
}

// Stats returns the desk's figures.
func (d *Desk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{Polls: d.polls, Handed: d.stats.handed.Load(), Extended: d.stats.extended.Load(), Failed: d.stats.failed.Load(),
		Released: d.stats.released.Load(), Resets: d.stats.resets.Load()}
	for _, p := range d.pools {
		if p.open != nil {
			s.Pools++
		}
	}
	return s
}
