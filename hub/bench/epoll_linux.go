package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

const (
	// readyAtOnce is for how many connections one call of epoll_wait answers.
	readyAtOnce = 512
	// bindWithoutPort is IP_BIND_ADDRESS_NO_PORT: the port is chosen when the other
	// end is known, so that two hubs do not compete for the ports of an address.
	bindWithoutPort = 24
	// stalledBuffer is the receive buffer of a reader that does not read, in
	// bytes: a hub then notices it after little.
	stalledBuffer = 4 << 10
)

// runEpoll is run with one loop over sockets that do not block.
func (p *pool) runEpoll(ctx context.Context) error {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	defer syscall.Close(epoll)
	defer p.hangUp()
	events := make([]syscall.EpollEvent, readyAtOnce)
	piece := make([]byte, pieceSize)
	for ctx.Err() == nil {
		p.mu.Lock()
		now := time.Now().UnixNano()
		for _, r := range p.due(now) {
			if err := p.dial(epoll, r); err != nil {
				p.left(r, err, now)
			}
		}
		p.mu.Unlock()
		n, err := syscall.EpollWait(epoll, events, int(lookAround/time.Millisecond))
		if err != nil && err != syscall.EINTR {
			return os.NewSyscallError("epoll_wait", err)
		}
		p.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			r := p.readers[e.Fd]
			if err := p.ready(epoll, r, piece); err != nil {
				syscall.Close(r.fd)
				p.left(r, err, time.Now().UnixNano())
			}
		}
		p.mu.Unlock()
	}
	return nil
}

// hangUp closes all connections.
func (p *pool) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.readers {
		if r.standing != waiting && r.standing != gone {
			syscall.Close(r.fd)
			r.standing = gone
		}
	}
}

// dial begins to connect r. Events of its socket carry its index instead of the
// descriptor.
func (p *pool) dial(epoll int, r *reader) error {
	family := syscall.AF_INET6
	if p.hub.Addr().Is4() {
		family = syscall.AF_INET
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	err = p.connect(epoll, fd, r)
	if err != nil {
		syscall.Close(fd)
		return err
	}
	r.fd = fd
	return nil
}

func (p *pool) connect(epoll, fd int, r *reader) error {
	if r.seat.stalled {
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, stalledBuffer); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if r.source.IsValid() {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, bindWithoutPort, 1) // Linux 4.2; without it ports are fewer
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: r.source.As4()}); err != nil {
			return fmt.Errorf("bind to %s: %w", r.source, err)
		}
	}
	var to syscall.Sockaddr = &syscall.SockaddrInet6{Port: int(p.hub.Port()), Addr: p.hub.Addr().As16()}
	if p.hub.Addr().Is4() {
		to = &syscall.SockaddrInet4{Port: int(p.hub.Port()), Addr: p.hub.Addr().As4()}
	}
	if err := syscall.Connect(fd, to); err != nil && err != syscall.EINPROGRESS {
		return os.NewSyscallError("connect", err)
	}
	return watch(epoll, syscall.EPOLL_CTL_ADD, fd, syscall.EPOLLOUT, r)
}

// watch says which events of fd are to be told.
func watch(epoll, op, fd int, events uint32, r *reader) error {
	return os.NewSyscallError("epoll_ctl",
		syscall.EpollCtl(epoll, op, fd, &syscall.EpollEvent{Events: events, Fd: r.index}))
}

// ready does what the connection of r is ready for. An error ends it.
func (p *pool) ready(epoll int, r *reader, piece []byte) error {
	switch r.standing {
	case dialing:
		return p.ask(epoll, r)
	case stalling:
		return io.ErrUnexpectedEOF // all that is watched for is the end
	}
	n, err := syscall.Read(r.fd, piece)
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
		return nil
	case err != nil:
		return os.NewSyscallError("read", err)
	case n == 0:
		return io.EOF
	}
	if err := p.took(r, piece[:n], time.Now().UnixNano()); err != nil {
		return err
	}
	if r.standing == stalling {
		return watch(epoll, syscall.EPOLL_CTL_MOD, r.fd, syscall.EPOLLRDHUP, r)
	}
	return nil
}

// ask sends the request of a connection that is made, or has failed. It is short:
// an empty send buffer takes it whole.
func (p *pool) ask(epoll int, r *reader) error {
	code, err := syscall.GetsockoptInt(r.fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	if err == nil && code != 0 {
		err = syscall.Errno(code)
	}
	if err != nil {
		return os.NewSyscallError("connect", err)
	}
	request := p.request(r)
	n, err := syscall.Write(r.fd, request)
	if err == nil && n < len(request) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("sending a request: %w", err)
	}
	r.standing = asking
	return watch(epoll, syscall.EPOLL_CTL_MOD, r.fd, syscall.EPOLLIN|syscall.EPOLLRDHUP, r)
}
