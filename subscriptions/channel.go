package subscriptions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxChannels bounds the channels of a hub: each takes about 1 KB of memory.
	maxChannels = 200_000
	// maxPerOwner bounds those of one owner, who would else leave no room for others.
	maxPerOwner = 1000
	// MaxDigests bounds the channels that ask for a digest: each is read, sorted and
	// coded every hour, and takes about a second of that.
	MaxDigests = 100
	// maxChannelName bounds a name in bytes: it stands in addresses and logs.
	maxChannelName = 64
	// maxVersions bounds how often a channel is replaced within what the journal
	// keeps: a reader who comes back is served by the versions of that time.
	maxVersions = 100
	// listBlock is how many lists are reserved by one write, so that no number is
	// given twice, crashes included.
	listBlock = 1000
	// maxURIsRead bounds the URIs that one page of a list is looked for among, so that
	// who sees few of them shows progress some ten times a second.
	maxURIsRead = 50_000
)

// Records of the channels in the store.
const (
	recordChannel = "channel/"
	recordLists   = "lists"
)

var (
	// ErrNoChannel reports a channel that was never made, or was deleted.
	ErrNoChannel = errors.New("there is no such channel")
	// ErrBuiltIn reports a change of a channel that every hub has: all, and one for
	// each host and each type.
	ErrBuiltIn = errors.New("a built-in channel cannot be changed")
	// ErrConfigured reports a change of a channel that the hub's configuration makes.
	ErrConfigured = errors.New("the channel is made by the hub's configuration; it is changed there")
	// ErrNotListed reports URIs for a channel that keeps no list of them.
	ErrNotListed = errors.New("the channel keeps no list of URIs; replace it with one that has \"uri\", which may be empty")
	// ErrTooManyChannels reports that there is no room for one more.
	ErrTooManyChannels = &LimitError{maxChannels, "the hub has %d channels; delete one first"}
	// ErrTooManyOwned reports an owner who has as many channels as one may have.
	ErrTooManyOwned = &LimitError{maxPerOwner, "the owner has %d channels; delete one first"}
	// ErrTooManyDigests reports that as many channels have a digest as may.
	ErrTooManyDigests = &LimitError{MaxDigests, "%d channels have a digest; take it from one first"}
	// ErrTooManyVersions reports a channel that is replaced too often.
	ErrTooManyVersions = &LimitError{maxVersions, "the channel was replaced %d times within what the journal keeps; change its URIs instead, or come again"}
)

// A LimitError reports a change for which there is no room.
type LimitError struct {
	Limit int
	text  string
}

func (e *LimitError) Error() string { return fmt.Sprintf(e.text, e.Limit) }

// ChannelName checks the name of a channel that somebody makes: 1 to 64 of a-z,
// 0-9, dot, dash and underscore, the first a letter or digit. There is one it cannot
// have: resource.
func ChannelName(name string) error {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	if _, ok := builtIn(name); ok {
		return ErrBuiltIn
	}
	switch {
	case name == reservedName:
		return fmt.Errorf("%s is where topics of resources are", reservedName)
	case name == "" || len(name) > maxChannelName:
		return fmt.Errorf("a name has 1 to %d characters", maxChannelName)
	case strings.Trim(name, first+".-_") != "", !strings.ContainsRune(first, rune(name[0])):
		return errors.New("a name has a-z, 0-9, dot, dash and underscore alone, and begins with a letter or digit")
	}
	return nil
}

// reservedName would be taken for the topic of one resource.
const reservedName = "resource"

// The channels that every hub has. None of their names but the first is one that
// a channel can be given.
const (
	channelAll  = "all"
	channelHost = "host:"
	channelType = "type:"
)

// builtIn returns the filter of a channel that every hub has.
func builtIn(name string) (f Filter, ok bool) {
	if name == channelAll {
		return Filter{}, true
	}
	if host, ok := strings.CutPrefix(name, channelHost); ok && host != "" {
		return Filter{Host: []string{host}}, true
	}
	if typ, ok := strings.CutPrefix(name, channelType); ok && typ != "" {
		return Filter{Type: []string{typ}}, true
	}
	return Filter{}, false
}

