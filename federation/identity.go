package federation

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/freshwire/freshwire/graph"
)

const (
	// keyFile is the file of a hub's key towards its peers, in the folder of keys.
	keyFile = "federation.pem"
	// maxKeyFile bounds that file in bytes: a key has 119, and who wrote it with
	// openssl may have put words before it.
	maxKeyFile = 16 << 10
	// pemType is what PKCS #8 is called in PEM.
	pemType = "PRIVATE KEY"
	// diskCategory is what the store's figures of writes call those of this room.
	diskCategory = vfs.DiskWriteCategory("federation")
	// fingerprintPrefix names the hash of a fingerprint.
	fingerprintPrefix = "SHA256:"
)

// An Identity is a hub as its peers know it: its public URL and its private key. It
// is safe for concurrent use.
type Identity struct {
	hub     string
	key     Key
	private ed25519.PrivateKey
	tokens  *lru.Cache[string, issued] // by audience
}

// OpenIdentity reads the key of the hub with that public URL from a folder of keys,
// and makes one, durably, if there is none. A file that is there and holds no such key
// is an error that names it: a new key in its place would lose the trust of all peers.
// A nil disk is the machine's.
func OpenIdentity(disk vfs.FS, folder, hub string) (*Identity, error) {
	if err := CheckHub(hub); err != nil {
		return nil, err
	}
	if disk == nil {
		disk = vfs.Default
	}
	name := disk.PathJoin(folder, keyFile)
	private, err := readKey(disk, name)
	if errors.Is(err, fs.ErrNotExist) {
		private, err = makeKey(disk, folder, name)
	}
	if err != nil {
		return nil, fmt.Errorf("key of the hub towards its peers, %s: %w", name, err)
	}
	tokens, err := lru.New[string, issued](cachedTokens)
	if err != nil {
		return nil, err
	}
	return &Identity{hub: hub, key: NewKey(private.Public().(ed25519.PublicKey)), private: private, tokens: tokens}, nil
}

// Hub returns the hub's public URL.
func (i *Identity) Hub() string { return i.hub }

// Key returns the public half of the hub's key.
func (i *Identity) Key() Key { return i.key }

// JWK returns the public half of the hub's key as it stands in a document.
func (i *Identity) JWK() JWK { return i.key.JWK() }

// CheckHub returns nil if url can name a hub: the canonical http or https URL of a
// host, with a port or without, and nothing after it. A hub has an origin of its own,
// since its document stands at one place of each.
func CheckHub(url string) error {
	scheme, host, _ := strings.Cut(url, "://")
	if scheme != "https" && scheme != "http" || host == "" {
		return fmt.Errorf("hub %.200q is not of the form https://HOST", url)
	}
	if host != graph.Host(url) {
		return fmt.Errorf("hub %.200q is not of the form https://HOST; nothing follows the host, not even a slash", url)
	}
	if err := graph.CheckURI(url + "/"); err != nil {
		return fmt.Errorf("hub %.200q is not of the form https://HOST: %w", url, err)
	}
	return nil
}

// readKey reads a private key. Its error shows nothing of what is in the file.
func readKey(disk vfs.FS, name string) (ed25519.PrivateKey, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxKeyFile)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("it is not a %s in PEM", pemType)
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("something follows the key")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it is not a private key of PKCS #8")
	}
	private, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("it is not a key of Ed25519")
	}
	return private, nil
}

