package graph

import (
	"encoding/binary"
	"math"
	"sync/atomic"
)

// A journal chunk is up to 1,024 notices of one cause, under the key of the
// first one's seq:
//
//	chunkFormat  flags  reason  rule  attempt
//	count  at  cause  causeSeq  causeAt-at
//	causeID  version  hash
//	lists  (delta of list  count  delta of index…)…
//	delta of id…
//
// flags is kind (1 bit), lane (1 bit), change (2 bits) and marked (1 bit) from
// the lowest up, the other bits zero. The second line is uvarints, at and
// causeAt-at zigzag. Texts are a uvarint length and bytes. The fourth line is
// there if marked is set: which notices, by index, are of resources that were on
// a list. It and the ids are deltas as in a posting block, except that no list
// and no id is 0.
const chunkFormat = 1

// chunkMarked is the flag of a chunk with notices that are marked for a list.
const chunkMarked = 1 << 4

// maxChunk bounds the notices of one chunk: larger ones delay the small updates
// that commit beside a fan-out, and a reader decodes a whole chunk for one notice.
const maxChunk = 1024

// chunk is a run of notices with consecutive seqs: notice i has seq first+i.
type chunk struct {
	first    uint64 // from the key, not encoded
	kind     Kind
	reason   Reason
	rule     Rule
	lane     Lane
	change   Change
	attempt  uint8
	at       int64 // µs since 1970
	cause    ID    // resource whose update it was; 0 if there is none
	causeSeq uint64
	causeID  string
	causeAt  int64 // µs since 1970
	version  string
	hash     string
	ids      []ID // ascending and distinct, 1 to maxChunk
	marks    []mark

	spelled *atomic.Pointer[[]Notice] // not encoded: its notices, once a reader of the tail spelled them out
}

// append appends the encoded chunk.
func (c *chunk) append(b []byte) []byte {
	if len(c.ids) == 0 || len(c.ids) > maxChunk {
		panic("graph: a chunk has 1 to 1,024 notices")
	}
	flags := byte(c.kind) | byte(c.lane)<<1 | byte(c.change)<<2
	if len(c.marks) > 0 {
		flags |= chunkMarked
	}
	b = append(b, chunkFormat, flags, byte(c.reason), byte(c.rule), c.attempt)
	b = appendUvarint(b, uint64(len(c.ids)))
	b = binary.AppendVarint(b, c.at)
	b = appendUvarint(b, uint64(c.cause))
	b = appendUvarint(b, c.causeSeq)
	b = binary.AppendVarint(b, c.causeAt-c.at)
	for _, s := range [...]string{c.causeID, c.version, c.hash} {
		b = append(appendUvarint(b, uint64(len(s))), s...)
	}
	if len(c.marks) > 0 {
		b = appendMarks(b, c.marks)
	}
	return appendIDs(b, 1, c.ids)
}

// chunkReader takes a chunk apart from the front. After a fault all it returns
// is zero and bad stays set.
type chunkReader struct {
	b      []byte
	marked bool
	bad    bool
}

func (r *chunkReader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *chunkReader) uvarint(limit uint64) uint64 {
	v, size := uvarint(r.b)
	if size <= 0 || v > limit {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[size:]
	return v
}

func (r *chunkReader) varint() int64 {
	v := r.uvarint(math.MaxUint64)
	return int64(v>>1) ^ -int64(v&1)
}

func (r *chunkReader) text() []byte {
	n := r.uvarint(uint64(len(r.b)))
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	s := r.b[:n]
	r.b = r.b[n:]
	return s
}

// threeTexts copies them in one piece.
func (r *chunkReader) threeTexts() (x, y, z string) {
	all := r.b
	a, b, c := len(r.text()), len(r.text()), len(r.text())
	if r.bad || a+b+c == 0 {
		return "", "", ""
	}
	end := len(all) - len(r.b)
	s := string(all[:end])
	beginZ := end - c
	beginY := beginZ - len(appendUvarint(nil, uint64(c))) - b
	beginX := beginY - len(appendUvarint(nil, uint64(b))) - a
	return s[beginX : beginX+a], s[beginY : beginY+b], s[beginZ:]
}

// head reads up to the time of writing, and returns how many ids there are.
func (r *chunkReader) head(c *chunk) (n int) {
	if r.byte() != chunkFormat {
		r.bad = true
	}
	flags := r.byte()
	c.kind, c.lane, c.change = Kind(flags&1), Lane(flags>>1&1), Change(flags>>2&3)
	r.marked = flags&chunkMarked != 0
	c.reason, c.rule, c.attempt = Reason(r.byte()), Rule(r.byte()), r.byte()
	n = int(r.uvarint(maxChunk))
	c.at = r.varint()
	r.bad = r.bad || flags >= 1<<5 || n == 0 ||
		int(c.reason) >= len(reasonNames) || int(c.rule) >= len(ruleNames)
	return n
}

// chunkHeader returns what a reader needs to decide whether it wants the chunk,
// without decoding ids and texts.
func chunkHeader(b []byte) (lane Lane, kind Kind, n int, at int64, err error) {
	var c chunk
	r := chunkReader{b: b}
	if n = r.head(&c); r.bad {
		return 0, 0, 0, 0, malformed("chunk", "bad header")
	}
	return c.lane, c.kind, n, c.at, nil
}

// decodeChunk reads the chunk whose first notice has seq first.
func decodeChunk(first uint64, b []byte) (c chunk, err error) {
	err = c.decode(first, b, nil)
	return c, err
}

// decode is decodeChunk, with room for ids.
func (c *chunk) decode(first uint64, b []byte, room []ID) error {
	*c = chunk{first: first}
	r := chunkReader{b: b}
	n := r.head(c)
	c.cause = ID(r.uvarint(idLimit - 1))
	c.causeSeq = r.uvarint(math.MaxUint64)
	c.causeAt = c.at + r.varint()
	c.causeID, c.version, c.hash = r.threeTexts()
	if r.marked {
		c.marks = r.marks(n)
	}
	if r.bad || n > len(r.b) {
		*c = chunk{}
		return malformed("chunk", "bad header")
	}
	if n > cap(room) {
		room = make([]ID, 0, n)
	}
	var err error
	if c.ids, err = decodeIDs(r.b, n, 1, idLimit, room[:0:n]); err != nil {
		*c = chunk{}
	}
	return err
}

// chunkArena decodes chunks that go all at once, with few allocations.
type chunkArena struct {
	chunks []chunk
	ids    []ID
}

// decode reads the chunk whose first notice has seq first.
func (a *chunkArena) decode(first uint64, b []byte) (*chunk, error) {
	if len(a.chunks) == cap(a.chunks) {
		a.chunks = make([]chunk, 0, min(max(8, 2*cap(a.chunks)), 256))
	}
	if len(a.ids) == cap(a.ids) {
		a.ids = make([]ID, 0, min(max(8, 2*cap(a.ids)), 256))
	}
	a.chunks = append(a.chunks, chunk{})
	c := &a.chunks[len(a.chunks)-1]
	err := c.decode(first, b, a.ids[len(a.ids):])
	if n := len(a.ids) + len(c.ids); n <= cap(a.ids) {
		a.ids = a.ids[:n]
	}
	return c, err
}
