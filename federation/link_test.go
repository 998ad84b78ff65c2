package federation

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

// notices are those that a hub has written since it was opened.
func (h *house) notices() (n uint64) {
	for _, k := range h.store.Stats().Notices {
		n += k
	}
	return n
}

// status is how it is with a peer.
func (h *house) status(url string) Status {
	h.t.Helper()
	s, err := h.peers.Status(url)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// restart ends a hub and opens it again on its disk, with the peers of its configuration.
func (s *street) restart(h *house, o Options, configured ...*house) {
	s.t.Helper()
	host := hostOf(h.url())
	h.leave()
	s.open(h, host, o)
	h.knows(configured...)
}

// A megaphone is a stream of which a test says what comes when.
type megaphone struct {
	mu   sync.Mutex
	text chan string // nil while nobody hears anything
}

// say waits until somebody hears it.
func (m *megaphone) say(text string) { m.current() <- text }

func (m *megaphone) current() chan string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text
}

// off ends the stream, and further ones are not granted, until it is on.
func (m *megaphone) off() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.text)
	m.text = nil
}

func (m *megaphone) on() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.text = make(chan string)
}

func (m *megaphone) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text := m.current()
	if text == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	open(w)
	http.NewResponseController(w).Flush()
	for beat := time.NewTicker(heartbeat); ; {
		said := "event: heartbeat\ndata: {}\n\n"
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
		case t, ok := <-text:
			if !ok {
				return
			}
			said = t
		}
		w.Write([]byte(said))
		http.NewResponseController(w).Flush()
	}
}

func TestWhatASilentPeerLeftUnsettledIsSettledOnceAndItsReturnMovesNobody(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, m := newScene(t), &megaphone{}
		m.on()
		s.bad.say(EndpointStream, m.ServeHTTP)
		if err := s.us.peers.Add(t.Context(), s.bad.peer(s.authority...)); err != nil {
			t.Fatal(err)
		}
		unsettled := func(l graph.Level, is bool) graph.Level {
			l.Unsettled = is
			return l
		}
		m.say(s.bad.states(2, level(badFile, 1, "1"), level(badOther, 2, "1")))
		eventually(t, "it is heard", time.Minute, func() bool { return s.us.version(badOther) == "1" })
		if s.us.state(ourCopy) != graph.Clean {
			t.Fatalf("who saw what there is is %v", s.us.state(ourCopy))
		}
		time.Sleep(time.Second) // a notice counts when it is on the disk
		before := s.us.notices()
		m.say(s.bad.states(3, unsettled(level(badFile, 3, "2"), true)))
		eventually(t, "the change is heard", time.Minute, func() bool { return s.us.version(badFile) == "2" })
		time.Sleep(5 * time.Minute)
		if s.us.state(ourCopy) != graph.Dirty || s.status().Silent {
			t.Fatalf("while the peer says that it will change, who depends on it is %v; silent: %v", s.us.state(ourCopy), s.status().Silent)
		}

		m.off()
		left := time.Now()
		eventually(t, "it is settled", 3*time.Minute, func() bool { return s.us.state(ourCopy) == graph.Ready })
		if d := time.Since(left); d < silence-heartbeat-time.Second || d > silence+time.Second {
			t.Errorf("a silent peer is waited for for %s", d)
		}
		time.Sleep(time.Minute)
		after := s.us.notices()
		if after != before+2 || !s.status().Silent { // of the change, and of who was made from it
			t.Errorf("%d notices, want 2: %v; silent: %v", after-before, s.us.store.Stats().Notices, s.status().Silent)
		}
		s.us.put(graph.Update{URI: ourCopy, Version: "2", Hash: "again", At: time.Now(), Deps: []graph.Dep{{URI: badFile, Seen: "2"}, {URI: badOther, Seen: "1"}}})
		time.Sleep(10 * time.Minute)
		after = s.us.notices()

		m.on()
		eventually(t, "the peer is back", 2*time.Minute, func() bool { return s.status().Phase == Following && !s.status().Silent })
		back := changed(level(badFile, 4, "2"), func(l *graph.Level) { l.Cver = 3 })
		m.say(s.bad.states(4, unsettled(back, true)))
		back.Sver = 5
		m.say(s.bad.states(5, back))
		eventually(t, "what it says is heard", time.Minute, func() bool { return s.status().Session.Position == 5 })
		if n := s.us.notices(); n != after || s.us.state(ourCopy) != graph.Clean {
			t.Errorf("its return writes %d notices, and who depends on it is %v", n-after, s.us.state(ourCopy))
		}
		s.goesOn()
	})
}

