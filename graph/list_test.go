package graph

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// listing is who is on which list from a position on.
type listing struct {
	at uint64
	on map[string][]ListID
}

// listModel is a rig with lists, and what they should be.
type listModel struct {
	*rig
	rng     *rand.Rand
	names   []string
	live    []ListID
	last    ListID // that was given
	history []listing
	records map[string]string
	version int
}

func newListModel(t *testing.T, seed uint64) *listModel {
	rng := rand.New(rand.NewPCG(seed, 5))
	o := Options{chunk: 3, inline: rng.IntN(3) - 1, Work: []string{"html"}, KeepAge: 40 * time.Minute}
	if seed%2 == 0 {
		o.TailBytes = 5 * chunkOverhead
	}
	m := &listModel{rig: newRig(t, o), rng: rng, records: map[string]string{}, history: []listing{{on: map[string][]ListID{}}}}
	for i := range 14 {
		m.names = append(m.names, fmt.Sprint("n", i))
	}
	m.live, m.last = []ListID{1, 2, 3}, 3
	return m
}

// on is who is on which list after the last edit.
func (m *listModel) on() map[string][]ListID { return m.history[len(m.history)-1].on }

// listsAt are the lists that should stand in a notice.
func (m *listModel) listsAt(n *Notice) []ListID {
	i := len(m.history) - 1
	for m.history[i].at >= n.Cursor.Seq && i > 0 {
		i--
	}
	return m.history[i].on[n.URI]
}

func (m *listModel) some(of []string, least int) (out []string) {
	for _, k := range m.rng.Perm(len(of))[:least+m.rng.IntN(len(of)/2)] {
		out = append(out, of[k])
	}
	return out
}

func (m *listModel) edit() {
	e := ListEdit{List: m.live[m.rng.IntN(len(m.live))], Key: fmt.Sprint("k", m.rng.IntN(5))}
	for _, name := range m.some(m.names, 1) {
		if m.rng.IntN(2) == 0 {
			e.Add = append(e.Add, named(name))
		} else {
			e.Remove = append(e.Remove, named(name))
		}
	}
	if m.rng.IntN(4) == 0 {
		e.Add = append(e.Add, named(fmt.Sprint("new", m.rng.IntN(1000))))
	}
	if m.rng.IntN(8) == 0 && len(m.live) > 2 {
		i := slices.IndexFunc(m.live, func(l ListID) bool { return l != e.List })
		e.Drop = []ListID{m.live[i]}
		m.last += ListID(1 + m.rng.IntN(1000))
		m.live[i] = m.last
	}
	switch m.rng.IntN(3) {
	case 0: // without a record: what is kept goes
		delete(m.records, e.Key)
	case 1:
		e.Record = func(at Cursor) []byte { return []byte(at.String()) }
	case 2:
		e.Key = ""
	}
	on := map[string][]ListID{}
	for uri, lists := range m.on() {
		on[uri] = slices.DeleteFunc(slices.Clone(lists), func(l ListID) bool { return slices.Contains(e.Drop, l) })
	}
	var want ListResult
	for _, uri := range e.Remove {
		if i, ok := slices.BinarySearch(on[uri], e.List); ok && !slices.Contains(e.Add, uri) {
			on[uri] = slices.Delete(on[uri], i, i+1)
			want.Removed++
		}
	}
	for _, uri := range e.Add {
		if i, ok := slices.BinarySearch(on[uri], e.List); !ok {
			on[uri] = slices.Insert(on[uri], i, e.List)
			want.Added++
		}
	}
	got := m.editList(e)
	if got.Added != want.Added || got.Removed != want.Removed || got.At != m.token() {
		m.t.Errorf("edit %+v: got %+v, want %+v at %s", e, got, want, m.token())
	}
	if e.Record != nil {
		m.records[e.Key] = got.At.String()
	}
	m.history = append(m.history, listing{got.At.Seq, on})
}

