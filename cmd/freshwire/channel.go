package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

func (c *cli) channel() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "channel",
		Short: "make and change named filters",
		Long: `A channel is a filter with a name. Readers follow it by that name, and one with a
list of URIs can follow millions of them, which are put on the list and taken off
without replacing the channel. A change takes effect at the position that the
command prints: notices after it are judged by the new definition, and none before.

The channels all, host:NAME and type:NAME are always there.`,
		Example: `  freshwire channel put images --list --kind changed
  freshwire channel add images https://commons.example.org/wiki/File:B.jpg#file
  freshwire tail --channel images`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.channelList(), c.channelShow(), c.channelPut(), c.channelAdd(), c.channelRemove(),
		c.channelLoad(), c.channelURIs(), c.channelDelete())
	return cmd
}

// onChannel makes a command about one channel. Do prints what the hub answers.
func (c *cli) onChannel(use, short, example string, least int, do func(cmd *cobra.Command, hub *client.Client, list []string) error) *cobra.Command {
	check := cobra.MinimumNArgs(least)
	if !strings.Contains(use, "…") {
		check = cobra.ExactArgs(least)
	}
	return c.chooseOutput(&cobra.Command{
		Use: use, Short: short, Example: "  freshwire channel " + example, Args: args(check),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			return do(cmd, hub, list)
		},
	})
}

func (c *cli) channelList() *cobra.Command {
	return c.onChannel("list", "list the channels that somebody made", "list", 0,
		func(cmd *cobra.Command, hub *client.Client, _ []string) error {
			var all []client.Channel
			for after := ""; ; {
				page, next, err := hub.Channels(cmd.Context(), after, 0)
				if err != nil {
					return err
				}
				if all = append(all, page...); next == "" {
					break
				}
				after = next
			}
			return many(c, all, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tURIS\tLETS THROUGH")
				for _, ch := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\n", ch.Name, listLength(ch), definition(ch))
				}
			})
		})
}

// listLength is how many URIs are on a channel's list, if it has one.
func listLength(ch client.Channel) string {
	if !ch.Listed {
		return "-"
	}
	return fmt.Sprint(ch.URIs)
}

