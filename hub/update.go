package hub

import (
	"bytes"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxBatch bounds the updates of one request: at ten dependencies each it is
	// a commit of about 1 MiB.
	maxBatch = 5_000
	// maxTraceparent is the length of a traceparent of version 00, in bytes; later
	// versions may be longer and are not read either.
	maxTraceparent = 255
)

// DecodeOptions says what an update is judged by.
type DecodeOptions struct {
	Now     time.Time // at may be graph.MaxFuture ahead of it
	Schemes []string  // of URIs, besides http, https, ticker and urn
}

// DecodeUpdates reads a batch of updates: one JSON object, an array of them, or
// one object a line. The strings of the result are copies; body may be reused.
//
// It refuses what it does not know and what it would have to guess at: unknown
// and repeated fields, null, numbers where tokens are strings, URIs that are not
// canonical, text that is not UTF-8. Its error names item and field. An empty
// array is an empty batch; a body without any value is refused.
func DecodeUpdates(body []byte, o DecodeOptions) ([]graph.Update, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, refuse(badJSON, "", "the body holds no update")
	}
	d := updateDecoder{scanner: scanner{b: body}, o: o, dep: -1}
	us, err := d.batch()
	if err != nil {
		return nil, d.blame(err)
	}
	return us, nil
}

// An updateField is a member of an update.
type updateField uint8

const (
	fieldNone updateField = iota
	fieldID
	fieldURI
	fieldType
	fieldAction
	fieldVersion
	fieldHash
	fieldAt
	fieldToken
	fieldDeps
	fieldBuckets
	fieldAspects
	fieldExpires
	fieldCause
	fieldTraceparent
)

var updateFields = [...]string{"", "id", "uri", "type", "action", "version", "hash", "at", "token",
	"deps", "buckets", "aspects", "expires", "cause", "traceparent"}

func updateFieldOf(name []byte) updateField {
	for f := fieldID; int(f) < len(updateFields); f++ {
		if string(name) == updateFields[f] {
			return f
		}
	}
	return fieldNone
}

// An updateDecoder knows where it is, so that an error can say so.
type updateDecoder struct {
	scanner
	o        DecodeOptions
	item     int
	field    updateField
	dep      int         // index of the dependency at hand, -1 outside the list
	deps     []graph.Dep // reused; each update gets a copy of the right size
	lastType string      // types are few: most updates share the string
}

// blame puts item and field to an error that knows neither.
func (d *updateDecoder) blame(err error) error {
	e := refusalOf(err)
	if e.kind == bodyTooLarge {
		return e
	}
	item := d.item
	e.item = &item
	if e.field == "" {
		e.field = updateFields[d.field]
		if d.dep >= 0 {
			e.field += "[" + strconv.Itoa(d.dep) + "]"
		}
	}
	return e
}

func (d *updateDecoder) batch() ([]graph.Update, error) {
	if d.peek() == '[' {
		return d.list()
	}
	return d.lines()
}

// list reads an array of updates.
func (d *updateDecoder) list() ([]graph.Update, error) {
	us := []graph.Update{}
	d.i++
	for {
		ok, err := d.more(d.item == 0, ']')
		if err != nil {
			return nil, err
		}
		if !ok {
			return us, d.end()
		}
		if us, err = d.appendUpdate(us); err != nil {
			return nil, err
		}
	}
}

// lines reads one object, or one a line.
func (d *updateDecoder) lines() (us []graph.Update, err error) {
	for {
		if us, err = d.appendUpdate(us); err != nil {
			return nil, err
		}
		rest := d.i
		if d.peek(); d.i == len(d.b) {
			return us, nil
		}
		if bytes.IndexByte(d.b[rest:d.i], '\n') < 0 {
			return nil, d.fail("want a line end between two updates, or an array of them")
		}
	}
}

func (d *updateDecoder) appendUpdate(us []graph.Update) ([]graph.Update, error) {
	if d.item == maxBatch {
		return nil, exceeds(bodyTooLarge, "", maxBatch, "updates in one batch")
	}
	us = append(us, graph.Update{})
	if err := d.update(&us[d.item]); err != nil {
		return nil, err
	}
	d.item++
	return us, nil
}

func (d *updateDecoder) update(u *graph.Update) error {
	if err := d.object(); err != nil {
		return err
	}
	var given uint32 // a bit for each field
	for first := true; ; first = false {
		d.field = fieldNone
		ok, err := d.more(first, '}')
		if err != nil {
			return err
		}
		if !ok {
			return d.check(u)
		}
		name, err := d.key()
		if err != nil {
			return err
		}
		if d.field = updateFieldOf(name); d.field == fieldNone {
			return refuse(unknownField, clip(name), "an update has no such field")
		}
		if given&(1<<d.field) != 0 {
			return refuse(badJSON, "", "the field stands twice")
		}
		given |= 1 << d.field
		if err := d.value(u); err != nil {
			return err
		}
	}
}

