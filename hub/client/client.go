// Package client speaks to a freshwire hub over HTTP: it sends updates, asks
// what the hub knows, and follows the notices.
//
// It is for programs outside the hub as well as for the freshwire command, and
// knows only the wire: of ours it imports federation/follow, which keeps a stream
// going. A [Client] is safe for concurrent use and starts no goroutine that
// outlives a call.
//
//	hub, err := client.New("http://127.0.0.1:8420", client.Options{})
//	result, err := hub.Update(ctx, client.Update{URI: "https://en.example.org/wiki/Berlin", Version: "1182"})
//	for notice, err := range hub.Stream(ctx, client.StreamOptions{After: result.Cursor}) {
//		…
//	}
//
// What the hub refuses is a [*Problem]; every other error means that the hub
// was not reached or did not answer in its own language.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxAnswer bounds the body of one answer that is not a stream, in bytes: the
// longest is a page of dependents, a tenth of it.
const maxAnswer = 64 << 20

// Options configures a Client. The zero value of each field is its default.
type Options struct {
	HTTP *http.Client // nil means http.DefaultClient
	// Token returns the access token. It is asked before each request and each
	// connection of a stream, so that a token can be replaced before it expires. Nil
	// or "" sends none, which a hub without keys accepts.
	Token func() (string, error)
	Agent string // the User-Agent; "" means "freshwire-client"
}

// Client speaks to one hub.
type Client struct {
	base  string
	http  *http.Client
	token func() (string, error)
	agent string
}

// New returns a client of the hub at baseURL, such as http://127.0.0.1:8420. It
// does not connect.
func New(baseURL string, o Options) (*Client, error) {
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("hub address: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("hub address %q: want http://HOST:PORT or https://HOST", baseURL)
	}
	c := &Client{strings.TrimSuffix(u.String(), "/"), o.HTTP, o.Token, o.Agent}
	if c.http == nil {
		c.http = http.DefaultClient
	}
	if c.agent == "" {
		c.agent = "freshwire-client"
	}
	return c, nil
}

// URL returns the address the client was made with, without a slash at its end.
func (c *Client) URL() string { return c.base }

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
)

// request makes a request for path, which begins with a slash, with a body of
// the given media type unless body is nil.
func (c *Client) request(ctx context.Context, method, path string, q url.Values, media string, body []byte) (*http.Request, error) {
	target := c.base + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", media)
	}
	return req, c.sign(req)
}

// sign says who sends a request.
func (c *Client) sign(req *http.Request) error {
	req.Header.Set("User-Agent", c.agent)
	if c.token == nil {
		return nil
	}
	token, err := c.token()
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// do sends req and decodes the answer into out. An answer other than 2xx is a
// *Problem.
func (c *Client) do(req *http.Request, out any) error {
	req.Header.Set("Accept", typeJSON)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return readProblem(resp)
	}
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("answer of %s: %w", req.URL.Path, err)
	}
	if len(body) > maxAnswer {
		return fmt.Errorf("answer of %s: longer than %d bytes", req.URL.Path, maxAnswer)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotHub, req.URL.Path, err)
	}
	return nil
}

// get asks for path about one uri and decodes the answer into out.
func (c *Client) get(ctx context.Context, path string, q url.Values, out any) error {
	req, err := c.request(ctx, http.MethodGet, path, q, "", nil)
	if err != nil {
		return err
	}
	return c.do(req, out)
}

// pageOf gets a page of a list: up to limit (0 means as many as the hub gives) after
// where the page before ended.
func pageOf[T any](ctx context.Context, c *Client, path string, q url.Values, after string, limit int) (list []T, next string, err error) {
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out struct {
		Items []T    `json:"items"`
		Next  string `json:"next"`
	}
	err = c.get(ctx, path, q, &out)
	return out.Items, out.Next, err
}

// send sends in as JSON and decodes the answer into out.
func (c *Client) send(ctx context.Context, method, path string, in, out any) error {
	body, err := encode(in)
	if err != nil {
		return err
	}
	req, err := c.request(ctx, method, path, nil, typeJSON, body)
	if err != nil {
		return err
	}
	return c.do(req, out)
}

// encode is json.Marshal that leaves &, < and > in URIs readable.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ErrNotHub reports an answer that no hub would give, such as a proxy's page.
var ErrNotHub = errors.New("the answer does not come from a freshwire hub")
