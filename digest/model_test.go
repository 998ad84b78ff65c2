package digest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/freshwire/freshwire/graph"
)

// modelSeeds is how many random histories are played; SOAK_SEEDS says otherwise.
const modelSeeds = 30

// A world is a hub around an archive: a journal in memory, a clock that is set, a disk
// that loses what was not flushed, and what is right, known from the notices alone.
type world struct {
	t   *testing.T
	rng *rand.Rand
	fs  *vfs.MemFS
	now time.Time

	epoch   graph.Epoch
	oldest  uint64
	journal map[graph.Epoch][]graph.Notice // position n is at index n-1
	public  bool

	a    *Archive
	ch   Channel
	fail atomic.Int64 // operations on the disk until the power is cut; 0 is never, and it stays off after it

	plain bool              // files have no codings, which take most of the time
	seen  map[string]string // files of closed hours that readers saw, with their hashes
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), fs: vfs.NewCrashableMem(), epoch: 7, journal: map[graph.Epoch][]graph.Notice{},
		now: time.Date(2026, 12, 30, 21, 10, 0, 0, time.UTC), public: true, seen: map[string]string{}, plain: seed%8 != 0}
	w.ch = Channel{Name: "all", Born: 3, Read: w.read, Head: w.Token, Public: func(uint64, uint64) bool { return w.public }}
	w.start()
	return w
}

// start opens the archive on what the disk has.
func (w *world) start() {
	w.t.Helper()
	if err := w.fs.MkdirAll("data", 0o755); err != nil {
		w.t.Fatal(err)
	}
	a, err := Open(w.options())
	if err != nil {
		if w.fail.Load() < 0 {
			return // the power went while it was opened
		}
		w.t.Fatal(err)
	}
	if w.a = a; w.plain {
		a.coded = math.MaxInt64
	}
	if a.series["all"] == nil {
		a.series["all"] = a.newSeries("all")
	}
}

func (w *world) options() Options {
	return Options{FS: errorfs.Wrap(w.fs, errorfs.InjectorFunc(w.inject)), Dir: "data/digest", Keys: "data/keys", Clock: func() time.Time { return w.now },
		Journal: w, Channels: func() []Channel { return []Channel{w.ch} }, Base: "https://hub.example/digest", Hub: "https://hub.example/websub",
		Stream: func(ch string, at graph.Cursor) string {
			return "../../v1/stream?channel=" + ch + "&since=" + at.String()
		},
		KeepHours: 40 * time.Hour, KeepRollups: 20 * 24 * time.Hour}
}

var errPower = errors.New("the power was cut")

func (w *world) inject(op errorfs.Op) error {
	left := w.fail.Load()
	for left > 0 && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
		next := left - 1
		if next == 0 {
			next = -1
		}
		if w.fail.CompareAndSwap(left, next) {
			left = next
			break
		}
		left = w.fail.Load()
	}
	if left < 0 {
		return errPower
	}
	return nil
}

func (w *world) notices() []graph.Notice { return w.journal[w.epoch] }

func (w *world) Since(t time.Time) (graph.Cursor, error) {
	i, _ := slices.BinarySearchFunc(w.notices(), t, func(n graph.Notice, t time.Time) int { return n.At.Compare(t) })
	return graph.Cursor{Epoch: w.epoch, Seq: max(uint64(i), w.oldest)}, nil
}
func (w *world) Oldest() graph.Cursor { return graph.Cursor{Epoch: w.epoch, Seq: w.oldest} }
func (w *world) Token() graph.Cursor {
	return graph.Cursor{Epoch: w.epoch, Seq: uint64(len(w.notices()))}
}
func (w *world) Room() error { return nil }

func (w *world) read(after graph.Cursor, limit int) ([]graph.Notice, graph.Cursor, error) {
	if after.Epoch != w.epoch {
		return nil, after, &graph.ResetError{Reason: "epoch"}
	}
	if after.Seq < w.oldest {
		return nil, after, &graph.ResetError{Reason: "trimmed"}
	}
	all := w.notices()
	until := min(after.Seq+uint64(1+w.rng.IntN(limit)), uint64(len(all)))
	return slices.Clone(all[after.Seq:until]), graph.Cursor{Epoch: w.epoch, Seq: until}, nil
}

