package hub

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/auth"
	"github.com/freshwire/freshwire/subscriptions/websub"
)

func TestADeniedTopicIsToldToTheCallback(t *testing.T) {
	h := startWebSub(t, func(c *Config) { c.WebSub.DenyTopics = []string{"/topics/closed", "https://hub.example/topics/all"} })
	h.open("closed")
	s := newSubscriber(t)
	for i, topic := range []string{h.topic("closed"), h.topic("closed") + "?format=atom", h.topic("all")} {
		h.accepted(h.ask(h.form(s.server.URL+"/a?b=c", "hub.topic", topic)))
		c := s.await(i+1, isGet)
		if c.mode() != "denied" || c.query.Get("hub.topic") != topic || c.query.Get("hub.reason") == "" || c.query.Has("hub.challenge") || c.query.Get("b") != "c" {
			t.Errorf("%s: told %s", topic, c.uri)
		}
		h.settled()
	}
	if got := h.listed(); len(got) != 0 {
		t.Errorf("subscribed: %+v", got)
	}
}

// denied waits until the callback was told that its subscription to a topic is denied,
// and checks that it has ended.
func (h *webSubHub) denied(s *subscriber, topic string) {
	h.testHub.t.Helper()
	c := s.await(1, isMode("denied"))
	if c.query.Get("hub.topic") != topic || c.query.Get("hub.reason") == "" {
		h.testHub.t.Errorf("told %s", c.uri)
	}
	h.gone(s.server.URL + "/a")
}

func TestASubscriptionEndsWithDenialWhenItsChannelIsDeleted(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	h.subscribe(s, "/a")
	h.admin("DELETE", "/v1/channels/open", "")
	h.denied(s, h.topic("open"))
}

func TestASubscriptionEndsWithDenialWhenItsChannelIsNotPublicAnyMore(t *testing.T) {
	h := startKeyedWebSub(t, nil)
	s, kept := newSubscriber(t), newSubscriber(t)
	h.subscribe(s, "/a")
	h.accepted(h.askAs(enwiki, h.form(kept.server.URL+"/a")))
	h.inForce(kept.server.URL + "/a")
	h.admin("PUT", "/v1/channels/open", `{"host":["en.example.org"]}`)
	h.denied(s, h.topic("open"))
	h.edit(aPage, 1)
	kept.await(1, isPost)
	if s.count(isPost) != 0 {
		t.Error("it was delivered to after all")
	}
}

func TestASubscriptionEndsWithDenialWhenTheOperatorDeniesItsTopic(t *testing.T) {
	h := startWebSub(t, nil)
	s, kept := newSubscriber(t), newSubscriber(t)
	h.open("other")
	h.subscribe(s, "/a")
	h.subscribe(kept, "/a", "hub.topic", h.topic("other"))
	if err := h.websub.SetPolicy(websub.Policy{DenyTopics: []string{"nonsense"}}); err == nil {
		t.Error("a policy that cannot be read is taken")
	}
	if err := h.websub.SetPolicy(websub.Policy{DenyTopics: []string{"/topics/open"}}); err != nil {
		t.Fatal(err)
	}
	h.denied(s, h.topic("open"))
	h.edit(aPage, 1)
	kept.await(1, isPost)
}

func TestASubscriptionEndsWithDenialWhenTheOperatorAsksForTokens(t *testing.T) {
	h := startKeyedWebSub(t, nil)
	s := newSubscriber(t)
	h.subscribe(s, "/a")
	if err := h.websub.SetPolicy(websub.Policy{RequireToken: true}); err != nil {
		t.Fatal(err)
	}
	h.denied(s, h.topic("open"))
	if a := h.ask(h.form(s.server.URL + "/a")); a.status != http.StatusUnauthorized {
		t.Errorf("the next one is answered %d", a.status)
	}
}

func TestASubscriptionEndsWithDenialWhenAnAdministratorEndsIt(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	got := h.subscribe(s, "/a")
	if a := h.testHub.do("DELETE", "/v1/subscriptions/"+got.ID, ""); a.status != http.StatusNoContent {
		t.Errorf("answered %d %s", a.status, a.body)
	}
	h.denied(s, h.topic("open"))
}

