// Package outbound makes the calls that a hub makes to others: callbacks, sinks,
// key sets, peers. Where a call goes is often said by somebody who may not be
// trusted, so each goes through a [Client], which holds it to a [Policy].
//
// The rule is on the address that is dialled, after all names are resolved and
// right before the kernel connects: what a URL says, how it spells an address and
// what a name resolved to a moment ago do not matter. Only public addresses on the
// ports 80 and 443 are dialled, the ports and networks that the operator lists
// apart; a policy may bound how often an address is. Each Client has its own
// connections, so one that is used again was dialled under the same rule. No redirect
// is followed, no proxy of the environment used, no cookie kept, and no answer
// inflated; time and bytes are bounded.
//
// URLs of callbacks are secrets. The errors of [Client.Do] name neither URL nor
// host, only an address that was refused.
//
// What no rule can know: which public addresses lead back into the operator's own
// network. A translator with a prefix of its own (RFC 6052) and a hub's own public
// address are for the firewall.
//
// Imports nothing of ours. Starts no goroutine of its own.
package outbound
