package hub

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func prefixesOf(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestAPublisherIsHeldToItsPace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPace(10, 1<<20)
		passed := 0
		for range 100 { // 10 s, ten times too fast
			for range 10 {
				if p.take("alpha", 1, 0) == nil {
					passed++
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if passed < 100 || passed > 110 {
			t.Errorf("%d requests passed in 10 s, want 100 and those of one second more", passed)
		}
		if err := p.take("beta", 1, 0); err != nil {
			t.Errorf("another publisher: %v", err)
		}
		var soon *paceError
		if err := p.take("alpha", 0, maxBody); err != nil {
			t.Errorf("a body of the largest size after a pause: %v", err)
		}
		if err := p.take("alpha", 0, 3<<20); !errors.As(err, &soon) || seconds(soon.wait) != 3 || soon.limit != 1<<20 {
			t.Errorf("3 MiB more: %v, want a wait of 3 s", err)
		}
		time.Sleep(soon.wait)
		if err := p.take("alpha", 0, 3<<20); err != nil {
			t.Errorf("after the wait it was told: %v", err)
		}
		if err := p.take("alpha", 0, 1); err == nil {
			t.Error("a byte more at once passes")
		}
		if err := newPace(0, 0).take("alpha", 1_000_000, 1<<40); err != nil {
			t.Errorf("without a bound: %v", err)
		}
	})
}

func TestManyNamesDoNotFillABucketAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPace(1, 0)
		spend := func(name string) bool { return p.take(name, 1, 0) == nil }
		if !spend("alpha") || spend("alpha") {
			t.Fatal("alpha has one request a second")
		}
		passed := 0
		for i := range 3 * maxPaced {
			if spend(fmt.Sprint("name", i)) {
				passed++
			}
		}
		if passed > maxPaced {
			t.Errorf("%d names got a request of their own, %d buckets are kept", passed, maxPaced)
		}
		if spend("alpha") {
			t.Error("many names have filled alpha's bucket")
		}
		time.Sleep(2 * time.Second) // all are full, so they may go
		if !spend("newcomer") || spend("newcomer") {
			t.Error("a newcomer has no bucket of its own when others have gone")
		}
		if n := p.buckets.Len(); n > maxPaced {
			t.Errorf("%d buckets are kept", n)
		}
	})
}

func TestARequestThatComesTooSoonIsToldWhenToComeAgain(t *testing.T) {
	h := startHub(t, func(c *Config) { c.PublisherRequests = 1 })
	var last *http.Response
	for range 5 {
		resp, err := http.Get(h.URL() + "/v1/token")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		last = resp
	}
	if last.StatusCode != http.StatusTooManyRequests || last.Header.Get("Retry-After") != "1" {
		t.Errorf("%s, Retry-After %q", last.Status, last.Header.Get("Retry-After"))
	}
	if resp, err := http.Get(h.URL() + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
}

func TestBytesCountAfterInflation(t *testing.T) {
	h := startHub(t, func(c *Config) { c.PublisherBytes = 1 << 10 })
	send := func() *http.Response {
		body := `{"uri":"https://e.example/a","version":"1"}` + strings.Repeat(" ", 10<<20)
		r, err := http.NewRequest(http.MethodPost, h.URL()+"/v1/updates", strings.NewReader(gzipped(body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Encoding", "gzip")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	if resp := send(); resp.StatusCode != http.StatusOK {
		t.Errorf("a first body of 10 MiB: %s", resp.Status)
	}
	// 4 of 10 MiB are there, the rest comes at 1 KiB a second.
	if resp := send(); resp.StatusCode != http.StatusTooManyRequests || len(resp.Header.Get("Retry-After")) != 4 {
		t.Errorf("a second one: %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
}

func TestWhatIsOverAQuotaIsAnswered507WithTheLimit(t *testing.T) {
	p := problemOf(fmt.Errorf("apply: %w", &graph.QuotaError{What: "edges", Has: 7, More: 5, Limit: 10}))
	if p.Status != http.StatusInsufficientStorage || p.Type != problemBase+"over-quota" || p.Limit != 10 || p.retry == 0 ||
		p.Detail != "the publisher has 7 edges, this might add 5, and 10 is the limit" {
		t.Errorf("%+v", p)
	}
}

func TestTheStoreIsToldTheQuotas(t *testing.T) {
	h := startHub(t, func(c *Config) { c.PublisherResources, c.PublisherEdges = 1, 2 })
	_, err := h.store.Apply(t.Context(), "alpha", []graph.Update{{URI: "https://e.example/a", Version: "1"}, {URI: "https://e.example/b", Version: "1"}})
	var over *graph.QuotaError
	if !errors.As(err, &over) || over.Limit != 1 {
		t.Errorf("two resources of one that may have one: %v", err)
	}
}
