package hub

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

const (
	// pageLimit and maxPage are how many items a page of a listing has, unless
	// the client asks for another number, and at most.
	pageLimit = 100
	maxPage   = 1000
	// linesPage is how many items are read at once for a listing as NDJSON.
	linesPage = 1000
	// maxStatus bounds the URIs of one question for states.
	maxStatus = 5_000
)

// statusShape is a graph.Status in JSON.
type statusShape struct {
	URI     string    `json:"uri"`
	State   string    `json:"state"`
	Known   bool      `json:"known"`
	Stale   bool      `json:"stale"`
	Failed  bool      `json:"failed"`
	Version string    `json:"version,omitempty"`
	Hash    string    `json:"hash,omitempty"`
	At      time.Time `json:"at,omitzero"`
}

// resourceShape is a graph.Resource in JSON.
type resourceShape struct {
	statusShape
	Unsettled    bool      `json:"unsettled,omitempty"`
	Peer         string    `json:"peer,omitempty"`
	Type         string    `json:"type,omitempty"`
	Aliases      []string  `json:"aliases,omitempty"`
	Changed      string    `json:"changed,omitempty"`
	ChangedAt    time.Time `json:"changed_at,omitzero"`
	Dependencies int       `json:"dependencies"`
	Dependents   int       `json:"dependents"`
	Buckets      []string  `json:"buckets,omitempty"`
	Expires      time.Time `json:"expires,omitzero"`
	BornStale    int       `json:"born_stale,omitempty"`
	Attempt      int       `json:"attempt,omitempty"`
	Damping      float64   `json:"damping_s,omitempty"`
	NoticeDue    time.Time `json:"notice_due,omitzero"`
	LeaseUntil   time.Time `json:"lease_until,omitzero"`
	// Last is the newest notice about it, where it is asked for by name.
	Last json.RawMessage `json:"last,omitempty"`
}

func shapeResource(r *graph.Resource) resourceShape {
	return resourceShape{
		statusShape: statusShape{r.URI, r.State.String(), r.Known, r.Stale, r.Failed, r.Version, r.Hash, r.At.UTC()},
		Unsettled:   r.Unsettled, Peer: r.Peer, Type: r.Type, Aliases: r.Aliases, Changed: shapeCursor(r.Changed), ChangedAt: r.ChangedAt.UTC(),
		Dependencies: r.Dependencies, Dependents: r.Dependents, Buckets: r.Buckets, Expires: r.Expires.UTC(),
		BornStale: r.BornStale, Attempt: r.Attempt, Damping: r.Damping.Seconds(),
		NoticeDue: r.NoticeDue.UTC(), LeaseUntil: r.LeaseUntil.UTC(),
	}
}

func shapeCursor(c graph.Cursor) string {
	if c.IsZero() {
		return ""
	}
	return c.String()
}

type itemShape struct {
	URI   string `json:"uri"`
	State string `json:"state"`
}

func shapeItems(items []graph.Item) []itemShape {
	out := make([]itemShape, len(items))
	for i, it := range items {
		out[i] = itemShape{it.URI, it.State.String()}
	}
	return out
}

type causeShape struct {
	URI string    `json:"uri"`
	ID  string    `json:"id,omitempty"`
	At  time.Time `json:"at,omitzero"`
}

func shapeCause(c graph.Cause) *causeShape {
	if c.URI == "" {
		return nil
	}
	return &causeShape{c.URI, c.ID, c.At.UTC()}
}

// getResource answers with all that is known of one resource.
func (h *Hub) getResource(w http.ResponseWriter, r *http.Request) error {
	_, uri, err := h.queryOf(r)
	if err == nil {
		err = maySee(r, "uri", uri)
	}
	if err != nil {
		return err
	}
	res, err := h.store.Resource(uri)
	if err != nil {
		return err
	}
	last, err := h.store.LastNotice(r.Context(), uri)
	if err != nil {
		return err
	}
	out := shapeResource(&res)
	if last != nil {
		shown := *last
		shown.Cause = shownCause(r, last.Cause)
		out.Last = subscriptions.AppendNotice(nil, &shown)
	}
	return writeJSON(w, out)
}

// postStatus answers with the states of many resources at one moment.
func (h *Hub) postStatus(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var uris []string
	err := h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) {
			if name != "uris" {
				return errNoMember
			}
			uris, err = s.uris(maxStatus, h.cfg.Schemes)
			return err
		})
	})
	if err != nil {
		return err
	}
	if uris == nil {
		return refuse(missingField, "uris", "name the resources")
	}
	for i, uri := range uris {
		if !caller(r).Sees(uri) {
			no := refuse(forbidden, "uris", "the token's subscribe does not cover %.200q", uri)
			no.item = &i
			return no
		}
	}
	states, err := h.store.Status(uris)
	if err != nil {
		return err
	}
	out := struct {
		Resources []statusShape `json:"resources"`
	}{make([]statusShape, len(states))}
	for i, s := range states {
		out.Resources[i] = statusShape{s.URI, s.State.String(), s.Known, s.Stale, s.Failed, s.Version, s.Hash, s.At.UTC()}
	}
	return writeJSON(w, out)
}

