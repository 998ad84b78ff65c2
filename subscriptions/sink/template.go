package sink

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// A place is where in a request a value comes to stand. It decides how the value is
// written, so that it stays in its place whatever it says.
type place uint8

const (
	inHost   place = iota // of a URL, or a part of it
	inPath                // of a URL
	inQuery               // of a URL
	inHeader              // a word of it
	inKey                 // one of the words of a header that names keys
	inBan                 // a regular expression in a header
	inJSON                // a string of a body
	inForm                // a value of a body
)

// A value is what stands for a name.
type value struct {
	raw     string // as it stands in the notice
	escaped bool   // it is a part of a URI, in which %41 stands for A
}

// text is what the value means.
func (v value) text() string {
	if !v.escaped {
		return v.raw
	}
	return unescape(v.raw)
}

// A part of a template is a literal text or a name in braces.
type part struct {
	text   string // literal
	name   string // {name}: the value, written for its place
	raw    bool   // {+name}: as it stands in the URI
	secret *secret
	place  place
}

// A template is a text with names in braces.
// Source: RFC 6570, of which it has {name} and {+name}.
type template []part

var expression = regexp.MustCompile(`^\+?[A-Za-z_][A-Za-z0-9_]*$`)

// parseTemplate reads a text. known reports whether there is a name; a nil known
// allows for none. Secrets are read where secretly says so.
func parseTemplate(text string, at place, known func(name string) error) (template, error) {
	var t template
	for rest := text; rest != ""; {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			return append(t, part{text: rest, place: at}), nil
		}
		if open > 0 {
			t = append(t, part{text: rest[:open], place: at})
			rest = rest[open:]
		}
		end := strings.IndexByte(rest, '}')
		if rest[0] == '}' || end < 0 {
			return nil, errors.New("a brace is not closed or not opened; a name stands as {name}")
		}
		inner := rest[1:end]
		rest = rest[end+1:]
		p := part{name: strings.TrimPrefix(inner, "+"), raw: strings.HasPrefix(inner, "+"), place: at}
		if s := secretOf(inner); s != nil {
			if at != inHeader {
				return nil, fmt.Errorf("{%.80s}: a secret may only stand in a header: all else is shown to who looks", inner)
			}
			t = append(t, part{secret: s, place: at})
			continue
		}
		if !expression.MatchString(inner) {
			return nil, fmt.Errorf("{%.80s} is not {name} or {+name}", inner)
		}
		if err := known(p.name); err != nil {
			return nil, err
		}
		t = append(t, p)
	}
	return t, nil
}

// collect notes the names that stand in t.
func (t template) collect(names map[string]bool) {
	for i := range t {
		if t[i].name != "" {
			names[t[i].name] = true
		}
	}
}

// isLiteral reports whether nothing in t is to be put in.
func (t template) isLiteral() bool {
	for i := range t {
		if t[i].name != "" || t[i].secret != nil {
			return false
		}
	}
	return true
}

// hasSecret reports whether a secret is a part of t.
func (t template) hasSecret() bool {
	for i := range t {
		if t[i].secret != nil {
			return true
		}
	}
	return false
}

// append writes t with the values of s.
func (t template) append(b []byte, s *subject) ([]byte, error) {
	for i := range t {
		p := &t[i]
		if p.name == "" {
			b = append(b, p.text...)
			continue
		}
		var err error
		if b, err = p.appendValue(b, s.value(p.name)); err != nil {
			return b, fmt.Errorf("{%s}: %w", p.name, err)
		}
	}
	return b, nil
}

var (
	errControl = errors.New("it has a control character, which no header can hold")
	errUTF8    = errors.New("it is not UTF-8, which JSON cannot hold")
	errSpace   = errors.New("it has a space, which would end the expression")
)

