package digest

import (
	"bufio"
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// maxLine bounds a line of NDJSON in bytes: ten URIs, hash and type, every byte of the
// latter two escaped.
const maxLine = (MaxCauses+2)*(2048+4) + 2*6*255 + 512

// A source yields the lines of one digest, ascending by URI.
type source struct {
	d      disk
	folder string
	parts  []string // that are left
	order  int      // of time, among the sources

	file  vfs.File
	lines *bufio.Scanner
	line  []byte
	uri   []byte
}

// next moves to the next line and reports whether there is one.
func (s *source) next() (bool, error) {
	for {
		if s.lines != nil && s.lines.Scan() {
			s.line = s.lines.Bytes()
			uri, err := lineURI(s.line)
			if err == nil && bytes.Compare(uri, s.uri) <= 0 {
				err = errEntry
			}
			if err != nil {
				return false, fmt.Errorf("%s: %w", s.folder, err)
			}
			s.uri = append(s.uri[:0], uri...)
			return true, nil
		}
		if s.lines != nil {
			if err := s.lines.Err(); err != nil {
				return false, fmt.Errorf("%s: %w", s.folder, err)
			}
		}
		s.close()
		if len(s.parts) == 0 {
			return false, nil
		}
		f, err := s.d.Open(path.Join(s.folder, s.parts[0]), vfs.SequentialReadsOption)
		if err != nil {
			return false, err
		}
		s.file, s.parts = f, s.parts[1:]
		s.lines = bufio.NewScanner(f)
		s.lines.Buffer(make([]byte, 64<<10), maxLine)
	}
}

func (s *source) close() {
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.lines = nil, nil
}

// sources are ordered by the resource that comes next, and by time.
type sources []*source

func (s sources) Len() int      { return len(s) }
func (s sources) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s sources) Less(i, j int) bool {
	if c := bytes.Compare(s[i].uri, s[j].uri); c != 0 {
		return c < 0
	}
	return s[i].order < s[j].order
}
func (s *sources) Push(x any) { *s = append(*s, x.(*source)) }
func (s *sources) Pop() any {
	last := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return last
}

// A mergedLine is what one resource had over several digests.
type mergedLine struct {
	line   []byte
	change string
	reason string
	count  uint64
}

// merge adds up digests, the oldest first, and gives a line for each resource, by URI. It
// keeps one line of each in memory.
func merge(ctx context.Context, all []*source, give func(*mergedLine) error) (err error) {
	defer func() {
		for _, s := range all {
			s.close()
		}
	}()
	var waiting sources
	for i, s := range all {
		s.order = i
		more, err := s.next()
		if err != nil {
			return err
		}
		if more {
			waiting = append(waiting, s)
		}
	}
	heap.Init(&waiting)
	var line []byte
	for n := 0; len(waiting) > 0; n++ {
		if n%readLimit == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line = append(line[:0], waiting[0].line...)
		uri := line[len(`{"uri":"`):][:len(waiting[0].uri)]
		if err := waiting.advance(); err != nil {
			return err
		}
		out := mergedLine{line: line}
		if len(waiting) > 0 && bytes.Equal(waiting[0].uri, uri) {
			e, err := parseEntry(line)
			if err != nil {
				return err
			}
			for len(waiting) > 0 && string(waiting[0].uri) == e.URI {
				next, err := parseEntry(waiting[0].line)
				if err != nil {
					return err
				}
				e.then(&next)
				if err := waiting.advance(); err != nil {
					return err
				}
			}
			line = e.appendLine(line[:0])
			out = mergedLine{line, e.Change, e.Reason, e.Count}
		} else if err := out.read(); err != nil {
			return err
		}
		if err := give(&out); err != nil {
			return err
		}
	}
	return nil
}

// advance moves the first source on.
func (s *sources) advance() error {
	more, err := (*s)[0].next()
	if more {
		heap.Fix(s, 0)
	} else {
		heap.Pop(s)
	}
	return err
}

// read takes from a line what is summed up, without parsing the rest of it.
func (m *mergedLine) read() error {
	_, rest, ok := bytes.Cut(m.line, []byte(`","change":"`))
	change, rest, ok2 := bytes.Cut(rest, []byte(`","count":`))
	count, rest, ok3 := bytes.Cut(rest, []byte(`,"first":`))
	_, rest, ok4 := bytes.Cut(rest, []byte(`,"reason":"`))
	reason, _, ok5 := bytes.Cut(rest, []byte(`"`))
	if !ok || !ok2 || !ok3 || !ok4 || !ok5 {
		return errEntry
	}
	for _, c := range count {
		if c < '0' || c > '9' {
			return errEntry
		}
		m.count = 10*m.count + uint64(c-'0')
	}
	m.change, m.reason = intern(change), intern(reason)
	return nil
}

func intern(b []byte) string {
	if s, ok := words[string(b)]; ok {
		return s
	}
	return string(b)
}

var errNoParts = errors.New("a digest has no file of its entries")

// sourceOf reads the entries of a closed digest.
func (d disk) sourceOf(root, folder string, m *Manifest) (*source, error) {
	s := &source{d: d, folder: path.Join(root, folder)}
	for _, f := range m.Files {
		if f.Role == RoleNDJSON {
			s.parts = append(s.parts, f.Href)
		}
	}
	if len(s.parts) == 0 {
		return nil, fmt.Errorf("%s: %w", folder, errNoParts)
	}
	return s, nil
}

// copyLines writes merged lines to w.
func copyLines(ctx context.Context, all []*source, w io.Writer) error {
	out := bufio.NewWriterSize(w, bufferSize)
	err := merge(ctx, all, func(m *mergedLine) error {
		_, err := out.Write(append(m.line, '\n'))
		return err
	})
	return errors.Join(err, out.Flush())
}
