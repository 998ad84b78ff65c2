package graph

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
)

// client is how far a peer is that wants to hear of resources this hub speaks for.
type client struct {
	epoch      Epoch // of the peer's store
	generation uint64
	applied    uint64 // ops
	acked      uint64 // levels
	interests  int64
}

func (c *client) append(b []byte) []byte {
	for _, v := range []uint64{uint64(c.epoch), c.generation, c.applied, c.acked, uint64(c.interests)} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeClient(b []byte) (*client, error) {
	d := decoder{b: b}
	c := &client{epoch: Epoch(d.uvarint()), generation: d.uvarint(), applied: d.uvarint(), acked: d.uvarint(), interests: int64(d.uvarint())}
	if d.bad || len(d.b) > 0 {
		return nil, errors.New("what a peer is told is corrupt")
	}
	return c, nil
}

// interest is that a peer wants to hear of a resource: what it was told last.
type interest struct {
	sver   uint64
	digest uint64
}

func (i interest) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(binary.AppendUvarint(b, i.sver), i.digest)
}

func decodeInterest(b []byte) (i interest, err error) {
	d := decoder{b: b}
	i = interest{d.uvarint(), d.fixed()}
	if d.bad || len(d.b) > 0 {
		return i, errors.New("interest is corrupt")
	}
	return i, nil
}

// loadLevels reads who wants to hear of what.
func (s *Store) loadLevels() error {
	err := s.scanPrefix([]byte{spacePeer, peerClient}, func(k, v []byte) error {
		c, err := decodeClient(v)
		s.peers.clients[PeerID(binary.BigEndian.Uint32(k[2:]))] = c
		return err
	})
	if err != nil {
		return err
	}
	v, closer, err := s.db.Get([]byte{spacePeer, peerCounter})
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return err
	default:
		s.peers.level = binary.BigEndian.Uint64(v)
		if err := closer.Close(); err != nil {
			return err
		}
	}
	return s.scanPrefix([]byte{spacePeer, peerInterest}, func(k, _ []byte) error {
		s.peers.exports.add(parseID(k[2:]))
		return nil
	})
}

// GapError reports ops that do not follow those that were applied: of another
// generation, or with some missing between.
type GapError struct {
	Epoch               Epoch // of the peer's store when it told what there is
	Generation, Applied uint64
}

func (e *GapError) Error() string {
	return fmt.Sprintf("the changes do not follow: %d of generation %d were applied", e.Applied, e.Generation)
}

// A Registration is what a peer tells of what it wants to hear.
type Registration struct {
	Epoch      Epoch // of the peer's store
	Generation uint64
	Base       uint64 // the ops follow the first so many of the generation
	Ops        []InterestOp
}

// Registered says what became of a registration.
type Registered struct {
	Applied  uint64 // ops of the generation, all in all
	Rejected int    // of these: what this hub does not speak for, is no URI, or is beyond the limit
	First    string // why the first of them was
}

// Register takes changes of what a peer wants to hear, at most limit resources in all.
// Each resource that is added is told once as it is now. Ops that were applied change
// nothing; a [GapError] says that some are missing. The first of a higher generation end
// what an older one wanted; what is repeated of an older one, even of another epoch, is a
// gap, so that nothing that comes late undoes what came after. An op that cannot be carried out is counted, and
// the others are. Calls for one peer must follow each other.
func (s *Store) Register(ctx context.Context, peer string, r Registration, limit int64) (res Registered, err error) {
	p := s.authority.Load().numbers[peer]
	if p == 0 {
		return res, fmt.Errorf("peer %q: %w", peer, ErrUnknown)
	}
	if len(r.Ops) > MaxOps {
		return res, &InvalidError{Item: MaxOps, Field: "ops", Reason: fmt.Sprintf("more than %d", MaxOps)}
	}
	if r.Generation > maxLevel || r.Base > maxLevel {
		return res, &InvalidError{Field: "base", Reason: "a generation or a base is more than 2^62"}
	}
	for i, op := range r.Ops {
		if op.N != r.Base+uint64(i)+1 {
			return res, &InvalidError{Item: i, Field: "n", Reason: "the numbers of ops are not those after base, one by one"}
		}
	}
	if s.renews(p, &r) {
		if err := s.dropClient(ctx, p); err != nil {
			return res, err
		}
	}
	var refused error
	if err = s.do(ctx, func(t *txn) { res, refused = t.register(p, &r, limit) }); err != nil {
		return Registered{}, err
	}
	return res, refused
}

