package graph

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// tester is what a rig needs of a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Cleanup(f func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

const (
	// rigEpoch is the epoch of every rig's store: jitter depends on it, so equal
	// input makes equal stores only in equal epochs.
	rigEpoch = Epoch(0x5f3a0001)
	// rigCache keeps the block cache of a test's store small: many are opened.
	rigCache = 4 << 20
	// maxIdle bounds the pieces of work at one moment: more is an endless loop.
	maxIdle = 1_000_000
)

// rigStart is when a rig's clock begins.
var rigStart = time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)

// rig is a store in memory that runs without its loop, a clock that moves only
// when told, and every notice written so far. What tests use of the store
// beside its public face stands in this file alone.
type rig struct {
	t     tester
	s     *Store
	fs    *vfs.MemFS
	o     Options
	clock *atomic.Int64 // µs
	heard []Notice
	ids   int
	tape  []input
	// unchecked is set by a test that writes past the store, and leaves what no check
	// would let pass, or whose store is so large that to check it takes minutes with
	// the race detector.
	unchecked bool
	epoch     Epoch
	home      int // whose hub it is, if there are several
}

// input is something that was done to a store, to be done to another.
type input struct {
	at   time.Time
	kind inputKind
	do   func(g *rig)
}

type inputKind uint8

const (
	submitted inputKind = iota // by a caller
	ownWork                    // of the store, that was due
	restarted
)

func (g *rig) record(kind inputKind, do func(g *rig)) {
	g.tape = append(g.tape, input{g.now(), kind, do})
}

func newRig(t tester, o Options) *rig {
	t.Helper()
	return newRigOf(t, o, rigEpoch)
}

// newRigOf makes a rig of another epoch than others.
func newRigOf(t tester, o Options, epoch Epoch) *rig {
	t.Helper()
	g := &rig{t: t, fs: vfs.NewCrashableMem(), o: o, clock: &atomic.Int64{}, epoch: epoch}
	g.clock.Store(rigStart.UnixMicro())
	g.open()
	t.Cleanup(g.close)
	g.setEpoch()
	return g
}

func (g *rig) setEpoch() {
	g.t.Helper()
	g.s.epoch = g.epoch
	key := binary.BigEndian.AppendUint32(nil, uint32(g.epoch))
	if err := g.s.db.Set(metaKey(metaEpoch), key, pebble.Sync); err != nil {
		g.t.Fatalf("set epoch: %v", err)
	}
}

func (g *rig) open() {
	g.t.Helper()
	o := g.o
	o.FS, o.Clock = g.fs, g.now
	if o.Cache == 0 {
		o.Cache = rigCache
	}
	var err error
	if g.s, err = Open("store", o); err != nil {
		g.t.Fatalf("open: %v", err)
	}
}

func (g *rig) close() {
	g.t.Helper()
	g.checkAccounts()
	if err := g.s.Close(); err != nil {
		g.t.Errorf("close: %v", err)
	}
	if !g.unchecked {
		soundStore(g.t, g.fs)
	}
}

// soundStore fails unless a check of the store finds nothing.
func soundStore(t tester, fs vfs.FS) {
	t.Helper()
	rep, err := Check(context.Background(), "store", CheckOptions{FS: fs, Cache: rigCache})
	if err != nil || rep.Found > 0 {
		t.Errorf("check: %v, %d findings, the first of them %+v", err, rep.Found, rep.Findings[:min(5, len(rep.Findings))])
	}
}

func (g *rig) now() time.Time { return time.UnixMicro(g.clock.Load()).UTC() }

// crash opens the store anew from what a power cut leaves: all that was synced
// and a random part of the rest. With a nil rng it is closed in good order.
func (g *rig) crash(rng *rand.Rand) {
	g.t.Helper()
	g.record(restarted, func(g *rig) { g.crash(nil) })
	markers, fs := g.s.markers(), g.fs
	if rng != nil {
		fs = g.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	}
	g.close()
	g.fs = fs
	g.open()
	if got := g.s.markers(); got != markers {
		g.t.Errorf("%d markers after a restart, %d before", got, markers)
	}
	g.listen()
}

// apply sends updates as one batch.
func (g *rig) apply(us ...Update) Result {
	g.t.Helper()
	return g.applyAs("test", us...)
}

