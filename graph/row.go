package graph

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// rowFlags are the yes-or-no facts of a row.
type rowFlags uint16

const (
	rowHeard     rowFlags = 1 << iota // an update, delete or purge of it was accepted
	rowKnown                          // it has content: neither deleted nor purged
	rowArtefact                       // it was made from others
	rowAmbiguous                      // its version was seen with two hashes, so it identifies nothing
	rowMissing                        // never heard of: some edge to it came without what was seen
	rowDiffering                      // never heard of: edges disagree on what was seen
	rowReorder                        // a rendering that overlapped was not applied; only a later one ends it
	rowArmed                          // its ticker has a timer
	rowToken                          // its last update carried a token
)

const (
	// maxPrevious keeps four versions and their four hashes: a rendering that
	// reports one of them is stale without looking at clocks.
	maxPrevious = 8
	// maxAliases bounds the versions kept that were received with the current hash.
	maxAliases = 4
)

// row is what the store remembers of one resource beside its state word. Times
// are µs since 1970.
type row struct {
	id        ID
	flags     rowFlags
	typ       string
	version   string
	hash      string
	previous  []string // newest first
	aliases   []string // oldest first
	presumed  string   // never heard of: what dependents saw
	at        int64
	changed   uint64 // journal position of its last change
	changedAt int64
	updated   uint64 // journal position when it was last made
	digest    uint64 // of what the last update said, to recognise the same again
	buckets   []string
	expires   int64
	born      uint64 // stale on arrival, times in a row
	noticeDue int64  // the notice waits until then
	flapSince int64  // damping: start of the window …
	flaps     uint64 // … changes in it …
	interval  int64  // … least time between two refreshes
	refreshed int64  // damping: time of its last notice
	ahead     []ID   // dependencies it holds a marker on
	lease     int64  // end of the claim
	claim     uint64 // which claim
	failures  uint64 // claims in a row that ended in failure
	owner     uint64 // account whose update it is from last; 0 = nobody's
	deps      []byte // delta uvarints of the sorted ids it is made from
	ndeps     int

	touched bool // differs from what the store has
}

func (r *row) is(f rowFlags) bool { return r.flags&f != 0 }

func (r *row) set(f rowFlags, on bool) {
	if on {
		r.flags |= f
	} else {
		r.flags &^= f
	}
}

// identifies reports whether r's version says which content it has.
func (r *row) identifies() bool { return !r.is(rowArtefact | rowAmbiguous) }

func (r *row) deleted() bool { return r.is(rowHeard) && !r.is(rowKnown) && r.version == versionNone }

func (r *row) purged() bool { return r.is(rowHeard) && !r.is(rowKnown) && r.version != versionNone }

// versionNone is the version of what does not exist.
const versionNone = "0"

func (r *row) remember(s string) {
	if s == "" {
		return
	}
	r.previous = slices.Insert(r.previous, 0, s)
	r.previous = r.previous[:min(len(r.previous), maxPrevious)]
}

// setContent gives r a version and a hash and reports whether that is a change.
// No hash is one, unless a primary comes with the version it has.
func (r *row) setContent(version, hash string, artefact bool) bool {
	changed := hash == "" || hash != r.hash || !r.is(rowHeard)
	if hash == "" && version != "" && version == r.version && !artefact && r.is(rowKnown) {
		changed, hash = false, r.hash
	}
	switch {
	case changed:
		if r.version == version && version != "" && hash != r.hash && r.is(rowKnown) {
			r.set(rowAmbiguous, true)
		}
		if r.version != version {
			r.remember(r.version)
			r.set(rowAmbiguous, false)
		}
		r.remember(r.hash)
		r.aliases = nil
	case r.version != version && r.version != "":
		r.aliases = append(r.aliases, r.version)
		r.aliases = r.aliases[max(0, len(r.aliases)-maxAliases):]
	}
	r.version, r.hash = version, hash
	return changed
}

// eachDep calls f with every dependency, ascending, until it returns false.
func (r *row) eachDep(f func(ID) bool) {
	b, id := r.deps, ID(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		id += ID(d)
		b = b[n:]
		if !f(id) {
			return
		}
	}
}

func (r *row) depIDs() []ID {
	ids := make([]ID, 0, r.ndeps)
	r.eachDep(func(id ID) bool { ids = append(ids, id); return true })
	return ids
}

