// Package websub is a hub of W3C WebSub for the topics of our own: it takes
// subscriptions, asks their callbacks whether they meant it, and has the topics
// delivered to those that did until their lease ends.
//
//	request ─▶ owed: a call that asks ─▶ in force ─▶ outlet of the engine
//	             │  (not confirmed: forgotten)  │
//	             ◀── owed: a call that denies ──┘  (policy, owner, channel)
//
// A request is on disk before it is answered, and so is what its callback said before
// it counts. So there are records of subscriptions, of calls that are owed, of what
// owners may see, and of what subscribers have had; the positions are the engine's.
// There is one owed call for each topic and callback, the newest: whatever changes for
// the two of them does so under one lock and in one commit.
//
// Nobody can use the hub to annoy others. Before a callback has confirmed anything it
// is called few times in a minute, by its name and by the address that is dialled,
// however it is named and by whom; requests that would wait too long are refused, and
// those that did wait too long are forgotten.
//
// A subscription is its owner's, who alone renews and ends it. What the owner may see
// is what the newest of its tokens shows that were presented here; a subscription
// whose topic that does not cover any more ends, and its callback is told.
//
// Imports graph, subscriptions and subscriptions/delivery. Calls out are made by what
// its user gives. Starts goroutines in [Hub.Run] alone.
//
// Source: https://www.w3.org/TR/websub/, Standard Webhooks.
package websub
