package subscriptions

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// An era is what a channel is for all notices after a position; nil is nothing.
type era struct {
	from   uint64
	what   *Filter
	public bool
}

// history is what became of a channel, oldest first.
type history []era

// at returns the last era that began before n.
func (h history) at(n graph.Notice) era {
	for _, e := range slices.Backward(h) {
		if e.from < n.Cursor.Seq {
			return e
		}
	}
	return era{}
}

// passes judges n by what the channel was then.
func (h history) passes(n graph.Notice) bool {
	e := h.at(n)
	return e.what != nil && (len(e.what.URI)+len(e.what.Prefix) > 0 || e.what.URI == nil) && matches(*e.what, n)
}

// somePages are what edit changes.
func somePages() (uris []string) {
	for i := range 20 {
		for _, host := range someHosts {
			uris = append(uris, fmt.Sprintf("https://%s/wiki/P%d#html", host, i))
		}
	}
	for i := range 3 {
		uris = append(uris, fmt.Sprintf("https://a.example/wiki/Template:T%d", i))
	}
	return uris
}

// change does something to a channel and tells what it is then.
func change(t *testing.T, channels *Channels, name string, now *Filter, public bool, random *rand.Rand) era {
	uris := somePages()
	random.Shuffle(len(uris), func(i, j int) { uris[i], uris[j] = uris[j], uris[i] })
	if now == nil || random.IntN(6) == 0 {
		f := randomFilter(random)
		f.Host, f.Bucket, f.Type = nil, nil, nil
		if random.IntN(3) > 0 {
			f.URI = uris[:random.IntN(20)]
		}
		info, _, err := channels.Put(t.Context(), name, Definition{Filter: f, Public: public})
		if err != nil {
			t.Errorf("Put(%s, %+v): %v", name, f, err)
		}
		return era{info.At.Seq, &f, public}
	}
	if now.URI == nil {
		return era{}
	}
	add, remove := uris[:random.IntN(10)], uris[10:10+random.IntN(10)]
	res, err := channels.Edit(t.Context(), name, add, remove)
	if err != nil {
		t.Errorf("Edit(%s): %v", name, err)
	}
	f := *now
	f.URI = slices.Concat(slices.DeleteFunc(slices.Clone(f.URI), func(u string) bool {
		return slices.Contains(remove, u) || slices.Contains(add, u)
	}), add)
	if f.URI == nil {
		f.URI = []string{} // a list that is empty is not no list
	}
	if added := len(f.URI) - len(now.URI); added != res.Added-res.Removed {
		t.Errorf("Edit(%s) tells %d added and %d removed, want %d more", name, res.Added, res.Removed, added)
	}
	return era{res.At.Seq, &f, public}
}

func TestAChannelIsJudgedByWhatItWasAtEachPosition(t *testing.T) { transports(t, judgesByPosition) }

func judgesByPosition(t *testing.T, o StreamOptions) {
	seed := rand.Uint64()
	store := openStore(t, time.Now)
	channels, err := OpenChannels(store)
	if err != nil {
		t.Fatal(err)
	}
	o.MaxAge, o.Channels = 300*time.Millisecond, channels
	s := serveTCP(t, store, o)
	from := store.Token()
	names := []string{"one", "two", "three"}
	histories := make([]history, len(names))
	random := rand.New(rand.NewPCG(seed, 1))
	for i, name := range names {
		histories[i] = history{change(t, channels, name, nil, false, random)}
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		edit(t, store, 1000, 1400, rand.New(rand.NewPCG(seed, 0)))
	}()
	end := func() string {
		select {
		case <-written:
			return store.Token().String()
		default:
			return ""
		}
	}
	var wg sync.WaitGroup
	got := make([][]uint64, 4*len(names))
	for i := range got {
		query := url.Values{"channel": {names[i%len(names)]}}
		wg.Go(func() {
			got[i] = readToTheEnd(t, s, query, from, end, 50*time.Millisecond, rand.New(rand.NewPCG(seed, uint64(2+i))))
		})
	}
	for end() == "" {
		i := random.IntN(len(names))
		if e := change(t, channels, names[i], histories[i][len(histories[i])-1].what, false, random); e.what != nil {
			histories[i] = append(histories[i], e)
		}
	}
	wg.Wait()
	checkHistories(t, seed, readAll(t, store), histories, got)

	// The same for who comes later, and after a restart.
	again, err := OpenChannels(store)
	if err != nil {
		t.Fatal(err)
	}
	o.Channels = again
	s = serveTCP(t, store, o)
	for i := range got {
		query := url.Values{"channel": {names[i%len(names)]}}
		got[i] = readToTheEnd(t, s, query, from, end, time.Millisecond, random)
	}
	checkHistories(t, seed, readAll(t, store), histories, got)
}

