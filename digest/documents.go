package digest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// maxFeed bounds the entries of the feeds that are replaced each hour: a reader asks
	// for them again and again, and finds older ones in the archive.
	maxFeed = 1000
	// maxFeedSize bounds those entries in bytes, so that with its head a feed has 4 MiB at
	// most: whoever subscribed is sent it each hour. A thousand of usual length are well
	// below a MiB.
	maxFeedSize = 4<<20 - 64<<10
	// frontIndex lists the files of a front.
	frontIndex = "front.json"
)

// Names of the mutable documents, beside state.json.
const (
	FeedAtom             = "feed.atom"
	FeedJSON             = "feed.json"
	HoursAtom            = "hours.atom"
	CapabilityList       = "capabilitylist.xml"
	ChangeListIndex      = "changelist.xml"
	RecentCapabilityList = "recent/capabilitylist.xml"
	RecentChangeList     = "recent/changelist.xml"
)

// frontName is the folder of the mutable documents that begin with an hour, below
// frontFolder.
func frontName(seq uint64) string { return fmt.Sprintf("%010d", seq) }

// makeFront writes the mutable documents as they are once the newest hour of next shows.
// Each hour has a folder of its own, so that a reader never has one document of two.
func (s *series) makeFront(ctx context.Context, next *head) error {
	newest := next.hours[len(next.hours)-1]
	shown := next.hours
	if next.public = newest.Public; next.public {
		// What was written while the channel was not public is shown to nobody because it
		// has become so.
		shown = next.publicHours()
	}
	state, err := s.stateOf(next)
	if err != nil {
		return err
	}
	f := &front{base: s.plan.Closing.Base, hub: s.a.o.Hub, state: &state}
	for _, c := range slices.Backward(shown) {
		f.hours = append(f.hours, c.Manifest)
	}
	if err := s.gather(f, shown[max(0, len(shown)-recentHours):]); err != nil {
		return err
	}
	d, folder := s.a.d, path.Join(s.dir, frontFolder, frontName(newest.Seq))
	temporary := path.Join(s.dir, building)
	if err := errors.Join(d.RemoveAll(temporary), d.RemoveAll(folder), d.MkdirAll(temporary, 0o755)); err != nil {
		return err
	}
	files := s.a.bind(ctx, temporary)
	for _, doc := range []struct {
		name, media string
		bytes       []byte
	}{
		{FeedAtom, mediaType(RoleAtom), f.feedAtom()}, {FeedJSON, mediaType(RoleJSONFeed), f.feedJSON()}, {HoursAtom, mediaType(RoleAtom), f.hoursAtom()},
		{CapabilityList, mediaType(RoleChangeList), f.capabilityList()}, {ChangeListIndex, mediaType(RoleChangeList), f.changeListIndex()},
		{RecentCapabilityList, mediaType(RoleChangeList), f.recentCapabilityList()}, {RecentChangeList, mediaType(RoleChangeList), f.recentChangeList()},
	} {
		w, err := d.create(temporary, File{Role: doc.name, Href: strings.ReplaceAll(doc.name, "/", "-"), Type: doc.media})
		if err != nil {
			return err
		}
		w.Write(doc.bytes) // what went wrong is told at the end
		made, err := w.end()
		if err != nil {
			return err
		}
		files.add(made)
	}
	list, err := files.end()
	if err == nil {
		err = d.write(path.Join(temporary, frontIndex), encode(list))
	}
	if err == nil {
		err = d.makeFolder(s.dir, frontFolder)
	}
	if err == nil {
		err = d.rename(temporary, folder)
	}
	next.front = frontFiles(list)
	return err
}

func frontFiles(list []File) map[string]*File {
	m := map[string]*File{}
	for i := range list {
		m[list[i].Role] = &list[i]
	}
	return m
}

func (s *series) loadFront(h *head) error {
	b, err := s.a.d.read(path.Join(s.dir, frontFolder, frontName(h.state.Seq), frontIndex))
	var list []File
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	h.front = frontFiles(list)
	return err
}

// gather copies the newest entries out of closed files.
func (s *series) gather(f *front, hours []*closed) (err error) {
	for _, c := range slices.Backward(hours) {
		if left := maxFeed - len(f.entries); left > 0 {
			if f.entries, err = s.lines(f.entries, c, RoleAtom, 0, left); err != nil {
				return err
			}
			if f.items, err = s.lines(f.items, c, RoleJSONFeed, 0, left); err != nil {
				return err
			}
		}
	}
	f.entries, f.items = within(f.entries, maxFeedSize), within(f.items, maxFeedSize)
	skip := -MaxPart
	for _, c := range hours {
		skip += int(c.Entries)
	}
	for _, c := range hours {
		if skip < int(c.Entries) {
			if f.recent, err = s.lines(f.recent, c, RoleChangeList, max(0, skip), MaxPart); err != nil {
				return err
			}
		}
		skip -= int(c.Entries)
	}
	return nil
}

// within returns the first of some lines that have n bytes together at most, with what
// stands between them.
func within(lines []string, n int) []string {
	for i, line := range lines {
		if n -= len(line) + len(",\n"); n < 0 {
			return lines[:i]
		}
	}
	return lines
}

