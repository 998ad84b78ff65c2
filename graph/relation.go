package graph

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/freshwire/freshwire/graph/bulk"
)

// tally sums up a set of pairs, in whatever order they come. Two sets with one
// tally are the same but for one chance in 2^64: so two spaces that say the same in
// different orders are compared without sorting either.
type tally struct{ n, sum, mix uint64 }

func (t *tally) add(a, b uint64) {
	h := fold(a^0xa0761d6478bd642f, b^0xe7037ed1a0b428db)
	t.n++
	t.sum += h
	t.mix += fold(h^0x8ebc6af09c88c6e3, b+0x589965cc75374cc3)
}

func (t *tally) join(u tally) {
	t.n += u.n
	t.sum += u.sum
	t.mix += u.mix
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func (t *tally) addText(text []byte, b uint64) { t.add(xxhash.Sum64(text), b) }

// relation is what two spaces say of the same: one that is right, and one that is
// derived from it.
type relation struct{ said, copied tally }

func (r *relation) agree() bool { return r.said == r.copied }

func (c *checker) sorter(name string) *bulk.Sorter {
	return bulk.NewSorter(c.o.FS, c.o.FS.PathJoin(c.scratch, name), c.o.Memory/4)
}

// keysOf yields the keys of one side of a relation, in any order.
type keysOf func(add func(key []byte) error) error

// locate finds out in what two sides of a relation differ, in the order of keys.
func (c *checker) locate(said, copied keysOf, missing, stray func(key []byte) error) (err error) {
	c.stage = CheckLocating
	c.tell()
	left, right := c.sorter("said"), c.sorter("copied")
	defer func() { err = errors.Join(err, left.Close(), right.Close()) }()
	add := func(s *bulk.Sorter) func(key []byte) error {
		return func(key []byte) error { return s.Add(key, nil) }
	}
	if err := errors.Join(said(add(left)), copied(add(right))); err != nil {
		return err
	}
	l, err1 := left.Iter()
	r, err2 := right.Iter()
	if err := errors.Join(err1, err2); err != nil {
		return errors.Join(err, l.Close(), r.Close())
	}
	for inL, inR := l.Next(), r.Next(); err == nil && (inL || inR); {
		order := 0
		switch {
		case !inR:
			order = -1
		case !inL:
			order = 1
		default:
			order = bytes.Compare(l.Key(), r.Key())
		}
		switch {
		case order < 0:
			err = missing(l.Key())
			inL = l.Next()
		case order > 0:
			err = stray(r.Key())
			inR = r.Next()
		default:
			inL, inR = l.Next(), r.Next()
		}
		err = errors.Join(err, c.read())
	}
	return errors.Join(err, l.Close(), r.Close())
}

// stream yields the records of a space, or of a sorter, in the order of the ids
// that their keys begin with.
type stream struct {
	id         ID // of the record at hand; noID at the end
	key, value []byte
	next       func() (key, value []byte, ok bool)
	end        func() error
	from       int // where the id begins in a key
}

// noID is above every id.
const noID = ID(idLimit)

func (s *stream) advance() {
	var ok bool
	if s.key, s.value, ok = s.next(); !ok {
		s.id = noID
		return
	}
	s.id = parseID(s.key[s.from:])
}

// stream begins to read a space whose keys have one of two lengths.
func (c *checker) stream(space byte, size, other int) (*stream, error) {
	it, err := c.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		return nil, err
	}
	move := it.First
	s := &stream{from: 1, end: func() error { return errors.Join(it.Error(), it.Close()) }}
	s.next = func() ([]byte, []byte, bool) {
		for ok := move(); ok; ok = it.Next() {
			move = it.Next
			if c.stopped = c.read(); c.stopped != nil {
				return nil, nil, false
			}
			if k := it.Key(); len(k) == size || len(k) == other {
				return k, it.Value(), true
			}
			c.badKey(it.Key())
		}
		return nil, nil, false
	}
	s.advance()
	return s, nil
}

// sorted begins to read a sorter.
func sorted(sorter *bulk.Sorter) (*stream, error) {
	it, err := sorter.Iter()
	if err != nil {
		return nil, err
	}
	s := &stream{end: it.Close}
	s.next = func() ([]byte, []byte, bool) {
		if !it.Next() {
			return nil, nil, false
		}
		return it.Key(), it.Value(), true
	}
	s.advance()
	return s, nil
}

// badKey notes a key of a form that its space does not have: nobody looks for it.
func (c *checker) badKey(key []byte) {
	key = bytes.Clone(key)
	c.found(key, 0, fmt.Sprintf("no key of this space has %d bytes", len(key)), func() { c.delete(key) })
}
