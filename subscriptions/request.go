package subscriptions

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxFilterBody bounds a filter sent as a body, in bytes: maxFilterValues
	// URIs of the usual length.
	maxFilterBody = 1 << 20
	// maxLinger bounds how long a reader may have its notices gathered: still
	// well below the heartbeat.
	maxLinger = 10 * time.Second
	// publicLinger is the least for a reader without a token: two writes a second,
	// the first of them at once after a silence.
	publicLinger = 500 * time.Millisecond
)

// methodQuery is a GET with a body.
// Source: draft-ietf-httpbis-safe-method-w-body.
const methodQuery = "QUERY"

// A Refusal is why a request got no stream.
type Refusal struct {
	Status     int    // of HTTP
	Slug       string // names the type of problem
	Field      string // the parameter or field to blame; "" is none
	Detail     string
	Limit      int64         // that was exceeded; 0 means that none was
	RetryAfter time.Duration // when to come again; 0 means not said
}

func (e *Refusal) Error() string { return e.Detail }

// badFilter refuses a filter because of err.
func badFilter(err error) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Slug: "bad-filter", Detail: err.Error()}
}

// streamRequest is what a reader asked for.
type streamRequest struct {
	key      classKey
	selector selector
	format   format
	linger   time.Duration // least time between two bundles
	lastID   string        // the reader's Last-Event-ID, "" if it has none
	since    string        // a cursor or a time, "" means now
}

// parseRequest reads all of r; its error is a *Refusal.
func parseRequest(w http.ResponseWriter, r *http.Request, v *Viewer, schemes []string, channels *Channels) (streamRequest, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return streamRequest{}, &Refusal{Status: http.StatusBadRequest, Slug: "bad-query",
			Detail: "the query string cannot be read: " + err.Error()}
	}
	since, err := take(query, "since")
	if err != nil {
		return streamRequest{}, err
	}
	lingerText, err := take(query, "linger")
	if err != nil {
		return streamRequest{}, err
	}
	linger, err := parseLinger(lingerText)
	if err != nil {
		return streamRequest{}, err
	}
	req := streamRequest{format: negotiate(r.Header), linger: linger, lastID: r.Header.Get("Last-Event-ID"), since: since}
	channel, err := take(query, "channel")
	if err != nil {
		return streamRequest{}, err
	}
	if v.Anonymous {
		req.linger = max(req.linger, publicLinger)
	}
	sees := v.sight()
	if channel != "" {
		err = req.choose(channels, channel, r.Method, query, sees)
		if err != nil && v.Anonymous {
			err = unauthorized()
		}
		return req, err
	}
	if v.Anonymous {
		return streamRequest{}, unauthorized()
	}
	filter, err := parseFilter(w, r, query)
	if err != nil {
		return streamRequest{}, err
	}
	matcher, err := Compile(filter, schemes...)
	if err != nil {
		return streamRequest{}, badFilter(err)
	}
	if err := sees.refuse(&filter); err != nil {
		return streamRequest{}, err
	}
	if sees != nil {
		matcher = matcher.seenBy(sees, false)
	}
	req.key, req.selector = classKey{asked: filterKey(filter), sight: keyOf(sees)}, matcher
	return req, nil
}

// choose takes a channel by its name, which leaves nothing else to be asked for.
func (req *streamRequest) choose(channels *Channels, name, method string, query url.Values, sees *sight) (err error) {
	if len(query) > 0 || method != http.MethodGet {
		return &Refusal{Status: http.StatusBadRequest, Slug: "bad-filter",
			Detail: "a channel is followed as it is, by GET and without a filter; leave one of them out"}
	}
	err = ErrNoChannel
	if channels != nil {
		req.key, req.selector, err = channels.selector(name, sees)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoChannel):
		return &Refusal{Status: http.StatusNotFound, Slug: "unknown-channel", Detail: fmt.Sprintf("there is no channel %.80q", name)}
	case errors.Is(err, errNotPublic):
		return &Refusal{Status: http.StatusForbidden, Slug: slugForbidden, Field: "channel", Detail: err.Error()}
	}
	return badFilter(err)
}

// take removes a parameter that may stand once.
func take(query url.Values, name string) (string, error) {
	values := query[name]
	delete(query, name)
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", &Refusal{Status: http.StatusBadRequest, Slug: "bad-query", Detail: name + " stands more than once"}
}

