package graph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// freeBytes makes a disk in memory say how much of it is free.
func freeBytes(fs *vfs.MemFS, n uint64) {
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 40, UsedBytes: 1<<40 - n})
}

func TestBelowTheFloorOnlyWhatTakesAwayIsWritten(t *testing.T) {
	const floor = 80 << 20
	var log bytes.Buffer
	g := newRig(t, Options{MinFree: floor, inline: -1, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))})
	g.edit("X", "10", "a")
	for d := range 5 {
		g.render(fmt.Sprint("D", d), "", "d", g.token(), saw("X", "10"))
	}
	g.editList(ListEdit{List: 7, Add: []string{named("D0"), named("D1"), named("D2")}, Key: "k", Record: func(Cursor) []byte { return []byte("v") }})
	g.editList(ListEdit{List: 8, Add: []string{named("D0")}})
	g.drain()
	g.loop(func(ctx context.Context, s *Store) {
		set := func(free uint64, short bool) {
			freeBytes(g.fs, free)
			s.lookAtSpace()
			var full *NoSpaceError
			err := s.Room()
			if errors.As(err, &full) != short || short && (full.Free != free || full.Floor != floor) {
				t.Errorf("with %d bytes free Room is %v, want it short: %t", free, err, short)
			}
		}
		set(floor-1, true)
		before := g.dump()
		for name, write := range map[string]func() error{
			"an update": func() error { _, err := s.Apply(ctx, "p", []Update{{URI: named("X"), Version: "11"}}); return err },
			"a delete": func() error {
				_, err := s.Apply(ctx, "p", []Update{{URI: named("D4"), Action: ActionDelete}})
				return err
			},
			"a new edge": func() error {
				_, err := s.EditDependencies(ctx, LocalPublisher, named("D0"), EdgeEdit{Add: []string{named("Y")}})
				return err
			},
			"a swap": func() error {
				_, err := s.EditDependencies(ctx, LocalPublisher, named("D0"), EdgeEdit{Clear: true, Add: []string{named("Y")}})
				return err
			},
			"a claim":      func() error { _, err := s.Claim(ctx, []string{named("D0")}, time.Minute); return err },
			"a new member": func() error { _, err := s.EditList(ctx, ListEdit{List: 7, Add: []string{named("D3")}}); return err },
			"a record": func() error {
				_, err := s.EditList(ctx, ListEdit{Key: "n", Record: func(Cursor) []byte { return nil }})
				return err
			},
			"a retry":       func() error { return s.Retry(ctx, named("D0")) },
			"a given claim": func() error { return s.ReleaseClaim(ctx, "00000001.1", false) },
		} {
			if full := (*NoSpaceError)(nil); !errors.As(write(), &full) {
				t.Errorf("%s is not refused", name)
			}
		}
		if after := g.dump(); after != before {
			t.Errorf("what is refused has been written:\n%s", after)
		}
		if ns, _, err := s.ReadFrom(ctx, s.Oldest(), 100); err != nil || len(ns) != 6 {
			t.Errorf("the journal reads as %d notices, %v; want 6", len(ns), err)
		}
		for name, write := range map[string]func() error{
			"taking an edge": func() error {
				_, err := s.EditDependencies(ctx, LocalPublisher, named("D1"), EdgeEdit{Remove: []string{named("X")}})
				return err
			},
			"taking edges": func() error {
				_, err := s.EditDependencies(ctx, LocalPublisher, named("D0"), EdgeEdit{Clear: true})
				return err
			},
			"taking dependents": func() error { _, err := s.ForgetDependents(ctx, named("X")); return err },
			"taking a member":   func() error { _, err := s.EditList(ctx, ListEdit{List: 7, Remove: []string{named("D2")}}); return err },
			"taking a list":     func() error { _, err := s.EditList(ctx, ListEdit{Drop: []ListID{8}, Key: "k"}); return err },
		} {
			if err := write(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		set(floor+floor/8-1, true)
		set(floor+floor/8, false)
		if _, err := s.Apply(ctx, "p", []Update{{URI: named("X"), Version: "11"}}); err != nil {
			t.Errorf("with room again an update is refused: %v", err)
		}
		set(floor, false)
	})
	g.drain()
	if got := g.dependents("X"); len(got) != 0 {
		t.Errorf("after they were forgotten %v depend on X", got)
	}
	if got := fmt.Sprint(g.members(7), g.members(8)); got != fmt.Sprint([]string{named("D0"), named("D1")}, []string{}) {
		t.Errorf("the lists hold %s", got)
	}
	if full, room := strings.Count(log.String(), "writes are refused"), strings.Count(log.String(), "writes are taken"); full != 1 || room != 1 {
		t.Errorf("that the disk is full is logged %d times, that it has room %d times, want once each:\n%s", full, room, log.String())
	}
}

func TestWhileTheDiskIsNearlyFullFanOutsAndTimersWaitAndRoomIsMade(t *testing.T) {
	const n = 40
	g := newRig(t, Options{chunk: 3, inline: -1, KeepAge: time.Minute})
	for _, x := range []string{"X", "Y"} {
		g.edit(x, "10", "a")
		for d := range n {
			g.render(fmt.Sprint(x, d), "", "d", g.token(), saw(x, "10"))
		}
	}
	g.render("hourly", "", "d", g.token(), Dep{URI: "ticker:PT1H"})
	g.editList(ListEdit{List: 7, Add: []string{named("X0"), named("X1")}})
	g.drain()
	g.s.tellRoom(true)
	g.edit("X", "11", "b")
	before, oldest := g.token(), g.s.Oldest()
	g.editList(ListEdit{Drop: []ListID{7}})
	forget := func(t *txn) {
		y, _ := t.find(named("Y"))
		t.startJob(y, jobForget, cause{id: y, at: t.now})
		t.drain()
	}
	if err := g.s.stepSync(g.now().UnixMicro(), []*request{{apply: forget}}); err != nil {
		t.Fatal(err)
	}
	g.wait(3 * time.Hour)
	if got := g.token(); got != before {
		t.Errorf("the journal grew from %s to %s on a disk that is nearly full", before, got)
	}
	if jobs := g.s.Jobs(); len(jobs) != 1 || jobs[0].URI != named("X") || jobs[0].Reached != 0 {
		t.Errorf("the jobs are %+v, want that of X where it began", jobs)
	}
	if got := g.dependents("Y"); len(got) != 0 {
		t.Errorf("%d dependents of Y are not forgotten", len(got))
	}
	if got := g.members(7); len(got) != 0 {
		t.Errorf("a dropped list still has %v", got)
	}
	if g.s.Oldest() == oldest {
		t.Error("the journal is not trimmed")
	}
	g.s.tellRoom(false)
	g.wait(time.Minute)
	for d := range n {
		g.want(fmt.Sprint("X", d), Ready, 1)
	}
	g.want("hourly", Ready, 1)
}

// fullDisk is a disk in memory that has no room after a number of writes.
type fullDisk struct {
	*vfs.MemFS
	left  atomic.Int64
	fired atomic.Bool
}

func (d *fullDisk) fs() vfs.FS {
	return errorfs.Wrap(d.MemFS, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpCreate, errorfs.OpFilePreallocate:
			if d.left.Add(-1) < 0 {
				d.fired.Store(true)
				return syscall.ENOSPC
			}
		}
		return nil
	}))
}

