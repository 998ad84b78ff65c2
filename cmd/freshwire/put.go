package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// A putFlags is an update as flags give it.
type putFlags struct {
	update  client.Update
	deps    []string
	noDeps  bool
	at      string
	expires string
}

func (c *cli) put() *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put URI",
		Short: "tell the hub that a resource was updated, deleted or purged",
		Long: `Sends one update. Without --id it gets a new one, so that the same command twice
is two updates.

A dependency is given as URI, or as URI=SEEN with the version (or, of something
that is itself made from others, the hash) that was used. A URI that contains an =
and has no SEEN needs an = at its end.`,
		Example: `  # an edit: the page has revision 1182 now
  freshwire put https://en.example.org/wiki/Berlin --version 1182

  # its HTML was rendered from that revision and a template
  freshwire put https://en.example.org/wiki/Berlin#html/canonical --hash 9e1c \
      --dep https://en.example.org/wiki/Berlin=1182 \
      --dep https://en.example.org/wiki/Template:City=870

  # it is gone
  freshwire put https://en.example.org/wiki/Berlin --action delete`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			u, err := f.parse(list[0], time.Now())
			if err != nil {
				return err
			}
			hub, err := c.connect()
			if err != nil {
				return err
			}
			r, err := hub.Update(cmd.Context(), u)
			if err != nil {
				return single(err)
			}
			return c.one(r, func(w io.Writer) { fmt.Fprintln(w, tell(r)) })
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.update.Version, "version", "", "the version it has now, such as a revision id")
	fl.StringVar(&f.update.Hash, "hash", "", "digest of the result; an equal one means that nothing changed")
	fl.StringVar(&f.update.Type, "type", "", "what kind of resource it is, such as html")
	fl.StringArrayVar(&f.deps, "dep", nil, "a dependency, URI or URI=SEEN; all of them, repeated (none given: unchanged)")
	fl.BoolVar(&f.noDeps, "no-deps", false, "it has no dependencies (any more)")
	fl.StringVar(&f.update.Action, "action", "", "update, delete or purge")
	fl.StringVar(&f.at, "at", "", "when it changed, or when its making began (RFC 3339)")
	fl.StringVar(&f.update.ID, "id", "", "makes the update idempotent")
	fl.StringVar(&f.update.Token, "token", "", "the token of the notice that asked for it")
	fl.StringArrayVar(&f.update.Buckets, "bucket", nil, "a key that groups resources for bulk purging, repeatable")
	fl.StringArrayVar(&f.update.Aspects, "aspect", nil, "an aspect that changed with it, * for all, repeatable")
	fl.StringVar(&f.expires, "expires", "", "when it is to be made again regardless (RFC 3339)")
	fl.StringVar(&f.update.Cause, "cause", "", "what led to it; notices carry this")
	_ = cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions(
		[]string{client.ActionUpdate, client.ActionDelete, client.ActionPurge}, cobra.ShellCompDirectiveNoFileComp))
	return c.chooseOutput(cmd)
}

// parse returns the update of uri. What the values mean is the hub's to judge.
func (f *putFlags) parse(uri string, now time.Time) (client.Update, error) {
	u := f.update
	u.URI = uri
	if u.ID == "" {
		u.ID = rand.Text()
	}
	if f.noDeps && len(f.deps) > 0 {
		return u, usagef("--no-deps and --dep: give one of them")
	}
	if f.noDeps {
		u.Deps = []client.Dep{}
	}
	for _, s := range f.deps {
		u.Deps = append(u.Deps, parseDep(s))
	}
	var err error
	if u.At, err = parseTime("--at", f.at, now); err != nil {
		return u, err
	}
	u.Expires, err = parseTime("--expires", f.expires, now)
	return u, err
}

// parseDep reads URI or URI=SEEN.
func parseDep(s string) client.Dep {
	i := strings.LastIndexByte(s, '=')
	if i < 0 {
		return client.Dep{URI: s}
	}
	return client.Dep{URI: s[:i], Seen: s[i+1:]}
}

// parseTime reads what flag was given: RFC 3339, or how long ago; "" is the zero
// time.
func parseTime(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, usagef("%s %q: want a time such as 2026-11-22T02:12:49Z, or how long ago, such as 10m", flag, s)
	}
	return t, nil
}

// tell says what became of a batch.
func tell(r client.Result) string {
	return fmt.Sprintf("accepted %d, changed %d, duplicates %d, outdated %d", r.Accepted, r.Changed, r.Duplicates, r.Outdated)
}

// single drops the item from a refusal: the user sent only one.
func single(err error) error {
	var p *client.Problem
	if errors.As(err, &p) {
		p.Item = nil
	}
	return err
}
