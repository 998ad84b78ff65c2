package graph

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// A posting block is a sorted set of resource ids, or a change to one. Its first
// byte says which:
//
//	(empty)                                    the empty set
//	blockList   count delta…                   a set
//	blockBitmap 8 KiB                          a set of the 65,536 ids of one bucket
//	blockOps    count (delta<<1 | add)…        a change: ids to add and to remove
//
// Numbers are uvarints. The first delta is the first id, each later one the
// distance to the smallest id that may follow, so an unsorted block cannot be
// written down. A set is written in one way only: a bucket as the smaller of
// list and bitmap, anything else as a list.
const (
	blockList   = 1
	blockBitmap = 2
	blockOps    = 3
)

const (
	// idLimit is above every id: ids have 40 bits, as in keys.
	idLimit = 1 << (8 * idSize)
	// bucketSize is how many ids share the block of a hot resource: a bitmap of
	// them is 8 KiB, half of one table block.
	bucketSize = 1 << 16
	// bitmapSize is the length of a bitmap block with its format byte.
	bitmapSize = 1 + bucketSize/8
	// maxListHeader is the format byte and the longest count.
	maxListHeader = 1 + binary.MaxVarintLen64
)

// errMalformed reports a value that this version of the store did not write.
var errMalformed = errors.New("malformed value")

func malformed(what, why string) error { return fmt.Errorf("%w: %s: %s", errMalformed, what, why) }

// postingOp adds an id to a posting block or removes it.
type postingOp struct {
	id  uint64
	add bool
}

// appendPostingOps appends a merge operand. Of several ops on one id the last
// one counts; their order is otherwise free.
func appendPostingOps(b []byte, ops []postingOp) []byte {
	ops = latestOps(ops)
	b = append(b, blockOps)
	b = binary.AppendUvarint(b, uint64(len(ops)))
	next := uint64(0)
	for _, op := range ops {
		if op.id >= idLimit {
			panic(fmt.Sprintf("graph: posting id %d does not fit in 40 bits", op.id))
		}
		v := (op.id - next) << 1
		if op.add {
			v |= 1
		}
		b = appendUvarint(b, v)
		next = op.id + 1
	}
	return b
}

// latestOps returns ops sorted by id with only the last op of each id. It leaves
// ops alone: the result is ops itself if that is so already, else a copy.
func latestOps(ops []postingOp) []postingOp {
	sorted := true
	for i := 1; i < len(ops) && sorted; i++ {
		sorted = ops[i-1].id < ops[i].id
	}
	if sorted {
		return ops
	}
	ops = slices.Clone(ops)
	slices.SortStableFunc(ops, func(a, b postingOp) int {
		if a.id < b.id {
			return -1
		}
		if a.id > b.id {
			return 1
		}
		return 0
	})
	n := 0
	for i, op := range ops {
		if i+1 == len(ops) || ops[i+1].id != op.id {
			ops[n] = op
			n++
		}
	}
	return ops[:n]
}

// appendPosting appends the block of a set of sorted, distinct ids. The block of
// no ids is empty.
func appendPosting(b []byte, ids []uint64) []byte {
	if len(ids) == 0 {
		return b
	}
	b = append(b, blockList)
	b = binary.AppendUvarint(b, uint64(len(ids)))
	return appendIDs(b, 0, ids)
}

// appendIDs appends sorted ids, none below next, as the deltas that eachID reads.
func appendIDs[T ~uint64](b []byte, next uint64, ids []T) []byte {
	for _, v := range ids {
		id := uint64(v)
		if id < next || id >= idLimit {
			panic(fmt.Sprintf("graph: id %d is out of order or range", id))
		}
		b = appendUvarint(b, id-next)
		next = id + 1
	}
	return b
}

// appendBucket appends the block of the low 16 bits of sorted, distinct ids, as
// a list or as a bitmap, whichever is smaller.
func appendBucket(b []byte, lows []uint16) []byte {
	block := [bitmapSize]byte{blockBitmap}
	for _, low := range lows {
		setBit(block[1:], low)
	}
	if list, ok := appendSparse(b, block[1:]); ok {
		return list
	}
	return append(b, block[:]...)
}

// appendSparse appends the ids of a bitmap as a list, if that is not longer.
func appendSparse(b, bitmap []byte) ([]byte, bool) {
	count, start := onesCount(bitmap), len(b)
	if count == 0 {
		return b, true
	}
	if count >= bitmapSize { // a list takes a byte or more for each
		return b, false
	}
	b = slices.Grow(b, bitmapSize)
	b = binary.AppendUvarint(append(b, blockList), uint64(count))
	next := uint64(0)
	eachBit(bitmap, func(id uint64) {
		b = appendUvarint(b, id-next)
		next = id + 1
	})
	if len(b)-start > bitmapSize {
		return b[:start], false
	}
	return b, true
}

func setBit(bitmap []byte, i uint16)   { bitmap[i>>3] |= 1 << (i & 7) }
func clearBit(bitmap []byte, i uint16) { bitmap[i>>3] &^= 1 << (i & 7) }

// eachBit calls f for each set bit, in order.
func eachBit(bitmap []byte, f func(uint64)) {
	for i := 0; i < len(bitmap); i += 8 {
		for w := binary.LittleEndian.Uint64(bitmap[i:]); w != 0; w &= w - 1 {
			f(uint64(i*8 + bits.TrailingZeros64(w)))
		}
	}
}

// decodePosting appends the sorted ids of a block to into. A change that never
// met a set is the set of what it adds.
func decodePosting(b []byte, into []uint64) ([]uint64, error) {
	return decodeBlock(b, 0, idLimit, into)
}

