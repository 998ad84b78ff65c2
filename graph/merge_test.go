package graph

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// One key of each kind of merged value.
var (
	coldKey   = idKey(spacePosting, 7)
	hotKey    = bucketKey(7, 0x010203)
	memberKey = groupKey("https://en.example.org/wiki/Berlin", 0)
	stateKey  = pageKey(9)
)

// mergeOlder folds operands, given oldest first, as Pebble does when it reads
// forwards: from the newest on.
func mergeOlder(key []byte, includesBase bool, operands ...[]byte) ([]byte, error) {
	return mergeFrom(len(operands)-1, key, includesBase, operands)
}

// mergeNewer folds operands from the oldest on, as Pebble does in reverse.
func mergeNewer(key []byte, includesBase bool, operands ...[]byte) ([]byte, error) {
	return mergeFrom(0, key, includesBase, operands)
}

// mergeFrom begins at operand i, takes the older ones and then the newer ones.
// It overwrites each operand after it was taken, as its owner may.
func mergeFrom(i int, key []byte, includesBase bool, operands [][]byte) ([]byte, error) {
	lend := func(take func([]byte) error, operand []byte) error {
		lent := slices.Clone(operand)
		defer func() {
			for i := range lent {
				lent[i] ^= 0xff
			}
		}()
		return take(lent)
	}
	var m pebble.ValueMerger
	err := lend(func(b []byte) (err error) { m, err = merger.Merge(key, b); return err }, operands[i])
	if err != nil {
		return nil, err
	}
	for _, o := range slices.Backward(operands[:i]) {
		if err := lend(m.MergeOlder, o); err != nil {
			return nil, err
		}
	}
	for _, o := range operands[i+1:] {
		if err := lend(m.MergeNewer, o); err != nil {
			return nil, err
		}
	}
	b, _, err := m.Finish(includesBase)
	return b, err
}

// mergeKind is a kind of merged value and how the plain map that models it, of
// ids or slots and their words, is written and read. The word of an id that is
// in a posting block is 1.
type mergeKind struct {
	name   string
	key    []byte
	limit  uint64
	ops    func(ops []modelOp) []byte
	set    func(model map[uint64]uint16) []byte
	decode func(b []byte) (map[uint64]uint16, error)
}

// modelOp gives an id or slot a word; 0 removes it.
type modelOp struct {
	id   uint64
	word uint16
}

func applyOps(model map[uint64]uint16, ops []modelOp) {
	for _, op := range ops {
		if op.word == 0 {
			delete(model, op.id)
		} else {
			model[op.id] = op.word
		}
	}
}

func encodePostingOps(ops []modelOp) []byte {
	var l []postingOp
	for _, op := range ops {
		l = append(l, postingOp{id: op.id, add: op.word != 0})
	}
	return appendPostingOps(nil, l)
}

func present(ids []uint64, err error) (map[uint64]uint16, error) {
	model := map[uint64]uint16{}
	for _, id := range ids {
		model[id] = 1
	}
	return model, err
}

func bucketKind(name string, key []byte) mergeKind {
	return mergeKind{name, key, bucketSize, encodePostingOps,
		func(model map[uint64]uint16) []byte {
			return appendBucket(nil, lowsOf(slices.Sorted(maps.Keys(model))))
		},
		func(b []byte) (map[uint64]uint16, error) { return present(decodeBucket(b, 0, nil)) },
	}
}

var mergeKinds = []mergeKind{
	{"cold posting", coldKey, idLimit, encodePostingOps,
		func(model map[uint64]uint16) []byte {
			return appendPosting(nil, slices.Sorted(maps.Keys(model)))
		},
		func(b []byte) (map[uint64]uint16, error) { return present(decodePosting(b, nil)) },
	},
	bucketKind("hot posting", hotKey),
	bucketKind("group", memberKey),
	{"page", stateKey, pageSize,
		func(ops []modelOp) []byte {
			var l []pageOp
			for _, op := range ops {
				l = append(l, pageOp{slot: uint16(op.id), word: op.word})
			}
			return appendPageOps(nil, l)
		},
		func(model map[uint64]uint16) []byte {
			var words [pageSize]uint16
			for slot, word := range model {
				words[slot] = word
			}
			return appendPage(nil, &words)
		},
		func(b []byte) (map[uint64]uint16, error) {
			var words [pageSize]uint16
			err := decodePage(b, &words)
			model := map[uint64]uint16{}
			for slot, word := range words {
				if word != 0 {
					model[uint64(slot)] = word
				}
			}
			return model, err
		},
	},
}

