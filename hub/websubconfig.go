package hub

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/freshwire/freshwire/subscriptions/delivery"
	"github.com/freshwire/freshwire/subscriptions/websub"
)

const (
	defaultDeliveryTimeout = 10 * time.Second
	// maxDeliveryTimeout keeps a callback that hangs from holding its place longer
	// than other callers of webhooks let it.
	maxDeliveryTimeout = time.Minute
	// With another first wait than the default the next ones grow by as much as those of
	// the default schedule do, up to the same length.
	defaultRetryFirst = 5 * time.Second
	retryGrowth       = 4
	longestRetry      = 20 * time.Hour
)

// WebSubConfig is about subscriptions whose topics are delivered by calls. What is 0
// or empty has its default.
type WebSubConfig struct {
	// A subscriber gets the lease it asks for, within these bounds.
	LeaseMin     time.Duration `yaml:"lease_min"`
	LeaseDefault time.Duration `yaml:"lease_default"`
	LeaseMax     time.Duration `yaml:"lease_max"`
	// DeliveryTimeout bounds one call of a callback, its answer included.
	DeliveryTimeout time.Duration `yaml:"delivery_timeout"`
	// RetryFirst is the wait after a call that failed, before the first one of the same
	// again; the later ones grow from it. RetrySchedule names them all instead.
	RetryFirst    time.Duration   `yaml:"retry_first"`
	RetrySchedule []time.Duration `yaml:"retry_schedule"`
	// CallbackAllow are networks in which callbacks may lie although they are not
	// public, and on any port; CallbackPorts are ports of public ones beside 80 and 443.
	CallbackAllow []netip.Prefix `yaml:"callback_allow"`
	CallbackPorts []int          `yaml:"callback_ports"`
	// DenyTopics are URLs of topics, or their paths, that nobody subscribes to.
	DenyTopics   []string `yaml:"deny_topics"`
	RequireToken bool     `yaml:"require_token"` // to subscribe to public topics too
	Signature    string   `yaml:"signature"`     // sha1, sha256, sha384 or sha512, of X-Hub-Signature
	// VerifyRate is how many verifications in a minute ask one host, or one address.
	VerifyRate int `yaml:"verify_rate"`
	// PerOwner is how many subscriptions one owner has; an address without a token has
	// a tenth of it.
	PerOwner int `yaml:"per_owner"`
	// MovedTo is the URL of a hub that takes subscriptions from now on.
	MovedTo string `yaml:"moved_to"`
}

// defaultWebSub is what holds where nothing is set.
var defaultWebSub = WebSubConfig{LeaseMin: websub.DefaultLeaseMin, LeaseDefault: websub.DefaultLease, LeaseMax: websub.DefaultLeaseMax,
	DeliveryTimeout: defaultDeliveryTimeout, RetryFirst: defaultRetryFirst, Signature: websub.DefaultSignature,
	VerifyRate: websub.DefaultVerifyRate, PerOwner: websub.DefaultPerOwner}

// check reports the first setting of the section that cannot be used. What
// websub.New looks at itself is left to it.
func (c *WebSubConfig) check() error {
	switch {
	case c.LeaseMin < time.Second || c.LeaseMin > c.LeaseDefault || c.LeaseDefault > c.LeaseMax:
		return errors.New("websub: lease_min, lease_default and lease_max are not in order, from a second on")
	case c.DeliveryTimeout < time.Millisecond || c.DeliveryTimeout > maxDeliveryTimeout:
		return fmt.Errorf("websub: delivery_timeout: %s does not lie between a millisecond and %s", c.DeliveryTimeout, maxDeliveryTimeout)
	case c.RetryFirst <= 0 || slices.ContainsFunc(c.RetrySchedule, func(d time.Duration) bool { return d <= 0 }):
		return errors.New("websub: retry_first, retry_schedule: a wait is not above 0")
	case slices.ContainsFunc(c.CallbackPorts, func(port int) bool { return port < 1 || port > math.MaxUint16 }):
		return errors.New("websub: callback_ports: one is no port")
	case c.VerifyRate < 1 || c.PerOwner < 1:
		return errors.New("websub: verify_rate, per_owner: below 1")
	}
	if c.MovedTo != "" {
		if u, err := url.Parse(c.MovedTo); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return errors.New("websub: moved_to: it is not the URL of a hub")
		}
	}
	if err := websub.CheckPolicy(c.policy(), c.Signature); err != nil {
		return fmt.Errorf("websub: %w", err)
	}
	return nil
}

// policy is what can be changed while the hub runs.
func (c *WebSubConfig) policy() websub.Policy {
	return websub.Policy{DenyTopics: c.DenyTopics, RequireToken: c.RequireToken}
}

// schedule is when calls that failed are made again.
func (c *WebSubConfig) schedule() delivery.Schedule {
	if len(c.RetrySchedule) > 0 {
		return delivery.Schedule{Steps: c.RetrySchedule}
	}
	if c.RetryFirst == defaultRetryFirst {
		return delivery.Schedule{}
	}
	var s delivery.Schedule
	for step := c.RetryFirst; step < longestRetry; step *= retryGrowth {
		s.Steps = append(s.Steps, step)
	}
	s.Steps = append(s.Steps, longestRetry, longestRetry, longestRetry, longestRetry)
	return s
}
