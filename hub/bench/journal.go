package bench

import "sync"

// A journal is what one reader without a filter saw: the order in which the hub
// wrote what was published, and what others published meanwhile.
type journal struct {
	byURI map[string]int32 // the pages; not changed any more

	mu      sync.Mutex
	entries []entry // by rising seq
	size    int     // of the last notice of ours on the wire, in bytes
	ours    tally
}

// An entry is one notice.
type entry struct {
	seq  uint64
	page int32 // -1 for a notice of somebody else
}

// A tally counts updates of pages, and tells two sets of the same number apart.
type tally struct {
	count uint64
	sum   uint64
}

func (t *tally) add(page int32, version int64) {
	t.count++
	t.sum += scatter(uint64(version) + uint64(page)*0x9e3779b97f4a7c15)
}

// scatter is the last step of splitmix64: sums of its results collide by chance
// only.
func scatter(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// saw notes the notice at seq, unless it came again.
func (j *journal) saw(seq uint64, data []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.entries); n > 0 && seq <= j.entries[n-1].seq {
		return
	}
	page := int32(-1)
	if uri, ok := textMember(data, uriKey); ok {
		if i, known := j.byURI[string(uri)]; known {
			page = i
			j.ours.add(i, publishedIn(data))
			j.size = len("id: 00000000.\nevent: changed\ndata: \n\n") + digits(seq) + len(data)
		}
	}
	j.entries = append(j.entries, entry{seq, page})
}

func digits(n uint64) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// published returns what of ours was seen, and how long the last was.
func (j *journal) published() (t tally, size int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ours, j.size
}

// truths returns for each class of p what its readers should get after from, and
// with which position that ends. from itself is where all of them stand.
func (j *journal) truths(p *plan, from uint64) (byClass [][]uint64, to uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	byClass, to = make([][]uint64, len(p.classes)), from
	for _, e := range j.entries {
		if e.seq <= from {
			continue
		}
		to = e.seq
		if e.page < 0 {
			byClass[p.everyone] = append(byClass[p.everyone], e.seq)
			continue
		}
		for _, c := range p.pages[e.page].classes {
			byClass[c] = append(byClass[c], e.seq)
		}
	}
	return byClass, to
}
