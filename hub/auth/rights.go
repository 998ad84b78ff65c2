package auth

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// Local is the subject of who needs no token, on a hub without keys. No token may
// bear it.
const Local = graph.LocalPublisher

// everywhere is the prefix that covers every URI.
const everywhere = "*"

// Rights is what the sender of one request is known to be allowed. The zero value
// is a stranger, who may nothing.
type Rights struct {
	Subject   string    // the publisher, whose update ids and quotas these are
	Admin     bool      // everything, of everybody
	Peer      string    // the URL of the hub it speaks for; "" is no hub
	Publish   Prefixes  // where it may change what the hub knows
	Subscribe Prefixes  // what it may be shown
	Expires   time.Time // zero means never
	Issued    time.Time // when its token was made; zero without one
}

// Administrator returns the rights of who reaches a hub that has no keys.
func Administrator() Rights { return Rights{Subject: Local, Admin: true} }

// Anonymous reports whether the sender gave no token.
func (r *Rights) Anonymous() bool { return r.Subject == "" }

// MayPublish reports whether r may change what the hub knows of uri, which is
// canonical.
func (r *Rights) MayPublish(uri string) bool { return r.Admin || r.Publish.Cover(uri) }

// MayPublishAll reports whether r may change what the hub knows of anything.
func (r *Rights) MayPublishAll() bool { return r.Admin || r.Publish.all() }

// Sees reports whether r may be shown uri, which is canonical.
func (r *Rights) Sees(uri string) bool { return r.Admin || r.Subscribe.Cover(uri) }

// SeesAll reports whether nothing is hidden from r.
func (r *Rights) SeesAll() bool { return r.Admin || r.Subscribe.all() }

// SeesOf reports whether r may be shown anything of a host, as [graph.Host] returns
// it.
func (r *Rights) SeesOf(host string) bool {
	return r.SeesAll() || slices.ContainsFunc(r.Subscribe, func(prefix string) bool { return graph.Host(prefix) == host })
}

// Prefixes are URI prefixes in canonical form, matched by scheme, host and whole
// path segments. The prefix "*" covers every URI.
type Prefixes []string

// Cover reports whether uri, which is canonical, lies under one of p.
func (p Prefixes) Cover(uri string) bool {
	for _, prefix := range p {
		if prefix == everywhere || graph.UnderPrefix(uri, prefix) {
			return true
		}
	}
	return false
}

func (p Prefixes) all() bool { return slices.Contains(p, everywhere) }

// check reports the first prefix under which no canonical URI can lie: with a typing
// mistake in it a token would allow less than its issuer believes.
func (p Prefixes) check(schemes []string) error {
	for i, prefix := range p {
		if prefix == everywhere {
			continue
		}
		if err := graph.CheckPrefix(prefix, schemes...); err != nil {
			return fmt.Errorf("prefix %d: %w", i, err)
		}
	}
	return nil
}

// Key is equal for prefixes that cover the same because they are the same; "" covers
// everything.
func (p Prefixes) Key() string {
	if p.all() {
		return ""
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(p)))
	sum := sha256.Sum256([]byte(strings.Join(sorted, "\n")))
	return string(sum[:])
}
