package graph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// importRig is a rig whose store was made from a snapshot at a time.
func importRig(t tester, o Options, at time.Time, us []Update) (*rig, ImportResult) {
	t.Helper()
	g := newRig(t, o)
	g.clock.Store(at.UnixMicro())
	g.close()
	o = g.o
	o.FS, o.Clock = g.fs, g.now
	res, err := Import(context.Background(), "store", o, "test", each(us), nil)
	if err != nil {
		t.Fatalf("import: %v", err)
	}
	g.open()
	g.listen()
	return g, res
}

// applyRig is a rig whose store took the same as updates: what is made from
// nothing first. Who is made from others comes twice, so that at the second time
// all content is known.
func applyRig(t tester, o Options, at time.Time, us []Update) *rig {
	t.Helper()
	g := newRig(t, o)
	g.clock.Store(at.UnixMicro())
	made := func(u Update) bool { return slices.ContainsFunc(u.Deps, func(d Dep) bool { return d.URI != u.URI }) }
	var primaries, artefacts []Update
	for _, u := range us {
		if made(u) {
			artefacts = append(artefacts, u)
		} else {
			primaries = append(primaries, u)
		}
	}
	g.apply(primaries...)
	g.apply(artefacts...)
	again := slices.Clone(artefacts)
	for i := range again {
		again[i].ID = ""
	}
	if nested(us) {
		g.apply(again...)
	}
	return g
}

// nested reports whether something is made from what is made from others.
func nested(us []Update) bool {
	artefact := map[string]bool{}
	for _, u := range us {
		artefact[u.URI] = len(u.Deps) > 0
	}
	return slices.ContainsFunc(us, func(u Update) bool {
		return slices.ContainsFunc(u.Deps, func(d Dep) bool { return artefact[d.URI] && d.URI != u.URI })
	})
}

// urisOf are all that updates name.
func urisOf(us []Update) (uris []string) {
	for _, u := range us {
		uris = append(uris, u.URI)
		for _, d := range u.Deps {
			uris = append(uris, d.URI)
		}
	}
	slices.Sort(uris)
	return slices.Compact(uris)
}

// compareStores fails unless both stores say the same of each resource, apart
// from positions and from what only a journal tells. In a nested world an applied
// one may wait for another, where an imported one is told at once.
func compareStores(t tester, imported, applied *rig, uris []string, waits bool) {
	t.Helper()
	plain := func(r Resource) Resource {
		r.Changed, r.NoticeDue, r.Damping = Cursor{}, time.Time{}, 0
		if waits {
			r.BornStale, r.State, r.Unsettled = 0, min(r.State, Clean), false
		}
		return r
	}
	for _, uri := range uris {
		got, want := plain(imported.resource(uri)), plain(applied.resource(uri))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("imported %+v\n applied %+v", got, want)
		}
		if s := imported.status(uri)[0]; s.Stale != want.Stale || s.State == Ready != s.Stale {
			t.Errorf("%s is %s, stale %t; applied it is stale %t", uri, s.State, s.Stale, want.Stale)
		}
		for name, list := range map[string]func(*rig) []string{
			"dependencies": func(g *rig) []string { return g.dependencies(uri) },
			"dependents":   func(g *rig) []string { return g.dependents(uri) },
		} {
			got, want := slices.Sorted(slices.Values(list(imported))), slices.Sorted(slices.Values(list(applied)))
			if !slices.Equal(got, want) {
				t.Errorf("%s: imported %s %v, applied %v", uri, name, got, want)
			}
		}
	}
	got, want := kept(imported), kept(applied)
	for _, line := range got {
		if _, found := slices.BinarySearch(want, line); !found {
			t.Errorf("imported alone keeps: %s", line)
		}
	}
	for _, line := range want {
		if _, found := slices.BinarySearch(got, line); !found {
			t.Errorf("applied alone keeps: %s", line)
		}
	}
}

