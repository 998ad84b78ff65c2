package graph

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph/bulk"
	"golang.org/x/sync/errgroup"
)

const (
	// maxImported bounds the resources of an import: their URIs are looked up in
	// memory, at about 110 bytes each. So many take about 30 GB.
	maxImported = 1 << 28
	// sortMemory is how many bytes of edges wait in memory to be sorted, about
	// twenty million; of anything else at most half as much.
	sortMemory = 512 << 20
	// importPart is how many updates pass from one step to the next at once.
	importPart = 128
	// partsAhead bounds the parts between two steps.
	partsAhead = 8
)

// ErrNotEmpty reports an import into a store that holds resources.
var ErrNotEmpty = errors.New("the store holds resources already; an import makes a new one")

// ErrTooLarge reports an import of more resources than are looked up in memory.
var ErrTooLarge = errors.New("too many resources, with those they are made from: an import keeps their URIs in memory, about 110 bytes each; " +
	"import a part of them and send the rest as updates")

// ImportStage is what an import is doing.
type ImportStage string

// An import passes through these, in this order.
const (
	ImportReading ImportStage = "reading"
	ImportLinking ImportStage = "linking" // compares who is made with what it is made from
	ImportWriting ImportStage = "writing"
)

// ImportProgress is how far an import is. An edge is one dependency of one resource.
type ImportProgress struct {
	Stage     ImportStage
	Updates   int
	Resources int
	Edges     int
}

// ImportResult counts what was imported.
type ImportResult struct {
	Updates   int
	Resources int // also those that were only named as a dependency
	Edges     int
	Stale     int // made from what is no longer so; the journal begins with a notice for each
	Cursor    Cursor
}

// Import makes the store in dir from a snapshot: the last update of each
// resource, in any order, from next until that returns [io.EOF]. Next is called
// by one goroutine at a time. What is stale is found out as if all content had
// been known before anything was made; tokens are of another store and do not
// count. Nothing has changed as yet: the journal begins with the notices for what
// is stale. Publisher is the scope of update ids, as in [Store.Apply].
//
// All of it is in the store when Import returns nil, and none of it otherwise.
// [InvalidError] names the update that was refused, counted from 0: one that
// Apply would refuse, a second one of the same resource, a delete, a purge, or
// one that names aspects. A store that holds resources is [ErrNotEmpty]; one that
// is open elsewhere is refused too. Progress may be nil; it is called often, by
// one goroutine at a time.
func Import(ctx context.Context, dir string, o Options, publisher string, next func() (Update, error),
	progress func(ImportProgress)) (ImportResult, error) {
	return importWithin(ctx, dir, o, publisher, next, progress, importBounds{maxImported, sortMemory})
}

// importBounds are what an import may hold in memory: resources, and bytes of
// edges that wait to be sorted.
type importBounds struct{ resources, sorting int }

func importWithin(ctx context.Context, dir string, o Options, publisher string, next func() (Update, error),
	progress func(ImportProgress), bounds importBounds) (res ImportResult, err error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	_, absent := o.FS.Stat(dir)
	s, err := Open(dir, o)
	if err != nil {
		return res, err
	}
	work := o.FS.PathJoin(dir, "import")
	defer func() {
		err = errors.Join(err, o.FS.RemoveAll(work), s.Close())
		if err != nil && absent != nil {
			err = errors.Join(err, o.FS.RemoveAll(dir))
		}
	}()
	if s.nextID > 1 || s.seq > 0 {
		return res, fmt.Errorf("%s: %w", dir, ErrNotEmpty)
	}
	// What an import that was cut off left behind is of no use.
	if err := errors.Join(o.FS.RemoveAll(work), o.FS.MkdirAll(work, 0o755)); err != nil {
		return res, err
	}
	m := newImport(s, work, publisher, bounds)
	if progress != nil {
		m.tell = progress
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if err := m.run(ctx, next); err != nil {
		return res, err
	}
	m.progress.Stage = ImportWriting
	m.tell(m.progress)
	if err := m.tables.Ingest(ctx, s.db); err != nil {
		return res, err
	}
	return ImportResult{Updates: m.progress.Updates, Resources: m.progress.Resources, Edges: m.progress.Edges,
		Stale: int(m.seq), Cursor: Cursor{s.epoch, m.seq}}, nil
}

// importer is one import. Of each resource it holds in memory its URI and what
// its dependencies and dependents need to know of it; the rest waits in sorters.
type importer struct {
	s         *Store
	now       int64 // µs
	publisher string
	tables    *bulk.Tables
	uris      *bulk.Dictionary
	tell      func(ImportProgress)
	progress  ImportProgress
	seq       uint64 // newest position of the journal
	ntimers   uint64
	buf       []byte

	// By id.
	words   []word
	began   []int64  // at of its update, µs
	numbers []uint64 // its version, if that is a number

	rows   *bulk.Sorter // id → row of who was heard of
	stubs  *bulk.Sorter // id → row of who was not
	edges  *bulk.Sorter // dst src, 4 bytes each → seen
	names  *bulk.Sorter // uri → id
	ahead  *bulk.Sorter // src dst of a marker
	groups *bulk.Sorter // grouping key, 0, id
	timers *bulk.Sorter // as in the store
	ids    *bulk.Sorter // as in the store: idempotency keys
}

func newImport(s *Store, dir, publisher string, bounds importBounds) *importer {
	fs := s.o.FS
	sorter := func(name string, share int) *bulk.Sorter {
		return bulk.NewSorter(fs, fs.PathJoin(dir, name), bounds.sorting/share)
	}
	return &importer{s: s, now: s.o.Clock().UnixMicro(), publisher: publisher,
		tables: bulk.NewTables(fs, dir, pebbleOptions(&s.o)), uris: bulk.NewDictionary(bounds.resources),
		tell: func(ImportProgress) {}, progress: ImportProgress{Stage: ImportReading},
		rows: sorter("rows", 2), stubs: sorter("stubs", 8), edges: sorter("edges", 1), names: sorter("names", 2),
		ahead: sorter("ahead", 16), groups: sorter("groups", 16), timers: sorter("timers", 16), ids: sorter("ids", 16)}
}

func (m *importer) close() (err error) {
	for _, s := range []*bulk.Sorter{m.rows, m.stubs, m.edges, m.names, m.ahead, m.groups, m.timers, m.ids} {
		err = errors.Join(err, s.Close())
	}
	return err
}

func (m *importer) run(ctx context.Context, next func() (Update, error)) error {
	if err := m.read(ctx, next); err != nil {
		return err
	}
	m.progress.Stage = ImportLinking
	m.progress.Resources = m.uris.Len()
	m.tell(m.progress)
	m.grow(m.uris.Len())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.writeNames(ctx) })
	g.Go(func() error { return m.link(ctx) })
	return g.Wait()
}

