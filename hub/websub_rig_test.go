package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/auth"
	"golang.org/x/net/dns/dnsmessage"
)

// webSubWait bounds how long a test waits for a call that is to come.
const webSubWait = 20 * time.Second

// A gotCall is a request that a subscriber got.
type gotCall struct {
	method, uri, host string
	header            http.Header
	query             url.Values
	body              []byte
	at                time.Time
}

func (c *gotCall) mode() string { return c.query.Get("hub.mode") }

// A subscriber is a real HTTP server with one callback or many. It confirms what it
// is asked and takes what it is sent, unless it is told otherwise.
type subscriber struct {
	t      testing.TB
	server *httptest.Server

	mu     sync.Mutex
	calls  []*gotCall
	news   chan struct{} // closed by the next call
	verify func(w http.ResponseWriter, c *gotCall)
	take   func(w http.ResponseWriter, c *gotCall)
}

func newSubscriber(t testing.TB) *subscriber {
	t.Helper()
	s := &subscriber{t: t, news: make(chan struct{})}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	return s
}

// confirm answers a verification as the Recommendation asks for.
func confirm(w http.ResponseWriter, c *gotCall) { io.WriteString(w, c.query.Get("hub.challenge")) }

func (s *subscriber) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the hub died in the middle
	}
	c := &gotCall{r.Method, r.RequestURI, r.Host, r.Header, r.URL.Query(), body, time.Now()}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	close(s.news)
	s.news = make(chan struct{})
	verify, take := s.verify, s.take
	s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && verify != nil:
		verify(w, c)
	case r.Method == http.MethodGet:
		confirm(w, c)
	case take != nil:
		take(w, c)
	}
}

// onVerify and onTake change how it answers from now on; nil is as at first.
func (s *subscriber) onVerify(f func(w http.ResponseWriter, c *gotCall)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verify = f
}

func (s *subscriber) onTake(f func(w http.ResponseWriter, c *gotCall)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take = f
}

func answering(status int, body string) func(http.ResponseWriter, *gotCall) {
	return func(w http.ResponseWriter, _ *gotCall) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// of are the calls that f chooses, so far.
func (s *subscriber) of(f func(*gotCall) bool) (list []*gotCall, news <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if f(c) {
			list = append(list, c)
		}
	}
	return list, s.news
}

func isGet(c *gotCall) bool  { return c.method == http.MethodGet }
func isPost(c *gotCall) bool { return c.method == http.MethodPost }

func isMode(mode string) func(*gotCall) bool {
	return func(c *gotCall) bool { return isGet(c) && c.mode() == mode }
}

// await waits for the n-th call, from 1 on, that f chooses.
func (s *subscriber) await(n int, f func(*gotCall) bool) *gotCall {
	s.t.Helper()
	end := time.After(webSubWait)
	for {
		list, news := s.of(f)
		if len(list) >= n {
			return list[n-1]
		}
		select {
		case <-news:
		case <-end:
			all, _ := s.of(func(*gotCall) bool { return true })
			var text []string
			for _, c := range all {
				text = append(text, c.method+" "+c.uri)
			}
			s.t.Fatalf("call %d did not come within %s; there were %d of %d:\n%s", n, webSubWait, len(list), len(all), strings.Join(text, "\n"))
		}
	}
}

// count is how many calls f chooses, so far.
func (s *subscriber) count(f func(*gotCall) bool) int {
	list, _ := s.of(f)
	return len(list)
}

// A webSubHub is a hub whose callbacks may lie on this machine, with one public
// channel, "open".
type webSubHub struct {
	*testHub
	*keyedHub // nil without keys
}

// loopback is where callbacks of tests are.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// quickly are settings with which a test need not wait.
func quickly(c *Config) {
	c.WebSub.CallbackAllow = loopback
	c.WebSub.VerifyRate = 10_000
	c.WebSub.LeaseMin = time.Second
	c.WebSub.DeliveryTimeout = 2 * time.Second
	c.WebSub.RetryFirst = 20 * time.Millisecond
}

// startWebSub runs a hub without keys.
func startWebSub(t testing.TB, change func(*Config)) *webSubHub {
	t.Helper()
	h := &webSubHub{testHub: startHub(t, func(c *Config) {
		quickly(c)
		if change != nil {
			change(c)
		}
	})}
	h.open("open")
	return h
}

// startKeyedWebSub runs one that asks for tokens.
func startKeyedWebSub(t testing.TB, change func(*Config)) *webSubHub {
	t.Helper()
	k := startKeyedHub(t, func(c *Config) {
		quickly(c)
		if change != nil {
			change(c)
		}
	})
	h := &webSubHub{k.testHub, k}
	h.open("open")
	return h
}

// open makes a public channel of the pages of the wiki.
func (h *webSubHub) open(name string) {
	h.testHub.t.Helper()
	h.admin("PUT", "/v1/channels/"+name, `{"host":["en.example.org"],"public":true}`)
}