// A channelStore is what channels ask of the graph.
type channelStore interface {
	EditList(ctx context.Context, e graph.ListEdit) (graph.ListResult, error)
	Records(prefix string, f func(key string, value []byte) error) error
	Listed(list graph.ListID, after string, limit int) (uris []string, next string, err error)
	CountListed(list graph.ListID) (int, error)
	Oldest() graph.Cursor
}

// Definition is what a channel lets through. The values of Filter.URI are a list
// that can be changed without replacing the channel and be as long as the store
// bears; if it is not nil the channel has one, even if it is empty.
type Definition struct {
	Filter
	// Public channels are for everybody to read.
	Public bool `json:"public,omitempty"`
	// Owner is whose the channel is; "" is nobody's. It has no say in what passes.
	Owner string `json:"owner,omitempty"`
	// Digest has a digest made of what the channel lets through, each hour.
	Digest bool `json:"digest,omitempty"`
}

// ChannelInfo is what is shown of a channel.
type ChannelInfo struct {
	Name       string
	Definition      // without the URIs of its list
	Listed     bool // it has a list of URIs
	URIs       int  // on the list
	BuiltIn    bool
	Configured bool         // the hub's configuration makes it, and it is changed there
	At         graph.Cursor // from here on it has been what it is; zero if it is built in
}

// Channels are the named filters of a hub. They are kept in the store, and every
// change of one takes effect at a position of the journal: notices up to it are
// judged by what the channel was, also for a reader who comes back later. It is
// safe for concurrent use.
type Channels struct {
	store   channelStore
	schemes []string
	pump    *pump // nil until a streamer follows
	may     func(ctx context.Context, owner string) error
	changed func()

	edits   atomic.Uint64 // counts the changes of channels
	editing sync.Mutex    // held by whoever changes a channel
	lists   graph.ListID
	spare   int // lists that are reserved after it

	mu     sync.RWMutex
	byName map[string]*channel
	owned  map[string]int // channels by owner, nobody's apart
}

// channel is one named filter: a selector whose versions have their time.
type channel struct {
	name string
	born uint64 // another number for another channel of its name; 0 of those made before there was one

	mu sync.RWMutex
	ownership
	versions []version // oldest first, never none
	deleted  bool

	edits atomic.Uint64 // the number of the last change
}

// A version decides from one position on until the next one does.
type version struct {
	From   uint64       `json:"from"`
	List   graph.ListID `json:"list,omitempty"`
	Filter Filter       `json:"filter"` // without URIs
	Public bool         `json:"public,omitempty"`
	Digest bool         `json:"digest,omitempty"`

	matcher *Matcher
}

// channelRecord is how a channel is kept.
type channelRecord struct {
	Epoch    graph.Epoch `json:"epoch"`
	Owner    string      `json:"owner,omitempty"`
	Fixed    bool        `json:"fixed,omitempty"` // made by the configuration
	Born     uint64      `json:"born,omitempty"`
	Versions []version   `json:"versions"`
}

// OpenChannels reads the channels of a store. The schemes are those allowed
// in URIs besides those of graph.CheckURI.
func OpenChannels(store channelStore, schemes ...string) (*Channels, error) {
	c := &Channels{store: store, schemes: schemes, byName: map[string]*channel{}, owned: map[string]int{},
		may: func(context.Context, string) error { return nil }, changed: func() {}}
	err := store.Records(recordLists, func(_ string, value []byte) error { return json.Unmarshal(value, &c.lists) })
	if err != nil {
		return nil, fmt.Errorf("channels: %w", err)
	}
	err = store.Records(recordChannel, func(key string, value []byte) error {
		name := strings.TrimPrefix(key, recordChannel)
		var r channelRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("channel %s: %w", name, err)
		}
		for i := range r.Versions {
			if err := r.Versions[i].compile(schemes); err != nil {
				return fmt.Errorf("channel %s: %w", name, err)
			}
		}
		if len(r.Versions) == 0 {
			return fmt.Errorf("channel %s has no version", name)
		}
		c.install(&channel{name: name, born: r.Born}, ownership{r.Owner, r.Fixed}, r.Versions)
		return nil
	})
	return c, err
}

