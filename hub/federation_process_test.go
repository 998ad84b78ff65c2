package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/internal/faulty"
)

// allianceRate is how fast the own time of hubs goes that are peers: a minute of
// silence is a second, and a heartbeat comes four times in it.
const allianceRate = 60

// An ally is a hub in a process of its own that has peers. They know it by a proxy,
// which makes the network bad.
type ally struct {
	*hubProcess
	proxy *faulty.Proxy
	site  string // what it speaks for
	data  string
	sent  []letter // all that its wiki told it, in order

	flags  int // times that it was waited for what it hears
	rate   float64
	clock  atomic.Pointer[Clock] // as far as it can be read from outside
	probes int
}

// A letter is a request of a wiki to its hub. It may be sent again.
type letter struct {
	method, path string
	body         []byte
}

// An alliance is hubs that are peers of each other, as many as there are.
type alliance struct {
	t      *testing.T
	allies []*ally
}

// newAlliance starts hubs, each with its own part of the world to speak for, and has
// an operator make each a peer of each other.
func newAlliance(t *testing.T, hubs int, rate float64, seed uint64, settings ...string) *alliance {
	t.Helper()
	l := &alliance{t: t}
	for i := range hubs {
		a := &ally{proxy: faulty.New(t, "", seed+uint64(i)), site: fmt.Sprintf("https://wiki%d.example", i), data: t.TempDir(), rate: rate}
		address := lastingAddress()
		a.proxy.Target("http://" + address)
		a.hubProcess = startProcess(t, 0, append([]string{"LISTEN=" + address, "DATA=" + a.data, "PUBLIC_URL=" + a.proxy.URL(),
			"FEDERATION_AUTHORITY=" + a.site, fmt.Sprint("CLOCK_RATE=", rate), "MIN_FREE=0"}, settings...)...)
		l.allies = append(l.allies, a)
		a.readClock()
	}
	for _, a := range l.allies {
		l.befriend(a)
	}
	return l
}

// befriend has the operator of a make all others its peers.
func (l *alliance) befriend(a *ally) {
	l.t.Helper()
	for _, b := range l.allies {
		if a == b {
			continue
		}
		var known struct{ Hub identityShape }
		if err := b.call("GET", "/v1/peers", nil, &known); err != nil {
			l.t.Fatal(err)
		}
		body := fmt.Sprintf(`{"url":%q,"fingerprint":%q,"authority":[%q]}`, b.proxy.URL(), known.Hub.Fingerprint, b.site)
		if err := a.call("POST", "/v1/peers", []byte(body), nil); err != nil {
			l.t.Fatal(err)
		}
	}
}

// tell lets a test within the test use the alliance.
func (l *alliance) tell(t *testing.T) {
	l.t = t
	for _, a := range l.allies {
		a.t = t
	}
}

// part makes the network between two hubs bad, in both directions, and nil mends it.
func (l *alliance) part(i, k int, f *faulty.Fault) {
	a, b := l.allies[i], l.allies[k]
	a.proxy.SetFor(b.proxy.URL(), f)
	b.proxy.SetFor(a.proxy.URL(), f)
}

