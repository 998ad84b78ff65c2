package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

const (
	// usesPoll is how often the file of what a mirror uses is looked at.
	usesPoll = 2 * time.Second
	// resyncMargin is how much earlier than the last notice that was handled something may
	// have changed that was not: clocks differ, and an artefact is dated by when its making
	// began.
	resyncMargin = 15 * time.Minute
	// statusPage is how many resources are asked about at once: an answer of a megabyte.
	statusPage = 1000
)

const mirrorHelp = `Keeps a hub in step with what a mirror uses, and the mirror in step with the hub: for a
wiki that takes files or data from another one (InstantCommons, InstantWikidata) and has
no hub of its own.

FILE has the URIs that the mirror uses, one a line. They become the list of a channel of the
hub, and stay so: the file is read again when it changes. Each notice about one of them is
printed, or given to --exec as by "freshwire tail". The place is kept in --state, so that
nothing is left out over restarts; after a crash the last ones may come again.

If the hub does not hold the place any more, all that may have changed since is told once,
with the reason resync, found out by asking for the state of each: nothing has to be
fetched that is as it was.

With --dry-run nothing is registered or run: it prints what the list would gain and lose,
and what would be told, from all notices of the hub that the token shows.`

func (c *cli) mirror() *cobra.Command {
	var (
		f      tailFlags
		uses   string
		dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "mirror --uses FILE --state FILE",
		Short: "follow what a mirror uses of a hub, with a channel that is kept in step",
		Long:  mirrorHelp,
		Example: `  freshwire mirror --hub https://commons-hub.example --uses uses.txt --state place --exec ./purge
  freshwire mirror --uses uses.txt --dry-run
  freshwire mirror --uses uses.txt --state place --once   # what came since the last time, then stop`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.checkMirror(uses, dryRun); err != nil {
				return err
			}
			hub, err := c.connect()
			if err != nil {
				return err
			}
			m := &mirroring{c: c, hub: hub, f: &f, file: uses}
			if dryRun {
				return m.tryOut(cmd.Context())
			}
			return m.run(cmd.Context())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&uses, "uses", "", "file of the URIs that are used, one a line")
	fl.StringVar(&f.cursor, "state", "", "file that keeps the place for the next run")
	fl.StringVar(&f.channel, "channel", "", "name of the channel; made of this machine's name and the file's path if not given")
	fl.StringVar(&f.command, "exec", "", "run this command by sh -c for each notice instead of printing it")
	fl.IntVar(&f.retries, "retries", 5, "how often to run a failing command again")
	fl.BoolVar(&f.once, "once", false, "stop at the end of what the hub holds now")
	fl.BoolVar(&dryRun, "dry-run", false, "register and run nothing; print what would be told")
	return c.chooseOutput(cmd)
}

// checkMirror refuses flags that do not go together.
func (f *tailFlags) checkMirror(uses string, dryRun bool) error {
	switch {
	case uses == "":
		return usagef("--uses: name the file of the URIs that are used")
	case f.cursor == "" && !dryRun:
		return usagef("--state: name a file that keeps the place")
	case f.retries < 0:
		return usagef("--retries %d: want 0 or more", f.retries)
	}
	return nil
}

// A mirroring is one run of mirror.
type mirroring struct {
	c    *cli
	hub  *client.Client
	f    *tailFlags
	file string
}

// channelName is the name of the mirror's channel on every start of it.
func (m *mirroring) channelName() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	full, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(host + "\n" + full))
	return fmt.Sprintf("mirror-%x", sum[:6]), nil
}

// run keeps list and mirror in step until it is interrupted.
func (m *mirroring) run(ctx context.Context) (err error) {
	if m.f.channel == "" {
		if m.f.channel, err = m.channelName(); err != nil {
			return err
		}
	}
	from, read, err := m.register(ctx)
	if err != nil {
		return err
	}
	m.f.onReset = resetFail
	t := m.c.newTailing(m.hub, m.f)
	t.resync = func(ctx context.Context, reset *client.Reset) error { return m.resync(ctx, t, reset) }
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if !m.f.once {
		watching := make(chan struct{})
		go func() {
			defer close(watching)
			m.watch(ctx, read, stop)
		}()
		defer func() {
			stop(nil)
			<-watching
		}()
	}
	return t.run(ctx, client.StreamOptions{Channel: m.f.channel, After: from})
}

