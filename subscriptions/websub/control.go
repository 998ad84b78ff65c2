package websub

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

// Info is a subscription as it is shown.
type Info struct {
	ID       string
	Topic    string
	Callback string // whole; it may hold a secret
	Shown    string // the callback without what may be one
	Owner    Owner
	Atom     bool
	Signed   bool
	Lease    time.Duration
	Until    time.Time
	Made     time.Time
	State    delivery.State
}

// List returns up to limit subscriptions by id, after one. Visible chooses among them;
// nil is all. Next is where to go on, "" if there is no further one.
func (h *Hub) List(after string, limit int, visible func(Owner) bool) (list []Info, next string) {
	all := h.all()
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.sub.Load().ID, b.sub.Load().ID) })
	for _, e := range all {
		s := e.sub.Load()
		if s.ID <= after || visible != nil && !visible(s.Owner) {
			continue
		}
		if len(list) == limit {
			return list, list[limit-1].ID
		}
		list = append(list, h.info(e))
	}
	return list, ""
}

// Get shows one subscription, or reports [ErrNoSubscription].
func (h *Hub) Get(id string) (Info, error) {
	e, err := h.find(id)
	if err != nil {
		return Info{}, err
	}
	return h.info(e), nil
}

func (h *Hub) find(id string) (*entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.ids[id]; e != nil {
		return e, nil
	}
	return nil, ErrNoSubscription
}

func (h *Hub) info(e *entry) Info {
	s := e.sub.Load()
	i := Info{ID: s.ID, Topic: s.Topic, Callback: string(s.Callback), Shown: s.Callback.shown(), Owner: s.Owner, Atom: e.topic.atom,
		Signed: len(s.Secret) > 0, Lease: s.Lease, Until: s.Until, Made: s.Made}
	var attached bool
	if i.State, attached = h.o.Engine.State(outletName(s.ID)); !attached {
		i.State.Health = delivery.Active // it is about to be, or has just ended
	}
	return i
}

// End ends a subscription; its callback is told why. It is durable when End returns.
func (h *Hub) End(ctx context.Context, id, why string) error {
	e, err := h.find(id)
	if err != nil {
		return err
	}
	defer h.lock(e.key)()
	if !h.inForce(e) {
		return ErrNoSubscription
	}
	h.counts.end(byDenial)
	return h.deny(ctx, e.sub.Load().terms, e.key, e, why)
}

// Control pauses and resumes deliveries to a subscription, or has what came after a
// position delivered again, as [delivery.Engine.Control] does. Of a digest, which does
// not count by positions of the journal, the newest document is.
func (h *Hub) Control(ctx context.Context, id, action string, from graph.Cursor) error {
	e, err := h.find(id)
	if err != nil {
		return err
	}
	if action == "replay" && e.topic.digest != "" {
		from = h.rewind(e)
	}
	return h.o.Engine.Control(ctx, outletName(id), action, from)
}

// A Pong is what came of a ping.
type Pong struct {
	Status int   // 0 if nobody answered …
	Err    error // … and why
	Took   time.Duration
}

// Ping calls a callback once with a document of its topic that has nothing in it, or the
// newest one of a digest, signed like any other.
func (h *Hub) Ping(ctx context.Context, id string) (Pong, error) {
	e, err := h.find(id)
	if err != nil {
		return Pong{}, err
	}
	if h.o.Observe {
		return Pong{}, ErrObserving
	}
	s, feed, err := outlet{h, e}.live()
	if err != nil {
		return Pong{}, ErrNoSubscription
	}
	body, err := h.blank(s, e.topic, feed)
	if err != nil {
		return Pong{}, err
	}
	r, err := h.request(ctx, s, e.topic, s.ID+".ping."+newID(), body)
	if err != nil {
		return Pong{}, err
	}
	began := time.Now()
	answer, err := h.o.Engine.Call(ctx, s.Callback.place(), h.o.Callbacks, r)
	p := Pong{Err: err, Took: time.Since(began)}
	if err == nil {
		p.Status = answer.StatusCode
		answer.Body.Close()
	}
	return p, nil
}

// blank is a document of a topic that has nothing in it, or the newest of a digest.
func (h *Hub) blank(s *subscription, t topic, of *watched) (content, error) {
	if of.feed == nil {
		return h.newest(s, t)
	}
	at := of.Head()
	d, err := of.feed.Document(0, at, subscriptions.DocumentOptions{Self: s.Topic, Hub: t.hub(), Until: at.Seq})
	return contentOf(d, t.atom), err
}

// An ending is why a subscription ended, from a closed set.
type ending string

const (
	byLease  ending = "lease"
	byDenial ending = "denied"
	byGone   ending = "gone"
	byItself ending = "unsubscribed"
)

// Stats are figures of a hub.
type Stats struct {
	Active  int // subscriptions in force
	Pending int // calls that are owed
	// Verified counts calls by mode and outcome, with a space between; Ended
	// subscriptions by why.
	Verified, Ended map[string]uint64
}

// counts are what Stats counts.
type counts struct {
	mu              sync.Mutex
	verified, ended map[string]uint64
}

func (c *counts) outcome(m Mode, what outcome) { c.add(&c.verified, string(m)+" "+string(what)) }
func (c *counts) end(why ending)               { c.add(&c.ended, string(why)) }

func (c *counts) add(to *map[string]uint64, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *to == nil {
		*to = map[string]uint64{}
	}
	(*to)[name]++
}

// Stats returns the figures of now.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	s := Stats{Active: len(h.ids), Pending: len(h.pending)}
	h.mu.Unlock()
	h.counts.mu.Lock()
	defer h.counts.mu.Unlock()
	s.Verified, s.Ended = maps.Clone(h.counts.verified), maps.Clone(h.counts.ended)
	return s
}
