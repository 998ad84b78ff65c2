package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/freshwire/freshwire/federation/follow"
	"github.com/freshwire/freshwire/graph"
)

const (
	// callTimeout bounds one call of a peer: a body of 1 MiB on a slow line.
	callTimeout = 30 * time.Second
	// minBackOff and maxBackOff bound the wait after something failed. It is drawn
	// anew between nothing and a bound that doubles, so that many hubs that lost a peer
	// together do not come back together.
	minBackOff = time.Second
	maxBackOff = time.Minute
	// ackEvery is how often a peer is told how far it was heard, which only people look at.
	ackEvery = 5 * time.Second
	// maxWaiting bounds the events of a peer that are read and not applied yet; each is
	// up to 1 MiB.
	maxWaiting = 4
	// maxShown bounds, in bytes, a text of a peer that is kept to be shown.
	maxShown = 300
)

var (
	// errKicked ends a session that is to begin anew.
	errKicked = errors.New("the session begins anew")
	// errGap reports that the peer has applied other ops than were known here.
	errGap = errors.New("the peer has applied other changes than it was told")
	// errReset reports that the peer cannot go on from the position.
	errReset = errors.New("the peer says that it cannot go on from here")
)

// A Refusal is an answer of a peer that grants nothing.
type Refusal struct {
	Status int
	Detail string        // what it says, clipped
	retry  time.Duration // that it asks to wait
	body   []byte
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the peer answers %d: %s", r.Status, r.Detail)
}

// passes reports whether it is worth to ask the same again.
func (r *Refusal) passes() bool { return r.Status == http.StatusTooManyRequests || r.Status >= 500 }

// A backOff is how long to wait after failures.
type backOff struct {
	pace  pace
	fails int
}

func (b *backOff) good() { b.fails = 0 }

// next draws the next wait; err may ask for a longer one.
func (b *backOff) next(err error) time.Duration {
	most := min(maxBackOff, minBackOff<<min(b.fails, 10))
	b.fails++
	wait := b.pace.of(rand.N(most))
	var no *Refusal
	if errors.As(err, &no) && no.retry > 0 {
		wait += min(no.retry, maxBackOff)
	}
	return wait
}

// follow has one session with the peer after another.
func (l *link) follow(ctx context.Context) {
	wait := backOff{pace: l.p.pace}
	for ctx.Err() == nil {
		if l.isPaused() {
			l.enter(Paused, nil)
			if !l.untilKicked(ctx) {
				return
			}
			continue
		}
		l.enter(Connecting, nil)
		began := time.Now()
		err := l.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errKicked) {
			wait.good()
			continue
		}
		// Not a peer of which each session ends as soon as it has begun.
		if time.Since(began) > l.p.pace.of(silence) {
			wait.good()
		}
		d := wait.next(err)
		if errors.Is(err, errReset) { // it is there, and another session knows more
			l.log.Info("the session with the peer begins anew", "why", err)
		} else {
			l.enter(Waiting, err)
			l.log.Warn("the session with the peer failed", "err", err, "again_in", d)
		}
		if !sleep(ctx, d, l.kicked) {
			return
		}
	}
}

func (l *link) untilKicked(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-l.kicked:
		return true
	}
}

// session meets the peer, and then tells it what this hub wants to hear and hears it,
// until something fails.
func (l *link) session(ctx context.Context) error {
	ctx, restart := context.WithCancelCause(ctx)
	defer restart(nil)
	l.mu.Lock()
	l.restart = restart
	l.mu.Unlock()
	select { // what was to be done anew is done now
	case <-l.kicked:
	default:
	}
	if l.isPaused() { // just before there was a session that could be ended
		return errKicked
	}
	clients, err := l.p.o.Dial(l.url())
	if err != nil {
		return err
	}
	defer clients.Close()
	s := &session{link: l, clients: clients}
	if err := s.meet(ctx); err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	l.count(func(c *Counts) { c.Sessions++ })
	if at, ends := l.askedUntil(); ends {
		defer time.AfterFunc(time.Until(at), func() { restart(errKicked) }).Stop()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.register(ctx) })
	group.Go(func() error { return s.listen(ctx) })
	group.Go(func() error { return s.acknowledge(ctx) })
	group.Go(func() error { return s.compare(ctx) })
	err = group.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errKicked) {
		return cause
	}
	return err
}

