package subscriptions

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// mayBeShown is what a viewer of the tests may see, read from the rule alone.
func mayBeShown(v Viewer, uri string) bool {
	if v.Anonymous || v.All {
		return !v.Anonymous
	}
	for _, p := range v.Prefixes {
		if uri == p || strings.HasPrefix(uri, strings.TrimSuffix(p, "/")+"/") || strings.HasPrefix(uri, p+"#") {
			return true
		}
	}
	return false
}

// A question is what a reader of the tests asks for, and as whom.
type question struct {
	who     string
	channel string // "" is a filter
	filter  Filter
	lines   bool
}

func (q question) query() url.Values {
	if q.channel != "" {
		return url.Values{"channel": {q.channel}}
	}
	return q.filter.query()
}

// judge says how n is shown to who asks q, if the channel is public now.
func (q question) judge(n graph.Notice, h history, public bool) showing {
	v := someViewers[q.who]
	passes, open, about := matches(q.filter, n), false, q.filter
	if q.channel != "" {
		e := h.at(n)
		if passes, open = h.passes(n), e.public && public; e.what != nil {
			about = *e.what
		}
	}
	cause := n.Cause.URI
	asks := len(about.Prefix)+len(about.Host) > 0 || about.URI != nil
	within := matches(Filter{Prefix: about.Prefix, Host: about.Host}, graph.Notice{URI: cause}) && len(about.Prefix)+len(about.Host) > 0
	switch {
	case !passes || !open && !mayBeShown(v, n.URI):
		return hidden
	case cause == "", mayBeShown(v, cause), open && (cause == n.URI || !asks || within):
		return whole
	}
	return bare
}

// refused says that q is not served at all, if the channel is public now.
func (q question) refused(public bool) bool {
	v := someViewers[q.who]
	nothing := v.Anonymous || !v.All && len(v.Prefixes) == 0
	if q.channel != "" || nothing {
		return nothing && (q.channel == "" || !public)
	}
	for _, prefix := range q.filter.Prefix {
		above := slices.ContainsFunc(v.Prefixes, func(p string) bool {
			return mayBeShown(Viewer{Prefixes: []string{prefix}}, p)
		})
		if !v.All && !above && !mayBeShown(v, prefix) {
			return true
		}
	}
	return false
}

// answers are what a reader got.
type answers struct {
	shown   []shownNotice
	raw     []byte
	refused bool // it was turned away at least once
}

// shownNotice is a notice as it came.
type shownNotice struct {
	seq   uint64
	cause string
}

// ask reads what q asks for from a position to the end over many connections, most
// of which break.
func ask(t *testing.T, s *served, q question, from graph.Cursor, end func() string, random *rand.Rand) (got answers) {
	accept := map[bool]string{true: "application/x-ndjson", false: "text/event-stream"}[q.lines]
	for lastID := from.String(); lastID != end(); pause(t.Context(), time.Duration(random.IntN(int(20*time.Millisecond)))) {
		over := end() != "" // nothing becomes public afterwards
		resp := s.do(t, "GET", q.query().Encode(), "", "Last-Event-ID", lastID, "X-Viewer", q.who, "Accept", accept)
		if resp.StatusCode != 200 {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			got.raw, got.refused = append(got.raw, body...), true
			if !slices.Contains([]int{401, 403}, resp.StatusCode) {
				t.Errorf("%+v: got %s: %s", q, resp.Status, body)
			}
			if over {
				return got
			}
			continue
		}
		var body io.Reader = resp.Body
		if random.IntN(8) > 0 {
			body = io.LimitReader(body, int64(random.IntN(1<<(8+random.IntN(10)))))
		}
		read, _ := io.ReadAll(body) // it may break, or be cut
		resp.Body.Close()
		got.raw = append(got.raw, read...)
		lastID = got.take(t, read, q.lines, lastID)
	}
	return got
}

// take adds the notices of what was read and returns the position after them.
func (a *answers) take(t *testing.T, read []byte, lines bool, lastID string) string {
	add := func(data []byte) {
		var n noticeJSON
		if err := json.Unmarshal(data, &n); err != nil || n.Kind == "reset" {
			t.Errorf("got %s (%v)", data, err)
		}
		if n.Token != "" {
			lastID = n.Token
		}
		if n.Kind == "position" || n.Kind == "retry" {
			return
		}
		shown := shownNotice{seq: n.Seq}
		if n.Cause != nil {
			shown.cause = n.Cause.URI
		}
		a.shown = append(a.shown, shown)
	}
	if lines {
		whole := read[:bytes.LastIndexByte(read, '\n')+1]
		for line := range bytes.Lines(whole) {
			add(line)
		}
		return lastID
	}
	r := &reader{lines: bufio.NewScanner(bytes.NewReader(read)), lastID: lastID}
	r.lines.Buffer(nil, 1<<20)
	for e, ok := r.next(); ok; e, ok = r.next() {
		add(e.data)
	}
	return r.lastID
}

func TestWhatArrivesIsWhatTheReaderMaySee(t *testing.T) { transports(t, showsWhatMayBeSeen) }

