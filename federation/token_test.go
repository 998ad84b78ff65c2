package federation

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

var testNow = time.Date(2026, 11, 22, 2, 12, 49, 0, time.UTC)

// trusting returns who believes one key of hub A.
func trusting(private ed25519.PrivateKey) func(string) (Key, bool) {
	k := NewKey(private.Public().(ed25519.PublicKey))
	return func(issuer string) (Key, bool) { return k, issuer == hubA }
}

// members are a JSON object that a case changes; nil takes one out.
type members map[string]any

func (m members) with(changes members) members {
	m = maps.Clone(m)
	for name, v := range changes {
		if m[name] = v; v == nil {
			delete(m, name)
		}
	}
	return m
}

func goodHeader() members {
	return members{"typ": "at+jwt", "alg": "EdDSA", "kid": NewKey(testKey(0).Public().(ed25519.PublicKey)).ID}
}

func goodClaims() members {
	return members{"iss": hubA, "sub": hubA, "peer": hubA, "aud": hubB, "iat": testNow.Unix(), "exp": testNow.Add(5 * time.Minute).Unix(), "jti": "x"}
}

// part encodes JSON, or bytes as they are.
func part(v any) string {
	b, ok := v.([]byte)
	if !ok {
		b, _ = json.Marshal(v)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// sign makes a token, whatever its header says of the algorithm.
func sign(private ed25519.PrivateKey, header, claims any) string {
	text := part(header) + "." + part(claims)
	return text + "." + part(ed25519.Sign(private, []byte(text)))
}

// badToken is a token that must be refused, and what the refusal says.
type badToken struct{ name, token, want string }

// badTokens are what RFC 8725 warns of, what a library lets through that is not asked
// to look, and what only a token between hubs can have.
func badTokens() []badToken {
	good := sign(testKey(0), goodHeader(), goodClaims())
	parts := strings.Split(good, ".")
	head := func(changes members) string { return sign(testKey(0), goodHeader().with(changes), goodClaims()) }
	raw := func(claims string) string { return sign(testKey(0), goodHeader(), []byte(claims)) }
	hs256 := func(secret []byte) string {
		text := part(goodHeader().with(members{"alg": "HS256"})) + "." + parts[1]
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(text))
		return text + "." + part(m.Sum(nil))
	}
	deep := strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20)
	whole, _ := json.Marshal(goodClaims())
	inside := strings.TrimSuffix(string(whole), "}")
	stranger := NewKey(testKey(1).Public().(ed25519.PublicKey))
	return slices.Concat([]badToken{
		{"no token", "", "1 parts, not 3"},
		{"two parts", parts[0] + "." + parts[1], "2 parts, not 3"},
		{"an encrypted one of five parts", good + "..", "5 parts, not 3"},
		{"an empty signature", parts[0] + "." + parts[1] + ".", "part 3 is not base64url"},
		{"base64 with padding", parts[0] + "=." + parts[1] + "." + parts[2], "part 1 is not base64url"},
		{"base64 of the other alphabet", parts[0] + "." + parts[1] + ".+/" + parts[2][2:], "part 3 is not base64url"},
		{"a line end in its base64", parts[0] + "." + parts[1][:4] + "\n" + parts[1][4:] + "." + parts[2], "part 2 is not base64url"},
		{"loose bits at the end of its base64", parts[0] + "." + parts[1] + "." + loosen(parts[2]), "part 3 is not base64url"},
		{"more than 4 KiB", raw(inside + `,"x":"` + strings.Repeat("x", maxToken) + `"}`), "more than 4096 bytes"},
		{"a header that is no object", sign(testKey(0), []byte(`["at+jwt"]`), goodClaims()), "part 1: it is not a JSON object"},
		{"a header that is no JSON", sign(testKey(0), []byte(`{"typ"`), goodClaims()), "part 1: it is not JSON"},
		{"an alg that stands twice", sign(testKey(0), []byte(`{"alg":"none","alg":"EdDSA"}`), goodClaims()), `part 1: "alg" stands twice`},
		{"claims that are no object", raw(`"https://a.example"`), "part 2: it is not a JSON object"},
		{"an iss that stands twice", raw(inside + `,"iss":"https://evil.example"}`), `part 2: "iss" stands twice`},
		{"claims that are not UTF-8", raw("{\"sub\":\"\xff\"}"), "part 2: it is not UTF-8"},
		{"something after the claims", raw(string(whole) + "{}"), "part 2: something follows the object"},
		{"claims that nest deep", raw(inside + `,"a":` + deep + "}"), "part 2: it nests deeper than 8"},

		{"no typ", head(members{"typ": nil}), "typ is not at+jwt"},
		{"typ JWT", head(members{"typ": "JWT"}), "typ is not at+jwt"},
		{"a typ that is no text", head(members{"typ": 1}), "typ is not at+jwt"},
		{"crit", head(members{"crit": []string{"exp"}}), "crit asks"},
		{"a crit that is nothing", sign(testKey(0), fmt.Appendf(nil, `{"typ":"at+jwt","alg":"EdDSA","kid":%q,"crit":null}`, goodHeader()["kid"]), goodClaims()), "crit asks"},
		{"an unencoded payload asked for by crit", head(members{"crit": []string{"b64"}, "b64": false}), "crit asks"},
		{"alg none", part(goodHeader().with(members{"alg": "none"})) + "." + parts[1] + ".AA", "alg is not EdDSA"},
		{"alg in another case", head(members{"alg": "eddsa"}), "alg is not EdDSA"},
		{"no alg", head(members{"alg": nil}), "alg is not EdDSA"},
		{"an alg in a list", head(members{"alg": []string{"EdDSA"}}), "alg is not EdDSA"},
		{"HMAC with the public key as secret", hs256(testKey(0).Public().(ed25519.PublicKey)), "alg is not EdDSA"},
		{"ES256", head(members{"alg": "ES256"}), "alg is not EdDSA"},
		{"no kid", head(members{"kid": nil}), "kid is not a text"},
		{"a kid that is a number", head(members{"kid": 0}), "kid is not a text"},
		{"an empty kid", head(members{"kid": ""}), `kid is not that of the key kept for "https://a.example"`},
		{"a kid that is a path", head(members{"kid": "../../dev/null"}), "kid is not that of the key"},
		{"a new key that nobody has compared", sign(testKey(1), goodHeader().with(members{"kid": stranger.ID}), goodClaims()), "kid is not that of the key"},
		{"a key within the token", sign(testKey(1), goodHeader().with(members{"kid": stranger.ID, "jwk": stranger.JWK()}), goodClaims()), "kid is not that of the key"},
		{"a key elsewhere", sign(testKey(1), goodHeader().with(members{"jku": "https://evil.example/keys"}), goodClaims()), "its signature does not fit"},
		{"somebody else's signature", sign(testKey(1), goodHeader(), goodClaims()), "its signature does not fit"},
		{"claims that were changed", parts[0] + "." + part(goodClaims().with(members{"jti": "y"})) + "." + parts[2], "its signature does not fit"},
		{"a header that was changed", part(goodHeader().with(members{"x": 1})) + "." + parts[1] + "." + parts[2], "its signature does not fit"},
		{"a signature that was cut", parts[0] + "." + parts[1] + "." + part(make([]byte, 32)), "its signature does not fit"},
		{"a signature of nothing", parts[0] + "." + parts[1] + "." + part(make([]byte, ed25519.SignatureSize)), "its signature does not fit"},
	}, badClaims(inside))
}

