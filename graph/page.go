package graph

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// A state page holds one word for each of 1,024 resources. Its first byte says
// how it is written:
//
//	(empty)                          all words are zero
//	pageFull words…                  1,024 words, little-endian
//	pageSome count (delta word)…     a change: the words of some slots
//
// Count and delta are uvarints; the first delta is the first slot, each later
// one the distance to the smallest slot that may follow.
const (
	pageFull = 1
	pageSome = 2
)

// pageSize is how many resources share a page: 2 KiB of words, so that the
// edit of one rewrites little and a column of a million loads in a thousand reads.
const pageSize = 1024

// fullPageSize is the length of a full page with its format byte.
const fullPageSize = 1 + 2*pageSize

// pageOp sets the word of one slot.
type pageOp struct {
	slot uint16
	word uint16
}

// appendPageOps appends a merge operand. Of several ops on one slot the last
// counts. Ops on all slots make a full page, which is smaller.
func appendPageOps(b []byte, ops []pageOp) []byte {
	var p pageFold
	for _, op := range ops {
		p.set(op)
	}
	return p.appendOps(b)
}

// appendPage appends a full page, or nothing if all words are zero.
func appendPage(b []byte, words *[pageSize]uint16) []byte {
	if *words == [pageSize]uint16{} {
		return b
	}
	return appendFullPage(b, words)
}

func appendFullPage(b []byte, words *[pageSize]uint16) []byte {
	b = slices.Grow(b, fullPageSize)
	b = append(b, pageFull)
	for _, w := range words {
		b = binary.LittleEndian.AppendUint16(b, w)
	}
	return b
}

// decodePage reads a page. The slots that a change leaves out are zero.
func decodePage(b []byte, words *[pageSize]uint16) error {
	*words = [pageSize]uint16{}
	if len(b) == 0 {
		return nil
	}
	switch b[0] {
	case pageFull:
		if len(b) != fullPageSize {
			return malformed("page", "wrong length")
		}
		for i := range words {
			words[i] = binary.LittleEndian.Uint16(b[1+2*i:])
		}
		return nil
	case pageSome:
		return eachPageOp(b, func(op pageOp) { words[op.slot] = op.word })
	}
	return malformed("page", "unknown format")
}

// eachPageOp calls f for each op of a change, in slot order.
func eachPageOp(b []byte, f func(pageOp)) error {
	count, size := uvarint(b[1:])
	if size <= 0 || count > pageSize {
		return malformed("page", "bad count")
	}
	body, next := b[1+size:], uint64(0)
	for range count {
		delta, size := uvarint(body)
		if size <= 0 || delta >= pageSize-next || len(body) < size+2 {
			return malformed("page", "bad op")
		}
		next += delta
		f(pageOp{slot: uint16(next), word: binary.LittleEndian.Uint16(body[size:])})
		next++
		body = body[size+2:]
	}
	if len(body) != 0 {
		return malformed("page", "trailing bytes")
	}
	return nil
}

// pageFold is a page of which only some slots are known.
type pageFold struct {
	words [pageSize]uint16
	known [pageSize / 64]uint64 // a bit for each slot
}

func (p *pageFold) knows(slot uint16) bool { return p.known[slot/64]>>(slot%64)&1 != 0 }

func (p *pageFold) set(op pageOp) {
	p.words[op.slot] = op.word
	p.known[op.slot/64] |= 1 << (op.slot % 64)
}

// each calls f for each known slot, in order.
func (p *pageFold) each(f func(pageOp)) {
	for i, k := range p.known {
		for ; k != 0; k &= k - 1 {
			slot := i*64 + bits.TrailingZeros64(k)
			f(pageOp{slot: uint16(slot), word: p.words[slot]})
		}
	}
}

// appendOps appends what is known as a merge operand.
func (p *pageFold) appendOps(b []byte) []byte {
	count := 0
	for _, k := range p.known {
		count += bits.OnesCount64(k)
	}
	if count == pageSize {
		return appendFullPage(b, &p.words)
	}
	b = binary.AppendUvarint(append(b, pageSome), uint64(count))
	next := uint16(0)
	p.each(func(op pageOp) {
		b = appendUvarint(b, uint64(op.slot-next))
		b = binary.LittleEndian.AppendUint16(b, op.word)
		next = op.slot + 1
	})
	return b
}
