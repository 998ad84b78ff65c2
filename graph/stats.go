package graph

import "sync"

// Stats are the store's own figures.
type Stats struct {
	Resources  uint64    // that have an id
	States     [5]uint64 // resources by State
	Failed     uint64
	Markers    uint64 // dependents that are ahead of the store
	Jobs       int
	Oldest     Cursor
	Newest     Cursor
	Updates    uint64 // applied since start, like the two below
	Duplicates uint64
	Outdated   uint64
	Notices    map[string]uint64 // written since start, by "kind reason"
	DiskBytes  uint64
	DiskFree   uint64 // 0 where the file system cannot tell
	ReadOnly   bool   // the disk is nearly full, and writes are refused
}

type noticeKind struct {
	kind   Kind
	reason Reason
}

// counters count what happened since start. Updates are counted by the apply
// loop, notices when they are durable.
type counters struct {
	updates, duplicates, outdated uint64 // guarded by the store's lock

	mu      sync.Mutex
	notices map[noticeKind]uint64
}

func (c *counters) count(chunks []chunk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range chunks {
		c.notices[noticeKind{chunks[i].kind, chunks[i].reason}] += uint64(len(chunks[i].ids))
	}
}

// Stats returns the store's own figures, for metrics and the console.
func (s *Store) Stats() Stats {
	out := Stats{Oldest: s.Oldest(), Newest: s.Token(), Notices: map[string]uint64{}, DiskBytes: s.db.Metrics().DiskSpaceUsage(),
		DiskFree: s.space.free.Load(), ReadOnly: s.space.short.Load()}
	s.counters.mu.Lock()
	for k, n := range s.counters.notices {
		out.Notices[k.kind.String()+" "+k.reason.String()] = n
	}
	s.counters.mu.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, n := range s.col.counts {
		out.Resources += n
	}
	out.States, out.Failed, out.Markers, out.Jobs = s.col.counts, s.col.failed, uint64(s.nmarkers), len(s.jobs.list)
	out.Updates, out.Duplicates, out.Outdated = s.counters.updates, s.counters.duplicates, s.counters.outdated
	return out
}
