package hub

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A crashingHub is a hub in a process of its own that is killed, and those whom it
// calls.
type crashingHub struct {
	*hubProcess
}

func startCrashing(t *testing.T) *crashingHub {
	t.Helper()
	h := &crashingHub{startProcess(t, 0, "CALLBACK_ALLOW=127.0.0.0/8", "RETRY_FIRST=20ms", "WEBSUB_VERIFY_RATE=10000", "DELIVERY_TIMEOUT=5s")}
	h.send("PUT", "/v1/channels/open", typeJSON, `{"host":["en.example.org"],"public":true}`)
	return h
}

// send sends a request again and again until the hub has answered it with success.
func (h *crashingHub) send(method, path, media, body string) {
	h.t.Helper()
	eventually(h.t, method+" "+path, func() bool {
		status, _ := h.once(method, path, media, body)
		return status/100 == 2
	})
}

func (h *crashingHub) once(method, path, media, body string) (int, string) {
	h.t.Helper()
	r, err := http.NewRequest(method, h.url()+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Content-Type", media)
	a, err := h.client.Do(r)
	if err != nil {
		return 0, ""
	}
	defer a.Body.Close()
	got, _ := io.ReadAll(a.Body)
	return a.StatusCode, string(got)
}

func (h *crashingHub) ask(callback, mode string) {
	h.t.Helper()
	h.send("POST", "/websub", typeForm, url.Values{"hub.mode": {mode}, "hub.callback": {callback}, "hub.secret": {"secret"},
		"hub.topic": {h.url() + "/topics/open"}}.Encode())
}

func (h *crashingHub) edit(page string, version int) {
	h.t.Helper()
	h.send("POST", "/v1/updates", typeJSON, fmt.Sprintf(`{"uri":%q,"version":"%d"}`, page, version))
}

// again kills the hub and starts it.
func (h *crashingHub) again() {
	h.t.Helper()
	h.kill()
	h.start()
}

// subscribed reports whether there is a subscription.
func (h *crashingHub) subscribed() bool {
	_, list := h.once("GET", "/v1/subscriptions", typeJSON, "")
	return strings.Contains(list, `"id"`)
}

func TestAHubThatIsKilledBeforeTheVerificationIsAnsweredVerifiesAgain(t *testing.T) {
	h := startCrashing(t)
	s := newSubscriber(t)
	let := make(chan struct{})
	s.onVerify(func(http.ResponseWriter, *gotCall) { <-let })
	h.ask(s.server.URL+"/a", "subscribe")
	first := s.await(1, isGet)
	s.onVerify(nil)
	h.again()
	close(let)
	again := s.await(2, isGet)
	if again.mode() != "subscribe" || again.query.Get("hub.challenge") == first.query.Get("hub.challenge") || again.query.Get("hub.lease_seconds") != first.query.Get("hub.lease_seconds") {
		t.Errorf("first %s, then %s", first.uri, again.uri)
	}
	eventually(t, "it is subscribed", h.subscribed)
	h.edit(aPage, 1)
	checkSignature(t, s.await(1, isPost), "secret")
}

func TestAHubThatIsKilledWhileItIsConfirmedAsksAgainOrKnows(t *testing.T) {
	h := startCrashing(t)
	for i := range 6 {
		s := newSubscriber(t)
		answered := make(chan struct{}, 10)
		s.onVerify(func(w http.ResponseWriter, c *gotCall) {
			confirm(w, c)
			w.(http.Flusher).Flush()
			answered <- struct{}{}
		})
		h.ask(s.server.URL+"/a", "subscribe")
		<-answered
		pass(time.Duration(i) * time.Millisecond)
		h.again()
		eventually(t, "it is subscribed", h.subscribed)
		h.edit(aPage, 2*i+1)
		s.await(1, isPost)
		s.onVerify(nil)
		h.ask(s.server.URL+"/a", "unsubscribe")
		eventually(t, "it is not", func() bool { return !h.subscribed() })
	}
}

func TestAHubThatIsKilledDuringADeliveryDeliversTheSameAgain(t *testing.T) {
	h := startCrashing(t)
	s := newSubscriber(t)
	h.ask(s.server.URL+"/a", "subscribe")
	eventually(t, "it is subscribed", h.subscribed)
	let := make(chan struct{})
	s.onTake(func(http.ResponseWriter, *gotCall) { <-let })
	h.edit(aPage, 1)
	first := s.await(1, isPost)
	s.onTake(nil)
	h.again()
	close(let)
	again := s.await(2, isPost)
	if string(again.body) != string(first.body) || again.header.Get("webhook-id") != first.header.Get("webhook-id") {
		t.Errorf("first %s %s\nthen %s %s", first.header.Get("webhook-id"), first.body, again.header.Get("webhook-id"), again.body)
	}
	checkSignature(t, again, "secret")
}

func TestAHubThatIsKilledAtAnyMomentOwesItsSubscribersWhatItOwed(t *testing.T) {
	h := startCrashing(t)
	seed := soakSeeds(t)[0]
	t.Logf("SOAK_SEED=%d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	s, failing := newSubscriber(t), newSubscriber(t)
	h.ask(s.server.URL+"/a", "subscribe")
	h.ask(failing.server.URL+"/b", "subscribe")
	eventually(t, "both are subscribed", func() bool {
		_, list := h.once("GET", "/v1/subscriptions", typeJSON, "")
		return strings.Count(list, `"id"`) == 2
	})
	n := 0
	failing.onTake(func(w http.ResponseWriter, c *gotCall) {
		failing.mu.Lock()
		n++
		fails := n%3 != 0
		failing.mu.Unlock()
		if fails {
			w.WriteHeader(500)
		}
	})
	want := map[string]int{}
	version := 0
	for range 8 {
		for range 3 + dice.IntN(10) {
			version++
			page := fmt.Sprintf("https://en.example.org/wiki/%d", dice.IntN(5))
			h.edit(page, version)
			want[page] = version
		}
		pass(time.Duration(dice.IntN(40)) * time.Millisecond)
		h.again()
	}
	failing.onTake(nil)
	for _, who := range []*subscriber{s, failing} {
		got := map[string]int{}
		has := func() bool {
			calls, _ := who.of(isPost)
			for _, c := range calls {
				for _, n := range deliveredIn(t, c).Notices {
					v, _ := strconv.Atoi(n.Version)
					got[n.URI] = max(got[n.URI], v)
				}
			}
			for page, v := range want {
				if got[page] < v {
					return false
				}
			}
			return true
		}
		eventually(t, "a subscriber has the newest of each page", has)
		ids := map[string]string{}
		calls, _ := who.of(isPost)
		for _, c := range calls {
			id := c.header.Get("webhook-id")
			if body, was := ids[id]; was && body != string(c.body) {
				t.Errorf("%s names two documents:\n%s\n%s", id, body, c.body)
			}
			ids[id] = string(c.body)
			checkSignature(t, c, "secret")
		}
	}
}
