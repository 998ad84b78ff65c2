package graph

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// outcome is what became of one update.
type outcome uint8

const (
	outcomeSame outcome = iota
	outcomeChanged
	outcomeDuplicate
	outcomeOutdated
)

// apply is one update of a request.
func (t *txn) apply(p *prepared) outcome {
	if p.ID != "" && t.duplicate(p.seen) {
		return outcomeDuplicate
	}
	if p.id == 0 {
		p.id = t.intern(p.URI)
	}
	if p.at == 0 {
		p.at = t.now
	}
	if t.repetition(p) {
		return outcomeSame
	}
	if !p.found && len(p.edges) > 0 {
		check(t.s.lookupEdges(p))
	}
	o := t.applyOne(p)
	if o == outcomeChanged && len(p.Aspects) > 0 && p.Action == ActionUpdate {
		t.touchAspects(p)
	}
	return o
}

// repetition applies an update that says exactly what the last one said and
// proves no less, of a clean resource that waits for nothing, while no job runs:
// then nothing can have become newer, and only the time of its making moves.
func (t *txn) repetition(p *prepared) bool {
	if p.digest == 0 || p.Action != ActionUpdate || p.Hash == "" || len(p.Aspects) > 0 || t.s.jobs.any() {
		return false
	}
	r, w := t.row(p.id), t.word(p.id)
	same := r.digest == p.digest && r.hash == p.Hash && r.version == p.Version && r.is(rowKnown) && w.is(wordUnproven) != p.proven
	if !same || r.is(rowReorder) || len(r.ahead) > 0 || w.state() != Clean || !t.provesNoLess(p, r) || t.waits(p.id) {
		return false
	}
	r = t.edit(p.id)
	r.at, r.updated = p.at, t.s.seq
	t.own(r, t.by)
	return true
}

// provesNoLess reports whether what p knows of when its making began is at least
// as late as what was known of the making before: it may come late itself.
func (t *txn) provesNoLess(p *prepared, r *row) bool {
	if token, ok := t.token(p); ok {
		return token >= r.updated && p.at >= r.at
	}
	return !r.is(rowToken) && p.at >= r.at
}

// token returns the position that p's producer held when making began, if it is
// one of this store.
func (t *txn) token(p *prepared) (uint64, bool) {
	return p.Token.Seq, !p.Token.IsZero() && p.Token.Epoch == t.s.epoch && p.Token.Seq <= t.s.seq
}

// applyOne is the row "update", "delete" or "purge" of the state machine.
func (t *txn) applyOne(p *prepared) outcome {
	r := t.row(p.id)
	artefact := len(p.edges) > 0 || p.Deps == nil && r.ndeps > 0
	overlap, outdated := t.order(p, r, artefact)
	switch {
	case outdated:
		return outcomeOutdated
	case p.Action != ActionUpdate:
		if r.is(rowHeard) && !r.is(rowKnown) && (p.Action == ActionPurge || r.version == versionNone) {
			return outcomeSame // it is gone already
		}
		reason := ReasonEdit
		if p.Action == ActionPurge {
			reason = ReasonPurge
		}
		t.retire(p.id, p.Action, retirement{reason: reason, at: p.at, uid: p.causeID()})
		return outcomeChanged
	case overlap && r.is(rowKnown):
		t.reorder(p)
		return outcomeChanged
	}
	return t.remake(p, artefact, overlap)
}

func (p *prepared) causeID() string { return cmp.Or(p.Cause, p.ID) }

// order compares an update with what was accepted before: outdated ones are
// kept out; overlap means an artefact's making began before that of the one the
// store has, so that nobody knows which of the two the cache holds.
func (t *txn) order(p *prepared, r *row, artefact bool) (overlap, outdated bool) {
	if !r.is(rowHeard) {
		return false, false
	}
	early := p.at < r.at || p.at == r.at && r.is(rowReorder)
	if p.Action != ActionUpdate {
		return false, early
	}
	saw, ok1 := number(p.Version)
	has, ok2 := number(r.version)
	switch {
	case r.purged():
		// The emptied cache may have taken an older revision's rendering: what it
		// was made from tells.
	case ok1 && ok2 && saw != has:
		return false, saw < has
	case ok1 && ok2:
		return early && artefact, false
	}
	return early && artefact, early && !artefact
}

