package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// blockSize is how many bytes are read at once.
const blockSize = 1 << 20

// Progress is told how many bytes of how many are done. It may be nil.
type Progress func(done, total int64)

// work reads files and counts what it has read.
type work struct {
	ctx         context.Context
	fs          vfs.FS
	block       []byte
	done, total int64
	tell        Progress
}

func newWork(ctx context.Context, fs vfs.FS, total int64, tell Progress) *work {
	return &work{ctx: ctx, fs: fs, block: make([]byte, blockSize), total: total, tell: tell}
}

// passed counts bytes that are done.
func (w *work) passed(n int64) {
	w.done += n
	if w.tell != nil {
		w.tell(w.done, w.total)
	}
}

// read passes the bytes of a file to each of to and returns their number and hash.
func (w *work) read(name string, to ...io.Writer) (size int64, sum string, err error) {
	f, err := w.fs.Open(name, vfs.SequentialReadsOption)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	var h hash.Hash = sha256.New()
	for {
		if err := w.ctx.Err(); err != nil {
			return size, "", err
		}
		n, err := f.Read(w.block)
		h.Write(w.block[:n])
		for _, out := range to {
			if _, err := out.Write(w.block[:n]); err != nil {
				return size, "", err
			}
		}
		size += int64(n)
		w.passed(int64(n))
		if errors.Is(err, io.EOF) {
			return size, hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return size, "", err
		}
	}
}

// copyFile copies one file, durably, and returns the size and hash of what it read.
func (w *work) copyFile(from, to string) (size int64, sum string, err error) {
	f, err := w.fs.Create(to, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, "", err
	}
	size, sum, err = w.read(from, f)
	return size, sum, errors.Join(err, f.Sync(), f.Close())
}

// check reports a file that is not as the manifest of the backup in dir has it.
func check(dir string, want File, size int64, sum string) error {
	switch {
	case size != want.Size:
		return &CorruptError{dir, want.Name, fmt.Sprintf("has %d bytes and should have %d", size, want.Size)}
	case sum != want.SHA256:
		return &CorruptError{dir, want.Name, "does not have the SHA-256 that it had"}
	}
	return nil
}

// Verify reads the backup in dir and reports as a [CorruptError] what is not as it
// was written.
func Verify(ctx context.Context, fs vfs.FS, dir string, tell Progress) error {
	m, err := readManifest(fs, dir)
	if err != nil {
		return err
	}
	w := newWork(ctx, fs, m.Bytes(), tell)
	for _, f := range m.Files {
		if err := w.verify(dir, f); err != nil {
			return err
		}
	}
	return nil
}

// verify reads one file of the backup in dir.
func (w *work) verify(dir string, f File) error {
	name := w.fs.PathJoin(dir, storeName, f.Name)
	if _, err := w.fs.Stat(name); err != nil {
		return &CorruptError{dir, f.Name, "is missing"}
	}
	size, sum, err := w.read(name)
	if err != nil {
		return fmt.Errorf("backup %s: %w", dir, err)
	}
	return check(dir, f, size, sum)
}
