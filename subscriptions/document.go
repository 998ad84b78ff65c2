package subscriptions

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxDocumentNotices bounds the notices of one document, no two of which are of
	// one resource and kind: who gets it acts on each.
	maxDocumentNotices = 1000
	// maxDocumentBytes bounds them in bytes of JSON: many of those who are called take
	// no larger body.
	maxDocumentBytes = 1 << 20
	// maxDocumentRead bounds the notices that are read for one document, most of
	// which are merged then: about 0.1 s of one core.
	maxDocumentRead = 64 << 10
	// maxDocumentScans bounds the reads for one document where little passes, each of
	// 65,536 positions of the journal at most.
	maxDocumentScans = 32
	// documentPiece is how many notices are read at once for one.
	documentPiece = 1024
	// newestNotices bounds the notices of the newest document before they are merged.
	newestNotices = 100
	// maxLookBack bounds how far before the head they are looked for, in positions: of a
	// topic that has nothing, a million cost 0.2 to 1.3 s, for anybody who asks.
	maxLookBack = 1 << 16
	// maxDocuments and maxDocumentCost bound what is kept of documents for others who
	// ask for the same, in number and in bytes of memory.
	maxDocuments    = 1024
	maxDocumentCost = 64 << 20
	// maxDresses bounds the bodies that are kept of one content: topics have more
	// than one address, and readers more than one history.
	maxDresses = 4
)

// A Document is what a topic has in a range of positions, which begins after Prev. Of
// several notices about one resource and kind it has the newest alone. Documents that
// are each asked for after Until of the one before, or after its Last, leave nothing
// out. It does not change, and is shared: readers change nothing of it.
type Document struct {
	Topic     Topic
	Self, Hub string
	Epoch     graph.Epoch
	Lanes     uint8  // a set of 1<<[graph.Lane], 0 is both
	Prev      uint64 // Last of the document before
	First     uint64 // position of the range's first notice, be it merged; 0 if there is none
	Last      uint64 // position of its last one; how far the range goes if there is none
	// Until is how far the range goes: between Last and Until there is nothing.
	Until   graph.Cursor
	More    bool // there may be more behind Until
	Reset   *graph.ResetError
	Notices []graph.Notice // oldest first; without the cause where it may not be seen

	bodies *bodies
}

// DocumentOptions say what a document is to be beside its place. The zero value is
// one without addresses that goes as far as there is something.
type DocumentOptions struct {
	// Self and Hub are the addresses of the topic and of the hub, which it tells.
	Self, Hub string
	// Prev is the Last of the document before, for who has moved on since over what
	// had nothing; 0 means the position asked for.
	Prev uint64
	// Until has the range of an earlier document made again; 0 means as far as there
	// is something.
	Until uint64
	// Reset is told in it: a position that its reader had could not be served.
	Reset *graph.ResetError
	// MaxAge is for how long somebody else's document is as good, if it has notices,
	// although there are more by now: so all who stand at one position and ask
	// within it get the same one, and stand at one position again.
	MaxAge time.Duration
}

// Document returns what comes strictly after a position in some lanes, 0 meaning
// both: up to 1,000 notices and 1 MiB of JSON of what is found in a bounded piece of
// the journal, so that it may have none although there is more. It fails as
// [Feed.Read] does.
func (f *Feed) Document(lanes uint8, after graph.Cursor, o DocumentOptions) (*Document, error) {
	key := documentKey{lanes: laneSet(lanes), after: after, until: o.Until}
	return f.document(key, &o, func(made) (made, error) { return f.gather(key.lanes, after, o.Until) })
}

// Newest returns the newest document: of the last 100 notices, as far as they stand
// among the last 1,048,576 positions of the journal. It stays the same as long as
// there is no new notice. Until of o is not looked at.
func (f *Feed) Newest(lanes uint8, o DocumentOptions) (*Document, error) {
	key := documentKey{lanes: laneSet(lanes), newest: true}
	return f.document(key, &o, func(old made) (made, error) { return f.newest(key.lanes, old) })
}

// laneSet is lanes, spelled in one way.
func laneSet(lanes uint8) uint8 {
	if lanes &= bothLanes; lanes == bothLanes {
		return 0
	}
	return lanes
}

// document returns the document of a key, built unless there is a good one.
func (f *Feed) document(key documentKey, o *DocumentOptions, build func(old made) (made, error)) (*Document, error) {
	if err := f.Err(); err != nil {
		return nil, err
	}
	key.topic, key.class, key.version = f.topic, f.key, f.version()
	if key.until > 0 {
		build = f.s.documents.orPart(key, build)
	}
	m, err := f.s.documents.get(key, func(m *made) bool {
		return m.full || m.head == f.Head() || key.until > 0 && m.until.Seq >= key.until ||
			len(m.notices) > 0 && time.Since(m.at) <= o.MaxAge
	}, build)
	if err != nil {
		return nil, err
	}
	d := &Document{Topic: f.topic, Self: o.Self, Hub: o.Hub, Epoch: m.until.Epoch, Lanes: key.lanes, Prev: m.after,
		First: m.first, Last: m.until.Seq, Until: m.until, More: m.until.Seq < f.Head().Seq, Reset: o.Reset, Notices: m.notices}
	if o.Prev > 0 {
		d.Prev = o.Prev
	}
	if n := len(m.notices); n > 0 {
		d.Last = m.notices[n-1].Cursor.Seq
	}
	d.bodies = m.dressed(d)
	return d, nil
}

