package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

// refreshes reads one stream of a hub and counts how often each page is to be refreshed.
// It reads by itself, and not by the client, for it reads a million notices beside the
// hub that is measured. It may stop for a while: it goes on from where it was.
type refreshes struct {
	address, hostname string // of the hub
	token             string
	target            string
	pages             []byte        // what URIs of pages begin with
	broken            chan struct{} // closed when it cannot go on; then fault says why
	fault             error

	// Of the connection that is open.
	granted chan struct{} // closed when the hub grants the stream
	retry   time.Duration
	now     time.Time // when the piece at hand arrived
	page    int       // of the frame that is being read, -1 if it is none of ours
	epoch   string
	last    uint64
	gone    bool // the hub does not have what follows any more

	mu        sync.Mutex
	told      []uint8 // by page, up to 255
	strangers uint64  // notices that were not asked for
	watched   *lookout
}

// A lookout is for some pages to be refreshed, each for the first time.
type lookout struct {
	pages       stretch
	done        chan struct{} // closed when all are
	missing     int           // with first and last under mu of refreshes until then
	first, last time.Time     // when the first and the last was heard
}

// errStreamReset reports that the stream had a gap.
var errStreamReset = errors.New("the hub does not have all of its stream any more, so that nobody knows who was told")

func newRefreshes(hub, token, host string, pages int) *refreshes {
	u, err := url.Parse(hub)
	if err != nil {
		panic(err) // the client has parsed it
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "80")
	}
	return &refreshes{address: address, hostname: u.Host, token: token, pages: []byte("http://" + host + "/"),
		target: "/v1/stream?" + url.Values{"kind": {client.KindRefresh}, "host": {host}}.Encode(),
		broken: make(chan struct{}), told: make([]uint8, pages)}
}

// begin has the stream read from now on.
func (e *refreshes) begin(ctx context.Context, hub *client.Client) error {
	token, err := hub.Token(ctx)
	if err != nil {
		return err
	}
	epoch, digits, _ := strings.Cut(token, ".")
	seq, ok := parseDigits([]byte(digits))
	if !ok {
		return fmt.Errorf("the hub's position %.60q is not of the form NAME.NUMBER", token)
	}
	e.epoch, e.last = epoch, seq
	return nil
}

// listen reads the stream until stop is called, which may be more than once. It returns
// when the hub has granted it.
func (e *refreshes) listen(ctx context.Context) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	e.granted = make(chan struct{})
	granted := e.granted // the loop forgets it
	go func() {
		defer close(ended)
		if err := e.run(ctx); err != nil {
			e.fault = err
			close(e.broken)
		}
	}()
	stop = func() error {
		cancel()
		<-ended
		select {
		case <-e.broken:
			return e.fault
		default:
			return nil
		}
	}
	select {
	case <-granted:
		return stop, nil
	case <-ended:
	}
	select {
	case <-granted: // what came after that, those who wait are told
		return stop, nil
	default:
		return nil, errors.Join(stop(), ctx.Err())
	}
}

// run makes one connection after the other.
func (e *refreshes) run(ctx context.Context) error {
	for {
		err := e.connection(ctx)
		refused := (*refusedError)(nil)
		switch {
		case ctx.Err() != nil:
			return nil
		case e.granted != nil || errors.As(err, &refused) || errors.Is(err, errMalformed) || errors.Is(err, errStreamReset):
			return fmt.Errorf("the stream of refreshes: %w", err)
		}
		if pause(ctx, max(e.retry, comeAgain/10)) != nil {
			return nil
		}
	}
}

func (e *refreshes) connection(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", e.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	request := "GET " + e.target + " HTTP/1.1\r\nHost: " + e.hostname + "\r\nUser-Agent: freshwire-bench\r\nAccept: text/event-stream\r\n" +
		"Last-Event-ID: " + e.epoch + "." + strconv.FormatUint(e.last, 10) + "\r\n"
	if e.token != "" {
		request += "Authorization: Bearer " + e.token + "\r\n"
	}
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		return err
	}
	answer := decoder{epoch: e.epoch}
	piece := make([]byte, pieceSize)
	for {
		n, err := conn.Read(piece)
		e.now = time.Now()
		if n > 0 {
			if fault := answer.feed(piece[:n], e); fault != nil {
				err = fault
			}
		}
		if e.gone {
			err = errStreamReset
		}
		if err != nil {
			return err
		}
	}
}

// watch has e look for pages, from now on.
func (e *refreshes) watch(pages stretch) *lookout {
	w := &lookout{pages: pages, done: make(chan struct{}), missing: pages.count()}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watched = w
	return w
}

// sofar says how many pages are yet to be refreshed, and when the first and the last was
// heard of the others.
func (e *refreshes) sofar(w *lookout) (missing int, first, last time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return w.missing, w.first, w.last
}

// tally returns how often each page was to be refreshed; nobody is listening any more.
func (e *refreshes) tally() (told []uint8, strangers uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.told, e.strangers
}

func (e *refreshes) opened() {
	if e.granted != nil {
		close(e.granted)
		e.granted = nil
	}
}

func (e *refreshes) intern(epoch []byte) string {
	e.epoch = string(epoch)
	return e.epoch
}

var (
	kindKey = []byte(`"kind":"`)
	refresh = []byte(client.KindRefresh)
)

func (e *refreshes) mark(_ uint64, data []byte) mark {
	e.page = -1
	uri, _ := textMember(data, uriKey)
	if kind, _ := textMember(data, kindKey); !bytes.Equal(kind, refresh) {
		return mark{}
	}
	if digits, ours := bytes.CutPrefix(uri, e.pages); ours {
		if n, ok := parseDigits(digits); ok && n < uint64(len(e.told)) {
			e.page = int(n)
		}
	}
	return mark{}
}

func (e *refreshes) notice(seq uint64, _ mark) {
	e.last = seq
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.page < 0 {
		e.strangers++
		return
	}
	if e.told[e.page] < 255 {
		e.told[e.page]++
	}
	w := e.watched
	if w == nil || e.page < w.pages.from || e.page >= w.pages.to || e.told[e.page] > 1 {
		return
	}
	if w.first.IsZero() {
		w.first = e.now
	}
	w.last = e.now
	if w.missing--; w.missing == 0 {
		close(w.done)
	}
}

func (e *refreshes) position(seq uint64) { e.last = seq }

func (e *refreshes) reset(uint64) { e.gone = true }

func (e *refreshes) comeAfter(ms uint64) { e.retry = time.Duration(ms) * time.Millisecond }
