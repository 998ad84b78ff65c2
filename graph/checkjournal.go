package graph

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// eachChunk calls f with every key of the journal, and with the chunk if it reads
// and is written as it would be today.
func (c *checker) eachChunk(f func(key, value []byte, ch *chunk, err error) error) error {
	return c.scan([]byte{spaceJournal}, func(k, v []byte) error {
		if len(k) != 1+8 {
			return f(k, v, nil, nil)
		}
		ch, err := decodeChunk(parseSeq(k[1:]), v)
		if err == nil && !bytes.Equal(ch.append(nil), v) {
			err = errors.New("it would be written otherwise")
		}
		return f(k, v, &ch, err)
	})
}

// checkJournal: positions are contiguous from the one up to which it is trimmed,
// times do not decrease, and who is named exists.
func (c *checker) checkJournal() error {
	c.newest = c.oldest
	first, at := true, int64(0)
	err := c.eachChunk(func(k, _ []byte, ch *chunk, err error) error {
		if ch == nil {
			c.badKey(k)
			return nil
		}
		seq := parseSeq(k[1:])
		if first && seq != c.oldest+1 && seq > 0 {
			c.found(metaKey(metaOldest), 0, fmt.Sprintf("the journal is said to be trimmed up to %d, and begins at %d", c.oldest, seq),
				func() { c.set(metaKey(metaOldest), binary.BigEndian.AppendUint64(nil, seq-1)) })
			c.oldest, c.newest = seq-1, seq-1
		}
		if seq != c.newest+1 {
			c.torn = true
			c.found(k, 0, fmt.Sprintf("the journal goes on here after position %d", c.newest), nil)
		}
		first, c.newest = false, max(seq, c.newest)
		if err != nil {
			c.torn = true
			c.found(k, 0, fmt.Sprintf("the chunk does not decode: %v", err), nil)
			return nil
		}
		c.newest = ch.last()
		if ch.at < at {
			c.found(k, 0, fmt.Sprintf("it was written at %d, before the one before it", ch.at), nil)
		}
		at = max(at, ch.at)
		return c.readChunk(k, ch)
	})
	c.now = max(c.now, at)
	return err
}

// readChunk takes in who was told what.
func (c *checker) readChunk(k []byte, ch *chunk) error {
	c.rep.Notices += len(ch.ids)
	for i, id := range ch.ids {
		c.used.add(id)
		if !c.named.has(id) {
			c.found(k, 0, fmt.Sprintf("it names resource %d, which does not exist", id), nil)
		}
		if w := c.col.get(id); ch.kind == KindRefresh && (w.state() != Ready || w.is(wordFailed|wordWaiting)) {
			continue // it does not matter whether it was told
		}
		key := append(appendID(make([]byte, 0, idSize+9), id), byte(ch.kind))
		if err := c.events.Add(binary.BigEndian.AppendUint64(key, ch.first+uint64(i)), nil); err != nil {
			return err
		}
	}
	if ch.cause != 0 {
		c.used.add(ch.cause)
		if !c.named.has(ch.cause) {
			c.found(k, 0, fmt.Sprintf("its cause is resource %d, which does not exist", ch.cause), nil)
		}
	}
	for i := range ch.marks {
		c.marks.said.add(uint64(ch.marks[i].list), ch.first)
	}
	return c.flushLarge()
}

