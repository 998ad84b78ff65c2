package graph

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// entry is all there is of one resource, from all spaces that are in the order
// of ids.
type entry struct {
	id      ID
	row     *row // an empty one if there is none, or if it does not decode
	stored  bool // there is one
	unread  bool // it does not decode
	edited  bool
	settled bool     // a repair has put it where it is safe
	cold    []uint64 // dependents, if they are in one block …
	coldSum tally
	hot     int // … and how many there are in buckets
	hotSum  tally

	told, changed uint64 // positions of the last notices of either kind
	noticeDue     int64  // of its last timer
	timers        []entryTimer
}

type entryTimer struct {
	kind   timerKind
	due, n uint64
	ref    uint64
}

func (e *entry) edit(change func(r *row)) {
	change(e.row)
	e.edited = true
}

// hasTimer reports whether a timer of a kind is set, due then if due is not 0.
func (e *entry) hasTimer(kind timerKind, due int64, ref uint64) bool {
	return slices.ContainsFunc(e.timers, func(m entryTimer) bool {
		return m.kind == kind && (due == 0 || m.due == uint64(due)) && (kind != timerLease || m.ref == ref)
	})
}

// loadPages reads the states.
func (c *checker) loadPages() error {
	return c.scan([]byte{spacePage}, func(k, v []byte) error {
		if len(k) != 1+4 {
			c.badKey(k)
			return nil
		}
		n, key := binary.BigEndian.Uint32(k[1:]), bytes.Clone(k)
		var words [pageSize]uint16
		if err := decodePage(v, &words); err != nil {
			c.blank[n] = true
			c.found(key, 0, fmt.Sprintf("the states of 1,024 resources do not decode: %v", err), func() { c.set(key, nil) })
			return c.flushLarge()
		}
		if ID(n)*pageSize >= c.nextID {
			if words != [pageSize]uint16{} {
				c.found(key, 0, "it holds states of who does not exist", func() { c.delete(key) })
			}
			return c.flushLarge()
		}
		c.loadWords(key, n, &words)
		return c.flushLarge()
	})
}

// loadWords takes in a page, without the states that there are not.
func (c *checker) loadWords(key []byte, n uint32, words *[pageSize]uint16) {
	at := func(slot int) ID { return ID(n)*pageSize + ID(slot) }
	for slot, w := range words {
		if noState(w) && c.named.has(at(slot)) {
			words[slot] = uint16(word(w).withState(Stub))
			c.stateless.add(at(slot))
			c.found(key, at(slot), fmt.Sprintf("there is no state %d", word(w).state()), func() {
				check(c.b.Merge(key, appendPageOps(nil, []pageOp{{uint16(slot), words[slot]}}), nil))
			})
		}
		if w != 0 && !c.named.has(at(slot)) {
			words[slot] = 0
			c.found(key, 0, fmt.Sprintf("it holds a state of resource %d, which does not exist", at(slot)), func() {
				check(c.b.Merge(key, appendPageOps(nil, []pageOp{{uint16(slot), 0}}), nil))
			})
		}
	}
	c.col.load(n, words)
}

// stateLost reports whether the state of id did not decode.
func (c *checker) stateLost(id ID) bool {
	return c.blank[uint32(id/pageSize)] || c.stateless.has(id)
}

