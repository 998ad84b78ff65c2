// Package hub makes one service of the rooms: it configures, opens, serves and
// closes them. It is the only one that speaks HTTP to producers and operators, and
// it knows no rule of the domain: what bytes from outside mean is decided here
// ([DecodeUpdates]), what follows from them in graph.
//
// Nothing is acknowledged before it is on disk. Nothing from outside is repaired:
// what is not canonical, not known or too long is refused as a whole, with a
// [Problem] that names the item and the field.
//
// With keys, each request carries a token, and what it asks for is checked item by
// item against what the token covers: nobody sees or changes what they may not, and
// an answer does not even tell whether it is there. Without keys, only loopback may
// listen, and who reaches the hub may do everything. Pages in a browser are the
// exception: they also reach loopback, so foreign host names and writes from foreign
// origins are refused.
//
// Imports graph, graph/backup, subscriptions, subscriptions/claim, digest, federation,
// hub/auth and hub/outbound.
package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/digest"
	"github.com/freshwire/freshwire/federation"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/outbound"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/claim"
	"github.com/freshwire/freshwire/subscriptions/delivery"
	"github.com/freshwire/freshwire/subscriptions/sink"
	"github.com/freshwire/freshwire/subscriptions/websub"
	"golang.org/x/sync/errgroup"
)

const (
	// maxHeader bounds a request's header in bytes: a URI of 2,048 bytes,
	// percent-encoded once more for a query, is 6 KiB.
	maxHeader = 32 << 10
	// headerDeadline is how long a header may take to arrive.
	headerDeadline = 10 * time.Second
	// answerDeadline is how long an ordinary request may take, answer included.
	answerDeadline = 60 * time.Second
	// idleDeadline is how long a connection is kept for the next request.
	idleDeadline = 2 * time.Minute
	// drainDeadline is how long requests in flight may take to end on shutdown.
	drainDeadline = 15 * time.Second
)

// Hub is one running service.
type Hub struct {
	cfg      Config
	log      *slog.Logger
	clock    *Clock
	store    *graph.Store
	channels *subscriptions.Channels
	streams  *subscriptions.Streamer
	claims   *claim.Desk
	metrics  *metrics
	trust    atomic.Pointer[trust] // nil on a hub that asks for no tokens
	believed chan struct{}         // told of each change of trust
	host     string                // of public-url, "" if there is none
	api      *http.Server
	admin    *http.Server // nil if there is no admin listener
	listener *connections
	adminLn  net.Listener
	ready    atomic.Bool
	pace     *pace
	inForce  configuration

	delivery  *delivery.Engine
	sinks     *sink.Sinks
	websub    *websub.Hub
	callbacks *outbound.Client // of those who subscribed

	peers *federation.Peers // nil on a hub that others could not name

	archive *digest.Archive
	digests *digestTopics
	addings chan struct{} // a place for each who has digests added up
}

// A machine is what a hub runs on. Tests have others: with a disk that loses
// power, a network that loses requests and a clock that is set.
type machine struct {
	now    func() time.Time
	listen func(address string) (net.Listener, error)
	store  func(o *graph.Options) // puts its disk into what the store is opened with; nil means the real one
	// portable says that its network is not the system's.
	portable bool
}

// thisMachine is the one that the process runs on.
var thisMachine = machine{now: time.Now, listen: func(address string) (net.Listener, error) {
	// Multipath TCP has no option to give up on a peer that acknowledges nothing.
	var single net.ListenConfig
	single.SetMultipathTCP(false)
	return single.Listen(context.Background(), "tcp", address)
}}

// New opens the store and the listeners. Nothing runs until [Hub.Run]; a hub that
// is never run is closed by [Hub.Close]. A nil log means none.
func New(cfg Config, log *slog.Logger) (*Hub, error) { return newOn(thisMachine, cfg, log) }

