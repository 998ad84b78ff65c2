package delivery

import (
	"container/list"
	"context"
	"time"
)

// A host is whom calls are counted for.
type host struct {
	name   string
	calls  int
	most   int          // calls at once
	users  int          // outlets, calls and waiters that know it; the last one forgets it
	wants  queue[entry] // who wants a place, in turn
	inRing bool
}

// An entry is an outlet or somebody with one call of its own.
type entry struct {
	out    *outlet
	waiter *waiter
}

// A waiter is somebody who makes one call that is no delivery.
type waiter struct {
	place     chan struct{} // closed when it has a place, or is refused
	flight    *flight       // its place
	got, left bool
}

// A flight is a call under way.
type flight struct {
	host  *host
	began time.Time
	place *list.Element // among those that hold a place, or among the slow ones
	slow  bool
	out   *outlet // nil if it is no delivery
	it    *item
	ctx   context.Context // of the call
}

func (e *Engine) host(name string) *host {
	h := e.hosts[name]
	if h == nil {
		h = &host{name: name, most: e.o.PerHost}
		e.hosts[name] = h
	}
	return h
}

// release forgets a host that nobody knows any more. The lock is held, as in all of
// this file.
func (e *Engine) release(h *host) {
	if h.users--; h.users == 0 {
		delete(e.hosts, h.name)
	}
}

// ready puts a host in the ring if it has a place, and somebody who wants it.
func (e *Engine) ready(h *host) {
	if !h.inRing && h.wants.len() > 0 && h.calls < h.most {
		h.inRing = true
		e.ring.push(h)
	}
}

// want finds what out is to do next, and puts it where that is done.
func (e *Engine) want(out *outlet) {
	if out.gone || out.paused {
		return
	}
	now := e.o.Clock()
	out.takeDue(now)
	if out.rests {
		if out.until.After(now) {
			e.times.set(out, out.until)
		} else {
			out.rests = false
		}
	}
	if !out.cutting && out.wantsCut() {
		out.cutting = true
		e.cutting.push(out)
	}
	if !out.queued && out.calls < out.allowed() && out.waits() {
		if at, ok := out.mayCall(now); !ok {
			e.times.set(out, at)
		} else {
			out.queued = true
			out.host.wants.push(entry{out: out})
			e.ready(out.host)
		}
	}
	if at, ok := out.nextDue(); ok {
		e.times.set(out, at)
	}
}

// advance gives places to those who want them, as long as there are some.
func (e *Engine) advance() {
	e.assign()
	e.employ()
}

// assign says what is to be done now.
func (e *Engine) assign() {
	defer e.toFlush()
	if !e.running {
		return
	}
	e.serve()
	for e.cutters < cutters && e.cutting.len() > 0 {
		e.cutters++
		e.tasks.push(task{cut: e.cutting.pop()})
	}
	e.setAlarm()
}

// A task is what a worker does: a call, or the reading of the journal for an outlet.
type task struct {
	call *flight
	cut  *outlet
}

// employ begins a worker for each task.
func (e *Engine) employ() {
	for e.tasks.len() > 0 {
		t := e.tasks.pop()
		e.work.Go(func() { e.toil(t) })
	}
}

// toil does a task, and goes on with what there is to be done when it is: to begin a
// goroutine for each call costs as much as all else that the engine does for it, mostly
// for its stack to grow again. Of several tasks others begin with the rest. It holds no
// lock before and after.
func (e *Engine) toil(t task) {
	for {
		if t.call != nil {
			e.call(t.call)
		} else {
			e.cut(t.cut)
		}
		e.assign()
		if e.tasks.len() == 0 {
			e.mu.Unlock()
			return
		}
		t = e.tasks.pop()
		e.employ()
		e.mu.Unlock()
	}
}