func (g *rig) applyAs(publisher string, us ...Update) Result {
	g.t.Helper()
	g.record(submitted, func(g *rig) { g.applyAs(publisher, us...) })
	res, err := g.s.applyNow(g.now(), publisher, us)
	if err != nil {
		g.t.Fatalf("apply %+v: %v", us, err)
	}
	g.listen()
	return res
}

// listen reads the notices that are new.
func (g *rig) listen() []Notice {
	g.t.Helper()
	from, read := len(g.heard), g.position()
	for read.Seq < g.s.Token().Seq {
		notices, next, err := g.s.ReadFrom(context.Background(), read, 10_000)
		if err != nil {
			g.t.Fatalf("read from %s: %v", read, err)
		}
		for _, n := range notices {
			if n.Cursor != (Cursor{g.epoch, read.Seq + 1}) {
				g.t.Fatalf("%s follows %s in the journal", n.Cursor, read)
			}
			if last := len(g.heard) - 1; last >= 0 && n.At.Before(g.heard[last].At) {
				g.t.Fatalf("%s is of %s, and the one before of %s", n.Cursor, n.At, g.heard[last].At)
			}
			g.heard, read = append(g.heard, n), n.Cursor
		}
		if next != read {
			g.t.Fatalf("after %s the journal goes on at %s", read, next)
		}
	}
	return g.heard[from:]
}

// position is the cursor of the last notice heard.
func (g *rig) position() Cursor {
	if n := len(g.heard); n > 0 {
		return g.heard[n-1].Cursor
	}
	return g.s.Oldest()
}

// token is what a producer holds that begins now.
func (g *rig) token() Cursor { return g.s.Token() }

// work does one piece of what is due; it reports whether there is more.
func (g *rig) work() bool {
	g.t.Helper()
	g.record(ownWork, func(g *rig) { g.work() })
	busy := g.s.workNow(g.now())
	g.listen()
	return busy
}

// drain does all that is due now.
func (g *rig) drain() {
	g.t.Helper()
	for n := 0; g.work(); n++ {
		if n == maxIdle {
			g.t.Fatalf("still busy after %d pieces of work at one moment", n)
		}
	}
}

// due is when the store next has something to do; ok is false if never.
func (g *rig) due() (at time.Time, ok bool) { return g.s.nextTimer() }

// wait lets d pass and does what falls due on the way.
func (g *rig) wait(d time.Duration) {
	g.t.Helper()
	until := g.now().Add(d)
	for {
		g.drain()
		due, ok := g.due()
		if !ok || due.After(until) {
			break
		}
		if !due.After(g.now()) {
			due = g.now().Add(time.Millisecond) // looked at, and not for now
		}
		g.clock.Store(min(due.UnixMicro(), until.UnixMicro()))
	}
	g.clock.Store(until.UnixMicro())
	g.drain()
}

func (g *rig) claim(uri string, lease time.Duration) (Claim, bool) {
	g.t.Helper()
	g.record(submitted, func(g *rig) { g.claim(uri, lease) })
	claims, err := g.s.claimNow(g.now(), []string{uri}, lease)
	if err != nil {
		g.t.Fatalf("claim %s: %v", uri, err)
	}
	g.listen()
	if len(claims) == 0 {
		return Claim{}, false
	}
	return claims[0], true
}

func (g *rig) release(c Claim, failed bool) {
	g.t.Helper()
	g.record(submitted, func(g *rig) { g.release(c, failed) })
	if err := g.s.releaseNow(g.now(), c.ID, failed); err != nil {
		g.t.Fatalf("release claim on %s: %v", c.URI, err)
	}
	g.listen()
}

// loop runs the store's own loop for the length of f, for calls that have no
// form without it, and then opens the store anew.
func (g *rig) loop(f func(ctx context.Context, s *Store)) {
	g.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- g.s.Run(ctx) }()
	f(ctx, g.s)
	stop()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		g.t.Fatalf("run: %v", err)
	}
	g.listen()
	g.crash(nil)
}

// editList changes lists and records.
func (g *rig) editList(e ListEdit) ListResult {
	g.t.Helper()
	g.record(submitted, func(g *rig) { g.editList(e) })
	res, err := g.s.editListNow(g.now().UnixMicro(), e)
	if err != nil {
		g.t.Fatalf("edit list %d: %v", e.List, err)
	}
	g.listen()
	return res
}

// members lists who is on a list, a few at a time.
func (g *rig) members(list ListID) (uris []string) {
	g.t.Helper()
	for after := ""; ; {
		page, next, err := g.s.Listed(list, after, 3)
		if err != nil {
			g.t.Fatalf("members of list %d: %v", list, err)
		}
		uris = append(uris, page...)
		if after = next; next == "" {
			return uris
		}
	}
}

