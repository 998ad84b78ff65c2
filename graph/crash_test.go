package graph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// lives is how often the store of a crash test loses power.
	lives = 12
	// publishers and readers use it at the same time.
	publishers, readers = 3, 2
	pagesPerPublisher   = 5
)

// acknowledged is what the hub has promised to keep: for each resource the
// highest version that was answered for, and the position of the answer.
type acknowledged struct {
	mu       sync.Mutex
	versions map[string]int
	newest   uint64
	read     []Notice // in order, by whoever read furthest
}

func (a *acknowledged) answered(uri string, version int, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.versions[uri] = version
	a.newest = max(a.newest, seq)
}

func (a *acknowledged) heard(ns []Notice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range ns {
		if len(a.read) == 0 || n.Cursor.Seq == a.read[len(a.read)-1].Cursor.Seq+1 {
			a.read = append(a.read, n)
		}
	}
}

// promise is what had been acknowledged and read at one moment.
func (a *acknowledged) promise() (versions map[string]int, newest uint64, read []Notice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	versions = make(map[string]int, len(a.versions))
	for k, v := range a.versions {
		versions[k] = v
	}
	return versions, a.newest, slices.Clone(a.read)
}

// powerCut runs a store with its loop, publishers and readers until some
// updates more have been acknowledged, and returns what the disk holds at a
// moment in the middle of it all, with what had been promised before.
func powerCut(t *testing.T, fs *vfs.MemFS, rng *rand.Rand, a *acknowledged, from int) (*vfs.MemFS, map[string]int, uint64, []Notice) {
	t.Helper()
	s, err := Open("store", Options{FS: fs, Cache: rigCache, chunk: 3, inline: rng.IntN(3) - 1, Work: []string{"html"}})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	enough := make(chan struct{}, publishers)
	quota := 5 + rng.IntN(40)
	for p := range publishers {
		all.Go(func() { publish(ctx, t, s, a, p, from, quota, enough) })
	}
	for range readers {
		all.Go(func() { follow(ctx, t, s, a) })
	}
	<-enough
	versions, newest, read := a.promise()
	clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	stop()
	all.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	return clone, versions, newest, read
}

// publish edits the publisher's pages one after the other and re-renders what
// is made from all of them, until the store is gone. It says when it has had a
// number of answers.
func publish(ctx context.Context, t *testing.T, s *Store, a *acknowledged, p, from, quota int, enough chan<- struct{}) {
	for n := 1; ; n++ {
		page, version := named(fmt.Sprintf("p%d/%d", p, n%pagesPerPublisher)), from+n
		us := []Update{
			{ID: fmt.Sprintf("%d/%d", from, n), URI: page, Version: strconv.Itoa(version), Hash: fmt.Sprint("h", version)},
			{URI: page + "#html", Type: "html", Hash: fmt.Sprint("r", version), Token: s.Token(), Deps: []Dep{{URI: page}, saw("shared", "")}},
		}
		if n%7 == 0 {
			us = append(us, Update{URI: named("shared"), Hash: fmt.Sprintf("%d/%d/%d", p, from, n)})
		}
		res, err := s.Apply(ctx, fmt.Sprint(p), us)
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return
		case err != nil:
			t.Errorf("apply: %v", err)
			return
		}
		a.answered(page, version, res.Cursor.Seq)
		if n == quota {
			enough <- struct{}{}
		}
	}
}

// follow reads the journal from its beginning as it grows.
func follow(ctx context.Context, t *testing.T, s *Store, a *acknowledged) {
	for at := s.Oldest(); ; {
		ns, next, err := s.ReadFrom(ctx, at, 100)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, ErrClosed) {
				t.Errorf("read: %v", err)
			}
			return
		}
		a.heard(ns)
		at = next
	}
}

