package graph

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// DefaultKeepAge is how long the journal is kept: a mirror that was away for
	// a week catches up from it.
	DefaultKeepAge = 7 * 24 * time.Hour
	// defaultTailBytes bounds the newest journal held in memory for live readers.
	defaultTailBytes = 64 << 20
	// chunkOverhead is what a chunk in memory costs beside its ids and texts.
	chunkOverhead = 200
	// noticeSize is what a notice that is spelled out costs beside it.
	noticeSize = 400
)

// journal is the readers' side of the log: what is durable, its newest part in
// memory, and who waits for more. The apply loop publishes to it.
type journal struct {
	mu     sync.Mutex
	tail   []chunk // contiguous, ends at newest
	bytes  int64
	limit  int64
	oldest uint64        // everything up to it is trimmed
	newest uint64        // everything up to it is durable
	wake   chan struct{} // closed when newest moves
	// cut is the position up to which the store may be trimmed already. Whoever
	// has read of the store what may go looks here afterwards.
	cut atomic.Uint64
}

func (j *journal) publish(chunks []chunk, newest uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range chunks {
		chunks[i].share()
		j.bytes += chunks[i].size()
	}
	j.tail = append(j.tail, chunks...)
	drop := 0
	for j.bytes > j.limit && drop < len(j.tail)-1 {
		j.bytes -= j.tail[drop].size()
		drop++
	}
	j.tail = j.tail[drop:] // never moved in place: readers hold parts of it
	j.newest = newest
	close(j.wake)
	j.wake = make(chan struct{})
}

func (c *chunk) size() int64 {
	n := chunkOverhead + int64(len(c.ids))*8 + int64(len(c.causeID)+len(c.version)+len(c.hash))
	for i := range c.marks {
		n += markOverhead + 2*int64(len(c.marks[i].at))
	}
	if c.spelled != nil {
		n += int64(len(c.ids)) * noticeSize
	}
	return n
}

// last is the position of a chunk's last notice.
func (c *chunk) last() uint64 { return c.first + uint64(len(c.ids)) - 1 }

// after returns the chunks of the tail that hold positions after seq; ok is
// false if some of them are in the store alone.
func (j *journal) after(seq uint64) (chunks []chunk, newest uint64, wake chan struct{}, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.tail) == 0 || seq+1 < j.tail[0].first {
		return nil, j.newest, j.wake, seq >= j.newest
	}
	i := sort.Search(len(j.tail), func(i int) bool { return j.tail[i].last() > seq })
	return j.tail[i:len(j.tail):len(j.tail)], j.newest, j.wake, true
}

func (j *journal) bounds() (oldest, newest uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.oldest, j.newest
}

// Token returns the newest durable position. A producer that begins now and
// sends it back with its update proves what it cannot have missed.
func (s *Store) Token() Cursor {
	_, newest := s.journal.bounds()
	return Cursor{s.epoch, newest}
}

// Oldest returns the position before the oldest kept notice.
func (s *Store) Oldest() Cursor {
	oldest, _ := s.journal.bounds()
	return Cursor{s.epoch, oldest}
}

// ReadFrom returns up to limit durable notices strictly after c, in journal
// order, and the cursor to pass next. It blocks until there is one or ctx ends,
// and then returns ctx's error. A position that cannot be served is a
// [ResetError]. What is read live and what is read from the store has no seam.
func (s *Store) ReadFrom(ctx context.Context, c Cursor, limit int) ([]Notice, Cursor, error) {
	for {
		if err := s.servable(c); err != nil {
			return nil, c, err
		}
		chunks, newest, wake, ok := s.journal.after(c.Seq)
		if !ok || len(chunks) > 0 {
			g := gathering{s: s, p: &everything, limit: max(limit, 1), left: math.MaxInt, reached: c.Seq}
			var err error
			if ok {
				g.fromTail(chunks)
			} else {
				err = g.fromStore(newest)
			}
			return g.spelled(c, newest, err)
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, c, ctx.Err()
		case <-s.stopped:
			return nil, c, ErrClosed
		}
	}
}

// servable reports a cursor of another life, trimmed or in the future.
func (s *Store) servable(c Cursor) error {
	oldest, newest := s.journal.bounds()
	reason := ""
	switch {
	case c.Epoch != s.epoch:
		reason = "epoch"
	case c.Seq < oldest:
		reason = "trimmed"
	case c.Seq > newest:
		reason = "future"
	default:
		return nil
	}
	return &ResetError{Reason: reason, Oldest: Cursor{s.epoch, oldest}, Newest: Cursor{s.epoch, newest}}
}

