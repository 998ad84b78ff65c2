package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/bench"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// benchedPrefix is what the first of the two hubs speaks for.
const benchedPrefix = "http://files.bench"

func (c *cli) benchPeers() *cobra.Command {
	o := bench.PeerOptions{Progress: c.stderr}
	var peerToken string
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "measure what passes from one hub to its peer, and check it",
		Long: `Publishes files at a hub and pages that are made from them at its peer, changes the
files, and checks that each page is to be refreshed, once.

It measures how late: from just before an update of a file is sent to the hub until the
notice of its page comes from the stream of the peer, with nothing else to do, and beside
updates of other files (--rate). Then how fast: all files (--files) change while the peer is
paused, and it hears of them, once when each has a page refreshed, and once when all pages
are to be refreshed already. And how much: one file that many pages are made from
(--dependents) changes, of which one state may cross.

Without --hub and --peer it starts two hubs of its own, each a process of this executable on
a free port and a temporary folder, and makes them peers. Hubs that are named have to be
peers already (freshwire peer add), and the peer has to take the hub for who speaks for some
prefix of http or https: below that, files are made up, and come into both stores, and stay
there. Nobody else may publish to them meanwhile; the exchange is paused twice.

It fails if the peer has another version of a file than the hub in the end, if a page is not
to be refreshed whose file changed, or if it was told of it twice or for nothing.`,
		Example: `  freshwire bench peers
  freshwire bench peers --updates 2000 --rate 500 --files 0 --dependents 0   # latency alone
  freshwire bench peers --updates 0 --dependents 0 --files 500000 -o json    # catching up alone
  freshwire bench peers --hub http://127.0.0.1:8420 --peer http://127.0.0.1:8421`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			own := !cmd.Flags().Changed("hub")
			if own == cmd.Flags().Changed("peer") {
				return usagef("--hub and --peer: give both, or none of them")
			}
			if own { // until they have started, so that all else is checked before
				o.Hub, o.Peer = defaultHub, defaultHub
			} else if err := c.nameHubs(&o, peerToken); err != nil {
				return err
			}
			// What is left out is a number below 0 there: 0 is the default.
			for _, n := range []*int{&o.Updates, &o.Files, &o.Dependents} {
				if *n == 0 {
					*n = -1
				}
			}
			if o.Rate == 0 {
				o.Rate = -1
			}
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			return c.measurePeers(cmd.Context(), o, own)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.Peer, "peer", "", "address of the peer, for which --hub speaks for something")
	fl.StringVar(&peerToken, "peer-token-file", "", "file with the token that the peer asks for")
	fl.IntVar(&o.Updates, "updates", 500, "updates whose latency is measured, in each of two parts (0: none)")
	fl.Float64Var(&o.Rate, "rate", 200, "updates of other files a second in the second part (0: no such part)")
	fl.IntVar(&o.Files, "files", 100_000, "files that change while the peer is paused (0: none)")
	fl.IntVar(&o.Dependents, "dependents", 1_000_000, "pages that are made from one file (0: none)")
	fl.DurationVar(&o.Patience, "patience", 2*time.Minute, "how long to wait for hubs that make no progress")
	return c.chooseOutput(cmd)
}

// nameHubs notes which hubs the user named, and with which tokens.
func (c *cli) nameHubs(o *bench.PeerOptions, peerToken string) (err error) {
	o.Hub = c.hub
	if o.Token, err = c.bearer(); err != nil || peerToken == "" {
		return err
	}
	b, err := os.ReadFile(peerToken)
	if err != nil {
		return usageError{err}
	}
	o.PeerToken = strings.TrimSpace(string(b))
	return nil
}

// measurePeers runs the benchmark, on two hubs of its own if so asked. A benchmark of a
// hub that died ends with why it did.
func (c *cli) measurePeers(ctx context.Context, o bench.PeerOptions, own bool) (err error) {
	if own {
		for _, h := range []struct {
			address  *string
			settings []string
		}{{&o.Hub, []string{"--federation-authority", benchedPrefix}}, {&o.Peer, nil}} {
			child, startErr := startPublicChild(ctx, h.settings...)
			if startErr != nil {
				return startErr
			}
			defer func() { err = errors.Join(err, child.stop()) }()
			alive, done := child.whileAlive(ctx)
			defer done()
			ctx, *h.address = alive, child.url
		}
		if err := acquaint(ctx, o.Hub, o.Peer); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
	r, err := bench.Peers(ctx, o)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	if err := c.one(r, func(w io.Writer) { drawPeers(w, r) }); err != nil {
		return err
	}
	return r.Err()
}

// acquaint makes two hubs of this user peers, the second one last, which then is not
// refused by the first.
func acquaint(ctx context.Context, first, second string) error {
	var hubs [2]*client.Client
	var selves [2]client.HubIdentity
	for i, address := range []string{first, second} {
		var err error
		if hubs[i], err = client.New(address, client.Options{Agent: "freshwire-bench"}); err != nil {
			return err
		}
		if selves[i], _, err = hubs[i].Peers(ctx); err != nil {
			return err
		}
	}
	for i, hub := range hubs {
		other := &selves[1-i]
		if _, err := hub.AddPeer(ctx, client.PeerDefinition{URL: other.URL, Fingerprint: other.Fingerprint, Authority: other.Authority}); err != nil {
			return err
		}
	}
	return nil
}

// drawPeers is a report for people.
func drawPeers(w io.Writer, r *bench.PeersReport) {
	spread := func(s bench.Spread) string {
		return fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, max %.2f ms", s.P50, s.P99, s.Max)
	}
	crossings := func(name string, p bench.Crossings) {
		if p.Updates > 0 {
			field(w, name, fmt.Sprintf("%s, of %d updates", spread(p.Latency), p.Updates))
			field(w, "  answered after", spread(p.Answered))
		}
	}
	catchUp := func(name string, p bench.CatchUp) {
		if p.States > 0 {
			field(w, name, fmt.Sprintf("%.0f states/s: %d in %.2f s, of %d told", p.Rate, p.States, p.Seconds, p.Told))
			field(w, "  for 100,000 states", fmt.Sprintf("%.2f CPU-seconds of the hub, %.2f of the peer", p.HubCPU, p.PeerCPU))
		}
	}
	field(w, "published", fmt.Sprintf("%d files and %d pages, heard of after %.2f s", r.Files, r.Pages, r.SetupSeconds))
	crossings("latency", r.Idle)
	crossings(fmt.Sprintf("beside %.0f updates/s", r.Loaded.Rate), r.Loaded)
	catchUp("catching up, with refreshes", r.Refreshing)
	catchUp("catching up, states alone", r.Alone)
	if e := r.Edit; e.Dependents > 0 {
		field(w, fmt.Sprintf("a file of %d pages", e.Dependents), fmt.Sprintf("states that crossed: %d", e.Crossed))
		field(w, "  notices", fmt.Sprintf("the first after %.2f ms, the last after %.0f ms, %.0f/s", e.FirstMS, e.LastMS, e.Rate))
		field(w, "  CPU", fmt.Sprintf("%.2f s of the hub, %.2f s of the peer", e.HubCPU, e.PeerCPU))
	}
	field(w, "exactness", fmt.Sprintf("%d files behind; of pages %d untold, %d told twice, %d for nothing, %d in a wrong state; %d strange notices",
		r.Behind, r.Untold, r.Repeated, r.Needless, r.Unready, r.Strange))
}
