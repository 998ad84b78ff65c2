package subscriptions

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/freshwire/freshwire/graph"
)

func TestTheIndexFindsEveryClassThatWantsANotice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex()
		var kept []*class
		for i := range rapid.IntRange(1, 30).Draw(t, "classes") {
			m, err := Compile(drawFilter(t))
			if err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 3).Draw(t, "listed") == 0 {
				m.list = graph.ListID(1 + i%3)
			}
			if rapid.IntRange(0, 3).Draw(t, "restricted") == 0 {
				prefixes := rapid.SliceOfN(rapid.SampledFrom(append(manyPages(), somePrefixes...)), 0, 20).Draw(t, "sight")
				m = m.seenBy(newSight(prefixes), rapid.Bool().Draw(t, "public"))
			}
			c := &class{key: classKey{asked: fmt.Sprint(i)}, sel: m}
			c.routes, _ = m.routes(0)
			x.add(c)
			kept = append(kept, c)
		}
		for len(kept) > 0 && rapid.Bool().Draw(t, "remove") {
			i := rapid.IntRange(0, len(kept)-1).Draw(t, "which")
			x.remove(kept[i])
			kept = slices.Delete(kept, i, i+1)
		}
		for range 10 {
			n := drawNotice(t)
			n.Lists = rapid.SampledFrom([][]graph.ListID{nil, {1}, {2, 3}}).Draw(t, "lists")
			found := map[*class]bool{}
			x.candidates(&n, func(c *class) { found[c] = true })
			for _, c := range kept {
				if c.sel.show(&n) != hidden && !found[c] {
					t.Errorf("%+v is not found under %+v", n, c.routes)
				}
				delete(found, c)
			}
			if len(found) != 0 {
				t.Errorf("%d classes are found that were removed", len(found))
			}
		}
	})
}

func TestEachPrefixOfAURIIsTried(t *testing.T) {
	segment := rapid.StringMatching(`[a-z:?/#.-]{0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		uri := rapid.SampledFrom([]string{"https://a.example/", "urn:a:", "cache:", "https://a.example:8080"}).Draw(t, "begin") +
			segment.Draw(t, "rest") + segment.Draw(t, "more")
		tried := map[string]bool{}
		eachPrefix(uri, func(p string) { tried[p] = true })
		for end := range len(uri) + 1 {
			if p := uri[:end]; graph.UnderPrefix(uri, p) && !tried[p] {
				t.Errorf("%q is a prefix of %q and is not tried", p, uri)
			}
		}
	})
}

// BenchmarkDispatch gives notices to one class that wants them, beside others
// with an exact URI each, or another host or prefix, that do not, or of tenants who
// ask for everything and may see something else.
func BenchmarkDispatch(b *testing.B) {
	others := map[string]func(i int) Filter{
		"uri":    func(i int) Filter { return Filter{URI: []string{fmt.Sprintf("https://en.example.org/wiki/P%d", i)}} },
		"host":   func(i int) Filter { return Filter{Host: []string{fmt.Sprintf("w%d.example.org", i)}} },
		"prefix": func(i int) Filter { return Filter{Prefix: []string{fmt.Sprintf("https://en.example.org/w%d", i)}} },
	}
	for _, kind := range []string{"uri", "host", "prefix", "tenant"} {
		for _, count := range []int{1, 1000, 100_000} {
			b.Run(fmt.Sprintf("others=%s/subscribers=%d", kind, count), func(b *testing.B) {
				p := newPump(newMemJournal())
				for i := range count {
					if kind == "tenant" {
						v := newSight([]string{fmt.Sprintf("https://en.example.org/w%d", i)})
						p.join(classKey{sight: keyOf(v)}, new(Matcher).seenBy(v, false))
						continue
					}
					join(b, p, others[kind](i))
				}
				join(b, p, Filter{URI: []string{"https://en.example.org/wiki/Berlin"}})
				batch := make([]graph.Notice, 100)
				for i := range batch {
					batch[i] = notice("https://en.example.org/wiki/Berlin")
				}
				seq := uint64(0)
				for b.Loop() {
					for i := range batch {
						seq++
						batch[i].Cursor = graph.Cursor{Seq: seq}
					}
					p.dispatch(batch, graph.Cursor{Seq: seq})
				}
				b.ReportMetric(float64(seq)/b.Elapsed().Seconds(), "notices/s")
			})
		}
	}
}

func join(t testing.TB, p *pump, f Filter) *class {
	m, err := Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	return p.join(classKey{asked: filterKey(f)}, m)
}
