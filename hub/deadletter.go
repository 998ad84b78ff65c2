package hub

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions/delivery"
	"github.com/freshwire/freshwire/subscriptions/sink"
	"github.com/go-chi/chi/v5"
)

const (
	// maxLetterPage bounds a page of dead letters, which are shown with what was sent.
	maxLetterPage = 1000
	// maxLettersAtOnce bounds the dead letters that one request replays or drops: as
	// many as one sink may have. Their requests are not held in memory.
	maxLettersAtOnce = 10_000
)

// letterShape is a dead letter as it is shown.
type letterShape struct {
	ID       string       `json:"id"`
	Sink     string       `json:"sink"`
	Outlet   string       `json:"outlet"`
	URI      string       `json:"uri,omitempty"`
	Cause    string       `json:"cause,omitempty"`
	Bucket   string       `json:"bucket,omitempty"`
	Lane     string       `json:"lane"`
	Cursor   string       `json:"cursor"` // of the notice
	Request  *sentShape   `json:"request,omitempty"`
	Answer   *answerShape `json:"answer,omitempty"`
	Error    string       `json:"error,omitempty"`
	Attempts int          `json:"attempts"`
	First    time.Time    `json:"first"`
	At       time.Time    `json:"at"`
}

// sentShape is the request of the last attempt, without secrets.
type sentShape struct {
	Method  string      `json:"method"`
	URL     string      `json:"url"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body,omitempty"`
}

// answerShape is what was answered to it.
type answerShape struct {
	Status int    `json:"status"`
	Body   string `json:"body,omitempty"`
}

func (h *Hub) shapeLetter(l *delivery.Letter) letterShape {
	name, _, _ := strings.Cut(strings.TrimPrefix(l.Outlet, sink.OutletPrefix), "/")
	s := letterShape{ID: l.ID, Sink: name, Outlet: l.Outlet, URI: l.Piece.URI, Cause: l.Piece.Cause, Bucket: l.Piece.Bucket,
		Lane: l.Piece.Lane.String(), Cursor: graph.Cursor{Epoch: h.store.Oldest().Epoch, Seq: l.Piece.Until}.String(),
		Error: l.Error, Attempts: l.Attempts, First: l.First.UTC(), At: l.At.UTC()}
	if l.Method != "" {
		s.Request = &sentShape{l.Method, l.URL, l.Header, l.Body}
		if s.Request.Headers == nil {
			s.Request.Headers = [][2]string{}
		}
	}
	if l.Status != 0 {
		s.Answer = &answerShape{l.Status, l.Answer}
	}
	return s
}

// A letterFilter chooses dead letters. What is not set asks nothing.
type letterFilter struct {
	sink   string
	prefix string // of the URI, by whole segments
	bucket string
	status *int // that was answered; 0 is no answer
}

// maxAnswerStatus is the greatest status of an answer.
const maxAnswerStatus = 599

// passes reports whether f chooses l.
func (f *letterFilter) passes(l *delivery.Letter) bool {
	outlet := sink.OutletPrefix + f.sink
	return (f.sink == "" || l.Outlet == outlet || strings.HasPrefix(l.Outlet, outlet+"/")) &&
		(f.prefix == "" || graph.UnderPrefix(l.Piece.URI, f.prefix)) &&
		(f.bucket == "" || l.Piece.Bucket == f.bucket) &&
		(f.status == nil || l.Status == *f.status)
}

// setPrefix takes a prefix under which some resource can lie.
func (f *letterFilter) setPrefix(h *Hub, prefix string) error {
	if err := graph.CheckPrefix(prefix, h.cfg.Schemes...); err != nil {
		return refuse(badURI, "prefix", "%v", err)
	}
	f.prefix = prefix
	return nil
}

