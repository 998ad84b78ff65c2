package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

const (
	// MaxBody bounds the body of a request or an answer between hubs, in bytes: 5,000
	// operations with URIs of a usual length, or the states of one event.
	MaxBody = 1 << 20
	// maxStates bounds the levels of one event: whoever waits for the first of them
	// waits for all, and half a batch is as fast as a whole one.
	maxStates = 500
	// maxStatesTaken bounds the levels of one event of a peer: with another they are one
	// commit.
	maxStatesTaken = graph.MaxLevels / 2
	// maxStateBytes is where an event with levels ends, in bytes: two of the longest
	// levels more stay far below what a reader takes.
	maxStateBytes = 256 << 10
)

// The events of a stream between hubs.
const (
	eventStates    = "states"    // levels; its id is the position after them
	eventHeartbeat = "heartbeat" // there is nothing to tell
	eventReset     = "reset"     // the position is of another epoch, or of none
)

// errMessage reports a message that is not one of the protocol. What wraps it says why.
var errMessage = errors.New("it is not a message of the protocol")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errMessage, fmt.Errorf(format, args...))
}

// A states event carries levels and the teller's clock.
type statesShape struct {
	Now    time.Time    `json:"now"`
	States []stateShape `json:"states"`
}

// stateShape is a level as it travels.
type stateShape struct {
	URI       string    `json:"uri"`
	Sver      uint64    `json:"sver"`
	Cver      uint64    `json:"cver,omitempty"`
	Type      string    `json:"type,omitempty"`
	Heard     bool      `json:"heard"`
	Known     bool      `json:"known,omitempty"`
	Version   string    `json:"version,omitempty"`
	Hash      string    `json:"hash,omitempty"`
	Aliases   []string  `json:"aliases,omitempty"`
	Ambiguous bool      `json:"ambiguous,omitempty"`
	Unsettled bool      `json:"unsettled,omitempty"`
	ChangedAt time.Time `json:"changed_at,omitzero"`
}

func shapeLevel(l *graph.Level) stateShape {
	return stateShape{URI: l.URI, Sver: l.Sver, Cver: l.Cver, Type: l.Type, Heard: l.Heard, Known: l.Known, Version: l.Version,
		Hash: l.Hash, Aliases: l.Aliases, Ambiguous: l.Ambiguous, Unsettled: l.Unsettled, ChangedAt: l.ChangedAt}
}

func (s *stateShape) level(now time.Time) graph.Level {
	return graph.Level{URI: s.URI, Sver: s.Sver, Cver: s.Cver, Type: s.Type, Heard: s.Heard, Known: s.Known, Version: s.Version,
		Hash: s.Hash, Aliases: s.Aliases, Ambiguous: s.Ambiguous, Unsettled: s.Unsettled, ChangedAt: s.ChangedAt, Now: now}
}

// encodeStates returns the data of an event with the first of levels, and how many
// those are: as many as fit.
func encodeStates(levels []graph.Level) (b []byte, n int) {
	b = append(b, `{"now":"`...)
	b = levels[0].Now.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","states":[`...)
	for n < len(levels) && n < maxStates && len(b) < maxStateBytes {
		if n > 0 {
			b = append(b, ',')
		}
		text, err := json.Marshal(shapeLevel(&levels[n]))
		if err != nil {
			panic(err) // texts, numbers and times of this century
		}
		b = append(b, text...)
		n++
	}
	return append(b, `]}`...), n
}

// read reads the members of an event one by one, and up to [maxStatesTaken] states: whole,
// 1 MiB without any limit would become a hundred, and would be looked through twice.
func (m *statesShape) read(d *json.Decoder) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("it is not an object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		switch name {
		case "now":
			err = d.Decode(&m.Now)
		case "states":
			err = m.readStates(d)
		default:
			err = d.Decode(new(json.RawMessage))
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the object")
	}
	return nil
}

func (m *statesShape) readStates(d *json.Decoder) error {
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return errors.New("it is not a list")
	}
	for m.States = m.States[:0]; d.More(); {
		if len(m.States) == maxStatesTaken {
			return fmt.Errorf("more than %d in one event", maxStatesTaken)
		}
		var s stateShape
		if err := d.Decode(&s); err != nil {
			return err
		}
		m.States = append(m.States, s)
	}
	_, err := d.Token()
	return err
}

