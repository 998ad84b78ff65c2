package subscriptions

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// portable owns the streams that have a goroutine each, in which a write may
// block: those over TLS and HTTP/2, and all of them on other systems than Linux.
// One takes about 30 KB.
type portable struct {
	s       *Streamer
	mu      sync.Mutex
	members map[*class]map[*waiter]struct{}
}

// A waiter is a stream and what wakes its goroutine.
type waiter struct {
	stream
	news chan struct{} // holds one
}

func newPortable(s *Streamer) *portable {
	return &portable{s: s, members: map[*class]map[*waiter]struct{}{}}
}

func (p *portable) news(classes []*class) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range classes {
		for w := range p.members[c] {
			w.wake()
		}
	}
}

func (w *waiter) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// wakeAll has every stream look whether it is to end.
func (p *portable) wakeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		for w := range m {
			w.wake()
		}
	}
}

func (p *portable) join(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.members[w.class]
	if m == nil {
		m = map[*waiter]struct{}{}
		p.members[w.class] = m
	}
	m[w] = struct{}{}
}

func (p *portable) leave(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.members[w.class]
	delete(m, w)
	if len(m) == 0 {
		delete(p.members, w.class)
	}
}

// run moves w on until it has ended, and returns why.
func (p *portable) run(ctx context.Context, w *waiter) reason {
	p.join(w)
	defer p.leave(w)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := p.s.now()
		switch w.turn(now) {
		case more:
			if ctx.Err() != nil {
				return left
			}
			continue
		case behind:
			b, err := p.s.replay(w.class, w.format, w.cursor)
			if err != nil {
				p.s.o.Log.Error("stream broke off", "err", err)
				return failed
			}
			w.took(b, now)
			continue
		case over:
			return w.why
		}
		timer.Reset(max(w.due(now)-now, 0))
		select {
		case <-w.news:
		case <-timer.C:
		case <-ctx.Done():
			return left
		}
	}
}

// blocking is a transport whose writes wait for the peer.
type blocking struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (t *blocking) write(b []byte) (int, error) {
	if err := t.control.SetWriteDeadline(time.Now().Add(writeDeadline)); err != nil {
		return 0, err
	}
	n, err := t.w.Write(b)
	if err == nil {
		err = t.control.Flush()
	}
	return n, err
}

// reasonOf tells a peer that took nothing from one that went.
func reasonOf(err error) reason {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return slow
	}
	return left
}
