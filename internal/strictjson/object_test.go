package strictjson

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestOneObjectIsReadAndWhatHasTwoReadingsIsRefused(t *testing.T) {
	for _, tt := range []struct{ in, fault string }{
		{`{"a":1,"b":["c",{"d":null}]}`, ""},
		{` {} `, ""},
		{`{"a":1,"a":1}`, `"a" stands twice`},
		{`{"b":[{"a":1,"\u0061":2}]}`, `"a" stands twice`},
		{"{\"a\":\"\xff\"}", "it is not UTF-8"},
		{`[1]`, "it is not a JSON object"},
		{`7`, "it is not a JSON object"},
		{`{"a":1} {}`, "something follows the object"},
		{`{"a":[[[1]]]}`, "it nests deeper than 3"},
		{`{"a":1`, "it is not JSON"},
		{`{"a":[1}`, "it is not JSON"},
		{`{"a"}`, "it is not JSON"},
		{``, "it is not JSON"},
	} {
		fault := ""
		if _, err := Object([]byte(tt.in), 3); err != nil {
			fault = err.Error()
		}
		if fault != tt.fault {
			t.Errorf("%q: %q, want %q", tt.in, fault, tt.fault)
		}
	}
}

func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"a":1.5e3,"b":["c",{"d":null}]}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Object(b, 6)
		if err != nil {
			return
		}
		var want map[string]any
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("%q is taken, and is no JSON: %v", b, err)
		}
		var again map[string]any
		text, err := json.Marshal(got)
		if err != nil || json.Unmarshal(text, &again) != nil || !reflect.DeepEqual(again, want) {
			t.Fatalf("%q is read as %v, and is %v (%v)", b, got, want, err)
		}
	})
}