// scanned are the notices that a pick lets through, read a few at a time.
func (g *rig) scanned(p *Pick, from Cursor, limit int) (out []Notice) {
	g.t.Helper()
	for at := from; at != g.token(); {
		ns, next, err := g.s.Scan(p, at, limit)
		if err != nil {
			g.t.Fatalf("scan %+v from %s: %v", p, at, err)
		}
		if next.Seq <= at.Seq || len(ns) > limit || len(ns) > 0 && (ns[0].Cursor.Seq <= at.Seq || ns[len(ns)-1].Cursor.Seq > next.Seq) {
			g.t.Fatalf("scan from %s with a limit of %d: %d notices, next is %s", at, limit, len(ns), next)
		}
		out, at = append(out, ns...), next
	}
	return out
}

// resource is what the store knows of uri; one never heard of is a stub.
func (g *rig) resource(uri string) Resource {
	g.t.Helper()
	r, err := g.s.Resource(uri)
	if err != nil && !errors.Is(err, ErrUnknown) {
		g.t.Fatalf("resource %s: %v", uri, err)
	}
	return r
}

func (g *rig) status(uris ...string) []Status {
	g.t.Helper()
	out, err := g.s.Status(uris)
	if err != nil {
		g.t.Fatalf("status: %v", err)
	}
	return out
}

// dependencies and dependents list one end of all edges of uri.
func (g *rig) dependencies(uri string) []string {
	return g.listed(uri, g.s.Dependencies)
}

func (g *rig) dependents(uri string) []string {
	return g.listed(uri, g.s.Dependents)
}

func (g *rig) listed(uri string, list func(uri, after string, limit int) ([]Item, string, error)) (uris []string) {
	g.t.Helper()
	for after := ""; ; {
		items, next, err := list(uri, after, 1000)
		if err != nil && !errors.Is(err, ErrUnknown) {
			g.t.Fatalf("edges of %s: %v", uri, err)
		}
		for _, i := range items {
			uris = append(uris, i.URI)
		}
		if after = next; next == "" {
			return uris
		}
	}
}

// refreshes are the refresh notices of uri among those heard.
func (g *rig) refreshes(uri string) (out []Notice) {
	for _, n := range g.heard {
		if n.Kind == KindRefresh && n.URI == uri {
			out = append(out, n)
		}
	}
	return out
}

// checkAccounts holds the accounts against what the rows add up to.
func (g *rig) checkAccounts() {
	g.t.Helper()
	g.s.mu.RLock()
	defer g.s.mu.RUnlock()
	want := make([]Account, len(g.s.accounts.list))
	for i, a := range g.s.accounts.list {
		want[i].Publisher = a.Publisher
	}
	err := g.s.scan(spaceRow, func(k, v []byte) error {
		r, err := decodeRow(parseID(k[1:]), v)
		if err == nil && r.owner > 0 {
			want[r.owner-1].Resources++
			want[r.owner-1].Edges += int64(r.ndeps)
		}
		return err
	})
	if err != nil {
		g.t.Errorf("rows: %v", err)
	}
	for i, a := range g.s.accounts.list {
		if a.Account != want[i] {
			g.t.Errorf("the account %+v ought to be %+v", a.Account, want[i])
		}
	}
}

// dump writes out every key and value of the store.
func (g *rig) dump() string {
	g.t.Helper()
	it, err := g.s.db.NewIter(nil)
	if err != nil {
		g.t.Fatalf("dump: %v", err)
	}
	var b bytes.Buffer
	for it.First(); it.Valid(); it.Next() {
		fmt.Fprintf(&b, "%q = %x\n", it.Key(), it.Value())
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		g.t.Fatalf("dump: %v", err)
	}
	return b.String()
}

// describe says in one line where uri stands.
func (g *rig) describe(uri string) string {
	r := g.resource(uri)
	return fmt.Sprintf("%s known=%t stale=%t failed=%t version=%q hash=%q changed=%s born=%d attempt=%d due=%s lease=%s damping=%s",
		r.State, r.Known, r.Stale, r.Failed, r.Version, r.Hash, r.Changed, r.BornStale, r.Attempt,
		r.NoticeDue.Format(time.TimeOnly), r.LeaseUntil.Format(time.TimeOnly), r.Damping)
}
