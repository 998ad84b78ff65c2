package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/hub/mediawiki"
	"github.com/spf13/cobra"
)

func (c *cli) demo() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "watch a hub work on a recorded wiki",
		Long: `Starts a hub on a temporary folder and a free port of this machine, loads what a real
MediaWiki reported while it rendered 228 pages, and plays edits by sending what
MediaWiki would send. Each answer of the hub is checked against the recorded data;
demo fails if one is wrong.`,
		Example: `  freshwire demo          # keeps running, for you to try requests
  freshwire demo --once   # ends after the last edit
  freshwire demo federation --once   # two hubs, and what crosses between them`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.play(cmd.Context(), once) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the last edit")
	cmd.AddCommand(c.demoFederation())
	return cmd
}

// play runs a hub and the demo beside it, and returns when both have ended.
func (c *cli) play(ctx context.Context, once bool) (err error) {
	recording, err := readRecording()
	if err != nil {
		return err
	}
	w, err := readWiki(recording)
	if err != nil {
		return err
	}
	data, err := os.MkdirTemp("", "freshwire-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data)
	clock := newClock(w.now.Add(time.Second))
	local, err := startHub(ctx, demoConfig(data, clock.start), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() {
		if local != nil {
			err = errors.Join(err, local.stop())
		}
	}()
	d := &demo{wiki: w, clock: clock, out: c.stdout}
	if d.hub, err = client.New(local.url, client.Options{Agent: "freshwire-demo"}); err != nil {
		return err
	}
	if err := d.run(ctx, recording); err != nil {
		return err
	}
	if local, err = c.anHourLater(ctx, local, d, data); err != nil {
		return err
	}
	if err := d.digest(ctx); err != nil || once {
		return err
	}
	d.invite()
	return local.wait()
}

// demoConfig is that of a hub of its own, whose clock starts at start.
func demoConfig(data string, start time.Time) hub.Config {
	cfg := hub.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.ClockStart = "127.0.0.1:0", data, start
	return cfg
}

// A clock runs on from the end of the recording, as the demo's hub does.
type clock struct {
	start time.Time
	began time.Time
}

func newClock(start time.Time) clock { return clock{start, time.Now()} }

func (c clock) now() time.Time { return c.start.Add(time.Since(c.began)).UTC() }

// A demo plays the wiki to a hub and checks what the hub says. It knows the hub
// by its public API alone.
type demo struct {
	hub   *client.Client
	wiki  *wiki
	clock clock
	out   io.Writer
	next  func() (client.Notice, error, bool) // the next notice of the hub's stream
	place string                              // the token of the last notice taken
}

// jobsPoll is how often the demo asks whether a fan-out is through: those of the
// recorded wiki take about a millisecond.
const jobsPoll = 2 * time.Millisecond

// run plays everything. An answer that the recorded data contradict is an error.
func (d *demo) run(ctx context.Context, recording []byte) error {
	stop, err := d.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := d.load(ctx, recording); err != nil {
		return err
	}
	for i, begin := range scenes {
		s := begin(d.wiki, d.clock.now())
		fmt.Fprintf(d.out, "\n%d. %s\n", i+1, capital(s.title))
		if err := d.act(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
	}
	return d.conclude(ctx)
}

// listen opens the stream of notices.
func (d *demo) listen(ctx context.Context) (stop func(), err error) {
	if d.place, err = d.hub.Token(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	next, end := iter.Pull2(d.hub.Stream(ctx, client.StreamOptions{After: d.place}))
	d.next = next
	return func() { cancel(); end() }, nil
}

// send sends what the wiki did, and records it there.
func (d *demo) send(ctx context.Context, updates ...client.Update) error {
	if _, err := d.hub.Update(ctx, updates...); err != nil {
		return err
	}
	d.wiki.take(updates...)
	return nil
}

// settled takes the notices until the hub has nothing left to say, and returns
// the resources that it asks to be made again, with the last notice of each.
// show is called for each notice as it arrives.
//
// What the wiki sent last it sends once more, as job queues do. That is a
// duplicate and changes nothing, but its answer tells how far the journal is,
// after all that came before it.
func (d *demo) settled(ctx context.Context, show func(client.Notice)) (map[string]client.Notice, error) {
	for {
		jobs, err := d.hub.Jobs(ctx)
		if err != nil {
			return nil, err
		}
		if len(jobs) == 0 {
			break
		}
		select {
		case <-time.After(jobsPoll):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r, err := d.hub.Update(ctx, d.wiki.sent)
	if err != nil {
		return nil, err
	}
	if r.Duplicates != r.Accepted {
		return nil, fmt.Errorf("a second delivery was taken for news: %s", tell(r))
	}
	refresh := map[string]client.Notice{}
	for d.place != r.Cursor {
		n, err, ok := d.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, errors.Join(ctx.Err(), errors.New("the stream ended"))
		}
		d.place = n.Token
		if n.Kind == client.KindRefresh {
			refresh[n.URI] = n
		}
		show(n)
	}
	return refresh, nil
}

// load sends the recording, and has made again what the hub finds outdated in it.
func (d *demo) load(ctx context.Context, recording []byte) error {
	began := time.Now()
	total, err := d.hub.UpdateLines(ctx, recording)
	if err != nil {
		return err
	}
	took := time.Since(began)
	asked, err := d.settled(ctx, func(client.Notice) {})
	if err != nil {
		return err
	}
	edges := 0
	for _, u := range d.wiki.renderings {
		edges += len(u.Deps)
	}
	fmt.Fprintf(d.out, "Loaded what a real wiki sent: %s%s\n", tell(total), pace(total.Accepted, took))
	fmt.Fprintf(d.out, "  %d rendered pages, with %d dependencies\n", len(d.wiki.renderings), edges)
	return d.catchUp(ctx, asked)
}

// catchUp checks which renderings the hub calls outdated after the recording, and
// makes those again.
func (d *demo) catchUp(ctx context.Context, asked map[string]client.Notice) error {
	due, err := d.due(ctx)
	if err != nil {
		return err
	}
	outdated := d.wiki.outdated()
	guessed := slices.DeleteFunc(slices.Clone(due), func(uri string) bool {
		return asked[uri].Rule != "time" || !d.wiki.undecidable(uri) || slices.Contains(outdated, uri)
	})
	fmt.Fprintf(d.out, "  The recording ended before the wiki had caught up with itself. The hub asks again\n"+
		"    %3d because a link in them is red, and the page was written a moment later\n"+
		"    %3d because they do not say which version they saw of what was changing\n",
		len(outdated), len(guessed))
	if err := same(due, append(outdated, guessed...)); err != nil {
		return fmt.Errorf("after loading: %w", err)
	}
	notices := map[string]client.Notice{}
	for _, uri := range due {
		notices[uri] = asked[uri]
	}
	if err := d.answer(ctx, notices); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  MediaWiki renders those %d again. Now all is fresh.\n", len(due))
	return nil
}

// due lists the renderings that are to be made again, or wait, as the hub's own
// status says.
func (d *demo) due(ctx context.Context) ([]string, error) {
	all, err := d.hub.Status(ctx, slices.Sorted(maps.Keys(d.wiki.renderings))...)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, s := range all {
		if s.State != client.StateClean {
			list = append(list, s.URI)
		}
	}
	return list, nil
}

// act plays a scene: the wiki sends, the hub asks, the wiki answers.
func (d *demo) act(ctx context.Context, s scene) error {
	if err := d.send(ctx, s.updates...); err != nil {
		return err
	}
	for _, u := range s.updates {
		fmt.Fprintf(d.out, "   MediaWiki sends  %s\n", words(mediawiki.Title(articlePath, u.URI), u.Action, version(short(u.Version)), hashed(u)))
	}
	asked, err := d.settled(ctx, d.show)
	if err != nil {
		return err
	}
	if err := same(slices.Sorted(maps.Keys(asked)), s.want); err != nil {
		return err
	}
	d.sum(s)
	return d.answer(ctx, asked)
}

// show prints a notice as it arrives.
func (d *demo) show(n client.Notice) {
	what := ""
	if n.Kind == client.KindRefresh {
		what = fmt.Sprintf("(%s: %s)", n.Reason, mediawiki.Title(articlePath, n.Cause.URI))
	} else {
		what = fmt.Sprintf("(%s: %s)", n.Reason, n.Change)
	}
	fmt.Fprintf(d.out, "     %s  %s %s\n", n.Kind, mediawiki.Title(articlePath, n.URI), what)
}

// answer renders what the hub asks for, sends it, and checks that the hub asks
// for nothing more.
func (d *demo) answer(ctx context.Context, asked map[string]client.Notice) error {
	var updates []client.Update
	for _, uri := range slices.Sorted(maps.Keys(asked)) {
		updates = append(updates, d.wiki.render(uri, d.clock.now(), asked[uri].Token))
	}
	if len(updates) > 0 {
		if err := d.send(ctx, updates...); err != nil {
			return err
		}
		more, err := d.settled(ctx, func(client.Notice) {})
		if err != nil {
			return err
		}
		if err := same(slices.Sorted(maps.Keys(more)), nil); err != nil {
			return fmt.Errorf("after they were rendered again: %w", err)
		}
	}
	due, err := d.due(ctx)
	if err != nil {
		return err
	}
	if err := same(due, nil); err != nil {
		return fmt.Errorf("after they were rendered again: %w", err)
	}
	return nil
}

// sum says what a scene means.
func (d *demo) sum(s scene) {
	n, all := len(s.want), len(d.wiki.renderings)
	if n > 0 {
		fmt.Fprintf(d.out, "   → %d of %d pages must be rendered again: %s.\n", n, all, s.reason)
	} else {
		fmt.Fprintf(d.out, "   → nothing must be rendered again.\n")
	}
	fmt.Fprintf(d.out, "     %d are not disturbed: they %s.\n", all-n, s.spared)
	if len(s.linking) > 0 {
		fmt.Fprintf(d.out, "     Among those, %d link to it; a link only shows whether the page exists.\n", len(s.linking))
	}
	if n > 0 {
		fmt.Fprintf(d.out, "     MediaWiki renders and says what it saw; the hub asks for nothing more.\n")
	}
}

// conclude says that all is well.
func (d *demo) conclude(ctx context.Context) error {
	due, err := d.due(ctx)
	if err != nil {
		return err
	}
	if err := same(due, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.out, "\nAll %d pages are fresh, and every answer was checked against the recorded data.\n", len(d.wiki.renderings))
	return err
}

// invite prints requests to try.
func (d *demo) invite() {
	page := mediawiki.PageURI(articlePath, "Template:Mid")
	rendering := mediawiki.Aspect(mediawiki.PageURI(articlePath, "Article 03"), mediawiki.Canonical)
	quoted := strings.ReplaceAll(rendering, "#", "%23")
	fmt.Fprintf(d.out, `
The hub is still there, at %[1]s, until you press Ctrl-C. Watch it in one terminal

  curl -N %[1]s/v1/stream

and tell it of an edit in another:

  curl %[1]s/v1/updates -H 'Content-Type: application/json' \
    -d '{"uri":"%[2]s","version":"%[3]d"}'

Then ask why, and what another edit would cost:

  curl '%[1]s/v1/why?uri=%[4]s'
  curl '%[1]s/v1/impact?uri=%[2]s'

Or read the hour that has closed, at %[1]s/digest/

The same with this command:

  export FRESHWIRE_HUB=%[1]s
  freshwire tail
  freshwire put %[2]s --version %[6]d
  freshwire why '%[5]s'
`, d.hub.URL(), page, d.wiki.revision+1, quoted, rendering, d.wiki.revision+2)
}

// same reports how the hub's answer differs from what the recorded data say.
func same(got, want []string) error {
	only := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	}
	var text []string
	if extra := only(got, want); len(extra) > 0 {
		text = append(text, "the hub names without need: "+strings.Join(extra, ", "))
	}
	if missing := only(want, got); len(missing) > 0 {
		text = append(text, "the hub does not name: "+strings.Join(missing, ", "))
	}
	if len(text) == 0 {
		return nil
	}
	return fmt.Errorf("%d resources, expected %d; %s", len(got), len(want), strings.Join(text, "; "))
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// short cuts a digest to what a person compares.
func short(s string) string {
	if len(s) > 12 {
		return s[:8] + "…"
	}
	return s
}

// hashed is the digest of an update whose version is another thing.
func hashed(u client.Update) string {
	if u.Hash == "" || u.Hash == u.Version {
		return ""
	}
	return "hash " + short(u.Hash)
}
