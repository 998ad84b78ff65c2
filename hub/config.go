package hub

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/digest"
	"github.com/freshwire/freshwire/federation"
	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
	"github.com/freshwire/freshwire/subscriptions/sink"
	"github.com/goccy/go-yaml"
)

// Mode says what a hub does with what it finds out.
type Mode string

const (
	ModeNormal Mode = "normal"
	// ModeObserve keeps graph, states and journal but retries nothing: a wiki can
	// look before it trusts.
	ModeObserve Mode = "observe"
)

// Size is a number of bytes, written as 8MiB, 2GB or 4096.
type Size int64

// UnmarshalText reads a whole number and a unit: B, kB, MB, GB, TB (powers of
// 1,000) or KiB, MiB, GiB, TiB (of 1,024).
func (s *Size) UnmarshalText(text []byte) error {
	t := string(text)
	digits := len(t) - len(strings.TrimLeft(t, "0123456789"))
	n, err := strconv.ParseInt(t[:digits], 10, 64)
	unit, ok := sizeUnits[strings.TrimSpace(t[digits:])]
	if err != nil || !ok || n > (1<<63-1)/unit {
		return fmt.Errorf("%.40q is not a size, such as 8MiB", t)
	}
	*s = Size(n * unit)
	return nil
}

// String writes the number with the greatest unit that leaves it whole.
func (s Size) String() string {
	for _, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if n := Size(sizeUnits[unit]); s != 0 && s%n == 0 {
			return strconv.FormatInt(int64(s/n), 10) + unit
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

var sizeUnits = map[string]int64{"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

// AuthConfig says whose tokens are believed. The zero value is a hub without keys:
// only loopback reaches it, and who does may do everything.
type AuthConfig struct {
	JWKS     string `yaml:"jwks"`     // file or URL of the issuer's key set
	Issuer   string `yaml:"issuer"`   // what iss has to say
	Audience string `yaml:"audience"` // what aud has to name; "" means the public URL
	// JWKSAllow are networks in which the URL of the key set may lie although they
	// are not public.
	JWKSAllow []netip.Prefix `yaml:"jwks-allow"`
}

// Config is all that an operator can set. [DefaultConfig] has the defaults,
// [LoadConfig] puts a file, the environment and flags over them.
type Config struct {
	Listen       string         `yaml:"listen"`
	Data         string         `yaml:"data"`
	PublicURL    string         `yaml:"public-url"`
	Admin        string         `yaml:"admin"`
	TrustedProxy []netip.Prefix `yaml:"trusted-proxy"`
	TLSCert      string         `yaml:"tls-cert"`
	TLSKey       string         `yaml:"tls-key"`
	Auth         AuthConfig     `yaml:"auth"`
	Mode         Mode           `yaml:"mode"`
	Work         []string       `yaml:"work"`
	Collect      []string       `yaml:"collect"`
	Schemes      []string       `yaml:"schemes"`
	KeepAge      time.Duration  `yaml:"keep-age"`
	KeepBytes    Size           `yaml:"keep-bytes"`
	Cache        Size           `yaml:"cache"`
	MinFree      Size           `yaml:"min-free"`
	BackupDir    string         `yaml:"backup-dir"`
	// StreamsPerAddress bounds the open streams of one client address.
	StreamsPerAddress int `yaml:"streams-per-address"`
	// ConnectionsPerAddress bounds the connections of one client address beside its
	// streams. An address of IPv6 is its first 64 bits.
	ConnectionsPerAddress int `yaml:"connections-per-address"`
	// PublisherRequests and PublisherBytes bound what one publisher sends in a second,
	// bytes after inflation; 0 means no bound.
	PublisherRequests int  `yaml:"publisher-requests"`
	PublisherBytes    Size `yaml:"publisher-bytes"`
	// PublisherResources and PublisherEdges bound what one publisher has in the store;
	// 0 means no bound.
	PublisherResources int       `yaml:"publisher-resources"`
	PublisherEdges     int       `yaml:"publisher-edges"`
	ClockStart         time.Time `yaml:"clock-start"`
	ClockRate          float64   `yaml:"clock-rate"`

	// Channels are made by the hub, and by nobody else. Only the file has them.
	Channels []ChannelConfig `yaml:"channels"`

	// Sinks are the calls that notices become. They stand in the file alone.
	Sinks []sink.Definition `yaml:"sinks"`

	WebSub WebSubConfig `yaml:"websub"`

	Digest DigestConfig `yaml:"digest"`

	Federation FederationConfig `yaml:"federation"`
}

// DigestConfig says of what digests are made and how long they are kept.
type DigestConfig struct {
	All         bool          `yaml:"all"` // of the channel that every hub has
	KeepHours   time.Duration `yaml:"keep_hours"`
	KeepRollups time.Duration `yaml:"keep_rollups"`
}

func (c *DigestConfig) check() error {
	switch {
	case c.KeepHours < minKeepHours:
		return fmt.Errorf("digest-keep-hours: %s is less than %s, and a week is made of the hours that are kept", c.KeepHours, minKeepHours)
	case c.KeepRollups < c.KeepHours:
		return fmt.Errorf("digest-keep-rollups: %s is less than hours are kept", c.KeepRollups)
	}
	return nil
}

// ChannelConfig is a channel that the operator defines; what is in a field is
// explained at [subscriptions.Definition].
type ChannelConfig struct {
	Name   string   `yaml:"name"`
	URI    []string `yaml:"uri"`
	Prefix []string `yaml:"prefix"`
	Host   []string `yaml:"host"`
	Type   []string `yaml:"type"`
	Bucket []string `yaml:"bucket"`
	Kind   []string `yaml:"kind"`
	Lane   []string `yaml:"lane"`
	Public bool     `yaml:"public"`
	Digest bool     `yaml:"digest"`
}

// channels are the operator's.
func (c *Config) channels() (list []subscriptions.ConfiguredChannel) {
	for _, ch := range c.Channels {
		list = append(list, subscriptions.ConfiguredChannel{Name: ch.Name, Definition: subscriptions.Definition{
			Filter: subscriptions.Filter{URI: ch.URI, Prefix: ch.Prefix, Host: ch.Host, Type: ch.Type, Bucket: ch.Bucket, Kind: ch.Kind, Lane: ch.Lane},
			Public: ch.Public, Digest: ch.Digest}})
	}
	return list
}

// DefaultConfig returns the settings of a hub that nobody configured.
func DefaultConfig() Config {
	return Config{
		Listen:    "127.0.0.1:8420",
		Data:      "./freshwire-data",
		Mode:      ModeNormal,
		KeepAge:   graph.DefaultKeepAge,
		Cache:     256 << 20,
		MinFree:   graph.DefaultMinFree,
		ClockRate: 1,

		StreamsPerAddress: 256, ConnectionsPerAddress: 256,
		WebSub:     defaultWebSub,
		Federation: FederationConfig{Interests: federation.DefaultInterests},
		Digest:     DigestConfig{All: true, KeepHours: digest.DefaultKeepHours, KeepRollups: digest.DefaultKeepRollups},
	}
}

// A Setting is one field of a Config under the name it has as a flag and in the
// file, some of them in a section. In the environment it is FRESHWIRE_ and the name
// in capitals, with _ for -.
type Setting struct {
	Name  string
	Usage string
	field func(*Config) any // a pointer to the field
}

// Settings lists all settings, for a command to make flags of. A list is
// separated by commas.
func Settings() []Setting { return slices.Clone(settings) }

// Value returns what c has for the setting, written as a flag would be.
func (s Setting) Value(c Config) string {
	v := reflect.ValueOf(s.field(&c)).Elem()
	if at, ok := v.Interface().(time.Time); ok {
		if at.IsZero() {
			return ""
		}
		return at.Format(time.RFC3339)
	}
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(v.Interface())
	}
	list := make([]string, v.Len())
	for i := range list {
		list[i] = fmt.Sprint(v.Index(i).Interface())
	}
	return strings.Join(list, ",")
}

// path is where the setting stands in the file: in a section, its usage says which.
func (s Setting) path() string {
	if m := sectionKey.FindStringSubmatch(s.Usage); m != nil {
		return "$." + m[1]
	}
	return "$." + s.Name
}

var sectionKey = regexp.MustCompile(`\(([a-z]+\.[a-z_-]+)`)

var settings = []Setting{
	{"listen", "address to serve on; without jwks loopback only", func(c *Config) any { return &c.Listen }},
	{"data", "folder that holds the store", func(c *Config) any { return &c.Data }},
	{"public-url", "address under which others reach the hub, as through a proxy", func(c *Config) any { return &c.PublicURL }},
	{"admin", "address of a second listener for metrics and profiles; loopback only", func(c *Config) any { return &c.Admin }},
	{"trusted-proxy", "networks whose X-Forwarded-For is believed", func(c *Config) any { return &c.TrustedProxy }},
	{"tls-cert", "file with the certificate chain to serve TLS with", func(c *Config) any { return &c.TLSCert }},
	{"tls-key", "file with the key of tls-cert", func(c *Config) any { return &c.TLSKey }},
	{"jwks", "file or https URL of the keys that tokens are checked with (auth.jwks in the file)", func(c *Config) any { return &c.Auth.JWKS }},
	{"jwks-allow", "networks in which the URL of jwks may lie, beside public ones (auth.jwks-allow)", func(c *Config) any { return &c.Auth.JWKSAllow }},
	{"issuer", "who makes the tokens: what their iss says (auth.issuer)", func(c *Config) any { return &c.Auth.Issuer }},
	{"audience", "what the tokens' aud names; the public-url if not set (auth.audience)", func(c *Config) any { return &c.Auth.Audience }},
	{"mode", "normal, or observe: keep the graph, retry nothing", func(c *Config) any { return &c.Mode }},
	{"work", "types that somebody makes; their notices are retried", func(c *Config) any { return &c.Work }},
	{"collect", "types that are deleted when nothing depends on them any more", func(c *Config) any { return &c.Collect }},
	{"schemes", "URI schemes besides http, https, ticker and urn", func(c *Config) any { return &c.Schemes }},
	{"keep-age", "how long the journal is kept at least", func(c *Config) any { return &c.KeepAge }},
	{"keep-bytes", "size beyond which the oldest part of the journal goes; 0 means no bound", func(c *Config) any { return &c.KeepBytes }},
	{"cache", "memory for the store's block cache", func(c *Config) any { return &c.Cache }},
	{"min-free", "free disk below which writes are refused and reads go on; 0 means none", func(c *Config) any { return &c.MinFree }},
	{"backup-dir", "folder for backups, on the disk of the data; \"backups\" among them by default", func(c *Config) any { return &c.BackupDir }},
	{"streams-per-address", "streams that one client address may have open", func(c *Config) any { return &c.StreamsPerAddress }},
	{"connections-per-address", "connections that one client address may have open beside its streams", func(c *Config) any { return &c.ConnectionsPerAddress }},
	{"publisher-requests", "requests that one publisher may send in a second; 0 means no bound", func(c *Config) any { return &c.PublisherRequests }},
	{"publisher-bytes", "bytes, after inflation, that one publisher may send in a second; 0 means no bound", func(c *Config) any { return &c.PublisherBytes }},
	{"publisher-resources", "resources that one publisher may have in the store; 0 means no bound", func(c *Config) any { return &c.PublisherResources }},
	{"publisher-edges", "dependencies that the resources of one publisher may have; 0 means no bound", func(c *Config) any { return &c.PublisherEdges }},
	{"clock-start", "time at which an accelerated clock starts; loopback only", func(c *Config) any { return &c.ClockStart }},
	{"clock-rate", "seconds that an accelerated clock goes in a second", func(c *Config) any { return &c.ClockRate }},
	{"lease-min", "least lease of a WebSub subscription (websub.lease_min)", func(c *Config) any { return &c.WebSub.LeaseMin }},
	{"lease-default", "lease of who asks for none (websub.lease_default)", func(c *Config) any { return &c.WebSub.LeaseDefault }},
	{"lease-max", "greatest lease (websub.lease_max)", func(c *Config) any { return &c.WebSub.LeaseMax }},
	{"delivery-timeout", "time for one call of a callback (websub.delivery_timeout)", func(c *Config) any { return &c.WebSub.DeliveryTimeout }},
	{"retry-first", "wait before a call that failed is made again, the first of many that grow (websub.retry_first)", func(c *Config) any { return &c.WebSub.RetryFirst }},
	{"retry-schedule", "all waits, such as 5s,1m,1h, instead of those that grow from retry-first (websub.retry_schedule)", func(c *Config) any { return &c.WebSub.RetrySchedule }},
	{"callback-allow", "networks in which callbacks may lie, beside public ones, on any port (websub.callback_allow)", func(c *Config) any { return &c.WebSub.CallbackAllow }},
	{"callback-ports", "ports of public callbacks beside 80 and 443 (websub.callback_ports)", func(c *Config) any { return &c.WebSub.CallbackPorts }},
	{"deny-topics", "topics that nobody subscribes to, as URLs or paths (websub.deny_topics)", func(c *Config) any { return &c.WebSub.DenyTopics }},
	{"websub-require-token", "true: to subscribe to public topics needs a token too (websub.require_token)", func(c *Config) any { return &c.WebSub.RequireToken }},
	{"websub-signature", "sha1, sha256, sha384 or sha512: method of X-Hub-Signature (websub.signature)", func(c *Config) any { return &c.WebSub.Signature }},
	{"websub-verify-rate", "verifications in a minute that ask one host, or one address (websub.verify_rate)", func(c *Config) any { return &c.WebSub.VerifyRate }},
	{"websub-per-owner", "subscriptions of one owner; of an address without a token a tenth of it (websub.per_owner)", func(c *Config) any { return &c.WebSub.PerOwner }},
	{"websub-moved-to", "URL of the hub that takes subscriptions instead of this one (websub.moved_to)", func(c *Config) any { return &c.WebSub.MovedTo }},
	{"digest-all", "false: no digest is made of the channel all (digest.all)", func(c *Config) any { return &c.Digest.All }},
	{"digest-keep-hours", "how long the digests of hours are kept (digest.keep_hours)", func(c *Config) any { return &c.Digest.KeepHours }},
	{"digest-keep-rollups", "how long those of days and weeks are kept (digest.keep_rollups)", func(c *Config) any { return &c.Digest.KeepRollups }},
	{"federation-authority", "URI prefixes that this hub speaks for to its peers (federation.authority)", func(c *Config) any { return &c.Federation.Authority }},
	{"federation-allow", "networks in which peers may lie, and hosts that say who speaks for them, beside public ones (federation.allow)", func(c *Config) any { return &c.Federation.Allow }},
	{"federation-interests", "resources that one peer may ask for (federation.interests)", func(c *Config) any { return &c.Federation.Interests }},
}

const (
	envPrefix = "FRESHWIRE_"
	// EnvFile names the configuration file.
	EnvFile = envPrefix + "CONFIG"
	// EnvHub is the hub that the client commands speak to; a hub ignores it.
	EnvHub = envPrefix + "HUB"
	// EnvToken is the token that the client commands send; a hub ignores it.
	EnvToken = envPrefix + "TOKEN"
)

// LoadConfig puts together a configuration: flags win over the environment, that
// over the file, and that over the defaults. Flags are by name of setting and hold
// only those that were given. Without a file, EnvFile may name one. What is unknown
// is refused: a typing mistake must not run with defaults. The result is checked.
func LoadConfig(file string, environ []string, flags map[string]string) (Config, error) {
	c := DefaultConfig()
	env := map[string]string{}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, envPrefix) {
			env[name] = value
		}
	}
	file = configFile(file, environ)
	delete(env, EnvFile)
	delete(env, EnvHub)
	delete(env, EnvToken)
	if file != "" {
		if err := c.readFile(file); err != nil {
			return Config{}, err
		}
	}
	for name, value := range env {
		setting := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "_", "-")
		if envName(setting) != name {
			setting = ""
		}
		if err := c.set(setting, value); err != nil {
			return Config{}, fmt.Errorf("environment variable %s: %w", name, err)
		}
	}
	for name, value := range flags {
		if err := c.set(name, value); err != nil {
			return Config{}, fmt.Errorf("flag --%s: %w", name, err)
		}
	}
	if err := c.Check(); err != nil {
		return c, inFile(file, err)
	}
	return c, nil
}