// A session is the time in which a peer has one epoch.
type session struct {
	*link
	clients Clients
	doc     *Document
	epoch   graph.Epoch
	acks    chan uint64 // newest position that was heard
}

// meet reads the peer's document.
func (s *session) meet(ctx context.Context) error {
	doc, err := fetchDocument(ctx, s.clients.Calls, s.url())
	if err != nil {
		return err
	}
	key, err := doc.keyOf(s.peer.Fingerprint)
	if err != nil {
		return err
	}
	epoch, err := strconv.ParseUint(doc.Epoch, 16, 32)
	if err != nil {
		return err // a document that was checked has one
	}
	s.doc, s.epoch, s.acks = doc, graph.Epoch(epoch), make(chan uint64, 1)
	if err := s.learn(ctx, key); err != nil {
		return err
	}
	another, err := s.p.o.Store.MeetOwner(context.WithoutCancel(ctx), s.url(), s.epoch)
	if another {
		s.compareSoon()
		s.log.Info("the peer was restored or is new: all is told anew", "epoch", doc.Epoch)
	}
	return err
}

// keyOf returns the key with a fingerprint.
func (d *Document) keyOf(f Fingerprint) (Key, error) {
	for _, j := range d.Keys {
		if k, err := j.Key(); err == nil && k.Fingerprint().Equal(f) {
			return k, nil
		}
	}
	found, err := d.Keys[0].Key()
	if err != nil {
		return Key{}, err
	}
	return Key{}, fmt.Errorf("the peer's key is %s, and not %s: if its operator says that it has a new one, remove the peer and add it again",
		found.Fingerprint(), f)
}

// learn notes the peer's key and asks for what it speaks.
func (s *session) learn(ctx context.Context, key Key) error {
	s.mu.Lock()
	news := s.key.ID != key.ID
	s.key = key
	s.mu.Unlock()
	resolved, moved := s.resolve(ctx, s.doc)
	if !news && !moved {
		return nil
	}
	ctx = context.WithoutCancel(ctx) // what is named by half has to be named again
	s.p.changing.Lock()
	defer s.p.changing.Unlock()
	if l, err := s.p.find(s.url()); err != nil || l != s.link {
		return errKicked // it was removed meanwhile
	}
	if moved {
		s.mu.Lock()
		s.resolved = resolved
		s.mu.Unlock()
		s.log.Info("the peer speaks for other prefixes", "authority", resolved)
	}
	if err := s.p.keep(ctx, nil); err != nil {
		return err
	}
	return s.p.name(ctx)
}

// register tells the peer what this hub wants to hear, for as long as ctx lasts.
func (s *session) register(ctx context.Context) error {
	wait := backOff{pace: s.p.pace}
	said := uint64(0) // generation that the peer has heard of
	gaps := 0
	for {
		rung := s.p.o.Store.OpsRung()
		standing, ops, err := s.p.o.Store.Ops(ctx, s.url(), min(s.doc.Limits.Ops, graph.MaxOps))
		if err != nil {
			return err
		}
		if len(ops) == 0 && (standing.Taken > 0 || said == standing.Generation) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-rung:
			}
			continue
		}
		err = s.registerSome(ctx, &standing, ops)
		switch no := (*Refusal)(nil); {
		case err == nil:
			said = standing.Generation
			wait.good()
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &no) && !no.passes():
			return err
		case errors.Is(err, errGap) && gaps == 0: // it is told from there at once, but not for ever
			gaps++
		default:
			s.count(func(c *Counts) { c.Failures++ })
			s.log.Warn("the peer was not told what is wanted", "err", err)
			if !sleep(ctx, wait.next(err), nil) {
				return ctx.Err()
			}
		}
	}
}