func (v *version) compile(schemes []string) (err error) {
	if v.matcher, err = Compile(v.Filter, schemes...); err == nil {
		v.matcher.list, v.matcher.public = v.List, v.Public
	}
	return err
}

// Guard has may asked, with the context of the change, before a channel of an owner
// is replaced, edited or deleted; its error refuses that. Between the answer and the
// change the channel does not get another owner. Call it before the channels are used.
func (c *Channels) Guard(may func(ctx context.Context, owner string) error) { c.may = may }

// Notify has changed called after channels were made, replaced or deleted. Call it before
// the channels are used.
func (c *Channels) Notify(changed func()) { c.changed = changed }

// follow has changes take effect where p is in the journal.
func (c *Channels) follow(p *pump) { c.pump = p }

// show judges n by what the channel was when it was written.
func (ch *channel) show(n *graph.Notice) showing {
	if n.Cursor.Seq == 0 {
		return hidden
	}
	m, _ := ch.at(n.Cursor.Seq - 1)
	if m == nil {
		return hidden
	}
	return m.show(n)
}

// at returns the version that decides strictly after seq.
func (ch *channel) at(seq uint64) (*Matcher, uint64) {
	ch.mu.RLock()
	defer ch.mu.RUnlock()
	until := uint64(math.MaxUint64)
	for _, v := range slices.Backward(ch.versions) {
		if v.From <= seq {
			return v.matcher, until
		}
		until = v.From
	}
	return nil, until
}

func (ch *channel) gone() reason {
	ch.mu.RLock()
	defer ch.mu.RUnlock()
	if ch.deleted {
		return deleted
	}
	return stays
}

func (ch *channel) routes(head uint64) (routes, uint64) {
	return ch.routesOf(head, func(m *Matcher) *Matcher { return m })
}

// routesOf are those of all versions that still decide after head, each as it is
// seen; nil is nothing of it.
func (ch *channel) routesOf(head uint64, seen func(*Matcher) *Matcher) (all routes, until uint64) {
	ch.mu.RLock()
	versions := ch.versions
	ch.mu.RUnlock()
	for _, v := range slices.Backward(versions) {
		if m := seen(v.matcher); m != nil {
			r, _ := m.routes(head)
			all = all.and(r)
		}
		if until = max(until, v.From); v.From <= head {
			break
		}
	}
	return all, until
}

func (ch *channel) newest() version {
	ch.mu.RLock()
	defer ch.mu.RUnlock()
	return ch.versions[len(ch.versions)-1]
}

// An ownership says who may change a channel.
type ownership struct {
	owner string
	fixed bool // nobody but the configuration, and then there is no owner
}

func (ch *channel) ownedBy() ownership {
	ch.mu.RLock()
	defer ch.mu.RUnlock()
	return ch.ownership
}

// errNotPublic reports a channel for somebody who may see nothing else.
var errNotPublic = errors.New("the channel is not public, and the token shows no resource")

// selector returns what a channel lets through of what v has, and under which key
// its readers are one class.
func (c *Channels) selector(name string, v *sight) (key classKey, sel selector, err error) {
	key.sight = keyOf(v)
	if f, ok := builtIn(name); ok {
		m, err := Compile(f)
		if err == nil && v.nothing() {
			err = errNotPublic
		}
		if err != nil {
			return key, nil, err
		}
		if v != nil {
			m = m.seenBy(v, false)
		}
		key.asked = filterKey(f)
		return key, m, nil
	}
	ch, err := c.find(name)
	if err != nil {
		return key, nil, err
	}
	key.asked = channelKey(name)
	if v == nil {
		return key, ch, nil
	}
	w := newView(ch, v)
	if v.nothing() && !w.public {
		return key, nil, errNotPublic
	}
	return key, w, nil
}

