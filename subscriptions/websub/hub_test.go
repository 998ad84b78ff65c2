package websub

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/internal/bubble"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/delivery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

func TestASubscriberThatWasDownForThreeDaysCatchesUpCompleteAndMerged(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.web.at("wiki.example", willing)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb")
		r.edit("first")
		before := len(r.documents("wiki.example"))
		r.web.at("wiki.example", nil)
		want := map[string]int{}
		for began := time.Now(); time.Since(began) < 3*day; time.Sleep(30 * time.Minute) {
			page := fmt.Sprint(r.edits % 50)
			r.edit(page)
			want[page] = r.edits
			if r.edits == 60 {
				r.again() // and the hub is away for a moment
			}
		}
		tries := len(r.documents("wiki.example")) - before
		r.web.at("wiki.example", willing)
		time.Sleep(day) // at most until the next try
		synctest.Wait()
		all := r.documents("wiki.example")
		taken := all[before+tries:]
		got, notices := map[string]int{}, 0
		for _, d := range taken {
			for _, n := range d.Notices {
				var v int
				fmt.Sscan(n.Version, &v)
				page := n.URI[strings.LastIndexByte(n.URI, '/')+1:]
				got[page] = max(got[page], v)
				notices++
			}
		}
		for page, v := range want {
			if got[page] != v {
				t.Errorf("%s: it heard of %d, and the newest is %d", page, got[page], v)
			}
		}
		if len(taken) > 3 || notices > 3*len(want) || tries > 30 {
			t.Errorf("%d tries, then %d documents with %d notices about %d pages, after %d edits", tries, len(taken), notices, len(want), r.edits)
		}
		t.Logf("%d edits of %d pages in 3 days: %d tries, then %d documents with %d notices", r.edits, len(want), tries, len(taken), notices)
		if s := r.only(); s.State.Behind != 0 || s.State.Failed != 0 {
			t.Errorf("it is %+v", s.State)
		}
	})
}

func TestALeaseIsAsLongAsItWasWhateverTheHubDoes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.web.at("wiki.example", willing)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb", "hub.lease_seconds", "36000")
		began := time.Now()
		for i := range 12 {
			if i == 5 {
				r.again()
			}
			r.edit("page")
			time.Sleep(time.Hour)
		}
		posts := r.web.calls("wiki.example", http.MethodPost)
		last := posts[len(posts)-1].at.Sub(began)
		if len(posts) != 10 || last >= 10*time.Hour {
			t.Errorf("%d deliveries, the last one after %s", len(posts), last)
		}
		if list, _ := r.hub.List("", 10, nil); len(list) != 0 {
			t.Errorf("there are %+v", list)
		}
		if gets := r.web.calls("wiki.example", http.MethodGet); len(gets) != 1 {
			t.Errorf("its end was told: %d calls", len(gets))
		}
		if n := r.rows(); n != 0 {
			t.Errorf("%d records are left", n)
		}
		if s := r.hub.Stats(); s.Ended["lease"] != 1 {
			t.Errorf("counted %+v", s)
		}
	})
}

func TestASubscriptionForWhichTheEngineHasNoRoomYetMissesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.web.at("wiki.example", willing)
		r.full.Store(true)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb")
		r.edit("first")
		time.Sleep(time.Hour)
		r.again()
		time.Sleep(time.Hour)
		if n := len(r.documents("wiki.example")); n != 0 {
			t.Errorf("%d documents without room to note that they were taken", n)
		}
		r.full.Store(false)
		time.Sleep(time.Hour)
		if list := r.documents("wiki.example"); len(list) != 1 || len(list[0].Notices) != 1 {
			t.Errorf("with room it got %+v", list)
		}
	})
}

