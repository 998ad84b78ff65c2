package hub

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/bubble"
	"github.com/freshwire/freshwire/subscriptions"
)

func TestAHubDrainsWhatIsInFlight(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", t.TempDir(), minCache
	h, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()

	stream, err := http.Get(h.URL() + "/v1/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	frames := bufio.NewReader(stream.Body)
	if _, err := frames.ReadString('\n'); err != nil { // the stream has begun
		t.Fatal(err)
	}
	// An update whose body is half sent when the hub is told to stop.
	conn, err := net.Dial("tcp", h.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const body = `{"uri":"https://e.example/late","version":"1"}`
	io.WriteString(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 46\r\n\r\n")
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") { // the handler reads the body
		t.Fatalf("got %q, %v, want 100 Continue", line, err)
	}
	answers.ReadString('\n')
	stop()
	rest, err := io.ReadAll(frames)
	if err != nil || !strings.Contains(string(rest), "retry: ") {
		t.Errorf("the stream ended with %q, %v; want a frame with retry:", rest, err)
	}
	io.WriteString(conn, body)
	resp, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || !strings.Contains(string(got), `"accepted":1`) {
		t.Errorf("the update in flight is answered %d %s", resp.StatusCode, got)
	}
	if err := <-done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	if conn, err := net.Dial("tcp", h.Addr().String()); err == nil {
		conn.Close()
		t.Error("the hub still listens after Run returned")
	}
	again, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if r, err := again.store.Resource("https://e.example/late"); err != nil || r.Version != "1" {
		t.Errorf("after a restart the update in flight is %+v, %v", r, err)
	}
}

func TestHealthIsTrueOnlyWhileTheHubServes(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", t.TempDir(), minCache
	h, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, c := range []struct {
		ready bool
		path  string
		want  int
	}{{false, "/healthz", 503}, {false, "/livez", 200}, {true, "/healthz", 200}} {
		h.ready.Store(c.ready)
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", c.path, nil)
		r.Host = "127.0.0.1"
		h.api.Handler.ServeHTTP(w, r)
		if w.Code != c.want || c.want == 503 && w.Header().Get("Retry-After") == "" {
			t.Errorf("%s while ready=%t answers %d %v, want %d", c.path, c.ready, w.Code, w.Header(), c.want)
		}
	}
}

func TestWhoIsRefusedForNowIsToldWhenToComeAgain(t *testing.T) {
	for _, k := range problemKinds {
		w := httptest.NewRecorder()
		if k.slug == "no-room" || k.slug == "too-many-streams" {
			w.Header().Set("Retry-After", "30") // as the streams do
			streamProblem(w, nil, &subscriptions.Refusal{Status: k.status, Slug: k.slug})
		} else {
			writeProblem(w, k.problem(""))
		}
		got, err := strconv.Atoi(w.Header().Get("Retry-After"))
		switch k.status {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInsufficientStorage:
			if k != rateLimited && (err != nil || got < 1) { // which says how long its bucket takes
				t.Errorf("%s: Retry-After is %q", k.slug, w.Header().Get("Retry-After"))
			}
		default:
			if err == nil {
				t.Errorf("%s: Retry-After is %d, and waiting does not help", k.slug, got)
			}
		}
	}
}

func TestMetricsShowNothingThatWasSent(t *testing.T) {
	h := startHub(t, nil)
	h.put(`[{"uri":"https://e.example/a","type":"secret-type","version":"1"},{"uri":"https://e.example/b","hash":"h","deps":[{"uri":"https://e.example/a","seen":"1"}]}]`)
	h.do("GET", "/v1/secret-path", "")
	h.do("PROPFIND", "/v1/token", "")
	text := string(h.do("GET", "/metrics", "").body)
	for _, want := range []string{
		`freshwire_http_requests_total{method="POST",route="/v1/updates",status="200"} 1`,
		`freshwire_http_requests_total{method="GET",route="other",status="404"} 1`,
		`freshwire_http_requests_total{method="other",route="other",status="405"} 1`,
		`freshwire_http_request_seconds_count{route="/v1/updates"} 1`,
		`freshwire_resources{state="clean"} 2`, "freshwire_updates_total 2", "freshwire_streams 0", "freshwire_jobs 0",
		`freshwire_notices_total{kind="changed",reason="edit"}`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(text, "secret") || strings.Contains(text, "e.example") || strings.Contains(text, "PROPFIND") {
		t.Errorf("metrics repeat what was sent:\n%s", text)
	}
}

func TestRequestIDsAreKeptIfTheyAreSafe(t *testing.T) {
	for given, keep := range map[string]bool{
		"": false, "01J-a.b_c~d": true, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false, "a b": false, "ä": false, "a\r\nb": false,
	} {
		if got := requestID(given); (got == given) != keep || got == "" {
			t.Errorf("requestID(%q) = %q, want it kept: %t", given, got, keep)
		}
	}
	if a, b := requestID(""), requestID(""); a == b {
		t.Errorf("two requests have the id %q", a)
	}
}

func TestAPanicEndsOneRequest(t *testing.T) {
	var log bytes.Buffer
	h := &Hub{log: slog.New(slog.NewJSONHandler(&log, nil)), metrics: newMetrics(nil, nil)}
	for _, c := range []struct {
		name   string
		f      http.HandlerFunc
		status int
		breaks bool
	}{
		{"before anything was sent", func(http.ResponseWriter, *http.Request) { panic("boom\n") }, 500, false},
		{"in the middle of an answer", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("a")); panic("boom") }, 200, true},
		{"on purpose", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 200, true},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "http://localhost/", nil)
		func() {
			defer func() {
				if p := recover(); (p == http.ErrAbortHandler) != c.breaks {
					t.Errorf("%s: the server sees the panic %v, want it broken off: %t", c.name, p, c.breaks)
				}
			}()
			h.front(c.f).ServeHTTP(w, r)
		}()
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d", c.name, w.Code, c.status)
		}
	}
	if lines := strings.Count(log.String(), "handler panicked"); lines != 2 {
		t.Errorf("%d panics are logged, want 2:\n%s", lines, log.String())
	}
}

