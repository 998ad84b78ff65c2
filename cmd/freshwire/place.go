package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// placeDelay is how far what is on disk may lag behind what was handled, unless
// it is asked for at once: one flush a second costs nothing.
const placeDelay = time.Second

// cursorLine is what a place's file holds. The form of a cursor is the hub's
// business; only what no hub gives is kept out.
var cursorLine = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,128}\n?$`)

// A place is how far notices were handled, kept in a file for the next run. It
// is one line, a cursor. A place without a file is kept nowhere.
type place struct {
	file string
	fail context.CancelCauseFunc // called when the file cannot be written

	mu     sync.Mutex
	cursor string      // up to which all is handled
	saved  string      // what the file holds
	held   bool        // nothing is saved before it is released
	timer  *time.Timer // nil unless a save is due
}

// openPlace reads where an earlier run stopped; its cursor is "" if there was none.
func openPlace(file string) (*place, error) {
	p := &place{file: file}
	if file == "" {
		return p, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	} else if err != nil {
		return nil, fmt.Errorf("--cursor: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return nil, fmt.Errorf("--cursor: %w", err)
	}
	if !cursorLine.Match(text) {
		return nil, fmt.Errorf("--cursor: %s holds %.40q and not one line with a cursor; it was not written by tail\n"+
			"  name another file, or remove it to begin anew", file, text)
	}
	p.cursor = strings.TrimSuffix(string(text), "\n")
	p.saved = p.cursor
	return p, nil
}

// move records that everything up to cursor is handled. The first place is saved
// at once, so that a file that cannot be written shows early, and a later one
// within placeDelay.
func (p *place) move(cursor string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cursor = cursor
	switch {
	case p.held || p.cursor == p.saved || p.file == "":
	case p.saved == "":
		p.saveOrFail()
	case p.timer == nil:
		p.timer = time.AfterFunc(placeDelay, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.timer = nil
			p.saveOrFail()
		})
	}
}

func (p *place) saveOrFail() {
	if err := p.write(); err != nil {
		p.fail(err)
	}
}

// save returns when the place is on disk.
func (p *place) save() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	return p.write()
}

// write needs the lock.
func (p *place) write() error {
	if p.file == "" || p.cursor == p.saved || p.held {
		return nil
	}
	if err := replaceFile(p.file, []byte(p.cursor+"\n"), 0o600); err != nil {
		return fmt.Errorf("--cursor: %w", err)
	}
	p.saved = p.cursor
	return nil
}

// release lets the place be saved that was held.
func (p *place) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = false
}

// replaceFile makes text the content of a file. It is written beside, flushed
// and renamed: an interruption leaves the old content, not half of the new one.
func replaceFile(name string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(name)); err == nil {
		_ = dir.Sync() // not every system can; then a power cut may bring the old content back
		dir.Close()
	}
	return nil
}
