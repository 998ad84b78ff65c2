package hub

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/claim"
	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultClaims, defaultLease and defaultWait are what a poll is given that does not
	// say: one thing at a time, time to fetch and render a page, and few requests.
	defaultClaims = 1
	defaultLease  = time.Minute
	defaultWait   = 20 * time.Second
	// maxTypeName bounds the name of a type in bytes, as in updates.
	maxTypeName = 255
)

// claimShape is a claim that was given.
type claimShape struct {
	ID         string          `json:"id"`
	URI        string          `json:"uri"`
	Type       string          `json:"type,omitempty"`
	Token      string          `json:"token"` // for the update that finishes it
	LeaseUntil time.Time       `json:"lease_until"`
	Notice     json.RawMessage `json:"notice"`
}

// claimState is a claim after something was done with it.
type claimState struct {
	ID         string    `json:"id"`
	URI        string    `json:"uri,omitempty"`
	LeaseUntil time.Time `json:"lease_until,omitzero"`
}

// claimer is what the desk is told of the caller.
func claimer(r *http.Request) (claim.Claimer, error) {
	rights := caller(r)
	v, err := viewer(r)
	if err == nil && !rights.Admin && len(rights.Publish) == 0 {
		err = refuse(forbidden, "", "the token's publish is empty: it may make nothing")
	}
	return claim.Claimer{Name: rights.Subject, Viewer: v, All: rights.MayPublishAll(), Publish: rights.Publish}, err
}

// postClaims hands out what is ready to whoever makes it.
func (h *Hub) postClaims(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	who, err := claimer(r)
	if err != nil {
		return err
	}
	q := claim.Request{Max: defaultClaims, Lease: defaultLease, Wait: defaultWait}
	err = h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) error { return readClaimRequest(s, name, &q) })
	})
	if err == nil && (q.Channel == "") == (len(q.Types) == 0) {
		err = refuse(missingField, "channel", "say either a channel or types")
	}
	if err != nil {
		return err
	}
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Time{}) // that of the body would end the wait
	control.SetWriteDeadline(time.Now().Add(q.Wait + answerDeadline))
	got, err := h.claims.Claim(r.Context(), who, q)
	if err != nil {
		return claimError(err)
	}
	out := struct {
		Claims []claimShape `json:"claims"`
	}{make([]claimShape, len(got))}
	for i := range got {
		c := &got[i]
		out.Claims[i] = claimShape{c.ID, c.URI, c.Notice.Type, c.Token.String(), c.LeaseUntil, subscriptions.AppendNotice(nil, &c.Notice)}
	}
	return writeJSON(w, out)
}

func readClaimRequest(s *scanner, name string, q *claim.Request) (err error) {
	switch name {
	case "channel":
		q.Channel, err = s.named()
	case "types":
		q.Types, err = s.list(claim.MaxTypes, "types", s.named)
		if err == nil && len(q.Types) == 0 {
			err = refuse(badValue, "", "it is empty")
		}
	case "max":
		q.Max, err = s.from1(claim.MaxClaims)
	case "lease_s":
		q.Lease, err = s.lease()
	case "wait_s":
		var n int
		n, err = s.integer(int(claim.MaxWait / time.Second))
		q.Wait = time.Duration(n) * time.Second
	default:
		err = errNoMember
	}
	return err
}

// named reads the name of a type or channel.
func (s *scanner) named() (string, error) {
	t, err := s.text()
	if err == nil {
		err = checkToken(t, maxTypeName)
	}
	return string(t), err
}

// from1 reads a whole number from 1 to most.
func (s *scanner) from1(most int) (int, error) {
	n, err := s.integer(most)
	if err == nil && n == 0 {
		err = refuse(badValue, "", "it is 0; send a number from 1 to %d", most)
	}
	return n, err
}

func (s *scanner) lease() (time.Duration, error) {
	n, err := s.from1(int(graph.MaxLease / time.Second))
	return time.Duration(n) * time.Second, err
}

// postClaim extends a claim, gives it back or says that making failed.
func (h *Hub) postClaim(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, action, lease := chi.URLParam(r, "id"), "", time.Duration(0)
	err := h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) {
			switch name {
			case "action":
				action, err = s.named()
			case "lease_s":
				lease, err = s.lease()
			default:
				err = errNoMember
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	state, holder := claimState{ID: id}, caller(r).Subject
	switch {
	case action == "":
		return refuse(missingField, "action", "say extend, fail or release")
	case action != "extend" && lease != 0:
		return refuse(badValue, "lease_s", "only extend has a lease")
	case action == "extend":
		if lease == 0 {
			lease = defaultLease
		}
		c, err := h.claims.Extend(r.Context(), holder, id, lease)
		if err != nil {
			return claimError(err)
		}
		state.URI, state.LeaseUntil = c.URI, c.LeaseUntil
	case action == "fail" || action == "release":
		if err := h.claims.Release(r.Context(), holder, id, action == "fail"); err != nil {
			return claimError(err)
		}
	default:
		return refuse(badValue, "action", "%.40q is not extend, fail or release", action)
	}
	return writeJSON(w, state)
}

// claimError tells what is wrong with what was asked of the desk.
func claimError(err error) error {
	var (
		no      *subscriptions.Refusal
		limit   *claim.LimitError
		invalid *graph.InvalidError
	)
	switch {
	case errors.Is(err, claim.ErrUnknown):
		return refuse(unknownClaim, "", "%v", err)
	case errors.As(err, &limit):
		e := refuse(tooManyClaims, "", "%v", err)
		e.limit = int64(limit.Limit)
		return e
	case errors.As(err, &no):
		return refuse(forbidden, no.Field, "%s", no.Detail)
	case errors.As(err, &invalid):
		return refuse(badValue, invalid.Field, "%s", invalid.Reason)
	case errors.Is(err, subscriptions.ErrNoChannel):
		return refuse(unknownChannel, "channel", "%v", err)
	}
	return channelError(err)
}

// claimCollector shows the figures of the desk.
type claimCollector struct{ desk *claim.Desk }

var (
	descPolls        = desc("claim_polls", "Polls that wait for work.")
	descPools        = desc("claim_pools", "Sets of polls that wait for the same.")
	descClaims       = desc("claims_total", "Claims given.")
	descExtended     = desc("claims_extended_total", "Leases extended.")
	descClaimsFailed = desc("claims_failed_total", "Claims whose holder said that making failed.")
	descReleased     = desc("claims_released_total", "Claims given back.")
	descClaimResets  = desc("claim_resets_total", "Times that work was looked for in all that is ready because the journal had been trimmed.")
)

func (c claimCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPolls, descPools, descClaims, descExtended, descClaimsFailed, descReleased, descClaimResets} {
		ch <- d
	}
}

func (c claimCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.desk.Stats()
	ch <- prometheus.MustNewConstMetric(descPolls, prometheus.GaugeValue, float64(s.Polls))
	ch <- prometheus.MustNewConstMetric(descPools, prometheus.GaugeValue, float64(s.Pools))
	for d, n := range map[*prometheus.Desc]uint64{descClaims: s.Handed, descExtended: s.Extended, descClaimsFailed: s.Failed,
		descReleased: s.Released, descClaimResets: s.Resets} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
}
