package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"runtime/debug"

	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
	"github.com/freshwire/freshwire/subscriptions"
)

const (
	// simSteps is how many steps a history of the simulation has, and soakSteps how
	// many it has in a long run. With the race detector each takes ten times as long.
	simSteps  = 40 / shorter
	soakSteps = 200
	// simSeeds is how many seeds are played, unless SOAK_SEEDS says.
	simSeeds = 500
	// quietTime is what passes after each step: longer than the pump lets notices
	// gather.
	quietTime = 20 * time.Millisecond
	// soundEach is of how many seeds one has its store checked at the end: what a
	// check looks at takes as long as a few steps.
	soundEach = 2
	// simRest bounds the time in which all must come to rest.
	simRest = 8 * time.Hour
	// stall is how long a disk takes that is to lose power in the middle, and cutTime
	// how long a hub takes to end on it: a few flushes.
	stall, cutTime = time.Second, 5 * time.Second
	// maxSkew bounds how far the hub's clock lies behind the producers': further
	// than graph.MaxFuture it would refuse what they send.
	maxSkew = 3 * time.Minute
)

// A simPlan is what can happen in a history.
type simPlan struct {
	steps         int
	chunk, inline int // of graph.Options; 0 is the default
	cache         int64
	keep          time.Duration
	proofs        []simProof
	lossy         bool // the network loses requests and answers
	slow          bool // the disk is slow now and then
	cuts          bool // power is cut
	breaks        bool // disks break
	restarts      bool // in good order
	sets          bool // clocks are set
	newest        bool // who renders holds the newest position, not that of the notice
	unasked       bool // nobody is told again
}

func newSimPlan(rng *rand.Rand, steps int) simPlan {
	p := simPlan{steps: steps, chunk: rng.IntN(3), inline: rng.IntN(3) - 1, cache: 1 << 20, keep: graph.DefaultKeepAge,
		lossy: rng.IntN(4) > 0, slow: rng.IntN(2) == 0, cuts: rng.IntN(3) > 0, breaks: rng.IntN(2) == 0, restarts: rng.IntN(2) == 0, sets: rng.IntN(3) == 0}
	if rng.IntN(4) == 0 {
		p.keep = 30 * time.Minute
	}
	all := []simProof{seenAndToken, tokenOnly, seenOnly, timeOnly}
	if p.sets { // who proves nothing but a time relies on clocks
		all = all[:2]
	}
	p.proofs = all
	if rng.IntN(2) == 0 {
		p.proofs = []simProof{all[rng.IntN(len(all))]}
	}
	return p
}

// A sim is a hub in a world of its own: with a clock, a disk and a network that
// are not those of the machine. One driver draws every step from one source of
// chance, and waits until all is quiet before the next.
type sim struct {
	*simWorld
	plan simPlan
	rng  *rand.Rand
	skew atomic.Int64 // of the hub's clock, in ns
	disk *simDisk
	net  *simNet
	hub  *Hub
	stop context.CancelFunc
	ran  chan error

	publishers []*simPublisher
	makings    []*simMaking
	inbox      []noted // refresh notices that nobody has answered
	arrived    []*simBatch

	journal  []noted
	at       graph.Cursor // up to which it was read
	told     map[string]uint64
	changed  map[string]uint64
	hidden   map[string]bool // whom nobody looks after
	edges    map[string][]string
	channels []*simChannel
	readers  []*simReader
	calm     bool // nothing goes wrong any more
	ids      int
	story    []string
	lives    int
	counts   map[string]int
}

// wrong is what ends a history.
type wrong string

func (s *sim) failf(format string, args ...any) { panic(wrong(fmt.Sprintf(format, args...))) }

func (s *sim) note(format string, args ...any) {
	s.story = append(s.story, fmt.Sprintf("%s %s", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...)))
}

// simStore is an empty store with an epoch that is the same in every run: jitter
// depends on it.
func simStore(t *testing.T) *vfs.MemFS {
	mem := vfs.NewCrashableMem()
	t.Run("an empty store", func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, 1)
		s, err := graph.Open("data/store", graph.Options{FS: mem, Cache: 1 << 20})
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return mem
}

// setStep sets what graph keeps to itself: the sizes at which a fan-out becomes a
// job of several steps. In a world of thirty resources it never would.
func setStep(o *graph.Options, name string, value int) {
	f := reflect.ValueOf(o).Elem().FieldByName(name)
	reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().SetInt(int64(value))
}

