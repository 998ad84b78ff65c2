package websub

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
)

// maxURL bounds a callback and a topic in bytes: with what a verification appends
// it fits the 8 KiB that servers read of a request line, the topic encoded.
const maxURL = 2048

// A callback is the address of a subscriber, byte for byte as it was given.
type callback string

// checkCallback reports what is wrong with the form of a callback. What can be
// parsed but not sent byte for byte is refused as well: whoever compares it would
// find another. In the path that is all but what RFC 3986 lets stand there; a query
// may be of any visible characters of ASCII, as wikis write theirs.
func checkCallback(text string) (*url.URL, *RequestError) {
	no := func(reason string) (*url.URL, *RequestError) { return nil, &RequestError{"hub.callback", reason} }
	if text == "" {
		return no("it is missing")
	}
	if len(text) > maxURL {
		return nil, bad("hub.callback", "it has more than %d bytes", maxURL)
	}
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return no("it has a space, a control character or one beyond ASCII; percent-encode it")
		}
	}
	if strings.Contains(text, "#") {
		return no("it has a fragment, which is sent to nobody")
	}
	u, err := url.Parse(text) // whose error would repeat the URL
	if err != nil || u.Opaque != "" {
		return no("it is not a URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return no("it is not an http or https URL")
	}
	if u.Host == "" {
		return no("it has no host")
	}
	if u.User != nil {
		return no("it has a user or a password, which are not sent")
	}
	if rest := afterHost(text); rest != "" && rest[0] == '/' && u.RequestURI() != rest {
		return no("its path has a character that needs percent-encoding")
	}
	return u, nil
}

// afterHost is what follows the host of a URL of scheme://host form.
func afterHost(text string) string {
	_, rest, _ := strings.Cut(text, "://")
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		return rest[i:]
	}
	return ""
}

// place is host and port of c, as they compare: what calls are counted for.
func (c callback) place() string {
	_, rest, _ := strings.Cut(string(c), "://")
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		rest = rest[:i]
	}
	return strings.ToLower(rest)
}

// host is the host of c alone: what verifications are counted for, whatever the port.
func (c callback) host() string {
	u := url.URL{Host: c.place()}
	return strings.TrimSuffix(u.Hostname(), ".")
}

// with returns c with parameters at the end of its query, which stays as it is,
// whatever names it has.
// Source: WebSub, section 5.3: "the hub MUST … preserve the query string during the
// request".
func (c callback) with(parameters string) string {
	if strings.Contains(string(c), "?") {
		return string(c) + "&" + parameters
	}
	return string(c) + "?" + parameters
}

// shown is c for those it does not belong to: without its query, which may hold a
// secret.
func (c callback) shown() string {
	path, _, has := strings.Cut(string(c), "?")
	if has {
		return path + "?…"
	}
	return path
}

// comparable is a URL in a form that is equal for URLs that name the same: with
// scheme and host in lower case, no port that goes without saying, unreserved
// characters decoded, other percent-encodings in capitals. It is for comparing
// alone, and u is text parsed.
// Source: WebSub, section 5.1.2; RFC 3986, section 6.2.2.
func comparable(u *url.URL, text string) string {
	var b strings.Builder
	host := strings.ToLower(u.Host)
	switch {
	case u.Scheme == "http":
		host = strings.TrimSuffix(host, ":80")
	case u.Scheme == "https":
		host = strings.TrimSuffix(host, ":443")
	}
	b.WriteString(u.Scheme)
	b.WriteString("://")
	b.WriteString(strings.TrimSuffix(host, ":"))
	rest := afterHost(text)
	if rest == "" || rest[0] != '/' {
		b.WriteByte('/')
	}
	for i := 0; i < len(rest); i++ {
		if rest[i] != '%' || i+2 >= len(rest) || !isHex(rest[i+1]) || !isHex(rest[i+2]) {
			b.WriteByte(rest[i])
			continue
		}
		code := rest[i : i+3]
		if c := unhex(code[1])<<4 | unhex(code[2]); isUnreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(strings.ToUpper(code))
		}
		i += 2
	}
	return b.String()
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}

// isUnreserved reports whether c stands for itself, encoded or not.
// Source: RFC 3986, section 2.3.
func isUnreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// A key is what tells subscriptions apart: topic and callback, as they compare.
type key [16]byte

func keyOf(topic, callback string) (k key) {
	sum := sha256.Sum256([]byte(topic + "\n" + callback)) // neither has a line end
	copy(k[:], sum[:])
	return k
}

func (k key) String() string { return hex.EncodeToString(k[:]) }
