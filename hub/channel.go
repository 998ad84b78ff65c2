package hub

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/go-chi/chi/v5"
)

const (
	// maxChannelPage bounds a page of channels.
	maxChannelPage = 1000
	// maxDefinitionValues bounds the URIs in the definition of a channel; more are
	// put on its list afterwards.
	maxDefinitionValues = graph.MaxListEdit
	// maxOwner bounds the name of an owner in bytes: it is the subject of a token.
	maxOwner = 255
	// maxListLine bounds a line of a list that is sent, in bytes: a URI whose every
	// byte is escaped.
	maxListLine = 6*graph.MaxURI + 64
)

// channelShape is a channel as it is shown.
type channelShape struct {
	Name string `json:"name"`
	subscriptions.Definition
	Listed  bool `json:"listed"`
	URIs    int  `json:"uris"`
	BuiltIn bool `json:"built_in,omitempty"`
	// Configured channels are changed by the configuration alone.
	Configured bool   `json:"configured,omitempty"`
	Cursor     string `json:"cursor,omitempty"`
}

func shapeChannel(info subscriptions.ChannelInfo) channelShape {
	s := channelShape{Name: info.Name, Definition: info.Definition, Listed: info.Listed, URIs: info.URIs, BuiltIn: info.BuiltIn, Configured: info.Configured}
	if !info.At.IsZero() {
		s.Cursor = info.At.String()
	}
	return s
}

// editShape is what became of a change of a list.
type editShape struct {
	Added   int    `json:"added"`
	Removed int    `json:"removed"`
	Cursor  string `json:"cursor"`
}

// channelName returns the name in the address of r. The router goes by the raw
// path where that is not the usual way to write the path; else the name is
// unescaped already, and would not stand to be so again.
func channelName(r *http.Request) (string, error) {
	name := chi.URLParam(r, "name")
	if r.URL.RawPath == "" {
		return name, nil
	}
	name, err := url.PathUnescape(name)
	if err != nil {
		return "", refuse(unknownChannel, "name", "%v", err)
	}
	return name, nil
}

// channelError tells what is wrong with a channel that was asked for.
func channelError(err error) error {
	var (
		filter  *subscriptions.FilterError
		invalid *graph.InvalidError
		full    *subscriptions.LimitError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		return refuse(badValue, invalid.Field, "%s", invalid.Reason)
	case errors.As(err, &filter):
		return refuse(badFilter, filter.Field, "%s", filter.Reason)
	case errors.Is(err, subscriptions.ErrNoChannel):
		return refuse(unknownChannel, "name", "%v", err)
	case errors.Is(err, subscriptions.ErrBuiltIn), errors.Is(err, subscriptions.ErrConfigured), errors.Is(err, subscriptions.ErrNotListed):
		return refuse(fixedChannel, "name", "%v", err)
	case errors.As(err, &full):
		no := refuse(tooManyChannels, "name", "%v", err)
		no.limit = int64(full.Limit)
		return no
	}
	return err
}

// mayOwn refuses who may not change a channel of an owner: nobody's are the
// administrators'. The context is that of a request.
func mayOwn(ctx context.Context, owner string) error {
	rights := callerOf(ctx)
	if rights.Admin || owner != "" && owner == rights.Subject {
		return nil
	}
	return refuse(forbidden, "name", "the channel is not yours to change")
}

// isShown reports whether the caller may look at a channel: everybody at public
// ones, holders of a token at those that every hub has and at their own.
func isShown(r *http.Request, info *subscriptions.ChannelInfo) bool {
	rights := caller(r)
	return info.Public || rights.Admin || !rights.Anonymous() && (info.BuiltIn || info.Owner == rights.Subject)
}

// shownChannel returns a channel that the caller may look at. Of others it does not
// tell whether they are there.
func (h *Hub) shownChannel(w http.ResponseWriter, r *http.Request, name string) (subscriptions.ChannelInfo, error) {
	info, err := h.channels.Get(name)
	if err == nil && !isShown(r, &info) {
		err = fmt.Errorf("%w: %.80q", subscriptions.ErrNoChannel, name)
	}
	if errors.Is(err, subscriptions.ErrNoChannel) && caller(r).Anonymous() {
		return info, refuse(unauthorized, "name", "send a token, or ask for a public channel")
	}
	if err != nil {
		return info, channelError(err)
	}
	allowOrigins(w, r)
	return info, nil
}

