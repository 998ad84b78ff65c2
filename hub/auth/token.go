package auth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/freshwire/freshwire/internal/strictjson"
)

const (
	// MaxToken bounds a token in bytes: it stands in a request's header, of 32 KiB.
	MaxToken = 16 << 10
	// MaxLifetime is the longest time from a token's issue to its expiry: there is no
	// list of those that were taken back.
	MaxLifetime = 24 * time.Hour
	// leeway is how far the clocks of issuer and hub may differ.
	leeway = 30 * time.Second
	// maxSubject bounds a subject in bytes.
	maxSubject = 255
	// maxPrefixes bounds the prefixes of one claim: each is compared with every item
	// of a batch.
	maxPrefixes = 256
	// cachedTokens bounds the tokens whose signatures need not be checked again:
	// 60 µs each, on every request.
	cachedTokens = 10_000
	// typeToken is the media type of an access token.
	// Source: RFC 9068 section 2.1.
	typeToken = "at+jwt"
)

// A Reason is why a token was refused, from a closed set.
type Reason string

// The reasons. Each is also a word for a metric's label.
const (
	Malformed   Reason = "malformed"   // not a JWT of three parts of base64url and strict JSON
	WrongType   Reason = "type"        // typ is not at+jwt
	Critical    Reason = "critical"    // crit names extensions
	Algorithm   Reason = "algorithm"   // alg is not the key's
	UnknownKey  Reason = "unknown-key" // kid names no key of the set
	Signature   Reason = "signature"   // the signature does not fit
	Issuer      Reason = "issuer"      // iss is another
	Audience    Reason = "audience"    // aud does not name this hub
	Expired     Reason = "expired"     // exp has passed
	NotYet      Reason = "not-yet"     // nbf or iat lie ahead
	Lifetime    Reason = "lifetime"    // exp lies more than a day after iat
	BadClaim    Reason = "claim"       // a claim is missing or has a wrong form
	Unavailable Reason = "unavailable" // no key set could be read yet: nobody's fault but the hub's
)

// Reasons lists all of them.
var Reasons = []Reason{Malformed, WrongType, Critical, Algorithm, UnknownKey, Signature, Issuer, Audience, Expired, NotYet,
	Lifetime, BadClaim, Unavailable}

// An Error reports a token that was refused. Its text shows nothing of the token
// but the names of claims.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return "the token is refused: " + e.Detail }

func bad(reason Reason, format string, args ...any) *Error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}

// Options says whose tokens are believed. All but Schemes and Clock are required.
type Options struct {
	Keys     *Keys
	Issuer   string
	Audience string           // what aud must name
	Schemes  []string         // of URIs in prefixes, beside those of graph.CheckURI
	Clock    func() time.Time // nil means time.Now
}

// A Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	o      Options
	parser *jwt.Parser
	known  *lru.Cache[[sha256.Size]byte, verified]
	hits   atomic.Uint64
}

// verified is a token whose signature and claims were good when keys was in force.
type verified struct {
	rights  Rights
	notTill time.Time
	keys    *KeySet
}

// NewVerifier returns a verifier.
func NewVerifier(o Options) *Verifier {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	v := &Verifier{o: o, parser: jwt.NewParser(jwt.WithValidMethods([]string{EdDSA, ES256}), jwt.WithStrictDecoding(),
		jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway), jwt.WithTimeFunc(o.Clock))}
	v.known, _ = lru.New[[sha256.Size]byte, verified](cachedTokens)
	return v
}

