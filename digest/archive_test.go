package digest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// hours has some notices written in each of n hours, which close.
func (w *world) hours(n int) {
	w.t.Helper()
	w.settle()
	for range n {
		w.write()
		w.now = w.now.Add(time.Hour)
		w.settle()
	}
	w.now = Hour.start(w.now).Add(Grace)
	w.settle()
}

func (w *world) get(name, coding string) []byte {
	w.t.Helper()
	f, err := w.a.Find("all", name, false)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := f.Open(coding)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil || int64(len(b)) != c.Size {
		w.t.Fatalf("%s has %d bytes and not %d: %v", name, len(b), c.Size, err)
	}
	return b
}

func (w *world) state() (s State) {
	w.t.Helper()
	if err := json.Unmarshal(w.get("state.json", ""), &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func TestWhatIsAskedForIsThereOrYetToComeOrExpiredOrNothing(t *testing.T) {
	w := newWorld(t, 8)
	w.settle()
	if _, err := w.a.Find("all", "state.json", false); !errors.Is(err, ErrNotYet) {
		t.Errorf("before the first hour has closed: %v", err)
	}
	if _, err := w.a.Find("other", "state.json", false); !errors.Is(err, ErrNoDigest) {
		t.Errorf("of a channel that has no digest: %v", err)
	}
	w.hours(46) // 40 are kept
	s := w.state()
	if kept := s.Seq - s.FirstSeq + 1; kept != 40 && kept != 41 {
		t.Errorf("%d hours are kept", kept)
	}
	newest := Hour.Folder(s.From)
	for _, x := range []struct {
		name string
		want error
	}{
		{newest + "manifest.json", nil}, {newest + "manifest.json.sig", nil}, {newest + "digest.ndjson", nil}, {newest + "digest.ndjson.zst", nil},
		{"feed.atom", nil}, {"feed.json", nil}, {"hours.atom", nil}, {"capabilitylist.xml", nil}, {"changelist.xml", nil}, {"recent/changelist.xml", nil},
		{newest + "digest-2.ndjson", ErrNoFile}, {newest + "plan.json", ErrNoFile}, {"plan.json", ErrNoFile}, {"access.json", ErrNoFile}, {"front/0000000001/feed.atom", ErrNoFile},
		{Hour.Folder(s.Until) + "manifest.json", ErrNotYet}, {Day.Folder(s.Until) + "manifest.json", ErrNotYet}, {Week.Folder(s.Until.AddDate(0, 0, 14)) + "manifest.json", ErrNotYet},
		{Hour.Folder(s.From.Add(-45*time.Hour)) + "manifest.json", ErrExpired}, {Hour.Folder(s.From.AddDate(-1, 0, 0)) + "manifest.json", ErrNoFile},
		{Day.Folder(s.From.AddDate(0, 0, -1)) + "manifest.json", nil},
	} {
		if _, err := w.a.Find("all", x.name, false); !errors.Is(err, x.want) || x.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", x.name, err, x.want)
		}
	}
	if names, err := w.fs.List("data/digest/all/front"); err != nil || len(names) != 2 {
		t.Errorf("documents that nobody sees are kept: %v %v", names, err)
	}
	days, err := w.fs.List(path.Join("data/digest/all/h", s.From.Format("2006/01")))
	if err != nil || len(days) > 3 {
		t.Errorf("hours that are not kept are on the disk: %v %v", days, err)
	}
}

// A publisher may name resources by as much as 2,048 bytes, each of which takes five in XML.
func TestAFeedIsNoLongerThanASubscriberIsToTakeAndLeadsToTheRest(t *testing.T) {
	w := newWorld(t, 5)
	w.hours(1)
	w.write()
	for i := range maxFeed {
		n := graph.Notice{Cursor: graph.Cursor{Epoch: w.epoch, Seq: w.Token().Seq + 1}, URI: fmt.Sprintf("https://h0.example/%04d?%s", i, strings.Repeat("&", 2000)),
			Kind: graph.KindChanged, Change: graph.ChangeUpdated, Reason: graph.ReasonEdit, At: w.now}
		w.journal[w.epoch] = append(w.notices(), n)
	}
	w.now = w.now.Add(time.Hour)
	w.hours(1)
	hour := Hour.Folder(w.state().From.Add(-time.Hour))
	for _, x := range []struct{ name, begins, leads, ends string }{
		{"feed.atom", "<entry", `rel="prev-archive"`, "</feed>\n"},
		{"feed.json", `{"id"`, `"next_url"`, "]}\n"},
	} {
		b := string(w.get(x.name, ""))
		if len(b) > 4<<20 || strings.Count(b, x.begins) < 100 || !strings.Contains(b, x.leads) || !strings.HasSuffix(b, x.ends) {
			t.Errorf("%s has %d bytes and %d entries", x.name, len(b), strings.Count(b, x.begins))
		}
		whole := string(w.get(hour+"digest."+path.Ext(x.name)[1:], ""))
		lines := strings.Split(b, "\n")
		newest := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, "h0.example/0999?") })
		last := slices.IndexFunc(lines[newest:], func(line string) bool { return !strings.Contains(line, "h0.example/0") }) + newest
		for i, line := range lines[newest:last] {
			if !strings.Contains(line, fmt.Sprintf("h0.example/%04d?", 999-i)) || !strings.Contains(whole, strings.TrimSuffix(line, ",")) {
				t.Fatalf("%s: entry %d is %.200s", x.name, i, line)
			}
		}
	}
}

