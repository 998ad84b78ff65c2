package subscriptions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/freshwire/freshwire/graph"
)

// MaxConfigured bounds the channels of a configuration: all are compared with the
// store's at each start. Whoever needs more makes them over the API.
const MaxConfigured = 10_000

// ConfiguredChannel is a channel that the hub's configuration makes.
type ConfiguredChannel struct {
	Name string
	Definition
}

// A ChannelChange is what becomes of a channel when the configuration does: it is
// added, changed or removed.
type ChannelChange struct {
	Name   string
	Change string
}

// What becomes of a channel.
const (
	ChannelAdded   = "added"
	ChannelChanged = "changed"
	ChannelRemoved = "removed"
)

// CheckConfigured reports the first channel of a configuration that no hub could have,
// without looking at what a hub has. Errors name the channel.
func CheckConfigured(list []ConfiguredChannel, schemes ...string) error {
	if len(list) > MaxConfigured {
		return fmt.Errorf("more than %d channels; make them over the API", MaxConfigured)
	}
	known := map[string]bool{}
	digests := 0
	for i := range list {
		c := &list[i]
		err := ChannelName(c.Name)
		if c.Digest {
			digests++
		}
		switch {
		case err != nil:
		case digests > MaxDigests:
			err = ErrTooManyDigests
		case known[c.Name]:
			err = errors.New("there are two of that name")
		case c.Owner != "":
			err = errors.New("it has an owner; a channel of the configuration is the operator's")
		default:
			_, err = Compile(c.Filter, schemes...)
		}
		if err != nil {
			return fmt.Errorf("channel %.80q: %w", c.Name, err)
		}
		known[c.Name] = true
	}
	return nil
}

// Configuring says what [Channels.Configure] would change, or why it cannot.
func (c *Channels) Configuring(list []ConfiguredChannel) ([]ChannelChange, error) {
	c.editing.Lock()
	defer c.editing.Unlock()
	plan, err := c.plan(list)
	return plan.changes(), err
}

// Configure makes the channels of a configuration those of the list: what is new is
// made, what is different changed, what is not in it any more deleted, and what is
// equal left alone, so that its readers notice nothing. Nobody else can change them
// ([ErrConfigured]). It refuses, and changes nothing, if a name is taken by a channel
// that somebody made otherwise. Each change is durable when Configure returns, and
// takes effect at a position of its own; of one that fails those before it stay.
func (c *Channels) Configure(ctx context.Context, list []ConfiguredChannel) ([]ChannelChange, error) {
	c.editing.Lock()
	defer c.editing.Unlock()
	plan, err := c.plan(list)
	if err != nil {
		return nil, err
	}
	for i := range plan {
		if err := plan[i].take(ctx, c); err != nil {
			return plan[:i].changes(), err
		}
	}
	return plan.changes(), nil
}

// A channelStep is one change of a channel that is configured.
type channelStep struct {
	ChannelChange
	old         *channel // nil if it is added
	whole       bool     // it is replaced, and not its list changed
	d           Definition
	add, remove []string // on its list
}

func (s *channelStep) take(ctx context.Context, c *Channels) (err error) {
	switch {
	case s.Change == ChannelRemoved:
		_, err = c.remove(ctx, s.old)
	case s.whole:
		_, err = c.put(ctx, s.Name, s.d, s.old, ownership{fixed: true})
	default:
		_, err = c.store.EditList(ctx, graph.ListEdit{List: s.old.newest().List, Add: s.add, Remove: s.remove})
	}
	return err
}

type channelPlan []channelStep

func (p channelPlan) changes() (list []ChannelChange) {
	for i := range p {
		list = append(list, p[i].ChannelChange)
	}
	return list
}

// plan says what is to be done: first what makes room. The lock is held.
func (c *Channels) plan(list []ConfiguredChannel) (plan channelPlan, err error) {
	if err := CheckConfigured(list, c.schemes...); err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(list))
	for i := range list {
		wanted[list[i].Name] = true
	}
	room := maxChannels
	c.mu.RLock()
	for name, ch := range c.byName {
		if room--; ch.ownedBy().fixed && !wanted[name] {
			room++
			plan = append(plan, channelStep{ChannelChange: ChannelChange{name, ChannelRemoved}, old: ch})
		}
	}
	c.mu.RUnlock()
	slices.SortFunc(plan, func(a, b channelStep) int { return cmp.Compare(a.Name, b.Name) })
	for _, want := range list {
		step, err := c.step(want)
		if err != nil {
			return nil, fmt.Errorf("channel %q: %w", want.Name, err)
		}
		if step.Change == ChannelAdded {
			room--
		}
		if step.Change != "" {
			plan = append(plan, step)
		}
	}
	if room < 0 {
		return nil, ErrTooManyChannels
	}
	return plan, nil
}

// step says what becomes of one channel; without a change nothing does.
func (c *Channels) step(want ConfiguredChannel) (s channelStep, err error) {
	s = channelStep{ChannelChange: ChannelChange{want.Name, ChannelAdded}, whole: true, d: want.Definition}
	if s.old, err = c.find(want.Name); err != nil {
		return s, nil
	}
	if whose := s.old.ownedBy(); !whose.fixed {
		return s, errors.New("there is one of that name that the configuration did not make; delete it first, or use another name")
	}
	s.Change = ChannelChanged
	was := s.old.newest()
	asked := want.Filter
	asked.URI = nil
	if filterKey(was.Filter) != filterKey(asked) || was.Public != want.Public || was.Digest != want.Digest || (was.List != 0) != (want.URI != nil) {
		_, err = c.versionsOf(s.old)
		return s, err
	}
	if was.List == 0 {
		s.Change = ""
		return s, nil
	}
	listed, err := c.listed(was.List)
	if err != nil {
		return s, err
	}
	s.add, s.remove = difference(want.URI, listed), difference(listed, want.URI)
	if len(s.add)+len(s.remove) == 0 {
		s.Change = ""
	}
	if s.whole = len(s.add)+len(s.remove) > graph.MaxListEdit; s.whole {
		_, err = c.versionsOf(s.old)
	}
	return s, err
}

// listed returns all that is on the list of a configured channel, which is short.
func (c *Channels) listed(list graph.ListID) (all []string, err error) {
	for after := ""; ; {
		page, next, err := c.store.Listed(list, after, graph.MaxListing)
		if all = append(all, page...); err != nil || next == "" {
			return all, err
		}
		after = next
	}
}

// difference returns, sorted and each once, those of a that are not in b.
func difference(a, b []string) (only []string) {
	b = slices.Sorted(slices.Values(b))
	for _, s := range slices.Compact(slices.Sorted(slices.Values(a))) {
		if _, found := slices.BinarySearch(b, s); !found {
			only = append(only, s)
		}
	}
	return only
}
