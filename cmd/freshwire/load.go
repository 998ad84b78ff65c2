package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/klauspost/compress/zstd"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const (
	// batchLines is how many updates go into one batch: enough for a commit to
	// the disk to cost little, few enough for the batch to be answered at once.
	batchLines = 500
	// batchBytes bounds a batch in bytes, half of what a hub takes in one body.
	batchBytes = 8 << 20
	// maxLine bounds one update in bytes: a hub takes 65,536 dependencies, of
	// about 100 bytes each.
	maxLine = 16 << 20
	// reportEvery is how often progress is told where there is no terminal.
	reportEvery = 10 * time.Second
)

func (c *cli) load() *cobra.Command {
	var restart bool
	cmd := &cobra.Command{
		Use:   "load FILE.ndjson[.gz|.zst]",
		Short: "send a file of updates to the hub",
		Long: `Sends a file of updates, one JSON object a line, in batches of up to 500. Each batch
is applied whole or not at all.

An interrupted load goes on where it stopped when it is started again; the place is
kept in the user's cache directory until the file is done. Updates that carry an id
may safely be sent twice: the hub counts them as duplicates.`,
		Example: `  freshwire load renderings.ndjson.zst
  freshwire load --restart renderings.ndjson.zst   # from the beginning`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			return c.loadFile(cmd.Context(), hub, list[0], restart)
		},
	}
	cmd.Flags().BoolVar(&restart, "restart", false, "begin with the first line, whatever was loaded before")
	return c.chooseOutput(cmd)
}

// loadFile sends the file, from where an earlier load of it stopped.
func (c *cli) loadFile(ctx context.Context, hub *client.Client, name string, restart bool) error {
	f, err := openUpdates(name)
	if err != nil {
		return err
	}
	defer f.Close()
	place, err := findBookmark(name, hub.URL(), f.info)
	if err != nil {
		return err
	}
	if restart {
		err = place.forget()
	} else if place.Lines > 0 {
		err = c.resume(ctx, hub, f, place)
	}
	if err != nil {
		return err
	}

	began := time.Now()
	shown := c.newProgress(f.info.Size())
	total, err := f.send(ctx, hub, place, shown)
	shown.stop()
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		if place.Lines > 0 {
			err = fmt.Errorf("%w\n  %d lines are loaded; the same command goes on from there", err, place.Lines)
		}
		return err
	}
	if err := place.forget(); err != nil {
		return err
	}
	return c.one(total, func(w io.Writer) { fmt.Fprintln(w, tell(total)+pace(total.Accepted, time.Since(began))) })
}

// pace tells a rate, unless too little was done to say.
func pace(updates int, took time.Duration) string {
	if updates == 0 || took <= 0 {
		return ""
	}
	return fmt.Sprintf(" in %v (%.0f updates/s)", took.Round(time.Millisecond), float64(updates)/took.Seconds())
}

// resume skips what was loaded before, if the hub still has it: another store
// may have taken its place, or a backup.
func (c *cli) resume(ctx context.Context, hub *client.Client, f *updateFile, place *bookmark) error {
	last, err := hub.Status(ctx, place.Last)
	if err != nil {
		return err
	}
	if len(last) != 1 || !last[0].Known {
		fmt.Fprintf(c.stderr, "the hub does not know %s, which was loaded last: beginning anew\n", place.Last)
		return place.forget()
	}
	if err := f.skip(place.Lines); err != nil {
		return err
	}
	fmt.Fprintf(c.stderr, "going on after line %d\n", place.Lines)
	return nil
}

// An updateFile reads the lines of a file, inflating it.
type updateFile struct {
	name    string
	info    os.FileInfo
	file    *os.File
	read    int64 // bytes taken from the file
	lines   *bufio.Scanner
	number  int // of the line last read, counted from 1
	inflate io.Closer
}

// openUpdates opens the file; its name tells how it is compressed.
func openUpdates(name string) (*updateFile, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	f := &updateFile{name: name, file: file}
	if f.info, err = file.Stat(); err == nil && f.info.IsDir() {
		err = fmt.Errorf("%s is a directory", name)
	}
	if err == nil {
		err = f.open()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return f, nil
}

func (f *updateFile) open() error {
	return f.inflated(bufio.NewReaderSize(counter{f}, 256<<10), filepath.Ext(f.name))
}

// openLines is openUpdates that takes - for the standard input, whose first bytes
// tell how it is compressed. It has no file to be closed.
func openLines(name string, stdin io.Reader) (*updateFile, error) {
	if name != "-" {
		return openUpdates(name)
	}
	f := &updateFile{name: "standard input"}
	r := bufio.NewReaderSize(stdin, 256<<10)
	ext := ""
	switch magic, _ := r.Peek(4); { // what is wrong with it, the first line tells
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		ext = ".gz"
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		ext = ".zst"
	}
	return f, f.inflated(r, ext)
}

// inflated reads the lines of r, which is compressed as ext says.
func (f *updateFile) inflated(r io.Reader, ext string) error {
	switch ext {
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		r, f.inflate = z, z
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		r, f.inflate = z, z.IOReadCloser()
	}
	whole := &wholeLines{r: r}
	f.lines = bufio.NewScanner(whole)
	f.lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	f.lines.Split(whole.split)
	return nil
}

// wholeLines splits what it reads into lines, and knows that a line which breaks off
// is none: cut short, a URI is another one.
type wholeLines struct {
	r      io.Reader
	broken bool
}

func (w *wholeLines) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	w.broken = err != nil && !errors.Is(err, io.EOF)
	return n, err
}

