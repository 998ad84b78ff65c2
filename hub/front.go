package hub

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
)

const (
	headerRequestID = "X-Request-Id"
	// maxRequestID bounds a request id that a client or a proxy chose, in bytes.
	maxRequestID = 64
	// statusClientGone is what is logged for a client that did not wait.
	statusClientGone = 499
)

// An answer watches what a handler writes.
type answer struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// ReadFrom has the server send a file, which leaves that to the kernel.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := io.Copy(a.ResponseWriter, r)
	a.bytes += n
	return n, err
}

// Unwrap lets an http.ResponseController find what it needs.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// front is what all requests go through, outermost: an id, who may come at all,
// what is counted and logged, and that a panic ends one request and not the hub.
func (h *Hub) front(next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		arrived(r.Context())
		id := requestID(r.Header.Get(headerRequestID))
		w.Header().Set(headerRequestID, id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
			// It may have said a length too, which net/http drops. Something between
			// that goes by the length takes the end of the body for another request.
			// Source: RFC 9112, section 6.3.
			w.Header().Set("Connection", "close")
		}
		route := chi.NewRouteContext()
		r = r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, route))
		a := &answer{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil && h.panicked(a, id, p) {
				defer panic(http.ErrAbortHandler)
			}
			h.account(r, a, id, route.RoutePattern(), time.Since(began))
		}()
		if !h.allowedHost(r.Host) {
			writeProblem(a, badHost.problem(fmt.Sprintf("the Host header says %.100q", r.Host)))
			return
		}
		if err := origins.Check(r); err != nil {
			writeProblem(a, crossOrigin.problem(err.Error()))
			return
		}
		next.ServeHTTP(a, r)
	})
}

// panicked reports a panic, answers if nothing was sent yet, and otherwise wants
// the answer to be broken off. A handler that wants that itself panics with
// http.ErrAbortHandler.
func (h *Hub) panicked(a *answer, id string, p any) (breakOff bool) {
	if p == http.ErrAbortHandler {
		return true
	}
	h.log.Error("handler panicked", "request", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if a.status != 0 {
		return true
	}
	writeProblem(a, internalError.problem(""))
	return false
}

// account counts and logs a request. Answered writes are many: they are logged
// at debug level, refusals at info, failures at error.
func (h *Hub) account(r *http.Request, a *answer, id, route string, took time.Duration) {
	if a.status == 0 {
		a.status = http.StatusOK
		if r.Context().Err() != nil {
			a.status = statusClientGone
		}
	}
	h.metrics.request(r.Method, route, a.status, took)
	level := slog.LevelDebug
	switch {
	case a.status == http.StatusServiceUnavailable || a.status == http.StatusInsufficientStorage:
		level = slog.LevelInfo // it is said once, where it begins
	case a.status >= 500:
		level = slog.LevelError
	case a.status >= 400:
		level = slog.LevelInfo
	}
	if !h.log.Enabled(r.Context(), level) {
		return
	}
	h.log.LogAttrs(r.Context(), level, "request", slog.String("request", id), slog.String("method", r.Method),
		slog.String("path", r.URL.Path), slog.Int("status", a.status), slog.Int64("bytes", a.bytes),
		slog.Duration("took", took), slog.String("client", h.clientAddr(r)))
}

// allowedHost reports whether a Host header names this hub. A page whose name
// was made to resolve to loopback (DNS rebinding) is thereby kept out of a hub that
// asks for no token; of others it gets no more than a stranger.
func (h *Hub) allowedHost(host string) bool {
	if h.asksForTokens() {
		return true
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return isLoopback(name) || h.host != "" && strings.EqualFold(name, h.host)
}

// clientAddr names who sent r: behind a trusted proxy the last address in
// X-Forwarded-For that is not such a proxy itself.
func (h *Hub) clientAddr(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	if len(h.cfg.TrustedProxy) == 0 || !h.trusted(host) {
		return host
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		if host = a.Unmap().String(); !h.trusted(host) {
			break
		}
	}
	return host
}

func (h *Hub) trusted(addr string) bool {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	for _, p := range h.cfg.TrustedProxy {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

var (
	requestPrefix = func() string {
		var b [4]byte
		rand.Read(b[:])
		return hex.EncodeToString(b[:]) + "-"
	}()
	requestCount atomic.Uint64
)

// requestID keeps the id that the client gave, if it is one, or makes one that
// tells requests of different runs apart.
func requestID(given string) string {
	if given != "" && len(given) <= maxRequestID && strings.Trim(given, requestIDChars) == "" {
		return given
	}
	return requestPrefix + strconv.FormatUint(requestCount.Add(1), 10)
}

const requestIDChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
