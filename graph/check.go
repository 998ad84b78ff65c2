package graph

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph/bulk"
)

const (
	// defaultFindings bounds the findings that a report lists: a store that has
	// lost a space has as many as it has resources.
	defaultFindings = 1000
	// defaultCheckMemory is how many bytes a check sorts in memory at once.
	defaultCheckMemory = 256 << 20
	// checkMemTable is small: a check writes nothing, and a repair little.
	checkMemTable = 4 << 20
	// checkRounds bounds how often a repair looks again at what it has left. One
	// round makes all good but what another repair brings to light.
	checkRounds = 4
	// tellEvery is how many keys pass between two reports of progress.
	tellEvery = 1 << 16
)

// CheckOptions configures Check. The zero value of each field is its default.
type CheckOptions struct {
	FS       vfs.FS // nil means the disk
	Log      *slog.Logger
	Cache    int64 // bytes of block cache; 0 means 256 MiB
	Repair   bool
	Findings int                 // how many are listed; 0 means 1,000
	Memory   int                 // bytes that are sorted in memory at once; 0 means 256 MiB
	Progress func(CheckProgress) // nil means none; called by one goroutine
}

// CheckStage is what a check is looking at.
type CheckStage string

// A check passes through these, in this order; a repair more than once.
const (
	CheckFiles     CheckStage = "files" // checksums of all blocks, order of keys, merges
	CheckNames     CheckStage = "names"
	CheckJournal   CheckStage = "journal"
	CheckResources CheckStage = "resources" // rows, edges, states, markers, timers
	CheckLists     CheckStage = "lists"
	CheckAccounts  CheckStage = "accounts" // of publishers
	CheckPeers     CheckStage = "peers"    // what they want to hear, and are wanted to tell
	CheckLocating  CheckStage = "locating" // in what two directions differ
)

// CheckProgress is how far a check is.
type CheckProgress struct {
	Stage CheckStage
	Keys  int // read so far, in all stages but the first
}

// Finding is something that is wrong with a store.
type Finding struct {
	Key   string // as doc.go draws it: a letter, then numbers or text
	URI   string // of the resource it is about, if that is known
	Wrong string
	// Derivable is whether the rest of the store tells what is right, or what is on
	// the safe side, so that a repair makes it so.
	Derivable bool
	Repaired  bool
}

// Report is what a check found.
type Report struct {
	Findings []Finding // the first of them
	Found    int       // all of them
	Left     int       // those that are not repaired
	// NewEpoch is whether the repair gave the store a new one, because positions of
	// the journal are lost that readers may hold.
	NewEpoch bool

	// What was looked at.
	Keys, Resources, Edges, Notices, Timers, Jobs int
}

var (
	// ErrNoStore reports a folder without a store.
	ErrNoStore = errors.New("there is no store")
	// ErrInUse reports a store that a program has open.
	ErrInUse = errors.New("the store is in use; stop the hub that runs on it first")
	// ErrOldFormat reports a store of an older format, which is taken up when it is opened.
	ErrOldFormat = errors.New("the store has the format of an older program; start a hub on it once, which takes it up, and check it then")
)