// allowOrigins lets pages of any origin read what everybody is shown.
func allowOrigins(w http.ResponseWriter, r *http.Request) {
	if caller(r).Anonymous() {
		w.Header().Set("Access-Control-Allow-Origin", "*")
	}
}

// getChannels lists the channels that somebody made, after those that are always
// there.
func (h *Hub) getChannels(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "after", "limit")
	if err != nil {
		return err
	}
	limit, err := count(q, "limit", pageLimit, maxChannelPage)
	if err != nil {
		return err
	}
	list, next, err := h.channels.List(q.Get("after"), limit, func(info subscriptions.ChannelInfo) bool { return isShown(r, &info) })
	if err != nil {
		return err
	}
	allowOrigins(w, r)
	items := make([]channelShape, 0, len(list))
	for _, info := range list {
		items = append(items, shapeChannel(info))
	}
	return writeJSON(w, struct {
		BuiltIn []string       `json:"built_in"`
		Items   []channelShape `json:"items"`
		Next    string         `json:"next,omitempty"`
	}{[]string{"all", "host:{host}", "type:{type}"}, items, next})
}

func (h *Hub) getChannel(w http.ResponseWriter, r *http.Request) error {
	name, err := channelName(r)
	if err == nil {
		_, err = query(r)
	}
	if err != nil {
		return err
	}
	info, err := h.shownChannel(w, r, name)
	if err != nil {
		return err
	}
	return writeJSON(w, shapeChannel(info))
}

// putChannel makes a channel or replaces it whole.
func (h *Hub) putChannel(w http.ResponseWriter, r *http.Request) error {
	name, err := channelName(r)
	if err == nil {
		_, err = query(r)
	}
	if err != nil {
		return err
	}
	if err := subscriptions.ChannelName(name); errors.Is(err, subscriptions.ErrBuiltIn) {
		return channelError(err)
	} else if err != nil {
		return refuse(badValue, "name", "%v", err)
	}
	var d subscriptions.Definition
	err = h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) { return h.readDefinition(s, name, &d) })
	})
	if no := (*refusal)(nil); errors.As(err, &no) && no.kind == overLimit && no.field == "uri" {
		no.detail += "; make the channel with an empty list and send them by PATCH as " + typeNDJSON
	}
	if err == nil {
		err = mayDefine(r, &d)
	}
	if err != nil {
		return err
	}
	info, created, err := h.channels.Put(r.Context(), name, d)
	if invalid := (*graph.InvalidError)(nil); errors.As(err, &invalid) {
		return refuse(badValue, "uri", "%s", invalid.Reason)
	}
	if err != nil {
		return channelError(err)
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return writeJSONStatus(w, status, shapeChannel(info))
}

// mayDefine refuses a channel that the caller may not make: a list with what it may
// not see, somebody else's, or a public one, which would show to everybody what the
// hub shows to its owner. Who is no administrator owns what it makes.
func mayDefine(r *http.Request, d *subscriptions.Definition) error {
	rights := caller(r)
	if rights.Admin {
		return nil
	}
	if d.Public {
		return refuse(forbidden, "public", "only an administrator makes a channel public: it is then shown to everybody")
	}
	if d.Digest {
		return refuse(forbidden, "digest", "only an administrator has a digest made: it is read whole, and costs disk for years")
	}
	if d.Owner != "" && d.Owner != rights.Subject {
		return refuse(forbidden, "owner", "the channel would be another's")
	}
	d.Owner = rights.Subject
	return mayList(r, "uri", d.URI)
}

// mayList refuses URIs on a list that the caller may not see.
func mayList(r *http.Request, field string, uris []string) error {
	for _, uri := range uris {
		if err := maySee(r, field, uri); err != nil {
			return err
		}
	}
	return nil
}

// readDefinition reads one member of a channel's definition.
func (h *Hub) readDefinition(s *scanner, name string, d *subscriptions.Definition) (err error) {
	switch name {
	case "uri":
		d.URI, err = s.uris(maxDefinitionValues, h.cfg.Schemes)
	case "prefix":
		d.Prefix, err = s.texts(maxDefinitionValues)
	case "host":
		d.Host, err = s.texts(maxDefinitionValues)
	case "type":
		d.Type, err = s.texts(maxDefinitionValues)
	case "bucket":
		d.Bucket, err = s.texts(maxDefinitionValues)
	case "kind":
		d.Kind, err = s.texts(maxDefinitionValues)
	case "lane":
		d.Lane, err = s.texts(maxDefinitionValues)
	case "public":
		d.Public, err = s.boolean()
	case "digest":
		d.Digest, err = s.boolean()
	case "owner":
		var t []byte
		if t, err = s.text(); err == nil {
			err = checkToken(t, maxOwner)
		}
		d.Owner = string(t)
	default:
		err = errNoMember
	}
	return err
}

