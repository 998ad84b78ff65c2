package federation

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// tokenLife is how long a token between hubs is good: there is no list of those
	// that were taken back, and who needs one makes it himself.
	tokenLife = 5 * time.Minute
	// tokenLeeway is how far the clocks of two hubs may differ. Both sides of a token
	// are machines of operators who do not know each other.
	tokenLeeway = time.Minute
	// maxToken bounds a token in bytes: five claims of which three are URLs of hosts.
	maxToken = 4 << 10
	// cachedTokens bounds the tokens that are kept to be used again, one for each peer.
	cachedTokens = 1_024
	// algorithm is the one a token is signed with.
	algorithm = "EdDSA"
	// typeToken is the media type of an access token.
	// Source: RFC 9068 section 2.1.
	typeToken = "at+jwt"
)

var (
	// ErrToken reports a token that proves nothing. What wraps it says why, and shows
	// nothing of the token but the names of claims and the issuer.
	ErrToken = errors.New("the token of the peer is refused")
	// ErrUnknownPeer reports a token of a hub that is not a peer, genuine or not.
	ErrUnknownPeer = errors.New("the hub is not a peer of this one")
)

// issued is a token and the times between which it is used.
type issued struct {
	token string
	from  time.Time
	until time.Time
}

// Token returns a token that proves to the hub aud who is asking. It is good for at
// least half of five minutes from now, and the same for all requests until then, so
// its jti names a token and not a request.
func (i *Identity) Token(aud string, now time.Time) (string, error) {
	// A clock that was set back would send a token of the future.
	if t, ok := i.tokens.Get(aud); ok && !now.Before(t.from) && now.Before(t.until) {
		return t.token, nil
	}
	if err := CheckHub(aud); err != nil {
		return "", err
	}
	var id [16]byte
	rand.Read(id[:])
	from := now.Truncate(time.Second)
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"iss": i.hub, "sub": i.hub, "peer": i.hub, "aud": aud,
		"iat": from.Unix(), "exp": from.Add(tokenLife).Unix(), "jti": base64.RawURLEncoding.EncodeToString(id[:])})
	t.Header["typ"], t.Header["kid"] = typeToken, i.key.ID
	token, err := t.SignedString(i.private)
	if err != nil {
		return "", fmt.Errorf("sign a token for %s: %w", aud, err)
	}
	i.tokens.Add(aud, issued{token, from, from.Add(tokenLife / 2)})
	return token, nil
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrToken, fmt.Errorf(format, args...))
}

// VerifyToken returns the URL of the peer who made a token for the hub aud. key
// returns the one key that is believed of an issuer, and false for who is not a peer.
// Nothing a token says of itself changes how it is checked. Its errors are
// [ErrUnknownPeer] and [ErrToken].
// Source: RFC 8725 section 3; RFC 7519 section 4.1; RFC 9068 section 4.
func VerifyToken(token, aud string, now time.Time, key func(issuer string) (Key, bool)) (peer string, err error) {
	header, claims, err := openToken(token)
	if err != nil {
		return "", err
	}
	kid, err := checkHeader(header)
	if err != nil {
		return "", err
	}
	issuer := claims.text("iss")
	if claims.fault != nil {
		return "", refused("%w", claims.fault)
	}
	if err := CheckHub(issuer); err != nil {
		return "", refused("iss: %w", err)
	}
	pinned, ok := key(issuer)
	if !ok {
		return "", fmt.Errorf("%w: %q; who runs this one adds it with: freshwire peer add %s", ErrUnknownPeer, issuer, issuer)
	}
	if kid != pinned.ID {
		return "", refused("kid is not that of the key kept for %q", issuer)
	}
	// The library is told everything that is checked below once more, where the reasons
	// are told apart: no claim rests on what it takes for granted.
	p := jwt.NewParser(jwt.WithValidMethods([]string{algorithm}), jwt.WithStrictDecoding(), jwt.WithIssuer(issuer), jwt.WithSubject(issuer),
		jwt.WithAudience(aud), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(tokenLeeway),
		jwt.WithTimeFunc(func() time.Time { return now }))
	_, err = p.Parse(token, func(*jwt.Token) (any, error) { return pinned.Public, nil })
	if errors.Is(err, jwt.ErrTokenSignatureInvalid) {
		return "", refused("its signature does not fit the key kept for %q", issuer)
	}
	if err := checkClaims(claims, issuer, aud, now); err != nil {
		return "", err
	}
	if err != nil {
		return "", refused("it is not a JWT")
	}
	return issuer, nil
}

// openToken takes a token apart, strictly.
func openToken(token string) (header, claims *object, err error) {
	if len(token) > maxToken {
		return nil, nil, refused("it has more than %d bytes", maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, refused("it has %d parts, not 3", len(parts))
	}
	p := jwt.NewParser(jwt.WithStrictDecoding())
	objects := [2]*object{}
	for i, part := range parts {
		// The decoder would pass over line ends, so that a token had many spellings.
		b, err := p.DecodeSegment(part)
		if err != nil || part == "" || strings.ContainsAny(part, "\r\n") {
			return nil, nil, refused("part %d is not base64url", i+1)
		}
		if i < len(objects) {
			if objects[i], err = readObject(b); err != nil {
				return nil, nil, refused("part %d: %w", i+1, err)
			}
		}
	}
	return objects[0], objects[1], nil
}

// checkHeader looks at everything in a header but which key it names. Where else a
// key may be found (jku, jwk, x5u, x5c) is never looked at.
// Source: RFC 8725 sections 3.1, 3.9, 3.10, 3.11; RFC 7515 section 4.1.11.
func checkHeader(header *object) (kid string, err error) {
	typ, kid := header.text("typ"), header.text("kid")
	switch {
	case header.has("crit"):
		return "", refused("crit asks for extensions, and there are none")
	case strings.TrimPrefix(strings.ToLower(typ), "application/") != typeToken:
		return "", refused("typ is not %s", typeToken)
	case header.members["alg"] != algorithm:
		return "", refused("alg is not %s", algorithm)
	case header.fault != nil:
		return "", refused("%w", header.fault)
	}
	return kid, nil
}

// checkClaims looks at the claims of a token whose signature is the issuer's.
func checkClaims(claims *object, issuer, aud string, now time.Time) error {
	audience, _ := claims.members["aud"].(string)
	if list, ok := claims.members["aud"].([]any); ok {
		if len(list) != 1 {
			return refused("aud names %d audiences, not one", len(list))
		}
		audience, _ = list[0].(string)
	}
	sub, peer := claims.text("sub"), claims.text("peer")
	exp, iat, nbf := claims.date("exp"), claims.date("iat"), claims.date("nbf")
	switch {
	case claims.fault != nil:
		return refused("%w", claims.fault)
	case aud == "" || audience != aud:
		return refused("aud is not %q", aud)
	case sub != issuer:
		return refused("sub is not iss")
	case peer != issuer:
		return refused("peer is not iss")
	case exp.IsZero():
		return refused("exp is missing")
	case iat.IsZero():
		return refused("iat is missing")
	case !now.Before(exp.Add(tokenLeeway)):
		return refused("it has expired")
	case iat.After(now.Add(tokenLeeway)):
		return refused("iat lies ahead; set the clocks")
	case nbf.After(now.Add(tokenLeeway)):
		return refused("nbf lies ahead; set the clocks")
	case !exp.After(iat) || exp.Sub(iat) > tokenLife:
		return refused("exp does not lie within %s after iat", tokenLife)
	}
	return nil
}
