package graph

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// other is a hub that speaks for what is at other.example.
const other = "https://hub.other.example"

func foreign(name string) string { return "https://other.example/" + name }

// newNeighbour makes a hub that has met other, in an epoch of other's.
func newNeighbour(t *testing.T) *rig {
	g := newRig(t, Options{})
	g.appointOther()
	g.meet(other, 7)
	return g
}

func (g *rig) appointOther() {
	g.loop(func(ctx context.Context, s *Store) {
		g.boundary("authority", s.SetAuthority(ctx, []string{"https://wiki.example"},
			[]Territory{{Peer: other, Authority: []string{"https://other.example"}}}))
	})
}

// level is of X, which changed just now and has a version that is its hash.
func (g *rig) level(sver, cver uint64, version string) Level {
	return Level{URI: foreign("X"), Sver: sver, Cver: cver, Heard: true, Known: true, Version: version, Hash: "h" + version,
		ChangedAt: g.now(), Now: g.now()}
}

// told has the hub hear of levels in the epoch that it has met.
func (g *rig) told(levels ...Level) Heard {
	c, err := g.s.Session(other)
	g.boundary("session", err)
	h := g.hear(other, c.Owner, levels, levels[len(levels)-1].Sver)
	g.wait(100 * time.Millisecond)
	return h
}

// madeOf is a dependency on X.
func madeOf(seen string) Dep { return Dep{URI: foreign("X"), Seen: seen} }

// ago is a level that changed so long ago.
func ago(l Level, d time.Duration) Level {
	l.ChangedAt = l.Now.Add(-d)
	return l
}

// heardTrace is what becomes of D, which depends on X.
type heardTrace struct {
	name string
	play func(g *rig)
	want int // notices for D
}

var firstHeard = []heardTrace{
	{"what all saw is no change", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		g.told(g.level(1, 9, "1"))
	}, 0},
	{"something else is", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		g.told(g.level(1, 9, "2"))
	}, 1},
	{"who held a token and does not say what it saw is told of the first that is heard, though it changed long before", func(g *rig) {
		g.render("D", "", "d", g.token(), madeOf(""))
		g.told(ago(g.level(1, 9, "2"), time.Hour))
	}, 1},
	{"of who proves nothing but a time the clocks tell", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf(""))
		g.told(ago(g.level(1, 9, "2"), time.Hour))
	}, 0},
	{"the peer's clock may be wrong by hours", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf(""))
		l := ago(g.level(1, 9, "2"), time.Hour)
		l.ChangedAt, l.Now = l.ChangedAt.Add(5*time.Hour), l.Now.Add(5*time.Hour)
		g.told(l)
	}, 0},
}

var heardLater = []heardTrace{
	{"an older level is not heard", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("2"))
		g.told(g.level(5, 9, "2"))
		g.told(g.level(4, 8, "1"))
	}, 0},
	{"A, B and A again in one level is a change", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		g.told(g.level(1, 9, "1"))
		g.told(g.level(5, 11, "1"))
	}, 1},
	{"what changed from 1 over 2 to 3 while nothing could be heard reaches who was made from 2", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("101"))
		g.told(g.level(1, 9, "101"))
		g.render("D", "", "d", noToken, madeOf("102"))
		g.want("D", Clean, 0)
		g.told(g.level(5, 11, "103"))
	}, 1},
	{"what is only unsettled moves nobody", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		l := g.level(1, 9, "1")
		g.told(l)
		l.Sver, l.Unsettled = 2, true
		g.told(l)
		l.Sver, l.Unsettled = 3, false
		g.told(l)
	}, 0},
	{"a delete is a change", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		g.told(g.level(1, 9, "1"))
		l := g.level(2, 10, versionNone)
		l.Known, l.Hash = false, ""
		g.told(l)
	}, 1},
	{"a red link that is red is none", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf(versionNone))
		l := g.level(2, 10, versionNone)
		l.Known, l.Hash = false, ""
		g.told(l)
	}, 0},
	{"a peer that was restored and has what it had moves nobody", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		l := g.level(5, 9, "1")
		g.told(l)
		g.meet(other, 8)
		l.Sver, l.Cver = 1, 3
		g.told(l)
	}, 0},
	{"one that has the same of another time does: it may have been something else meanwhile", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		g.told(g.level(5, 9, "1"))
		g.meet(other, 8)
		g.told(ago(g.level(1, 3, "1"), time.Minute))
	}, 1},
	{"one that lost all and never heard of it moves nobody", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		g.told(g.level(5, 9, "1"))
		g.meet(other, 8)
		g.told(Level{URI: foreign("X"), Sver: 1, Now: g.now()})
	}, 0},
	{"one that lost all and is told again what it had moves nobody", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		l := g.level(5, 9, "1")
		g.told(l)
		g.meet(other, 8)
		g.told(Level{URI: foreign("X"), Sver: 1, Now: g.now()})
		l.Sver, l.Cver = 2, 3
		g.told(l)
	}, 0},
	{"one that lost all and is told of a later change does", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		g.told(g.level(5, 9, "1"))
		g.meet(other, 8)
		g.told(Level{URI: foreign("X"), Sver: 1, Now: g.now()})
		g.told(g.level(2, 3, "1"))
	}, 1},
	{"what nobody speaks for any more is judged anew when somebody does again", func(g *rig) {
		g.render("D", "", "d", noToken, madeOf("1"))
		g.told(g.level(5, 9, "1"))
		g.loop(func(ctx context.Context, s *Store) {
			g.boundary("authority", s.SetAuthority(ctx, []string{"https://wiki.example"}, nil))
		})
		g.appointOther()
		g.meet(other, 7)
		g.told(g.level(9, 12, "2"))
	}, 1},
}

