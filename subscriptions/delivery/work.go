package delivery

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// maxOutletRest bounds how long a piece that is to be called later holds all of its
	// outlet: as long as one whose calls all fail is left alone.
	maxOutletRest = 10 * time.Minute
	// maxBody bounds what is kept of an answer, in bytes: it is shown to people alone.
	maxBody = 1 << 10
	// maxRest bounds what is read of it beyond that, in bytes, so that its connection
	// lives: one that has more is closed.
	maxRest = 16 << 10
)

// cut reads the journal for an outlet: the prompt lane, and the other one unless the
// outlet is serial and has something to do by then. It returns with the lock held.
func (e *Engine) cut(out *outlet) {
	e.mu.Lock()
	first := graph.Prompt
	if out.settings.Serial && out.turn >= bulkTurn {
		first = graph.Bulk
	}
	var failed error
	for _, lane := range [...]graph.Lane{first, 1 - first} {
		if failed = e.cutLane(out, lane); failed != nil {
			break
		}
	}
	e.cutters--
	out.cutting = false
	if failed != nil && !out.gone && e.running {
		// The journal could not be read: whoever has the store finds that out as well.
		e.log.Error("cutting failed", "outlet", out.name, "err", failed)
		out.until = e.o.Clock().Add(time.Duration(float64(time.Second) * e.o.ClockRate))
		e.times.set(out, out.until)
	} else {
		e.want(out)
	}
}

// cutLane reads one lane. The lock is held before and after, and not while it reads.
func (e *Engine) cutLane(out *outlet, name graph.Lane) error {
	l := &out.lanes[name]
	if out.gone || out.paused || !out.laneWantsCut(*l) {
		return nil
	}
	version, news, after := out.version, l.news, l.read
	calling, do, room := e.calling, out.do, out.room()
	e.mu.Unlock()
	c, err := do.Cut(calling, name, after, room)
	now := e.o.Clock()
	e.mu.Lock()
	if out.gone || out.version != version {
		return nil
	}
	var reset *graph.ResetError
	if errors.As(err, &reset) {
		e.reset(out, l, after)
		return nil
	}
	if err != nil {
		return err
	}
	e.add(out, l, &c, now)
	if !c.More {
		l.had = news
	}
	if l.read > after {
		e.progress(out)
	}
	return nil
}

// reset has a lane go on where it can be read.
func (e *Engine) reset(out *outlet, l *lane, after uint64) {
	at := uint64(0)
	if out.settings.Head == nil {
		// What was trimmed cannot be read any more. It is said, and the rest is sent.
		oldest := e.o.Oldest().Seq
		e.log.Warn("the journal has lost what an outlet has not had", "outlet", out.name, "after", after, "oldest", oldest)
		out.seen.Lost++
		at = max(oldest, min(after, e.o.Head().Seq))
	}
	if at != after {
		l.read = at
		if l.batches.len() == 0 {
			l.cursor = at
		}
		e.changed[out] = struct{}{}
	}
}

// errTooLarge reports a piece that could not be kept for another attempt.
var errTooLarge = errors.New("what is to be sent is too large to be kept")

// add has the pieces of a cut wait.
func (e *Engine) add(out *outlet, l *lane, c *Cut, now time.Time) {
	out.seen.Merged += uint64(c.Merged)
	out.seen.Skipped += uint64(c.Skipped)
	l.read = max(l.read, c.Until)
	b := &batch{until: l.read, cut: now, left: len(c.Pieces)}
	l.batches.push(b)
	for i := range c.Pieces {
		it := &item{piece: c.Pieces[i], first: now, batches: []*batch{b}}
		if !it.piece.keepable() {
			e.bury(out, it, &Answer{Err: errTooLarge}, nil, now)
			continue
		}
		e.addPiece(out, it)
	}
	if l.pass(); b.left == 0 && l.cursor == b.until {
		return // nothing that is worth a row; idle cursors are written by passIdle
	}
	e.changed[out] = struct{}{}
}

