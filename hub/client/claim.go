package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// ClaimRequest asks for work: of a channel or of some types. The hub gives what the
// token may publish and see, and nothing to two workers within a lease.
type ClaimRequest struct {
	Channel string        // this one, or …
	Types   []string      // … these
	Max     int           // claims, at most; 0 means 1
	Lease   time.Duration // whole seconds, up to an hour; 0 means a minute
	// Wait is how long the hub waits for work if there is none, in whole seconds up to
	// a minute. 0 asks once.
	Wait time.Duration
}

// Claim is a lease on a resource that is to be made. [Client.Update] of it with Token
// finishes it, whoever sends that.
type Claim struct {
	ID         string    `json:"id"`
	URI        string    `json:"uri"`
	Type       string    `json:"type,omitempty"`
	Token      string    `json:"token"`       // the journal's position when it was given
	LeaseUntil time.Time `json:"lease_until"` // by the hub's clock
	Notice     Notice    `json:"notice"`      // what told of it
}

// Claim asks for work once. It returns none if there was nothing in time.
func (c *Client) Claim(ctx context.Context, r ClaimRequest) ([]Claim, error) {
	in := struct {
		Channel string   `json:"channel,omitempty"`
		Types   []string `json:"types,omitempty"`
		Max     int      `json:"max,omitempty"`
		Lease   int      `json:"lease_s,omitempty"`
		Wait    int      `json:"wait_s"`
	}{r.Channel, r.Types, r.Max, int(r.Lease / time.Second), int(r.Wait / time.Second)}
	var out struct {
		Claims []Claim `json:"claims"`
	}
	err := c.send(ctx, http.MethodPost, "/v1/claims", in, &out)
	return out.Claims, err
}

// ExtendClaim moves the end of a claim's lease to so many whole seconds from now and
// returns it. A claim that is over is a [*Problem] with status 404.
func (c *Client) ExtendClaim(ctx context.Context, id string, lease time.Duration) (until time.Time, err error) {
	var out struct {
		LeaseUntil time.Time `json:"lease_until"`
	}
	err = c.endClaim(ctx, id, claimAction{"extend", int(lease / time.Second)}, &out)
	return out.LeaseUntil, err
}

// FailClaim says that making failed: the resource is ready again after a wait that
// grows each time, and after the sixth time it has failed.
func (c *Client) FailClaim(ctx context.Context, id string) error {
	return c.endClaim(ctx, id, claimAction{Action: "fail"}, &struct{}{})
}

// ReleaseClaim gives a claim back: its resource is ready again at once.
func (c *Client) ReleaseClaim(ctx context.Context, id string) error {
	return c.endClaim(ctx, id, claimAction{Action: "release"}, &struct{}{})
}

type claimAction struct {
	Action string `json:"action"`
	Lease  int    `json:"lease_s,omitempty"`
}

func (c *Client) endClaim(ctx context.Context, id string, a claimAction, out any) error {
	return c.send(ctx, http.MethodPost, "/v1/claims/"+url.PathEscape(id), a, out)
}
