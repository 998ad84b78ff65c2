package hub

import (
	"bufio"
	"github.com/freshwire/freshwire/graph"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A narrowDisk is the real disk with as much free as it is told to have.
type narrowDisk struct {
	vfs.FS
	free chan uint64 // holds the one value
}

func (d narrowDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free := <-d.free
	d.free <- free
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: 1 << 40, UsedBytes: 1<<40 - free}, nil
}

func (d narrowDisk) set(free uint64) {
	<-d.free
	d.free <- free
}

// health waits until /healthz says want.
func (h *testHub) health(want string) {
	h.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); ; {
		a := h.do("GET", "/healthz", "")
		if a.status == 200 && strings.Contains(string(a.body), `"`+want+`"`) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			h.t.Fatalf("/healthz answers %d %s, want %s", a.status, a.body, want)
		}
	}
}

func TestAHubWithAFullDiskReadsOnAndWritesAgainWhenThereIsRoom(t *testing.T) {
	disk := narrowDisk{vfs.Default, make(chan uint64, 1)}
	disk.free <- 1 << 40
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache, cfg.MinFree = "127.0.0.1:0", t.TempDir(), minCache, 3<<30
	h := runHub(t, func() (*Hub, error) { return newOn(machineWith(disk), cfg, slog.New(slog.DiscardHandler)) })
	const a, b = "https://e.example/a", "https://e.example/b"
	first := h.put(`[{"uri":"` + a + `","version":"1"},{"uri":"` + b + `","hash":"h","deps":[{"uri":"` + a + `","seen":"1"}]}]`)
	if r := h.do("PUT", "/v1/channels/old", `{"uri":["`+a+`"]}`); r.status != 201 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	stream, err := h.client.Get(h.URL() + "/v1/stream?since=" + first.Cursor)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()

	disk.set(2 << 30)
	h.health("read-only")
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/updates", `{"uri":"` + a + `","version":"2"}`},
		{"POST", "/v1/updates", `{"uri":"` + a + `","action":"delete"}`},
		{"PATCH", "/v1/dependencies", `{"uri":"` + b + `","add":["https://e.example/c"]}`},
		{"PUT", "/v1/channels/new", `{}`},
		{"PUT", "/v1/channels/old", `{"uri":[]}`},
		{"PATCH", "/v1/channels/old", `{"add":{"uri":["` + b + `"]}}`},
	} {
		r := h.do(c.method, c.path, c.body)
		var p Problem
		r.decode(t, &p)
		if p.Status != 507 || p.Type != problemBase+"no-space" || p.Limit != 3<<30 || r.header.Get("Retry-After") == "" || p.Help == "" {
			t.Errorf("%s %s on a full disk is answered %d %v %s", c.method, c.path, r.status, r.header, r.body)
		}
	}
	for _, path := range []string{"/v1/resource" + uriQuery(a), "/v1/dependents" + uriQuery(a), "/v1/why" + uriQuery(b), "/v1/token", "/v1/channels/old",
		"/v1/jobs", "/livez"} {
		if r := h.do("GET", path, ""); r.status != 200 {
			t.Errorf("GET %s on a full disk is answered %d %s", path, r.status, r.body)
		}
	}
	if got := h.token(); got != first.Cursor {
		t.Errorf("the journal is at %s, want %s: what was refused has been written", got, first.Cursor)
	}
	if text := string(h.do("GET", "/metrics", "").body); !strings.Contains(text, "freshwire_read_only 1\n") || !strings.Contains(text, "freshwire_disk_free_bytes 2.147483648e+09\n") {
		t.Error("the metrics do not tell that the disk is full")
	}
	for _, path := range []string{"/v1/dependencies" + uriQuery(b), "/v1/dependents" + uriQuery(a), "/v1/channels/old"} {
		if r := h.do("DELETE", path, ""); r.status != 200 {
			t.Errorf("DELETE %s makes room and is answered %d %s", path, r.status, r.body)
		}
	}

	disk.set(4 << 30)
	h.health("ready")
	h.put(`{"uri":"` + a + `","version":"2"}`)
	for frames := bufio.NewScanner(stream.Body); frames.Scan(); { // the stream has lived through all of it
		if strings.Contains(frames.Text(), `"version":"2"`) {
			return
		}
	}
	t.Error("the stream ended without the update")
}

// machineWith is this machine with another disk.
func machineWith(disk vfs.FS) machine {
	m := thisMachine
	m.store = func(o *graph.Options) { o.FS = disk }
	return m
}

func TestAHubWithAFullDiskStartsAlsoWithAPeerThatItDoesNotKnowYet(t *testing.T) {
	disk := narrowDisk{vfs.Default, make(chan uint64, 1)}
	disk.free <- 2 << 30
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache, cfg.MinFree = "127.0.0.1:0", t.TempDir(), minCache, 3<<30
	cfg.PublicURL = "http://127.0.0.1:1"
	cfg.Federation.Peers = []PeerConfig{{URL: "http://127.0.0.1:2", Fingerprint: "SHA256:" + strings.Repeat("A", 43), Authority: []string{"https://files.example"}}}
	h := runHub(t, func() (*Hub, error) { return newOn(machineWith(disk), cfg, slog.New(slog.DiscardHandler)) })
	h.health("read-only")
	disk.set(1 << 40)
	h.health("ready")
}
