package outbound

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// maxHost bounds a host's name in bytes. Source: RFC 1035, section 2.3.4.
const maxHost = 253

// CheckURL reports why a URL can be none that a hub calls, whatever its host
// resolves to: something to tell whoever sent it at once. It looks nothing up, and
// what it lets pass may still be refused when it is called. Its reason does not
// repeat the URL.
func (c *Client) CheckURL(u *url.URL) error {
	if reason := badURL(u); reason != "" {
		return refuse(c.rule.purpose, reason)
	}
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	port := uint16(80)
	if u.Scheme == "https" {
		port = 443
	}
	if given, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		port = uint16(given)
	}
	return c.rule.check(netip.AddrPortFrom(addr, port))
}

// badURL says what is wrong with the form of u, or nothing. Which address its
// host means must not depend on who reads it: 2130706433, 0x7f.1 and 0177.0.0.1
// are names to some and addresses to others, as are digits of other alphabets.
func badURL(u *url.URL) string {
	host := u.Hostname()
	_, notAddress := netip.ParseAddr(host)
	_, notPort := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "its scheme is neither http nor https"
	case u.User != nil:
		return "it has a user or a password"
	case u.Opaque != "" || host == "":
		return "it has no host"
	case u.Port() != "" && notPort != nil:
		return "its port is not one"
	case strings.Contains(host, ":"):
		if notAddress != nil {
			return "its host is not an address"
		}
	case len(host) > maxHost || strings.Trim(strings.ToLower(host), hostChars) != "" ||
		strings.HasPrefix(host, ".") || strings.Contains(host, ".."):
		return "its host is not a name in ASCII"
	case endsInNumber(host) && notAddress != nil:
		return "its host is an address that is not spelled as four decimal numbers"
	}
	return ""
}

// hostChars are those of names in the DNS.
const hostChars = "abcdefghijklmnopqrstuvwxyz0123456789-_."

// endsInNumber reports whether host would be read as an IPv4 address by somebody.
// Source: URL Standard, "ends in a number checker".
func endsInNumber(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}
