package graph

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Epoch identifies one incarnation of a store. A new or restored store has a
// new one, so that a cursor of another life is recognised instead of misread.
type Epoch uint32

func (e Epoch) String() string { return fmt.Sprintf("%08x", uint32(e)) }

// Cursor is a position in the journal: everything up to and including Seq has
// been read. Clients treat its text as opaque.
type Cursor struct {
	Epoch Epoch
	Seq   uint64
}

// MaxCursor bounds the text of a cursor in bytes. Today's need 29; a cluster
// puts one position for each shard into it.
const MaxCursor = 128

// ErrCursor reports a text that is no cursor.
var ErrCursor = errors.New("not a cursor")

// String returns the text form, <8 hex digits>.<decimal>.
func (c Cursor) String() string { return string(c.Append(make([]byte, 0, 29))) }

// Append appends the text form to b.
func (c Cursor) Append(b []byte) []byte {
	const hex = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, hex[c.Epoch>>shift&15])
	}
	return strconv.AppendUint(append(b, '.'), c.Seq, 10)
}

// IsZero reports whether c is no position at all, as in an update without token.
func (c Cursor) IsZero() bool { return c == Cursor{} }

// ParseCursor reads the text form. It accepts only what String writes, so two
// different texts never name one position.
func ParseCursor(s string) (Cursor, error) {
	e, q, ok := strings.Cut(s, ".")
	if !ok || len(s) > MaxCursor || len(e) != 8 {
		return Cursor{}, fmt.Errorf("%w: %.140q", ErrCursor, s)
	}
	epoch, err1 := strconv.ParseUint(e, 16, 32)
	seq, err2 := strconv.ParseUint(q, 10, 64)
	c := Cursor{Epoch(epoch), seq}
	if err1 != nil || err2 != nil || c.String() != s {
		return Cursor{}, fmt.Errorf("%w: %.140q", ErrCursor, s)
	}
	return c, nil
}
