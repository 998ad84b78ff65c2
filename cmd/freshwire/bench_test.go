package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
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
		{"mix as fast as it goes", []string{"--filters", "mix"}, 0},
		{"mix read by goroutines", []string{"--filters", "mix", "--portable", "--threads", "2"}, 0},
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

// Subscribers of a real hub that hang and fail for a while get everything, too.
func TestBenchFindsTheCallbacksOfARealHubExact(t *testing.T) {
	cfg := hub.DefaultConfig()
	cfg.Listen, cfg.Data = "127.0.0.1:0", t.TempDir()
	cfg.WebSub.CallbackAllow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cfg.WebSub.DeliveryTimeout, cfg.WebSub.RetrySchedule = 500*time.Millisecond, []time.Duration{time.Second, time.Second, time.Second, time.Second}
	local, err := startHub(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer local.stop()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"bench", "callbacks", "--hub", local.url, "-o", "json", "--subscribers", "20", "--rounds", "1", "--duration", "300ms"},
		strings.NewReader(""), &stdout, &stderr)
	var r bench.CallbackReport
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil || code != exitOK {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout.String(), stderr.String())
	}
	if uint64(r.Missing)+r.Gaps+r.Wrong+r.BadSignatures != 0 || r.Fault != "" {
		t.Errorf("not exact: %s", stdout.String())
	}
	if r.Hanging != 2 || r.Failing != 2 || r.Well.Subscribers != 20 || r.Disturbed.Subscribers != 16 || r.Deliveries < 40 ||
		min(r.Well.Hub.Rate, r.Well.Ceiling.Rate, r.Well.Ratio, r.Disturbed.Ratio, r.Kept) <= 0 || r.Well.CeilingFailed+r.Disturbed.CeilingFailed != 0 {
		t.Errorf("makes no sense: %s", stdout.String())
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
	for _, flags := range []string{"--subscribers 1000", "--hanging 60 --failing 40", "--rate -1", "--hub https://127.0.0.1:1"} {
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
