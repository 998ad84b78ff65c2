package auth

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A Grant is what a new token is to say.
type Grant struct {
	Issuer   string
	Audience string
	Rights   // Expires is ignored: TTL says it
	TTL      time.Duration
	Schemes  []string // of URIs in prefixes
}

// Mint makes a token that says g, good from now on. It refuses what [Verifier]
// would.
func (k *SigningKey) Mint(g Grant, now time.Time) (string, error) {
	if g.Issuer == "" || g.Audience == "" {
		return "", fmt.Errorf("a token needs an issuer and an audience")
	}
	if g.TTL < time.Second || g.TTL > MaxLifetime {
		return "", fmt.Errorf("a token lives from 1s to %s, not %s", MaxLifetime, g.TTL)
	}
	if err := checkSubject(g.Subject); err != nil {
		return "", err
	}
	for name, p := range map[string]Prefixes{"publish": g.Publish, "subscribe": g.Subscribe} {
		if len(p) > maxPrefixes {
			return "", fmt.Errorf("%s: more than %d prefixes", name, maxPrefixes)
		}
		if err := p.check(g.Schemes); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	var id [16]byte
	rand.Read(id[:])
	now = now.Truncate(time.Second)
	claims := jwt.MapClaims{"iss": g.Issuer, "aud": g.Audience, "sub": g.Subject, "client_id": g.Subject,
		"iat": now.Unix(), "exp": now.Add(g.TTL).Unix(), "jti": base64.RawURLEncoding.EncodeToString(id[:])}
	if g.Admin {
		claims["admin"] = true
	}
	if g.Peer != "" {
		claims["peer"] = g.Peer
	}
	if g.Publish != nil {
		claims["publish"] = g.Publish
	}
	if g.Subscribe != nil {
		claims["subscribe"] = g.Subscribe
	}
	t := jwt.NewWithClaims(jwt.GetSigningMethod(k.alg()), claims)
	t.Header["typ"], t.Header["kid"] = typeToken, k.ID()
	token, err := t.SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	if len(token) > MaxToken {
		return "", fmt.Errorf("the token has more than %d bytes; name fewer prefixes", MaxToken)
	}
	return token, nil
}
