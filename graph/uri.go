package graph

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxHost bounds a host name in bytes (RFC 1035).
const maxHost = 253

// ErrURI reports a URI that is not in its one canonical form. Every error of
// [CheckURI] and [CanonicalURI] is a *[URIError] that wraps it.
var ErrURI = errors.New("URI is not canonical")

// URIError says what is wrong with a URI and how to write it.
type URIError struct {
	URI       string
	Reason    string
	Canonical string // the canonical spelling; "" where guessing one would not be safe
}

func (e *URIError) Error() string {
	s := fmt.Sprintf("URI %.200q is not canonical: %s", e.URI, e.Reason)
	if e.Canonical != "" {
		s += fmt.Sprintf("; write %.600q", e.Canonical)
	}
	return s
}

func (e *URIError) Unwrap() error { return ErrURI }

// CanonicalURI returns s if it is in its one canonical form, and otherwise ""
// and a *[URIError]: two spellings never name one resource, and nothing that was
// sent is silently rewritten. The form is that of RFC 3986, in ASCII:
//
//   - absolute, scheme and host in lower case, no user, no default port, no dot
//     at the end of the host; the path of a URI with a host begins with "/";
//   - no dot segments, plain or percent-encoded;
//   - what is not ASCII is percent-encoded UTF-8 with upper-case hex digits, and
//     letters, digits and -._~ are never percent-encoded. The other delimiters
//     (as ' ( ) , : in titles) name different resources plain and encoded, so a
//     producer uses one spelling, as MediaWiki does;
//   - no control or bidi formatting characters, no white space but %20, no U+FFFD,
//     neither plain nor percent-encoded;
//   - at most [MaxURI] bytes; a fragment is an aspect and not empty.
//
// Schemes are http, https, ticker and urn; [CheckURI] allows more.
func CanonicalURI(s string) (string, error) {
	if err := CheckURI(s); err != nil {
		return "", err
	}
	return s, nil
}

// CheckURI returns nil if s is canonical ([CanonicalURI]) and its scheme is http,
// https, ticker, urn or one of schemes. It does not allocate for a valid URI.
func CheckURI(s string, schemes ...string) error {
	f := findFault(s, schemes)
	if f == faultNone {
		return nil
	}
	e := &URIError{URI: s, Reason: faultTexts[f]}
	if f != faultLong {
		if c := respell(s); c != s && findFault(c, schemes) == faultNone {
			e.Canonical = c
		}
	}
	return e
}

// SplitAspect cuts a URI at its fragment: "…/Q64#C.P6" is "…/Q64" and "C.P6".
func SplitAspect(uri string) (base, aspect string) {
	base, aspect, _ = strings.Cut(uri, "#")
	return base, aspect
}

// Host returns the host of a canonical URI, with its port if it has one, and ""
// for a URI without host, as urn:….
func Host(uri string) string {
	_, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	return rest
}

// CheckPrefix returns nil if some canonical URI lies under prefix ([UnderPrefix]);
// schemes as in [CheckURI].
func CheckPrefix(prefix string, schemes ...string) error {
	err := CheckURI(prefix, schemes...)
	if err == nil || strings.Contains(prefix, "#") {
		return err
	}
	// A host alone and the namespace of a URN are prefixes, but no URIs.
	for _, tail := range [...]string{"/", "x", ":x"} {
		if uri := prefix + tail; CheckURI(uri, schemes...) == nil && UnderPrefix(uri, prefix) {
			return nil
		}
	}
	return err
}

// UnderPrefix reports whether a canonical URI lies at or below a prefix: same
// scheme, same host and port, and whole path segments. ".../wiki" covers
// ".../wiki", ".../wiki/A" and ".../wiki#exists" but not ".../wikitext"; a prefix
// that ends with "/" covers only what is below it. A prefix names a host, or for
// a scheme without hosts at least one segment after it ("urn:isbn").
func UnderPrefix(uri, prefix string) bool {
	if !strings.HasPrefix(uri, prefix) {
		return false
	}
	scheme, rest, ok := strings.Cut(prefix, ":")
	if !ok || scheme == "" || rest == "" {
		return false
	}
	hierarchical := strings.HasPrefix(uri, scheme+"://")
	if hierarchical && Host(prefix) == "" {
		return false
	}
	if len(uri) == len(prefix) {
		return true
	}
	ends := "/?#"
	if !hierarchical {
		ends = ":/?#"
	}
	last := prefix[len(prefix)-1]
	return last == '/' || !hierarchical && last == ':' || strings.IndexByte(ends, uri[len(prefix)]) >= 0
}

