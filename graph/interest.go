package graph

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// peers is what is kept of other hubs in memory, under Store.mu: few numbers of each.
type peers struct {
	numbers  map[string]PeerID
	sessions map[PeerID]*session
	clients  map[PeerID]*client
	settled  bool // every mirror agrees with who speaks for what
	exports  idSet
	level    uint64 // newest number of a level, durable or not
	ops      bell   // rung when there is something to tell a peer
	levels   bell   // rung when a level moved
}

func newPeers() peers {
	return peers{numbers: map[string]PeerID{}, sessions: map[PeerID]*session{}, clients: map[PeerID]*client{}}
}

// bell tells all who wait that there is something new.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed when the bell is rung next.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// session is how far this hub is with a peer whose resources it wants to hear of.
// Which of them it wants is told by numbered changes (ops) of a generation. The first
// generation, and each that follows when either hub is not what it was, begins with
// all mirrors there are, in the order of their ids.
type session struct {
	own        Epoch // of this store when the generation began
	owner      Epoch // of the peer's store; 0 before it was met
	position   uint64
	generation uint64
	covered    ID     // mirrors up to it are among the ops
	taken      uint64 // ops up to it are the peer's
	last       uint64 // newest op; in memory alone: it is taken, or there is a row
	mirrors    int64
	moved      bool
}

// allIDs covers all mirrors there will be.
const allIDs = ID(1)<<40 - 1