// CheckConfig is [LoadConfig] without flags that also looks whether the secrets are
// there that sinks name, which a hub needs and a command on its data does not. It tells
// what of the sinks may not be meant.
func CheckConfig(file string, environ []string) (Config, []sink.Warning, error) {
	c, err := LoadConfig(file, environ, nil)
	if err != nil {
		return c, nil, err
	}
	sinks, warnings, err := sink.Compile(c.Sinks, c.Schemes...)
	if err == nil {
		err = sink.CheckSecrets(sinks)
	}
	if err != nil {
		return c, nil, inFile(configFile(file, environ), err)
	}
	return c, warnings, nil
}

// configFile is the file that holds the configuration: one that is named, or that the
// environment names, "" if there is none.
func configFile(file string, environ []string) string {
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && name == EnvFile && file == "" {
			return value
		}
	}
	return file
}

func envName(setting string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

// readFile reads YAML over c. Errors show the line.
func (c *Config) readFile(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		if key := unreadable(text); !isPlaced(err) && key != "" {
			if err := placed(name, text, "$."+key, fmt.Errorf("%s: %w", key, err)); isPlaced(err) {
				return err
			}
		}
		return fmt.Errorf("configuration %s: %w", name, err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("configuration %s: more than one YAML document", name)
	}
	return nil
}

// isPlaced reports whether an error says where in the file it is.
func isPlaced(err error) bool {
	var (
		said   yaml.Error
		placed *placedError
	)
	return errors.As(err, &said) || errors.As(err, &placed)
}

// unreadable returns the first key of a file whose value cannot be read. The reader
// of YAML does not say it of what is read from a text, such as durations and sizes.
func unreadable(text []byte) string {
	var all yaml.MapSlice
	if yaml.Unmarshal(text, &all) != nil {
		return ""
	}
	for _, item := range all {
		one, err := yaml.Marshal(yaml.MapSlice{item})
		if err == nil && yaml.UnmarshalWithOptions(one, new(Config), yaml.Strict()) != nil {
			return fmt.Sprint(item.Key)
		}
	}
	return ""
}

// A placedError is what a check complains of, with the lines of the file around it.
// They may hold what is not for a log.
type placedError struct {
	file string
	err  error
	line string
}

func (e *placedError) Error() string { return e.short() + "\n" + e.line }
func (e *placedError) Unwrap() error { return e.err }

// short is the text without the lines.
func (e *placedError) short() string { return fmt.Sprintf("configuration %s: %v", e.file, e.err) }

// inFile places what a check complains of: a setting, or a field of a sink.
func inFile(file string, err error) error {
	text, readErr := os.ReadFile(file)
	if readErr != nil {
		return err
	}
	path := ""
	name, _, _ := strings.Cut(err.Error(), ":")
	if i := slices.IndexFunc(settings, func(s Setting) bool { return s.Name == name }); i >= 0 {
		path = settings[i].path()
	}
	if fault := (*sink.Error)(nil); errors.As(err, &fault) {
		path = "$.sinks" + fault.Path()
	}
	return placed(file, text, path, err)
}

// placed is err at a YAML path, or at the nearest one above it that there is.
func placed(file string, text []byte, path string, err error) error {
	for ; path != "$" && path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		p, pathErr := yaml.PathString(path)
		if pathErr != nil {
			continue
		}
		if lines, pathErr := p.AnnotateSource(text, false); pathErr == nil {
			return &placedError{file, err, string(bytes.TrimRight(lines, "\n "))}
		}
	}
	return err
}