// kept spells out markers, presumptions, groups and timers, with URIs for ids.
func kept(g *rig) (list []string) {
	g.t.Helper()
	name := func(id ID) string {
		uri, err := g.s.nameOf(id)
		if err != nil {
			g.t.Fatalf("%v", err)
		}
		return uri
	}
	scan := func(space byte, f func(k, v []byte) string) {
		err := g.s.scan(space, func(k, v []byte) error {
			if s := f(k, v); s != "" {
				list = append(list, s)
			}
			return nil
		})
		if err != nil {
			g.t.Fatalf("%v", err)
		}
	}
	scan(spaceMarker, func(k, v []byte) string {
		return fmt.Sprintf("%s is ahead of %s: %s", name(parseID(k[6:])), name(parseID(k[1:])), v)
	})
	scan(spaceRow, func(k, v []byte) string {
		r, err := decodeRow(parseID(k[1:]), v)
		if err != nil {
			g.t.Fatalf("%v", err)
		}
		w := g.s.col.get(r.id)
		var aheadOf []string
		for _, x := range r.ahead {
			aheadOf = append(aheadOf, name(x))
		}
		slices.Sort(aheadOf)
		if r.is(rowMissing | rowDiffering) {
			r.presumed = "" // what is presumed first depends on the order, and does not matter any more
		}
		return fmt.Sprintf("%s flags %b presumed %q digest %x unproven %t dependents %t hot %t ahead %v", name(r.id), r.flags, r.presumed,
			r.digest, w.is(wordUnproven), w.is(wordDependents), w.is(wordHot), aheadOf)
	})
	scan(spaceBucket, func(k, v []byte) string {
		var in []string
		ids, err := decodeBucket(v, uint32(k[len(k)-3])<<16|uint32(k[len(k)-2])<<8|uint32(k[len(k)-1]), nil)
		if err != nil {
			g.t.Fatalf("%v", err)
		}
		for _, id := range ids {
			in = append(in, name(ID(id)))
		}
		slices.Sort(in)
		return fmt.Sprintf("%s has %v", k[1:len(k)-4], in)
	})
	scan(spaceTimer, func(k, v []byte) string {
		m, err := decodeTimer(k, v)
		if err != nil {
			g.t.Fatalf("%v", err)
		}
		if m.kind == timerRetry || m.kind == timerNotice {
			return "" // of notices, which are others
		}
		return fmt.Sprintf("%s is due %d: %d", name(m.chunk.ids[0]), m.due, m.kind)
	})
	scan(spaceSeen, func(k, _ []byte) string { return fmt.Sprintf("update %x", k) })
	slices.Sort(list)
	return slices.Compact(list) // an update that comes twice sets its timer twice
}

// randomSnapshot is a world of primaries with all kinds of versions, and of what
// is made from them and, with layers, from each other.
func randomSnapshot(rng *rand.Rand, now time.Time, primaries, artefacts int, layers bool) (us []Update) {
	seen := []string{"", "", "0", "1", "7", "8", "9", "a", "b", "h1", "h2"}
	pick := func(l []string) string { return l[rng.IntN(len(l))] }
	when := func() time.Time {
		if rng.IntN(8) == 0 {
			return time.Time{}
		}
		return now.Add(-time.Duration(rng.IntN(60)) * time.Second)
	}
	var uris []string
	for x := range primaries {
		uri := named(fmt.Sprint("p", x))
		if x%3 == 1 {
			uri = uris[len(uris)-1] + "#C.P" + fmt.Sprint(x)
		}
		uris = append(uris, uri)
		if rng.IntN(4) == 0 {
			continue // only named
		}
		u := Update{URI: uri, Version: pick(seen), Hash: pick(seen[6:]), At: when()}
		if rng.IntN(3) == 0 {
			u.ID, u.Type = fmt.Sprint("id", x), "item"
		}
		us = append(us, u)
	}
	uris = append(uris, "ticker:PT1H", "ticker:P1D")
	for d := range artefacts {
		u := Update{URI: named(fmt.Sprint("d", d)), Type: "html", Version: pick(seen), Hash: fmt.Sprint("h", rng.IntN(3)), At: when(), Deps: []Dep{}}
		for range rng.IntN(6) {
			u.Deps = append(u.Deps, Dep{URI: pick(uris), Seen: pick(seen)})
		}
		if layers && rng.IntN(2) == 0 {
			u.Deps = append(u.Deps, Dep{URI: named(fmt.Sprint("d", rng.IntN(artefacts))), Seen: pick(seen)})
		}
		for range rng.IntN(3) {
			u.Buckets = append(u.Buckets, fmt.Sprint("wiki", rng.IntN(4)))
		}
		if rng.IntN(5) == 0 {
			u.Expires = now.Add(time.Duration(rng.IntN(100)) * time.Hour)
		}
		us = append(us, u)
	}
	rng.Shuffle(len(us), func(i, j int) { us[i], us[j] = us[j], us[i] })
	return us
}