// start begins a life of the hub.
func (s *sim) start() {
	s.net = newSimNet()
	m := machine{now: func() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }, portable: true,
		listen: func(string) (net.Listener, error) { return s.net, nil },
		store: func(o *graph.Options) {
			o.FS, o.Cache = s.disk.fs(), s.plan.cache
			setStep(o, "chunk", s.plan.chunk)
			setStep(o, "inline", s.plan.inline)
		}}
	cfg := DefaultConfig()
	cfg.Data, cfg.KeepAge = "data", s.plan.keep
	if !s.plan.unasked {
		cfg.Work = []string{"html"}
	}
	h, err := newOn(m, cfg, nil)
	if err != nil {
		s.failf("the hub does not start: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.hub, s.stop, s.ran = h, stop, make(chan error, 1)
	go func() { s.ran <- h.Run(ctx) }()
	synctest.Wait()
	s.lives++
	s.note("the hub begins life %d at %s", s.lives, h.store.Token())
	s.reread()
}

// end ends a life in good order, or because what the hub runs on has gone. How
// long a shutdown takes net/http leaves to chance; after away it is over.
func (s *sim) end(away time.Duration) error {
	back := time.NewTimer(away)
	s.stop()
	err := <-s.ran
	s.hub = nil
	for _, p := range s.publishers {
		s.collect(p)
	}
	<-back.C
	return err
}

func (s *sim) restart() {
	s.note("restart")
	if err := s.end(drainDeadline + 5*time.Second); err != nil {
		s.failf("the hub ended with %v", err)
	}
	s.disk = &simDisk{mem: s.disk.mem}
	s.start()
}

// die cuts the power, in the middle of whatever happens.
func (s *sim) die() {
	mem := s.disk.powerCut(s.rng)
	s.net.cut()
	s.note("power cut")
	s.counts["cuts"]++
	s.end(cutTime) // what it still does nobody sees
	s.disk = &simDisk{mem: mem}
	time.Sleep(time.Duration(s.rng.IntN(20)) * time.Second)
	s.start()
}

// breakDisk lets all flushes fail from now on and gives the hub something to
// flush. It must end, and must not have acknowledged anything.
func (s *sim) breakDisk(give func()) {
	s.disk.broken.Store(int32(writesBroken + s.rng.IntN(2)))
	s.note("the disk breaks")
	s.counts["broken disks"]++
	give()
	time.Sleep(time.Minute) // longer than a drain
	synctest.Wait()
	select {
	case err := <-s.ran:
		if err == nil {
			s.failf("the hub ended in good order on a broken disk")
		}
		s.ran <- err
	default:
		s.failf("the hub goes on with a broken disk")
	}
	mem := s.disk.powerCut(s.rng)
	s.net.cut()
	s.end(cutTime)
	s.disk = &simDisk{mem: mem}
	s.start()
}

// reread reads the journal of a new life: what was read before is there.
func (s *sim) reread() {
	from := s.hub.store.Oldest()
	if s.at.IsZero() {
		s.at = from
	}
	known, _ := slices.BinarySearchFunc(s.journal, from.Seq+1, func(n noted, seq uint64) int { return cmp.Compare(n.seq, seq) })
	for _, want := range s.journal[known:] {
		ns, next, err := s.hub.store.ReadFrom(context.Background(), from, 1)
		if s.hub.store.Token().Seq < want.seq || err != nil || len(ns) != 1 || string(subscriptions.AppendNotice(nil, &ns[0])) != want.data {
			s.failf("position %d held %s, and now %+v, %v", want.seq, want.data, ns, err)
		}
		from = next
	}
	s.hear()
}

// hear reads what is new in the journal.
func (s *sim) hear() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for s.at.Seq < s.hub.store.Token().Seq {
		ns, next, err := s.hub.store.ReadFrom(ctx, s.at, 100)
		if err != nil {
			s.failf("reading the journal from %s: %v", s.at, err)
		}
		for i := range ns {
			n, err := asNoted(ns[i].Cursor.Seq, string(subscriptions.AppendNotice(nil, &ns[i])))
			if err != nil || n.seq != s.at.Seq+1 || len(s.journal) > 0 && n.At.Before(s.journal[len(s.journal)-1].At) {
				s.failf("after %s the journal goes on with %s, %v", s.at, n.data, err)
			}
			s.note("JOURNAL %d %s %s %s %s %s%s", n.seq, n.Kind, n.Reason, n.Lane, n.URI, n.Version, n.Hash)
			s.journal, s.at = append(s.journal, n), ns[i].Cursor
			if n.Kind == "changed" {
				s.changed[n.URI] = n.seq
				continue
			}
			s.told[n.URI] = n.seq
			if !s.hidden[n.URI] {
				s.inbox = append(s.inbox, n)
			}
		}
		s.at = next
	}
}

