package claim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

const (
	// keySize and sumSize are of the signature of a claim's id, in bytes: 128 bits
	// are not guessed.
	keySize = 32
	sumSize = 16
)

// A signer makes ids of claims that only their holder has and only their holder may
// use: the graph's own are short numbers, which anybody could count up to.
type signer []byte

// sign makes the id of a claim from the graph's.
func (s signer) sign(holder, id string) string {
	return id + "." + base64.RawURLEncoding.EncodeToString(s.sum(holder, id))
}

// open returns the graph's id of a claim that is the holder's.
func (s signer) open(holder, signed string) (id string, ok bool) {
	i := strings.LastIndexByte(signed, '.')
	if i < 0 {
		return "", false
	}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(signed[i+1:])
	return signed[:i], err == nil && hmac.Equal(sum, s.sum(holder, signed[:i]))
}

func (s signer) sum(holder, id string) []byte {
	h := hmac.New(sha256.New, s)
	h.Write([]byte(holder))
	h.Write([]byte{0})
	h.Write([]byte(id))
	return h.Sum(nil)[:sumSize]
}
