package client

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// maxProblem bounds what is read of a refusal, in bytes: a few sentences.
const maxProblem = 64 << 10

// Problem is the hub's refusal of a request. Branch on Type, which is stable;
// Detail is for people.
// Source: RFC 9457.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Field  string `json:"field,omitempty"` // the offending field, if one is to blame
	Item   *int   `json:"item,omitempty"`  // which update of a batch or line of a list, counted from 0
	Help   string `json:"help,omitempty"`  // the way out
	// RetryAfter is how long the hub asks to wait; 0 if it does not say.
	RetryAfter time.Duration `json:"-"`
}

func (p *Problem) Error() string {
	text := p.Title
	if p.Detail != "" {
		text = p.Detail
	}
	if p.Field != "" {
		text = p.Field + ": " + text
	}
	if p.Item != nil {
		text = fmt.Sprintf("item %d: %s", *p.Item, text)
	}
	return text
}

// readProblem turns an answer other than 2xx into a *Problem, also when it is
// not one of the hub's own, as from a proxy between.
func readProblem(resp *http.Response) error {
	p := &Problem{RetryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil || media != "application/problem+json" || json.Unmarshal(body, p) != nil {
		p.Type, p.Title, p.Detail = "about:blank", http.StatusText(resp.StatusCode), ""
	}
	if p.Title == "" {
		p.Title = resp.Status
	}
	p.Status = resp.StatusCode
	return p
}

// retryAfter reads the seconds of a Retry-After header; a date, which no hub
// sends, counts as nothing said.
func retryAfter(s string) time.Duration {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(n) * time.Second
}