func TestAnImportedStoreKeepsListsLikeAnyOther(t *testing.T) {
	us := randomSnapshot(rand.New(rand.NewPCG(3, 1)), rigStart, 20, 40, false)
	g, _ := importRig(t, Options{}, rigStart, us)
	if v, err := g.s.meta(metaFormat); err != nil || len(v) != 1 || v[0] != formatVersion {
		t.Errorf("its format is %v, %v, want %d", v, err, formatVersion)
	}
	uris := slices.DeleteFunc(urisOf(us), func(uri string) bool { return strings.HasPrefix(uri, "ticker:") })
	g.editList(ListEdit{List: 1, Add: uris[2:9]})
	for i, uri := range uris {
		g.apply(Update{URI: uri, Hash: fmt.Sprint("new", i), Version: fmt.Sprint(1_000_000 + i)})
	}
	got := g.scanned(&Pick{Lists: []ListID{1}}, g.s.Oldest(), 5)
	for _, n := range got {
		if !slices.Contains(uris[2:9], n.URI) || !slices.Equal(n.Lists, []ListID{1}) {
			t.Errorf("%s is marked for %v", n.URI, n.Lists)
		}
	}
	if len(got) < 7 {
		t.Errorf("%d notices of 7 members", len(got))
	}
}

func TestAnImportedStoreAnswersLikeOneThatTookTheUpdates(t *testing.T) {
	for seed := range uint64(24) {
		layers := seed%2 == 1
		t.Run(fmt.Sprintf("seed=%d/layers=%t", seed, layers), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			us := randomSnapshot(rng, rigStart, 3+rng.IntN(40), rng.IntN(60), layers)
			imported, res := importRig(t, Options{}, rigStart, us)
			applied := applyRig(t, Options{}, rigStart, us)
			uris := urisOf(us)
			if want := int(imported.s.Stats().Resources); res.Resources != want || len(uris) != want || res.Updates != len(us) {
				t.Errorf("imported %+v, want %d updates and %d resources; the store has %d", res, len(us), len(uris), want)
			}
			compareStores(t, imported, applied, uris, nested(us))
			var told []string
			for _, n := range imported.heard {
				told = append(told, n.URI)
				if n.Kind != KindRefresh || n.Reason != ReasonReconcile || n.Lane != Bulk {
					t.Errorf("an import told %+v", n)
				}
			}
			stale := slices.DeleteFunc(slices.Clone(uris), func(uri string) bool { return !imported.status(uri)[0].Stale })
			if slices.Sort(told); !slices.Equal(told, stale) || res.Stale != len(stale) {
				t.Errorf("told %v, want who is stale: %v", told, stale)
			}
		})
	}
}

// edits are changes of what a snapshot named, and renderings made after them.
func edits(rng *rand.Rand, now time.Time, us []Update) (list []Update) {
	uris := urisOf(us)
	for range 20 {
		u := us[rng.IntN(len(us))]
		switch {
		case rng.IntN(3) > 0:
			u = Update{URI: uris[rng.IntN(len(uris))], Version: fmt.Sprint(rng.IntN(12)), Hash: fmt.Sprint("h", rng.IntN(4))}
		case rng.IntN(2) == 0:
			u = Update{URI: uris[rng.IntN(len(uris))], Action: ActionDelete}
		}
		if strings.HasPrefix(u.URI, "ticker:") {
			continue
		}
		u.ID, u.At = "", now
		list = append(list, u)
	}
	return list
}

func TestEditsAfterAnImportAreToldAsAfterTheUpdates(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			us := randomSnapshot(rng, rigStart, 10+rng.IntN(40), 30, false)
			imported, _ := importRig(t, Options{}, rigStart, us)
			applied := applyRig(t, Options{}, rigStart, us)
			// What the applied one defers is told before the edits begin.
			for _, g := range []*rig{imported, applied} {
				g.wait(time.Minute)
			}
			for _, u := range edits(rng, rigStart.Add(time.Minute), us) {
				var told [2][]string
				for i, g := range []*rig{imported, applied} {
					since := len(g.heard)
					g.apply(u)
					g.wait(10 * time.Second)
					for _, n := range g.heard[since:] {
						if n.Kind == KindRefresh {
							told[i] = append(told[i], fmt.Sprintf("%s %s %s", n.URI, n.Reason, n.Rule))
						}
					}
					slices.Sort(told[i])
				}
				if !slices.Equal(told[0], told[1]) {
					t.Fatalf("%+v:\nimported told %v\n applied told %v", u, told[0], told[1])
				}
			}
		})
	}
}

