package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// compareEvery is how often all that is heard of a peer is compared with what it has,
	// and absence after how long a silence that is done at once.
	compareEvery = 24 * time.Hour
	absence      = time.Hour
	// compareAgain is when a comparison is tried again that failed, and compareLook how
	// often one that is due looks whether the peer has taken all that is wanted.
	compareAgain = 10 * time.Minute
	compareLook  = 2 * time.Second
	// maxPrefixes bounds the ranges of one question: the sums of so many fit in 1 MiB.
	maxPrefixes = 256
	// maxPages bounds the listings of one comparison. Each is a scan of what the peer wants,
	// and of ten million resources a sixteenth, more than which is not listed, is 125.
	maxPages = 1000
	// answerWithin is when a question is answered by "not yet": scans may take minutes, and
	// proxies between hubs give up after one or less.
	answerWithin = 15 * time.Second
	// compareLeast is the time between two comparisons that one peer asks for.
	compareLeast = time.Minute
)

// ErrTooSoon reports that a peer asks for more comparisons than it needs.
var ErrTooSoon = errors.New("the last comparison was less than a minute ago, or was not begun")

// A question of a comparison is for the sums of the sixteen parts of some ranges, or for
// what is in some leaves.
type question struct {
	fresh    bool     // the sums are to be taken anew
	prefixes []string // hex digits
	leaves   []uint16
	after    string
}

type questionShape struct {
	Fresh  bool     `json:"fresh,omitempty"`
	Sums   []string `json:"sums,omitempty"`
	Leaves []string `json:"leaves,omitempty"`
	After  string   `json:"after,omitempty"`
}

// comparedShape answers a question.
type comparedShape struct {
	Working  bool         `json:"working,omitempty"` // ask again
	Epoch    string       `json:"epoch,omitempty"`
	Position uint64       `json:"position,omitempty"`
	Sums     []string     `json:"sums,omitempty"` // of each range: its sixteen parts, 32 hex digits each
	Entries  []entryShape `json:"entries,omitempty"`
	More     bool         `json:"more,omitempty"`
}

type entryShape struct {
	URI   string `json:"uri"`
	Sver  uint64 `json:"sver"`
	State string `json:"state,omitempty"` // hex
}

const hexDigits = "0123456789abcdef"

func (q *question) encode() []byte {
	shape := questionShape{Fresh: q.fresh, Sums: q.prefixes, After: q.after}
	for _, leaf := range q.leaves {
		shape.Leaves = append(shape.Leaves, fmt.Sprintf("%04x", leaf))
	}
	b, err := json.Marshal(shape)
	if err != nil {
		panic(err) // texts
	}
	return b
}

func decodeQuestion(b []byte) (q question, err error) {
	o, err := readObject(b)
	if err != nil {
		return q, malformed("%w", err)
	}
	if o.has("sums") {
		q.prefixes = o.texts("sums", maxPrefixes)
	}
	if o.has("fresh") {
		q.fresh = o.flag("fresh")
	}
	if o.has("leaves") {
		for _, text := range o.texts("leaves", graph.MaxLeaves) {
			leaf, err := strconv.ParseUint(text, 16, 16)
			if err != nil || len(text) != 4 {
				o.fail("leaves: %.20q is not 4 hex digits", text)
			}
			q.leaves = append(q.leaves, uint16(leaf))
		}
	}
	q.after = o.optionalText("after")
	switch {
	case o.fault != nil:
		return q, malformed("%w", o.fault)
	case (len(q.prefixes) > 0) == (len(q.leaves) > 0):
		return q, malformed("it asks for sums and for leaves, or for neither")
	}
	for _, prefix := range q.prefixes {
		if len(prefix) > 3 {
			return q, malformed("sums: %.20q has more than 3 hex digits", prefix)
		}
	}
	return q, nil
}

// A comparing is the owner's side of a comparison: one scan at a time, whose result waits
// for whoever asks again.
type comparing struct {
	mu     sync.Mutex
	key    string // of the question that is or was worked on
	done   chan struct{}
	stop   context.CancelFunc
	answer comparedShape
	err    error

	sums  *graph.Sums
	taken time.Time
	pages int
}