// rows counts the records of the room and of its outlets.
func (r *rig) rows() (n int) {
	r.t.Helper()
	for _, prefix := range []string{"websub/", "delivery/"} {
		err := r.store.Records(prefix, func(key string, _ []byte) error {
			if !strings.HasPrefix(key, recordOwner) {
				n++
			}
			return nil
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	return n
}

func TestEachDocumentNamesTheOneBeforeAcrossIdleHoursAndRestarts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.web.at("wiki.example", willing)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb")
		others := 0
		for i := range 20 {
			r.edit("page")
			for range 30 { // what others are told
				others++
				if _, err := r.store.Apply(t.Context(), "wiki", []graph.Update{{URI: "https://de.example.org/wiki/A", Version: fmt.Sprint(others)}}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
			}
			if i%3 == 2 {
				r.again()
			}
		}
		list := r.documents("wiki.example")
		for i := 1; i < len(list); i++ {
			if list[i].Prev != list[i-1].Last || list[i].First <= list[i-1].Last {
				t.Errorf("document %d follows one up to %d: %+v", i, list[i-1].Last, list[i])
			}
		}
		if len(list) != 20 {
			t.Errorf("%d documents:\n%s", len(list), text(list))
		}
	})
}

func TestWhatTheJournalHasLostIsToldInTheNextDocument(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{Schedule: delivery.Schedule{Steps: []time.Duration{time.Minute}, Limit: 1000}})
		r.stop()
		r.keep = 10 * time.Minute
		r.start()
		r.web.at("wiki.example", willing)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb")
		r.edit("first")
		r.web.at("wiki.example", nil)
		for range 40 {
			r.edit("page")
			time.Sleep(time.Minute)
		}
		r.web.at("wiki.example", willing)
		time.Sleep(2 * time.Minute)
		list := r.documents("wiki.example")
		last := list[len(list)-1]
		if last.Reset == nil || last.Reset.Reason != "trimmed" || len(last.Notices) == 0 || last.Notices[len(last.Notices)-1].Version != fmt.Sprint(r.edits) {
			t.Errorf("the last document is %+v", last)
		}
		r.edit("page")
		time.Sleep(time.Minute)
		list = r.documents("wiki.example")
		if next := list[len(list)-1]; next.Reset != nil || next.Prev != last.Last {
			t.Errorf("after %+v comes %+v", last, next)
		}
	})
}

func TestASubscriberOfARestoredHubIsToldSo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.web.at("wiki.example", willing)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb")
		r.edit("page")
		time.Sleep(time.Minute)
		r.stop()
		if _, _, err := graph.Renew("store", graph.Options{FS: r.fs, Cache: 8 << 20}); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.edit("page")
		time.Sleep(time.Minute)
		r.edit("page")
		time.Sleep(time.Minute)
		var prompt []delivered
		for _, d := range r.documents("wiki.example") {
			if d.Lane == "prompt" {
				prompt = append(prompt, d)
			}
		}
		if len(prompt) < 3 {
			t.Fatalf("got\n%s", text(prompt))
		}
		last := prompt[len(prompt)-1]
		resets := 0
		for _, d := range prompt {
			if d.Reset != nil {
				resets++
			}
		}
		if resets != 1 || last.Reset != nil || last.Epoch == prompt[0].Epoch || last.Prev != prompt[len(prompt)-2].Last {
			t.Errorf("got\n%s", text(prompt))
		}
	})
}

func TestAVerificationThatFindsNobodyIsTriedAgainForAWhile(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.subscribe(stranger("192.0.2.1"), "https://late.example/cb")
		r.subscribe(stranger("192.0.2.1"), "https://never.example/cb")
		r.web.at("broken.example", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		r.subscribe(stranger("192.0.2.1"), "https://broken.example/cb")
		time.Sleep(time.Second)
		r.web.at("late.example", willing)
		time.Sleep(time.Hour)
		if got := r.only(); got.Callback != "https://late.example/cb" {
			t.Errorf("subscribed is %+v", got)
		}
		for host, want := range map[string]int{"late.example": 2, "never.example": 3, "broken.example": 3} {
			if n := len(r.web.calls(host, http.MethodGet)); n != want {
				t.Errorf("%s was asked %d times, want %d", host, n, want)
			}
		}
		if s := r.hub.Stats(); s.Pending != 0 || s.Verified["subscribe confirmed"] != 1 || s.Verified["subscribe unheard"] != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestOneOwnersHangingCallbacksHoldUpNobodyElse(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		hostile := wiki("hostile", "https://en.example.org")
		for i := range 400 {
			host := fmt.Sprintf("%d.hang.example", i)
			r.web.at(host, hanging)
			if err := r.ask(hostile, "https://"+host+"/"); err != nil {
				t.Fatal(err)
			}
		}
		r.web.at("wiki.example", willing)
		began := time.Now()
		r.subscribe(wiki("wiki", "https://en.example.org"), "https://wiki.example/cb")
		if got := r.only(); got.Callback != "https://wiki.example/cb" || time.Since(began) > time.Second {
			t.Errorf("after %s: %+v", time.Since(began), got)
		}
	})
}

func TestWhatIsOwedIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{PerOwner: 100_000})
		limited := func(err error, limit int) {
			t.Helper()
			var full *LimitError
			if !errors.As(err, &full) || full.Limit != limit || full.Retry != time.Minute {
				t.Errorf("got %v, want the limit of %d", err, limit)
			}
		}
		r.web.at("one.example", hanging)
		for i := range 20 {
			if err := r.ask(wiki("a", "https://en.example.org"), fmt.Sprintf("https://one.example:%d/%d", 1000+i, i)); err != nil {
				t.Fatal(err)
			}
		}
		limited(r.ask(wiki("b", "https://en.example.org"), "https://One.Example./more"), 20)
		for i := range 480 {
			if err := r.ask(wiki("a", "https://en.example.org"), fmt.Sprintf("https://%d.example/", i)); err != nil {
				t.Fatal(i, err)
			}
		}
		limited(r.ask(wiki("a", "https://en.example.org"), "https://more.example/"), 500)
		for i := range 50 {
			if err := r.ask(stranger("192.0.2.1"), fmt.Sprintf("https://%d.example.net/", i)); err != nil {
				t.Fatal(i, err)
			}
		}
		limited(r.ask(stranger("192.0.2.1"), "https://more.example/"), 50)
		if err := r.ask(stranger("192.0.2.2"), "https://more.example/"); err != nil {
			t.Errorf("another is refused: %v", err)
		}
		if err := r.ask(wiki("a", "https://en.example.org"), "https://one.example:1000/0"); err != nil {
			t.Errorf("what is asked for again is refused: %v", err)
		}
	})
}

func TestTheNewestTokenCountsAlsoAfterARestart(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.web.at("wiki.example", willing)
		wide, narrow := wiki("wiki", "https://en.example.org"), wiki("wiki", "https://de.example.org")
		narrow.Issued = wide.Issued.Add(time.Second)
		resource := []string{"hub.topic", base + "/topics/resource?uri=https%3A%2F%2Fen.example.org%2Fwiki%2FA"}
		r.subscribe(wide, "https://wiki.example/a", resource...)
		r.subscribe(narrow, "https://wiki.example/open")
		if got := r.only(); got.Callback != "https://wiki.example/open" {
			t.Errorf("in force is %+v", got)
		}
		r.again()
		var no *subscriptions.Refusal
		if err := r.ask(wide, "https://wiki.example/a", resource...); !errors.As(err, &no) || no.Status != http.StatusForbidden {
			t.Errorf("the older token is let in: %v", err)
		}
		wide.Issued = narrow.Issued.Add(time.Second)
		r.subscribe(wide, "https://wiki.example/a", resource...)
		if list, _ := r.hub.List("", 10, nil); len(list) != 2 {
			t.Errorf("in force are %+v", list)
		}
	})
}

func TestADenialThatIsOwedIsToldAfterARestart(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.web.at("wiki.example", willing)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb?a=b")
		r.web.at("wiki.example", hanging)
		if _, err := r.chans.Delete(t.Context(), "open"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.again()
		r.web.at("wiki.example", func(http.ResponseWriter, *http.Request) {})
		time.Sleep(time.Minute)
		gets := r.web.calls("wiki.example", http.MethodGet)
		last := gets[len(gets)-1]
		if last.query.Get("hub.mode") != "denied" || last.query.Get("a") != "b" || last.query.Get("hub.topic") != base+"/topics/open" {
			t.Errorf("told %v", last.query)
		}
		if n := r.rows(); n != 0 || r.hub.Stats().Pending != 0 {
			t.Errorf("%d records are left, %+v", n, r.hub.Stats())
		}
	})
}

