package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// exactUpTo is how many downloads are made to have exactly what is asked for. Beyond that
// the first one may begin earlier, if that makes them fewer.
const exactUpTo = 8

// A DigestPlace is how far a reader of digests came. It can be kept as JSON.
type DigestPlace struct {
	Archive string `json:"archive"` // for people
	Channel string `json:"channel"`
	Seq     uint64 `json:"seq"`              // of the last hour that was had
	SHA256  string `json:"sha256,omitempty"` // of its manifest, "" if it is not known
	Epoch   string `json:"epoch,omitempty"`
	// Cursor is where a stream goes on, or what comes next in a digest.
	Cursor string `json:"cursor,omitempty"`
	// Keys are trusted.
	Keys []DigestKey `json:"keys"`
	Tag  string      `json:"tag,omitempty"` // of the state
}

// A digestStep is a digest that is to be read.
type digestStep struct {
	folder        string
	firstSeq, seq uint64
	sum           string // of its manifest, if it is announced
	hour          bool
}

// DigestPull says how digests are read.
type DigestPull struct {
	// Place is where to go on; its Seq 0 is the oldest that is kept.
	Place DigestPlace
	// Keep is a folder that is made a copy of what is read, "" is none.
	Keep string
	// Plan is told how many digests there are to be read.
	Plan func(digests int)
	// Entry is given each line of a digest after all of it was checked; it may keep none of
	// the slice.
	Entry func(line []byte) error
	// Done is called after the last entry of a digest, with the place to go on from.
	Done func(m *DigestManifest, place DigestPlace) error
	// Gap is told what cannot be had, or must not be trusted any more.
	Gap func(text string)
	// Note is told what is worth knowing and no gap.
	Note func(text string)
}

// DigestResult is what a pull came to.
type DigestResult struct {
	Place   DigestPlace
	Digests int
	Entries uint64
	Gaps    int
}

// Pull reads all digests after a place, the oldest first: hours, and days and weeks where
// that makes them few. The first of them may have what lies before the place. Nothing of a
// digest is given before all of it was checked; what fails is a *DigestError and ends the
// pull at the place before.
func (r *DigestReader) Pull(ctx context.Context, p DigestPull) (res DigestResult, err error) {
	res.Place = p.Place
	r.Trust(p.Place.Keys)
	gap := func(format string, args ...any) {
		res.Gaps++
		p.Gap(fmt.Sprintf(format, args...))
	}
	state, b, tag, err := r.State(ctx, p.Place.Tag)
	if err != nil || state == nil {
		return res, err
	}
	if p.Place.Channel != "" && state.Channel != p.Place.Channel {
		return res, wrong(stateName, "it is of the channel %.80q, and the place of %.80q", state.Channel, p.Place.Channel)
	}
	if p.Place.Seq > state.Seq {
		return res, wrong(stateName, "its newest hour is %d, and the place is after hour %d: it is another archive, or an older copy; begin again without the place", state.Seq, p.Place.Seq)
	}
	res.Place.Archive, res.Place.Channel = r.Place(), state.Channel
	if f, ok := r.files.(*folderArchive); ok {
		f.shown(state)
	}
	steps, missing := planDigests(state, p.Place.Seq)
	if missing != "" && p.Place.Seq > 0 {
		gap("%s", missing)
	}
	if err := r.announce(ctx, state, steps); err != nil {
		return res, err
	}
	if p.Plan != nil {
		p.Plan(len(steps))
	}
	for i := range steps {
		if err := r.step(ctx, &p, &res, &steps[i], gap); err != nil {
			return res, err
		}
	}
	if p.Keep != "" {
		if err := os.WriteFile(filepath.Join(p.Keep, "state.json.new"), b, 0o644); err != nil {
			return res, err
		}
		if err := os.Rename(filepath.Join(p.Keep, "state.json.new"), filepath.Join(p.Keep, "state.json")); err != nil {
			return res, err
		}
	}
	res.Place.Tag, res.Place.Keys = tag, r.Trusted()
	return res, nil
}

