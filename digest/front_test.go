package digest

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mmcdole/gofeed"
	"github.com/mmcdole/gofeed/atom"
	jsonfeed "github.com/mmcdole/gofeed/json"
)

// shelf is an archive in memory: what lies at each address.
type shelf struct {
	files map[string][]byte
	front *front
}

// fill makes the files of some hours, oldest first, the last of which is the one after
// noon; per is the number of entries of a part.
func fill(t testing.TB, per int, hours [][]Entry) *shelf {
	t.Helper()
	s := &shelf{files: map[string][]byte{}, front: &front{base: testBase, hub: testHub}}
	f := s.front
	prev := ""
	for i, entries := range hours {
		m := testHour(i-len(hours)+1, entries)
		s.shelve(t, m, entries, per, prev)
		prev = Hour.Folder(m.From)
		f.hours = append([]*Manifest{m}, f.hours...)
		f.entries = append(s.lines(t, m, RoleAtom), f.entries...)
		f.items = append(s.lines(t, m, RoleJSONFeed), f.items...)
		f.recent = append(f.recent, s.lines(t, m, RoleChangeList)...)
	}
	m := f.hours[0]
	f.state = &State{Version: Version, Channel: m.Channel, Seq: m.Seq, FirstSeq: f.hours[len(f.hours)-1].Seq, Epoch: m.Epoch,
		Cursor: fmt.Sprintf("%s.%d", m.Epoch, m.LastOffset), From: m.From, Until: m.Until, LastOffset: m.LastOffset, Manifest: Hour.Folder(m.From) + "manifest.json",
		Atom: "feed.atom", JSONFeed: "feed.json", CapabilityList: capabilityListName, Stream: "../../v1/channels/all/stream"}
	s.refresh()
	return s
}

// refresh makes the mutable documents.
func (s *shelf) refresh() {
	at := channelAddress(testBase, s.front.state.Channel)
	s.files[at+"state.json"] = encode(s.front.state)
	s.files[at+"feed.atom"] = s.front.feedAtom()
	s.files[at+"feed.json"] = s.front.feedJSON()
	s.files[at+"hours.atom"] = s.front.hoursAtom()
	s.files[at+"capabilitylist.xml"] = s.front.capabilityList()
	s.files[at+"changelist.xml"] = s.front.changeListIndex()
	s.files[at+"recent/capabilitylist.xml"] = s.front.recentCapabilityList()
	s.files[at+"recent/changelist.xml"] = s.front.recentChangeList()
	s.files["https://hub.example/.well-known/resourcesync"] = SourceDescription(testBase, []string{s.front.state.Channel})
}

// shelve makes the files of one hour.
func (s *shelf) shelve(t testing.TB, m *Manifest, entries []Entry, per int, prev string) {
	t.Helper()
	folder := channelAddress(testBase, m.Channel) + Hour.Folder(m.From)
	for _, role := range []string{RoleNDJSON, RoleAtom, RoleJSONFeed, RoleChangeList} {
		sorted := slices.SortedFunc(slices.Values(entries), func(a, b Entry) int {
			switch role {
			case RoleNDJSON:
				return cmp.Compare(a.URI, b.URI)
			case RoleChangeList:
				return cmp.Compare(a.Offset, b.Offset)
			}
			return cmp.Compare(b.Offset, a.Offset)
		})
		parts := slices.Collect(slices.Chunk(sorted, per))
		if len(parts) == 0 {
			parts = [][]Entry{nil}
		}
		for i, part := range parts {
			var b []byte
			if role == RoleNDJSON {
				for j := range part {
					b = append(part[j].appendLine(b), '\n')
				}
			} else {
				b = written(t, role, &heading{base: testBase, m: m, part: i + 1, parts: len(parts), prev: prev}, part)
			}
			name := partName(role, i+1)
			s.files[folder+name] = b
			file := File{Role: role, Href: name, Type: mediaType(role), Size: int64(len(b)), Entries: uint64(len(part))}
			if len(b) > 256 {
				file.Codings = []Coded{{Coding: "gzip", Href: name + ".gz", Size: 200}, {Coding: "zstd", Href: name + ".zst", Size: 190}}
			}
			m.Files = append(m.Files, file)
		}
	}
	s.files[folder+"manifest.json"] = encode(m)
}

// lines are those of all parts of a view of an hour.
func (s *shelf) lines(t testing.TB, m *Manifest, role string) (all []string) {
	t.Helper()
	for _, file := range m.Files {
		if file.Role == role {
			found, err := lines(bytes.NewReader(s.at(t, channelAddress(testBase, m.Channel)+Hour.Folder(m.From)+file.Href)), role, 0, MaxPart)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, found...)
		}
	}
	return all
}