func TestAFullDiskStopsTheStoreAndTakesNothingBack(t *testing.T) {
	for n := range int64(12) {
		t.Run(fmt.Sprint("writes=", n), func(t *testing.T) {
			d := &fullDisk{MemFS: vfs.NewCrashableMem()}
			d.left.Store(1 << 40)
			s, err := Open("store", Options{FS: d.fs(), Cache: rigCache})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- s.Run(t.Context()) }()
			d.left.Store(n)
			acknowledged := 0
			for ; err == nil; acknowledged++ {
				_, err = s.Apply(t.Context(), "p", []Update{{URI: named("X"), Version: fmt.Sprint(acknowledged + 1)},
					{URI: named("D"), Hash: fmt.Sprint(acknowledged + 1), Deps: []Dep{saw("X", fmt.Sprint(acknowledged+1))}}})
			}
			acknowledged--
			if err := <-ended; !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the store ends with %v, want that there is no room", err)
			}
			if _, err := s.Apply(t.Context(), "p", []Update{{URI: named("X")}}); !errors.Is(err, ErrClosed) {
				t.Errorf("after the end an update is answered %v, want %v", err, ErrClosed)
			}
			if !d.fired.Load() {
				t.Fatal("the disk was never full")
			}
			left := d.CrashClone(vfs.CrashCloneCfg{})
			s.Close() // what it says of the log that it could not write was said already
			again, err := Open("store", Options{FS: left, Cache: rigCache})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			x, err1 := again.Resource(named("X"))
			made, err2 := again.Resource(named("D"))
			if acknowledged == 0 && errors.Is(err1, ErrUnknown) && errors.Is(err2, ErrUnknown) {
				return
			}
			if err1 != nil || err2 != nil || x.Version != made.Hash {
				t.Errorf("half of an update is there: X is %q, D is made from %q (%v, %v)", x.Version, made.Hash, err1, err2)
			}
			if x.Version != fmt.Sprint(acknowledged) && x.Version != fmt.Sprint(acknowledged+1) {
				t.Errorf("X is at %s, and %d was acknowledged", x.Version, acknowledged)
			}
		})
	}
}
