package subscriptions

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/freshwire/freshwire/graph"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memJournal is a journal in memory. It returns short batches now and then, as
// a journal in chunks does.
type memJournal struct {
	mu      sync.Mutex
	epoch   graph.Epoch
	trimmed uint64 // notices dropped from the start
	notices []graph.Notice
	grown   chan struct{} // closed and replaced when notices are added
	short   *rand.Rand    // nil: always full batches
}

func newMemJournal() *memJournal {
	return &memJournal{epoch: 0x5f3a, grown: make(chan struct{})}
}

// add appends n, giving it its cursor and, if it has none, its time.
func (j *memJournal) add(ns ...graph.Notice) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, n := range ns {
		n.Cursor = graph.Cursor{Epoch: j.epoch, Seq: j.newest() + 1}
		if n.At.IsZero() {
			n.At = time.Now()
		}
		j.notices = append(j.notices, n)
	}
	close(j.grown)
	j.grown = make(chan struct{})
}

// trim drops all notices up to seq.
func (j *memJournal) trim(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.notices = slices.Clone(j.notices[seq-j.trimmed:])
	j.trimmed = seq
}

func (j *memJournal) newest() uint64 { return j.trimmed + uint64(len(j.notices)) }

func (j *memJournal) all() []graph.Notice {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.notices)
}

func (j *memJournal) Token() graph.Cursor {
	j.mu.Lock()
	defer j.mu.Unlock()
	return graph.Cursor{Epoch: j.epoch, Seq: j.newest()}
}

func (j *memJournal) Oldest() graph.Cursor {
	j.mu.Lock()
	defer j.mu.Unlock()
	return graph.Cursor{Epoch: j.epoch, Seq: j.trimmed}
}

func (j *memJournal) Since(t time.Time) (graph.Cursor, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.IndexFunc(j.notices, func(n graph.Notice) bool { return !n.At.Before(t) })
	if i < 0 {
		i = len(j.notices)
	}
	return graph.Cursor{Epoch: j.epoch, Seq: j.trimmed + uint64(i)}, nil
}

func (j *memJournal) ReadFrom(ctx context.Context, c graph.Cursor, limit int) ([]graph.Notice, graph.Cursor, error) {
	for {
		j.mu.Lock()
		ns, err := j.after(c)
		grown := j.grown
		if j.short != nil {
			limit = 1 + j.short.IntN(limit)
		}
		j.mu.Unlock()
		if err != nil {
			return nil, graph.Cursor{}, err
		}
		if len(ns) > 0 {
			ns = ns[:min(limit, len(ns))]
			return ns, ns[len(ns)-1].Cursor, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, graph.Cursor{}, ctx.Err()
		}
	}
}

// Scan reads short now and then, like ReadFrom, and applies what a pick says
// exactly.
func (j *memJournal) Scan(p *graph.Pick, c graph.Cursor, limit int) ([]graph.Notice, graph.Cursor, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	ns, err := j.after(c)
	if err != nil {
		return nil, graph.Cursor{}, err
	}
	if j.short != nil {
		limit = 1 + j.short.IntN(limit)
	}
	var out []graph.Notice
	for i := 0; i < len(ns) && i < 2000 && len(out) < limit; i++ {
		c = ns[i].Cursor
		if picks(p, &ns[i]) {
			out = append(out, ns[i])
		}
	}
	return out, c, nil
}

func picks(p *graph.Pick, n *graph.Notice) bool {
	if p.Kinds != 0 && p.Kinds&(1<<n.Kind) == 0 || p.Lanes != 0 && p.Lanes&(1<<n.Lane) == 0 {
		return false
	}
	listed := slices.ContainsFunc(n.Lists, func(l graph.ListID) bool { return slices.Contains(p.Lists, l) })
	return p.Lists == nil && p.URIs == nil || listed || slices.Contains(p.URIs, n.URI)
}

func (j *memJournal) after(c graph.Cursor) ([]graph.Notice, error) {
	reset := &graph.ResetError{Oldest: graph.Cursor{Epoch: j.epoch, Seq: j.trimmed}, Newest: graph.Cursor{Epoch: j.epoch, Seq: j.newest()}}
	switch {
	case c.Epoch != j.epoch:
		reset.Reason = "epoch"
	case c.Seq < j.trimmed:
		reset.Reason = "trimmed"
	case c.Seq > j.newest():
		reset.Reason = "future"
	default:
		return j.notices[c.Seq-j.trimmed:], nil
	}
	return nil, reset
}