func (m *listModel) step() {
	name := m.names[m.rng.IntN(len(m.names))]
	m.version++
	switch p := m.rng.IntN(20); {
	case p < 4:
		m.edit()
	case p < 9:
		m.rig.edit("src"+name[1:2], fmt.Sprint(100+m.version), fmt.Sprint("h", m.version))
	case p < 14:
		var deps []Dep
		for _, k := range m.rng.Perm(6)[:1+m.rng.IntN(3)] {
			deps = append(deps, saw(fmt.Sprint("src", k), ""))
		}
		m.render(name, "", fmt.Sprint("r", m.version), m.token(), deps...)
	case p < 15:
		m.remove(name)
	case p < 18:
		m.wait(time.Duration(m.rng.IntN(400)) * time.Second)
	case p < 19:
		m.crash(m.rng)
	default:
		m.work()
	}
}

// check compares all that can be read with the model.
func (m *listModel) check() {
	m.t.Helper()
	all := wholeJournal(m.t.(*testing.T), m.s)
	for i := range all {
		if want := m.listsAt(&all[i]); !slices.Equal(all[i].Lists, want) {
			m.t.Errorf("%s, %s: marked for %v, want %v", all[i].Cursor, all[i].URI, all[i].Lists, want)
		}
	}
	for range 10 {
		m.checkPick(m.pick(), all)
	}
	for _, list := range append(slices.Clone(m.live), m.last+1) {
		var want []string
		for uri, lists := range m.on() {
			if slices.Contains(lists, list) {
				want = append(want, uri)
			}
		}
		got := m.members(list)
		n, err := m.s.CountListed(list)
		if slices.Sort(want); !slices.Equal(slices.Sorted(slices.Values(got)), want) || n != len(want) || err != nil {
			m.t.Errorf("list %d holds %v, counted %d, %v; want %v", list, got, n, err, want)
		}
	}
	m.checkRecords()
}

func (m *listModel) checkRecords() {
	m.t.Helper()
	for _, prefix := range []string{"", "k", "k3", "none"} {
		var got, want []string
		err := m.s.Records(prefix, func(key string, value []byte) error {
			got = append(got, key+"="+string(value))
			return nil
		})
		for _, k := range slices.Sorted(maps.Keys(m.records)) {
			if strings.HasPrefix(k, prefix) {
				want = append(want, k+"="+m.records[k])
			}
		}
		if err != nil || !slices.Equal(got, want) {
			m.t.Errorf("records %q: got %v, %v; want %v", prefix, got, err, want)
		}
	}
}

// pick is a random one.
func (m *listModel) pick() *Pick {
	p := &Pick{}
	if m.rng.IntN(3) == 0 {
		p.Kinds = uint8(1 + m.rng.IntN(3))
	}
	if m.rng.IntN(3) == 0 {
		p.Lanes = uint8(1 + m.rng.IntN(3))
	}
	if m.rng.IntN(2) == 0 {
		for range 1 + m.rng.IntN(3) {
			p.Lists = append(p.Lists, ListID(1+m.rng.IntN(int(m.last))))
		}
		p.Lists = append(p.Lists, m.live[m.rng.IntN(len(m.live))])
	}
	if m.rng.IntN(3) == 0 {
		p.Keys = [][]Key{{HostKey("wiki.example")}}
	}
	if m.rng.IntN(3) == 0 {
		for _, name := range m.some(m.names, 1)[:1] {
			p.URIs = append(p.URIs, named(name), named("nobody heard of "+name))
		}
	}
	return p
}

// fits is what a pick asks, said plainly.
func (p *Pick) fits(n *Notice) bool {
	kind := p.Kinds == 0 || p.Kinds&(1<<n.Kind) != 0
	lane := p.Lanes == 0 || p.Lanes&(1<<n.Lane) != 0
	on := slices.ContainsFunc(p.Lists, func(l ListID) bool { return slices.Contains(n.Lists, l) })
	return kind && lane && (len(p.Lists)+len(p.URIs) == 0 || on || slices.Contains(p.URIs, n.URI))
}