// call asks the hub itself, and not by its proxy.
func (a *ally) call(method, path string, body []byte, into any) error {
	req, err := http.NewRequest(method, a.url()+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", typeJSON)
	if path == up {
		req.Header.Set("Content-Type", typeNDJSON)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = &refused{resp.StatusCode, "", fmt.Sprintf("%s %s: %s", method, path, got)}
	}
	if err == nil && into != nil {
		err = json.Unmarshal(got, into)
	}
	return err
}

func (a *ally) must(method, path string, body []byte, into any) {
	a.t.Helper()
	if err := a.call(method, path, body, into); err != nil {
		a.t.Fatal(err)
	}
}

// now is the hub's time.
func (a *ally) now() time.Time { return a.clock.Load().Now().UTC() }

// readClock finds out what the hub's clock shows: what comes without a time has that
// of its arrival. Of some requests the fastest says it best.
func (a *ally) readClock() {
	a.t.Helper()
	for best, i := time.Hour, 0; i < 5; i++ {
		a.probes++
		uri := fmt.Sprint("https://clock.example/", a.probes)
		body := AppendUpdate(nil, graph.Update{ID: fmt.Sprint(a.probes), URI: uri})
		sent := time.Now()
		a.must("POST", up, body, nil)
		if took := time.Since(sent); took < best {
			best = took
			a.clock.Store(&Clock{start: a.resource(uri).At, began: sent.Add(took / 2), rate: a.rate, now: time.Now})
		}
	}
}

// come starts the hub that was killed, with a clock that has not gone back. Until it can
// be read it stands still.
func (a *ally) come() {
	a.t.Helper()
	now := a.now()
	a.clock.Store(&Clock{start: now, began: time.Now(), now: time.Now})
	a.env = append(a.env, envPrefix+"CLOCK_START="+now.Format(time.RFC3339Nano))
	a.start()
	a.readClock()
}

// backUp has the hub make a backup, and returns how many letters it had by then.
func (a *ally) backUp(name string) int {
	a.t.Helper()
	a.must("POST", "/v1/backups", []byte(`{"name":"`+name+`"}`), nil)
	return len(a.sent)
}

// restore kills the hub and puts what a backup holds in the place of its store; "" is
// nothing. Its keys it has still.
func (a *ally) restore(backup string) {
	a.t.Helper()
	a.kill()
	if err := os.RemoveAll(filepath.Join(a.data, "store")); err != nil {
		a.t.Fatal(err)
	}
	if backup != "" {
		cfg, err := LoadConfig("", a.env, nil)
		if err == nil {
			_, err = Restore(a.t.Context(), cfg, slog.New(slog.DiscardHandler), filepath.Join(a.data, "backups", backup), false, nil)
		}
		if err != nil {
			a.t.Fatal(err)
		}
	}
	a.come()
}

// replay sends letters again, as producers do whose hub was restored.
func (a *ally) replay(letters []letter) {
	a.t.Helper()
	for len(letters) > 0 {
		m, n := together(letters)
		a.must(m.method, m.path, m.body, nil)
		letters = letters[n:]
	}
}

// together makes one letter of the first of a list, as many as can be one.
func together(letters []letter) (m letter, n int) {
	const most = 100
	m = letters[0]
	for n = 1; m.path == up && n < min(len(letters), most) && letters[n].path == up; n++ {
		m.body = append(m.body[:len(m.body):len(m.body)], letters[n].body...)
	}
	return m, n
}

func (a *ally) uri(name string) string { return a.site + "/" + name }

// post sends updates, all in one letter. What is made of others was begun just now, by
// who held a token.
func (a *ally) post(us ...graph.Update) {
	a.t.Helper()
	var (
		body  []byte
		token graph.Cursor
	)
	for i, u := range us {
		u.ID, u.At = fmt.Sprint(len(a.sent), "-", i), a.now()
		if u.Deps != nil {
			if token.IsZero() {
				token = a.token()
			}
			u.Token = token
		}
		body = append(AppendUpdate(body, u), '\n')
	}
	m := letter{"POST", up, body}
	a.must(m.method, m.path, m.body, nil)
	a.sent = append(a.sent, m)
}

// edit gives a primary a version, which is its hash too.
func (a *ally) edit(name, version string) {
	a.t.Helper()
	a.post(graph.Update{URI: a.uri(name), Version: version, Hash: version})
}

// make tells the hub that a page was made, from what was seen of its dependencies.
func (a *ally) make(name, hash string, deps ...graph.Dep) {
	a.t.Helper()
	a.post(graph.Update{URI: a.uri(name), Type: "html", Hash: hash, Deps: deps})
}

// token is what a worker gets that begins now.
func (a *ally) token() graph.Cursor {
	a.t.Helper()
	var t struct{ Token string }
	a.must("GET", "/v1/token", nil, &t)
	c, err := graph.ParseCursor(t.Token)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func (a *ally) resource(uri string) (r resourceShape) {
	a.t.Helper()
	if err := a.call("GET", "/v1/resource?uri="+url.QueryEscape(uri), nil, &r); err != nil {
		if no := (*refused)(nil); !errors.As(err, &no) || no.status != http.StatusNotFound {
			a.t.Fatal(err)
		}
	}
	return r
}

// page is how it is with a page of this hub's wiki.
func (a *ally) page(name string) resourceShape { return a.resource(a.uri(name)) }

// hears waits until the hub has a mirror with a hash, durably: who begins to make
// something then holds a token of later.
func (a *ally) hears(uri, hash string) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("%s has %s with the hash %q", a.site, uri, hash), func() bool {
		r := a.resource(uri)
		if r.Peer == "" || r.Hash != hash {
			return false
		}
		changed, err := graph.ParseCursor(r.Changed)
		return err == nil && changed.Seq <= a.token().Seq
	})
}

