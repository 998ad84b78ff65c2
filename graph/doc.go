// Package graph keeps which resource is made from which others, runs each
// resource's state machine, and appends a [Notice] to the journal when one is to
// be fetched or made again. It is the only room that touches the store, and the
// only one that knows how many there are.
//
// The order that keeps a crash safe: edges, states, timers and notices of one
// request land in one batch; the caller is answered, and readers see the
// notices, only after that batch is durable. Time comes in with each request;
// the apply loop never reads a clock, so that the same input makes the same
// store.
//
// A single writer applies requests ([Store.Run]); callers parse, check and look
// up ids beside it. Two bytes of each resource are resident (its state and a
// few flags); everything else is read when it is needed. A change with many
// dependents becomes a job: a durable position in the list of dependents, which
// moves on between small updates.
//
// Keys, with ids as 5 bytes, peers as 4 and numbers as 8, big-endian:
//
//	M name           → format, epoch, ends of the journal
//	U uri            → id
//	I id             → uri
//	F id             → row: version, hash, times, what was seen, dependencies
//	R dst            → dependents of dst, one block while there are at most 2,048
//	R dst src>>16    → the same in buckets, above that
//	S id>>10         → states of 1,024 resources
//	A dst src        → src is ahead of dst: what it saw of it
//	L seq            → journal: up to 1,024 notices with one cause
//	K day digest     → update ids accepted that day
//	J job            → a fan-out and how far it is
//	T due n          → timer
//	B key 0 id>>16   → resources that carry a grouping key
//	O due id         → to be looked at for collection
//	N id             → id that is free to be given again
//	Q account        → publisher, its resources and edges
//	P a              → who speaks for what: this hub, and peers by number
//	P n peer         → its number
//	P s peer         → how far we are with it: epochs, position, ops it took
//	P i peer id      → mirror: what was heard last of a resource of the peer
//	P o peer n       → what the peer is yet to be told: a mirror more, or one less
//	P C              → newest number of a level
//	P S peer         → how far the peer is with us
//	P I id peer      → the peer wants to hear of id: the level it is told
//	P L peer level   → the same by level
//	C d key          → record that another room keeps ([Record])
//	C m list id>>16  → members of a list
//	C r id list      → the same by resource
//	C p list seq     → a journal chunk that has notices marked for the list
//	C b seq>>12      → summary of a block of the journal: what may stand in it
//	C x list         → a dropped list whose members are yet to be forgotten
//
// A row names the account of the publisher whose update, or call that changed its
// edges, it is from last. An account is how many rows name it and how many
// dependencies these have, and moves in the same batch.
//
// Lists are chosen by the caller, 4 bytes. A notice is marked with those that
// held its resource when it was written, inside its chunk; so what is read of a
// list is the same however it is read, and costs its own notices only.
//
// Records are small and belong to other rooms, which choose their keys: channels,
// subscriptions, cursors of deliveries and claims. R, S, B and C m are written by blind
// merges; the merge operator folds them.
//
// Another hub may speak for a part of the URIs ([Store.SetAuthority]). Of its resources
// this one has those that somebody here depends on, as mirrors: ordinary rows that no
// update may touch. The first dependent of one writes the op that asks for it in its own
// batch, the last one that which gives it up. What the peer tells are levels
// ([Store.Hear]), never changes, so that what is lost, late, twice or out of order does no
// harm; the position up to which it was heard is in the batch of the levels. In the other
// direction each resource that a peer wants to hear of has one level for it, the newest,
// which moves in the batch of the change ([Store.Levels]): a peer that is away costs as
// much as it asked for and no more. How messages travel is not known here.
//
// Imports nothing of ours. Starts no goroutine but inside [Store.Run].
package graph
