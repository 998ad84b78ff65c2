package graph

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// LocalPublisher is whoever reaches a hub that asks for no tokens, and a hub's
// administrator. Like the publisher "" it has no account.
const LocalPublisher = "local"

// Account is what a publisher has in the store: the resources whose last update,
// or call that changed their edges, was its own, and what these are made from.
// Resources that were only named are nobody's; the edges that name them count.
type Account struct {
	Publisher string
	Resources int64
	Edges     int64
}

// Quota bounds what a publisher may have in the store at once. 0 means no bound.
type Quota struct {
	Resources int64
	Edges     int64
}

// QuotaError reports a request that would give its publisher more than it may
// have. Nothing of it was applied.
type QuotaError struct {
	What  string // "resources" or "edges"
	Has   int64
	More  int64 // the request might add
	Limit int64
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the publisher has %d %s, this might add %d, and %d is the limit", e.Has, e.What, e.More, e.Limit)
}

// Accounts lists what each publisher has, by name. It may be ahead of the disk by
// what is being flushed.
func (s *Store) Accounts() []Account {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Account, 0, len(s.accounts.list))
	for _, a := range s.accounts.list {
		out = append(out, a.Account)
	}
	slices.SortFunc(out, func(a, b Account) int { return cmp.Compare(a.Publisher, b.Publisher) })
	return out
}

// account is an Account with the number that rows name it by, from 1; 0 is nobody.
type account struct {
	Account
	number uint64
	moved  bool // differs from what the store has
}

// accounts are all there ever were, resident: a publisher is somebody that an
// operator gave a token to. Guarded by the store's lock.
type accounts struct {
	list   []*account // by number-1
	byName map[string]*account
	moved  []*account
}

func (as *accounts) add(a *account) {
	as.list = append(as.list, a)
	as.byName[a.Publisher] = a
}

func (s *Store) loadAccounts() error {
	return s.scan(spaceAccount, func(k, v []byte) error {
		a, err := decodeAccount(k, v)
		if err != nil || a.number != uint64(len(s.accounts.list))+1 {
			return fmt.Errorf("account %x is corrupt", k[1:])
		}
		s.accounts.add(a)
		return nil
	})
}

func (a *account) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(a.Resources))
	b = binary.AppendUvarint(b, uint64(a.Edges))
	return append(b, a.Publisher...)
}

func decodeAccount(k, v []byte) (*account, error) {
	if len(k) != 9 {
		return nil, errRow
	}
	d := decoder{b: v}
	a := &account{number: binary.BigEndian.Uint64(k[1:])}
	a.Resources, a.Edges = int64(d.uvarint()), int64(d.uvarint())
	a.Publisher = string(d.b)
	if d.bad || a.Resources < 0 || a.Edges < 0 || a.Publisher == "" {
		return nil, errRow
	}
	return a, nil
}

// billed is the account of a publisher, made if there is none yet; nil for who
// has none.
func (t *txn) billed(publisher string) *account {
	if publisher == "" || publisher == LocalPublisher {
		return nil
	}
	as := &t.s.accounts
	a := as.byName[publisher]
	if a == nil {
		a = &account{Account: Account{Publisher: publisher}, number: uint64(len(as.list)) + 1}
		as.add(a)
		t.bill(a.number, 0, 0)
	}
	return a
}

// bill moves an account.
func (t *txn) bill(number uint64, resources, edges int) {
	if number == 0 {
		return
	}
	as := &t.s.accounts
	if number > uint64(len(as.list)) {
		check(fmt.Errorf("there is no account %d", number))
	}
	a := as.list[number-1]
	a.Resources += int64(resources)
	a.Edges += int64(edges)
	if !a.moved {
		a.moved = true
		as.moved = append(as.moved, a)
	}
}

// own makes a row, which is being edited, that of an account; nil is nobody.
func (t *txn) own(r *row, a *account) {
	var number uint64
	if a != nil {
		number = a.number
	}
	if r.owner == number {
		return
	}
	t.bill(r.owner, -1, -r.ndeps)
	r.owner = number
	t.bill(number, 1, r.ndeps)
}

// flushAccounts writes those that moved.
func (t *txn) flushAccounts() {
	as := &t.s.accounts
	slices.SortFunc(as.moved, func(a, b *account) int { return cmp.Compare(a.number, b.number) })
	for _, a := range as.moved {
		t.buf = a.append(t.buf[:0])
		check(t.b.Set(seqKey(spaceAccount, a.number), t.buf, nil))
		a.moved = false
	}
	as.moved = as.moved[:0]
}

// admits reports whether a publisher may have so many more resources and edges.
// What makes nothing more is always admitted, however much there is.
func (q Quota) admits(t *txn, publisher string, resources, edges int64) error {
	var has Account
	if a := t.s.accounts.byName[publisher]; a != nil {
		has = a.Account
	}
	if q.Resources > 0 && resources > 0 && has.Resources+resources > q.Resources {
		return &QuotaError{"resources", has.Resources, resources, q.Resources}
	}
	if q.Edges > 0 && edges > 0 && has.Edges+edges > q.Edges {
		return &QuotaError{"edges", has.Edges, edges, q.Edges}
	}
	return nil
}

// holds is what a publisher has of one resource.
func (t *txn) holds(publisher string, id ID) (owned bool, edges int) {
	a := t.s.accounts.byName[publisher]
	if id == 0 || a == nil {
		return false, 0
	}
	if r := t.row(id); r.owner == a.number {
		return true, r.ndeps
	}
	return false, 0
}

// growth is the most that a batch can add to its publisher's account. Which of
// its updates are outdated is known only when they are applied: so each counts
// that makes more, and none that makes less.
func (b *batch) growth(t *txn) (resources, edges int64) {
	type holding struct {
		owned bool
		edges int // the most it may have been until now
	}
	held := make(map[string]holding, len(b.items))
	for i := range b.items {
		p := &b.items[i]
		if p.Action != ActionUpdate || p.ID != "" && t.remembers(p.seen) {
			continue
		}
		h, again := held[p.URI]
		if !again {
			h.owned, h.edges = t.holds(b.publisher, p.id)
		}
		n := len(p.edges)
		if p.Deps == nil && p.id != 0 {
			n = t.row(p.id).ndeps
		}
		if !h.owned {
			resources++
		}
		edges += int64(max(0, n-h.edges))
		held[p.URI] = holding{true, max(n, h.edges)}
	}
	return resources, edges
}