// filterOf reads a filter from a query.
func (h *Hub) filterOf(q url.Values) (f letterFilter, err error) {
	f.sink, f.bucket = q.Get("sink"), q.Get("bucket")
	if q.Has("prefix") {
		if err := f.setPrefix(h, q.Get("prefix")); err != nil {
			return f, err
		}
	}
	if q.Has("status") {
		n, err := strconv.Atoi(q.Get("status"))
		if err != nil || n < 0 || n > maxAnswerStatus {
			return f, refuse(badQuery, "status", "%.40q is not a status of an answer, or 0 for none", q.Get("status"))
		}
		f.status = &n
	}
	return f, nil
}

// readFilter reads a filter from a body.
func (h *Hub) readFilter(s *scanner) (f letterFilter, err error) {
	if err := s.object(); err != nil {
		return f, err
	}
	known := map[string]bool{}
	for {
		ok, err := s.more(len(known) == 0, '}')
		if err != nil || !ok {
			return f, err
		}
		key, err := s.key()
		if err != nil {
			return f, err
		}
		name := string(key)
		if known[name] {
			return f, refuse(badJSON, "filter."+clip(key), "the field stands twice")
		}
		known[name] = true
		var t []byte
		switch name {
		case "sink", "bucket", "prefix":
			t, err = s.text()
		case "status":
			f.status = new(int)
			*f.status, err = s.integer(maxAnswerStatus)
		default:
			return f, refuse(unknownField, "filter."+clip(key), "letters are chosen by sink, prefix, bucket and status")
		}
		switch {
		case err != nil:
			return f, err
		case name == "sink":
			f.sink = string(t)
		case name == "bucket":
			f.bucket = string(t)
		case name == "prefix":
			if err := f.setPrefix(h, string(t)); err != nil {
				return f, err
			}
		}
	}
}

// letterError tells what is wrong with a dead letter that was asked for.
func letterError(field string, err error) error {
	if errors.Is(err, delivery.ErrUnknown) {
		return refuse(unknownLetter, field, "it was replayed, dropped, or never was")
	}
	return err
}

// getDeadLetters lists what was given up, a page at a time: by sink, in the order of
// the journal.
func (h *Hub) getDeadLetters(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "sink", "prefix", "bucket", "status", "after", "limit")
	if err != nil {
		return err
	}
	limit, err := count(q, "limit", pageLimit, maxLetterPage)
	if err != nil {
		return err
	}
	f, err := h.filterOf(q)
	if err != nil {
		return err
	}
	list, next, err := h.delivery.DeadLetters(r.Context(), "", q.Get("after"), limit, f.passes)
	if errors.Is(err, delivery.ErrUnknown) {
		return refuse(badQuery, "after", "it is not the next of a page")
	}
	if err != nil {
		return err
	}
	items := make([]letterShape, 0, len(list))
	for i := range list {
		items = append(items, h.shapeLetter(&list[i]))
	}
	return writeJSON(w, struct {
		Items []letterShape `json:"items"`
		Next  string        `json:"next,omitempty"`
	}{items, next})
}

// letterOf returns the dead letter in the address of r.
func (h *Hub) letterOf(r *http.Request) (delivery.Letter, error) {
	if _, err := query(r); err != nil {
		return delivery.Letter{}, err
	}
	l, err := h.delivery.DeadLetter(r.Context(), chi.URLParam(r, "id"))
	return l, letterError("id", err)
}

func (h *Hub) getDeadLetter(w http.ResponseWriter, r *http.Request) error {
	l, err := h.letterOf(r)
	if err != nil {
		return err
	}
	return writeJSON(w, h.shapeLetter(&l))
}

