package graph

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// DefaultMinFree is the free disk, in bytes, below which writes are refused. What
	// was taken before must still find room: the log of four memtables of 64 MiB, the
	// tables they are flushed into, and two compactions that write their result beside
	// what they replace, about 100 MiB each. The rest is for what comes between two
	// looks and for a restart.
	DefaultMinFree = 1 << 30
	// spaceEvery is how often the disk is looked at.
	spaceEvery = time.Second
)

// NoSpaceError reports a write that was refused because the disk is nearly full.
// Nothing of it was applied. Reads go on, and so do writes that only take away:
// edges, members of lists, records. They are how room is made, and they need less
// than the floor keeps. All else waits until there is room again.
type NoSpaceError struct {
	Free  uint64 // bytes, when the disk was last looked at
	Floor uint64 // bytes below which writes are refused
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("the disk has %d bytes free, and nothing is written below %d", e.Free, e.Floor)
}

// space is how much room the disk had when it was last looked at. It is asked at
// the edges, like the clock: the apply loop is told.
type space struct {
	fs    vfs.FS
	dir   string
	floor uint64 // 0 = none
	free  atomic.Uint64
	short atomic.Bool
}

func newSpace(dir string, o *Options) *space {
	s := &space{fs: o.FS, dir: dir, floor: DefaultMinFree}
	if o.FS == nil {
		s.fs = vfs.Default
	}
	if o.MinFree != 0 {
		s.floor = uint64(max(o.MinFree, 0))
	}
	return s
}

// look asks the file system and reports whether the answer to who wants to write
// has turned. Room must have grown by an eighth of the floor before writes are
// taken again, or a flush here and a compaction there would turn it every second.
// Where the file system cannot tell, things stay as they are.
func (s *space) look() (turned bool, err error) {
	u, err := s.fs.GetDiskUsage(s.dir)
	if err != nil {
		return false, err
	}
	s.free.Store(u.AvailBytes)
	floor := s.floor
	if s.short.Load() {
		floor += floor / 8
	}
	short := u.AvailBytes < floor
	return s.short.Swap(short) != short, nil
}

// Room reports a [NoSpaceError] while the disk is too full to write.
func (s *Store) Room() error {
	if !s.space.short.Load() {
		return nil
	}
	return &NoSpaceError{Free: s.space.free.Load(), Floor: s.space.floor}
}

// lookAtSpace looks once, and says when the answer has turned.
func (s *Store) lookAtSpace() (turned bool, err error) {
	if turned, err = s.space.look(); !turned {
		return false, err
	}
	if err := s.Room(); err != nil {
		s.log.Warn("the disk is nearly full: writes are refused", "free", s.space.free.Load(), "floor", s.space.floor)
	} else {
		s.log.Info("the disk has room again: writes are taken", "free", s.space.free.Load(), "floor", s.space.floor)
	}
	return true, nil
}

// watchSpace looks again and again until ctx ends, and wakes who waits for room.
func (s *Store) watchSpace(ctx context.Context, wake chan<- struct{}) {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if turned, _ := s.lookAtSpace(); turned {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
}
