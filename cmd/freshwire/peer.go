package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const (
	// meetWait is how long add waits for what comes of a new peer: hubs that can
	// reach each other need a few round trips.
	meetWait = 5 * time.Second
	// meetPoll is how often it looks meanwhile.
	meetPoll = 30 * time.Millisecond
	// mostWaiting is where a hub stops counting the states that a peer has not
	// acknowledged.
	mostWaiting = 10_000
)

// peer looks at the hubs that a hub exchanges with, and steers that.
func (c *cli) peer() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "exchange with other hubs what crosses between them",
		Long: `A peer is another hub. Each tells the other of changes of what it speaks for, and of that
only what something at the other depends on. The operators of both make the other's hub
a peer, by its URL and the fingerprint of its key, which one reads to the other. These
commands need the token of an administrator.`,
		Example: `  freshwire peer look https://commons.example.org
  freshwire peer add https://commons.example.org
  freshwire peer ls`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.peerAdd(), c.peerLook(), c.peerList(), c.peerShow(),
		c.peerControl("pause", "stop all exchange; what the peer speaks for stays as it was heard last"),
		c.peerControl("resume", "go on at once, also with what waits to be tried again"),
		c.peerControl("resync", "have the peer tell all anew; nobody is told of what is as it was"),
		c.peerControl("compare", "have what was heard of the peer compared with what it has, and mended"),
		c.peerRemove())
	return cmd
}

// peerURL is the name of a hub, for which many would write a slash after its host.
func peerURL(argument string) string { return strings.TrimSuffix(argument, "/") }

func (c *cli) peerList() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: "ls", Short: "list the peers and how it is with them, and who this hub is to them",
		Example: "  freshwire peer ls\n  freshwire peer ls -o json | jq -r .hub.fingerprint",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			own, all, err := hub.Peers(cmd.Context())
			if err != nil {
				return err
			}
			if c.output == ndjson {
				return many(c, all, nil)
			}
			whole := struct {
				Hub   client.HubIdentity `json:"hub"`
				Items []client.Peer      `json:"items"`
			}{own, all}
			return c.one(whole, func(w io.Writer) {
				fmt.Fprintf(w, "this hub: %s, fingerprint %s\n", own.URL, own.Fingerprint)
				fmt.Fprintln(w, "URL\tPHASE\tHEARD\tMIRRORS\tINTERESTS\tPENDING\tWAITING\tREJECTED\tFAULT")
				for _, p := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%s\n", p.URL, phase(&p), dash(ago(p.LastHeard)), p.Hears.Mirrors,
						p.Tells.Interests, p.Hears.Pending, waiting(&p), p.Hears.Rejected, dash(printable(p.Fault)))
				}
			})
		},
	})
}

// phase is what goes on with a peer.
func phase(p *client.Peer) string {
	silent := ""
	if p.Silent {
		silent = "(silent)"
	}
	return words(p.Phase, silent)
}

// waiting is how many states a peer has not acknowledged.
func waiting(p *client.Peer) string {
	more := ""
	if p.Tells.Waiting >= mostWaiting {
		more = "+"
	}
	return fmt.Sprint(p.Tells.Waiting, more)
}

// ago is how long ago a time is, in whole seconds, or nothing for the zero time.
func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprint(max(0, time.Since(t)).Truncate(time.Second), " ago")
}

// printable is a text of another hub without what would break a table, or a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

func drawHub(w io.Writer, h *client.HubIdentity, claims string) {
	field(w, "  url", h.URL)
	field(w, "  fingerprint", h.Fingerprint)
	for _, prefix := range h.Authority {
		field(w, "  "+claims, prefix)
	}
}

