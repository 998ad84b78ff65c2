package delivery

import (
	"container/heap"
	"time"
)

// A queue is first in, first out.
type queue[T any] struct {
	items []T
	first int
}

// keptItems bounds the room that an empty queue keeps for what comes next: an outlet
// that has one call after the other needs little, and most have nothing to do.
const keptItems = 4

func (q *queue[T]) len() int { return len(q.items) - q.first }

func (q *queue[T]) push(v T) { q.items = append(q.items, v) }

// pushFront makes v the first.
func (q *queue[T]) pushFront(v T) {
	if q.first == 0 {
		q.first = 8 + len(q.items)/2
		q.items = append(make([]T, q.first, 2*len(q.items)+16), q.items...)
	}
	q.first--
	q.items[q.first] = v
}

func (q *queue[T]) pop() T {
	var none T
	v := q.items[q.first]
	q.items[q.first] = none
	q.first++
	switch {
	case q.first == len(q.items) && cap(q.items) <= keptItems:
		q.items, q.first = q.items[:0], 0
	case q.first == len(q.items):
		q.items, q.first = nil, 0
	case q.first >= 1024 && q.first > len(q.items)/2:
		q.items, q.first = append([]T(nil), q.items[q.first:]...), 0
	}
	return v
}

// times is a heap of outlets by when they are due.
type times struct{ list []*outlet }

func (t *times) Len() int           { return len(t.list) }
func (t *times) Less(i, j int) bool { return t.list[i].due.Before(t.list[j].due) }
func (t *times) Swap(i, j int) {
	t.list[i], t.list[j] = t.list[j], t.list[i]
	t.list[i].timed, t.list[j].timed = i+1, j+1
}
func (t *times) Push(v any) {
	out := v.(*outlet)
	t.list = append(t.list, out)
	out.timed = len(t.list)
}
func (t *times) Pop() any {
	n := len(t.list) - 1
	out := t.list[n]
	t.list[n], t.list = nil, t.list[:n]
	out.timed = 0
	return out
}

// set has out wait until at, if it does not for something earlier.
func (t *times) set(out *outlet, at time.Time) {
	switch {
	case out.timed == 0:
		out.due = at
		heap.Push(t, out)
	case at.Before(out.due):
		out.due = at
		heap.Fix(t, out.timed-1)
	}
}

// drop has out wait no longer.
func (t *times) drop(out *outlet) {
	if out.timed != 0 {
		heap.Remove(t, out.timed-1)
	}
}
