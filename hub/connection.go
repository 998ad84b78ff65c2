package hub

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Grace is how long a connection has its place for certain while the header of a
// request is to come, from its beginning or from the first byte after a pause. A
// header follows the packet that makes a connection, or its own first packet, at
// once; an agreement on TLS takes a few round trips before. A crowd of the silent
// passes through the places as fast as this lets it.
const (
	headerGrace    = 100 * time.Millisecond
	headerGraceTLS = time.Second
)

// connections bounds those that the server holds, of one address and of all. A
// stream that was taken from the server is counted by who took it.
//
// When all places are taken, a connection goes that is idle, or that has not brought a
// whole header in time: whoever keeps connections and asks nothing keeps nobody out. Of
// those that have waited longest it is one of the address that has the most, so that a
// crowd makes room for itself and not at the cost of others. If all are being served,
// the next ones wait, in the kernel's queue, for one to end; the server's deadlines see
// to that.
type connections struct {
	net.Listener
	most    int // of all; 0 means no bound
	perAddr int
	exempt  func(addr string) bool // from the bound of one address
	grace   time.Duration

	mu      sync.Mutex
	open    map[net.Conn]*connection
	byAddr  map[netip.Prefix]int
	fresh   *list.List // of *connection whose header is to come, the oldest first
	idle    *list.List // of *connection between two requests, the longest idle first
	refused uint64
	evicted uint64

	moves  chan struct{} // a connection ended or became idle
	closed chan struct{}
	close  sync.Once
}

type connection struct {
	conn  net.Conn
	addr  netip.Prefix // zero if it is exempt
	since time.Time
	in    *list.List // fresh, idle, or nil while it is served
	at    *list.Element
}

func newConnections(l net.Listener, most, perAddr int, exempt func(addr string) bool) *connections {
	return &connections{Listener: l, most: most, perAddr: perAddr, exempt: exempt, open: map[net.Conn]*connection{},
		byAddr: map[netip.Prefix]int{}, fresh: list.New(), idle: list.New(), grace: headerGrace, moves: make(chan struct{}, 1), closed: make(chan struct{})}
}

// Accept waits for a connection, and for a place for it.
func (c *connections) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		for {
			admitted, wait := c.admit(conn)
			if admitted {
				return conn, nil
			}
			if wait == 0 {
				conn.Close()
				break
			}
			soon := time.NewTimer(wait)
			select {
			case <-c.moves:
			case <-soon.C:
			case <-c.closed:
				soon.Stop()
				conn.Close()
				return nil, net.ErrClosed
			}
			soon.Stop()
		}
	}
}

// Close ends the listening, not what is open.
func (c *connections) Close() error {
	c.close.Do(func() { close(c.closed) })
	return c.Listener.Close()
}

// network is what counts as one address: one of IPv4, or the 64 bits of IPv6 that
// one customer is given at least.
func network(addr net.Addr) (p netip.Prefix, host string) {
	to, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}, ""
	}
	a := to.Addr().Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ = a.Prefix(bits)
	return p, a.String()
}

// admit gives a connection a place, or says how long to wait for one; 0 is not at
// all, for its address has too many.
func (c *connections) admit(conn net.Conn) (ok bool, wait time.Duration) {
	addr, host := network(conn.RemoteAddr())
	if host == "" || c.exempt(host) {
		addr = netip.Prefix{}
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if addr.IsValid() && c.byAddr[addr] >= c.perAddr {
		c.refused++
		return false, 0
	}
	if c.most > 0 && len(c.open) >= c.most {
		if wait := c.evict(now); wait > 0 {
			return false, wait
		}
	}
	k := &connection{conn: conn, addr: addr, since: now}
	k.moveTo(c.fresh)
	c.open[conn] = k
	if addr.IsValid() {
		c.byAddr[addr]++
	}
	return true, 0
}

// evict ends a connection that waits for its client, or says when to try again.
func (c *connections) evict(now time.Time) (wait time.Duration) {
	gone := c.crowding(c.idle)
	if k := c.crowding(c.fresh); k != nil && (gone == nil || c.byAddr[k.addr] > c.byAddr[gone.addr]) {
		if wait := k.since.Add(c.grace).Sub(now); wait > 0 {
			return wait
		}
		gone = k
	}
	if gone == nil {
		return c.grace
	}
	c.forget(gone)
	c.evicted++
	gone.conn.Close()
	return 0
}

// candidates bounds how many connections are looked at for one to go.
const candidates = 64

// crowding returns, of those that have been longest on a list, the first whose
// address has the most connections; nil if there is none. Who is exempt counts as
// having none.
func (c *connections) crowding(l *list.List) (worst *connection) {
	n := 0
	for e := l.Front(); e != nil && n < candidates; e = e.Next() {
		if k := e.Value.(*connection); worst == nil || c.byAddr[k.addr] > c.byAddr[worst.addr] {
			worst = k
		}
		n++
	}
	return worst
}

// moveTo puts k at the end of a list, or on none.
func (k *connection) moveTo(l *list.List) {
	if k.in != nil {
		k.in.Remove(k.at)
	}
	if k.in = l; l != nil {
		k.at = l.PushBack(k)
	}
}

// moved is told of each state that the server sees a connection in.
func (c *connections) moved(conn net.Conn, to http.ConnState) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.open[conn]
	if k == nil {
		return // it had to go already
	}
	switch to {
	case http.StateActive: // at its first byte
		if k.in == c.idle {
			k.since = time.Now()
			k.moveTo(c.fresh)
		}
		return
	case http.StateIdle:
		k.moveTo(c.idle)
	case http.StateHijacked, http.StateClosed:
		c.forget(k)
	}
	select {
	case c.moves <- struct{}{}:
	default:
	}
}

// arrivedKey is where the context of a request has whom to tell that its header is
// there.
type arrivedKey struct{}

func (c *connections) context(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return context.WithValue(ctx, arrivedKey{}, func() { c.serve(conn) })
}

// arrived is told of each request: from now on its connection keeps its place until
// it is answered.
func arrived(ctx context.Context) {
	if tell, ok := ctx.Value(arrivedKey{}).(func()); ok {
		tell()
	}
}

func (c *connections) serve(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.open[conn]; k != nil {
		k.moveTo(nil)
	}
}

// forget gives the place of a connection to others.
func (c *connections) forget(k *connection) {
	delete(c.open, k.conn)
	k.moveTo(nil)
	if k.addr.IsValid() {
		if c.byAddr[k.addr]--; c.byAddr[k.addr] == 0 {
			delete(c.byAddr, k.addr)
		}
	}
}

// counts are how many are open, and how many were closed for want of room.
func (c *connections) counts() (open int, refused, evicted uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.refused, c.evicted
}
