package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/freshwire/freshwire/digest"
	"github.com/freshwire/freshwire/federation"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/auth"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/websub"
)

// problemBase and a slug make the type of a problem: an identifier that never
// changes, not a page that must be there.
const problemBase = "urn:freshwire:problem:"

const typeProblem = "application/problem+json"

// A problemKind is one type of problem. Clients branch on the slug.
type problemKind struct {
	slug   string
	status int
	title  string
	help   string // the way out where the refusal itself names none
}

var (
	badJSON = &problemKind{"bad-json", http.StatusBadRequest, "The body is not the JSON that is asked for",
		"send UTF-8 JSON without repeated names; /openapi.json describes it"}
	unknownField = &problemKind{"unknown-field", http.StatusBadRequest, "A field is not known",
		"correct its name or leave it out; /openapi.json lists the fields"}
	missingField = &problemKind{"missing-field", http.StatusBadRequest, "A field is missing", ""}
	badValue     = &problemKind{"bad-value", http.StatusBadRequest, "A field has a value that is not allowed",
		"/openapi.json describes the field"}
	badURI = &problemKind{"bad-uri", http.StatusBadRequest, "A URI is not in its canonical form",
		"write it as its own server does, in ASCII"}
	futureTime = &problemKind{"future-time", http.StatusBadRequest, "A time lies in the future",
		"set the producer's clock"}
	overLimit = &problemKind{"over-limit", http.StatusBadRequest, "A list or a text is too long",
		"stay within the limit"}
	badQuery = &problemKind{"bad-query", http.StatusBadRequest, "A query parameter is wrong",
		"/openapi.json lists the parameters"}
	badBody = &problemKind{"bad-body", http.StatusBadRequest, "The body cannot be read",
		"send it again, whole"}
	badHost = &problemKind{"bad-host", http.StatusMisdirectedRequest, "The hub is not addressed by this name",
		"use its loopback address, or set public-url to the name it is to have"}
	crossOrigin = &problemKind{"cross-origin", http.StatusForbidden, "A page of another origin may not write here",
		"write from a program, or from the hub's own pages"}
	unauthorized = &problemKind{"unauthorized", http.StatusUnauthorized, "The request needs a token",
		"send Authorization: Bearer TOKEN; freshwire token mint makes one. Public channels need none"}
	badToken = &problemKind{"bad-token", http.StatusUnauthorized, "The token is not good",
		"send one that the hub's issuer made for it; freshwire token verify says what is wrong with it"}
	forbidden = &problemKind{"forbidden", http.StatusForbidden, "The token does not allow this",
		"ask whoever made the token for one that covers it"}
	noKeys = &problemKind{"no-keys", http.StatusServiceUnavailable, "The hub cannot check tokens yet",
		"come again; the hub's operator sees in its log why its keys cannot be read"}
	notFound = &problemKind{"not-found", http.StatusNotFound, "There is no such address",
		"/openapi.json lists the addresses"}
	unknownResource = &problemKind{"unknown-resource", http.StatusNotFound, "The hub never heard of this resource",
		"check the spelling; a resource is known once an update or an edge has named it"}
	unknownJob = &problemKind{"unknown-job", http.StatusNotFound, "There is no such job",
		"GET /v1/jobs lists those that run"}
	badFilter      = &problemKind{"bad-filter", http.StatusBadRequest, "The filter is wrong", "/openapi.json describes filters"}
	unknownChannel = &problemKind{"unknown-channel", http.StatusNotFound, "There is no such channel",
		"GET /v1/channels lists those that somebody made; all, host:NAME and type:NAME are always there"}
	fixedChannel = &problemKind{"fixed-channel", http.StatusConflict, "The channel cannot be changed like that",
		"make a channel of your own, or replace the channel by one with a list"}
	tooManyChannels = &problemKind{"too-many-channels", http.StatusTooManyRequests, "There is no room for the channel",
		"delete channels that nobody reads, or change the list of this one instead of replacing it"}
	unknownSink = &problemKind{"unknown-sink", http.StatusNotFound, "There is no such sink",
		"GET /v1/sinks lists those of the configuration in force"}
	unknownLetter = &problemKind{"unknown-dead-letter", http.StatusNotFound, "There is no such dead letter",
		"GET /v1/deadletters lists those that are there"}
	letterStays = &problemKind{"dead-letter-stays", http.StatusConflict, "The dead letter cannot be called again now",
		"GET /v1/sinks says how its sink is doing; come again, or drop it"}
	unknownClaim = &problemKind{"unknown-claim", http.StatusNotFound, "There is no such claim",
		"ask for work again; a claim ends with its lease, and with an update of its resource"}
	tooManyClaims = &problemKind{"too-many-polls", http.StatusTooManyRequests, "Too many polls wait for work",
		"ask for more with fewer polls"}
	badMethod = &problemKind{"method-not-allowed", http.StatusMethodNotAllowed, "The method is not allowed here",
		"use a method that the Allow header lists"}
	bodyTimeout = &problemKind{"body-timeout", http.StatusRequestTimeout, "The body took too long",
		"send smaller batches"}
	cursorReset = &problemKind{"cursor-reset", http.StatusGone, "The position cannot be served",
		"begin again at the oldest or the newest position"}
	bodyTooLarge = &problemKind{"body-too-large", http.StatusRequestEntityTooLarge, "The body is too long",
		"send smaller batches"}
	badContentType = &problemKind{"bad-content-type", http.StatusUnsupportedMediaType, "The body's media type or encoding is not supported",
		"send application/json or application/x-ndjson, plain or encoded with gzip or zstd"}
	backupRefused = &problemKind{"backup-refused", http.StatusConflict, "The backup cannot be made", "GET /v1/backups lists those that are there"}
	badConfig     = &problemKind{"bad-config", http.StatusConflict, "The configuration cannot be taken",
		"correct it and reload again; the one before it stays in force"}
	noSpace = &problemKind{"no-space", http.StatusInsufficientStorage, "The hub's disk is nearly full, and it only reads",
		"come again later; the operator makes room on the disk, keeps less journal (keep-bytes) or lowers min-free"}
	rateLimited = &problemKind{"rate-limited", http.StatusTooManyRequests, "The publisher sends more than it may",
		"wait as long as Retry-After says; fewer and larger batches are fewer requests"}
	overQuota = &problemKind{"over-quota", http.StatusInsufficientStorage, "The publisher would have more than it may",
		"delete resources, in a request of their own, or ask the operator for more"}
	badSubscription = &problemKind{"bad-subscription", http.StatusBadRequest, "The request is not one of WebSub",
		"section 5.1 of the W3C Recommendation WebSub says what to send; topics are documents of this hub"}
	unknownSubscription = &problemKind{"unknown-subscription", http.StatusNotFound, "There is no such subscription",
		"GET /v1/subscriptions lists yours; it is there once its callback has confirmed it, until its lease ends"}
	tooManySubscriptions = &problemKind{"too-many-subscriptions", http.StatusTooManyRequests, "There is no room for the subscription",
		"follow many resources by one channel, end what is not needed, or come again later"}
	observing = &problemKind{"observing", http.StatusServiceUnavailable, "The hub only observes",
		"ask its operator for mode normal"}
	noFederation = &problemKind{"no-federation", http.StatusConflict, "The hub exchanges with no others",
		"its operator sets public-url to the https://HOST by which others know it, and starts it again"}
	notAPeer = &problemKind{"not-a-peer", http.StatusForbidden, "The hub that asks is not a peer of this one",
		"ask the operator of this hub to add yours, by its URL and the fingerprint that freshwire peer ls prints"}
	badPeerToken = &problemKind{"bad-peer-token", http.StatusUnauthorized, "The token of the peer is not good",
		"compare the clocks and the fingerprints of both hubs"}
	peerPaused = &problemKind{"peer-paused", http.StatusServiceUnavailable, "The exchange with this peer is paused",
		"come again later, or ask the operator of this hub"}
	badMessage = &problemKind{"bad-message", http.StatusBadRequest, "The request is not one of the protocol between hubs",
		"compare the versions of both hubs"}
	interestGap = &problemKind{"interest-gap", http.StatusConflict, "The changes do not follow those that were applied",
		"go on after those that were applied of that generation, or begin a new one"}
	comparedEnough = &problemKind{"compared-enough", http.StatusTooManyRequests, "The hubs were compared a moment ago",
		"wait as long as Retry-After says, and begin with the sums of the whole"}
	unknownPeer = &problemKind{"unknown-peer", http.StatusNotFound, "There is no such peer",
		"GET /v1/peers lists those that are there"}
	fixedPeer = &problemKind{"fixed-peer", http.StatusConflict, "The peer cannot be changed like that",
		"change the configuration and reload it"}
	tooManyPeers = &problemKind{"too-many-peers", http.StatusConflict, "There is no room for the peer",
		"remove peers that are not needed"}
	peerUnreachable = &problemKind{"peer-unreachable", http.StatusBadGateway, "There is no hub at that URL, or it cannot be reached",
		"check the URL; a hub whose address is not public has to lie in federation.allow"}
	noDigest = &problemKind{"no-digest", http.StatusNotFound, "The channel has no digest",
		"/digest/ lists those that have one; an administrator gives a channel one by \"digest\": true in its definition. The first hour closes when it is over"}
	notYet = &problemKind{"not-yet", http.StatusNotFound, "The digest is not closed yet",
		"state.json names the newest one; an hour closes up to two minutes after its end"}
	expired = &problemKind{"expired", http.StatusGone, "The digest is not kept any more",
		"state.json lists the days and weeks that are kept; since?seq=0 has all of them together"}
	tooManySince = &problemKind{"too-many-since", http.StatusTooManyRequests, "As many digests are being added up as may",
		"download the digests that state.json names, or come again"}
	badRange = &problemKind{"bad-range", http.StatusRequestedRangeNotSatisfiable, "The range cannot be served",
		"ask for bytes that the file has; Content-Range tells its size"}
	internalError = &problemKind{"internal", http.StatusInternalServerError, "The hub failed",
		"the hub's log tells more under this request's X-Request-Id"}
	shuttingDown = &problemKind{"shutting-down", http.StatusServiceUnavailable, "The hub is shutting down",
		"come again in a few seconds"}
)

