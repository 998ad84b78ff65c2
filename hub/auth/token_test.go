package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	issuer   = "https://issuer.example.org"
	audience = "https://hub.example.org"
)

var issued = time.Date(2026, 11, 22, 2, 12, 49, 0, time.UTC)

// A bench is an issuer and a hub that believes it.
type bench struct {
	ed, ec *SigningKey
	v      *Verifier
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{ed: mustKey(t, EdDSA), ec: mustKey(t, ES256)}
	set, err := b.ed.AddTo(nil)
	if err == nil {
		set, err = b.ec.AddTo(set)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.v = NewVerifier(Options{Keys: keysFile(t, set), Issuer: issuer, Audience: audience, Clock: func() time.Time { return issued }})
	return b
}

func mustKey(t testing.TB, alg string) *SigningKey {
	t.Helper()
	k, err := GenerateKey(alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keysFile(t testing.TB, set []byte) *Keys {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(name, set, 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := OpenKeys(t.Context(), name, KeysOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// object is a JSON object whose members a case changes; nil takes one out.
type object map[string]any

func (o object) with(changes object) object {
	o = maps.Clone(o)
	for name, v := range changes {
		if o[name] = v; v == nil {
			delete(o, name)
		}
	}
	return o
}

func (b *bench) header(k *SigningKey) object {
	return object{"typ": "at+jwt", "alg": k.alg(), "kid": k.ID()}
}

func claims() object {
	return object{"iss": issuer, "aud": audience, "sub": "enwiki", "iat": issued.Unix(), "exp": issued.Add(time.Hour).Unix(),
		"publish": []string{"https://en.example.org"}}
}

func encode(v any) string {
	b, isText := []byte(nil), false
	if b, isText = v.([]byte); !isText {
		b, _ = json.Marshal(v)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// sign makes a token of a header and claims, JSON or bytes as they are, whatever
// the header says of the algorithm.
func sign(k *SigningKey, header, claims any) string {
	text := encode(header) + "." + encode(claims)
	sig, err := jwt.GetSigningMethod(k.alg()).Sign(text, k.private)
	if err != nil {
		panic(err)
	}
	return text + "." + encode(sig)
}

func hmacSign(secret []byte, header, claims any) string {
	text := encode(header) + "." + encode(claims)
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(text))
	return text + "." + encode(m.Sum(nil))
}

// badToken is a token that must be refused, and why.
type badToken struct {
	name   string
	token  string
	reason Reason
}

// badTokens are what RFC 8725 warns of, and what a library lets through that is not
// asked to look.
func badTokens(t testing.TB, b *bench) []badToken {
	good := sign(b.ed, b.header(b.ed), claims())
	parts := strings.Split(good, ".")
	head := func(changes object) string { return sign(b.ed, b.header(b.ed).with(changes), claims()) }
	body := func(changes object) string { return sign(b.ed, b.header(b.ed), claims().with(changes)) }
	raw := func(claims string) string { return sign(b.ed, b.header(b.ed), []byte(claims)) }
	stranger := mustKey(t, EdDSA)
	public, _ := json.Marshal(b.ed.jwk)
	x, _ := base64.RawURLEncoding.DecodeString(b.ed.jwk.X)
	rest := fmt.Sprintf(`"iss":%q,"aud":%q,"sub":"enwiki","iat":%d`, issuer, audience, issued.Unix())
	exp := issued.Add(time.Hour).Unix()
	deep := strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20)
	return slices.Concat([]badToken{
		{"empty", "", Malformed},
		{"two parts", parts[0] + "." + parts[1], Malformed},
		{"four parts", good + ".x", Malformed},
		{"an encrypted one of five parts", good + "..", Malformed},
		{"an empty signature", parts[0] + "." + parts[1] + ".", Malformed},
		{"base64 with padding", parts[0] + "=." + parts[1] + "." + parts[2], Malformed},
		{"base64 of the other alphabet", parts[0] + "." + parts[1] + "." + "+/" + parts[2][2:], Malformed},
		{"line ends in its base64", parts[0] + "." + parts[1][:4] + "\n" + parts[1][4:] + "." + parts[2], Malformed},
		{"loose bits at the end of its base64", parts[0] + "." + parts[1] + "." + loosen(parts[2]), Malformed},
		{"longer than a header bears", good + strings.Repeat("A", MaxToken), Malformed},
		{"a header that is no object", sign(b.ed, []byte(`["at+jwt"]`), claims()), Malformed},
		{"a header with a name twice", sign(b.ed, fmt.Appendf(nil, `{"typ":"at+jwt","alg":"none","alg":"EdDSA","kid":%q}`, b.ed.ID()), claims()), Malformed},
		{"claims that are no object", raw(`"enwiki"`), Malformed},
		{"claims with a name twice", raw(`{"sub":"dewiki",` + rest + fmt.Sprintf(`,"exp":%d}`, exp)), Malformed},
		{"claims that are not UTF-8", raw("{\"sub\":\"\xff\"}"), Malformed},
		{"something after the claims", raw(`{` + rest + fmt.Sprintf(`,"exp":%d}{}`, exp)), Malformed},
		{"claims that nest deep", raw(`{"a":` + deep + `}`), Malformed},

		{"no typ", head(object{"typ": nil}), WrongType},
		{"typ JWT", head(object{"typ": "JWT"}), WrongType},
		{"an id token", head(object{"typ": "id+jwt"}), WrongType},
		{"a typ that is no text", head(object{"typ": 1}), WrongType},
		{"crit", head(object{"crit": []string{"exp"}}), Critical},
		{"an empty crit", head(object{"crit": []string{}}), Critical},
		{"an unencoded payload asked for by crit", head(object{"crit": []string{"b64"}, "b64": false}), Critical},

		{"alg none", head(object{"alg": "none"}), Algorithm},
		{"alg none without a signature", encode(b.header(b.ed).with(object{"alg": "none"})) + "." + parts[1] + ".AA", Algorithm},
		{"alg nOnE", head(object{"alg": "nOnE"}), Algorithm},
		{"alg in another case", head(object{"alg": "eddsa"}), Algorithm},
		{"no alg", head(object{"alg": nil}), Algorithm},
		{"HMAC with the public key as secret", hmacSign(x, b.header(b.ed).with(object{"alg": "HS256"}), claims()), Algorithm},
		{"HMAC with the key set as secret", hmacSign(public, b.header(b.ed).with(object{"alg": "HS256"}), claims()), Algorithm},
		{"RSA", rsaSign(t, b.header(b.ed).with(object{"alg": "RS256"}), claims()), Algorithm},
		{"the algorithm of another key", sign(b.ed, b.header(b.ed).with(object{"alg": ES256}), claims()), Algorithm},
		{"another curve", sign(b.ec, b.header(b.ec).with(object{"alg": "ES384"}), claims()), Algorithm},

		{"no kid", head(object{"kid": nil}), UnknownKey},
		{"a kid that nobody has", head(object{"kid": "other"}), UnknownKey},
		{"a kid that is a path", head(object{"kid": "../../../../dev/null"}), UnknownKey},
		{"a kid that is a query", head(object{"kid": "x' UNION SELECT 'secret"}), UnknownKey},
		{"a kid that is a number", head(object{"kid": 0}), UnknownKey},
		{"a very long kid", head(object{"kid": strings.Repeat("k", maxKeyID+1)}), UnknownKey},
		{"a key within the token", sign(stranger, b.header(stranger).with(object{"jwk": stranger.jwk}), claims()), UnknownKey},
		{"a key elsewhere", sign(stranger, b.header(stranger).with(object{"jku": "https://evil.example/keys", "x5u": "https://evil.example/x"}), claims()), UnknownKey},

		{"somebody else's signature", sign(stranger, b.header(b.ed), claims()), Signature},
		{"claims that were changed", parts[0] + "." + encode(claims().with(object{"admin": true})) + "." + parts[2], Signature},
		{"a header that was changed", encode(b.header(b.ed).with(object{"x": 1})) + "." + parts[1] + "." + parts[2], Signature},
		{"a signature that was cut", parts[0] + "." + parts[1] + "." + parts[2][:40], Signature},
		{"a signature of nothing", parts[0] + "." + parts[1] + "." + encode(make([]byte, ed25519.SignatureSize)), Signature},
		{"an ECDSA signature of zeros", encode(b.header(b.ec)) + "." + parts[1] + "." + encode(make([]byte, 64)), Signature},
		{"an ECDSA signature in ASN.1", asn1Sign(b.ec, b.header(b.ec), claims()), Signature},
	}, badClaims(b, body, raw, rest, exp))
}

// badClaims are tokens with good signatures.
func badClaims(b *bench, body func(object) string, raw func(string) string, rest string, exp int64) []badToken {
	at := func(d time.Duration) int64 { return issued.Add(d).Unix() }
	many := make([]string, maxPrefixes+1)
	for i := range many {
		many[i] = "https://en.example.org"
	}
	return []badToken{
		{"no iss", body(object{"iss": nil}), BadClaim},
		{"another issuer", body(object{"iss": "https://evil.example"}), Issuer},
		{"the issuer with a slash", body(object{"iss": issuer + "/"}), Issuer},
		{"an issuer in a list", body(object{"iss": []string{issuer}}), BadClaim},
		{"no aud", body(object{"aud": nil}), BadClaim},
		{"an empty aud", body(object{"aud": ""}), BadClaim},
		{"another audience", body(object{"aud": "https://other.example.org"}), Audience},
		{"many other audiences", body(object{"aud": []string{"a", "b"}}), Audience},
		{"an aud in another case", body(object{"aud": strings.ToUpper(audience)}), Audience},
		{"no exp", body(object{"exp": nil}), BadClaim},
		{"exp 0", body(object{"exp": 0}), BadClaim},
		{"an exp that is a text", body(object{"exp": "never"}), BadClaim},
		{"an exp beyond all numbers", raw(`{` + rest + `,"exp":1e300}`), BadClaim},
		{"an exp below zero", body(object{"exp": -1}), BadClaim},
		{"expired", body(object{"iat": at(-2 * time.Hour), "exp": at(-time.Hour)}), Expired},
		{"expired just beyond what clocks may differ", body(object{"iat": at(-2 * time.Hour), "exp": at(-leeway)}), Expired},
		{"no iat", body(object{"iat": nil}), BadClaim},
		{"an iat that is a text", body(object{"iat": "now"}), BadClaim},
		{"issued in the future", body(object{"iat": at(time.Minute)}), NotYet},
		{"nbf in the future", body(object{"nbf": at(time.Minute)}), NotYet},
		{"an nbf that is no number", body(object{"nbf": true}), BadClaim},
		{"a life of more than a day", body(object{"exp": at(MaxLifetime + time.Second)}), Lifetime},
		{"a life of ten years", body(object{"exp": at(10 * 365 * 24 * time.Hour)}), Lifetime},
		{"an exp before its iat", body(object{"iat": at(20 * time.Second), "exp": at(10 * time.Second)}), Lifetime},
		{"no sub", body(object{"sub": nil}), BadClaim},
		{"an empty sub", body(object{"sub": ""}), BadClaim},
		{"a sub that is a number", body(object{"sub": 7}), BadClaim},
		{"a sub with a line end", body(object{"sub": "enwiki\nadmin"}), BadClaim},
		{"a very long sub", body(object{"sub": strings.Repeat("s", maxSubject+1)}), BadClaim},
		{"the sub of who needs no token", body(object{"sub": Local}), BadClaim},
		{"admin that is a text", body(object{"admin": "true"}), BadClaim},
		{"admin that is 1", body(object{"admin": 1}), BadClaim},
		{"publish that is a text", body(object{"publish": "https://en.example.org"}), BadClaim},
		{"publish that is an object", body(object{"publish": object{"*": true}}), BadClaim},
		{"publish of numbers", body(object{"publish": []int{1}}), BadClaim},
		{"a prefix that is not canonical", body(object{"publish": []string{"https://EN.example.org"}}), BadClaim},
		{"a prefix that is a scheme", body(object{"subscribe": []string{"https://"}}), BadClaim},
		{"an empty prefix", body(object{"subscribe": []string{""}}), BadClaim},
		{"a prefix with a star", body(object{"subscribe": []string{"https://*.example.org"}}), BadClaim},
		{"a prefix with a way up", body(object{"publish": []string{"https://en.example.org/a/../b"}}), BadClaim},
		{"too many prefixes", body(object{"subscribe": many}), BadClaim},
		{"a peer that is a list", body(object{"peer": []string{"https://b.example.org"}}), BadClaim},
	}
}

// loosen sets a bit at the end of base64 that decodes to nothing.
func loosen(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[last|1])
}

func rsaSign(t testing.TB, header, claims any) string {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(sig)
}

func asn1Sign(k *SigningKey, header, claims any) string {
	text := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := ecdsa.SignASN1(rand.Reader, k.private.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + encode(sig)
}

func TestBadTokensAreRefusedEachForItsReason(t *testing.T) {
	b := newBench(t)
	cases := badTokens(t, b)
	if len(cases) < 35 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, err := b.v.Verify(t.Context(), c.token)
			var no *Error
			if !errors.As(err, &no) || no.Reason != c.reason {
				t.Fatalf("got %+v, %v; want it refused for %s", r, err, c.reason)
			}
			if !slices.Contains(Reasons, no.Reason) {
				t.Errorf("%s is not a reason", no.Reason)
			}
			for part := range strings.SplitSeq(c.token, ".") {
				if len(part) > 8 && strings.Contains(err.Error(), part) {
					t.Errorf("the error shows the token: %v", err)
				}
			}
		})
	}
}

func TestGoodTokensSayWhatTheirHolderMay(t *testing.T) {
	b := newBench(t)
	at := func(d time.Duration) int64 { return issued.Add(d).Unix() }
	for _, c := range []struct {
		name   string
		key    *SigningKey
		header object
		claims object
	}{
		{"Ed25519", b.ed, object{}, object{}},
		{"P-256", b.ec, object{}, object{}},
		{"typ with its long name and in another case", b.ed, object{"typ": "application/AT+JWT"}, object{}},
		{"several audiences", b.ed, object{}, object{"aud": []string{"https://other.example.org", audience}}},
		{"the longest life", b.ed, object{}, object{"exp": at(MaxLifetime)}},
		{"a clock that is a little ahead", b.ed, object{}, object{"iat": at(leeway), "nbf": at(leeway)}},
		{"a clock that is a little behind", b.ed, object{}, object{"iat": at(-time.Hour), "exp": at(-leeway + time.Second)}},
		{"claims it does not know", b.ed, object{"x5t": "x"}, object{"scope": "a b", "Admin": true, "PUBLISH": []string{"*"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := b.v.Verify(t.Context(), sign(c.key, b.header(c.key).with(c.header), claims().with(c.claims)))
			if err != nil {
				t.Fatal(err)
			}
			if r.Subject != "enwiki" || r.Admin || r.Anonymous() || !r.MayPublish("https://en.example.org/wiki/A") ||
				r.MayPublish("https://de.example.org/wiki/A") || r.Sees("https://en.example.org/wiki/A") || r.SeesAll() {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestAMintedTokenIsGoodAndSaysWhatItWasToldTo(t *testing.T) {
	b := newBench(t)
	g := Grant{Issuer: issuer, Audience: audience, TTL: time.Hour, Rights: Rights{Subject: "enwiki", Peer: "https://b.example.org",
		Publish: Prefixes{"https://en.example.org/wiki"}, Subscribe: Prefixes{"*"}}}
	for _, k := range []*SigningKey{b.ed, b.ec} {
		token, err := k.Mint(g, issued)
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.v.Verify(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		if r.Subject != "enwiki" || r.Admin || r.Peer != g.Peer || !r.SeesAll() || !r.MayPublish("https://en.example.org/wiki/A#html") ||
			r.MayPublish("https://en.example.org/w") || !r.Expires.Equal(issued.Add(time.Hour+leeway)) {
			t.Errorf("got %+v", r)
		}
	}
	for name, change := range map[string]func(*Grant){
		"no issuer":    func(g *Grant) { g.Issuer = "" },
		"no audience":  func(g *Grant) { g.Audience = "" },
		"too long":     func(g *Grant) { g.TTL = MaxLifetime + 1 },
		"no time":      func(g *Grant) { g.TTL = 0 },
		"no subject":   func(g *Grant) { g.Subject = "" },
		"wrong prefix": func(g *Grant) { g.Publish = Prefixes{"en.example.org"} },
	} {
		no := g
		change(&no)
		if _, err := b.ed.Mint(no, issued); err == nil {
			t.Errorf("%s: it was minted", name)
		}
	}
}

func TestATokenIsCheckedOnceAndBelievedUntilItExpiresOrItsKeyGoes(t *testing.T) {
	b := newBench(t)
	now := issued
	name := filepath.Join(t.TempDir(), "keys.json")
	write := func(k *SigningKey) {
		t.Helper()
		set, err := k.AddTo(nil)
		if err == nil {
			err = os.WriteFile(name, set, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(b.ed)
	keys, err := OpenKeys(t.Context(), name, KeysOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v := NewVerifier(Options{Keys: keys, Issuer: issuer, Audience: audience, Clock: func() time.Time { return now }})
	token := sign(b.ed, b.header(b.ed), claims())
	verify := func(want Reason) {
		t.Helper()
		_, err := v.Verify(t.Context(), token)
		var no *Error
		if got := Reason(""); errors.As(err, &no) && no.Reason != want || (err == nil) != (want == got) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	verify("")
	verify("")
	if v.Hits() != 1 {
		t.Errorf("%d hits, want 1", v.Hits())
	}
	now = issued.Add(2 * time.Hour)
	verify(Expired)
	now = issued
	verify("")
	write(b.ec)
	keys.refresh(t.Context())
	verify(UnknownKey)
}

func TestRightsGoByWholeSegments(t *testing.T) {
	for _, c := range []struct {
		prefix, uri string
		want        bool
	}{
		{"https://en.example.org", "https://en.example.org/wiki/A", true},
		{"https://en.example.org", "https://en.example.org.evil.example/wiki/A", false},
		{"https://en.example.org", "http://en.example.org/wiki/A", false},
		{"https://en.example.org", "https://en.example.org:8443/wiki/A", false},
		{"https://en.example.org/wiki", "https://en.example.org/wiki/A#html", true},
		{"https://en.example.org/wiki", "https://en.example.org/wikitext", false},
		{"https://en.example.org/wiki/A", "https://en.example.org/wiki/A#html", true},
		{"https://en.example.org/wiki/A#html", "https://en.example.org/wiki/A", false},
		{"*", "urn:isbn:1", true},
	} {
		r := Rights{Publish: Prefixes{c.prefix}}
		if got := r.MayPublish(c.uri); got != c.want {
			t.Errorf("%s covers %s: %t, want %t", c.prefix, c.uri, got, c.want)
		}
	}
	a, b := Prefixes{"https://a.example", "https://b.example"}, Prefixes{"https://b.example", "https://a.example", "https://a.example"}
	if a.Key() != b.Key() || a.Key() == (Prefixes{"https://a.example"}).Key() || (Prefixes{"x", "*"}).Key() != "" {
		t.Error("keys of prefixes do not tell them apart")
	}
}

func FuzzVerify(f *testing.F) {
	b := newBench(f)
	for _, c := range badTokens(f, b) {
		f.Add(c.token)
	}
	f.Add(sign(b.ed, b.header(b.ed), claims()))
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := b.v.Verify(context.Background(), token); err != nil {
			if no := (*Error)(nil); !errors.As(err, &no) {
				t.Errorf("%v is no *Error", err)
			}
		}
		Inspect(token)
	})
}

func BenchmarkVerify(b *testing.B) {
	be := newBench(b)
	for _, k := range []*SigningKey{be.ed, be.ec} {
		token := sign(k, be.header(k), claims())
		b.Run("alg="+k.alg()+"/cache=cold", func(b *testing.B) {
			for b.Loop() {
				be.v.known.Purge()
				if _, err := be.v.Verify(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("alg="+k.alg()+"/cache=warm", func(b *testing.B) {
			for b.Loop() {
				if _, err := be.v.Verify(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
