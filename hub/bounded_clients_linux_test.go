package hub

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestAHubWithFewDescriptorsServesBesideTenTimesAsManyClients(t *testing.T) {
	const files, clients = 512, 5120
	p := startProcess(t, files)
	before := p.heap()
	b := standBy(p.addr)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var crowd sync.WaitGroup
	var connected, ended atomic.Int64
	leave := make(chan struct{})
	for i := range clients {
		crowd.Go(func() {
			// All come from one address; a third says nothing, a third half a
			// request, a third has been served and stays.
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 10 * time.Second}
			conn, err := dialer.DialContext(ctx, "tcp", p.addr)
			if err != nil {
				return
			}
			defer conn.Close()
			connected.Add(1)
			gone := make(chan struct{})
			go func() { defer close(gone); io.Copy(io.Discard, conn) }()
			switch i % 3 {
			case 1:
				io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: loc")
			case 2:
				io.WriteString(conn, bare("GET", "/livez"))
			}
			select {
			case <-gone:
				ended.Add(1)
			case <-leave:
				conn.Close()
				<-gone
			}
		})
	}
	pass(4 * time.Second)
	beside := b.w.published.Load()
	pass(4 * time.Second)
	beside = b.w.published.Load() - beside
	t.Logf("%d of %d clients connected, %d were let go; %d updates of somebody else in 4 s", connected.Load(), clients, ended.Load(), beside)
	if beside < 10 {
		t.Errorf("%d updates in 4 s beside the crowd", beside)
	}
	close(leave)
	crowd.Wait()
	b.leave(t)
	if after := p.heap(); after > before+hostileMemory {
		t.Errorf("%.0f MB in use, %.0f MB at first", after/1e6, before/1e6)
	}
}
