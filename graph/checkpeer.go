package graph

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// checkPeers holds what is kept of other hubs against itself and against the states.
// What is damaged of it comes back from the peers, so everything but their numbers can
// be made good: a mirror that is gone by looking at all of them when the program names its
// peers next, an interest by the comparison with the peer.
//
// The keys come in such an order that what is asked of a peer is counted before what is
// said of it.
func (c *checker) checkPeers() error {
	p := peerCheck{checker: c, interests: map[PeerID]int64{}, heard: map[PeerID]int64{}}
	if err := c.scan([]byte{spacePeer}, p.key); err != nil {
		return err
	}
	if p.above > p.newest {
		c.found([]byte{spacePeer, peerCounter}, 0, fmt.Sprintf("levels go up to %d, and it is %d", p.above, p.newest), func() {
			c.set([]byte{spacePeer, peerCounter}, binary.BigEndian.AppendUint64(nil, p.above))
		})
	}
	return c.checkMirrorBits()
}

// peerCheck is what the check of the keys of peers learns on its way.
type peerCheck struct {
	*checker
	interests     map[PeerID]int64
	heard         map[PeerID]int64 // mirrors
	newest, above uint64           // level there is said to be, and there is
}

// peerOf reads the number of a peer from a key; 0 if the key has another length.
func peerOf(k []byte, rest int) PeerID {
	if len(k) != 2+4+rest {
		return 0
	}
	return PeerID(binary.BigEndian.Uint32(k[2:]))
}

// key looks at one key of the space of peers.
func (c *peerCheck) key(k, v []byte) error {
	key := bytes.Clone(k)
	if len(key) < 2 {
		c.badKey(key)
		return nil
	}
	kind, p := key[1], PeerID(0)
	switch kind {
	case peerSession, peerClient:
		p = peerOf(key, 0)
	case peerMirror:
		p = peerOf(key, idSize)
	case peerOp, peerLevel:
		p = peerOf(key, 8)
	}
	var err error
	switch {
	case kind == peerNumber && len(key) > 2:
		if len(v) != 4 {
			c.found(key, 0, "it is no number of a peer", nil)
		}
	case kind == peerAuthority && len(key) == 2:
		err = json.Unmarshal(v, new(authorityRecord))
	case kind == peerCounter && len(key) == 2:
		if len(v) != 8 {
			err = errors.New("it is no number of 8 bytes")
		} else {
			c.newest = binary.BigEndian.Uint64(v)
		}
	case kind == peerInterest && len(key) == 2+idSize+4:
		c.interest(key, v)
	case p == 0:
		c.badKey(key)
	case kind == peerLevel:
		c.level(key, v, p)
	case kind == peerMirror:
		c.mirror(key, v, p)
	case kind == peerSession:
		c.session(key, v, p)
	case kind == peerOp:
		_, _, err = decodeOp(v)
	case kind == peerClient:
		err = c.client(key, v, p)
	}
	if err != nil {
		c.found(key, 0, fmt.Sprintf("what is kept of a peer does not decode: %v", err), func() { c.delete(key) })
	}
	return c.flushLarge()
}

// mirror: what is said to be heard of from a peer is a mirror by its state.
func (c *peerCheck) mirror(key, v []byte, p PeerID) {
	id := parseID(key[6:])
	if !c.named.has(id) {
		c.found(key, 0, fmt.Sprintf("resource %d, which is to be heard of from a peer, does not exist", id), func() { c.delete(key) })
		return
	}
	c.mirrors.add(id)
	c.heard[p]++
	if _, err := decodeMirror(v); err != nil {
		c.found(key, id, err.Error(), func() {
			m := mirror{}
			c.set(key, m.append(nil))
		})
	} else if w := c.col.get(id); !w.is(wordMirror) {
		c.found(key, id, "it is heard of from a peer, and no mirror by its state", func() { c.col.put(id, w.with(wordMirror, true)) })
	}
}

