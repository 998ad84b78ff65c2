package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/freshwire/freshwire/hub/client"
)

const (
	identity = `{"url":"https://commons.example","fingerprint":"SHA256:a+b","authority":["https://files.example"],"epoch":"1f00c5d2"}`
	aPeer    = `{"url":"https://commons.example","fingerprint":"SHA256:a+b","configured":true,"phase":"waiting","fault":"no","silent":true,` +
		`"last_heard":"2026-11-22T02:12:49Z","authority":["https://files.example"],` +
		`"hears":{"epoch":"1f00c5d2","position":1,"mirrors":2,"generation":3,"pending":4,"taken":5,"rejected":6,"first_rejected":"why",` +
		`"changed":7,"same":8,"old":9,"unwanted":10,"refused":11,"sessions":12,"failures":13,"compared":"2026-11-22T02:12:49Z","mended":14},` +
		`"tells":{"epoch":"5f3a0000","interests":15,"generation":16,"applied":17,"acked":18,"waiting":19,"told":20,"denied":21,"faulty":23,"streams":22}}`
)

var peerCalls = []call{
	{"peers are listed with who the hub is to them",
		func(ctx context.Context, c *client.Client) (any, error) {
			own, list, err := c.Peers(ctx)
			return []any{own, list}, err
		},
		"GET", "/v1/peers", "", "", `{"hub":` + identity + `,"items":[` + aPeer + `]}`,
		`[` + identity + `,[` + aPeer + `]]`},
	{"a peer is asked for by its URL, all of it read",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.Peer(ctx, "https://commons.example")
		},
		"GET", "/v1/peer?url=https%3A%2F%2Fcommons.example", "", "", aPeer, aPeer},
	{"a hub is looked at without a fingerprint",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.LookPeer(ctx, "https://commons.example")
		},
		"POST", "/v1/peers", "application/json", `{"url":"https://commons.example"}`, identity, identity},
	{"a hub is made a peer",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.AddPeer(ctx, client.PeerDefinition{URL: "https://commons.example", Fingerprint: "SHA256:a+b"})
		},
		"POST", "/v1/peers", "application/json", `{"url":"https://commons.example","fingerprint":"SHA256:a+b"}`, aPeer, aPeer},
	{"a hub is made a peer that speaks for a prefix",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.AddPeer(ctx, client.PeerDefinition{URL: "https://commons.example", Fingerprint: "SHA256:a+b",
				Authority: []string{"https://files.example/a&b"}})
		},
		"POST", "/v1/peers", "application/json",
		`{"url":"https://commons.example","fingerprint":"SHA256:a+b","authority":["https://files.example/a&b"]}`, aPeer, aPeer},
	{"a peer is steered",
		func(ctx context.Context, c *client.Client) (any, error) {
			return c.ControlPeer(ctx, "https://commons.example:8443", "resync")
		},
		"POST", "/v1/peer?url=https%3A%2F%2Fcommons.example%3A8443", "application/json", `{"action":"resync"}`, aPeer, aPeer},
}

func TestNobodyIsMadeAPeerWithoutAFingerprint(t *testing.T) {
	c := serve(t, 200, nil, identity)
	if p, err := c.AddPeer(t.Context(), client.PeerDefinition{URL: "https://commons.example"}); err == nil {
		t.Errorf("got %+v, want an error: the hub was not asked for a peer", p)
	}
}

func TestAPeerIsRemovedByItsURL(t *testing.T) {
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method+" "+r.RequestURI != "DELETE /v1/peer?url=https%3A%2F%2Fcommons.example" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer hub.Close()
	c := connect(t, hub, client.Options{})
	if err := c.RemovePeer(t.Context(), "https://commons.example"); err != nil {
		t.Error(err)
	}
	if p := (*client.Problem)(nil); !errors.As(c.RemovePeer(t.Context(), "https://other.example"), &p) || p.Status != 404 {
		t.Errorf("got %v, want a *Problem of 404", p)
	}
}
