package websub

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// window is what verification requests to one target are counted in.
	window = time.Minute
	// maxWindows bounds the targets that are counted, about 400 bytes each. They are
	// forgotten after a minute in which they were asked nothing.
	maxWindows = 50_000
)

// A crowdedError reports an address that was called as often as it may be, or that
// there are more of them than can be counted.
type crowdedError struct{ wait time.Duration }

func (*crowdedError) Error() string { return "it was asked too often within a minute" }

// A limiter lets so many calls to each target through in any minute, not only on
// average: who is called without having asked for it is to notice little of it. It
// is safe for concurrent use.
type limiter struct {
	most  int
	clock func() time.Time

	mu    sync.Mutex
	calls map[string][]time.Time // within the last minute, oldest first
	swept time.Time
}

func newLimiter(most int, clock func() time.Time) *limiter {
	return &limiter{most: most, clock: clock, calls: map[string][]time.Time{}}
}

// book books a call to target and returns 0, or how long it has to wait; then
// nothing is booked.
func (l *limiter) book(target string) (wait time.Duration) {
	now := l.clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	calls := l.calls[target]
	for len(calls) > 0 && now.Sub(calls[0]) >= window {
		calls = calls[1:]
	}
	if len(calls) >= l.most {
		l.calls[target] = calls
		return calls[len(calls)-l.most].Add(window).Sub(now)
	}
	if calls == nil && len(l.calls) >= maxWindows {
		return window
	}
	l.calls[target] = append(calls, now)
	return 0
}

// sweep forgets, once in a window, who was not called within it.
func (l *limiter) sweep(now time.Time) {
	if now.Sub(l.swept) < window {
		return
	}
	l.swept = now
	for target, calls := range l.calls {
		if now.Sub(calls[len(calls)-1]) >= window {
			delete(l.calls, target)
		}
	}
}

// Target is what calls to an address, and subscriptions from one, are counted for:
// of IPv6 the first 64 bits, which are one machine's to choose from. The port does not count.
func Target(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p.String()
	}
	return a.String()
}
