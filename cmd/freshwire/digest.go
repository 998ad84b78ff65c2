package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub"
	"github.com/freshwire/freshwire/hub/client"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
)

// rotateAfter is how long a new key is announced before it signs: whoever pulls once a
// day has it by then.
const rotateAfter = 25 * time.Hour

func (c *cli) digest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "digest",
		Short: "read, verify and copy the hourly digests of a hub",
		Long: `A hub makes a digest of each channel that asks for one, every hour: plain files, signed,
that never change and that anybody may copy. These commands read them and believe nothing
that they cannot check.

CHANNEL is a channel of the hub (--hub), the address of its digests on any server, as
https://hub.example/digest/all/, or a folder with a copy.`,
		Example: `  freshwire digest ls
  freshwire digest pull all --state place > changed.ndjson
  freshwire digest verify https://hub.example/digest/all/`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.digestList(), c.digestPull(), c.digestVerify(), c.digestRotate())
	return cmd
}

// reader opens the digests that the user named.
func (c *cli) reader(name string, keys []string) (*client.DigestReader, error) {
	o := client.DigestOptions{}
	for _, text := range keys {
		k, err := readDigestKey(text)
		if err != nil {
			return nil, err
		}
		o.Keys = append(o.Keys, k)
	}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return client.DigestFolder(name, o)
	}
	h, err := c.connect()
	if err != nil {
		return nil, err
	}
	r, err := h.Digest(name, o)
	if err != nil {
		return nil, usageError{err}
	}
	return r, nil
}

// readDigestKey reads a key that the user trusts: the base64 of state.json, or a file with
// it or with a state.json.
func readDigestKey(text string) (client.DigestKey, error) {
	if b, err := os.ReadFile(text); err == nil {
		var s client.DigestState
		if json.Unmarshal(b, &s) == nil && len(s.Keys) == 1 {
			return s.Keys[0], nil
		}
		text = strings.TrimSpace(string(b))
	}
	public, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(public) != 32 {
		return client.DigestKey{}, usagef("--key %.60q: want the base64 of an Ed25519 key, as state.json has it, or a file with it", text)
	}
	return client.NewDigestKey(public), nil
}

func keyFlag(cmd *cobra.Command, keys *[]string) {
	cmd.Flags().StringArrayVar(keys, "key", nil, "key to trust, as base64 or in a file, repeatable; else those that the archive names the first time")
}

func (c *cli) digestList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "ls [CHANNEL]", Short: "list the channels that have digests, or the newest hours of one",
		Example: "  freshwire digest ls\n  freshwire digest ls all -n 48 -o ndjson",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if limit < 1 {
				return usagef("-n %d: want 1 or more", limit)
			}
			if len(list) == 1 {
				return c.listHours(cmd.Context(), list[0], limit)
			}
			h, err := c.connect()
			if err != nil {
				return err
			}
			all, err := h.Digests(cmd.Context())
			if err != nil {
				return err
			}
			return many(c, all, func(w io.Writer) {
				fmt.Fprintln(w, "CHANNEL\tPUBLIC\tHOURS\tNEWEST\tENTRIES\tNOTICES\tBYTES\tCURSOR")
				for _, d := range all {
					fmt.Fprintf(w, "%s\t%t\t%d-%d\t%s\t%d\t%d\t%d\t%s\n", d.Channel, d.Public, d.FirstSeq, d.Seq, stamp(d.From), d.Entries, d.Notices, d.Bytes, d.Cursor)
				}
			})
		},
	}
	cmd.Flags().IntVarP(&limit, "lines", "n", 24, "how many hours")
	return c.chooseOutput(cmd)
}

func (c *cli) listHours(ctx context.Context, name string, limit int) error {
	r, err := c.reader(name, nil)
	if err != nil {
		return err
	}
	hours, err := r.Hours(ctx, limit)
	if err != nil {
		return err
	}
	return many(c, hours, func(w io.Writer) {
		fmt.Fprintln(w, "SEQ\tFROM\tENTRIES\tNOTICES\tOFFSETS\tCOMPLETE")
		for _, m := range hours {
			complete := "yes"
			if !m.Complete {
				complete = "no: " + m.Reason
			}
			fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d-%d\t%s\n", m.Seq, stamp(m.From), m.Entries, m.Notices, m.FirstOffset, m.LastOffset, complete)
		}
	})
}

