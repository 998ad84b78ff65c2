package graph

import (
	"bytes"
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// repairBytes bounds a batch of a repair.
const repairBytes = 1 << 20

// Repairs are written in batches, in order: after a crash those up to some moment
// are there, and what is missing is found again. None needs another of its batch
// but a new epoch, which comes before what it is for.

func (c *checker) set(key, value []byte) { check(c.b.Set(key, value, nil)) }

func (c *checker) delete(key []byte) { check(c.b.Delete(key, nil)) }

func (c *checker) merge(key []byte, ops ...postingOp) {
	check(c.b.Merge(key, appendPostingOps(nil, ops), nil))
}

// flush writes what is to be repaired so far.
func (c *checker) flush() error {
	if c.b == nil {
		return nil
	}
	c.flushNotices()
	c.col.eachPending(func(n uint32, _ *page, ops []pageOp) {
		check(c.b.Merge(pageKey(n), appendPageOps(nil, ops), nil))
	})
	if c.b.Empty() {
		return nil
	}
	err := c.b.Commit(pebble.NoSync)
	c.b.Reset()
	return err
}

// flushLarge is flush if there is much to write.
func (c *checker) flushLarge() error {
	if c.b == nil || c.b.Len() < repairBytes {
		return nil
	}
	return c.flush()
}

// closeBatch makes durable what was repaired.
func (c *checker) closeBatch() error {
	if c.b == nil {
		return nil
	}
	return errors.Join(c.flush(), c.db.LogData(nil, pebble.Sync), c.b.Close())
}

// notify has id told again at due, µs, by a timer.
func (c *checker) notify(id ID, due int64) {
	m := &c.telling
	n := len(m.chunk.ids)
	if n > 0 && (m.due != due || n == maxChunk || m.chunk.ids[n-1] >= id) {
		c.flushNotices()
	}
	m.due = due
	m.chunk.ids = append(m.chunk.ids, id)
}

func (c *checker) flushNotices() {
	m := c.telling
	if len(m.chunk.ids) == 0 {
		return
	}
	c.telling = timer{}
	c.setTimer(m.due, timer{kind: timerNotice,
		chunk: chunk{kind: KindRefresh, reason: ReasonReconcile, lane: Bulk, ids: m.chunk.ids}})
}

func (c *checker) setTimer(due int64, m timer) {
	c.ntimers++
	m.chunk.at = c.now
	c.set(timerKey(due, c.ntimers), m.append(nil))
}

// settle puts e where it loses no refresh: an artefact, and whoever was to be made
// again, is made ready, with a notice; who is not known is a stub, anybody else clean.
func (c *checker) settle(e *entry) {
	e.settled = true
	w := c.col.get(e.id)
	again := w.state() > Clean || e.row.is(rowArtefact) || e.row.ndeps > 0
	w = w.with(wordFailed|wordWaiting|wordStale, false).withCount(0)
	switch {
	case !e.row.is(rowKnown):
		c.col.put(e.id, w.withState(Stub))
	case again:
		c.col.put(e.id, w.withState(Ready).with(wordStale|wordWaiting, true))
		due := max(c.now, e.row.noticeDue)
		c.notify(e.id, due)
		e.edit(func(r *row) { r.lease = 0 })
	default:
		c.col.put(e.id, w.withState(Clean))
	}
}

// unlink drops from e's dependencies those that are none, and has e made again: what
// it is made from beside the others is not known.
func (c *checker) unlink(e *entry, none func(ID) bool, again bool) {
	var deps, ahead []ID
	for _, x := range e.row.depIDs() {
		if !none(x) {
			deps = append(deps, x)
		}
	}
	for _, x := range e.row.ahead {
		if !none(x) {
			ahead = append(ahead, x)
		}
	}
	e.edit(func(r *row) {
		r.setDeps(deps)
		r.ahead, r.digest = ahead, 0 // the next update is not taken for a repetition
	})
	if again {
		c.settle(e)
	}
}

// rewriteRow changes the row of id; what does not decode stays as it is.
func (c *checker) rewriteRow(id ID, change func(r *row)) error {
	if err := c.flush(); err != nil {
		return err
	}
	r, err := readRow(c.db, id)
	if errors.Is(err, errRow) {
		return nil
	} else if err != nil {
		return err
	}
	change(r)
	c.set(idKey(spaceRow, id), r.append(nil))
	return nil
}

// split writes dependents that are too many for one block as buckets.
func (c *checker) split(dst ID, ids []uint64) {
	for len(ids) > 0 {
		bucket := uint32(ids[0] >> bucketShift)
		var lows []uint16
		for len(ids) > 0 && uint32(ids[0]>>bucketShift) == bucket {
			lows, ids = append(lows, uint16(ids[0])), ids[1:]
		}
		c.set(bucketKey(dst, bucket), appendBucket(nil, lows))
	}
	c.delete(idKey(spacePosting, dst))
	c.col.put(dst, c.col.get(dst).with(wordHot, true))
}

// locateEdges compares rows with posting lists, if their tallies differ.
func (c *checker) locateEdges() error {
	if c.edges.agree() {
		return nil
	}
	said := func(add func([]byte) error) error {
		return c.scanRows(func(r *row) (err error) {
			r.eachDep(func(x ID) bool {
				err = add(appendID(appendID(nil, x), r.id))
				return err == nil
			})
			return err
		})
	}
	copied := func(add func([]byte) error) error {
		return c.scan([]byte{spacePosting}, func(k, v []byte) error {
			ids, where, err := c.dependents(k, v)
			if err != nil || where != c.col.get(parseID(k[1:])).is(wordHot) {
				return nil // it was noted, and is not read by anybody
			}
			for _, src := range ids {
				if err := add(appendID(bytes.Clone(k[1:1+idSize]), ID(src))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	block := func(dst, src ID) (key []byte, low uint64) {
		if c.col.get(dst).is(wordHot) {
			return bucketKey(dst, uint32(src>>bucketShift)), uint64(src & (bucketSize - 1))
		}
		return idKey(spacePosting, dst), uint64(src)
	}
	return c.locate(said, copied, func(key []byte) error {
		dst, src := parseID(key), parseID(key[idSize:])
		at, low := block(dst, src)
		fix := func() { c.merge(at, postingOp{low, true}) }
		c.note(c.rebuilt[string(at)], at, src, "its row depends on "+c.label(dst)+", which does not list it as a dependent", fix)
		return c.flushLarge()
	}, func(key []byte) error {
		dst, src := parseID(key), parseID(key[idSize:])
		if c.unread.has(src) {
			return nil
		}
		at, low := block(dst, src)
		c.found(at, dst, c.label(src)+" is listed as a dependent, and its row does not depend on it", func() { c.merge(at, postingOp{low, false}) })
		return c.flushLarge()
	})
}

// locateMarkers compares rows with markers likewise. A marker that only one of
// them knows of goes: the next change of what it is on costs a refresh.
func (c *checker) locateMarkers() error {
	if c.markers.agree() {
		return nil
	}
	said := func(add func([]byte) error) error {
		return c.scanRows(func(r *row) error {
			for _, x := range r.ahead {
				if err := add(appendID(appendID(nil, x), r.id)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	copied := func(add func([]byte) error) error {
		return c.scan([]byte{spaceMarker}, func(k, _ []byte) error {
			if len(k) != 1+2*idSize {
				return nil
			}
			return add(k[1:])
		})
	}
	return c.locate(said, copied, func(key []byte) (err error) {
		dst, src := parseID(key), parseID(key[idSize:])
		c.found(markerKey(dst, src), src, "its row says that it is ahead of "+c.label(dst)+", and there is no marker", func() {
			err = c.rewriteRow(src, func(r *row) { r.ahead = without(r.ahead, dst) })
		})
		return err
	}, func(key []byte) error {
		dst, src := parseID(key), parseID(key[idSize:])
		if c.unread.has(src) {
			return nil
		}
		at := markerKey(dst, src)
		c.found(at, src, "a marker says that it is ahead of "+c.label(dst)+", and its row does not", func() { c.delete(at) })
		return c.flushLarge()
	})
}

// locateGroups compares rows with the blocks of grouping keys likewise.
func (c *checker) locateGroups() error {
	if c.groups.agree() {
		return nil
	}
	said := func(add func([]byte) error) error {
		return c.scanRows(func(r *row) error {
			for _, name := range distinct(r.buckets) {
				if err := add(appendID(append([]byte(name), 0), r.id)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	copied := func(add func([]byte) error) error {
		return c.scan([]byte{spaceBucket}, func(k, v []byte) error {
			name, ids, err := groupOf(k, v)
			if err != nil {
				return nil // it was noted
			}
			for _, id := range ids {
				if err := add(appendID(append([]byte(name), 0), ID(id))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	split := func(key []byte) (at []byte, id ID, name string) {
		n := len(key) - idSize
		id, name = parseID(key[n:]), string(key[:n-1])
		return groupKey(name, uint32(id>>bucketShift)), id, name
	}
	return c.locate(said, copied, func(key []byte) error {
		at, id, name := split(key)
		c.note(c.rebuilt[string(at)], at, id, "it carries the grouping key "+name+", which does not list it",
			func() { c.merge(at, postingOp{uint64(id & (bucketSize - 1)), true}) })
		return c.flushLarge()
	}, func(key []byte) error {
		at, id, name := split(key)
		if c.unread.has(id) {
			return nil
		}
		c.found(at, id, "it is listed under the grouping key "+name+", which it does not carry",
			func() { c.merge(at, postingOp{uint64(id & (bucketSize - 1)), false}) })
		return c.flushLarge()
	})
}
