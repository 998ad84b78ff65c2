package hub

import (
	"context"
	"errors"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
	"golang.org/x/sync/errgroup"
)

// openDelivery makes what calls others: the engine, and those it calls for. Nobody is
// called before the hub runs.
func (h *Hub) openDelivery() error {
	all, err := subscriptions.Compile(subscriptions.Filter{})
	if err != nil {
		return err
	}
	h.delivery, err = delivery.New(h.store, delivery.Options{Clock: h.clock.Now, ClockRate: h.cfg.ClockRate,
		Head: h.streams.FilterFeed(all).Head, Oldest: h.store.Oldest, PerHost: callsPerHost, Log: h.log.With("component", "delivery"), Ended: h.outletEnded})
	if err != nil {
		return err
	}
	h.openSinks()
	return h.openCallbacks()
}

// callOut calls others until ctx ends, and returns when what is known of it is on disk.
// InForce is closed when the sinks of the configuration are, or cannot be: with a disk
// that is nearly full a new one waits for the next reload, for the hub is to serve who
// reads.
func (h *Hub) callOut(ctx context.Context, inForce chan<- struct{}) error {
	defer h.callbacks.Close()
	defer h.sinks.Close()
	_, err := h.sinks.Replace(ctx, h.cfg.Sinks)
	close(inForce)
	if full := (*graph.NoSpaceError)(nil); errors.As(err, &full) {
		h.log.Error("sinks of the configuration are not in force; reload it when there is room", "err", err)
		err = nil
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.delivery.Run(ctx) })
	g.Go(func() error { return h.websub.Run(ctx) })
	return g.Wait()
}
