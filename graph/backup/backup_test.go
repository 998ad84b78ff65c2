package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/freshwire/freshwire/graph"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options open a store of a test.
func options(fs vfs.FS) graph.Options {
	return graph.Options{FS: fs, Cache: 4 << 20, Work: []string{"html"}}
}

// running opens the store in dir and runs it until the test ends or stop is called.
func running(t *testing.T, fs vfs.FS, dir string) (s *graph.Store, stop func()) {
	t.Helper()
	s, err := graph.Open(dir, options(fs))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

func apply(t *testing.T, s *graph.Store, us ...graph.Update) graph.Cursor {
	t.Helper()
	res, err := s.Apply(context.Background(), "test", us)
	if err != nil {
		t.Fatal(err)
	}
	return res.Cursor
}

func page(n int) string { return fmt.Sprint("https://e.example/", n) }

// pages are updates of primaries and of what is made from them and from a template.
func pages(from, to, version int) (us []graph.Update) {
	for n := from; n < to; n++ {
		v := fmt.Sprint(version)
		us = append(us, graph.Update{URI: page(n), Version: v},
			graph.Update{URI: page(n) + "#html", Type: "html", Hash: v, Deps: []graph.Dep{{URI: page(n), Seen: v}, {URI: "https://e.example/template"}}})
	}
	return us
}

// sound checks what must hold of a store with pages up to n, and reads its journal.
func sound(t *testing.T, s *graph.Store, n int) (journal []graph.Notice) {
	t.Helper()
	for at := s.Oldest(); at != s.Token(); {
		ns, next, err := s.ReadFrom(context.Background(), at, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range ns {
			if one.Cursor.Seq != at.Seq+1 || one.Cursor.Epoch != s.Token().Epoch {
				t.Fatalf("%s follows %s in the journal", one.Cursor, at)
			}
			at = one.Cursor
		}
		journal, at = append(journal, ns...), next
	}
	forward, backward := map[string]bool{}, map[string]bool{}
	for i := range n {
		for _, uri := range []string{page(i), page(i) + "#html"} {
			for _, x := range listed(t, s.Dependencies, uri) {
				forward[uri+" "+x] = true
			}
			for _, d := range listed(t, s.Dependents, uri) {
				backward[d+" "+uri] = true
			}
		}
	}
	// Of the template's dependents only those whose own edges were looked at.
	for _, d := range listed(t, s.Dependents, "https://e.example/template") {
		var i int
		if fmt.Sscanf(d, "https://e.example/%d#html", &i); i < n {
			backward[d+" https://e.example/template"] = true
		}
	}
	if len(forward) != len(backward) {
		t.Errorf("%d edges forward and %d backward", len(forward), len(backward))
	}
	for e := range forward {
		if !backward[e] {
			t.Errorf("the edge %s has no way back", e)
		}
	}
	return journal
}

func listed(t *testing.T, list func(uri, after string, limit int) ([]graph.Item, string, error), uri string) (uris []string) {
	t.Helper()
	for after := ""; ; {
		items, next, err := list(uri, after, 0)
		if err != nil && !errors.Is(err, graph.ErrUnknown) {
			t.Fatal(err)
		}
		for _, i := range items {
			uris = append(uris, i.URI)
		}
		if after = next; next == "" {
			return uris
		}
	}
}

// disks are what a test runs on: in memory, and a real one, whose log is written
// into the space of older ones.
func disks(t *testing.T, test func(t *testing.T, fs vfs.FS, dir string)) {
	t.Run("disk=memory", func(t *testing.T) { test(t, vfs.NewMem(), "") })
	t.Run("disk=real", func(t *testing.T) { test(t, vfs.Default, t.TempDir()) })
}

const (
	publishers = 3
	// rounds bounds what a publisher sends; there are few enough to be compared quickly.
	rounds = 200
	// fan is more than one step of a fan-out.
	fan = 4500
	// looked is of how many pages the edges are compared.
	looked = 100
)

// A promise is a backup, and what had been acknowledged before it was asked for.
type promise struct {
	Backup
	versions [publishers]int64
	newest   graph.Cursor
}

// fanOut starts a fan-out that goes on for minutes.
func fanOut(t *testing.T, s *graph.Store) {
	t.Helper()
	for n := 0; n < fan; n += 500 {
		apply(t, s, pages(n, n+500, 1)...)
	}
	slowed := errors.New("no fan-out")
	for v := 2; slowed != nil; v++ { // it may be over before it is slowed down
		apply(t, s, graph.Update{URI: "https://e.example/template", Version: fmt.Sprint(v)})
		for _, j := range s.Jobs() {
			slowed = s.ControlJob(context.Background(), j.ID, false, 10)
		}
	}
}

func TestABackupUnderHeavyWritesAndAFanOutHoldsAllThatWasAcknowledged(t *testing.T) {
	disks(t, func(t *testing.T, fs vfs.FS, dir string) {
		s, stop := running(t, fs, fs.PathJoin(dir, "store"))
		folder := Folder{fs, fs.PathJoin(dir, "backups")}
		fanOut(t, s)
		var acknowledged [publishers]atomic.Int64
		ctx, enough := context.WithCancel(context.Background())
		var all sync.WaitGroup
		for p := range publishers {
			all.Go(func() {
				for v := 2; ctx.Err() == nil && v < rounds; v++ {
					if _, err := s.Apply(context.Background(), "test", pages(p*10, p*10+10, v)); err != nil {
						t.Errorf("apply: %v", err)
						return
					}
					acknowledged[p].Store(int64(v))
				}
			})
		}
		var made []promise
		for i := range 4 {
			one := promise{newest: s.Token()}
			for p := range publishers {
				one.versions[p] = acknowledged[p].Load()
			}
			var err error
			if one.Backup, err = folder.Create(context.Background(), s, fs.PathJoin(dir, "store"), fmt.Sprint("b", i), time.Now()); err != nil {
				t.Error(err)
			}
			made = append(made, one)
		}
		enough()
		all.Wait()
		if t.Failed() {
			return
		}
		whole := sound(t, s, looked)
		stop()
		for _, one := range made {
			kept(t, fs, folder.path(one.Name), fs.PathJoin(dir, "restored", one.Name), one, whole)
		}
	})
}

// kept restores a backup and compares it with what was promised of it and with the
// journal of the store it was made of.
func kept(t *testing.T, fs vfs.FS, from, to string, one promise, whole []graph.Notice) {
	t.Helper()
	res, err := Restore(context.Background(), fs, from, to, RestoreOptions{Store: options(fs)})
	if err != nil {
		t.Fatal(err)
	}
	at, err := graph.ParseCursor(one.Position)
	if err != nil || at.Seq < one.newest.Seq || at.Epoch == res.Cursor.Epoch || at.Seq != res.Cursor.Seq {
		t.Errorf("the backup is at %s and its store at %s; %s was acknowledged", one.Position, res.Cursor, one.newest)
	}
	s, err := graph.Open(to, options(fs))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	journal := sound(t, s, looked)
	if len(journal) < int(at.Seq) || journal[at.Seq-1].URI != whole[at.Seq-1].URI {
		t.Errorf("the journal has %d notices and ends otherwise than that of the store up to there", len(journal))
	}
	for n := range publishers * 10 {
		r, err := s.Resource(page(n))
		html, err2 := s.Resource(page(n) + "#html")
		var version int64
		fmt.Sscan(r.Version, &version)
		if errors.Join(err, err2) != nil || version < one.versions[n/10] || html.Hash != r.Version {
			t.Errorf("%s is at %q (%v), made as %q; %d was acknowledged", page(n), r.Version, err, html.Hash, one.versions[n/10])
		}
	}
	if jobs := s.Jobs(); len(jobs) != 1 {
		t.Errorf("%d fan-outs go on, want the one that was under way", len(jobs))
	}
}

func TestWhatDidNotChangeIsSharedByBackupsAndOutlivesEachOfThem(t *testing.T) {
	disks(t, func(t *testing.T, fs vfs.FS, dir string) {
		s, _ := running(t, fs, fs.PathJoin(dir, "store"))
		here, there := Folder{fs, fs.PathJoin(dir, "backups")}, Folder{fs, fs.PathJoin(dir, "far", "away")}
		ctx := context.Background()
		var before Backup
		var shared int64
		last := ""
		for i := 0; i < 3 || shared == 0 && i < 20; i++ { // now and then the store merges its tables in between
			name := fmt.Sprint("b", i)
			last = name
			if i < 2 {
				apply(t, s, pages(i*300, i*300+300, 1)...)
			}
			b, err := here.Create(ctx, s, fs.PathJoin(dir, "store"), name, time.Unix(int64(1000+i), 0))
			if err != nil {
				t.Fatal(err)
			}
			var done, total int64
			c, err := there.Copy(ctx, here, name, i == 2, func(d, n int64) { done, total = d, n })
			if err != nil || done != b.Bytes() || total != b.Bytes() {
				t.Errorf("of %d bytes %d of %d are copied: %v", b.Bytes(), done, total, err)
			}
			want := b.Bytes()
			for _, file := range b.Files {
				if isTable(file.Name) && slices.Contains(before.Files, file) {
					want -= file.Size
					shared += file.Size
				}
			}
			if b.Added != c.Added || b.Added != want {
				t.Errorf("backup %s of %d bytes adds %d here and %d there, want %d", name, b.Bytes(), b.Added, c.Added, want)
			}
			before = b
		}
		if shared == 0 {
			t.Error("no table is shared")
		}
		if again, err := there.Copy(ctx, here, "b1", true, nil); err != nil || again.Added != 0 {
			t.Errorf("copied again: %+v, %v", again.Added, err)
		}
		if _, err := here.Create(ctx, s, fs.PathJoin(dir, "store"), "b1", time.Now()); !errors.Is(err, ErrExists) {
			t.Errorf("a second backup of the same name: %v", err)
		}
		for _, f := range []Folder{here, there} {
			removed, err := f.Prune(1)
			if err != nil || len(removed) < 2 || removed[0] != "b0" || removed[1] != "b1" {
				t.Errorf("to keep one, %v are removed: %v", removed, err)
			}
			left, err := f.List()
			if err != nil || len(left) != 1 || left[0].Name != last {
				t.Errorf("%+v are left, %v", left, err)
			}
			if err := Verify(ctx, fs, f.path(last), nil); err != nil {
				t.Error(err)
			}
		}
	})
}

// backedUp is a store in memory with a backup, and what that backup promises.
func backedUp(t *testing.T) (fs *vfs.MemFS, b Backup) {
	t.Helper()
	fs = vfs.NewCrashableMem()
	s, stop := running(t, fs, "data/store")
	for v := range 3 {
		apply(t, s, pages(0, 20, v+1)...)
	}
	b, err := Folder{fs, "data/backups"}.Create(context.Background(), s, "data/store", "b", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	stop()
	return fs, b
}

// edit replaces the content of a file.
func edit(t *testing.T, fs vfs.FS, name string, change func(text []byte) []byte) {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	w, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(change(slices.Clone(text)))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedBackupIsNotRestored(t *testing.T) {
	fs, b := backedUp(t)
	ctx := context.Background()
	damage := map[string]func(t *testing.T, fs vfs.FS){
		"a manifest of a newer format": func(t *testing.T, fs vfs.FS) {
			edit(t, fs, "data/backups/b/backup.json", func(text []byte) []byte {
				return []byte(strings.Replace(string(text), `"format": 1`, `"format": 2`, 1))
			})
		},
		"a manifest cut off": func(t *testing.T, fs vfs.FS) {
			edit(t, fs, "data/backups/b/backup.json", func(text []byte) []byte { return text[:len(text)-3] })
		},
		"a manifest of another position": func(t *testing.T, fs vfs.FS) {
			edit(t, fs, "data/backups/b/backup.json", func(text []byte) []byte {
				return []byte(strings.Replace(string(text), b.Position, b.Position+"0", 1))
			})
		},
		"a manifest that names a file elsewhere": func(t *testing.T, fs vfs.FS) {
			edit(t, fs, "data/backups/b/backup.json", func(text []byte) []byte {
				return []byte(strings.Replace(string(text), b.Files[0].Name, "../../"+b.Files[0].Name, 1))
			})
		},
	}
	for _, f := range b.Files {
		name := "data/backups/b/store/" + f.Name
		damage["a missing "+f.Name] = func(t *testing.T, fs vfs.FS) {
			if err := fs.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		damage["a longer "+f.Name] = func(t *testing.T, fs vfs.FS) {
			edit(t, fs, name, func(text []byte) []byte { return append(text, 0) })
		}
		if f.Size > 0 {
			damage["another byte in "+f.Name] = func(t *testing.T, fs vfs.FS) {
				edit(t, fs, name, func(text []byte) []byte { text[len(text)/2] ^= 1; return text })
			}
			damage["a shorter "+f.Name] = func(t *testing.T, fs vfs.FS) {
				edit(t, fs, name, func(text []byte) []byte { return text[:len(text)-1] })
			}
		}
	}
	for name, spoil := range damage {
		t.Run(name, func(t *testing.T) {
			fs := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng(1)})
			spoil(t, fs)
			for _, link := range []bool{false, true} {
				_, err := Restore(ctx, fs, "data/backups/b", "new/store", RestoreOptions{Store: options(fs), Link: link})
				if bad := (*CorruptError)(nil); !errors.As(err, &bad) {
					t.Errorf("it is restored: %v", err)
				}
				if left, _ := fs.List("new"); len(left) > 0 {
					t.Errorf("it leaves %v behind", left)
				}
			}
		})
	}
	if _, err := Restore(ctx, fs, "data/backups/b", "data/store", RestoreOptions{Store: options(fs)}); !errors.Is(err, ErrOccupied) {
		t.Errorf("it is restored over a store: %v", err)
	}
	if _, err := Restore(ctx, fs, "data/store", "new/store", RestoreOptions{Store: options(fs)}); !errors.Is(err, ErrNone) {
		t.Errorf("what is no backup is restored: %v", err)
	}
}

// eachCrash does something again and again, on a disk that loses power before each
// of its writes, and looks at what is left of it.
func eachCrash(t *testing.T, fs *vfs.MemFS, do func(fs vfs.FS) error, look func(t *testing.T, left *vfs.MemFS)) {
	t.Helper()
	points := 0
	for point := 1; ; point++ {
		disk := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng(1)})
		var seen atomic.Int64
		var left atomic.Pointer[vfs.MemFS]
		err := do(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && seen.Add(1) == int64(point) {
				left.Store(disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (point % 3), RNG: rng(point)}))
			}
			return nil
		})))
		if err != nil {
			t.Fatal(err)
		}
		if left.Load() == nil {
			break
		}
		points++
		t.Run(fmt.Sprint("before write ", point), func(t *testing.T) { look(t, left.Load()) })
	}
	if points < 20 {
		t.Errorf("%d crash points, want more: nothing was tested", points)
	}
}

