package hub

import (
	"encoding/json"
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
