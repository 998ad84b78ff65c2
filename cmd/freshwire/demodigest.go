package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

// closingWait bounds how long the demo waits for the hour to close, which takes a second.
const closingWait = 30 * time.Second

// anHourLater starts the hub again on its data, at the moment at which the hour of the
// edits closes.
func (c *cli) anHourLater(ctx context.Context, local *localHub, d *demo, data string) (later *localHub, err error) {
	if err := local.stop(); err != nil {
		return nil, err
	}
	hour := d.clock.now().Truncate(time.Hour).Add(time.Hour)
	d.clock = newClock(hour.Add(2*time.Minute - time.Second))
	if later, err = startHub(ctx, demoConfig(data, d.clock.start), slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	d.hub, err = client.New(later.url, client.Options{Agent: "freshwire-demo"})
	return later, err
}

// digest reads what the hub published of the hours, and checks that it is all that was
// told: as somebody does who was away.
func (d *demo) digest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closingWait)
	defer cancel()
	r, err := d.hub.Digest("all", client.DigestOptions{})
	if err != nil {
		return err
	}
	// The journal up to here is in hours that are over.
	token, err := d.hub.Token(ctx)
	if err != nil {
		return err
	}
	notices := uint64(0)
	pull := client.DigestPull{
		Entry: func(line []byte) error {
			var e client.DigestEntry
			err := json.Unmarshal(line, &e)
			notices += e.Count
			return err
		},
		Done: func(*client.DigestManifest, client.DigestPlace) error { return nil },
		Gap:  func(text string) { err = errors.Join(err, errors.New(text)) },
		Note: func(string) {},
	}
	entries := uint64(0)
	for pull.Place.Cursor != token {
		res, failed := r.Pull(ctx, pull)
		var problem *client.Problem
		switch {
		case err != nil:
			return err
		case failed == nil:
		case errors.As(failed, &problem) && problem.Status == 404: // the hour has not closed yet
		default:
			return failed
		}
		pull.Place, entries = res.Place, entries+res.Entries
		select {
		case <-ctx.Done():
			return fmt.Errorf("the hour does not close: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	if last := pull.Place.Cursor; last != fmt.Sprintf("%s.%d", pull.Place.Epoch, notices) {
		return fmt.Errorf("the digests have %d notices, and end at %s", notices, last)
	}
	_, err = fmt.Fprintf(d.out, "\nAn hour later its digest is there for who was away: %d resources of %d notices, signed and checked.\n"+
		"  The stream goes on where it ends, after %s.\n", entries, notices, pull.Place.Cursor)
	return err
}