func TestTheClientsAddressIsBelievedOnlyFromATrustedProxy(t *testing.T) {
	h := &Hub{cfg: Config{TrustedProxy: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}}
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.7:999", "198.51.100.1", "192.0.2.7"},
		{"10.0.0.1:999", "", "10.0.0.1"},
		{"10.0.0.1:999", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1:999", "1.1.1.1, 198.51.100.1, 10.9.9.9", "198.51.100.1"},
		{"[::1]:999", "2001:db8::1", "2001:db8::1"},
		{"10.0.0.1:999", "evil\n, 10.2.2.2", "10.2.2.2"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		r.Header.Set("X-Forwarded-For", c.forwarded)
		if got := h.clientAddr(r); got != c.want {
			t.Errorf("from %s with X-Forwarded-For %q: %q, want %q", c.remote, c.forwarded, got, c.want)
		}
	}
}

func TestOnlyItsOwnNamesReachTheHub(t *testing.T) {
	h := &Hub{host: "hub.example"}
	for host, want := range map[string]bool{
		"localhost": true, "localhost:8420": true, "127.0.0.1:1": true, "127.9.9.9": true, "[::1]:8420": true, "[::1]": true,
		"hub.example": true, "HUB.example:443": true, "evil.example": false, "": false, "localhost.evil.example": false,
		"10.0.0.1": false, "hub.example.evil": false, "[::1%25lo]": false,
	} {
		if got := h.allowedHost(host); got != want {
			t.Errorf("allowedHost(%q) = %t, want %t", host, got, want)
		}
	}
	if (&Hub{}).allowedHost("") {
		t.Error("a hub without public-url allows an empty host")
	}
}

func TestTheAdminListenerHasProfilesAndTheAPIDoesNot(t *testing.T) {
	h := startHub(t, func(c *Config) { c.Admin = "127.0.0.1:0" })
	get := func(base, path string) int {
		t.Helper()
		resp, err := h.client.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode
	}
	admin := "http://" + h.AdminAddr().String()
	for _, c := range []struct {
		base, path string
		want       int
	}{
		{admin, "/metrics", 200}, {admin, "/debug/pprof/heap", 200}, {admin, "/debug/pprof/cmdline", 200}, {admin, "/v1/token", 404},
		{h.URL(), "/debug/pprof/heap", 404}, {h.URL(), "/openapi.json", 200},
	} {
		if got := get(c.base, c.path); got != c.want {
			t.Errorf("%s%s answers %d, want %d", c.base, c.path, got, c.want)
		}
	}
}

func TestTheHubServesTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := writeCertificate(t, cert, key)
	h := startHub(t, func(c *Config) { c.TLSCert, c.TLSKey = cert, key })
	h.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
	if a := h.do("GET", "/v1/token", ""); a.status != 200 || !strings.HasPrefix(h.URL(), "https://") {
		t.Errorf("over %s: %d %s", h.URL(), a.status, a.body)
	}
}

// writeCertificate writes a certificate for 127.0.0.1 that signs itself.
func writeCertificate(t *testing.T, cert, key string) *x509.CertPool {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string][]byte{cert: certPEM, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool
}

func TestAHubThatCannotListenClosesItsStore(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := DefaultConfig()
	cfg.Data, cfg.Cache, cfg.Listen = t.TempDir(), minCache, taken.Addr().String()
	if _, err := New(cfg, nil); err == nil {
		t.Fatal("a hub listens on an address that is taken")
	}
	cfg.Listen = "127.0.0.1:0"
	h, err := New(cfg, nil)
	if err != nil {
		t.Fatalf("the store is still locked: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

func TestAnAcceleratedClockStartsWhereItIsToldAndGoesFaster(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		k := newClock(Config{ClockStart: start, ClockRate: 60}, time.Now)
		plain := newClock(DefaultConfig(), time.Now)
		fast := newClock(Config{ClockRate: 2}, time.Now)
		began := time.Now()
		time.Sleep(10 * time.Second)
		if got, want := k.Now(), start.Add(10*time.Minute); !got.Equal(want) {
			t.Errorf("after 10 s at rate 60 it is %s, want %s", got, want)
		}
		if got := plain.Now(); !got.Equal(time.Now()) {
			t.Errorf("the real clock shows %s, want %s", got, time.Now())
		}
		if got, want := fast.Now(), began.Add(20*time.Second); !got.Equal(want) {
			t.Errorf("without a start at rate 2 it is %s, want %s", got, want)
		}
	})
}

func TestTheHubJudgesTimesByItsOwnClock(t *testing.T) {
	h := startHub(t, func(c *Config) { c.ClockStart = time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC) })
	h.put(`{"uri":"https://e.example/a","version":"1","at":"2040-01-01T00:04:00Z"}`)
	if a := h.do("POST", "/v1/updates", `{"uri":"https://e.example/a","version":"2","at":"2040-01-01T01:00:00Z"}`); a.status != 400 {
		t.Errorf("a time an hour ahead is answered %d %s", a.status, a.body)
	}
}