func newOn(m machine, cfg Config, log *slog.Logger) (*Hub, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &Hub{cfg: cfg, log: log.With("component", "hub"), clock: newClock(cfg, m.now),
		pace: newPace(cfg.PublisherRequests, cfg.PublisherBytes), believed: make(chan struct{}, 1)}
	h.inForce.config = cfg
	if u, err := url.Parse(cfg.PublicURL); err == nil {
		h.host = u.Hostname()
	}
	if cfg.Auth.JWKS != "" {
		trust, err := h.openTrust(context.Background(), &cfg)
		if err != nil {
			return nil, err
		}
		h.trust.Store(trust)
	}
	options := h.storeOptions(log)
	if m.store != nil {
		m.store(&options)
	}
	var err error
	if h.store, err = graph.Open(cfg.store(), options); err != nil {
		return nil, err
	}
	if h.channels, err = subscriptions.OpenChannels(h.store, cfg.Schemes...); err != nil {
		return nil, errors.Join(err, h.store.Close())
	}
	h.channels.Guard(mayOwn)
	h.channels.Notify(h.channelsChanged)
	if _, err = h.channels.Configuring(cfg.channels()); err != nil {
		return nil, errors.Join(err, h.store.Close())
	}
	h.streams = subscriptions.NewStreamer(h.store, subscriptions.StreamOptions{
		MaxPerAddr: cfg.StreamsPerAddress, MaxStreams: maxStreams(), Portable: m.portable, Channels: h.channels, Schemes: cfg.Schemes,
		ClientAddr: h.clientAddr, Viewer: viewer, Problem: streamProblem, Log: log.With("component", "streams")})
	if h.claims, err = claim.New(h.store, h.streams, h.channels, claim.Options{
		Log: log.With("component", "claims"), MaxPolls: maxConnections(runtime.GOOS == "linux") / 2}); err != nil {
		return nil, errors.Join(err, h.store.Close())
	}
	h.metrics = newMetrics(h.store, h.streams)
	h.digests = newDigestTopics(h)
	if err := h.openDelivery(); err != nil {
		return nil, errors.Join(err, h.store.Close())
	}
	h.metrics.registry.MustRegister(claimCollector{h.claims})
	if err := h.openFederation(options.FS); err != nil {
		return nil, errors.Join(err, h.store.Close())
	}
	if err := h.listen(m); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if err := h.openArchive(options.FS); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Hub) storeOptions(log *slog.Logger) graph.Options {
	minFree := int64(h.cfg.MinFree)
	if minFree == 0 {
		minFree = -1 // none
	}
	return graph.Options{
		Clock: h.clock.Now, ClockRate: h.cfg.ClockRate, Log: log.With("component", "graph"), Cache: int64(h.cfg.Cache),
		Work: h.cfg.Work, Collect: h.cfg.Collect, Schemes: h.cfg.Schemes, Observe: h.cfg.Mode == ModeObserve,
		KeepAge: h.cfg.KeepAge, KeepBytes: int64(h.cfg.KeepBytes),
		MinFree: minFree,
		Quota: func(string) graph.Quota {
			return graph.Quota{Resources: int64(h.cfg.PublisherResources), Edges: int64(h.cfg.PublisherEdges)}
		},
	}
}

// listen opens the listeners and makes the servers.
func (h *Hub) listen(m machine) error {
	var certs []tls.Certificate
	if h.cfg.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(h.cfg.TLSCert, h.cfg.TLSKey)
		if err != nil {
			return fmt.Errorf("tls-cert: %w", err)
		}
		certs = append(certs, cert)
	}
	listener, err := m.listen(h.cfg.Listen)
	if err != nil {
		return err
	}
	streamsApart := runtime.GOOS == "linux" && certs == nil && !m.portable
	h.listener = newConnections(listener, maxConnections(streamsApart), h.cfg.ConnectionsPerAddress+h.cfg.StreamsPerAddress, h.trusted)
	if certs != nil {
		h.listener.grace = headerGraceTLS
	}
	h.api = h.server(h.front(h.identify(h.routes())))
	h.api.ConnState, h.api.ConnContext = h.listener.moved, h.listener.context
	h.metrics.registry.MustRegister(connectionCollector{h.listener})
	if certs != nil {
		h.api.TLSConfig = &tls.Config{Certificates: certs, MinVersion: tls.VersionTLS12}
	}
	if h.cfg.Admin == "" {
		return nil
	}
	if h.adminLn, err = net.Listen("tcp", h.cfg.Admin); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	h.admin = h.server(h.front(h.adminRoutes()))
	// A profile is taken for as long as its reader asks for.
	h.admin.WriteTimeout = 0
	return nil
}

