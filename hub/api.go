package hub

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/freshwire/freshwire/federation"
	"github.com/freshwire/freshwire/graph"
	"github.com/go-chi/chi/v5"
)

//go:embed openapi.json
var openAPI []byte

func init() { chi.RegisterMethod("QUERY") }

// routes is the API. openapi.json describes it, and a test holds both together.
func (h *Hub) routes() http.Handler {
	r := chi.NewRouter()
	r.Use(headAsGet)
	paced := r.With(h.paced)
	for _, route := range []struct {
		method, path string
		needs        access
		handle       func(http.ResponseWriter, *http.Request) error
	}{
		{"POST", "/v1/updates", forHolders, h.postUpdates},
		{"GET", "/v1/resource", forHolders, h.getResource},
		{"POST", "/v1/status", forHolders, h.postStatus},
		{"GET", "/v1/dependencies", forHolders, h.listing(h.store.Dependencies)},
		{"PATCH", "/v1/dependencies", forHolders, h.patchDependencies},
		{"DELETE", "/v1/dependencies", forHolders, h.deleteDependencies},
		{"GET", "/v1/dependents", forHolders, h.listing(h.store.Dependents)},
		{"DELETE", "/v1/dependents", forAdmins, h.deleteDependents}, // edges of whoever made something from it
		{"GET", "/v1/why", forHolders, h.getWhy},
		{"GET", "/v1/impact", forHolders, h.getImpact},
		{"GET", "/v1/token", forHolders, h.getToken},
		{"GET", "/v1/jobs", forHolders, h.getJobs},
		{"POST", "/v1/jobs/{id}", forAdmins, h.postJob},
		{"GET", "/v1/channels", forAll, h.getChannels},
		{"GET", "/v1/channels/{name}", forAll, h.getChannel},
		{"PUT", "/v1/channels/{name}", forHolders, h.putChannel},
		{"PATCH", "/v1/channels/{name}", forHolders, h.patchChannel},
		{"DELETE", "/v1/channels/{name}", forHolders, h.deleteChannel},
		{"GET", "/v1/channels/{name}/uris", forAll, h.getChannelURIs},
		{"POST", "/v1/claims", forHolders, h.postClaims},
		{"POST", "/v1/claims/{id}", forHolders, h.postClaim},
		{"GET", "/v1/backups", forAdmins, h.getBackups},
		{"POST", "/v1/backups", forAdmins, h.postBackup},
		{"GET", topicPath + "resource", forHolders, h.getResourceTopic},
		{"GET", topicPath + "{name}", forAll, h.getChannelTopic},
		{"GET", "/v1/subscriptions", forHolders, h.getSubscriptions},
		{"GET", "/v1/subscriptions/{id}", forHolders, h.getSubscription},
		{"POST", "/v1/subscriptions/{id}", forHolders, h.postSubscription},
		{"DELETE", "/v1/subscriptions/{id}", forHolders, h.deleteSubscription},
		{"GET", "/v1/sinks", forAdmins, h.getSinks},
		{"POST", "/v1/sinks/test", forAdmins, h.postSinkTest},
		{"GET", "/v1/sinks/{name}", forAdmins, h.getSink},
		{"POST", "/v1/sinks/{name}", forAdmins, h.postSink},
		{"GET", "/v1/deadletters", forAdmins, h.getDeadLetters},
		{"POST", "/v1/deadletters", forAdmins, h.postDeadLetters},
		{"GET", "/v1/deadletters/{id}", forAdmins, h.getDeadLetter},
		{"POST", "/v1/deadletters/{id}", forAdmins, h.postDeadLetter},
		{"DELETE", "/v1/deadletters/{id}", forAdmins, h.deleteDeadLetter},
		{"GET", "/v1/pause", forAdmins, h.getPause},
		{"POST", "/v1/pause", forAdmins, h.postPause},
		{"POST", "/v1/reload", forAdmins, h.postReload},
		{"GET", digestPath, forAll, h.getDigestIndex},
		{"GET", digestPath + "{name}/since", forAll, h.getDigestSince},
		{"GET", digestPath + "{name}/{file}", forAll, h.getDigestFile},
		{"GET", digestPath + "{name}/recent/{file}", forAll, h.getDigestFile},
		{"GET", digestPath + "{name}/h/{year}/{month}/{day}/{hour}/{file}", forAll, h.getDigestFile},
		{"GET", digestPath + "{name}/d/{year}/{month}/{day}/{file}", forAll, h.getDigestFile},
		{"GET", digestPath + "{name}/w/{week}/{file}", forAll, h.getDigestFile},
		{"GET", "/v1/digests", forAll, h.getDigests},
		{"GET", "/v1/peers", forAdmins, h.federated(h.getPeers)},
		{"POST", "/v1/peers", forAdmins, h.federated(h.postPeers)},
		{"GET", "/v1/peer", forAdmins, h.federated(h.getPeer)},
		{"POST", "/v1/peer", forAdmins, h.federated(h.postPeer)},
		{"DELETE", "/v1/peer", forAdmins, h.federated(h.deletePeer)},
		{"GET", federation.DocumentPath, forAll, h.federated(getFederation)},
		{"POST", federation.Path + federation.EndpointInterests, forAll, h.federated((*federation.Peers).ServeInterests)}, // each asks who its peer is
		{"GET", federation.Path + federation.EndpointStream, forAll, h.federated((*federation.Peers).ServeStream)},
		{"POST", federation.Path + federation.EndpointAck, forAll, h.federated((*federation.Peers).ServeAck)},
		{"POST", federation.Path + federation.EndpointCompare, forAll, h.federated((*federation.Peers).ServeCompare)},
		{"GET", "/.well-known/resourcesync", forAll, h.getResourceSync},
		{"GET", "/healthz", forAll, h.getHealth},
		{"GET", "/livez", forAll, h.getLife},
	} {
		on := chi.Router(r)
		if strings.HasPrefix(route.path, "/v1/") || strings.HasPrefix(route.path, topicPath) || strings.HasPrefix(route.path, digestPath) {
			on = paced
		}
		on.Method(route.method, route.path, route.needs.guard(h.answered(route.handle)))
	}
	r.Method(http.MethodOptions, digestPath+"*", h.answered(h.preflightDigest))
	for _, method := range []string{http.MethodGet, http.MethodPost, "QUERY"} {
		paced.Method(method, "/v1/stream", h.streams) // which asks who its viewer is
	}
	r.Method(http.MethodPost, webSubPath, inWords(h.paced(h.answered(h.postWebSub)))) // topics say who may follow them
	r.Method(http.MethodGet, "/metrics", forAdmins.guard(h.metrics.handler()))
	r.Get("/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", typeJSON)
		w.Write(openAPI)
	})
	h.strays(r)
	return r
}

