package graph

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// recordsOf reads what is kept under a prefix.
func recordsOf(t tester, s *Store, prefix string) map[string]string {
	t.Helper()
	got := map[string]string{}
	if err := s.Records(prefix, func(key string, value []byte) error {
		got[key] = string(value)
		return nil
	}); err != nil {
		t.Fatalf("records %q: %v", prefix, err)
	}
	return got
}

func TestRecordsAreWhatWasPutLastOverRestarts(t *testing.T) {
	for seed := range seeds(t) {
		t.Run("seed="+strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 7))
			g := newRig(t, Options{})
			want := map[string]string{}
			some := func() (rs []Record) {
				for range 1 + rng.IntN(20) {
					r := Record{Key: fmt.Sprintf("%c/%d", 'a'+rng.IntN(3), rng.IntN(30))}
					if rng.IntN(3) > 0 {
						r.Value = []byte(fmt.Sprint(rng.Uint32()))[:rng.IntN(9)]
					}
					rs = append(rs, r)
				}
				return rs
			}
			for range 10 {
				g.loop(func(ctx context.Context, s *Store) {
					for range 30 {
						rs := some()
						if err := s.PutRecords(ctx, rs); err != nil {
							t.Fatal(err)
						}
						for _, r := range rs {
							if want[r.Key] = string(r.Value); r.Value == nil {
								delete(want, r.Key)
							}
						}
					}
				})
				g.crash(rng)
				for _, prefix := range []string{"", "a/", "b/1", "z"} {
					part := maps.Clone(want)
					maps.DeleteFunc(part, func(k, _ string) bool { return !strings.HasPrefix(k, prefix) })
					if got := recordsOf(t, g.s, prefix); !maps.Equal(got, part) {
						t.Fatalf("records %q: got %v, want %v", prefix, got, part)
					}
				}
			}
		})
	}
}

func TestRecordsBeyondTheirBoundsAreRefusedWhole(t *testing.T) {
	g := newRig(t, Options{})
	many := make([]Record, MaxRecords+1)
	for i := range many {
		many[i] = Record{Key: strconv.Itoa(i), Value: []byte{}}
	}
	large := slices.Repeat([]Record{{Key: "k", Value: make([]byte, MaxRecord)}}, MaxRecordBytes/MaxRecord)
	one := Record{Key: "one", Value: []byte("1")}
	g.loop(func(ctx context.Context, s *Store) {
		for name, c := range map[string]struct {
			records []Record
			item    int
			field   string
		}{
			"no key":         {[]Record{one, {Value: []byte("v")}}, 1, "key"},
			"a long key":     {[]Record{one, {Key: strings.Repeat("k", MaxRecordKey+1)}}, 1, "key"},
			"a large value":  {[]Record{one, one, {Key: "k", Value: make([]byte, MaxRecord+1)}}, 2, "value"},
			"too many":       {many, MaxRecords, "records"},
			"large together": {large, len(large) - 1, "records"},
		} {
			var bad *InvalidError
			if err := s.PutRecords(ctx, c.records); !errors.As(err, &bad) || bad.Item != c.item || bad.Field != c.field {
				t.Errorf("%s: got %v, want item %d, %s", name, err, c.item, c.field)
			}
		}
		if got := recordsOf(t, s, ""); len(got) > 0 {
			t.Errorf("of what was refused %d records were written", len(got))
		}
		for name, rs := range map[string][]Record{
			"none": nil, "as many as may be": many[1:], "as large as may be": large[1:],
			"the longest key": {{Key: strings.Repeat("k", MaxRecordKey), Value: []byte{}}},
		} {
			if err := s.PutRecords(ctx, rs); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := recordsOf(t, s, ""); len(got) != MaxRecords+2 {
			t.Errorf("%d records were written, want %d", len(got), MaxRecords+2)
		}
	})
	g.loop(func(ctx context.Context, s *Store) {
		ended, end := context.WithCancel(ctx)
		end()
		if err := s.PutRecords(ended, []Record{one}); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("after its context ended a call says %v", err)
		}
	})
	if err := g.s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := g.s.PutRecords(context.Background(), []Record{one}); !errors.Is(err, ErrClosed) {
		t.Errorf("a store that is closed says %v", err)
	}
	g.open()
}

func TestOnADiskThatIsNearlyFullRecordsAreChangedAndNoneIsAdded(t *testing.T) {
	g := newRig(t, Options{MinFree: 80 << 20})
	g.loop(func(ctx context.Context, s *Store) {
		put := func(full bool, rs ...Record) {
			t.Helper()
			var short *NoSpaceError
			if err := s.PutRecords(ctx, rs); errors.As(err, &short) != full || err != nil && !full {
				t.Errorf("putting %v: %v, want it refused: %t", rs, err, full)
			}
		}
		v := func(s string) []byte { return []byte(s) }
		put(false, Record{"a", v("1")}, Record{"b", v("1")}, Record{"c", v("1")})
		freeBytes(g.fs, 80<<20-1)
		if _, err := s.lookAtSpace(); err != nil {
			t.Fatal(err)
		}
		put(true, Record{"d", v("2")})
		put(true, Record{"a", v("2")}, Record{"b", nil}, Record{"d", v("2")})
		want := map[string]string{"a": "1", "b": "1", "c": "1"}
		if got := recordsOf(t, s, ""); !maps.Equal(got, want) {
			t.Errorf("of what was refused something was written: %v", got)
		}
		put(false, Record{"a", v("a value that is longer")}, Record{"b", nil}, Record{"none", nil})
		put(true, Record{"b", v("3")})
		want = map[string]string{"a": "a value that is longer", "c": "1"}
		if got := recordsOf(t, s, ""); !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		freeBytes(g.fs, 1<<30)
		if _, err := s.lookAtSpace(); err != nil {
			t.Fatal(err)
		}
		put(false, Record{"d", v("4")})
	})
}

