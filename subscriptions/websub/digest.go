package websub

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

// source is a topic as a viewer may see it.
func (h *Hub) source(t topic, v subscriptions.Viewer) (source, error) {
	if t.digest == "" {
		f, err := h.o.Feeds.Feed(t.Topic, v)
		if err != nil {
			return nil, err // and no source that holds no feed
		}
		return f, nil
	}
	if h.o.Digests == nil {
		return nil, fmt.Errorf("%w: %.80q", subscriptions.ErrNoChannel, t.Channel)
	}
	if err := h.o.Digests.May(t.Channel, v); err != nil {
		return nil, err
	}
	channel, err := h.o.Feeds.Feed(t.Topic, subscriptions.Viewer{All: true})
	if err != nil {
		return nil, err
	}
	return issues{h.o.Digests, t.Channel, v, channel}, nil
}

// issues are the digests of a channel as a log: the number of the newest hour is where it
// ends.
type issues struct {
	of      Digests
	channel string
	viewer  subscriptions.Viewer
	feed    *subscriptions.Feed // of the channel, which tells it from another one of its name
}

func (d issues) Err() error {
	if err := d.feed.Err(); errors.Is(err, subscriptions.ErrNoChannel) {
		return err
	}
	return d.of.May(d.channel, d.viewer)
}

func (d issues) Head() graph.Cursor {
	return graph.Cursor{Epoch: issueEpoch, Seq: d.of.Newest(d.channel)}
}

func (d issues) Watch(news func()) (stop func()) { return d.of.Watch(d.channel, news) }

// issueEpoch tells a position among hours from one of the journal. Hours are counted on
// when the journal begins anew.
const issueEpoch = graph.Epoch(1)

// A digestOutlet is how the engine calls somebody when an hour closes, also an empty one:
// once for all that closed since the last time. What is sent is what the topic has at the
// time of the attempt; closed hours stay, so nothing is lost by it.
type digestOutlet struct{ outlet }

// live returns what the outlet of any topic does, and has a subscription end whose owner
// may not read the digest any more.
func (o digestOutlet) live() (*subscription, *watched, error) {
	s, of, err := o.outlet.live()
	if err != nil {
		if was := o.e.feed.Load(); was != nil && was.Err() != nil {
			o.h.look(o.e)
		}
	}
	return s, of, err
}

// Cut returns a call if an hour has closed of which the topic has something to show.
func (o digestOutlet) Cut(_ context.Context, lane graph.Lane, after uint64, _ int) (delivery.Cut, error) {
	s, of, err := o.live()
	if err != nil {
		return delivery.Cut{Until: after}, nil // it is being ended
	}
	newest := of.Head()
	if newest.Seq < after {
		o.e.forgetIssues()
		return delivery.Cut{}, &graph.ResetError{Reason: "epoch", Newest: newest}
	}
	cut := delivery.Cut{Until: newest.Seq}
	t := &o.e.topic
	if lane == graph.Prompt && newest.Seq > max(after, o.e.told.Load()) && o.h.o.Digests.Shows(t.Channel, t.digest, o.h.viewerOf(s.Owner)) {
		cut.Pieces = []delivery.Piece{{Lane: lane, After: after, Until: newest.Seq}}
	}
	return cut, nil
}

// Request makes the call that brings the document.
// Source: WebSub, section 7.
func (o digestOutlet) Request(ctx context.Context, _ *delivery.Piece, _ int) (*http.Request, error) {
	s, of, err := o.live()
	if err != nil {
		return nil, err
	}
	hour := of.Head().Seq // before the document is read: it may be of a later one
	c, err := o.h.newest(s, o.e.topic)
	if err != nil {
		return nil, err
	}
	o.e.sent.Store(hour)
	return o.h.request(ctx, s, o.e.topic, issueID(s.ID, hour, c.body), c)
}

// issueID names what is sent of a digest: the same again if it is sent again. Within an
// hour a document is replaced when a day or a week is added up.
func issueID(id string, hour uint64, body []byte) string {
	sum := sha256.Sum256(body)
	return fmt.Sprintf("%s.hour-%d.%x", id, hour, sum[:8])
}

// Judge says what an answer means, as of other topics. Who takes a later hour than it was
// called for has had that.
func (o digestOutlet) Judge(_ *delivery.Piece, a delivery.Answer) delivery.Verdict {
	switch {
	case a.Err == nil && a.Status/100 == 2:
		o.e.told.Store(o.e.sent.Load())
		return delivery.Done
	case a.Err == nil && a.Status == http.StatusGone:
		return delivery.Gone
	}
	return delivery.Again
}

func (e *entry) forgetIssues() {
	e.sent.Store(0)
	e.told.Store(0)
}

// rewind returns the position from which a subscriber is told of the newest hour again.
func (h *Hub) rewind(e *entry) graph.Cursor {
	e.forgetIssues()
	newest := h.o.Digests.Newest(e.topic.Channel)
	return graph.Cursor{Epoch: issueEpoch, Seq: newest - min(newest, 1)}
}

// newest is what the owner of a subscription gets at the address of its topic.
func (h *Hub) newest(s *subscription, t topic) (content, error) {
	body, media, err := h.o.Digests.Document(t.Channel, t.digest, h.viewerOf(s.Owner))
	return content{body, media}, err
}