func TestARealSnapshotIsImportedAsItWouldBeApplied(t *testing.T) {
	last := map[string]Update{}
	var now time.Time
	for _, u := range reported(t) {
		last[u.URI] = u
		now = u.At.Add(time.Hour)
	}
	var us []Update
	for _, u := range last {
		us = append(us, u)
	}
	slices.SortFunc(us, func(a, b Update) int { return a.At.Compare(b.At) })
	imported, res := importRig(t, Options{}, now, us)
	applied := applyRig(t, Options{}, now, us)
	if res.Edges < 20_000 {
		t.Errorf("%d edges, want the whole of it", res.Edges)
	}
	compareStores(t, imported, applied, urisOf(us), nested(us))
	for _, g := range []*rig{imported, applied} {
		g.wait(time.Minute)
	}
	for _, page := range []string{"Template:Reflist", "Article_03", "Module:Arguments"} {
		var told [2][]string
		for i, g := range []*rig{imported, applied} {
			w := &realWiki{rig: g, latest: map[string]Update{}}
			since := len(g.heard)
			w.send("content", page, "9001", "edited")
			w.wait(time.Minute)
			told[i] = w.told(since)
		}
		if !slices.Equal(told[0], told[1]) {
			t.Errorf("%s: imported told %v, applied %v", page, told[0], told[1])
		}
	}
}

func TestAnImportSplitsHotDependentsAndItsJournal(t *testing.T) {
	const pages = 3 * maxChunk
	us := []Update{{URI: named("hot"), Version: "2", At: rigStart}}
	for i := range pages {
		us = append(us, Update{URI: named(fmt.Sprint("d", i)), Type: "html", Hash: "h", At: rigStart, Deps: []Dep{{named("hot"), "1"}, {named("new"), "1"}}})
	}
	g, res := importRig(t, Options{Work: []string{"html"}}, rigStart, us)
	if res.Stale != pages || len(g.heard) != pages {
		t.Fatalf("%d stale and %d told, want %d", res.Stale, len(g.heard), pages)
	}
	for _, name := range []string{"hot", "new"} {
		id, _ := g.s.known(named(name))
		if !g.s.col.get(id).is(wordHot) || len(g.dependents(named(name))) != pages {
			t.Errorf("%s has %d dependents, hot: %t", name, len(g.dependents(named(name))), g.s.col.get(id).is(wordHot))
		}
	}
	g.wait(2 * time.Minute)
	if n := len(g.heard); n != 2*pages {
		t.Errorf("%d notices after the first retry, want %d", n, 2*pages)
	}
}

func TestAnImportIsTheSameWhateverFitsInMemory(t *testing.T) {
	us := randomSnapshot(rand.New(rand.NewPCG(4, 4)), rigStart, 200, 500, true)
	var dumps []string
	for _, memory := range []int{sortMemory, 1 << 12} {
		g := newRig(t, Options{})
		g.close()
		o := Options{FS: g.fs, Cache: rigCache, Clock: g.now, Work: []string{"html"}}
		if _, err := importWithin(context.Background(), "store", o, "", each(us), nil, importBounds{1000, memory}); err != nil {
			t.Fatal(err)
		}
		g.open()
		dumps = append(dumps, g.dump())
	}
	if dumps[0] != dumps[1] {
		t.Error("runs on disk make another store than runs in memory")
	}
}

func TestAnImportOfMoreResourcesThanItMayHoldIsRefused(t *testing.T) {
	o := Options{FS: vfs.NewMem(), Cache: rigCache}
	_, err := importWithin(context.Background(), "store", o, "", each(wikiSnapshot(1000)), nil, importBounds{100, sortMemory})
	if !errors.Is(err, ErrTooLarge) || !strings.HasPrefix(err.Error(), "more than 100: ") {
		t.Errorf("got %v, want %v", err, ErrTooLarge)
	}
}

