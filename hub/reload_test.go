package hub

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/auth"
)

// A fileHub is a hub with keys whose configuration is a file.
type fileHub struct {
	*testHub
	file string
	log  *lockedBuffer
	as   func(method, path, body string) *reply // of an administrator
}

// keyFile makes a key, and a file with it as the only one of a set.
func keyFile(t *testing.T, name string) *auth.SigningKey {
	t.Helper()
	key, err := auth.GenerateKey(auth.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	set, err := key.AddTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, set, 0o600); err != nil {
		t.Fatal(err)
	}
	return key
}

// bearerOf makes an administrator's token.
func bearerOf(t *testing.T, key *auth.SigningKey, issuer string) string {
	t.Helper()
	token, err := key.Mint(auth.Grant{Issuer: issuer, Audience: testAudience, TTL: time.Hour, Rights: root}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + token
}

// startFileHub runs a hub by a file in folder.
func startFileHub(t *testing.T, folder, text string, bearer func() string) *fileHub {
	t.Helper()
	f := &fileHub{file: filepath.Join(folder, "freshwire.yaml"), log: &lockedBuffer{}}
	f.write(t, text)
	load := func() (Config, error) {
		return LoadConfig(f.file, nil, map[string]string{"data": filepath.Join(folder, "data"), "cache": "8MiB", "listen": "127.0.0.1:0"})
	}
	f.testHub = runHub(t, func() (*Hub, error) {
		cfg, err := load()
		if err != nil {
			return nil, err
		}
		h, err := New(cfg, slog.New(slog.NewJSONHandler(f.log, nil)))
		if err == nil {
			h.ReloadFrom(load)
		}
		return h, err
	})
	f.as = func(method, path, body string) *reply { return f.do(method, path, body, "Authorization", bearer()) }
	return f
}

func (f *fileHub) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(f.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reload has a file taken, and returns what changed.
func (f *fileHub) reload(t *testing.T, text string) (changes string, restart []string) {
	t.Helper()
	f.write(t, text)
	var done Reloaded
	a := f.as("POST", "/v1/reload", "")
	if a.status != 200 {
		t.Fatalf("%s\nis answered %d %s", text, a.status, a.body)
	}
	a.decode(t, &done)
	var list []string
	for _, c := range done.Changes {
		list = append(list, strings.Join(strings.Fields(c.Section+" "+c.Name+" "+c.Change), " "))
	}
	return strings.Join(list, ", "), done.Restart
}

func TestAReloadTakesChannelsAndKeysAndNamesWhatNeedsARestart(t *testing.T) {
	folder := t.TempDir()
	key := keyFile(t, filepath.Join(folder, "keys.json"))
	bearer := bearerOf(t, key, testIssuer)
	file := "auth: {jwks: " + filepath.Join(folder, "keys.json") + ", issuer: " + testIssuer + ", audience: " + testAudience + "}\n"
	f := startFileHub(t, folder, file+"channels: [{name: files, uri: ['https://e.example/1']}, {name: html, type: [html], public: true}]\n",
		func() string { return bearer })
	var files channelShape
	f.as("GET", "/v1/channels/files", "").decode(t, &files)
	if !files.Configured || files.URIs != 1 || files.Owner != "" {
		t.Errorf("at start the channel is %+v", files)
	}
	for _, c := range []struct{ method, path, body string }{
		{"PUT", "/v1/channels/files", `{}`}, {"PATCH", "/v1/channels/files", `{"remove":{"uri":["https://e.example/1"]}}`}, {"DELETE", "/v1/channels/files", ""},
	} {
		var p Problem
		if a := f.as(c.method, c.path, c.body); a.status != 409 {
			t.Errorf("%s of a configured channel: %d %s", c.method, a.status, a.body)
		} else if a.decode(t, &p); p.Type != problemBase+"fixed-channel" || !strings.Contains(p.Detail, "configuration") {
			t.Errorf("%s of a configured channel: %s", c.method, a.body)
		}
	}
	if changes, restart := f.reload(t, file+"channels: [{name: files, uri: ['https://e.example/1']}, {name: html, type: [html], public: true}]\n"); changes != "" || len(restart) > 0 {
		t.Errorf("the same again changes %s, restart %v", changes, restart)
	}
	changes, restart := f.reload(t, file+"channels: [{name: files, uri: ['https://e.example/1', 'https://e.example/2']}, {name: more}]\nkeep-age: 48h\nstreams-per-address: 9\n")
	if changes != "channels html removed, channels files changed, channels more added" || !slices.Equal(restart, []string{"keep-age", "streams-per-address"}) {
		t.Errorf("changes are %q, and %v need a restart", changes, restart)
	}
	if a := f.do("GET", "/v1/channels/html", "", "Authorization", bearer); a.status != 404 {
		t.Errorf("a channel that is not in the file any more: %d %s", a.status, a.body)
	}

	// Keys in the same file, then those of another issuer.
	old := bearer
	key = keyFile(t, filepath.Join(folder, "keys.json"))
	f.do("GET", "/v1/token", "", "Authorization", old)
	again := bearerOf(t, key, testIssuer)
	bearer = again
	if err := f.trust.Load().keys.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := f.do("GET", "/v1/token", "", "Authorization", old), f.as("GET", "/v1/token", ""); a.status != 401 || b.status != 200 {
		t.Errorf("with new keys the old token gets %d, the new one %d", a.status, b.status)
	}
	other := keyFile(t, filepath.Join(folder, "other.json"))
	file = strings.ReplaceAll(strings.ReplaceAll(file, "keys.json", "other.json"), testIssuer, "https://other.example")
	if changes, restart := f.reload(t, file); changes != "channels files removed, channels more removed, auth changed" || len(restart) > 0 {
		t.Errorf("changes are %q, and %v need a restart", changes, restart)
	}
	bearer = bearerOf(t, other, "https://other.example")
	if a, b := f.do("GET", "/v1/token", "", "Authorization", again), f.as("GET", "/v1/token", ""); a.status != 401 || b.status != 200 {
		t.Errorf("with another issuer the old token gets %d, the new one %d", a.status, b.status)
	}
	// A file that is watched is the one that was named last.
	newest := keyFile(t, filepath.Join(folder, "other.json"))
	bearer = bearerOf(t, newest, "https://other.example")
	for deadline := time.Now().Add(patience); f.as("GET", "/v1/token", "").status != 200; pass(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a new key in the file named last is not believed")
		}
	}
	if changes, restart := f.reload(t, "{}"); changes != "" || !slices.Equal(restart, []string{"jwks", "issuer", "audience"}) {
		t.Errorf("without keys: changes are %q, and %v need a restart", changes, restart)
	}
	if a := f.do("GET", "/v1/token", ""); a.status != 401 {
		t.Errorf("a hub that asked for tokens does not any more: %d", a.status)
	}
	if text := f.log.String(); !strings.Contains(text, `"msg":"configuration changed","component":"hub","section":"channels","name":"more","change":"added"`) {
		t.Errorf("the log does not say what changed:\n%s", text)
	}
}

func TestAConfigurationThatCannotBeLeavesTheOldOneInForceWhole(t *testing.T) {
	folder := t.TempDir()
	key := keyFile(t, filepath.Join(folder, "keys.json"))
	bearer := bearerOf(t, key, testIssuer)
	section := "auth: {jwks: " + filepath.Join(folder, "keys.json") + ", issuer: " + testIssuer + ", audience: " + testAudience + "}\n"
	good := section + "channels: [{name: files, uri: ['https://e.example/1']}]\n"
	f := startFileHub(t, folder, good, func() string { return bearer })
	f.as("PUT", "/v1/channels/taken", `{"owner":"ada"}`)
	before := f.as("GET", "/v1/channels", "").body
	for _, c := range []struct{ name, text, want string }{
		{"no YAML", "channels: [", "configuration"},
		{"a misspelt setting", section + "public-url: https://hunter2.example\nchanels: []\n", "chanels"},
		{"a value that is none", section + "keep-age: 1s\nchannels: []\n", "keep-age"},
		{"a channel that cannot be", section + "channels: [{name: more}, {name: files, uri: [a]}]\n", "uri"},
		{"a channel with a field that it does not have", section + "channels: [{name: more, owner: ada}]\n", "owner"},
		{"two channels of a name", section + "channels: [{name: more}, {name: more}]\n", "two of that name"},
		{"a channel that somebody made", section + "channels: [{name: more}, {name: taken}]\n", "taken"},
		{"keys that are not there", strings.ReplaceAll(section, "keys.json", "none.json") + "channels: [{name: more}]\n", "jwks"},
		{"keys without issuer", "auth: {jwks: " + filepath.Join(folder, "keys.json") + "}\nchannels: [{name: more}]\n", "issuer"},
		{"an issuer who does not answer", strings.ReplaceAll(section, filepath.Join(folder, "keys.json"), "https://127.0.0.1:1/keys") + "channels: [{name: more}]\n", "jwks"},
	} {
		f.write(t, c.text)
		a := f.as("POST", "/v1/reload", "")
		var p Problem
		a.decode(t, &p)
		if a.status != 409 || p.Type != problemBase+"bad-config" || !strings.Contains(p.Detail, c.want) {
			t.Errorf("%s: %d %s, want a text with %q", c.name, a.status, a.body, c.want)
		}
		if strings.Contains(string(a.body), "hunter2") {
			t.Errorf("%s: the answer shows the file: %s", c.name, a.body)
		}
		if now := f.as("GET", "/v1/channels", "").body; !bytes.Equal(now, before) {
			t.Errorf("%s: the channels are %s, were %s", c.name, now, before)
		}
	}
	// A key file that is broken is said, though the file of the hub did not change.
	if err := os.WriteFile(filepath.Join(folder, "keys.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.write(t, section+"channels: []\n")
	if a := f.as("POST", "/v1/reload", ""); a.status != 409 || !strings.Contains(string(a.body), "jwks") {
		t.Errorf("broken keys: %d %s", a.status, a.body)
	}
	if now := f.as("GET", "/v1/channels", "").body; !bytes.Equal(now, before) {
		t.Errorf("broken keys: the channels are %s, were %s", now, before)
	}
	text := string(f.as("GET", "/metrics", "").body)
	for _, want := range []string{`freshwire_config_reloads_total{result="refused"} 11`, `freshwire_config_reloads_total{result="taken"} 0`, "freshwire_config_good 0"} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if log := f.log.String(); strings.Count(log, "the old one stays in force") != 11 || strings.Contains(log, "hunter2") {
		t.Errorf("the log is\n%s", log)
	}
	keyFile(t, filepath.Join(folder, "keys.json")) // whose key nobody has; the token at hand is known to the old set until it is read
	f.write(t, good)
	if _, err := f.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(f.log.String(), `"configuration taken"`) {
		t.Error("a good configuration after bad ones is not taken")
	}
}

func TestAHubWithoutAFileSaysThatThereIsNothingToReload(t *testing.T) {
	h := startHub(t, nil)
	var p Problem
	a := h.do("POST", "/v1/reload", "")
	if a.decode(t, &p); a.status != 409 || p.Type != problemBase+"bad-config" {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

func TestAConfigurationThatTakesSomebodysChannelDoesNotStart(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", t.TempDir(), minCache
	t.Run("somebody makes it", func(t *testing.T) {
		h := runHub(t, func() (*Hub, error) { return New(cfg, nil) })
		if a := h.do("PUT", "/v1/channels/taken", `{}`); a.status != 201 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	})
	cfg.Channels = []ChannelConfig{{Name: "taken"}}
	h, err := New(cfg, nil)
	if err == nil || !strings.Contains(err.Error(), "taken") {
		t.Fatalf("got %v", err)
	}
	if h != nil {
		t.Error("there is a hub")
	}
	cfg.Channels[0].Name = "fresh"
	started := runHub(t, func() (*Hub, error) { return New(cfg, nil) })
	var ch channelShape
	started.do("GET", "/v1/channels/fresh", "").decode(t, &ch)
	if b, _ := json.Marshal(ch); !ch.Configured {
		t.Errorf("got %s", b)
	}
}

func TestAReloadTakesSinksAndDeniedTopics(t *testing.T) {
	f := startFileHub(t, t.TempDir(), "channels: [{name: open, public: true}]\nwebsub: {callback_allow: [127.0.0.0/8]}\n", func() string { return "" })
	s, topic := newSubscriber(t), f.URL()+"/topics/open"
	form := url.Values{"hub.mode": {"subscribe"}, "hub.callback": {s.server.URL}, "hub.topic": {topic}}
	if a := f.do("POST", "/websub", form.Encode(), "Content-Type", typeForm); a.status != 202 {
		t.Fatalf("a subscription is answered %d %s", a.status, a.body)
	}
	s.await(1, isMode("subscribe"))
	const cdn = `{name: cdn, purge: {caches: ["http://127.0.0.1:9"]}, allow: [127.0.0.0/8]`
	const file, allow = "channels: [{name: open, public: true}]\n", "callback_allow: [127.0.0.0/8]"
	for _, c := range []struct{ text, changes, sinks string }{
		{file + "websub: {" + allow + "}\nsinks: [" + cdn + "}]\n", "sinks cdn added", "cdn"},
		{file + "websub: {" + allow + "}\nsinks: [" + cdn + "}]\n", "", "cdn"},
		{file + "websub: {" + allow + "}\nsinks: [" + cdn + ", rate: 5}, {name: all, http: {url: 'http://127.0.0.1:9/'}, allow: [127.0.0.0/8]}]\n", "sinks cdn changed, sinks all added", "cdn all"},
		{file + "websub: {" + allow + ", deny_topics: [/topics/open], lease_max: 20h, lease_default: 1h}\n", "sinks cdn removed, sinks all removed, websub changed", ""},
	} {
		changes, _ := f.reload(t, c.text)
		if changes != c.changes {
			t.Errorf("%s\nchanges %q, want %q", c.text, changes, c.changes)
		}
		var names []string
		for _, sink := range f.sinks.All() {
			names = append(names, sink.Name)
		}
		if got := strings.Join(names, " "); got != c.sinks {
			t.Errorf("%s\nleaves the sinks %q, want %q", c.text, got, c.sinks)
		}
	}
	if c := s.await(1, isMode("denied")); c.query.Get("hub.topic") != topic {
		t.Errorf("told %s", c.uri)
	}
	if _, restart := f.reload(t, file+"websub: {"+allow+", lease_max: 20h, lease_default: 1h}\n"); !slices.Equal(restart, []string{"lease-default", "lease-max"}) {
		t.Errorf("%v need a restart", restart)
	}
	// A sink that cannot be keeps a channel from being made.
	f.write(t, "channels: [{name: open, public: true}, {name: more}]\nsinks: [{name: cdn, match: {uri: '^['}, purge: {caches: ['http://127.0.0.1:9']}}]\n")
	a := f.as("POST", "/v1/reload", "")
	if b := f.do("GET", "/v1/channels/more", ""); a.status != 409 || !strings.Contains(string(a.body), "cdn") || b.status != 404 {
		t.Errorf("a sink that cannot be: %d %s, and the channel beside it %d", a.status, a.body, b.status)
	}
}
