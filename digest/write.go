package digest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"path"
	"runtime"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

const (
	// minCoded is the size in bytes from which on a file has codings: a shorter one goes
	// out in one packet anyway.
	minCoded = 256
	// zstdWindow bounds the memory of whoever decodes, in bytes; browsers refuse more.
	// Source: RFC 9659.
	zstdWindow = 8 << 20
	// denseUpTo is the size in bytes up to which files are coded as densely as possible.
	// That takes a second for 10 MB; beyond it an hour would be late.
	denseUpTo = 16 << 20
	// smallUpTo is the size in bytes up to which the densest coding gains nothing over one
	// with smaller tables.
	smallUpTo = 256 << 10
	// bufferSize is what files are written in, in bytes.
	bufferSize = 256 << 10
)

// Codings of HTTP that files are kept in, and how their names end.
const (
	Gzip = "gzip"
	Zstd = "zstd"
)

var codingSuffix = map[string]string{Gzip: ".gz", Zstd: ".zst"}

// A draft is a file of a digest while it is written.
type draft struct {
	file  vfs.File
	to    *bufio.Writer
	sum   hash.Hash
	size  int64
	about File
}

// create begins a file in the folder of a digest that is not whole yet.
func (d disk) create(folder string, about File) (*draft, error) {
	f, err := d.FS.Create(path.Join(folder, about.Href), diskCategory)
	if err != nil {
		return nil, err
	}
	w := &draft{file: f, sum: sha256.New(), about: about, to: writers.Get().(*bufio.Writer)}
	w.to.Reset(countingFile{w})
	return w, nil
}

// writers are used again and again: most files are smaller than their buffer.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}

// release gives back what files are written with.
func (w *draft) release() {
	w.to.Reset(nil)
	writers.Put(w.to)
	w.to = nil
}

// A countingFile sums up what goes to the file of a draft.
type countingFile struct{ *draft }

func (c countingFile) Write(b []byte) (int, error) {
	c.sum.Write(b) // first: a file may change what it is given
	n, err := c.file.Write(b)
	c.size += int64(n)
	return n, err
}

func (w *draft) Write(b []byte) (int, error) { return w.to.Write(b) }

// end makes the file durable and says what it is.
func (w *draft) end() (File, error) {
	err := w.to.Flush()
	if err == nil {
		err = w.file.Sync()
	}
	err = errors.Join(err, w.file.Close())
	w.release()
	w.about.Size, w.about.SHA256 = w.size, hex.EncodeToString(w.sum.Sum(nil))
	return w.about, err
}

// abandon ends what will not be used.
func (w *draft) abandon() {
	w.file.Close()
	w.release()
}

// A binder codes the files of a digest, a few at once, while others are being written.
type binder struct {
	d      disk
	folder string
	coded  int64 // size in bytes from which on they are
	work   *errgroup.Group
	ctx    context.Context

	mu    sync.Mutex
	files []*File // in the order in which they were added
}

func (a *Archive) bind(ctx context.Context, folder string) *binder {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, runtime.GOMAXPROCS(0)))
	return &binder{d: a.d, folder: folder, coded: a.coded, work: g, ctx: ctx}
}

// add takes a file that was written. It waits while enough are being coded.
func (b *binder) add(f File) {
	kept := &f
	b.mu.Lock()
	b.files = append(b.files, kept)
	b.mu.Unlock()
	if f.Size < b.coded {
		return
	}
	kept.Codings = make([]Coded, 2)
	for i, coding := range []string{Gzip, Zstd} {
		b.work.Go(func() (err error) {
			kept.Codings[i], err = b.d.code(b.ctx, b.folder, kept, coding)
			return err
		})
	}
}

// end waits for all of them, and lists the files by role and part.
func (b *binder) end() ([]File, error) {
	if err := b.work.Wait(); err != nil {
		return nil, err
	}
	rank := map[string]int{RoleNDJSON: 0, RoleAtom: 1, RoleJSONFeed: 2, RoleChangeList: 3}
	slices.SortStableFunc(b.files, func(x, y *File) int { return rank[x.Role] - rank[y.Role] })
	list := make([]File, len(b.files))
	for i, f := range b.files {
		list[i] = *f
	}
	return list, nil
}

// code writes a file once more in a coding. The bytes depend on those of the file alone.
func (d disk) code(ctx context.Context, folder string, f *File, coding string) (Coded, error) {
	from, err := d.Open(path.Join(folder, f.Href), vfs.SequentialReadsOption)
	if err != nil {
		return Coded{}, err
	}
	defer from.Close()
	w, err := d.create(folder, File{Href: f.Href + codingSuffix[coding]})
	if err != nil {
		return Coded{}, err
	}
	pool := coderOf(coding, f.Size)
	encode := pool.Get().(coder)
	encode.Reset(w)
	buffer := buffers.Get().(*[bufferSize]byte)
	_, err = io.CopyBuffer(struct{ io.Writer }{encode}, withContext{ctx, from}, buffer[:])
	buffers.Put(buffer)
	err = errors.Join(err, encode.Close())
	encode.Reset(nil)
	pool.Put(encode)
	if err != nil {
		w.abandon()
		return Coded{}, err
	}
	made, err := w.end()
	return Coded{Coding: coding, Href: made.Href, Size: made.Size, SHA256: made.SHA256}, err
}

// buffers are what files are read into.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// A coder is what makes a coding. It is used again and again, because the tables of a
// dense one take milliseconds to be made.
type coder interface {
	io.WriteCloser
	Reset(io.Writer)
}

// coders has them by coding, for files that are small, large, and very large.
var coders = map[string][3]*sync.Pool{
	Gzip: {gzipPool(gzip.BestCompression), gzipPool(gzip.BestCompression), gzipPool(gzip.DefaultCompression)},
	Zstd: {zstdPool(zstd.SpeedBetterCompression, smallUpTo), zstdPool(zstd.SpeedBestCompression, zstdWindow), zstdPool(zstd.SpeedDefault, zstdWindow)},
}

func coderOf(coding string, size int64) *sync.Pool {
	switch {
	case size <= smallUpTo:
		return coders[coding][0]
	case size <= denseUpTo:
		return coders[coding][1]
	}
	return coders[coding][2]
}

func gzipPool(level int) *sync.Pool {
	return &sync.Pool{New: func() any {
		w, err := gzip.NewWriterLevel(nil, level)
		if err != nil {
			panic(err) // the level is known
		}
		return w
	}}
}

func zstdPool(level zstd.EncoderLevel, window int) *sync.Pool {
	return &sync.Pool{New: func() any {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are known
		}
		return w
	}}
}

// withContext reads until its context ends.
type withContext struct {
	ctx context.Context
	io.Reader
}

func (r withContext) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}
