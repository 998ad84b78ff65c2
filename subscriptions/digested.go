package subscriptions

import (
	"slices"
	"strings"
)

// A DigestedChannel is one that asks for a digest.
type DigestedChannel struct {
	Name string
	Born uint64 // another number for another channel of its name
}

// Digested lists the channels that ask for a digest, by name. Those that every hub has
// are not among them.
func (c *Channels) Digested() (list []DigestedChannel) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for name, ch := range c.byName {
		if ch.newest().Digest {
			list = append(list, DigestedChannel{name, ch.born})
		}
	}
	slices.SortFunc(list, func(a, b DigestedChannel) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Exists reports whether there is a channel that a digest was made of: this very one.
func (c *Channels) Exists(d DigestedChannel) bool {
	if _, ok := builtIn(d.Name); ok {
		return true
	}
	ch, err := c.find(d.Name)
	return err == nil && ch.born == d.Born
}

// PublicBetween reports whether a channel was for everybody whenever something was
// written strictly after one position and up to another. Those that every hub has are
// not.
func (c *Channels) PublicBetween(name string, after, until uint64) bool {
	ch, err := c.find(name)
	if err != nil {
		return false
	}
	ch.mu.RLock()
	defer ch.mu.RUnlock()
	public := ch.versions[len(ch.versions)-1].Public
	for i, v := range ch.versions {
		over := i+1 < len(ch.versions) && ch.versions[i+1].From <= after
		if !over && v.From < until {
			public = public && v.Public
		}
	}
	return public
}

// EverybodysFeed returns all of a channel as it is shown to everybody if it is public,
// whether it is or not: with what was edited only where the channel lets that through
// too. It fails with [ErrNoChannel].
func (s *Streamer) EverybodysFeed(channel string) (*Feed, error) {
	nobody := newSight(nil)
	f := &Feed{s: s, topic: Topic{Channel: channel}, key: classKey{asked: channelKey(channel), sight: nobody.key, watched: true}}
	if filter, ok := builtIn(channel); ok {
		m, err := Compile(filter)
		if err != nil {
			return nil, err
		}
		f.sel = m.seenBy(nobody, true)
		return f, nil
	}
	if s.o.Channels == nil {
		return nil, ErrNoChannel
	}
	ch, err := s.o.Channels.find(channel)
	if err != nil {
		return nil, err
	}
	w := newView(ch, nobody)
	w.lasting, w.open = true, true
	f.sel = w
	return f, nil
}