func TestWhatIsHeardOfAPeersResource(t *testing.T) {
	for _, tt := range slices.Concat(firstHeard, heardLater) {
		t.Run(tt.name, func(t *testing.T) {
			g := newNeighbour(t)
			g.edit("local", "1", "a")
			tt.play(g)
			g.wait(time.Minute)
			if got := len(g.refreshes(named("D"))); got != tt.want {
				t.Errorf("D was told %d times, want %d\n%s", got, tt.want, g.describe(named("D")))
			}
		})
	}
}

func TestWhoDependsOnAnUnsettledResourceOfAPeerWaitsUntilThePeerIsSilent(t *testing.T) {
	g := newNeighbour(t)
	g.edit("local", "1", "a")
	g.render("D", "", "d", noToken, madeOf("1"), saw("local", "1"))
	l := g.level(1, 9, "1")
	l.Unsettled = true
	g.told(l)
	g.edit("local", "2", "b")
	g.wait(time.Second)
	g.want("D", Dirty, 0)
	g.forsake(other)
	g.wait(time.Second)
	g.want("D", Ready, 1)
	l.Sver, l.Unsettled = 2, false
	g.told(l) // it is back
	g.want("D", Ready, 1)
}

func TestNobodyWaitsForWhatAPeerHasLost(t *testing.T) {
	g := newNeighbour(t)
	g.edit("local", "1", "a")
	g.render("D", "", "d", noToken, madeOf("1"), saw("local", "1"))
	l := g.level(1, 9, "1")
	l.Unsettled = true
	g.told(l)
	g.edit("local", "2", "b")
	g.wait(time.Second)
	g.want("D", Dirty, 0)
	g.meet(other, 8)
	g.told(Level{URI: foreign("X"), Sver: 1, Now: g.now()})
	g.want("D", Ready, 1)
	if r := g.resource(foreign("X")); !r.Known || r.Version != "1" {
		t.Errorf("what was heard of X is lost: %+v", r)
	}
}

func TestAPeersResourceIsWrittenByThePeerAlone(t *testing.T) {
	g := newNeighbour(t)
	g.render("D", "", "d", noToken, madeOf("1"))
	before := g.dump()
	g.loop(func(ctx context.Context, s *Store) {
		_, err := s.Apply(ctx, "", []Update{
			{ID: "1", URI: named("A"), Version: "1", At: g.now()},
			{ID: "2", URI: foreign("X"), Version: "1", At: g.now()},
		})
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Item != 1 || invalid.Field != "uri" || !strings.Contains(invalid.Reason, other) {
			t.Errorf("an update of what a peer speaks for: %v", err)
		}
		for _, l := range []Level{
			{URI: named("D"), Sver: 1, Cver: 1, Heard: true, Known: true, Hash: "x", ChangedAt: g.now(), Now: g.now()},
			{URI: foreign("unwanted"), Sver: 1, Cver: 1, Heard: true, Known: true, Hash: "x", ChangedAt: g.now(), Now: g.now()},
		} {
			h, err := s.Hear(ctx, other, 7, []Level{l}, 0)
			if err != nil || h != (Heard{Unwanted: 1}) {
				t.Errorf("%s: %+v, %v", l.URI, h, err)
			}
		}
		var epoch *EpochError
		if _, err := s.Hear(ctx, other, 8, []Level{g.level(1, 1, "1")}, 1); !errors.As(err, &epoch) || epoch.Has != 7 {
			t.Errorf("a level of another epoch: %v", err)
		}
		if _, err := s.Hear(ctx, "https://stranger.example", 7, nil, 0); !errors.Is(err, ErrUnknown) {
			t.Errorf("a stranger: %v", err)
		}
	})
	if after := g.dump(); after != before {
		t.Errorf("something was applied:\n%s\nbefore:\n%s", after, before)
	}
}

