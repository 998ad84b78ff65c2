package graph

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// seenID identifies an accepted update: a digest of publisher, id and URI.
type seenID [16]byte

func seenOf(publisher string, u *Update) (id seenID) {
	sum := sha256.Sum256(append(appendText(appendText(nil, publisher), u.ID), u.URI...))
	copy(id[:], sum[:])
	return id
}

// dayOf is the day that a time in µs falls in.
func dayOf(us int64) uint32 { return uint32(us / (24 * time.Hour).Microseconds()) }

// seenKeepDays is how many days of idempotency keys are looked at: today's and
// yesterday's, so that each is remembered 24 to 48 hours.
const seenKeepDays = 2

// forgetSeen drops the idempotency keys that are too old to be looked at. It looks
// whether there are any: deletions of ranges gather in the memtable of a store that has
// little to do, and each reader of it puts all of them in order.
func (t *txn) forgetSeen() {
	from, to := []byte{spaceSeen}, seenDay(dayOf(t.now)-seenKeepDays+1)
	it := t.iter(from, to)
	defer func() { check(it.Close()) }()
	if it.First() {
		check(t.b.DeleteRange(from, to, nil))
	}
	check(it.Error())
}

// duplicate remembers an idempotency key and reports whether it was known.
func (t *txn) duplicate(id seenID) bool {
	if t.remembers(id) {
		return true
	}
	if t.accepted == nil {
		t.accepted = map[seenID]struct{}{}
	}
	t.accepted[id] = struct{}{}
	check(t.b.Set(append(seenDay(dayOf(t.now)), id[:]...), nil, nil))
	return false
}

// remembers reports whether an idempotency key is known.
func (t *txn) remembers(id seenID) bool {
	if _, ok := t.accepted[id]; ok {
		return true
	}
	day := dayOf(t.now)
	for _, d := range []uint32{day, day - 1} {
		_, closer, err := t.s.db.Get(append(seenDay(d), id[:]...))
		if err == nil {
			check(closer.Close())
			return true
		}
		if !errors.Is(err, pebble.ErrNotFound) {
			check(err) // what cannot be read is not news
		}
	}
	return false
}
