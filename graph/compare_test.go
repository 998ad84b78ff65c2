package graph

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

// pair is a hub that depends on another, and that other: what is at other.example.
type pair struct {
	t                *testing.T
	owner, dependent *rig
	model            *told    // nil if nobody keeps one
	leaves           []uint16 // to be listed, whatever differs; nil for those that differ
}

// wikiHub is what the owner calls the dependent.
const wikiHub = "https://hub.wiki.example"

func newPair(t *testing.T) *pair {
	p := &pair{t: t, owner: newRigOf(t, Options{}, rigEpoch+1), dependent: newRig(t, Options{})}
	p.owner.loop(func(ctx context.Context, s *Store) {
		p.owner.boundary("authority", s.SetAuthority(ctx, []string{"https://other.example"},
			[]Territory{{Peer: wikiHub, Authority: []string{"https://wiki.example"}}}))
	})
	p.dependent.appointOther()
	p.deliver()
	return p
}

// write is an event of a primary at the owner.
func (p *pair) write(name, version string) {
	p.t.Helper()
	o := p.owner
	o.apply(Update{ID: o.nextID(), URI: foreign(name), Version: version, Hash: "h" + version, At: o.now()})
}

func (p *pair) wait(d time.Duration) {
	p.owner.wait(d)
	p.dependent.wait(d)
}

// deliver brings everything to where it belongs.
func (p *pair) deliver() {
	p.t.Helper()
	p.dependent.meet(other, p.owner.s.epoch)
	for p.bringOps(MaxOps) || p.bringLevels(MaxLevels) {
	}
	p.wait(200 * time.Millisecond)
}

// bringOps brings some of what the dependent wants, and reports whether there was any.
func (p *pair) bringOps(limit int) bool {
	p.t.Helper()
	c, ops := p.dependent.ops(other, limit)
	if len(ops) == 0 && c.Taken > 0 {
		return false
	}
	res, err := p.owner.register(wikiHub, Registration{Epoch: c.Epoch, Generation: c.Generation, Base: c.Taken, Ops: ops})
	var gap *GapError
	if errors.As(err, &gap) {
		p.dependent.misfit(other, gap)
		return true
	}
	if err != nil || res.Rejected > 0 {
		p.t.Fatalf("%+v, %v", res, err)
	}
	p.dependent.opsTaken(other, c.Generation, res.Applied)
	if p.model != nil {
		p.model.registered(ops)
	}
	return len(ops) > 0
}

// bringLevels brings some of what the owner has to tell.
func (p *pair) bringLevels(limit int) bool {
	p.t.Helper()
	c, err := p.dependent.s.Session(other)
	p.dependent.boundary("session", err)
	levels, next := p.owner.levels(wikiHub, c.Position, limit)
	if len(levels) == 0 {
		return false
	}
	p.dependent.hear(other, c.Owner, levels, next)
	if p.model != nil {
		p.model.hear(levels)
	}
	return true
}

// sums are those of both sides.
func (p *pair) sums() (ours, theirs *Sums) {
	p.t.Helper()
	ours, err := p.dependent.s.readSums(p.t.Context(), other, true)
	theirs, err2 := p.owner.s.readSums(p.t.Context(), wikiHub, false)
	if err = errors.Join(err, err2); err != nil {
		p.t.Fatalf("sums: %v", err)
	}
	return ours, theirs
}

// wantAgreement fails unless both sides have the same.
func (p *pair) wantAgreement() {
	p.t.Helper()
	ours, theirs := p.sums()
	if a, b := whole(ours), whole(theirs); a != b {
		p.t.Errorf("the dependent has %+v, the owner %+v: %v", a, b, differing(p.t, ours, theirs))
	}
}

func whole(s *Sums) Sum {
	sum, _ := s.Of("")
	return sum
}

// differing goes down to the leaves whose sums differ.
func differing(t *testing.T, a, b *Sums) (leaves []uint16) {
	t.Helper()
	var down func(prefix string)
	down = func(prefix string) {
		x, err := a.Of(prefix)
		y, err2 := b.Of(prefix)
		switch {
		case err != nil || err2 != nil:
			t.Fatalf("sums of %q: %v, %v", prefix, err, err2)
		case x == y:
		case len(prefix) == 4:
			n, _ := hex.DecodeString(prefix)
			leaves = append(leaves, binary.BigEndian.Uint16(n))
		default:
			for _, digit := range "0123456789abcdef" {
				down(prefix + string(digit))
			}
		}
	}
	down("")
	return leaves
}

// compared is what a comparison found.
type compared struct{ audited, mirrors, mended int }

// compare plays both halves of a comparison, in pages of some entries.
func (p *pair) compare(limit int) (c compared) {
	p.t.Helper()
	p.owner.loop(func(ctx context.Context, o *Store) {
		p.dependent.loop(func(_ context.Context, d *Store) {
			var err, err2, err3, err4 error
			c.audited, err = o.AuditInterests(ctx, wikiHub)
			c.mirrors, err2 = d.AuditMirrors(ctx, other)
			ours, err3 := d.MirrorSums(ctx, other)
			theirs, err4 := o.InterestSums(ctx, wikiHub)
			if err := errors.Join(err, err2, err3, err4); err != nil {
				p.t.Fatalf("comparison: %v", err)
			}
			leaves := differing(p.t, ours, theirs)
			if p.leaves != nil {
				leaves = p.leaves
			}
			page := ComparePage{Horizon: theirs.Horizon, More: true}
			for after := ""; page.More; after = page.Entries[max(0, len(page.Entries)-1)].URI {
				if page, err = o.InterestEntries(ctx, wikiHub, leaves, after, limit); err != nil {
					p.t.Fatalf("entries after %q: %v", after, err)
				}
				n, err := d.MendInterests(ctx, other, ours.Horizon, leaves, after, page)
				if c.mended += n; err != nil {
					p.t.Fatalf("mend: %v", err)
				}
				if !page.More {
					break
				}
			}
		})
	})
	return c
}

