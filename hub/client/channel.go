package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"sync"
)

// MaxChannelEdit bounds the URIs of one [Client.EditChannel], added and removed
// together, and those in a [ChannelDefinition]. [Client.LoadChannel] takes more.
const MaxChannelEdit = 10_000

// maxListLine bounds a line of a list that is read, in bytes: a hub's URIs have at
// most 2,048.
const maxListLine = 16 << 10

// ChannelDefinition is what a channel lets through, by the rules of a [Filter].
// With URI not nil, also empty, the channel has a list of URIs that can be changed
// without replacing it.
type ChannelDefinition struct {
	URI    []string `json:"uri,omitzero"`
	Prefix []string `json:"prefix,omitempty"`
	Host   []string `json:"host,omitempty"`
	Type   []string `json:"type,omitempty"`
	Bucket []string `json:"bucket,omitempty"`
	Kind   []string `json:"kind,omitempty"`
	Lane   []string `json:"lane,omitempty"`
	Public bool     `json:"public,omitempty"` // for everybody to read
	Digest bool     `json:"digest,omitempty"` // digests are made of it; for administrators to say
	// Owner may change it: the subject of a token. "" is who makes it, of an
	// administrator nobody.
	Owner string `json:"owner,omitempty"`
}

// Channel is a named filter of the hub. Its list is read by [Client.ChannelURIs].
type Channel struct {
	Name    string   `json:"name"`
	Prefix  []string `json:"prefix,omitempty"`
	Host    []string `json:"host,omitempty"`
	Type    []string `json:"type,omitempty"`
	Bucket  []string `json:"bucket,omitempty"`
	Kind    []string `json:"kind,omitempty"`
	Lane    []string `json:"lane,omitempty"`
	Public  bool     `json:"public,omitempty"`
	Digest  bool     `json:"digest,omitempty"`
	Owner   string   `json:"owner,omitempty"` // "" is nobody's
	Listed  bool     `json:"listed"`          // it has a list of URIs
	URIs    int      `json:"uris"`            // how many are on the list
	BuiltIn bool     `json:"built_in,omitempty"`
	// Configured channels are made by the hub's configuration and changed there alone.
	Configured bool   `json:"configured,omitempty"`
	Cursor     string `json:"cursor,omitempty"` // notices after it are judged by this definition
}

// ListResult is what became of a change of a channel's list: notices after
// Cursor are judged by the new list, and none before.
type ListResult struct {
	Added   int    `json:"added"`
	Removed int    `json:"removed"`
	Cursor  string `json:"cursor"`
}

func channelPath(name string) string { return "/v1/channels/" + url.PathEscape(name) }

// Channels lists up to limit of the channels that somebody made, by name, after
// one of them; 0 means the hub's own limit. Next is where to go on, "" at the end.
func (c *Client) Channels(ctx context.Context, after string, limit int) (list []Channel, next string, err error) {
	return pageOf[Channel](ctx, c, "/v1/channels", url.Values{}, after, limit)
}

// Channel shows one channel.
func (c *Client) Channel(ctx context.Context, name string) (ch Channel, err error) {
	err = c.get(ctx, channelPath(name), nil, &ch)
	return ch, err
}

// PutChannel makes a channel, or replaces it whole, its list included.
func (c *Client) PutChannel(ctx context.Context, name string, d ChannelDefinition) (ch Channel, err error) {
	err = c.send(ctx, http.MethodPut, channelPath(name), d, &ch)
	return ch, err
}

// EditChannel puts URIs on the list of a channel and takes others off: all of it
// or nothing.
func (c *Client) EditChannel(ctx context.Context, name string, add, remove []string) (r ListResult, err error) {
	type uris struct {
		URI []string `json:"uri,omitempty"`
	}
	in := struct {
		Add    uris `json:"add,omitzero"`
		Remove uris `json:"remove,omitzero"`
	}{uris{add}, uris{remove}}
	err = c.send(ctx, http.MethodPatch, channelPath(name), in, &r)
	return r, err
}

// LoadChannel changes the list of a channel by lines {"add":URI} or {"remove":URI},
// as many as there are; they are sent as they are read. What was taken before an
// error is kept, so it may be sent again whole. A *Problem whose Item is set names
// the line that was refused; an error of lines itself is returned as it is, and what
// was read before it may be taken. After an error one more Read may be under way.
func (c *Client) LoadChannel(ctx context.Context, name string, lines io.Reader) (r ListResult, err error) {
	req, err := c.request(ctx, http.MethodPatch, channelPath(name), nil, "", nil)
	if err != nil {
		return r, err
	}
	src := &source{lines: lines}
	req.Body = io.NopCloser(src)
	req.Header.Set("Content-Type", typeNDJSON)
	err = c.do(req, &r)
	if failed := src.failure(); err != nil && failed != nil {
		err = failed
	}
	return r, err
}

// A source tells what was wrong with what is sent from what is wrong with the
// network.
type source struct {
	lines io.Reader

	mu  sync.Mutex
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.lines.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// DeleteChannel forgets a channel; its streams end. It returns the position from
// which on there is none.
func (c *Client) DeleteChannel(ctx context.Context, name string) (cursor string, err error) {
	req, err := c.request(ctx, http.MethodDelete, channelPath(name), nil, "", nil)
	if err != nil {
		return "", err
	}
	var out position
	err = c.do(req, &out)
	return out.Cursor, err
}

// ChannelURIs iterates over the list of a channel. An error is the last item.
func (c *Client) ChannelURIs(ctx context.Context, name string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := c.channelURIs(ctx, name, func(uri string) bool { return yield(uri, nil) }); err != nil {
			yield("", err)
		}
	}
}

func (c *Client) channelURIs(ctx context.Context, name string, yield func(string) bool) error {
	req, err := c.request(ctx, http.MethodGet, channelPath(name)+"/uris", nil, "", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", typeNDJSON)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return readProblem(resp)
	}
	lines := bufio.NewReaderSize(resp.Body, maxListLine)
	for {
		text, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(text) == 0:
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("%w: %s: a line of more than %d bytes", ErrNotHub, req.URL.Path, maxListLine)
		case err != nil && !errors.Is(err, io.EOF): // it broke off: half a line is none
			return fmt.Errorf("answer of %s: %w", req.URL.Path, err)
		}
		var line struct {
			URI string `json:"uri"`
		}
		if err := json.Unmarshal(text, &line); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrNotHub, req.URL.Path, err)
		}
		if !yield(line.URI) {
			return nil
		}
	}
}