// checkResources goes through everything that is in the order of ids at once.
func (c *checker) checkResources() error {
	const name, rows, postings, markers, events, timers = 0, 1, 2, 3, 4, 5
	var all [6]*stream
	var err error
	open := func(i int, s *stream, e error) { all[i], err = s, errors.Join(err, e) }
	s, e := c.stream(spaceName, 1+idSize, 0)
	open(name, s, e)
	s, e = c.stream(spaceRow, 1+idSize, 0)
	open(rows, s, e)
	s, e = c.stream(spacePosting, 1+idSize, 1+idSize+3)
	open(postings, s, e)
	s, e = c.stream(spaceMarker, 1+2*idSize, 0)
	open(markers, s, e)
	s, e = sorted(c.events)
	open(events, s, e)
	s, e = sorted(c.timers)
	open(timers, s, e)
	for err == nil {
		id := noID
		for _, s := range all {
			id = min(id, s.id)
		}
		if id == noID {
			break
		}
		e := &entry{id: id, row: &row{id: id}}
		for ; all[name].id == id; all[name].advance() {
		}
		for ; all[rows].id == id; all[rows].advance() {
			c.takeRow(e, all[rows])
		}
		for ; all[postings].id == id; all[postings].advance() {
			c.takePosting(e, all[postings])
		}
		for ; all[markers].id == id; all[markers].advance() {
			c.takeMarker(e, all[markers])
		}
		for ; all[events].id == id; all[events].advance() {
			e.takeEvent(all[events].key)
		}
		for ; all[timers].id == id; all[timers].advance() {
			e.takeTimer(all[timers].key, all[timers].value)
		}
		c.checkEntry(e)
		err = errors.Join(c.flushLarge(), c.stopped)
	}
	for _, s := range all {
		if s != nil {
			err = errors.Join(err, s.end())
		}
	}
	if err != nil {
		return err
	}
	return c.checkLost()
}

func (c *checker) takeRow(e *entry, s *stream) {
	e.stored = true
	c.used.add(e.id)
	r, err := decodeRow(e.id, s.value)
	if err == nil && !bytes.Equal(r.append(nil), s.value) {
		err = errors.New("it would be written otherwise")
	}
	if err != nil {
		e.unread = true
		c.unread.add(e.id)
		c.found(s.key, e.id, fmt.Sprintf("the row does not decode: %v", err), nil)
		return
	}
	e.row = r
}

// dependents are those of a posting block; hot is whether it is a bucket.
func (c *checker) dependents(k, v []byte) (ids []uint64, hot bool, err error) {
	if len(k) == 1+idSize {
		ids, err = decodePosting(v, nil)
		return ids, false, err
	}
	if len(k) != 1+idSize+3 {
		return nil, false, malformed("key", "no posting block")
	}
	ids, err = decodeBucket(v, bucketOf(k[:9]), nil)
	return ids, true, err
}

func (c *checker) takePosting(e *entry, s *stream) {
	c.used.add(e.id)
	ids, hot, err := c.dependents(s.key, s.value)
	if err != nil {
		key := bytes.Clone(s.key)
		c.rebuilt[string(key)] = true
		c.found(key, e.id, fmt.Sprintf("its dependents do not decode: %v", err), func() { c.set(key, nil) })
		if hot {
			e.hot++ // they were many
		}
		return
	}
	sum := &e.coldSum
	if hot {
		sum = &e.hotSum
		e.hot += len(ids)
	} else {
		e.cold = ids
	}
	for _, src := range ids {
		sum.add(uint64(e.id), src)
	}
}

// takeMarker: a marker is on who is really behind. While a fan-out of it is on its
// way it may have been caught up with.
func (c *checker) takeMarker(e *entry, s *stream) {
	src := parseID(s.key[1+idSize:])
	c.markers.copied.add(uint64(e.id), uint64(src))
	if e.unread || len(c.jobs[e.id]) > 0 || matchMarker(e.row, string(s.value)) != matchGo {
		return
	}
	key := bytes.Clone(s.key)
	c.found(key, src, "it is said to be ahead of "+c.label(e.id)+", which is what it saw", func() { c.delete(key) })
}

func (e *entry) takeEvent(key []byte) {
	seq := parseSeq(key[idSize+1:])
	if Kind(key[idSize]) == KindRefresh {
		e.told = seq
	} else {
		e.changed = seq
	}
}

func (e *entry) takeTimer(key, value []byte) {
	m := entryTimer{timerKind(key[idSize]), parseSeq(key[idSize+1:]), parseSeq(key[idSize+9:]), parseSeq(value)}
	if e.timers = append(e.timers, m); m.kind == timerNotice {
		e.noticeDue = max(e.noticeDue, int64(m.due))
	}
}

