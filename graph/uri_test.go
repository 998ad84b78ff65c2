package graph

import (
	"errors"
	"strings"
	"testing"
)

func TestCanonicalURIsAreAcceptedAsTheyAre(t *testing.T) {
	for _, s := range []string{
		"https://en.example.org/wiki/Berlin",
		"https://en.example.org/",
		"http://127.0.0.1:8420/a",
		"http://[::1]:8420/a",
		"https://en.example.org:8443/wiki/A",
		"https://en.example.org/wiki/Ja:%E8%BE%B2%E5%AD%A6#exists",
		"https://en.example.org/wiki/Shi%27a#exists",
		"https://en.example.org/wiki/Shi'a#exists",
		"https://en.example.org/wiki/A_(b),_c!*;@$:d",
		"https://en.example.org/wiki/A%3A_b%2Fc%20d",
		"https://en.example.org/wiki/...#C.P6",
		"https://en.example.org/wiki/.a/..b/c.",
		"https://en.example.org/w/index.php?title=../x&a=./b",
		"https://en.example.org/wiki/Foo#html/userlang=de?x",
		"https://en.example.org/wiki/Foo?",
		"https://wiki.example.org/entity/Q64#C.P6",
		"ticker:PT1H",
		"urn:isbn:0451450523",
		"urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
		"https://xn--bcher-kva.example/%C3%84",
		"https://e.example/" + strings.Repeat("a", MaxURI-len("https://e.example/")),
	} {
		if got, err := CanonicalURI(s); got != s || err != nil {
			t.Errorf("CanonicalURI(%q) = %q, %v; want it unchanged", s, got, err)
		}
	}
}