// ServeCompare answers a peer that compares what it has heard with what there is. A
// question that takes long is answered by that it is worked on; the same question, asked
// again, waits for the rest.
func (p *Peers) ServeCompare(w http.ResponseWriter, r *http.Request) error {
	l, err := p.peerOf(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	q, err := decodeQuestion(body)
	if err != nil {
		return err
	}
	done, err := l.comparing.begin(l, string(body), &q)
	if err != nil {
		return err
	}
	timeout := time.NewTimer(answerWithin)
	defer timeout.Stop()
	select {
	case <-r.Context().Done():
		return r.Context().Err()
	case <-timeout.C:
		return answer(w, comparedShape{Working: true})
	case <-done:
	}
	shape, err := l.comparing.result(string(body))
	if err != nil {
		return err
	}
	return answer(w, shape)
}

// begin has a question worked on, unless it is already.
func (c *comparing) begin(l *link, key string, q *question) (<-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key == key && c.done != nil {
		return c.done, nil
	}
	switch least := l.p.pace.of(compareLeast); {
	case q.fresh && time.Since(c.taken) < least:
		return nil, ErrTooSoon
	case !q.fresh && c.sums == nil:
		return nil, ErrTooSoon
	case len(q.leaves) > 0 && c.pages >= maxPages:
		return nil, ErrTooSoon
	}
	if c.stop != nil {
		c.stop()
	}
	done, sums := make(chan struct{}), c.sums
	stop, err := l.p.spawn(func(ctx context.Context) {
		defer close(done)
		shape, sums, err := l.look(ctx, q, sums)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.done == done {
			c.answer, c.err, c.sums = shape, err, sums
		}
	})
	if err != nil {
		return nil, err
	}
	c.key, c.done, c.stop = key, done, stop
	if q.fresh {
		c.taken, c.pages = time.Now(), 0
	}
	if len(q.leaves) > 0 {
		c.pages++
	}
	return done, nil
}

// result returns what became of a question. It is worked on anew when it is asked again.
func (c *comparing) result(key string) (comparedShape, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key != key {
		return comparedShape{Working: true}, nil // another was asked meanwhile
	}
	c.key = ""
	return c.answer, c.err
}

// look works on a question. One scan runs at a time, for all peers.
func (l *link) look(ctx context.Context, q *question, sums *graph.Sums) (comparedShape, *graph.Sums, error) {
	select {
	case l.p.scanning <- struct{}{}:
		defer func() { <-l.p.scanning }()
	case <-ctx.Done():
		return comparedShape{}, sums, ctx.Err()
	}
	if len(q.leaves) > 0 {
		page, err := l.p.o.Store.InterestEntries(ctx, l.url(), q.leaves, q.after, graph.MaxEntries)
		shape := comparedShape{Epoch: page.Epoch.String(), Position: page.Position, More: page.More}
		for _, e := range page.Entries {
			s := entryShape{URI: e.URI, Sver: e.Sver}
			if e.State != 0 {
				s.State = strconv.FormatUint(e.State, 16)
			}
			shape.Entries = append(shape.Entries, s)
		}
		return shape, sums, err
	}
	if q.fresh {
		mended, err := l.p.o.Store.AuditInterests(ctx, l.url())
		if mended > 0 {
			l.log.Warn("what the peer wants did not fit what it is told", "mended", mended)
			l.count(func(c *Counts) { c.Mended += uint64(mended) })
		}
		if err == nil {
			sums, err = l.p.o.Store.InterestSums(ctx, l.url())
		}
		if err != nil {
			return comparedShape{}, nil, err
		}
	}
	shape := comparedShape{Epoch: sums.Epoch.String(), Position: sums.Position}
	for _, prefix := range q.prefixes {
		var b []byte
		for i := range hexDigits {
			sum, err := sums.Of(prefix + hexDigits[i:i+1])
			if err != nil {
				return comparedShape{}, sums, malformed("sums: %w", err)
			}
			b = fmt.Appendf(b, "%016x%016x", sum.Interests, sum.States)
		}
		shape.Sums = append(shape.Sums, string(b))
	}
	return shape, sums, nil
}

// compare has what this hub has of the peer compared whenever that is due.
func (s *session) compare(ctx context.Context) error {
	for {
		if wait := s.untilCompared(); wait > 0 {
			if !sleep(ctx, wait, s.comparisons) {
				return ctx.Err()
			}
			continue
		}
		standing, err := s.p.o.Store.Session(s.url())
		if err != nil {
			return err
		}
		if !standing.Covered || standing.Pending > 0 { // the peer does not even know what is wanted
			if !sleep(ctx, s.p.pace.of(compareLook), nil) {
				return ctx.Err()
			}
			continue
		}
		mended, err := s.compareAll(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.compareDone(ctx, mended, err); err != nil {
			return err
		}
	}
}

// untilCompared is how long it is until the next comparison.
func (l *link) untilCompared() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.due.IsZero() {
		return time.Until(l.due)
	}
	return time.Until(l.compared.Add(l.p.pace.of(compareEvery)))
}

// compareDone notes what came of a comparison.
func (s *session) compareDone(ctx context.Context, mended int, err error) error {
	epoch := (*graph.EpochError)(nil)
	if errors.As(err, &epoch) {
		return errReset
	}
	s.mu.Lock()
	s.counts.Mended += uint64(mended)
	if err != nil {
		wait := compareAgain
		if no := (*Refusal)(nil); errors.As(err, &no) && no.retry > 0 {
			wait = no.retry
		}
		s.due = time.Now().Add(s.p.pace.of(wait + rand.N(wait)))
	} else {
		s.due, s.compared = time.Time{}, time.Now().Round(0)
	}
	s.mu.Unlock()
	switch {
	case err != nil:
		s.log.Warn("what the peer has was not compared", "err", err)
		return nil
	case mended > 0:
		s.log.Warn("the comparison with the peer found differences, and they are mended", "mended", mended)
	default:
		s.log.Info("the comparison with the peer found no difference")
	}
	s.p.changing.Lock()
	defer s.p.changing.Unlock()
	return s.p.keep(ctx, nil)
}

// compareAll compares, and mends what differs. It returns how many URIs that were.
func (s *session) compareAll(ctx context.Context) (mended int, err error) {
	store := s.p.o.Store
	if mended, err = store.AuditMirrors(ctx, s.url()); err != nil {
		return mended, err
	}
	ours, err := store.MirrorSums(ctx, s.url())
	if err != nil {
		return mended, err
	}
	there, leaves, err := s.differing(ctx, ours)
	if err != nil {
		return mended, err
	}
	if len(leaves) > graph.MaxLeaves {
		s.log.Warn("the peer has much that is different: all is told anew", "ranges", len(leaves))
		return mended + len(leaves), store.Reregister(ctx, s.url())
	}
	if len(leaves) == 0 { // a position that it cannot have told is mended
		n, err := store.MendInterests(ctx, s.url(), ours.Horizon, nil, "", graph.ComparePage{Horizon: there})
		return mended + n, err
	}
	q := question{leaves: leaves}
	for more := true; more; {
		page, err := s.askPage(ctx, &q)
		if err != nil {
			return mended, err
		}
		n, err := store.MendInterests(ctx, s.url(), ours.Horizon, leaves, q.after, page)
		mended += n
		if err != nil {
			return mended, err
		}
		if more = page.More; more {
			q.after = page.Entries[len(page.Entries)-1].URI
		}
	}
	return mended, nil
}

// differing goes down from the whole to the leaves whose sums differ.
func (s *session) differing(ctx context.Context, ours *graph.Sums) (there graph.Horizon, leaves []uint16, err error) {
	level := []string{""}
	for depth := range 4 {
		var next []string
		for first := 0; first < len(level); first += maxPrefixes {
			part := level[first:min(first+maxPrefixes, len(level))]
			a, err := s.ask(ctx, &question{fresh: depth == 0, prefixes: part})
			if err != nil {
				return there, nil, err
			}
			if there, err = a.horizon(); err != nil {
				return there, nil, err
			}
			if next, err = a.appendDiffering(next, part, ours); err != nil {
				return there, nil, err
			}
		}
		level = next
	}
	for _, prefix := range level {
		leaf, err := strconv.ParseUint(prefix, 16, 16)
		if err != nil {
			return there, nil, err // made of hex digits
		}
		leaves = append(leaves, uint16(leaf))
	}
	return there, leaves, nil
}

// ask asks the peer a question until it is answered.
func (s *session) ask(ctx context.Context, q *question) (a comparedShape, err error) {
	body := q.encode()
	for {
		b, err := s.call(ctx, EndpointCompare, body)
		if err != nil {
			return a, err
		}
		a = comparedShape{}
		if err := json.Unmarshal(b, &a); err != nil {
			return a, malformed("%w", err)
		}
		if !a.Working {
			return a, nil
		}
		if !sleep(ctx, s.p.pace.of(compareLook), nil) {
			return a, ctx.Err()
		}
	}
}

// horizon is how far the peer saw.
func (a *comparedShape) horizon() (h graph.Horizon, err error) {
	if !hexEpoch.MatchString(a.Epoch) {
		return h, malformed("epoch: %.40q is not 8 hex digits", a.Epoch)
	}
	epoch, err := strconv.ParseUint(a.Epoch, 16, 32)
	return graph.Horizon{Epoch: graph.Epoch(epoch), Position: a.Position}, err
}

// appendDiffering appends to next the parts of the ranges whose sums are not ours.
func (a *comparedShape) appendDiffering(next, ranges []string, ours *graph.Sums) ([]string, error) {
	if len(a.Sums) != len(ranges) {
		return nil, malformed("sums of %d ranges are there, of %d that were asked for", len(a.Sums), len(ranges))
	}
	for i, prefix := range ranges {
		if len(a.Sums[i]) != 32*len(hexDigits) {
			return nil, malformed("sums: those of a range are not %d of 32 hex digits", len(hexDigits))
		}
		for j := range hexDigits {
			part := prefix + hexDigits[j:j+1]
			sum, err := ours.Of(part)
			if err != nil {
				return nil, err
			}
			if a.Sums[i][32*j:32*(j+1)] != fmt.Sprintf("%016x%016x", sum.Interests, sum.States) {
				next = append(next, part)
			}
		}
	}
	return next, nil
}

func (s *session) askPage(ctx context.Context, q *question) (page graph.ComparePage, err error) {
	a, err := s.ask(ctx, q)
	if err != nil {
		return page, err
	}
	if page.Horizon, err = a.horizon(); err != nil {
		return page, err
	}
	page.More = a.More
	for _, e := range a.Entries {
		entry := graph.CompareEntry{URI: e.URI, Sver: e.Sver}
		if e.State != "" {
			if entry.State, err = strconv.ParseUint(e.State, 16, 64); err != nil {
				return page, malformed("entries: %.40q is not a number of hex digits", e.State)
			}
		}
		page.Entries = append(page.Entries, entry)
	}
	return page, nil
}
