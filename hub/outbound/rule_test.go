package outbound

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// A trap is a server on all addresses of this machine that counts who connects.
type trap struct {
	port  string
	taken atomic.Int64
}

func newTrap(t *testing.T) *trap {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	tr := &trap{port: strconv.Itoa(l.Addr().(*net.TCPAddr).Port)}
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}),
		ConnState: func(_ net.Conn, to http.ConnState) {
			if to == http.StateNew {
				tr.taken.Add(1)
			}
		},
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return tr
}

func prefixes(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// get calls url and returns the text of what became of it.
func get(t *testing.T, c *Client, url string) (status int, kind Kind, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	answer, err := c.Do(r)
	if err == nil {
		answer.Body.Close()
		return answer.StatusCode, "", ""
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%s: %T %v is no *Error", url, err, err)
	}
	return 0, e.Kind, err.Error()
}

// Each of these leads, or led somebody once, to what a stranger must not reach.
// PORT is where a server waits on every address of this machine.
var refusals = []struct{ url, want string }{
	{"http://127.0.0.1:PORT/", "127.0.0.1 is loopback"},
	{"http://127.0.0.1/", "127.0.0.1 is loopback"},
	{"https://127.0.0.1/", "127.0.0.1 is loopback"},
	{"http://127.255.255.254:PORT/", "127.255.255.254 is loopback"},
	{"http://127.0.0.1:22/", "127.0.0.1 is loopback"},
	{"http://localhost:PORT/", "is loopback"},
	{"http://LOCALHOST:PORT/", "is loopback"},
	{"http://[::1]:PORT/", "::1 is loopback"},
	{"http://[0:0:0:0:0:0:0:1]:PORT/", "::1 is loopback"},
	{"http://[::1%25lo]:PORT/", "::1%lo is loopback"},
	{"http://0.0.0.0:PORT/", "0.0.0.0 is unspecified"},
	{"http://[::]:PORT/", ":: is unspecified"},
	{"http://0.1.2.3/", "0.1.2.3 is of this network"},
	{"http://[::ffff:127.0.0.1]:PORT/", "127.0.0.1 is loopback"},
	{"http://[::ffff:7f00:1]:PORT/", "127.0.0.1 is loopback"},
	{"http://[0:0:0:0:0:ffff:127.0.0.1]:PORT/", "127.0.0.1 is loopback"},
	{"http://[::ffff:10.0.0.1]/", "10.0.0.1 is private"},
	{"http://[::ffff:169.254.169.254]/", "169.254.169.254 is a metadata service"},
	{"http://[::ffff:0.0.0.0]:PORT/", "0.0.0.0 is unspecified"},
	{"http://[::127.0.0.1]:PORT/", "::7f00:1 is an IPv4 address in IPv6"},
	{"http://[::ffff:0:127.0.0.1]/", "::ffff:0:7f00:1 is an IPv4 address in IPv6"},
	{"http://[64:ff9b::127.0.0.1]/", "64:ff9b::7f00:1 is an IPv4 address behind NAT64"},
	{"http://[64:ff9b::8.8.8.8]/", "64:ff9b::808:808 is an IPv4 address behind NAT64"},
	{"http://[64:ff9b:1::10.0.0.1]/", "64:ff9b:1::a00:1 is an IPv4 address behind NAT64"},
	{"http://[2002:7f00:1::]/", "2002:7f00:1:: is an IPv4 address in 6to4"},
	{"http://[2002:c0a8:101::1]/", "2002:c0a8:101::1 is an IPv4 address in 6to4"},
	{"http://[2001:0:7f00:1::80ff:fffe]/", "is an IPv4 address in Teredo"},
	{"http://10.0.0.1/", "10.0.0.1 is private"},
	{"http://10.255.255.255/", "10.255.255.255 is private"},
	{"http://172.16.0.1/", "172.16.0.1 is private"},
	{"http://172.31.255.255/", "172.31.255.255 is private"},
	{"http://192.168.1.1/", "192.168.1.1 is private"},
	{"http://[fc00::1]/", "fc00::1 is private"},
	{"http://[fdff:ffff::1]/", "fdff:ffff::1 is private"},
	{"http://169.254.0.1/", "169.254.0.1 is link-local"},
	{"http://[fe80::1]/", "fe80::1 is link-local"},
	{"http://[fe80::1%25lo]:PORT/", "fe80::1%lo is link-local"},
	{"http://[febf::1]/", "febf::1 is link-local"},
	{"http://[fec0::1]/", "fec0::1 is site-local"},
	{"http://169.254.169.254/latest/meta-data/", "169.254.169.254 is a metadata service"},
	{"http://[fd00:ec2::254]/latest/meta-data/", "fd00:ec2::254 is a metadata service"},
	{"http://168.63.129.16/machine?comp=goalstate", "168.63.129.16 is a metadata service"},
	{"http://100.64.0.1/", "100.64.0.1 is shared by customers of a carrier"},
	{"http://100.100.100.200/", "100.100.100.200 is shared by customers of a carrier"},
	{"http://192.0.0.192/opc/v2/", "192.0.0.192 is reserved"},
	{"http://192.88.99.1/", "192.88.99.1 is reserved"},
	{"http://198.18.0.1/", "198.18.0.1 is for benchmarks"},
	{"http://198.19.255.255/", "198.19.255.255 is for benchmarks"},
	{"http://[2001:2::1]/", "2001:2::1 is for benchmarks"},
	{"http://192.0.2.1/", "192.0.2.1 is for documentation"},
	{"http://198.51.100.1/", "198.51.100.1 is for documentation"},
	{"http://203.0.113.1/", "203.0.113.1 is for documentation"},
	{"http://[2001:db8::1]/", "2001:db8::1 is for documentation"},
	{"http://[3fff::1]/", "3fff::1 is for documentation"},
	{"http://224.0.0.1/", "224.0.0.1 is multicast"},
	{"http://239.255.255.255/", "239.255.255.255 is multicast"},
	{"http://[ff02::1]/", "ff02::1 is multicast"},
	{"http://240.0.0.1/", "240.0.0.1 is reserved"},
	{"http://255.255.255.255/", "255.255.255.255 is broadcast"},
	{"http://[100::1]/", "100::1 is reserved"},
	{"http://[5f00::1]/", "5f00::1 is reserved"},
	{"http://[2001:10::1]/", "2001:10::1 is reserved"},
	{"http://[3ffe::1]/", "3ffe::1 is reserved"},
	{"http://[4000::1]/", "4000::1 is reserved"},

	{"http://8.8.8.8:PORT/", "port PORT is neither 80 nor 443"},
	{"https://[2606:4700::1111]:25/", "port 25 is neither 80 nor 443"},
	{"http://8.8.8.8:0/", "port 0 is neither 80 nor 443"},

	{"http://2130706433:PORT/", "not spelled as four decimal numbers"},
	{"http://0x7f000001:PORT/", "not spelled as four decimal numbers"},
	{"http://0X7F.0x0.0x0.0x1:PORT/", "not spelled as four decimal numbers"},
	{"http://0177.0.0.1:PORT/", "not spelled as four decimal numbers"},
	{"http://017700000001:PORT/", "not spelled as four decimal numbers"},
	{"http://127.1:PORT/", "not spelled as four decimal numbers"},
	{"http://127.0.1:PORT/", "not spelled as four decimal numbers"},
	{"http://0x7f.1:PORT/", "not spelled as four decimal numbers"},
	{"http://0:PORT/", "not spelled as four decimal numbers"},
	{"http://127.0.0.01:PORT/", "not spelled as four decimal numbers"},
	{"http://127.0.0.256:PORT/", "not spelled as four decimal numbers"},
	{"http://127.0.0.1.:PORT/", "not spelled as four decimal numbers"},
	{"http://example.0x/", "not spelled as four decimal numbers"},
	{"http://①②⑦.⓪.⓪.①:PORT/", "not a name in ASCII"},
	{"http://１２７.０.０.１:PORT/", "not a name in ASCII"},
	{"http://127。0。0。1:PORT/", "not a name in ASCII"},
	{"http://ｌｏｃａｌｈｏｓｔ:PORT/", "not a name in ASCII"},
	{"http://127.0.0.1%E3%80%82:PORT/", "not a name in ASCII"},
	{"http://local_host!:PORT/", "not a name in ASCII"},
	{"http://.localhost:PORT/", "not a name in ASCII"},
	{"http://localhost..:PORT/", "not a name in ASCII"},
	{"http://" + strings.Repeat("a.", 127) + "a/", "not a name in ASCII"},

	{"http://user@127.0.0.1:PORT/", "it has a user or a password"},
	{"http://public.example@127.0.0.1:PORT/", "it has a user or a password"},
	{"https://user:secret@public.example/", "it has a user or a password"},
	{"http://8.8.8.8:65616/", "its port is not one"},
	{"http:///etc/passwd", "no host"},
	{"http:127.0.0.1", "it has no host"},
	{"http://:PORT/", "no host"},
	{"unix:///run/docker.sock", "neither http nor https"},
	{"http+unix://%2Frun%2Fdocker.sock/", "neither http nor https"},
	{"file:///etc/passwd", "neither http nor https"},
	{"gopher://127.0.0.1:PORT/_x", "neither http nor https"},
	{"ftp://127.0.0.1/", "neither http nor https"},
	{"data:text/plain,x", "neither http nor https"},
	{"//127.0.0.1:PORT/", "neither http nor https"},
}

func TestAddressesThatAreNotPublicAreRefusedBeforeAnybodyIsDialled(t *testing.T) {
	tr := newTrap(t)
	c := New(Policy{Purpose: "callback"})
	defer c.Close()
	if len(refusals) < 50 {
		t.Fatalf("%d addresses", len(refusals))
	}
	for _, tt := range refusals {
		url := strings.ReplaceAll(tt.url, "PORT", tr.port)
		want := strings.ReplaceAll(tt.want, "PORT", tr.port)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://replaced.example", nil)
		if err != nil {
			t.Fatal(err)
		}
		// Some of them are refused by net/url already, which is as well.
		if r.URL, err = r.URL.Parse(url); err != nil && !strings.Contains(url, "%2F") {
			t.Errorf("%s: %v", url, err)
			continue
		} else if err != nil {
			continue
		}
		if strings.HasPrefix(url, "//") {
			r.URL.Scheme = ""
		}
		for _, call := range []func(*http.Request) (*http.Response, error){c.Do, c.HTTP().Do} {
			answer, err := call(r)
			var e *Error
			switch {
			case err == nil:
				answer.Body.Close()
				t.Errorf("%s: status %d", url, answer.StatusCode)
			case r.URL.Host == "" && !errors.As(err, &e):
				// net/http itself knows that there is no host
			case !errors.As(err, &e) || e.Kind != Refused || !strings.HasPrefix(e.Error(), "callback refused: ") || !strings.HasSuffix(e.Error(), want):
				t.Errorf("%s: got %q, want a refusal: %s", url, err, want)
			}
		}
	}
	if n := tr.taken.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestTheTrapOfTheseTestsCatchesWhoIsAllowedThere(t *testing.T) {
	tr := newTrap(t)
	c := New(Policy{Purpose: "callback", Allow: prefixes("127.0.0.0/8", "0.0.0.0/8")})
	defer c.Close()
	for i, url := range []string{"http://127.0.0.1:", "http://[::ffff:127.0.0.1]:", "http://0.0.0.0:"} {
		status, _, text := get(t, c, url+tr.port)
		if status != http.StatusOK || tr.taken.Load() != int64(i+1) {
			t.Errorf("%s: %d %s, and %d connections", url, status, text, tr.taken.Load())
		}
	}
}

func TestPublicAddressesAreLetPass(t *testing.T) {
	r := newRule(Policy{Purpose: "callback"})
	for _, s := range []string{"8.8.8.8:80", "1.1.1.1:443", "11.0.0.1:80", "9.255.255.255:80", "172.15.255.255:443",
		"172.32.0.1:443", "192.167.255.255:80", "192.169.0.1:80", "100.63.255.255:80", "100.128.0.1:80", "126.255.255.255:80",
		"128.0.0.1:80", "169.253.255.255:80", "169.255.0.1:80", "198.17.255.255:80", "198.20.0.1:80", "223.255.255.255:443",
		"[2606:4700:4700::1111]:443", "[2a02:ec80::1]:80", "[2001:200::1]:80", "[2001:4860:4860::8888]:443", "[2003::1]:80",
		"[::ffff:8.8.8.8]:80"} {
		if err := r.check(netip.MustParseAddrPort(s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestAnAllowedNetworkIsAllowedUnderItsOwnSpellingAlone(t *testing.T) {
	for _, tt := range []struct {
		allow, addr string
		want        string // "" is let pass
	}{
		{"10.0.0.0/8", "10.1.2.3:8080", ""},
		{"10.0.0.0/8", "[::ffff:10.1.2.3]:22", ""}, // the kernel knows one address of both
		{"10.0.0.0/8", "11.1.2.3:8080", "port 8080"},
		{"10.0.0.0/8", "192.168.0.1:80", "private"},
		{"10.0.0.0/8", "[64:ff9b::a01:203]:80", "NAT64"},
		{"10.0.0.0/8", "[64:ff9b:1::a01:203]:80", "NAT64"},
		{"10.0.0.0/8", "[2002:a01:203::1]:80", "6to4"},
		{"10.0.0.0/8", "[::a01:203]:80", "in IPv6"},
		{"10.0.0.0/8", "[2001:0:a01:203::1]:80", "Teredo"},
		{"2001:db8::/32", "[2001:db8::1]:9000", ""},
		{"fe80::/10", "[fe80::1%lo]:80", "link-local"},
		{"::/0", "127.0.0.1:80", "loopback"},
		{"0.0.0.0/0", "[::1]:80", "loopback"},
		{"::ffff:127.0.0.0/104", "127.0.0.1:80", "loopback"},
		{"64:ff9b::/96", "[64:ff9b::8.8.8.8]:443", ""},
		{"64:ff9b::/96", "[64:ff9b::8.8.8.8]:22", "port 22"},
		{"64:ff9b::/96", "[64:ff9b::127.0.0.1]:80", "127.0.0.1 is loopback"},
		{"64:ff9b::/96", "[64:ff9b::169.254.169.254]:80", "a metadata service"},
		{"64:ff9b::/96 10.0.0.0/8", "[64:ff9b::10.0.0.1]:8080", ""},
		{"::/0", "[64:ff9b::127.0.0.1]:80", "127.0.0.1 is loopback"},
	} {
		r := newRule(Policy{Purpose: "callback", Allow: prefixes(strings.Fields(tt.allow)...)})
		err := r.check(netip.MustParseAddrPort(tt.addr))
		if err == nil && tt.want != "" || err != nil && (tt.want == "" || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s where %s is allowed: got %v, want %q", tt.addr, tt.allow, err, tt.want)
		}
	}
}

func TestOnlyTCPIsDialled(t *testing.T) {
	r := newRule(Policy{Purpose: "callback", Allow: prefixes("0.0.0.0/0")})
	for _, network := range []string{"udp4", "unix", "ip4"} {
		if err := r.control(network, "8.8.8.8:80", nil); err == nil {
			t.Errorf("%s is dialled", network)
		}
	}
	if err := r.control("tcp4", "8.8.8.8:80", nil); err != nil {
		t.Errorf("tcp4: %v", err)
	}
	if err := r.control("tcp4", "/run/docker.sock", nil); err == nil {
		t.Error("a path is dialled")
	}
}

func TestWhatCanBeToldOfAURLIsToldWithoutACall(t *testing.T) {
	c := New(Policy{Purpose: "callback", Allow: prefixes("10.0.0.0/8")})
	for _, tt := range []struct{ url, want string }{
		{"https://public.example/cb?token=secret", ""},
		{"https://public.example:8443/cb", ""}, // it may resolve to an allowed network
		{"http://8.8.8.8/", ""},
		{"https://8.8.8.8/", ""},
		{"http://10.0.0.1:9000/", ""},
		{"http://8.8.8.8:81/", "callback refused: port 81 is neither 80 nor 443"},
		{"http://192.168.0.1/?token=secret", "callback refused: 192.168.0.1 is private"},
		{"http://127.1/secret", "callback refused: its host is an address that is not spelled as four decimal numbers"},
		{"ftp://8.8.8.8/secret", "callback refused: its scheme is neither http nor https"},
	} {
		r, err := http.NewRequest(http.MethodGet, tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := c.CheckURL(r.URL); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.url, got, tt.want)
		}
	}
}
