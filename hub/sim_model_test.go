package hub

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// A simBatch is what a publisher sends at once, the same as often as it takes.
type simBatch struct {
	letters []simLetter
	header  map[string]string
	body    []byte
	since   uint64
	applied bool // the hub was seen to have taken it
}

// A simPublisher sends what was posted to it in order, and again what was not
// answered.
type simPublisher struct {
	queue   []simLetter
	batch   *simBatch // being sent
	unknown bool      // it may have been taken
	call    *call     // nil if it waits to be sent again
}

// send posts a letter to the publisher of its thing.
func (s *sim) send(l simLetter) {
	s.ids++
	l.ID = strconv.Itoa(s.ids)
	p := s.publishers[l.x%len(s.publishers)]
	p.queue = append(p.queue, l)
	s.note("%s %s version %q hash %q at %s token %s seen %v, id %s", l.Action, l.URI, l.Version, l.Hash, l.At.Format("15:04:05.000"), l.Token, l.madeOf, l.ID)
}

// pack makes a batch of some letters in one of the forms that the hub reads.
func (s *sim) pack(letters []simLetter) *simBatch {
	form, zipped := s.rng.IntN(3), s.rng.IntN(4) == 0
	b := &simBatch{letters: letters, since: s.at.Seq}
	b.header, b.body = packed(letters, form, zipped)
	return b
}

// packed writes letters as NDJSON, or, for an odd form, as an array.
func packed(letters []simLetter, form int, zipped bool) (header map[string]string, body []byte) {
	header = map[string]string{"Content-Type": typeNDJSON}
	array := form == 1
	for i := range letters {
		switch {
		case array && i == 0:
			body = append(body, '[')
		case array:
			body = append(body, ',')
		}
		body = append(AppendUpdate(body, letters[i].Update), '\n')
	}
	if array {
		header["Content-Type"], body = typeJSON, append(body, ']')
	}
	if zipped {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(body)
		w.Close()
		header["Content-Encoding"], body = "gzip", z.Bytes()
	}
	return header, body
}

// publish has a publisher send what it holds, if it does not yet.
func (s *sim) publish(p *simPublisher) {
	if p.call != nil || p.batch == nil && len(p.queue) == 0 {
		return
	}
	if p.batch == nil {
		n := 1 + s.rng.IntN(min(4, len(p.queue)))
		p.batch = s.pack(p.queue[:n:n])
		p.queue = p.queue[n:]
	}
	c := &call{method: "POST", path: "/v1/updates", header: p.batch.header, body: p.batch.body}
	if s.plan.lossy && !s.calm && s.rng.IntN(2) == 0 {
		c.fate = fate(s.rng.IntN(int(fates)))
		c.at, c.pause = 1+s.rng.IntN(300), time.Duration(s.rng.IntN(2000))*time.Millisecond
		if c.fate == breaksOff && s.rng.IntN(2) == 0 {
			c.at = 1 << 20 // but for its last byte
		}
		s.counts[c.fate.String()]++
	}
	s.note("publisher %d sends %s of %d, which %s", p.batch.letters[0].x%len(s.publishers), p.batch.letters[0].ID, len(p.batch.letters), c.fate)
	p.call = s.net.start(c)
	synctest.Wait() // it is there before the next begins
}

// collect looks at what became of a request, and reports whether none is under way.
func (s *sim) collect(p *simPublisher) (free bool) {
	c := p.call
	if c == nil {
		return true
	}
	if !c.over() {
		return false
	}
	p.call = nil
	broken := s.disk.broken.Load() != nothingBroken
	switch {
	case c.status == 0:
		p.unknown = p.unknown || c.fate != breaksOff
		s.note("no answer to %s", p.batch.letters[0].ID)
		return true
	case c.status == 503 || c.status == 500 && broken:
		p.unknown = true
		return true
	case c.status != 200 || broken:
		s.failf("a batch is answered %d %s (broken disk: %t): %s", c.status, c.answer, broken, c.body)
	}
	var got resultShape
	if err := json.Unmarshal(c.answer, &got); err != nil {
		s.failf("a batch is answered %s: %v", c.answer, err)
	}
	s.note("answer to %s: %s", p.batch.letters[0].ID, c.answer)
	s.answered(p, got)
	return true
}

