package faulty_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/freshwire/freshwire/internal/faulty"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 10 * time.Second       // for what is to happen
	quiet    = 100 * time.Millisecond // for what must not
)

// client would keep connections, and is not the one that adds headers.
var client = &http.Client{Transport: &http.Transport{DisableCompression: true}}

// A hub answers POST with the body it got and GET /page with a page, and streams
// what is told to everybody who asks for /stream.
type hub struct {
	*httptest.Server
	tell chan string
	left chan struct{} // one for each stream that ended

	mu       sync.Mutex
	requests int
	bodies   map[string]int
	together map[string]bool // bodies that were here twice at once
}

const pageSize = 4000

func newHub(t *testing.T) *hub {
	h := &hub{
		tell: make(chan string), left: make(chan struct{}, 100),
		bodies: map[string]int{}, together: map[string]bool{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", h.echo)
	mux.HandleFunc("GET /page", func(w http.ResponseWriter, _ *http.Request) {
		h.count("")
		_, _ = w.Write(make([]byte, pageSize))
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		h.count("")
		defer func() { h.left <- struct{}{} }()
		w.WriteHeader(http.StatusOK)
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case s := <-h.tell:
				_, _ = io.WriteString(w, s+"\n")
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST /stuck", func(_ http.ResponseWriter, r *http.Request) {
		h.count("")
		<-r.Context().Done()
		h.left <- struct{}{}
	})
	mux.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/request", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Answer", "a")
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintf(w, "%s %s %s %v %q", r.Method, r.Host, r.RequestURI, r.Close, r.Header)
	})
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

func (h *hub) count(body string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests++
	h.bodies[body]++
	return h.bodies[body]
}

func (h *hub) seen() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests
}

// echo keeps a first request that has a query until its second comes, for a while.
func (h *hub) echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if n := h.count(string(body)); n == 1 && r.URL.RawQuery != "" {
		together := eventually(quiet, func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.bodies[string(body)] > 1
		})
		h.mu.Lock()
		defer h.mu.Unlock()
		h.together[string(body)] = together
	}
	_, _ = w.Write(body)
}

// eventually reports whether something holds within a time.
func eventually(within time.Duration, holds func() bool) bool {
	timeout, tick := time.After(within), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if holds() {
			return true
		}
		select {
		case <-timeout:
			return false
		case <-tick.C:
		}
	}
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	if !eventually(patience, holds) {
		t.Fatalf("waited in vain until %s", what)
	}
}

