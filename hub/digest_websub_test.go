package hub

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/digest"
	"github.com/freshwire/freshwire/hub/auth"
	"github.com/mmcdole/gofeed"
)

// startDigestWebSub runs a hub whose public channel has digests, an hour of which passes
// in a second.
func startDigestWebSub(t *testing.T) *webSubHub {
	t.Helper()
	h := startKeyedWebSub(t, func(c *Config) {
		hourly(c)
		c.WebSub.LeaseMin, c.WebSub.LeaseDefault, c.WebSub.LeaseMax = time.Hour, 200*24*time.Hour, 300*24*time.Hour
		c.WebSub.RetryFirst = 10 * time.Second // a few milliseconds of this clock
		c.WebSub.DeliveryTimeout = 10 * time.Second
	})
	h.admin("PUT", "/v1/channels/open", `{"host":["en.example.org"],"public":true,"digest":true}`)
	return h
}

func (h *webSubHub) digestTopic(name string) string {
	return h.testHub.URL() + "/digest/open/" + name
}

func stateIn(t *testing.T, c *gotCall) (s digest.State) {
	t.Helper()
	if err := json.Unmarshal(c.body, &s); err != nil || s.Channel != "open" {
		t.Fatalf("a subscriber is sent %s: %v", c.body, err)
	}
	return s
}

func TestASubscriberOfADigestIsCalledWhenAnHourClosesAlsoAnEmptyOne(t *testing.T) {
	h := startDigestWebSub(t)
	s, feed := newSubscriber(t), newSubscriber(t)
	h.subscribe(s, "/a", "hub.topic", h.digestTopic("state.json"), "hub.secret", "hush")
	h.subscribe(feed, "/a", "hub.topic", h.digestTopic("feed.atom"))
	h.edit(aPage, 1)
	last := uint64(0)
	for n := 1; n <= 5; n++ {
		c := s.await(n, isPost)
		state := stateIn(t, c)
		if state.Seq <= last {
			t.Errorf("call %d is of hour %d, the one before of %d", n, state.Seq, last)
		}
		last = state.Seq
		if c.header.Get("Content-Type") != typeJSON || c.header.Get("X-Hub-Signature") == "" ||
			c.header.Get("Link") != "<"+h.testHub.URL()+`/websub>; rel="hub", <`+h.digestTopic("state.json")+`>; rel="self"` {
			t.Errorf("call %d has %v", n, c.header)
		}
	}
	told := false
	for n := 1; n <= 3; n++ {
		c := feed.await(n, isPost)
		parsed, err := gofeed.NewParser().ParseString(string(c.body))
		if err != nil || parsed.FeedType != "atom" || !strings.HasPrefix(c.header.Get("Content-Type"), "application/atom+xml") {
			t.Fatalf("the feed is %s: %v", c.body, err)
		}
		told = told || strings.Contains(string(c.body), aPage)
	}
	if !told {
		t.Error("no feed had the page")
	}
	a := h.testHub.do("GET", "/digest/open/state.json", "")
	if a.header.Get("Link") != "<"+h.testHub.URL()+`/websub>; rel="hub", <`+h.digestTopic("state.json")+`>; rel="self"` {
		t.Errorf("the topic says %v", a.header)
	}
}

func TestWhoWasDownIsToldOfAllHoursAtOnce(t *testing.T) {
	h := startDigestWebSub(t)
	s := newSubscriber(t)
	h.subscribe(s, "/a", "hub.topic", h.digestTopic("state.json"))
	before := stateIn(t, s.await(1, isPost)).Seq
	s.onTake(answering(http.StatusServiceUnavailable, ""))
	eventually(t, "three hours have passed", func() bool { return h.digests.Newest("open") >= before+3 })
	s.onTake(nil)
	from := s.count(isPost)
	eventually(t, "the subscriber has the newest hour", func() bool {
		list, _ := s.of(isPost)
		return len(list) > from && stateIn(t, list[len(list)-1]).Seq >= before+3
	})
	info := h.find(s.server.URL + "/a")
	if info == nil || info.Delivered == 0 {
		t.Errorf("the subscription is %+v", info)
	}
}