// Verify returns what the holder of a token may do, or an *Error. It may wait for
// the keys to be read, for as long as ctx allows.
func (v *Verifier) Verify(ctx context.Context, token string) (Rights, error) {
	now := v.o.Clock()
	sum := sha256.Sum256([]byte(token))
	if k, ok := v.known.Get(sum); ok && k.keys == v.o.Keys.Current() && now.Before(k.rights.Expires) && !now.Before(k.notTill) {
		v.hits.Add(1)
		return k.rights, nil
	}
	header, claims, err := open(token)
	if err != nil {
		return Rights{}, err
	}
	kid, err := checkHeader(header)
	if err != nil {
		return Rights{}, err
	}
	signed, set, err := v.o.Keys.Find(ctx, kid)
	if err != nil {
		return Rights{}, err
	}
	if header["alg"] != signed.alg {
		return Rights{}, bad(Algorithm, "alg is not that of its key, %s", signed.alg)
	}
	if _, err := v.parser.Parse(token, func(*jwt.Token) (any, error) { return signed.public, nil }); err != nil {
		if e := timesError(claims, now); e != nil && !errors.Is(err, jwt.ErrTokenSignatureInvalid) {
			return Rights{}, e
		}
		return Rights{}, libraryError(err)
	}
	k := verified{keys: set}
	if k.rights, k.notTill, err = v.rights(claims, now); err != nil {
		return Rights{}, err
	}
	v.known.Add(sum, k)
	return k.rights, nil
}

// Hits counts the tokens that were known.
func (v *Verifier) Hits() uint64 { return v.hits.Load() }

// Inspect returns the header and the claims of a token as JSON, without believing
// any of it. Its error is an *Error.
func Inspect(token string) (header, claims json.RawMessage, err error) {
	if _, _, err := open(token); err != nil {
		return nil, nil, err
	}
	parts := strings.Split(token, ".")
	p := jwt.NewParser(jwt.WithStrictDecoding())
	header, errHeader := p.DecodeSegment(parts[0])
	claims, errClaims := p.DecodeSegment(parts[1])
	return header, claims, errors.Join(errHeader, errClaims)
}

// open takes a token apart, strictly.
func open(token string) (header, claims map[string]any, err error) {
	if len(token) > MaxToken {
		return nil, nil, bad(Malformed, "it has more than %d bytes", MaxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, bad(Malformed, "it has %d parts, not 3", len(parts))
	}
	p := jwt.NewParser(jwt.WithStrictDecoding())
	objects := [2]map[string]any{}
	for i, part := range parts {
		// The decoder would skip line ends, so that a token had many spellings.
		b, err := p.DecodeSegment(part)
		if err != nil || part == "" || strings.ContainsAny(part, "\r\n") {
			return nil, nil, bad(Malformed, "part %d is not base64url", i+1)
		}
		if i < len(objects) {
			if objects[i], err = strictjson.Object(b, maxDepth); err != nil {
				return nil, nil, bad(Malformed, "part %d: %v", i+1, err)
			}
		}
	}
	return objects[0], objects[1], nil
}

// checkHeader looks at everything in a header but which key it names. Where else a
// key may be found (jku, jwk, x5u, x5c) is never looked at.
// Source: RFC 8725 sections 3.1, 3.9, 3.10, 3.11; RFC 7515 section 4.1.11.
func checkHeader(header map[string]any) (kid string, err error) {
	if _, has := header["crit"]; has {
		return "", bad(Critical, "crit asks for extensions, and there are none")
	}
	typ, _ := header["typ"].(string)
	if t := strings.TrimPrefix(strings.ToLower(typ), "application/"); t != typeToken {
		return "", bad(WrongType, "typ is not %s", typeToken)
	}
	switch header["alg"] {
	case EdDSA, ES256:
	default:
		return "", bad(Algorithm, "alg is not %s or %s", EdDSA, ES256)
	}
	if kid, _ = header["kid"].(string); kid == "" || len(kid) > maxKeyID {
		return "", bad(UnknownKey, "kid does not have 1 to %d bytes", maxKeyID)
	}
	return kid, nil
}

// libraryError tells the library's reasons apart.
func libraryError(err error) *Error {
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return bad(Signature, "its signature does not fit its key")
	case errors.Is(err, jwt.ErrTokenExpired):
		return bad(Expired, "it has expired")
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued), errors.Is(err, jwt.ErrTokenNotValidYet):
		return bad(NotYet, "it is not good yet; set the clocks")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return bad(Issuer, "iss is not the issuer this hub believes")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return bad(Audience, "aud does not name this hub")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return bad(BadClaim, "iss, aud or exp is missing")
	case errors.Is(err, jwt.ErrInvalidType):
		return bad(BadClaim, "iss, aud, exp, nbf or iat has a wrong form")
	}
	return bad(Malformed, "it is not a JWT")
}