func TestOtherSpellingsAreRefusedWithTheCanonicalOneWhereThatIsSafe(t *testing.T) {
	for _, c := range []struct {
		name, uri, canonical string
		fault                uriFault
	}{
		{"empty", "", "", faultRelative},
		{"relative path", "/wiki/A", "", faultRelative},
		{"relative with a colon in a later segment", "a/b:c", "", faultRelative},
		{"only a scheme", "https:", "", faultNoHost},
		{"web address without host", "https:/wiki/A", "", faultNoHost},
		{"empty host", "https:///wiki/A", "", faultNoHost},
		{"empty opaque part", "ticker:", "", faultEmptyPath},
		{"upper-case scheme", "HTTPS://e.example/a", "https://e.example/a", faultSchemeCase},
		{"unknown scheme", "ftp://e.example/a", "", faultScheme},
		{"script", "javascript:alert(1)", "", faultScheme},
		{"upper-case host", "https://EN.example/a", "https://en.example/a", faultHostCase},
		{"user", "https://me@e.example/a", "", faultUser},
		{"user and password", "https://me:secret@e.example/a", "", faultUser},
		{"numeric password", "https://me:80@e.example/a", "", faultUser},
		{"empty user", "https://@e.example/a", "", faultUser},
		{"host outside ASCII", "https://bücher.example/a", "", faultHost},
		{"percent-encoded host", "https://e%2Eexample/a", "", faultHost},
		{"host with final dot", "https://e.example./a", "", faultHost},
		{"host with empty label", "https://e..example/a", "", faultHost},
		{"host with backslash", `https://e.example\@evil.example/a`, "", faultUser},
		{"long host", "https://" + strings.Repeat("a.", 127) + "org/", "", faultHost},
		{"address not closed", "https://[::1/a", "", faultHost},
		{"address that is none", "https://[::g]/a", "", faultHost},
		{"address spelt long", "https://[0:0:0:0:0:0:0:1]/a", "", faultHostCase},
		{"address with zone", "https://[fe80::1%25eth0]/a", "", faultHost},
		{"text after the address", "https://[::1]x/a", "", faultHost},
		{"default port of https", "https://e.example:443/a", "https://e.example/a", faultDefaultPort},
		{"default port of http", "http://e.example:80/a", "http://e.example/a", faultDefaultPort},
		{"empty port", "https://e.example:/a", "", faultPort},
		{"port zero", "https://e.example:0/a", "", faultPort},
		{"port with leading zero", "https://e.example:0443/a", "", faultPort},
		{"port too high", "https://e.example:65536/a", "", faultPort},
		{"no path", "https://e.example", "https://e.example/", faultEmptyPath},
		{"query without path", "https://e.example?a", "https://e.example/?a", faultEmptyPath},
		{"dot segment", "https://e.example/a/./b", "", faultDots},
		{"dot segments at the end", "https://e.example/a/..", "", faultDots},
		{"dot segments before an aspect", "https://e.example/a/..#x", "", faultDots},
		{"encoded dot segments", "https://e.example/%2e%2e/b", "", faultHexCase},
		{"half encoded dot segments", "https://e.example/.%2E/b", "", faultUnreserved},
		{"space", "https://e.example/a b", "", faultSpace},
		{"tab", "https://e.example/a\tb", "", faultControl},
		{"line end", "https://e.example/a\n", "", faultControl},
		{"raw control outside ASCII", "https://e.example/\u0085", "", faultControl},
		{"raw letters outside ASCII", "https://e.example/Ä", "https://e.example/%C3%84", faultRaw},
		{"raw bidi override", "https://e.example/\u202egnp", "", faultRaw},
		{"invalid UTF-8", "https://e.example/\xff", "", faultUTF8},
		{"quotation mark", `https://e.example/"a"`, "https://e.example/%22a%22", faultChar},
		{"bracket in path", "https://e.example/a[1]", "https://e.example/a%5B1%5D", faultChar},
		{"backslash", `https://e.example/a\b`, "https://e.example/a%5Cb", faultChar},
		{"bare percent", "https://e.example/100%", "", faultEscape},
		{"percent and one digit", "https://e.example/a%4", "", faultEscape},
		{"percent and no hex", "https://e.example/a%zz", "", faultEscape},
		{"lower-case hex", "https://e.example/%c3%84", "https://e.example/%C3%84", faultHexCase},
		{"encoded letter", "https://e.example/%41b", "https://e.example/Ab", faultUnreserved},
		{"encoded tilde", "https://e.example/%7Eme", "https://e.example/~me", faultUnreserved},
		{"encoded NUL", "https://e.example/a%00", "", faultHidden},
		{"encoded control outside ASCII", "https://e.example/%C2%85", "", faultHidden},
		{"encoded bidi mark", "https://e.example/a%E2%80%8F", "", faultHidden},
		{"encoded wide space", "https://e.example/a%E3%80%80b", "", faultHidden},
		{"encoded no-break space", "https://e.example/a%C2%A0b", "", faultHidden},
		{"encoded half of a letter", "https://e.example/%C3", "", faultUTF8},
		{"encoded letter broken off", "https://e.example/%E2%80x", "", faultUTF8},
		{"encoded overlong slash", "https://e.example/%C0%AF", "", faultUTF8},
		{"encoded surrogate", "https://e.example/%ED%A0%80", "", faultUTF8},
		{"encoded replacement character", "https://e.example/%EF%BF%BD", "", faultUTF8},
		{"empty aspect", "https://e.example/a#", "https://e.example/a", faultEmptyAspect},
		{"two aspects", "https://e.example/a#b#c", "", faultTwoAspects},
		{"raw letters in the aspect", "https://e.example/a#ä", "https://e.example/a#%C3%A4", faultRaw},
		{"encoded letter in the aspect", "https://e.example/a#%41", "https://e.example/a#A", faultUnreserved},
		{"urn without name", "urn:isbn:", "", faultURN},
		{"urn with upper-case namespace", "urn:ISBN:1", "", faultURN},
		{"too long", "https://e.example/" + strings.Repeat("a", MaxURI), "", faultLong},
	} {
		err := CheckURI(c.uri)
		var e *URIError
		if !errors.As(err, &e) || !errors.Is(err, ErrURI) {
			t.Errorf("%s: CheckURI(%.60q) = %v, want a *URIError", c.name, c.uri, err)
			continue
		}
		if e.Reason != faultTexts[c.fault] || e.Canonical != c.canonical {
			t.Errorf("%s: %q is refused with %q and %q, want %q and %q",
				c.name, c.uri, e.Reason, e.Canonical, faultTexts[c.fault], c.canonical)
		}
	}
}

func TestConfiguredSchemesAreAllowed(t *testing.T) {
	for _, c := range []struct {
		uri string
		ok  bool
	}{
		{"tile:world/3/2/1", true}, {"tile://maps.example/3/2/1", true}, {"tiles:world", false}, {"TILE:world", false},
	} {
		if err := CheckURI(c.uri, "tile"); (err == nil) != c.ok {
			t.Errorf("CheckURI(%q, tile) = %v, want accepted %t", c.uri, err, c.ok)
		}
	}
}

func TestSplitAspect(t *testing.T) {
	for _, c := range []struct{ uri, base, aspect string }{
		{"https://e.example/Q64#C.P6", "https://e.example/Q64", "C.P6"},
		{"https://e.example/Q64", "https://e.example/Q64", ""},
	} {
		if base, aspect := SplitAspect(c.uri); base != c.base || aspect != c.aspect {
			t.Errorf("SplitAspect(%q) = %q, %q; want %q, %q", c.uri, base, aspect, c.base, c.aspect)
		}
	}
}