func TestManyCallersOfRecordsShareACommit(t *testing.T) {
	const callers = 64
	g := newRig(t, Options{})
	commits := g.s.db.Metrics().WAL.BytesIn
	one := []*request{{apply: func(t *txn) { t.putRecords([]Record{{"k", []byte("v")}}) }, done: make(chan error, 1)}}
	if err := g.s.stepSync(0, one); err != nil {
		t.Fatal(err)
	}
	single := g.s.db.Metrics().WAL.BytesIn - commits
	var all sync.WaitGroup
	for i := range callers { // they come while the loop is not there
		all.Go(func() {
			if err := g.s.PutRecords(context.Background(), []Record{{"k", []byte("v")}}); err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	for len(g.s.queue) < callers {
		runtime.Gosched()
	}
	before := g.s.db.Metrics().WAL.BytesIn
	g.loop(func(context.Context, *Store) {
		all.Wait()
		// One commit has one head; the rest are 64 small records.
		if got := g.s.db.Metrics().WAL.BytesIn - before; got >= callers*single/2 {
			t.Errorf("the log took %d bytes for %d callers; one alone takes %d", got, callers, single)
		}
	})
}

// A recordKeeper puts its records again and again, all of them with one number.
type recordKeeper struct {
	name     string
	answered int
}

const keptTogether = 7

func (k *recordKeeper) put(ctx context.Context, t *testing.T, s *Store, quota int, enough chan<- struct{}, mu *sync.Mutex) {
	for n := 1; ; n++ {
		mu.Lock()
		number := k.answered + 1
		mu.Unlock()
		rs := make([]Record, keptTogether)
		for i := range rs {
			if rs[i].Key = fmt.Sprintf("%s/%d", k.name, i); number%5 > 0 {
				rs[i].Value = strconv.AppendInt(nil, int64(number), 10)
			}
		}
		rs = append(rs, Record{"number/" + k.name, strconv.AppendInt(nil, int64(number), 10)})
		switch err := s.PutRecords(ctx, rs); {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return
		case err != nil:
			t.Errorf("put: %v", err)
			return
		}
		mu.Lock()
		k.answered = number
		mu.Unlock()
		if n == quota {
			enough <- struct{}{}
		}
	}
}

// survived checks what a store holds of the keeper's records after a power cut.
func (k *recordKeeper) survived(t *testing.T, s *Store) {
	t.Helper()
	number := 0
	if v, ok := recordsOf(t, s, "number/"+k.name)["number/"+k.name]; ok {
		number, _ = strconv.Atoi(v)
	}
	if number < k.answered {
		t.Errorf("keeper %s: number %d is there, and %d was answered", k.name, number, k.answered)
	}
	got := recordsOf(t, s, k.name+"/")
	if want := keptTogether; number%5 == 0 && len(got) > 0 || number%5 > 0 && len(got) != want {
		t.Errorf("keeper %s: with number %d there are %v", k.name, number, got)
	}
	for key, v := range got {
		if v != strconv.Itoa(number) {
			t.Errorf("keeper %s: %s is of number %s, others of %d", k.name, key, v, number)
		}
	}
	k.answered = number
}

func TestRecordsThatWereAnsweredSurviveAPowerCutWhole(t *testing.T) {
	for seed := range seeds(t) {
		t.Run("seed="+strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 8))
			fs := vfs.NewCrashableMem()
			keepers := []*recordKeeper{{name: "a"}, {name: "b"}, {name: "c"}}
			for life := range lives {
				s, err := Open("store", Options{FS: fs, Cache: rigCache})
				if err != nil {
					t.Fatalf("open in life %d: %v", life, err)
				}
				for _, k := range keepers {
					k.survived(t, s)
				}
				ctx, stop := context.WithCancel(context.Background())
				var all sync.WaitGroup
				all.Go(func() {
					if err := s.Run(ctx); err != nil {
						t.Errorf("run: %v", err)
					}
				})
				var mu sync.Mutex
				enough, quota := make(chan struct{}, len(keepers)), 1+rng.IntN(30)
				for _, k := range keepers {
					all.Go(func() { k.put(ctx, t, s, quota, enough, &mu) })
				}
				<-enough
				mu.Lock()
				promised := make([]int, len(keepers))
				for i, k := range keepers {
					promised[i] = k.answered
				}
				mu.Unlock()
				clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
				stop()
				all.Wait()
				if err := s.Close(); err != nil {
					t.Fatalf("close: %v", err)
				}
				for i, k := range keepers {
					k.answered = promised[i]
				}
				fs = clone
				soundStore(t, fs)
				if t.Failed() {
					t.Fatalf("in life %d", life)
				}
			}
		})
	}
}

// BenchmarkRecords puts small records, as cursors of deliveries are: many callers
// with one each, and one with many.
func BenchmarkRecords(b *testing.B) {
	for _, c := range []struct{ callers, records int }{{1, 1}, {8, 1}, {64, 1}, {1, 500}} {
		b.Run(fmt.Sprintf("callers=%d/records=%d", c.callers, c.records), func(b *testing.B) {
			s := benchStore(b, Options{})
			floor := fsyncRate(b)
			share := b.N/c.callers/c.records + 1
			b.ResetTimer()
			var all sync.WaitGroup
			for n := range c.callers {
				all.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(n), 1))
					rs := make([]Record, c.records)
					for range share {
						for i := range rs {
							rs[i] = Record{fmt.Sprintf("bench/%d/%d", n, rng.IntN(10_000)), make([]byte, 100)}
						}
						if err := s.PutRecords(context.Background(), rs); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(share*c.callers*c.records)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(floor, "fsync/s")
		})
	}
}
