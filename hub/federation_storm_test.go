package hub

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/faulty"
)

// A weather is what befalls an alliance, and what of it happened.
type weather struct {
	t       *testing.T
	l       *alliance
	f       *farm
	rng     *rand.Rand
	backups map[*ally]int // letters that the wiki had told by then
	counts  map[string]int
}

// noise makes each network as bad as it is drawn.
func (w *weather) noise() {
	for _, a := range w.l.allies {
		f := faulty.Fault{Drop: .05 + .1*w.rng.Float64(), Lose: .05 + .1*w.rng.Float64(), Duplicate: .1 + .4*w.rng.Float64(),
			Delay: time.Duration(w.rng.IntN(5)) * time.Millisecond, Jitter: time.Duration(w.rng.IntN(20)) * time.Millisecond}
		if w.rng.IntN(2) == 0 {
			f.CutAfter = 500 + w.rng.IntN(20_000)
		}
		if w.rng.IntN(3) == 0 {
			f.Rate = 5_000 + w.rng.IntN(100_000)
		}
		a.proxy.Set(f)
	}
}

// lasts lets what there is go on for some time of the hubs.
func (w *weather) lasts(least, most time.Duration) {
	pass((least + time.Duration(w.rng.Int64N(int64(most-least)))) / allianceRate)
}

// down tells a wiki that its hub is going, or has come.
func (w *weather) down(a *ally, down bool) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.wiki(a).down = down
}

func (w *weather) wiki(a *ally) *wiki { return w.f.wikis[slices.Index(w.l.allies, a)] }

// strike has something befall a hub.
func (w *weather) strike(a *ally, how string) {
	w.counts[how]++
	home := w.wiki(a)
	switch how {
	case "backup":
		home.sending.Lock()
		defer home.sending.Unlock()
		w.backups[a] = a.backUp(fmt.Sprint("b", w.counts[how]))
		return
	case "cut":
		a.proxy.Cut()
		return
	case "kill":
		w.down(a, true)
		a.kill()
		w.lasts(time.Second, 40*time.Second)
		a.come()
	default: // its store is an older one, or none
		home.sending.Lock()
		defer home.sending.Unlock()
		w.down(a, true)
		sent := w.backups[a]
		if how == "restore" {
			a.restore(newestBackup(a))
		} else {
			sent = 0
			a.restore("")
			w.l.befriend(a)
		}
		a.replay(a.sent[sent:])
	}
	w.down(a, false)
}

// newestBackup is the name of the last backup of a hub.
func newestBackup(a *ally) string {
	a.t.Helper()
	list, err := Backups(filepath.Join(a.data, "backups"))
	if err != nil || len(list) == 0 {
		a.t.Fatalf("%d backups, %v", len(list), err)
	}
	return list[len(list)-1].Name
}

// storm parts each pair of hubs in both ways, and meanwhile has hubs be killed, one be
// restored from a backup and one lose everything.
func (w *weather) storm() {
	allies := w.l.allies
	parts := []struct {
		i, k int
		f    *faulty.Fault
	}{}
	for _, f := range []*faulty.Fault{{Refuse: true}, {Blackhole: true}} {
		for i := range allies {
			for k := range i {
				parts = append(parts, struct {
					i, k int
					f    *faulty.Fault
				}{i, k, f})
			}
		}
	}
	w.rng.Shuffle(len(parts), func(i, k int) { parts[i], parts[k] = parts[k], parts[i] })
	lost := w.rng.Perm(len(allies))
	w.strike(allies[lost[0]], "backup")
	type blow struct {
		a   *ally
		how string
	}
	blows := []blow{{allies[lost[0]], "restore"}, {allies[lost[1]], "loss"}, {allies[lost[2]], "kill"}}
	for _, how := range []string{"kill", "cut", "cut"} {
		blows = append(blows, blow{allies[w.rng.IntN(len(allies))], how})
	}
	w.rng.Shuffle(len(blows), func(i, k int) { blows[i], blows[k] = blows[k], blows[i] })
	for n, part := range parts {
		w.noise()
		w.lasts(10*time.Second, 30*time.Second)
		w.l.part(part.i, part.k, part.f)
		w.counts["part"]++
		w.lasts(10*time.Second, 60*time.Second)
		w.strike(blows[n].a, blows[n].how)
		w.lasts(30*time.Second, 90*time.Second)
		w.l.part(part.i, part.k, nil)
	}
	for _, a := range allies {
		a.proxy.Set(faulty.Fault{})
	}
}