func came[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func nothing[T any](t *testing.T, what string, c <-chan T) {
	t.Helper()
	select {
	case v := <-c:
		t.Fatalf("%s: %v", what, v)
	case <-time.After(quiet):
	}
}

// get returns how many bytes of an answer came, and what it broke off with.
func get(url string) (int, error) {
	r, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return len(body), err
}

// post reports whether a body came back.
func post(url, body string) error {
	r, err := client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if err == nil && string(got) != body {
		err = fmt.Errorf("got %.20q, want %.20q", got, body)
	}
	return err
}

// dial opens a connection and asks for nothing.
func dial(t *testing.T, p *faulty.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A stream is an open stream of a hub: its lines, and then what it ended with.
type stream struct {
	line  chan string
	ended chan error
	leave context.CancelFunc
}

func open(t *testing.T, p *faulty.Proxy) stream {
	t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	t.Cleanup(leave)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL()+"/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	s := stream{make(chan string, 100), make(chan error, 1), leave}
	go func() {
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() {
			s.line <- lines.Text()
		}
		s.ended <- lines.Err()
	}()
	return s
}

func (s stream) broke(t *testing.T) {
	t.Helper()
	if err := came(t, "the end of a stream", s.ended); err == nil {
		t.Error("the stream ended as if it were over")
	}
}

func wantCounts(t *testing.T, p *faulty.Proxy, want faulty.Counts) {
	t.Helper()
	if got := p.Counts(); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
}

func TestWithoutAFaultRequestsAndAnswersAreUnchanged(t *testing.T) {
	h := newHub(t)
	p := faulty.New(t, h.URL, 1)
	request, err := http.NewRequest(http.MethodPut, p.URL()+"/request?a=%2F;b", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", "a hub")
	request.Header.Set("X-Request", "r")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	want := "PUT " + strings.TrimPrefix(p.URL(), "http://") + ` /request?a=%2F;b true map["Connection":["close"] "Content-Length":["0"] "User-Agent":["a hub"] "X-Request":["r"]]`
	if err != nil || string(body) != want || response.StatusCode != http.StatusTeapot || response.Header.Get("X-Answer") != "a" {
		t.Errorf("got %q, %v, %d, %v; want %q", body, err, response.StatusCode, response.Header, want)
	}
	if err := post(p.URL()+"/echo", strings.Repeat("x", 5<<20)); err != nil {
		t.Error(err)
	}
	s := open(t, p)
	for _, line := range []string{"one", "two"} { // each goes through before the next is there
		h.tell <- line
		if got := came(t, line, s.line); got != line {
			t.Errorf("got %q, want %q", got, line)
		}
	}
	s.leave()
	came(t, "the hub to see that the reader has left", h.left)
	wantCounts(t, p, faulty.Counts{Requests: 3})
}

func TestWhereNobodyAnswersConnectionsBreak(t *testing.T) {
	h := newHub(t)
	p := faulty.New(t, "", 1)
	if _, err := get(p.URL() + "/page"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("without a target: %v, want a reset", err)
	}
	p.Target(h.URL)
	if n, err := get(p.URL() + "/page"); err != nil || n != pageSize {
		t.Errorf("with a target: %d bytes, %v", n, err)
	}
	if n, err := get(p.URL() + "/abort"); err == nil {
		t.Errorf("of a target that breaks off %d bytes came", n)
	}
	s := open(t, p)
	h.CloseClientConnections()
	s.broke(t)
	h.Close()
	if _, err := get(p.URL() + "/page"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("of a target that has gone: %v, want a reset", err)
	}
}

func TestATargetIsAnURL(t *testing.T) {
	for _, target := range []string{"127.0.0.1:80", "//127.0.0.1:80", "/page", "http://", ":"} {
		heard := &listening{TB: t}
		if faulty.New(heard, target, 1); !heard.failed {
			t.Errorf("%q passed", target)
		}
	}
}

// listening is a test that may fail.
type listening struct {
	testing.TB
	failed bool
}

func (l *listening) Errorf(string, ...any) { l.failed = true }

// course is what 40 requests met one after another: - was broken, = is to come twice.
func course(t *testing.T, seed uint64, f faulty.Fault, request func(p *faulty.Proxy, i int) error) (string, *hub, *faulty.Proxy) {
	h := newHub(t)
	p := faulty.New(t, h.URL, seed)
	p.Set(f)
	var b strings.Builder
	for i := range 40 {
		doubled := p.Counts().Duplicated
		switch err := request(p, i); {
		case err != nil:
			b.WriteString("-")
		case p.Counts().Duplicated > doubled:
			b.WriteString("=")
		default:
			b.WriteString("+")
		}
	}
	return b.String(), h, p
}

func TestWhatIsLikelyHappensAsOftenAndFollowsFromTheSeed(t *testing.T) {
	send := func(p *faulty.Proxy, i int) error { return post(p.URL()+"/echo", fmt.Sprint("body ", i)) }
	page := func(p *faulty.Proxy, _ int) error {
		_, err := get(p.URL() + "/page")
		return err
	}
	for _, c := range []struct {
		what    string
		fault   faulty.Fault
		request func(*faulty.Proxy, int) error
		mark    string
		counts  func(n int) faulty.Counts // when it happened to n of 40 requests
		seen    func(n int) int           // by the target
	}{
		{"drop", faulty.Fault{Drop: 0.4}, send, "-",
			func(n int) faulty.Counts { return faulty.Counts{Requests: 40, Dropped: n} }, func(n int) int { return 40 - n }},
		{"lose", faulty.Fault{Lose: 0.4}, send, "-",
			func(n int) faulty.Counts { return faulty.Counts{Requests: 40, Lost: n} }, func(int) int { return 40 }},
		{"duplicate", faulty.Fault{Duplicate: 0.4}, send, "=",
			func(n int) faulty.Counts { return faulty.Counts{Requests: 40, Duplicated: n} }, func(n int) int { return 40 + n }},
		{"cut", faulty.Fault{CutAfter: 6000}, page, "-",
			func(n int) faulty.Counts { return faulty.Counts{Requests: 40, Cut: n} }, func(int) int { return 40 }},
	} {
		t.Run(c.what, func(t *testing.T) {
			first, h, p := course(t, 7, c.fault, c.request)
			n := strings.Count(first, c.mark)
			if n < 8 || n > 28 || n+strings.Count(first, "+") != 40 {
				t.Errorf("met %q", first)
			}
			wantCounts(t, p, c.counts(n))
			await(t, "all have reached the target", func() bool { return h.seen() >= c.seen(n) })
			if seen := h.seen(); seen != c.seen(n) {
				t.Errorf("the target saw %d, want %d", seen, c.seen(n))
			}
			p.Set(faulty.Fault{})
			for i := range 40 {
				if err := c.request(p, i); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			}
			second, _, _ := course(t, 7, c.fault, func(p *faulty.Proxy, i int) error {
				_, _ = get(p.URL() + "/request") // whatever it meets
				return c.request(p, i)
			})
			if second != first {
				t.Errorf("with the same seed, beside other requests:\n%s, at first\n%s", second, first)
			}
			if other, _, _ := course(t, 8, c.fault, c.request); other == first {
				t.Errorf("with another seed the same: %s", other)
			}
		})
	}
}

func TestASecondRequestComesBesideTheFirstOrAfterIt(t *testing.T) {
	h := newHub(t)
	p := faulty.New(t, h.URL, 1)
	p.Set(faulty.Fault{Duplicate: 1})
	for i := range 8 {
		if err := post(p.URL()+"/echo?wait", fmt.Sprint("body ", i)); err != nil {
			t.Error(err)
		}
	}
	await(t, "all have come twice, and the first ones were answered", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.requests == 16 && len(h.together) == 8
	})
	beside := 0
	for body, n := range h.bodies {
		if n != 2 {
			t.Errorf("%s came %d times", body, n)
		}
		if h.together[body] {
			beside++
		}
	}
	if beside == 0 || beside == 8 {
		t.Errorf("%d of 8 were there beside their first", beside)
	}
	if _, err := get(p.URL() + "/page"); err != nil {
		t.Error(err)
	}
	if err := post(p.URL()+"/echo", strings.Repeat("x", 4<<20+1)); err != nil {
		t.Error(err)
	}
	wantCounts(t, p, faulty.Counts{Requests: 10, Duplicated: 8})
}

func TestWhoseAnswerIsGoneMayBeSentTwiceToo(t *testing.T) {
	for _, f := range []faulty.Fault{{Duplicate: 1, Lose: 1}, {Duplicate: 1, CutAfter: 1}} {
		h := newHub(t)
		p := faulty.New(t, h.URL, 1)
		p.Set(f)
		for i := range 8 { // some of them beside the first, some after it
			if err := post(p.URL()+"/echo", fmt.Sprint(strings.Repeat("x", 100), i)); err == nil {
				t.Errorf("%+v: an answer came", f)
			}
		}
		await(t, "all have come twice", func() bool { return h.seen() == 16 })
	}
}

func TestAnAnswerIsCutAtTheSameByteEachTime(t *testing.T) {
	lengths := func(seed uint64) (all []int) {
		_, _, p := course(t, seed, faulty.Fault{CutAfter: 1000}, func(p *faulty.Proxy, _ int) error {
			n, err := get(p.URL() + "/page")
			if (n == pageSize) != (err == nil) {
				t.Errorf("%d bytes, then %v", n, err)
			}
			all = append(all, n)
			return nil
		})
		p.Set(faulty.Fault{CutAfter: 1000, Rate: 20_000}) // in slices
		n, _ := get(p.URL() + "/page")
		return append(all, n)
	}
	first, second, other := lengths(7), lengths(7), lengths(8)
	if !slices.Equal(first, second) || slices.Equal(first, other) {
		t.Errorf("lengths %v, again %v, and with another seed %v", first, second, other)
	}
	sum := 0
	for _, n := range first {
		sum += n
	}
	if mean := sum / len(first); mean < 600 || mean > 1400 {
		t.Errorf("cut after %d bytes in the mean, want about 1000", mean)
	}
}

func TestTimesAreKept(t *testing.T) {
	for _, c := range []struct {
		what  string
		fault faulty.Fault
		least time.Duration // for 5 pages, whose luck is that of seed 1
	}{
		{"delay", faulty.Fault{Delay: 20 * time.Millisecond}, 5 * 2 * 20 * time.Millisecond},
		{"jitter", faulty.Fault{Jitter: 40 * time.Millisecond}, 5 * 20 * time.Millisecond},
		{"rate", faulty.Fault{Rate: 5 * pageSize * 4}, 200 * time.Millisecond},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := faulty.New(t, newHub(t).URL, 1)
			p.Set(c.fault)
			began := time.Now()
			for range 5 {
				if n, err := get(p.URL() + "/page"); err != nil || n != pageSize {
					t.Errorf("%d bytes, %v", n, err)
				}
			}
			if took := time.Since(began); took < c.least {
				t.Errorf("took %v, want at least %v", took, c.least)
			}
		})
	}
}

