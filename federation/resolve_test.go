package federation

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
)

const (
	wikiPrefix = "http://wiki.example/"
	wikiPage   = "http://wiki.example/wiki/Cat"
)

// A quarter is a hub, two peers without prefixes by the configuration, and the host of a wiki.
type quarter struct {
	t         *testing.T
	street    *street
	us        *house
	amos, zoe *stranger
	wiki      *stranger
}

func newQuarter(t *testing.T) *quarter {
	street := newStreet(t)
	q := &quarter{t: t, street: street, us: street.house("us.example", "https://us.example", Options{}),
		amos: street.stranger("amos.example"), zoe: street.stranger("zoe.example"), wiki: street.stranger("wiki.example")}
	q.us.put(made("https://us.example/Page", wikiPage))
	return q
}

// claims has a peer claim prefixes.
func (q *quarter) claims(x *stranger, prefixes ...string) {
	x.say(endpointDocument, writes(http.StatusOK, string(x.document(func(d *Document) { d.Authority = prefixes }))))
}

// vouches has the host of the wiki say who speaks for a prefix.
func (q *quarter) vouches(x *stranger, prefixes ...string) {
	q.wiki.say(endpointDocument, writes(http.StatusOK, mustJSON(map[string]any{"hub": x.url(), "authority": prefixes, "contact": "x"})))
}

func (q *quarter) add(x *stranger, prefixes ...string) {
	q.t.Helper()
	if err := q.us.peers.Add(q.t.Context(), x.peer(prefixes...)); err != nil {
		q.t.Fatal(err)
	}
	q.settles(x)
}

// asks has the hub read the document of a peer anew, and ask the hosts.
func (q *quarter) asks(x *stranger) {
	q.t.Helper()
	before := q.us.status(x.url()).Sessions
	if err := q.us.peers.Resync(q.t.Context(), x.url()); err != nil {
		q.t.Fatal(err)
	}
	eventually(q.t, "another session begins", time.Minute, func() bool { return q.us.status(x.url()).Sessions > before })
	q.settles(x)
}

func (q *quarter) settles(x *stranger) {
	q.t.Helper()
	eventually(q.t, "the peer is heard", time.Minute, func() bool { return q.us.status(x.url()).Phase == Following })
}

// want checks what a peer speaks for, and who does for the page of the wiki.
func (q *quarter) want(when string, x *stranger, prefixes string, speaker *stranger) {
	q.t.Helper()
	name := ""
	if speaker != nil {
		name = speaker.url()
	}
	if got := fmt.Sprint(q.us.status(x.url()).InForce); got != prefixes || q.us.store.SpeakerOf(wikiPage) != name {
		q.t.Errorf("%s %s speaks for %s, want %s; for the page does %q, want %q", when, x.url(), got, prefixes, q.us.store.SpeakerOf(wikiPage), name)
	}
}

// quarters runs a story in a bubble.
func quarters(t *testing.T, name string, story func(q *quarter)) {
	t.Run(name, func(t *testing.T) { bubble.Test(t, func(t *testing.T) { story(newQuarter(t)) }) })
}

