package subscriptions

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/mmcdole/gofeed"
	"github.com/mmcdole/gofeed/atom"

	"github.com/freshwire/freshwire/graph"
)

// A world is a store that is closed and opened again, and what was ever written to it.
type world struct {
	fs       vfs.FS
	later    atomic.Int64 // what its clock is ahead
	store    *graph.Store
	channels *Channels
	streamer *Streamer
	close    func()

	all       []graph.Notice
	collected graph.Cursor
	histories map[string]history
}

func (w *world) open(t *testing.T) {
	t.Helper()
	store, err := graph.Open("store", graph.Options{FS: w.fs, Cache: 8 << 20, TailBytes: 16 << 10, KeepAge: time.Hour,
		Clock: func() time.Time { return time.Now().Add(time.Duration(w.later.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	w.store, w.channels = store, openChannels(t, store)
	w.streamer = NewStreamer(store, StreamOptions{Channels: w.channels, Portable: true})
	stop := run(t, w.streamer)
	w.close = func() {
		stop()
		cancel()
		<-done
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
	if w.collected.IsZero() {
		w.collected = store.Oldest()
	}
}

// collect notes what was written since.
func (w *world) collect(t *testing.T) {
	t.Helper()
	for w.collected != w.store.Token() {
		ns, next, err := w.store.ReadFrom(t.Context(), w.collected, 100)
		if err != nil {
			t.Fatal(err)
		}
		w.all, w.collected = append(w.all, ns...), next
	}
}

// trim lets two hours pass, so that what was written before is trimmed.
func (w *world) trim(t *testing.T, version *int, random *rand.Rand) {
	t.Helper()
	old := w.store.Token()
	w.later.Add(int64(2 * time.Hour))
	for deadline := time.Now().Add(20 * time.Second); w.store.Oldest().Seq < old.Seq; *version++ {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is trimmed up to %s", old)
		}
		edit(t, w.store, *version, *version+1, random)
		w.collect(t)
	}
}

// follower reads documents one after the other.
type follower struct {
	q     question
	topic Topic
	lanes uint8
	at    graph.Cursor
	last  uint64
	reset *graph.ResetError
	from  uint64 // what it missed was written up to here
	got   map[merged]shownNotice
}

func (f *follower) String() string {
	return fmt.Sprintf("%s, %+v, lanes %d", f.q.who, f.topic, f.lanes)
}

// naive is what the documents in a range are to have.
func (w *world) naive(f *follower, after, until uint64) (first, last uint64, kept []shownNotice) {
	at := map[merged]int{}
	for _, n := range w.all {
		how := f.q.judge(n, w.histories[f.topic.Channel], f.topic.Channel == "open")
		if how == hidden || n.Cursor.Seq <= after || n.Cursor.Seq > until || f.lanes != 0 && f.lanes&(1<<n.Lane) == 0 {
			continue
		}
		if how == bare {
			n.Cause.URI = ""
		}
		if first == 0 {
			first = n.Cursor.Seq
		}
		last = n.Cursor.Seq
		key := merged{n.URI, n.Kind}
		if i, known := at[key]; known {
			kept[i].seq = 0
		}
		at[key] = len(kept)
		kept = append(kept, shownNotice{n.Cursor.Seq, n.Cause.URI})
	}
	return first, last, slices.DeleteFunc(kept, func(n shownNotice) bool { return n.seq == 0 })
}

// read takes the next document and holds it against the naive model.
func (f *follower) read(t *testing.T, w *world, random *rand.Rand) (more bool) {
	t.Helper()
	feed, err := w.streamer.Feed(f.topic, someViewers[f.q.who])
	if err != nil {
		t.Fatal(err)
	}
	reach(t, feed, w.store.Token())
	o := DocumentOptions{Self: "https://hub.example/topics/x", Hub: "https://hub.example/websub", Prev: f.last, Reset: f.reset}
	if random.IntN(2) == 0 {
		o.MaxAge = time.Minute
	}
	d, err := feed.Document(f.lanes, f.at, o)
	if reset := (*graph.ResetError)(nil); errors.As(err, &reset) {
		if reset.Oldest.Seq <= f.at.Seq {
			t.Fatalf("%s: %v", f, err)
		}
		f.at, f.reset, f.from = reset.Oldest, reset, reset.Oldest.Seq
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	first, last, want := w.naive(f, f.at.Seq, d.Until.Seq)
	var got []shownNotice
	for _, n := range d.Notices {
		got = append(got, shownNotice{n.Cursor.Seq, n.Cause.URI})
		f.got[merged{n.URI, n.Kind}] = shownNotice{n.Cursor.Seq, n.Cause.URI}
	}
	if last == 0 {
		last = d.Until.Seq
	}
	if !slices.Equal(got, want) || d.First != first || d.Last != last || f.last > 0 && d.Prev != f.last || d.More != (d.Until.Seq < w.store.Token().Seq) {
		t.Fatalf("%s: document after %s up to %s has %d to %d, prev %d, more %t, want %d to %d, prev %d:\n%v\n%v",
			f, f.at, d.Until, d.First, d.Last, d.Prev, d.More, first, last, f.last, got, want)
	}
	if f.reset != nil != bytes.Contains(d.JSON(), []byte(`"reset":{"reason":"trimmed"`)) || f.reset != nil != bytes.Contains(d.Atom(), []byte(`<reset xmlns="urn:freshwire:topic" reason="trimmed"`)) {
		t.Fatalf("%s: the reset is told or not: %s", f, d.JSON())
	}
	o.Until, o.MaxAge = d.Until.Seq, 0
	again, err := feed.Document(f.lanes, f.at, o)
	if err != nil || !bytes.Equal(again.JSON(), d.JSON()) || !bytes.Equal(again.Atom(), d.Atom()) {
		t.Fatalf("%s: made again (%v) it is %s, was %s", f, err, again.JSON(), d.JSON())
	}
	if len(d.Notices) == 0 { // nothing to be sent
		f.at = d.Until
		return d.More
	}
	f.reset, f.last = nil, d.Last
	if f.at = d.Until; random.IntN(2) == 0 {
		f.at.Seq = d.Last
	}
	return d.More
}

func TestDocumentsLeaveNothingOutAndAreWhatTheNaiveModelSays(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := &world{fs: vfs.NewMem(), histories: map[string]history{}}
	w.open(t)
	defer func() { w.close() }()
	names := []string{"open", "closed"}
	for _, name := range names {
		w.histories[name] = history{change(t, w.channels, name, nil, name == "open", random)}
	}
	var followers []*follower
	for who := range someViewers {
		for _, topic := range []Topic{{Channel: "open"}, {Channel: "closed"}, {URI: "https://a.example/wiki/P3#html"}} {
			f := &follower{q: question{who: who, channel: topic.Channel}, topic: topic, lanes: uint8(random.IntN(4)), at: w.store.Token(), got: map[merged]shownNotice{}}
			if topic.URI != "" {
				f.q.filter = Filter{URI: []string{topic.URI}}
			}
			if _, err := w.streamer.Feed(topic, someViewers[who]); err == nil {
				followers = append(followers, f)
			}
		}
	}
	resets, version := 0, 1000
	for i := range 400 {
		switch what := random.IntN(100); {
		case i%130 == 100:
			w.trim(t, &version, random)
		case i%130 == 50:
			w.close()
			w.open(t)
		case what < 10:
			name := names[random.IntN(2)]
			was := w.histories[name][len(w.histories[name])-1]
			if e := change(t, w.channels, name, was.what, was.public, random); e.what != nil {
				w.histories[name] = append(w.histories[name], e)
			}
		case what < 60:
			edit(t, w.store, version, version+1, random)
			version++
			w.collect(t)
		default:
			f := followers[random.IntN(len(followers))]
			f.read(t, w, random)
			if f.reset != nil {
				resets++
			}
		}
	}
	if resets == 0 {
		t.Error("nobody was reset")
	}
	total := 0
	for _, f := range followers {
		for f.read(t, w, random) {
		}
		total += len(f.got)
		for key, n := range f.got { // what it ends with is the newest of each
			if _, _, want := w.naive(f, n.seq, f.at.Seq); slices.ContainsFunc(want, func(later shownNotice) bool {
				i, _ := slices.BinarySearchFunc(w.all, later.seq, func(n graph.Notice, seq uint64) int { return int(n.Cursor.Seq) - int(seq) })
				return later.seq > f.from && merged{w.all[i].URI, w.all[i].Kind} == key
			}) {
				t.Errorf("%s: of %v there is a newer one than %d", f, key, n.seq)
			}
		}
	}
	if total == 0 {
		t.Error("nobody got anything")
	}
}

// write puts so many pages, each of a type and with a bucket.
func write(t testing.TB, store *graph.Store, version, pages int, uri func(i int) string) {
	t.Helper()
	for from := 0; from < pages; from += 1000 {
		var updates []graph.Update
		for i := from; i < min(pages, from+1000); i++ {
			updates = append(updates, graph.Update{URI: uri(i), Type: "page", Version: fmt.Sprint(version)})
		}
		if _, err := store.Apply(t.Context(), "test", updates); err != nil {
			t.Fatal(err)
		}
	}
}

func page(i int) string { return fmt.Sprintf("https://a.example/wiki/%d", i) }

// allOf follows everything of a store, from its beginning.
func allOf(t testing.TB, store *graph.Store, s *Streamer) *Feed {
	t.Helper()
	f, err := s.Feed(Topic{Channel: "all"}, Viewer{All: true})
	if err != nil {
		t.Fatal(err)
	}
	reach(t, f, store.Token())
	return f
}

func TestADocumentIsBounded(t *testing.T) {
	store, _, s := followStore(t)
	from := store.Token()
	write(t, store, 1, 2500, page)
	f := allOf(t, store, s)
	var sizes []int
	for at, more := from, true; more; {
		d, err := f.Document(0, at, DocumentOptions{})
		if err != nil {
			t.Fatal(err)
		}
		sizes, at, more = append(sizes, len(d.Notices)), d.Until, d.More
	}
	if !slices.Equal(sizes, []int{1000, 1000, 500}) {
		t.Errorf("2,500 resources come in documents of %v", sizes)
	}
	from = store.Token()
	write(t, store, 2, 2000, func(i int) string { return page(i) + strings.Repeat("x", 1800) })
	reach(t, f, store.Token())
	got := 0
	for at, more := from, true; more; {
		d, err := f.Document(0, at, DocumentOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.JSON()) > maxDocumentBytes+1000 || len(d.Notices) >= 1000 || d.More && len(d.JSON()) < maxDocumentBytes*9/10 {
			t.Errorf("a document of %d long URIs has %d bytes", len(d.Notices), len(d.JSON()))
		}
		got, at, more = got+len(d.Notices), d.Until, d.More
	}
	if got != 2000 {
		t.Errorf("got %d of 2000", got)
	}
}

func TestManyNoticesOfFewResourcesAreOneDocument(t *testing.T) {
	store, _, s := followStore(t)
	from := store.Token()
	for v := range 300 {
		write(t, store, v+1, 50, page)
	}
	f := allOf(t, store, s)
	d, err := f.Document(0, from, DocumentOptions{})
	if err != nil || len(d.Notices) != 50 || d.Until != store.Token() || d.More || d.First != from.Seq+1 || d.Last != d.Until.Seq {
		t.Fatalf("%d notices, %d to %d, until %s of %s (%v)", len(d.Notices), d.First, d.Last, d.Until, store.Token(), err)
	}
	for i, n := range d.Notices {
		if n.Version != "300" || n.URI != page(i) {
			t.Errorf("notice %d is of %s in version %s", i, n.URI, n.Version)
		}
	}
}

func TestTheNewestDocumentStaysWhileNothingComes(t *testing.T) {
	store, channels, s := followStore(t)
	if _, _, err := channels.Put(t.Context(), "own", Definition{Filter: Filter{Prefix: []string{"https://a.example/own/"}}}); err != nil {
		t.Fatal(err)
	}
	f, err := s.Feed(Topic{Channel: "own"}, Viewer{All: true})
	if err != nil {
		t.Fatal(err)
	}
	newest := func(want, first int) *Document {
		t.Helper()
		reach(t, f, store.Token())
		d, err := f.Newest(0, DocumentOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Notices) != want || want > 0 && (d.Notices[0].URI != own(first) || d.Prev != d.First-1) || d.Until != f.Head() || d.More {
			t.Fatalf("%d notices from %d to %d, prev %d, until %s of %s", len(d.Notices), d.First, d.Last, d.Prev, d.Until, f.Head())
		}
		return d
	}
	newest(0, 0)
	write(t, store, 1, 3000, page)
	newest(0, 0)
	write(t, store, 1, 30, own)
	d := newest(30, 0)
	write(t, store, 2, 3000, page)
	if again := newest(30, 0); !bytes.Equal(again.JSON(), d.JSON()) {
		t.Errorf("it was %s, and is %s", d.JSON(), again.JSON())
	}
	write(t, store, 3, 8000, page)
	s.documents = newDocuments()
	newest(30, 0)
	write(t, store, 3, 300, own)
	newest(100, 200)
	write(t, store, 4, 1, func(int) string { return own(299) })
	newest(99, 201) // it is merged
}

func own(i int) string { return fmt.Sprintf("https://a.example/own/%d", i) }

func TestAllWhoStandAtOnePositionGetOneDocument(t *testing.T) {
	store, _, s := followStore(t)
	from := store.Token()
	write(t, store, 1, 500, page)
	allOf(t, store, s)
	var wg sync.WaitGroup
	var first, others [100][]byte
	for i := range 100 {
		f := allOf(t, store, s)
		wg.Go(func() {
			d, err := f.Document(0, from, DocumentOptions{Self: "x"})
			if err != nil {
				t.Error(err)
				return
			}
			first[i], others[i] = d.JSON(), d.Atom()
		})
	}
	wg.Wait()
	for i := range 100 {
		if &first[i][0] != &first[0][0] || &others[i][0] != &others[0][0] {
			t.Fatalf("the body of follower %d is one of its own", i)
		}
	}
	f := allOf(t, store, s)
	// Who asks for it again by its range gets it as well, and nothing is read for that.
	if d, err := f.Document(0, from, DocumentOptions{Self: "x", Until: from.Seq + 500}); err != nil || &d.JSON()[0] != &first[0][0] || d.Until.Seq != d.Last {
		t.Errorf("by its range it is made again, up to %v (%v)", d.Until, err)
	}
	if d, err := f.Document(0, from, DocumentOptions{Self: "x", Until: from.Seq + 499}); err != nil || d.Last != from.Seq+499 || len(d.Notices) != 499 {
		t.Errorf("a part of it goes up to %d and has %d notices (%v)", d.Last, len(d.Notices), err)
	}
	write(t, store, 2, 1, page)
	reach(t, f, store.Token())
	for _, c := range []struct {
		age  time.Duration
		last uint64
	}{{time.Hour, from.Seq + 500}, {0, from.Seq + 501}} {
		d, err := f.Document(0, from, DocumentOptions{Self: "x", MaxAge: c.age})
		if err != nil || d.Last != c.last || d.More != (c.age > 0) {
			t.Errorf("if one of %s is good: up to %d, want %d, more %t (%v)", c.age, d.Last, c.last, d.More, err)
		}
	}
}

func TestWhatIsKeptOfDocumentsIsBounded(t *testing.T) {
	store, _, s := followStore(t)
	write(t, store, 2, 2000, func(i int) string { return page(i) + strings.Repeat("x", 1800) })
	f := allOf(t, store, s)
	from := store.Oldest()
	for i := range 1200 {
		after := graph.Cursor{Epoch: from.Epoch, Seq: from.Seq + uint64(i)}
		until := uint64(0)
		if i >= 30 {
			until = after.Seq + 1
		}
		if _, err := f.Document(0, after, DocumentOptions{Until: until}); err != nil {
			t.Fatal(err)
		}
		if s.documents.cost > maxDocumentCost || s.documents.slots.Len() > maxDocuments {
			t.Fatalf("%d documents cost %d", s.documents.slots.Len(), s.documents.cost)
		}
	}
	cost := 0
	for _, slot := range s.documents.slots.Values() {
		cost += slot.size * bodyCost
	}
	if cost != s.documents.cost {
		t.Errorf("what is kept costs %d, it is said %d", cost, s.documents.cost)
	}
}

func TestADocumentIsNotOfAnotherViewerChannelOrTime(t *testing.T) {
	store, channels, s := followStore(t)
	put := func(public bool) {
		t.Helper()
		if _, _, err := channels.Put(t.Context(), "own", Definition{Filter: Filter{Prefix: []string{"https://a.example/own/"}}, Public: public}); err != nil {
			t.Fatal(err)
		}
	}
	put(true)
	from := store.Token()
	write(t, store, 1, 10, own)
	see := func(v Viewer, want int) {
		t.Helper()
		f, err := s.Feed(Topic{Channel: "own"}, v)
		if err != nil {
			t.Fatal(err)
		}
		reach(t, f, store.Token())
		for range 2 {
			d, err := f.Document(0, from, DocumentOptions{MaxAge: time.Hour})
			if err != nil || len(d.Notices) != want {
				t.Errorf("%+v is shown %d notices, want %d (%v)", v, len(d.Notices), want, err)
			}
		}
	}
	few := Viewer{Prefixes: []string{own(1)}}
	see(few, 10)
	put(false)
	see(few, 1)
	see(Viewer{All: true}, 10)
	put(true)
	see(few, 10)
	see(Viewer{Anonymous: true}, 10)
	if _, err := channels.Delete(t.Context(), "own"); err != nil {
		t.Fatal(err)
	}
	put(true)
	see(few, 0)
}

func TestTheJSONOfADocument(t *testing.T) {
	store, _, s := followStore(t)
	from := store.Token()
	write(t, store, 1, 2, page)
	f, err := s.Feed(Topic{URI: page(1)}, Viewer{All: true})
	if err != nil {
		t.Fatal(err)
	}
	reach(t, f, store.Token())
	d, err := f.Document(1<<graph.Prompt, from, DocumentOptions{Self: "https://hub.example/\"s", Hub: "https://hub.example/h"})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Resource, Self, Hub, Epoch, Lane string
		First, Last, Prev                uint64
		Notices                          []noticeJSON
	}
	if err := json.Unmarshal(d.JSON(), &got); err != nil {
		t.Fatalf("%v: %s", err, d.JSON())
	}
	if got.Resource != page(1) || got.Self != "https://hub.example/\"s" || got.Hub != "https://hub.example/h" || got.Epoch != from.Epoch.String() || got.Lane != "prompt" ||
		got.First != from.Seq+2 || got.Last != from.Seq+2 || got.Prev != from.Seq || len(got.Notices) != 1 || got.Notices[0].URI != page(1) {
		t.Errorf("got %s", d.JSON())
	}
	if cursor := got.Epoch + "." + fmt.Sprint(got.Last); got.Notices[0].Token != cursor {
		t.Errorf("epoch and last make %s, the notice has %s", cursor, got.Notices[0].Token)
	}
}

func TestAtomIsReadByOthersWhateverStandsInIt(t *testing.T) {
	store, _, s := followStore(t)
	from := store.Token()
	hostile := "]]>&lt;<b>\"'\u2028\ufffe\uffff&"
	updates := []graph.Update{
		{URI: "https://a.example/wiki/Rock'n'Roll?a=1&b=2;c", Type: hostile, Version: hostile, Buckets: []string{hostile}, Cause: hostile},
		{URI: "https://a.example/wiki/Stra%C3%9Fe", Type: "page", Version: "]]>"},
		{URI: "urn:isbn:0'451450523'", Type: "page", Version: "1"},
	}
	for _, u := range updates {
		if _, err := store.Apply(t.Context(), "test", []graph.Update{u}); err != nil {
			t.Fatal(err)
		}
	}
	f := allOf(t, store, s)
	d, err := f.Document(0, from, DocumentOptions{Self: "https://hub.example/topics/all?a=1&b=<", Hub: "https://hub.example/websub", Prev: 7})
	if err != nil {
		t.Fatal(err)
	}
	for dec := xml.NewDecoder(bytes.NewReader(d.Atom())); ; {
		if _, err := dec.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v: %s", err, d.Atom())
		}
	}
	feed, err := gofeed.NewParser().Parse(bytes.NewReader(d.Atom()))
	if err != nil {
		t.Fatalf("%v: %s", err, d.Atom())
	}
	if feed.FeedType != "atom" || len(feed.Items) != len(updates) || feed.FeedLink != d.Self || feed.Title != "freshwire: all" || feed.UpdatedParsed == nil || feed.Authors[0].Name != "freshwire" {
		t.Fatalf("read as %+v", feed)
	}
	atom, err := (&atom.Parser{}).Parse(bytes.NewReader(d.Atom()))
	if err != nil {
		t.Fatal(err)
	}
	rels := map[string]string{}
	for _, l := range atom.Links {
		rels[l.Rel] = l.Href
	}
	if rels["hub"] != d.Hub || rels["self"] != d.Self || atom.ID != d.Self {
		t.Errorf("its links are %v, its id is %s", rels, atom.ID)
	}
	if !bytes.Contains(d.Atom(), fmt.Appendf(nil, `<range xmlns="urn:freshwire:topic" epoch=%q first="%d" last="%d" prev="7">`, d.Epoch, d.First, d.Last)) {
		t.Errorf("no range in %s", d.Atom())
	}
	ids := map[string]bool{}
	for i, item := range feed.Items {
		ids[item.GUID] = true
		want := AppendNotice(nil, &d.Notices[i])
		if i == 0 { // XML has no such characters, not even escaped
			want = []byte(strings.NewReplacer("\ufffe", "\ufffd", "\uffff", "\ufffd").Replace(string(want)))
		}
		if item.Link != updates[i].URI || item.Title != "changed "+updates[i].URI || item.Content != string(want) || !item.UpdatedParsed.Equal(d.Notices[i].At) {
			t.Errorf("entry %d is %+v, want %s", i, item, want)
		}
	}
	if len(ids) != len(updates) {
		t.Errorf("entries have the ids %v", ids)
	}
}

// BenchmarkDocument is what a document costs that merges as many notices as are read
// for one, and one of which nothing passes.
func BenchmarkDocument(b *testing.B) {
	for _, c := range []struct {
		name  string
		topic Topic
	}{{"merged", Topic{Channel: "all"}}, {"nothing", Topic{URI: "https://b.example/"}}} {
		b.Run(c.name, func(b *testing.B) {
			store := openStore(b, time.Now)
			s := NewStreamer(store, StreamOptions{Portable: true, Channels: openChannels(b, store)})
			b.Cleanup(run(b, s))
			from := store.Token()
			for v := range maxDocumentRead / 500 {
				write(b, store, v+1, 500, page)
			}
			f, err := s.Feed(c.topic, Viewer{All: true})
			if err != nil {
				b.Fatal(err)
			}
			reach(b, f, store.Token())
			for b.Loop() {
				s.documents = newDocuments()
				if _, err := f.Document(0, from, DocumentOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
