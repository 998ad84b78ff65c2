package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// SinkQuestion describes a notice: what would each sink send for it? What is empty is
// what the hub knows of the resource, and what an edit of it would say.
type SinkQuestion struct {
	URI     string   `json:"uri"`
	Kind    string   `json:"kind,omitempty"`
	Type    string   `json:"type,omitempty"`
	Version string   `json:"version,omitempty"`
	Hash    string   `json:"hash,omitempty"`
	Change  string   `json:"change,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Lane    string   `json:"lane,omitempty"`
	Buckets []string `json:"buckets,omitempty"`
}

// SinkTrial says what the sinks would send for a notice.
type SinkTrial struct {
	Notice json.RawMessage `json:"notice"`
	Known  bool            `json:"known"` // the hub knows the resource
	Sinks  []SinkOutcome   `json:"sinks"`
}

// SinkOutcome is what one sink would send, or why it would send nothing.
type SinkOutcome struct {
	Sink  string     `json:"sink"`
	Sends []SinkCall `json:"sends,omitempty"`
	Why   string     `json:"why,omitempty"`
	Note  string     `json:"note,omitempty"`
}

// SinkCall is a request that would be made. Secrets are hidden.
type SinkCall struct {
	Method  string      `json:"method"`
	URL     string      `json:"url,omitempty"`
	Headers [][2]string `json:"headers,omitempty"`
	Body    string      `json:"body,omitempty"`
	Fault   string      `json:"fault,omitempty"` // it cannot be made
	About   string      `json:"about"`           // of calls about the same that wait, the last one is made
}

// TrySinks asks what the hub's sinks would send for a notice. Nothing is sent.
func (c *Client) TrySinks(ctx context.Context, q SinkQuestion) (t SinkTrial, err error) {
	err = c.send(ctx, http.MethodPost, "/v1/sinks/test", q, &t)
	return t, err
}

// Sink is a rule of the hub's configuration, and how it is doing.
type Sink struct {
	Name       string          `json:"name"`
	Summary    string          `json:"summary"`
	Definition json.RawMessage `json:"definition"` // as the configuration has it, without secrets
	Targets    []SinkTarget    `json:"targets"`
}

// SinkTarget is one cache of a sink, or what it calls by URL.
type SinkTarget struct {
	Cache   string `json:"cache,omitempty"` // HOST:PORT
	Outlet  string `json:"outlet"`          // its name in dead letters
	Health  string `json:"health"`          // active, paused, failing, held, full
	Cursors struct {
		Prompt string `json:"prompt"`
		Bulk   string `json:"bulk"`
	} `json:"cursors"`
	Lag         uint64    `json:"lag"`     // positions to the newest one
	Calls       int       `json:"calls"`   // under way
	Waiting     int       `json:"waiting"` // to be tried again, or for the stage before
	DeadLetters int       `json:"dead_letters"`
	Sent        uint64    `json:"sent"`
	Ignored     uint64    `json:"ignored"`
	Failures    uint64    `json:"failures"`
	Skipped     uint64    `json:"skipped"` // notices older than max_age
	Merged      uint64    `json:"merged"`  // notices that a later one stood for
	Lost        uint64    `json:"lost,omitempty"`
	LastError   string    `json:"last_error,omitempty"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	NextAttempt time.Time `json:"next_attempt,omitzero"`
}

// Sinks lists the sinks of the configuration, in its order.
func (c *Client) Sinks(ctx context.Context) ([]Sink, error) {
	var out struct {
		Items []Sink `json:"items"`
	}
	err := c.get(ctx, "/v1/sinks", nil, &out)
	return out.Items, err
}

// Sink shows one sink.
func (c *Client) Sink(ctx context.Context, name string) (s Sink, err error) {
	err = c.get(ctx, "/v1/sinks/"+url.PathEscape(name), nil, &s)
	return s, err
}

// ControlSink pauses a sink ("pause"), lets it go on ("resume"), or has it "replay" what
// came after a position: a cursor, "oldest" or "now".
func (c *Client) ControlSink(ctx context.Context, name, action, from string) (s Sink, err error) {
	in := struct {
		Action string `json:"action"`
		From   string `json:"from,omitempty"`
	}{action, from}
	err = c.send(ctx, http.MethodPost, "/v1/sinks/"+url.PathEscape(name), in, &s)
	return s, err
}
