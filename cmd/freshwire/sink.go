package main

import (
	"fmt"
	"io"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// sink looks at the calls that an operator has a hub make of notices.
func (c *cli) sink() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sink",
		Short: "try out and steer what the hub sends for notices: purges, requests",
		Long: `A sink is a rule of the hub's configuration: which notices become which calls. test
shows what would be sent, without sending it; the others look at the sinks that a hub
has in force, and steer them. They need the token of an administrator.`,
		Example: `  freshwire sink test https://en.example.org/wiki/Berlin#html --config freshwire.yaml --type html
  freshwire sink ls
  freshwire sink pause varnish`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.sinkTest(), c.sinkList(), c.sinkShow(), c.sinkControl("pause", "stop calling; what is written meanwhile waits"),
		c.sinkControl("resume", "go on at once, also with what waits to be tried again"), c.sinkReplay())
	return cmd
}

func (c *cli) sinkList() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: "ls", Short: "list the sinks in force and how they are doing", Example: "  freshwire sink ls",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			all, err := hub.Sinks(cmd.Context())
			if err != nil {
				return err
			}
			return many(c, all, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tTARGET\tHEALTH\tLAG\tWAITING\tDEAD\tSENT\tDOES")
				for _, s := range all {
					for _, t := range s.Targets {
						fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Name, dash(t.Cache), t.Health, t.Lag, t.Waiting, t.DeadLetters, t.Sent, s.Summary)
					}
				}
			})
		},
	})
}

// onSink makes a command about one sink.
func (c *cli) onSink(cmd *cobra.Command, ask func(cmd *cobra.Command, hub *client.Client, name string) (client.Sink, error)) *cobra.Command {
	cmd.Args = args(cobra.ExactArgs(1))
	cmd.RunE = func(cmd *cobra.Command, list []string) error {
		hub, err := c.connect()
		if err != nil {
			return err
		}
		s, err := ask(cmd, hub, list[0])
		if err != nil {
			return err
		}
		return c.one(s, func(w io.Writer) { drawSink(w, s) })
	}
	return c.chooseOutput(cmd)
}

func drawSink(w io.Writer, s client.Sink) {
	field(w, "name", s.Name)
	field(w, "does", s.Summary)
	for _, t := range s.Targets {
		fmt.Fprintf(w, "%s\t%s\n", t.Outlet, t.Health)
		field(w, "  at", words(t.Cursors.Prompt, "prompt,", t.Cursors.Bulk, "bulk"))
		field(w, "  lag", t.Lag)
		field(w, "  under way", t.Calls)
		field(w, "  waiting", t.Waiting)
		field(w, "  dead letters", t.DeadLetters)
		field(w, "  sent", fmt.Sprintf("%d, and %d ignored, %d skipped, %d merged", t.Sent, t.Ignored, t.Skipped, t.Merged))
		field(w, "  failures", t.Failures)
		field(w, "  last error", t.LastError)
		field(w, "  last success", t.LastSuccess)
		field(w, "  next attempt", t.NextAttempt)
	}
}

func (c *cli) sinkShow() *cobra.Command {
	return c.onSink(&cobra.Command{Use: "show NAME", Short: "show how a sink is doing, in full", Example: "  freshwire sink show varnish -o json"},
		func(cmd *cobra.Command, hub *client.Client, name string) (client.Sink, error) {
			return hub.Sink(cmd.Context(), name)
		})
}

func (c *cli) sinkControl(action, short string) *cobra.Command {
	return c.onSink(&cobra.Command{Use: action + " NAME", Short: short, Example: "  freshwire sink " + action + " varnish"},
		func(cmd *cobra.Command, hub *client.Client, name string) (client.Sink, error) {
			return hub.ControlSink(cmd.Context(), name, action, "")
		})
}

func (c *cli) sinkReplay() *cobra.Command {
	var from string
	cmd := c.onSink(&cobra.Command{
		Use: "replay NAME", Short: "send again what came after a position, or leave out what waits",
		Example: "  freshwire sink replay varnish --from 1f00c5d2.88121\n  freshwire sink replay varnish --from now",
	}, func(cmd *cobra.Command, hub *client.Client, name string) (client.Sink, error) {
		if from == "" {
			return client.Sink{}, usagef("say after which position: --from CURSOR, oldest or now")
		}
		return hub.ControlSink(cmd.Context(), name, "replay", from)
	})
	cmd.Flags().StringVar(&from, "from", "", "a cursor, oldest, or now, which leaves out all that waits")
	return cmd
}