// answered holds an answer against what the batch must have done.
func (s *sim) answered(p *simPublisher, got resultShape) {
	n, outdated := len(p.batch.letters), 0
	switch {
	case got.Accepted != n || got.Duplicates != 0 && got.Duplicates != n:
		s.failf("of %d updates %+v", n, got)
	case p.batch.applied && got.Duplicates != n:
		s.failf("updates that were taken before are no duplicates: %+v", got)
	case !p.batch.applied && !p.unknown && got.Duplicates != 0:
		s.failf("updates that were never sent whole are duplicates: %+v", got)
	}
	if !p.batch.applied {
		outdated = s.accept(p.batch)
		if got.Duplicates == 0 && got.Outdated != outdated {
			s.failf("%d of %d updates are outdated: %+v", outdated, n, got)
		}
	}
	c, err := graph.ParseCursor(got.Cursor)
	if err != nil || c.Epoch != s.at.Epoch || c.Seq < p.batch.since {
		s.failf("a batch that was sent after %d is answered with the position %s", p.batch.since, got.Cursor)
	}
	p.batch.applied = true
	s.arrived = append(s.arrived, p.batch)
	p.batch, p.unknown = nil, false
}

// accept makes what a batch says the view of its things.
func (s *sim) accept(b *simBatch) (outdated int) {
	views, outdated := s.views(b)
	for x, v := range views {
		s.things[x].view = v
	}
	return outdated
}

// views are those of the things of a batch once it has been applied.
func (s *sim) views(b *simBatch) (views map[int]hubView, outdated int) {
	views = map[int]hubView{}
	for i := range b.letters {
		l := &b.letters[i]
		v, ok := views[l.x]
		if !ok {
			v = s.things[l.x].view
		}
		v, late := v.after(l, s.things[l.x].kind)
		if late {
			outdated++
		} else {
			v.since = b.since
		}
		views[l.x] = v
	}
	return views, outdated
}

// resend delivers a batch once more that was answered before: it changes nothing.
func (s *sim) resend(b *simBatch) {
	c := s.net.start(&call{method: "POST", path: "/v1/updates", header: b.header, body: b.body})
	<-c.done
	var got resultShape
	if err := json.Unmarshal(c.answer, &got); c.status != 200 || err != nil || got.Duplicates != len(b.letters) || got.Changed != 0 {
		s.failf("a batch that was answered before is answered %d %s", c.status, c.answer)
	}
	s.counts["sent again"]++
}

// statuses is what the hub says of all things at one moment. Of those that it
// cannot have heard of it is asked only now and then.
func (s *sim) statuses() []statusShape {
	all, now := s.rng.IntN(8) == 0, make([]statusShape, len(s.things))
	var uris []string
	var asked []int
	for x, t := range s.things {
		now[x] = statusShape{URI: t.uri, State: "stub"}
		if all || t.view.heard || s.pending(x) {
			uris, asked = append(uris, t.uri), append(asked, x)
		}
	}
	body, _ := json.Marshal(map[string][]string{"uris": append([]string{}, uris...)})
	var out struct{ Resources []statusShape }
	status, answer := s.look("POST", "/v1/status", string(body), typeJSON)
	s.read("the states", status, answer, &out)
	for i, st := range out.Resources {
		now[asked[i]] = st
	}
	return now
}

func (v *hubView) agrees(st *statusShape) bool {
	return v.known == st.Known && v.version == st.Version && v.hash == st.Hash
}

// check holds what the hub says against the model; nothing is under way.
func (s *sim) check() {
	now := s.statuses()
	for _, p := range s.publishers {
		s.resolve(p, now)
	}
	for x, t := range s.things {
		if !s.pending(x) && !t.view.agrees(&now[x]) {
			s.failf("%s is %+v, and the model says %+v", t.uri, now[x], t.view)
		}
	}
	s.checkStates(now)
	s.checkEdges(s.rng.IntN(len(s.things)))
	s.checkResource(s.rng.IntN(len(s.things)), now)
	if s.rng.IntN(4) == 0 {
		s.checkFreeEdges()
		s.checkReaders(false)
	}
}