func (r *row) dependsOn(x ID) (found bool) {
	r.eachDep(func(id ID) bool { found = id == x; return id < x })
	return found
}

// maxCachedRow bounds what a cached row holds in lists, in bytes: a few rows with
// tens of thousands of dependencies would fill the memory meant for many.
const maxCachedRow = 4 << 10

func (r *row) small() bool {
	n := len(r.deps)
	for _, name := range r.buckets {
		n += len(name)
	}
	return n <= maxCachedRow
}

// setDeps takes sorted distinct ids.
func (r *row) setDeps(ids []ID) {
	b, last := make([]byte, 0, 2*len(ids)), ID(0)
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(id-last))
		last = id
	}
	r.deps, r.ndeps = b, len(ids)
}

// Field tags of an encoded row. A field that is zero is left out; the numbers
// are for ever. When its content changed is kept relative to at, when it was last
// made relative to its last change. The list of dependencies is last and fills the rest.
const (
	fieldFlags = iota + 1
	fieldType
	fieldVersion
	fieldHash
	fieldPrevious
	fieldAliases
	fieldPresumed
	fieldAt
	fieldChanged
	fieldChangedAt
	fieldUpdated
	fieldDigest
	fieldBuckets
	fieldExpires
	fieldBorn
	fieldNoticeDue
	fieldFlapSince
	fieldFlaps
	fieldInterval
	fieldRefreshed
	fieldAhead
	fieldLease
	fieldClaim
	fieldFailures
	fieldDeps  // stands last
	fieldOwner // stands before it
)

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (r *row) append(b []byte) []byte {
	num := func(tag byte, v uint64) {
		if v != 0 {
			b = binary.AppendUvarint(append(b, tag), v)
		}
	}
	text := func(tag byte, s string) {
		if s != "" {
			b = appendText(append(b, tag), s)
		}
	}
	texts := func(tag byte, l []string) {
		if len(l) == 0 {
			return
		}
		b = binary.AppendUvarint(append(b, tag), uint64(len(l)))
		for _, s := range l {
			b = appendText(b, s)
		}
	}
	num(fieldFlags, uint64(r.flags))
	text(fieldType, r.typ)
	text(fieldVersion, r.version)
	text(fieldHash, r.hash)
	texts(fieldPrevious, r.previous)
	texts(fieldAliases, r.aliases)
	text(fieldPresumed, r.presumed)
	num(fieldAt, uint64(r.at))
	num(fieldChanged, r.changed)
	num(fieldChangedAt, zigzag(r.changedAt-r.at))
	num(fieldUpdated, zigzag(int64(r.updated-r.changed)))
	if r.digest != 0 {
		b = binary.LittleEndian.AppendUint64(append(b, fieldDigest), r.digest)
	}
	texts(fieldBuckets, r.buckets)
	num(fieldExpires, uint64(r.expires))
	num(fieldBorn, r.born)
	num(fieldNoticeDue, uint64(r.noticeDue))
	num(fieldFlapSince, uint64(r.flapSince))
	num(fieldFlaps, r.flaps)
	num(fieldInterval, uint64(r.interval))
	num(fieldRefreshed, uint64(r.refreshed))
	if len(r.ahead) > 0 {
		b = binary.AppendUvarint(append(b, fieldAhead), uint64(len(r.ahead)))
		for _, id := range r.ahead {
			b = binary.AppendUvarint(b, uint64(id))
		}
	}
	num(fieldLease, uint64(r.lease))
	num(fieldClaim, r.claim)
	num(fieldFailures, r.failures)
	num(fieldOwner, r.owner)
	if r.ndeps > 0 {
		b = binary.AppendUvarint(append(b, fieldDeps), uint64(r.ndeps))
		b = append(b, r.deps...)
	}
	return b
}

// errRow reports bytes that are no row: corruption of our own store.
var errRow = fmt.Errorf("row is corrupt")

// decoder reads fields one after the other; after a fault it yields zeros.
type decoder struct {
	b   []byte
	tag byte // of the field that next came to
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) text() string { return string(d.bytes()) }

// bytes is a text that is the decoder's still.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return nil
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s
}

// same reports whether the list of texts to come is l; if not, it has passed a
// part of it.
func (d *decoder) same(l []string) bool {
	if d.count() != len(l) {
		return false
	}
	for _, s := range l {
		if string(d.bytes()) != s {
			return false
		}
	}
	return true
}

// count reads the length of a list whose items take a byte or more each.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return 0
	}
	return int(n)
}