// problemKinds lists the types of problem that the hub itself reports; streams
// add the last ones.
var problemKinds = []*problemKind{
	badJSON, unknownField, missingField, badValue, badURI, futureTime, overLimit, badQuery, badBody, badHost, crossOrigin,
	unauthorized, badToken, forbidden, noKeys,
	notFound, unknownResource, unknownJob, badFilter, unknownChannel, fixedChannel, tooManyChannels, unknownSink, unknownLetter, letterStays, unknownClaim, tooManyClaims, badMethod, bodyTimeout, cursorReset, bodyTooLarge, badContentType,
	backupRefused, badConfig, noSpace, rateLimited, overQuota, badSubscription, unknownSubscription, tooManySubscriptions, observing,
	noFederation, notAPeer, badPeerToken, peerPaused, badMessage, interestGap, comparedEnough, unknownPeer, fixedPeer, tooManyPeers, peerUnreachable, noDigest, notYet, expired, tooManySince, badRange, internalError, shuttingDown,
	{"bad-since", http.StatusBadRequest, "The start of the stream is wrong", "send a cursor or a time of RFC 3339"},
	{"bad-linger", http.StatusBadRequest, "The linger time is wrong", "send a duration such as 2s"},
	{"no-room", http.StatusServiceUnavailable, "The hub has as many streams as it bears", "come again later, or at another hub"},
	{"too-many-streams", http.StatusTooManyRequests, "This address has too many streams open", "close one, or ask for more with one filter"},
}

