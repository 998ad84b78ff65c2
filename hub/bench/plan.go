package bench

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

const (
	// planHosts and planSections are how many hosts the pages lie on, and how many
	// folders each of those has.
	planHosts    = 10
	planSections = 10
	// fewestPages is how many URIs are published at least: the next update of one
	// then comes some time after the last.
	fewestPages = 1000
	// readersPerAddr stays below the 256 streams that a hub grants one address.
	readersPerAddr = 200
)

// A page is one URI that updates are published of. Its index tells which host and
// folder it lies in.
type page struct {
	uri     string
	line    []byte  // an update of it, up to the version
	version int64   // the last one published; a time in nanoseconds
	classes []int32 // whose readers get its notices
	fanout  int64   // how many readers those are, stalled ones left out
}

// A class is all readers with the same filter.
type class struct {
	query   url.Values
	readers int64 // stalled ones left out
}

// A seat is what one reader will be.
type seat struct {
	class   int32
	stalled bool
}

// A plan says what is published and who reads what.
type plan struct {
	pages    []page
	classes  []class
	everyone int32 // the class without a filter, which may have no readers
	seats    []seat
	byURI    map[string]int32
}

func newPlan(o *Options) *plan {
	p := &plan{byURI: map[string]int32{}}
	count := max(o.Connections, fewestPages)
	if o.Filters == FilterSparse {
		count = o.Connections // so that each notice reaches somebody
	}
	known := map[string]int32{}
	for i := range count {
		uri := pageURI(i)
		p.byURI[uri] = int32(i)
		p.pages = append(p.pages, page{uri: uri, line: []byte(`{"uri":` + strconv.Quote(uri) + `,"version":"`)})
	}
	p.everyone = p.class(known, "", "")
	for i := range o.Connections {
		name, value := wish(o.Filters, i)
		s := seat{p.class(known, name, value), isStalled(i, o.Stalled)}
		p.seats = append(p.seats, s)
		if !s.stalled {
			p.classes[s.class].readers++
		}
	}
	for i := range p.pages {
		pg := &p.pages[i]
		for _, w := range [][2]string{{"", ""}, {"host", pageHost(i)}, {"prefix", pageFolder(i)}, {"uri", pg.uri}} {
			if c, used := known[w[0]+w[1]]; used {
				pg.classes = append(pg.classes, c)
				pg.fanout += p.classes[c].readers
			}
		}
	}
	return p
}

// class returns the class of those who ask for this, made if there is none.
func (p *plan) class(known map[string]int32, name, value string) int32 {
	c, ok := known[name+value]
	if !ok {
		c = int32(len(p.classes))
		known[name+value] = c
		query := url.Values{}
		if name != "" {
			query.Set(name, value)
		}
		p.classes = append(p.classes, class{query: query})
	}
	return c
}

func pageHost(i int) string { return fmt.Sprintf("%d.bench", i%planHosts) }
func pageFolder(i int) string {
	return fmt.Sprintf("http://%s/%d", pageHost(i), i/planHosts%planSections)
}
func pageURI(i int) string { return fmt.Sprintf("%s/%d", pageFolder(i), i) }

// wish is the parameter by which reader i says what it wants.
func wish(f Filters, i int) (name, value string) {
	switch f {
	case FilterSparse:
		return "uri", pageURI(i)
	case FilterHost:
		return "host", pageHost(i)
	case FilterMix:
		switch tenth := i % 10; {
		case tenth == 0:
			return "", ""
		case tenth <= 2:
			return "host", pageHost(i / 10)
		case tenth <= 4:
			return "prefix", pageFolder(i / 10)
		}
		return "uri", pageURI(i)
	}
	return "", ""
}

// isStalled spreads the share of stalled readers evenly over all.
func isStalled(i int, percent float64) bool {
	return int(float64(i+1)*percent/100) > int(float64(i)*percent/100)
}

// meanFanout is how many readers get a notice on average.
func (p *plan) meanFanout() float64 {
	sum := int64(0)
	for i := range p.pages {
		sum += p.pages[i].fanout
	}
	return float64(sum) / float64(len(p.pages))
}

// target is what a reader of this class asks for, path and query.
func (p *plan) target(c int32, o *Options, since string) string {
	q := url.Values{}
	for name, values := range p.classes[c].query {
		q[name] = values
	}
	if o.Linger > 0 {
		q.Set("linger", o.Linger.String())
	}
	if since != "" {
		q.Set("since", since)
	}
	if len(q) == 0 {
		return "/v1/stream"
	}
	return "/v1/stream?" + q.Encode()
}

// sourceOf is the address that reader i comes from when the hub is on loopback:
// 127.0.0.2 and up, so that none has more streams than a hub grants. Elsewhere it
// is the zero Addr, and the system chooses.
func sourceOf(hub netip.Addr, i int) netip.Addr {
	if !hub.Is4() || !hub.IsLoopback() {
		return netip.Addr{}
	}
	n := i/readersPerAddr + 2
	return netip.AddrFrom4([4]byte{127, byte(n >> 16), byte(n >> 8), byte(n)})
}

// rateOf is count in d, a second.
func rateOf(count uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(count) / d.Seconds()
}
