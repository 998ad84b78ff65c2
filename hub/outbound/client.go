package outbound

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"time"
)

const (
	// connectTimeout bounds name and connection together, over all addresses of a
	// name: a host that is there answers within a few round trips.
	connectTimeout = 5 * time.Second
	// handshakeTimeout bounds the agreement on TLS.
	handshakeTimeout = 5 * time.Second
	// headerTimeout bounds the wait for an answer's header where no limit of the
	// whole call does.
	headerTimeout = 30 * time.Second
	// idleTimeout is how long a connection waits for the next call: longer than a
	// batch of callbacks takes, shorter than most servers wait.
	idleTimeout = 30 * time.Second
	// defaultKeep bounds the waiting connections of a client; each is a descriptor.
	defaultKeep = 128
	// maxHeader bounds an answer's header, interim answers included, in bytes.
	maxHeader = 32 << 10

	defaultTimeout   = 10 * time.Second
	defaultMaxAnswer = 64 << 10
)

// Unlimited as a limit of a Policy means none.
const Unlimited = -1

// A Policy says what calls of one purpose may do. The zero value of each field but
// Purpose is its default.
type Policy struct {
	Purpose string // "callback" or "sink": begins the text of every error
	// Allow are the operator's own networks: addresses in them are dialled although
	// they are not public, and on any port. They are compared with the address that
	// is dialled, not with one that it may stand for: to allow 10.0.0.0/8 allows no
	// 64:ff9b::a00:1. The prefix of NAT64, 64:ff9b::/96, is the exception: who
	// allows it has what is behind it judged like any IPv4 address.
	Allow     []netip.Prefix
	Ports     []uint16      // that are dialled on public addresses, beside 80 and 443
	Timeout   time.Duration // of a whole call, the answer's body included; 0 means 10 s; Unlimited is for streams
	MaxAnswer int64         // of an answer's body in bytes, as it is sent; 0 means 64 KiB
	// Admit is asked for each address that the rules allow, right before it is
	// dialled; its error forbids it. Not every call dials, unless Keep is None. It
	// does not block, and may be called by several goroutines. nil admits all.
	Admit func(netip.AddrPort) error
	// Keep is how many connections wait for the next call, 0 means 128, and
	// KeepPerHost how many of them to one host, 0 means 2: who makes more calls at once
	// to a host dials anew for the rest of them, which costs a factor of 2 to 3.
	Keep, KeepPerHost int
}

// None as what a Policy keeps is a connection for each call.
const None = -1

// A Client calls others under one policy. It is safe for concurrent use and keeps
// connections, so there should be one for each purpose.
type Client struct {
	rule      *rule
	maxAnswer int64
	timeout   time.Duration // 0 is none
	dialer    *net.Dialer
	transport *http.Transport
	http      *http.Client
}

// New returns a client that holds its calls to p.
func New(p Policy) *Client {
	if p.Timeout == 0 {
		p.Timeout = defaultTimeout
	}
	if p.MaxAnswer == 0 {
		p.MaxAnswer = defaultMaxAnswer
	}
	if p.Keep == 0 {
		p.Keep = defaultKeep
	}
	c := &Client{rule: newRule(p), maxAnswer: p.MaxAnswer, timeout: max(p.Timeout, 0)}
	if c.maxAnswer < 0 {
		c.maxAnswer = math.MaxInt64 - 1
	}
	c.dialer = &net.Dialer{Timeout: connectTimeout, Control: c.rule.control}
	c.transport = &http.Transport{
		Proxy:                  nil, // one of the environment would dial for us, and judge nothing
		DialContext:            c.dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableKeepAlives:      p.Keep < 0,
		MaxIdleConns:           max(p.Keep, 0),
		MaxIdleConnsPerHost:    p.KeepPerHost,
		IdleConnTimeout:        idleTimeout,
		DisableCompression:     true, // so that what is counted is what is read
		Protocols:              new(http.Protocols),
	}
	// One call at a time on a connection: what a peer does on its own, such as pings
	// and settings, then costs it the call.
	c.transport.Protocols.SetHTTP1(true)
	c.http = &http.Client{
		// The guard keeps the time: a Timeout here would have a goroutine of its own for
		// each call, since net/http knows its own transport alone to mind a context.
		Transport:     guard{c},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Do makes a call. An answer of any status is one, a redirect as well. Its body
// must be closed; reading more than the policy allows is an error. All errors, also
// those of the body, are of type [*Error].
func (c *Client) Do(r *http.Request) (*http.Response, error) {
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, failure(c.rule.purpose, err)
	}
	if answer.Body != http.NoBody {
		answer.Body = &told{answer.Body, c.rule.purpose}
	}
	return answer, nil
}

// HTTP returns the client for a library that wants one of net/http. It does what
// [Client.Do] does, but for the errors: those of net/http name the URL.
func (c *Client) HTTP() *http.Client { return c.http }

// Close ends the connections that wait for a call.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// A guard is the way of each request to the connections.
type guard struct{ *Client }

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if reason := badURL(r.URL); reason != "" {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, refuse(g.rule.purpose, reason)
	}
	end := context.CancelFunc(func() {})
	if g.timeout > 0 {
		var ctx context.Context
		ctx, end = context.WithTimeout(r.Context(), g.timeout)
		r = r.WithContext(ctx)
	}
	answer, err := g.transport.RoundTrip(r)
	if err != nil || answer.Body == http.NoBody {
		end()
		return answer, err
	}
	answer.Body = &bounded{answer.Body, g.maxAnswer, g.Client, end}
	return answer, nil
}

// A bounded body is read up to a limit, and within the time of its call.
type bounded struct {
	io.ReadCloser
	left int64
	c    *Client
	end  context.CancelFunc
}

func (b *bounded) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more tells a body that is too long from one that just fits
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		n, b.left = int(b.left), 0
		return n, &Error{Purpose: b.c.rule.purpose, Kind: BadAnswer,
			Reason: fmt.Sprintf("the answer is longer than %d bytes", b.c.maxAnswer)}
	}
	b.left -= int64(n)
	return n, err
}

// A told body is one whose errors say nothing of the URL.
type told struct {
	io.ReadCloser
	purpose string
}

func (b *told) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = failure(b.purpose, err)
	}
	return n, err
}