func TestARestoreThatIsCutOffLeavesNoStoreOrOneInANewEpoch(t *testing.T) {
	fs, b := backedUp(t)
	old, err := graph.ParseCursor(b.Position)
	if err != nil {
		t.Fatal(err)
	}
	there := 0
	for _, link := range []bool{false, true} {
		eachCrash(t, fs, func(fs vfs.FS) error {
			_, err := Restore(context.Background(), fs, "data/backups/b", "new/store", RestoreOptions{Store: options(fs), Link: link})
			return err
		}, func(t *testing.T, left *vfs.MemFS) {
			if err := Verify(context.Background(), left, "data/backups/b", nil); err != nil {
				t.Errorf("the backup suffers: %v", err)
			}
			if _, err := left.Stat("new/store"); err != nil {
				if _, err := Restore(context.Background(), left, "data/backups/b", "new/store", RestoreOptions{Store: options(left), Link: link}); err != nil {
					t.Errorf("it cannot be restored again: %v", err)
				}
				return
			}
			there++
			s, err := graph.Open("new/store", options(left))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got := s.Token(); got.Epoch == old.Epoch || got.Seq < old.Seq {
				t.Errorf("the store is at %s, the backup at %s", got, old)
			}
			sound(t, s, 20)
		})
	}
	if there == 0 {
		t.Error("no crash came after the store had its place")
	}
}

