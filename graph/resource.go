package graph

import "time"

// ID is the dense number of a resource inside one store, given in first-seen
// order. It never leaves the hub. The first is 1.
type ID uint64

// State is where a resource stands. Only artefacts are ever Dirty, Ready or
// Pending.
type State uint8

const (
	Stub    State = iota // named by an edge, or gone; nothing is known of its content
	Clean                // made from what its dependencies are now
	Dirty                // waits for an unsettled dependency
	Ready                // is to be made again; a notice is out or will be
	Pending              // a worker holds a claim on it
)

var stateNames = [...]string{"stub", "clean", "dirty", "ready", "pending"}

func (s State) String() string { return stateNames[s] }

// Resource is what the store knows of one resource.
type Resource struct {
	URI    string
	Type   string
	State  State
	Known  bool // false for a stub, a deleted or a purged resource
	Stale  bool // a dependency is newer than what it was made from
	Failed bool // retries are exhausted; it counts as settled
	// Unsettled is whether those that depend on it wait: it will change, or may.
	Unsettled bool
	Peer      string // the hub that speaks for it, and says what it is; "" if that is this one
	Version   string
	Hash      string
	Aliases   []string  // other versions received with this very hash
	At        time.Time // when it changed; of an artefact, when its making began
	Changed   Cursor    // position of its last change; zero if it never changed
	// ChangedAt is when its content last changed: a primary's At, an artefact's arrival.
	ChangedAt    time.Time
	Dependencies int
	Dependents   int
	Buckets      []string
	Expires      time.Time
	BornStale    int           // renderings in a row that were stale on arrival
	Attempt      int           // retries since the last notice
	Damping      time.Duration // least time between two refreshes; 0 when it does not flap
	NoticeDue    time.Time     // a ready resource's notice waits until then; zero when it is out
	LeaseUntil   time.Time     // end of the claim on a pending resource
}

// Status is the short answer for one of many resources.
type Status struct {
	URI    string
	State  State
	Known  bool // false also for a URI the store never heard of
	Stale  bool
	Failed bool
	// Unsettled is whether those that depend on it wait: it will change, or may.
	Unsettled bool
	Version   string
	Hash      string
	At        time.Time
}

// Item is one end of an edge in a listing.
type Item struct {
	URI   string
	State State
}
