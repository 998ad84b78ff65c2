package hub

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

// A scanner reads JSON whose shape the caller knows. It is strict where
// encoding/json is not: bytes that are no UTF-8 and surrogates without a partner
// are refused instead of replaced, names are compared exactly, and the caller sees
// each name and so can refuse it, or its repetition. It never recurses: there is
// nothing that deep nesting could exhaust.
// Source: RFC 8259, RFC 7493 (I-JSON).
type scanner struct {
	b   []byte
	i   int
	buf []byte // text with escapes, decoded
}

// A syntaxError is what is wrong with the JSON at a byte offset.
type syntaxError struct {
	offset int
	reason string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s at byte %d", e.reason, e.offset) }

// A typeError is a value of another JSON type than the field has.
type typeError struct{ got, want string }

func (e *typeError) Error() string {
	if e.got == "null" {
		return "null is not " + e.want + "; leave the field out if there is nothing to say"
	}
	return e.got + " is not " + e.want
}

func (s *scanner) fail(reason string) error { return &syntaxError{s.i, reason} }

// space skips white space.
func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\n', '\r', '\t':
			s.i++
		default:
			return
		}
	}
}

// peek skips white space and returns the byte after it, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i == len(s.b) {
		return 0
	}
	return s.b[s.i]
}

// wrongType says that the value at hand is not what the caller wants.
func (s *scanner) wrongType(want string) error {
	got := ""
	switch c := s.peek(); {
	case s.i == len(s.b):
		return s.fail("the JSON ends early")
	case c == '{':
		got = "an object"
	case c == '[':
		got = "an array"
	case c == '"':
		got = "a string"
	case c == 't' || c == 'f':
		got = "a boolean"
	case c == 'n':
		got = "null"
	case c == '-' || '0' <= c && c <= '9':
		got = "a number"
	default:
		return s.fail(fmt.Sprintf("unexpected %q", c))
	}
	return &typeError{got, want}
}

// object steps into an object, array into an array.
func (s *scanner) object() error { return s.open('{', "an object") }
func (s *scanner) array() error  { return s.open('[', "an array") }

func (s *scanner) open(c byte, want string) error {
	if s.peek() != c {
		return s.wrongType(want)
	}
	s.i++
	return nil
}

// more reports whether the object or array that close ends has a further
// element, and steps before it, or else behind close.
func (s *scanner) more(first bool, close byte) (bool, error) {
	c := s.peek()
	if c == close {
		s.i++
		return false, nil
	}
	if !first {
		if c != ',' {
			return false, s.fail(fmt.Sprintf("want , or %c", close))
		}
		s.i++
		if s.peek() == close {
			return false, s.fail("unexpected , before the end")
		}
	}
	return true, nil
}

// key returns the name of the next member. It is valid until the next call.
func (s *scanner) key() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.fail("want a name in quotation marks")
	}
	k, err := s.text()
	if err != nil {
		return nil, err
	}
	if s.peek() != ':' {
		return nil, s.fail("want :")
	}
	s.i++
	return k, nil
}

// text returns a string. It is valid until the next call.
func (s *scanner) text() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.wrongType("a string")
	}
	s.i++
	start := s.i
	ascii := byte(0)
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			t := s.b[start:s.i]
			s.i++
			if ascii >= utf8.RuneSelf && !utf8.Valid(t) {
				s.i = start
				return nil, s.fail("text that is not UTF-8")
			}
			return t, nil
		case c == '\\':
			return s.escapedText(start)
		case c < ' ':
			return nil, s.fail("a control character in a string")
		default:
			ascii |= c
			s.i++
		}
	}
	return nil, s.fail("the JSON ends inside a string")
}

// escapedText is text from the first backslash on.
func (s *scanner) escapedText(start int) ([]byte, error) {
	s.buf = append(s.buf[:0], s.b[start:s.i]...)
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			if !utf8.Valid(s.buf) {
				s.i = start
				return nil, s.fail("text that is not UTF-8")
			}
			return s.buf, nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < ' ':
			return nil, s.fail("a control character in a string")
		default:
			s.buf = append(s.buf, c)
			s.i++
		}
	}
	return nil, s.fail("the JSON ends inside a string")
}

// escape decodes the escape at the backslash.
func (s *scanner) escape() error {
	if s.i+1 == len(s.b) {
		return s.fail("the JSON ends inside a string")
	}
	switch c := s.b[s.i+1]; c {
	case '"', '\\', '/':
		s.buf = append(s.buf, c)
	case 'b':
		s.buf = append(s.buf, '\b')
	case 'f':
		s.buf = append(s.buf, '\f')
	case 'n':
		s.buf = append(s.buf, '\n')
	case 'r':
		s.buf = append(s.buf, '\r')
	case 't':
		s.buf = append(s.buf, '\t')
	case 'u':
		return s.unicodeEscape()
	default:
		return s.fail("an unknown escape")
	}
	s.i += 2
	return nil
}

func (s *scanner) unicodeEscape() error {
	r, ok := hex4(s.b[s.i:])
	if !ok {
		return s.fail(`\u without four hex digits`)
	}
	n := 6
	if utf16.IsSurrogate(r) {
		low, _ := hex4(s.b[s.i+6:])
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return s.fail("a surrogate without its partner")
		}
		n = 12
	}
	s.buf = utf8.AppendRune(s.buf, r)
	s.i += n
	return nil
}

// hex4 decodes the \uXXXX at the start of b.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// uri returns a canonical URI.
func (s *scanner) uri(schemes []string) (string, error) {
	t, err := s.text()
	if err != nil {
		return "", err
	}
	uri := string(t)
	return uri, graph.CheckURI(uri, schemes...)
}

// boolean returns true or false.
func (s *scanner) boolean() (bool, error) {
	s.space()
	switch rest := s.b[s.i:]; {
	case len(rest) >= 4 && string(rest[:4]) == "true":
		s.i += 4
		return true, nil
	case len(rest) >= 5 && string(rest[:5]) == "false":
		s.i += 5
		return false, nil
	}
	return false, s.wrongType("true or false")
}

// integer returns a whole number from 0 to most.
func (s *scanner) integer(most int) (int, error) {
	want := fmt.Sprintf("a whole number from 0 to %d", most)
	c := s.peek()
	if c < '0' || c > '9' {
		return 0, s.wrongType(want)
	}
	n := 0
	start := s.i
	for s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9' {
		if n = n*10 + int(s.b[s.i]-'0'); n > most {
			return 0, &typeError{"the number", want}
		}
		s.i++
	}
	if s.i < len(s.b) && (s.b[s.i] == '.' || s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		return 0, &typeError{"the number", want}
	}
	if c == '0' && s.i > start+1 {
		return 0, s.fail("a number with a leading zero")
	}
	return n, nil
}

// end reports what stands behind the last value.
func (s *scanner) end() error {
	if s.peek(); s.i < len(s.b) {
		return s.fail("something follows the JSON value")
	}
	return nil
}

// appendText appends t as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendText(b []byte, t string) []byte {
	b = append(b, '"')
	done := 0
	for i := 0; i < len(t); {
		c := t[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(t[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, t[done:i]...), "\ufffd"...)
				done = i + size
			}
			i += size
			continue
		}
		b = append(b, t[done:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, '\\', 'u', '0', '0', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		}
		i++
		done = i
	}
	return append(append(b, t[done:]...), '"')
}
