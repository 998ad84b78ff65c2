package websub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

// Receive takes a request: the form of a subscriber, or of a publisher who pings. It
// returns once the request is durable, and waits for no call; whether the callback
// agrees shows later. Base is the address, scheme and host, under which topics of this
// hub are known to whoever sent it.
//
// It fails with a *[RequestError] for what is wrong with the form, with
// [subscriptions.ErrNoChannel], a *subscriptions.FilterError or a
// *subscriptions.Refusal for a topic that cannot be had, with a *[LimitError], a
// *[MovedError] or [ErrObserving]; or as [graph.Store.PutRecords] does. Then nothing
// has changed.
// Source: WebSub, sections 5.1 and 7.
func (h *Hub) Receive(ctx context.Context, form []byte, base string, who Requester) error {
	r, err := ParseRequest(form)
	if err != nil {
		return err
	}
	asked := make([]topic, 0, 1)
	for _, text := range r.Topics {
		t, err := topicOf(text, base)
		if err != nil {
			return err
		}
		asked = append(asked, t)
	}
	if !who.Viewer.Anonymous {
		if who.Viewer, err = h.sighted(ctx, &who); err != nil {
			return err
		}
	}
	if r.Mode == Publish {
		return mayPing(asked, &who)
	}
	return h.accept(ctx, r, asked[0], &who)
}

// topicOf reads the URL of a topic of the hub at base.
func topicOf(text, base string) (topic, error) {
	t, no := parseTopic(text)
	if no == nil && !strings.EqualFold(t.base, base) {
		no = bad("hub.topic", "it is not a topic of this hub, which is known as %.200s", base)
	}
	if no != nil {
		return t, no
	}
	return t, nil
}

// mayPing refuses who may not say that a topic has something new. That is all that a
// ping does: the hub publishes its topics itself, and knew before.
func mayPing(asked []topic, who *Requester) error {
	for _, t := range asked {
		switch {
		case who.Viewer.Anonymous:
			return &subscriptions.Refusal{Status: http.StatusUnauthorized, Slug: "unauthorized", Field: "hub.mode", Detail: "publishers send a token"}
		case who.MayPublish == nil || !who.MayPublish(t.URI):
			return &subscriptions.Refusal{Status: http.StatusForbidden, Slug: "forbidden", Field: "hub.url", Detail: "the token's publish does not cover the topic"}
		}
	}
	return nil
}

// accept has a subscription or its end verified.
func (h *Hub) accept(ctx context.Context, r *Request, t topic, who *Requester) error {
	switch {
	case h.o.Moved != "" && r.Mode == Subscribe:
		return &MovedError{h.o.Moved}
	case h.o.Observe:
		return ErrObserving
	}
	if h.o.CheckURL != nil {
		if err := h.o.CheckURL(r.url); err != nil {
			return bad("hub.callback", "%v", err)
		}
	}
	c := &call{terms: terms{Topic: r.Topics[0], Callback: callback(r.Callback), Secret: r.Secret, Owner: who.owner()},
		Mode: r.Mode, key: keyOf(t.compared, r.compared)}
	if r.Mode == Subscribe {
		c.Lease = h.lease(r.Lease)
		why, err := h.barred(t, who.Viewer)
		switch {
		case err != nil:
			return err
		case why != "":
			// The operator's, and so no mistake of the request.
			c.Mode, c.Reason = denied, why
		}
	}
	return h.put(ctx, c, who.Admin)
}

// lease is what a subscriber who asks for d gets.
func (h *Hub) lease(d time.Duration) time.Duration {
	if d == 0 {
		return h.o.LeaseDefault
	}
	return min(max(d, h.o.LeaseMin), h.o.LeaseMax)
}

// barred says what a viewer cannot have a topic for: why is a decision of the
// operator, err that there is none of that name or none for this viewer.
func (h *Hub) barred(t topic, v subscriptions.Viewer) (why string, err error) {
	d := h.denies.Load()
	if v.Anonymous && d.requireToken {
		return "", &subscriptions.Refusal{Status: http.StatusUnauthorized, Slug: "unauthorized", Field: "hub.topic", Detail: "nobody subscribes here without a token"}
	}
	if slices.Contains(d.topics, t.subject) {
		return "the operator of the hub denies this topic", nil
	}
	_, err = h.source(t, v)
	var no *subscriptions.Refusal
	if errors.As(err, &no) && no.Status == http.StatusForbidden && t.Channel != "" {
		// Whoever may see nothing of a channel is not told that it is there.
		err = fmt.Errorf("%w: %.80q", subscriptions.ErrNoChannel, t.Channel)
	}
	return "", err
}

// put makes a call durable that somebody asked for, and makes it.
func (h *Hub) put(ctx context.Context, c *call, admin bool) error {
	defer h.lock(c.key)()
	inForce, _ := h.of(c.key)
	if inForce != nil {
		// Anybody may be asked to confirm anything. But a subscriber who confirms what
		// it knows would lose its secret to whoever asks in its name.
		if owner := inForce.sub.Load().Owner; !admin && owner.Subject != "" && owner != c.Owner {
			return &subscriptions.Refusal{Status: http.StatusForbidden, Slug: "forbidden", Field: "hub.callback",
				Detail: "the subscription is another's, who alone renews or ends it"}
		}
	}
	old, err := h.reserve(c, inForce)
	if err != nil {
		return err
	}
	if err := h.ledger.PutRecords(ctx, []graph.Record{c.record()}); err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.unbook(c.key)
		if old != nil {
			h.enter(old)
		}
		return err
	}
	h.launch(c, old)
	return nil
}

