package graph

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var updateGolden = flag.Bool("update", false, "rewrite the golden files")

// A goldenCase is one encoded value, and what it is.
type goldenCase struct {
	name  string
	value []byte
}

// checkGolden compares values with testdata/name.golden: hex, 32 bytes a line,
// repetitions of a line folded into a star.
func checkGolden(t *testing.T, name string, cases []goldenCase) {
	t.Helper()
	var got strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&got, "# %s (%d bytes)\n", c.name, len(c.value))
		last := ""
		for chunk := range slices.Chunk(c.value, 32) {
			line := hex.EncodeToString(chunk)
			switch {
			case line != last:
				last = line
			case strings.HasSuffix(got.String(), "*\n"):
				continue
			default:
				line = "*"
			}
			fmt.Fprintln(&got, line)
		}
	}
	file := filepath.Join("testdata", name+".golden")
	if *updateGolden {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the bytes on disk have changed: %s\ngot:\n%s\nwant:\n%s", file, got.String(), want)
	}
}

// everyNth is n ids from first on, gap apart.
func everyNth[T uint16 | uint64](first, gap T, n int) []T {
	ids := make([]T, n)
	for i := range ids {
		ids[i] = first + T(i)*gap
	}
	return ids
}

func addID(id uint64) postingOp  { return postingOp{id: id, add: true} }
func dropID(id uint64) postingOp { return postingOp{id: id} }

func TestPostingBytesAreStable(t *testing.T) {
	checkGolden(t, "posting", []goldenCase{
		{"the empty set", appendPosting(nil, nil)},
		{"one id", appendPosting(nil, []uint64{1})},
		{"the lowest, a neighbour, a far one and the highest id", appendPosting(nil, []uint64{0, 1, 1 << 33, idLimit - 1})},
		{"a change adds one id", appendPostingOps(nil, []postingOp{addID(300)})},
		{"a change adds and removes, the last op on 7 counts", appendPostingOps(nil, []postingOp{addID(7), addID(1 << 20), dropID(2), dropID(7)})},
		{"a change of nothing", appendPostingOps(nil, nil)},
		{"a bucket as a list", appendBucket(nil, []uint16{0, 1, 5, 65535})},
		{"a bucket as a bitmap", appendBucket(nil, everyNth[uint16](3, 4, 9000))},
		{"a full bucket", appendBucket(nil, everyNth[uint16](0, 1, bucketSize))},
	})
}

func TestBucketIsWrittenTheShorterWay(t *testing.T) {
	for _, c := range []struct {
		name   string
		lows   []uint16
		format byte
		size   int
	}{
		{"the longest list is as long as a bitmap", everyNth[uint16](0, 1, 8190), blockList, bitmapSize},
		{"one id more makes it a bitmap", everyNth[uint16](0, 1, 8191), blockBitmap, bitmapSize},
		{"wide gaps take two bytes each", everyNth[uint16](0, 128+1, 500), blockList, 2 + 1 + 1 + 499*2},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := appendBucket([]byte("before"), c.lows)[len("before"):]
			if b[0] != c.format || len(b) != c.size {
				t.Errorf("got format %d of %d bytes, want %d of %d", b[0], len(b), c.format, c.size)
			}
		})
	}
}