// checkEntry judges a resource, and writes its row if it was repaired.
func (c *checker) checkEntry(e *entry) {
	if !c.named.has(e.id) {
		c.checkStranger(e)
		return
	}
	c.checkDependents(e)
	if e.unread {
		return
	}
	c.checkEdges(e)
	c.checkPositions(e)
	c.checkState(e)
	c.checkClocks(e)
	for _, x := range e.row.ahead {
		c.markers.said.add(uint64(x), uint64(e.id))
	}
	for _, name := range distinct(e.row.buckets) {
		c.groups.said.addText([]byte(name), uint64(e.id))
	}
	if e.edited && c.b != nil {
		c.set(idKey(spaceRow, e.id), e.row.append(nil))
	}
}

// checkStranger judges what there is of a resource that has no name. Who depends
// on it and whom it depends on find that out for themselves.
func (c *checker) checkStranger(e *entry) {
	c.edges.copied.join(e.coldSum)
	if !e.stored {
		return
	}
	key := idKey(spaceRow, e.id)
	if c.free.has(e.id) {
		c.found(key, 0, "the id is free, and there is a row of it", func() { c.delete(key) })
		return
	}
	c.unread.add(e.id)
	c.found(key, 0, "there is a row of a resource that has no name", nil)
}

// checkDependents: dependents are in one block up to a number and in buckets
// beyond it, where the flag says, and somebody depends on it iff that is said.
func (c *checker) checkDependents(e *entry) {
	w, key := c.col.get(e.id), idKey(spacePosting, e.id)
	hot := w.is(wordHot)
	if hot && e.hot == 0 && len(e.cold) > 0 || !hot && e.hot > 0 && len(e.cold) == 0 {
		hot = !hot
		c.flag(e, wordHot, hot, "its dependents are in "+placeOf(hot)+", and its state says otherwise")
	}
	switch {
	case hot && len(e.cold) > 0:
		c.found(key, e.id, "its dependents are in buckets, and there is one block as well", func() { c.delete(key) })
	case !hot && e.hot > 0:
		c.found(key, e.id, "its dependents are in one block, and there are buckets as well", func() {
			check(c.b.DeleteRange(bucketKey(e.id, 0), after(key), nil))
		})
	case !hot && len(e.cold) > hotAt:
		c.found(key, e.id, fmt.Sprintf("%d dependents are in one block", len(e.cold)), func() { c.split(e.id, e.cold) })
	}
	if hot {
		c.edges.copied.join(e.hotSum)
	} else {
		c.edges.copied.join(e.coldSum)
	}
	if some := hot || len(e.cold) > 0; some != w.is(wordDependents) {
		wrong := "nobody depends on it, and its state says otherwise"
		if some {
			wrong = "others depend on it, and its state says otherwise"
		}
		c.flag(e, wordDependents, some, wrong)
	}
}

func placeOf(hot bool) string {
	if hot {
		return "buckets"
	}
	return "one block"
}

// flag notes that a flag of e's state is wrong. What follows is judged with the
// right one.
func (c *checker) flag(e *entry, f word, on bool, wrong string) {
	c.wrongState(e, wrong, func() {})
	c.col.put(e.id, c.col.get(e.id).with(f, on))
}

// wrongState notes that e's state is wrong. One that did not decode is only
// made right.
func (c *checker) wrongState(e *entry, wrong string, fix func()) {
	c.note(c.stateLost(e.id), pageKey(uint32(e.id/pageSize)), e.id, wrong, fix)
}

// checkEdges: an artefact depends on who exists, and not on itself; and it is ahead
// of some of these.
func (c *checker) checkEdges(e *entry) {
	key := idKey(spaceRow, e.id)
	unknown := func(x ID) bool { return !c.named.has(x) }
	itself := func(x ID) bool { return x == e.id }
	deps := e.row.depIDs()
	if i := slices.IndexFunc(deps, unknown); i >= 0 {
		c.found(key, e.id, fmt.Sprintf("it depends on resource %d, which does not exist", deps[i]), func() { c.unlink(e, unknown, e.row.is(rowKnown)) })
	}
	if slices.ContainsFunc(deps, itself) {
		c.found(key, e.id, "it depends on itself", func() { c.unlink(e, itself, false) })
	}
	astray := func(x ID) bool {
		_, ok := slices.BinarySearch(deps, x)
		return !ok
	}
	if slices.ContainsFunc(e.row.ahead, astray) {
		c.found(key, e.id, "it is ahead of what it does not depend on",
			func() { e.edit(func(r *row) { r.ahead = slices.DeleteFunc(r.ahead, astray) }) })
	}
	e.row.eachDep(func(x ID) bool {
		c.edges.said.add(uint64(x), uint64(e.id))
		c.rep.Edges++
		return true
	})
}

