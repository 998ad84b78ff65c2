package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

func TestEachFileHasItsPartAndItsPageOrMany(t *testing.T) {
	for _, c := range []struct {
		name         string
		o            PeerOptions
		want         layout
		files, pages int
	}{
		{"all parts", PeerOptions{Updates: 10, Rate: 100, Files: 20, Dependents: 5},
			// 10 updates of 50 ms beside 100 a second are 50 files; 56 are shared by 8 requests.
			layout{idle: stretch{0, 10}, loaded: stretch{10, 20}, beside: stretch{20, 76}, away: stretch{76, 96}, ends: stretch{96, 98}, hot: 98, many: stretch{98, 103}}, 99, 103},
		{"no load", PeerOptions{Updates: 10, Rate: -1, Files: 20, Dependents: 5},
			layout{idle: stretch{0, 10}, away: stretch{10, 30}, ends: stretch{30, 32}, hot: 32, many: stretch{32, 37}}, 33, 37},
		{"nothing", PeerOptions{Updates: -1, Files: -1, Dependents: -1},
			layout{ends: stretch{0, 2}, hot: 2, many: stretch{2, 2}}, 2, 2},
	} {
		c.o.Hub, c.o.Peer = "http://a.test", "http://b.test"
		o, err := c.o.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		l := layoutOf(&o)
		for _, s := range []*stretch{&l.idle, &l.loaded, &l.beside, &l.away} {
			if s.count() == 0 {
				*s = stretch{}
			}
		}
		if l != c.want || l.files() != c.files || l.pages() != c.pages {
			t.Errorf("%s: got %+v with %d files and %d pages, want %+v with %d and %d", c.name, l, l.files(), l.pages(), c.want, c.files, c.pages)
		}
		for page := range l.pages() {
			if got, want := l.fileOf(page), min(page, c.want.hot); got != want || got >= l.files() {
				t.Errorf("%s: page %d is made from file %d, want %d", c.name, page, got, want)
			}
		}
	}
}

func TestOptionsOfPeersThatMakeNoSenseAreRefused(t *testing.T) {
	for name, change := range map[string]func(o *PeerOptions){
		"no peer":          func(o *PeerOptions) { o.Peer = "" },
		"TLS":              func(o *PeerOptions) { o.Hub = "https://a.test" },
		"a path":           func(o *PeerOptions) { o.Hub = "http://a.test/hub" },
		"many files":       func(o *PeerOptions) { o.Files = maxPeerFiles + 1 },
		"many updates":     func(o *PeerOptions) { o.Updates = maxPeerFiles + 1 },
		"many dependents":  func(o *PeerOptions) { o.Dependents = maxDependents + 1 },
		"a fast rate":      func(o *PeerOptions) { o.Rate = maxRate + 1 },
		"no patience":      func(o *PeerOptions) { o.Patience = -1 },
		"no valid address": func(o *PeerOptions) { o.Peer = "http://[" },
	} {
		o := PeerOptions{Hub: "http://a.test", Peer: "http://b.test"}
		if err := o.Check(); err != nil {
			t.Fatal(err)
		}
		if change(&o); o.Check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// refreshFrame is a notice of a page of host h.
func refreshFrame(seq int, page string) string {
	return fmt.Sprintf("id: e.%d\nevent: refresh\ndata: {\"seq\":%d,\"kind\":\"refresh\",\"uri\":%q,\"cause\":{\"uri\":\"http://files.test/1\"}}\n\n", seq, seq, page)
}

// A refreshServer answers the n-th request for a stream with the n-th of some bodies, and
// refuses those that follow. After the last body it says nothing more, unless it is brief.
type refreshServer struct {
	brief bool

	mu     sync.Mutex
	bodies []string
	asked  []string // positions
	query  string
}

func (s *refreshServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/token" {
		fmt.Fprint(w, `{"token":"e.5"}`)
		return
	}
	s.mu.Lock()
	s.asked, s.query = append(s.asked, r.Header.Get("Last-Event-ID")), r.URL.RawQuery
	body, left := "", len(s.bodies)
	if left > 0 {
		body, s.bodies = s.bodies[0], s.bodies[1:]
	}
	s.mu.Unlock()
	if left == 0 {
		http.Error(w, "no more", http.StatusTooManyRequests)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, "retry: 1\n\n", body)
	http.NewResponseController(w).Flush()
	if left == 1 && !s.brief {
		<-r.Context().Done()
	}
}

// listening reads the stream of a server from its beginning.
func listening(t *testing.T, s *refreshServer, pages int) (e *refreshes, listen func() (stop func() error)) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	hub, err := client.New(server.URL, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e = newRefreshes(server.URL, "", "h", pages)
	if err := e.begin(t.Context(), hub); err != nil {
		t.Fatal(err)
	}
	return e, func() func() error {
		t.Helper()
		stop, err := e.listen(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stop() })
		return stop
	}
}

func arrives(t *testing.T, w *lookout) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(10 * time.Second):
		t.Fatal("not all pages are heard of")
	}
}

