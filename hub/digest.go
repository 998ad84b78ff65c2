package hub

import (
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/digest"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/go-chi/chi/v5"
)

const (
	// digestPath is where digests are.
	digestPath = "/digest/"
	// leastRate is how slowly a file may be taken, in bytes a second: whoever takes it
	// more slowly holds a connection for nothing.
	leastRate = 16 << 10
	// maxAddings bounds those who have digests added up at once: each reads up to 150
	// files, and keeps a core busy.
	maxAddings = 4
	// preflightAge is for how long a browser need not ask again, in seconds.
	preflightAge = "86400"
)

// channelAll is the channel that every hub has a digest of.
const channelAll = "all"

// openArchive opens the digests. None is made before the hub runs.
func (h *Hub) openArchive(disk vfs.FS) (err error) {
	base := h.URL()
	if h.cfg.PublicURL != "" {
		base = strings.TrimSuffix(h.cfg.PublicURL, "/")
	}
	h.addings = make(chan struct{}, maxAddings)
	h.archive, err = digest.Open(digest.Options{
		FS: disk, Dir: filepath.Join(h.cfg.Data, "digest"), Keys: h.cfg.keys(), Clock: h.clock.Now, ClockRate: h.cfg.ClockRate,
		Log: h.log.With("component", "digest"), Journal: h.store, Channels: h.digested,
		Exists: func(name string, born uint64) bool {
			return h.channels.Exists(subscriptions.DigestedChannel{Name: name, Born: born})
		},
		Base: base + strings.TrimSuffix(digestPath, "/"), Hub: base + webSubPath,
		Stream: func(channel string, at graph.Cursor) string {
			return "../../v1/stream?channel=" + channel + "&since=" + at.String()
		},
		KeepHours: h.cfg.Digest.KeepHours, KeepRollups: h.cfg.Digest.KeepRollups, Closed: h.digests.closed,
	})
	if err == nil {
		h.metrics.registry.MustRegister(digestCollector{h.archive, h.clock.Now})
	}
	return err
}

// keys is the folder of the hub's own keys.
func (c *Config) keys() string { return filepath.Join(c.Data, "keys") }

// RotateDigestKey makes a new key for the digests of the hub whose data are in a folder,
// which begins to sign after an overlap. A hub that runs takes it when the next hour
// closes.
func RotateDigestKey(data string, from time.Time) (id string, err error) {
	c := Config{Data: data}
	k, err := digest.RotateKey(vfs.Default, c.keys(), from)
	return k.ID, err
}

// channelsChanged hears that channels were made, replaced or deleted.
func (h *Hub) channelsChanged() {
	if h.archive != nil { // else the hub is being opened
		h.archive.Refresh()
		h.digests.changed()
	}
}

// digested are the channels that ask for a digest.
func (h *Hub) digested() (list []digest.Channel) {
	asking := h.channels.Digested()
	if h.cfg.Digest.All {
		asking = append(asking, subscriptions.DigestedChannel{Name: channelAll})
	}
	for _, one := range asking {
		feed, err := h.streams.EverybodysFeed(one.Name)
		if err != nil {
			continue // deleted just now
		}
		list = append(list, digest.Channel{Name: one.Name, Born: one.Born, Head: feed.Head,
			Read: func(after graph.Cursor, limit int) ([]graph.Notice, graph.Cursor, error) {
				r, err := feed.Read(0, after, limit)
				return r.Notices, r.Next, err
			},
			Public: func(after, until uint64) bool { return h.channels.PublicBetween(one.Name, after, until) }})
	}
	return list
}

// A digestView is what the caller may see of the digests of a channel.
type digestView struct {
	digest.Info
	public bool // the channel is for everybody
	whole  bool // the caller sees also what is not
}

// digestOf returns what the caller may see of the digests of the channel in the address.
// A digest is read whole: a token has to cover all that it names. Whoever has no
// token is not told whether there is one that is not public.
func (h *Hub) digestOf(r *http.Request, name string) (v digestView, err error) {
	channel, unknown := h.channels.Get(name)
	v.public = unknown == nil && channel.Public
	rights := caller(r)
	if rights.Anonymous() && !v.public {
		return v, refuse(unauthorized, "", "send a token, or ask for the digest of a public channel")
	}
	if v.Info, err = h.archive.Info(name); err != nil {
		return v, err
	}
	v.whole = rights.SeesAll() || !rights.Anonymous() && !v.Everywhere &&
		!slices.ContainsFunc(v.Origins, func(origin string) bool { return !rights.Sees(origin) })
	if !v.whole && !v.public {
		return v, refuse(forbidden, "", "a digest is read whole, and the token's subscribe does not cover all in it; /v1/stream?channel=%s shows what it covers", name)
	}
	return v, nil
}