func TestDecodeRefusesMalformedBlocks(t *testing.T) {
	bitmap := appendBucket(nil, everyNth[uint16](0, 1, bucketSize))
	for _, c := range []struct {
		name  string
		block []byte
	}{
		{"unknown format", []byte{9}},
		{"a list without count", []byte{blockList}},
		{"a count beyond the bytes that follow", []byte{blockList, 3, 0, 0}},
		{"a count of 2^64-1", append([]byte{blockList}, bytes.Repeat([]byte{0xff}, 9)...)},
		{"a count that overflows", append(append([]byte{blockList}, bytes.Repeat([]byte{0xff}, 9)...), 0x7f)},
		{"a count cut off", []byte{blockList, 0x80}},
		{"a count in more bytes than it needs", []byte{blockList, 0x81, 0x00, 5}},
		{"a count below the ids that follow", []byte{blockList, 1, 0, 0}},
		{"a delta cut off", []byte{blockList, 1, 0x80}},
		{"a delta in more bytes than it needs", []byte{blockList, 1, 0x80, 0x00}},
		{"a delta of one in three bytes", []byte{blockList, 1, 0x81, 0x80, 0x00}},
		{"a delta of one in four bytes", []byte{blockList, 1, 0x81, 0x80, 0x80, 0x00}},
		{"a count of seven before a run of eight", []byte{blockList, 7, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"an id of 2^40", []byte{blockList, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20}},
		{"a delta that overflows", append([]byte{blockList, 2, 1}, append(bytes.Repeat([]byte{0xff}, 9), 1)...)},
		{"an id after the highest", append(appendPosting(nil, []uint64{0, idLimit - 1})[:1], append([]byte{3}, append(appendPosting(nil, []uint64{0, idLimit - 1})[2:], 0)...)...)},
		{"a bitmap cut off", bitmap[:len(bitmap)-1]},
		{"a bitmap with a byte more", append(slices.Clone(bitmap), 0)},
		{"a change without count", []byte{blockOps}},
		{"a change with trailing bytes", []byte{blockOps, 1, 3, 0}},
		{"a change cut off", []byte{blockOps, 1, 0x80}},
		{"a change of an id of 2^40", []byte{blockOps, 1, 0x81, 0x80, 0x80, 0x80, 0x80, 0x40}},
	} {
		t.Run(c.name, func(t *testing.T) {
			into := []uint64{42}
			if got, err := decodePosting(c.block, into); !errors.Is(err, errMalformed) || !slices.Equal(got, into) {
				t.Errorf("decodePosting(%x) = %v, %v; want %v, %v", c.block, got, err, into, errMalformed)
			}
			if got, err := decodeBucket(c.block, 1, into); !errors.Is(err, errMalformed) || !slices.Equal(got, into) {
				t.Errorf("decodeBucket(%x) = %v, %v; want %v, %v", c.block, got, err, into, errMalformed)
			}
		})
	}
}

func TestDecodeBucketRefusesWhatIsNoBucket(t *testing.T) {
	for name, b := range map[string][]byte{
		"an id of 2^16":             appendPosting(nil, []uint64{1 << 16}),
		"a dense list beyond 2^16":  appendPosting(nil, everyNth[uint64](65530, 1, 12)),
		"a change of an id of 2^16": appendPostingOps(nil, []postingOp{addID(1 << 16)}),
	} {
		if got, err := decodeBucket(b, 0, nil); !errors.Is(err, errMalformed) {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, errMalformed)
		}
	}
	if _, err := decodeBucket(nil, 1<<24, nil); !errors.Is(err, errMalformed) {
		t.Errorf("bucket 2^24: got %v, want %v", err, errMalformed)
	}
	top, err := decodeBucket(appendBucket(nil, []uint16{65535}), 1<<24-1, nil)
	if err != nil || !slices.Equal(top, []uint64{idLimit - 1}) {
		t.Errorf("the last id of the last bucket: got %v, %v; want %d", top, err, uint64(idLimit-1))
	}
}

func TestAChangeThatMetNoSetHoldsWhatItAdds(t *testing.T) {
	b := appendPostingOps(nil, []postingOp{dropID(1), addID(2), addID(9), dropID(9), addID(70000), addID(5)})
	want := []uint64{2, 5, 70000}
	got, err := decodePosting(b, nil)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if n, err := postingCount(b); err != nil || n != len(want) {
		t.Errorf("count: got %d, %v; want %d", n, err, len(want))
	}
}

func TestEncodersPanicOnIDsThatCannotBeRead(t *testing.T) {
	for name, f := range map[string]func(){
		"unsorted ids":         func() { appendPosting(nil, []uint64{2, 1}) },
		"an id twice":          func() { appendPosting(nil, []uint64{2, 2}) },
		"an id of 2^40":        func() { appendPosting(nil, []uint64{idLimit}) },
		"an op on 2^40":        func() { appendPostingOps(nil, []postingOp{addID(idLimit)}) },
		"a chunk without ids":  func() { (&chunk{}).append(nil) },
		"a chunk of too many":  func() { (&chunk{ids: make([]ID, maxChunk+1)}).append(nil) },
		"a chunk about nobody": func() { (&chunk{ids: []ID{0}}).append(nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: written without panic", name)
				}
			}()
			f()
		}()
	}
}

