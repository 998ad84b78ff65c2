package hub

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/client"
)

// A simReader reads one filter or channel over many connections.
type simReader struct {
	n       int
	query   url.Values
	lines   bool // NDJSON, else server-sent events
	channel *simChannel
	lag     time.Duration // it takes so long for each event

	mu      sync.Mutex
	account account
	err     error
	conn    net.Conn // nil when it is away
	status  int
	ended   chan struct{}
}

// A simChannel is a channel, and what it let through from which position on.
type simChannel struct {
	name    string
	eras    []simEra
	deleted bool
}

// A simEra is what a channel is after a position. Where an answer is missing
// the change took effect anywhere up to until.
type simEra struct {
	from, until uint64
	listed      bool
	uris        []string
	filter      client.Filter
	deleted     bool
}

func (e *simEra) match(n *client.Notice) bool {
	f := e.filter
	if e.deleted {
		return false
	}
	if e.listed {
		f.URIs = e.uris
		if len(e.uris)+len(f.Prefixes)+len(f.Hosts) == 0 {
			return false
		}
	}
	return f.Match(n)
}

// filter draws what a reader or a channel asks for.
func (s *sim) filter() (f client.Filter) {
	switch s.rng.IntN(7) {
	case 0:
	case 1:
		for range 1 + s.rng.IntN(3) {
			f.URIs = append(f.URIs, s.things[s.rng.IntN(len(s.things))].uri)
		}
	case 2:
		f.Hosts = []string{"v0.example"}
	case 3:
		f.Prefixes = []string{"https://w.example"}
	case 4:
		f.Types = []string{"html"}
	case 5:
		f.Buckets = []string{"b1", "b2"}
	case 6:
		f.Kinds = []string{"refresh"}
	}
	if s.rng.IntN(4) == 0 {
		f.Lanes = []string{"prompt"}
	}
	return f
}

// newReader adds a reader, who begins now or with all there is.
func (s *sim) newReader() {
	r := &simReader{n: len(s.readers), query: url.Values{}, lines: s.rng.IntN(2) == 0}
	var open []*simChannel
	for _, c := range s.channels {
		if !c.deleted {
			open = append(open, c)
		}
	}
	if len(open) > 0 && s.rng.IntN(2) == 0 {
		r.channel = open[s.rng.IntN(len(open))]
		r.query.Set("channel", r.channel.name)
	} else {
		f := s.filter()
		r.account.filter = f
		for name, values := range map[string][]string{"uri": f.URIs, "prefix": f.Prefixes, "host": f.Hosts,
			"type": f.Types, "bucket": f.Buckets, "kind": f.Kinds, "lane": f.Lanes} {
			if len(values) > 0 {
				r.query[name] = values
			}
		}
	}
	if s.rng.IntN(3) == 0 && r.channel == nil {
		r.query.Set("since", "1970-01-01T00:00:00Z")
		r.account.began = true
	}
	switch s.rng.IntN(6) {
	case 0:
		r.query.Set("linger", "700ms")
	case 1:
		r.lag = time.Duration(1+s.rng.IntN(300)) * time.Millisecond
	}
	s.readers = append(s.readers, r)
	s.connect(r)
}

// connect has a reader come, or come again.
func (s *sim) connect(r *simReader) {
	breaks, after := s.rng.IntN(3) == 0, s.rng.IntN(6000)
	if r.here() || r.channel != nil && r.channel.deleted {
		return
	}
	conn, err := s.net.dial()
	if err != nil {
		return
	}
	r.conn, r.ended = conn, make(chan struct{})
	if !s.calm && breaks {
		conn = &cutConn{conn, after}
	}
	s.note("reader %d (%s, lines %t) comes with %q", r.n, r.query.Encode(), r.lines, r.account.last)
	go func() {
		defer close(r.ended)
		defer r.conn.Close()
		r.read(conn)
	}()
}

// here reports whether the reader is connected.
func (r *simReader) here() bool {
	if r.conn == nil {
		return false
	}
	select {
	case <-r.ended:
		r.conn = nil
		return false
	default:
		return true
	}
}