// Who is told that a feed is gone for good does not come back.
func TestADocumentThatIsReplacedWhileItIsAskedForIsReadAsItWasFound(t *testing.T) {
	w := newWorld(t, 8)
	w.hours(3)
	for _, name := range []string{"state.json", "feed.atom", "feed.json", "hours.atom", "changelist.xml", "recent/changelist.xml"} {
		want := w.get(name, "")
		f, err := w.a.Find("all", name, false)
		if err != nil {
			t.Fatal(err)
		}
		w.hours(1)
		c, err := f.Open("")
		if err != nil {
			t.Errorf("%s of the hour before: %v", name, err)
			continue
		}
		got, err := io.ReadAll(c)
		if c.Close(); err != nil || !bytes.Equal(got, want) || bytes.Equal(got, w.get(name, "")) {
			t.Errorf("%s is not that of the hour before: %v", name, err)
		}
	}
}

func TestSinceHasEachResourceOnceAndEndsWhereTheStreamGoesOn(t *testing.T) {
	w := newWorld(t, 2)
	w.hours(34)
	s := w.state()
	for _, seq := range []uint64{0, 1, s.Seq - 30, s.Seq - 1, s.Seq} {
		since, err := w.a.Since("all", seq, false)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := since.Stream(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
		after := uint64(0)
		if seq > 0 {
			m, _ := w.manifest(w.a.series["all"], w.a.series["all"].now().hours[seq-1].folder)
			after = m.LastOffset
		}
		want := w.naive(w.epoch, after, s.LastOffset, s.From)
		lines := strings.SplitAfter(b.String(), "\n")
		lines = lines[:len(lines)-1]
		if len(lines) != len(want) || since.Seq != s.Seq || since.Cursor.String() != s.Cursor {
			t.Errorf("since %d: %d resources up to %d %s, want %d up to %d %s", seq, len(lines), since.Seq, since.Cursor, len(want), s.Seq, s.Cursor)
		}
		for _, line := range lines {
			e, err := parseEntry([]byte(line))
			if wanted := want[e.URI]; err != nil || e.Count != wanted.Count || e.Change != wanted.Change || e.Offset != wanted.Offset {
				t.Errorf("since %d: got %+v, want %+v: %v", seq, e, wanted, err)
			}
		}
	}
	if _, err := w.a.Since("all", s.Seq+1, false); !errors.Is(err, ErrNotYet) {
		t.Errorf("since an hour that is yet to come: %v", err)
	}
}

// Three weeks away are at most 32 downloads, wherever they begin.
func TestFewDigestsCoverWhatSomebodyMissed(t *testing.T) {
	h := &head{rollups: map[Period][]*closed{}}
	first := time.Date(2026, 11, 4, 17, 0, 0, 0, time.UTC)
	for seq := uint64(1); seq <= 1200; seq++ {
		from := first.Add(time.Duration(seq-1) * time.Hour)
		h.hours = append(h.hours, &closed{Manifest: &Manifest{Seq: seq, FirstSeq: seq, From: from}})
		for _, p := range []Period{Day, Week} {
			if end := from.Add(time.Hour); p.start(end).Equal(end) {
				begin := uint64(1)
				if d := p.start(from).Sub(first); d > 0 {
					begin = 1 + uint64(d/time.Hour)
				}
				h.rollups[p] = append(h.rollups[p], &closed{Manifest: &Manifest{Seq: seq, FirstSeq: begin, From: p.start(from)}})
			}
		}
	}
	h.state.Seq = 1200
	kept := h.hours
	for away := 1; away < 1200; away++ {
		h.hours = kept
		list := h.cover(uint64(1200-away+1), false)
		at := uint64(1200 - away + 1)
		for _, c := range list {
			if c.FirstSeq != at {
				t.Fatalf("%d hours away: a digest from %d on follows hour %d", away, c.FirstSeq, at-1)
			}
			at = c.Seq + 1
		}
		if at != 1201 {
			t.Fatalf("%d hours away: they end with hour %d", away, at-1)
		}
		// With hours of 14 days alone the first may begin earlier.
		h.hours = kept[1200-14*24:]
		list = h.cover(uint64(1200-away+1), false)
		if list[0].FirstSeq > uint64(1200-away+1) || list[len(list)-1].Seq != 1200 || away <= 21*24 && len(list) > 55 {
			t.Fatalf("%d hours away, of which 14 days are kept: %d digests from %d on", away, len(list), list[0].FirstSeq)
		}
	}
}

func TestANewKeyIsAnnouncedUnderTheOldOnesSignature(t *testing.T) {
	w := newWorld(t, 3)
	w.hours(2)
	old := w.state().Keys[0].ID
	k, err := RotateKey(w.fs, "data/keys", w.now.Add(90*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	w.hours(1)
	m, _ := w.manifest(w.a.series["all"], Hour.Folder(w.state().From))
	if m.Key != old || !slices.ContainsFunc(m.Keys, func(l Key) bool { return l.ID == k.ID }) {
		t.Errorf("signed by %s, announces %v", m.Key, m.Keys)
	}
	w.hours(2)
	if m, _ = w.manifest(w.a.series["all"], Hour.Folder(w.state().From)); m.Key != k.ID || len(m.Keys) != 2 {
		t.Errorf("after the overlap it is signed by %s", m.Key)
	}
	// The old one's private half goes.
	public := w.state().Keys[slices.IndexFunc(w.state().Keys, func(l Key) bool { return l.ID == old })].Public
	der := append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, public...)
	if err := (disk{w.fs}).write("data/keys/digest-"+old+".pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		t.Fatal(err)
	}
	w.hours(1)
	if s := w.state(); len(s.Keys) != 2 {
		t.Errorf("there are the keys %v", s.Keys)
	}
	b, sig := w.get(w.state().Manifest, ""), w.get(w.state().Manifest+".sig", "")
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(sig)))
	if err != nil || !ed25519.Verify(k.Public, b, raw) {
		t.Errorf("the signature is not that of %s: %v", k.ID, err)
	}
}

