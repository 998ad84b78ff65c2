package bulk

import (
	"errors"
	"math"

	"github.com/cespare/xxhash/v2"
)

const (
	// MaxText bounds a text of a dictionary in bytes: lengths have 12 bits.
	MaxText = 1<<textBits - 1

	textBits = 12
	// blockBits: texts stand in blocks of 16 MiB, which never move.
	blockBits = 24
	// firstSlots is the size of a new table.
	firstSlots = 1 << 10
)

// ErrFull reports a dictionary that has as many texts as it may.
var ErrFull = errors.New("dictionary is full")

// Dictionary gives texts, which are not empty, numbers, from 1 in the order they are first seen. It
// holds them in memory: their own bytes and 30 to 50 more each. Not safe for
// concurrent use, but reading alone is.
type Dictionary struct {
	limit  int
	slots  []slot // open addressing; at most three in four are taken
	blocks [][]byte
	places []place // by number less 1
}

// place is where a text stands: block, offset in it, length.
type place uint64

type slot struct {
	hash   uint32
	number uint32 // 0: free
	at     place
}

// NewDictionary returns a dictionary of at most limit texts.
func NewDictionary(limit int) *Dictionary {
	return &Dictionary{limit: min(limit, math.MaxUint32), slots: make([]slot, firstSlots)}
}

// Hash is what Add wants to know of a text; it may be computed elsewhere.
func Hash(text string) uint32 { return uint32(xxhash.Sum64String(text)) }

// Len is how many texts there are: the greatest number.
func (d *Dictionary) Len() int { return len(d.places) }

// Add returns the number of a text, giving it one if it has none. The text has
// at most MaxText bytes. It reports ErrFull.
func (d *Dictionary) Add(text string, hash uint32) (uint32, error) {
	i, found := d.find(text, hash)
	if found {
		return d.slots[i].number, nil
	}
	if len(d.places) == d.limit {
		return 0, ErrFull
	}
	if 4*(len(d.places)+1) > 3*len(d.slots) {
		d.grow()
		i, _ = d.find(text, hash)
	}
	at := d.store(text)
	d.places = append(d.places, at)
	d.slots[i] = slot{hash: hash, number: uint32(len(d.places)), at: at}
	return uint32(len(d.places)), nil
}

// Touch reads what Add will look at for texts with these hashes: waiting for main
// memory once for all of them takes little longer than for one.
func (d *Dictionary) Touch(hashes []uint32) (sum int) {
	mask := len(d.slots) - 1
	for _, hash := range hashes {
		sum += int(d.slots[int(hash)&mask].number)
	}
	for _, hash := range hashes {
		if s := &d.slots[int(hash)&mask]; s.hash == hash && s.number != 0 {
			sum += int(d.at(s.at)[0])
		}
	}
	return sum
}

// Find returns the number of a text, 0 if it has none.
func (d *Dictionary) Find(text string) uint32 {
	i, _ := d.find(text, Hash(text))
	return d.slots[i].number
}

// Text is the text of a number; it is not to be changed.
func (d *Dictionary) Text(number uint32) []byte { return d.at(d.places[number-1]) }

// find returns the slot of a text, or the free one where it belongs.
func (d *Dictionary) find(text string, hash uint32) (i int, found bool) {
	mask := len(d.slots) - 1
	for i = int(hash) & mask; ; i = (i + 1) & mask {
		s := &d.slots[i]
		if s.number == 0 {
			return i, false
		}
		if s.hash == hash && string(d.at(s.at)) == text {
			return i, true
		}
	}
}

func (d *Dictionary) at(p place) []byte {
	off := uint64(p) >> textBits & (1<<blockBits - 1)
	return d.blocks[p>>(textBits+blockBits)][off : off+uint64(p)&MaxText]
}

func (d *Dictionary) store(text string) place {
	last := len(d.blocks) - 1
	if last < 0 || len(d.blocks[last])+len(text) >= 1<<blockBits {
		d.blocks = append(d.blocks, nil)
		last++
	}
	b := d.blocks[last]
	if last > 0 && b == nil {
		b = make([]byte, 0, 1<<blockBits) // the first one grows: most dictionaries are small
	}
	p := place(last)<<(textBits+blockBits) | place(len(b))<<textBits | place(len(text))
	d.blocks[last] = append(b, text...)
	return p
}

func (d *Dictionary) grow() {
	old := d.slots
	d.slots = make([]slot, 2*len(old))
	mask := len(d.slots) - 1
	for _, s := range old {
		if s.number == 0 {
			continue
		}
		i := int(s.hash) & mask
		for d.slots[i].number != 0 {
			i = (i + 1) & mask
		}
		d.slots[i] = s
	}
}
