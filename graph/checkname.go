package graph

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
)

// spaces are all there are, in the order of their keys.
var spaces = []byte{spaceMarker, spaceBucket, spaceList, spaceRow, spaceName, spaceJob, spaceSeen, spaceJournal, spaceMeta,
	spaceFree, spaceOrphan, spacePeer, spaceAccount, spacePosting, spacePage, spaceTimer, spaceURI}

// checkSpaces looks for keys between the spaces.
func (c *checker) checkSpaces() error {
	from := []byte{0}
	for _, space := range append(spaces, 0xff) {
		it, err := c.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{space}})
		if err != nil {
			return err
		}
		if it.First() {
			c.found(it.Key(), 0, "no space begins like this: a newer program wrote it, or it is damaged", nil)
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return err
		}
		from = []byte{space + 1}
	}
	return nil
}

// checkMeta reads the single values.
func (c *checker) checkMeta() error {
	has := map[string]bool{}
	numbers := map[string]*uint64{metaOldest: &c.oldest}
	var now uint64
	numbers[metaNow], numbers[metaNextID] = &now, (*uint64)(&c.nextID)
	err := c.scan([]byte{spaceMeta}, func(k, v []byte) error {
		name, key := string(k[1:]), bytes.Clone(k)
		has[name] = true
		n, ok := numbers[name]
		switch {
		case ok && len(v) == 8:
			*n = binary.BigEndian.Uint64(v)
		case ok:
			c.found(key, 0, "it is no number of 8 bytes", func() { c.delete(key) })
		case name == metaEpoch && len(v) == 4:
			c.epoch = Epoch(binary.BigEndian.Uint32(v))
		case name == metaEpoch:
			c.found(key, 0, "it is no epoch of 4 bytes", c.newEpoch)
		case name != metaFormat:
			c.found(key, 0, "nobody asks for this value: a newer program wrote it, or it is damaged", nil)
		}
		return nil
	})
	c.now = int64(now)
	c.nextID = max(c.nextID, 1)
	if err != nil {
		return err
	}
	if !has[metaFormat] && !c.empty() {
		c.found(metaKey(metaFormat), 0, "the store has no format", nil)
	}
	if has[metaFormat] && !has[metaEpoch] {
		c.found(metaKey(metaEpoch), 0, "the store has no epoch", c.newEpoch)
	}
	return nil
}

// empty reports whether nothing was ever written: a power cut came first.
func (c *checker) empty() bool {
	it, err := c.db.NewIter(nil)
	if err != nil {
		return false
	}
	defer it.Close()
	return !it.First()
}

// checkNames compares names with ids, and finds out who is named and which ids
// are free.
func (c *checker) checkNames() error {
	last := ID(0)
	err := c.scan([]byte{spaceName}, func(k, v []byte) error {
		if len(k) != 1+idSize {
			c.badKey(k)
			return nil
		}
		id := parseID(k[1:])
		last = max(last, id)
		c.named.add(id)
		c.names.said.addText(v, uint64(id))
		c.rep.Resources++
		if id == 0 || len(v) == 0 {
			c.found(k, 0, "there is no resource 0, and none without a URI", nil)
		}
		return c.flushLarge()
	})
	if err != nil {
		return err
	}
	err = c.scan([]byte{spaceURI}, func(k, v []byte) error {
		if key := bytes.Clone(k); len(v) != idSize {
			c.found(key, 0, "it is no id of 5 bytes", func() { c.delete(key) })
			c.rebuilt[string(key)] = true
			return c.flushLarge()
		}
		c.names.copied.addText(k[1:], uint64(parseID(v)))
		return nil
	})
	if err != nil {
		return err
	}
	err = c.scan([]byte{spaceFree}, func(k, _ []byte) error {
		if len(k) != 1+idSize {
			c.badKey(k)
			return nil
		}
		id, key := parseID(k[1:]), bytes.Clone(k)
		if c.named.has(id) {
			c.found(key, id, "it is said to be free, and has a name", func() { c.delete(key) })
			return c.flushLarge()
		}
		c.free.add(id)
		last = max(last, id)
		return nil
	})
	if err == nil && !c.names.agree() {
		err = errors.Join(c.flush(), c.locateNames())
	}
	if c.nextID > last+1 {
		c.found(metaKey(metaNextID), 0, fmt.Sprintf("it is %d, and the last id is %d", c.nextID, last),
			func() { c.set(metaKey(metaNextID), binary.BigEndian.AppendUint64(nil, uint64(last)+1)) })
	}
	c.nextID = last + 1
	return err
}

// named and strangers of one URI: ids whose name it is and that it does not lead
// to, and ids that it leads to and whose name it is not.
type namesakes struct {
	uri               string
	missing, stranger []ID
}