// Whoever may see another channel of the same name is not shown what this one had.
func TestWhatAChannelHadThatIsNoMoreIsShownToNobody(t *testing.T) {
	w := newWorld(t, 4)
	w.hours(3)
	gone := w.state().Manifest
	w.ch.Born = 99
	w.a.setAside(map[string]Channel{"all": w.ch})
	if _, err := w.a.Find("all", gone, false); !errors.Is(err, ErrNoDigest) {
		t.Errorf("an hour of the channel before: %v", err)
	}
	w.a.series["all"] = w.a.newSeries("all")
	w.oldest = uint64(len(w.notices()))
	w.hours(1)
	if s := w.state(); s.FirstSeq != 1 || s.Seq > 2 {
		t.Errorf("the new one has hours %d to %d", s.FirstSeq, s.Seq)
	}
	names, err := w.fs.List("data/digest/" + removed)
	if err != nil || len(names) != 1 {
		t.Fatalf("put away are %v: %v", names, err)
	}
	w.now = w.now.Add(keepRemoved + time.Hour)
	w.a.setAside(map[string]Channel{"all": w.ch})
	if names, err := w.fs.List("data/digest/" + removed); err != nil || len(names) != 0 {
		t.Errorf("a month later there are %v: %v", names, err)
	}
}

// What was written while a channel was not public is shown to no stranger because it has
// become so.
func TestStrangersSeeNoHourInWhichTheChannelWasNotPublic(t *testing.T) {
	w := newWorld(t, 5)
	w.public = false
	w.hours(3)
	hidden := w.state()
	for _, name := range []string{"state.json", "feed.atom", "changelist.xml", hidden.Manifest, hidden.Manifest + ".sig", path.Dir(hidden.Manifest) + "/digest.ndjson"} {
		if _, err := w.a.Find("all", name, true); !errors.Is(err, ErrHidden) {
			t.Errorf("of a channel that was never public a stranger finds %s: %v", name, err)
		}
	}
	w.public = true
	w.hours(2)
	s := w.state()
	if _, err := w.a.Find("all", s.Manifest, true); err != nil {
		t.Errorf("an hour that was public is not for everybody: %v", err)
	}
	if _, err := w.a.Find("all", hidden.Manifest, true); !errors.Is(err, ErrHidden) {
		t.Errorf("an hour that was not public has become so: %v", err)
	}
	for _, name := range []string{"feed.atom", "feed.json", "hours.atom", "changelist.xml", "recent/changelist.xml"} {
		if _, err := w.a.Find("all", name, true); err != nil || bytes.Contains(w.get(name, ""), []byte(path.Dir(hidden.Manifest))) {
			t.Errorf("%s is not for everybody, or names a hidden hour: %v", name, err)
		}
	}
	f, err := w.a.Find("all", "state.json", true)
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Open("")
	if err != nil {
		t.Fatal(err)
	}
	var open State
	if err := json.NewDecoder(c).Decode(&open); err != nil || open.FirstSeq <= hidden.Seq || open.Seq != s.Seq || s.FirstSeq != 1 {
		t.Errorf("a stranger is told of hours %d to %d: %v", open.FirstSeq, open.Seq, err)
	}
	m, _ := w.manifest(w.a.series["all"], path.Dir(s.Manifest)+"/")
	since, err := w.a.Since("all", 0, true)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := since.Stream(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if e, err := parseEntry([]byte(line)); err != nil || e.First.Before(hidden.Until) {
			t.Errorf("a stranger is told of %+v: %v", e, err)
		}
	}
	if m.Prev == nil {
		t.Error("the chain has a beginning in its middle")
	}
}