// getDigestFile answers with a file of a digest.
func (h *Hub) getDigestFile(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	name := chi.URLParam(r, "name")
	path := strings.TrimPrefix(r.URL.Path, digestPath+name+"/")
	// What is found is judged, and not what was there a moment before it.
	f, err := h.archive.Find(name, path, false)
	v, no := h.digestOf(r, name)
	if no != nil {
		return no
	}
	allowOrigins(w, r)
	if !v.whole {
		f, err = h.archive.Find(name, path, true)
	}
	if errors.Is(err, digest.ErrExpired) {
		w.Header().Set("Link", "<"+digestPath+name+`/since?seq=0>; rel="resourcelist"; type="`+typeNDJSON+`"`)
	}
	if errors.Is(err, digest.ErrHidden) {
		return refuse(callerLacks(r), "", "%v", err)
	}
	if err != nil {
		return err
	}
	content, coding, err := openCoded(r, f)
	if err != nil {
		return err
	}
	defer content.Close()
	h.describeDigest(w, r, f, path)
	header := w.Header()
	header.Set("ETag", content.ETag)
	if coding != "" {
		header.Set("Content-Encoding", coding)
		if r.Header.Get("Range") == "" {
			header.Set("Content-Length", strconv.FormatInt(content.Size, 10))
		}
	}
	control := http.NewResponseController(w)
	control.SetWriteDeadline(time.Now().Add(answerDeadline + time.Duration(content.Size/leastRate)*time.Second))
	http.ServeContent(&rangeWriter{ResponseWriter: w}, r, f.Name, f.Modified, content.ReadSeekCloser)
	return nil
}

// callerLacks is why the caller is refused what a token might show.
func callerLacks(r *http.Request) *problemKind {
	if caller(r).Anonymous() {
		return unauthorized
	}
	return forbidden
}

// describeDigest says what a file is and how long it is good for.
func (h *Hub) describeDigest(w http.ResponseWriter, r *http.Request, f *digest.Found, path string) {
	header := w.Header()
	header.Set("Content-Type", f.Type)
	age, whose, vary := "no-cache", "private", "Accept-Encoding, Authorization"
	if f.Immutable {
		age = "max-age=31536000, immutable"
	}
	if caller(r).Anonymous() {
		whose, vary = "public", "Accept-Encoding"
		header.Set("Access-Control-Expose-Headers", "ETag, Link, Content-Length, Content-Range, Accept-Ranges, Content-Encoding")
	}
	header.Set("Cache-Control", whose+", "+age)
	header.Set("Vary", vary)
	switch path {
	case digest.FeedAtom, digest.FeedJSON, stateName:
		base := h.baseURL(r)
		header.Set("Link", "<"+base+webSubPath+`>; rel="hub", <`+base+r.URL.Path+`>; rel="self"`)
	}
	if f.Next != "" {
		header.Add("Link", "<"+f.Next+`>; rel="next"`)
	}
}

// stateName is the head of a channel's digests.
const stateName = "state.json"

// openCoded opens the coding that the client likes best of those that are there: of
// equals zstd, which is the smallest. A range is one of that coding.
// Source: RFC 9110, section 12.5.3.
func openCoded(r *http.Request, f *digest.Found) (digest.Content, string, error) {
	best, weight := "", codingWeight(r.Header, "identity")
	for _, coding := range []string{digest.Zstd, digest.Gzip} {
		q := codingWeight(r.Header, coding)
		if q > 0 && slices.Contains(f.Codings, coding) && (best == "" && q >= weight || q > weight) {
			best, weight = coding, q
		}
	}
	c, err := f.Open(best)
	return c, best, err
}

// codingWeight is the weight that a request gives to a coding.
func codingWeight(header http.Header, coding string) float64 {
	star, listed := -1.0, -1.0
	for part := range strings.SplitSeq(strings.Join(header.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(part, ";")
		q := 1.0
		if value, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			if parsed, err := strconv.ParseFloat(value, 64); err == nil {
				q = parsed
			}
		}
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case "*":
			star = q
		case coding:
			listed = q
		case "x-" + coding:
			listed = max(listed, q)
		}
	}
	switch {
	case listed >= 0:
		return listed
	case star >= 0:
		return star
	case coding == "identity":
		return 0.001 // it is good unless it is ruled out
	}
	return 0
}

// A rangeWriter makes a problem of the refusal of a range.
type rangeWriter struct {
	http.ResponseWriter
	refused bool
}

