package graph

import (
	"slices"
	"strings"
)

// touchAspects makes a change of each aspect that an update names, and of the
// aspects these are parts of. Aspects that are made from others have updates of
// their own.
func (t *txn) touchAspects(p *prepared) {
	names := map[string]bool{}
	for _, a := range p.Aspects {
		if a == "*" {
			for _, uri := range t.aspectsOf(p.URI) {
				names[uri] = true
			}
			continue
		}
		for a != "" {
			names[p.URI+"#"+a] = true
			a = a[:max(strings.LastIndexByte(a, '.'), 0)]
		}
	}
	uris := make([]string, 0, len(names))
	for uri := range names {
		uris = append(uris, uri)
	}
	slices.Sort(uris)
	for _, uri := range uris {
		id, ok := t.find(uri)
		if !ok || t.row(id).ndeps > 0 || t.row(id).purged() {
			continue // nobody named it, or it is made from others
		}
		t.touch(id, p)
	}
}

// touch is the change of one aspect: its version is its base's.
func (t *txn) touch(id ID, p *prepared) {
	r := t.edit(id)
	confirmed := r.confirms(p.Version, "", false)
	change := ChangeUpdated
	if !r.is(rowKnown) {
		change = ChangeCreated
	}
	if r.version != p.Version {
		r.remember(r.version)
	}
	r.remember(r.hash)
	r.version, r.hash, r.aliases, r.presumed = p.Version, "", nil, ""
	r.set(rowHeard|rowKnown, true)
	r.set(rowMissing|rowDiffering, false)
	r.at = max(r.at, p.at)
	c := cause{id: p.id, uid: p.causeID(), at: t.now}
	t.announce(r, c, change, ReasonEdit, false)
	c.seq = r.changed
	if t.word(id).state() == Stub {
		t.setState(id, Clean)
	}
	if !confirmed {
		t.startJob(id, jobChange, c)
	}
}

// aspectsOf lists the resources that are aspects of uri.
func (t *txn) aspectsOf(uri string) []string {
	prefix := uriKey(uri + "#")
	it := t.iter(prefix, after(prefix))
	var uris []string
	for it.First(); it.Valid(); it.Next() {
		uris = append(uris, string(it.Key()[1:]))
	}
	check(it.Error())
	check(it.Close())
	return uris
}
