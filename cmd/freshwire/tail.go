package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// A tailFlags says which notices to print, and when to stop.
type tailFlags struct {
	filter client.Filter
	since  string
	after  string
	count  int
	once   bool
}

func (c *cli) tail() *cobra.Command {
	var f tailFlags
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "print the notices as they are written",
		Long: `Prints notices: "changed" when there is a new version (who holds a copy fetches it),
"refresh" when something is to be made again (who makes it makes it). Without
--since or --after it begins now and follows until it is interrupted, across
restarts of the hub.

If the hub no longer holds the place to begin after, tail says so and fails: what
was missed cannot be printed.`,
		Example: `  freshwire tail                               # from now on
  freshwire tail --kind refresh --type html    # only what must be rendered again
  freshwire tail --prefix https://en.example.org/wiki/Berlin -o ndjson
  freshwire tail --since 1h --once             # the last hour, then stop
  freshwire tail --once                        # all the hub still holds, then stop
  freshwire tail -n 1                          # wait for one`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			o, err := f.options(time.Now())
			if err != nil {
				return err
			}
			if f.once {
				if o, err = bound(cmd.Context(), hub, o); err != nil {
					return err
				}
			}
			return c.follow(hub.Stream(cmd.Context(), o), f.count)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.filter.URIs, "uri", nil, "only this URI, repeatable")
	fl.StringArrayVar(&f.filter.Prefixes, "prefix", nil, "only what lies under it, by whole path segments, repeatable")
	fl.StringArrayVar(&f.filter.Hosts, "host", nil, "only this host, repeatable")
	fl.StringArrayVar(&f.filter.Types, "type", nil, "only this type, repeatable")
	fl.StringArrayVar(&f.filter.Buckets, "bucket", nil, "only this bucket, repeatable")
	fl.StringArrayVar(&f.filter.Kinds, "kind", nil, "only changed or refresh")
	fl.StringArrayVar(&f.filter.Lanes, "lane", nil, "only prompt or bulk")
	fl.StringVar(&f.since, "since", "", "begin with what was written then (RFC 3339, or how long ago)")
	fl.StringVar(&f.after, "after", "", "begin after this token")
	fl.IntVarP(&f.count, "lines", "n", 0, "stop after so many notices (0: never)")
	fl.BoolVar(&f.once, "once", false, "stop at the end of what the hub holds now")
	return c.chooseOutput(cmd)
}

// options says what to stream, as the flags ask.
func (f *tailFlags) options(now time.Time) (client.StreamOptions, error) {
	if f.count < 0 {
		return client.StreamOptions{}, usagef("-n %d: want 0 or more", f.count)
	}
	if f.since != "" && f.after != "" {
		return client.StreamOptions{}, usagef("--since and --after: give one of them")
	}
	since, err := parseTime("--since", f.since, now)
	return client.StreamOptions{Filter: f.filter, After: f.after, Since: since}, err
}

// bound makes a stream end where the journal ends now. If the user named no
// place to begin, it begins with the oldest notice that the hub still holds.
func bound(ctx context.Context, hub *client.Client, o client.StreamOptions) (client.StreamOptions, error) {
	var err error
	if o.Until, err = hub.Token(ctx); err != nil || o.After != "" || !o.Since.IsZero() {
		return o, err
	}
	o.Since = time.Unix(0, 0)
	// That time lies before the oldest notice of any journal. One that was
	// trimmed answers with a reset, which names the place: here, no loss.
	for _, err := range hub.Stream(ctx, o) {
		var reset *client.Reset
		if errors.As(err, &reset) && reset.Reason == "trimmed" {
			o.After = reset.Oldest
		}
		break
	}
	return o, ctx.Err()
}

// follow prints notices until they end, or count of them if it is not 0.
func (c *cli) follow(notices iter.Seq2[client.Notice, error], count int) error {
	printed := 0
	var list []client.Notice // only for one document
	for n, err := range notices {
		var reset *client.Reset
		if errors.As(err, &reset) {
			return fmt.Errorf("%w\n  go on from there with: freshwire tail --after %s", err, reset.Oldest)
		}
		if err != nil {
			return err
		}
		switch c.output {
		case table:
			_, err = fmt.Fprintln(c.stdout, noticeLine(n))
		case ndjson:
			err = c.encode(n)
		default:
			list = append(list, n)
		}
		if err != nil {
			return err
		}
		if printed++; printed == count {
			break
		}
	}
	if c.output == asJSON {
		return many(c, list, nil)
	}
	return nil
}

// noticeLine is a notice for people: what to do with which resource, why, and
// what led to it.
func noticeLine(n client.Notice) string {
	cause := ""
	if n.Cause.URI != "" && n.Cause.URI != n.URI {
		cause = "because of " + n.Cause.URI
	}
	attempt := ""
	if n.Attempt > 0 {
		attempt = fmt.Sprintf("attempt %d", n.Attempt)
	}
	return words(n.Kind, n.URI, n.Reason, n.Change, version(n.Version), cause, attempt)
}
