package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub"
)

const (
	// childStart is how long a hub of our own may take to open its store.
	childStart = 30 * time.Second
	// childEnd is how long it may take to end in good order: longer than it gives
	// the requests in flight.
	childEnd = 30 * time.Second
	// childLines is how many of the last lines it logged are kept, to be shown when
	// it ends by itself.
	childLines = 20
)

// A childHub is a hub in a process of its own, so that what it costs can be told
// apart: this executable, on a free port and a temporary folder.
type childHub struct {
	url   string
	cmd   *exec.Cmd
	data  string
	ended chan struct{} // closed when the process has ended
	last  []string      // lines it logged, after ended
	err   error         // how it ended, after ended
}

// startChild runs a hub until stop is called. Settings are flags of serve.
func startChild(ctx context.Context, settings ...string) (*childHub, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp("", "freshwire-bench-")
	if err != nil {
		return nil, err
	}
	h := &childHub{data: data, ended: make(chan struct{})}
	if err := h.start(ctx, self, settings); err != nil {
		return nil, errors.Join(err, os.RemoveAll(data))
	}
	return h, nil
}

func (h *childHub) start(ctx context.Context, self string, settings []string) error {
	h.cmd = exec.Command(self, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", h.data}, settings...)...)
	h.cmd.Args[0] = "freshwire"
	h.cmd.Env = withoutSettings(os.Environ())
	log, err := h.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := h.cmd.Start(); err != nil {
		return fmt.Errorf("starting a hub: %w", err)
	}
	address := make(chan string, 1)
	go h.watch(log, address)
	select {
	case h.url = <-address:
		return nil
	case <-h.ended:
		return fmt.Errorf("the hub ended at once: %w", h.death())
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(childStart):
		err = fmt.Errorf("the hub took longer than %v to start", childStart)
	}
	return errors.Join(err, h.end())
}

// withoutSettings leaves out what would configure the hub: it is to be like any other.
func withoutSettings(environ []string) (kept []string) {
	prefix, _, _ := strings.Cut(hub.EnvHub, "_")
	for _, e := range environ {
		if !strings.HasPrefix(e, prefix+"_") {
			kept = append(kept, e)
		}
	}
	return kept
}

// watch reads what the hub logs, up to its end, and tells its address once.
func (h *childHub) watch(log io.Reader, address chan<- string) {
	defer close(h.ended)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "hub at "); ok {
			url, _, _ := strings.Cut(rest, ",")
			select {
			case address <- url:
			default:
			}
		}
		if h.last = append(h.last, lines.Text()); len(h.last) > childLines {
			h.last = h.last[1:]
		}
	}
	_, _ = io.Copy(io.Discard, log) // a line too long to scan must not block the hub
	h.err = h.cmd.Wait()
}

// death tells how the hub ended, and what it said before.
func (h *childHub) death() error {
	err := h.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("%w\n  %s", err, strings.Join(h.last, "\n  "))
}

// whileAlive returns a context that also ends when the hub does.
func (h *childHub) whileAlive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-h.ended:
			cancel(fmt.Errorf("the hub ended: %w", h.death()))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// end asks the hub to end, and makes it if it does not.
func (h *childHub) end() error {
	if err := h.cmd.Process.Signal(os.Interrupt); err != nil {
		_ = h.cmd.Process.Kill() // it has ended, or cannot be asked here
	}
	select {
	case <-h.ended:
		return nil
	case <-time.After(childEnd):
	}
	err := h.cmd.Process.Kill()
	<-h.ended
	return errors.Join(fmt.Errorf("the hub did not end in %v and was killed", childEnd), err)
}

// stop ends the hub and removes its data.
func (h *childHub) stop() error { return errors.Join(h.end(), os.RemoveAll(h.data)) }
