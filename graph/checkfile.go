package graph

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// checkFiles verifies the checksum of every block of every table, filters and
// indexes included, and has Pebble go through all levels: keys are in order, and
// merges succeed. It reports whether the rest can be read. That of each record of
// the log was verified when the store was opened.
func (c *checker) checkFiles() (sound bool, err error) {
	c.stage = CheckFiles
	c.tell()
	levels, err := c.db.SSTables()
	if err != nil {
		return false, err
	}
	read := map[uint64]bool{}
	for _, level := range levels {
		for _, t := range level {
			number := uint64(t.BackingSSTNum)
			if read[number] {
				continue
			}
			read[number] = true
			name := fmt.Sprintf("%06d.sst", number)
			if err := c.checkTable(name); damaged(err) {
				c.found([]byte("files"), 0, fmt.Sprintf("%s is damaged, and the rest was not looked at: %v; take a copy of the store instead", name, err), nil)
			} else if err != nil {
				return false, fmt.Errorf("%s: %w", name, err)
			}
			if err := c.ctx.Err(); err != nil {
				return false, err
			}
		}
	}
	if c.rep.Found > 0 {
		return false, nil
	}
	if err = c.db.CheckLevels(nil); damaged(err) {
		c.found([]byte("files"), 0, fmt.Sprintf("the tables do not fit together, and the rest was not looked at: %v; take a copy of the store instead", err), nil)
		return false, nil
	}
	return err == nil, err
}

func damaged(err error) bool {
	return errors.Is(err, pebble.ErrCorruption) || errors.Is(err, errMalformed)
}

// checkTable verifies the checksum of every block of a table.
func (c *checker) checkTable(name string) error {
	f, err := c.o.FS.Open(c.o.FS.PathJoin(c.dir, name))
	if err != nil {
		return err
	}
	file, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(c.ctx, file, c.format)
	if err != nil {
		return err // it has closed the file
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}
