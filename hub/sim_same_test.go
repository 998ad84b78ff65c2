package hub

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

const (
	// sameSeeds is how many histories are each played in every way.
	sameSeeds = 8 / shorter
	// sameRounds is how many rounds a history has. Each is longer than the window in
	// which graph counts changes, or a pause of the hub would shift what is damped.
	sameRounds = 14
	sameRound  = 11 * time.Minute
)

// A sent is a request of a history that was recorded.
type sent struct {
	at      time.Duration
	letters []simLetter
}

// record lets a world go its way on a machine without trouble, and returns what
// was sent to the hub and when. Between two rounds there is time for a hub to be away.
func (s *sim) record() (history []sent) {
	began := time.Now()
	for round := range sameRounds {
		for x, t := range s.things {
			if round == 0 && t.kind == rendering {
				s.finish(s.begin(x, s.at))
			} else if round == 0 {
				s.edit(x)
			}
		}
		for range 5 {
			if x := s.rng.IntN(len(s.things)); s.things[x].kind != rendering {
				s.edit(x)
			}
			s.render()
		}
		if s.rng.IntN(5) == 0 {
			s.purge()
		}
		for _, p := range s.publishers {
			if len(p.queue) > 0 {
				p.batch, p.queue = s.pack(p.queue), nil
				history = append(history, sent{time.Since(began), p.batch.letters})
				s.publish(p)
				s.quiet()
			}
		}
		pass(time.Duration(round+1)*sameRound - time.Since(began))
		s.quiet()
	}
	return history
}

// A way is how a history is played to a hub.
type way struct {
	name   string
	change func(p *simPlan)
	form   int
	zipped bool
	first  func(s *sim, b *simBatch) // before each request
	after  func(s *sim, i int)       // the i-th
	single bool                      // each update in a request of its own
}

// sameWays are those that must make no difference at all.
func sameWays() []way {
	again := func(s *sim, b *simBatch) {
		for _, f := range []fate{breaksOff, unanswered} {
			c := s.net.start(&call{method: "POST", path: "/v1/updates", header: b.header, body: b.body, fate: f, at: 1 << 20})
			synctest.Wait()
			c.leaveUnanswered()
		}
	}
	every := func(k int, do func(s *sim)) func(*sim, int) {
		return func(s *sim, i int) {
			if i%k == 0 {
				do(s)
			}
		}
	}
	return []way{
		{name: "as an array", form: 1},
		{name: "zipped", zipped: true},
		{name: "with a small cache", change: func(p *simPlan) { p.cache = 16 << 10 }},
		{name: "with a large cache", change: func(p *simPlan) { p.cache = 16 << 20 }},
		{name: "fan-outs in steps of one", single: true, change: func(p *simPlan) { p.chunk, p.inline = 1, -1 }},
		{name: "fan-outs in steps of three", single: true, change: func(p *simPlan) { p.chunk, p.inline = 3, 1 }},
		{name: "each sent before, in part and without an answer", first: again},
		{name: "a restart in every round", after: every(1, (*sim).restart)},
		{name: "a restart now and then, fan-outs in steps", single: true, change: func(p *simPlan) { p.chunk, p.inline = 1, -1 }, after: every(3, (*sim).restart)},
		{name: "a power cut in every second round", after: every(2, (*sim).die)},
	}
}

// An outcome is what a history has led to.
type outcome struct {
	states  []string // with both ends of the edges
	content []string // versions, hashes and edges alone
	told    []string // who was told what how often, sorted
	notices []string // the same with reason, lane and cause
	changes []string // what was told of new versions
}