// pullFlags say what is pulled, and what is done with it.
type pullFlags struct {
	since, state, match, command, dir string
	keys                              []string
	retries                           int
}

const pullHelp = `Reads all digests since the last time and prints what changed: one line of JSON for each
resource of each digest, the oldest digest first. Where it was long ago it reads days and
weeks instead of hours: three weeks are at most 32 downloads.

Each digest is downloaded and checked whole (hashes, signature, chain, sums) before a line
of it is printed. --state keeps the place in a file: the next run goes on there, and a run
that was cut off comes again to the digest that it was at, so that nothing is left out.
Without a place it begins with the oldest digest that is kept, or where --since says: the
number of an hour that you have, a cursor, a time, or how long ago. With a cursor you get
what comes after it, and what the rest of its hour has before it.

The keys that sign are those of --key, else those that the archive names the first time,
and later on those that they vouch for. They are kept with the place.

What cannot be had is told: an hour that is not kept any more, one that is not complete, or
one that says to trust nothing from before. All else is printed, and the exit code is 6.
At the end it tells the cursor from which freshwire tail --after goes on.`

func (c *cli) digestPull() *cobra.Command {
	var f pullFlags
	cmd := &cobra.Command{
		Use: "pull CHANNEL", Short: "read what changed since the last time, checked", Long: pullHelp,
		Example: `  freshwire digest pull all --state place > changed.ndjson
  freshwire digest pull https://hub.example/digest/all/ --since 72h --match urls.txt
  freshwire digest pull all --state place --exec 'curl -fsS -X PURGE "$FRESHWIRE_URI"'
  freshwire digest pull all --state place --dir copy > /dev/null   # keeps a copy that others can read
  freshwire digest pull copy --since 2026-11-22T00:00:00Z          # reads the copy`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			for _, name := range []string{"state", "match", "exec", "dir", "since"} {
				if fl := cmd.Flags().Lookup(name); fl.Changed && fl.Value.String() == "" {
					return usagef("--%s: want a value that is not empty", name)
				}
			}
			if f.retries < 0 || cmd.Flags().Changed("retries") && f.command == "" {
				return usagef("--retries %d: want 0 or more, with --exec", f.retries)
			}
			return c.pullDigests(cmd.Context(), list[0], &f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.since, "since", "", "begin after this: number of an hour, cursor, time (RFC 3339) or how long ago; the place in --state goes before it")
	fl.StringVar(&f.state, "state", "", "file that keeps the place for the next run")
	fl.StringVar(&f.match, "match", "", "file of URIs, one a line, or beginnings of them that end with *: only these are printed")
	fl.StringVar(&f.command, "exec", "", "run this command by sh -c for each line, which is its standard input, instead of printing it")
	fl.IntVar(&f.retries, "retries", 5, "how often to run a failing command again")
	fl.StringVar(&f.dir, "dir", "", "folder that becomes a copy of what is read")
	keyFlag(cmd, &f.keys)
	return cmd
}

// A pulling is one run of digest pull.
type pulling struct {
	c        *cli
	f        *pullFlags
	out      *bufio.Writer
	wanted   *uriSet // nil is all
	worker   *worker
	progress *progress
	digests  int
	printed  int
}

func (c *cli) pullDigests(ctx context.Context, name string, f *pullFlags) error {
	r, err := c.reader(name, f.keys)
	if err != nil {
		return err
	}
	p := &pulling{c: c, f: f, out: bufio.NewWriterSize(c.stdout, 64<<10)}
	if f.match != "" {
		if p.wanted, err = readURISet(f.match); err != nil {
			return err
		}
	}
	if f.command != "" {
		p.worker = &worker{command: f.command, hub: c.hub, retries: f.retries, grace: workerGrace, stdout: c.stdout, stderr: c.stderr}
	}
	place, err := f.place()
	if err != nil {
		return err
	}
	if place.Seq == 0 && f.since != "" {
		if place.Seq, err = sinceSeq(ctx, r, f.since); err != nil {
			return err
		}
	}
	if place.Keys == nil && len(f.keys) == 0 {
		fmt.Fprintf(c.stderr, "trusting the keys that %s names: give --key to trust none but yours\n", r.Place())
	}
	res, err := r.Pull(ctx, client.DigestPull{
		Place: place, Keep: f.dir,
		Plan: func(n int) {
			p.digests, p.progress = n, c.progressOf(int64(n), progressbar.OptionShowCount(), progressbar.OptionSetDescription("digests"))
		},
		Entry: func(line []byte) error { return p.entry(ctx, line) },
		Done:  p.done,
		Gap:   func(text string) { fmt.Fprintf(c.stderr, "freshwire: gap: %s\n", text) },
		Note:  func(text string) { fmt.Fprintf(c.stderr, "freshwire: %s\n", text) },
	})
	if p.progress != nil {
		p.progress.stop()
	}
	if flushed := p.out.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		return err
	}
	if err := f.keep(&res.Place); err != nil {
		return err
	}
	fmt.Fprintf(c.stderr, "%d digests, %d entries, %d of them wanted; up to hour %d", res.Digests, res.Entries, p.printed, res.Place.Seq)
	if res.Place.Cursor != "" {
		fmt.Fprintf(c.stderr, "; the stream goes on with freshwire tail --after %s", res.Place.Cursor)
	}
	fmt.Fprintln(c.stderr)
	if res.Gaps > 0 {
		return gapError{res.Gaps}
	}
	return nil
}

