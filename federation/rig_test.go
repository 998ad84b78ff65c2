package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/graph"
)

// A house is a hub as its peers see it: a store, its identity, and what is served.
type house struct {
	t      testing.TB
	disk   *vfs.MemFS
	store  *graph.Store
	id     *Identity
	peers  *Peers
	server *httptest.Server
	own    string // what it speaks for
	// before sees each request before it is served, and may answer it itself.
	before func(w http.ResponseWriter, r *http.Request) (done bool)
	leave  func() // ends it; nil when that was done
}

// rigRate makes a minute of silence a quarter of a second.
const rigRate = 240

// newHouse opens a hub that speaks for a prefix, at an address of this machine. It ends
// with the test.
func newHouse(t testing.TB, own string, o Options) *house {
	t.Helper()
	h := &house{t: t, own: own, disk: vfs.NewMem(), server: httptest.NewUnstartedServer(nil)}
	o.Rate = rigRate
	o.Dial = func(string) (Clients, error) { return plainClients(nil), nil }
	h.open(o)
	return h
}

// plainClients are what a hub calls a peer with: they follow no redirects.
func plainClients(dial func(ctx context.Context, network, addr string) (net.Conn, error)) Clients {
	transport := &http.Transport{DialContext: dial, DisableCompression: true}
	c := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return Clients{c, c, transport.CloseIdleConnections}
}

// open opens the hub on its disk, and serves it.
func (h *house) open(o Options) {
	h.t.Helper()
	t := h.t
	h.server.Config.Handler = http.HandlerFunc(h.serve)
	h.server.Start()
	var err error
	if h.store, err = graph.Open("/data", graph.Options{FS: h.disk, MinFree: -1, Cache: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if h.id, err = OpenIdentity(h.disk, "/keys", h.url()); err != nil {
		t.Fatal(err)
	}
	o.Store, o.Identity = h.store, h.id
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ask == nil {
		o.Ask = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	}
	if h.peers, err = Open(o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stores, peers := make(chan error, 1), make(chan error, 1)
	storeCtx, stopStore := context.WithCancel(context.Background())
	go func() { stores <- h.store.Run(storeCtx) }()
	go func() { peers <- h.peers.Run(ctx) }()
	h.leave = func() {
		h.leave = nil
		stop()
		h.peers.Shutdown()
		if err := <-peers; err != nil {
			t.Errorf("peers: %v", err)
		}
		h.server.CloseClientConnections()
		h.server.Close()
		stopStore()
		if err := <-stores; err != nil {
			t.Errorf("store: %v", err)
		}
		if err := h.store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	t.Cleanup(func() {
		if h.leave != nil {
			h.leave()
		}
	})
}

func (h *house) url() string { return h.server.URL }

// serve is what a hub makes of the room's errors, in short.
func (h *house) serve(w http.ResponseWriter, r *http.Request) {
	if h.before != nil && h.before(w, r) {
		return
	}
	var err error
	switch strings.TrimPrefix(r.URL.Path, Path) {
	case DocumentPath:
		var b []byte
		if b, err = h.peers.Document(); err == nil {
			w.Write(b)
		}
	case EndpointInterests:
		err = h.peers.ServeInterests(w, r)
	case EndpointStream:
		err = h.peers.ServeStream(w, r)
	case EndpointCompare:
		err = h.peers.ServeCompare(w, r)
	case EndpointAck:
		err = h.peers.ServeAck(w, r)
	default:
		http.NotFound(w, r)
	}
	if err != nil {
		writeRefusal(w, err)
	}
}

// knows makes each of others a peer of h that speaks for what it says it does.
func (h *house) knows(others ...*house) {
	h.t.Helper()
	var list []Peer
	for _, o := range others {
		list = append(list, Peer{URL: o.url(), Fingerprint: o.id.Key().Fingerprint(), Authority: []string{o.own}})
	}
	if err := h.peers.Configure(context.Background(), []string{h.own}, list); err != nil {
		h.t.Fatal(err)
	}
}

// put applies updates.
func (h *house) put(us ...graph.Update) {
	h.t.Helper()
	if _, err := h.store.Apply(context.Background(), "test", us); err != nil {
		h.t.Fatal(err)
	}
}

// page is an update of a primary.
func page(uri, version string) graph.Update {
	return graph.Update{URI: uri, Version: version, Hash: "h" + version, At: time.Now()}
}

func (h *house) now() time.Time { return time.Now() }

// version is that of a resource, "" if it was never heard of.
func (h *house) version(uri string) string {
	r, err := h.store.Resource(uri)
	if err != nil {
		return ""
	}
	return r.Version
}

func (h *house) state(uri string) graph.State {
	h.t.Helper()
	r, err := h.store.Resource(uri)
	if err != nil {
		h.t.Fatalf("%s: %v", uri, err)
	}
	return r.State
}

// until waits for something to hold.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick, timeout := time.NewTicker(2*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

// writeRefusal answers with an error of the room.
func writeRefusal(w http.ResponseWriter, err error) {
	status, body := http.StatusInternalServerError, map[string]any{"detail": err.Error()}
	var (
		gap  *graph.GapError
		long *http.MaxBytesError
		none *graph.InvalidError
	)
	switch {
	case errors.As(err, &gap):
		status, body["epoch"], body["generation"], body["applied"] = http.StatusConflict, gap.Epoch.String(), gap.Generation, gap.Applied
	case errors.As(err, &long):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrMessage), errors.As(err, &none):
		status = http.StatusBadRequest
	case errors.Is(err, ErrToken), errors.Is(err, ErrUnknownPeer):
		status = http.StatusUnauthorized
	case errors.Is(err, ErrPaused):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "60")
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
