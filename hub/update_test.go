package hub

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func decode(body string) ([]graph.Update, error) {
	return DecodeUpdates([]byte(body), DecodeOptions{Now: noon, Schemes: []string{"tile"}})
}

func TestDecodeUpdatesReadsEveryField(t *testing.T) {
	got, err := decode(`{"id":"01J","uri":"https://en.example.org/wiki/Berlin","type":"html","hash":"9e1c","version":"1182",
		"at":"2026-11-22T03:12:49.976+01:00","token":"00005f3a.88121","action":"update",
		"deps":[{"uri":"https://en.example.org/wiki/Berlin","seen":"1182"},{"seen":"t3zx9","uri":"https://commons.example.org/wiki/File:B.jpg#file"},
		"https://en.example.org/wiki/Missing#exists",{"uri":"tile:a"}],"aspects":["C.P6","*"],
		"buckets":["https://en.example.org/wiki/Berlin","a b"],"expires":"2026-11-23T02:12:49Z","cause":"\ud83d\ude00 \u00e4\"\\\/ß","traceparent":"00-1"}`)
	want := []graph.Update{{
		ID: "01J", URI: "https://en.example.org/wiki/Berlin", Type: "html", Hash: "9e1c", Version: "1182",
		At: time.Date(2026, 11, 22, 2, 12, 49, 976e6, time.UTC), Token: graph.Cursor{Epoch: 0x5f3a, Seq: 88121},
		Deps: []graph.Dep{{URI: "https://en.example.org/wiki/Berlin", Seen: "1182"},
			{URI: "https://commons.example.org/wiki/File:B.jpg#file", Seen: "t3zx9"},
			{URI: "https://en.example.org/wiki/Missing#exists"}, {URI: "tile:a"}},
		Aspects: []string{"C.P6", "*"}, Buckets: []string{"https://en.example.org/wiki/Berlin", "a b"},
		Expires: time.Date(2026, 11, 23, 2, 12, 49, 0, time.UTC), Cause: "😀 ä\"\\/ß",
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestABatchIsAnObjectAnArrayOrOneObjectALine(t *testing.T) {
	const a, b = `{"uri":"https://e.example/a"}`, `{"uri":"https://e.example/b","action":"delete"}`
	both := []graph.Update{{URI: "https://e.example/a"}, {URI: "https://e.example/b", Action: graph.ActionDelete}}
	for body, want := range map[string][]graph.Update{
		a: both[:1], a + "\n": both[:1], " " + a + " ": both[:1],
		"[" + a + "]": both[:1], "[" + a + "," + b + "]\n": both, "[ ]": {},
		a + "\n" + b: both, a + "\r\n\n\n" + b + "\n": both,
	} {
		if got, err := decode(body); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q decodes to %v, %v; want %v", body, got, err, want)
		}
	}
}

func TestAbsentListsStayNilAndEmptyOnesDoNot(t *testing.T) {
	for body, want := range map[string]graph.Update{
		`{"uri":"tile:a"}`:                             {URI: "tile:a"},
		`{"uri":"tile:a","deps":[],"buckets":[]}`:      {URI: "tile:a", Deps: []graph.Dep{}, Buckets: []string{}},
		`{"uri":"tile:a","aspects":[]}`:                {URI: "tile:a"},
		`{"uri":"tile:a","token":"00000000.0"}`:        {URI: "tile:a"},
		`{"uri":"tile:a","version":"x1","id":"v"}`:     {URI: "tile:a", Version: "x1", ID: "v"},
		`{"uri":"tile:a","at":"1970-01-01T00:00:00Z"}`: {URI: "tile:a", At: time.Unix(0, 0).UTC()},
	} {
		if got, err := decode(body); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s decodes to %#v, %v; want %#v", body, got, err, want)
		}
	}
}

func TestARefusalNamesItemAndField(t *testing.T) {
	update := func(members string) string { return `{"uri":"https://e.example/a",` + members + `}` }
	good := `{"uri":"https://e.example/a"}`
	list := func(n int, s string) string { return "[" + strings.TrimSuffix(strings.Repeat(s+",", n), ",") + "]" }
	for _, c := range []struct {
		name, body string
		kind       *problemKind
		item       int // -1 means none
		field      string
	}{
		{"nothing", "", badJSON, -1, ""},
		{"white space", " \n", badJSON, -1, ""},
		{"a string", `"a"`, badValue, 0, ""},
		{"null", `null`, badValue, 0, ""},
		{"a byte-order mark", "\ufeff" + good, badJSON, 0, ""},
		{"an array that is not closed", "[" + good, badJSON, 1, ""},
		{"an array with a comma at the end", "[" + good + ",]", badJSON, 1, ""},
		{"an array without commas", "[" + good + good + "]", badJSON, 1, ""},
		{"an array and more", "[" + good + "]" + good, badJSON, 1, ""},
		{"two objects on one line", good + good, badJSON, 1, ""},
		{"an array on a line", good + "\n[" + good + "]", badValue, 1, ""},
		{"deep nesting", strings.Repeat("[", 100_000), badValue, 0, ""},
		{"deep nesting in a field", update(`"deps":` + strings.Repeat("[", 100_000)), badValue, 0, "deps[0]"},
		{"an unknown field", update(`"verison":"1"`), unknownField, 0, "verison"},
		{"an unknown field with a known name in capitals", update(`"Version":"1"`), unknownField, 0, "Version"},
		{"an unknown field of a dependency", update(`"deps":[{"uri":"tile:a","version":"1"}]`), unknownField, 0, "deps[0].version"},
		{"a repeated field", update(`"uri":"tile:a"`), badJSON, 0, "uri"},
		{"a repeated field in other letters", update(`"\u0075ri":"tile:a"`), badJSON, 0, "uri"},
		{"a repeated uri of a dependency", update(`"deps":[{"uri":"tile:a","uri":"tile:a"}]`), badJSON, 0, "deps[0]"},
		{"a repeated seen", update(`"deps":[{"uri":"tile:a","seen":"1","seen":"1"}]`), badJSON, 0, "deps[0]"},
		{"no uri", `{"version":"1"}`, missingField, 0, "uri"},
		{"no uri in a dependency", update(`"deps":[{"seen":"1"}]`), missingField, 0, "deps[0].uri"},
		{"no id with a version that is no number", update(`"version":"x"`), missingField, 0, "id"},
		{"a number as version", update(`"version":1182`), badValue, 0, "version"},
		{"null as version", update(`"version":null`), badValue, 0, "version"},
		{"null as deps", update(`"deps":null`), badValue, 0, "deps"},
		{"a string as deps", update(`"deps":"tile:a"`), badValue, 0, "deps"},
		{"a number as dependency", update(`"deps":["tile:a",1]`), badValue, 0, "deps[1]"},
		{"an empty version", update(`"version":""`), badValue, 0, "version"},
		{"an empty type", update(`"type":""`), badValue, 0, "type"},
		{"an empty seen", update(`"deps":[{"uri":"tile:a","seen":""}]`), badValue, 0, "deps[0]"},
		{"a control character in a hash", update(`"hash":"a\u0000"`), badValue, 0, "hash"},
		{"a C1 control in a hash", update(`"hash":"a\u0085"`), badValue, 0, "hash"},
		{"a raw line end in a string", update("\"hash\":\"a\nb\""), badJSON, 0, "hash"},
		{"a long id", update(`"id":"` + strings.Repeat("x", 256) + `"`), overLimit, 0, "id"},
		{"a uri that is not canonical", `{"uri":"HTTPS://e.example/a"}`, badURI, 0, "uri"},
		{"a dependency that is not canonical", update(`"deps":["tile:a",{"uri":"a"}]`), badURI, 0, "deps[1]"},
		{"a scheme that is not allowed", `{"uri":"ftp://e.example/a"}`, badURI, 0, "uri"},
		{"a long uri", `{"uri":"https://e.example/` + strings.Repeat("x", 2048) + `"}`, badURI, 0, "uri"},
		{"an unknown action", update(`"action":"remove"`), badValue, 0, "action"},
		{"a time that is none", update(`"at":"yesterday"`), badValue, 0, "at"},
		{"a time without zone", update(`"at":"2026-11-22T02:12:49"`), badValue, 0, "at"},
		{"a time before 1970", update(`"at":"1969-12-31T23:59:59Z"`), badValue, 0, "at"},
		{"a time past 9999", update(`"expires":"9999-12-31T23:59:59-12:00"`), badValue, 0, "expires"},
		{"a time in the future", update(`"at":"2026-11-22T12:05:01Z"`), futureTime, 0, "at"},
		{"a token that is none", update(`"token":"5f3a"`), badValue, 0, "token"},
		{"an aspect that is none", update(`"aspects":["a b"]`), badURI, 0, "aspects"},
		{"an aspect of an aspect", `{"uri":"https://e.example/a#b","aspects":["c"]}`, badURI, 0, "aspects"},
		{"invalid UTF-8", update("\"cause\":\"\xff\""), badJSON, 0, "cause"},
		{"invalid UTF-8 beside an escape", update("\"cause\":\"\\n\xc3\""), badJSON, 0, "cause"},
		{"an encoded surrogate", update("\"cause\":\"\xed\xa0\x80\""), badJSON, 0, "cause"},
		{"a surrogate alone", update(`"cause":"\ud800"`), badJSON, 0, "cause"},
		{"a surrogate and a letter", update(`"cause":"\ud800\u0041"`), badJSON, 0, "cause"},
		{"a low surrogate first", update(`"cause":"\udc00\ud800"`), badJSON, 0, "cause"},
		{"a surrogate in a name", update(`"\ud800":1`), badJSON, 0, ""},
		{"an unknown escape", update(`"cause":"\x41"`), badJSON, 0, "cause"},
		{"an escape broken off", update(`"cause":"\u00`), badJSON, 0, "cause"},
		{"a string broken off", `{"uri":"https://e.ex`, badJSON, 0, "uri"},
		{"a name broken off", `{"ur`, badJSON, 0, ""},
		{"too many dependencies", update(`"deps":` + list(graph.MaxDeps+1, `"tile:a"`)), overLimit, 0, "deps"},
		{"too many buckets", update(`"buckets":` + list(65, `"b"`)), overLimit, 0, "buckets"},
		{"too many aspects", update(`"aspects":` + list(257, `"b"`)), overLimit, 0, "aspects"},
		{"too many updates", list(maxBatch+1, good), bodyTooLarge, -1, ""},
		{"the second of two lines", good + "\n" + `{"uri":1}`, badValue, 1, "uri"},
	} {
		us, err := decode(c.body)
		var e *refusal
		if !errors.As(err, &e) {
			t.Errorf("%s: decodes to %v, %v; want a refusal", c.name, us, err)
			continue
		}
		item := -1
		if e.item != nil {
			item = *e.item
		}
		if e.kind != c.kind || item != c.item || e.field != c.field || e.detail == "" {
			t.Errorf("%s: refused as %s, item %d, field %q (%v); want %s, %d, %q",
				c.name, e.kind.slug, item, e.field, err, c.kind.slug, c.item, c.field)
		}
	}
}

func TestLimitsAreInclusive(t *testing.T) {
	long := strings.Repeat("x", graph.MaxToken)
	deps := make([]graph.Dep, graph.MaxDeps)
	for i := range deps {
		deps[i].URI = fmt.Sprintf("tile:%d", i)
	}
	u := graph.Update{URI: "tile:" + strings.Repeat("x", graph.MaxURI-len("tile:")), ID: long, Type: long, Version: long, Hash: long, Cause: long,
		At: noon.Add(graph.MaxFuture), Deps: deps, Buckets: make([]string, graph.MaxBuckets)}
	for i := range u.Buckets {
		u.Buckets[i] = strings.Repeat("b", graph.MaxURI)
	}
	got, err := decode(string(AppendUpdate(nil, u)))
	if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], u) {
		t.Errorf("an update as long as may be is refused or changed: %v", err)
	}
	line := AppendUpdate(nil, graph.Update{URI: "tile:a"})
	if got, err := decode(strings.Repeat(string(line)+"\n", maxBatch)); err != nil || len(got) != maxBatch {
		t.Errorf("a batch of %d decodes to %d, %v", maxBatch, len(got), err)
	}
}

