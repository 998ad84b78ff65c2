package hub

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func (h *testHub) backupNames() string {
	h.t.Helper()
	var out struct{ Backups []backupShape }
	h.do("GET", "/v1/backups", "").decode(h.t, &out)
	var names []string
	for _, b := range out.Backups {
		names = append(names, b.Name)
	}
	return strings.Join(names, " ")
}

func TestBackupsAreMadeAndListedOverHTTP(t *testing.T) {
	h := startHub(t, nil)
	if got := h.backupNames(); got != "" {
		t.Errorf("a new hub has the backups %s", got)
	}
	res := h.put(`{"uri":"https://e.example/a","version":"1"}`)
	for _, c := range []struct {
		body, problem string
		status        int
	}{
		{`{"name":"one"}`, "", 201},
		{`{"name":"one"}`, "backup-refused", 409},
		{`{"name":"../one"}`, "bad-value", 400},
		{`{"name":"a/b"}`, "bad-value", 400},
		{`{"name":".."}`, "bad-value", 400},
		{`{"name":""}`, "bad-value", 400},
		{`{"name":"A"}`, "bad-value", 400},
		{`{"name":"a\u0000"}`, "bad-value", 400},
		{`{"dir":"/tmp"}`, "unknown-field", 400},
		{`{"keep":-1}`, "bad-value", 400},
		{`{"keep":2`, "bad-json", 400},
		{`{"name":"two"}`, "", 201},
		{``, "", 201},
	} {
		a := h.do("POST", "/v1/backups", c.body)
		if a.status != c.status || !strings.Contains(string(a.body), c.problem) {
			t.Errorf("POST %s is answered %d %s, want %d %s", c.body, a.status, a.body, c.status, c.problem)
		}
		if strings.Contains(string(a.body), h.cfg.Data) {
			t.Errorf("the answer %s tells a path", a.body)
		}
		if c.status != 201 {
			continue
		}
		var b backupShape
		if a.decode(t, &b); b.Position != res.Cursor || b.Bytes == 0 || b.Added == nil || !strings.HasPrefix(res.Cursor, b.Epoch) {
			t.Errorf("the backup is %+v, want it at %s", b, res.Cursor)
		}
	}
	if got := h.backupNames(); !strings.HasPrefix(got, "one two 2") {
		t.Errorf("the backups are %s", got)
	}
	if a := h.do("POST", "/v1/backups", `{"name":"four","keep":2}`); a.status != 201 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := h.backupNames(); !strings.HasPrefix(got, "2") || !strings.HasSuffix(got, " four") {
		t.Errorf("of four backups the newest two are %s", got)
	}
	entries, err := os.ReadDir(h.cfg.Data)
	if err != nil || len(entries) != 4 {
		t.Errorf("the data hold %v, %v; want backups, digest, keys and store", entries, err)
	}
}

func TestOnAFullDiskNoBackupIsMade(t *testing.T) {
	disk := narrowDisk{vfs.Default, make(chan uint64, 1)}
	disk.free <- 1 << 20
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", t.TempDir(), minCache
	h := runHub(t, func() (*Hub, error) { return newOn(machineWith(disk), cfg, slog.New(slog.DiscardHandler)) })
	if a := h.do("POST", "/v1/backups", ""); a.status != 507 {
		t.Errorf("a backup on a full disk is answered %d %s", a.status, a.body)
	}
	left, _ := filepath.Glob(filepath.Join(cfg.Data, "backups", "*", "*"))
	if h.backupNames() != "" || len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}
}

// events opens a stream and returns a function that reads up to an event with text.
func (h *testHub) events(query, after string) (until func(text string) string) {
	h.t.Helper()
	req, err := http.NewRequest("GET", h.URL()+"/v1/stream?"+query, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	return func(text string) string {
		h.t.Helper()
		var read strings.Builder
		for lines.Scan() {
			read.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), text) {
				return read.String()
			}
		}
		h.t.Fatalf("the stream ends without %q:\n%s", text, read.String())
		return ""
	}
}

