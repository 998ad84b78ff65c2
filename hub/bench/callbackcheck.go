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
	Topics           Topics       `json:"topics"`
	Subscribers      int          `json:"subscribers"`
	Hanging          int          `json:"hanging"` // of them, in the second part
	Failing          int          `json:"failing"`
	Offered          float64      `json:"offered_per_s"` // updates; 0: as many as subscribers take
	SubscribeSeconds float64      `json:"subscribe_s"`   // until all had the first delivery
	Latency          Spread       `json:"latency_ms"`    // from just before an update was sent to its call, with nothing else to do
	Updates          int          `json:"latency_updates"`
	Well             CallbackPart `json:"well"`
	Disturbed        CallbackPart `json:"disturbed"`
	Kept             float64      `json:"kept"`   // the ratio of the second part to that of the first
	HealSeconds      float64      `json:"heal_s"` // until those who were not well had everything

	Deliveries    uint64 `json:"deliveries"` // answered 200, of the whole run
	Documents     uint64 `json:"documents"`  // that differ
	Retried       uint64 `json:"retried"`    // came again, or part of them, for nobody had heard that they were taken
	Repeated      uint64 `json:"repeated"`   // came again although somebody had
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
	// Waiting is the share of the calls when whose answer was given more was waiting:
	// without that the publisher is measured.
	Waiting float64 `json:"waiting_share,omitempty"`
}

// wait counts calls after which more was waiting.
func (c *Calls) wait(n uint64, of uint64) {
	if c.Calls > 0 {
		c.Waiting += (float64(n) - c.Waiting*float64(of)) / float64(c.Calls)
	}
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
	if uint64(r.Missing)+r.Repeated+r.Gaps+r.Wrong+r.BadSignatures == 0 {
		return nil
	}
	return fmt.Errorf("%w: of %d deliveries %d came again, %d came before what they follow, %d had not what was published, %d had a bad signature; "+
		"%d subscribers lack something; the first: %s", ErrInexact, r.Deliveries, r.Repeated, r.Gaps, r.Wrong, r.BadSignatures, r.Missing, r.Fault)
}

// fail notes the first fault.
func (r *CallbackReport) fail(count *uint64, format string, a ...any) {
	if *count++; r.Fault == "" {
		r.Fault = fmt.Sprintf(format, a...)
	}
}

// truth is what was published: at which position which update of which page. Updates
// are numbered from 1.
type truth struct {
	mu      sync.Mutex
	started int
	all     []written   // ascending
	byPage  [][]written // the same
}

type written struct {
	seq          uint64
	page, number int
}

// allPages is the page of who follows all of them.
const allPages = -1

// next numbers n updates, and returns the first number.
func (t *truth) next(n int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started += n
	return t.started - n + 1
}

// add notes an update that was answered. One request is sent at a time.
func (t *truth) add(seq uint64, page, number int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for page >= len(t.byPage) {
		t.byPage = append(t.byPage, nil)
	}
	w := written{seq, page, number}
	t.all, t.byPage[page] = append(t.all, w), append(t.byPage[page], w)
}

// count is how many updates were answered.
func (t *truth) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

// of is what is of a page.
func (t *truth) of(page int) []written {
	switch {
	case page == allPages:
		return t.all
	case page < len(t.byPage):
		return t.byPage[page]
	}
	return nil
}

// lacks is how many updates of a page came after that of a number.
func (t *truth) lacks(page int, number int64) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.of(page)
	for n < len(of) && int64(of[len(of)-1-n].number) > number {
		n++
	}
	return n
}

// in is what a document has of a range: the newest of each page.
func (t *truth) in(page int, prev, last uint64) (newest []written) {
	of := t.of(page)
	first, _ := slices.BinarySearchFunc(of, prev+1, func(w written, seq uint64) int { return compare(w.seq, seq) })
	end, _ := slices.BinarySearchFunc(of, last+1, func(w written, seq uint64) int { return compare(w.seq, seq) })
	seen := map[int]bool{}
	for _, w := range slices.Backward(of[first:max(first, end)]) {
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
	Self, Lane        string
	First, Last, Prev uint64
	Notices           []struct {
		Seq          uint64
		URI, Version string
	}
	wrong string // what is not as it should be
}

// readDocument holds a document against the truth of a page.
func (r *callbackRun) readDocument(body []byte, page int, topic string) (d callbackDocument) {
	if err := json.Unmarshal(body, &d); err != nil {
		d.wrong = err.Error()
		return d
	}
	if d.Self != topic {
		d.wrong = fmt.Sprintf("it is of %.200q", d.Self)
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
	if want := r.truth.in(page, d.Prev, d.Last); !slices.Equal(got, want) {
		d.wrong = fmt.Sprintf("after %d up to %d it has %v, want %v", d.Prev, d.Last, got, want)
	} else if len(got) == 0 || d.First <= d.Prev || d.First > got[0].seq || d.Last != got[len(got)-1].seq {
		d.wrong = fmt.Sprintf("it says %d to %d after %d and has %v", d.First, d.Last, d.Prev, got)
	}
	return d
}

// judge holds what each subscriber got against what was published.
func (r *callbackRun) judge() {
	read := map[*sent]*callbackDocument{}
	document := func(s *sent, c *callback) *callbackDocument {
		d := read[s]
		if d == nil || d.Self != c.topic {
			parsed := r.readDocument(s.body, c.page, c.topic)
			d = &parsed
			read[s] = d
		}
		return d
	}
	report := &r.report
	for i, c := range r.callbacks.all {
		c.mu.Lock()
		had := map[string]uint64{} // by lane
		heard := true
		for k, got := range c.got {
			d := document(got.what, c)
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
			case known && d.Prev < last && !heard:
				report.Retried++
			case known && d.Prev < last:
				report.fail(&report.Repeated, "delivery %d of subscriber %d, %.80q after %d, came again: it had up to %d", k, i, got.id, d.Prev, last)
			case known && d.Prev > last:
				report.fail(&report.Gaps, "delivery %d of subscriber %d is after %d, it had up to %d", k, i, d.Prev, last)
			}
			had[d.Lane], heard = max(last, d.Last), !got.unheard
		}
		c.mu.Unlock()
	}
	report.Documents = uint64(len(read))
	if report.Missing > 0 && report.Fault == "" {
		report.Fault = fmt.Sprintf("%d subscribers lack something", report.Missing)
	}
}
