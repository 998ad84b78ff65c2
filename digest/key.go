package digest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// keyPrefix begins the names of the files that hold keys of digests.
	keyPrefix = "digest-"
	// headerFrom is the header of a key's PEM block that says when it begins to sign.
	headerFrom = "Signs-From"
	// maxKeys bounds the keys of a hub: all of them stand in each manifest.
	maxKeys = 32
)

// A signer is a key of the hub: it signs manifests if it has its private half.
type signer struct {
	Key
	from    time.Time
	private ed25519.PrivateKey // nil if only its public half was kept
}

// A keyring is the keys that a hub has signed with, or will, by when they begin.
type keyring []signer

// RotateKey makes a new key in a folder of keys, which begins to sign at a time. Until
// then the manifests, signed by the key before, announce it: whoever reads one of them
// trusts it. The old key's file stays, or is replaced by its public half (PEM, "PUBLIC
// KEY"), as long as digests are kept that it has signed.
func RotateKey(fs vfs.FS, folder string, from time.Time) (Key, error) {
	d := disk{fs}
	if err := errors.Join(d.MkdirAll(folder, 0o700), d.flush(path.Dir(folder))); err != nil {
		return Key{}, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return Key{}, err
	}
	k := Key{ID: keyID(public), Alg: "ed25519", Public: public}
	block := &pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{headerFrom: from.UTC().Format(time.RFC3339)}, Bytes: der}
	return k, d.write(path.Join(folder, keyPrefix+k.ID+".pem"), pem.EncodeToMemory(block))
}

// keyID names a key: the beginning of the hash of its public half.
func keyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// openKeys reads the keys in a folder, and makes one if there is none.
func openKeys(d disk, folder string, now time.Time) (keyring, error) {
	ring, err := readKeys(d, folder)
	if err != nil || slices.ContainsFunc(ring, func(s signer) bool { return s.private != nil }) {
		return ring, err
	}
	if _, err := RotateKey(d.FS, folder, now); err != nil {
		return nil, err
	}
	return readKeys(d, folder)
}

func readKeys(d disk, folder string) (ring keyring, err error) {
	names, err := d.List(folder)
	if err != nil {
		return nil, nil // there is none yet
	}
	for _, name := range names {
		if !strings.HasPrefix(name, keyPrefix) || !strings.HasSuffix(name, ".pem") {
			continue
		}
		b, err := d.read(path.Join(folder, name))
		if err != nil {
			return nil, err
		}
		s, err := readKey(b)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
		ring = append(ring, s)
	}
	if len(ring) > maxKeys {
		return nil, fmt.Errorf("there are %d keys in %s; at most %d stand in a manifest: remove those that signed nothing that is kept", len(ring), folder, maxKeys)
	}
	slices.SortFunc(ring, func(a, b signer) int {
		if c := a.from.Compare(b.from); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return ring, nil
}

func readKey(b []byte) (s signer, err error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return s, errors.New("it is not PEM")
	}
	if text := block.Headers[headerFrom]; text != "" {
		if s.from, err = time.Parse(time.RFC3339, text); err != nil {
			return s, err
		}
	}
	var k any
	if block.Type == "PUBLIC KEY" {
		k, err = x509.ParsePKIXPublicKey(block.Bytes)
	} else {
		k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return s, err
	}
	public, ok := k.(ed25519.PublicKey)
	if private, is := k.(ed25519.PrivateKey); is {
		s.private, public, ok = private, private.Public().(ed25519.PublicKey), true
	}
	if !ok {
		return s, errors.New("it is not a key of Ed25519")
	}
	s.Key = Key{ID: keyID(public), Alg: "ed25519", Public: public}
	return s, nil
}

// signs returns the key that signs at a time: the newest that has begun.
func (ring keyring) signs(at time.Time) (signer, error) {
	for i, s := range slices.Backward(ring) {
		if s.private != nil && (!s.from.After(at) || i == 0) {
			return s, nil
		}
	}
	// None has begun: the clock went back, or the files of the older ones are gone.
	for _, s := range ring {
		if s.private != nil {
			return s, nil
		}
	}
	return signer{}, errors.New("there is no key to sign digests with")
}

// named returns a key that can sign.
func (ring keyring) named(id string) (signer, bool) {
	i := slices.IndexFunc(ring, func(s signer) bool { return s.ID == id && s.private != nil })
	if i < 0 {
		return signer{}, false
	}
	return ring[i], true
}

// public are the public halves of all.
func (ring keyring) public() (list []Key) {
	for _, s := range ring {
		list = append(list, s.Key)
	}
	return list
}

// sign returns the signature of a manifest as it stands in a file.
func (s signer) sign(manifest []byte) []byte {
	var b bytes.Buffer
	b.WriteString(base64.StdEncoding.EncodeToString(ed25519.Sign(s.private, manifest)))
	b.WriteByte('\n')
	return b.Bytes()
}
