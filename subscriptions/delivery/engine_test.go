package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A mapLedger keeps records in memory. A crash is a new engine on it.
type mapLedger struct {
	mu   sync.Mutex
	rows map[string][]byte
	fail error // of PutRecords
	most int   // bytes of the longest row
	puts int
}

func newLedger() *mapLedger { return &mapLedger{rows: map[string][]byte{}} }

func (l *mapLedger) PutRecords(ctx context.Context, records []graph.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.puts++
	for _, r := range records {
		if r.Value == nil {
			delete(l.rows, r.Key)
			continue
		}
		l.rows[r.Key] = r.Value
		l.most = max(l.most, len(r.Value))
	}
	return ctx.Err()
}

func (l *mapLedger) Records(prefix string, f func(key string, value []byte) error) error {
	l.mu.Lock()
	rows := maps.Clone(l.rows)
	l.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := f(key, rows[key]); err != nil {
			return err
		}
	}
	return nil
}

// written is how often it was written to.
func (l *mapLedger) written() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.puts
}

// refuse has all writes fail, or none.
func (l *mapLedger) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// copy is what a crash leaves.
func (l *mapLedger) copy() *mapLedger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &mapLedger{rows: maps.Clone(l.rows)}
}

// A note is a notice of the tests' journal.
type note struct {
	lane   graph.Lane
	key    string
	bucket string
}

// A board is a journal: position n is notes[n-1].
type board struct {
	mu     sync.Mutex
	notes  []note
	oldest uint64
}

func (b *board) add(notes ...note) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes = append(b.notes, notes...)
}

func (b *board) head() graph.Cursor {
	b.mu.Lock()
	defer b.mu.Unlock()
	return graph.Cursor{Epoch: 1, Seq: uint64(len(b.notes))}
}

func (b *board) first() graph.Cursor {
	b.mu.Lock()
	defer b.mu.Unlock()
	return graph.Cursor{Epoch: 1, Seq: b.oldest}
}

// cut reads up to room notes of a lane.
func (b *board) cut(lane graph.Lane, after uint64, room int) (Cut, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if after < b.oldest || after > uint64(len(b.notes)) {
		return Cut{}, &graph.ResetError{Reason: "trimmed"}
	}
	c := Cut{Until: after}
	for at := after; at < uint64(len(b.notes)); at++ {
		if n := b.notes[at]; n.lane == lane {
			if len(c.Pieces) == room {
				c.More = true
				return c, nil
			}
			c.Pieces = append(c.Pieces, Piece{Lane: lane, After: at, Until: at + 1, Key: n.key, Bucket: n.bucket, URI: fmt.Sprint("urn:", at+1)})
		}
		c.Until = at + 1
	}
	return c, nil
}

// A sent call is one that an outlet made.
type sent struct {
	outlet  string
	piece   Piece
	attempt int
	at      time.Time // it began
	ended   time.Time // it was answered …
	status  int       // … with
}

// A target is an outlet of the tests, and who it calls.
type target struct {
	name   string
	board  *board
	merge  bool // one document for all that waits
	answer func(s sent) (status int, header string)
	hang   time.Duration

	mu   sync.Mutex
	got  []sent
	open int
	most int // calls at once
}

func (o *target) Cut(_ context.Context, lane graph.Lane, after uint64, room int) (Cut, error) {
	if !o.merge {
		return o.board.cut(lane, after, room)
	}
	c, err := o.board.cut(lane, after, 1<<30)
	if n := len(c.Pieces); n > 0 {
		c.Merged = n - 1
		c.Pieces = []Piece{{Lane: lane, After: after, Until: c.Until}}
	}
	return c, err
}

type pieceKey struct{}

func (o *target) Request(ctx context.Context, p *Piece, attempt int) (*http.Request, error) {
	ctx = context.WithValue(ctx, pieceKey{}, sent{outlet: o.name, piece: *p, attempt: attempt, at: time.Now()})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://user:hush@example.org/hook", strings.NewReader(p.URI))
	if err == nil {
		r.Header.Set("Authorization", "Bearer hush")
	}
	return r, err
}