func (w *wholeLines) split(data []byte, atEnd bool) (int, []byte, error) {
	return bufio.ScanLines(data, atEnd && !w.broken)
}

func (f *updateFile) Close() error {
	if f.inflate != nil {
		f.inflate.Close()
	}
	return f.file.Close()
}

// A counter counts what is read of a file, for the progress.
type counter struct{ f *updateFile }

func (c counter) Read(b []byte) (int, error) {
	n, err := c.f.file.Read(b)
	c.f.read += int64(n)
	return n, err
}

// next returns the next line, or false at the end of the file.
func (f *updateFile) next() ([]byte, bool, error) {
	if f.lines.Scan() {
		f.number++
		return f.lines.Bytes(), true, nil
	}
	err := f.lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("longer than %d bytes", maxLine)
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: line %d: %w", f.name, f.number+1, err)
	}
	return nil, false, nil
}

// skip passes over the first n lines.
func (f *updateFile) skip(n int) error {
	for f.number < n {
		if _, more, err := f.next(); err != nil || !more {
			return err
		}
	}
	return nil
}

// A batch is some lines of a file.
type batch struct {
	body  bytes.Buffer
	lines []int // line number of each update
	last  []byte
	more  bool // the file has not ended
}

// batch reads the next lines. Empty ones are passed over.
func (f *updateFile) batch() (*batch, error) {
	b := &batch{more: true}
	for b.more && len(b.lines) < batchLines && b.body.Len() < batchBytes {
		line, more, err := f.next()
		if err != nil {
			return nil, err
		}
		b.more = more
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		b.lines = append(b.lines, f.number)
		start := b.body.Len()
		b.body.Write(line)
		b.body.WriteByte('\n')
		b.last = b.body.Bytes()[start:]
	}
	return b, nil
}

// send sends the rest of the file, batch by batch, and moves the bookmark after
// each one that the hub has on its disk.
func (f *updateFile) send(ctx context.Context, hub *client.Client, place *bookmark, shown *progress) (client.Result, error) {
	var total client.Result
	for {
		b, err := f.batch()
		if err != nil {
			return total, err
		}
		if len(b.lines) > 0 {
			r, err := hub.UpdateLines(ctx, b.body.Bytes())
			if err != nil {
				return total, f.blame(err, b)
			}
			total.Add(r)
			if err := place.move(f.number, b.last); err != nil {
				return total, err
			}
			shown.at(f.read, total)
		}
		if !b.more {
			return total, nil
		}
	}
}

// blame names the line of the file that the hub refused.
func (f *updateFile) blame(err error, b *batch) error {
	var p *client.Problem
	if !errors.As(err, &p) || p.Item == nil || *p.Item < 0 || *p.Item >= len(b.lines) {
		return err
	}
	line := b.lines[*p.Item]
	p.Item = nil
	return fmt.Errorf("%s:%d: %w (nothing of its batch, lines %d to %d, was applied)",
		f.name, line, err, b.lines[0], b.lines[len(b.lines)-1])
}

// progress shows how far a load is: a bar on a terminal, a line now and then
// elsewhere.
type progress struct {
	bar   *progressbar.ProgressBar // nil without a terminal
	w     io.Writer
	size  int64
	began time.Time
	next  time.Time // when to tell again
}

func (c *cli) newProgress(size int64) *progress {
	return c.progressOf(size, progressbar.OptionShowBytes(true), progressbar.OptionSetDescription("loading"))
}

// progressOf is a progress of a size that is shown as options say.
func (c *cli) progressOf(size int64, options ...progressbar.Option) *progress {
	now := time.Now()
	p := &progress{w: c.stderr, size: size, began: now, next: now.Add(reportEvery)}
	if file, ok := c.stderr.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.bar = progressbar.NewOptions64(p.size, append(options, progressbar.OptionSetWriter(file),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())...)
	}
	return p
}

// at tells that read bytes of the file are taken and what became of them.
func (p *progress) at(read int64, total client.Result) {
	if p.bar != nil {
		p.tell(read, fmt.Sprintf("%d updates", total.Accepted))
	} else {
		p.tell(read, tell(total)+pace(total.Accepted, time.Since(p.began)))
	}
}

// tell tells that read bytes of the file are taken, and what that was.
func (p *progress) tell(read int64, what string) {
	if p.bar != nil {
		p.bar.Describe(what)
		_ = p.bar.Set64(min(read, p.size))
		return
	}
	if now := time.Now(); now.After(p.next) {
		p.next = now.Add(reportEvery)
		fmt.Fprintf(p.w, "%d %% read: %s\n", 100*read/max(p.size, 1), what)
	}
}

func (p *progress) stop() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
