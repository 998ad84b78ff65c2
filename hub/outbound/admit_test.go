package outbound

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A doorman admits as many dials as there are, and notes for what.
type doorman struct {
	mu    sync.Mutex
	left  int
	asked []netip.AddrPort
}

var errCrowded = errors.New("too many calls to it by now")

func (d *doorman) admit(to netip.AddrPort) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, to)
	if d.left--; d.left < 0 {
		return errCrowded
	}
	return nil
}

func TestEachDialIsAdmittedOrNotMade(t *testing.T) {
	var reached atomic.Int64
	s := server(t, func(w http.ResponseWriter, _ *http.Request) { reached.Add(1) })
	to := netip.MustParseAddrPort(strings.TrimPrefix(s.URL, "http://"))
	d := &doorman{left: 3}
	c := local(t, Policy{Admit: d.admit, Keep: None})
	for i := range 5 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Do(r)
		if err == nil {
			answer.Body.Close()
		}
		var e *Error
		if i < 3 && err != nil || i >= 3 && (!errors.Is(err, errCrowded) || !errors.As(err, &e) || e.Kind != Refused ||
			err.Error() != "callback refused: too many calls to it by now") {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if reached.Load() != 3 || !slices.Equal(d.asked, []netip.AddrPort{to, to, to, to, to}) {
		t.Errorf("%d calls arrived, asked for %v", reached.Load(), d.asked)
	}
}

func TestWhatTheRulesForbidIsNotAskedFor(t *testing.T) {
	d := &doorman{left: 10}
	c := New(Policy{Purpose: "callback", Admit: d.admit, Keep: None})
	defer c.Close()
	if _, kind, text := get(t, c, "http://10.0.0.1/"); kind != Refused || len(d.asked) != 0 {
		t.Errorf("%s %s, asked for %v", kind, text, d.asked)
	}
}

func TestAnAddressIsAdmittedAsWhatItStandsFor(t *testing.T) {
	d := &doorman{left: 10}
	r := newRule(Policy{Purpose: "callback", Admit: d.admit})
	if err := r.control("tcp6", "[::ffff:93.184.215.14]:80", nil); err != nil {
		t.Fatal(err)
	}
	if want := netip.MustParseAddrPort("93.184.215.14:80"); len(d.asked) != 1 || d.asked[0] != want {
		t.Errorf("asked for %v", d.asked)
	}
}

func TestListedPortsAreDialledOnPublicAddresses(t *testing.T) {
	r := newRule(Policy{Purpose: "callback", Ports: []uint16{8443}})
	for _, tt := range []struct{ to, want string }{
		{"93.184.215.14:80", ""},
		{"93.184.215.14:443", ""},
		{"93.184.215.14:8443", ""},
		{"93.184.215.14:8444", "callback refused: port 8444 is neither 80 nor 443 nor listed"},
		{"10.0.0.1:8443", "callback refused: 10.0.0.1 is private"},
	} {
		got := ""
		if err := r.check(netip.MustParseAddrPort(tt.to)); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.to, got, tt.want)
		}
	}
}

func TestAsManyConnectionsWaitForAHostAsArePolicy(t *testing.T) {
	const calls = 8
	for _, tt := range []struct{ keep, perHost, most int }{{0, calls, calls}, {0, 0, calls + calls - 2}, {None, 0, 2 * calls}} {
		var (
			together = make(chan struct{}, calls)
			leave    = make(chan struct{})
			dials    atomic.Int64
		)
		s := server(t, func(w http.ResponseWriter, _ *http.Request) { together <- struct{}{}; <-leave })
		c := local(t, Policy{Keep: tt.keep, KeepPerHost: tt.perHost, Admit: func(netip.AddrPort) error { dials.Add(1); return nil }})
		for range 2 { // the second round finds what the first one left
			var round sync.WaitGroup
			for range calls {
				round.Go(func() {
					if status, _, text := get(t, c, s.URL); status != http.StatusOK {
						t.Errorf("%d %s", status, text)
					}
				})
			}
			for range calls {
				<-together
			}
			for range calls {
				leave <- struct{}{}
			}
			round.Wait()
		}
		if got := int(dials.Load()); got > tt.most || tt.perHost == 0 && got <= calls {
			t.Errorf("keep %d, %d a host: %d dials for two rounds of %d, want %d", tt.keep, tt.perHost, got, calls, tt.most)
		}
	}
}
