package websub

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

// A press has the digests of the channel "open". Its hours close when a test says so, and
// a document of it says which hour it is of.
type press struct {
	mu      sync.Mutex
	hour    uint64
	edition string // of the documents of this hour
	hidden  bool   // the newest hour is not for strangers
	refuses error  // of all
	told    int
	news    map[int]func()
}

func (p *press) Newest(string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hour
}

func (p *press) May(channel string, _ subscriptions.Viewer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if channel != "open" {
		return subscriptions.ErrNoChannel
	}
	return p.refuses
}

func (p *press) Shows(_, _ string, v subscriptions.Viewer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hour > 0 && (!p.hidden || !v.Anonymous)
}

func (p *press) Document(channel, name string, v subscriptions.Viewer) ([]byte, string, error) {
	if !p.Shows(channel, name, v) {
		return nil, "", errors.New("there is none yet")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Appendf(nil, "%s%s of hour %d", p.edition, name, p.hour), "text/" + name, nil
}

func (p *press) Watch(_ string, news func()) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told++
	id := p.told
	p.news[id] = news
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.news, id)
	}
}

// change changes something, and tells everybody.
func (p *press) change(f func()) {
	p.mu.Lock()
	f()
	all := make([]func(), 0, len(p.news))
	for _, news := range p.news {
		all = append(all, news)
	}
	p.mu.Unlock()
	for _, news := range all {
		news()
	}
	synctest.Wait()
}

func (p *press) close() { p.change(func() { p.hour++ }) }

// startPress runs a hub with digests, of which 100 hours have closed.
func startPress(t *testing.T, o Options) (*rig, *press) {
	t.Helper()
	p := &press{hour: 100, news: map[int]func(){}}
	o.Digests = p
	r := newRig(t, o)
	r.web.at("wiki.example", willing)
	return r, p
}

const stateTopic = base + "/digest/open/state.json"

// follow subscribes a callback to the digests.
func (r *rig) follow() {
	r.t.Helper()
	r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb", "hub.topic", stateTopic)
	r.only()
}

// bodies are what a host was sent.
func (r *rig) bodies(host string) (list []string) {
	for _, g := range r.web.calls(host, http.MethodPost) {
		list = append(list, string(g.body))
	}
	return list
}

func (r *rig) gets(t *testing.T, want ...string) {
	t.Helper()
	if got := r.bodies("wiki.example"); !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

func TestEachHourIsToldOnceWhateverTheJournalDoes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r, p := startPress(t, Options{})
		r.follow()
		p.close()
		for i := range 300 { // the journal is far ahead of the hours
			r.edit(fmt.Sprint(i))
		}
		time.Sleep(time.Hour)
		p.close()
		r.again()
		time.Sleep(time.Hour)
		p.close()
		r.gets(t, "state.json of hour 101", "state.json of hour 102", "state.json of hour 103")
		call := r.web.calls("wiki.example", http.MethodPost)[0]
		if h := call.header; h.Get("Content-Type") != "text/state.json" || h.Get("Link") != "<"+base+`/websub>; rel="hub", <`+stateTopic+`>; rel="self"` {
			t.Errorf("a call has %v", h)
		}
		if s := r.only(); s.State.Behind != 0 || s.State.Sent != 3 {
			t.Errorf("it is %+v", s.State)
		}
	})
}

func TestHoursThatWereMissedAreOneCall(t *testing.T) {
	down := func(r *rig) { r.web.at("wiki.example", nil) }
	up := func(r *rig) { r.web.at("wiki.example", willing) }
	for _, tt := range []struct {
		name        string
		leave, back func(r *rig)
		schedule    delivery.Schedule
	}{
		{"the callback was down", down, up, delivery.Schedule{}},
		{"it was down until it was given up", down, up, delivery.Schedule{Steps: []time.Duration{100 * time.Minute}, Limit: 2}},
		{"the hub was down", func(r *rig) { r.stop() }, (*rig).start, delivery.Schedule{}},
		{"it was paused", func(r *rig) { r.control("pause", "") }, func(r *rig) { r.control("resume", "") }, delivery.Schedule{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r, p := startPress(t, Options{Schedule: tt.schedule})
				r.follow()
				tt.leave(r)
				for range 6 {
					p.close()
					time.Sleep(time.Hour)
				}
				before := len(r.bodies("wiki.example"))
				tt.back(r)
				time.Sleep(8 * time.Hour)
				if got := r.bodies("wiki.example")[before:]; len(got) != 1 || got[0] != fmt.Sprint("state.json of hour ", p.hour) {
					t.Errorf("back again at hour %d it got %q", p.hour, got)
				}
				if s := r.only(); s.State.Behind != 0 || s.State.Failed != 0 || (s.State.GivenUp > 0) != (tt.schedule.Limit > 0) {
					t.Errorf("it is %+v", s.State)
				}
			})
		})
	}
}

// control steers the one subscription as the API does.
func (r *rig) control(action, from string) {
	r.t.Helper()
	at := r.store.Token()
	if from == "oldest" {
		at = r.store.Oldest()
	}
	if action != "replay" {
		at = graph.Cursor{}
	}
	if err := r.hub.Control(r.t.Context(), r.only().ID, action, at); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func TestAReplayOfADigestBringsTheNewestAgainAndTheNextOnesCome(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r, p := startPress(t, Options{})
		for i := range 300 {
			r.edit(fmt.Sprint(i))
		}
		r.follow()
		p.close()
		r.control("replay", "oldest")
		r.control("replay", "now")
		p.close()
		r.gets(t, "state.json of hour 101", "state.json of hour 101", "state.json of hour 101", "state.json of hour 102")
		r.web.at("wiki.example", nil)
		p.close()
		r.web.at("wiki.example", willing)
		before := len(r.bodies("wiki.example"))
		r.control("replay", "now")
		time.Sleep(10 * time.Hour)
		p.close()
		if got := r.bodies("wiki.example")[before:]; !slices.Equal(got, []string{"state.json of hour 103", "state.json of hour 104"}) {
			t.Errorf("one that failed is replayed as %q", got)
		}
	})
}

