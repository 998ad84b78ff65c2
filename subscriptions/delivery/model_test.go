package delivery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

// seeds is how many courses are played: SOAK_SEEDS, or 30.
func seeds(t *testing.T) uint64 {
	text := os.Getenv("SOAK_SEEDS")
	if text == "" {
		return 30
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A course plays random notices, answers, crashes and pauses, and remembers what was
// acknowledged.
type course struct {
	t       *testing.T
	rng     *rand.Rand
	board   *board
	ledger  *mapLedger
	house   *house
	targets []*target
	specs   map[string]Settings
	calm    atomic.Bool // everybody answers 200
}

func newCourse(t *testing.T, seed uint64) *course {
	c := &course{t: t, rng: rand.New(rand.NewPCG(seed, 7)), board: new(board), ledger: newLedger(), specs: map[string]Settings{}}
	return c
}

// outlet adds one that answers at random.
func (c *course) outlet(name string, merge bool, s Settings, bad float64) {
	c.reader(name, c.board, merge, s, bad)
}

// reader adds one that reads a log, with what it has to do with the others drawn from c.
func (c *course) reader(name string, log *board, merge bool, s Settings, bad float64) {
	o := &target{name: name, board: log, merge: merge, hang: time.Duration(1+c.rng.IntN(500)) * time.Millisecond}
	rng := rand.New(rand.NewPCG(c.rng.Uint64(), 1))
	o.answer = func(s sent) (int, string) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if c.calm.Load() || rng.Float64() >= bad {
			return 200, ""
		}
		return []int{500, 0, 429, 503, 404}[rng.IntN(5)], []string{"", "30"}[rng.IntN(2)]
	}
	c.targets = append(c.targets, o)
	c.specs[name] = s
}

func (c *course) begin() {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(c.rng.Uint64(), 2))
	c.house = start1(c.t, c.ledger, c.board, Options{Global: 16, PerHost: 4, Random: func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return rng.Float64()
	}})
	order := c.rng.Perm(len(c.targets))
	for _, i := range order {
		o := c.targets[i]
		c.house.attach(o, c.specs[o.name])
	}
}

// step does one random thing.
func (c *course) step() {
	switch n := c.rng.IntN(25); {
	case n < 10:
		var notes []note
		for range 1 + c.rng.IntN(5) {
			bucket := fmt.Sprint("b", c.rng.IntN(4))
			notes = append(notes, note{lane: graph.Lane(c.rng.IntN(2)), key: bucket + fmt.Sprint("/", c.rng.IntN(2)), bucket: bucket})
		}
		c.house.add(notes...)
		for _, o := range c.targets {
			if o.board != c.board && c.rng.IntN(4) == 0 { // an hour closes, as it were
				o.board.add(note{lane: graph.Prompt})
				c.house.e.News(o.name)
			}
		}
	case n < 14:
		time.Sleep(time.Duration(c.rng.IntN(3000)) * time.Millisecond)
	case n < 16:
		time.Sleep(time.Duration(c.rng.IntN(3)) * time.Hour)
	case n < 18:
		c.crash()
	case n < 23:
		c.touch(c.targets[c.rng.IntN(len(c.targets))])
	case n < 24:
		if err := c.house.e.Pause(c.t.Context(), !c.house.e.Paused()); err != nil {
			c.t.Fatal(err)
		}
	default: // a disk that is full for a while, and perhaps at a crash
		c.ledger.refuse(&graph.NoSpaceError{})
		c.house.add(note{key: "b0/0", bucket: "b0"})
		time.Sleep(time.Duration(c.rng.IntN(20)) * time.Second)
		if c.rng.IntN(2) == 0 {
			c.crash()
		}
		c.ledger.refuse(nil)
	}
}

// crash is a new start: what was not written is lost, and so is what comes of calls in
// flight.
func (c *course) crash() {
	left := c.ledger.copy()
	var full *graph.NoSpaceError
	if err := c.house.stop(); err != nil && !errors.As(err, &full) {
		c.t.Error(err)
	}
	c.ledger = left
	c.begin()
}

