package hub

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph/backup"
)

// maxKept bounds how many backups are asked to be kept.
const maxKept = 10_000

// backups is the folder in which a hub makes its backups.
func (c *Config) backups() backup.Folder {
	if c.BackupDir != "" {
		return backup.Folder{FS: vfs.Default, Dir: c.BackupDir}
	}
	return backup.Folder{FS: vfs.Default, Dir: filepath.Join(c.Data, "backups")}
}

// store is the folder of a hub's store.
func (c *Config) store() string { return filepath.Join(c.Data, "store") }

// backupShape is a backup as it is shown. Where it lies is the operator's to know.
type backupShape struct {
	Name     string    `json:"name"`
	Epoch    string    `json:"epoch"`
	Position string    `json:"position"`
	Created  time.Time `json:"created"`
	Bytes    int64     `json:"bytes"`
	Added    *int64    `json:"added,omitempty"`
}

func shapeBackup(b *backup.Backup) backupShape {
	info := infoOf(b)
	return backupShape{Name: b.Name, Epoch: info.Epoch(), Position: b.Position, Created: b.Created.UTC(), Bytes: info.Bytes}
}

// getBackups lists the backups, the oldest first.
func (h *Hub) getBackups(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	list, err := h.cfg.backups().List()
	if err != nil {
		return err
	}
	out := struct {
		Backups []backupShape `json:"backups"`
	}{make([]backupShape, len(list))}
	for i := range list {
		out.Backups[i] = shapeBackup(&list[i])
	}
	return writeJSON(w, out)
}

// postBackup makes a backup in the operator's folder. Whoever asks may choose the
// last element of its path, and that from a few characters.
func (h *Hub) postBackup(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	name, keep := "", 0
	err := h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		if len(bytes.TrimSpace(body)) == 0 {
			return nil
		}
		return readObject(body, func(s *scanner, field string) (err error) {
			switch field {
			case "name":
				var text []byte
				if text, err = s.text(); err == nil {
					name = string(text)
					err = backup.CheckName(name)
				}
			case "keep":
				keep, err = s.integer(maxKept)
			default:
				err = errNoMember
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	// It takes as long as the tables that are new take to be read once.
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Time{})
	control.SetWriteDeadline(time.Time{})
	folder := h.cfg.backups()
	b, err := folder.Create(r.Context(), h.store, h.cfg.store(), name, h.clock.Now())
	if err != nil {
		return backupError(err)
	}
	h.log.Info("backup made", "name", b.Name, "position", b.Position, "bytes", b.Bytes(), "added", b.Added)
	if keep > 0 {
		if _, err := folder.Prune(keep); err != nil {
			return backupError(err)
		}
	}
	out := shapeBackup(&b)
	out.Added = &b.Added
	return writeJSONStatus(w, http.StatusCreated, out)
}

// backupError tells what the client can mend, without a path.
func backupError(err error) error {
	for _, known := range []error{backup.ErrExists, backup.ErrBusy, backup.ErrOtherDisk} {
		if errors.Is(err, known) {
			return refuse(backupRefused, "", "%v", known)
		}
	}
	return err
}

type (
	// BackupProgress is told how many bytes of how many are done.
	BackupProgress = backup.Progress
	// Restored tells what a restore made.
	Restored = backup.Restored
)

// BackupInfo is a backup in a folder.
type BackupInfo struct {
	Name     string
	Position string // cursor of the newest notice in it
	Created  time.Time
	Bytes    int64
	Added    int64 // bytes that had to be copied; known when it is made
}

// Epoch is that of the store it was made of.
func (b *BackupInfo) Epoch() string {
	epoch, _, _ := strings.Cut(b.Position, ".")
	return epoch
}

func infoOf(b *backup.Backup) BackupInfo {
	return BackupInfo{b.Name, b.Position, b.Created, b.Bytes(), b.Added}
}

// Backups lists the backups in a folder, the oldest first.
func Backups(dir string) ([]BackupInfo, error) {
	list, err := backup.Folder{FS: vfs.Default, Dir: dir}.List()
	out := make([]BackupInfo, len(list))
	for i := range list {
		out[i] = infoOf(&list[i])
	}
	return out, err
}

// CopyBackup takes a backup that the hub of cfg has made to another folder, which
// may be on another file system, and there keeps the newest keep of them, all if it
// is 0. With verify what is there already and only linked is read again as well. It
// is there, whole and durable, when CopyBackup returns nil.
func CopyBackup(ctx context.Context, cfg Config, name, to string, keep int, verify bool, progress BackupProgress) (BackupInfo, error) {
	folder := backup.Folder{FS: vfs.Default, Dir: to}
	b, err := folder.Copy(ctx, cfg.backups(), name, verify, progress)
	if err != nil {
		return BackupInfo{}, err
	}
	if keep > 0 {
		if _, err := folder.Prune(keep); err != nil {
			return BackupInfo{}, err
		}
	}
	return infoOf(&b), nil
}

// Restore makes the store of the hub that cfg describes, which does not run and has
// none, of the backup in the folder from. See [backup.Restore].
func Restore(ctx context.Context, cfg Config, log *slog.Logger, from string, link bool, progress BackupProgress) (Restored, error) {
	if err := cfg.Check(); err != nil {
		return Restored{}, err
	}
	h := &Hub{cfg: cfg, clock: newClock(cfg, thisMachine.now)}
	return backup.Restore(ctx, vfs.Default, filepath.Clean(from), cfg.store(),
		backup.RestoreOptions{Link: link, Store: h.storeOptions(log), Progress: progress})
}
