package graph

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/pebble/v2"
)

const (
	// maxChain bounds the steps of an explanation: cycles have no end.
	maxChain = 32
	// maxWaiting bounds the dependencies an explanation lists.
	maxWaiting = 20
	// whyChunks bounds the journal chunks searched for one notice: some milliseconds.
	whyChunks = 10_000
	// DefaultImpact is up to how many resources an impact is counted exactly.
	DefaultImpact = 100_000
)

// Explanation is why a resource is in the state it is in.
type Explanation struct {
	Resource Resource
	Last     *Notice // its newest notice that was found in the journal
	Chain    []Link  // nearest cause first; the last one is the edit
	Waiting  []Item  // unsettled dependencies that a dirty resource waits for
	Text     string  // one sentence a person understands

	hidden, waits int // links at the end that are not shown; what it waits for, shown or not
}

// Link is one step of the path from a resource back to the edit.
type Link struct {
	URI     string
	Version string
	Changed Cursor
	At      time.Time // when its content changed
	Rule    Rule
	Cause   Cause
}

// Why explains the state of uri: the newest notice about it, the path of changes
// that led to it back to the edit, and what it waits for. It searches a bounded
// part of the journal; what is older is left out. ErrUnknown as in Resource.
func (s *Store) Why(ctx context.Context, uri string) (Explanation, error) {
	res, err := s.Resource(uri)
	if err != nil {
		return Explanation{}, err
	}
	id, err := s.known(uri)
	if err != nil {
		return Explanation{}, err
	}
	r, err := readRow(s.db, id)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Resource: res}
	if e.Last, err = s.lastNotice(ctx, r); err != nil {
		return e, err
	}
	if e.Chain, err = s.chain(ctx, r, e.Last); err != nil {
		return e, err
	}
	if res.State == Dirty {
		if e.Waiting, err = s.waitingFor(r); err != nil {
			return e, err
		}
	}
	e.waits = len(e.Waiting)
	e.Text = e.sentence()
	return e, nil
}

// ShowOnly takes out of an explanation each resource that sees does not report, its
// text included, for a reader who may not know of them. The resource that is
// explained stays.
func (e *Explanation) ShowOnly(sees func(uri string) bool) {
	shown := func(c Cause) Cause {
		if c.URI != "" && !sees(c.URI) {
			return Cause{}
		}
		return c
	}
	if e.Last != nil {
		last := *e.Last
		last.Cause = shown(last.Cause)
		e.Last = &last
	}
	chain := e.Chain
	e.Chain, e.hidden = nil, 0
	for _, l := range chain {
		if !sees(l.URI) {
			e.hidden++
			continue
		}
		l.Cause = shown(l.Cause)
		e.Chain, e.hidden = append(e.Chain, l), 0
	}
	e.Waiting = slices.DeleteFunc(slices.Clone(e.Waiting), func(it Item) bool { return !sees(it.URI) })
	e.Text = e.sentence()
}

// LastNotice returns the newest notice about uri, nil if there is none in the
// newest part of the journal that is searched.
func (s *Store) LastNotice(ctx context.Context, uri string) (*Notice, error) {
	id, err := s.known(uri)
	if err != nil {
		return nil, err
	}
	r, err := readRow(s.db, id)
	if err != nil {
		return nil, err
	}
	return s.lastNotice(ctx, r)
}

// lastNotice searches the journal backwards, not past r's last change: that has
// a notice of its own.
func (s *Store) lastNotice(ctx context.Context, r *row) (*Notice, error) {
	_, newest := s.journal.bounds()
	var found *Notice
	err := s.backwards(ctx, newest, func(c *chunk) (bool, error) {
		if c.last() < r.changed {
			return false, nil
		}
		i, ok := slices.BinarySearch(c.ids, r.id)
		if !ok {
			return true, nil
		}
		seq := c.first + uint64(i)
		n, err := s.notices([]chunk{*c}, seq-1, 1)
		if err == nil && len(n) == 1 {
			found = &n[0]
		}
		return false, err
	})
	return found, err
}

