package bulk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// maxRun bounds a run in memory, whatever the budget: places have 32 bits, and
	// half of a block may be left free.
	maxRun = math.MaxUint32 / 2
	// entrySize is what a record takes in memory beside its bytes.
	entrySize = 16
	// radixFrom is the number of records from which on counting beats comparing.
	radixFrom = 512
	// digit is how many bytes of the keys are compared at once.
	digit = 8
)

// Sorter collects records and yields them in the order of their keys, which
// are distinct. What does not fit its budget waits in sorted, compressed runs on
// disk. Not safe for concurrent use.
type Sorter struct {
	fs     vfs.FS
	name   string // path of its files, without a number
	budget int    // bytes of memory for a run
	run    run    // in memory
	files  []string
}

// NewSorter returns a Sorter that holds up to budget bytes in memory, and up to
// twice that while it sorts. Its files, if it needs any, are name.0,
// name.1, …
func NewSorter(fs vfs.FS, name string, budget int) *Sorter {
	return &Sorter{fs: fs, name: name, budget: min(budget, maxRun)}
}

// Add adds a record. It keeps neither slice.
func (s *Sorter) Add(key, value []byte) error {
	if s.run.count > 0 && s.run.size+len(key)+len(value)+entrySize > s.budget {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.run.add(key, value)
	return nil
}

// Close removes what the Sorter holds. No iterator is used after it.
func (s *Sorter) Close() error {
	s.run = run{}
	var err error
	for _, name := range s.files {
		err = cmp.Or(err, s.fs.Remove(name))
	}
	s.files = nil
	return err
}

// run is a set of records in memory. What grows, grows by blocks, so that nothing
// large is copied while records come in.
type run struct {
	blocks  [][]byte // of each record: key, length of the value, value
	parts   [][]entry
	entries []entry // of all parts, once they are sorted
	count   int
	size    int // bytes of all
}

const (
	// blockBytes is the size of a block, or more if a record is larger.
	blockBytes = 1 << offsetBits
	offsetBits = 20
	// partEntries make a part of 1 MiB.
	partEntries = 1 << 16
)

// entry is the place of a record, with some bytes of its key to compare by.
type entry struct {
	part uint64 // eight bytes of the key, from the depth that is being sorted
	at   uint32 // block, and where the key begins in it
	key  uint32 // its length
}

func (r *run) add(key, value []byte) {
	need := len(key) + len(value) + binary.MaxVarintLen32
	last := len(r.blocks) - 1
	if last < 0 || len(r.blocks[last])+need > blockBytes {
		var b []byte // the first one grows: most runs are small
		if last >= 0 {
			b = make([]byte, 0, max(blockBytes, need))
		}
		r.blocks = append(r.blocks, b)
		last++
	}
	b := r.blocks[last]
	e := entry{at: uint32(last)<<offsetBits | uint32(len(b)), key: uint32(len(key))}
	b = binary.AppendUvarint(append(b, key...), uint64(len(value)))
	r.blocks[last] = append(b, value...)
	n := len(r.parts) - 1
	if n < 0 || len(r.parts[n]) == partEntries {
		var part []entry
		if n >= 0 {
			part = make([]entry, 0, partEntries)
		}
		r.parts = append(r.parts, part)
		n++
	}
	r.parts[n] = append(r.parts[n], e)
	r.count++
	r.size += need + entrySize
}

func (r *run) key(e entry) []byte {
	off := e.at & (blockBytes - 1)
	return r.blocks[e.at>>offsetBits][off : off+e.key]
}

func (r *run) value(e entry) []byte {
	b := r.blocks[e.at>>offsetBits][e.at&(blockBytes-1)+e.key:]
	n, size := binary.Uvarint(b)
	return b[size : size+int(n)]
}

func (r *run) sort() {
	if r.parts == nil {
		return
	}
	r.entries = slices.Concat(r.parts...)
	r.parts = nil
	r.sortFrom(r.entries, make([]entry, len(r.entries)), 0)
}

// sortFrom sorts entries whose keys are equal before depth and reach it, eight
// bytes at a time: keys are long and most of them begin alike.
func (r *run) sortFrom(es, spare []entry, depth int) {
	for i := range es {
		es[i].part = partAt(r.key(es[i])[depth:])
	}
	if len(es) < radixFrom {
		slices.SortFunc(es, func(a, b entry) int { return cmp.Compare(a.part, b.part) })
	} else {
		radixSort(es, spare)
	}
	for i := 0; i < len(es); {
		j := i + 1
		for j < len(es) && es[j].part == es[i].part {
			j++
		}
		if j > i+1 {
			r.sortEqual(es[i:j], spare[i:j], depth+digit)
		}
		i = j
	}
}

// sortEqual sorts entries that are equal before depth. A key that ends there was
// padded with zeros, which another one may really have.
func (r *run) sortEqual(es, spare []entry, depth int) {
	long := len(es) > 16
	for i := 0; long && i < len(es); i++ {
		long = int(es[i].key) >= depth
	}
	if long {
		r.sortFrom(es, spare, depth)
		return
	}
	from := depth - digit
	slices.SortFunc(es, func(a, b entry) int { return bytes.Compare(r.key(a)[from:], r.key(b)[from:]) })
}

// partAt reads the first eight bytes of a key, as if zeros followed it.
func partAt(k []byte) uint64 {
	if len(k) >= digit {
		return binary.BigEndian.Uint64(k)
	}
	var b [digit]byte
	copy(b[:], k)
	return binary.BigEndian.Uint64(b[:])
}

// radixSort sorts by part, byte by byte from the lowest; bytes in which all
// agree cost nothing.
func radixSort(es, spare []entry) {
	var counts [digit][256]uint32
	for _, e := range es {
		for b := range digit {
			counts[b][byte(e.part>>(8*b))]++
		}
	}
	from, to := es, spare
	for b := range digit {
		c, shift := &counts[b], 8*b
		if c[byte(from[0].part>>shift)] == uint32(len(from)) {
			continue
		}
		next := uint32(0)
		for i, n := range c {
			c[i], next = next, next+n
		}
		for _, e := range from {
			i := byte(e.part >> shift)
			to[c[i]] = e
			c[i]++
		}
		from, to = to, from
	}
	if &from[0] != &es[0] {
		copy(es, from)
	}
}
