package graph

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// specimen is a store that has something of everything, closed, on a disk that is
// copied for each test.
type specimen struct {
	t     *testing.T
	fs    *vfs.MemFS
	o     Options
	at    int64 // µs
	uris  []string
	ids   map[string]ID // by short name
	chunk uint64        // position of a chunk that nothing but its own resource asks for
}

// newSpecimen makes it. H is hot and about to be told of, D and W are ready, the one
// told and the other to be told, P is claimed, Q waits for D, M is ahead of Z.
func newSpecimen(t *testing.T) *specimen {
	g := newRig(t, Options{chunk: 500, TailBytes: 1, Work: []string{"html"}})
	gone := []Dep{saw("X", "10")}
	for i := range hotAt + 200 { // more ids are free than the rest takes
		gone = append(gone, saw(fmt.Sprint("gone", i), "0"))
	}
	g.render("O", "", "o", g.token(), gone...)
	g.render("O", "", "o", g.token(), saw("X", "10"))
	g.days(40)
	for _, name := range []string{"X", "Y", "Y2", "V", "Z", "H", "lone"} {
		g.edit(name, "10", "a")
	}
	hot := func(hash string) {
		var us []Update
		for i := range hotAt + 50 {
			us = append(us, Update{URI: named(fmt.Sprint("h", i)), Type: "thumb", Hash: hash, Token: g.token(), Deps: []Dep{saw("H", "10")}})
		}
		g.apply(us...)
	}
	for i := range 4 { // a whole block of the journal
		hot(fmt.Sprint(i))
		g.wait(time.Second)
	}
	s := &specimen{t: t, ids: map[string]ID{}}
	s.chunk = g.edit("lone", "11", "b").Cursor.Seq
	g.edit("lone", "12", "c")
	for _, name := range []string{"D", "C"} {
		g.apply(Update{ID: g.nextID(), URI: named(name), Type: "html", Hash: "d", Token: g.token(), Deps: []Dep{saw("X", "10"), saw("Y", "10")}, Buckets: []string{"group"}})
	}
	g.apply(Update{ID: g.nextID(), URI: named("E"), Type: "html", Hash: "e", Token: g.token(), Expires: g.now().Add(240 * time.Hour), Deps: []Dep{saw("Y", "10")}})
	g.render("R", "", "r", g.token(), saw("E", "e"))
	g.render("T", "", "t", g.token(), Dep{URI: "ticker:P9D"})
	g.render("P", "", "p", g.token(), saw("Y2", "10"))
	g.render("M", "", "m", g.token(), saw("Z", "20"))
	g.apply(Update{ID: g.nextID(), URI: named("W"), Type: "html", Hash: "w", At: g.now().Add(time.Minute), Deps: []Dep{saw("V", "")}})
	g.editList(ListEdit{List: 1, Add: []string{named("X"), named("D")}, Key: "one", Record: func(Cursor) []byte { return []byte("1") }})
	for at, p := g.s.Oldest(), (&Pick{Keys: [][]Key{{HostKey("wiki.example")}}}); at != g.token(); {
		_, next, err := g.s.Scan(p, at, 1000)
		if err != nil {
			t.Fatal(err)
		}
		at = next
	}
	g.wait(time.Second)
	for _, name := range []string{"X", "Y2", "V"} {
		g.edit(name, "11", "b")
	}
	g.render("C", "", "c", g.token(), saw("X", "11"), saw("Y", "10"))
	g.render("Q", "", "q", g.token(), saw("D", "d"))
	g.claim(named("P"), time.Hour)
	g.edit("H", "11", "b")
	g.close()
	s.fs, s.o, s.at = g.fs.CrashClone(vfs.CrashCloneCfg{}), g.o, g.clock.Load()
	g.open()
	s.learn(g)
	return s
}

