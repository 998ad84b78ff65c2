package digest

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"pgregory.net/rapid"
)

var anyNotice = rapid.Custom(func(t *rapid.T) graph.Notice {
	at := time.Unix(1_800_000_000+rapid.Int64Range(0, 7200).Draw(t, "at"), 0)
	n := graph.Notice{URI: "https://a.example/wiki/A%20%22b%22", At: at, Kind: graph.Kind(rapid.IntRange(0, 1).Draw(t, "kind")),
		Reason: graph.Reason(rapid.IntRange(1, 8).Draw(t, "reason")), Type: rapid.String().Draw(t, "type")}
	if n.Kind == graph.KindChanged {
		n.Change, n.Hash = graph.Change(rapid.IntRange(1, 3).Draw(t, "change")), rapid.String().Draw(t, "hash")
	}
	if cause := rapid.IntRange(0, 12).Draw(t, "cause"); cause > 0 {
		n.Cause = graph.Cause{URI: "https://a.example/" + string(rune('a'+cause)), At: at}
	}
	return n
})

// In whatever groups a row of notices is added up, the sum is the same: so days are what
// their hours are, and weeks too.
func TestAddingUpInAnyGroupsGivesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ns := rapid.SliceOfN(anyNotice, 1, 20).Draw(t, "notices")
		from := time.Unix(1_800_003_600, 0)
		one := func(i int) Entry {
			n := ns[i]
			n.Cursor.Seq = uint64(i + 1)
			return entryOf(&n, from)
		}
		whole := one(0)
		for i := range ns[1:] {
			next := one(i + 1)
			whole.then(&next)
		}
		var groups []Entry
		for i := 0; i < len(ns); {
			group := one(i)
			end := i + rapid.IntRange(1, len(ns)-i).Draw(t, "group")
			for i++; i < end; i++ {
				next := one(i)
				group.then(&next)
			}
			groups = append(groups, group)
		}
		sum := groups[0]
		for i := range groups[1:] {
			sum.then(&groups[i+1])
		}
		if !reflect.DeepEqual(sum, whole) {
			t.Fatalf("in groups %+v\nand one by one %+v", sum, whole)
		}
	})
}

func TestAnEntryReadsBackFromItsLineAndItsRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := anyNotice.Draw(t, "notice")
		e := entryOf(&n, n.At)
		next := anyNotice.Draw(t, "next")
		more := entryOf(&next, n.At)
		e.then(&more)
		line := e.appendLine(nil)
		var plain Entry
		if err := json.Unmarshal(line, &plain); err != nil || !reflect.DeepEqual(plain, e) {
			t.Fatalf("%s is read as %+v: %v", line, plain, err)
		}
		if got, err := parseEntry(line); err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%s is parsed as %+v: %v", line, got, err)
		}
		if uri, err := lineURI(line); err != nil || string(uri) != e.URI {
			t.Fatalf("%s is about %s: %v", line, uri, err)
		}
		if got, err := readRecord(e.appendRecord(nil)); err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("a record of %+v is read as %+v: %v", e, got, err)
		}
		m := mergedLine{line: line}
		if err := m.read(); err != nil || m.change != e.Change || m.reason != e.Reason || m.count != e.Count {
			t.Fatalf("%s is summed up as %+v: %v", line, m, err)
		}
	})
}

func TestALineOfAnEntryKeepsItsBytes(t *testing.T) {
	e := Entry{URI: "https://a.example/wiki/B#html", Change: Deleted, Count: 3, First: time.Date(2026, 11, 22, 10, 0, 0, 5e6, time.UTC), Last: time.Date(2026, 11, 22, 10, 59, 0, 0, time.UTC),
		Offset: 88, Reason: "edit", Cause: "https://a.example/wiki/T", Causes: []string{"https://a.example/wiki/S", "https://a.example/wiki/T"}, Late: true, Transient: true,
		Hash: "x\"\\\u2028<é", Type: "html"}
	const want = `{"uri":"https://a.example/wiki/B#html","change":"deleted","count":3,"first":"2026-11-22T10:00:00.005Z","last":"2026-11-22T10:59:00Z","offset":88,` +
		`"reason":"edit","cause":"https://a.example/wiki/T","causes":["https://a.example/wiki/S","https://a.example/wiki/T"],"late":true,"transient":true,` +
		`"hash":"x\u0022\u005c\u2028<é","type":"html"}`
	if got := string(e.appendLine(nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"uri":"https://a.example/","change":"updated","count":1,"first":"2026-11-22T10:00:00Z","last":"2026-11-22T10:00:00Z","offset":1,"reason":"edit"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEntry(line)
		if err != nil {
			return
		}
		again, err := parseEntry(e.appendLine(nil))
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Errorf("%s is read as %+v and then as %+v: %v", line, e, again, err)
		}
	})
}
