package subscriptions

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// narrow is a peer that takes a few bytes now and then.
type narrow struct {
	random *rand.Rand
	got    bytes.Buffer
}

func (p *narrow) write(b []byte) (int, error) {
	if p.random.IntN(3) == 0 {
		return 0, nil
	}
	n := min(len(b), p.random.IntN(2000))
	p.got.Write(b[:n])
	return n, nil
}

// A driven stream has its turns from the test, as an owner gives them.
func driven(s *Streamer, f Filter, from graph.Cursor, out transport) (*stream, error) {
	m, err := Compile(f)
	if err != nil {
		return nil, err
	}
	st := &stream{s: s, class: s.pump.join(classKey{asked: filterKey(f)}, m), format: eventStream{}, out: out, end: 1000 * time.Hour}
	st.begin(start{at: from, told: true}, 0)
	return st, nil
}

func TestAStreamComesWholeHoweverLittleItsPeerTakes(t *testing.T) {
	letGo := 0
	for range 20 {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		j := newMemJournal()
		s := NewStreamer(j, StreamOptions{Portable: true})
		filter := randomFilter(random)
		peer := &narrow{random: random}
		st, err := driven(s, filter, graph.Cursor{Epoch: j.epoch}, peer)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Duration(0)
		for step := 0; step < 4000 || st.cursor != j.Token(); step++ {
			if step < 4000 && random.IntN(10) == 0 {
				for range random.IntN(100) {
					j.add(randomNotice(random))
				}
				ns, next, _ := j.Scan(&graph.Pick{}, *s.pump.head.Load(), 1000)
				s.pump.dispatch(ns, next)
			}
			switch st.turn(now) {
			case behind:
				b, err := s.replay(st.class, st.format, st.cursor)
				if err != nil {
					t.Fatal(err)
				}
				st.took(b, now)
			case full:
				if held := st.held != nil; random.IntN(4) == 0 {
					now += heldFor // it hangs, and the bundle is not kept for it
					st.turn(now)
					if held && st.held == nil {
						letGo++
					}
				}
				st.full = false // there is room again
			case over:
				t.Fatalf("seed %d: ended because it %s", seed, st.why)
			}
		}
		st.flush(now)
		for len(st.rest) > 0 {
			st.flush(now)
		}
		var want []uint64
		for _, n := range j.all() {
			if matches(filter, n) {
				want = append(want, n.Cursor.Seq)
			}
		}
		if got := seqsOf(t, peer.got.Bytes()); !slices.Equal(got, want) {
			t.Errorf("seed %d, filter %+v: got %d notices, want %d", seed, filter, len(got), len(want))
		}
	}
	if letGo == 0 {
		t.Error("no bundle was let go in the middle")
	}
}

// seqsOf reads the ids of the notices of a stream's bytes, each of which must be a
// whole frame.
func seqsOf(t *testing.T, b []byte) (got []uint64) {
	for frame := range bytes.SplitSeq(b, []byte("\n\n")) {
		if !bytes.Contains(frame, []byte("\ndata: ")) {
			continue
		}
		var seq uint64
		if _, err := fmt.Sscanf(string(frame), "id: 00005f3a.%d\n", &seq); err != nil || !bytes.HasSuffix(frame, []byte("}")) {
			t.Fatalf("frame %q: %v", frame, err)
		}
		got = append(got, seq)
	}
	return got
}

func TestAReaderWhoNeverArrivesIsCutThoughItTakesSomething(t *testing.T) {
	j := newMemJournal()
	for i := range 100_000 {
		j.add(notice(fmt.Sprintf("https://a.example/%d", i)))
	}
	s := NewStreamer(j, StreamOptions{Portable: true})
	for _, c := range []struct {
		frames int // taken in each ten seconds
		want   reason
	}{{20, slow}, {100, stays}} {
		peer := &allowance{}
		st, err := driven(s, Filter{}, graph.Cursor{Epoch: j.epoch}, peer)
		if err != nil {
			t.Fatal(err)
		}
		for now := time.Duration(0); now < 5*time.Minute && st.why == stays; now += 10 * time.Second {
			peer.left = c.frames * len(newFrame(&j.notices[0]).bytes)
			st.full = false
			for v := more; v == more || v == behind; v = st.turn(now) {
				if v == behind {
					b, err := s.replay(st.class, st.format, st.cursor)
					if err != nil {
						t.Fatal(err)
					}
					st.took(b, now)
				}
			}
		}
		if st.why != c.want {
			t.Errorf("%d notices in 10 s: the stream ends with %q, want %q", c.frames, st.why, c.want)
		}
	}
}

// allowance is a peer that takes what is left.
type allowance struct{ left int }

func (p *allowance) write(b []byte) (int, error) {
	n := min(len(b), p.left)
	p.left -= n
	return n, nil
}
