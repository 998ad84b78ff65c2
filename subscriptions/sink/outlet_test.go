package sink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a journal that is written and read.
type world struct {
	t       testing.TB
	store   *graph.Store
	streams *subscriptions.Streamer
	clock   func() time.Time
}

// newWorld runs a store in memory and its streams until the test ends.
func newWorld(t testing.TB, clock func() time.Time) *world {
	t.Helper()
	store, err := graph.Open("store", graph.Options{FS: vfs.NewMem(), Cache: 8 << 20, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	streams := subscriptions.NewStreamer(store, subscriptions.StreamOptions{Portable: true})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- store.Run(ctx) }()
	go func() { done <- streams.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done, store.Close()); err != nil {
			t.Error(err)
		}
	})
	return &world{t, store, streams, clock}
}

// apply changes resources in one batch, and returns when all can be read.
func (w *world) apply(updates ...graph.Update) {
	w.t.Helper()
	res, err := w.store.Apply(w.t.Context(), "test", updates)
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := subscriptions.Compile(subscriptions.Filter{})
	if err != nil {
		w.t.Fatal(err)
	}
	feed, news := w.streams.FilterFeed(m), make(chan struct{}, 1)
	defer feed.Watch(func() {
		select {
		case news <- struct{}{}:
		default:
		}
	})()
	for feed.Head().Seq < res.Cursor.Seq {
		<-news
	}
}

// outlet is one target of a sink over the journal of w.
func (w *world) outlet(s *Sink, target string) *outlet {
	w.t.Helper()
	m, err := subscriptions.Compile(s.filter)
	if err != nil {
		w.t.Fatal(err)
	}
	return &outlet{sink: s, target: target, feed: w.streams.FilterFeed(m), now: w.clock, rate: 1, news: func() {}, stop: func() {}}
}

