package graph

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// formatVersion is the layout of the store. It only moves forward, in named steps.
	formatVersion = 4
	// pebbleFormat is the newest on-disk format of the Pebble version in go.mod,
	// by number: a later library must not raise it unasked.
	pebbleFormat = pebble.FormatMajorVersion(24)

	defaultCache = 256 << 20
	// cachedRows and cachedIDs bound what is kept decoded: about 100 MB each at most.
	cachedRows = 200_000
	cachedIDs  = 500_000
	// cachedDegrees bounds the counts of dependents kept beside their lists.
	cachedDegrees = 1_000_000
	// keepID is how long a resource that nobody names keeps its id and what is
	// remembered of it, so that a rendering dropped from a cache gets it back.
	keepID = 30 * 24 * time.Hour
)

// Names of single values in the space M.
const (
	metaFormat = "format"
	metaEpoch  = "epoch"
	metaOldest = "oldest" // position up to which the journal is trimmed
	metaNow    = "now"    // the apply loop's time, about once a minute
	metaNextID = "nextid"
)

// Options configures a Store. The zero value of each field is its default.
type Options struct {
	FS    vfs.FS           // nil means the disk
	Clock func() time.Time // nil means time.Now; read at the edges, never in the apply loop
	// ClockRate is how many times faster than real time Clock goes; 0 means 1.
	ClockRate float64
	Log       *slog.Logger // nil means none
	Cache     int64        // bytes of block cache; 0 means 256 MiB
	Work      []string     // types that somebody makes: only these are retried and can fail
	// Collect lists types that are deleted when their last dependent goes.
	Collect   []string
	Schemes   []string      // of URIs, beside http, https, ticker and urn
	Observe   bool          // keep graph and states, but send no retries
	KeepAge   time.Duration // journal kept at least so long; 0 means DefaultKeepAge
	KeepBytes int64         // bound of the journal on disk, oldest first; 0 means none
	TailBytes int64         // newest journal kept in memory; 0 means 64 MiB
	// MinFree is the free disk in bytes below which writes are refused; 0 means
	// DefaultMinFree, a negative one none.
	MinFree int64
	// Quota bounds what a publisher may have in the store; nil means no bounds. It is
	// asked with each request, beside the apply loop, by many at once.
	Quota func(publisher string) Quota

	chunk  int // dependents a step of a job evaluates; 0 means defaultChunk
	inline int // dependents whose job ends in the commit that caused it; 0 means defaultInline, -1 none
}

// Store is the graph: resources, edges, states and the journal. It is safe for
// concurrent use. Writes need [Store.Run] to be running.
type Store struct {
	o       Options
	db      *pebble.DB
	epoch   Epoch
	log     *slog.Logger
	journal journal
	ids     *lru.Cache[string, ID]
	queue   chan *request
	space   *space
	stopped chan struct{} // closed when Run returns
	broken  chan error    // holds the first fault that ends the store
	stop    sync.Once

	// writing is held by whoever writes, the apply loop while it builds and applies a
	// commit, and by who must find the log at rest. It is taken before mu.
	writing sync.Mutex
	// mu is held by the apply loop while it builds and applies a commit, and by
	// readers of what follows.
	mu       sync.RWMutex
	now      int64
	col      *column
	rows     *simplelru.LRU[ID, *row]
	degrees  *simplelru.LRU[ID, int]
	jobs     jobs
	seq      uint64 // newest position, durable or not
	nextID   ID
	free     []ID
	nmarkers int
	ntimers  uint64
	nextDue  int64 // of the earliest timer; 0 = none
	swept    int64 // minute up to which the waiting were looked at
	starving []ID  // to be told that they waited too long
	short    bool  // the disk is nearly full, as far as the apply loop was told
	work     map[string]bool
	collect  map[string]bool
	inline   int
	chunk    int
	lists    lists
	accounts accounts
	peers    peers
	counters counters

	// How often ids were given back and given. They move before a commit is
	// seen; to be sure of what was looked up, read them under mu and before.
	collects, interned atomic.Uint64

	authority atomic.Pointer[authority] // who speaks for what; replaced by the apply loop alone

	spelling  spelling
	summaries *lru.Cache[uint64, summary]
}

