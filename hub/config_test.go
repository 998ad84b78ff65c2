package hub

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFlagsWinOverEnvironmentOverFileOverDefaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "freshwire.yaml")
	if err := os.WriteFile(file, []byte(`
listen: 127.0.0.1:1
data: /file
mode: observe
work: [html, map]
trusted-proxy: [10.0.0.0/8]
keep-age: 48h
keep-bytes: 2GiB
clock-start: 2030-01-01T00:00:00Z
`), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"HOME=/", "FRESHWIRE_DATA=/env", "FRESHWIRE_LISTEN=127.0.0.1:2", "FRESHWIRE_COLLECT=html, map,",
		"FRESHWIRE_HUB=http://localhost:1", "FRESHWIRE_CONFIG=" + file}
	got, err := LoadConfig("", environ, map[string]string{"listen": "127.0.0.1:3", "cache": "64MiB", "clock-rate": "60"})
	want := DefaultConfig()
	want.Listen, want.Data, want.Mode, want.Work, want.Collect = "127.0.0.1:3", "/env", ModeObserve, []string{"html", "map"}, []string{"html", "map"}
	want.TrustedProxy = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	want.KeepAge, want.KeepBytes, want.Cache = 48*time.Hour, 2<<30, 64<<20
	want.ClockStart, want.ClockRate = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), 60
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestWithoutAnythingTheDefaultsHold(t *testing.T) {
	got, err := LoadConfig("", nil, nil)
	if err != nil || !reflect.DeepEqual(got, DefaultConfig()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEverySettingCanBeSetInEachWay(t *testing.T) {
	values := map[string]string{"mode": "observe", "keep-age": "1h", "keep-bytes": "1MiB", "min-free": "1MiB", "backup-dir": "b", "cache": "9MiB", "clock-start": "2030-01-01T00:00:00Z",
		"clock-rate": "2", "streams-per-address": "9", "connections-per-address": "9", "publisher-requests": "9", "publisher-bytes": "9MiB",
		"publisher-resources": "9", "publisher-edges": "9", "trusted-proxy": "10.0.0.0/8", "jwks-allow": "10.0.0.0/8", "listen": "[::1]:1", "admin": "localhost:1", "public-url": "https://hub.example", "work": "a"}
	onlyInFile := 3 // channels, sinks and peers
	if n := leaves(reflect.TypeFor[Config]()); len(settings) != n-onlyInFile {
		t.Errorf("%d settings for %d fields, of which %d are no settings", len(settings), n, onlyInFile)
	}
	inSection := map[string]string{"jwks": "auth", "jwks-allow": "auth", "issuer": "auth", "audience": "auth"}
	inWebSub := map[string]string{} // names in the section, by setting
	for name, s := range map[string][2]string{"lease_min": {"lease-min", "9s"}, "lease_default": {"lease-default", "9s"}, "lease_max": {"lease-max", "9s"},
		"delivery_timeout": {"delivery-timeout", "9s"}, "retry_first": {"retry-first", "9s"}, "retry_schedule": {"retry-schedule", "9s, 1h"},
		"callback_allow": {"callback-allow", "10.0.0.0/8"}, "callback_ports": {"callback-ports", "81, 82"}, "deny_topics": {"deny-topics", "/topics/all"},
		"require_token": {"websub-require-token", "true"}, "signature": {"websub-signature", "sha1"}, "verify_rate": {"websub-verify-rate", "9"},
		"per_owner": {"websub-per-owner", "9"}, "moved_to": {"websub-moved-to", "https://hub.example/websub"}} {
		inWebSub[s[0]], values[s[0]] = name, s[1]
	}
	inDigest := map[string]string{"digest-all": "all", "digest-keep-hours": "keep_hours", "digest-keep-rollups": "keep_rollups"}
	values["digest-all"], values["digest-keep-hours"], values["digest-keep-rollups"] = "false", "300h", "30000h"
	inFederation := map[string]string{"federation-authority": "authority", "federation-allow": "allow", "federation-interests": "interests"}
	values["federation-allow"], values["federation-interests"] = "10.0.0.0/8", "9"
	for _, s := range settings {
		value := values[s.Name]
		if value == "" {
			value = "x"
		}
		changed := func(c Config) bool {
			d := DefaultConfig()
			return !reflect.DeepEqual(s.field(&c), s.field(&d))
		}
		var flag, env, file Config
		flag, env, file = DefaultConfig(), DefaultConfig(), DefaultConfig()
		if err := flag.set(s.Name, value); err != nil || !changed(flag) {
			t.Errorf("flag --%s=%s: %v, changed %t", s.Name, value, err, changed(flag))
		}
		setting := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(envName(s.Name), envPrefix), "_", "-"))
		if err := env.set(setting, value); err != nil || !changed(env) {
			t.Errorf("%s=%s: %v", envName(s.Name), value, err)
		}
		name := filepath.Join(t.TempDir(), "c.yaml")
		key, section := s.Name, inSection[s.Name]
		if inWebSub[s.Name] != "" {
			key, section = inWebSub[s.Name], "websub"
		}
		if inDigest[s.Name] != "" {
			key, section = inDigest[s.Name], "digest"
		}
		if inFederation[s.Name] != "" {
			key, section = inFederation[s.Name], "federation"
		}
		yaml := key + ": \"" + value + "\"\n"
		switch reflect.TypeOf(s.field(&file)).Elem().Kind() {
		case reflect.Slice:
			yaml = key + ": [" + value + "]\n"
		case reflect.Float64, reflect.Int, reflect.Bool:
			yaml = key + ": " + value + "\n"
		}
		if section != "" {
			yaml = section + ":\n  " + yaml
		}
		if err := os.WriteFile(name, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := file.readFile(name); err != nil || !changed(file) {
			t.Errorf("file %q: %v, changed %t", yaml, err, changed(file))
		}
		if s.Usage == "" {
			t.Errorf("setting %s has no usage", s.Name)
		}
	}
}

// leaves counts the fields of a configuration, those of its sections one by one.
func leaves(t reflect.Type) (n int) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[time.Time]() {
			n += leaves(f.Type)
			continue
		}
		n++
	}
	return n
}

func TestConfigurationsThatCannotBeMeantAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, file string
		environ    []string
		flags      map[string]string
		want       string // part of the error
	}{
		{"an unknown key shows its line", "listen: 127.0.0.1:1\nlsten: 127.0.0.1:2\n", nil, nil, "2 | lsten"},
		{"a repeated key", "data: a\ndata: b\n", nil, nil, "data"},
		{"a broken file", "listen: [\n", nil, nil, "configuration"},
		{"two documents", "data: a\n---\ndata: b\n", nil, nil, "more than one"},
		{"a number for a duration", "keep-age: soon\n", nil, nil, `"soon"`},
		{"a size in words", "cache: much\n", nil, nil, "not a size"},
		{"an unknown key of a section", "websub:\n  lease-min: 1h\n", nil, nil, "2 |   lease-min"},
		{"leases out of order", "websub: {lease_min: 1h, lease_default: 1m}\n", nil, nil, "in order"},
		{"a lease that is too short", "websub: {lease_min: 1ms}\n", nil, nil, "from a second on"},
		{"a delivery without end", "websub: {delivery_timeout: 1h}\n", nil, nil, "delivery_timeout"},
		{"a wait below 0", "", nil, map[string]string{"retry-schedule": "5s,-1s"}, "above 0"},
		{"a network that is none", "websub: {callback_allow: [10.0.0.0]}\n", nil, nil, "10.0.0.0"},
		{"a port that is none", "websub: {callback_ports: [65536]}\n", nil, nil, "callback_ports"},
		{"a denied topic that is none", "websub: {deny_topics: [/topics/all, /v1/stream]}\n", nil, nil, "number 2"},
		{"an unknown signature", "websub: {signature: md5}\n", nil, nil, "md5"},
		{"no verification at all", "", nil, map[string]string{"websub-verify-rate": "0"}, "below 1"},
		{"a hub elsewhere that is none", "", nil, map[string]string{"websub-moved-to": "elsewhere"}, "moved_to"},
		{"hours that are kept for less than a week", "digest: {keep_hours: 24h}\n", nil, nil, "a week is made of"},
		{"roll-ups that go before their hours", "digest: {keep_rollups: 200h}\n", nil, nil, "digest-keep-rollups"},
		{"an unknown variable", "", []string{"FRESHWIRE_LISTN=a"}, nil, "FRESHWIRE_LISTN: not a setting"},
		{"a variable in lower case", "", []string{"FRESHWIRE_listen=a"}, nil, "FRESHWIRE_listen: not a setting"},
		{"a variable without name", "", []string{"FRESHWIRE_=a"}, nil, "not a setting"},
		{"a variable that is no duration", "", []string{"FRESHWIRE_KEEP_AGE=a"}, nil, "FRESHWIRE_KEEP_AGE"},
		{"an unknown flag", "", nil, map[string]string{"lsten": "a"}, "--lsten"},
		{"a network that is none", "", nil, map[string]string{"trusted-proxy": "10.0.0.1"}, "--trusted-proxy"},
		{"a public address", "", nil, map[string]string{"listen": "0.0.0.0:8420"}, "without keys"},
		{"all addresses", "", nil, map[string]string{"listen": ":8420"}, "without keys"},
		{"keys without issuer", "auth: {jwks: a, audience: b}\n", nil, nil, "issuer"},
		{"keys without audience", "", nil, map[string]string{"jwks": "a", "issuer": "b"}, "audience"},
		{"an issuer without keys", "", nil, map[string]string{"issuer": "b"}, "jwks"},
		{"a public address with a clock that runs ahead", "clock-rate: 2\nlisten: 0.0.0.0:1\nauth: {jwks: a, issuer: b, audience: c}\n", nil, nil, "accelerated"},
		{"a public address for the admin, with keys", "admin: 0.0.0.0:1\nauth: {jwks: a, issuer: b, audience: c}\n", nil, nil, "admin"},
		{"an unknown key in a section", "auth: {jkws: a}\n", nil, nil, "jkws"},
		{"a name", "", nil, map[string]string{"listen": "hub.example:8420"}, "loopback"},
		{"a public address for the admin", "", nil, map[string]string{"admin": "192.0.2.1:8421"}, "admin"},
		{"no port", "", nil, map[string]string{"listen": "127.0.0.1"}, "missing port"},
		{"a port by name", "", nil, map[string]string{"listen": "127.0.0.1:http"}, "port"},
		{"no folder", "", nil, map[string]string{"data": ""}, "data"},
		{"a certificate without key", "", nil, map[string]string{"tls-cert": "a"}, "tls-key"},
		{"an unknown mode", "", nil, map[string]string{"mode": "dry"}, "mode"},
		{"a journal too short", "", nil, map[string]string{"keep-age": "1s"}, "keep-age"},
		{"a journal below nothing", "keep-bytes: -1\n", nil, nil, `"-1" is not a size`},
		{"a cache too small", "", nil, map[string]string{"cache": "1MiB"}, "cache"},
		{"a size that overflows", "", nil, map[string]string{"cache": "9999999999TiB"}, "not a size"},
		{"a clock that stands", "", nil, map[string]string{"clock-rate": "0"}, "clock-rate"},
		{"a clock that is no number", "", nil, map[string]string{"clock-rate": "NaN"}, "clock-rate"},
		{"a clock before 1970", "", nil, map[string]string{"clock-start": "1969-01-01T00:00:00Z"}, "clock-start"},
		{"a public URL with a path", "", nil, map[string]string{"public-url": "https://hub.example/a"}, "public-url"},
		{"a public URL with a user", "", nil, map[string]string{"public-url": "https://a@hub.example"}, "public-url"},
		{"a scheme in capitals", "", nil, map[string]string{"schemes": "TILE"}, "schemes"},
		{"a scheme with a colon", "", nil, map[string]string{"schemes": "tile:"}, "schemes"},
		{"a type too long", "", nil, map[string]string{"work": strings.Repeat("x", 256)}, "work"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := ""
			if c.file != "" {
				file = filepath.Join(t.TempDir(), "c.yaml")
				if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := LoadConfig(file, c.environ, c.flags); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "missing.yaml"), nil, nil); err == nil {
		t.Error("a file that is not there is accepted")
	}
}

