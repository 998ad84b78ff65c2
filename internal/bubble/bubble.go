// Package bubble runs tests in synctest bubbles that the race detector survives.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Test runs f in a bubble, as synctest.Test does.
//
// All timers of a bubble share one context of the race detector, and whichever
// threads fire two of them at once damage it (golang/go#78156): the process then dies
// in the detector's own code, about once in some thousand busy bubbles. So under the
// detector the process has one processor while bubbles run. It finds the same races,
// since it goes by what happens before what and not by what happens at once.
func Test(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if raceDetector {
		enter()
		defer leave()
	}
	synctest.Test(t, f)
}

var (
	mu         sync.Mutex
	bubbles    int // that run
	processors int // to give back when none runs
)

func enter() {
	mu.Lock()
	defer mu.Unlock()
	if bubbles++; bubbles == 1 {
		processors = runtime.GOMAXPROCS(1)
	}
}

func leave() {
	mu.Lock()
	defer mu.Unlock()
	if bubbles--; bubbles == 0 {
		runtime.GOMAXPROCS(processors)
	}
}