// version is the same for feeds of one key as long as the same passes of them.
func (f *Feed) version() *Matcher {
	switch sel := f.sel.(type) {
	case *channel:
		return sel.newest().matcher
	case *view:
		return sel.ch.newest().matcher
	case *Matcher:
		if f.topic == (Topic{}) {
			return sel
		}
	}
	return nil
}

// gather makes the content of what comes after a position: if until is not 0 all up
// to there, which was within the bounds when it was made first.
func (f *Feed) gather(lanes uint8, after graph.Cursor, until uint64) (made, error) {
	g := merging{at: map[merged]int{}, unbounded: until > 0}
	m := made{until: after, head: f.Head(), at: time.Now()}
	read := 0
	for scans := 0; until == 0 || m.until.Seq < until; scans++ {
		if m.full = until == 0 && (scans == maxDocumentScans || read >= maxDocumentRead); m.full {
			break
		}
		limit := uint64(documentPiece)
		if until > 0 {
			limit = min(limit, until-m.until.Seq)
		}
		r, err := f.Read(lanes, m.until, int(limit))
		if err != nil {
			return m, err
		}
		for i := range r.Notices {
			n := &r.Notices[i]
			if m.full = until > 0 && n.Cursor.Seq > until || !g.add(n); m.full {
				r.Next.Seq, r.More = n.Cursor.Seq-1, false
				break
			}
		}
		read += len(r.Notices)
		if m.until = r.Next; !r.More {
			break
		}
	}
	if until > 0 && m.until.Seq > until {
		m.until.Seq = until
	}
	m.content = &content{after: after.Seq, first: g.first, notices: g.kept(), size: g.size}
	return m, nil
}

// newest makes the content of the last few notices, or finds that it is old's still.
func (f *Feed) newest(lanes uint8, old made) (made, error) {
	if old.content != nil {
		if r, err := f.Read(lanes, old.head, 1); err == nil && len(r.Notices) == 0 && !r.More {
			if old.head = r.Next; len(old.notices) > 0 {
				old.until = r.Next // an empty one says where it ends
			}
			return old, nil
		}
	}
	after, err := f.lookBack(lanes)
	if err != nil {
		return old, err
	}
	m, err := f.gather(lanes, after, 0)
	m.full = false // the next one begins elsewhere
	return m, err
}

// lookBack returns the position before the last few notices, or the head. It steps
// back in pieces that grow, so that neither many notices nor few cost much.
func (f *Feed) lookBack(lanes uint8) (graph.Cursor, error) {
	head := f.Head()
	bottom := f.s.journal.Oldest().Seq
	if head.Seq > maxLookBack {
		bottom = max(bottom, head.Seq-maxLookBack)
	}
	var last []uint64
	piece := uint64(documentPiece)
	for end := head.Seq; len(last) < newestNotices && end > bottom; piece = 4 * piece {
		at := graph.Cursor{Epoch: head.Epoch, Seq: bottom}
		if end-bottom > piece {
			at.Seq = end - piece
		}
		begin := at.Seq
		var found []uint64
		for at.Seq < end {
			r, err := f.Read(lanes, at, documentPiece)
			if err != nil {
				return head, err
			}
			for i := range r.Notices {
				if seq := r.Notices[i].Cursor.Seq; seq <= end {
					found = append(found, seq)
				}
			}
			at = r.Next
		}
		last, end = append(found, last...), begin
	}
	if len(last) == 0 {
		return head, nil
	}
	return graph.Cursor{Epoch: head.Epoch, Seq: last[max(0, len(last)-newestNotices)] - 1}, nil
}

// merged is what of several notices the newest stays.
type merged struct {
	uri  string
	kind graph.Kind
}

// merging gathers notices, the newest of each resource and kind.
type merging struct {
	at        map[merged]int // of the one that stays
	notices   []graph.Notice // with those that do not
	sizes     []int          // of each in JSON; 0 if it does not stay
	size      int            // of those that do
	first     uint64
	unbounded bool
	scratch   []byte
}

