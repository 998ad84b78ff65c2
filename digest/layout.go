package digest

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Files and folders of a channel.
const (
	planFile     = "plan.json"
	stateFile    = "state.json"
	accessFile   = "access.json"
	manifestFile = "manifest.json"
	sigSuffix    = ".sig"
	frontFolder  = "front"    // the mutable documents, in a folder for each hour that they are of
	removed      = ".removed" // beside the channels: what was theirs who are no more
	building     = ".making"  // how the name of a folder begins that is not whole yet
)

// start returns when the period that t lies in begins, in UTC.
func (p Period) start(t time.Time) time.Time {
	t = t.UTC()
	switch p {
	case Hour:
		return t.Truncate(time.Hour)
	case Week:
		monday := t.AddDate(0, 0, -(int(t.Weekday())+6)%7)
		return time.Date(monday.Year(), monday.Month(), monday.Day(), 0, 0, 0, 0, time.UTC)
	}
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}

// end returns when the period that begins at t ends.
func (p Period) end(t time.Time) time.Time {
	switch p {
	case Hour:
		return t.Add(time.Hour)
	case Week:
		return t.AddDate(0, 0, 7)
	}
	return t.AddDate(0, 0, 1)
}

// Folder is where the digest lies that begins at t, below the channel's.
func (p Period) Folder(t time.Time) string {
	switch p {
	case Hour:
		return t.UTC().Format("h/2006/01/02/15/")
	case Week:
		year, week := t.UTC().ISOWeek()
		return fmt.Sprintf("w/%04d-W%02d/", year, week)
	}
	return t.UTC().Format("d/2006/01/02/")
}

var digestPath = regexp.MustCompile(`^(?:h/([0-9]{4}/[0-9]{2}/[0-9]{2}/[0-9]{2})|d/([0-9]{4}/[0-9]{2}/[0-9]{2})|w/([0-9]{4})-W([0-9]{2}))/([a-z0-9.-]+)$`)

// parsePath reads the path of a file of a digest, below the channel's folder.
func parsePath(p string) (period Period, from time.Time, name string, ok bool) {
	m := digestPath.FindStringSubmatch(p)
	if m == nil {
		return "", from, "", false
	}
	var err error
	switch {
	case m[1] != "":
		period = Hour
		from, err = time.Parse("2006/01/02/15", m[1])
	case m[2] != "":
		period = Day
		from, err = time.Parse("2006/01/02", m[2])
	default:
		period = Week
		year, _ := strconv.Atoi(m[3]) // of digits alone
		week, _ := strconv.Atoi(m[4])
		// The fourth of January lies in the first week of its year.
		from = Week.start(time.Date(year, 1, 4, 0, 0, 0, 0, time.UTC)).AddDate(0, 0, 7*(week-1))
	}
	return period, from, m[5], err == nil && strings.HasPrefix(p, period.Folder(from))
}

// relative is the address of a file as seen from a folder, both below the channel's.
func relative(folder, file string) string {
	from, to := strings.Split(strings.Trim(folder, "/"), "/"), strings.Split(file, "/")
	for len(from) > 0 && len(to) > 1 && from[0] == to[0] {
		from, to = from[1:], to[1:]
	}
	return strings.Repeat("../", len(from)) + strings.Join(to, "/")
}

// A disk is where the archive lies, with what makes its writes outlive a crash.
type disk struct{ vfs.FS }

const diskCategory = vfs.DiskWriteCategory("digest")

// write makes a file of b, or replaces it whole, durably.
func (d disk) write(name string, b []byte) error {
	temporary := path.Join(path.Dir(name), building+"-"+path.Base(name))
	f, err := d.Create(temporary, diskCategory)
	if err != nil {
		return err
	}
	// Write may change what it is given.
	if _, err = f.Write(append([]byte(nil), b...)); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return d.rename(temporary, name)
}

// rename moves a file or a folder that is durable itself, durably.
func (d disk) rename(from, to string) error {
	if err := d.Rename(from, to); err != nil {
		return err
	}
	return d.flush(path.Dir(to))
}

// flush makes durable which files a folder has.
func (d disk) flush(folder string) error {
	f, err := d.OpenDir(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// makeFolder makes a folder and those above it, durably, below one that is there.
func (d disk) makeFolder(root, below string) error {
	at := root
	for part := range strings.SplitSeq(strings.Trim(below, "/"), "/") {
		above := at
		at = path.Join(at, part)
		// Also if it is there: who made it may have been killed before it was durable.
		if err := d.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := d.flush(above); err != nil {
			return err
		}
	}
	return nil
}

func (d disk) exists(name string) bool {
	_, err := d.Stat(name)
	return err == nil
}

// read returns the whole of a file.
func (d disk) read(name string) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, info.Size())
	if len(b) == 0 {
		return b, nil
	}
	_, err = f.ReadAt(b, 0)
	return b, err
}

// sweep removes what lies before a path below a folder, where names sort by time. What
// is removed goes first from readers' sight.
func (d disk) sweep(folder, keep string) error {
	first, rest, deeper := strings.Cut(strings.Trim(keep, "/"), "/")
	names, err := d.List(folder)
	if err != nil {
		return nil // there is none yet
	}
	for _, name := range names {
		switch {
		case name < first:
			err = errors.Join(err, d.RemoveAll(path.Join(folder, name)))
		case name == first && deeper:
			err = errors.Join(err, d.sweep(path.Join(folder, name), rest))
		}
	}
	return err
}