// drawOps draws ops on few ids, so that they meet, at both ends of the range.
func (k mergeKind) drawOps(t *rapid.T) []modelOp {
	words := uint16(1)
	if k.limit == pageSize {
		words = 3
	}
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) modelOp {
		id := rapid.Uint64Range(0, 15).Draw(t, "id")
		if rapid.Bool().Draw(t, "high") {
			id = k.limit - 1 - id
		}
		return modelOp{id, rapid.Uint16Range(0, words).Draw(t, "word")}
	}), 0, 6).Draw(t, "ops")
}

// drawSet draws a set; of a bucket now and then one at the edge between list and
// bitmap, of a page one with each slot in use.
func (k mergeKind) drawSet(t *rapid.T) map[uint64]uint16 {
	model := map[uint64]uint16{}
	if k.limit != idLimit && rapid.IntRange(0, 3).Draw(t, "dense") == 0 {
		for id := range min(k.limit, 8190) {
			model[id] = 1
		}
	}
	applyOps(model, k.drawOps(t))
	return model
}

// drawOperands draws merge operands, oldest first, and applies them to model.
func (k mergeKind) drawOperands(t *rapid.T, model map[uint64]uint16) [][]byte {
	var operands [][]byte
	for range rapid.IntRange(1, 8).Draw(t, "operands") {
		if rapid.IntRange(0, 9).Draw(t, "set") == 0 {
			set := k.drawSet(t)
			clear(model)
			maps.Copy(model, set)
			operands = append(operands, k.set(set))
			continue
		}
		ops := k.drawOps(t)
		applyOps(model, ops)
		operands = append(operands, k.ops(ops))
	}
	return operands
}

// fold merges operands in a drawn order of association; the oldest of them may
// be known to be so early or late.
func (k mergeKind) fold(t *rapid.T, includesBase bool, operands [][]byte) []byte {
	for {
		from, to := 0, len(operands)
		last := rapid.Bool().Draw(t, "last")
		if !last {
			from = rapid.IntRange(0, len(operands)-1).Draw(t, "from")
			to = rapid.IntRange(from+1, len(operands)).Draw(t, "to")
		}
		base := includesBase && from == 0 && (last || rapid.Bool().Draw(t, "base"))
		group := operands[from:to]
		b, err := mergeFrom(rapid.IntRange(0, len(group)-1).Draw(t, "first"), k.key, base, group)
		if err != nil {
			t.Fatalf("merge of %x: %v", group, err)
		}
		if last {
			return b
		}
		operands = slices.Replace(slices.Clone(operands), from, to, b)
	}
}

func (k mergeKind) check(t *rapid.T, what string, b []byte, want map[uint64]uint16) {
	got, err := k.decode(b)
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("%s: got %d entries %.300v, %v; want %d %.300v", what, len(got), got, err, len(want), want)
	}
}

func TestMergeInAnyAssociationEqualsAMap(t *testing.T) {
	for _, k := range mergeKinds {
		t.Run(k.name, rapid.MakeCheck(func(t *rapid.T) {
			want := map[uint64]uint16{}
			operands := k.drawOperands(t, want)
			b := k.fold(t, true, operands)
			k.check(t, fmt.Sprintf("operands %.200x", operands), b, want)
			if set := k.set(want); !bytes.Equal(b, set) {
				t.Fatalf("operands %.200x fold to %.200x; the same set is written %.200x", operands, b, set)
			}
		}))
	}
}

func TestPartialMergeKeepsRemovalsForAnOlderSet(t *testing.T) {
	for _, k := range mergeKinds {
		t.Run(k.name, rapid.MakeCheck(func(t *rapid.T) {
			want := k.drawSet(t)
			base := k.set(want)
			operands := k.drawOperands(t, want)
			partial := k.fold(t, false, operands)
			b, err := mergeOlder(k.key, false, base, partial)
			if err != nil {
				t.Fatal(err)
			}
			k.check(t, fmt.Sprintf("set %.100x, operands %.200x", base, operands), b, want)
		}))
	}
}

