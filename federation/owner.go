package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// writeDeadline is how long a peer may take for one piece of a stream: who takes
	// longer begins again from where it was, and costs no memory until then.
	writeDeadline = 30 * time.Second
	// maxTold bounds the levels that are read at a time: each reading waits for a flush of
	// the disk, and holds so many in memory.
	maxTold = 2000
	// askAgain is how long a peer is asked to wait before it opens a stream that ended
	// again: as long as a hub takes to start.
	askAgain = time.Second
	// maxAck bounds an acknowledgement in bytes: it is one position.
	maxAck = 4 << 10
)

var (
	// ErrMessage reports a request of a peer that is not one of the protocol.
	ErrMessage = errMessage
	// ErrPaused reports that the operator of this hub has paused the exchange.
	ErrPaused = errors.New("the operator of this hub has paused the exchange with yours")
)

// peerOf finds out which peer sent a request. Its errors are those of [VerifyToken]
// and [ErrPaused].
func (p *Peers) peerOf(r *http.Request) (*link, error) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return nil, refused("there is no Authorization header, or more than one")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, refused("the Authorization header does not say Bearer")
	}
	var found *link
	_, err := VerifyToken(strings.TrimLeft(token, " "), p.o.Identity.Hub(), p.o.Now(), func(issuer string) (Key, bool) {
		l, err := p.find(issuer)
		if err != nil {
			return Key{}, false
		}
		found = l
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.key, l.key.ID != "" // without it, its document was never seen
	})
	if err != nil {
		if found != nil {
			found.heed(err)
		}
		return nil, err
	}
	if found.isPaused() {
		return nil, ErrPaused
	}
	found.wake()
	return found, nil
}

// readBody reads the body of a peer's request. A body that is too long is an
// [http.MaxBytesError].
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, malformed("the body is encoded as %.40q; hubs send theirs plain", e)
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
}

func answer(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(b) // who does not read it asks again
	return nil
}

// ServeInterests takes what a peer wants to hear.
func (p *Peers) ServeInterests(w http.ResponseWriter, r *http.Request) (err error) {
	l, err := p.peerOf(r)
	if err != nil {
		return err
	}
	defer func() { l.heed(err) }()
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	l.registering.Lock() // to read takes up to a hundred times what was sent
	defer l.registering.Unlock()
	reg, err := decodeRegistration(body)
	if err != nil {
		return err
	}
	// It is carried out to the end also for who does not wait for the answer.
	res, err := p.o.Store.Register(context.WithoutCancel(r.Context()), l.url(), reg, p.o.Interests)
	if err != nil {
		return err
	}
	if res.Rejected > 0 {
		l.count(func(c *Counts) { c.Denied += uint64(res.Rejected) })
		l.log.Warn("the peer wants what it cannot have", "rejected", res.Rejected, "first", res.First)
	}
	return answer(w, appliedShape{res.Applied, res.Rejected, res.First})
}

// ServeAck notes how far a peer has heard.
func (p *Peers) ServeAck(w http.ResponseWriter, r *http.Request) (err error) {
	l, err := p.peerOf(r)
	if err != nil {
		return err
	}
	defer func() { l.heed(err) }()
	r.Body = http.MaxBytesReader(w, r.Body, maxAck)
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	at, err := decodeAck(body)
	if err != nil {
		return err
	}
	if err := p.o.Store.Ack(r.Context(), l.url(), at.Epoch, at.Seq); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

// ServeStream tells a peer the levels of what it wants to hear, from the position in
// Last-Event-ID on, for as long as it reads. Of several streams to one peer the newest
// goes on.
func (p *Peers) ServeStream(w http.ResponseWriter, r *http.Request) error {
	l, err := p.peerOf(r)
	if err != nil {
		return err
	}
	at, err := positionOf(r)
	if err != nil {
		l.heed(err)
		return err
	}
	ctx, done := l.telling.take(r.Context())
	defer done()
	if l.isPaused() { // just before there was a stream that could be ended
		return ErrPaused
	}
	l.addStream(1)
	defer l.addStream(-1)
	s := &teller{link: l, w: w, control: http.NewResponseController(w), at: at}
	defer s.cutAfter(ctx)()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")    // or a proxy keeps what is told
	err = s.control.SetReadDeadline(time.Time{}) // that of the body would end the stream
	if err == nil {
		err = s.tell(ctx)
	}
	if err != nil && ctx.Err() == nil {
		l.log.Info("a stream to the peer ended", "err", err)
	}
	return nil // the answer has begun
}

// positionOf reads where a stream is to begin; without a position that is the start.
func positionOf(r *http.Request) (graph.Cursor, error) {
	if r.URL.RawQuery != "" {
		return graph.Cursor{}, malformed("the stream of a peer has no parameters")
	}
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		return graph.Cursor{}, nil
	}
	at, err := graph.ParseCursor(text)
	if err != nil {
		return at, malformed("Last-Event-ID: %w", err)
	}
	return at, nil
}

