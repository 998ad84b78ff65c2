package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub"
	"github.com/freshwire/freshwire/hub/bench"
	"go.uber.org/goleak"
)

// Readers of a real hub get what they ask for, whatever that is.
func TestBenchFindsARealHubExact(t *testing.T) {
	cfg := hub.DefaultConfig()
	cfg.Listen, cfg.Data = "127.0.0.1:0", t.TempDir()
	local, err := startHub(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer local.stop()
	for _, c := range []struct {
		name  string
		flags []string
		each  float64 // deliveries of one notice
	}{
		{"all", []string{"--rate", "200"}, 50},
		{"sparse", []string{"--filters", "sparse", "--rate", "200"}, 1},
		{"host", []string{"--filters", "host", "--rate", "200"}, 5},
		// Long enough that something is published and delivered in it, however much else runs.
		{"mix as fast as it goes", []string{"--filters", "mix", "--duration", "2s"}, 0},
		{"mix read by goroutines", []string{"--filters", "mix", "--portable", "--threads", "2", "--duration", "2s"}, 0},
		{"a fifth stalled", []string{"--stalled", "20", "--rate", "200", "--size", "1000"}, 40},
		{"gathered", []string{"--linger", "20ms", "--rate", "200"}, 50},
		{"resume", []string{"--resume", "--notices", "2000"}, 50},
		{"idle", []string{"--idle"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"bench", "stream", "--hub", local.url, "-o", "json",
				"--connections", "50", "--duration", "500ms", "--warmup", "100ms"}, c.flags...), strings.NewReader(""), &stdout, &stderr)
			var r bench.Report
			if err := json.Unmarshal(stdout.Bytes(), &r); err != nil || code != exitOK {
				t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout.String(), stderr.String())
			}
			if r.Lost+r.Duplicated+r.Reordered+r.Unwanted+r.Altered+r.Unjournaled+r.Malformed+r.Disconnects != 0 || r.Stuck {
				t.Errorf("not exact: %s", stdout.String())
			}
			if r.Mode != bench.Idle && (r.Published == 0 || r.Deliveries == 0 || r.Expected < r.Deliveries || r.DeliveryRate <= 0 ||
				r.NoticeBytes < 250 || r.ByteRate < r.DeliveryRate*200) {
				t.Errorf("makes no sense: %s", stdout.String())
			}
			if r.Mode == bench.Live && !(0 < r.Latency.P50 && r.Latency.P50 <= r.Latency.P99 && r.Latency.P99 <= r.Latency.Max) {
				t.Errorf("latency makes no sense: %+v", r.Latency)
			}
			// What was published before is delivered within the measured time, too.
			if got := float64(r.Deliveries) / float64(max(r.Published, 1)); c.each > 0 && (got < c.each*0.7 || got > c.each*1.5) {
				t.Errorf("%.1f deliveries of a notice, want about %v", got, c.each)
			}
		})
	}
}

// callbackHub runs a hub that may call loopback, and soon calls again.
func callbackHub(t *testing.T) *localHub {
	t.Helper()
	cfg := hub.DefaultConfig()
	cfg.Listen, cfg.Data = "127.0.0.1:0", t.TempDir()
	cfg.WebSub.CallbackAllow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cfg.WebSub.DeliveryTimeout, cfg.WebSub.RetrySchedule = 500*time.Millisecond, []time.Duration{time.Second, time.Second, time.Second, time.Second}
	local, err := startHub(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { local.stop() })
	return local
}

// benchCallbacks runs the command on 20 subscribers of a hub.
func benchCallbacks(t *testing.T, hub string, flags ...string) (r bench.CallbackReport, code int, said string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"bench", "callbacks", "--hub", hub, "-o", "json", "--subscribers", "20", "--rounds", "1",
		"--duration", "300ms"}, flags...), strings.NewReader(""), &stdout, &stderr)
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout.String(), stderr.String())
	}
	return r, code, stdout.String() + stderr.String()
}

// Subscribers of a real hub that hang and fail for a while get everything, too.
func TestBenchFindsTheCallbacksOfARealHubExact(t *testing.T) {
	for _, flags := range []string{"--topics one --duration 1s", "--topics each --hanging 0 --failing 0", "--rate 100 --pages 5 --hanging 0 --failing 0"} {
		r, code, said := benchCallbacks(t, callbackHub(t).url, strings.Fields(flags)...)
		if code != exitOK || uint64(r.Missing)+r.Repeated+r.Gaps+r.Wrong+r.BadSignatures != 0 || r.Fault != "" {
			t.Errorf("%s: exit code %d, not exact: %s", flags, code, said)
		}
		if r.Well.Subscribers != 20 || r.Deliveries < 40 || min(r.Well.Hub.Rate, r.Well.Ceiling.Rate, r.Well.Ratio) <= 0 || r.Well.CeilingFailed != 0 {
			t.Errorf("%s: makes no sense: %s", flags, said)
		}
		if disturbed := !strings.Contains(flags, "--failing 0"); disturbed && (r.Hanging != 2 || r.Failing != 2 || r.Disturbed.Subscribers != 16 ||
			min(r.Disturbed.Ratio, r.Kept) <= 0 || r.Disturbed.CeilingFailed != 0) {
			t.Errorf("%s: makes no sense beside those who are not well: %s", flags, said)
		}
		if r.Updates < 5 || !(0 < r.Latency.P50 && r.Latency.P50 <= r.Latency.P99 && r.Latency.P99 <= r.Latency.Max) {
			t.Errorf("%s: latency makes no sense: %s", flags, said)
		}
	}
}

