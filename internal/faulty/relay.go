package faulty

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"time"
)

// maxTwice is how many bytes of a request's body are kept to be sent twice. It keeps
// a test that sends an import through a proxy from holding that in memory.
const maxTwice = 4 << 20

var (
	errBroken = errors.New("the request is broken off")
	errCut    = errors.New("the answer is cut")
)

// serve handles the request of a link.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	l := r.Context().Value(linkKey{}).(*link)
	defer p.forget(l)
	if !p.take(l, r) {
		l.reset()
		panic(http.ErrAbortHandler)
	}
	defer context.AfterFunc(r.Context(), func() { p.left(l) })()
	response, after, err := p.send(l, r)
	if err == nil {
		maps.Copy(w.Header(), response.Header)
		w.WriteHeader(response.StatusCode)
		err = p.answer(l, w, response.Body)
		_ = response.Body.Close() // what matters of it was read
		if err == nil || err == errCut {
			after()
		}
	}
	if err != nil {
		if err != errCut { // a reset could take bytes back that were passed on
			l.reset()
		}
		panic(http.ErrAbortHandler)
	}
}

// send passes a request on to the target, or lets happen to it what the fault says.
// The caller calls after when the answer is over, unless the link was broken.
func (p *Proxy) send(l *link, r *http.Request) (response *http.Response, after func(), err error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxTwice+1))
	if err != nil {
		return nil, nil, err
	}
	f, err := p.through(l, l.delay())
	if err != nil {
		return nil, nil, err
	}
	if l.luck.drop < f.Drop {
		p.count(&p.counts.Dropped)
		return nil, nil, errBroken
	}
	after = func() {}
	if len(body) > 0 && len(body) <= maxTwice && l.luck.duplicate < f.Duplicate {
		p.count(&p.counts.Duplicated)
		again := func() { p.running.Go(func() { p.sendAgain(l.caller, r, body) }) }
		if l.luck.beside {
			again()
		} else {
			after = again
		}
	}
	response, err = p.roundTrip(l, r, io.MultiReader(bytes.NewReader(body), r.Body))
	f, broken := p.through(l, atOnce) // a blackhole swallows errors too
	if err != nil {
		return nil, nil, err
	}
	if broken == nil && l.luck.lose < f.Lose {
		p.count(&p.counts.Lost)
		after()
		broken = errBroken
	}
	if broken != nil {
		_ = response.Body.Close() // nobody gets it
		return nil, nil, broken
	}
	return response, after, nil
}

// sendAgain sends a request once more and throws its answer away.
func (p *Proxy) sendAgain(caller string, r *http.Request, body []byte) {
	l := p.newLink(nil)
	l.caller = caller
	defer p.forget(l)
	p.mu.Lock()
	p.open[l] = struct{}{}
	p.mu.Unlock()
	if response, err := p.roundTrip(l, r, bytes.NewReader(body)); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}

func (p *Proxy) roundTrip(l *link, r *http.Request, body io.Reader) (*http.Response, error) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	if target == nil {
		return nil, errBroken
	}
	out := r.Clone(l.ctx)
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", target.Scheme, target.Host
	out.Body = io.NopCloser(body)
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	return p.transport.RoundTrip(out)
}

// answer passes the body of an answer on, piece by piece. That nobody can be written
// to any more ends the link.
func (p *Proxy) answer(l *link, w http.ResponseWriter, body io.Reader) error {
	flush := http.NewResponseController(w).Flush
	_ = flush() // the header of a stream whose first event takes its time
	for buffer := make([]byte, 32<<10); ; {
		n, ended := body.Read(buffer)
		long := atOnce
		if n > 0 {
			long = l.delay()
		}
		f, err := p.through(l, long)
		for piece := buffer[:n]; err == nil && len(piece) > 0; piece = piece[n:] {
			n = len(piece)
			if f.Rate > 0 {
				n = min(n, max(1, f.Rate/20)) // a twentieth of a second is a slice
			}
			f, err = p.through(l, func(f Fault) time.Duration {
				return time.Duration(n) * time.Second / time.Duration(cmp.Or(f.Rate, math.MaxInt))
			})
			if err != nil {
				return err
			}
			n, err = p.pass(l, n)
			_, _ = w.Write(piece[:n])
			_ = flush()
		}
		if err != nil || ended == io.EOF {
			return err
		}
		if ended != nil {
			return ended
		}
	}
}

// pass returns how many of n bytes of an answer go on, and an error when it is cut there.
func (p *Proxy) pass(l *link, n int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if room := l.limit(p.of(l)) - l.passed; n > room {
		l.busy = false
		p.counts.Cut++
		return max(0, room), errCut
	}
	l.passed += n
	return n, nil
}

func atOnce(Fault) time.Duration { return 0 }

// through waits for as long as the fault of each moment says and returns the one at
// the end. It fails when the link is broken, and a blackhole lasts until it is.
func (p *Proxy) through(l *link, long func(Fault) time.Duration) (Fault, error) {
	for began := time.Now(); ; {
		p.mu.Lock()
		f, changed := p.of(l), p.changed
		p.mu.Unlock()
		left := long(f) - time.Since(began)
		if !f.Blackhole && left <= 0 || l.ctx.Err() != nil {
			return f, l.ctx.Err()
		}
		var over <-chan time.Time
		if !f.Blackhole {
			over = time.After(left)
		}
		select {
		case <-over:
		case <-changed:
		case <-l.ctx.Done():
		}
	}
}

func (p *Proxy) count(n *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*n++
}
