// Package delivery calls others until they have had everything that the journal holds
// for them.
//
// An [Outlet] is one subscription or sink: it cuts the journal into pieces, makes the
// request for a piece and judges the answer. The [Engine] does the rest, the same for
// all of them: it keeps a position in each lane, calls in turn and within limits, waits
// and tries again, holds what has to wait for somebody else, and remembers all of it.
//
//	journal ─▶ cut ─▶ waiting ─▶ call ─▶ settled: the cursor passes
//	                     ▲         ├──▶ retry, a row of its own
//	                     └─ due ───┘    dead letter, after the last one
//
// What keeps this exact: a cursor passes a piece only when it was acknowledged, or with
// the same commit that writes it down as a retry, as held or as a dead letter. So a
// crash repeats calls and loses none, and the state of an outlet does not grow with what
// waits for it. A serial outlet has one call at a time and in order; a call that fails
// holds it, and keeps its range and so what it says, until it is given up; then the
// outlet goes on with what there is by then, from the same cursor.
//
// Hosts take turns, and at each host its outlets do; nobody has more than a few calls at
// one host, so that one that hangs delays itself. A call that has had no answer for a
// second gives up its place to others, so that many that hang delay nobody either. An
// outlet that has nothing to do has no goroutine, one that waits for a time is an entry
// of a heap.
//
// Imports graph, and nothing else of ours. Starts goroutines in Engine.Run alone.
package delivery