func (o *target) Judge(_ *Piece, a Answer) Verdict {
	switch {
	case a.Err != nil:
		return Again
	case a.Status/100 == 2:
		return Done
	case a.Status == http.StatusGone:
		return Gone
	case a.Status == http.StatusNotFound:
		return Ignored
	case a.Status == http.StatusBadRequest:
		return Refused
	}
	return Again
}

// Do is the other side.
func (o *target) Do(r *http.Request) (*http.Response, error) {
	s := r.Context().Value(pieceKey{}).(sent)
	o.mu.Lock()
	o.open++
	o.most = max(o.most, o.open)
	hang := o.hang
	o.mu.Unlock()
	defer func() { o.mu.Lock(); o.open--; o.mu.Unlock() }()
	if hang > 0 {
		select {
		case <-time.After(hang):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	status, header := 200, ""
	if o.answer != nil {
		status, header = o.answer(s)
	}
	s.status, s.ended = status, time.Now()
	o.mu.Lock()
	o.got = append(o.got, s)
	o.mu.Unlock()
	if status == 0 {
		return nil, errors.New("refused")
	}
	resp := &http.Response{StatusCode: status, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(bytes.NewReader([]byte("so it is")))}
	if header != "" {
		resp.Header.Set("Retry-After", header)
	}
	return resp, nil
}

// mostOpen is how many calls it had at once.
func (o *target) mostOpen() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.most
}

// calls returns what was called so far.
func (o *target) calls() []sent {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got)
}

// A house is an engine that runs.
type house struct {
	t      *testing.T
	ledger *mapLedger
	board  *board
	e      *Engine
	stop   func() error
}

func start1(t *testing.T, l *mapLedger, b *board, o Options) *house {
	t.Helper()
	h := startWith(t, l, b, o)
	h.ledger = l
	return h
}

// startWith is start1 on a ledger of another kind.
func startWith(t *testing.T, l Ledger, b *board, o Options) *house {
	t.Helper()
	o.Head, o.Oldest = b.head, b.first
	if o.Random == nil {
		o.Random = func() float64 { return 0.5 }
	}
	e, err := New(l, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return &house{t, nil, b, e, func() error { cancel(); return <-done }}
}

func (h *house) end() {
	h.t.Helper()
	if err := h.stop(); err != nil {
		h.t.Error(err)
	}
}

// attach attaches an outlet that calls itself.
func (h *house) attach(o *target, s Settings) {
	h.t.Helper()
	if o.board == nil { // it may be called already
		o.board = h.board
	}
	s.Caller = o
	if s.Host == "" {
		s.Host = o.name
	}
	if err := h.e.Attach(h.t.Context(), o.name, o, s); err != nil {
		h.t.Fatal(err)
	}
}

// add writes notices and tells everybody.
func (h *house) add(notes ...note) {
	h.board.add(notes...)
	h.e.mu.Lock()
	names := slices.Collect(maps.Keys(h.e.outlets))
	h.e.mu.Unlock()
	for _, name := range names {
		h.e.News(name)
	}
}

func (h *house) state(name string) State {
	h.t.Helper()
	s, ok := h.e.State(name)
	if !ok {
		h.t.Fatalf("no outlet %s", name)
	}
	return s
}

// hosts is how many the engine remembers.
func (h *house) hosts() int {
	h.e.mu.Lock()
	defer h.e.mu.Unlock()
	return len(h.e.hosts)
}

// positions says which pieces were called, in order.
func positions(calls []sent) (list []uint64) {
	for _, s := range calls {
		list = append(list, s.piece.Until)
	}
	return list
}

func prompt(n int) []note { return slices.Repeat([]note{{lane: graph.Prompt}}, n) }

func TestAnOutletIsCalledForEachPieceAndItsCursorFollows(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o := &target{name: "sink/a", hang: time.Second}
		h.attach(o, Settings{Concurrency: 3})
		h.add(prompt(10)...)
		time.Sleep(time.Minute)
		got := positions(o.calls())
		slices.Sort(got)
		if fmt.Sprint(got) != "[1 2 3 4 5 6 7 8 9 10]" || o.most != 3 {
			t.Errorf("called for %v, %d at once", got, o.most)
		}
		s := h.state(o.name)
		if s.Cursors[graph.Prompt].Seq != 10 || s.Behind != 0 || s.Sent != 10 || s.Health != Active {
			t.Errorf("%+v", s)
		}
		h.end()
		h = start1(t, h.ledger.copy(), h.board, Options{})
		again := &target{name: "sink/a"}
		h.attach(again, Settings{})
		time.Sleep(time.Minute)
		if calls := again.calls(); len(calls) != 0 {
			t.Errorf("after a restart, called again for %v", positions(calls))
		}
		h.end()
	})
}

