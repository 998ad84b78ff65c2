package claim

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

const (
	// piece is how many notices are read at once, of a lane; a pool has about as many
	// in memory.
	piece = 256
	// scanPiece is how many of those that are ready are looked at in one go: most may
	// be of others.
	scanPiece = 1000
	// pieces bounds what is read of one source for one poll before others have their
	// turn.
	pieces = 4
	// rounds bounds how often a poll asks the graph before others have their turn:
	// what was told long ago may all be made.
	rounds = 8
	// maxAnswer bounds the buckets of what is given to one poll at once, in bytes: 1,000
	// resources may have 130 MB of them. Somebody who meets it asks again.
	maxAnswer = 4 << 20
	// bulkTurn is of how many handed out one is of the bulk lane or the scan while
	// prompt ones wait.
	bulkTurn = 10
)

// A candidate is a notice of what may be ready, in its source from when it was read
// until it was claimed or cannot be.
type candidate struct {
	notice graph.Notice
	from   *source
	taken  bool // by a poll, which asks the graph for it
	done   bool
}

// A source brings candidates in order.
type source struct {
	read  func(limit int) (ns []graph.Notice, more bool, err error)
	items []*candidate // from the first that is not done
	next  int          // no candidate before it is free
	more  bool         // there may be others
}

// free counts the candidates that nobody has taken.
func (s *source) free() (n int) {
	for _, c := range s.items[s.next:] {
		if !c.taken {
			n++
		}
	}
	return n
}

// fill reads on until there are enough that are free.
func (s *source) fill(enough int) error {
	for range pieces {
		if s.free() >= enough {
			s.more = true
			return nil
		}
		ns, more, err := s.read(max(piece, enough))
		if err != nil {
			return err
		}
		for i := range ns {
			s.items = append(s.items, &candidate{notice: ns[i], from: s})
		}
		if s.more = more; !more {
			return nil
		}
	}
	return nil
}

// take returns the first that is free, nil if none is.
func (s *source) take() *candidate {
	for ; s.next < len(s.items); s.next++ {
		if c := s.items[s.next]; !c.taken {
			c.taken = true
			s.next++
			return c
		}
	}
	return nil
}

// settle drops what is done from the front, and looks again at what was given back.
func (s *source) settle() {
	n := 0
	for n < len(s.items) && s.items[n].done {
		n++
	}
	s.items = slices.Delete(s.items, 0, n)
	s.next = 0
	for s.next < len(s.items) && s.items[s.next].taken {
		s.next++
	}
}

// clear forgets the candidates; those that are taken end by themselves.
func (s *source) clear() { s.items, s.next, s.more = nil, 0, true }

// A lane is a source that reads one lane of the journal.
type lane struct {
	source
	at graph.Cursor // up to here it was read
}

// cursor is up to where all is claimed or cannot be.
func (l *lane) cursor() uint64 {
	if len(l.items) > 0 {
		return l.items[0].notice.Cursor.Seq - 1
	}
	return l.at.Seq
}

// A pool is all who ask for the same and may make the same.
type pool struct {
	key     string
	account *account // who opened it
	store   Store
	desk    *Desk

	// Under Desk.mu.
	waiting []*poll // first come, first served
	serving int
	news    uint64 // moves when there may be something new
	dry     bool   // the last look found nothing, and there was no news since
	queued  bool   // has a place among those whose turn comes
	lost    bool   // its feed has ended; who asks again gets another pool
	used    uint64 // when it was asked last, as a count of all that was asked
	idle    int    // looks of the keeper since somebody waited

	saved place // the keeper's alone

	// Under mu, which is taken after Desk.mu if both are.
	mu      sync.Mutex
	open    *opened // nil while nobody has asked for long; changed under both locks
	lanes   [2]lane
	scan    source
	scanned string // where the scan goes on
	begun   bool   // lanes say where to go on
	scans   bool   // the scan is not over
	edits   uint64 // of the channel when the scan began
	turn    int
}

// opened is what a pool has while it is asked.
type opened struct {
	feed    *subscriptions.Feed
	stop    func() // ends the watch
	edits   func() uint64
	publish func(uri string) bool
}

// A place is where the lanes of a pool go on.
type place struct {
	Prompt uint64 `json:"prompt"`
	Bulk   uint64 `json:"bulk"`
}

func newPool(d *Desk, key string, a *account) *pool {
	p := &pool{key: key, desk: d, store: d.store, account: a}
	for i := range p.lanes {
		l := &p.lanes[i]
		l.read = func(limit int) ([]graph.Notice, bool, error) { return p.readLane(l, uint8(1)<<i, limit) }
	}
	p.scan.read = p.readReady
	return p
}

// begin opens a pool. One that never was begins with what comes from now on, and a
// scan for all that came before.
func (p *pool) begin(o *opened) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if edits := o.edits(); !p.begun || p.edits != edits {
		p.rescan(edits)
	}
	head := o.feed.Head()
	for i := range p.lanes {
		l := &p.lanes[i]
		l.clear()
		if !p.begun {
			l.at = head
		}
		l.at.Epoch = head.Epoch
	}
	p.open, p.begun = o, true
}

// resume has a pool that is not open yet go on where it was in an earlier life of the
// hub. What its channel was then is not known: it scans.
func (p *pool) resume(at place) {
	p.lanes[graph.Prompt].at.Seq, p.lanes[graph.Bulk].at.Seq = at.Prompt, at.Bulk
	p.begun, p.saved = true, at
	p.rescan(0)
}

func (p *pool) rescan(edits uint64) {
	p.scan.clear()
	p.scans, p.scanned, p.edits = true, "", edits
}