// quiet lets all that is under way happen, and then looks at everything.
func (s *sim) quiet() {
	busy := false
	for range 2 {
		synctest.Wait()
		busy = false
		for _, p := range s.publishers {
			if p.call != nil {
				p.call.leaveUnanswered()
			}
			busy = !s.collect(p) || busy
		}
		time.Sleep(quietTime)
		synctest.Wait()
	}
	select {
	case err := <-s.ran:
		s.failf("the hub ended: %v", err)
	default:
	}
	s.hear()
	// What is on its way to a slow disk shows in the states, and not in the journal.
	if !busy && s.disk.delay.Load() == 0 && len(s.hub.store.Jobs()) == 0 {
		s.check()
	}
}

// ask makes a request that arrives and returns what is answered.
func (s *sim) ask(method, path, body string) *call {
	c := s.net.start(&call{method: method, path: path, body: []byte(body), header: map[string]string{"Content-Type": typeJSON}})
	<-c.done
	return c
}

// asked is ask for what must be answered 200, or 201.
func (s *sim) asked(method, path, body string, into any) {
	c := s.ask(method, path, body)
	s.read(method+" "+path+" "+body, c.status, c.answer, into)
}

func (s *sim) read(what string, status int, answer []byte, into any) {
	if status != 200 && status != 201 {
		s.failf("%s is answered %d %s", what, status, answer)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		s.failf("%s: %s: %v", what, answer, err)
	}
}

// look asks without a network between, for that is what most time would go to.
func (s *sim) look(method, path, body, accept string) (status int, answer []byte) {
	req := httptest.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	req.Header.Set("Content-Type", typeJSON)
	req.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	s.hub.api.Handler.ServeHTTP(w, req)
	return w.Code, w.Body.Bytes()
}

// resource is what the hub says of one.
func (s *sim) resource(uri string) (r resourceShape) {
	status, answer := s.look("GET", "/v1/resource?uri="+url.QueryEscape(uri), "", typeJSON)
	s.read("GET "+uri, status, answer, &r)
	return r
}

// play plays one history inside a bubble.
func (s *sim) play(steps func()) (failed string) {
	defer func() {
		if p := recover(); p != nil {
			w, ok := p.(wrong)
			if !ok {
				w = wrong(fmt.Sprintf("panic: %v", p))
				s.note("%s", debug.Stack())
			}
			failed = string(w)
		}
		if s.hub != nil {
			s.net.cut()
			s.disk.delay.Store(0)
			for _, p := range s.publishers {
				if p.call != nil {
					p.call.leaveUnanswered()
				}
			}
			s.stop()
			<-s.ran
		}
		for _, r := range s.readers {
			r.cut()
		}
	}()
	s.start()
	steps()
	return ""
}

// newSim makes a world for a plan, with a hub on a copy of an empty store.
func newSim(seed uint64, plan simPlan, empty *vfs.MemFS) *sim {
	rng := rand.New(rand.NewPCG(seed, 6))
	s := &sim{simWorld: newSimWorld(rng, plan.proofs), plan: plan, rng: rng, disk: &simDisk{mem: empty.CrashClone(vfs.CrashCloneCfg{})},
		told: map[string]uint64{}, changed: map[string]uint64{}, hidden: map[string]bool{}, edges: map[string][]string{}, counts: map[string]int{}}
	s.simWorld.token = func() graph.Cursor { return s.at }
	s.simWorld.post = s.send
	for range 3 {
		s.publishers = append(s.publishers, &simPublisher{})
	}
	for _, t := range s.things {
		t.gone = t.kind == rendering
	}
	for i := range 2 {
		s.hidden[fmt.Sprint("https://e.example/", i)] = true
	}
	return s
}

