package delivery

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxLetterBody bounds what is kept of a request's body, in bytes: enough to see
	// what was sent.
	maxLetterBody = 4 << 10
	// maxLetters bounds one page of dead letters.
	maxLetters = 1000
	hiddenText = "(hidden)"
)

// A Letter is a piece that was given up: what was sent, and why it was not taken.
type Letter struct {
	ID       string      `json:"id,omitempty"`
	Outlet   string      `json:"outlet"`
	Piece    Piece       `json:"piece"`
	Method   string      `json:"method,omitempty"`
	URL      string      `json:"url,omitempty"`
	Header   [][2]string `json:"header,omitempty"` // without secrets
	Body     string      `json:"body,omitempty"`   // its beginning
	Status   int         `json:"status,omitempty"`
	Answer   string      `json:"answer,omitempty"` // the beginning of its body
	Error    string      `json:"error,omitempty"`
	Attempts int         `json:"attempts"`
	First    time.Time   `json:"first"` // when it was cut from the journal
	At       time.Time   `json:"at"`    // when it was given up
}

// A letter is what others wait for.
type letter struct {
	after, until uint64
	key          string
}

func addLetter(m map[string]map[string]letter, bucket, id string, l letter) map[string]map[string]letter {
	if m == nil {
		m = map[string]map[string]letter{}
	}
	if m[bucket] == nil {
		m[bucket] = map[string]letter{}
	}
	m[bucket][id] = l
	return m
}

func addID(ids map[string]struct{}, id string) map[string]struct{} {
	if ids == nil {
		ids = map[string]struct{}{}
	}
	ids[id] = struct{}{}
	return ids
}

func has(ids map[string]struct{}, id string) bool {
	_, known := ids[id]
	return known
}

// unbury forgets that somebody waits for a letter.
func (out *outlet) unbury(bucket, id string) {
	delete(out.dead[bucket], id)
	if len(out.dead[bucket]) == 0 {
		delete(out.dead, bucket)
	}
}

// bury makes an item a dead letter. The lock is held.
func (e *Engine) bury(out *outlet, it *item, a *Answer, r *http.Request, now time.Time) {
	l := Letter{Outlet: out.name, Piece: it.piece, Status: a.Status, Answer: strings.ToValidUTF8(a.Body, "�"), Attempts: it.attempt,
		First: it.first, At: now}
	if a.Err != nil {
		l.Error = errorText(a)
	}
	if r != nil {
		l.describe(r)
	}
	id := it.piece.id()
	e.rows[keyDead+out.name+separator+id] = l.fit()
	e.rows[keyMadeGood+out.name+separator+id] = nil // of a time before it was cut again
	out.letters = addID(out.letters, id)
	out.seen.Dead++
	e.stats.Dead++
	out.settled(it)
	e.dropRow(out, it)
	if b := it.piece.Bucket; b != "" {
		out.dead = addLetter(out.dead, b, id, letter{it.piece.After, it.piece.Until, it.piece.Key})
	}
	e.log.Warn("dead letter", "outlet", out.name, "status", a.Status, "attempts", it.attempt)
}

// fit returns the letter as a record, without what does not fit. The piece goes last:
// without it the letter cannot be called again.
func (l *Letter) fit() []byte {
	for _, shorten := range []func(){
		func() {},
		func() { l.Body = "" },
		func() { l.Header = nil },
		func() { l.URL, l.Answer = clip(l.URL, maxShown), clip(l.Answer, maxShown) },
		func() { l.Piece.URI, l.Piece.Cause = clip(l.Piece.URI, maxShown), clip(l.Piece.Cause, maxShown) },
		func() {
			l.Piece.Key, l.Piece.Bucket, l.Piece.Data = clip(l.Piece.Key, maxShown), clip(l.Piece.Bucket, maxShown), nil
		},
	} {
		shorten()
		if b := encode(l); len(b) <= graph.MaxRecord {
			return b
		}
	}
	return encode(&Letter{Outlet: l.Outlet, Attempts: l.Attempts, First: l.First, At: l.At})
}

// maxShown bounds a text of a letter that does not fit, in bytes.
const maxShown = 512

// secret reports whether the values of a header are not shown. What names what a cache
// is to drop is what a letter of a purge is about.
func secret(header string) bool {
	header = strings.ToLower(header)
	if header == "surrogate-key" || strings.HasPrefix(header, "xkey") {
		return false
	}
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(header, word) })
}

// secretWords are parts of the names of headers whose values are not shown.
var secretWords = []string{"auth", "cookie", "key", "secret", "signature", "token", "password"}