// definition tells the filter of a channel in words.
func definition(ch client.Channel) string {
	var parts []string
	for _, f := range []struct {
		name   string
		values []string
	}{{"prefix", ch.Prefix}, {"host", ch.Host}, {"type", ch.Type}, {"bucket", ch.Bucket}, {"kind", ch.Kind}, {"lane", ch.Lane}} {
		if len(f.values) > 0 {
			parts = append(parts, f.name+" "+strings.Join(f.values, " or "))
		}
	}
	if ch.Listed {
		parts = append(parts, "its list")
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func (c *cli) drawChannel(ch client.Channel) error {
	return c.one(ch, func(w io.Writer) {
		field(w, "name", ch.Name)
		field(w, "lets through", definition(ch))
		field(w, "uris", listLength(ch))
		field(w, "public", ch.Public)
		field(w, "since", ch.Cursor)
	})
}

func (c *cli) drawListResult(r client.ListResult) error {
	return c.one(r, func(w io.Writer) {
		fmt.Fprintf(w, "added %d, removed %d, from %s on\n", r.Added, r.Removed, r.Cursor)
	})
}

func (c *cli) channelShow() *cobra.Command {
	return c.onChannel("show NAME", "show what a channel lets through", "show images", 1,
		func(cmd *cobra.Command, hub *client.Client, list []string) error {
			ch, err := hub.Channel(cmd.Context(), list[0])
			if err != nil {
				return err
			}
			return c.drawChannel(ch)
		})
}

func (c *cli) channelPut() *cobra.Command {
	var d client.ChannelDefinition
	var listed bool
	cmd := c.onChannel("put NAME", "make a channel, or replace it whole", "put berlin --prefix https://en.example.org/wiki/Berlin --kind refresh", 1,
		func(cmd *cobra.Command, hub *client.Client, list []string) error {
			if listed && d.URI == nil {
				d.URI = []string{}
			}
			ch, err := hub.PutChannel(cmd.Context(), list[0], d)
			if err != nil {
				return err
			}
			return c.drawChannel(ch)
		})
	fl := cmd.Flags()
	fl.StringArrayVar(&d.URI, "uri", nil, "put this URI on its list, repeatable")
	fl.BoolVar(&listed, "list", false, "give it a list of URIs, although it is empty")
	fl.StringArrayVar(&d.Prefix, "prefix", nil, "let through what lies under it, by whole path segments, repeatable")
	fl.StringArrayVar(&d.Host, "host", nil, "let through this host, repeatable")
	fl.StringArrayVar(&d.Type, "type", nil, "only this type, repeatable")
	fl.StringArrayVar(&d.Bucket, "bucket", nil, "only this bucket, repeatable")
	fl.StringArrayVar(&d.Kind, "kind", nil, "only changed or refresh")
	fl.StringArrayVar(&d.Lane, "lane", nil, "only prompt or bulk")
	fl.BoolVar(&d.Public, "public", false, "for everybody to read")
	return cmd
}

func (c *cli) channelAdd() *cobra.Command {
	return c.onChannel("add NAME URI…", "put URIs on the list of a channel", "add images https://commons.example.org/wiki/File:B.jpg#file", 2,
		func(cmd *cobra.Command, hub *client.Client, list []string) error {
			r, err := hub.EditChannel(cmd.Context(), list[0], list[1:], nil)
			if err != nil {
				return err
			}
			return c.drawListResult(r)
		})
}

func (c *cli) channelRemove() *cobra.Command {
	return c.onChannel("remove NAME URI…", "take URIs off the list of a channel", "remove images https://commons.example.org/wiki/File:B.jpg#file", 2,
		func(cmd *cobra.Command, hub *client.Client, list []string) error {
			r, err := hub.EditChannel(cmd.Context(), list[0], nil, list[1:])
			if err != nil {
				return err
			}
			return c.drawListResult(r)
		})
}

func (c *cli) channelLoad() *cobra.Command {
	cmd := c.onChannel("load NAME FILE[.gz|.zst]", "change the list of a channel by a file of any length", "load images files.txt.zst", 2,
		func(cmd *cobra.Command, hub *client.Client, list []string) error {
			f, err := openUpdates(list[1])
			if err != nil {
				return err
			}
			defer f.Close()
			shown := c.newProgress(f)
			defer shown.stop()
			r, w := io.Pipe()
			go func() { w.CloseWithError(f.listLines(w, shown)) }()
			defer r.Close()
			res, err := hub.LoadChannel(cmd.Context(), list[0], r)
			if err != nil {
				return err
			}
			shown.stop()
			return c.drawListResult(res)
		})
	cmd.Long = `Sends a file with one URI a line, which are put on the list, or lines {"add":URI} and
{"remove":URI}. Each 10,000 are on the hub's disk before the next are read; after an
interruption the same command may be given again.`
	return cmd
}

// listLines writes what the file asks of a list as the hub reads it.
func (f *updateFile) listLines(w io.Writer, shown *progress) error {
	var b bytes.Buffer
	for {
		line, more, err := f.next()
		if err != nil {
			return err
		}
		if !more {
			_, err := w.Write(b.Bytes())
			return err
		}
		switch line = bytes.TrimSpace(line); {
		case len(line) == 0:
		case line[0] == '{':
			b.Write(append(line, '\n'))
		default:
			text, err := json.Marshal(map[string]string{"add": string(line)})
			if err != nil {
				return fmt.Errorf("%s:%d: %w", f.name, f.number, err)
			}
			b.Write(append(text, '\n'))
		}
		if b.Len() < batchBytes/64 {
			continue
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
		b.Reset()
		shown.tell(f.read, fmt.Sprintf("%d lines", f.number))
	}
}

func (c *cli) channelURIs() *cobra.Command {
	return c.onChannel("uris NAME", "print the list of a channel", "uris images", 1,
		func(cmd *cobra.Command, hub *client.Client, list []string) error {
			type item struct {
				URI string `json:"uri"`
			}
			all := []item{}
			for uri, err := range hub.ChannelURIs(cmd.Context(), list[0]) {
				switch {
				case err != nil:
				case c.output == table:
					_, err = fmt.Fprintln(c.stdout, uri)
				case c.output == ndjson:
					err = c.encode(item{uri})
				default:
					all = append(all, item{uri})
				}
				if err != nil {
					return err
				}
			}
			if c.output == asJSON {
				return c.encode(all)
			}
			return nil
		})
}

func (c *cli) channelDelete() *cobra.Command {
	return c.onChannel("delete NAME", "forget a channel; its streams end", "delete images", 1,
		func(cmd *cobra.Command, hub *client.Client, list []string) error {
			cursor, err := hub.DeleteChannel(cmd.Context(), list[0])
			if err != nil {
				return err
			}
			return c.one(map[string]string{"cursor": cursor}, func(w io.Writer) { fmt.Fprintf(w, "deleted from %s on\n", cursor) })
		})
}
