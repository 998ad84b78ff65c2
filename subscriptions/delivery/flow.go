package delivery

import (
	"slices"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxRetries bounds the rows of an outlet, those that are held among them: with so
	// many its other side fails as a whole, and the cursor stands still instead.
	maxRetries = 1000
	// maxDead bounds the dead letters of an outlet: with so many its rules are wrong,
	// and it stands still until somebody looks, for none is dropped.
	maxDead = 10_000
	// maxBatches bounds how much of the journal is open in one lane, in cuts: with the
	// fewest pieces in each, what is called within slowAfter at 10,000 a second.
	maxBatches = 256
	// leastRoom and mostRoom bound how many pieces are cut ahead.
	leastRoom, mostRoom = 64, 1024
	// brokenAfter is how many first calls in a row fail before an outlet is called one at
	// a time and ever more seldom. Further tries do not count: that a few things are never
	// taken says nothing of the others.
	brokenAfter = 5
	// leastRest bounds, before jitter, how soon what was given up is tried again without
	// news: who has a short schedule does not want a steady one.
	leastRest = time.Hour
	// bulkTurn is how often the bulk lane comes first while both wait: a tenth.
	bulkTurn = 10
)

// brokenSteps are how long an outlet whose calls all fail is left alone.
var brokenSteps = Schedule{Steps: []time.Duration{5 * time.Second, 15 * time.Second, time.Minute, 3 * time.Minute, 10 * time.Minute}}

// An outlet is one that is attached: where it is, and what it has to do.
type outlet struct {
	name     string
	do       Outlet
	settings Settings
	host     *host

	lanes   [2]lane
	turn    int               // calls since the bulk lane was first
	keys    map[subject]*item // those that are not settled
	open    map[string]map[*item]struct{}
	dead    map[string]map[string]letter // dead letters that others wait for, by bucket and id
	held    map[string][]*item           // by bucket
	retries []*item                      // by due
	stuck   *item                        // of a serial outlet: what is called, until it was taken or given up
	rows    int                          // of them and of the held, on disk, …
	revived int                          // … beside those that were dead letters
	letters map[string]struct{}          // ids of the dead ones
	version int                          // counts replays

	before   *outlet // of the same name, whose calls are to end first
	unborn   bool    // it is new, and not on disk yet
	calls    int
	failures int       // in a row
	doubts   int       // those of them that say something of the outlet: see brokenAfter
	until    time.Time // it is left alone
	rests    bool      // until then, or until there is news: what it was to have was given up
	tokens   float64
	filled   time.Time // when tokens was right

	paused, gone, cutting, queued bool

	due   time.Time // in the heap
	timed int       // its place there, from 1
	seen  progress
}

// A lane is how far an outlet is with notices of one lane.
type lane struct {
	cursor  uint64 // all up to it is settled or has a row
	read    uint64 // and all up to this is cut
	news    uint64 // counts what may be new …
	had     uint64 // … and what of it was there when everything had been cut
	batches queue[*batch]
	waiting queue[*item]
	stalled bool // until somebody it is behind has read on
}

func (l *lane) start(at uint64) { *l = lane{cursor: at, read: at, news: l.news + 1, had: l.had} }

// giveUp has what was cut cut again, when there is more to say.
func (l *lane) giveUp() {
	l.news++ // it still waits: nobody passes it as idle
	l.read, l.batches, l.waiting = l.cursor, queue[*batch]{}, queue[*item]{}
}

// waits reports whether there is something to call, unless it has to wait for others.
func (l *lane) waits() bool { return !l.stalled && l.waiting.len() > 0 }

// A subject is what pieces of one lane are about. Lanes are told apart, for what is old
// in one of them may come after what is new in the other.
type subject struct {
	lane graph.Lane
	key  string
}

func (p *Piece) subject() subject { return subject{p.Lane, p.Key} }

// A batch is one cut that is not settled.
type batch struct {
	until uint64
	cut   time.Time
	left  int // pieces
}

// An item is a piece on its way.
type item struct {
	piece   Piece
	attempt int // made so far
	due     time.Time
	first   time.Time // when it was cut
	batches []*batch  // that it is part of; none when it has a row
	row     string    // its id there
	calling bool
	revived bool  // it stands for dead letters
	dropped bool  // another one stands for it
	next    *item // of the same key, to be called after this one
}