// becomes waits until a page has a state.
func (a *ally) becomes(name, state string) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("%s is %s", a.uri(name), state), func() bool { return a.page(name).State == state })
}

// refreshes are the notices that told somebody to make something, by what it is.
func (a *ally) refreshes() map[string][]noted {
	a.t.Helper()
	told := map[string][]noted{}
	for _, n := range a.journal(a.t.Context()) {
		if n.Kind == client.KindRefresh {
			told[n.URI] = append(told[n.URI], n)
		}
	}
	return told
}

// wantRefreshes waits until a page was to be made again so often, all in all, and fails
// if it was more often.
func (a *ally) wantRefreshes(name string, want int) {
	a.t.Helper()
	var got []noted
	eventually(a.t, fmt.Sprintf("%s is to be made again %d times", a.uri(name), want), func() bool {
		got = a.refreshes()[a.uri(name)]
		return len(got) >= want
	})
	if len(got) != want {
		a.t.Errorf("%s was to be made again %d times, want %d: %+v", a.uri(name), len(got), want, got)
	}
}

// peer is how it is with another hub, seen from this one.
func (a *ally) peer(b *ally) (p peerShape) {
	a.t.Helper()
	a.must("GET", "/v1/peer?url="+url.QueryEscape(b.proxy.URL()), nil, &p)
	return p
}

// seen is a dependency and what was seen of it.
func seen(uri, version string) graph.Dep { return graph.Dep{URI: uri, Seen: version} }

// barrier waits until a has heard all that b told it before: of what is told next it
// hears last. From the second time on that is one level.
func (a *ally) barrier(b *ally) {
	a.t.Helper()
	a.flags++
	flag, version := "flag-of-"+path.Base(a.site), strconv.Itoa(100+a.flags)
	b.edit(flag, version)
	if reader := "reader-of-" + path.Base(b.site); a.page(reader).State == "" {
		a.make(reader, version, seen(b.uri(flag), version))
	}
	a.hears(b.uri(flag), version)
}

// What passes between three hubs, told one after the other.
var crossings = []struct {
	name string
	play func(t *testing.T, l *alliance)
}{
	{"what changed twice while nothing could be heard reaches who was made from what was between", changedTwiceUnheard},
	{"a chain over three hubs is made again link by link, and ends where nothing changes", chainOverThreeHubs},
	{"a diamond over three hubs is made again once", diamondOverThreeHubs},
	{"a page that was deleted turns links red, and one that comes turns them blue", foreignDelete},
	{"a null edit is one state, and nobody is told", foreignNullEdit},
	{"an edit with a thousand dependents behind a peer is one state", thousandBehindAPeer},
	{"a peer that is away costs no more than what it wants to hear", awayPeerCostsItsInterests},
	{"who waits for a peer that fell silent goes on, and stays where it is when the peer is back", silentPeer},
	{"a hub that was killed goes on from what it had heard", goesOnFromWhatItHeard},
}