// patchChannel changes the list of a channel: by one object, all or nothing, or
// by lines, as many as it takes.
func (h *Hub) patchChannel(w http.ResponseWriter, r *http.Request) error {
	name, err := channelName(r)
	if err == nil {
		_, err = query(r)
	}
	if err != nil {
		return err
	}
	if isLines(r.Header) {
		return h.patchByLines(w, r, name)
	}
	var add, remove []string
	err = h.withBody(w, r, []string{typeJSON, typeNDJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, field string) (err error) {
			switch field {
			case "add":
				add, err = s.listChange(h.cfg.Schemes)
			case "remove":
				remove, err = s.listChange(h.cfg.Schemes)
			default:
				err = errNoMember
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	if err := mayList(r, "add", add); err != nil {
		return err
	}
	if len(add)+len(remove) > graph.MaxListEdit {
		return exceeds(overLimit, "add", graph.MaxListEdit, "URIs in one request; send more as "+typeNDJSON)
	}
	res, err := h.channels.Edit(r.Context(), name, add, remove)
	if err != nil {
		return channelError(err)
	}
	return writeJSON(w, editShape{res.Added, res.Removed, res.At.String()})
}

// listChange reads {"uri":[…]}.
func (s *scanner) listChange(schemes []string) (uris []string, err error) {
	if err := s.object(); err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		ok, err := s.more(first, '}')
		if err != nil || !ok {
			return uris, err
		}
		key, err := s.key()
		if err != nil {
			return nil, err
		}
		if string(key) != "uri" || !first {
			return nil, refuse(unknownField, clip(key), "only uri can be changed, once; all else by replacing the channel")
		}
		if uris, err = s.uris(graph.MaxListEdit, schemes); err != nil {
			return nil, err
		}
	}
}

// A listLoad takes a list in, line by line: {"add":URI} or {"remove":URI}. What
// is full is durable before the next is read, so a load that breaks off is sent
// again without harm.
type listLoad struct {
	h           *Hub
	r           *http.Request
	name        string
	add, remove []string
	last        map[string]listLine // what was said last of each URI
	done        int                 // lines that are durable
	line        int                 // read
	sum         graph.ListResult
	bytes       int // of the lines of this part
}

// A listLine is what one line says of its URI.
type listLine struct {
	add  bool
	line int // counted from 0
}

// patchByLines changes a list of any length.
func (h *Hub) patchByLines(w http.ResponseWriter, r *http.Request, name string) error {
	if err := checkMediaType(r.Header, []string{typeJSON, typeNDJSON}); err != nil {
		return err
	}
	body, closeBody, err := inflated(r.Body, r.Header.Values("Content-Encoding"))
	if err != nil {
		return err
	}
	defer closeBody()
	control := http.NewResponseController(w)
	l := &listLoad{h: h, r: r, name: name, last: map[string]listLine{}}
	lines := bufio.NewReaderSize(body, maxListLine)
	for {
		// Each part has the time that an ordinary body has.
		control.SetReadDeadline(time.Now().Add(bodyDeadline))
		control.SetWriteDeadline(time.Now().Add(answerDeadline))
		more, err := l.fill(lines)
		if err == nil {
			err = h.pace.take(h.payer(r), 0, l.bytes)
		}
		if err == nil {
			err = l.commit()
		}
		if err != nil && l.done > 0 {
			err = &keptError{l.done, err}
		}
		if err != nil {
			return err
		}
		if !more {
			return writeJSON(w, editShape{l.sum.Added, l.sum.Removed, l.sum.At.String()})
		}
	}
}

// fill reads lines up to what one commit takes and reports whether there are more.
// Only whole lines are read: where a body breaks off is not the end of its last one.
func (l *listLoad) fill(lines *bufio.Reader) (more bool, err error) {
	clear(l.last)
	l.bytes = 0
	for len(l.last) < graph.MaxListEdit {
		text, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			if len(text) == 0 {
				return false, nil
			}
		case errors.Is(err, bufio.ErrBufferFull):
			return false, l.blame(l.line, exceeds(overLimit, "", maxListLine, "bytes in a line"))
		case err != nil:
			return false, bodyError(err)
		}
		l.bytes += len(text)
		if text = bytes.TrimSpace(text); len(text) > 0 {
			if err := l.take(text); err != nil {
				return false, l.blame(l.line, refusalOf(err))
			}
		}
		l.line++
	}
	return true, nil
}

// take notes what one line says.
func (l *listLoad) take(text []byte) error {
	said := false
	err := readObject(text, func(s *scanner, field string) error {
		if field != "add" && field != "remove" {
			return errNoMember
		}
		if said {
			return refuse(badValue, field, "a line adds one URI or removes one; use a line for each")
		}
		said = true
		uri, err := s.uri(l.h.cfg.Schemes)
		if err == nil && field == "add" {
			err = maySee(l.r, "add", uri)
		}
		if err == nil {
			l.last[uri] = listLine{field == "add", l.line}
		}
		return err
	})
	if err == nil && !said {
		err = refuse(missingField, "add", "say which URI to add or to remove")
	}
	return err
}

// blame says at which line it is.
func (l *listLoad) blame(line int, no *refusal) error {
	no.item = &line
	return no
}

// commit makes what was read durable.
func (l *listLoad) commit() error {
	l.add, l.remove = l.add[:0], l.remove[:0]
	for uri, said := range l.last {
		if said.add {
			l.add = append(l.add, uri)
		} else {
			l.remove = append(l.remove, uri)
		}
	}
	// In the order of the lines: the store gives ids in that order, and the list is
	// shown by them.
	slices.SortFunc(l.add, func(a, b string) int { return l.last[a].line - l.last[b].line })
	res, err := l.h.channels.Edit(l.r.Context(), l.name, l.add, l.remove)
	if invalid := (*graph.InvalidError)(nil); errors.As(err, &invalid) {
		list := map[string][]string{"add": l.add, "remove": l.remove}[invalid.Field]
		return l.blame(l.last[list[invalid.Item]].line, refuse(badValue, invalid.Field, "%s", invalid.Reason))
	}
	if err != nil {
		return channelError(err)
	}
	l.sum.Added += res.Added
	l.sum.Removed += res.Removed
	l.sum.At, l.done = res.At, l.line
	return nil
}

// getChannelURIs lists the URIs of a channel's list, a page or, as NDJSON, all.
func (h *Hub) getChannelURIs(w http.ResponseWriter, r *http.Request) error {
	name, err := channelName(r)
	if err != nil {
		return err
	}
	q, err := query(r, "after", "limit")
	if err != nil {
		return err
	}
	limit, err := count(q, "limit", pageLimit, maxPage)
	if err != nil {
		return err
	}
	lines := acceptsLines(r.Header)
	if lines {
		if q.Has("limit") {
			return refuse(badQuery, "limit", "a listing as NDJSON has no pages; leave it out")
		}
		limit = linesPage
	}
	info, err := h.shownChannel(w, r, name)
	if err != nil {
		return err
	}
	var sees func(uri string) bool // nil is everything
	if rights := caller(r); !info.Public && !rights.SeesAll() {
		sees = rights.Sees
	}
	page := func(after string) ([]string, string, error) { return h.channels.URIs(name, after, limit, sees) }
	uris, next, err := page(q.Get("after"))
	if errors.Is(err, graph.ErrCursor) {
		return refuse(badQuery, "after", "%v", err)
	}
	if err != nil {
		return channelError(err)
	}
	if lines {
		writePages(w, r, uris, next, page, func(b []byte, uri string) []byte {
			return append(appendText(append(b, `{"uri":`...), uri), "}\n"...)
		})
		return nil
	}
	if uris == nil {
		uris = []string{}
	}
	return writeJSON(w, struct {
		URIs []string `json:"uris"`
		Next string   `json:"next,omitempty"`
	}{uris, next})
}

// deleteChannel forgets a channel; its streams end.
func (h *Hub) deleteChannel(w http.ResponseWriter, r *http.Request) error {
	name, err := channelName(r)
	if err == nil {
		_, err = query(r)
	}
	if err != nil {
		return err
	}
	at, err := h.channels.Delete(r.Context(), name)
	if err != nil {
		return channelError(err)
	}
	return writeJSON(w, cursorShape{at.String()})
}
