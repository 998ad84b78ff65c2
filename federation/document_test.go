package federation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testJWK(seed byte) JWK { return NewKey(testKey(seed).Public().(ed25519.PublicKey)).JWK() }

func testDocument() *Document {
	return &Document{Hub: hubA, Epoch: "00005f3a", Versions: []int{1}, Authority: []string{"https://en.example.org/wiki", "https://d.example/?a=1&b", "urn:isbn"},
		Keys: []JWK{testJWK(0), testJWK(1)}, Limits: Limits{Body: 1 << 20, Ops: 1_000, Interests: 1_000_000}, Endpoints: map[string]string{
			"interests": hubA + "/federation/v1/interests", "stream": hubA + "/federation/v1/stream",
			"ack": hubA + "/federation/v1/ack", "compare": hubA + "/federation/v1/compare"}}
}

func encodeDocument(t testing.TB, d *Document) []byte {
	t.Helper()
	b, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestADocumentIsWrittenAsOthersReadIt(t *testing.T) {
	d := testDocument()
	got := encodeDocument(t, d)
	name := filepath.Join("testdata", "document.golden")
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	back, err := DecodeDocument(bytes.NewReader(got))
	if err != nil || !reflect.DeepEqual(back, d) {
		t.Errorf("got %+v, %v; want %+v", back, err, d)
	}
	k, err := back.Keys[0].Key()
	if want := NewKey(testKey(0).Public().(ed25519.PublicKey)); err != nil || !k.Fingerprint().Equal(want.Fingerprint()) || !k.Public.Equal(want.Public) {
		t.Errorf("got the key %v, %v; want %v", k, err, want)
	}
	d.Authority = nil // who speaks for nothing says so
	if b := encodeDocument(t, d); !bytes.Contains(b, []byte(`"authority":[]`)) {
		t.Errorf("got %s", b)
	}
}

func TestADocumentThatOthersWouldRefuseIsNotWritten(t *testing.T) {
	d := testDocument()
	d.Endpoints["ack"] = hubB + "/ack"
	if b, err := d.Encode(); !errors.Is(err, ErrDocument) {
		t.Errorf("got %s, %v", b, err)
	}
	d = testDocument()
	d.Authority = nil
	for i := range 60 {
		d.Authority = append(d.Authority, fmt.Sprintf("https://en.example.org/%d/%s", i, strings.Repeat("a", 1_100)))
	}
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	if b, err := d.Encode(); !errors.Is(err, ErrDocument) || !strings.Contains(err.Error(), "at most 65536 are read") {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
}

func TestAHubThatSaysTooMuchOfItselfIsToldBeforeItIsServed(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*Document)
	}{
		{"versions: more than 16", func(d *Document) { d.Versions = slices.Repeat([]int{1}, maxVersions+1) }},
		{"authority: more than 1000 prefixes", func(d *Document) { d.Authority = slices.Repeat([]string{"urn:isbn"}, maxAuthority+1) }},
		{"keys: 33 keys", func(d *Document) { d.Keys = slices.Repeat(d.Keys[:1], maxDocumentKeys+1) }},
		{`endpoints: "Ack" is not a name`, func(d *Document) { d.Endpoints["Ack"] = d.Endpoints["ack"] }},
		{"versions: the hub speaks [], and this one 1", func(d *Document) { *d = Document{} }},
	} {
		d := testDocument()
		c.change(d)
		if err := d.Check(); !errors.Is(err, ErrDocument) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// badDocument is a document that must be refused, and what the refusal says.
type badDocument struct{ name, text, want string }

// badDocuments are the test document with a change each.
func badDocuments(t testing.TB) []badDocument {
	good := strings.TrimSpace(string(encodeDocument(t, testDocument())))
	instead := func(old, new string) string {
		t.Helper()
		if strings.Count(good, old) != 1 {
			t.Fatalf("%s stands %d times in %s", old, strings.Count(good, old), good)
		}
		return strings.Replace(good, old, new, 1)
	}
	return slices.Concat(badForms(good, instead), badKeys(good), badEndpoints(instead))
}

func badForms(good string, instead func(old, new string) string) []badDocument {
	authority := func(prefixes string) string {
		return instead(`["https://en.example.org/wiki","https://d.example/?a=1&b","urn:isbn"]`, prefixes)
	}
	return []badDocument{
		{"nothing", "", "it is not JSON"},
		{"a page", "<!DOCTYPE html><title>404</title>", "it is not JSON"},
		{"a list", "[" + good + "]", "it is not a JSON object"},
		{"one that was cut", good[:len(good)-1], "it is not JSON"},
		{"two", good + good, "something follows the object"},
		{"one of more than 64 KiB", good + strings.Repeat(" ", MaxDocument), "more than 65536 bytes"},
		{"one that is not UTF-8", instead(`"epoch":"00005f3a"`, "\"epoch\":\"\xff\""), "it is not UTF-8"},
		{"one that nests deep", instead(`"epoch"`, `"x":`+strings.Repeat("[", 5_000)+strings.Repeat("]", 5_000)+`,"epoch"`), "it nests deeper than 8"},
		{"two hubs", instead(`"epoch"`, `"hub":"https://evil.example","epoch"`), `"hub" stands twice`},

		{"no versions", instead(`"versions"`, `"was"`), "versions is not a list"},
		{"another version, of another form", `{"versions":[2],"hub":{"url":"x"}}`, "versions: the hub speaks [2], and this one 1"},
		{"a version that is a text", instead(`[1]`, `["1"]`), "versions[0] is not a whole number"},
		{"a version that is half", instead(`[1]`, `[1,1.5]`), "versions[1] is not a whole number"},
		{"more versions than there are", instead(`[1]`, `[1`+strings.Repeat(",2", maxVersions)+`]`), "versions has more than 16 values"},

		{"no hub", instead(`"hub"`, `"HUB"`), "hub is not a text"},
		{"a hub with a slash", instead(`"hub":"https://a.example"`, `"hub":"https://a.example/"`), "hub: "},
		{"a hub in capitals", instead(`"hub":"https://a.example"`, `"hub":"https://A.example"`), "hub: "},
		{"a hub of another scheme", instead(`"hub":"https://a.example"`, `"hub":"ftp://a.example"`), "hub: "},
		{"no epoch", instead(`"epoch":"00005f3a"`, `"epoch":null`), "epoch is not a text"},
		{"an epoch in capitals", instead("00005f3a", "00005F3A"), `epoch: "00005F3A"`},
		{"an epoch with a line end", instead("00005f3a", `00005f3a\n`), `epoch: "00005f3a\n"`},

		{"no authority", authority("null"), "authority is not a list"},
		{"a prefix that is a number", authority(`["https://en.example.org",7]`), "authority[1] is not a text"},
		{"a prefix that is all there is", authority(`["https://"]`), "authority[0]: "},
		{"an empty prefix", authority(`[""]`), "authority[0]: "},
		{"a prefix with a star", authority(`["https://*.example.org"]`), "authority[0]: "},
		{"a prefix with a way up", authority(`["https://en.example.org","https://en.example.org/a/../b"]`), "authority[1]: "},
		{"1,001 prefixes", authority(`["urn:isbn"` + strings.Repeat(`,"urn:isbn"`, maxAuthority) + `]`), "authority has more than 1000 values"},

		{"no limits", instead(`"limits":{`, `"was":{`), "limits is not an object"},
		{"a limit that is a text", instead(`"body":1048576`, `"body":"1MiB"`), "limits.body is not a whole number"},
		{"a limit that overflows", instead(`"body":1048576`, `"body":1e30`), "limits.body is not a whole number"},
		{"a body in which nothing fits", instead(`"body":1048576`, `"body":4095`), "limits.body: 4095 is less than 4096 bytes"},
		{"no operation at all", instead(`"ops":1000`, `"ops":0`), "limits.ops: 0 is less than 1"},
		{"less than no interest", instead(`"interests":1000000`, `"interests":-1`), "limits.interests: -1 is less than 0"},
	}
}

func badKeys(good string) []badDocument {
	first := testJWK(0)
	keys := func(list string) string {
		from, to := strings.Index(good, `"keys":[`)+len(`"keys":`), strings.Index(good, `,"endpoints"`)
		return good[:from] + list + good[to:]
	}
	key := func(change func(*JWK)) string {
		j := first
		change(&j)
		return keys("[" + mustJSON(j) + "]")
	}
	return []badDocument{
		{"keys that are an object", keys(`{}`), "keys is not a list"},
		{"no key", keys(`[]`), "keys: 0 keys, and there must be 1 to 32"},
		{"33 keys", keys(`[` + strings.Repeat(`{},`, 32) + `{}]`), "keys has more than 32 values"},
		{"a key that is a text", keys(`["` + first.X + `"]`), "keys[0] is not an object"},
		{"a key without a kind", keys(`[{"crv":"Ed25519"}]`), "keys[0].kty is not a text"},
		{"a key twice", keys("[" + mustJSON(first) + "," + mustJSON(first) + "]"), "keys[1]: kid a3c761e56d55f45e stands twice"},
		{"a private key", keys(`[{"d":"x",` + mustJSON(first)[1:] + `]`), "keys[0].d: a private key stands in the document"},
		{"a key of another kind", key(func(j *JWK) { j.Kty, j.Crv = "EC", "P-256" }), `keys[0]: "EC P-256" is not`},
		{"a key of another curve", key(func(j *JWK) { j.Crv = "X25519" }), `keys[0]: "OKP X25519" is not`},
		{"a key that is too short", key(func(j *JWK) { j.X = j.X[:40] }), "keys[0]: x is not 32 bytes"},
		{"a key with a line end", key(func(j *JWK) { j.X += "\n" }), "keys[0]: x is not 32 bytes"},
		{"a key with padding", key(func(j *JWK) { j.X += "=" }), "keys[0]: x is not 32 bytes"},
		{"a key of another algorithm", key(func(j *JWK) { j.Alg = "none" }), `keys[0]: alg "none"`},
		{"a key for another use", key(func(j *JWK) { j.Use = "enc" }), `keys[0]: use "enc"`},
		{"a key under the id of another", key(func(j *JWK) { j.Kid = testJWK(1).Kid }), "keys[0]: kid "},
		{"an alg that is a number", keys(`[{"alg":1,` + strings.Replace(mustJSON(first)[1:], `,"alg":"EdDSA"`, "", 1) + `]`), "keys[0].alg is not a text"},
	}
}

func badEndpoints(instead func(old, new string) string) []badDocument {
	endpoint := func(url string) string { return instead(`"ack":"https://a.example/federation/v1/ack"`, `"ack":`+url) }
	another := `"x1":"https://a.example/`
	for i := range maxEndpoints {
		another += fmt.Sprintf(`","y%d":"https://a.example/`, i)
	}
	return []badDocument{
		{"endpoints that are a list", instead(`"endpoints":{`, `"endpoints":[],"x":{`), "endpoints is not an object"},
		{"an endpoint that is missing", instead(`"ack"`, `"acc"`), "endpoints.ack is missing"},
		{"an endpoint that is nothing", endpoint(`null`), "endpoints.ack is not a text"},
		{"an endpoint elsewhere", endpoint(`"https://evil.example/ack"`), "does not lie under https://a.example"},
		{"an endpoint of a host that begins the same", endpoint(`"https://a.example.evil.example/ack"`), "does not lie under https://a.example"},
		{"an endpoint at another port", endpoint(`"https://a.example:8443/ack"`), "does not lie under https://a.example"},
		{"an endpoint without encryption", endpoint(`"http://a.example/ack"`), "does not lie under https://a.example"},
		{"an endpoint of another scheme", endpoint(`"file:///etc/passwd"`), "endpoints.ack: "},
		{"an endpoint that is relative", endpoint(`"/federation/v1/ack"`), "endpoints.ack: "},
		{"an endpoint with a user", endpoint(`"https://a.example@evil.example/ack"`), "endpoints.ack: "},
		{"an endpoint with a way up", endpoint(`"https://a.example/a/../ack"`), "endpoints.ack: "},
		{"an endpoint with a query", endpoint(`"https://a.example/ack?token=x"`), "has a query or a fragment"},
		{"an endpoint with a fragment", endpoint(`"https://a.example/ack#x"`), "has a query or a fragment"},
		{"an endpoint with a name of two lines", endpoint(`"https://a.example/ack","a\nb":"https://a.example/"`), `endpoints: "a\nb" is not a name`},
		{"33 endpoints and more", endpoint(`"https://a.example/ack",` + another + `"`), "endpoints: more than 32"},
	}
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestDocumentsThatCannotBeUsedAreRefusedEachForItsReason(t *testing.T) {
	for _, c := range badDocuments(t) {
		t.Run(c.name, func(t *testing.T) {
			d, err := DecodeDocument(strings.NewReader(c.text))
			if !errors.Is(err, ErrDocument) || !strings.Contains(err.Error(), c.want) || d != nil {
				t.Fatalf("got %+v, %v; want it refused because %s", d, err, c.want)
			}
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("the error has two lines: %q", err)
			}
		})
	}
}

func TestADocumentMaySayMoreThanIsKnown(t *testing.T) {
	want := testDocument()
	good := string(encodeDocument(t, want))
	later := strings.NewReplacer(`"versions":[1]`, `"versions":[1,2]`, `{"hub"`, `{"contact":{"mail":["a@a.example"]},"Hub":"https://evil.example","hub"`,
		`"kty":"OKP"`, `"kty":"OKP","X":"x","key_ops":["verify"]`, `"ops":1000`, `"ops":1000,"OPS":0,"rate":0.5`,
		`"stream":`, `"stream-v2":"https://a.example/federation/v2/stream","stream":`).Replace(good)
	got, err := DecodeDocument(strings.NewReader(later))
	if err != nil {
		t.Fatal(err)
	}
	want.Versions = []int{1, 2}
	want.Endpoints["stream-v2"] = "https://a.example/federation/v2/stream"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAConnectionThatBreaksIsNotTheFaultOfTheDocument(t *testing.T) {
	broken := errors.New("connection reset")
	half := encodeDocument(t, testDocument())[:100]
	_, err := DecodeDocument(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(half))))
	if !errors.Is(err, iotest.ErrTimeout) || errors.Is(err, ErrDocument) {
		t.Errorf("got %v", err)
	}
	if _, err = DecodeDocument(iotest.ErrReader(broken)); !errors.Is(err, broken) || errors.Is(err, ErrDocument) {
		t.Errorf("got %v", err)
	}
}

func FuzzDocument(f *testing.F) {
	for _, c := range badDocuments(f) {
		if len(c.text) < MaxDocument {
			f.Add([]byte(c.text))
		}
	}
	f.Add(encodeDocument(f, testDocument()))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDocument(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrDocument) {
				t.Errorf("%v is no ErrDocument", err)
			}
			return
		}
		again, err := d.Encode()
		if err != nil {
			if len(b) < MaxDocument { // only its last line end has no room then
				t.Fatalf("%s decodes, and %v", b, err)
			}
			return
		}
		back, err := DecodeDocument(bytes.NewReader(again))
		if err != nil || !reflect.DeepEqual(back, d) {
			t.Errorf("%s decodes to %+v, which encodes to %s, which decodes to %+v, %v", b, d, again, back, err)
		}
		for _, url := range d.Endpoints {
			if !strings.HasPrefix(url, d.Hub+"/") {
				t.Errorf("%s lets %s send others to %s", b, d.Hub, url)
			}
		}
	})
}
