package digest

import (
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

func TestWhenAnHourClosesAndWhere(t *testing.T) {
	from := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return from.Add(d) }
	c := func(seq uint64) graph.Cursor { return graph.Cursor{Epoch: 1, Seq: seq} }
	p := plan{From: from, After: position{c(100)}}
	for _, x := range []struct {
		name string
		look look
		want verdict
	}{
		{"the hour is open", look{now: at(40 * time.Minute), newest: c(120)}, verdict{wait: 20 * time.Minute}},
		{"it is over, and nothing shows that no more belongs to it", look{now: at(time.Hour + time.Minute), newest: c(120), before: c(120)}, verdict{wait: time.Second}},
		{"the end of the grace is near", look{now: at(time.Hour + Grace - 300*time.Millisecond), newest: c(120), before: c(120)}, verdict{wait: 300 * time.Millisecond}},
		{"a later notice shows it", look{now: at(time.Hour), newest: c(130), before: c(120)}, verdict{until: c(120)}},
		{"the grace has passed", look{now: at(time.Hour + Grace), newest: c(120), before: c(120)}, verdict{until: c(120)}},
		{"it has nothing", look{now: at(time.Hour + Grace), newest: c(100), before: c(100)}, verdict{until: c(100)}},
		{"what came late went into the hour before", look{now: at(time.Hour + Grace), newest: c(105), before: c(90)}, verdict{until: c(100)}},
		{"the hub was started after it", look{now: at(5 * time.Hour), started: at(4 * time.Hour), newest: c(120), before: c(110)}, verdict{until: c(110), reason: Missed}},
		{"the hub was started again around its end", look{now: at(time.Hour + Grace), started: at(time.Hour + Grace), newest: c(120), before: c(120)}, verdict{until: c(120)}},
		{"the hub ran and was slow", look{now: at(5 * time.Hour), started: from, newest: c(120), before: c(110)}, verdict{until: c(110)}},
		{"the journal lost its beginning", look{now: at(5 * time.Hour), oldest: c(105), newest: c(120), before: c(110)}, verdict{until: c(110), reason: Trimmed}},
		{"the journal lost all of it", look{now: at(5 * time.Hour), oldest: c(115), newest: c(120), before: c(115)}, verdict{until: c(115), reason: Trimmed}},
		{"the journal lost what other hours have", look{now: at(time.Hour + Grace), oldest: c(100), newest: c(120), before: c(120)}, verdict{until: c(120)}},
		{"another journal ends it at once", look{now: at(20 * time.Minute), newest: graph.Cursor{Epoch: 2, Seq: 7}}, verdict{until: graph.Cursor{Epoch: 2, Seq: 7}, reason: Reconcile}},
		{"another journal before it has begun", look{now: at(-20 * time.Minute), newest: graph.Cursor{Epoch: 2, Seq: 7}}, verdict{wait: 20 * time.Minute}},
		{"the clock went back", look{now: at(-3 * time.Hour), newest: c(120), before: c(100)}, verdict{wait: 4 * time.Hour}},
	} {
		if got := p.decide(x.look); got != x.want {
			t.Errorf("%s: got %+v, want %+v", x.name, got, x.want)
		}
	}
}

func TestAClockThatJumpsFarAheadPublishesNothing(t *testing.T) {
	p := plan{Channel: "all", From: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	if err := p.overdue(p.From.AddDate(0, 11, 0)); err != nil {
		t.Errorf("a hub that was off for eleven months: %v", err)
	}
	if p.overdue(p.From.AddDate(70, 0, 0)) == nil {
		t.Error("the clock shows 2096, and all hours up to there would be published")
	}
}

func TestPathsOfDigestsReadBack(t *testing.T) {
	for at := time.Date(2024, 12, 1, 5, 0, 0, 0, time.UTC); at.Year() < 2028; at = at.Add(7 * time.Hour) {
		for _, p := range []Period{Hour, Day, Week} {
			from := p.start(at)
			if from.After(at) || !p.end(from).After(at) {
				t.Fatalf("the %s of %s begins at %s and ends at %s", p, at, from, p.end(from))
			}
			period, got, name, ok := parsePath(p.Folder(from) + "digest-2.ndjson.gz")
			if !ok || period != p || !got.Equal(from) || name != "digest-2.ndjson.gz" {
				t.Fatalf("%s is read as %s %s %s", p.Folder(from), period, got, name)
			}
		}
	}
	for _, bad := range []string{"", "h", "h/2026/11/22/10", "h/2026/11/22/10/", "h/2026/11/22/24/manifest.json", "h/2026/02/30/10/manifest.json", "w/2026-W54/manifest.json",
		"w/2026-W00/manifest.json", "h/2026/11/22/10/../../../../../../keys/digest-1.pem", "h/2026/11/22/10/..", "/h/2026/11/22/10/manifest.json", "x/2026/11/22/manifest.json",
		"h/2026/11/22/10/a/b", "d/2026/11/22/Manifest.json", "h/２０２６/11/22/10/manifest.json"} {
		if _, _, name, ok := parsePath(bad); ok && name != ".." {
			t.Errorf("%q is taken for the path of %s", bad, name)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("h/2026/11/22/10/digest.ndjson")
	f.Add("w/2026-W47/manifest.json.sig")
	f.Fuzz(func(t *testing.T, text string) {
		if p, from, name, ok := parsePath(text); ok && p.Folder(from)+name != text {
			t.Errorf("%q is read as %q", text, p.Folder(from)+name)
		}
	})
}

func TestAddressesAreRelative(t *testing.T) {
	for _, x := range []struct{ from, to, want string }{
		{"h/2026/11/22/10/", "h/2026/11/22/09/manifest.json", "../09/manifest.json"},
		{"h/2026/11/22/00/", "h/2026/11/21/23/manifest.json", "../../21/23/manifest.json"},
		{"h/2027/01/01/00/", "h/2026/12/31/23/manifest.json", "../../../../2026/12/31/23/manifest.json"},
		{"d/2026/11/22/", "h/2026/11/22/23/manifest.json", "../../../../h/2026/11/22/23/manifest.json"},
		{"w/2026-W47/", "w/2026-W46/manifest.json", "../2026-W46/manifest.json"},
	} {
		if got := relative(x.from, x.to); got != x.want {
			t.Errorf("%s as seen from %s: got %s, want %s", x.to, x.from, got, x.want)
		}
	}
}
