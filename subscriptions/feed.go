package subscriptions

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"

	"github.com/freshwire/freshwire/graph"
)

// A Topic names what is followed: a channel, built in or made by somebody, or one
// resource. Exactly one field is set.
type Topic struct{ Channel, URI string }

// A Feed is what a viewer may see of a topic, for those who read it in pieces and
// keep their own position. It outlives the viewer's token, and sees of a channel
// what the viewer might at the time of each reading: all that came while it was
// public, as long as it still is, beside what is the viewer's own. It is safe for
// concurrent use, and needs [Streamer.Run].
type Feed struct {
	s     *Streamer
	topic Topic // zero if it is a filter
	key   classKey
	sel   selector
}

// Feed returns what v may see of t. It fails with [ErrNoChannel], with a *FilterError
// for what names nothing, or with a *Refusal if v may see nothing of it; a viewer
// without a token is refused alike whether there is such a topic or not.
func (s *Streamer) Feed(t Topic, v Viewer) (*Feed, error) {
	f, err := s.feed(t, v.sight())
	if err != nil && v.Anonymous {
		return nil, unauthorized()
	}
	return f, err
}

func (s *Streamer) feed(t Topic, sees *sight) (f *Feed, err error) {
	f = &Feed{s: s, topic: t}
	switch {
	case (t.Channel == "") == (t.URI == ""):
		return nil, &FilterError{"topic", "is either a channel or a URI"}
	case t.Channel != "":
		f.key, f.sel, err = s.channelFeed(t.Channel, sees)
	default:
		f.key, f.sel, err = s.filteredFeed(Filter{URI: []string{t.URI}}, sees)
	}
	f.key.watched = true
	return f, err
}

func (s *Streamer) channelFeed(name string, sees *sight) (key classKey, sel selector, err error) {
	if s.o.Channels == nil {
		return key, nil, ErrNoChannel
	}
	key, sel, err = s.o.Channels.selector(name, sees)
	if errors.Is(err, errNotPublic) {
		err = hiddenChannel()
	}
	if w, ok := sel.(*view); ok {
		w.lasting = true
	}
	return key, sel, err
}

// FilteredFeed returns what passes a filter of what v may see. It fails with a
// *FilterError, or with a *Refusal if v may see nothing of it.
func (s *Streamer) FilteredFeed(filter Filter, v Viewer) (f *Feed, err error) {
	f = &Feed{s: s}
	f.key, f.sel, err = s.filteredFeed(filter, v.sight())
	f.key.watched = true
	return f, err
}

func (s *Streamer) filteredFeed(filter Filter, sees *sight) (key classKey, sel selector, err error) {
	m, err := Compile(filter, s.o.Schemes...)
	if err == nil {
		err = sees.refuse(&filter)
	}
	if err != nil {
		return key, nil, err
	}
	if sees != nil {
		m = m.seenBy(sees, false)
	}
	return classKey{asked: filterKey(filter), sight: keyOf(sees)}, m, nil
}

// FilterFeed returns all that passes m, for somebody who may see everything.
func (s *Streamer) FilterFeed(m *Matcher) *Feed {
	return &Feed{s: s, sel: m, key: classKey{asked: fmt.Sprintf("m%p", m), watched: true}}
}

// hiddenChannel refuses a channel to somebody who may see nothing of it.
func hiddenChannel() *Refusal {
	return &Refusal{Status: http.StatusForbidden, Slug: slugForbidden, Field: "channel", Detail: errNotPublic.Error()}
}

// Err says why there is nothing to be read any more: [ErrNoChannel] when the channel
// was deleted, also if there is another one of its name, and a *Refusal while the
// viewer may see nothing of it. It is nil otherwise.
func (f *Feed) Err() error {
	if f.sel.gone() != stays {
		return fmt.Errorf("%w: %.80q", ErrNoChannel, f.topic.Channel)
	}
	if w, ok := f.sel.(*view); ok && w.shut() {
		return hiddenChannel()
	}
	return nil
}

// Head returns the position up to which everything can be read.
func (f *Feed) Head() graph.Cursor { return *f.s.pump.head.Load() }

// A Reading is what one call of [Feed.Read] brought.
type Reading struct {
	Notices []graph.Notice // oldest first; without the cause where it may not be seen
	Next    graph.Cursor   // where to go on; it may move without notices
	More    bool           // there may be more before the head
}

// Read returns up to limit notices (0 means [graph.MaxListing]) strictly after a
// position, of some lanes: a set of 1<<[graph.Lane], 0 is both. It reads a bounded
// piece of the journal, never waits and never reads beyond [Feed.Head]. It fails with
// a *[graph.ResetError] for a position that cannot be served, as [graph.Store.Scan]
// does, and with what [Feed.Err] says.
func (f *Feed) Read(lanes uint8, after graph.Cursor, limit int) (Reading, error) {
	if err := f.Err(); err != nil {
		return Reading{Next: after}, err
	}
	if lanes == 0 {
		lanes = bothLanes
	}
	var r Reading
	var err error
	r.Next, r.More, err = f.s.read(f.sel, lanes, after, limit, func(n *graph.Notice, how showing) {
		r.Notices = append(r.Notices, *n)
		if how == bare {
			r.Notices[len(r.Notices)-1].Cause = graph.Cause{}
		}
	})
	return r, err
}

// Shows reports whether the feed would show n if it were written now, and takes its
// cause away if that may not be seen.
func (f *Feed) Shows(n *graph.Notice) bool {
	now := *n
	now.Cursor.Seq = math.MaxUint64
	how := f.sel.show(&now)
	if how == bare {
		n.Cause = graph.Cause{}
	}
	return how != hidden
}

// Watch has news called when there may be something new to be read, or when Err may
// say something new, until stop is called; once more perhaps while that is. News must
// not block. Who watches before the first Read misses nothing. What is not for this
// feed costs it nothing, however many watch, and those of one topic and equal viewers
// are looked up as one.
func (f *Feed) Watch(news func()) (stop func()) {
	w := &watcher{news}
	c := f.s.pump.join(f.key, f.sel)
	f.s.watchers.join(c, w)
	return sync.OnceFunc(func() {
		f.s.watchers.leave(c, w)
		f.s.pump.leave(c)
	})
}

// A watcher is who wants to be told that a class has something new.
type watcher struct{ news func() }

// watchers owns the classes of feeds, whose readers keep their own positions.
type watchers struct {
	mu      sync.Mutex
	members map[*class]map[*watcher]struct{}
}

func (w *watchers) join(c *class, one *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.members[c]
	if m == nil {
		m = map[*watcher]struct{}{}
		w.members[c] = m
	}
	m[one] = struct{}{}
}

func (w *watchers) leave(c *class, one *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.members[c]
	delete(m, one)
	if len(m) == 0 {
		delete(w.members, c)
	}
}

// news calls them without the lock: who is called may just be waiting for it.
func (w *watchers) news(classes []*class) {
	for _, c := range classes {
		if !c.key.watched {
			continue
		}
		w.mu.Lock()
		called := slices.AppendSeq(make([]*watcher, 0, len(w.members[c])), maps.Keys(w.members[c]))
		w.mu.Unlock()
		for _, one := range called {
			one.news()
		}
	}
}
