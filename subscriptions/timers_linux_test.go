package subscriptions

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTimersComeInOrderAndEachOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var heap timers
		set := map[*socket]time.Duration{}
		all := make([]*socket, 20)
		for i := range all {
			all[i] = &socket{}
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			k := rapid.SampledFrom(all).Draw(t, "stream")
			at := time.Duration(rapid.IntRange(0, 500).Draw(t, "at")) * timerGrain
			switch rapid.IntRange(0, 3).Draw(t, "do") {
			case 0:
				heap.stop(k)
				delete(set, k)
			case 1:
				for due := heap.due(at); due != nil; due = heap.due(at) {
					if set[due] > at {
						t.Fatalf("at %v came one of %v", at, set[due])
					}
					delete(set, due)
				}
				for _, left := range set {
					if left <= at {
						t.Fatalf("at %v one of %v did not come", at, left)
					}
				}
			default:
				heap.set(k, at)
				if old, ok := set[k]; !ok || at < old {
					set[k] = at
				}
			}
			if len(heap) != len(set) {
				t.Fatalf("%d timers, want %d", len(heap), len(set))
			}
		}
	})
}
