package main

import (
	"fmt"
	"io"
	"os"

	"github.com/freshwire/freshwire/hub"
	"github.com/spf13/cobra"
)

// config is what a hub is started with.
func (c *cli) config() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "check the configuration of a hub, and have a hub read it again",
		Example: "  freshwire config check /etc/freshwire.yaml && freshwire config reload",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.configCheck(), c.configReload())
	return cmd
}

// configShape is a configuration as it would be in force.
type configShape struct {
	Settings map[string]string `json:"settings"`
	Sinks    []any             `json:"sinks"`
	Warnings []string          `json:"warnings"`
}

func (c *cli) configCheck() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use:   "check [FILE]",
		Short: "check a configuration, and show what would be in force",
		Long: `Reads a configuration as serve would, from the file (or the one that ` + hub.EnvFile + ` names)
and the environment, and checks all of it. No hub is needed, and none is changed.

What would be in force is printed, with the sinks and with what may not be meant. A
configuration that a hub would not take is exit code 1, and the line is shown.`,
		Example: `  freshwire config check /etc/freshwire.yaml
  freshwire config check -o json | jq .warnings`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, list []string) error {
			file := ""
			if len(list) > 0 {
				file = list[0]
			}
			cfg, warnings, err := hub.CheckConfig(file, os.Environ())
			if err != nil {
				return err
			}
			shape := configShape{map[string]string{}, []any{}, []string{}}
			for _, s := range hub.Settings() {
				shape.Settings[s.Name] = s.Value(cfg)
			}
			for _, s := range cfg.Sinks {
				shape.Sinks = append(shape.Sinks, s.Shown())
			}
			for _, w := range warnings {
				shape.Warnings = append(shape.Warnings, w.String())
			}
			return c.one(shape, func(w io.Writer) {
				for _, s := range hub.Settings() {
					fmt.Fprintf(w, "%s\t%s\n", s.Name, dash(s.Value(cfg)))
				}
				for _, s := range cfg.Sinks {
					fmt.Fprintf(w, "sink %s\t%s\n", s.Name, s.Summary())
				}
				for _, text := range shape.Warnings {
					fmt.Fprintf(w, "warning\t%s\n", text)
				}
			})
		},
	})
}

func (c *cli) configReload() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use:   "reload",
		Short: "have a hub read its configuration again",
		Long: `Has a hub read its file, its environment and its flags again, as SIGHUP does, and prints
what changed: channels, sinks, which topics are denied and whose tokens are believed, at
once. Settings that are taken only when the hub starts again are named.

A configuration that cannot be taken changes nothing: the hub goes on with the one that
it has, and the command says what is wrong (exit code 5).`,
		Example: `  freshwire config reload
  freshwire config reload --hub https://hub.example.org --token-file admin.token -o json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			done, err := hub.Reload(cmd.Context())
			if err != nil {
				return err
			}
			return c.one(done, func(w io.Writer) {
				if len(done.Changes)+len(done.Restart) == 0 {
					fmt.Fprintln(w, "nothing is different")
				}
				for _, ch := range done.Changes {
					fmt.Fprintf(w, "%s\t%s\t%s\n", ch.Section, dash(ch.Name), ch.Change)
				}
				for _, name := range done.Restart {
					fmt.Fprintf(w, "%s\t-\tneeds a restart of the hub\n", name)
				}
			})
		},
	})
}