// learn notes who is in the store.
func (s *specimen) learn(g *rig) {
	err := g.s.scan(spaceName, func(k, v []byte) error {
		s.ids[strings.TrimPrefix(string(v), named(""))] = parseID(k[1:])
		s.uris = append(s.uris, string(v))
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// raw gives f a copy of the store to damage, and returns it.
func (s *specimen) raw(t *testing.T, f func(db *pebble.DB, b *pebble.Batch)) *vfs.MemFS {
	t.Helper()
	fs := s.fs.CrashClone(vfs.CrashCloneCfg{})
	o := pebbleOptions(&Options{FS: fs, Cache: rigCache, Log: newStore(Options{}).log})
	o.MemTableSize = checkMemTable
	db, err := pebble.Open("store", o)
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch()
	f(db, b)
	if err := errors.Join(b.Commit(pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	return fs
}

// rig opens a copy of the store.
func (s *specimen) rig(t *testing.T, fs *vfs.MemFS) *rig {
	t.Helper()
	o := s.o
	o.Work = nil // retries tell nothing new, of thousands
	g := &rig{t: t, fs: fs, o: o, clock: &atomic.Int64{}, epoch: rigEpoch, unchecked: true}
	g.clock.Store(s.at)
	g.open()
	t.Cleanup(g.close)
	g.s.epoch = rigEpoch // a repair may have given it another
	g.heard = []Notice{{Cursor: g.s.Token(), At: timeOf(g.s.now)}}
	return g
}

// afterwards is who is to be made again when everything was edited once more, with
// what it is made from.
func (s *specimen) afterwards(t *testing.T, fs *vfs.MemFS) (ready map[string]bool, edges map[string][]string) {
	t.Helper()
	g := s.rig(t, fs)
	ready, edges = map[string]bool{}, map[string][]string{}
	g.drain()
	for _, name := range []string{"X", "Y", "Y2", "V", "Z", "H"} {
		g.edit(name, "30", "new")
	}
	g.wait(11 * 24 * time.Hour)
	for i, uri := range s.uris {
		if i%20 == 0 || !strings.HasPrefix(uri, named("h")) {
			ready[uri] = g.resource(uri).State == Ready
		}
	}
	for _, name := range s.names() {
		edges[named(name)] = g.dependents(named(name))
	}
	return ready, edges
}

// damage is one way in which a store can be wrong.
type damage struct {
	name string
	do   func(s *specimen, db *pebble.DB, b *pebble.Batch)
	want []string // "key: what is wrong", a part of each; %X stands for the id of X
	left int      // how many of them are not derivable
	lost bool     // positions that were given, so that the repair gives a new epoch
}

// state sets the word of a resource.
func (s *specimen) state(db *pebble.DB, b *pebble.Batch, name string, change func(w word) word) {
	id := s.ids[name]
	v, closer, err := db.Get(pageKey(uint32(id / pageSize)))
	check(err)
	var words [pageSize]uint16
	check(errors.Join(decodePage(v, &words), closer.Close()))
	w := change(word(words[id%pageSize]))
	check(b.Merge(pageKey(uint32(id/pageSize)), appendPageOps(nil, []pageOp{{uint16(id % pageSize), uint16(w)}}), nil))
}

// row changes the row of a resource.
func (s *specimen) row(db *pebble.DB, b *pebble.Batch, name string, change func(r *row)) {
	r, err := readRow(db, s.ids[name])
	check(err)
	change(r)
	check(b.Set(idKey(spaceRow, r.id), r.append(nil), nil))
}

// edge changes a posting list.
func (s *specimen) edge(b *pebble.Batch, key []byte, id ID, add bool) {
	check(b.Merge(key, appendPostingOps(nil, []postingOp{{uint64(id), add}}), nil))
}

// drop deletes the keys of a prefix for which ok holds.
func (s *specimen) drop(db *pebble.DB, b *pebble.Batch, prefix []byte, ok func(k, v []byte) bool) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	check(err)
	n := 0
	for it.First(); it.Valid(); it.Next() {
		if ok(it.Key(), it.Value()) {
			check(b.Delete(bytes.Clone(it.Key()), nil))
			n++
		}
	}
	check(errors.Join(it.Error(), it.Close()))
	if n == 0 {
		s.t.Errorf("there is nothing to drop under %q", prefix)
	}
}

// timers drops those of a kind and a resource.
func (s *specimen) timers(db *pebble.DB, b *pebble.Batch, kind timerKind, name string) {
	s.drop(db, b, []byte{spaceTimer}, func(k, v []byte) bool {
		m, err := decodeTimer(k, v)
		check(err)
		return m.kind == kind && m.chunk.ids[0] == s.ids[name]
	})
}

// names are those of all but the many that depend on H.
func (s *specimen) names() (names []string) {
	for name := range s.ids {
		if !strings.HasPrefix(name, "h") {
			names = append(names, name)
		}
	}
	return names
}

func (s *specimen) spell(want string) string {
	for _, name := range s.names() {
		want = strings.ReplaceAll(want, "{"+name+"}", fmt.Sprint(s.ids[name]))
	}
	return strings.ReplaceAll(want, "{chunk}", fmt.Sprint(s.chunk))
}

func checkStore(t *testing.T, fs vfs.FS, repair bool) Report {
	t.Helper()
	rep, err := Check(context.Background(), "store", CheckOptions{FS: fs, Cache: rigCache, Repair: repair})
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return rep
}

func TestACheckFindsEachDamageAndARepairUndoesIt(t *testing.T) {
	s := newSpecimen(t)
	soundStore(t, s.fs)
	ready, edges := s.afterwards(t, s.fs.CrashClone(vfs.CrashCloneCfg{}))
	for i, d := range slices.Concat(damagedNames, damagedEdges, damagedStates, damagedJournal, damagedLists, damagedAccounts) {
		if raceDetector && i%6 > 0 {
			continue // a check has one goroutine, and each of these opens six stores
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			fs := s.raw(t, func(db *pebble.DB, b *pebble.Batch) { d.do(s, db, b) })
			rep := checkStore(t, fs, false)
			matches(t, s, rep.Findings, d.want)
			if rep.Found != len(d.want) || rep.Left != rep.Found {
				t.Errorf("%d found and %d left, want %d", rep.Found, rep.Left, len(d.want))
			}
			rep = checkStore(t, fs, true)
			if rep.NewEpoch != d.lost {
				t.Errorf("the repair gave a new epoch: %t, want %t", rep.NewEpoch, d.lost)
			}
			if rep.Left != d.left {
				t.Errorf("after the repair %d are left, want %d: %+v", rep.Left, d.left, rep.Findings)
			}
			if d.left > 0 {
				if rep = checkStore(t, fs, false); rep.Found != d.left {
					t.Errorf("after the repair %+v, want %d", rep.Findings, d.left)
				}
				return
			}
			soundStore(t, fs)
			gotReady, gotEdges := s.afterwards(t, fs)
			for _, uri := range s.uris {
				if ready[uri] && !gotReady[uri] {
					t.Errorf("%s is not to be made again, and without the damage it is", uri)
				}
			}
			if !reflect.DeepEqual(edges, gotEdges) {
				t.Errorf("dependents are %v, and without the damage %v", gotEdges, edges)
			}
		})
	}
}

func TestARepairThatWasCutOffIsStartedAgain(t *testing.T) {
	s := newSpecimen(t)
	fs := s.raw(t, func(db *pebble.DB, b *pebble.Batch) {
		for _, d := range slices.Concat(damagedNames[:4], damagedEdges[5:8], damagedLists[:5]) {
			d.do(s, db, b)
		}
		check(b.Set(pageKey(0), garbage, nil))
		s.row(db, b, "lone", func(r *row) { r.changed = 777777 })
	})
	rng := rand.New(rand.NewPCG(1, 9))
	var cuts []*vfs.MemFS
	o := CheckOptions{FS: fs, Cache: rigCache, Repair: true, Memory: 64 << 10, Progress: func(CheckProgress) {
		cuts = append(cuts, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng}))
	}}
	rep, err := Check(context.Background(), "store", o)
	if err != nil || rep.Found < 10 || rep.Left > 0 || !rep.NewEpoch {
		t.Fatalf("%v, %d found, %d left, a new epoch: %t", err, rep.Found, rep.Left, rep.NewEpoch)
	}
	soundStore(t, fs)
	for i, cut := range cuts {
		if raceDetector && i%4 > 0 {
			continue
		}
		if rep := checkStore(t, cut, true); rep.Left > 0 {
			t.Errorf("%d are left: %+v", rep.Left, rep.Findings)
		}
		soundStore(t, cut)
	}
}

func TestAReportIsBounded(t *testing.T) {
	s := newSpecimen(t)
	fs := s.raw(t, func(_ *pebble.DB, b *pebble.Batch) {
		check(b.DeleteRange([]byte{spaceURI}, []byte{spaceURI + 1}, nil))
	})
	for _, repair := range []bool{false, true} {
		rep, err := Check(context.Background(), "store", CheckOptions{FS: fs, Cache: rigCache, Findings: 10, Repair: repair})
		if err != nil || len(rep.Findings) != 10 || rep.Found != len(s.uris) || rep.Left > 0 == repair {
			t.Errorf("repair %t: %v, %d listed of %d, %d left; want 10 of %d", repair, err, len(rep.Findings), rep.Found, rep.Left, len(s.uris))
		}
	}
	soundStore(t, fs)
}

// matches fails unless findings are those that are wanted, in any order.
func matches(t *testing.T, s *specimen, got []Finding, want []string) {
	t.Helper()
	rest := slices.Clone(got)
	for _, w := range want {
		w = s.spell(w)
		i := slices.IndexFunc(rest, func(f Finding) bool { return strings.Contains(f.Key+": "+f.Wrong, w) })
		if i < 0 {
			t.Errorf("nothing found like %q", w)
			continue
		}
		rest = slices.Delete(rest, i, i+1)
	}
	for _, f := range rest[:min(len(rest), 5)] {
		t.Errorf("found %+v", f)
	}
}

var garbage = []byte{0xff, 0xff}

var damagedNames = []damage{
	{name: "a URI leads to nobody", want: []string{`U "https://wiki.example/X": its URI does not lead to it`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Delete(uriKey(named("X")), nil)) }},
	{name: "a URI leads to another", want: []string{`U "https://wiki.example/X": its URI does not lead to it`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(uriKey(named("X")), appendID(nil, s.ids["Y"]), nil))
		}},
	{name: "what a URI leads to is no id", want: []string{`U "https://wiki.example/X": it is no id`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(uriKey(named("X")), garbage, nil)) }},
	{name: "a URI leads to who has another name", want: []string{`U "ghost": it leads to resource {X}`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(uriKey("ghost"), appendID(nil, s.ids["X"]), nil))
		}},
	{name: "a name is lost", want: []string{`I {X}: it has no name, and https://wiki.example/X leads to it`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Delete(idKey(spaceName, s.ids["X"]), nil)) }},
	{name: "two have one name", want: []string{`its URI is that of resource`, `U "https://wiki.example/lone"`}, left: 1,
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(idKey(spaceName, s.ids["lone"]), []byte(named("X")), nil))
		}},
	{name: "an id in use is free", want: []string{`N {X}: it is said to be free`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(idKey(spaceFree, s.ids["X"]), nil, nil)) }},
	{name: "a free id is lost", want: []string{`the id is nobody's, and not free`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			check(b.Delete(idKey(spaceFree, s.free(db)), nil))
		}},
	{name: "a free id has a row", want: []string{`the id is free, and there is a row of it`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { check(b.Set(idKey(spaceRow, s.free(db)), nil, nil)) }},
	{name: "the next id is far beyond the last", want: []string{`M "nextid": it is 1152921504606846976`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(metaKey(metaNextID), binary.BigEndian.AppendUint64(nil, 1<<60), nil))
		}},
	{name: "there is no epoch", lost: true, want: []string{`M "epoch": the store has no epoch`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Delete(metaKey(metaEpoch), nil)) }},
	{name: "there is no format", want: []string{`M "format": the store has no format`}, left: 1,
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Delete(metaKey(metaFormat), nil)) }},
	{name: "a single value that nobody asks for", want: []string{`M "what"`}, left: 1,
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(metaKey("what"), garbage, nil)) }},
	{name: "a space that nobody knows", want: []string{`"\xe7x": no space begins like this`}, left: 1,
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set([]byte("\xe7x"), garbage, nil)) }},
	{name: "an idempotency key that is cut off", want: []string{`no key of this space has 3 bytes`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set([]byte("Kxx"), nil, nil)) }},
	{name: "somebody who does not exist is to be collected", want: []string{`O 1 777777: resource 777777`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(orphanKey(1, 777777), nil, nil)) }},
}

