package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/hub"
	"github.com/freshwire/freshwire/hub/bench"
	"go.uber.org/goleak"
)

// twoPublicHubs runs two hubs, of which the first speaks for something.
func twoPublicHubs(t *testing.T) (first, second string) {
	t.Helper()
	urls := [2]string{}
	for i, authority := range [][]string{{benchedPrefix}, nil} {
		cfg := hub.DefaultConfig()
		cfg.Data = t.TempDir()
		local, err := startPublicHub(t.Context(), cfg, authority)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { local.stop() })
		urls[i] = local.url
	}
	return urls[0], urls[1]
}

// benchPeers runs the command on two hubs.
func benchPeers(t *testing.T, hub, peer, flags string) (r bench.PeersReport, code int, said string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"bench", "peers", "--hub", hub, "--peer", peer, "-o", "json"}, strings.Fields(flags)...),
		strings.NewReader(""), &stdout, &stderr)
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
			t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout.String(), stderr.String())
		}
	}
	return r, code, stdout.String() + stderr.String()
}

// What passes between real hubs is exact, also when another run has gone before.
func TestBenchFindsTwoRealPeersExact(t *testing.T) {
	first, second := twoPublicHubs(t)
	if _, code, said := benchPeers(t, first, second, ""); code == exitOK || !strings.Contains(said, "freshwire peer add") {
		t.Errorf("hubs that are not peers: exit code %d, %s", code, said)
	}
	if err := acquaint(t.Context(), first, second); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, code, said := benchPeers(t, first, second, "--updates 10 --rate 100 --files 300 --dependents 600")
		if code != exitOK || r.Behind+r.Untold+r.Repeated+r.Needless+r.Unready+r.Strange != 0 || r.Fault != "" {
			t.Fatalf("exit code %d, not exact: %s", code, said)
		}
		// 10 updates beside 100 a second are given 50 files to change, and 6 more for 8 requests to share.
		if files := 10 + 10 + 56 + 300 + 3; r.Files != files || r.Pages != files-1+600 {
			t.Errorf("%d files and %d pages, want %d and %d", r.Files, r.Pages, files, files-1+600)
		}
		for _, p := range []bench.Crossings{r.Idle, r.Loaded} {
			if p.Updates != 10 || !(0 < p.Latency.P50 && p.Latency.P50 <= p.Latency.P99 && p.Latency.P99 <= p.Latency.Max) || p.Answered.P50 <= 0 {
				t.Errorf("latency makes no sense: %s", said)
			}
		}
		if r.Loaded.Offered != 100 || r.Loaded.Rate <= 0 || r.Loaded.Rate > 150 || r.Idle.Rate != 0 {
			t.Errorf("what was sent beside makes no sense: %s", said)
		}
		for _, p := range []bench.CatchUp{r.Refreshing, r.Alone} {
			if p.States != 300 || p.Told != 300 || p.Seconds <= 0 || p.Rate <= 0 {
				t.Errorf("catching up makes no sense: %s", said)
			}
		}
		if e := r.Edit; e.Dependents != 600 || e.Crossed != 1 || !(0 < e.FirstMS && e.FirstMS <= e.LastMS) || e.Rate <= 0 {
			t.Errorf("the edit makes no sense: %s", said)
		}
	}
}

// altered is what a hub says, for a reader to whom some of it is told otherwise.
func altered(t *testing.T, hub, path string, twist func(piece string) string) string {
	t.Helper()
	to, err := url.Parse(hub)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.FlushInterval, proxy.ErrorLog = -1, log.New(io.Discard, "", 0)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.URL.Path != path || r.StatusCode != http.StatusOK {
			return nil
		}
		body, lines := r.Body, bufio.NewReader(r.Body)
		read, write := io.Pipe()
		go func() {
			defer body.Close()
			frame := ""
			for {
				line, err := lines.ReadString('\n')
				if frame += line; line == "\n" || err != nil {
					if _, gone := io.WriteString(write, twist(frame)); gone != nil {
						return
					}
					frame = ""
				}
				if err != nil {
					write.CloseWithError(err)
					return
				}
			}
		}()
		r.Body, r.ContentLength = read, -1
		r.Header.Del("Content-Length")
		return nil
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	return front.URL
}

