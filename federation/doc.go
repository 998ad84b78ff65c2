// Package federation is what a hub is to other hubs: who it is, how one proves to
// another who is asking, and what each says of itself where others can read it.
//
// A hub is named by its public URL, which is an origin. Its [Identity] is one key,
// made once and kept in a file of its own. Others keep the public half beside the URL
// when an operator makes the hub their peer, and from then on believe nothing signed
// with another one: whoever takes over a name does not take over the trust in it. A
// [Document] shows the keys to everybody; reading one makes nobody a peer.
//
// [Peers] are those others, and all that passes to and from them: each hub tells what it
// wants to hear, and follows the levels of that. What is told and heard, and what follows
// from it, is the graph's; here is how it travels, who may say what, and what is done
// when it does not arrive. Everything here may be said by somebody who means harm.
//
// Imports graph, federation/follow and internal/strictjson. A few goroutines run for each
// peer while [Peers.Run] does.
package federation