// at returns what lies at an address.
func (s *shelf) at(t testing.TB, address string) []byte {
	t.Helper()
	b, ok := s.files[address]
	if !ok {
		t.Fatalf("nothing lies at %q", address)
	}
	return b
}

// read decodes a document of XML.
func (s *shelf) read(t testing.TB, address string, v any) {
	t.Helper()
	if err := xml.Unmarshal(s.at(t, address), v); err != nil {
		t.Fatalf("%s: %v", address, err)
	}
}

// numberedHours are hours with so many entries, at positions that go up.
func numberedHours(counts ...int) (hours [][]Entry) {
	offset := uint64(0)
	for i, count := range counts {
		var entries []Entry
		for j := range count {
			offset++
			at := testNoon.Add(time.Duration(i-len(counts)+1)*time.Hour + time.Duration(j)*time.Second)
			entries = append(entries, Entry{URI: fmt.Sprintf("https://e.example/%d", count-j), Change: []string{Created, Updated, Deleted}[j%3],
				Count: 1, First: at, Last: at, Offset: offset, Reason: "edit"})
		}
		hours = append(hours, entries)
	}
	return hours
}

// names are the names of entries, newest first.
func names(hours [][]Entry) (ids []string) {
	for _, entries := range slices.Backward(hours) {
		for _, e := range slices.Backward(entries) {
			ids = append(ids, fmt.Sprintf("urn:freshwire:digest:all:%s.%d", testEpoch, e.Offset))
		}
	}
	return ids
}

func TestTheDocumentsOfAChannelAreStable(t *testing.T) {
	entries := plainEntries()
	early := Entry{URI: "https://en.example.org/wiki/A", Change: Updated, Count: 1, First: testNoon.Add(-time.Hour), Last: testNoon.Add(-time.Hour), Offset: 1, Reason: "edit"}
	s := fill(t, 2, [][]Entry{{early}, nil, entries})
	m := s.front.hours[1]
	m.Complete, m.Reason = false, Missed
	s.front.hours[0].Reasons = map[string]uint64{"edit": 1200, "dependency": 1_000_000, "retry": 1, "lease": 1, "starved": 2, "purge": 3}
	s.refresh()
	for _, name := range []string{"feed.atom", "feed.json", "hours.atom", "capabilitylist.xml", "changelist.xml", "recent/capabilitylist.xml", "recent/changelist.xml"} {
		checkGolden(t, "front/"+name, s.at(t, testBase+"/all/"+name))
	}
	checkGolden(t, "front/resourcesync", SourceDescription(testBase, []string{"all", "cities"}))
}