func TestThreeHubsExchangeWhatCrossesTheirBoundaries(t *testing.T) {
	t.Parallel()
	l := newAlliance(t, 3, allianceRate, 1)
	for _, c := range crossings {
		t.Run(c.name, func(t *testing.T) {
			l.tell(t)
			c.play(t, l)
		})
	}
	l.tell(t)
}

func changedTwiceUnheard(t *testing.T, l *alliance) {
	a, b := l.allies[0], l.allies[1]
	for i, v := range [][]string{{"a", "b", "c"}, {"a", "b", "a"}, {"11", "12", "13"}} { // tokens, and numbers
		file, page := fmt.Sprint("File:", i), fmt.Sprint("of-", i)
		a.edit(file, v[0])
		b.make(page, "from "+v[0], seen(a.uri(file), v[0]))
		b.hears(a.uri(file), v[0])
		b.wantRefreshes(page, 0)
		l.part(0, 1, &faulty.Fault{Refuse: true})
		a.edit(file, v[1])
		b.make(page, "from "+v[1], seen(a.uri(file), v[1]))
		a.edit(file, v[2])
		if r := b.page(page); r.State != "clean" {
			t.Errorf("before the link is back the page is %s", r.State)
		}
		l.part(0, 1, nil)
		b.becomes(page, "ready")
		b.make(page, "from "+v[2], seen(a.uri(file), v[2]))
		b.barrier(a)
		b.becomes(page, "clean")
		b.wantRefreshes(page, 1)
	}
}

func chainOverThreeHubs(t *testing.T, l *alliance) {
	a, b, c := l.allies[0], l.allies[1], l.allies[2]
	c.edit("Q64", "1001")
	b.make("box", "box 1", seen(c.uri("Q64"), "1001"))
	a.make("Berlin", "page 1", seen(b.uri("box"), "box 1"))
	b.hears(c.uri("Q64"), "1001")
	a.hears(b.uri("box"), "box 1")

	c.edit("Q64", "1002")
	b.becomes("box", "ready")
	a.wantRefreshes("Berlin", 0)
	b.make("box", "box 2", seen(c.uri("Q64"), "1002"))
	a.becomes("Berlin", "ready")
	a.make("Berlin", "page 2", seen(b.uri("box"), "box 2"))

	c.edit("Q64", "1003")
	b.becomes("box", "ready")
	b.make("box", "box 2", seen(c.uri("Q64"), "1003")) // the edit does not show in it
	a.barrier(b)
	a.becomes("Berlin", "clean")
	b.wantRefreshes("box", 2)
	a.wantRefreshes("Berlin", 1)
}

func diamondOverThreeHubs(t *testing.T, l *alliance) {
	a, b, c := l.allies[0], l.allies[1], l.allies[2]
	c.edit("top", "1")
	b.make("left", "left 1", seen(c.uri("top"), "1"))
	c.make("right", "right 1", seen(c.uri("top"), "1"))
	a.make("bottom", "bottom 1", seen(b.uri("left"), "left 1"), seen(c.uri("right"), "right 1"))
	b.hears(c.uri("top"), "1")
	a.hears(b.uri("left"), "left 1")
	a.hears(c.uri("right"), "right 1")

	c.edit("top", "2")
	for _, side := range []string{b.uri("left"), c.uri("right")} {
		eventually(t, "both sides are known to be unsettled", func() bool { return a.resource(side).Unsettled })
	}
	b.make("left", "left 2", seen(c.uri("top"), "2"))
	a.hears(b.uri("left"), "left 2")
	a.becomes("bottom", "dirty")
	c.make("right", "right 2", seen(c.uri("top"), "2"))
	a.becomes("bottom", "ready")
	a.make("bottom", "bottom 2", seen(b.uri("left"), "left 2"), seen(c.uri("right"), "right 2"))
	a.barrier(b)
	a.barrier(c)
	a.becomes("bottom", "clean")
	a.wantRefreshes("bottom", 1)
}