// backwards calls f with chunks, newest first, until it returns false.
func (s *Store) backwards(ctx context.Context, newest uint64, f func(*chunk) (bool, error)) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: seqKey(spaceJournal, newest+1)})
	if err != nil {
		return err
	}
	n := 0
	for ok := it.Last(); ok && n < whyChunks; ok, n = it.Prev(), n+1 {
		c, err := decodeChunk(binary.BigEndian.Uint64(it.Key()[1:]), it.Value())
		if err == nil {
			var more bool
			if more, err = f(&c); err == nil && !more {
				break
			}
		}
		if err := errors.Join(err, ctx.Err()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// chain follows causes from r: the dependency whose change came last after what
// it was made from, then what made that one change, up to a primary.
func (s *Store) chain(ctx context.Context, r *row, last *Notice) (links []Link, err error) {
	visited := map[ID]bool{r.id: true}
	var hint ID
	if last != nil && last.Kind == KindRefresh && last.Cause.URI != "" {
		if hint, _, err = s.lookup(last.Cause.URI); err != nil {
			return nil, err
		}
	}
	for len(links) < maxChain {
		x, err := s.culprit(r, hint, visited)
		if err != nil || x == nil {
			return links, err
		}
		visited[x.id] = true
		link, err := s.link(x)
		if err != nil {
			return links, err
		}
		links = append(links, link)
		r, hint = x, 0
		if err := ctx.Err(); err != nil {
			return links, err
		}
	}
	return links, nil
}

// culprit is the dependency of r that made it stale: the one its notice names,
// else the last to change after r was made; for a resource that was made again
// since, the last to change before that.
func (s *Store) culprit(r *row, hint ID, visited map[ID]bool) (*row, error) {
	if hint != 0 && !visited[hint] {
		return readRow(s.db, hint)
	}
	var best *row
	for _, id := range r.depIDs() {
		if visited[id] {
			continue
		}
		x, err := readRow(s.db, id)
		if err != nil {
			return nil, err
		}
		if x.changed == 0 {
			continue
		}
		newest := func(a *row) bool { return a.changed > r.updated }
		switch {
		case best == nil, newest(x) && !newest(best), newest(x) == newest(best) && x.changed > best.changed:
			best = x
		}
	}
	return best, nil
}

// link describes a change by the notice that told it.
func (s *Store) link(x *row) (Link, error) {
	uri, err := s.nameOf(x.id)
	if err != nil {
		return Link{}, err
	}
	l := Link{URI: uri, Version: cmp.Or(x.version, x.hash), Changed: Cursor{s.epoch, x.changed}, At: timeOf(x.changedAt), Rule: RuleChange}
	if x.changed == 0 || x.changed <= s.trimmedTo() {
		return l, nil
	}
	v, closer, err := s.db.Get(seqKey(spaceJournal, x.changed))
	if err != nil {
		return l, nil // not a chunk of its own: told with others
	}
	c, err := decodeChunk(x.changed, v)
	if err := errors.Join(err, closer.Close()); err != nil {
		return l, err
	}
	n, err := s.notices([]chunk{c}, x.changed-1, 1)
	if err == nil && len(n) == 1 {
		l.Cause = n[0].Cause
		l.Version = cmp.Or(n[0].Version, n[0].Hash)
	}
	return l, err
}

// waitingFor lists unsettled dependencies of r.
func (s *Store) waitingFor(r *row) ([]Item, error) {
	var ids []ID
	s.mu.RLock()
	r.eachDep(func(x ID) bool {
		if s.col.get(x).unsettled() {
			ids = append(ids, x)
		}
		return len(ids) < maxWaiting
	})
	s.mu.RUnlock()
	items, _, err := s.items(ids, maxWaiting)
	return items, err
}

func (e *Explanation) sentence() string {
	res := &e.Resource
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s", res.URI, res.State)
	if res.Failed {
		b.WriteString(" and has failed: nobody answered its notices")
	}
	root := ""
	switch {
	case e.hidden > 0:
		root = "something changed that is not shown to you"
	case len(e.Chain) > 0:
		l := e.Chain[len(e.Chain)-1]
		root = fmt.Sprintf("%s changed to %s at %s", l.URI, cmp.Or(l.Version, "a new state"), l.At.Format(time.RFC3339))
	}
	switch {
	case res.State == Stub && res.Known:
	case res.State == Stub && res.Changed.IsZero():
		b.WriteString(": others depend on it, and nothing was reported of it yet")
	case res.State == Stub:
		b.WriteString(": it was deleted or purged")
	case res.State == Dirty:
		fmt.Fprintf(&b, ": it waits for %d unsettled dependencies", e.waits)
		if len(e.Waiting) > 0 {
			fmt.Fprintf(&b, ", first %s", e.Waiting[0].URI)
		}
	case (res.State == Ready || res.State == Pending) && root != "":
		fmt.Fprintf(&b, ", because %s", root)
	case res.State == Clean:
		b.WriteString(": nothing it was made from has changed since")
	}
	if e.Last != nil {
		fmt.Fprintf(&b, "; its last notice is %s (%s", e.Last.Kind, e.Last.Reason)
		if e.Last.Rule != RuleNone {
			fmt.Fprintf(&b, ", rule %s", e.Last.Rule)
		}
		fmt.Fprintf(&b, ") at %s", e.Last.At.Format(time.RFC3339))
	}
	return b.String() + "."
}

// Impact is what an edit would refresh.
type Impact struct {
	URI        string
	Direct     int
	Transitive int  // direct ones included
	Complete   bool // false: counting stopped at the limit
	ByType     map[string]int
	ByHost     map[string]int
	Depth      int // steps from the resource to the farthest one counted
}

// Impact counts what an edit of uri would refresh, exactly up to limit resources
// (0 means DefaultImpact), and says whether it stopped there.
func (s *Store) Impact(ctx context.Context, uri string, limit int) (Impact, error) {
	id, err := s.known(uri)
	if err != nil {
		return Impact{}, err
	}
	if limit <= 0 {
		limit = DefaultImpact
	}
	snap := s.db.NewSnapshot()
	out := Impact{URI: uri, Complete: true, ByType: map[string]int{}, ByHost: map[string]int{}}
	out.Direct, err = s.countOf(id)
	if err == nil {
		err = out.count(ctx, s, snap, id, limit)
	}
	return out, errors.Join(err, snap.Close())
}

// count walks the dependents breadth first.
func (m *Impact) count(ctx context.Context, s *Store, snap *pebble.Snapshot, id ID, limit int) error {
	visited := roaring64.New()
	visited.Add(uint64(id))
	for layer := []ID{id}; len(layer) > 0 && m.Complete; m.Depth++ {
		var next []ID
		for _, x := range layer {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := eachDependent(snap, x, 0, func(d ID) bool {
				if !visited.CheckedAdd(uint64(d)) {
					return true
				}
				if len(next)+m.Transitive == limit {
					m.Complete = false
					return false
				}
				next = append(next, d)
				return true
			})
			if err != nil {
				return err
			}
		}
		if len(next) == 0 {
			break
		}
		m.Transitive += len(next)
		for _, d := range next {
			if err := m.describe(s, snap, d); err != nil {
				return err
			}
		}
		layer = next
	}
	return nil
}

func (m *Impact) describe(s *Store, snap *pebble.Snapshot, d ID) error {
	uri, err := s.nameOf(d)
	if err != nil {
		return err
	}
	r, err := readRow(snap, d)
	if err != nil {
		return err
	}
	m.ByType[r.typ]++
	m.ByHost[Host(uri)]++
	return nil
}
