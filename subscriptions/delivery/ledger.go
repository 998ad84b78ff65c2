package delivery

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// Keys of records.
const (
	keyOutlet   = "delivery/o/" // name → rest
	keyRetry    = "delivery/r/" // name, id → saved
	keyDead     = "delivery/d/" // name, id → Letter
	keyMadeGood = "delivery/g/" // name, id → a dead letter that a later call made good
	keyBrake    = "delivery/brake"
	separator   = "\x00"
)

// A rest is what is kept of an outlet, and all that is known of one that is not attached.
type rest struct {
	Cursors  [2]uint64 `json:"c"`
	Paused   bool      `json:"paused,omitempty"`
	Failures int       `json:"failures,omitempty"`
	Doubts   int       `json:"doubts,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Stuck    *saved    `json:"stuck,omitempty"` // of a serial outlet: what is, or was, called
	Seen     progress  `json:"seen,omitzero"`

	retries []*saved
	letters map[string]struct{}
	dead    map[string]map[string]letter
}

// A saved item is one that has a row.
type saved struct {
	Piece   Piece     `json:"piece"`
	Attempt int       `json:"attempt,omitempty"`
	Due     time.Time `json:"due,omitzero"`
	First   time.Time `json:"first,omitzero"`
	Held    bool      `json:"held,omitempty"`    // for its bucket
	Revived bool      `json:"revived,omitempty"` // it stands for dead letters

	id string
}

func (s *saved) item() *item {
	return &item{piece: s.Piece, attempt: s.Attempt, due: s.Due, first: s.First, revived: s.Revived, row: s.id}
}

func (it *item) saved(held bool) *saved {
	return &saved{Piece: it.piece, Attempt: it.attempt, Due: it.due, First: it.first, Held: held, Revived: it.revived, id: it.row}
}

// maxPiece bounds a piece as it is written, in bytes: with the state of its outlet it is a
// record of the store.
const maxPiece = graph.MaxRecord - 4<<10

// keepable reports whether a retry of a piece can be written.
func (p *Piece) keepable() bool {
	if len(p.Data) > MaxData {
		return false
	}
	names := len(p.Key) + len(p.Bucket) + len(p.URI) + len(p.Cause)
	const escaped = 6 // bytes that one of a text may take
	return 2*len(p.Data)+escaped*names+1<<10 <= maxPiece || len(encode(p)) <= maxPiece
}

// id names a piece among those of its outlet.
func (p *Piece) id() string {
	h := fnv.New64a()
	h.Write([]byte(p.Key))
	return fmt.Sprintf("%016x.%d.%016x", p.Until, p.Lane, h.Sum64())
}

// rest returns what is kept of an outlet, beside what has rows of its own.
func (out *outlet) rest() *rest {
	r := &rest{Cursors: [2]uint64{out.lanes[0].cursor, out.lanes[1].cursor}, Paused: out.paused, Failures: out.failures, Doubts: out.doubts,
		Until: out.until, Seen: out.seen}
	if out.stuck != nil {
		r.Stuck = out.stuck.saved(false)
	}
	return r
}

// load reads what the ledger has of one outlet, or with "" of all of them.
func (e *Engine) load(only string) error {
	rows := only
	if only != "" {
		rows += separator
	}
	err := e.ledger.Records(keyOutlet+only, func(key string, value []byte) error {
		name := strings.TrimPrefix(key, keyOutlet)
		if only != "" && name != only {
			return nil
		}
		r := new(rest)
		e.resting[name] = r
		return json.Unmarshal(value, r)
	})
	if err == nil {
		err = e.each(keyRetry, rows, func(r *rest, _, id string, value []byte) error {
			s := &saved{id: id}
			r.retries = append(r.retries, s)
			return json.Unmarshal(value, s)
		})
	}
	good := map[string]bool{}
	if err == nil {
		err = e.each(keyMadeGood, rows, func(_ *rest, name, id string, _ []byte) error {
			good[name+separator+id] = true
			return nil
		})
	}
	if err == nil {
		err = e.each(keyDead, rows, func(r *rest, name, id string, value []byte) error {
			var l Letter
			if err := json.Unmarshal(value, &l); err != nil {
				return err
			}
			r.letters = addID(r.letters, id)
			if b := l.Piece.Bucket; b != "" && !good[name+separator+id] {
				r.dead = addLetter(r.dead, b, id, letter{l.Piece.After, l.Piece.Until, l.Piece.Key})
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("deliveries cannot be read: %w", err)
	}
	return nil
}

// each calls f with the rows of one kind and the outlet they belong to.
func (e *Engine) each(kind, prefix string, f func(r *rest, name, id string, value []byte) error) error {
	return e.ledger.Records(kind+prefix, func(key string, value []byte) error {
		name, id, _ := strings.Cut(strings.TrimPrefix(key, kind), separator)
		r := e.resting[name]
		if r == nil {
			return nil // its outlet was being forgotten
		}
		return f(r, name, id, value)
	})
}

// put has the row of an outlet written. The lock is held.
func (e *Engine) put(out *outlet) { e.rows[keyOutlet+out.name] = encode(out.rest()) }

// writeRow gives an item a row, if there is room for one, and its cursor passes it. The
// lock is held.
func (e *Engine) writeRow(out *outlet, it *item, held bool) {
	if it.row == "" {
		if out.rows >= maxRetries && !it.revived {
			return
		}
		out.countRow(it, 1)
		it.row = it.piece.id()
	}
	e.rows[keyRetry+out.name+separator+it.row] = encode(it.saved(held))
	out.finish(it)
}

// writeSlow gives rows to what has been called for long, so that the cursor passes it: one
// call that hangs holds up neither the others of its outlet nor their being written down.
// The lock is held.
func (e *Engine) writeSlow() {
	for _, list := range []*list.List{&e.slow, &e.flights} {
		for place := list.Front(); place != nil; place = place.Next() {
			f := place.Value.(*flight)
			if time.Since(f.began) < slowAfter {
				break
			}
			if f.out != nil && !f.out.gone && !f.out.settings.Serial && len(f.it.batches) > 0 {
				e.writeRow(f.out, f.it, false)
				e.changed[f.out] = struct{}{}
			}
		}
	}
}

// dropRow deletes the row of an item. The lock is held.
func (e *Engine) dropRow(out *outlet, it *item) {
	if it.row != "" {
		e.rows[keyRetry+out.name+separator+it.row] = nil
		it.row = ""
		out.countRow(it, -1)
	}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts, numbers and times
	}
	return b
}

// Flush writes down what is known. All of it is durable when it returns nil; what could
// not be written is written by the next one.
func (e *Engine) Flush(ctx context.Context) error {
	_, err := e.flush(ctx)
	return err
}

// durable is Flush for some outlets: that others wait for room on the disk is no failure
// of theirs.
func (e *Engine) durable(ctx context.Context, names ...string) error {
	left, err := e.flush(ctx)
	if full := (*graph.NoSpaceError)(nil); !errors.As(err, &full) {
		return err
	}
	groups := byOutlet(left)
	if slices.ContainsFunc(names, func(name string) bool { return groups[name] != nil }) {
		return err
	}
	return nil
}

// flush is Flush, and returns what could not be written.
func (e *Engine) flush(ctx context.Context) (left map[string][]byte, err error) {
	e.flushing.Lock()
	defer e.flushing.Unlock()
	e.mu.Lock()
	e.writeHeld()
	e.writeSlow()
	for out := range e.changed {
		e.put(out)
	}
	clear(e.changed)
	rows := e.rows
	e.rows = map[string][]byte{}
	e.mu.Unlock()
	if len(rows) == 0 {
		return nil, nil
	}
	if left, err = e.write(ctx, rows); err != nil {
		e.mu.Lock()
		for key, value := range left {
			if _, newer := e.rows[key]; !newer {
				e.rows[key] = value
			}
		}
		e.toFlush()
		e.mu.Unlock()
		return left, fmt.Errorf("writing down deliveries: %w", err)
	}
	return nil, nil
}

// write puts rows, and returns those that are left if it fails. On a disk that is nearly
// full outlets that need new rows wait for room, with all of theirs, and the others'
// cursors still move.
func (e *Engine) write(ctx context.Context, rows map[string][]byte) (left map[string][]byte, err error) {
	err = e.writeAll(ctx, rows)
	var full *graph.NoSpaceError
	if err == nil || !errors.As(err, &full) {
		return rows, err
	}
	frugal, groups := map[string][]byte{}, byOutlet(rows)
	for name, group := range groups {
		if !addsRows(group) {
			maps.Copy(frugal, group)
			delete(groups, name)
		}
	}
	if err := e.writeAll(ctx, frugal); err != nil {
		maps.Copy(groups, byOutlet(frugal))
	}
	left = map[string][]byte{}
	for _, group := range groups {
		if e.writeAll(ctx, group) != nil {
			maps.Copy(left, group)
		}
	}
	if len(left) == 0 {
		return nil, nil
	}
	return left, err
}

// byOutlet sorts rows by the outlet whose they are; that of the brake is "".
func byOutlet(rows map[string][]byte) map[string]map[string][]byte {
	groups := map[string]map[string][]byte{}
	for key, value := range rows {
		name := ""
		if key != keyBrake {
			name, _, _ = strings.Cut(key[len(keyOutlet):], separator) // all prefixes are as long
		}
		if groups[name] == nil {
			groups[name] = map[string][]byte{}
		}
		groups[name][key] = value
	}
	return groups
}

// addsRows reports whether some of rows may be new ones.
func addsRows(rows map[string][]byte) bool {
	for key, value := range rows {
		if value != nil && !strings.HasPrefix(key, keyOutlet) {
			return true
		}
	}
	return false
}

// writeAll puts rows in an order in which each part may be the last one: what takes over
// from a cursor, then cursors, then what is done with.
func (e *Engine) writeAll(ctx context.Context, rows map[string][]byte) error {
	order := func(key string) int {
		switch {
		case rows[key] == nil:
			return 2
		case strings.HasPrefix(key, keyOutlet):
			return 1
		}
		return 0
	}
	keys := slices.SortedFunc(maps.Keys(rows), func(a, b string) int {
		if d := order(a) - order(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	records := make([]graph.Record, len(keys))
	size, first := 0, 0
	for i, key := range keys {
		records[i] = graph.Record{Key: key, Value: rows[key]}
		size += len(key) + len(rows[key])
		if i+1-first == graph.MaxRecords || size > graph.MaxRecordBytes/2 || i+1 == len(keys) {
			if err := e.ledger.PutRecords(ctx, records[first:i+1]); err != nil {
				return err
			}
			first, size = i+1, 0
		}
	}
	return nil
}

// idleMoves bounds how many cursors passIdle moves at once, so that writing them down
// holds nobody up; there is time for more until they are overtaken.
const idleMoves = 20_000

// passIdle moves the cursors of those who have nothing to do over what was not for
// them, so that the journal's trimming does not overtake them.
func (e *Engine) passIdle() {
	head, oldest := e.o.Head(), e.o.Oldest().Seq
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.toFlush()
	was := e.settled.Seq
	e.settled = head
	far := (head.Seq - min(head.Seq, oldest)) / 4
	for _, out := range e.outlets {
		if len(e.changed) >= idleMoves {
			break
		}
		if out.settings.Head != nil {
			continue // its positions are others, and its log is not trimmed
		}
		for i := range out.lanes {
			l := &out.lanes[i]
			if l.news == l.had && l.batches.len() == 0 && l.read < was && was-l.read > far {
				l.read, l.cursor = was, was
				e.changed[out] = struct{}{}
			}
		}
	}
}

// forget deletes all rows of an outlet.
func (e *Engine) forget(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.resting, name)
	gone := []string{keyOutlet + name}
	for _, kind := range []string{keyRetry, keyDead, keyMadeGood} {
		prefix := kind + name + separator
		for key := range e.rows {
			if strings.HasPrefix(key, prefix) {
				gone = append(gone, key)
			}
		}
		err := e.ledger.Records(prefix, func(key string, _ []byte) error {
			gone = append(gone, key)
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, key := range gone {
		e.rows[key] = nil
	}
	return nil
}
