package client

import (
	"context"
	"net/http"
)

// Reloaded tells what became of a configuration that the hub read again.
type Reloaded struct {
	Changes []ConfigChange `json:"changes"`
	// Restart names settings that are different and that a hub takes only when it
	// starts.
	Restart []string `json:"restart"`
}

// ConfigChange is one thing that changed.
type ConfigChange struct {
	Section string `json:"section"`        // of the configuration, such as channels
	Name    string `json:"name,omitempty"` // which of the section, if it has parts
	Change  string `json:"change"`         // added, changed, removed
}

// Reload has the hub read its configuration again. One that cannot be taken is a
// *Problem, and the one before it stays in force, whole.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	req, err := c.request(ctx, http.MethodPost, "/v1/reload", nil, "", nil)
	if err != nil {
		return r, err
	}
	err = c.do(req, &r)
	return r, err
}