// entry does what is asked for with one line.
func (p *pulling) entry(ctx context.Context, line []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var e client.DigestEntry
	if p.wanted != nil || p.worker != nil {
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
	}
	if p.wanted != nil && !p.wanted.has(e.URI) {
		return nil
	}
	p.printed++
	if p.worker == nil {
		p.out.Write(line)
		return p.out.WriteByte('\n')
	}
	return p.worker.handle(ctx, &task{about: e.Change + " " + e.URI, place: e.URI, again: "the digest that it is in", stdin: append(append([]byte(nil), line...), '\n'),
		env: map[string]string{"KIND": "digest", "CHANGE": e.Change, "URI": e.URI, "TYPE": e.Type, "REASON": e.Reason}})
}

// done keeps the place after a digest whose lines are out.
func (p *pulling) done(m *client.DigestManifest, place client.DigestPlace) error {
	if err := p.out.Flush(); err != nil {
		return err
	}
	p.digests--
	p.progress.tell(p.progress.size-int64(p.digests), fmt.Sprintf("%s from %s", m.Period, stamp(m.From)))
	return p.f.keep(&place)
}

// place reads where an earlier run stopped.
func (f *pullFlags) place() (place client.DigestPlace, err error) {
	if f.state == "" {
		return place, nil
	}
	b, err := os.ReadFile(f.state)
	if errors.Is(err, fs.ErrNotExist) {
		return place, nil
	}
	if err == nil {
		if err = json.Unmarshal(b, &place); err == nil && place.Seq == 0 {
			err = errors.New("it holds no place")
		}
	}
	if err != nil {
		err = fmt.Errorf("--state: %s: %w\n  name another file, or remove it to begin anew", f.state, err)
	}
	return place, err
}