func TestRefreshesAreCountedOverConnectionsAndPauses(t *testing.T) {
	s := &refreshServer{bodies: []string{
		refreshFrame(6, "http://h/0") + refreshFrame(7, "http://h/1") + "id: e.9\n\n",
		refreshFrame(10, "http://h/2") + refreshFrame(11, "http://h/1") + refreshFrame(12, "http://h/9") + refreshFrame(13, "http://hh/3") +
			strings.ReplaceAll(refreshFrame(14, "http://h/3"), `"refresh"`, `"changed"`) + refreshFrame(15, "http://h/4"),
		refreshFrame(16, "http://h/3"),
	}}
	e, listen := listening(t, s, 5)
	w := e.watch(stretch{1, 5})
	stop := listen()
	arrives(t, w) // with the third connection
	if missing, first, last := e.sofar(w); missing != 0 || first.IsZero() || last.Before(first) {
		t.Errorf("of pages that came it says that %d are missing, from %v to %v", missing, first, last)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Errorf("stopped again: %v", err)
	}
	told, strangers := e.tally()
	if want := []uint8{1, 2, 1, 1, 1}; !slices.Equal(told, want) || strangers != 3 {
		t.Errorf("got %v and %d strangers, want %v and 3", told, strangers, want)
	}
	s.mu.Lock()
	s.bodies = []string{refreshFrame(17, "http://h/0")}
	s.mu.Unlock()
	if err := listen()(); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := []string{"e.5", "e.9", "e.15", "e.16"}; !slices.Equal(s.asked, want) || s.query != "host=h&kind=refresh" {
		t.Errorf("asked after %v with %q, want after %v", s.asked, s.query, want)
	}
}

func TestAStreamThatCannotGoOnIsAFault(t *testing.T) {
	refused := new(refusedError)
	for _, c := range []struct {
		name string
		body string
		is   func(error) bool
	}{
		{"it was reset", "id: e.30\nevent: reset\ndata: {}\n\n", func(err error) bool { return errors.Is(err, errStreamReset) }},
		{"it makes no sense", "what: is that\n\n", func(err error) bool { return errors.Is(err, errMalformed) }},
		{"it is refused when it ended", "id: e.6\n\n", func(err error) bool { return errors.As(err, &refused) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, listen := listening(t, &refreshServer{bodies: []string{c.body}, brief: true}, 1)
			stop := listen()
			r := &peersRun{o: PeerOptions{Patience: time.Minute}, refreshes: e}
			if heard, err := r.await(t.Context(), e.watch(stretch{0, 1})); heard || !c.is(err) {
				t.Errorf("who waits gets %v, %v", heard, err)
			}
			if err := stop(); !c.is(err) {
				t.Errorf("in the end it says %v", err)
			}
		})
	}
	e, _ := listening(t, &refreshServer{}, 1)
	if stop, err := e.listen(t.Context()); stop != nil || !errors.As(err, &refused) {
		t.Errorf("of a stream that is refused at first it says %v", err)
	}
}

func TestPagesAreToldOnceOfAllChangesOfTheirFile(t *testing.T) {
	for _, c := range []struct {
		name  string
		told  []uint8 // two of files of their own, two of one
		edits []int   // of the files
		want  PeersReport
	}{
		{"nothing", []uint8{0, 0, 0, 0}, []int{0, 0, 0}, PeersReport{}},
		{"all", []uint8{1, 0, 1, 1}, []int{1, 0, 3}, PeersReport{}},
		{"one is forgotten", []uint8{1, 0, 0, 1}, []int{1, 0, 1}, PeersReport{Untold: 1}},
		{"one is told twice", []uint8{2, 0, 1, 1}, []int{2, 0, 1}, PeersReport{Repeated: 1}},
		{"two are told for nothing", []uint8{1, 1, 2, 0}, []int{1, 0, 0}, PeersReport{Needless: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &peersRun{layout: layout{hot: 2, many: stretch{2, 4}}, host: "h", refreshes: newRefreshes("http://b.test", "", "h", 4)}
			copy(r.refreshes.told, c.told)
			for _, n := range c.edits {
				r.versions = append(r.versions, firstVersion+n)
			}
			r.judgeNotices()
			got := r.report
			if got.Untold != c.want.Untold || got.Repeated != c.want.Repeated || got.Needless != c.want.Needless {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			checkVerdict(t, &got, c.want.Untold+c.want.Repeated+c.want.Needless == 0)
			r.refreshes.strangers = 1
			r.judgeNotices()
			checkVerdict(t, &r.report, false)
		})
	}
	checkVerdict(t, &PeersReport{Edit: PeersEdit{Dependents: 9, Crossed: 1}}, true)
	checkVerdict(t, &PeersReport{Edit: PeersEdit{Dependents: 9, Crossed: 2}}, false)
	checkVerdict(t, &PeersReport{Edit: PeersEdit{Dependents: 9}}, false)
}

func checkVerdict(t *testing.T, r *PeersReport, sound bool) {
	t.Helper()
	if err := r.Err(); sound != (err == nil) || !sound && !errors.Is(err, ErrInexact) {
		t.Errorf("of %+v it says %v", r, err)
	}
}

func TestWhoMakesNoProgressIsNotWaitedForAndWhoDoesIs(t *testing.T) {
	r := &peersRun{o: PeerOptions{Patience: 50 * time.Millisecond}}
	began, n := time.Now(), 0
	good, err := r.until(t.Context(), time.Millisecond, func() (bool, int, error) {
		n++
		return time.Since(began) > 3*r.o.Patience, n, nil
	})
	if !good || err != nil {
		t.Errorf("of what made progress it says %v, %v", good, err)
	}
	if good, err = r.until(t.Context(), time.Millisecond, func() (bool, int, error) { return false, 7, nil }); good || err != nil {
		t.Errorf("of what stands still it says %v, %v", good, err)
	}
	fault := errors.New("fault")
	if good, err = r.until(t.Context(), time.Millisecond, func() (bool, int, error) { return true, 0, fault }); good || err != fault {
		t.Errorf("of a fault it says %v, %v", good, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if good, err = r.until(ctx, time.Millisecond, func() (bool, int, error) { return false, 0, nil }); good || !errors.Is(err, context.Canceled) {
		t.Errorf("when it is ended it says %v, %v", good, err)
	}
}