func TestABackupThatIsCutOffIsNone(t *testing.T) {
	fs, _ := backedUp(t)
	look := func(folder string) func(t *testing.T, left *vfs.MemFS) {
		return func(t *testing.T, left *vfs.MemFS) {
			list, err := Folder{left, folder}.List()
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range list {
				if err := Verify(context.Background(), left, folder+"/"+b.Name, nil); err != nil {
					t.Errorf("half a backup passes for one: %v", err)
				}
			}
			if folder == "data/backups" && len(list) == 0 {
				t.Error("an earlier backup is lost")
			}
			s, err := graph.Open("data/store", options(left))
			if err != nil {
				t.Fatal(err)
			}
			sound(t, s, 20)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Run("made", func(t *testing.T) {
		eachCrash(t, fs, func(fs vfs.FS) error {
			s, err := graph.Open("data/store", options(fs))
			if err != nil {
				return err
			}
			_, err = Folder{fs, "data/backups"}.Create(context.Background(), s, "data/store", "c", time.Now())
			return errors.Join(err, s.Close())
		}, look("data/backups"))
	})
	t.Run("copied", func(t *testing.T) {
		eachCrash(t, fs, func(fs vfs.FS) error {
			_, err := Folder{fs, "far/backups"}.Copy(context.Background(), Folder{fs, "data/backups"}, "b", true, nil)
			return err
		}, look("far/backups"))
	})
}

func TestABackupThatFailsLeavesNothingAndTheNextOneClearsUp(t *testing.T) {
	fs := vfs.NewMem()
	s, _ := running(t, fs, "data/store")
	apply(t, s, pages(0, 20, 1)...)
	f := Folder{fs, "data/backups"}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Create(ended, s, "data/store", "a", time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("a backup that was given up: %v", err)
	}
	if err := fs.MkdirAll("data/backups/.part-old/store", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Create(context.Background(), s, "data/store", "b", time.Now()); err != nil {
		t.Fatal(err)
	}
	if names, _ := fs.List("data/backups"); fmt.Sprint(slices.Sorted(slices.Values(names))) != "[.lock b]" {
		t.Errorf("the folder holds %v", names)
	}
	held, err := f.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Create(context.Background(), s, "data/store", "c", time.Now()); !errors.Is(err, ErrBusy) {
		t.Errorf("beside another one: %v", err)
	}
	if err := held(); err != nil {
		t.Error(err)
	}
}

func TestANameIsThatOfAFolderAndNothingElse(t *testing.T) {
	for name, want := range map[string]bool{
		"b": true, "20261122t021249z-5f3a0001-88121": true, "a.b-c": true, strings.Repeat("a", 64): true,
		"": false, ".": false, "..": false, ".a": false, "-a": false, "a/b": false, `a\b`: false, "../a": false, "A": false, "a b": false,
		"a\x00": false, "ä": false, strings.Repeat("a", 65): false, "a:b": false,
	} {
		if got := CheckName(name) == nil; got != want {
			t.Errorf("CheckName(%q) allows it: %t, want %t", name, got, want)
		}
	}
	if name := NameOf(time.Date(2026, 11, 22, 2, 12, 49, 0, time.UTC), graph.Cursor{Epoch: 0x5f3a0001, Seq: 88121}); name != "20261122t021249z-5f3a0001-88121" || CheckName(name) != nil {
		t.Errorf("a backup without a name is called %q", name)
	}
}

func FuzzManifest(f *testing.F) {
	sum := strings.Repeat("0", 64)
	for _, name := range []string{"000004.sst", "../000004.sst", "a/b", "..", ""} {
		f.Add([]byte(`{"format":1,"position":"5f3a0001.1","created":"2026-11-22T02:12:49Z","files":[{"name":"` + name + `","size":1,"sha256":"` + sum + `"}]}`))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("b", 0o755); err != nil {
			t.Fatal(err)
		}
		w, err := fs.Create("b/backup.json", vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(text)
		w.Close()
		m, err := readManifest(fs, "b")
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if fs.PathDir(fs.PathJoin("b", "store", file.Name)) != fs.PathJoin("b", "store") || file.Name == ".." {
				t.Errorf("the manifest names %q", file.Name)
			}
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var back Manifest
		if err := json.Unmarshal(again, &back); err != nil || !slices.Equal(back.Files, m.Files) || back.Position != m.Position {
			t.Errorf("%s reads back as %+v, %v", again, back, err)
		}
	})
}

func rng(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 7)) }