// badClaims are tokens with good signatures.
func badClaims(inside string) []badToken {
	body := func(changes members) string { return sign(testKey(0), goodHeader(), goodClaims().with(changes)) }
	at := func(d time.Duration) int64 { return testNow.Add(d).Unix() }
	withExp := func(text string) string {
		return sign(testKey(0), goodHeader(), []byte(strings.Replace(inside, fmt.Sprintf(`"exp":%d`, at(5*time.Minute)), `"exp":`+text, 1)+"}"))
	}
	return []badToken{
		{"no iss", body(members{"iss": nil}), "iss is not a text"},
		{"an iss in a list", body(members{"iss": []string{hubA}}), "iss is not a text"},
		{"an iss that is no hub", body(members{"iss": "enwiki"}), `iss: hub "enwiki" is not of the form`},
		{"an iss with a slash", body(members{"iss": hubA + "/"}), "nothing follows the host"},
		{"an iss with a line end", body(members{"iss": hubA + "\nadmin"}), `"https://a.example\nadmin"`},
		{"no aud", body(members{"aud": nil}), `aud is not "https://b.example"`},
		{"a token for another hub", body(members{"aud": "https://c.example"}), `aud is not "https://b.example"`},
		{"an aud in another case", body(members{"aud": "HTTPS://b.example"}), `aud is not "https://b.example"`},
		{"an aud with a slash", body(members{"aud": hubB + "/"}), `aud is not "https://b.example"`},
		{"an aud that only begins with the hub", body(members{"aud": hubB + ".evil.example"}), `aud is not "https://b.example"`},
		{"two audiences", body(members{"aud": []string{hubB, "https://c.example"}}), "aud names 2 audiences, not one"},
		{"one audience twice", body(members{"aud": []string{hubB, hubB}}), "aud names 2 audiences, not one"},
		{"no audience in a list", body(members{"aud": []string{}}), "aud names 0 audiences, not one"},
		{"an aud that is an object", body(members{"aud": members{hubB: true}}), `aud is not "https://b.example"`},
		{"an aud of a number", body(members{"aud": []int{1}}), `aud is not "https://b.example"`},
		{"no sub", body(members{"sub": nil}), "sub is not a text"},
		{"the sub of a publisher", body(members{"sub": "enwiki"}), "sub is not iss"},
		{"no peer", body(members{"peer": nil}), "peer is not a text"},
		{"the peer of another hub", body(members{"peer": "https://c.example"}), "peer is not iss"},
		{"a peer that is true", body(members{"peer": true}), "peer is not a text"},
		{"no exp", body(members{"exp": nil}), "exp is missing"},
		{"exp 0", body(members{"exp": 0}), "exp does not lie between 1970 and 9999"},
		{"an exp that is a text", body(members{"exp": "never"}), "exp is not a number"},
		{"an exp that is nothing", withExp("null"), "exp is not a number"},
		{"an exp beyond all numbers", withExp("1e999"), "exp does not lie between 1970 and 9999"},
		{"an exp that overflows", withExp("9223372036854775808"), "exp does not lie between 1970 and 9999"},
		{"an exp below zero", body(members{"exp": -1}), "exp does not lie between 1970 and 9999"},
		{"expired", body(members{"iat": at(-10 * time.Minute), "exp": at(-5 * time.Minute)}), "it has expired"},
		{"expired just beyond what clocks may differ", body(members{"iat": at(-2 * time.Minute), "exp": at(-time.Minute)}), "it has expired"},
		{"no iat", body(members{"iat": nil}), "iat is missing"},
		{"an iat that is a text", body(members{"iat": "now"}), "iat is not a number"},
		{"issued just beyond what clocks may differ", body(members{"iat": at(61 * time.Second), "exp": at(2 * time.Minute)}), "iat lies ahead"},
		{"nbf ahead", body(members{"nbf": at(61 * time.Second)}), "nbf lies ahead"},
		{"an nbf that is no number", body(members{"nbf": true}), "nbf is not a number"},
		{"a life of more than five minutes", body(members{"exp": at(301 * time.Second)}), "exp does not lie within 5m0s after iat"},
		{"a life that is too long by part of a second", withExp(fmt.Sprintf("%d.5", at(5*time.Minute))), "exp does not lie within 5m0s after iat"},
		{"a life of ten years", body(members{"exp": at(10 * 365 * 24 * time.Hour)}), "exp does not lie within 5m0s after iat"},
		{"an exp before its iat", body(members{"iat": at(20 * time.Second), "exp": at(10 * time.Second)}), "exp does not lie within 5m0s after iat"},
		{"an exp at its iat", body(members{"exp": at(0)}), "exp does not lie within 5m0s after iat"},
	}
}

