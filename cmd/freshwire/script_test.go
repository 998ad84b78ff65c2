package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/freshwire/freshwire/hub"
	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"freshwire": main})
}

// Each file of testdata/script is one story, told by the commands a user types.
func TestStories(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CACHE_HOME", env.WorkDir+"/cache")
			schemas, err := filepath.Abs("../../digest/testdata")
			if err != nil {
				return err
			}
			env.Setenv("SCHEMAS", schemas)
			// The race detector would have each of the commands sleep for a second
			// before it exits, in case another goroutine has something to report.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Values[cacheKey{}] = &scriptCacheServer{}
			env.Values[processKey{}] = &scriptProcess{}
			env.Values[hubKey{}] = &scriptHub{listen: "127.0.0.1:0"}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"hub": scriptStart, "status": scriptStatus, "lines": scriptLines, "list": scriptList, "cut": scriptCut, "spoil": scriptSpoil,
			"compress": scriptCompress, "empty": scriptEmpty, "forget": scriptForget, "teaches": scriptTeaches,
			"serve": scriptServe, "cache": scriptCache, "await": scriptAwait, "expand": scriptExpand, "remember": scriptRemember, "peers": scriptPeers,
		},
	})
}

// A scriptHub is the hub of a story, in this process. Started again it has the
// same address.
type scriptHub struct {
	listen string
	local  *localHub
}

type hubKey struct{}

// hub start [NAME] runs a hub on the data of that name, hub stop ends it. If the
// story has a key set, keys.json, the hub asks for tokens.
func scriptStart(ts *testscript.TestScript, neg bool, args []string) {
	h := ts.Value(hubKey{}).(*scriptHub)
	switch {
	case !neg && len(args) > 0 && args[0] == "start":
		cfg := hub.DefaultConfig()
		cfg.Listen, cfg.Data = h.listen, ts.MkAbs(strings.Join(append([]string{"data"}, args[1:]...), "-"))
		if keys := ts.MkAbs("keys.json"); exists(keys) {
			cfg.Auth = hub.AuthConfig{JWKS: keys, Issuer: "https://issuer.example", Audience: "https://hub.example"}
		}
		local, err := startHub(context.Background(), cfg, slog.New(slog.DiscardHandler))
		ts.Check(err)
		h.local = local
		h.listen = strings.TrimPrefix(local.url, "http://")
		ts.Setenv("FRESHWIRE_HUB", local.url)
		ts.Defer(func() { ts.Check(local.stop()) })
	case !neg && len(args) == 1 && args[0] == "stop" && h.local != nil:
		ts.Check(h.local.stop())
	default:
		ts.Fatalf("usage: hub start [NAME] | hub stop")
	}
}

// A scriptProcess is a hub in a process of its own.
type scriptProcess struct {
	cmd  *exec.Cmd
	said *bufio.Reader // what it logs
}

// serve start ARG… runs freshwire serve in a process of its own, on a free port; serve
// hangup REGEXP sends it SIGHUP and waits until its log has a line like that; serve
// stop ends it.
func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	p, _ := ts.Value(processKey{}).(*scriptProcess)
	switch {
	case !neg && len(args) > 0 && args[0] == "start":
		program, err := exec.LookPath("freshwire") // which testscript made of this test
		ts.Check(err)
		p.cmd = exec.Command(program, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", ts.MkAbs("data")}, args[1:]...)...)
		p.cmd.Dir, p.cmd.Env = ts.Getenv("WORK"), append(os.Environ(), "GORACE=atexit_sleep_ms=0")
		stderr, err := p.cmd.StderrPipe()
		ts.Check(err)
		ts.Check(p.cmd.Start())
		p.said = bufio.NewReader(stderr)
		ts.Defer(p.stop(ts))
		m := p.await(ts, `^hub at (\S+), data in `)
		ts.Setenv("FRESHWIRE_HUB", m[1])
	case !neg && len(args) == 2 && args[0] == "hangup" && p.cmd != nil:
		ts.Check(p.cmd.Process.Signal(syscall.SIGHUP))
		p.await(ts, args[1])
	case !neg && len(args) == 1 && args[0] == "stop" && p.cmd != nil:
		p.stop(ts)()
	default:
		ts.Fatalf("usage: serve start ARG… | serve hangup REGEXP | serve stop")
	}
}

