package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/hub/mediawiki"
	"github.com/spf13/cobra"
)

const (
	// commonsPath and wikiPath are where the pages of the two wikis of this demo are.
	commonsPath = "https://commons.wikimedia.org/wiki/"
	wikiPath    = "https://en.wikipedia.org/wiki/"
	// playWait bounds the whole: what crosses between two hubs of this machine takes
	// milliseconds, and to be acknowledged up to five seconds.
	playWait = 2 * time.Minute
	// crossingPoll is how often the demo looks whether something has crossed.
	crossingPoll = 2 * time.Millisecond
)

func (c *cli) demoFederation() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "federation",
		Short: "watch two hubs tell each other of what crosses between them",
		Long: `Starts two hubs, each a process of its own on a temporary folder and a free port of this
machine: one speaks for Wikimedia Commons, the other for the English Wikipedia, with real
articles that show files of Commons. They become peers; then files change, the link
between the hubs is down for a while, and a page is saved without a change. What the hubs
say is checked at each step; it fails if something is not as told.`,
		Example: `  freshwire demo federation          # keeps running, for you to try commands
  freshwire demo federation --once   # ends after the last step`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.federate(cmd.Context(), once) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the last step")
	return cmd
}

// federate runs two hubs and the demo beside them, and returns when all have ended.
func (c *cli) federate(ctx context.Context, once bool) (err error) {
	d := &twoHubs{
		demo:    demo{clock: newClock(time.Now()), out: c.stdout},
		commons: side{name: "commons", speaksFor: "https://commons.wikimedia.org"}, articles: side{name: "wiki", speaksFor: "https://en.wikipedia.org"},
	}
	if err := d.gather(); err != nil {
		return err
	}
	for _, s := range d.both() {
		child, startErr := startPublicChild(ctx, "--federation-authority", s.speaksFor)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, child.stop()) }()
		alive, done := child.whileAlive(ctx)
		defer done()
		ctx = alive
		if s.hub, err = client.New(child.url, client.Options{Agent: "freshwire-demo"}); err != nil {
			return err
		}
	}
	d.demo.hub = d.articles.hub
	if err := d.play(ctx); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	if once {
		return nil
	}
	d.invite()
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// startPublicChild runs a hub in a process of its own that other hubs of this machine
// know by its address.
func startPublicChild(ctx context.Context, settings ...string) (h *childHub, err error) {
	err = onFreeAddress(ctx, func(address string) error {
		h, err = startChild(ctx, append([]string{"--listen", address, "--public-url", "http://" + address}, settings...)...)
		return err
	})
	return h, err
}

// addressTries bounds how often another free address is tried: one that was free a
// moment ago may be taken by a process of the machine, and hardly twice.
const addressTries = 3