// cut returns the next pieces in both lanes after a position, and where they end.
func cut(t testing.TB, o *outlet, lane graph.Lane, after uint64, room int) delivery.Cut {
	t.Helper()
	c, err := o.Cut(t.Context(), lane, after, room)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func keysOf(c delivery.Cut) (keys []string) {
	for _, p := range c.Pieces {
		keys = append(keys, p.Key)
	}
	return keys
}

func rendering(page, variant, hash string) graph.Update {
	return graph.Update{URI: page + "#html/" + variant, Type: "html", Hash: hash, Buckets: []string{page}}
}

func TestVariantsOfAPageAreOnePurge(t *testing.T) {
	w := newWorld(t, time.Now)
	const page = "https://e.example/wiki/A"
	for i := range 40 {
		w.apply(rendering(page, fmt.Sprint(i), "1"))
	}
	w.apply(rendering("https://e.example/wiki/B", "0", "1"), graph.Update{URI: page, Type: "content", Version: "7"})
	byKey := w.outlet(one(t, `{name: a, match: {type: html}, xkey: {caches: "http://c.example"}}`), "c.example")
	got := cut(t, byKey, graph.Prompt, 0, 100)
	if keys := keysOf(got); !slices.Equal(keys, []string{page, "https://e.example/wiki/B"}) || got.More || got.Until < 41 {
		t.Errorf("40 variants of a page and one of another are %q up to %d", keys, got.Until)
	}
	if got.Merged != 39 {
		t.Errorf("%d notices are merged", got.Merged)
	}
	if p := got.Pieces[0]; p.After != 0 || p.Until != 40 || p.Bucket != page {
		t.Errorf("the purge stands for (%d, %d] and bucket %q", p.After, p.Until, p.Bucket)
	}
	byURL := w.outlet(one(t, `{name: a, match: {type: html}, purge: {}}`), "")
	if keys := keysOf(cut(t, byURL, graph.Prompt, 0, 100)); !slices.Equal(keys, []string{page, "https://e.example/wiki/B"}) {
		t.Errorf("by URL they are %q", keys)
	}
	each := w.outlet(one(t, `{name: a, match: {type: html}, http: {url: "https://s.example/{aspect}"}}`), "")
	if n := len(cut(t, each, graph.Prompt, 0, 100).Pieces); n != 41 {
		t.Errorf("requests that differ are %d", n)
	}
}

func TestACutHasAsManyPiecesAsThereIsRoomForAndWholeNotices(t *testing.T) {
	w := newWorld(t, time.Now)
	for i := range 10 {
		page := fmt.Sprintf("https://e.example/wiki/%d", i)
		w.apply(graph.Update{URI: page, Type: "html", Hash: "1", Buckets: []string{page, "b", "c" + fmt.Sprint(i)}})
	}
	o := w.outlet(one(t, `{name: a, xkey: {caches: "http://c.example"}}`), "c.example")
	got := cut(t, o, graph.Prompt, 0, 5)
	if want := []string{"https://e.example/wiki/0", "b", "c0", "https://e.example/wiki/1", "c1"}; !slices.Equal(keysOf(got), want) || got.Until != 2 || !got.More {
		t.Errorf("with room for 5: %q up to %d, more %v; want %q", keysOf(got), got.Until, got.More, want)
	}
	if got := cut(t, o, graph.Prompt, got.Until, 1); len(got.Pieces) != 3 || got.Until != 3 {
		t.Errorf("a notice with more buckets than there is room for: %q up to %d", keysOf(got), got.Until)
	}
	if got := cut(t, o, graph.Bulk, 0, 5); len(got.Pieces) != 0 || got.Until != 10 || got.More {
		t.Errorf("nothing in the bulk lane: %q up to %d", keysOf(got), got.Until)
	}
}

// TestOfAllThatMatchesNothingIsLostHoweverItIsCut holds cuts of random sizes against
// the rules: of each key the last notice is sent, and the positions reach the head.
func TestOfAllThatMatchesNothingIsLostHoweverItIsCut(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, time.Now)
	for version := range 60 {
		var updates []graph.Update
		for range 1 + random.IntN(20) {
			page := fmt.Sprintf("https://%s.example/wiki/%d", []string{"e", "f"}[random.IntN(2)], random.IntN(60))
			updates = append(updates, graph.Update{URI: page + []string{"", "#html"}[random.IntN(2)], Type: []string{"html", "content"}[random.IntN(2)],
				Hash: fmt.Sprint(version, random.Uint32()), Buckets: []string{page, fmt.Sprintf("b%d", random.IntN(5))}})
		}
		w.apply(updates...)
	}
	all, err := w.streams.FilterFeed(mustCompile(t)).Read(0, graph.Cursor{Epoch: w.store.Token().Epoch}, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, rules := range []string{
		`xkey: {caches: "http://c.example"}`,
		`match: {type: html}, purge: {caches: "http://c.example"}`,
		`match: {host: f.example, bucket: "^b"}, xkey: {caches: "http://c.example"}`,
		`match_not: {uri: "^https://e.example/wiki/1"}, cases: [{match: {type: html}, purge: {caches: "http://c.example"}}, {xkey: {caches: "http://c.example"}}]`,
	} {
		s := one(t, "{name: a, "+rules+"}")
		want := map[string]uint64{}
		for i := range all.Notices {
			for _, subject := range s.decide(&all.Notices[i]).subjects {
				want[s.decide(&all.Notices[i]).branch.key(subject)] = all.Notices[i].Cursor.Seq
			}
		}
		o, got, sent := w.outlet(s, "c.example"), map[string]uint64{}, 0
		for after, more := uint64(0), true; more; {
			c := cut(t, o, graph.Prompt, after, 1+random.IntN(6))
			for _, p := range c.Pieces {
				if p.Until <= got[p.Key] || p.Until > c.Until || p.After < after {
					t.Errorf("seed %d: piece %+v of a cut (%d, %d]", seed, p, after, c.Until)
				}
				got[p.Key], sent = p.Until, sent+1
			}
			if c.More && c.Until == after {
				t.Fatalf("seed %d: a cut after %d moves nowhere", seed, after)
			}
			after, more = c.Until, c.More
			if !more && after != all.Next.Seq {
				t.Errorf("seed %d: cuts end at %d, the journal at %d", seed, after, all.Next.Seq)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || len(want) == 0 {
			t.Errorf("seed %d: %s sends\n%v, want\n%v", seed, rules, got, want)
		}
	}
}

func mustCompile(t testing.TB) *subscriptions.Matcher {
	t.Helper()
	m, err := subscriptions.Compile(subscriptions.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWhatLingersIsSentWhenItIsDueWithAllThatCameMeanwhile(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, time.Now)
		o := w.outlet(one(t, `{name: a, linger: 2s, match: {type: html}, xkey: {caches: "http://c.example"}}`), "c.example")
		told := make(chan struct{}, 10)
		o.news = func() { told <- struct{}{} }
		defer o.close()
		began := time.Now()
		w.apply(rendering("https://e.example/A", "0", "1"))
		if c := cut(t, o, graph.Prompt, 0, 10); len(c.Pieces) != 0 || c.More || c.Until != 0 {
			t.Errorf("at once: %+v", c)
		}
		time.Sleep(time.Second)
		w.apply(rendering("https://e.example/A", "1", "1"))
		cut(t, o, graph.Prompt, 0, 10)
		<-told
		if waited := time.Since(began); waited < 2*time.Second || waited > 2*time.Second+100*time.Millisecond {
			t.Errorf("it is due after %s", waited)
		}
		if c := cut(t, o, graph.Prompt, 0, 10); len(c.Pieces) != 1 || c.Until != 1 {
			t.Errorf("when it is due: %+v", c)
		}
		<-told
		if c := cut(t, o, graph.Prompt, 1, 10); len(c.Pieces) != 1 || c.Until != 2 {
			t.Errorf("and the next: %+v", c)
		}
	})
}

func TestWhatIsTooOldIsLeftOutAndCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, time.Now)
		o := w.outlet(one(t, `{name: a, max_age: 1h, match: {type: html}, purge: {}}`), "")
		w.apply(rendering("https://e.example/A", "0", "1"))
		w.apply(rendering("https://e.example/B", "0", "1"))
		early := cut(t, o, graph.Prompt, 0, 1)
		time.Sleep(time.Hour + time.Second)
		w.apply(rendering("https://e.example/C", "0", "1"))
		late := cut(t, o, graph.Prompt, early.Until, 10)
		if len(early.Pieces) != 1 || !slices.Equal(keysOf(late), []string{"https://e.example/C"}) || late.Skipped != 1 {
			t.Errorf("early %q, late %q, left out %d", keysOf(early), keysOf(late), late.Skipped)
		}
		// What waits to be tried again becomes too old as well.
		_, err := o.Request(t.Context(), &early.Pieces[0], 3)
		if v := o.Judge(&early.Pieces[0], delivery.Answer{Err: err}); err == nil || v != delivery.Ignored {
			t.Errorf("a retry of an hour later: %v, %v", err, v)
		}
	})
}

