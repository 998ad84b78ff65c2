package hub

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// settled waits until no verification is owed.
func (h *webSubHub) settled() {
	h.testHub.t.Helper()
	eventually(h.testHub.t, "no verification is owed", func() bool { return h.websub.Stats().Pending == 0 })
}

func TestAVerificationAsksWhatTheRecommendationSays(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	h.subscribe(s, "/a", "hub.secret", "never told", "hub.lease_seconds", "1000")
	c := s.await(1, isGet)
	challenge := c.query.Get("hub.challenge")
	want := url.Values{"hub.mode": {"subscribe"}, "hub.topic": {h.topic("open")}, "hub.challenge": {challenge}, "hub.lease_seconds": {"1000"}}
	if c.query.Encode() != want.Encode() || len(challenge) < 20 {
		t.Errorf("asked %s", c.uri)
	}
	h.accepted(h.ask(h.form(s.server.URL+"/a", "hub.mode", "unsubscribe")))
	h.gone(s.server.URL + "/a")
	c = s.await(1, isMode("unsubscribe"))
	if c.query.Get("hub.challenge") == challenge || c.query.Get("hub.challenge") == "" || c.query.Get("hub.topic") != h.topic("open") {
		t.Errorf("asked %s after %s", c.uri, challenge)
	}
	seen := map[string]bool{}
	for i := range 5 {
		h.subscribe(s, "/more", "hub.lease_seconds", fmt.Sprint(2000+i))
		h.settled()
		seen[s.await(2+i, isMode("subscribe")).query.Get("hub.challenge")] = true
	}
	if len(seen) != 5 {
		t.Errorf("challenges are used twice: %v", seen)
	}
}

func TestTheQueryOfACallbackIsKeptByteForByte(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	for i, given := range []string{
		"/api.php?action=websub&hub.mode=push&hub.topic=mine",
		"/b?hub.challenge=old&hub.challenge=older",
		"/c?",
		"/d?x=%7e%2F+y|z&&x",
		"/e/%7E%2f%41?t=100%",
		"/f;p=1/(g)*!'@:",
	} {
		h.accepted(h.ask(h.form(s.server.URL + given)))
		path, query, _ := strings.Cut(given, "?")
		c := s.await(1, func(c *gotCall) bool { return isGet(c) && strings.HasPrefix(c.uri, path+"?") })
		ours, kept := strings.CutPrefix(c.uri, given+map[bool]string{true: "&", false: "?"}[strings.Contains(given, "?")])
		if values, err := url.ParseQuery(ours); !kept || err != nil || values.Get("hub.mode") != "subscribe" || values.Get("hub.topic") != h.topic("open") {
			t.Errorf("%s is called as %s", given, c.uri)
		}
		if strings.Contains(query, "hub.challenge") {
			s.onVerify(func(w http.ResponseWriter, c *gotCall) {
				all := c.query["hub.challenge"]
				io.WriteString(w, all[len(all)-1])
			})
			h.accepted(h.ask(h.form(s.server.URL + given)))
		}
		if i == 0 {
			h.inForce(s.server.URL + path)
		}
	}
	eventually(t, "all are subscribed", func() bool { return len(h.listed()) >= 5 })
	h.settled()
	h.edit(aPage, 1)
	for _, given := range []string{"/api.php?action=websub&hub.mode=push&hub.topic=mine", "/c?", "/e/%7E%2f%41?t=100%", "/f;p=1/(g)*!'@:"} {
		s.await(1, func(c *gotCall) bool { return isPost(c) && c.uri == given })
	}
}

