package hub

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/outbound"
	"github.com/freshwire/freshwire/subscriptions/websub"
	"github.com/go-chi/chi/v5"
)

const (
	typeForm = "application/x-www-form-urlencoded"
	// callbackKeep bounds the connections to callbacks that wait for their next call:
	// each is a descriptor, and of those that streams leave there are 5,000.
	callbackKeep = 2048
	// maxVerifyAnswer bounds what is read of a verification's answer, in bytes: more
	// than the challenge is a refusal already.
	maxVerifyAnswer = 4 << 10
	// callsPerHost bounds the calls at once at one host, and so the connections to it
	// that wait for the next one.
	callsPerHost = 8
	// maxSubscriptionPage bounds a page of subscriptions.
	maxSubscriptionPage = 1000
)

// openCallbacks makes the hub of those who subscribed to be called.
func (h *Hub) openCallbacks() (err error) {
	c := h.cfg.WebSub
	policy := outbound.Policy{Purpose: "callback", Allow: c.CallbackAllow, Timeout: c.DeliveryTimeout, Keep: callbackKeep, KeepPerHost: callsPerHost}
	for _, port := range c.CallbackPorts {
		policy.Ports = append(policy.Ports, uint16(port))
	}
	h.callbacks = outbound.New(policy)
	policy.Purpose, policy.Keep, policy.MaxAnswer = "verification", outbound.None, maxVerifyAnswer
	policy.Admit = func(to netip.AddrPort) error { return h.websub.Admit(to) }
	h.websub, err = websub.New(h.store, websub.Options{
		Feeds: h.streams, Digests: h.digests, Oldest: h.store.Oldest, Engine: h.delivery, Callbacks: h.callbacks, Verifier: outbound.New(policy),
		CheckURL: h.callbacks.CheckURL,
		Clock:    h.clock.Now, ClockRate: h.cfg.ClockRate, Log: h.log.With("component", "websub"),
		LeaseMin: c.LeaseMin, LeaseDefault: c.LeaseDefault, LeaseMax: c.LeaseMax, PerOwner: c.PerOwner, VerifyRate: c.VerifyRate,
		Signature: c.Signature, Schedule: c.schedule(), Policy: c.policy(), Moved: c.MovedTo, Observe: h.cfg.Mode == ModeObserve})
	if err == nil {
		h.metrics.registry.MustRegister(webSubCollector{h.websub})
	}
	return err
}

// outletEnded hears that what an outlet sends is not wanted any more.
func (h *Hub) outletEnded(name string) { h.websub.Ended(name) }

// requester tells who sent r.
func (h *Hub) requester(r *http.Request) websub.Requester {
	rights := caller(r)
	v, _ := viewer(r)
	w := websub.Requester{Subject: rights.Subject, Viewer: v, Issued: rights.Issued, Admin: rights.Admin, MayPublish: func(uri string) bool {
		return uri == "" && len(rights.Publish) > 0 || rights.MayPublish(uri)
	}}
	if a, err := netip.ParseAddr(h.clientAddr(r)); err == nil && rights.Anonymous() {
		w.Address = websub.Target(a)
	}
	return w
}