// Open opens the store in dir, making it if it is not there. Nothing runs until
// [Store.Run]. A store of a newer format is refused.
func Open(dir string, o Options) (*Store, error) {
	s := newStore(o)
	s.space = newSpace(dir, &o)
	p := pebbleOptions(&s.o)
	p.Logger = pebbleLog{s.log, s.broke}
	db, err := pebble.Open(dir, p)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s.db = db
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), db.Close())
	}
	if _, err := s.lookAtSpace(); err != nil {
		s.log.Warn("how much of the disk is free cannot be told: writes are never refused for want of room", "err", err)
	}
	return s, nil
}

func newStore(o Options) *Store {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.ClockRate == 0 {
		o.ClockRate = 1
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.KeepAge == 0 {
		o.KeepAge = DefaultKeepAge
	}
	if o.Cache == 0 {
		o.Cache = defaultCache
	}
	s := &Store{o: o, log: o.Log, col: newColumn(), nextID: 1, queue: make(chan *request, queueLength),
		stopped: make(chan struct{}), broken: make(chan error, 1), chunk: defaultChunk, inline: defaultInline}
	if o.chunk > 0 {
		s.chunk = o.chunk
	}
	if o.inline != 0 {
		s.inline = max(o.inline, 0)
	}
	s.ids, _ = lru.New[string, ID](cachedIDs)
	s.summaries, _ = lru.New[uint64, summary](cachedSummaries)
	s.rows, _ = simplelru.NewLRU[ID, *row](cachedRows, nil)
	s.degrees, _ = simplelru.NewLRU[ID, int](cachedDegrees, nil)
	s.journal.limit, s.journal.wake = o.TailBytes, make(chan struct{})
	if s.journal.limit == 0 {
		s.journal.limit = defaultTailBytes
	}
	s.lists = newLists()
	s.accounts.byName = map[string]*account{}
	s.peers = newPeers()
	s.authority.Store(nobody)
	s.work, s.collect = setOf(o.Work), setOf(o.Collect)
	s.counters.notices = map[noticeKind]uint64{}
	return s
}

func setOf(l []string) map[string]bool {
	m := make(map[string]bool, len(l))
	for _, s := range l {
		m[s] = true
	}
	return m
}

// quota is what bounds a publisher: whoever has no account has no bounds.
func (s *Store) quota(publisher string) Quota {
	if s.o.Quota == nil || publisher == "" || publisher == LocalPublisher {
		return Quota{}
	}
	return s.o.Quota(publisher)
}

// SetTypes replaces the types that somebody makes and those that are collected.
func (s *Store) SetTypes(work, collect []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.work, s.collect = setOf(work), setOf(collect)
}

// pebbleOptions are those measured on a wiki-shaped graph: 16 KiB blocks, zstd
// from L2 down, a filter on every level.
func pebbleOptions(o *Options) *pebble.Options {
	p := &pebble.Options{
		FS:                          o.FS,
		FormatMajorVersion:          pebbleFormat,
		Merger:                      merger,
		CacheSize:                   o.Cache,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       40,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                4000,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      pebbleLog{o.Log, func(error) {}},
	}
	p.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionBalanced })
	for i := range p.Levels {
		p.Levels[i].BlockSize = 16 << 10
		p.Levels[i].IndexBlockSize = 256 << 10
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return p
}

// pebbleLog passes on what Pebble has to say as debug lines. After a fatal fault,
// such as a log that cannot be flushed or a block whose checksum is wrong, nothing
// more may be answered: whoever met it panics, and the store ends, also if that one
// is survived.
type pebbleLog struct {
	log   *slog.Logger
	broke func(error)
}

// broke ends the store for a fault that whoever met it may survive, as a handler
// of HTTP does.
func (s *Store) broke(err error) {
	select {
	case s.broken <- err:
	default: // it is ending
	}
}