func TestSizesAreBytesWithAUnit(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "4096": 4096, "1kB": 1000, "8MiB": 8 << 20, "2 GB": 2e9, "1TiB": 1 << 40} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "1mb", "9223372036854775808"} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted as %d", text, got)
		}
	}
}

func TestAFaultOfTheFileIsShownWithItsLine(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"a duration that is none", "mode: normal\nkeep-age: 5x\n", ">  2 | keep-age: 5x"},
		{"a size that is none", "mode: normal\ncache: many\n", ">  2 | cache: many"},
		{"a setting out of its bounds", "mode: normal\nkeep-age: 5s\n", ">  2 | keep-age: 5s"},
		{"a setting of a section", "auth:\n  issuer: https://a.example\n", ">  2 |   issuer: https://a.example"},
		{"a field of a sink", "sinks:\n  - name: a\n    match: {type: html}\n    http:\n      url: 'https://a.example/{b}'\n", ">  5 |       url: 'https://a.example/{b}'"},
		{"a value of a list", "sinks:\n  - name: a\n    match:\n      uri:\n        - ^a\n        - ^(b\n    purge: {}\n", ">  6 |         - ^(b"},
		{"a header of a sink", "sinks:\n  - name: a\n    surrogate-key:\n      url: https://a.example/\n      headers:\n        X-A.b: '{c}'\n", ">  6 |         X-A.b: '{c}'"},
		{"a sink without a name", "sinks:\n  - name: a\n    purge: {}\n  - purge: {}\n", ">  4 |   - purge: {}"},
		{"an unknown field of a sink", "sinks:\n  - name: a\n    purge: {}\n    mach: {}\n", ">  4 |     mach: {}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "c.yaml")
			if err := os.WriteFile(file, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := LoadConfig(file, nil, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "c.yaml") {
				t.Errorf("got %v\nwant the file and %q", err, tt.want)
			}
		})
	}
}

