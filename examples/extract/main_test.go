package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub"
	"github.com/freshwire/freshwire/hub/client"
)

// A wiki is a page server that says which version it serves.
type wiki struct {
	mu       sync.Mutex
	pages    map[string]string // by path: the text of the first paragraph
	versions map[string]int
	served   map[string]int
	away     bool
}

func (w *wiki) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.served[r.URL.Path]++
	if w.away {
		http.Error(rw, "not now", http.StatusServiceUnavailable)
		return
	}
	rw.Header().Set("ETag", fmt.Sprintf(`"%d"`, w.versions[r.URL.Path]))
	fmt.Fprintf(rw, "<html><h1>…</h1>\n<p>%s</p><p>more of version %d</p></html>", w.pages[r.URL.Path], w.versions[r.URL.Path])
}

// edit saves a page and tells the hub.
func (w *wiki) edit(t *testing.T, c *client.Client, base, path, text string) {
	t.Helper()
	w.mu.Lock()
	w.pages[path] = text
	w.versions[path]++
	version := w.versions[path]
	w.mu.Unlock()
	if _, err := c.Update(t.Context(), client.Update{URI: base + path, Type: "page", Version: fmt.Sprint(version), ID: fmt.Sprint(path, version)}); err != nil {
		t.Fatal(err)
	}
}

// startHub runs a hub until the test ends.
func startHub(t *testing.T) *client.Client {
	t.Helper()
	cfg := hub.DefaultConfig()
	cfg.Listen, cfg.Data = "127.0.0.1:0", t.TempDir()
	h, err := hub.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(h.URL(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestExtractsAreMadeAgainWhenAndOnlyWhenTheirPageHasChanged(t *testing.T) {
	c := startHub(t)
	w := &wiki{pages: map[string]string{}, versions: map[string]int{}, served: map[string]int{}}
	server := httptest.NewServer(w)
	defer server.Close()
	folder := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	for range 3 {
		workers.Go(func() { work(ctx, c, folder) })
	}
	const n = 20
	path := func(i int) string { return fmt.Sprintf("/wiki/Page_%d", i) }
	made := func(i int, text string) bool {
		uri := server.URL + path(i) + "#extract"
		r, err := c.Resource(t.Context(), uri)
		got, _ := os.ReadFile(filepath.Join(folder, fmt.Sprintf("%x", sha256.Sum256([]byte(uri)))))
		return err == nil && r.State == "clean" && r.Hash == fmt.Sprintf("%x", sha256.Sum256([]byte(text))) && string(got) == text
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !f(); <-time.After(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	text := func(i, version int) string { return fmt.Sprintf("Page %d is in its version %d.", i, version) }
	// Somebody says that there is an extract of each page, of a version before the first.
	for i := range n {
		uri := server.URL + path(i)
		if _, err := c.Update(t.Context(), client.Update{ID: "0", URI: uri + "#extract", Type: "extract", Hash: "none", Deps: []client.Dep{{URI: uri, Seen: "0"}}}); err != nil {
			t.Fatal(err)
		}
		w.edit(t, c, server.URL, path(i), strings.ReplaceAll(text(i, 1), "version", "<b>version</b>"))
	}
	for i := range n {
		until(fmt.Sprintf("extract %d is not made", i), func() bool { return made(i, text(i, 1)) })
	}
	w.edit(t, c, server.URL, path(3), text(3, 2))
	until("extract 3 is not made again", func() bool { return made(3, text(3, 2)) })
	deps, err := c.Dependencies(t.Context(), server.URL+path(3)+"#extract", "", 0)
	if err != nil || len(deps.Items) != 1 || deps.Items[0].URI != server.URL+path(3) {
		t.Errorf("extract 3 is made from %+v, %v", deps, err)
	}
	w.mu.Lock()
	for i := range n {
		if w.served[path(i)] != w.versions[path(i)] {
			t.Errorf("page %d has %d versions and was fetched %d times", i, w.versions[path(i)], w.served[path(i)])
		}
	}
	w.away = true
	w.mu.Unlock()
	w.edit(t, c, server.URL, path(5), text(5, 2))
	until("a failure is not told", func() bool {
		r, err := c.Resource(t.Context(), server.URL+path(5)+"#extract")
		return err == nil && r.State == "ready" && !r.NoticeDue.IsZero()
	})
}