// makeKey makes a private key and writes it to a file. What is under the file's name
// is the whole of it, also if the machine fails at any moment.
func makeKey(disk vfs.FS, folder, name string) (ed25519.PrivateKey, error) {
	if err := errors.Join(disk.MkdirAll(folder, 0o700), flush(disk, disk.PathDir(folder))); err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	temporary := name + ".making"
	f, err := disk.Create(temporary, diskCategory)
	if err != nil {
		return nil, err
	}
	// The file system of the store knows no modes of files; files of the machine do.
	if m, ok := f.(interface{ Chmod(fs.FileMode) error }); ok {
		err = m.Chmod(0o600)
	}
	if err == nil {
		_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return private, errors.Join(disk.Rename(temporary, name), flush(disk, folder))
}

// flush makes durable which files a folder has.
func flush(disk vfs.FS, folder string) error {
	f, err := disk.OpenDir(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// A Key is the public key of a hub. Its ID is the beginning of the hash of its 32
// bytes, in hex.
type Key struct {
	ID     string
	Public ed25519.PublicKey
}

// NewKey returns a key with its ID.
func NewKey(public ed25519.PublicKey) Key {
	sum := sha256.Sum256(public)
	return Key{ID: hex.EncodeToString(sum[:8]), Public: public}
}

// Fingerprint returns the hash of the key, by which people compare keys.
func (k Key) Fingerprint() Fingerprint { return sha256.Sum256(k.Public) }

// A Fingerprint is the SHA-256 of the 32 bytes of a public key. It is written in the
// form that OpenSSH uses, though not of the same bytes: SHA256 and unpadded base64.
type Fingerprint [sha256.Size]byte

func (f Fingerprint) String() string {
	return fingerprintPrefix + base64.RawStdEncoding.EncodeToString(f[:])
}

// Equal reports whether two fingerprints are the same, in a time that does not tell
// where they differ.
func (f Fingerprint) Equal(other Fingerprint) bool {
	return subtle.ConstantTimeCompare(f[:], other[:]) == 1
}

// ParseFingerprint reads a fingerprint in the one form in which it is written.
func ParseFingerprint(s string) (f Fingerprint, err error) {
	text, ok := strings.CutPrefix(s, fingerprintPrefix)
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	// The decoder passes over line ends.
	if !ok || err != nil || len(b) != len(f) || strings.ContainsAny(text, "\r\n") {
		return f, fmt.Errorf("fingerprint %.100q is not %s and 43 characters of base64", s, fingerprintPrefix)
	}
	return Fingerprint(b), nil
}

// A JWK is a public key of Ed25519 as JSON.
// Source: RFC 7517 section 4, RFC 8037 section 2.
type JWK struct {
	Kty string `json:"kty"` // OKP
	Crv string `json:"crv"` // Ed25519
	X   string `json:"x"`   // the 32 bytes in base64url
	Kid string `json:"kid"`
	Alg string `json:"alg,omitempty"` // EdDSA
	Use string `json:"use,omitempty"` // sig
}

// JWK returns the key as JSON has it.
func (k Key) JWK() JWK {
	return JWK{Kty: "OKP", Crv: "Ed25519", X: base64.RawURLEncoding.EncodeToString(k.Public), Kid: k.ID, Alg: algorithm, Use: "sig"}
}

// Key returns the key, or what is wrong with it.
func (j JWK) Key() (Key, error) {
	public, err := base64.RawURLEncoding.Strict().DecodeString(j.X)
	switch {
	case j.Kty != "OKP" || j.Crv != "Ed25519":
		return Key{}, fmt.Errorf("%.40q is not a key of OKP Ed25519", j.Kty+" "+j.Crv)
	case err != nil || len(public) != ed25519.PublicKeySize || strings.ContainsAny(j.X, "\r\n"):
		return Key{}, fmt.Errorf("x is not %d bytes of base64url", ed25519.PublicKeySize)
	case j.Alg != "" && j.Alg != algorithm:
		return Key{}, fmt.Errorf("alg %.40q is not %s", j.Alg, algorithm)
	case j.Use != "" && j.Use != "sig":
		return Key{}, fmt.Errorf("use %.40q is not sig", j.Use)
	}
	k := NewKey(public)
	if j.Kid != k.ID {
		return Key{}, fmt.Errorf("kid %.40q is not %s, the beginning of the key's hash", j.Kid, k.ID)
	}
	return k, nil
}