func TestALogOfAnOutletsOwnThatBeginsAnewIsReadFromItsBeginning(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprint("the hub starts again: ", restarts), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				b, hours := new(board), new(board)
				h := start1(t, newLedger(), b, Options{})
				o := &target{name: "websub/digest", board: hours, merge: true}
				own := Settings{Serial: true, Head: hours.head}
				hours.add(prompt(5)...)
				h.attach(o, own) // it begins now
				close := func(n int) { hours.add(prompt(n)...); h.e.News(o.name); time.Sleep(time.Minute) }
				close(1)
				again := func() {
					if restarts {
						h.end()
						h = start1(t, h.ledger.copy(), b, Options{})
						h.attach(o, own)
					}
				}
				again() // with a journal that is shorter
				h.add(prompt(1000)...)
				time.Sleep(time.Hour) // of which it is told nothing
				hours.mu.Lock()
				hours.notes = nil
				hours.mu.Unlock()
				again()
				close(2)
				close(1)
				var got []string
				for _, s := range o.calls() {
					got = append(got, fmt.Sprintf("(%d, %d]", s.piece.After, s.piece.Until))
				}
				if want := []string{"(5, 6]", "(0, 2]", "(2, 3]"}; !slices.Equal(got, want) {
					t.Errorf("called for %v, want %v", got, want)
				}
				if s := h.state(o.name); s.Cursors != [2]graph.Cursor{{Epoch: 1, Seq: 3}, {Epoch: 1, Seq: 3}} || s.Behind != 0 || s.Lost != 0 {
					t.Errorf("%+v", s)
				}
				h.end()
			})
		})
	}
}

func TestASerialOutletKeepsItsRangeUntilItIsGivenUpAndThenMerges(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger, b := newLedger(), new(board)
		h := start1(t, ledger, b, Options{})
		down := func(sent) (int, string) { return 500, "" }
		o := &target{name: "websub/a", merge: true, answer: down}
		h.attach(o, Settings{Serial: true})
		h.add(prompt(3)...)
		time.Sleep(time.Minute)
		first := o.calls()
		h.add(prompt(4)...)
		time.Sleep(10 * time.Hour)
		h.end()

		h = start1(t, ledger.copy(), b, Options{})
		o.answer = down
		h.attach(o, Settings{Serial: true})
		time.Sleep(90 * time.Hour)
		calls := o.calls()
		tried := 0
		for _, s := range calls {
			if s.piece.Until == first[0].piece.Until {
				tried++
			}
		}
		if want := len(defaultSteps) + 1; tried != want {
			t.Errorf("the first content was tried %d times, want %d", tried, want)
		}
		if last := calls[len(calls)-1].piece; last.After != 0 || last.Until != 7 {
			t.Errorf("after it was given up, %d to %d is tried", last.After, last.Until)
		}
		o.answer = nil
		if err := h.e.Control(t.Context(), o.name, "resume", graph.Cursor{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		calls = o.calls()
		if last := calls[len(calls)-1].piece; last.After != 0 || last.Until != 7 {
			t.Errorf("at last it got %d to %d", last.After, last.Until)
		}
		if s := h.state(o.name); s.Cursors[graph.Prompt].Seq != 7 || s.Health != Active || s.GivenUp != 1 {
			t.Errorf("%+v", s)
		}
		h.end()
	})
}