// admin sends a request of an administrator, which must succeed.
func (h *webSubHub) admin(method, path, body string) *reply {
	h.testHub.t.Helper()
	var a *reply
	if h.keyedHub != nil {
		a = h.as(root, method, path, body)
	} else {
		a = h.testHub.do(method, path, body)
	}
	if a.status/100 != 2 {
		h.testHub.t.Fatalf("%s %s answers %d %s", method, path, a.status, a.body)
	}
	return a
}

// edit publishes a new version of a page of the wiki.
func (h *webSubHub) edit(page string, version int) {
	h.testHub.t.Helper()
	h.admin("POST", "/v1/updates", fmt.Sprintf(`{"uri":%q,"version":"%d"}`, page, version))
}

const aPage = "https://en.example.org/wiki/Berlin"

func (h *webSubHub) topic(name string) string { return h.testHub.URL() + "/topics/" + name }

// form is a request of a subscriber for the public channel, changed by pairs of name
// and value; an empty value takes away.
func (h *webSubHub) form(callback string, changes ...string) url.Values {
	values := url.Values{"hub.mode": {"subscribe"}, "hub.callback": {callback}, "hub.topic": {h.topic("open")}}
	for i := 0; i < len(changes); i += 2 {
		values.Set(changes[i], changes[i+1])
		if changes[i+1] == "" {
			values.Del(changes[i])
		}
	}
	return values
}

// ask sends a form, as who is nobody.
func (h *webSubHub) ask(form url.Values, header ...string) *reply {
	h.testHub.t.Helper()
	return h.testHub.do("POST", "/websub", form.Encode(), append([]string{"Content-Type", typeForm}, header...)...)
}

// askAs sends a form with a token.
func (h *webSubHub) askAs(r auth.Rights, form url.Values) *reply {
	h.testHub.t.Helper()
	return h.ask(form, "Authorization", "Bearer "+h.keyedHub.token(r))
}

// accepted fails the test unless a request was accepted.
func (h *webSubHub) accepted(a *reply) {
	h.testHub.t.Helper()
	if a.status != http.StatusAccepted {
		h.testHub.t.Fatalf("the request is answered %d %s, want 202", a.status, a.body)
	}
}

// subscribe subscribes a callback to the public channel and waits until it is in
// force.
func (h *webSubHub) subscribe(s *subscriber, path string, changes ...string) *subscriptionShape {
	h.testHub.t.Helper()
	h.accepted(h.ask(h.form(s.server.URL+path, changes...)))
	return h.inForce(s.server.URL + path)
}

// listed are the subscriptions, as an administrator sees them.
func (h *webSubHub) listed() (list []subscriptionShape) {
	h.testHub.t.Helper()
	var out struct {
		Items []subscriptionShape
		Next  string
	}
	h.admin("GET", "/v1/subscriptions?limit=1000", "").decode(h.testHub.t, &out)
	return out.Items
}

// find is the subscription whose callback begins with that, nil if there is none.
func (h *webSubHub) find(callback string) *subscriptionShape {
	h.testHub.t.Helper()
	callback, _, _ = strings.Cut(callback, "?")
	list := h.listed()
	i := slices.IndexFunc(list, func(s subscriptionShape) bool {
		shown, _, _ := strings.Cut(s.Callback, "?")
		return shown == callback
	})
	if i < 0 {
		return nil
	}
	return &list[i]
}

// inForce waits for a subscription; gone waits for its end.
func (h *webSubHub) inForce(callback string) (s *subscriptionShape) {
	h.testHub.t.Helper()
	eventually(h.testHub.t, callback+" is subscribed", func() bool { s = h.find(callback); return s != nil })
	return s
}

func (h *webSubHub) gone(callback string) {
	h.testHub.t.Helper()
	eventually(h.testHub.t, callback+" is not subscribed", func() bool { return h.find(callback) == nil })
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(webSubWait); !f(); pass(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", webSubWait, what)
		}
	}
}

// A document is what a subscriber is sent, as JSON.
type gotDocument struct {
	Channel  string
	Resource string
	Self     string
	Hub      string
	Epoch    string
	Lane     string
	First    uint64
	Last     uint64
	Prev     uint64
	Reset    *struct {
		Reason string
		Oldest string
		Newest string
	}
	Notices []struct {
		ID, URI, Version, Kind string
	}
}

func deliveredIn(t testing.TB, c *gotCall) (d gotDocument) {
	t.Helper()
	if err := json.Unmarshal(c.body, &d); err != nil {
		t.Fatalf("a document that is none: %v\n%s", err, c.body)
	}
	return d
}

// resolveHere has all names resolve to this machine until the test ends.
func resolveHere(t *testing.T) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				reply.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
					Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			}
			if packed, err := reply.Pack(); err == nil {
				conn.WriteTo(packed, from)
			}
		}
	})
	resolver := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = resolver
		conn.Close()
		serving.Wait()
	})
}
