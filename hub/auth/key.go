package auth

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/freshwire/freshwire/internal/strictjson"
)

const (
	// EdDSA and ES256 are the algorithms a token may be signed with. Others are
	// refused: RSA for what its keys and padding have cost, HMAC because who can
	// check such a token can make one.
	EdDSA = "EdDSA"
	ES256 = "ES256"

	// MaxKeySet bounds a key set in bytes.
	MaxKeySet = 1 << 20
	// maxKeys bounds the keys of a set; an issuer has one in use and a few before
	// and after it.
	maxKeys = 100
	// maxKeyID bounds a key's id in bytes.
	maxKeyID = 255
)

// A key checks signatures of one algorithm.
type key struct {
	alg    string
	public crypto.PublicKey // ed25519.PublicKey or *ecdsa.PublicKey
}

// A KeySet is the public keys of an issuer by their ids.
type KeySet map[string]key

// ErrPrivateKey reports a key set in which a private key stands.
var ErrPrivateKey = errors.New("a private key stands in the key set; keep it where tokens are made and publish the public one alone")

// ParseKeySet reads a JSON Web Key Set. Keys for other purposes or of other kinds are
// passed over, as issuers publish them beside ours; two keys with one id, a private
// or symmetric key, and a set of which no key can be used are refused.
// Source: RFC 7517 section 5.
func ParseKeySet(b []byte) (KeySet, error) {
	if len(b) > MaxKeySet {
		return nil, fmt.Errorf("key set: more than %d bytes", MaxKeySet)
	}
	object, err := strictjson.Object(b, maxDepth)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	list, ok := object["keys"].([]any)
	if !ok {
		return nil, errors.New(`key set: it has no list "keys"`)
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("key set: more than %d keys", maxKeys)
	}
	set := KeySet{}
	var passed []error
	for i, v := range list {
		jwk, _ := v.(map[string]any)
		for _, private := range []string{"d", "k"} {
			if _, has := jwk[private]; has {
				return nil, ErrPrivateKey
			}
		}
		kid, k, err := parseKey(jwk)
		if err != nil {
			passed = append(passed, fmt.Errorf("key %d: %w", i, err))
			continue
		}
		if _, twice := set[kid]; twice {
			return nil, fmt.Errorf("key set: two keys have the id %.40q", kid)
		}
		set[kid] = k
	}
	if len(set) == 0 {
		return nil, fmt.Errorf("key set: no key of it can check a token: %w", errors.Join(passed...))
	}
	return set, nil
}

// parseKey reads one public key.
func parseKey(jwk map[string]any) (kid string, k key, err error) {
	field := func(name string) string {
		s, _ := jwk[name].(string)
		return s
	}
	if kid = field("kid"); kid == "" || len(kid) > maxKeyID {
		return "", key{}, fmt.Errorf("its kid does not have 1 to %d bytes", maxKeyID)
	}
	if use := field("use"); use != "" && use != "sig" {
		return "", key{}, errors.New("it is not for signatures")
	}
	if ops, err := texts(jwk, "key_ops", maxKeys); err != nil || ops != nil && !slices.Contains(ops, "verify") {
		return "", key{}, errors.New("it is not for checking signatures")
	}
	switch kind := field("kty") + " " + field("crv"); kind {
	case "OKP Ed25519":
		k.alg = EdDSA
		k.public, err = ed25519Key(field("x"))
	case "EC P-256":
		k.alg = ES256
		k.public, err = ecKey(field("x"), field("y"))
	default:
		return "", key{}, fmt.Errorf("%.40q is neither OKP Ed25519 nor EC P-256", kind)
	}
	if alg := field("alg"); err == nil && alg != "" && alg != k.alg {
		err = fmt.Errorf("its alg is not %s", k.alg)
	}
	return kid, k, err
}

func ed25519Key(x string) (ed25519.PublicKey, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(x)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("x is not 32 bytes of base64url")
	}
	return b, nil
}

