package websub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

// An outlet is how the engine sends a subscription what its topic has. One piece is
// one document: what GET of the topic returns after the position that its subscriber
// has had. The bytes are not kept; they are made again from the journal.
type outlet struct {
	h *Hub
	e *entry
}

// attachAgain is how long a subscription waits that the engine had no room for, of the
// hub's clock: room does not come at once.
const attachAgain = time.Minute

// attach has the engine deliver to a subscription, as soon as there is room on the disk
// for what it keeps of that.
func (h *Hub) attach(ctx context.Context, e *entry) error {
	err := h.engage(ctx, e)
	if full := (*graph.NoSpaceError)(nil); !errors.As(err, &full) {
		return err
	}
	h.o.Log.Warn("a subscription waits for room on the disk", "sub", e.sub.Load().ID)
	h.begin(func(ctx context.Context) {
		if !h.sleep(ctx, attachAgain) {
			return
		}
		defer h.lock(e.key)()
		if !h.inForce(e) {
			return
		}
		if err := h.attach(ctx, e); err != nil && ctx.Err() == nil {
			h.o.Log.Error("a subscription is not delivered to until the next start", "sub", e.sub.Load().ID, "err", err)
		}
	})
	return nil
}

func (h *Hub) engage(ctx context.Context, e *entry) error {
	s := e.sub.Load()
	settings := delivery.Settings{Host: s.Callback.place(), Serial: true, Schedule: h.o.Schedule, Caller: h.o.Callbacks, From: s.From}
	if e.topic.digest != "" {
		settings.Head = issues{of: h.o.Digests, channel: e.topic.Channel}.Head
		return h.o.Engine.Attach(ctx, outletName(s.ID), digestOutlet{outlet{h, e}}, settings)
	}
	return h.o.Engine.Attach(ctx, outletName(s.ID), outlet{h, e}, settings)
}

// live returns the subscription and its feed while the one is in force and the other
// may be read.
func (o outlet) live() (*subscription, *watched, error) {
	s, feed := o.e.sub.Load(), o.e.feed.Load()
	if feed == nil || !o.h.o.Clock().Before(s.Until) || feed.Err() != nil {
		return nil, nil, errEnded
	}
	return s, feed, nil
}

// together is how old a document may be that those who stand at one position are given:
// they get what came since with the next one, which is again the same for all of them.
const together = time.Second

// errEnded reports a subscription of which the engine has not yet heard that it has
// ended.
var errEnded = errors.New("the subscription has ended")

// A pieceContext is what a document tells beside what is in its range. It is kept with the
// piece, so that a try later on sends the same.
type pieceContext struct {
	Prev  uint64            `json:"prev,omitempty"` // the Last of the document before
	Reset *graph.ResetError `json:"reset,omitempty"`
}

// Cut returns the next document of a lane.
func (o outlet) Cut(_ context.Context, lane graph.Lane, after uint64, _ int) (delivery.Cut, error) {
	s, feed, err := o.live()
	if err != nil {
		return delivery.Cut{Until: after}, nil // it is being ended
	}
	if lanes := o.e.topic.lanes; lanes != 0 && lanes&(1<<lane) == 0 {
		return delivery.Cut{Until: feed.Head().Seq}, nil
	}
	had, head := o.e.had[lane].Load(), feed.Head()
	c := pieceContext{Prev: min(had.Seq, after)}
	if had.Epoch != head.Epoch {
		// The hub was restored from a backup. What the journal has goes on from there;
		// what the subscriber had in the meantime nobody knows.
		c = pieceContext{Reset: &graph.ResetError{Reason: "epoch", Oldest: o.h.o.Oldest(), Newest: head}}
	}
	maxAge := together
	if o.e.cut[lane].Load() == after+1 {
		maxAge = 0 // it was given up, and is to have what came since
	}
	d, err := document(s, o.e.topic, feed.feed, lane, after, 0, maxAge, &c)
	if err != nil {
		return delivery.Cut{}, err
	}
	cut := delivery.Cut{Until: d.Until.Seq, More: d.More}
	if len(d.Notices) > 0 || d.Reset != nil {
		until := d.Last
		if len(d.Notices) == 0 {
			until = d.Until.Seq
		}
		o.e.cut[lane].Store(after + 1)
		cut.Pieces = []delivery.Piece{{Lane: lane, After: after, Until: until, Data: encode(c)}}
	}
	return cut, nil
}