// checkPositions: a row knows of no position that was not given, and its last
// change is the last one that the journal has of it.
func (c *checker) checkPositions(e *entry) {
	r, key := e.row, idKey(spaceRow, e.id)
	if beyond := max(r.changed, r.updated); beyond > c.newest {
		c.found(key, e.id, fmt.Sprintf("it knows of position %d, and the journal ends at %d", beyond, c.newest), func() {
			c.newEpoch()
			e.edit(func(r *row) {
				if r.updated = min(r.updated, c.newest); r.changed > c.newest {
					r.changed = max(e.changed, c.oldest)
				}
			})
		})
		return
	}
	switch {
	case e.changed > r.changed:
		c.found(key, e.id, fmt.Sprintf("it changed last at position %d, and the journal has a change of it at %d", r.changed, e.changed),
			func() { e.edit(func(r *row) { r.changed = e.changed }) })
	case e.changed < r.changed && r.changed > c.oldest && !c.torn:
		c.found(key, e.id, fmt.Sprintf("it changed last at position %d, where the journal has no change of it", r.changed), nil)
	}
}

// checkState: the state is one that its row, dependencies, timers and what was
// told allow.
func (c *checker) checkState(e *entry) {
	if e.settled {
		return
	}
	w, r := c.col.get(e.id), e.row
	settle := func() { c.settle(e) }
	switch st := w.state(); {
	case st == Stub && r.is(rowKnown):
		c.wrongState(e, "it is a stub, and its content is known", settle)
	case st != Stub && !r.is(rowKnown):
		c.wrongState(e, fmt.Sprintf("it is %s, and its content is not known", st), settle)
	case st <= Clean && w.is(wordStale):
		c.wrongState(e, fmt.Sprintf("it is %s and stale", st), settle)
	case st != Ready && w.is(wordFailed|wordWaiting), st < Dirty && w.count() > 0, w.is(wordFailed) && w.is(wordWaiting):
		c.wrongState(e, fmt.Sprintf("it is %s, with what does not belong to that", st), settle)
	case st == Dirty && !c.waits(e):
		c.wrongState(e, "it waits, and there is nobody to wait for", settle)
	case st == Ready && w.is(wordWaiting) && (!e.hasTimer(timerNotice, 0, 0) || e.noticeDue < r.noticeDue):
		c.wrongState(e, "it is ready and to be told later, and there is no timer", settle)
	case st == Ready && !w.is(wordWaiting|wordFailed) && r.updated >= c.oldest && e.told <= r.updated:
		c.wrongState(e, "it is ready, and nobody was told", settle)
	case st == Pending && !e.hasTimer(timerLease, r.lease, r.claim):
		c.wrongState(e, "a worker holds it, and there is no timer", settle)
	case st == Pending && r.lease == 0:
		c.wrongState(e, "a worker holds it, without a lease", settle)
	case st == Stub && (len(r.ahead) > 0 || r.lease != 0 || r.expires != 0 || r.noticeDue != 0):
		c.found(idKey(spaceRow, e.id), e.id, "it is a stub, and ahead of something or yet to be told of", func() {
			e.edit(func(r *row) { r.ahead, r.lease, r.expires, r.noticeDue = nil, 0, 0, 0 })
		})
	}
	if w.is(wordDamped) && r.interval == 0 {
		c.flag(e, wordDamped, false, "it is damped, and has no interval")
	}
}

// waits reports whether e waits for somebody, or for a fan-out that reaches it.
func (c *checker) waits(e *entry) (yes bool) {
	e.row.eachDep(func(x ID) bool {
		yes = c.col.get(x).unsettled() || len(c.jobs[x]) > 0 || c.stateLost(x)
		return !yes
	})
	return yes
}

