package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph"
)

const (
	manifestName = "backup.json"
	storeName    = "store"
	// formatVersion is the layout of a backup. A newer one is refused.
	formatVersion = 1
	// maxName bounds the name of a backup in bytes.
	maxName = 64
	// maxManifest bounds a manifest in bytes: 100 of each file, and a store of ten
	// billion edges has about 10,000.
	maxManifest = 64 << 20
)

// A Manifest says what a backup holds.
type Manifest struct {
	Format   int       `json:"format"`
	Position string    `json:"position"` // cursor: all notices up to it are there, and none after
	Created  time.Time `json:"created"`
	Files    []File    `json:"files"`
}

// A File is one file of the store in a backup.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Bytes is the size of all files.
func (m *Manifest) Bytes() (n int64) {
	for i := range m.Files {
		n += m.Files[i].Size
	}
	return n
}

// isTable reports whether a file never changes once it is written. The log, the
// list of tables and the markers are written on by who opens the store.
func isTable(name string) bool { return strings.HasSuffix(name, ".sst") }

// CheckName reports what is wrong with the name of a backup: it becomes that of a
// folder.
func CheckName(name string) error {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("a name has 1 to %d characters", maxName)
	case strings.Trim(name, first+".-") != "", !strings.Contains(first, name[:1]):
		return errors.New("a name has a-z, 0-9, dot and dash alone, and begins with a letter or digit")
	}
	return nil
}

// NameOf is the name of a backup that nobody gave one: when, and where in which epoch.
func NameOf(now time.Time, at graph.Cursor) string {
	return now.UTC().Format("20060102t150405z") + "-" + strings.ReplaceAll(at.String(), ".", "-")
}

// A CorruptError reports a backup that is not what was written.
type CorruptError struct {
	Dir    string
	File   string
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("backup %s is damaged: %s %s", e.Dir, e.File, e.Reason)
}

// ErrNone reports a folder that is no backup.
var ErrNone = errors.New("there is no backup: the folder has no " + manifestName)

// readManifest reads what the backup in dir says of itself.
func readManifest(fs vfs.FS, dir string) (m Manifest, err error) {
	f, err := fs.Open(fs.PathJoin(dir, manifestName))
	if err != nil {
		if _, statErr := fs.Stat(fs.PathJoin(dir, manifestName)); statErr != nil {
			return m, fmt.Errorf("%s: %w", dir, ErrNone)
		}
		return m, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return m, err
	}
	bad := func(reason string) (Manifest, error) { return Manifest{}, &CorruptError{dir, manifestName, reason} }
	if err := json.Unmarshal(text, &m); err != nil {
		return bad(err.Error())
	}
	if m.Format != formatVersion {
		return bad(fmt.Sprintf("has format %d, and this program knows %d", m.Format, formatVersion))
	}
	if _, err := graph.ParseCursor(m.Position); err != nil {
		return bad(err.Error())
	}
	for _, f := range m.Files {
		// A name is never more than one: it is joined to a folder that is written.
		if f.Name == "" || strings.Trim(f.Name, ".") == "" || strings.ContainsAny(f.Name, `/\:`) || f.Size < 0 || len(f.SHA256) != 64 {
			return bad(fmt.Sprintf("names the file %.80q", f.Name))
		}
	}
	return m, nil
}

// writeManifest writes it into dir, and returns when dir and all its names are on disk.
func writeManifest(fs vfs.FS, dir string, m *Manifest) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	f, err := fs.Create(fs.PathJoin(dir, manifestName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

// makeDir makes dir and what is missing above it, durably.
func makeDir(fs vfs.FS, dir string) error {
	above := []string{}
	for at := dir; ; at = fs.PathDir(at) {
		if _, err := fs.Stat(at); err == nil || fs.PathDir(at) == at {
			break
		}
		above = append(above, fs.PathDir(at))
	}
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, at := range above {
		if err := syncDir(fs, at); err != nil {
			return err
		}
	}
	return nil
}

// syncDir returns when the names in dir are on disk.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