func TestAnHourWaitsForRoomOnTheDiskAndIsWholeThen(t *testing.T) {
	w := newWorld(t, 6)
	w.hours(1)
	full := &fullJournal{world: w, full: true}
	w.a.o.Journal = full
	w.write()
	w.now = w.now.Add(3 * time.Hour)
	if _, err := w.a.series["all"].step(context.Background(), &w.ch); !errors.Is(err, errNoRoom) {
		t.Fatalf("with a full disk: %v", err)
	}
	seq := w.state().Seq
	full.full = false
	w.settle()
	if s := w.state(); s.Seq < seq+3 {
		t.Errorf("with room again the newest hour is %d", s.Seq)
	}
	w.check()
	for _, c := range w.a.series["all"].now().hours {
		if !c.Complete {
			t.Errorf("hour %d is not complete although the hub ran: %s", c.Seq, c.Reason)
		}
	}
}

var errNoRoom = errors.New("the disk is full")

type fullJournal struct {
	*world
	full bool
}

func (j *fullJournal) Room() error {
	if j.full {
		return errNoRoom
	}
	return nil
}

func TestOriginsArePrefixesThatARightMayName(t *testing.T) {
	for uri, want := range map[string]string{
		"https://en.example.org/wiki/A#html": "https://en.example.org/wiki", "https://en.example.org:8443/": "https://en.example.org:8443",
		"urn:isbn:123": "urn:isbn", "ticker:PT1H": "ticker:PT1H", "https://en.example.org/a:b/c": "https://en.example.org/a:b",
		"https://en.example.org/?curid=7": "https://en.example.org", "https://en.example.org/w?title=A": "https://en.example.org",
	} {
		host, got := origin(uri)
		if got != want || !graph.UnderPrefix(uri, got) || graph.CheckPrefix(got) != nil || !graph.UnderPrefix(uri, host) || graph.CheckPrefix(host) != nil {
			t.Errorf("%s: got %s on %s, want %s", uri, got, host, want)
		}
	}
	var o origins
	noted := func(uri string) bool {
		return o.Everywhere || slices.ContainsFunc(o.Origins, func(p string) bool { return graph.UnderPrefix(uri, p) })
	}
	for i := range 3 * maxOrigins {
		for _, uri := range []string{fmt.Sprintf("https://root.example/Page%d", i), fmt.Sprintf("https://wiki.example/wiki/P%d", i), fmt.Sprintf("https://h%d.example/wiki/", i/2)} {
			if o.note(&Entry{URI: uri, Cause: "https://cause.example/w/T"}); !noted(uri) || !noted("https://cause.example/w/T") {
				t.Fatalf("%s does not lie under %v", uri, o.Origins)
			}
		}
		if i == 100 && (len(o.Origins) > 60 || !slices.Contains(o.Origins, "https://root.example") || !slices.Contains(o.Origins, "https://wiki.example/wiki")) {
			t.Fatalf("%v are noted", o.Origins)
		}
	}
	if len(o.Origins) > maxOrigins || !o.Everywhere {
		t.Errorf("%d are noted, everywhere %v", len(o.Origins), o.Everywhere)
	}
}

func TestAnArchiveThatIsDamagedSaysWhere(t *testing.T) {
	w := newWorld(t, 7)
	w.hours(3)
	name := path.Join("data/digest/all", w.state().Manifest)
	if err := (disk{w.fs}).write(name, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(w.options()); err == nil || !strings.Contains(err.Error(), "all") || !strings.Contains(err.Error(), "manifest.json") {
		t.Errorf("got %v", err)
	}
}