// wrong is what is not as it must be when all is at rest, "" if nothing.
func (w *weather) wrong() string {
	f := w.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, home := range f.wikis {
		if home.failed != nil {
			w.t.Fatalf("hub %d: %v", home.home, home.failed)
		}
	}
	states := make([][]map[string]statusShape, len(f.wikis)) // by hub, and by who speaks for it
	for i, home := range f.wikis {
		for k := range f.wikis {
			list, err := home.states(k, false)
			if err != nil {
				w.t.Fatal(err)
			}
			states[i] = append(states[i], list)
		}
	}
	for x, t := range f.things {
		if wrong := f.atHome(x, states[t.home][t.home][t.uri]); wrong != "" {
			return f.tell(x, wrong)
		}
	}
	if wrong := f.edgesAtHome(); wrong != "" {
		return wrong
	}
	mirrors := f.mirrors()
	for i, home := range f.wikis {
		for x, t := range f.things {
			if t.home == i || !mirrors[i][x] {
				continue
			}
			here, there := states[i][t.home][t.uri], states[t.home][t.home][t.uri]
			if here.Known != there.Known || here.Hash != there.Hash || t.kind != rendering && here.Version != there.Version {
				return f.tell(x, fmt.Sprintf("hub %d has %+v of it, and it is %+v", i, here, there))
			}
		}
		for k, other := range f.wikis {
			if i == k {
				continue
			}
			want := int64(0)
			for x := range mirrors[i] {
				if f.things[x].home == k {
					want++
				}
			}
			peer, tells := home.a.peer(other.a), other.a.peer(home.a).Tells
			hears := peer.Hears
			if peer.Phase != "following" || hears.Mirrors != want || tells.Interests != want || hears.Pending != 0 ||
				hears.Generation != tells.Generation || hears.Rejected+hears.Refused+tells.Denied > 0 || int64(tells.Waiting) > tells.Interests {
				return fmt.Sprintf("hub %d, %s %s, depends on %d things of hub %d: %+v; which says %+v", i, peer.Phase, peer.Fault, want, k, hears, tells)
			}
		}
	}
	return ""
}

// atHome says what is wrong with what the hub of x has of it.
func (f *farm) atHome(x int, s statusShape) string {
	t := f.things[x]
	switch {
	case t.kind == rendering && t.here():
		switch {
		case f.staleBecause(x) != "":
			return fmt.Sprintf("lost refresh: its hub says %+v, but %s", s, f.staleBecause(x))
		case s.State != "clean" || s.Stale || !s.Known:
			return fmt.Sprintf("its hub says %+v", s)
		case s.Hash != t.content || s.Hash != f.result(x, f.deps(x), func(y int) string { return f.things[y].content }):
			return fmt.Sprintf("its hub has the hash %s, it is %s, and ought to be something else", s.Hash, t.content)
		}
		const most = 100 // ring or not
		if t.makes > most {
			return fmt.Sprintf("it was made %d times since all is calm", t.makes)
		}
	case t.changes == 0: // nobody ever heard of it
	case !t.exists && (t.kind != existence || x%2 == 0):
		if s.Known || s.Version != "0" {
			return fmt.Sprintf("it was deleted, and its hub says %+v", s)
		}
	case t.kind != rendering && (s.Version != t.version || s.Hash != t.content || !s.Known):
		return fmt.Sprintf("its hub says %+v", s)
	}
	return ""
}

// edgesAtHome says where a hub has other edges than it was told.
func (f *farm) edgesAtHome() string {
	for x, t := range f.things {
		if t.kind != rendering || t.changes == 0 {
			continue
		}
		var got struct{ Items []itemShape }
		if err := f.wikis[t.home].a.call("GET", "/v1/dependencies?limit=1000&uri="+url.QueryEscape(t.uri), nil, &got); err != nil {
			return f.tell(x, err.Error())
		}
		var edges []string
		for _, item := range got.Items {
			edges = append(edges, item.URI)
		}
		slices.Sort(edges)
		if want := f.edges(x); !slices.Equal(edges, want) {
			return f.tell(x, fmt.Sprintf("its hub has it be made of %v, want %v", edges, want))
		}
	}
	return ""
}

// mirrors are the things that each hub depends on and another speaks for.
func (f *farm) mirrors() []map[int]bool {
	sets := make([]map[int]bool, len(f.wikis))
	for i := range sets {
		sets[i] = map[int]bool{}
	}
	for _, t := range f.things {
		if t.kind == rendering && t.here() {
			for _, x := range slices.Concat(t.madeOf, t.extra) {
				if f.things[x].home != t.home {
					sets[t.home][x] = true
				}
			}
		}
	}
	return sets
}

// rest waits until nothing is wrong any more.
func (w *weather) rest(patience time.Duration) {
	w.t.Helper()
	w.f.mu.Lock()
	for _, home := range w.f.wikis {
		home.calm = true
	}
	w.f.mu.Unlock()
	for end := time.Now().Add(patience); ; pass(100 * time.Millisecond) {
		wrong := w.wrong()
		if wrong == "" {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("not at rest after %s: %s", patience, wrong)
		}
	}
}

func TestThreeHubsAreAsOneWhateverBefallsTheNetworkAndThem(t *testing.T) {
	t.Parallel()
	for _, seed := range soakSeeds(t) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { weatherStorm(t, seed) })
	}
}