// decodeBucket appends the sorted ids of a bucket's block, high bits included.
func decodeBucket(b []byte, bucket uint32, into []uint64) ([]uint64, error) {
	if bucket >= idLimit/bucketSize {
		return into, malformed("posting", "no such bucket")
	}
	return decodeBlock(b, uint64(bucket)*bucketSize, bucketSize, into)
}

// decodeBlock appends base+id for each id of a block; ids are below limit.
func decodeBlock(b []byte, base, limit uint64, into []uint64) ([]uint64, error) {
	if len(b) == 0 {
		return into, nil
	}
	switch b[0] {
	case blockList:
		n, body, err := blockCount(b)
		if err != nil {
			return into, err
		}
		return decodeIDs(body, n, base, base+limit, slices.Grow(into, n))
	case blockBitmap:
		if len(b) != bitmapSize {
			return into, malformed("posting", "bitmap has the wrong length")
		}
		ids := slices.Grow(into, onesCount(b[1:]))
		eachBit(b[1:], func(low uint64) { ids = append(ids, base+low) })
		return ids, nil
	case blockOps:
		ids := into
		err := eachOp(b, limit, func(op postingOp) {
			if op.add {
				ids = append(ids, base+op.id)
			}
		})
		if err != nil {
			return into, err
		}
		return ids, nil
	}
	return into, malformed("posting", "unknown format")
}

// blockCount returns the count in the header of a list or ops block and what
// follows. An id takes a byte at least: a larger count is a lie, and refused
// before anything is allocated for it.
func blockCount(b []byte) (n int, body []byte, err error) {
	count, size := uvarint(b[1:])
	body = b[1+max(size, 0):]
	if size <= 0 || count > uint64(len(body)) {
		return 0, nil, malformed("posting", "count does not fit the length")
	}
	return int(count), body, nil
}

// decodeIDs appends the n ids whose deltas are body: the first is next or above,
// all are below limit, and nothing may follow them. After an error it returns
// into as it was.
func decodeIDs[T ~uint64](body []byte, n int, next, limit uint64, into []T) ([]T, error) {
	ids := into
	for ; n > 0; n-- {
		// Most deltas of a dense block are one byte: eight of them are summed at once.
		for n > 8 && len(body) >= 8 {
			w := binary.LittleEndian.Uint64(body)
			if w&0x8080808080808080 != 0 || next+8*128 > limit {
				break
			}
			for range 8 {
				next += w & 0x7f
				ids = append(ids, T(next))
				next++
				w >>= 8
			}
			body, n = body[8:], n-8
		}
		v, size := uvarint(body)
		if size <= 0 || v >= limit-next {
			return into, malformed("ids", "out of range or cut off")
		}
		ids = append(ids, T(next+v))
		next += v + 1
		body = body[size:]
	}
	if len(body) != 0 {
		return into, malformed("ids", "trailing bytes")
	}
	return ids, nil
}

func onesCount(bitmap []byte) int {
	n := 0
	for ; len(bitmap) >= 8; bitmap = bitmap[8:] {
		n += bits.OnesCount64(binary.LittleEndian.Uint64(bitmap))
	}
	return n
}

// eachOp calls f for each op of a change, in id order.
func eachOp(b []byte, limit uint64, f func(postingOp)) error {
	n, body, err := blockCount(b)
	if err != nil {
		return err
	}
	next := uint64(0)
	for ; n > 0; n-- {
		v, size := uvarint(body)
		if size <= 0 || v>>1 >= limit-next {
			return malformed("posting", "op out of range or cut off")
		}
		next += v >> 1
		f(postingOp{id: next, add: v&1 != 0})
		next++
		body = body[size:]
	}
	if len(body) != 0 {
		return malformed("posting", "trailing bytes")
	}
	return nil
}

// postingCount returns how many ids a block holds. It trusts the header of a
// list; only a change has to be read whole.
func postingCount(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	switch b[0] {
	case blockList:
		n, _, err := blockCount(b)
		return n, err
	case blockBitmap:
		if len(b) != bitmapSize {
			return 0, malformed("posting", "bitmap has the wrong length")
		}
		return onesCount(b[1:]), nil
	case blockOps:
		n := 0
		err := eachOp(b, idLimit, func(op postingOp) {
			if op.add {
				n++
			}
		})
		return n, err
	}
	return 0, malformed("posting", "unknown format")
}

// appendUvarint is binary.AppendUvarint without a loop for the usual lengths.
func appendUvarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<7:
		return append(b, byte(v))
	case v < 1<<14:
		return append(b, byte(v)|0x80, byte(v>>7))
	}
	return binary.AppendUvarint(b, v)
}

// uvarint is binary.Uvarint without a loop for the usual lengths. It also
// refuses (size 0) a number written with more bytes than it needs, so that a
// value has one encoding.
func uvarint(b []byte) (v uint64, size int) {
	switch {
	case len(b) > 0 && b[0] < 0x80:
		return uint64(b[0]), 1
	case len(b) > 1 && b[1] < 0x80 && b[1] != 0:
		return uint64(b[0]&0x7f) | uint64(b[1])<<7, 2
	case len(b) > 2 && b[1] >= 0x80 && b[2] < 0x80 && b[2] != 0:
		return uint64(b[0]&0x7f) | uint64(b[1]&0x7f)<<7 | uint64(b[2])<<14, 3
	}
	v, size = binary.Uvarint(b)
	if size > 1 && b[size-1] == 0 {
		return 0, 0
	}
	return v, size
}
