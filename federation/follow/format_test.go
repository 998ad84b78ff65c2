package follow_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/freshwire/freshwire/federation/follow"
)

// readText returns what a stream of this text yields until it ends, the error
// included unless it is only the end.
func readText(ctx context.Context, text io.Reader) []string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}},
			Body: io.NopCloser(text), Request: r}, nil
	})}
	return read(ctx, follow.Options{HTTP: h, Lost: func(error, time.Duration) { cancel() }}, 0)
}

func TestAStreamIsReadAsTheStandardSays(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	for _, c := range []struct {
		name, stream string
		want         []string
	}{
		{"an event", "id: 1\nevent: refresh\ndata: {}\n\n", []string{"1|refresh|{}"}},
		{"no space after the colon", "id:1\ndata:{}\n\n", []string{"1||{}"}},
		{"only one space is dropped", "data:  x\n\n", []string{"|| x"}},
		{"lines that end in CRLF", "id: 1\r\nevent: e\r\ndata: x\r\n\r\nid: 2\r\ndata: y\r\n\r\n", []string{"1|e|x", "2||y"}},
		{"lines that end in CR", "id: 1\rdata: x\r\rdata: y\r\r", []string{"1||x", "1||y"}},
		{"all of them", "data: a\r\ndata: b\rdata: c\n\r\n", []string{"||a\nb\nc"}},
		{"several data lines", "data: a\ndata: b\n\n", []string{"||a\nb"}},
		{"lines without text", "data\ndata:\ndata: \n\n", []string{"||\n\n"}},
		{"an id stays until the next", "id: 1\ndata: a\n\ndata: b\n\n", []string{"1||a", "1||b"}},
		{"comments and unknown fields", ": hello\nfoo: bar\nfoo\ndata: x\n: y\ndata: z\n\n", []string{"||x\nz"}},
		{"a byte order mark", "\ufeffdata: x\n\n", []string{"||x"}},
		{"blank lines between", "\n\n\ndata: x\n\n\n\n\r\ndata: y\n\n", []string{"||x", "||y"}},
		{"a long line", "data: " + long + "\n\n", []string{"||" + long}},
		{"nothing to read", ":\n\nevent: x\n\nid: 1\n\nfoo\n\ndata\n\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			check(t, "at once", readText(t.Context(), strings.NewReader(c.stream)), c.want)
			check(t, "by bytes", readText(t.Context(), iotest.OneByteReader(strings.NewReader(c.stream))), c.want)
		})
	}
}

// byTheStandard reads a stream as the standard says, the plainest way. Three
// things are ours: an id that is empty or cannot be sent is ignored, a field
// name without a colon counts only for data, and empty data is no event.
// Source: WHATWG HTML, section 9.2.6.
func byTheStandard(text string) (got []string) {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimPrefix(text, "\ufeff"))
	position, id, name, data := "", "", "", ""
	lines := strings.Split(text, "\n")
	for _, line := range lines[:len(lines)-1] {
		field, value, colon := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if position = id; len(data) > 1 {
				got = append(got, position+"|"+name+"|"+strings.TrimSuffix(data, "\n"))
			}
			name, data = "", ""
		case field == "data":
			data += value + "\n"
		case field == "event" && colon:
			name = value
		case field == "id" && strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0 && value != "":
			id = value
		}
	}
	return got
}

// However a stream is cut into pieces, it is read as the standard says.
func FuzzStream(f *testing.F) {
	for _, s := range []string{
		"retry: 1000\n\nid: 5f3a0000.7\nevent: refresh\ndata: {\"seq\":7}\n\n:\n\n", "id\ndata\ndata\r\n\n",
		"data: a\r\rdata: b\r\n\r\n\ndata: c\n", "\ufeff: x\n\ufeffdata: y\n\n", "id: \x00\ndata: z\n\n", "data: \xff\n\n",
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, text string, pieces bool) {
		var r io.Reader = strings.NewReader(text)
		if pieces {
			r = iotest.OneByteReader(r)
		}
		if got, want := readText(t.Context(), r), byTheStandard(text); !slices.Equal(got, want) {
			t.Errorf("%q is read as\n  %q\nwant\n  %q", text, got, want)
		}
	})
}
