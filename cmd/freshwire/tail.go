package main

import (
	"fmt"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// A tailFlags says which notices to print, what to do with them, and when to stop.
type tailFlags struct {
	filter  client.Filter
	channel string
	since   string
	after   string
	count   int
	once    bool

	cursor  string // the file that keeps the place
	command string // to run for each notice instead of printing it
	retries int
	onReset string
}

// What to do when the hub does not hold the place to go on from.
const (
	resetFail     = "fail"
	resetContinue = "continue"
)

const tailHelp = `Prints notices: "changed" when there is a new version (who holds a copy fetches it),
"refresh" when something is to be made again (who makes it makes it). Without
--since or --after it begins now and follows until it is interrupted, across
restarts of the hub.

With --cursor it keeps its place in a file and goes on there the next time, so that
each notice is handled once; after a crash the last ones may come again. Each file
is for one tail. --since then says where to begin the first time.

With --exec it runs a command for each notice, one after the other. The notice is
on its standard input as JSON, and in the environment are FRESHWIRE_KIND,
FRESHWIRE_URI, FRESHWIRE_TYPE, FRESHWIRE_VERSION, FRESHWIRE_TOKEN and the hub's
address, FRESHWIRE_HUB. A command that fails is run again after growing waits;
when it has failed once more than --retries, tail fails and the next run begins
with that notice. When tail is interrupted the command may finish.

If the hub no longer holds the place to go on from, tail says so and fails: what was
missed cannot be printed. With --on-reset continue it warns, and goes on with all
that the hub still holds.`

func (c *cli) tail() *cobra.Command {
	var f tailFlags
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "print the notices as they are written, or run a command for each",
		Long:  tailHelp,
		Example: `  freshwire tail                               # from now on
  freshwire tail --kind refresh --type html    # only what must be rendered again
  freshwire tail --prefix https://en.example.org/wiki/Berlin -o ndjson
  freshwire tail --channel maps --since 1h     # a filter that the hub keeps, with the last hour
  freshwire tail --since 1h --once             # the last hour, then stop
  freshwire tail --once                        # all the hub still holds, then stop
  freshwire tail -n 1                          # wait for one
  freshwire tail --cursor place --kind changed --exec 'curl -fsS -X PURGE "$FRESHWIRE_URI"'
  freshwire tail --cursor place --once --exec ./make-again   # what came since the last time`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			if err := f.check(cmd.Flags().Changed); err != nil {
				return err
			}
			o, err := f.options(time.Now())
			if err != nil {
				return err
			}
			return c.newTailing(hub, &f).run(cmd.Context(), o)
		},
	}
	f.bind(cmd)
	return c.chooseOutput(cmd)
}

// bind gives the flags their names.
func (f *tailFlags) bind(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.filter.URIs, "uri", nil, "only this URI, repeatable")
	fl.StringArrayVar(&f.filter.Prefixes, "prefix", nil, "only what lies under it, by whole path segments, repeatable")
	fl.StringArrayVar(&f.filter.Hosts, "host", nil, "only this host, repeatable")
	fl.StringArrayVar(&f.filter.Types, "type", nil, "only this type, repeatable")
	fl.StringArrayVar(&f.filter.Buckets, "bucket", nil, "only this bucket, repeatable")
	fl.StringArrayVar(&f.filter.Kinds, "kind", nil, "only changed or refresh")
	fl.StringArrayVar(&f.filter.Lanes, "lane", nil, "only prompt or bulk")
	fl.StringVar(&f.channel, "channel", "", "only what passes this channel of the hub, instead of the above")
	fl.StringVar(&f.since, "since", "", "begin with what was written then (RFC 3339, or how long ago)")
	fl.StringVar(&f.after, "after", "", "begin after this token")
	fl.IntVarP(&f.count, "lines", "n", 0, "stop after so many notices (0: never)")
	fl.BoolVar(&f.once, "once", false, "stop at the end of what the hub holds now")
	fl.StringVar(&f.cursor, "cursor", "", "file that keeps the place for the next run")
	fl.StringVar(&f.command, "exec", "", "run this command by sh -c for each notice instead of printing it")
	fl.IntVar(&f.retries, "retries", 5, "how often to run a failing command again")
	fl.StringVar(&f.onReset, "on-reset", resetFail, "fail, or continue with what the hub still holds")
}

// check refuses flags that do not go together; given tells which were.
func (f *tailFlags) check(given func(flag string) bool) error {
	for _, pair := range [][2]string{{"since", "after"}, {"cursor", "after"}, {"exec", "output"}, {"channel", "uri"},
		{"channel", "prefix"}, {"channel", "host"}, {"channel", "type"}, {"channel", "bucket"}, {"channel", "kind"}, {"channel", "lane"}} {
		if given(pair[0]) && given(pair[1]) {
			return usagef("--%s and --%s: give one of them", pair[0], pair[1])
		}
	}
	for _, name := range []string{"cursor", "exec", "channel"} {
		if given(name) && map[string]string{"cursor": f.cursor, "exec": f.command, "channel": f.channel}[name] == "" {
			return usagef("--%s: want a value that is not empty", name)
		}
	}
	switch {
	case f.count < 0:
		return usagef("-n %d: want 0 or more", f.count)
	case f.retries < 0:
		return usagef("--retries %d: want 0 or more", f.retries)
	case given("retries") && f.command == "":
		return usagef("--retries: there is no --exec")
	case f.onReset != resetFail && f.onReset != resetContinue:
		return usagef("--on-reset %q: want %s or %s", f.onReset, resetFail, resetContinue)
	}
	return nil
}

// options says what to stream, as the flags ask.
func (f *tailFlags) options(now time.Time) (client.StreamOptions, error) {
	since, err := parseTime("--since", f.since, now)
	return client.StreamOptions{Filter: f.filter, Channel: f.channel, After: f.after, Since: since}, err
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
