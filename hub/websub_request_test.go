package hub

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/auth"
)

// The lines of the contract and the tests that hold them. M is what the W3C
// Recommendation WebSub says hubs MUST do, S what they SHOULD, Y what they MAY, and P
// what practice adds.
//
//	subscription request
//	  M a form is answered 202 at once            TestASubscriptionIsAcceptedBeforeItIsVerified
//	  P other content types are 4xx               TestOnlyFormsAreTaken
//	  M S errors are 4xx with a plain reason      TestWhatIsWrongWithARequestIsToldInPlainText
//	  M unknown parameters are ignored            TestUnknownParametersAreIgnored
//	  M secrets below 200 bytes, P empty is none  TestSecretsHaveLessThan200Bytes
//	  Y M leases                                  TestALeaseIsWhatWasAskedForWithinBounds, TestALeaseThatIsNoneIsRefused
//	  M a renewal replaces, once verified         TestARenewalReplacesLeaseAndSecretOnceVerified, TestAFailedVerificationChangesNothing
//	  M encodings do not tell callbacks apart     TestCallbacksAreTheSameHoweverTheyAreEncoded
//	verification and denial
//	  M the request, the query kept               TestAVerificationAsksWhatTheRecommendationSays, TestTheQueryOfACallbackIsKeptByteForByte
//	  M what confirms and what does not           TestOnlyTheExactChallengeConfirms
//	  M redirects are not followed                TestAVerificationFollowsNoRedirect
//	  P little is read                            TestAnEndlessAnswerIsNotReadAndFails
//	  M nothing is delivered while pending        TestNothingIsDeliveredBeforeTheSubscriptionIsVerified
//	  P the newest pending request wins           TestOfSeveralRequestsTheNewestWins
//	  P nobody's gun                              TestAVictimIsCalledFewTimesHoweverOftenItIsNamed
//	  P a hanging callback holds up nobody        TestAHangingCallbackHoldsUpNobody
//	  M denial                                    TestADeniedTopicIsToldToTheCallback, TestASubscriptionEndsWithDenialWhen…
//	  M leases run from verification, and out     TestALeaseRunsFromItsVerificationAndOut, TestARenewalLeavesNoGap
//	distribution
//	  M the call                                  TestADeliveryIsTheTopicAsItIs, TestATopicIsDeliveredInTheFormThatWasSubscribed
//	  M 2xx is success, its body ignored          TestAnySuccessIsOneWhateverItsBodySays
//	  Y 410 ends                                  TestACallbackThatIsGoneEndsItsSubscription
//	  M all else fails, redirects too             TestWhatIsNoSuccessIsTriedAgain
//	  S retries, M the subscription stays         TestAfterGivingUpOnOneContentTheNextIsTried
//	  M signatures                                TestADeliveryIsSignedWithTheSecret, TestWithoutASecretNothingIsSigned, TestTheMethodOfTheSignatureIsASetting
//	  P subscribers are independent               TestASlowOrDeadSubscriberDelaysNobody
//	  P pings                                     TestAPublisherMayPing
//	  P another hub                               TestASubscriberCanBeSentToAnotherHub

func TestASubscriptionIsAcceptedBeforeItIsVerified(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	let := make(chan struct{})
	s.onVerify(func(w http.ResponseWriter, c *gotCall) { <-let; confirm(w, c) })
	a := h.ask(h.form(s.server.URL + "/a"))
	if a.status != http.StatusAccepted || len(a.body) != 0 {
		t.Errorf("answered %d %q", a.status, a.body)
	}
	s.await(1, isMode("subscribe"))
	if got := h.listed(); len(got) != 0 {
		t.Errorf("subscribed while it is being verified: %+v", got)
	}
	close(let)
	h.inForce(s.server.URL + "/a")
}

func TestOnlyFormsAreTaken(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	form := h.form(s.server.URL + "/a").Encode()
	for _, media := range []string{"", "application/json", "multipart/form-data; boundary=x", "text/plain", "application/x-www-form-urlencoded2", ";"} {
		if a := h.testHub.do("POST", "/websub", form, "Content-Type", media); a.status != http.StatusUnsupportedMediaType {
			t.Errorf("%q: %d %s", media, a.status, a.body)
		}
	}
	for _, media := range []string{"application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=UTF-8", "APPLICATION/X-WWW-Form-Urlencoded"} {
		if a := h.testHub.do("POST", "/websub", form, "Content-Type", media); a.status != http.StatusAccepted {
			t.Errorf("%q: %d %s", media, a.status, a.body)
		}
	}
	if a := h.testHub.do("GET", "/websub?"+form, ""); a.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", a.status)
	}
}

