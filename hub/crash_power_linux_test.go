package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ext4Shutdown ends all writing of a mounted ext4 at once, and noLogFlush
	// leaves out to write its journal first: what was not flushed is gone.
	// Source: Linux, fs/ext4/ext4.h, EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_NOLOGFLUSH.
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// A cuttableDisk is an ext4 in a file, whose power can be cut.
type cuttableDisk struct {
	t         *testing.T
	image     string
	dir       string // where it is mounted
	canaries  int    // power cuts
	unflushed string // name of what was written last and not flushed
}

// newCuttableDisk makes and mounts one. It is nil where the system gives that to
// nobody or not to us; then the test has logged what is left out.
func newCuttableDisk(t *testing.T) *cuttableDisk {
	t.Helper()
	d := &cuttableDisk{t: t, image: filepath.Join(t.TempDir(), "disk"), dir: t.TempDir()}
	mkfs := program(t, "mkfs.ext4", "mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4")
	err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, 1<<30))
	if out, made := exec.Command(mkfs, "-q", "-F", d.image).CombinedOutput(); err != nil || made != nil {
		t.Fatalf("making an ext4: %v, %v: %s", err, made, out)
	}
	if err := d.mount(); err != nil {
		// Continuous integration fails if a test is skipped, and cannot help it.
		if reason := fmt.Sprintf("left out, this system mounts no file for us: %v", err); os.Getenv("CI") == "true" {
			t.Log(reason)
		} else {
			t.Skip(reason)
		}
		return nil
	}
	t.Cleanup(d.unmount)
	return d
}

func (d *cuttableDisk) mount() error {
	out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (d *cuttableDisk) unmount() {
	d.t.Helper()
	// A process that was killed a moment ago may still be on its way out of it.
	for deadline := time.Now().Add(patience); ; pass(10 * time.Millisecond) {
		err := unix.Unmount(d.dir, 0)
		if err == nil {
			return
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			d.t.Fatalf("unmounting: %v", err)
		}
	}
}

// canary is what shows that a cut is one.
var canary = bytes.Repeat([]byte("written, but not on disk "), 1000)

// cut ends all writing, just after something was written and not flushed.
func (d *cuttableDisk) cut() {
	d.canaries++
	d.unflushed = filepath.Join(d.dir, fmt.Sprintf("canary-%d", d.canaries))
	err := os.WriteFile(d.unflushed, canary, 0o600)
	root, openErr := os.Open(d.dir)
	if err = errors.Join(err, openErr); err == nil {
		err = errors.Join(unix.IoctlSetPointerInt(int(root.Fd()), ext4Shutdown, noLogFlush), root.Close())
	}
	if err != nil {
		d.t.Errorf("cutting the power: %v", err)
	}
}

// back mounts the disk as it is after a cut.
func (d *cuttableDisk) back() {
	d.t.Helper()
	d.unmount()
	if err := d.mount(); err != nil {
		d.t.Fatalf("mounting again: %v", err)
	}
	if got, err := os.ReadFile(d.unflushed); err == nil && bytes.Equal(got, canary) {
		d.t.Errorf("what was not flushed is still there: cut %d was none", d.canaries)
	}
}

// hold stops all threads of a process, each when its call to the system has
// ended. A flush that is under way when ext4 is shut down may be answered like
// one that was made, although its transaction is dropped: of a plain program that
// appends and flushes, one cut in eight loses what was answered. Power that goes
// answers nobody.
func hold(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); pass(time.Millisecond) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		stopped := 0
		for _, thread := range threads {
			if stat, err := os.ReadFile(thread); err == nil && bytes.Contains(stat, []byte(") T ")) {
				stopped++
			}
		}
		if err != nil || len(threads) > 0 && stopped == len(threads) {
			return err
		}
	}
	return errors.New("the process does not stop")
}

func TestAPowerCutOfARealDiskLosesNothingThatWasAnswered(t *testing.T) {
	t.Parallel()
	d := newCuttableDisk(t)
	if d == nil {
		return
	}
	cuts := soakKills(t)
	ctx, leave := context.WithTimeout(context.Background(), patience+time.Duration(cuts)*10*time.Second)
	defer leave()
	readers, stopReading := context.WithCancel(ctx)
	defer stopReading()
	var reading sync.WaitGroup
	c := newCrashTrial(t, readers, &reading, "DATA="+d.dir, "MIN_FREE=0")
	c.cut = func() {
		pid := c.p.cmd.Process.Pid
		if err := hold(pid); err != nil {
			t.Error(err)
		}
		d.cut()
		// For a moment the hub goes on: whatever it still answers is a promise too.
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
		pass(time.Duration(d.canaries%3*10) * time.Millisecond)
	}
	for n := range cuts {
		c.live(ctx, n, func(c *crashTrial) { c.p.reap() })
		d.back()
		c.come(ctx)
		if t.Failed() {
			t.Fatalf("after cut %d, %s", n+1, deaths[n%len(deaths)].name)
		}
	}
	c.end(ctx, stopReading, &reading)
}