func TestAPowerCutAtAnyMomentLosesNothingThatWasAcknowledged(t *testing.T) {
	for seed := range seeds(t) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 3))
			fs := vfs.NewCrashableMem()
			a := &acknowledged{versions: map[string]int{}}
			for life := range lives {
				var versions map[string]int
				var newest uint64
				var read []Notice
				fs, versions, newest, read = powerCut(t, fs, rng, a, 1_000_000*(life+1))
				a.versions, a.newest, a.read = versions, newest, read
				soundStore(t, fs)
				s, err := Open("store", Options{FS: fs, Cache: rigCache, chunk: 3})
				if err != nil {
					t.Fatalf("open after power cut %d: %v", life, err)
				}
				survived(t, s, a)
				if err := s.Close(); err != nil {
					t.Fatalf("close: %v", err)
				}
				if t.Failed() {
					t.Fatalf("in life %d", life)
				}
			}
		})
	}
}

// survived checks a store against what was promised of it.
func survived(t *testing.T, s *Store, a *acknowledged) {
	t.Helper()
	if got := s.Token().Seq; got < a.newest {
		t.Errorf("the journal ends at %d, but %d was acknowledged", got, a.newest)
	}
	for uri, version := range a.versions {
		r, err := s.Resource(uri)
		if got, _ := strconv.Atoi(r.Version); err != nil || got < version {
			t.Errorf("%s is version %q (%v), but %d was acknowledged", uri, r.Version, err, version)
		}
	}
	all := wholeJournal(t, s)
	for i, n := range a.read {
		if i >= len(all) || !sameNotice(all[i], n) {
			t.Errorf("position %s held %+v when it was read, and does no longer", n.Cursor, n)
			break
		}
	}
	checkJournal(t, s, all)
}

func wholeJournal(t *testing.T, s *Store) (all []Notice) {
	t.Helper()
	for at := s.Oldest(); at.Seq < s.Token().Seq; {
		ns, next, err := s.ReadFrom(context.Background(), at, 1000)
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		all, at = append(all, ns...), next
	}
	return all
}

// checkJournal: positions are contiguous and times do not decrease; there is no
// notice without its update, and no change without its notice.
func checkJournal(t *testing.T, s *Store, all []Notice) {
	t.Helper()
	last := map[string]Notice{}
	for i, n := range all {
		if i > 0 && (n.Cursor.Seq != all[i-1].Cursor.Seq+1 || n.At.Before(all[i-1].At)) {
			t.Errorf("%s at %s follows %s at %s", n.Cursor, n.At, all[i-1].Cursor, all[i-1].At)
		}
		if n.Kind == KindChanged {
			last[n.URI] = n
		}
		if n.Kind == KindRefresh && n.Cause.URI == "" {
			t.Errorf("%s has no cause", n.Cursor)
		}
	}
	for uri, n := range last {
		r, err := s.Resource(uri)
		if err != nil || r.Changed != n.Cursor || r.Version != n.Version || r.Hash != n.Hash {
			t.Errorf("the journal says %s changed to %s/%s at %s, the store %s/%s at %s (%v)",
				uri, n.Version, n.Hash, n.Cursor, r.Version, r.Hash, r.Changed, err)
		}
	}
}

func TestWorkGoesOnAfterAPowerCut(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 4))
	for cut := range 40 {
		g := newRig(t, Options{chunk: 1, inline: -1})
		g.edit("X", "10", "a")
		for d := range 10 {
			g.render(fmt.Sprint("D", d), "", "d", g.token(), saw("X", "10"))
		}
		g.render("E", "", "e", g.token(), saw("D3", "d"))
		g.edit("X", "11", "b")
		for range cut {
			g.work()
		}
		g.crash(rng)
		g.wait(time.Second)
		for d := range 10 {
			g.want(fmt.Sprint("D", d), Ready, 1)
		}
		g.want("E", Clean, 0)
		if t.Failed() {
			t.Fatalf("cut after %d steps", cut)
		}
	}
}
