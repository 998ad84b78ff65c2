package graph

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestParseCursorReadsWhatStringWrites(t *testing.T) {
	for text, want := range map[string]Cursor{
		"00000000.0":                    {},
		"00005f3a.88121":                {Epoch: 0x5f3a, Seq: 88121},
		"ffffffff.18446744073709551615": {Epoch: math.MaxUint32, Seq: math.MaxUint64},
	} {
		got, err := ParseCursor(text)
		if err != nil || got != want {
			t.Errorf("ParseCursor(%q) = %v, %v; want %v", text, got, err, want)
		}
		if want.String() != text {
			t.Errorf("String() = %q, want %q", want.String(), text)
		}
		if got.IsZero() != (text == "00000000.0") {
			t.Errorf("%q: IsZero() = %t", text, got.IsZero())
		}
	}
}

func TestParseCursorRefusesOtherSpellings(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                    "",
		"no dot":                     "00005f3a",
		"a short epoch":              "5f3a.1",
		"a long epoch":               "000005f3a.1",
		"capital digits":             "00005F3A.1",
		"no seq":                     "00005f3a.",
		"a leading zero":             "00005f3a.01",
		"a sign":                     "00005f3a.+1",
		"an epoch with a sign":       "+0005f3a.1",
		"an underscore":              "00005f3a.1_000",
		"a seq of 2^64":              "00005f3a.18446744073709551616",
		"a second dot":               "00005f3a.1.2",
		"a space":                    "00005f3a.1 ",
		"more than 128 bytes":        "00005f3a." + strings.Repeat("1", MaxCursor),
		"an epoch that is not a hex": "0000xyza.1",
	} {
		if got, err := ParseCursor(text); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: ParseCursor(%q) = %v, %v; want %v", name, text, got, err, ErrCursor)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("00005f3a.88121")
	f.Add("ffffffff.18446744073709551615")
	f.Add("0.0")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCursor(s)
		if err != nil {
			if !errors.Is(err, ErrCursor) || !(c == Cursor{}) {
				t.Errorf("ParseCursor(%q) = %v, %v", s, c, err)
			}
			return
		}
		if c.String() != s || len(s) > MaxCursor {
			t.Errorf("%q is read as %q", s, c)
		}
	})
}
