package client

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// digestVersion is that of the documents that are understood here.
const digestVersion = 1

// DigestSummary is a channel that has digests, with its newest hour.
type DigestSummary struct {
	Channel  string    `json:"channel"`
	Public   bool      `json:"public"`
	Seq      uint64    `json:"seq"`
	FirstSeq uint64    `json:"first_seq"`
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Epoch    string    `json:"epoch"`
	Cursor   string    `json:"cursor"`
	Entries  uint64    `json:"entries"`
	Notices  uint64    `json:"notices"`
	Complete bool      `json:"complete"`
	Reason   string    `json:"reason,omitempty"`
	Bytes    int64     `json:"bytes"`
}

// Digests lists the channels that have digests which the caller may read.
func (c *Client) Digests(ctx context.Context) ([]DigestSummary, error) {
	req, err := c.request(ctx, http.MethodGet, "/v1/digests", nil, "", nil)
	if err != nil {
		return nil, err
	}
	var out struct {
		Items []DigestSummary `json:"items"`
	}
	return out.Items, c.do(req, &out)
}

// DigestState is the head of a channel's digests. Addresses in it, and in a manifest,
// are relative to its own.
type DigestState struct {
	Version        int            `json:"version"`
	Channel        string         `json:"channel"`
	Seq            uint64         `json:"seq"` // number of the newest hour
	FirstSeq       uint64         `json:"first_seq"`
	Epoch          string         `json:"epoch"`
	Cursor         string         `json:"cursor"` // from which a stream goes on
	From           time.Time      `json:"from"`
	Until          time.Time      `json:"until"`
	LastOffset     uint64         `json:"last_offset"`
	Manifest       string         `json:"manifest"`
	ManifestSHA256 string         `json:"manifest_sha256"`
	Stream         string         `json:"stream"`
	Keys           []DigestKey    `json:"keys"`
	Rollups        []DigestRollup `json:"rollups"`
}

// DigestKey is the public half of a key that signs manifests.
type DigestKey struct {
	ID     string `json:"id"`
	Alg    string `json:"alg"`
	Public []byte `json:"public"`
}

// DigestRollup names the manifest of a day or a week.
type DigestRollup struct {
	Period   string    `json:"period"`
	FirstSeq uint64    `json:"first_seq"`
	Seq      uint64    `json:"seq"`
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Manifest string    `json:"manifest"`
	SHA256   string    `json:"sha256"`
}

// DigestManifest describes one digest: of an hour, a day or a week.
type DigestManifest struct {
	Version     int          `json:"version"`
	Channel     string       `json:"channel"`
	Period      string       `json:"period"`
	Epoch       string       `json:"epoch"`
	Seq         uint64       `json:"seq"`
	FirstSeq    uint64       `json:"first_seq"`
	From        time.Time    `json:"from"`
	Until       time.Time    `json:"until"`
	ClosedAt    time.Time    `json:"closed_at"`
	FirstOffset uint64       `json:"first_offset"`
	LastOffset  uint64       `json:"last_offset"`
	Entries     uint64       `json:"entries"`
	Notices     uint64       `json:"notices"`
	Complete    bool         `json:"complete"`
	Reason      string       `json:"reason,omitempty"` // missed, trimmed or reconcile
	Public      bool         `json:"public"`
	Prev        *DigestLink  `json:"prev"`
	Through     *DigestLink  `json:"through,omitempty"`
	Key         string       `json:"key"`
	Keys        []DigestKey  `json:"keys"`
	Files       []DigestFile `json:"files"`
}

// Gap reports whether something was lost before the digest or in it: trust nothing that
// you had.
func (m *DigestManifest) Gap() bool { return m.Reason != "" && m.Reason != "missed" }

// DigestLink names another manifest.
type DigestLink struct {
	Seq    uint64 `json:"seq"`
	Href   string `json:"href"`
	SHA256 string `json:"sha256"`
}

// DigestFile is a file of a digest.
type DigestFile struct {
	Role    string        `json:"role"`
	Href    string        `json:"href"`
	Size    int64         `json:"size"`
	SHA256  string        `json:"sha256"`
	Entries uint64        `json:"entries"`
	Codings []DigestCoded `json:"codings,omitempty"`
}

// DigestCoded is a file in a coding.
type DigestCoded struct {
	Coding string `json:"coding"`
	Href   string `json:"href"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// A DigestError reports an archive that is not what it says. Where names the file.
type DigestError struct {
	Where string
	Wrong string
}

func (e *DigestError) Error() string { return e.Where + ": " + e.Wrong }

func wrong(where, format string, args ...any) error {
	return &DigestError{where, fmt.Sprintf(format, args...)}
}

var (
	digestFolder = regexp.MustCompile(`^(h/[0-9]{4}/[0-9]{2}/[0-9]{2}/[0-9]{2}|d/[0-9]{4}/[0-9]{2}/[0-9]{2}|w/[0-9]{4}-W[0-9]{2})/$`)
	digestName   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)+$`)
)

const (
	manifestName = "manifest.json"
	stateName    = "state.json"
)

// folderOf returns the folder of the manifest at a path below the channel's. Whatever
// else an archive says is not followed: not to other hosts, nor out of its folder.
func folderOf(where, manifest string) (string, error) {
	folder, ok := strings.CutSuffix(manifest, manifestName)
	if !ok || !digestFolder.MatchString(folder) {
		return "", wrong(where, "%.120q is not the place of a manifest", manifest)
	}
	return folder, nil
}

// hourFolder is where the hour lies that begins at from.
func hourFolder(from time.Time) string { return from.UTC().Format("h/2006/01/02/15/") }
