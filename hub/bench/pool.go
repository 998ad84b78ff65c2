package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxOpening bounds the connections on their way to being streams, all pools
	// together: well below the backlog of a listener.
	maxOpening = 500
	// pieceSize is how much is read at once from one connection, in bytes: more
	// than a hub writes at once.
	pieceSize = 128 << 10
	// comeAgain is when a reader that lost its stream connects again if the hub did
	// not say.
	comeAgain = time.Second
	// lookAround is how often a loop looks for connections to open and whether it
	// is to end.
	lookAround = 20 * time.Millisecond
)

// A pool is readers that one loop reads. What it counts is under mu, which the
// loop holds while it takes what arrived.
type pool struct {
	hub     netip.AddrPort
	host    string // as the Host header says it
	token   string // "" sends none
	target  func(*reader) string
	opening int // at most, at once
	plain   bool
	witness *journal // sees the data of each notice, unless nil

	delivered atomic.Uint64 // notices
	bytes     atomic.Uint64

	mu      sync.Mutex
	readers []*reader
	queue   []*reader // to be opened
	away    []*reader // to come again
	begun   int       // how many are opening
	open    int       // how many are open
	err     error     // why a reader could not be opened at first
	epochs  map[string]string
	ledgers []ledger // by class
	marks   marks
	started int64 // when the run began; older times of publication are not ours
	since   int64 // times of publication from which latency counts; 0 means never
	stats   poolStats

	now   int64 // when the piece at hand arrived
	fresh uint64
}

// poolStats is what a pool counts.
type poolStats struct {
	latency, catchUp histogram
	lastDelivery     int64
	altered          uint64 // notices that differ from what the first reader got
	resets           uint64
	disconnects      uint64 // of readers that read
	dropped          uint64 // stalled readers the hub let go
	malformed        uint64
	fault            error // the first of those
}

func (s *poolStats) add(o *poolStats) {
	s.latency.add(&o.latency)
	s.catchUp.add(&o.catchUp)
	s.lastDelivery = max(s.lastDelivery, o.lastDelivery)
	s.altered += o.altered
	s.resets += o.resets
	s.disconnects += o.disconnects
	s.dropped += o.dropped
	s.malformed += o.malformed
	if s.fault == nil {
		s.fault = o.fault
	}
}

// A standing says what a reader's connection is at.
type standing uint8

const (
	waiting standing = iota // to be opened, for the first time or again
	dialing
	asking // the request is sent
	reading
	stalling // open, and not read
	gone
)

// A reader is one connection to the stream, and what it got.
type reader struct {
	pool     *pool
	index    int32 // among the pool's
	seat     seat
	source   netip.Addr // zero means the system's choice
	standing standing
	wasOpen  bool
	fd       int // of the socket, in a loop of epoll
	decoder  decoder
	track    track
	hasLast  bool
	last     uint64 // position after which it resumes
	retry    time.Duration
	comeback int64 // when to connect again
	asked    int64 // when it first asked
}

func newPool(o *Options, hub netip.AddrPort, classes int) *pool {
	return &pool{hub: hub, host: o.address(), token: o.Token, plain: o.Portable, opening: max(1, maxOpening/o.Threads),
		epochs: map[string]string{}, ledgers: make([]ledger, classes), started: time.Now().UnixNano()}
}

// add makes a reader, to be opened as soon as the loop comes to it.
func (p *pool) add(s seat, source netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &reader{pool: p, index: int32(len(p.readers)), seat: s, source: source}
	p.readers = append(p.readers, r)
	p.queue = append(p.queue, r)
}

// counts returns how many readers are open, and the first failure to open one.
func (p *pool) counts() (open int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.err
}