// registerSome makes one request of some of ops.
func (s *session) registerSome(ctx context.Context, standing *graph.Session, ops []graph.InterestOp) error {
	r := graph.Registration{Epoch: standing.Epoch, Generation: standing.Generation, Base: standing.Taken, Ops: ops}
	body, n := encodeRegistration(&r, min(MaxBody, s.doc.Limits.Body))
	answer, err := s.call(ctx, EndpointInterests, body)
	no := (*Refusal)(nil)
	if errors.As(err, &no) && no.Status == http.StatusConflict {
		gap, err := decodeGap(no.body)
		if err != nil {
			return err
		}
		s.log.Info("the peer has applied other changes than were known here", "generation", gap.Generation, "applied", gap.Applied)
		return errors.Join(errGap, s.p.o.Store.Misfit(ctx, s.url(), gap))
	}
	if err != nil {
		return err
	}
	res, err := decodeApplied(answer)
	if err != nil {
		return err
	}
	if n > 0 && (res.Applied <= standing.Taken || res.Applied-standing.Taken > standing.Pending) {
		return malformed("%d ops are said to be applied; of %d that were, %d more are there", res.Applied, standing.Taken, standing.Pending)
	}
	if res.Rejected > 0 {
		s.log.Warn("the peer does not tell of all that is wanted", "rejected", res.Rejected, "first", clip(res.First))
	}
	s.count(func(c *Counts) {
		c.Taken += uint64(n)
		if res.Rejected > 0 {
			c.Rejected += uint64(min(max(res.Rejected, 0), n))
			c.First = clip(res.First)
		}
	})
	return s.p.o.Store.OpsTaken(ctx, s.url(), standing.Generation, res.Applied)
}

// clip bounds a text of a peer that is shown to people, on terminals as well.
func clip(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError { // which a text has that was cut
			return r
		}
		return ' '
	}, text[:min(len(text), maxShown)])
}

// call posts to an endpoint of the peer and returns what it answers.
func (s *session) call(ctx context.Context, endpoint string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.doc.Endpoints[endpoint], bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if err := s.sign(r); err != nil {
		return nil, err
	}
	answer, err := s.clients.Calls.Do(r)
	if err != nil {
		return nil, err
	}
	return read(answer)
}

// sign gives a request a token of this hub.
func (l *link) sign(r *http.Request) error {
	token, err := l.p.o.Identity.Token(l.url(), l.p.o.Now())
	if err == nil {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return err
}

// read returns the body of an answer, or the [Refusal] that it is.
func read(answer *http.Response) ([]byte, error) {
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, MaxBody+1))
	if answer.StatusCode != http.StatusOK {
		return nil, refusal(answer.StatusCode, answer.Header, b)
	}
	if err != nil {
		return nil, err
	}
	if len(b) > MaxBody {
		return nil, malformed("the answer has more than %d bytes", MaxBody)
	}
	return b, nil
}

// refusal says what an answer that grants nothing says.
func refusal(status int, h http.Header, body []byte) *Refusal {
	r := &Refusal{Status: status, Detail: http.StatusText(status), body: body}
	if seconds, err := strconv.Atoi(h.Get("Retry-After")); err == nil && seconds > 0 {
		r.retry = time.Duration(min(seconds, 3600)) * time.Second
	}
	if o, err := readObject(body); err == nil {
		if detail := o.optionalText("detail"); detail != "" && o.fault == nil {
			r.Detail = clip(detail)
		}
	}
	return r
}

