package bench

import (
	"bytes"
	"hash/maphash"
)

// A mark is what the data of a notice says.
type mark struct {
	published int64 // when, in nanoseconds since 1970; 0 if nobody here published it
	altered   bool  // other readers of this notice got other bytes
}

// publishedIn returns the time that a notice of ours carries as its version, 0
// if there is no number.
func publishedIn(data []byte) int64 {
	value, ok := textMember(data, versionKey)
	if !ok {
		return 0
	}
	n, ok := parseDigits(value)
	if !ok || n > 1<<63-1 {
		return 0
	}
	return int64(n)
}

var (
	uriKey     = []byte(`"uri":"`)
	versionKey = []byte(`"version":"`)
)

// textMember returns the text of the first member with this key, which ends in
// :". Texts with escapes are cut short: those of ours have none. A key cannot
// stand inside a text, where its quotes would be escaped.
func textMember(data, key []byte) ([]byte, bool) {
	i := bytes.Index(data, key)
	if i < 0 {
		return nil, false
	}
	data = data[i+len(key):]
	end := bytes.IndexByte(data, '"')
	if end < 0 {
		return nil, false
	}
	return data[:end], true
}

// rememberedMarks is for how many of the newest notices the data is read once and
// not once for each reader: readers of one hub are seldom further apart.
const rememberedMarks = 4096

// marks remembers what the first reader of a notice got.
type marks [rememberedMarks]struct {
	seq       uint64
	sum       uint64 // of the data
	published int64
}

var sumSeed = maphash.MakeSeed()

// of reads the data of the notice at seq, and compares it with what the first
// reader of that notice got. Of seq 0 nothing is remembered.
func (m *marks) of(seq uint64, data []byte) mark {
	sum := maphash.Bytes(sumSeed, data)
	known := &m[seq%rememberedMarks]
	if seq == 0 || known.seq != seq {
		published := publishedIn(data)
		if seq > known.seq {
			known.seq, known.sum, known.published = seq, sum, published
		}
		return mark{published: published}
	}
	return mark{published: known.published, altered: known.sum != sum}
}
