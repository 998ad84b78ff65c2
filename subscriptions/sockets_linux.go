package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// sendBuffer bounds what the kernel holds for a reader, in bytes; it doubles
	// the number for its own bookkeeping. Left alone it grows to 4 MiB for each
	// reader that hangs.
	sendBuffer = 64 << 10
	// userTimeout is how long sent bytes may stay unacknowledged, in milliseconds:
	// a peer that vanished without a word holds a descriptor no longer.
	userTimeout = 30_000
	// tcpUserTimeout is the socket option TCP_USER_TIMEOUT of Linux.
	tcpUserTimeout = 18
	// pollBatch is how many sockets are told ready at once.
	pollBatch = 256
)

// sockets owns the streams over plain TCP on Linux. They are taken from the HTTP
// server and spread over shards, one for each processor. An idle one has no
// goroutine and costs a few hundred bytes.
type sockets struct {
	s      *Streamer
	shards []*shard
	behind replayQueue
}

// A shard moves its streams on in one goroutine; no write of it blocks.
type shard struct {
	s      *sockets
	epoll  int
	poller *os.File // epoll, for the runtime to wait for

	mu     sync.Mutex
	inbox  inbox
	wake   chan struct{} // holds one
	closed bool          // nothing more is taken

	// Touched by the shard's goroutine alone.
	byFD    []*socket
	members map[*class][]*socket
	timers  timers
	again   []*socket // go on at once
	lastGen int32
}

// inbox is what came for a shard since it last looked.
type inbox struct {
	joins  []*socket
	ready  []syscall.EpollEvent
	loaded []loaded
	news   []*class
	all    bool // every stream is to look whether it ends
}

// loaded is what a read of the store brought.
type loaded struct {
	k   *socket
	b   *bundle
	err error
}

// A socket is a stream over a descriptor of its own.
type socket struct {
	stream
	shard   *shard
	fd      int
	gen     int32 // tells it from those that had the descriptor before
	slot    int   // its place among the members of its class
	timer   timer
	waiting bool // for a read of the store
	queued  bool // it is in again
}

func newSockets(s *Streamer) *sockets {
	ss := &sockets{s: s}
	ss.behind.wake.L = &ss.behind.mu
	for range runtime.GOMAXPROCS(0) {
		ss.shards = append(ss.shards, &shard{s: ss, wake: make(chan struct{}, 1), members: map[*class][]*socket{}})
	}
	return ss
}

// open makes what tells the shard of its sockets.
func (sh *shard) open() (err error) {
	if sh.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if err := syscall.SetNonblock(sh.epoll, true); err != nil {
		return errors.Join(err, syscall.Close(sh.epoll))
	}
	sh.poller = os.NewFile(uintptr(sh.epoll), "epoll")
	return nil
}

// run moves the streams on until ctx ends, and then cuts them off.
func (ss *sockets) run(ctx context.Context) error {
	for _, sh := range ss.shards {
		if err := sh.open(); err != nil {
			return err
		}
		defer sh.poller.Close()
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, sh := range ss.shards {
		g.Go(func() error { sh.run(ctx); return nil })
		g.Go(sh.poll)
		// Readers who catch up share as many readers of the store as there are
		// processors, in the order they came.
		g.Go(func() error { ss.replay(); return nil })
	}
	<-ctx.Done()
	ss.behind.end()
	for _, sh := range ss.shards {
		sh.poller.SetReadDeadline(time.Now()) // wakes poll
	}
	return g.Wait()
}

func (ss *sockets) news(classes []*class) {
	for _, sh := range ss.shards {
		sh.post(func(in *inbox) { in.news = append(in.news, classes...) })
	}
}

func (ss *sockets) wakeAll() {
	for _, sh := range ss.shards {
		sh.post(func(in *inbox) { in.all = true })
	}
}

// replay reads the store for those who are behind.
func (ss *sockets) replay() {
	for k := ss.behind.next(); k != nil; k = ss.behind.next() {
		b, err := ss.s.replay(k.class, k.format, k.cursor)
		k.shard.post(func(in *inbox) { in.loaded = append(in.loaded, loaded{k, b, err}) })
	}
}

// replayQueue holds the streams that wait for a read of the store, each at most once.
type replayQueue struct {
	mu    sync.Mutex
	wake  sync.Cond
	list  []*socket
	ended bool
}

func (q *replayQueue) put(k *socket) {
	q.mu.Lock()
	q.list = append(q.list, k)
	q.mu.Unlock()
	q.wake.Signal()
}

// next waits for a stream; nil means that there will be no more.
func (q *replayQueue) next() *socket {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) == 0 && !q.ended {
		q.wake.Wait()
	}
	if q.ended {
		return nil
	}
	k := q.list[0]
	q.list[0] = nil
	if q.list = q.list[1:]; len(q.list) == 0 {
		q.list = nil
	}
	return k
}

