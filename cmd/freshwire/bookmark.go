package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A bookmark is how far a file was loaded into a hub. It is kept in the user's
// cache directory: losing it costs a second load, which changes nothing.
type bookmark struct {
	File     string    `json:"file"`
	Hub      string    `json:"hub"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Lines    int       `json:"lines"` // that are loaded
	Last     string    `json:"last"`  // URI of the last update among them

	path string // "" if it cannot be kept
}

// findBookmark returns the place where an earlier load of this very file into
// this hub stopped. A file that was changed since is another file.
func findBookmark(name, hub string, info os.FileInfo) (*bookmark, error) {
	full, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	fresh := &bookmark{File: full, Hub: hub, Size: info.Size(), Modified: info.ModTime().UTC()}
	cache, err := os.UserCacheDir()
	if err != nil {
		return fresh, nil // a user without a home: the load is not resumable
	}
	sum := sha256.Sum256([]byte(hub + "\n" + full))
	fresh.path = filepath.Join(cache, "freshwire", "load", fmt.Sprintf("%x.json", sum[:8]))
	b, err := os.ReadFile(fresh.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	} else if err != nil {
		return nil, err
	}
	old := *fresh
	if json.Unmarshal(b, &old) != nil || old.Size != fresh.Size || !old.Modified.Equal(fresh.Modified) {
		return fresh, nil
	}
	return &old, nil
}

// move records that the first lines lines are loaded; update is the last.
func (b *bookmark) move(lines int, update []byte) error {
	var u struct {
		URI string `json:"uri"`
	}
	if err := json.Unmarshal(update, &u); err != nil {
		return fmt.Errorf("line %d: %w", lines, err)
	}
	b.Lines, b.Last = lines, u.URI
	if b.path == "" {
		return nil
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return err
	}
	return replaceFile(b.path, text, 0o600)
}

// forget begins anew.
func (b *bookmark) forget() error {
	b.Lines, b.Last = 0, ""
	if b.path == "" {
		return nil
	}
	if err := os.Remove(b.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