func TestAPeerThatIsPausedIsNeitherHeardNorAnsweredUntilItIsResumed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScene(t)
		var resumed []string
		s.bad.say(EndpointStream, func(w http.ResponseWriter, r *http.Request) {
			resumed = append(resumed, r.Header.Get("Last-Event-ID"))
			says(s.with()...)(w, r)
		})
		if err := s.us.peers.Add(t.Context(), s.bad.peer(s.authority...)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is heard", time.Minute, func() bool { return s.us.version(badFile) == "1" })
		pause := func(paused bool) {
			if err := s.us.peers.Pause(t.Context(), s.bad.url(), paused); err != nil {
				t.Fatal(err)
			}
		}
		refuses := func(when string) {
			t.Helper()
			at := time.Now()
			for endpoint, body := range map[string]string{EndpointInterests: register(1, 0, ourText), EndpointAck: `{"position":"00000bad.1"}`} {
				if status, answer := s.bad.post(s.us.url(), endpoint, body); status != http.StatusServiceUnavailable {
					t.Errorf("%s %s is answered by %d %s", when, endpoint, status, answer)
				}
			}
			if a := s.bad.listen(s.us.url()); a.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s a stream is answered by %d", when, a.StatusCode)
			}
			time.Sleep(10 * time.Minute)
			st := s.status()
			if n := s.bad.called("", at); n > 0 || st.Phase != Paused || st.Streams != 0 || st.Faulty != 0 {
				t.Errorf("%s it is called %d times, and is %+v", when, n, st)
			}
			if s.us.version(badFile) != "1" {
				t.Errorf("%s what was heard is forgotten", when)
			}
		}
		s.bad.listen(s.us.url())
		eventually(t, "there is a stream to it", time.Minute, func() bool { return s.status().Streams == 1 })
		pause(true)
		eventually(t, "the stream to it ends", time.Second, func() bool { return s.status().Streams == 0 })
		refuses("while it is paused")
		s.street.restart(s.us, Options{}, s.honest)
		refuses("after a restart")
		other := s.bad.peer(s.authority...)
		other.Fingerprint[0]++
		for _, p := range []Peer{other, s.bad.peer(s.authority...)} {
			if err := s.us.peers.Add(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		// Its key is seen again only when it is called.
		if st := s.status(); st.Phase != Paused {
			t.Errorf("with another fingerprint it is %v", st.Phase)
		}
		s.goesOn()
		before := len(resumed)
		pause(false)
		eventually(t, "it is heard again", time.Minute, func() bool { return s.status().Heard.Old == 1 && len(resumed) == before+1 })
		if got := resumed[before]; got != "00000bad.1" {
			t.Errorf("it is asked for what comes after %q", got)
		}
		if status, answer := s.bad.post(s.us.url(), EndpointInterests, register(1, 0, ourText)); status != http.StatusOK {
			t.Errorf("when it is resumed it is answered by %d %s", status, answer)
		}
	})
}