func TestAPeerSpeaksForWhatTheHostOfTheContentConfirms(t *testing.T) {
	quarters(t, "a host that confirms", func(q *quarter) {
		q.claims(q.amos, wikiPrefix, "http://wiki.example/w")
		q.vouches(q.amos, wikiPrefix)
		q.amos.say(EndpointStream, says(q.amos.states(1, level(wikiPage, 1, "7"))))
		q.add(q.amos)
		q.want("confirmed,", q.amos, "[http://wiki.example/ http://wiki.example/w]", q.amos)
		eventually(q.t, "the page is heard of", time.Minute, func() bool { return q.us.version(wikiPage) == "7" })
		// It says no more to somebody else.
		q.vouches(q.zoe, wikiPrefix)
		q.want("before it is asked again,", q.amos, "[http://wiki.example/ http://wiki.example/w]", q.amos)
		q.asks(q.amos)
		q.want("when the host names another,", q.amos, "[]", nil)
		if v := q.us.version(wikiPage); v != "" {
			q.t.Errorf("what was heard of who does not speak any more is kept: %s", v)
		}
	})
	quarters(t, "a host that confirms less than is claimed", func(q *quarter) {
		q.claims(q.amos, wikiPrefix, "http://wiki.example/wiki/", "http://wiki.example/wiki/Cat", "http://wiki.example/w")
		q.vouches(q.amos, "http://wiki.example/wiki/")
		q.add(q.amos)
		q.want("of four claims", q.amos, "[http://wiki.example/wiki/ http://wiki.example/wiki/Cat]", q.amos)
	})
	quarters(t, "a host that is another by its scheme or port", func(q *quarter) {
		q.claims(q.amos, "https://wiki.example/", "http://wiki.example:8080/")
		q.wiki.say(endpointDocument, func(w http.ResponseWriter, r *http.Request) {
			writes(http.StatusOK, mustJSON(map[string]any{"hub": q.amos.url(), "authority": []string{wikiPrefix}}))(w, r)
		})
		q.add(q.amos)
		q.want("elsewhere", q.amos, "[]", nil)
	})
	quarters(t, "a prefix that has no host", func(q *quarter) {
		q.claims(q.amos, "urn:isbn")
		q.add(q.amos)
		q.want("without a host that could be asked", q.amos, "[]", nil)
		q.add(q.amos, "urn:isbn")
		q.want("by the configuration", q.amos, "[urn:isbn]", nil)
	})
	quarters(t, "the peer's own host", func(q *quarter) {
		q.claims(q.amos, "http://amos.example/wiki/")
		q.add(q.amos)
		q.want("of itself", q.amos, "[http://amos.example/wiki/]", nil)
		if n := q.amos.called(endpointDocument, time.Time{}); n != 1 {
			q.t.Errorf("it is asked %d times", n)
		}
	})
}

func TestWhatAHostSaidHoldsWhileItIsAway(t *testing.T) {
	away := func(q *quarter) { q.wiki.say(endpointDocument, writes(http.StatusBadGateway, "")) }
	quarters(t, "a host that was asked", func(q *quarter) {
		q.claims(q.amos, wikiPrefix)
		q.vouches(q.amos, wikiPrefix)
		q.add(q.amos)
		away(q)
		q.asks(q.amos)
		q.want("while the host is away", q.amos, "[http://wiki.example/]", q.amos)
		q.street.restart(q.us, Options{})
		q.settles(q.amos)
		q.want("and after a restart", q.amos, "[http://wiki.example/]", q.amos)
		q.claims(q.amos, wikiPrefix, "http://wiki.example/w")
		q.asks(q.amos)
		q.want("but not what it never confirmed:", q.amos, "[http://wiki.example/]", q.amos)
		q.claims(q.amos, "http://wiki.example/w")
		q.asks(q.amos)
		q.want("nor what is not claimed any more:", q.amos, "[]", nil)
	})
	quarters(t, "a host that was not there yet", func(q *quarter) {
		away(q)
		q.claims(q.amos, wikiPrefix)
		q.add(q.amos)
		q.want("while the host is away", q.amos, "[]", nil)
		q.vouches(q.amos, wikiPrefix)
		time.Sleep(askSoon - time.Minute)
		q.want("too soon", q.amos, "[]", nil)
		time.Sleep(2 * time.Minute)
		q.want("when it was asked again", q.amos, "[http://wiki.example/]", q.amos)
		at, asked := time.Now(), q.wiki.called(endpointDocument, time.Time{})
		time.Sleep(2 * askSoon)
		if n := q.wiki.called(endpointDocument, at); n > 0 || asked != 2 {
			q.t.Errorf("who has answered is asked again %d times within %s, after %d times", n, 2*askSoon, asked)
		}
	})
}

