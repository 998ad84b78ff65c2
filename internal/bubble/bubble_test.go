package bubble

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestBusyTimersOfABubbleDoNotEndTheProcess(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	for range 30 {
		Test(t, func(t *testing.T) {
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() { fire(t.Context(), 50) })
			}
			wg.Wait()
		})
	}
	if after := runtime.GOMAXPROCS(0); after != before {
		t.Errorf("%d processors afterwards, %d before", after, before)
	}
}

// fire lets timers of three kinds end at one moment, again and again.
func fire(ctx context.Context, times int) {
	for range times {
		timer := time.NewTimer(time.Millisecond)
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		time.AfterFunc(time.Millisecond, func() {})
		select {
		case <-timer.C:
		case <-short.Done():
		}
		cancel()
		timer.Reset(time.Millisecond)
		time.Sleep(time.Millisecond)
		timer.Stop()
	}
}