// document reads the document of a topic after a position of a lane, up to another one
// or, if that is 0, as far as a document goes. A position that cannot be served is told
// in it, and in c.
func document(s *subscription, t topic, feed *subscriptions.Feed, lane graph.Lane, after, until uint64, maxAge time.Duration, c *pieceContext) (*subscriptions.Document, error) {
	head := feed.Head()
	options := subscriptions.DocumentOptions{Self: s.Topic, Hub: t.hub(), Prev: c.Prev, Until: until, Reset: c.Reset, MaxAge: maxAge}
	d, err := feed.Document(1<<lane, graph.Cursor{Epoch: head.Epoch, Seq: after}, options)
	var reset *graph.ResetError
	if !errors.As(err, &reset) {
		return d, err
	}
	c.Reset, options.Reset = reset, reset
	options.Until = min(until, head.Seq)
	at := reset.Oldest
	if after > head.Seq || options.Until != 0 && options.Until <= at.Seq {
		at, options.Until = head, 0 // nothing of it is there any more
	}
	return feed.Document(1<<lane, at, options)
}

// Request makes the call that brings a document.
// Source: WebSub, section 7.
func (o outlet) Request(ctx context.Context, p *delivery.Piece, _ int) (*http.Request, error) {
	s, feed, err := o.live()
	if err != nil {
		return nil, err
	}
	var c pieceContext
	if err := json.Unmarshal(p.Data, &c); err != nil {
		return nil, fmt.Errorf("a piece that was kept: %w", err)
	}
	d, err := document(s, o.e.topic, feed.feed, p.Lane, p.After, p.Until, together, &c)
	if err != nil {
		return nil, err
	}
	return o.h.request(ctx, s, o.e.topic, messageID(s.ID, p), contentOf(d, o.e.topic.atom))
}

// content is what a callback is sent of a topic.
type content struct {
	body  []byte
	media string
}

func contentOf(d *subscriptions.Document, atom bool) (c content) {
	if d != nil {
		c.body, c.media, _ = d.Body(atom)
	}
	return c
}

// messageID names what is sent: the same again if it is sent again.
func messageID(id string, p *delivery.Piece) string {
	return fmt.Sprintf("%s.%s.%d-%d", id, p.Lane, p.After, p.Until)
}

// request makes a call of a callback with what its topic has.
func (h *Hub) request(ctx context.Context, s *subscription, t topic, id string, c content) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, string(s.Callback), bytes.NewReader(c.body))
	if err != nil {
		return nil, errors.New("the callback cannot be called") // the error would repeat it
	}
	r.Header.Set("Content-Type", c.media)
	r.Header.Set("Link", "<"+t.hub()+`>; rel="hub", <`+s.Topic+`>; rel="self"`)
	r.Header.Set("User-Agent", userAgent)
	h.stamp(r.Header, s.Secret, id, c.body)
	return r, nil
}

// Judge says what an answer means. Of what a callback says only the status is looked
// at; a redirect is no success, for nobody verified where it leads.
// Source: WebSub, section 7: 2xx is success, 410 may end the subscription.
func (o outlet) Judge(p *delivery.Piece, a delivery.Answer) delivery.Verdict {
	switch {
	case a.Err == nil && a.Status/100 == 2:
		o.e.had[p.Lane].Store(&graph.Cursor{Epoch: o.h.o.Oldest().Epoch, Seq: p.Until})
		o.h.notes()
		return delivery.Done
	case a.Err == nil && a.Status == http.StatusGone:
		return delivery.Gone
	}
	return delivery.Again
}