func TestTheScheduleEndsAfterThreeDaysAndWhatIsGivenUpIsADeadLetter(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger, b := newLedger(), new(board)
		h := start1(t, ledger, b, Options{})
		o := &target{name: "sink/a", answer: func(s sent) (int, string) {
			if s.piece.Until == 2 {
				return 503, ""
			}
			return 200, ""
		}}
		h.attach(o, Settings{Concurrency: 2})
		h.add(prompt(3)...)
		time.Sleep(time.Second)
		if s := h.state(o.name); s.Cursors[graph.Prompt].Seq != 3 || s.Waiting != 1 {
			t.Errorf("one that fails holds the others: %+v", s)
		}
		for range 10 { // restarts keep the attempts and when they are due
			time.Sleep(8 * time.Hour)
			h.end()
			h = start1(t, ledger.copy(), b, Options{})
			ledger = h.ledger
			h.attach(o, Settings{Concurrency: 2})
		}
		time.Sleep(time.Second)
		var tries []time.Duration
		var attempts []int
		for _, s := range o.calls() {
			if s.piece.Until == 2 {
				tries, attempts = append(tries, s.at.Sub(o.got[0].at).Round(time.Second)), append(attempts, s.attempt)
			}
		}
		if len(tries) != len(defaultSteps)+1 || !slices.IsSorted(attempts) || attempts[len(attempts)-1] != len(attempts) {
			t.Errorf("tried at %v, attempts %v", tries, attempts)
		}
		list, next, err := h.e.DeadLetters(t.Context(), "", "", 0, nil)
		if err != nil || len(list) != 1 || next != "" {
			t.Fatalf("dead letters %+v, %q, %v", list, next, err)
		}
		l := list[0]
		if l.Outlet != o.name || l.Status != 503 || l.Answer != "so it is" || l.URL != "https://example.org/hook" || l.Body != "urn:2" || l.Attempts != len(defaultSteps)+1 {
			t.Errorf("%+v", l)
		}
		if text := fmt.Sprintf("%+v", l); strings.Contains(text, "hush") {
			t.Errorf("a secret is kept: %s", text)
		}
		o.answer = nil
		before := len(o.calls())
		if n, err := h.e.Replay(t.Context(), list, 0); n != 1 || err != nil {
			t.Errorf("replayed %d, %v", n, err)
		}
		time.Sleep(time.Second)
		if calls := o.calls()[before:]; len(calls) != 1 || calls[0].piece.Until != 2 || calls[0].attempt != 1 {
			t.Errorf("replayed: %+v", calls)
		}
		if n, err := h.e.Replay(t.Context(), list, 0); n != 0 || err != nil {
			t.Errorf("replayed once more: %d, %v", n, err)
		}
		h.end()
		for key := range ledger.rows {
			if strings.HasPrefix(key, keyDead) || strings.HasPrefix(key, keyRetry) {
				t.Errorf("%q is left", key)
			}
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for text, want := range map[string]time.Duration{
			"120": 2 * time.Minute, "1": 5 * time.Second, "soon": 5 * time.Second, "-5": 5 * time.Second, "999999999": 24 * time.Hour,
			"date": time.Hour,
		} {
			h := start1(t, newLedger(), new(board), Options{})
			o := &target{name: "sink/a"}
			o.answer = func(s sent) (int, string) {
				if s.attempt > 1 {
					return 200, ""
				}
				if text == "date" {
					return 503, time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
				}
				return 503, text
			}
			h.attach(o, Settings{})
			h.add(prompt(1)...)
			time.Sleep(48 * time.Hour)
			calls := o.calls()
			if len(calls) != 2 || calls[1].at.Sub(calls[0].at).Round(time.Second) != want {
				t.Errorf("%q: called again after %v, want %s", text, calls[1].at.Sub(calls[0].at), want)
			}
			h.end()
		}
	})
}

func TestAHostThatHangsDelaysNobodyElse(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{Global: 32, PerHost: 4})
		var bad, good []*target
		for i := range 100 {
			b := &target{name: fmt.Sprint("websub/bad", i), merge: true, hang: time.Hour}
			g := &target{name: fmt.Sprint("websub/good", i), merge: true, hang: time.Millisecond}
			h.attach(b, Settings{Serial: true, Host: "bad"})
			h.attach(g, Settings{Serial: true, Host: fmt.Sprint("good", i%10)})
			bad, good = append(bad, b), append(good, g)
		}
		h.add(prompt(1)...)
		time.Sleep(time.Second)
		for _, g := range good {
			if len(g.calls()) != 1 {
				t.Errorf("%s was called %d times", g.name, len(g.calls()))
			}
		}
		open := 0
		for _, b := range bad {
			b.mu.Lock()
			open += b.open
			b.mu.Unlock()
		}
		if open != 4 {
			t.Errorf("%d calls hang at one host", open)
		}
		h.end()
	})
}

