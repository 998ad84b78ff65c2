package graph

import (
	"errors"
	"fmt"
)

// ErrUnknown reports a URI, job or claim the store never heard of.
var ErrUnknown = errors.New("unknown")

// ErrClosed reports a call on a store that is closing or whose disk failed.
var ErrClosed = errors.New("store is closed")

func (e *ResetError) Error() string {
	return fmt.Sprintf("cursor cannot be served: %s; the journal holds %s to %s", e.Reason, e.Oldest, e.Newest)
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("item %d: %s: %s", e.Item, e.Field, e.Reason)
}

// ResetError reports a cursor that cannot be served.
type ResetError struct {
	Reason         string // "epoch", "trimmed" or "future"
	Oldest, Newest Cursor // positions that can
}

// InvalidError reports the item of a batch that was refused, and why. Nothing of
// the batch was applied.
type InvalidError struct {
	Item   int    // index in the batch
	Field  string // "deps", "at", …
	Reason string
}