func showsWhatMayBeSeen(t *testing.T, o StreamOptions) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	o.MaxAge, o.Channels, o.Viewer = 200*time.Millisecond, channels, viewerOf
	o.MaxPublicPerAddr = 100
	s := serveTCP(t, store, o)
	from := store.Token()
	public := map[string]bool{"open": true, "closed": false, "turning": random.IntN(2) == 0}
	names := slices.Sorted(maps.Keys(public))
	histories := map[string]history{}
	for _, name := range names {
		histories[name] = history{change(t, channels, name, nil, public[name], random)}
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for v := 1000; v < 1150; v++ {
			edit(t, store, v, v+1, random)
			if v%2 == 0 {
				pause(t.Context(), 3*time.Millisecond)
				continue
			}
			name := names[random.IntN(len(names))]
			now := histories[name][len(histories[name])-1]
			if name == "turning" && random.IntN(2) == 0 {
				public[name] = !public[name]
				info, _, err := channels.Put(t.Context(), name, Definition{Filter: *now.what, Public: public[name]})
				if err != nil {
					t.Error(err)
				}
				histories[name] = append(histories[name], era{info.At.Seq, now.what, public[name]})
			} else if e := change(t, channels, name, now.what, public[name], random); e.what != nil {
				histories[name] = append(histories[name], e)
			}
		}
	}()
	end := func() string {
		select {
		case <-written:
			return store.Token().String()
		default:
			return ""
		}
	}
	var questions []question
	for who := range someViewers {
		for _, channel := range append(names, "") {
			q := question{who: who, channel: channel, lines: rand.IntN(2) == 0}
			if channel == "" {
				q.filter = randomFilter(rand.New(rand.NewPCG(seed, uint64(100+len(questions)))))
			}
			questions = append(questions, q)
		}
	}
	live := askAll(t, s, seed, questions, from, end)
	w := witness{t, seed, readAll(t, store), histories, public}
	shown := map[showing]int{}
	for i, q := range questions {
		// While it turned, what was shown of a channel depended on the moment.
		w.check("live", q, live[i], q.channel != "turning", shown)
	}
	later := askAll(t, s, seed+1, questions, from, end)
	again := openChannels(t, store)
	o.Channels = again
	restarted := askAll(t, serveTCP(t, store, o), seed+2, questions, from, end)
	for i, q := range questions {
		w.check("later", q, later[i], true, shown)
		w.check("after a restart", q, restarted[i], true, shown)
	}
	if shown[bare] < 30 || shown[whole] < 100 || shown[hidden] < 100 {
		t.Errorf("seed %d: shown %v, which shows little", seed, shown)
	}
}

func askAll(t *testing.T, s *served, seed uint64, questions []question, from graph.Cursor, end func() string) []answers {
	got := make([]answers, len(questions))
	var wg sync.WaitGroup
	for i, q := range questions {
		wg.Go(func() { got[i] = ask(t, s, q, from, end, rand.New(rand.NewPCG(seed, uint64(2+i)))) })
	}
	wg.Wait()
	return got
}

// A witness knows all that was written.
type witness struct {
	t         *testing.T
	seed      uint64
	all       []graph.Notice
	histories map[string]history
	public    map[string]bool // at the end
}

// check holds what a reader got against the journal. If it is not settled, what a
// public channel shows need not have come.
func (w *witness) check(when string, q question, got answers, settled bool, shown map[showing]int) {
	h, i, mentioned := w.histories[q.channel], 0, map[string]bool{}
	if q.refused(w.public[q.channel]) != got.refused && settled {
		w.t.Errorf("seed %d, %s, %+v: refused %t", w.seed, when, q, got.refused)
	}
	for _, n := range w.all {
		least, most := q.judge(n, h, w.public[q.channel]), q.judge(n, h, w.public[q.channel])
		if !settled {
			least, most = q.judge(n, h, false), q.judge(n, h, true)
		}
		if q.refused(true) {
			least, most = hidden, hidden // also what it may see of a filter that asks for more
		}
		was := hidden
		if i < len(got.shown) && got.shown[i].seq == n.Cursor.Seq {
			if was = bare; got.shown[i].cause == n.Cause.URI {
				was = whole
			} else if got.shown[i].cause != "" {
				w.t.Errorf("seed %d, %s: position %d has the cause %s", w.seed, when, n.Cursor.Seq, got.shown[i].cause)
			}
			i++
		}
		if was < least || was > most {
			w.t.Errorf("seed %d, %s, %+v: %s of %s at %d is shown %d, want %d to %d", w.seed, when, q, n.URI, n.Cause.URI, n.Cursor.Seq, was, least, most)
			return
		}
		shown[was]++
		if most > hidden {
			for _, text := range append(n.Buckets, n.URI) {
				mentioned[text] = true
			}
		}
		if most == whole {
			mentioned[n.Cause.URI] = true
		}
	}
	if i < len(got.shown) {
		w.t.Errorf("seed %d, %s, %+v: what came is not in order, or twice, from %d on", w.seed, when, q, got.shown[i].seq)
	}
	for _, n := range w.all {
		for _, uri := range []string{n.URI, n.Cause.URI} {
			if uri != "" && !mentioned[uri] && bytes.Contains(got.raw, fmt.Appendf(nil, "%q", uri)) {
				w.t.Errorf("seed %d, %s, %+v: its bytes tell of %s", w.seed, when, q, uri)
			}
		}
	}
}