func (h *Hub) server(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerDeadline, ReadTimeout: bodyDeadline,
		WriteTimeout: answerDeadline, IdleTimeout: idleDeadline, ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelWarn),
	}
}

// Addr returns the address the hub listens on.
func (h *Hub) Addr() net.Addr { return h.listener.Addr() }

// AdminAddr returns the address of the admin listener, nil if there is none.
func (h *Hub) AdminAddr() net.Addr {
	if h.adminLn == nil {
		return nil
	}
	return h.adminLn.Addr()
}

// URL returns the address for clients on this machine.
func (h *Hub) URL() string {
	scheme := "http"
	if h.cfg.TLSCert != "" {
		scheme = "https"
	}
	return scheme + "://" + h.Addr().String()
}

// Close closes a hub that was never run.
func (h *Hub) Close() error {
	var errs []error
	if h.listener != nil {
		errs = append(errs, h.listener.Close())
	}
	if h.adminLn != nil {
		errs = append(errs, h.adminLn.Close())
	}
	return errors.Join(append(errs, h.store.Close())...)
}

// Run serves until ctx ends, then drains: streams are told when to come again,
// requests in flight are answered, and the store is closed last. It returns nil
// after an orderly end, and an error if the store or a listener failed. A hub runs
// once.
func (h *Hub) Run(ctx context.Context) error {
	// The store outlives ctx: requests in flight still need it.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.store.Run(storeCtx) })
	g.Go(func() error { return h.streams.Run(storeCtx) })
	if err := h.configure(storeCtx); err != nil {
		cancel()
		stopStore()
		return errors.Join(err, g.Wait(), h.Close())
	}
	called, inForce := make(chan struct{}), make(chan struct{})
	g.Go(func() error {
		defer close(called)
		return h.callOut(ctx, inForce)
	})
	<-inForce
	handingOut := make(chan struct{})
	g.Go(func() error {
		defer close(handingOut)
		return h.claims.Run(ctx)
	})
	g.Go(func() error { return h.callPeers(ctx) })
	closingHours := make(chan struct{})
	g.Go(func() error {
		defer close(closingHours)
		return h.archive.Run(ctx)
	})
	if h.asksForTokens() {
		g.Go(func() error { return h.followKeys(ctx) })
	}
	g.Go(func() error { return serve(h.api, h.listener) })
	if h.admin != nil {
		g.Go(func() error { return serve(h.admin, h.adminLn) })
	}
	h.ready.Store(true)
	h.log.Info("serving", "url", h.URL(), "data", h.cfg.Data, "mode", string(h.cfg.Mode), "access", h.accessText())
	if h.asksForTokens() && h.cfg.TLSCert == "" && !isLoopback(h.Addr().(*net.TCPAddr).IP.String()) {
		h.log.Warn("tokens come in the clear unless a proxy before the hub ends TLS; set tls-cert and tls-key")
	}
	g.Go(func() error {
		defer stopStore()
		<-ctx.Done()
		h.drain()
		<-called
		<-handingOut // what it knows is written down
		<-closingHours
		return nil
	})
	err := errors.Join(g.Wait(), h.store.Close())
	h.log.Info("stopped")
	return err
}

func serve(s *http.Server, l net.Listener) error {
	err := error(nil)
	if s.TLSConfig != nil {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain ends the streams, then waits for the requests in flight.
func (h *Hub) drain() {
	h.ready.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), drainDeadline)
	defer cancel()
	if h.admin != nil {
		h.admin.Close() // a profile that is being taken is lost
	}
	if h.peers != nil {
		h.peers.Shutdown()
	}
	if err := errors.Join(h.streams.Shutdown(ctx), h.api.Shutdown(ctx)); err != nil {
		h.log.Warn("requests cut off on shutdown", "err", err)
		h.api.Close()
	}
}
