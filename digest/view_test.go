package digest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// checkGolden compares got with testdata/name.
func checkGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", path, got, want)
	}
}

const (
	testBase  = "https://hub.example/digest"
	testHub   = "https://hub.example/websub"
	testEpoch = "00005f3a"
)

// testNoon is when the hour begins that tests are about.
var testNoon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// testHour is the manifest of the hour n after noon, with its entries counted.
func testHour(n int, entries []Entry) *Manifest {
	from := testNoon.Add(time.Duration(n) * time.Hour)
	m := &Manifest{Version: Version, Channel: "all", Period: Hour, Epoch: testEpoch, Seq: uint64(500 + n), FirstSeq: uint64(500 + n), From: from,
		Until: from.Add(time.Hour), ClosedAt: from.Add(time.Hour + 2*time.Minute), FirstOffset: 1, Entries: uint64(len(entries)), Complete: true,
		Public: true, Changes: map[string]uint64{}, Reasons: map[string]uint64{}}
	for i := range entries {
		e := &entries[i]
		m.Notices += e.Count
		m.LastOffset = max(m.LastOffset, e.Offset)
		m.Changes[e.Change]++
		m.Reasons[e.Reason]++
	}
	return m
}

// plainEntries show every field, and every field left out.
func plainEntries() []Entry {
	at := func(seconds int) time.Time { return testNoon.Add(time.Duration(seconds)*time.Second + 976_123_000) }
	return []Entry{
		{URI: "https://en.example.org/wiki/Berlin#html", Change: Updated, Count: 3, First: at(9), Last: at(1749), Offset: 88_131, Reason: "dependency",
			Cause: "https://en.example.org/wiki/Template:City", Late: true, Hash: "9e1c", Type: "html",
			Causes: []string{"https://en.example.org/wiki/Berlin", "https://en.example.org/wiki/Template:City"}},
		{URI: "https://de.example.org/wiki/Z%C3%BCrich?a=1&b='2'", Change: Created, Count: 1, First: at(70), Last: at(70), Offset: 88_122, Reason: "edit"},
		{URI: "urn:x:gone", Change: Deleted, Count: 2, First: testNoon, Last: testNoon.Add(time.Minute), Offset: 88_121, Reason: "unneeded", Transient: true},
	}
}

// newViews are what makes the views of an hour.
var newViews = map[string]func(io.Writer, *heading) view{RoleAtom: newAtom, RoleJSONFeed: newJSONFeed, RoleChangeList: newChangeList}

