package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/graph"
	_ "github.com/freshwire/freshwire/internal/bubble" // time on a street is that of a bubble
)

// A street is a network in memory with the clock of a bubble: what takes hours between
// hubs takes no time. A connection holds nothing: who does not read blocks who writes.
type street struct {
	t *testing.T

	mu     sync.Mutex
	doors  map[string]*door // by host
	dialed map[string]int   // how often each host was looked for
	ended  chan struct{}    // closed with the test: net/http dials on for who has gone
}

func newStreet(t *testing.T) *street {
	s := &street{t: t, doors: map[string]*door{}, dialed: map[string]int{}, ended: make(chan struct{})}
	t.Cleanup(func() { close(s.ended) })
	return s
}

// A door is the listener of one host.
type door struct {
	host  string
	conns chan net.Conn
	shut  chan struct{}
	once  sync.Once
}

// door opens that of a host, in the place of one that was shut.
func (s *street) door(host string) *door {
	d := &door{host: host, conns: make(chan net.Conn), shut: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doors[host] = d
	return d
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.shut:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error   { d.once.Do(func() { close(d.shut) }); return nil }
func (d *door) Addr() net.Addr { return d }

// Network and String make a door its own address.
func (d *door) Network() string { return "street" }
func (d *door) String() string  { return d.host }

// dial connects to the door of a host, whatever the port.
func (s *street) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.dialed[host]++
	d := s.doors[host]
	s.mu.Unlock()
	if d == nil {
		return nil, fmt.Errorf("there is no host %s", host)
	}
	ours, theirs := net.Pipe()
	select {
	case d.conns <- theirs:
		return ours, nil
	case <-d.shut:
		return nil, fmt.Errorf("%s is away", host)
	case <-time.After(5 * time.Second): // as long as a hub takes the time
		return nil, fmt.Errorf("%s does not open", host)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ended:
		return nil, net.ErrClosed
	}
}

// server serves a host with the deadlines of a hub, until it is closed.
func (s *street) server(host string, handler http.Handler) *httptest.Server {
	return &httptest.Server{Listener: s.door(host), Config: &http.Server{Handler: handler,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute}}
}

// house opens a hub with the name of a host.
func (s *street) house(host, own string, o Options) *house {
	s.t.Helper()
	h := &house{t: s.t, own: own, disk: vfs.NewMem()}
	s.open(h, host, o)
	return h
}

// open opens a hub whose disk is there already.
func (s *street) open(h *house, host string, o Options) {
	s.t.Helper()
	h.server = s.server(host, nil)
	o.Dial = func(string) (Clients, error) { return plainClients(s.dial), nil }
	ask := plainClients(s.dial)
	ask.Calls.Transport.(*http.Transport).DisableKeepAlives = true
	o.Ask = ask.Calls
	h.open(o)
}

// eventually waits within a bubble for something to hold.
func eventually(t *testing.T, what string, within time.Duration, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !holds(); time.Sleep(within / 1000) {
		if time.Now().After(end) {
			t.Fatalf("within %s it does not come to be that %s", within, what)
		}
	}
}

// A call is a request that a stranger was sent.
type call struct {
	endpoint string
	at       time.Time
}

// A stranger is a peer of which a test writes what it says. What is not written is as
// of an honest one that has nothing to tell.
type stranger struct {
	t      *testing.T
	street *street
	id     *Identity
	epoch  graph.Epoch
	on     map[string]http.HandlerFunc // what answers, by endpoint; "document" is one
	client *http.Client

	mu    sync.Mutex
	calls []call
}

const endpointDocument = "document" // which no hub lists

// stranger opens a scripted peer with the name of a host.
func (s *street) stranger(host string) *stranger {
	s.t.Helper()
	x := &stranger{t: s.t, street: s, epoch: 0xbad, on: map[string]http.HandlerFunc{}, client: plainClients(s.dial).Calls}
	server := s.server(host, http.HandlerFunc(x.serve))
	server.Start()
	var err error
	if x.id, err = OpenIdentity(vfs.NewMem(), "/keys", server.URL); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		x.client.CloseIdleConnections()
		server.CloseClientConnections()
		server.Close()
	})
	return x
}

func (x *stranger) url() string { return x.id.Hub() }

// peer is the stranger as another hub knows it.
func (x *stranger) peer(authority ...string) Peer {
	return Peer{URL: x.url(), Fingerprint: x.id.Key().Fingerprint(), Authority: authority}
}

func (x *stranger) serve(w http.ResponseWriter, r *http.Request) {
	endpoint := strings.TrimPrefix(r.URL.Path, Path)
	if endpoint == DocumentPath {
		endpoint = endpointDocument
	}
	x.mu.Lock()
	x.calls = append(x.calls, call{endpoint, time.Now()})
	answer := x.on[endpoint]
	x.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case endpoint == endpointDocument:
		w.Write(x.document(nil))
	case endpoint == EndpointInterests:
		x.takeInterests(w, r)
	case endpoint == EndpointStream:
		says()(w, r)
	default:
		io.WriteString(w, "{}")
	}
}

