package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/hub"
	"github.com/spf13/cobra"
)

func (c *cli) imports() *cobra.Command {
	var at hubData
	cmd := &cobra.Command{
		Use:   "import FILE.ndjson[.gz|.zst]",
		Short: "make a new store from a snapshot, while no hub runs on it",
		Long: `Makes the store of a hub that has nothing yet from a file of updates, one JSON object a
line: the last update of each resource, in any order, and no deletes or purges. It is
many times faster than sending them to a hub. All of the file is taken or nothing.

What was made from something older than the snapshot has is told when the hub runs:
its journal begins with these.`,
		Example: `  freshwire import wiki.ndjson.zst                       # into ./freshwire-data
  freshwire import wiki.ndjson.gz --data /var/lib/freshwire
  freshwire serve --data /var/lib/freshwire              # run a hub on it`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			cfg, err := at.load(cmd)
			if err != nil {
				return err
			}
			return c.importFile(cmd.Context(), cfg, list[0])
		},
	}
	at.flags(cmd)
	return c.chooseOutput(cmd)
}

// imported is what an import prints.
type imported struct {
	Updates   int    `json:"updates"`
	Resources int    `json:"resources"`
	Edges     int    `json:"edges"`
	Stale     int    `json:"stale"`
	Cursor    string `json:"cursor"`
}

// importFile makes the store of cfg from the file.
func (c *cli) importFile(ctx context.Context, cfg hub.Config, name string) error {
	f, err := openUpdates(name)
	if err != nil {
		return err
	}
	defer f.Close()
	began := time.Now()
	shown := c.newProgress(f.info.Size())
	var read atomic.Int64
	lines := func() ([]byte, error) {
		line, more, err := f.next()
		read.Store(f.read)
		if err == nil && !more {
			err = io.EOF
		}
		return line, err
	}
	log := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	res, err := hub.Import(ctx, cfg, log, lines, func(p hub.ImportProgress) { shown.imported(read.Load(), p) })
	shown.stop()
	var bad *hub.LineError
	switch {
	case ctx.Err() != nil && err != nil:
		return errors.New("interrupted; nothing is imported")
	case errors.As(err, &bad):
		return fmt.Errorf("%s:%d: %w; nothing is imported", name, bad.Line, bad.Err)
	case err != nil:
		return fmt.Errorf("%w; nothing is imported", err)
	}
	out := imported{res.Updates, res.Resources, res.Edges, res.Stale, res.Cursor.String()}
	return c.one(out, func(w io.Writer) {
		fmt.Fprintf(w, "imported %d updates, %d resources, %d edges; %d are stale%s\n", out.Updates, out.Resources, out.Edges, out.Stale,
			pace(out.Updates, time.Since(began)))
	})
}

// imported tells how far an import is, of which read bytes of the file are taken.
func (p *progress) imported(read int64, at hub.ImportProgress) {
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%s: %d updates", at.Stage, at.Updates))
		_ = p.bar.Set64(min(read, p.size))
		return
	}
	if now := time.Now(); now.After(p.next) {
		p.next = now.Add(reportEvery)
		fmt.Fprintf(p.w, "%d %% read, %s: %d updates, %d edges%s\n", 100*read/max(p.size, 1), at.Stage, at.Updates, at.Edges,
			pace(at.Updates, now.Sub(p.began)))
	}
}