// checkMarks compares the lists of chunks with the index of lists. What the index
// has of before the journal goes with time.
func (c *checker) checkMarks() error {
	each := func(f func(k []byte, list ListID, seq uint64) error) error {
		return c.scan([]byte{spaceList, listMarked}, func(k, _ []byte) error {
			if len(k) != 2+4+8 {
				return f(k, 0, 0)
			}
			if seq := parseSeq(k[6:]); seq > c.oldest {
				return f(k, parseList(k[2:]), seq)
			}
			return nil
		})
	}
	err := each(func(k []byte, list ListID, seq uint64) error {
		if seq == 0 {
			c.badKey(k)
			return nil
		}
		c.marks.copied.add(uint64(list), seq)
		return nil
	})
	if err != nil || c.marks.agree() {
		return err
	}
	said := func(add func([]byte) error) error {
		return c.eachChunk(func(_, _ []byte, ch *chunk, err error) error {
			if ch == nil || err != nil {
				return nil
			}
			for i := range ch.marks {
				if err := add(markedKey(ch.marks[i].list, ch.first)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	copied := func(add func([]byte) error) error {
		return each(func(k []byte, _ ListID, seq uint64) error {
			if seq == 0 {
				return nil
			}
			return add(k)
		})
	}
	return c.locate(said, copied, func(key []byte) error {
		key = bytes.Clone(key)
		c.found(key, 0, "the chunk is marked for the list, whose index does not have it", func() { c.set(key, nil) })
		return c.flushLarge()
	}, func(key []byte) error {
		key = bytes.Clone(key)
		v, ok, err := c.get(seqKey(spaceJournal, parseSeq(key[6:])))
		if err != nil {
			return err
		}
		if _, err := decodeChunk(0, v); ok && err != nil {
			return nil // what it was marked for is not known
		}
		c.found(key, 0, "the index of the list has a chunk that is not marked for it", func() { c.delete(key) })
		return c.flushLarge()
	})
}

// checkSummaries: a summary is of a whole block, and has all keys that follow from
// the URIs of it. Types and buckets may have changed since.
func (c *checker) checkSummaries() error {
	names, err := c.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceName}, UpperBound: []byte{spaceName + 1}})
	if err != nil {
		return err
	}
	err = c.scan([]byte{spaceList, listBlock}, func(k, v []byte) error {
		key, sum := bytes.Clone(k), summary(bytes.Clone(v))
		drop := func() { c.delete(key) }
		if len(k) != 2+8 {
			c.badKey(k)
			return nil
		}
		block := parseSeq(k[2:])
		switch end := (block+1)<<blockShift - 1; {
		case len(sum) < 2 || sum[0] != summaryFormat || end <= c.oldest:
			return nil // it is not read
		case end > c.newest:
			c.found(key, 0, "it sums up a block of the journal that is not whole", drop)
			return nil
		}
		ids, err := c.idsOf(block)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if at := idKey(spaceName, id); !names.SeekGE(at) || !bytes.Equal(names.Key(), at) {
				continue
			}
			if uri := string(names.Value()); !standsIn(sum, uri) {
				c.found(key, id, "a block of the journal names it, and its summary does not", drop)
				break
			}
		}
		return names.Error()
	})
	return errors.Join(err, names.Close())
}

// standsIn reports whether sum has all keys that follow from a URI.
func standsIn(sum summary, uri string) bool {
	ok := sum.has(HostKey(Host(uri)))
	eachPrefix(uri, func(prefix string) { ok = ok && sum.has(PrefixKey(prefix)) })
	return ok
}

// idsOf are those that a block of the journal names.
func (c *checker) idsOf(block uint64) ([]ID, error) {
	it, err := c.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: seqKey(spaceJournal, (block+1)<<blockShift)})
	if err != nil {
		return nil, err
	}
	var ids []ID
	from := block << blockShift
	for ok := seekChunk(it, max(from, 1)-1); ok; ok = it.Next() {
		ch, err := decodeChunk(parseSeq(it.Key()[1:]), it.Value())
		if err != nil {
			continue // it was noted
		}
		for i, id := range ch.ids {
			if seq := ch.first + uint64(i); seq>>blockShift == block {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), errors.Join(it.Error(), it.Close())
}

// checkJobs reads the fan-outs.
func (c *checker) checkJobs() error {
	seen := map[jobKey]bool{}
	return c.scan([]byte{spaceJob}, func(k, v []byte) error {
		if len(k) != 1+8 {
			c.badKey(k)
			return nil
		}
		key := bytes.Clone(k)
		drop := func() { c.delete(key) }
		j, err := decodeJob(parseSeq(k[1:]), v)
		switch {
		case err != nil || !bytes.Equal(j.append(nil), v):
			c.found(key, 0, "the fan-out does not decode, and who it has yet to reach is not known", nil)
		case !c.named.has(j.x):
			c.found(key, 0, fmt.Sprintf("it tells the dependents of resource %d, which does not exist", j.x), drop)
		case seen[jobKey{j.kind, j.x}]:
			c.found(key, j.x, "it is the second fan-out of its kind", drop)
		default:
			c.rep.Jobs++
			seen[jobKey{j.kind, j.x}] = true
			c.jobs[j.x] = append(c.jobs[j.x], j)
			c.used.add(j.x)
		}
		return nil
	})
}

// checkTimers: a timer decodes, is of who exists, and refers to what was told. An
// expiry may be of who is gone; it does nothing then.
func (c *checker) checkTimers() error {
	return c.scan([]byte{spaceTimer}, func(k, v []byte) error {
		if len(k) != 1+8+8 {
			c.badKey(k)
			return nil
		}
		c.ntimers = max(c.ntimers, parseSeq(k[9:]))
		key := bytes.Clone(k)
		drop := func() { c.delete(key) }
		m, err := decodeTimer(k, v)
		if err != nil || !bytes.Equal(m.append(nil), v) {
			c.found(key, 0, "the timer does not decode", drop)
			return c.flushLarge()
		}
		if m.kind == timerRetry {
			return c.checkRetry(key, &m)
		}
		c.rep.Timers++
		for _, id := range m.chunk.ids {
			if m.kind != timerExpire && !c.named.has(id) {
				c.found(key, 0, fmt.Sprintf("the timer is of resource %d, which does not exist", id), drop)
				return c.flushLarge()
			}
			at := append(appendID(make([]byte, 0, 32), id), byte(m.kind))
			if err := c.timers.Add(append(at, k[1:]...), binary.BigEndian.AppendUint64(nil, m.ref)); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkRetry: a retry is of a chunk that is in the journal, or was.
func (c *checker) checkRetry(key []byte, m *timer) error {
	_, ok, err := c.get(seqKey(spaceJournal, m.ref))
	if err != nil {
		return err
	}
	c.rep.Timers++
	if !ok && m.ref > c.oldest && (m.ref > c.newest || !c.torn) {
		c.found(key, 0, fmt.Sprintf("it tells again what was told at position %d, where nothing was", m.ref), func() { c.delete(key) })
	}
	return c.flushLarge()
}

// checkLists compares both directions of lists.
func (c *checker) checkLists() error {
	for _, of := range []struct {
		kind     byte
		from, to int // sizes of keys
	}{{listRecord, 2, 1 << 16}, {listMembers, 2 + 4 + 3, 2 + 4 + 3}, {listOf, 2 + idSize + 4, 2 + idSize + 4}, {listDropped, 2 + 4, 2 + 4}} {
		err := c.scan([]byte{spaceList, of.kind}, func(k, v []byte) error {
			if len(k) < of.from || len(k) > of.to {
				c.badKey(k)
				return nil
			}
			return c.checkListKey(k, v)
		})
		if err != nil {
			return err
		}
	}
	if c.members.agree() {
		return nil
	}
	return errors.Join(c.flush(), c.locateMembers())
}

func (c *checker) checkListKey(k, v []byte) error {
	switch k[1] {
	case listMembers:
		list, key := parseList(k[2:]), bytes.Clone(k)
		ids, err := decodeBucket(v, bucketOf(k), nil)
		if err != nil {
			c.found(key, 0, fmt.Sprintf("the members do not decode: %v", err), func() { c.set(key, nil) })
			c.rebuilt[string(key)] = true
			return c.flushLarge()
		}
		for _, id := range ids {
			if !c.named.has(ID(id)) {
				c.found(key, 0, fmt.Sprintf("resource %d, which is on the list, does not exist", id),
					func() { c.merge(key, postingOp{id & (bucketSize - 1), false}) })
			}
			c.members.said.add(uint64(list), id)
		}
	case listOf:
		c.members.copied.add(uint64(parseList(k[2+idSize:])), uint64(parseID(k[2:])))
	}
	return c.flushLarge()
}

// locateMembers finds out in what lists and their members differ.
func (c *checker) locateMembers() error {
	said := func(add func([]byte) error) error {
		return c.scan([]byte{spaceList, listMembers}, func(k, v []byte) error {
			if len(k) != 2+4+3 {
				return nil
			}
			ids, err := decodeBucket(v, bucketOf(k), nil)
			if err != nil {
				return nil // it was noted
			}
			for _, id := range ids {
				if err := add(appendID(bytes.Clone(k[2:6]), ID(id))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	copied := func(add func([]byte) error) error {
		return c.scan([]byte{spaceList, listOf}, func(k, _ []byte) error {
			if len(k) != 2+idSize+4 {
				return nil
			}
			return add(append(bytes.Clone(k[2+idSize:]), k[2:2+idSize]...))
		})
	}
	return c.locate(said, copied, func(key []byte) error {
		list, id := parseList(key), parseID(key[4:])
		c.found(listedKey(id, list), id, fmt.Sprintf("it is a member of list %d, and is not said to be on it", list),
			func() { c.set(listedKey(id, list), nil) })
		return c.flushLarge()
	}, func(key []byte) error {
		list, id := parseList(key), parseID(key[4:])
		at := membersKey(list, uint32(id>>bucketShift))
		if c.rebuilt[string(at)] {
			c.note(true, at, id, "", func() { c.merge(at, postingOp{uint64(id & (bucketSize - 1)), true}) })
			return c.flushLarge()
		}
		c.found(listedKey(id, list), id, fmt.Sprintf("it is said to be on list %d, and is no member of it", list),
			func() { c.delete(listedKey(id, list)) })
		return c.flushLarge()
	})
}
