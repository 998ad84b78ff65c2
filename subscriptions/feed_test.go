package subscriptions

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// wait fails unless news comes.
func wait(t *testing.T, news <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-news:
	case <-time.After(10 * time.Second):
		t.Fatalf("no news of %s", what)
	}
}

// watch returns a channel that has something when there may be something new.
func watch(t *testing.T, f *Feed) <-chan struct{} {
	t.Helper()
	news := make(chan struct{}, 1)
	t.Cleanup(f.Watch(func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}))
	return news
}

// readOut reads a feed to its head and returns the URIs.
func readOut(t *testing.T, f *Feed, lanes uint8, after graph.Cursor, limit int) (uris []string, to graph.Cursor) {
	t.Helper()
	for {
		r, err := f.Read(lanes, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Notices) > limit {
			t.Fatalf("%d notices, asked for %d at most", len(r.Notices), limit)
		}
		for _, n := range r.Notices {
			uris = append(uris, n.URI)
		}
		if after = r.Next; !r.More {
			return uris, after
		}
	}
}

// feedRig has a store, a channel "own" of what is on en.example.org, and streams.
func feedRig(t *testing.T, public bool) (*graph.Store, *Channels, *Streamer) {
	t.Helper()
	store := openStore(t, time.Now)
	channels, err := OpenChannels(store)
	if err != nil {
		t.Fatal(err)
	}
	putOwn(t, channels, public)
	s := NewStreamer(store, StreamOptions{Channels: channels})
	t.Cleanup(run(t, s))
	return store, channels, s
}

func putOwn(t *testing.T, channels *Channels, public bool) {
	t.Helper()
	if _, _, err := channels.Put(t.Context(), "own", Definition{Filter: Filter{Host: []string{"en.example.org"}}, Public: public}); err != nil {
		t.Fatal(err)
	}
}

// put changes a page and returns its position.
func put(t *testing.T, store *graph.Store, uri string) graph.Cursor {
	t.Helper()
	res, err := store.Apply(t.Context(), "test", []graph.Update{{URI: uri, Type: "page", Version: fmt.Sprint(time.Now().UnixNano())}})
	if err != nil {
		t.Fatal(err)
	}
	return res.Cursor
}

