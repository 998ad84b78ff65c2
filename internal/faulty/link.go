package faulty

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"
)

// A link is the connection of a client, which has one request, or a second request,
// which has no client. The proxy's lock guards what follows end.
type link struct {
	*net.TCPConn                 // nil for a second request
	ctx          context.Context // of the request to the target; ends when the link is broken
	end          context.CancelFunc
	caller       string // whom the token of its request names, "" for nobody
	busy         bool   // its request is under way
	passed       int    // bytes of the answer's body
	luck         luck   // drawn when the request begins, and the request's alone from then
}

type linkKey struct{} // of the link in the context of a request

// A luck is what was drawn for a request: it meets what is more probable than this.
type luck struct {
	drop, lose, duplicate float64
	beside                bool       // the second request goes out beside the first, not after it
	length                float64    // of the answer until it is cut, in means
	more                  *rand.Rand // for jitter
}

func draw(seed uint64, what string, n int) luck {
	r := rand.New(rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d %d %s", seed, n, what))))
	return luck{r.Float64(), r.Float64(), r.Float64(), r.Float64() < 0.5, r.ExpFloat64(), r}
}

// delay draws what a request, or a piece of an answer, has to wait.
func (l *link) delay() func(Fault) time.Duration {
	part := l.luck.more.Float64()
	return func(f Fault) time.Duration { return f.Delay + time.Duration(part*float64(f.Jitter)) }
}

// limit is after how many bytes of its answer f cuts a link.
func (l *link) limit(f Fault) int {
	if f.CutAfter == 0 || !l.busy {
		return math.MaxInt
	}
	return 1 + int(l.luck.length*float64(f.CutAfter))
}

// reset breaks both connections of a link, the client's with a reset. What fails
// then was broken already.
func (l *link) reset() {
	if l.TCPConn != nil {
		_ = l.SetLinger(0)
		_ = l.Close()
	}
	l.end()
}

func (p *Proxy) newLink(c *net.TCPConn) *link {
	ctx, end := context.WithCancel(p.ctx)
	return &link{TCPConn: c, ctx: ctx, end: end}
}

// An entrance lets connections in, unless they are to be refused.
type entrance struct {
	net.Listener
	p *Proxy
}

// Accept returns the next connection that is let in, or the listener's error.
func (e entrance) Accept() (net.Conn, error) {
	for {
		c, err := e.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l := e.p.newLink(c.(*net.TCPConn))
		if e.p.admit(l) {
			return l, nil
		}
		l.reset()
	}
}

func (p *Proxy) admit(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault.Refuse {
		p.counts.Refused++
		return false
	}
	p.open[l] = struct{}{}
	return true
}

// state is told by the server what becomes of connections.
func (p *Proxy) state(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		p.running.Add(1)
	case http.StateClosed:
		p.forget(c.(*link))
		p.running.Done()
	}
}

// forget ends what is left of a request that is over.
func (p *Proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.busy = false
	l.end()
	delete(p.open, l)
}

// take begins the request of a link, and reports false if its caller is refused.
func (p *Proxy) take(l *link, r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.caller = callerOf(r)
	f := p.of(l)
	if f.Refuse {
		p.counts.Refused++
		return false
	}
	what := l.caller + " " + r.Method + " " + r.URL.Path
	l.luck, l.busy = draw(p.seed, what, p.asked[what]), true
	p.asked[what]++
	p.counts.Requests++
	if f.Blackhole {
		p.counts.Held++
	}
	return true
}

// callerOf is the issuer that the token of a request names, whether it is true or not.
func callerOf(r *http.Request) string {
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	claims := struct {
		Issuer string `json:"iss"`
	}{}
	if err != nil || json.Unmarshal(b, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// left ends the request of a client that has gone; from a blackhole nobody hears it.
func (p *Proxy) left(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.of(l).Blackhole {
		l.end()
	}
}

// cut breaks l. The lock is held.
func (p *Proxy) cut(l *link) {
	if l.busy {
		l.busy = false
		p.counts.Cut++
	}
	l.reset()
}