func TestWhatAnImportRefuses(t *testing.T) {
	x := named("x")
	for name, tt := range map[string]struct {
		update Update
		want   string
	}{
		"a delete":                      {Update{URI: x, Action: ActionDelete}, "item 1: action"},
		"a purge":                       {Update{URI: x, Action: ActionPurge}, "item 1: action"},
		"changes of aspects":            {Update{URI: x, Aspects: []string{"C"}}, "item 1: aspects"},
		"a URI that is not canonical":   {Update{URI: "HTTP://x/"}, "item 1: uri"},
		"a dependency that is not so":   {Update{URI: x, Deps: []Dep{{URI: "x"}}}, "item 1: deps"},
		"what Apply refuses":            {Update{URI: x, At: rigStart.Add(time.Hour)}, "item 1: at"},
		"a second update of a resource": {Update{URI: named("first")}, "item 1: uri: a second update of " + named("first")},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			o := Options{FS: fs, Cache: rigCache, Clock: func() time.Time { return rigStart }}
			us := []Update{{URI: named("first"), Deps: []Dep{{URI: named("dep")}}}, tt.update, {URI: named("last")}}
			_, err := Import(context.Background(), "store", o, "", each(us), nil)
			var invalid *InvalidError
			if !errors.As(err, &invalid) || invalid.Item != 1 || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if _, err := fs.Stat("store"); err == nil {
				t.Error("half a store is left")
			}
		})
	}
}

func TestAnImportThatFailsLeavesAnEmptyStoreEmpty(t *testing.T) {
	g := newRig(t, Options{})
	epoch := g.s.epoch
	g.close()
	o := Options{FS: g.fs, Cache: rigCache, Clock: g.now}
	broken := errors.New("the stream broke")
	us := each([]Update{{URI: named("a")}, {URI: named("b")}})
	next := func() (Update, error) {
		u, err := us()
		if err != nil {
			err = broken
		}
		return u, err
	}
	if _, err := Import(context.Background(), "store", o, "", next, nil); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Import(ctx, "store", o, "", each([]Update{{URI: named("a")}}), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	g.open()
	if n := g.s.Stats().Resources; n != 0 || g.s.epoch != epoch {
		t.Errorf("%d resources in epoch %s, want none in %s", n, g.s.epoch, epoch)
	}
	if _, err := g.fs.Stat("store/import"); err == nil {
		t.Error("files of the import are left")
	}
	g.apply(Update{URI: named("a")})
	g.close()
	if _, err := Import(context.Background(), "store", o, "", each(nil), nil); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("into a store with a resource: got %v, want %v", err, ErrNotEmpty)
	}
	g.open()
}

func TestAnImportIsThereAfterACrashOrNothingOfItIs(t *testing.T) {
	us := wikiSnapshot(2000)
	for seed := range uint64(5) {
		fs := vfs.NewCrashableMem()
		o := Options{FS: fs, Cache: rigCache}
		crashed := Options{Cache: rigCache}
		rng := rand.New(rand.NewPCG(seed, 3))
		next, n, when := each(us), 0, rng.IntN(len(us))
		clone := func() { crashed.FS = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng}) }
		_, err := Import(context.Background(), "store", o, "", func() (Update, error) {
			if n++; n == when {
				clone()
			}
			return next()
		}, func(p ImportProgress) {
			if p.Stage == ImportWriting && when%2 == 0 {
				clone()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		for want, o := range map[uint64]Options{0: crashed, uint64(len(urisOf(us))): {FS: fs.CrashClone(vfs.CrashCloneCfg{}), Cache: rigCache}} {
			s, err := Open("store", o)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Stats().Resources; got != want {
				t.Errorf("seed %d: %d resources after a crash, want %d", seed, got, want)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			soundStore(t, o.FS)
		}
	}
}

func TestAnImportTellsHowFarItIs(t *testing.T) {
	var stages []ImportStage
	var last ImportProgress
	o := Options{FS: vfs.NewMem(), Cache: rigCache}
	res, err := Import(context.Background(), "store", o, "", each(wikiSnapshot(5000)), func(p ImportProgress) {
		if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
			stages = append(stages, p.Stage)
		}
		if p.Updates < last.Updates || p.Edges < last.Edges || p.Resources < last.Resources {
			t.Errorf("%+v follows %+v", p, last)
		}
		last = p
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []ImportStage{ImportReading, ImportLinking, ImportWriting}; !slices.Equal(stages, want) {
		t.Errorf("it passed through %v, want %v", stages, want)
	}
	if res.Updates != 500 || res.Resources != last.Resources || res.Edges != last.Edges {
		t.Errorf("%+v after %+v", res, last)
	}
}