// checkPick compares a scan with the whole journal filtered.
func (m *listModel) checkPick(p *Pick, all []Notice) {
	m.t.Helper()
	var from Cursor
	if from = m.s.Oldest(); len(all) > 0 && m.rng.IntN(2) == 0 {
		from = all[m.rng.IntN(len(all))].Cursor
	}
	var want []Notice
	for _, n := range all {
		if n.Cursor.Seq > from.Seq && p.fits(&n) {
			want = append(want, n)
		}
	}
	got := m.scanned(p, from, 1+m.rng.IntN(12))
	if !slices.EqualFunc(got, want, sameNotice) {
		m.t.Errorf("scan of kinds %b, lanes %b, lists %v, URIs %v from %s:\n got %v\nwant %v",
			p.Kinds, p.Lanes, p.Lists, p.URIs, from, positions(got), positions(want))
	}
}

func positions(ns []Notice) (list []uint64) {
	for _, n := range ns {
		list = append(list, n.Cursor.Seq)
	}
	return list
}

// checkListKeys fails unless marks and their index agree, and both directions of
// membership.
func checkListKeys(t tester, s *Store) {
	t.Helper()
	marked, indexed, members, on := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
	must(s.scan(spaceJournal, func(k, v []byte) error {
		c, err := decodeChunk(parseSeq(k[1:]), v)
		for _, m := range c.marks {
			marked[fmt.Sprintf("%d in %d", m.list, c.first)] = true
		}
		return err
	}))
	must(s.scanPrefix([]byte{spaceList, listMarked}, func(k, _ []byte) error {
		if seq := parseSeq(k[6:]); seq > s.trimmedTo() {
			indexed[fmt.Sprintf("%d in %d", parseList(k[2:]), seq)] = true
		}
		return nil
	}))
	must(s.scanPrefix([]byte{spaceList, listMembers}, func(k, v []byte) error {
		ids, err := decodeBucket(v, bucketOf(k), nil)
		for _, id := range ids {
			members[fmt.Sprintf("%d on %d", id, parseList(k[2:]))] = true
			if !s.lists.isDropped(parseList(k[2:])) && !s.lists.ids.has(ID(id)) {
				t.Errorf("resource %d is on list %d, and not among the listed", id, parseList(k[2:]))
			}
		}
		return err
	}))
	must(s.scanPrefix([]byte{spaceList, listOf}, func(k, v []byte) error {
		on[fmt.Sprintf("%d on %d", parseID(k[2:]), parseList(k[2+idSize:]))] = true
		return nil
	}))
	if !maps.Equal(marked, indexed) {
		t.Errorf("marks are %v, their index has %v", marked, indexed)
	}
	if !maps.Equal(members, on) {
		t.Errorf("lists have %v, resources are on %v", members, on)
	}
}

func TestEveryNoticeBearsTheListsThatHeldItsResource(t *testing.T) {
	for seed := range 6 * seeds(t) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			m := newListModel(t, seed)
			for n := range 300 {
				m.step()
				if n%60 == 59 {
					m.check()
					checkListKeys(t, m.s)
				}
				if t.Failed() {
					t.Fatalf("after step %d", n)
				}
			}
			m.wait(time.Minute)
			if got, want := m.s.lists.ids.count(), len(slices.DeleteFunc(slices.Collect(maps.Values(m.on())), func(l []ListID) bool { return len(l) == 0 })); got != want {
				t.Errorf("%d resources count as listed, want %d", got, want)
			}
			if m.s.Oldest().Seq == 0 {
				t.Errorf("nothing of the journal was trimmed")
			}
		})
	}
}

