package graph

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// maxReadyScan bounds the resources whose states one call of [Store.Ready] looks at:
// they take about a millisecond, during which the apply loop waits.
const maxReadyScan = 1 << 20

// Ready lists up to limit of those that are ready and were told, in the order the
// store first heard of them, strictly after a position ("" is the start): each as
// the notice that would be written now, with the newest position, the reason retry,
// the bulk lane and no cause. So whoever makes what is ready finds also what was
// told before the journal's beginning. Those whose notice is yet to come are left
// out. Next is where to go on, "" at the end; a page may be short, or empty, and not
// be the last.
func (s *Store) Ready(after string, limit int) (ns []Notice, next string, err error) {
	limit = clampLimit(limit)
	from, err := s.position(after)
	if err != nil {
		return nil, "", err
	}
	ids, reached, more := s.readyAfter(from, limit)
	if more {
		next = Cursor{s.epoch, uint64(reached)}.String()
	}
	if len(ids) == 0 {
		return nil, next, nil
	}
	now := s.Token()
	c := chunk{first: now.Seq, ids: ids, kind: KindRefresh, reason: ReasonRetry, lane: Bulk, at: s.o.Clock().UnixMicro()}
	if ns, err = s.spell([]selection{{c: &c, to: len(ids)}}); err != nil {
		return nil, "", err
	}
	for i := range ns {
		ns[i].Cursor = now
	}
	return ns, next, s.markReady(ids, ns)
}

// readyAfter collects ids, and says up to where it looked.
func (s *Store) readyAfter(from ID, limit int) (ids []ID, reached ID, more bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	end := min(s.nextID, from+1+maxReadyScan)
	for id := from + 1; id < end; id++ {
		if n := id / pageSize; n >= ID(len(s.col.pages)) || s.col.pages[n] == nil {
			id |= pageSize - 1 // the last of a page of stubs
			reached = min(id, end-1)
			continue
		}
		reached = id
		if w := s.col.get(id); w.state() == Ready && !w.is(wordWaiting) {
			if ids = append(ids, id); len(ids) == limit {
				break
			}
		}
	}
	return ids, reached, reached+1 < s.nextID && reached > from
}

// markReady notes in the notices of ids, which ascend, the lists that hold them now.
func (s *Store) markReady(ids []ID, ns []Notice) error {
	var it *pebble.Iterator
	for i, id := range ids {
		s.mu.RLock()
		on := s.lists.ids.has(id)
		s.mu.RUnlock()
		if !on {
			continue
		}
		if it == nil {
			var err error
			if it, err = s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceList, listOf}, UpperBound: []byte{spaceList, listOf + 1}}); err != nil {
				return err
			}
		}
		var held []ListID
		for ok := it.SeekGE(onKey(id)); ok && parseID(it.Key()[2:]) == id; ok = it.Next() {
			held = append(held, parseList(it.Key()[2+idSize:]))
		}
		s.mu.RLock()
		ns[i].Lists = s.lists.kept(held)
		s.mu.RUnlock()
	}
	if it == nil {
		return nil
	}
	return errors.Join(it.Error(), it.Close())
}