func TestWhatIsWrongWithARequestIsToldInPlainText(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	for what, change := range map[string][2]string{
		"no mode":                     {"hub.mode", ""},
		"an unknown mode":             {"hub.mode", "follow"},
		"no callback":                 {"hub.callback", ""},
		"a callback that is no URL":   {"hub.callback", "http://[::1"},
		"a callback of another kind":  {"hub.callback", "gopher://127.0.0.1/"},
		"a callback that is private":  {"hub.callback", "http://10.0.0.1/cb"},
		"a callback on a closed port": {"hub.callback", "http://93.184.215.14:25/cb"},
		"no topic":                    {"hub.topic", ""},
		"a topic of somebody else":    {"hub.topic", "https://example.com/feed"},
		"no such topic":               {"hub.topic", h.topic("nothing")},
		"a topic that is no document": {"hub.topic", h.testHub.URL() + "/v1/stream"},
		"a secret of 200 bytes":       {"hub.secret", strings.Repeat("s", 200)},
	} {
		a := h.ask(h.form(s.server.URL+"/a", change[0], change[1]))
		if a.status/100 != 4 || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") || len(a.body) < 10 || strings.Contains(string(a.body), "{") {
			t.Errorf("%s: %d %v %q", what, a.status, a.header, a.body)
		}
	}
	if a := h.ask(h.form(s.server.URL+"/a", "hub.mode", "x"), "Accept", "application/problem+json"); a.header.Get("Content-Type") != "application/problem+json" ||
		!strings.Contains(string(a.body), `"field":"hub.mode"`) {
		t.Errorf("who takes problems got %v %s", a.header, a.body)
	}
	if n := s.count(func(*gotCall) bool { return true }); n != 0 {
		t.Errorf("requests that were refused caused %d calls", n)
	}
}

func TestUnknownParametersAreIgnored(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	h.subscribe(s, "/a", "hub.verify", "sync", "hub.verify_token", "x", "hub.foo", "bar", "something", "else")
	if q := s.await(1, isMode("subscribe")).query; q.Has("hub.verify_token") || q.Has("hub.foo") || q.Has("something") {
		t.Errorf("they came back: %v", q)
	}
}

func TestSecretsHaveLessThan200Bytes(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	longest := strings.Repeat("ä", 99) + "s" // of bytes, not of characters
	if a := h.ask(h.form(s.server.URL+"/a", "hub.secret", longest+"s")); a.status != http.StatusBadRequest {
		t.Errorf("200 bytes: %d", a.status)
	}
	if got := h.subscribe(s, "/b", "hub.secret", longest); !got.Signed {
		t.Errorf("199 bytes: %+v", got)
	}
	h.accepted(h.ask(url.Values{"hub.mode": {"subscribe"}, "hub.callback": {s.server.URL + "/c"}, "hub.topic": {h.topic("open")}, "hub.secret": {""}}))
	if got := h.inForce(s.server.URL + "/c"); got.Signed {
		t.Errorf("an empty secret: %+v", got)
	}
	h.edit(aPage, 1)
	isAt := func(path string) func(*gotCall) bool {
		return func(c *gotCall) bool { return isPost(c) && c.uri == path }
	}
	checkSignature(t, s.await(1, isAt("/b")), longest)
	if got := s.await(1, isAt("/c")).header; got.Get("X-Hub-Signature") != "" || got.Get("Webhook-Signature") != "" {
		t.Errorf("with an empty secret it is signed: %v", got)
	}
}

