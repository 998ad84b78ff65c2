package federation

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// askEvery is how often hosts of content are asked who speaks for them, beside each
	// time that a peer claims something else.
	askEvery = 24 * time.Hour
	// askSoon is when they are asked again if one did not answer: it may have been away
	// for a moment, and what it would confirm is heard of nobody until then.
	askSoon = 10 * time.Minute
	// askTimeout bounds the question to one host.
	askTimeout = 10 * time.Second
	// askAllTimeout bounds the questions for one peer, which is not heard meanwhile: a
	// hundred hosts that do not answer are no reason to take it for silent.
	askAllTimeout = 30 * time.Second
	// maxHosts bounds the hosts that are asked for one peer: a claim of a thousand
	// prefixes must not have this hub call a thousand hosts.
	maxHosts = 100
)

// fetchDocument reads what a hub says of itself. It is about the hub that was asked.
func fetchDocument(ctx context.Context, c *http.Client, hub string) (*Document, error) {
	body, done, err := get(ctx, c, hub+DocumentPath)
	if err != nil {
		return nil, err
	}
	defer done()
	d, err := DecodeDocument(body)
	if err != nil {
		return nil, err
	}
	if d.Hub != hub {
		return nil, fmt.Errorf("%w: it is that of %.200q, and not of %s", ErrDocument, d.Hub, hub)
	}
	return d, nil
}

// get opens a document; done ends that.
func get(ctx context.Context, c *http.Client, url string) (body io.Reader, done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	r.Header.Set("Accept", "application/json")
	answer, err := c.Do(r)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	done = func() {
		answer.Body.Close()
		cancel()
	}
	if answer.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(answer.Body, MaxDocument)) // what it says is for people
		done()
		return nil, nil, refusal(answer.StatusCode, answer.Header, b)
	}
	return answer.Body, done, nil
}

// A voucher is what a host of content says of who speaks for it: a hub's document, or
// the two members of one that are about that.
type voucher struct {
	hub       string
	authority []string
}

func decodeVoucher(r io.Reader) (v voucher, err error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxDocument+1))
	if err != nil {
		return v, err
	}
	if len(b) > MaxDocument {
		return v, fmt.Errorf("%w: it has more than %d bytes", ErrDocument, MaxDocument)
	}
	o, err := readObject(b)
	if err != nil {
		return v, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	v = voucher{o.text("hub"), o.texts("authority", maxAuthority)}
	if o.fault != nil {
		return v, fmt.Errorf("%w: %w", ErrDocument, o.fault)
	}
	return v, nil
}

// covers reports whether the host says that the hub speaks for a prefix.
func (v *voucher) covers(hub, prefix string) bool {
	return v.hub == hub && slices.ContainsFunc(v.authority, func(a string) bool { return graph.UnderPrefix(prefix, a) })
}

// resolve finds out for which of the prefixes that a peer claims the hosts of the
// content say so too. What a host said before holds while it does not answer. Moved
// says that it is something else than before.
func (l *link) resolve(ctx context.Context, doc *Document) (prefixes []string, moved bool) {
	l.mu.Lock()
	before := l.resolved
	current := slices.Equal(l.claimed, doc.Authority) && time.Now().Before(l.askNext)
	configured := len(l.peer.Authority) > 0
	l.mu.Unlock()
	if current || configured {
		return before, false
	}
	type said struct {
		voucher
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, askAllTimeout)
	defer cancel()
	again := askEvery
	hosts := map[string]*said{doc.Hub: {voucher: voucher{doc.Hub, doc.Authority}}}
	for _, prefix := range doc.Authority {
		origin, ok := originOf(prefix)
		if !ok {
			continue // it has no host that could be asked: the configuration has to say so
		}
		s := hosts[origin]
		if s == nil {
			if len(hosts) > maxHosts {
				l.log.Warn("the peer claims more than hosts are asked for", "hosts", maxHosts, "prefix", prefix)
				continue
			}
			s = &said{}
			s.voucher, s.err = l.ask(ctx, origin)
			hosts[origin] = s
			if s.err != nil {
				again = askSoon
				l.log.Warn("a host does not say who speaks for it", "host", origin, "err", s.err)
			}
		}
		if s.covers(doc.Hub, prefix) || s.err != nil && slices.Contains(before, prefix) {
			prefixes = append(prefixes, prefix)
		} else if s.err == nil {
			l.log.Warn("the peer claims what the host of the content does not confirm", "prefix", prefix)
		}
	}
	l.mu.Lock()
	l.askNext, l.claimed = time.Now().Add(l.p.pace.of(again)), doc.Authority
	l.mu.Unlock()
	return prefixes, !slices.Equal(prefixes, before)
}

// askedUntil is when a session ends because hosts of content are to be asked again;
// false if the configuration says what the peer speaks for.
func (l *link) askedUntil() (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.askNext, len(l.peer.Authority) == 0
}

// ask has a host of content say who speaks for it.
func (l *link) ask(ctx context.Context, origin string) (voucher, error) {
	body, done, err := get(ctx, l.p.o.Ask, origin+DocumentPath)
	if err != nil {
		return voucher{}, err
	}
	defer done()
	return decodeVoucher(body)
}

// originOf is the scheme and host of a prefix that has a host to be asked.
func originOf(prefix string) (origin string, ok bool) {
	scheme, _, _ := strings.Cut(prefix, ":")
	host := graph.Host(prefix)
	return scheme + "://" + host, host != "" && (scheme == "http" || scheme == "https")
}
