package graph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Several clusters, each with a hub that speaks for a third of the world, and links
// between them that lose, delay and repeat messages. What a link does is what the room
// that runs between hubs does; what is told and heard is the store's.

// keepsake is an old copy of a hub, and what producers told it since.
type keepsake struct {
	fs    *vfs.MemFS
	since []letter
}

// link lets one hub hear of another.
type link struct {
	from, to *station // to hears of from
	downTo   time.Time
	heard    time.Time // the last that arrived
	level    uint64    // all up to it that the one hub told has arrived
	forsaken bool
}

func (st *station) name() string {
	return "https://hub" + strconv.Itoa(int(st.s.epoch&0xf)) + ".example"
}

const (
	// linkStep is how often a link is looked at: a stream would bring what there is sooner.
	linkStep = 300 * time.Millisecond
	// silent is how long a peer may say nothing before what it left unsettled is settled.
	silent = time.Minute
)

// cluster names a part of the world by its host.
func cluster(h int) string { return fmt.Sprintf("https://wiki%d.example", h) }

// settleClusters gives each thing a home, and each home a hub that knows the others.
func (r *run) settleClusters(t tester) {
	r.home = make([]int, len(r.things))
	clear(r.byURI)
	for x, th := range r.things {
		r.home[x] = r.rng.IntN(r.sc.hubs)
		if th.kind == rendering {
			r.home[x] = r.home[th.source] // a wiki renders its own pages
		}
		th.uri = fmt.Sprintf("%s/%d", cluster(r.home[x]), x)
		r.byURI[th.uri] = x
	}
	for h := 1; h < r.sc.hubs; h++ {
		g := newRigOf(t, r.g.o, rigEpoch+Epoch(h))
		r.hubs = append(r.hubs, g)
		r.stations = append(r.stations, &station{rig: g})
	}
	for h, st := range r.stations {
		st.home = h
		if r.sc.skew > 0 {
			st.skew = time.Duration(r.rng.Int64N(int64(2*r.sc.skew))) - r.sc.skew
		}
	}
	r.setTime(r.time)
	for h, st := range r.stations {
		r.appoint(h, st)
		for i, other := range r.stations {
			if i != h {
				l := &link{from: other, to: st, heard: r.time}
				r.links = append(r.links, l)
				r.later(r.upTo(linkStep), func() { r.run(l) })
			}
		}
	}
}

// appoint tells a hub who speaks for what.
func (r *run) appoint(h int, st *station) {
	var peers []Territory
	for i := range r.stations {
		if i != h {
			peers = append(peers, Territory{Peer: cluster(i), Authority: []string{cluster(i)}})
		}
	}
	st.loop(func(ctx context.Context, s *Store) {
		if err := s.SetAuthority(ctx, []string{cluster(h)}, peers); err != nil {
			st.t.Fatalf("authority: %v", err)
		}
	})
	st.kept = nil
}

func (l *link) peer() string { return cluster(l.from.home) } // what the hearing hub calls the other
func (l *link) self() string { return cluster(l.to.home) }

// up reports whether a message may pass.
func (r *run) up(l *link) bool {
	now := r.now()
	return !now.Before(l.downTo) && !now.Before(l.from.upAt) && !now.Before(l.to.upAt)
}

// passes reports whether a message arrives.
func (r *run) passes(l *link) bool { return r.up(l) && (r.calm || !r.chance(r.sc.drop)) }

// idle reports whether there is nothing to tell on a link.
func (l *link) idle() bool {
	c, err := l.to.s.Session(l.peer())
	return err == nil && c.Owner == l.from.s.epoch && c.Epoch == l.to.s.epoch && c.Covered && c.Pending == 0 && l.level == l.from.s.peers.level
}

// message delivers f after a while, perhaps not, perhaps once more later.
func (r *run) message(l *link, f func()) {
	if !r.passes(l) {
		return
	}
	guarded := func() {
		if r.up(l) {
			f()
		}
	}
	r.later(r.upTo(100*time.Millisecond), guarded)
	if !r.calm && r.chance(r.sc.dup) {
		r.later(r.upTo(20*time.Second), guarded)
	}
}

// run looks at a link: it tells what the one hub wants to hear, and brings what there
// is to hear.
func (r *run) run(l *link) {
	step := linkStep
	if (r.calm || !r.driving) && l.idle() {
		step, l.heard = silent/4, r.now() // a heartbeat
	}
	defer r.later(step/2+r.upTo(step), func() { r.run(l) })
	if r.now().Before(l.to.upAt) || step > linkStep && !l.forsaken {
		return
	}
	if r.now().Sub(l.heard) >= silent && !l.forsaken {
		l.forsaken = true
		l.to.forsake(l.peer())
		r.after(l.to)
	}
	if !r.up(l) {
		return
	}
	epoch := l.from.s.epoch
	r.message(l, func() { // it says hello
		r.message(l, func() {
			if epoch == l.from.s.epoch { // an answer of a session that has ended is not heard
				l.to.meet(l.peer(), epoch)
				r.after(l.to)
				r.tellInterests(l)
				r.askLevels(l)
			}
		})
	})
}

