package digest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Version is that of the documents: a reader refuses one it does not know.
const Version = 1

// MaxPart bounds the entries of one file; more go into further parts. Sitemaps may have
// no more.
// Source: sitemaps.org, "at most 50,000 URLs".
const MaxPart = 50_000

// A Period is how much of the journal a digest covers.
type Period string

const (
	Hour Period = "hour"
	Day  Period = "day"  // of UTC, the roll-up of its hours
	Week Period = "week" // of ISO 8601, likewise
)

// Why a digest is not complete.
const (
	// Missed is an hour whose end no hub saw: what it has is whole, but who sends updates
	// may have had nobody to send them to.
	Missed = "missed"
	// Trimmed is an hour of which the journal had lost a part before it was made.
	Trimmed = "trimmed"
	// Reconcile says to trust nothing that one had before: the hub went on with another
	// journal.
	Reconcile = "reconcile"
)

// Roles of the files of a digest.
const (
	RoleNDJSON     = "ndjson"
	RoleAtom       = "atom"
	RoleJSONFeed   = "jsonfeed"
	RoleChangeList = "changelist"
)

// A Manifest describes one digest and what belongs to it. It does not change once it is
// there. Addresses in it are relative to its own, so that a copy of the archive is as
// good as the archive.
type Manifest struct {
	Version  int       `json:"version"`
	Channel  string    `json:"channel"`
	Period   Period    `json:"period"`
	Epoch    string    `json:"epoch"`
	Seq      uint64    `json:"seq"`       // +1 each hour; of a roll-up that of its last hour
	FirstSeq uint64    `json:"first_seq"` // of its first hour
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	ClosedAt time.Time `json:"closed_at"`
	// FirstOffset and LastOffset are positions of the journal, contiguous with those of the
	// next hour. One without any has LastOffset = FirstOffset - 1. In a roll-up over
	// several epochs they are those of its last one.
	FirstOffset uint64 `json:"first_offset"`
	LastOffset  uint64 `json:"last_offset"`
	Entries     uint64 `json:"entries"`
	Notices     uint64 `json:"notices"` // the sum of the entries' counts
	Complete    bool   `json:"complete"`
	Reason      string `json:"reason,omitempty"` // why it is not complete: of several hours the gravest
	// Public is whether the channel was for everybody all the time.
	Public  bool              `json:"public"`
	Changes map[string]uint64 `json:"changes"` // entries by change
	Reasons map[string]uint64 `json:"reasons"` // entries by reason
	Prev    *Link             `json:"prev"`    // the digest of the same period before it; null of the first
	// Through is the manifest of the last hour of a roll-up: with its hash the chain of
	// hours goes on after the roll-up.
	Through *Link  `json:"through,omitempty"`
	Key     string `json:"key"`  // that it is signed with
	Keys    []Key  `json:"keys"` // that sign what follows: so a new key is vouched for by the one before
	Files   []File `json:"files"`
}

// A Link names another manifest.
type Link struct {
	Seq    uint64 `json:"seq"`
	Href   string `json:"href"`
	SHA256 string `json:"sha256"`
}

// A Key is the public half of one that signs manifests.
type Key struct {
	ID     string `json:"id"`
	Alg    string `json:"alg"` // ed25519
	Public []byte `json:"public"`
}

// A File is one file of a digest. Beside it lie the codings, under its name with .gz or
// .zst after it.
type File struct {
	Role    string  `json:"role"`
	Href    string  `json:"href"`
	Type    string  `json:"type"`
	Size    int64   `json:"size"`
	SHA256  string  `json:"sha256"`
	Entries uint64  `json:"entries"`
	Codings []Coded `json:"codings,omitempty"`
}

// A Coded is a file in a coding of HTTP.
type Coded struct {
	Coding string `json:"coding"` // gzip or zstd
	Href   string `json:"href"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// State is the head of a channel's digests: where a reader begins. Addresses are relative
// to its own.
type State struct {
	Version        int       `json:"version"`
	Channel        string    `json:"channel"`
	Seq            uint64    `json:"seq"`       // of the newest hour
	FirstSeq       uint64    `json:"first_seq"` // of the oldest one that is kept
	Epoch          string    `json:"epoch"`
	Cursor         string    `json:"cursor"` // from which the stream goes on where the digests end
	From           time.Time `json:"from"`
	Until          time.Time `json:"until"`
	LastOffset     uint64    `json:"last_offset"`
	Manifest       string    `json:"manifest"`
	ManifestSHA256 string    `json:"manifest_sha256"`
	Atom           string    `json:"atom"`
	JSONFeed       string    `json:"jsonfeed"`
	CapabilityList string    `json:"capabilitylist"`
	Stream         string    `json:"stream"`
	Keys           []Key     `json:"keys"`
	// Rollups are all weeks that are kept, and the days of the last five weeks.
	Rollups []Rollup `json:"rollups"`
}

// A Rollup names the manifest of a day or a week.
type Rollup struct {
	Period   Period    `json:"period"`
	FirstSeq uint64    `json:"first_seq"`
	Seq      uint64    `json:"seq"`
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Manifest string    `json:"manifest"`
	SHA256   string    `json:"sha256"`
}

// encode is v as it stands in a file.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("digest: %v", err)) // texts, numbers and times
	}
	return b.Bytes()
}