// write writes some notices, of a commit that may have begun a moment ago.
func (w *world) write() {
	at := w.now
	if all := w.notices(); w.rng.IntN(4) == 0 && len(all) > 0 {
		at = at.Add(-time.Duration(w.rng.IntN(150)) * time.Second)
		if last := all[len(all)-1].At; at.Before(last) {
			at = last
		}
	}
	for range 1 + w.rng.IntN(12) {
		n := graph.Notice{Cursor: graph.Cursor{Epoch: w.epoch, Seq: uint64(len(w.notices()) + 1)}, URI: fmt.Sprintf("https://h%d.example/wiki/P%d", w.rng.IntN(2), w.rng.IntN(25)),
			Kind: graph.Kind(w.rng.IntN(2)), Reason: []graph.Reason{graph.ReasonEdit, graph.ReasonDependency, graph.ReasonRetry}[w.rng.IntN(3)], At: at}
		if n.Kind == graph.KindChanged {
			n.Change, n.Hash, n.Type = graph.Change(1+w.rng.IntN(3)), fmt.Sprintf("h%d", w.rng.IntN(100)), "html"
		}
		if w.rng.IntN(3) > 0 {
			n.Cause = graph.Cause{URI: fmt.Sprintf("https://h0.example/wiki/T%d", w.rng.IntN(20)), At: at.Add(-time.Duration(w.rng.IntN(100)) * time.Minute)}
		}
		w.journal[w.epoch] = append(w.notices(), n)
	}
}

// restore goes on with an older journal in a new epoch, as a hub from a backup does.
func (w *world) restore() {
	old := w.notices()
	keep := old[:int(w.oldest)+w.rng.IntN(len(old)-int(w.oldest)+1)]
	w.epoch++
	w.journal[w.epoch] = slices.Clone(keep)
	for i := range w.journal[w.epoch] {
		w.journal[w.epoch][i].Cursor.Epoch = w.epoch
	}
}

// crash cuts the power and starts again.
func (w *world) crash(lost int) {
	w.fs = w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: lost, RNG: w.rng})
	w.fail.Store(0)
	w.now = w.now.Add(time.Duration(w.rng.IntN(90)) * time.Second)
	w.start()
}