func (r *run) tellInterests(l *link) {
	c, ops := l.to.ops(l.peer(), 1+r.rng.IntN(7))
	if len(ops) == 0 && c.Taken > 0 {
		return
	}
	r.message(l, func() {
		res, err := l.from.register(l.self(), Registration{Epoch: c.Epoch, Generation: c.Generation, Base: c.Taken, Ops: ops})
		r.after(l.from)
		if res.Rejected > 0 {
			l.to.t.Fatalf("%s rejects %d of %v: %s", l.peer(), res.Rejected, ops, res.First)
		}
		r.message(l, func() {
			var gap *GapError
			if errors.As(err, &gap) {
				l.to.misfit(l.peer(), gap)
			} else {
				l.to.opsTaken(l.peer(), c.Generation, res.Applied)
			}
			r.after(l.to)
		})
	})
}

func (r *run) askLevels(l *link) {
	c, err := l.to.s.Session(l.peer())
	if err != nil {
		l.to.t.Fatalf("session: %v", err)
	}
	r.message(l, func() {
		epoch := l.from.s.epoch
		if epoch != c.Owner {
			return
		}
		told := l.from.s.peers.level
		levels, next := l.from.levels(l.self(), c.Position, 1+r.rng.IntN(9))
		r.message(l, func() {
			l.heard, l.forsaken = r.now(), false
			if len(levels) == 0 {
				l.level = told
			} else {
				l.to.hear(l.peer(), epoch, levels, next)
				r.after(l.to)
			}
		})
	})
}

// troubleClusters plans what links and hubs suffer beside what one hub alone does.
func (r *run) troubleClusters() {
	if r.sc.hubs < 2 {
		return
	}
	for _, l := range r.links {
		if r.sc.apart && r.chance(.7) {
			r.later(r.upTo(r.sc.span), func() { l.downTo = r.now().Add(r.upTo(100 * time.Second)) })
		}
	}
	for _, l := range r.links {
		for range 4 {
			r.later(r.upTo(r.sc.span+time.Minute), func() { r.compare(l) })
		}
	}
	for h, st := range r.stations {
		if r.sc.lost && r.chance(.5) {
			at := r.upTo(r.sc.span * 2 / 3)
			r.later(at, func() { r.atHub(st, func() { st.kept = &keepsake{fs: st.copied(r.rng)} }) })
			r.later(at+r.upTo(r.sc.span/3), func() { r.atHub(st, func() { r.restore(h, st) }) })
		}
	}
}

// restore puts an old copy in a hub's place. Its producers tell it again what they told
// since, in order, before anything newer.
func (r *run) restore(h int, st *station) {
	kept := st.kept
	if kept == nil {
		return
	}
	for x := range r.things {
		if r.home[x] == h {
			r.note(x, "its hub is restored")
		}
	}
	r.listened[st.rig] = 0
	st.answered = 0
	st.replace(kept.fs)
	st.kept = nil
	for _, l := range kept.since {
		r.deliver(l)
	}
}

// Calls of the boundary, one hub's half of it at a time.

func (g *rig) boundary(what string, err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatalf("%s: %v", what, err)
	}
	g.listen()
}

// commit runs f in a commit of its own.
func (g *rig) commit(f func(t *txn)) error {
	return g.s.stepSync(g.now().UnixMicro(), []*request{{apply: f}})
}

func (g *rig) meet(peer string, epoch Epoch) {
	p := g.s.PeerNumber(peer)
	g.boundary("meet", g.commit(func(t *txn) { t.meetOwner(p, epoch) }))
}

func (g *rig) ops(peer string, limit int) (c Session, ops []InterestOp) {
	p := g.s.PeerNumber(peer)
	g.boundary("extend", g.commit(func(t *txn) { t.extendOps(p, t.session(p), limit) }))
	c, err := g.s.Session(peer)
	g.boundary("session", err)
	ops, err = g.s.readOps(p, c.Taken, limit)
	g.boundary("ops", err)
	return c, ops
}

func (g *rig) opsTaken(peer string, generation, n uint64) {
	p := g.s.PeerNumber(peer)
	g.boundary("taken", g.commit(func(t *txn) { t.opsTaken(p, generation, n) }))
}

func (g *rig) misfit(peer string, gap *GapError) {
	p := g.s.PeerNumber(peer)
	g.boundary("misfit", g.commit(func(t *txn) { t.misfit(p, gap) }))
}

