package federation

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

const (
	theirFile = "https://honest.example/File"
	ourText   = "https://us.example/Text" // the honest peer depends on it
	ourPage   = "https://us.example/Page" // made from their file
	badFile   = "https://bad.example/File"
	badOther  = "https://bad.example/Other"
	ourCopy   = "https://us.example/Copy" // made from both of the hostile peer's
)

// A scene is a hub with two peers: an honest one, and one that is not.
type scene struct {
	t          *testing.T
	street     *street
	us, honest *house
	bad        *stranger
	authority  []string                  // of the hostile peer, by our configuration
	began      time.Time                 // that it is a peer
	ours       map[string]graph.Resource // what it is not to touch
	updates    int                       // of each honest hub
}

// maxInterests is what one peer may ask for in a scene.
const maxInterests = 1_000

// A hostility is what a peer does that means harm, or is broken.
type hostility struct {
	name   string
	before func(s *scene)                 // what it is set to answer, before it is a peer
	does   func(s *scene)                 // once it is
	shows  func(s *scene, c *Status) bool // what comes to be seen of it
}

func TestAHostilePeerHarmsNobody(t *testing.T) {
	rows := slicesOf(forgeries, numbers, answers, registrations, silences, claims, requests, tokens, listeners)
	if len(rows) < 120 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) { row.play(newScene(t)) })
		})
	}
}

func slicesOf(tables ...func() []hostility) (all []hostility) {
	for _, table := range tables {
		all = append(all, table()...)
	}
	return all
}

// newScene has a hub and its honest peer exchange.
func newScene(t *testing.T) *scene {
	t.Helper()
	street := newStreet(t)
	s := &scene{t: t, street: street, bad: street.stranger("bad.example"), authority: []string{"https://bad.example"}}
	s.us = street.house("us.example", "https://us.example", Options{Interests: maxInterests})
	s.honest = street.house("honest.example", "https://honest.example", Options{})
	s.honest.put(page(theirFile, "1"))
	s.us.put(page(ourText, "1"), made(ourPage, theirFile), made(ourCopy, badFile, badOther))
	s.honest.put(made("https://honest.example/Page", ourText))
	s.us.knows(s.honest)
	s.honest.knows(s.us)
	eventually(t, "the honest exchange", time.Minute, func() bool { return s.us.version(theirFile) == "1" && s.honest.version(ourText) == "1" })
	return s
}

// made is an update of what depends on others.
func made(uri string, from ...string) graph.Update {
	u := graph.Update{URI: uri, Version: "1", Hash: "made", At: time.Now()}
	for _, x := range from {
		u.Deps = append(u.Deps, graph.Dep{URI: x, Seen: "1"})
	}
	return u
}

// play lets the peer do what it does, and looks whether all others go on.
func (h *hostility) play(s *scene) {
	s.t.Helper()
	if h.before != nil {
		h.before(s)
	}
	s.ours = s.look()
	s.began = time.Now()
	if err := s.us.peers.Add(s.t.Context(), s.bad.peer(s.authority...)); err != nil {
		s.t.Fatal(err)
	}
	if h.does != nil {
		eventually(s.t, "the peer's key is known", time.Minute, func() bool { return s.status().Key != "" })
		h.does(s)
	}
	var last Status
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("after %s and %d calls: %+v", time.Since(s.began), s.bad.called("", s.began), last)
		}
	})
	eventually(s.t, "what it does is seen", 5*time.Minute, func() bool {
		last = s.status()
		return h.shows(s, &last)
	})
	if got := s.look(); !reflect.DeepEqual(got, s.ours) {
		s.t.Errorf("of what is not its own it leaves\n%+v, want\n%+v", got, s.ours)
	}
	s.goesOn()
	if n, most := s.bad.called("", s.began), 50+10*int(time.Since(s.began)/time.Second); n > most {
		s.t.Errorf("it is called %d times within %s", n, time.Since(s.began))
	}
}

