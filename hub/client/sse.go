package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// maxEventLine bounds one line of a stream, in bytes: a notice is a few hundred,
// its buckets at most a few dozen URIs of 2 KiB.
const maxEventLine = 1 << 20

// An event is one event of a stream. One without data and name only moves the
// position: the format has readers keep its id and see nothing.
type event struct {
	id   string // the last id heard, also on an event that carries none
	name string // "" when the stream names none
	data []byte // valid until the next call of next
}

// An eventReader reads a text/event-stream. Lines end in LF or CRLF; a lone CR,
// which the format also allows, is not taken for an end because no hub writes it.
// Source: WHATWG HTML, section 9.2.6.
type eventReader struct {
	r     *bufio.Reader
	id    string
	data  []byte
	retry time.Duration // what the stream last asked for; 0 if it did not
	heard func()        // called for each line, comments included
}

func newEventReader(r io.Reader, heard func()) *eventReader {
	return &eventReader{r: bufio.NewReaderSize(r, 64<<10), heard: heard}
}

// next returns the next event. At the end of the stream it returns io.EOF. What
// the end cuts off is dropped with its id: it was not read, so the reader does
// not resume after it.
func (e *eventReader) next() (event, error) {
	name, id := "", e.id
	e.data = e.data[:0]
	for {
		line, err := e.line()
		if err != nil {
			return event{}, err
		}
		if len(line) == 0 {
			e.id = id
			return event{id, name, bytes.TrimSuffix(e.data, []byte("\n"))}, nil
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = string(value)
		case "data":
			e.data = append(append(e.data, value...), '\n')
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				id = string(value)
			}
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				e.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// line returns the next line without its end, valid until the next call.
func (e *eventReader) line() ([]byte, error) {
	var long []byte // what came before, of a line longer than the buffer
	for {
		part, err := e.r.ReadSlice('\n')
		if len(long)+len(part) > maxEventLine {
			return nil, fmt.Errorf("%w: a line of the stream is longer than %d bytes", ErrNotHub, maxEventLine)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, part...)
			continue
		case err != nil:
			return nil, err
		}
		e.heard()
		if long != nil {
			part = append(long, part...)
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(part, []byte("\n")), []byte("\r")), nil
	}
}