// send makes the request of the first piece of a cut.
func send(t *testing.T, o *outlet, p *delivery.Piece) (*http.Request, delivery.Verdict) {
	t.Helper()
	r, err := o.Request(t.Context(), p, 1)
	if err != nil {
		return nil, o.Judge(p, delivery.Answer{Err: err})
	}
	return r, 0
}

// A recorder keeps what would go over the wire.
type recorder struct{ got *http.Request }

func (c *recorder) Do(r *http.Request) (*http.Response, error) {
	c.got = r
	return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
}

// sent is send up to the wire, where the secrets are added.
func sent(t *testing.T, o *outlet, p *delivery.Piece) (*http.Request, delivery.Verdict) {
	t.Helper()
	r, v := send(t, o, p)
	if r == nil {
		return nil, v
	}
	wire := new(recorder)
	if _, err := (confidant{wire}).Do(r); err != nil {
		return nil, o.Judge(p, delivery.Answer{Err: err})
	}
	if r.Header.Get("Authorization") != "" {
		t.Error("the engine sees a secret")
	}
	return wire.got, 0
}

func TestAnAttemptIsMadeByTheRulesAndSecretsOfThen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	w := newWorld(t, time.Now)
	rules := func(url string) *Sink {
		return one(t, `{name: a, match: {type: html, uri: '^https://[^/]+/wiki/(?P<title>.+)$'}, http: {url: "`+url+`", headers: {Authorization: "Bearer {file:`+file+`}"}}}`)
	}
	o := w.outlet(rules("https://wrong.example/{title}"), "")
	w.apply(rendering("https://e.example/wiki/Caf%C3%A9", "0", "1"))
	p := cut(t, o, graph.Prompt, 0, 1).Pieces[0]
	if strings.Contains(string(p.Data), "first") {
		t.Errorf("what waits holds a secret: %s", p.Data)
	}
	if r, _ := sent(t, o, &p); r.URL.String() != "https://wrong.example/Caf%C3%A9" || r.Header.Get("Authorization") != "Bearer first" {
		t.Errorf("sent to %s with %v", r.URL, r.Header)
	}
	write("second\n")
	o = w.outlet(rules("https://right.example/page/{title}"), "")
	if r, _ := sent(t, o, &p); r.URL.String() != "https://right.example/page/Caf%C3%A9" || r.Header.Get("Authorization") != "Bearer second" {
		t.Errorf("after a reload sent to %s with %v", r.URL, r.Header)
	}
	write("")
	if _, v := sent(t, o, &p); v != delivery.Again {
		t.Errorf("without its secret: %v, want to be tried again", v)
	}
	o = w.outlet(one(t, `{name: a, match: {type: mobile}, http: {url: "https://right.example/"}}`), "")
	if _, v := send(t, o, &p); v != delivery.Ignored {
		t.Errorf("what no rule matches any more: %v", v)
	}
}

