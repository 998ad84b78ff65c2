package digest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// spillBytes is how much of a view is gathered before it is written: few calls, and
	// little memory for each of the files that are written at once.
	spillBytes = 64 << 10
	// maxViewLine bounds a line that is read back, in bytes. An entry names at most 11
	// URIs of 2,048 bytes, which escaping makes six times as long at worst.
	maxViewLine = 1 << 20
)

// A heading is what a view says beside its entries.
type heading struct {
	base        string    // address of the archive, as https://hub.example/digest
	m           *Manifest // of the digest, without its files
	part, parts int       // from 1
	prev        string    // folder of the hour before, below the channel's, as h/2026/11/24/09/; "" if there is none
}

// A view writes one file of a digest.
type view interface {
	// add writes an entry; line is the same as NDJSON, without line end.
	add(e *Entry, line []byte) error
	// end writes what follows the last one.
	end() error
}

// partName is the name of a file of a digest; parts are counted from 1.
func partName(role string, part int) string {
	stem, ending := "digest", ".ndjson"
	switch role {
	case RoleAtom:
		ending = ".atom"
	case RoleJSONFeed:
		ending = ".json"
	case RoleChangeList:
		stem, ending = "changelist", ".xml"
	}
	if part > 1 {
		stem += "-" + strconv.Itoa(part)
	}
	return stem + ending
}

// Content types of the documents.
const (
	typeNDJSON   = "application/x-ndjson"
	typeAtom     = "application/atom+xml"
	typeJSONFeed = "application/feed+json"
	typeXML      = "application/xml"
)

// mediaType is the content type of a file of a digest.
func mediaType(role string) string {
	switch role {
	case RoleAtom:
		return typeAtom
	case RoleJSONFeed:
		return typeJSONFeed
	case RoleChangeList:
		return typeXML
	}
	return typeNDJSON
}

// channelAddress is that of a channel's folder, with a slash at the end.
func channelAddress(base, channel string) string { return base + "/" + channel + "/" }

func (h *heading) channel() string { return channelAddress(h.base, h.m.Channel) }

// address is that of a part of the same digest.
func (h *heading) address(role string, part int) string {
	return h.channel() + Hour.Folder(h.m.From) + partName(role, part)
}

// older is the address of the part that goes on where this one ends, "" if there is
// none: the next part, or the first one of the hour before.
func (h *heading) older(role string) string {
	switch {
	case h.part < h.parts:
		return h.address(role, h.part+1)
	case h.prev != "":
		return h.channel() + h.prev + partName(role, 1)
	}
	return ""
}

// title is for people.
func (h *heading) title() string {
	s := "freshwire digest of " + h.m.Channel + ", " + span(h.m.From, h.m.Until)
	if h.parts > 1 {
		s += fmt.Sprintf(", part %d of %d", h.part, h.parts)
	}
	return s
}

// span is a range of time for people.
func span(from, until time.Time) string {
	from, until = from.UTC(), until.UTC()
	to := "15:04"
	if until.Sub(from) > 24*time.Hour {
		to = "2006-01-02 15:04"
	}
	return from.Format("2006-01-02 15:04") + " to " + until.Format(to) + " UTC"
}

// A sheet gathers what a view writes.
type sheet struct {
	w io.Writer
	b []byte
}

// spill writes what has been gathered if it is much.
func (s *sheet) spill() error {
	if len(s.b) < spillBytes {
		return nil
	}
	return s.flush()
}

func (s *sheet) flush() error {
	_, err := s.w.Write(s.b)
	s.b = s.b[:0]
	return err
}

// entryName is the beginning of the names of a channel's entries in an epoch; the
// position in the journal follows. It is the same at whatever address a copy lies.
func entryName(channel, epoch string) string {
	return "urn:freshwire:digest:" + channel + ":" + epoch + "."
}

// stamp appends t as all views spell it.
// Source: RFC 3339; it is also a date-time of XML Schema and of the W3C's note.
func stamp(b []byte, t time.Time) []byte { return t.UTC().AppendFormat(b, time.RFC3339Nano) }

// xmlSafe are the bytes of ASCII that stand for themselves in XML.
var xmlSafe = func() (safe [utf8.RuneSelf]bool) {
	for c := ' '; c < 0x7f; c++ {
		safe[c] = !strings.ContainsRune(`<>&"'`, c)
	}
	return safe
}()