func (s *scene) status() Status {
	s.t.Helper()
	st, err := s.us.peers.Status(s.bad.url())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// look returns what others than the hostile peer speak for.
func (s *scene) look() map[string]graph.Resource {
	s.t.Helper()
	seen := map[string]graph.Resource{}
	for _, uri := range []string{ourText, ourPage, theirFile} {
		r, err := s.us.store.Resource(uri)
		if err != nil {
			s.t.Fatal(err)
		}
		seen[uri] = r
	}
	return seen
}

// goesOn checks that updates cross between the honest hubs, at once and both ways.
func (s *scene) goesOn() {
	s.t.Helper()
	at := time.Now()
	s.updates++
	v := strconv.Itoa(1 + s.updates)
	s.honest.put(page(theirFile, v))
	s.us.put(page(ourText, v))
	eventually(s.t, "updates cross between honest hubs", 10*time.Second, func() bool {
		return s.us.version(theirFile) == v && s.us.state(ourPage) == graph.Ready && s.honest.version(ourText) == v
	})
	if d := time.Since(at); d > time.Second {
		s.t.Errorf("updates of honest hubs are %s on their way", d)
	}
}

// tells is a peer whose stream tells something.
func tells(name string, stream func(s *scene) []string, shows func(s *scene, c *Status) bool) hostility {
	return hostility{name: name, shows: shows, before: func(s *scene) { s.bad.say(EndpointStream, says(stream(s)...)) }}
}

// onlyItsOwn is seen when one state of the peer's own was taken, and what came with it
// is counted.
func onlyItsOwn(unwanted int, refused uint64) func(s *scene, c *Status) bool {
	return func(s *scene, c *Status) bool {
		return c.Heard.Changed == 1 && c.Heard.Unwanted == unwanted && c.Refused == refused && s.us.version(badFile) == "1" && c.Failures == 0
	}
}

// failed is seen when the exchange with the peer failed, and nothing of it was taken.
func failed(why string) func(s *scene, c *Status) bool {
	return func(s *scene, c *Status) bool {
		return c.Failures > 1 && strings.Contains(c.Fault, why) && c.Heard == graph.Heard{} && s.us.version(badFile) == ""
	}
}

// with is a good state, and others after it.
func (s *scene) with(others ...graph.Level) []string {
	return []string{s.bad.states(uint64(len(others)+1), append([]graph.Level{level(badFile, 1, "1")}, others...)...)}
}

// changed is a level with a change.
func changed(l graph.Level, change func(l *graph.Level)) graph.Level {
	change(&l)
	return l
}

// forgeries are states of what is not the peer's to say.
func forgeries() []hostility {
	return []hostility{
		tells("a state of what nobody speaks for", func(s *scene) []string { return s.with(level("https://nobody.example/File", 2, "9")) }, onlyItsOwn(1, 0)),
		tells("a state of our own", func(s *scene) []string { return s.with(level(ourText, 2, "9")) }, onlyItsOwn(1, 0)),
		tells("a state of what another peer speaks for", func(s *scene) []string { return s.with(level(theirFile, 2, "9")) }, onlyItsOwn(1, 0)),
		tells("that another peer's resource is gone", func(s *scene) []string {
			return s.with(graph.Level{URI: theirFile, Sver: 2, Cver: 2, Heard: true, Version: "0", ChangedAt: time.Now(), Now: time.Now()})
		}, onlyItsOwn(1, 0)),
		tells("states of its own that nobody asked for", func(s *scene) []string { return s.with(level("https://bad.example/New", 2, "9")) }, onlyItsOwn(1, 0)),
		tells("a URI that is none", func(s *scene) []string { return s.with(level("https://BAD.example/../x", 2, "9")) }, onlyItsOwn(0, 1)),
		tells("a URI of 100 KB", func(s *scene) []string {
			return s.with(level("https://bad.example/"+strings.Repeat("x", 100<<10), 2, "9"))
		}, onlyItsOwn(0, 1)),
		tells("a version of 100 KB", func(s *scene) []string { return s.with(level(badOther, 2, strings.Repeat("9", 100<<10))) }, onlyItsOwn(0, 1)),
		tells("a thousand aliases", func(s *scene) []string {
			return s.with(changed(level(badOther, 2, "9"), func(l *graph.Level) { l.Aliases = make([]string, 1000) }))
		}, onlyItsOwn(0, 1)),
		tells("a state that is nothing", func(s *scene) []string {
			return []string{strings.Replace(s.with()[0], `"states":[`, `"states":[null,{},`, 1)}
		}, onlyItsOwn(0, 2)),
		tells("events and members that later versions may have", func(s *scene) []string {
			return []string{event("news", "x", `{"a":1}`), ": words\n\n", strings.Replace(s.with()[0], `"states":[{`, `"x":{"y":[]},"states":[{"z":[1],`, 1)}
		}, onlyItsOwn(0, 0)),
		tells("a URI that stands twice", func(s *scene) []string {
			return []string{strings.Replace(s.with(level(badOther, 2, "2"))[0], `"uri":"`+badOther+`"`, `"uri":"`+badOther+`","uri":"`+theirFile+`"`, 1)}
		}, onlyItsOwn(1, 0)),
		tells("one event for ever again", func(s *scene) []string {
			text := s.with(level(badOther, 2, "2"))[0]
			return []string{strings.Repeat(text, 50)}
		}, func(s *scene, c *Status) bool { return c.Heard.Changed == 2 && c.Heard.Old == 98 && c.Failures == 0 }),
		tells("that all is unsettled, and nothing more", func(s *scene) []string {
			return s.with(changed(level(badOther, 2, "2"), func(l *graph.Level) { l.Unsettled = true }))
		}, func(s *scene, c *Status) bool { return c.Heard.Changed == 2 && s.us.version(badOther) == "2" }),
	}
}

// numbers are epochs, positions, counts and clocks that are wrong.
func numbers() []hostility {
	epoch := func(e graph.Epoch) func(s *scene) []string {
		return func(s *scene) []string {
			return []string{event(eventStates, graph.Cursor{Epoch: e, Seq: 1}.String(), statesText(level(badFile, 1, "1")))}
		}
	}
	position := func(id string) func(s *scene) []string {
		return func(s *scene) []string { return []string{event(eventStates, id, statesText(level(badFile, 1, "1")))} }
	}
	second := func(change func(l *graph.Level)) func(s *scene) []string {
		return func(s *scene) []string { return s.with(changed(level(badOther, 2, "2"), change)) }
	}
	clock := func(d time.Duration) func(s *scene) []string {
		return func(s *scene) []string {
			return []string{s.bad.states(1, changed(level(badFile, 1, "1"), func(l *graph.Level) { l.Now, l.ChangedAt = l.Now.Add(d), l.ChangedAt.Add(d) }))}
		}
	}
	ourTime := func(s *scene, c *Status) bool {
		if !onlyItsOwn(0, 0)(s, c) {
			return false
		}
		r, err := s.us.store.Resource(badFile)
		return err == nil && r.ChangedAt.Sub(s.began).Abs() < time.Minute
	}
	const year = 365 * 24 * time.Hour
	return []hostility{
		tells("a state of an epoch that is over", epoch(1), failed("position")),
		tells("a state of an epoch that is to come", epoch(math.MaxUint32), failed("position")),
		tells("an epoch that changes in the middle of a stream", func(s *scene) []string {
			return append(s.with(), epoch(0xbae)(s)...)
		}, func(s *scene, c *Status) bool {
			return c.Failures > 1 && c.Heard.Changed == 1 && c.Session.Position == 1 && c.Session.Owner == s.bad.epoch
		}),
		{name: "another epoch each time that it is asked", before: func(s *scene) {
			s.bad.say(endpointDocument, func(w http.ResponseWriter, _ *http.Request) {
				s.bad.epoch++
				w.Write(s.bad.document(nil))
			})
			s.bad.say(EndpointStream, writes(http.StatusGone, `{}`))
		}, shows: func(s *scene, c *Status) bool {
			return c.Sessions > 3 && c.Session.Generation > 3 && c.Session.Mirrors == 2
		}},
		tells("a clock that is ten years ahead", clock(10*year), ourTime),
		tells("a clock that is ten years behind", clock(-10*year), ourTime),
		tells("a clock in the year 9999", clock(time.Until(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))), ourTime),
		tells("a change that is to come", second(func(l *graph.Level) { l.ChangedAt = l.Now.Add(year) }), onlyItsOwn(0, 1)),
		tells("a change before 1970", second(func(l *graph.Level) { l.ChangedAt = time.Unix(-1, 0) }), onlyItsOwn(0, 1)),
		tells("no clock", func(s *scene) []string { return []string{strings.Replace(s.with()[0], `"now"`, `"then"`, 1)} }, failed("now is missing")),
		tells("a state without number", second(func(l *graph.Level) { l.Sver = 0 }), onlyItsOwn(0, 1)),
		tells("a state with a number above 2^62", second(func(l *graph.Level) { l.Sver = 1<<62 + 1 }), onlyItsOwn(0, 1)),
		tells("a state with the number 2^64-1", second(func(l *graph.Level) { l.Sver = math.MaxUint64 }), onlyItsOwn(0, 1)),
		tells("a change with the number 2^64-1", second(func(l *graph.Level) { l.Cver = math.MaxUint64 }), onlyItsOwn(0, 1)),
		tells("a state with the number 2^64", func(s *scene) []string {
			return []string{strings.Replace(s.with()[0], `"sver":1,`, `"sver":18446744073709551616,`, 1)}
		}, failed("states")),
		tells("a state with the number -1", func(s *scene) []string {
			return []string{strings.Replace(s.with()[0], `"sver":1,`, `"sver":-1,`, 1)}
		}, failed("states")),
		tells("a position above 2^62", position("00000bad.4611686018427387905"), failed("position")),
		tells("the position 2^64-1", position("00000bad.18446744073709551615"), failed("position")),
		tells("a position that is none", position("00000bad.-1"), failed("position")),
		tells("a position that goes backwards", func(s *scene) []string {
			return []string{s.bad.states(7, level(badFile, 1, "1")), s.bad.states(2, level(badOther, 2, "2"))}
		}, func(s *scene, c *Status) bool { return c.Heard.Changed == 2 && c.Session.Position == 7 }),
	}
}