// close lets go of what a pool has for those who ask.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return
	}
	p.open.stop()
	for i := range p.lanes {
		l := &p.lanes[i]
		l.at.Seq = l.cursor()
		l.clear()
	}
	if p.scans { // what was read and not handed out is read again
		p.rescan(p.edits)
	}
	p.open = nil
}

// record returns what is to be kept of the pool, and whether that is not kept already.
func (p *pool) record() (graph.Record, bool) {
	p.mu.Lock()
	at := place{p.lanes[graph.Prompt].cursor(), p.lanes[graph.Bulk].cursor()}
	p.mu.Unlock()
	if at == p.saved {
		return graph.Record{}, false
	}
	p.saved = at
	value, err := json.Marshal(poolRecord{p.account.name, at})
	if err != nil {
		panic(err) // a name and numbers
	}
	return graph.Record{Key: recordPool + p.key, Value: value}, true
}

// changed reports whether the pool's channel lets through what it did not.
func (p *pool) changed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open != nil && p.open.edits() != p.edits
}

// readLane reads on in a lane.
func (p *pool) readLane(l *lane, mask uint8, limit int) ([]graph.Notice, bool, error) {
	r, err := p.open.feed.Read(mask, l.at, limit)
	if err != nil {
		return nil, false, err
	}
	l.at = r.Next
	return slices.DeleteFunc(r.Notices, func(n graph.Notice) bool { return !p.wants(&n) }), r.More, nil
}

// readReady reads on in what is ready.
func (p *pool) readReady(int) ([]graph.Notice, bool, error) {
	if !p.scans {
		return nil, false, nil
	}
	ns, next, err := p.store.Ready(p.scanned, scanPiece)
	if err != nil {
		return nil, false, err
	}
	p.scanned, p.scans = next, next != ""
	return slices.DeleteFunc(ns, func(n graph.Notice) bool { return !p.wants(&n) || !p.open.feed.Shows(&n) }), p.scans, nil
}

func (p *pool) wants(n *graph.Notice) bool {
	return n.Kind == graph.KindRefresh && p.open.publish(n.URI)
}

// take returns candidates for a poll that wants so many while others wait. More
// reports whether there may be any that were not read yet, rest whether some of those
// that were are left.
func (p *pool) take(want, others int) (cs []*candidate, more, rest bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return nil, false, false, nil
	}
	if edits := p.open.edits(); edits != p.edits {
		p.rescan(edits)
	}
	free := 0
	for _, s := range p.sources() {
		err := s.fill(want)
		var reset *graph.ResetError
		if errors.As(err, &reset) {
			p.reset(reset)
		} else if err != nil {
			return nil, false, false, err
		}
		more = more || s.more
		free += s.free()
	}
	if !more { // this is all there is: everybody gets a part
		want = min(want, (free+others)/(others+1))
	}
	for size := 0; len(cs) < want && size < maxAnswer; {
		c := p.first()
		if c == nil {
			break
		}
		cs = append(cs, c)
		size += weight(&c.notice)
	}
	return cs, more, len(cs) < free, nil
}

func (p *pool) sources() [3]*source {
	return [3]*source{&p.lanes[graph.Prompt].source, &p.lanes[graph.Bulk].source, &p.scan}
}

// first takes the candidate whose turn it is.
func (p *pool) first() *candidate {
	prompt, bulk, scan := &p.lanes[graph.Prompt].source, &p.lanes[graph.Bulk].source, &p.scan
	p.turn++
	if p.turn/bulkTurn%2 == 1 {
		bulk, scan = scan, bulk
	}
	order := [3]*source{prompt, bulk, scan}
	if p.turn%bulkTurn == 0 {
		order = [3]*source{bulk, scan, prompt}
	}
	for _, s := range order {
		if c := s.take(); c != nil {
			return c
		}
	}
	return nil
}

// reset begins again with what the journal still has, and scans for the rest.
func (p *pool) reset(e *graph.ResetError) {
	for i := range p.lanes {
		p.lanes[i].clear()
		p.lanes[i].at = e.Oldest
	}
	p.rescan(p.edits)
	p.desk.stats.resets.Add(1)
	p.desk.log.Info("claims: a position cannot be served; what is ready is looked through", "reason", e.Reason)
}

// settle tells what became of candidates: they are done, or free again.
func (p *pool) settle(cs []*candidate, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		c.done, c.taken = done, done
	}
	for _, s := range p.sources() {
		s.settle()
	}
}

// weight is the bytes of a notice's buckets.
func weight(n *graph.Notice) (size int) {
	for _, b := range n.Buckets {
		size += len(b)
	}
	return size
}

// attend claims for one poll what there is. Dry reports that nothing is left.
func (p *pool) attend(ctx context.Context, want, others int, lease time.Duration) (got []Handed, dry bool, err error) {
	size := 0
	for range rounds {
		cs, more, rest, err := p.take(want-len(got), others)
		if err != nil || len(cs) == 0 {
			return got, err == nil && !more, err
		}
		uris := make([]string, len(cs))
		for i, c := range cs {
			uris[i] = c.notice.URI
		}
		claims, err := p.store.Claim(ctx, uris, lease)
		p.settle(cs, err == nil)
		if err != nil {
			return got, false, err
		}
		k := 0
		for _, c := range claims { // in the order of uris
			for cs[k].notice.URI != c.URI {
				k++
			}
			got = append(got, Handed{Claim: c, Notice: cs[k].notice})
			size += weight(&cs[k].notice)
			k++
		}
		if len(got) == want || size >= maxAnswer || len(got) > 0 && !more {
			return got, !more && !rest, nil
		}
	}
	return got, false, nil
}
