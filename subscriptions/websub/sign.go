package websub

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// signatures makes X-Hub-Signature by its methods.
// Source: WebSub, section 7.1.
var signatures = map[string]func(secret, body []byte) string{
	"sha1":   hubSignature("sha1", sha1.New),
	"sha256": hubSignature("sha256", sha256.New),
	"sha384": hubSignature("sha384", sha512.New384),
	"sha512": hubSignature("sha512", sha512.New),
}

func hubSignature(method string, digest func() hash.Hash) func(secret, body []byte) string {
	return func(secret, body []byte) string {
		mac := hmac.New(digest, secret)
		mac.Write(body)
		return method + "=" + hex.EncodeToString(mac.Sum(nil))
	}
}

// standardPrefix begins a secret whose bytes are encoded in base64.
const standardPrefix = "whsec_"

// standardSignature is webhook-signature: it covers id and time of the call beside its
// body, so that a call that is sent again by somebody else is told by its age.
// Source: Standard Webhooks, "Signature scheme".
func standardSignature(secret []byte, id string, at time.Time, body []byte) string {
	if text, is := strings.CutPrefix(string(secret), standardPrefix); is {
		if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
			secret = decoded
		}
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// stamp puts on a call what tells its receiver which one it is, and with a secret that
// it is ours.
func (h *Hub) stamp(header http.Header, secret []byte, id string, body []byte) {
	now := h.o.Clock()
	header.Set("Webhook-Id", id)
	header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	if len(secret) == 0 {
		return
	}
	header.Set("X-Hub-Signature", h.sign(secret, body))
	header.Set("Webhook-Signature", standardSignature(secret, id, now, body))
}
