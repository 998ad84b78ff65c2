package digest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/net/html"
)

// pageItems are two channels: one for everybody, and one that is not, whose newest
// hour has a gap.
func pageItems() []IndexItem {
	state := State{Seq: 500, FirstSeq: 1, From: testNoon, Until: testNoon.Add(time.Hour), Manifest: "h/2026/11/24/12/manifest.json",
		Stream: "../../v1/channels/all/stream?kind=changed&lane=prompt", Rollups: make([]Rollup, 47)}
	cities := state
	cities.Stream = "../../v1/channels/cities/stream"
	return []IndexItem{
		{Channel: "all", Public: true, State: state, Hours: 2160, Bytes: 3_456_000_000, Oldest: testNoon.AddDate(0, 0, -90), Entries: 123_456, Complete: true,
			KeepHours: 90 * 24 * time.Hour, KeepRollups: 730 * 24 * time.Hour},
		{Channel: "cities", State: cities, Hours: 3, Bytes: 900, Oldest: testNoon.Add(-2 * time.Hour), Reason: Missed, KeepHours: 3 * time.Hour, KeepRollups: 48 * time.Hour},
	}
}

func indexPage(t *testing.T, base string, list []IndexItem) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := IndexPage(&b, base, list); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestThePageOfChannelsIsStable(t *testing.T) {
	checkGolden(t, "front/index.html", indexPage(t, testBase, pageItems()))
	checkGolden(t, "front/empty.html", indexPage(t, testBase, nil))
}

// A dom is a page as a browser understands it.
type dom struct{ root *html.Node }

func parsePage(t *testing.T, page []byte) dom {
	t.Helper()
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return dom{root}
}

// all returns the elements of a name, or of any name if it is "".
func (d dom) all(name string) (found []*html.Node) {
	for n := range d.root.Descendants() {
		if n.Type == html.ElementNode && (name == "" || n.Data == name) {
			found = append(found, n)
		}
	}
	return found
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) (s string) {
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			s += c.Data
		}
	}
	return s
}

// openElements checks that each element of a page is closed by whoever opened it.
func openElements(t *testing.T, page []byte) {
	t.Helper()
	void := []string{"meta", "link", "br", "img", "input", "hr"}
	var open []string
	for z := html.NewTokenizer(bytes.NewReader(page)); ; {
		switch z.Next() {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) || len(open) > 0 {
				t.Errorf("%v with %q open", z.Err(), open)
			}
			return
		case html.StartTagToken:
			if name := z.Token().Data; !slices.Contains(void, name) {
				open = append(open, name)
			}
		case html.EndTagToken:
			name := z.Token().Data
			if len(open) == 0 || open[len(open)-1] != name {
				t.Fatalf("</%s> closes %q", name, open)
			}
			open = open[:len(open)-1]
		}
	}
}

func TestThePageOfChannelsCanBeReadByEverybody(t *testing.T) {
	for _, list := range [][]IndexItem{nil, pageItems()} {
		page := indexPage(t, testBase, list)
		openElements(t, page)
		d := parsePage(t, page)
		for name, want := range map[string]int{"html": 1, "title": 1, "main": 1, "h1": 1, "h2": len(list), "style": 1, "details": len(list), "summary": len(list)} {
			if got := len(d.all(name)); got != want {
				t.Errorf("%d <%s>, want %d", got, name, want)
			}
		}
		if attr(d.all("html")[0], "lang") != "en" {
			t.Error("it does not say its language")
		}
		ids := map[string]bool{}
		for _, n := range d.all("") {
			if id := attr(n, "id"); id != "" {
				if ids[id] {
					t.Errorf("two elements are %q", id)
				}
				ids[id] = true
			}
		}
		for _, n := range d.all("") {
			if label := attr(n, "aria-labelledby"); label != "" && !ids[label] {
				t.Errorf("<%s> is labelled by %q, which is not there", n.Data, label)
			}
			href, inPage := strings.CutPrefix(attr(n, "href"), "#")
			if inPage && !ids[href] {
				t.Errorf("a link leads to #%s, which is not there", href)
			}
			if n.Data == "a" && text(n) == "" {
				t.Errorf("the link to %s has no text", href)
			}
			if n.Data == "th" && attr(n, "scope") == "" {
				t.Errorf("the heading %q heads nothing", text(n))
			}
		}
		if tables := d.all("table"); len(list) > 0 && (len(tables) != 1 || len(d.all("caption")) != 1 || len(d.all("tr")) != len(list)+1) {
			t.Errorf("%d tables, %d rows", len(tables), len(d.all("tr")))
		}
		for _, item := range list {
			for _, want := range []string{"alternate application/atom+xml feed.atom", "alternate application/feed+json feed.json",
				"alternate application/atom+xml hours.atom", "resourcesync application/xml capabilitylist.xml"} {
				if !slices.ContainsFunc(d.all("link"), func(n *html.Node) bool {
					file, ok := strings.CutPrefix(attr(n, "href"), testBase+"/"+item.Channel+"/")
					return ok && want == attr(n, "rel")+" "+attr(n, "type")+" "+file
				}) {
					t.Errorf("%s: no <link> says %q", item.Channel, want)
				}
			}
		}
	}
}