// Check verifies the store in dir, which no program has open: the checksum of
// each block, and that what is kept agrees with itself. Each row, chunk, page,
// list, job and timer reads and is written as it would be written today; both
// directions of names, edges, markers, grouping keys and lists say the same;
// states agree with rows, edges, jobs, timers and what was told; the journal has
// no gap and names who exists. It reads and writes no key, and takes memory for
// two bytes and some bits of each resource beside what it sorts.
//
// With Repair it makes good what is derivable: dependents from rows, names from
// their other direction, indexes from what they point to, flags from rows. Where
// it cannot be told whether an artefact is fresh, the artefact is made ready and
// is told again: that costs a refresh and loses none. What is not derivable, such
// as a row that does not decode or a gap in the journal, is reported and left. Each
// step is durable and leads to the same end: a repair that was cut off is started
// again. Readers see nothing but new notices, at positions that were never given;
// where positions are lost that were given, the store gets a new epoch, so that
// readers are reset. A block whose checksum is wrong is not repaired and ends the
// check: only a copy brings back what it held.
//
// [ErrNoStore], [ErrInUse], [ErrFormat] and [ErrOldFormat] say why there was no check.
func Check(ctx context.Context, dir string, o CheckOptions) (rep Report, err error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Findings == 0 {
		o.Findings = defaultFindings
	}
	if o.Memory == 0 {
		o.Memory = defaultCheckMemory
	}
	db, lock, err := openToCheck(dir, &o)
	if err != nil {
		return rep, fmt.Errorf("check %s: %w", dir, err)
	}
	scratch := scratchOf(dir, &o)
	defer func() { err = errors.Join(err, o.FS.RemoveAll(scratch), db.Close(), lock.Close()) }()
	if err := errors.Join(o.FS.RemoveAll(scratch), o.FS.MkdirAll(scratch, 0o755)); err != nil {
		return rep, err
	}
	var repaired []Finding
	for round := range checkRounds {
		c := newChecker(ctx, db, dir, &o)
		if err := c.run(round == 0); err != nil {
			return rep, fmt.Errorf("check %s: %w", dir, err)
		}
		again := c.rep.Left < c.rep.Found
		c.rep.NewEpoch = c.rep.NewEpoch || rep.NewEpoch
		c.rep.Found += rep.Found - rep.Left
		rep = c.rep
		if !again {
			break
		}
		rep.Findings = nil
		for _, f := range c.rep.Findings {
			if f.Repaired {
				repaired = append(repaired, f)
			} else {
				rep.Findings = append(rep.Findings, f) // it is found again, if it is still there
			}
		}
	}
	rep.Findings = append(repaired, rep.Findings...)
	rep.Findings = rep.Findings[:min(len(rep.Findings), o.Findings)]
	return rep, nil
}

// scratchOf is the folder for what does not fit in memory.
func scratchOf(dir string, o *CheckOptions) string { return o.FS.PathJoin(dir, "check") }

// openToCheck opens the store for reading, or for a repair.
func openToCheck(dir string, o *CheckOptions) (*pebble.DB, *pebble.Lock, error) {
	desc, err := pebble.Peek(dir, o.FS)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !desc.Exists:
		return nil, nil, ErrNoStore
	case err != nil:
		return nil, nil, err
	case desc.FormatMajorVersion > pebbleFormat:
		return nil, nil, ErrFormat
	}
	lock, err := pebble.LockDirectory(dir, o.FS)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil, err
	} else if err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", ErrInUse, err)
	}
	cache := o.Cache
	if cache == 0 {
		cache = defaultCache
	}
	p := pebbleOptions(&Options{FS: o.FS, Log: o.Log, Cache: cache})
	p.ReadOnly, p.ErrorIfNotExists, p.Lock = !o.Repair, true, lock
	p.MemTableSize = checkMemTable
	// A store that runs ends the process with the first block whose checksum is wrong;
	// here it is a finding.
	p.EventListener = &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}}
	db, err := pebble.Open(dir, p)
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	if err := checkFormat(db); err != nil {
		return nil, nil, errors.Join(err, db.Close(), lock.Close())
	}
	return db, lock, nil
}

// checkFormat refuses what this program cannot judge.
func checkFormat(db *pebble.DB) error {
	v, closer, err := db.Get(metaKey(metaFormat))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil // a finding, or a store that a power cut left before anything was written
	case err != nil:
		return err
	}
	format := 0
	if len(v) == 1 {
		format = int(v[0])
	}
	if err := closer.Close(); err != nil {
		return err
	}
	switch {
	case format == 0 || format > formatVersion:
		return ErrFormat
	case format < formatVersion:
		return ErrOldFormat
	}
	return nil
}

// checker is one round.
type checker struct {
	ctx     context.Context
	db      *pebble.DB
	o       *CheckOptions
	dir     string                // of the store
	scratch string                // folder
	format  sstable.ReaderOptions // of its tables
	rep     Report
	stage   CheckStage
	b       *pebble.Batch // what the repair writes next; nil when there is none

	// The store at large.
	oldest, newest uint64
	now            int64
	epoch          Epoch
	nextID         ID
	ntimers        uint64
	torn           bool // the journal has lost some of its notices

	// By id.
	col       *column
	named     idSet
	free      idSet
	unread    idSet           // rows that do not decode: what they said is not known
	used      idSet           // ids that something names
	blank     map[uint32]bool // pages that do not decode
	stateless idSet           // whose state is none
	jobs      map[ID][]*job   // by resource
	rebuilt   map[string]bool // blocks that do not decode
	mirrors   idSet           // who is heard of from a peer
	audited   bool            // mirrors will be looked at when the program names its peers
	telling   timer           // notices that a repair has yet to write
	stopped   error           // the caller has given up

	names, edges, markers, groups, marks, members relation

	events *bulk.Sorter // id, kind, position of notices
	timers *bulk.Sorter // id, kind, due, number → reference
}

