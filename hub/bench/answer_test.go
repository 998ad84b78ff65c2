package bench

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// A recorder writes down what a decoder finds.
type recorder struct{ found []string }

func (r *recorder) opened()                    { r.add("open") }
func (r *recorder) intern(epoch []byte) string { return string(epoch) }
func (r *recorder) position(seq uint64)        { r.add("position %d", seq) }
func (r *recorder) reset(seq uint64)           { r.add("reset %d", seq) }
func (r *recorder) comeAfter(ms uint64)        { r.add("retry %d", ms) }
func (r *recorder) notice(seq uint64, m mark)  { r.add("notice %d of %d", seq, m.published) }
func (r *recorder) add(f string, a ...any)     { r.found = append(r.found, fmt.Sprintf(f, a...)) }
func (r *recorder) mark(_ uint64, b []byte) mark {
	return mark{published: publishedIn(b)}
}

const (
	plainHead   = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
	chunkedHead = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: Chunked\r\n\r\n"
	twoNotices  = "id: 5f3a.7\nevent: changed\ndata: {\"seq\":7,\"uri\":\"urn:a\",\"version\":\"123\"}\n\n" +
		"id: 5f3a.9\nevent: changed\ndata: {\"seq\":9,\"uri\":\"urn:b\",\"version\":\"1a\"}\n\n"
)

// inChunks cuts a body into chunks of n bytes.
func inChunks(body string, n int) string {
	var b strings.Builder
	for len(body) > 0 {
		k := min(n, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", k, body[:k])
		body = body[k:]
	}
	return b.String()
}

func TestAnAnswerIsTakenApart(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		want         []string
		err          error
	}{
		{"a body up to the end of the connection", plainHead + "retry: 1500\n\nid: 5f3a.6\n\n:\n\n" + twoNotices,
			[]string{"open", "retry 1500", "position 6", "notice 7 of 123", "notice 9 of 0"}, nil},
		{"a body in chunks", chunkedHead + inChunks(twoNotices, 1000), []string{"open", "notice 7 of 123", "notice 9 of 0"}, nil},
		{"chunks that cut frames and lines", chunkedHead + inChunks(twoNotices, 11), []string{"open", "notice 7 of 123", "notice 9 of 0"}, nil},
		{"a chunk with an extension", chunkedHead + "c;x=1\r\nid: 5f3a.6\n\n\r\n", []string{"open", "position 6"}, nil},
		{"the last chunk", chunkedHead + inChunks(twoNotices, 64) + "0\r\n\r\n", []string{"open", "notice 7 of 123", "notice 9 of 0"}, io.EOF},
		{"a reset", plainHead + "id: 5f3a.6\nevent: reset\ndata: {\"kind\":\"reset\"}\n\n", []string{"open", "reset 6"}, nil},
		{"line ends of CR and LF", plainHead + strings.ReplaceAll(twoNotices, "\n", "\r\n"), []string{"open", "notice 7 of 123", "notice 9 of 0"}, nil},
		{"data before the id, and no blanks", plainHead + "data:{\"version\":\"5\"}\nid:5f3a.7\n\n", []string{"open", "notice 7 of 5"}, nil},
		{"a frame that the end cuts off does not count", plainHead + "id: 5f3a.7\ndata: {}\n", []string{"open"}, nil},
		{"a refusal", "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\n\r\n{}", nil, &refusedError{}},
		{"a page", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>", nil, &refusedError{}},
		{"something else than HTTP", "SSH-2.0-x\r\n\r\n", nil, errMalformed},
		{"an encoded body", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n", nil, errMalformed},
		{"the rest of a torn frame", plainHead + "id: 5f3a.7\ndata: {}\n\n,\"version\":\"1\"}\n\n", []string{"open", "notice 7 of 0"}, errMalformed},
		{"a frame without an id", plainHead + "data: {}\n\n", []string{"open"}, errMalformed},
		{"an id without a number", plainHead + "id: 5f3a\n\n", []string{"open"}, errMalformed},
		{"a chunk longer than it says", chunkedHead + "3\r\n:\n\nid", []string{"open"}, errMalformed},
		{"a head without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("x", maxHead), nil, errMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			for cut := range len(c.answer) { // once whole, and then cut at every byte
				var r recorder
				var d decoder
				err := d.feed([]byte(c.answer[:cut]), &r)
				if err == nil {
					err = d.feed([]byte(c.answer[cut:]), &r)
				}
				var refused *refusedError
				if _, want := c.err.(*refusedError); want != errors.As(err, &refused) || !want && !errors.Is(err, c.err) {
					t.Fatalf("cut at %d: got %v, want %v", cut, err, c.err)
				}
				if !slices.Equal(r.found, c.want) {
					t.Fatalf("cut at %d: got %q, want %q", cut, r.found, c.want)
				}
			}
		})
	}
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{plainHead + twoNotices, chunkedHead + inChunks(twoNotices, 16) + "0\r\n\r\n",
		chunkedHead + "ffffffffffff\r\n", plainHead + "retry: 1\n:\nid: .0\n\n"} {
		f.Add([]byte(s), uint(7))
	}
	f.Fuzz(func(t *testing.T, answer []byte, step uint) {
		var whole, cut recorder
		var d, e decoder
		wholeErr := d.feed(slices.Clone(answer), &whole)
		var cutErr error
		for rest := answer; len(rest) > 0 && cutErr == nil; {
			n := min(int(step%64)+1, len(rest))
			cutErr = e.feed(slices.Clone(rest[:n]), &cut)
			rest = rest[n:]
		}
		// A head that is too long is refused as soon as that is seen.
		if !slices.Equal(whole.found, cut.found) && len(answer) < maxHead {
			t.Errorf("whole %q, in pieces of %d %q", whole.found, step%64+1, cut.found)
		}
		if (wholeErr == nil) != (cutErr == nil) && len(answer) < maxHead {
			t.Errorf("whole %v, in pieces of %d %v", wholeErr, step%64+1, cutErr)
		}
	})
}

func TestOtherBytesOfTheSameNoticeAreNoticed(t *testing.T) {
	var m marks
	first := m.of(7, []byte(`{"version":"123"}`))
	same := m.of(7, []byte(`{"version":"123"}`))
	other := m.of(7, []byte(`{"version":"124"}`))
	if first != (mark{published: 123}) || same != first || !other.altered {
		t.Errorf("got %v, %v, %v; want 123 twice, then altered", first, same, other)
	}
	if late := m.of(7+rememberedMarks, []byte(`{"version":"5"}`)); late != (mark{published: 5}) {
		t.Errorf("a notice in the same place: got %v", late)
	}
	if old := m.of(7, []byte(`{"version":"6"}`)); old != (mark{published: 6}) {
		t.Errorf("a notice that is forgotten: got %v", old)
	}
}
