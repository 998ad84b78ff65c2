package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// sub looks at those whom a hub calls because they subscribed.
func (c *cli) sub() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sub",
		Short: "look at and steer those who subscribed to be called (WebSub)",
		Long: `A subscription is made by its subscriber: a form that is posted to the hub's /websub
with a callback and a topic, which the callback then confirms. These commands show your
own subscriptions, or with the token of an administrator all, and steer them.`,
		Example: `  freshwire sub ls
  freshwire sub show HCUBN3T2JH45HE3I
  freshwire sub replay HCUBN3T2JH45HE3I --from 1f00c5d2.88121`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.subList(),
		c.onSub("show ID", "show how a subscription is doing, in full", "  freshwire sub show HCUBN3T2JH45HE3I -o json",
			func(cmd *cobra.Command, hub *client.Client, id string) (client.Subscription, error) {
				return hub.Subscription(cmd.Context(), id)
			}),
		c.subControl("pause", "stop calling; what is written meanwhile waits"),
		c.subControl("resume", "go on at once, also with what waits to be tried again"),
		c.subReplay(), c.subPing(), c.subEnd())
	return cmd
}

func (c *cli) subList() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: "ls", Short: "list subscriptions and how they are doing", Example: "  freshwire sub ls -o ndjson",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			all, err := allPages(func(after string) ([]client.Subscription, string, error) {
				return hub.Subscriptions(cmd.Context(), after, 1000)
			})
			if err != nil {
				return err
			}
			return many(c, all, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tHEALTH\tLAG\tDELIVERED\tLEASE UNTIL\tTOPIC\tCALLBACK")
				for _, s := range all {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", s.ID, s.Health, s.Lag, s.Delivered, stamp(s.LeaseUntil), s.Topic, s.Callback)
				}
			})
		},
	})
}

// onSub makes a command about one subscription.
func (c *cli) onSub(use, short, example string, ask func(cmd *cobra.Command, hub *client.Client, id string) (client.Subscription, error)) *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: use, Short: short, Example: example, Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			s, err := ask(cmd, hub, list[0])
			if err != nil {
				return err
			}
			return c.one(s, func(w io.Writer) { drawSub(w, &s) })
		},
	})
}

func drawSub(w io.Writer, s *client.Subscription) {
	field(w, "id", s.ID)
	field(w, "topic", s.Topic)
	field(w, "callback", s.Callback)
	field(w, "owner", s.Owner)
	field(w, "format", s.Format)
	field(w, "signed", s.Signed)
	field(w, "since", s.Created)
	field(w, "lease until", s.LeaseUntil)
	field(w, "health", s.Health)
	field(w, "lag", s.Lag)
	field(w, "delivered", s.Delivered)
	field(w, "failures", s.Failures)
	field(w, "last error", s.LastError)
	field(w, "last success", s.LastSuccess)
	field(w, "next attempt", s.NextAttempt)
}

func (c *cli) subControl(action, short string) *cobra.Command {
	return c.onSub(action+" ID", short, "  freshwire sub "+action+" HCUBN3T2JH45HE3I",
		func(cmd *cobra.Command, hub *client.Client, id string) (client.Subscription, error) {
			return hub.ControlSubscription(cmd.Context(), id, action, "")
		})
}

func (c *cli) subReplay() *cobra.Command {
	var from string
	cmd := c.onSub("replay ID", "send again what came after a position, or leave out what waits",
		"  freshwire sub replay HCUBN3T2JH45HE3I --from 1f00c5d2.88121\n  freshwire sub replay HCUBN3T2JH45HE3I --from now",
		func(cmd *cobra.Command, hub *client.Client, id string) (client.Subscription, error) {
			if from == "" {
				return client.Subscription{}, usagef("say after which position: --from CURSOR, oldest or now")
			}
			return hub.ControlSubscription(cmd.Context(), id, "replay", from)
		})
	cmd.Flags().StringVar(&from, "from", "", "a cursor, such as the token of a notice, oldest, or now, which leaves out all that waits")
	return cmd
}

func (c *cli) subPing() *cobra.Command {
	return c.chooseOutput(&cobra.Command{
		Use: "ping ID", Short: "call the callback now, with an empty document, and show its answer", Example: "  freshwire sub ping HCUBN3T2JH45HE3I",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			pong, err := hub.PingSubscription(cmd.Context(), list[0])
			if err != nil {
				return err
			}
			err = c.one(pong, func(w io.Writer) {
				if pong.Status > 0 {
					field(w, "status", pong.Status)
				}
				field(w, "error", pong.Error)
				field(w, "took", fmt.Sprint(pong.TookMS, " ms"))
			})
			if err == nil && pong.Status/100 != 2 {
				err = errors.New("the callback did not take it")
			}
			return err
		},
	})
}

func (c *cli) subEnd() *cobra.Command {
	return &cobra.Command{
		Use: "end ID", Short: "end a subscription; its callback is told so", Example: "  freshwire sub end HCUBN3T2JH45HE3I",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			hub, err := c.connect()
			if err != nil {
				return err
			}
			return hub.EndSubscription(cmd.Context(), list[0])
		},
	}
}
