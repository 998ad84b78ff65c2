package delivery

import (
	"slices"
	"time"
)

// A start says whether an item may be called.
type start uint8

const (
	starts     start = iota
	unread           // somebody it is behind has not read so far
	bucketOpen       // something of its bucket is not acknowledged there
)

// mayStart reports whether all that an outlet is behind has acknowledged whatever it
// has of the item's bucket up to the item. The lock is held, as in all of this file.
func (e *Engine) mayStart(out *outlet, it *item) start {
	for _, name := range out.settings.Behind {
		prev := e.outlets[name]
		if prev == nil {
			return unread
		}
		if l := &prev.lanes[it.piece.Lane]; l.read < it.piece.Until {
			// What is not for it is no news to it: it is to pass that all the same.
			l.news++
			e.want(prev)
			return unread
		}
		if prev.owes(&it.piece) {
			return bucketOpen
		}
	}
	return starts
}

// owes reports whether something of p's bucket at or before p is not acknowledged. Of
// the other lane only what was tried counts: an own edit does not wait for a fan-out that
// nobody has sent yet, for that is sent after it at each stage.
func (out *outlet) owes(p *Piece) bool {
	if p.Bucket == "" {
		return false
	}
	for it := range out.open[p.Bucket] {
		if it.piece.After < p.Until && (it.piece.Lane == p.Lane || it.tried()) {
			return true
		}
	}
	for _, letter := range out.dead[p.Bucket] {
		if letter.after < p.Until {
			return true
		}
	}
	return false
}

// tried reports whether it was called, or is, or could not be.
func (it *item) tried() bool { return it.calling || it.attempt > 0 || it.row != "" }

// hold has an item wait for its bucket.
func (out *outlet) hold(it *item) {
	if out.held == nil {
		out.held = map[string][]*item{}
	}
	out.held[it.piece.Bucket] = append(out.held[it.piece.Bucket], it)
}

// dropHeld takes an item out of those that are held.
func (out *outlet) dropHeld(it *item) bool {
	list := out.held[it.piece.Bucket]
	i := slices.Index(list, it)
	if i < 0 {
		return false
	}
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(out.held, it.piece.Bucket)
	} else {
		out.held[it.piece.Bucket] = list
	}
	return true
}

// unhold has what is held of a bucket looked at again, in its order.
func (out *outlet) unhold(bucket string) {
	for _, it := range slices.Backward(out.held[bucket]) {
		out.lanes[it.piece.Lane].waiting.pushFront(it)
	}
	delete(out.held, bucket)
}

// progress lets those go on that waited for an outlet to read.
func (e *Engine) progress(out *outlet) {
	for f := range e.behind[out.name] {
		for i := range f.lanes {
			f.lanes[i].stalled = false
		}
		e.want(f)
	}
}

// acknowledged lets those go on that waited for a bucket. What is older of the same key
// is made good by it: what waits in the other lane, and dead letters.
func (e *Engine) acknowledged(out *outlet, it *item) {
	e.overtake(out, &it.piece)
	bucket := it.piece.Bucket
	if bucket == "" {
		return
	}
	for id, letter := range out.dead[bucket] {
		if letter.key == it.piece.Key && letter.until <= it.piece.Until {
			e.rows[keyMadeGood+out.name+separator+id] = []byte("{}")
			out.unbury(bucket, id)
		}
	}
	e.freed(out, bucket)
}

// overtake drops what waits in the other lane and is older than p, which was taken and
// is about the same: sent later it would say what is not so any more.
func (e *Engine) overtake(out *outlet, p *Piece) {
	if p.Key == "" {
		return
	}
	old := out.keys[subject{1 - p.Lane, p.Key}]
	if old == nil || old.calling || old.piece.Until > p.Until {
		return
	}
	e.stats.Merged++
	out.seen.Merged++
	out.dropHeld(old)
	out.dropRetry(old)
	old.dropped = true // if it waits for its call
	out.settled(old)
	e.dropRow(out, old)
}

// freed has those behind an outlet look at a bucket again.
func (e *Engine) freed(out *outlet, bucket string) {
	for f := range e.behind[out.name] {
		f.unhold(bucket)
		e.want(f)
	}
}

// recheck has those behind an outlet look at everything again.
func (e *Engine) recheck(out *outlet) {
	for f := range e.behind[out.name] {
		for bucket := range f.held {
			f.unhold(bucket)
		}
	}
	e.progress(out)
}

// heldLong is how long an item is held in memory alone before it gets a row, so that
// the cursor passes it.
const heldLong = time.Second

// writeHeld gives rows to what has been held for long.
func (e *Engine) writeHeld() {
	now := e.o.Clock()
	for name := range e.behind {
		for f := range e.behind[name] {
			for _, list := range f.held {
				for _, it := range list {
					if it.row == "" && now.Sub(it.first) >= heldLong {
						e.writeRow(f, it, true)
						e.changed[f] = struct{}{}
					}
				}
			}
		}
	}
}

// holds reports whether something is held that is to get a row.
func (e *Engine) holds() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name := range e.behind {
		for f := range e.behind[name] {
			for _, list := range f.held {
				if f.rows < maxRetries && slices.ContainsFunc(list, func(it *item) bool { return it.row == "" }) {
					return true
				}
			}
		}
	}
	return false
}