// part is a number of updates on their way through the reading.
type part struct {
	first   int // number of the first in the stream
	updates []Update
	items   []prepared    // those before the first that is refused
	hashes  []uint32      // of the URI of each, and of its dependencies
	err     error         // what ends the import after the items
	ready   chan struct{} // closed when the updates are prepared
}

// read takes in the stream: checks it on all cores, gives ids in its order, and
// sorts what it says.
func (m *importer) read(ctx context.Context, next func() (Update, error)) error {
	g, ctx := errgroup.WithContext(ctx)
	todo, ordered, known := make(chan *part, partsAhead), make(chan *part, partsAhead), make(chan *part, partsAhead)
	g.Go(func() error {
		defer close(todo)
		defer close(ordered)
		return takeParts(ctx, next, todo, ordered)
	})
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for p := range todo {
				if err := m.prepare(p); err != nil {
					p.err = err
				}
				close(p.ready)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(known)
		for p := range ordered {
			select {
			case <-p.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := m.identify(p); err != nil {
				p.err = err
			}
			if err := pass(ctx, known, p); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		for p := range known {
			if err := cmp.Or(m.take(p), p.err); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// takeParts cuts the stream into parts, and sends each to who prepares it and to
// who waits for that.
func takeParts(ctx context.Context, next func() (Update, error), todo, ordered chan<- *part) error {
	for n := 0; ; {
		p := &part{first: n, updates: make([]Update, 0, importPart), ready: make(chan struct{})}
		var err error
		for len(p.updates) < importPart && err == nil {
			var u Update
			if u, err = next(); err == nil {
				p.updates = append(p.updates, u)
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			p.err = err // it has its turn after what comes before it
		}
		for _, to := range []chan<- *part{todo, ordered} {
			if err := pass(ctx, to, p); err != nil {
				return err
			}
		}
		if n += len(p.updates); err != nil {
			return ctx.Err()
		}
	}
}

func pass(ctx context.Context, to chan<- *part, p *part) error {
	select {
	case to <- p:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// prepare checks a part and computes what needs no other.
func (m *importer) prepare(p *part) error {
	p.items = make([]prepared, 0, len(p.updates))
	for i := range p.updates {
		u := &p.updates[i]
		if field, reason := m.refuse(u); field != "" {
			return &InvalidError{Item: p.first + i, Field: field, Reason: reason}
		}
		p.items = append(p.items, u.spelled(m.publisher))
		item := &p.items[i]
		if u.At.IsZero() {
			item.at = m.now
		}
		p.hashes = append(p.hashes, bulk.Hash(u.URI))
		for k := range item.edges {
			p.hashes = append(p.hashes, bulk.Hash(item.edges[k].uri))
		}
	}
	return nil
}

// refuse says what is wrong with an update of a snapshot.
func (m *importer) refuse(u *Update) (field, reason string) {
	if field, reason := u.validate(timeOf(m.now)); field != "" {
		return field, reason
	}
	if err := u.checkURIs(m.s.o.Schemes); err != nil {
		return err.field, err.reason
	}
	switch {
	case u.Action != ActionUpdate:
		return "action", "a snapshot has no deletes and purges: leave out what is gone"
	case len(u.Aspects) > 0:
		return "aspects", "a snapshot has no changes of aspects: give each an update of its own"
	}
	return "", ""
}

// identify gives ids.
func (m *importer) identify(p *part) error {
	id := func(uri string) (ID, error) {
		n, err := m.uris.Add(uri, p.hashes[0])
		p.hashes = p.hashes[1:]
		if errors.Is(err, bulk.ErrFull) {
			err = fmt.Errorf("more than %d: %w", m.uris.Len(), ErrTooLarge)
		}
		return ID(n), err
	}
	for i := range p.items {
		item := &p.items[i]
		m.uris.Touch(p.hashes[:len(item.edges)+1])
		var err error
		if item.id, err = id(item.URI); err != nil {
			p.items = p.items[:i]
			return err
		}
		for k := range item.edges {
			if item.edges[k].id, err = id(item.edges[k].uri); err != nil {
				p.items = p.items[:i]
				return err
			}
		}
	}
	return nil
}

// grow makes room for what is known of ids up to n.
func (m *importer) grow(n int) {
	if more := n + 1 - len(m.words); more > 0 {
		more += len(m.words) / 4
		m.words = append(m.words, make([]word, more)...)
		m.began = append(m.began, make([]int64, more)...)
		m.numbers = append(m.numbers, make([]uint64, more)...)
	}
}

// take sorts what a part says.
func (m *importer) take(p *part) error {
	for i := range p.items {
		item := &p.items[i]
		m.grow(int(item.id))
		if m.words[item.id].state() != Stub {
			return &InvalidError{Item: p.first + i, Field: "uri", Reason: "a second update of " + item.URI +
				"; a snapshot has the last one of each resource"}
		}
		m.words[item.id] = word(Clean).with(wordUnproven, !item.proven)
		m.began[item.id] = item.at
		m.numbers[item.id], _ = number(item.Version)
		if err := m.takeOne(item); err != nil {
			return err
		}
		m.progress.Edges += len(item.edges)
		m.progress.Resources = max(m.progress.Resources, int(item.id))
		if n := len(item.edges); n > 0 {
			m.progress.Resources = max(m.progress.Resources, int(item.edges[n-1].id))
		}
	}
	m.progress.Updates += len(p.items)
	m.tell(m.progress)
	return nil
}

func (m *importer) takeOne(p *prepared) error {
	slices.SortFunc(p.edges, func(a, b edge) int { return cmp.Compare(a.id, b.id) })
	r := m.row(p)
	m.buf = r.append(m.buf[:0])
	var key [16]byte
	if err := m.rows.Add(appendID(key[:0], p.id), m.buf); err != nil {
		return err
	}
	for i := range p.edges {
		e := &p.edges[i]
		m.buf = append(m.buf[:0], e.seen...)
		if err := m.edges.Add(edgeKey(key[:0], e.id, p.id), m.buf); err != nil {
			return err
		}
	}
	for _, name := range r.buckets {
		m.buf = appendID(append(append(m.buf[:0], name...), 0), p.id)
		if err := m.groups.Add(m.buf, nil); err != nil {
			return err
		}
	}
	if r.expires != 0 {
		if err := m.later(r.expires, timer{kind: timerExpire, chunk: chunk{ids: []ID{p.id}}}); err != nil {
			return err
		}
	}
	if p.ID == "" {
		return nil
	}
	return m.ids.Add(p.seen[:], nil)
}

// edgeKey orders edges by dst. Ids of an import have 32 bits, so that a key is
// compared at once.
func edgeKey(b []byte, dst, src ID) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(dst)<<32|uint64(src))
}

func splitEdge(k []byte) (dst, src ID) {
	both := binary.BigEndian.Uint64(k)
	return ID(both >> 32), ID(uint32(both))
}

// row is what the store remembers of a resource that begins with one update.
func (m *importer) row(p *prepared) *row {
	artefact := len(p.edges) > 0
	r := &row{id: p.id, at: p.at, changedAt: p.at, digest: p.digest, typ: p.Type}
	r.setContent(p.Version, p.Hash, artefact)
	r.set(rowHeard|rowKnown, true)
	r.set(rowArtefact, artefact)
	if artefact {
		r.changedAt = max(p.at, m.now)
	}
	if len(p.Buckets) > 0 {
		r.buckets = slices.Clone(p.Buckets)
	}
	if !p.Expires.IsZero() {
		r.expires = p.Expires.UnixMicro()
	}
	if artefact {
		ids := make([]ID, len(p.edges))
		for i := range p.edges {
			ids[i] = p.edges[i].id
		}
		r.setDeps(ids)
	}
	return r
}

// later sets a timer.
func (m *importer) later(due int64, t timer) error {
	m.ntimers++
	t.chunk.at = m.now
	return m.timers.Add(timerKey(due, m.ntimers), t.append(nil))
}
