package graph

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// PeerID numbers another hub inside one store. 0 is no peer: this hub itself, or
// nobody.
type PeerID uint32

// Territory is what a peer speaks for.
type Territory struct {
	Peer      string   // its name: the URL of its hub
	Authority []string // URI prefixes ([UnderPrefix])
}

// MaxAuthority bounds the prefixes of all peers and of this hub together: they are
// looked through for each new resource, by host.
const MaxAuthority = 10_000

// territory is one prefix and who speaks for it.
type territory struct {
	prefix string
	peer   PeerID
}

// authority tells who speaks for a URI. It is never changed: another takes its place.
type authority struct {
	byOrigin map[string][]territory // by scheme and host, longest prefix first
	numbers  map[string]PeerID      // of the peers that there are now
	names    map[PeerID]string
	own      []string
	peers    []Territory
}

// nobody is the authority of a hub without peers.
var nobody = newAuthority(nil, nil, nil)

func newAuthority(own []string, peers []Territory, numbers map[string]PeerID) *authority {
	a := &authority{byOrigin: map[string][]territory{}, numbers: map[string]PeerID{}, names: map[PeerID]string{}, own: own, peers: peers}
	add := func(prefix string, p PeerID) {
		o := originOf(prefix)
		a.byOrigin[o] = append(a.byOrigin[o], territory{prefix, p})
	}
	for _, prefix := range own {
		add(prefix, 0)
	}
	for _, t := range peers {
		n := numbers[t.Peer]
		a.numbers[t.Peer], a.names[n] = n, t.Peer
		for _, prefix := range t.Authority {
			add(prefix, n)
		}
	}
	for _, l := range a.byOrigin {
		slices.SortStableFunc(l, func(x, y territory) int { return cmp.Compare(len(y.prefix), len(x.prefix)) })
	}
	return a
}

// originOf is the part of a prefix or URI by which territories are found: scheme and
// host, or the scheme alone of what has no host.
func originOf(uri string) string {
	scheme, rest, _ := strings.Cut(uri, ":")
	if !strings.HasPrefix(rest, "//") {
		return scheme
	}
	if i := strings.IndexAny(rest[2:], "/?#"); i >= 0 {
		rest = rest[:2+i]
	}
	return uri[:len(scheme)+1+len(rest)]
}

// of returns who speaks for uri: the longest prefix decides. Claimed is false if
// nobody does.
func (a *authority) of(uri string) (p PeerID, claimed bool) {
	for _, t := range a.byOrigin[originOf(uri)] {
		if UnderPrefix(uri, t.prefix) {
			return t.peer, true
		}
	}
	return 0, false
}

// foreign says why an update of uri is not ours to take, "" if it is.
func (a *authority) foreign(uri string) string {
	if p, _ := a.of(uri); p != 0 {
		return fmt.Sprintf("the hub %s speaks for it, and what it is comes from there alone; send the update to that hub", a.names[p])
	}
	return ""
}

// Speaks reports whether this hub speaks for uri to its peers: the longest prefix
// that covers it is its own.
func (s *Store) Speaks(uri string) bool {
	p, claimed := s.authority.Load().of(uri)
	return claimed && p == 0
}

// SpeakerOf returns the peer that speaks for uri, "" if none does.
func (s *Store) SpeakerOf(uri string) string {
	a := s.authority.Load()
	p, _ := a.of(uri)
	return a.names[p]
}

// Territories returns what each peer speaks for, by name; nobody may change it.
func (s *Store) Territories() []Territory { return s.authority.Load().peers }

// PeerNumber returns the number of a peer that [Store.SetAuthority] named; 0 if there is none.
func (s *Store) PeerNumber(name string) PeerID { return s.authority.Load().numbers[name] }

// authorityRecord is what is kept of an authority. Settled is whether every mirror
// and interest agrees with it.
type authorityRecord struct {
	Own     []string    `json:"own,omitempty"`
	Peers   []Territory `json:"peers,omitempty"`
	Settled bool        `json:"settled,omitempty"`
}

// loadPeers reads who speaks for what, who wants to hear of us, and the counters.
func (s *Store) loadPeers() error {
	err := s.scanPrefix([]byte{spacePeer, peerNumber}, func(k, v []byte) error {
		if len(v) != 4 {
			return fmt.Errorf("peer %q is corrupt", k[2:])
		}
		s.peers.numbers[string(k[2:])] = PeerID(binary.BigEndian.Uint32(v))
		return nil
	})
	if err != nil {
		return err
	}
	var rec authorityRecord
	if v, closer, err := s.db.Get([]byte{spacePeer, peerAuthority}); err == nil {
		if err := errors.Join(json.Unmarshal(v, &rec), closer.Close()); err != nil {
			return fmt.Errorf("authority is corrupt: %w", err)
		}
	} else if !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	s.authority.Store(newAuthority(rec.Own, rec.Peers, s.peers.numbers))
	s.peers.settled = rec.Settled
	if err := s.loadSessions(); err != nil {
		return err
	}
	return s.loadLevels()
}