// locateNames compares both directions of names.
func (c *checker) locateNames() error {
	said := func(add func([]byte) error) error {
		return c.scan([]byte{spaceName}, func(k, v []byte) error {
			if len(k) != 1+idSize {
				return nil
			}
			return add(append(append(bytes.Clone(v), 0), k[1:]...))
		})
	}
	copied := func(add func([]byte) error) error {
		return c.scan([]byte{spaceURI}, func(k, v []byte) error {
			if len(v) != idSize {
				return nil
			}
			return add(append(append(bytes.Clone(k[1:]), 0), v...))
		})
	}
	var at namesakes
	turn := func(key []byte) (ID, error) {
		n := len(key) - idSize
		if uri := string(key[:n-1]); uri != at.uri {
			if err := c.settleName(&at); err != nil {
				return 0, err
			}
			at = namesakes{uri: uri}
		}
		return parseID(key[n:]), nil
	}
	err := c.locate(said, copied, func(key []byte) error {
		id, err := turn(key)
		at.missing = append(at.missing, id)
		return err
	}, func(key []byte) error {
		id, err := turn(key)
		at.stranger = append(at.stranger, id)
		return err
	})
	if err == nil {
		err = c.settleName(&at)
	}
	c.stage = CheckNames
	return err
}

// settleName makes both directions of one URI agree.
func (c *checker) settleName(at *namesakes) error {
	key := uriKey(at.uri)
	holder := ID(0) // whom the URI leads to, rightly
	if v, ok, err := c.get(key); err != nil {
		return err
	} else if ok && len(v) == idSize && !slices.Contains(at.stranger, parseID(v)) {
		holder = parseID(v)
	}
	for _, id := range at.missing {
		if holder != 0 {
			c.found(idKey(spaceName, id), id, fmt.Sprintf("its URI is that of resource %d as well", holder), nil)
			continue
		}
		holder = id
		c.note(c.rebuilt[string(key)], key, id, "its URI does not lead to it", func() { c.set(key, appendID(nil, id)) })
	}
	if holder != 0 {
		return c.flushLarge()
	}
	for _, id := range at.stranger {
		if c.named.has(id) || c.free.has(id) {
			c.found(key, 0, fmt.Sprintf("it leads to resource %d, whose name it is not", id), func() { c.delete(key) })
			continue
		}
		c.named.add(id)
		c.rep.Resources++
		c.found(idKey(spaceName, id), 0, "it has no name, and "+at.uri+" leads to it", func() { c.set(idKey(spaceName, id), []byte(at.uri)) })
	}
	return c.flushLarge()
}

// checkSmall looks at what refers to little: idempotency keys and who is to be
// looked at for collection.
func (c *checker) checkSmall() error {
	err := c.scan([]byte{spaceSeen}, func(k, _ []byte) error {
		if len(k) != len(seenDay(0))+len(seenID{}) {
			c.badKey(k)
		}
		return c.flushLarge()
	})
	if err != nil {
		return err
	}
	return c.scan([]byte{spaceOrphan}, func(k, _ []byte) error {
		key := bytes.Clone(k)
		if len(k) != 1+8+idSize {
			c.badKey(k)
		} else if id := parseID(k[9:]); !c.named.has(id) {
			c.found(key, 0, fmt.Sprintf("resource %d, which is to be looked at for collection, does not exist", id), func() { c.delete(key) })
		}
		return c.flushLarge()
	})
}

// spellKey writes a key as doc.go draws it.
func spellKey(k []byte) string {
	if len(k) == 0 {
		return ""
	}
	space, rest := k[0], k[1:]
	num := func(parts ...int) string {
		s, at := string(space), 0
		for _, n := range parts {
			var v uint64
			for _, b := range rest[at : at+n] {
				v = v<<8 | uint64(b)
			}
			s, at = s+" "+strconv.FormatUint(v, 10), at+n
		}
		return s
	}
	switch n := len(rest); {
	case string(k) == "files":
		return "files"
	case space == spaceMeta || space == spaceURI:
		return fmt.Sprintf("%c %.200q", space, rest)
	case (space == spaceName || space == spaceRow || space == spaceFree || space == spacePosting) && n == idSize:
		return num(idSize)
	case space == spacePosting && n == idSize+3:
		return num(idSize, 3)
	case space == spacePage && n == 4:
		return num(4)
	case space == spaceMarker && n == 2*idSize:
		return num(idSize, idSize)
	case (space == spaceJournal || space == spaceJob || space == spaceAccount) && n == 8:
		return num(8)
	case space == spaceTimer && n == 16:
		return num(8, 8)
	case space == spaceOrphan && n == 8+idSize:
		return num(8, idSize)
	case space == spaceBucket && n > 4:
		return fmt.Sprintf("B %.200q %d", rest[:n-4], uint32(rest[n-3])<<16|uint32(rest[n-2])<<8|uint32(rest[n-1]))
	case space == spacePeer && n > 0:
		return spellPeerKey(k)
	case space == spaceList && n > 0:
		return spellListKey(k)
	}
	return fmt.Sprintf("%.200q", k)
}

func spellListKey(k []byte) string {
	kind, rest := k[1], k[2:]
	switch {
	case kind == listRecord:
		return fmt.Sprintf("C d %.200q", rest)
	case kind == listMembers && len(rest) == 7:
		return fmt.Sprintf("C m %d %d", parseList(rest), bucketOf(k))
	case kind == listOf && len(rest) == 9:
		return fmt.Sprintf("C r %d %d", parseID(rest), parseList(rest[idSize:]))
	case kind == listMarked && len(rest) == 12:
		return fmt.Sprintf("C p %d %d", parseList(rest), parseSeq(rest[4:]))
	case kind == listBlock && len(rest) == 8:
		return fmt.Sprintf("C b %d", parseSeq(rest))
	case kind == listDropped && len(rest) == 4:
		return fmt.Sprintf("C x %d", parseList(rest))
	}
	return fmt.Sprintf("%.200q", k)
}