func TestOnlyTheExactChallengeConfirms(t *testing.T) {
	h := startWebSub(t, nil)
	confirms := map[string]func(http.ResponseWriter, *gotCall){
		"200":  confirm,
		"201":  func(w http.ResponseWriter, c *gotCall) { w.WriteHeader(201); confirm(w, c) },
		"202":  func(w http.ResponseWriter, c *gotCall) { w.WriteHeader(202); confirm(w, c) },
		"299":  func(w http.ResponseWriter, c *gotCall) { w.WriteHeader(299); confirm(w, c) },
		"html": func(w http.ResponseWriter, c *gotCall) { w.Header().Set("Content-Type", "text/html"); confirm(w, c) },
		"chunks": func(w http.ResponseWriter, c *gotCall) {
			for _, b := range []byte(c.query.Get("hub.challenge")) {
				w.Write([]byte{b})
				w.(http.Flusher).Flush()
			}
		},
	}
	refuses := map[string]func(http.ResponseWriter, *gotCall){
		"nothing":       answering(200, ""),
		"something":     answering(200, "ok"),
		"204":           answering(204, ""),
		"longer":        func(w http.ResponseWriter, c *gotCall) { confirm(w, c); io.WriteString(w, "x") },
		"a-line-end":    func(w http.ResponseWriter, c *gotCall) { confirm(w, c); io.WriteString(w, "\n") },
		"a-space-first": func(w http.ResponseWriter, c *gotCall) { io.WriteString(w, " "); confirm(w, c) },
		"a-byte-less":   func(w http.ResponseWriter, c *gotCall) { io.WriteString(w, c.query.Get("hub.challenge")[1:]) },
		"quoted":        func(w http.ResponseWriter, c *gotCall) { fmt.Fprintf(w, "%q", c.query.Get("hub.challenge")) },
		"lower-case": func(w http.ResponseWriter, c *gotCall) {
			io.WriteString(w, strings.ToLower(c.query.Get("hub.challenge")))
		},
		"404": func(w http.ResponseWriter, c *gotCall) { w.WriteHeader(404); confirm(w, c) },
		"410": func(w http.ResponseWriter, c *gotCall) { w.WriteHeader(410); confirm(w, c) },
		"300": func(w http.ResponseWriter, c *gotCall) { w.WriteHeader(300); confirm(w, c) },
		"304": func(w http.ResponseWriter, c *gotCall) { w.WriteHeader(304) },
		"500": func(w http.ResponseWriter, c *gotCall) { w.WriteHeader(500); confirm(w, c) },
	}
	s := newSubscriber(t)
	s.onVerify(func(w http.ResponseWriter, c *gotCall) {
		name, _, _ := strings.Cut(strings.TrimPrefix(c.uri, "/"), "?")
		if f := confirms[name]; f != nil {
			f(w, c)
		} else {
			refuses[name](w, c)
		}
	})
	for name := range confirms {
		h.accepted(h.ask(h.form(s.server.URL + "/" + name)))
	}
	for name := range refuses {
		if name != "500" { // which is tried again for a while
			h.accepted(h.ask(h.form(s.server.URL + "/" + name)))
		}
	}
	h.settled()
	h.accepted(h.ask(h.form(s.server.URL + "/500")))
	s.await(1, func(c *gotCall) bool { return strings.HasPrefix(c.uri, "/500?") })
	if got := len(h.listed()); got != len(confirms) {
		t.Errorf("%d are subscribed, want %d: %+v", got, len(confirms), h.listed())
	}
	for name := range refuses {
		if h.find(s.server.URL+"/"+name) != nil {
			t.Errorf("%s confirms", name)
		}
	}
}

func TestAVerificationFollowsNoRedirect(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	s.onVerify(func(w http.ResponseWriter, c *gotCall) {
		if strings.HasPrefix(c.uri, "/elsewhere") {
			confirm(w, c)
			return
		}
		var status int
		fmt.Sscanf(c.uri, "/%d", &status)
		w.Header().Set("Location", "/elsewhere?"+c.query.Encode())
		w.WriteHeader(status)
		confirm(w, c)
	})
	for _, status := range []string{"301", "302", "303", "307", "308"} {
		h.accepted(h.ask(h.form(s.server.URL + "/" + status)))
	}
	h.settled()
	if n := s.count(func(c *gotCall) bool { return strings.HasPrefix(c.uri, "/elsewhere") }); n != 0 || len(h.listed()) != 0 {
		t.Errorf("%d were followed, %d are subscribed", n, len(h.listed()))
	}
}

func TestAnEndlessAnswerIsNotReadAndFails(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	var written atomic.Int64
	s.onVerify(func(w http.ResponseWriter, c *gotCall) {
		confirm(w, c)
		for range 64 << 10 {
			n, err := w.Write(make([]byte, 1<<10))
			if written.Add(int64(n)); err != nil {
				return
			}
		}
	})
	h.accepted(h.ask(h.form(s.server.URL + "/a")))
	h.settled()
	if len(h.listed()) != 0 || written.Load() >= 64<<20 {
		t.Errorf("%d are subscribed; %d bytes were taken", len(h.listed()), written.Load())
	}
}