// decodeStates reads the levels of an event. What it does not know it passes over:
// later versions may say more. What is wrong with a single level is not looked at.
func decodeStates(b []byte) ([]graph.Level, error) {
	if !utf8.Valid(b) { // it would be read as something else
		return nil, malformed("states: it is not UTF-8")
	}
	var m statesShape
	if err := m.read(json.NewDecoder(bytes.NewReader(b))); err != nil {
		return nil, malformed("states: %w", err)
	}
	if m.Now.IsZero() {
		return nil, malformed("now is missing")
	}
	levels := make([]graph.Level, len(m.States))
	for i := range m.States {
		levels[i] = m.States[i].level(m.Now)
	}
	return levels, nil
}

// encodeReset returns the data of the event that ends what cannot go on: the epoch now.
func encodeReset(here graph.Epoch) []byte { return fmt.Appendf(nil, `{"epoch":%q}`, here) }

// What an op does, in words.
const (
	wordAdd  = "add"
	wordDrop = "drop"
)

// encodeRegistration returns a request to register ops, and how many of them it has:
// as many as fit in so many bytes, one at least.
func encodeRegistration(r *graph.Registration, most int) (b []byte, n int) {
	b = fmt.Appendf(b, `{"epoch":%q,"generation":%d,"base":%d,"ops":[`, r.Epoch.String(), r.Generation, r.Base)
	const end = `]}`
	for i := range r.Ops {
		op := opShape{N: r.Ops[i].N, Op: wordAdd, URI: r.Ops[i].URI}
		if !r.Ops[i].Add {
			op.Op = wordDrop
		}
		text, err := json.Marshal(op)
		if err != nil {
			panic(err) // two texts and a number
		}
		if n > 0 && len(b)+1+len(text)+len(end) > most {
			break
		}
		if n > 0 {
			b = append(b, ',')
		}
		b = append(b, text...)
		n++
	}
	return append(b, end...), n
}

type opShape struct {
	N   uint64 `json:"n"`
	Op  string `json:"op"`
	URI string `json:"uri"`
}

// decodeRegistration reads a request to register.
func decodeRegistration(b []byte) (r graph.Registration, err error) {
	o, err := readObject(b)
	if err != nil {
		return r, malformed("%w", err)
	}
	r = graph.Registration{Epoch: o.epoch("epoch"), Generation: o.number("generation"), Base: o.number("base")}
	list := o.list("ops", graph.MaxOps)
	r.Ops = make([]graph.InterestOp, len(list))
	for i, v := range list {
		op := o.toObject(fmt.Sprintf("ops[%d]", i), v)
		word := op.text("op")
		if op.fault == nil && word != wordAdd && word != wordDrop {
			op.fail("op is neither add nor drop")
		}
		r.Ops[i] = graph.InterestOp{N: op.number("n"), Add: word == wordAdd, URI: op.text("uri")}
		o.take(op)
	}
	if o.fault != nil {
		return r, malformed("%w", o.fault)
	}
	return r, nil
}

// appliedShape answers a registration.
type appliedShape struct {
	Applied  uint64 `json:"applied"`
	Rejected int    `json:"rejected,omitempty"`
	First    string `json:"first,omitempty"` // why the first of the rejected was
}

func decodeApplied(b []byte) (res graph.Registered, err error) {
	o, err := readObject(b)
	if err != nil {
		return res, malformed("%w", err)
	}
	res.Applied = o.number("applied")
	if o.has("rejected") {
		res.Rejected, res.First = o.whole("rejected"), o.optionalText("first")
	}
	if o.fault != nil {
		return res, malformed("%w", o.fault)
	}
	return res, nil
}

// decodeGap reads the answer that ops do not follow what was applied.
func decodeGap(b []byte) (*graph.GapError, error) {
	o, err := readObject(b)
	if err != nil {
		return nil, malformed("%w", err)
	}
	gap := &graph.GapError{Epoch: o.epoch("epoch"), Generation: o.number("generation"), Applied: o.number("applied")}
	if o.fault != nil {
		return nil, malformed("%w", o.fault)
	}
	return gap, nil
}

// encodeAck returns a request that acknowledges what was heard.
func encodeAck(at graph.Cursor) []byte { return fmt.Appendf(nil, `{"position":%q}`, at) }

func decodeAck(b []byte) (graph.Cursor, error) {
	o, err := readObject(b)
	if err != nil {
		return graph.Cursor{}, malformed("%w", err)
	}
	text := o.text("position")
	if o.fault != nil {
		return graph.Cursor{}, malformed("%w", o.fault)
	}
	c, err := graph.ParseCursor(text)
	if err != nil {
		return c, malformed("position: %w", err)
	}
	return c, nil
}