// free is an id that is.
func (s *specimen) free(db *pebble.DB) (id ID) {
	s.drop(db, db.NewBatch(), []byte{spaceFree}, func(k, _ []byte) bool {
		id = parseID(k[1:])
		return true
	})
	return id
}

var damagedEdges = []damage{
	{name: "a row does not decode", want: []string{`F {C}: the row does not decode`}, left: 1,
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(idKey(spaceRow, s.ids["C"]), garbage, nil))
		}},
	{name: "a dependency does not exist", want: []string{`F {C}: it depends on resource 777777`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.row(db, b, "C", func(r *row) { r.setDeps(append(r.depIDs(), 777777)) })
			s.edge(b, idKey(spacePosting, 777777), s.ids["C"], true)
		}},
	{name: "an artefact depends on itself", want: []string{`F {R}: it depends on itself`, `others depend on it`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.row(db, b, "R", func(r *row) { r.setDeps(append(r.depIDs(), r.id)) })
			s.edge(b, idKey(spacePosting, s.ids["R"]), s.ids["R"], true)
		}},
	{name: "a dependent is lost", want: []string{`R {X}: its row depends on https://wiki.example/X, which does not list it`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.edge(b, idKey(spacePosting, s.ids["X"]), s.ids["C"], false)
		}},
	{name: "a dependent is none", want: []string{`R {X}: https://wiki.example/M is listed as a dependent`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.edge(b, idKey(spacePosting, s.ids["X"]), s.ids["M"], true)
		}},
	{name: "a dependent of many is lost", want: []string{`R {H} 0: its row depends on https://wiki.example/H`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.edge(b, bucketKey(s.ids["H"], 0), s.ids["h7"], false)
		}},
	{name: "a dependent of many is none", want: []string{`R {H} 0: https://wiki.example/C is listed`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.edge(b, bucketKey(s.ids["H"], 0), s.ids["C"], true)
		}},
	{name: "dependents do not decode", want: []string{`R {X}: its dependents do not decode`, `nobody depends on it`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(idKey(spacePosting, s.ids["X"]), garbage, nil))
		}},
	{name: "a bucket of dependents does not decode", want: []string{`R {H} 0: its dependents do not decode`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(bucketKey(s.ids["H"], 0), garbage, nil)) }},
	{name: "few dependents are said to be many", want: []string{`its dependents are in one block, and its state says otherwise`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "X", func(w word) word { return w | wordHot })
		}},
	{name: "many dependents are said to be few", want: []string{`its dependents are in buckets, and its state says otherwise`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "H", func(w word) word { return w &^ wordHot })
		}},
	{name: "a block beside buckets", want: []string{`R {H}: its dependents are in buckets, and there is one block as well`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.edge(b, idKey(spacePosting, s.ids["H"]), s.ids["h7"], true)
		}},
	{name: "buckets beside a block", want: []string{`R {X}: its dependents are in one block, and there are buckets as well`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.edge(b, bucketKey(s.ids["X"], 0), s.ids["h7"], true)
		}},
	{name: "too many dependents are in one block", want: []string{`R {H}: 2098 dependents are in one block`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			v, closer, err := db.Get(bucketKey(s.ids["H"], 0))
			check(err)
			ids, err := decodeBucket(v, 0, nil)
			check(errors.Join(err, closer.Close()))
			check(b.Set(idKey(spacePosting, s.ids["H"]), appendPosting(nil, ids), nil))
			check(b.Delete(bucketKey(s.ids["H"], 0), nil))
			s.state(db, b, "H", func(w word) word { return w &^ wordHot })
		}},
	{name: "a marker is lost", want: []string{`A {Z} {M}: its row says that it is ahead`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Delete(markerKey(s.ids["Z"], s.ids["M"]), nil))
		}},
	{name: "a marker that no row has", want: []string{`A {X} {C}: a marker says that it is ahead`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(markerKey(s.ids["X"], s.ids["C"]), []byte("99"), nil))
		}},
	{name: "a marker on what is no dependency", want: []string{`F {M}: it is ahead of what it does not depend on`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.row(db, b, "M", func(r *row) { r.ahead = append(r.ahead, s.ids["X"]) })
			check(b.Set(markerKey(s.ids["X"], s.ids["M"]), []byte("99"), nil))
		}},
	{name: "a marker on what was caught up with", want: []string{`A {Z} {M}: it is said to be ahead of https://wiki.example/Z, which is what it saw`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(markerKey(s.ids["Z"], s.ids["M"]), []byte("10"), nil))
		}},
	{name: "who carries a grouping key is not listed", want: []string{`B "group" 0: it carries the grouping key group`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { s.edge(b, groupKey("group", 0), s.ids["C"], false) }},
	{name: "who does not carry a grouping key is listed", want: []string{`B "group" 0: it is listed under the grouping key group`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { s.edge(b, groupKey("group", 0), s.ids["M"], true) }},
	{name: "a grouping key does not decode", want: []string{`B "group" 0: who carries the grouping key does not decode`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(groupKey("group", 0), garbage, nil)) }},
}