// checkClocks: what expires and what ticks has a timer.
func (c *checker) checkClocks(e *entry) {
	r, key := e.row, idKey(spaceRow, e.id)
	if r.expires != 0 && !e.hasTimer(timerExpire, r.expires, 0) {
		c.found(key, e.id, "it expires, and there is no timer",
			func() { c.setTimer(r.expires, timer{kind: timerExpire, chunk: chunk{ids: []ID{e.id}}}) })
	}
	ticks := e.hasTimer(timerTick, 0, 0)
	switch {
	case r.is(rowArmed) && !ticks:
		c.found(key, e.id, "it ticks, and there is no timer", func() {
			uri, _, err := c.get(idKey(spaceName, e.id))
			check(err)
			period, ok := parsePeriod(strings.TrimPrefix(string(uri), "ticker:"))
			if !ok || r.typ != typeTicker {
				e.edit(func(r *row) { r.set(rowArmed, false) })
				return
			}
			c.setTimer(c.now+period.Microseconds(), timer{kind: timerTick, chunk: chunk{ids: []ID{e.id}}})
		})
	case ticks && !r.is(rowArmed):
		c.found(key, e.id, "there is a timer of a tick, and it does not tick", func() {
			for _, m := range e.timers {
				if m.kind == timerTick {
					c.delete(timerKey(int64(m.due), m.n))
				}
			}
		})
	}
}

// checkLost looks for ids that are neither somebody's nor free.
func (c *checker) checkLost() error {
	for id := ID(1); id < c.nextID; id++ {
		if c.named.has(id) || c.free.has(id) {
			continue
		}
		key := idKey(spaceFree, id)
		if c.used.has(id) {
			if !c.unread.has(id) {
				c.found(idKey(spaceName, id), 0, "it is named, and has no name", nil)
			}
			continue
		}
		c.found(key, 0, "the id is nobody's, and not free", func() { c.set(key, nil) })
		if err := c.flushLarge(); err != nil {
			return err
		}
	}
	return nil
}

// checkGroups reads who carries which grouping key.
func (c *checker) checkGroups() error {
	return c.scan([]byte{spaceBucket}, func(k, v []byte) error {
		name, ids, err := groupOf(k, v)
		key := bytes.Clone(k)
		if name == "" {
			c.badKey(k)
			return nil
		}
		if err != nil {
			c.rebuilt[string(key)] = true
			c.found(key, 0, fmt.Sprintf("who carries the grouping key does not decode: %v", err), func() { c.set(key, nil) })
		}
		for _, id := range ids {
			c.groups.copied.addText([]byte(name), id)
		}
		return c.flushLarge()
	})
}

// groupOf takes apart the block of a grouping key; name is "" if it is none.
func groupOf(k, v []byte) (name string, ids []uint64, err error) {
	n := len(k) - 4
	if n < 2 || k[n] != 0 {
		return "", nil, malformed("key", "no grouping key")
	}
	ids, err = decodeBucket(v, uint32(k[n+1])<<16|uint32(k[n+2])<<8|uint32(k[n+3]), nil)
	return string(k[1:n]), ids, err
}

// scanRows calls f with every row that decodes.
func (c *checker) scanRows(f func(r *row) error) error {
	return c.scan([]byte{spaceRow}, func(k, v []byte) error {
		if len(k) != 1+idSize {
			return nil
		}
		id := parseID(k[1:])
		if r, err := decodeRow(id, v); err == nil && !c.unread.has(id) && c.named.has(id) {
			return f(r)
		}
		return nil
	})
}

// label names a resource in a finding.
func (c *checker) label(id ID) string {
	if v, ok, err := c.get(idKey(spaceName, id)); ok && err == nil {
		return string(v)
	}
	return fmt.Sprintf("resource %d", id)
}

// note is found, unless what is wrong follows from what was found already: then it is
// only made good.
func (c *checker) note(follows bool, key []byte, id ID, wrong string, fix func()) {
	if !follows {
		c.found(key, id, wrong, fix)
	} else if c.b != nil {
		fix()
	}
}

// distinct are the texts of a list, each once.
func distinct(list []string) []string {
	if len(list) < 2 {
		return list
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

func without(ids []ID, x ID) []ID {
	return slices.DeleteFunc(slices.Clone(ids), func(id ID) bool { return id == x })
}
