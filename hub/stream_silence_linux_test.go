package hub

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// silenceLimit is how long a hub may keep a reader that acknowledges nothing. By
// itself the kernel tries for about a quarter of an hour.
const silenceLimit = 45 * time.Second

// deafen makes a connection of which all that arrives is lost before the kernel
// acknowledges it, as behind a cable that was pulled.
func deafen(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
}

func TestTheHubLetsGoOfReadersThatAcknowledgeNothing(t *testing.T) {
	t.Parallel()
	l := startLasting(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for range 5 {
		var conn net.Conn
		// Without a keep-alive of its own nothing of the reader arrives either.
		a := ask{hub: l.cfg.Listen, query: map[string][]string{}, dialer: net.Dialer{KeepAlive: -1}, wrap: func(c net.Conn) net.Conn {
			conn = c
			return c
		}}
		if _, err := a.open(ctx); err != nil {
			t.Fatal(err)
		}
		deafen(t, conn)
	}
	untilMetric(t, l.client, l.url(), "freshwire_streams", 5, patience)
	l.publish(1, "/a")
	began := time.Now()
	untilMetric(t, l.client, l.url(), "freshwire_streams", 0, silenceLimit)
	t.Logf("let go after %s", time.Since(began).Round(time.Second))
}