// addPiece has it wait, unless one of its key does already: then one call is for both.
func (e *Engine) addPiece(out *outlet, it *item) {
	old := out.keys[it.piece.subject()]
	if it.piece.Key == "" || old == nil {
		out.remember(it)
		out.lanes[it.piece.Lane].waiting.push(it)
		return
	}
	if old.calling {
		if old.next != nil {
			e.absorb(out, it, old.next)
		}
		old.next = it
		out.rememberBucket(it) // its key is still that of the one that is called
		return
	}
	e.stats.Merged++
	out.seen.Merged++
	wasHeld := out.dropHeld(old)
	if out.dropRetry(old) || wasHeld {
		e.absorb(out, it, old)
		out.remember(it)
		out.lanes[it.piece.Lane].waiting.push(it)
		return
	}
	// It keeps its place, with what is newest to say.
	out.forget(old)
	after, had := min(old.piece.After, it.piece.After), old.row != ""
	e.dropRow(out, old)
	old.piece, old.batches, old.attempt = it.piece, append(old.batches, it.batches...), 0
	old.piece.After = after
	out.remember(old)
	if had {
		e.writeRow(out, old, true)
	}
}

// absorb has it stand for old as well, from where that began: who is behind the outlet
// waits for both. If that had a row it has one.
func (e *Engine) absorb(out *outlet, it, old *item) {
	out.forget(old)
	it.batches = append(it.batches, old.batches...)
	it.piece.After = min(it.piece.After, old.piece.After)
	old.batches, old.dropped = nil, true
	if old.row != "" {
		e.dropRow(out, old)
		it.revived = it.revived || old.revived && it.row == ""
		e.writeRow(out, it, true)
	}
}

// next takes the item to be called next, and leaves those aside that have to wait for
// another one.
func (e *Engine) next(out *outlet) *item {
	for {
		l := out.laneToCall()
		if l == nil {
			return nil
		}
		it := l.waiting.pop()
		if it.dropped {
			continue
		}
		switch e.mayStart(out, it) {
		case starts:
			if out.turn++; it.piece.Lane == graph.Bulk {
				out.turn = 1
			}
			return it
		case bucketOpen:
			out.hold(it)
			e.changed[out] = struct{}{} // it is to get a row
		case unread:
			l.waiting.pushFront(it)
			l.stalled = true
		}
	}
}

// laneToCall chooses the lane of the next call, nil if none waits.
func (out *outlet) laneToCall() *lane {
	prompt, bulk := &out.lanes[graph.Prompt], &out.lanes[graph.Bulk]
	switch {
	case bulk.waits() && (!prompt.waits() || out.turn >= bulkTurn):
		return bulk
	case prompt.waits():
		return prompt
	}
	return nil
}

// call makes one call and settles what came of it. It returns with the lock held.
func (e *Engine) call(f *flight) {
	ctx, out, it := f.ctx, f.out, f.it
	var (
		a       Answer
		r       *http.Request
		verdict = Done
	)
	if !out.settings.DryRun {
		r, a = e.attempt(ctx, out, it)
		verdict = out.do.Judge(&it.piece, a)
	}
	e.mu.Lock()
	out.calls--
	e.giveBack(f)
	switch {
	case out.gone:
		e.left(out)
	case ctx.Err() != nil && a.Err != nil: // cut off; it is made again
		e.again(out, it, e.o.Clock(), false)
	default:
		e.settle(out, it, verdict, &a, r)
	}
	e.want(out)
}

// left has the outlet begin that was attached in the place of out, when the last call of
// out has ended.
func (e *Engine) left(out *outlet) {
	if out.calls > 0 || e.leaving[out.name] != out {
		return
	}
	delete(e.leaving, out.name)
	if next := e.outlets[out.name]; next != nil && next.before == out {
		next.before = nil
		e.want(next)
	}
}

// attempt makes the request of an item and calls.
func (e *Engine) attempt(ctx context.Context, out *outlet, it *item) (*http.Request, Answer) {
	r, err := out.do.Request(ctx, &it.piece, it.attempt+1)
	if err != nil {
		return nil, Answer{Err: err}
	}
	resp, err := out.settings.Caller.Do(r)
	if err != nil {
		return r, Answer{Err: err}
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode}
	if text := resp.Header.Get("Retry-After"); text != "" {
		a.RetryAfter = retryAfter(text, e.o.Clock())
	}
	if resp.ContentLength != 0 {
		// Whatever the body is, the status has come.
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		_, _ = io.CopyN(io.Discard, resp.Body, maxRest)
		a.Body = string(body)
	}
	return r, a
}

// retryAfter reads seconds or a date, 0 if it is neither.
// Source: RFC 9110, section 10.2.3.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(0, at.Sub(now)), maxRetryAfter)
	}
	return 0
}