// Keys of classes.
func channelKey(name string) string { return "c" + name }
func filterKey(f Filter) string     { return "f" + f.key() }

func (c *Channels) find(name string) (*channel, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if ch := c.byName[name]; ch != nil {
		return ch, nil
	}
	return nil, fmt.Errorf("%w: %.80q", ErrNoChannel, name)
}

// Get shows one channel, or reports [ErrNoChannel]. A built-in one whose host or
// type cannot be is a *FilterError.
func (c *Channels) Get(name string) (ChannelInfo, error) {
	if f, ok := builtIn(name); ok {
		_, err := Compile(f)
		return ChannelInfo{Name: name, Definition: Definition{Filter: f}, BuiltIn: true}, err
	}
	ch, err := c.find(name)
	if err != nil {
		return ChannelInfo{}, err
	}
	return c.counted(c.info(ch))
}

// info shows a channel without counting what is on its list.
func (c *Channels) info(ch *channel) (info ChannelInfo, list graph.ListID) {
	v, whose := ch.newest(), ch.ownedBy()
	return ChannelInfo{Name: ch.name, Definition: Definition{v.Filter, v.Public, whose.owner, v.Digest}, Listed: v.List != 0,
		Configured: whose.fixed, At: graph.Cursor{Epoch: c.store.Oldest().Epoch, Seq: v.From}}, v.List
}

func (c *Channels) counted(info ChannelInfo, list graph.ListID) (ChannelInfo, error) {
	if !info.Listed {
		return info, nil
	}
	var err error
	info.URIs, err = c.store.CountListed(list)
	return info, err
}

// List shows up to limit channels that somebody made, by name, after one. Visible
// chooses among them, before the URIs of their lists are counted; nil is all. Next
// is where to go on, "" if there is no further one.
func (c *Channels) List(after string, limit int, visible func(ChannelInfo) bool) (list []ChannelInfo, next string, err error) {
	c.mu.RLock()
	names := slices.Sorted(maps.Keys(c.byName))
	c.mu.RUnlock()
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	for _, name := range names[i:] {
		ch, err := c.find(name)
		if err != nil {
			continue // deleted since
		}
		info, uris := c.info(ch)
		if visible != nil && !visible(info) {
			continue
		}
		if len(list) == limit {
			return list, list[limit-1].Name, nil
		}
		if info, err = c.counted(info, uris); err != nil {
			return nil, "", err
		}
		list = append(list, info)
	}
	return list, "", nil
}

// URIs lists up to limit of the URIs of a channel's list, in the order the store
// first heard of them, strictly after a position ("" is the start). Next is where
// to go on, "" at the end. Sees chooses among them; nil is all. With it a page may
// have fewer, or none, although there is a next one.
func (c *Channels) URIs(name, after string, limit int, sees func(uri string) bool) (uris []string, next string, err error) {
	if _, ok := builtIn(name); ok {
		return nil, "", ErrNotListed
	}
	ch, err := c.find(name)
	if err != nil {
		return nil, "", err
	}
	v := ch.newest()
	if v.List == 0 {
		return nil, "", ErrNotListed
	}
	for read := 0; ; {
		page, next, err := c.store.Listed(v.List, after, limit)
		if err != nil || sees == nil {
			return page, next, err
		}
		read += len(page)
		seen := slices.DeleteFunc(page, func(uri string) bool { return !sees(uri) })
		if len(seen) > 0 || next == "" || read >= maxURIsRead {
			return seen, next, nil
		}
		after = next
	}
}

// Put makes a channel, or replaces one whole, its list included. It is durable
// when Put returns; the notices after the position that it names are judged by the
// new definition and none before. A *FilterError names the field that cannot be
// served. A channel that is replaced stays its owner's, unless d names another.
func (c *Channels) Put(ctx context.Context, name string, d Definition) (info ChannelInfo, created bool, err error) {
	if err := ChannelName(name); err != nil {
		return info, false, err
	}
	if _, err := Compile(d.Filter, c.schemes...); err != nil {
		return info, false, err
	}
	c.editing.Lock()
	defer c.editing.Unlock()
	old, err := c.find(name)
	if err != nil {
		old = nil
	}
	whose, err := c.ownerAfter(ctx, old, d.Owner)
	if err != nil {
		return info, false, err
	}
	info, err = c.put(ctx, name, d, old, whose)
	return info, old == nil, err
}

