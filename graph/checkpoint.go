package graph

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Checkpoint makes a store of its own in dir, which must not exist, of what this
// one holds between two commits, and returns the position of that moment: all
// notices up to it are there, with all that was acknowledged before the call, and
// none after. It is durable when Checkpoint returns nil, and nothing is left
// otherwise. Tables are hard links if dir is on the same file system: they cost no
// room until the store has replaced them. Reads go on; writes wait while links are
// made. It needs room itself: on a disk that is nearly full it is a [NoSpaceError].
func (s *Store) Checkpoint(dir string) (Cursor, error) {
	select {
	case <-s.stopped:
		return Cursor{}, ErrClosed
	default:
	}
	if err := s.Room(); err != nil {
		return Cursor{}, err
	}
	// What is in tables is linked; what is in the log alone would be copied, up to
	// 256 MiB, while writes wait.
	if err := s.db.Flush(); err != nil {
		return Cursor{}, fmt.Errorf("checkpoint: %w", err)
	}
	// Held between two commits the log is at rest: what is copied of it ends at a
	// position that is known, and not somewhere in a record that is being written.
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.RLock()
	at := Cursor{s.epoch, s.seq}
	s.mu.RUnlock()
	if err := s.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return Cursor{}, fmt.Errorf("checkpoint %s: %w", dir, err)
	}
	return at, nil
}

// Renew gives the store in dir, which nobody has open, a new epoch: what it will
// write is not what the store it was copied from has written at the same positions.
// It returns the old and the new cursor of its newest notice, and is durable when
// it returns nil. A store of a newer format is [ErrFormat].
func Renew(dir string, o Options) (was, now Cursor, err error) {
	s := newStore(o)
	p := pebbleOptions(&s.o)
	p.ErrorIfNotExists = true
	if s.db, err = pebble.Open(dir, p); err != nil {
		return was, now, fmt.Errorf("open store %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, s.db.Close()) }()
	format, err := s.meta(metaFormat)
	if err != nil {
		return was, now, err
	}
	if len(format) != 1 || format[0] == 0 || format[0] > formatVersion {
		return was, now, ErrFormat
	}
	if err := errors.Join(s.loadMeta(), s.loadJournal()); err != nil {
		return was, now, err
	}
	was = Cursor{s.epoch, s.seq}
	var e [4]byte
	for now = was; now.Epoch == was.Epoch; now.Epoch = Epoch(binary.BigEndian.Uint32(e[:])) {
		if _, err := rand.Read(e[:]); err != nil {
			return was, now, err
		}
	}
	if err := s.db.Set(metaKey(metaEpoch), e[:], pebble.Sync); err != nil {
		return was, now, fmt.Errorf("set epoch: %w", err)
	}
	return was, now, nil
}
