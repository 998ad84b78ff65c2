package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Subscription is a callback that a hub calls, by WebSub, and how it is doing.
type Subscription struct {
	ID           string    `json:"id"`
	Topic        string    `json:"topic"`
	Callback     string    `json:"callback"` // without its query, to all but its owner
	Owner        string    `json:"owner,omitempty"`
	Format       string    `json:"format"` // json or atom
	Signed       bool      `json:"signed"`
	LeaseSeconds int64     `json:"lease_seconds"`
	LeaseUntil   time.Time `json:"lease_until"`
	Created      time.Time `json:"created"`
	Health       string    `json:"health"` // active, paused, failing
	Lag          uint64    `json:"lag"`    // positions to the newest one, of a digest hours
	Failures     int       `json:"failures"`
	Delivered    uint64    `json:"delivered"` // documents
	LastError    string    `json:"last_error,omitempty"`
	LastSuccess  time.Time `json:"last_success,omitzero"`
	NextAttempt  time.Time `json:"next_attempt,omitzero"`
}

// Pong is what came of a ping.
type Pong struct {
	Status int    `json:"status,omitempty"` // of the answer
	Error  string `json:"error,omitempty"`  // why there was none
	TookMS int64  `json:"took_ms"`
}

// Subscriptions lists the subscriptions of the token's subject, or for an administrator
// all: up to limit (0 means as many as the hub gives) after a page's next. Next is "" at
// the end.
func (c *Client) Subscriptions(ctx context.Context, after string, limit int) (list []Subscription, next string, err error) {
	return pageOf[Subscription](ctx, c, "/v1/subscriptions", url.Values{}, after, limit)
}

// Subscription shows one subscription.
func (c *Client) Subscription(ctx context.Context, id string) (s Subscription, err error) {
	err = c.get(ctx, "/v1/subscriptions/"+url.PathEscape(id), nil, &s)
	return s, err
}

// ControlSubscription pauses a subscription ("pause"), lets it go on at once ("resume"),
// or has it "replay" what came after a position: a cursor, "oldest" or "now".
func (c *Client) ControlSubscription(ctx context.Context, id, action, from string) (s Subscription, err error) {
	err = c.send(ctx, http.MethodPost, "/v1/subscriptions/"+url.PathEscape(id), subscriptionAction{action, from}, &s)
	return s, err
}

// PingSubscription has the hub call a callback with an empty document.
func (c *Client) PingSubscription(ctx context.Context, id string) (p Pong, err error) {
	err = c.send(ctx, http.MethodPost, "/v1/subscriptions/"+url.PathEscape(id), subscriptionAction{Action: "ping"}, &p)
	return p, err
}

type subscriptionAction struct {
	Action string `json:"action"`
	From   string `json:"from,omitempty"`
}

// EndSubscription ends a subscription; its callback is told that it is denied.
func (c *Client) EndSubscription(ctx context.Context, id string) error {
	req, err := c.request(ctx, http.MethodDelete, "/v1/subscriptions/"+url.PathEscape(id), nil, "", nil)
	if err != nil {
		return err
	}
	return c.do(req, nil)
}