// appendXML appends s as text or as the value of an attribute, on one line. What XML
// cannot say becomes U+FFFD.
// Source: XML 1.0, section 2.2.
func appendXML(b []byte, s string) []byte {
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf && xmlSafe[c] {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r >= 0xa0 && r != 0x2028 && r != 0x2029 && r < 0xfffe && (r != utf8.RuneError || size > 1) || r > 0xffff {
			i += size
			continue
		}
		b = append(b, s[done:i]...)
		i += size
		done = i
		switch {
		case r == '<':
			b = append(b, "&lt;"...)
		case r == '>':
			b = append(b, "&gt;"...)
		case r == '&':
			b = append(b, "&amp;"...)
		case r < ' ' && r != '\t' && r != '\n' && r != '\r' || r >= 0xfffd:
			b = append(b, "\uFFFD"...)
		default:
			b = append(strconv.AppendInt(append(b, "&#"...), int64(r), 10), ';')
		}
	}
	return append(b, s[done:]...)
}

// appendAttr appends an attribute, unless it is empty.
func appendAttr(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, ' '), name...), `="`...)
	return append(appendXML(b, value), '"')
}

// appendNumberAttr appends an attribute.
func appendNumberAttr(b []byte, name string, value uint64) []byte {
	b = append(append(append(b, ' '), name...), `="`...)
	return append(strconv.AppendUint(b, value, 10), '"')
}

// appendTimeAttr appends an attribute.
func appendTimeAttr(b []byte, name string, t time.Time) []byte {
	b = append(append(append(b, ' '), name...), `="`...)
	return append(stamp(b, t), '"')
}

// appendElement appends an element that has text alone.
func appendElement(b []byte, name, text string) []byte {
	b = append(append(append(b, '<'), name...), '>')
	b = append(appendXML(b, text), "</"...)
	return append(append(b, name...), '>')
}

// readable is a URI for people: letters and signs that are percent-encoded are shown
// as they are. What delimits the parts of a URI stays encoded, and what is not
// printed, or is taken for markup by readers who are careless about it.
// Source: RFC 3987, section 3.2, which decodes fewer.
func readable(uri string) string {
	at := strings.IndexByte(uri, '%')
	if at < 0 {
		return uri
	}
	b := append(make([]byte, 0, len(uri)), uri[:at]...)
	for i := at; i < len(uri); {
		r, size := escapedRune(uri[i:])
		if size > 0 && isShown(r) {
			b = utf8.AppendRune(b, r)
			i += size
			continue
		}
		b = append(b, uri[i])
		i++
	}
	return string(b)
}

// escapedRune returns the character that is percent-encoded at the start of s and
// the length of that, 0 if there is none.
func escapedRune(s string) (rune, int) {
	var b [utf8.UTFMax]byte
	n := 0
	for n < len(b) && (n == 0 || !utf8.FullRune(b[:n])) {
		if len(s) < 3*n+3 || s[3*n] != '%' {
			return 0, 0
		}
		c, err := strconv.ParseUint(s[3*n+1:3*n+3], 16, 8)
		if err != nil {
			return 0, 0
		}
		b[n] = byte(c)
		n++
	}
	r, size := utf8.DecodeRune(b[:n])
	if r == utf8.RuneError || size != n {
		return 0, 0
	}
	return r, 3 * n
}

// isShown reports whether a character that is percent-encoded is shown.
func isShown(r rune) bool {
	switch {
	case r <= ' ':
		return false
	case r < utf8.RuneSelf:
		return r < 0x7f && !strings.ContainsRune(`%/?#<>`, r)
	case r == 0x200c || r == 0x200d: // joiners are part of words, as in Persian
		return true
	}
	return unicode.IsPrint(r)
}

// A viewMark tells the lines of entries from others.
type viewMark struct{ begin, end, last string }

// viewMarks say what the line of an entry begins and ends with, and what the last line
// of a whole file ends with.
var viewMarks = map[string]viewMark{
	RoleAtom:       {"<entry>", "</entry>", "</feed>"},
	RoleJSONFeed:   {`{"id":`, "}}", "]}"},
	RoleChangeList: {"<url>", "</url>", "</urlset>"},
}

// errCut reports a file that ends before its end.
var errCut = errors.New("the file is cut off")

// lines returns the lines of up to limit entries of a closed file after the first
// skip of them; those of a JSON feed without the comma.
func lines(r io.Reader, role string, skip, limit int) (found []string, err error) {
	mark, ok := viewMarks[role]
	if !ok {
		return nil, fmt.Errorf("lines are not read out of %s", role)
	}
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, spillBytes), maxViewLine)
	whole := false
	for len(found) < limit && s.Scan() {
		line := bytes.TrimSuffix(s.Bytes(), []byte(","))
		whole = bytes.HasSuffix(line, []byte(mark.last))
		if !bytes.HasPrefix(line, []byte(mark.begin)) {
			continue
		}
		if whole = false; !bytes.HasSuffix(line, []byte(mark.end)) {
			break
		}
		if skip--; skip < 0 {
			found = append(found, string(line))
		}
	}
	switch {
	case s.Err() != nil:
		return nil, s.Err()
	case len(found) < limit && !whole:
		return nil, errCut
	}
	return found, nil
}
