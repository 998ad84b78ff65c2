package bulk

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/s2"
)

// writeBuffer is how much of a run goes to its file at once: runs are written
// and read from the start to the end.
const writeBuffer = 1 << 20

// spill moves the run in memory to a file: a stream of records, each the
// lengths of key and value and then both.
func (s *Sorter) spill() (err error) {
	s.run.sort()
	name := fmt.Sprintf("%s.%d", s.name, len(s.files))
	f, err := s.fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	s.files = append(s.files, name)
	defer func() { err = errors.Join(err, f.Close()) }()
	z := s2.NewWriter(&copying{w: f}, s2.WriterConcurrency(1), s2.WriterBlockSize(writeBuffer))
	w := bufio.NewWriterSize(z, writeBuffer)
	var head [2 * binary.MaxVarintLen64]byte
	for _, e := range s.run.entries {
		k, v := s.run.key(e), s.run.value(e)
		h := binary.AppendUvarint(binary.AppendUvarint(head[:0], uint64(len(k))), uint64(len(v)))
		for _, b := range [][]byte{h, k, v} {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
	}
	s.run = run{}
	return errors.Join(w.Flush(), z.Close())
}

// copying gives each write to w as a copy: a vfs.File may change what it is given.
type copying struct {
	w   io.Writer
	buf []byte
}

func (c *copying) Write(b []byte) (int, error) {
	c.buf = append(c.buf[:0], b...)
	return c.w.Write(c.buf)
}

// Iter yields records in the order of their keys.
type Iter struct {
	sources sources
	err     error
	began   bool
}

// source is one run that is being read.
type source struct {
	key, value []byte
	run        *run // in memory …
	i          int
	touched    int
	file       vfs.File // … or on disk
	r          *bufio.Reader
	buf        []byte
}

// Iter begins to read what was added. Records may be read more than once and by
// several iterators, but none is added after the first.
func (s *Sorter) Iter() (*Iter, error) {
	s.run.sort()
	it := &Iter{}
	open := []*source{{run: &s.run}}
	for _, name := range s.files {
		f, err := s.fs.Open(name, vfs.SequentialReadsOption)
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		src := &source{file: f, r: bufio.NewReader(s2.NewReader(f, s2.ReaderMaxBlockSize(writeBuffer)))}
		open = append(open, src)
		it.sources = append(it.sources, src) // so that Close knows it
	}
	it.sources = it.sources[:0]
	for i, src := range open {
		more, err := src.next()
		if err != nil {
			it.sources = append(it.sources, open[i:]...)
			return nil, errors.Join(err, it.Close())
		}
		if more {
			it.sources = append(it.sources, src)
		}
	}
	heap.Init(&it.sources)
	return it, nil
}

// Next moves to the next record and reports whether there is one; it is false
// at the end and after an error.
func (it *Iter) Next() bool {
	if !it.began {
		it.began = true
		return len(it.sources) > 0
	}
	if it.err != nil || len(it.sources) == 0 {
		return false
	}
	first := it.sources[0]
	more, err := first.next()
	switch {
	case err != nil:
		it.err = err
		return false
	case more && len(it.sources) > 1:
		heap.Fix(&it.sources, 0)
	case !more:
		heap.Pop(&it.sources)
	}
	return len(it.sources) > 0
}

// Key is that of the record at hand, valid until Next is called.
func (it *Iter) Key() []byte { return it.sources[0].key }

// Value is that of the record at hand, likewise.
func (it *Iter) Value() []byte { return it.sources[0].value }

// Err is what ended the records early, nil at their end.
func (it *Iter) Err() error { return it.err }

// Close ends the reading and returns the error that ended it early, if any. A
// nil Iter has nothing to close.
func (it *Iter) Close() error {
	if it == nil {
		return nil
	}
	err := it.err
	for _, src := range it.sources {
		err = errors.Join(err, src.close())
	}
	it.sources = nil
	return err
}

// next reads the next record; at the end the file is closed.
func (s *source) next() (more bool, err error) {
	if s.run != nil {
		if s.i == len(s.run.entries) {
			return false, nil
		}
		if s.i%touchAhead == 0 {
			rest := s.run.entries[s.i:]
			s.touched += s.run.touch(rest[:min(len(rest), touchAhead)])
		}
		e := s.run.entries[s.i]
		s.key, s.value = s.run.key(e), s.run.value(e)
		s.i++
		return true, nil
	}
	n, err := binary.ReadUvarint(s.r)
	if errors.Is(err, io.EOF) {
		return false, s.close()
	}
	m, err2 := binary.ReadUvarint(s.r)
	if err = errors.Join(err, err2); err != nil {
		return false, err
	}
	if size := int(n + m); size > cap(s.buf) {
		s.buf = make([]byte, size, 2*size)
	}
	b := s.buf[:n+m]
	_, err = io.ReadFull(s.r, b)
	s.key, s.value = b[:n], b[n:]
	return err == nil, err
}

// touchAhead is how many records are fetched from main memory at once.
const touchAhead = 32

// touch reads a byte of each record: sorted records lie anywhere, and waiting
// for all at once takes little longer than for one.
func (r *run) touch(es []entry) (sum int) {
	for _, e := range es {
		sum += int(r.blocks[e.at>>offsetBits][e.at&(blockBytes-1)+e.key])
	}
	return sum
}

func (s *source) close() error {
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}

// sources is a heap by the keys at hand.
type sources []*source

func (s sources) Len() int           { return len(s) }
func (s sources) Less(i, j int) bool { return bytes.Compare(s[i].key, s[j].key) < 0 }
func (s sources) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *sources) Push(x any)        { *s = append(*s, x.(*source)) }

func (s *sources) Pop() any {
	last := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return last
}