func TestLevelsThatAreNone(t *testing.T) {
	now := rigStart
	good := Level{URI: foreign("X"), Sver: 1, Cver: 1, Heard: true, Known: true, Version: "1", Hash: "h", ChangedAt: now, Now: now}
	if field, why := good.Fault(); field != "" {
		t.Fatalf("%s: %s", field, why)
	}
	for _, tt := range []struct {
		field string
		spoil func(l *Level)
	}{
		{"uri", func(l *Level) { l.URI = "no uri" }},
		{"type", func(l *Level) { l.Type = strings.Repeat("t", MaxToken+1) }},
		{"version", func(l *Level) { l.Version = strings.Repeat("v", MaxToken+1) }},
		{"hash", func(l *Level) { l.Hash = strings.Repeat("h", MaxToken+1) }},
		{"aliases", func(l *Level) { l.Aliases = make([]string, maxAliases+1) }},
		{"aliases", func(l *Level) { l.Aliases = []string{""} }},
		{"sver", func(l *Level) { l.Sver = 0 }},
		{"sver", func(l *Level) { l.Sver = 1 << 63 }},
		{"sver", func(l *Level) { l.Cver = 1 << 63 }},
		{"changed_at", func(l *Level) { l.ChangedAt = time.Time{} }},
		{"changed_at", func(l *Level) { l.Now = time.Time{} }},
		{"changed_at", func(l *Level) { l.ChangedAt = now.Add(MaxFuture + 1) }},
		{"known", func(l *Level) { l.Heard = false }},
	} {
		l := good
		tt.spoil(&l)
		if field, _ := l.Fault(); field != tt.field {
			t.Errorf("%+v: %q is said to be wrong, want %q", l, field, tt.field)
		}
	}
}

// listener registers what other wants to hear, and reads it.
func (g *rig) listener(base uint64, uris ...string) (Registered, error) {
	r := Registration{Epoch: 7, Generation: 1, Base: base}
	for i, uri := range uris {
		r.Ops = append(r.Ops, InterestOp{N: base + uint64(i) + 1, Add: !strings.HasPrefix(uri, "-"), URI: strings.TrimPrefix(uri, "-")})
	}
	return g.register(other, r)
}

// versions are the levels after a number, shortly.
func (g *rig) versions(from uint64) (out []string, next uint64) {
	levels, next := g.levels(other, from, 100)
	for _, l := range levels {
		out = append(out, fmt.Sprintf("%s %s %t", strings.TrimPrefix(l.URI, named("")), l.Version, l.Unsettled))
	}
	return out, next
}

func (g *rig) wantLevels(from uint64, want ...string) (next uint64) {
	g.t.Helper()
	got, next := g.versions(from)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		g.t.Fatalf("told %q, want %q", got, want)
	}
	return next
}

func TestAPeerIsToldTheLevelOfWhatItWantsToHear(t *testing.T) {
	g := newNeighbour(t)
	g.edit("A", "1", "a")
	g.edit("B", "1", "b")
	if res, err := g.listener(0, named("A"), named("B"), named("C")); err != nil || res.Applied != 3 || res.Rejected != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	next := g.wantLevels(0, "A 1 false", "B 1 false", "C  false")
	g.edit("A", "2", "a2")
	g.edit("A", "3", "a3")
	g.edit("B", "1", "b") // a null edit
	g.edit("Z", "1", "z")
	g.wantLevels(next, "A 3 false")                            // merged
	g.wantLevels(0, "B 1 false", "C  false", "A 3 false")      // from any position
	if res, err := g.listener(3, "-"+named("A")); err != nil { // and no more of it
		t.Fatalf("%+v, %v", res, err)
	}
	g.edit("A", "4", "a4")
	g.wantLevels(0, "B 1 false", "C  false")
	g.render("B2", "", "d", noToken, saw("B", "1"))
	g.crash(nil)
	g.edit("C", "1", "c")
	g.wantLevels(0, "B 1 false", "C 1 false")
}

