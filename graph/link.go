package graph

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"github.com/freshwire/freshwire/graph/bulk"
)

// lookEvery is how many records pass between two looks at whether an import was
// given up.
const lookEvery = 1024

// writeNames writes who has which id.
func (m *importer) writeNames(ctx context.Context) error {
	names := m.tables.Writer()
	key := []byte{spaceName}
	for n := 1; n <= m.uris.Len(); n++ {
		uri := m.uris.Text(uint32(n))
		key = appendID(key[:1], ID(n))
		err := errors.Join(names.Set(key, uri), m.names.Add(uri, key[1:]))
		if err == nil && n%lookEvery == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return errors.Join(err, names.Close())
		}
	}
	return errors.Join(names.Close(), m.writeSorted(ctx, []byte{spaceURI}, m.names))
}

// writeSorted writes the records of a sorter with a prefix before their keys.
func (m *importer) writeSorted(ctx context.Context, prefix []byte, s *bulk.Sorter) error {
	w := m.tables.Writer()
	key := bytes.Clone(prefix)
	err := eachRecord(ctx, s, func(k, v []byte) error {
		key = append(key[:len(prefix)], k...)
		return w.Set(key, v)
	})
	return errors.Join(err, w.Close())
}

// eachRecord calls f with what a sorter holds, in order.
func eachRecord(ctx context.Context, s *bulk.Sorter, f func(k, v []byte) error) error {
	it, err := s.Iter()
	if err != nil {
		return err
	}
	for n := 0; it.Next(); n++ {
		if err = f(it.Key(), it.Value()); err == nil && n%lookEvery == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

// link compares who is made with what it is made from, and writes all but names.
func (m *importer) link(ctx context.Context) error {
	steps := []func(context.Context) error{m.judgeAll, m.writeRows, m.writeStates, m.writeGroups}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	err := m.writeSorted(ctx, seenDay(dayOf(m.now)), m.ids)
	return errors.Join(err, m.writeSorted(ctx, nil, m.timers), m.writeMeta())
}

// judgement goes through the edges by what they lead to, x, and beside them
// through the rows of who was heard of.
type judgement struct {
	m        *importer
	rows     *bulk.Iter
	more     bool // rows stands at one
	x        *row
	sources  []uint64 // its dependents
	seen     string   // of the edge before
	postings *bulk.Writer
	markers  *bulk.Writer
}

// judgeAll finds out who is stale or ahead, and writes the dependents of each
// resource.
func (m *importer) judgeAll(ctx context.Context) error {
	rows, err := m.rows.Iter()
	if err != nil {
		return err
	}
	j := judgement{m: m, rows: rows, more: rows.Next(), x: &row{}, postings: m.tables.Writer(), markers: m.tables.Writer()}
	err = eachRecord(ctx, m.edges, func(k, seen []byte) error {
		dst, src := splitEdge(k)
		if dst != j.x.id {
			if err := errors.Join(j.end(), j.begin(dst)); err != nil {
				return err
			}
		}
		return j.judge(src, seen)
	})
	if err == nil {
		err = j.end()
	}
	return errors.Join(err, rows.Close(), j.postings.Close(), j.markers.Close())
}

// begin turns to the edges that lead to x.
func (j *judgement) begin(x ID) (err error) {
	for j.more && parseID(j.rows.Key()) < x {
		j.more = j.rows.Next()
	}
	if j.more && parseID(j.rows.Key()) == x {
		j.x, err = decodeRow(x, j.rows.Value())
		return err
	}
	j.x = &row{id: x}
	return j.rows.Err()
}

// judge compares src with x, as its update says.
func (j *judgement) judge(src ID, seen []byte) error {
	if string(seen) != j.seen {
		j.seen = string(seen)
	}
	m := j.m
	j.sources = append(j.sources, uint64(src))
	if !j.x.is(rowHeard) {
		j.x.presume(j.seen)
		return nil
	}
	switch v, _ := judge(j.x, evidence{seen: j.seen, at: m.began[src]}, j.baseVersion); v {
	case newer:
		m.words[src] |= wordStale
	case ahead:
		err := j.markers.Set(markerKey(j.x.id, src), seen)
		return errors.Join(err, m.ahead.Add(appendID(appendID(nil, src), j.x.id), nil))
	}
	return nil
}

// baseVersion yields the version of the resource that x is an aspect of, if it
// is a number: others are not compared with it.
func (j *judgement) baseVersion() string {
	base, _, ok := strings.Cut(string(j.m.uris.Text(uint32(j.x.id))), "#")
	if !ok {
		return ""
	}
	return strconv.FormatUint(j.m.numbers[j.m.uris.Find(base)], 10)
}

// end writes the dependents of x, and what they saw of it if it was not heard of.
func (j *judgement) end() error {
	if len(j.sources) == 0 {
		return nil
	}
	m, x := j.m, j.x
	m.words[x.id] |= wordDependents
	var err error
	if len(j.sources) > hotAt {
		m.words[x.id] |= wordHot
		err = j.writeBuckets()
	} else {
		m.buf = appendPosting(m.buf[:0], j.sources)
		err = j.postings.Set(idKey(spacePosting, x.id), m.buf)
	}
	j.sources = j.sources[:0]
	if err != nil || x.is(rowHeard) {
		return err
	}
	if uri := m.uris.Text(uint32(x.id)); bytes.HasPrefix(uri, []byte("ticker:")) {
		x.typ = typeTicker
		x.set(rowArmed, true)
		period, _ := parsePeriod(strings.TrimPrefix(string(uri), "ticker:"))
		if err := m.later(m.now+period.Microseconds(), timer{kind: timerTick, chunk: chunk{ids: []ID{x.id}}}); err != nil {
			return err
		}
	}
	m.buf = x.append(m.buf[:0])
	return m.stubs.Add(appendID(nil, x.id), m.buf)
}

// writeBuckets writes the dependents of a hot resource.
func (j *judgement) writeBuckets() error {
	var lows []uint16
	for ids := j.sources; len(ids) > 0; {
		bucket := ids[0] >> bucketShift
		lows = lows[:0]
		for len(ids) > 0 && ids[0]>>bucketShift == bucket {
			lows, ids = append(lows, uint16(ids[0])), ids[1:]
		}
		j.m.buf = appendBucket(j.m.buf[:0], lows)
		if err := j.postings.Set(bucketKey(j.x.id, uint32(bucket)), j.m.buf); err != nil {
			return err
		}
	}
	return nil
}

// writeRows writes what is remembered of each resource, with what came out of the
// comparison.
func (m *importer) writeRows(ctx context.Context) error {
	rows, err1 := m.rows.Iter()
	stubs, err2 := m.stubs.Iter()
	ahead, err3 := m.ahead.Iter()
	if err := errors.Join(err1, err2, err3); err != nil {
		return errors.Join(err, rows.Close(), stubs.Close(), ahead.Close())
	}
	w := m.tables.Writer()
	key := []byte{spaceRow}
	var err error
	row, stub, mark := rows.Next(), stubs.Next(), ahead.Next()
	for n := 0; err == nil && (row || stub); n++ {
		if !row || stub && bytes.Compare(stubs.Key(), rows.Key()) < 0 {
			err = w.Set(append(key[:1], stubs.Key()...), stubs.Value())
			stub = stubs.Next()
			continue
		}
		id, value := parseID(rows.Key()), rows.Value()
		var marked []ID
		for ; mark && parseID(ahead.Key()) == id; mark = ahead.Next() {
			marked = append(marked, parseID(ahead.Key()[idSize:]))
		}
		if len(marked) > 0 || m.words[id].is(wordStale) {
			value, err = m.judged(id, value, marked)
		}
		if err == nil {
			err = w.Set(append(key[:1], rows.Key()...), value)
		}
		if n%lookEvery == 0 {
			err = errors.Join(err, ctx.Err())
		}
		row = rows.Next()
	}
	return errors.Join(err, rows.Close(), stubs.Close(), ahead.Close(), w.Close())
}

// judged is the row of who is stale, or ahead of some of what it is made from.
func (m *importer) judged(id ID, value []byte, marked []ID) ([]byte, error) {
	r, err := decodeRow(id, value)
	if err != nil {
		return nil, err
	}
	r.ahead = marked
	if m.words[id].is(wordStale) {
		r.born = 1
	}
	m.buf = r.append(m.buf[:0])
	return m.buf, nil
}

// writeStates writes the states, and a notice for who is stale.
func (m *importer) writeStates(ctx context.Context) error {
	pages, journal := m.tables.Writer(), m.tables.Writer()
	var stale []ID
	var err error
	for n := 0; n <= m.uris.Len()/pageSize && err == nil; n++ {
		var words [pageSize]uint16
		for slot := range words {
			id := n*pageSize + slot
			if id > m.uris.Len() {
				break
			}
			w := m.words[id]
			if w.is(wordStale) {
				w = w.withState(Ready)
				stale = append(stale, ID(id))
			}
			words[slot] = uint16(w)
		}
		if m.buf = appendPage(m.buf[:0], &words); len(m.buf) > 0 {
			err = pages.Set(pageKey(uint32(n)), m.buf)
		}
		for len(stale) >= maxChunk && err == nil {
			err = m.notify(journal, stale[:maxChunk])
			stale = stale[maxChunk:]
		}
		err = errors.Join(err, ctx.Err())
	}
	if len(stale) > 0 && err == nil {
		err = m.notify(journal, stale)
	}
	return errors.Join(err, pages.Close(), journal.Close())
}

// notify writes the notices of some who are stale, and sets their retry if
// somebody makes such.
func (m *importer) notify(journal *bulk.Writer, ids []ID) error {
	c := chunk{first: m.seq + 1, kind: KindRefresh, reason: ReasonReconcile, lane: Bulk, at: m.now, ids: ids}
	m.seq = c.last()
	m.buf = c.append(m.buf[:0])
	if err := journal.Set(seqKey(spaceJournal, c.first), m.buf); err != nil {
		return err
	}
	if len(m.s.work) == 0 || m.s.o.Observe {
		return nil
	}
	return m.later(m.now+m.s.retryDelay(0, c.first), timer{kind: timerRetry, ref: c.first,
		chunk: chunk{kind: KindRefresh, ids: ids[:1]}})
}

// writeGroups writes which resources carry which grouping key.
func (m *importer) writeGroups(ctx context.Context) error {
	w := m.tables.Writer()
	key := []byte{spaceBucket}
	var lows []uint16
	flush := func() error {
		if len(lows) == 0 {
			return nil
		}
		m.buf = appendBucket(m.buf[:0], lows)
		lows = lows[:0]
		return w.Set(key, m.buf)
	}
	err := eachRecord(ctx, m.groups, func(k, _ []byte) error {
		bucket, low := k[:len(k)-2], binary.BigEndian.Uint16(k[len(k)-2:])
		if !bytes.Equal(bucket, key[1:]) {
			if err := flush(); err != nil {
				return err
			}
			key = append(key[:1], bucket...)
		}
		lows = append(lows, low) // a name that an update gives twice counts once
		return nil
	})
	if err == nil {
		err = flush()
	}
	return errors.Join(err, w.Close())
}

func (m *importer) writeMeta() error {
	w := m.tables.Writer()
	next := binary.BigEndian.AppendUint64(nil, uint64(m.uris.Len())+1)
	now := binary.BigEndian.AppendUint64(nil, uint64(m.now))
	return errors.Join(w.Set(metaKey(metaNextID), next), w.Set(metaKey(metaNow), now), w.Close())
}
