package hub

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/digest"
	"github.com/freshwire/freshwire/hub/client"
)

// An archive is the digests that a hub made, as plain files that are served by a server
// of plain files, to be changed by somebody who is not to be trusted.
type archive struct {
	t    *testing.T
	dir  string // of the channel
	keys string
	url  string
	// meddle may answer instead of the server.
	meddle func(w http.ResponseWriter, r *http.Request) bool
	asked  []string
}

// madeAt is removed when the tests end.
var madeAt string

// madeArchive is made once: a week ends in its middle.
var madeArchive = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "freshwire-archive-")
	if err != nil {
		return "", err
	}
	madeAt = dir
	defer http.DefaultClient.CloseIdleConnections()
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", dir, minCache
	cfg.ClockStart, cfg.ClockRate = time.Date(2026, 11, 22, 20, 30, 0, 0, time.UTC), 3600
	h, err := New(cfg, nil)
	if err != nil {
		return "", err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	for version := 1; h.digests.Newest("all") < 7; version++ {
		body := ""
		for page := range 60 {
			body += fmt.Sprintf(`{"uri":"https://en.example.org/wiki/Page_%d_of_%d","type":"page","version":"%d"}`+"\n", page, page%(version%3+1), version)
		}
		resp, err := http.Post(h.URL()+"/v1/updates", typeNDJSON, strings.NewReader(body))
		if err != nil {
			return "", err
		}
		resp.Body.Close()
		<-time.After(300 * time.Millisecond)
	}
	stop()
	return dir, <-done
})

func newArchive(t *testing.T) *archive {
	t.Helper()
	made, err := madeArchive()
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{t: t, dir: t.TempDir(), keys: filepath.Join(made, "keys")}
	if err := os.CopyFS(a.dir, os.DirFS(filepath.Join(made, "digest", "all"))); err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(a.dir))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked = append(a.asked, r.URL.Path)
		if a.meddle == nil || !a.meddle(w, r) {
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	a.url = server.URL + "/"
	return a
}

func (a *archive) read(name string) []byte {
	a.t.Helper()
	b, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	return b
}

func (a *archive) write(name string, b []byte) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), b, 0o644); err != nil {
		a.t.Fatal(err)
	}
}

func (a *archive) edit(name, old, replaced string) {
	a.t.Helper()
	b := string(a.read(name))
	if !strings.Contains(b, old) {
		a.t.Fatalf("%s has no %s", name, old)
	}
	a.write(name, []byte(strings.Replace(b, old, replaced, 1)))
}

func (a *archive) state() (s digest.State) {
	a.t.Helper()
	if err := json.Unmarshal(a.read("state.json"), &s); err != nil {
		a.t.Fatal(err)
	}
	return s
}

// newest is the folder of the newest hour.
func (a *archive) newest() string { return strings.TrimSuffix(a.state().Manifest, "manifest.json") }

// lie has the owner of the archive sign something else as the newest hour.
func (a *archive) lie(change func(m *digest.Manifest)) {
	a.t.Helper()
	name := a.state().Manifest
	var m digest.Manifest
	if err := json.Unmarshal(a.read(name), &m); err != nil {
		a.t.Fatal(err)
	}
	change(&m)
	b, err := json.Marshal(m)
	if err != nil {
		a.t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(a.keys, "digest-*.pem"))
	if err != nil || len(names) != 1 {
		a.t.Fatal(names, err)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		a.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		a.t.Fatal(err)
	}
	was := a.state().ManifestSHA256
	sum := sha256.Sum256(b)
	a.write(name, b)
	a.write(name+".sig", []byte(base64.StdEncoding.EncodeToString(ed25519.Sign(key.(ed25519.PrivateKey), b))))
	a.edit("state.json", was, hex.EncodeToString(sum[:]))
}

// A pulled is what a pull brought.
type pulled struct {
	lines []string
	gaps  []string
	place client.DigestPlace
	res   client.DigestResult
}