// ecKey returns a point, and an error if it does not lie on the curve.
// Source: RFC 8725 section 3.4.
func ecKey(x, y string) (*ecdsa.PublicKey, error) {
	const coordinate = 32
	decode := base64.RawURLEncoding.Strict()
	bx, errX := decode.DecodeString(x)
	by, errY := decode.DecodeString(y)
	if errX != nil || errY != nil || len(bx) != coordinate || len(by) != coordinate {
		return nil, errors.New("x and y are not 32 bytes of base64url each")
	}
	point := slices.Concat([]byte{4}, bx, by) // uncompressed
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return nil, errors.New("x and y are not a point of the curve")
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}

// A SigningKey makes tokens. Its id is the thumbprint of its public half.
type SigningKey struct {
	private crypto.Signer
	jwk     publicJWK
}

// publicJWK is the public half of a key. The order of its members is that of
// RFC 7638, for the thumbprint to be taken of them.
type publicJWK struct {
	Crv string `json:"crv"`
	Kty string `json:"kty"`
	X   string `json:"x"`
	Y   string `json:"y,omitempty"`

	Kid string `json:"kid,omitempty"`
	Alg string `json:"alg,omitempty"`
	Use string `json:"use,omitempty"`
}

// GenerateKey makes a key for [EdDSA] or [ES256].
func GenerateKey(alg string) (*SigningKey, error) {
	switch alg {
	case EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return newSigningKey(private)
	case ES256:
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return newSigningKey(private)
	}
	return nil, fmt.Errorf("%.20q is not %s or %s", alg, EdDSA, ES256)
}

func newSigningKey(private crypto.Signer) (*SigningKey, error) {
	encode := base64.RawURLEncoding.EncodeToString
	k := &SigningKey{private: private}
	switch p := private.Public().(type) {
	case ed25519.PublicKey:
		k.jwk = publicJWK{Crv: "Ed25519", Kty: "OKP", X: encode(p)}
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return nil, errors.New("the key's curve is not P-256")
		}
		point, err := p.Bytes()
		if err != nil {
			return nil, err
		}
		half := 1 + len(point)/2
		k.jwk = publicJWK{Crv: "P-256", Kty: "EC", X: encode(point[1:half]), Y: encode(point[half:])}
	default:
		return nil, errors.New("the key is neither Ed25519 nor P-256")
	}
	thumb, err := json.Marshal(k.jwk)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(thumb)
	k.jwk.Kid, k.jwk.Alg, k.jwk.Use = encode(sum[:]), k.alg(), "sig"
	return k, nil
}

func (k *SigningKey) alg() string {
	if k.jwk.Kty == "OKP" {
		return EdDSA
	}
	return ES256
}

// ID returns the key's id: the SHA-256 thumbprint of its public half.
// Source: RFC 7638.
func (k *SigningKey) ID() string { return k.jwk.Kid }

// pemType is what PKCS #8 is called in PEM.
const pemType = "PRIVATE KEY"

// MarshalPEM returns the private key as PKCS #8 in PEM, as openssl writes it.
func (k *SigningKey) MarshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// ParsePEM reads what [SigningKey.MarshalPEM] or openssl genpkey wrote.
func ParsePEM(b []byte) (*SigningKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemType {
		return nil, errors.New("it is not a PRIVATE KEY in PEM; make one with freshwire token key")
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it is not a private key of PKCS #8") // the text of err may quote it
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, errors.New("it is not a key that signs")
	}
	return newSigningKey(signer)
}

// AddTo returns a key set with the public half of k added to those of old, which may
// be nil; the other keys of old stay as they are, so that tokens signed with them are
// good until their keys are taken out.
func (k *SigningKey) AddTo(old []byte) ([]byte, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if old != nil {
		if _, err := ParseKeySet(old); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(old, &set); err != nil {
			return nil, err
		}
	}
	jwk, err := json.Marshal(k.jwk)
	if err != nil {
		return nil, err
	}
	set.Keys = append(set.Keys, jwk)
	b, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	_, err = ParseKeySet(b) // also finds that k is in it already
	return b, err
}