// reorder does not apply a rendering that overlapped, but forgets the hash: the
// artefact is stale until one with a later At comes.
func (t *txn) reorder(p *prepared) {
	r := t.edit(p.id)
	r.set(rowReorder, true)
	r.remember(r.hash)
	r.hash, r.digest = "", 0
	t.put(p.id, t.word(p.id).with(wordStale, true))
	if t.waits(p.id) {
		t.setState(p.id, Dirty)
		return
	}
	t.ready(p.id, ask{reason: ReasonReorder, born: true, cause: cause{id: p.id, seq: r.changed, uid: p.causeID(), at: t.now}})
}

// remake applies an update that was not refused: content, edges, then whether
// what it was made from is still what there is.
func (t *txn) remake(p *prepared, artefact, overlap bool) outcome {
	t.unmark(p.id)
	r := t.edit(p.id)
	confirmed := r.confirms(p.Version, p.Hash, artefact)
	before, wasKnown := r.version, r.is(rowKnown)
	changed := r.setContent(p.Version, p.Hash, artefact)
	if p.at > r.at || !artefact {
		r.at = p.at
	}
	r.set(rowHeard|rowKnown, true)
	r.set(rowMissing|rowDiffering|rowReorder, false)
	r.set(rowArtefact, artefact)
	r.presumed, r.noticeDue, r.lease, r.failures = "", 0, 0, 0
	t.own(r, t.by)
	t.setFacts(r, p)
	c := cause{id: p.id, uid: p.causeID(), at: t.now}
	if changed {
		change := ChangeUpdated
		if !wasKnown {
			change = ChangeCreated
		}
		t.announce(r, c, change, ReasonEdit, artefact)
		c.seq = r.changed
	}
	r.updated = t.s.seq
	verdict := t.setEdges(r, p)
	t.enter(p.id, verdict, overlap, p.proven, c)
	switch {
	case confirmed:
	case changed:
		t.startJob(p.id, jobChange, c)
	case before != r.version:
		t.resolveMarkers(r, c)
	}
	if changed {
		return outcomeChanged
	}
	return outcomeSame
}

// setFacts takes over what an update says beside content and edges.
func (t *txn) setFacts(r *row, p *prepared) {
	r.digest = p.digest
	if p.Type != "" && p.Type != r.typ {
		r.typ = p.Type
		t.relabelled = append(t.relabelled, r.id)
	}
	if p.Buckets != nil && !slices.Equal(p.Buckets, r.buckets) {
		t.setBuckets(r, p.Buckets)
		t.relabelled = append(t.relabelled, r.id)
	}
	r.expires = 0
	if !p.Expires.IsZero() {
		r.expires = p.Expires.UnixMicro()
		t.later(r.expires, timer{kind: timerExpire, chunk: chunk{ids: []ID{r.id}}})
	}
}

// announce writes the notice of a change and dates it: a primary changed when
// its producer says, an artefact when its update arrived.
func (t *txn) announce(r *row, c cause, change Change, reason Reason, artefact bool) {
	r.changedAt = r.at
	if artefact {
		r.changedAt = max(r.at, t.now)
	}
	if artefact {
		t.flap(r)
	}
	r.changed = t.changed(r.id, chunk{reason: reason, change: change, version: r.version, hash: r.hash,
		cause: c.id, causeID: c.uid, causeAt: c.at})
}

// finding sums up the comparison of a resource with its dependencies.
type finding struct {
	stale bool
	rule  Rule
	due   int64 // stale by time only: from when on a rendering is provably newer
}

// setEdges replaces the edges and judges each dependency.
func (t *txn) setEdges(r *row, p *prepared) finding {
	edges := p.edges
	if p.Deps != nil {
		for i := range edges {
			if edges[i].id == 0 {
				edges[i].id = t.intern(edges[i].uri)
			}
		}
		slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.id, b.id) })
		ids := make([]ID, len(edges))
		for i, e := range edges {
			ids[i] = e.id
		}
		t.replaceEdges(r.id, ids)
	} else {
		edges = nil
		r.eachDep(func(x ID) bool { edges = append(edges, edge{id: x}); return true })
	}
	e := evidence{at: p.at, born: r.born}
	e.token, e.hasToken = t.token(p)
	r.set(rowToken, e.hasToken)
	f, byTimeOnly := finding{}, true
	for i := range edges {
		v, rule := t.judgeEdge(r.id, &edges[i], e)
		if v != newer {
			continue
		}
		f.stale, f.rule = true, rule
		if rule == RuleTime {
			f.due = max(f.due, t.row(edges[i].id).changedAt+deferral.Microseconds())
		} else {
			byTimeOnly = false
		}
	}
	if !byTimeOnly {
		f.due = 0
	}
	return f
}

