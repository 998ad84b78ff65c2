// Package sink makes calls of notices by rules that an operator wrote: purges of
// caches, and requests to services.
//
// A [Definition] is what stands in the configuration; [Compile] checks it and makes a
// [Sink] of it, whose decisions are pure: [Sink.Try] says what would be sent for a
// notice, and why not. [Sinks] are those in force, as outlets of
// [github.com/freshwire/freshwire/subscriptions/delivery], which calls, tries again,
// keeps what failed, and holds a stage of a group back until the one before it has
// been acknowledged, bucket by bucket.
//
//	journal ─▶ feed ─▶ match ─▶ piece, by key ─▶ delivery ─▶ request, rendered for each attempt
//
// What a publisher says stands in URLs, headers and bodies. Each value is written for
// its place and cannot leave it: no other host, path segment, parameter, header, key
// or JSON string comes of it. What cannot be said in its place is not sent: it is a
// dead letter with the reason.
//
// What waits holds the notice, not the request. So an attempt is made by the rules in
// force: who corrects an address or renews a secret need not wait for new notices,
// and no secret is stored. Secrets are read for each call.
//
// Imports graph, subscriptions and subscriptions/delivery.
package sink