// parseLinger reads a duration as Go writes it ("2s", "500ms") or whole seconds.
func parseLinger(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if seconds, atoiErr := strconv.Atoi(s); atoiErr == nil && seconds <= int(maxLinger/time.Second) {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || d < 0 || d > maxLinger {
		return 0, &Refusal{Status: http.StatusBadRequest, Slug: "bad-linger",
			Detail: fmt.Sprintf("linger %.64q is not a duration from 0 to %s, such as 2s", s, maxLinger)}
	}
	return d, nil
}

// parseFilter reads the filter from what is left of the query or from the body.
func parseFilter(w http.ResponseWriter, r *http.Request, query url.Values) (Filter, error) {
	if r.Method == http.MethodGet {
		f, err := ParseQuery(query)
		if err != nil {
			return Filter{}, badFilter(err)
		}
		return f, nil
	}
	for name := range query {
		return Filter{}, &Refusal{Status: http.StatusBadRequest, Slug: "bad-filter",
			Detail: fmt.Sprintf("the body holds the filter; move %.64q there, only since and linger stand in the query", name)}
	}
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		return Filter{}, &Refusal{Status: http.StatusUnsupportedMediaType, Slug: "bad-content-type",
			Detail: "the filter is sent as application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFilterBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return Filter{}, &Refusal{Status: http.StatusRequestEntityTooLarge, Slug: "body-too-large", Limit: maxFilterBody,
			Detail: fmt.Sprintf("the filter is longer than %d bytes", maxFilterBody)}
	}
	if err != nil {
		return Filter{}, &Refusal{Status: http.StatusBadRequest, Slug: "bad-body", Detail: "the body ended early"}
	}
	f, err := decodeFilter(body)
	if err != nil {
		return Filter{}, &Refusal{Status: http.StatusBadRequest, Slug: "bad-filter",
			Detail: "the body is not a filter: " + err.Error()}
	}
	return f, nil
}

// decodeFilter reads the JSON form of a filter: one object, each member at most
// once and by its exact name.
func decodeFilter(body []byte) (f Filter, err error) {
	// encoding/json would replace what is not UTF-8, and the value then match nothing.
	if !utf8.Valid(body) {
		return Filter{}, errors.New("it is not UTF-8")
	}
	fields := map[string]*[]string{"uri": &f.URI, "prefix": &f.Prefix, "host": &f.Host, "type": &f.Type,
		"bucket": &f.Bucket, "kind": &f.Kind, "lane": &f.Lane}
	d := json.NewDecoder(bytes.NewReader(body))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return Filter{}, errors.New("it does not begin with an object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return Filter{}, err
		}
		values := fields[name.(string)] // a name, or the decoder would have failed
		if values == nil {
			return Filter{}, fmt.Errorf("%.64q is no field, or stands twice", name)
		}
		delete(fields, name.(string))
		if err := d.Decode(values); err != nil {
			return Filter{}, err
		}
		if *values == nil {
			return Filter{}, fmt.Errorf("%s is null, not a list", name)
		}
		// So does half a pair of escapes come out, which nobody may mean.
		if slices.ContainsFunc(*values, func(v string) bool { return strings.ContainsRune(v, utf8.RuneError) }) {
			return Filter{}, fmt.Errorf("%s has a character that is none", name)
		}
	}
	if _, err := d.Token(); err != nil {
		return Filter{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return Filter{}, errors.New("something follows the object")
	}
	return f, nil
}

// negotiate chooses NDJSON for who names it and refuses to nobody the default,
// server-sent events.
func negotiate(h http.Header) format {
	for _, field := range h.Values("Accept") {
		for part := range strings.SplitSeq(field, ",") {
			switch t, params, _ := mime.ParseMediaType(part); t {
			case eventStream{}.contentType():
				return eventStream{}
			case lines{}.contentType():
				if q, err := strconv.ParseFloat(params["q"], 64); err != nil || q > 0 {
					return lines{}
				}
			}
		}
	}
	return eventStream{}
}

// start is where a stream begins.
type start struct {
	at graph.Cursor
	// told says that the reader knows the position already.
	told bool
	// proven says that the journal has the position.
	proven bool
	// reset, if not nil, is why the stream cannot begin where it was asked to.
	reset *graph.ResetError
}

// begin finds the position a reader asked for. The reader's last event id wins
// over since: after a reconnect a browser repeats the address it first used.
func begin(j journal, req *streamRequest) (start, error) {
	switch {
	case req.lastID != "":
		c, err := graph.ParseCursor(req.lastID)
		if err != nil {
			// Not refused: a browser cannot take its last event id back, and
			// would never connect again.
			newest := j.Token()
			return start{at: newest, proven: true, reset: &graph.ResetError{Reason: reasonMalformed, Oldest: j.Oldest(), Newest: newest}}, nil
		}
		return start{at: c, told: true}, nil
	case req.since != "":
		return beginSince(j, req.since)
	}
	return start{at: j.Token(), proven: true}, nil
}

// reasonMalformed is the reset's reason for a last event id that is no cursor.
const reasonMalformed = "malformed"

func beginSince(j journal, since string) (start, error) {
	if c, err := graph.ParseCursor(since); err == nil {
		return start{at: c, told: true}, nil
	}
	t, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return start{}, &Refusal{Status: http.StatusBadRequest, Slug: "bad-since",
			Detail: fmt.Sprintf("since %.140q is neither a cursor nor a time such as 2026-11-22T02:12:49Z", since)}
	}
	c, err := j.Since(t)
	if reset := (*graph.ResetError)(nil); errors.As(err, &reset) {
		return start{at: reset.Newest, proven: true, reset: reset}, nil
	}
	if err != nil {
		return start{}, fmt.Errorf("seeking %s in the journal: %w", t.Format(time.RFC3339), err)
	}
	// A time before the oldest kept notice may have lost some to trimming. What
	// is kept is served, and the reader is told that it may not be all.
	if oldest := j.Oldest(); oldest.Seq > 0 && c.Seq <= oldest.Seq { // trimmed by now, perhaps
		return start{at: oldest, proven: true, reset: &graph.ResetError{Reason: "trimmed", Oldest: oldest, Newest: j.Token()}}, nil
	}
	return start{at: c}, nil
}
