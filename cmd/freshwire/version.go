package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "print which build this is",
		Long:    "Prints the version, the commit it was built from, and the Go version.",
		Example: `  freshwire version`,
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.stdout, build())
			return err
		},
	}
}

// build describes this build as the Go tool recorded it.
func build() string {
	version, commit := "(unknown)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	return words("freshwire", version, commit, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
}