func TestWhoMaySubscribeToADigest(t *testing.T) {
	h := startDigestWebSub(t)
	h.admin("PUT", "/v1/channels/closed", `{"host":["en.example.org","secret.example.org"],"digest":true}`)
	h.admin("PUT", "/v1/channels/plain", `{"host":["en.example.org"],"public":true}`)
	for _, uri := range []string{aPage, "https://secret.example.org/B"} {
		h.edit(uri, 1)
	}
	h.settled()
	h.closed("closed", h.store.Token(), h.bearer(root)...)
	s := newSubscriber(t)
	for _, c := range []struct {
		who   *auth.Rights
		topic string
		want  int
	}{
		{nil, "open/feed.atom", 202}, {nil, "open/feed.json", 202}, {nil, "open/state.json", 202}, {nil, "closed/feed.atom", 401}, {nil, "all/feed.atom", 401}, {nil, "plain/feed.atom", 404},
		{nil, "open/hours.atom", 400}, {nil, "open/feed.atom?lane=prompt", 400}, {nil, "open/", 400}, {nil, "open", 400}, {nil, "open/h/2026/11/22/10/digest.atom", 400},
		{&enwiki, "closed/feed.atom", 404}, {&enwiki, "open/feed.atom", 202}, {&everything, "closed/feed.atom", 202}, {&root, "all/feed.atom", 202}, {&root, "absent/feed.atom", 404},
	} {
		form := h.form(s.server.URL+"/"+url.PathEscape(c.topic), "hub.topic", h.testHub.URL()+"/digest/"+c.topic)
		var a *reply
		if c.who == nil {
			a = h.ask(form)
		} else {
			a = h.askAs(*c.who, form)
		}
		if a.status != c.want {
			t.Errorf("%v asks for %s: got %d %s, want %d", c.who, c.topic, a.status, a.body, c.want)
		}
	}
}

func TestASubscriptionToADigestEndsWithIt(t *testing.T) {
	for name, definition := range map[string]string{
		"the channel has no digest any more":      `{"host":["en.example.org"],"public":true}`,
		"the channel is not public any more":      `{"host":["en.example.org"],"digest":true}`,
		"the channel is deleted":                  "",
		"the operator denies the topic by a path": "deny",
	} {
		t.Run(name, func(t *testing.T) {
			h := startDigestWebSub(t)
			s := newSubscriber(t)
			h.subscribe(s, "/a", "hub.topic", h.digestTopic("state.json"))
			switch definition {
			case "":
				h.admin("DELETE", "/v1/channels/open", "")
			case "deny":
				policy := h.cfg.WebSub.policy()
				policy.DenyTopics = []string{"/digest/open/state.json"}
				if err := h.websub.SetPolicy(policy); err != nil {
					t.Fatal(err)
				}
			default:
				h.admin("PUT", "/v1/channels/open", definition)
			}
			h.denied(s, h.digestTopic("state.json"))
		})
	}
}

func TestADigestIsReplayedAndPingedAsOthersAre(t *testing.T) {
	h := startDigestWebSub(t)
	s := newSubscriber(t)
	id := h.subscribe(s, "/a", "hub.topic", h.digestTopic("state.json")).ID
	first := stateIn(t, s.await(1, isPost))
	h.admin("POST", "/v1/subscriptions/"+id, `{"action":"replay","from":"now"}`)
	eventually(t, "it is told of three more hours after a replay", func() bool {
		list, _ := s.of(isPost)
		return stateIn(t, list[len(list)-1]).Seq >= first.Seq+3
	})
	h.admin("POST", "/v1/subscriptions/"+id, `{"action":"pause"}`)
	eventually(t, "no call is under way", func() bool { return h.find(s.server.URL+"/a").Health == "paused" })
	var pong pingShape
	h.admin("POST", "/v1/subscriptions/"+id, `{"action":"ping"}`).decode(t, &pong)
	list, _ := s.of(isPost)
	if last := list[len(list)-1]; pong.Status != 200 || stateIn(t, last).Seq < first.Seq+3 || !strings.Contains(last.header.Get("Webhook-Id"), ".ping.") {
		t.Errorf("a ping is %+v, %v", pong, last.header)
	}
}

