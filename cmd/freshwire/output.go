package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// An output is the form in which a reader prints what the hub answers.
type output string

const (
	table  output = "table"  // for people
	asJSON output = "json"   // one document
	ndjson output = "ndjson" // one value a line
)

func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "FORM" }

func (o *output) Set(s string) error {
	switch v := output(s); v {
	case table, asJSON, ndjson:
		*o = v
		return nil
	}
	return fmt.Errorf("want table, json or ndjson")
}

// chooseOutput gives cmd the flag -o.
func (c *cli) chooseOutput(cmd *cobra.Command) *cobra.Command {
	c.output = table
	cmd.Flags().VarP(&c.output, "output", "o", "table, json or ndjson")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		[]string{string(table), string(asJSON), string(ndjson)}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// one prints a single value; draw writes it as a table, cells separated by tabs.
func (c *cli) one(v any, draw func(w io.Writer)) error {
	if c.output == table {
		return c.draw(draw)
	}
	return c.encode(v)
}

// many prints a list likewise.
func many[T any](c *cli, list []T, draw func(w io.Writer)) error {
	switch c.output {
	case table:
		return c.draw(draw)
	case asJSON:
		if list == nil {
			list = []T{}
		}
		return c.encode(list)
	}
	for _, v := range list {
		if err := c.encode(v); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) draw(draw func(w io.Writer)) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	draw(w)
	return w.Flush()
}

// encode prints v as JSON, indented if it is the whole output.
func (c *cli) encode(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetEscapeHTML(false)
	if c.output == asJSON {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}

// field writes a line "name  value", unless there is no value.
func field(w io.Writer, name string, value any) {
	s := fmt.Sprint(value)
	if t, ok := value.(time.Time); ok {
		s = stamp(t)
	}
	if s != "" {
		fmt.Fprintf(w, "%s\t%s\n", name, s)
	}
}

// stamp writes a time as the wire does, and the zero time as nothing.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// dash stands for an empty cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// words joins those of its arguments that are not empty.
func words(list ...string) string {
	var kept []string
	for _, s := range list {
		if s != "" {
			kept = append(kept, s)
		}
	}
	return strings.Join(kept, " ")
}

// allPages gathers the pages of a list.
func allPages[T any](page func(after string) (list []T, next string, err error)) (all []T, err error) {
	for after := ""; ; {
		list, next, err := page(after)
		if err != nil {
			return nil, err
		}
		if all = append(all, list...); next == "" {
			return all, nil
		}
		after = next
	}
}
