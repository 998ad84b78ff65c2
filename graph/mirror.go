package graph

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Level is what a resource is now, as whoever speaks for it tells those who want to
// hear of it. Levels that follow each other fast are merged: the newest counts.
type Level struct {
	URI  string
	Type string
	// Sver counts what is told, Cver the changes of content, both within an epoch of
	// the teller's store: a level is news if its Sver is higher, and a change if its
	// Cver is another, even if version and hash are what they were.
	Sver, Cver uint64
	// Heard is false if the teller never heard of it: then nothing but URI and Sver counts.
	Heard bool
	// Known is false if it was deleted (then Version is "0") or purged.
	Known     bool
	Version   string // of a primary; an artefact is known by its hash
	Hash      string
	Aliases   []string // other versions with this very hash
	Ambiguous bool     // Version was seen with two hashes
	Unsettled bool     // it may change soon: whoever depends on it waits
	ChangedAt time.Time
	// Now is the teller's clock when it told. How long ago a change was is independent
	// of whose clock is right.
	Now time.Time
}

// Heard counts what became of levels.
type Heard struct {
	Changed  int // new content
	Same     int // nothing new but what is unsettled, or a new version of the same content
	Old      int // not newer than what there is
	Unwanted int // of what this hub does not want to hear of, or the peer does not speak for
}

// EpochError reports levels of another epoch than the session's.
type EpochError struct{ Has, Got Epoch }

func (e *EpochError) Error() string {
	return fmt.Sprintf("the levels are of epoch %s, and the session is in %s", e.Got, e.Has)
}

// mirror is the level that this hub has of a peer's resource.
type mirror struct {
	epoch      Epoch // 0 before anything was heard, or if the numbers turned out to be wrong
	sver, cver uint64
	changedAt  int64 // as the peer said, µs
}