func TestDecodedUpdatesDoNotHoldTheBody(t *testing.T) {
	body := []byte(`{"uri":"https://e.example/a","type":"html","hash":"h","deps":["https://e.example/b"],"buckets":["c"]}`)
	got, err := DecodeUpdates(body, DecodeOptions{Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	clear(body)
	want := graph.Update{URI: "https://e.example/a", Type: "html", Hash: "h", Deps: []graph.Dep{{URI: "https://e.example/b"}}, Buckets: []string{"c"}}
	if !reflect.DeepEqual(got[0], want) {
		t.Errorf("after the body was overwritten the update is %+v, want %+v", got[0], want)
	}
}

func FuzzDecodeUpdates(f *testing.F) {
	for _, s := range []string{
		`{"id":"01J","uri":"https://e.example/a#b","type":"html","hash":"9e1c","at":"2026-11-22T02:12:49.976Z","token":"00005f3a.88121","deps":[{"uri":"tile:a","seen":"1"},"tile:b"],"buckets":["x"],"expires":"2026-11-23T02:12:49+01:00","action":"purge","cause":"\ud83d\ude00","traceparent":"t"}`,
		`[{"uri":"tile:a","aspects":["C.P6","*"],"version":"0"},{"uri":"tile:a","deps":[],"buckets":[]}]`,
		"{\"uri\":\"tile:a\"}\n\n{\"uri\":\"tile:b\"}", `{"uri":"\u0074ile:a"}`, `[]`, `{"uri":"tile:a","cause":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		us, err := decode(string(body))
		if err != nil {
			if e := (*refusal)(nil); !errors.As(err, &e) || e.kind == nil || e.detail == "" {
				t.Fatalf("%q: %#v is not a refusal with a reason", body, err)
			}
			return
		}
		b := []byte("[")
		for i, u := range us {
			if i > 0 {
				b = append(b, ',')
			}
			b = AppendUpdate(b, u)
		}
		again, err := decode(string(append(b, ']')))
		if err != nil || !reflect.DeepEqual(again, us) {
			t.Errorf("%q decodes to %#v, which is written as %s and then read as %#v, %v", body, us, b, again, err)
		}
	})
}

// sampleUpdate is a rendering of about 1 KB with ten dependencies.
func sampleUpdate(i int) graph.Update {
	u := graph.Update{ID: fmt.Sprintf("id-%08d", i), URI: fmt.Sprintf("https://en.wikipedia.example/wiki/Article_%d#html/canonical", i),
		Type: "html", Hash: fmt.Sprintf("%040x", i), At: noon, Buckets: []string{fmt.Sprintf("https://en.wikipedia.example/wiki/Article_%d", i)}}
	for j := range 10 {
		u.Deps = append(u.Deps, graph.Dep{URI: fmt.Sprintf("https://en.wikipedia.example/wiki/Template:Infobox_%d#content", (i*7+j)%1000), Seen: "118245"})
	}
	return u
}

func BenchmarkDecodeUpdates(b *testing.B) {
	bench := func(name string, body []byte, updates int) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if us, err := DecodeUpdates(body, DecodeOptions{Now: noon}); err != nil || len(us) != updates {
					b.Fatal(len(us), err)
				}
			}
			b.ReportMetric(float64(updates*b.N)/b.Elapsed().Seconds(), "updates/s")
		})
	}
	var batch []byte
	for i := range 100 {
		batch = append(AppendUpdate(batch, sampleUpdate(i)), '\n')
	}
	bench("deps=10/batch=1", AppendUpdate(nil, sampleUpdate(0)), 1)
	bench("deps=10/batch=100", batch, 100)
}