// digest sums up journal and states.
func (s *sim) digest() string {
	f := fnv.New64a()
	for _, n := range s.journal {
		fmt.Fprintln(f, n.data)
	}
	for _, st := range s.statuses() {
		fmt.Fprintln(f, st.State, st.Version, st.Hash, st.Stale)
	}
	return fmt.Sprintf("%d notices %x", len(s.journal), f.Sum64())
}

// number reads a variable of the environment.
func number(t *testing.T, name string, none uint64) uint64 {
	t.Helper()
	if os.Getenv(name) == "" {
		return none
	}
	n, err := strconv.ParseUint(os.Getenv(name), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// sound ends the hub, by a power cut or in good order, and has its store checked.
func (s *sim) sound() {
	mem := s.disk.mem
	if s.rng.IntN(2) == 0 {
		mem = s.disk.powerCut(s.rng)
		s.net.cut()
	}
	s.end(drainDeadline + 5*time.Second)
	rep, err := graph.Check(context.Background(), filepath.Join("data", "store"), graph.CheckOptions{FS: mem, Cache: s.plan.cache})
	if err != nil || rep.Found > 0 {
		s.failf("check: %v, %d findings, the first of them %+v", err, rep.Found, rep.Findings[:min(len(rep.Findings), 3)])
	}
	s.counts["checks"]++
}

// playSeed plays the history of a seed and returns its digest.
func playSeed(t *testing.T, seed uint64, steps int, empty *vfs.MemFS) (digest string, counts map[string]int) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		s := newSim(seed, newSimPlan(rand.New(rand.NewPCG(seed, 5)), steps), empty)
		failed := s.play(func() {
			s.drive()
			s.rest()
			digest = s.digest()
			if seed%soundEach == 0 {
				s.sound()
			}
		})
		s.counts["lives"] += s.lives
		s.counts["notices"] += len(s.journal)
		counts = s.counts
		if failed != "" {
			last := s.story[max(0, len(s.story)-120):]
			t.Errorf("plan %+v\n%s\nSOAK_SEED=%d SOAK_STEPS=%d: %s", s.plan, strings.Join(last, "\n"), seed, steps, failed)
		}
	})
	return digest, counts
}

// Each of these was a fault of the hub.
func TestHistoriesThatOnceWentWrongGoWell(t *testing.T) {
	for _, c := range []struct {
		name  string
		seed  uint64
		steps int
	}{{"a retry whose notice was trimmed never came", 9234, 200}} {
		t.Run(c.name, func(t *testing.T) { playSeed(t, c.seed, c.steps, simStore(t)) })
	}
}

func TestNothingOfAHubIsLostWhateverItsMachineAndNetworkDo(t *testing.T) {
	empty := simStore(t)
	first, n, steps := number(t, "SOAK_SEED", 1), number(t, "SOAK_SEEDS", simSeeds), simSteps
	if os.Getenv("SOAK_SEEDS") != "" || os.Getenv("SOAK_SEED") != "" {
		steps = int(number(t, "SOAK_STEPS", soakSteps))
	}
	if os.Getenv("SOAK_SEEDS") == "" && os.Getenv("SOAK_SEED") != "" {
		n = 1
	}
	sum := map[string]int{}
	began := time.Now()
	for seed := first; seed < first+n && !t.Failed(); seed++ {
		_, counts := playSeed(t, seed, steps, empty)
		for what, k := range counts {
			sum[what] += k
		}
	}
	t.Logf("%d seeds in %s: %v", n, time.Since(began).Round(time.Second), sum)
	for _, what := range slices.Sorted(maps.Keys(sum)) {
		if n >= simSeeds && sum[what] == 0 {
			t.Errorf("no history had any of %q", what)
		}
	}
}

func TestTheSameSeedPlaysTheSameHistory(t *testing.T) {
	empty := simStore(t)
	// How far a commit has come when the next begins, and how much a disk has
	// taken when it breaks, the scheduler decides: for slow and broken disks the
	// driver draws the same, and the hub may do things in another order.
	for seed := uint64(1); seed <= 40/shorter; seed++ {
		if plan := newSimPlan(rand.New(rand.NewPCG(seed, 5)), simSteps); plan.slow || plan.breaks {
			continue
		}
		a, _ := playSeed(t, seed, simSteps, empty)
		b, _ := playSeed(t, seed, simSteps, empty)
		if a != b {
			t.Errorf("seed %d: played twice, it ends with %s and %s", seed, a, b)
		}
	}
}