func (a *authority) equal(own []string, peers []Territory) bool {
	return slices.Equal(a.own, own) && slices.EqualFunc(a.peers, peers, func(x, y Territory) bool {
		return x.Peer == y.Peer && slices.Equal(x.Authority, y.Authority)
	})
}

// CheckAuthority reports what is wrong with what [Store.SetAuthority] is given; schemes
// are those a store takes besides its own.
func CheckAuthority(own []string, peers []Territory, schemes ...string) error {
	n := 0
	holder := map[string]string{}
	check := func(who string, prefixes []string) error {
		for _, prefix := range prefixes {
			if n++; n > MaxAuthority {
				return fmt.Errorf("more than %d prefixes", MaxAuthority)
			}
			if err := CheckPrefix(prefix, schemes...); err != nil {
				return fmt.Errorf("authority of %s: %q: %w", who, prefix, err)
			}
			if other, twice := holder[prefix]; twice && other != who {
				return fmt.Errorf("both %s and %s are to speak for %q", other, who, prefix)
			}
			holder[prefix] = who
		}
		return nil
	}
	if err := check("this hub", own); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, t := range peers {
		if t.Peer == "" || len(t.Peer) > MaxURI || seen[t.Peer] {
			return fmt.Errorf("peer %q: no name, one that is too long, or one that is named twice", t.Peer)
		}
		seen[t.Peer] = true
		if err := check(t.Peer, t.Authority); err != nil {
			return err
		}
	}
	return nil
}

// SetAuthority says for what this hub speaks, and for what its peers do; of a URI the
// longest prefix decides. What somebody depends on and a peer speaks for becomes a
// mirror of what the peer has, and the peer is to be told ([Store.Ops]); what
// no peer speaks for any more ceases to be one. A peer that is not named any more is
// forgotten, and what it wanted to hear too. It returns when all is durable, which on
// a large graph takes a look at each resource under a peer's prefixes; if ctx ends
// first, or the program, the next call goes on.
func (s *Store) SetAuthority(ctx context.Context, own []string, peers []Territory) error {
	if err := CheckAuthority(own, peers, s.o.Schemes...); err != nil {
		return err
	}
	own, peers = slices.Clone(own), slices.Clone(peers)
	slices.SortFunc(peers, func(a, b Territory) int { return cmp.Compare(a.Peer, b.Peer) })
	if s.authority.Load().equal(own, peers) && s.peersSettled() {
		return nil
	}
	err := s.relieve(ctx, func(t *txn) { t.setAuthority(own, peers) })
	if err != nil {
		return err
	}
	if err := s.forgetStrangers(ctx); err != nil {
		return err
	}
	for _, p := range peers {
		if _, err := s.AuditMirrors(ctx, p.Peer); err != nil {
			return err
		}
	}
	return s.relieve(ctx, func(t *txn) {
		if a := t.s.authority.Load(); a.equal(own, peers) {
			t.saveAuthority(a, true)
		}
	})
}

func (s *Store) peersSettled() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.peers.settled
}

func (t *txn) setAuthority(own []string, peers []Territory) {
	s := t.s
	for _, p := range peers {
		if _, known := s.peers.numbers[p.Peer]; !known {
			n := PeerID(1)
			for _, used := range s.peers.numbers {
				n = max(n, used+1)
			}
			s.peers.numbers[p.Peer] = n
			key := append([]byte{spacePeer, peerNumber}, p.Peer...)
			check(t.b.Set(key, binary.BigEndian.AppendUint32(nil, uint32(n)), nil))
		}
		t.session(s.peers.numbers[p.Peer])
	}
	t.saveAuthority(newAuthority(own, peers, s.peers.numbers), false)
}

func (t *txn) saveAuthority(a *authority, settled bool) {
	v, err := json.Marshal(authorityRecord{Own: a.own, Peers: a.peers, Settled: settled})
	check(err)
	check(t.b.Set([]byte{spacePeer, peerAuthority}, v, nil))
	t.s.authority.Store(a)
	t.s.peers.settled = settled
}

// auditStep bounds the resources that one commit of an audit looks at.
const auditStep = 2000

// AuditMirrors compares what a peer speaks for and somebody depends on with the
// mirrors there are, and mends what differs. It returns how many that were. It goes
// through all resources under the peer's prefixes, beside everything else.
func (s *Store) AuditMirrors(ctx context.Context, peer string) (mended int, err error) {
	a := s.authority.Load()
	p := a.numbers[peer]
	if p == 0 {
		return 0, fmt.Errorf("peer %q: %w", peer, ErrUnknown)
	}
	for _, t := range a.peers {
		if t.Peer != peer {
			continue
		}
		for _, prefix := range t.Authority {
			n, err := s.auditPrefix(ctx, p, prefix)
			mended += n
			if err != nil {
				return mended, err
			}
		}
	}
	n, err := s.auditRows(ctx, p, func(t *txn, id ID) bool {
		uri, named := t.get(idKey(spaceName, id))
		if !named {
			t.lower(p, id)
			return true
		}
		return t.auditMirror(p, id, string(uri))
	})
	mended += n
	if err != nil {
		return mended, err
	}
	wrong, err := s.recountMirrors(ctx, peer)
	if wrong {
		mended++
	}
	return mended, err
}

