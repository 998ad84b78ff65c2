package digest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph"
)

// Info is what is known of the digests of a channel.
type Info struct {
	Channel string
	State   State
	Newest  *Manifest // of the newest hour, without keys, hashes and sizes
	Hours   int       // that are kept
	Bytes   int64     // of all hours and roll-ups
	// Origins are prefixes of all that is named, as https://en.example.org/wiki: whoever may
	// see all under each of them may read all of it. Everywhere means that there are more
	// than are noted.
	Origins    []string
	Everywhere bool
}

// List shows the channels of which an hour has closed, by name.
func (a *Archive) List() (list []Info) {
	for _, s := range a.all() {
		if h := s.now(); h != nil {
			list = append(list, s.info(h))
		}
	}
	return list
}

// Info shows one channel, or reports [ErrNoDigest].
func (a *Archive) Info(channel string) (Info, error) {
	s, h := a.find(channel)
	if h == nil {
		return Info{}, fmt.Errorf("%w: %.80q", ErrNoDigest, channel)
	}
	return s.info(h), nil
}

// Newest returns the number of the newest hour of a channel, 0 if none has closed.
func (a *Archive) Newest(channel string) uint64 {
	if _, h := a.find(channel); h != nil {
		return h.state.Seq
	}
	return 0
}

func (a *Archive) find(channel string) (*series, *head) {
	a.mu.RLock()
	s := a.series[channel]
	a.mu.RUnlock()
	if s == nil {
		return nil, nil
	}
	return s, s.now()
}

func (s *series) info(h *head) Info {
	s.mu.RLock()
	shown := s.shown
	s.mu.RUnlock()
	i := Info{Channel: s.name, State: h.state, Newest: h.hours[len(h.hours)-1].Manifest, Hours: len(h.hours), Origins: shown.origins, Everywhere: shown.everywhere}
	for _, c := range h.hours {
		i.Bytes += c.size
	}
	for _, list := range h.rollups {
		for _, c := range list {
			i.Bytes += c.size
		}
	}
	return i
}

// Found is a file of an archive.
type Found struct {
	Name     string
	Type     string
	Modified time.Time
	// Immutable files are closed. The others are replaced when an hour closes.
	Immutable bool
	Next      string   // the part after it, relative to it; "" if it is the last one
	Codings   []string // beside the file as it is

	a      *Archive
	folder string
	file   File
	bytes  []byte // of what is kept in memory
}

// Content is a file, or a coding of it, that is open.
type Content struct {
	io.ReadSeekCloser
	Size int64
	ETag string // strong, and another one for each coding
}

// Find finds a file by its path below the folder of a channel. Public is for whoever gets
// only what is for everybody. It fails with [ErrNoDigest], [ErrNoFile], [ErrNotYet],
// [ErrExpired] or [ErrHidden].
func (a *Archive) Find(channel, name string, public bool) (*Found, error) {
	s, h := a.find(channel)
	switch {
	case s == nil:
		return nil, fmt.Errorf("%w: %.80q", ErrNoDigest, channel)
	case h == nil:
		return nil, fmt.Errorf("%w: the first hour of %s", ErrNotYet, channel)
	case name == stateFile:
		b := h.bytes
		if public {
			b = h.open
		}
		if b == nil {
			return nil, ErrHidden
		}
		f := a.inMemory(name, "application/json", b)
		f.Modified = h.at
		return f, nil
	case h.front[name] != nil && public && !h.public:
		return nil, ErrHidden
	case h.front[name] != nil:
		f := a.found(path.Join(s.dir, frontFolder, frontName(h.state.Seq)), h.front[name])
		f.Name, f.Modified = name, h.at
		return f, nil
	}
	return s.findClosed(h, name, public)
}

// inMemory is a file that is kept there.
func (a *Archive) inMemory(name, media string, b []byte) *Found {
	sum := sha256.Sum256(b)
	return &Found{Name: name, Type: media, a: a, bytes: b, file: File{Href: name, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}}
}

func (a *Archive) found(folder string, f *File) *Found {
	found := &Found{Name: f.Href, Type: f.Type, a: a, folder: folder, file: *f}
	for _, c := range f.Codings {
		found.Codings = append(found.Codings, c.Coding)
	}
	return found
}

// findClosed finds a file of a digest.
func (s *series) findClosed(h *head, name string, public bool) (*Found, error) {
	p, from, file, ok := parsePath(name)
	if !ok {
		return nil, fmt.Errorf("%w: %.120q", ErrNoFile, name)
	}
	list := h.rollups[p]
	if p == Hour {
		list = h.hours
	}
	i := slices.IndexFunc(list, func(c *closed) bool { return p.start(c.From).Equal(from) })
	if i < 0 {
		first := h.hours[0].From.Add(-time.Duration(h.hours[0].Seq-1) * time.Hour)
		switch {
		case p.end(from).After(h.state.Until), p != Hour && len(list) > 0 && from.After(list[len(list)-1].From):
			return nil, fmt.Errorf("%w: %.120q", ErrNotYet, name)
		case !from.Before(p.start(first)):
			return nil, fmt.Errorf("%w: %.120q", ErrExpired, name)
		}
		return nil, fmt.Errorf("%w: %.120q", ErrNoFile, name)
	}
	c := list[i]
	if public && !c.Public {
		return nil, ErrHidden
	}
	m, err := s.a.manifest(s.dir, c.folder)
	if err != nil {
		return nil, expiredIfGone(err, name)
	}
	found, err := s.fileOf(m, c, file)
	if err != nil {
		return nil, expiredIfGone(err, name)
	}
	found.Modified, found.Immutable = c.ClosedAt, true
	return found, nil
}

