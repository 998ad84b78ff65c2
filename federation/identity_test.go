package federation

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

const (
	hubA = "https://a.example"
	hubB = "https://b.example"
)

// testKey is a private key that is the same on every run.
func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), ed25519.SeedSize)))
}

func openIdentity(t testing.TB, disk vfs.FS, hub string) *Identity {
	t.Helper()
	i, err := OpenIdentity(disk, "data/keys", hub)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// newDisk returns a disk in memory with a folder of data.
func newDisk(t testing.TB) *vfs.MemFS {
	t.Helper()
	disk := vfs.NewMem()
	if err := disk.MkdirAll("data", 0o755); err != nil {
		t.Fatal(err)
	}
	return disk
}

func writeFile(t testing.TB, disk vfs.FS, name string, content []byte) {
	t.Helper()
	err := disk.MkdirAll(disk.PathDir(name), 0o755)
	if err == nil {
		var f vfs.File
		if f, err = disk.Create(name, diskCategory); err == nil {
			_, err = f.Write(append([]byte(nil), content...)) // which may change what it is given
			err = errors.Join(err, f.Sync(), f.Close())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAHubKeepsItsKeyInAFileForItselfAlone(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "keys")
	made, err := OpenIdentity(vfs.Default, folder, hubA)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{folder: os.ModeDir | 0o700, filepath.Join(folder, "federation.pem"): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v; want the key alone", entries, err)
	}
	again, err := OpenIdentity(vfs.Default, folder, hubA)
	if err != nil {
		t.Fatal(err)
	}
	if again.Hub() != hubA || !again.private.Equal(made.private) || again.Key().ID != made.Key().ID || again.JWK() != made.JWK() {
		t.Errorf("got %v again, want %v", again.Key(), made.Key())
	}
	other, err := OpenIdentity(vfs.Default, t.TempDir(), hubA)
	if err != nil || other.private.Equal(made.private) {
		t.Errorf("another hub has the same key, %v", err)
	}
}

func TestAKeyThatWasUsedOutlivesACrash(t *testing.T) {
	disk := vfs.NewCrashableMem()
	err := disk.MkdirAll("data", 0o755)
	if err == nil {
		var root vfs.File
		if root, err = disk.OpenDir("."); err == nil {
			err = errors.Join(root.Sync(), root.Close())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	made := openIdentity(t, disk, hubA)
	after := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
	if again := openIdentity(t, after, hubA); !again.private.Equal(made.private) {
		t.Error("another key was made after the crash")
	}
}

func TestADiskThatFailsLeavesNoHalfKeyUnderItsName(t *testing.T) {
	faults := 0
	for at := 0; ; at++ {
		disk := newDisk(t)
		seen := 0
		_, err := OpenIdentity(errorfs.Wrap(disk, errorfs.InjectorFunc(func(errorfs.Op) error {
			if seen++; seen == at+1 {
				return errorfs.ErrInjected
			}
			return nil
		})), "data/keys", hubA)
		if seen <= at { // nothing was left to fail
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		faults++
		if !errors.Is(err, errorfs.ErrInjected) || !strings.Contains(err.Error(), "federation.pem") {
			t.Errorf("operation %d failed and the error is %v", at, err)
		}
		openIdentity(t, disk, hubA)
	}
	if faults < 8 {
		t.Errorf("%d operations failed; want each of the writing", faults)
	}
}

func TestAFileThatHoldsNoKeyOfAHubIsNamedAndLeftAlone(t *testing.T) {
	good, err := x509.MarshalPKCS8PrivateKey(testKey(0))
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	whole := encode("PRIVATE KEY", good)
	for _, c := range []struct{ name, content, want string }{
		{"an empty file", "", "not a PRIVATE KEY in PEM"},
		{"words", "the key is in the safe", "not a PRIVATE KEY in PEM"},
		{"a key that was cut", whole[:len(whole)/2], "not a PRIVATE KEY in PEM"},
		{"a public key", encode("PUBLIC KEY", good), "not a PRIVATE KEY in PEM"},
		{"a key of P-256", encode("PRIVATE KEY", foreign), "not a key of Ed25519"},
		{"a key with a damaged byte", encode("PRIVATE KEY", append([]byte{0x31}, good[1:]...)), "not a private key of PKCS #8"},
		{"a seed that is too short", encode("PRIVATE KEY", good[:len(good)-1]), "not a private key of PKCS #8"},
		{"two keys", whole + whole, "something follows the key"},
		{"a file that is far too long", whole + strings.Repeat("\n", maxKeyFile), "more than 16384 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := newDisk(t)
			writeFile(t, disk, "data/keys/federation.pem", []byte(c.content))
			_, err := OpenIdentity(disk, "data/keys", hubA)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "data/keys/federation.pem") {
				t.Fatalf("got %v, want %q and the file", err, c.want)
			}
			if body := strings.TrimPrefix(c.content, "-----BEGIN PRIVATE KEY-----\n"); len(body) > 40 && strings.Contains(err.Error(), body[:20]) {
				t.Errorf("the error shows the file: %v", err)
			}
			f, err := disk.Open("data/keys/federation.pem")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if info, err := f.Stat(); err != nil || info.Size() != int64(len(c.content)) {
				t.Errorf("the file was written to: %v, %v", info, err)
			}
		})
	}
	disk := newDisk(t)
	writeFile(t, disk, "data/keys/federation.pem", []byte("Made on paper.\n"+whole+"\n"))
	if i := openIdentity(t, disk, hubA); !i.private.Equal(testKey(0)) {
		t.Error("a key with words before it and an empty line after it is not read")
	}
}

func TestAHubIsNamedByAnOriginAlone(t *testing.T) {
	for _, url := range []string{"https://a.example", "http://localhost:8080", "http://127.0.0.1:1", "https://[2001:db8::1]:8443", "https://xn--bcher-kva.example"} {
		if err := CheckHub(url); err != nil {
			t.Error(err)
		}
	}
	disk := newDisk(t)
	for _, url := range []string{"", "https", "https:", "https://", "https:///", "a.example", "//a.example", "ftp://a.example", "urn:isbn:1", "ticker://a.example",
		"https://a.example/", "https://a.example/hub", "https://a.example?x=1", "https://a.example#x", "https://A.example", "https://a.example:443",
		"https://a.example:0", "https://u@a.example", "https://u:p@a.example", "https://a.example.", "https://a..example", "https://a b.example",
		"https://a.example\n", "https://a.example%2F", "https://bücher.example", "HTTPS://a.example", "https://a.example:", "https://[::ffff:1.2.3.4", "https://*.a.example",
		"https://" + strings.Repeat("a", 254)} {
		if err := CheckHub(url); err == nil {
			t.Errorf("%q names a hub", url)
		}
		if _, err := OpenIdentity(disk, "data/keys", url); err == nil {
			t.Errorf("%q has an identity", url)
		}
	}
	if names, err := disk.List("data"); err != nil || len(names) != 0 {
		t.Errorf("a key was made for no hub: %v, %v", names, err)
	}
}

func TestFingerprintsAreComparedInTheFormTheyAreShown(t *testing.T) {
	k := NewKey(testKey(0).Public().(ed25519.PublicKey))
	f := k.Fingerprint()
	// openssl pkey -pubout -outform DER | tail -c 32 | sha256sum, and in base64.
	const want = "SHA256:o8dh5W1V9F4Goxw8fjL3nPukF9Pi4jl3Z+9aRT81/+c"
	if f.String() != want || k.ID != "a3c761e56d55f45e" {
		t.Errorf("got %s and %s, want %s", f, k.ID, want)
	}
	if k.JWK().Kid != k.ID || k.JWK().Kty != "OKP" || k.JWK().Crv != "Ed25519" {
		t.Errorf("got %+v", k.JWK())
	}
	read, err := ParseFingerprint(f.String())
	if err != nil || !read.Equal(f) {
		t.Errorf("got %s, %v; want %s", read, err, f)
	}
	if other := NewKey(testKey(1).Public().(ed25519.PublicKey)).Fingerprint(); other.Equal(f) || (Fingerprint{}).Equal(f) {
		t.Error("two keys have one fingerprint")
	}
	body := strings.TrimPrefix(want, "SHA256:")
	for _, s := range []string{"", "SHA256:", body, "sha256:" + body, "MD5:" + body, want + "=", want[:len(want)-1], want + "A", want + "\n",
		"SHA256:" + body[:20] + "\n" + body[20:], " " + want, want[:len(want)-1] + "_", loosen(want)} {
		if f, err := ParseFingerprint(s); err == nil {
			t.Errorf("%q is read as %s", s, f)
		}
	}
}

// loosen sets the bits at the end of base64 that stand for nothing.
func loosen(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	i := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + alphabet[i+1:i+2]
}