// put makes a channel or replaces old. The definition was checked, and whoever
// changes it holds the lock.
func (c *Channels) put(ctx context.Context, name string, d Definition, old *channel, whose ownership) (info ChannelInfo, err error) {
	next := version{Filter: d.Filter, Public: d.Public, Digest: d.Digest}
	next.Filter.URI = nil
	if err := next.compile(c.schemes); err != nil {
		return info, err
	}
	versions, err := c.versionsOf(old)
	if err != nil {
		return info, err
	}
	if d.Digest && (old == nil || !old.newest().Digest) && len(c.Digested()) >= MaxDigests {
		return info, ErrTooManyDigests
	}
	ch := old
	if ch == nil {
		ch = &channel{name: name, born: 1 + rand.Uint64N(1<<53)}
	}
	edit := graph.ListEdit{Key: recordChannel + name}
	if d.URI != nil {
		if next.List, err = c.newList(ctx); err != nil {
			return info, err
		}
		next.matcher.list, edit.List, edit.Add = next.List, next.List, slices.Compact(slices.Sorted(slices.Values(d.URI)))
	}
	if n := len(versions); n > 0 && versions[n-1].List != 0 {
		edit.Drop = []graph.ListID{versions[n-1].List}
	}
	edit.Record = func(at graph.Cursor) []byte {
		next.From = at.Seq
		if n := len(versions); n > 0 && versions[n-1].From == at.Seq {
			versions = versions[:n-1] // it decided nothing
		}
		return encodeChannel(channelRecord{at.Epoch, whose.owner, whose.fixed, ch.born, append(versions, next)})
	}
	release := c.hold(name)
	if _, err := c.store.EditList(ctx, edit); err != nil {
		release()
		return info, fmt.Errorf("channel %s: %w", name, err)
	}
	c.install(ch, whose, append(versions, next))
	release()
	c.changed()
	return c.counted(c.info(ch))
}

