package hub

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/auth"
)

// checkSignature checks a delivery as a subscriber would, who knows the secret: by
// the Recommendation, and by Standard Webhooks with its tolerance of five minutes.
func checkSignature(t testing.TB, c *gotCall, secret string) {
	t.Helper()
	method, digest, _ := strings.Cut(c.header.Get("X-Hub-Signature"), "=")
	new := map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}[method]
	if new == nil {
		t.Errorf("X-Hub-Signature: %q", c.header.Get("X-Hub-Signature"))
		return
	}
	mac := hmac.New(new, []byte(secret))
	mac.Write(c.body)
	if want := hex.EncodeToString(mac.Sum(nil)); digest != want {
		t.Errorf("X-Hub-Signature is %s, want %s", digest, want)
	}
	key := []byte(secret)
	if text, is := strings.CutPrefix(secret, "whsec_"); is {
		key, _ = base64.StdEncoding.DecodeString(text)
	}
	id, stamp := c.header.Get("webhook-id"), c.header.Get("webhook-timestamp")
	mac = hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, stamp, c.body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); id == "" || c.header.Get("webhook-signature") != want {
		t.Errorf("webhook-signature is %q of id %q, want %s", c.header.Get("webhook-signature"), id, want)
	}
	if at, err := strconv.ParseInt(stamp, 10, 64); err != nil || c.at.Sub(time.Unix(at, 0)).Abs() > 5*time.Minute {
		t.Errorf("webhook-timestamp is %q", stamp)
	}
}

func TestADeliveryIsTheTopicAsItIs(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	h.subscribe(s, "/cb?token=1")
	h.edit(aPage, 1)
	c := s.await(1, isPost)
	if c.uri != "/cb?token=1" || c.header.Get("Content-Type") != "application/json" {
		t.Errorf("called %s with %v", c.uri, c.header)
	}
	if links := c.header.Values("Link"); len(links) != 1 || links[0] != fmt.Sprintf(`<%s/websub>; rel="hub", <%s>; rel="self"`, h.testHub.URL(), h.topic("open")) {
		t.Errorf("Link: %q", links)
	}
	d := deliveredIn(t, c)
	if d.Channel != "open" || d.Self != h.topic("open") || d.Hub != h.testHub.URL()+"/websub" || len(d.Notices) != 1 || d.Notices[0].URI != aPage || d.First != d.Last {
		t.Errorf("the document is %s", c.body)
	}
	for i := 2; i < 5; i++ {
		h.edit(aPage, i)
		next := deliveredIn(t, s.await(i, isPost))
		if next.Prev != d.Last || next.First <= d.Last {
			t.Errorf("after %d comes a document with prev %d and first %d", d.Last, next.Prev, next.First)
		}
		d = next
	}
}

func TestATopicIsDeliveredInTheFormThatWasSubscribed(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	resource := h.testHub.URL() + "/topics/resource?uri=" + url.QueryEscape(aPage)
	h.subscribe(s, "/atom", "hub.topic", h.topic("open")+"?format=atom")
	h.subscribe(s, "/json", "hub.topic", h.topic("open")+"?format=json")
	h.subscribe(s, "/resource", "hub.topic", resource)
	h.subscribe(s, "/prompt", "hub.topic", h.topic("open")+"?lane=prompt")
	h.subscribe(s, "/bulk", "hub.topic", h.topic("open")+"?lane=bulk")
	h.subscribe(s, "/all", "hub.topic", h.topic("all"))
	h.edit("https://en.example.org/wiki/Rome", 1)
	h.edit(aPage, 1)
	for path, want := range map[string]struct{ media, self string }{
		"/atom":     {"application/atom+xml", h.topic("open") + "?format=atom"},
		"/json":     {"application/json", h.topic("open") + "?format=json"},
		"/resource": {"application/json", resource},
		"/prompt":   {"application/json", h.topic("open") + "?lane=prompt"},
		"/all":      {"application/json", h.topic("all")},
	} {
		c := s.await(1, func(c *gotCall) bool { return isPost(c) && c.uri == path })
		if media, _, _ := strings.Cut(c.header.Get("Content-Type"), ";"); media != want.media || !strings.Contains(c.header.Get("Link"), "<"+want.self+`>; rel="self"`) {
			t.Errorf("%s: %v", path, c.header)
		}
		switch path {
		case "/atom":
			var feed struct {
				Links []struct {
					Rel  string `xml:"rel,attr"`
					Href string `xml:"href,attr"`
				} `xml:"link"`
				Entries []struct{} `xml:"entry"`
			}
			if err := xml.Unmarshal(c.body, &feed); err != nil || len(feed.Entries) == 0 || len(feed.Links) < 2 {
				t.Errorf("%v: %+v of %s", err, feed, c.body)
			}
		case "/resource":
			if d := deliveredIn(t, c); d.Resource != aPage || d.Notices[0].URI != aPage {
				t.Errorf("%s", c.body)
			}
		}
	}
	if n := s.count(func(c *gotCall) bool { return isPost(c) && c.uri == "/bulk" }); n != 0 {
		t.Errorf("who follows the other lane got %d documents", n)
	}
}