func TestAPieceKeepsWhatItsRequestNames(t *testing.T) {
	w := newWorld(t, time.Now)
	var many []string
	for i := range graph.MaxBuckets {
		many = append(many, fmt.Sprintf("https://e.example/%d/%s", i, strings.Repeat("x", 1000)))
	}
	w.apply(graph.Update{URI: "https://e.example/a", Type: "html", Hash: "h", Buckets: many}, graph.Update{URI: "https://e.example/b", Type: "html", Version: "7", Hash: "h", Buckets: []string{"b1", "b2"}})
	byKey := w.outlet(one(t, `{name: a, xkey: {caches: "http://c.example"}}`), "c.example")
	if c := cut(t, byKey, graph.Prompt, 0, 1000); len(c.Pieces) != graph.MaxBuckets+2 || len(c.Pieces[3].Data) > 3000 {
		t.Errorf("%d pieces, %d bytes each", len(c.Pieces), len(c.Pieces[3].Data))
	} else if r, _ := send(t, byKey, &c.Pieces[3]); r.Header.Get("xkey-purge") != many[3] || r.Host != "e.example" || r.URL.String() != "http://c.example/" {
		t.Errorf("it is sent as %s of %s %v", r.URL, r.Host, r.Header)
	}
	whole := w.outlet(one(t, `{name: a, http: {url: "https://s.example/", json: "{notice}"}}`), "")
	c := cut(t, whole, graph.Prompt, 0, 1000)
	if _, v := send(t, whole, &c.Pieces[0]); v != delivery.Refused || len(c.Pieces[0].Data) > delivery.MaxData {
		t.Errorf("a notice of 64 KB: %v, keeps %d bytes", v, len(c.Pieces[0].Data))
	}
	r, _ := send(t, whole, &c.Pieces[1])
	body := make([]byte, 1000)
	n, _ := r.Body.Read(body)
	feed, err := w.streams.FilterFeed(mustCompile(t)).Read(0, graph.Cursor{Epoch: w.store.Token().Epoch}, 10)
	if err != nil {
		t.Fatal(err)
	}
	if want := string(subscriptions.AppendNotice(nil, &feed.Notices[1])); string(body[:n]) != want {
		t.Errorf("the notice arrives as\n%s, want\n%s", body[:n], want)
	}
}

