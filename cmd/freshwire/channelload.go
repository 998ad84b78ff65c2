package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// listPiece is how much of a list is made ready at once, in bytes: about a
// thousand lines.
const listPiece = 64 << 10

func (c *cli) channelLoad() *cobra.Command {
	cmd := c.onChannel("load NAME FILE", "change the list of a channel by a file of any length",
		`load images pages.txt
  freshwire channel load images changes.ndjson.zst
  list-pages | freshwire channel load images -`, 2,
		func(cmd *cobra.Command, hub *client.Client, list []string) error {
			return c.loadList(cmd.Context(), hub, list[0], list[1], cmd.InOrStdin())
		})
	cmd.Long = `Sends a file with one URI a line, which is put on the list, or {"add":URI} or
{"remove":URI}; of several lines about one URI the last one counts. The file may be
compressed by gzip or zstd, and - is the standard input.

Each 10,000 lines are on the hub's disk before the next are read, and take effect
there. What was taken before a bad line or an interruption is kept; the same command
may be given again, and changes nothing twice. A pipe that has not brought the next
10,000 lines, or its end, after 30 s is given up: write them to a file first.`
	return cmd
}

// loadList sends a file to the list of a channel.
func (c *cli) loadList(ctx context.Context, hub *client.Client, channel, name string, stdin io.Reader) error {
	f, err := openLines(name, stdin)
	if err != nil {
		return err
	}
	lines := &listReader{f: f}
	if f.file != nil {
		lines.shown = c.newProgress(f.info.Size())
	}
	res, err := hub.LoadChannel(ctx, channel, lines)
	if f.file != nil { // the next byte of a pipe may never come
		lines.stop()
		lines.shown.stop()
		defer f.Close()
	}
	if ctx.Err() != nil {
		return errors.New("interrupted\n  what the hub has taken is kept; the same command may be given again")
	}
	if err != nil {
		return f.blameLine(err)
	}
	return c.drawListResult(res)
}

// blameLine names the line that the hub refused.
func (f *updateFile) blameLine(err error) error {
	var p *client.Problem
	if !errors.As(err, &p) || p.Item == nil || *p.Item < 0 {
		return err
	}
	line := *p.Item + 1
	p.Item = nil
	return fmt.Errorf("%s:%d: %w", f.name, line, err)
}

// A listReader reads the lines of a file as the hub takes those of a list, one for
// each, so that the hub counts like the user's editor.
type listReader struct {
	f     *updateFile
	shown *progress // nil if nobody knows how long it is

	mu      sync.Mutex
	stopped bool
	buf     bytes.Buffer
	err     error
}

func (r *listReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return 0, io.ErrClosedPipe
	}
	for r.err == nil && r.buf.Len() == 0 {
		r.fill()
	}
	if r.buf.Len() > 0 {
		return r.buf.Read(b)
	}
	return 0, r.err
}

// fill makes a piece ready. What was read before an error comes before it.
func (r *listReader) fill() {
	for r.err == nil && r.buf.Len() < listPiece {
		line, more, err := r.f.next()
		if err == nil && !more {
			err = io.EOF
		}
		if err == nil {
			err = r.add(bytes.TrimSpace(line))
		}
		r.err = err
		if r.f.file == nil {
			break // who types, or writes a pipe slowly, is not kept waiting
		}
	}
	if r.shown != nil {
		r.shown.tell(r.f.read, fmt.Sprintf("%d lines", r.f.number))
	}
}

// add appends a line, which may be a bare URI.
func (r *listReader) add(line []byte) error {
	if len(line) > 0 && line[0] != '{' {
		text, err := json.Marshal(map[string]string{"add": string(line)})
		if err != nil {
			return err
		}
		line = text
	}
	r.buf.Write(line)
	return r.buf.WriteByte('\n')
}

// stop has the file read no more; it returns when nobody reads it.
func (r *listReader) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}