func TestBenchFindsOutWhatAPeerDoesWrong(t *testing.T) {
	first, second := twoPublicHubs(t)
	if err := acquaint(t.Context(), first, second); err != nil {
		t.Fatal(err)
	}
	// After 20 files that change and two that show where the stream ends, page 22 is the
	// first of those of one file.
	const of = "pages.bench/22\""
	for _, c := range []struct {
		name, path string
		twist      func(piece string) string
		want       func(r *bench.PeersReport) bool
	}{
		{"a notice is lost", "/v1/stream", func(frame string) string {
			if strings.Contains(frame, of) {
				return ""
			}
			return frame
		}, func(r *bench.PeersReport) bool { return r.Untold == 1 && r.Behind+r.Repeated+r.Needless+r.Unready == 0 }},
		{"a notice comes twice", "/v1/stream", func(frame string) string {
			if strings.Contains(frame, of) {
				return frame + frame
			}
			return frame
		}, func(r *bench.PeersReport) bool { return r.Repeated == 1 && r.Behind+r.Untold+r.Needless+r.Unready == 0 }},
		{"a page is forgotten", "/v1/status", func(states string) string {
			if i := strings.Index(states, of); i >= 0 {
				return states[:i] + strings.Replace(states[i:], `"ready"`, `"clean"`, 1)
			}
			return states
		}, func(r *bench.PeersReport) bool { return r.Unready == 1 && r.Behind+r.Untold+r.Repeated+r.Needless == 0 }},
		{"a file is an older one", "/v1/status", func(states string) string {
			return strings.Replace(states, `"version":"4"`, `"version":"3"`, 1) // they begin with 2 and change twice
		}, func(r *bench.PeersReport) bool { return r.Behind == 1 && r.Untold+r.Repeated+r.Needless+r.Unready == 0 }},
		{"ten states cross for one", "/v1/peer", func(peer string) string { // of which the owner says so
			return regexp.MustCompile(`"told":([1-9][0-9]*)`).ReplaceAllString(peer, `"told":${1}0`)
		}, func(r *bench.PeersReport) bool {
			return r.Edit.Crossed == 10 && r.Behind+r.Untold+r.Repeated+r.Needless+r.Unready == 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub, peer := first, second
			if c.path == "/v1/peer" {
				hub = altered(t, first, c.path, c.twist)
			} else {
				peer = altered(t, second, c.path, c.twist)
			}
			r, code, said := benchPeers(t, hub, peer, "--updates 0 --files 20 --dependents 20 --patience 1s")
			if code != exitFailed || !c.want(&r) || !strings.Contains(said, bench.ErrInexact.Error()) {
				t.Errorf("exit code %d, %s", code, said)
			}
		})
	}
}

func TestBenchEndsItsTwoHubsWhenItIsInterrupted(t *testing.T) {
	defer goleak.VerifyNone(t)
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	told, w := io.Pipe()
	exit := make(chan int, 1)
	go func() {
		defer w.Close()
		exit <- run(ctx, []string{"bench", "peers", "--updates", "1000", "--rate", "0", "--files", "0", "--dependents", "0"}, strings.NewReader(""), io.Discard, w)
	}()
	var all bytes.Buffer
	for lines := bufio.NewReader(told); ; {
		line, err := lines.ReadString('\n')
		if all.WriteString(line); line == "measuring latency\n" {
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

func TestBenchOfPeersRefusesWhatMakesNoSense(t *testing.T) {
	for _, flags := range []string{"--hub http://127.0.0.1:1", "--peer http://127.0.0.1:1", "--files 100000000", "--hub https://a.test --peer http://127.0.0.1:1",
		"--hub http://127.0.0.1:1 --peer http://127.0.0.1:1 --peer-token-file /nowhere"} {
		var stderr bytes.Buffer
		if code := run(t.Context(), append([]string{"bench", "peers"}, strings.Fields(flags)...), strings.NewReader(""), io.Discard, &stderr); code != exitUsage {
			t.Errorf("%s: got exit code %d and %q, want %d", flags, code, stderr.String(), exitUsage)
		}
	}
	if _, code, said := benchPeers(t, "http://127.0.0.1:1", "http://127.0.0.1:1", ""); code != exitUnreachable {
		t.Errorf("no hubs: got exit code %d and %q, want %d", code, said, exitUnreachable)
	}
}
