package subscriptions

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"pgregory.net/rapid"

	"github.com/freshwire/freshwire/graph"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// checkGolden compares got with testdata/name.
func checkGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", path, got, want)
	}
}

// goldenNotices show every field, every field left out, and hostile text.
func goldenNotices() []graph.Notice {
	at := time.Date(2026, 11, 22, 2, 12, 49, 976e6, time.UTC)
	cursor := func(seq uint64) graph.Cursor { return graph.Cursor{Epoch: 0x5f3a, Seq: seq} }
	return []graph.Notice{
		{Cursor: cursor(88121), Kind: graph.KindChanged, URI: "https://en.example.org/wiki/Berlin#html/canonical", Type: "html",
			Version: "1182", Hash: "9e1c", Change: graph.ChangeUpdated, Reason: graph.ReasonEdit,
			Cause: graph.Cause{URI: "https://en.example.org/wiki/Berlin", ID: "01J", At: at}, At: at.Add(1500 * time.Microsecond),
			Buckets: []string{"https://en.example.org/wiki/Berlin", "city"}},
		{Cursor: cursor(88122), Kind: graph.KindRefresh, URI: "https://en.example.org/wiki/Hamburg#html/canonical", Type: "html",
			Reason: graph.ReasonRetry, Rule: graph.RuleLower, Lane: graph.Bulk,
			Cause: graph.Cause{URI: "https://en.example.org/wiki/Template:Leaf"}, Attempt: 3, At: at.In(time.FixedZone("CET", 3600))},
		{Cursor: cursor(88123), Kind: graph.KindChanged, URI: "https://en.example.org/wiki/Gone", Change: graph.ChangeDeleted},
		{Cursor: cursor(18446744073709551615), Kind: graph.KindChanged, URI: "urn:x:y", Version: "\"\\/<&>\r\n\t\x00\x7f",
			Hash: "\u0085\u2028\u2029\ufeff", Type: "a\xffb\xed\xa0\x80", Buckets: []string{"id: 1\n\ndata: {}\n\n", "Zürich 東京 🜨"}},
	}
}

func TestEventStreamFramesAreStable(t *testing.T) {
	var b []byte
	b = eventStream{}.open(b, 2*time.Second)
	b = eventStream{}.position(b, "00005f3a.88120")
	for _, n := range goldenNotices() {
		b = append(b, eventStream{}.of(newFrame(&n))...)
	}
	b = eventStream{}.heartbeat(b, "00005f3a.88123")
	b = eventStream{}.reset(b, "00005f3a.9", []byte(`{"kind":"reset"}`))
	b = eventStream{}.leave(b, rotated, 5432*time.Millisecond)
	checkGolden(t, "frames.sse", b)
}

func TestFramesWithoutTheirCauseAreStable(t *testing.T) {
	var b []byte
	for _, n := range goldenNotices() {
		whole := newFrame(&n)
		before := bytes.Clone(whole.bytes)
		bare := whole.bare()
		if bare != whole.bare() || bare.bare() != bare {
			t.Errorf("%s is made more than once", n.Cursor)
		}
		if (n.Cause.URI == "") != (bare == whole) || !bytes.Equal(whole.bytes, before) {
			t.Errorf("%s: made of %q: %q", n.Cursor, whole.bytes, bare.bytes)
		}
		n.Cause = graph.Cause{}
		if want := newFrame(&n); !bytes.Equal(bare.bytes, want.bytes) || !bytes.Equal(bare.line(), want.line()) {
			t.Errorf("got %q, want what a notice without a cause has, %q", bare.bytes, want.bytes)
		}
		b = append(b, eventStream{}.of(bare)...)
		b = append(b, lines{}.of(bare)...)
	}
	checkGolden(t, "bare", b)
}

func TestLinesAreStable(t *testing.T) {
	var b []byte
	b = lines{}.open(b, 2*time.Second)
	b = lines{}.position(b, "00005f3a.88120")
	for _, n := range goldenNotices() {
		b = append(b, lines{}.of(newFrame(&n))...)
	}
	b = lines{}.heartbeat(b, "00005f3a.88123")
	b = lines{}.reset(b, "00005f3a.9", []byte(`{"kind":"reset"}`))
	b = lines{}.leave(b, rotated, 5432*time.Millisecond)
	checkGolden(t, "frames.ndjson", b)
}

// noticeJSON reads a notice back by reflection.
type noticeJSON struct {
	Seq                                                        uint64
	Kind, URI, Type, Version, Hash, Change, Reason, Rule, Lane string
	Cause                                                      *struct {
		URI, ID string
		At      time.Time
	}
	Attempt int
	At      time.Time
	Buckets []string
	Token   string
}