// describe keeps what was sent.
func (l *Letter) describe(r *http.Request) {
	l.Method = r.Method
	u := *r.URL
	u.User = nil
	l.URL = u.String()
	for name, values := range r.Header {
		for _, v := range values {
			if secret(name) {
				v = hiddenText
			}
			l.Header = append(l.Header, [2]string{name, v})
		}
	}
	slices.SortFunc(l.Header, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	if r.GetBody == nil {
		return
	}
	body, err := r.GetBody()
	if err != nil {
		return
	}
	defer body.Close()
	var b bytes.Buffer
	if _, err := io.CopyN(&b, body, maxLetterBody); err == nil || errors.Is(err, io.EOF) {
		l.Body = strings.ToValidUTF8(b.String(), "�")
	}
}

func letterID(name, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(name + separator + id))
}

func parseLetterID(text string) (name, id string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	name, id, ok := strings.Cut(string(b), separator)
	if err != nil || !ok || base64.RawURLEncoding.EncodeToString(b) != text {
		return "", "", fmt.Errorf("%w: dead letter %.80q", ErrUnknown, text)
	}
	return name, id, nil
}

// DeadLetters lists up to limit dead letters (0 means 1,000) that match says yes to, nil
// means all, of one outlet or with "" of all: by outlet, in the order of the journal,
// after an id. Next is where to go on, "" if there are no more.
func (e *Engine) DeadLetters(ctx context.Context, name, after string, limit int, match func(*Letter) bool) (list []Letter, next string, err error) {
	if err := e.durable(ctx); err != nil { // what waits for room is listed when it has it
		return nil, "", err
	}
	if limit <= 0 || limit > maxLetters {
		limit = maxLetters
	}
	prefix, from := keyDead, ""
	if name != "" {
		prefix += name + separator
	}
	if after != "" {
		afterName, id, err := parseLetterID(after)
		if err != nil {
			return nil, "", err
		}
		from = keyDead + afterName + separator + id
	}
	enough := errors.New("enough")
	err = e.ledger.Records(prefix, func(key string, value []byte) error {
		if key <= from {
			return nil
		}
		l, err := readLetter(key, value)
		if err != nil || match != nil && !match(&l) {
			return err
		}
		if len(list) == limit {
			next = list[limit-1].ID
			return enough
		}
		list = append(list, l)
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return nil, "", err
	}
	return list, next, nil
}

func readLetter(key string, value []byte) (l Letter, err error) {
	err = json.Unmarshal(value, &l)
	_, id, _ := strings.Cut(strings.TrimPrefix(key, keyDead), separator)
	l.ID = letterID(l.Outlet, id)
	return l, err
}

// DeadLetter returns one dead letter, or [ErrUnknown].
func (e *Engine) DeadLetter(ctx context.Context, text string) (l Letter, err error) {
	name, id, err := parseLetterID(text)
	if err == nil {
		err = e.durable(ctx)
	}
	if err != nil {
		return l, err
	}
	key := keyDead + name + separator + id
	value, err := e.readRow(key)
	switch {
	case err != nil:
		return l, err
	case value == nil:
		return l, fmt.Errorf("%w: dead letter %.80q", ErrUnknown, text)
	}
	return readLetter(key, value)
}

// about is the same for letters of one outlet that say the same; of a piece without a
// key each says something else.
func (l *Letter) about() string {
	if l.Piece.Key == "" {
		return l.ID
	}
	return fmt.Sprint(l.Outlet, separator, l.Piece.Lane, separator, l.Piece.Key)
}

// outletsOf names the outlets of letters.
func outletsOf(letters []Letter) []string {
	names := map[string]struct{}{}
	for i := range letters {
		names[letters[i].Outlet] = struct{}{}
	}
	return slices.Collect(maps.Keys(names))
}

// together puts letters that say the same together, the newest first, else in their order.
func together(letters []Letter) (groups [][]*Letter) {
	at := map[string]int{}
	for i := range letters {
		l := &letters[i]
		n, known := at[l.about()]
		if !known {
			n = len(groups)
			at[l.about()], groups = n, append(groups, nil)
		}
		groups[n] = append(groups[n], l)
	}
	for _, group := range groups {
		slices.SortStableFunc(group, func(a, b *Letter) int { return cmp.Compare(b.Piece.Until, a.Piece.Until) })
	}
	return groups
}

// Replay has dead letters called again, with all attempts before them, at most rate a
// second (0 means at once); of those with one key the newest alone, or what waits and is
// newer. It returns how many letters that made good; those that are not there any more
// stay away, and those whose outlet is not attached, has no room for them, or is saying
// something of the same key stay what they are. It is durable when Replay returns.
func (e *Engine) Replay(ctx context.Context, letters []Letter, rate float64) (n int, err error) {
	due := e.o.Clock()
	for _, group := range together(letters) {
		lifted, err := e.replay(group, due)
		if err != nil {
			return n, err
		}
		if n += lifted; lifted > 0 && rate > 0 {
			due = due.Add(time.Duration(float64(time.Second) / rate))
		}
	}
	return n, e.durable(ctx, outletsOf(letters)...)
}

// replay has the newest letter that is still there called for all of a group.
func (e *Engine) replay(group []*Letter, due time.Time) (n int, err error) {
	after := group[0].Piece.After
	for _, l := range group {
		after = min(after, l.Piece.After)
	}
	for _, l := range group {
		out, id, err := e.dig(l)
		if errors.Is(err, ErrUnknown) {
			continue
		}
		if err != nil {
			return n, err
		}
		// Whoever is behind the outlet waits for the oldest of them from here on.
		if n == 0 && !e.carry(out, l, after, due) {
			e.mu.Unlock()
			return 0, nil
		}
		n++
		e.lift(out, l, id)
		e.want(out)
		e.freed(out, l.Piece.Bucket)
		e.advance()
		e.mu.Unlock()
	}
	return n, nil
}

// carry finds what is called for a letter and for all of its key after a position:
// something that waits and is newer, or the letter's own piece. It reports whether there
// is such a thing, and room for it. The lock is held.
func (e *Engine) carry(out *outlet, l *Letter, after uint64, due time.Time) bool {
	old := out.keys[l.Piece.subject()]
	if l.Piece.Key == "" {
		old = nil
	}
	switch {
	case (old == nil || old.row == "") && out.revived >= maxDead:
		return false
	case old == nil:
		it := &item{piece: l.Piece, due: due, first: l.First, revived: true}
		it.piece.After = min(it.piece.After, after)
		out.addRetry(it)
		e.writeRow(out, it, false)
	case old.calling || old.piece.Until < l.Piece.Until:
		return false
	default:
		// With a row, or a crash would forget since when others wait for it.
		old.piece.After = min(old.piece.After, after)
		old.revived = old.revived || old.row == ""
		e.writeRow(out, old, !slices.Contains(out.retries, old))
	}
	return true
}

// Drop deletes dead letters, and returns how many of them were there. Who waits for one
// goes on. It is durable when Drop returns.
func (e *Engine) Drop(ctx context.Context, letters []Letter) (n int, err error) {
	for i := range letters {
		l := &letters[i]
		out, id, err := e.dig(l)
		switch {
		case errors.Is(err, errResting):
			e.mu.Lock()
			e.rows[keyDead+l.Outlet+separator+id], e.rows[keyMadeGood+l.Outlet+separator+id] = nil, nil
			if r := e.resting[l.Outlet]; r != nil {
				delete(r.letters, id)
				delete(r.dead[l.Piece.Bucket], id)
			}
			e.mu.Unlock()
			n++
			continue
		case errors.Is(err, ErrUnknown):
			continue
		case err != nil:
			return n, err
		}
		e.lift(out, l, id)
		e.freed(out, l.Piece.Bucket)
		e.want(out)
		e.advance()
		e.mu.Unlock()
		n++
	}
	return n, e.durable(ctx, outletsOf(letters)...)
}

// errResting reports a dead letter whose outlet is not attached.
var errResting = fmt.Errorf("%w: its outlet is not attached", ErrUnknown)

// dig finds the outlet of a dead letter that is still there. Without an error the lock
// is held.
func (e *Engine) dig(l *Letter) (out *outlet, id string, err error) {
	name, id, err := parseLetterID(l.ID)
	if err != nil {
		return nil, "", err
	}
	e.mu.Lock()
	value, known := e.rows[keyDead+name+separator+id]
	if !known {
		e.mu.Unlock()
		if value, err = e.readRow(keyDead + name + separator + id); err != nil {
			return nil, "", err
		}
		e.mu.Lock()
	}
	if now, touched := e.rows[keyDead+name+separator+id]; touched {
		value = now
	}
	out = e.outlets[name]
	// What was read may be what somebody has just lifted.
	if out != nil && !has(out.letters, id) || out == nil && e.resting[name] != nil && !has(e.resting[name].letters, id) {
		value = nil
	}
	switch {
	case value == nil:
		err = fmt.Errorf("%w: dead letter %.80q", ErrUnknown, l.ID)
	case out == nil:
		err = errResting
	default:
		*l, err = readLetter(keyDead+name+separator+id, value)
	}
	if err != nil {
		e.mu.Unlock()
	}
	return out, id, err
}

// readRow reads one row, nil if there is none.
func (e *Engine) readRow(key string) (value []byte, err error) {
	err = e.ledger.Records(key, func(k string, v []byte) error {
		if k == key {
			value = bytes.Clone(v)
		}
		return nil
	})
	return value, err
}

// lift takes a dead letter from its outlet. The lock is held.
func (e *Engine) lift(out *outlet, l *Letter, id string) {
	e.rows[keyDead+out.name+separator+id], e.rows[keyMadeGood+out.name+separator+id] = nil, nil
	delete(out.letters, id)
	out.unbury(l.Piece.Bucket, id)
	e.changed[out] = struct{}{}
}
