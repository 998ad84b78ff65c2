package bulk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph/bulk"
)

// keyShapes are ways in which keys are alike.
var keyShapes = map[string]func(rng *rand.Rand) string{
	"numbers": func(rng *rand.Rand) string { return fmt.Sprintf("%08d", rng.IntN(1e8)) },
	"long with a common start": func(rng *rand.Rand) string {
		return fmt.Sprintf("https://en.wiki.example/wiki/%d#%d", rng.IntN(300), rng.IntN(100))
	},
	"zeros at the end": func(rng *rand.Rand) string {
		return string(bytes.Repeat([]byte{byte(rng.IntN(2))}, 1+rng.IntN(8))) + string(make([]byte, rng.IntN(40)))
	},
	"prefixes of each other": func(rng *rand.Rand) string { return string(bytes.Repeat([]byte("ab"), 600))[:rng.IntN(1200)] },
}

func TestRecordsComeOutInTheOrderOfTheirKeys(t *testing.T) {
	for name, key := range keyShapes {
		for _, budget := range []int{1 << 30, 20_000, 1} {
			t.Run(fmt.Sprintf("%s/budget=%d", name, budget), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, uint64(budget)))
				fs := vfs.NewMem()
				s := bulk.NewSorter(fs, "run", budget)
				want := map[string]string{}
				n := 5000
				if budget == 1 {
					n = 50 // each has a run of its own
				}
				for range n {
					k := key(rng)
					if _, twice := want[k]; twice {
						continue
					}
					want[k] = fmt.Sprint(rng.IntN(1000))
					if err := s.Add([]byte(k), []byte(want[k])); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 { // it may be read again
					read(t, s, want)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if left, err := fs.List(""); err != nil || len(left) > 0 {
					t.Errorf("files %v are left, %v", left, err)
				}
			})
		}
	}
}

// read compares what s yields with want.
func read(t *testing.T, s *bulk.Sorter, want map[string]string) {
	t.Helper()
	it, err := s.Iter()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if !it.Next() || string(it.Key()) != k || string(it.Value()) != want[k] {
			t.Fatalf("got %q = %q, want %q = %q", it.Key(), it.Value(), k, want[k])
		}
	}
	if it.Next() {
		t.Errorf("%q follows the last", it.Key())
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestARunThatIsCutOffIsAnError(t *testing.T) {
	fs := vfs.NewMem()
	s := bulk.NewSorter(fs, "run", 1000)
	for i := range 200 {
		if err := s.Add(fmt.Appendf(nil, "%03d", i), []byte("value")); err != nil {
			t.Fatal(err)
		}
	}
	f, err := fs.Create("run.1", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("no run")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	it, err := s.Iter()
	for err == nil && it.Next() {
	}
	if err == nil {
		err = it.Close()
	}
	if err == nil {
		t.Error("no error")
	}
}

func TestATextKeepsItsNumber(t *testing.T) {
	d := bulk.NewDictionary(20_000)
	text := func(i int) string { return fmt.Sprint("https://a.example/", i, string(make([]byte, i%bulk.MaxText/2))) }
	for range 2 {
		for i := range 20_000 {
			n, err := d.Add(text(i), bulk.Hash(text(i)))
			if err != nil || n != uint32(i+1) {
				t.Fatalf("text %d has number %d, %v", i, n, err)
			}
		}
	}
	for i := range 20_000 {
		if string(d.Text(uint32(i+1))) != text(i) || d.Find(text(i)) != uint32(i+1) {
			t.Fatalf("number %d is %q", i+1, d.Text(uint32(i+1)))
		}
	}
	if n := d.Find("another"); n != 0 {
		t.Errorf("a text that was not added has number %d", n)
	}
	if _, err := d.Add("another", bulk.Hash("another")); err != bulk.ErrFull {
		t.Errorf("one more: got %v, want %v", err, bulk.ErrFull)
	}
}

func TestTextsWithOneHashAreToldApart(t *testing.T) {
	d := bulk.NewDictionary(100)
	for i := range 100 {
		if n, err := d.Add(fmt.Sprint(i%50), 7); err != nil || n != uint32(i%50+1) {
			t.Fatalf("text %d has number %d, %v", i%50, n, err)
		}
	}
}

func TestTablesAreTakenInByAStore(t *testing.T) {
	fs := vfs.NewMem()
	o := &pebble.Options{FS: fs}
	db, err := pebble.Open("store", o)
	if err != nil {
		t.Fatal(err)
	}
	tables := bulk.NewTables(fs, "", o)
	const records = 10_000
	for _, space := range []byte("ba") {
		w := tables.Writer()
		for i := range records {
			if err := w.Set(fmt.Appendf([]byte{space}, "%08d", i), []byte("value")); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := tables.Writer().Close(); err != nil { // nothing was written
		t.Fatal(err)
	}
	if err := tables.Ingest(context.Background(), db); err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for it.First(); it.Valid(); it.Next() {
		if want := fmt.Sprintf("%c%08d", "ab"[n/records], n%records); string(it.Key()) != want || string(it.Value()) != "value" {
			t.Fatalf("record %d is %q = %q, want %q", n, it.Key(), it.Value(), want)
		}
		n++
	}
	if err := errors.Join(it.Error(), it.Close(), db.Close()); err != nil || n != 2*records {
		t.Errorf("%d records, want %d; %v", n, 2*records, err)
	}
}

func TestKeysOutOfOrderAreNotWritten(t *testing.T) {
	w := bulk.NewTables(vfs.NewMem(), "", &pebble.Options{}).Writer()
	if err := w.Set([]byte("b"), nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Set([]byte("a"), nil); err == nil {
		t.Error("a follows b")
	}
	_ = w.Close() // it says so again, or not
}