// touch does something to one outlet.
func (c *course) touch(o *target) {
	e, ctx := c.house.e, c.t.Context()
	var err error
	switch c.rng.IntN(5) {
	case 0:
		err = e.Control(ctx, o.name, []string{"pause", "resume"}[c.rng.IntN(2)], graph.Cursor{})
	case 1:
		c.house.attach(o, c.specs[o.name])
	case 2:
		if err = e.Detach(ctx, o.name, false); err == nil {
			time.Sleep(time.Duration(c.rng.IntN(3000)) * time.Millisecond)
			c.house.attach(o, c.specs[o.name])
		}
	case 3:
		var letters []Letter
		if letters, _, err = e.DeadLetters(ctx, o.name, "", 3, nil); err == nil {
			_, err = e.Replay(ctx, letters, float64(c.rng.IntN(3)))
		}
	default: // not forwards, for that is to lose what lies between
		at := c.house.state(o.name).Cursors
		at[0].Seq = uint64(c.rng.Int64N(int64(min(at[0].Seq, at[1].Seq)) + 1))
		err = e.Control(ctx, o.name, "replay", at[0])
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// rest lets everything come to an end.
func (c *course) rest() {
	c.calm.Store(true)
	if err := c.house.e.Pause(c.t.Context(), false); err != nil {
		c.t.Fatal(err)
	}
	for range 3 {
		for _, o := range c.targets {
			if err := c.house.e.Control(c.t.Context(), o.name, "resume", graph.Cursor{}); err != nil {
				c.t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Hour)
		letters, _, err := c.house.e.DeadLetters(c.t.Context(), "", "", 0, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		if _, err := c.house.e.Replay(c.t.Context(), letters, 0); err != nil {
			c.t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Hour)
}

// took reports whether a call was acknowledged: the other side noted it, and its answer
// was one that counts.
func (c *course) took(o *target) (list []sent) {
	for _, s := range o.calls() {
		if s.status/100 == 2 || s.status == 404 {
			list = append(list, s)
		}
	}
	return list
}

// complete checks that everything was acknowledged that is on the board: its own key at
// its position or later, or a document that holds it.
func (c *course) complete(o *target) {
	c.t.Helper()
	took := c.took(o)
	for i, n := range o.board.notes {
		at := uint64(i + 1)
		if !slices.ContainsFunc(took, func(s sent) bool {
			if o.merge {
				return s.piece.Lane == n.lane && s.piece.After < at && at <= s.piece.Until
			}
			return s.piece.Key == n.key && s.piece.Until >= at
		}) {
			c.t.Errorf("%s was never told of %d, %+v", o.name, at, n)
		}
	}
	s := c.house.state(o.name)
	if head := o.board.head().Seq; s.Behind != 0 || s.Waiting != 0 || s.Calls != 0 || s.Letters != 0 {
		c.t.Errorf("%s is not at rest at %d: %+v", o.name, head, s)
	}
}

// inOrder checks a serial outlet: an acknowledged document is followed by what comes
// after it, or after a crash by something that begins no later.
func (c *course) inOrder(o *target) {
	c.t.Helper()
	var until [2]uint64
	type try struct {
		lane         graph.Lane
		after, until uint64
		attempt      int
	}
	tries := map[try]bool{}
	for _, s := range o.calls() {
		p := s.piece
		if tries[try{p.Lane, p.After, p.Until, s.attempt}] = true; s.attempt > 1 && !tries[try{p.Lane, p.After, p.Until, s.attempt - 1}] {
			c.t.Errorf("%s: attempt %d is for (%d, %d], and the one before it was not", o.name, s.attempt, p.After, p.Until)
		}
		passed := until[p.Lane]
		for passed < p.After && o.board.notes[passed].lane != p.Lane {
			passed++
		}
		if p.After > passed {
			c.t.Errorf("%s was told of (%d, %d] when it had acknowledged up to %d", o.name, p.After, p.Until, until[p.Lane])
		}
		if s.status/100 == 2 || s.status == 404 {
			until[p.Lane] = max(until[p.Lane], p.Until)
		}
	}
	if o.most > 1 {
		c.t.Errorf("%s had %d calls at once", o.name, o.most)
	}
}

func TestNothingIsLostWhateverIsAnsweredAndWheneverItCrashes(t *testing.T) {
	for seed := range seeds(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := newCourse(t, seed)
				c.outlet("websub/a", true, Settings{Serial: true, Host: "h"}, 0.3)
				c.outlet("websub/b", true, Settings{Serial: true, Host: "h"}, 0.9)
				c.outlet("sink/c", false, Settings{Concurrency: 4, Host: "h"}, 0.3)
				c.outlet("sink/d", false, Settings{Concurrency: 2, Rate: 5, Schedule: Schedule{Steps: []time.Duration{time.Second, time.Minute}}}, 0.7)
				c.begin()
				for range 60 {
					c.step()
				}
				c.rest()
				for _, o := range c.targets {
					c.complete(o)
					if o.merge {
						c.inOrder(o)
					}
				}
				if c.ledger.most > 2000 {
					t.Errorf("a row has %d bytes", c.ledger.most)
				}
				c.house.end()
				for key := range c.house.ledger.rows {
					if !strings.HasPrefix(key, keyOutlet) {
						t.Errorf("%q is left", key)
					}
				}
			})
		})
	}
}

// TestAnOutletOfALogOfItsOwnKeepsWhatAllOthersDo: its positions are few, and those of the
// journal that others read are many.
func TestAnOutletOfALogOfItsOwnKeepsWhatAllOthersDo(t *testing.T) {
	for seed := range seeds(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := newCourse(t, 2000+seed)
				c.outlet("websub/a", true, Settings{Serial: true, Host: "h"}, 0.3)
				for i, bad := range []float64{0.3, 0.9} {
					hours := new(board)
					c.reader(fmt.Sprint("websub/digest", i), hours, true, Settings{Serial: true, Host: "h", Head: hours.head}, bad)
				}
				c.begin()
				for range 60 {
					c.step()
				}
				c.rest()
				for _, o := range c.targets {
					c.complete(o)
					c.inOrder(o)
					if s := c.house.state(o.name); s.Cursors[graph.Prompt].Seq > o.board.head().Seq || s.Lost > 0 {
						t.Errorf("%s is at %+v of a log up to %d", o.name, s, o.board.head().Seq)
					}
				}
				c.house.end()
				for key := range c.house.ledger.rows {
					if !strings.HasPrefix(key, keyOutlet) {
						t.Errorf("%q is left", key)
					}
				}
			})
		})
	}
}