func (l *link) addStream(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams += n
}

// A teller is one stream to a peer.
type teller struct {
	*link
	w       http.ResponseWriter
	control *http.ResponseController
	at      graph.Cursor
	frame   bytes.Buffer
}

// tell writes the stream until ctx or the hub ends, or the peer does not take it.
func (s *teller) tell(ctx context.Context) error {
	fmt.Fprintf(&s.frame, "retry: %d\n\n", s.p.pace.of(askAgain).Milliseconds())
	here := s.p.o.Store.Token().Epoch
	if s.at.IsZero() { // it begins
		s.at.Epoch = here
	}
	if s.at.Epoch != here || s.at.Seq > s.p.o.Store.NewestLevel() {
		s.event(eventReset, encodeReset(here), "")
		return s.send(ctx)
	}
	if err := s.send(ctx); err != nil {
		return err
	}
	beat := time.NewTicker(s.p.pace.of(heartbeat))
	defer beat.Stop()
	for {
		rung := s.p.o.Store.LevelsRung()
		levels, _, err := s.p.o.Store.Levels(ctx, s.url(), s.at.Seq, maxTold)
		if err != nil {
			return err
		}
		if len(levels) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.p.ended:
				return nil
			case <-rung:
				continue
			case <-beat.C:
				s.event(eventHeartbeat, []byte("{}"), "")
			}
		}
		for len(levels) > 0 {
			data, n := encodeStates(levels)
			s.at.Seq = levels[n-1].Sver
			s.event(eventStates, data, s.at.String())
			levels = levels[n:]
			s.count(func(c *Counts) { c.Told += uint64(n) })
		}
		if err := s.send(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.p.ended:
			return nil
		default:
		}
	}
}

// cutAfter ends a write when ctx ends: who does not read would else keep a stream that is
// over, and what it is to read, for as long as a write may take. Call done when nothing
// more is written.
func (s *teller) cutAfter(ctx context.Context) (done func()) {
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		s.control.SetWriteDeadline(time.Now()) // a connection that has none ends by itself
	})
	return func() {
		if !stop() {
			<-cut
		}
	}
}

// event adds one event to what is sent next.
func (s *teller) event(name string, data []byte, id string) {
	if id != "" {
		fmt.Fprintf(&s.frame, "id: %s\n", id)
	}
	fmt.Fprintf(&s.frame, "event: %s\ndata: %s\n\n", name, data)
}

// send writes what was added, within a time, unless ctx has ended.
func (s *teller) send(ctx context.Context) error {
	defer s.frame.Reset()
	// The time of the whole answer would end the stream.
	if err := s.control.SetWriteDeadline(time.Now().Add(writeDeadline)); err != nil {
		return err
	}
	if ctx.Err() != nil { // cutAfter may have come before
		return ctx.Err()
	}
	if _, err := s.w.Write(s.frame.Bytes()); err != nil {
		return err
	}
	return s.control.Flush()
}