func TestAListEditThatIsRefusedSaysWhatIsWrong(t *testing.T) {
	g := newRig(t, Options{})
	g.editList(ListEdit{List: 8, Add: []string{named("A")}})
	g.editList(ListEdit{Drop: []ListID{8}})
	many := make([]string, MaxListEdit/2+1)
	for i := range many {
		many[i] = named(fmt.Sprint(i))
	}
	for _, c := range []struct {
		name  string
		e     ListEdit
		field string
		item  int
	}{
		{"a URI to add", ListEdit{List: 1, Add: []string{named("A"), "HTTP://x/"}}, "add", 1},
		{"a ticker that is none", ListEdit{List: 1, Add: []string{"ticker:soon"}}, "add", 0},
		{"a URI to remove", ListEdit{List: 1, Remove: []string{named("A"), named("B"), ""}}, "remove", 2},
		{"too many", ListEdit{List: 1, Add: many, Remove: many}, "add", len(many) - 1},
		{"list 0", ListEdit{Add: many[:1]}, "list", 0},
		{"dropping itself", ListEdit{List: 1, Drop: []ListID{2, 1}}, "drop", 1},
		{"a list that was dropped", ListEdit{List: 8, Add: many[:1]}, "list", 0},
	} {
		_, err := g.s.editListNow(g.now().UnixMicro(), c.e)
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Field != c.field || invalid.Item != c.item {
			t.Errorf("%s: got %v, want field %s, item %d", c.name, err, c.field, c.item)
		}
	}
	if len(g.members(1)) > 0 {
		t.Errorf("a refused edit listed %v", g.members(1))
	}
	g.editList(ListEdit{List: 1, Add: many[:1]})
	if got := g.members(1); len(got) != 1 {
		t.Errorf("after refusals an edit lists %v", got)
	}
}

func TestAListedResourceIsNotForgotten(t *testing.T) {
	g := newRig(t, Options{KeepAge: 24 * time.Hour})
	heard := func(name string) bool {
		_, err := g.s.Resource(named(name))
		return err == nil
	}
	g.editList(ListEdit{List: 1, Add: []string{named("X"), named("Y"), named("Z")}})
	g.editList(ListEdit{List: 2, Add: []string{named("Y"), named("Z")}})
	g.editList(ListEdit{List: 1, Remove: []string{named("X"), named("Y")}})
	g.days(35)
	if heard("X") || !heard("Y") || !heard("Z") {
		t.Errorf("after a month X is remembered: %t, Y on one list: %t, Z on two: %t", heard("X"), heard("Y"), heard("Z"))
	}
	g.editList(ListEdit{Drop: []ListID{2}})
	g.drain()
	g.days(35)
	if heard("Y") || !heard("Z") {
		t.Errorf("a month after one list was dropped Y is remembered: %t, Z on the other one: %t", heard("Y"), heard("Z"))
	}
	checkListKeys(t, g.s)
}

func TestWhatWasMarkedForADroppedListIsFoundUntilItIsTrimmed(t *testing.T) {
	g := newRig(t, Options{KeepAge: time.Hour, TailBytes: 1})
	g.editList(ListEdit{List: 5, Add: []string{named("A")}})
	g.edits("A", 3)
	g.editList(ListEdit{Drop: []ListID{5}})
	g.edits("A", 3)
	for range 2 {
		if got := g.scanned(&Pick{Lists: []ListID{5}}, g.s.Oldest(), 2); len(got) != 3 {
			t.Errorf("%d notices are marked for the list, want the 3 from before it was dropped", len(got))
		}
		g.wait(time.Minute)
		g.crash(nil)
	}
	for range 5 {
		g.wait(time.Hour)
		g.edits("B", 1)
	}
	err := g.s.scan(spaceList, func(k, _ []byte) error { return fmt.Errorf("%q is left", k) })
	if err != nil {
		t.Error(err)
	}
}

// edits edits a page some times.
func (g *rig) edits(name string, n int) {
	g.t.Helper()
	for range n {
		g.edit(name, fmt.Sprint(100+len(g.heard)), fmt.Sprint(len(g.heard)))
	}
}

func TestALargeListIsForgottenInPiecesAcrossRestarts(t *testing.T) {
	g := newRig(t, Options{})
	const n = 2*forgetStep + 500
	var uris []string
	for i := range n {
		uris = append(uris, named(fmt.Sprint("m", i)))
	}
	g.editList(ListEdit{List: 1, Add: uris})
	g.editList(ListEdit{List: 2, Add: uris[:10]})
	g.editList(ListEdit{Drop: []ListID{1}})
	steps := 0
	for g.s.due(g.now().UnixMicro()) {
		before := 0
		if err := g.s.scanPrefix([]byte{spaceList, listOf}, func([]byte, []byte) error { before++; return nil }); err != nil {
			t.Fatal(err)
		}
		g.s.workNow(g.now())
		left := 0
		if err := g.s.scanPrefix([]byte{spaceList, listOf}, func([]byte, []byte) error { left++; return nil }); err != nil {
			t.Fatal(err)
		}
		if before-left > forgetStep {
			t.Errorf("one step forgot %d", before-left)
		}
		steps++
		g.crash(nil)
		checkListKeys(t, g.s)
	}
	if steps != 3 || !slices.Equal(g.members(2), uris[:10]) || len(g.members(1)) != 0 || g.s.lists.ids.count() != 10 {
		t.Errorf("after %d steps: list 2 has %d, list 1 %d, %d count as listed", steps, len(g.members(2)), len(g.members(1)), g.s.lists.ids.count())
	}
}