func (c *session) append(b []byte) []byte {
	for _, v := range []uint64{uint64(c.own), uint64(c.owner), c.position, c.generation, uint64(c.covered), c.taken, uint64(c.mirrors)} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeSession(b []byte) (*session, error) {
	d := decoder{b: b}
	c := &session{own: Epoch(d.uvarint()), owner: Epoch(d.uvarint()), position: d.uvarint(), generation: d.uvarint()}
	c.covered, c.taken, c.mirrors = ID(d.uvarint()), d.uvarint(), int64(d.uvarint())
	if d.bad || len(d.b) > 0 || c.covered > allIDs {
		return nil, errors.New("session with a peer is corrupt")
	}
	c.last = c.taken
	return c, nil
}

func (s *Store) loadSessions() error {
	err := s.scanPrefix([]byte{spacePeer, peerSession}, func(k, v []byte) error {
		c, err := decodeSession(v)
		if err == nil {
			s.peers.sessions[PeerID(binary.BigEndian.Uint32(k[2:]))] = c
		}
		return err
	})
	if err != nil {
		return err
	}
	for p, c := range s.peers.sessions {
		prefix := peerKey(peerOp, p)
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
		if err != nil {
			return err
		}
		if it.Last() {
			c.last = max(c.last, binary.BigEndian.Uint64(it.Key()[len(prefix):]))
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return err
		}
	}
	return nil
}

// session returns how far we are with p, to be changed, and makes it if there is none.
func (t *txn) session(p PeerID) *session {
	c := t.s.peers.sessions[p]
	if c == nil {
		c = &session{}
		t.s.peers.sessions[p] = c
	}
	if c.own != t.s.epoch { // a new store, or one that was restored: what the peer has of it is another's
		t.beginGeneration(p, c)
	}
	return c
}

// keep has c written with the commit.
func (t *txn) keep(p PeerID, c *session) {
	c.moved = true
	t.sessions = append(t.sessions, p)
}

func (t *txn) flushSessions() {
	for _, p := range t.sessions {
		if c := t.s.peers.sessions[p]; c != nil && c.moved {
			c.moved = false
			t.buf = c.append(t.buf[:0])
			check(t.b.Set(peerKey(peerSession, p), t.buf, nil))
		}
	}
	t.sessions = nil
}

// beginGeneration has everything told to p anew.
func (t *txn) beginGeneration(p PeerID, c *session) {
	check(t.b.DeleteRange(peerKey(peerOp, p), after(peerKey(peerOp, p)), nil))
	c.own = t.s.epoch
	c.generation++
	c.covered, c.taken, c.last = 0, 0, 0
	t.keep(p, c)
	t.opsMoved = true
}

// What an op of the store does.
const (
	opAdd  = 0 // and the id
	opDrop = 1 // and the URI: its id may be another's by the time it is told
)

// tellAdd notes that p is to be told of a mirror, tellDrop that it is not one any more.
func (t *txn) tellAdd(p PeerID, id ID) {
	t.tellOp(p, appendID([]byte{opAdd}, id))
}

func (t *txn) tellDrop(p PeerID, uri string) {
	t.tellOp(p, append([]byte{opDrop}, uri...))
}

func (t *txn) tellOp(p PeerID, op []byte) {
	c := t.session(p)
	c.last++
	check(t.b.Set(peerSeqKey(peerOp, p, c.last), op, nil))
	t.opsMoved = true
}

// speaker is the peer that speaks for id, 0 if none does.
func (t *txn) speaker(id ID) PeerID {
	a := t.s.authority.Load()
	if len(a.names) == 0 {
		return 0
	}
	p, _ := a.of(t.uri(id))
	return p
}

// raise makes id a mirror of p, which is yet to be heard of: somebody depends on it.
func (t *txn) raise(p PeerID, id ID) {
	if _, has := t.get(mirrorKey(p, id)); !has {
		t.countMirror(p, 1)
	}
	m := mirror{}
	check(t.b.Set(mirrorKey(p, id), m.append(nil), nil))
	if r := t.row(id); r.ndeps > 0 || r.owner != 0 || t.word(id).state() > Clean {
		// It was ours: whoever speaks for it makes it.
		t.unmark(id)
		t.replaceEdges(id, nil)
		t.own(t.edit(id), nil)
		t.setState(id, Clean)
	}
	t.put(id, t.word(id).with(wordMirror, true).with(wordPeerBusy|wordDamped|wordUnproven, false))
	if c := t.session(p); id <= c.covered {
		t.tellAdd(p, id)
	}
}

func (t *txn) countMirror(p PeerID, n int64) {
	c := t.session(p)
	c.mirrors = max(0, c.mirrors+n) // a damaged count is mended by a check
	t.keep(p, c)
}

// lower ends that id is a mirror of p. What was heard of it is forgotten: it will be
// out of date.
func (t *txn) lower(p PeerID, id ID) {
	if _, has := t.get(mirrorKey(p, id)); has {
		t.countMirror(p, -1)
	}
	check(t.b.Delete(mirrorKey(p, id), nil))
	uri, named := t.get(idKey(spaceName, id))
	if c := t.session(p); named && id <= c.covered {
		t.tellDrop(p, string(uri))
	}
	w := t.word(id)
	if !named || !w.is(wordMirror) {
		return
	}
	r := t.edit(id)
	r.set(rowHeard|rowKnown|rowAmbiguous|rowReorder, false)
	r.version, r.hash, r.previous, r.aliases, r.typ = "", "", nil, nil, ""
	r.at, r.changedAt, r.presumed = 0, 0, ""
	// Who still depends on it saw what is not kept here.
	r.set(rowMissing|rowDiffering, w.is(wordDependents))
	t.put(id, w.with(wordMirror|wordPeerBusy, false))
	t.setState(id, Stub)
	t.relabelled = append(t.relabelled, id)
}

// firstDependent and lastDependent tell whoever speaks for x, if that is a peer.
func (t *txn) firstDependent(x ID) {
	if p := t.speaker(x); p != 0 {
		t.raise(p, x)
	}
}

func (t *txn) lastDependent(x ID) {
	if !t.word(x).is(wordMirror) {
		return
	}
	if p := t.speaker(x); p != 0 {
		t.lower(p, x)
	}
}

// An InterestOp is one change of what this hub wants to hear of a peer.
type InterestOp struct {
	N   uint64 // counts up from 1 in each generation
	Add bool
	URI string // "" if the resource is no more: nothing to do
}

// A Session is how far this hub is with a peer whose resources it wants to hear of.
type Session struct {
	Epoch      Epoch  // of this store
	Owner      Epoch  // of the peer's store as it was met last; 0 if it never was
	Position   uint64 // of the newest level applied, in the owner's epoch
	Generation uint64
	Taken      uint64 // ops up to it are the peer's
	Pending    uint64 // ops after it that are kept
	Covered    bool   // every mirror is among the ops
	Mirrors    int64  // resources of the peer that something here depends on
}

// Session returns how far this hub is with a peer. [ErrUnknown] if there is none of
// that name.
func (s *Store) Session(peer string) (Session, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.peers.sessions[s.authority.Load().numbers[peer]]
	if c == nil {
		return Session{}, fmt.Errorf("peer %q: %w", peer, ErrUnknown)
	}
	return Session{Epoch: s.epoch, Owner: c.owner, Position: c.position, Generation: c.generation, Taken: c.taken,
		Pending: c.last - c.taken, Covered: c.covered == allIDs, Mirrors: c.mirrors}, nil
}

// MaxOps bounds the ops of one call, and so of one request to a peer: with URIs of
// ordinary length they stay far below 1 MiB.
const MaxOps = 5000

// Ops returns up to limit changes of what this hub wants to hear of a peer, in order,
// from the first that the peer has not taken. All of them are durable. None means
// that the peer has been told everything.
func (s *Store) Ops(ctx context.Context, peer string, limit int) (c Session, ops []InterestOp, err error) {
	limit = min(max(limit, 1), MaxOps)
	p := s.authority.Load().numbers[peer]
	err = s.relieve(ctx, func(t *txn) { // also waits until what is read is durable
		if t.s.peers.sessions[p] != nil {
			t.extendOps(p, t.session(p), limit)
		}
	})
	if err != nil {
		return c, nil, err
	}
	if c, err = s.Session(peer); err != nil {
		return c, nil, err
	}
	ops, err = s.readOps(p, c.Taken, limit)
	return c, ops, err
}

// extendOps makes ops of mirrors that are not among them yet, if few are waiting.
func (t *txn) extendOps(p PeerID, c *session, limit int) {
	if c.covered == allIDs || c.last-c.taken >= uint64(limit) {
		return
	}
	prefix := peerKey(peerMirror, p)
	it := t.iter(mirrorKey(p, c.covered+1), after(prefix))
	var ids []ID
	for it.First(); it.Valid() && len(ids) < limit; it.Next() {
		ids = append(ids, parseID(it.Key()[len(prefix):]))
	}
	more := it.Valid()
	check(it.Error())
	check(it.Close())
	for _, id := range ids {
		t.tellAdd(p, id)
		c.covered = id
	}
	if !more {
		c.covered = allIDs
	}
	t.keep(p, c)
}

func (s *Store) readOps(p PeerID, taken uint64, limit int) (ops []InterestOp, err error) {
	prefix := peerKey(peerOp, p)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: peerSeqKey(peerOp, p, taken+1), UpperBound: after(prefix)})
	if err != nil {
		return nil, err
	}
	for it.First(); it.Valid() && len(ops) < limit; it.Next() {
		op := InterestOp{N: binary.BigEndian.Uint64(it.Key()[len(prefix):])}
		added, dropped, err := decodeOp(it.Value())
		if op.Add, op.URI = dropped == "", dropped; err == nil && op.Add {
			op.URI, err = s.nameOf(added)
		}
		if err != nil && !errors.Is(err, pebble.ErrNotFound) { // it may be no more
			return nil, errors.Join(err, it.Close())
		}
		ops = append(ops, op)
	}
	return ops, errors.Join(it.Error(), it.Close())
}