// misfortune is one thing that is not as the hubs left it.
type misfortune struct {
	name string
	do   func(p *pair)
	// refreshes is how often D is told if X did not change; -1 for whatever.
	refreshes int
	// deaf is whether a change that leaves X as it was within one instant cannot be told
	// from none any more.
	deaf bool
	// mute is whether no level can be told before it is mended.
	mute bool
	// unseen is whether a comparison has nothing to find.
	unseen bool
}

// mirrorRow changes what the dependent keeps of X.
func (p *pair) mirrorRow(change func(m *mirror)) {
	g := p.dependent
	g.boundary("damage", g.commit(func(t *txn) {
		id, _ := t.find(foreign("X"))
		key := mirrorKey(g.s.PeerNumber(other), id)
		v, _ := t.get(key)
		m, err := decodeMirror(v)
		check(err)
		change(&m)
		check(t.b.Set(key, m.append(nil), nil))
	}))
}

func (p *pair) contentRow(change func(r *row), state State) {
	g := p.dependent
	g.boundary("damage", g.commit(func(t *txn) {
		id, _ := t.find(foreign("X"))
		change(t.edit(id))
		t.setState(id, state)
	}))
}

func (p *pair) word(flag word, on bool) {
	g := p.dependent
	g.boundary("damage", g.commit(func(t *txn) {
		id, _ := t.find(foreign("X"))
		t.put(id, t.word(id).with(flag, on))
	}))
}

// interestRow changes what the owner keeps of a resource that the dependent wants.
func (p *pair) interestRow(name string, change func(t *txn, peer PeerID, id ID, i interest)) {
	g := p.owner
	g.boundary("damage", g.commit(func(t *txn) {
		id, _ := t.find(foreign(name))
		peer := g.s.PeerNumber(wikiHub)
		i, _ := t.interest(peer, id)
		change(t, peer, id, i)
	}))
}

// reopened does something to a store that its check would not let pass, and opens it anew.
func (g *rig) reopened(damage func(t *txn)) {
	g.boundary("damage", g.commit(damage))
	g.unchecked = true
	g.crash(nil)
	g.unchecked = false
}

var damagesOfMirrors = []misfortune{
	{name: "nothing", do: func(*pair) {}, unseen: true},
	{name: "it is said to be unsettled", do: func(p *pair) { p.word(wordPeerBusy, true) }, unseen: true},
	{name: "a number that no level reaches", do: func(p *pair) { p.mirrorRow(func(m *mirror) { m.sver += 1 << 40 }) }},
	{name: "the number of another level", do: func(p *pair) { p.mirrorRow(func(m *mirror) { m.sver++ }) }},
	{name: "a lower number", do: func(p *pair) { p.mirrorRow(func(m *mirror) { m.sver = 0 }) }},
	{name: "another count of changes", do: func(p *pair) { p.mirrorRow(func(m *mirror) { m.cver ^= 1 << 20 }) }},
	{name: "another epoch", do: func(p *pair) { p.mirrorRow(func(m *mirror) { m.epoch ^= 1 << 9 }) }, deaf: true},
	{name: "no epoch", do: func(p *pair) { p.mirrorRow(func(m *mirror) { m.epoch = 0 }) }, deaf: true},
	{name: "the row of a mirror is gone, and with it what nobody could hear", do: func(p *pair) {
		g := p.dependent
		g.boundary("damage", g.commit(func(t *txn) {
			id, _ := t.find(foreign("X"))
			check(t.b.Delete(mirrorKey(g.s.PeerNumber(other), id), nil))
		}))
	}, refreshes: 1},
	{name: "another version", do: func(p *pair) { p.contentRow(func(r *row) { r.version = "oZ" }, Clean) }, refreshes: 1},
	{name: "another hash", do: func(p *pair) { p.contentRow(func(r *row) { r.hash = "hZ" }, Clean) }, refreshes: 1},
	{name: "it is said to be gone", do: func(p *pair) { p.contentRow(func(r *row) { r.set(rowKnown, false) }, Stub) }, refreshes: 1},
	{name: "it is said never to have been heard of", do: func(p *pair) { p.contentRow(func(r *row) { r.set(rowHeard, false) }, Clean) }, refreshes: -1, deaf: true},
	{name: "it is no mirror by its state", do: func(p *pair) { p.word(wordMirror, false) }},
	{name: "a position that the owner has not reached", do: func(p *pair) {
		g := p.dependent
		g.boundary("damage", g.commit(func(t *txn) {
			peer := g.s.PeerNumber(other)
			c := t.session(peer)
			c.position += 1 << 40
			t.keep(peer, c)
		}))
	}},
}

