package main

import (
	"io"
	"os"
	"strings"

	"github.com/freshwire/freshwire/hub"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// defaultHub is where serve listens when nothing else is said.
const defaultHub = "http://127.0.0.1:8420"

// A cli is one run of the command.
type cli struct {
	stdout, stderr io.Writer
	hub            string // address of the hub that the readers and writers talk to
	tokenFile      string // holds the token to send; "" means the environment
	output         output
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "freshwire",
		Short: "tells everyone who reuses wiki content what needs refreshing",
		Long: `freshwire keeps which page, file, map or extract is made from which others, and
tells everyone who holds or makes one what needs refreshing when something changes.

` + exitHelp,
		Example: `  freshwire demo --once                                      # watch it work on a recorded wiki
  freshwire serve                                            # run a hub on 127.0.0.1:8420
  freshwire put https://en.example.org/wiki/Foo --version 2  # tell it of an edit
  freshwire tail                                             # see who must refresh what`,
		Args: func(cmd *cobra.Command, list []string) error {
			if len(list) == 0 {
				return nil
			}
			text := "unknown command %q"
			for _, s := range cmd.SuggestionsFor(list[0]) {
				text += "; did you mean " + s + "?"
			}
			return usagef(text, list[0])
		},
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&c.hub, "hub", hubFromEnvironment(), "address of the hub ("+hub.EnvHub+")")
	root.PersistentFlags().StringVar(&c.tokenFile, "token-file", "", "file with the token that the hub asks for; else "+hub.EnvToken)
	root.AddCommand(c.serve(), c.demo(), c.put(), c.load(), c.imports(), c.check(), c.status(), c.deps(), c.rdeps(),
		c.why(), c.impact(), c.jobs(), c.tail(), c.mirror(), c.channel(), c.config(), c.sink(), c.peer(), c.sub(), c.dlq(), c.digest(), c.pause(), c.resumeCalls(), c.token(), c.backup(), c.restore(), c.bench(), c.version())
	return root
}

// hubFromEnvironment is the address to use when --hub is not given.
func hubFromEnvironment() string {
	if s := os.Getenv(hub.EnvHub); s != "" {
		return s
	}
	return defaultHub
}

// connect returns a client of the hub that the user named.
func (c *cli) connect() (*client.Client, error) {
	if _, err := c.bearer(); err != nil {
		return nil, err
	}
	cl, err := client.New(c.hub, client.Options{Agent: "freshwire", Token: c.bearer})
	if err != nil {
		return nil, usageError{err}
	}
	return cl, nil
}

// bearer is the token to send, "" if there is none. It is not a flag's value: that
// every user of the machine could see. The file is read each time: a command that
// follows for days gets a new token before the old one expires.
func (c *cli) bearer() (string, error) {
	if c.tokenFile == "" {
		return strings.TrimSpace(os.Getenv(hub.EnvToken)), nil
	}
	b, err := os.ReadFile(c.tokenFile)
	if err != nil {
		return "", usageError{err}
	}
	return strings.TrimSpace(string(b)), nil
}
