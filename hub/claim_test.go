package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/auth"
	"github.com/freshwire/freshwire/subscriptions"
)

// makeReady has n extracts of pages under a prefix be ready, and returns their URIs.
func makeReady(put func(body string), prefix string, n int) (uris []string) {
	var pages, extracts, edits []string
	for i := range n {
		page := fmt.Sprintf("%s/P%d", prefix, i)
		pages = append(pages, `{"uri":"`+page+`","version":"10"}`)
		extracts = append(extracts, `{"uri":"`+page+`#extract","type":"extract","hash":"old","deps":[{"uri":"`+page+`","seen":"10"}]}`)
		edits = append(edits, `{"uri":"`+page+`","version":"11","id":"edit"}`)
		uris = append(uris, page+"#extract")
	}
	for _, part := range [][]string{pages, extracts, edits} {
		put("[" + strings.Join(part, ",") + "]")
	}
	return uris
}

// readable waits until what was told can be read.
func (h *testHub) readable() {
	told, feed := h.store.Token(), h.streams.FilterFeed(new(subscriptions.Matcher))
	for feed.Head().Seq < told.Seq {
		<-time.After(time.Millisecond)
	}
}

// claims asks for work and expects so many claims.
func claims(t *testing.T, a *reply, want int) []claimShape {
	t.Helper()
	var got struct{ Claims []claimShape }
	if a.status != 200 {
		t.Fatalf("claims are answered %d %s", a.status, a.body)
	}
	a.decode(t, &got)
	if len(got.Claims) != want {
		t.Fatalf("got %d claims, want %d: %s", len(got.Claims), want, a.body)
	}
	return got.Claims
}

func TestWorkIsClaimedExtendedGivenBackAndFinishedByAnUpdate(t *testing.T) {
	h := startHub(t, nil)
	claims(t, h.do("POST", "/v1/claims", `{"types":["extract","html"],"wait_s":0}`), 0)
	uris := makeReady(func(body string) { h.put(body) }, "https://e.example/wiki", 4)
	h.readable()
	got := claims(t, h.do("POST", "/v1/claims", `{"types":["extract","html"],"max":3,"lease_s":600,"wait_s":30}`), 3)
	for i, c := range got {
		var n struct{ Kind, URI, Type, Cause any }
		if err := json.Unmarshal(c.Notice, &n); err != nil || n.Kind != "refresh" || n.URI != c.URI || n.Cause == nil {
			t.Errorf("the notice of %s is %s, %v", c.URI, c.Notice, err)
		}
		if c.URI != uris[i] || c.Type != "extract" || c.Token == "" || time.Until(c.LeaseUntil) < 9*time.Minute {
			t.Errorf("claim %d is %+v, want one of %s for ten minutes", i, c, uris[i])
		}
	}
	rest := claims(t, h.do("POST", "/v1/claims", `{"channel":"host:e.example"}`), 1)
	claims(t, h.do("POST", "/v1/claims", `{"types":["extract"],"max":1000,"wait_s":0}`), 0)
	act := func(c claimShape, body string, want int) *reply {
		t.Helper()
		a := h.do("POST", "/v1/claims/"+c.ID, body)
		if a.status != want {
			t.Errorf("%s: got %d %s, want %d", body, a.status, a.body, want)
		}
		return a
	}
	var longer claimState
	act(got[0], `{"action":"extend","lease_s":3600}`, 200).decode(t, &longer)
	if longer.ID != got[0].ID || longer.URI != got[0].URI || longer.LeaseUntil.Before(got[0].LeaseUntil.Add(40*time.Minute)) {
		t.Errorf("extended it is %+v, and was %+v", longer, got[0])
	}
	act(got[1], `{"action":"release"}`, 200)
	act(got[1], `{"action":"extend"}`, 404)
	act(got[2], `{"action":"fail"}`, 200)
	if again := claims(t, h.do("POST", "/v1/claims", `{"types":["extract"],"max":10,"wait_s":30}`), 1); again[0].URI != uris[1] {
		t.Errorf("after one was given back got %+v", again)
	}
	for _, c := range []claimShape{got[0], rest[0]} {
		h.put(`{"uri":"` + c.URI + `","hash":"new","token":"` + c.Token + `"}`)
		if a := h.do("GET", "/v1/resource"+uriQuery(c.URI), ""); !strings.Contains(string(a.body), `"state":"clean"`) {
			t.Errorf("after it was made: %s", a.body)
		}
		act(c, `{"action":"fail"}`, 404)
	}
	text := string(h.do("GET", "/metrics", "").body)
	for _, want := range []string{"claims_total 5", "claims_extended_total 1", "claims_released_total 1", "claims_failed_total 1", "claim_polls 0", "claim_pools 3"} {
		if !strings.Contains(text, "\nfreshwire_"+want+"\n") {
			t.Errorf("the metrics do not say %s", want)
		}
	}
}