func TestASubscriptionEndsWithDenialWhenItsOwnerLosesTheRight(t *testing.T) {
	h := startKeyedWebSub(t, nil)
	// A channel that is not public, of one wiki.
	h.admin("PUT", "/v1/channels/private", `{"host":["en.example.org"]}`)
	resource := h.testHub.URL() + "/topics/resource?uri=https%3A%2F%2Fen.example.org%2Fwiki%2FBerlin"
	s, kept := newSubscriber(t), newSubscriber(t)
	now := time.Now()
	token := func(iat time.Time, prefixes ...string) string {
		t.Helper()
		r := auth.Rights{Subject: "enwiki", Subscribe: prefixes}
		token, err := h.key.Mint(auth.Grant{Issuer: testIssuer, Audience: testAudience, TTL: time.Hour, Rights: r}, iat)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	with := func(token, callback, topic string) *reply {
		t.Helper()
		return h.ask(h.form(callback, "hub.topic", topic), "Authorization", "Bearer "+token)
	}
	wide, narrow := token(now.Add(-2*time.Minute), "https://en.example.org", "https://de.example.org"), token(now.Add(-time.Minute), "https://de.example.org")
	h.accepted(with(wide, s.server.URL+"/a", resource))
	h.accepted(with(wide, kept.server.URL+"/a", h.topic("private")))
	h.inForce(s.server.URL + "/a")
	h.inForce(kept.server.URL + "/a")
	if a := with(narrow, s.server.URL+"/new", resource); a.status != http.StatusForbidden {
		t.Errorf("with the newer token it is answered %d %s", a.status, a.body)
	}
	h.denied(s, resource)
	// The channel is still one of which the newest token may show something, and not this.
	witness := newSubscriber(t)
	h.subscribe(witness, "/a")
	h.edit(aPage, 1)
	witness.await(1, isPost)
	if h.find(kept.server.URL+"/a") == nil || kept.count(isPost) != 0 {
		t.Error("the other subscription went with it, or shows what its owner may not see")
	}
	if a := with(wide, s.server.URL+"/new", resource); a.status != http.StatusForbidden {
		t.Errorf("with the older token, which is still good, it is answered %d", a.status)
	}
	h.accepted(with(token(now, "https://en.example.org"), s.server.URL+"/a", resource))
	h.inForce(s.server.URL + "/a")
	h.edit(aPage, 2)
	kept.await(1, func(c *gotCall) bool { return isPost(c) && strings.Contains(string(c.body), `"version":"2"`) })
}

func TestNobodyWithoutATokenGetsMoreThanPublicTopics(t *testing.T) {
	h := startKeyedWebSub(t, nil)
	h.admin("PUT", "/v1/channels/private", `{"host":["en.example.org"]}`)
	s := newSubscriber(t)
	for _, topic := range []string{h.topic("private"), h.topic("nothing"), h.topic("all"), h.topic("host:en.example.org"),
		h.testHub.URL() + "/topics/resource?uri=https%3A%2F%2Fen.example.org%2Fwiki%2FBerlin"} {
		a := h.ask(h.form(s.server.URL+"/a", "hub.topic", topic))
		if a.status != http.StatusUnauthorized || strings.Contains(string(a.body), "no such") {
			t.Errorf("%s: %d %s", topic, a.status, a.body)
		}
	}
	h.subscribe(s, "/a")
}

func TestWhatIsSomebodysIsNotRenewedOrEndedByOthers(t *testing.T) {
	h := startKeyedWebSub(t, nil)
	s := newSubscriber(t) // it confirms whatever it is asked
	h.accepted(h.askAs(enwiki, h.form(s.server.URL+"/a", "hub.secret", "secret")))
	h.inForce(s.server.URL + "/a")
	for _, mode := range []string{"subscribe", "unsubscribe"} {
		for who, a := range map[string]*reply{"a stranger": h.ask(h.form(s.server.URL+"/a", "hub.mode", mode)),
			"another": h.askAs(auth.Rights{Subject: "other", Subscribe: auth.Prefixes{"*"}}, h.form(s.server.URL+"/a", "hub.mode", mode))} {
			if a.status != http.StatusForbidden {
				t.Errorf("%s may %s: %d %s", who, mode, a.status, a.body)
			}
		}
	}
	h.settled()
	h.edit(aPage, 1)
	checkSignature(t, s.await(1, isPost), "secret")
	h.accepted(h.askAs(root, h.form(s.server.URL+"/a", "hub.mode", "unsubscribe")))
	h.gone(s.server.URL + "/a")
}

func TestALeaseRunsFromItsVerificationAndOut(t *testing.T) {
	h := startWebSub(t, func(c *Config) { c.ClockRate = 60 })
	s := newSubscriber(t)
	let := make(chan struct{})
	s.onVerify(func(w http.ResponseWriter, c *gotCall) { <-let; confirm(w, c) })
	h.accepted(h.ask(h.form(s.server.URL+"/a", "hub.lease_seconds", "120")))
	s.await(1, isGet)
	asked := h.clock.Now()
	pass(time.Second)
	confirmed := h.clock.Now()
	close(let)
	got := h.inForce(s.server.URL + "/a")
	if got.LeaseUntil.Before(confirmed.Add(120*time.Second)) || confirmed.Sub(asked) < 30*time.Second {
		t.Errorf("asked for at %s, confirmed at %s, the lease ends at %s", asked, confirmed, got.LeaseUntil)
	}
	h.edit(aPage, 1)
	s.await(1, isPost)
	h.gone(s.server.URL + "/a")
	if now := h.clock.Now(); now.Before(got.LeaseUntil) {
		t.Errorf("it ended at %s, before its lease at %s", now, got.LeaseUntil)
	}
	calls := s.count(func(*gotCall) bool { return true })
	h.edit(aPage, 2)
	other := newSubscriber(t)
	h.subscribe(other, "/b")
	h.edit(aPage, 3)
	other.await(1, isPost)
	if n := s.count(func(*gotCall) bool { return true }); n != calls {
		t.Errorf("%d calls after the end of its lease", n-calls)
	}
}

func TestARenewalLeavesNoGap(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	h.subscribe(s, "/a")
	stop := make(chan struct{})
	renewed := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				renewed <- n
				return
			default:
				h.ask(h.form(s.server.URL + "/a"))
				n++
				pass(3 * time.Millisecond)
			}
		}
	}()
	const edits = 60
	for i := range edits {
		h.edit(aPage, i+1)
	}
	close(stop)
	n := <-renewed
	s.await(1, func(c *gotCall) bool { return isPost(c) && strings.Contains(string(c.body), `"version":"60"`) })
	taken, _ := s.of(isPost)
	prev := deliveredIn(t, taken[0]).Last
	for _, c := range taken[1:] {
		d := deliveredIn(t, c)
		if d.Prev != prev {
			t.Errorf("prev is %d after %d", d.Prev, prev)
		}
		prev = d.Last
	}
	t.Logf("%d renewals, %d documents", n, len(taken))
}
