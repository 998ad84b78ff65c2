package graph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestACheckSaysWhyItCannotBeDone(t *testing.T) {
	g := newRig(t, Options{})
	g.edits("A", 3)
	try := func(fs vfs.FS, dir string, want error) {
		t.Helper()
		for _, repair := range []bool{false, true} {
			rep, err := Check(context.Background(), dir, CheckOptions{FS: fs, Cache: rigCache, Repair: repair})
			if !errors.Is(err, want) || rep.Found > 0 {
				t.Errorf("repair %t: %v, %+v, want %v", repair, err, rep, want)
			}
		}
	}
	try(g.fs, "store", ErrInUse)
	try(g.fs, "nothing", ErrNoStore)
	if err := g.fs.MkdirAll("empty", 0o755); err != nil {
		t.Fatal(err)
	}
	try(g.fs, "empty", ErrNoStore)
	for format, want := range map[byte]error{1: ErrOldFormat, formatVersion + 1: ErrFormat} {
		if err := g.s.db.Set(metaKey(metaFormat), []byte{format}, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		try(g.fs.CrashClone(vfs.CrashCloneCfg{}), "store", want)
	}
	if err := g.s.db.Set(metaKey(metaFormat), []byte{formatVersion}, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	if _, err := Check(ctx, "store", CheckOptions{FS: g.fs.CrashClone(vfs.CrashCloneCfg{}), Cache: rigCache, Progress: func(CheckProgress) { stop() }}); err != nil &&
		!errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// aStore is some edits on a disk, closed.
func aStore(t *testing.T) *vfs.MemFS {
	g := newRig(t, Options{})
	for i := range 300 {
		g.edit(fmt.Sprint("X", i%50), fmt.Sprint(i+10), "a")
		g.render(fmt.Sprint("D", i), "", "d", g.token(), saw(fmt.Sprint("X", i%50), fmt.Sprint(i+10)))
	}
	g.wait(time.Minute)
	if err := g.s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	g.close()
	fs := g.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	g.open()
	return fs
}

// flip changes one byte of the largest table of a copy of a store.
func flip(t *testing.T, fs *vfs.MemFS, at func(size int) int) *vfs.MemFS {
	t.Helper()
	fs = fs.CrashClone(vfs.CrashCloneCfg{})
	names, err := fs.List("store")
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var text []byte
	for _, n := range names {
		if !strings.HasSuffix(n, ".sst") {
			continue
		}
		f, err := fs.Open("store/" + n)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if len(b) > len(text) {
			name, text = n, b
		}
	}
	if name == "" {
		t.Fatal("there is no table")
	}
	text[at(len(text))] ^= 0x10
	f, err := fs.Create("store/"+name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestAByteThatFlippedIsFoundAndNeverGivesAWrongAnswer(t *testing.T) {
	fs := aStore(t)
	soundStore(t, fs)
	whole := contentOf(t, fs)
	rng := rand.New(rand.NewPCG(3, 3))
	found, times := 0, 60
	if raceDetector {
		times = 10
	}
	for range times {
		place := 0
		flipped := flip(t, fs, func(size int) int { place = rng.IntN(size); return place })
		for _, repair := range []bool{false, true} {
			rep, err := Check(context.Background(), "store", CheckOptions{FS: flipped, Cache: rigCache, Repair: repair})
			switch {
			case err == nil && rep.Found == 0:
				if got := contentOf(t, flipped); got != whole {
					t.Errorf("byte %d: a check finds nothing, and the store holds something else", place)
				}
			case err == nil && (rep.Left != 1 || !strings.Contains(rep.Findings[0].Wrong, "is damaged")):
				t.Errorf("byte %d: %+v", place, rep)
			default:
				found++
			}
		}
	}
	if found < 2*times*9/10 { // the rest is in what no checksum covers and nobody reads
		t.Errorf("%d of %d were found", found, 2*times)
	}
}

func TestAStoreThatRunsEndsWithABlockThatIsDamagedWhoeverReadsIt(t *testing.T) {
	s, err := Open("store", Options{FS: flip(t, aStore(t), func(int) int { return 100 }), Cache: rigCache})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error)
	go func() { ran <- s.Run(context.Background()) }()
	func() {
		defer func() { // as a handler of HTTP does
			if p := fmt.Sprint(recover()); !strings.Contains(p, "checksum mismatch") {
				t.Errorf("the read ends with %q", p)
			}
		}()
		err = s.scan(spaceRow, func(_, _ []byte) error { return nil }) // as any other read
		t.Errorf("the read goes on: %v", err)
	}()
	if err := <-ran; err == nil || !strings.Contains(err.Error(), "checksum mismatch") {
		t.Errorf("the store ends with %v", err)
	}
}

func contentOf(t *testing.T, fs *vfs.MemFS) string {
	t.Helper()
	db, err := pebble.Open("store", pebbleOptions(&Options{FS: fs.CrashClone(vfs.CrashCloneCfg{}), Cache: rigCache, Log: newStore(Options{}).log}))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for it.First(); it.Valid(); it.Next() {
		fmt.Fprintf(&b, "%q = %x\n", it.Key(), it.Value())
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