func TestWhatAPeerMayNotWantToHearIsCountedAndTheRestIsTaken(t *testing.T) {
	g := newNeighbour(t)
	res, err := g.listener(0, named("A"), foreign("X"), "no uri", "https://third.example/", "-https://third.example/", named("B"))
	if err != nil || res.Applied != 6 || res.Rejected != 3 || !strings.Contains(res.First, foreign("X")) {
		t.Fatalf("%+v, %v", res, err)
	}
	g.wantLevels(0, "A  false", "B  false")
	var gap *GapError
	if _, err := g.listener(9, named("C")); !errors.As(err, &gap) || gap.Applied != 6 || gap.Epoch != 7 {
		t.Fatalf("ops that do not follow: %v", err)
	}
	if res, err := g.listener(0, named("A")); err != nil || res.Applied != 6 { // repeated
		t.Fatalf("%+v, %v", res, err)
	}
	old := Registration{Epoch: 3, Generation: 1, Ops: []InterestOp{{N: 1, Add: true, URI: named("Z")}}}
	if _, err := g.register(other, old); !errors.As(err, &gap) {
		t.Fatalf("what a store of another epoch told in a generation that is over: %v", err)
	}
	g.wantLevels(0, "A  false", "B  false")
	err = g.commit(func(tx *txn) {
		r := Registration{Epoch: 7, Generation: 1, Base: 6, Ops: []InterestOp{{N: 7, Add: true, URI: named("C")}}}
		res, err = tx.register(g.s.PeerNumber(other), &r, 2)
	})
	if err != nil || res.Rejected != 1 || !strings.Contains(res.First, "more than 2") {
		t.Fatalf("one too many: %+v, %v", res, err)
	}
}

func TestAMillionDependentsBehindAPeerCostOneLevel(t *testing.T) {
	g := newNeighbour(t)
	for i := range 3000 { // as many as make a hot resource
		g.render(fmt.Sprint("D", i), "", "d", noToken, madeOf("1"))
	}
	c, ops := g.ops(other, 100)
	if len(ops) != 1 || ops[0] != (InterestOp{1, true, foreign("X")}) {
		t.Fatalf("%+v: %v", c, ops)
	}
	if c.Mirrors != 1 {
		t.Fatalf("%d mirrors", c.Mirrors)
	}
	if h := g.told(g.level(1, 9, "2")); h != (Heard{Changed: 1}) {
		t.Fatalf("%+v", h)
	}
	g.wait(time.Minute)
	g.want("D0", Ready, 1)
	g.want("D2999", Ready, 1)
}

func TestAMirrorThatWasDamagedIsMendedByTheAudit(t *testing.T) {
	g := newNeighbour(t)
	g.render("D", "", "d", noToken, madeOf("1"))
	g.told(g.level(1, 9, "1"))
	_, ops := g.ops(other, 100)
	g.opsTaken(other, 1, uint64(len(ops)))
	p := g.s.PeerNumber(other)
	err := g.commit(func(tx *txn) {
		id, _ := tx.find(foreign("X"))
		check(tx.b.Delete(mirrorKey(p, id), nil))
	})
	g.boundary("damage", err)
	g.loop(func(ctx context.Context, s *Store) {
		for _, want := range []int{2, 0} { // it, and how many there are
			if n, err := s.AuditMirrors(ctx, other); n != want || err != nil {
				t.Errorf("%d mended, want %d; %v", n, want, err)
			}
		}
	})
	if _, ops := g.ops(other, 100); len(ops) != 1 || ops[0].URI != foreign("X") {
		t.Fatalf("it is not asked for again: %v", ops)
	}
	g.told(g.level(2, 10, "2"))
	g.want("D", Ready, 1)
}