func TestAPeerThatIsRemovedIsForgotten(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScene(t)
		ctx := t.Context()
		s.bad.say(EndpointStream, says(s.with()...))
		add := func() {
			t.Helper()
			if err := s.us.peers.Add(ctx, s.bad.peer(s.authority...)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is heard", time.Minute, func() bool { return s.us.version(badFile) == "1" })
		}
		add()
		if status, answer := s.bad.post(s.us.url(), EndpointInterests, register(1, 0, ourText)); status != 200 {
			t.Fatal(answer)
		}
		s.bad.listen(s.us.url())
		eventually(t, "there is a stream to it", time.Minute, func() bool { return s.status().Streams == 1 && s.status().Told == 1 })
		if err := s.us.peers.Remove(ctx, s.honest.url()); !errors.Is(err, ErrConfigured) {
			t.Errorf("a peer of the configuration: %v", err)
		}
		for range 2 { // also after a restart
			err := s.us.peers.Remove(ctx, s.bad.url())
			if err != nil && !errors.Is(err, ErrNoPeer) {
				t.Fatal(err)
			}
			at := time.Now()
			time.Sleep(10 * time.Minute)
			if n := s.bad.called("", at.Add(time.Second)); n > 0 {
				t.Errorf("it is called %d times", n)
			}
			if status, answer := s.bad.post(s.us.url(), EndpointInterests, register(1, 0, ourText)); status != http.StatusUnauthorized || !strings.Contains(answer, "is not a peer") {
				t.Errorf("it is answered by %d %s", status, answer)
			}
			if _, err := s.us.peers.Status(s.bad.url()); !errors.Is(err, ErrNoPeer) || slices.Contains(s.us.peers.URLs(), s.bad.url()) {
				t.Errorf("it is among %v, %v", s.us.peers.URLs(), err)
			}
			if c, err := s.us.store.Client(s.bad.url()); err != nil || c != (graph.Client{}) || s.us.version(badFile) != "" || s.us.store.SpeakerOf(badFile) != "" {
				t.Errorf("of it is left %+v, %v, version %q", c, err, s.us.version(badFile))
			}
			s.street.restart(s.us, Options{}, s.honest)
		}
		if err := s.us.peers.Remove(ctx, s.bad.url()); !errors.Is(err, ErrNoPeer) {
			t.Errorf("who is no peer any more: %v", err)
		}
		add()
		if st := s.status(); st.Client.Interests != 0 || st.Session.Generation != 1 || st.Session.Taken != 2 {
			t.Errorf("it begins with %+v", st)
		}
		time.Sleep(time.Minute) // so that the honest peer is back
		s.goesOn()
	})
}

func TestAHubThatWasRestartedGoesOnWhereItWas(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		street := newStreet(t)
		commons := street.house("commons.example", "https://commons.example", Options{})
		wiki := street.house("wiki.example", "https://wiki.example", Options{})
		const n = 300
		var files []graph.Update
		article := graph.Update{URI: "https://wiki.example/Cats", Version: "1", Hash: "x", At: time.Now()}
		for i := range n {
			uri := fmt.Sprintf("https://commons.example/%d.jpg", i)
			files = append(files, page(uri, "1"))
			article.Deps = append(article.Deps, graph.Dep{URI: uri, Seen: "1"})
		}
		commons.put(files...)
		wiki.put(article)
		commons.knows(wiki)
		wiki.knows(commons)
		eventually(t, "all is heard", time.Minute, func() bool { return wiki.status(commons.url()).Heard.Changed == n })
		want := commons.status(wiki.url())
		if want.Told != n || want.Client.Interests != n || want.Client.Applied != n {
			t.Fatalf("the one that is depended on has %+v", want)
		}
		// hears has the wiki hear one change, and tells what passed since a restart.
		hears := func(version string) (told uint64, heard graph.Heard) {
			t.Helper()
			commons.put(page("https://commons.example/7.jpg", version))
			eventually(t, "the change is heard", 2*time.Minute, func() bool { return wiki.version("https://commons.example/7.jpg") == version })
			time.Sleep(time.Minute) // what else there may be
			a, b := commons.status(wiki.url()), wiki.status(commons.url())
			if a.Client.Generation != want.Client.Generation || a.Client.Applied != n || a.Denied > 0 || a.Faulty > 0 || b.Session.Pending > 0 {
				t.Errorf("after a restart one has %+v, the other %+v", a, b)
			}
			return a.Told, b.Heard
		}
		street.restart(wiki, Options{}, commons)
		if told, heard := hears("2"); told != n+1 || heard != (graph.Heard{Changed: 1}) {
			t.Errorf("after who depends was restarted, %d are told, and heard is %+v", told-n, heard)
		}
		street.restart(commons, Options{}, wiki)
		if told, heard := hears("3"); told != 1 || heard != (graph.Heard{Changed: 2}) {
			t.Errorf("after who is depended on was restarted, %d are told, and heard is %+v", told, heard)
		}
	})
}

