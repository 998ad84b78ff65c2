package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

// A heavy outlet cuts pieces that are too much for a record.
type heavy struct {
	*target
	data int
}

func (o *heavy) Cut(ctx context.Context, lane graph.Lane, after uint64, room int) (Cut, error) {
	c, err := o.target.Cut(ctx, lane, after, room)
	for i := range c.Pieces {
		if c.Pieces[i].Until%2 == 0 {
			c.Pieces[i].Data = make([]byte, o.data)
			c.Pieces[i].Cause = strings.Repeat("\x00", 8<<10)
		}
	}
	return c, err
}

func (o *heavy) Request(ctx context.Context, p *Piece, attempt int) (*http.Request, error) {
	r, err := o.target.Request(ctx, p, attempt)
	if err == nil {
		r.Header.Set("X-Long", strings.Repeat("\x00", 100<<10))
		r.URL.RawQuery = strings.Repeat("q", 100<<10)
	}
	return r, err
}

func TestWhatIsTooMuchForARecordEndsNobody(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, data := range []int{MaxData, MaxData + 1, 1 << 20} {
			s := newLedger()
			h := start1(t, s, new(board), Options{})
			o := &heavy{&target{name: "sink/a", board: h.board, answer: func(sent) (int, string) { return 503, "" }}, data}
			if err := h.e.Attach(t.Context(), o.name, o, Settings{Caller: o, Schedule: Schedule{Steps: []time.Duration{time.Minute}}}); err != nil {
				t.Fatal(err)
			}
			h.add(prompt(4)...)
			time.Sleep(24 * time.Hour)
			list, _, err := h.e.DeadLetters(t.Context(), "", "", 0, nil)
			if err != nil || len(list) != 4 {
				t.Errorf("%d dead letters, %v", len(list), err)
			}
			if s.most > graph.MaxRecord {
				t.Errorf("a row has %d bytes", s.most)
			}
			h.end()
		}
	})
}

// TestOnAFullDiskOthersCursorsStillMove: whoever needs new rows waits for room, and
// nobody else does.
func TestOnAFullDiskOthersCursorsStillMove(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l, b := &fullLedger{mapLedger: newLedger()}, new(board)
		h := startWith(t, l, b, Options{})
		bad := &target{name: "sink/bad", answer: func(sent) (int, string) { return 503, "" }}
		good := &target{name: "sink/good"}
		h.attach(bad, Settings{})
		h.attach(good, Settings{})
		l.full.Store(true)
		h.add(prompt(10)...)
		time.Sleep(10 * time.Second)
		left := l.copy()
		h.end2()
		h = start1(t, left, b, Options{})
		again, both := len(good.calls()), len(bad.calls())
		h.attach(bad, Settings{})
		h.attach(good, Settings{})
		time.Sleep(10 * time.Second)
		if n := len(good.calls()) - again; n != 0 {
			t.Errorf("%d calls were repeated", n)
		}
		if len(bad.calls()) == both {
			t.Error("what had no row was not called again")
		}
		h.end()
	})
}

// TestOnAFullDiskWhatNeedsNoRoomIsDoneAndANewOutletIsNot: that others wait for room is
// no reason to refuse it.
func TestOnAFullDiskWhatNeedsNoRoomIsDoneAndANewOutletIsNot(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l, b := &fullLedger{mapLedger: newLedger()}, new(board)
		h := startWith(t, l, b, Options{})
		bad := &target{name: "sink/bad", answer: func(sent) (int, string) { return 503, "" }}
		good := &target{name: "sink/good"}
		h.attach(bad, Settings{})
		h.attach(good, Settings{})
		l.full.Store(true)
		h.add(prompt(1)...)
		time.Sleep(10 * time.Second) // the bad one waits for room for a retry
		for _, action := range []string{"pause", "resume"} {
			if err := h.e.Control(t.Context(), good.name, action, graph.Cursor{}); err != nil {
				t.Errorf("%s: %v", action, err)
			}
		}
		if _, _, err := h.e.DeadLetters(t.Context(), "", "", 0, nil); err != nil {
			t.Errorf("dead letters: %v", err)
		}
		h.attach(good, Settings{Concurrency: 2})
		fresh := &target{name: "sink/new", board: b}
		if err := h.e.Attach(t.Context(), fresh.name, fresh, Settings{Caller: fresh, Host: "new"}); !errors.As(err, &errNoSpace) {
			t.Errorf("a new outlet: %v", err)
		}
		if _, attached := h.e.State(fresh.name); attached {
			t.Error("a new outlet for which there is no room is attached")
		}
		h.add(prompt(1)...)
		time.Sleep(time.Second)
		if got := positions(good.calls()); fmt.Sprint(got) != "[1 2]" {
			t.Errorf("the good one was called for %v", got)
		}
		if err := h.e.Detach(t.Context(), good.name, false); err != nil {
			t.Errorf("detaching: %v", err)
		}
		l.full.Store(false)
		time.Sleep(10 * time.Second)
		h.end()
		for key := range l.rows {
			if strings.Contains(key, fresh.name) {
				t.Errorf("%q is kept of an outlet that never was", key)
			}
		}
		if len(fresh.calls()) > 0 {
			t.Error("and it was called")
		}
	})
}