func TestAuthorityThatIsNone(t *testing.T) {
	g := newRig(t, Options{})
	for _, tt := range []struct {
		own   []string
		peers []Territory
	}{
		{[]string{"nothing"}, nil},
		{nil, []Territory{{Peer: "", Authority: []string{"https://a.example"}}}},
		{nil, []Territory{{Peer: "a"}, {Peer: "a"}}},
		{[]string{"https://a.example"}, []Territory{{Peer: "a", Authority: []string{"https://a.example"}}}},
		{nil, []Territory{{Peer: "a", Authority: []string{"https://a.example"}}, {Peer: "b", Authority: []string{"https://a.example"}}}},
		{nil, []Territory{{Peer: "a", Authority: make([]string, MaxAuthority+1)}}},
	} {
		g.loop(func(ctx context.Context, s *Store) {
			if err := s.SetAuthority(ctx, tt.own, tt.peers); err == nil {
				t.Errorf("%v and %v are taken", tt.own, tt.peers)
			}
		})
	}
}

func TestTheLongestPrefixSaysWhoSpeaks(t *testing.T) {
	g := newRig(t, Options{})
	g.loop(func(ctx context.Context, s *Store) {
		g.boundary("authority", s.SetAuthority(ctx, []string{"https://a.example", "https://b.example/ours/"}, []Territory{
			{Peer: "b", Authority: []string{"https://b.example"}}, {Peer: "c", Authority: []string{"https://a.example/theirs/", "urn:isbn"}}}))
	})
	g.crash(nil)
	for uri, want := range map[string]string{
		"https://a.example/x": "ours", "https://a.example/theirs/x": "c", "https://b.example/x": "b", "https://b.example/ours/x": "ours",
		"https://b.example.org/x": "", "https://c.example/": "", "urn:isbn:1": "c", "https://a.example/their": "ours",
	} {
		got := g.s.SpeakerOf(uri)
		if g.s.Speaks(uri) {
			got = "ours"
		}
		if got != want {
			t.Errorf("%s: %q speaks for it, want %q", uri, got, want)
		}
	}
}

// addPeers gives a specimen one of everything that is kept of peers.
func (g *rig) addPeers() {
	g.appointOther()
	g.meet(other, 7)
	g.render("behind", "", "d", noToken, madeOf("1"), Dep{URI: foreign("Y"), Seen: "2"})
	g.ops(other, 100)
	g.told(g.level(1, 9, "1"))
	if _, err := g.listener(0, named("X"), named("D")); err != nil {
		g.t.Fatalf("%v", err)
	}
}