func TestAnIDNamesOneDocument(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r, p := startPress(t, Options{Schedule: delivery.Schedule{Steps: []time.Duration{time.Minute}, Limit: 100}})
		r.follow()
		r.web.at("wiki.example", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		p.close()
		time.Sleep(150 * time.Second)
		r.again()
		time.Sleep(150 * time.Second)
		p.change(func() { p.edition = "another " }) // as when a day is added up
		time.Sleep(150 * time.Second)
		p.close()
		time.Sleep(150 * time.Second)
		bodies, ids := map[string]string{}, map[string]string{}
		for _, g := range r.web.calls("wiki.example", http.MethodPost) {
			id, body := g.header.Get("Webhook-Id"), string(g.body)
			if b, known := bodies[id]; known && b != body {
				t.Errorf("%s is %q and %q", id, b, body)
			}
			if i, known := ids[body]; known && i != id {
				t.Errorf("%q is %s and %s", body, i, id)
			}
			bodies[id], ids[body] = body, id
		}
		if len(ids) != 3 {
			t.Errorf("sent were %v", ids)
		}
	})
}

func TestAnHourThatIsNotForASubscriberIsNoCallAndNoFailure(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r, p := startPress(t, Options{})
		p.change(func() { p.hour = 0 })
		r.follow()
		if _, err := r.hub.Ping(t.Context(), r.only().ID); err == nil {
			t.Error("there is nothing to ping with")
		}
		p.change(func() { p.hour, p.hidden = 1, true })
		if s := r.only().State; s.Failed != 0 || s.Health != delivery.Active || s.Behind != 0 {
			t.Errorf("it is %+v", s)
		}
		p.change(func() { p.hour, p.hidden = 2, false })
		r.gets(t, "state.json of hour 2")
	})
}

func TestHoursThatAreCountedFromOneAgainAreTold(t *testing.T) {
	for name, begin := range map[string]func(r *rig, p *press){
		"while the hub runs": func(_ *rig, p *press) { p.change(func() { p.hour = 2 }) },
		"while it is down":   func(r *rig, p *press) { r.stop(); p.change(func() { p.hour = 2 }); r.start() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r, p := startPress(t, Options{})
				r.follow()
				p.close()
				begin(r, p)
				p.close()
				r.gets(t, "state.json of hour 101", "state.json of hour 2", "state.json of hour 3")
				if s := r.only().State; s.Behind != 0 {
					t.Errorf("it is %+v", s)
				}
			})
		})
	}
}

func TestASubscriptionToADigestDoesNotGoOnWithAnotherChannelOfItsName(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r, p := startPress(t, Options{})
		r.follow()
		if _, err := r.chans.Delete(t.Context(), "open"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.chans.Put(t.Context(), "open", subscriptions.Definition{Filter: subscriptions.Filter{Host: []string{"en.example.org"}}, Public: true}); err != nil {
			t.Fatal(err)
		}
		p.close()
		r.gets(t)
		r.deniedWith(t, "the topic is no more")
	})
}

// deniedWith checks that the one callback was told that its subscription has ended.
func (r *rig) deniedWith(t *testing.T, why string) {
	t.Helper()
	gets := r.web.calls("wiki.example", http.MethodGet)
	last := gets[len(gets)-1].query
	if last.Get("hub.mode") != "denied" || last.Get("hub.topic") != stateTopic || last.Get("hub.reason") != why {
		t.Errorf("told %v, want denied: %s", last, why)
	}
	if n := r.rows(); n != 0 {
		t.Errorf("%d records are left", n)
	}
}

func TestNothingIsSentOfADigestThatItsSubscriberMayNotReadAnyMore(t *testing.T) {
	hidden := &subscriptions.Refusal{Status: http.StatusUnauthorized}
	for _, tt := range []struct {
		name string
		now  error
		why  string
	}{
		{"it is not public any more", hidden, "the topic is not public"},
		{"its owner may not see all of it any more", &subscriptions.Refusal{Status: http.StatusForbidden}, "the topic is no more"}, // and is not told that it is there
		{"it is no more", subscriptions.ErrNoChannel, "the topic is no more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r, p := startPress(t, Options{})
				r.follow()
				p.change(func() { p.hour, p.refuses = p.hour+1, tt.now })
				r.gets(t)
				r.deniedWith(t, tt.why)
			})
		})
	}
	t.Run("between two tries of an hour, and nobody says so", func(t *testing.T) {
		bubble.Test(t, func(t *testing.T) {
			r, p := startPress(t, Options{})
			r.follow()
			r.web.at("wiki.example", func(w http.ResponseWriter, q *http.Request) {
				if q.Method == http.MethodPost {
					w.WriteHeader(http.StatusBadGateway)
				}
			})
			p.close()
			p.mu.Lock()
			p.refuses = hidden
			p.mu.Unlock()
			time.Sleep(time.Hour)
			r.gets(t, "state.json of hour 101")
			r.deniedWith(t, "the topic is not public")
		})
	})
}

func TestADigestIsDeniedByItsAddress(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r, _ := startPress(t, Options{Policy: Policy{DenyTopics: []string{"/digest/open/feed.json"}}})
		r.follow()
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/feed", "hub.topic", base+"/digest/open/feed.json")
		r.only()
		if err := r.hub.SetPolicy(Policy{DenyTopics: []string{base + "/digest/open/state.json"}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.deniedWith(t, "the operator of the hub denies this topic")
	})
}