// renews reports whether a registration begins a generation that is new.
func (s *Store) renews(p PeerID, r *Registration) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.peers.clients[p]
	return c != nil && c.generation < r.Generation && r.Base == 0
}

func (t *txn) register(p PeerID, r *Registration, limit int64) (res Registered, err error) {
	c := t.s.peers.clients[p]
	if c == nil {
		c = &client{}
		if r.Base == 0 {
			c.epoch, c.generation = r.Epoch, r.Generation
			t.s.peers.clients[p] = c
		}
	}
	if c.epoch != r.Epoch || c.generation != r.Generation || r.Base > c.applied {
		return res, &GapError{Epoch: c.epoch, Generation: c.generation, Applied: c.applied}
	}
	for _, op := range r.Ops {
		if op.N <= c.applied {
			continue
		}
		c.applied = op.N
		if why := t.applyInterest(p, c, op, limit); why != "" {
			if res.Rejected++; res.Rejected == 1 {
				res.First = why
			}
		}
	}
	t.keepClient(p, c)
	res.Applied = c.applied
	return res, nil
}

func (t *txn) keepClient(p PeerID, c *client) {
	t.buf = c.append(t.buf[:0])
	check(t.b.Set(peerKey(peerClient, p), t.buf, nil))
}

// applyInterest carries out one op, or says why it cannot be.
func (t *txn) applyInterest(p PeerID, c *client, op InterestOp, limit int64) (why string) {
	if op.URI == "" {
		return ""
	}
	if err := CheckURI(op.URI, t.s.o.Schemes...); err != nil {
		return err.Error()
	}
	if !op.Add {
		if id, ok := t.find(op.URI); ok && t.dropInterest(p, id) {
			c.interests--
		}
		return ""
	}
	if !t.s.Speaks(op.URI) {
		return fmt.Sprintf("this hub does not speak for %q", op.URI)
	}
	id, _ := t.find(op.URI)
	was, has := t.interest(p, id)
	switch {
	case has:
		check(t.b.Delete(peerSeqKey(peerLevel, p, was.sver), nil))
	case c.interests >= limit:
		return fmt.Sprintf("more than %d resources", limit)
	default:
		id = t.intern(op.URI)
		c.interests++
		t.s.peers.exports.add(id)
	}
	t.tellOne(p, id, t.levelDigest(id))
	return ""
}

// interest reads what p was told of id.
func (t *txn) interest(p PeerID, id ID) (i interest, has bool) {
	v, has := t.get(interestKey(id, p))
	if !has {
		return i, false
	}
	i, err := decodeInterest(v)
	check(err)
	return i, true
}

// tellOne gives p's interest in id a new level.
func (t *txn) tellOne(p PeerID, id ID, digest uint64) {
	t.s.peers.level++
	i := interest{t.s.peers.level, digest}
	check(t.b.Set(interestKey(id, p), i.append(nil), nil))
	check(t.b.Set(peerSeqKey(peerLevel, p, i.sver), appendID(nil, id), nil))
	t.told = true
}

// dropInterest reports whether there was one.
func (t *txn) dropInterest(p PeerID, id ID) bool {
	i, has := t.interest(p, id)
	if !has {
		return false
	}
	check(t.b.Delete(interestKey(id, p), nil))
	check(t.b.Delete(peerSeqKey(peerLevel, p, i.sver), nil))
	prefix := interestsKey(id)
	it := t.iter(prefix, after(prefix))
	others := it.First()
	check(errors.Join(it.Error(), it.Close()))
	if !others {
		t.s.peers.exports.remove(id)
		if !t.word(id).is(wordDependents) {
			t.noteOrphan(id)
		}
	}
	return true
}

