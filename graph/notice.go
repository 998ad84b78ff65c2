package graph

import "time"

// Kind is what a notice asks of its reader.
type Kind uint8

const (
	KindChanged Kind = iota // there is a new version: who holds a copy fetches it
	KindRefresh             // it is ready: who makes it makes it again
)

var kindNames = [...]string{"changed", "refresh"}

func (k Kind) String() string { return kindNames[k] }

// Lane keeps an editor's own notices apart from the bulk of large fan-outs.
type Lane uint8

const (
	Prompt Lane = iota // an edit's own, or few
	Bulk               // fan-outs beyond [PromptFanout], retries, tickers, reconciliation
)

var laneNames = [...]string{"prompt", "bulk"}

func (l Lane) String() string { return laneNames[l] }

// Change is what a KindChanged notice reports.
type Change uint8

const (
	ChangeNone Change = iota
	ChangeCreated
	ChangeUpdated
	ChangeDeleted
)

var changeNames = [...]string{"", "created", "updated", "deleted"}

func (c Change) String() string { return changeNames[c] }

// Reason is why a notice was written or a state was left. It is the same in the
// notice, the log, the metric and the test.
type Reason uint8

const (
	ReasonNone       Reason = iota
	ReasonEdit              // the producer said so
	ReasonDependency        // a dependency is newer than what it was made from
	ReasonSettled           // stale, and the last unsettled dependency settled
	ReasonStarved           // waited [Starvation] for unsettled dependencies
	ReasonRetry             // nobody answered the last notice
	ReasonLease             // a worker's claim ran out or was given back
	ReasonReorder           // two renderings overlapped; nobody knows which one the cache holds
	ReasonTicker            // the period of a ticker passed
	ReasonExpired           // the artefact's own expiry passed
	ReasonPurge             // the artefact left its cache
	ReasonUnneeded          // a collected type lost its last dependent
	ReasonReconcile         // the store was restored or repaired
	ReasonPeer              // a peer announced it
)

var reasonNames = [...]string{"", "edit", "dependency", "settled", "starved", "retry", "lease",
	"reorder", "ticker", "expired", "purge", "unneeded", "reconcile", "peer"}

func (r Reason) String() string { return reasonNames[r] }

// Rule is which comparison decided that a dependency is newer, or is not.
type Rule uint8

const (
	RuleNone     Rule = iota
	RuleSame          // what was seen is what it is
	RuleAbsent        // seen "0", and it is deleted or was never heard of
	RulePresumed      // it was never heard of; what was seen is presumed
	RuleLower         // a lower number was seen
	RuleHigher        // a higher number was seen: ahead of the store
	RulePrevious      // one of the previous versions was seen
	RuleBelieved      // a previous version was seen so often that the store must have missed its return
	RuleToken         // decided by the token the producer held when it began
	RuleTime          // decided by clocks, with a margin
	RuleChange        // it changed after the dependent was made
)

var ruleNames = [...]string{"", "same", "absent", "presumed", "lower", "higher", "previous", "believed", "token", "time", "change"}

func (r Rule) String() string { return ruleNames[r] }

// Cause names the update that led to a notice.
type Cause struct {
	URI string
	ID  string    // of the update, "" if it had none
	At  time.Time // when the store accepted it
}

// Notice is one outgoing event of the journal.
type Notice struct {
	Cursor  Cursor
	Kind    Kind
	URI     string
	Type    string
	Version string // KindChanged only, like Hash and Change
	Hash    string
	Change  Change
	Reason  Reason
	Rule    Rule
	Lane    Lane
	Cause   Cause
	Attempt int       // 0 for the first notice, then counts retries
	At      time.Time // when it was written; never decreases along the journal
	Buckets []string
	// Lists are those that held the resource when the notice was written,
	// ascending; nil if none did. They are shared: readers do not change them.
	Lists []ListID
}
