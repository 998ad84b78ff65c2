package bulk

import (
	"context"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// maxTable bounds a file in bytes: the size Pebble gives its own at the
	// bottom of a large store.
	maxTable = 128 << 20
	// sizeEvery is how many records pass between two looks at a file's size.
	sizeEvery = 256
)

// Tables are files of records for an empty store. Several writers may fill them
// at once, each with a range of keys of its own.
type Tables struct {
	fs     vfs.FS
	dir    string
	format sstable.WriterOptions

	mu    sync.Mutex
	paths []string
}

// NewTables makes tables in a folder, as a store with these options has them at
// its bottom.
func NewTables(fs vfs.FS, dir string, o *pebble.Options) *Tables {
	o = o.Clone()
	o.EnsureDefaults()
	bottom := len(o.Levels) - 1
	return &Tables{fs: fs, dir: dir, format: o.MakeWriterOptions(bottom, o.FormatMajorVersion.MaxTableFormat())}
}

// path gives the next file its name.
func (t *Tables) path() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.fs.PathJoin(t.dir, fmt.Sprintf("%06d.sst", len(t.paths)))
	t.paths = append(t.paths, p)
	return p
}

// Ingest moves all tables into the store, at one moment and durably. Their
// writers are closed.
func (t *Tables) Ingest(ctx context.Context, db *pebble.DB) error {
	if len(t.paths) == 0 {
		return nil
	}
	return db.Ingest(ctx, t.paths)
}

// Writer writes records in the order of their keys. Not safe for concurrent use.
type Writer struct {
	t     *Tables
	w     *sstable.Writer // nil between two files
	count int
}

// Writer returns one for a range of keys that no other has.
func (t *Tables) Writer() *Writer { return &Writer{t: t} }

// Set writes a record; its key is greater than that of the one before.
func (w *Writer) Set(key, value []byte) error {
	if w.w == nil {
		f, err := w.t.fs.Create(w.t.path(), vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		w.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), w.t.format)
	}
	if err := w.w.Set(key, value); err != nil {
		return err
	}
	if w.count++; w.count%sizeEvery == 0 && w.w.Raw().EstimatedSize() >= maxTable {
		return w.Close()
	}
	return nil
}

// Close makes durable what was written. It may be called more than once.
func (w *Writer) Close() error {
	if w.w == nil {
		return nil
	}
	t := w.w
	w.w = nil
	return t.Close()
}
