package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/federation"
	"github.com/freshwire/freshwire/hub/outbound"
)

// peerTimeout bounds one call of a peer, answer included: a body of 1 MiB on a slow
// line. It is not for streams.
const peerTimeout = 30 * time.Second

// FederationConfig says for what this hub speaks to other hubs, and which of them it
// exchanges with.
type FederationConfig struct {
	Authority []string       `yaml:"authority"` // URI prefixes that this hub speaks for
	Peers     []PeerConfig   `yaml:"peers"`     // only the file has them
	Allow     []netip.Prefix `yaml:"allow"`     // networks in which peers may lie, beside public ones
	Interests int            `yaml:"interests"` // resources that one peer may ask for
}

// PeerConfig is a peer that the operator names; what is in a field is explained at
// [federation.Peer].
type PeerConfig struct {
	URL         string   `yaml:"url"`
	Fingerprint string   `yaml:"fingerprint"`
	Authority   []string `yaml:"authority"`
}

func (c *Config) checkFederation() error {
	f := &c.Federation
	if f.Interests < 1 {
		return errors.New("federation-interests: below 1")
	}
	peers, err := f.peers()
	if err != nil {
		return err
	}
	hub := c.hubName()
	if len(f.Authority)+len(peers) == 0 {
		return nil
	}
	if c.PublicURL == "" {
		return errors.New("public-url: other hubs know this one by it, and federation names what it speaks for, or peers; set it to https://HOST")
	}
	if err := federation.CheckHub(hub); err != nil {
		return fmt.Errorf("public-url: %w", err)
	}
	if err := federation.CheckPeers(hub, f.Authority, peers, c.Schemes...); err != nil {
		return fmt.Errorf("federation: %w", err)
	}
	return nil
}

// hubName is the name by which other hubs know this one.
func (c *Config) hubName() string { return strings.TrimSuffix(c.PublicURL, "/") }

func (f *FederationConfig) peers() ([]federation.Peer, error) {
	list := make([]federation.Peer, len(f.Peers))
	for i, p := range f.Peers {
		fingerprint, err := federation.ParseFingerprint(p.Fingerprint)
		if err != nil {
			return nil, fmt.Errorf("federation: peers: %.200q: %w; freshwire peer look %s prints it", p.URL, err, p.URL)
		}
		list[i] = federation.Peer{URL: p.URL, Fingerprint: fingerprint, Authority: p.Authority, Configured: true}
	}
	return list, nil
}

// openFederation opens what passes between hubs; nothing does before the hub runs. A hub
// that nobody else could name has none.
func (h *Hub) openFederation(disk vfs.FS) error {
	if federation.CheckHub(h.cfg.hubName()) != nil {
		if len(h.store.Territories()) > 0 {
			return errors.New("public-url: this hub has peers, who know it by that; set it to what it was")
		}
		return nil
	}
	id, err := federation.OpenIdentity(disk, h.cfg.keys(), h.cfg.hubName())
	if err != nil {
		return err
	}
	allow := h.cfg.Federation.Allow
	if isLoopback(h.host) { // all of it is on this machine
		allow = append(allow[:len(allow):len(allow)], thisMachineOnly...)
	}
	ask := outbound.New(outbound.Policy{Purpose: "host of content", Allow: allow, MaxAnswer: federation.MaxDocument + 1, Keep: outbound.None})
	h.peers, err = federation.Open(federation.Options{
		Store: h.store, Identity: id, Ask: ask.HTTP(), Now: time.Now, Rate: h.cfg.ClockRate,
		Interests: int64(h.cfg.Federation.Interests), Schemes: h.cfg.Schemes, Log: h.log.With("component", "federation"),
		Dial: func(hub string) (federation.Clients, error) { return dialPeer(hub, allow) },
	})
	if err == nil {
		h.metrics.registry.MustRegister(peerCollector{h.peers})
	}
	return err
}

var thisMachineOnly = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// dialPeer returns clients for one peer. The operator names its URL, and with that its port.
func dialPeer(hub string, allow []netip.Prefix) (federation.Clients, error) {
	u, err := url.Parse(hub)
	if err != nil {
		return federation.Clients{}, err
	}
	calls := outbound.Policy{Purpose: "peer", Allow: allow, Timeout: peerTimeout, MaxAnswer: federation.MaxBody + 1}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		calls.Ports = []uint16{uint16(port)}
	}
	stream := calls
	stream.Timeout, stream.MaxAnswer = outbound.Unlimited, outbound.Unlimited
	c, s := outbound.New(calls), outbound.New(stream)
	return federation.Clients{Calls: c.HTTP(), Stream: s.HTTP(), Close: func() { c.Close(); s.Close() }}, nil
}

// federated makes a handler of what answers peers, and refuses where there are none.
func (h *Hub) federated(f func(*federation.Peers, http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if h.peers == nil {
			return refuse(noFederation, "", "this hub has no public-url that others could know it by")
		}
		return f(h.peers, w, r)
	}
}

// getFederation tells everybody who this hub is to other hubs.
func getFederation(p *federation.Peers, w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	b, err := p.Document()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Set("Cache-Control", "no-cache") // its epoch tells that the hub was restored
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Write(b)
	return nil
}

// callPeers exchanges with the peers until ctx ends.
func (h *Hub) callPeers(ctx context.Context) error {
	if h.peers == nil {
		return nil
	}
	return h.peers.Run(ctx)
}

// configurePeers names the peers of the configuration at start.
func (h *Hub) configurePeers(ctx context.Context, c *Config) error {
	if h.peers == nil {
		return nil
	}
	list, err := c.Federation.peers()
	if err != nil {
		return err
	}
	if err := h.peers.Configure(ctx, c.Federation.Authority, list); err != nil {
		return fmt.Errorf("federation: %w", err)
	}
	return nil
}

// takeFederation copies what a reload takes.
func takeFederation(into, from *Config) {
	into.Federation.Authority, into.Federation.Peers = from.Federation.Authority, from.Federation.Peers
}

func planFederation(_ context.Context, h *Hub, was, is *Config) (p sectionPlan, err error) {
	if reflect.DeepEqual(was.Federation, is.Federation) {
		return p, nil
	}
	if h.peers == nil {
		return p, errors.New("public-url: it is taken when the hub starts again, and then the federation with it")
	}
	list, err := is.Federation.peers()
	if err != nil {
		return p, err
	}
	changes, err := h.peers.Plan(is.Federation.Authority, list)
	if err != nil {
		return p, fmt.Errorf("federation: %w", err)
	}
	for _, c := range changes {
		p.changes = append(p.changes, ConfigChange{"federation", c.Peer, c.Change})
	}
	p.carry = func(ctx context.Context) error { return h.configurePeers(ctx, is) }
	return p, nil
}