// replay plays a history to a new hub.
func (s *sim) replay(history []sent, w way) (o outcome) {
	for _, t := range s.things {
		t.view.heard = true // all are asked for
	}
	s.calm = true
	began, round := time.Now(), 0
	for _, r := range history {
		if now := int(r.at / sameRound); now > round {
			if round = now; w.after != nil {
				w.after(s, round)
			}
		}
		pass(r.at - time.Since(began))
		parts := [][]simLetter{r.letters}
		if w.single {
			parts = slices.Collect(slices.Chunk(r.letters, 1))
		}
		for _, part := range parts {
			b := &simBatch{letters: part}
			b.header, b.body = packed(part, w.form, w.zipped)
			if w.first != nil {
				w.first(s, b)
			}
			c := s.net.start(&call{method: "POST", path: "/v1/updates", header: b.header, body: b.body})
			<-c.done
			if c.status != 200 {
				s.failf("%s: %d %s", w.name, c.status, c.answer)
			}
			synctest.Wait()
		}
		pass(2 * quietTime)
	}
	pass((sameRounds+1)*sameRound - time.Since(began))
	synctest.Wait()
	s.hear()
	for _, st := range s.statuses() {
		edges := fmt.Sprint(s.listed("dependencies", st.URI), s.listed("dependents", st.URI))
		o.states = append(o.states, fmt.Sprintf("%+v %s", st, edges))
		o.content = append(o.content, fmt.Sprint(st.URI, st.Known, st.Version, st.Hash, st.At, edges))
	}
	for _, n := range s.journal {
		text := fmt.Sprint(n.Kind, " ", n.URI, " ", n.Version, " ", n.Hash, " ", n.Change)
		if n.Kind == "changed" {
			o.changes = append(o.changes, text)
		}
		o.told = append(o.told, text)
		o.notices = append(o.notices, fmt.Sprint(text, n.Reason, " ", n.Lane, " ", n.Type, n.Buckets, " ", n.Cause.URI, " ", n.Cause.ID))
	}
	slices.Sort(o.told)
	slices.Sort(o.notices)
	slices.Sort(o.changes)
	return o
}

// playSame records a history, or plays one in a way.
func playSame(t *testing.T, seed uint64, plan simPlan, empty *vfs.MemFS, do func(s *sim)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		s := newSim(seed, plan, empty)
		if failed := s.play(func() { do(s) }); failed != "" {
			t.Fatalf("seed %d: %s\n%s", seed, failed, strings.Join(s.story[max(0, len(s.story)-60):], "\n"))
		}
	})
}

// difference names the first line that only one of two lists has.
func difference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return "it lacks " + want[i]
		case i >= len(want):
			return "it has " + got[i]
		case got[i] != want[i]:
			return "it has " + got[i] + "\nwant " + want[i]
		}
	}
	return ""
}

func TestOneHistoryLeadsToTheSameStatesAndNoticesHoweverItIsPlayed(t *testing.T) {
	empty := simStore(t)
	first, n := number(t, "SOAK_SEED", 1), min(number(t, "SOAK_SEEDS", sameSeeds), 1000)
	for seed := first; seed < first+n && !t.Failed(); seed++ {
		all := []simProof{seenAndToken, tokenOnly, seenOnly, timeOnly}
		if seed%2 == 0 { // a position means something else when batches are split
			all = []simProof{seenOnly}
		}
		plan := simPlan{cache: 1 << 20, keep: graph.DefaultKeepAge, proofs: all, newest: true, unasked: true}
		var history []sent
		playSame(t, seed, plan, empty, func(s *sim) { history = s.record() })
		play := func(w way) (o outcome) {
			p := plan
			if w.change != nil {
				w.change(&p)
			}
			playSame(t, seed, p, empty, func(s *sim) { o = s.replay(history, w) })
			return o
		}
		want, single := play(way{name: "as it was recorded"}), play(way{name: "one by one", single: true})
		for _, w := range sameWays() {
			got, want := play(w), want
			if w.single {
				want = single
			}
			d := difference(got.states, want.states) + difference(got.told, want.told)
			// Of several reasons to tell somebody at one time, as after a pause of the
			// hub, another may come first.
			if d == "" && !w.single && w.after == nil {
				d = difference(got.notices, want.notices)
			}
			if d != "" {
				t.Errorf("seed %d, %s: of %d notices: %s", seed, w.name, len(want.told), d)
			}
		}
		if seed%2 == 0 { // how often somebody was told in between is not the same, nor what is stale after five times
			if d := difference(single.content, want.content) + difference(single.changes, want.changes); d != "" {
				t.Errorf("seed %d, one by one: %s", seed, d)
			}
		}
	}
}
