package hub

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

// claimLedger is what workers were told of their claims, by a hub that is killed again
// and again.
type claimLedger struct {
	t     *testing.T
	mu    sync.Mutex
	until map[string]time.Time // nobody else may hold it before that
	made  map[string]bool
	given int
}

// took notes claims that were given for a lease.
func (l *claimLedger) took(cs []client.Claim, lease time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given += len(cs)
	for _, c := range cs {
		if from := c.LeaseUntil.Add(-lease); from.Before(l.until[c.URI]) {
			l.t.Errorf("%s is handed out at %s and held until %s", c.URI, from, l.until[c.URI])
		}
		l.until[c.URI] = c.LeaseUntil
	}
}

// unanswered counts what the hub took and, being killed, did not answer until the lease was
// over: that is made, and nobody is handed it again.
func (l *claimLedger) unanswered(ctx context.Context, hub *client.Client, n int, done func()) {
	l.mu.Lock()
	var open []string
	for uri := range l.until {
		if !l.made[uri] {
			open = append(open, uri)
		}
	}
	l.mu.Unlock()
	states, err := hub.Status(ctx, open...)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range states {
		if s.State == client.StateClean && s.Hash == "new" {
			l.made[s.URI] = true
		}
	}
	if len(l.made) == n {
		done()
	}
}

// work claims and makes until all is made. Some claims are forgotten, some extended; an
// update that is not answered is sent again as long as the lease lasts.
func (l *claimLedger) work(ctx context.Context, hub *client.Client, rng *rand.Rand, n int, done func()) {
	const lease = 2 * time.Second
	for ctx.Err() == nil {
		cs, err := hub.Claim(ctx, client.ClaimRequest{Types: []string{"extract"}, Max: 1 + rng.IntN(5), Lease: lease, Wait: time.Second})
		if err != nil {
			<-time.After(10 * time.Millisecond)
			continue
		}
		l.took(cs, lease)
		if len(cs) == 0 {
			l.unanswered(ctx, hub, n, done)
		}
		for _, c := range cs {
			switch rng.IntN(12) {
			case 0:
				continue
			case 1:
				if until, err := hub.ExtendClaim(ctx, c.ID, 2*lease); err == nil {
					l.mu.Lock()
					l.until[c.URI] = until
					l.mu.Unlock()
					c.LeaseUntil = until
				}
			}
			for time.Now().Before(c.LeaseUntil) && ctx.Err() == nil {
				if _, err := hub.Update(ctx, client.Update{ID: c.ID, URI: c.URI, Hash: "new", Token: c.Token}); err == nil {
					l.mu.Lock()
					if l.made[c.URI] = true; len(l.made) == n {
						done()
					}
					l.mu.Unlock()
					break
				}
				<-time.After(10 * time.Millisecond)
			}
		}
	}
}

func TestAHubThatIsKilledBetweenHandingOutAndFinishingLosesNoWorkAndGivesNothingTwice(t *testing.T) {
	const n, workers, kills = 400, 8, 4
	p := startProcess(t, 0, "LISTEN="+lastingAddress())
	hub, err := client.New(p.url(), client.Options{HTTP: p.client})
	if err != nil {
		t.Fatal(err)
	}
	put := func(body string) {
		if _, err := hub.UpdateLines(t.Context(), []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	kept := makeReady(put, "https://kept.example/wiki", 1)[0]
	mine, err := hub.Claim(t.Context(), client.ClaimRequest{Types: []string{"extract"}, Lease: time.Hour, Wait: 30 * time.Second})
	if err != nil || len(mine) != 1 || mine[0].URI != kept {
		t.Fatalf("got %+v, %v", mine, err)
	}
	makeReady(put, "https://e.example/wiki", n)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	l := &claimLedger{t: t, until: map[string]time.Time{kept: mine[0].LeaseUntil}, made: map[string]bool{}}
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() { l.work(ctx, hub, rand.New(rand.NewPCG(1, uint64(i))), n, stop) })
	}
	for kill := range kills {
		for given := -1; given < (kill+1)*n/(kills+1) && ctx.Err() == nil; <-time.After(time.Millisecond) {
			l.mu.Lock()
			given = l.given
			l.mu.Unlock()
		}
		p.kill()
		p.start()
		if until, err := hub.ExtendClaim(t.Context(), mine[0].ID, time.Hour); err != nil || until.Before(mine[0].LeaseUntil) {
			t.Errorf("after kill %d its holder extends a claim: %v, %v", kill, until, err)
		}
	}
	all.Wait()
	if len(l.made) != n {
		t.Errorf("%d of %d are made", len(l.made), n)
	}
	if _, err := hub.Update(t.Context(), client.Update{ID: "kept", URI: kept, Hash: "new", Token: mine[0].Token}); err != nil {
		t.Fatal(err)
	}
	if r, err := hub.Resource(t.Context(), kept); err != nil || r.State != "clean" {
		t.Errorf("what was held through all of it is %+v, %v", r, err)
	}
	if rest, err := hub.Claim(t.Context(), client.ClaimRequest{Types: []string{"extract"}, Max: 100}); err != nil || len(rest) > 0 {
		t.Errorf("when all is made %+v is handed out, %v", rest, err)
	}
}
