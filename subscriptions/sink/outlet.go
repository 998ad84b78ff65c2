package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

const (
	// cutNotices bounds the notices that one cut looks at: those about the same become
	// one piece, and a fan-out that matches nothing must not hold the engine.
	cutNotices = 4096
	// minRead and maxRead bound the notices of one reading: what is read and finds no
	// room is read again.
	minRead, maxRead = 64, 1024
)

// An outlet is one sink, or one of its caches, as the engine sees it. Each cache is
// one of its own: one that hangs or is down holds up no other.
type outlet struct {
	sink    *Sink
	target  string
	name    string // for the engine
	feed    *subscriptions.Feed
	stop    func() // ends the watching, nil before it began
	now     func() time.Time
	rate    float64     // of the clock
	news    func()      // tells the engine
	waiting *time.Timer // for what lingers; guarded by mu
	mu      sync.Mutex
}

// matter is what a piece keeps: the notice, as far as requests name it. Each attempt
// makes its request anew, by the rules of then.
type matter struct {
	URI     string       `json:"u"`
	Kind    graph.Kind   `json:"k,omitempty"`
	Type    string       `json:"t,omitempty"`
	Version string       `json:"v,omitempty"`
	Hash    string       `json:"h,omitempty"`
	Change  graph.Change `json:"c,omitempty"`
	Reason  graph.Reason `json:"r,omitempty"`
	Rule    graph.Rule   `json:"l,omitempty"`
	Cause   *graph.Cause `json:"w,omitempty"`
	Attempt int          `json:"a,omitempty"`
	At      time.Time    `json:"at"`
	Seq     uint64       `json:"s"`
	Epoch   graph.Epoch  `json:"e"`
	Lane    graph.Lane   `json:"n,omitempty"`
	Bucket  string       `json:"b,omitempty"` // the one it is about
	Index   int          `json:"i,omitempty"` // which URL of several
	Buckets []string     `json:"bs,omitempty"`
	Long    bool         `json:"x,omitempty"` // it had more than a piece can keep
}

// pack makes the data of a piece.
func (o *outlet) pack(s *subject) []byte {
	n := s.notice
	m := matter{URI: n.URI, Kind: n.Kind, Type: n.Type, Version: n.Version, Hash: n.Hash, Change: n.Change, Reason: n.Reason, Rule: n.Rule,
		Attempt: n.Attempt, At: n.At, Seq: n.Cursor.Seq, Epoch: n.Cursor.Epoch, Lane: n.Lane, Bucket: s.bucket, Index: s.index}
	switch {
	case o.sink.readsBuckets:
		m.Buckets = n.Buckets
	case s.bucket != "":
		m.Buckets = []string{s.bucket}
	}
	if n.Cause.URI != "" {
		m.Cause = &n.Cause
	}
	b, err := json.Marshal(m)
	if err == nil && len(b) > delivery.MaxData {
		m.Buckets, m.Long = nil, true
		b, err = json.Marshal(m)
	}
	if err != nil {
		panic(err) // texts and numbers
	}
	return b
}

func unpack(data []byte) (*matter, *graph.Notice, error) {
	m := new(matter)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, nil, fmt.Errorf("what waits cannot be read: %w", err)
	}
	n := &graph.Notice{Cursor: graph.Cursor{Epoch: m.Epoch, Seq: m.Seq}, Kind: m.Kind, URI: m.URI, Type: m.Type, Version: m.Version,
		Hash: m.Hash, Change: m.Change, Reason: m.Reason, Rule: m.Rule, Lane: m.Lane, Attempt: m.Attempt, At: m.At, Buckets: m.Buckets}
	if m.Cause != nil {
		n.Cause = *m.Cause
	}
	return m, n, nil
}

// Cut returns what comes next in a lane: of notices that make the same request the
// last one alone.
func (o *outlet) Cut(ctx context.Context, lane graph.Lane, after uint64, room int) (delivery.Cut, error) {
	c := delivery.Cut{Until: after}
	at := map[string]int{} // of the pieces, by key
	for looked := 0; looked < cutNotices; {
		r, err := o.feed.Read(1<<lane, graph.Cursor{Epoch: o.feed.Head().Epoch, Seq: c.Until}, min(max(4*(room-len(c.Pieces)), minRead), maxRead))
		if err != nil {
			if len(c.Pieces) > 0 || c.Until != after {
				break // it fails again when it is asked from here
			}
			return c, err
		}
		for i := range r.Notices {
			if !o.take(&c, at, &r.Notices[i], room) {
				return c, nil
			}
		}
		looked += max(len(r.Notices), 1)
		c.Until, c.More = max(c.Until, r.Next.Seq), r.More
		if !r.More || ctx.Err() != nil {
			break
		}
	}
	return c, nil
}