func TestASlowAnswerComesInSlices(t *testing.T) {
	p := faulty.New(t, newHub(t).URL, 1)
	p.Set(faulty.Fault{Rate: pageSize / 100})
	response, err := client.Get(p.URL() + "/page")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	first := make(chan error, 1)
	go func() {
		_, err := response.Body.Read(make([]byte, 1))
		first <- err
	}()
	if err := came(t, "the first byte of a page that takes 100 s", first); err != nil {
		t.Error(err)
	}
}

func TestWhoWaitsHearsThatTheFaultIsAnother(t *testing.T) {
	for _, f := range []faulty.Fault{{Delay: time.Hour}, {Rate: 1}} {
		h := newHub(t)
		p := faulty.New(t, h.URL, 1)
		p.Set(f)
		done := make(chan error, 1)
		go func() {
			_, err := get(p.URL() + "/page")
			done <- err
		}()
		await(t, "the request is there", func() bool { return p.Counts().Requests == 1 })
		nothing(t, "the page came at once", done)
		p.Set(faulty.Fault{})
		if err := came(t, "the page", done); err != nil {
			t.Error(err)
		}
	}
}

func TestABlackholeIsSilentAndLosesWhatWasSentIntoIt(t *testing.T) {
	h := newHub(t)
	p := faulty.New(t, h.URL, 1)
	idle := dial(t, p)
	s := open(t, p)
	h.tell <- "one"
	came(t, "a line", s.line)
	p.Set(faulty.Fault{Blackhole: true})
	p.Set(faulty.Fault{Blackhole: true, CutAfter: 1}) // it cuts nobody
	h.tell <- "lost"
	posted := make(chan error, 1)
	go func() { posted <- post(p.URL()+"/echo", "lost") }()
	await(t, "the request is held", func() bool { return p.Counts().Held == 2 })
	nothing(t, "a line came out of a blackhole", s.line)
	nothing(t, "a stream ended in a blackhole", s.ended)
	nothing(t, "a request was answered in a blackhole", posted)
	p.Set(faulty.Fault{})
	s.broke(t)
	if err := came(t, "the end of a request", posted); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a request that was held: %v, want a reset", err)
	}
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection without a request: %v, want a reset", err)
	}
	came(t, "the hub to see that its reader has gone", h.left)
	nothing(t, "a line was kept", s.line)
	if seen := h.seen(); seen != 1 {
		t.Errorf("the hub saw %d requests, want the stream", seen)
	}
	wantCounts(t, p, faulty.Counts{Requests: 2, Held: 2, Cut: 2})
	if err := post(p.URL()+"/echo", "afterwards"); err != nil {
		t.Error(err)
	}
}