var damagedStates = []damage{
	{name: "states do not decode", want: []string{`S 0: the states of 1,024 resources do not decode`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(pageKey(0), garbage, nil)) }},
	{name: "states of nobody", want: []string{`S 777: it holds states of who does not exist`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Merge(pageKey(777), appendPageOps(nil, []pageOp{{1, 1}}), nil))
		}},
	{name: "a state of a free id", want: []string{`S 0: it holds a state of resource`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			check(b.Merge(pageKey(0), appendPageOps(nil, []pageOp{{uint16(s.free(db)), 1}}), nil))
		}},
	{name: "there is no such state", want: []string{`there is no state 7`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "C", func(w word) word { return w.withState(7) })
		}},
	{name: "what is known is a stub", want: []string{`it is a stub, and its content is known`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "C", func(w word) word { return w.withState(Stub) })
		}},
	{name: "a primary that is known is a stub", want: []string{`it is a stub, and its content is known`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "X", func(w word) word { return w.withState(Stub) })
		}},
	{name: "what is not known is clean", want: []string{`it is clean, and its content is not known`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.row(db, b, "lone", func(r *row) { r.set(rowKnown, false) })
		}},
	{name: "clean and stale", want: []string{`it is clean and stale`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "C", func(w word) word { return w | wordStale })
		}},
	{name: "clean and failed", want: []string{`it is clean, with what does not belong to that`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "C", func(w word) word { return w | wordFailed })
		}},
	{name: "it waits for nobody", want: []string{`it waits, and there is nobody to wait for`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "C", func(w word) word { return w.withState(Dirty) })
		}},
	{name: "ready without a notice", want: []string{`it is ready, and nobody was told`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "C", func(w word) word { return w.withState(Ready) | wordStale })
		}},
	{name: "the timer of a notice is lost", want: []string{`it is ready and to be told later, and there is no timer`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { s.timers(db, b, timerNotice, "W") }},
	{name: "the timer of a claim is lost", want: []string{`a worker holds it, and there is no timer`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { s.timers(db, b, timerLease, "P") }},
	{name: "a claim without a lease", want: []string{`a worker holds it, without a lease`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { s.row(db, b, "P", func(r *row) { r.lease = 0 }) }},
	{name: "damped without an interval", want: []string{`it is damped, and has no interval`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "C", func(w word) word { return w | wordDamped })
		}},
	{name: "nobody is said to depend on it", want: []string{`others depend on it, and its state says otherwise`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.state(db, b, "X", func(w word) word { return w &^ wordDependents })
		}},
	{name: "the timer of an expiry is lost", want: []string{`F {E}: it expires, and there is no timer`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { s.timers(db, b, timerExpire, "E") }},
	{name: "the timer of a ticker is lost", want: []string{`it ticks, and there is no timer`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { s.timers(db, b, timerTick, "ticker:P9D") }},
	{name: "what is no ticker has the timer of one", want: []string{`there is a timer of a tick, and it does not tick`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.timer(b, timer{kind: timerTick, chunk: chunk{ids: []ID{s.ids["C"]}}})
		}},
	{name: "a timer does not decode", want: []string{`the timer does not decode`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(timerKey(1, 1<<40), garbage, nil)) }},
	{name: "a timer of nobody", want: []string{`the timer is of resource 777777`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.timer(b, timer{kind: timerLease, chunk: chunk{ids: []ID{777777}}})
		}},
	{name: "a retry of what was never told", want: []string{`it tells again what was told at position 777777`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			s.timer(b, timer{kind: timerRetry, ref: 777777, chunk: chunk{ids: []ID{s.ids["C"]}}})
		}},
	{name: "a fan-out of nobody", want: []string{`it tells the dependents of resource 777777`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(seqKey(spaceJob, 77), (&job{kind: jobChange, x: 777777}).append(nil), nil))
		}},
	{name: "a second fan-out of one kind", want: []string{`J 77: it is the second fan-out of its kind`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(seqKey(spaceJob, 77), (&job{kind: jobChange, x: s.ids["H"]}).append(nil), nil))
		}},
	{name: "a fan-out does not decode", want: []string{`J 77: the fan-out does not decode`}, left: 1,
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(seqKey(spaceJob, 77), garbage, nil)) }},
}

