package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	// maxHead bounds the head of an answer, in bytes: a hub's has a few hundred.
	maxHead = 16 << 10
	// maxLine bounds one line of a stream, in bytes: a notice has a few hundred,
	// its buckets at most a few dozen URIs of 2 KiB.
	maxLine = 1 << 20
)

// errMalformed reports bytes that are no stream of a hub: a frame that was torn,
// or written twice over the same place.
var errMalformed = errors.New("malformed stream")

// A refusedError is an answer other than a stream.
type refusedError struct {
	status string // of the answer's first line
	text   string // how its body begins
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("the hub answers %s: %.300s", e.status, e.text)
}

// A sink takes what a decoder finds in a stream.
type sink interface {
	// opened is called when the head says that a stream follows.
	opened()
	// intern returns the name of a journal, which is the same for all its notices.
	intern(epoch []byte) string
	// mark reads the data of a notice, which is gone when it returns; seq is 0 if
	// the position comes after the data.
	mark(seq uint64, data []byte) mark
	// notice, position and reset move the reader to seq.
	notice(seq uint64, m mark)
	position(seq uint64)
	reset(seq uint64)
	// comeAfter is how many milliseconds to wait before the next connection.
	comeAfter(ms uint64)
}

// A part says what of an answer comes next.
type part uint8

const (
	inHead      part = iota
	inBody           // up to the end of the connection
	inChunkSize      // hexadecimal digits
	inChunkExt       // what else stands on that line
	inChunk
	inChunkEnd // the line end after it
	ended      // the body was whole
)

// A decoder takes apart an HTTP answer that is a text/event-stream, piece by piece
// as it arrives, whether its body is chunked or ends with the connection. It keeps
// only what a piece cut off. The zero decoder waits for the head.
// Source: RFC 9112, sections 6 and 7.1; HTML Standard, section 9.2.6.
type decoder struct {
	part  part
	chunk uint64 // size of the chunk, or what is left of it
	carry []byte // a head or a line that is not whole
	epoch string // of the last id

	// The frame that is being read.
	seq            uint64
	hasID, hasData bool
	isReset        bool
	seen           mark // of its data
}

// feed takes the next piece. It returns io.EOF when the body has ended in good
// order, a *refusedError if there is no stream, and errMalformed.
func (d *decoder) feed(b []byte, to sink) error {
	for len(b) > 0 {
		var n int
		var err error
		switch d.part {
		case inHead:
			n, err = d.head(b, to)
		case inBody:
			n, err = len(b), d.text(b, to)
		case inChunk:
			n = int(min(d.chunk, uint64(len(b))))
			err = d.text(b[:n], to)
			if d.chunk -= uint64(n); d.chunk == 0 {
				d.part = inChunkEnd
			}
		default:
			n, err = 1, d.framing(b[0])
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// framing takes one byte of what stands between chunks.
func (d *decoder) framing(c byte) error {
	switch d.part {
	case inChunkSize:
		digit, isDigit := unhex(c)
		switch {
		case isDigit && d.chunk < 1<<40:
			d.chunk = d.chunk<<4 | digit
			return nil
		case c == '\n':
			return d.beginChunk()
		case c == '\r' || c == ';' || c == ' ' || c == '\t':
			d.part = inChunkExt
			return nil
		}
	case inChunkExt:
		if c == '\n' {
			return d.beginChunk()
		}
		return nil
	case inChunkEnd:
		switch c {
		case '\r':
			return nil
		case '\n':
			d.part = inChunkSize
			return nil
		}
	}
	return fmt.Errorf("%w: %q between chunks", errMalformed, c)
}

func (d *decoder) beginChunk() error {
	if d.chunk == 0 {
		d.part = ended
		return io.EOF
	}
	d.part = inChunk
	return nil
}

func unhex(c byte) (uint64, bool) {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0'), true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return uint64(c|0x20-'a') + 10, true
	}
	return 0, false
}

// head gathers the head and returns how much of b belongs to it.
func (d *decoder) head(b []byte, to sink) (int, error) {
	before := len(d.carry)
	d.carry = append(d.carry, b...)
	end := bytes.Index(d.carry, []byte("\r\n\r\n"))
	if end < 0 {
		if len(d.carry) > maxHead {
			return 0, fmt.Errorf("%w: a head of more than %d bytes", errMalformed, maxHead)
		}
		return len(b), nil
	}
	head, n := d.carry[:end], end+4-before
	d.carry = nil
	lines := bytes.Split(head, []byte("\r\n"))
	_, status, ok := bytes.Cut(lines[0], []byte(" "))
	if !ok || !bytes.HasPrefix(lines[0], []byte("HTTP/1.")) {
		return 0, fmt.Errorf("%w: it begins with %.40q", errMalformed, lines[0])
	}
	if !bytes.HasPrefix(status, []byte("200")) {
		return 0, &refusedError{string(status), string(b[n:])}
	}
	d.part = inBody
	media := ""
	for _, line := range lines[1:] {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("Content-Type")):
			media = string(value)
		case bytes.EqualFold(name, []byte("Transfer-Encoding")) && bytes.EqualFold(value, []byte("chunked")):
			d.part = inChunkSize
		case bytes.EqualFold(name, []byte("Content-Encoding")):
			return 0, fmt.Errorf("%w: it is encoded as %.40q", errMalformed, value)
		}
	}
	if !bytes.HasPrefix([]byte(media), []byte("text/event-stream")) {
		return 0, &refusedError{string(status), fmt.Sprintf("%q is no stream", media)}
	}
	to.opened()
	return n, nil
}

