package hub

import (
	"errors"
	"net/http"
	"time"

	"github.com/freshwire/freshwire/federation"
	"github.com/freshwire/freshwire/graph"
	"github.com/prometheus/client_golang/prometheus"
)

// identityShape is who a hub is to other hubs.
type identityShape struct {
	URL         string   `json:"url"`
	Fingerprint string   `json:"fingerprint"`
	Authority   []string `json:"authority"`
	Epoch       string   `json:"epoch"`
}

// peerShape is a peer, as administrators are shown it.
type peerShape struct {
	URL         string    `json:"url"`
	Fingerprint string    `json:"fingerprint"`
	Configured  bool      `json:"configured"`
	Phase       string    `json:"phase"`
	Fault       string    `json:"fault,omitempty"`
	Silent      bool      `json:"silent,omitempty"`
	LastHeard   time.Time `json:"last_heard,omitzero"`
	Authority   []string  `json:"authority"`

	Hears peerHears `json:"hears"`
	Tells peerTells `json:"tells"`
}

// peerHears is about what the peer speaks for and something here depends on.
type peerHears struct {
	Epoch      string    `json:"epoch,omitempty"`
	Position   uint64    `json:"position"`
	Mirrors    int64     `json:"mirrors"`
	Generation uint64    `json:"generation"`
	Pending    uint64    `json:"pending"`
	Taken      uint64    `json:"taken"`
	Rejected   uint64    `json:"rejected"`
	First      string    `json:"first_rejected,omitempty"`
	Changed    int       `json:"changed"`
	Same       int       `json:"same"`
	Old        int       `json:"old"`
	Unwanted   int       `json:"unwanted"`
	Refused    uint64    `json:"refused"`
	Sessions   uint64    `json:"sessions"`
	Failures   uint64    `json:"failures"`
	Compared   time.Time `json:"compared,omitzero"`
	Mended     uint64    `json:"mended"`
}

// peerTells is about what this hub speaks for and something there depends on.
type peerTells struct {
	Epoch      string `json:"epoch,omitempty"`
	Interests  int64  `json:"interests"`
	Generation uint64 `json:"generation"`
	Applied    uint64 `json:"applied"`
	Acked      uint64 `json:"acked"`
	Waiting    int    `json:"waiting"`
	Told       uint64 `json:"told"`
	Denied     uint64 `json:"denied"`
	Faulty     uint64 `json:"faulty"`
	Streams    int    `json:"streams"`
}

func shapeEpoch(e graph.Epoch) string {
	if e == 0 {
		return ""
	}
	return e.String()
}

func shapePeer(s *federation.Status) peerShape {
	p := peerShape{URL: s.URL, Fingerprint: s.Fingerprint.String(), Configured: s.Configured, Phase: string(s.Phase), Fault: s.Fault,
		Silent: s.Silent, LastHeard: s.LastHeard.UTC(), Authority: s.InForce,
		Hears: peerHears{Epoch: shapeEpoch(s.Session.Owner), Position: s.Session.Position, Mirrors: s.Session.Mirrors,
			Generation: s.Session.Generation, Pending: s.Session.Pending, Taken: s.Taken, Rejected: s.Rejected, First: s.First,
			Changed: s.Heard.Changed, Same: s.Heard.Same, Old: s.Heard.Old, Unwanted: s.Heard.Unwanted, Refused: s.Refused,
			Sessions: s.Sessions, Failures: s.Failures, Compared: s.Compared.UTC(), Mended: s.Mended},
		Tells: peerTells{Epoch: shapeEpoch(s.Client.Epoch), Interests: s.Client.Interests, Generation: s.Client.Generation,
			Applied: s.Client.Applied, Acked: s.Client.Acked, Waiting: s.Client.Waiting, Told: s.Told, Denied: s.Denied, Faulty: s.Faulty, Streams: s.Streams}}
	if p.Authority == nil {
		p.Authority = []string{}
	}
	return p
}

// getPeers lists the peers, and who this hub is to them.
func (h *Hub) getPeers(p *federation.Peers, w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	items := []peerShape{}
	for _, url := range p.URLs() {
		s, err := p.Status(url)
		if errors.Is(err, federation.ErrNoPeer) {
			continue // it was just removed
		}
		if err != nil {
			return err
		}
		items = append(items, shapePeer(&s))
	}
	return writeJSON(w, struct {
		Hub   identityShape `json:"hub"`
		Items []peerShape   `json:"items"`
	}{shapeIdentity(p.Identity()), items})
}

func shapeIdentity(i federation.Seen) identityShape {
	shape := identityShape{URL: i.URL, Fingerprint: i.Fingerprint.String(), Authority: i.Authority, Epoch: i.Epoch}
	if shape.Authority == nil {
		shape.Authority = []string{}
	}
	return shape
}

// peerURL reads which peer is asked about.
func peerURL(r *http.Request) (string, error) {
	q, err := query(r, "url")
	if err != nil {
		return "", err
	}
	if q.Get("url") == "" {
		return "", refuse(badQuery, "url", "it is missing")
	}
	return q.Get("url"), nil
}

func (h *Hub) getPeer(p *federation.Peers, w http.ResponseWriter, r *http.Request) error {
	url, err := peerURL(r)
	if err != nil {
		return err
	}
	return writePeer(p, w, url)
}

func writePeer(p *federation.Peers, w http.ResponseWriter, url string) error {
	s, err := p.Status(url)
	if err != nil {
		return err
	}
	return writeJSON(w, shapePeer(&s))
}