func (l pebbleLog) Infof(format string, args ...any) {
	l.log.Debug("store", "text", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("store", "text", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Fatalf(format string, args ...any) {
	l.Errorf(format, args...)
	err := fmt.Errorf("store: "+format, args...)
	l.broke(err)
	panic(err.Error())
}

// load reads what is resident: state pages, jobs, the ends of the journal.
func (s *Store) load() error {
	if err := s.loadMeta(); err != nil {
		return err
	}
	for _, step := range []func() error{s.loadNames, s.loadPages, s.loadJobs, s.loadJournal, s.loadTimers, s.loadLists, s.loadAccounts, s.loadPeers} {
		if err := step(); err != nil {
			return err
		}
	}
	return s.resume()
}

func (s *Store) meta(name string) ([]byte, error) {
	v, closer, err := s.db.Get(metaKey(name))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	v = append([]byte(nil), v...)
	return v, closer.Close()
}

// ErrFormat reports a store written by a newer program.
var ErrFormat = errors.New("the store has a format this program does not know; use the program that wrote it, or a newer one")

func (s *Store) loadMeta() error {
	v, err := s.meta(metaFormat)
	if err != nil {
		return err
	}
	if v == nil {
		return s.create()
	}
	if len(v) != 1 || v[0] == 0 {
		return ErrFormat
	}
	if err := s.upgrade(v[0]); err != nil {
		return err
	}
	if v, err = s.meta(metaEpoch); err != nil {
		return err
	}
	if len(v) != 4 {
		return errors.New("the store has no epoch")
	}
	s.epoch = Epoch(binary.BigEndian.Uint32(v))
	numbers := map[string]*uint64{metaOldest: &s.journal.oldest}
	var now, next uint64
	numbers[metaNow], numbers[metaNextID] = &now, &next
	for name, n := range numbers {
		if v, err = s.meta(name); err != nil {
			return err
		} else if v != nil {
			*n = binary.BigEndian.Uint64(v)
		}
	}
	s.now, s.nextID = int64(now), max(ID(next), 1)
	s.swept = minuteOf(s.now)
	return nil
}

// formatStep makes a store of one format one of the next.
type formatStep struct {
	name string
	step func(b *pebble.Batch) error
}

// formatSteps are the ways up, the first from format 1 to 2.
var formatSteps = [formatVersion - 1]formatStep{
	// Nothing is written anew: what a store of format 1 holds reads as before. But
	// a program of that time can neither merge the members of a list nor read a
	// chunk that is marked.
	{"lists", func(*pebble.Batch) error { return nil }},
	// Nothing is written anew here either: what there is is nobody's. A program of
	// format 2 would take a row that has an owner for a corrupt one, and leave the
	// accounts behind.
	{"accounts", func(*pebble.Batch) error { return nil }},
	// Nor here: there were no peers. A program of format 3 would let a producer write
	// to what a peer speaks for, and know nothing of who is to be told.
	{"peers", func(*pebble.Batch) error { return nil }},
}

// upgrade takes a store from an older format to today's, one durable step after
// the other. A newer one is refused.
func (s *Store) upgrade(from byte) error {
	if from > formatVersion {
		return ErrFormat
	}
	for f := from; f < formatVersion; f++ {
		step := formatSteps[f-1]
		b := s.db.NewBatch()
		err := errors.Join(step.step(b), b.Set(metaKey(metaFormat), []byte{f + 1}, nil))
		if err == nil {
			err = b.Commit(pebble.Sync)
		}
		if err := errors.Join(err, b.Close()); err != nil {
			return fmt.Errorf("upgrade to format %d (%s): %w", f+1, step.name, err)
		}
		s.log.Info("store upgraded", "format", f+1, "step", step.name)
	}
	return nil
}

// create gives a new store its format and its epoch.
func (s *Store) create() error {
	var e [4]byte
	if _, err := rand.Read(e[:]); err != nil {
		return err
	}
	s.epoch = Epoch(binary.BigEndian.Uint32(e[:]))
	b := s.db.NewBatch()
	err := errors.Join(b.Set(metaKey(metaFormat), []byte{formatVersion}, nil), b.Set(metaKey(metaEpoch), e[:], nil))
	return errors.Join(err, b.Commit(pebble.Sync), b.Close())
}

// scan calls f with every key and value of a space.
func (s *Store) scan(space byte, f func(k, v []byte) error) error {
	return s.scanPrefix([]byte{space}, f)
}

// scanPrefix calls f with every key that begins with prefix and its value.
func (s *Store) scanPrefix(prefix []byte, f func(k, v []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		if err := f(it.Key(), it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

func (s *Store) loadNames() error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceName}, UpperBound: []byte{spaceName + 1}})
	if err != nil {
		return err
	}
	if it.Last() {
		s.nextID = max(s.nextID, parseID(it.Key()[1:])+1)
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return err
	}
	err = s.scan(spaceFree, func(k, _ []byte) error {
		s.free = append(s.free, parseID(k[1:]))
		s.nextID = max(s.nextID, parseID(k[1:])+1)
		return nil
	})
	s.col.counts[Stub] = uint64(s.nextID) - 1 - uint64(len(s.free))
	return err
}

func (s *Store) loadPages() error {
	return s.scan(spacePage, func(k, v []byte) error {
		var words [pageSize]uint16
		if err := decodePage(v, &words); err != nil {
			return err
		}
		if slices.ContainsFunc(words[:], noState) {
			return malformed("page", "no such state")
		}
		s.col.load(binary.BigEndian.Uint32(k[1:]), &words)
		return nil
	})
}

func (s *Store) loadJobs() error {
	return s.scan(spaceJob, func(k, v []byte) error {
		j, err := decodeJob(binary.BigEndian.Uint64(k[1:]), v)
		if err != nil {
			return err
		}
		s.jobs.add(j)
		s.jobs.lastID = max(s.jobs.lastID, j.id)
		return nil
	})
}

func (s *Store) loadJournal() error {
	s.seq = s.journal.oldest
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceJournal}, UpperBound: []byte{spaceJournal + 1}})
	if err != nil {
		return err
	}
	if it.Last() {
		c, err := decodeChunk(binary.BigEndian.Uint64(it.Key()[1:]), it.Value())
		if err != nil {
			return errors.Join(err, it.Close())
		}
		s.seq = c.last()
		s.now = max(s.now, c.at)
	}
	s.journal.newest = s.seq
	return errors.Join(it.Error(), it.Close())
}