func TestAnySuccessIsOneWhateverItsBodySays(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	for i, status := range []int{200, 201, 202, 204, 299} {
		h.subscribe(s, fmt.Sprintf("/%d", status))
		s.onTake(func(w http.ResponseWriter, c *gotCall) {
			var n int
			fmt.Sscanf(c.uri, "/%d", &n)
			w.WriteHeader(n)
			if n != 204 {
				w.Write([]byte("hub.mode=denied error 500 " + strings.Repeat("x", 100_000)))
			}
		})
		h.edit(aPage, i+1)
		callback := s.server.URL + fmt.Sprintf("/%d", status)
		s.await(1, func(c *gotCall) bool { return isPost(c) && c.uri == fmt.Sprintf("/%d", status) })
		eventually(t, fmt.Sprintf("%d is a success", status), func() bool {
			got := h.find(callback)
			return got.Lag == 0 && got.Failures == 0 && got.LastSuccess != nil
		})
	}
}

func TestACallbackThatIsGoneEndsItsSubscription(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	h.subscribe(s, "/a")
	s.onTake(answering(http.StatusGone, ""))
	h.edit(aPage, 1)
	h.gone(s.server.URL + "/a")
	h.edit(aPage, 2)
	other := newSubscriber(t)
	h.subscribe(other, "/b")
	h.edit(aPage, 3)
	other.await(1, isPost)
	if posts, denials := s.count(isPost), s.count(isMode("denied")); posts != 1 || denials != 0 {
		t.Errorf("%d deliveries, %d denials", posts, denials)
	}
}

// redirecting answers that it is elsewhere, where it would be taken.
func redirecting(status int) func(http.ResponseWriter, *gotCall) {
	return func(w http.ResponseWriter, _ *gotCall) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}
}

func TestWhatIsNoSuccessIsTriedAgain(t *testing.T) {
	h := startWebSub(t, func(c *Config) {
		c.WebSub.DeliveryTimeout = 200 * time.Millisecond
		c.WebSub.RetrySchedule = slices.Repeat([]time.Duration{10 * time.Millisecond}, 20)
	})
	s := newSubscriber(t)
	h.subscribe(s, "/a", "hub.secret", "s")
	let := make(chan struct{})
	defer close(let)
	failures := []func(http.ResponseWriter, *gotCall){
		answering(500, ""), answering(404, ""), answering(400, ""), answering(503, ""),
		redirecting(301), redirecting(307), redirecting(308),
		func(w http.ResponseWriter, c *gotCall) { panic(http.ErrAbortHandler) },
		func(w http.ResponseWriter, c *gotCall) { <-let },
	}
	n := 0
	s.onTake(func(w http.ResponseWriter, c *gotCall) {
		s.mu.Lock()
		n++
		i := n - 1
		s.mu.Unlock()
		if i < len(failures) {
			failures[i](w, c)
		}
	})
	h.edit(aPage, 1)
	first := s.await(1, isPost)
	for i := range failures {
		c := s.await(i+2, isPost)
		if string(c.body) != string(first.body) || c.header.Get("webhook-id") != first.header.Get("webhook-id") || c.header.Get("webhook-id") == "" || c.uri != "/a" {
			t.Errorf("try %d is %s %q, the first one was %q", i+2, c.uri, c.header.Get("webhook-id"), first.header.Get("webhook-id"))
		}
		checkSignature(t, c, "s")
	}
	eventually(t, "it has succeeded", func() bool { got := h.find(s.server.URL + "/a"); return got.Lag == 0 && got.Failures == 0 })
	h.edit(aPage, 2)
	if c := s.await(len(failures)+2, isPost); c.header.Get("webhook-id") == first.header.Get("webhook-id") {
		t.Error("other content has the same id")
	}
}