func TestAnObservingHubCallsNobody(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.web.at("wiki.example", willing)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb")
		r.stop()
		r.options.Observe = true
		r.start()
		if err := r.ask(stranger("192.0.2.1"), "https://wiki.example/more"); !errors.Is(err, ErrObserving) {
			t.Errorf("a request: %v", err)
		}
		calls := len(r.web.calls("wiki.example", http.MethodGet))
		r.edit("page")
		time.Sleep(time.Hour)
		if n := len(r.documents("wiki.example")) + len(r.web.calls("wiki.example", http.MethodGet)) - calls; n != 0 {
			t.Errorf("%d calls", n)
		}
		if _, err := r.hub.Ping(t.Context(), r.only().ID); !errors.Is(err, ErrObserving) {
			t.Errorf("a ping: %v", err)
		}
		r.stop()
		r.options.Observe = false
		r.start()
		time.Sleep(time.Minute)
		if n := len(r.documents("wiki.example")); n != 1 {
			t.Errorf("%d documents when it is normal again", n)
		}
	})
}

func TestAWindowLetsSoManyThroughAndNotOneMore(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := newLimiter(3, func() time.Time { return now })
	for _, tt := range []struct {
		after time.Duration
		to    string
		wait  time.Duration
	}{
		{0, "a", 0}, {10 * time.Second, "a", 0}, {10 * time.Second, "a", 0}, {0, "a", 40 * time.Second}, {0, "b", 0},
		{39 * time.Second, "a", time.Second}, {time.Second, "a", 0}, {0, "a", 10 * time.Second}, {time.Hour, "a", 0}, {0, "a", 0}, {0, "a", 0}, {0, "a", time.Minute},
	} {
		now = now.Add(tt.after)
		if wait := l.book(tt.to); wait != tt.wait {
			t.Errorf("at %s to %s: wait %s, want %s", now, tt.to, wait, tt.wait)
		}
	}
	if len(l.calls) != 1 {
		t.Errorf("%d targets are counted", len(l.calls))
	}
}

func TestMoreTargetsThanCanBeCountedHaveToWait(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := newLimiter(3, func() time.Time { return now })
	for i := range maxWindows {
		l.book(fmt.Sprint(i))
	}
	if wait := l.book("more"); wait == 0 {
		t.Error("one more is let through")
	}
	if wait := l.book("7"); wait != 0 {
		t.Errorf("one that is counted has to wait %s", wait)
	}
	now = now.Add(window)
	if wait := l.book("more"); wait != 0 {
		t.Errorf("after a minute it has to wait %s", wait)
	}
}

func TestSecretsAndQueriesOfCallbacksAreInNoLog(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log lockedLog
		r := newRig(t, Options{Schedule: delivery.Schedule{Steps: []time.Duration{time.Minute}, Limit: 3}, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		r.web.at("wiki.example", willing)
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/cb?key=hush", "hub.secret", "hush")
		r.web.at("wiki.example", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); io.WriteString(w, "hush") })
		r.subscribe(stranger("192.0.2.1"), "https://wiki.example/more?key=hush", "hub.secret", "hush")
		r.edit("page")
		time.Sleep(time.Hour)
		if text := log.String(); strings.Contains(text, "hush") || strings.Contains(text, "wiki.example") || text == "" {
			t.Errorf("the log has\n%s", text)
		}
		if s := r.only(); strings.Contains(fmt.Sprintf("%+v", s.State), "hush") || strings.Contains(s.Shown, "hush") {
			t.Errorf("shown is %+v", s)
		}
	})
}

// A lockedLog is what was logged by all goroutines of a hub.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
