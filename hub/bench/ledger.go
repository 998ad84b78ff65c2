package bench

import "slices"

// A ledger is the list of positions that the readers of one filter got, in the
// order of the journal. The first reader that gets a notice writes it down, the
// others compare; whether the list itself is right, the journal says in the end.
// Nothing is inserted, so a place in it stays what it is.
type ledger struct {
	seqs []uint64 // rising
	goal uint64   // with this one a reader has everything; 0 means not known
}

// A span is a stretch of a ledger, without the end.
type span struct{ from, to int }

// A track is one reader's way through its ledger. It got everything from first to
// next without the missing, and besides that what is odd.
type track struct {
	begun       bool
	first, next int
	missing     []span   // rising
	odd         []uint64 // not in the ledger although later ones are
	duplicated  uint64
	reordered   uint64
}

// take notes that the reader at t got seq.
func (l *ledger) take(t *track, seq uint64) {
	if !t.begun {
		i, _ := slices.BinarySearch(l.seqs, seq)
		t.begun, t.first, t.next = true, i, i
	}
	if t.next < len(l.seqs) && l.seqs[t.next] == seq {
		t.next++
		return
	}
	if len(l.seqs) == 0 || seq > l.seqs[len(l.seqs)-1] {
		t.pass(len(l.seqs))
		l.seqs = append(l.seqs, seq)
		t.next++
		return
	}
	i, found := slices.BinarySearch(l.seqs, seq)
	switch {
	case found && i >= t.next:
		t.pass(i)
		t.next++
	case found && i >= t.first:
		t.late(i)
	case slices.Contains(t.odd, seq):
		t.duplicated++
	default:
		if i < t.next || slices.ContainsFunc(t.odd, func(o uint64) bool { return o > seq }) {
			t.reordered++
		} else {
			t.pass(i)
		}
		t.odd = append(t.odd, seq)
	}
}

// pass goes on to place i; what lies between is missing so far.
func (t *track) pass(i int) {
	if t.next < i {
		t.missing = append(t.missing, span{t.next, i})
	}
	t.next = i
}

// late notes what comes after later ones: either again, or at last.
func (t *track) late(i int) {
	j, found := slices.BinarySearchFunc(t.missing, i, func(s span, i int) int {
		switch {
		case s.to <= i:
			return -1
		case s.from > i:
			return 1
		}
		return 0
	})
	if !found {
		t.duplicated++
		return
	}
	t.reordered++
	s := t.missing[j]
	var rest []span
	for _, part := range []span{{s.from, i}, {i + 1, s.to}} {
		if part.from < part.to {
			rest = append(rest, part)
		}
	}
	t.missing = slices.Replace(t.missing, j, j+1, rest...)
}

// A verdict counts what went wrong.
type verdict struct {
	expected   uint64 // deliveries that there should be
	lost       uint64 // of them there were not
	unwanted   uint64 // there were although nobody asked for them
	duplicated uint64
	reordered  uint64
}

func (v *verdict) add(w verdict) {
	v.expected += w.expected
	v.lost += w.lost
	v.unwanted += w.unwanted
	v.duplicated += w.duplicated
	v.reordered += w.reordered
}

// An audit compares the tracks through one ledger with the truth.
type audit struct {
	truth  []uint64 // what the journal says these readers should get, rising
	ledger *ledger
	// good and bad count, up to each place of the ledger, what is in the truth and
	// what is not.
	good, bad []int
	from, to  uint64 // positions outside, from excluded, are nobody's business
}

// newAudit judges what lies after from, up to to. Truth lies within.
func newAudit(l *ledger, truth []uint64, from, to uint64) *audit {
	a := &audit{truth: truth, ledger: l, good: make([]int, len(l.seqs)+1), bad: make([]int, len(l.seqs)+1), from: from, to: to}
	rest := truth
	for i, seq := range l.seqs {
		for len(rest) > 0 && rest[0] < seq {
			rest = rest[1:]
		}
		a.good[i+1], a.bad[i+1] = a.good[i], a.bad[i]
		if len(rest) > 0 && rest[0] == seq {
			a.good[i+1]++
		} else if a.concerns(seq) {
			a.bad[i+1]++
		}
	}
	return a
}

func (a *audit) concerns(seq uint64) bool { return seq > a.from && seq <= a.to }

// judge counts what went wrong with one reader.
func (a *audit) judge(t *track) verdict {
	got, unwanted := a.good[t.next]-a.good[t.first], a.bad[t.next]-a.bad[t.first]
	for _, s := range t.missing {
		got -= a.good[s.to] - a.good[s.from]
		unwanted -= a.bad[s.to] - a.bad[s.from]
	}
	for _, seq := range t.odd {
		if _, asked := slices.BinarySearch(a.truth, seq); asked {
			got++
		} else if a.concerns(seq) {
			unwanted++
		}
	}
	return verdict{expected: uint64(len(a.truth)), lost: uint64(len(a.truth) - got), unwanted: uint64(unwanted),
		duplicated: t.duplicated, reordered: t.reordered}
}
