package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"go.uber.org/goleak"
)

// A told hub tells what each connection is scripted to, and then ends it if
// another one is to come.
type toldHub struct {
	t    *testing.T
	told []string

	mu    sync.Mutex // a reader may come again before its last answer ends
	asked []string   // query | Last-Event-ID of each connection

	newest int // place in the journal, for who asks
}

func (h *toldHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/token" {
		fmt.Fprintf(w, `{"token":"5f3a0000.%d"}`, h.newest)
		return
	}
	h.mu.Lock()
	h.asked = append(h.asked, r.URL.RawQuery+" | "+r.Header.Get("Last-Event-ID"))
	connection := len(h.asked)
	h.mu.Unlock()
	if connection > len(h.told) {
		h.t.Errorf("connection %d was not expected", connection)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	io.WriteString(w, "retry: 100\n\n"+h.told[connection-1])
	http.NewResponseController(w).Flush()
	if connection == len(h.told) {
		<-r.Context().Done()
	}
}

// told is the frame of a notice about a page.
func told(seq int, page string) string {
	return fmt.Sprintf("id: 5f3a0000.%d\nevent: changed\ndata: {\"seq\":%d,\"kind\":\"changed\",\"uri\":\"https://a.example/%s\",\"token\":\"5f3a0000.%d\"}\n\n",
		seq, seq, page, seq)
}

// listen serves h until the test ends and returns its address.
func listen(t *testing.T, h http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
		http.DefaultClient.CloseIdleConnections()
		goleak.VerifyNone(t)
	})
	return "http://" + l.Addr().String()
}

// A screen is what a command printed so far; it can be waited for.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed when something is printed
}

func newScreen() *screen { return &screen{more: make(chan struct{})} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// wait returns when the screen shows text.
func (s *screen) wait(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		more, found := s.more, strings.Contains(s.text.String(), text)
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("the screen shows %q, want %q", s, text)
		}
	}
}

func TestTailGoesOnWhenItsHubComesBack(t *testing.T) {
	place := filepath.Join(t.TempDir(), "place")
	h := &toldHub{t: t, told: []string{told(1, "a") + told(2, "b"), "", told(3, "c") + "id: 5f3a0000.9\n\n"}}
	url := listen(t, h)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, exit := newScreen(), make(chan int)
	go func() {
		exit <- run(ctx, []string{"tail", "--hub", url, "--cursor", place, "--channel", "maps", "--since", "2026-01-01T00:00:00Z"},
			strings.NewReader(""), out, out)
	}()
	out.wait(t, "/c")
	kept := func() bool {
		b, err := os.ReadFile(place)
		return err == nil && string(b) == "5f3a0000.9\n"
	}
	tick, timeout := time.NewTicker(10*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !kept() { // without anything further happening
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("the place of a quiet tail is not kept")
		}
	}
	interrupt()
	if code := <-exit; code != exitOK {
		t.Errorf("exit code %d after an interrupt, want %d", code, exitOK)
	}
	if got, want := out.String(), "changed https://a.example/a\nchanged https://a.example/b\nchanged https://a.example/c\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	query := "channel=maps&since=2026-01-01T00%3A00%3A00Z | "
	if got, want := strings.Join(h.asked, "\n"), query+"\n"+query+"5f3a0000.2\n"+query+"5f3a0000.2"; got != want {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}
}

// trimmed is the frame that names the oldest place of a trimmed journal.
func trimmed(oldest int) string {
	return fmt.Sprintf("id: 5f3a0000.9\nevent: reset\ndata: {\"kind\":\"reset\",\"reason\":\"trimmed\",\"oldest\":\"5f3a0000.%d\",\"newest\":\"5f3a0000.9\"}\n\n", oldest)
}

func TestAllThatATrimmedJournalHoldsIsNoLoss(t *testing.T) {
	h := &toldHub{t: t, newest: 6, told: []string{trimmed(4), told(5, "a") + told(6, "b") + told(7, "c")}}
	out := newScreen()
	code := run(t.Context(), []string{"tail", "--hub", listen(t, h), "--once"}, strings.NewReader(""), out, out)
	if want := "changed https://a.example/a\nchanged https://a.example/b\n"; code != exitOK || out.String() != want {
		t.Errorf("exit code %d, printed %q, want %q", code, out, want)
	}
	if got, want := strings.Join(h.asked, "\n"), "since=1970-01-01T00%3A00%3A00Z | \n | 5f3a0000.4"; got != want {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}
}

