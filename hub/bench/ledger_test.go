package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWhatIsWrongWithAReaderIsCounted(t *testing.T) {
	truth := []uint64{3, 5, 6, 9, 12}
	for _, c := range []struct {
		name string
		gets []uint64
		want verdict
	}{
		{"everything", []uint64{3, 5, 6, 9, 12}, verdict{}},
		{"nothing", nil, verdict{lost: 5}},
		{"not the first", []uint64{5, 6, 9, 12}, verdict{lost: 1}},
		{"not the last", []uint64{3, 5, 6, 9}, verdict{lost: 1}},
		{"a hole", []uint64{3, 9, 12}, verdict{lost: 2}},
		{"one twice at once", []uint64{3, 5, 5, 6, 9, 12}, verdict{duplicated: 1}},
		{"a stretch again", []uint64{3, 5, 6, 5, 6, 9, 12}, verdict{duplicated: 2}},
		{"two exchanged", []uint64{3, 6, 5, 9, 12}, verdict{reordered: 1}},
		{"the first last", []uint64{5, 6, 9, 12, 3}, verdict{reordered: 1}},
		{"late and then again", []uint64{3, 9, 5, 5, 12}, verdict{reordered: 1, duplicated: 1, lost: 1}},
		{"something nobody asked for", []uint64{3, 4, 5, 6, 9, 12}, verdict{unwanted: 1}},
		{"that twice", []uint64{3, 4, 4, 5, 6, 9, 12}, verdict{unwanted: 1, duplicated: 1}},
		{"something from before and after", []uint64{1, 2, 3, 5, 6, 9, 12, 13}, verdict{}},
	} {
		for _, others := range []string{"nobody", "a good reader before", "a good reader after", "a reader who lost 5 and 12 before"} {
			t.Run(c.name+" beside "+others, func(t *testing.T) {
				var l ledger
				var good, bad, tr track
				if others == "a good reader before" {
					l.takeAll(&good, truth)
				} else if others == "a reader who lost 5 and 12 before" {
					l.takeAll(&bad, []uint64{3, 6, 9})
				}
				l.takeAll(&tr, c.gets)
				if others == "a good reader after" {
					l.takeAll(&good, truth)
				}
				c.want.expected = 5
				a := newAudit(&l, truth, 2, 12)
				if got := a.judge(&tr); got != c.want {
					t.Errorf("got %+v, want %+v", got, c.want)
				}
				if got := a.judge(&good); good.begun && got != (verdict{expected: 5}) {
					t.Errorf("the good reader: got %+v", got)
				}
				if got := a.judge(&bad); bad.begun && got != (verdict{expected: 5, lost: 2}) {
					t.Errorf("the other reader: got %+v", got)
				}
			})
		}
	}
}

func (l *ledger) takeAll(t *track, seqs []uint64) {
	for _, s := range seqs {
		l.take(t, s)
	}
}

// Readers of one ledger that get anything in any order are judged as a map would.
func TestReadersAreJudgedAsAMapWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truth := slices.Compact(slices.Sorted(slices.Values(rapid.SliceOfN(rapid.Uint64Range(10, 40), 0, 25).Draw(t, "truth"))))
		var l ledger
		tracks := make([]track, rapid.IntRange(1, 4).Draw(t, "readers"))
		got := make([][]uint64, len(tracks))
		for range rapid.IntRange(0, 120).Draw(t, "deliveries") {
			i := rapid.IntRange(0, len(tracks)-1).Draw(t, "reader")
			seq := rapid.Uint64Range(8, 42).Draw(t, "seq")
			if n := len(got[i]); n > 0 && rapid.IntRange(0, 3).Draw(t, "order") > 0 {
				seq = got[i][n-1] + 1
			}
			l.take(&tracks[i], seq)
			got[i] = append(got[i], seq)
		}
		a := newAudit(&l, truth, 9, 40)
		for i := range tracks {
			if got, want := a.judge(&tracks[i]), judgedByMap(truth, got[i], 9, 40); got != want {
				t.Errorf("reader %d: got %+v, want %+v", i, got, want)
			}
		}
	})
}

func judgedByMap(truth, got []uint64, from, to uint64) verdict {
	v := verdict{expected: uint64(len(truth)), lost: uint64(len(truth))}
	seen, highest := map[uint64]bool{}, uint64(0)
	for _, seq := range got {
		switch {
		case seen[seq]:
			v.duplicated++
			continue
		case seq < highest:
			v.reordered++
		}
		seen[seq], highest = true, max(highest, seq)
		if slices.Contains(truth, seq) {
			v.lost--
		} else if seq > from && seq <= to {
			v.unwanted++
		}
	}
	return v
}

func TestAQuantileIsAtMostThreePercentTooLong(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var list []time.Duration
	for range 5000 {
		d := time.Duration(r.ExpFloat64() * float64(20*time.Millisecond)).Truncate(time.Microsecond)
		h.record(d)
		list = append(list, d)
	}
	slices.Sort(list)
	for _, q := range []float64{0, 0.5, 0.99, 0.999} {
		want := list[int(q*float64(len(list)))]
		if got := h.quantile(q); got < want || float64(got) > float64(want)*1.032+1000 {
			t.Errorf("quantile %v: got %v, want %v to 3 %% more", q, got, want)
		}
	}
	if h.quantile(1) != h.max || h.max != list[len(list)-1] {
		t.Errorf("longest: got %v and %v, want %v", h.quantile(1), h.max, list[len(list)-1])
	}
	h.record(1000 * time.Hour) // must not fall outside
	for i := range len(h.counts) - 1 {
		if got := bucketOf(bucketEnd(i)); got != i {
			t.Fatalf("the end of bucket %d falls into %d", i, got)
		}
		if got := bucketOf(bucketEnd(i) + time.Microsecond); got != i+1 {
			t.Fatalf("after the end of bucket %d comes %d", i, got)
		}
	}
}

func TestAPlanSaysWhoGetsWhichNotice(t *testing.T) {
	for _, f := range AllFilters {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			o, err := Options{Hub: "http://127.0.0.1:1", Filters: f, Connections: 300, Stalled: 10}.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			p := newPlan(&o)
			stalled := 0
			want := make([]int64, len(p.pages))
			for i, s := range p.seats {
				if s.stalled {
					stalled++
					continue
				}
				name, value := wish(f, i)
				for j := range p.pages {
					uri := p.pages[j].uri
					if name == "" || value == map[string]string{"uri": uri, "host": pageHost(j), "prefix": pageFolder(j)}[name] {
						want[j]++
					}
				}
			}
			if stalled != 30 {
				t.Errorf("%d stalled, want a tenth of 300", stalled)
			}
			for j := range p.pages {
				if got := p.pages[j].fanout; got != want[j] {
					t.Fatalf("page %d reaches %d, want %d", j, got, want[j])
				}
			}
		})
	}
}