// timer sets one beside those that there are.
func (s *specimen) timer(b *pebble.Batch, m timer) {
	check(b.Set(timerKey(s.at, 1<<40), m.append(nil), nil))
}

var damagedJournal = []damage{
	{name: "a chunk is lost", want: []string{`the journal goes on here after position`}, left: 1,
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Delete(seqKey(spaceJournal, s.chunk), nil)) }},
	{name: "a chunk does not decode", want: []string{`L {chunk}: the chunk does not decode`}, left: 1,
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(seqKey(spaceJournal, s.chunk), garbage, nil))
		}},
	{name: "a chunk was written before the one before it", want: []string{`L {chunk}: it was written at 5`}, left: 1,
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { s.rewrite(db, b, func(c *chunk) { c.at = 5 }) }},
	{name: "a chunk names nobody", want: []string{`L {chunk}: it names resource 777777`}, left: 1,
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.rewrite(db, b, func(c *chunk) { c.ids = []ID{777777} })
		}},
	{name: "the cause of a chunk is nobody", want: []string{`L {chunk}: its cause is resource 777777`}, left: 1,
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.rewrite(db, b, func(c *chunk) { c.cause = 777777 })
		}},
	{name: "the beginning of the journal is another", want: []string{`M "oldest": the journal is said to be trimmed up to 0`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Delete(metaKey(metaOldest), nil)) }},
	{name: "a row knows of a position that was never given", lost: true, want: []string{`F {lone}: it knows of position 777777`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.row(db, b, "lone", func(r *row) { r.updated = 777777 })
		}},
	{name: "a change is lost with the end of the journal", lost: true, want: []string{`F {lone}: it knows of position 777777`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.row(db, b, "lone", func(r *row) { r.changed = 777777 })
		}},
	{name: "a row does not know of its last change", want: []string{`F {lone}: it changed last at position`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { s.row(db, b, "lone", func(r *row) { r.changed-- }) }},
	{name: "a summary lacks somebody", want: []string{`a block of the journal names it, and its summary does not`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			s.drop(db, db.NewBatch(), []byte{spaceList, listBlock}, func(k, _ []byte) bool {
				check(b.Set(bytes.Clone(k), newSummary([]Key{HostKey("b.example")}), nil))
				return true
			})
		}},
	{name: "a summary of what is not whole", want: []string{`C b 777: it sums up a block of the journal that is not whole`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(blockKey(777), newSummary(nil), nil)) }},
}

