package claim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

func TestAPollIsGivenWhatIsReadyAndEndsItByAnUpdate(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	uris := r.extracts("a.example", 5, false)
	got := r.claim(local(), ofType(3, 0))
	if !slices.Equal(urisOf(got), uris[:3]) {
		t.Fatalf("got %v, want the first three of %v", urisOf(got), uris)
	}
	for _, h := range got {
		n := h.Notice
		if n.Kind != graph.KindRefresh || n.URI != h.URI || n.Type != "extract" || h.Token.IsZero() || r.state(h.URI) != graph.Pending {
			t.Errorf("got %+v, %s", h, r.state(h.URI))
		}
	}
	rest := r.claim(local(), ofType(100, 0))
	if !slices.Equal(urisOf(rest), uris[3:]) {
		t.Errorf("got %v after the first three of %v", urisOf(rest), uris)
	}
	if more := r.claim(local(), ofType(100, 0)); len(more) > 0 {
		t.Errorf("got %v although all is held", urisOf(more))
	}
	r.finish(append(got, rest...)...)
	for _, uri := range uris {
		if st := r.state(uri); st != graph.Clean {
			t.Errorf("%s is %s after it was made", uri, st)
		}
	}
	if s := r.desk.Stats(); s.Handed != 5 || s.Polls != 0 || s.Pools != 1 {
		t.Errorf("the desk counts %+v", s)
	}
}

func TestAPollWaitsForWorkAndGivesUpInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	if got := r.claim(local(), ofType(1, 10*time.Millisecond)); len(got) > 0 {
		t.Errorf("got %v of nothing", urisOf(got))
	}
	answers := make(chan []Handed, 1)
	go func() { answers <- r.claim(local(), ofType(1, soon)) }()
	r.until(func() bool { return r.desk.Stats().Polls == 1 }, "the poll does not wait")
	uris := r.extracts("a.example", 1, false)
	if got := <-answers; !slices.Equal(urisOf(got), uris) {
		t.Errorf("got %v, want %v", urisOf(got), uris)
	}
}

func TestWhoseLeaseEndsFailsOrIsGivenBackComesRoundAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	uris := r.extracts("a.example", 3, false)
	q := ofType(3, soon)
	q.Lease = 30 * time.Second
	got := r.claim(local(), q)
	ctx := context.Background()
	for i, end := range []func(id string) error{
		func(string) error { return nil }, // the lease ends
		func(id string) error { return r.desk.Release(ctx, "local", id, false) },
		func(id string) error { return r.desk.Release(ctx, "local", id, true) },
	} {
		if err := end(got[i].ID); err != nil {
			t.Errorf("claim %d: %v", i, err)
		}
	}
	seen := map[string]time.Time{}
	for len(seen) < 3 {
		q := ofType(3, soon)
		for _, h := range r.claim(local(), q) {
			seen[h.URI] = h.LeaseUntil.Add(-q.Lease)
		}
	}
	if at := seen[uris[0]]; at.Before(got[0].LeaseUntil) {
		t.Errorf("handed out again at %s, and the lease lasted until %s", at, got[0].LeaseUntil)
	}
	if err := r.desk.Release(ctx, "local", got[1].ID, false); !errors.Is(err, ErrUnknown) {
		t.Errorf("the earlier claim is given back again: %v", err)
	}
}

func TestALeaseIsExtended(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	r.extracts("a.example", 1, false)
	q := ofType(1, 0)
	q.Lease = time.Minute
	h := r.claim(local(), q)[0]
	c, err := r.desk.Extend(context.Background(), "local", h.ID, graph.MaxLease)
	if err != nil || c.ID != h.ID || c.URI != h.URI || c.LeaseUntil.Before(h.LeaseUntil.Add(50*time.Minute)) {
		t.Errorf("extended: %+v, %v; it was %+v", c, err, h)
	}
	if _, err := r.desk.Extend(context.Background(), "local", h.ID, 2*graph.MaxLease); err == nil {
		t.Error("a lease of two hours is given")
	}
	r.finish(h)
	if _, err := r.desk.Extend(context.Background(), "local", h.ID, graph.MaxLease); !errors.Is(err, ErrUnknown) {
		t.Errorf("a claim that is over is extended: %v", err)
	}
}

func TestAClaimIsItsHoldersAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	r.extracts("a.example", 1, false)
	h := r.claim(holder("ann", "https://a.example/"), ofType(1, 0))[0]
	inner, sum, _ := strings.Cut(h.ID[9:], ".")
	ids := map[string][2]string{
		"of another":          {"bob", h.ID},
		"of nobody":           {"", h.ID},
		"with the graph's id": {"ann", h.ID[:9] + inner},
		"with another sum":    {"ann", h.ID[:9] + inner + "." + strings.Repeat("A", len(sum))},
		"with a shorter sum":  {"ann", h.ID[:len(h.ID)-2]},
		"of another resource": {"ann", h.ID[:9] + "1." + sum},
		"empty":               {"ann", ""},
		"a text":              {"ann", "…"},
	}
	ctx := context.Background()
	for name, c := range ids {
		if _, err := r.desk.Extend(ctx, c[0], c[1], time.Minute); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: extended: %v", name, err)
		}
		for _, failed := range []bool{false, true} {
			if err := r.desk.Release(ctx, c[0], c[1], failed); !errors.Is(err, ErrUnknown) {
				t.Errorf("%s: given back: %v", name, err)
			}
		}
	}
	r.restart() // the key lasts
	if err := r.desk.Release(ctx, "ann", h.ID, false); err != nil {
		t.Errorf("its holder may not give it back: %v", err)
	}
}

func TestNothingIsHandedOutThatTheClaimerMayNotMakeOrSee(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	a, b := r.extracts("a.example", 20, false), r.extracts("b.example", 20, false)
	for name, c := range map[string]Claimer{
		"makes b and sees a": {Name: "x", Publish: []string{"https://b.example/"}, Viewer: subscriptions.Viewer{Prefixes: []string{"https://a.example/"}}},
		"makes nothing":      {Name: "x", Viewer: subscriptions.Viewer{All: true}},
		"elsewhere":          holder("x", "https://b.example/wiki/P"),
	} {
		if got := r.claim(c, ofType(100, 0)); len(got) > 0 {
			t.Errorf("who %s got %v", name, urisOf(got))
		}
	}
	if _, err := r.desk.Claim(context.Background(), Claimer{Name: "x", All: true}, ofType(1, 0)); err == nil {
		t.Error("who sees nothing may ask")
	}
	if got := r.claim(holder("ann", "https://a.example/"), ofType(100, 0)); !slices.Equal(urisOf(got), a) {
		t.Errorf("ann got %v, want all of a.example", urisOf(got))
	}
	some := holder("bob", b[3], "https://a.example/", b[5])
	if got := r.claim(some, ofType(100, 0)); !slices.Equal(urisOf(got), []string{b[3], b[5]}) {
		t.Errorf("bob got %v, want two of b.example", urisOf(got))
	}
	if got := r.claim(local(), ofType(100, 0)); len(got) != len(b)-2 {
		t.Errorf("what was not theirs: got %v, want the rest of b.example", urisOf(got))
	}
}

func TestAClaimerDoesNotLearnOfACauseThatItMayNotSee(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	r.claim(local(), ofType(1, 0))
	r.claim(holder("ann", "https://a.example/"), ofType(1, 0)) // both read the journal from here on
	r.apply(graph.Update{URI: "https://secret.example/T", Version: "10"},
		graph.Update{URI: "https://a.example/x", Type: "extract", Hash: "h", Deps: []graph.Dep{{URI: "https://secret.example/T", Seen: "10"}}})
	r.apply(graph.Update{URI: "https://secret.example/T", Version: "11", ID: "u"})
	h := r.claim(holder("ann", "https://a.example/"), ofType(1, soon))[0]
	if h.Notice.Cause != (graph.Cause{}) {
		t.Errorf("ann is told the cause %+v", h.Notice.Cause)
	}
	if err := r.desk.Release(context.Background(), "ann", h.ID, false); err != nil {
		t.Fatal(err)
	}
}

func TestAChannelsWorkIsFoundAlsoWhenTheChannelChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	ctx := context.Background()
	uris := r.extracts("a.example", 10, false)
	define := func(uris ...string) {
		t.Helper()
		if _, _, err := r.channels.Put(ctx, "work", subscriptions.Definition{Filter: subscriptions.Filter{URI: uris}}); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(wait time.Duration) []string {
		t.Helper()
		return urisOf(r.claim(local(), Request{Channel: "work", Max: 100, Lease: graph.MaxLease, Wait: wait}))
	}
	if _, err := r.desk.Claim(ctx, local(), Request{Channel: "work", Max: 1, Lease: time.Minute}); !errors.Is(err, subscriptions.ErrNoChannel) {
		t.Errorf("of a channel that is not there: %v", err)
	}
	define(uris[0])
	if got := ask(0); !slices.Equal(got, uris[:1]) {
		t.Errorf("got %v, want the one on the list", got)
	}
	if _, err := r.channels.Edit(ctx, "work", uris[1:3], nil); err != nil {
		t.Fatal(err)
	}
	if got := ask(0); !slices.Equal(got, uris[1:3]) {
		t.Errorf("got %v, want those that were put on the list", got)
	}
	answers := make(chan []string, 1)
	go func() { answers <- ask(soon) }()
	r.until(func() bool { return r.desk.Stats().Polls == 1 }, "the poll does not wait")
	if _, err := r.channels.Edit(ctx, "work", uris[3:4], nil); err != nil {
		t.Fatal(err)
	}
	if got := <-answers; !slices.Equal(got, uris[3:4]) {
		t.Errorf("who waits got %v, want what was put on the list meanwhile", got)
	}
	define(uris[4])
	if got := ask(0); !slices.Equal(got, uris[4:5]) {
		t.Errorf("got %v after the channel was replaced", got)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := r.desk.Claim(ctx, local(), Request{Channel: "work", Max: 1, Lease: time.Minute, Wait: MaxWait})
		ended <- err
	}()
	r.until(func() bool { return r.desk.Stats().Polls == 1 }, "the poll does not wait")
	if _, err := r.channels.Delete(ctx, "work"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, subscriptions.ErrNoChannel) {
		t.Errorf("who waits for a channel that is deleted is told %v", err)
	}
	define(uris[5])
	if got := ask(0); !slices.Equal(got, uris[5:6]) {
		t.Errorf("got %v of a new channel of that name", got)
	}
	if got := urisOf(r.claim(local(), Request{Channel: "host:a.example", Max: 100, Lease: time.Minute})); !slices.Equal(got, uris[6:]) {
		t.Errorf("got %v of a built-in channel, want the rest", got)
	}
}

