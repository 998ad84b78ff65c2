// Command slowest runs go test with -json and tells what people want to know of
// it: what failed and what it printed, a line for each package, what was left
// out, and the ten slowest tests.
//
//	go run ./internal/house/slowest [-limit 13m] go test -json [flags] [packages]
//
// It exits as go test does. It also fails if nothing was tested, if the limit
// passed, which ends go test and names the tests that were running, and, where
// CI=true, if a test was skipped.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// exitUsage is the exit code for a command line that makes no sense.
const exitUsage = 2

func main() {
	limit := flag.Duration("limit", 13*time.Minute, "end the tests after this time, compiling included")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, fmt.Errorf("not done after %v", *limit))
	defer cancel()
	os.Exit(run(ctx, flag.Args(), os.Getenv("CI") == "true", os.Stdout, os.Stderr))
}

// run runs the command until it ends or ctx does, and returns the exit code.
func run(ctx context.Context, command []string, strict bool, stdout, stderr io.Writer) int {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = stderr
	// A group of its own, so that the tests end with the tool that runs them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	events, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(stderr, "slowest:", err)
		return 1
	}
	r := newReport(stdout)
	readErr := r.read(events)
	err = cmd.Wait()
	r.summary()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "slowest: tests ended:", context.Cause(ctx))
		return 1
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil || readErr != nil:
		fmt.Fprintln(stderr, "slowest:", errors.Join(err, readErr))
		return 1
	case r.passed == 0:
		fmt.Fprintln(stderr, "slowest: nothing was tested")
		return 1
	case strict && len(r.skipped) > 0:
		fmt.Fprintln(stderr, "slowest: tests were left out, and CI=true")
		return 1
	}
	return 0
}