func TestPostingOpsLeaveTheCallersSliceAlone(t *testing.T) {
	ops := []postingOp{addID(9), addID(1), dropID(9)}
	appendPostingOps(nil, ops)
	if want := []postingOp{addID(9), addID(1), dropID(9)}; !slices.Equal(ops, want) {
		t.Errorf("got %v, want %v", ops, want)
	}
}

// drawIDs draws sorted distinct ids below limit, dense and sparse stretches mixed.
func drawIDs(t *rapid.T, limit uint64) []uint64 {
	var ids []uint64
	next := rapid.Uint64Range(0, limit-1).Draw(t, "first")
	for range rapid.IntRange(0, 5).Draw(t, "runs") {
		gap := rapid.SampledFrom([]uint64{1, 2, 128, 129, 16511, 1 << 21}).Draw(t, "gap")
		for range rapid.SampledFrom([]int{1, 7, 8, 9, 40, 9000}).Draw(t, "run") {
			if next >= limit {
				return ids
			}
			ids = append(ids, next)
			next += gap
		}
	}
	return ids
}

func TestPostingRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := drawIDs(t, idLimit)
		b := appendPosting(nil, ids)
		got, err := decodePosting(b, nil)
		if err != nil || !slices.Equal(got, ids) {
			t.Fatalf("got %d ids, %v; want %d", len(got), err, len(ids))
		}
		if n, err := postingCount(b); err != nil || n != len(ids) {
			t.Fatalf("count: got %d, %v; want %d", n, err, len(ids))
		}
	})
}

func TestBucketRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bucket := rapid.Uint32Range(0, 1<<24-1).Draw(t, "bucket")
		want := drawIDs(t, bucketSize)
		lows := lowsOf(want)
		for i := range want {
			want[i] += uint64(bucket) << 16
		}
		b := appendBucket(nil, lows)
		got, err := decodeBucket(b, bucket, nil)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("got %d ids, %v; want %d", len(got), err, len(want))
		}
		if n, err := postingCount(b); err != nil || n != len(want) {
			t.Fatalf("count: got %d, %v; want %d", n, err, len(want))
		}
	})
}

// checkBlock holds a decoder to its promises on foreign bytes.
func checkBlock(t *testing.T, b []byte, limit, base uint64, ids []uint64, encoded []byte, key []byte) {
	for i, id := range ids {
		if id < base || id-base >= limit || i > 0 && id <= ids[i-1] {
			t.Fatalf("%x decodes to %v: not sorted, or out of range", b, ids)
		}
	}
	if n, err := postingCount(b); err != nil || n != len(ids) {
		t.Errorf("%x: count is %d, %v; want %d", b, n, err, len(ids))
	}
	again, err := decodeBlock(encoded, base, limit, nil)
	if err != nil || !slices.Equal(again, ids) {
		t.Errorf("%x decodes to %v, which encodes to %x, which decodes to %v, %v", b, ids, encoded, again, err)
	}
	if len(b) == 0 {
		return
	}
	if b[0] == blockList && encodedAsList(encoded) && !bytes.Equal(b, encoded) {
		t.Errorf("%x and %x are the same list", b, encoded)
	}
	if b[0] == blockOps {
		var ops []postingOp
		if err := eachOp(b, limit, func(op postingOp) { ops = append(ops, op) }); err != nil {
			t.Fatal(err)
		}
		if got := appendPostingOps(nil, ops); !bytes.Equal(got, b) {
			t.Errorf("%x holds %v, which encodes to %x", b, ops, got)
		}
	}
	if b[0] == blockBitmap && limit != bucketSize {
		return
	}
	merged, err := mergeOlder(key, true, b)
	if err != nil || !bytes.Equal(merged, encoded) {
		t.Errorf("%x merges to %x, %v; want %x", b, merged, err, encoded)
	}
	// One id that is there goes, one comes.
	want := slices.Clone(ids)
	ops := []postingOp{addID(limit / 3)}
	if i, found := slices.BinarySearch(want, base+limit/3); !found {
		want = slices.Insert(want, i, base+limit/3)
	}
	if len(ids) > 0 {
		gone := ids[len(ids)/2]
		ops = append(ops, dropID(gone-base))
		want = slices.DeleteFunc(want, func(id uint64) bool { return id == gone })
	}
	merged, err = mergeOlder(key, true, b, appendPostingOps(nil, ops))
	if err != nil {
		t.Fatalf("%x with %v: %v", b, ops, err)
	}
	if got, err := decodeBlock(merged, base, limit, nil); err != nil || !slices.Equal(got, want) {
		t.Errorf("%x with %v is %v, %v; want %v", b, ops, got, err, want)
	}
}

