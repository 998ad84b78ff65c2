package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/federation/follow"
)

// StreamOptions says which notices to stream, and from where. The zero value
// streams all notices from now on.
type StreamOptions struct {
	Filter Filter
	// Channel names a filter that the hub keeps. It stands alone: a hub refuses
	// a channel together with a filter.
	Channel string
	After   string    // a cursor: strictly what comes after it
	Since   time.Time // what was written at or after it; After goes before it
	// Until is a cursor, not before the place to begin: the iteration ends when
	// it is reached. "" means never. Of a channel that is seen with its next
	// notice, or within 18 s.
	Until string
	// Linger is how long the hub may hold notices back to send them together.
	Linger time.Duration
	// Moved is called with each cursor up to which the loop has handled all that
	// it asked for: those of the notices, and those the hub passes without one.
	Moved func(cursor string)
}

// Stream iterates over the notices of the hub as they are written.
//
// When the connection ends or falls silent, Stream connects again after a
// jittered wait and resumes strictly after the last notice, as often as needed.
// It gives up, with an error as the last item, when the first connection cannot
// be made, when the hub refuses it (a *Problem), or when the hub no longer holds
// the position (a *[Reset]: notices were missed, and only the caller knows what
// that means). It ends without an error when ctx ends or Until is reached.
func (c *Client) Stream(ctx context.Context, o StreamOptions) iter.Seq2[Notice, error] {
	return func(yield func(Notice, error) bool) {
		if o.Until != "" && o.After == o.Until {
			return
		}
		ctx, end := context.WithCancel(ctx)
		defer end()
		target := c.base + "/v1/stream"
		if q := o.query(); len(q) > 0 {
			target += "?" + q.Encode()
		}
		events := follow.Stream(ctx, target, follow.Options{HTTP: c.http, Prepare: c.sign, LastEventID: o.After,
			Moved: func(cursor string) {
				if o.Moved != nil {
					o.Moved(cursor)
				}
				if o.reached(cursor) {
					end()
				}
			}})
		for e, err := range events {
			var n *Notice
			if err == nil {
				n, err = decode(e)
			}
			switch {
			case err != nil:
				yield(Notice{}, hubError(err))
				return
			case n == nil:
			case o.Channel != "" && o.Until != "" && past(n.Token, o.Until):
				return
			case o.wants(n) && !yield(*n, nil):
				return
			}
		}
	}
}

// query names what to stream. The hub lets a cursor go before a start time.
func (o *StreamOptions) query() url.Values {
	q := url.Values{}
	if o.Until == "" || o.Channel != "" {
		o.Filter.query(q)
	}
	if o.Channel != "" {
		q.Set("channel", o.Channel)
	}
	if !o.Since.IsZero() && o.After == "" {
		q.Set("since", o.Since.UTC().Format(time.RFC3339Nano))
	}
	if o.Linger > 0 {
		q.Set("linger", o.Linger.String())
	}
	return q
}

// wants reports whether n is to be yielded. A filter that the hub applies would
// hide whether Until is reached: then it is applied here.
func (o *StreamOptions) wants(n *Notice) bool { return o.Until == "" || o.Filter.Match(n) }

// reached reports whether nothing more is asked for after cursor. What a channel
// leaves out is not known here, Until among it.
func (o *StreamOptions) reached(cursor string) bool {
	return o.Until != "" && (cursor == o.Until || o.Channel != "" && past(cursor, o.Until))
}

// past reports whether cursor lies after other in the same journal.
func past(cursor, other string) bool {
	epoch, text, _ := strings.Cut(cursor, ".")
	otherEpoch, otherText, _ := strings.Cut(other, ".")
	seq, err := strconv.ParseUint(text, 10, 64)
	otherSeq, otherErr := strconv.ParseUint(otherText, 10, 64)
	return epoch == otherEpoch && err == nil && otherErr == nil && seq > otherSeq
}

// decode returns the notice that e is, nil if it is none, or a *Reset.
func decode(e follow.Event) (*Notice, error) {
	switch e.Name {
	case "reset":
		r := new(Reset)
		if err := json.Unmarshal(e.Data, r); err != nil {
			return nil, fmt.Errorf("%w: reset: %w", ErrNotHub, err)
		}
		return nil, r
	case KindChanged, KindRefresh:
		n := new(Notice)
		if err := json.Unmarshal(e.Data, n); err != nil {
			return nil, fmt.Errorf("%w: notice: %w", ErrNotHub, err)
		}
		return n, nil
	}
	return nil, nil
}

// hubError says in the words of this package why a stream ended.
func hubError(err error) error {
	var refused *follow.Refusal
	var other *follow.NotStream
	switch {
	case errors.As(err, &refused):
		return readProblem(refused.Response)
	case errors.As(err, &other), errors.Is(err, follow.ErrTooLong):
		return fmt.Errorf("%w: %w", ErrNotHub, err)
	}
	return err
}