var damagesOfInterests = []misfortune{
	{name: "an interest is gone", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, id ID, _ interest) { check(t.b.Delete(interestKey(id, peer), nil)) })
	}},
	{name: "a level is gone", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, _ ID, i interest) {
			check(t.b.Delete(peerSeqKey(peerLevel, peer, i.sver), nil))
		})
	}},
	{name: "an interest and its level are gone, and are not counted", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, id ID, _ interest) {
			t.dropInterest(peer, id)
			c := t.s.peers.clients[peer]
			c.interests--
			t.keepClient(peer, c)
		})
	}},
	{name: "another digest", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, id ID, i interest) {
			i.digest ^= 1
			check(t.b.Set(interestKey(id, peer), i.append(nil), nil))
		})
	}},
	{name: "an interest of another number", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, id ID, i interest) {
			i.sver += 1 << 40
			check(t.b.Set(interestKey(id, peer), i.append(nil), nil))
		})
	}},
	{name: "a level of another number", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, id ID, i interest) {
			check(t.b.Delete(peerSeqKey(peerLevel, peer, i.sver), nil))
			check(t.b.Set(peerSeqKey(peerLevel, peer, i.sver+1<<40), appendID(nil, id), nil))
		})
	}},
	{name: "a level of another resource", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, id ID, i interest) {
			check(t.b.Set(peerSeqKey(peerLevel, peer, i.sver), appendID(nil, id+1), nil))
		})
	}},
	{name: "a level of nothing", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, _ ID, i interest) {
			check(t.b.Set(peerSeqKey(peerLevel, peer, i.sver), []byte{1}, nil))
		})
	}},
	{name: "a number that no hub reaches", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, id ID, i interest) {
			check(t.b.Delete(peerSeqKey(peerLevel, peer, i.sver), nil))
			i.sver = maxLevel + 1
			check(t.b.Set(interestKey(id, peer), i.append(nil), nil))
			check(t.b.Set(peerSeqKey(peerLevel, peer, i.sver), appendID(nil, id), nil))
		})
	}, mute: true},
	{name: "an interest in what nobody wants", do: func(p *pair) {
		p.interestRow("unwanted", func(t *txn, peer PeerID, id ID, _ interest) {
			i := interest{sver: 1 << 40}
			check(t.b.Set(interestKey(id, peer), i.append(nil), nil))
		})
	}},
	{name: "an interest in what nobody wants, with a level", do: func(p *pair) {
		p.interestRow("unwanted", func(t *txn, peer PeerID, _ ID, _ interest) {
			c := t.s.peers.clients[peer]
			t.applyInterest(peer, c, InterestOp{Add: true, URI: foreign("unwanted")}, 100)
			t.keepClient(peer, c)
		})
	}},
	{name: "an interest in what there is not", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, _ ID, _ interest) {
			i := interest{sver: 1 << 40}
			check(t.b.Set(interestKey(9999, peer), i.append(nil), nil))
			check(t.b.Set(peerSeqKey(peerLevel, peer, i.sver), appendID(nil, 9999), nil))
		})
	}, mute: true},
	{name: "a count of interests", do: func(p *pair) {
		p.interestRow("X", func(t *txn, peer PeerID, _ ID, _ interest) {
			c := t.s.peers.clients[peer]
			c.interests += 7
			t.keepClient(peer, c)
		})
	}},
	{name: "a resource is not known to be wanted", do: func(p *pair) {
		p.interestRow("X", func(t *txn, _ PeerID, id ID, _ interest) { t.s.peers.exports.remove(id) })
	}},
	{name: "the newest number of a level is too low", do: func(p *pair) {
		p.owner.reopened(func(t *txn) {
			check(t.b.Set([]byte{spacePeer, peerCounter}, binary.BigEndian.AppendUint64(nil, 1), nil))
		})
	}},
}

// afterDamage is what becomes of X between the damage and the comparison.
var afterDamage = []struct {
	name string
	play func(p *pair)
	// changed is whether D was made from what X was before.
	changed, instant bool
}{
	{"it stays as it is", func(*pair) {}, false, false},
	{"it changes", func(p *pair) { p.write("X", "oB") }, true, false},
	{"it changes and is as before", func(p *pair) {
		p.write("X", "oB")
		p.wait(2 * time.Second)
		p.write("X", "oA")
	}, true, false},
	{"it changes and is as before within one instant", func(p *pair) {
		o, x := p.owner, p.owner.resource(foreign("X"))
		for _, v := range []string{"oB", "oA"} {
			o.apply(Update{ID: o.nextID(), URI: foreign("X"), Version: v, Hash: "h" + v, At: x.At})
		}
	}, true, true},
}

// atPeace is a pair of hubs in which D, of the dependent, is made from X and others of the owner.
func atPeace(t *testing.T) *pair {
	p := newPair(t)
	p.write("X", "oA")
	p.write("Y", "oY")
	p.write("unwanted", "oU")
	p.write("gone", "oG")
	p.owner.apply(Update{ID: p.owner.nextID(), URI: foreign("gone"), Action: ActionDelete, At: p.owner.now()})
	o := p.owner
	o.apply(Update{ID: o.nextID(), URI: foreign("made"), Type: "html", Version: "17", Hash: "hm", At: o.now(), Deps: []Dep{{URI: foreign("Y"), Seen: "oY"}}})
	p.dependent.render("D", "", "d", noToken, madeOf("oA"))
	p.dependent.render("E", "", "e", noToken, Dep{URI: foreign("Y"), Seen: "oY"}, Dep{URI: foreign("gone"), Seen: versionNone},
		Dep{URI: foreign("made"), Seen: "hm"}, Dep{URI: foreign("unheard")})
	p.deliver()
	p.dependent.want("D", Clean, 0)
	p.dependent.want("E", Clean, 0)
	p.wantAgreement()
	return p
}

func TestAComparisonMendsWhateverIsDamaged(t *testing.T) {
	courses := afterDamage
	if raceDetector {
		courses = courses[:2] // one goroutine is of little interest to it, and it takes ten times as long
	}
	for _, tt := range slices.Concat(damagesOfMirrors, damagesOfInterests) {
		for _, then := range courses {
			if then.instant && tt.deaf {
				continue
			}
			t.Run(tt.name+"/"+then.name, func(t *testing.T) {
				t.Parallel()
				p := atPeace(t)
				p.wait(10 * time.Second)
				tt.do(p)
				then.play(p)
				if !tt.mute {
					p.deliver()
				}
				found := p.compare(2)
				p.deliver()
				p.wantAgreement()
				if again := p.compare(2); again != (compared{}) {
					t.Errorf("a second comparison finds %+v, the first found %+v", again, found)
				}
				switch {
				case then.changed:
					p.dependent.want("D", Ready, 1)
				case tt.refreshes >= 0:
					if got := p.dependent.refreshes(named("D")); len(got) != tt.refreshes {
						t.Errorf("D was told %d times, want %d; found %+v", len(got), tt.refreshes, found)
					}
				}
				p.dependent.want("E", Clean, 0)
				if !then.changed && (found == (compared{})) != tt.unseen {
					t.Errorf("found %+v", found)
				}
				p.write("X", "oC") // and it is heard of on and on
				p.write("Y", "oD")
				p.deliver()
				if got := p.dependent.resource(foreign("X")); got.Version != "oC" {
					t.Errorf("X is %+v", got)
				}
				p.dependent.want("E", Ready, 1)
				p.wantAgreement()
			})
		}
	}
}