// value reads the value of the field at hand.
func (d *updateDecoder) value(u *graph.Update) (err error) {
	switch d.field {
	case fieldID:
		u.ID, err = d.token(graph.MaxToken)
	case fieldURI:
		u.URI, err = d.uri(d.o.Schemes)
	case fieldType:
		u.Type, err = d.typeName()
	case fieldAction:
		u.Action, err = d.action()
	case fieldVersion:
		u.Version, err = d.token(graph.MaxToken)
	case fieldHash:
		u.Hash, err = d.token(graph.MaxToken)
	case fieldAt:
		u.At, err = d.time()
		if err == nil && u.At.After(d.o.Now.Add(graph.MaxFuture)) {
			err = refuse(futureTime, "", "it is more than %s ahead of the hub's clock, which shows %s",
				graph.MaxFuture, d.o.Now.UTC().Format(time.RFC3339))
		}
	case fieldToken:
		u.Token, err = d.cursor()
	case fieldDeps:
		u.Deps, err = d.dependencies()
	case fieldBuckets:
		u.Buckets, err = d.texts(graph.MaxBuckets, graph.MaxURI, "buckets")
	case fieldAspects:
		if u.Aspects, err = d.texts(graph.MaxAspects, graph.MaxToken, "aspects"); len(u.Aspects) == 0 {
			u.Aspects = nil
		}
	case fieldExpires:
		u.Expires, err = d.time()
	case fieldCause:
		u.Cause, err = d.token(graph.MaxToken)
	case fieldTraceparent:
		// Producers that trace send it with every request; the hub keeps no traces.
		_, err = d.token(maxTraceparent)
	}
	return err
}

