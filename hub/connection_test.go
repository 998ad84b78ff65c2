package hub

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A holder is a client that holds on to its connection.
type holder struct {
	conn net.Conn
	r    *bufio.Reader
}

func holdOpen(t *testing.T, addr string) *holder {
	t.Helper()
	return holdOpenFrom(t, addr, "127.0.0.1")
}

// holdOpenFrom is holdOpen from another address of this machine.
func holdOpenFrom(t *testing.T, addr, from string) *holder {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &holder{conn, bufio.NewReader(conn)}
}

// ask sends a request for path and reads the answer.
func (h *holder) ask(path string) error {
	fmt.Fprintf(h.conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	resp, err := http.ReadResponse(h.r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// gone waits until the other side has closed, and says whether it did.
func (h *holder) gone() bool {
	_, err := h.r.ReadByte()
	return err != nil && !strings.Contains(err.Error(), "timeout")
}

// placed waits until n connections have a place.
func (c *connections) placed(t *testing.T, n int) {
	t.Helper()
	for began := time.Now(); time.Since(began) < patience; pass(time.Millisecond) {
		if open, _, _ := c.counts(); open == n {
			return
		}
	}
	open, _, _ := c.counts()
	t.Fatalf("%d connections are open, want %d", open, n)
}

func TestAnAddressHasABoundOfConnections(t *testing.T) {
	h := startHub(t, func(c *Config) { c.ConnectionsPerAddress, c.StreamsPerAddress = 3, 2 })
	addr := h.Addr().String()
	var all []*holder
	for range 5 {
		all = append(all, holdOpen(t, addr))
		if err := all[len(all)-1].ask("/healthz"); err != nil {
			t.Fatal(err)
		}
	}
	if more := holdOpen(t, addr); !more.gone() {
		t.Error("a connection beyond the bound is kept")
	}
	all[0].conn.Close()
	h.listener.placed(t, 4)
	if err := holdOpen(t, addr).ask("/healthz"); err != nil {
		t.Errorf("when one has ended: %v", err)
	}
	if _, refused, evicted := h.listener.counts(); refused != 1 || evicted != 0 {
		t.Errorf("%d refused, %d evicted; want 1 and 0", refused, evicted)
	}
}

func TestATrustedProxyMayHaveAsManyConnectionsAsItWants(t *testing.T) {
	h := startHub(t, func(c *Config) {
		c.ConnectionsPerAddress, c.StreamsPerAddress, c.TrustedProxy = 1, 1, prefixesOf("127.0.0.0/8")
	})
	for range 10 {
		if err := holdOpen(t, h.Addr().String()).ask("/healthz"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhoAsksNothingMakesRoomForWhoDoes(t *testing.T) {
	const most = 4
	h := startHub(t, nil)
	h.listener.mu.Lock()
	h.listener.most = most
	h.listener.mu.Unlock()
	addr := h.Addr().String()

	var kept []*holder
	for range most {
		kept = append(kept, holdOpen(t, addr))
		if err := kept[len(kept)-1].ask("/healthz"); err != nil {
			t.Fatal(err)
		}
	}
	if err := kept[0].ask("/healthz"); err != nil { // now the second has been idle for longest
		t.Fatal(err)
	}
	if err := holdOpen(t, addr).ask("/healthz"); err != nil {
		t.Errorf("beside idle connections: %v", err)
	}
	if !kept[1].gone() {
		t.Error("the connection that was idle for longest is still open")
	}
	if err := kept[0].ask("/healthz"); err != nil {
		t.Errorf("one that was used meanwhile: %v", err)
	}
}

func TestACrowdMakesRoomForItselfAndNotAtTheCostOfOthers(t *testing.T) {
	const most = 6
	h := startHub(t, nil)
	h.listener.mu.Lock()
	h.listener.most = most
	h.listener.mu.Unlock()
	addr := h.Addr().String()
	other := holdOpen(t, addr)
	for round := range 5 {
		if err := other.ask("/healthz"); err != nil { // then it is idle, and the only one
			t.Fatalf("in round %d its connection was taken from somebody else: %v", round, err)
		}
		for range 2 * most {
			fmt.Fprintf(holdOpenFrom(t, addr, "127.0.0.2").conn, "GET /healthz HTTP/1.1\r\nHost: loc")
		}
		h.listener.placed(t, most)
	}
}

func TestWhoNeverEndsItsHeaderMakesRoomForWhoAsks(t *testing.T) {
	const most = 4
	h := startHub(t, nil)
	h.listener.mu.Lock()
	h.listener.most = most
	h.listener.mu.Unlock()
	addr := h.Addr().String()
	for i := range 3 * most {
		slow := holdOpen(t, addr)
		if i%2 == 0 {
			fmt.Fprintf(slow.conn, "GET /healthz HTTP/1.1\r\nHost: loc")
		}
	}
	h.listener.placed(t, most)
	began := time.Now()
	if err := holdOpen(t, addr).ask("/healthz"); err != nil {
		t.Errorf("beside headers that never end: %v", err)
	}
	if took := time.Since(began); took > headerDeadline/2 {
		t.Errorf("it took %s", took)
	}
}

func TestConnectionsThatAreServedKeepTheirPlacesAndOthersWait(t *testing.T) {
	const most = 2
	h := startHub(t, nil)
	h.listener.mu.Lock()
	h.listener.most = most
	h.listener.mu.Unlock()
	addr := h.Addr().String()
	var busy []*holder
	for range most {
		b := holdOpen(t, addr)
		fmt.Fprintf(b.conn, "POST /v1/status HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n")
		busy = append(busy, b)
	}
	h.listener.placed(t, most)
	waiting := holdOpen(t, addr)
	answered := make(chan error, 1)
	go func() { answered <- waiting.ask("/healthz") }()
	pass(3 * headerGrace)
	select {
	case err := <-answered:
		t.Fatalf("the one too many was answered at once: %v", err)
	default:
	}
	io.WriteString(busy[0].conn, `{"uris":[]}`)
	if resp, err := http.ReadResponse(busy[0].r, nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a request in the middle of its body: %v, %v", resp, err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the one that waited: %v", err)
	}
	io.WriteString(busy[1].conn, `{"uris":[]}`)
	if resp, err := http.ReadResponse(busy[1].r, nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the other one: %v, %v", resp, err)
	}
}

func TestAddressesOfOneCustomerCountAsOne(t *testing.T) {
	for _, tt := range []struct{ a, b string }{
		{"192.0.2.1:1", "192.0.2.1:2"},
		{"[::ffff:192.0.2.1]:1", "192.0.2.1:2"},
		{"[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::9]:2"},
	} {
		a, _ := network(net.TCPAddrFromAddrPort(addrPort(tt.a)))
		b, _ := network(net.TCPAddrFromAddrPort(addrPort(tt.b)))
		if a != b || !a.IsValid() {
			t.Errorf("%s is %v, %s is %v", tt.a, a, tt.b, b)
		}
	}
	a, _ := network(net.TCPAddrFromAddrPort(addrPort("[2001:db8:1:2::1]:1")))
	b, _ := network(net.TCPAddrFromAddrPort(addrPort("[2001:db8:1:3::1]:1")))
	if a == b {
		t.Errorf("two networks are one: %v", a)
	}
}