func TestAChunkIsSplitWhereItsMarksAreTooMany(t *testing.T) {
	lists := make([][]ListID, 5)
	for i, n := range []int{maxMarks + 5, 1, maxMarks - 2, 1, 1} {
		for k := range n {
			lists[i] = append(lists[i], ListID(k+1))
		}
	}
	var got []int
	for len(lists) > 0 {
		n := markable(lists)
		got, lists = append(got, n), lists[n:]
	}
	if want := []int{1, 3, 1}; !slices.Equal(got, want) {
		t.Errorf("cut into %v, want %v", got, want)
	}
}

func TestEditsOfListsAtTheSameTimeCountExactly(t *testing.T) {
	g := newRig(t, Options{})
	g.loop(func(ctx context.Context, s *Store) {
		const editors = 8
		results := make(chan ListResult)
		for n := range editors {
			go func() {
				var uris []string
				for i := range 1500 {
					uris = append(uris, named(fmt.Sprint("m", i)))
				}
				var sum ListResult
				for range 3 {
					e := ListEdit{List: 1, Add: uris[:1000]}
					if n%2 == 0 {
						e.Add, e.Remove = nil, uris[500:]
					}
					res, err := s.EditList(ctx, e)
					if err != nil {
						t.Errorf("edit: %v", err)
					}
					sum.Added, sum.Removed = sum.Added+res.Added, sum.Removed+res.Removed
				}
				results <- sum
			}()
		}
		added, removed := 0, 0
		for range editors {
			r := <-results
			added, removed = added+r.Added, removed+r.Removed
		}
		if n, err := s.CountListed(1); err != nil || n != added-removed {
			t.Errorf("%d members, %v; %d were added and %d removed", n, err, added, removed)
		}
	})
	checkListKeys(t, g.s)
}

func TestAnEditOfAListThatIsCalledOffHoldsUpNoOther(t *testing.T) {
	g := newRig(t, Options{})
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := g.s.EditList(gone, ListEdit{List: 1, Add: []string{named("A")}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	g.editList(ListEdit{List: 1, Add: []string{named("B")}})
	g.loop(func(ctx context.Context, s *Store) {
		if _, err := s.EditList(ctx, ListEdit{List: 1, Add: []string{named("C")}}); err != nil {
			t.Error(err)
		}
	})
}

func TestFormats(t *testing.T) {
	t.Run("a new store has today's", func(t *testing.T) {
		g := newRig(t, Options{})
		if v, err := g.s.meta(metaFormat); err != nil || len(v) != 1 || v[0] != 4 {
			t.Errorf("got %v, %v, want 4", v, err)
		}
	})
	for old := byte(1); old < formatVersion; old++ {
		t.Run(fmt.Sprintf("a store of format %d becomes one of today's and keeps what it has", old), func(t *testing.T) {
			g := newRig(t, Options{})
			for _, version := range []string{"1", "2", "3"} { // by nobody in particular, as all was then
				g.applyAs(LocalPublisher, Update{URI: named("A"), Version: version, At: g.now()})
			}
			if err := g.s.db.Set(metaKey(metaFormat), []byte{old}, pebble.Sync); err != nil {
				t.Fatal(err)
			}
			g.unchecked = true
			g.crash(nil)
			g.unchecked = false
			if v, err := g.s.meta(metaFormat); err != nil || len(v) != 1 || v[0] != formatVersion {
				t.Errorf("got %v, %v, want %d", v, err, formatVersion)
			}
			if got := wholeJournal(t, g.s); len(got) != 3 {
				t.Errorf("%d notices are left of 3", len(got))
			}
			if got := g.s.Accounts(); len(got) != 0 {
				t.Errorf("accounts %v, want none", got)
			}
			g.editList(ListEdit{List: 1, Add: []string{named("A")}})
			g.edits("A", 1)
			if got := g.heard[len(g.heard)-1].Lists; !slices.Equal(got, []ListID{1}) {
				t.Errorf("marked for %v, want list 1", got)
			}
			if got := g.s.Accounts(); !slices.Equal(got, []Account{{"test", 1, 0}}) {
				t.Errorf("accounts %v, want one resource of test", got)
			}
		})
	}
	for _, v := range [][]byte{{formatVersion + 1}, {0}, {1, 0}} {
		t.Run(fmt.Sprintf("a store of format %v is refused", v), func(t *testing.T) {
			o := Options{FS: vfs.NewMem(), Cache: rigCache}
			s, err := Open("store", o)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.db.Set(metaKey(metaFormat), v, pebble.Sync), s.Close()); err != nil {
				t.Fatal(err)
			}
			if s, err := Open("store", o); !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, %v; want %v", s, err, ErrFormat)
			}
		})
	}
}

