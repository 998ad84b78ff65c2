package hub

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
)

// hostileMemory bounds what a hub may have in use after a hostile request beyond
// what it had before the first, in bytes.
const hostileMemory = 64 << 20

// bare is a request as it stands on the wire, without a body.
func bare(method, target string, header ...string) string {
	host := "Host: localhost\r\n"
	if slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, "Host") }) {
		host = ""
	}
	for _, h := range header {
		host += h + "\r\n"
	}
	return method + " " + target + " HTTP/1.1\r\n" + host + "\r\n"
}

// sending is a request with a body, as JSON unless it says otherwise.
func sending(method, target, body string, header ...string) string {
	if !slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, "Content-Type") }) {
		header = append(header, "Content-Type: application/json")
	}
	if !slices.ContainsFunc(header, func(h string) bool {
		return strings.HasPrefix(h, "Content-Length") || strings.HasPrefix(h, "Transfer-Encoding")
	}) {
		header = append(header, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return bare(method, target, header...) + body
}

// post and the others are requests that differ in their bodies alone.
func postUpdate(body string, header ...string) string { return sending("POST", up, body, header...) }
func putChannel(body string) string                   { return sending("PUT", chans+"x", body) }
func asLines(body string) string                      { return postUpdate(body, linesType) }
func patchLines(body string, header ...string) string {
	return sending("PATCH", chans+"listed", body, append(header, linesType)...)
}

const (
	linesType = "Content-Type: " + typeNDJSON
	asGzip    = "Content-Encoding: gzip"
	asZstd    = "Content-Encoding: zstd"
	forged    = "%0Atime=x%20level=ERROR%20msg=forged"
)

// uriOf is an update whose URI is this, as it stands in JSON.
func uriOf(u string) string { return postUpdate(`{"uri":"` + u + `"}`) }

// with is an update with a further member.
func with(member string) string { return postUpdate(field(member)) }

// times repeats s.
func times(n int, s string) string { return strings.Repeat(s, n) }

// A logText is a log that is read while it is written.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// take returns what was written since it was called last.
func (l *logText) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

var (
	// logLine is a line of names and values, each of which is one word or quoted.
	logLine = regexp.MustCompile(`^time=\S+ level=(DEBUG|INFO|WARN) msg=(request|serving|store|"http: [^"\\]*")( [a-z.]+=("([^"\\]|\\.)*"|[^\s"=]*))*$`)
	// logNames are what a hub tells of a request.
	logNames = regexp.MustCompile(`^(time|level|msg|component|request|method|path|status|bytes|took|client)$`)
	logName  = regexp.MustCompile(`"([^"\\]|\\.)*"| ([a-z.]+)=`)
)

// checkLog fails the test if a line of the log is not as the hub writes it.
func checkLog(text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !logLine.MatchString(line) || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
			return fmt.Errorf("logged: %q", line)
		}
		if strings.Contains(line, " component=graph ") {
			continue // the store's own words
		}
		for _, m := range logName.FindAllStringSubmatch(line, -1) {
			if m[2] != "" && !logNames.MatchString(m[2]) {
				return fmt.Errorf("logged with a name %s that a request brought: %q", m[2], line)
			}
		}
	}
	return nil
}