// pending reports whether it is not known if x has been changed.
func (s *sim) pending(x int) bool {
	p := s.publishers[x%len(s.publishers)]
	return p.unknown && !p.batch.applied && slices.ContainsFunc(p.batch.letters, func(l simLetter) bool { return l.x == x })
}

// resolve finds out what became of a batch that was not answered: it was applied
// whole or not at all.
func (s *sim) resolve(p *simPublisher, now []statusShape) {
	if !p.unknown || p.batch.applied {
		return
	}
	taken, left := "", ""
	views, _ := s.views(p.batch)
	for x, v := range views {
		before := s.things[x].view.agrees(&now[x])
		after := v.agrees(&now[x])
		switch t := s.things[x]; {
		case !before && !after:
			s.failf("%s is %+v, neither as before a batch was sent (%+v) nor as after (%+v)", t.uri, now[x], t.view, v)
		case !before:
			taken = t.uri
		case !after:
			left = t.uri
		}
	}
	switch {
	case taken != "" && left != "":
		s.failf("a batch was taken in part: %s is as after it, %s as before", taken, left)
	case taken != "":
		s.accept(p.batch)
		p.batch.applied = true
		s.note("%s was taken", p.batch.letters[0].ID)
	case left != "":
		p.unknown = false
		s.note("%s was not taken", p.batch.letters[0].ID)
	}
}

func unsettled(st *statusShape) bool {
	return !st.Failed && (st.State == "dirty" || st.State == "ready" || st.State == "pending")
}

// checkStates holds the states against each other and against what was told.
func (s *sim) checkStates(now []statusShape) {
	for x, t := range s.things {
		if st := &now[x]; s.pending(x) || st.Failed {
			continue
		} else if !st.Known != (st.State == "stub") {
			s.failf("%s is %+v", t.uri, *st)
		}
		switch now[x].State {
		case "stub", "clean":
			if t.kind == rendering && !now[x].Stale {
				s.checkClean(x)
			}
		case "dirty":
			if !slices.ContainsFunc(slices.Collect(maps.Keys(t.view.madeOf)), func(y int) bool { return unsettled(&now[y]) }) {
				s.failf("%s waits for nobody: %+v, made of %v", t.uri, now[x], t.view.madeOf)
			}
		case "ready":
			if s.told[t.uri] > t.view.since {
				break
			}
			if r := s.resource(t.uri); r.NoticeDue.IsZero() {
				s.failf("%s is ready since position %d, nobody was told and nobody will be: %+v", t.uri, t.view.since, r)
			}
		default:
			s.failf("%s is %+v", t.uri, now[x])
		}
	}
}

// checkClean: who was made from what a primary was before the hub last heard of
// it is stale.
func (s *sim) checkClean(d int) {
	for x, had := range s.things[d].view.madeOf {
		has := s.things[x].view.told
		if t := s.things[x]; t.kind != rendering && !s.pending(x) && has.change > had.change && has.content != had.content {
			s.failf("%s is not stale, but was made from %q of %s, and the hub has heard of %q", s.things[d].uri, had.content, t.uri, has.content)
		}
	}
}

// checkResource holds one resource against the journal.
func (s *sim) checkResource(x int, now []statusShape) {
	uri := s.things[x].uri
	seq, ok := s.changed[uri]
	if !ok {
		return
	}
	r := s.resource(uri)
	if want := (graph.Cursor{Epoch: s.at.Epoch, Seq: seq}).String(); r.Changed != want || r.statusShape != now[x] {
		s.failf("%s changed at %s, and the journal says %s; it is %+v and %+v", uri, r.Changed, want, r.statusShape, now[x])
	}
}

