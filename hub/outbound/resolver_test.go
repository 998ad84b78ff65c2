package outbound

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A nameServer answers over UDP. Each question for addresses of IPv4 gets the next
// of its answers, the last one for ever; other questions get an empty answer.
type nameServer struct {
	conn net.PacketConn

	mu      sync.Mutex
	answers [][]string
	asked   int
	askers  []net.Conn // of its resolver
	ended   bool
}

func newNameServer(t *testing.T, answers ...[]string) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn, answers: answers}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if answer, ok := s.answer(b[:n]); ok {
				conn.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = true
		for _, asker := range s.askers {
			asker.Close() // package net asks on for a while after everybody gave up
		}
	})
	return s
}

func (s *nameServer) answer(question []byte) ([]byte, bool) {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil, false
	}
	q := m.Questions[0]
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) == 0 {
		return nil, false // silence
	}
	if q.Type == dnsmessage.TypeA {
		for _, addr := range s.answers[min(s.asked, len(s.answers)-1)] {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()}})
		}
		s.asked++
	}
	b, err := reply.Pack()
	return b, err == nil
}

func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ended {
			return nil, net.ErrClosed
		}
		var d net.Dialer
		asker, err := d.DialContext(ctx, "udp", s.conn.LocalAddr().String())
		if err == nil {
			s.askers = append(s.askers, asker)
		}
		return asker, err
	}}
}

// listenAt counts the connections to one address, on a port that is free there.
func listenAt(t *testing.T, addr string, h http.HandlerFunc) *trap {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Skipf("this system has no such address: %v", err)
	}
	tr := &trap{port: strings.TrimPrefix(l.Addr().String()[strings.LastIndexByte(l.Addr().String(), ':'):], ":")}
	s := &http.Server{Handler: h, ConnState: func(_ net.Conn, to http.ConnState) {
		if to == http.StateNew {
			tr.taken.Add(1)
		}
	}}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return tr
}

func ok(http.ResponseWriter, *http.Request) {}

func TestANameThatResolvesElsewhereTheSecondTimeIsRefused(t *testing.T) {
	// 127.0.0.2 stands for a public address.
	public := listenAt(t, "127.0.0.2:0", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })
	private := listenAt(t, "127.0.0.1:"+public.port, ok)
	names := newNameServer(t, []string{"127.0.0.2"}, []string{"127.0.0.1"})
	c := New(Policy{Purpose: "callback", Allow: prefixes("127.0.0.2/32")})
	defer c.Close()
	c.dialer.Resolver = names.resolver()

	url := "http://rebinding.example:" + public.port + "/cb?secret"
	if status, _, text := get(t, c, url); status != http.StatusOK {
		t.Fatalf("first: %d %s", status, text)
	}
	if _, kind, text := get(t, c, url); kind != Refused || text != "callback refused: 127.0.0.1 is loopback" {
		t.Errorf("second: %s %s", kind, text)
	}
	if public.taken.Load() != 1 || private.taken.Load() != 0 {
		t.Errorf("%d connections to the first address, %d to the second", public.taken.Load(), private.taken.Load())
	}
}

func TestAConnectionThatIsUsedAgainIsTheOneThatWasChecked(t *testing.T) {
	public := listenAt(t, "127.0.0.2:0", ok)
	private := listenAt(t, "127.0.0.1:"+public.port, ok)
	names := newNameServer(t, []string{"127.0.0.2"}, []string{"127.0.0.1"})
	strict := New(Policy{Purpose: "callback", Allow: prefixes("127.0.0.2/32")})
	loose := New(Policy{Purpose: "sink", Allow: prefixes("127.0.0.0/8")})
	defer strict.Close()
	defer loose.Close()
	strict.dialer.Resolver, loose.dialer.Resolver = names.resolver(), names.resolver()
	url := "http://rebinding.example:" + public.port
	for range 3 {
		if status, _, text := get(t, strict, url); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
	}
	// Another policy has its own connections, and lends them to nobody.
	if status, _, text := get(t, loose, url); status != http.StatusOK || private.taken.Load() != 1 {
		t.Errorf("the other policy: %d %s, %d connections", status, text, private.taken.Load())
	}
	strict.Close()
	if _, kind, _ := get(t, strict, url); kind != Refused {
		t.Errorf("when its connection is gone: %q", kind)
	}
	if public.taken.Load() != 1 || private.taken.Load() != 1 {
		t.Errorf("%d connections to the first address, %d to the second", public.taken.Load(), private.taken.Load())
	}
}

func TestOfANameWithManyAddressesOnlyTheAllowedOnesAreDialled(t *testing.T) {
	public := listenAt(t, "127.0.0.2:0", ok)
	private := listenAt(t, "127.0.0.1:"+public.port, ok)
	for _, answer := range [][]string{{"127.0.0.1", "127.0.0.2"}, {"127.0.0.2", "127.0.0.1"}, {"10.0.0.1", "127.0.0.1", "127.0.0.2"}} {
		c := New(Policy{Purpose: "callback", Allow: prefixes("127.0.0.2/32")})
		c.dialer.Resolver = newNameServer(t, answer).resolver()
		before := public.taken.Load()
		status, _, text := get(t, c, "http://many.example:"+public.port)
		if status != http.StatusOK || public.taken.Load() != before+1 {
			t.Errorf("%v: %d %s", answer, status, text)
		}
		c.Close()
	}
	c := New(Policy{Purpose: "callback"})
	defer c.Close()
	c.dialer.Resolver = newNameServer(t, []string{"127.0.0.1", "127.0.0.2", "10.0.0.1", "169.254.169.254"}).resolver()
	if _, kind, text := get(t, c, "http://many.example:"+public.port); kind != Refused || !strings.HasSuffix(text, "is loopback") {
		t.Errorf("none allowed: %s %s", kind, text)
	}
	if private.taken.Load() != 0 {
		t.Errorf("%d connections to an address that is not allowed", private.taken.Load())
	}
}

func TestWhatTheResolverSaysIsToldWithoutTheName(t *testing.T) {
	for _, tt := range []struct {
		what    string
		answers [][]string
		kind    Kind
		want    string
	}{
		{"no address", [][]string{{}}, NoName, "callback failed: the name has no address"},
		{"no answer", nil, TimedOut, "callback failed: it took too long"},
	} {
		c := New(Policy{Purpose: "callback"})
		c.dialer.Resolver = newNameServer(t, tt.answers...).resolver()
		c.dialer.Timeout = 200 * time.Millisecond
		began := time.Now()
		_, kind, text := get(t, c, "http://secret.example/secret")
		if kind != tt.kind || text != tt.want || time.Since(began) > 5*time.Second {
			t.Errorf("%s: %s %q after %s, want %q", tt.what, kind, text, time.Since(began), tt.want)
		}
		c.Close()
	}
}