// told is what a dependent ought to have heard of an owner, and the owner to have been
// asked for, kept by hand.
type told struct {
	wanted  map[string]bool // of the owner
	needed  map[string]bool // of the dependent
	levels  map[string]Level
	renders map[string][]string // dependents, and what they are made from
}

func (m *told) registered(ops []InterestOp) {
	for _, op := range ops {
		if op.Add {
			m.wanted[op.URI] = true
		} else {
			delete(m.wanted, op.URI)
		}
	}
}

func (m *told) hear(levels []Level) {
	for _, l := range levels {
		if was := m.levels[l.URI]; l.Heard && m.needed[l.URI] && l.Sver > was.Sver {
			m.levels[l.URI] = l
		}
	}
}

// render notes what a dependent is made from now.
func (m *told) render(name string, uris []string) {
	m.renders[name] = uris
	clear(m.needed)
	for _, l := range m.renders {
		for _, uri := range l {
			m.needed[uri] = true
		}
	}
	for uri := range m.levels {
		if !m.needed[uri] {
			delete(m.levels, uri)
		}
	}
}

// contribution is what one URI adds to the sums, written down a second time.
func contribution(l Level) Sum {
	digest := sha256.Sum256([]byte(l.URI))
	sum := Sum{Interests: binary.BigEndian.Uint64(digest[8:16])}
	if !l.Heard {
		return sum
	}
	content := []byte{0}
	if l.Known {
		content[0] = 1
	}
	content = binary.AppendUvarint(content, l.Cver)
	for _, text := range []string{l.Version, l.Hash} {
		content = append(binary.AppendUvarint(content, uint64(len(text))), text...)
	}
	all := binary.BigEndian.AppendUint64(nil, sum.Interests)
	all = binary.BigEndian.AppendUint64(all, l.Sver)
	sum.States = xxhash.Sum64(binary.BigEndian.AppendUint64(all, max(1, xxhash.Sum64(content))))
	return sum
}

// modelSum adds up those URIs whose SHA-256 begins with prefix.
func modelSum(uris map[string]bool, levels map[string]Level, prefix string) (sum Sum) {
	for uri := range uris {
		if digest := sha256.Sum256([]byte(uri)); strings.HasPrefix(hex.EncodeToString(digest[:]), prefix) {
			l := levels[uri]
			l.URI = uri
			one := contribution(l)
			sum.Interests += one.Interests
			sum.States += one.States
		}
	}
	return sum
}

// check compares the sums of some ranges with those of the model.
func (m *told) check(p *pair, rng *rand.Rand, step int) {
	p.t.Helper()
	now := map[string]Level{}
	levels, _ := p.owner.levels(wikiHub, 0, MaxLevels)
	for _, l := range levels {
		now[l.URI] = l
	}
	ours, theirs := p.sums()
	digits := fmt.Sprintf("%04x", rng.IntN(Leaves))
	for uri := range m.wanted {
		digest := sha256.Sum256([]byte(uri))
		digits = hex.EncodeToString(digest[:2])
		break
	}
	for n := range 5 {
		got, err := ours.Of(digits[:n])
		if want := modelSum(m.needed, m.levels, digits[:n]); err != nil || got != want {
			p.t.Fatalf("step %d: the dependent has %+v of %q, want %+v (%v)", step, got, digits[:n], want, err)
		}
		got, err = theirs.Of(digits[:n])
		if want := modelSum(m.wanted, now, digits[:n]); err != nil || got != want {
			p.t.Fatalf("step %d: the owner has %+v of %q, want %+v (%v)", step, got, digits[:n], want, err)
		}
	}
}

// someURIs are up to n things of the owner.
func someURIs(rng *rand.Rand, n int) (uris []string) {
	for range rng.IntN(n + 1) {
		if uri := foreign(fmt.Sprint(rng.IntN(40))); !slices.Contains(uris, uri) {
			uris = append(uris, uri)
		}
	}
	return uris
}

// stir does one thing by chance.
func (p *pair) stir(rng *rand.Rand) {
	o, x := p.owner, rng.IntN(40)
	u := Update{ID: o.nextID(), URI: foreign(fmt.Sprint(x)), Version: fmt.Sprint("o", rng.IntN(50)), Hash: fmt.Sprint(rng.IntN(9)), At: o.now()}
	switch n := rng.IntN(20); {
	case n < 4:
		o.apply(u)
	case n < 6: // an artefact: its version is not told
		u.Type, u.Deps = "html", []Dep{{URI: foreign("source"), Seen: "1"}}
		o.apply(u)
	case n < 8:
		o.apply(Update{ID: u.ID, URI: u.URI, Action: []Action{ActionDelete, ActionPurge}[n-6], At: u.At})
	case n < 13:
		name, uris := fmt.Sprint("D", rng.IntN(6)), someURIs(rng, 9)
		deps := []Dep{{URI: named("local"), Seen: "1"}}
		for _, uri := range uris {
			deps = append(deps, Dep{URI: uri})
		}
		p.dependent.render(name, "", fmt.Sprint(rng.Int()), noToken, deps...)
		p.model.render(name, uris)
	case n < 16:
		p.bringOps(1 + rng.IntN(5))
	case n < 19:
		p.bringLevels(1 + rng.IntN(5))
	default:
		p.wait(time.Duration(rng.IntN(100)) * time.Second)
	}
}