func TestWhatWasToldBeforeTheJournalBeginsIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		when             string
		before, restarts bool // the pool was there before the work; the hub begins anew
	}{{"a pool is new", false, false}, {"a pool is behind", true, false}, {"a pool is behind when the hub begins", true, true}} {
		t.Run(c.when, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, graph.Options{KeepAge: time.Minute})
			if c.before {
				r.claim(local(), ofType(1, 0))
			}
			uris := r.extracts("a.example", 600, false)
			var got []string
			if c.before { // some of what is told is read
				first := r.claim(local(), ofType(100, 0))
				r.finish(first...)
				got = urisOf(first)
			}
			told := r.store.Token()
			r.until(func() bool {
				r.apply(graph.Update{URI: "https://b.example/clock", Version: fmt.Sprint(r.now().UnixNano())})
				return r.store.Oldest().Seq > told.Seq
			}, "the journal is not trimmed")
			if c.restarts {
				r.restart()
			}
			r.caughtUp()
			for len(got) < len(uris) {
				part := r.claim(local(), ofType(70, 0))
				if len(part) == 0 {
					break
				}
				got = append(got, urisOf(part)...)
			}
			if slices.Sort(got); !slices.Equal(got, uris) {
				t.Errorf("got %d, want the %d there are", len(got), len(uris))
			}
			if resets := r.desk.Stats().Resets; (resets > 0) != c.before {
				t.Errorf("%d positions could not be served", resets)
			}
		})
	}
}

func TestWhoIsOutOfTimeGivesBackWhatItWasGiven(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	uris := r.extracts("a.example", 1, false)
	g := r.gate()
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() {
		got, err := r.desk.Claim(ctx, local(), ofType(1, soon))
		if len(got) > 0 {
			t.Errorf("who has left got %v", urisOf(got))
		}
		left <- err
	}()
	<-g.asked // for what it is about to get
	cancel()
	close(g.open)
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who has left is told %v", err)
	}
	if st := r.state(uris[0]); st != graph.Ready {
		t.Errorf("it is %s after it was given back", st)
	}
	if got := r.claim(local(), ofType(1, soon)); !slices.Equal(urisOf(got), uris) {
		t.Errorf("then got %v, want the one there is", got)
	}
	if s := r.desk.Stats(); s.Polls != 0 || s.Released != 1 {
		t.Errorf("the desk counts %+v", s)
	}
}

func TestAnAnswerIsBoundedHoweverManyBucketsThereAre(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	buckets := make([]string, 64)
	for i := range buckets {
		buckets[i] = fmt.Sprintf("https://a.example/%d/%s", i, strings.Repeat("b", 1900))
	}
	const n = 100
	for i := range n {
		r.apply(graph.Update{URI: page("a.example", i), Version: "10"}, graph.Update{URI: extract("a.example", i), Type: "extract", Hash: "old",
			Deps: []graph.Dep{{URI: page("a.example", i), Seen: "10"}}, Buckets: buckets}, graph.Update{URI: page("a.example", i), Version: "11"})
	}
	total := 0
	for total < n {
		size, got := 0, r.claim(local(), ofType(n, 0))
		for _, h := range got {
			size += weight(&h.Notice)
		}
		if total += len(got); len(got) == 0 || size > maxAnswer+1<<20 {
			t.Fatalf("got %d with %d bytes of buckets, %d in all", len(got), size, total)
		}
	}
}

func TestRequestsBeyondTheBoundsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	good := ofType(1, 0)
	for field, change := range map[string]func(q *Request){
		"channel": func(q *Request) { q.Channel = "all" },
		"types":   func(q *Request) { q.Types = slices.Repeat(q.Types, MaxTypes+1) },
		"max":     func(q *Request) { q.Max = MaxClaims + 1 },
		"lease_s": func(q *Request) { q.Lease = graph.MinLease - 1 },
		"wait_s":  func(q *Request) { q.Wait = MaxWait + 1 },
	} {
		q := good
		change(&q)
		var bad *graph.InvalidError
		if _, err := r.desk.Claim(context.Background(), local(), q); !errors.As(err, &bad) || bad.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	for _, q := range []Request{{Max: 1, Lease: time.Minute}, {Types: []string{"a"}, Lease: time.Minute}} {
		if _, err := r.desk.Claim(context.Background(), local(), q); err == nil {
			t.Errorf("%+v is taken", q)
		}
	}
}

func TestWhoWaitsTooOftenOrForTooMuchIsRefusedAndOthersAreNot(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	r.extracts("a.example", 1, false)
	r.claim(local(), ofType(1, 0))
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	wait := func(c Claimer, typ string) {
		all.Go(func() {
			r.desk.Claim(ctx, c, Request{Types: []string{typ}, Max: 1, Lease: time.Minute, Wait: MaxWait})
		})
	}
	refused := func(c Claimer, typ string) (limit int) {
		_, err := r.desk.Claim(ctx, c, Request{Types: []string{typ}, Max: 1, Lease: time.Minute})
		var no *LimitError
		if errors.As(err, &no) {
			return no.Limit
		}
		return 0
	}
	ann, bob, eve := holder("ann", "https://a.example/"), holder("bob", "https://b.example/"), holder("eve", "https://e.example/")
	for range maxPollsEach {
		wait(ann, "extract")
	}
	for i := range maxPoolsEach {
		wait(bob, fmt.Sprint("t", i))
	}
	r.until(func() bool { return r.desk.Stats().Polls == maxPollsEach+maxPoolsEach }, "not all polls wait")
	if got := refused(ann, "extract"); got != maxPollsEach {
		t.Errorf("one poll too many: limit %d, want %d", got, maxPollsEach)
	}
	if got := refused(bob, "another"); got != maxPoolsEach {
		t.Errorf("one pool too many: limit %d, want %d", got, maxPoolsEach)
	}
	if got := refused(eve, "extract"); got != 0 {
		t.Errorf("another is refused beside them: limit %d", got)
	}
	cancel()
	all.Wait()
	for i := range maxPoolsEach + 50 { // pools that nobody waits for make room
		if got := refused(bob, fmt.Sprint("u", i)); got != 0 {
			t.Fatalf("pool %d is refused: limit %d", i, got)
		}
	}
	r.desk.mu.Lock()
	if n, accounts := len(r.desk.pools), len(r.desk.accounts); n != maxPoolsEach+3 || accounts != 4 {
		t.Errorf("%d pools of %d accounts are kept, want %d of 4", n, accounts, maxPoolsEach+3)
	}
	r.desk.mu.Unlock()
	r.restart()
	if n := len(r.desk.pools); n != maxPoolsEach+3 {
		t.Errorf("after a restart %d pools are known, want %d", n, maxPoolsEach+3)
	}
}

func TestAPollIsToldWhenTheHubEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{})
	ended := make(chan error, 1)
	go func() {
		_, err := r.desk.Claim(context.Background(), local(), ofType(1, soon))
		ended <- err
	}()
	r.until(func() bool { return r.desk.Stats().Polls == 1 }, "the poll does not wait")
	r.stop()
	if err := <-ended; !errors.Is(err, graph.ErrClosed) {
		t.Errorf("it is told %v", err)
	}
	if _, err := r.desk.Claim(context.Background(), local(), ofType(1, soon)); !errors.Is(err, graph.ErrClosed) {
		t.Errorf("who comes later is told %v", err)
	}
}

func TestWhileTheDiskIsNearlyFullNothingIsHandedOutAndNothingIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, graph.Options{MinFree: 1 << 20})
	r.claim(local(), ofType(1, 0))
	uris := r.extracts("a.example", 5, false)
	r.fs.TestingSetDiskUsage(fullDisk)
	r.until(func() bool { return r.store.Room() != nil }, "the disk is not seen to be full")
	var full *graph.NoSpaceError
	if got, err := r.desk.Claim(context.Background(), local(), ofType(5, 0)); !errors.As(err, &full) {
		t.Errorf("got %v, %v on a full disk", urisOf(got), err)
	}
	r.fs.TestingSetDiskUsage(freeDisk)
	r.until(func() bool { return r.store.Room() == nil }, "the disk is not seen to have room")
	if got := r.claim(local(), ofType(5, 0)); !slices.Equal(urisOf(got), uris) {
		t.Errorf("got %v, want %v", urisOf(got), uris)
	}
}