// onFreeAddress calls start with addresses of this machine that are free, until one is
// good: a hub that other hubs know has to know its address before it has it.
func onFreeAddress(ctx context.Context, start func(address string) error) (err error) {
	for range addressTries {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		address := l.Addr().String()
		if err = l.Close(); err != nil {
			return err
		}
		if err = start(address); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// A side is one of the two hubs.
type side struct {
	name      string
	speaksFor string
	hub       *client.Client
	self      client.HubIdentity
}

// twoHubs is a demo of a wiki and its hub, with the hub of Commons beside it. The wiki
// of the demo has what both wikis have.
type twoHubs struct {
	demo
	commons, articles side
}

// The files of the demo that two articles show.
const (
	anatomy = "File:Frog anatomy tags.PNG"
	peoples = "File:Angola Ethnic map 1970.svg"
)

// gather picks from the recording the articles that show files of Commons, at the
// addresses that articles and files really have. To them it adds the wiki's own page of
// one file, which shows the description that is written on Commons.
func (d *twoHubs) gather() error {
	recording, err := readRecording()
	if err != nil {
		return err
	}
	recorded, err := readWiki(recording)
	if err != nil {
		return err
	}
	d.wiki = &wiki{renderings: map[string]client.Update{}, primaries: map[string]client.Update{}, revision: recorded.revision}
	before := d.clock.start.Add(-24 * time.Hour) // when all was as the articles saw it
	ofCommons := func(dep client.Dep) bool {
		_, local := recorded.primaries[dep.URI]
		return strings.HasSuffix(dep.URI, "#"+mediawiki.File) && !local
	}
	for _, uri := range recorded.pick(func(u *client.Update) bool { return slices.ContainsFunc(u.Deps, ofCommons) }) {
		var deps []client.Dep
		for _, dep := range recorded.renderings[uri].Deps {
			title := strings.TrimPrefix(dep.URI, articlePath)
			if ofCommons(dep) {
				dep.URI = commonsPath + title
				page, _, _ := strings.Cut(dep.URI, "#")
				d.wiki.take(mediawiki.Uploaded(page, digest(page, "first version"), before)...)
			} else {
				dep.URI = wikiPath + title
			}
			deps = append(deps, dep)
		}
		d.plan(wikiPath+strings.TrimPrefix(uri, articlePath), deps)
	}
	description := mediawiki.PageURI(commonsPath, anatomy)
	d.wiki.take(mediawiki.Edited(d.wiki.revise(description, before))...)
	d.plan(mediawiki.Aspect(mediawiki.PageURI(wikiPath, anatomy), mediawiki.Canonical),
		[]client.Dep{{URI: description}, {URI: mediawiki.Aspect(description, mediawiki.File)}})
	return nil
}

// plan adds a page to the wiki that is yet to be rendered.
func (d *twoHubs) plan(uri string, deps []client.Dep) {
	d.wiki.renderings[uri] = client.Update{URI: uri, Deps: deps}
}

func (d *twoHubs) say(format string, a ...any) { fmt.Fprintf(d.out, format+"\n", a...) }

// play plays everything. An answer that is not as told is an error.
func (d *twoHubs) play(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, playWait)
	defer cancel()
	stop, err := d.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := d.introduce(ctx); err != nil {
		return err
	}
	for i, step := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"each operator adds the other hub, by the fingerprint that the other one reads", d.meet},
		{"the wiki renders articles that show files of Commons", d.askAcross},
		{"somebody uploads a new version of " + anatomy + " on Commons", d.upload},
		{"the link is down while " + peoples + " changes from a to b and to c", d.linkDown},
		{"somebody saves the description of " + anatomy + " without changing anything", d.nullEdit},
		{"how the two see each other in the end", d.conclude},
	} {
		d.say("\n%d. %s", i+1, capital(step.title))
		if err := step.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	d.say("\nAll %d pages are fresh, and every answer was checked.", len(d.wiki.renderings))
	return nil
}

// until waits for something to hold.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	for {
		if good, err := holds(); good || err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not come to be that %s: %w", what, ctx.Err())
		case <-time.After(crossingPoll):
		}
	}
}

func (d *twoHubs) both() [2]*side { return [2]*side{&d.commons, &d.articles} }

// introduce tells who the hubs are, as each one says itself.
func (d *twoHubs) introduce(ctx context.Context) (err error) {
	d.say("Two hubs run on this machine:")
	for _, s := range d.both() {
		if s.self, _, err = s.hub.Peers(ctx); err != nil {
			return err
		}
		if !slices.Equal(s.self.Authority, []string{s.speaksFor}) {
			return fmt.Errorf("%s speaks for %q, expected %s", s.name, s.self.Authority, s.speaksFor)
		}
		d.say("  %-8s %s  speaks for %s", s.name, s.self.URL, s.speaksFor)
	}
	return nil
}