func TestScanSaysWhichPositionsItCannotServe(t *testing.T) {
	g := journalOf(t, 60, Options{KeepAge: 30 * time.Minute})
	oldest, newest := g.s.Oldest(), g.token()
	for _, c := range []struct {
		cursor Cursor
		reason string
	}{
		{Cursor{g.s.epoch + 1, newest.Seq}, "epoch"},
		{Cursor{g.s.epoch, oldest.Seq - 1}, "trimmed"},
		{Cursor{g.s.epoch, newest.Seq + 1}, "future"},
	} {
		_, _, err := g.s.Scan(&Pick{Lists: []ListID{1}}, c.cursor, 10)
		var reset *ResetError
		if !errors.As(err, &reset) || reset.Reason != c.reason || reset.Oldest != oldest || reset.Newest != newest {
			t.Errorf("from %s: got %v, want a reset for %q", c.cursor, err, c.reason)
		}
	}
	if ns, next, err := g.s.Scan(nil, newest, 10); len(ns) > 0 || next != newest || err != nil {
		t.Errorf("from the newest position: %d notices, next %s, %v", len(ns), next, err)
	}
}

func TestAPickLearnsOfAURIThatIsHeardOfLater(t *testing.T) {
	for _, tail := range []int64{0, 1} {
		g := newRig(t, Options{TailBytes: tail, KeepAge: time.Hour})
		p := &Pick{URIs: []string{named("A"), named("B")}}
		g.edits("A", 1)
		g.edits("C", 1)
		got := g.scanned(p, g.s.Oldest(), 10)
		at := g.token()
		g.edits("C", 1)
		g.edits("B", 1)
		got = append(got, g.scanned(p, at, 10)...)
		if len(got) != 2 || got[0].URI != named("A") || got[1].URI != named("B") {
			t.Errorf("got %v, want A and B", got)
		}
	}
}