// A uriFault is the first rule that a URI breaks.
type uriFault uint8

const (
	faultNone uriFault = iota
	faultLong
	faultRelative
	faultSchemeCase
	faultScheme
	faultNoHost
	faultUser
	faultHostCase
	faultHost
	faultPort
	faultDefaultPort
	faultEmptyPath
	faultDots
	faultChar
	faultRaw
	faultControl
	faultSpace
	faultEscape
	faultHexCase
	faultUnreserved
	faultUTF8
	faultHidden
	faultEmptyAspect
	faultTwoAspects
	faultURN
)

var faultTexts = [...]string{
	faultLong:        "it is longer than 2,048 bytes",
	faultRelative:    "it is not absolute; begin with a scheme, as https://",
	faultSchemeCase:  "the scheme must be in lower case",
	faultScheme:      "the scheme is not allowed; use http, https, ticker, urn or one that the hub's configuration lists under schemes",
	faultNoHost:      "it has no host",
	faultUser:        "a user or password has no place in it; remove everything up to the @",
	faultHostCase:    "the host must be in lower case",
	faultHost:        "the host is not a plain name or address; letters outside ASCII are written in Punycode (xn--…)",
	faultPort:        "the port is not a number from 1 to 65535 without leading zeros",
	faultDefaultPort: "the scheme's own port is left out",
	faultEmptyPath:   "the path must begin with /",
	faultDots:        "segments . and .. must be resolved",
	faultChar:        "it has a character that must be percent-encoded",
	faultRaw:         "what is not ASCII must be percent-encoded UTF-8",
	faultControl:     "it has a control character",
	faultSpace:       "it has a space; write what the resource's own server writes, _ or %20",
	faultEscape:      "% must be followed by two hex digits",
	faultHexCase:     "percent-encoding uses upper-case hex digits",
	faultUnreserved:  "letters, digits and -._~ must not be percent-encoded",
	faultUTF8:        "what is percent-encoded is not valid UTF-8, or is the replacement character U+FFFD",
	faultHidden:      "control, bidi and white-space characters are refused, also percent-encoded",
	faultEmptyAspect: "nothing follows the #; leave the # out",
	faultTwoAspects:  "it has more than one #; a # inside an aspect is %23",
	faultURN:         "a URN is urn:<lower-case namespace>:<name>",
}

// Classes of bytes in a URI.
const (
	plain      uint8 = 1 << iota // stands for itself in path, query and fragment
	unreserved                   // never percent-encoded
	hostByte                     // of a lower-case host name or IPv4 address
)

var uriClass = func() (t [256]uint8) {
	set := func(class uint8, chars string) {
		for i := range len(chars) {
			t[chars[i]] |= class
		}
	}
	const lower, upper, digits = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
	set(unreserved, lower+upper+digits+"-._~")
	set(plain, lower+upper+digits+"-_~!$&'()*+,;=:@/") // '.' is looked at for dot segments
	set(hostByte, lower+digits+"-_.")
	return t
}()

// findFault goes once over s. It is the hot path of every update: no
// allocation, no net/url.
func findFault(s string, schemes []string) uriFault {
	if len(s) > MaxURI {
		return faultLong
	}
	colon := strings.IndexByte(s, ':')
	if colon <= 0 {
		return faultRelative
	}
	scheme := s[:colon]
	if f := schemeFault(scheme, schemes); f != faultNone {
		return f
	}
	i := colon + 1
	web := scheme == "https" || scheme == "http"
	if strings.HasPrefix(s[i:], "//") {
		n, f := authorityFault(s[i+2:], scheme)
		if f != faultNone {
			return f
		}
		i += 2 + n
		if i == len(s) || s[i] != '/' {
			return faultEmptyPath
		}
	} else if web {
		return faultNoHost
	}
	if i == len(s) {
		return faultEmptyPath
	}
	if scheme == "urn" && !isURN(s[i:]) {
		return faultURN
	}
	return tailFault(s, i)
}

func schemeFault(scheme string, schemes []string) uriFault {
	switch scheme {
	case "https", "http", "ticker", "urn":
		return faultNone
	}
	if slices.Contains(schemes, scheme) {
		return faultNone
	}
	switch lower := strings.ToLower(scheme); {
	case strings.ContainsAny(scheme, "/?#"):
		return faultRelative
	case lower != scheme && schemeFault(lower, schemes) == faultNone:
		return faultSchemeCase
	}
	return faultScheme
}

