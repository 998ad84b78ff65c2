// Package auth tells who sent a request and what they may do: it checks bearer
// tokens and finds the keys that signed them.
//
// A token is a JWT of type at+jwt, signed with EdDSA (Ed25519) or ES256 by a key of
// a JSON Web Key Set that the operator names. Its claims publish and subscribe list
// the URI prefixes under which its holder may send updates and read; admin allows
// everything, peer names another hub. What a token does not say is not allowed.
//
// Every rule of RFC 8725 (best current practices for JWTs) is checked, for the
// library checks few of them unless it is asked: the algorithm is the key's and never
// the token's choice, issuer, audience, expiry and time of issue must be there, a
// token lives for at most a day, typ and crit are looked at, and a key id only finds
// a key in a map. The two JSON objects in a token are read strictly: a name that
// stands twice, or text that is not UTF-8, is refused.
//
// Keys come from a file, which is read again when it changes, or from a URL. The last
// good set stays in force while a source fails. [Keys] starts no goroutine.
//
// Source: RFC 7515, 7517, 7519, 7638, 8037, 8725, 9068.
//
// Imports graph, for what a URI prefix covers, and internal/strictjson.
package auth
