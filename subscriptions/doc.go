// Package subscriptions tells those who asked about the notices of the journal.
//
// A stream ([Streamer]) is a cursor and a filter: it pulls from the journal at
// its own pace, so a slow reader costs reads, not memory, and delays nobody.
// Nothing is queued for a reader, and replay and live are one read, so there is
// no seam between them at which a notice could be lost or doubled. Resuming is
// strictly after the last position the reader was told. A position that cannot
// be served is answered by a reset event, never by a silent jump.
//
// What a reader may ask for is a [Filter]; [Compile] turns it into a [Matcher].
// [AppendNotice] is the one JSON form of a notice.
//
// Imports graph, and nothing else of ours. Starts no goroutine.
package subscriptions
