package digest

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/freshwire/freshwire/graph"
)

const (
	// Grace is how long after its end an hour waits for notices that still belong to it,
	// unless a later one shows that there are none.
	Grace = 2 * time.Minute
	// maxGap is how many hours at most are published as missed. Beyond that the clock is
	// wrong rather than the hub was off, and what is published for the future stays.
	maxGap = 366 * 24
)

// A plan is the hour that is open, and once it is closing all that decides what it is
// made of. It is durable before anything of the hour is made: who begins again makes the
// same.
type plan struct {
	Version int       `json:"version"`
	Channel string    `json:"channel"`
	Born    uint64    `json:"born"`
	Seq     uint64    `json:"seq"`
	From    time.Time `json:"from"`
	After   position  `json:"after"`          // the hour has what comes after it
	Prev    *Link     `json:"prev,omitempty"` // Href is below the channel's folder
	Closing *closing  `json:"closing,omitempty"`
}

// A closing says how far an hour goes, and how it is told.
type closing struct {
	Until    position  `json:"until"` // the last of the hour
	At       time.Time `json:"at"`
	Reason   string    `json:"reason,omitempty"` // why it is not complete
	Public   bool      `json:"public"`
	Key      string    `json:"key"`
	Keys     []Key     `json:"keys"`
	Base     string    `json:"base"`
	FirstSeq uint64    `json:"first_seq"` // the oldest hour that is kept from then on
}

// A position is a cursor as it stands in a file.
type position struct{ graph.Cursor }

func (p position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p *position) UnmarshalText(b []byte) (err error) {
	p.Cursor, err = graph.ParseCursor(string(b))
	return err
}

func (p *plan) until() time.Time { return Hour.end(p.From) }

// folder is where the hour will be, below the channel's folder.
func (p *plan) folder() string { return Hour.Folder(p.From) }

func readPlan(b []byte) (p *plan, err error) {
	p = new(plan)
	if err = json.Unmarshal(b, p); err == nil && p.Version != Version {
		err = fmt.Errorf("version %d is not known", p.Version)
	}
	return p, err
}

// A look is what is known of the journal at a moment.
type look struct {
	now            time.Time
	started        time.Time // when the hub began to watch
	oldest, newest graph.Cursor
	before         graph.Cursor // the last position before the hour's end, as far as is known
}

// A verdict is what becomes of the open hour.
type verdict struct {
	wait   time.Duration // 0 if it closes now
	until  graph.Cursor
	reason string
}

// decide says whether an hour closes now and where, or when to look again.
func (p *plan) decide(l look) verdict {
	until := p.until()
	if l.newest.Epoch != p.After.Epoch {
		// What the other journal had nobody knows. Who trusts nothing reads all there is
		// after this hour has closed, and so has all up to here.
		if l.now.Before(p.From) {
			return verdict{wait: p.From.Sub(l.now)}
		}
		return verdict{until: l.newest, reason: Reconcile}
	}
	if l.now.Before(until) {
		return verdict{wait: until.Sub(l.now)}
	}
	v := verdict{until: l.before}
	if l.before.Seq >= l.newest.Seq { // nothing shows that the hour is over
		if open := until.Add(Grace).Sub(l.now); open > 0 {
			return verdict{wait: min(open, time.Second)}
		}
	}
	if v.until.Seq < p.After.Seq {
		v.until = p.After.Cursor
	}
	switch {
	case l.oldest.Seq > p.After.Seq && v.until.Seq > p.After.Seq:
		v.reason = Trimmed
		v.until.Seq = max(v.until.Seq, l.oldest.Seq)
	case l.started.After(until.Add(Grace)):
		v.reason = Missed
	}
	return v
}

// overdue reports an hour so long past that the clock is to be doubted.
func (p *plan) overdue(now time.Time) error {
	if gap := now.Sub(p.until()); gap > maxGap*time.Hour {
		return fmt.Errorf("the digest of %s ends at %s and the clock shows %s: set the clock right, or move the folder of the digest away and a new one begins",
			p.Channel, p.From.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}
