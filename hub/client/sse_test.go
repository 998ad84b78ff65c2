package client

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// readEvents returns the events of a stream as text, and how it ended.
func readEvents(stream string) (*eventReader, []string, error) {
	r := newEventReader(strings.NewReader(stream), func() {})
	var got []string
	for {
		e, err := r.next()
		if err != nil {
			return r, got, err
		}
		got = append(got, e.id+"|"+e.name+"|"+string(e.data))
	}
}

func TestAStreamIsReadAsTheStandardSays(t *testing.T) {
	long := strings.Repeat("x", 200_000) // longer than the reader's buffer
	for _, c := range []struct{ name, stream, want string }{
		{"an event", "id: 1\nevent: refresh\ndata: {}\n\n", "1|refresh|{}"},
		{"no space after the colon", "id:1\ndata:{}\n\n", "1||{}"},
		{"only one space is dropped", "data:  x\n\n", "|| x"},
		{"lines that end in CRLF", "id: 1\r\nevent: e\r\ndata: x\r\n\r\n", "1|e|x"},
		{"several data lines", "data: a\ndata: b\n\n", "||a\nb"},
		{"an id stays until the next", "id: 1\ndata: a\n\ndata: b\n\n", "1||a 1||b"},
		{"an id alone moves the position", "id: 7\n\n", "7||"},
		{"an id with NUL is ignored", "id: 1\n\nid: \x00\n\n", "1|| 1||"},
		{"comments and unknown fields are ignored", ": hello\nfoo: bar\nfoo\ndata: x\n\n", "||x"},
		{"a long line", "data: " + long + "\n\n", "||" + long},
		{"what the end cuts off is dropped", "id: 1\ndata: a\n\nid: 2\ndata: b\n", "1||a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, got, err := readEvents(c.stream)
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("got %.200q, want %.200q", g, c.want)
			}
			if !errors.Is(err, io.EOF) {
				t.Errorf("ended with %v, want io.EOF", err)
			}
			if strings.HasPrefix(c.name, "what the end") && r.id != "1" {
				t.Errorf("position %q after a cut, want 1", r.id)
			}
		})
	}
}

func TestRetryIsMillisecondsAndNothingElse(t *testing.T) {
	for field, want := range map[string]time.Duration{"1500": 1500 * time.Millisecond, "x": 0, "-1": 0, "99999999999999": 0} {
		r, _, _ := readEvents("retry: " + field + "\n\n")
		if r.retry != want {
			t.Errorf("retry: %s is %v, want %v", field, r.retry, want)
		}
	}
}

func TestALineWithoutEndIsRefused(t *testing.T) {
	_, _, err := readEvents("data: " + strings.Repeat("x", maxEventLine) + "\n\n")
	if !errors.Is(err, ErrNotHub) {
		t.Errorf("got %v, want ErrNotHub: asking again would bring the same line", err)
	}
}

// What a stream decodes to, written again, decodes to the same.
func FuzzEventReader(f *testing.F) {
	f.Add([]byte("retry: 1000\n\nid: 5f3a0000.7\nevent: refresh\ndata: {\"seq\":7}\n\n:\n\n"))
	f.Add([]byte("id\ndata\ndata\r\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		_, first, _ := readEvents(string(stream))
		var again bytes.Buffer
		r := newEventReader(bytes.NewReader(stream), func() {})
		for {
			e, err := r.next()
			if err != nil {
				break
			}
			again.WriteString("id: " + e.id + "\nevent: " + e.name + "\n")
			for line := range strings.SplitSeq(string(e.data), "\n") {
				again.WriteString("data: " + line + "\n")
			}
			again.WriteString("\n")
		}
		_, second, _ := readEvents(again.String())
		if strings.Join(first, "\x00") != strings.Join(second, "\x00") {
			t.Errorf("%q decodes to %q, which encodes to %q", stream, first, second)
		}
	})
}
