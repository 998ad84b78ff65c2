package outbound

import (
	"fmt"
	"net/netip"
	"syscall"

	"code.dny.dev/ssrf"
)

// A rule says which addresses may be dialled.
type rule struct {
	purpose  string
	allow    []netip.Prefix
	ports    []uint16
	admit    func(netip.AddrPort) error // nil admits all
	guardian *ssrf.Guardian
}

var (
	// wireServer hands out the secrets of a virtual machine at Azure. The address
	// is a public one that only the machine itself reaches.
	wireServer = netip.MustParsePrefix("168.63.129.16/32")
	// sixBone was given back and belongs to nobody. Source: RFC 3701.
	sixBone = netip.MustParsePrefix("3ffe::/16")
)

func newRule(p Policy) *rule {
	return &rule{purpose: p.Purpose, allow: p.Allow, ports: p.Ports, admit: p.Admit,
		guardian: ssrf.New(ssrf.WithPorts(append([]uint16{80, 443}, p.Ports...)...),
			ssrf.WithDeniedV4Prefixes(wireServer), ssrf.WithDeniedV6Prefixes(sixBone))}
}

// control is called between the making of a socket and its connecting.
func (r *rule) control(network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return refuse(r.purpose, "it is not an address of TCP")
	}
	if err := r.check(to); err != nil || r.admit == nil {
		return err
	}
	if err := r.admit(netip.AddrPortFrom(to.Addr().Unmap(), to.Port())); err != nil {
		return &Error{Purpose: r.purpose, Kind: Refused, Reason: err.Error(), cause: err}
	}
	return nil
}

// check reports why to may not be dialled, or nil.
func (r *rule) check(to netip.AddrPort) error {
	addr := to.Addr().Unmap() // the kernel takes ::ffff:127.0.0.1 for what it stands for
	if r.allows(addr) {
		if !ssrf.IPv6NAT64Prefix.Contains(addr) {
			return nil
		}
		// Who allows the translator means the Internet behind it, and not what is
		// private there.
		b := addr.As16()
		addr = netip.AddrFrom4([4]byte(b[12:]))
		if r.allows(addr) {
			return nil
		}
	}
	if r.guardian.SafeAddr(addr) != nil {
		return refuse(r.purpose, fmt.Sprintf("%s is %s", addr, class(addr)))
	}
	if r.guardian.SafeAddrPort(netip.AddrPortFrom(addr, to.Port())) != nil {
		reason := fmt.Sprintf("port %d is neither 80 nor 443", to.Port())
		if len(r.ports) > 0 {
			reason += " nor listed"
		}
		return refuse(r.purpose, reason)
	}
	return nil
}

func (r *rule) allows(addr netip.Addr) bool {
	for _, p := range r.allow {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// classes name what is not public, the first that fits. They decide nothing.
// Source: the special purpose registries of IANA.
var classes = []struct {
	prefix netip.Prefix
	name   string
}{
	{netip.MustParsePrefix("169.254.169.254/32"), "a metadata service"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "a metadata service"},
	{wireServer, "a metadata service"},
	{netip.MustParsePrefix("0.0.0.0/32"), "unspecified"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("0.0.0.0/8"), "of this network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared by customers of a carrier"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},
	{netip.MustParsePrefix("2001:2::/48"), "for benchmarks"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("64:ff9b::/96"), "an IPv4 address behind NAT64"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "an IPv4 address behind NAT64"},
	{netip.MustParsePrefix("2002::/16"), "an IPv4 address in 6to4"},
	{netip.MustParsePrefix("2001::/32"), "an IPv4 address in Teredo"},
	{netip.MustParsePrefix("::/96"), "an IPv4 address in IPv6"},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "an IPv4 address in IPv6"},
}

func class(addr netip.Addr) string {
	for _, c := range classes {
		if c.prefix.Contains(addr.WithZone("")) {
			return c.name
		}
	}
	return "reserved"
}
