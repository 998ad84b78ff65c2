package graph

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// A Record is a small value that another room keeps in the store, under a key of
// its own. Rooms tell theirs apart by how keys begin.
type Record struct {
	Key   string
	Value []byte // nil deletes what is there
}

const (
	// MaxRecords bounds the records of one call: so many keep the apply loop from
	// others for about 10 ms.
	MaxRecords = 10_000
	// MaxRecord bounds one value, in bytes: beyond it a record is not small, and
	// whoever scans them reads what others keep.
	MaxRecord = 64 << 10
	// MaxRecordKey bounds one key, in bytes: a key holds names, and at most an URI.
	MaxRecordKey = 4 << 10
	// MaxRecordBytes bounds keys and values of one call: they are one piece of a
	// commit, and a memtable is 64 MiB.
	MaxRecordBytes = 16 << 20
)

// checkRecords reports what is wrong with a call.
func checkRecords(records []Record) error {
	if len(records) > MaxRecords {
		return &InvalidError{Item: MaxRecords, Field: "records", Reason: fmt.Sprintf("more than %d records", MaxRecords)}
	}
	size := 0
	for i, r := range records {
		size += len(r.Key) + len(r.Value)
		switch {
		case r.Key == "" || len(r.Key) > MaxRecordKey:
			return &InvalidError{Item: i, Field: "key", Reason: fmt.Sprintf("not 1 to %d bytes", MaxRecordKey)}
		case len(r.Value) > MaxRecord:
			return &InvalidError{Item: i, Field: "value", Reason: fmt.Sprintf("more than %d bytes", MaxRecord)}
		case size > MaxRecordBytes:
			return &InvalidError{Item: i, Field: "records", Reason: fmt.Sprintf("more than %d bytes together", MaxRecordBytes)}
		}
	}
	return nil
}

// PutRecords writes all of the records or none, in one commit; they are durable
// when it returns nil. Of records with one key the last stands. Callers that come
// together share a commit and its flush. Keys and values are the store's until
// PutRecords returns; if ctx ends first they may still be written, and so must not
// change any more.
//
// On a disk that is nearly full what is there is overwritten or deleted; a new key
// is a [NoSpaceError]. What is beyond the bounds is an [InvalidError] with the index
// of its record.
func (s *Store) PutRecords(ctx context.Context, records []Record) error {
	if err := checkRecords(records); err != nil || len(records) == 0 {
		return err
	}
	full := s.Room()
	var refused error
	err := s.relieve(ctx, func(t *txn) {
		if full != nil && t.newRecord(records) {
			refused = full
			return
		}
		t.putRecords(records)
	})
	if err != nil {
		return err
	}
	return refused
}

func (t *txn) putRecords(records []Record) {
	for _, r := range records {
		t.buf = append(append(t.buf[:0], spaceList, listRecord), r.Key...)
		if r.Value == nil {
			check(t.b.Delete(t.buf, nil))
		} else {
			check(t.b.Set(t.buf, r.Value, nil))
		}
	}
}

// newRecord reports whether one of the records is to be where none is.
func (t *txn) newRecord(records []Record) bool {
	return slices.ContainsFunc(records, func(r Record) bool {
		if r.Value == nil {
			return false
		}
		_, closer, err := t.b.Get(recordKey(r.Key))
		if errors.Is(err, pebble.ErrNotFound) {
			return true
		}
		check(err)
		check(closer.Close())
		return false
	})
}

// Records calls f with the records whose key begins with prefix, in the order of
// keys, until it returns an error, which Records returns. The value is f's until
// it returns.
func (s *Store) Records(prefix string, f func(key string, value []byte) error) error {
	return s.scanPrefix(recordKey(prefix), func(k, v []byte) error { return f(string(k[2:]), v) })
}