func TestThePageOfChannelsNeedsNothingButItsPolicy(t *testing.T) {
	d := parsePage(t, indexPage(t, testBase, pageItems()))
	sum := sha256.Sum256([]byte(text(d.all("style")[0])))
	if hash := "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(IndexPolicy, "default-src 'none'; style-src "+hash+";") {
		t.Errorf("the policy %q does not let %s", IndexPolicy, hash)
	}
	for _, n := range d.all("") {
		if slices.Contains([]string{"script", "img", "iframe", "object", "embed", "form", "base", "video", "svg"}, n.Data) {
			t.Errorf("it has a <%s>", n.Data)
		}
		for _, a := range n.Attr {
			if a.Key == "style" || a.Key == "src" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("<%s> has %s=%q", n.Data, a.Key, a.Val)
			}
		}
		if n.Data == "link" && slices.Contains([]string{"stylesheet", "icon", "preload", "preconnect"}, attr(n, "rel")) {
			t.Errorf("it loads %q", attr(n, "href"))
		}
	}
}

func TestNoTextBreaksOutOfThePage(t *testing.T) {
	count := func(page []byte) (names []string) {
		openElements(t, page)
		for _, n := range parsePage(t, page).all("") {
			names = append(names, n.Data)
		}
		return names
	}
	want := count(indexPage(t, testBase, pageItems()))
	for _, hostile := range hostileTexts {
		list := pageItems()
		list[1].Reason, list[1].State.Manifest = "r"+hostile, hostile
		if _, err := url.Parse(testBase + "/c" + hostile + "/state.json"); err == nil {
			list[1].Channel = "c" + hostile // else there is no address
		}
		page := indexPage(t, testBase, list)
		if got := count(page); !slices.Equal(got, want) {
			t.Errorf("%q: %d elements, want %d", hostile, len(got), len(want))
		}
	}
	list := pageItems()
	list[0].State.Stream = "http://[::1"
	if err := IndexPage(io.Discard, testBase, list); err == nil {
		t.Error("a stream without an address is on the page")
	}
}

// readers serves a shelf as a hub would, to who has a token.
func readers(t *testing.T, s *shelf, token string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, "no token", http.StatusUnauthorized)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/stream") {
			io.WriteString(w, "data: "+r.URL.RawQuery+" after "+r.Header.Get("Last-Event-ID")+"\n\n")
			return
		}
		b, ok := s.files["https://hub.example"+r.URL.Path]
		coding := r.Header.Get("Accept-Encoding")
		switch {
		case !ok:
			http.Error(w, r.URL.Path, http.StatusNotFound)
		case len(b) > 256 && coding == "gzip":
			w.Header().Set("Content-Encoding", coding)
			z := gzip.NewWriter(w)
			z.Write(b)
			z.Close()
		case len(b) > 256 && coding == "zstd":
			w.Header().Set("Content-Encoding", coding)
			z, _ := zstd.NewWriter(w)
			z.Write(b)
			z.Close()
		default:
			w.Write(b)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func TestWhatThePageSaysAboutCurlIsTrue(t *testing.T) {
	for _, name := range []string{"sh", "curl", "jq", "gzip", "zstd"} {
		program(t, name)
	}
	s := fill(t, 4, numberedHours(2, 9)) // the last part is too small for codings
	hour := testBase + "/all/h/2026/11/24/12/"
	ndjson := string(s.at(t, hour+"digest.ndjson")) + string(s.at(t, hour+"digest-2.ndjson")) + string(s.at(t, hour+"digest-3.ndjson"))
	var titles string
	for _, e := range slices.Backward(append(numberedHours(2, 9)[0], numberedHours(2, 9)[1]...)) {
		titles += e.Change + " " + e.URI + "\n"
	}
	want := []string{ndjson, ndjson, ndjson, string(s.at(t, testBase+"/all/feed.atom")), titles, string(s.at(t, testBase+"/all/recent/changelist.xml")),
		"data: kind=changed&lane=prompt after 00005f3a.11\n\n"}
	for _, token := range []string{"", "s3cret"} {
		server := readers(t, s, token)
		list := pageItems()[:1]
		list[0].Public = token == ""
		lines := parsePage(t, indexPage(t, server.URL+"/digest", list)).all("code")
		if len(lines) != len(want) {
			t.Fatalf("%d lines, want %d", len(lines), len(want))
		}
		for i, line := range lines {
			cmd := exec.Command("sh", "-c", text(line))
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TOKEN=" + token} // and no proxy
			got, err := cmd.Output()
			if err != nil || string(got) != want[i] {
				t.Errorf("%s\nprints %q (%v), want %q", text(line), got, err, want[i])
			}
		}
	}
}