func TestBothReadingDirectionsAgree(t *testing.T) {
	for _, k := range mergeKinds {
		t.Run(k.name, rapid.MakeCheck(func(t *rapid.T) {
			operands := k.drawOperands(t, map[uint64]uint16{})
			base := rapid.Bool().Draw(t, "base")
			older, err1 := mergeOlder(k.key, base, operands...)
			newer, err2 := mergeNewer(k.key, base, operands...)
			if err1 != nil || err2 != nil || !bytes.Equal(older, newer) {
				t.Fatalf("operands %.200x: got %.200x, %v forwards and %.200x, %v in reverse", operands, older, err1, newer, err2)
			}
		}))
	}
}

func TestABurstOfOpsEqualsAMap(t *testing.T) {
	for _, k := range mergeKinds {
		for _, includesBase := range []bool{true, false} {
			rnd := rand.New(rand.NewPCG(3, 4))
			want := map[uint64]uint16{}
			for range 500 {
				want[rnd.Uint64N(min(k.limit, 4000))] = 1
			}
			base := k.set(want)
			var operands [][]byte
			for range 4 * burst {
				op := modelOp{rnd.Uint64N(min(k.limit, 4000)), uint16(rnd.IntN(2))}
				applyOps(want, []modelOp{op})
				operands = append(operands, k.ops([]modelOp{op}))
			}
			b, err := mergeOlder(k.key, false, operands...)
			if includesBase {
				b, err = mergeOlder(k.key, true, append([][]byte{base}, operands...)...)
			} else if err == nil {
				b, err = mergeOlder(k.key, true, base, b)
			}
			if err != nil || !bytes.Equal(b, k.set(want)) {
				t.Errorf("%s, base in the burst %t: got %.100x, %v; want %.100x", k.name, includesBase, b, err, k.set(want))
			}
		}
	}
}

func TestMergeToNothingIsAnEmptyValueAndNoDeletion(t *testing.T) {
	for _, k := range mergeKinds {
		m, err := merger.Merge(k.key, k.ops([]modelOp{{3, 1}}))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := m.(pebble.DeletableValueMerger); ok {
			t.Errorf("%s: merges to a deletion, under which older operands come back", k.name)
		}
		if err := m.MergeNewer(k.ops([]modelOp{{3, 0}})); err != nil {
			t.Fatal(err)
		}
		if b, _, err := m.Finish(true); err != nil || b == nil || len(b) != 0 {
			t.Errorf("%s: got %x, %v; want an empty value", k.name, b, err)
		}
	}
}

func TestASetHidesAllThatIsOlder(t *testing.T) {
	for _, k := range mergeKinds {
		for name, set := range map[string]map[uint64]uint16{"empty": {}, "not empty": {5: 1}} {
			operands := [][]byte{k.ops([]modelOp{{1, 1}}), k.set(set), k.ops([]modelOp{{2, 1}})}
			want := maps.Clone(set)
			want[2] = 1
			b, err := mergeOlder(k.key, false, operands...)
			if err != nil || !bytes.Equal(b, k.set(want)) {
				t.Errorf("%s, %s: got %x, %v; want %x", k.name, name, b, err, k.set(want))
			}
		}
	}
}

func TestMergeRefusesMalformedOperands(t *testing.T) {
	bitmap := appendBucket(nil, everyNth[uint16](0, 1, bucketSize))
	good := appendPostingOps(nil, []postingOp{addID(1)})
	for _, c := range []struct {
		name    string
		key     []byte
		operand []byte
		good    []byte
	}{
		{"unknown format", coldKey, []byte{9}, good},
		{"a bitmap in a cold block", coldKey, bitmap, good},
		{"a list cut off", coldKey, []byte{blockList, 2, 1}, good},
		{"a change cut off", coldKey, []byte{blockOps, 2, 1}, good},
		{"a count of seven before a run of eight", coldKey, []byte{blockList, 7, 0, 0, 0, 0, 0, 0, 0, 0}, good},
		{"a delta in more bytes than it needs", coldKey, []byte{blockList, 1, 0x81, 0x80, 0x00}, good},
		{"unknown format in a bucket", hotKey, []byte{9}, good},
		{"a bitmap cut off", hotKey, bitmap[:100], good},
		{"a bitmap with a byte more", memberKey, append(slices.Clone(bitmap), 0), good},
		{"an id beyond the bucket", hotKey, appendPosting(nil, []uint64{bucketSize}), good},
		{"an op beyond the bucket", memberKey, appendPostingOps(nil, []postingOp{addID(bucketSize)}), good},
		{"a page of unknown format", stateKey, []byte{9}, appendPageOps(nil, nil)},
		{"a page cut off", stateKey, []byte{pageFull, 0}, appendPageOps(nil, nil)},
		{"page ops cut off", stateKey, []byte{pageSome, 1, 0}, appendPageOps(nil, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, operands := range [][][]byte{{c.operand}, {c.operand, c.good}} {
				for _, includesBase := range []bool{true, false} {
					b, err := mergeOlder(c.key, includesBase, operands...)
					if !errors.Is(err, errMalformed) {
						t.Errorf("%d operands forwards: got %x, %v; want %v", len(operands), b, err, errMalformed)
					}
					if b, err = mergeNewer(c.key, includesBase, operands...); !errors.Is(err, errMalformed) {
						t.Errorf("%d operands in reverse: got %x, %v; want %v", len(operands), b, err, errMalformed)
					}
				}
			}
		})
	}
}

