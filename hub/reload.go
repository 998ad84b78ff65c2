package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sync"

	"github.com/freshwire/freshwire/graph"
	"github.com/goccy/go-yaml"
)

// A configuration is what a running hub goes by, and where a newer one comes from.
type configuration struct {
	mu     sync.Mutex // held by whoever reloads
	config Config
	load   func() (Config, error) // nil if there is nothing to read again
}

// ReloadFrom says how the configuration is read again. Call it before the hub runs.
func (h *Hub) ReloadFrom(load func() (Config, error)) { h.inForce.load = load }

// A ConfigChange is one thing that a reload changed.
type ConfigChange struct {
	Section string `json:"section"` // of the configuration
	Name    string `json:"name,omitempty"`
	Change  string `json:"change"` // added, changed, removed
}

// Reloaded tells what a reload did.
type Reloaded struct {
	Changes []ConfigChange `json:"changes"`
	// Restart names the settings that are different and that a hub takes only when
	// it starts.
	Restart []string `json:"restart"`
}

// A section is a part of the configuration that a running hub takes anew. First all
// sections say whether they can, then all do: a configuration is in force whole.
type section struct {
	take func(into, from *Config) // copies it
	plan func(ctx context.Context, h *Hub, was, is *Config) (sectionPlan, error)
}

// A sectionPlan is what a section would do.
type sectionPlan struct {
	changes []ConfigChange
	carry   func(ctx context.Context) error // nil if there is nothing to do
}

const changed = "changed"

// sections are those in the order in which they are carried out: those that write
// to the disk first, which may fail.
var sections = []section{
	{func(into, from *Config) { into.Channels = from.Channels }, planChannels},
	{func(into, from *Config) { into.Sinks = from.Sinks }, planSinks},
	{func(into, from *Config) {
		into.WebSub.DenyTopics, into.WebSub.RequireToken = from.WebSub.DenyTopics, from.WebSub.RequireToken
	}, planWebSub},
	{takeFederation, planFederation},
	{takeAuth, planAuth},
}

func planChannels(_ context.Context, h *Hub, _, is *Config) (p sectionPlan, err error) {
	list := is.channels()
	changes, err := h.channels.Configuring(list)
	if err != nil || len(changes) == 0 {
		return p, err
	}
	for _, c := range changes {
		p.changes = append(p.changes, ConfigChange{"channels", c.Name, c.Change})
	}
	p.carry = func(ctx context.Context) error {
		_, err := h.channels.Configure(ctx, list)
		return err
	}
	return p, nil
}

func planSinks(_ context.Context, h *Hub, _, is *Config) (p sectionPlan, err error) {
	changes, err := h.sinks.Plan(is.Sinks)
	for _, c := range changes {
		p.changes = append(p.changes, ConfigChange{"sinks", c.Name, c.Change})
	}
	// Also without changes: those of a start with a full disk may not be in force yet.
	p.carry = func(ctx context.Context) error {
		_, err := h.sinks.Replace(ctx, is.Sinks)
		return err
	}
	return p, err
}

func planWebSub(_ context.Context, h *Hub, was, is *Config) (p sectionPlan, err error) {
	if reflect.DeepEqual(was.WebSub.policy(), is.WebSub.policy()) {
		return p, nil
	}
	p.changes = []ConfigChange{{"websub", "", changed}}
	p.carry = func(context.Context) error { return h.websub.SetPolicy(is.WebSub.policy()) }
	return p, nil
}

// takeAuth leaves a hub that asks for tokens one that does, and the other way round:
// who may do what would change under those who are connected.
func takeAuth(into, from *Config) {
	if (into.Auth.JWKS == "") == (from.Auth.JWKS == "") {
		into.Auth = from.Auth
	}
}

// planAuth opens new keys, or reads those at hand once more. A file of keys that is
// not good is an error; an issuer who does not answer is one only if he is new.
func planAuth(ctx context.Context, h *Hub, was, is *Config) (p sectionPlan, err error) {
	if is.Auth.JWKS == "" {
		return p, nil
	}
	if reflect.DeepEqual(was.Auth, is.Auth) {
		before := h.trust.Load().keys.Current()
		if err := h.trust.Load().keys.Refresh(ctx); err != nil {
			return p, fmt.Errorf("jwks: %w", err)
		}
		if h.trust.Load().keys.Current() != before {
			p.changes = []ConfigChange{{"auth", "jwks", changed}}
		}
		return p, nil
	}
	t, err := h.openTrust(ctx, is)
	if err == nil && t.keys.Current() == nil {
		err = errors.New("jwks: the issuer gives no keys now; those in force stay")
	}
	if err != nil {
		return p, err
	}
	p.changes = []ConfigChange{{"auth", "", changed}}
	p.carry = func(context.Context) error {
		h.believe(t)
		return nil
	}
	return p, nil
}

