package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// DeadLetter is a call that a sink gave up: what was sent, and why it was not taken.
type DeadLetter struct {
	ID       string        `json:"id"`
	Sink     string        `json:"sink"`
	Outlet   string        `json:"outlet"` // which cache of the sink, or what it calls by URL
	URI      string        `json:"uri,omitempty"`
	Cause    string        `json:"cause,omitempty"` // what was edited
	Bucket   string        `json:"bucket,omitempty"`
	Lane     string        `json:"lane"`
	Cursor   string        `json:"cursor"`            // of the notice
	Request  *LetterSent   `json:"request,omitempty"` // nil if none could be made
	Answer   *LetterAnswer `json:"answer,omitempty"`  // nil if there was none
	Error    string        `json:"error,omitempty"`   // why there was no answer
	Attempts int           `json:"attempts"`
	First    time.Time     `json:"first"` // when it was first to be sent
	At       time.Time     `json:"at"`    // when it was given up
}

// LetterSent is the request of the last attempt. Secrets are hidden.
type LetterSent struct {
	Method  string      `json:"method"`
	URL     string      `json:"url"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body,omitempty"` // its beginning
}

// LetterAnswer is what was answered to it.
type LetterAnswer struct {
	Status int    `json:"status"`
	Body   string `json:"body,omitempty"` // its beginning
}

// LetterFilter chooses dead letters; what is not set asks nothing.
type LetterFilter struct {
	Sink   string `json:"sink,omitempty"`
	Prefix string `json:"prefix,omitempty"` // of the resource, by whole path segments
	Bucket string `json:"bucket,omitempty"`
	Status *int   `json:"status,omitempty"` // that was answered; 0 is no answer
}

// LettersDone tells what became of dead letters.
type LettersDone struct {
	Letters int    `json:"letters"`        // that were chosen
	Done    int    `json:"done"`           // that were replayed, or dropped; the others stay
	Next    string `json:"next,omitempty"` // after which there are more to choose from
}

// DeadLetters lists up to limit of those that f chooses, after a place in the list; 0
// means the hub's own limit. Next is where to go on, "" at the end.
func (c *Client) DeadLetters(ctx context.Context, f LetterFilter, after string, limit int) (list []DeadLetter, next string, err error) {
	q := url.Values{}
	for name, value := range map[string]string{"sink": f.Sink, "prefix": f.Prefix, "bucket": f.Bucket} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.Status != nil {
		q.Set("status", strconv.Itoa(*f.Status))
	}
	return pageOf[DeadLetter](ctx, c, "/v1/deadletters", q, after, limit)
}

func letterPath(id string) string { return "/v1/deadletters/" + url.PathEscape(id) }

// DeadLetter shows one dead letter.
func (c *Client) DeadLetter(ctx context.Context, id string) (l DeadLetter, err error) {
	err = c.get(ctx, letterPath(id), nil, &l)
	return l, err
}

// ReplayLetter has a dead letter called again. If it cannot be now, that is a *Problem
// with status 409.
func (c *Client) ReplayLetter(ctx context.Context, id string) error {
	var done LettersDone
	return c.send(ctx, http.MethodPost, letterPath(id), letterOrder{Action: "replay"}, &done)
}

// DropLetter deletes a dead letter.
func (c *Client) DropLetter(ctx context.Context, id string) error {
	req, err := c.request(ctx, http.MethodDelete, letterPath(id), nil, "", nil)
	if err != nil {
		return err
	}
	return c.do(req, nil)
}

// letterOrder says what is to become of dead letters.
type letterOrder struct {
	Action string        `json:"action"`
	Filter *LetterFilter `json:"filter,omitempty"`
	Rate   int           `json:"rate,omitempty"`
	After  string        `json:"after,omitempty"`
}

// ReplayLetters has all that f chooses called again, after a place in the list and up to
// a bound of the hub, at most rate a second; 0 means at once.
func (c *Client) ReplayLetters(ctx context.Context, f LetterFilter, rate int, after string) (done LettersDone, err error) {
	err = c.send(ctx, http.MethodPost, "/v1/deadletters", letterOrder{"replay", &f, rate, after}, &done)
	return done, err
}

// DropLetters deletes all that f chooses, likewise.
func (c *Client) DropLetters(ctx context.Context, f LetterFilter, after string) (done LettersDone, err error) {
	err = c.send(ctx, http.MethodPost, "/v1/deadletters", letterOrder{"drop", &f, 0, after}, &done)
	return done, err
}
