package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/freshwire/freshwire/hub"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/spf13/cobra"
)

// hubData are the flags of a command that works on a hub's folder of data.
type hubData struct{ file, data string }

func (d *hubData) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.file, "config", "", "YAML file with the settings of the hub ("+hub.EnvFile+")")
	cmd.Flags().StringVar(&d.data, "data", "", "folder of the hub's data, as of freshwire serve")
}

// load returns the settings of the hub.
func (d *hubData) load(cmd *cobra.Command) (hub.Config, error) {
	given := map[string]string{}
	if cmd.Flags().Changed("data") {
		given["data"] = d.data
	}
	cfg, err := hub.LoadConfig(d.file, os.Environ(), given)
	if err != nil {
		err = usageError{err}
	}
	return cfg, err
}

// madeBackup is what is printed of a backup.
type madeBackup struct {
	Name     string    `json:"name"`
	Position string    `json:"position"`
	Created  time.Time `json:"created"`
	Bytes    int64     `json:"bytes"`
	Added    int64     `json:"added"`
	Copied   int64     `json:"copied,omitempty"` // to another folder
}

func (c *cli) backup() *cobra.Command {
	var at hubData
	var to string
	var keep int
	var verify bool
	cmd := &cobra.Command{
		Use:   "backup [NAME]",
		Short: "make a backup of a hub while it runs",
		Long: `Has a hub make a backup of its store in its own folder (backup-dir, by default "backups"
among its data), while it serves. Everything acknowledged before is in it. Tables that
did not change are shared with the store and with earlier backups, so that it costs
little room at first, and more as the store replaces them.

With --to it is copied to another folder as well, on another disk: what an earlier
backup has there is not copied again, and each byte that is copied is checked. The
command then has to run where the hub's data are.

An incomplete backup never has a name. "freshwire restore" makes a store of one.`,
		Example: `  freshwire backup                                       # by the hub, under a name with the time
  freshwire backup nightly-7 --keep 7                    # the newest seven are kept
  freshwire backup --to /mnt/backups --keep 30 --data /var/lib/freshwire
  freshwire backup ls`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			cfg, err := at.load(cmd)
			if err != nil {
				return err
			}
			if keep < 0 {
				return usagef("--keep: below 0")
			}
			if verify && to == "" {
				return usagef("--verify: it is for --to")
			}
			return c.makeBackup(cmd.Context(), cfg, append(list, "")[0], to, keep, verify)
		},
	}
	at.flags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&to, "to", "", "folder, on another disk, to copy the backup to")
	fl.IntVar(&keep, "keep", 0, "how many backups to keep, the newest; 0 means all")
	fl.BoolVar(&verify, "verify", false, "with --to, read again what is there already")
	cmd.AddCommand(c.backupList())
	return c.chooseOutput(cmd)
}

// makeBackup has the hub make a backup and copies it if it is to be elsewhere.
func (c *cli) makeBackup(ctx context.Context, cfg hub.Config, name, to string, keep int, verify bool) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stderr, "the hub at %s makes a backup\n", cl.URL())
	b, err := cl.MakeBackup(ctx, name, keep)
	if err != nil {
		return err
	}
	out := madeBackup{Name: b.Name, Position: b.Position, Created: b.Created, Bytes: b.Bytes, Added: b.Added}
	where := ""
	if to != "" {
		shown := c.newProgress(b.Bytes)
		copied, err := hub.CopyBackup(ctx, cfg, b.Name, to, keep, verify, func(done, _ int64) { shown.tell(done, "copying") })
		shown.stop()
		if err != nil {
			return fmt.Errorf("the hub has made backup %s, but it is not in %s: %w\n"+
				"  --data or --config must name the data of that hub", b.Name, to, err)
		}
		out.Copied = copied.Added
		where = fmt.Sprintf("; %d of them copied to %s", copied.Added, to)
	}
	return c.one(out, func(w io.Writer) {
		fmt.Fprintf(w, "backup %s up to %s, %d bytes, %d of them new%s\n", out.Name, out.Position, out.Bytes, out.Added, where)
	})
}

func (c *cli) backupList() *cobra.Command {
	var in string
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "list backups, the oldest first",
		Example: `  freshwire backup ls                                    # those the hub keeps
  freshwire backup ls --in /mnt/backups                  # those in a folder`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := c.listBackups(cmd.Context(), in)
			if err != nil {
				return err
			}
			return many(c, list, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tCREATED\tUP TO\tBYTES")
				for _, b := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", b.Name, stamp(b.Created), b.Position, b.Bytes)
				}
			})
		},
	}
	cmd.Flags().StringVar(&in, "in", "", "list the backups in this folder instead of asking the hub")
	return c.chooseOutput(cmd)
}

func (c *cli) listBackups(ctx context.Context, dir string) (list []client.Backup, err error) {
	if dir == "" {
		cl, err := c.connect()
		if err != nil {
			return nil, err
		}
		return cl.Backups(ctx)
	}
	found, err := hub.Backups(dir)
	for _, b := range found {
		list = append(list, client.Backup{Name: b.Name, Epoch: b.Epoch(), Position: b.Position, Created: b.Created, Bytes: b.Bytes})
	}
	return list, err
}

// restored is what a restore prints.
type restored struct {
	From   string `json:"from"`
	Cursor string `json:"cursor"`
	Bytes  int64  `json:"bytes"`
}

func (c *cli) restore() *cobra.Command {
	var at hubData
	var link bool
	cmd := &cobra.Command{
		Use:   "restore FOLDER",
		Short: "make a store of a backup, while no hub runs on it",
		Long: `Makes the store of a hub that has none from a backup: a folder that "freshwire backup"
has made. Every byte is checked against the backup's own list. The store is there when
all of it is on disk, and not at all if the command is interrupted.

It begins a new epoch. Readers who come with a cursor of the old one are told by an
event "reset" that they may have missed notices, and producers' tokens of the old one
prove nothing. Producers send again what they sent after the backup was made.

Keys are in no backup. Copy the folder "keys" of the old data folder, or keep a copy of it:
to its peers, and to readers of its digests, a hub with new keys is another.`,
		Example: `  freshwire restore /mnt/backups/nightly-7 --data /var/lib/freshwire
  freshwire restore freshwire-data/backups/nightly-7 --link --data other`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			cfg, err := at.load(cmd)
			if err != nil {
				return err
			}
			return c.restoreStore(cmd.Context(), cfg, list[0], link)
		},
	}
	at.flags(cmd)
	cmd.Flags().BoolVar(&link, "link", false, "share tables with the backup instead of copying them, on the same disk")
	return c.chooseOutput(cmd)
}

func (c *cli) restoreStore(ctx context.Context, cfg hub.Config, from string, link bool) error {
	log := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var shown *progress
	res, err := hub.Restore(ctx, cfg, log, from, link, func(done, total int64) {
		if shown == nil {
			shown = c.newProgress(total)
		}
		shown.tell(done, "restoring")
	})
	if shown != nil {
		shown.stop()
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted; nothing is restored")
	case err != nil:
		return fmt.Errorf("%w; nothing is restored", err)
	}
	out := restored{res.Position, res.Cursor.String(), res.Bytes()}
	return c.one(out, func(w io.Writer) {
		fmt.Fprintf(w, "restored %d bytes up to %s; the journal goes on after %s\n", out.Bytes, out.From, out.Cursor)
	})
}