// meet makes the hubs peers, as their operators would.
func (d *twoHubs) meet(ctx context.Context) error {
	both := d.both()
	began := time.Now()
	for i, s := range both {
		other := both[1-i]
		seen, err := s.hub.LookPeer(ctx, other.self.URL)
		if err != nil {
			return err
		}
		if seen.Fingerprint != other.self.Fingerprint {
			return fmt.Errorf("%s sees the fingerprint %s of %s, which reads %s", s.name, seen.Fingerprint, other.name, other.self.Fingerprint)
		}
		d.say("   %s$ freshwire peer add %s --fingerprint %s --authority %s", s.name, seen.URL, seen.Fingerprint, other.speaksFor)
		if _, err := s.hub.AddPeer(ctx, client.PeerDefinition{URL: seen.URL, Fingerprint: seen.Fingerprint, Authority: []string{other.speaksFor}}); err != nil {
			return err
		}
	}
	for i, s := range both {
		if err := d.untilFollows(ctx, s, both[1-i]); err != nil {
			return err
		}
	}
	d.say("   → each follows the other after %s.", took(began))
	return nil
}

// untilFollows waits until a hub hears the other one.
func (d *twoHubs) untilFollows(ctx context.Context, s, other *side) error {
	return until(ctx, s.name+" follows "+other.name, func() (bool, error) {
		p, err := s.hub.Peer(ctx, other.self.URL)
		return p.Phase == client.PeerFollowing, err
	})
}

// heard is how it is with Commons, as the wiki's hub sees it.
func (d *twoHubs) heard(ctx context.Context) (client.Peer, error) {
	return d.articles.hub.Peer(ctx, d.commons.self.URL)
}

// told is how it is with the wiki's hub, as Commons sees it.
func (d *twoHubs) told(ctx context.Context) (client.Peer, error) {
	return d.commons.hub.Peer(ctx, d.articles.self.URL)
}

// onCommons sends what happened on Commons to its hub.
func (d *twoHubs) onCommons(ctx context.Context, updates ...client.Update) error {
	if _, err := d.commons.hub.Update(ctx, updates...); err != nil {
		return err
	}
	last := d.wiki.sent // to the wiki's hub
	d.wiki.take(updates...)
	d.wiki.sent = last
	return nil
}

// askAcross loads both hubs, and checks what is asked across the boundary.
func (d *twoHubs) askAcross(ctx context.Context) error {
	began := time.Now()
	if err := d.onCommons(ctx, slices.Collect(maps.Values(d.wiki.primaries))...); err != nil {
		return err
	}
	edges, across := 0, 0
	var pages []client.Update
	for _, uri := range slices.Sorted(maps.Keys(d.wiki.renderings)) {
		u := d.wiki.render(uri, d.clock.now(), "")
		for _, dep := range u.Deps {
			edges++
			if strings.HasPrefix(dep.URI, commonsPath) {
				across++
			}
		}
		pages = append(pages, u)
	}
	if err := d.send(ctx, pages...); err != nil {
		return err
	}
	want := int64(len(d.wiki.primaries))
	if err := until(ctx, fmt.Sprintf("%d resources are asked for and heard", want), func() (bool, error) {
		p, err := d.heard(ctx)
		return p.Hears.Mirrors == want && p.Hears.Pending == 0 && int64(p.Hears.Changed) == want, err
	}); err != nil {
		return err
	}
	p, err := d.told(ctx)
	if err != nil {
		return err
	}
	if p.Tells.Interests != want || p.Tells.Denied != 0 {
		return fmt.Errorf("commons tells of %d resources and denies %d, expected %d and none", p.Tells.Interests, p.Tells.Denied, want)
	}
	d.say("   %d pages have %d dependencies. %d of those lie on Commons, in %d resources.", len(pages), edges, across, want)
	d.say("   The wiki's hub asks for each of the %d once, and hears how it is, %s after the first update.", want, took(began))
	if err := d.asked(ctx, began, ""); err != nil {
		return err
	}
	d.say("   → all pages saw what Commons says there is: nobody is disturbed.")
	return nil
}