func (g *rig) register(peer string, r Registration) (res Registered, err error) {
	p := g.s.PeerNumber(peer)
	for more := true; more && g.s.renews(p, &r); {
		g.boundary("drop", g.commit(func(t *txn) { more = t.dropClient(p) }))
	}
	g.boundary("register", g.commit(func(t *txn) { res, err = t.register(p, &r, 1_000_000) }))
	return res, err
}

func (g *rig) levels(peer string, from uint64, limit int) (levels []Level, next uint64) {
	levels, err := g.s.readLevels(g.s.PeerNumber(peer), from, limit)
	g.boundary("levels", err)
	if len(levels) > 0 {
		next = levels[len(levels)-1].Sver
	}
	return levels, next
}

func (g *rig) hear(peer string, epoch Epoch, levels []Level, position uint64) (h Heard) {
	p := g.s.PeerNumber(peer)
	for i := range levels {
		if field, why := levels[i].Fault(); field != "" {
			g.t.Fatalf("level %+v: %s: %s", levels[i], field, why)
		}
	}
	var refused error
	g.boundary("hear", g.commit(func(t *txn) { h, refused = t.hearAll(p, epoch, levels, position) }))
	var other *EpochError
	if refused != nil && !errors.As(refused, &other) {
		g.t.Fatalf("hear: %v", refused)
	}
	return h
}

func (g *rig) forsake(peer string) {
	p := g.s.PeerNumber(peer)
	g.boundary("forsake", g.commit(func(t *txn) { t.forsake(p) }))
}

// copied is what a backup holds.
func (g *rig) copied(rng *rand.Rand) *vfs.MemFS {
	return g.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
}

// replace opens the store anew from a copy, which has an epoch of its own.
func (g *rig) replace(fs *vfs.MemFS) {
	g.t.Helper()
	g.close()
	g.fs, g.heard = fs, nil
	g.open()
	g.epoch += 0x10
	g.setEpoch()
	g.crash(nil)
}

// clusters are those scenarios in which three hubs tell each other what they know.
func clusters() (list []scenario) {
	names := map[proof]string{seenAndToken: "seen and token", seenOnly: "seen", tokenOnly: "token", timeOnly: "time"}
	for _, p := range []proof{seenAndToken, seenOnly, tokenOnly, timeOnly} {
		for _, alive := range []bool{false, true} {
			sc := scenario{name: names[p], hubs: 3, edits: 50, span: 2 * time.Minute, eager: .4, loss: .1, death: .1, slow: .1, again: .2, crash: .3, claim: .3,
				shape: shape{primaries: 8, layers: 2, width: 6, proofs: []proof{p}, revisions: true},
				drop:  .3, dup: .5, apart: true, skew: 5 * time.Minute, alive: alive,
				tick: time.Second, delay: 500 * time.Millisecond, step: 300 * time.Millisecond, chunk: 2}
			if p == timeOnly {
				sc.skew = 2 * time.Second
			}
			if alive {
				sc.name += ", alive"
				sc.late = true
			}
			list = append(list, sc)
			sc.name, sc.lost = sc.name+", restored", true
			list = append(list, sc)
		}
	}
	for i := range list {
		if i%4 == 3 {
			list[i].cycles = .3
		}
	}
	return list
}

// boundarySeeds is how many seeds of each scenario are played: SOAK_SEEDS for long runs.
// With the race detector, for which one goroutine is of little interest, it takes twenty
// times as long.
func boundarySeeds() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("SOAK_SEEDS"), 10, 32); err == nil {
		return n
	}
	if raceDetector {
		return 1
	}
	return 13
}

func TestThreeHubsThatHearOfEachOtherLoseNoRefresh(t *testing.T) {
	first := uint64(1)
	if n, err := strconv.ParseUint(os.Getenv("SOAK_SEED"), 10, 64); err == nil {
		first = n
	}
	for i, sc := range clusters() {
		if raceDetector && i%3 != 0 {
			continue // each takes ten times as long, and all come without it
		}
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+boundarySeeds(); seed++ {
				r := newRun(t, sc, seed)
				r.boot()
				r.drive()
				if r.wrong == "" {
					r.x, r.wrong = r.atRest()
				}
				if r.wrong == "" {
					r.x, r.wrong = r.checkInvariants()
				}
				if r.wrong == "" {
					r.x, r.wrong = r.checkMirrors()
				}
				if r.wrong != "" {
					t.Fatalf("seed %d: %s %s\n%s", seed, r.name(r.x), r.wrong, r.story(r.x))
				}
			}
		})
	}
}