func TestThePromptLaneComesFirstAndTheBulkLaneGetsATenth(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o := &target{name: "sink/a", hang: 100 * time.Microsecond} // longer than a cut takes
		h.board.add(slices.Repeat([]note{{lane: graph.Bulk}}, 3000)...)
		h.board.add(prompt(2000)...)
		h.attach(o, Settings{Rate: 1000, From: graph.Cursor{Epoch: 1, Seq: 0}})
		if err := h.e.Control(t.Context(), o.name, "replay", graph.Cursor{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		calls := o.calls()
		if len(calls) != 5000 {
			t.Fatalf("%d calls", len(calls))
		}
		bulk := 0
		for _, s := range calls[:2000] {
			if s.piece.Lane == graph.Bulk {
				bulk++
			}
		}
		if bulk < 190 || bulk > 300 {
			t.Errorf("%d of the first 2,000 calls are of the bulk lane", bulk)
		}
		if took := calls[len(calls)-1].at.Sub(calls[0].at); took < 3900*time.Millisecond || took > 5*time.Second {
			t.Errorf("5,000 calls at 1,000 a second took %s", took)
		}
		h.end()
	})
}

func TestTheBrakeStopsEverybodyAndOutlivesARestart(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger, b := newLedger(), new(board)
		h := start1(t, ledger, b, Options{})
		o := &target{name: "sink/a"}
		h.attach(o, Settings{})
		if err := h.e.Pause(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		h.add(prompt(5)...)
		time.Sleep(time.Hour)
		h.end()
		h = start1(t, ledger.copy(), b, Options{})
		h.attach(o, Settings{})
		h.add(prompt(5)...)
		time.Sleep(time.Hour)
		if n := len(o.calls()); n != 0 || !h.e.Paused() {
			t.Errorf("%d calls with the brake on", n)
		}
		if err := h.e.Pause(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := len(o.calls()); n != 10 {
			t.Errorf("%d calls afterwards", n)
		}
		h.end()
	})
}

func TestOneCallIsForAllThatWaitsOfAKey(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{})
		o := &target{name: "sink/a", hang: time.Second}
		h.attach(o, Settings{Concurrency: 1})
		for i := range 20 {
			h.add(note{key: fmt.Sprint(i % 2)})
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		// The first is called at once; the others wait behind it, and 20 and 19 stand for them.
		if got := positions(o.calls()); fmt.Sprint(got) != "[1 20 19]" && fmt.Sprint(got) != "[1 19 20]" {
			t.Errorf("called for %v", got)
		}
		if s := h.state(o.name); s.Cursors[graph.Prompt].Seq != 20 {
			t.Errorf("%+v", s)
		}
		h.end()
	})
}

func TestAnAnswerOf410EndsAnOutletAndForgetsIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ended := ""
		h := start1(t, newLedger(), new(board), Options{Ended: func(name string) { ended = name }})
		o := &target{name: "websub/a", merge: true, answer: func(sent) (int, string) { return 410, "" }}
		h.attach(o, Settings{Serial: true})
		h.add(prompt(1)...)
		time.Sleep(time.Second)
		synctest.Wait()
		if _, ok := h.e.State(o.name); ok || ended != o.name || len(h.ledger.rows) != 0 {
			t.Errorf("ended %q, rows %v", ended, slices.Collect(maps.Keys(h.ledger.rows)))
		}
		h.end()
	})
}

func TestAnotherCallWaitsForItsPlace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := start1(t, newLedger(), new(board), Options{PerHost: 2})
		o := &target{name: "x", hang: time.Minute}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				r, err := o.Request(t.Context(), &Piece{}, 1)
				if err == nil {
					_, err = h.e.Call(t.Context(), "x", o, r)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := h.e.Call(ctx, "x", o, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("no place in time: %v", err)
			}
		})
		wg.Wait()
		if most, hosts := o.mostOpen(), h.hosts(); most != 2 || hosts != 0 {
			t.Errorf("%d calls at once, %d hosts are remembered", most, hosts)
		}
		h.end()
	})
}
