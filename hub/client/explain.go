package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Explanation says why a resource is in its state.
type Explanation struct {
	Resource Resource `json:"resource"`
	Last     *Notice  `json:"last,omitempty"`    // the newest notice about it, if the journal still holds it
	Chain    []Link   `json:"chain,omitempty"`   // nearest cause first; the last one is the edit
	Waiting  []Item   `json:"waiting,omitempty"` // unsettled dependencies a dirty resource waits for
	Text     string   `json:"text"`              // in one sentence
}

// Link is one step from a resource back to the edit.
type Link struct {
	URI     string    `json:"uri"`
	Version string    `json:"version,omitempty"`
	Changed string    `json:"changed,omitempty"` // cursor of the change
	At      time.Time `json:"at,omitzero"`
	Rule    string    `json:"rule,omitempty"` // which comparison decided
	Cause   Cause     `json:"cause,omitzero"`
}

// Why explains the state of uri.
func (c *Client) Why(ctx context.Context, uri string) (Explanation, error) {
	var e Explanation
	err := c.get(ctx, "/v1/why", url.Values{"uri": {uri}}, &e)
	return e, err
}

// Impact counts what an edit of a resource would refresh.
type Impact struct {
	URI        string         `json:"uri"`
	Direct     int            `json:"direct"`
	Transitive int            `json:"transitive"` // direct ones included
	Complete   bool           `json:"complete"`   // false when counting stopped at the limit
	Depth      int            `json:"depth"`
	ByType     map[string]int `json:"by_type,omitempty"`
	ByHost     map[string]int `json:"by_host,omitempty"`
}

// Impact counts what an edit of uri would refresh, up to limit resources; 0
// leaves the limit to the hub.
func (c *Client) Impact(ctx context.Context, uri string, limit int) (Impact, error) {
	q := url.Values{"uri": {uri}}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var i Impact
	err := c.get(ctx, "/v1/impact", q, &i)
	return i, err
}

// Job is a running fan-out.
type Job struct {
	ID      string    `json:"id"`
	URI     string    `json:"uri"`  // whose change or settling is told
	Kind    string    `json:"kind"` // change, settle or forget
	Cause   Cause     `json:"cause,omitzero"`
	Reached int       `json:"reached"` // dependents passed
	Total   int       `json:"total"`   // dependents when it began
	Emitted int       `json:"emitted"` // notices written
	Paused  bool      `json:"paused"`
	Rate    int       `json:"rate,omitempty"` // dependents a second; 0 means no limit
	Started time.Time `json:"started"`
	ETA     float64   `json:"eta_s,omitempty"` // seconds left at this pace; 0 if nobody can tell
}

// Jobs lists the running fan-outs.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	var out struct {
		Jobs []Job `json:"jobs"`
	}
	err := c.get(ctx, "/v1/jobs", nil, &out)
	return out.Jobs, err
}

// ControlJob pauses or resumes a fan-out and limits its rate, in dependents a
// second; 0 means no limit. It returns the job as it is then.
func (c *Client) ControlJob(ctx context.Context, id string, paused bool, rate int) (Job, error) {
	in := struct {
		Paused bool `json:"paused"`
		Rate   int  `json:"rate"`
	}{paused, rate}
	var j Job
	err := c.send(ctx, http.MethodPost, "/v1/jobs/"+url.PathEscape(id), in, &j)
	return j, err
}