func (q *replayQueue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.wake.Broadcast()
}

// isPlainTCP reports whether the bytes of an answer go over a TCP connection as
// they are.
func isPlainTCP(r *http.Request) bool {
	_, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && r.ProtoMajor == 1 && r.TLS == nil
}

// hijack takes the connection from the server and gives the stream to a shard.
func (s *Streamer) hijack(w http.ResponseWriter, st stream, from start) error {
	header := answerHeader(w.Header())
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.pump.leave(st.class)
		s.release(st.counts)
		return fmt.Errorf("taking the connection of a stream: %w", err)
	}
	s.stats.opened.Add(1)
	k := &socket{stream: st}
	if k.fd, err = adopt(conn); err != nil {
		s.o.Log.Warn("stream could not begin", "err", err)
		turnAway(conn)
		s.ended(&k.stream, failed)
		return nil
	}
	conn.Close() // the stream has a descriptor of its own
	k.out = k
	k.begin(from, s.now())
	k.rest = append(header, k.rest...)
	shards := s.sockets.shards
	k.shard = shards[k.fd%len(shards)]
	if !k.shard.post(func(in *inbox) { in.joins = append(in.joins, k) }) {
		syscall.Close(k.fd)
		s.ended(&k.stream, shutdown)
	}
	return nil
}

// answerHeader is the head of an answer that ends with its connection.
// Source: RFC 9112, section 6.3.
func answerHeader(h http.Header) []byte {
	var b strings.Builder
	b.WriteString("HTTP/1.1 200 OK\r\n")
	h.Set("Connection", "close")
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Write(&b) // a Builder takes all
	b.WriteString("\r\n")
	return []byte(b.String())
}

// turnAway answers on a connection for which there is no descriptor left.
func turnAway(conn net.Conn) {
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	const body = `{"type":"urn:freshwire:problem:no-room","title":"The hub has as many streams as it bears","status":503}`
	answer := http.Response{StatusCode: http.StatusServiceUnavailable, ProtoMajor: 1, ProtoMinor: 1, Close: true,
		Header: http.Header{"Content-Type": {"application/problem+json"}, "Retry-After": {strconv.Itoa(int(retryRefused / time.Second))}},
		Body:   io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
	answer.Write(conn) // who does not read it is not there
}

// adopt returns a further descriptor for a connection.
func adopt(conn net.Conn) (fd int, err error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("a %T has no descriptor", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errno syscall.Errno
	err = raw.Control(func(old uintptr) {
		var dup uintptr
		dup, _, errno = syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
		fd = int(dup)
	})
	if err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, errno
	}
	err = errors.Join(syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer),
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, tcpUserTimeout, userTimeout))
	if err != nil {
		return 0, errors.Join(err, syscall.Close(fd))
	}
	return fd, nil
}

// write hands b to the kernel until it takes no more.
func (k *socket) write(b []byte) (n int, err error) {
	for n < len(b) {
		took, err := syscall.Write(k.fd, b[n:])
		switch {
		case took > 0:
			n += took
		case err == syscall.EAGAIN:
			return n, nil
		case err != syscall.EINTR:
			return n, err
		}
	}
	return n, nil
}

// post leaves something in the inbox; false means that nobody looks any more.
func (sh *shard) post(f func(*inbox)) bool {
	sh.mu.Lock()
	closed := sh.closed
	if !closed {
		f(&sh.inbox)
	}
	sh.mu.Unlock()
	select {
	case sh.wake <- struct{}{}:
	default:
	}
	return !closed
}

// poll waits for sockets that can be written again or whose peer went.
func (sh *shard) poll() error {
	raw, err := sh.poller.SyscallConn()
	if err != nil {
		return err
	}
	events := make([]syscall.EpollEvent, pollBatch)
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			var err error
			if n, err = syscall.EpollWait(int(fd), events, 0); err != nil {
				n = 0 // interrupted: the runtime waits again
			}
			return n > 0
		})
		if err != nil {
			return nil // closed
		}
		sh.post(func(in *inbox) { in.ready = append(in.ready, events[:n]...) })
	}
}

// run moves the shard's streams on until ctx ends.
func (sh *shard) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		sh.look()
		if len(sh.again) > 0 {
			continue
		}
		timer.Reset(sh.sleep())
		select {
		case <-sh.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	sh.mu.Lock()
	sh.closed = true
	in := sh.inbox
	sh.inbox = inbox{}
	sh.mu.Unlock()
	for _, k := range in.joins {
		syscall.Close(k.fd)
		sh.s.s.ended(&k.stream, shutdown)
	}
	for _, k := range sh.byFD {
		if k != nil {
			sh.end(k, shutdown)
		}
	}
}