func (a *archive) pull(place client.DigestPlace, keys ...client.DigestKey) (p pulled, err error) {
	a.t.Helper()
	c, err := client.New("http://hub.example", client.Options{})
	if err != nil {
		a.t.Fatal(err)
	}
	r, err := c.Digest(a.url, client.DigestOptions{Keys: keys, Temp: a.t.TempDir()})
	if err != nil {
		a.t.Fatal(err)
	}
	p.place = place
	p.res, err = r.Pull(context.Background(), client.DigestPull{Place: place,
		Entry: func(line []byte) error { p.lines = append(p.lines, string(line)); return nil },
		Done:  func(_ *client.DigestManifest, place client.DigestPlace) error { p.place = place; return nil },
		Gap:   func(text string) { p.gaps = append(p.gaps, text) }, Note: func(string) {}})
	return p, err
}

// flip changes one byte in the middle.
func flip(b []byte) []byte {
	b = slices.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

func TestAnArchiveThatIsNotWhatItSaysIsRefused(t *testing.T) {
	ndjson := func(a *archive) (string, *client.DigestCoded) { return a.newest() + "digest.ndjson.zst", nil }
	for _, c := range []struct {
		name   string
		change func(a *archive)
		want   string
	}{
		{"a byte of a manifest", func(a *archive) { a.write(a.state().Manifest, flip(a.read(a.state().Manifest))) }, "it was announced with"},
		{"a byte of a manifest, announced by the state", func(a *archive) {
			b := flip(a.read(a.state().Manifest))
			sum := sha256.Sum256(b)
			a.edit("state.json", a.state().ManifestSHA256, hex.EncodeToString(sum[:]))
			a.write(a.state().Manifest, b)
		}, "manifest"},
		{"a field of a manifest, announced by the state", func(a *archive) {
			a.edit(a.state().Manifest, `"complete": true`, `"complete": false`)
			sum := sha256.Sum256(a.read(a.state().Manifest))
			a.edit("state.json", a.state().ManifestSHA256, hex.EncodeToString(sum[:]))
		}, "it is not the signature of the manifest"},
		{"another hour's signature", func(a *archive) {
			a.write(a.state().Manifest+".sig", a.read("w/2026-W47/manifest.json.sig"))
		}, "it is not the signature of the manifest"},
		{"no signature", func(a *archive) { os.Remove(filepath.Join(a.dir, a.state().Manifest+".sig")) }, "manifest.json.sig"},
		{"a byte of the entries", func(a *archive) { name, _ := ndjson(a); a.write(name, flip(a.read(name))) }, "and its manifest says"},
		{"entries that are cut off", func(a *archive) { name, _ := ndjson(a); b := a.read(name); a.write(name, b[:len(b)-1]) }, "digest.ndjson.zst"},
		{"entries with more behind", func(a *archive) { name, _ := ndjson(a); a.write(name, append(a.read(name), 'x')) }, "it has more than the"},
		{"another hour's entries", func(a *archive) { name, _ := ndjson(a); a.write(name, a.read("w/2026-W47/digest.ndjson.zst")) }, "digest.ndjson.zst"},
		{"a roll-up that is another", func(a *archive) {
			a.write("w/2026-W47/manifest.json", a.read("d/2026/11/22/manifest.json"))
		}, "it was announced with"},
		{"an unknown version", func(a *archive) { a.edit("state.json", `"version": 1`, `"version": 2`) }, "its version is 2, and this program knows 1"},
		{"a state that is none", func(a *archive) { a.write("state.json", []byte("<html>")) }, "it is no state of an archive"},
		{"hours without end", func(a *archive) {
			a.edit("state.json", fmt.Sprintf(`"seq": %d`, a.state().Seq), `"seq": 1000000000000`)
		}, "cannot be"},
		{"a manifest elsewhere", func(a *archive) {
			a.edit("state.json", `"manifest": "`+a.state().Manifest, `"manifest": "http://evil.example/h/2026/11/22/23/manifest.json`)
		}, "is not the place of a manifest"},
		{"a manifest outside", func(a *archive) {
			a.edit("state.json", `"manifest": "`+a.state().Manifest, `"manifest": "../../etc/manifest.json`)
		}, "is not the place of a manifest"},
		{"signed: a file outside", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Files[0].Href = "../../../../../state.json" }) }, "which is not one of its folder"},
		{"signed: a file of another host", func(a *archive) {
			a.lie(func(m *digest.Manifest) { m.Files[0].Codings[0].Href = "http://evil.example/x" })
		}, "which is not one of its folder"},
		{"signed: more entries than there are", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Entries++ }) }, "its files have"},
		{"signed: more lines than there are", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Entries++; m.Files[0].Entries++ }) }, "lines, and the manifest says"},
		{"signed: fewer notices than there are", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Notices-- }) }, "notices, and it says"},
		{"signed: less than it decodes to", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Files[0].Size = 300 }) }, "digest.ndjson.zst"},
		{"signed: positions of another hour", func(a *archive) { a.lie(func(m *digest.Manifest) { m.LastOffset-- }) }, "which is not of the hour"},
		{"signed: a gap before it", func(a *archive) { a.lie(func(m *digest.Manifest) { m.FirstOffset++ }) }, "and the one before ended at"},
		{"signed: another time", func(a *archive) {
			a.lie(func(m *digest.Manifest) { m.From, m.Until = m.From.Add(time.Hour), m.Until.Add(time.Hour) })
		}, "which does not belong there"},
		{"signed: another journal", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Epoch = "00000001" }) }, "and it does not say so"},
		{"signed: another channel", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Channel = "other" }) }, "it is of the channel"},
		{"signed: another chain", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Prev.SHA256 = strings.Repeat("0", 64) }) }, "it was announced with 0000"},
		{"signed: no chain", func(a *archive) { a.lie(func(m *digest.Manifest) { m.Prev = nil }) }, "the chain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArchive(t)
			whole, err := a.pull(client.DigestPlace{})
			if err != nil || len(whole.gaps) > 0 {
				t.Fatalf("before: %v %v", err, whole.gaps)
			}
			before := a.newest()
			c.change(a)
			got, err := a.pull(client.DigestPlace{})
			var bad *client.DigestError
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &bad) && !strings.Contains(c.name, "no signature") {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			for _, line := range got.lines {
				if !slices.Contains(whole.lines, line) {
					t.Errorf("it was given %s", line)
				}
			}
			if strings.HasPrefix(c.name, "signed") && len(got.lines) == len(whole.lines) {
				t.Errorf("all of %s was given", before)
			}
			for _, path := range a.asked {
				if strings.Contains(path, "..") || strings.Contains(path, "evil") {
					t.Errorf("%s was asked for", path)
				}
			}
		})
	}
}