func TestAfterARestoreReadersAreToldAndChannelsAndProducersGoOn(t *testing.T) {
	const tmpl, page, other = "https://e.example/t", "https://e.example/p", "https://e.example/o"
	data := t.TempDir()
	var cursor, late, position string
	t.Run("backup", func(t *testing.T) {
		h := startHub(t, func(c *Config) { c.Data = data })
		h.put(`[{"uri":"` + tmpl + `","version":"1"},{"uri":"` + page + `","type":"html","hash":"1","deps":[{"uri":"` + tmpl + `","seen":"1"}]}]`)
		h.do("PUT", "/v1/channels/mine", `{"uri":["`+page+`"]}`)
		cursor = h.put(`{"uri":"` + page + `","type":"html","hash":"2","deps":[{"uri":"` + tmpl + `","seen":"1"}]}`).Cursor
		h.do("PUT", "/v1/channels/mine", `{"uri":["`+other+`"]}`) // from here on it is another one
		h.put(`[{"uri":"` + page + `","type":"html","hash":"3"},{"uri":"` + other + `","version":"1"}]`)
		var b backupShape
		a := h.do("POST", "/v1/backups", `{"name":"b"}`)
		a.decode(t, &b)
		position = b.Position
		late = h.put(`[{"uri":"` + tmpl + `","version":"2"},{"uri":"` + other + `","version":"2"}]`).Cursor // after the backup
	})
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", filepath.Join(t.TempDir(), "new", "data"), minCache
	res, err := Restore(context.Background(), cfg, slog.New(slog.DiscardHandler), filepath.Join(data, "backups", "b"), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := startHub(t, func(c *Config) { c.Data = cfg.Data })
	now := h.token()
	if now != res.Cursor.String() || now[:8] == position[:8] || now[8:] != position[8:] {
		t.Fatalf("the store is at %s, restored to %s from %s", now, res.Cursor, position)
	}
	for _, old := range []string{cursor, position, late} {
		got := h.events("", old)(`"newest"`)
		for _, want := range []string{"event: reset\n", `"reason":"epoch"`, `"oldest":"` + now[:8] + `.0"`, `"newest":"` + now + `"`} {
			if !strings.Contains(got, want) {
				t.Errorf("who comes with %s is told\n%swant %s", old, got, want)
			}
		}
	}
	channel := h.events("channel=mine&since="+now[:8]+".0", "")
	got := channel(`"uri":"` + other + `","`)
	if !strings.Contains(got, `"hash":"2"`) || strings.Contains(got, `"hash":"3"`) {
		t.Errorf("the channel is not what it was at each position:\n%s", got)
	}
	// A token of the old epoch proves nothing, however high it is; then time decides.
	h.put(`{"uri":"` + tmpl + `","version":"9"}`)
	state := func(token string) string {
		h.put(fmt.Sprintf(`{"uri":%q,"type":"html","hash":"4","token":%q,"at":%q,"deps":[%q]}`, page, token, time.Now().UTC().Format(time.RFC3339Nano), tmpl))
		var r resourceShape
		h.do("GET", "/v1/resource"+uriQuery(page), "").decode(t, &r)
		return fmt.Sprint(r.State, " ", r.Stale)
	}
	if got := state(position[:8] + ".999999"); got != "ready true" {
		t.Errorf("made with a token of the old epoch the page is %s", got)
	}
	if got := state(h.token()); got != "clean false" {
		t.Errorf("made with a token of today the page is %s", got)
	}
	h.put(`[{"uri":"` + page + `","type":"html","hash":"5"},{"uri":"` + other + `","version":"3"}]`)
	if got := channel(`"version":"3"`); strings.Contains(got, page) {
		t.Errorf("the channel goes on with\n%s", got)
	}
	if a := h.do("PATCH", "/v1/channels/mine", `{"add":{"uri":["`+page+`"]}}`); a.status != 200 || !strings.Contains(string(a.body), `"cursor":"`+now[:8]) {
		t.Errorf("a channel is changed after a restore: %d %s", a.status, a.body)
	}
	h.put(`{"uri":"` + page + `","type":"html","hash":"6"}`)
	channel(`"hash":"6"`)
}