// listen hears what the peer tells and applies it, for as long as ctx lasts.
func (s *session) listen(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	events := make(chan told, maxWaiting)
	group.Go(func() error {
		defer close(events)
		return s.readEvents(ctx, events)
	})
	group.Go(func() error {
		for e := range events {
			if err := s.apply(ctx, gather(e, events)); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// told are levels and the position after them.
type told struct {
	levels   []graph.Level
	position uint64
}

// readEvents reads the stream until it ends for good.
func (s *session) readEvents(ctx context.Context, out chan<- told) error {
	standing, err := s.p.o.Store.Session(s.url())
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.refused == s.epoch { // the peer never told so much: from the start, of which most is known
		standing.Position = 0
	}
	s.mu.Unlock()
	o := follow.Options{HTTP: s.clients.Stream, Prepare: s.sign, Idle: s.p.pace.of(deadAfter), Insist: true,
		LastEventID: graph.Cursor{Epoch: s.epoch, Seq: standing.Position}.String(),
		Opened:      s.alive,
		Lost: func(err error, wait time.Duration) {
			err = streamError(err)
			s.enter(Waiting, fmt.Errorf("the stream of the peer ended: %w", err))
			s.log.Info("the stream of the peer ended", "err", err, "again_in", wait)
		}}
	for e, err := range follow.Stream(ctx, s.doc.Endpoints[EndpointStream], o) {
		if err != nil {
			return streamError(err)
		}
		s.alive()
		switch e.Name {
		case eventReset:
			s.mu.Lock()
			s.refused = s.epoch
			s.mu.Unlock()
			return errReset
		case eventStates:
			levels, err := decodeStates(e.Data)
			if err != nil {
				return err
			}
			at, err := graph.ParseCursor(e.ID)
			if err != nil || at.Epoch != s.epoch {
				return malformed("states come with the position %.40q", e.ID)
			}
			select {
			case out <- told{levels, at.Seq}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return ctx.Err()
}

// streamError is why a stream ended, in the words of this room.
func streamError(err error) error {
	no := (*follow.Refusal)(nil)
	if !errors.As(err, &no) {
		return err
	}
	body, readErr := io.ReadAll(no.Response.Body)
	if readErr != nil {
		return readErr
	}
	return refusal(no.Response.StatusCode, no.Response.Header, body)
}

// gather adds to what was told what else has come by now, as much as is one commit.
func gather(first told, more <-chan told) told {
	for len(first.levels)+maxStatesTaken <= graph.MaxLevels {
		select {
		case e, ok := <-more:
			if !ok {
				return first
			}
			first.levels, first.position = append(first.levels, e.levels...), max(first.position, e.position)
		default:
			return first
		}
	}
	return first
}

// apply has the store hear what was told, also if the session ends meanwhile: what came
// before a fault is good. A level that is none costs nobody but itself.
func (s *session) apply(ctx context.Context, e told) error {
	good, refused := e.levels[:0], uint64(0)
	for _, l := range e.levels {
		if field, why := l.Fault(s.p.o.Schemes...); field != "" {
			if refused++; refused == 1 {
				s.log.Warn("the peer told what is no state", "uri", clip(l.URI), "field", field, "why", why)
			}
			continue
		}
		good = append(good, l)
	}
	h, err := s.p.o.Store.Hear(context.WithoutCancel(ctx), s.url(), s.epoch, good, e.position)
	if err != nil {
		return err
	}
	s.count(func(c *Counts) {
		c.Refused += refused
		c.Heard.Changed += h.Changed
		c.Heard.Same += h.Same
		c.Heard.Old += h.Old
		c.Heard.Unwanted += h.Unwanted
	})
	select {
	case <-s.acks: // one that was not sent yet is out of date
	default:
	}
	s.acks <- e.position
	return nil
}

// acknowledge tells the peer now and then how far it was heard.
func (s *session) acknowledge(ctx context.Context) error {
	for {
		if !sleep(ctx, s.p.pace.of(ackEvery), nil) {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case position := <-s.acks:
			body := encodeAck(graph.Cursor{Epoch: s.epoch, Seq: position})
			if _, err := s.call(ctx, EndpointAck, body); err != nil {
				s.log.Debug("the peer was not told how far it was heard", "err", err)
			}
		}
	}
}