// answers are bodies that are too long, of another kind, or are not what they ought to be.
func answers() []hostility {
	ten := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for range 10 {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
				return
			}
		}
	}
	html := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<!DOCTYPE html><title>Welcome to nginx</title>")
	}
	gzipped := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	}
	instead := func(endpoint string, h http.HandlerFunc) func(s *scene) {
		return func(s *scene) { s.bad.say(endpoint, h) }
	}
	elsewhere := func(endpoint string) func(s *scene) {
		return func(s *scene) {
			s.street.stranger("other.example")
			s.bad.say(endpoint, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://other.example"+r.URL.Path, http.StatusTemporaryRedirect)
			})
		}
	}
	document := func(change func(d *Document)) func(s *scene) {
		return func(s *scene) { s.bad.say(endpointDocument, writes(http.StatusOK, string(s.bad.document(change)))) }
	}
	untold := func(s *scene, c *Status) bool { return c.Failures > 1 && c.Session.Taken == 0 }
	return []hostility{
		{name: "a document of 10 MiB", before: instead(endpointDocument, ten), shows: failed("more than 65536 bytes")},
		{name: "a document that is a page", before: instead(endpointDocument, html), shows: failed("it is not JSON")},
		{name: "a document that is compressed", before: instead(endpointDocument, gzipped), shows: failed("it is not UTF-8")},
		{name: "a document of another hub", before: document(func(d *Document) {
			d.Hub = "http://other.example"
			for name, url := range d.Endpoints {
				d.Endpoints[name] = strings.Replace(url, "bad", "other", 1)
			}
		}), shows: failed(`it is that of "http://other.example"`)},
		{name: "endpoints of another host", before: document(func(d *Document) { d.Endpoints["stream"] = "http://honest.example/federation/v1/stream" }), shows: failed("does not lie under")},
		{name: "another key than was compared", before: document(func(d *Document) {
			d.Keys = []JWK{NewKey(testKey(1).Public().(ed25519.PublicKey)).JWK()}
		}), shows: failed("the peer's key is SHA256:")},
		{name: "a document elsewhere", before: elsewhere(endpointDocument), shows: failed("the peer answers 307")},
		{name: "a stream elsewhere", before: elsewhere(EndpointStream), shows: failed("the peer answers 307")},
		{name: "interests that are taken elsewhere", before: elsewhere(EndpointInterests), shows: untold},
		{name: "a stream that is a page", before: instead(EndpointStream, html), shows: failed(`"text/html" instead of text/event-stream`)},
		{name: "interests that are answered by a page", before: instead(EndpointInterests, html), shows: untold},
		{name: "interests that are answered by 10 MiB", before: instead(EndpointInterests, ten), shows: untold},
		{name: "nothing but faults", before: func(s *scene) {
			for _, endpoint := range []string{EndpointInterests, EndpointStream, EndpointAck} {
				s.bad.say(endpoint, writes(http.StatusInternalServerError, `{"detail":"\u001b[2J out of order"}`))
			}
		}, does: func(s *scene) {
			time.Sleep(20 * time.Minute)
			if n := s.bad.called("", s.began); n < 20 || n > 240 {
				s.t.Errorf("a peer with nothing but faults is called %d times in 20 minutes", n)
			}
		}, shows: func(s *scene, c *Status) bool {
			return c.Failures > 20 && strings.Contains(c.Fault, " out of order") && !strings.Contains(c.Fault, "\x1b")
		}},
		{name: "a document that is a fault", before: instead(endpointDocument, writes(http.StatusInternalServerError, "")), does: nil,
			shows: func(s *scene, c *Status) bool {
				return time.Since(s.began) > 4*time.Minute && c.Failures > 5 && s.bad.called("", s.began) < 40
			}},
		{name: "a wish to be left alone for a year", before: instead(EndpointStream, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "31536000")
			w.WriteHeader(http.StatusServiceUnavailable)
		}), does: func(s *scene) { time.Sleep(2*time.Hour + time.Minute) },
			shows: func(s *scene, c *Status) bool {
				return c.Failures > 0 && s.bad.called(EndpointStream, s.began) > 1 && s.bad.called(EndpointStream, s.began) < 4
			}},
		tells("an event of 100,000 states", func(s *scene) []string {
			return []string{event(eventStates, "00000bad.1", `{"now":"2026-01-01T00:00:00Z","states":[{}`+strings.Repeat(",{}", 99_999)+`]}`)}
		}, failed("more than 2500 in one event")),
		tells("an event that is longer than 1 MiB", func(s *scene) []string {
			return []string{"data: " + strings.Repeat(strings.Repeat("x", 1000)+"\ndata: ", 1100) + "\n\n"}
		}, failed("longer than 1048576 bytes")),
		tells("a line without end", func(s *scene) []string { return []string{"data: " + strings.Repeat("x", 2<<20)} }, failed("longer than 1048576 bytes")),
		tells("states that are no JSON", func(s *scene) []string { return []string{event(eventStates, "00000bad.1", `{"now"`)} }, failed("states: ")),
		tells("states that are not UTF-8", func(s *scene) []string {
			return []string{strings.Replace(s.with()[0], `"version":"1"`, "\"version\":\"\xff\"", 1)}
		}, failed("states: ")),
		tells("states that nest deep", func(s *scene) []string {
			return []string{event(eventStates, "00000bad.1", `{"x":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+"}")}
		}, failed("states: ")),
	}
}

// registrations are answers to what we want to hear.
func registrations() []hostility {
	always := func(status int, text string) func(s *scene) {
		return func(s *scene) { s.bad.say(EndpointInterests, writes(status, text)) }
	}
	// few checks that we did not ask more often than a few times a minute.
	few := func(s *scene) {
		at := time.Now()
		time.Sleep(5 * time.Minute)
		if n := s.bad.called(EndpointInterests, at); n > 50 {
			s.t.Errorf("it is told what is wanted %d times within five minutes", n)
		}
	}
	waits := func(s *scene, c *Status) bool {
		return c.Session.Taken == 0 && (c.Session.Pending == 2 || !c.Session.Covered) && c.Failures > 1
	}
	return []hostility{
		{name: "that nothing was applied, for ever", before: always(http.StatusOK, `{"applied":0}`), does: few, shows: waits},
		{name: "that more was applied than was sent", before: always(http.StatusOK, `{"applied":18446744073709551615}`), does: few, shows: waits},
		{name: "an answer in which a name stands twice", before: always(http.StatusOK, `{"applied":2,"applied":1}`), does: few, shows: waits},
		{name: "an answer that is not UTF-8", before: always(http.StatusOK, "{\"applied\":2,\"x\":\"\xff\"}"), does: few, shows: waits},
		{name: "an answer that nests deep", before: always(http.StatusOK, `{"applied":2,"x":`+strings.Repeat("[", 9)+strings.Repeat("]", 9)+`}`), does: few, shows: waits},
		{name: "that more was rejected than was sent", before: always(http.StatusOK, `{"applied":2,"rejected":9000000000000000000,"first":"`+strings.Repeat("ä", 1000)+`"}`),
			does: few, shows: func(s *scene, c *Status) bool {
				return c.Session.Taken == 2 && c.Rejected == 2 && len(c.First) <= 300 && strings.Trim(c.First, "ä") == ""
			}},
		{name: "that less than nothing was rejected", before: always(http.StatusOK, `{"applied":2,"rejected":-5}`), does: few,
			shows: func(s *scene, c *Status) bool { return c.Session.Taken == 2 && c.Rejected == 0 }},
		{name: "a gap of an absurd generation", before: always(http.StatusConflict, `{"epoch":"00000001","generation":18446744073709551615,"applied":0}`), does: few, shows: waits},
		{name: "a gap in all there is", before: always(http.StatusConflict, `{"epoch":"00000001","generation":4611686018427387904,"applied":18446744073709551615}`), does: few, shows: waits},
		{name: "a gap of each generation", before: func(s *scene) {
			s.bad.say(EndpointInterests, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				reg, err := decodeRegistration(b)
				if err != nil {
					s.t.Error(err)
				}
				w.WriteHeader(http.StatusConflict)
				fmt.Fprintf(w, `{"epoch":%q,"generation":%d,"applied":0}`, reg.Epoch, reg.Generation+7)
			})
		}, does: few, shows: waits},
		{name: "a conflict that says nothing", before: always(http.StatusConflict, `no`), does: few, shows: waits},
		{name: "that it takes one op at a time, and bodies of 4 KiB", before: func(s *scene) {
			s.bad.say(endpointDocument, writes(http.StatusOK, string(s.bad.document(func(d *Document) { d.Limits = Limits{minBody, 1, 0} }))))
		}, shows: func(s *scene, c *Status) bool { return c.Session.Taken == 2 && c.Taken == 2 }},
	}
}

// silences are answers that do not come, or not to an end.
func silences() []hostility {
	drips := func(media, text string, each time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			open(w)
			w.Header().Set("Content-Type", media)
			for tick := time.NewTicker(each); ; {
				if _, err := io.WriteString(w, text); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
				select {
				case <-r.Context().Done():
					return
				case <-tick.C:
				}
			}
		}
	}
	closes := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			open(w)
			io.WriteString(w, text)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	instead := func(endpoint string, h http.HandlerFunc) func(s *scene) {
		return func(s *scene) { s.bad.say(endpoint, h) }
	}
	silent := func(s *scene, c *Status) bool { return c.Silent && c.Failures > 1 }
	return []hostility{
		{name: "a document that does not come", before: instead(endpointDocument, hangs), shows: silent},
		{name: "a document that comes slowly", before: instead(endpointDocument, drips("application/json", " ", time.Second)), shows: silent},
		{name: "interests that are not answered", before: instead(EndpointInterests, hangs),
			shows: func(s *scene, c *Status) bool {
				return c.Failures > 1 && c.Session.Pending == 2 && c.Phase == Following
			}},
		{name: "interests that are answered slowly", before: instead(EndpointInterests, drips("application/json", " ", time.Second)),
			shows: func(s *scene, c *Status) bool {
				return c.Failures > 1 && c.Session.Pending == 2 && c.Phase == Following
			}},
		{name: "acknowledgements that are not answered", before: func(s *scene) {
			s.bad.say(EndpointAck, hangs)
			s.bad.say(EndpointStream, says(s.with()...))
		}, shows: onlyItsOwn(0, 0)},
		{name: "a stream that does not begin", before: instead(EndpointStream, hangs), shows: silent},
		{name: "a stream that says nothing", before: instead(EndpointStream, func(w http.ResponseWriter, r *http.Request) {
			open(w)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}), shows: func(s *scene, c *Status) bool { return c.Failures > 1 }},
		{name: "a stream of comments", before: instead(EndpointStream, drips("text/event-stream", ": x\n\n", 10*time.Second)), shows: func(s *scene, c *Status) bool { return c.Silent }},
		{name: "a line of which a byte comes now and then", before: instead(EndpointStream, drips("text/event-stream", "x", 10*time.Second)), shows: func(s *scene, c *Status) bool { return c.Silent }},
		{name: "a connection that ends before each answer", before: func(s *scene) {
			s.bad.say(endpointDocument, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		}, shows: silent},
		{name: "streams that end at once", before: instead(EndpointStream, closes("retry: 1\n\nevent: heartbeat\ndata: {}\n\n")),
			shows: func(s *scene, c *Status) bool { return time.Since(s.began) > time.Minute && c.Failures > 30 }},
		{name: "sessions that end at once", before: func(s *scene) { s.bad.say(EndpointStream, closes(event(eventStates, "x", "{}"))) },
			shows: func(s *scene, c *Status) bool {
				return time.Since(s.began) > 4*time.Minute && c.Failures > 5 && s.bad.called("", s.began) < 60
			}},
		{name: "that it cannot go on from any position", before: instead(EndpointStream, says("event: reset\ndata: {}\n\n")),
			shows: func(s *scene, c *Status) bool {
				return time.Since(s.began) > 4*time.Minute && c.Sessions > 5 && s.bad.called("", s.began) < 60
			}},
	}
}

// claims are of a peer for which the configuration names no prefixes.
func claims() []hostility {
	claiming := func(prefixes ...string) func(s *scene) {
		return func(s *scene) {
			s.authority = nil
			s.bad.say(endpointDocument, writes(http.StatusOK, string(s.bad.document(func(d *Document) { d.Authority = prefixes }))))
			s.bad.say(EndpointStream, says(s.with(level(theirFile, 2, "9"), level(ourText, 3, "9"))...))
		}
	}
	// host has a host of content say something.
	host := func(name string, h http.HandlerFunc) func(s *scene) {
		return func(s *scene) { s.street.stranger(name).say(endpointDocument, h) }
	}
	all := func(fs ...func(s *scene)) func(s *scene) {
		return func(s *scene) {
			for _, f := range fs {
				f(s)
			}
		}
	}
	nothing := func(s *scene, c *Status) bool {
		return c.Phase == Following && len(c.InForce) == 0 && c.Heard.Unwanted == 3 && c.Heard.Changed == 0
	}
	return []hostility{
		{name: "a claim to what is ours", before: claiming("https://us.example", "http://us.example", "https://us.example/Text"), shows: nothing},
		{name: "a claim to what another peer speaks for", before: claiming("https://honest.example", "https://honest.example/File"), shows: nothing},
		{name: "a claim that the host does not confirm", before: all(claiming("http://wiki.example/"), host("wiki.example", writes(http.StatusOK, `{"hub":"http://honest.example","authority":["http://wiki.example/"]}`))), shows: nothing},
		{name: "a claim that the host confirms for somebody else", before: all(claiming("http://wiki.example/"), host("wiki.example", writes(http.StatusOK, `{"hub":"http://bad.example.evil.example","authority":["http://wiki.example/"]}`))), shows: nothing},
		{name: "a claim that the host confirms for another path", before: all(claiming("http://wiki.example/wiki"), host("wiki.example", writes(http.StatusOK, `{"hub":"http://bad.example","authority":["http://wiki.example/w"]}`))), shows: nothing},
		{name: "a host that vouches for what is not its own", before: all(claiming("http://us.example", "https://us.example", "http://wiki.example/wiki"),
			host("wiki.example", writes(http.StatusOK, `{"hub":"http://bad.example","authority":["http://wiki.example/","https://us.example","http://us.example"]}`))),
			shows: func(s *scene, c *Status) bool { return fmt.Sprint(c.InForce) == "[http://wiki.example/wiki]" }},
		{name: "a host that sends to another", before: all(claiming("http://wiki.example/"), host("wiki.example", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://bad.example"+DocumentPath, http.StatusFound)
		})), shows: nothing},
		{name: "a host whose answer does not end", before: all(claiming("http://wiki.example/"), host("wiki.example", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		})), shows: nothing},
		{name: "a host that does not answer", before: all(claiming("http://wiki.example/"), host("wiki.example", hangs)), shows: nothing},
		{name: "a claim to 1,000 prefixes on 1,000 hosts", before: func(s *scene) {
			claiming(wikis(maxAuthority)...)(s)
			before := len(s.street.dialed)
			s.t.Cleanup(func() {
				if n := len(s.street.dialed) - before; n > maxHosts+1 || n < maxHosts { // and the peer itself
					s.t.Errorf("%d hosts are asked", n)
				}
			})
		}, shows: nothing},
		{name: "a claim to 100 hosts that do not answer", before: func(s *scene) {
			for _, prefix := range wikis(maxHosts) {
				s.street.door(hostOf(prefix)) // at which nobody opens
			}
			claiming(wikis(maxHosts)...)(s)
		}, shows: func(s *scene, c *Status) bool { return nothing(s, c) && !c.Silent }},
	}
}

// wikis are prefixes of so many hosts.
func wikis(n int) (prefixes []string) {
	for i := range n {
		prefixes = append(prefixes, fmt.Sprintf("http://w%d.example/", i))
	}
	return prefixes
}

// send is a request of the peer, and the status that answers it.
type send struct {
	status         int
	endpoint, body string
	header         []string
}

// sends is a peer that makes requests, each answered by a status.
func sends(name string, shows func(s *scene, c *Status) bool, requests ...send) hostility {
	return hostility{name: name, shows: shows, does: func(s *scene) {
		for _, r := range requests {
			if status, answer := s.bad.post(s.us.url(), r.endpoint, r.body, r.header...); status != r.status || len(answer) > 2000 {
				s.t.Errorf("%.100s is answered by %d %.200s, want %d", r.body, status, answer, r.status)
			}
		}
	}}
}

// register is a request to hear of resources of a generation, after so many.
func register(generation, base uint64, uris ...string) string {
	r := graph.Registration{Epoch: 0xbad, Generation: generation, Base: base}
	for i, uri := range uris {
		r.Ops = append(r.Ops, graph.InterestOp{N: base + uint64(i) + 1, Add: true, URI: uri})
	}
	b, _ := encodeRegistration(&r, math.MaxInt)
	return string(b)
}

// many are URIs under what we speak for.
func many(n int) (uris []string) {
	for i := range n {
		uris = append(uris, fmt.Sprintf("https://us.example/m%d", i))
	}
	return uris
}

// requests are what a peer may send us.
func requests() []hostility {
	faulty := func(n uint64) func(s *scene, c *Status) bool {
		return func(s *scene, c *Status) bool { return c.Faulty == n && c.Client.Interests == 0 }
	}
	good := send{200, EndpointInterests, register(1, 0, ourText, ourPage), nil}
	bad := func(body string) send { return send{400, EndpointInterests, body, nil} }
	taken := func(interests int64, applied uint64, denied uint64) func(s *scene, c *Status) bool {
		return func(s *scene, c *Status) bool {
			return c.Client.Interests == interests && c.Client.Applied == applied && c.Denied == denied
		}
	}
	return []hostility{
		sends("a wish for what we do not speak for", taken(1, 4, 3),
			send{200, EndpointInterests, register(1, 0, theirFile, ourText, "https://nobody.example/", badFile), nil}),
		sends("a wish for more than it may have", taken(maxInterests, maxInterests+500, 500),
			send{200, EndpointInterests, register(1, 0, many(maxInterests+500)...), nil}),
		sends("a URI of 100 KB", taken(1, 2, 1), send{200, EndpointInterests, register(1, 0, "https://us.example/"+strings.Repeat("x", 100<<10), ourText), nil}),
		sends("ops that were applied, again and again", taken(2, 2, 0), good, good, good, send{200, EndpointInterests, register(1, 1, ourPage), nil}),
		sends("ops with some missing before", taken(2, 2, 0), good, send{409, EndpointInterests, register(1, 3, theirFile), nil}),
		sends("ops of a generation that is over", taken(1, 1, 0), good, send{200, EndpointInterests, register(5, 0, ourText), nil},
			send{409, EndpointInterests, register(1, 2, ourPage), nil}, send{409, EndpointInterests, register(4, 0, ourPage), nil}),
		sends("ops of absurd generations", taken(2, 2, 0), good, bad(register(math.MaxUint64, 0, ourText)), bad(register(1, math.MaxUint64-1, ourText))),
		sends("ops whose numbers are wrong", faulty(3), bad(`{"epoch":"00000bad","generation":1,"base":0,"ops":[{"n":2,"op":"add","uri":"https://us.example/Text"}]}`),
			bad(`{"epoch":"00000bad","generation":1,"base":0,"ops":[{"n":1,"op":"add","uri":"https://us.example/Text"},{"n":1,"op":"add","uri":"https://us.example/Page"}]}`),
			bad(`{"epoch":"00000bad","generation":1,"base":0,"ops":[{"n":-1,"op":"add","uri":"https://us.example/Text"}]}`)),
		sends("5,001 ops", faulty(1), bad(register(1, 0, many(graph.MaxOps+1)...))),
		sends("what is no registration", faulty(8), bad(`{}`), bad(`[]`), bad(``), bad(`{"epoch":"bad","generation":1,"base":0,"ops":[]}`),
			bad(`{"epoch":"00000bad","generation":1,"generation":2,"base":0,"ops":[]}`), bad("{\"epoch\":\"00000bad\",\"generation\":1,\"base\":0,\"ops\":[],\"x\":\"\xff\"}"),
			bad(`{"epoch":"00000bad","generation":1,"base":0,"ops":[],"x":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`}`),
			bad(`{"epoch":"00000bad","generation":1,"base":0,"ops":[{"n":1,"op":"steal","uri":"https://us.example/Text"}]}`)),
		sends("a body of more than 1 MiB", faulty(2), send{413, EndpointInterests, strings.Repeat(" ", MaxBody+1), nil}, send{413, EndpointAck, strings.Repeat(" ", 8<<10), nil}),
		sends("a body that is compressed", faulty(1), send{400, EndpointInterests, "\x1f\x8b", []string{"Content-Encoding", "gzip"}}),
		{name: "a body without end", does: func(s *scene) {
			at := time.Now()
			status, answer := s.bad.do(s.bad.request(http.MethodPost, s.us.url(), EndpointInterests, endless{}))
			slow, _ := s.bad.do(s.bad.request(http.MethodPost, s.us.url(), EndpointInterests, &slowly{each: time.Second}))
			if d := time.Since(at); status != 413 && status != 0 || slow == 200 || d > 2*time.Minute {
				s.t.Errorf("after %s bodies without end are answered by %d %s and %d", d, status, answer, slow)
			}
			time.Sleep(2 * time.Second) // for who sends to notice
		}, shows: func(s *scene, c *Status) bool { return c.Faulty >= 1 && c.Client.Interests == 0 }},
		sends("acknowledgements of what was not told", func(s *scene, c *Status) bool { return c.Client.Acked == 0 && c.Client.Waiting == 2 && c.Faulty == 3 }, good,
			send{200, EndpointAck, `{"position":"00000bad.1"}`, nil}, send{200, EndpointAck, `{"position":"ffffffff.18446744073709551615"}`, nil},
			send{400, EndpointAck, `{"position":"1"}`, nil}, send{400, EndpointAck, `{"position":1}`, nil}, send{400, EndpointAck, `{}`, nil}),
		{name: "fifty requests a second while it is not there for us", before: func(s *scene) {
			s.bad.say(EndpointStream, writes(http.StatusForbidden, ""))
		}, does: func(s *scene) {
			at := time.Now()
			for range 300 {
				s.bad.post(s.us.url(), EndpointAck, `{"position":"00000bad.1"}`)
				time.Sleep(20 * time.Millisecond)
			}
			if n := s.bad.called("", at); n > 35 {
				s.t.Errorf("who calls us 300 times in six seconds is called %d times", n)
			}
		}, shows: func(s *scene, c *Status) bool { return c.Failures > 3 }},
	}
}

// endless are bytes without end, slowly some that come slowly.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

type slowly struct{ each time.Duration }

func (s *slowly) Read(p []byte) (int, error) {
	time.Sleep(s.each)
	p[0] = ' '
	return 1, nil
}

// tokens are requests of who does not prove to be the peer.
func tokens() []hostility {
	us := "http://us.example"
	// forged is a token of the peer with changes, signed by itself or by another.
	forged := func(s *scene, private ed25519.PrivateKey, header, body members) string {
		key := s.bad.id.Key()
		now := time.Now().Unix()
		h := members{"typ": "at+jwt", "alg": "EdDSA", "kid": key.ID}.with(header)
		c := members{"iss": s.bad.url(), "sub": s.bad.url(), "peer": s.bad.url(), "aud": us, "iat": now, "exp": now + 300, "jti": "x"}.with(body)
		return "Bearer " + sign(private, h, c)
	}
	type forgery struct {
		name   string
		counts string                // with whom, if with anybody
		token  func(s *scene) string // "" sends none
	}
	var rows []hostility
	for _, f := range []forgery{
		{"no token", "", func(s *scene) string { return "" }},
		{"a token that is none", "", func(s *scene) string { return "Bearer x" }},
		{"another scheme", "", func(s *scene) string { return "Basic " + s.bad.token(us) }},
		{"a token for another hub", "http://bad.example", func(s *scene) string { return "Bearer " + s.bad.token("http://honest.example") }},
		{"a token that has expired", "http://bad.example", func(s *scene) string {
			return forged(s, s.bad.id.private, nil, members{"iat": time.Now().Unix() - 1000, "exp": time.Now().Unix() - 700})
		}},
		{"a token of the future", "http://bad.example", func(s *scene) string {
			return forged(s, s.bad.id.private, nil, members{"iat": time.Now().Unix() + 700, "exp": time.Now().Unix() + 1000})
		}},
		{"a token that is good for ten years", "http://bad.example", func(s *scene) string {
			return forged(s, s.bad.id.private, nil, members{"exp": time.Now().AddDate(10, 0, 0).Unix()})
		}},
		{"a token signed with another key", "http://bad.example", func(s *scene) string { return forged(s, testKey(3), nil, nil) }},
		{"a token of the honest peer, signed by the other", "http://honest.example", func(s *scene) string {
			honest := s.honest.url()
			return forged(s, s.bad.id.private, members{"kid": s.honest.id.Key().ID}, members{"iss": honest, "sub": honest, "peer": honest})
		}},
		{"a token of us, signed by the peer", "", func(s *scene) string {
			return forged(s, s.bad.id.private, nil, members{"iss": us, "sub": us, "peer": us})
		}},
		{"a token of a stranger", "", func(s *scene) string {
			x := "http://stranger.example"
			return forged(s, s.bad.id.private, nil, members{"iss": x, "sub": x, "peer": x})
		}},
		{"the public key as a secret", "", func(s *scene) string {
			parts := strings.Split(forged(s, testKey(3), members{"alg": "HS256"}, nil), ".")
			m := hmac.New(sha256.New, s.bad.id.Key().Public)
			io.WriteString(m, strings.TrimPrefix(parts[0], "Bearer ")+"."+parts[1])
			return parts[0] + "." + parts[1] + "." + part(m.Sum(nil))
		}},
		{"a token of no algorithm", "", func(s *scene) string { return forged(s, testKey(3), members{"alg": "none"}, nil) }},
	} {
		rows = append(rows, hostility{name: f.name, does: func(s *scene) {
			for _, endpoint := range []string{EndpointInterests, EndpointAck, EndpointStream} {
				r := s.bad.request(http.MethodPost, us, endpoint, strings.NewReader(register(1, 0, ourText)))
				r.Header.Del("Authorization")
				if text := f.token(s); text != "" {
					r.Header.Set("Authorization", text)
				}
				if status, answer := s.bad.do(r); status != http.StatusUnauthorized || strings.Contains(answer, "applied") {
					s.t.Errorf("%s at %s is answered by %d %s", f.name, endpoint, status, answer)
				}
			}
		}, shows: func(s *scene, c *Status) bool {
			honest, err := s.us.peers.Status(s.honest.url())
			want := map[string]uint64{f.counts: 3}
			return err == nil && c.Client.Interests == 0 && c.Streams == 0 && honest.Client.Interests == 1 && honest.Streams == 1 &&
				c.Faulty == want[c.URL] && honest.Faulty == want[honest.URL]
		}})
	}
	return rows
}

// listeners are peers that follow what we tell.
func listeners() []hostility {
	// wants has the peer want so much that it does not fit into a connection.
	wants := func(s *scene) {
		uris := many(500)
		var us []graph.Update
		for _, uri := range uris {
			us = append(us, page(uri, "1"))
		}
		s.us.put(us...)
		if status, answer := s.bad.post(s.us.url(), EndpointInterests, register(1, 0, uris...)); status != 200 {
			s.t.Fatal(answer)
		}
	}
	reset := func(header ...string) func(s *scene) {
		return func(s *scene) {
			a := s.bad.listen(s.us.url(), header...)
			text, err := io.ReadAll(a.Body)
			if err != nil || a.StatusCode != 200 || !strings.Contains(string(text), "event: reset\n") || strings.Contains(string(text), "event: states") {
				s.t.Errorf("%v is answered by %d %s %v", header, a.StatusCode, text, err)
			}
		}
	}
	ended := func(s *scene, c *Status) bool { return c.Streams == 0 }
	return []hostility{
		{name: "a stream that is not read", does: func(s *scene) {
			wants(s)
			s.bad.listen(s.us.url())
			eventually(s.t, "the stream is open", time.Minute, func() bool { return s.status().Streams == 1 })
			s.goesOn()
			s.ours = s.look()
			time.Sleep(2 * writeDeadline)
		}, shows: ended},
		{name: "twelve streams that are not read", does: func(s *scene) {
			wants(s)
			for range 12 {
				s.bad.listen(s.us.url())
			}
			eventually(s.t, "the newest of the streams goes on alone", 5*time.Second, func() bool { return s.status().Streams == 1 })
		}, shows: ended},
		{name: "a stream from the position 2^64-1", does: reset("Last-Event-ID", "00000001.18446744073709551615"), shows: ended},
		{name: "a stream of another epoch", does: reset("Last-Event-ID", "00000bad.1"), shows: ended},
		{name: "a stream from a position that is none", does: func(s *scene) {
			for _, header := range []string{"x", "00000bad.01", strings.Repeat("0", 5000)} {
				if a := s.bad.listen(s.us.url(), "Last-Event-ID", header); a.StatusCode != 400 {
					s.t.Errorf("%.20s is answered by %d", header, a.StatusCode)
				}
			}
		}, shows: func(s *scene, c *Status) bool { return c.Faulty == 3 && c.Streams == 0 }},
		{name: "a stream without having asked for anything", does: func(s *scene) { s.bad.listen(s.us.url()) },
			shows: func(s *scene, c *Status) bool { return c.Told == 0 && c.Streams == 0 }},
	}
}