// set reads the text of one setting, as flags and the environment give it.
func (c *Config) set(name, value string) error {
	i := slices.IndexFunc(settings, func(s Setting) bool { return s.Name == name })
	if i < 0 {
		return errors.New("not a setting")
	}
	var err error
	switch p := settings[i].field(c).(type) {
	case *string:
		*p = value
	case *Mode:
		*p = Mode(value)
	case *Size:
		err = p.UnmarshalText([]byte(value))
	case *bool:
		*p, err = strconv.ParseBool(value)
	case *int:
		*p, err = strconv.Atoi(value)
	case *[]int:
		*p, err = eachOf(value, strconv.Atoi)
	case *float64:
		*p, err = strconv.ParseFloat(value, 64)
	case *time.Duration:
		*p, err = time.ParseDuration(value)
	case *time.Time:
		*p, err = time.Parse(time.RFC3339, value)
	case *[]string:
		*p = splitList(value)
	case *[]time.Duration:
		*p, err = eachOf(value, time.ParseDuration)
	case *[]netip.Prefix:
		*p, err = eachOf(value, netip.ParsePrefix)
	}
	return err
}

// eachOf parses each part of a list.
func eachOf[T any](list string, parse func(string) (T, error)) (values []T, err error) {
	for _, s := range splitList(list) {
		v, parseErr := parse(s)
		values, err = append(values, v), errors.Join(err, parseErr)
	}
	return values, err
}

