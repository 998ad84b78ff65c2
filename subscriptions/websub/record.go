package websub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// Records in the store, all as JSON.
const (
	recordSubscription = "websub/subscription/" // and its id
	recordPending      = "websub/pending/"      // and the key of its subscription
	recordOwner        = "websub/owner/"        // and a digest of the subject
	recordHad          = "websub/had/"          // and the id of a subscription: [2]graph.Cursor
)

// A ledger is where the hub keeps what must outlive it.
type ledger interface {
	PutRecords(ctx context.Context, records []graph.Record) error
	Records(prefix string, f func(key string, value []byte) error) error
}

// An Owner is whose a subscription is: of the subject of a token, or of who came
// without one from an address.
type Owner struct {
	Subject string `json:"subject,omitempty"`
	Address string `json:"address,omitempty"`
}

// terms are what a subscriber asked for and a verification confirms.
type terms struct {
	Topic    string        `json:"topic"` // as it was asked for
	Callback callback      `json:"callback"`
	Secret   []byte        `json:"secret,omitempty"`
	Lease    time.Duration `json:"lease,omitempty"`
	Owner
}

// A subscription is one that was verified. It does not change; a renewal makes a new
// one with the id of the old.
type subscription struct {
	terms
	ID    string       `json:"-"`
	Made  time.Time    `json:"made"`
	Until time.Time    `json:"until"` // the end of its lease
	From  graph.Cursor `json:"from"`  // the position it began after
}

// A call is a GET of a callback that is owed to it: to verify what was asked for, or
// to tell that it is denied. There is one for each topic and callback, the newest.
type call struct {
	terms
	Mode   Mode   `json:"mode"`
	Reason string `json:"reason,omitempty"` // of a denial
	// Known is a callback that has confirmed its subscription: to call it is no
	// nuisance to anybody, and so not counted.
	Known bool `json:"known,omitempty"`

	key key
	// While it is being made:
	ctx    context.Context
	cancel context.CancelFunc
	places chan struct{} // of its owner
}

// sighting is what an owner may see by the newest token that it presented.
type sighting struct {
	Subject  string    `json:"subject"`
	Issued   time.Time `json:"issued"`
	All      bool      `json:"all,omitempty"`
	Prefixes []string  `json:"prefixes,omitempty"`
}

// digest is a subject as part of a key: of one length, whatever a subject is.
func digest(subject string) string {
	sum := sha256.Sum256([]byte(subject))
	return hex.EncodeToString(sum[:16])
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and times
	}
	return b
}

func (s *subscription) record() graph.Record {
	return graph.Record{Key: recordSubscription + s.ID, Value: encode(s)}
}

func (c *call) record() graph.Record {
	return graph.Record{Key: recordPending + c.key.String(), Value: encode(c)}
}

// read calls f with each record under prefix.
func read[T any](l ledger, prefix string, f func(name string, v *T) error) error {
	return l.Records(prefix, func(name string, value []byte) error {
		v := new(T)
		err := json.Unmarshal(value, v)
		if err == nil {
			err = f(strings.TrimPrefix(name, prefix), v)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}
