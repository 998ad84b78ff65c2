package subscriptions

import (
	"encoding/json"
	"reflect"
	"testing"
)

func FuzzFilterBody(f *testing.F) {
	for _, seed := range []string{`{}`, `null`, `{"uri":["https://a.example/"],"kind":["changed"]}`, `{"URI":null,"lane":["bulk","prompt"]}`,
		`{"prefix":["urn:isbn","https://a.example"],"host":["A.example"]}`, `{"bucket":["\ud800","\u0000"]}`, `{"type":[]}{`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		first, err := decodeFilter(body)
		if err != nil {
			return
		}
		if _, err := Compile(first); err != nil {
			return
		}
		b, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeFilter(b)
		if err != nil {
			t.Fatalf("%q decodes to %+v, whose form %s does not decode: %v", body, first, b, err)
		}
		last, err := json.Marshal(again)
		if err != nil || !reflect.DeepEqual(b, last) {
			t.Errorf("%q decodes to %s, which decodes to %s (%v)", body, b, last, err)
		}
	})
}

func TestAFilterThatIsSentSaysEachThingOnceAndByItsName(t *testing.T) {
	for body, want := range map[string]bool{
		`{}`: true, `{"uri":[]}`: true, ` {"host":["a.example"],"bucket":["ü \ud83d\ude00"]} `: true,
		`{"uri":[],"uri":["urn:a:b"]}`: false, `{"uri":[],"\u0075ri":[]}`: false, `{"URI":[]}`: false, `{"uris":[]}`: false,
		`{"uri":null}`: false, `{"bucket":["\ud800"]}`: false, "{\"bucket\":[\"\xff\"]}": false, `{"bucket":"a"}`: false,
		`null`: false, `[]`: false, ``: false, `{"uri":[]`: false, `{"uri":[]}{}`: false, `{"uri":[],}`: false,
	} {
		if _, err := decodeFilter([]byte(body)); (err == nil) != want {
			t.Errorf("%s: %v, want it accepted: %t", body, err, want)
		}
	}
}
