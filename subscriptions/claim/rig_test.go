package claim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

// rate is how much faster a rig's clock goes than the real one: leases of a minute
// end within seconds.
const rate = 60

// rig is a store in memory with all that runs over it, on a clock that goes fast.
type rig struct {
	t        testing.TB
	fs       *vfs.MemFS
	o        graph.Options
	born     time.Time
	store    *graph.Store
	channels *subscriptions.Channels
	streams  *subscriptions.Streamer
	desk     *Desk
	stop     func() // ends the desk, then the others
}

func newRig(t testing.TB, o graph.Options) *rig {
	t.Helper()
	r := &rig{t: t, fs: vfs.NewCrashableMem(), o: o, born: time.Now()}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) now() time.Time { return r.born.Add(rate * time.Since(r.born)) }

func (r *rig) start() {
	r.t.Helper()
	o := r.o
	o.FS, o.Clock, o.ClockRate = r.fs, r.now, rate
	if o.Cache == 0 {
		o.Cache = 64 << 20
	}
	var err error
	if r.store, err = graph.Open("store", o); err != nil {
		r.t.Fatal(err)
	}
	if r.channels, err = subscriptions.OpenChannels(r.store); err != nil {
		r.t.Fatal(err)
	}
	r.streams = subscriptions.NewStreamer(r.store, subscriptions.StreamOptions{Channels: r.channels})
	if r.desk, err = New(r.store, r.streams, r.channels, Options{}); err != nil {
		r.t.Fatal(err)
	}
	store, streams, desk := r.store, r.streams, r.desk
	var below, above sync.WaitGroup
	lower, stopLower := context.WithCancel(context.Background())
	upper, stopUpper := context.WithCancel(context.Background())
	run := func(all *sync.WaitGroup, ctx context.Context, name string, f func(context.Context) error) {
		all.Go(func() {
			if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
				r.t.Errorf("%s: %v", name, err)
			}
		})
	}
	run(&below, lower, "store", store.Run)
	run(&below, lower, "streams", streams.Run)
	run(&above, upper, "desk", desk.Run)
	r.stop = sync.OnceFunc(func() {
		stopUpper()
		above.Wait()
		stopLower()
		below.Wait()
		if err := store.Close(); err != nil {
			r.t.Errorf("close: %v", err)
		}
	})
}

// restart ends all in good order and begins again.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

func (r *rig) apply(us ...graph.Update) {
	r.t.Helper()
	if _, err := r.store.Apply(context.Background(), "test", us); err != nil {
		r.t.Fatal(err)
	}
}

func page(host string, i int) string    { return fmt.Sprintf("https://%s/wiki/P%06d", host, i) }
func extract(host string, i int) string { return page(host, i) + "#extract" }

// extracts makes n extracts of a host, each of a page of its own, which is then
// edited so that they are ready. In one wave a template of them all is edited
// instead: they are told in the bulk lane if there are more than a thousand.
func (r *rig) extracts(host string, n int, wave bool) (uris []string) {
	r.t.Helper()
	template := "https://" + host + "/wiki/Template:T"
	var us []graph.Update
	flush := func(at int) {
		if len(us) >= at {
			r.apply(us...)
			us = us[:0]
		}
	}
	for i := range n {
		us = append(us, graph.Update{URI: page(host, i), Type: "page", Version: "10"},
			graph.Update{URI: extract(host, i), Type: "extract", Hash: "old",
				Deps: []graph.Dep{{URI: page(host, i), Seen: "10"}, {URI: template, Seen: "10"}}})
		uris = append(uris, extract(host, i))
		flush(2000)
	}
	flush(1)
	r.apply(graph.Update{URI: template, Type: "page", Version: "10"})
	if wave {
		r.apply(graph.Update{URI: template, Version: "11"})
	} else {
		for i := range n {
			us = append(us, graph.Update{URI: page(host, i), Version: "11"})
			flush(2000)
		}
		flush(1)
	}
	r.until(func() bool { return len(r.store.Jobs()) == 0 }, "the fan-outs do not end")
	r.caughtUp()
	return uris
}

// caughtUp waits until all that was told can be read.
func (r *rig) caughtUp() {
	r.t.Helper()
	told, feed := r.store.Token(), r.streams.FilterFeed(new(subscriptions.Matcher))
	r.until(func() bool { return feed.Head().Seq >= told.Seq }, "the pump does not follow")
}

// until waits for something that happens by itself.
func (r *rig) until(f func() bool, otherwise string) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); {
		if time.Now().After(deadline) {
			r.t.Fatal(otherwise)
		}
		pause()
	}
}

// pause lets others go on for a moment.
func pause() { <-time.After(2 * time.Millisecond) }

// local may make and see everything.
func local() Claimer {
	return Claimer{Name: "local", All: true, Viewer: subscriptions.Viewer{All: true}}
}

// holder may make and see what is under some prefixes.
func holder(name string, prefixes ...string) Claimer {
	return Claimer{Name: name, Publish: prefixes, Viewer: subscriptions.Viewer{Name: name, Prefixes: prefixes}}
}

// soon is how long a poll waits that is to be given something.
const soon = 15 * time.Second

func ofType(max int, wait time.Duration) Request {
	return Request{Types: []string{"extract"}, Max: max, Lease: graph.MaxLease, Wait: wait}
}

// claim asks once and fails the test if that is refused.
func (r *rig) claim(c Claimer, q Request) []Handed {
	r.t.Helper()
	got, err := r.desk.Claim(context.Background(), c, q)
	if err != nil {
		r.t.Fatalf("claim %+v: %v", q, err)
	}
	return got
}

func urisOf(hs []Handed) (uris []string) {
	for _, h := range hs {
		uris = append(uris, h.URI)
	}
	return uris
}

// finish makes what was handed out: of a page as it was edited.
func (r *rig) finish(hs ...Handed) {
	r.t.Helper()
	us := make([]graph.Update, len(hs))
	for i, h := range hs {
		us[i] = graph.Update{URI: h.URI, Hash: "made " + h.Token.String(), Token: h.Token}
	}
	r.apply(us...)
}

func (r *rig) state(uri string) graph.State {
	r.t.Helper()
	s, err := r.store.Status([]string{uri})
	if err != nil {
		r.t.Fatal(err)
	}
	return s[0].State
}

// What a disk says of itself.
var (
	fullDisk = vfs.DiskUsage{AvailBytes: 1 << 10, TotalBytes: 1 << 40, UsedBytes: 1<<40 - 1<<10}
	freeDisk = vfs.DiskUsage{AvailBytes: 1 << 39, TotalBytes: 1 << 40, UsedBytes: 1 << 39}
)
