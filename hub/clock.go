package hub

import "time"

// Clock is the hub's time. It can start elsewhere and go faster, so that hours
// of waiting can be shown in a minute.
type Clock struct {
	start time.Time // what it showed …
	began time.Time // … at this moment
	rate  float64
	now   func() time.Time // of the machine
}

// newClock returns the clock that c asks for, by default the machine's, which
// shows now.
func newClock(c Config, now func() time.Time) *Clock {
	k := &Clock{rate: c.ClockRate, began: now(), start: c.ClockStart, now: now}
	if k.start.IsZero() {
		k.start = k.began
	}
	return k
}

// Now returns the time. It never goes back, unless the machine's own clock is
// set back and the hub's is the real one.
func (k *Clock) Now() time.Time {
	if k.rate == 1 && k.start.Equal(k.began) {
		return k.now()
	}
	return k.start.Add(time.Duration(float64(k.now().Sub(k.began)) * k.rate)).Round(0)
}