// cut ends the reader's connection.
func (r *simReader) cut() {
	if r.here() {
		r.conn.Close()
		<-r.ended
		r.conn = nil
	}
}

// read enters one connection into the account.
func (r *simReader) read(conn net.Conn) {
	req, _ := http.NewRequest("GET", "http://localhost/v1/stream?"+r.query.Encode(), nil)
	if r.lines {
		req.Header.Set("Accept", typeNDJSON)
	}
	r.mu.Lock()
	if r.account.last != "" {
		req.Header.Set("Last-Event-ID", r.account.last)
	}
	r.mu.Unlock()
	if req.Write(conn) != nil {
		return
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.status = resp.StatusCode
	r.mu.Unlock()
	if resp.StatusCode != 200 {
		return
	}
	next := newSSEReader(resp.Body).next
	if r.lines {
		lines := bufio.NewReader(resp.Body)
		next = func() (sseFrame, error) { return lineFrame(lines) }
	}
	for {
		f, err := next()
		if err == nil {
			pass(r.lag)
			r.mu.Lock()
			err = r.account.note(f)
			if err != nil {
				r.err = err
			}
			r.mu.Unlock()
		}
		if err != nil {
			if !broken(err) && !errors.Is(err, io.ErrClosedPipe) {
				r.mu.Lock()
				r.err = err
				r.mu.Unlock()
			}
			return
		}
	}
}

// lineFrame reads a line of a stream as the event that says the same.
func lineFrame(lines *bufio.Reader) (f sseFrame, err error) {
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return f, err // also of a line that breaks off
	}
	line = line[:len(line)-1]
	var said struct{ Kind, Token string }
	if err := json.Unmarshal(line, &said); err != nil {
		return f, fmt.Errorf("a line of a stream: %q: %w", line, err)
	}
	switch said.Kind {
	case "position":
		return sseFrame{id: said.Token, hasID: true}, nil
	case "retry":
		return sseFrame{}, nil
	}
	return sseFrame{id: said.Token, hasID: true, event: said.Kind, data: line}, nil
}

// checkReaders holds all accounts against the journal: what was told is right, and
// who is up to date was told all.
func (s *sim) checkReaders(last bool) {
	for _, r := range s.readers {
		r.mu.Lock()
		end := r.account.at
		if last && !(r.channel != nil && r.channel.deleted) {
			end = s.at.Seq
		}
		status, err := r.status, r.err
		if err == nil {
			err = r.account.check(s.journalFor(r), end)
		}
		r.mu.Unlock()
		if err == nil && r.here() && status != 200 && status != 0 && status != 503 {
			err = fmt.Errorf("it is answered %d", status)
		}
		if err != nil {
			s.failf("reader %d (%s, lines %t, channel %+v): %v", r.n, r.query.Encode(), r.lines, r.channel, err)
		}
	}
}

// journalFor is the journal as a reader must see it: of a channel what did not
// pass is there under a name that no filter has.
func (s *sim) journalFor(r *simReader) []noted {
	if r.channel == nil {
		return s.journal
	}
	r.account.filter = client.Filter{Kinds: []string{"changed", "refresh"}}
	heard := map[uint64]bool{}
	for _, e := range r.account.list {
		if e.data != "" {
			heard[e.seq] = true
		}
	}
	out := slices.Clone(s.journal)
	for i := range out {
		n := &out[i]
		passes, either := false, false
		for _, e := range r.channel.eras {
			if e.from < n.seq {
				passes = e.match(&n.Notice)
				either = n.seq <= e.until
			}
		}
		if either {
			passes = heard[n.seq]
		}
		if !passes {
			n.Kind = "nothing"
		}
	}
	return out
}

