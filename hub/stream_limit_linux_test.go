package hub

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A crowd is many clients that want streams at once.
type crowd struct {
	mu      sync.Mutex
	served  int
	refused int
	letGo   int // without a word
	faults  []error
}

// want asks for a stream and holds on to what it gets, also to a connection on
// which it was refused, as browsers do, until ctx ends.
func (c *crowd) want(ctx context.Context, a ask) {
	a.hold = true
	deadline := time.AfterFunc(10*time.Second, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.faults = append(c.faults, errors.New("a stream is neither served nor refused within 10 s"))
	})
	_, err := a.open(ctx)
	if !deadline.Stop() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var no *refused
	switch {
	case err == nil:
		c.served++
	case errors.As(err, &no) && no.retryAfter != "" && (no.status == http.StatusServiceUnavailable || no.status == http.StatusTooManyRequests):
		c.refused++
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		c.letGo++ // there was no place for its connection
	default:
		c.faults = append(c.faults, err)
	}
}

func TestStreamsLeaveDescriptorsForPublishers(t *testing.T) {
	const files, clients = 600, 1000
	p := startProcess(t, files)
	w := &watch{p: p}
	stop := make(chan struct{})
	var watching, wanting sync.WaitGroup
	watching.Go(func() { w.run(stop) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var c crowd
	for i := range clients {
		wanting.Go(func() {
			c.want(ctx, ask{hub: p.addr, query: map[string][]string{}, dialer: net.Dialer{LocalAddr: from(i, 100)}})
		})
	}
	for began := time.Now(); time.Since(began) < 12*time.Second; pass(50 * time.Millisecond) {
		c.mu.Lock()
		settled := c.served+c.refused+c.letGo+len(c.faults) >= clients
		c.mu.Unlock()
		if settled {
			break
		}
	}
	before := w.published.Load()
	pass(2 * time.Second) // publishers go on while the crowd is there
	if n := w.published.Load() - before; n < 10 {
		t.Errorf("%d updates in 2 s beside the crowd", n)
	}
	c.mu.Lock()
	t.Logf("of %d clients of a hub with %d descriptors %d are served, %d refused, %d let go, %d neither", clients, files, c.served, c.refused, c.letGo, len(c.faults))
	if c.served < files/4 || c.served > files || c.refused+c.letGo < clients-files || len(c.faults) > 0 {
		t.Errorf("faults of the first kinds: %v", errors.Join(c.faults[:min(3, len(c.faults))]...))
	}
	c.mu.Unlock()
	cancel()
	wanting.Wait()

	later, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for i := 0; i < files/4; {
		a := ask{hub: p.addr, query: map[string][]string{}, dialer: net.Dialer{LocalAddr: from(i, 100)}}
		_, err := a.open(later)
		if err == nil {
			i++
			continue
		}
		if later.Err() != nil {
			t.Errorf("when the crowd has gone %d streams are served, not the next: %v", i, err)
			break
		}
		pass(100*time.Millisecond, later.Done())
	}
	close(stop)
	watching.Wait()
	w.report(t)
}