func newChecker(ctx context.Context, db *pebble.DB, dir string, o *CheckOptions) *checker {
	p := pebbleOptions(&Options{Log: o.Log})
	p.EnsureDefaults()
	c := &checker{ctx: ctx, db: db, o: o, dir: dir, scratch: scratchOf(dir, o), format: p.MakeReaderOptions(), col: newColumn(), nextID: 1,
		blank: map[uint32]bool{}, jobs: map[ID][]*job{}, rebuilt: map[string]bool{}}
	c.events, c.timers = c.sorter("events"), c.sorter("timers")
	return c
}

// run does all of a round; files have to be looked at once.
func (c *checker) run(files bool) (err error) {
	if c.o.Repair {
		c.b = c.db.NewBatch()
	}
	defer func() {
		if p := recover(); p != nil {
			broken, ok := p.(fault)
			if !ok {
				panic(p)
			}
			err = broken.err
		}
		err = errors.Join(err, c.events.Close(), c.timers.Close(), c.closeBatch())
	}()
	if files {
		if sound, err := c.checkFiles(); err != nil || !sound {
			return err
		}
	}
	for _, step := range []struct {
		stage CheckStage
		do    func() error
	}{
		{CheckNames, c.checkSpaces}, {CheckNames, c.checkMeta}, {CheckNames, c.checkNames}, {CheckNames, c.checkSmall},
		{CheckJournal, c.loadPages}, {CheckJournal, c.checkJournal}, {CheckJournal, c.checkMarks}, {CheckJournal, c.checkSummaries},
		{CheckResources, c.checkJobs}, {CheckResources, c.checkTimers}, {CheckResources, c.checkResources},
		{CheckResources, c.checkGroups}, {CheckLists, c.checkLists},
		{CheckLocating, c.locateEdges}, {CheckLocating, c.locateMarkers}, {CheckLocating, c.locateGroups},
		{CheckAccounts, c.checkAccounts}, {CheckPeers, c.checkPeers},
	} {
		c.stage = step.stage
		c.tell()
		if err := errors.Join(step.do(), c.flush()); err != nil {
			return fmt.Errorf("%s: %w", step.stage, err)
		}
	}
	return nil
}

func (c *checker) tell() {
	if c.o.Progress != nil {
		c.o.Progress(CheckProgress{c.stage, c.rep.Keys})
	}
}

// read counts a key that is looked at.
func (c *checker) read() error {
	if c.rep.Keys++; c.rep.Keys%tellEvery != 0 {
		return nil
	}
	c.tell()
	return c.ctx.Err()
}

// scan calls f with every key that begins with prefix and its value.
func (c *checker) scan(prefix []byte, f func(k, v []byte) error) error {
	it, err := c.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		if err := errors.Join(c.read(), f(it.Key(), it.Value())); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// get reads one key.
func (c *checker) get(key []byte) (v []byte, ok bool, err error) {
	v, closer, err := c.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	v = append([]byte(nil), v...)
	return v, true, closer.Close()
}

// found notes what is wrong at key with id, 0 if it is about none. Fix makes it
// good in c.b; nil if nothing can.
func (c *checker) found(key []byte, id ID, wrong string, fix func()) {
	c.rep.Found++
	f := Finding{Key: spellKey(key), Wrong: wrong, Derivable: fix != nil}
	if fix != nil && c.b != nil {
		fix()
		f.Repaired = true
	} else {
		c.rep.Left++
	}
	if len(c.rep.Findings) == c.o.Findings {
		return
	}
	if id != 0 {
		if v, ok, err := c.get(idKey(spaceName, id)); ok && err == nil {
			f.URI = string(v)
		}
	}
	c.rep.Findings = append(c.rep.Findings, f)
}

// newEpoch gives the store another epoch before a position that was given is
// forgotten.
func (c *checker) newEpoch() {
	if c.rep.NewEpoch {
		return
	}
	c.rep.NewEpoch = true
	var e [4]byte
	_, _ = rand.Read(e[:]) // it never fails
	c.set(metaKey(metaEpoch), e[:])
}
