// Package federation is what a hub is to other hubs: who it is, how one proves to
// another who is asking, and what each says of itself where others can read it.
//
// A hub is named by its public URL, which is an origin. Its [Identity] is one key,
// made once and kept in a file of its own. Others keep the public half beside the URL
// when an operator makes the hub their peer, and from then on believe nothing signed
// with another one: whoever takes over a name does not take over the trust in it. A
// [Document] shows the keys to everybody; reading one makes nobody a peer.
//
// Imports graph, for what is a URI and a prefix, and internal/strictjson. Starts no goroutine.
package federation
