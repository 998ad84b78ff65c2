package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// What goes on with a [Peer].
const (
	PeerConnecting = "connecting" // its document is being read
	PeerFollowing  = "following"  // its states are heard
	PeerWaiting    = "waiting"    // something failed, and it is tried again
	PeerPaused     = "paused"     // by an operator
)

// HubIdentity is who a hub is to other hubs.
type HubIdentity struct {
	URL         string   `json:"url"`
	Fingerprint string   `json:"fingerprint"` // of its key, to be compared by people
	Authority   []string `json:"authority"`   // URI prefixes that it says it speaks for
	Epoch       string   `json:"epoch"`       // of its store; another one after it was restored
}

// PeerDefinition names a hub that is to be a peer.
type PeerDefinition struct {
	URL         string `json:"url"`
	Fingerprint string `json:"fingerprint"` // as its own operator reads it
	// Authority are the URI prefixes it speaks for. None means those that it claims
	// and the hosts of the content confirm.
	Authority []string `json:"authority,omitempty"`
}

// Peer is a hub that this one exchanges with, and how that goes.
type Peer struct {
	URL         string    `json:"url"`
	Fingerprint string    `json:"fingerprint"`
	Configured  bool      `json:"configured"` // the configuration names it, and alone changes it
	Phase       string    `json:"phase"`
	Fault       string    `json:"fault,omitempty"`  // why it waits; may be in the peer's words
	Silent      bool      `json:"silent,omitempty"` // so long that what it left unsettled was settled
	LastHeard   time.Time `json:"last_heard,omitzero"`
	Authority   []string  `json:"authority"` // URI prefixes that it speaks for now
	Hears       PeerHears `json:"hears"`
	Tells       PeerTells `json:"tells"`
}

// PeerHears is about what the peer speaks for and something here depends on. Counts of
// what passed are those since the hub started.
type PeerHears struct {
	Epoch         string    `json:"epoch,omitempty"` // of the peer's store, as it was met last
	Position      uint64    `json:"position"`
	Mirrors       int64     `json:"mirrors"` // its resources that something here depends on
	Generation    uint64    `json:"generation"`
	Pending       uint64    `json:"pending"`                  // changes of what is wanted that it has not taken yet
	Taken         uint64    `json:"taken"`                    // those that it took
	Rejected      uint64    `json:"rejected"`                 // resources that it does not tell of
	FirstRejected string    `json:"first_rejected,omitempty"` // why, in the peer's words
	Changed       int       `json:"changed"`                  // states that were news
	Same          int       `json:"same"`                     // states with the content that was known
	Old           int       `json:"old"`
	Unwanted      int       `json:"unwanted"` // states of what nothing depends on any more
	Refused       uint64    `json:"refused"`  // states that are none
	Sessions      uint64    `json:"sessions"`
	Failures      uint64    `json:"failures"`
	Compared      time.Time `json:"compared,omitzero"`
	Mended        uint64    `json:"mended"` // differences that comparisons found
}

// PeerTells is about what the hub speaks for and something at the peer depends on.
type PeerTells struct {
	Epoch      string `json:"epoch,omitempty"` // of the peer's store, as it told
	Interests  int64  `json:"interests"`       // resources of this hub that something there depends on
	Generation uint64 `json:"generation"`
	Applied    uint64 `json:"applied"`
	Acked      uint64 `json:"acked"`
	Waiting    int    `json:"waiting"` // states that it has not acknowledged, counted up to 10,000
	Told       uint64 `json:"told"`
	Denied     uint64 `json:"denied"` // resources that it asked for and may not have
	Faulty     uint64 `json:"faulty"` // requests in its name that were none, or did not prove who asks
	Streams    int    `json:"streams"`
}

// Peers lists the hubs that this one exchanges with, and tells who it is to them.
func (c *Client) Peers(ctx context.Context) (own HubIdentity, list []Peer, err error) {
	var out struct {
		Hub   HubIdentity `json:"hub"`
		Items []Peer      `json:"items"`
	}
	err = c.get(ctx, "/v1/peers", nil, &out)
	return out.Hub, out.Items, err
}

// Peer shows the peer with that URL.
func (c *Client) Peer(ctx context.Context, peer string) (p Peer, err error) {
	err = c.get(ctx, "/v1/peer", url.Values{"url": {peer}}, &p)
	return p, err
}

// LookPeer has the hub find out who is at a URL. That makes nobody a peer.
func (c *Client) LookPeer(ctx context.Context, peer string) (seen HubIdentity, err error) {
	err = c.send(ctx, http.MethodPost, "/v1/peers", struct {
		URL string `json:"url"`
	}{peer}, &seen)
	return seen, err
}

// AddPeer makes a hub a peer; one that is there already is given another fingerprint or
// authority. The hub believes nothing that was signed with a key of another fingerprint,
// which therefore comes from the peer's operator and not from the peer's address.
func (c *Client) AddPeer(ctx context.Context, d PeerDefinition) (p Peer, err error) {
	if d.Fingerprint == "" { // the hub would take that for a question
		return p, errors.New("a peer without a fingerprint: ask its operator for it")
	}
	err = c.send(ctx, http.MethodPost, "/v1/peers", d, &p)
	return p, err
}

// ControlPeer stops the exchange with a peer ("pause"), lets it go on at once
// ("resume"), or has all told anew and compared ("resync"), or compared alone ("compare").
func (c *Client) ControlPeer(ctx context.Context, peer, action string) (p Peer, err error) {
	err = c.send(ctx, http.MethodPost, "/v1/peer?"+url.Values{"url": {peer}}.Encode(), struct {
		Action string `json:"action"`
	}{action}, &p)
	return p, err
}

// RemovePeer ends that a hub is a peer, and has the hub forget what the peer wanted to
// hear.
func (c *Client) RemovePeer(ctx context.Context, peer string) error {
	req, err := c.request(ctx, http.MethodDelete, "/v1/peer", url.Values{"url": {peer}}, "", nil)
	if err != nil {
		return err
	}
	return c.do(req, nil)
}
