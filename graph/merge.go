package graph

import (
	"encoding/binary"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// merger folds the blind writes to posting blocks and state pages. Its name is
// on disk with the store: another name or meaning needs a migration.
//
// A set or full page replaces all that is older, a change (ops) is applied to
// what is older, the newest op on an id or slot counts; that is associative in
// any grouping. A result without content is an empty value and not a deletion:
// Pebble's DeletableFinish hides only the operands it was given, and what lies
// below them comes back.
var merger = &pebble.Merger{
	Name: "freshwire.1",
	Merge: func(key, value []byte) (pebble.ValueMerger, error) {
		m, err := newFold(key)
		if err != nil {
			return nil, err
		}
		return m, m.MergeNewer(value)
	},
}

func newFold(key []byte) (pebble.ValueMerger, error) {
	if len(key) > 0 {
		switch {
		case key[0] == spacePosting && len(key) == 1+idSize:
			return &postingMerger{limit: idLimit}, nil
		case key[0] == spacePosting && len(key) == 1+idSize+3, key[0] == spaceBucket && len(key) > 3,
			key[0] == spaceList && len(key) == 2+4+3 && key[1] == listMembers:
			return &postingMerger{limit: bucketSize}, nil
		case key[0] == spacePage:
			return &pageMerger{}, nil
		}
	}
	return nil, malformed("key", "its values are not merged")
}

// postingMerger collects the operands of one posting block.
type postingMerger struct {
	limit   uint64 // ids are below; bucketSize for a bucket
	base    []byte // the newest set among the operands, our copy
	hasBase bool
	newer   []postingOp // after the first operand, oldest first
	older   []postingOp // before it, newest first
}

func (m *postingMerger) MergeNewer(value []byte) error {
	if isOps(value) {
		return eachOp(value, m.limit, func(op postingOp) { m.newer = append(m.newer, op) })
	}
	m.base, m.hasBase = append(m.base[:0], value...), true
	m.newer, m.older = m.newer[:0], nil
	return nil
}

func (m *postingMerger) MergeOlder(value []byte) error {
	switch {
	case m.hasBase:
		return nil
	case isOps(value):
		return eachOp(value, m.limit, func(op postingOp) { m.older = append(m.older, op) })
	}
	m.base, m.hasBase = slices.Clone(value), true
	return nil
}

func isOps(value []byte) bool { return len(value) > 0 && value[0] == blockOps }

// Finish returns a set if the oldest operand is known, else a change that still
// carries its removals.
func (m *postingMerger) Finish(includesBase bool) ([]byte, io.Closer, error) {
	slices.Reverse(m.older)
	ops := append(m.older, m.newer...)
	if !m.hasBase && !includesBase {
		return appendPostingOps(nil, ops), nil, nil
	}
	var b []byte
	var err error
	if m.limit == bucketSize {
		b, err = foldBucket(m.base, ops)
	} else {
		b, err = foldList(m.base, m.limit, ops)
	}
	return b, nil, err
}

// burst is how many ops are faster set in a bitmap than sorted: a new hot
// dependency leaves tens of thousands in a bucket.
const burst = 512

// foldBucket applies ops, oldest first, to the block of a bucket. It owns base
// and changes a bitmap in place.
func foldBucket(base []byte, ops []postingOp) ([]byte, error) {
	if len(base) > 0 && base[0] == blockBitmap {
		if len(base) != bitmapSize {
			return nil, malformed("posting", "bitmap has the wrong length")
		}
		return foldBitmap(base, ops), nil
	}
	if len(ops) < burst {
		list, err := foldList(base, bucketSize, ops)
		if err != nil || len(list) <= bitmapSize {
			return list, err
		}
		base, ops = list, nil
	}
	lows, err := decodeBucket(base, 0, nil)
	if err != nil {
		return nil, err
	}
	block := make([]byte, bitmapSize)
	block[0] = blockBitmap
	for _, low := range lows {
		setBit(block[1:], uint16(low))
	}
	return foldBitmap(block, ops), nil
}

// foldBitmap applies ops, oldest first, to a bitmap block.
func foldBitmap(block []byte, ops []postingOp) []byte {
	bitmap := block[1:]
	for _, op := range ops {
		if op.add {
			setBit(bitmap, uint16(op.id))
		} else {
			clearBit(bitmap, uint16(op.id))
		}
	}
	if list, ok := appendSparse([]byte{}, bitmap); ok {
		return list
	}
	return block
}

// foldList applies ops, oldest first, to a list of ids below limit. What lies
// between two ops is copied as it is.
func foldList(base []byte, limit uint64, ops []postingOp) ([]byte, error) {
	r, err := newListReader(base)
	if err != nil {
		return nil, err
	}
	ops = latestOps(ops)
	w := listWriter{b: make([]byte, maxListHeader, maxListHeader+len(base)+(idSize+1)*len(ops))}
	for _, op := range ops {
		if err := w.copy(&r, op.id); err != nil {
			return nil, err
		}
		r.drop(op.id)
		if op.add {
			w.add(op.id)
		}
	}
	if err := w.copy(&r, limit); err != nil {
		return nil, err
	}
	if len(r.b) != 0 {
		return nil, malformed("posting", "trailing bytes, or an id out of range")
	}
	return w.block(), nil
}

// listReader passes over the ids of a list.
type listReader struct {
	b    []byte // the deltas to come …
	n    int    // … and how many they are
	next uint64 // the smallest id that may come
}

func newListReader(b []byte) (listReader, error) {
	if len(b) == 0 {
		return listReader{}, nil
	}
	if b[0] != blockList {
		return listReader{}, malformed("posting", "not a list")
	}
	n, body, err := blockCount(b)
	return listReader{b: body, n: n}, err
}

// skip passes the ids below id, and returns their deltas.
func (r *listReader) skip(id uint64) (passed []byte, err error) {
	b, next, at := r.b, r.next, 0
	for r.n > 0 {
		if r.n >= 8 && len(b)-at >= 8 {
			if sum, ok := sumOfEight(b[at:]); ok && next+sum+8 <= id {
				next, at, r.n = next+sum+8, at+8, r.n-8
				continue
			}
		}
		v, size := uvarint(b[at:])
		if size <= 0 {
			return nil, malformed("posting", "cut off")
		}
		if v >= id-next {
			break
		}
		next, at, r.n = next+v+1, at+size, r.n-1
	}
	r.b, r.next = b[at:], next
	return b[:at], nil
}

// sumOfEight adds up eight deltas at once, if each is a single byte.
func sumOfEight(b []byte) (sum uint64, ok bool) {
	w := binary.LittleEndian.Uint64(b)
	pairs := w&0x00ff00ff00ff00ff + w>>8&0x00ff00ff00ff00ff
	return pairs * 0x0001000100010001 >> 48, w&0x8080808080808080 == 0
}

// drop passes id if it is the next one. It follows a skip to id, which has
// checked the delta.
func (r *listReader) drop(id uint64) {
	if r.n == 0 {
		return
	}
	if v, size := uvarint(r.b); r.next+v == id {
		r.b, r.next, r.n = r.b[size:], id+1, r.n-1
	}
}

// listWriter writes a list whose count is known at the end, behind room for it.
type listWriter struct {
	b     []byte
	count int
	next  uint64 // the smallest id that may come
}

func (w *listWriter) add(id uint64) {
	w.b = appendUvarint(w.b, id-w.next)
	w.count, w.next = w.count+1, id+1
}

// copy takes over what r has below id.
func (w *listWriter) copy(r *listReader, id uint64) error {
	first, count := r.next, r.n
	deltas, err := r.skip(id)
	if err != nil || len(deltas) == 0 {
		return err
	}
	// Something was added or dropped before: the first delta is another now.
	v, size := uvarint(deltas)
	w.b = appendUvarint(w.b, first+v-w.next)
	w.b = append(w.b, deltas[size:]...)
	w.count, w.next = w.count+count-r.n, r.next
	return nil
}

// block ends the list.
func (w *listWriter) block() []byte {
	if w.count == 0 {
		return []byte{}
	}
	header := binary.AppendUvarint([]byte{blockList}, uint64(w.count))
	b := w.b[maxListHeader-len(header):]
	copy(b, header)
	return b
}

// pageMerger folds the changes of one state page as they come.
type pageMerger struct {
	pageFold
	base    []byte // the newest full page, our copy
	hasBase bool
}

func (m *pageMerger) MergeNewer(value []byte) error {
	if len(value) > 0 && value[0] == pageSome {
		return eachPageOp(value, m.set)
	}
	m.known = [len(m.known)]uint64{}
	return m.setBase(value)
}

func (m *pageMerger) MergeOlder(value []byte) error {
	switch {
	case m.hasBase:
		return nil
	case len(value) > 0 && value[0] == pageSome:
		return eachPageOp(value, func(op pageOp) {
			if !m.knows(op.slot) {
				m.set(op)
			}
		})
	}
	return m.setBase(value)
}

func (m *pageMerger) setBase(value []byte) error {
	if len(value) > 0 && (value[0] != pageFull || len(value) != fullPageSize) {
		return malformed("page", "neither full nor a change")
	}
	m.base, m.hasBase = slices.Clone(value), true
	return nil
}

// Finish returns a full page if the oldest operand is known, else a change.
func (m *pageMerger) Finish(includesBase bool) ([]byte, io.Closer, error) {
	if !m.hasBase && !includesBase {
		return m.appendOps(nil), nil, nil
	}
	page := m.base
	if len(page) == 0 {
		page = make([]byte, fullPageSize)
		page[0] = pageFull
	}
	words := page[1:]
	m.each(func(op pageOp) { binary.LittleEndian.PutUint16(words[2*op.slot:], op.word) })
	if [fullPageSize - 1]byte(words) == [fullPageSize - 1]byte{} {
		return []byte{}, nil, nil
	}
	return page, nil, nil
}
