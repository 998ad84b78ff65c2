package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// Exit codes are part of the command's contract: scripts branch on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnreachable = 4
	exitRefused     = 5
	exitGap         = 6
)

const exitHelp = `Exit codes:
  0  done
  1  failed
  2  wrong use: unknown command, flag or argument
  3  the hub never heard of that URI or channel
  4  cannot reach the hub
  5  the hub refused the request
  6  digests have a gap: something was missed that cannot be had`

// A usageError reports a command line that makes no sense.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// A gapError reports that all was done that can be, and that something is missing.
type gapError struct{ gaps int }

func (e gapError) Error() string {
	return fmt.Sprintf("%d gaps, told above: take what you hold for stale and read it anew", e.gaps)
}

// usagef is a usageError with this text.
func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// args makes an argument check of cobra's a usageError.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if err := check(cmd, list); err != nil {
			return usagef("%w\n  usage: %s", err, cmd.UseLine())
		}
		return nil
	}
}

// exitCode is the one place that maps errors to exit codes.
func exitCode(err error) int {
	var usage usageError
	var problem *client.Problem
	var transport *url.Error
	var gap gapError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &gap):
		return exitGap
	case errors.Is(err, context.Canceled):
		return exitFailed
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &problem) && problem.Status == 404:
		return exitNotFound
	case errors.As(err, &problem):
		return exitRefused
	case errors.As(err, &transport), errors.Is(err, client.ErrNotHub):
		return exitUnreachable
	}
	return exitFailed
}

// report tells the user what went wrong and what to do next.
func (c *cli) report(err error) {
	if err == nil {
		return
	}
	fmt.Fprintf(c.stderr, "freshwire: %s\n", c.explain(err))
	var problem *client.Problem
	switch code := exitCode(err); {
	case code == exitUsage:
		fmt.Fprintln(c.stderr, "  see: freshwire --help")
	case code == exitUnreachable:
		fmt.Fprintln(c.stderr, "  start a hub with: freshwire serve\n  or name another with --hub URL or FRESHWIRE_HUB")
	case errors.As(err, &problem):
		if problem.Status == 401 {
			fmt.Fprintln(c.stderr, "  name the file with a token by --token-file, or set FRESHWIRE_TOKEN")
		} else if problem.Help != "" {
			fmt.Fprintf(c.stderr, "  %s\n", problem.Help)
		}
		fmt.Fprintf(c.stderr, "  (status %d, %s)\n", problem.Status, problem.Type)
	}
}

// explain is the error's text, without the method and address that an HTTP
// client puts before it.
func (c *cli) explain(err error) string {
	var transport *url.Error
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	if errors.As(err, &transport) {
		return fmt.Sprintf("cannot reach a hub at %s: %v", c.hub, transport.Err)
	}
	return err.Error()
}