// say sets what answers at an endpoint.
func (x *stranger) say(endpoint string, h http.HandlerFunc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.on[endpoint] = h
}

// called counts the calls of an endpoint, "" of all, since a time.
func (x *stranger) called(endpoint string, since time.Time) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.calls {
		if (endpoint == "" || c.endpoint == endpoint) && !c.at.Before(since) {
			n++
		}
	}
	return n
}

// document is that of an honest hub, with a change.
func (x *stranger) document(change func(d *Document)) []byte {
	hub := x.url()
	d := &Document{Hub: hub, Epoch: x.epoch.String(), Versions: []int{Version}, Authority: []string{}, Keys: []JWK{x.id.JWK()},
		Endpoints: map[string]string{}, Limits: Limits{Body: MaxBody, Ops: graph.MaxOps, Interests: 1000}}
	for _, name := range endpointNames {
		d.Endpoints[name] = hub + Path + name
	}
	if change != nil {
		change(d)
	}
	b, err := json.Marshal(d)
	if err != nil {
		x.t.Fatal(err)
	}
	return b
}

// takeInterests answers that all was taken.
func (x *stranger) takeInterests(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	reg, err := decodeRegistration(b)
	if err != nil {
		x.t.Errorf("a hub registers with %s: %v", b, err)
	}
	fmt.Fprintf(w, `{"applied":%d}`, reg.Base+uint64(len(reg.Ops)))
}

// writes answers with a status and a text.
func writes(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
}

// hangs answers nothing until who asks has gone.
func hangs(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body) // only then the server notices that
	<-r.Context().Done()
}

// says tells text on a stream, and then that there is no more, for as long as somebody
// listens.
func says(text ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		open(w)
		for _, t := range append(text, "event: heartbeat\ndata: {}\n\n") {
			if _, err := io.WriteString(w, t); err != nil {
				return
			}
		}
		for tick := time.NewTicker(heartbeat); ; {
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
				io.WriteString(w, "event: heartbeat\ndata: {}\n\n")
			}
		}
	}
}

// open begins a stream without end.
func open(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	http.NewResponseController(w).SetWriteDeadline(time.Time{})
}

// event is one of a stream.
func event(name, id, text string) string {
	return "id: " + id + "\nevent: " + name + "\ndata: " + text + "\n\n"
}

// states are an event of the stranger, up to a position in its epoch.
func (x *stranger) states(position uint64, levels ...graph.Level) string {
	return event(eventStates, graph.Cursor{Epoch: x.epoch, Seq: position}.String(), statesText(levels...))
}

func statesText(levels ...graph.Level) string {
	m := statesShape{Now: levels[0].Now, States: []stateShape{}}
	for i := range levels {
		m.States = append(m.States, shapeLevel(&levels[i]))
	}
	return mustJSON(m)
}

// level is one of a resource that changed just now.
func level(uri string, sver uint64, version string) graph.Level {
	now := time.Now()
	return graph.Level{URI: uri, Sver: sver, Cver: sver, Heard: true, Known: true, Version: version, Hash: "h" + version, ChangedAt: now, Now: now}
}

// token is one that the stranger makes for a hub.
func (x *stranger) token(hub string) string {
	token, err := x.id.Token(hub, time.Now())
	if err != nil {
		x.t.Fatal(err)
	}
	return token
}

// request makes a call of the stranger. Headers are pairs of name and value.
func (x *stranger) request(method, hub, endpoint string, body io.Reader, header ...string) *http.Request {
	r, err := http.NewRequest(method, hub+Path+endpoint, body)
	if err != nil {
		x.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+x.token(hub))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// post calls an endpoint of a hub.
func (x *stranger) post(hub, endpoint, body string, header ...string) (status int, answer string) {
	x.t.Helper()
	return x.do(x.request(http.MethodPost, hub, endpoint, strings.NewReader(body), header...))
}

func (x *stranger) do(r *http.Request) (status int, answer string) {
	x.t.Helper()
	a, err := x.client.Do(r)
	if err != nil {
		return 0, err.Error() // the hub cut it off
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		return 0, err.Error()
	}
	return a.StatusCode, string(bytes.TrimSpace(b))
}

// listen opens a stream of a hub, of which nothing is read yet.
func (x *stranger) listen(hub string, header ...string) *http.Response {
	x.t.Helper()
	a, err := x.client.Do(x.request(http.MethodGet, hub, EndpointStream, nil, header...))
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { a.Body.Close() })
	return a
}

// hostOf is the host of a URL.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		panic(err) // texts of tests
	}
	return u.Host
}