func foreignDelete(t *testing.T, l *alliance) {
	a, b := l.allies[0], l.allies[1]
	red, blue := a.uri("Red"), a.uri("Blue")
	a.edit("Blue", "7")
	b.make("links", "red, blue", seen(red, "0"), seen(blue, "7"))
	b.hears(blue, "7")
	eventually(t, "the red link is a mirror too", func() bool { return b.resource(red).Peer != "" })
	b.barrier(a)
	b.wantRefreshes("links", 0)

	a.post(graph.Update{URI: blue, Action: graph.ActionDelete})
	b.becomes("links", "ready")
	if r := b.resource(blue); r.Known || r.Version != "0" {
		t.Errorf("of what was deleted the other hub has %+v", r)
	}
	b.make("links", "red, red", seen(red, "0"), seen(blue, "0"))
	a.edit("Red", "8")
	b.hears(red, "8")
	b.becomes("links", "ready")
	b.make("links", "blue, red", seen(red, "8"), seen(blue, "0"))
	b.barrier(a)
	b.becomes("links", "clean")
	b.wantRefreshes("links", 2)
}

func foreignNullEdit(t *testing.T, l *alliance) {
	a, b := l.allies[0], l.allies[1]
	a.post(graph.Update{URI: a.uri("Null"), Version: "50", Hash: "same"})
	b.make("of-null", "made", seen(a.uri("Null"), "50"))
	b.hears(a.uri("Null"), "same")
	a.make("null-page", "made", seen(a.uri("Null"), "50"))
	b.make("of-null-page", "made", seen(a.uri("null-page"), "made"))
	b.hears(a.uri("null-page"), "made")
	b.barrier(a)
	told := a.peer(b).Tells.Told

	a.post(graph.Update{URI: a.uri("Null"), Version: "51", Hash: "same"})
	b.barrier(a)
	if got := a.peer(b).Tells.Told - told; got > 2 {
		t.Errorf("a null edit and the flag are %d states, want one each", got)
	}
	a.make("null-page", "made", seen(a.uri("Null"), "51"))
	b.barrier(a)
	if got := a.peer(b).Tells.Told - told; got > 3 {
		t.Errorf("with what was made without need these are %d states, want none for it", got)
	}
	if r := b.resource(a.uri("Null")); r.Version != "51" {
		t.Errorf("the other hub has version %s, want 51", r.Version)
	}
	b.wantRefreshes("of-null", 0)
	b.wantRefreshes("of-null-page", 0)
}

func thousandBehindAPeer(t *testing.T, l *alliance) {
	a, b := l.allies[0], l.allies[1]
	a.edit("Template", "200")
	b.barrier(a)
	told := a.peer(b).Tells.Told
	mirrors := b.peer(a).Hears.Mirrors
	var pages []graph.Update
	for i := range 1000 {
		pages = append(pages, graph.Update{URI: b.uri(fmt.Sprint("use/", i)), Type: "html", Hash: "200", Deps: []graph.Dep{seen(a.uri("Template"), "200")}})
	}
	b.post(pages...)
	b.hears(a.uri("Template"), "200")
	a.edit("Template", "201")
	b.barrier(a)
	if got := a.peer(b).Tells.Told - told; got != 3 {
		t.Errorf("%d states were told, want one when it was first asked for, one of the edit, and the flag", got)
	}
	if got := b.peer(a).Hears.Mirrors - mirrors; got != 1 {
		t.Errorf("%d mirrors more, want one", got)
	}
	n := 0
	eventually(t, "they are to be made again", func() bool {
		n = 0
		for uri, told := range b.refreshes() {
			if strings.HasPrefix(uri, b.uri("use/")) {
				n += len(told)
			}
		}
		return n >= len(pages)
	})
	if n != len(pages) {
		t.Errorf("%d refreshes for %d pages", n, len(pages))
	}
}