// check looks at what one field says about another.
func (d *updateDecoder) check(u *graph.Update) error {
	if u.URI == "" {
		return refuse(missingField, "uri", "every update names its resource")
	}
	if u.ID == "" && u.Version != "" && !isNumber(u.Version) {
		return refuse(missingField, "id",
			"a version that is not a number needs an id, or a redelivery could not be told from news")
	}
	d.field = fieldAspects
	for _, a := range u.Aspects {
		if a == "*" {
			continue
		}
		if err := graph.CheckURI(u.URI+"#"+a, d.o.Schemes...); err != nil {
			return err
		}
	}
	d.field = fieldNone
	return nil
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// token reads a text that is compared and never interpreted: 1 to most bytes
// without control characters.
func (d *updateDecoder) token(most int) (string, error) {
	t, err := d.text()
	if err != nil {
		return "", err
	}
	if err := checkToken(t, most); err != nil {
		return "", err
	}
	return string(t), nil
}

func checkToken(t []byte, most int) error {
	if len(t) == 0 {
		return refuse(badValue, "", "it is empty; leave the field out if there is nothing to say")
	}
	if len(t) > most {
		return exceeds(overLimit, "", int64(most), "bytes")
	}
	for _, c := range t {
		// 0xc2 begins U+0080 to U+00BF, of which the first half is controls.
		if c < ' ' || c == 0x7f || c == 0xc2 && bytes.ContainsFunc(t, unicode.IsControl) {
			return refuse(badValue, "", "it has a control character")
		}
	}
	return nil
}

func (d *updateDecoder) typeName() (string, error) {
	t, err := d.text()
	if err != nil || string(t) == d.lastType && len(t) > 0 {
		return d.lastType, err
	}
	if err := checkToken(t, graph.MaxToken); err != nil {
		return "", err
	}
	d.lastType = string(t)
	return d.lastType, nil
}

func (d *updateDecoder) action() (graph.Action, error) {
	t, err := d.text()
	if err != nil {
		return 0, err
	}
	switch string(t) {
	case "update":
		return graph.ActionUpdate, nil
	case "delete":
		return graph.ActionDelete, nil
	case "purge":
		return graph.ActionPurge, nil
	}
	return 0, refuse(badValue, "", "%q is not update, delete or purge", clip(t))
}

// time reads a time of RFC 3339 between 1970 and 9999.
func (d *updateDecoder) time() (time.Time, error) {
	text, err := d.text()
	if err != nil {
		return time.Time{}, err
	}
	var t time.Time
	if err := t.UnmarshalText(text); err != nil {
		return t, refuse(badValue, "", "%q is not a time of RFC 3339, such as 2026-11-22T02:12:49.976Z", clip(text))
	}
	t = t.UTC()
	if t.Before(time.Unix(0, 0)) || t.Year() > 9999 {
		return t, refuse(badValue, "", "%q does not lie between 1970 and 9999", clip(text))
	}
	return t, nil
}

func (d *updateDecoder) cursor() (graph.Cursor, error) {
	t, err := d.text()
	if err != nil {
		return graph.Cursor{}, err
	}
	return graph.ParseCursor(string(t))
}

func (d *updateDecoder) dependencies() ([]graph.Dep, error) {
	if err := d.array(); err != nil {
		return nil, err
	}
	d.deps = d.deps[:0]
	for {
		ok, err := d.more(len(d.deps) == 0, ']')
		if err != nil {
			return nil, err
		}
		if !ok {
			return append(make([]graph.Dep, 0, len(d.deps)), d.deps...), nil
		}
		if len(d.deps) == graph.MaxDeps {
			return nil, exceeds(overLimit, "", graph.MaxDeps, "dependencies of one update")
		}
		d.dep = len(d.deps)
		dep, err := d.dependency()
		if err != nil {
			return nil, err
		}
		d.deps = append(d.deps, dep)
		d.dep = -1
	}
}

// dependency reads a URI, or an object of a URI and what was seen.
func (d *updateDecoder) dependency() (dep graph.Dep, err error) {
	switch d.peek() {
	case '"':
		dep.URI, err = d.uri(d.o.Schemes)
		return dep, err
	case '{':
	default:
		return dep, d.wrongType("a URI or an object of uri and seen")
	}
	d.i++
	hasSeen := false
	for first := true; ; first = false {
		ok, err := d.more(first, '}')
		if err != nil {
			return dep, err
		}
		if !ok {
			break
		}
		name, err := d.key()
		if err != nil {
			return dep, err
		}
		switch string(name) {
		case "uri":
			if dep.URI != "" {
				return dep, refuse(badJSON, "", "uri stands twice")
			}
			dep.URI, err = d.uri(d.o.Schemes)
		case "seen":
			if hasSeen {
				return dep, refuse(badJSON, "", "seen stands twice")
			}
			hasSeen = true
			dep.Seen, err = d.token(graph.MaxToken)
		default:
			return dep, refuse(unknownField, "deps["+strconv.Itoa(d.dep)+"]."+clip(name), "a dependency has uri and seen")
		}
		if err != nil {
			return dep, err
		}
	}
	if dep.URI == "" {
		return dep, refuse(missingField, "deps["+strconv.Itoa(d.dep)+"].uri", "every dependency names its resource")
	}
	return dep, nil
}

// texts reads a list of at most count tokens. The result is never nil.
func (d *updateDecoder) texts(count, most int, unit string) ([]string, error) {
	if err := d.array(); err != nil {
		return nil, err
	}
	list := []string{}
	for {
		ok, err := d.more(len(list) == 0, ']')
		if err != nil || !ok {
			return list, err
		}
		if len(list) == count {
			return nil, exceeds(overLimit, "", int64(count), unit)
		}
		t, err := d.token(most)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
}

// maxEcho bounds what an answer repeats of a request's text, in bytes.
const maxEcho = 80

// clip returns the start of a text for an error.
func clip(t []byte) string {
	if len(t) <= maxEcho {
		return string(t)
	}
	cut := maxEcho
	for cut > 0 && !utf8.RuneStart(t[cut]) {
		cut--
	}
	return string(t[:cut]) + "…"
}

// AppendUpdate appends u as one line of JSON without a line end, in the form
// that [DecodeUpdates] reads back to an equal update.
func AppendUpdate(b []byte, u graph.Update) []byte {
	b = append(b, `{"uri":`...)
	b = appendText(b, u.URI)
	b = appendMember(b, "id", u.ID)
	b = appendMember(b, "type", u.Type)
	if u.Action != graph.ActionUpdate {
		b = appendMember(b, "action", u.Action.String())
	}
	b = appendMember(b, "version", u.Version)
	b = appendMember(b, "hash", u.Hash)
	b = appendTime(b, "at", u.At)
	if !u.Token.IsZero() {
		b = appendMember(b, "token", u.Token.String())
	}
	b = appendTime(b, "expires", u.Expires)
	b = appendMember(b, "cause", u.Cause)
	if u.Buckets != nil {
		b = appendTexts(b, "buckets", u.Buckets)
	}
	if len(u.Aspects) > 0 {
		b = appendTexts(b, "aspects", u.Aspects)
	}
	if u.Deps != nil {
		b = appendDeps(b, u.Deps)
	}
	return append(b, '}')
}

func appendMember(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":`...)
	return appendText(b, value)
}

func appendTime(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":"`...)
	return append(t.UTC().AppendFormat(b, time.RFC3339Nano), '"')
}

func appendTexts(b []byte, name string, list []string) []byte {
	b = append(append(append(b, `,"`...), name...), `":[`...)
	for i, t := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, t)
	}
	return append(b, ']')
}

func appendDeps(b []byte, deps []graph.Dep) []byte {
	b = append(b, `,"deps":[`...)
	for i, d := range deps {
		if i > 0 {
			b = append(b, ',')
		}
		if d.Seen == "" {
			b = appendText(b, d.URI)
			continue
		}
		b = append(b, `{"uri":`...)
		b = appendText(b, d.URI)
		b = append(appendMember(b, "seen", d.Seen), '}')
	}
	return append(b, ']')
}
