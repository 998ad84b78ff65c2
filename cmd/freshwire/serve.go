package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/freshwire/freshwire/hub"
	"github.com/spf13/cobra"
)

func (c *cli) serve() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "run a hub",
		Long: `Runs a hub until it is interrupted; then it answers what is under way, asks streams to
come again, and ends.

Every setting is a flag, a line of the configuration file, and a variable of the
environment (FRESHWIRE_LISTEN for --listen). Flags win over the environment, that
over the file.

SIGHUP, or freshwire config reload, has it read its configuration again: channels,
sinks, which topics are denied and whose tokens are believed change at once, other
settings when it starts again. A configuration that cannot be taken leaves the old one
in force.`,
		Example: `  freshwire serve                                     # 127.0.0.1:8420, ./freshwire-data
  freshwire serve --listen 127.0.0.1:9000 --data /var/lib/freshwire
  freshwire serve --config /etc/freshwire.yaml`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := map[string]string{}
			for _, s := range hub.Settings() {
				if f := cmd.Flags().Lookup(s.Name); f.Changed {
					given[s.Name] = f.Value.String()
				}
			}
			load := func() (hub.Config, error) { return hub.LoadConfig(file, os.Environ(), given) }
			cfg, err := load()
			if err != nil {
				return usageError{err}
			}
			return c.runHub(cmd.Context(), cfg, load)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file with settings ("+hub.EnvFile+")")
	for _, s := range hub.Settings() {
		cmd.Flags().String(s.Name, "", s.Usage)
	}
	return cmd
}

// runHub runs a hub until ctx ends. It reads its configuration again when the process
// is sent SIGHUP.
func (c *cli) runHub(ctx context.Context, cfg hub.Config, load func() (hub.Config, error)) error {
	h, err := hub.New(cfg, slog.New(slog.NewTextHandler(c.stderr, nil)))
	if err != nil {
		return err
	}
	h.ReloadFrom(load)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	defer func() {
		signal.Stop(hangup)
		cancel()
		<-done
	}()
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				_, _ = h.Reload(ctx) // the hub's log says what came of it
			}
		}
	}()
	fmt.Fprintf(c.stderr, "hub at %s, data in %s\n", h.URL(), cfg.Data)
	return h.Run(ctx)
}

// A localHub is a hub that runs beside something else in this process.
type localHub struct {
	url    string
	cancel context.CancelFunc
	done   chan struct{} // closed when the hub has ended
	err    error         // why, after done
}

// startHub runs a hub until ctx ends, and returns when it takes requests.
func startHub(ctx context.Context, cfg hub.Config, log *slog.Logger) (*localHub, error) {
	h, err := hub.New(cfg, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	local := &localHub{url: h.URL(), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(local.done)
		local.err = h.Run(ctx)
	}()
	return local, nil
}

// wait returns when the hub has ended, with the reason if it did not end because
// it was told to.
func (l *localHub) wait() error {
	<-l.done
	return l.err
}

// stop ends the hub and waits for it.
func (l *localHub) stop() error {
	l.cancel()
	return l.wait()
}