// text takes a piece of the body.
func (d *decoder) text(b []byte, to sink) error {
	if len(d.carry) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return d.keep(b)
		}
		line := append(d.carry, b[:i]...)
		d.carry, b = line[:0], b[i+1:]
		if err := d.line(line, to); err != nil {
			return err
		}
	}
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return d.keep(b)
		}
		if err := d.line(b[:i], to); err != nil {
			return err
		}
		b = b[i+1:]
	}
	return nil
}

// keep adds b to the line that is not whole.
func (d *decoder) keep(b []byte) error {
	if len(d.carry)+len(b) > maxLine {
		return fmt.Errorf("%w: a line of more than %d bytes", errMalformed, maxLine)
	}
	d.carry = append(d.carry, b...)
	return nil
}

// line takes one line without its LF. A field that no hub writes is refused,
// other than the format says: it is the rest of a torn frame.
func (d *decoder) line(line []byte, to sink) error {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if len(line) == 0 {
		return d.dispatch(to)
	}
	if line[0] == ':' {
		return nil
	}
	field, value, _ := bytes.Cut(line, []byte(":"))
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	switch string(field) {
	case "data":
		if !d.hasData {
			d.hasData, d.seen = true, to.mark(d.seq, value)
		}
	case "id":
		return d.id(value, to)
	case "event":
		d.isReset = string(value) == "reset"
	case "retry":
		if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
			to.comeAfter(ms)
		}
	default:
		return fmt.Errorf("%w: a line %.60q", errMalformed, line)
	}
	return nil
}

// id takes a cursor apart: the name of the journal, a dot, the position.
func (d *decoder) id(value []byte, to sink) error {
	dot := bytes.LastIndexByte(value, '.')
	seq, ok := parseDigits(value[dot+1:])
	if dot < 0 || !ok {
		return fmt.Errorf("%w: %.60q is no cursor", errMalformed, value)
	}
	if d.epoch != string(value[:dot]) {
		d.epoch = to.intern(value[:dot])
	}
	d.seq, d.hasID = seq, true
	return nil
}

// parseDigits reads a number that consists of digits alone.
func parseDigits(b []byte) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// dispatch ends a frame.
func (d *decoder) dispatch(to sink) error {
	switch {
	case d.hasData && !d.hasID:
		return fmt.Errorf("%w: a frame without an id", errMalformed)
	case d.isReset:
		to.reset(d.seq)
	case d.hasData:
		to.notice(d.seq, d.seen)
	case d.hasID:
		to.position(d.seq)
	}
	d.seq, d.hasID, d.hasData, d.isReset, d.seen = 0, false, false, false, mark{}
	return nil
}