// keep writes down the place for the next run.
func (f *pullFlags) keep(place *client.DigestPlace) error {
	if f.state == "" || place.Seq == 0 {
		return nil
	}
	b, err := json.MarshalIndent(place, "", " ")
	if err == nil {
		err = replaceFile(f.state, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	return nil
}

// sinceSeq is the hour after which a pull begins.
func sinceSeq(ctx context.Context, r *client.DigestReader, since string) (uint64, error) {
	if seq, err := strconv.ParseUint(since, 10, 64); err == nil {
		return seq, nil
	}
	if at, err := parseTime("--since", since, time.Now()); err == nil {
		return r.SeqBefore(ctx, at, "")
	}
	if !strings.Contains(since, ".") {
		return 0, usagef("--since %.60q: want the number of an hour, a cursor, a time such as 2026-11-22T02:12:49Z, or how long ago, such as 72h", since)
	}
	return r.SeqBefore(ctx, time.Time{}, since)
}

func (c *cli) digestVerify() *cobra.Command {
	var (
		keys  []string
		limit int
	)
	cmd := &cobra.Command{
		Use: "verify CHANNEL", Short: "check all that an archive or a copy of it keeps",
		Long: `Checks every hour, day and week that is kept: that each manifest has the hash that the
next one says, that its signature is good, that numbers, times and positions go on without
a gap, that each file has the size and the hash that its manifest says, and that its lines
are in order and add up. It tells each fault, and the exit code is 1 if there is one. A
copy need not have everything; what it does not have is counted.`,
		Example: "  freshwire digest verify all\n  freshwire digest verify copy --key key.txt\n  freshwire digest verify https://hub.example/digest/all/ -n 24",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if limit < 0 {
				return usagef("-n %d: want 0 or more", limit)
			}
			r, err := c.reader(list[0], keys)
			if err != nil {
				return err
			}
			return c.verifyDigests(cmd.Context(), r, limit)
		},
	}
	cmd.Flags().IntVarP(&limit, "lines", "n", 0, "only so many of the newest hours, and the roll-ups of them (0: all)")
	keyFlag(cmd, &keys)
	return cmd
}

func (c *cli) verifyDigests(ctx context.Context, r *client.DigestReader, limit int) error {
	var shown *progress
	looked := int64(0)
	a, err := r.Verify(ctx, limit, func(folder string, total int) {
		if shown == nil {
			shown = c.progressOf(int64(total), progressbar.OptionShowCount(), progressbar.OptionSetDescription("digests"))
		}
		looked++
		shown.tell(looked, folder)
	})
	if shown != nil {
		shown.stop()
	}
	if err != nil {
		return err
	}
	for _, f := range a.Faults {
		fmt.Fprintf(c.stdout, "%s: %s\n", f.Where, f.Wrong)
	}
	fmt.Fprintf(c.stdout, "%d hours and %d roll-ups with %d entries are good", a.Hours, a.Rollups, a.Entries)
	if a.Incomplete > 0 {
		fmt.Fprintf(c.stdout, "; %d say that they are not complete", a.Incomplete)
	}
	if a.Absent > 0 {
		fmt.Fprintf(c.stdout, "; %d are not in this copy", a.Absent)
	}
	fmt.Fprintln(c.stdout)
	if len(a.Faults) > 0 {
		return fmt.Errorf("%s has %d faults", r.Place(), len(a.Faults))
	}
	return nil
}

func (c *cli) digestRotate() *cobra.Command {
	var (
		data  string
		after time.Duration
	)
	cmd := &cobra.Command{
		Use: "rotate", Short: "make a new key to sign digests with, in the data folder of a hub",
		Long: `Makes a new key. The digests announce it at once, signed with the old one, so that whoever
reads them trusts it; after a while it signs. A hub that runs takes it with the next hour
that closes. Keep the file of the old key, or replace it by its public half, as long as
there are digests that it has signed.`,
		Example: "  freshwire digest rotate --data ./freshwire-data\n  freshwire digest rotate --data /var/lib/freshwire --after 168h",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if info, err := os.Stat(data); err != nil || !info.IsDir() {
				return usagef("--data %s: there is no such folder", data)
			}
			from := time.Now().Add(after)
			id, err := hub.RotateDigestKey(filepath.Clean(data), from)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "key %s signs from %s on\n", id, from.UTC().Format(time.RFC3339))
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", "./freshwire-data", "data folder of the hub")
	cmd.Flags().DurationVar(&after, "after", rotateAfter, "how long it is announced before it signs")
	return cmd
}

// A uriSet is what --match lets through.
type uriSet struct {
	uris     map[string]bool
	prefixes map[string]bool
	lengths  []int // of prefixes
}

// readURISet reads a file of URIs, and of beginnings of URIs that end with *.
func readURISet(name string) (*uriSet, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--match: %w", err)
	}
	defer f.Close()
	s := &uriSet{uris: map[string]bool{}, prefixes: map[string]bool{}}
	known := map[int]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		prefix, isPrefix := strings.CutSuffix(line, "*")
		switch {
		case line == "":
		case !isPrefix:
			s.uris[line] = true
		default:
			if s.prefixes[prefix] = true; !known[len(prefix)] {
				known[len(prefix)] = true
				s.lengths = append(s.lengths, len(prefix))
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--match: %s: %w", name, err)
	}
	if len(s.uris)+len(s.prefixes) == 0 {
		return nil, fmt.Errorf("--match: %s names no URI", name)
	}
	return s, nil
}

func (s *uriSet) has(uri string) bool {
	if s.uris[uri] {
		return true
	}
	for _, n := range s.lengths {
		if n <= len(uri) && s.prefixes[uri[:n]] {
			return true
		}
	}
	return false
}
