package sink

import (
	"fmt"
	"strings"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// A Trial says what a sink would send for a notice, or why it would send nothing.
type Trial struct {
	Sink  string      `json:"sink"`
	Sends []TrialCall `json:"sends,omitempty"`
	Why   string      `json:"why,omitempty"` // nothing is sent
	Note  string      `json:"note,omitempty"`
}

// A TrialCall is one request as it would be sent, secrets hidden.
type TrialCall struct {
	Method  string      `json:"method"`
	URL     string      `json:"url"`
	Headers [][2]string `json:"headers,omitempty"` // Host among them where it is not that of the URL
	Body    string      `json:"body,omitempty"`
	Fault   string      `json:"fault,omitempty"` // it cannot be made, and would be a dead letter
	About   string      `json:"about"`           // calls about the same are merged while they wait
}

// Try returns what s would make of n now. Nothing is sent.
func (s *Sink) Try(n *graph.Notice, now time.Time) Trial {
	t := Trial{Sink: s.Name}
	s = s.display
	d := s.decide(n)
	switch {
	case d.branch == nil:
		t.Why = s.reason(n, d.why)
		return t
	case s.tooOld(n.At, now):
		t.Why = fmt.Sprintf("max_age: the notice is older than %s", s.maxAge)
		return t
	case s.DryRun:
		t.Note = "dry_run: it is not sent"
	}
	for _, subject := range d.subjects {
		for _, target := range d.branch.action.targets() {
			t.Sends = append(t.Sends, d.branch.try(target, subject))
		}
	}
	return t
}

// reason says why s leaves n alone; each case has a reason of its own.
func (s *Sink) reason(n *graph.Notice, why string) string {
	own := &subject{notice: n}
	if len(s.Cases) == 0 || s.match.differs(own, own) != "" || why == whySample {
		return explain(own, why)
	}
	var all []string
	for _, b := range s.branches {
		all = append(all, b.field+": "+explain(own, s.decideBranch(b, own).why))
	}
	return strings.Join(all, "; ")
}

// explain says what the field that is to blame holds.
func explain(s *subject, why string) string {
	switch why {
	case whySample:
		return "the sample does not hold this resource"
	case whyBucket:
		return "the request is made for each bucket, and the resource has none"
	case whyNot:
		return "match_not is met"
	case "uri":
		return fmt.Sprintf("match.uri does not agree with %q", s.url())
	case "prefix":
		return fmt.Sprintf("match.prefix does not hold %q", s.notice.URI)
	case "bucket":
		return fmt.Sprintf("match.bucket does not agree with %q", s.notice.Buckets)
	}
	return fmt.Sprintf("match.%s does not agree with %q", why, fields[why](s).raw)
}

func (b *branch) try(target string, s *subject) TrialCall {
	t := TrialCall{About: b.key(s), Method: b.action.method}
	call, err := b.action.render(target, s)
	if err != nil {
		t.Fault = err.Error()
		return t
	}
	t.URL, t.Body = call.URL, call.Body
	if call.Host != "" {
		t.Headers = append(t.Headers, [2]string{"Host", call.Host})
	}
	t.Headers = append(t.Headers, call.Headers...)
	for _, h := range call.secrets {
		t.Headers = append(t.Headers, [2]string{h.name, hidden})
	}
	return t
}
