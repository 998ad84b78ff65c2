package outbound

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if target := os.Getenv(proxiedEnv); target != "" {
		os.Exit(proxiedChild(target))
	}
	goleak.VerifyTestMain(m)
}

// local is a client that may call this machine.
func local(t *testing.T, p Policy) *Client {
	t.Helper()
	p.Purpose, p.Allow = "callback", prefixes("127.0.0.0/8")
	c := New(p)
	t.Cleanup(c.Close)
	return c
}

func server(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func TestARedirectIsAnAnswerAndNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		var followed atomic.Int64
		s := server(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				followed.Add(1)
				return
			}
			w.Header().Set("Location", "/followed")
			w.WriteHeader(status)
		})
		c := local(t, Policy{})
		for _, call := range []func(*http.Request) (*http.Response, error){c.Do, c.HTTP().Do} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				r, err := http.NewRequestWithContext(t.Context(), method, s.URL, strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				answer, err := call(r)
				if err != nil {
					t.Fatal(err)
				}
				answer.Body.Close()
				if answer.StatusCode != status || answer.Header.Get("Location") != "/followed" || followed.Load() != 0 {
					t.Errorf("%s %d: status %d, followed %d times", method, status, answer.StatusCode, followed.Load())
				}
			}
		}
	}
}

func TestNoCookieIsKept(t *testing.T) {
	var cookies atomic.Int64
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		cookies.Add(int64(len(r.Cookies())))
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
	})
	c := local(t, Policy{})
	for range 3 {
		if status, _, text := get(t, c, s.URL); status != http.StatusOK {
			t.Fatal(text)
		}
	}
	if n := cookies.Load(); n != 0 {
		t.Errorf("%d cookies came back", n)
	}
}

const (
	proxiedEnv  = "TEST_CALLS_BESIDE_A_PROXY"
	nameServers = "TEST_NAME_SERVER"
)

// proxiedChild calls target by a name that no rule of net/http exempts from
// proxies, and says what came back.
func proxiedChild(target string) int {
	c := New(Policy{Purpose: "callback", Allow: prefixes("127.0.0.0/8")})
	c.dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", os.Getenv(nameServers))
	}}
	r, err := http.NewRequest(http.MethodGet, target, nil)
	if err == nil {
		var answer *http.Response
		if answer, err = c.Do(r); err == nil {
			body, _ := io.ReadAll(answer.Body)
			fmt.Printf("%d %s", answer.StatusCode, body)
			return 0
		}
	}
	fmt.Print(err)
	return 1
}

func TestProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	var proxied atomic.Int64
	proxy := server(t, func(w http.ResponseWriter, _ *http.Request) { proxied.Add(1) })
	s := server(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "reached") })
	names := newNameServer(t, []string{"127.0.0.1"})
	child := exec.Command(os.Args[0])
	child.Env = []string{proxiedEnv + "=http://target.example:" + s.URL[strings.LastIndexByte(s.URL, ':')+1:],
		nameServers + "=" + names.conn.LocalAddr().String()}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		child.Env = append(child.Env, name+"="+proxy.URL, strings.ToLower(name)+"="+proxy.URL)
	}
	out, err := child.CombinedOutput()
	if err != nil || string(out) != "200 reached" || proxied.Load() != 0 {
		t.Errorf("%v: %s; %d calls went to the proxy", err, out, proxied.Load())
	}
}

func TestAnAnswerIsReadUpToItsLimit(t *testing.T) {
	const limit = 1000
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		var n int
		fmt.Sscan(r.URL.Query().Get("n"), &n)
		if r.URL.Query().Has("flush") {
			w.(http.Flusher).Flush() // without a length
		}
		w.Write(bytes.Repeat([]byte("x"), n))
	})
	c := local(t, Policy{MaxAnswer: limit})
	for _, how := range []string{"", "&flush"} {
		for _, n := range []int{0, 1, limit - 1, limit, limit + 1, 100 * limit} {
			for _, call := range []func(*http.Request) (*http.Response, error){c.Do, c.HTTP().Do} {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("%s/?n=%d%s", s.URL, n, how), nil)
				if err != nil {
					t.Fatal(err)
				}
				answer, err := call(r)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(answer.Body)
				answer.Body.Close()
				var e *Error
				long := errors.As(err, &e) && e.Kind == BadAnswer && e.Error() == "callback failed: the answer is longer than 1000 bytes"
				if len(body) != min(n, limit) || long != (n > limit) || !long && err != nil {
					t.Errorf("%d bytes%s: read %d, %v", n, how, len(body), err)
				}
			}
		}
	}
}