// drawPeer shows all that is known of a peer; own is who the hub is to it, or nobody.
func drawPeer(w io.Writer, own *client.HubIdentity, p *client.Peer) {
	by := "freshwire peer add"
	if p.Configured {
		by = "the configuration"
	}
	now := phase(p)
	if p.Fault != "" {
		now += ": " + printable(p.Fault)
	}
	field(w, "url", p.URL)
	field(w, "fingerprint", p.Fingerprint)
	field(w, "named by", by)
	field(w, "phase", now)
	field(w, "heard", cmp.Or(ago(p.LastHeard), "not since this hub started"))
	for _, prefix := range p.Authority {
		field(w, "speaks for", prefix)
	}
	if len(p.Authority) == 0 {
		field(w, "speaks for", "nothing: it claims nothing, or neither --authority nor a host of the content confirms it")
	}
	h, t := &p.Hears, &p.Tells
	fmt.Fprintln(w, "what it speaks for and something here depends on")
	field(w, "  mirrors", h.Mirrors)
	field(w, "  pending", fmt.Sprintf("%d changes of what is wanted that it has not taken yet, and %d that it took", h.Pending, h.Taken))
	first := ""
	if h.FirstRejected != "" {
		first = "because " + printable(h.FirstRejected)
	}
	field(w, "  rejected", words(fmt.Sprint(h.Rejected), first))
	field(w, "  states heard", fmt.Sprintf("%d changed something, %d did not, %d were old, %d not wanted, %d not good",
		h.Changed, h.Same, h.Old, h.Unwanted, h.Refused))
	field(w, "  position", words(fmt.Sprint(h.Position), "of epoch", dash(h.Epoch)))
	field(w, "  sessions", fmt.Sprintf("%d, and %d failures", h.Sessions, h.Failures))
	field(w, "  compared", cmp.Or(stamp(h.Compared), "never"))
	field(w, "  mended", h.Mended)
	fmt.Fprintln(w, "what this hub speaks for and something there depends on")
	field(w, "  interests", t.Interests)
	field(w, "  states told", t.Told)
	field(w, "  lag", waiting(p)+" states that it has not acknowledged")
	field(w, "  denied", fmt.Sprint(t.Denied, " resources that it may not have, and ", t.Faulty, " requests that were none"))
	field(w, "  streams", t.Streams)
	if own != nil {
		fmt.Fprintln(w, "this hub, as its peers know it")
		drawHub(w, own, "speaks for")
	}
}

func (c *cli) peerShow() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: "show URL", Short: "show how it is with a peer, in full", Example: "  freshwire peer show https://commons.example.org",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			p, err := hub.Peer(cmd.Context(), peerURL(list[0]))
			if err != nil {
				return err
			}
			own, _, err := hub.Peers(cmd.Context())
			if err != nil {
				return err
			}
			return c.one(p, func(w io.Writer) { drawPeer(w, &own, &p) })
		},
	})
}

func (c *cli) peerControl(action, short string) *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: action + " URL", Short: short, Example: "  freshwire peer " + action + " https://commons.example.org",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			p, err := hub.ControlPeer(cmd.Context(), peerURL(list[0]), action)
			if err != nil {
				return err
			}
			return c.one(p, func(w io.Writer) { drawPeer(w, nil, &p) })
		},
	})
}

func (c *cli) peerRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm URL", Short: "end that a hub is a peer, and forget what it wanted to hear",
		Example: "  freshwire peer rm https://commons.example.org", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			return hub.RemovePeer(cmd.Context(), peerURL(list[0]))
		},
	}
}

func (c *cli) peerLook() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: "look URL", Short: "show who is at a URL, as this hub sees it; that makes nobody a peer",
		Example: "  freshwire peer look https://commons.example.org", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			seen, err := hub.LookPeer(cmd.Context(), peerURL(list[0]))
			if err != nil {
				return err
			}
			return c.one(seen, func(w io.Writer) {
				field(w, "url", seen.URL)
				field(w, "fingerprint", seen.Fingerprint)
				for _, prefix := range seen.Authority {
					field(w, "claims", prefix)
				}
				field(w, "epoch", seen.Epoch)
			})
		},
	})
}

func (c *cli) peerAdd() *cobra.Command {
	var d client.PeerDefinition
	cmd := c.chooseOutput(&cobra.Command{
		Use:   "add URL",
		Short: "make a hub a peer",
		Long: `Makes a hub a peer, by its URL and the fingerprint of its key. The fingerprint comes from
the operator of that hub, who reads it in freshwire peer ls: what is at the URL may be
somebody else's. Without --fingerprint you are shown who is there, and asked.

A peer speaks for the prefixes of URIs that --authority names. Without any these are those
that it claims to speak for and the hosts of the content confirm.

The exchange begins when the operator of the other hub has made this one a peer too; the
command for that is printed.`,
		Example: `  freshwire peer add https://commons.example.org
  freshwire peer add https://commons.example.org --fingerprint SHA256:X5ii3y9s2U7PGBtKZelHL0XOhjK+sHH9g60gK32eSEs
  freshwire peer add https://hub.example.net --fingerprint SHA256:sgRMx6Yg/eohFLhrbngTLwUyWikSD/NW5drte/ZLwEg --authority https://files.example.org`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			d.URL = peerURL(list[0])
			own, _, err := hub.Peers(cmd.Context())
			if err != nil {
				return err
			}
			if d.URL == own.URL {
				return usagef("%s is this hub itself", d.URL)
			}
			if d.Fingerprint, err = c.compareKeys(cmd, hub, &own, &d); err != nil {
				return err
			}
			p, err := hub.AddPeer(cmd.Context(), d)
			if err == nil {
				p, err = whenMet(cmd.Context(), hub, p)
			}
			if err != nil {
				return err
			}
			return c.one(p, func(w io.Writer) { drawAdded(w, &own, &p) })
		},
	})
	f := cmd.Flags()
	f.StringVar(&d.Fingerprint, "fingerprint", "", "SHA256:… of its key, as its operator reads it")
	f.StringArrayVar(&d.Authority, "authority", nil, "prefix of URIs that it speaks for, repeatable (default: what it claims and the hosts of the content confirm)")
	return cmd
}