func TestSumsAreThoseOfWhatEachSideHas(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 5))
		p := newPair(t)
		p.model = &told{map[string]bool{}, map[string]bool{}, map[string]Level{}, map[string][]string{}}
		for step := range 400 {
			p.stir(rng)
			if step%5 == 0 {
				p.model.check(p, rng, step)
			}
		}
		p.deliver()
		p.model.check(p, rng, -1)
		p.wantAgreement()
		if ours, _ := p.sums(); len(p.model.needed) < 10 || whole(ours).States == 0 || ours.Position == 0 || ours.Epoch != p.owner.epoch {
			t.Fatalf("seed %d: %d mirrors, and the sums are %+v of %+v", seed, len(p.model.needed), whole(ours), ours.Horizon)
		}
		if l, err := p.owner.s.lookAtInterests(t.Context(), wikiHub); err != nil || l.misfit || len(l.doubts) > 0 {
			t.Errorf("seed %d: an audit doubts what is right: %+v, %v", seed, l, err)
		}
		if found := p.compare(3); found != (compared{}) {
			t.Errorf("seed %d: a comparison at rest finds %+v", seed, found)
		}
		p.dependent.meet(other, 999) // what was heard of another store is not compared
		clear(p.model.levels)
		p.model.check(p, rng, -2)
	}
}

func TestWhatIsKnownOfBeforeThePeerWasMetIsNotCompared(t *testing.T) {
	g := newRig(t, Options{})
	g.apply(Update{ID: "1", URI: foreign("X"), Version: "1", Hash: "h1", At: g.now()}) // nobody speaks for it yet
	g.render("D", "", "d", noToken, madeOf("1"))
	g.appointOther()
	for _, epoch := range []Epoch{0, 7} {
		g.meet(other, epoch)
		if s, err := g.s.readSums(t.Context(), other, true); err != nil || whole(s).States != 0 || whole(s).Interests == 0 || s.Epoch != epoch {
			t.Errorf("%+v of %+v, %v", whole(s), s.Horizon, err)
		}
	}
	g.told(g.level(1, 9, "1"))
	if s, err := g.s.readSums(t.Context(), other, true); err != nil || whole(s).States == 0 {
		t.Errorf("%+v, %v", whole(s), err)
	}
}

func TestSumsKeepTheirValues(t *testing.T) {
	e := sighting{name: 0x0123456789abcdef, sver: 7, state: stateHash(true, 300, "12", "abc")}
	got := fmt.Sprintf("%x %x %x %x", stateHash(true, 300, "12", "abc"), stateHash(false, 1, versionNone, ""), e.sum().Interests, e.sum().States)
	if want := "421442f8aa0d3d46 3a6a9fa7899c6313 123456789abcdef 3fee72f9b6be0312"; got != want {
		t.Errorf("sums are %s, want %s: hubs of other versions make them too", got, want)
	}
	k := leafOf(foreign("X"))
	if want := (leafURI{0x0cba, foreign("X")}); k != want {
		t.Errorf("%+v, want %+v", k, want)
	}
}

func TestASumIsAskedForByHexDigits(t *testing.T) {
	s := &Sums{}
	s.leaves[0x1a2b] = Sum{1, 2}
	s.leaves[0x1a2f] = Sum{1<<64 - 1, 3}
	s.leaves[0xffff] = Sum{4, 4}
	for prefix, want := range map[string]Sum{"": {4, 9}, "1": {0, 5}, "1a2": {0, 5}, "1a2b": {1, 2}, "1a2c": {}, "0": {}, "f": {4, 4}, "ffff": {4, 4}} {
		if got, err := s.Of(prefix); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", prefix, got, err, want)
		}
	}
	for _, prefix := range []string{"1a2b0", "A", "g", " ", "é"} {
		if got, err := s.Of(prefix); err == nil {
			t.Errorf("%q: %+v", prefix, got)
		}
	}
}

