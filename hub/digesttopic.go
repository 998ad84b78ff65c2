package hub

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// sharedBodies and maxShared bound what is kept of documents, and their bytes: all who
	// follow one are called with it within seconds, and those of a few channels are many.
	sharedBodies = 16
	maxShared    = 4 << 20
)

// digestTopics are the digests as topics of WebSub.
type digestTopics struct {
	h      *Hub
	bodies *lru.Cache[string, []byte] // of those that were sent lately, by address and tag

	mu      sync.Mutex
	last    int
	waiting map[string]map[int]func() // who wants to be told, by channel
}

func newDigestTopics(h *Hub) *digestTopics {
	bodies, err := lru.New[string, []byte](sharedBodies)
	if err != nil {
		panic(err) // a size that is positive
	}
	return &digestTopics{h: h, bodies: bodies}
}

// Newest is the number of the newest hour of a channel.
func (t *digestTopics) Newest(channel string) uint64 { return t.h.archive.Newest(channel) }

// asksFor reports whether digests are made of a channel, and whether it is for everybody.
func (h *Hub) asksFor(channel string) (asks, public bool) {
	if channel == channelAll {
		return h.cfg.Digest.All, false
	}
	info, err := h.channels.Get(channel)
	return err == nil && info.Digest, err == nil && info.Public
}

// May reports whether a viewer may read the digests of a channel.
func (t *digestTopics) May(channel string, v subscriptions.Viewer) error {
	switch asks, public := t.h.asksFor(channel); {
	case v.Anonymous && !public:
		return &subscriptions.Refusal{Status: http.StatusUnauthorized, Slug: unauthorized.slug, Detail: "send a token, or ask for the digest of a public channel"}
	case !asks:
		return fmt.Errorf("%w that has a digest: %.80q", subscriptions.ErrNoChannel, channel)
	case public || t.seesWhole(channel, v):
		return nil
	}
	return &subscriptions.Refusal{Status: http.StatusForbidden, Slug: forbidden.slug, Detail: "a digest is read whole, and the token's subscribe does not cover all in it"}
}

// seesWhole reports whether a viewer may see all that the digests of a channel name.
func (t *digestTopics) seesWhole(channel string, v subscriptions.Viewer) bool {
	info, err := t.h.archive.Info(channel)
	switch {
	case v.All:
		return true
	case v.Anonymous || len(v.Prefixes) == 0:
		return false
	case err != nil:
		return true // there is nothing yet
	}
	return !info.Everywhere && !slices.ContainsFunc(info.Origins, func(origin string) bool {
		return !slices.ContainsFunc(v.Prefixes, func(prefix string) bool { return graph.UnderPrefix(origin, prefix) })
	})
}

// Shows reports whether a viewer who may read the digests gets anything at the address of
// a topic now.
func (t *digestTopics) Shows(channel, name string, v subscriptions.Viewer) bool {
	_, err := t.h.archive.Find(channel, name, !t.seesWhole(channel, v))
	return err == nil
}

// Document returns what a viewer gets at the address of a topic now.
func (t *digestTopics) Document(channel, name string, v subscriptions.Viewer) (body []byte, contentType string, err error) {
	// What is found is judged, and not what was there a moment before it.
	f, err := t.h.archive.Find(channel, name, false)
	if no := t.May(channel, v); no != nil {
		return nil, "", no
	}
	if !t.seesWhole(channel, v) {
		f, err = t.h.archive.Find(channel, name, true)
	}
	if err != nil {
		return nil, "", err
	}
	c, err := f.Open("")
	if err != nil {
		return nil, "", err
	}
	defer c.Close()
	key := channel + "/" + name + c.ETag
	if body, ok := t.bodies.Get(key); ok {
		return body, f.Type, nil
	}
	if body, err = io.ReadAll(c); err == nil && len(body) <= maxShared {
		t.bodies.Add(key, body)
	}
	return body, f.Type, err
}

// Watch has news called when an hour of a channel has closed, or channels have changed.
func (t *digestTopics) Watch(channel string, news func()) (stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == nil {
		t.waiting = map[string]map[int]func(){}
	}
	if t.waiting[channel] == nil {
		t.waiting[channel] = map[int]func(){}
	}
	t.last++
	id := t.last
	t.waiting[channel][id] = news
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if delete(t.waiting[channel], id); len(t.waiting[channel]) == 0 {
			delete(t.waiting, channel)
		}
	}
}

// closed tells those who wait for a channel, without the lock: who is told may be about
// to stop.
func (t *digestTopics) closed(channel string) {
	t.mu.Lock()
	told := slices.Collect(maps.Values(t.waiting[channel]))
	t.mu.Unlock()
	for _, news := range told {
		news()
	}
}

// changed tells all: channels may be no more, or not for everybody.
func (t *digestTopics) changed() {
	t.mu.Lock()
	channels := slices.Collect(maps.Keys(t.waiting))
	t.mu.Unlock()
	for _, channel := range channels {
		t.closed(channel)
	}
}
