package client

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxDigestHours and maxDigestRollups bound what a state may say that it keeps, so that
	// no archive can have its reader plan for ever: five years, and twice that.
	maxDigestHours   = 5 * 366 * 24
	maxDigestRollups = 5_000
	// maxDigestSeq bounds the number of an hour: two hundred years of them.
	maxDigestSeq = 200 * 366 * 24
)

// maxDigestLine bounds a line of a digest, in bytes: ten URIs, hash and type escaped.
const maxDigestLine = 64 << 10

// DigestEntry is what one resource had over a digest.
type DigestEntry struct {
	URI       string    `json:"uri"`
	Change    string    `json:"change"` // created, updated or deleted, all in all
	Count     uint64    `json:"count"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Offset    uint64    `json:"offset"`
	Reason    string    `json:"reason"`
	Cause     string    `json:"cause,omitempty"`
	Causes    []string  `json:"causes,omitempty"`
	Late      bool      `json:"late,omitempty"`
	Transient bool      `json:"transient,omitempty"`
	Hash      string    `json:"hash,omitempty"`
	Type      string    `json:"type,omitempty"`
}

// DigestReader reads the digests of one channel and believes nothing that it cannot
// check: manifests by their hashes and signatures, files by their manifests. It is used
// by one goroutine at a time.
type DigestReader struct {
	files fetcher
	keys  map[string][]byte // that are trusted, by id
	first bool              // trusts the keys of the first state that it sees
	temp  string            // folder of files that are being read
	known map[string]*readManifest
}

// DigestOptions configures a DigestReader. The zero value of each field is its default.
type DigestOptions struct {
	// Keys are trusted. Without any, those of the first state are that is read, and those
	// that they vouch for.
	Keys []DigestKey
	Temp string        // folder for downloads; "" means the system's
	Took func(n int64) // told of bytes that were downloaded
}

// Digest returns a reader of a channel's digests: by the channel's name at this hub, or at
// the address of an archive, as https://hub.example/digest/all/. The token is sent to this
// hub alone.
func (c *Client) Digest(channel string, o DigestOptions) (*DigestReader, error) {
	address := channel
	if !strings.Contains(channel, "://") {
		address = c.base + "/digest/" + url.PathEscape(channel) + "/"
	}
	u, err := url.Parse(strings.TrimSuffix(address, "state.json"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is neither a channel nor the address of its digests, as https://hub.example/digest/all/", channel)
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	a := &webArchive{http: c.http, base: u, sign: unsigned(c.agent), took: o.Took}
	if own, err := url.Parse(c.base); err == nil && own.Scheme == u.Scheme && own.Host == u.Host {
		a.sign = c.sign
	}
	return newDigestReader(a, o), nil
}

// DigestFolder returns a reader of a copy of a channel's archive on this machine.
func DigestFolder(dir string, o DigestOptions) (*DigestReader, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return newDigestReader(&folderArchive{dir, root}, o), nil
}

func newDigestReader(f fetcher, o DigestOptions) *DigestReader {
	r := &DigestReader{files: f, keys: map[string][]byte{}, first: len(o.Keys) == 0, temp: o.Temp, known: map[string]*readManifest{}}
	r.Trust(o.Keys)
	return r
}

// NewDigestKey is a key by its 32 bytes.
func NewDigestKey(public []byte) DigestKey {
	return DigestKey{hexSum(public)[:16], "ed25519", public}
}

// Trust adds keys to those that are believed.
func (r *DigestReader) Trust(keys []DigestKey) {
	for _, k := range keys {
		if len(k.Public) == ed25519.PublicKeySize {
			r.keys[k.ID] = k.Public
			r.first = false
		}
	}
}

// Trusted lists the keys that are believed, by id.
func (r *DigestReader) Trusted() (list []DigestKey) {
	for id, public := range r.keys {
		list = append(list, DigestKey{id, "ed25519", public})
	}
	slices.SortFunc(list, func(a, b DigestKey) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Place is the archive that is read, for people.
func (r *DigestReader) Place() string { return r.files.place() }

// State reads the head of the archive. Tag is what an earlier call returned, "" the first
// time; without news since the state is nil.
func (r *DigestReader) State(ctx context.Context, tag string) (s *DigestState, b []byte, newTag string, err error) {
	const where = stateName
	b, newTag, err = r.files.document(ctx, where, tag)
	if errors.Is(err, errUnchanged) {
		return nil, nil, tag, nil
	}
	if err != nil {
		return nil, nil, "", err
	}
	s = new(DigestState)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, nil, "", wrong(where, "it is no state of an archive: %v", err)
	}
	switch {
	case s.Version != digestVersion:
		return nil, nil, "", wrong(where, "its version is %d, and this program knows %d; use a newer one", s.Version, digestVersion)
	}
	if err := s.check(where); err != nil {
		return nil, nil, "", err
	}
	if r.first {
		r.Trust(s.Keys)
	}
	return s, b, newTag, nil
}

// check looks at what a state says of itself.
func (s *DigestState) check(where string) error {
	switch {
	case s.Seq == 0 || s.FirstSeq == 0 || s.FirstSeq > s.Seq || s.Seq > maxDigestSeq || s.Seq-s.FirstSeq > maxDigestHours:
		return wrong(where, "hours %d to %d cannot be", s.FirstSeq, s.Seq)
	case len(s.Rollups) > maxDigestRollups:
		return wrong(where, "it names %d roll-ups, and at most %d can be", len(s.Rollups), maxDigestRollups)
	}
	return nil
}

// A readManifest is a manifest that was checked, as it was read.
type readManifest struct {
	*DigestManifest
	folder     string // below the channel's
	sum        string
	bytes, sig []byte
}

// manifest reads the manifest in a folder. Sum is its hash if somebody who is believed has
// named it; "" is nobody. Who signed it is yet to be checked.
func (r *DigestReader) manifest(ctx context.Context, folder, sum string) (*readManifest, error) {
	where := folder + manifestName
	if m := r.known[folder]; m != nil && (sum == "" || sum == m.sum) {
		return m, nil
	}
	b, _, err := r.files.document(ctx, where, "")
	if err != nil {
		return nil, err
	}
	m := &readManifest{DigestManifest: new(DigestManifest), folder: folder, sum: hexSum(b), bytes: b}
	if sum != "" && m.sum != sum {
		return nil, wrong(where, "its SHA-256 is %s, and it was announced with %s", m.sum, sum)
	}
	if err := json.Unmarshal(b, m.DigestManifest); err != nil {
		return nil, wrong(where, "it is no manifest: %v", err)
	}
	if m.Version != digestVersion {
		return nil, wrong(where, "its version is %d, and this program knows %d; use a newer one", m.Version, digestVersion)
	}
	if err := m.check(where); err != nil {
		return nil, err
	}
	r.known[folder] = m
	return m, nil
}

// verify checks who signed a manifest, and believes the keys that it announces. So they
// are to be verified in the order in which they were made.
func (r *DigestReader) verify(ctx context.Context, m *readManifest) (err error) {
	where := m.folder + manifestName
	public, trusted := r.keys[m.Key]
	if !trusted {
		return wrong(where, "it is signed with the key %.40q, which nobody has vouched for; if the archive's owner confirms it, give it by --key", m.Key)
	}
	if m.sig, _, err = r.files.document(ctx, where+".sig", ""); err != nil {
		return err
	}
	sig, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(m.sig)))
	if err != nil || !ed25519.Verify(public, m.bytes, sig) {
		return wrong(where+".sig", "it is not the signature of the manifest by the key %s", m.Key)
	}
	r.Trust(m.Keys)
	return nil
}

// check looks at what a manifest says of itself.
func (m *readManifest) check(where string) error {
	entries := uint64(0)
	for _, f := range m.Files {
		if !digestName.MatchString(f.Href) || slices.ContainsFunc(f.Codings, func(c DigestCoded) bool { return !digestName.MatchString(c.Href) }) {
			return wrong(where, "it names the file %.120q, which is not one of its folder", f.Href)
		}
		if f.Role == "ndjson" {
			entries += f.Entries
		}
	}
	hour := m.Period == "hour"
	switch {
	case m.folder != hourFolder(m.From) && hour, m.Period != "hour" && m.Period != "day" && m.Period != "week", m.folder[0] != m.Period[0]:
		return wrong(where, "it is of the %.20s that begins at %s, which does not belong there", m.Period, m.From.Format(time.RFC3339))
	case m.FirstSeq == 0 || m.FirstSeq > m.Seq || hour && m.FirstSeq != m.Seq:
		return wrong(where, "hours %d to %d cannot be", m.FirstSeq, m.Seq)
	case m.Until.Sub(m.From) != time.Duration(m.Seq-m.FirstSeq+1)*time.Hour:
		return wrong(where, "from %s until %s are not hours %d to %d", m.From.Format(time.RFC3339), m.Until.Format(time.RFC3339), m.FirstSeq, m.Seq)
	case m.FirstOffset > m.LastOffset+1:
		return wrong(where, "positions %d to %d cannot be", m.FirstOffset, m.LastOffset)
	case entries != m.Entries:
		return wrong(where, "its files have %d entries, and it says %d", entries, m.Entries)
	}
	return nil
}

// fetch downloads the entries of a digest and checks them, all before anybody sees one.
// The files are in keep, or in temporary files which the caller removes by calling done.
func (r *DigestReader) fetch(ctx context.Context, m *readManifest, keep string) (parts []*part, done func(), err error) {
	done = func() {
		for _, p := range parts {
			p.close(keep == "")
		}
	}
	var sums lineSums
	for _, f := range m.Files {
		if f.Role != "ndjson" {
			continue
		}
		p, err := r.part(ctx, m, f, keep)
		if err != nil {
			done()
			return nil, nil, err
		}
		parts = append(parts, p)
		if err := p.check(m, &sums); err != nil {
			done()
			return nil, nil, err
		}
	}
	if sums.notices != m.Notices {
		done()
		return nil, nil, wrong(m.folder+manifestName, "its entries are of %d notices, and it says %d", sums.notices, m.Notices)
	}
	return parts, done, nil
}

// A part is a downloaded file of entries.
type part struct {
	file   *os.File
	about  DigestFile
	coding string
	coded  DigestCoded // as it was downloaded
	where  string
}

func (p *part) close(remove bool) {
	p.file.Close()
	if remove {
		os.Remove(p.file.Name())
	}
}

// part downloads a file in the smallest form that there is.
func (r *DigestReader) part(ctx context.Context, m *readManifest, f DigestFile, keep string) (*part, error) {
	forms := []DigestCoded{}
	for _, coding := range []string{"zstd", "gzip"} {
		if i := slices.IndexFunc(f.Codings, func(c DigestCoded) bool { return c.Coding == coding }); i >= 0 {
			forms = append(forms, f.Codings[i])
		}
	}
	forms = append(forms, DigestCoded{"", f.Href, f.Size, f.SHA256})
	var missing error
	for _, form := range forms {
		file, err := createPart(r.temp, keep, form.Href)
		if err != nil {
			return nil, err
		}
		p := &part{file, f, form.Coding, form, m.folder + form.Href}
		err = r.files.download(ctx, p.where, form.Size, file)
		if err == nil {
			err = p.checkBytes()
		}
		if err == nil {
			return p, nil
		}
		p.close(true)
		if !isGone(err) {
			return nil, err
		}
		missing = errors.Join(missing, err)
	}
	return nil, missing
}

func createPart(temp, keep, name string) (*os.File, error) {
	if keep == "" {
		return os.CreateTemp(temp, "freshwire-digest-*-"+name)
	}
	return os.OpenFile(filepath.Join(keep, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
}

// checkBytes compares what was downloaded with what the manifest says.
func (p *part) checkBytes() error {
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(h, p.file)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != p.coded.Size || got != p.coded.SHA256 {
		return wrong(p.where, "it has %d bytes with the SHA-256 %s, and its manifest says %d with %s", n, got, p.coded.Size, p.coded.SHA256)
	}
	return nil
}

// open decodes the file from its beginning. What is more than the manifest says is not
// decoded.
func (p *part) open() (io.Reader, func(), error) {
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return nil, nil, err
	}
	in := bufio.NewReaderSize(p.file, 256<<10)
	var r io.Reader = in
	end := func() {}
	switch p.coding {
	case "zstd":
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		r, end = z, z.Close
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, wrong(p.where, "it is no gzip: %v", err)
		}
		r = z
	}
	return io.LimitReader(r, p.about.Size+1), end, nil
}

// lineSums are what the lines of a digest come to.
type lineSums struct {
	last    string
	notices uint64
}

// check decodes the file and looks at each line.
func (p *part) check(m *readManifest, sums *lineSums) error {
	whole := sha256.New()
	size, entries := int64(0), uint64(0)
	err := p.each(&hashed{whole, &size}, func(line []byte) error {
		entries++
		var e DigestEntry
		if err := json.Unmarshal(line, &e); err != nil {
			return wrong(p.where, "line %d is no entry: %v", entries, err)
		}
		switch {
		case e.URI <= sums.last:
			return wrong(p.where, "line %d is about %.200q, and the one before about %.200q", entries, e.URI, sums.last)
		case e.Count == 0:
			return wrong(p.where, "line %d is of no notice", entries)
		case m.Period == "hour" && (e.Offset < m.FirstOffset || e.Offset > m.LastOffset):
			return wrong(p.where, "line %d is of position %d, which is not of the hour", entries, e.Offset)
		}
		sums.last = e.URI
		sums.notices += e.Count
		return nil
	})
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(whole.Sum(nil)); size != p.about.Size || got != p.about.SHA256 {
		return wrong(p.where, "decoded it has %d bytes with the SHA-256 %s, and the manifest says %d with %s", size, got, p.about.Size, p.about.SHA256)
	}
	if entries != p.about.Entries {
		return wrong(p.where, "it has %d lines, and the manifest says %d", entries, p.about.Entries)
	}
	return nil
}

// hashed takes in what is read.
type hashed struct {
	sum  hash.Hash
	size *int64
}

func (h *hashed) Write(b []byte) (int, error) {
	*h.size += int64(len(b))
	return h.sum.Write(b)
}

// each gives the lines of the file; all bytes go to w too, unless it is nil.
func (p *part) each(w io.Writer, give func(line []byte) error) error {
	r, end, err := p.open()
	if err != nil {
		return err
	}
	defer end()
	if w != nil {
		r = io.TeeReader(r, w)
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxDigestLine)
	for lines.Scan() {
		if err := give(lines.Bytes()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return wrong(p.where, "it cannot be decoded: %v", err)
	}
	return nil
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// before is the folder of the manifest that m names as the one before, and its hash.
func (m *readManifest) before() (folder, sum string, err error) {
	if m.Prev == nil {
		return "", "", nil
	}
	folder, err = folderOf(m.folder+manifestName, path.Join(m.folder, m.Prev.Href))
	return folder, m.Prev.SHA256, err
}