func drawAnyNotice(t *rapid.T) graph.Notice {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]*`),
		rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) }))
	when := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(0, 1<<37).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
	})
	return graph.Notice{
		Cursor: graph.Cursor{Epoch: graph.Epoch(rapid.Uint32().Draw(t, "epoch")), Seq: rapid.Uint64().Draw(t, "seq")},
		Kind:   graph.Kind(rapid.IntRange(0, 1).Draw(t, "kind")), URI: text.Draw(t, "uri"), Type: text.Draw(t, "type"),
		Version: text.Draw(t, "version"), Hash: text.Draw(t, "hash"), Change: graph.Change(rapid.IntRange(0, 3).Draw(t, "change")),
		Reason:  graph.Reason(rapid.IntRange(0, int(graph.ReasonPeer)).Draw(t, "reason")),
		Rule:    graph.Rule(rapid.IntRange(0, int(graph.RuleChange)).Draw(t, "rule")),
		Lane:    graph.Lane(rapid.IntRange(0, 1).Draw(t, "lane")),
		Cause:   graph.Cause{URI: text.Draw(t, "cause"), ID: text.Draw(t, "id"), At: when.Draw(t, "cause at")},
		Attempt: rapid.IntRange(0, 9).Draw(t, "attempt"), At: when.Draw(t, "at"),
		Buckets: rapid.SliceOf(text).Draw(t, "buckets"),
	}
}

func TestAnyNoticeReadsBackAndStaysOnOneLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := drawAnyNotice(t)
		b := AppendNotice(nil, &n)
		if i := bytes.IndexFunc(b, func(r rune) bool { return unicode.IsControl(r) || r == 0x2028 || r == 0x2029 }); i >= 0 {
			t.Fatalf("a line end or control character at byte %d of %q", i, b)
		}
		var got noticeJSON
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		checkReadBack(t, got, n)
	})
}

func checkReadBack(t *rapid.T, got noticeJSON, n graph.Notice) {
	valid := func(s string) string { return string([]rune(s)) } // each wrong byte is U+FFFD
	for _, c := range []struct{ name, got, want string }{
		{"kind", got.Kind, n.Kind.String()}, {"uri", got.URI, valid(n.URI)}, {"type", got.Type, valid(n.Type)},
		{"version", got.Version, valid(n.Version)}, {"hash", got.Hash, valid(n.Hash)}, {"change", got.Change, n.Change.String()},
		{"reason", got.Reason, n.Reason.String()}, {"rule", got.Rule, n.Rule.String()}, {"lane", got.Lane, n.Lane.String()},
		{"token", got.Token, n.Cursor.String()}, {"buckets", strings.Join(got.Buckets, "\x00"), valid(strings.Join(n.Buckets, "\x00"))},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
	if got.Seq != n.Cursor.Seq || got.Attempt != n.Attempt || !got.At.Equal(n.At) || len(got.Buckets) != len(n.Buckets) {
		t.Errorf("got %+v, want %+v", got, n)
	}
	switch {
	case n.Cause.URI == "":
		if got.Cause != nil {
			t.Errorf("got cause %+v, want none", got.Cause)
		}
	case got.Cause == nil || got.Cause.URI != valid(n.Cause.URI) || got.Cause.ID != valid(n.Cause.ID) || !got.Cause.At.Equal(n.Cause.At):
		t.Errorf("got cause %+v, want %+v", got.Cause, n.Cause)
	}
}

func TestReadersShareTheFrameOfANotice(t *testing.T) {
	var r frameRing
	old, n := goldenNotices()[0], goldenNotices()[0]
	n.Cursor.Seq += sharedFrames
	first := r.of(&n)
	if again := r.of(&n); again != first {
		t.Error("the second reader's frame was made again")
	}
	if f := r.of(&old); f.cursor != old.Cursor {
		t.Errorf("got the frame of %v, want of %v", f.cursor, old.Cursor)
	}
	if again := r.of(&n); again != first {
		t.Error("who catches up took the frame of those who are there")
	}
	large := n
	large.Cursor.Seq++
	large.Buckets = []string{strings.Repeat("x", maxSharedFrame)}
	if kept := r.of(&large); r.of(&large) == kept {
		t.Error("a frame beyond the bound is kept")
	}
}

func TestSharedFramesAreSafeForConcurrentUse(t *testing.T) {
	var r frameRing
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			n := goldenNotices()[0]
			for seq := range uint64(3 * sharedFrames) {
				n.Cursor.Seq = seq
				if f := r.of(&n); f.cursor != n.Cursor {
					t.Errorf("got the frame of %v, want of %v", f.cursor, n.Cursor)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkFrame(b *testing.B) {
	n := goldenNotices()[0]
	b.Run("json", func(b *testing.B) {
		buf := make([]byte, 0, 1024)
		for b.Loop() {
			buf = AppendNotice(buf[:0], &n)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
	})
	b.Run("made", func(b *testing.B) {
		for b.Loop() {
			newFrame(&n)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
	})
	b.Run("shared", func(b *testing.B) {
		var r frameRing
		for b.Loop() {
			r.of(&n)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
	})
}
