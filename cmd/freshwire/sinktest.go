package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/freshwire/freshwire/hub"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

func (c *cli) sinkTest() *cobra.Command {
	var q client.SinkQuestion
	var file string
	cmd := &cobra.Command{
		Use:   "test URI",
		Short: "show what each sink would send for a notice, and why not",
		Long: `Shows the requests that the sinks would make for a notice about a resource, and which
rule keeps the others from making any. Nothing is sent, and secrets are hidden.

With --config it tries the sinks of a file, without a hub: before a reload, or on
another machine. Without, it asks the hub, which knows the type, the buckets and the
hash of the resource; what is given by flags wins over that.`,
		Example: `  freshwire sink test https://en.example.org/wiki/Berlin#html --config freshwire.yaml --type html --bucket https://en.example.org/wiki/Berlin
  freshwire sink test https://en.example.org/wiki/Berlin#html
  freshwire sink test https://en.example.org/wiki/Berlin#html --kind refresh -o json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			q.URI = list[0]
			t, err := c.trySinks(cmd.Context(), file, q)
			if err != nil {
				return err
			}
			return c.one(t, func(w io.Writer) { drawTrial(w, t) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "YAML file with the sinks; without it the hub is asked")
	f.StringVar(&q.Kind, "kind", "", "changed or refresh (default changed)")
	f.StringVar(&q.Type, "type", "", "of the resource")
	f.StringArrayVar(&q.Buckets, "bucket", nil, "of the resource, repeatable")
	f.StringVar(&q.Version, "version", "", "of the resource")
	f.StringVar(&q.Hash, "hash", "", "of the resource")
	f.StringVar(&q.Change, "change", "", "created, updated or deleted (default updated)")
	f.StringVar(&q.Reason, "reason", "", "edit, dependency, … (default edit, of a refresh dependency)")
	f.StringVar(&q.Lane, "lane", "", "prompt or bulk (default prompt)")
	return c.chooseOutput(cmd)
}

// trySinks asks the sinks of a file, or those of the hub.
func (c *cli) trySinks(ctx context.Context, file string, q client.SinkQuestion) (t client.SinkTrial, err error) {
	if file == "" {
		cl, err := c.connect()
		if err != nil {
			return t, err
		}
		return cl.TrySinks(ctx, q)
	}
	cfg, err := hub.LoadConfig(file, os.Environ(), nil)
	if err != nil {
		return t, err
	}
	tried, err := hub.TrySinks(cfg, hub.SinkQuestion(q))
	if err != nil {
		return t, usageError{err}
	}
	// Both have one form on the wire.
	b, err := json.Marshal(tried)
	if err != nil {
		return t, err
	}
	return t, json.Unmarshal(b, &t)
}

func drawTrial(w io.Writer, t client.SinkTrial) {
	if len(t.Sinks) == 0 {
		fmt.Fprintln(w, "there are no sinks")
	}
	for _, s := range t.Sinks {
		if s.Why != "" {
			fmt.Fprintf(w, "%s: nothing: %s\n", s.Sink, s.Why)
		}
		for _, call := range s.Sends {
			fmt.Fprintf(w, "%s: %s\n", s.Sink, words(call.Method, call.URL, bracket(s.Note)))
			for _, h := range call.Headers {
				fmt.Fprintf(w, "  %s: %s\n", h[0], h[1])
			}
			if call.Body != "" {
				fmt.Fprintf(w, "  %s\n", call.Body)
			}
			if call.Fault != "" {
				fmt.Fprintf(w, "  cannot be sent: %s\n", call.Fault)
			}
		}
	}
}
