package hub

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// processEnv tells this test program to be a hub. What it serves is in the
// environment too, as for every hub.
const processEnv = "TEST_IS_A_HUB"

func init() {
	if os.Getenv(processEnv) == "" {
		return
	}
	if err := beHub(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// beHub runs a hub until it is told to end, or whoever started it has died. It
// says its two addresses when it has them.
func beHub() error {
	cfg, err := LoadConfig("", os.Environ(), nil)
	if err != nil {
		return err
	}
	h, err := New(cfg, nil)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() {
		defer stop()
		io.Copy(io.Discard, os.Stdin)
	}()
	fmt.Println(h.Addr(), h.AdminAddr())
	return h.Run(ctx)
}

// A hubProcess is a hub in a process of its own, whose memory and descriptors
// are the hub's alone.
type hubProcess struct {
	t      testing.TB
	env    []string
	files  int // descriptors it may have, 0 for as many as we
	cmd    *exec.Cmd
	stdin  io.Closer
	said   bytes.Buffer // what it wrote to stderr
	addr   string
	admin  string
	client *http.Client
}

// startProcess runs a hub until the test ends. Settings, as NAME=value, win
// over those that all such hubs have.
func startProcess(t testing.TB, files int, settings ...string) *hubProcess {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	p := &hubProcess{t: t, files: files, client: &http.Client{Transport: transport}}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, envPrefix) {
			p.env = append(p.env, e)
		}
	}
	// The race detector would sleep for a second before the process ends.
	p.env = append(p.env, processEnv+"=1", "GORACE=atexit_sleep_ms=0", envPrefix+"DATA="+t.TempDir(),
		envPrefix+"CACHE=8MiB", envPrefix+"LISTEN=127.0.0.1:0", envPrefix+"ADMIN=127.0.0.1:0")
	for _, s := range settings {
		p.env = append(p.env, envPrefix+s)
	}
	p.start()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		p.stop()
	})
	return p
}

func (p *hubProcess) start() {
	p.t.Helper()
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(self)
	if p.files > 0 {
		p.cmd = exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0"`, p.files), self)
	}
	p.cmd.Env, p.cmd.Stderr = p.env, &p.said
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	var addr, admin string
	if _, scanErr := fmt.Sscan(line, &addr, &admin); err != nil || scanErr != nil {
		p.t.Fatalf("the hub says %q: %v, %v\n%s", line, err, p.cmd.Wait(), p.said.String())
	}
	if p.admin == "" { // the first time; later it has the same
		p.addr, p.admin = addr, admin
		p.env = append(p.env, envPrefix+"LISTEN="+addr, envPrefix+"ADMIN="+admin)
	}
}

// stop ends the hub in good order.
func (p *hubProcess) stop() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	err := p.cmd.Wait()
	p.stdin.Close()
	if err != nil {
		p.t.Errorf("the hub ends with %v\n%s", err, p.said.String())
	}
}

// kill ends the hub at once, by a signal that it cannot catch. What the system
// has of its files stays.
func (p *hubProcess) kill() {
	p.t.Helper()
	if err := p.reap(); err == nil || err.Error() != "signal: killed" {
		p.t.Fatalf("the hub ended before it was killed: %v", err)
	}
}

// reap kills the hub if it has not ended by itself, and says how it ended.
func (p *hubProcess) reap() error {
	p.cmd.Process.Kill()
	err := p.cmd.Wait()
	p.stdin.Close()
	p.client.CloseIdleConnections()
	return err
}

func (p *hubProcess) url() string { return "http://" + p.addr }

// get returns the body of an answer that is 200.
func (p *hubProcess) get(url string) (string, error) {
	resp, err := p.client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", url, resp.StatusCode, body)
	}
	return string(body), err
}