func TestHost(t *testing.T) {
	for uri, want := range map[string]string{
		"https://e.example/a": "e.example", "http://[::1]:8420/": "[::1]:8420", "https://e.example:8443/a?b": "e.example:8443",
		"https://e.example": "e.example", "ticker:PT1H": "", "urn:isbn:1": "",
	} {
		if got := Host(uri); got != want {
			t.Errorf("Host(%q) = %q, want %q", uri, got, want)
		}
	}
}

func TestAPrefixCoversWholeSegmentsOfOneHost(t *testing.T) {
	for _, c := range []struct {
		uri, prefix string
		want        bool
	}{
		{"https://e.example/wiki/A", "https://e.example", true},
		{"https://e.example/wiki/A", "https://e.example/", true},
		{"https://e.example/wiki/A", "https://e.example/wiki", true},
		{"https://e.example/wiki/A", "https://e.example/wiki/", true},
		{"https://e.example/wiki/A", "https://e.example/wiki/A", true},
		{"https://e.example/wiki/A#exists", "https://e.example/wiki/A", true},
		{"https://e.example/wiki/A?b", "https://e.example/wiki/A", true},
		{"https://e.example/wiki/A/b", "https://e.example/wiki/A", true},
		{"https://e.example/wiki", "https://e.example/wiki/", false},
		{"https://e.example/wiki/Ab", "https://e.example/wiki/A", false},
		{"https://e.example.evil/wiki/A", "https://e.example", false},
		{"https://e.example:8443/wiki/A", "https://e.example", false},
		{"http://e.example/wiki/A", "https://e.example", false},
		{"https://e.example/wiki/A", "https://", false},
		{"https://e.example/wiki/A", "https:", false},
		{"https://e.example/wiki/A", "", false},
		{"urn:isbn:1", "urn:isbn", true},
		{"urn:isbn:1", "urn:isbn:", true},
		{"urn:isbnx:1", "urn:isbn", false},
		{"urn:isbn:1", "urn:", false},
	} {
		if got := UnderPrefix(c.uri, c.prefix); got != c.want {
			t.Errorf("UnderPrefix(%q, %q) = %t, want %t", c.uri, c.prefix, got, c.want)
		}
	}
}

func TestCheckingAValidURIDoesNotAllocate(t *testing.T) {
	schemes := []string{"tile"}
	if n := testing.AllocsPerRun(100, func() {
		if err := CheckURI("https://en.example.org/wiki/Ja:%E8%BE%B2#exists", schemes...); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("CheckURI allocates %v times, want 0", n)
	}
}

func FuzzCanonicalURI(f *testing.F) {
	for _, s := range []string{
		"https://en.example.org/wiki/Berlin#html/canonical", "https://e.example/%C3%84?a=%2F#%E2%80%8F", "HTTP://[::1]:80/a/../%2e",
		"ticker:PT1H", "urn:isbn:1", "https://u:p@e.example:443#", "https://e.example/Ä\u202e\xff %zz[",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := CanonicalURI(s)
		if err2 := CheckURI(s); (err == nil) != (err2 == nil) {
			t.Fatalf("CanonicalURI(%q) says %v, CheckURI says %v", s, err, err2)
		}
		if err == nil {
			if got != s || respell(s) != s {
				t.Errorf("canonical %q becomes %q and is spelt %q", s, got, respell(s))
			}
			base, aspect := SplitAspect(s)
			if base2, err := CanonicalURI(base); err != nil {
				t.Errorf("base %q of %q, aspect %q: %v", base2, s, aspect, err)
			}
			if h := Host(s); h != "" && !UnderPrefix(s, s[:strings.Index(s, "://")+3]+h) {
				t.Errorf("%q is not under its own host %q", s, h)
			}
			return
		}
		var e *URIError
		if !errors.As(err, &e) || e.Reason == "" || got != "" {
			t.Fatalf("CanonicalURI(%q) = %q, %v; want a *URIError with a reason", s, got, err)
		}
		if e.Canonical != "" && CheckURI(e.Canonical) != nil {
			t.Errorf("%q is said to be spelt %q, which is refused: %v", s, e.Canonical, CheckURI(e.Canonical))
		}
	})
}

func BenchmarkCheckURI(b *testing.B) {
	for name, s := range map[string]string{
		"uri=ascii":   "https://en.wikipedia.example/wiki/Template:Infobox#exists",
		"uri=encoded": "https://en.wikipedia.example/wiki/Ja:%E8%BE%B2%E5%AD%A6#exists",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(s)))
			for b.Loop() {
				if CheckURI(s) != nil {
					b.Fatal(s)
				}
			}
		})
	}
}