// headAsGet routes HEAD as GET, of whose answer net/http then sends the header alone.
// The router's own middleware for that wants a context that the router made itself.
func headAsGet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			chi.RouteContext(r.Context()).RouteMethod = http.MethodGet
		}
		next.ServeHTTP(w, r)
	})
}

// adminRoutes is for the operator alone: profiles cost time and show memory.
func (h *Hub) adminRoutes() http.Handler {
	r := chi.NewRouter()
	r.Method(http.MethodGet, "/metrics", h.metrics.handler())
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	h.strays(r)
	return r
}

// strays answers what no route does.
func (h *Hub) strays(router *chi.Mux) {
	router.NotFound(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, notFound.problem(""))
	})
	router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		path := cmp.Or(r.URL.RawPath, r.URL.Path)
		var allowed []string
		for _, m := range []string{"GET", "POST", "QUERY", "PUT", "PATCH", "DELETE"} {
			if router.Match(chi.NewRouteContext(), m, path) {
				allowed = append(allowed, m)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, badMethod.problem("use "+strings.Join(allowed, ", ")))
	})
}

// answered makes a handler of f: an error becomes a problem, also if the client
// seems to be gone: it may have closed its half of the connection alone, and to say
// nothing would be to say 200.
func (h *Hub) answered(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := f(w, r)
		if err == nil {
			return
		}
		p := problemOf(err)
		if p.Status == http.StatusInternalServerError && r.Context().Err() == nil {
			h.log.Error("request failed", "request", w.Header().Get(headerRequestID), "err", err)
		}
		writeProblem(w, p)
	}
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, v any) error { return writeJSONStatus(w, http.StatusOK, v) }

// writeJSONStatus is writeJSON with another status.
func writeJSONStatus(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(v) // who does not read it is not there
	return nil
}

// query reads the parameters of r, each of which may stand once. What is not in
// names is refused.
func query(r *http.Request, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(badQuery, "", "it cannot be read: %v", err)
	}
	for name, values := range q {
		if !slices.Contains(names, name) {
			return nil, refuse(badQuery, clip([]byte(name)), "it is not a parameter of this address")
		}
		if len(values) > 1 {
			return nil, refuse(badQuery, name, "it stands more than once")
		}
	}
	return q, nil
}