// retryAfter is what who is refused is asked to wait, in seconds, where waiting may
// help: a restart takes less than 5; the journal is trimmed once a minute, which makes
// room on the disk, and people take longer. Streams and paces say their own.
var retryAfter = map[*problemKind]int{shuttingDown: 5, noKeys: 5, noSpace: 30, overQuota: 30, tooManyChannels: 60, tooManyClaims: 5, tooManySubscriptions: 60, observing: 300, peerPaused: 60, comparedEnough: 60, tooManySince: 30}

// Problem is the body of every refusal.
// Source: RFC 9457.
type Problem struct {
	Type   string `json:"type"` // problemBase and a slug
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Item   *int   `json:"item,omitempty"`  // which update of a batch or line of a list, counted from 0
	Field  string `json:"field,omitempty"` // the field or parameter to blame
	Limit  int64  `json:"limit,omitempty"` // what was exceeded
	Help   string `json:"help,omitempty"`  // the way out
	// What a peer has to know of changes that do not follow what was applied.
	*gapShape
	retry int // seconds, for the header
}

// gapShape is what was applied of what a peer told.
type gapShape struct {
	Epoch      string `json:"epoch"`
	Generation uint64 `json:"generation"`
	Applied    uint64 `json:"applied"`
}

// A refusal is an error that the client can mend.
type refusal struct {
	kind   *problemKind
	item   *int // which update of a batch or line of a list
	field  string
	detail string
	limit  int64
}

