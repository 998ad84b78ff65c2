package graph

import (
	"errors"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// spelledIDs is the greatest number of notices of a chunk that are spelled out
// once for all readers of the tail; a fan-out's are for whoever reads them.
const spelledIDs = 16

// selection is some of the notices of a chunk: those at the indexes at, or if
// that is nil those from … to.
type selection struct {
	c        *chunk
	at       []uint16
	from, to int
}

func (p *selection) len() int {
	if p.at != nil {
		return len(p.at)
	}
	return p.to - p.from
}

// index is that of the k-th notice selected.
func (p *selection) index(k int) int {
	if p.at != nil {
		return int(p.at[k])
	}
	return p.from + k
}

// notices spells out up to limit notices of chunks after seq.
func (s *Store) notices(chunks []chunk, seq uint64, limit int) ([]Notice, error) {
	var picked []selection
	for i := range chunks {
		c := &chunks[i]
		from := 0
		if seq >= c.first {
			from = int(seq - c.first + 1)
		}
		if from >= len(c.ids) {
			continue
		}
		to := min(len(c.ids), from+limit)
		limit -= to - from
		picked = append(picked, selection{c: c, from: from, to: to})
		if limit == 0 {
			break
		}
	}
	return s.spell(picked)
}

// spell spells out what was selected, in its order. Type and buckets are those
// the resources have now.
func (s *Store) spell(picked []selection) ([]Notice, error) {
	n := 0
	for i := range picked {
		n += picked[i].len()
	}
	if n == 0 {
		return nil, nil
	}
	out := make([]Notice, 0, n)
	for i := range picked {
		p := &picked[i]
		all, err := s.shared(p.c)
		if err != nil {
			return nil, err
		}
		if all == nil {
			if out, err = s.spellOne(out, p); err != nil {
				return nil, err
			}
			continue
		}
		for k := range p.len() {
			out = append(out, all[p.index(k)])
		}
	}
	return out, nil
}

// shared returns the notices of a small chunk of the tail, which the first reader
// spells out for all others.
func (s *Store) shared(c *chunk) ([]Notice, error) {
	if c.spelled == nil {
		return nil, nil
	}
	if all := c.spelled.Load(); all != nil {
		return *all, nil
	}
	all, err := s.spellOne(nil, &selection{c: c, to: len(c.ids)})
	if err == nil {
		c.spelled.Store(&all)
	}
	return all, err
}

func (s *Store) spellOne(out []Notice, p *selection) ([]Notice, error) {
	c := p.c
	head := Notice{Kind: c.kind, Version: c.version, Hash: c.hash, Change: c.change, Reason: c.reason, Rule: c.rule,
		Lane: c.lane, Attempt: int(c.attempt), At: timeOf(c.at), Cause: Cause{ID: c.causeID, At: timeOf(c.causeAt)}}
	if c.cause != 0 {
		uri, err := s.nameOf(c.cause)
		if err != nil {
			return nil, err
		}
		head.Cause.URI = uri
	}
	lists := c.lists(0, len(c.ids))
	for k := range p.len() {
		i := p.index(k)
		n := head
		n.Cursor = Cursor{s.epoch, c.first + uint64(i)}
		var err error
		if n.URI, err = s.nameOf(c.ids[i]); err != nil {
			return nil, err
		}
		if n.Type, n.Buckets, err = s.labels(c.ids[i]); err != nil {
			return nil, err
		}
		if lists != nil {
			n.Lists = lists[i]
		}
		out = append(out, n)
	}
	return out, nil
}

// labels reads type and buckets alone of a row.
func (s *Store) labels(id ID) (typ string, buckets []string, err error) {
	v, closer, err := s.db.Get(idKey(spaceRow, id))
	if errors.Is(err, pebble.ErrNotFound) {
		return "", nil, nil
	} else if err != nil {
		return "", nil, err
	}
	d := decoder{b: v}
	for d.next(fieldBuckets) {
		switch d.tag {
		case fieldType:
			typ = d.text()
		case fieldBuckets:
			buckets = d.texts()
		default:
			d.skipField()
		}
	}
	return typ, buckets, closer.Close()
}

// share lets the notices of a chunk that is published be spelled out once for all.
func (c *chunk) share() {
	if len(c.ids) <= spelledIDs {
		c.spelled = &atomic.Pointer[[]Notice]{}
	}
}