// A subscriber is subscribed by way of somebody who keeps one delivery to himself.
func TestBenchFindsOutThatACallbackLostOne(t *testing.T) {
	local := callbackHub(t)
	var real atomic.Pointer[string]
	var calls atomic.Int64
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && calls.Add(1) == 4 {
			return
		}
		to, _ := url.Parse(*real.Load())
		proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }, ErrorLog: log.New(io.Discard, "", 0)}
		proxy.ServeHTTP(w, r)
	}))
	defer thief.Close()
	behind, err := url.Parse(local.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(behind)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/websub" {
			proxy.ServeHTTP(w, r)
			return
		}
		r.ParseForm()
		callback := r.PostForm.Get("hub.callback")
		if real.CompareAndSwap(nil, &callback) || *real.Load() == callback {
			r.PostForm.Set("hub.callback", thief.URL+"/")
		}
		form := r.PostForm.Encode()
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(form)), int64(len(form))
		r.Header.Set("Content-Length", strconv.Itoa(len(form)))
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	r, code, said := benchCallbacks(t, front.URL, "--hanging", "0", "--failing", "0", "--patience", "3s")
	if code == exitOK || r.Gaps != 1 || uint64(r.Missing)+r.Repeated+r.Wrong+r.BadSignatures != 0 || calls.Load() < 5 {
		t.Errorf("exit code %d, of %d calls one was kept: %s", code, calls.Load(), said)
	}
}

func TestBenchEndsItsHubWhenItIsInterrupted(t *testing.T) {
	defer goleak.VerifyNone(t)
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	t.Setenv("FRESHWIRE_LISTEN", "0.0.0.0:1") // its own hub is not configured by that
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	told, w := io.Pipe()
	exit := make(chan int, 1)
	go func() {
		defer w.Close()
		exit <- run(ctx, []string{"bench", "stream", "--connections", "20", "--duration", "1h"}, strings.NewReader(""), io.Discard, w)
	}()
	var all bytes.Buffer
	for piece := make([]byte, 512); ; {
		n, err := told.Read(piece)
		all.Write(piece[:n])
		if strings.Contains(all.String(), "deliveries/s") {
			interrupt()
		}
		if err != nil {
			break
		}
	}
	if code := <-exit; code != exitFailed || !strings.HasSuffix(all.String(), "freshwire: interrupted\n") {
		t.Errorf("exit code %d, told:\n%s", code, all.String())
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBenchSaysWhyItsHubIsGone(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h, err := startChild(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := h.whileAlive(t.Context())
	defer cancel()
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute):
		t.Fatal("nobody noticed that the hub was killed")
	}
	if text := context.Cause(ctx).Error(); !strings.Contains(text, "the hub ended: signal: killed") || !strings.Contains(text, "data in") {
		t.Errorf("got %q, want how it ended and what it logged", text)
	}
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	if _, err := startChild(t.Context(), "--cache", "1"); err == nil || !strings.Contains(err.Error(), "cache: less than") {
		t.Errorf("a setting that makes no sense: got %v, want what the hub says of it", err)
	}
}

func TestBenchRefusesWhatMakesNoSense(t *testing.T) {
	for _, flags := range []string{"--subscribers 1000", "--topics some", "--hanging 60 --failing 40", "--rate -1", "--hub https://127.0.0.1:1"} {
		if code := run(t.Context(), append([]string{"bench", "callbacks"}, strings.Fields(flags)...), strings.NewReader(""), io.Discard, io.Discard); code != exitUsage {
			t.Errorf("callbacks %s: got exit code %d, want %d", flags, code, exitUsage)
		}
	}
	for _, flags := range []string{"--idle --resume", "--filters some", "--rate -1", "--stalled 100", "--hub https://127.0.0.1:1"} {
		var stderr bytes.Buffer
		code := run(t.Context(), append([]string{"bench", "stream"}, strings.Fields(flags)...), strings.NewReader(""), io.Discard, &stderr)
		if code != exitUsage {
			t.Errorf("%s: got exit code %d and %q, want %d", flags, code, stderr.String(), exitUsage)
		}
	}
	if code := run(t.Context(), []string{"bench", "stream", "--hub", "http://127.0.0.1:1"}, strings.NewReader(""), io.Discard, io.Discard); code != exitUnreachable {
		t.Errorf("no hub: got exit code %d, want %d", code, exitUnreachable)
	}
}
