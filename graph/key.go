package graph

import (
	"encoding/binary"
	"math"
)

// Key spaces. Every key of the store begins with one of these bytes; doc.go
// draws what follows. What other rooms keep are records.
const (
	spaceMeta    = 'M'
	spaceURI     = 'U'
	spaceName    = 'I'
	spaceRow     = 'F'
	spacePosting = 'R'
	spacePage    = 'S'
	spaceMarker  = 'A'
	spaceJournal = 'L'
	spaceSeen    = 'K'
	spaceJob     = 'J'
	spaceTimer   = 'T'
	spaceBucket  = 'B'
	spaceOrphan  = 'O'
	spaceFree    = 'N'
	spaceList    = 'C'
	spaceAccount = 'Q'
	spacePeer    = 'P'
)

// The second byte of a key in the space of peers. Those in capitals are of the
// other direction: what peers want to hear of us.
const (
	peerAuthority = 'a' // who speaks for what
	peerNumber    = 'n' // name → number
	peerSession   = 's' // how far we are with a peer
	peerMirror    = 'i' // what we want to hear of a peer: the level we have
	peerOp        = 'o' // changes of that which the peer has yet to take
	peerCounter   = 'C' // newest number of a level
	peerClient    = 'S' // how far a peer is with us
	peerInterest  = 'I' // who wants to hear of a resource
	peerLevel     = 'L' // what a peer wants to hear, by when it moved last
)

// The second byte of a key in the space of lists.
const (
	listRecord  = 'd'
	listMembers = 'm'
	listOf      = 'r'
	listMarked  = 'p'
	listDropped = 'x'
	listBlock   = 'b' // of the journal, for all lists
)

// idSize is the width of an id in keys: 2^40 resources, big-endian so that
// iteration is in id order.
const idSize = 5

func appendID(b []byte, id ID) []byte {
	return append(b, byte(id>>32), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func parseID(b []byte) ID {
	return ID(b[0])<<32 | ID(b[1])<<24 | ID(b[2])<<16 | ID(b[3])<<8 | ID(b[4])
}

func idKey(space byte, id ID) []byte { return appendID(append(make([]byte, 0, 12), space), id) }

func seqKey(space byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{space}, seq)
}

func uriKey(uri string) []byte { return append(append(make([]byte, 0, len(uri)+1), spaceURI), uri...) }

// bucketKey is the posting block of a hot resource that holds sources id>>16.
func bucketKey(dst ID, bucket uint32) []byte {
	return append(idKey(spacePosting, dst), byte(bucket>>16), byte(bucket>>8), byte(bucket))
}

func pageKey(page uint32) []byte { return binary.BigEndian.AppendUint32([]byte{spacePage}, page) }

func markerKey(dst, src ID) []byte { return appendID(idKey(spaceMarker, dst), src) }

// groupKey is the block of the resources id>>16 that carry a grouping key.
func groupKey(name string, bucket uint32) []byte {
	b := append(append(make([]byte, 0, len(name)+5), spaceBucket), name...)
	return append(b, 0, byte(bucket>>16), byte(bucket>>8), byte(bucket))
}

// seenDay keeps the idempotency keys of one day together, to be dropped as one range.
func seenDay(day uint32) []byte { return binary.BigEndian.AppendUint32([]byte{spaceSeen}, day) }

// timerKey orders timers by due time (µs); n keeps those of one instant apart.
func timerKey(due int64, n uint64) []byte {
	return binary.BigEndian.AppendUint64(seqKey(spaceTimer, uint64(due)), n)
}

func orphanKey(due int64, id ID) []byte { return appendID(seqKey(spaceOrphan, uint64(due)), id) }

func recordKey(key string) []byte {
	return append(append(make([]byte, 0, len(key)+2), spaceList, listRecord), key...)
}

// listKey begins the keys of one kind that belong to a list.
func listKey(kind byte, list ListID) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 16), spaceList, kind), uint32(list))
}

// membersKey is the block of a list's members id>>16.
func membersKey(list ListID, bucket uint32) []byte {
	return append(listKey(listMembers, list), byte(bucket>>16), byte(bucket>>8), byte(bucket))
}

// onKey begins the keys of the lists that a resource is on.
func onKey(id ID) []byte { return appendID(append(make([]byte, 0, 16), spaceList, listOf), id) }

func listedKey(id ID, list ListID) []byte {
	return binary.BigEndian.AppendUint32(onKey(id), uint32(list))
}

// markedKey says that the journal chunk at seq has notices marked for a list.
func markedKey(list ListID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(listKey(listMarked, list), seq)
}

// blockKey is the summary of the journal's positions seq>>12.
func blockKey(block uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 10), spaceList, listBlock), block)
}

// peerKey begins the keys of one kind that belong to a peer.
func peerKey(kind byte, p PeerID) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 20), spacePeer, kind), uint32(p))
}

func peerSeqKey(kind byte, p PeerID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(peerKey(kind, p), seq)
}

func mirrorKey(p PeerID, id ID) []byte { return appendID(peerKey(peerMirror, p), id) }

// interestKey says that a peer wants to hear of id.
func interestKey(id ID, p PeerID) []byte {
	return binary.BigEndian.AppendUint32(interestsKey(id), uint32(p))
}

// interestsKey begins the keys of those who want to hear of id.
func interestsKey(id ID) []byte {
	return appendID(append(make([]byte, 0, 16), spacePeer, peerInterest), id)
}

func metaKey(name string) []byte { return append([]byte{spaceMeta}, name...) }

// after is the smallest key greater than every key that begins with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != math.MaxUint8 {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