// dropClient forgets what a peer wants to hear, a part at a time.
func (s *Store) dropClient(ctx context.Context, p PeerID) error {
	for more := true; more; {
		if err := s.relieve(ctx, func(t *txn) { more = t.dropClient(p) }); err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) dropClient(p PeerID) (more bool) {
	prefix := peerKey(peerLevel, p)
	it := t.iter(prefix, after(prefix))
	var ids []ID
	for it.First(); it.Valid() && len(ids) < auditStep; it.Next() {
		ids = append(ids, parseID(it.Value()))
	}
	more = it.Valid()
	check(errors.Join(it.Error(), it.Close()))
	c := t.s.peers.clients[p]
	for _, id := range ids {
		if t.dropInterest(p, id) && c != nil {
			c.interests--
		}
	}
	switch {
	case c == nil:
	case more:
		t.keepClient(p, c)
	default:
		check(t.b.Delete(peerKey(peerClient, p), nil))
		delete(t.s.peers.clients, p)
	}
	return more
}

// levelOf is what is told of a resource with this row and word.
func levelOf(r *row, w word) Level {
	if !r.is(rowHeard) {
		return Level{}
	}
	l := Level{Type: r.typ, Heard: true, Known: r.is(rowKnown), Unsettled: w.unsettled(),
		Cver: r.changed, Hash: r.hash, ChangedAt: time.UnixMicro(r.changedAt).UTC()}
	// Of an artefact the version is that of its source: merged levels would make the
	// same revision match a wrong rendering.
	if !r.is(rowArtefact) || r.deleted() {
		l.Version, l.Aliases, l.Ambiguous = r.version, r.aliases, r.is(rowAmbiguous)
	}
	return l
}

// digest sums up what of a level is worth telling.
func (l *Level) digest() uint64 {
	b := make([]byte, 0, 128)
	for _, on := range []bool{l.Heard, l.Known, l.Ambiguous, l.Unsettled} {
		b = append(b, oneIf(on))
	}
	b = binary.AppendUvarint(b, l.Cver)
	for _, s := range append([]string{l.Type, l.Version, l.Hash}, l.Aliases...) {
		b = appendText(b, s)
	}
	return xxhash.Sum64(b)
}

func (t *txn) levelDigest(id ID) uint64 {
	l := levelOf(t.row(id), t.word(id))
	return l.digest()
}

// tellLevels gives each resource of which what is told has moved in this commit a new
// level, for each peer that wants to hear of it.
func (t *txn) tellLevels() {
	ids := t.flipped
	for id := range t.rows {
		if t.s.peers.exports.has(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		t.tellLevel(id)
	}
	t.flipped = nil
	if t.told {
		check(t.b.Set([]byte{spacePeer, peerCounter}, binary.BigEndian.AppendUint64(nil, t.s.peers.level), nil))
	}
}

func (t *txn) tellLevel(id ID) {
	digest := t.levelDigest(id)
	type told struct {
		p PeerID
		interest
	}
	var all []told
	prefix := interestsKey(id)
	it := t.iter(prefix, after(prefix))
	for it.First(); it.Valid(); it.Next() {
		i, err := decodeInterest(it.Value())
		check(err)
		all = append(all, told{PeerID(binary.BigEndian.Uint32(it.Key()[len(prefix):])), i})
	}
	check(errors.Join(it.Error(), it.Close()))
	for _, w := range all {
		if w.digest != digest {
			check(t.b.Delete(peerSeqKey(peerLevel, w.p, w.sver), nil))
			t.tellOne(w.p, id, digest)
		}
	}
}

// Levels returns up to limit levels that a peer wants to hear, each after a number, in
// the order in which they moved last, and where to go on. Each resource comes at most
// once, as it is now; all that is returned is durable.
func (s *Store) Levels(ctx context.Context, peer string, from uint64, limit int) (levels []Level, next uint64, err error) {
	p := s.authority.Load().numbers[peer]
	limit = min(max(limit, 1), MaxLevels)
	if levels, err = s.readLevels(p, from, limit); err != nil || len(levels) == 0 {
		return nil, from, err
	}
	// What was read may be of a commit that is not durable yet, and nobody outside may
	// know of it before it is: those that were applied have landed when this has.
	if err := s.relieve(ctx, func(*txn) {}); err != nil {
		return nil, from, err
	}
	return levels, levels[len(levels)-1].Sver, nil
}

func (s *Store) readLevels(p PeerID, from uint64, limit int) (levels []Level, err error) {
	snap := s.db.NewSnapshot()
	defer func() { err = errors.Join(err, snap.Close()) }()
	prefix := peerKey(peerLevel, p)
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: peerSeqKey(peerLevel, p, from+1), UpperBound: after(prefix)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Error(), it.Close()) }()
	now := s.o.Clock().UTC()
	for it.First(); it.Valid() && len(levels) < limit; it.Next() {
		id := parseID(it.Value())
		r, err := readRow(snap, id)
		if err != nil {
			return nil, err
		}
		name, closer, err := snap.Get(idKey(spaceName, id))
		if err != nil {
			return nil, fmt.Errorf("name of %d: %w", id, err)
		}
		s.mu.RLock()
		w := s.col.get(id)
		s.mu.RUnlock()
		l := levelOf(r, w)
		l.URI, l.Sver, l.Now = string(bytes.Clone(name)), binary.BigEndian.Uint64(it.Key()[len(prefix):]), now
		if err := closer.Close(); err != nil {
			return nil, err
		}
		levels = append(levels, l)
	}
	return levels, nil
}