// register makes the channel if there is none, and its list what the file has. It returns
// the position from which on notices are of that list, and when the file was changed.
func (m *mirroring) register(ctx context.Context) (cursor string, read time.Time, err error) {
	uses, read, err := m.readUses()
	if err != nil {
		return "", read, err
	}
	ch, err := m.hub.Channel(ctx, m.f.channel)
	var problem *client.Problem
	switch {
	case errors.As(err, &problem) && problem.Status == 404:
		ch, err = m.hub.PutChannel(ctx, m.f.channel, client.ChannelDefinition{URI: []string{}})
	case err == nil && !ch.Listed:
		err = usagef("--channel %s: it keeps no list of URIs; name another one", m.f.channel)
	}
	if err != nil {
		return "", read, err
	}
	add, remove, err := m.difference(ctx, uses)
	if err != nil || len(add)+len(remove) == 0 {
		return ch.Cursor, read, err
	}
	var lines bytes.Buffer
	for name, uris := range map[string][]string{"add": add, "remove": remove} {
		for _, uri := range uris {
			line, err := json.Marshal(map[string]string{name: uri})
			if err != nil {
				return "", read, err
			}
			lines.Write(append(line, '\n'))
		}
	}
	res, err := m.hub.LoadChannel(ctx, m.f.channel, &lines)
	if err != nil {
		return "", read, err
	}
	fmt.Fprintf(m.c.stderr, "channel %s: %d added, %d removed\n", m.f.channel, res.Added, res.Removed)
	return res.Cursor, read, nil
}

// readUses reads the file, and when it was changed.
func (m *mirroring) readUses() (uses map[string]bool, changed time.Time, err error) {
	f, err := os.Open(m.file)
	if err != nil {
		return nil, changed, fmt.Errorf("--uses: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, changed, fmt.Errorf("--uses: %w", err)
	}
	uses = map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if uri := strings.TrimSpace(lines.Text()); uri != "" {
			uses[uri] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, changed, fmt.Errorf("--uses: %s: %w", m.file, err)
	}
	return uses, info.ModTime(), nil
}

// difference is what the channel's list lacks, and what it has too much.
func (m *mirroring) difference(ctx context.Context, uses map[string]bool) (add, remove []string, err error) {
	listed := map[string]bool{}
	for uri, err := range m.hub.ChannelURIs(ctx, m.f.channel) {
		if err != nil {
			return nil, nil, err
		}
		if listed[uri] = true; !uses[uri] {
			remove = append(remove, uri)
		}
	}
	for uri := range uses {
		if !listed[uri] {
			add = append(add, uri)
		}
	}
	return add, remove, nil
}

// watch registers what the file has whenever it has changed.
func (m *mirroring) watch(ctx context.Context, read time.Time, stop context.CancelCauseFunc) {
	tick := time.NewTicker(usesPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		info, err := os.Stat(m.file)
		if err != nil || info.ModTime().Equal(read) {
			continue // it is being replaced, or is what it was
		}
		_, changed, err := m.register(ctx)
		if !changed.IsZero() {
			read = changed
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(m.c.stderr, "freshwire: the list stays what it was: %v\n", err)
			if exitCode(err) == exitUsage {
				stop(err)
				return
			}
		}
	}
}

// resync tells of all that may have changed since the place was written down, after which
// nobody knows.
func (m *mirroring) resync(ctx context.Context, t *tailing, reset *client.Reset) error {
	uses, _, err := m.readUses()
	if err != nil {
		return err
	}
	handled := time.Time{}
	if info, err := os.Stat(m.f.cursor); err == nil {
		handled = info.ModTime()
	}
	fmt.Fprintf(m.c.stderr, "freshwire: %v\n  asking for the state of %d resources\n", reset, len(uses))
	page := make([]string, 0, statusPage)
	told := 0
	ask := func() error {
		states, err := m.hub.Status(ctx, page...)
		if err != nil {
			return err
		}
		for _, s := range states {
			// Of another journal nobody knows what it had; a time is told by the hub.
			if reset.Reason != "epoch" && !s.At.IsZero() && s.At.Before(handled.Add(-resyncMargin)) {
				continue
			}
			if !s.Known && s.At.IsZero() && s.Version == "" && s.Hash == "" {
				continue // the hub never heard of it
			}
			told++
			if err := t.handle(ctx, &client.Notice{Kind: client.KindChanged, URI: s.URI, Version: s.Version, Hash: s.Hash, Reason: "resync", Token: reset.Newest}); err != nil {
				return err
			}
		}
		page = page[:0]
		return nil
	}
	for uri := range uses {
		if page = append(page, uri); len(page) == statusPage {
			if err := ask(); err != nil {
				return err
			}
		}
	}
	if len(page) > 0 {
		if err := ask(); err != nil {
			return err
		}
	}
	fmt.Fprintf(m.c.stderr, "  %d of them may have changed, and are told\n", told)
	return nil
}

// tryOut prints what would be done.
func (m *mirroring) tryOut(ctx context.Context) error {
	uses, _, err := m.readUses()
	if err != nil {
		return err
	}
	if m.f.channel == "" {
		if m.f.channel, err = m.channelName(); err != nil {
			return err
		}
	}
	add, remove, err := m.difference(ctx, uses)
	var problem *client.Problem
	if errors.As(err, &problem) && problem.Status == 404 {
		err, add = nil, nil
		for uri := range uses {
			add = append(add, uri)
		}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(m.c.stderr, "channel %s: %d would be added, %d removed\n", m.f.channel, len(add), len(remove))
	dry := tailFlags{once: m.f.once, onReset: resetContinue}
	t := m.c.newTailing(m.hub, &dry)
	t.wanted = func(n *client.Notice) bool { return uses[n.URI] }
	return t.run(ctx, client.StreamOptions{})
}