func TestOnlyKeysThatAreVouchedForAreBelieved(t *testing.T) {
	a := newArchive(t)
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.pull(client.DigestPlace{}, client.NewDigestKey(public)); err == nil || !strings.Contains(err.Error(), "nobody has vouched for") {
		t.Errorf("with another key: %v", err)
	}
	own := a.state().Keys[0]
	if _, err := a.pull(client.DigestPlace{}, client.NewDigestKey(own.Public)); err != nil {
		t.Errorf("with the key that signed: %v", err)
	}
	place := client.DigestPlace{Channel: "all", Keys: []client.DigestKey{client.NewDigestKey(public)}}
	if _, err := a.pull(place); err == nil {
		t.Error("who has trusted a key believes another one that a state names")
	}
}

// A connection that breaks off is gone on with where it was.
func TestADownloadThatBreaksOffGoesOn(t *testing.T) {
	a := newArchive(t)
	broken, ranges := map[string]bool{}, 0
	a.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" && r.Header.Get("If-Range") != "" {
			ranges++
		}
		if !strings.HasSuffix(r.URL.Path, ".zst") {
			return false
		}
		b := a.read(r.URL.Path)
		sum := sha256.Sum256(b)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
		if broken[r.URL.Path] {
			return false
		}
		broken[r.URL.Path] = true
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.Write(b[:len(b)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	p, err := a.pull(client.DigestPlace{Seq: a.state().Seq - 2})
	if err != nil || ranges != len(broken) || len(broken) == 0 || len(p.lines) == 0 {
		t.Errorf("%d lines, %d of %d downloads were gone on with: %v", len(p.lines), ranges, len(broken), err)
	}
}

// Who stops anywhere and comes again has everything, and no digest by halves.
func TestAPullThatIsCutOffMissesNothing(t *testing.T) {
	a := newArchive(t)
	whole, err := a.pull(client.DigestPlace{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New("http://hub.example", client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var had []string
	var place client.DigestPlace
	cut := errors.New("cut off")
	for n := 1; ; n++ {
		r, err := c.Digest(a.url, client.DigestOptions{Temp: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		left := 7 * n
		_, err = r.Pull(context.Background(), client.DigestPull{Place: place,
			Entry: func(line []byte) error {
				if left--; left == 0 {
					return cut
				}
				had = append(had, string(line))
				return nil
			},
			Done: func(_ *client.DigestManifest, p client.DigestPlace) error { place = p; return nil },
			Gap:  func(text string) { t.Error(text) }, Note: func(string) {}})
		if err == nil {
			break
		}
		if !errors.Is(err, cut) {
			t.Fatal(err)
		}
	}
	for _, line := range whole.lines {
		if !slices.Contains(had, line) {
			t.Errorf("%s is missing", line)
		}
	}
	if again, err := a.pull(place); err != nil || len(again.lines) > 0 {
		t.Errorf("who has everything gets %d lines: %v", len(again.lines), err)
	}
}

func TestGapsAreToldAndTheRestIsGiven(t *testing.T) {
	for reason, want := range map[string]int{digest.Reconcile: 1, digest.Trimmed: 1, digest.Missed: 0} {
		a := newArchive(t)
		a.lie(func(m *digest.Manifest) { m.Complete, m.Reason = false, reason })
		p, err := a.pull(client.DigestPlace{Seq: a.state().Seq - 1})
		if err != nil || len(p.gaps) != want || p.res.Gaps != want || len(p.lines) == 0 {
			t.Errorf("%s: %d lines, gaps %v: %v", reason, len(p.lines), p.gaps, err)
		}
	}
	a := newArchive(t)
	a.edit("state.json", `"first_seq": 1,`, `"first_seq": 6,`)
	s := a.state()
	var bare map[string]any
	if err := json.Unmarshal(a.read("state.json"), &bare); err != nil {
		t.Fatal(err)
	}
	bare["rollups"] = []any{}
	b, err := json.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	a.write("state.json", b)
	p, err := a.pull(client.DigestPlace{Seq: 1})
	if err != nil || len(p.gaps) != 1 || !strings.Contains(p.gaps[0], "hours 2 to 5") || p.place.Seq != s.Seq {
		t.Errorf("up to hour %d with gaps %v: %v", p.place.Seq, p.gaps, err)
	}
}

// A copy that links lead out of is no way to read this machine's files.
func TestACopyIsNotReadBeyondItsFolder(t *testing.T) {
	a := newArchive(t)
	name := a.newest() + "digest.ndjson.zst"
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, a.read(name), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(filepath.Join(a.dir, name)), os.Symlink(secret, filepath.Join(a.dir, name))); err != nil {
		t.Fatal(err)
	}
	r, err := client.DigestFolder(a.dir, client.DigestOptions{Temp: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Pull(context.Background(), client.DigestPull{Place: client.DigestPlace{Seq: a.state().Seq - 1}, Entry: func([]byte) error { return nil },
		Done: func(*client.DigestManifest, client.DigestPlace) error { return nil }, Gap: func(string) {}, Note: func(string) {}})
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) {
		t.Errorf("got %v, want that the link is not followed", err)
	}
}
