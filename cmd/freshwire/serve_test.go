package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"go.uber.org/goleak"
)

func TestServeSaysWhereItIsAndEndsWhenInterrupted(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	logged, w := io.Pipe()
	exit := make(chan int, 1)
	go func() {
		defer w.Close()
		exit <- run(ctx, []string{"serve", "--listen", "127.0.0.1:0", "--data", t.TempDir()}, strings.NewReader(""), io.Discard, w)
	}()
	address := regexp.MustCompile(`^hub at (http://127\.0\.0\.1:\d+), data in `)
	lines := bufio.NewScanner(logged)
	var url string
	for url == "" && lines.Scan() {
		if m := address.FindStringSubmatch(lines.Text()); m != nil {
			url = m[1]
		}
	}
	go io.Copy(io.Discard, logged)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	hub, err := client.New(url, client.Options{HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatalf("no address was told: %v", err)
	}
	if _, err := hub.Update(t.Context(), client.Update{URI: "https://a.example/x", Version: "1"}); err != nil {
		t.Error(err)
	}
	interrupt()
	if code := <-exit; code != exitOK {
		t.Errorf("exit code %d after an interrupt, want %d", code, exitOK)
	}
}

func TestServeRefusesWhatItDoesNotUnderstand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "freshwire.yaml")
	if err := os.WriteFile(file, []byte("listen: 127.0.0.1:0\nlistne: 127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a setting with a typing mistake", []string{"serve", "--config", file}, "listne"},
		{"an address others could reach", []string{"serve", "--listen", "0.0.0.0:8420"}, "not a loopback address"},
		{"an unknown flag", []string{"serve", "--prot", "80"}, "unknown flag: --prot"},
		{"an argument", []string{"serve", "now"}, "usage: freshwire serve"},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), append(c.args, "--data", t.TempDir()), strings.NewReader(""), io.Discard, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: got exit code %d and %q, want %d and %q", c.name, code, stderr.String(), exitUsage, c.want)
		}
	}
}

func TestProgressIsToldNowAndThenWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	p := &progress{w: &out, size: 200, began: time.Now().Add(-time.Second), next: time.Now().Add(-time.Millisecond)}
	for range 3 { // only the first is due
		p.at(50, client.Result{Accepted: 500, Changed: 500})
	}
	want := regexp.MustCompile(`^25 % read: accepted 500, changed 500, duplicates 0, outdated 0 in 1(\.\d+)?s \(\d+ updates/s\)\n$`)
	if !want.MatchString(out.String()) {
		t.Errorf("got %q, want one line such as %s", out.String(), want)
	}
}