// postPeers makes a hub a peer. Without a fingerprint nothing is done, and who is there
// is shown, so that people can compare.
func (h *Hub) postPeers(p *federation.Peers, w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var (
		peer        federation.Peer
		fingerprint string
	)
	err := h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) {
			switch name {
			case "url", "fingerprint":
				t, err := s.text()
				if name == "url" {
					peer.URL = string(t)
				} else {
					fingerprint = string(t)
				}
				return err
			case "authority":
				peer.Authority, err = s.texts(graph.MaxAuthority)
				return err
			}
			return errNoMember
		})
	})
	if err != nil {
		return err
	}
	if peer.URL == "" {
		return refuse(missingField, "url", "say which hub, as https://HOST")
	}
	if err := federation.CheckHub(peer.URL); err != nil {
		return refuse(badValue, "url", "%v", err)
	}
	if peer.URL == h.cfg.hubName() {
		return refuse(badValue, "url", "it is this hub itself")
	}
	if fingerprint == "" {
		seen, err := p.Look(r.Context(), peer.URL)
		if err != nil {
			return refuse(peerUnreachable, "url", "%v", err)
		}
		return writeJSON(w, shapeIdentity(seen))
	}
	if peer.Fingerprint, err = federation.ParseFingerprint(fingerprint); err != nil {
		return refuse(badValue, "fingerprint", "%v", err)
	}
	patient(w)
	if err := p.Add(r.Context(), peer); err != nil {
		if errors.Is(err, federation.ErrUnfit) && problemOf(err).Status == http.StatusInternalServerError { // nothing more is known of it
			return refuse(badValue, "authority", "%v", err)
		}
		return err
	}
	h.log.Info("a hub is a peer now", "peer", peer.URL)
	return writePeer(p, w, peer.URL)
}

// patient lets an answer take as long as a look at each resource under the prefixes of a
// peer does: on a large graph that is minutes.
func patient(w http.ResponseWriter) {
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Time{})
	control.SetWriteDeadline(time.Time{})
}

// postPeer pauses the exchange with a peer, resumes it, begins it anew, or has what was
// heard compared.
func (h *Hub) postPeer(p *federation.Peers, w http.ResponseWriter, r *http.Request) error {
	url, err := peerURL(r)
	if err != nil {
		return err
	}
	action, _, err := h.readSteering(w, r, "pause", "resume", "resync", "compare")
	if err != nil {
		return err
	}
	switch action {
	case "resync":
		err = p.Resync(r.Context(), url)
	case "compare":
		err = p.Compare(url)
	default:
		err = p.Pause(r.Context(), url, action == "pause")
	}
	if err != nil {
		return err
	}
	h.log.Info("the exchange with a peer", "peer", url, "action", action)
	return writePeer(p, w, url)
}

// deletePeer ends that a hub is a peer.
func (h *Hub) deletePeer(p *federation.Peers, w http.ResponseWriter, r *http.Request) error {
	url, err := peerURL(r)
	if err != nil {
		return err
	}
	patient(w)
	if err := p.Remove(r.Context(), url); err != nil {
		return err
	}
	h.log.Info("a hub is no peer any more", "peer", url)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// peerCollector shows what passes between hubs. Peers are few, and named by operators.
type peerCollector struct{ peers *federation.Peers }

var (
	descPeerUp        = desc("peer_up", "1 while the states of the peer are heard.", "peer")
	descPeerHeard     = desc("peer_heard_total", "States that the peer told, by what came of them.", "peer", "result")
	descPeerTold      = desc("peer_told_total", "States that the peer was told.", "peer")
	descPeerMirrors   = desc("peer_mirrors", "Resources of the peer that something here depends on.", "peer")
	descPeerInterests = desc("peer_interests", "Resources of this hub that something at the peer depends on.", "peer")
	descPeerPending   = desc("peer_pending_ops", "Changes of what is wanted that the peer has not taken yet.", "peer")
	descPeerRejected  = desc("peer_rejected_total", "Resources that were asked for and not granted, by who did not.", "peer", "by")
	descPeerFaulty    = desc("peer_faulty_requests_total", "Requests in the name of the peer that were none of the protocol, or did not prove who asks.", "peer")
	descPeerFailures  = desc("peer_failures_total", "Connections to the peer that failed.", "peer")
	descPeerSilence   = desc("peer_silence_seconds", "Time since the last sign of life of the peer.", "peer")
	descPeerMended    = desc("peer_mended_total", "Differences that comparisons found and mended.", "peer")
)

func (c peerCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPeerUp, descPeerHeard, descPeerTold, descPeerMirrors, descPeerInterests, descPeerPending,
		descPeerRejected, descPeerFaulty, descPeerFailures, descPeerSilence, descPeerMended} {
		ch <- d
	}
}

func (c peerCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, url := range c.peers.URLs() {
		s, err := c.peers.Status(url)
		if err != nil {
			continue // it was just removed
		}
		up := 0.0
		if s.Phase == federation.Following {
			up = 1
		}
		gauge(descPeerUp, up, url)
		for result, n := range map[string]uint64{"changed": uint64(s.Heard.Changed), "same": uint64(s.Heard.Same),
			"old": uint64(s.Heard.Old), "unwanted": uint64(s.Heard.Unwanted), "refused": s.Refused} {
			counter(descPeerHeard, n, url, result)
		}
		counter(descPeerTold, s.Told, url)
		gauge(descPeerMirrors, float64(s.Session.Mirrors), url)
		gauge(descPeerInterests, float64(s.Client.Interests), url)
		gauge(descPeerPending, float64(s.Session.Pending), url)
		counter(descPeerRejected, s.Rejected, url, "peer")
		counter(descPeerRejected, s.Denied, url, "hub")
		counter(descPeerFaulty, s.Faulty, url)
		counter(descPeerFailures, s.Failures, url)
		if !s.LastHeard.IsZero() {
			gauge(descPeerSilence, time.Since(s.LastHeard).Seconds(), url)
		}
		counter(descPeerMended, s.Mended, url)
	}
}
