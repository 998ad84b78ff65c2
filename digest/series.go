package digest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// stateDays is how many days of roll-ups a state lists, beside all weeks: whoever is
// further behind begins with a week.
const stateDays = 35

// A series is the digests of one channel. One goroutine makes them, and readers look at
// its head.
type series struct {
	a    *Archive
	name string
	dir  string

	plan    *plan // of the open hour; nil until it is known
	origins origins

	mu    sync.RWMutex
	born  uint64
	begun bool  // there is a plan or an hour
	head  *head // nil before the first hour has closed
	shown access
}

// access is who may read a series: whoever sees all of these.
type access struct {
	origins    []string
	everywhere bool
}

// A head is what readers see of a series. It does not change; the next one takes its
// place when something has closed.
type head struct {
	state   State
	bytes   []byte // of state.json
	open    []byte // of what strangers get as such, nil if there is nothing for them
	hours   []*closed
	rollups map[Period][]*closed
	front   map[string]*File // the mutable documents by name
	at      time.Time        // when the newest hour closed
	public  bool             // the mutable documents are for everybody if the channel is
}

// closed is a digest that is there: its manifest, without what only readers of its files
// need.
type closed struct {
	*Manifest
	folder string // below the channel's
	sum    string // SHA-256 of the manifest
	size   int64  // of its files, in bytes
}

func (a *Archive) newSeries(name string) *series {
	return &series{a: a, name: name, dir: path.Join(a.o.Dir, name)}
}

// load reads a series from its folder.
func (a *Archive) load(name string) (*series, error) {
	s := a.newSeries(name)
	if b, err := a.d.read(path.Join(s.dir, accessFile)); err == nil {
		if err := json.Unmarshal(b, &s.origins); err != nil {
			return nil, fmt.Errorf("%s: %w", accessFile, err)
		}
	}
	s.shown = access{s.origins.Origins, s.origins.Everywhere}
	if b, err := a.d.read(path.Join(s.dir, planFile)); err == nil {
		if s.plan, err = readPlan(b); err != nil {
			return nil, fmt.Errorf("%s: %w", planFile, err)
		}
		s.born, s.begun = s.plan.Born, true
	}
	b, err := a.d.read(path.Join(s.dir, stateFile))
	if err != nil {
		return s, nil // no hour has closed yet
	}
	h := &head{bytes: b, rollups: map[Period][]*closed{}}
	if err := json.Unmarshal(b, &h.state); err != nil || h.state.Version != Version {
		return nil, fmt.Errorf("%s: version %d: %w", stateFile, h.state.Version, err)
	}
	if err := s.loadHours(h); err != nil {
		return nil, err
	}
	h.open = h.forStrangers()
	if s.plan != nil && s.plan.Seq <= h.state.Seq {
		s.plan = nil // it is done
	}
	if err := s.loadFront(h); err != nil {
		return nil, err
	}
	s.head, s.begun = h, true
	return s, nil
}

// loadHours reads the manifests of what the state of h says is kept.
func (s *series) loadHours(h *head) error {
	from := h.state.From.Add(-time.Duration(h.state.Seq-h.state.FirstSeq) * time.Hour)
	for ; !from.After(h.state.From); from = from.Add(time.Hour) {
		c, err := s.read(Hour.Folder(from))
		if err != nil {
			return err
		}
		h.hours = append(h.hours, c)
	}
	for _, p := range []Period{Day, Week} {
		folders, err := s.folders(p)
		if err != nil {
			return err
		}
		for _, folder := range folders {
			c, err := s.read(folder)
			if err != nil {
				return err
			}
			// One that closed and of which the state does not know yet is listed by the next.
			if c.Seq <= h.state.Seq {
				h.rollups[p] = append(h.rollups[p], c)
			}
		}
	}
	last := h.hours[len(h.hours)-1]
	h.at, h.public = last.ClosedAt, last.Public
	return nil
}

// folders lists the roll-ups of a period on disk, the oldest first.
func (s *series) folders(p Period) (list []string, err error) {
	var walk func(below string, deep int)
	walk = func(below string, deep int) {
		names, e := s.a.d.List(path.Join(s.dir, below))
		if e != nil {
			return // there is none yet
		}
		slices.Sort(names)
		for _, name := range names {
			at := path.Join(below, name)
			if deep > 0 {
				walk(at, deep-1)
			} else if s.a.d.exists(path.Join(s.dir, at, manifestFile)) {
				list = append(list, at+"/")
			}
		}
	}
	if p == Day {
		walk("d", 2)
	} else {
		walk("w", 0)
	}
	return list, err
}