// metric returns the value of a metric without labels.
func (p *hubProcess) metric(name string) float64 {
	p.t.Helper()
	v, err := metricOf(p.client, p.url(), name)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

func metricOf(c *http.Client, hub, name string) (float64, error) {
	resp, err := c.Get(hub + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// heap returns the bytes that are in use after a collection.
func (p *hubProcess) heap() float64 {
	p.t.Helper()
	if _, err := p.get("http://" + p.admin + "/debug/pprof/heap?gc=1"); err != nil {
		p.t.Fatal(err)
	}
	return p.metric("go_memstats_heap_alloc_bytes")
}

// journal reads all notices up to the newest, by a stream of its own.
func (p *hubProcess) journal(ctx context.Context) []noted {
	p.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	newest := uint64(p.metric("freshwire_journal_newest"))
	all := account{began: true}
	frames, err := (&ask{hub: p.addr, query: map[string][]string{"since": {"1970-01-01T00:00:00Z"}}}).open(ctx)
	for err == nil && all.at < newest {
		var f sseFrame
		if f, err = frames.next(); err == nil {
			err = all.note(f)
		}
	}
	if err != nil {
		p.t.Fatalf("the journal cannot be read to %d: %v", newest, err)
	}
	var journal []noted
	for _, e := range all.list {
		if e.reset != nil {
			p.t.Fatalf("the journal was trimmed, nothing can be said: %+v", *e.reset)
		}
		if n, err := asNoted(e.seq, e.data); err != nil {
			p.t.Fatal(err)
		} else if e.data != "" {
			if n.seq != uint64(len(journal)+1) {
				p.t.Fatalf("notice %d of the journal has position %d", len(journal)+1, n.seq)
			}
			journal = append(journal, n)
		}
	}
	return journal
}

// from is for a net.Dialer: it makes client i come from one of many addresses
// of this machine, of which each has perAddress clients.
func from(i, perAddress int) net.Addr {
	n := i/perAddress + 2
	return &net.TCPAddr{IP: net.IPv4(127, 0, byte(n/250), byte(n%250))}
}

// A steadyReader reads one filter, and comes again when its connection ends.
type steadyReader struct {
	exactReader
	conn net.Conn
}

// newSteadyReader makes reader i of one URI, or of everything if uri is "". The
// hub must have given start as its newest position.
func newSteadyReader(p *hubProcess, i int, uri, start string) (*steadyReader, error) {
	at, err := graph.ParseCursor(start)
	x := &steadyReader{}
	x.moved = make(chan struct{}, 1)
	x.account.began, x.account.start, x.account.last = true, at.Seq, start
	x.ask = ask{hub: p.addr, query: map[string][]string{}, dialer: net.Dialer{LocalAddr: from(i, 100)}}
	if uri != "" {
		x.ask.query.Set("uri", uri)
		x.account.filter.URIs = []string{uri}
	}
	return x, err
}

// follow reads until ctx ends; it tells opened of each connection that is made.
func (x *steadyReader) follow(ctx context.Context, opened func()) {
	for ctx.Err() == nil {
		err := x.connectSteadily(ctx, opened)
		var answer *refused
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &answer) && answer.status == http.StatusServiceUnavailable:
			pass(100*time.Millisecond, ctx.Done()) // it is starting or going
		case !broken(err):
			x.err = err
			return
		}
	}
}

func (x *steadyReader) connectSteadily(ctx context.Context, opened func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := x.ask
	a.lastID = x.account.last
	a.wrap = func(conn net.Conn) net.Conn {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.conn = conn
		return conn
	}
	frames, err := a.open(ctx)
	if err != nil {
		return err
	}
	opened()
	return x.read(frames)
}

// cut ends the connection at hand.
func (x *steadyReader) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.conn != nil {
		x.conn.Close()
	}
}

// tokenOf returns the newest position of a hub.
func tokenOf(t *testing.T, p *hubProcess) string {
	t.Helper()
	body, err := p.get(p.url() + "/v1/token")
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(body, `"token":"`)
	token, _, _ = strings.Cut(token, `"`)
	return token
}

// checkAll holds readers that have ended against the journal.
func checkAll(t *testing.T, readers []*steadyReader, journal []noted) {
	t.Helper()
	for i, x := range readers {
		if err := errors.Join(x.err, x.account.check(journal, journal[len(journal)-1].seq)); err != nil {
			t.Errorf("reader %d (%s): %v", i, x.ask.query.Encode(), err)
		}
	}
}