// await reads the log up to a line that matches.
func (p *scriptProcess) await(ts *testscript.TestScript, pattern string) []string {
	wanted := regexp.MustCompile(pattern)
	var read strings.Builder
	process := p.cmd.Process
	late := time.AfterFunc(time.Minute, func() { process.Kill() }) // and then there is no further line
	defer late.Stop()
	for {
		line, err := p.said.ReadString('\n')
		if m := wanted.FindStringSubmatch(line); m != nil {
			return m
		}
		if read.WriteString(line); err != nil {
			ts.Fatalf("the hub says nothing like %s, but\n%s", pattern, read.String())
		}
	}
}

// stop ends the process in good order, once.
func (p *scriptProcess) stop(ts *testscript.TestScript) func() {
	return func() {
		if p.cmd == nil {
			return
		}
		ts.Check(p.cmd.Process.Signal(os.Interrupt))
		io.Copy(io.Discard, p.said)
		ts.Check(p.cmd.Wait())
		p.cmd = nil
	}
}

type processKey struct{}

// A scriptCacheServer takes calls, or refuses them.
type scriptCacheServer struct {
	server *httptest.Server
	down   atomic.Bool
	mu     sync.Mutex
	taken  []string
}

type cacheKey struct{}

// cache start runs what a sink can call, at $CACHE, and what confirms subscriptions; cache down has it answer 503, cache up
// take calls; cache taken FILE writes a line for each call that it took.
func scriptCache(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(cacheKey{}).(*scriptCacheServer)
	switch {
	case !neg && len(args) == 1 && args[0] == "start":
		s.server = httptest.NewServer(s)
		ts.Defer(s.server.Close)
		ts.Setenv("CACHE", s.server.URL)
	case !neg && len(args) == 1 && (args[0] == "down" || args[0] == "up"):
		s.down.Store(args[0] == "down")
	case !neg && len(args) == 2 && args[0] == "taken":
		s.mu.Lock()
		defer s.mu.Unlock()
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(s.taken, "")), 0o666))
	default:
		ts.Fatalf("usage: cache start | cache down | cache up | cache taken FILE")
	}
}

func (s *scriptCacheServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.down.Load() {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(w, r.URL.Query().Get("hub.challenge"))
	if r.Method == http.MethodGet {
		r.RequestURI = r.URL.Path + " " + r.URL.Query().Get("hub.mode")
	}
	s.taken = append(s.taken, r.Method+" "+r.Host+r.RequestURI+"\n")
}

// expand FILE puts the values of the environment into a file.
func scriptExpand(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o666))
}

// remember NAME FIELD keeps a field of the JSON that was printed last.
func scriptRemember(ts *testscript.TestScript, _ bool, args []string) {
	var printed map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &printed))
	ts.Setenv(args[0], fmt.Sprint(printed[args[1]]))
}

// await REGEXP ARG… runs freshwire until it prints something like that.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await REGEXP ARG…")
	}
	wanted := regexp.MustCompile("(?m)" + args[0])
	for deadline := time.Now().Add(time.Minute); ; {
		err := ts.Exec("freshwire", args[1:]...)
		if wanted.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("freshwire %s prints nothing like %s: %v\n%s", strings.Join(args[1:], " "), args[0], err, ts.ReadFile("stdout"))
		}
		<-time.After(20 * time.Millisecond)
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// status N ARG… runs freshwire and wants exit code N.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec("freshwire", args[1:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("freshwire %s: got exit code %d, want %d\n%s", strings.Join(args[1:], " "), got, want, ts.ReadFile("stderr"))
	}
}

// lines A B FILE writes the updates numbered A to B.
func scriptLines(ts *testscript.TestScript, _ bool, args []string) {
	from, err1 := strconv.Atoi(args[0])
	to, err2 := strconv.Atoi(args[1])
	ts.Check(errors.Join(err1, err2))
	var b bytes.Buffer
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "{\"id\":\"i%d\",\"uri\":\"https://a.example/%d\",\"version\":\"2\"}\n", i, i)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b.Bytes(), 0o666))
}

// list A B FILE writes the URIs numbered A to B.
func scriptList(ts *testscript.TestScript, _ bool, args []string) {
	from, err1 := strconv.Atoi(args[0])
	to, err2 := strconv.Atoi(args[1])
	ts.Check(errors.Join(err1, err2))
	var b bytes.Buffer
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "https://a.example/%d\n", i)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b.Bytes(), 0o666))
}

