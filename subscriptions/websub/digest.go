package websub

import (
	"context"
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
	d := issues{h.o.Digests, t.Channel, v}
	return d, d.Err()
}

// issues are the digests of a channel as a log: the number of the newest hour is where it
// ends.
type issues struct {
	of      Digests
	channel string
	viewer  subscriptions.Viewer
}

func (d issues) Err() error { return d.of.May(d.channel, d.viewer) }

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

// Cut returns a call if an hour has closed.
func (o digestOutlet) Cut(_ context.Context, lane graph.Lane, after uint64, _ int) (delivery.Cut, error) {
	_, of, err := o.live()
	if err != nil {
		return delivery.Cut{Until: after}, nil // it is being ended
	}
	newest := of.Head().Seq
	cut := delivery.Cut{Until: max(newest, after)}
	if lane == graph.Prompt && newest > after {
		cut.Pieces = []delivery.Piece{{Lane: lane, After: after, Until: newest}}
	}
	return cut, nil
}

// Request makes the call that brings the document.
// Source: WebSub, section 7.
func (o digestOutlet) Request(ctx context.Context, p *delivery.Piece, _ int) (*http.Request, error) {
	s, _, err := o.live()
	if err != nil {
		return nil, err
	}
	c, err := o.h.newest(s, o.e.topic)
	if err != nil {
		return nil, err
	}
	return o.h.request(ctx, s, o.e.topic, messageID(s.ID, p), c)
}

// Judge says what an answer means, as of other topics. What was had last is of no use: a
// document of digests names the one before by itself.
func (o digestOutlet) Judge(_ *delivery.Piece, a delivery.Answer) delivery.Verdict {
	switch {
	case a.Err == nil && a.Status/100 == 2:
		return delivery.Done
	case a.Err == nil && a.Status == http.StatusGone:
		return delivery.Gone
	}
	return delivery.Again
}

// newest is what the owner of a subscription gets at the address of its topic.
func (h *Hub) newest(s *subscription, t topic) (content, error) {
	if h.o.Digests == nil {
		return content{}, errors.New("there are no digests")
	}
	body, media, err := h.o.Digests.Document(t.Channel, t.digest, h.viewerOf(s.Owner))
	return content{body, media}, err
}