func TestAFeedIsReadInPiecesAndTellsWhenThereIsMore(t *testing.T) {
	store, _, s := feedRig(t, false)
	f, err := s.Feed(Topic{Channel: "own"}, Viewer{All: true})
	if err != nil {
		t.Fatal(err)
	}
	from := f.Head()
	news := watch(t, f)
	var want []string
	for i := range 10 {
		put(t, store, fmt.Sprintf("https://de.example.org/wiki/%d", i))
		want = append(want, fmt.Sprintf("https://en.example.org/wiki/%d", i))
		put(t, store, want[i])
	}
	for deadline := 0; ; deadline++ {
		wait(t, news, "ten pages")
		got, to := readOut(t, f, 0, from, 3)
		if len(got) < len(want) {
			continue
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || to != f.Head() {
			t.Errorf("read %v up to %s, want %v up to %s", got, to, want, f.Head())
		}
		break
	}
	if got, to := readOut(t, f, 1<<graph.Bulk, from, 3); len(got) != 0 || to != f.Head() {
		t.Errorf("of the bulk lane %v up to %s", got, to)
	}
	one, err := s.Feed(Topic{URI: want[4]}, Viewer{Prefixes: []string{"https://en.example.org/"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := readOut(t, one, 0, from, 3); fmt.Sprint(got) != fmt.Sprint(want[4:5]) {
		t.Errorf("of one resource %v", got)
	}
	if _, err := f.Read(0, graph.Cursor{Epoch: from.Epoch, Seq: 1 << 40}, 3); !errors.As(err, new(*graph.ResetError)) {
		t.Errorf("a position in the future: %v", err)
	}
}

func TestNobodyIsToldOfWhatIsNotForTheirFeed(t *testing.T) {
	store, _, s := feedRig(t, false)
	var last *Feed
	told := 0
	for range 1000 {
		f, err := s.Feed(Topic{Channel: "own"}, Viewer{All: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Watch(func() { told++ })) // on the pump's goroutine alone
		last = f
	}
	if n := len(s.pump.classes); n != 1 {
		t.Errorf("a thousand feeds of one topic are %d classes", n)
	}
	other, err := s.Feed(Topic{Channel: "host:de.example.org"}, Viewer{All: true})
	if err != nil {
		t.Fatal(err)
	}
	news := watch(t, other)
	put(t, store, "https://de.example.org/wiki/A")
	wait(t, news, "the other host")
	if told != 0 {
		t.Errorf("%d were told of what is not for them", told)
	}
	if r, err := last.Read(0, graph.Cursor{Epoch: last.Head().Epoch}, 10); err != nil || len(r.Notices) != 0 {
		t.Errorf("read %v, %v", r, err)
	}
}

func TestAFeedEndsWithItsChannelAndWithItsViewersSight(t *testing.T) {
	store, channels, s := feedRig(t, true)
	for _, topic := range []Topic{{}, {Channel: "own", URI: "https://en.example.org/"}} {
		if _, err := s.Feed(topic, Viewer{All: true}); !errors.As(err, new(*FilterError)) {
			t.Errorf("%+v: %v", topic, err)
		}
	}
	if _, err := s.Feed(Topic{Channel: "none"}, Viewer{All: true}); !errors.Is(err, ErrNoChannel) {
		t.Errorf("a channel that is not: %v", err)
	}
	if _, err := s.Feed(Topic{URI: "https://de.example.org/"}, Viewer{Prefixes: []string{"https://en.example.org/"}}); !errors.As(err, new(*Refusal)) {
		t.Errorf("a foreign resource: %v", err)
	}
	feeds := map[string]*Feed{}
	for name, v := range map[string]Viewer{"all": {All: true}, "anonymous": {Anonymous: true}, "tenant": {Prefixes: []string{"https://en.example.org/wiki/Own"}}} {
		f, err := s.Feed(Topic{Channel: "own"}, v)
		if err != nil {
			t.Fatal(name, err)
		}
		feeds[name] = f
	}
	news := watch(t, feeds["anonymous"])
	from := feeds["all"].Head()
	first := put(t, store, "https://en.example.org/wiki/A")
	wait(t, news, "a page")
	putOwn(t, channels, false)
	wait(t, news, "the end of what is public")
	if err := feeds["anonymous"].Err(); !errors.As(err, new(*Refusal)) {
		t.Errorf("the channel is not public any more: %v", err)
	}
	if _, err := feeds["anonymous"].Read(0, from, 10); !errors.As(err, new(*Refusal)) {
		t.Errorf("and is read: %v", err)
	}
	if got, _ := readOut(t, feeds["tenant"], 0, from, 10); len(got) != 0 {
		t.Errorf("a tenant reads %v of a channel that is not public any more", got)
	}
	putOwn(t, channels, true)
	wait(t, news, "the channel being public again")
	if got, _ := readOut(t, feeds["tenant"], 0, from, 10); len(got) != 1 {
		t.Errorf("of what was written while it was public, up to %s, a tenant reads %v", first, got)
	}
	if _, err := channels.Delete(t.Context(), "own"); err != nil {
		t.Fatal(err)
	}
	wait(t, news, "the end of the channel")
	for name, f := range feeds {
		if err := f.Err(); !errors.Is(err, ErrNoChannel) {
			t.Errorf("%s: the channel is deleted: %v", name, err)
		}
	}
}

// followStore returns a store, its channels and a streamer that runs until the test ends.
func followStore(t *testing.T) (*graph.Store, *Channels, *Streamer) {
	t.Helper()
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	s := NewStreamer(store, StreamOptions{Channels: channels, Portable: true})
	t.Cleanup(run(t, s))
	return store, channels, s
}

// reach waits until the feed can read up to c.
func reach(t testing.TB, f *Feed, c graph.Cursor) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); f.Head().Seq < c.Seq; pause(t.Context(), time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the head stays at %s, want %s", f.Head(), c)
		}
	}
}

// readOn reads all of a feed strictly after a position, in pieces of random size.
func readOn(t testing.TB, f *Feed, lanes uint8, from graph.Cursor, random *rand.Rand) (got []shownNotice, at graph.Cursor) {
	t.Helper()
	for more := true; more; {
		r, err := f.Read(lanes, from, 1+random.IntN(20))
		if err != nil {
			t.Fatalf("reading after %s: %v", from, err)
		}
		if r.Next.Seq < from.Seq || r.Next.Seq > f.Head().Seq || r.More && r.Next == from {
			t.Fatalf("after %s: next is %s, more %t, head %s", from, r.Next, r.More, f.Head())
		}
		for _, n := range r.Notices {
			got = append(got, shownNotice{n.Cursor.Seq, n.Cause.URI})
		}
		from, more = r.Next, r.More
	}
	return got, from
}

func TestAFeedReadsWhatAViewerMaySeeAtEachTime(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	store, channels, s := followStore(t)
	public := map[string]bool{"open": true, "closed": false, "turning": false}
	names := slices.Sorted(maps.Keys(public))
	histories := map[string]history{}
	for _, name := range names {
		histories[name] = history{change(t, channels, name, nil, public[name], random)}
	}
	from := store.Token()
	type follower struct {
		who, channel string
		lanes        uint8
	}
	followed := map[follower]*Feed{}
	public["turning"] = true // for the while that it takes to follow it
	turn := func() {
		was := histories["turning"][len(histories["turning"])-1]
		info, _, err := channels.Put(t.Context(), "turning", Definition{Filter: *was.what, Public: public["turning"]})
		if err != nil {
			t.Fatal(err)
		}
		histories["turning"] = append(histories["turning"], era{info.At.Seq, was.what, public["turning"]})
	}
	turn()
	for who, v := range someViewers {
		for _, name := range names {
			f, err := s.Feed(Topic{Channel: name}, v)
			if refused := (question{who: who, channel: name}).refused(public[name]); refused != (err != nil) {
				t.Fatalf("%s follows %s: %v", who, name, err)
			}
			if err == nil {
				followed[follower{who, name, uint8(random.IntN(4))}] = f
			}
		}
	}
	for v := 1000; v < 1200; v++ {
		edit(t, store, v, v+1, random)
		switch name := names[random.IntN(len(names))]; {
		case v%10 == 0:
			public["turning"] = !public["turning"]
			turn()
		case v%2 == 0:
			if e := change(t, channels, name, histories[name][len(histories[name])-1].what, public[name], random); e.what != nil {
				histories[name] = append(histories[name], e)
			}
		}
	}
	all, shown := readAll(t, store), map[showing]int{}
	for _, now := range []bool{public["turning"], !public["turning"]} {
		if public["turning"] != now {
			public["turning"] = now
			turn()
		}
		for by, f := range followed {
			q := question{who: by.who, channel: by.channel}
			reach(t, f, store.Token())
			if q.refused(public[by.channel]) {
				_, err := f.Read(0, from, 0)
				if no := (*Refusal)(nil); !errors.As(err, &no) || no.Status != http.StatusForbidden || f.Err() == nil {
					t.Errorf("seed %d: %s follows %s, which is not public now: %v, %v", seed, by.who, by.channel, err, f.Err())
				}
				continue
			}
			got, at := readOn(t, f, by.lanes, from, random)
			if f.Err() != nil || at != f.Head() {
				t.Errorf("seed %d: %+v: %v, read up to %s of %s", seed, by, f.Err(), at, f.Head())
			}
			var want []shownNotice
			for _, n := range all {
				how := q.judge(n, histories[by.channel], public[by.channel])
				if n.Cursor.Seq <= from.Seq || by.lanes != 0 && by.lanes&(1<<n.Lane) == 0 {
					how = hidden
				}
				if shown[how]++; how == hidden {
					continue
				} else if how == bare {
					n.Cause.URI = ""
				}
				want = append(want, shownNotice{n.Cursor.Seq, n.Cause.URI})
			}
			if !slices.Equal(got, want) {
				t.Errorf("seed %d: %+v reads %d notices, want %d:\n%v\n%v", seed, by, len(got), len(want), got, want)
			}
		}
	}
	if shown[bare] < 100 || shown[whole] < 100 {
		t.Errorf("seed %d: shown %v, which shows little", seed, shown)
	}
}

func TestAFeedOfWhatCannotBeFollowedIsRefused(t *testing.T) {
	_, channels, s := followStore(t)
	for name, public := range map[string]bool{"open": true, "closed": false} {
		if _, _, err := channels.Put(t.Context(), name, Definition{Public: public}); err != nil {
			t.Fatal(err)
		}
	}
	status := func(want int) func(error) bool {
		return func(err error) bool {
			no := (*Refusal)(nil)
			return errors.As(err, &no) && no.Status == want
		}
	}
	fine := func(err error) bool { return err == nil }
	none := func(err error) bool { return errors.Is(err, ErrNoChannel) }
	malformed := func(err error) bool { f := (*FilterError)(nil); return errors.As(err, &f) }
	for _, c := range []struct {
		topic Topic
		who   string
		want  func(error) bool
	}{
		{Topic{Channel: "open"}, "", fine},
		{Topic{Channel: "open"}, "nobody", fine},
		{Topic{Channel: "closed"}, "admin", fine},
		{Topic{Channel: "closed"}, "a", fine},
		{Topic{Channel: "closed"}, "nobody", status(403)},
		{Topic{Channel: "closed"}, "", status(401)},
		{Topic{Channel: "gone"}, "", status(401)},
		{Topic{Channel: "gone"}, "nobody", none},
		{Topic{Channel: "gone"}, "admin", none},
		{Topic{Channel: "all"}, "admin", fine},
		{Topic{Channel: "all"}, "nobody", status(403)},
		{Topic{Channel: "all"}, "", status(401)},
		{Topic{Channel: "host:a.example"}, "a", fine},
		{Topic{URI: "https://a.example/"}, "a", fine},
		{Topic{URI: "https://b.example/"}, "a", status(403)},
		{Topic{URI: "https://a.example/"}, "", status(401)},
		{Topic{URI: "no URI"}, "a", malformed},
		{Topic{URI: "no URI"}, "", status(401)},
		{Topic{}, "admin", malformed},
		{Topic{Channel: "open", URI: "https://a.example/"}, "admin", malformed},
	} {
		if _, err := s.Feed(c.topic, someViewers[c.who]); !c.want(err) {
			t.Errorf("%q follows %+v: got %v", c.who, c.topic, err)
		}
	}
}

func TestWhoWatchesIsToldWhenTheJournalWasTrimmedUnread(t *testing.T) {
	j := newMemJournal()
	s := NewStreamer(j, StreamOptions{Portable: true})
	f, err := s.Feed(Topic{URI: "https://a.example/"}, Viewer{All: true})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	defer f.Watch(func() { told++ })()
	s.pump.restart(graph.Cursor{Epoch: j.epoch, Seq: 7})
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

// BenchmarkNoticeForNobody is what a notice costs that none of so many feeds wants.
func BenchmarkNoticeForNobody(b *testing.B) {
	for _, feeds := range []int{0, 10_000} {
		b.Run(fmt.Sprint(feeds), func(b *testing.B) {
			s := NewStreamer(newMemJournal(), StreamOptions{Portable: true})
			for i := range feeds {
				f, err := s.Feed(Topic{URI: fmt.Sprintf("https://a.example/%d", i)}, Viewer{All: true})
				if err != nil {
					b.Fatal(err)
				}
				defer f.Watch(func() { b.Error("told") })()
			}
			n := notice("https://a.example/wiki/A")
			for b.Loop() {
				s.pump.dispatch([]graph.Notice{n}, n.Cursor)
			}
		})
	}
}