// checkMirrors: at rest each hub wants to hear of exactly what somebody there depends
// on, is told so, and has what whoever speaks for it has; and a comparison finds nothing.
func (r *run) checkMirrors() (int, string) {
	for _, l := range r.links {
		want := 0
		for x, t := range r.things {
			if r.home[x] != l.from.home {
				continue
			}
			here, there := l.to.resource(t.uri), l.from.resource(t.uri)
			needed := len(l.to.dependents(t.uri)) > 0
			if needed {
				want++
			}
			switch {
			case needed != (here.Peer != ""):
				return x, fmt.Sprintf("%s depends on it: %t, and it is a mirror of %q", l.self(), needed, here.Peer)
			case !needed:
			case here.Known != there.Known || here.Hash != there.Hash || here.Unsettled && !there.Unsettled:
				return x, fmt.Sprintf("%s has %+v of it, and it is %+v", l.self(), here, there)
			}
		}
		n, rows := 0, 0
		standing, err := l.to.s.Session(l.peer())
		if err == nil {
			n = int(standing.Mirrors)
			err = l.to.s.scanPrefix(peerKey(peerMirror, l.to.s.PeerNumber(l.peer())), func(_, _ []byte) error { rows++; return nil })
		}
		c, err2 := l.from.s.Client(l.self())
		if err != nil || err2 != nil || n != want || rows != want || c.Interests != int64(want) {
			return 0, fmt.Sprintf("%s wants to hear of %d resources of %s, has %d mirrors, and is told of %d (%v, %v)", l.self(), want, l.peer(), n, c.Interests, err, err2)
		}
		ours, err := l.to.s.readSums(context.Background(), l.peer(), true)
		theirs, err2 := l.from.s.readSums(context.Background(), l.self(), false)
		if err != nil || err2 != nil {
			return 0, fmt.Sprintf("sums of %s and %s: %v, %v", l.self(), l.peer(), err, err2)
		}
		if here, there := whole(ours), whole(theirs); here != there {
			return r.unequal(l), fmt.Sprintf("%s has %+v of %s, which has %+v", l.self(), here, l.peer(), there)
		}
	}
	return -1, ""
}

// unequal is something that two hubs do not have alike.
func (r *run) unequal(l *link) int {
	for _, d := range differences(l.to.entries(l.peer(), true).Entries, l.from.entries(l.self(), false).Entries) {
		return r.byURI[d.uri()]
	}
	return 0
}

// compare lets a hub compare what it has of another with what that one has, however much
// is on its way.
func (r *run) compare(l *link) {
	if r.now().Before(l.to.upAt) {
		return
	}
	s, asked := l.to.s, l.to.entries(l.peer(), true).Horizon
	r.message(l, func() {
		page := l.from.entries(l.self(), false)
		r.message(l, func() {
			if s == l.to.s { // who asked is still there
				r.reconcile(l, asked, page)
			}
		})
	})
}

// reconcile mends what differs. Nothing was damaged, so that what was heard is never wrong.
func (r *run) reconcile(l *link, asked Horizon, page ComparePage) {
	c, err := l.to.s.Session(l.peer())
	if err != nil || asked.Epoch != page.Epoch || c.Owner != page.Epoch {
		return
	}
	found := differences(l.to.entries(l.peer(), true).Entries, page.Entries)
	for _, d := range found {
		if d.here != nil && d.there != nil && d.here.State != 0 && need(d.here, d.there, asked.Position, page.Position, c.Position) != mendNothing {
			r.x, r.wrong = r.byURI[d.uri()], fmt.Sprintf("%s had heard up to %d of it and has %+v, and a comparison with %+v of %d finds it wrong", l.self(), asked.Position, *d.here, *d.there, page.Position)
		}
	}
	rec := &reconciler{s: l.to.s, peer: l.peer(), p: l.to.s.PeerNumber(l.peer()), asked: asked, answered: page.Horizon}
	for _, part := range [][]difference{nil, found} {
		l.to.boundary("mend", l.to.commit(func(t *txn) {
			n, err := rec.mendAll(t, part)
			if err != nil || part == nil && n > 0 {
				r.x, r.wrong = 0, fmt.Sprintf("%s mends a position: %d, %v", l.self(), n, err)
			}
		}))
	}
	r.after(l.to)
}

// entries lists all that one side of a boundary has.
func (g *rig) entries(peer string, mirrors bool) ComparePage {
	return g.entriesUpTo(peer, mirrors, MaxEntries)
}

func (g *rig) entriesUpTo(peer string, mirrors bool, limit int) ComparePage {
	in := &span{}
	for i := range in.leaves {
		in.leaves[i] = 1<<64 - 1
	}
	page, err := g.s.readEntries(context.Background(), peer, mirrors, in, limit)
	g.boundary("entries", err)
	return page
}