func TestAfterGivingUpOnOneContentTheNextIsTried(t *testing.T) {
	h := startWebSub(t, func(c *Config) {
		c.WebSub.RetrySchedule = []time.Duration{10 * time.Millisecond, 20 * time.Millisecond}
	})
	s := newSubscriber(t)
	h.subscribe(s, "/a")
	s.onTake(answering(500, ""))
	h.edit(aPage, 1)
	first := s.await(3, isPost) // and there is no further try
	h.edit("https://en.example.org/wiki/Rome", 1)
	next := s.await(4, isPost)
	if h.find(s.server.URL+"/a") == nil {
		t.Fatal("the subscription went with its content")
	}
	s.onTake(nil)
	if a, b := deliveredIn(t, first), deliveredIn(t, next); len(a.Notices) != 1 || len(b.Notices) != 2 || b.First != a.First {
		t.Errorf("given up on %s, then tried %s", first.body, next.body)
	}
	h.edit("https://en.example.org/wiki/Paris", 1)
	eventually(t, "it has all", func() bool { return h.find(s.server.URL+"/a").Lag == 0 })
}

func TestADeliveryIsSignedWithTheSecret(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	for i, secret := range []string{"secret", "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef01234567")), "whsec_not base64", strings.Repeat("ä", 99)} {
		path := fmt.Sprintf("/%d", i)
		h.subscribe(s, path, "hub.secret", secret)
		h.edit(aPage, i+1)
		c := s.await(1, func(c *gotCall) bool { return isPost(c) && c.uri == path })
		if strings.Contains(secret, "not base64") {
			continue // what the key then is, is nobody's promise
		}
		checkSignature(t, c, secret)
		if !strings.HasPrefix(c.header.Get("X-Hub-Signature"), "sha256=") {
			t.Errorf("X-Hub-Signature: %s", c.header.Get("X-Hub-Signature"))
		}
	}
}

func TestWithoutASecretNothingIsSigned(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	h.subscribe(s, "/a")
	h.edit(aPage, 1)
	c := s.await(1, isPost)
	if c.header.Get("X-Hub-Signature") != "" || c.header.Get("webhook-signature") != "" || c.header.Get("webhook-id") == "" || c.header.Get("webhook-timestamp") == "" {
		t.Errorf("%v", c.header)
	}
}

func TestTheMethodOfTheSignatureIsASetting(t *testing.T) {
	for _, method := range []string{"sha1", "sha384", "sha512"} {
		h := startWebSub(t, func(c *Config) { c.WebSub.Signature = method })
		s := newSubscriber(t)
		h.subscribe(s, "/a", "hub.secret", "secret")
		h.edit(aPage, 1)
		c := s.await(1, isPost)
		checkSignature(t, c, "secret")
		if !strings.HasPrefix(c.header.Get("X-Hub-Signature"), method+"=") {
			t.Errorf("%s: X-Hub-Signature: %s", method, c.header.Get("X-Hub-Signature"))
		}
	}
}

func TestASlowOrDeadSubscriberDelaysNobody(t *testing.T) {
	h := startWebSub(t, func(c *Config) { c.WebSub.DeliveryTimeout = 10 * time.Second })
	slow, dead, s := newSubscriber(t), newSubscriber(t), newSubscriber(t)
	let := make(chan struct{})
	defer close(let)
	for i := range 20 {
		h.subscribe(slow, fmt.Sprintf("/%d", i))
	}
	h.subscribe(dead, "/b")
	h.subscribe(s, "/c")
	slow.onTake(func(http.ResponseWriter, *gotCall) { <-let })
	dead.server.Close()
	for i := range 10 {
		began := time.Now()
		h.edit(aPage, i+1)
		s.await(i+1, isPost)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("edit %d took %s", i+1, took)
		}
	}
}

