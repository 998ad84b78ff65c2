package bench

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// headerCeiling marks a call that the hub does not make.
const headerCeiling = "Freshwire-Ceiling"

// maxCallbackBody bounds what a subscriber reads, in bytes: more than a document has.
const maxCallbackBody = 4 << 20

// callbacks are the subscribers: servers with an address each.
type callbacks struct {
	all      []*callback
	server   *http.Server
	serving  sync.WaitGroup
	verified atomic.Int64 // that have been asked whether they are subscribers
	// published is when something was published last, in nanoseconds since 1970.
	published atomic.Int64
	timing    atomic.Pointer[latencies] // of calls, nil while nobody measures it
	seed      maphash.Seed
	truth     *truth

	mu       sync.Mutex
	contents map[uint64][]*sent // by the hash of their bytes
}

// A callback is one subscriber.
type callback struct {
	of          *callbacks
	url, secret string
	topic       string
	page        int // that the topic is of, or allPages
	asked       atomic.Bool
	manner      atomic.Pointer[manner]
	taken       atomic.Uint64 // deliveries that it said 200 to
	bytes       atomic.Uint64 // of their bodies
	number      atomic.Int64  // of the newest update that it was told of
	waiting     atomic.Uint64 // of its calls, those when whose answer was given more was waiting

	mu    sync.Mutex
	got   []delivered
	plain []delivered // by the ceiling
}

// A sent body is one of all that are equal. It is read when all is over.
type sent struct {
	body   []byte
	number int64 // of the newest update in it
}

// delivered is what is kept of a call that was taken.
type delivered struct {
	what          *sent
	signature, id string
	unheard       bool // who called had given up when it was answered
}

// latencies are how late calls came.
type latencies struct {
	mu sync.Mutex
	histogram
}

func (l *latencies) record(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.histogram.record(d)
}

func (l *latencies) spread() Spread {
	l.mu.Lock()
	defer l.mu.Unlock()
	return newSpread(&l.histogram)
}

// A manner is what a callback does with calls until it is over.
type manner struct {
	hangs, fails bool
	over         chan struct{}
}

// openCallbacks listens at 127.77.0.1 and up, which no other host is, so that the hub
// makes as many calls at once as it may.
func openCallbacks(n int, t *truth) (*callbacks, error) {
	cs := &callbacks{truth: t, seed: maphash.MakeSeed(), contents: map[uint64][]*sent{}}
	cs.server = &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.NotFoundHandler()}
	var listeners []net.Listener
	byAddress := map[string]*callback{}
	for i := range n {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.77.%d.%d:0", i/250, 1+i%250))
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, fmt.Errorf("an address for each subscriber, of which some systems have 127.0.0.1 alone: %w", err)
		}
		listeners = append(listeners, l)
		c := &callback{of: cs, url: "http://" + l.Addr().String() + "/", secret: fmt.Sprintf("secret of subscriber %d", i)}
		c.manner.Store(&manner{over: make(chan struct{})})
		byAddress[l.Addr().String()] = c
		cs.all = append(cs.all, c)
	}
	cs.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		byAddress[at.String()].serve(w, r)
	})
	for _, l := range listeners {
		cs.serving.Go(func() { cs.server.Serve(l) })
	}
	return cs, nil
}

// close ends the servers and all that hangs.
func (cs *callbacks) close() {
	cs.disturb(0, 0)
	cs.server.Close()
	cs.serving.Wait()
}

// disturb has the last of the callbacks hang and fail, and all others be well.
func (cs *callbacks) disturb(hanging, failing int) {
	for i, c := range cs.all {
		left := len(cs.all) - i
		m := &manner{hangs: left <= hanging, fails: left > hanging && left <= hanging+failing, over: make(chan struct{})}
		close(c.manner.Swap(m).over)
	}
}

// well returns those that answer.
func (cs *callbacks) well() (well []*callback) {
	for _, c := range cs.all {
		if m := c.manner.Load(); !m.hangs && !m.fails {
			well = append(well, c)
		}
	}
	return well
}

func (c *callback) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		if !c.asked.Swap(true) {
			c.of.verified.Add(1)
		}
		io.WriteString(w, r.URL.Query().Get("hub.challenge"))
		return
	}
	body := make([]byte, 0, min(max(r.ContentLength, 512), maxCallbackBody))
	read := bytes.NewBuffer(body)
	if _, err := read.ReadFrom(io.LimitReader(r.Body, maxCallbackBody)); err != nil {
		return
	}
	switch m := c.manner.Load(); {
	case m.fails:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case m.hangs:
		select {
		case <-m.over:
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	d := delivered{what: c.of.intern(read.Bytes()), signature: r.Header.Get("X-Hub-Signature"), id: r.Header.Get("Webhook-Id")}
	if r.Header.Get(headerCeiling) != "" {
		c.mu.Lock()
		c.plain = append(c.plain, d)
		c.mu.Unlock()
		return
	}
	c.take(d)
	w.WriteHeader(http.StatusOK)
	if r.Context().Err() != nil {
		c.mu.Lock()
		c.got[len(c.got)-1].unheard = true // it is called by one at a time
		c.mu.Unlock()
	}
}

// take notes what came.
func (c *callback) take(d delivered) {
	if t := c.of.timing.Load(); t != nil {
		t.record(time.Duration(time.Now().UnixNano() - c.of.published.Load()))
	}
	c.mu.Lock()
	c.got = append(c.got, d)
	c.mu.Unlock()
	c.bytes.Add(uint64(len(d.what.body)))
	c.taken.Add(1)
	if n := d.what.number; n > c.number.Load() {
		c.number.Store(n) // it is called by one at a time
	}
	if c.of.truth.lacks(c.page, c.number.Load()) > 0 {
		c.waiting.Add(1)
	}
}

// intern returns the one that is kept of equal bodies.
func (cs *callbacks) intern(body []byte) *sent {
	h := maphash.Bytes(cs.seed, body)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, s := range cs.contents[h] {
		if bytes.Equal(s.body, body) {
			return s
		}
	}
	s := &sent{body: body, number: numberOf(body)}
	cs.contents[h] = append(cs.contents[h], s)
	return s
}

// numberOf is the version of the last notice of a document, which is the number of its
// update; 0 if there is none.
func numberOf(body []byte) int64 {
	if i := bytes.LastIndex(body, versionKey); i >= 0 {
		return publishedIn(body[i:])
	}
	return 0
}

// mark returns how much a callback has got.
func (c *callback) mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.got)
}

// since returns some of what a callback got after a mark, as it came.
func (c *callback) since(mark int) (bodies []CeilingBody) {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got[min(mark, max(len(c.got)-1, 0)):]
	step := max(1, len(got)/sampledBodies)
	for i := 0; i < len(got); i += step {
		bodies = append(bodies, CeilingBody{got[i].what.body})
	}
	return bodies
}

// forgetPlain drops what the ceiling brought.
func (cs *callbacks) forgetPlain() {
	for _, c := range cs.all {
		c.mu.Lock()
		c.plain = nil
		c.mu.Unlock()
	}
}