func TestNothingIsDeliveredBeforeTheSubscriptionIsVerified(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	let := make(chan struct{})
	s.onVerify(func(w http.ResponseWriter, c *gotCall) { <-let; confirm(w, c) })
	h.accepted(h.ask(h.form(s.server.URL + "/a")))
	s.await(1, isGet)
	h.edit(aPage, 1)
	other := newSubscriber(t)
	h.subscribe(other, "/b")
	h.edit(aPage, 2)
	other.await(1, isPost)
	if n := s.count(isPost); n != 0 {
		t.Errorf("%d deliveries to who has not confirmed", n)
	}
	close(let)
	h.inForce(s.server.URL + "/a")
	h.edit(aPage, 3)
	if d := deliveredIn(t, s.await(1, isPost)); len(d.Notices) != 1 || d.Notices[0].Version != "3" {
		t.Errorf("the first document has %+v", d)
	}
}

func TestOfSeveralRequestsTheNewestWins(t *testing.T) {
	h := startWebSub(t, nil)
	s := newSubscriber(t)
	let := make(chan struct{})
	s.onVerify(func(w http.ResponseWriter, c *gotCall) {
		if c.query.Get("hub.lease_seconds") != "3000" {
			<-let
		}
		confirm(w, c)
	})
	h.accepted(h.ask(h.form(s.server.URL+"/a", "hub.lease_seconds", "1000")))
	s.await(1, isGet)
	h.accepted(h.ask(h.form(s.server.URL+"/a", "hub.lease_seconds", "2000")))
	s.await(2, isGet)
	h.accepted(h.ask(h.form(s.server.URL+"/a", "hub.lease_seconds", "3000")))
	s.await(3, isGet)
	if n := h.websub.Stats().Pending; n > 1 {
		t.Errorf("%d are pending", n)
	}
	h.inForce(s.server.URL + "/a")
	close(let)
	h.settled()
	if got := h.listed(); len(got) != 1 || got[0].LeaseSeconds != 3000 {
		t.Errorf("in force are %+v", got)
	}
}

// A victim never asked for anything. 300 requests name it, by many paths, names and
// topics.
func TestAVictimIsCalledFewTimesHoweverOftenItIsNamed(t *testing.T) {
	resolveHere(t)
	h := startWebSub(t, func(c *Config) { c.WebSub.VerifyRate = 10; c.ClockRate = 10 })
	for i := range 10 {
		h.open(fmt.Sprintf("open-%d", i))
	}
	victim := newSubscriber(t)
	victim.onVerify(answering(http.StatusNotFound, ""))
	port := victim.server.URL[strings.LastIndexByte(victim.server.URL, ':'):]
	answers := map[int]int{}
	for i := range 300 {
		host := "127.0.0.1"
		switch i % 3 { // by its address, by one name and by many
		case 1:
			host = "victim.example"
		case 2:
			host = fmt.Sprintf("victim-%d.example", i)
		}
		a := h.ask(h.form(fmt.Sprintf("http://%s%s/%d?x=%d", host, port, i/2, i%2), "hub.topic", h.topic(fmt.Sprintf("open-%d", i%10))))
		answers[a.status]++
		if a.status == http.StatusTooManyRequests && a.header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	h.settled()
	n := victim.count(func(*gotCall) bool { return true })
	t.Logf("300 requests: answers %v, %d calls of the victim", answers, n)
	if n > 20 || n == 0 || answers[http.StatusTooManyRequests] == 0 {
		t.Errorf("the victim was called %d times", n)
	}
}

func TestAHangingCallbackHoldsUpNobody(t *testing.T) {
	h := startWebSub(t, nil)
	hanging, s := newSubscriber(t), newSubscriber(t)
	let := make(chan struct{})
	defer close(let)
	hanging.onVerify(func(http.ResponseWriter, *gotCall) { <-let })
	for i := range 6 {
		h.accepted(h.ask(h.form(fmt.Sprintf("%s/%d", hanging.server.URL, i))))
	}
	hanging.await(6, isGet)
	began := time.Now()
	h.subscribe(s, "/a")
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
}
