package graph

import "time"

// seenID identifies an accepted update: a digest of publisher, id and URI.
type seenID [16]byte

// seenKeepDays is how many days of idempotency keys are looked at: today's and
// yesterday's, so that each is remembered 24 to 48 hours.
const seenKeepDays = 2

// forgetSeen drops the idempotency keys that are too old to be looked at.
func (t *txn) forgetSeen() {
	day := uint32(t.now / (24 * time.Hour).Microseconds())
	check(t.b.DeleteRange([]byte{spaceSeen}, seenDay(day-seenKeepDays+1), nil))
}

// duplicate remembers an idempotency key and reports whether it was known.
func (t *txn) duplicate(id seenID) bool {
	if _, ok := t.accepted[id]; ok {
		return true
	}
	day := uint32(t.now / (24 * time.Hour).Microseconds())
	for _, d := range []uint32{day, day - 1} {
		_, closer, err := t.s.db.Get(append(seenDay(d), id[:]...))
		if err == nil {
			check(closer.Close())
			return true
		}
	}
	if t.accepted == nil {
		t.accepted = map[seenID]struct{}{}
	}
	t.accepted[id] = struct{}{}
	check(t.b.Set(append(seenDay(day), id[:]...), nil, nil))
	return false
}