// interest: its level is there to be told.
func (c *peerCheck) interest(key, v []byte) {
	id, p := parseID(key[2:]), PeerID(binary.BigEndian.Uint32(key[2+idSize:]))
	i, err := decodeInterest(v)
	if err == nil {
		level, _, broken := c.get(peerSeqKey(peerLevel, p, i.sver))
		check(broken)
		if len(level) != idSize || parseID(level) != id {
			err = errors.New("the level that is to be told is not there")
		}
	}
	if !c.named.has(id) {
		err = errors.New("the resource does not exist")
	}
	if err != nil {
		c.found(key, 0, fmt.Sprintf("peer %d wants to hear of resource %d: %v", p, id, err), func() { c.delete(key) })
		return
	}
	c.interests[p]++
}

// level: somebody wants to hear it.
func (c *peerCheck) level(key, v []byte, p PeerID) {
	sver := parseSeq(key[6:])
	c.above = max(c.above, sver)
	if len(v) == idSize {
		i, ok, err := c.get(interestKey(parseID(v), p))
		check(err)
		if told, err := decodeInterest(i); ok && err == nil && told.sver == sver {
			return
		}
	}
	c.found(key, 0, "it is to be told, and nobody wants to hear it", func() { c.delete(key) })
}

// client: a peer wants to hear of as many as it is said to.
func (c *peerCheck) client(key, v []byte, p PeerID) error {
	is, err := decodeClient(v)
	if err == nil && is.interests != c.interests[p] {
		c.found(key, 0, fmt.Sprintf("the peer is said to want to hear of %d resources, and does of %d", is.interests, c.interests[p]), func() {
			is.interests = c.interests[p]
			c.set(key, is.append(nil))
		})
	}
	return err
}

// session: there are as many mirrors as it is said.
func (c *peerCheck) session(key, v []byte, p PeerID) {
	is, err := decodeSession(v)
	switch {
	case err != nil: // all is told anew
		is = &session{}
	case is.mirrors != c.heard[p]:
		err = fmt.Errorf("%d resources are said to be heard of from the peer, and %d are", is.mirrors, c.heard[p])
	default:
		return
	}
	c.found(key, 0, err.Error(), func() {
		is.mirrors = c.heard[p]
		c.set(key, is.append(nil))
	})
}

// checkMirrorBits: of what is a mirror by its state a peer is asked.
func (c *checker) checkMirrorBits() error {
	for id := ID(1); id < c.nextID; id++ {
		if w := c.col.get(id); w.is(wordMirror) && !c.mirrors.has(id) {
			c.found(idKey(spaceRow, id), id, "it is a mirror by its state, and heard of from no peer", func() {
				c.col.put(id, w.with(wordMirror|wordPeerBusy, false))
				c.unsettlePeers()
			})
		}
	}
	return c.flushLarge()
}

// unsettlePeers has all mirrors looked at when the program names its peers next.
func (c *checker) unsettlePeers() {
	if c.audited {
		return
	}
	c.audited = true
	key := []byte{spacePeer, peerAuthority}
	v, ok, err := c.get(key)
	check(err)
	var rec authorityRecord
	if !ok || json.Unmarshal(v, &rec) != nil {
		return // nothing is settled
	}
	rec.Settled = false
	v, err = json.Marshal(rec)
	check(err)
	c.set(key, v)
}

// spellPeerKey writes a key of the space of peers as doc.go draws it.
func spellPeerKey(k []byte) string {
	kind, rest := k[1], k[2:]
	number := func() uint32 { return binary.BigEndian.Uint32(rest) }
	switch n := len(rest); {
	case (kind == peerAuthority || kind == peerCounter) && n == 0:
		return "P " + string(kind)
	case kind == peerNumber:
		return fmt.Sprintf("P n %.200q", rest)
	case (kind == peerSession || kind == peerClient) && n == 4:
		return fmt.Sprintf("P %c %d", kind, number())
	case kind == peerMirror && n == 4+idSize:
		return fmt.Sprintf("P i %d %d", number(), parseID(rest[4:]))
	case (kind == peerOp || kind == peerLevel) && n == 12:
		return fmt.Sprintf("P %c %d %d", kind, number(), parseSeq(rest[4:]))
	case kind == peerInterest && n == idSize+4:
		return fmt.Sprintf("P I %d %d", parseID(rest), binary.BigEndian.Uint32(rest[idSize:]))
	}
	return fmt.Sprintf("%.200q", k)
}