func TestAFeedLeadsBackThroughAllHours(t *testing.T) {
	hours := numberedHours(3, 0, 7, 1, 4)
	s := fill(t, 2, hours)
	want := names(hours)
	t.Run("Atom", func(t *testing.T) {
		var got []string
		var head atomDocument
		s.read(t, testBase+"/all/feed.atom", &head)
		if head.Archive != nil || head.link("hub") != testHub || head.link("self") != testBase+"/all/feed.atom" {
			t.Errorf("the feed is %+v", head)
		}
		newer := ""
		for next := head.link("prev-archive"); next != ""; {
			feed, err := (&atom.Parser{}).Parse(bytes.NewReader(s.at(t, next)))
			if err != nil {
				t.Fatal(err)
			}
			links := map[string]string{}
			for _, l := range feed.Links {
				links[l.Rel] = l.Href
			}
			if feed.ID != head.ID || links["self"] != next || links["current"] != testBase+"/all/feed.atom" || feed.Extensions["fh"]["archive"] == nil {
				t.Errorf("%s: %q, %q, %v", next, feed.ID, links, feed.Extensions)
			}
			if there := links["next-archive"]; there != "" && there != newer {
				t.Errorf("%s follows %s, and leads to %s", next, newer, there)
			}
			for _, e := range feed.Entries {
				got = append(got, e.ID)
			}
			newer, next = next, links["prev-archive"]
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		got = nil
		for i := range head.Entries {
			got = append(got, head.Entries[i].ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the feed itself has %q, want %q", got, want)
		}
	})
	t.Run("JSON Feed", func(t *testing.T) {
		var got, current []string
		for next, first := testBase+"/all/feed.json", true; next != ""; first = false {
			feed, err := (&jsonfeed.Parser{}).Parse(bytes.NewReader(s.at(t, next)))
			if err != nil {
				t.Fatal(err)
			}
			if feed.Version != jsonFeedVersion || feed.FeedURL != next || feed.Items == nil {
				t.Errorf("%s: %+v", next, feed)
			}
			for _, item := range feed.Items {
				if item.ContentText == "" || item.DatePublished != "" {
					t.Errorf("%s: %+v", next, item)
				}
				if first {
					current = append(current, item.ID)
				} else {
					got = append(got, item.ID)
				}
			}
			next = feed.NextURL
		}
		if !slices.Equal(got, want) || !slices.Equal(current, want) {
			t.Errorf("got %q and %q, want %q", current, got, want)
		}
	})
}

// trimmed are texts as gofeed gives them.
func trimmed(texts ...string) []string {
	for i := range texts {
		texts[i] = strings.TrimSpace(texts[i])
	}
	return texts
}

func TestAReaderOfFeedsFindsWhatIsInAnEntry(t *testing.T) {
	entries := hostileEntries(false)
	s := fill(t, MaxPart, [][]Entry{entries})
	slices.Reverse(entries) // newest first
	for _, c := range []struct {
		address string
		said    func(string) string
	}{
		{testBase + "/all/feed.atom", inXML}, {testBase + "/all/feed.json", inJSON},
		{testBase + "/all/h/2026/11/24/12/digest.atom", inXML}, {testBase + "/all/h/2026/11/24/12/digest.json", inJSON},
	} {
		feed, err := gofeed.NewParser().Parse(bytes.NewReader(s.at(t, c.address)))
		if err != nil || len(feed.Items) != len(entries) {
			t.Fatalf("%s: %v", c.address, err)
		}
		if feed.FeedLink != c.address || !strings.Contains(feed.Title, "all") {
			t.Errorf("%s: %q, %q", c.address, feed.FeedLink, feed.Title)
		}
		for i, item := range feed.Items {
			e := entries[i].each(c.said)
			tags := []string{e.Change}
			if e.Reason != "" {
				tags = append(tags, e.Reason)
			}
			id := fmt.Sprintf("urn:freshwire:digest:all:%s.%d", testEpoch, e.Offset)
			same(t, c.address, trimmed(item.GUID, item.Link, item.Title), trimmed(id, e.URI, e.Change+" "+readable(e.URI)))
			same(t, c.address, trimmed(item.Categories...), trimmed(tags...))
			same(t, c.address, item.UpdatedParsed, e.Last)
		}
	}
}

func TestResourceSyncLeadsToEveryChangeOfEveryHour(t *testing.T) {
	hours := numberedHours(3, 0, 7, 1, 4)
	s := fill(t, 2, hours)
	var want []string
	for _, entries := range hours {
		for _, e := range entries {
			want = append(want, fmt.Sprint(e.URI, " ", e.Change, " ", e.Last))
		}
	}
	changesOf := func(list *syncDocument) (found []string) {
		for _, u := range list.URLs {
			found = append(found, fmt.Sprint(u.Loc, " ", u.Meta.Change, " ", u.Meta.Datetime))
		}
		return found
	}
	var source, whole, recent, index, plain syncDocument
	s.read(t, "https://hub.example/.well-known/resourcesync", &source)
	s.read(t, source.URLs[0].Loc, &whole)
	s.read(t, source.URLs[1].Loc, &recent)
	for _, list := range []syncDocument{whole, recent} {
		if l := list.Links[1]; l.Rel != "up" || l.Href != "https://hub.example/.well-known/resourcesync" || list.Meta.Capability != "capabilitylist" {
			t.Errorf("got %+v", list)
		}
	}
	s.read(t, whole.URLs[0].Loc, &index)
	var got []string
	until := index.Meta.From
	for _, entry := range index.Sitemaps {
		var list syncDocument
		s.read(t, entry.Loc, &list)
		if list.Meta.From != entry.Meta.From || list.Meta.Until != entry.Meta.Until || list.Meta.From != until && list.Meta.Until != until {
			t.Errorf("%s: the list goes from %v to %v, the index says %v to %v, after %v", entry.Loc, list.Meta.From, list.Meta.Until,
				entry.Meta.From, entry.Meta.Until, until)
		}
		until = list.Meta.Until
		same(t, "links", list.Links, []atomLink{{"up", source.URLs[0].Loc}, {"index", whole.URLs[0].Loc}})
		got = append(got, changesOf(&list)...)
	}
	if index.XMLName.Local != "sitemapindex" || !until.Equal(s.front.state.Until) || !index.Meta.Until.IsZero() {
		t.Errorf("%+v, until %v", index.XMLName, until)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	s.read(t, recent.URLs[0].Loc, &plain)
	if got := changesOf(&plain); plain.XMLName.Local != "urlset" || !slices.Equal(got, want) || !plain.Meta.Until.IsZero() || plain.Meta.From != index.Meta.From {
		t.Errorf("the recent list is %+v with %q, want %q", plain, got, want)
	}
}

func TestTheRecentListBeginsWhereNothingIsMissing(t *testing.T) {
	noon := func(hours int) time.Time { return testNoon.Add(time.Duration(hours) * time.Hour) }
	for _, c := range []struct {
		what   string
		change func(*front)
		want   time.Time
	}{
		{"all hours", func(*front) {}, noon(-3)},
		{"no hour", func(f *front) { f.hours, f.recent = nil, nil }, noon(1)},
		{"no change", func(f *front) { f.recent = nil }, noon(1)},
		{"an hour has no room", func(f *front) { f.recent = f.recent[5:] }, noon(0)},
		{"an hour has no room, and the one after is empty", func(f *front) { f.recent = f.recent[2:] }, noon(-2)},
		{"an hour has room in part", func(f *front) { f.recent = f.recent[3:] }, noon(-1).Add(time.Second + 1)},
		{"of the newest hour a part has room", func(f *front) { f.recent = f.recent[6:] }, noon(0).Add(time.Second + 1)},
		{"an hour is not shown", func(f *front) { f.hours = slices.Delete(f.hours, 1, 2) }, noon(0)},
		{"an hour lost something", func(f *front) { f.hours[1].Reason = Trimmed }, noon(0)},
		{"the newest hour lost something", func(f *front) { f.hours[0].Reason = Trimmed }, noon(1)},
		{"another journal", func(f *front) { f.hours[2].Reason = Reconcile }, noon(-1)},
		{"an hour nobody saw end", func(f *front) { f.hours[1].Reason = Missed }, noon(-3)},
	} {
		f := fill(t, 9, numberedHours(2, 0, 3, 4)).front
		c.change(f)
		if got := f.recentSince(); !got.Equal(c.want) {
			t.Errorf("%s: since %v, want %v", c.what, got, c.want)
		}
	}
	f := fill(t, 9, make([][]Entry, 30)).front
	if got := f.recentSince(); !got.Equal(noon(-23)) {
		t.Errorf("30 empty hours: since %v, want %v", got, noon(-23))
	}
}

func TestTheIndexHasTheNewestHoursOfMoreListsThanItMayHave(t *testing.T) {
	f := fill(t, 9, make([][]Entry, 3)).front
	for i := range f.hours {
		for part := 2; part <= MaxPart/2; part++ {
			f.hours[i].Files = append(f.hours[i].Files, File{Role: RoleChangeList, Href: partName(RoleChangeList, part)})
		}
	}
	var index syncDocument
	if err := xml.Unmarshal(f.changeListIndex(), &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Sitemaps) != MaxPart || !index.Meta.From.Equal(f.hours[1].From) || !index.Sitemaps[0].Meta.From.Equal(f.hours[1].From) {
		t.Errorf("%d lists since %v", len(index.Sitemaps), index.Meta.From)
	}
}

func TestAChannelWithoutHoursHasDocuments(t *testing.T) {
	f := &front{base: testBase, state: &State{Channel: "all", Cursor: testEpoch + ".0", Until: testNoon}}
	var feed atomDocument
	if err := xml.Unmarshal(f.feedAtom(), &feed); err != nil || feed.link("prev-archive") != "" || feed.link("hub") != "" || !feed.Updated.Equal(testNoon) {
		t.Errorf("%+v, %v", feed, err)
	}
	document, err := (&jsonfeed.Parser{}).Parse(bytes.NewReader(f.feedJSON()))
	if err != nil || document.NextURL != "" || bytes.Contains(f.feedJSON(), []byte(`"hubs"`)) || document.Items == nil || len(document.Items) != 0 {
		t.Errorf("%+v, %v", document, err)
	}
	for _, b := range [][]byte{f.hoursAtom(), f.capabilityList(), f.changeListIndex(), f.recentCapabilityList(), f.recentChangeList()} {
		if err := xml.Unmarshal(b, new(syncDocument)); err != nil {
			t.Errorf("%v in\n%s", err, b)
		}
	}
}

func TestTheFeedsSayWhichHoursAreNotComplete(t *testing.T) {
	s := fill(t, 9, make([][]Entry, 30))
	for i, reason := range map[int]string{0: Reconcile, 3: Missed, 26: Trimmed} { // the last one is too long ago
		s.front.hours[i].Complete, s.front.hours[i].Reason = false, reason
	}
	s.refresh()
	b := string(s.at(t, testBase+"/all/feed.atom"))
	want := `<fw:incomplete from="2026-11-24T12:00:00Z" until="2026-11-24T13:00:00Z" reason="reconcile"/>` + "\n" +
		`<fw:incomplete from="2026-11-24T09:00:00Z" until="2026-11-24T10:00:00Z" reason="missed"/>` + "\n</fw:state>"
	if !strings.Contains(b, want) || strings.Contains(b, Trimmed) {
		t.Errorf("got\n%s\nwant in it\n%s", b, want)
	}
	b = string(s.at(t, testBase+"/all/feed.json"))
	want = `"incomplete":[{"from":"2026-11-24T12:00:00Z","until":"2026-11-24T13:00:00Z","reason":"reconcile"},` +
		`{"from":"2026-11-24T09:00:00Z","until":"2026-11-24T10:00:00Z","reason":"missed"}]}`
	if !strings.Contains(b, want) {
		t.Errorf("got\n%s\nwant in it\n%s", b, want)
	}
}

func TestHoursAreToldInWords(t *testing.T) {
	for _, c := range []struct {
		m      Manifest
		totals string
		state  string
	}{
		{Manifest{Complete: true}, "Nothing changed.", "Complete."},
		{Manifest{Entries: 1, Notices: 1, Changes: map[string]uint64{Created: 1, Updated: 0}, Reasons: map[string]uint64{"edit": 1}, Reason: Missed},
			"1 resource in 1 notice: 1 created. Reasons: edit 1.", "Not complete: no hub ran"},
		{Manifest{Entries: 1_234_567, Notices: 12_345_678, Changes: map[string]uint64{Deleted: 7, Created: 1000, Updated: 1_233_560}, Reason: Reconcile,
			Reasons: map[string]uint64{"b": 2, "a": 2, "c": 9, "d": 1, "e": 1, "f": 1}},
			"1,234,567 resources in 12,345,678 notices: 1,000 created, 1,233,560 updated, 7 deleted. Reasons: c 9, a 2, b 2, d 1, e 1, others.",
			"Not complete: the hub went on with another journal."},
		{Manifest{Reason: Trimmed}, "Nothing changed.", "Not complete: a part of the journal was lost"},
		{Manifest{Reason: "new"}, "Nothing changed.", "Not complete: new."},
	} {
		if got := c.m.totals(); got != c.totals {
			t.Errorf("got %q, want %q", got, c.totals)
		}
		if got := c.m.state(); !strings.HasPrefix(got, c.state) {
			t.Errorf("got %q, want %q", got, c.state)
		}
	}
	for n, want := range map[int64]string{0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1000: "1.0 kB", 999_949: "999.9 kB", 999_960: "1.0 MB", 2_500_000_000: "2.5 GB", 7e12: "7.0 TB"} {
		if got := byteCount(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestAnHourOfManyFilesIsToldByItsFirst(t *testing.T) {
	f := fill(t, 9, numberedHours(1)).front
	for parts, want := range map[int]string{1: "", 2: "The manifest names 1 further file.", 41: "The manifest names 40 further files."} {
		m := testHour(0, nil)
		for part := range parts {
			m.Files = append(m.Files, File{Role: RoleNDJSON, Href: partName(RoleNDJSON, part+1), Type: typeNDJSON})
		}
		told := string(f.appendHour(nil, m))
		if strings.Count(told, "digest.ndjson") != 3 || strings.Contains(told, "digest-2") || !strings.Contains(told, want) || strings.Contains(told, "further") != (want != "") {
			t.Errorf("%d parts are told as\n%s", parts, told)
		}
	}
}

func TestTheFeedOfHoursHasAWeek(t *testing.T) {
	s := fill(t, 9, make([][]Entry, 170))
	s.front.hours[1].Complete, s.front.hours[1].Reason = false, Reconcile
	s.refresh()
	feed, err := (&atom.Parser{}).Parse(bytes.NewReader(s.at(t, testBase+"/all/hours.atom")))
	if err != nil || len(feed.Entries) != 168 {
		t.Fatalf("%d entries, %v", len(feed.Entries), err)
	}
	seen := map[string]bool{}
	for i, e := range feed.Entries {
		m := s.front.hours[i]
		if seen[e.ID] || !e.UpdatedParsed.Equal(m.ClosedAt) || e.Links[0].Href != testBase+"/all/"+Hour.Folder(m.From)+"manifest.json" ||
			strings.Contains(e.Title, "not complete") != (i == 1) || strings.Contains(e.Content.Value, "Trust nothing") != (i == 1) {
			t.Errorf("hour %d is told as %+v", i, e)
		}
		seen[e.ID] = true
		for _, l := range e.Links {
			s.at(t, l.Href)
		}
	}
}