// ordered checks that before each call of an outlet all of its bucket up to it had been
// acknowledged by the one it is behind.
func (c *course) ordered(stage, before *target) {
	c.t.Helper()
	acks := c.took(before)
	for _, s := range stage.calls() {
		for at := uint64(1); at <= s.piece.Until; at++ {
			n := c.board.notes[at-1]
			if n.bucket != s.piece.Bucket || n.lane != s.piece.Lane {
				continue
			}
			if !slices.ContainsFunc(acks, func(a sent) bool {
				return a.piece.Key == n.key && a.piece.Until >= at && !a.ended.After(s.at)
			}) {
				c.t.Errorf("%s was called for %s up to %d at %s, before %s had acknowledged %d", stage.name, s.piece.Key, s.piece.Until,
					s.at.Format("02 15:04:05.000"), before.name, at)
				return
			}
		}
	}
}

func TestALaterStageNeverComesBeforeTheOneItIsBehind(t *testing.T) {
	for seed := range seeds(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := newCourse(t, 1000+seed)
				fast := Schedule{Steps: []time.Duration{time.Second, 5 * time.Second, time.Minute}}
				c.outlet("sink/inner", false, Settings{Concurrency: 3, Schedule: fast}, 0.5)
				c.outlet("sink/outer", false, Settings{Concurrency: 3, Schedule: fast, Behind: []string{"sink/inner"}}, 0.2)
				c.outlet("sink/edge", false, Settings{Concurrency: 3, Schedule: fast, Behind: []string{"sink/outer"}}, 0)
				c.begin()
				for range 80 {
					c.step()
				}
				c.rest()
				for _, o := range c.targets {
					c.complete(o)
				}
				c.ordered(c.targets[1], c.targets[0])
				c.ordered(c.targets[2], c.targets[1])
				c.house.end()
			})
		})
	}
}

func TestAStuckBucketHoldsItselfAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ledger, b := newLedger(), new(board)
		stuck := true
		inner := &target{name: "sink/inner", answer: func(s sent) (int, string) {
			if stuck && s.piece.Bucket == "b1" {
				return 503, ""
			}
			return 200, ""
		}}
		outer := &target{name: "sink/outer"}
		behind := Settings{Concurrency: 2, Behind: []string{inner.name}}
		h := start1(t, ledger, b, Options{})
		h.attach(inner, Settings{Concurrency: 2})
		h.attach(outer, behind)
		for i := range 300 {
			bucket := fmt.Sprint("b", i%3)
			h.add(note{key: bucket, bucket: bucket})
			time.Sleep(10 * time.Second)
		}
		for _, s := range outer.calls() {
			if s.piece.Bucket == "b1" {
				t.Fatal("the stuck bucket was passed on")
			}
		}
		if s := h.state(outer.name); s.Cursors[graph.Prompt].Seq != 300 || s.Health != Held {
			t.Errorf("the outer stage is at %+v", s)
		}
		if len(outer.calls()) != 200 {
			t.Errorf("of the other buckets %d calls were made", len(outer.calls()))
		}
		h.end()
		stuck = false
		h = start1(t, ledger.copy(), b, Options{})
		h.attach(outer, behind)
		time.Sleep(time.Minute)
		if len(outer.calls()) != 200 {
			t.Error("the outer stage did not wait for the inner one to be there")
		}
		h.attach(inner, Settings{Concurrency: 2})
		time.Sleep(24 * time.Hour)
		calls := outer.calls()
		if last := calls[len(calls)-1].piece; len(calls) != 201 || last.Bucket != "b1" || last.Until != 299 {
			t.Errorf("%d calls, at last %+v", len(calls), last)
		}
		h.end()
	})
}
