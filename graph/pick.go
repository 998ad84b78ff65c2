package graph

import (
	"slices"
)

// Pick narrows what is read of the journal to what may pass. The zero Pick is
// everything. It lets through at least all that fits, and the caller still judges:
// exactly for Kinds, Lanes, Lists and URIs; Keys only skip whole blocks of the
// journal. It is not changed once [Store.Scan] has seen it.
type Pick struct {
	Kinds, Lanes uint8 // 1<<Kind and 1<<Lane; 0 asks nothing
	// If Lists or URIs is set, only notices of resources that were on one of Lists
	// when they were written, or are one of URIs.
	Lists []ListID
	URIs  []string
	// Keys are groups: a block of the journal is skipped unless for each group one of
	// its keys stands in it. Types and buckets of a block are those that its resources
	// had when it was first read for keys.
	Keys [][]Key

	ready   bool
	lists   map[ListID]struct{}
	uris    map[string]struct{}
	ids     map[ID]struct{}
	unknown []string // those of URIs that had no id …
	// … when so many ids had been given, and given back.
	interned, collects uint64

	sums *summing // the block that is being read, if it has no summary
}

// chooses reports whether p asks which resource a notice is of.
func (p *Pick) chooses() bool { return len(p.Lists)+len(p.URIs) > 0 }

// wants reports whether notices of a kind and lane pass.
func (p *Pick) wants(k Kind, l Lane) bool {
	return (p.Kinds == 0 || p.Kinds>>k&1 != 0) && (p.Lanes == 0 || p.Lanes>>l&1 != 0)
}

// resolve looks up ids of URIs. It follows the reading of the newest position:
// what no one had heard of then, no notice up to there names.
func (s *Store) resolve(p *Pick) error {
	if !p.ready {
		p.ready = true
		p.lists, p.uris = map[ListID]struct{}{}, map[string]struct{}{}
		for _, l := range p.Lists {
			p.lists[l] = struct{}{}
		}
		for _, uri := range p.URIs {
			p.uris[uri] = struct{}{}
		}
		p.unknown = p.URIs
	}
	moved := p.collects != s.collects.Load()
	if p.ids != nil && !moved && (len(p.unknown) == 0 || p.interned == s.interned.Load()) || len(p.URIs) == 0 {
		return nil
	}
	s.mu.RLock() // the commits that moved the numbers can be seen
	interned, collects := s.interned.Load(), s.collects.Load()
	s.mu.RUnlock()
	if p.ids == nil || moved {
		p.ids, p.unknown = make(map[ID]struct{}, len(p.URIs)), p.URIs
	}
	var unknown []string
	for _, uri := range p.unknown {
		id, ok, err := s.lookup(uri)
		if err != nil {
			p.ids = nil
			return err
		}
		if ok {
			p.ids[id] = struct{}{}
		} else {
			unknown = append(unknown, uri)
		}
	}
	p.unknown, p.interned, p.collects = unknown, interned, collects
	return nil
}

// choose appends the indexes, from from on, of the notices of c that p lets
// through.
func (p *Pick) choose(c *chunk, from int, into []uint16) []uint16 {
	if !p.wants(c.kind, c.lane) {
		return into
	}
	if !p.chooses() {
		for i := from; i < len(c.ids); i++ {
			into = append(into, uint16(i))
		}
		return into
	}
	var on [maxChunk / 64]uint64
	found := false
	for _, m := range c.marks {
		if _, ok := p.lists[m.list]; ok {
			for _, i := range m.at {
				on[i>>6] |= 1 << (i & 63)
			}
			found = true
		}
	}
	if len(p.ids) > 0 {
		for i, id := range c.ids {
			if _, ok := p.ids[id]; ok {
				on[i>>6] |= 1 << (i & 63)
				found = true
			}
		}
	}
	if !found {
		return into
	}
	for i := from; i < len(c.ids); i++ {
		if on[i>>6]>>(i&63)&1 != 0 {
			into = append(into, uint16(i))
		}
	}
	return into
}

// passes is the final check of a notice that choose let through: an id may be of
// another resource than when it was looked up.
func (p *Pick) passes(n *Notice) bool {
	if !p.chooses() {
		return true
	}
	if _, ok := p.uris[n.URI]; ok {
		return true
	}
	return slices.ContainsFunc(n.Lists, func(l ListID) bool {
		_, ok := p.lists[l]
		return ok
	})
}
