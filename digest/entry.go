package digest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

// What happened to a resource over a digest, all in all.
const (
	Created = "created"
	Updated = "updated"
	Deleted = "deleted"
)

// MaxCauses bounds the causes that an entry names: the edits of a day that reach one
// page may be thousands, and whoever wants all of them follows the stream.
const MaxCauses = 8

// An Entry is what one resource had over a digest: all of its notices, as one.
type Entry struct {
	URI string `json:"uri"`
	// Change is the net effect: deleted if it ends so, else created if it began so, else
	// updated.
	Change string    `json:"change"`
	Count  uint64    `json:"count"` // notices
	First  time.Time `json:"first"` // when the first one was written, and the last one
	Last   time.Time `json:"last"`
	Offset uint64    `json:"offset"` // position of the last one in the journal
	Reason string    `json:"reason"` // of the last one, as its cause, hash and type
	// Cause is the resource whose edit led to the last one, "" if that is not shown.
	Cause string `json:"cause,omitempty"`
	// Causes are the causes of all of them if they are not just Cause, ascending, the
	// first [MaxCauses] of them.
	Causes []string `json:"causes,omitempty"`
	// Late is whether one of them is of an edit before the hour it is told in.
	Late bool `json:"late,omitempty"`
	// Transient is whether what was deleted in the end was also created in between: there
	// was no such resource before either.
	Transient bool   `json:"transient,omitempty"`
	Hash      string `json:"hash,omitempty"`
	Type      string `json:"type,omitempty"`
}

// entryOf is the entry of one notice, in an hour that begins at from.
func entryOf(n *graph.Notice, from time.Time) Entry {
	change := Updated
	switch n.Change {
	case graph.ChangeCreated:
		change = Created
	case graph.ChangeDeleted:
		change = Deleted
	}
	return Entry{URI: n.URI, Change: change, Count: 1, First: n.At.UTC(), Last: n.At.UTC(), Offset: n.Cursor.Seq, Reason: n.Reason.String(),
		Cause: n.Cause.URI, Late: !n.Cause.At.IsZero() && n.Cause.At.Before(from) || n.At.Before(from), Hash: n.Hash, Type: n.Type}
}

// began reports whether the resource came into being with the first notice.
func (e *Entry) began() bool { return e.Change == Created || e.Transient }

// then adds what came after e about the same resource. What is added may be several
// notices already: in whatever groups a row of notices is added up, the sum is the same.
func (e *Entry) then(next *Entry) {
	began := e.began()
	all := append(e.allCauses(), next.allCauses()...)
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) == 1 && all[0] == next.Cause {
		all = nil
	}
	e.Causes = all[:min(len(all), MaxCauses)]
	e.Count += next.Count
	e.Last, e.Offset, e.Reason, e.Cause, e.Hash, e.Type = next.Last, next.Offset, next.Reason, next.Cause, next.Hash, next.Type
	e.Late = e.Late || next.Late
	switch {
	case next.Change == Deleted:
		e.Change = Deleted
	case began:
		e.Change = Created
	default:
		e.Change = Updated
	}
	e.Transient = began && e.Change == Deleted
}

func (e *Entry) allCauses() []string {
	switch {
	case len(e.Causes) > 0:
		return slices.Clone(e.Causes)
	case e.Cause != "":
		return []string{e.Cause}
	}
	return nil
}

// appendLine appends the entry as a line of NDJSON, without its end.
func (e *Entry) appendLine(b []byte) []byte {
	b = appendString(append(b, `{"uri":`...), e.URI)
	b = appendText(b, "change", e.Change)
	b = strconv.AppendUint(append(b, `,"count":`...), e.Count, 10)
	b = appendTime(b, "first", e.First)
	b = appendTime(b, "last", e.Last)
	b = strconv.AppendUint(append(b, `,"offset":`...), e.Offset, 10)
	b = appendText(b, "reason", e.Reason)
	b = appendText(b, "cause", e.Cause)
	for i, cause := range e.Causes {
		if i == 0 {
			b = append(b, `,"causes":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendString(b, cause)
	}
	if len(e.Causes) > 0 {
		b = append(b, ']')
	}
	if e.Late {
		b = append(b, `,"late":true`...)
	}
	if e.Transient {
		b = append(b, `,"transient":true`...)
	}
	b = appendText(b, "hash", e.Hash)
	b = appendText(b, "type", e.Type)
	return append(b, '}')
}

// errEntry reports a line that is no entry.
var errEntry = errors.New("not an entry of a digest")

// parseEntry reads a line that appendLine wrote.
func parseEntry(line []byte) (e Entry, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return e, fmt.Errorf("%w: %w", errEntry, err)
	}
	if e.URI == "" || e.Count == 0 {
		return e, errEntry
	}
	return e, nil
}

// lineURI returns the URI that a line is about without reading the rest: it stands
// first, and a canonical URI has nothing that is escaped.
func lineURI(line []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"uri":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end <= 0 {
		return nil, errEntry
	}
	return rest[:end], nil
}

// appendText appends a further member of an object, unless it is empty. The name
// needs no escaping.
func appendText(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":`...)
	return appendString(b, value)
}

// appendTime appends t in UTC.
// Source: RFC 3339.
func appendTime(b []byte, name string, t time.Time) []byte {
	b = append(append(append(b, `,"`...), name...), `":"`...)
	return append(t.UTC().AppendFormat(b, time.RFC3339Nano), '"')
}

// appendString appends s as a JSON string in which all control characters and what some
// reader takes for a line end are escaped. Bytes that are no UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r < 0xa0 || r == 0x2028 || r == 0x2029 || r == utf8.RuneError && size == 1 {
			b = fmt.Appendf(append(b, s[done:i]...), `\u%04x`, r)
			done = i + size
		}
		i += size
	}
	return append(append(b, s[done:]...), '"')
}
