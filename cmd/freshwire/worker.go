package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

const (
	// workerGrace is how long a command may go on when tail is interrupted: longer
	// than a page takes to be made again, and less than the 30 s after which
	// Kubernetes kills. After that the next run begins with the same notice.
	workerGrace = 25 * time.Second
	// pipeDelay is how long the output of a command that ended is waited for, in
	// case something it left behind holds it open.
	pipeDelay = time.Second
	// firstRetry is the wait after a command's first failure, which then doubles
	// up to lastRetry.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// A worker runs a command for each task.
type worker struct {
	command        string // for sh -c
	hub            string // told to the command, which may want to answer
	retries        int
	grace          time.Duration
	stdout, stderr io.Writer
}

// A task is what a command is run for.
type task struct {
	about string            // for people
	place string            // where it stands, for people
	again string            // what the next run begins with if it fails
	stdin []byte            // a line of JSON
	env   map[string]string // FRESHWIRE_ is put before the names
}

// noticeTask is that of a notice.
func noticeTask(n *client.Notice) (*task, error) {
	var stdin bytes.Buffer
	e := json.NewEncoder(&stdin)
	e.SetEscapeHTML(false)
	if err := e.Encode(n); err != nil {
		return nil, err
	}
	return &task{about: n.Kind + " of " + n.URI, place: n.Token, again: "this notice, which has token " + n.Token, stdin: stdin.Bytes(),
		env: map[string]string{"KIND": n.Kind, "URI": n.URI, "TOKEN": n.Token, "TYPE": n.Type, "VERSION": n.Version}}, nil
}

// handle returns when the command has done its work, with nil. If ctx ends it lets the
// command finish, and does not begin again.
func (w *worker) handle(ctx context.Context, t *task) error {
	for failures := 1; ; failures++ {
		err := w.run(ctx, t)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted; the command for %s did not succeed: %w", t.place, err)
		case failures > w.retries:
			return fmt.Errorf("the command failed %d times for %s: %w\n  the next run begins with %s", failures, t.about, err, t.again)
		}
		wait := min(lastRetry, firstRetry<<min(failures-1, 10))
		fmt.Fprintf(w.stderr, "freshwire: the command failed for %s: %v; again in %v\n", t.about, err, wait)
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted; the command for %s did not succeed: %w", t.place, err)
		case <-time.After(wait):
		}
	}
}

// run runs the command once.
func (w *worker) run(ctx context.Context, t *task) error {
	end, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(w.grace):
			kill()
		case <-end.Done():
		}
	})()
	cmd := exec.CommandContext(end, "sh", "-c", w.command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(t.stdin), w.stdout, w.stderr
	cmd.Env = append(os.Environ(), "FRESHWIRE_HUB="+w.hub)
	for name, value := range t.env {
		// The system cannot tell a NUL from the end of a value.
		cmd.Env = append(cmd.Env, "FRESHWIRE_"+name+"="+strings.ReplaceAll(value, "\x00", ""))
	}
	cmd.WaitDelay = pipeDelay
	ownGroup(cmd)
	switch err := cmd.Run(); {
	case errors.Is(err, exec.ErrWaitDelay): // it succeeded, and left something behind
		return nil
	case err != nil && end.Err() != nil:
		return fmt.Errorf("killed, as it was still running after %v", w.grace)
	default:
		return err
	}
}