// read reads a digest that is there.
func (s *series) read(folder string) (*closed, error) {
	b, err := s.a.d.read(path.Join(s.dir, folder, manifestFile))
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil || m.Version != Version {
		return nil, fmt.Errorf("%s%s: version %d: %w", folder, manifestFile, m.Version, err)
	}
	return newClosed(m, folder, b), nil
}

func newClosed(m *Manifest, folder string, b []byte) *closed {
	sum := sha256.Sum256(b)
	c := &closed{folder: folder, sum: hex.EncodeToString(sum[:]), size: int64(len(b))}
	slim := *m
	slim.Keys, slim.Files = nil, nil
	for _, f := range m.Files {
		c.size += f.Size
		for _, coded := range f.Codings {
			c.size += coded.Size
		}
		slim.Files = append(slim.Files, File{Role: f.Role, Href: f.Href, Type: f.Type, Size: f.Size, Entries: f.Entries})
	}
	c.Manifest = &slim
	return c
}

func (s *series) bornAt() (born uint64, begun bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.born, s.begun
}

func (s *series) now() *head {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.head
}

// run makes the hours of a channel until ctx ends.
func (s *series) run(ctx context.Context, ch *Channel) {
	told := ""
	for ctx.Err() == nil {
		wait, err := s.step(ctx, ch)
		if err == nil {
			told = ""
		} else if ctx.Err() == nil {
			s.a.figures.failed()
			if told != err.Error() { // once, however long it lasts
				told = err.Error()
				s.a.o.Log.Error("a digest could not be made and is tried again", "channel", s.name, "err", err)
			}
			wait = time.Duration(float64(retryAfter) * s.a.o.ClockRate)
		}
		if wait > 0 && !s.a.sleep(ctx, wait) {
			return
		}
	}
}

// step does what is to be done for the open hour, and returns how long to wait before
// the next look.
func (s *series) step(ctx context.Context, ch *Channel) (time.Duration, error) {
	if err := s.open(ch); err != nil {
		return 0, err
	}
	if s.plan.Closing == nil {
		now := s.a.o.Clock()
		if err := s.plan.overdue(now); err != nil {
			return 0, err
		}
		l := look{now: now, started: s.a.started, newest: s.a.o.Journal.Token(), oldest: s.a.o.Journal.Oldest()}
		if !now.Before(s.plan.until()) {
			var err error
			if l.before, err = s.a.o.Journal.Since(s.plan.until()); err != nil {
				return 0, err
			}
		}
		v := s.plan.decide(l)
		if v.wait > 0 {
			return v.wait, nil
		}
		if head := ch.Head(); head.Epoch != v.until.Epoch || head.Seq < v.until.Seq {
			return time.Duration(float64(headWait) * s.a.o.ClockRate), nil
		}
		if err := s.beginClosing(ch, now, v); err != nil {
			return 0, err
		}
	}
	if err := s.a.o.Journal.Room(); err != nil {
		return 0, err
	}
	select {
	case s.a.builds <- struct{}{}:
	case <-ctx.Done():
		return 0, nil
	}
	defer func() { <-s.a.builds }()
	err := s.close(ctx, ch)
	if errors.Is(err, errTrimmed) {
		s.plan.Closing.Reason = Trimmed
		return 0, s.keepPlan()
	}
	if err != nil {
		return 0, err
	}
	return 0, s.rollUp(ctx)
}

// headWait is how long the streams may need to have read what the journal has.
const headWait = 5 * time.Millisecond

// open knows the open hour: the one after the newest, or the first one of all.
func (s *series) open(ch *Channel) error {
	h := s.now()
	switch {
	case s.plan != nil:
		return nil
	case h != nil:
		at, err := graph.ParseCursor(h.state.Cursor)
		if err != nil {
			return err
		}
		newest := h.hours[len(h.hours)-1]
		born, _ := s.bornAt()
		s.plan = &plan{Version: Version, Channel: s.name, Born: born, Seq: h.state.Seq + 1, From: h.state.Until, After: position{at},
			Prev: &Link{Seq: newest.Seq, Href: newest.folder + manifestFile, SHA256: newest.sum}}
		return nil
	}
	from := Hour.start(s.a.o.Clock())
	after, err := s.a.o.Journal.Since(from)
	if err != nil {
		return err
	}
	s.plan = &plan{Version: Version, Channel: s.name, Born: ch.Born, Seq: 1, From: from, After: position{after}}
	err = s.a.d.makeFolder(s.a.o.Dir, s.name)
	if err == nil {
		err = s.keepPlan()
	}
	if err != nil {
		s.plan = nil
		return err
	}
	s.mu.Lock()
	s.born, s.begun = ch.Born, true
	s.mu.Unlock()
	return nil
}

func (s *series) keepPlan() error { return s.a.d.write(path.Join(s.dir, planFile), encode(s.plan)) }