// settle has the archive do what is due. It may be cut off by a crash.
func (w *world) settle() {
	w.t.Helper()
	for range 10_000 {
		wait, err := w.a.series["all"].step(context.Background(), &w.ch)
		w.look()
		if w.fail.Load() < 0 {
			return
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if wait > 0 {
			return
		}
	}
	w.t.Fatal("the archive has no end of work")
}

// look is what a reader does who remembers all it saw: nothing of it may ever change.
func (w *world) look() {
	w.t.Helper()
	if w.fail.Load() != 0 {
		return // a disk that is about to fail is no disk to read
	}
	s := w.a.series["all"]
	h := s.now()
	if h == nil {
		return
	}
	for _, c := range slices.Concat(h.hours[max(0, len(h.hours)-3):], h.rollups[Day], h.rollups[Week]) {
		names, err := w.fs.List(path.Join(s.dir, c.folder))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, name := range names {
			if _, err := w.a.Find("all", c.folder+name, false); err != nil {
				w.t.Fatalf("%s%s: %v", c.folder, name, err)
			}
			b, err := disk{w.fs}.read(path.Join(s.dir, c.folder, name))
			if err != nil {
				w.t.Fatal(err)
			}
			sum := sha256.Sum256(b)
			if was, ok := w.seen[c.folder+name]; ok && was != hex.EncodeToString(sum[:]) {
				w.t.Fatalf("%s%s has changed", c.folder, name)
			}
			w.seen[c.folder+name] = hex.EncodeToString(sum[:])
		}
	}
}

// naive adds up what was written in positions of an epoch, as simply as can be.
func (w *world) naive(epoch graph.Epoch, after, until uint64, from time.Time) map[string]Entry {
	all := map[string]Entry{}
	began := map[string]bool{}
	causes := map[string]map[string]bool{}
	for _, n := range w.journal[epoch][after:until] {
		e, again := all[n.URI]
		if !again {
			e.URI, e.First = n.URI, n.At
			began[n.URI], causes[n.URI] = n.Change == graph.ChangeCreated, map[string]bool{}
		}
		e.Count++
		e.Last, e.Offset, e.Reason, e.Cause, e.Hash, e.Type = n.At, n.Cursor.Seq, n.Reason.String(), n.Cause.URI, n.Hash, n.Type
		e.Late = e.Late || n.At.Before(from) || n.Cause.URI != "" && n.Cause.At.Before(from)
		if n.Cause.URI != "" {
			causes[n.URI][n.Cause.URI] = true
		}
		switch {
		case n.Change == graph.ChangeDeleted:
			e.Change = Deleted
		case began[n.URI]:
			e.Change = Created
		default:
			e.Change = Updated
		}
		e.Transient = e.Change == Deleted && began[n.URI]
		e.Causes = nil
		if len(causes[n.URI]) > 1 || len(causes[n.URI]) == 1 && !causes[n.URI][e.Cause] {
			for c := range causes[n.URI] {
				e.Causes = append(e.Causes, c)
			}
			slices.Sort(e.Causes)
			e.Causes = e.Causes[:min(MaxCauses, len(e.Causes))]
		}
		all[n.URI] = e
	}
	return all
}

// check compares all that is kept with what is right.
func (w *world) check() {
	w.t.Helper()
	s := w.a.series["all"]
	h := s.now()
	if h == nil {
		return
	}
	d := disk{w.fs}
	var state State
	b, err := d.read(path.Join(s.dir, stateFile))
	if err != nil || json.Unmarshal(b, &state) != nil {
		w.t.Fatalf("state.json: %v", err)
	}
	var before *Manifest
	var beforeSum string
	for i, c := range h.hours {
		m, sum := w.manifest(s, c.folder)
		want := w.naiveOf(m)
		w.compare(s, c.folder, m, want)
		if before != nil {
			if m.Seq != before.Seq+1 || !m.From.Equal(before.Until) || m.Prev == nil || m.Prev.SHA256 != beforeSum || m.Prev.Seq != before.Seq {
				w.t.Fatalf("hour %d does not follow hour %d", m.Seq, before.Seq)
			}
			if m.Epoch == before.Epoch && m.FirstOffset != before.LastOffset+1 {
				w.t.Fatalf("hour %d begins at %d, and the one before ends at %d", m.Seq, m.FirstOffset, before.LastOffset)
			}
			if m.Epoch != before.Epoch && m.Reason != Reconcile {
				w.t.Fatalf("hour %d is of another epoch and does not say so", m.Seq)
			}
		}
		if m.Complete != (m.Reason == "") {
			w.t.Fatalf("hour %d: complete %v for reason %q", m.Seq, m.Complete, m.Reason)
		}
		before, beforeSum = m, sum
		if i == len(h.hours)-1 && (state.ManifestSHA256 != sum || state.Seq != m.Seq || state.Cursor != m.Epoch+"."+strconv.FormatUint(m.LastOffset, 10)) {
			w.t.Fatalf("state.json does not name hour %d", m.Seq)
		}
	}
	for _, p := range []Period{Day, Week} {
		for _, c := range h.rollups[p] {
			w.checkRollup(s, h, p, c)
		}
	}
}

// checkRollup compares one with the notices of its hours, as far as these are kept.
func (w *world) checkRollup(s *series, h *head, p Period, c *closed) {
	w.t.Helper()
	m, _ := w.manifest(s, c.folder)
	if m.FirstSeq < h.hours[0].Seq {
		return
	}
	want, known := map[string]Entry{}, true
	var before Manifest
	for _, hour := range h.hours {
		if hour.Seq < m.FirstSeq || hour.Seq > m.Seq {
			continue
		}
		before = *hour.Manifest
		known = known && hour.Reason != Trimmed
		part := w.naiveOf(hour.Manifest)
		for uri, next := range part {
			e, ok := want[uri]
			if !ok {
				want[uri] = next
				continue
			}
			began := e.Change == Created || e.Transient
			union := map[string]bool{}
			for _, one := range []Entry{e, next} {
				if one.Cause != "" {
					union[one.Cause] = true
				}
				for _, cause := range one.Causes {
					union[cause] = true
				}
			}
			next.Count, next.First, next.Late = next.Count+e.Count, e.First, e.Late || next.Late
			next.Transient = false
			if next.Change != Deleted {
				next.Change = Updated
				if began {
					next.Change = Created
				}
			} else {
				next.Transient = began
			}
			next.Causes = nil
			if len(union) > 1 || len(union) == 1 && !union[next.Cause] {
				for cause := range union {
					next.Causes = append(next.Causes, cause)
				}
				slices.Sort(next.Causes)
				next.Causes = next.Causes[:min(MaxCauses, len(next.Causes))]
			}
			want[uri] = next
		}
	}
	if m.Seq != before.Seq || m.Through.SHA256 == "" {
		w.t.Fatalf("%s ends with hour %d", c.folder, m.Seq)
	}
	if !known {
		want = nil
	}
	w.compare(s, c.folder, m, want)
}

func (w *world) naiveOf(m *Manifest) map[string]Entry {
	epoch, err := strconv.ParseUint(m.Epoch, 16, 32)
	if err != nil {
		w.t.Fatal(err)
	}
	after := m.FirstOffset - 1
	if m.Reason == Trimmed {
		return nil // what was lost only the store knows
	}
	return w.naive(graph.Epoch(epoch), after, m.LastOffset, m.From)
}

// manifest reads and verifies the manifest of a digest, with code of its own.
func (w *world) manifest(s *series, folder string) (*Manifest, string) {
	w.t.Helper()
	d := disk{w.fs}
	b, err := d.read(path.Join(s.dir, folder, manifestFile))
	if err != nil {
		w.t.Fatal(err)
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		w.t.Fatal(err)
	}
	text, err := d.read(path.Join(s.dir, folder, manifestFile+sigSuffix))
	if err != nil {
		w.t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	i := slices.IndexFunc(m.Keys, func(k Key) bool { return k.ID == m.Key })
	if err != nil || i < 0 || !ed25519.Verify(m.Keys[i].Public, b, sig) {
		w.t.Fatalf("%s is not signed by %s", folder, m.Key)
	}
	sum := sha256.Sum256(b)
	return m, hex.EncodeToString(sum[:])
}

// compare reads the files of a digest and holds them against what is right; a nil map is
// not known.
func (w *world) compare(s *series, folder string, m *Manifest, want map[string]Entry) {
	w.t.Helper()
	d := disk{w.fs}
	var entries, count uint64
	last := ""
	per := map[string]uint64{}
	for _, f := range m.Files {
		b, err := d.read(path.Join(s.dir, folder, f.Href))
		sum := sha256.Sum256(b)
		if err != nil || int64(len(b)) != f.Size || hex.EncodeToString(sum[:]) != f.SHA256 {
			w.t.Fatalf("%s%s is not what the manifest says: %v", folder, f.Href, err)
		}
		per[f.Role] += f.Entries
		if f.Role != RoleNDJSON {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
			var e Entry
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				w.t.Fatal(err)
			}
			if e.URI <= last {
				w.t.Fatalf("%s%s: %s after %s", folder, f.Href, e.URI, last)
			}
			last = e.URI
			entries++
			count += e.Count
			if wanted, ok := want[e.URI]; want != nil && (!ok || fmt.Sprint(wanted) != fmt.Sprint(e)) {
				w.t.Fatalf("%s%s has\n%+v\nand not\n%+v", folder, f.Href, e, wanted)
			}
		}
	}
	if want != nil && entries != uint64(len(want)) || m.Entries != entries || m.Notices != count {
		w.t.Fatalf("%s has %d entries of %d notices, and says %d of %d; there are %d", folder, entries, count, m.Entries, m.Notices, len(want))
	}
	for role, n := range per {
		if n != entries {
			w.t.Fatalf("%s has %d entries as %s, and %d lines", folder, n, role, entries)
		}
	}
}

// TestAnyHistoryGivesTheDigestsOfANaiveModel plays notices at random times, hubs that are
// off, journals that are trimmed and restored, and power cuts at each step.
func TestAnyHistoryGivesTheDigestsOfANaiveModel(t *testing.T) {
	seeds, first := modelSeeds, 1
	for name, into := range map[string]*int{"SOAK_SEEDS": &seeds, "SOAK_SEED": &first} {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			*into = n
		}
	}
	for seed := first; seed < first+seeds; seed++ {
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { playHistory(newWorld(t, uint64(seed))) }) {
			return
		}
	}
}

