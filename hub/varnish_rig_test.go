package hub

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A varnish is a real cache in a process of its own. It ends with the test, or with
// whoever runs the test.
type varnish struct {
	t    testing.TB
	url  string
	cli  io.WriteCloser
	said *bufio.Reader
}

// startVarnish runs a cache before what answers at backend, on a free port and in a
// folder of its own. The files are those of deploy/varnish, in the order given.
func startVarnish(t *testing.T, backend string, files ...string) *varnish {
	t.Helper()
	host, port, _ := strings.Cut(strings.TrimPrefix(backend, "http://"), ":")
	vcl := fmt.Sprintf("vcl 4.1;\nbackend default { .host = %q; .port = %q; }\nacl purgers { \"127.0.0.1\"; }\n"+
		"sub vcl_deliver { set resp.http.X-Hits = obj.hits; }\n", host, port)
	for _, name := range files {
		path, err := filepath.Abs(filepath.Join("../deploy/varnish", name))
		if err != nil {
			t.Fatal(err)
		}
		vcl += fmt.Sprintf("include %q;\n", path)
	}
	folder := t.TempDir()
	main := filepath.Join(folder, "test.vcl")
	if err := os.WriteFile(main, []byte(vcl), 0o600); err != nil {
		t.Fatal(err)
	}
	// With -d it takes commands on its standard input, and ends with it.
	cmd := exec.Command(program(t, "Varnish", "varnishd", "/usr/sbin/varnishd"), "-d", "-j", "none", "-n", folder,
		"-f", main, "-a", "127.0.0.1:0", "-s", "malloc,16m", "-p", "vsl_space=1m", "-p", "thread_pools=1")
	v := &varnish{t: t}
	var err error
	if v.cli, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.cli.Close()
		io.Copy(io.Discard, v.said)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("the cache ends with %v\n%s", err, log.String())
		}
	})
	v.said = bufio.NewReader(said)
	v.hear() // its greeting
	v.command("start")
	var name, addr, number string
	if _, err := fmt.Sscan(v.command("debug.listen_address"), &name, &addr, &number); err != nil {
		t.Fatal(err)
	}
	v.url = "http://" + addr + ":" + number
	return v
}

// command has the cache do something, and returns what it says.
func (v *varnish) command(text string) string {
	v.t.Helper()
	if _, err := fmt.Fprintln(v.cli, text); err != nil {
		v.t.Fatal(err)
	}
	return v.hear()
}

// hear reads an answer: a line with its status and length, then that many bytes.
func (v *varnish) hear() string {
	v.t.Helper()
	line, err := v.said.ReadString('\n')
	var status, length int
	if _, scanErr := fmt.Sscan(line, &status, &length); err != nil || scanErr != nil {
		v.t.Fatalf("the cache says %q: %v, %v", line, err, scanErr)
	}
	text := make([]byte, length+1)
	if _, err := io.ReadFull(v.said, text); err != nil || status != 200 {
		v.t.Fatalf("the cache answers %d %s, %v", status, text, err)
	}
	return string(text)
}

// A reader asks the cache for pages of one site, as a browser of one kind does.
type cacheReader struct {
	t      testing.TB
	client *http.Client
	vary   map[string]string // headers by which answers differ
}

// request sends a request for a page of the site, whose name the cache sees.
func (c *cacheReader) request(method, cache, path string, header ...string) (*http.Response, string, error) {
	r, err := http.NewRequest(method, cache+path, nil)
	if err != nil {
		return nil, "", err
	}
	r.Host = site
	for name, value := range c.vary {
		r.Header.Set(name, value)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// site is the name of the site behind the caches.
const site = "en.example.org"

// An origin is the site: pages whose content changes, in variants, with keys. It
// counts what it serves.
type origin struct {
	url string

	mu      sync.Mutex
	content map[string]string // by path; what is not there is "1"
	served  map[string]int    // by path
}

// variants are the headers by which its answers differ.
var variants = []map[string]string{
	{},
	{"X-Device": "mobile"},
	{"Accept-Language": "de"},
	{"Accept-Language": "de", "X-Device": "mobile"},
	{"Accept-Encoding": "gzip"},
}

func startOrigin(t testing.TB) *origin {
	o := &origin{content: map[string]string{}, served: map[string]int{}}
	server := httptest.NewServer(o)
	t.Cleanup(server.Close)
	o.url = server.URL
	return o
}

// ServeHTTP answers with the content of now, and its keys.
func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	text, ok := o.content[r.URL.Path]
	if !ok {
		text = "1"
	}
	o.served[r.URL.Path]++
	o.mu.Unlock()
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=3600")
	h.Set("Vary", "Accept-Encoding, Accept-Language, X-Device")
	keys := "https://" + site + r.URL.Path + " https://" + site + "/all"
	h.Set("xkey", keys)
	h.Set("X-Cache-Tags", keys)
	fmt.Fprint(w, text, " ", r.Header.Get("Accept-Language"), " ", r.Header.Get("X-Device"))
}

// set changes the content of a page.
func (o *origin) set(path, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.content[path] = text
}

// take returns how often a page was served since it was last asked for.
func (o *origin) take(path string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.served[path]
	o.served[path] = 0
	return n
}