// beginClosing makes durable what the hour will be.
func (s *series) beginClosing(ch *Channel, now time.Time, v verdict) error {
	ring, err := openKeys(s.a.d, s.a.o.Keys, now)
	if err != nil {
		return err
	}
	key, err := ring.signs(now)
	if err != nil {
		return err
	}
	c := &closing{Until: position{v.until}, At: now.UTC().Truncate(time.Second), Reason: v.reason, Key: key.ID, Keys: ring.public(), Base: s.a.o.Base,
		FirstSeq: s.plan.Seq}
	c.Public = ch.Public(s.plan.After.Seq, v.until.Seq)
	if h := s.now(); h != nil {
		for _, hour := range slices.Backward(h.hours) {
			if !hour.Until.After(now.Add(-s.a.o.KeepHours)) {
				break
			}
			c.FirstSeq = hour.Seq
		}
	}
	s.plan.Closing = c
	if err := s.keepPlan(); err != nil {
		s.plan.Closing = nil
		return err
	}
	return nil
}

// close makes the hour that the plan says, its documents and its state. Whatever of it
// is there already stays.
func (s *series) close(ctx context.Context, ch *Channel) error {
	began := time.Now()
	if !s.a.d.exists(path.Join(s.dir, s.plan.folder())) {
		if err := s.makeHour(ctx, ch); err != nil {
			return err
		}
	}
	hour, err := s.read(s.plan.folder())
	if err != nil {
		return err
	}
	next := &head{at: hour.ClosedAt, rollups: map[Period][]*closed{}}
	if h := s.now(); h != nil {
		next.hours = append(next.hours, h.hours...)
		for p, list := range h.rollups {
			kept := hour.ClosedAt.Add(-s.a.o.KeepRollups)
			next.rollups[p] = slices.DeleteFunc(slices.Clone(list), func(c *closed) bool { return !c.Until.After(kept) })
		}
	}
	next.hours = append(next.hours, hour)
	next.hours = next.hours[slices.IndexFunc(next.hours, func(c *closed) bool { return c.Seq >= s.plan.Closing.FirstSeq }):]
	if err := s.makeFront(ctx, next); err != nil {
		return err
	}
	if err := s.publish(next); err != nil {
		return err
	}
	s.plan = nil
	took := time.Since(began)
	s.a.figures.made(hour.Entries, took)
	s.a.o.Log.Info("an hour closed", "channel", s.name, "seq", hour.Seq, "from", hour.From, "entries", hour.Entries, "notices", hour.Notices,
		"complete", hour.Complete, "reason", hour.Reason, "took", took)
	s.a.o.Closed(s.name)
	s.expire(next)
	return nil
}

// makeHour writes the files of the hour and puts them where they belong.
func (s *series) makeHour(ctx context.Context, ch *Channel) error {
	p, c := s.plan, s.plan.Closing
	m := &Manifest{Version: Version, Channel: s.name, Period: Hour, Epoch: c.Until.Epoch.String(), Seq: p.Seq, FirstSeq: p.Seq,
		From: p.From, Until: p.until(), ClosedAt: c.At, FirstOffset: p.After.Seq + 1, LastOffset: c.Until.Seq,
		Complete: c.Reason == "", Reason: c.Reason, Public: c.Public, Changes: map[string]uint64{}, Reasons: map[string]uint64{}, Key: c.Key, Keys: c.Keys}
	folder, after := p.folder(), p.After.Cursor
	if c.Reason == Reconcile {
		m.FirstOffset, after = c.Until.Seq+1, c.Until.Cursor
	}
	if oldest := s.a.o.Journal.Oldest(); c.Reason == Trimmed && oldest.Seq > after.Seq {
		after = oldest
	}
	prev := ""
	if p.Prev != nil {
		prev = path.Dir(p.Prev.Href) + "/"
		m.Prev = &Link{p.Prev.Seq, relative(folder, p.Prev.Href), p.Prev.SHA256}
	}
	return s.making(ctx, folder, m, func(ctx context.Context, k *making) error {
		k.base, k.prev = c.Base, prev
		return k.hour(ctx, ch, after, c.Until.Cursor)
	})
}

