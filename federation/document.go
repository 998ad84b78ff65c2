package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/graph"
)

const (
	// Version is the version of the protocol between hubs that this one speaks.
	Version = 1
	// MaxDocument bounds a document in bytes: it is read whole, from who need not be a
	// peer, and holds some hundred prefixes of a usual length.
	MaxDocument = 64 << 10
	// maxVersions bounds the versions a hub speaks at a time.
	maxVersions = 16
	// maxAuthority bounds the prefixes a hub says it speaks for: each is compared with
	// every resource that is asked of it.
	maxAuthority = 1_000
	// maxDocumentKeys bounds the keys of a hub; it has one in use and, while it changes
	// it, another.
	maxDocumentKeys = 32
	// maxEndpoints bounds the endpoints, of which later versions may have more.
	maxEndpoints = 32
	// minBody is the least that a hub must take in one body, in bytes: an operation
	// with the longest URI, of 2 KiB.
	minBody = 4 << 10
)

// The endpoints that a hub of version 1 has.
const (
	EndpointInterests = "interests" // POST: which of its resources are asked for
	EndpointStream    = "stream"    // GET: their states, as server-sent events
	EndpointAck       = "ack"       // POST: up to where the stream was taken
	EndpointCompare   = "compare"   // POST: sums, by which both find what differs
)

var endpointNames = []string{EndpointInterests, EndpointStream, EndpointAck, EndpointCompare}

// ErrDocument reports a document that cannot be used. What wraps it says where it
// is wrong.
var ErrDocument = errors.New("the document of the hub cannot be used")

// A Document is what a hub says of itself at /.well-known/freshwire. It is a claim:
// the keys are believed when an operator has compared a fingerprint, the prefixes
// when configuration or the content's own host says the same.
type Document struct {
	Hub       string            `json:"hub"`       // its public URL
	Epoch     string            `json:"epoch"`     // of its store: 8 hex digits
	Versions  []int             `json:"versions"`  // of the protocol
	Authority []string          `json:"authority"` // prefixes of URIs it speaks for
	Keys      []JWK             `json:"keys"`      // what it signs, or will sign, tokens with
	Endpoints map[string]string `json:"endpoints"` // absolute URLs by what they are for
	Limits    Limits            `json:"limits"`
}

// Limits are what a hub takes from a peer.
type Limits struct {
	Body      int `json:"body"`      // bytes of one request
	Ops       int `json:"ops"`       // operations of one request
	Interests int `json:"interests"` // resources a peer may ask for at a time; 0 if none
}

// Check returns nil if the document can be used, and else what is wrong with it; the
// error is an [ErrDocument].
func (d *Document) Check() error {
	if err := d.fault(); err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	return nil
}

// hexEpoch is how an epoch is written.
var hexEpoch = regexp.MustCompile(`^[0-9a-f]{8}$`)

func (d *Document) fault() error {
	// First, since another version may have another form.
	if len(d.Versions) > maxVersions {
		return fmt.Errorf("versions: more than %d", maxVersions)
	}
	if !slices.Contains(d.Versions, Version) {
		return fmt.Errorf("versions: the hub speaks %v, and this one %d", d.Versions, Version)
	}
	if err := CheckHub(d.Hub); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	if !hexEpoch.MatchString(d.Epoch) {
		return fmt.Errorf("epoch: %.40q is not 8 hex digits", d.Epoch)
	}
	if len(d.Authority) > maxAuthority {
		return fmt.Errorf("authority: more than %d prefixes", maxAuthority)
	}
	for i, prefix := range d.Authority {
		if err := graph.CheckPrefix(prefix); err != nil {
			return fmt.Errorf("authority[%d]: %w", i, err)
		}
	}
	if err := d.keysFault(); err != nil {
		return err
	}
	if err := d.endpointsFault(); err != nil {
		return err
	}
	switch l := d.Limits; {
	case l.Body < minBody:
		return fmt.Errorf("limits.body: %d is less than %d bytes", l.Body, minBody)
	case l.Ops < 1:
		return fmt.Errorf("limits.ops: %d is less than 1", l.Ops)
	case l.Interests < 0:
		return fmt.Errorf("limits.interests: %d is less than 0", l.Interests)
	}
	return nil
}