// A lister is Dependencies or Dependents of a store.
type lister func(uri, after string, limit int) (items []graph.Item, next string, err error)

// listing answers with one page, or with everything as NDJSON.
func (h *Hub) listing(list lister) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, uri, err := h.queryOf(r, "after", "limit")
		if err == nil {
			err = maySee(r, "uri", uri)
		}
		if err != nil {
			return err
		}
		list := func(after string, limit int) ([]graph.Item, string, error) {
			items, next, err := list(uri, after, limit)
			return shownItems(r, items), next, err
		}
		limit, err := count(q, "limit", pageLimit, maxPage)
		if err != nil {
			return err
		}
		after := q.Get("after")
		lines := acceptsLines(r.Header)
		if lines {
			if q.Has("limit") {
				return refuse(badQuery, "limit", "a listing as NDJSON has no pages; leave it out")
			}
			limit = linesPage
		}
		items, next, err := list(after, limit)
		if errors.Is(err, graph.ErrCursor) {
			return refuse(badQuery, "after", "%v", err)
		}
		if err != nil {
			return err
		}
		if lines {
			page := func(after string) ([]graph.Item, string, error) { return list(after, linesPage) }
			writePages(w, r, items, next, page, appendItem)
			return nil
		}
		return writeJSON(w, struct {
			Items []itemShape `json:"items"`
			Next  string      `json:"next,omitempty"`
		}{shapeItems(items), next})
	}
}

// acceptsLines reports whether the client names NDJSON as what it accepts.
func acceptsLines(h http.Header) bool {
	for part := range strings.SplitSeq(strings.Join(h.Values("Accept"), ","), ",") {
		if t, params, err := mime.ParseMediaType(part); err == nil && t == typeNDJSON {
			q, err := strconv.ParseFloat(params["q"], 64)
			return err != nil || q > 0
		}
	}
	return false
}

