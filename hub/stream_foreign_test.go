package hub

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	sse "github.com/r3labs/sse/v2"
)

// program finds a program of which one of the names is installed. Without it
// the test is skipped, but not in continuous integration.
func program(t *testing.T, what string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed; make setup installs it on Debian", what)
	}
	t.Skipf("%s is not installed; make setup installs it on Debian", what)
	return ""
}

// pages are n paths of one round.
func pages(round string, n int) (paths []string) {
	for i := range n {
		paths = append(paths, fmt.Sprintf("/wiki/%s%d", round, i))
	}
	return paths
}

// once gives up at once. The client's own way of coming again is tried by
// nobody: it gives up for good after 15 minutes, and ends at a stream's end.
type once struct{}

func (once) NextBackOff() time.Duration { return -1 }
func (once) Reset()                     {}

func TestTheClientOfR3labsReadsAndResumes(t *testing.T) {
	l := startLasting(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	foreign := sse.NewClient(l.url() + "/v1/stream?since=" + l.await(ctx).store.Token().String())
	foreign.Connection, foreign.ReconnectStrategy = &http.Client{Transport: l.transport}, once{}
	got := make(chan *sse.Event, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for l.await(ctx) != nil {
			// At a stream's end it returns nil and does not come again.
			foreign.SubscribeRawWithContext(ctx, func(e *sse.Event) {
				// It delivers comments, and positions, as events without data.
				if len(e.Data) > 0 {
					got <- e
				}
			})
		}
	}()
	var a account
	a.began = true
	receive := func(n int) {
		t.Helper()
		for range n {
			select {
			case e := <-got:
				if err := a.note(sseFrame{id: string(e.ID), hasID: true, event: string(e.Event), data: e.Data}); err != nil {
					t.Fatal(err)
				}
			case <-ctx.Done():
				t.Fatalf("%d notices have come, not all", len(a.list))
			}
		}
	}
	l.publish(1, pages("a", 20)...)
	receive(20)
	for round := range 2 {
		l.stop()
		l.start()
		l.publish(1, pages(fmt.Sprint("b", round), 20)...)
		receive(20)
	}
	journal := l.whole()
	cancel()
	<-done
	for len(got) > 0 {
		receive(1)
	}
	if len(journal) != 60 {
		t.Errorf("the journal has %d notices, want 60", len(journal))
	}
	if err := a.check(journal, journal[len(journal)-1].seq); err != nil {
		t.Error(err)
	}
}

// A curlRun is a curl that reads a stream.
type curlRun struct {
	cmd    *exec.Cmd
	frames *sseReader
}

func runCurl(t *testing.T, ctx context.Context, args ...string) *curlRun {
	t.Helper()
	cmd := exec.CommandContext(ctx, program(t, "curl", "curl"), append([]string{"-sN"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &curlRun{cmd, newSSEReader(out)}
}

// read enters frames into a until n more notices have come; -1 means until the
// stream ends.
func (c *curlRun) read(t *testing.T, a *account, n int) {
	t.Helper()
	for n != 0 {
		f, err := c.frames.next()
		if err == io.EOF && n < 0 {
			return
		}
		if err == nil {
			err = a.note(f)
		}
		if err != nil {
			t.Fatalf("%v, and %d notices have not come", err, n)
		}
		if len(f.data) > 0 {
			n--
		}
	}
}

func TestCurlReadsAndResumes(t *testing.T) {
	l := startLasting(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream := l.url() + "/v1/stream"
	var a account
	first := runCurl(t, ctx, stream)
	for !a.began { // a stream without a place to begin tells it first
		f, err := first.frames.next()
		if err == nil {
			err = a.note(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.began, a.start = f.hasID, a.at
	}
	l.publish(1, pages("a", 20)...)
	first.read(t, &a, 20)
	l.stop()
	first.read(t, &a, -1)
	if err := first.cmd.Wait(); err != nil {
		t.Errorf("when the hub ends in good order curl says %v, want a whole answer", err)
	}
	l.start()
	l.publish(1, pages("b", 20)...)
	second := runCurl(t, ctx, "-H", "Last-Event-ID: "+a.last, stream)
	second.read(t, &a, 20)
	l.publish(1, pages("c", 10)...)
	second.read(t, &a, 10)
	journal := l.whole()
	second.read(t, &a, -1)
	if err := second.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if len(journal) != 50 {
		t.Errorf("the journal has %d notices, want 50", len(journal))
	}
	if err := a.check(journal, journal[len(journal)-1].seq); err != nil {
		t.Error(err)
	}
}

// collector is a page's script: it keeps what an EventSource brings. have(n)
// is kept when there are n events, opened(n) when it was connected n times.
const collector = `
(() => {
	const got = [], waiting = []
	let opens = 0
	const tell = () => { for (const w of waiting) if (w.ready()) w.resolve(true) }
	const when = ready => new Promise(resolve => { waiting.push({ready, resolve}); tell() })
	const source = new EventSource(%q)
	for (const kind of ['changed', 'refresh', 'reset', 'message'])
		source.addEventListener(kind, e => { got.push({id: e.lastEventId, event: e.type, data: e.data}); tell() })
	source.onopen = () => { opens++; tell() }
	window.have = n => when(() => got.length >= n)
	window.opened = n => when(() => opens >= n)
	window.got = got
})()`

// A page is one tab of a real browser.
type page struct {
	t   *testing.T
	ctx context.Context
}

// openPage starts a browser at an address. It ends with the test.
func openPage(t *testing.T, address string) *page {
	t.Helper()
	path := program(t, "a Chromium", "chromium", "chromium-browser", "google-chrome")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	ctx, stopAllocator := chromedp.NewExecAllocator(ctx, chromedp.ExecPath(path), chromedp.Headless, chromedp.DisableGPU,
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.NoSandbox, // which root cannot have; only our own pages are shown
		chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(patience))
	ctx, stopPage := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("the browser ends with %v", err)
		}
		stopPage()
		stopAllocator()
		cancel()
	})
	p := &page{t, ctx}
	if _, err := chromedp.Run(ctx, chromedp.Navigate(address)); err != nil {
		t.Fatal(err)
	}
	return p
}

// evaluate runs a script, waits for its promise if it gives one, and returns its value.
func evaluate[T any](p *page, script string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", script, err)
	}
	return v
}

func TestABrowserReadsAndComesAgainByItself(t *testing.T) {
	t.Parallel()
	l := startLasting(t, nil)
	p := openPage(t, l.url()+"/livez")
	evaluate[any](p, fmt.Sprintf(collector, "/v1/stream?since="+l.await(p.ctx).store.Token().String()))
	evaluate[bool](p, "opened(1)")
	l.publish(1, pages("a", 20)...)
	evaluate[bool](p, "have(20)")
	l.stop()
	l.start()
	l.publish(1, pages("b", 20)...)
	evaluate[bool](p, "opened(2)")
	l.publish(1, pages("c", 20)...)
	evaluate[bool](p, "have(60)")
	journal := l.whole()

	// What serves at this address from now on has another journal.
	l.cfg.Data, l.journal = t.TempDir(), reference{}
	l.start()
	evaluate[bool](p, "have(61)")
	l.publish(1, "/wiki/d")
	evaluate[bool](p, "have(62)")

	a, after := account{began: true}, account{}
	for i, e := range evaluate[[]struct{ ID, Event, Data string }](p, "got") {
		into := &a
		if i >= 60 {
			into = &after
		}
		if err := into.note(sseFrame{id: e.ID, hasID: true, event: e.Event, data: []byte(e.Data)}); err != nil {
			t.Errorf("event %d: %v", i, err)
		}
	}
	if len(journal) != 60 {
		t.Errorf("the journal has %d notices, want 60", len(journal))
	}
	if err := a.check(journal, journal[len(journal)-1].seq); err != nil {
		t.Error(err)
	}
	if list := after.list; len(list) != 2 || list[0].reset == nil || list[0].reset.Reason != "epoch" || !strings.Contains(list[1].data, "/wiki/d") {
		t.Errorf("from another journal the browser heard %+v, want a reset for its epoch and one notice", list)
	}
}