// A fullLedger takes no new keys while it is full.
type fullLedger struct {
	*mapLedger
	full atomic.Bool
}

func (l *fullLedger) PutRecords(ctx context.Context, records []graph.Record) error {
	l.mu.Lock()
	for _, r := range records {
		if _, known := l.rows[r.Key]; l.full.Load() && r.Value != nil && !known {
			l.mu.Unlock()
			return &graph.NoSpaceError{}
		}
	}
	l.mu.Unlock()
	return l.mapLedger.PutRecords(ctx, records)
}

var errNoSpace *graph.NoSpaceError

// end2 ends an engine whose disk is full.
func (h *house) end2() {
	h.t.Helper()
	if err := h.stop(); !errors.As(err, &errNoSpace) {
		h.t.Error(err)
	}
}

func TestALetterThatIsWrittenTwiceIsOne(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger, b := newLedger(), new(board)
		h := start1(t, ledger, b, Options{})
		o := &target{name: "sink/a", answer: func(sent) (int, string) { return 400, "" }}
		h.attach(o, Settings{})
		h.add(note{key: "k", bucket: "b"})
		for range 3 {
			time.Sleep(time.Minute)
			if err := h.e.Control(t.Context(), o.name, "replay", graph.Cursor{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if s := h.state(o.name); s.Letters != 1 || len(o.calls()) != 4 {
			t.Errorf("%d calls, %d letters", len(o.calls()), s.Letters)
		}
		list, _, err := h.e.DeadLetters(t.Context(), "", "", 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := h.e.Drop(t.Context(), list); n != 1 || err != nil || h.state(o.name).Letters != 0 {
			t.Errorf("dropped %d, %v, %d are left", n, err, h.state(o.name).Letters)
		}
		h.end()
	})
}

func TestWhatIsLeftOfAnAnswerIsReadSoThatItsConnectionLives(t *testing.T) {
	body := strings.NewReader(strings.Repeat("x", 10<<10))
	o := &answering{body: body}
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o.target = &target{name: "sink/a", board: h.board}
		if err := h.e.Attach(t.Context(), o.name, o, Settings{Caller: o}); err != nil {
			t.Fatal(err)
		}
		h.add(prompt(1)...)
		time.Sleep(time.Second)
		h.end()
		if body.Len() != 0 {
			t.Errorf("%d bytes are left", body.Len())
		}
	})
}

type answering struct {
	*target
	body *strings.Reader
}

type closing struct{ *strings.Reader }

func (closing) Close() error { return nil }

func (o *answering) Do(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: -1, Body: closing{o.body}}, nil
}

func TestLettersShowWhatWasPurgedAndNoSecret(t *testing.T) {
	for header, hidden := range map[string]bool{
		"Surrogate-Key": false, "Xkey-Purge": false, "xkey": false, "Content-Type": false, "Host": false,
		"Authorization": true, "Fastly-Key": true, "X-Api-Key": true, "X-Hub-Signature": true, "Webhook-Signature": true, "Cookie": true,
		"X-Auth-Email": true, "Private-Token": true,
	} {
		if got := secret(header); got != hidden {
			t.Errorf("%s is hidden: %v", header, got)
		}
	}
}