func TestScanDoesABoundedPieceOfWork(t *testing.T) {
	g := newRig(t, Options{TailBytes: 1})
	g.editList(ListEdit{List: 1, Add: []string{named("A")}})
	b := g.s.db.NewBatch()
	const n = 3*maxScan + 5
	ids := make([]ID, maxChunk)
	for i := range ids {
		ids[i] = ID(i + 1)
	}
	for seq := uint64(1); seq < n; seq += maxChunk {
		c := chunk{first: seq, kind: KindRefresh, lane: Bulk, at: g.now().UnixMicro(), ids: ids}
		if err := b.Set(seqKey(spaceJournal, seq), c.append(nil), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	g.unchecked = true
	g.close()
	g.open()
	calls := 0
	p := &Pick{Kinds: 1 << KindChanged}
	for at := g.s.Oldest(); at != g.token(); calls++ {
		ns, next, err := g.s.Scan(p, at, 10)
		if err != nil || len(ns) > 0 || next.Seq-at.Seq > maxScan+maxChunk {
			t.Fatalf("from %s: %d notices, next %s, %v", at, len(ns), next, err)
		}
		at = next
	}
	if calls < 3 {
		t.Errorf("%d positions were read in %d calls", n, calls)
	}
	p = &Pick{Lists: []ListID{1}}
	if ns, next, err := g.s.Scan(p, g.s.Oldest(), 10); len(ns) > 0 || next != g.token() || err != nil {
		t.Errorf("a list without notices: %d, next %s, %v; want the newest position at once", len(ns), next, err)
	}
}

func TestWhatIsToldInTheCommitOfAnEditIsJudgedByWhatStandsBeforeIt(t *testing.T) {
	g := newRig(t, Options{})
	g.edit("A", "100", "a")
	id, _, _ := g.s.lookup(named("A"))
	tell := func(tx *txn) { tx.notice(id, chunk{kind: KindRefresh, reason: ReasonRetry}) }
	var at Cursor
	edit := func(tx *txn) {
		at = tx.editList(&listChange{ListEdit: &ListEdit{List: 1}, add: []ID{id}}).At
	}
	if err := g.s.stepSync(g.now().UnixMicro(), []*request{{apply: tell}, {apply: edit}, {apply: tell}}); err != nil {
		t.Fatal(err)
	}
	ns := g.listen()
	if len(ns) != 2 || ns[0].Lists != nil || !slices.Equal(ns[1].Lists, []ListID{1}) || at != ns[0].Cursor {
		t.Errorf("an edit at %s between two notices: got %+v", at, ns)
	}
}

func TestWhoGotAnIDForAnEditThatFailedIsForgottenLikeAnyStub(t *testing.T) {
	g := newRig(t, Options{KeepAge: 24 * time.Hour})
	failed := errors.New("no more")
	n := 0
	_, err := g.s.editList(context.Background(), ListEdit{List: 1, Add: []string{named("A")}}, func(f func(*txn)) (*request, error) {
		if n++; n > 1 {
			return nil, failed
		}
		r := &request{apply: f, done: make(chan error, 1)}
		return r, g.s.stepSync(g.now().UnixMicro(), []*request{r})
	})
	if _, heard := g.s.Resource(named("A")); !errors.Is(err, failed) || heard != nil || len(g.members(1)) > 0 {
		t.Errorf("got %v, resource %v, members %v", err, heard, g.members(1))
	}
	g.days(35)
	if _, err := g.s.Resource(named("A")); !errors.Is(err, ErrUnknown) {
		t.Errorf("after a month: %v, want %v", err, ErrUnknown)
	}
}

func TestListsOfUnequalLengthAreReadTogetherByTheirIndex(t *testing.T) {
	g := newRig(t, Options{TailBytes: 1, KeepAge: time.Hour})
	g.editList(ListEdit{List: 1, Add: []string{named("A")}})
	g.editList(ListEdit{List: 2, Add: []string{named("B")}})
	for range 6 {
		g.edits("A", 20)
		g.edits("B", 1)
		g.edits("C", 30)
	}
	p := &Pick{Lists: []ListID{2, 1}}
	var want []uint64
	for _, n := range g.heard {
		if p.fits(&n) {
			want = append(want, n.Cursor.Seq)
		}
	}
	for _, limit := range []int{1, 7, 40, 1000} {
		if got := positions(g.scanned(p, g.s.Oldest(), limit)); !slices.Equal(got, want) {
			t.Errorf("with a limit of %d: got %v, want %v", limit, got, want)
		}
	}
	// What is written and not yet durable neither shows nor holds anybody up.
	g.unchecked = true
	b := g.s.db.NewBatch()
	for seq := g.token().Seq + 1; seq < g.token().Seq+100; seq++ {
		check(b.Set(markedKey(3, seq), nil, nil))
	}
	check(b.Commit(pebble.NoSync))
	if ns, next, err := g.s.Scan(&Pick{Lists: []ListID{3}}, g.s.Oldest(), 10); len(ns) > 0 || next != g.token() || err != nil {
		t.Errorf("got %d notices, next %s, %v; want the newest durable position %s", len(ns), next, err, g.token())
	}
}