// maxDate is the latest time a claim may name, in seconds of Unix time: the year
// 9999. The library makes nonsense of what does not fit a whole number.
const maxDate = 253402300799

// date reads a claim that is a time; absent is zero.
func date(claims map[string]any, name string) (time.Time, *Error) {
	v, ok := claims[name]
	if !ok {
		return time.Time{}, nil
	}
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, bad(BadClaim, "%s is not a number", name)
	}
	f, err := n.Float64()
	if err != nil || !(f > 0 && f <= maxDate) {
		return time.Time{}, bad(BadClaim, "%s does not lie between 1970 and 9999", name)
	}
	whole, part := math.Modf(f)
	return time.Unix(int64(whole), int64(part*float64(time.Second))), nil
}

// timesError reports what is wrong with the times of a token.
// Source: RFC 7519 section 4.1; RFC 9068 section 2.2.
func timesError(claims map[string]any, now time.Time) *Error {
	times := map[string]time.Time{}
	for _, name := range []string{"exp", "nbf", "iat"} {
		var e *Error
		if times[name], e = date(claims, name); e != nil {
			return e
		}
	}
	exp, iat := times["exp"], times["iat"]
	switch {
	case exp.IsZero() || iat.IsZero():
		return bad(BadClaim, "exp and iat must be there")
	case !now.Before(exp.Add(leeway)):
		return bad(Expired, "it has expired")
	case iat.After(now.Add(leeway)) || times["nbf"].After(now.Add(leeway)):
		return bad(NotYet, "it is not good yet; set the clocks")
	case !exp.After(iat) || exp.Sub(iat) > MaxLifetime:
		return bad(Lifetime, "exp does not lie within %s after iat", MaxLifetime)
	}
	return nil
}

// rights reads the claims of a token that is genuine.
func (v *Verifier) rights(claims map[string]any, now time.Time) (r Rights, notTill time.Time, err error) {
	if e := timesError(claims, now); e != nil {
		return Rights{}, notTill, e
	}
	exp, _ := date(claims, "exp")
	notTill, _ = date(claims, "nbf")
	if !notTill.IsZero() {
		notTill = notTill.Add(-leeway)
	}
	r.Expires = exp.Add(leeway)
	r.Issued, _ = date(claims, "iat")
	if r.Subject, err = text(claims, "sub"); err == nil {
		err = checkSubject(r.Subject)
	}
	if admin, has := claims["admin"]; err == nil && has {
		var ok bool
		if r.Admin, ok = admin.(bool); !ok {
			err = errors.New("admin is not true or false")
		}
	}
	if err == nil {
		r.Peer, err = text(claims, "peer")
	}
	for name, list := range map[string]*Prefixes{"publish": &r.Publish, "subscribe": &r.Subscribe} {
		if err == nil {
			*list, err = texts(claims, name, maxPrefixes)
		}
		if err == nil {
			if err = list.check(v.o.Schemes); err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if err != nil {
		return Rights{}, notTill, bad(BadClaim, "%v", err)
	}
	return r, notTill, nil
}

// checkSubject refuses what cannot name a publisher.
func checkSubject(s string) error {
	switch {
	case s == "" || len(s) > maxSubject:
		return fmt.Errorf("sub does not have 1 to %d bytes", maxSubject)
	case strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("sub has a control character")
	case s == Local:
		return fmt.Errorf("sub is %q, which names who needs no token", Local)
	}
	return nil
}
