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
func (c *checker) checkPeers() error {
	for _, step := range []func() error{c.checkPeerValues, c.checkMirrorRows, c.checkMirrorBits, c.checkInterests} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// peerOf reads the number of a peer from a key; 0 if the key has another length.
func peerOf(k []byte, rest int) PeerID {
	if len(k) != 2+4+rest {
		return 0
	}
	return PeerID(binary.BigEndian.Uint32(k[2:]))
}

// checkPeerValues reads the values of which there is one, or one for each peer.
func (c *checker) checkPeerValues() error {
	remove := func(k []byte) func() {
		key := bytes.Clone(k)
		return func() { c.delete(key) }
	}
	return c.scan([]byte{spacePeer}, func(k, v []byte) error {
		if len(k) < 2 {
			c.badKey(k)
			return nil
		}
		var err error
		switch kind := k[1]; kind {
		case peerMirror, peerInterest, peerLevel: // are looked at on their own
			return nil
		case peerNumber:
			if len(v) != 4 || len(k) == 2 {
				c.found(k, 0, "it is no number of a peer", nil)
			}
			return nil
		case peerAuthority:
			err = json.Unmarshal(v, new(authorityRecord))
		case peerSession:
			_, err = decodeSession(v)
		case peerClient:
			_, err = decodeClient(v)
		case peerOp:
			_, _, err = decodeOp(v)
		case peerCounter:
			if len(v) != 8 {
				err = errors.New("it is no number of 8 bytes")
			}
		default:
			c.badKey(k)
			return nil
		}
		keyed := k[1] == peerAuthority || k[1] == peerCounter
		if keyed && len(k) != 2 || k[1] == peerOp && peerOf(k, 8) == 0 || !keyed && k[1] != peerOp && peerOf(k, 0) == 0 {
			c.badKey(k)
		} else if err != nil {
			c.found(k, 0, fmt.Sprintf("what is kept of a peer does not decode: %v", err), remove(k))
		}
		return c.flushLarge()
	})
}

// checkMirrorRows: what is said to be heard of from a peer is a mirror by its state.
func (c *checker) checkMirrorRows() error {
	return c.scan([]byte{spacePeer, peerMirror}, func(k, v []byte) error {
		key := bytes.Clone(k)
		p := peerOf(k, idSize)
		if p == 0 {
			c.badKey(k)
			return nil
		}
		id := parseID(k[6:])
		_, err := decodeMirror(v)
		switch {
		case !c.named.has(id):
			c.found(key, 0, fmt.Sprintf("resource %d, which is to be heard of from a peer, does not exist", id), func() { c.delete(key) })
		case err != nil:
			c.mirrors.add(id)
			c.found(key, id, err.Error(), func() {
				m := mirror{}
				c.set(key, m.append(nil))
			})
		default:
			c.mirrors.add(id)
			if w := c.col.get(id); !w.is(wordMirror) {
				c.found(key, id, "it is heard of from a peer, and no mirror by its state", func() { c.col.put(id, w.with(wordMirror, true)) })
			}
		}
		return c.flushLarge()
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

// checkInterests: an interest and its level belong together, and a peer has as many as
// it is said to have.
func (c *checker) checkInterests() error {
	have := map[PeerID]int64{}
	err := c.scan([]byte{spacePeer, peerInterest}, func(k, v []byte) error {
		key := bytes.Clone(k)
		if len(k) != 2+idSize+4 {
			c.badKey(k)
			return nil
		}
		id, p := parseID(k[2:]), PeerID(binary.BigEndian.Uint32(k[2+idSize:]))
		i, err := decodeInterest(v)
		if err == nil {
			var level []byte
			level, _, err = c.get(peerSeqKey(peerLevel, p, i.sver))
			check(err)
			if len(level) != idSize || parseID(level) != id {
				err = errors.New("the level that is to be told is not there")
			}
		}
		if !c.named.has(id) {
			err = errors.New("the resource does not exist")
		}
		if err != nil {
			c.found(key, 0, fmt.Sprintf("peer %d wants to hear of resource %d: %v", p, id, err), func() { c.delete(key) })
			return c.flushLarge()
		}
		have[p]++
		return c.flushLarge()
	})
	if err != nil {
		return err
	}
	if err := c.checkLevels(); err != nil {
		return err
	}
	return c.scan([]byte{spacePeer, peerClient}, func(k, v []byte) error {
		key := bytes.Clone(k)
		if client, err := decodeClient(v); err == nil && client.interests != have[peerOf(k, 0)] {
			c.found(key, 0, fmt.Sprintf("the peer is said to want to hear of %d resources, and does of %d", client.interests, have[peerOf(k, 0)]), func() {
				client.interests = have[peerOf(key, 0)]
				c.set(key, client.append(nil))
			})
		}
		return nil
	})
}

func (c *checker) checkLevels() error {
	var newest uint64
	if v, ok, err := c.get([]byte{spacePeer, peerCounter}); err != nil {
		return err
	} else if ok && len(v) == 8 {
		newest = binary.BigEndian.Uint64(v)
	}
	above := newest
	err := c.scan([]byte{spacePeer, peerLevel}, func(k, v []byte) error {
		key := bytes.Clone(k)
		p := peerOf(k, 8)
		if p == 0 {
			c.badKey(k)
			return nil
		}
		sver := binary.BigEndian.Uint64(k[6:])
		above = max(above, sver)
		wanted := false
		if len(v) == idSize {
			i, ok, err := c.get(interestKey(parseID(v), p))
			check(err)
			told, err := decodeInterest(i)
			wanted = ok && err == nil && told.sver == sver
		}
		if !wanted {
			c.found(key, 0, "it is to be told, and nobody wants to hear it", func() { c.delete(key) })
		}
		return c.flushLarge()
	})
	if above > newest {
		c.found([]byte{spacePeer, peerCounter}, 0, fmt.Sprintf("levels go up to %d, and it is %d", above, newest), func() {
			c.set([]byte{spacePeer, peerCounter}, binary.BigEndian.AppendUint64(nil, above))
		})
	}
	return err
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