func (d *Document) keysFault() error {
	if n := len(d.Keys); n < 1 || n > maxDocumentKeys {
		return fmt.Errorf("keys: %d keys, and there must be 1 to %d", n, maxDocumentKeys)
	}
	seen := map[string]bool{}
	for i, j := range d.Keys {
		k, err := j.Key()
		if err != nil {
			return fmt.Errorf("keys[%d]: %w", i, err)
		}
		if seen[k.ID] {
			return fmt.Errorf("keys[%d]: kid %s stands twice", i, k.ID)
		}
		seen[k.ID] = true
	}
	return nil
}

// endpointName is how an endpoint is called.
var endpointName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

func endpointNameFault(name string) error {
	return fmt.Errorf("endpoints: %.40q is not a name of up to 32 lower-case letters, digits and -", name)
}

// endpointsFault looks at where a hub sends its peers: with a token in their hands,
// and so nowhere but to itself.
func (d *Document) endpointsFault() error {
	if len(d.Endpoints) > maxEndpoints {
		return fmt.Errorf("endpoints: more than %d", maxEndpoints)
	}
	for _, name := range endpointNames {
		if _, has := d.Endpoints[name]; !has {
			return fmt.Errorf("endpoints.%s is missing", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Endpoints)) {
		url := d.Endpoints[name]
		if !endpointName.MatchString(name) {
			return endpointNameFault(name)
		}
		if err := graph.CheckURI(url); err != nil {
			return fmt.Errorf("endpoints.%s: %w", name, err)
		}
		if !strings.HasPrefix(url, d.Hub+"/") {
			return fmt.Errorf("endpoints.%s: %.200q does not lie under %s", name, url, d.Hub)
		}
		if strings.ContainsAny(url, "?#") {
			return fmt.Errorf("endpoints.%s: %.200q has a query or a fragment", name, url)
		}
	}
	return nil
}

// Encode returns the document as a hub serves it, and an error if others would refuse
// it.
func (d *Document) Encode() ([]byte, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	whole := *d
	if whole.Authority == nil {
		whole.Authority = []string{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(whole); err != nil {
		return nil, err
	}
	if b.Len() > MaxDocument {
		return nil, fmt.Errorf("%w: it has %d bytes, and at most %d are read; name fewer or shorter prefixes", ErrDocument, b.Len(), MaxDocument)
	}
	return b.Bytes(), nil
}

// DecodeDocument reads a document and checks it. What it does not know it passes over:
// later versions may say more. An [ErrDocument] is the hub's fault, other errors are
// those of r.
func DecodeDocument(r io.Reader) (*Document, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrDocument, MaxDocument)
	}
	o, err := readObject(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	d := &Document{Versions: o.wholes("versions", maxVersions)}
	if o.fault == nil && slices.Contains(d.Versions, Version) {
		d.read(o)
	}
	if o.fault != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, o.fault)
	}
	if err := d.Check(); err != nil {
		return nil, err
	}
	return d, nil
}

// read takes what version 1 has from an object.
func (d *Document) read(o *object) {
	d.Hub, d.Epoch, d.Authority = o.text("hub"), o.text("epoch"), o.texts("authority", maxAuthority)
	for i, v := range o.list("keys", maxDocumentKeys) {
		k := o.toObject(fmt.Sprintf("keys[%d]", i), v)
		if k.has("d") {
			k.fail("d: a private key stands in the document; it must never be used again")
		}
		d.Keys = append(d.Keys, JWK{Kty: k.text("kty"), Crv: k.text("crv"), X: k.text("x"), Kid: k.text("kid"),
			Alg: k.optionalText("alg"), Use: k.optionalText("use")})
		o.take(k)
	}
	endpoints := o.object("endpoints")
	d.Endpoints = make(map[string]string, len(endpoints.members))
	for _, name := range slices.Sorted(maps.Keys(endpoints.members)) {
		if !endpointName.MatchString(name) {
			o.fail("%w", endpointNameFault(name))
			return
		}
		d.Endpoints[name] = endpoints.text(name)
	}
	o.take(endpoints)
	limits := o.object("limits")
	d.Limits = Limits{Body: limits.whole("body"), Ops: limits.whole("ops"), Interests: limits.whole("interests")}
	o.take(limits)
}