func TestASettingIsShownAsAFlagTakesIt(t *testing.T) {
	given := map[string]string{"trusted-proxy": "10.0.0.0/8,fd00::/8", "work": "html,extract", "cache": "64MiB", "keep-age": "48h0m0s",
		"clock-start": "2026-11-25T12:00:00Z", "clock-rate": "2", "mode": "observe", "streams-per-address": "7", "min-free": "0"}
	c, err := LoadConfig("", nil, given)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Settings() {
		text := s.Value(c)
		if want, ok := given[s.Name]; ok && text != want {
			t.Errorf("%s is shown as %q, want %q", s.Name, text, want)
		}
		again := DefaultConfig()
		if text != "" {
			if err := again.set(s.Name, text); err != nil || s.Value(again) != text {
				t.Errorf("%s: %q is read as %q, %v", s.Name, text, s.Value(again), err)
			}
		}
	}
}

// TestTheExampleOfSinksIsOneThatAHubTakes loads the file that the documentation names.
func TestTheExampleOfSinksIsOneThatAHubTakes(t *testing.T) {
	t.Setenv("FASTLY_KEY", "secret")
	c, warnings, err := CheckConfig(filepath.Join("..", "docs", "sinks.yaml"), nil)
	if err != nil || len(warnings) > 0 || len(c.Sinks) < 5 {
		t.Errorf("%d sinks, %v, %v", len(c.Sinks), warnings, err)
	}
}

// TestACommandOnTheDataNeedsNoSecretOfASink: who restores a backup has not the
// environment of the hub.
func TestACommandOnTheDataNeedsNoSecretOfASink(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := "sinks:\n  - name: a\n    http: {url: 'https://a.example/', headers: {X-Key: '{env:NO_SUCH_VARIABLE}'}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := CheckConfig("", []string{EnvFile + "=" + file}); err == nil || !strings.Contains(err.Error(), ">  3 | ") || !strings.Contains(err.Error(), "not set") {
		t.Errorf("a check of the configuration says %v", err)
	}
	c.Listen, c.Data = "127.0.0.1:0", t.TempDir()
	if _, err := New(c, nil); err == nil || !strings.Contains(err.Error(), "not set") {
		t.Errorf("a hub that is to start says %v", err)
	}
}