func timeOf(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// Since returns the cursor just before the first notice written at or after t;
// before the oldest kept one if t is earlier.
func (s *Store) Since(t time.Time) (Cursor, error) {
	oldest, newest := s.journal.bounds()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: seqKey(spaceJournal, newest+1)})
	if err != nil {
		return Cursor{}, err
	}
	us := t.UnixMicro()
	// Chunks carry times that never decrease, so that halving finds the place.
	lo, hi := oldest, newest
	for lo < hi {
		mid := lo + (hi-lo)/2
		if !it.SeekLT(seqKey(spaceJournal, mid+2)) {
			break
		}
		first := binary.BigEndian.Uint64(it.Key()[1:])
		_, _, n, at, err := chunkHeader(it.Value())
		if err != nil {
			return Cursor{}, errors.Join(err, it.Close())
		}
		if at < us {
			lo = max(mid+1, first+uint64(n)-1)
		} else {
			hi = min(mid, first-1)
		}
	}
	return Cursor{s.epoch, max(oldest, min(lo, newest))}, errors.Join(it.Error(), it.Close())
}

// trim drops the oldest journal beyond the age and the size that are kept.
func (t *txn) trim() {
	s := t.s
	oldest, newest := s.journal.bounds()
	if oldest == newest {
		return
	}
	cut := oldest
	if c, err := s.Since(timeOf(t.now - s.o.KeepAge.Microseconds())); err == nil {
		cut = c.Seq
	}
	if s.o.KeepBytes > 0 {
		size, err := s.db.EstimateDiskUsage(seqKey(spaceJournal, oldest+1), seqKey(spaceJournal, newest+1))
		if err == nil && size > uint64(s.o.KeepBytes) {
			over := float64(size-uint64(s.o.KeepBytes)) / float64(size)
			cut = max(cut, oldest+uint64(over*float64(newest-oldest)))
		}
	}
	cut = min(cut, newest, t.keptForRetries())
	if cut <= oldest {
		return
	}
	// Whole chunks only: the one that holds cut stays unless it ends there.
	it := t.iter([]byte{spaceJournal}, seqKey(spaceJournal, newest+1))
	defer func() { check(it.Close()) }()
	if it.SeekLT(seqKey(spaceJournal, cut+1)) {
		first := binary.BigEndian.Uint64(it.Key()[1:])
		if _, _, n, _, err := chunkHeader(it.Value()); err != nil {
			check(err)
		} else if first+uint64(n)-1 > cut {
			cut = first - 1
		}
	}
	if cut <= oldest {
		return
	}
	s.journal.cut.Store(cut)
	check(t.b.DeleteRange(seqKey(spaceJournal, 0), seqKey(spaceJournal, cut+1), nil))
	if block := (cut + 1) >> blockShift; block > (oldest+1)>>blockShift {
		check(t.b.DeleteRange(blockKey(0), blockKey(block), nil))
	}
	check(t.b.Set(metaKey(metaOldest), binary.BigEndian.AppendUint64(nil, cut), nil))
	t.trimmed = cut
}

// keptForRetries returns up to where the journal may go without a chunk that a retry
// has yet to read: who is to be told again stands in it alone. That keeps it for six
// hours at most, and is looked for only where it may be kept for less.
func (t *txn) keptForRetries() uint64 {
	kept := uint64(math.MaxUint64)
	if t.s.o.KeepBytes == 0 && t.s.o.KeepAge > longestRetry {
		return kept
	}
	it := t.iter([]byte{spaceTimer}, []byte{spaceTimer + 1})
	defer func() { check(it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		m, err := decodeTimer(it.Key(), it.Value())
		check(err)
		if m.kind == timerRetry && m.ref > 0 {
			kept = min(kept, m.ref-1)
		}
	}
	check(it.Error())
	return kept
}

// trimmedTo hides what was trimmed from readers, once that is durable.
func (j *journal) trimmedTo(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.oldest = max(j.oldest, seq)
	drop := 0
	for drop < len(j.tail) && j.tail[drop].last() <= seq {
		j.bytes -= j.tail[drop].size()
		drop++
	}
	j.tail = j.tail[drop:]
}