// look does what has come and what is due.
func (sh *shard) look() {
	sh.mu.Lock()
	in := sh.inbox
	sh.inbox = inbox{}
	sh.mu.Unlock()
	now := sh.s.s.now()
	for _, k := range in.joins {
		sh.join(k, now)
	}
	for i := range in.ready {
		sh.ready(&in.ready[i], now)
	}
	for _, l := range in.loaded {
		sh.take(l, now)
	}
	for _, c := range in.news {
		for _, k := range sh.members[c] {
			sh.enqueue(k)
		}
	}
	if in.all {
		for _, k := range sh.byFD {
			if k != nil {
				sh.enqueue(k)
			}
		}
	}
	for k := sh.timers.due(now); k != nil; k = sh.timers.due(now) {
		if !k.waiting {
			sh.turn(k, now)
		}
	}
	list := sh.again
	sh.again = nil
	for _, k := range list {
		k.queued = false
		if k.fd >= 0 {
			sh.turn(k, now)
		}
	}
}

// enqueue has k turned in this look, unless it waits for something else.
func (sh *shard) enqueue(k *socket) {
	if !k.queued && !k.full && !k.waiting {
		k.queued = true
		sh.again = append(sh.again, k)
	}
}

// sleep is how long nothing is due.
func (sh *shard) sleep() time.Duration {
	const long = time.Minute
	at, ok := sh.timers.next()
	if !ok {
		return long
	}
	return min(long, max(at-sh.s.s.now(), 0))
}

func (sh *shard) join(k *socket, now time.Duration) {
	for k.fd >= len(sh.byFD) {
		sh.byFD = append(sh.byFD, make([]*socket, max(64, len(sh.byFD)/4))...)
	}
	sh.lastGen++
	k.gen = sh.lastGen
	sh.byFD[k.fd] = k
	k.slot = len(sh.members[k.class])
	sh.members[k.class] = append(sh.members[k.class], k)
	// Edge-triggered: told once when the peer goes, and once each time that a
	// socket that was full has room again.
	event := syscall.EpollEvent{Events: syscall.EPOLLOUT | syscall.EPOLLRDHUP | epollEdge, Fd: int32(k.fd), Pad: k.gen}
	if err := syscall.EpollCtl(sh.epoll, syscall.EPOLL_CTL_ADD, k.fd, &event); err != nil {
		sh.s.s.o.Log.Warn("stream could not begin", "err", err)
		sh.end(k, failed)
		return
	}
	sh.turn(k, now)
}

// epollEdge is EPOLLET, which package syscall has as a negative number.
const epollEdge = 1 << 31

func (sh *shard) ready(e *syscall.EpollEvent, now time.Duration) {
	if int(e.Fd) >= len(sh.byFD) {
		return
	}
	k := sh.byFD[e.Fd]
	if k == nil || k.gen != e.Pad {
		return
	}
	if e.Events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		sh.end(k, left)
		return
	}
	if k.full {
		k.full = false
		sh.turn(k, now)
	}
}

// take goes on with what was read from the store.
func (sh *shard) take(l loaded, now time.Duration) {
	k := l.k
	if k.fd < 0 {
		return // ended meanwhile
	}
	k.waiting = false
	if l.err != nil {
		sh.s.s.o.Log.Error("stream broke off", "err", l.err)
		sh.end(k, failed)
		return
	}
	k.took(l.b, now)
	sh.enqueue(k)
}

func (sh *shard) turn(k *socket, now time.Duration) {
	switch k.turn(now) {
	case more:
		sh.enqueue(k)
		return
	case behind:
		k.waiting = true
		sh.s.behind.put(k)
		return
	case over:
		sh.end(k, k.why)
		return
	}
	sh.timers.set(k, k.due(now))
}

// end closes a socket. The kernel goes on sending what it has taken.
func (sh *shard) end(k *socket, why reason) {
	syscall.Close(k.fd)
	sh.byFD[k.fd], k.fd = nil, -1
	sh.timers.stop(k)
	list := sh.members[k.class]
	last := len(list) - 1
	list[k.slot] = list[last]
	list[k.slot].slot = k.slot
	list[last] = nil
	if list = list[:last]; len(list) == 0 {
		delete(sh.members, k.class)
	} else {
		sh.members[k.class] = list
	}
	k.rest, k.held = nil, nil
	sh.s.s.ended(&k.stream, why)
}