// deleteDeadLetter drops a dead letter. Whoever waits for it goes on.
func (h *Hub) deleteDeadLetter(w http.ResponseWriter, r *http.Request) error {
	l, err := h.letterOf(r)
	if err != nil {
		return err
	}
	n, err := h.delivery.Drop(r.Context(), []delivery.Letter{l})
	if err == nil && n == 0 {
		err = delivery.ErrUnknown // somebody else was faster
	}
	if err != nil {
		return letterError("id", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// letterOrder is what is to become of dead letters.
type letterOrder struct {
	action string
	filter *letterFilter
	rate   int // calls a second; 0 is at once
	after  string
}

// readOrder reads a body that says what is to become of dead letters; many of them, or
// the one in the address.
func (h *Hub) readOrder(w http.ResponseWriter, r *http.Request, many bool) (o letterOrder, err error) {
	err = h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) {
			var t []byte
			switch {
			case name == "action":
				t, err = s.text()
				o.action = string(t)
			case name == "filter" && many:
				var f letterFilter
				f, err = h.readFilter(s)
				o.filter = &f
			case name == "rate" && many:
				o.rate, err = s.from1(maxRate)
			case name == "after" && many:
				t, err = s.text()
				o.after = string(t)
			default:
				err = errNoMember
			}
			return err
		})
	})
	switch {
	case err != nil:
		return o, err
	case o.action == "":
		return o, refuse(missingField, "action", "say what is to become of it: replay, or of many also drop")
	case o.action != "replay" && (o.action != "drop" || !many):
		return o, refuse(badValue, "action", "%.40q is not replay, or of many drop", o.action)
	case many && o.filter == nil:
		return o, refuse(missingField, "filter", "say which; {} is all of them")
	case o.action == "drop" && o.rate > 0:
		return o, refuse(badValue, "rate", "only replays have one")
	}
	return o, nil
}

// postDeadLetter has a dead letter called again.
func (h *Hub) postDeadLetter(w http.ResponseWriter, r *http.Request) error {
	l, err := h.letterOf(r)
	if err != nil {
		return err
	}
	if _, err = h.readOrder(w, r, false); err != nil {
		return err
	}
	n, err := h.delivery.Replay(r.Context(), []delivery.Letter{l}, 0)
	if err == nil && n == 0 {
		if _, err = h.letterOf(r); err == nil {
			err = refuse(letterStays, "id", "its sink is not in force, is calling about the same right now, or has as many replayed ones as it may")
		}
	}
	if err != nil {
		return err
	}
	return writeJSON(w, orderedShape{Letters: 1, Done: 1})
}

// orderedShape tells what became of dead letters.
type orderedShape struct {
	Letters int    `json:"letters"`        // that were chosen
	Done    int    `json:"done"`           // that were replayed, or dropped; the others are what they were
	Next    string `json:"next,omitempty"` // after which there are more to choose from
}

// postDeadLetters replays or drops all dead letters that a filter chooses, up to a
// bound; next says where to go on.
func (h *Hub) postDeadLetters(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	o, err := h.readOrder(w, r, true)
	if err != nil {
		return err
	}
	var out orderedShape
	var chosen []delivery.Letter
	for out.Next = o.after; len(chosen) < maxLettersAtOnce; {
		var page []delivery.Letter
		page, out.Next, err = h.delivery.DeadLetters(r.Context(), "", out.Next, maxLetterPage, o.filter.passes)
		if errors.Is(err, delivery.ErrUnknown) {
			return refuse(badValue, "after", "it is not the next of an answer")
		}
		if err != nil {
			return err
		}
		for i := range page {
			l := &page[i]
			// What says which it is; the engine reads the rest again.
			chosen = append(chosen, delivery.Letter{ID: l.ID, Outlet: l.Outlet,
				Piece: delivery.Piece{Lane: l.Piece.Lane, After: l.Piece.After, Until: l.Piece.Until, Key: l.Piece.Key, Bucket: l.Piece.Bucket}})
		}
		if out.Next == "" {
			break
		}
	}
	out.Letters = len(chosen)
	if o.action == "drop" {
		out.Done, err = h.delivery.Drop(r.Context(), chosen)
	} else {
		out.Done, err = h.delivery.Replay(r.Context(), chosen, float64(o.rate))
	}
	if err != nil {
		return err
	}
	h.log.Info("dead letters", "action", o.action, "letters", out.Letters, "done", out.Done)
	return writeJSON(w, out)
}