// fileOf finds a file in the folder of a digest: one that its manifest names, or it.
func (s *series) fileOf(m *Manifest, c *closed, name string) (*Found, error) {
	folder := path.Join(s.dir, c.folder)
	if name == manifestFile || name == manifestFile+sigSuffix {
		b, err := s.a.d.read(path.Join(folder, name))
		media := "application/json"
		if name != manifestFile {
			media = "text/plain; charset=utf-8"
		}
		return s.a.inMemory(name, media, b), err
	}
	for i := range m.Files {
		f := &m.Files[i]
		if f.Href == name {
			found := s.a.found(folder, f)
			if i+1 < len(m.Files) && m.Files[i+1].Role == f.Role {
				found.Next = m.Files[i+1].Href
			}
			return found, nil
		}
		for _, coded := range f.Codings {
			if coded.Href == name {
				return s.a.found(folder, &File{Href: name, Type: "application/" + coded.Coding, Size: coded.Size, SHA256: coded.SHA256}), nil
			}
		}
	}
	return nil, fmt.Errorf("%w: %.120q", ErrNoFile, c.folder+name)
}

// manifest returns the whole manifest of a digest that is there.
func (a *Archive) manifest(root, folder string) (*Manifest, error) {
	name := path.Join(root, folder, manifestFile)
	if m, ok := a.manifests.Get(name); ok {
		return m, nil
	}
	b, err := a.d.read(name)
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	a.manifests.Add(name, m)
	return m, nil
}

// expiredIfGone tells of a file that was removed just now.
func expiredIfGone(err error, name string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %.120q", ErrExpired, name)
	}
	return err
}

// Open opens the file as it is (""), or in one of its codings.
func (f *Found) Open(coding string) (Content, error) {
	c := Content{Size: f.file.Size, ETag: `"` + f.file.SHA256[:32] + `"`}
	name := f.file.Href
	if coding != "" {
		i := slices.IndexFunc(f.file.Codings, func(c Coded) bool { return c.Coding == coding })
		if i < 0 {
			return Content{}, fmt.Errorf("%w: %s of %s", ErrNoFile, coding, name)
		}
		coded := f.file.Codings[i]
		name, c.Size, c.ETag = coded.Href, coded.Size, `"`+coded.SHA256[:32]+"-"+coding+`"`
	}
	if f.bytes != nil {
		c.ReadSeekCloser = inMemory{io.NewSectionReader(readerAt(f.bytes), 0, int64(len(f.bytes)))}
		return c, nil
	}
	name = path.Join(f.folder, name)
	var err error
	if f.a.d.FS == vfs.Default {
		// The kernel sends such a file by itself.
		c.ReadSeekCloser, err = os.Open(name)
	} else {
		var file vfs.File
		if file, err = f.a.d.Open(name); err == nil {
			c.ReadSeekCloser = onDisk{io.NewSectionReader(file, 0, c.Size), file}
		}
	}
	return c, expiredIfGone(err, f.Name)
}

type inMemory struct{ *io.SectionReader }

func (inMemory) Close() error { return nil }

type onDisk struct {
	*io.SectionReader
	io.Closer
}

// readerAt reads bytes at a place.
type readerAt []byte

func (b readerAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Since is what all resources had in the hours after one.
type Since struct {
	Seq    uint64       // of the last hour that is in it
	Cursor graph.Cursor // where the stream goes on

	a   *Archive
	all []*source
}

// Since adds up what comes after an hour, up to the newest one: a line for each resource.
// Hours that are not kept any more are taken from the roll-up that has them, with what it
// has before them; 0 is all there is. Public leaves out what is not for everybody. It fails
// with [ErrNoDigest], and with [ErrNotYet] for an hour that is yet to come.
func (a *Archive) Since(channel string, seq uint64, public bool) (*Since, error) {
	s, h := a.find(channel)
	if h == nil {
		return nil, fmt.Errorf("%w: %.80q", ErrNoDigest, channel)
	}
	if seq > h.state.Seq {
		return nil, fmt.Errorf("%w: hour %d, the newest one is %d", ErrNotYet, seq, h.state.Seq)
	}
	cursor, err := graph.ParseCursor(h.state.Cursor)
	if err != nil {
		return nil, err
	}
	since := &Since{Seq: h.state.Seq, Cursor: cursor, a: a}
	for _, c := range h.cover(seq+1, public) {
		one, err := a.d.sourceOf(s.dir, c.folder, c.Manifest)
		if err != nil {
			return nil, err
		}
		since.all = append(since.all, one)
	}
	return since, nil
}

// cover returns few digests that together have all hours from one on, the oldest first, or
// all of those that are public. Only the first of them may begin earlier, if the hour is in
// no other.
func (h *head) cover(seq uint64, public bool) (list []*closed) {
	for first := true; seq <= h.state.Seq; first = false {
		var best *closed
		for _, of := range [][]*closed{h.rollups[Week], h.rollups[Day], h.hours} {
			for _, c := range of {
				fits := !public || c.Public
				fits = fits && (c.FirstSeq == seq || first && best == nil && c.FirstSeq <= seq && c.Seq >= seq && seq < h.hours[0].Seq)
				if fits && (best == nil || c.Seq > best.Seq) {
					best = c
				}
			}
		}
		if best == nil { // not kept, or hidden: what comes next is
			next := h.state.Seq + 1
			for _, of := range [][]*closed{h.rollups[Week], h.rollups[Day], h.hours} {
				for _, c := range of {
					if c.FirstSeq > seq && (!public || c.Public) {
						next = min(next, c.FirstSeq)
					}
				}
			}
			seq = next
			continue
		}
		list, seq = append(list, best), best.Seq+1
	}
	return list
}

// Stream writes the lines to w until ctx ends.
func (s *Since) Stream(ctx context.Context, w io.Writer) error { return copyLines(ctx, s.all, w) }