// due returns the readers to connect now, with the lock held.
func (p *pool) due(now int64) []*reader {
	if len(p.away) > 0 {
		kept := p.away[:0]
		for _, r := range p.away {
			if r.comeback > now {
				kept = append(kept, r)
			} else {
				p.queue = append(p.queue, r)
			}
		}
		p.away = kept
	}
	n := min(len(p.queue), max(p.opening-p.begun, 0))
	list := p.queue[:n]
	p.queue = p.queue[n:]
	p.begun += n
	for _, r := range list {
		r.standing = dialing
		r.decoder = decoder{epoch: r.decoder.epoch, carry: r.decoder.carry[:0]}
		if r.asked == 0 {
			r.asked = now
		}
	}
	return list
}

// request is what r sends.
func (p *pool) request(r *reader) []byte {
	b := []byte("GET " + p.target(r) + " HTTP/1.1\r\nHost: " + p.host +
		"\r\nUser-Agent: freshwire-bench\r\nAccept: text/event-stream\r\n")
	if p.token != "" {
		b = append(b, "Authorization: Bearer "+p.token+"\r\n"...)
	}
	if r.hasLast {
		b = append(b, "Last-Event-ID: "+r.decoder.epoch+"."+strconv.FormatUint(r.last, 10)+"\r\n"...)
	}
	return append(b, "\r\n"...)
}

// took hands a piece of what arrived to r, with the lock held. Its error means
// that the connection is of no use any more.
func (p *pool) took(r *reader, piece []byte, now int64) error {
	p.now = now
	err := r.decoder.feed(piece, r)
	p.bytes.Add(uint64(len(piece)))
	if p.fresh > 0 {
		p.delivered.Add(p.fresh)
		p.stats.lastDelivery = now
		p.fresh = 0
	}
	return err
}

// left notes that the connection of r has ended, with the lock held. A reader
// that was open once comes again.
func (p *pool) left(r *reader, err error, now int64) {
	if errors.Is(err, errMalformed) {
		p.stats.malformed++
		if p.stats.fault == nil {
			p.stats.fault = err
		}
	}
	switch r.standing {
	case dialing, asking:
		p.begun--
	case reading:
		p.open--
		p.stats.disconnects++
	case stalling:
		p.open--
		p.stats.dropped++
		r.standing = gone
		return
	}
	if !r.wasOpen {
		r.standing = gone
		if p.err == nil {
			p.err = fmt.Errorf("opening a stream: %w", err)
		}
		return
	}
	r.standing = waiting
	r.comeback = now + int64(max(r.retry, comeAgain/10))
	p.away = append(p.away, r)
}

func (r *reader) opened() {
	r.wasOpen = true
	r.pool.begun--
	r.pool.open++
	r.standing = reading
	if r.retry == 0 {
		r.retry = comeAgain
	}
	if r.seat.stalled {
		r.standing = stalling
	}
}

func (r *reader) intern(epoch []byte) string {
	s, ok := r.pool.epochs[string(epoch)]
	if !ok {
		s = string(epoch)
		r.pool.epochs[s] = s
	}
	return s
}

func (r *reader) mark(seq uint64, data []byte) mark {
	if w := r.pool.witness; w != nil {
		w.saw(seq, data)
	}
	return r.pool.marks.of(seq, data)
}

func (r *reader) notice(seq uint64, m mark) {
	p := r.pool
	p.fresh++
	r.last, r.hasLast = seq, true
	if m.published >= p.started && m.published <= p.now {
		if p.since > 0 && m.published >= p.since {
			p.stats.latency.record(time.Duration(p.now - m.published))
		}
		if m.altered {
			p.stats.altered++
		}
	}
	l := &p.ledgers[r.seat.class]
	l.take(&r.track, seq)
	if seq == l.goal {
		p.stats.catchUp.record(time.Duration(p.now - r.asked))
	}
}

func (r *reader) position(seq uint64) { r.last, r.hasLast = seq, true }

func (r *reader) reset(seq uint64) {
	r.pool.stats.resets++
	r.position(seq)
}

func (r *reader) comeAfter(ms uint64) { r.retry = time.Duration(ms) * time.Millisecond }

// run opens the readers and reads what they get until ctx ends.
func (p *pool) run(ctx context.Context) error {
	if !p.plain {
		return p.runEpoll(ctx)
	}
	return p.runPortable(ctx)
}