func (m *mirror) append(b []byte) []byte {
	for _, v := range []uint64{uint64(m.epoch), m.sver, m.cver, uint64(m.changedAt)} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeMirror(b []byte) (m mirror, err error) {
	d := decoder{b: b}
	m = mirror{epoch: Epoch(d.uvarint()), sver: d.uvarint(), cver: d.uvarint(), changedAt: int64(d.uvarint())}
	if d.bad || len(d.b) > 0 {
		return m, errors.New("mirror is corrupt")
	}
	return m, nil
}

// Fault reports what is wrong with a level: the field, as its JSON names it, and why; "" if
// nothing is. Schemes are those a store takes besides its own.
func (l *Level) Fault(schemes ...string) (field, reason string) {
	if err := CheckURI(l.URI, schemes...); err != nil {
		return "uri", err.Error()
	}
	switch {
	case len(l.Type) > MaxToken:
		return "type", "longer than 255 bytes"
	case len(l.Version) > MaxToken:
		return "version", "longer than 255 bytes"
	case len(l.Hash) > MaxToken:
		return "hash", "longer than 255 bytes"
	case len(l.Aliases) > maxAliases:
		return "aliases", "more than 4 aliases"
	case slices.ContainsFunc(l.Aliases, func(a string) bool { return a == "" || len(a) > MaxToken }):
		return "aliases", "an alias is empty or longer than 255 bytes"
	case l.Sver == 0 || l.Sver > maxLevel || l.Cver > maxLevel:
		return "sver", "a level or a change has no number from 1 to 2^62"
	case l.Heard && l.ChangedAt.Before(time.Unix(0, 0)) || l.Now.Before(time.Unix(0, 0)):
		return "changed_at", "before 1970"
	case l.ChangedAt.After(l.Now.Add(MaxFuture)):
		return "changed_at", "more than 5 minutes ahead of the peer's own clock"
	case !l.Heard && (l.Known || l.Unsettled || l.Version != "" || l.Hash != "" || len(l.Aliases) > 0):
		return "known", "it is said what it is, and that it was never heard of"
	}
	return "", ""
}

// maxLevel bounds numbers of levels: no honest store comes near it, and arithmetic on
// them cannot overflow.
const maxLevel = 1 << 62

// MaxLevels bounds the levels of one call: so many are one commit of some MiB.
const MaxLevels = 5000

// Hear applies what a peer told, in order, and notes that everything up to position
// was heard; both or neither, and durable when it returns nil. Epoch is that of the
// peer's store: an [EpochError] says that the session is in another ([Store.MeetOwner]).
// Levels may come twice, late, or in any order. An [InvalidError] names the level that
// is not one; then nothing was applied. Own resources are never touched.
func (s *Store) Hear(ctx context.Context, peer string, epoch Epoch, levels []Level, position uint64) (h Heard, err error) {
	if len(levels) > MaxLevels {
		return h, &InvalidError{Item: MaxLevels, Field: "levels", Reason: fmt.Sprintf("more than %d levels", MaxLevels)}
	}
	for i := range levels {
		if field, reason := levels[i].Fault(s.o.Schemes...); field != "" {
			return h, &InvalidError{Item: i, Field: field, Reason: reason}
		}
	}
	if position > maxLevel {
		return h, &InvalidError{Field: "position", Reason: "more than 2^62"}
	}
	p := s.authority.Load().numbers[peer]
	var refused error
	err = s.do(ctx, func(t *txn) { h, refused = t.hearAll(p, epoch, levels, position) })
	if err != nil {
		return Heard{}, err
	}
	return h, refused
}

func (t *txn) hearAll(p PeerID, epoch Epoch, levels []Level, position uint64) (h Heard, err error) {
	if t.s.peers.sessions[p] == nil {
		return h, fmt.Errorf("peer %d: %w", p, ErrUnknown)
	}
	c := t.session(p)
	if c.owner != epoch {
		return h, &EpochError{Has: c.owner, Got: epoch}
	}
	for i := range levels {
		switch t.hear(p, epoch, &levels[i]) {
		case heardChange:
			h.Changed++
		case heardSame:
			h.Same++
		case heardOld:
			h.Old++
		case heardUnwanted:
			h.Unwanted++
		}
		t.drain()
	}
	if position > c.position {
		c.position = position
		t.keep(p, c)
	}
	return h, nil
}

// heard is what became of one level.
type heard uint8

const (
	heardUnwanted heard = iota
	heardOld
	heardSame
	heardChange
)

// hear applies one level.
func (t *txn) hear(p PeerID, epoch Epoch, l *Level) heard {
	id, ok := t.find(l.URI)
	if !ok {
		return heardUnwanted
	}
	v, ok := t.get(mirrorKey(p, id))
	if !ok || !t.word(id).is(wordMirror) {
		return heardUnwanted
	}
	m, err := decodeMirror(v)
	check(err)
	if m.epoch == epoch && l.Sver <= m.sver {
		return heardOld
	}
	if !l.Heard {
		// A peer that has lost everything knows less than we do. What was heard before stays
		// as it is: when its producers tell the peer again, it is compared with that, across
		// epochs.
		t.put(id, t.word(id).with(wordPeerBusy, false))
		return heardSame
	}
	was := m
	m = mirror{epoch, l.Sver, l.Cver, l.ChangedAt.UnixMicro()}
	check(t.b.Set(mirrorKey(p, id), m.append(nil), nil))
	r := t.row(id)
	// Set first: who is told of the change waits until it is settled, and who waited
	// goes on after the change was told.
	if l.Unsettled {
		t.put(id, t.word(id).with(wordPeerBusy, true))
	}
	out := heardSame
	switch {
	case l.isChange(r, &was, epoch):
		t.hearChange(id, l)
		out = heardChange
	case r.version != l.Version || !slices.Equal(r.aliases, l.Aliases):
		r = t.edit(id)
		r.version, r.aliases = l.Version, slices.Clone(l.Aliases)
		t.resolveMarkers(r, cause{id: id, seq: r.changed, at: t.now})
	}
	if !l.Unsettled {
		t.put(id, t.word(id).with(wordPeerBusy, false))
	}
	return out
}

// isChange reports whether l brings other content than r has, of which was is what
// was heard last.
func (l *Level) isChange(r *row, was *mirror, epoch Epoch) bool {
	if !r.is(rowHeard) {
		return true
	}
	sameHash := r.hash == l.Hash && r.is(rowKnown) == l.Known
	if was.epoch != epoch { // numbers tell nothing across epochs
		return !sameHash || r.version != l.Version || was.changedAt != l.ChangedAt.UnixMicro()
	}
	if was.cver != l.Cver {
		return true
	}
	// A new version of the same content names the one before. All else is a mirror that
	// was damaged: what was judged by it has to be judged again.
	return !sameHash || r.version != l.Version && r.version != "" && !slices.Contains(l.Aliases, r.version)
}

// hearChange gives a mirror the content of a level, and tells who depends on it. The
// first that is heard of a mirror is no change but knowledge: if all who depend on it
// saw just this, nobody moves.
func (t *txn) hearChange(id ID, l *Level) {
	r := t.edit(id)
	first := !r.is(rowHeard)
	confirmed := first && l.confirmed(r)
	judged := first && r.presumed == "" || first && l.agrees(r) && !r.is(rowDiffering)
	before := r.is(rowKnown)
	if r.version != l.Version {
		r.remember(r.version)
	}
	if r.hash != l.Hash {
		r.remember(r.hash)
	}
	r.version, r.hash, r.aliases = l.Version, l.Hash, slices.Clone(l.Aliases)
	r.set(rowHeard, true)
	r.set(rowKnown, l.Known)
	r.set(rowAmbiguous, l.Ambiguous)
	r.set(rowMissing|rowDiffering|rowArtefact|rowReorder, false)
	r.presumed, r.digest = "", 0
	if l.Type != "" && l.Type != r.typ {
		r.typ = l.Type
		t.relabelled = append(t.relabelled, id)
	}
	// By our clock: as long ago as it was by the peer's, and not before the change that
	// was heard of last, which may have been longer on its way.
	age := max(l.Now.Sub(l.ChangedAt), -MaxFuture)
	r.at = max(0, r.changedAt, t.now-age.Microseconds())
	r.changedAt = r.at
	change := ChangeUpdated
	switch {
	case !l.Known:
		change = ChangeDeleted
	case !before:
		change = ChangeCreated
	}
	c := cause{id: id, at: t.now}
	r.changed = t.changed(id, chunk{reason: ReasonPeer, change: change, version: r.version, hash: r.hash, cause: id, causeAt: t.now})
	r.updated, c.seq = r.changed, r.changed
	state := Stub
	if l.Known {
		state = Clean
	}
	t.setState(id, state)
	switch {
	case confirmed:
	case judged:
		t.startJob(id, jobHear, c)
	default:
		t.startJob(id, jobChange, c)
	}
}

// agrees reports whether l is what those who said what they saw of r saw.
func (l *Level) agrees(r *row) bool {
	purged := !l.Known && l.Version != versionNone
	return !purged && r.presumed != "" && (r.presumed == l.Hash || r.presumed == l.Version)
}

// confirmed reports whether l is what all saw who depend on r. A purge never confirms.
func (l *Level) confirmed(r *row) bool { return l.agrees(r) && !r.is(rowMissing|rowDiffering) }

// hearAt is the first that is heard of x, seen by one dependent that did not say what
// it saw of it. Who held a token when its making began did so before x was heard of;
// of others the clocks tell.
func (t *txn) hearAt(x *row, d ID, lane Lane, c cause) {
	if r := t.row(d); !r.is(rowToken) && x.changedAt+margin.Microseconds() < r.at {
		t.settle(d, lane, c)
		return
	}
	t.changeAt(x, d, "", false, lane, c)
}