func (w *rangeWriter) WriteHeader(status int) {
	if w.refused = status == http.StatusRequestedRangeNotSatisfiable; !w.refused {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	writeProblem(w.ResponseWriter, badRange.problem("the file is "+strings.TrimPrefix(w.Header().Get("Content-Range"), "bytes */")+" bytes long"))
}

func (w *rangeWriter) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom leaves a file to the server.
func (w *rangeWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// preflightDigest lets pages of any origin ask for public digests with conditions and
// ranges, which a browser asks for first.
// Source: Fetch standard, CORS-preflight fetch.
func (h *Hub) preflightDigest(w http.ResponseWriter, r *http.Request) error {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, digestPath), "/")
	header := w.Header()
	header.Set("Allow", "GET, HEAD, OPTIONS")
	if channel, err := h.channels.Get(name); err == nil && channel.Public {
		header.Set("Access-Control-Allow-Origin", "*")
		header.Set("Access-Control-Allow-Methods", "GET, HEAD")
		header.Set("Access-Control-Allow-Headers", "If-None-Match, If-Modified-Since, If-Range, Range")
		header.Set("Access-Control-Max-Age", preflightAge)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// getDigestSince adds up what came after an hour.
func (h *Hub) getDigestSince(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "seq")
	if err != nil {
		return err
	}
	seq, err := strconv.ParseUint(q.Get("seq"), 10, 64)
	if err != nil {
		return refuse(badQuery, "seq", "%.40q is not the number of an hour, as in state.json; 0 is all that is kept", q.Get("seq"))
	}
	name := chi.URLParam(r, "name")
	// What is found is judged, and not what was there a moment before it.
	since, err := h.archive.Since(name, seq, false)
	v, no := h.digestOf(r, name)
	if no != nil {
		return no
	}
	allowOrigins(w, r)
	if !v.whole {
		since, err = h.archive.Since(name, seq, true)
	}
	if err != nil {
		return err
	}
	select {
	case h.addings <- struct{}{}:
		defer func() { <-h.addings }()
	default:
		no := refuse(tooManySince, "", "%d are", maxAddings)
		no.limit = maxAddings
		return no
	}
	header := w.Header()
	header.Set("Content-Type", typeNDJSON)
	header.Set("Cache-Control", "no-store")
	header.Set("Freshwire-Seq", strconv.FormatUint(since.Seq, 10))
	header.Set("Freshwire-Cursor", since.Cursor.String())
	if caller(r).Anonymous() {
		header.Set("Access-Control-Expose-Headers", "Freshwire-Seq, Freshwire-Cursor")
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	if err := since.Stream(r.Context(), &slowWriter{w, http.NewResponseController(w)}); err != nil {
		if r.Context().Err() == nil {
			h.log.Warn("digests were not added up to the end", "channel", name, "err", err)
		}
		panic(http.ErrAbortHandler) // what was sent must not look like all of it
	}
	return nil
}

// A slowWriter gives whoever reads as long as an answer may take for each piece.
type slowWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (w *slowWriter) Write(b []byte) (int, error) {
	w.control.SetWriteDeadline(time.Now().Add(answerDeadline))
	return w.ResponseWriter.Write(b)
}

// shownDigests are those of which the caller may see something.
func (h *Hub) shownDigests(r *http.Request) (list []digestView) {
	for _, info := range h.archive.List() {
		if v, err := h.digestOf(r, info.Channel); err == nil {
			list = append(list, v)
		}
	}
	return list
}

// digestShape is a channel's digests as they are listed.
type digestShape struct {
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

// getDigests lists the channels that have digests.
func (h *Hub) getDigests(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	items := []digestShape{}
	for _, v := range h.shownDigests(r) {
		s, m := &v.State, v.Newest
		items = append(items, digestShape{v.Channel, v.public, s.Seq, s.FirstSeq, s.From, s.Until, s.Epoch, s.Cursor, m.Entries, m.Notices, m.Complete, m.Reason, v.Bytes})
	}
	allowOrigins(w, r)
	return writeJSON(w, struct {
		Items []digestShape `json:"items"`
	}{items})
}

// getResourceSync tells clients of ResourceSync where to begin.
// Source: ANSI/NISO Z39.99-2017, section 6.3.1.
func (h *Hub) getResourceSync(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var channels []string
	for _, v := range h.shownDigests(r) {
		channels = append(channels, v.Channel)
	}
	allowOrigins(w, r)
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Vary", "Authorization")
	w.Write(digest.SourceDescription(h.baseURL(r)+strings.TrimSuffix(digestPath, "/"), channels)) // who does not read it is not there
	return nil
}

// getDigestIndex shows people which digests there are and how they are read.
func (h *Hub) getDigestIndex(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var items []digest.IndexItem
	for _, v := range h.shownDigests(r) {
		s, m := v.State, v.Newest
		items = append(items, digest.IndexItem{Channel: v.Channel, Public: v.public, State: s, Hours: v.Hours, Bytes: v.Bytes,
			Oldest: s.From.Add(-time.Duration(s.Seq-s.FirstSeq) * time.Hour), Entries: m.Entries, Complete: m.Complete, Reason: m.Reason,
			KeepHours: h.cfg.Digest.KeepHours, KeepRollups: h.cfg.Digest.KeepRollups})
	}
	allowOrigins(w, r)
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", digest.IndexPolicy)
	header.Set("Cache-Control", "no-cache")
	header.Set("Vary", "Authorization")
	return digest.IndexPage(w, h.baseURL(r)+strings.TrimSuffix(digestPath, "/"), items)
}