// ownerAfter returns whose a channel is once it is made, or old was replaced.
func (c *Channels) ownerAfter(ctx context.Context, old *channel, named string) (whose ownership, err error) {
	if old != nil {
		if err := c.mayChange(ctx, old); err != nil {
			return whose, err
		}
		whose = old.ownedBy()
	}
	if named == "" || named == whose.owner {
		return whose, nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.owned[named] >= maxPerOwner {
		return whose, ErrTooManyOwned
	}
	return ownership{owner: named}, nil
}

// mayChange refuses who may not change a channel.
func (c *Channels) mayChange(ctx context.Context, ch *channel) error {
	whose := ch.ownedBy()
	if err := c.may(ctx, whose.owner); err != nil {
		return err
	}
	if whose.fixed {
		return ErrConfigured
	}
	return nil
}

// versionsOf returns the versions of a channel that the journal still needs.
func (c *Channels) versionsOf(ch *channel) ([]version, error) {
	if ch == nil {
		c.mu.RLock()
		defer c.mu.RUnlock()
		if len(c.byName) >= maxChannels {
			return nil, ErrTooManyChannels
		}
		return nil, nil
	}
	ch.mu.RLock()
	versions := slices.Clone(ch.versions)
	ch.mu.RUnlock()
	oldest := c.store.Oldest().Seq
	for len(versions) > 1 && versions[1].From <= oldest {
		versions = versions[1:]
	}
	if len(versions) >= maxVersions {
		return nil, ErrTooManyVersions
	}
	return versions, nil
}

func encodeChannel(r channelRecord) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// install makes versions known once they are durable.
func (c *Channels) install(ch *channel, whose ownership, versions []version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName[ch.name] == ch {
		c.disown(ch)
	}
	c.byName[ch.name] = ch
	if whose.owner != "" {
		c.owned[whose.owner]++
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.ownership, ch.versions = whose, versions
	ch.edits.Store(c.edits.Add(1))
}

// disown no longer counts ch for its owner. The lock is held.
func (c *Channels) disown(ch *channel) {
	owner := ch.ownedBy().owner
	if owner == "" {
		return
	}
	if c.owned[owner]--; c.owned[owner] == 0 {
		delete(c.owned, owner)
	}
}

// hold keeps the pump from matching until release is called: so it has judged no
// notice beyond the position at which a change takes effect.
func (c *Channels) hold(name string) (release func()) {
	if c.pump == nil {
		return func() {}
	}
	return c.pump.hold(channelKey(name))
}

// newList returns a number that no list ever had.
func (c *Channels) newList(ctx context.Context) (graph.ListID, error) {
	if c.spare == 0 {
		reserved := c.lists + listBlock
		_, err := c.store.EditList(ctx, graph.ListEdit{Key: recordLists, Record: func(graph.Cursor) []byte {
			b, err := json.Marshal(reserved)
			if err != nil {
				panic(err) // a number
			}
			return b
		}})
		if err != nil {
			return 0, fmt.Errorf("reserving lists: %w", err)
		}
		c.spare = listBlock
	}
	c.lists++
	c.spare--
	return c.lists, nil
}

// Edit puts URIs on the list of a channel and takes others off, together at most
// [graph.MaxListEdit]. It is durable when Edit returns; the notices after the
// position that it names are judged by the new list and none before.
func (c *Channels) Edit(ctx context.Context, name string, add, remove []string) (graph.ListResult, error) {
	if _, ok := builtIn(name); ok {
		return graph.ListResult{}, ErrBuiltIn
	}
	c.editing.Lock()
	defer c.editing.Unlock()
	ch, err := c.find(name)
	if err == nil {
		err = c.mayChange(ctx, ch)
	}
	if err != nil {
		return graph.ListResult{}, err
	}
	v := ch.newest()
	if v.List == 0 {
		return graph.ListResult{}, ErrNotListed
	}
	res, err := c.store.EditList(ctx, graph.ListEdit{List: v.List, Add: add, Remove: remove})
	ch.edits.Store(c.edits.Add(1)) // also if ctx has ended: it may still be applied
	return res, err
}

// Edits returns a number that is another one each time that what a channel lets
// through was changed, its list included: what passes since then and did not before is
// not told by the journal. It is 0 of one that is built in, or not there.
func (c *Channels) Edits(name string) uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if ch := c.byName[name]; ch != nil {
		return ch.edits.Load()
	}
	return 0
}

// Delete forgets a channel. Its streams end. It is durable when Delete returns
// the position from which on the channel is not.
func (c *Channels) Delete(ctx context.Context, name string) (graph.Cursor, error) {
	if _, ok := builtIn(name); ok {
		return graph.Cursor{}, ErrBuiltIn
	}
	c.editing.Lock()
	defer c.editing.Unlock()
	ch, err := c.find(name)
	if err == nil {
		err = c.mayChange(ctx, ch)
	}
	if err != nil {
		return graph.Cursor{}, err
	}
	return c.remove(ctx, ch)
}

// remove is Delete for whoever may, and holds the lock.
func (c *Channels) remove(ctx context.Context, ch *channel) (graph.Cursor, error) {
	edit := graph.ListEdit{Key: recordChannel + ch.name} // without a record: it is deleted
	if v := ch.newest(); v.List != 0 {
		edit.Drop = []graph.ListID{v.List}
	}
	release := c.hold(ch.name)
	res, err := c.store.EditList(ctx, edit)
	if err != nil {
		release()
		return graph.Cursor{}, fmt.Errorf("channel %s: %w", ch.name, err)
	}
	c.mu.Lock()
	delete(c.byName, ch.name)
	c.disown(ch)
	c.mu.Unlock()
	ch.mu.Lock()
	ch.deleted = true
	ch.mu.Unlock()
	release()
	c.changed()
	return res.At, nil
}