// changeChannel makes, changes or deletes a channel.
func (s *sim) changeChannel() {
	var open []*simChannel
	for _, c := range s.channels {
		if !c.deleted {
			open = append(open, c)
		}
	}
	if len(open) == 0 || s.rng.IntN(4) == 0 && len(open) < 3 {
		c := &simChannel{name: fmt.Sprint("c", len(s.channels))}
		s.channels = append(s.channels, c)
		s.replace(c)
		return
	}
	c := open[s.rng.IntN(len(open))]
	era := c.eras[len(c.eras)-1]
	switch p := s.rng.IntN(10); {
	case p == 0:
		s.change(c, simEra{deleted: true}, "DELETE", "")
		c.deleted = true
	case p < 4 || !era.listed:
		s.replace(c)
	default:
		uri := s.things[s.rng.IntN(len(s.things))].uri
		field := "add"
		i := slices.Index(era.uris, uri)
		if era.uris = slices.Clone(era.uris); i >= 0 {
			field, era.uris = "remove", slices.Delete(era.uris, i, i+1)
		} else {
			era.uris = append(era.uris, uri)
		}
		s.change(c, era, "PATCH", fmt.Sprintf(`{%q:{"uri":[%q]}}`, field, uri))
	}
}

func (s *sim) replace(c *simChannel) {
	f := s.filter()
	era := simEra{filter: f}
	def := map[string][]string{"prefix": f.Prefixes, "host": f.Hosts, "type": f.Types, "bucket": f.Buckets, "kind": f.Kinds, "lane": f.Lanes}
	maps.DeleteFunc(def, func(_ string, v []string) bool { return len(v) == 0 })
	if era.listed = len(f.URIs) > 0 || s.rng.IntN(3) == 0; era.listed {
		era.uris = slices.Compact(slices.Sorted(slices.Values(f.URIs)))
		def["uri"] = append([]string{}, era.uris...)
	}
	era.filter.URIs = nil
	body, _ := json.Marshal(def)
	s.change(c, era, "PUT", string(body))
}

// change makes a request that takes a channel into another era.
func (s *sim) change(c *simChannel, era simEra, method, body string) {
	s.note("channel %s: %s %s", c.name, method, body)
	path := "/v1/channels/" + c.name
	before := s.at.Seq
	if s.plan.breaks && !s.calm && s.rng.IntN(12) == 0 && len(c.eras) > 0 && method == "PATCH" {
		var failed *call
		s.breakDisk(func() { failed = s.ask(method, path, body) })
		if failed.status/100 == 2 {
			s.failf("on a broken disk a channel's change is answered %d %s", failed.status, failed.answer)
		}
		got := s.channelURIs(c)
		switch old := slices.Sorted(slices.Values(c.eras[len(c.eras)-1].uris)); {
		case slices.Equal(got, slices.Sorted(slices.Values(era.uris))):
			era.from, era.until = before, s.at.Seq
			c.eras = append(c.eras, era)
		case !slices.Equal(got, old):
			s.failf("channel %s lists %v, neither as before (%v) nor as after (%v)", c.name, got, old, era.uris)
		}
		return
	}
	var answer struct{ Cursor string }
	s.asked(method, path, body, &answer)
	at, err := graph.ParseCursor(answer.Cursor)
	if err != nil {
		s.failf("channel %s: %s: %v", c.name, answer.Cursor, err)
	}
	era.from = at.Seq
	c.eras = append(c.eras, era)
}

func (s *sim) channelURIs(c *simChannel) []string {
	var got struct{ URIs []string }
	s.asked("GET", "/v1/channels/"+c.name+"/uris", "", &got)
	slices.Sort(got.URIs)
	return got.URIs
}

// checkChannels holds what is shown of each channel against the model.
func (s *sim) checkChannels() {
	for _, c := range s.channels {
		a := s.ask("GET", "/v1/channels/"+c.name, "")
		if c.deleted != (a.status == 404) {
			s.failf("channel %s (deleted: %t) is answered %d %s", c.name, c.deleted, a.status, a.answer)
		}
		if era := &c.eras[len(c.eras)-1]; !c.deleted && era.listed {
			if got, want := s.channelURIs(c), slices.Sorted(slices.Values(era.uris)); !slices.Equal(got, want) {
				s.failf("channel %s lists %v, and the model says %v", c.name, got, want)
			}
		}
	}
}