func weatherStorm(t *testing.T, seed uint64) {
	l := newAlliance(t, 3, allianceRate, seed, "WORK=html")
	w := &weather{t: t, l: l, f: newFarm(l, seed), rng: rand.New(rand.NewPCG(seed, 99)), backups: map[*ally]int{}, counts: map[string]int{}}
	w.f.boot()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, home := range w.f.wikis {
		running.Go(func() { home.run(ctx) })
		running.Go(func() { home.listen(ctx) })
	}
	began := time.Now()
	w.lasts(30*time.Second, 60*time.Second)
	w.storm()
	stormed := time.Now()
	w.rest(2 * patience)
	calmed := time.Now()
	w.staysQuiet()
	w.comparesWell()
	w.isBounded()
	stop()
	running.Wait()
	l.allies[seed%3].sound(t)
	t.Logf("a storm of %s, at rest %s later: %v; %+v; %s", stormed.Sub(began).Round(time.Millisecond), calmed.Sub(stormed).Round(time.Millisecond),
		w.counts, w.faults(), w.f.sum())
}

// faults adds up what befell the network, and fails if a sort of fault did not.
func (w *weather) faults() (all faulty.Counts) {
	w.t.Helper()
	for _, a := range w.l.allies {
		c := a.proxy.Counts()
		all.Requests += c.Requests
		all.Dropped += c.Dropped
		all.Lost += c.Lost
		all.Duplicated += c.Duplicated
		all.Cut += c.Cut
		all.Refused += c.Refused
		all.Held += c.Held
	}
	if min(all.Dropped, all.Lost, all.Duplicated, all.Cut, all.Refused, all.Held) == 0 {
		w.t.Errorf("not all sorts of faults befell the network: %+v", all)
	}
	return all
}

// silenceTime is the time after which a peer that says nothing is silent.
const silenceTime = time.Minute

// staysQuiet fails if something is to be made again although nothing happens.
func (w *weather) staysQuiet() {
	w.t.Helper()
	written := func() (n float64) {
		for _, a := range w.l.allies {
			n += a.metric("freshwire_journal_newest")
		}
		return n
	}
	before := written()
	w.lasts(silenceTime, silenceTime+1)
	if n := written() - before; n > 0 {
		w.t.Errorf("at rest %.0f notices were written", n)
	}
	if wrong := w.wrong(); wrong != "" {
		w.t.Error(wrong)
	}
}

// comparesWell has each hub compare what it heard of each other with what that has.
func (w *weather) comparesWell() {
	w.t.Helper()
	for _, a := range w.l.allies {
		for _, b := range w.l.allies {
			if a == b {
				continue
			}
			was := a.peer(b).Hears
			a.must("POST", "/v1/peer?url="+url.QueryEscape(b.proxy.URL()), []byte(`{"action":"compare"}`), nil)
			eventually(w.t, a.site+" has compared what it heard of "+b.site, func() bool { return a.peer(b).Hears.Compared.After(was.Compared) })
			if n := a.peer(b).Hears.Mended; n > 0 {
				w.t.Errorf("%s had to mend %d things that it had heard of %s, of them %d at rest", a.site, n, b.site, n-was.Mended)
			}
		}
	}
}

// isBounded fails if a hub uses more memory than some hundred things and two peers are
// worth: the race detector takes as much again several times.
func (w *weather) isBounded() {
	w.t.Helper()
	const most = 200 << 20
	for _, a := range w.l.allies {
		resident, err := metricOf(a.client, a.url(), "process_resident_memory_bytes")
		if err != nil { // not everywhere
			continue
		}
		w.counts["MiB"] = max(w.counts["MiB"], int(resident)>>20)
		if resident > most*(1+slowdown/3) {
			w.t.Errorf("%s has %.0f MiB of memory, want %d at most", a.site, resident/(1<<20), most*(1+slowdown/3)>>20)
		}
	}
}

// sound kills the hub and has the store that it leaves checked.
func (a *ally) sound(t *testing.T) {
	t.Helper()
	a.kill()
	cfg, err := LoadConfig("", a.env, nil)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := Check(t.Context(), cfg, slog.New(slog.DiscardHandler), false, nil)
	if err != nil || rep.Found > 0 {
		t.Errorf("check: %v, %d findings, the first of them %+v", err, rep.Found, rep.Findings[:min(len(rep.Findings), 3)])
	}
	a.start() // for the end of the test
}

// sum is what the wikis did.
func (f *farm) sum() string {
	edits, makes := 0, 0
	for _, t := range f.things {
		if t.kind == rendering {
			makes += t.changes
		} else {
			edits += t.changes
		}
	}
	lost, letters := 0, 0
	for _, w := range f.wikis {
		lost += w.lost
		letters += len(w.a.sent)
	}
	return fmt.Sprintf("%d changes of primaries, %d of pages, %d letters, %d notices lost", edits, makes, letters, lost)
}
