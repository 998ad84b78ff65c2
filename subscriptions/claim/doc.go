// Package claim hands out what is ready to those who make it, nothing twice within
// a lease.
//
// Who is ready, who is claimed and until when is the graph's to say: a claim is its
// commit, and a lease that ends or a failure writes a new notice. A [Desk] finds
// candidates and asks the graph for them; whom it does not get is made, claimed or
// not ready any more, and comes round again by a notice of its own. So a candidate
// may be offered twice, and nothing is lost when all that is kept here is.
//
// Those who ask for the same and may make the same are one pool. A pool reads the
// journal, each lane by itself: prompt first, of the others at least a tenth.
//
//	journal ─▶ Feed ─▶ lane ─┐
//	graph.Ready ──▶ scan ────┴▶ pool ─▶ polls, in turn ─▶ graph.Claim
//
// The cursor of a lane passes a notice when it was claimed or can no longer be. What
// the journal does not tell (what was told before the pool was there, or before the
// journal's beginning, or before its channel let it through) is found by a scan of
// all that is ready, which each pool makes beside that when it is opened.
//
//	claim/key         → what ids of claims are signed with
//	claim/pool/<sum>  → a pool's cursors, and who opened it
//
// Imports graph and subscriptions. Starts goroutines in [Desk.Run] alone.
package claim
