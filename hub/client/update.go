package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// What an [Update] says of its resource.
const (
	ActionUpdate = "update" // it has this version, hash and dependencies now
	ActionDelete = "delete" // it is gone
	ActionPurge  = "purge"  // the artefact left its cache and will be made again on demand
)

// Update tells the hub that a resource was updated, deleted or purged. Only URI
// is required.
type Update struct {
	// ID makes the update idempotent: the hub remembers it for a day, for this
	// publisher and URI. Required where Version is not a number.
	ID      string `json:"id,omitempty"`
	URI     string `json:"uri"`
	Type    string `json:"type,omitempty"`
	Action  string `json:"action,omitempty"` // "" means ActionUpdate
	Version string `json:"version,omitempty"`
	Hash    string `json:"hash,omitempty"`
	// At is when the content changed; for an artefact, when its making began,
	// before the first dependency was read. Zero means the time of arrival.
	At time.Time `json:"at,omitzero"`
	// Token is a cursor held when making began: of the notice that asked for
	// it, or of [Client.Token].
	Token string `json:"token,omitempty"`
	// Deps replaces the dependencies. Nil leaves them as they are; an empty list
	// that is not nil means there are none.
	Deps []Dep `json:"deps,omitzero"`
	// Buckets replaces the keys that group resources for bulk purging, in the
	// same way.
	Buckets []string `json:"buckets,omitzero"`
	// Aspects of this resource that changed with it, "*" for all of them.
	Aspects []string `json:"aspects,omitempty"`
	// Expires is when the artefact is to be made again regardless.
	Expires     time.Time `json:"expires,omitzero"`
	Cause       string    `json:"cause,omitempty"`
	Traceparent string    `json:"traceparent,omitempty"`
}

// Dep is one dependency. Seen is its version if it is a primary, its hash if it
// is an artefact, as it was when it was read; "" if that is not known.
type Dep struct {
	URI  string
	Seen string
}

// wireDep is a Dep on the wire, unless nothing was seen: then it is the URI alone.
type wireDep struct {
	URI  string `json:"uri"`
	Seen string `json:"seen,omitempty"`
}

func (d Dep) MarshalJSON() ([]byte, error) {
	if d.Seen == "" {
		return encode(d.URI)
	}
	return encode(wireDep(d))
}

func (d *Dep) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		d.Seen = ""
		return json.Unmarshal(b, &d.URI)
	}
	var w wireDep
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*d = Dep(w)
	return nil
}

// Result counts what became of a batch of updates.
type Result struct {
	Accepted   int    `json:"accepted"`   // all of them
	Changed    int    `json:"changed"`    // brought a new version, hash or change
	Duplicates int    `json:"duplicates"` // were sent before
	Outdated   int    `json:"outdated"`   // are older than what the hub has
	Cursor     string `json:"cursor"`     // notices written with the batch are at or before it
}

// Add counts r2 into r and takes over its cursor.
func (r *Result) Add(r2 Result) {
	r.Accepted += r2.Accepted
	r.Changed += r2.Changed
	r.Duplicates += r2.Duplicates
	r.Outdated += r2.Outdated
	r.Cursor = r2.Cursor
}

// Update sends a batch: all or nothing. When it returns nil the batch is on the
// hub's disk with the notices it caused at once; those of a larger fan-out
// follow (see [Client.Jobs]). A *Problem whose Item is set names the update that
// was refused.
func (c *Client) Update(ctx context.Context, batch ...Update) (Result, error) {
	var body bytes.Buffer
	for i := range batch {
		line, err := encode(&batch[i])
		if err != nil {
			return Result{}, err
		}
		body.Write(append(line, '\n'))
	}
	return c.UpdateLines(ctx, body.Bytes())
}

// UpdateLines sends a batch that is encoded already, one update a line.
func (c *Client) UpdateLines(ctx context.Context, ndjson []byte) (Result, error) {
	req, err := c.request(ctx, http.MethodPost, "/v1/updates", nil, typeNDJSON, ndjson)
	if err != nil {
		return Result{}, err
	}
	var r Result
	err = c.do(req, &r)
	return r, err
}
