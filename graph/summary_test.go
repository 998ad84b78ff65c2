package graph

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

func TestASummaryHasEveryKeyPutIntoItAndFewOthers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 5, 100, 10_000} {
		keys := make([]Key, n)
		for i := range keys {
			keys[i] = PrefixKey(fmt.Sprint(rnd.Uint64()))
		}
		s := newSummary(keys)
		for _, k := range keys {
			if !s.has(k) {
				t.Fatalf("of %d keys %x is missing", n, k)
			}
		}
		wrong := 0
		for i := range 10_000 {
			if s.has(HostKey(fmt.Sprint(i))) {
				wrong++
			}
		}
		if wrong > 200 {
			t.Errorf("of 10,000 keys that are not among %d, %d seem to be", n, wrong)
		}
	}
}

// blocks is a rig whose journal has n lone notices, each block of another host.
func blocks(t *testing.T, n int) *rig {
	g := newRig(t, Options{TailBytes: 1, KeepAge: time.Hour})
	g.unchecked = raceDetector
	for i := 0; i < n; i += 1000 {
		var us []Update
		for k := i; k < min(n, i+1000); k++ {
			us = append(us, Update{URI: blockURI(k + 1), Type: fmt.Sprint("t", (k+1)>>blockShift), Hash: "h"})
		}
		if _, err := g.s.applyNow(g.now(), "test", us); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func blockURI(seq int) string {
	return fmt.Sprintf("https://h%d.example/wiki/%d", seq>>blockShift, seq)
}

// scanOf reads the whole journal by keys, and tells how many notices it was given
// and which positions fit.
func (g *rig) scanOf(p *Pick, limit int, fits func(n *Notice) bool) (given int, fitting []uint64) {
	g.t.Helper()
	for _, n := range g.scanned(p, g.s.Oldest(), limit) {
		given++
		if fits(&n) {
			fitting = append(fitting, n.Cursor.Seq)
		}
	}
	return given, fitting
}

func TestWholeBlocksThatWereReadForKeysAreSkippedAfterwards(t *testing.T) {
	const n = 3<<blockShift + 100
	for _, limit := range []int{1000, 1 << blockShift, 777} {
		for name, p := range map[string]Pick{
			"by host":           {Keys: [][]Key{{HostKey("h1.example")}}},
			"by prefix":         {Keys: [][]Key{{PrefixKey("https://h1.example/wiki")}}},
			"by type":           {Keys: [][]Key{{TypeKey("t1"), TypeKey("none")}, {HostKey("h1.example")}}},
			"of changes only":   {Kinds: 1 << KindChanged, Keys: [][]Key{{HostKey("h1.example")}}},
			"of refreshes only": {Kinds: 1 << KindRefresh, Keys: [][]Key{{HostKey("h1.example")}}},
		} {
			t.Run(fmt.Sprintf("%s/limit=%d", name, limit), func(t *testing.T) {
				t.Parallel()
				g := blocks(t, n)
				fits := func(n *Notice) bool { return Host(n.URI) == "h1.example" }
				var want []uint64
				for seq := uint64(1 << blockShift); seq < 2<<blockShift && p.Kinds != 1<<KindRefresh; seq++ {
					want = append(want, seq)
				}
				first := p
				given, got := g.scanOf(&first, limit, fits)
				if all := n; p.Kinds == 1<<KindRefresh && given != 0 || p.Kinds != 1<<KindRefresh && given != all || !slices.Equal(got, want) {
					t.Errorf("the first scan gives %d notices, %d that fit, want %d", given, len(got), len(want))
				}
				for range 2 {
					again := p
					given, got = g.scanOf(&again, limit, fits)
					if given > len(want)+101 || !slices.Equal(got, want) {
						t.Errorf("a later scan gives %d notices, %d that fit; want %d and at most %d", given, len(got), len(want), len(want)+101)
					}
					g.crash(nil)
				}
			})
		}
	}
}

func TestABlockThatIsNotCompleteIsNotSummedUp(t *testing.T) {
	g := blocks(t, 1<<blockShift-2)
	p := Pick{Keys: [][]Key{{HostKey("late.example")}}}
	g.scanned(&p, g.s.Oldest(), 1000)
	g.apply(Update{URI: "https://late.example/", Hash: "h"}, Update{URI: "https://h0.example/2", Hash: "h"})
	q := Pick{Keys: p.Keys}
	if _, got := g.scanOf(&q, 1000, func(n *Notice) bool { return Host(n.URI) == "late.example" }); len(got) != 1 {
		t.Errorf("got %v, want the late notice", got)
	}
}

func TestOnAFullDiskSummariesAreNotWritten(t *testing.T) {
	g := blocks(t, 2<<blockShift)
	freeBytes(g.fs, 1)
	if _, err := g.s.lookAtSpace(); err != nil {
		t.Fatal(err)
	}
	before := g.dump()
	scan := func() int {
		p := Pick{Keys: [][]Key{{HostKey("late.example")}}}
		given, _ := g.scanOf(&p, 1000, func(*Notice) bool { return false })
		return given
	}
	all, again := scan(), scan()
	if g.dump() != before {
		t.Error("a reader has written to a disk that is nearly full")
	}
	if again >= all {
		t.Errorf("a later scan gives %d notices of %d: the summaries are not kept in memory", again, all)
	}
	freeBytes(g.fs, 1<<40)
	if _, err := g.s.lookAtSpace(); err != nil {
		t.Fatal(err)
	}
	g.s.summaries.Purge()
	scan()
	if g.dump() == before {
		t.Error("with room again no summary is written")
	}
}

func TestSummariesGoWithTheJournal(t *testing.T) {
	g := blocks(t, 2<<blockShift)
	count := func() (n int) {
		if err := g.s.scanPrefix([]byte{spaceList, listBlock}, func([]byte, []byte) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	g.scanned(&Pick{Keys: [][]Key{{HostKey("none.example")}}}, g.s.Oldest(), 1000)
	if got := count(); got != 2 {
		t.Errorf("%d blocks are summed up, want 2", got)
	}
	for range 3 {
		g.wait(time.Hour)
		g.edits("X", 1)
	}
	if got := count(); got != 0 {
		t.Errorf("%d summaries are left of a journal that begins after %s", got, g.s.Oldest())
	}
}

func TestASummaryOfAnotherFormatIsMadeAnew(t *testing.T) {
	g := blocks(t, 1<<blockShift)
	for _, v := range [][]byte{{}, {summaryFormat}, {summaryFormat + 1, 0, 0}} {
		if err := g.s.db.Set(blockKey(0), v, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		g.s.summaries.Purge()
		fits := func(n *Notice) bool { return n.Cursor.Seq == 7 }
		if _, got := g.scanOf(&Pick{Keys: [][]Key{{PrefixKey(blockURI(7))}}}, 1000, fits); len(got) != 1 {
			t.Errorf("%x: got %v, want position 7", v, got)
		}
		g.crash(nil)
		if b, err := g.s.summaryOf(0); err != nil || len(b) < 100 {
			t.Errorf("%x: the summary is %d bytes, %v", v, len(b), err)
		}
	}
}

func TestABlockOfWhichAPartWasLeftOutIsNotSummedUp(t *testing.T) {
	g := blocks(t, 1<<blockShift)
	p := Pick{Keys: [][]Key{{HostKey("h0.example")}}}
	if _, _, err := g.s.Scan(&p, g.s.Oldest(), 1000); err != nil {
		t.Fatal(err)
	}
	g.scanned(&p, Cursor{g.s.epoch, 2000}, 1000)
	if sum, err := g.s.summaryOf(0); sum != nil || err != nil {
		t.Errorf("a block read but for a thousand positions has a summary of %d bytes, %v", len(sum), err)
	}
	g.scanned(&p, g.s.Oldest(), 1000)
	if sum, err := g.s.summaryOf(0); sum == nil || err != nil {
		t.Errorf("read whole it has none, %v", err)
	}
}