func TestATokenIsGivenWorkThatItCoversAndItsClaimsAreItsOwn(t *testing.T) {
	h := startKeyedHub(t, nil)
	put := func(body string) {
		if a := h.as(root, "POST", "/v1/updates", body); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	en, secret := makeReady(put, "https://en.example.org/wiki", 3), makeReady(put, "https://secret.example.org/wiki", 3)
	const all = `{"types":["extract"],"max":100,"wait_s":0,"lease_s":600}`
	got := claims(t, h.as(enwiki, "POST", "/v1/claims", all), len(en))
	for _, c := range got {
		if !strings.HasPrefix(c.URI, "https://en.example.org/") {
			t.Errorf("enwiki is given %s", c.URI)
		}
	}
	theirs := claims(t, h.as(dewiki, "POST", "/v1/claims", `{"channel":"all","max":100,"wait_s":0}`), len(secret))
	for who, r := range map[string]auth.Rights{"another": dewiki, "an administrator": root} {
		for _, action := range []string{"extend", "fail", "release"} {
			if a := h.as(r, "POST", "/v1/claims/"+got[0].ID, `{"action":"`+action+`"}`); a.status != 404 {
				t.Errorf("%s may %s a claim: %d", who, action, a.status)
			}
		}
	}
	if a := h.as(dewiki, "POST", "/v1/claims/"+theirs[0].ID, `{"action":"release"}`); a.status != 200 {
		t.Errorf("its holder may not give it back: %d %s", a.status, a.body)
	}
	reader := auth.Rights{Subject: "mirror", Subscribe: auth.Prefixes{"*"}}
	writer := auth.Rights{Subject: "blind", Publish: auth.Prefixes{"*"}}
	for who, a := range map[string]*reply{
		"who may make nothing": h.as(reader, "POST", "/v1/claims", all), "who sees nothing": h.as(writer, "POST", "/v1/claims", all),
		"who sees nothing of a channel": h.as(writer, "POST", "/v1/claims", `{"channel":"all"}`),
	} {
		if a.status != 403 {
			t.Errorf("%s is answered %d %s", who, a.status, a.body)
		}
	}
	for _, path := range []string{"/v1/claims", "/v1/claims/00000001.1"} {
		if a := h.do("POST", path, all); a.status != 401 {
			t.Errorf("a stranger is answered %d %s", a.status, a.body)
		}
	}
	everything := auth.Rights{Subject: "farm", Publish: auth.Prefixes{"*"}, Subscribe: auth.Prefixes{"*"}}
	if c := claims(t, h.as(everything, "POST", "/v1/claims", `{"types":["extract"],"wait_s":30}`), 1); c[0].URI != theirs[0].URI {
		t.Errorf("who may make everything is given %s, want what was given back", c[0].URI)
	}
}

// deadlines is a connection that notes what is asked of it.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

func TestAPollOutlivesTheDeadlinesOfOtherRequests(t *testing.T) {
	h := startHub(t, nil)
	ctx, leave := context.WithCancel(context.Background())
	r := httptest.NewRequest("POST", "/v1/claims", strings.NewReader(`{"types":["extract"],"wait_s":60}`)).WithContext(ctx)
	r.Host = "127.0.0.1"
	w := &deadlines{ResponseRecorder: httptest.NewRecorder(), read: time.Now()}
	done := make(chan struct{})
	go func() {
		h.api.Handler.ServeHTTP(w, r)
		close(done)
	}()
	for h.claims.Stats().Polls == 0 {
		<-time.After(time.Millisecond)
	}
	leave()
	<-done
	if !w.read.IsZero() || time.Until(w.write) < time.Minute+answerDeadline/2 {
		t.Errorf("a poll of a minute must have been read by %s and written by %s", w.read, w.write)
	}
}

func TestAPollIsAnsweredWhenTheHubEnds(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", t.TempDir(), minCache
	h, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Post(h.URL()+"/v1/claims", typeJSON, strings.NewReader(`{"types":["extract"],"wait_s":60}`))
		if err != nil {
			answered <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answered <- fmt.Sprintf("%d %s %s", resp.StatusCode, resp.Header.Get("Retry-After"), body)
	}()
	for h.claims.Stats().Polls == 0 {
		<-time.After(time.Millisecond)
	}
	began := time.Now()
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if got := <-answered; !strings.HasPrefix(got, "503 5") || !strings.Contains(got, shuttingDown.slug) || time.Since(began) > drainDeadline/2 {
		t.Errorf("the poll is answered %s after %s", got, time.Since(began))
	}
	http.DefaultClient.CloseIdleConnections()
}
