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
		Short:   "look at the configuration of a hub",
		Example: "  freshwire config check /etc/freshwire.yaml",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.configCheck())
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