func TestALeaseIsWhatWasAskedForWithinBounds(t *testing.T) {
	h := startWebSub(t, func(c *Config) {
		c.WebSub.LeaseMin, c.WebSub.LeaseDefault, c.WebSub.LeaseMax = time.Minute, 240*time.Hour, 1000*time.Hour
	})
	s := newSubscriber(t)
	for i, tt := range []struct{ asked, want string }{
		{"", "864000"}, {"3600", "3600"}, {"0003600", "3600"}, {"59", "60"}, {"1", "60"}, {"60", "60"}, {"3600000", "3600000"},
		{"3600001", "3600000"}, {"99999999999999999999999999", "3600000"},
	} {
		path := "/" + strconv.Itoa(i)
		got := h.subscribe(s, path, "hub.lease_seconds", tt.asked)
		call := s.await(1, func(c *gotCall) bool { return strings.HasPrefix(c.uri, path+"?") })
		if call.query.Get("hub.lease_seconds") != tt.want || strconv.FormatInt(got.LeaseSeconds, 10) != tt.want {
			t.Errorf("asked for %q: %s is verified and %d in force, want %s", tt.asked, call.query.Get("hub.lease_seconds"), got.LeaseSeconds, tt.want)
		}
	}
}

func TestALeaseThatIsNoneIsRefused(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	for _, lease := range []string{"0", "-1", "-99999999999999999999", "ten", "1e6", "10.0", " 10", "+10", "0x10", "1_000"} {
		if a := h.ask(h.form(s.server.URL+"/a", "hub.lease_seconds", lease)); a.status != http.StatusBadRequest {
			t.Errorf("%q: %d %s", lease, a.status, a.body)
		}
		if a := h.ask(h.form(s.server.URL+"/b", "hub.mode", "unsubscribe", "hub.lease_seconds", lease)); a.status != http.StatusAccepted {
			t.Errorf("%q on unsubscribe: %d %s", lease, a.status, a.body)
		}
	}
}

func TestARenewalReplacesLeaseAndSecretOnceVerified(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	first := h.subscribe(s, "/a", "hub.secret", "first", "hub.lease_seconds", "1000")
	for i, secret := range []string{"second", ""} {
		h.accepted(h.ask(h.form(s.server.URL+"/a", "hub.secret", secret, "hub.lease_seconds", strconv.Itoa(2000+i))))
		var now *subscriptionShape
		eventually(t, "the renewal counts", func() bool { now = h.find(s.server.URL + "/a"); return now.LeaseSeconds == int64(2000+i) })
		if now.ID != first.ID || now.Signed != (secret != "") || !now.LeaseUntil.After(first.LeaseUntil) || len(h.listed()) != 1 {
			t.Errorf("renewed with %q it is %+v; it was %+v", secret, now, first)
		}
		h.edit(aPage, i+1)
		c := s.await(i+1, isPost)
		if secret != "" {
			checkSignature(t, c, secret)
		} else if c.header.Get("X-Hub-Signature") != "" {
			t.Error("a renewal without a secret leaves the old one")
		}
	}
}

func TestAFailedVerificationChangesNothing(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	before := h.subscribe(s, "/a", "hub.secret", "first", "hub.lease_seconds", "1000")
	s.onVerify(answering(http.StatusNotFound, ""))
	for i, mode := range []string{"subscribe", "unsubscribe"} {
		h.accepted(h.ask(h.form(s.server.URL+"/a", "hub.mode", mode, "hub.secret", "second", "hub.lease_seconds", "2000")))
		s.await(2+i, isGet)
		h.settled()
	}
	if now := h.find(s.server.URL + "/a"); now == nil || now.LeaseSeconds != before.LeaseSeconds || !now.LeaseUntil.Equal(before.LeaseUntil) || !now.Signed {
		t.Errorf("it is %+v; it was %+v", now, before)
	}
	h.edit(aPage, 1)
	checkSignature(t, s.await(1, isPost), "first")
}

func TestCallbacksAreTheSameHoweverTheyAreEncoded(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	first := h.subscribe(s, "/~a/b", "hub.lease_seconds", "1000")
	h.accepted(h.ask(h.form(s.server.URL+"/%7Ea/%62", "hub.lease_seconds", "2000")))
	eventually(t, "the other spelling renews", func() bool {
		list := h.listed()
		return len(list) == 1 && list[0].LeaseSeconds == 2000 && list[0].ID == first.ID
	})
	h.edit(aPage, 1)
	if c := s.await(1, isPost); c.uri != "/%7Ea/%62" {
		t.Errorf("it is called as %s, and not as it was named last", c.uri)
	}
	h.accepted(h.ask(h.form(s.server.URL+"/~a/%2562", "hub.lease_seconds", "1000")))
	eventually(t, "what is encoded twice is another", func() bool { return len(h.listed()) == 2 })
	h.accepted(h.ask(h.form(s.server.URL+"/%7ea/b", "hub.mode", "unsubscribe")))
	eventually(t, "a third spelling unsubscribes", func() bool { list := h.listed(); return len(list) == 1 && list[0].ID != first.ID })
}

