package delivery

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

// TestAStoreKeepsWhatAnEngineKnows over a power cut: cursors, retries, letters, the brake.
func TestAStoreKeepsWhatAnEngineKnows(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		fs, b := vfs.NewCrashableMem(), new(board)
		good, bad := &target{name: "sink/good"}, &target{name: "sink/bad"}
		bad.answer = func(s sent) (int, string) { return 400 + 103*int(s.piece.Until%2), "" } // 400 and 503
		end := run(t, fs, b, func(h *house) {
			h.attach(good, Settings{})
			h.attach(bad, Settings{Concurrency: 2})
			h.add(prompt(10)...)
			time.Sleep(3 * time.Second)
			if err := h.e.Pause(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		})
		left := fs.CrashClone(vfs.CrashCloneCfg{}) // what was not synced is lost
		end()
		before, calls := len(good.calls()), len(bad.calls())
		run(t, left, b, func(h *house) {
			h.attach(good, Settings{})
			h.attach(bad, Settings{Concurrency: 2})
			if s := h.state(bad.name); !h.e.Paused() || s.Waiting != 5 || s.Letters != 5 || s.Cursors[graph.Prompt].Seq != 10 || s.Since.IsZero() {
				t.Errorf("paused %v, %+v", h.e.Paused(), s)
			}
			bad.answer = nil
			if err := h.e.Pause(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if n := len(good.calls()); n != before {
				t.Errorf("%d calls were repeated", n-before)
			}
			if n := len(bad.calls()) - calls; n != 5 {
				t.Errorf("%d retries", n)
			}
			list, _, err := h.e.DeadLetters(t.Context(), bad.name, "", 0, nil)
			if err != nil || len(list) != 5 {
				t.Errorf("%d letters, %v", len(list), err)
			}
			page, next, err := h.e.DeadLetters(t.Context(), "", "", 2, nil)
			if err != nil || len(page) != 2 || next != page[1].ID {
				t.Errorf("a page of %d, next %q, %v", len(page), next, err)
			}
			if rest, next, err := h.e.DeadLetters(t.Context(), "", next, 3, nil); err != nil || len(rest) != 3 || next != "" {
				t.Errorf("%d more, next %q, %v", len(rest), next, err)
			}
			if err := h.e.Detach(t.Context(), bad.name, true); err != nil {
				t.Fatal(err)
			}
			if err := h.e.ledger.Records("delivery/", func(key string, _ []byte) error {
				if key != keyOutlet+good.name {
					return fmt.Errorf("%q is left", key)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})()
	})
}

// run opens a store, and has an engine on it do something until end is called.
func run(t *testing.T, fs vfs.FS, b *board, do func(*house)) (end func()) {
	t.Helper()
	s, err := graph.Open("/store", graph.Options{FS: fs, Cache: 1 << 20, MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	h := startWith(t, s, b, Options{})
	do(h)
	synctest.Wait()
	return func() {
		h.end()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