// written is a part of a view of some entries, in their order.
func written(t testing.TB, role string, h *heading, entries []Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	v := newViews[role](&b, h)
	for i := range entries {
		if err := v.add(&entries[i], entries[i].appendLine(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.end(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestViewsOfAnHourAreStable(t *testing.T) {
	entries := plainEntries()
	m := testHour(0, entries)
	m.Complete, m.Reason = false, Missed
	first := &heading{base: testBase, m: m, part: 1, parts: 2, prev: "h/2026/11/24/11/"}
	last := &heading{base: testBase, m: m, part: 2, parts: 2, prev: "h/2026/11/24/11/"}
	empty := &heading{base: testBase, m: testHour(-1, nil), part: 1, parts: 1}
	for role := range newViews {
		parts := [][]Entry{entries[:2], entries[2:]} // newest first
		if role == RoleChangeList {
			parts = [][]Entry{{entries[2], entries[1]}, entries[:1]}
		}
		checkGolden(t, "views/"+partName(role, 1), written(t, role, first, parts[0]))
		checkGolden(t, "views/"+partName(role, 2), written(t, role, last, parts[1]))
		checkGolden(t, "views/empty-"+partName(role, 1), written(t, role, empty, nil))
	}
}

// hostileTexts are what somebody may send who wishes readers ill, or whose own
// software is broken.
var hostileTexts = []string{
	"", "]]>", "<!--", "<![CDATA[", "</entry><entry>", "</url>", "&amp;", "&#0;", "&lt;script&gt;", "<script>alert(1)</script>", `"'`, `\"`, `\u0000`, `\`,
	"a\x00b", "a\x1bb", "\t", "\n", "\r\n", " lead and trail ", "\x7f", "\u0085", "\u00a0", "\u2028\u2029", "\ufeff", "\u200e\u200f\u202e", "\ufffd", "\ufffe", "\uffff",
	"\U0001fffe", "\U0010ffff", "a\xffb", "\xed\xa0\x80", "\xf0\x9f", "\xc0\x80", "é 東京 🜨 אבג", "e\u0301", strings.Repeat("<", 255), `},{"id":"`, "{{.}}", "%s%d", "?>", "<?xml?>",
	"https://e.example/%E2%80%8F%E2%80%AE", "https://e.example/]]%3E", "https://e.example/%00%1B", "https://e.example/%ED%A0%80", "https://e.example/\ufffe<&>", "javascript:alert(1)",
}

// hostileURIs are canonical, as all that are taken in.
var hostileURIs = []string{
	"https://e.example/%3Cscript%3E", "https://e.example/AT%26T", "https://e.example/it%27s", "https://e.example/it's", "https://e.example/?a=1&b=2&lt;", "https://e.example/%22",
	"https://e.example/%25", "https://e.example/%2525C3%25BC", "https://e.example/a%2Fb%3Fc%23d", "https://e.example/a%20b", "https://e.example/%5D%5D%3E",
	"https://e.example/%F0%9F%9C%A8", "https://e.example/Z%C3%BCrich", "https://e.example/%EF%BF%BE", "https://e.example/%EF%BF%BF",
	"https://e.example/%D9%85%DB%8C%E2%80%8C%D8%B4%D9%88%D8%AF", "https://e.example/%F3%A0%80%81", "https://e.example/" + strings.Repeat("&", 2030),
	"https://e.example/" + strings.Repeat("%26", 676), "https://e.example/" + strings.Repeat("%C3%BC", 338), "urn:isbn:1", "ticker:day", "tile:0/0/0",
}

// hostileEntries have each hostile text in each place where a text can stand; in the
// place of URIs only if all is true.
func hostileEntries(all bool) (entries []Entry) {
	add := func(e Entry) {
		e.Change, e.Count, e.Offset = Updated, 1, uint64(len(entries)+1)
		e.First, e.Last = testNoon.Add(time.Duration(len(entries))*time.Millisecond), testNoon.Add(time.Duration(len(entries))*time.Second)
		entries = append(entries, e)
	}
	for _, uri := range hostileURIs {
		add(Entry{URI: uri, Cause: uri, Causes: []string{uri, "https://e.example/other"}, Reason: "edit"})
	}
	for _, text := range hostileTexts {
		add(Entry{URI: "https://e.example/", Reason: text})
		add(Entry{URI: "https://e.example/", Hash: text})
		add(Entry{URI: "https://e.example/", Type: text})
		if all && text != "" {
			add(Entry{URI: text, Cause: text, Causes: []string{text, text}})
		}
	}
	return entries
}

// inXML is what XML can say of s.
func inXML(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && !strings.ContainsRune("\t\n\r", r) || r == 0xfffe || r == 0xffff {
			return utf8.RuneError
		}
		return r
	}, inJSON(s))
}

// inJSON is what JSON can say of s: each byte that is no UTF-8 is replaced.
func inJSON(s string) string { return string([]rune(s)) }

// An atomDocument is a feed as encoding/xml reads it.
type atomDocument struct {
	XMLName xml.Name    `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string      `xml:"id"`
	Title   string      `xml:"title"`
	Updated time.Time   `xml:"updated"`
	Links   []atomLink  `xml:"link"`
	Archive *struct{}   `xml:"http://purl.org/syndication/history/1.0 archive"`
	Entries []atomEntry `xml:"entry"`
}

type atomLink struct {
	Rel  string `xml:"rel,attr"`
	Href string `xml:"href,attr"`
}

func (d *atomDocument) link(rel string) string {
	for _, l := range d.Links {
		if l.Rel == rel {
			return l.Href
		}
	}
	return ""
}

type atomEntry struct {
	ID         string   `xml:"id"`
	Title      string   `xml:"title"`
	Updated    string   `xml:"updated"`
	Link       atomLink `xml:"link"`
	Categories []struct {
		Scheme string `xml:"scheme,attr"`
		Term   string `xml:"term,attr"`
	} `xml:"category"`
	Ours struct {
		Change    string    `xml:"change,attr"`
		Count     uint64    `xml:"count,attr"`
		First     time.Time `xml:"first,attr"`
		Offset    uint64    `xml:"offset,attr"`
		Reason    string    `xml:"reason,attr"`
		Cause     string    `xml:"cause,attr"`
		Late      bool      `xml:"late,attr"`
		Transient bool      `xml:"transient,attr"`
		Hash      string    `xml:"hash,attr"`
		Type      string    `xml:"type,attr"`
		Causes    []string  `xml:"urn:freshwire:digest cause"`
	} `xml:"urn:freshwire:digest entry"`
}

// entry is what it says, as an entry again.
func (a *atomEntry) entry() Entry {
	last, _ := time.Parse(time.RFC3339, a.Updated)
	o := &a.Ours
	return Entry{URI: a.Link.Href, Change: o.Change, Count: o.Count, First: o.First, Last: last, Offset: o.Offset, Reason: o.Reason, Cause: o.Cause,
		Causes: o.Causes, Late: o.Late, Transient: o.Transient, Hash: o.Hash, Type: o.Type}
}

// A syncDocument is any document of ResourceSync as encoding/xml reads it.
type syncDocument struct {
	XMLName  xml.Name
	Meta     syncMeta   `xml:"http://www.openarchives.org/rs/terms/ md"`
	Links    []atomLink `xml:"http://www.openarchives.org/rs/terms/ ln"`
	URLs     []syncURL  `xml:"http://www.sitemaps.org/schemas/sitemap/0.9 url"`
	Sitemaps []syncURL  `xml:"http://www.sitemaps.org/schemas/sitemap/0.9 sitemap"`
}

type syncMeta struct {
	Capability string    `xml:"capability,attr"`
	From       time.Time `xml:"from,attr"`
	Until      time.Time `xml:"until,attr"`
	Change     string    `xml:"change,attr"`
	Datetime   time.Time `xml:"datetime,attr"`
}

type syncURL struct {
	Loc     string   `xml:"loc"`
	Lastmod string   `xml:"lastmod"`
	Meta    syncMeta `xml:"http://www.openarchives.org/rs/terms/ md"`
}

// A jsonDocument is a JSON feed as encoding/json reads it.
type jsonDocument struct {
	Version string `json:"version"`
	NextURL string `json:"next_url"`
	Items   []struct {
		ID           string    `json:"id"`
		URL          string    `json:"url"`
		Title        string    `json:"title"`
		ContentText  string    `json:"content_text"`
		DateModified time.Time `json:"date_modified"`
		Tags         []string  `json:"tags"`
		Ours         Entry     `json:"_freshwire"`
	} `json:"items"`
}

// each maps the texts of an entry.
func (e Entry) each(f func(string) string) Entry {
	e.URI, e.Change, e.Reason, e.Cause, e.Hash, e.Type = f(e.URI), f(e.Change), f(e.Reason), f(e.Cause), f(e.Hash), f(e.Type)
	var causes []string
	for _, cause := range e.Causes {
		causes = append(causes, f(cause))
	}
	e.Causes = causes
	return e
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprintf("%q", fmt.Sprintf("%+v", got)), fmt.Sprintf("%q", fmt.Sprintf("%+v", want)); g != w {
		t.Errorf("%s: got\n%s\nwant\n%s", what, g, w)
	}
}

// checkRoundTrip reads the views of entries with the readers of the standard library.
func checkRoundTrip(t *testing.T, h *heading, entries []Entry) {
	t.Helper()
	var feed atomDocument
	if err := xml.Unmarshal(written(t, RoleAtom, h, entries), &feed); err != nil || len(feed.Entries) != len(entries) {
		t.Fatalf("%d of %d entries: %v", len(feed.Entries), len(entries), err)
	}
	var document jsonDocument
	if err := json.Unmarshal(written(t, RoleJSONFeed, h, entries), &document); err != nil || len(document.Items) != len(entries) {
		t.Fatalf("%d of %d items: %v", len(document.Items), len(entries), err)
	}
	var list syncDocument
	if err := xml.Unmarshal(written(t, RoleChangeList, h, entries), &list); err != nil || len(list.URLs) != len(entries) {
		t.Fatalf("%d of %d URLs: %v", len(list.URLs), len(entries), err)
	}
	for i := range entries {
		e := &entries[i]
		asXML, asJSON := e.each(inXML), e.each(inJSON)
		id := fmt.Sprintf("urn:freshwire:digest:%s:%s.%d", h.m.Channel, h.m.Epoch, e.Offset)
		a, item, url := &feed.Entries[i], &document.Items[i], &list.URLs[i]
		same(t, "entry", a.entry(), asXML)
		same(t, "names", []string{a.ID, item.ID}, []string{inXML(id), inJSON(id)})
		same(t, "titles", []string{a.Title, item.Title}, []string{inXML(e.Change + " " + readable(e.URI)), inJSON(e.Change + " " + readable(e.URI))})
		same(t, "item", item.Ours, asJSON)
		same(t, "address", item.URL, asJSON.URI)
		same(t, "time", item.DateModified, e.Last)
		tags := []string{asJSON.Change}
		if e.Reason != "" {
			tags = append(tags, asJSON.Reason)
		}
		same(t, "tags", item.Tags, tags)
		lastmod := string(stamp(nil, e.Last))
		if e.Change == Deleted {
			lastmod = ""
		}
		same(t, "change", *url, syncURL{asXML.URI, lastmod, syncMeta{Change: asXML.Change, Datetime: e.Last}})
	}
}

func TestNoTextBreaksOutOfAView(t *testing.T) {
	for _, uri := range hostileURIs {
		if err := graph.CheckURI(uri, "tile"); err != nil {
			t.Error(err)
		}
	}
	entries := hostileEntries(true)
	checkRoundTrip(t, &heading{base: testBase, m: testHour(0, entries), part: 1, parts: 1}, entries)
	for _, text := range hostileTexts {
		m := testHour(0, plainEntries())
		m.Complete, m.Reason, m.Channel, m.Epoch = false, text, "c"+text, "e"+text
		checkRoundTrip(t, &heading{base: testBase + text, m: m, part: 1, parts: 1, prev: text}, plainEntries())
	}
}

func FuzzViews(f *testing.F) {
	for _, e := range hostileEntries(true) {
		f.Add(e.URI, e.Reason, e.Cause, e.Hash, e.Type, e.Offset)
	}
	f.Fuzz(func(t *testing.T, uri, reason, cause, hash, kind string, offset uint64) {
		e := Entry{URI: uri, Change: Created, Count: 1, First: testNoon, Last: testNoon, Offset: offset, Reason: reason, Cause: cause, Hash: hash, Type: kind}
		entries := []Entry{e, {URI: "x", Change: Deleted, Count: 2, Reason: "edit", Causes: []string{uri, cause}}}
		h := &heading{base: testBase, m: testHour(0, entries), part: 1, parts: 1}
		checkRoundTrip(t, h, entries)
		for role := range newViews {
			whole := written(t, role, h, entries)
			if found, err := lines(bytes.NewReader(whole), role, 0, 3); err != nil || len(found) != 2 {
				t.Errorf("%s: %d lines (%v) of\n%s", role, len(found), err, whole)
			}
		}
	})
}

func TestTitlesShowWhatIsPercentEncoded(t *testing.T) {
	for _, c := range []struct{ uri, want string }{
		{"https://e.example/Berlin", "https://e.example/Berlin"},
		{"https://e.example/Z%C3%BCrich", "https://e.example/Zürich"},
		{"https://e.example/%E6%9D%B1%E4%BA%AC#%F0%9F%9C%A8", "https://e.example/東京#🜨"},
		{"https://e.example/e%CC%81", "https://e.example/e\u0301"},
		{"https://e.example/%D7%90", "https://e.example/א"},
		{"https://e.example/AT%26T%2C_it%27s_%22it%22", `https://e.example/AT&T,_it's_"it"`},
		// What delimits stays, so that two that differ never look the same for that.
		{"https://e.example/a%2Fb%3Fc%23d%25e", "https://e.example/a%2Fb%3Fc%23d%25e"},
		{"https://e.example/%25C3%25BC", "https://e.example/%25C3%25BC"},
		{"https://e.example/%3Cb%3E", "https://e.example/%3Cb%3E"},
		// What nobody sees stays.
		{"https://e.example/a%20b%C2%A0c%E3%80%80", "https://e.example/a%20b%C2%A0c%E3%80%80"},
		{"https://e.example/%00%1B%7F%C2%85", "https://e.example/%00%1B%7F%C2%85"},
		{"https://e.example/%E2%80%8F%E2%80%AE%E2%81%A6", "https://e.example/%E2%80%8F%E2%80%AE%E2%81%A6"},
		{"https://e.example/%E2%80%A8%EF%BB%BF%F3%A0%80%81", "https://e.example/%E2%80%A8%EF%BB%BF%F3%A0%80%81"},
		{"https://e.example/%EF%BF%BE%EF%BF%BD%F4%8F%BF%BF", "https://e.example/%EF%BF%BE%EF%BF%BD%F4%8F%BF%BF"},
		// But the joiners of Persian and Hindi are part of the word.
		{"https://e.example/%DB%8C%E2%80%8C%D8%B4", "https://e.example/ی\u200cش"},
		{"https://e.example/%E0%A4%95%E0%A5%8D%E2%80%8D", "https://e.example/क\u094d\u200d"},
		// What is no UTF-8, or no encoding, stays.
		{"https://e.example/%C3", "https://e.example/%C3"},
		{"https://e.example/%C3x%BC", "https://e.example/%C3x%BC"},
		{"https://e.example/%C3%", "https://e.example/%C3%"},
		{"https://e.example/%C3%2", "https://e.example/%C3%2"},
		{"https://e.example/%C3%28", "https://e.example/%C3("},
		{"https://e.example/%ED%A0%80", "https://e.example/%ED%A0%80"},
		{"https://e.example/%C0%80%FF", "https://e.example/%C0%80%FF"},
		{"https://e.example/%+1%zz%", "https://e.example/%+1%zz%"},
	} {
		if got := readable(c.uri); got != c.want {
			t.Errorf("%s: got %q, want %q", c.uri, got, c.want)
		}
	}
}

func TestLinesOfAClosedFileAreReadBack(t *testing.T) {
	entries := hostileEntries(true)
	h := &heading{base: testBase, m: testHour(0, entries), part: 1, parts: 1}
	for role := range newViews {
		whole := written(t, role, h, entries)
		all, err := lines(bytes.NewReader(whole), role, 0, len(entries)+1)
		if err != nil || len(all) != len(entries) {
			t.Fatalf("%s: %d of %d lines: %v", role, len(all), len(entries), err)
		}
		for i, line := range all {
			if !bytes.Contains(whole, []byte("\n"+line)) || strings.HasSuffix(line, ",") || role == RoleJSONFeed && !json.Valid([]byte(line)) {
				t.Errorf("%s: line %d is %q", role, i, line)
			}
		}
		for _, c := range []struct{ skip, limit int }{{0, 0}, {0, 1}, {3, 2}, {len(all) - 1, 9}, {len(all), 9}, {len(all) + 1, 9}} {
			got, err := lines(bytes.NewReader(whole), role, c.skip, c.limit)
			from := min(c.skip, len(all))
			if want := all[from:min(len(all), from+c.limit)]; err != nil || !slices.Equal(got, want) {
				t.Errorf("%s, %+v: %d lines, want %d: %v", role, c, len(got), len(want), err)
			}
		}
		if none, err := lines(bytes.NewReader(written(t, role, h, nil)), role, 0, 1); err != nil || len(none) != 0 {
			t.Errorf("%s: an empty hour has %q: %v", role, none, err)
		}
	}
}

func TestAFileThatIsCutOffIsNotReadBack(t *testing.T) {
	entries := plainEntries()
	h := &heading{base: testBase, m: testHour(0, entries), part: 1, parts: 1}
	for role := range newViews {
		whole := bytes.TrimSuffix(written(t, role, h, entries), []byte("\n"))
		for cut := range whole {
			if found, err := lines(bytes.NewReader(whole[:cut]), role, 0, 9); !errors.Is(err, errCut) {
				t.Fatalf("%s, %d of %d bytes: %d lines, %v", role, cut, len(whole), len(found), err)
			}
		}
	}
	if _, err := lines(strings.NewReader("{}\n"), RoleNDJSON, 0, 1); err == nil {
		t.Error("lines of what is no view")
	}
	if _, err := lines(strings.NewReader("<entry>"+strings.Repeat("x", maxViewLine)), RoleAtom, 0, 1); err == nil {
		t.Error("a line without end is read")
	}
}

// A full disk takes some bytes.
type fullDisk int

var errFull = errors.New("no room")

func (d *fullDisk) Write(b []byte) (int, error) {
	if *d -= fullDisk(len(b)); *d < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestAViewReportsWhatCouldNotBeWritten(t *testing.T) {
	e := &plainEntries()[0]
	line := e.appendLine(nil)
	for role, make := range newViews {
		for _, room := range []fullDisk{0, 100_000} {
			v := make(&room, &heading{base: testBase, m: testHour(0, nil), part: 1, parts: 1})
			var err error
			added := 0
			for ; err == nil && added < 2000; added++ {
				err = v.add(e, line)
			}
			if err == nil {
				err = v.end()
			}
			if !errors.Is(err, errFull) || added == 2000 {
				t.Errorf("%s: %d entries, %v", role, added, err)
			}
		}
	}
}

func TestPartsAreNamedAndTyped(t *testing.T) {
	for _, c := range []struct{ role, first, second, mediaType string }{
		{RoleNDJSON, "digest.ndjson", "digest-2.ndjson", "application/x-ndjson"},
		{RoleAtom, "digest.atom", "digest-2.atom", "application/atom+xml"},
		{RoleJSONFeed, "digest.json", "digest-2.json", "application/feed+json"},
		{RoleChangeList, "changelist.xml", "changelist-2.xml", "application/xml"},
	} {
		if got := []string{partName(c.role, 1), partName(c.role, 2), mediaType(c.role)}; !slices.Equal(got, []string{c.first, c.second, c.mediaType}) {
			t.Errorf("%s: %q", c.role, got)
		}
	}
}

// BenchmarkView makes views of entries as they are.
func BenchmarkView(b *testing.B) {
	entries := plainEntries()
	for i := range entries {
		entries[i].Hash = "5f2b8c0e9d7a41f3"
	}
	var all [][]byte
	for i := range entries {
		all = append(all, entries[i].appendLine(nil))
	}
	for _, role := range []string{RoleAtom, RoleJSONFeed, RoleChangeList} {
		b.Run("role="+role, func(b *testing.B) {
			b.ReportAllocs()
			v := newViews[role](io.Discard, &heading{base: testBase, m: testHour(0, entries), part: 1, parts: 1})
			n := 0
			for b.Loop() {
				if err := v.add(&entries[n%len(entries)], all[n%len(entries)]); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
