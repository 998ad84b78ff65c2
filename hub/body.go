package hub

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxBody bounds a body in bytes, as sent and after inflation: a batch of 5,000
	// updates of 1 KB, or one update with 65,536 dependencies, three times over.
	maxBody = 16 << 20
	// bodyDeadline is how long a request may take to arrive.
	bodyDeadline = 30 * time.Second
	// maxWindow bounds the memory a zstd frame may ask for, in bytes: that of
	// level 19.
	maxWindow = 8 << 20
	// maxInflation bounds what one byte that was sent may become, where a body may
	// have any length: lists of URIs shrink to a tenth, and a bomb would have the
	// hub read a thousand times what it costs to send.
	maxInflation = 32
	// keptBuffer is the largest buffer that is kept for the next request, in bytes.
	keptBuffer = 1 << 20
)

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
)

var (
	buffers     = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zstdReaders = sync.Pool{New: func() any {
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxBody+maxWindow))
		if err != nil {
			panic(err) // the options are constants
		}
		return z
	}}
)

// withBody reads the body of r, inflates it and calls f with it. It is valid
// until f returns. A media type that is named must be one of types; the forms
// and plain text that browsers send without asking first are not among them.
func (h *Hub) withBody(w http.ResponseWriter, r *http.Request, types []string, f func(body []byte) error) error {
	if err := checkMediaType(r.Header, types); err != nil {
		return err
	}
	if r.ContentLength > maxBody {
		return exceeds(bodyTooLarge, "", maxBody, "bytes")
	}
	b := buffers.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= keptBuffer {
			b.Reset()
			buffers.Put(b)
		}
	}()
	if err := inflate(b, http.MaxBytesReader(w, r.Body, maxBody), r.Header.Values("Content-Encoding")); err != nil {
		return err
	}
	if err := h.pace.take(h.payer(r), 0, b.Len()); err != nil {
		return err
	}
	return f(b.Bytes())
}

func checkMediaType(h http.Header, types []string) error {
	text := h.Get("Content-Type")
	if text == "" {
		return nil // as bare clients send it; the body itself is checked
	}
	media, params, err := mime.ParseMediaType(text)
	charset := params["charset"]
	for _, t := range types {
		if err == nil && media == t && (charset == "" || strings.EqualFold(charset, "utf-8")) {
			return nil
		}
	}
	return refuse(badContentType, "Content-Type", "%.80q is not %s", text, strings.Join(types, " or "))
}

// inflate copies body to b and undoes its encoding.
func inflate(b *bytes.Buffer, body io.Reader, encodings []string) error {
	r, done, err := inflated(body, encodings)
	if err != nil {
		return err
	}
	defer done()
	return fill(b, r)
}

// inflated undoes the encoding of body while it is read; done gives back what
// that took. Beyond maxBody it yields no more than maxInflation allows.
func inflated(body io.Reader, encodings []string) (r io.Reader, done func(), err error) {
	encoding := strings.ToLower(strings.Join(encodings, ","))
	if encoding == "" || encoding == "identity" {
		return body, func() {}, nil
	}
	sent := &countedReader{r: body}
	body = sent
	switch encoding {
	case "gzip", "x-gzip":
		z := gzipReaders.Get().(*gzip.Reader)
		if err := z.Reset(body); err != nil {
			gzipReaders.Put(z)
			return nil, nil, bodyError(err)
		}
		return &inflatedReader{z, sent, 0}, func() { gzipReaders.Put(z) }, nil
	case "zstd":
		z := zstdReaders.Get().(*zstd.Decoder)
		if err := z.Reset(body); err != nil {
			zstdReaders.Put(z)
			return nil, nil, bodyError(err)
		}
		return &inflatedReader{z, sent, 0}, func() { z.Reset(nil); zstdReaders.Put(z) }, nil
	}
	return nil, nil, refuse(badContentType, "Content-Encoding", "%.80q is not gzip or zstd", encoding)
}

// A countedReader counts what is read.
type countedReader struct {
	r io.Reader
	n int64
}

func (c *countedReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// An inflatedReader fails when it has yielded too much for what was sent.
type inflatedReader struct {
	r    io.Reader
	sent *countedReader
	n    int64
}

func (i *inflatedReader) Read(b []byte) (int, error) {
	n, err := i.r.Read(b)
	if i.n += int64(n); i.n > maxBody+maxInflation*i.sent.n {
		return n, exceeds(bodyTooLarge, "", maxInflation, "bytes for each that was sent, after the first 16 MiB")
	}
	return n, err
}

// isLines reports whether a body is said to be NDJSON.
func isLines(h http.Header) bool {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && media == typeNDJSON
}

// fill reads at most maxBody bytes into b.
func fill(b *bytes.Buffer, r io.Reader) error {
	if _, err := b.ReadFrom(io.LimitReader(r, maxBody+1)); err != nil {
		return bodyError(err)
	}
	if b.Len() > maxBody {
		return exceeds(bodyTooLarge, "", maxBody, "bytes after inflation")
	}
	return nil
}

// bodyError tells what the client did from what the network did.
func bodyError(err error) error {
	if no := (*refusal)(nil); errors.As(err, &no) {
		return no
	}
	if long := (*http.MaxBytesError)(nil); errors.As(err, &long) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("body: %w", err)
	}
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return exceeds(bodyTooLarge, "", maxBody, "bytes after inflation")
	}
	return refuse(badBody, "", "it ended early or is not encoded as it says: %v", err)
}

// readObject reads a body that is one JSON object. It calls member with each
// name, once; member reads the value, or reports errNoMember.
func readObject(body []byte, member func(s *scanner, name string) error) error {
	s := &scanner{b: body}
	if err := s.object(); err != nil {
		return refusalOf(err)
	}
	names := map[string]bool{}
	for first := true; ; first = false {
		ok, err := s.more(first, '}')
		if err == nil && !ok {
			err = s.end()
		}
		if err != nil {
			return refusalOf(err)
		}
		if !ok {
			return nil
		}
		key, err := s.key()
		if err != nil {
			return refusalOf(err)
		}
		name := string(key)
		if names[name] {
			return refuse(badJSON, clip(key), "the field stands twice")
		}
		names[name] = true
		err = member(s, name)
		if errors.Is(err, errNoMember) {
			return refuse(unknownField, clip([]byte(name)), "there is no such field")
		}
		if err != nil {
			e := refusalOf(err)
			if e.field == "" {
				e.field = name
			}
			return e
		}
	}
}

// errNoMember reports a name that an object does not have.
var errNoMember = errors.New("no such member")

// uris reads a list of at most most canonical URIs.
func (s *scanner) uris(most int, schemes []string) ([]string, error) {
	return s.list(most, "URIs", func() (string, error) { return s.uri(schemes) })
}

// texts reads a list of at most most texts.
func (s *scanner) texts(most int) ([]string, error) {
	return s.list(most, "values", func() (string, error) {
		t, err := s.text()
		return string(t), err
	})
}

// list reads a list of at most most elements; unit says what they are.
func (s *scanner) list(most int, unit string, element func() (string, error)) ([]string, error) {
	if err := s.array(); err != nil {
		return nil, err
	}
	list := []string{}
	for {
		ok, err := s.more(len(list) == 0, ']')
		if err != nil || !ok {
			return list, err
		}
		if len(list) == most {
			return nil, exceeds(overLimit, "", int64(most), unit)
		}
		v, err := element()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}