func TestTailGoesOnAfterAResetAsLongAsThatLeadsSomewhere(t *testing.T) {
	place := filepath.Join(t.TempDir(), "place")
	if err := os.WriteFile(place, []byte("5f3a0000.2"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &toldHub{t: t, told: []string{trimmed(4), told(5, "a") + trimmed(4), trimmed(4)}}
	out, warned := newScreen(), newScreen()
	code := run(t.Context(), []string{"tail", "--hub", listen(t, h), "--cursor", place, "--on-reset=continue"}, strings.NewReader(""), out, warned)
	if want := "changed https://a.example/a\n"; code != exitFailed || out.String() != want {
		t.Errorf("exit code %d, printed %q; want %d and %q", code, out, exitFailed, want)
	}
	if got := strings.Count(warned.String(), "  what came before 5f3a0000.4 was trimmed and is missed"); got != 2 {
		t.Errorf("warned %d times, want 2: %s", got, warned)
	}
	if got, want := strings.Join(h.asked, "\n"), " | 5f3a0000.2\n | 5f3a0000.4\n | 5f3a0000.4"; got != want {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}
}

func TestAnInterruptedTailLetsItsCommandFinish(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	h := &toldHub{t: t, told: []string{told(1, "a") + told(2, "b")}}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, exit := newScreen(), make(chan int)
	url := listen(t, h)
	go func() {
		exit <- run(ctx, []string{"tail", "--hub", url, "--cursor", "place",
			"--exec", `echo began "$FRESHWIRE_URI"; until test -e go; do sleep 0.02; done; echo finished`}, strings.NewReader(""), out, out)
	}()
	out.wait(t, "began")
	interrupt()
	if err := os.WriteFile("go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := <-exit; code != exitOK {
		t.Errorf("exit code %d, want %d", code, exitOK)
	}
	if got, want := out.String(), "began https://a.example/a\nfinished\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	if b, err := os.ReadFile("place"); string(b) != "5f3a0000.1\n" || err != nil {
		t.Errorf("the place is %q, %v, want after the notice that was handled", b, err)
	}
}

func TestACommandThatDoesNotFinishIsKilledWithWhatItStarted(t *testing.T) {
	out, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := &worker{command: `sleep 600 & echo began; wait`, grace: 50 * time.Millisecond, stdout: theirs, stderr: theirs}
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.handle(ctx, &task{place: "5f3a0000.1"}) }()
	if _, err := io.ReadFull(out, make([]byte, len("began\n"))); err != nil {
		t.Fatal(err)
	}
	interrupt()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "killed, as it was still running after 50ms") {
		t.Errorf("got %v, want that it was killed", err)
	}
	theirs.Close()
	if rest, err := io.ReadAll(out); len(rest) > 0 || err != nil { // ends when nobody can write any more
		t.Errorf("read %q, %v after the kill", rest, err)
	}
}

func TestACommandMayLeaveTheNoticeUnreadAndSomethingBehind(t *testing.T) {
	out := newScreen()
	w := &worker{command: `sleep 600 & echo $!`, grace: time.Second, stdout: out, stderr: out}
	n := client.Notice{Token: "5f3a0000.1", Version: "a\x00b", Buckets: []string{strings.Repeat("x", 1<<20)}}
	job, err := noticeTask(&n)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.handle(t.Context(), job); err != nil {
		t.Errorf("got %v, want success", err)
	}
	var pid int
	if _, err := fmt.Sscan(out.String(), &pid); err != nil {
		t.Fatal(err)
	}
	if p, err := os.FindProcess(pid); err == nil {
		p.Kill()
	}
}

func TestAPlaceThatCannotBeKeptEndsTail(t *testing.T) {
	place := filepath.Join(t.TempDir(), "place")
	h := &toldHub{t: t, told: []string{"id: 5f3a0000.1\n\n"}}
	out := newScreen()
	if err := os.MkdirAll(filepath.Join(place+".new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	code := run(t.Context(), []string{"tail", "--hub", listen(t, h), "--cursor", place}, strings.NewReader(""), out, out)
	if code != exitFailed || !strings.Contains(out.String(), "freshwire: --cursor: ") {
		t.Errorf("exit code %d, printed %q; want that the place cannot be kept", code, out)
	}
}
