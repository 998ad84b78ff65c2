package subscriptions

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/graph"
)

// openStore runs a store in memory until the test ends. Its tail is so small
// that readers who come back read from the store.
func openStore(t testing.TB, clock func() time.Time) *graph.Store {
	t.Helper()
	store, err := graph.Open("store", graph.Options{FS: vfs.NewMem(), Cache: 8 << 20, TailBytes: 16 << 10,
		Clock: clock, KeepAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// serveTCP is serve over loopback, on the real clock.
func serveTCP(t *testing.T, j journal, o StreamOptions) *served {
	t.Helper()
	s := NewStreamer(j, o)
	stop := run(t, s)
	server := httptest.NewServer(s)
	transport := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		stop()
		transport.CloseIdleConnections()
		server.Close()
	})
	return &served{s, &http.Client{Transport: transport}}
}

// edit applies random edits and renderings, those of a version in one batch, for
// the versions from first up to but not including end.
func edit(t *testing.T, store *graph.Store, first, end int, random *rand.Rand) {
	t.Helper()
	for version := first; version < end; version++ {
		template := fmt.Sprintf("https://a.example/wiki/Template:T%d", random.IntN(3))
		updates := []graph.Update{{URI: template, Type: "page", Version: fmt.Sprint(version)}}
		for range random.IntN(4) {
			// A notice is given the buckets of when it is read, so those of a page stay.
			number := random.IntN(20)
			page := "https://" + someHosts[random.IntN(3)] + fmt.Sprintf("/wiki/P%d", number)
			updates = append(updates, graph.Update{URI: page + "#html", Type: "html", Hash: fmt.Sprint(random.Uint64()),
				Deps: []graph.Dep{{URI: template, Seen: fmt.Sprint(version)}, {URI: page}}, Buckets: []string{page, someBuckets[number%3]}})
		}
		if _, err := store.Apply(t.Context(), "test", updates); err != nil {
			t.Errorf("version %d: %v", version, err)
			return
		}
	}
}

func readAll(t *testing.T, store *graph.Store) (all []graph.Notice) {
	t.Helper()
	for c := store.Oldest(); c != store.Token(); {
		ns, next, err := store.ReadFrom(t.Context(), c, 100)
		if err != nil {
			t.Fatalf("reading after %s: %v", c, err)
		}
		all, c = append(all, ns...), next
	}
	return all
}

// transports runs test over each way to take a stream to its reader.
func transports(t *testing.T, test func(t *testing.T, o StreamOptions)) {
	t.Run("sockets", func(t *testing.T) { test(t, StreamOptions{}) }) // where the system has them
	t.Run("portable", func(t *testing.T) { test(t, StreamOptions{Portable: true}) })
}

func TestNothingOfTheStoreIsLostOrDoubledAcrossRandomDisconnects(t *testing.T) {
	transports(t, losesNothing)
}

func losesNothing(t *testing.T, o StreamOptions) {
	seed := rand.Uint64()
	store := openStore(t, time.Now)
	// The streams end soon, and each then tells its position.
	o.MaxAge = 300 * time.Millisecond
	s := serveTCP(t, store, o)
	from := store.Token()
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
	random := rand.New(rand.NewPCG(seed, 1))
	filters, got := make([]Filter, 24), make([][]uint64, 24)
	var wg sync.WaitGroup
	for i := range filters {
		filters[i] = randomFilter(random)
		wg.Go(func() {
			got[i] = readToTheEnd(t, s, filters[i].query(), from, end, 50*time.Millisecond, rand.New(rand.NewPCG(seed, uint64(2+i))))
		})
	}
	wg.Wait()
	all := readAll(t, store)
	if len(all) < 400 {
		t.Fatalf("the journal has %d notices", len(all))
	}
	for i, f := range filters {
		var want []uint64
		for _, n := range all {
			if matches(f, n) {
				want = append(want, n.Cursor.Seq)
			}
		}
		if !slices.Equal(got[i], want) {
			t.Errorf("seed %d, reader %d, filter %+v: got %d notices, want %d:\n%v\n%v", seed, i, f, len(got[i]), len(want), got[i], want)
		}
	}
}

func TestAReaderOfAnotherStoreIsReset(t *testing.T) { transports(t, aReaderOfAnotherStoreIsReset) }

func aReaderOfAnotherStoreIsReset(t *testing.T, o StreamOptions) {
	before, store := openStore(t, time.Now), openStore(t, time.Now)
	edit(t, before, 1000, 1003, rand.New(rand.NewPCG(1, 1)))
	edit(t, store, 1000, 1003, rand.New(rand.NewPCG(1, 1)))
	s := serveTCP(t, store, o)
	for i, reason := range []string{"epoch", "future"} {
		lastID := before.Token()
		if reason == "future" {
			lastID = graph.Cursor{Epoch: store.Token().Epoch, Seq: store.Token().Seq + 1}
		}
		r := s.open(t, "", "Last-Event-ID", lastID.String())
		e, ok := r.next()
		if want := store.Token().String(); !ok || e.kind != "reset" || e.id != want {
			t.Errorf("%s: got %s %s %s, want a reset to %s", reason, e.kind, e.id, e.data, want)
		}
		edit(t, store, 2000+i, 2001+i, rand.New(rand.NewPCG(2, 2)))
		if e, ok = r.next(); !ok || e.kind != "changed" {
			t.Errorf("%s: after the reset got %s %s, want what is new", reason, e.kind, e.data)
		}
		r.body.Close()
	}
}

func TestATimeIsFoundInTheStore(t *testing.T) { transports(t, aTimeIsFoundInTheStore) }

func aTimeIsFoundInTheStore(t *testing.T, o StreamOptions) {
	store := openStore(t, time.Now)
	edit(t, store, 1000, 1050, rand.New(rand.NewPCG(1, 1)))
	all := readAll(t, store)
	middle := all[len(all)/2].At
	first := slices.IndexFunc(all, func(n graph.Notice) bool { return !n.At.Before(middle) })
	r := serveTCP(t, store, o).open(t, "since="+middle.Format(time.RFC3339Nano))
	defer r.body.Close()
	for _, want := range all[first:] {
		e, ok := r.next()
		if !ok || e.id != want.Cursor.String() {
			t.Fatalf("got %s %s, want %s", e.id, e.data, want.Cursor)
		}
	}
}

func TestAReaderThatStaysAwayTooLongIsReset(t *testing.T) {
	transports(t, aReaderThatStaysAwayTooLongIsReset)
}

func aReaderThatStaysAwayTooLongIsReset(t *testing.T, o StreamOptions) {
	var later atomic.Int64
	store := openStore(t, func() time.Time { return time.Now().Add(time.Duration(later.Load())) })
	edit(t, store, 1000, 1010, rand.New(rand.NewPCG(1, 1)))
	away, since := store.Token(), time.Now()
	edit(t, store, 1010, 1020, rand.New(rand.NewPCG(1, 1)))
	later.Store(int64(2 * time.Hour))
	for v := 1020; store.Oldest().Seq <= away.Seq; v++ { // each is news, until the old ones go
		edit(t, store, v, v+1, rand.New(rand.NewPCG(1, 1)))
	}
	s := serveTCP(t, store, o)
	r := s.open(t, "", "Last-Event-ID", away.String())
	if e, ok := r.next(); !ok || e.kind != "reset" || e.id != store.Token().String() || !bytes.Contains(e.data, []byte(`"reason":"trimmed"`)) {
		t.Errorf("after a position that is trimmed: got %s %s %s", e.kind, e.id, e.data)
	}
	r.body.Close()
	r = s.open(t, "since="+since.UTC().Format(time.RFC3339Nano))
	if e, ok := r.next(); !ok || e.kind != "reset" || e.id != store.Oldest().String() {
		t.Errorf("since a time that is trimmed: got %s %s %s", e.kind, e.id, e.data)
	}
	if e, ok := r.next(); !ok || e.seq(t) != store.Oldest().Seq+1 {
		t.Errorf("after that got %s %s, want the oldest that is kept", e.kind, e.data)
	}
	r.body.Close()
}