// rewrite changes the chunk of the specimen.
func (s *specimen) rewrite(db *pebble.DB, b *pebble.Batch, change func(c *chunk)) {
	key := seqKey(spaceJournal, s.chunk)
	v, closer, err := db.Get(key)
	check(err)
	c, err := decodeChunk(s.chunk, v)
	check(errors.Join(err, closer.Close()))
	change(&c)
	check(b.Set(key, c.append(nil), nil))
}

var damagedLists = []damage{
	{name: "a marked chunk is not in the index", want: []string{`the chunk is marked for the list, whose index does not have it`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) {
			first := true
			s.drop(db, b, []byte{spaceList, listMarked}, func(_, _ []byte) (ok bool) {
				ok, first = first, false
				return ok
			})
		}},
	{name: "the index has a chunk that is not marked", want: []string{`C p 1 {chunk}: the index of the list has a chunk`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(markedKey(1, s.chunk), nil, nil)) }},
	{name: "a member is not said to be on its list", want: []string{`C r {X} 1: it is a member of list 1`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Delete(listedKey(s.ids["X"], 1), nil)) }},
	{name: "who is said to be on a list is no member", want: []string{`C r {Y} 1: it is said to be on list 1`},
		do: func(s *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(listedKey(s.ids["Y"], 1), nil, nil)) }},
	{name: "members do not decode", want: []string{`C m 1 0: the members do not decode`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(membersKey(1, 0), garbage, nil)) }},
	{name: "a member does not exist", want: []string{`C m 1 11: resource 777777`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Merge(membersKey(1, 777777>>bucketShift), appendPostingOps(nil, []postingOp{{777777 & (bucketSize - 1), true}}), nil))
			check(b.Set(listedKey(777777, 1), nil, nil))
		}},
	{name: "a dropped list that is cut off", want: []string{`no key of this space has 3 bytes`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set([]byte("Cxy"), nil, nil)) }},
}