// checkRefused holds the merger to refuse what a decoder refuses, with and
// without a change on top.
func checkRefused(t *testing.T, b, key []byte) {
	top := appendPostingOps(nil, []postingOp{addID(0), dropID(1), addID(1000)})
	for _, operands := range [][][]byte{{b}, {b, top}} {
		if got, err := mergeOlder(key, true, operands...); !errors.Is(err, errMalformed) {
			t.Errorf("%x merges to %x, %v; want %v", operands, got, err, errMalformed)
		}
	}
}

func encodedAsList(b []byte) bool { return len(b) > 0 && b[0] == blockList }

func FuzzPosting(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(appendPosting(nil, []uint64{1, 2, 3, 1 << 30}))
	f.Add(appendPosting(nil, everyNth[uint64](5, 3, 20)))
	f.Add(appendPostingOps(nil, []postingOp{addID(3), dropID(1 << 39)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, err := decodePosting(b, nil)
		if err != nil {
			postingCount(b) // must not panic
			checkRefused(t, b, coldKey)
			return
		}
		checkBlock(t, b, idLimit, 0, ids, appendPosting(nil, ids), coldKey)
	})
}

func FuzzBucket(f *testing.F) {
	f.Add([]byte(nil), uint32(0))
	f.Add(appendBucket(nil, []uint16{0, 9, 65535}), uint32(7))
	f.Add(appendBucket(nil, everyNth[uint16](0, 3, 20000)), uint32(1<<24-1))
	f.Add(appendPostingOps(nil, []postingOp{addID(3), dropID(65535)}), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, bucket uint32) {
		ids, err := decodeBucket(b, bucket, nil)
		if bucket >= 1<<24 {
			if err == nil {
				t.Errorf("bucket %d decodes", bucket)
			}
			return
		}
		if err != nil {
			checkRefused(t, b, hotKey)
			return
		}
		checkBlock(t, b, bucketSize, uint64(bucket)<<16, ids, appendBucket(nil, lowsOf(ids)), hotKey)
	})
}

// randomIDs is n sorted distinct ids below limit.
func randomIDs(n int, limit uint64) []uint64 {
	rnd := rand.New(rand.NewPCG(1, 2))
	set := map[uint64]bool{}
	for len(set) < n {
		set[rnd.Uint64N(limit)] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func lowsOf(ids []uint64) []uint16 {
	lows := make([]uint16, len(ids))
	for i, id := range ids {
		lows[i] = uint16(id)
	}
	return lows
}

func BenchmarkDecodePosting(b *testing.B) {
	for _, c := range []struct {
		name  string
		block []byte
	}{
		{"format=list/ids=16/of=10M", appendPosting(nil, randomIDs(16, 10_000_000))},
		{"format=list/ids=2048/of=10M", appendPosting(nil, randomIDs(2048, 10_000_000))},
		{"format=list/ids=6000/of=bucket", appendBucket(nil, lowsOf(randomIDs(6000, bucketSize)))},
		{"format=bitmap/ids=20000", appendBucket(nil, lowsOf(randomIDs(20000, bucketSize)))},
		{"format=bitmap/ids=65536", appendBucket(nil, everyNth[uint16](0, 1, bucketSize))},
	} {
		b.Run(c.name, func(b *testing.B) {
			var ids []uint64
			decoded := 0
			for b.Loop() {
				var err error
				if ids, err = decodePosting(c.block, ids[:0]); err != nil {
					b.Fatal(err)
				}
				decoded += len(ids)
			}
			b.ReportMetric(float64(decoded)/b.Elapsed().Seconds(), "ids/s")
		})
	}
}

func BenchmarkAppendPosting(b *testing.B) {
	ids := randomIDs(2048, 10_000_000)
	var block []byte
	n := 0
	for b.Loop() {
		block = appendPosting(block[:0], ids)
		n += len(ids)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "ids/s")
}

func BenchmarkAppendPostingOps(b *testing.B) {
	var block []byte
	n := 0
	for b.Loop() {
		block = appendPostingOps(block[:0], []postingOp{{id: 123456789, add: true}})
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "operands/s")
}