func (e *Engine) newOutlet(name string, o Outlet, s Settings, was *rest) *outlet {
	out := &outlet{name: name, do: o, settings: s, host: e.host(s.Host), filled: e.o.Clock(), tokens: max(1, s.Rate)}
	out.host.users++
	if !s.Serial { // an operator says how many its own hosts bear
		out.host.most = max(out.host.most, s.Concurrency)
	}
	out.before = e.leaving[name]
	for _, prev := range s.Behind {
		if e.behind[prev] == nil {
			e.behind[prev] = map[*outlet]struct{}{}
		}
		e.behind[prev][out] = struct{}{}
	}
	if was == nil {
		return out
	}
	for i, c := range was.Cursors {
		if s.Head == nil { // else its cuts say whether its log has begun anew
			c = min(c, e.o.Head().Seq)
		}
		out.lanes[i].start(c)
	}
	out.paused, out.failures, out.doubts, out.until, out.seen = was.Paused, was.Failures, was.Doubts, was.Until, was.Seen
	out.letters = was.letters
	out.dead = was.dead
	if was.Stuck != nil && s.Serial {
		it := was.Stuck.item()
		out.stuck = it
		out.addRetry(it)
		l := &out.lanes[it.piece.Lane]
		b := &batch{until: it.piece.Until, cut: it.first, left: 1}
		it.batches = []*batch{b}
		l.batches.push(b)
		l.read = it.piece.Until
	}
	for _, saved := range was.retries {
		it := saved.item()
		out.countRow(it, 1)
		out.remember(it)
		if saved.Held {
			out.lanes[it.piece.Lane].waiting.push(it)
		} else {
			out.addRetry(it)
		}
	}
	return out
}

// news has both lanes looked at, also by who rests.
func (out *outlet) news() {
	if out.rests {
		out.rests, out.until = false, time.Time{}
	}
	for i := range out.lanes {
		out.lanes[i].news++
	}
}

// room is how many pieces are cut ahead.
func (out *outlet) room() int {
	if out.settings.Serial {
		return 1
	}
	return min(max(leastRoom, 4*out.settings.Concurrency), mostRoom)
}

// wantsCut reports whether the journal is to be read for it.
func (out *outlet) wantsCut() bool {
	return slices.ContainsFunc(out.lanes[:], out.laneWantsCut)
}

func (out *outlet) laneWantsCut(l lane) bool {
	if l.news == l.had || out.rests || out.rows >= maxRetries || len(out.letters) >= maxDead {
		return false
	}
	if out.settings.Serial {
		return !out.busy()
	}
	return l.waiting.len() <= out.room()/2 && l.batches.len() < maxBatches
}

// busy reports whether an outlet has anything cut.
func (out *outlet) busy() bool {
	return out.calls > 0 || len(out.retries) > 0 || len(out.held) > 0 ||
		slices.ContainsFunc(out.lanes[:], func(l lane) bool { return l.batches.len() > 0 || l.waiting.len() > 0 })
}

func (out *outlet) waits() bool {
	return out.lanes[graph.Prompt].waits() || out.lanes[graph.Bulk].waits()
}

func (out *outlet) broken() bool { return !out.settings.Serial && out.doubts >= brokenAfter }

// allowed is how many calls it may have.
func (out *outlet) allowed() int {
	switch {
	case out.before != nil || out.unborn:
		return 0
	case out.broken():
		return 1
	}
	return out.settings.Concurrency
}

// mayCall reports whether it is time for a call, or when it is.
func (out *outlet) mayCall(now time.Time) (at time.Time, ok bool) {
	if out.until.After(now) {
		return out.until, false
	}
	rate := out.settings.Rate
	if rate <= 0 {
		return now, true
	}
	if passed := now.Sub(out.filled).Seconds(); passed > 0 {
		out.tokens = min(max(1, rate), out.tokens+passed*rate)
	}
	out.filled = now
	if out.tokens >= 1 {
		return now, true
	}
	return now.Add(time.Duration((1-out.tokens)/rate*float64(time.Second)) + time.Microsecond), false
}

func (out *outlet) spend() {
	if out.settings.Rate > 0 {
		out.tokens--
	}
}

// countRow counts the row of an item. Those that stand for dead letters count apart:
// whoever has many called again, a few a second, does so beside what is new.
func (out *outlet) countRow(it *item, n int) {
	if it.revived {
		out.revived += n
	} else {
		out.rows += n
	}
}

