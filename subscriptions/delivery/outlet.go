package delivery

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// A Caller makes calls of HTTP. Its own limits bound how long a call takes.
type Caller interface {
	Do(*http.Request) (*http.Response, error)
}

// An Outlet is one subscription or sink: what it is to be sent, and how. It is asked by
// many goroutines at once.
type Outlet interface {
	// Cut returns what comes next in a lane strictly after a position: about room
	// pieces, oldest first, and the position up to which they cover the lane. It reads
	// a bounded piece of the journal and does not wait. A *graph.ResetError has the
	// engine go on at the oldest position that the journal has, or at the beginning of
	// a log of the outlet's own.
	Cut(ctx context.Context, lane graph.Lane, after uint64, room int) (Cut, error)
	// Request makes the call for a piece, anew for each attempt, which count from 1.
	// An error is judged like an answer.
	Request(ctx context.Context, p *Piece, attempt int) (*http.Request, error)
	// Judge says what an answer means, or that there was none.
	Judge(p *Piece, a Answer) Verdict
}

// A Cut is a part of the journal, as pieces.
type Cut struct {
	Pieces  []Piece
	Until   uint64 // position up to which the lane is covered
	More    bool   // there may be more behind it
	Merged  int    // notices that a later one in the same cut stands for
	Skipped int    // notices that the outlet does not want
}

// A Piece is what one call is about. It must not change once it was cut.
type Piece struct {
	Lane graph.Lane `json:"lane"`
	// After and Until bound the positions that it stands for; Until is where the newest
	// of them lies.
	After uint64 `json:"after"`
	Until uint64 `json:"until"`
	// Key is what it is about, such as a URL: pieces of one key are never called at
	// once, and a later one stands for those that wait. "" is nothing of the kind.
	Key string `json:"key,omitempty"`
	// Bucket is what outlets that are behind this one wait for.
	Bucket string `json:"bucket,omitempty"`
	// Data is what Request needs beside that, at most [MaxData]. It is kept with a retry.
	Data []byte `json:"data,omitempty"`
	// URI and Cause are what was changed and by what edit, for people to read.
	URI   string `json:"uri,omitempty"`
	Cause string `json:"cause,omitempty"`
}

// MaxData bounds the data of a piece, in bytes: a retry is a record of the store. A
// piece with more, or with names so long that it is no record, is a dead letter unsent.
const MaxData = 16 << 10

// An Answer is what came of a call.
type Answer struct {
	Status     int           // of HTTP; 0 if there was no answer
	RetryAfter time.Duration // that the answer asks for; 0 if it does not
	Body       string        // its first KiB
	Err        error         // why there was no answer
}

// A Verdict is what an answer means.
type Verdict uint8

const (
	Done    Verdict = iota // it was taken
	Again                  // it is tried again by the schedule, or when the answer says
	Refused                // it is never taken: a dead letter, without another attempt
	Gone                   // nothing is to be sent any more: the outlet ends
	Ignored                // it counts as taken
)

// Settings say how an outlet is called.
type Settings struct {
	Host        string   // its calls are counted for this one
	Serial      bool     // one call at a time, in order; what is given up is sent with the next content
	Concurrency int      // calls at once; 0 means 1
	Rate        float64  // calls a second, of which those of one second may come at once; 0 means no bound
	Schedule    Schedule // the zero Schedule is the default one
	// Behind are the outlets whose acknowledgements it waits for, bucket by bucket.
	Behind []string
	From   graph.Cursor // where it begins if it is new; zero is now
	DryRun bool         // do all but call
	Caller Caller
	// Head is up to where it can cut if that is not the journal but a log of its own, of
	// which nothing is lost and all is for it. Positions are then those of this log, which
	// may begin anew: a cut tells that by a reset. It is called while the engine is locked,
	// so it must not call the engine. Nil is the journal.
	Head func() graph.Cursor
}

// A Schedule says when a call that failed is made again.
type Schedule struct {
	Steps []time.Duration // after the first failure, the second, …; none means the default ones
	Limit int             // attempts in all; 0 means one more than steps
}

// defaultSteps are tight enough for a restart of the other side and patient enough for
// a weekend: 75 hours on average, since of the longest steps half is waited.
var defaultSteps = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 3 * time.Hour, 6 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 20 * time.Hour, 20 * time.Hour, 20 * time.Hour}

const (
	// spread keeps those who failed together from coming again together.
	spread = 0.1
	// maxRetryAfter bounds what an answer may ask for: who never wants to be called
	// again says 410.
	maxRetryAfter = 24 * time.Hour
)

func (s *Schedule) steps() []time.Duration {
	if len(s.Steps) == 0 {
		return defaultSteps
	}
	return s.Steps
}

// longest is its longest wait.
func (s *Schedule) longest() time.Duration { return slices.Max(s.steps()) }

// attempts is how many there are in all.
func (s *Schedule) attempts() int {
	if s.Limit > 0 {
		return s.Limit
	}
	return len(s.steps()) + 1
}

// wait is how long after failed attempt n (from 1) the next one is. Random is from 0
// up to 1: before the longest step it spreads by a tenth, from there on the wait is
// anything up to the step, since all of a long outage would meet there.
func (s *Schedule) wait(n int, random float64) time.Duration {
	steps := s.steps()
	step := steps[min(n, len(steps))-1]
	if step == s.longest() && len(steps) > 1 && step >= time.Hour {
		return time.Duration(float64(step) * (1 - random))
	}
	return time.Duration(float64(step) * (1 + spread*(2*random-1)))
}