// step reads one digest.
func (r *DigestReader) step(ctx context.Context, p *DigestPull, res *DigestResult, s *digestStep, gap func(string, ...any)) error {
	m, err := r.manifest(ctx, s.folder, s.sum)
	if err == nil {
		err = r.verify(ctx, m)
	}
	if err == nil {
		err = m.follows(&res.Place, s)
	}
	if err != nil {
		return err
	}
	keep := ""
	if p.Keep != "" {
		keep = filepath.Join(p.Keep, filepath.FromSlash(s.folder))
		if err := os.MkdirAll(keep, 0o755); err != nil {
			return err
		}
	}
	parts, done, err := r.fetch(ctx, m, keep)
	if err != nil {
		return err
	}
	defer done()
	span := fmt.Sprintf("%s from %s", m.Period, m.From.Format("2006-01-02 15:04"))
	switch {
	case m.Reason == "reconcile":
		gap("the %s: the hub went on with another journal; trust nothing that you had before, and read it anew", span)
	case m.Gap():
		gap("the %s is not complete (%s): what was written in it is not all there", span, m.Reason)
	case !m.Complete:
		p.Note(fmt.Sprintf("the %s: the hub was not running at its end (%s)", span, m.Reason))
	}
	for _, one := range parts {
		if err := one.each(nil, p.Entry); err != nil {
			return err
		}
	}
	if keep != "" {
		for name, b := range map[string][]byte{manifestName: m.bytes, manifestName + ".sig": m.sig} {
			if err := os.WriteFile(filepath.Join(keep, name), b, 0o644); err != nil {
				return err
			}
		}
	}
	res.Digests++
	res.Entries += m.Entries
	place := &res.Place
	place.Seq, place.SHA256, place.Epoch, place.Cursor, place.Keys, place.Tag = m.Seq, m.sum, m.Epoch, fmt.Sprintf("%s.%d", m.Epoch, m.LastOffset), r.Trusted(), ""
	if m.Through != nil {
		place.SHA256 = m.Through.SHA256
	}
	return p.Done(m.DigestManifest, *place)
}

// follows checks that a digest is the one that is expected, and goes on where the one
// before ended.
func (m *readManifest) follows(place *DigestPlace, s *digestStep) error {
	where := m.folder + manifestName
	if m.FirstSeq != s.firstSeq || m.Seq != s.seq {
		return wrong(where, "it is of hours %d to %d, and was announced with %d to %d", m.FirstSeq, m.Seq, s.firstSeq, s.seq)
	}
	if place.Channel != "" && m.Channel != place.Channel {
		return wrong(where, "it is of the channel %.80q", m.Channel)
	}
	if m.FirstSeq != place.Seq+1 {
		return nil // it overlaps, or begins after a gap
	}
	if s.hour && place.SHA256 != "" && (m.Prev == nil || m.Prev.SHA256 != place.SHA256) {
		return wrong(where, "it does not follow the hour before that was read: the chain of hashes is broken")
	}
	if next := fmt.Sprintf("%s.%d", m.Epoch, m.FirstOffset-1); place.Cursor != "" && place.Epoch == m.Epoch && place.Cursor != next {
		return wrong(where, "it begins after %s, and the one before ended at %s", next, place.Cursor)
	}
	if place.Epoch != "" && place.Epoch != m.Epoch && m.Reason != "reconcile" {
		return wrong(where, "it is of the journal %s, the one before of %s, and it does not say so", m.Epoch, place.Epoch)
	}
	return nil
}

// planDigests says what is to be read after an hour. Missing tells of hours that nobody
// has any more.
func planDigests(s *DigestState, after uint64) (steps []digestStep, missing string) {
	exact, stuck := coverHours(s, after+1, false)
	if stuck == 0 && len(exact) <= exactUpTo {
		return exact, ""
	}
	few, early := coverHours(s, after+1, true)
	switch {
	case early == 0 && (stuck != 0 || len(few) < len(exact)):
		return few, ""
	case stuck == 0:
		return exact, ""
	}
	var gaps []string
	for steps = exact; stuck != 0; {
		next := s.Seq + 1
		if s.FirstSeq > stuck {
			next = s.FirstSeq
		}
		for _, r := range s.Rollups {
			if r.FirstSeq > stuck {
				next = min(next, r.FirstSeq)
			}
		}
		gaps = append(gaps, fmt.Sprintf("%d to %d", stuck, next-1))
		more, at := coverHours(s, next, false)
		steps, stuck = append(steps, more...), at
	}
	return steps, "hours " + strings.Join(gaps, ", ") + " are not kept any more"
}

