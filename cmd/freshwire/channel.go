package main

import (
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
			all, err := allPages(func(after string) ([]client.Channel, string, error) { return hub.Channels(cmd.Context(), after, 0) })
			if err != nil {
				return err
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

// definition tells the filter of a channel in words. The list, prefixes and hosts
// are alternatives.
func definition(ch client.Channel) string {
	var resources, parts []string
	if ch.Listed {
		resources = append(resources, "its list")
	}
	for _, f := range []struct {
		name   string
		values []string
		to     *[]string
	}{{"prefix", ch.Prefix, &resources}, {"host", ch.Host, &resources}, {"type", ch.Type, &parts}, {"bucket", ch.Bucket, &parts},
		{"kind", ch.Kind, &parts}, {"lane", ch.Lane, &parts}} {
		if len(f.values) > 0 {
			*f.to = append(*f.to, f.name+" "+strings.Join(f.values, " or "))
		}
	}
	if len(resources) > 0 {
		parts = append([]string{strings.Join(resources, " or ")}, parts...)
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
		field(w, "digest", ch.Digest)
		field(w, "owner", dash(ch.Owner))
		field(w, "since", ch.Cursor)
		if ch.BuiltIn {
			field(w, "built in", "every hub has it; it cannot be changed")
		}
		if ch.Configured {
			field(w, "configured", "the hub's configuration makes it; it is changed there")
		}
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
	cmd.Long = `Makes a channel, or replaces one whole, its list included. Without any flag it lets
everything through. What --uri, --prefix and --host name are alternatives; --type,
--bucket, --kind and --lane each narrow that.

With --uri or --list the channel has a list of URIs, which "channel add", "remove" and
"load" change without replacing it. A channel is replaced at most 100 times within what
the hub's journal keeps; change its list instead.`
	cmd.Example += `
  freshwire channel put images --list --kind changed
  freshwire channel put everything`
	fl := cmd.Flags()
	fl.StringArrayVar(&d.URI, "uri", nil, "put this URI on its list, repeatable")
	fl.BoolVar(&listed, "list", false, "give it a list of URIs, although it is empty")
	fl.StringArrayVar(&d.Prefix, "prefix", nil, "let through what lies under it, by whole path segments, repeatable")
	fl.StringArrayVar(&d.Host, "host", nil, "let through this host, repeatable")
	fl.StringArrayVar(&d.Type, "type", nil, "only this type, repeatable")
	fl.StringArrayVar(&d.Bucket, "bucket", nil, "only this bucket, repeatable")
	fl.StringArrayVar(&d.Kind, "kind", nil, "only changed or refresh")
	fl.StringArrayVar(&d.Lane, "lane", nil, "only prompt or bulk")
	fl.BoolVar(&d.Public, "public", false, "for everybody to read; for administrators to say")
	fl.BoolVar(&d.Digest, "digest", false, "have a digest made of it each hour; for administrators to say")
	fl.StringVar(&d.Owner, "owner", "", "who may change it, if an administrator makes it for somebody")
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
