package hub

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// TestTenTimesAsManyClientsAsDescriptors has clients hold connections in the ways
// that cost them nothing: some say nothing, some begin a header, some were answered
// and stay. When they have passed through the places, whoever publishes is served
// beside them and those who come again.
func TestTenTimesAsManyClientsAsDescriptors(t *testing.T) {
	const files, clients, dialling = 512, 5120, 32
	if n := descriptors(); n > 0 && n < clients+1000 {
		t.Skipf("this process may have %d descriptors only", n)
	}
	p := startProcess(t, files)
	held := make([]net.Conn, clients)
	come := func(i int) {
		if held[i] != nil {
			held[i].Close()
		}
		d := net.Dialer{LocalAddr: from(i, 100), Timeout: patience}
		var err error
		if held[i], err = d.Dial("tcp", p.addr); err != nil {
			t.Errorf("client %d: %v", i, err)
			return
		}
		switch i % 3 {
		case 0:
			fmt.Fprint(held[i], "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		case 1:
			fmt.Fprint(held[i], "GET /healthz HTTP/1.1\r\nHost: lo")
		}
	}
	var crowd sync.WaitGroup
	began := time.Now()
	for n := range dialling {
		crowd.Go(func() {
			for i := n; i < clients && !t.Failed(); i += dialling {
				come(i)
			}
		})
	}
	crowd.Wait()
	if _, err := p.get(p.url() + "/healthz"); err != nil || time.Since(began) > patience {
		t.Errorf("the crowd holds up the next for %s: %v", time.Since(began), err)
	}
	t.Logf("%d clients came and the next one was served after %s", clients, time.Since(began).Round(time.Millisecond))

	w := &watch{p: p}
	stop := make(chan struct{})
	var watching, again sync.WaitGroup
	watching.Go(func() { w.run(stop) })
	again.Go(func() {
		for i := 0; !t.Failed(); i = (i + 1) % clients { // 200 a second
			come(i)
			pass(5*time.Millisecond, stop)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	pass(3 * time.Second)
	close(stop)
	watching.Wait()
	again.Wait()
	if n := w.published.Load(); n < 15 {
		t.Errorf("%d updates in 3 s beside the crowd", n)
	}
	if n := p.metric("process_open_fds"); n > files-50 {
		t.Errorf("%v of %d descriptors are open", n, files)
	}
	t.Logf("%v connections have a place, %v were closed for others", p.metric("freshwire_connections"), p.metric("freshwire_connections_evicted_total"))
	for _, conn := range held {
		if conn != nil {
			conn.Close()
		}
	}
	w.report(t)
}