func TestASubscriptionToADigestDoesNotOutliveItsChannel(t *testing.T) {
	h := startDigestWebSub(t)
	s := newSubscriber(t)
	h.subscribe(s, "/a", "hub.topic", h.digestTopic("state.json"))
	s.await(1, isPost)
	h.admin("DELETE", "/v1/channels/open", "")
	h.admin("PUT", "/v1/channels/open", `{"host":["en.example.org"],"public":true,"digest":true}`)
	h.denied(s, h.digestTopic("state.json"))
}

// Hours close while the hub is killed again and again, and while it is down.
func TestAHubThatIsKilledOwesWhoFollowsADigestEachHourThatClosed(t *testing.T) {
	seed := soakSeeds(t)[0]
	t.Logf("SOAK_SEED=%d", seed)
	dice := rand.New(rand.NewPCG(seed, 1))
	clock := time.Date(2026, 11, 22, 20, 30, 0, 0, time.UTC)
	start := func() string { return "CLOCK_START=" + clock.Format(time.RFC3339) }
	h := &crashingHub{startProcess(t, 0, "CALLBACK_ALLOW=127.0.0.0/8", "RETRY_FIRST=10s", "WEBSUB_VERIFY_RATE=10000", "CLOCK_RATE=3600", start())}
	h.send("PUT", "/v1/channels/open", typeJSON, `{"host":["en.example.org"],"public":true,"digest":true}`)
	topic := h.url() + "/digest/open/state.json"
	well, failing := newSubscriber(t), newSubscriber(t)
	for _, s := range []*subscriber{well, failing} {
		h.send("POST", "/websub", typeForm, url.Values{"hub.mode": {"subscribe"}, "hub.callback": {s.server.URL + "/a"}, "hub.secret": {"secret"}, "hub.topic": {topic}}.Encode())
	}
	eventually(t, "both are subscribed", func() bool {
		_, list := h.once("GET", "/v1/subscriptions", typeJSON, "")
		return strings.Count(list, `"id"`) == 2
	})
	taken := map[*subscriber]*uint64{well: new(uint64), failing: new(uint64)}
	for s, newest := range taken {
		n := 0
		s.onTake(func(w http.ResponseWriter, c *gotCall) {
			seq := stateIn(t, c).Seq
			s.mu.Lock()
			defer s.mu.Unlock()
			if n++; s == failing && n%3 != 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			if seq < *newest {
				t.Errorf("after hour %d comes hour %d", *newest, seq)
			}
			*newest = seq
		})
	}
	for kill := range 5 {
		h.edit(aPage, kill)
		pass(time.Duration(dice.IntN(1500)) * time.Millisecond)
		h.kill()
		clock = clock.Add(time.Duration(3+dice.IntN(3)) * time.Hour)
		h.env = append(h.env, envPrefix+start())
		h.start()
		var state digest.State
		eventually(t, "the hours that were missed are there", func() bool {
			_, body := h.once("GET", "/digest/open/state.json", typeJSON, "")
			return json.Unmarshal([]byte(body), &state) == nil && !state.Until.Before(clock.Truncate(time.Hour))
		})
		for s, newest := range taken {
			eventually(t, fmt.Sprint("a subscriber is told of hour ", state.Seq), func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return *newest >= state.Seq
			})
		}
	}
	for s := range taken {
		ids := map[string]string{}
		calls, _ := s.of(isPost)
		for _, c := range calls {
			id := c.header.Get("webhook-id")
			if body, was := ids[id]; was && body != string(c.body) {
				t.Errorf("%s names two documents:\n%s\n%s", id, body, c.body)
			}
			ids[id] = string(c.body)
			if c.header.Get("X-Hub-Signature") == "" {
				t.Errorf("%s is not signed", id)
			}
		}
	}
}