// recountMirrors counts the mirrors of a peer, whose number otherwise only grows and
// shrinks by one, and mends it. What comes and goes meanwhile moves both alike.
func (s *Store) recountMirrors(ctx context.Context, peer string) (wrong bool, err error) {
	v, err := s.view(peer, true)
	if err != nil {
		return false, err
	}
	n := int64(0)
	err = v.ids(ctx, func(ID, []byte) error { n++; return nil })
	if err = errors.Join(err, v.snap.Close()); err != nil || n == v.count {
		return false, err
	}
	err = s.relieve(ctx, func(t *txn) {
		if c := t.s.peers.sessions[v.p]; c != nil {
			wrong = true
			t.countMirror(v.p, n-v.count)
		}
	})
	return wrong, err
}

// auditPrefix looks at every resource under a prefix.
func (s *Store) auditPrefix(ctx context.Context, p PeerID, prefix string) (mended int, err error) {
	from := uriKey(prefix)
	return s.auditKeys(ctx, from, after(from), func(t *txn, key, value []byte) bool {
		uri := string(key[1:])
		if !UnderPrefix(uri, prefix) {
			return false
		}
		id, ok := t.find(uri)
		return ok && id == parseID(value) && t.auditMirror(p, id, uri)
	})
}

// auditRows calls f with each resource that there is a mirror's row of.
func (s *Store) auditRows(ctx context.Context, p PeerID, f func(t *txn, id ID) (mended bool)) (mended int, err error) {
	prefix := peerKey(peerMirror, p)
	return s.auditKeys(ctx, prefix, after(prefix), func(t *txn, key, _ []byte) bool { return f(t, parseID(key[len(prefix):])) })
}

// auditKeys calls look with each key in a range and its value, a part at a time, in
// commits of their own. What moved since it was read is for look to find out.
func (s *Store) auditKeys(ctx context.Context, from, end []byte, look func(t *txn, key, value []byte) (mended bool)) (mended int, err error) {
	for more := true; more; {
		it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: end})
		if err != nil {
			return mended, err
		}
		var part [][2][]byte
		for it.First(); it.Valid() && len(part) < auditStep; it.Next() {
			part = append(part, [2][]byte{bytes.Clone(it.Key()), bytes.Clone(it.Value())})
		}
		if more = it.Valid(); more {
			from = bytes.Clone(it.Key())
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return mended, err
		}
		n := 0
		err = s.relieve(ctx, func(t *txn) {
			n = 0
			for _, kv := range part {
				if look(t, kv[0], kv[1]) {
					n++
				}
			}
		})
		mended += n
		if err != nil {
			return mended, err
		}
	}
	return mended, nil
}

// auditMirror makes id a mirror of p, or ends that it is, as it ought to be.
func (t *txn) auditMirror(p PeerID, id ID, uri string) (mended bool) {
	w := t.word(id)
	if w.is(wordHot) && t.countDependents(id) == 0 {
		w = w.with(wordDependents, false)
	}
	speaker, _ := t.s.authority.Load().of(uri)
	want := speaker == p && w.is(wordDependents)
	_, has := t.get(mirrorKey(p, id))
	switch {
	case want && !has:
		t.raise(p, id)
	case want && !w.is(wordMirror): // the row says that it is one
		t.put(id, w.with(wordMirror, true))
	case !want && has:
		t.lower(p, id)
	default:
		return false
	}
	return true
}

// forgetStrangers drops what was kept for peers that are not named any more.
func (s *Store) forgetStrangers(ctx context.Context) error {
	gone := map[string]PeerID{}
	s.mu.RLock()
	for name, n := range s.peers.numbers {
		if _, named := s.authority.Load().names[n]; !named {
			gone[name] = n
		}
	}
	s.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		p := gone[name]
		_, err := s.auditRows(ctx, p, func(t *txn, id ID) bool {
			t.lower(p, id)
			return true
		})
		if err == nil {
			err = s.dropClient(ctx, p)
		}
		if err != nil {
			return err
		}
		err = s.relieve(ctx, func(t *txn) {
			for _, kind := range []byte{peerOp, peerSession, peerClient} {
				check(t.b.DeleteRange(peerKey(kind, p), after(peerKey(kind, p)), nil))
			}
			check(t.b.Delete(append([]byte{spacePeer, peerNumber}, name...), nil))
			delete(t.s.peers.numbers, name)
			delete(t.s.peers.sessions, p)
			delete(t.s.peers.clients, p)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