func (d *decoder) texts() []string {
	l := make([]string, d.count())
	for i := range l {
		l[i] = d.text()
	}
	return l
}

// zigzag maps small differences of either sign to small numbers.
func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// fixed reads eight bytes.
func (d *decoder) fixed() uint64 {
	if len(d.b) < 8 {
		d.b, d.bad = nil, true
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func decodeRow(id ID, b []byte) (*row, error) {
	r := &row{id: id}
	var changedAt, updated int64 // relative to at and to changed
	d := decoder{b: b}
	for d.next(fieldOwner) {
		switch d.tag {
		case fieldFlags:
			r.flags = rowFlags(d.uvarint())
		case fieldType:
			r.typ = d.text()
		case fieldVersion:
			r.version = d.text()
		case fieldHash:
			r.hash = d.text()
		case fieldPrevious:
			r.previous = d.texts()
		case fieldAliases:
			r.aliases = d.texts()
		case fieldPresumed:
			r.presumed = d.text()
		case fieldAt:
			r.at = int64(d.uvarint())
		case fieldChanged:
			r.changed = d.uvarint()
		case fieldChangedAt:
			changedAt = unzigzag(d.uvarint())
		case fieldUpdated:
			updated = unzigzag(d.uvarint())
		case fieldDigest:
			r.digest = d.fixed()
		case fieldBuckets:
			r.buckets = d.texts()
		case fieldExpires:
			r.expires = int64(d.uvarint())
		case fieldBorn:
			r.born = d.uvarint()
		case fieldNoticeDue:
			r.noticeDue = int64(d.uvarint())
		case fieldFlapSince:
			r.flapSince = int64(d.uvarint())
		case fieldFlaps:
			r.flaps = d.uvarint()
		case fieldInterval:
			r.interval = int64(d.uvarint())
		case fieldRefreshed:
			r.refreshed = int64(d.uvarint())
		case fieldAhead:
			r.ahead = make([]ID, d.count())
			for i := range r.ahead {
				r.ahead[i] = ID(d.uvarint())
			}
		case fieldLease:
			r.lease = int64(d.uvarint())
		case fieldClaim:
			r.claim = d.uvarint()
		case fieldFailures:
			r.failures = d.uvarint()
		case fieldOwner:
			r.owner = d.uvarint()
		case fieldDeps:
			r.ndeps = d.count()
			r.deps = append([]byte(nil), d.b...)
			d.b = nil
			if !validDeps(r.deps, r.ndeps) {
				d.bad = true
			}
		default:
			d.bad = true
		}
		if d.bad {
			return nil, fmt.Errorf("%w: resource %d, field %d", errRow, id, d.tag)
		}
	}
	if len(d.b) > 0 {
		return nil, fmt.Errorf("%w: resource %d: unknown field %d", errRow, id, d.b[0])
	}
	r.changedAt, r.updated = r.at+changedAt, r.changed+uint64(updated)
	return r, nil
}

// next moves on to the next field if its tag is at most last: fields stand in
// the order of their tags, but for the owner.
func (d *decoder) next(last byte) bool {
	if d.bad || len(d.b) == 0 || d.b[0] > last {
		return false
	}
	d.tag, d.b = d.b[0], d.b[1:]
	return true
}

// skipField passes over the value of a field up to fieldBuckets.
func (d *decoder) skipField() {
	switch d.tag {
	case fieldType, fieldVersion, fieldHash, fieldPresumed:
		d.skip()
	case fieldPrevious, fieldAliases, fieldBuckets:
		for n := d.count(); n > 0; n-- {
			d.skip()
		}
	case fieldDigest:
		d.fixed()
	default:
		d.uvarint()
	}
}

// skip passes over a text.
func (d *decoder) skip() {
	n := d.count()
	d.b = d.b[n:]
}

// encodedDigest reads the digest alone, 0 if there is none.
func encodedDigest(b []byte) uint64 {
	d := decoder{b: b}
	for d.next(fieldDigest) {
		if d.tag == fieldDigest {
			return d.fixed()
		}
		d.skipField()
	}
	return 0
}

// validDeps reports whether b holds n ascending ids, so that eachDep may trust it.
func validDeps(b []byte, n int) bool {
	for ; len(b) > 0; n-- {
		d, size := binary.Uvarint(b)
		if size <= 0 || d == 0 {
			return false
		}
		b = b[size:]
	}
	return n == 0
}
