package client

import (
	"fmt"
	"time"
)

// What a [Notice] asks of its reader.
const (
	KindChanged = "changed" // there is a new version: who holds a copy fetches it
	KindRefresh = "refresh" // it is ready: who makes it makes it again
)

// Notice is one entry of the hub's journal.
type Notice struct {
	Seq     uint64    `json:"seq"`
	Kind    string    `json:"kind"`
	URI     string    `json:"uri"`
	Type    string    `json:"type,omitempty"`
	Version string    `json:"version,omitempty"` // of KindChanged, like Hash and Change
	Hash    string    `json:"hash,omitempty"`
	Change  string    `json:"change,omitempty"` // created, updated or deleted
	Reason  string    `json:"reason"`
	Rule    string    `json:"rule,omitempty"` // which comparison decided that a dependency is newer
	Lane    string    `json:"lane"`           // prompt or bulk
	Cause   Cause     `json:"cause,omitzero"`
	Attempt int       `json:"attempt,omitempty"` // 0 at first, then counts retries
	At      time.Time `json:"at"`
	Buckets []string  `json:"buckets,omitempty"`
	// Token is the notice's place in the journal. Who makes the resource again
	// sends it back with the update; who reads on later resumes after it.
	Token string `json:"token"`
}

// Cause names the update that led to a notice.
type Cause struct {
	URI string    `json:"uri"`
	ID  string    `json:"id,omitempty"`
	At  time.Time `json:"at,omitzero"`
}

// Reset reports that the hub cannot serve the position a reader asked for. The
// reader has missed notices, or holds a position of another store: it checks
// what it holds (see [Client.Status]) and goes on from Oldest or Newest.
type Reset struct {
	Reason  string `json:"reason"` // epoch, trimmed, future or malformed
	Oldest  string `json:"oldest"` // everything the journal still holds comes after it
	Newest  string `json:"newest"`
	CatchUp string `json:"catch_up,omitempty"` // how to learn what was missed
}

func (r *Reset) Error() string {
	return fmt.Sprintf("the hub cannot resume there: %s; its journal holds %s to %s", r.Reason, r.Oldest, r.Newest)
}
