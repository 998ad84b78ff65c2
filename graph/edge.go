package graph

import (
	"slices"
	"strings"
)

const (
	// hotAt is the number of dependents beyond which a posting list is split
	// into buckets of 65,536 ids: below, one block is smaller; above, one write
	// would rewrite too much.
	hotAt = 2048
	// bucketShift: a bucket holds the sources id>>16.
	bucketShift = 16
)

// replaceEdges makes the sorted distinct ids what d is made from. It returns
// those it lost.
func (t *txn) replaceEdges(d ID, ids []ID) {
	r := t.row(d)
	old := r.depIDs()
	if slices.Equal(old, ids) {
		return
	}
	for i, j := 0, 0; i < len(old) || j < len(ids); {
		switch {
		case j == len(ids) || i < len(old) && old[i] < ids[j]:
			t.dropEdge(d, old[i])
			i++
		case i == len(old) || old[i] > ids[j]:
			t.addEdge(d, ids[j])
			j++
		default:
			i, j = i+1, j+1
		}
	}
	t.bill(r.owner, 0, len(ids)-len(old))
	t.edit(d).setDeps(ids)
}

func (t *txn) posting(src, dst ID, add bool) {
	key, id := idKey(spacePosting, dst), uint64(src)
	if t.word(dst).is(wordHot) {
		key, id = bucketKey(dst, uint32(src>>bucketShift)), uint64(src&(1<<bucketShift-1))
	}
	t.buf = appendPostingOps(t.buf[:0], []postingOp{{id: id, add: add}})
	check(t.b.Merge(key, t.buf, nil))
	if len(t.s.jobs.byResource) > 0 {
		t.s.jobs.edgesMoved(dst)
	}
}

func (t *txn) addEdge(src, dst ID) {
	w := t.word(dst)
	if !w.is(wordDependents) {
		t.put(dst, w.with(wordDependents, true))
		t.s.degrees.Add(dst, 1)
		t.posting(src, dst, true)
		if t.row(dst).typ == typeTicker {
			t.armTicker(dst)
		}
		t.firstDependent(dst)
		return
	}
	if w.is(wordHot) {
		t.posting(src, dst, true)
		return
	}
	n := t.degree(dst) + 1
	t.posting(src, dst, true)
	t.s.degrees.Add(dst, n)
	if n > hotAt {
		t.promote(dst)
	}
}

func (t *txn) dropEdge(src, dst ID) {
	w := t.word(dst)
	if w.is(wordHot) {
		t.posting(src, dst, false)
		t.orphaned(dst) // whether it is, the sweep finds out: counting a hot list is not cheap
		return
	}
	n := t.degree(dst) - 1
	t.posting(src, dst, false)
	t.s.degrees.Add(dst, n)
	if n == 0 {
		t.put(dst, w.with(wordDependents, false))
		t.lastDependent(dst)
		t.orphaned(dst)
	}
}

// degree is the number of dependents of a cold resource.
func (t *txn) degree(dst ID) int {
	if n, ok := t.s.degrees.Get(dst); ok {
		return n
	}
	n := 0
	if v, ok := t.get(idKey(spacePosting, dst)); ok {
		var err error
		n, err = postingCount(v)
		check(err)
	}
	t.s.degrees.Add(dst, n)
	return n
}

// promote splits a cold posting list into buckets.
func (t *txn) promote(dst ID) {
	ids := t.coldDependents(dst)
	for len(ids) > 0 {
		bucket := uint32(ids[0] >> bucketShift)
		var lows []uint16
		for len(ids) > 0 && uint32(ids[0]>>bucketShift) == bucket {
			lows, ids = append(lows, uint16(ids[0])), ids[1:]
		}
		t.buf = appendBucket(t.buf[:0], lows)
		check(t.b.Set(bucketKey(dst, bucket), t.buf, nil))
	}
	check(t.b.Delete(idKey(spacePosting, dst), nil))
	t.put(dst, t.word(dst).with(wordHot, true))
	t.s.degrees.Remove(dst)
	t.s.jobs.edgesMoved(dst)
}

func (t *txn) coldDependents(dst ID) []uint64 {
	v, ok := t.get(idKey(spacePosting, dst))
	if !ok {
		return nil
	}
	ids, err := decodePosting(v, nil)
	check(err)
	return ids
}

// setBuckets replaces the grouping keys of r and keeps their blocks true.
func (t *txn) setBuckets(r *row, names []string) {
	group := func(name string, add bool) {
		t.buf = appendPostingOps(t.buf[:0], []postingOp{{id: uint64(r.id & (1<<bucketShift - 1)), add: add}})
		check(t.b.Merge(groupKey(name, uint32(r.id>>bucketShift)), t.buf, nil))
	}
	for _, name := range r.buckets {
		if !slices.Contains(names, name) {
			group(name, false)
		}
	}
	for _, name := range names {
		if !slices.Contains(r.buckets, name) {
			group(name, true)
		}
	}
	r.buckets = slices.Clone(names)
}

// mark makes d ahead of x: it saw what the store has yet to hear of.
func (t *txn) mark(d, x ID, seen string) {
	check(t.b.Set(markerKey(x, d), []byte(seen), nil))
	r := t.edit(d)
	r.ahead = append(r.ahead, x)
	t.s.nmarkers++
}

// unmark drops all markers that d holds.
func (t *txn) unmark(d ID) {
	if len(t.row(d).ahead) == 0 {
		return
	}
	r := t.edit(d)
	for _, x := range r.ahead {
		check(t.b.Delete(markerKey(x, d), nil))
		t.s.nmarkers--
	}
	r.ahead = nil
}

// dropMarker drops the one that d holds on x.
func (t *txn) dropMarker(d, x ID) {
	check(t.b.Delete(markerKey(x, d), nil))
	t.s.nmarkers--
	r := t.edit(d)
	r.ahead = slices.DeleteFunc(slices.Clone(r.ahead), func(id ID) bool { return id == x })
}

// markersOn returns what dependents in [from, to] that are ahead of x saw.
func (t *txn) markersOn(x, from, to ID) map[ID]string {
	if t.s.nmarkers == 0 {
		return nil
	}
	var m map[ID]string
	it := t.iter(markerKey(x, from), after(markerKey(x, to)))
	for it.First(); it.Valid(); it.Next() {
		if m == nil {
			m = map[ID]string{}
		}
		m[parseID(it.Key()[1+idSize:])] = string(it.Value())
	}
	check(it.Error())
	check(it.Close())
	return m
}

// matched reports whether what d saw keeps it from becoming stale by x as it is.
func (t *txn) matched(x *row, d ID, seen string) bool {
	switch matchMarker(x, seen) {
	case matchKeep:
		return true
	case matchGo:
		t.dropMarker(d, x.id)
		return true
	}
	t.dropMarker(d, x.id)
	return false
}

// baseVersion yields the version of the resource that uri is an aspect of.
func (t *txn) baseVersion(uri string) string {
	base, _, ok := strings.Cut(uri, "#")
	if !ok {
		return ""
	}
	id, ok := t.find(base)
	if !ok {
		return ""
	}
	return t.row(id).version
}
