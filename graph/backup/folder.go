package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph"
)

var (
	// ErrExists reports a backup whose name is taken.
	ErrExists = errors.New("there is a backup of that name")
	// ErrBusy reports a folder in which a backup is being made or taken away.
	ErrBusy = errors.New("another backup is being made there")
	// ErrOtherDisk reports a folder that is not on the store's own file system. All
	// tables would be copied while writes wait.
	ErrOtherDisk = errors.New("the folder of backups is not on the file system of the store, so that nothing can be linked")
)

const (
	// partPrefix begins the name of what is not a backup yet, or no more.
	partPrefix = ".part-"
	lockName   = ".lock"
)

// A Folder holds backups. It may be used by several processes at once.
type Folder struct {
	FS  vfs.FS
	Dir string
}

// A Backup is one of a folder.
type Backup struct {
	Name string
	Manifest
	Added int64 // bytes that no earlier backup in the folder has; known when it is made
}

func (f Folder) path(elem ...string) string {
	return f.FS.PathJoin(append([]string{f.Dir}, elem...)...)
}

// lock keeps others from making backups here until release is called, and removes
// what an interrupted one left.
func (f Folder) lock() (release func() error, err error) {
	if err := makeDir(f.FS, f.Dir); err != nil {
		return nil, err
	}
	l, err := f.FS.Lock(f.path(lockName))
	if err != nil {
		return nil, fmt.Errorf("%s: %w (%w)", f.Dir, ErrBusy, err)
	}
	names, err := f.FS.List(f.Dir)
	for _, name := range names {
		if strings.HasPrefix(name, partPrefix) {
			err = errors.Join(err, f.FS.RemoveAll(f.path(name)))
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l.Close, nil
}

// List returns the backups of the folder, the oldest first. What is not whole is
// none. A folder that is not there has none.
func (f Folder) List() (list []Backup, err error) {
	if _, err := f.FS.Stat(f.Dir); err != nil {
		return nil, nil
	}
	names, err := f.FS.List(f.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if CheckName(name) != nil {
			continue
		}
		if m, err := readManifest(f.FS, f.path(name)); err == nil {
			list = append(list, Backup{Name: name, Manifest: m})
		}
	}
	slices.SortFunc(list, func(a, b Backup) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list, nil
}

// Create makes a backup of a store that runs, whose folder is store. Everything
// acknowledged before the call is in it. Name may be "", which chooses one. It is
// there, durable, when Create returns nil, and not at all otherwise.
func (f Folder) Create(ctx context.Context, s *graph.Store, store, name string, now time.Time) (b Backup, err error) {
	if name == "" {
		name = NameOf(now, s.Token())
	} else if err := CheckName(name); err != nil {
		return b, err
	}
	release, err := f.lock()
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := f.sameDisk(store); err != nil {
		return b, err
	}
	part, err := f.begin(name)
	if err != nil {
		return b, err
	}
	at, err := s.Checkpoint(f.FS.PathJoin(part, storeName))
	if err == nil {
		b = Backup{Name: name, Manifest: Manifest{Format: formatVersion, Position: at.String(), Created: now.UTC()}}
		if err = f.sum(ctx, part, at.Epoch, &b); err == nil {
			err = f.finish(part, &b)
		}
	}
	if err != nil {
		return Backup{}, errors.Join(err, f.FS.RemoveAll(part))
	}
	return b, nil
}

func (f Folder) sameDisk(store string) error {
	here, err1 := f.FS.Stat(f.Dir)
	there, err2 := f.FS.Stat(store)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if here.DeviceID() != there.DeviceID() {
		return ErrOtherDisk
	}
	return nil
}

// begin makes the folder in which a backup of that name is made.
func (f Folder) begin(name string) (part string, err error) {
	if _, err := f.FS.Stat(f.path(name)); err == nil {
		return "", fmt.Errorf("%s: %w", name, ErrExists)
	}
	part = f.path(partPrefix + name)
	return part, f.FS.MkdirAll(part, 0o755)
}

// finish writes the manifest and gives the backup its name.
func (f Folder) finish(part string, b *Backup) error {
	if err := writeManifest(f.FS, part, &b.Manifest); err != nil {
		return err
	}
	if err := f.FS.Rename(part, f.path(b.Name)); err != nil {
		return err
	}
	return syncDir(f.FS, f.Dir)
}

// sum lists the files of a checkpoint with their hashes. A table that an earlier
// backup of the same epoch has under the same number is the same: a store gives
// each number once.
func (f Folder) sum(ctx context.Context, part string, epoch graph.Epoch, b *Backup) error {
	earlier, err := f.List()
	if err != nil {
		return err
	}
	known := map[string]File{}
	for i := range earlier {
		if at, err := graph.ParseCursor(earlier[i].Position); err == nil && at.Epoch == epoch {
			for _, file := range earlier[i].Files {
				known[file.Name] = file
			}
		}
	}
	dir := f.FS.PathJoin(part, storeName)
	names, err := f.FS.List(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	w := newWork(ctx, f.FS, 0, nil)
	for _, name := range names {
		info, err := f.FS.Stat(f.FS.PathJoin(dir, name))
		if err != nil {
			return err
		}
		file := File{Name: name, Size: info.Size()}
		if old, ok := known[name]; ok && isTable(name) && old.Size == file.Size {
			file.SHA256 = old.SHA256
		} else {
			if file.Size, file.SHA256, err = w.read(f.FS.PathJoin(dir, name)); err != nil {
				return err
			}
			b.Added += file.Size
		}
		b.Files = append(b.Files, file)
	}
	return nil
}

// Copy takes a backup of another folder into this one, which may be on another file
// system, and checks each byte that it copies. Tables that this folder has already,
// by name, size and hash, are linked; with verify they are read again as well. A
// backup that is here is left as it is.
func (f Folder) Copy(ctx context.Context, from Folder, name string, verify bool, tell Progress) (b Backup, err error) {
	if err := CheckName(name); err != nil {
		return b, err
	}
	m, err := readManifest(from.FS, from.path(name))
	if err != nil {
		return b, err
	}
	b = Backup{Name: name, Manifest: m}
	release, err := f.lock()
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if have, err := readManifest(f.FS, f.path(name)); err == nil && slices.Equal(have.Files, m.Files) {
		if verify {
			return b, Verify(ctx, f.FS, f.path(name), tell)
		}
		return b, nil
	}
	part, err := f.begin(name)
	if err != nil {
		return b, err
	}
	if err = f.fill(ctx, part, from.path(name), &b, verify, tell); err == nil {
		err = f.finish(part, &b)
	}
	if err != nil {
		return Backup{}, errors.Join(err, f.FS.RemoveAll(part))
	}
	return b, nil
}

// fill copies or links the files of a backup into part.
func (f Folder) fill(ctx context.Context, part, from string, b *Backup, verify bool, tell Progress) error {
	have, err := f.List()
	if err != nil {
		return err
	}
	known := map[File]string{}
	for i := range have {
		for _, file := range have[i].Files {
			known[file] = f.path(have[i].Name, storeName, file.Name)
		}
	}
	dir := f.FS.PathJoin(part, storeName)
	if err := f.FS.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	w := newWork(ctx, f.FS, b.Bytes(), tell)
	for _, file := range b.Files {
		to := f.FS.PathJoin(dir, file.Name)
		if old, ok := known[file]; ok && isTable(file.Name) && f.FS.Link(old, to) == nil {
			if !verify {
				w.passed(file.Size)
			} else if err := w.verify(part, file); err != nil {
				return err
			}
			continue
		}
		size, sum, err := w.copyFile(f.FS.PathJoin(from, storeName, file.Name), to)
		if err != nil {
			return err
		}
		if err := check(from, file, size, sum); err != nil {
			return err
		}
		b.Added += size
	}
	return syncDir(f.FS, dir)
}

// Prune removes the oldest backups until there are no more than keep.
func (f Folder) Prune(keep int) (removed []string, err error) {
	release, err := f.lock()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	list, err := f.List()
	if err != nil {
		return nil, err
	}
	for i := range max(0, len(list)-max(keep, 1)) {
		// Renamed first: what is half removed is no backup any more.
		part := f.path(partPrefix + list[i].Name)
		if err := errors.Join(f.FS.Rename(f.path(list[i].Name), part), syncDir(f.FS, f.Dir), f.FS.RemoveAll(part)); err != nil {
			return removed, err
		}
		removed = append(removed, list[i].Name)
	}
	return removed, nil
}