// making makes a digest by a function in a folder beside, signs it, makes it durable and
// moves it to its place.
func (s *series) making(ctx context.Context, folder string, m *Manifest, by func(context.Context, *making) error) error {
	d, temporary := s.a.d, path.Join(s.dir, building)
	if err := d.RemoveAll(temporary); err != nil {
		return err
	}
	if err := d.MkdirAll(temporary, 0o755); err != nil {
		return err
	}
	k := &making{d: d, folder: temporary, m: m, files: s.a.bind(ctx, temporary), origins: &s.origins}
	err := by(k.files.ctx, k)
	k.abandon()
	files, coding := k.files.end()
	if err = errors.Join(err, coding); err != nil {
		return err
	}
	m.Files = files
	ring, err := readKeys(d, s.a.o.Keys)
	if err != nil {
		return err
	}
	key, ok := ring.named(m.Key)
	if !ok {
		return fmt.Errorf("the key %s is not in %s any more, with which the hour was to be signed; put it back, or remove %s to begin the hour again", m.Key, s.a.o.Keys, path.Join(s.dir, planFile))
	}
	b := encode(m)
	err = d.write(path.Join(temporary, manifestFile), b)
	if err == nil {
		err = d.write(path.Join(temporary, manifestFile+sigSuffix), key.sign(b))
	}
	if err == nil && s.origins.changed {
		if err = d.write(path.Join(s.dir, accessFile), encode(&s.origins)); err == nil {
			s.origins.changed = false
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.shown = access{slices.Clone(s.origins.Origins), s.origins.Everywhere}
	s.mu.Unlock()
	if err := d.makeFolder(s.dir, path.Dir(path.Clean(folder))); err != nil {
		return err
	}
	return d.rename(temporary, path.Join(s.dir, folder))
}

// stateOf is the state of a head.
func (s *series) stateOf(next *head) (State, error) {
	newest := next.hours[len(next.hours)-1]
	epoch, err := strconv.ParseUint(newest.Epoch, 16, 32)
	if err != nil {
		return State{}, err
	}
	cursor := graph.Cursor{Epoch: graph.Epoch(epoch), Seq: newest.LastOffset}
	ring, err := readKeys(s.a.d, s.a.o.Keys)
	if err != nil {
		return State{}, err
	}
	state := State{Version: Version, Channel: s.name, Seq: newest.Seq, FirstSeq: next.hours[0].Seq, Epoch: newest.Epoch, Cursor: cursor.String(),
		From: newest.From, Until: newest.Until, LastOffset: newest.LastOffset, Manifest: newest.folder + manifestFile, ManifestSHA256: newest.sum,
		Atom: "feed.atom", JSONFeed: "feed.json", CapabilityList: "capabilitylist.xml", Stream: s.a.o.Stream(s.name, cursor), Keys: ring.public(),
		Rollups: []Rollup{}}
	for _, p := range []Period{Week, Day} {
		for _, c := range next.rollups[p] {
			if p == Week || c.Until.After(newest.Until.AddDate(0, 0, -stateDays)) {
				state.Rollups = append(state.Rollups, Rollup{p, c.FirstSeq, c.Seq, c.From, c.Until, c.folder + manifestFile, c.sum})
			}
		}
	}
	return state, nil
}

// publish makes the state of a head durable and shows the head to readers.
func (s *series) publish(next *head) (err error) {
	if next.state, err = s.stateOf(next); err != nil {
		return err
	}
	next.bytes = encode(&next.state)
	next.open = next.forStrangers()
	if err := s.a.d.write(path.Join(s.dir, stateFile), next.bytes); err != nil {
		return err
	}
	s.mu.Lock()
	s.head = next
	s.mu.Unlock()
	return nil
}

// publicHours are the newest hours up to the last one in which the channel was not public.
func (h *head) publicHours() []*closed {
	return h.hours[1+lastIndex(h.hours, func(c *closed) bool { return !c.Public }):]
}

// forStrangers is the state without what strangers do not get.
func (h *head) forStrangers() []byte {
	hours := h.publicHours()
	if len(hours) == 0 {
		return nil
	}
	state := h.state
	state.FirstSeq, state.Rollups = hours[0].Seq, []Rollup{}
	for _, r := range h.state.Rollups {
		if r.FirstSeq >= state.FirstSeq || len(hours) == len(h.hours) && h.isPublic(&r) {
			state.Rollups = append(state.Rollups, r)
		}
	}
	return encode(&state)
}

func (h *head) isPublic(r *Rollup) bool {
	return slices.ContainsFunc(h.rollups[r.Period], func(c *closed) bool { return c.Seq == r.Seq && c.Public })
}

// expire removes what is not kept any more. The mutable documents of the hour before stay:
// whoever has just found one of them is to read it.
func (s *series) expire(h *head) {
	err := s.a.d.sweep(path.Join(s.dir, "h"), h.hours[0].folder[len("h/"):])
	for _, p := range []Period{Day, Week} {
		if list := h.rollups[p]; len(list) > 0 {
			err = errors.Join(err, s.a.d.sweep(path.Join(s.dir, list[0].folder[:1]), list[0].folder[len("d/"):]))
		}
	}
	err = errors.Join(err, s.a.d.sweep(path.Join(s.dir, frontFolder), frontName(h.state.Seq-1)))
	if err != nil {
		s.a.o.Log.Warn("digests that are not kept any more are still on the disk", "channel", s.name, "err", err)
	}
}