// authorityFault checks host and port at the start of s and returns their length.
func authorityFault(s, scheme string) (int, uriFault) {
	n := 0
	for n < len(s) && uriClass[s[n]]&hostByte != 0 {
		n++
	}
	if n < len(s) && s[n] != '/' && s[n] != ':' {
		var f uriFault
		if n, f = unusualHostFault(s, n); f != faultNone {
			return 0, f
		}
	}
	switch host := s[:n]; {
	case host == "":
		return 0, faultNoHost
	case len(host) > maxHost || host[0] == '.' || host[n-1] == '.' || strings.Contains(host, ".."):
		return 0, faultHost
	case n == len(s) || s[n] != ':':
		return n, faultNone
	}
	return portFault(s, n, scheme)
}

// unusualHostFault looks at a host that does not end in / or : at s[n], and
// returns its length if it is all right: at the end of the URI, or an address.
func unusualHostFault(s string, n int) (int, uriFault) {
	end := len(s)
	if i := strings.IndexAny(s, "/?#"); i >= 0 {
		end = i
	}
	switch {
	case n == end:
		return n, faultNone
	case strings.IndexByte(s[:end], '@') >= 0:
		return 0, faultUser
	case 'A' <= s[n] && s[n] <= 'Z':
		return 0, faultHostCase
	case s[0] != '[':
		return 0, faultHost
	}
	n = strings.IndexByte(s[:end], ']') + 1
	if n < end && s[n] != ':' {
		return 0, faultHost
	}
	return n, addressFault(s[:n])
}

// portFault checks the port after the colon at s[n] and returns where it ends.
func portFault(s string, n int, scheme string) (int, uriFault) {
	end := n + 1
	for end < len(s) && strings.IndexByte("/?#", s[end]) < 0 {
		if s[end] == '@' {
			return 0, faultUser
		}
		end++
	}
	text := s[n+1 : end]
	port, err := strconv.ParseUint(text, 10, 16)
	switch {
	case err != nil || port == 0 || text[0] == '0':
		return 0, faultPort
	case scheme == "https" && port == 443, scheme == "http" && port == 80:
		return 0, faultDefaultPort
	}
	return end, faultNone
}

// addressFault checks an IPv6 address in brackets.
func addressFault(s string) uriFault {
	if len(s) < 2 {
		return faultHost
	}
	a, err := netip.ParseAddr(s[1 : len(s)-1])
	switch {
	case err != nil || !a.Is6() || a.Zone() != "":
		return faultHost
	case a.String() != s[1:len(s)-1]:
		return faultHostCase
	}
	return faultNone
}

func isURN(s string) bool {
	n := strings.IndexByte(s, ':')
	if n < 2 || n == len(s)-1 {
		return false
	}
	for i := range n {
		if c := s[i]; uriClass[c]&hostByte == 0 || c == '.' || c == '_' {
			return false
		}
	}
	return true
}

// tailFault checks path, query and fragment, which begin at s[i].
func tailFault(s string, i int) uriFault {
	inPath := true
	segment := i // start of the current path segment
	for i < len(s) {
		c := s[i]
		if uriClass[c]&plain != 0 {
			i++
			if c == '/' {
				segment = i
			}
			continue
		}
		switch {
		case c == '.':
			if inPath && i == segment && isDots(s[i:]) {
				return faultDots
			}
			i++
		case c == '%':
			n, f := escapeFault(s[i:])
			if f != faultNone {
				return f
			}
			i += n
		case c == '?':
			inPath = false
			i++
		case c == '#':
			return fragmentFault(s, i+1)
		default:
			return rawFault(s[i:])
		}
	}
	return faultNone
}

func fragmentFault(s string, i int) uriFault {
	if i == len(s) {
		return faultEmptyAspect
	}
	for i < len(s) {
		c := s[i]
		switch {
		case uriClass[c]&(plain|unreserved) != 0 || c == '?':
			i++
		case c == '%':
			n, f := escapeFault(s[i:])
			if f != faultNone {
				return f
			}
			i += n
		case c == '#':
			return faultTwoAspects
		default:
			return rawFault(s[i:])
		}
	}
	return faultNone
}

