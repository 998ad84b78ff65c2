package graph

import "time"

// Action says what happened to a resource.
type Action uint8

const (
	ActionUpdate Action = iota // it has this version, hash and dependencies now
	ActionDelete               // it is gone; that is a change
	ActionPurge                // the artefact left its cache and will be made again on demand
)

var actionNames = [...]string{"update", "delete", "purge"}

func (a Action) String() string { return actionNames[a] }

// Dep is one dependency of an update. Seen is the dependency's version if it is
// a primary, its hash if it is an artefact, as the producer read it; "" if it
// does not know.
type Dep struct {
	URI  string
	Seen string
}

// Update is the incoming event "resource updated". URIs are canonical
// ([CanonicalURI]); only URI is required.
type Update struct {
	ID      string // makes the update idempotent, together with publisher and URI
	URI     string
	Type    string // "" leaves the type as it is
	Action  Action
	Version string
	Hash    string
	// At is when the content changed; for an artefact, when its making began.
	// Zero means the time of arrival.
	At time.Time
	// Token is a cursor the producer held when making began; zero means none.
	Token Cursor
	// Deps replaces the list of dependencies. Nil leaves it unchanged; an empty
	// list that is not nil means there are none.
	Deps []Dep
	// Buckets replaces the grouping keys in the same way.
	Buckets []string
	// Aspects of this resource that changed with it, "*" for all of them.
	Aspects []string
	// Expires is when the artefact is to be made again regardless; zero means never.
	Expires time.Time
	// Cause names what led to this update; notices carry it instead of ID when set.
	Cause string
}

// Result counts what became of a batch. Accepted counts all of it; an accepted
// update may have been a duplicate or outdated.
type Result struct {
	Accepted   int
	Changed    int    // brought a new version, hash or change
	Duplicates int    // same publisher, id and URI within the last day
	Outdated   int    // older than what the store has
	Cursor     Cursor // all notices of the batch are at or before it
}

// EdgeEdit changes the dependencies of one resource without saying that it was
// made again. Clear drops all of them before Add.
type EdgeEdit struct {
	Add    []string
	Remove []string
	Clear  bool
}
