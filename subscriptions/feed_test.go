package subscriptions

import (
	"errors"
	"fmt"
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
