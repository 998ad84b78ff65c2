package bench

import (
	"context"
	"fmt"

	"github.com/freshwire/freshwire/hub/client"
)

// PeersReport is what was found of two hubs. Its JSON names are stable.
type PeersReport struct {
	Hub          string    `json:"hub"`
	Peer         string    `json:"peer"`
	Files        int       `json:"files"`
	Pages        int       `json:"pages"`
	SetupSeconds float64   `json:"setup_s"` // to publish all of them, until the peer had heard of the files
	Idle         Crossings `json:"idle"`
	Loaded       Crossings `json:"loaded"`
	Refreshing   CatchUp   `json:"catch_up"`              // each state has a page refreshed
	Alone        CatchUp   `json:"catch_up_states_alone"` // the pages are to be refreshed already
	Edit         PeersEdit `json:"edit"`

	Behind   uint64 `json:"behind"`   // files that a hub does not have as they were sent last
	Untold   uint64 `json:"untold"`   // pages that are to be refreshed and of which no notice came
	Repeated uint64 `json:"repeated"` // pages of which more than one notice came, although nobody made them again
	Needless uint64 `json:"needless"` // pages of which a notice came although nothing changed
	Unready  uint64 `json:"unready"`  // pages that the peer takes for what they are not: ready, or clean
	Strange  uint64 `json:"strange"`  // notices that were not asked for
	Fault    string `json:"fault,omitempty"`
}

// Crossings are updates of files at the one hub of each of which a page at the other is
// to be refreshed.
type Crossings struct {
	Updates  int     `json:"updates"`
	Latency  Spread  `json:"latency_ms"`           // from just before the update was sent to the notice
	Answered Spread  `json:"answered_ms"`          // from there to the answer: the update is durable
	Offered  float64 `json:"beside_offered_per_s"` // updates of other files meanwhile
	Rate     float64 `json:"beside_per_s"`         // what became of them
}

// CatchUp is what a hub hears when it was away.
type CatchUp struct {
	States  int     `json:"states"`
	Told    uint64  `json:"told"` // states that were sent
	Seconds float64 `json:"measured_s"`
	Rate    float64 `json:"states_per_s"`
	HubCPU  float64 `json:"hub_cpu_s_per_100k"` // of the process of the hub, for 100,000 states
	PeerCPU float64 `json:"peer_cpu_s_per_100k"`
}

// PeersEdit is one change of a file that many pages are made from.
type PeersEdit struct {
	Dependents int     `json:"dependents"`
	Crossed    uint64  `json:"states"`   // that the hub told
	FirstMS    float64 `json:"first_ms"` // from just before the update was sent to the first notice
	LastMS     float64 `json:"last_ms"`  // to the last
	Rate       float64 `json:"notices_per_s"`
	HubCPU     float64 `json:"hub_cpu_s"`
	PeerCPU    float64 `json:"peer_cpu_s"`
}

// Err returns an [ErrInexact] that says what was wrong, or nil.
func (r *PeersReport) Err() error {
	crossed := r.Edit.Dependents == 0 || r.Edit.Crossed == 1
	if r.Behind+r.Untold+r.Repeated+r.Needless+r.Unready+r.Strange == 0 && crossed {
		return nil
	}
	err := fmt.Errorf("%w: of %d files %d are not as they were sent last; of %d pages %d were told of too little, %d too often, %d for nothing, "+
		"%d are not what they should be; %d notices were not asked for; %d states crossed for %d pages of one file", ErrInexact,
		r.Files, r.Behind, r.Pages, r.Untold, r.Repeated, r.Needless, r.Unready, r.Strange, r.Edit.Crossed, r.Edit.Dependents)
	if r.Fault != "" {
		err = fmt.Errorf("%w; the first: %s", err, r.Fault)
	}
	return err
}

// fail notes the first fault.
func (r *PeersReport) fail(count *uint64, format string, a ...any) {
	if *count++; r.Fault == "" {
		r.Fault = fmt.Sprintf(format, a...)
	}
}

// judge holds what both hubs have in the end against what was sent, and who was told
// against who had to be.
func (r *peersRun) judge(ctx context.Context) error {
	r.say("checking %d files and %d pages", r.report.Files, r.report.Pages)
	stop, err := r.readOn(ctx, r.layout.ends.from+1)
	if err == nil {
		err = stop()
	}
	if err != nil {
		return err
	}
	for _, hub := range []*client.Client{r.owner, r.peer} {
		behind, err := r.lag(ctx, hub, stretch{0, r.layout.files()})
		if err != nil {
			return err
		}
		if r.report.Behind += uint64(behind); behind > 0 && r.report.Fault == "" {
			r.report.Fault = fmt.Sprintf("%s has %d files in other versions than they were sent in last", hub.URL(), behind)
		}
	}
	r.judgeNotices()
	for from := 0; from < r.layout.pages(); from += loadBatch {
		if err := r.judgeStates(ctx, stretch{from, min(from+loadBatch, r.layout.pages())}); err != nil {
			return err
		}
	}
	return nil
}

// changed reports whether the file of a page has changed since the page was made.
func (r *peersRun) changed(page int) bool { return r.versions[r.layout.fileOf(page)] > firstVersion }

// judgeNotices counts pages that were told of otherwise than once for all changes of
// their file: nobody has made them again, and who is to be refreshed need not hear it twice.
func (r *peersRun) judgeNotices() {
	report := &r.report
	told, strangers := r.refreshes.tally()
	if report.Strange = strangers; strangers > 0 && report.Fault == "" {
		report.Fault = fmt.Sprintf("%d notices came that were not asked for", strangers)
	}
	for page, n := range told {
		switch changed := r.changed(page); {
		case changed && n == 0:
			report.fail(&report.Untold, "no notice of %s, whose file changed", r.pageURI(page))
		case changed && n > 1:
			report.fail(&report.Repeated, "%d notices of %s", n, r.pageURI(page))
		case !changed && n > 0:
			report.fail(&report.Needless, "a notice of %s, whose file has not changed", r.pageURI(page))
		}
	}
}

// judgeStates counts pages that are in another state than what happened makes them.
func (r *peersRun) judgeStates(ctx context.Context, s stretch) error {
	uris := make([]string, s.count())
	for i := range uris {
		uris[i] = r.pageURI(s.from + i)
	}
	states, err := r.peer.Status(ctx, uris...)
	if err != nil {
		return err
	}
	for i, uri := range uris {
		want := client.StateClean
		if r.changed(s.from + i) {
			want = client.StateReady
		}
		if i >= len(states) || states[i].State != want {
			r.report.fail(&r.report.Unready, "%s is not %s", uri, want)
		}
	}
	return nil
}
