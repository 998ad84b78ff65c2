package graph

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// listPromise is what editors of lists were told: who is on their list after the
// edit that was answered last, and where that stands. The next one may be there
// or not.
type listPromise struct {
	on, next map[string]bool
	edits    int    // answered
	at       uint64 // of the last one
}

// listEditors edit a list each, as one after the other.
type listEditors struct {
	mu    sync.Mutex
	lists map[ListID]*listPromise
}

func (a *listEditors) snapshot() map[ListID]*listPromise {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[ListID]*listPromise{}
	for list, p := range a.lists {
		c := *p
		c.on, c.next = maps.Clone(p.on), maps.Clone(p.next)
		out[list] = &c
	}
	return out
}

// editOn edits a list until the store is gone. The number of the edit is the
// record that goes with it.
func (a *listEditors) editOn(ctx context.Context, t *testing.T, s *Store, list ListID, rng *rand.Rand, quota int, enough chan<- struct{}) {
	for n := 1; ; n++ {
		e := ListEdit{List: list, Key: fmt.Sprint("edits/", list)}
		a.mu.Lock()
		p := a.lists[list]
		p.next = maps.Clone(p.on)
		for range 1 + rng.IntN(5) {
			uri := named(fmt.Sprintf("p%d/%d", rng.IntN(publishers), rng.IntN(pagesPerPublisher)))
			if rng.IntN(3) == 0 {
				uri = named(fmt.Sprint("stub", rng.IntN(100)))
			}
			if rng.IntN(2) == 0 {
				e.Add, p.next[uri] = append(e.Add, uri), true
			} else if !slices.Contains(e.Add, uri) {
				e.Remove = append(e.Remove, uri)
				delete(p.next, uri)
			}
		}
		for _, uri := range e.Add {
			p.next[uri] = true
		}
		edits := p.edits + 1
		a.mu.Unlock()
		e.Record = func(at Cursor) []byte { return fmt.Appendf(nil, "%d %d", edits, at.Seq) }
		res, err := s.EditList(ctx, e)
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return
		case err != nil:
			t.Errorf("edit list: %v", err)
			return
		}
		a.mu.Lock()
		if res.Added-res.Removed != len(p.next)-len(p.on) {
			t.Errorf("list %d had %d members and has %d; the edit counts %+v", list, len(p.on), len(p.next), res)
		}
		p.on, p.edits, p.at = p.next, edits, res.At.Seq
		a.mu.Unlock()
		if n == quota {
			enough <- struct{}{}
		}
	}
}

// cutWhileEditing is powerCut for editors of lists beside publishers.
func cutWhileEditing(t *testing.T, fs *vfs.MemFS, rng *rand.Rand, a *listEditors, from int) *vfs.MemFS {
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
	enough := make(chan struct{}, publishers+len(a.lists))
	told := &acknowledged{versions: map[string]int{}}
	quota := 3 + rng.IntN(10)
	for p := range publishers {
		all.Go(func() { publish(ctx, t, s, told, p, from, 2*quota, enough) })
	}
	for list := range a.lists {
		editor := rand.New(rand.NewPCG(rng.Uint64(), uint64(list)))
		all.Go(func() { a.editOn(ctx, t, s, list, editor, quota, enough) })
	}
	<-enough
	<-enough
	promised := a.snapshot()
	clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	promisedLater := a.snapshot() // an edit that was begun meanwhile may be there too
	stop()
	all.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	a.lists = promised
	for list, p := range a.lists {
		if later := promisedLater[list]; later.edits > p.edits {
			p.next = nil // more than one may be there: who is on it is not known
		}
	}
	return clone
}

// listsSurvived checks a store against what its editors were told, and goes on
// from what it holds.
func (a *listEditors) listsSurvived(t *testing.T, s *Store) {
	t.Helper()
	for list, p := range a.lists {
		edits, at := 0, 0
		err := s.Records(fmt.Sprint("edits/", list), func(_ string, v []byte) error {
			_, err := fmt.Sscanf(string(v), "%d %d", &edits, &at)
			return err
		})
		if err != nil || edits < p.edits || uint64(at) > s.Token().Seq || uint64(at) < p.at {
			t.Errorf("list %d: record of edit %d at %d (%v), but edit %d at %d was answered", list, edits, at, err, p.edits, p.at)
		}
		uris, _, err := s.Listed(list, "", MaxListing)
		on := map[string]bool{}
		for _, uri := range uris {
			on[uri] = true
		}
		switch {
		case err != nil:
			t.Errorf("list %d: %v", list, err)
		case edits == p.edits && !maps.Equal(on, p.on):
			t.Errorf("list %d after edit %d: got %v, want %v", list, edits, on, p.on)
		case edits == p.edits+1 && p.next != nil && !maps.Equal(on, p.next):
			t.Errorf("list %d after edit %d, which was not answered: got %v, want %v", list, edits, on, p.next)
		}
		p.on, p.edits, p.at = on, edits, uint64(at)
	}
	checkListKeys(t, s)
}

func TestAnEditOfAListThatWasAnsweredSurvivesAPowerCutWhole(t *testing.T) {
	for seed := range seeds(t) {
		t.Run("seed="+strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 6))
			fs := vfs.NewCrashableMem()
			a := &listEditors{lists: map[ListID]*listPromise{}}
			for list := ListID(1); list <= 3; list++ {
				a.lists[list] = &listPromise{on: map[string]bool{}}
			}
			for life := range lives {
				fs = cutWhileEditing(t, fs, rng, a, 1_000_000*(life+1))
				soundStore(t, fs)
				s, err := Open("store", Options{FS: fs, Cache: rigCache, chunk: 3})
				if err != nil {
					t.Fatalf("open after power cut %d: %v", life, err)
				}
				a.listsSurvived(t, s)
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