var damagedAccounts = []damage{
	{name: "an account has another sum", want: []string{`Q 1: it says 0 resources and 0 edges, and there are`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(seqKey(spaceAccount, 1), (&account{Account: Account{Publisher: "test"}}).append(nil), nil))
		}},
	{name: "an account does not decode", want: []string{`Q 1: the account is lost`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) { check(b.Set(seqKey(spaceAccount, 1), nil, nil)) }},
	{name: "an account is missing", want: []string{`Q 1: the account is lost`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Delete(seqKey(spaceAccount, 1), nil))
			check(b.Set(seqKey(spaceAccount, 2), (&account{Account: Account{Publisher: "other"}}).append(nil), nil))
		}},
	{name: "an account far beyond the others", want: []string{`Q 7777777777: its number is beyond those of all accounts`},
		do: func(_ *specimen, _ *pebble.DB, b *pebble.Batch) {
			check(b.Set(seqKey(spaceAccount, 7777777777), (&account{Account: Account{Publisher: "other"}}).append(nil), nil))
		}},
	{name: "a row is on an account that is not there", want: []string{`F {lone}: it is of account 7`},
		do: func(s *specimen, db *pebble.DB, b *pebble.Batch) { s.row(db, b, "lone", func(r *row) { r.owner = 7 }) }},
}
