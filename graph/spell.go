package graph

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// spelledIDs is the greatest number of notices of a chunk that are spelled out
// once for all readers of the tail; a fan-out's are for whoever reads them.
const spelledIDs = 16

// share lets the notices of a chunk that is published be spelled out once for all.
func (c *chunk) share() {
	if len(c.ids) <= spelledIDs {
		c.spelled = &atomic.Pointer[[]Notice]{}
	}
}

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

// whole reports whether all notices of the chunk were selected.
func (p *selection) whole() bool { return p.at == nil && p.to-p.from == len(p.c.ids) }

// notices spells out up to limit notices of chunks after seq.
func (s *Store) notices(chunks []chunk, seq uint64, limit int) ([]Notice, error) {
	g := gathering{s: s, p: &Pick{}, limit: limit, left: maxScan, reached: seq}
	g.fromTail(chunks)
	return s.spell(g.picked)
}

// spell spells out what was selected, in its order. Type and buckets are those
// the resources have now. What is not in memory is read in the order of ids: two
// keys that follow each other cost a fraction of two that do not.
func (s *Store) spell(picked []selection) ([]Notice, error) {
	n := 0
	for i := range picked {
		n += picked[i].len()
	}
	if n == 0 {
		return nil, nil
	}
	sp := speller{s: s, out: make([]Notice, 0, n)}
	for i := range picked {
		p := &picked[i]
		if all := p.c.shared(); all != nil {
			for k := range p.len() {
				sp.out = append(sp.out, all[p.index(k)])
			}
			continue
		}
		sp.add(p)
	}
	if err := sp.readMissing(); err != nil {
		return nil, err
	}
	n = 0
	for i := range picked {
		p := &picked[i]
		if p.c.spelled != nil && p.whole() && p.c.shared() == nil {
			all := slices.Clone(sp.out[n : n+p.len()])
			p.c.spelled.Store(&all)
		}
		n += p.len()
	}
	return sp.out, nil
}

// shared returns the notices of a small chunk of the tail, if a reader has
// spelled them out already.
func (c *chunk) shared() []Notice {
	if c.spelled == nil {
		return nil
	}
	if all := c.spelled.Load(); all != nil {
		return *all
	}
	return nil
}

// speller spells out notices of one call.
type speller struct {
	s       *Store
	out     []Notice
	missing []blank
}

// blank is a place in some notices for what is to be read of a resource.
type blank struct {
	id       ID
	from, to int32
	what     blankPart
}

type blankPart uint8

const (
	blankAll   blankPart = iota // URI and labels of a resource that is its own cause
	blankOwn                    // the same of one that is not
	blankCause                  // the URI alone, of the cause
)

// add appends the notices selected by p, with what is in memory.
func (sp *speller) add(p *selection) {
	c := p.c
	head := Notice{Kind: c.kind, Version: c.version, Hash: c.hash, Change: c.change, Reason: c.reason, Rule: c.rule,
		Lane: c.lane, Attempt: int(c.attempt), At: timeOf(c.at), Cause: Cause{ID: c.causeID, At: timeOf(c.causeAt)}}
	n := len(sp.out)
	own := len(c.ids) == 1 && c.cause == c.ids[0] // most edits are their own cause
	if c.cause != 0 && !own {
		if l, ok := sp.s.spelling.get(c.cause); ok {
			head.Cause.URI = l.uri
		} else {
			sp.missing = append(sp.missing, blank{c.cause, int32(n), int32(n + p.len()), blankCause})
		}
	}
	var lists [][]ListID
	if len(c.marks) > 0 {
		lists = c.lists(0, len(c.ids))
	}
	for k := range p.len() {
		i := p.index(k)
		sp.out = append(sp.out, head)
		o := &sp.out[n+k]
		o.Cursor = Cursor{sp.s.epoch, c.first + uint64(i)}
		if lists != nil {
			o.Lists = lists[i]
		}
		if l, ok := sp.s.spelling.get(c.ids[i]); ok && l.labelled {
			o.URI, o.Type, o.Buckets = l.uri, l.typ, l.buckets
			if own {
				o.Cause.URI = l.uri
			}
			continue
		}
		what := blankOwn
		if own {
			what = blankAll
		}
		sp.missing = append(sp.missing, blank{c.ids[i], int32(n + k), int32(n + k + 1), what})
	}
}

// readMissing reads what is missing from the store and fills it in.
func (sp *speller) readMissing() error {
	if len(sp.missing) == 0 {
		return nil
	}
	slices.SortFunc(sp.missing, func(a, b blank) int {
		if a.id != b.id {
			return cmp.Compare(a.id, b.id)
		}
		return int(a.what) - int(b.what) // first those of which labels are needed too
	})
	s := sp.s
	known := s.spelling.versions()
	from, to := sp.missing[0].id, sp.missing[len(sp.missing)-1].id
	names, err := s.db.NewIter(&pebble.IterOptions{LowerBound: idKey(spaceName, from), UpperBound: idKey(spaceName, to+1)})
	if err != nil {
		return err
	}
	rows, err := s.db.NewIter(&pebble.IterOptions{LowerBound: idKey(spaceRow, from), UpperBound: idKey(spaceRow, to+1)})
	if err != nil {
		return errors.Join(err, names.Close())
	}
	err = sp.fill(names, rows, &known)
	return errors.Join(err, names.Error(), rows.Error(), names.Close(), rows.Close())
}