// isDots reports whether the segment at the start of s is "." or "..".
func isDots(s string) bool {
	n := 1
	if len(s) > 1 && s[1] == '.' {
		n = 2
	}
	return len(s) == n || s[n] == '/' || s[n] == '?' || s[n] == '#'
}

// rawFault names the fault of the character at the start of s, which may not
// stand there as it is.
func rawFault(s string) uriFault {
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case r == utf8.RuneError && n <= 1:
		return faultUTF8
	case r == ' ':
		return faultSpace
	case unicode.IsControl(r):
		return faultControl
	case r >= utf8.RuneSelf:
		return faultRaw
	}
	return faultChar
}

// escapeFault checks the percent-encoded character at the start of s and
// returns how many bytes it takes.
func escapeFault(s string) (int, uriFault) {
	c, f := escapedByte(s)
	if f != faultNone {
		return 0, f
	}
	if c < utf8.RuneSelf {
		switch {
		case uriClass[c]&unreserved != 0:
			return 0, faultUnreserved
		case c < ' ' || c == 0x7f:
			return 0, faultHidden
		}
		return 3, faultNone
	}
	var b [utf8.UTFMax]byte
	b[0] = c
	n := 1
	for n < len(b) && !utf8.FullRune(b[:n]) {
		if b[n], f = escapedByte(s[3*n:]); f != faultNone {
			if f == faultEscape {
				f = faultUTF8
			}
			return 0, f
		}
		n++
	}
	r, size := utf8.DecodeRune(b[:n])
	switch {
	case r == utf8.RuneError || size != n:
		return 0, faultUTF8
	case isHidden(r):
		return 0, faultHidden
	}
	return 3 * n, faultNone
}

// escapedByte decodes the %XX at the start of s.
func escapedByte(s string) (byte, uriFault) {
	if len(s) < 3 || s[0] != '%' {
		return 0, faultEscape
	}
	hi, lo := hexDigit(s[1]), hexDigit(s[2])
	switch {
	case hi > 15 || lo > 15:
		return 0, faultEscape
	case s[1] >= 'a' || s[2] >= 'a':
		return 0, faultHexCase
	}
	return hi<<4 | lo, faultNone
}

// hexDigit returns the value of a hex digit, and 255 for anything else.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

// isHidden reports characters that make two URIs look alike or a log line lie:
// controls, bidi formatting and all white space but U+0020.
func isHidden(r rune) bool {
	switch {
	case r < 0x80:
		return r < ' ' || r == 0x7f
	case unicode.Is(unicode.Bidi_Control, r):
		return true
	}
	return unicode.IsControl(r) || unicode.IsSpace(r)
}

// respell returns the spelling that s most likely means: lower-case scheme and
// host, no default port, percent-encoding where it belongs. It does not guess
// at dot segments, users or spaces, so its result may still be no canonical URI.
func respell(s string) string {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return s
	}
	scheme = strings.ToLower(scheme)
	b := append(make([]byte, 0, len(s)+16), scheme...)
	b = append(b, ':')
	if strings.HasPrefix(rest, "//") {
		end := len(rest)
		if i := strings.IndexAny(rest[2:], "/?#"); i >= 0 {
			end = 2 + i
		}
		b = append(b, respellAuthority(rest[:end], scheme)...)
		rest = rest[end:]
		if !strings.HasPrefix(rest, "/") {
			b = append(b, '/')
		}
	}
	return string(respellTail(b, strings.TrimSuffix(rest, "#")))
}

func respellAuthority(s, scheme string) string {
	s = strings.ToLower(s)
	switch scheme {
	case "https":
		return strings.TrimSuffix(s, ":443")
	case "http":
		return strings.TrimSuffix(s, ":80")
	}
	return s
}

func respellTail(b []byte, s string) []byte {
	const upperHex = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' && i+2 < len(s) && hexDigit(s[i+1]) < 16 && hexDigit(s[i+2]) < 16 {
			if d := hexDigit(s[i+1])<<4 | hexDigit(s[i+2]); uriClass[d]&unreserved != 0 {
				b = append(b, d)
			} else {
				b = append(b, '%', upperHex[d>>4], upperHex[d&15])
			}
			i += 2
			continue
		}
		if c <= ' ' || c == '%' || c == '#' || c == '?' || uriClass[c]&(plain|unreserved) != 0 {
			b = append(b, c)
			continue
		}
		b = append(b, '%', upperHex[c>>4], upperHex[c&15])
	}
	return b
}