func TestWhatIsOnItsWayIsNoDifference(t *testing.T) {
	entry := func(sver, state uint64) *CompareEntry { return &CompareEntry{"u", sver, state} }
	const asked, answered, heard = 20, 30, 40
	for _, tt := range []struct {
		name        string
		here, there *CompareEntry
		want        mending
	}{
		{"the same", entry(10, 1), entry(10, 1), mendNothing},
		{"nothing heard in this epoch on either side", entry(0, 0), entry(10, 0), mendNothing},
		{"gone on both", nil, nil, mendNothing},
		{"the owner does not know of it", entry(10, 1), nil, mendAdd},
		{"nobody wants it", nil, entry(10, 1), mendDrop},
		{"nobody wants what is yet to be told", nil, entry(25, 1), mendDrop},
		{"told when this hub had asked", entry(10, 1), entry(21, 2), mendNothing},
		{"told last when this hub asked", entry(10, 1), entry(20, 2), mendNumber},
		{"told and yet to be heard for the first time", entry(0, 0), entry(21, 2), mendNothing},
		{"heard since the owner answered", entry(31, 2), entry(10, 1), mendNothing},
		{"heard last of all", entry(40, 2), entry(10, 1), mendNothing},
		{"a number that the owner had given, but not to this", entry(30, 1), entry(10, 1), mendNumber},
		{"a number that was never heard", entry(41, 1), entry(10, 1), mendNumber},
		{"a number that was heard, and is lower", entry(9, 1), entry(10, 1), mendNumber},
		{"other content of the same number", entry(10, 2), entry(10, 1), mendAnew},
		{"not heard, though it was told", entry(0, 0), entry(10, 1), mendAnew},
		{"heard of what the owner never heard of", entry(10, 1), entry(10, 0), mendAnew},
		{"heard of what the owner never heard of, by another number", entry(9, 1), entry(10, 0), mendAnew},
	} {
		if got := need(tt.here, tt.there, asked, answered, heard); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// wantsMany has D made from n resources of the owner.
func (p *pair) wantsMany(n int, uri func(i int) string) (uris []string) {
	var deps []Dep
	for i := range n {
		uris = append(uris, uri(i))
		deps = append(deps, Dep{URI: uris[i]})
	}
	p.dependent.render("D", "", "d", noToken, deps...)
	p.deliver()
	slices.SortFunc(uris, func(a, b string) int { return leafOf(a).compare(leafOf(b)) })
	return uris
}

func leavesOf(uris []string) (leaves []uint16) {
	for _, uri := range uris {
		leaves = append(leaves, leafOf(uri).leaf)
	}
	return leaves
}

func TestAListingComesInPagesOfItsOrder(t *testing.T) {
	p := newPair(t)
	uris := p.wantsMany(1500, func(i int) string { return foreign(fmt.Sprintf("%d/%s", i, strings.Repeat("x", i%2*1900))) })
	some := uris[100:1400]
	for _, mirrors := range []bool{true, false} {
		s, peer := p.owner.s, wikiHub
		if mirrors {
			s, peer = p.dependent.s, other
		}
		for _, limit := range []int{0, 70, MaxEntries} {
			var got []string
			in, err := newSpan(leavesOf(some), "")
			page := ComparePage{More: true}
			for pages := 0; page.More && err == nil && (limit > 0 || pages < 3); pages++ {
				page, err = s.readEntries(t.Context(), peer, mirrors, in, limit)
				bytes := 0
				for _, e := range page.Entries {
					got, bytes = append(got, e.URI), bytes+len(e.URI)
				}
				if len(page.Entries) > max(1, limit) || bytes > maxEntryBytes || page.More && limit > 300 && bytes < maxEntryBytes-2000 {
					t.Fatalf("a page of %d entries and %d bytes, more: %t", len(page.Entries), bytes, page.More)
				}
				in.from(got[len(got)-1])
			}
			if err != nil || !slices.Equal(got, some[:len(got)]) || limit > 0 && len(got) != len(some) {
				t.Errorf("limit %d: %d URIs, want %d in their order; %v", limit, len(got), len(some), err)
			}
		}
	}
}

func TestAPageIsTheLongestBeginningThatHasRoom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 6))
	for run := range 200 {
		var all []listed
		for i := range 150 {
			length := []int{1, 3000, 20_000}[rng.IntN(3)]
			all = append(all, listed{leafURI{uint16(rng.IntN(50)), fmt.Sprint(i, strings.Repeat("x", length))}, uint64(i), 1})
		}
		l := earliest{limit: 1 + rng.IntN(160)}
		for _, e := range all {
			l.take(e)
		}
		slices.SortFunc(all, func(a, b listed) int { return a.compare(b.leafURI) })
		n, bytes := 0, 0
		for n < min(len(all), l.limit) && (n == 0 || bytes+len(all[n].uri) <= maxEntryBytes) {
			bytes += len(all[n].uri)
			n++
		}
		got := l.sorted()
		for i := range min(n, len(got)) {
			if got[i] != (CompareEntry{all[i].uri, all[i].sver, 1}) {
				t.Fatalf("run %d: entry %d is number %d, want %d", run, i, got[i].Sver, all[i].sver)
			}
		}
		if len(got) != n || (l.cut != nil) != (n < len(all)) {
			t.Fatalf("run %d: %d entries, want %d of %d; more: %t", run, len(got), n, len(all), l.cut != nil)
		}
	}
}

func TestAComparisonOfMuchThatWasLostTakesManyPages(t *testing.T) {
	for _, limit := range []int{10, MaxEntries} { // the other side's pages are the smaller ones, or this one's
		p := newPair(t)
		name := func(i int) string { return fmt.Sprintf("%d/%s", i, strings.Repeat("x", 1900)) }
		for i := range 350 {
			p.write(name(i), "o1")
		}
		uris := p.wantsMany(350, func(i int) string { return foreign(name(i)) })
		p.wantAgreement()
		p.interestRow("", func(tx *txn, peer PeerID, _ ID, _ interest) {
			c := tx.s.peers.clients[peer]
			for i, uri := range uris {
				if id, _ := tx.find(uri); i%7 > 3 {
					tx.dropInterest(peer, id)
					c.interests--
				}
			}
			tx.keepClient(peer, c)
		})
		d := p.dependent
		d.boundary("damage", d.commit(func(tx *txn) {
			for i, uri := range uris {
				if id, _ := tx.find(uri); i%7 > 0 && i%7 <= 3 {
					m := mirror{epoch: p.owner.epoch, sver: 1 << 40}
					check(tx.b.Set(mirrorKey(d.s.PeerNumber(other), id), m.append(nil), nil))
				}
			}
		}))
		p.leaves = leavesOf(uris) // also of those that are as they should be
		if found := p.compare(limit); found != (compared{mended: 300}) {
			t.Errorf("%+v, want 300 to be mended", found)
		}
		p.deliver()
		p.wantAgreement()
		if found := p.compare(limit); found != (compared{}) {
			t.Errorf("a second comparison finds %+v", found)
		}
	}
}

func TestAnAuditMendsAsMuchAsIsWrong(t *testing.T) {
	p := newPair(t)
	const n = auditStep + 50
	uris := p.wantsMany(n, func(i int) string { return foreign(fmt.Sprint(i)) })
	p.interestRow("", func(tx *txn, peer PeerID, _ ID, _ interest) {
		for _, uri := range uris {
			id, _ := tx.find(uri)
			i, _ := tx.interest(peer, id)
			i.digest++
			check(tx.b.Set(interestKey(id, peer), i.append(nil), nil))
		}
	})
	p.owner.loop(func(ctx context.Context, s *Store) {
		for _, want := range []int{n, 0} {
			if got, err := s.AuditInterests(ctx, wikiHub); got != want || err != nil {
				t.Errorf("%d mended, want %d; %v", got, want, err)
			}
		}
	})
	p.interestRow("", func(tx *txn, peer PeerID, _ ID, _ interest) {
		if tx.auditLevel(peer, peerSeqKey(peerLevel, peer, 1)) || tx.auditInterest(peer, 9999) {
			t.Errorf("what has moved or gone since it was looked at is mended")
		}
	})
	id := ID(0)
	p.owner.boundary("id", p.owner.commit(func(tx *txn) { id, _ = tx.find(uris[0]) }))
	for _, audit := range []func(tx *txn, peer PeerID, i interest) bool{
		func(tx *txn, peer PeerID, _ interest) bool { return tx.auditInterest(peer, id) },
		func(tx *txn, peer PeerID, i interest) bool {
			check(tx.b.Delete(interestKey(id, peer), nil))
			return tx.auditLevel(peer, peerSeqKey(peerLevel, peer, i.sver))
		},
	} {
		p.interestRow("", func(tx *txn, peer PeerID, _ ID, _ interest) {
			i, _ := tx.interest(peer, id)
			tx.s.peers.exports.remove(id)
			if mended := audit(tx, peer, i); !mended || !tx.s.peers.exports.has(id) {
				t.Errorf("mended: %t, changes of it are told: %t", mended, tx.s.peers.exports.has(id))
			}
		})
	}
	if levels, _ := p.owner.levels(wikiHub, n, MaxLevels); len(levels) != n {
		t.Errorf("%d levels are told anew, want %d", len(levels), n)
	}
}