// addRetry has it wait until it is due.
func (out *outlet) addRetry(it *item) {
	i, _ := slices.BinarySearchFunc(out.retries, it, func(a, b *item) int { return a.due.Compare(b.due) })
	out.retries = slices.Insert(out.retries, i, it)
	out.remember(it)
}

// takeDue has those wait for a call that are due.
func (out *outlet) takeDue(now time.Time) {
	n, _ := slices.BinarySearchFunc(out.retries, now, func(it *item, now time.Time) int {
		if it.due.After(now) {
			return 1
		}
		return -1
	})
	for _, it := range slices.Backward(out.retries[:n]) {
		out.lanes[it.piece.Lane].waiting.pushFront(it)
	}
	out.retries = slices.Delete(out.retries, 0, n)
}

// nextDue is when the next retry is.
func (out *outlet) nextDue() (at time.Time, ok bool) {
	if len(out.retries) == 0 {
		return at, false
	}
	return out.retries[0].due, true
}

// remember makes it known by its key and bucket.
func (out *outlet) remember(it *item) {
	p := &it.piece
	if p.Key != "" {
		if out.keys == nil {
			out.keys = map[subject]*item{}
		}
		out.keys[p.subject()] = it
	}
	out.rememberBucket(it)
}

func (out *outlet) rememberBucket(it *item) {
	if p := &it.piece; p.Bucket != "" {
		if out.open == nil {
			out.open = map[string]map[*item]struct{}{}
		}
		if out.open[p.Bucket] == nil {
			out.open[p.Bucket] = map[*item]struct{}{}
		}
		out.open[p.Bucket][it] = struct{}{}
	}
}

// forget undoes remember.
func (out *outlet) forget(it *item) {
	p := &it.piece
	if out.keys[p.subject()] == it {
		delete(out.keys, p.subject())
	}
	if m := out.open[p.Bucket]; m != nil {
		delete(m, it)
		if len(m) == 0 {
			delete(out.open, p.Bucket)
		}
	}
}

// settled ends an item that needs nothing any more.
func (out *outlet) settled(it *item) {
	if out.stuck == it {
		out.stuck = nil
	}
	out.forget(it)
	out.finish(it)
}

// finish counts it as settled, or written down, in the cuts that it is part of.
func (out *outlet) finish(it *item) {
	for _, b := range it.batches {
		b.left--
	}
	it.batches = nil
	for i := range out.lanes {
		out.lanes[i].pass()
	}
}

// pass moves the cursor over what is settled.
func (l *lane) pass() {
	for l.batches.len() > 0 && l.batches.items[l.batches.first].left == 0 {
		l.cursor = l.batches.pop().until
	}
}

// resume has everything tried at once.
func (out *outlet) resume() {
	out.paused, out.failures, out.doubts, out.until = false, 0, 0, time.Time{}
	for _, it := range out.retries {
		it.due = time.Time{}
	}
	out.news()
}

// replay begins again at a position. What has a row keeps it, and a call in flight stays
// what others wait for.
func (out *outlet) replay(at uint64) {
	out.version++
	out.stuck = nil
	retries := slices.DeleteFunc(out.retries, func(it *item) bool { return it.row == "" })
	var waiting, calling []*item
	for _, it := range out.keys {
		if it.calling {
			calling = append(calling, it)
		}
	}
	for _, items := range out.open {
		for it := range items {
			if it.calling && it.piece.Key == "" {
				calling = append(calling, it)
			}
		}
	}
	for _, list := range out.held {
		for _, it := range list {
			if it.row != "" {
				waiting = append(waiting, it)
			}
		}
	}
	out.retries, out.keys, out.open, out.held = nil, nil, nil, nil
	for i := range out.lanes {
		for q := &out.lanes[i].waiting; q.len() > 0; {
			if it := q.pop(); it.row != "" && !it.dropped {
				waiting = append(waiting, it)
			}
		}
		out.lanes[i].start(at)
	}
	for _, it := range append(retries, waiting...) {
		out.addRetry(it)
	}
	for _, it := range calling {
		out.remember(it)
		switch next := it.next; {
		case next == nil:
		case next.row == "":
			it.next = nil // it is cut again
		default:
			out.rememberBucket(next)
		}
	}
}