// coverHours covers the hours from one on up to the newest with as few digests as can be.
// Early is whether the first may begin before. Stuck is an hour that none has, 0 if all are
// covered.
func coverHours(s *DigestState, from uint64, early bool) (steps []digestStep, stuck uint64) {
	for at := from; at <= s.Seq; {
		best := digestStep{}
		if at >= s.FirstSeq {
			start := s.From.Add(-time.Duration(s.Seq-at) * time.Hour)
			best = digestStep{hourFolder(start), at, at, "", true}
		}
		for _, r := range s.Rollups {
			fits := r.FirstSeq == at || early && at == from && r.FirstSeq < at
			if !fits || r.Seq < at || r.Seq > s.Seq || r.Seq <= best.seq {
				continue
			}
			if folder, err := folderOf(stateName, r.Manifest); err == nil {
				best = digestStep{folder, r.FirstSeq, r.Seq, r.SHA256, false}
			}
		}
		if best.seq == 0 {
			return steps, at
		}
		steps, at = append(steps, best), best.seq+1
	}
	return steps, 0
}

// announce finds the hashes of the hours among the steps, by the chain that begins at the
// state. Those before a roll-up are signed, and follow one another.
func (r *DigestReader) announce(ctx context.Context, state *DigestState, steps []digestStep) error {
	folder, err := folderOf(stateName, state.Manifest)
	if err != nil {
		return err
	}
	sum := state.ManifestSHA256
	for i := len(steps) - 1; i >= 0 && steps[i].hour; i-- {
		if steps[i].folder != folder {
			return wrong(stateName, "hour %d lies at %s, and the chain leads to %s", steps[i].seq, steps[i].folder, folder)
		}
		steps[i].sum = sum
		if i == 0 || !steps[i-1].hour {
			break
		}
		m, err := r.manifest(ctx, folder, sum)
		if err != nil {
			return err
		}
		if folder, sum, err = m.before(); err != nil {
			return err
		}
	}
	return nil
}

// SeqBefore returns the number of the last hour that ends at or before a time, or whose
// notices all lie at or before a cursor: what is after it is read to have all since then.
func (r *DigestReader) SeqBefore(ctx context.Context, at time.Time, cursor string) (uint64, error) {
	s, _, _, err := r.State(ctx, "")
	if err != nil {
		return 0, err
	}
	if cursor == "" {
		first := s.From.Add(-time.Duration(s.Seq-1) * time.Hour)
		if hours := at.Sub(first) / time.Hour; hours > 0 {
			return min(uint64(hours), s.Seq), nil
		}
		return 0, nil
	}
	var failed error
	n := sort.Search(int(s.Seq-s.FirstSeq+1), func(i int) bool {
		start := s.From.Add(-time.Duration(s.Seq-s.FirstSeq-uint64(i)) * time.Hour)
		m, err := r.manifest(ctx, hourFolder(start), "")
		if err != nil {
			failed = errors.Join(failed, err)
			return true
		}
		end := fmt.Sprintf("%s.%d", m.Epoch, m.LastOffset)
		return end != cursor && !past(cursor, end)
	})
	if failed != nil {
		return 0, failed
	}
	return s.FirstSeq + uint64(n) - 1, nil
}

// Hours lists the manifests of the newest hours, up to limit, newest first.
func (r *DigestReader) Hours(ctx context.Context, limit int) (list []*DigestManifest, err error) {
	s, _, _, err := r.State(ctx, "")
	if err != nil {
		return nil, err
	}
	folder, err := folderOf(stateName, s.Manifest)
	sum := s.ManifestSHA256
	for err == nil && folder != "" && len(list) < limit && s.Seq-uint64(len(list)) >= s.FirstSeq {
		var m *readManifest
		if m, err = r.manifest(ctx, folder, sum); err == nil {
			list = append(list, m.DigestManifest)
			folder, sum, err = m.before()
		}
	}
	return list, err
}

// A DigestFault is something that is wrong with an archive.
type DigestFault struct {
	Where string `json:"where"`
	Wrong string `json:"wrong"`
}

// DigestAudit is what a verification came to.
type DigestAudit struct {
	Hours, Rollups int
	Entries        uint64
	Absent         int // hours and roll-ups that a copy does not have
	Incomplete     int // hours that say that they are not complete
	Faults         []DigestFault
}