func TestWhatTheConfigurationSaysGoesBeforeWhatHostsSay(t *testing.T) {
	quarters(t, "a peer with prefixes", func(q *quarter) {
		q.claims(q.amos, wikiPrefix)
		q.vouches(q.amos, wikiPrefix)
		q.add(q.amos, "http://wiki.example/wiki/")
		q.want("by the configuration", q.amos, "[http://wiki.example/wiki/]", q.amos)
		if n := q.wiki.called("", time.Time{}); n > 0 {
			q.t.Errorf("the host is asked %d times though the configuration says who speaks for it", n)
		}
		q.add(q.amos)
		q.want("when the configuration leaves it to the hosts", q.amos, "[http://wiki.example/]", q.amos)
	})
	quarters(t, "the very prefix that a host confirms for another", func(q *quarter) {
		q.claims(q.amos, wikiPrefix)
		q.vouches(q.amos, wikiPrefix)
		q.add(q.amos)
		q.want("alone", q.amos, "[http://wiki.example/]", q.amos)
		q.add(q.zoe, wikiPrefix)
		q.want("when the configuration names another,", q.amos, "[]", q.zoe)
		if err := q.us.peers.Remove(q.t.Context(), q.zoe.url()); err != nil {
			q.t.Fatal(err)
		}
		q.want("when it does not any more,", q.amos, "[http://wiki.example/]", q.amos)
		if err := q.us.peers.Configure(q.t.Context(), []string{q.us.own, wikiPrefix}, nil); err != nil {
			q.t.Fatal(err)
		}
		q.want("when it is our own,", q.amos, "[]", nil)
	})
	quarters(t, "a longer prefix", func(q *quarter) {
		q.claims(q.amos, "http://wiki.example/wiki/C")
		q.vouches(q.amos, wikiPrefix)
		q.add(q.zoe, wikiPrefix)
		q.add(q.amos)
		q.want("beside a shorter one", q.amos, "[http://wiki.example/wiki/C]", q.zoe) // which ends within a name
		q.claims(q.amos, "http://wiki.example/wiki/")
		q.asks(q.amos)
		q.want("beside a shorter one", q.amos, "[http://wiki.example/wiki/]", q.amos)
		q.want("of which it takes a part", q.zoe, "[http://wiki.example/]", q.amos)
	})
}

func TestOfTwoPeersOneSpeaksForWhatBothClaim(t *testing.T) {
	quarters(t, "a host that turns from one to the other", func(q *quarter) {
		q.claims(q.amos, wikiPrefix)
		q.claims(q.zoe, wikiPrefix)
		q.vouches(q.amos, wikiPrefix)
		q.add(q.amos)
		q.add(q.zoe)
		q.want("that claims what the host does not confirm", q.zoe, "[]", q.amos)
		q.vouches(q.zoe, wikiPrefix)
		q.asks(q.zoe)
		// The other was not asked about yet: it is one of them, and not both.
		q.want("before both are asked about,", q.zoe, "[]", q.amos)
		q.asks(q.amos)
		q.want("then", q.zoe, "[http://wiki.example/]", q.zoe)
		q.want("then", q.amos, "[]", q.zoe)
	})
}

func TestPeersThatClaimAllThereIsRoomForKeepNobodyFromBeingNamed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newScene(t)
		for i := range graph.MaxAuthority/maxAuthority + 1 {
			url := fmt.Sprintf("http://b%02d.example", i)
			if err := s.us.peers.Add(t.Context(), Peer{URL: url, Fingerprint: s.bad.id.Key().Fingerprint()}); err != nil {
				t.Fatal(err)
			}
		}
		for _, url := range s.us.peers.URLs() {
			l, err := s.us.peers.find(url)
			if err != nil {
				t.Fatal(err)
			}
			l.mu.Lock()
			for k := range maxAuthority {
				l.resolved = append(l.resolved, fmt.Sprintf("%s/%d", url, k))
			}
			l.mu.Unlock()
		}
		s.bad.say(EndpointStream, says(s.with()...))
		if err := s.us.peers.Add(t.Context(), s.bad.peer("https://bad.example")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "who is named after them is heard", time.Minute, func() bool { return s.us.version(badFile) == "1" })
		n := len(s.us.peers.Identity().Authority)
		for _, territory := range s.us.store.Territories() {
			n += len(territory.Authority)
		}
		if n != graph.MaxAuthority {
			t.Errorf("%d prefixes are named", n)
		}
		s.goesOn()
	})
}