// fill goes over the blanks, which are in the order of ids.
func (sp *speller) fill(names, rows *pebble.Iterator, known *[spellingShards]uint64) error {
	var key [1 + idSize]byte
	var l label
	var last ID
	var text texts
	for i := range sp.missing {
		m := &sp.missing[i]
		if m.id != last {
			last = m.id
			appendID(append(key[:0], spaceName), m.id)
			if !names.SeekGE(key[:]) || parseID(names.Key()[1:]) != m.id {
				return errors.Join(fmt.Errorf("resource %d has no name", m.id), names.Error())
			}
			l = label{uri: string(names.Value())}
			if m.what != blankCause {
				key[0] = spaceRow
				if rows.SeekGE(key[:]) && parseID(rows.Key()[1:]) == m.id {
					text.labels(&l, rows.Value())
				}
				l.labelled = true
			}
			sp.s.spelling.put(m.id, l, known)
		}
		for k := m.from; k < m.to; k++ {
			o := &sp.out[k]
			if m.what != blankOwn {
				o.Cause.URI = l.uri
			}
			if m.what != blankCause {
				o.URI, o.Type, o.Buckets = l.uri, l.typ, l.buckets
			}
		}
	}
	return nil
}

// texts remembers the type and the buckets that were read last: the resources of
// a wiki have few of them.
type texts struct {
	typ     string
	buckets []string
}

// labels reads type and buckets alone of a row.
func (t *texts) labels(l *label, row []byte) {
	d := decoder{b: row}
	for d.next(fieldBuckets) {
		switch d.tag {
		case fieldType:
			b := d.bytes()
			if string(b) != t.typ {
				t.typ = string(b)
			}
			l.typ = t.typ
		case fieldBuckets:
			before := d
			if d.same(t.buckets) {
				l.buckets = t.buckets
				continue
			}
			d = before
			t.buckets = d.texts()
			l.buckets = t.buckets
		default:
			d.skipField()
		}
	}
}

// label is what notices say of a resource beside what happened to it.
type label struct {
	uri, typ string
	buckets  []string
	labelled bool // typ and buckets were read
}

const (
	spellingShards = 64
	// cachedLabels bounds the resources of a shard: 262,144 in all at most, about
	// 40 MB with URIs as on a wiki. Neighbours share a shard, so that a small store
	// fills one.
	cachedLabels = 1 << 12
)

// spelling keeps what notices say of resources, as far as it was needed of late.
// URIs stay what they are; who changes type or buckets forgets the entry once the
// change can be read. What was read before that is not put in afterwards: each
// shard has a version that moves when something of it is forgotten.
type spelling struct {
	shards [spellingShards]spellingShard
}

type spellingShard struct {
	mu      sync.Mutex
	version uint64
	pairs   [][2]spelledLabel // an id has two places, the first for who was asked for last
}

type spelledLabel struct {
	id ID
	label
}

// place returns the shard of id and the pair in it.
func (s *spelling) place(id ID) (*spellingShard, int) {
	return &s.shards[id/cachedLabels%spellingShards], int(id % (cachedLabels / 2))
}

func (s *spelling) get(id ID) (label, bool) {
	sh, i := s.place(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.pairs == nil {
		return label{}, false
	}
	p := &sh.pairs[i]
	if p[0].id != id {
		if p[1].id != id {
			return label{}, false
		}
		p[0], p[1] = p[1], p[0]
	}
	return p[0].label, true
}

// versions are taken before something is read that is then put in.
func (s *spelling) versions() (v [spellingShards]uint64) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		v[i] = sh.version
		sh.mu.Unlock()
	}
	return v
}

// put keeps what was read of id since the versions were taken.
func (s *spelling) put(id ID, l label, known *[spellingShards]uint64) {
	sh, i := s.place(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.version != known[id/cachedLabels%spellingShards] {
		return
	}
	if sh.pairs == nil {
		sh.pairs = make([][2]spelledLabel, cachedLabels/2)
	}
	p := &sh.pairs[i]
	if p[1].id == id {
		p[0], p[1] = p[1], p[0]
	}
	switch {
	case p[0].id != id:
		p[1], p[0] = p[0], spelledLabel{id, l}
	case l.labelled || !p[0].labelled:
		p[0].label = l
	}
}

// forget drops what is kept of ids.
func (s *spelling) forget(ids ...ID) {
	for _, id := range ids {
		sh, i := s.place(id)
		sh.mu.Lock()
		sh.version++
		if sh.pairs != nil {
			for k := range sh.pairs[i] {
				if sh.pairs[i][k].id == id {
					sh.pairs[i][k] = spelledLabel{}
				}
			}
		}
		sh.mu.Unlock()
	}
}

// nameOf returns the URI of id.
func (s *Store) nameOf(id ID) (string, error) {
	if l, ok := s.spelling.get(id); ok {
		return l.uri, nil
	}
	known := s.spelling.versions()
	v, closer, err := s.db.Get(idKey(spaceName, id))
	if err != nil {
		return "", fmt.Errorf("name of resource %d: %w", id, err)
	}
	l := label{uri: string(v)}
	s.spelling.put(id, l, &known)
	return l.uri, closer.Close()
}