// decodeOp returns what is added, or the URI that is dropped.
func decodeOp(v []byte) (added ID, dropped string, err error) {
	switch {
	case len(v) == 1+idSize && v[0] == opAdd:
		return parseID(v[1:]), "", nil
	case len(v) > 1 && v[0] == opDrop:
		return 0, string(v[1:]), nil
	}
	return 0, "", errors.New("what a peer is to be told is corrupt")
}

// OpsTaken notes that a peer has taken all ops of a generation up to n. What is
// behind what is known, or of another generation, changes nothing.
func (s *Store) OpsTaken(ctx context.Context, peer string, generation, n uint64) error {
	p := s.authority.Load().numbers[peer]
	return s.relieve(ctx, func(t *txn) { t.opsTaken(p, generation, n) })
}

func (t *txn) opsTaken(p PeerID, generation, n uint64) {
	c := t.s.peers.sessions[p]
	if c == nil || c.own != t.s.epoch || c.generation != generation || n <= c.taken || n > c.last {
		return
	}
	check(t.b.DeleteRange(peerSeqKey(peerOp, p, 0), peerSeqKey(peerOp, p, n+1), nil))
	c.taken = n
	t.keep(p, c)
}

// Misfit heeds a peer's answer that ops do not follow what it has applied: it may have
// applied more than was known here, because an answer was lost, or have forgotten all.
func (s *Store) Misfit(ctx context.Context, peer string, gap *GapError) error {
	p := s.authority.Load().numbers[peer]
	return s.relieve(ctx, func(t *txn) { t.misfit(p, gap) })
}

