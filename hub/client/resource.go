package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Where a resource stands.
const (
	StateStub    = "stub"    // named by an edge, or gone; nothing is known of its content
	StateClean   = "clean"   // made from what its dependencies are now
	StateDirty   = "dirty"   // waits for an unsettled dependency
	StateReady   = "ready"   // is to be made again; a notice is out or will be
	StatePending = "pending" // a worker makes it
)

// Status is the short answer about one resource.
type Status struct {
	URI     string    `json:"uri"`
	State   string    `json:"state"`
	Known   bool      `json:"known"` // false also for a URI the hub never heard of
	Stale   bool      `json:"stale,omitempty"`
	Failed  bool      `json:"failed,omitempty"` // it was announced so often that the hub gave up
	Version string    `json:"version,omitempty"`
	Hash    string    `json:"hash,omitempty"`
	At      time.Time `json:"at,omitzero"`
}

// Status answers for many URIs at once, in their order. A URI the hub never
// heard of is a stub that is not known.
func (c *Client) Status(ctx context.Context, uris ...string) ([]Status, error) {
	in := struct {
		URIs []string `json:"uris"`
	}{uris}
	var out struct {
		Resources []Status `json:"resources"`
	}
	err := c.send(ctx, http.MethodPost, "/v1/status", in, &out)
	return out.Resources, err
}

// Resource is all the hub knows of one resource.
type Resource struct {
	Status
	Type         string    `json:"type,omitempty"`
	Aliases      []string  `json:"aliases,omitempty"` // other versions received with this very hash
	Changed      string    `json:"changed,omitempty"` // cursor of its last change
	ChangedAt    time.Time `json:"changed_at,omitzero"`
	Dependencies int       `json:"dependencies"`
	Dependents   int       `json:"dependents"`
	Buckets      []string  `json:"buckets,omitempty"`
	Expires      time.Time `json:"expires,omitzero"`
	BornStale    int       `json:"born_stale,omitempty"` // renderings in a row that were stale on arrival
	Attempt      int       `json:"attempt,omitempty"`    // retries since the last notice
	Damping      float64   `json:"damping_s,omitempty"`  // least seconds between two refreshes, because it flaps
	NoticeDue    time.Time `json:"notice_due,omitzero"`  // its notice waits until then
	LeaseUntil   time.Time `json:"lease_until,omitzero"` // of the worker that makes it
	Last         *Notice   `json:"last,omitempty"`       // the newest notice about it, if the hub found one
}

// Resource returns what the hub knows of uri. A URI it never heard of is a
// *Problem with status 404.
func (c *Client) Resource(ctx context.Context, uri string) (Resource, error) {
	var r Resource
	err := c.get(ctx, "/v1/resource", url.Values{"uri": {uri}}, &r)
	return r, err
}

// Item is one end of an edge in a listing.
type Item struct {
	URI   string `json:"uri"`
	State string `json:"state"`
}

// Page is a part of a listing. Next continues it; it is "" on the last page.
type Page struct {
	Items []Item `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Dependencies returns a page of what uri is made from, from the start if after
// is "". A limit of 0 leaves the length to the hub.
func (c *Client) Dependencies(ctx context.Context, uri, after string, limit int) (Page, error) {
	return c.page(ctx, "/v1/dependencies", uri, after, limit)
}

// Dependents returns a page of what is made from uri, likewise.
func (c *Client) Dependents(ctx context.Context, uri, after string, limit int) (Page, error) {
	return c.page(ctx, "/v1/dependents", uri, after, limit)
}

func (c *Client) page(ctx context.Context, path, uri, after string, limit int) (Page, error) {
	q := url.Values{"uri": {uri}}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var p Page
	err := c.get(ctx, path, q, &p)
	return p, err
}

// Items iterates over a whole listing, whose pages turn asks for by the place
// they come after: [Client.Dependencies] or [Client.Dependents] of one URI. An
// error is the last item.
func Items(turn func(after string) (Page, error)) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for after := ""; ; {
			p, err := turn(after)
			if err != nil {
				yield(Item{}, err)
				return
			}
			for _, i := range p.Items {
				if !yield(i, nil) {
					return
				}
			}
			if p.Next == "" {
				return
			}
			after = p.Next
		}
	}
}

// EdgeEdit changes the dependencies of one resource without saying that it was
// made again. Clear drops all of them before Add.
type EdgeEdit struct {
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
	Clear  bool     `json:"clear,omitempty"`
}

// EditDependencies adds and removes dependencies of uri and returns the hub's
// position after that. It never makes uri stale.
func (c *Client) EditDependencies(ctx context.Context, uri string, e EdgeEdit) (cursor string, err error) {
	in := struct {
		URI string `json:"uri"`
		EdgeEdit
	}{uri, e}
	var out position
	err = c.send(ctx, http.MethodPatch, "/v1/dependencies", in, &out)
	return out.Cursor, err
}

// ForgetDependencies drops all edges out of uri, likewise.
func (c *Client) ForgetDependencies(ctx context.Context, uri string) (cursor string, err error) {
	return c.forget(ctx, "/v1/dependencies", uri)
}

// ForgetDependents drops all edges into uri, likewise.
func (c *Client) ForgetDependents(ctx context.Context, uri string) (cursor string, err error) {
	return c.forget(ctx, "/v1/dependents", uri)
}

// position is what the hub answers to an edit of edges.
type position struct {
	Cursor string `json:"cursor"`
}

func (c *Client) forget(ctx context.Context, path, uri string) (cursor string, err error) {
	req, err := c.request(ctx, http.MethodDelete, path, url.Values{"uri": {uri}}, "", nil)
	if err != nil {
		return "", err
	}
	var out position
	err = c.do(req, &out)
	return out.Cursor, err
}

// Token returns the hub's position now. A producer that takes it before it reads
// the first dependency, and sends it with its update, proves what it cannot have
// missed.
func (c *Client) Token(ctx context.Context) (string, error) {
	var out struct {
		Token string `json:"token"`
	}
	err := c.get(ctx, "/v1/token", nil, &out)
	return out.Token, err
}
