package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// dlq looks at what sinks gave up.
func (c *cli) dlq() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "look at dead letters: calls that sinks gave up",
		Long: `A dead letter is a call that a sink gave up, because it was refused or failed as often
as the sink tries. It is kept, with what was sent and what was answered, until it is
replayed or dropped. In an ordered group it holds up what waits for it: its own bucket,
and nothing else.

These commands need the token of an administrator.`,
		Example: `  freshwire dlq ls --sink varnish
  freshwire dlq replay --sink varnish --status 503 --rate 50
  freshwire dlq drop --prefix https://en.example.org/wiki/Sandbox`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.dlqList(), c.dlqShow(), c.dlqReplay(), c.dlqDrop())
	return cmd
}

// letterChoice are the flags that choose dead letters.
type letterChoice struct {
	client.LetterFilter
	status int
	all    bool
}

func (f *letterChoice) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.Sink, "sink", "", "of this sink")
	fl.StringVar(&f.Prefix, "prefix", "", "about resources under this prefix, by whole path segments")
	fl.StringVar(&f.Bucket, "bucket", "", "about this bucket")
	fl.IntVar(&f.status, "status", 0, "answered with this status; 0 is no answer")
}

// filter is what the flags say, and whether they say anything.
func (f *letterChoice) filter(cmd *cobra.Command) (filter client.LetterFilter, given bool) {
	if cmd.Flags().Changed("status") {
		f.Status = &f.status
	}
	return f.LetterFilter, f.LetterFilter != client.LetterFilter{}
}

func (c *cli) dlqList() *cobra.Command {
	var choice letterChoice
	cmd := c.chooseOutput(&cobra.Command{
		Use: "ls", Short: "list dead letters: by sink, in the order of the journal",
		Example: "  freshwire dlq ls\n  freshwire dlq ls --sink varnish --status 0 -o ndjson | jq -r .uri",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			filter, _ := choice.filter(cmd)
			var all []client.DeadLetter
			for after := ""; ; {
				page, next, err := hub.DeadLetters(cmd.Context(), filter, after, pageItems)
				if err != nil {
					return err
				}
				if all = append(all, page...); next == "" {
					break
				}
				after = next
			}
			return many(c, all, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tOUTLET\tGIVEN UP\tATTEMPTS\tANSWER\tURI")
				for _, l := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", l.ID, l.Outlet, stamp(l.At), l.Attempts, dash(answerOf(l)), dash(l.URI))
				}
			})
		},
	})
	choice.flags(cmd)
	return cmd
}

// answerOf says in a word why a letter is one.
func answerOf(l client.DeadLetter) string {
	if l.Answer != nil {
		return fmt.Sprint(l.Answer.Status)
	}
	return l.Error
}

func (c *cli) dlqShow() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: "show ID", Short: "show what was sent and what was answered", Example: "  freshwire dlq show c2luay92YXJuaXNo",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			l, err := hub.DeadLetter(cmd.Context(), list[0])
			if err != nil {
				return err
			}
			return c.one(l, func(w io.Writer) { drawLetter(w, l) })
		},
	})
}

func drawLetter(w io.Writer, l client.DeadLetter) {
	field(w, "id", l.ID)
	field(w, "outlet", l.Outlet)
	field(w, "about", l.URI)
	field(w, "bucket", l.Bucket)
	field(w, "cause", l.Cause)
	field(w, "notice", words(l.Cursor, l.Lane))
	field(w, "attempts", l.Attempts)
	field(w, "first", l.First)
	field(w, "given up", l.At)
	if r := l.Request; r != nil {
		field(w, "sent", words(r.Method, r.URL))
		for _, h := range r.Headers {
			field(w, "  "+h[0], h[1])
		}
		field(w, "  body", oneLine(r.Body))
	}
	if a := l.Answer; a != nil {
		field(w, "answer", a.Status)
		field(w, "  body", oneLine(a.Body))
	}
	field(w, "error", l.Error)
}

// oneLine quotes a text that would break a table, or a terminal.
func oneLine(s string) string {
	s = strings.TrimSpace(s)
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` {
		return q
	}
	return s
}

func (c *cli) dlqReplay() *cobra.Command {
	var rate int
	cmd := c.onLetters("replay", "call again, with all attempts before it", `Has dead letters called again: those that are named, or all that the flags choose. The
call is made by the rules and secrets in force, so what was wrong in the configuration
may be corrected before. Of those about the same thing the newest is called for all.`,
		"  freshwire dlq replay c2luay92YXJuaXNo\n  freshwire dlq replay --sink varnish --rate 50\n  freshwire dlq replay --all",
		(*client.Client).ReplayLetter,
		func(hub *client.Client, ctx context.Context, f client.LetterFilter, after string) (client.LettersDone, error) {
			done, err := hub.ReplayLetters(ctx, f, rate, after)
			if err == nil && done.Next != "" && rate > 0 { // the next ones begin when these are called
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(done.Done) * time.Second / time.Duration(rate)):
				}
			}
			return done, err
		})
	cmd.Flags().IntVar(&rate, "rate", 0, "calls a second of those that the flags choose; 0 is at once")
	return cmd
}

func (c *cli) dlqDrop() *cobra.Command {
	return c.onLetters("drop", "delete them", `Deletes dead letters: those that are named, or all that the flags choose. What waits for
them in an ordered group goes on as if they had been taken.`,
		"  freshwire dlq drop c2luay92YXJuaXNo\n  freshwire dlq drop --sink old-cache\n  freshwire dlq drop --all",
		(*client.Client).DropLetter, (*client.Client).DropLetters)
}

// onLetters makes a command that does something with dead letters.
func (c *cli) onLetters(name, short, long, example string, one func(*client.Client, context.Context, string) error,
	some func(*client.Client, context.Context, client.LetterFilter, string) (client.LettersDone, error)) *cobra.Command {
	var choice letterChoice
	cmd := &cobra.Command{Use: name + " [ID…]", Short: short, Long: long, Example: example}
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		filter, given := choice.filter(cmd)
		switch {
		case len(ids) > 0 && (given || choice.all):
			return usagef("name dead letters, or choose them by flags, not both")
		case len(ids) == 0 && !given && !choice.all:
			return usagef("say which: ID…, --sink, --prefix, --bucket, --status, or --all")
		case len(ids) > 0 && cmd.Flags().Changed("rate"):
			return usagef("--rate is for those that flags choose")
		case given && choice.all:
			return usagef("--all and other flags say different things")
		}
		hub, err := c.connect()
		if err != nil {
			return err
		}
		var sum client.LettersDone
		for _, id := range ids {
			if err := one(hub, cmd.Context(), id); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			sum.Letters, sum.Done = sum.Letters+1, sum.Done+1
		}
		for more := len(ids) == 0; more; more = sum.Next != "" {
			done, err := some(hub, cmd.Context(), filter, sum.Next)
			if err != nil {
				return err
			}
			sum = client.LettersDone{Letters: sum.Letters + done.Letters, Done: sum.Done + done.Done, Next: done.Next}
		}
		if err := c.one(sum, func(w io.Writer) { fmt.Fprintf(w, "%s: %d of %d\n", name, sum.Done, sum.Letters) }); err != nil {
			return err
		}
		if left := sum.Letters - sum.Done; left > 0 {
			return fmt.Errorf("%d dead letters stay: their sinks are not in force, or are calling about the same right now", left)
		}
		return nil
	}
	choice.flags(cmd)
	cmd.Flags().BoolVar(&choice.all, "all", false, "all of them")
	return c.chooseOutput(cmd)
}