// Verify checks what an archive keeps, the newest hour first, up to limit hours (0 is all)
// and the roll-ups of them: hashes, the chain, signatures, order and sums of all lines. A
// copy need not have all of it. Each is told of every digest that was looked at.
func (r *DigestReader) Verify(ctx context.Context, limit int, each func(folder string, total int)) (a DigestAudit, err error) {
	s, _, _, err := r.State(ctx, "")
	if err != nil {
		return a, err
	}
	_, copied := r.files.(*folderArchive)
	fault := func(err error) error {
		var bad *DigestError
		switch {
		case errors.As(err, &bad):
			a.Faults = append(a.Faults, DigestFault{bad.Where, bad.Wrong})
		case isGone(err) && copied:
			a.Absent++
		case isGone(err):
			a.Faults = append(a.Faults, DigestFault{r.Place(), err.Error()})
		default:
			return err
		}
		return nil
	}
	hours := s.Seq - s.FirstSeq + 1
	if limit > 0 {
		hours = min(hours, uint64(limit))
	}
	total := int(hours) + len(s.Rollups)
	chain := make([]*readManifest, hours) // newest first
	sum := s.ManifestSHA256
	for i := range hours {
		folder := hourFolder(s.From.Add(-time.Duration(i) * time.Hour))
		if chain[i], err = r.manifest(ctx, folder, sum); err != nil {
			if err := fault(err); err != nil {
				return a, err
			}
			sum = ""
			continue
		}
		if sum = ""; chain[i].Prev != nil {
			sum = chain[i].Prev.SHA256
		}
	}
	notices := map[uint64]uint64{} // of hours that were looked at
	var before *readManifest
	for i, m := range slices.Backward(chain) {
		if m == nil {
			before = nil
			continue
		}
		each(m.folder, total)
		if err := r.audit(ctx, m, s.Seq-uint64(i), before); err != nil {
			if err := fault(err); err != nil {
				return a, err
			}
			before = nil
			continue
		}
		a.Hours++
		a.Entries += m.Entries
		if !m.Complete {
			a.Incomplete++
		}
		notices[m.Seq], before = m.Notices, m
	}
	for _, roll := range s.Rollups {
		if limit > 0 && roll.Seq+hours <= s.Seq {
			continue
		}
		each(roll.Manifest, total)
		if err := r.auditRollup(ctx, &roll, notices); err != nil {
			if err := fault(err); err != nil {
				return a, err
			}
			continue
		}
		a.Rollups++
	}
	return a, nil
}

// audit checks an hour and all of its entries, and that it follows the one before.
func (r *DigestReader) audit(ctx context.Context, m *readManifest, seq uint64, before *readManifest) error {
	if err := r.verify(ctx, m); err != nil {
		return err
	}
	if m.Seq != seq {
		return wrong(m.folder+manifestName, "it is of hour %d and lies where hour %d does", m.Seq, seq)
	}
	if before != nil {
		place := DigestPlace{Channel: before.Channel, Seq: before.Seq, SHA256: before.sum, Epoch: before.Epoch, Cursor: fmt.Sprintf("%s.%d", before.Epoch, before.LastOffset)}
		if err := m.follows(&place, &digestStep{m.folder, seq, seq, "", true}); err != nil {
			return err
		}
	}
	_, done, err := r.fetch(ctx, m, "")
	if err == nil {
		done()
	}
	return err
}

// auditRollup checks a roll-up and all of its entries, and its sum against its hours.
func (r *DigestReader) auditRollup(ctx context.Context, roll *DigestRollup, notices map[uint64]uint64) error {
	folder, err := folderOf(stateName, roll.Manifest)
	if err != nil {
		return err
	}
	m, err := r.manifest(ctx, folder, roll.SHA256)
	if err == nil {
		err = r.verify(ctx, m)
	}
	if err != nil {
		return err
	}
	if m.FirstSeq != roll.FirstSeq || m.Seq != roll.Seq {
		return wrong(roll.Manifest, "it is of hours %d to %d, and state.json says %d to %d", m.FirstSeq, m.Seq, roll.FirstSeq, roll.Seq)
	}
	_, done, err := r.fetch(ctx, m, "")
	if err != nil {
		return err
	}
	done()
	sum := uint64(0)
	for seq := m.FirstSeq; seq <= m.Seq; seq++ {
		n, ok := notices[seq]
		if !ok {
			return nil // not all of its hours are there
		}
		sum += n
	}
	if sum != m.Notices {
		return wrong(roll.Manifest, "it is of %d notices, and its hours are of %d", m.Notices, sum)
	}
	return nil
}