func checkHistories(t *testing.T, seed uint64, all []graph.Notice, histories []history, got [][]uint64) {
	t.Helper()
	passed := 0
	for i, g := range got {
		var want []uint64
		for _, n := range all {
			if histories[i%len(histories)].passes(n) {
				want = append(want, n.Cursor.Seq)
			}
		}
		passed += len(want)
		if slices.Equal(g, want) {
			continue
		}
		k := 0
		for k < min(len(g), len(want)) && g[k] == want[k] {
			k++
		}
		t.Errorf("seed %d, reader %d: got %d notices, want %d; they differ from %v and %v on", seed, i, len(g), len(want), g[k:min(k+5, len(g))], want[k:min(k+5, len(want))])
		for _, e := range slices.Backward(histories[i%len(histories)]) {
			if k < len(want) && e.from < want[k] {
				t.Logf("there it is %+v from %d", *e.what, e.from)
				break
			}
		}
	}
	if passed == 0 {
		t.Errorf("seed %d: nothing passed", seed)
	}
}

func TestADeletedChannelEndsItsStreams(t *testing.T) {
	transports(t, func(t *testing.T, o StreamOptions) {
		store := openStore(t, time.Now)
		channels, err := OpenChannels(store)
		if err != nil {
			t.Fatal(err)
		}
		o.Channels = channels
		s := serveTCP(t, store, o)
		if _, created, err := channels.Put(t.Context(), "files", Definition{}); err != nil || !created {
			t.Fatalf("Put: created %t, %v", created, err)
		}
		r := s.open(t, "channel=files")
		edit(t, store, 1000, 1001, rand.New(rand.NewPCG(1, 1)))
		if e, ok := r.next(); !ok || e.kind != "changed" {
			t.Fatalf("got %s %s", e.kind, e.data)
		}
		if _, err := channels.Delete(t.Context(), "files"); err != nil {
			t.Fatal(err)
		}
		for ok := true; ok; _, ok = r.next() {
		}
		resp := s.do(t, "GET", "channel=files", "")
		resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("after its end the channel answers %s", resp.Status)
		}
		for deadline := time.Now().Add(5 * time.Second); s.Stats().Ended["deleted"] != 1; {
			if time.Now().After(deadline) {
				t.Fatalf("streams ended %v, want one because its channel was deleted", s.Stats().Ended)
			}
		}
		if _, _, err := channels.Put(t.Context(), "files", Definition{Filter: Filter{Type: []string{"none"}}}); err != nil {
			t.Fatal(err)
		}
		r = s.open(t, "channel=files&since="+store.Oldest().String())
		edit(t, store, 1001, 1002, rand.New(rand.NewPCG(1, 1)))
		if _, err := channels.Delete(t.Context(), "files"); err != nil {
			t.Fatal(err)
		}
		if e, ok := r.next(); ok {
			t.Errorf("a channel made anew lets through %s, which was written before or does not fit", e.data)
		}
	})
}

func TestChannelsThatCannotBeMadeAreRefused(t *testing.T) {
	store := openStore(t, time.Now)
	channels, err := OpenChannels(store)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, f Filter) error {
		_, _, err := channels.Put(t.Context(), name, Definition{Filter: f})
		return err
	}
	if err := put("plain", Filter{}); err != nil {
		t.Fatal(err)
	}
	editList := func(name string) error {
		_, err := channels.Edit(t.Context(), name, []string{"https://a.example/"}, nil)
		return err
	}
	remove := func(name string) error { _, err := channels.Delete(t.Context(), name); return err }
	for _, c := range []struct {
		name string
		got  error
		want error // nil: any
	}{
		{"a built-in channel is not replaced", put("all", Filter{}), ErrBuiltIn},
		{"nor edited", editList("host:a.example"), ErrBuiltIn},
		{"nor deleted", remove("type:html"), ErrBuiltIn},
		{"a name with a colon", put("host:x", Filter{}), nil},
		{"a name that is too long", put(strings.Repeat("x", maxChannelName+1), Filter{}), nil},
		{"a name with capitals", put("Files", Filter{}), nil},
		{"no name", put("", Filter{}), nil},
		{"a bad URI", put("x", Filter{URI: []string{"berlin"}}), nil},
		{"a channel without a list", editList("plain"), ErrNotListed},
		{"a channel that is not there", editList("gone"), ErrNoChannel},
		{"the same deleted", remove("gone"), ErrNoChannel},
	} {
		if c.got == nil || c.want != nil && !errors.Is(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
	for i := range maxVersions - 1 {
		edit := []graph.Update{{URI: "https://a.example/", Version: fmt.Sprint(i + 2)}}
		if _, err := store.Apply(t.Context(), "test", edit); err != nil {
			t.Fatal(err)
		}
		if err := put("plain", Filter{}); err != nil {
			t.Fatalf("replaced %d times: %v", i+1, err)
		}
	}
	if err := put("plain", Filter{}); !errors.Is(err, ErrTooManyVersions) {
		t.Errorf("replaced too often: got %v", err)
	}
	if list, _, err := channels.List("", 10, nil); err != nil || len(list) != 1 || list[0].Name != "plain" {
		t.Errorf("channels %+v %v, want the plain one alone", list, err)
	}
}