func TestThroughABlackholeNoEndSeesTheOtherGo(t *testing.T) {
	h := newHub(t)
	p := faulty.New(t, h.URL, 1)
	s := open(t, p)
	p.Set(faulty.Fault{Blackhole: true})
	s.leave()
	nothing(t, "the hub saw that its reader has gone", h.left)
	p.Set(faulty.Fault{})
	came(t, "the hub to see that its reader has gone", h.left)

	s = open(t, p)
	posted := make(chan error, 1)
	go func() { posted <- post(p.URL()+"/stuck", "") }()
	await(t, "the request is at the hub", func() bool { return h.seen() == 3 })
	p.Set(faulty.Fault{Blackhole: true})
	h.CloseClientConnections()
	for range 2 {
		came(t, "the hub to be rid of them", h.left)
	}
	nothing(t, "a stream ended in a blackhole", s.ended)
	nothing(t, "a request ended in a blackhole", posted)
	p.Cut()
	s.broke(t)
	came(t, "the end of a request", posted)
	wantCounts(t, p, faulty.Counts{Requests: 3, Held: 3, Cut: 3})
}

func TestWhatIsOpenIsBrokenOff(t *testing.T) {
	for _, c := range []struct {
		what string
		act  func(*faulty.Proxy)
		ok   bool // for those who come afterwards
	}{
		{"a cut", (*faulty.Proxy).Cut, true},
		{"refusal", func(p *faulty.Proxy) { p.Set(faulty.Fault{Refuse: true}) }, false},
		{"a limit that is behind it", func(p *faulty.Proxy) { p.Set(faulty.Fault{CutAfter: 1}) }, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			h := newHub(t)
			p := faulty.New(t, h.URL, 1)
			s := open(t, p)
			h.tell <- strings.Repeat("x", 1000)
			came(t, "a line", s.line)
			c.act(p)
			s.broke(t)
			came(t, "the hub to see that its reader has gone", h.left)
			if cut := p.Counts().Cut; cut != 1 {
				t.Errorf("%d were cut, want the stream", cut)
			}
			if _, err := get(p.URL() + "/page"); (err == nil) != c.ok {
				t.Errorf("afterwards: %v", err)
			}
			p.Set(faulty.Fault{})
			if _, err := get(p.URL() + "/page"); err != nil {
				t.Errorf("after the fault: %v", err)
			}
		})
	}
}