// A victim is a hub that hostile requests are sent to, and what it was like
// before the first.
type victim struct {
	*testHub
	log        *logText
	heap       uint64
	goroutines int
	version    int
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{log: &logText{}}
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", t.TempDir(), minCache
	v.testHub = runHub(t, func() (*Hub, error) {
		h, err := New(cfg, slog.New(slog.NewTextHandler(v.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		if err == nil {
			h.api.ReadHeaderTimeout, h.api.ReadTimeout = time.Second, 2*time.Second
		}
		return h, err
	})
	v.put(`[{"uri":"` + known + `","version":"1"},{"uri":"` + artefact + `","hash":"h","deps":[{"uri":"` + known + `","seen":"1"}]}]`)
	v.do("PUT", chans+"listed", `{"uri":[]}`)
	if a := v.send(t, bare("GET", "/v1/stream")); a == nil || a.status != 200 { // what streams share is there from now on
		t.Fatal("there is no stream")
	}
	v.serve(t)
	v.log.take()
	runtime.GC()
	v.heap, v.goroutines = heapInUse(), runtime.NumGoroutine()+1 // each request is sent by a test of its own
	return v
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// send sends raw bytes over a connection of their own and reads the answer, but
// a stream's only to its head. It is nil if there is none.
func (v *victim) send(t *testing.T, raw string) *reply {
	t.Helper()
	conn, err := net.Dial("tcp", v.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	defer func() { conn.Close(); <-sent }()
	conn.SetDeadline(time.Now().Add(patience))
	go func() {
		defer close(sent)
		io.WriteString(conn, raw) // what is refused early is not read to its end
	}()
	answers := bufio.NewReader(conn)
	resp, err := http.ReadResponse(answers, nil)
	for err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(answers, nil)
	}
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Fatal("it is neither answered nor is its connection closed")
		}
		return nil
	}
	a := &reply{status: resp.StatusCode, header: resp.Header}
	if resp.Header.Get("Content-Type") != "text/event-stream" {
		if a.body, err = io.ReadAll(resp.Body); err != nil {
			t.Errorf("the answer %s breaks off: %v", resp.Status, err)
		}
	}
	if strings.Contains(raw, "/smuggled") {
		if second, err := http.ReadResponse(answers, nil); err == nil {
			t.Errorf("what stands in the body is answered with %s", second.Status)
		}
	}
	return a
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// serve has a client in good order publish and ask.
func (v *victim) serve(t *testing.T) {
	t.Helper()
	v.version++
	if a := v.do("GET", "/healthz", ""); a.status != 200 {
		t.Errorf("healthz: %d %s", a.status, a.body)
	}
	v.put(fmt.Sprintf(`{"uri":"https://e.example/valid","version":"%d"}`, v.version))
	if a := v.do("POST", st, `{"uris":["https://e.example/valid"]}`); !strings.Contains(string(a.body), fmt.Sprintf(`"version":"%d"`, v.version)) {
		t.Errorf("after version %d: %s", v.version, a.body)
	}
}

// settle waits until the hub has let go of what a request took.
func (v *victim) settle(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience / 6); runtime.NumGoroutine() > v.goroutines; pass(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, and %d at first:\n%s", runtime.NumGoroutine(), v.goroutines, stacks[:runtime.Stack(stacks, true)])
		}
	}
	for try := 0; heapInUse() > v.heap+hostileMemory; try++ {
		if try == 3 { // what pools keep goes with the second collection
			t.Fatalf("%d MiB in use, and %d at first", heapInUse()>>20, v.heap>>20)
		}
		runtime.GC()
	}
}

// describe tells an answer in the words of the tables.
func describe(a *reply) string {
	if a == nil {
		return "closed"
	}
	slug := ""
	if a.header.Get("Content-Type") == "application/problem+json" {
		_, rest, _ := strings.Cut(string(a.body), problemBase)
		slug, _, _ = strings.Cut(rest, `"`)
		slug = " " + slug
	}
	return fmt.Sprint(a.status) + slug
}

func TestHostileRequestsAreRefusedAndLeaveNothingBehind(t *testing.T) {
	v := newVictim(t)
	var all []hostile
	for _, table := range [][]hostile{hostileHTTP(), hostileHosts(), hostilePaths(), hostileQueries(), hostileStreams(), hostileTopics(), hostileWebSub(),
		hostileBodies(), hostileJSON(), hostileValues()} {
		all = append(all, table...)
	}
	if len(all) < 120 {
		t.Errorf("%d requests, want 120 at least", len(all))
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			h := *v
			h.testHub = &testHub{v.Hub, t, v.client}
			before := h.state(artefact)
			a := h.send(t, c.raw)
			if got := describe(a); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
				if a != nil {
					t.Logf("%.300s", a.body)
				}
			}
			if a != nil && a.header.Get(headerRequestID) != "" {
				if req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(c.raw))); err == nil {
					h.checkDescribed(req, a)
				}
			}
			if after := h.state(artefact); after != before {
				t.Errorf("the store changed from %s\nto %s", before, after)
			}
			h.serve(t)
			v.version = h.version
			h.settle(t)
			if err := checkLog(h.log.take()); err != nil {
				t.Error(err)
			}
		})
	}
}
