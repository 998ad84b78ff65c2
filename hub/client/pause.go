package client

import (
	"context"
	"net/http"
)

// pause is whether the brake on all calls is on.
type pause struct {
	Paused bool `json:"paused"`
}

// Paused reports whether the hub calls nobody: neither sinks nor callbacks.
func (c *Client) Paused(ctx context.Context) (bool, error) {
	var p pause
	err := c.get(ctx, "/v1/pause", nil, &p)
	return p.Paused, err
}

// Pause stops the calls of all sinks and callbacks at once, until it is taken back. It
// holds over restarts of the hub; what is written meanwhile waits.
func (c *Client) Pause(ctx context.Context, paused bool) error {
	var p pause
	return c.send(ctx, http.MethodPost, "/v1/pause", pause{paused}, &p)
}