// asked reads notices until each rendering of want is to be made again, because of a
// file, has them made again, and checks that no others are to be.
func (d *twoHubs) asked(ctx context.Context, began time.Time, file string, want ...string) error {
	asked := map[string]client.Notice{}
	for len(asked) < len(want) {
		n, err, ok := d.next()
		if err != nil || !ok {
			return errors.Join(err, ctx.Err(), fmt.Errorf("the stream ended, and %d of %d pages are to be rendered again", len(asked), len(want)))
		}
		d.place = n.Token
		if n.Kind == client.KindRefresh {
			if asked[n.URI] = n; n.Cause.URI != file {
				return fmt.Errorf("%s is to be made again because of %s, expected %s", n.URI, n.Cause.URI, file)
			}
			d.say("     wiki     refresh %s (%s: %s), after %s", mediawiki.Title(wikiPath, n.URI), n.Reason, mediawiki.Title(commonsPath, n.Cause.URI), took(began))
		}
	}
	more, err := d.settled(ctx, func(client.Notice) {})
	if err != nil {
		return err
	}
	maps.Copy(asked, more)
	if err := same(slices.Sorted(maps.Keys(asked)), want); err != nil {
		return err
	}
	if len(want) > 0 {
		e, err := d.articles.hub.Why(ctx, want[0])
		if err != nil {
			return err
		}
		if n := len(e.Chain); n == 0 || e.Chain[n-1].URI != file || e.Chain[n-1].Version != d.wiki.primaries[file].Version {
			return fmt.Errorf("the hub does not explain %s by %s: %s", want[0], file, e.Text)
		}
		if err := d.quote(fmt.Sprintf("wiki$ freshwire why '%s'", want[0]), func(w io.Writer) { drawExplanation(w, e) }); err != nil {
			return err
		}
	}
	return d.answer(ctx, asked)
}

// upload plays that a file changes which two articles and its own page show.
func (d *twoHubs) upload(ctx context.Context) error {
	page := mediawiki.PageURI(commonsPath, anatomy)
	file := mediawiki.Aspect(page, mediawiki.File)
	began := time.Now()
	if err := d.onCommons(ctx, mediawiki.Uploaded(page, digest(page, "second version"), d.clock.now())...); err != nil {
		return err
	}
	d.say("     commons  is sent %s %s", mediawiki.Title(commonsPath, file), version(short(d.wiki.primaries[file].Version)))
	want := d.wiki.madeFrom(file)
	if err := d.asked(ctx, began, file, want...); err != nil {
		return err
	}
	d.say("   → %d of %d pages are rendered again, and the wiki's hub asks for nothing more.", len(want), len(d.wiki.renderings))
	return nil
}

// linkDown plays that a file changes twice while the hubs do not exchange, and that each
// of the two articles that show it is rendered meanwhile, from another version.
func (d *twoHubs) linkDown(ctx context.Context) error {
	page := mediawiki.PageURI(commonsPath, peoples)
	file := mediawiki.Aspect(page, mediawiki.File)
	shows := d.wiki.madeFrom(file)
	d.say("   wiki$ freshwire peer pause %s", d.commons.self.URL)
	if _, err := d.articles.hub.ControlPeer(ctx, d.commons.self.URL, "pause"); err != nil {
		return err
	}
	before, err := d.told(ctx)
	if err != nil {
		return err
	}
	for i, version := range []string{"b", "c"} {
		if err := d.onCommons(ctx, mediawiki.Uploaded(page, digest(page, version), d.clock.now())...); err != nil {
			return err
		}
		if err := d.send(ctx, d.wiki.render(shows[i], d.clock.now(), "")); err != nil {
			return err
		}
		d.say("     commons  is sent %s; meanwhile the wiki renders %s, which shows %s", version, mediawiki.Title(wikiPath, shows[i]), version)
	}
	if err := d.asked(ctx, time.Now(), ""); err != nil {
		return fmt.Errorf("while the link is down: %w", err)
	}
	d.say("   wiki$ freshwire peer resume %s", d.commons.self.URL)
	began := time.Now()
	if _, err := d.articles.hub.ControlPeer(ctx, d.commons.self.URL, "resume"); err != nil {
		return err
	}
	if err := d.asked(ctx, began, file, shows[0]); err != nil {
		return err
	}
	if err := d.crossed(ctx, before, 1); err != nil {
		return err
	}
	d.say("   → one state crossed, c. What was rendered from b is rendered again; what saw c is left alone.")
	return nil
}