func TestDamagedRowsOfPeersAreFoundAndMended(t *testing.T) {
	g := newNeighbour(t)
	g.edit("A", "1", "a")
	g.addPeers()
	p := g.s.PeerNumber(other)
	var x, y ID
	g.boundary("ids", g.commit(func(tx *txn) {
		x, _ = tx.find(foreign("X"))
		y, _ = tx.find(named("X"))
	}))
	row := peerSeqKey(peerLevel, p, 1)
	for _, tt := range []struct {
		name   string
		damage func(b *pebble.Batch) error
		found  int
	}{
		{"nothing", func(*pebble.Batch) error { return nil }, 0},
		{"a mirror is gone", func(b *pebble.Batch) error { return b.Delete(mirrorKey(p, x), nil) }, 2},
		{"a mirror of nobody", func(b *pebble.Batch) error { return b.Set(mirrorKey(p, 9999), make([]byte, 4), nil) }, 1},
		{"a mirror of what is ours", func(b *pebble.Batch) error { return b.Set(mirrorKey(p, y), make([]byte, 4), nil) }, 2},
		{"a mirror that does not decode", func(b *pebble.Batch) error { return b.Set(mirrorKey(p, x), []byte{1}, nil) }, 1},
		{"an interest is gone", func(b *pebble.Batch) error { return b.Delete(interestKey(y, p), nil) }, 2},
		{"an interest that does not decode", func(b *pebble.Batch) error { return b.Set(interestKey(y, p), nil, nil) }, 3},
		{"a level is gone", func(b *pebble.Batch) error { return b.Delete(row, nil) }, 2},
		{"a level of another", func(b *pebble.Batch) error { return b.Set(row, appendID(nil, x), nil) }, 3},
		{"the number of levels is gone", func(b *pebble.Batch) error { return b.Delete([]byte{spacePeer, peerCounter}, nil) }, 1},
		{"an op that does not decode", func(b *pebble.Batch) error { return b.Set(peerSeqKey(peerOp, p, 1), []byte{7}, nil) }, 1},
		{"a session that does not decode", func(b *pebble.Batch) error { return b.Set(peerKey(peerSession, p), []byte{7}, nil) }, 1},
		{"a key of no kind", func(b *pebble.Batch) error { return b.Set([]byte{spacePeer, 'z'}, []byte{7}, nil) }, 1},
		{"a number that is none", func(b *pebble.Batch) error {
			return b.Set(append([]byte{spacePeer, peerNumber}, "q"...), binary.BigEndian.AppendUint64(nil, 1), nil)
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fs := g.fs.CrashClone(vfs.CrashCloneCfg{})
			o := pebbleOptions(&Options{FS: fs, Cache: rigCache, Log: g.s.log})
			db, err := pebble.Open("store", o)
			if err != nil {
				t.Fatal(err)
			}
			b := db.NewBatch()
			if err := errors.Join(tt.damage(b), b.Commit(pebble.Sync), db.Close()); err != nil {
				t.Fatal(err)
			}
			rep, err := Check(t.Context(), "store", CheckOptions{FS: fs, Cache: rigCache, Findings: 10})
			if err != nil || rep.Found != tt.found {
				t.Fatalf("%d found, want %d: %+v, %v", rep.Found, tt.found, rep.Findings, err)
			}
			for _, f := range rep.Findings {
				if strings.Contains(f.Key, "%") || f.Key == "" {
					t.Errorf("key %q", f.Key)
				}
			}
			if strings.HasSuffix(tt.name, "that is none") || strings.HasSuffix(tt.name, "of no kind") {
				return
			}
			for _, want := range []int{tt.found, 0} {
				rep, err = Check(t.Context(), "store", CheckOptions{FS: fs, Cache: rigCache, Findings: 10, Repair: true})
				if err != nil || rep.Left != 0 {
					t.Fatalf("%d left (%d found, want about %d): %+v, %v", rep.Left, rep.Found, want, rep.Findings, err)
				}
			}
		})
	}
}

func TestAnUpdateThatWaitsWhilePeersAreNamedIsRefusedWhole(t *testing.T) {
	g := newRig(t, Options{})
	b, err := g.s.prepareAll(g.now(), "", []Update{
		{ID: "1", URI: named("A"), Version: "1", At: g.now()},
		{ID: "2", URI: foreign("X"), Version: "1", At: g.now()},
	})
	g.boundary("prepare", err)
	g.appointOther()
	before := g.dump()
	var res Result
	g.boundary("apply", g.commit(b.into(&res)))
	var invalid *InvalidError
	if !errors.As(b.refused, &invalid) || invalid.Item != 1 || res.Accepted != 0 {
		t.Errorf("%+v, %v", res, b.refused)
	}
	g.loop(func(ctx context.Context, s *Store) {
		if _, err := s.EditDependencies(ctx, "", foreign("X"), EdgeEdit{Add: []string{named("A")}}); !errors.As(err, &invalid) || invalid.Field != "uri" {
			t.Errorf("edges of what a peer speaks for: %v", err)
		}
	})
	if after := g.dump(); after != before {
		t.Errorf("something was applied:\n%s\nbefore:\n%s", after, before)
	}
}

func TestNumbersThatNoHubReachesAreRefused(t *testing.T) {
	g := newNeighbour(t)
	g.render("D", "", "d", noToken, madeOf("1"))
	was, _ := g.ops(other, 10)
	g.misfit(other, &GapError{Generation: 1<<64 - 1})
	if c, _ := g.ops(other, 10); c.Generation != was.Generation {
		t.Errorf("generation %d became %d", was.Generation, c.Generation)
	}
	g.loop(func(ctx context.Context, s *Store) {
		for _, r := range []Registration{{Epoch: 7, Generation: 1 << 63}, {Epoch: 7, Generation: 1, Base: 1 << 63}} {
			var invalid *InvalidError
			if _, err := s.Register(ctx, other, r, 10); !errors.As(err, &invalid) {
				t.Errorf("%+v: %v", r, err)
			}
		}
		var invalid *InvalidError
		if _, err := s.Hear(ctx, other, 7, nil, 1<<63); !errors.As(err, &invalid) {
			t.Errorf("a position that is none: %v", err)
		}
	})
}