func TestOwnersHaveSoManySubscriptionsAndNotMore(t *testing.T) {
	h := startKeyedWebSub(t, func(c *Config) { c.WebSub.PerOwner = 20 })
	s := newSubscriber(t)
	owner := auth.Rights{Subject: "mirror", Subscribe: auth.Prefixes{"*"}}
	for i := range 20 {
		h.accepted(h.askAs(owner, h.form(s.server.URL+"/o"+strconv.Itoa(i))))
	}
	for i := range 2 {
		h.accepted(h.ask(h.form(s.server.URL + "/n" + strconv.Itoa(i))))
	}
	eventually(t, "all are subscribed", func() bool { return len(h.listed()) == 22 })
	for who, a := range map[string]*reply{"an owner": h.askAs(owner, h.form(s.server.URL+"/more")), "an address": h.ask(h.form(s.server.URL + "/more"))} {
		if a.status != http.StatusTooManyRequests {
			t.Errorf("one more of %s: %d %s", who, a.status, a.body)
		}
	}
	h.accepted(h.askAs(owner, h.form(s.server.URL+"/o0")))
	h.accepted(h.ask(h.form(s.server.URL + "/n1")))
	h.accepted(h.askAs(owner, h.form(s.server.URL+"/o1", "hub.mode", "unsubscribe")))
	h.gone(s.server.URL + "/o1")
	h.accepted(h.askAs(owner, h.form(s.server.URL+"/more")))
	h.inForce(s.server.URL + "/more")
}

func TestASubscriberCanBeSentToAnotherHub(t *testing.T) {
	other := startWebSub(t, nil)
	h := startWebSub(t, func(c *Config) { c.WebSub.MovedTo = other.testHub.URL() + "/websub" })
	s := newSubscriber(t)
	a := h.ask(h.form(s.server.URL + "/a")) // net/http sends the form on, as 307 asks for
	if a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "not a topic of this hub") {
		t.Errorf("the other hub answers %d %s", a.status, a.body)
	}
	h.testHub.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if a := h.ask(h.form(s.server.URL + "/a")); a.status != http.StatusTemporaryRedirect || a.header.Get("Location") != other.testHub.URL()+"/websub" {
		t.Errorf("answered %d %v", a.status, a.header)
	}
	if a := h.ask(h.form(s.server.URL+"/a", "hub.mode", "unsubscribe")); a.status != http.StatusAccepted {
		t.Errorf("an unsubscription: %d", a.status)
	}
}

func TestAPublisherMayPing(t *testing.T) {
	h := startKeyedWebSub(t, nil)
	ping := url.Values{"hub.mode": {"publish"}, "hub.url": {h.topic("open")}}
	page := url.Values{"hub.mode": {"publish"}, "hub.topic": {h.testHub.URL() + "/topics/resource?uri=" + url.QueryEscape(aPage)}}
	for _, tt := range []struct {
		who  string
		a    *reply
		want int
	}{
		{"nobody", h.ask(ping), 401},
		{"a reader", h.askAs(auth.Rights{Subject: "reader", Subscribe: auth.Prefixes{"*"}}, ping), 403},
		{"a publisher", h.askAs(enwiki, ping), 202},
		{"a publisher of the page", h.askAs(enwiki, page), 202},
		{"a publisher of others", h.askAs(dewiki, page), 403},
		{"an administrator", h.askAs(root, page), 202},
		{"with a topic of somebody else", h.askAs(root, url.Values{"hub.mode": {"publish"}, "hub.url": {"https://example.com/"}}), 400},
		{"with no topic", h.askAs(root, url.Values{"hub.mode": {"publish"}}), 400},
	} {
		if tt.a.status != tt.want {
			t.Errorf("%s: %d %s, want %d", tt.who, tt.a.status, tt.a.body, tt.want)
		}
	}
}