func awayPeerCostsItsInterests(t *testing.T, l *alliance) {
	const wanted, rounds = 50, 40
	a, b := l.allies[0], l.allies[2]
	versions := func(n int) (us []graph.Update) {
		for i := range wanted {
			us = append(us, graph.Update{URI: a.uri(fmt.Sprint("busy/", i)), Version: strconv.Itoa(1000 + n)})
		}
		return us
	}
	a.post(versions(0)...)
	var deps []graph.Dep
	for _, u := range versions(0) {
		deps = append(deps, seen(u.URI, u.Version))
	}
	b.make("busy", "0", deps...)
	eventually(t, "all are mirrors", func() bool { return b.resource(deps[wanted-1].URI).Version == "1000" })
	b.barrier(a)
	told := a.peer(b).Tells.Told
	l.part(0, 2, &faulty.Fault{Refuse: true})
	for n := range rounds {
		a.post(versions(1 + n)...)
	}
	if s := a.peer(b).Tells; int64(s.Waiting) > s.Interests {
		t.Errorf("for a peer that is away %d states wait, and it wants to hear of %d things", s.Waiting, s.Interests)
	}
	l.part(0, 2, nil)
	b.barrier(a)
	if r := b.resource(deps[0].URI); r.Version != strconv.Itoa(1000+rounds) {
		t.Errorf("after it is back it has version %s, want the newest", r.Version)
	}
	// Once into a connection that is about to break, and once afterwards.
	if got := a.peer(b).Tells.Told - told; got > 2*wanted+1 {
		t.Errorf("of %d edits of %d things %d states were told", wanted*rounds, wanted, got)
	}
	b.wantRefreshes("busy", 1)
}

func silentPeer(t *testing.T, l *alliance) {
	a, b := l.allies[0], l.allies[1]
	a.edit("news", "1")
	a.make("portal", "portal 1", seen(a.uri("news"), "1"))
	b.edit("own", "1")
	b.make("start", "start 1", seen(a.uri("portal"), "portal 1"), seen(b.uri("own"), "1"))
	b.hears(a.uri("portal"), "portal 1")
	a.edit("news", "2")
	eventually(t, "the portal is known to be unsettled", func() bool { return b.resource(a.uri("portal")).Unsettled })
	l.part(0, 1, &faulty.Fault{Blackhole: true})
	b.edit("own", "2")
	var told []noted
	eventually(t, "it is to be made again", func() bool { told = b.refreshes()[b.uri("start")]; return len(told) > 0 })
	if reason := told[0].Reason; reason != graph.ReasonSettled.String() || !b.peer(a).Silent {
		t.Errorf("it goes on because %s, and the peer is silent: %t", reason, b.peer(a).Silent)
	}
	l.part(0, 1, nil)
	b.barrier(a)
	a.make("portal", "portal 1", seen(a.uri("news"), "2")) // nothing of it shows
	b.make("start", "start 2", seen(a.uri("portal"), "portal 1"), seen(b.uri("own"), "2"))
	b.barrier(a)
	b.becomes("start", "clean")
	b.wantRefreshes("start", 1)
}

func goesOnFromWhatItHeard(t *testing.T, l *alliance) {
	a, b := l.allies[0], l.allies[2] // of which b wants to hear of 50 things
	b.barrier(a)
	for range 2 {
		told := a.peer(b).Tells.Told
		b.kill()
		b.come()
		b.barrier(a)
		// What was told and not written down when it died is told again.
		if got := a.peer(b).Tells.Told - told; got > 3 {
			t.Errorf("after the start %d states were told, want the flag, and not all again", got)
		}
	}
	sessions := b.peer(a).Hears
	a.kill()
	a.come()
	b.barrier(a)
	if s := b.peer(a).Hears; s.Epoch != sessions.Epoch || s.Generation != sessions.Generation || a.peer(b).Tells.Told > 1 {
		t.Errorf("the other hub was killed: the session was %+v and is %+v, %d states were told", sessions, s, a.peer(b).Tells.Told)
	}
}

