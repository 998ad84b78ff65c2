package graph

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func somePage() *[pageSize]uint16 {
	var words [pageSize]uint16
	for i := range words {
		words[i] = uint16(i * i)
	}
	return &words
}

// allSlots is an op on each slot, in descending order.
func allSlots(words *[pageSize]uint16) []pageOp {
	var ops []pageOp
	for slot, word := range slices.Backward(words[:]) {
		ops = append(ops, pageOp{slot: uint16(slot), word: word})
	}
	return ops
}

func TestPageBytesAreStable(t *testing.T) {
	checkGolden(t, "page", []goldenCase{
		{"a page of zeros", appendPage(nil, new([pageSize]uint16))},
		{"a full page", appendPage(nil, somePage())},
		{"a change of one slot", appendPageOps(nil, []pageOp{{slot: 500, word: 0x0103}})},
		{"a change of three slots, the last op on 7 counts", appendPageOps(nil, []pageOp{{7, 1}, {1023, 2}, {0, 3}, {7, 0}})},
		{"a change of nothing", appendPageOps(nil, nil)},
	})
}

func TestOpsOnAllSlotsAreAFullPage(t *testing.T) {
	words := somePage()
	ops := allSlots(words)
	if got, want := appendPageOps(nil, ops), appendPage(nil, words); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes %.8x…, want %d bytes %.8x…", len(got), got, len(want), want)
	}
	if got := appendPageOps(nil, ops[1:]); got[0] != pageSome {
		t.Errorf("ops on all slots but one: got format %d, want %d: the slot left out would be lost", got[0], pageSome)
	}
	zeros := appendPageOps(nil, allSlots(new([pageSize]uint16)))
	if len(zeros) != fullPageSize {
		t.Errorf("ops that clear all slots: got %d bytes, want %d", len(zeros), fullPageSize)
	}
}

func TestDecodePageRefusesMalformedPages(t *testing.T) {
	full := appendPage(nil, somePage())
	for _, c := range []struct {
		name  string
		value []byte
	}{
		{"unknown format", []byte{9}},
		{"a full page cut off", full[:len(full)-1]},
		{"a full page with a byte more", append(slices.Clone(full), 0)},
		{"a change without count", []byte{pageSome}},
		{"a change of more slots than there are", []byte{pageSome, 0x81, 0x08, 0, 0, 0}},
		{"a count beyond the bytes that follow", []byte{pageSome, 2, 0, 0, 0}},
		{"a count in more bytes than it needs", []byte{pageSome, 0x80, 0x00}},
		{"a word cut off", []byte{pageSome, 1, 0, 0}},
		{"a slot of 1,024", []byte{pageSome, 1, 0x80, 0x08, 0, 0}},
		{"a slot after the last", []byte{pageSome, 2, 0xff, 0x07, 0, 0, 0, 0, 0}},
		{"trailing bytes", []byte{pageSome, 1, 0, 0, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := decodePage(c.value, new([pageSize]uint16)); !errors.Is(err, errMalformed) {
				t.Errorf("decodePage(%x): got %v, want %v", c.value, err, errMalformed)
			}
		})
	}
}

func TestDecodePageForgetsWhatStoodThere(t *testing.T) {
	words := somePage()
	if err := decodePage(appendPageOps(nil, []pageOp{{slot: 3, word: 8}}), words); err != nil {
		t.Fatal(err)
	}
	if want := ([pageSize]uint16{3: 8}); *words != want {
		t.Errorf("slots outside the change keep an older word")
	}
}

func drawPageOps(t *rapid.T) []pageOp {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) pageOp {
		return pageOp{
			slot: rapid.Uint16Range(0, pageSize-1).Draw(t, "slot"),
			word: rapid.Uint16Range(0, 4).Draw(t, "word"),
		}
	}), 0, 40).Draw(t, "ops")
}

func TestPageOpsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want, got [pageSize]uint16
		ops := drawPageOps(t)
		if rapid.IntRange(0, 3).Draw(t, "dense") == 0 {
			ops = append(allSlots(somePage()), ops...)
		}
		for _, op := range ops {
			want[op.slot] = op.word
		}
		if err := decodePage(appendPageOps(nil, ops), &got); err != nil || got != want {
			t.Fatalf("ops %v: %v, or other words", ops, err)
		}
		if err := decodePage(appendPage(nil, &want), &got); err != nil || got != want {
			t.Fatalf("page of %v: %v, or other words", ops, err)
		}
	})
}

func FuzzPage(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(appendPage(nil, somePage()))
	f.Add(appendPageOps(nil, []pageOp{{3, 4}, {1023, 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var words, again [pageSize]uint16
		err := decodePage(b, &words)
		merged, mergeErr := mergeOlder(stateKey, true, b)
		if (err == nil) != (mergeErr == nil) {
			t.Fatalf("%x: decodes with %v, merges with %v", b, err, mergeErr)
		}
		if err != nil {
			return
		}
		encoded := appendPage(nil, &words)
		if err := decodePage(encoded, &again); err != nil || again != words {
			t.Errorf("%x encodes to %x: %v, or other words", b, encoded, err)
		}
		if !bytes.Equal(merged, encoded) {
			t.Errorf("%x merges to %x, want %x", b, merged, encoded)
		}
		if len(b) > 0 && b[0] == pageSome {
			var ops []pageOp
			if err := eachPageOp(b, func(op pageOp) { ops = append(ops, op) }); err != nil {
				t.Fatal(err)
			}
			if got := appendPageOps(nil, ops); len(ops) < pageSize && !bytes.Equal(got, b) {
				t.Errorf("%x holds %v, which encodes to %x", b, ops, got)
			}
		}
	})
}

func BenchmarkDecodePage(b *testing.B) {
	value := appendPage(nil, somePage())
	var words [pageSize]uint16
	n := 0
	for b.Loop() {
		if err := decodePage(value, &words); err != nil {
			b.Fatal(err)
		}
		n += pageSize
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "resources/s")
}

func BenchmarkAppendPageOps(b *testing.B) {
	var value []byte
	n := 0
	for b.Loop() {
		value = appendPageOps(value[:0], []pageOp{{slot: 700, word: 3}, {slot: 20, word: 1}})
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "operands/s")
}