func (e *refusal) Error() string {
	s := e.detail
	if e.field != "" {
		s = e.field + ": " + s
	}
	if e.item != nil {
		s = "item " + strconv.Itoa(*e.item) + ": " + s
	}
	return s
}

func refuse(kind *problemKind, field, format string, args ...any) *refusal {
	return &refusal{kind: kind, field: field, detail: fmt.Sprintf(format, args...)}
}

// exceeds refuses what is longer than limit; unit says what is counted.
func exceeds(kind *problemKind, field string, limit int64, unit string) *refusal {
	e := refuse(kind, field, "more than %d %s", limit, unit)
	e.limit = limit
	return e
}

// refusalOf is the refusal that an error about a body's JSON amounts to.
func refusalOf(err error) *refusal {
	var (
		no     *refusal
		syntax *syntaxError
		uri    *graph.URIError
	)
	switch {
	case errors.As(err, &no):
		return no
	case errors.As(err, &syntax):
		return refuse(badJSON, "", "%v", err)
	case errors.As(err, &uri):
		return refuse(badURI, "", "%v", err)
	}
	return refuse(badValue, "", "%v", err)
}

// A keptError is what ended a request of many lines of which some are durable.
type keptError struct {
	lines int
	err   error
}

func (e *keptError) Error() string {
	return fmt.Sprintf("%v; the first %d lines are kept", e.err, e.lines)
}

func (e *keptError) Unwrap() error { return e.err }

// problemOf is the one place that turns an error into an answer.
func problemOf(err error) Problem {
	if kept := (*keptError)(nil); errors.As(err, &kept) {
		p := problemOf(kept.err)
		p.Detail = strings.TrimPrefix(fmt.Sprintf("%s; the first %d lines are kept", p.Detail, kept.lines), "; ")
		return p
	}
	var (
		no      *refusal
		token   *auth.Error
		invalid *graph.InvalidError
		uri     *graph.URIError
		reset   *graph.ResetError
		full    *graph.NoSpaceError
		long    *http.MaxBytesError
		quota   *graph.QuotaError
		soon    *paceError
		form    *websub.RequestError
		crowd   *websub.LimitError
		barred  *subscriptions.Refusal
	)
	switch {
	case errors.As(err, &no):
		p := no.kind.problem(no.detail)
		p.Item, p.Field, p.Limit = no.item, no.field, no.limit
		return p
	case errors.As(err, &token) && token.Reason == auth.Unavailable:
		return noKeys.problem(token.Detail)
	case errors.As(err, &token):
		return badToken.problem(token.Detail)
	case errors.As(err, &invalid):
		p := badValue.problem(invalid.Reason)
		p.Item, p.Field = &invalid.Item, invalid.Field
		return p
	case errors.As(err, &uri):
		return badURI.problem(uri.Error())
	case errors.As(err, &reset):
		return cursorReset.problem(reset.Error())
	case errors.As(err, &full):
		p := noSpace.problem(fmt.Sprintf("%d bytes are free, and nothing is written below %d", full.Free, full.Floor))
		p.Limit = int64(full.Floor)
		return p
	case errors.As(err, &long):
		p := bodyTooLarge.problem(fmt.Sprintf("more than %d bytes", long.Limit))
		p.Limit = long.Limit
		return p
	case errors.As(err, &soon):
		p := rateLimited.problem(soon.Error())
		p.Limit, p.retry = soon.limit, seconds(soon.wait)
		return p
	case errors.As(err, &quota):
		p := overQuota.problem(quota.Error())
		p.Limit = quota.Limit
		return p
	case errors.As(err, &form):
		p := badSubscription.problem(form.Reason)
		p.Field = form.Field
		return p
	case errors.As(err, &crowd):
		p := tooManySubscriptions.problem(crowd.Error())
		if p.Limit = int64(crowd.Limit); crowd.Retry > 0 {
			p.retry = seconds(crowd.Retry)
		}
		return p
	case errors.As(err, &barred):
		return barredProblem(barred)
	case errors.Is(err, websub.ErrNoSubscription):
		return unknownSubscription.problem("")
	case errors.Is(err, websub.ErrObserving):
		return observing.problem("it calls nobody, and so can verify nothing")
	case errors.Is(err, digest.ErrNoDigest):
		return noDigest.problem(err.Error())
	case errors.Is(err, digest.ErrNotYet):
		return notYet.problem(err.Error())
	case errors.Is(err, digest.ErrExpired):
		return expired.problem(err.Error())
	case errors.Is(err, digest.ErrNoFile):
		return notFound.problem(err.Error())
	case errors.Is(err, graph.ErrUnknown):
		return unknownResource.problem("")
	case errors.Is(err, graph.ErrClosed):
		return shuttingDown.problem("")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return bodyTimeout.problem(fmt.Sprintf("it did not arrive within %s", bodyDeadline))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return shuttingDown.problem("the request was given up")
	}
	return peerProblem(err)
}