// compareKeys returns the fingerprint that a hub is to have: the one that was given,
// unless another hub is there now, or what is there, if the user says that it is right.
func (c *cli) compareKeys(cmd *cobra.Command, hub *client.Client, own *client.HubIdentity, d *client.PeerDefinition) (string, error) {
	seen, err := hub.LookPeer(cmd.Context(), d.URL)
	switch no := (*client.Problem)(nil); {
	case d.Fingerprint != "" && errors.As(err, &no) && no.Status == http.StatusBadGateway:
		return d.Fingerprint, nil // it may come later
	case err != nil:
		return "", err
	case d.Fingerprint == "":
		return seen.Fingerprint, c.ask(cmd, own, &seen, d)
	case d.Fingerprint != seen.Fingerprint:
		return "", fmt.Errorf("the hub at %s has the fingerprint %s, and not %s; nothing was added: ask its operator what freshwire peer ls prints there",
			d.URL, seen.Fingerprint, printable(d.Fingerprint))
	}
	return d.Fingerprint, nil
}

// ask shows two hubs to whom it may ask whether they are the right ones. It returns nil
// if so.
func (c *cli) ask(cmd *cobra.Command, own, seen *client.HubIdentity, d *client.PeerDefinition) error {
	people := &cli{stdout: c.stderr} // the result alone is for programs
	if err := people.draw(func(w io.Writer) {
		fmt.Fprintln(w, "the hub there:")
		drawHub(w, seen, "claims")
		fmt.Fprintln(w, "this hub, for the operator of that one to compare:")
		drawHub(w, own, "speaks for")
	}); err != nil {
		return err
	}
	if f, ok := cmd.InOrStdin().(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		again := []string{"freshwire", "peer", "add", d.URL, "--fingerprint", seen.Fingerprint}
		for _, prefix := range d.Authority {
			again = append(again, "--authority", prefix)
		}
		for _, flag := range []string{"hub", "token-file"} {
			if f := cmd.Flags().Lookup(flag); f.Changed {
				again = append(again, "--"+flag, f.Value.String())
			}
		}
		return usagef("there is no terminal to ask at; if this is what the operator of that hub reads, say so with\n  %s", shellWords(again))
	}
	fmt.Fprint(c.stderr, "Is this what its operator reads? [y/N] ")
	answer := make(chan string, 1)
	go func() { // nothing ends this read but an answer, or the end of the process
		line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
		answer <- line
	}()
	select {
	case <-cmd.Context().Done():
		return cmd.Context().Err()
	case line := <-answer:
		if line = strings.ToLower(strings.TrimSpace(line)); line != "y" && line != "yes" {
			return errors.New("nothing was added")
		}
		return nil
	}
}

// inShell matches what a shell takes as it is written.
var inShell = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellWords writes a command as it is typed.
func shellWords(list []string) string {
	for i, word := range list {
		if !inShell.MatchString(word) {
			list[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(list, " ")
}

// whenMet returns a new peer when it has answered, or did not for a while.
func whenMet(ctx context.Context, hub *client.Client, p client.Peer) (client.Peer, error) {
	late := time.After(meetWait)
	for p.Phase == client.PeerConnecting {
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-late:
			return p, nil
		case <-time.After(meetPoll):
		}
		var err error
		if p, err = hub.Peer(ctx, p.URL); err != nil {
			return p, err
		}
	}
	return p, nil
}

// drawAdded shows a new peer, and what its operator does to make the hub its peer.
func drawAdded(w io.Writer, own *client.HubIdentity, p *client.Peer) {
	field(w, "peer", p.URL)
	field(w, "fingerprint", p.Fingerprint)
	field(w, "phase", phase(p))
	for _, prefix := range p.Authority {
		field(w, "speaks for", prefix)
	}
	if p.Phase == client.PeerFollowing {
		return
	}
	if p.Fault != "" {
		field(w, "fault", printable(p.Fault))
	}
	fmt.Fprintf(w, "\nIts operator makes this hub a peer too, with\n\n  %s\n",
		shellWords([]string{"freshwire", "peer", "add", own.URL, "--fingerprint", own.Fingerprint}))
	if len(own.Authority) > 0 {
		var claims []string
		for _, prefix := range own.Authority {
			claims = append(claims, "--authority", prefix)
		}
		fmt.Fprintf(w, "\nand with %s unless the hosts there say so themselves.\n", shellWords(claims))
	}
}