func TestAnOwnerManagesItsSubscriptions(t *testing.T) {
	h := startKeyedWebSub(t, nil)
	s := newSubscriber(t)
	h.accepted(h.askAs(enwiki, h.form(s.server.URL+"/mine?key=secret", "hub.topic", h.topic("all"))))
	mine := h.inForce(s.server.URL + "/mine")
	other := auth.Rights{Subject: "other", Subscribe: auth.Prefixes{"*"}}
	path := "/v1/subscriptions/" + mine.ID
	var list struct {
		Items []subscriptionShape
		Next  string
	}
	h.as(other, "GET", "/v1/subscriptions", "").decode(t, &list)
	if len(list.Items) != 0 {
		t.Errorf("another sees %+v", list.Items)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if a := h.as(other, method, path, ""); a.status != 404 {
			t.Errorf("another's %s: %d %s", method, a.status, a.body)
		}
	}
	if a := h.as(other, "POST", path, `{"action":"pause"}`); a.status != 404 {
		t.Errorf("another pauses it: %d", a.status)
	}
	if a := h.testHub.do("GET", "/v1/subscriptions", ""); a.status != 401 {
		t.Errorf("a stranger's list: %d", a.status)
	}
	var one subscriptionShape
	h.as(enwiki, "GET", path, "").decode(t, &one)
	if one.Callback != s.server.URL+"/mine?key=secret" || one.Topic != h.topic("all") {
		t.Errorf("its owner sees %+v", one)
	}
	if shown := h.find(s.server.URL + "/mine"); strings.Contains(shown.Callback, "secret") || shown.Owner != "enwiki" {
		t.Errorf("an administrator sees %+v", shown)
	}
	act := func(body string) *reply { t.Helper(); return h.as(enwiki, "POST", path, body) }
	if a := act(`{"action":"pause"}`); a.status != 200 {
		t.Fatalf("pause: %d %s", a.status, a.body)
	}
	h.edit(aPage, 1)
	var result pingShape
	act(`{"action":"ping"}`).decode(t, &result)
	ping := s.await(1, isPost)
	if d := deliveredIn(t, ping); result.Status != 200 || len(d.Notices) != 0 {
		t.Errorf("a ping is answered %+v and sends %s", result, ping.body)
	}
	if s.count(isPost) != 1 {
		t.Error("it is delivered to while it is paused")
	}
	act(`{"action":"resume"}`)
	d := deliveredIn(t, s.await(2, isPost))
	if len(d.Notices) != 1 {
		t.Errorf("resumed: %+v", d)
	}
	act(fmt.Sprintf(`{"action":"replay","from":"%s.0"}`, d.Epoch))
	if again := deliveredIn(t, s.await(3, isPost)); len(again.Notices) != 1 || again.Last != d.Last {
		t.Errorf("replayed: %+v", again)
	}
	for _, body := range []string{`{}`, `{"action":"stop"}`, `{"action":"replay"}`, `{"action":"replay","from":"x"}`, `{"action":"pause","from":"1"}`, `{"action":"pause","then":1}`} {
		if a := act(body); a.status != 400 {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	if a := act(`{"action":"replay","from":"00000001.1"}`); !strings.Contains(string(a.body), "cursor-reset") {
		t.Errorf("a cursor of another journal: %d %s", a.status, a.body)
	}
	if a := act(`{"action":"replay","from":"now"}`); a.status != 200 {
		t.Errorf("what waits is left out: %d %s", a.status, a.body)
	}
	if a := h.as(enwiki, "DELETE", path, ""); a.status != 204 {
		t.Errorf("DELETE: %d %s", a.status, a.body)
	}
	if c := s.await(1, isMode("denied")); c.query.Get("hub.topic") != h.topic("all") || c.query.Get("hub.reason") == "" {
		t.Errorf("told %s", c.uri)
	}
	if a := h.as(enwiki, "GET", path, ""); a.status != 404 {
		t.Errorf("after its end: %d", a.status)
	}
}