// writePages writes one item a line, page by page; each page has its own
// deadline. When a page cannot be read the answer is broken off, for the client
// must not take a part for the whole.
func writePages[T any](w http.ResponseWriter, r *http.Request, items []T, next string,
	page func(after string) ([]T, string, error), line func(b []byte, item T) []byte) {
	w.Header().Set("Content-Type", typeNDJSON)
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	var b []byte
	for {
		b = b[:0]
		for _, it := range items {
			b = line(b, it)
		}
		control.SetReadDeadline(time.Time{})
		control.SetWriteDeadline(time.Now().Add(answerDeadline))
		if _, err := w.Write(b); err != nil || next == "" {
			return
		}
		var err error
		if items, next, err = page(next); err != nil || r.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// appendItem appends an item of a listing as a line.
func appendItem(b []byte, it graph.Item) []byte {
	b = append(b, `{"uri":`...)
	b = appendText(b, it.URI)
	return append(appendMember(b, "state", it.State.String()), "}\n"...)
}

type cursorShape struct {
	Cursor string `json:"cursor"`
}

// patchDependencies adds and removes edges without an update.
func (h *Hub) patchDependencies(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var uri string
	var e graph.EdgeEdit
	err := h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) {
			switch name {
			case "uri":
				uri, err = s.uri(h.cfg.Schemes)
			case "add":
				e.Add, err = s.uris(graph.MaxDeps, h.cfg.Schemes)
			case "remove":
				e.Remove, err = s.uris(graph.MaxDeps, h.cfg.Schemes)
			case "clear":
				e.Clear, err = s.boolean()
			default:
				err = errNoMember
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	if uri == "" {
		return refuse(missingField, "uri", "name the resource whose dependencies change")
	}
	if len(e.Add) == 0 && len(e.Remove) == 0 && !e.Clear {
		return refuse(missingField, "add", "say what to add, to remove or to clear")
	}
	return h.edit(w, r, uri, e)
}

// deleteDependencies forgets all that uri is made from.
func (h *Hub) deleteDependencies(w http.ResponseWriter, r *http.Request) error {
	_, uri, err := h.queryOf(r)
	if err == nil {
		err = mayChange(r, "uri", uri)
	}
	if err != nil {
		return err
	}
	if _, err := h.store.Resource(uri); err != nil {
		return err // nothing is made known by forgetting it
	}
	return h.edit(w, r, uri, graph.EdgeEdit{Clear: true})
}

func (h *Hub) edit(w http.ResponseWriter, r *http.Request, uri string, e graph.EdgeEdit) error {
	if err := mayChange(r, "uri", uri); err != nil {
		return err
	}
	c, err := h.store.EditDependencies(r.Context(), caller(r).Subject, uri, e)
	if invalid := (*graph.InvalidError)(nil); errors.As(err, &invalid) {
		return refuse(badValue, invalid.Field, "%s", invalid.Reason)
	}
	if err != nil {
		return err
	}
	return writeJSON(w, cursorShape{c.String()})
}

// deleteDependents forgets all that is made from uri.
func (h *Hub) deleteDependents(w http.ResponseWriter, r *http.Request) error {
	_, uri, err := h.queryOf(r)
	if err != nil {
		return err
	}
	c, err := h.store.ForgetDependents(r.Context(), uri)
	if err != nil {
		return err
	}
	return writeJSON(w, cursorShape{c.String()})
}

// linkShape is one step from a resource back to the edit.
type linkShape struct {
	URI     string      `json:"uri"`
	Version string      `json:"version,omitempty"`
	Changed string      `json:"changed,omitempty"`
	At      time.Time   `json:"at,omitzero"`
	Rule    string      `json:"rule,omitempty"`
	Cause   *causeShape `json:"cause,omitempty"`
}

// getWhy explains the state of a resource.
func (h *Hub) getWhy(w http.ResponseWriter, r *http.Request) error {
	_, uri, err := h.queryOf(r)
	if err == nil {
		err = maySee(r, "uri", uri)
	}
	if err != nil {
		return err
	}
	why, err := h.store.Why(r.Context(), uri)
	if err != nil {
		return err
	}
	if !caller(r).SeesAll() {
		why.ShowOnly(caller(r).Sees)
	}
	out := struct {
		Resource resourceShape   `json:"resource"`
		Last     json.RawMessage `json:"last,omitempty"`
		Chain    []linkShape     `json:"chain"`
		Waiting  []itemShape     `json:"waiting"`
		Text     string          `json:"text"`
	}{shapeResource(&why.Resource), nil, make([]linkShape, len(why.Chain)), shapeItems(why.Waiting), why.Text}
	if why.Last != nil {
		out.Last = subscriptions.AppendNotice(nil, why.Last)
	}
	for i, l := range why.Chain {
		out.Chain[i] = linkShape{l.URI, l.Version, shapeCursor(l.Changed), l.At.UTC(), l.Rule.String(), shapeCause(l.Cause)}
	}
	return writeJSON(w, out)
}

// getImpact counts what an edit would refresh.
func (h *Hub) getImpact(w http.ResponseWriter, r *http.Request) error {
	q, uri, err := h.queryOf(r, "limit")
	if err != nil {
		return err
	}
	limit, err := count(q, "limit", graph.DefaultImpact, graph.DefaultImpact)
	if err == nil {
		err = maySee(r, "uri", uri)
	}
	if err != nil {
		return err
	}
	i, err := h.store.Impact(r.Context(), uri, limit)
	if err != nil {
		return err
	}
	for host := range i.ByHost {
		if !caller(r).SeesOf(host) {
			delete(i.ByHost, host)
		}
	}
	return writeJSON(w, struct {
		URI        string         `json:"uri"`
		Direct     int            `json:"direct"`
		Transitive int            `json:"transitive"`
		Complete   bool           `json:"complete"`
		Depth      int            `json:"depth"`
		ByType     map[string]int `json:"by_type,omitempty"`
		ByHost     map[string]int `json:"by_host,omitempty"`
	}{i.URI, i.Direct, i.Transitive, i.Complete, i.Depth, i.ByType, i.ByHost})
}

// jobShape is a running fan-out.
type jobShape struct {
	ID      string      `json:"id"`
	URI     string      `json:"uri"`
	Kind    string      `json:"kind"`
	Cause   *causeShape `json:"cause,omitempty"`
	Reached int         `json:"reached"`
	Total   int         `json:"total"`
	Emitted int         `json:"emitted"`
	Paused  bool        `json:"paused"`
	Rate    int         `json:"rate"`
	Started time.Time   `json:"started"`
	// ETA is how many seconds are left at the pace so far; absent while nobody
	// can tell.
	ETA float64 `json:"eta_s,omitempty"`
}

func shapeJob(j *graph.Job, now time.Time) jobShape {
	s := jobShape{ID: j.ID, URI: j.URI, Kind: j.Kind, Cause: shapeCause(j.Cause), Reached: j.Reached, Total: j.Total,
		Emitted: j.Emitted, Paused: j.Paused, Rate: j.Rate, Started: j.Started.UTC()}
	if took := now.Sub(j.Started).Seconds(); j.Reached > 0 && !j.Paused && took > 0 {
		s.ETA = took * float64(j.Total-j.Reached) / float64(j.Reached)
	}
	return s
}