func TestAPeerThatCannotGoOnFromWhereItWasTellsAllAnew(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScene(t)
		var asked []string
		s.bad.say(EndpointStream, func(w http.ResponseWriter, r *http.Request) {
			at := r.Header.Get("Last-Event-ID")
			if asked = append(asked, at); at != "00000bad.0" {
				says("event: reset\ndata: {}\n\n")(w, r)
				return
			}
			says(s.bad.states(uint64(len(asked)+6), level(badFile, uint64(len(asked)), "1")))(w, r)
		})
		if err := s.us.peers.Add(t.Context(), s.bad.peer(s.authority...)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is heard", time.Minute, func() bool { return s.status().Session.Position == 7 })
		if err := s.us.peers.Resync(t.Context(), s.bad.url()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is heard anew", time.Minute, func() bool { return s.status().Session.Position == 9 })
		if got, st := strings.Join(asked, " "), s.status(); got != "00000bad.0 00000bad.7 00000bad.0" || st.Heard.Changed != 2 || st.Failures != 0 {
			t.Errorf("it is asked for what comes after %s, and is %+v", got, st)
		}
		s.goesOn()
	})
}

func TestAPeerIsChangedWhileItIsHeard(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.bad.say(EndpointStream, says(s.with()...))
		for i := range 20 {
			if err := s.us.peers.Add(t.Context(), s.bad.peer("https://bad.example", fmt.Sprintf("https://bad.example/%d", i%2))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(i) * time.Millisecond)
		}
		eventually(t, "it is heard", time.Minute, func() bool { return s.us.version(badFile) == "1" })
		if got := fmt.Sprint(s.status().InForce); got != "[https://bad.example https://bad.example/1]" {
			t.Errorf("it speaks for %s", got)
		}
		s.goesOn()
	})
}

func TestAConfigurationThatDoesNotGoWithPeersThatWereAddedChangesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScene(t)
		ctx := t.Context()
		if err := s.us.peers.Add(ctx, s.bad.peer(s.authority...)); err != nil {
			t.Fatal(err)
		}
		third := Peer{URL: "http://third.example", Fingerprint: s.bad.id.Key().Fingerprint(), Authority: s.authority}
		us := Peer{URL: s.us.url(), Fingerprint: third.Fingerprint}
		honest := Peer{URL: s.honest.url(), Fingerprint: s.honest.id.Key().Fingerprint(), Authority: []string{s.honest.own}}
		for _, c := range []struct {
			name string
			own  []string
			list []Peer
			want string
		}{
			{"a peer for what another speaks for", []string{s.us.own}, []Peer{honest, third}, `are to speak for "https://bad.example"`},
			{"what a peer speaks for as our own", []string{s.us.own, "https://bad.example"}, []Peer{honest}, `are to speak for "https://bad.example"`},
			{"a peer twice", []string{s.us.own}, []Peer{honest, honest}, "named twice"},
			{"this hub as its own peer", []string{s.us.own}, []Peer{honest, us}, "is this hub itself"},
			{"too many peers", []string{s.us.own}, make([]Peer, MaxPeers), "no more are taken"},
		} {
			_, plan := s.us.peers.Plan(c.own, c.list)
			err := s.us.peers.Configure(ctx, c.own, c.list)
			if plan == nil || err == nil || plan.Error() != err.Error() || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, and when it is to be done %v; want %s", c.name, plan, err, c.want)
			}
			if own := fmt.Sprint(s.us.peers.Identity().Authority); own != "["+s.us.own+"]" || fmt.Sprint(s.us.peers.URLs()) != "[http://bad.example http://honest.example]" {
				t.Errorf("%s leaves %s and %v", c.name, own, s.us.peers.URLs())
			}
		}
		s.goesOn()
	})
}
