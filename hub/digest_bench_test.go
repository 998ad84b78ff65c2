package hub

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/digest"
)

// BenchmarkClosedHour downloads a file of a closed hour, as it is and coded, and the same
// file from a plain server of files.
func BenchmarkClosedHour(b *testing.B) {
	h := startHub(b, hourly)
	const pages, batch = 60_000, 5000
	for first := 0; first < pages; first += batch {
		var body strings.Builder
		for page := first; page < first+batch; page++ {
			fmt.Fprintf(&body, `{"uri":"https://en.example.org/wiki/An_article_about_number_%d","type":"page","version":"%d"}`+"\n", page*7919%pages, page)
		}
		h.put(body.String())
	}
	h.settled()
	folder, m := h.withEntries("all", h.closed("all", h.store.Token()))
	if m.Files[0].Role != digest.RoleNDJSON || m.Files[0].Size < 1<<20 {
		b.Fatalf("the file is %+v", m.Files[0])
	}
	plain := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(h.cfg.Data, "digest"))))
	defer plain.Close()
	path := folder + "digest.ndjson"
	for _, c := range []struct{ name, url, coding string }{
		{"hub=identity", h.URL() + path, "identity"}, {"hub=zstd", h.URL() + path, "zstd"},
		{"plain=identity", plain.URL + strings.TrimPrefix(path, "/digest"), "identity"},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				req, err := http.NewRequest("GET", c.url, nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Accept-Encoding", c.coding)
				resp, err := h.client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || n == 0 {
					b.Fatalf("%d bytes, %d: %v", n, resp.StatusCode, err)
				}
				b.SetBytes(n)
			}
		})
	}
}