// queryOf reads the parameters of a question about one resource: its URI, and
// others that are named.
func (h *Hub) queryOf(r *http.Request, names ...string) (q url.Values, uri string, err error) {
	if q, err = query(r, append(names, "uri")...); err != nil {
		return nil, "", err
	}
	uri = q.Get("uri")
	if uri == "" {
		return nil, "", refuse(badQuery, "uri", "it is missing")
	}
	if err := graph.CheckURI(uri, h.cfg.Schemes...); err != nil {
		return nil, "", refuse(badURI, "uri", "%v", err)
	}
	return q, uri, nil
}

// count returns a parameter that is a number from 1 to most, or def without it.
func count(q url.Values, name string, def, most int) (int, error) {
	text := q.Get(name)
	if text == "" && !q.Has(name) {
		return def, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		e := refuse(badQuery, name, "%.40q is not a number from 1 to %d", text, most)
		e.limit = int64(most)
		return 0, e
	}
	return n, nil
}

// postUpdates applies a batch: all of it or nothing, on disk before it answers.
func (h *Hub) postUpdates(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var us []graph.Update
	err := h.withBody(w, r, []string{typeJSON, typeNDJSON}, func(body []byte) (err error) {
		us, err = DecodeUpdates(body, DecodeOptions{h.clock.Now(), h.cfg.Schemes})
		return err
	})
	if err == nil {
		err = mayChangeAll(r, us)
	}
	if err != nil {
		return err
	}
	res := graph.Result{Cursor: h.store.Token()}
	if len(us) > 0 {
		if res, err = h.store.Apply(r.Context(), caller(r).Subject, us); err != nil {
			return err
		}
	}
	return writeJSON(w, resultShape{res.Accepted, res.Changed, res.Duplicates, res.Outdated, res.Cursor.String()})
}

// resultShape is what became of a batch.
type resultShape struct {
	Accepted   int    `json:"accepted"`
	Changed    int    `json:"changed"`
	Duplicates int    `json:"duplicates"`
	Outdated   int    `json:"outdated"`
	Cursor     string `json:"cursor"`
}

// getToken answers with the newest position on disk.
func (h *Hub) getToken(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return writeJSON(w, struct {
		Token string `json:"token"`
	}{h.store.Token().String()})
}

// getJobs lists the running fan-outs.
func (h *Hub) getJobs(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	out := struct {
		Jobs []jobShape `json:"jobs"`
	}{[]jobShape{}}
	now := h.clock.Now()
	for _, job := range h.store.Jobs() {
		if caller(r).Sees(job.URI) {
			job.Cause = shownCause(r, job.Cause)
			out.Jobs = append(out.Jobs, shapeJob(&job, now))
		}
	}
	return writeJSON(w, out)
}

// maxRate bounds the rate of a job, in dependents a second: more is no limit.
const maxRate = 1_000_000_000

// postJob pauses, resumes or slows a job. What the body leaves out stays.
func (h *Hub) postJob(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id := chi.URLParam(r, "id")
	find := func() *graph.Job {
		jobs := h.store.Jobs()
		if i := slices.IndexFunc(jobs, func(j graph.Job) bool { return j.ID == id }); i >= 0 {
			return &jobs[i]
		}
		return nil
	}
	job := find()
	if job == nil {
		return refuse(unknownJob, "", "it has ended or never was")
	}
	err := h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) {
			switch name {
			case "paused":
				job.Paused, err = s.boolean()
			case "rate":
				job.Rate, err = s.integer(maxRate)
			default:
				err = errNoMember
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	if err := h.store.ControlJob(r.Context(), id, job.Paused, job.Rate); err != nil {
		if errors.Is(err, graph.ErrUnknown) {
			return refuse(unknownJob, "", "it has ended")
		}
		return err
	}
	if now := find(); now != nil {
		job = now
	}
	return writeJSON(w, shapeJob(job, h.clock.Now()))
}

// getHealth tells whether requests are served: not before the hub runs and not
// while it drains. With a disk that is nearly full it is 200 all the same: who takes
// the hub out of service for it would cut off the readers, who lack nothing.
func (h *Hub) getHealth(w http.ResponseWriter, _ *http.Request) error {
	if !h.ready.Load() {
		return graph.ErrClosed
	}
	if h.store.Room() != nil {
		return writeJSON(w, healthShape{"read-only"})
	}
	return writeJSON(w, healthShape{"ready"})
}

// getLife tells that the process answers.
func (h *Hub) getLife(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, healthShape{"alive"})
}

type healthShape struct {
	Status string `json:"status"`
}