// cut FILE takes the last bytes of a file away.
func scriptCut(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text[:len(text)-20]), 0o666))
}

// spoil N FILE makes a line one that no hub takes.
func scriptSpoil(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	lines := strings.SplitAfter(ts.ReadFile(args[1]), "\n")
	lines[n-1] = "{\"uri\":7}\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(lines, "")), 0o666))
}

// compress FILE writes FILE.gz and FILE.zst.
func scriptCompress(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	var gz, zst bytes.Buffer
	enc, err := zstd.NewWriter(&zst)
	ts.Check(err)
	for _, w := range []io.WriteCloser{gzip.NewWriter(&gz), enc} {
		_, err := io.WriteString(w, text)
		ts.Check(errors.Join(err, w.Close()))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".gz"), gz.Bytes(), 0o666))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".zst"), zst.Bytes(), 0o666))
}

// empty DIR wants a directory without files.
func scriptEmpty(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(entries) > 0 {
		ts.Fatalf("%s holds %v", args[0], entries)
	}
}

// forget URI DIR damages the store in a folder: nothing leads from the URI to its
// resource any more.
func scriptForget(ts *testscript.TestScript, _ bool, args []string) {
	db, err := pebble.Open(ts.MkAbs(args[1]+"/store"), &pebble.Options{Logger: quiet{}, Merger: &pebble.Merger{Name: "freshwire.1"}})
	ts.Check(err)
	ts.Check(errors.Join(db.Delete([]byte("U"+args[0]), pebble.Sync), db.Close()))
}

// quiet keeps what Pebble has to say out of a story.
type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// teaches COMMAND… wants an example in the help of each.
func scriptTeaches(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ts.Check(ts.Exec("freshwire", name, "--help"))
		if help := ts.ReadFile("stdout"); !strings.Contains(help, "Examples:\n  ") {
			ts.Fatalf("freshwire %s --help has no example:\n%s", name, help)
		}
	}
}

func TestADependencyMayHaveAnEqualsSignInItsAddress(t *testing.T) {
	for _, c := range []struct{ in, uri, seen string }{
		{"https://a.example/p", "https://a.example/p", ""},
		{"https://a.example/p=1182", "https://a.example/p", "1182"},
		{"https://a.example/?q=x=1182", "https://a.example/?q=x", "1182"},
		{"https://a.example/?q=x=", "https://a.example/?q=x", ""},
	} {
		if d := parseDep(c.in); d.URI != c.uri || d.Seen != c.seen {
			t.Errorf("parseDep(%q) = %q seen %q, want %q seen %q", c.in, d.URI, d.Seen, c.uri, c.seen)
		}
	}
}

func TestALineThatBreaksOffIsNone(t *testing.T) {
	const text = "https://a.example/1\nhttps://a.example/2"
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		in   io.Reader
		want string
	}{
		{"whole", strings.NewReader(text), "https://a.example/1 https://a.example/2 <nil>"},
		{"broken off", io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)), "https://a.example/1 in: line 2: broken"},
		{"broken off with its last bytes", iotest.DataErrReader(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken))), "https://a.example/1 in: line 2: broken"},
		{"broken off byte by byte", iotest.OneByteReader(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken))), "https://a.example/1 in: line 2: broken"},
	} {
		f := &updateFile{name: "in"}
		if err := f.inflated(c.in, ""); err != nil {
			t.Fatal(err)
		}
		got := ""
		for {
			line, more, err := f.next()
			if !more {
				got += fmt.Sprint(err)
				break
			}
			got += string(line) + " "
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestATimeIsAbsoluteOrAgo(t *testing.T) {
	now := time.Date(2026, 11, 22, 2, 12, 49, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"":                     {},
		"10m":                  now.Add(-10 * time.Minute),
		"2026-11-22T02:00:00Z": time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC),
	} {
		if got, err := parseTime("--since", in, now); err != nil || !got.Equal(want) {
			t.Errorf("parseTime(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	if _, err := parseTime("--since", "yesterday", now); exitCode(err) != exitUsage {
		t.Errorf("yesterday: got %v, want a usage error", err)
	}
}
