package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

// A tailing is one run of tail.
type tailing struct {
	cli    *cli
	hub    *client.Client
	flags  *tailFlags
	place  *place
	worker *worker // nil prints

	// resync makes good what a reset costs, so that it is gone on with what comes now; nil
	// is what the flags say.
	resync func(ctx context.Context, reset *client.Reset) error
	wanted func(n *client.Notice) bool // nil is all

	all   bool // begins with the oldest notice, whichever that is
	count int
	list  []client.Notice // only for one document
}

func (c *cli) newTailing(hub *client.Client, f *tailFlags) *tailing {
	t := &tailing{cli: c, hub: hub, flags: f}
	if f.command != "" {
		t.worker = &worker{command: f.command, hub: hub.URL(), retries: f.retries, grace: workerGrace, stdout: c.stdout, stderr: c.stderr}
	}
	return t
}

// run handles notices until they end or ctx does, and keeps its place.
func (t *tailing) run(ctx context.Context, o client.StreamOptions) (err error) {
	if t.place, err = openPlace(t.flags.cursor); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	t.place.fail, t.place.held = fail, t.cli.output == asJSON
	if t.place.cursor != "" {
		o.After = t.place.cursor
	}
	if t.flags.once {
		if o.Until, err = t.hub.Token(ctx); err != nil {
			return err
		}
		if t.all = o.After == "" && o.Since.IsZero(); t.all {
			o.Since = time.Unix(0, 0)
		}
	}
	o.Moved = t.place.move
	err = t.follow(ctx, o)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if err == nil && t.cli.output == asJSON {
		err = many(t.cli, t.list, nil)
	}
	if err == nil || t.cli.output != asJSON {
		t.place.release()
	}
	if saved := t.place.save(); err == nil {
		err = saved
	}
	return err
}

// follow handles the notices of o, and after a reset those that the hub still
// holds, if that is asked for.
func (t *tailing) follow(ctx context.Context, o client.StreamOptions) error {
	for {
		err := t.stream(ctx, o)
		var reset *client.Reset
		switch {
		case !errors.As(err, &reset):
			return err
		case t.all && reset.Reason == "trimmed": // names the oldest, and is no loss here
			o.After, t.all = reset.Oldest, false
			continue
		case t.resync != nil:
			if err := t.resync(ctx, reset); err != nil {
				return err
			}
			o.After = reset.Newest
			t.place.move(reset.Newest)
			continue
		case t.flags.onReset == resetFail:
			return fmt.Errorf("%w\n  %s\n  go on from there with: %s", err, missed(reset), t.goOn(reset))
		case t.place.cursor == reset.Oldest: // where it went on from: it would not end
			return err
		}
		fmt.Fprintf(t.cli.stderr, "freshwire: %v\n  %s\n  going on after %s\n", err, missed(reset), reset.Oldest)
		o.After = reset.Oldest
		t.place.move(reset.Oldest)
	}
}

// goOn is the command that goes on after a reset.
func (t *tailing) goOn(reset *client.Reset) string {
	if t.flags.cursor != "" {
		return "freshwire tail --cursor " + t.flags.cursor + " --on-reset continue"
	}
	return "freshwire tail --after " + reset.Oldest
}

// missed says what a reset costs.
func missed(reset *client.Reset) string {
	switch reset.Reason {
	case "trimmed":
		return "what came before " + reset.Oldest + " was trimmed and is missed; check what you hold: POST /v1/status"
	case "epoch":
		return "the place belongs to another store: what that one told since is missed; check what you hold: POST /v1/status"
	case "future":
		return "the place lies after all that the hub holds, as when it was restored from a backup; check what you hold: POST /v1/status"
	}
	return "what came since is missed; check what you hold: POST /v1/status"
}

// stream handles the notices of one stream, each to its end before the place moves.
func (t *tailing) stream(ctx context.Context, o client.StreamOptions) error {
	for n, err := range t.hub.Stream(ctx, o) {
		if err != nil {
			return err
		}
		if t.wanted != nil && !t.wanted(&n) {
			continue
		}
		if err := t.handle(ctx, &n); err != nil {
			return err
		}
		t.place.move(n.Token)
		if t.worker != nil {
			if err := t.place.save(); err != nil {
				return err
			}
		}
		if t.count++; t.count == t.flags.count {
			return nil
		}
	}
	return nil
}

// handle prints a notice, or has the worker do its work.
func (t *tailing) handle(ctx context.Context, n *client.Notice) error {
	switch {
	case t.worker != nil:
		task, err := noticeTask(n)
		if err != nil {
			return err
		}
		return t.worker.handle(ctx, task)
	case t.cli.output == table:
		_, err := fmt.Fprintln(t.cli.stdout, noticeLine(*n))
		return err
	case t.cli.output == ndjson:
		return t.cli.encode(n)
	}
	t.list = append(t.list, *n)
	return nil
}