func TestARingOverTwoHubsComesToRest(t *testing.T) {
	t.Parallel()
	l := newAlliance(t, 2, 4*allianceRate, 2) // those who wait for each other do so for a quarter of an hour
	a, b := l.allies[0], l.allies[1]
	hash := map[*ally]string{a: "none", b: "none"}
	version := 100
	made := 0
	make := func(x *ally) {
		made++
		deps := []graph.Dep{seen(x.uri("text"), strconv.Itoa(version)), seen(b.uri("ring"), hash[b])}
		hash[x] = fmt.Sprint(x.site, version)
		if x == b { // whose content is made of the other's, which stands on its own
			deps[1] = seen(a.uri("ring"), hash[a])
			hash[x] += hash[a]
		}
		x.make("ring", hash[x], deps...)
	}
	for version = 100; version < 103; version++ {
		for _, x := range l.allies {
			x.edit("text", strconv.Itoa(version))
		}
		for _, x := range l.allies {
			if version == 100 {
				make(x)
			} else {
				x.becomes("ring", "ready")
			}
		}
		eventually(t, fmt.Sprint("all is quiet with version ", version), func() bool {
			quiet := true
			for _, x := range l.allies {
				switch r := x.page("ring"); r.State {
				case "ready":
					make(x)
					quiet = false
				case "dirty":
					quiet = false
				}
			}
			return quiet && a.resource(b.uri("ring")).Hash == hash[b] && b.resource(a.uri("ring")).Hash == hash[a]
		})
	}
	if made > 30 {
		t.Errorf("after two edits of each the ring was made %d times", made)
	}
	t.Logf("made %d times", made)
}

// yesterday makes things at a, of which b has made pages, and has a backup of it.
func yesterday(l *alliance, things int) (backup int) {
	a, b := l.allies[0], l.allies[1]
	var primaries, pages []graph.Update
	for i := range things {
		thing := a.uri(fmt.Sprint("thing/", i))
		primaries = append(primaries, graph.Update{URI: thing, Version: "1000", Hash: "h1000"})
		pages = append(pages, graph.Update{URI: b.uri(fmt.Sprint("page/", i)), Type: "html", Hash: "1000", Deps: []graph.Dep{seen(thing, "1000")}})
	}
	a.post(primaries...)
	b.post(pages...)
	b.edit("item", "1000")
	a.make("of-item", "1000", seen(b.uri("item"), "1000"))
	b.hears(primaries[things-1].URI, "h1000")
	a.hears(b.uri("item"), "1000")
	b.barrier(a)
	a.barrier(b)
	return a.backUp("yesterday")
}

// today edits some of the things, has the pages made again, and one of another thing.
func today(l *alliance, edits int) {
	a, b := l.allies[0], l.allies[1]
	for i := range edits {
		a.post(graph.Update{URI: a.uri(fmt.Sprint("thing/", i)), Version: "1001", Hash: "h1001"})
	}
	for i := range edits {
		b.becomes(fmt.Sprint("page/", i), "ready")
		b.make(fmt.Sprint("page/", i), "1001", seen(a.uri(fmt.Sprint("thing/", i)), "1001"))
	}
	a.edit("new", "1")
	b.make("page/new", "1", seen(a.uri("new"), "1"))
	b.hears(a.uri("new"), "1")
	b.barrier(a)
}

// ordered is how often the pages of those things were to be made again, all in all.
func ordered(b *ally) (n int) {
	for uri, told := range b.refreshes() {
		if strings.HasPrefix(uri, b.uri("page/")) {
			n += len(told)
		}
	}
	return n
}