// listed lists one end of all edges of a resource; it may not be known.
func (s *sim) listed(what, uri string) []string {
	status, answer := s.look("GET", "/v1/"+what+"?uri="+url.QueryEscape(uri), "", typeNDJSON)
	if status == 404 {
		return nil
	}
	if status != 200 {
		s.failf("%s of %s: %d %s", what, uri, status, answer)
	}
	var uris []string
	for line := range bytes.Lines(answer) {
		var it itemShape
		if err := json.Unmarshal(line, &it); err != nil {
			s.failf("%s of %s: %q: %v", what, uri, line, err)
		}
		uris = append(uris, it.URI)
	}
	slices.Sort(uris)
	return uris
}

// checkEdges holds both ends of the edges of x against the model.
func (s *sim) checkEdges(x int) {
	if slices.ContainsFunc(s.publishers, func(p *simPublisher) bool { return p.unknown && !p.batch.applied }) {
		return
	}
	t := s.things[x]
	var want []string
	for y := range t.view.madeOf {
		want = append(want, s.things[y].uri)
	}
	slices.Sort(want)
	if got := s.listed("dependencies", t.uri); !slices.Equal(got, want) {
		s.failf("%s depends on %v, and the model says %v", t.uri, got, want)
	}
	want = nil
	for _, d := range s.things {
		if _, ok := d.view.madeOf[x]; ok {
			want = append(want, d.uri)
		}
	}
	for uri, deps := range s.edges {
		if slices.Contains(deps, t.uri) {
			want = append(want, uri)
		}
	}
	slices.Sort(want)
	if got := s.listed("dependents", t.uri); !slices.Equal(got, want) {
		s.failf("dependents of %s are %v, and the model says %v", t.uri, got, want)
	}
}

// checkFreeEdges holds the edges of those who have no producer against the model.
func (s *sim) checkFreeEdges() {
	for uri, deps := range s.edges {
		if got := s.listed("dependencies", uri); !slices.Equal(got, deps) {
			s.failf("%s depends on %v, and the model says %v", uri, got, deps)
		}
	}
}

// editEdges changes the edges of a resource that has no producer.
func (s *sim) editEdges() {
	uri := slices.Sorted(maps.Keys(s.hidden))[s.rng.IntN(len(s.hidden))]
	deps := slices.Clone(s.edges[uri])
	target := s.things[s.rng.IntN(len(s.things))].uri
	if s.rng.IntN(4) == 0 {
		target = "ticker:PT7M"
	}
	var e struct {
		URI    string   `json:"uri"`
		Add    []string `json:"add,omitempty"`
		Remove []string `json:"remove,omitempty"`
	}
	e.URI = uri
	if i := slices.Index(deps, target); i >= 0 {
		e.Remove, deps = []string{target}, slices.Delete(deps, i, i+1)
	} else {
		e.Add, deps = []string{target}, append(deps, target)
	}
	slices.Sort(deps)
	body, _ := json.Marshal(e)
	s.note("edges %s", body)
	var c cursorShape
	if s.plan.breaks && !s.calm && s.rng.IntN(12) == 0 {
		var failed *call
		s.breakDisk(func() { failed = s.ask("PATCH", "/v1/dependencies", string(body)) })
		if failed.status/100 == 2 {
			s.failf("on a broken disk edges are answered %d %s", failed.status, failed.answer)
		}
		got := s.listed("dependencies", uri)
		if slices.Equal(got, deps) || slices.Equal(got, s.edges[uri]) {
			s.edges[uri] = got
			return
		}
		s.failf("%s depends on %v, neither as before (%v) nor as after (%v)", uri, got, s.edges[uri], deps)
	}
	s.asked("PATCH", "/v1/dependencies", string(body), &c)
	s.edges[uri] = deps
}

// atRest: everybody is clean, and made from what the world says.
func (s *sim) atRest() (trouble string) {
	now := s.statuses()
	for x, t := range s.things {
		switch {
		case t.kind != rendering || t.gone:
		case s.staleBecause(x) != "":
			return fmt.Sprintf("lost refresh: %s is %s, but %s", t.uri, now[x].State, s.staleBecause(x))
		case now[x].State != "clean" || now[x].Stale:
			return fmt.Sprintf("%s is %+v", t.uri, now[x])
		}
	}
	return ""
}
