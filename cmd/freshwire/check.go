package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/freshwire/freshwire/hub"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// errUnsound reports a store with findings that are left.
var errUnsound = errors.New("the store is not sound")

func (c *cli) check() *cobra.Command {
	var file, data string
	var repair bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "verify a store, while no hub runs on it, and repair it",
		Long: `Reads all of a hub's store, verifies the checksum of each block and holds what is kept
against each other: names, edges in both directions, states, markers, timers, fan-outs,
lists and the journal. It changes nothing without --repair.

With --repair what is derivable is rebuilt, and what may not be fresh is asked for again:
that costs refreshes and loses none. What cannot be rebuilt is listed and left. Take a
copy of the folder first. A repair that was interrupted is started again.

Exit codes: 0 the store is sound, or was repaired; 1 something is wrong and left, or the
store could not be read; 2 wrong use.`,
		Example: `  freshwire check                                  # of ./freshwire-data
  freshwire check --data /var/lib/freshwire -o ndjson
  freshwire check --data /var/lib/freshwire --repair`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := map[string]string{}
			if cmd.Flags().Changed("data") {
				given["data"] = data
			}
			cfg, err := hub.LoadConfig(file, os.Environ(), given)
			if err != nil {
				return usageError{err}
			}
			return c.checkStore(cmd.Context(), cfg, repair)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file with the settings of the hub ("+hub.EnvFile+")")
	cmd.Flags().StringVar(&data, "data", "", "folder of the hub's data, as of freshwire serve")
	cmd.Flags().BoolVar(&repair, "repair", false, "rebuild what is derivable")
	return c.chooseOutput(cmd)
}

// finding and checked are what a check prints.
type finding struct {
	Key       string `json:"key"`
	URI       string `json:"uri,omitempty"`
	Wrong     string `json:"wrong"`
	Derivable bool   `json:"derivable"`
	Repaired  bool   `json:"repaired"`
}

type checked struct {
	Found     int       `json:"found"`
	Left      int       `json:"left"`
	NewEpoch  bool      `json:"new_epoch"`
	Keys      int       `json:"keys"`
	Resources int       `json:"resources"`
	Edges     int       `json:"edges"`
	Notices   int       `json:"notices"`
	Timers    int       `json:"timers"`
	Jobs      int       `json:"jobs"`
	Findings  []finding `json:"findings,omitempty"`
}

// checkStore checks the store of cfg and prints what it found.
func (c *cli) checkStore(ctx context.Context, cfg hub.Config, repair bool) error {
	log := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	shown := c.newCheckProgress()
	rep, err := hub.Check(ctx, cfg, log, repair, shown.at)
	shown.stop()
	if ctx.Err() != nil && err != nil {
		return errors.New("interrupted; a repair goes on where it is started again")
	} else if err != nil {
		return err
	}
	if err := c.printReport(&rep); err != nil {
		return err
	}
	if rep.Left > 0 {
		return fmt.Errorf("%w: %d of %d findings are left%s", errUnsound, rep.Left, rep.Found, advice(&rep, repair))
	}
	return nil
}

// advice says what to do about what is left.
func advice(rep *hub.CheckReport, repair bool) string {
	for _, f := range rep.Findings {
		if !repair && f.Derivable {
			return "; freshwire check --repair rebuilds what is derivable"
		}
	}
	return "; what is not derivable comes back from a copy, or with new updates of what it is about"
}

// printReport prints findings one a line, then what was looked at.
func (c *cli) printReport(rep *hub.CheckReport) error {
	list := make([]finding, len(rep.Findings))
	for i, f := range rep.Findings {
		list[i] = finding(f)
	}
	out := checked{rep.Found, rep.Left, rep.NewEpoch, rep.Keys, rep.Resources, rep.Edges, rep.Notices, rep.Timers, rep.Jobs, list}
	if c.output == ndjson {
		for _, f := range list {
			if err := c.encode(f); err != nil {
				return err
			}
		}
		out.Findings = nil
	}
	return c.one(out, func(w io.Writer) {
		for _, f := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", outcome(f), f.Key, dash(f.URI), f.Wrong)
		}
		if rep.NewEpoch {
			fmt.Fprintln(w, "the store has a new epoch: positions of the journal were lost, and readers are reset")
		}
		fmt.Fprintf(w, "%d resources, %d edges, %d notices, %d timers and %d fan-outs in %d keys: %d findings, %d left\n",
			rep.Resources, rep.Edges, rep.Notices, rep.Timers, rep.Jobs, rep.Keys, rep.Found, rep.Left)
	})
}

func outcome(f finding) string {
	switch {
	case f.Repaired:
		return "repaired"
	case f.Derivable:
		return "derivable"
	}
	return "lost"
}

// checkProgress shows how far a check is: on a terminal a line that is written anew,
// elsewhere one now and then.
type checkProgress struct {
	w    io.Writer
	live bool
	next time.Time
}

func (c *cli) newCheckProgress() *checkProgress {
	p := &checkProgress{w: c.stderr, next: time.Now().Add(reportEvery)}
	if file, ok := c.stderr.(*os.File); ok {
		p.live = term.IsTerminal(int(file.Fd()))
	}
	return p
}

func (p *checkProgress) at(now hub.CheckProgress) {
	switch {
	case p.live:
		fmt.Fprintf(p.w, "\r\x1b[Kchecking %s: %d keys", now.Stage, now.Keys)
	case time.Now().After(p.next):
		p.next = time.Now().Add(reportEvery)
		fmt.Fprintf(p.w, "checking %s: %d keys\n", now.Stage, now.Keys)
	}
}

func (p *checkProgress) stop() {
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