// add reports false if there is no room for n.
func (g *merging) add(n *graph.Notice) bool {
	g.scratch = AppendNotice(g.scratch[:0], n)
	size := len(g.scratch) + 1
	key := merged{n.URI, n.Kind}
	i, known := g.at[key]
	grows := size
	if known {
		grows -= g.sizes[i]
	}
	if !g.unbounded && len(g.at) > 0 && (g.size+grows > maxDocumentBytes || !known && len(g.at) == maxDocumentNotices) {
		return false
	}
	if known {
		g.sizes[i] = 0
	}
	if g.first == 0 {
		g.first = n.Cursor.Seq
	}
	g.at[key], g.size = len(g.notices), g.size+grows
	g.notices, g.sizes = append(g.notices, *n), append(g.sizes, size)
	if len(g.notices) >= 2*len(g.at)+documentPiece {
		g.compact()
	}
	return true
}

// compact drops what does not stay.
func (g *merging) compact() {
	kept := 0
	for i := range g.notices {
		if g.sizes[i] == 0 {
			continue
		}
		g.notices[kept], g.sizes[kept] = g.notices[i], g.sizes[i]
		g.at[merged{g.notices[kept].URI, g.notices[kept].Kind}] = kept
		kept++
	}
	clear(g.notices[kept:])
	g.notices, g.sizes = g.notices[:kept], g.sizes[:kept]
}

// kept returns what stays.
func (g *merging) kept() []graph.Notice {
	g.compact()
	return slices.Clip(g.notices)
}

// A documentKey is what documents have in common that have the same content.
type documentKey struct {
	class   classKey
	topic   Topic
	version *Matcher // of Feed.version
	lanes   uint8
	after   graph.Cursor
	until   uint64 // 0 is open
	newest  bool
}

// A content is what documents of one key share. It does not change.
type content struct {
	after   uint64
	first   uint64
	notices []graph.Notice
	size    int // in JSON

	mu      sync.Mutex
	dresses map[dress]*bodies
}

// A dress is what differs between them.
type dress struct {
	self, hub string
	prev      uint64
	reset     graph.ResetError
}

// dressed returns where the bodies of d are kept.
func (c *content) dressed(d *Document) *bodies {
	in := dress{self: d.Self, hub: d.Hub, prev: d.Prev}
	if d.Reset != nil {
		in.reset = *d.Reset
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.dresses[in]
	if b == nil {
		b = &bodies{}
		if c.dresses == nil || len(c.dresses) >= maxDresses {
			c.dresses = map[dress]*bodies{}
		}
		c.dresses[in] = b
	}
	return b
}

// made is a content and how far it goes.
type made struct {
	*content
	until graph.Cursor
	full  bool // there was no room for more
	head  graph.Cursor
	at    time.Time
}

// documents keeps what was made, for others who ask for the same; they wait while it
// is being made.
type documents struct {
	mu    sync.Mutex
	slots *simplelru.LRU[documentKey, *slot]
	cost  int
}

type slot struct {
	cost int // guarded by the lock of documents

	mu sync.Mutex // held while it is being made
	made
}

func newDocuments() *documents {
	d := &documents{}
	d.slots, _ = simplelru.NewLRU(maxDocuments, func(_ documentKey, s *slot) { d.cost -= s.cost })
	return d
}

// get returns what is kept under key if it is good, else what build makes of it.
func (d *documents) get(key documentKey, good func(*made) bool, build func(old made) (made, error)) (made, error) {
	d.mu.Lock()
	s, found := d.slots.Get(key)
	if !found {
		s = &slot{}
		d.slots.Add(key, s)
	}
	d.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content != nil && good(&s.made) {
		return s.made, nil
	}
	m, err := build(s.made)
	if err != nil {
		return m, err
	}
	s.made = m
	d.charge(key, s, m.size)
	return m, nil
}

// orPart returns what takes for the document up to a position the open one that ends
// with it, if that is kept, and else builds: who cuts a document has it made open, and
// asks for the same again by its range.
func (d *documents) orPart(key documentKey, build func(old made) (made, error)) func(old made) (made, error) {
	return func(old made) (made, error) {
		open := key
		open.until = 0
		d.mu.Lock()
		s, _ := d.slots.Get(open)
		d.mu.Unlock()
		if s == nil || !s.mu.TryLock() {
			return build(old)
		}
		m := s.made
		s.mu.Unlock()
		if m.content == nil || len(m.notices) == 0 || m.notices[len(m.notices)-1].Cursor.Seq != key.until {
			return build(old)
		}
		m.until.Seq = key.until
		return m, nil
	}
}

// bodyCost is about how many bytes of memory a byte of JSON stands for: the notices
// themselves, and bodies.
const bodyCost = 8

// charge counts what s keeps, and makes room.
func (d *documents) charge(key documentKey, s *slot, size int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now, found := d.slots.Peek(key); !found || now != s {
		return // it had to make room itself
	}
	d.cost -= s.cost
	s.cost = size * bodyCost
	d.cost += s.cost
	for d.cost > maxDocumentCost && d.slots.Len() > 1 {
		d.slots.RemoveOldest()
	}
}
