// Package follow follows a stream of server-sent events for as long as its
// reader wants: across restarts of the server, silent connections and refusals
// for a while, without losing an event or showing one twice.
//
// It wraps the client of github.com/r3labs/sse, which makes the request, runs
// the connection and reads the fields of an event. That client alone stops for
// ever at a clean end and after a quarter of an hour, delivers an event that the
// end cut off, takes a comment for an event, and waits for a dead server without
// end. So each connection has a client of its own that is allowed one attempt,
// and it reads the body through [frames], which hands over whole events only.
//
// The order that makes resuming safe: an event is yielded, the reader handles
// it, and only then is it the position that the next connection names. An event
// is yielded again only if the reader left before, or died.
//
// Imports nothing of ours. A stream starts goroutines, and all have returned
// when the iteration has ended, however it ends.
package follow
