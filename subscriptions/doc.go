// Package subscriptions tells those who asked about the notices of the journal.
//
// What a reader may ask for is a [Filter]; [Compile] turns it into a [Matcher].
// [Channels] are filters with a name, kept in the store, whose lists of URIs may
// have millions of members. [AppendNotice] is the one JSON form of a notice.
//
// A [Streamer] serves the journal. One pump follows it and gives each notice to the
// classes that want it; a class is all streams with equal filters whose readers may
// see the same ([Viewer]). A stream is a cursor in its class: it pulls bundles of
// ready-made frames, which all at its position share, and nothing is queued for it.
// So a slow reader costs reads, not memory, and delays nobody.
//
//	journal ─▶ pump ─▶ index ─▶ class ─▶ stream ─▶ transport
//	   └──────────── replay ───────▲   (who is behind what its class has in memory)
//
// What keeps this exact: a class has all that passed between its base and the
// pump's head; below the base a stream reads the store up to the head, never beyond;
// and what is sent is told apart by position alone, so replay and live overlap
// without harm. Resuming is strictly after the last position the reader was told. A
// position that cannot be served is answered by a reset event, never by a silent jump.
//
// A stream is moved on by a goroutine of its own (portable), or on Linux over plain
// TCP by one of a few shards (sockets), whose writes never block: an idle stream
// then has no goroutine. Both drive the same state machine.
//
// Who keeps a position elsewhere, such as a subscription that is called, reads the
// same through a [Feed] in pieces of its own, and is told when there is something. A
// [Document] is such a piece, merged and made ready to be sent; all who stand at one
// position share it.
//
// Imports graph, and nothing else of ours. Starts goroutines in [Streamer.Run] alone.
package subscriptions