// judgeEdge compares d with one dependency, as its update says.
func (t *txn) judgeEdge(d ID, g *edge, e evidence) (verdict, Rule) {
	t.s.jobs.skip(g.id, d)
	x := t.row(g.id)
	if !x.is(rowHeard) {
		if x.presume(g.seen) {
			t.edit(g.id)
		}
		return notNewer, RulePresumed
	}
	e.seen = g.seen
	v, rule := judge(x, e, func() string { return t.baseVersion(t.name(g)) })
	if v == ahead {
		t.mark(d, g.id, g.seen)
	}
	return v, rule
}

func (t *txn) name(g *edge) string {
	if g.uri == "" {
		g.uri = t.uri(g.id)
	}
	return g.uri
}

// enter moves a resource that was just made to the state it belongs in.
func (t *txn) enter(d ID, f finding, overlap, proven bool, c cause) {
	stale := f.stale || overlap
	t.put(d, t.word(d).with(wordStale, stale).with(wordUnproven, !proven))
	if !stale {
		t.edit(d).born = 0
	}
	switch {
	case t.waits(d):
		t.setState(d, Dirty)
	case overlap:
		t.ready(d, ask{reason: ReasonReorder, born: true, cause: c})
	case stale:
		t.ready(d, ask{reason: ReasonDependency, rule: f.rule, due: f.due, born: true, cause: c})
	default:
		t.setState(d, Clean)
	}
}

// resolveMarkers lets those that are ahead of x look at its new version,
// although its content is the same.
func (t *txn) resolveMarkers(x *row, c cause) {
	on := t.markersOn(x.id, 0, 1<<40-1)
	ids := make([]ID, 0, len(on))
	for d := range on {
		ids = append(ids, d)
	}
	slices.Sort(ids)
	for _, d := range ids {
		t.changeAt(x, d, on[d], true, Prompt, c)
	}
}

// changeAt is a change of x seen by one dependent, which holds a marker on x if
// marker is not "" or marked is true.
func (t *txn) changeAt(x *row, d ID, marker string, marked bool, lane Lane, c cause) {
	w := t.word(d)
	if w.state() == Stub {
		return
	}
	if marked && t.matched(x, d, marker) {
		t.settle(d, lane, c)
		return
	}
	t.put(d, w.with(wordStale, true))
	if w.state() != Clean && w.state() != Dirty {
		return // one notice is out already
	}
	if t.waits(d) {
		t.setState(d, Dirty)
		return
	}
	var due int64
	if w.is(wordUnproven) {
		due = x.changedAt + deferral.Microseconds()
	}
	t.ready(d, ask{reason: ReasonDependency, rule: RuleChange, lane: lane, cause: c, due: due})
}

// retirement is why and when a resource goes.
type retirement struct {
	reason Reason
	at     int64
	uid    string
}

// retire makes a resource a stub. A delete forgets its content, which becomes
// previous; a purge keeps it, to recognise it when it is made again.
func (t *txn) retire(id ID, a Action, why retirement) {
	t.unmark(id)
	r := t.edit(id)
	confirmed := a == ActionDelete && r.confirms(versionNone, "", false)
	if a == ActionDelete {
		r.remember(r.version)
		r.remember(r.hash)
		r.version, r.hash, r.aliases = versionNone, "", nil
		r.set(rowAmbiguous, false)
	}
	r.set(rowKnown|rowMissing|rowDiffering|rowReorder, false)
	r.set(rowHeard, true)
	r.presumed, r.digest, r.born, r.noticeDue, r.expires, r.lease, r.failures = "", 0, 0, 0, 0, 0, 0
	r.at = max(r.at, why.at)
	c := cause{id: id, uid: why.uid, at: t.now}
	arrived := r.changedAt
	t.announce(r, c, ChangeDeleted, why.reason, false)
	if r.is(rowArtefact) {
		// Its last change counts from its arrival, which is later than what the
		// cache's clock says of an end that happened after that making began.
		r.changedAt = max(r.changedAt, arrived)
	}
	c.seq = r.changed
	t.replaceEdges(id, nil)
	t.own(r, nil)
	t.setState(id, Stub)
	t.put(id, t.word(id).with(wordUnproven|wordDamped, false))
	if !t.word(id).is(wordDependents) {
		t.orphaned(id)
	}
	if !confirmed {
		t.startJob(id, jobChange, c)
	}
}

// digestOf keeps a hash of arbitrary facts for jitter that is the same in every run.
func digestOf(a, b uint64) uint64 {
	var buf [16]byte
	binary.LittleEndian.PutUint64(buf[:], a)
	binary.LittleEndian.PutUint64(buf[8:], b)
	return xxhash.Sum64(buf[:])
}