// settle draws the conclusion from an answer.
func (e *Engine) settle(out *outlet, it *item, verdict Verdict, a *Answer, r *http.Request) {
	now := e.o.Clock()
	it.calling = false
	it.attempt++
	e.changed[out] = struct{}{}
	e.stats.Calls++
	switch verdict {
	case Done, Ignored, Refused:
		if out.broken() { // what an answer asked for stays
			out.until = time.Time{}
		}
		out.failures, out.doubts = 0, 0
	default:
		out.failures++
		if it.attempt == 1 || out.broken() {
			out.doubts++
		}
		out.seen.LastError, out.seen.FailedAt = errorText(a), now
		out.seen.Failed++
		e.stats.Failed++
	}
	switch verdict {
	case Done, Ignored:
		out.seen.LastSuccess = now
		if verdict == Done {
			out.seen.Sent++
			e.stats.Sent++
		} else {
			out.seen.Ignored++
		}
		out.settled(it)
		e.dropRow(out, it)
		e.acknowledged(out, it)
	case Refused:
		out.seen.LastError, out.seen.FailedAt = errorText(a), now
		e.bury(out, it, a, r, now)
	case Gone:
		e.end(out)
		return
	default:
		e.failed(out, it, a, r, now)
	}
	e.goOn(out, it)
	e.progress(out)
}

// goOn has the next one of a key wait for its call.
func (e *Engine) goOn(out *outlet, it *item) {
	next := it.next
	if next == nil {
		return
	}
	it.next = nil
	out.remember(next)
	out.lanes[next.piece.Lane].waiting.pushFront(next)
}

// failed has an item tried again, or gives it up.
func (e *Engine) failed(out *outlet, it *item, a *Answer, r *http.Request, now time.Time) {
	schedule := &out.settings.Schedule
	// What an answer asks for is for all calls: it is too much, or it is down. But one
	// URL that asks for a day does not stop a sink of many for a day.
	wait := a.RetryAfter
	if !out.settings.Serial {
		wait = min(wait, maxOutletRest)
	}
	if out.broken() {
		wait = max(wait, brokenSteps.wait(out.doubts-brokenAfter+1, e.o.Random()))
	}
	if until := now.Add(wait); wait > 0 && until.After(out.until) {
		out.until = until
	}
	switch {
	case it.next != nil: // which says the same and more
		e.absorb(out, it.next, it)
	case it.attempt < schedule.attempts():
		out.seen.Retried++
		e.stats.Retried++
		e.again(out, it, now.Add(max(schedule.wait(it.attempt, e.o.Random()), a.RetryAfter)), true)
	case out.settings.Serial:
		// What it would have said is said with what comes next.
		out.seen.GivenUp++
		e.stats.GivenUp++
		e.log.Warn("giving up for now", "outlet", out.name, "attempts", it.attempt)
		out.forget(it)
		out.stuck = nil
		out.lanes[it.piece.Lane].giveUp()
		// Who comes back is not to wait for news that may be long in coming.
		wait := max(schedule.longest(), leastRest)
		out.rests, out.until = true, now.Add(wait-time.Duration(float64(wait/2)*e.o.Random()))
	default:
		e.bury(out, it, a, r, now)
	}
}

// again has an item called at a time. What failed gets a row, if there is room for
// one: then the cursor passes it.
func (e *Engine) again(out *outlet, it *item, at time.Time, failed bool) {
	it.calling = false
	it.due = at
	out.addRetry(it)
	e.changed[out] = struct{}{}
	switch {
	case !failed:
	case out.settings.Serial:
		out.stuck = it
	default:
		e.writeRow(out, it, false)
	}
}

func (out *outlet) dropRetry(it *item) bool {
	for i, r := range out.retries {
		if r == it {
			out.retries = append(out.retries[:i], out.retries[i+1:]...)
			return true
		}
	}
	return false
}

// errorText says what went wrong, without anything that a caller may keep for itself.
func errorText(a *Answer) string {
	switch {
	case a.Err == nil:
		return "answered with status " + strconv.Itoa(a.Status)
	case errors.Is(a.Err, context.DeadlineExceeded):
		return "no answer in time"
	}
	return clip(a.Err.Error(), maxError)
}

// maxError bounds what is kept of an error, in bytes.
const maxError = 200

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