func TestBadTokensOfPeersAreRefusedEachForItsReason(t *testing.T) {
	cases := badTokens()
	if len(cases) < 75 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			peer, err := VerifyToken(c.token, hubB, testNow, trusting(testKey(0)))
			if !errors.Is(err, ErrToken) || errors.Is(err, ErrUnknownPeer) || !strings.Contains(err.Error(), c.want) || peer != "" {
				t.Fatalf("got %q, %v; want it refused because %s", peer, err, c.want)
			}
			for p := range strings.SplitSeq(c.token, ".") {
				if len(p) > 8 && strings.Contains(err.Error(), p) {
					t.Errorf("the error shows the token: %v", err)
				}
			}
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("the error has two lines: %q", err)
			}
		})
	}
}

func TestATokenIsGoodWithinWhatClocksMayDiffer(t *testing.T) {
	at := func(d time.Duration) int64 { return testNow.Add(d).Unix() }
	for _, c := range []struct {
		name           string
		header, claims members
	}{
		{"as it is", nil, nil},
		{"typ with its long name and in another case", members{"typ": "application/AT+JWT"}, nil},
		{"one audience in a list", nil, members{"aud": []string{hubB}}},
		{"a clock that is ahead", nil, members{"iat": at(time.Minute), "nbf": at(time.Minute), "exp": at(6 * time.Minute)}},
		{"a clock that is behind", nil, members{"iat": at(-359 * time.Second), "exp": at(-59 * time.Second)}},
		{"times in parts of a second", nil, members{"iat": float64(at(0)) + 0.25, "exp": float64(at(60)) + 0.5}},
		{"no jti", nil, members{"jti": nil}},
		{"claims and headers it does not know", members{"x5t": "x", "Crit": 1}, members{"scope": "a b", "Peer": "https://c.example", "admin": true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			peer, err := VerifyToken(sign(testKey(0), goodHeader().with(c.header), goodClaims().with(c.claims)), hubB, testNow, trusting(testKey(0)))
			if err != nil || peer != hubA {
				t.Errorf("got %q, %v", peer, err)
			}
		})
	}
}