// appendValue writes v for the place of p. It fails with what cannot be said there.
func (p *part) appendValue(b []byte, v value) ([]byte, error) {
	switch {
	case p.place == inHost:
		return append(b, v.raw...), nil // checked as a whole: see urlTemplate
	case p.place == inPath && p.raw:
		return appendRaw(b, v.raw, rawPath), nil
	case p.place == inQuery && p.raw:
		return appendRaw(b, v.raw, rawQuery), nil
	case p.place == inPath, p.place == inQuery, p.place == inForm && !p.raw:
		return appendEscaped(b, v.text(), unreserved), nil
	case p.place == inForm:
		return appendEscaped(b, v.raw, unreserved), nil
	case p.place == inBan && p.raw:
		if strings.ContainsAny(v.raw, " \t") {
			return b, errSpace
		}
		if hasControl(v.raw) {
			return b, errControl
		}
		return append(b, regexp.QuoteMeta(v.raw)...), nil
	case p.place == inBan:
		return append(b, regexp.QuoteMeta(string(appendEscaped(nil, v.raw, keyWord)))...), nil
	case (p.place == inHeader || p.place == inKey) && p.raw:
		if hasControl(v.raw) {
			return b, errControl
		}
		return append(b, v.raw...), nil
	case p.place == inHeader:
		return appendEscaped(b, v.raw, headerWord), nil
	case p.place == inKey:
		return appendEscaped(b, v.raw, keyWord), nil
	}
	text := v.text() // inJSON: who marshals it escapes it
	if p.raw {
		text = v.raw
	}
	if !utf8.ValidString(text) {
		return b, errUTF8
	}
	return append(b, text...), nil
}

// A charset says which bytes stand for themselves.
type charset [256]bool

func newCharset(f func(c byte) bool) *charset {
	var set charset
	for c := range set {
		set[c] = f(byte(c))
	}
	return &set
}

func among(chars string) func(byte) bool {
	return func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(chars, c) >= 0
	}
}

func visibleBut(chars string) func(byte) bool {
	return func(c byte) bool { return c > ' ' && c < 0x7f && strings.IndexByte(chars, c) < 0 }
}

var (
	// unreserved is what means the same everywhere.
	// Source: RFC 3986 section 2.3.
	unreserved = newCharset(among("-._~"))
	// rawPath is what may stand in a path, of several segments.
	// Source: RFC 3986 section 3.3.
	rawPath = newCharset(among("-._~!$&'()*+,;=:@/"))
	// rawQuery is what may stand in a query and does not end a parameter.
	rawQuery = newCharset(among("-._~!$'()*,:@/?"))
	// headerWord is what ends no word of a header, whatever its grammar.
	// Source: RFC 9110 section 5.6.
	headerWord = newCharset(visibleBut(`",;\`))
	// keyWord is what may stand in a key. A comma may, although vmod xkey parts keys
	// at commas: it parts those that the origin sends as well, so that a key with a
	// comma purges too much, where one that is written otherwise would purge nothing.
	keyWord = newCharset(visibleBut(`"`))
)

const hexDigits = "0123456789ABCDEF"

// appendEscaped appends s; what is not in set is percent-encoded.
func appendEscaped(b []byte, s string, set *charset) []byte {
	for i := range len(s) {
		if c := s[i]; set[c] {
			b = append(b, c)
		} else {
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}

// appendRaw is appendEscaped for what is percent-encoded already.
func appendRaw(b []byte, s string, set *charset) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; set[c] || c == '%' && isEscape(s[i:]) {
			b = append(b, c)
		} else {
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}

// isEscape reports whether s begins with a percent-encoded byte.
func isEscape(s string) bool { return len(s) >= 3 && isHex(s[1]) && isHex(s[2]) }

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func hexValue(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// unescape undoes percent-encoding. A capture may cut an escape in two; what is left
// of it stands for itself.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && isEscape(s[i:]) {
			b = append(b, hexValue(s[i+1])<<4|hexValue(s[i+2]))
			i += 2
		} else {
			b = append(b, s[i])
		}
	}
	return string(b)
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
}
