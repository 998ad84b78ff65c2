package hub

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

// topicPath is where topics are, and webSubPath where one subscribes to them.
const (
	topicPath  = "/topics/"
	webSubPath = "/websub"
)

// getChannelTopic answers with a document of a channel.
func (h *Hub) getChannelTopic(w http.ResponseWriter, r *http.Request) error {
	name, err := channelName(r)
	if err != nil {
		return err
	}
	q, err := query(r, "after", "lane", "format")
	if err != nil {
		return err
	}
	return h.answerTopic(w, r, subscriptions.Topic{Channel: name}, q)
}

// getResourceTopic answers with a document of one resource.
func (h *Hub) getResourceTopic(w http.ResponseWriter, r *http.Request) error {
	q, uri, err := h.queryOf(r, "after", "lane", "format")
	if err != nil {
		return err
	}
	return h.answerTopic(w, r, subscriptions.Topic{URI: uri}, q)
}

// answerTopic answers with the newest document of a topic, or the one after a position.
// What it has is for whoever it was made for: a shared cache may keep it if that is
// everybody, and asks before each use whether it is still that.
func (h *Hub) answerTopic(w http.ResponseWriter, r *http.Request, t subscriptions.Topic, q url.Values) error {
	lanes, err := topicLanes(q)
	if err != nil {
		return err
	}
	atom, err := topicFormat(q, r.Header)
	if err != nil {
		return err
	}
	v, _ := viewer(r)
	feed, err := h.streams.Feed(t, v)
	if err != nil {
		return topicError(t, err)
	}
	base := h.baseURL(r)
	d, err := topicDocument(feed, lanes, q, subscriptions.DocumentOptions{Self: base + topicAddress(t, lanes, atom), Hub: base + webSubPath})
	if err != nil {
		return topicError(t, err)
	}
	body, contentType, etag := d.Body(atom)
	header := w.Header()
	header.Set("Link", d.Links())
	if d.More {
		next := url.Values{"after": {graph.Cursor{Epoch: d.Epoch, Seq: d.Last}.String()}}
		address, separator := d.Self, "?"
		if strings.Contains(address, "?") {
			separator = "&"
		}
		header.Add("Link", "<"+address+separator+next.Encode()+`>; rel="next"`)
	}
	header.Set("ETag", etag)
	header.Set("Vary", "Accept, Authorization")
	header.Set("Cache-Control", "private, no-cache")
	if allowOrigins(w, r); caller(r).Anonymous() {
		header.Set("Cache-Control", "public, no-cache")
		header.Set("Access-Control-Expose-Headers", "ETag, Link")
	}
	if hasTag(r.Header, etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body) // who does not read it is not there
	return nil
}

// topicDocument returns the document that a query asks for. If its position cannot be
// served the document tells so, and is the oldest one that is kept, or the newest if the
// position is of another journal.
func topicDocument(feed *subscriptions.Feed, lanes uint8, q url.Values, o subscriptions.DocumentOptions) (*subscriptions.Document, error) {
	if !q.Has("after") {
		return feed.Newest(lanes, o)
	}
	after, err := topicPosition(q.Get("after"), feed.Head().Epoch)
	if err != nil {
		return nil, err
	}
	d, err := feed.Document(lanes, after, o)
	for tries := 0; tries < maxTrimmed && errors.As(err, &o.Reset); tries++ {
		if after = o.Reset.Oldest; o.Reset.Reason != "trimmed" {
			return feed.Newest(lanes, o)
		}
		d, err = feed.Document(lanes, after, o)
	}
	return d, err
}

// maxTrimmed bounds how often the oldest position is asked for again because it was
// trimmed while it was read: once a minute at most.
const maxTrimmed = 3

// topicPosition reads a position: a cursor, or a number of this journal, such as a
// document's last.
func topicPosition(text string, epoch graph.Epoch) (graph.Cursor, error) {
	if seq, err := strconv.ParseUint(text, 10, 64); err == nil {
		return graph.Cursor{Epoch: epoch, Seq: seq}, nil
	}
	c, err := graph.ParseCursor(text)
	if err != nil {
		return c, refuse(badQuery, "after", "%.140q is neither a cursor nor a position", text)
	}
	return c, nil
}

func topicLanes(q url.Values) (uint8, error) {
	if !q.Has("lane") {
		return 0, nil
	}
	for _, lane := range []graph.Lane{graph.Prompt, graph.Bulk} {
		if q.Get("lane") == lane.String() {
			return 1 << lane, nil
		}
	}
	return 0, refuse(badQuery, "lane", "%.40q is unknown; use %s or %s", q.Get("lane"), graph.Prompt, graph.Bulk)
}

// topicFormat reports whether Atom is asked for, by the address or by Accept; who
// would take both gets JSON.
func topicFormat(q url.Values, header http.Header) (atom bool, err error) {
	if !q.Has("format") {
		return accepted(header, subscriptions.DocumentAtom) > accepted(header, subscriptions.DocumentJSON), nil
	}
	switch q.Get("format") {
	case "json":
		return false, nil
	case "atom":
		return true, nil
	}
	return false, refuse(badQuery, "format", "%.40q is unknown; use json or atom", q.Get("format"))
}

// accepted is the weight that a request gives to a media type, by the most specific
// of its ranges that has it.
// Source: RFC 9110, section 12.5.1.
func accepted(header http.Header, media string) (q float64) {
	if header.Get("Accept") == "" {
		return 1
	}
	family, _, _ := strings.Cut(media, "/")
	best := -1
	for part := range strings.SplitSeq(strings.Join(header.Values("Accept"), ","), ",") {
		t, params, err := mime.ParseMediaType(part)
		specific := map[string]int{"*/*": 0, family + "/*": 1, media: 2}
		at, found := specific[t]
		if err != nil || !found || at <= best {
			continue
		}
		best, q = at, 1
		if weight, err := strconv.ParseFloat(params["q"], 64); err == nil {
			q = weight
		}
	}
	return q
}

// topicAddress is the path of a topic, under which it has one form alone.
func topicAddress(t subscriptions.Topic, lanes uint8, atom bool) string {
	path, q := topicPath+url.PathEscape(t.Channel), url.Values{}
	if t.URI != "" {
		path = topicPath + "resource"
		q.Set("uri", t.URI)
	}
	switch lanes {
	case 1 << graph.Prompt:
		q.Set("lane", graph.Prompt.String())
	case 1 << graph.Bulk:
		q.Set("lane", graph.Bulk.String())
	}
	if atom {
		q.Set("format", "atom")
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// topicError tells why there is no document. A channel of which the caller may see
// nothing is as one that is not there.
func topicError(t subscriptions.Topic, err error) error {
	no := (*subscriptions.Refusal)(nil)
	if errors.As(err, &no) && no.Status == http.StatusForbidden && t.Channel != "" || errors.Is(err, subscriptions.ErrNoChannel) {
		return refuse(unknownChannel, "name", "there is no such channel: %.80q", t.Channel)
	}
	return channelError(err)
}

// hasTag reports whether a client that has the representation of a tag is asking.
// Source: RFC 9110, section 13.1.2.
func hasTag(header http.Header, etag string) bool {
	for tag := range strings.SplitSeq(strings.Join(header.Values("If-None-Match"), ","), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == etag || tag == "*" {
			return true
		}
	}
	return false
}

// baseURL is where others reach the hub: as it is configured, or as it was reached.
func (h *Hub) baseURL(r *http.Request) string {
	if h.cfg.PublicURL != "" {
		return strings.TrimSuffix(h.cfg.PublicURL, "/")
	}
	u := url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return u.String()
}