func TestAHubThatIsRestoredFromYesterdaysBackupCausesNoStorm(t *testing.T) {
	t.Parallel()
	const things, edits, wanted = 300, 10, 302 // with what is new, and the flag
	l := newAlliance(t, 2, allianceRate, 3)
	a, b := l.allies[0], l.allies[1]
	backup := yesterday(l, things)
	today(l, edits)
	for _, c := range []struct {
		when string
		open bool // the link, before producers have sent again what they sent since
		most int  // refreshes
	}{
		{"what its producers sent since is there before it is heard", false, 0},
		{"it is heard as it was yesterday, and then as it is", true, 2 * edits},
	} {
		before, was := ordered(b), b.peer(a).Hears
		if !c.open {
			l.part(0, 1, &faulty.Fault{Refuse: true})
		}
		a.restore("yesterday")
		if c.open {
			for i := range edits {
				b.hears(a.uri(fmt.Sprint("thing/", i)), "h1000")
			}
		}
		a.replay(a.sent[backup:])
		l.part(0, 1, nil)
		b.barrier(a)
		a.barrier(b)
		told := ordered(b) - before
		if told > c.most {
			t.Errorf("%s: of %d pages %d were to be made again, want %d at most", c.when, things, told, c.most)
		}
		t.Logf("%s: %d refreshes for %d pages and %d edits", c.when, told, things, edits)
		eventually(t, "the peer has asked for everything again", func() bool { return a.peer(b).Tells.Interests == wanted })
		is := b.peer(a)
		if is.Hears.Epoch == was.Epoch || is.Hears.Mirrors != wanted || is.Tells.Interests != a.peer(b).Hears.Mirrors || is.Hears.Mended > 0 {
			t.Errorf("%s: %+v and %+v do not agree, want %d mirrors, none mended, and another epoch than %s", c.when, is, a.peer(b), wanted, was.Epoch)
		}
		for i := range edits {
			b.make(fmt.Sprint("page/", i), "1001", seen(a.uri(fmt.Sprint("thing/", i)), "1001"))
			b.becomes(fmt.Sprint("page/", i), "clean")
		}
		a.becomes("of-item", "clean")
	}
}

func TestAHubThatLostEverythingIsFedAgainWithoutAStorm(t *testing.T) {
	t.Parallel()
	const things, edits, wanted = 300, 10, 302 // with what is new, and the flag
	l := newAlliance(t, 2, allianceRate, 4)
	a, b := l.allies[0], l.allies[1]
	yesterday(l, things)
	today(l, edits)
	before, was := ordered(b), b.peer(a).Hears
	a.restore("")
	if n := a.resource(a.uri("thing/0")); n.Known {
		t.Fatalf("it has still %+v", n)
	}
	l.befriend(a)
	eventually(t, "the peer has asked for everything again", func() bool { return a.peer(b).Tells.Interests == wanted })
	if r := b.resource(a.uri("thing/0")); r.Version != "1001" {
		t.Errorf("of what the hub does not know any more the other has %+v, want what it had", r)
	}
	a.replay(a.sent)
	b.barrier(a)
	a.barrier(b)
	is := b.peer(a)
	if is.Hears.Epoch == was.Epoch || is.Hears.Generation == was.Generation || is.Hears.Mirrors != wanted || is.Hears.Mended > 0 {
		t.Errorf("the session was %+v and is %+v, want another epoch and generation, and %d mirrors, none mended", was, is.Hears, wanted)
	}
	if mirrors := a.peer(b).Hears.Mirrors; is.Tells.Interests != mirrors || mirrors != 2 {
		t.Errorf("it has %d mirrors and is told of %d things, want both 2, from what its pages are made of", mirrors, is.Tells.Interests)
	}
	// Each edit was sent again after the version before it, which the peer may hear.
	told := ordered(b) - before
	if told > 2*edits {
		t.Errorf("of %d pages %d were to be made again, want %d at most", things, told, 2*edits)
	}
	t.Logf("%d refreshes for %d pages", told, things)
	a.becomes("of-item", "clean")
}
