package graph

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A lone changed notice, and a chunk of a fan-out.
var (
	loneChunk = chunk{first: 88121, kind: KindChanged, reason: ReasonEdit, lane: Prompt, change: ChangeUpdated,
		at: 1_795_313_569_976_000, cause: 64, causeSeq: 88121, causeID: "01JD", causeAt: 1_795_313_569_975_000,
		version: "1182", hash: "9e1c", ids: []ID{64}}
	fanoutChunk = chunk{first: 88122, kind: KindRefresh, reason: ReasonDependency, rule: RuleLower, lane: Bulk,
		attempt: 2, at: 1_795_313_570_000_000, cause: 64, causeSeq: 88121, causeID: "01JD",
		causeAt: 1_795_313_569_975_000, ids: []ID{1, 2, 300, idLimit - 1}}
	markedChunk = func() chunk {
		c := fanoutChunk
		c.marks = []mark{{1, []uint16{0, 1, 3}}, {500, []uint16{2}}, {math.MaxUint32, []uint16{0, 1, 2, 3}}}
		return c
	}()
	loneMarkedChunk = func() chunk {
		c := loneChunk
		c.marks = []mark{{7, []uint16{0}}, {8, []uint16{0}}}
		return c
	}()
)

func TestChunkBytesAreStable(t *testing.T) {
	checkGolden(t, "chunk", []goldenCase{
		{"a lone changed notice", loneChunk.append(nil)},
		{"refresh notices of a fan-out", fanoutChunk.append(nil)},
		{"no cause, before 1970", (&chunk{at: -1, ids: []ID{5}}).append(nil)},
		{"notices of resources on three lists", markedChunk.append(nil)},
		{"a lone notice of a resource on two lists", loneMarkedChunk.append(nil)},
	})
}

func TestChunkHeaderIsThatOfTheChunk(t *testing.T) {
	for _, c := range []chunk{loneChunk, fanoutChunk, markedChunk, loneMarkedChunk} {
		lane, kind, n, at, err := chunkHeader(c.append(nil))
		if lane != c.lane || kind != c.kind || n != len(c.ids) || at != c.at || err != nil {
			t.Errorf("got %v %v %d %d %v, want %v %v %d %d", lane, kind, n, at, err, c.lane, c.kind, len(c.ids), c.at)
		}
	}
}

func TestChunkNeedsFewBytesForEachNotice(t *testing.T) {
	c := fanoutChunk
	c.ids = nil
	for i := range ID(maxChunk) {
		c.ids = append(c.ids, 1+100*i)
	}
	if got, want := len(c.append(nil)), 1024+40; got > want {
		t.Errorf("1,024 notices of every hundredth resource take %d bytes, want at most %d", got, want)
	}
}

func TestDecodeChunkRefusesMalformedChunks(t *testing.T) {
	edit := func(f func(b []byte) []byte) []byte { return f(fanoutChunk.append(nil)) }
	poke := func(i int, v byte) []byte {
		return edit(func(b []byte) []byte { b[i] = v; return b })
	}
	head := []byte{chunkFormat, 0, 0, 0, 0}
	for _, c := range []struct {
		name   string
		value  []byte
		header bool // already the header is refused
	}{
		{"nothing", nil, true},
		{"another format", poke(0, chunkFormat+1), true},
		{"an unknown flag", poke(1, 1<<5), true},
		{"marks that are not there", poke(1, chunkMarked), false},
		{"an unknown reason", poke(2, byte(len(reasonNames))), true},
		{"an unknown rule", poke(3, byte(len(ruleNames))), true},
		{"no ids", slices.Concat(head, make([]byte, 8)), true},
		{"a count of 1,025", slices.Concat(head, []byte{0x81, 0x08}, make([]byte, 2000)), true},
		{"a count of 2^64-1", slices.Concat(head, bytes.Repeat([]byte{0xff}, 9), []byte{1}), true},
		{"a count beyond the ids that follow", poke(5, 5), false},
		{"a count below the ids that follow", poke(5, 3), false},
		{"a text longer than the chunk", slices.Concat(head, []byte{1, 0, 0, 0, 0, 200, 1}), false},
		{"a cause of 2^40", slices.Concat(head, []byte{1, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0, 0, 0, 0, 0, 0}), false},
		{"an id after the highest", edit(func(b []byte) []byte { b[5]++; return append(b, 0) }), false},
		{"trailing bytes", edit(func(b []byte) []byte { return append(b, 0) }), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := decodeChunk(1, c.value); !errors.Is(err, errMalformed) {
				t.Errorf("decodeChunk(%x) = %+v, %v; want %v", c.value, got, err, errMalformed)
			}
			if _, _, _, _, err := chunkHeader(c.value); errors.Is(err, errMalformed) != c.header {
				t.Errorf("chunkHeader(%x): got %v, want refused=%t", c.value, err, c.header)
			}
		})
	}
}

func TestEveryPrefixOfAChunkIsRefused(t *testing.T) {
	for _, c := range []chunk{loneChunk, fanoutChunk, markedChunk, loneMarkedChunk} {
		b := c.append(nil)
		for n := range b {
			if got, err := decodeChunk(1, b[:n]); err == nil {
				t.Errorf("%d of %d bytes decode to %+v", n, len(b), got)
			}
		}
	}
}

func TestChunkRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"", "0", "1182", "t3zx9…", "\xff\x00", strings.Repeat("h", 300)})
		want := chunk{
			first:    rapid.Uint64().Draw(t, "first"),
			kind:     Kind(rapid.IntRange(0, len(kindNames)-1).Draw(t, "kind")),
			reason:   Reason(rapid.IntRange(0, len(reasonNames)-1).Draw(t, "reason")),
			rule:     Rule(rapid.IntRange(0, len(ruleNames)-1).Draw(t, "rule")),
			lane:     Lane(rapid.IntRange(0, len(laneNames)-1).Draw(t, "lane")),
			change:   Change(rapid.IntRange(0, len(changeNames)-1).Draw(t, "change")),
			attempt:  rapid.Uint8().Draw(t, "attempt"),
			at:       rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64})).Draw(t, "at"),
			cause:    ID(rapid.Uint64Range(0, idLimit-1).Draw(t, "cause")),
			causeSeq: rapid.Uint64().Draw(t, "causeSeq"),
			causeID:  text.Draw(t, "causeID"),
			causeAt:  rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64})).Draw(t, "causeAt"),
			version:  text.Draw(t, "version"),
			hash:     text.Draw(t, "hash"),
		}
		for _, id := range drawIDs(t, idLimit) {
			if id > 0 && len(want.ids) < maxChunk {
				want.ids = append(want.ids, ID(id))
			}
		}
		if len(want.ids) == 0 {
			want.ids = []ID{1}
		}
		want.marks = drawMarks(t, len(want.ids))
		got, err := decodeChunk(want.first, want.append(nil))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	})
}

// drawMarks are marks of a chunk of n notices.
func drawMarks(t *rapid.T, n int) []mark {
	lists := make([][]ListID, n)
	for range rapid.IntRange(0, 5).Draw(t, "marks") {
		list := ListID(rapid.OneOf(rapid.Uint32Range(1, 4), rapid.Uint32Range(1, math.MaxUint32)).Draw(t, "list"))
		for range rapid.IntRange(1, 20).Draw(t, "of it") {
			i := rapid.IntRange(0, n-1).Draw(t, "index")
			if k, ok := slices.BinarySearch(lists[i], list); !ok {
				lists[i] = slices.Insert(lists[i], k, list)
			}
		}
	}
	return marksOf(lists)
}

func TestMarksTellTheListsOfEachNotice(t *testing.T) {
	c := markedChunk
	want := [][]ListID{{1, math.MaxUint32}, {1, math.MaxUint32}, {500, math.MaxUint32}, {1, math.MaxUint32}}
	if got := c.lists(0, 4); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := c.lists(2, 3); !reflect.DeepEqual(got, want[2:3]) {
		t.Errorf("of the third alone: got %v, want %v", got, want[2:3])
	}
	if got := marksOf(want); !reflect.DeepEqual(got, c.marks) {
		t.Errorf("back again: got %v, want %v", got, c.marks)
	}
}

func TestDecodeChunkRefusesMalformedMarks(t *testing.T) {
	lone := func(marks ...byte) []byte {
		return slices.Concat([]byte{chunkFormat, chunkMarked, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, marks, []byte{4})
	}
	two := func(marks ...byte) []byte {
		return slices.Concat([]byte{chunkFormat, chunkMarked, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}, marks, []byte{4, 0})
	}
	if _, err := decodeChunk(1, lone(1, 0, 1, 0)); err != nil {
		t.Fatalf("a lone notice on list 1: %v", err)
	}
	if _, err := decodeChunk(1, two(1, 0, 2, 0, 0)); err != nil {
		t.Fatalf("two notices on list 1: %v", err)
	}
	for name, b := range map[string][]byte{
		"no lists":                lone(0),
		"a list without notices":  lone(1, 0, 0),
		"more lists than bytes":   lone(200, 1, 0, 1, 0),
		"more notices than there": lone(1, 0, 2, 0, 0),
		"an index beyond":         lone(1, 0, 1, 1),
		"an index beyond the two": two(1, 0, 2, 0, 1),
		"a list above the last":   lone(1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0),
	} {
		if c, err := decodeChunk(1, b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %x decodes to %+v, %v", name, b, c, err)
		}
	}
}

func FuzzChunk(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(loneChunk.append(nil))
	f.Add(fanoutChunk.append(nil))
	f.Add(markedChunk.append(nil))
	f.Add(loneMarkedChunk.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		lane, kind, n, at, headErr := chunkHeader(b)
		c, err := decodeChunk(7, b)
		if err != nil {
			return
		}
		if got := c.append(nil); !bytes.Equal(got, b) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b, c, got)
		}
		if headErr != nil || lane != c.lane || kind != c.kind || n != len(c.ids) || at != c.at {
			t.Errorf("%x: header is %v %v %d %d %v, chunk is %+v", b, lane, kind, n, at, headErr, c)
		}
	})
}

func benchmarkChunk() *chunk {
	c := fanoutChunk
	c.ids = nil
	for _, id := range randomIDs(maxChunk, 1_000_000) {
		c.ids = append(c.ids, ID(id)+1)
	}
	return &c
}

func BenchmarkAppendChunk(b *testing.B) {
	c := benchmarkChunk()
	var value []byte
	n := 0
	for b.Loop() {
		value = c.append(value[:0])
		n += len(c.ids)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "notices/s")
	b.ReportMetric(float64(len(value))/maxChunk, "bytes/notice")
}

func BenchmarkDecodeChunk(b *testing.B) {
	value := benchmarkChunk().append(nil)
	n := 0
	for b.Loop() {
		c, err := decodeChunk(1, value)
		if err != nil {
			b.Fatal(err)
		}
		n += len(c.ids)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "notices/s")
}

func BenchmarkSkipChunk(b *testing.B) {
	value := benchmarkChunk().append(nil)
	n := 0
	for b.Loop() {
		_, _, k, _, err := chunkHeader(value)
		if err != nil {
			b.Fatal(err)
		}
		n += k
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "notices/s")
}