// reserve books a call if there is room for it.
func (h *Hub) reserve(c *call, inForce *entry) (old *call, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	share := 1
	if c.Owner.Subject == "" {
		share = anonymousShare
	}
	perOwner, perHost := max(h.o.PerOwner/share, 1), 2*h.o.VerifyRate
	old = h.unbook(c.key)
	var tally tally
	if t := h.ofOwner[c.Owner]; t != nil {
		tally = *t
	}
	switch {
	case c.Mode == Subscribe && inForce == nil && tally.active+tally.pending >= perOwner && tally.active+h.fresh(c.Owner) >= perOwner:
		err = &LimitError{perOwner, 0, "there are %d subscriptions of this owner; end one first"}
	case c.Mode == Subscribe && inForce == nil && len(h.ids)+len(h.pending) >= maxSubscriptions:
		err = &LimitError{maxSubscriptions, 0, "the hub has %d subscriptions"}
	case tally.pending >= maxPendingPerOwner/share:
		err = &LimitError{maxPendingPerOwner / share, window, "%d requests of this owner wait for their verification"}
	case len(h.pending) >= maxPending:
		err = &LimitError{maxPending, window, "%d requests wait for their verification"}
	case h.ofHost[c.Callback.host()] >= perHost:
		err = &LimitError{perHost, window, "%d requests wait for their verification by the callback's host"}
	}
	if err == nil {
		h.enter(c)
	} else if old != nil {
		h.enter(old)
	}
	return old, err
}

// fresh counts the verifications of an owner that would each make one more subscription.
// The lock is held.
func (h *Hub) fresh(o Owner) (n int) {
	for k, c := range h.pending {
		if c.Owner == o && c.Mode == Subscribe && h.keys[k] == nil {
			n++
		}
	}
	return n
}

// sighted returns what an owner may see: what the newest of its tokens shows that
// were presented here, which is this one or is known from before. If this one is
// newer it holds from now on, for all subscriptions of its owner.
func (h *Hub) sighted(ctx context.Context, who *Requester) (subscriptions.Viewer, error) {
	shown := &sighting{Subject: who.Subject, Issued: who.Issued, All: who.Viewer.All}
	if !shown.All {
		shown.Prefixes = slices.Compact(slices.Sorted(slices.Values(who.Viewer.Prefixes)))
	}
	h.owning.Lock()
	defer h.owning.Unlock()
	h.mu.Lock()
	known := h.sightings[who.Subject]
	h.mu.Unlock()
	if known != nil {
		same := known.All == shown.All && slices.Equal(known.Prefixes, shown.Prefixes)
		if shown.Issued.Before(known.Issued) || same && shown.Issued.Equal(known.Issued) {
			return known.viewer(), nil
		}
	}
	if err := h.ledger.PutRecords(ctx, []graph.Record{{Key: recordOwner + digest(who.Subject), Value: encode(shown)}}); err != nil {
		return subscriptions.Viewer{}, err
	}
	h.mu.Lock()
	h.sightings[who.Subject] = shown
	var theirs []*entry
	for _, e := range h.ids {
		if e.sub.Load().Owner == who.owner() {
			theirs = append(theirs, e)
		}
	}
	h.mu.Unlock()
	for _, e := range theirs {
		h.look(e)
	}
	return shown.viewer(), nil
}

func (s *sighting) viewer() subscriptions.Viewer {
	return subscriptions.Viewer{Name: s.Subject, All: s.All, Prefixes: s.Prefixes}
}

// seesOf is equal for viewers who may see the same.
func seesOf(v subscriptions.Viewer) string {
	switch {
	case v.Anonymous:
		return "public"
	case v.All:
		return "all"
	}
	sum := sha256.Sum256([]byte(strings.Join(v.Prefixes, "\n"))) // sorted when they were noted
	return hex.EncodeToString(sum[:])
}

// viewerOf is what an owner may see now.
func (h *Hub) viewerOf(o Owner) subscriptions.Viewer {
	if o.Subject == "" {
		return subscriptions.Viewer{Anonymous: true}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sightings[o.Subject]; s != nil {
		return s.viewer()
	}
	return subscriptions.Viewer{Name: o.Subject}
}

// denials reads a policy.
func (p *Policy) denials() (*denials, error) {
	d := &denials{requireToken: p.RequireToken}
	for i, text := range p.DenyTopics {
		t, no := parseDenied(text)
		if no != nil {
			return nil, fmt.Errorf("deny_topics: number %d: %s", i+1, no.Reason)
		}
		d.topics = append(d.topics, t)
	}
	return d, nil
}

// SetPolicy puts p in force: subscriptions that it does not allow end, and their
// callbacks are told. If p cannot be read, the old one stays.
func (h *Hub) SetPolicy(p Policy) error {
	d, err := p.denials()
	if err != nil {
		return err
	}
	h.denies.Store(d)
	for _, e := range h.all() {
		h.look(e)
	}
	return nil
}

// refused says for a callback why its owner cannot have a topic any more.
func refused(err error) string {
	var no *subscriptions.Refusal
	switch {
	case errors.Is(err, subscriptions.ErrNoChannel):
		return "the topic is no more"
	case errors.As(err, &no) && no.Status == http.StatusUnauthorized:
		return "the topic is not public"
	case errors.As(err, &no):
		return "the topic is not shown to the subscription's owner"
	}
	return "the topic cannot be followed"
}