func TestACompressedAnswerIsNotInflated(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 16<<20))
	z.Close()
	var asked atomic.Value
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Accept-Encoding"))
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(bomb.Bytes())
	})
	c := local(t, Policy{})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || !bytes.Equal(body, bomb.Bytes()) || asked.Load() != "" {
		t.Errorf("%d bytes of %d, %v; asked for %q", len(body), bomb.Len(), err, asked.Load())
	}
}

func TestOnlyValidCertificatesAndNewTLSAreTaken(t *testing.T) {
	start := func(max uint16) (*httptest.Server, *x509.CertPool) {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{MaxVersion: max, MinVersion: tls.VersionTLS10}
		s.StartTLS()
		t.Cleanup(s.Close)
		pool := x509.NewCertPool()
		pool.AddCert(s.Certificate())
		return s, pool
	}
	current, pool := start(tls.VersionTLS13)
	old, oldPool := start(tls.VersionTLS11)
	plain := server(t, ok)
	for _, tt := range []struct {
		what, url string
		roots     *x509.CertPool
		name      string
		want      Kind
	}{
		{"a certificate of a known authority", current.URL, pool, "", ""},
		{"one that nobody vouches for", current.URL, x509.NewCertPool(), "", BadTLS},
		{"one for another name", current.URL, pool, "other.test", BadTLS},
		{"TLS 1.1", old.URL, oldPool, "", BadTLS},
		{"no TLS at all", strings.Replace(plain.URL, "http:", "https:", 1), pool, "", BadTLS},
	} {
		c := local(t, Policy{})
		c.transport.TLSClientConfig.RootCAs, c.transport.TLSClientConfig.ServerName = tt.roots, tt.name
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Do(r)
		if err == nil {
			body, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			if tt.want != "" || string(body) != "HTTP/1.1" {
				t.Errorf("%s: taken, by %s", tt.what, body)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.Kind != tt.want {
			t.Errorf("%s: %v, caused by %v", tt.what, err, errors.Unwrap(err))
		}
	}
}

func TestNoErrorNamesTheURL(t *testing.T) {
	breaking := server(t, func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		buf.WriteString(map[string]string{
			"/nothing":  "",
			"/nonsense": "secret\r\n\r\n",
			"/short":    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
		}[strings.TrimSuffix(r.URL.Path, "secret")])
		buf.Flush()
		conn.Close()
	})
	closed := httptest.NewServer(nil)
	closed.Close()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	c := local(t, Policy{})
	for _, tt := range []struct {
		ctx  context.Context
		url  string
		kind Kind
		want string
	}{
		{t.Context(), breaking.URL + "/nothingsecret?secret", BadAnswer, "callback failed: the answer broke off or is not HTTP"},
		{t.Context(), breaking.URL + "/nonsensesecret?secret", BadAnswer, "callback failed: the answer broke off or is not HTTP"},
		{t.Context(), breaking.URL + "/shortsecret?secret", BadAnswer, "callback failed: the answer broke off or is not HTTP"},
		{t.Context(), closed.URL + "/secret", NoConnect, "callback failed: no connection: connection refused"},
		{gone, closed.URL + "/secret", Cancelled, "callback failed: it was given up"},
		{t.Context(), "http://10.0.0.1/secret", Refused, "callback refused: 10.0.0.1 is private"},
		{t.Context(), "http://user:secret@127.0.0.1/", Refused, "callback refused: it has a user or a password"},
	} {
		r, err := http.NewRequestWithContext(tt.ctx, http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Do(r)
		if err == nil {
			_, err = io.ReadAll(answer.Body)
			answer.Body.Close()
		}
		var e *Error
		if !errors.As(err, &e) || e.Kind != tt.kind || err.Error() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.url, err, tt.want)
		}
		if strings.Contains(fmt.Sprintf("%v %s %q", err, err, err), "secret") {
			t.Errorf("%s: the text has the secret: %q", tt.url, err)
		}
		if tt.kind == Cancelled && !errors.Is(err, context.Canceled) {
			t.Error("who gave up is not told so")
		}
	}
}