func TestWhoIsRefusedIsReset(t *testing.T) {
	p := faulty.New(t, newHub(t).URL, 1)
	p.Set(faulty.Fault{Refuse: true})
	c, err := net.Dial("tcp", strings.TrimPrefix(p.URL(), "http://"))
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	wantCounts(t, p, faulty.Counts{Refused: 1})
}

// as gives a request the token of a caller, which nobody has signed.
func as(t *testing.T, p *faulty.Proxy, caller string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, p.URL()+"/page", nil)
	if err != nil {
		t.Fatal(err)
	}
	if caller != "" {
		claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iss":%q}`, caller))
		r.Header.Set("Authorization", "Bearer e30."+claims+".AAAA")
	}
	return r
}

func TestOneCallerHasAFaultOfItsOwn(t *testing.T) {
	const b, c = "https://b.example", "https://c.example"
	p := faulty.New(t, newHub(t).URL, 1)
	ask := func(caller string) error {
		r, err := client.Do(as(t, p, caller))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		_, err = io.Copy(io.Discard, r.Body)
		return err
	}
	for _, f := range []faulty.Fault{{Refuse: true}, {Drop: 1}, {CutAfter: 1}} {
		p.SetFor(b, &f)
		if ask(b) == nil || ask(c) != nil || ask("") != nil {
			t.Errorf("%+v of one caller befell others, or not that one", f)
		}
	}
	p.Set(faulty.Fault{Drop: 1})
	p.SetFor(b, &faulty.Fault{})
	if ask(b) != nil || ask(c) == nil || ask("") == nil {
		t.Error("a fault of all befell the caller who has one of its own, or not the others")
	}
	p.SetFor(b, nil)
	if ask(b) == nil {
		t.Error("who has no fault of its own any more is spared")
	}
	if got := p.Counts(); got.Refused != 1 {
		t.Errorf("%d were refused, want the one whose caller was", got.Refused)
	}
}