func (t *txn) misfit(p PeerID, gap *GapError) {
	c := t.s.peers.sessions[p]
	switch {
	case c == nil, gap.Generation >= maxLevel: // there is no such peer, or it has no sense
	case gap.Epoch == c.own && c.own == t.s.epoch && gap.Generation == c.generation && c.taken <= gap.Applied && gap.Applied <= c.last:
		t.opsTaken(p, gap.Generation, gap.Applied)
	default:
		c.generation = max(c.generation, gap.Generation)
		t.beginGeneration(p, c)
	}
}

// Reregister has everything that this hub wants to hear of a peer told anew, in a new
// generation: the peer has forgotten it, or has it wrong.
func (s *Store) Reregister(ctx context.Context, peer string) error {
	p := s.authority.Load().numbers[peer]
	return s.relieve(ctx, func(t *txn) {
		if c := t.s.peers.sessions[p]; c != nil {
			t.beginGeneration(p, c)
		}
	})
}

// MeetOwner notes the epoch of a peer's store. If it is another than before the peer
// was restored, or lost all: positions begin anew, and everything is told again. Mirrors
// keep what they have: only what is different when they are heard of again is a change.
// It reports whether it is another.
func (s *Store) MeetOwner(ctx context.Context, peer string, epoch Epoch) (another bool, err error) {
	p := s.authority.Load().numbers[peer]
	err = s.relieve(ctx, func(t *txn) { another = t.meetOwner(p, epoch) })
	return another, err
}

func (t *txn) meetOwner(p PeerID, epoch Epoch) (another bool) {
	c := t.s.peers.sessions[p]
	if c == nil || t.session(p).owner == epoch {
		return false
	}
	another = c.owner != 0
	if another {
		t.beginGeneration(p, c)
	}
	c.owner, c.position = epoch, 0
	t.keep(p, c)
	return another
}

// OpsRung is closed when there may be something new in [Store.Ops].
func (s *Store) OpsRung() <-chan struct{} { return s.peers.ops.next() }

// Forsake settles what a silent peer left unsettled: whoever waits for it goes on
// with what there is. When the peer is back nobody moves. It returns how many of its
// resources that were.
func (s *Store) Forsake(ctx context.Context, peer string) (settled int, err error) {
	p := s.authority.Load().numbers[peer]
	if p == 0 {
		return 0, nil
	}
	for {
		n := 0
		err := s.relieve(ctx, func(t *txn) { n = t.forsake(p) })
		settled += n
		if err != nil || n < defaultChunk {
			return settled, err
		}
	}
}

// forsake settles some of what p left unsettled.
func (t *txn) forsake(p PeerID) int {
	var busy []ID
	for it := t.s.col.inner.Iterator(); it.HasNext() && len(busy) < defaultChunk; {
		id := ID(it.Next())
		if w := t.word(id); w.is(wordMirror) && t.speaker(id) == p {
			busy = append(busy, id)
		}
	}
	slices.Sort(busy)
	for _, id := range busy {
		t.put(id, t.word(id).with(wordPeerBusy, false))
	}
	return len(busy)
}
