package bench

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// CallbackReport is what a run of callbacks found. Its JSON names are stable.
type CallbackReport struct {
	Hub              string       `json:"hub"`
	Subscribers      int          `json:"subscribers"`
	Hanging          int          `json:"hanging"` // of them, in the second part
	Failing          int          `json:"failing"`
	Offered          float64      `json:"offered_per_s"` // updates
	SubscribeSeconds float64      `json:"subscribe_s"`   // until all had the first delivery
	Well             CallbackPart `json:"well"`
	Disturbed        CallbackPart `json:"disturbed"`
	Kept             float64      `json:"kept"`   // the ratio of the second part to that of the first
	HealSeconds      float64      `json:"heal_s"` // until those who were not well had everything

	Deliveries    uint64 `json:"deliveries"` // answered 200, of the whole run
	Documents     uint64 `json:"documents"`  // that differ
	Repeated      uint64 `json:"repeated"`   // brought nothing that its subscriber had not had
	Missing       int    `json:"missing"`    // subscribers that lack something in the end
	Gaps          uint64 `json:"gaps"`       // documents that came before what they follow
	Wrong         uint64 `json:"wrong"`      // documents that do not have what was published in their range
	BadSignatures uint64 `json:"bad_signatures"`
	Fault         string `json:"fault,omitempty"` // the first thing that was wrong
}

// CallbackPart is the hub and the ceiling, measured in turn.
type CallbackPart struct {
	Subscribers   int     `json:"subscribers"` // that are well: only they count
	Hub           Calls   `json:"hub"`
	Ceiling       Calls   `json:"ceiling"`
	CeilingFailed uint64  `json:"ceiling_failed"`
	Ratio         float64 `json:"ratio"` // of the rates
}

// Calls are calls that were answered 200.
type Calls struct {
	Calls   uint64  `json:"calls"`
	Bytes   uint64  `json:"bytes,omitempty"`
	Seconds float64 `json:"measured_s"`
	Rate    float64 `json:"per_s"`
	CPU     float64 `json:"cpu_s"`  // of the process that made them
	PerCall float64 `json:"cpu_us"` // of it, a call, in microseconds
}

func (c *Calls) add(calls uint64, seconds, cpu float64) {
	c.Calls, c.Seconds, c.CPU = c.Calls+calls, c.Seconds+seconds, c.CPU+cpu
	if c.Seconds > 0 {
		c.Rate = float64(c.Calls) / c.Seconds
	}
	if c.Calls > 0 {
		c.PerCall = c.CPU * 1e6 / float64(c.Calls)
	}
}

// Err returns an [ErrInexact] that says what was wrong, or nil.
func (r *CallbackReport) Err() error {
	if uint64(r.Missing)+r.Gaps+r.Wrong+r.BadSignatures == 0 {
		return nil
	}
	return fmt.Errorf("%w: of %d deliveries %d came before what they follow, %d had not what was published, %d had a bad signature; "+
		"%d subscribers lack something; the first: %s", ErrInexact, r.Deliveries, r.Gaps, r.Wrong, r.BadSignatures, r.Missing, r.Fault)
}

// fail notes the first fault.
func (r *CallbackReport) fail(count *uint64, format string, a ...any) {
	if *count++; r.Fault == "" {
		r.Fault = fmt.Sprintf(format, a...)
	}
}

// truth is what was published: at which position which version of which page.
type truth struct {
	mu      sync.Mutex
	started int
	written []written // ascending
}

type written struct {
	seq           uint64
	page, version int
}

// next numbers an update.
func (t *truth) next() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started++
	return t.started - 1
}

// add notes an update that was answered. One is sent at a time.
func (t *truth) add(seq uint64, page, version int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.written = append(t.written, written{seq, page, version})
}

func (t *truth) last() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.written[len(t.written)-1].seq
}

// in is what a document has of a range: the newest of each page.
func (t *truth) in(prev, last uint64) (newest []written) {
	first, _ := slices.BinarySearchFunc(t.written, prev+1, func(w written, seq uint64) int { return compare(w.seq, seq) })
	end, _ := slices.BinarySearchFunc(t.written, last+1, func(w written, seq uint64) int { return compare(w.seq, seq) })
	seen := map[int]bool{}
	for _, w := range slices.Backward(t.written[first:max(first, end)]) {
		if !seen[w.page] {
			seen[w.page] = true
			newest = append(newest, w)
		}
	}
	slices.Reverse(newest)
	return newest
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// callbackDocument is what is read of a document.
type callbackDocument struct {
	Lane              string
	First, Last, Prev uint64
	Notices           []struct {
		Seq          uint64
		URI, Version string
	}
	wrong string // what is not as it should be
}

// readDocument holds a document against the truth.
func (r *callbackRun) readDocument(body []byte) (d callbackDocument) {
	if err := json.Unmarshal(body, &d); err != nil {
		d.wrong = err.Error()
		return d
	}
	var got []written
	for _, n := range d.Notices {
		page, ok := strings.CutPrefix(n.URI, "http://"+r.host+"/")
		number, err := strconv.Atoi(page)
		version, versionErr := strconv.Atoi(n.Version)
		if !ok || err != nil || versionErr != nil {
			d.wrong = fmt.Sprintf("notice %d is of %.100q in version %.40q", n.Seq, n.URI, n.Version)
			return d
		}
		got = append(got, written{n.Seq, number, version})
	}
	if want := r.truth.in(d.Prev, d.Last); !slices.Equal(got, want) {
		d.wrong = fmt.Sprintf("after %d up to %d it has %v, want %v", d.Prev, d.Last, got, want)
	} else if len(got) == 0 || d.First <= d.Prev || d.First > got[0].seq || d.Last != got[len(got)-1].seq {
		d.wrong = fmt.Sprintf("it says %d to %d after %d and has %v", d.First, d.Last, d.Prev, got)
	}
	return d
}

// judge holds what each subscriber got against what was published.
func (r *callbackRun) judge() {
	read := map[*sent]*callbackDocument{}
	document := func(s *sent) *callbackDocument {
		d := read[s]
		if d == nil {
			parsed := r.readDocument(s.body)
			d = &parsed
			read[s] = d
		}
		return d
	}
	report := &r.report
	for i, c := range r.callbacks.all {
		c.mu.Lock()
		had := map[string]uint64{} // by lane
		for k, got := range c.got {
			d := document(got.what)
			report.Deliveries++
			mac := hmac.New(sha256.New, []byte(c.secret))
			mac.Write(got.what.body)
			if got.signature != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
				report.fail(&report.BadSignatures, "delivery %d of subscriber %d is signed %.80q", k, i, got.signature)
			}
			last, known := had[d.Lane]
			switch {
			case d.wrong != "":
				report.fail(&report.Wrong, "delivery %d of subscriber %d: %s", k, i, d.wrong)
			case known && d.Last <= last:
				report.Repeated++
			case known && d.Prev > last:
				report.fail(&report.Gaps, "delivery %d of subscriber %d is after %d, it had up to %d", k, i, d.Prev, last)
			}
			had[d.Lane] = max(last, d.Last)
		}
		c.mu.Unlock()
	}
	report.Documents = uint64(len(read))
	if report.Missing > 0 && report.Fault == "" {
		report.Fault = fmt.Sprintf("%d subscribers have not had position %d", report.Missing, r.truth.last())
	}
}