func playHistory(w *world) {
	for range 60 {
		switch n := w.rng.IntN(100); {
		case n < 45:
			w.write()
		case n < 75:
			w.now = w.now.Add(time.Duration(w.rng.IntN(40)) * time.Minute)
		case n < 80:
			w.now = w.now.Add(time.Duration(w.rng.IntN(30)) * time.Hour)
		case n < 90: // the next step of the builder is cut off
			w.fail.Store(1 + w.rng.Int64N(120))
		case n < 93: // the hub is off for a while
			w.now = w.now.Add(time.Duration(w.rng.IntN(300)) * time.Minute)
			w.crash(w.rng.IntN(101))
		case n < 95:
			w.oldest = min(w.oldest+uint64(w.rng.IntN(10)), uint64(len(w.notices())))
		case n < 97:
			w.restore()
			w.crash(100)
		default:
			w.public = !w.public
		}
		w.settle()
		for w.fail.Load() < 0 {
			if w.crash(w.rng.IntN(101)); w.rng.IntN(3) == 0 {
				w.fail.Store(1 + w.rng.Int64N(60))
			}
			w.settle()
		}
		if w.fail.Load() == 0 {
			w.check()
		}
	}
	w.fail.Store(0)
	w.now = w.now.Add(2 * time.Hour)
	w.settle()
	w.check()
}