func TestMergeRefusesKeysOfOtherSpaces(t *testing.T) {
	for name, key := range map[string][]byte{
		"no key":                       nil,
		"a row":                        idKey(spaceRow, 7),
		"a posting key of other width": append(slices.Clone(coldKey), 0),
		"a group without bucket":       {spaceBucket, 0, 1},
	} {
		if _, err := merger.Merge(key, appendPostingOps(nil, nil)); !errors.Is(err, errMalformed) {
			t.Errorf("%s: got %v, want %v", name, err, errMalformed)
		}
	}
}

// mergeStore is a Pebble store and a plain map of what it should hold.
type mergeStore struct {
	fs   *vfs.MemFS
	db   *pebble.DB
	want []map[uint64]uint16 // by position in mergeKinds; nil where there is no key
	// A snapshot keeps operands apart that a compaction would fold.
	snapshot     *pebble.Snapshot
	snapshotWant []map[uint64]uint16
}

func openMergeStore(t *rapid.T, fs *vfs.MemFS) *pebble.DB {
	db, err := pebble.Open("", &pebble.Options{
		FS: fs, Merger: merger, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{},
		DisableAutomaticCompactions: rapid.Bool().Draw(t, "manual compactions"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// write draws a write to one key, does it, and does it to the map.
func (s *mergeStore) write(t *rapid.T) error {
	i := rapid.IntRange(0, len(mergeKinds)-1).Draw(t, "key")
	k := mergeKinds[i]
	switch rapid.IntRange(0, 11).Draw(t, "write") {
	case 0:
		set := k.drawSet(t)
		s.want[i] = set
		return s.db.Set(k.key, k.set(set), nil)
	case 1:
		s.want[i] = nil
		return s.db.Delete(k.key, nil)
	case 2:
		s.want[i] = nil
		return s.db.DeleteRange(k.key, append(slices.Clone(k.key), 0), nil)
	case 3:
		set := k.drawSet(t)
		s.want[i] = set
		return s.db.Merge(k.key, k.set(set), nil)
	}
	ops := k.drawOps(t)
	model := maps.Clone(s.want[i])
	if model == nil {
		model = map[uint64]uint16{}
	}
	applyOps(model, ops)
	s.want[i] = model
	return s.db.Merge(k.key, k.ops(ops), nil)
}

// step does one drawn thing that changes the store or the shape it is kept in.
func (s *mergeStore) step(t *rapid.T) error {
	switch rapid.IntRange(0, 19).Draw(t, "step") {
	case 0, 1, 2:
		return s.db.Flush()
	case 3:
		return s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false)
	case 4:
		if s.snapshot != nil {
			err := s.snapshot.Close()
			s.snapshot = nil
			return err
		}
		s.snapshot, s.snapshotWant = s.db.NewSnapshot(), slices.Clone(s.want)
	case 5:
		if s.snapshot != nil {
			return nil
		}
		if err := s.db.Close(); err != nil {
			return err
		}
		s.db = openMergeStore(t, s.fs)
	default:
		return s.write(t)
	}
	return nil
}

func (s *mergeStore) check(t *rapid.T) {
	checkReader(t, s.db, s.want)
	if s.snapshot != nil {
		checkReader(t, s.snapshot, s.snapshotWant)
	}
}

// checkReader compares every key, read alone and by iteration both ways.
func checkReader(t *rapid.T, r pebble.Reader, want []map[uint64]uint16) {
	it, err := r.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	forwards, backwards := map[string][]byte{}, map[string][]byte{}
	for it.First(); it.Valid(); it.Next() {
		forwards[string(it.Key())] = slices.Clone(it.Value())
	}
	for it.Last(); it.Valid(); it.Prev() {
		backwards[string(it.Key())] = slices.Clone(it.Value())
	}
	if err := it.Error(); err != nil {
		t.Fatal(err)
	}
	for i, k := range mergeKinds {
		value, closer, err := r.Get(k.key)
		if want[i] == nil {
			if !errors.Is(err, pebble.ErrNotFound) || forwards[string(k.key)] != nil || backwards[string(k.key)] != nil {
				t.Fatalf("%s: got %x, %v; want no key", k.name, value, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
		k.check(t, k.name+" read alone", value, want[i])
		k.check(t, k.name+" read forwards", forwards[string(k.key)], want[i])
		k.check(t, k.name+" read in reverse", backwards[string(k.key)], want[i])
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMergerInPebbleEqualsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &mergeStore{fs: vfs.NewMem(), want: make([]map[uint64]uint16, len(mergeKinds))}
		s.db = openMergeStore(t, s.fs)
		defer func() {
			if s.snapshot != nil {
				s.snapshot.Close()
			}
			if err := s.db.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if err := s.step(t); err != nil {
				t.Fatal(err)
			}
			s.check(t)
		}
	})
}

func BenchmarkMerge(b *testing.B) {
	full := appendBucket(nil, everyNth[uint16](0, 1, bucketSize))
	half := appendBucket(nil, lowsOf(randomIDs(bucketSize/2, bucketSize)))
	sparse := appendBucket(nil, lowsOf(randomIDs(6000, bucketSize)))
	cold := appendPosting(nil, randomIDs(2048, 10_000_000))
	few := appendPosting(nil, randomIDs(20, 10_000_000))
	page := appendPage(nil, somePage())
	for _, c := range []struct {
		name         string
		key, base    []byte
		limit        uint64
		ops          int
		includesBase bool
	}{
		{"bucket/ids=65536/ops=1", hotKey, full, bucketSize, 1, true},
		{"bucket/ids=32768/ops=1000", hotKey, half, bucketSize, 1000, true},
		{"bucket/ids=6000/ops=1", hotKey, sparse, bucketSize, 1, true},
		{"bucket/ids=0/ops=50000", hotKey, nil, bucketSize, 50000, true},
		{"bucket/partial/ops=50000", hotKey, nil, bucketSize, 50000, false},
		{"cold/ids=20/ops=1", coldKey, few, 10_000_000, 1, true},
		{"cold/ids=2048/ops=1", coldKey, cold, 10_000_000, 1, true},
		{"cold/ids=2048/ops=100", coldKey, cold, 10_000_000, 100, true},
		{"cold/partial/ops=5", coldKey, nil, 10_000_000, 5, false},
		{"page/ops=1", stateKey, page, pageSize, 1, true},
		{"page/ops=100", stateKey, page, pageSize, 100, true},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkMerge(b, c.key, c.base, c.limit, c.ops, c.includesBase) })
	}
}

// benchmarkMerge folds operands of one op each into base, newest first.
func benchmarkMerge(b *testing.B, key, base []byte, limit uint64, ops int, includesBase bool) {
	operands := make([][]byte, ops)
	for i := range operands {
		id := uint64(i) * 0x9e3779b97f4a7c15 >> 24 % limit
		if key[0] == spacePage {
			operands[i] = appendPageOps(nil, []pageOp{{slot: uint16(id), word: uint16(i)}})
		} else {
			operands[i] = appendPostingOps(nil, []postingOp{{id: id, add: i%2 == 0}})
		}
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		m, err := merger.Merge(key, operands[0])
		for i := 1; i < len(operands) && err == nil; i++ {
			err = m.MergeOlder(operands[i])
		}
		if err == nil && includesBase {
			err = m.MergeOlder(base)
		}
		if err == nil {
			_, _, err = m.Finish(includesBase)
		}
		if err != nil {
			b.Fatal(err)
		}
		n += ops
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "ops/s")
}