// lines adds the lines of entries of a closed digest in one role.
func (s *series) lines(list []string, c *closed, role string, skip, limit int) ([]string, error) {
	for _, file := range c.Files {
		if file.Role != role || limit <= 0 {
			continue
		}
		if skip >= int(file.Entries) {
			skip -= int(file.Entries)
			continue
		}
		f, err := s.a.d.Open(path.Join(s.dir, c.folder, file.Href), vfs.SequentialReadsOption)
		if err != nil {
			return list, err
		}
		some, err := lines(f, role, skip, limit)
		if err = errors.Join(err, f.Close()); err != nil {
			return list, fmt.Errorf("%s%s: %w", c.folder, file.Href, err)
		}
		list = append(list, some...)
		skip, limit = 0, limit-len(some)
	}
	return list, nil
}

func lastIndex[T any](list []T, is func(T) bool) int {
	for i, v := range slices.Backward(list) {
		if is(v) {
			return i
		}
	}
	return -1
}

// rollUp makes the days and weeks that have ended and are not there yet.
func (s *series) rollUp(ctx context.Context) error {
	for _, p := range []Period{Day, Week} {
		h := s.now()
		from := p.start(h.hours[0].From)
		if h.hours[0].From.After(from) && h.hours[0].Seq > 1 {
			from = p.end(from) // its beginning is not kept
		}
		for ; !p.end(from).After(h.state.Until); from = p.end(from) {
			if slices.ContainsFunc(h.rollups[p], func(c *closed) bool { return p.start(c.From).Equal(from) }) {
				continue
			}
			if err := s.makeRollup(ctx, h, p, from); err != nil {
				return fmt.Errorf("%s: %w", p.Folder(from), err)
			}
			h = s.now()
		}
	}
	return nil
}

// makeRollup makes one of a period from its hours, and shows it.
func (s *series) makeRollup(ctx context.Context, h *head, p Period, from time.Time) error {
	var hours []*closed
	for _, c := range h.hours {
		if !c.From.Before(from) && c.From.Before(p.end(from)) {
			hours = append(hours, c)
		}
	}
	folder := p.Folder(from)
	if !s.a.d.exists(path.Join(s.dir, folder)) {
		m, err := s.rollupOf(h, p, folder, hours)
		if err != nil {
			return err
		}
		if err := s.making(ctx, folder, m, func(ctx context.Context, k *making) error { return k.rollup(ctx, s.dir, hours) }); err != nil {
			return err
		}
	}
	made, err := s.read(folder)
	if err != nil {
		return err
	}
	next := *h
	next.rollups = map[Period][]*closed{Day: h.rollups[Day], Week: h.rollups[Week]}
	next.rollups[p] = append(slices.Clone(h.rollups[p]), made)
	return s.publish(&next)
}

// rollupOf is the manifest of a roll-up before it has files. It closes with its last
// hour, so that it is the same whenever it is made.
func (s *series) rollupOf(h *head, p Period, folder string, hours []*closed) (*Manifest, error) {
	first, last := hours[0], hours[len(hours)-1]
	whole, err := s.a.manifest(s.dir, last.folder)
	if err != nil {
		return nil, err
	}
	ring, err := readKeys(s.a.d, s.a.o.Keys)
	if err != nil {
		return nil, err
	}
	key, ok := ring.named(whole.Key)
	if !ok {
		if key, err = ring.signs(s.a.o.Clock()); err != nil {
			return nil, err
		}
	}
	m := &Manifest{Version: Version, Channel: s.name, Period: p, Epoch: last.Epoch, Seq: last.Seq, FirstSeq: first.Seq, From: first.From, Until: last.Until,
		ClosedAt: last.ClosedAt, LastOffset: last.LastOffset, Complete: true, Public: true, Changes: map[string]uint64{}, Reasons: map[string]uint64{},
		Through: &Link{last.Seq, relative(folder, last.folder+manifestFile), last.sum}, Key: key.ID, Keys: whole.Keys}
	gravity := []string{"", Missed, Trimmed, Reconcile}
	for _, c := range slices.Backward(hours) {
		if c.Epoch == last.Epoch {
			m.FirstOffset = c.FirstOffset
		}
		m.Complete, m.Public = m.Complete && c.Complete, m.Public && c.Public
		if slices.Index(gravity, c.Reason) > slices.Index(gravity, m.Reason) {
			m.Reason = c.Reason
		}
	}
	if list := h.rollups[p]; len(list) > 0 {
		prev := list[len(list)-1]
		m.Prev = &Link{prev.Seq, relative(folder, prev.folder+manifestFile), prev.sum}
	}
	return m, nil
}

// rollup adds up the entries of hours.
func (k *making) rollup(ctx context.Context, root string, hours []*closed) error {
	var all []*source
	for _, c := range hours {
		one, err := k.d.sourceOf(root, c.folder, c.Manifest)
		if err != nil {
			return err
		}
		all = append(all, one)
	}
	out := k.partitioned(RoleNDJSON)
	err := merge(ctx, all, func(m *mergedLine) error {
		k.m.Entries++
		k.m.Notices += m.count
		k.m.Changes[m.change]++
		k.m.Reasons[m.reason]++
		return out.write(append(m.line, '\n'))
	})
	if err != nil {
		return err
	}
	return out.end()
}