// take adds what a sink makes of n, and reports whether there is room for more. What
// is younger than linger is left for later, with all after it.
func (o *outlet) take(c *delivery.Cut, at map[string]int, n *graph.Notice, room int) bool {
	now := o.now()
	if left := o.sink.linger - now.Sub(n.At); o.sink.linger > 0 && left > 0 {
		o.wake(left)
		c.More = false
		return false
	}
	d := o.sink.decide(n)
	if d.branch != nil && o.sink.tooOld(n.At, now) {
		c.Skipped++
		d.branch = nil
	}
	if d.branch == nil || !d.branch.action.calls(o.target) {
		c.Until = n.Cursor.Seq
		return true
	}
	keys, fresh := make([]string, len(d.subjects)), 0
	for i, s := range d.subjects {
		keys[i] = d.branch.key(s)
		if _, known := at[keys[i]]; !known {
			fresh++
		}
	}
	// A notice is taken whole or not at all: a position is all that is kept of it.
	if len(c.Pieces) > 0 && len(c.Pieces)+fresh > room {
		c.More = true
		return false
	}
	for i, s := range d.subjects {
		p := delivery.Piece{Lane: n.Lane, After: n.Cursor.Seq - 1, Until: n.Cursor.Seq, Key: keys[i], Bucket: s.awaited(),
			Data: o.pack(s), URI: n.URI, Cause: n.Cause.URI}
		if old, known := at[keys[i]]; known {
			p.After = c.Pieces[old].After
			c.Pieces[old] = p
			c.Merged++
			continue
		}
		at[keys[i]] = len(c.Pieces)
		c.Pieces = append(c.Pieces, p)
	}
	c.Until = n.Cursor.Seq
	return true
}

// wake tells the engine when what lingers is due.
func (o *outlet) wake(left time.Duration) {
	left = time.Duration(float64(left)/o.rate) + time.Millisecond
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == nil {
		o.waiting = time.AfterFunc(left, func() {
			o.mu.Lock()
			o.waiting = nil
			o.mu.Unlock()
			o.news()
		})
	}
}

// close ends the watching of the journal.
func (o *outlet) close() {
	if o.stop != nil {
		o.stop()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting != nil {
		o.waiting.Stop()
		o.waiting = nil
	}
}

// A moot error says that a piece need not be sent any more.
type mootError struct{ why string }

func (e *mootError) Error() string { return e.why }

// A sayError says that a request cannot be made of a notice, ever.
type sayError struct{ err error }

func (e *sayError) Error() string { return "the request cannot be made: " + e.err.Error() }
func (e *sayError) Unwrap() error { return e.err }

// Request makes the call for a piece, by the rules in force.
func (o *outlet) Request(ctx context.Context, p *delivery.Piece, _ int) (*http.Request, error) {
	call, err := o.call(p)
	if err != nil {
		return nil, err
	}
	return call.request(ctx)
}

func (o *outlet) call(p *delivery.Piece) (*Call, error) {
	m, n, err := unpack(p.Data)
	if err != nil {
		return nil, &sayError{err}
	}
	if m.Long {
		return nil, &sayError{errors.New("the resource has more buckets than can be kept")}
	}
	if o.sink.tooOld(n.At, o.now()) {
		return nil, &mootError{fmt.Sprintf("the notice is older than %s", o.sink.maxAge)}
	}
	d := o.sink.decide(n)
	for _, s := range d.subjects {
		if s.bucket != m.Bucket || s.index != m.Index || !d.branch.action.calls(o.target) {
			continue
		}
		call, err := d.branch.action.render(o.target, s)
		if err != nil {
			return nil, &sayError{err}
		}
		return call, nil
	}
	return nil, &mootError{"the sink's rules do not match it any more"}
}

// Judge says what an answer means. Only 2xx is success: a redirect is not followed,
// and no other status says that it was done.
func (o *outlet) Judge(_ *delivery.Piece, a delivery.Answer) delivery.Verdict {
	var (
		moot *mootError
		say  *sayError
	)
	switch {
	case errors.As(a.Err, &moot):
		return delivery.Ignored
	case errors.As(a.Err, &say):
		return delivery.Refused
	case a.Err != nil:
		return delivery.Again
	case a.Status/100 == 2:
		return delivery.Done
	case o.sink.ignore.has(a.Status):
		return delivery.Ignored
	case o.sink.retryOn.has(a.Status):
		return delivery.Again
	}
	return delivery.Refused
}
