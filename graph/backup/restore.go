package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph"
)

// ErrOccupied reports a restore to where a store is.
var ErrOccupied = errors.New("there is a store already; move it away, or restore to another folder")

// RestoreOptions configures a restore. The zero value of each field is its default.
type RestoreOptions struct {
	// Link has tables linked to those of the backup instead of copied. They then share
	// the fate of one disk.
	Link     bool
	Store    graph.Options // with what the store is opened; its FS is the one that is restored on
	Progress Progress
}

// Restored tells what a restore made.
type Restored struct {
	Manifest
	// Cursor is where the journal goes on: at the position of the backup, in an epoch
	// that no store had.
	Cursor graph.Cursor
}

// Restore makes the store in dir, which must not be there, of the backup in from.
// Each byte is checked before it has its place, and so is the new epoch: an
// interrupted restore leaves no store in dir, and once it returns nil the store is
// durable. Damage is a [CorruptError].
func Restore(ctx context.Context, fs vfs.FS, from, dir string, o RestoreOptions) (res Restored, err error) {
	if _, err := fs.Stat(dir); err == nil {
		return res, fmt.Errorf("%s: %w", dir, ErrOccupied)
	}
	m, err := readManifest(fs, from)
	if err != nil {
		return res, err
	}
	res.Manifest = m
	part := dir + ".restoring"
	if err := errors.Join(fs.RemoveAll(part), makeDir(fs, part)); err != nil {
		return res, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, fs.RemoveAll(part))
		}
	}()
	w := newWork(ctx, fs, m.Bytes(), o.Progress)
	for _, f := range m.Files {
		if err := w.restore(from, part, f, o.Link); err != nil {
			return res, err
		}
	}
	if err := errors.Join(syncDir(fs, part), syncDir(fs, fs.PathDir(dir))); err != nil {
		return res, err
	}
	o.Store.FS = fs
	was, now, err := graph.Renew(part, o.Store)
	if err != nil {
		return res, err
	}
	if was.String() != m.Position {
		return res, &CorruptError{from, manifestName, fmt.Sprintf("says %s, and the store is at %s", m.Position, was)}
	}
	res.Cursor = now
	if err := errors.Join(syncDir(fs, part), fs.Rename(part, dir)); err != nil {
		return res, err
	}
	return res, syncDir(fs, fs.PathDir(dir))
}

// restore puts one file of the backup in from to its place.
func (w *work) restore(from, dir string, f File, link bool) error {
	source, to := w.fs.PathJoin(from, storeName, f.Name), w.fs.PathJoin(dir, f.Name)
	if link && isTable(f.Name) {
		return errors.Join(w.verify(from, f), vfs.LinkOrCopy(w.fs, source, to))
	}
	if _, err := w.fs.Stat(source); err != nil {
		return &CorruptError{from, f.Name, "is missing"}
	}
	size, sum, err := w.copyFile(source, to)
	if err != nil {
		return fmt.Errorf("backup %s: %w", from, err)
	}
	return check(from, f, size, sum)
}
