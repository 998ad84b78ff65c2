package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/freshwire/freshwire/federation"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/auth"
	"github.com/freshwire/freshwire/hub/outbound"
	"github.com/freshwire/freshwire/subscriptions"
)

// An access is what a route asks of its caller before anything else. What the
// request is about is checked by the route, item by item.
type access uint8

const (
	forAll     access = iota // strangers as well
	forHolders               // of a token
	forAdmins                // who may do everything
)

// callerKey is where a request's context holds the rights of its sender.
type callerKey struct{}

// caller returns what the sender of r may do.
func caller(r *http.Request) *auth.Rights { return callerOf(r.Context()) }

// callerOf returns what the sender of the request whose context it is may do.
func callerOf(ctx context.Context) *auth.Rights {
	rights, _ := ctx.Value(callerKey{}).(*auth.Rights)
	if rights == nil {
		return new(auth.Rights)
	}
	return rights
}

// identify finds out who sent a request. On a hub without keys, which only loopback
// reaches, everybody is its administrator.
func (h *Hub) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, federation.Path) {
			next.ServeHTTP(w, r) // another hub: what it may do is not told by these tokens
			return
		}
		rights, err := h.rightsOf(r)
		if err != nil {
			var no *auth.Error
			if errors.As(err, &no) {
				h.metrics.tokens.WithLabelValues(string(no.Reason)).Inc()
			}
			writeProblem(w, problemOf(err))
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, &rights)))
	})
}

// rightsOf reads the token of r, if there is one.
// Source: RFC 6750 section 2.1. A token in the query or in a form, which end up in
// logs and histories, is not looked for.
func (h *Hub) rightsOf(r *http.Request) (auth.Rights, error) {
	trust := h.trust.Load()
	if trust == nil {
		return auth.Administrator(), nil
	}
	values := r.Header.Values("Authorization")
	switch len(values) {
	case 0:
		return auth.Rights{}, nil
	case 1:
	default:
		return auth.Rights{}, &auth.Error{Reason: auth.Malformed, Detail: "the Authorization header stands more than once"}
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return auth.Rights{}, &auth.Error{Reason: auth.Malformed, Detail: "the Authorization header does not say Bearer"}
	}
	return trust.tokens.Verify(r.Context(), strings.TrimLeft(token, " "))
}

// challenge tells a client how to be let in.
// Source: RFC 6750 section 3.
func challenge(p Problem) string {
	if p.Type == problemBase+badToken.slug {
		return `Bearer error="invalid_token"`
	}
	return "Bearer"
}

// check refuses a caller who has less than a.
func (a access) check(r *http.Request) error {
	rights := caller(r)
	switch {
	case a == forAll || rights.Admin:
		return nil
	case rights.Anonymous():
		return refuse(unauthorized, "", "there is no token")
	case a == forAdmins:
		return refuse(forbidden, "", "this is for administrators; the token does not say admin")
	}
	return nil
}

// guard lets only those through to next who have a.
func (a access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := a.check(r); err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maySee refuses who may not be shown uri, whether or not there is such a resource:
// the answer must not tell.
func maySee(r *http.Request, field, uri string) error {
	if caller(r).Sees(uri) {
		return nil
	}
	return refuse(forbidden, field, "the token's subscribe does not cover %.200q", uri)
}

// mayChange refuses who may not change what the hub knows of uri.
func mayChange(r *http.Request, field, uri string) error {
	if caller(r).MayPublish(uri) {
		return nil
	}
	return refuse(forbidden, field, "the token's publish does not cover %.200q", uri)
}

// mayChangeAll is mayChange for each update of a batch. All that an update touches,
// its aspects included, lies under its own URI.
func mayChangeAll(r *http.Request, us []graph.Update) error {
	rights := caller(r)
	if rights.Admin {
		return nil
	}
	for i := range us {
		if !rights.MayPublish(us[i].URI) {
			no := refuse(forbidden, "uri", "the token's publish does not cover %.200q", us[i].URI)
			no.item = &i
			return no
		}
	}
	return nil
}

// shownCause is c if the caller may know of it, and nothing otherwise.
func shownCause(r *http.Request, c graph.Cause) graph.Cause {
	if c.URI == "" || caller(r).Sees(c.URI) {
		return c
	}
	return graph.Cause{}
}

// shownItems leaves out of a page of a listing what the caller may not see. A page
// may so be short, or empty, and not be the last.
func shownItems(r *http.Request, items []graph.Item) []graph.Item {
	rights := caller(r)
	if rights.SeesAll() {
		return items
	}
	shown := make([]graph.Item, 0, len(items))
	for _, it := range items {
		if rights.Sees(it.URI) {
			shown = append(shown, it)
		}
	}
	return shown
}

// A trust is whose tokens are believed.
type trust struct {
	keys   *auth.Keys
	tokens *auth.Verifier
}

// openTrust reads the keys that tokens are checked with.
func (h *Hub) openTrust(ctx context.Context, c *Config) (*trust, error) {
	ctx, cancel := context.WithTimeout(ctx, headerDeadline)
	defer cancel()
	issuer := outbound.New(outbound.Policy{Purpose: "keys", Allow: c.Auth.JWKSAllow, MaxAnswer: auth.MaxKeySet + 1})
	keys, err := auth.OpenKeys(ctx, c.Auth.JWKS, auth.KeysOptions{Log: h.log.With("component", "auth"),
		Fetch: func(ctx context.Context, url string) ([]byte, error) { return fetchKeys(ctx, issuer, url) }})
	if err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	return &trust{keys, auth.NewVerifier(auth.Options{Keys: keys, Issuer: c.Auth.Issuer, Audience: c.audience(), Schemes: c.Schemes})}, nil
}

// asksForTokens reports whether whoever sends a request has to say who it is.
func (h *Hub) asksForTokens() bool { return h.trust.Load() != nil }

// believe has the tokens of t believed, and those of nobody else.
func (h *Hub) believe(t *trust) {
	h.trust.Store(t)
	select {
	case h.believed <- struct{}{}:
	default: // it will look at the newest anyway
	}
}

// followKeys keeps the keys fresh of those who are believed, until ctx ends.
func (h *Hub) followKeys(ctx context.Context) error {
	for ctx.Err() == nil {
		following, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- h.trust.Load().keys.Run(following) }()
		select {
		case <-ctx.Done():
		case <-h.believed:
		}
		stop()
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

// fetchKeys gets a key set from its issuer.
func fetchKeys(ctx context.Context, c *outbound.Client, url string) ([]byte, error) {
	defer c.Close() // the next call is minutes away
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	answer, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the issuer answers %d", answer.StatusCode)
	}
	return io.ReadAll(answer.Body)
}

// viewer tells the streams who asks.
func viewer(r *http.Request) (subscriptions.Viewer, error) {
	rights := caller(r)
	v := subscriptions.Viewer{Name: rights.Subject, All: rights.SeesAll(), Prefixes: rights.Subscribe,
		Anonymous: rights.Anonymous(), Expires: rights.Expires}
	if v.Name == auth.Local { // everybody on this machine
		v.Name = ""
	}
	return v, nil
}

// accessText says at start who may do what.
func (h *Hub) accessText() string {
	if !h.asksForTokens() {
		return "loopback is admin"
	}
	return "tokens"
}