func splitList(s string) (list []string) {
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

const (
	// minCache is less than one memtable; below it every read goes to the disk.
	minCache = 8 << 20
	// minKeepAge lets a reader that was restarted resume.
	minKeepAge = time.Minute
	// minKeepHours are those of a week and a day: weeks are made of the hours that are kept.
	minKeepHours = 8 * 24 * time.Hour
	// maxClockRate makes an hour of a second. The 292 years that a duration holds
	// then last for a month.
	maxClockRate = 3600
)

// Check reports the first setting that cannot be used, and why.
func (c *Config) Check() error {
	if err := c.checkAddresses(); err != nil {
		return err
	}
	switch {
	case c.Data == "":
		return errors.New("data: name a folder")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("tls-cert and tls-key: set both or none")
	case c.Mode != ModeNormal && c.Mode != ModeObserve:
		return fmt.Errorf("mode: %.40q is not normal or observe", c.Mode)
	case c.KeepAge < minKeepAge:
		return fmt.Errorf("keep-age: %s is less than %s", c.KeepAge, minKeepAge)
	case c.KeepBytes < 0:
		return errors.New("keep-bytes: below 0")
	case c.Cache < minCache:
		return fmt.Errorf("cache: less than %d MiB", minCache>>20)
	case c.MinFree < 0:
		return errors.New("min-free: below 0")
	case c.StreamsPerAddress < 1:
		return errors.New("streams-per-address: below 1")
	case c.ConnectionsPerAddress < 1:
		return errors.New("connections-per-address: below 1")
	case c.PublisherRequests < 0 || c.PublisherBytes < 0 || c.PublisherResources < 0 || c.PublisherEdges < 0:
		return errors.New("publisher-requests, publisher-bytes, publisher-resources, publisher-edges: one is below 0")
	case !(c.ClockRate > 0 && c.ClockRate <= maxClockRate):
		return fmt.Errorf("clock-rate: %v does not lie between 0 and %v", c.ClockRate, maxClockRate)
	case !c.ClockStart.IsZero() && c.ClockStart.Before(time.Unix(0, 0)):
		return errors.New("clock-start: before 1970")
	}
	if err := c.checkPublicURL(); err != nil {
		return err
	}
	if err := c.WebSub.check(); err != nil {
		return err
	}
	if err := c.Digest.check(); err != nil {
		return err
	}
	if err := c.checkFederation(); err != nil {
		return err
	}
	if err := c.checkNames(); err != nil {
		return err
	}
	if err := subscriptions.CheckConfigured(c.channels(), c.Schemes...); err != nil {
		return err
	}
	_, _, err := sink.Compile(c.Sinks, c.Schemes...)
	return err
}

// checkAddresses refuses to listen where others could reach what they may not:
// without keys the hub cannot tell who may do what.
func (c *Config) checkAddresses() error {
	local, err := checkListen("listen", c.Listen)
	switch {
	case err != nil:
		return err
	case !local && c.Auth.JWKS == "":
		return fmt.Errorf("listen: %q is not a loopback address, and without keys to check tokens with "+
			"everybody who reaches the hub may do everything: set jwks and issuer, or listen on 127.0.0.1 or [::1]", c.Listen)
	case !local && (c.ClockRate != 1 || !c.ClockStart.IsZero()):
		return fmt.Errorf("listen: %q is not a loopback address, and a hub with an accelerated clock is for trying out", c.Listen)
	case c.Auth.JWKS == "" && (c.Auth.Issuer != "" || c.Auth.Audience != ""):
		return errors.New("jwks: issuer and audience are set, but no keys to check tokens with")
	case c.Auth.JWKS != "" && c.Auth.Issuer == "":
		return errors.New("issuer: say whose tokens are believed; it is what their iss says")
	case c.Auth.JWKS != "" && c.audience() == "":
		return errors.New("audience: say what a token for this hub names as its aud, or set public-url")
	}
	if c.Admin == "" {
		return nil
	}
	if local, err = checkListen("admin", c.Admin); err == nil && !local {
		err = fmt.Errorf("admin: %q is not a loopback address; profiles show memory, and nobody is asked for a token there", c.Admin)
	}
	return err
}

// audience is what tokens have to name.
func (c *Config) audience() string { return cmp.Or(c.Auth.Audience, c.PublicURL) }

// checkListen reports whether addr is this very machine's alone.
func checkListen(name, addr string) (local bool, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false, fmt.Errorf("%s: %w; write it as 127.0.0.1:8420", name, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("%s: %.20q is not a port", name, port)
	}
	return isLoopback(host), nil
}

// isLoopback reports whether host, without port, is this very machine.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback() && a.Zone() == ""
}

func (c *Config) checkPublicURL() error {
	if c.PublicURL == "" {
		return nil
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("public-url: %.200q is not of the form https://HOST", c.PublicURL)
	}
	return nil
}

// checkNames looks at types and schemes.
func (c *Config) checkNames() error {
	for name, list := range map[string][]string{"work": c.Work, "collect": c.Collect} {
		for _, t := range list {
			if err := checkToken([]byte(t), graph.MaxToken); err != nil {
				return fmt.Errorf("%s: %.40q: %w", name, t, err)
			}
		}
	}
	for _, s := range c.Schemes {
		if err := graph.CheckURI(s+":a", s); err != nil || s == "" || strings.ToLower(s) != s {
			return fmt.Errorf("schemes: %.40q is not a scheme in lower case", s)
		}
	}
	return nil
}
