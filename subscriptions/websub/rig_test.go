package websub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

// base is where the hub of these tests says it is.
const base = "https://hub.example"

// A call that somebody got.
type gotten struct {
	at     time.Time
	method string
	header http.Header
	query  url.Values
	body   []byte
}

// A web is all that can be called: by host, a handler. Who calls waits for the answer
// on the clock of the test's bubble.
type web struct {
	mu    sync.Mutex
	hosts map[string]http.HandlerFunc
	got   map[string][]gotten
}

var errNobody = errors.New("nobody answers")

func (w *web) Do(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	host := r.URL.Host
	w.mu.Lock()
	w.got[host] = append(w.got[host], gotten{time.Now(), r.Method, r.Header, r.URL.Query(), body})
	handle := w.hosts[host]
	w.mu.Unlock()
	if handle == nil {
		return nil, errNobody
	}
	a := httptest.NewRecorder()
	handle(a, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return a.Result(), nil
}

// at has a host answer from now on; nil has it be away.
func (w *web) at(host string, handle http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[host] = handle
}

// calls are what a host got, by method.
func (w *web) calls(host, method string) (list []gotten) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.got[host] {
		if g.method == method {
			list = append(list, g)
		}
	}
	return list
}

// willing confirms what it is asked and takes what it is sent.
func willing(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, r.URL.Query().Get("hub.challenge"))
}

func hanging(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// A rig is a hub over a real store in memory, in a bubble. It can be restarted.
type rig struct {
	t       *testing.T
	fs      *vfs.MemFS
	options Options
	keep    time.Duration // of the journal
	web     *web
	store   *graph.Store
	stream  *subscriptions.Streamer
	chans   *subscriptions.Channels
	engine  *delivery.Engine
	hub     *Hub
	stop    func()
	edits   int
	full    atomic.Bool // the disk has no room for one more outlet
}

// A crowdedDisk has no room for one more outlet while full is set.
type crowdedDisk struct {
	*graph.Store
	full *atomic.Bool
}

func (d crowdedDisk) PutRecords(ctx context.Context, records []graph.Record) error {
	for _, r := range records {
		known := false
		err := d.Records(r.Key, func(string, []byte) error { known = true; return nil })
		if err != nil {
			return err
		}
		if d.full.Load() && !known && r.Value != nil {
			return &graph.NoSpaceError{Free: 1, Floor: 2}
		}
	}
	return d.Store.PutRecords(ctx, records)
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	r := &rig{t: t, fs: vfs.NewMem(), options: o, keep: graph.DefaultKeepAge, web: &web{hosts: map[string]http.HandlerFunc{}, got: map[string][]gotten{}}}
	r.start()
	t.Cleanup(func() { r.stop() })
	if _, _, err := r.chans.Put(t.Context(), "open", subscriptions.Definition{Filter: subscriptions.Filter{Host: []string{"en.example.org"}}, Public: true}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	fail := func() {
		if err != nil {
			r.t.Fatal(err)
		}
	}
	r.store, err = graph.Open("store", graph.Options{FS: r.fs, Cache: 8 << 20, TailBytes: 64 << 10, KeepAge: r.keep})
	fail()
	r.chans, err = subscriptions.OpenChannels(r.store)
	fail()
	r.stream = subscriptions.NewStreamer(r.store, subscriptions.StreamOptions{Channels: r.chans, Portable: true})
	all, err := subscriptions.Compile(subscriptions.Filter{})
	fail()
	r.engine, err = delivery.New(crowdedDisk{r.store, &r.full}, delivery.Options{Head: r.stream.FilterFeed(all).Head, Oldest: r.store.Oldest,
		Random: func() float64 { return .5 }, Ended: func(name string) { r.hub.Ended(name) }})
	fail()
	o := r.options
	o.Feeds, o.Oldest, o.Engine, o.Callbacks, o.Verifier = r.stream, r.store.Oldest, r.engine, r.web, r.web
	r.hub, err = New(r.store, o)
	fail()
	var low, high sync.WaitGroup
	under, stopUnder := context.WithCancel(context.Background())
	over, stopOver := context.WithCancel(context.Background())
	run := func(w *sync.WaitGroup, ctx context.Context, f func(context.Context) error) {
		w.Go(func() {
			if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
				r.t.Error(err)
			}
		})
	}
	run(&low, under, r.store.Run)
	run(&low, under, r.stream.Run)
	run(&high, over, r.engine.Run)
	run(&high, over, r.hub.Run)
	store, stream := r.store, r.stream
	r.stop = sync.OnceFunc(func() {
		stopOver()
		high.Wait()
		stream.Shutdown(context.Background())
		stopUnder()
		low.Wait()
		if err := store.Close(); err != nil {
			r.t.Error(err)
		}
	})
	synctest.Wait()
}

// again ends the hub and starts it.
func (r *rig) again() {
	r.t.Helper()
	r.stop()
	r.start()
}

// wiki is an owner with a token, made a minute ago.
func wiki(subject string, prefixes ...string) Requester {
	return Requester{Subject: subject, Issued: time.Now().Add(-time.Minute), Viewer: subscriptions.Viewer{Name: subject, Prefixes: prefixes}}
}

// stranger is somebody without a token.
func stranger(address string) Requester {
	return Requester{Address: address, Viewer: subscriptions.Viewer{Anonymous: true}}
}

// ask sends a request for the public channel, changed by pairs of name and value.
func (r *rig) ask(who Requester, callback string, changes ...string) error {
	values := url.Values{"hub.mode": {"subscribe"}, "hub.callback": {callback}, "hub.topic": {base + "/topics/open"}}
	for i := 0; i < len(changes); i += 2 {
		values.Set(changes[i], changes[i+1])
	}
	return r.hub.Receive(context.Background(), []byte(values.Encode()), base, who)
}

// subscribe is ask, and the verification.
func (r *rig) subscribe(who Requester, callback string, changes ...string) {
	r.t.Helper()
	if err := r.ask(who, callback, changes...); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

// edit publishes the next version of some pages.
func (r *rig) edit(pages ...string) {
	r.t.Helper()
	r.edits++
	var us []graph.Update
	for _, page := range pages {
		us = append(us, graph.Update{URI: "https://en.example.org/wiki/" + page, Version: strconv.Itoa(r.edits)})
	}
	if _, err := r.store.Apply(context.Background(), "wiki", us); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

// A delivered document, as JSON.
type delivered struct {
	Epoch             string
	Lane              string
	First, Last, Prev uint64
	Reset             *struct{ Reason, Oldest, Newest string }
	Notices           []struct {
		URI, Version string
	}
}

// documents are what a host was sent.
func (r *rig) documents(host string) (list []delivered) {
	r.t.Helper()
	for _, g := range r.web.calls(host, http.MethodPost) {
		var d delivered
		if err := json.Unmarshal(g.body, &d); err != nil {
			r.t.Fatalf("%v: %s", err, g.body)
		}
		list = append(list, d)
	}
	return list
}

// only returns the one subscription.
func (r *rig) only() Info {
	r.t.Helper()
	list, _ := r.hub.List("", 10, nil)
	if len(list) != 1 {
		r.t.Fatalf("there are %d subscriptions", len(list))
	}
	return list[0]
}

// text shows documents for people.
func text(list []delivered) string {
	var b strings.Builder
	for _, d := range list {
		fmt.Fprintf(&b, "%+v\n", d)
	}
	return b.String()
}