// postWebSub takes the form of a subscriber, or of a publisher who pings.
func (h *Hub) postWebSub(w http.ResponseWriter, r *http.Request) error {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != typeForm {
		return refuse(badContentType, "Content-Type", "it is not %s", typeForm)
	}
	form, err := io.ReadAll(http.MaxBytesReader(w, r.Body, websub.MaxForm))
	if err != nil {
		return bodyError(err)
	}
	moved := (*websub.MovedError)(nil)
	if err = h.websub.Receive(r.Context(), form, h.baseURL(r), h.requester(r)); errors.As(err, &moved) {
		// Not 308, which clients remember for ever.
		w.Header().Set("Location", moved.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return nil
	}
	if err != nil {
		return channelError(err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// inWords answers refusals as plain text, to whoever does not ask for JSON.
// Source: WebSub, section 5.2: a reason SHOULD be given in the body as plain text.
func inWords(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "json") {
			next.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(&wordsWriter{ResponseWriter: w}, r)
	})
}

// A wordsWriter writes of a problem what is to be read.
type wordsWriter struct {
	http.ResponseWriter
	problem bool
}

func (w *wordsWriter) WriteHeader(status int) {
	if w.problem = w.Header().Get("Content-Type") == typeProblem; w.problem {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *wordsWriter) Write(b []byte) (int, error) {
	var p Problem
	if !w.problem || json.Unmarshal(b, &p) != nil {
		return w.ResponseWriter.Write(b)
	}
	text := p.Title
	if p.Detail != "" {
		if p.Field != "" {
			text += ": " + p.Field
		}
		text += ": " + p.Detail
	}
	if _, err := io.WriteString(w.ResponseWriter, text+"\n"); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Unwrap lets an http.ResponseController find what it needs.
func (w *wordsWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// subscriptionShape is a subscription as it is shown.
type subscriptionShape struct {
	ID           string     `json:"id"`
	Topic        string     `json:"topic"`
	Callback     string     `json:"callback"`
	Owner        string     `json:"owner,omitempty"`
	Format       string     `json:"format"`
	Signed       bool       `json:"signed"`
	LeaseSeconds int64      `json:"lease_seconds"`
	LeaseUntil   time.Time  `json:"lease_until"`
	Created      time.Time  `json:"created"`
	Health       string     `json:"health"`
	Lag          uint64     `json:"lag"`
	Failures     int        `json:"failures"`
	Delivered    uint64     `json:"delivered"`
	LastError    string     `json:"last_error,omitempty"`
	LastSuccess  *time.Time `json:"last_success,omitempty"`
	NextAttempt  *time.Time `json:"next_attempt,omitempty"`
}

// shapeSubscription shows its callback whole to its owner alone: a query may hold what
// only the two of them know.
func shapeSubscription(r *http.Request, i *websub.Info) subscriptionShape {
	s := subscriptionShape{ID: i.ID, Topic: i.Topic, Callback: i.Shown, Owner: i.Owner.Subject, Format: "json", Signed: i.Signed,
		LeaseSeconds: int64(i.Lease / time.Second), LeaseUntil: i.Until, Created: i.Made}
	if isOwner(r, i.Owner) {
		s.Callback = i.Callback
	}
	if i.Atom {
		s.Format = "atom"
	}
	d := &i.State
	s.Health, s.Lag, s.Failures, s.Delivered, s.LastError = string(d.Health), d.Behind, d.Failed, d.Sent, d.LastError
	s.LastSuccess, s.NextAttempt = timeOrNil(d.LastSuccess), timeOrNil(d.Next)
	return s
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// isOwner reports whether the caller is whose a subscription is.
func isOwner(r *http.Request, o websub.Owner) bool {
	rights := caller(r)
	return !rights.Anonymous() && o.Subject == rights.Subject
}

// getSubscriptions lists the caller's subscriptions, and to administrators all.
func (h *Hub) getSubscriptions(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "after", "limit")
	if err != nil {
		return err
	}
	limit, err := count(q, "limit", pageLimit, maxSubscriptionPage)
	if err != nil {
		return err
	}
	list, next := h.websub.List(q.Get("after"), limit, func(o websub.Owner) bool { return caller(r).Admin || isOwner(r, o) })
	items := make([]subscriptionShape, 0, len(list))
	for i := range list {
		items = append(items, shapeSubscription(r, &list[i]))
	}
	return writeJSON(w, struct {
		Items []subscriptionShape `json:"items"`
		Next  string              `json:"next,omitempty"`
	}{items, next})
}

// subscriptionOf returns the subscription in the address of r, if it is the caller's to
// know of; of others it does not tell whether they are there.
func (h *Hub) subscriptionOf(r *http.Request) (websub.Info, error) {
	if _, err := query(r); err != nil {
		return websub.Info{}, err
	}
	i, err := h.websub.Get(chi.URLParam(r, "id"))
	if err == nil && !caller(r).Admin && !isOwner(r, i.Owner) {
		err = websub.ErrNoSubscription
	}
	return i, err
}

func (h *Hub) getSubscription(w http.ResponseWriter, r *http.Request) error {
	i, err := h.subscriptionOf(r)
	if err != nil {
		return err
	}
	return writeJSON(w, shapeSubscription(r, &i))
}

// deleteSubscription ends a subscription.
func (h *Hub) deleteSubscription(w http.ResponseWriter, r *http.Request) error {
	i, err := h.subscriptionOf(r)
	if err != nil {
		return err
	}
	why := "an administrator of the hub ended it"
	if isOwner(r, i.Owner) {
		why = "its owner ended it"
	}
	if err := h.websub.End(r.Context(), i.ID, why); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pingShape is what came of a ping.
type pingShape struct {
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
	TookMS int64  `json:"took_ms"`
}

// postSubscription pauses, resumes or replays a subscription, or pings its callback.
func (h *Hub) postSubscription(w http.ResponseWriter, r *http.Request) error {
	i, err := h.subscriptionOf(r)
	if err != nil {
		return err
	}
	action, from, err := h.readSteering(w, r, "pause", "resume", "replay", "ping")
	if err != nil {
		return err
	}
	if action == "ping" {
		return h.ping(w, r, i.ID)
	}
	if err := h.websub.Control(r.Context(), i.ID, action, from); err != nil {
		return err
	}
	if i, err = h.websub.Get(i.ID); err != nil {
		return err
	}
	return writeJSON(w, shapeSubscription(r, &i))
}

func (h *Hub) ping(w http.ResponseWriter, r *http.Request, id string) error {
	pong, err := h.websub.Ping(r.Context(), id)
	if err != nil {
		return err
	}
	shape := pingShape{Status: pong.Status, TookMS: pong.Took.Milliseconds()}
	if pong.Err != nil {
		shape.Error = pong.Err.Error()
	}
	return writeJSON(w, shape)
}
