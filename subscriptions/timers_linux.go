package subscriptions

import "time"

// timers are the times at which streams are to be looked at, earliest first: a
// heap in which each stream stands at most once and knows its place. Setting a
// time that is later than the one that is set leaves that alone; it is found out
// when it comes. So a busy stream, which puts off its heartbeat with each write,
// costs nothing here.
type timers []*socket

// timer is a stream's place in the heap.
type timer struct {
	at    time.Duration
	place int // from 1 on; 0 is none
}

// timerGrain is what times are rounded up to, so that streams are looked at
// together and not one by one.
const timerGrain = 10 * time.Millisecond

// set has k looked at at a time, or before.
func (t *timers) set(k *socket, at time.Duration) {
	at = (at + timerGrain - 1) / timerGrain * timerGrain
	switch {
	case k.timer.place == 0:
		*t = append(*t, k)
		k.timer = timer{at, len(*t)}
	case at < k.timer.at:
		k.timer.at = at
	default:
		return
	}
	t.up(k.timer.place)
}

// next returns the earliest time.
func (t *timers) next() (at time.Duration, ok bool) {
	if len(*t) == 0 {
		return 0, false
	}
	return (*t)[0].timer.at, true
}

// due takes out a stream whose time has come.
func (t *timers) due(now time.Duration) *socket {
	if len(*t) == 0 || (*t)[0].timer.at > now {
		return nil
	}
	k := (*t)[0]
	t.stop(k)
	return k
}

// stop forgets k.
func (t *timers) stop(k *socket) {
	place := k.timer.place
	if place == 0 {
		return
	}
	last := len(*t)
	t.swap(place, last)
	(*t)[last-1] = nil
	*t = (*t)[:last-1]
	k.timer.place = 0
	if place < last {
		t.down(place)
		t.up(place)
	}
}

func (t timers) swap(a, b int) {
	t[a-1], t[b-1] = t[b-1], t[a-1]
	t[a-1].timer.place, t[b-1].timer.place = a, b
}

func (t timers) less(a, b int) bool { return t[a-1].timer.at < t[b-1].timer.at }

func (t timers) up(place int) {
	for place > 1 && t.less(place, place/2) {
		t.swap(place, place/2)
		place /= 2
	}
}

func (t timers) down(place int) {
	for {
		child := 2 * place
		if child+1 <= len(t) && t.less(child+1, child) {
			child++
		}
		if child > len(t) || !t.less(child, place) {
			return
		}
		t.swap(place, child)
		place = child
	}
}