func (s *Store) loadTimers() error {
	err := s.scan(spaceTimer, func(k, _ []byte) error {
		if s.nextDue == 0 {
			s.nextDue = int64(binary.BigEndian.Uint64(k[1:]))
		}
		s.ntimers = max(s.ntimers, binary.BigEndian.Uint64(k[9:]))
		return nil
	})
	if err != nil {
		return err
	}
	return s.scan(spaceMarker, func(_, _ []byte) error { s.nmarkers++; return nil })
}

// resume settles once whoever waited when the store was last open.
func (s *Store) resume() error {
	var dirty []ID
	s.col.eachDirty(func(id ID, _ word) { dirty = append(dirty, id) })
	for part := range slices.Chunk(dirty, defaultChunk) {
		r := &request{apply: func(t *txn) {
			for _, id := range part {
				t.settle(id, Bulk, cause{})
			}
		}}
		if err := s.stepSync(s.now, []*request{r}); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the store. Run must have returned.
func (s *Store) Close() error {
	s.stop.Do(func() { close(s.stopped) })
	return s.db.Close()
}

// lookup returns the id of uri, if it has one.
func (s *Store) lookup(uri string) (ID, bool, error) {
	if id, ok := s.ids.Get(uri); ok {
		return id, true, nil
	}
	v, closer, err := s.db.Get(uriKey(uri))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, err
	}
	id := parseID(v)
	if err := closer.Close(); err != nil {
		return 0, false, err
	}
	s.ids.Add(uri, id)
	return id, true, nil
}

// readRow reads what is remembered of id; nothing is an empty row.
func readRow(r pebble.Reader, id ID) (*row, error) {
	v, closer, err := r.Get(idKey(spaceRow, id))
	if errors.Is(err, pebble.ErrNotFound) {
		return &row{id: id}, nil
	} else if err != nil {
		return nil, err
	}
	out, err := decodeRow(id, v)
	return out, errors.Join(err, closer.Close())
}