func TestABlackholeTakesWhatIsUnderWayOfOneCaller(t *testing.T) {
	const b = "https://b.example"
	p := faulty.New(t, newHub(t).URL, 1)
	p.Set(faulty.Fault{Delay: time.Hour})
	ended := map[string]chan error{}
	for i, caller := range []string{b, ""} {
		r, done := as(t, p, caller), make(chan error, 1)
		ended[caller] = done
		go func() {
			answer, err := client.Do(r)
			if err == nil {
				err = answer.Body.Close()
			}
			done <- err
		}()
		await(t, "a request waits", func() bool { return p.Counts().Requests == i+1 })
	}
	p.SetFor(b, &faulty.Fault{Blackhole: true})
	p.Set(faulty.Fault{})
	if err := came(t, "the answer for who names no caller", ended[""]); err != nil {
		t.Error(err)
	}
	nothing(t, "a request left the blackhole", ended[b])
	p.SetFor(b, nil)
	if err := came(t, "the end of who was held", ended[b]); err == nil {
		t.Error("what a blackhole held was answered")
	}
	if got := p.Counts(); got.Held != 1 || got.Cut != 1 {
		t.Errorf("counts %+v, want one that was held and then cut", got)
	}
}

// The end of a test does not wait for anybody: goleak sees what would stay.
func TestTheEndOfATestClosesWhatIsOpen(t *testing.T) {
	h := newHub(t)
	var s stream
	posted := make(chan error, 1)
	t.Run("inner", func(t *testing.T) {
		p := faulty.New(t, h.URL, 1)
		s = open(t, p)
		p.Set(faulty.Fault{Blackhole: true})
		go func() { posted <- post(p.URL()+"/echo", "held") }()
		await(t, "both are held", func() bool { return p.Counts().Held == 2 })
		dial(t, p)
	})
	came(t, "the end of the stream", s.ended)
	if err := came(t, "the end of the request", posted); err == nil {
		t.Error("a held request was answered")
	}
}

// Everything at once: in the end all are served.
func TestABadNetworkHeals(t *testing.T) {
	h := newHub(t)
	p := faulty.New(t, h.URL, 1)
	var healed atomic.Bool
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := 0; ; n++ {
				last := healed.Load()
				err := post(p.URL()+"/echo", fmt.Sprint(i, " ", n))
				if last {
					if err != nil {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	n := 0
	await(t, "everything has happened", func() bool {
		n++
		p.Set(faulty.Fault{
			Refuse: n%10 == 3, Blackhole: n%10 == 6, Jitter: time.Duration(n%3) * time.Millisecond,
			CutAfter: n % 7 * 10, Drop: 0.1, Lose: 0.1, Duplicate: 0.3, Rate: n % 2 * 10_000,
		})
		if n%10 == 9 {
			p.Cut()
		}
		want := p.Counts().Requests + 3
		eventually(5*time.Millisecond, func() bool { return p.Counts().Requests >= want })
		c := p.Counts()
		return n > 60 && c.Refused > 0 && c.Held > 0 && c.Cut > 0 && c.Dropped > 0 && c.Lost > 0 && c.Duplicated > 0
	})
	p.Set(faulty.Fault{})
	healed.Store(true)
	all.Wait()
}
