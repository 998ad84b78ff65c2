package follow

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxEvent bounds one event as it stands in the stream, in bytes: what comes
// from a hub is a few hundred, and a peer must not be able to fill the memory.
const MaxEvent = 1 << 20

// ErrTooLong reports an event longer than [MaxEvent]. Asking again would bring
// the same one.
var ErrTooLong = fmt.Errorf("an event of the stream is longer than %d bytes", MaxEvent)

// A body is what the server sends, with LF as the only end of a line. The
// watchdog runs while it waits for the server, and not while the reader of the
// events takes its time.
type body struct {
	io.ReadCloser
	watchdog *time.Timer
	idle     time.Duration
	cr       bool // the last byte was a CR, which ends a line with or without LF
}

func (b *body) Read(p []byte) (int, error) {
	b.watchdog.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.watchdog.Stop()
	return b.unify(p[:n]), err
}

// unify writes each line end in p as LF and returns how long p is then.
// Source: WHATWG HTML, section 9.2.5.
func (b *body) unify(p []byte) int {
	if !b.cr && bytes.IndexByte(p, '\r') < 0 {
		return len(p)
	}
	n := 0
	for _, c := range p {
		if c == '\n' && b.cr {
			b.cr = false
			continue
		}
		if b.cr = c == '\r'; b.cr {
			c = '\n'
		}
		p[n] = c
		n++
	}
	return n
}

// frames reads the events of a body whole: comments are left out, and so is
// what the end of the body cuts off. One Read returns no more than one event,
// because the client that reads from it looks five times through all it has for
// the end of the next.
type frames struct {
	lines *bufio.Reader
	text  []byte // the event being read
	rest  []byte // what of it was not handed over yet
	begun bool
	end   error // why there are no more, once there are none
}

func newFrames(r io.Reader) *frames { return &frames{lines: bufio.NewReaderSize(r, 64<<10)} }

func (f *frames) Read(p []byte) (int, error) {
	if len(f.rest) == 0 && f.end == nil {
		f.rest, f.end = f.next()
	}
	if len(f.rest) == 0 {
		return 0, f.end
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// next returns the next event with the blank line that ends it, valid until the
// next call.
func (f *frames) next() ([]byte, error) {
	f.text = f.text[:0]
	for {
		start := len(f.text)
		if err := f.line(); err != nil {
			return nil, err
		}
		switch line := f.text[start:]; {
		case line[0] == ':' || len(line) == 1 && start == 0:
			f.text = f.text[:start]
		case len(line) == 1:
			return f.text, nil
		}
	}
}

// line appends the next line to the event.
func (f *frames) line() error {
	start := len(f.text)
	for {
		part, err := f.lines.ReadSlice('\n')
		if len(f.text)+len(part) > MaxEvent {
			return ErrTooLong
		}
		f.text = append(f.text, part...)
		if err == nil {
			break
		} else if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
	if !f.begun {
		f.begun = true
		f.text = append(f.text[:start], bytes.TrimPrefix(f.text[start:], []byte("\ufeff"))...)
	}
	return nil
}
