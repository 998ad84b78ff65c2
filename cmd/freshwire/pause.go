package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// braked is what is printed of the brake on all calls.
type braked struct {
	Paused bool `json:"paused"`
}

func (c *cli) drawBrake(paused bool) error {
	return c.one(braked{paused}, func(w io.Writer) {
		if paused {
			fmt.Fprintln(w, "paused: no sink and no callback is called; freshwire resume lets them go on")
		} else {
			fmt.Fprintln(w, "not paused: sinks and callbacks are called")
		}
	})
}

func (c *cli) pause() *cobra.Command {
	cmd := c.brake(true, &cobra.Command{
		Use:   "pause",
		Short: "stop the hub's calls of all sinks and callbacks at once",
		Long: `Stops the calls of all sinks and WebSub callbacks at once: the brake for when something
is wrong and there is no time to look which. It holds over restarts of the hub until
"freshwire resume". Calls under way end; what is written meanwhile waits, and nothing is
lost. Streams, topics and claims go on.

One sink alone is paused by "freshwire sink pause".`,
		Example: `  freshwire pause
  freshwire pause status
  freshwire resume`,
	})
	cmd.AddCommand(c.chooseOutput(&cobra.Command{
		Use: "status", Short: "say whether it is on", Example: "  freshwire pause status -o json", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			paused, err := hub.Paused(cmd.Context())
			if err != nil {
				return err
			}
			return c.drawBrake(paused)
		},
	}))
	return cmd
}

func (c *cli) resumeCalls() *cobra.Command {
	return c.brake(false, &cobra.Command{
		Use: "resume", Short: "take back freshwire pause", Example: "  freshwire resume",
		Long: `Lets a hub call sinks and callbacks again after "freshwire pause". Those that are paused
by themselves stay so.`,
	})
}

// brake makes a command that puts the brake on, or takes it off.
func (c *cli) brake(paused bool, cmd *cobra.Command) *cobra.Command {
	cmd.Args = args(cobra.NoArgs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		hub, err := c.connect()
		if err != nil {
			return err
		}
		if err := hub.Pause(cmd.Context(), paused); err != nil {
			return err
		}
		return c.drawBrake(paused)
	}
	return c.chooseOutput(cmd)
}
