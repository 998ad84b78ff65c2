package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

func (c *cli) status() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use:   "status URI…",
		Short: "show where resources stand",
		Long: `Shows all the hub knows of one resource, or a line for each of several.

States: stub (nothing is known of its content), clean, dirty (waits for a
dependency that is being made), ready (is to be made again), pending (a worker
makes it).`,
		Example: `  freshwire status https://en.example.org/wiki/Berlin#html/canonical
  freshwire status -o ndjson https://en.example.org/wiki/Berlin https://en.example.org/wiki/Rome`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			if len(list) == 1 {
				r, err := hub.Resource(cmd.Context(), list[0])
				if err != nil {
					return err
				}
				return c.one(r, func(w io.Writer) { drawResource(w, r) })
			}
			all, err := hub.Status(cmd.Context(), list...)
			if err != nil {
				return err
			}
			return many(c, all, func(w io.Writer) {
				fmt.Fprintln(w, "STATE\tVERSION\tHASH\tURI")
				for _, s := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", standing(s), dash(s.Version), dash(s.Hash), s.URI)
				}
			})
		},
	})
}

// standing is the state with what qualifies it.
func standing(s client.Status) string {
	stale, failed := "", ""
	if s.Stale {
		stale = "(stale)"
	}
	if s.Failed {
		failed = "(failed)"
	}
	return words(s.State, stale, failed)
}

func drawResource(w io.Writer, r client.Resource) {
	field(w, "uri", r.URI)
	field(w, "state", standing(r.Status))
	field(w, "type", r.Type)
	field(w, "version", r.Version)
	field(w, "hash", r.Hash)
	field(w, "at", r.At)
	field(w, "changed", words(stamp(r.ChangedAt), r.Changed))
	field(w, "dependencies", r.Dependencies)
	field(w, "dependents", r.Dependents)
	for _, b := range r.Buckets {
		field(w, "bucket", b)
	}
	field(w, "expires", r.Expires)
	field(w, "notice due", r.NoticeDue)
	if r.Damping > 0 {
		field(w, "damping", fmt.Sprintf("refreshed at most every %.0f s: it flaps", r.Damping))
	}
	field(w, "lease until", r.LeaseUntil)
}

func (c *cli) deps() *cobra.Command {
	return c.edges("deps", "list what a resource is made from",
		"  freshwire deps https://en.example.org/wiki/Berlin#html/canonical",
		(*client.Client).Dependencies)
}

func (c *cli) rdeps() *cobra.Command {
	return c.edges("rdeps", "list what is made from a resource",
		"  freshwire rdeps https://en.example.org/wiki/Template:City\n"+
			"  freshwire rdeps -o ndjson https://en.example.org/wiki/Template:City | jq -r .uri",
		(*client.Client).Dependents)
}

// pageItems is how many items of a listing are asked for at once: the most that
// a hub gives.
const pageItems = 1000

// edgePages asks a hub for a page of a listing of uri.
type edgePages func(hub *client.Client, ctx context.Context, uri, after string, limit int) (client.Page, error)

// edges is the command that lists one direction of the edges of a resource.
func (c *cli) edges(name, short, example string, ask edgePages) *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: name + " URI", Short: short, Example: example,
		Long: short + ", with the state each is in. Long lists come page by page;\n-o ndjson prints them as they come.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			all := []client.Item{}
			items := client.Items(func(after string) (client.Page, error) {
				return ask(hub, cmd.Context(), list[0], after, pageItems)
			})
			for item, err := range items {
				if err != nil {
					return err
				}
				switch c.output {
				case table: // the state is at most as wide as "pending": no need to have seen all
					fmt.Fprintf(c.stdout, "%-7s  %s\n", item.State, item.URI)
				case ndjson:
					if err := c.encode(item); err != nil {
						return err
					}
				default:
					all = append(all, item)
				}
			}
			if c.output == asJSON {
				return c.encode(all)
			}
			return nil
		},
	})
}

func (c *cli) why() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use:   "why URI",
		Short: "explain why a resource is in its state",
		Long: `Explains the state of a resource: the chain of causes from it back to the edit,
and which comparison decided at each step.`,
		Example: `  freshwire why https://en.example.org/wiki/Berlin#html/canonical`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			e, err := hub.Why(cmd.Context(), list[0])
			if err != nil {
				return err
			}
			return c.one(e, func(w io.Writer) { drawExplanation(w, e) })
		},
	})
}

func drawExplanation(w io.Writer, e client.Explanation) {
	fmt.Fprintln(w, e.Text)
	for _, l := range e.Chain {
		fmt.Fprintf(w, "  because of %s\n", words(l.URI, version(l.Version), bracket(l.Rule), stamp(l.At)))
	}
	if n := len(e.Chain); n > 0 {
		if id := e.Chain[n-1].Cause.ID; id != "" {
			fmt.Fprintf(w, "  update %s\n", id)
		}
	}
	for _, i := range e.Waiting {
		fmt.Fprintf(w, "  waits for %s (%s)\n", i.URI, i.State)
	}
	if e.Last != nil {
		fmt.Fprintf(w, "  last notice: %s\n", words(e.Last.Kind, e.Last.Reason, stamp(e.Last.At), e.Last.Token))
	}
}

func version(s string) string {
	if s == "" {
		return ""
	}
	return "version " + s
}

func bracket(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

func (c *cli) impact() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "impact URI",
		Short:   "count what an edit of a resource would refresh",
		Long:    "Counts what an edit of a resource would refresh, directly and through others, by type and host.",
		Example: `  freshwire impact https://en.example.org/wiki/Template:City`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			i, err := hub.Impact(cmd.Context(), list[0], limit)
			if err != nil {
				return err
			}
			return c.one(i, func(w io.Writer) { drawImpact(w, i) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "stop counting here (0: the hub's own limit)")
	return c.chooseOutput(cmd)
}

func drawImpact(w io.Writer, i client.Impact) {
	more := ""
	if !i.Complete {
		more = "or more: counting stopped there"
	}
	field(w, "direct", i.Direct)
	field(w, "in all", words(fmt.Sprint(i.Transitive), more))
	field(w, "depth", i.Depth)
	for _, k := range slices.Sorted(maps.Keys(i.ByType)) {
		field(w, "type "+dash(k), i.ByType[k])
	}
	for _, k := range slices.Sorted(maps.Keys(i.ByHost)) {
		field(w, "host "+dash(k), i.ByHost[k])
	}
}

func (c *cli) jobs() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use:     "jobs",
		Short:   "list the running fan-outs",
		Long:    "Lists the running fan-outs: whose change is being told, how many dependents were reached, and how many notices that made.",
		Example: `  freshwire jobs`,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			all, err := hub.Jobs(cmd.Context())
			if err != nil {
				return err
			}
			return many(c, all, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tKIND\tREACHED\tTOTAL\tNOTICES\tSTARTED\tURI")
				for _, j := range all {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\n", j.ID, words(j.Kind, paused(j)), j.Reached, j.Total, j.Emitted, stamp(j.Started), j.URI)
				}
			})
		},
	})
}

func paused(j client.Job) string {
	if j.Paused {
		return "(paused)"
	}
	return ""
}