// NewestLevel returns the number of the newest level that any peer was told, or is
// about to be.
func (s *Store) NewestLevel() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.peers.level
}

// LevelsRung is closed when there may be something new in [Store.Levels].
func (s *Store) LevelsRung() <-chan struct{} { return s.peers.levels.next() }

// Ack notes up to which level a peer has heard, which is for those who look after it
// alone: nothing depends on it.
func (s *Store) Ack(ctx context.Context, peer string, epoch Epoch, position uint64) error {
	p := s.authority.Load().numbers[peer]
	return s.relieve(ctx, func(t *txn) {
		c := t.s.peers.clients[p]
		if c == nil || epoch != t.s.epoch || position > t.s.peers.level || position <= c.acked {
			return
		}
		c.acked = position
		t.keepClient(p, c)
	})
}

// A Client is how far a peer is that wants to hear of what this hub speaks for.
type Client struct {
	Epoch      Epoch // of its store; 0 if it never told anything
	Generation uint64
	Applied    uint64 // ops
	Interests  int64
	Acked      uint64 // level up to which it has heard
	Waiting    int    // levels after it, counted up to 10,000
}

// maxBehind bounds what Client counts: beyond it only the order of size is of use.
const maxBehind = 10_000

// Client tells how far a peer is; zero if it never told anything.
func (s *Store) Client(peer string) (out Client, err error) {
	p := s.authority.Load().numbers[peer]
	s.mu.RLock()
	c := s.peers.clients[p]
	if c == nil {
		s.mu.RUnlock()
		return Client{}, nil
	}
	out = Client{Epoch: c.epoch, Generation: c.generation, Applied: c.applied, Interests: c.interests, Acked: c.acked}
	s.mu.RUnlock()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: peerSeqKey(peerLevel, p, out.Acked+1), UpperBound: after(peerKey(peerLevel, p))})
	if err != nil {
		return out, err
	}
	for it.First(); it.Valid() && out.Waiting < maxBehind; it.Next() {
		out.Waiting++
	}
	return out, errors.Join(it.Error(), it.Close())
}