// peerProblem turns an error about other hubs into an answer.
func peerProblem(err error) Problem {
	gap := (*graph.GapError)(nil)
	switch {
	case errors.As(err, &gap):
		p := interestGap.problem(gap.Error())
		p.gapShape = &gapShape{gap.Epoch.String(), gap.Generation, gap.Applied}
		return p
	case errors.Is(err, federation.ErrUnknownPeer):
		return notAPeer.problem(err.Error())
	case errors.Is(err, federation.ErrToken):
		return badPeerToken.problem(err.Error())
	case errors.Is(err, federation.ErrPaused):
		return peerPaused.problem("")
	case errors.Is(err, federation.ErrMessage):
		return badMessage.problem(err.Error())
	case errors.Is(err, federation.ErrTooSoon):
		return comparedEnough.problem(err.Error())
	case errors.Is(err, federation.ErrNoPeer):
		return unknownPeer.problem("")
	case errors.Is(err, federation.ErrConfigured):
		return fixedPeer.problem(err.Error())
	case errors.Is(err, federation.ErrTooManyPeers):
		return tooManyPeers.problem(err.Error())
	}
	return internalError.problem("")
}

func (k *problemKind) problem(detail string) Problem {
	return Problem{Type: problemBase + k.slug, Title: k.title, Status: k.status, Detail: detail, Help: k.help, retry: retryAfter[k]}
}

// writeProblem answers with p.
func writeProblem(w http.ResponseWriter, p Problem) {
	h := w.Header()
	h.Set("Content-Type", typeProblem)
	h.Set("Cache-Control", "no-store")
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry))
	}
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", challenge(p))
	case http.StatusUnsupportedMediaType:
		h.Set("Accept-Encoding", "gzip, zstd, identity")
	}
	w.WriteHeader(p.Status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(p) // who does not read it is not there
}

// streamProblem answers a refusal of the stream handler, which knows only slugs, or
// of the hub's own.
func streamProblem(w http.ResponseWriter, _ *http.Request, err error) {
	var no *subscriptions.Refusal
	if !errors.As(err, &no) {
		writeProblem(w, problemOf(err))
		return
	}
	writeProblem(w, barredProblem(no))
}

// barredProblem is what a refusal of the subscriptions amounts to.
func barredProblem(no *subscriptions.Refusal) Problem {
	p := Problem{Type: problemBase + no.Slug, Title: http.StatusText(no.Status), Status: no.Status, Detail: no.Detail,
		Field: no.Field, Limit: no.Limit}
	for _, k := range problemKinds {
		if k.slug == no.Slug {
			p.Title, p.Help = k.title, k.help
		}
	}
	return p
}