// serve lets hosts, and at each host its outlets, call in turn.
func (e *Engine) serve() {
	for !e.brake && e.ring.len() > 0 && e.hasPlace() {
		h := e.ring.pop()
		h.inRing = false
		if h.wants.len() == 0 || h.calls >= h.most {
			continue
		}
		next := h.wants.pop()
		if w := next.waiter; w != nil {
			if w.left {
				e.ready(h)
				e.release(h)
				continue
			}
			w.flight, w.got = e.takePlace(h), true
			e.release(h) // it is known by the call now
			close(w.place)
		} else {
			e.begin(h, next.out)
		}
		e.ready(h)
	}
}

// begin starts the next call of an outlet, if there still is one.
func (e *Engine) begin(h *host, out *outlet) {
	out.queued = false
	if out.gone || out.paused {
		return
	}
	if _, ok := out.mayCall(e.o.Clock()); ok && out.calls < out.allowed() {
		if it := e.next(out); it != nil {
			out.spend()
			out.calls++
			it.calling = true
			if out.settings.Serial {
				// Whoever is cut off, or attached anew, may have been heard: it says the
				// same again.
				out.stuck = it
			}
			f := e.takePlace(h)
			f.out, f.it, f.ctx = out, it, e.calling
			e.tasks.push(task{call: f})
		}
	}
	e.want(out)
}

// hasPlace reports whether one more call may begin. If none may, calls that most likely
// hang give up their places, now or when they are old enough.
func (e *Engine) hasPlace() bool {
	for e.flights.Len() >= e.o.Global && e.slow.Len() < slowShare*e.o.Global {
		f := e.flights.Front().Value.(*flight)
		if left := slowAfter - time.Since(f.began); left > 0 {
			if e.loosen == nil {
				e.loosen = time.AfterFunc(left, e.loosened)
			}
			break
		}
		e.flights.Remove(f.place)
		f.place, f.slow = e.slow.PushBack(f), true
	}
	return e.flights.Len() < e.o.Global
}

// loosened has the engine look for places again.
func (e *Engine) loosened() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loosen = nil
	e.advance()
}

// takePlace begins a call at a host.
func (e *Engine) takePlace(h *host) *flight {
	f := &flight{host: h, began: time.Now()}
	f.place = e.flights.PushBack(f)
	h.calls++
	h.users++
	return f
}

// giveBack ends a call, and frees its place at its host.
func (e *Engine) giveBack(f *flight) {
	if f.slow {
		e.slow.Remove(f.place)
	} else {
		e.flights.Remove(f.place)
	}
	f.host.calls--
	e.ready(f.host)
	e.release(f.host)
}

// turnAway refuses those who wait for a place of their own.
func (e *Engine) turnAway() {
	for _, h := range e.hosts {
		for h.wants.len() > 0 {
			next := h.wants.pop()
			if next.out != nil {
				next.out.queued = false
				continue
			}
			if !next.waiter.left {
				next.waiter.got = true
				close(next.waiter.place)
			}
		}
	}
}

// setAlarm has the engine look again when the first outlet is due.
func (e *Engine) setAlarm() {
	if e.times.Len() == 0 {
		return
	}
	due := e.times.list[0].due
	if e.alarm != nil && due.Equal(e.alarmAt) {
		return
	}
	e.alarmAt = due
	left := due.Sub(e.o.Clock())
	left = max(0, time.Duration(float64(left)/e.o.ClockRate))
	if e.alarm == nil {
		e.alarm = time.AfterFunc(left, e.wake)
		return
	}
	e.alarm.Reset(left)
}

// wake looks after the outlets that are due.
func (e *Engine) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.running {
		return
	}
	now := e.o.Clock()
	e.alarmAt = time.Time{}
	for e.times.Len() > 0 && !e.times.list[0].due.After(now) {
		out := e.times.list[0]
		e.times.drop(out)
		e.want(out)
		if out.timed != 0 && !out.due.After(now) {
			break // it waits for something else, and says so again at once
		}
	}
	e.advance()
}