func TestWhatAnAnswerMeans(t *testing.T) {
	cdn := one(t, `{name: a, purge: {}}`)
	own := one(t, `{name: a, http: {url: "{url}"}, retry_on: [409, 5xx], ignore: [3xx, 410]}`)
	for _, tt := range []struct {
		s      *Sink
		status int
		want   delivery.Verdict
	}{
		{cdn, 200, delivery.Done}, {cdn, 204, delivery.Done}, {cdn, 404, delivery.Ignored}, {cdn, 301, delivery.Refused},
		{cdn, 403, delivery.Refused}, {cdn, 405, delivery.Refused}, {cdn, 410, delivery.Refused}, {cdn, 408, delivery.Again},
		{cdn, 429, delivery.Again}, {cdn, 500, delivery.Again}, {cdn, 503, delivery.Again}, {cdn, 999, delivery.Refused},
		{own, 200, delivery.Done}, {own, 302, delivery.Ignored}, {own, 404, delivery.Refused}, {own, 409, delivery.Again},
		{own, 410, delivery.Ignored}, {own, 429, delivery.Refused}, {own, 502, delivery.Again},
	} {
		if got := (&outlet{sink: tt.s}).Judge(nil, delivery.Answer{Status: tt.status}); got != tt.want {
			t.Errorf("%d of %s: %v, want %v", tt.status, tt.s.Summary(), got, tt.want)
		}
	}
	if got := (&outlet{sink: cdn}).Judge(nil, delivery.Answer{Err: errors.New("no connection")}); got != delivery.Again {
		t.Errorf("no answer: %v", got)
	}
}

func BenchmarkCut(b *testing.B) {
	w := newWorld(b, time.Now)
	const pages, variants = 1000, 4
	for i := range pages {
		var updates []graph.Update
		for v := range variants {
			updates = append(updates, rendering(fmt.Sprintf("https://e.example/wiki/%d", i), fmt.Sprint(v), "1"))
		}
		w.apply(updates...)
	}
	for name, rules := range map[string]string{"xkey": `xkey: {caches: "http://c.example"}`, "purge": `purge: {caches: "http://c.example"}`,
		"pattern": `match: {uri: '^https://(?P<h>[^/]+)/wiki/(?P<t>.+)$'}, http: {url: "https://s.example/{h}/{t}"}`} {
		o := w.outlet(one(b, "{name: a, "+rules+"}"), map[bool]string{true: "", false: "c.example"}[name == "pattern"])
		b.Run("sink="+name, func(b *testing.B) {
			b.ReportAllocs()
			notices := 0
			for b.Loop() {
				for after, more := uint64(0), true; more; {
					c := cut(b, o, graph.Prompt, after, 64)
					after, more = c.Until, c.More
				}
				notices += pages * variants
			}
			b.ReportMetric(float64(notices)/b.Elapsed().Seconds(), "notices/s")
		})
	}
}

func BenchmarkRequest(b *testing.B) {
	w := newWorld(b, time.Now)
	w.apply(rendering("https://e.example/wiki/Berlin", "0", "1"))
	o := w.outlet(one(b, `{name: a, match: {uri: '^https://(?P<h>[^/]+)/wiki/(?P<t>.+)$'}, http: {url: "https://s.example/{h}/{t}", json: {uri: "{uri}", hash: "{hash}"}}}`), "")
	p := cut(b, o, graph.Prompt, 0, 1).Pieces[0]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := o.Request(b.Context(), &p, 1); err != nil {
			b.Fatal(err)
		}
	}
}
