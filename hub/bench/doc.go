// Package bench measures the streams of a hub from outside: it opens thousands of
// them in one process, publishes updates, and checks that each reader gets every
// notice that passes its filter, once and in order, while it takes the time.
//
// It promises to judge exactly. Who published knows what was acknowledged, one
// unfiltered reader (the journal) tells at which positions it was written, and
// each reader's way is kept as one number as long as nothing is wrong: readers
// with the same filter share one list of positions, so that ten thousand of them
// cost what one does. What is wrong is kept for each reader, and counted when the
// journal is known: lost, duplicated, reordered, never asked for, altered.
//
// It promises not to be in the way. A reader costs a socket and about 400 bytes;
// on Linux one epoll loop reads all of them, elsewhere a goroutine each. A notice
// carries the time of its publication as its version, so that latency needs no
// table. The processor time of the hub is what the hub says of itself under
// /metrics, apart from that of the readers.
//
// [Callbacks] does the same for subscribers that are called: servers with an address
// each, whose documents are held against what was published, in turn with the calls of
// a plain client ([Ceiling]) that bring the same bodies to the same servers.
//
// [Peers] does it for two hubs of which one tells the other: files change at the one, and
// it is checked that each page at the other is to be refreshed, once.
//
// It waits for nothing without an end: a hub that makes no progress for
// [Options.Patience] ends the phase, and what is missing is counted as lost.
//
// Imports hub/client.
package bench