// crossed checks how many states Commons told the wiki since then.
func (d *twoHubs) crossed(ctx context.Context, since client.Peer, want uint64) error {
	now, err := d.told(ctx)
	if n := now.Tells.Told - since.Tells.Told; err == nil && n != want {
		err = fmt.Errorf("%d states crossed, expected %d", n, want)
	}
	return err
}

// nullEdit plays that a description is saved as it was, in a new revision.
func (d *twoHubs) nullEdit(ctx context.Context) error {
	page := mediawiki.PageURI(commonsPath, anatomy)
	before, err := d.told(ctx)
	if err != nil {
		return err
	}
	r := d.wiki.revise(page, d.clock.now())
	r.SHA1 = d.wiki.primaries[page].Hash
	began := time.Now()
	if err := d.onCommons(ctx, mediawiki.Edited(r)...); err != nil {
		return err
	}
	revision := d.wiki.primaries[page].Version
	if err := until(ctx, "the wiki hears of revision "+revision, func() (bool, error) {
		all, err := d.articles.hub.Status(ctx, page)
		return err == nil && all[0].Version == revision, err
	}); err != nil {
		return err
	}
	d.say("     wiki     hears that the description is at revision %s, after %s", revision, took(began))
	if err := errors.Join(d.asked(ctx, began, ""), d.crossed(ctx, before, 1)); err != nil {
		return err
	}
	d.say("   → one state crossed, and nobody is asked to do anything: the content is what it was.")
	return nil
}

// conclude shows how it is with both peers.
func (d *twoHubs) conclude(ctx context.Context) error {
	if err := errors.Join(d.untilFollows(ctx, &d.commons, &d.articles), d.untilFollows(ctx, &d.articles, &d.commons)); err != nil {
		return err
	}
	if err := until(ctx, "all is acknowledged", func() (bool, error) {
		p, err := d.told(ctx)
		return p.Tells.Waiting == 0, err
	}); err != nil {
		return err
	}
	heard, err := d.heard(ctx)
	told, err2 := d.told(ctx)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	for _, v := range []struct {
		side *side
		peer *client.Peer
	}{{&d.articles, &heard}, {&d.commons, &told}} {
		command := fmt.Sprintf("%s$ freshwire peer show %s", v.side.name, v.peer.URL)
		if err := d.quote(command, func(w io.Writer) { drawPeer(w, &v.side.self, v.peer) }); err != nil {
			return err
		}
	}
	return nil
}

// quote shows a command and what it prints.
func (d *twoHubs) quote(command string, draw func(io.Writer)) error {
	var printed bytes.Buffer
	if err := (&cli{stdout: &printed}).draw(draw); err != nil {
		return err
	}
	d.say("   %s", command)
	for line := range strings.Lines(printed.String()) {
		fmt.Fprintf(d.out, "     %s", line)
	}
	return nil
}

// took is how long ago something began, to a tenth of a millisecond.
func took(began time.Time) time.Duration { return time.Since(began).Round(100 * time.Microsecond) }

// invite prints commands to try.
func (d *twoHubs) invite() {
	page := mediawiki.PageURI(commonsPath, peoples)
	file := mediawiki.Aspect(page, mediawiki.File)
	d.say(`
The hubs are still there, until you press Ctrl-C. Watch the wiki's in one terminal

  freshwire tail --hub %[2]s

and tell that of Commons of another upload in a second one:

  freshwire put --hub %[1]s --type file --version d --hash d '%[3]s'
  freshwire why --hub %[2]s '%[4]s'
  freshwire peer ls --hub %[2]s`, d.commons.self.URL, d.articles.self.URL, file, d.wiki.madeFrom(file)[0])
}
