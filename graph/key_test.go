package graph

import (
	"bytes"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestKeysAreWrittenAsOthersReadThem(t *testing.T) {
	checkGolden(t, "keys", []goldenCase{
		{"uri", uriKey("https://en.example.org/wiki/Berlin#exists")},
		{"name", idKey(spaceName, 0x0102030405)},
		{"row", idKey(spaceRow, 1)},
		{"posting", idKey(spacePosting, 0xffffffffff)},
		{"posting bucket", bucketKey(7, 0x010203)},
		{"page", pageKey(0x01020304)},
		{"marker", markerKey(1, 2)},
		{"journal", seqKey(spaceJournal, 0x0102030405060708)},
		{"seen day", seenDay(20_000)},
		{"job", seqKey(spaceJob, 3)},
		{"timer", timerKey(0x0102030405060708, 9)},
		{"group", groupKey("https://en.example.org/wiki/Berlin", 0x010203)},
		{"record", recordKey("c/1")},
		{"members", membersKey(0x01020304, 0x050607)},
		{"on a list", listedKey(0x0102030405, 0x06070809)},
		{"marked", markedKey(0x01020304, 0x0506070809)},
		{"block", blockKey(0x0102030405060708)},
		{"dropped", listKey(listDropped, 0x01020304)},
		{"orphan", orphanKey(0x0102030405060708, 5)},
		{"free", idKey(spaceFree, 5)},
		{"account", seqKey(spaceAccount, 7)},
		{"meta", metaKey(metaEpoch)},
	})
}

func TestIDsInKeysSortAsNumbersAndReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.Uint64Range(0, 1<<40-1)
		a, b := ID(gen.Draw(t, "a")), ID(gen.Draw(t, "b"))
		ka, kb := idKey(spaceRow, a), idKey(spaceRow, b)
		if got := parseID(ka[1:]); got != a {
			t.Fatalf("%d reads back as %d", a, got)
		}
		if (bytes.Compare(ka, kb) < 0) != (a < b) {
			t.Fatalf("keys of %d and %d sort the other way round", a, b)
		}
	})
}

func TestAfterIsTheEndOfAPrefix(t *testing.T) {
	for _, tt := range []struct{ prefix, want []byte }{
		{[]byte("R"), []byte("S")},
		{[]byte{'R', 0xff}, []byte{'S'}},
		{[]byte{0xff, 0xff}, nil},
	} {
		if got := after(tt.prefix); !bytes.Equal(got, tt.want) {
			t.Errorf("after %x: got %x, want %x", tt.prefix, got, tt.want)
		}
	}
}

// sampleRow has every field.
func sampleRow() *row {
	r := &row{id: 9, flags: rowHeard | rowKnown | rowArtefact, typ: "html", version: "1182", hash: "9e1c",
		previous: []string{"1181", "77aa"}, aliases: []string{"1183"}, presumed: "0", at: 1_700_000_000_000_000, changed: 88_121,
		changedAt: 1_700_000_000_000_001, updated: 88_122, digest: math.MaxUint64, buckets: []string{"https://en.example.org/wiki/Berlin"},
		expires: 3, born: 4, noticeDue: 5, flapSince: 6, flaps: 7, interval: 8, refreshed: 9, ahead: []ID{3, 1}, lease: 10, claim: 11,
		failures: 12, owner: 13}
	r.setDeps([]ID{1, 2, 300, 1 << 39})
	return r
}

func TestARowReadsBackAndItsBytesAreKept(t *testing.T) {
	r := sampleRow()
	b := r.append(nil)
	checkGolden(t, "row", []goldenCase{{"a row with every field", b}})
	got, err := decodeRow(r.id, b)
	if err != nil {
		t.Fatal(err)
	}
	if again := got.append(nil); !bytes.Equal(again, b) {
		t.Errorf("reads back as %x, want %x", again, b)
	}
	if got := encodedDigest(b); got != r.digest {
		t.Errorf("digest alone reads as %x, want %x", got, r.digest)
	}
	for n := range b {
		if cut, err := decodeRow(r.id, b[:n]); err == nil && bytes.Equal(cut.append(nil), b) {
			t.Errorf("%d of %d bytes read as the whole row", n, len(b))
		}
	}
}

func TestAJobAndATimerReadBack(t *testing.T) {
	j := &job{id: 4, kind: jobSettle, x: 7, cause: cause{id: 7, seq: 8, uid: "01J", at: 9}, lane: Bulk, pass: 1, pos: 12,
		again: true, total: 100, reached: 50, emitted: 40, began: 11, paused: true, rate: 1000}
	b := j.append(nil)
	got, err := decodeJob(4, b)
	if err != nil || !bytes.Equal(got.append(nil), b) {
		t.Errorf("job %x reads back as %+v, %v", b, got, err)
	}
	m := timer{kind: timerRetry, due: 77, ref: 5, chunk: chunk{kind: KindRefresh, attempt: 2, at: 3, ids: []ID{4}}}
	b = m.append(nil)
	back, err := decodeTimer(timerKey(77, 1), b)
	if err != nil || back.due != 77 || !bytes.Equal(back.append(nil), b) {
		t.Errorf("timer %x reads back as %+v, %v", b, back, err)
	}
	checkGolden(t, "job", []goldenCase{{"a job that settles", j.append(nil)}, {"a retry timer", b}})
}

func FuzzRow(f *testing.F) {
	f.Add(sampleRow().append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRow(1, b)
		if err != nil {
			return
		}
		if got := encodedDigest(r.append(nil)); got != r.digest {
			t.Errorf("digest alone of %x reads as %x, want %x", b, got, r.digest)
		}
		again, err := decodeRow(1, r.append(nil))
		if err != nil || !bytes.Equal(again.append(nil), r.append(nil)) {
			t.Errorf("%x reads as %+v, which reads back as %+v, %v", b, r, again, err)
		}
		for _, id := range r.depIDs() {
			_ = r.dependsOn(id)
		}
	})
}

func FuzzJobAndTimer(f *testing.F) {
	f.Add((&job{kind: jobChange, cause: cause{uid: "x"}}).append(nil))
	f.Add((&timer{kind: timerNotice, chunk: chunk{ids: []ID{1}}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := decodeJob(1, b); err == nil {
			if again, err := decodeJob(1, j.append(nil)); err != nil || !bytes.Equal(again.append(nil), j.append(nil)) {
				t.Errorf("job %x does not read back: %v", b, err)
			}
		}
		if m, err := decodeTimer(timerKey(1, 1), b); err == nil {
			if again, err := decodeTimer(timerKey(1, 1), m.append(nil)); err != nil || !bytes.Equal(again.append(nil), m.append(nil)) {
				t.Errorf("timer %x does not read back: %v", b, err)
			}
		}
	})
}
