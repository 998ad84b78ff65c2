package auth

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshwire/freshwire/internal/bubble"
)

func TestKeySetsAreReadAsOthersWriteThem(t *testing.T) {
	ed, ec := mustKey(t, EdDSA), mustKey(t, ES256)
	jwk := func(k *SigningKey, changes object) object {
		b, err := json.Marshal(k.jwk)
		if err != nil {
			t.Fatal(err)
		}
		o := object{}
		if err := json.Unmarshal(b, &o); err != nil {
			t.Fatal(err)
		}
		return o.with(changes)
	}
	set := func(keys ...object) string {
		b, err := json.Marshal(map[string]any{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct {
		name, text string
		want       int    // keys
		fault      string // part of the error
	}{
		{"two keys", set(jwk(ed, nil), jwk(ec, nil)), 2, ""},
		{"a key without alg and use", set(jwk(ed, object{"alg": nil, "use": nil})), 1, ""},
		{"a key for key_ops verify", set(jwk(ed, object{"key_ops": []string{"verify"}})), 1, ""},
		{"others beside it", set(jwk(ed, nil), object{"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"}, jwk(ec, object{"use": "enc"})), 1, ""},
		{"no JSON", "keys", 0, "not JSON"},
		{"a list", "[]", 0, "not a JSON object"},
		{"no keys", "{}", 0, `no list "keys"`},
		{"an empty list", `{"keys":[]}`, 0, "no key of it"},
		{"keys that are texts", `{"keys":["a"]}`, 0, "no key of it"},
		{"a private key", set(jwk(ed, object{"d": "AAAA"})), 0, "private key"},
		{"a secret", set(jwk(ed, nil), object{"kty": "oct", "kid": "s", "k": "AAAA"}), 0, "private key"},
		{"one id twice", set(jwk(ed, object{"kid": "a"}), jwk(ec, object{"kid": "a"})), 0, "two keys"},
		{"no id", set(jwk(ed, object{"kid": nil})), 0, "kid"},
		{"a key that is too short", set(jwk(ed, object{"x": "AAAA"})), 0, "32 bytes"},
		{"a point beside the curve", set(jwk(ec, object{"y": jwk(ec, nil)["x"]})), 0, "curve"},
		{"another curve", set(jwk(ec, object{"crv": "P-384"})), 0, "neither"},
		{"an alg of another key", set(jwk(ed, object{"alg": ES256})), 0, "alg"},
		{"a name that stands twice", `{"keys":[],"keys":[]}`, 0, "twice"},
		{"too long", strings.Repeat(" ", MaxKeySet+1), 0, "bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseKeySet([]byte(c.text))
			if len(got) != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("got %d keys, %v; want %d, %q", len(got), err, c.want, c.fault)
			}
		})
	}
}

// The key and its thumbprint are those of RFC 8037, appendix A.
func TestAKeysIDIsTheThumbprintOfTheStandard(t *testing.T) {
	k := &SigningKey{jwk: publicJWK{Crv: "Ed25519", Kty: "OKP", X: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}
	public, err := ed25519Key(k.jwk.X)
	if err != nil {
		t.Fatal(err)
	}
	made, err := newSigningKey(onlyPublic{public})
	if err != nil {
		t.Fatal(err)
	}
	if want := "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; made.ID() != want {
		t.Errorf("got %s, want %s", made.ID(), want)
	}
}

func TestAKeyOutlivesItsFile(t *testing.T) {
	for _, alg := range []string{EdDSA, ES256} {
		k := mustKey(t, alg)
		b, err := k.MarshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePEM(b)
		if err != nil || again.ID() != k.ID() {
			t.Errorf("%s: %v", alg, err)
		}
	}
	for name, text := range map[string]string{"nothing": "", "a certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"not a key": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParsePEM([]byte(text)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAKeyOfOpenSSLSigns(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("left out: it needs openssl")
		return
	}
	b, err := exec.Command(openssl, "genpkey", "-algorithm", "ed25519").Output()
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParsePEM(b)
	if err != nil {
		t.Fatal(err)
	}
	set, err := k.AddTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.AddTo(set); err == nil {
		t.Error("the same key stands twice in a set")
	}
}

// An origin is a server of keys.
type origin struct {
	mu     sync.Mutex
	set    []byte
	err    error
	asked  int
	blocks time.Duration
}

func (o *origin) fetch(ctx context.Context, _ string) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.blocks > 0 {
		select {
		case <-time.After(o.blocks):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return o.set, o.err
}

// remote runs f with keys that are fetched, in virtual time.
func remote(t *testing.T, f func(t *testing.T, o *origin, k *Keys, ed, ec *SigningKey)) {
	ed, ec := mustKey(t, EdDSA), mustKey(t, ES256)
	set, err := ed.AddTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	bubble.Test(t, func(t *testing.T) {
		o := &origin{set: set}
		k, err := OpenKeys(t.Context(), "https://issuer.example.org/keys", KeysOptions{Fetch: o.fetch})
		if err != nil {
			t.Fatal(err)
		}
		f(t, o, k, ed, ec)
	})
}

func find(k *Keys, kid string) Reason {
	_, _, err := k.Find(context.Background(), kid)
	if no := (*Error)(nil); errors.As(err, &no) {
		return no.Reason
	}
	return ""
}

func TestANewKeyIsFetchedWhenItsFirstTokenCome(t *testing.T) {
	remote(t, func(t *testing.T, o *origin, k *Keys, ed, ec *SigningKey) {
		o.set, _ = ec.AddTo(o.set)
		if got := find(k, ec.ID()); got != UnknownKey || o.asked != 1 {
			t.Errorf("right after a fetch: %q after %d fetches", got, o.asked)
		}
		time.Sleep(minRefresh)
		for range 3 {
			if got := find(k, ec.ID()); got != "" || o.asked != 2 {
				t.Errorf("then: %q after %d fetches, want it found by the second", got, o.asked)
			}
		}
		if find(k, ed.ID()) != "" {
			t.Error("the old key went before it was taken out")
		}
	})
}

func TestMadeUpKeyIDsDoNotMakeTheHubAFloodOfFetches(t *testing.T) {
	remote(t, func(t *testing.T, o *origin, k *Keys, _, _ *SigningKey) {
		time.Sleep(minRefresh)
		for i := range 600 { // ten a second, for a minute, half of them the same
			find(k, []string{"same", fmt.Sprint(i)}[i%2])
			time.Sleep(100 * time.Millisecond)
		}
		if most := 1 + 60/int(minRefresh/time.Second) + 1; o.asked > most {
			t.Errorf("%d fetches in a minute, want at most %d", o.asked, most)
		}
		before := o.asked
		time.Sleep(minRefresh)
		find(k, "one")
		time.Sleep(minRefresh)
		find(k, "one")
		if o.asked != before+1 {
			t.Errorf("%d fetches for one unknown id within a minute, want 1", o.asked-before)
		}
	})
}

func TestTheLastGoodKeysStayWhileTheirSourceFails(t *testing.T) {
	remote(t, func(t *testing.T, o *origin, k *Keys, ed, ec *SigningKey) {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		good := o.set
		for _, fault := range []*origin{{err: errors.New("away")}, {set: []byte("<html>")}, {set: []byte(`{"keys":[]}`)}} {
			o.mu.Lock()
			o.set, o.err = fault.set, fault.err
			o.mu.Unlock()
			time.Sleep(24 * time.Hour)
			if got := find(k, ed.ID()); got != "" {
				t.Errorf("%+v: %q", fault, got)
			}
		}
		o.mu.Lock()
		o.err = nil
		o.set, _ = ec.AddTo(nil)
		o.mu.Unlock()
		time.Sleep(urlRefresh * 2)
		if find(k, ed.ID()) != UnknownKey || find(k, ec.ID()) != "" {
			t.Error("a key that was taken out is believed, or a new one is not")
		}
		if o.asked > 3*24*6+100 {
			t.Errorf("%d fetches in three days", o.asked)
		}
		_ = good
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAHubWaitsForKeysThatAreNotThereYet(t *testing.T) {
	ed := mustKey(t, EdDSA)
	set, _ := ed.AddTo(nil)
	bubble.Test(t, func(t *testing.T) {
		o := &origin{err: errors.New("away")}
		k, err := OpenKeys(t.Context(), "https://issuer.example.org/keys", KeysOptions{Fetch: o.fetch})
		if err != nil {
			t.Fatal(err)
		}
		if got := find(k, ed.ID()); got != Unavailable {
			t.Errorf("got %q, want %q", got, Unavailable)
		}
		o.set, o.err = set, nil
		time.Sleep(minRefresh)
		if got := find(k, ed.ID()); got != "" {
			t.Errorf("got %q when they are there", got)
		}
	})
}

func TestASlowSourceHoldsUpOnlyWhoNeedsIt(t *testing.T) {
	remote(t, func(t *testing.T, o *origin, k *Keys, ed, _ *SigningKey) {
		o.blocks = time.Hour
		time.Sleep(minRefresh)
		began := time.Now()
		waits := make(chan time.Duration)
		go func() {
			find(k, "unknown")
			waits <- time.Since(began)
		}()
		synctest.Wait()
		if find(k, ed.ID()) != "" || time.Since(began) != 0 {
			t.Error("who has a known key waits")
		}
		if took := <-waits; took != fetchTime {
			t.Errorf("who has none waits %s, want %s", took, fetchTime)
		}
	})
}

func TestAKeyFileIsReadAgainWhenItChanges(t *testing.T) {
	ed, ec := mustKey(t, EdDSA), mustKey(t, ES256)
	set, _ := ed.AddTo(nil)
	name := filepath.Join(t.TempDir(), "keys.json")
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(set)
	bubble.Test(t, func(t *testing.T) {
		k, err := OpenKeys(t.Context(), name, KeysOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go k.Run(ctx)
		both, _ := ec.AddTo(set)
		write(both)
		time.Sleep(2 * fileLook)
		if find(k, ec.ID()) != "" {
			t.Error("the new key is not known")
		}
		write([]byte("half a fi"))
		time.Sleep(2 * fileLook)
		if find(k, ec.ID()) != "" || find(k, ed.ID()) != "" {
			t.Error("keys went with a file that is broken")
		}
		alone, _ := ec.AddTo(nil)
		write(alone)
		time.Sleep(2 * fileLook)
		if find(k, ed.ID()) != UnknownKey {
			t.Error("a key that was taken out is still believed")
		}
	})
}

func TestAKeySourceThatCannotBeTrustedIsRefused(t *testing.T) {
	for _, source := range []string{"http://issuer.example.org/keys", "https://user:secret@issuer.example.org/keys", "https://", "/no/such/file"} {
		_, err := OpenKeys(t.Context(), source, KeysOptions{Fetch: (&origin{}).fetch})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", source, err)
		}
	}
}

func FuzzParseKeySet(f *testing.F) {
	set, _ := mustKey(f, EdDSA).AddTo(nil)
	both, _ := mustKey(f, ES256).AddTo(set)
	f.Add(string(both))
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"","y":""}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		set, err := ParseKeySet([]byte(s))
		if (err == nil) != (len(set) > 0) {
			t.Errorf("%d keys and %v", len(set), err)
		}
	})
}

// onlyPublic is a key whose private half nobody has.
type onlyPublic struct{ public crypto.PublicKey }

func (k onlyPublic) Public() crypto.PublicKey { return k.public }

func (onlyPublic) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("there is no private key")
}