func TestWhatIsPendingIsNotMended(t *testing.T) {
	p := atPeace(t)
	p.dependent.render("F", "", "f", noToken, Dep{URI: foreign("unwanted")}) // yet to be asked for …
	p.dependent.render("E", "", "e", noToken, saw("local", "1"))             // … and to be given up
	if found := p.compare(10); found != (compared{}) {
		t.Errorf("%+v", found)
	}
	if c, ops := p.dependent.ops(other, 100); len(ops) != 5 {
		t.Errorf("%+v: %v", c, ops)
	}
	p.dependent.loop(func(ctx context.Context, s *Store) {
		p.dependent.boundary("reregister", s.Reregister(ctx, other))
	})
	if found := p.compare(10); found != (compared{}) {
		t.Errorf("of a generation that is yet to be told: %+v", found)
	}
	p.bringOps(1)
	if found := p.compare(10); found != (compared{}) {
		t.Errorf("of a generation of which the first was told: %+v", found)
	}
	p.deliver()
	p.wantAgreement()
	c, err := p.owner.s.Client(wikiHub)
	if err != nil || c.Interests != 2 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAComparisonWithAnotherStoreIsRefused(t *testing.T) {
	p := atPeace(t)
	p.dependent.loop(func(ctx context.Context, s *Store) {
		var epoch *EpochError
		asked := Horizon{p.owner.epoch, 1}
		for _, answered := range []Horizon{{p.owner.epoch + 1, 1}, {5, 1}} {
			if _, err := s.MendInterests(ctx, other, asked, nil, "", ComparePage{Horizon: answered}); !errors.As(err, &epoch) {
				t.Errorf("%+v: %v", answered, err)
			}
		}
		now := ComparePage{Horizon: Horizon{p.owner.epoch, 1}}
		if _, err := s.MendInterests(ctx, other, Horizon{5, 1}, nil, "", now); !errors.As(err, &epoch) || epoch.Has != 5 {
			t.Errorf("asked in another epoch: %v", err)
		}
		asked.Epoch++
		if _, err := s.MendInterests(ctx, other, asked, nil, "", ComparePage{Horizon: asked}); !errors.As(err, &epoch) || epoch.Has != p.owner.epoch {
			t.Errorf("of an epoch that was not met: %v", err)
		}
	})
}

func TestAPageThatIsNoneIsRefused(t *testing.T) {
	p := atPeace(t)
	x, y := CompareEntry{URI: foreign("X"), Sver: 1, State: 1}, CompareEntry{URI: foreign("Y"), Sver: 1, State: 1}
	if leafOf(x.URI).compare(leafOf(y.URI)) > 0 {
		x, y = y, x
	}
	high := x
	high.Sver = maxLevel + 1
	leaves := leavesOf([]string{x.URI, y.URI})
	before := p.dependent.dump()
	p.dependent.loop(func(ctx context.Context, s *Store) {
		at := Horizon{p.owner.epoch, 100}
		for name, tt := range map[string]struct {
			after, field string
			page         ComparePage
		}{
			"not in order":         {"", "uri", ComparePage{at, []CompareEntry{y, x}, false}},
			"twice":                {"", "uri", ComparePage{at, []CompareEntry{x, x}, false}},
			"before what is asked": {x.URI, "uri", ComparePage{at, []CompareEntry{x, y}, false}},
			"of another leaf":      {"", "uri", ComparePage{at, []CompareEntry{{foreign("Z"), 1, 1}}, false}},
			"no URI":               {"", "uri", ComparePage{at, []CompareEntry{{"no uri", 1, 1}}, false}},
			"a number too high":    {"", "sver", ComparePage{at, []CompareEntry{high}, false}},
			"a position too high":  {"", "position", ComparePage{Horizon{at.Epoch, maxLevel + 1}, nil, false}},
			"more of nothing":      {"", "entries", ComparePage{at, nil, true}},
			"too many":             {"", "entries", ComparePage{at, make([]CompareEntry, MaxEntries+1), false}},
		} {
			var invalid *InvalidError
			if _, err := s.MendInterests(ctx, other, at, leaves, tt.after, tt.page); !errors.As(err, &invalid) || invalid.Field != tt.field {
				t.Errorf("%s: %v", name, err)
			}
		}
		var invalid *InvalidError
		many := make([]uint16, MaxLeaves+1)
		if _, err := s.MendInterests(ctx, other, at, many, "", ComparePage{Horizon: at}); !errors.As(err, &invalid) {
			t.Errorf("too many leaves: %v", err)
		}
		if _, err := s.InterestEntries(ctx, other, many, "", 1); !errors.As(err, &invalid) {
			t.Errorf("too many leaves: %v", err)
		}
		for _, err := range []error{
			second(s.InterestSums(ctx, "nobody")), second(s.MirrorSums(ctx, "nobody")),
			second(s.InterestEntries(ctx, "nobody", nil, "", 1)), second(s.MirrorEntries(ctx, "nobody", nil, "", 1)),
			second(s.MendInterests(ctx, "nobody", at, nil, "", ComparePage{Horizon: at})), second(s.AuditInterests(ctx, "nobody")),
		} {
			if !errors.Is(err, ErrUnknown) {
				t.Errorf("a stranger: %v", err)
			}
		}
	})
	if after := p.dependent.dump(); after != before {
		t.Errorf("something was applied:\n%s\nbefore:\n%s", after, before)
	}
}

func second[T any](_ T, err error) error { return err }

func TestNothingIsComparedThatMayBeLost(t *testing.T) {
	p := atPeace(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// Nobody runs the loop, so that nothing gets to the disk.
	for _, err := range []error{
		second(p.owner.s.InterestSums(ctx, wikiHub)), second(p.dependent.s.MirrorSums(ctx, other)),
		second(p.owner.s.InterestEntries(ctx, wikiHub, nil, "", 1)), second(p.dependent.s.MirrorEntries(ctx, other, nil, "", 1)),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}

func TestAScanThatNobodyWaitsForEnds(t *testing.T) {
	p := newPair(t)
	p.wantsMany(MaxEntries+100, func(i int) string { return foreign(fmt.Sprint(i)) })
	if page := p.owner.entriesUpTo(wikiHub, false, MaxEntries+50); len(page.Entries) != MaxEntries || !page.More {
		t.Errorf("a page of %d entries, more: %t", len(page.Entries), page.More)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{
		second(p.owner.s.readSums(ctx, wikiHub, false)), second(p.dependent.s.readSums(ctx, other, true)),
		second(p.owner.s.readEntries(ctx, wikiHub, false, &span{}, 1)),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}

func TestAnAuditDoubtsNothingThatMovesMeanwhile(t *testing.T) {
	p := atPeace(t)
	p.owner.loop(func(ctx context.Context, s *Store) {
		var busy sync.WaitGroup
		c, err := s.Client(wikiHub)
		p.owner.boundary("client", err)
		busy.Go(func() { // "made" is dirty and clean in turns
			for i := range 200 {
				_, err := s.Apply(ctx, "", []Update{
					{URI: foreign("Y"), Version: fmt.Sprint("o", i), Hash: fmt.Sprint("h", i), At: p.owner.now()},
					{URI: foreign("made"), Type: "html", Hash: fmt.Sprint("h", i/2), At: p.owner.now(), Deps: []Dep{{URI: foreign("Y"), Seen: fmt.Sprint("o", i)}}},
				})
				if err != nil {
					t.Errorf("apply: %v", err)
				}
			}
		})
		busy.Go(func() { // of two that come one is given up
			for i := range uint64(100) {
				r := Registration{Epoch: c.Epoch, Generation: c.Generation, Base: c.Applied + i}
				r.Ops = []InterestOp{{N: r.Base + 1, Add: i%3 < 2, URI: foreign(fmt.Sprint("z", i-i%3/2*2))}}
				if res, err := s.Register(ctx, wikiHub, r, 1000); err != nil || res.Rejected > 0 {
					t.Errorf("register: %+v, %v", res, err)
				}
			}
		})
		ended := make(chan struct{})
		go func() { busy.Wait(); close(ended) }()
		for audits := 0; ; audits++ {
			if n, err := s.AuditInterests(ctx, wikiHub); n != 0 || err != nil {
				t.Errorf("audit %d mends %d, %v", audits, n, err)
			}
			if _, err := s.InterestSums(ctx, wikiHub); err != nil {
				t.Errorf("sums: %v", err)
			}
			select {
			case <-ended:
				return
			default:
			}
		}
	})
}

// BenchmarkCompare reports what sums of 100,000 resources and a page of them cost.
func BenchmarkCompare(b *testing.B) {
	const n = 100_000
	ctx := context.Background()
	s := benchStore(b, Options{})
	err := s.SetAuthority(ctx, []string{"https://wiki.example"}, []Territory{{Peer: other, Authority: []string{"https://other.example"}}})
	for i := 0; i < n && err == nil; i += 5000 {
		r := Registration{Epoch: 7, Generation: 1, Base: uint64(i)}
		var us []Update
		for k := i; k < i+5000; k++ {
			uri := named(fmt.Sprintf("wiki/Page_%07d", k))
			us = append(us, Update{URI: uri, Version: "1", Hash: fmt.Sprint("h", k)})
			if k%10 == 0 {
				d := Update{URI: uri + "#html", Hash: "h"}
				for j := range 10 {
					d.Deps = append(d.Deps, Dep{URI: foreign(fmt.Sprintf("wiki/Template_%07d", k+j))})
				}
				us = append(us, d)
			}
			r.Ops = append(r.Ops, InterestOp{N: uint64(k) + 1, Add: true, URI: uri})
		}
		for part := range slices.Chunk(us, 5000) {
			err = errors.Join(err, second(s.Apply(ctx, LocalPublisher, part)))
		}
		err = errors.Join(err, second(s.Register(ctx, other, r, n)))
	}
	if err = errors.Join(err, second(s.MeetOwner(ctx, other, 7))); err != nil {
		b.Fatal(err)
	}
	for i := 0; i < n; i += 5000 {
		var levels []Level
		for k := i; k < i+5000; k++ {
			levels = append(levels, Level{URI: foreign(fmt.Sprintf("wiki/Template_%07d", k)), Sver: uint64(k) + 1, Cver: 1, Heard: true, Known: true,
				Version: "1", Hash: "h", ChangedAt: time.Now(), Now: time.Now()})
		}
		if _, err := s.Hear(ctx, other, 7, levels, uint64(i)+5000); err != nil {
			b.Fatal(err)
		}
	}
	leaves := make([]uint16, MaxLeaves)
	for i := range leaves {
		leaves[i] = uint16(i * 16)
	}
	for _, c := range []struct {
		name string
		run  func() error
	}{
		{"interests", func() error { return second(s.InterestSums(ctx, other)) }},
		{"mirrors", func() error { return second(s.MirrorSums(ctx, other)) }},
		{"page", func() error { return second(s.InterestEntries(ctx, other, leaves, "", MaxEntries)) }},
		{"audit", func() error { return second(s.AuditInterests(ctx, other)) }},
	} {
		b.Run("what="+c.name, func(b *testing.B) {
			for b.Loop() {
				if err := c.run(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