func TestATokenOfAHubThatIsNoPeerSaysHowItBecomesOne(t *testing.T) {
	claims := goodClaims().with(members{"iss": "https://c.example:8443"})
	peer, err := VerifyToken(sign(testKey(0), goodHeader(), claims), hubB, testNow, trusting(testKey(0)))
	if !errors.Is(err, ErrUnknownPeer) || errors.Is(err, ErrToken) || peer != "" {
		t.Fatalf("got %q, %v", peer, err)
	}
	for _, want := range []string{`"https://c.example:8443"`, "freshwire peer add https://c.example:8443"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
}

func TestNobodyIsBelievedWithoutAWholeKeyOrWithoutAHubToAskFor(t *testing.T) {
	token := sign(testKey(0), goodHeader(), goodClaims())
	kid := goodHeader()["kid"].(string)
	for _, k := range []Key{{ID: kid}, {ID: kid, Public: make([]byte, 5)}} {
		_, err := VerifyToken(token, hubB, testNow, func(string) (Key, bool) { return k, true })
		if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "its signature does not fit") {
			t.Errorf("%v: got %v", k, err)
		}
	}
	empty := sign(testKey(0), goodHeader(), goodClaims().with(members{"aud": ""}))
	if _, err := VerifyToken(empty, "", testNow, trusting(testKey(0))); !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), `aud is not ""`) {
		t.Errorf("a token for nobody: got %v", err)
	}
}

func TestATokenIsMadeForOneHubAndUsedForHalfOfItsLife(t *testing.T) {
	a := openIdentity(t, newDisk(t), hubA)
	trust := func(issuer string) (Key, bool) { return a.Key(), issuer == hubA }
	now := testNow.Add(300 * time.Millisecond)
	token := func(aud string, after time.Duration) string {
		t.Helper()
		s, err := a.Token(aud, now.Add(after))
		if err != nil {
			t.Fatal(err)
		}
		if len(s) > 700 { // of 4 KiB
			t.Errorf("a token has %d bytes", len(s))
		}
		if peer, err := VerifyToken(s, aud, now.Add(after), trust); err != nil || peer != hubA {
			t.Errorf("got %q, %v", peer, err)
		}
		return s
	}
	first := token(hubB, 0)
	if token(hubB, 149*time.Second) != first {
		t.Error("a token with more than half of its life left was not used again")
	}
	if _, err := VerifyToken(first, "https://c.example", now, trust); !errors.Is(err, ErrToken) {
		t.Errorf("another hub takes the token of this one: %v", err)
	}
	if token("https://c.example", 0) == first {
		t.Error("two hubs are given one token")
	}
	if token(hubB, 0) != first {
		t.Error("a token for one hub was lost with that for another")
	}
	second := token(hubB, 150*time.Second)
	if second == first {
		t.Error("a token with less than half of its life left was used again")
	}
	if token(hubB, -time.Hour) == second {
		t.Error("a token of the future was used after the clock went back")
	}
	for _, aud := range []string{"", hubB + "/", "https://b.example/federation", "*"} {
		if s, err := a.Token(aud, now); err == nil {
			t.Errorf("a token for %q: %s", aud, s)
		}
	}
}

func TestTokensHaveIDsAndSayWhoAsks(t *testing.T) {
	a := openIdentity(t, newDisk(t), hubA)
	ids := map[string]bool{}
	for i := range 10 {
		s, err := a.Token(hubB, testNow.Add(time.Duration(i)*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		header, claims, err := openToken(s)
		if err != nil {
			t.Fatal(err)
		}
		ids[claims.text("jti")] = true
		if header.text("kid") != a.Key().ID || header.text("typ") != "at+jwt" || header.text("alg") != "EdDSA" || claims.text("aud") != hubB ||
			claims.text("iss") != hubA || claims.text("sub") != hubA || claims.text("peer") != hubA ||
			claims.date("exp").Sub(claims.date("iat")) != 5*time.Minute {
			t.Errorf("got %v and %v", header.members, claims.members)
		}
	}
	if len(ids) != 10 || ids[""] {
		t.Errorf("10 tokens have the ids %v", slices.Collect(maps.Keys(ids)))
	}
}

func FuzzVerifyToken(f *testing.F) {
	for _, c := range badTokens() {
		f.Add(c.token)
	}
	f.Add(sign(testKey(0), goodHeader(), goodClaims()))
	f.Fuzz(func(t *testing.T, token string) {
		peer, err := VerifyToken(token, hubB, testNow, trusting(testKey(0)))
		if (err == nil) != (peer == hubA) || err != nil && !errors.Is(err, ErrToken) && !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("got %q, %v", peer, err)
		}
	})
}
