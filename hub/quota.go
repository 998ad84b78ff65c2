package hub

import (
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// maxPaced bounds the publishers whose buckets are kept, about 300 bytes each.
// Publishers are those an operator gave tokens to, so this is many.
const maxPaced = 10_000

// A pace bounds the requests and bytes a second of each publisher. What was not
// used in the last second, or of bytes for as long as the largest body takes, may
// be made up for at once.
type pace struct {
	requests, bytes rate.Limit // 0 means no bound

	mu      sync.Mutex
	buckets *simplelru.LRU[string, *bucketPair]
	crowd   *bucketPair // of all who find no room
}

// A bucketPair is what one publisher may still do.
type bucketPair struct{ requests, bytes *rate.Limiter }

// A paceError reports a request that comes too soon.
type paceError struct {
	limit int64
	unit  string
	wait  time.Duration // until there is room for it
}

func (e *paceError) Error() string {
	return fmt.Sprintf("more than %d %s a second", e.limit, e.unit)
}

// newPace bounds nothing where a bound is 0.
func newPace(requests int, bytes Size) *pace {
	p := &pace{requests: rate.Limit(requests), bytes: rate.Limit(bytes)}
	p.buckets, _ = simplelru.NewLRU[string, *bucketPair](maxPaced, nil)
	p.crowd = p.pair()
	return p
}

func (p *pace) pair() *bucketPair {
	return &bucketPair{
		requests: rate.NewLimiter(p.requests, max(int(p.requests), 1)),
		bytes:    rate.NewLimiter(p.bytes, max(int(p.bytes), maxBody)), // or no body of that size would ever pass
	}
}

// take books what a publisher does, or reports that it is too much by now; then
// nothing is booked.
func (p *pace) take(publisher string, requests, bytes int) error {
	b := p.of(publisher)
	if err := book(b.requests, p.requests, requests, "requests"); err != nil {
		return err
	}
	return book(b.bytes, p.bytes, bytes, "bytes")
}

func book(l *rate.Limiter, limit rate.Limit, n int, unit string) error {
	if limit == 0 || n == 0 {
		return nil
	}
	now := time.Now()
	booked := l.ReserveN(now, min(n, l.Burst()))
	wait := booked.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	booked.CancelAt(now)
	return &paceError{limit: int64(limit), unit: unit, wait: wait}
}

// of returns a publisher's buckets. To drop them would be to fill them: so room is
// made only by dropping some that are full, which are the same when they are made
// anew. Who finds no room shares buckets with all others of that kind: many names
// get nobody more.
func (p *pace) of(publisher string) *bucketPair {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.buckets.Get(publisher); ok {
		return b
	}
	if p.buckets.Len() == maxPaced {
		if _, oldest, _ := p.buckets.GetOldest(); !oldest.full() {
			return p.crowd
		}
	}
	b := p.pair()
	p.buckets.Add(publisher, b)
	return b
}

func (b *bucketPair) full() bool {
	now := time.Now()
	return full(b.requests, now) && full(b.bytes, now)
}

func full(l *rate.Limiter, now time.Time) bool {
	return l.Limit() == 0 || l.TokensAt(now) >= float64(l.Burst())
}

// seconds is a wait as Retry-After wants it: whole seconds, one at least.
func seconds(wait time.Duration) int { return max(1, int(math.Ceil(wait.Seconds()))) }

// paced refuses requests that come too soon.
func (h *Hub) paced(next http.Handler) http.Handler {
	return h.answered(func(w http.ResponseWriter, r *http.Request) error {
		if err := h.pace.take(h.payer(r), 1, 0); err != nil {
			return err
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

// payer is whose bucket a request is taken from: its publisher's, and of who has no
// token that of its address.
func (h *Hub) payer(r *http.Request) string {
	if rights := caller(r); !rights.Anonymous() {
		return rights.Subject
	}
	return "\n" + h.clientAddr(r) // no subject has a line end
}