// Reload reads the configuration again and takes what a running hub can take: the
// channels, the sinks, which topics are denied, the peers, and whose tokens are believed. A
// configuration that cannot be leaves the one in force as it is, whole. Whether it was
// taken is logged and counted.
func (h *Hub) Reload(ctx context.Context) (Reloaded, error) {
	h.inForce.mu.Lock()
	defer h.inForce.mu.Unlock()
	done, err := h.reload(ctx)
	h.metrics.reloaded(err == nil)
	if err != nil {
		h.log.Error("configuration not taken, the old one stays in force", "err", err)
		return Reloaded{}, err
	}
	for _, c := range done.Changes {
		h.log.Info("configuration changed", "section", c.Section, "name", c.Name, "change", c.Change)
	}
	for _, name := range done.Restart {
		h.log.Warn("a setting is taken when the hub starts again", "setting", name)
	}
	h.log.Info("configuration taken", "changes", len(done.Changes))
	return done, nil
}

// reload is Reload for whoever holds the lock.
func (h *Hub) reload(ctx context.Context) (done Reloaded, err error) {
	if h.inForce.load == nil {
		return done, refuse(badConfig, "", "this hub was started without one that could be read again")
	}
	read, err := h.inForce.load()
	if err != nil {
		return done, refuse(badConfig, "", "%s", withoutExcerpt(err))
	}
	was := h.inForce.config
	is := was
	for _, s := range sections {
		s.take(&is, &read)
	}
	if err := is.Check(); err != nil {
		return done, refuse(badConfig, "", "with what is in force: %v", err)
	}
	plans := make([]sectionPlan, len(sections))
	for i, s := range sections {
		if plans[i], err = s.plan(ctx, h, &was, &is); err != nil {
			return done, refuse(badConfig, "", "%v", err)
		}
	}
	done = Reloaded{[]ConfigChange{}, needRestart(&read, &is)}
	// From here on it is done to the end, also if whoever asked does not wait.
	ctx = context.WithoutCancel(ctx)
	for i, p := range plans {
		if p.carry == nil {
			continue
		}
		if err := p.carry(ctx); err != nil {
			return done, errors.Join(err, h.takeBack(ctx, &is, &was, i))
		}
		done.Changes = append(done.Changes, p.changes...)
	}
	h.inForce.config = is
	return done, nil
}

// takeBack undoes what the sections up to one have done.
func (h *Hub) takeBack(ctx context.Context, is, was *Config, last int) (err error) {
	for _, s := range slices.Backward(sections[:last+1]) {
		p, e := s.plan(ctx, h, is, was)
		if e == nil && p.carry != nil {
			e = p.carry(ctx)
		}
		err = errors.Join(err, e)
	}
	return err
}

// needRestart names the settings that were read and are not in force.
func needRestart(read, inForce *Config) []string {
	names := []string{}
	for _, s := range settings {
		if !reflect.DeepEqual(s.field(read), s.field(inForce)) {
			names = append(names, s.Name)
		}
	}
	return names
}

// withoutExcerpt is the text of an error without the lines of the file around it,
// which may hold secrets.
func withoutExcerpt(err error) string {
	var (
		placed *placedError
		syntax yaml.Error
	)
	if errors.As(err, &placed) {
		return placed.short()
	}
	if errors.As(err, &syntax) {
		return "configuration: " + yaml.FormatError(syntax, false, false)
	}
	return err.Error()
}

// configure does at start what a reload does later. With a disk that is nearly full
// it waits for the first reload with room: the hub is to serve who reads.
func (h *Hub) configure(ctx context.Context) error {
	h.inForce.mu.Lock()
	defer h.inForce.mu.Unlock()
	changes, err := h.channels.Configure(ctx, h.inForce.config.channels())
	for _, c := range changes {
		h.log.Info("configuration changed", "section", "channels", "name", c.Name, "change", c.Change)
	}
	if full := (*graph.NoSpaceError)(nil); errors.As(err, &full) {
		h.log.Error("channels of the configuration are not made; reload it when there is room", "err", err)
		err = nil
	}
	if err != nil {
		return err
	}
	err = h.configurePeers(ctx, &h.inForce.config)
	if full := (*graph.NoSpaceError)(nil); errors.As(err, &full) {
		h.log.Error("peers of the configuration are not written down; they are when there is room", "err", err)
		return nil
	}
	return err
}

// postReload has the configuration read again.
func (h *Hub) postReload(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if r.ContentLength != 0 {
		return refuse(badBody, "", "there is to be none: the hub reads its own configuration")
	}
	done, err := h.Reload(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, done)
}
