package digest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/freshwire/freshwire/graph"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/errgroup"
)

const (
	// DefaultKeepHours is how long hours are kept: who was away longer reads roll-ups.
	DefaultKeepHours = 90 * 24 * time.Hour
	// DefaultKeepRollups is how long days and weeks are kept.
	DefaultKeepRollups = 2 * 365 * 24 * time.Hour
	// keepRemoved is how long the digests stay on disk of a channel that is no more: it
	// may have been deleted by mistake.
	keepRemoved = 30 * 24 * time.Hour
	// maxBuilds bounds the digests that are made at once: each takes 128 MiB of memory at
	// most, and two keep two cores busy.
	maxBuilds = 2
	// maxManifests bounds those that are kept in memory for who fetches their files.
	maxManifests = 512
	// retryAfter is how long a digest waits that could not be made, of real time.
	retryAfter = 10 * time.Second
	// maxSleep is how long nobody looks at the clock, of real time: it may be set, or the
	// machine may sleep.
	maxSleep = time.Minute
)

var (
	// ErrNoDigest reports a channel that has no digest.
	ErrNoDigest = errors.New("the channel has no digest")
	// ErrNoFile reports a path under which there never is anything.
	ErrNoFile = errors.New("there is no such file of a digest")
	// ErrNotYet reports a file of a digest that is yet to be made.
	ErrNotYet = errors.New("the digest is not closed yet")
	// ErrHidden reports a file of a time at which the channel was not for everybody.
	ErrHidden = errors.New("it is of a time at which the channel was not public")
	// ErrExpired reports a file of a digest that is not kept any more.
	ErrExpired = errors.New("the digest is not kept any more")
)

// A journal is what the archive asks of the graph.
type journal interface {
	// Since returns the position before the first notice written at or after t.
	Since(t time.Time) (graph.Cursor, error)
	Oldest() graph.Cursor
	Token() graph.Cursor
	// Room reports that the disk is too full to be written to.
	Room() error
}

// A Channel is one that asks for a digest.
type Channel struct {
	Name string
	Born uint64 // tells channels of one name apart
	// Read returns up to limit notices strictly after a position, as everybody may see
	// them, and where to go on. It never reads beyond Head.
	Read func(after graph.Cursor, limit int) (ns []graph.Notice, next graph.Cursor, err error)
	Head func() graph.Cursor
	// Public reports whether the channel was for everybody whenever something was written
	// strictly after one position and up to another.
	Public func(after, until uint64) bool
}

// Options configure an Archive. Dir, Keys, Journal, Channels and Base are required; the
// zero value of each other field is its default.
type Options struct {
	FS        vfs.FS           // nil means the disk
	Dir, Keys string           // folders of the digests and of the keys that sign them
	Clock     func() time.Time // nil means time.Now
	ClockRate float64          // how fast it goes; 0 means 1
	Log       *slog.Logger     // nil means none
	Journal   journal
	// Channels are those that ask for a digest. It is asked at start and after Refresh.
	Channels func() []Channel
	// Exists reports whether there still is a channel that had a digest. What was its is
	// shown to nobody any more if there is not. Nil means that all are there.
	Exists func(name string, born uint64) bool
	// Base and Hub are addresses, without a slash at the end: of the archive, as
	// https://hub.example/digest, and of the hub of WebSub.
	Base, Hub string
	// Stream is where the stream of a channel goes on after a position, relative to its
	// state.json.
	Stream func(channel string, at graph.Cursor) string
	// KeepHours and KeepRollups say how long digests are kept.
	KeepHours, KeepRollups time.Duration
	// Closed is told when an hour of a channel has closed and is there to be read.
	Closed func(channel string)
}

// An Archive makes digests and keeps them. It is safe for concurrent use, and makes them
// while [Archive.Run] runs.
type Archive struct {
	o         Options
	d         disk
	started   time.Time
	manifests *lru.Cache[string, *Manifest]
	builds    chan struct{} // a place for each digest that is being made
	refresh   chan struct{}
	coded     int64 // size in bytes from which on files are coded
	figures   figures

	mu     sync.RWMutex
	series map[string]*series
}

// Open reads what there is. Nothing is made until [Archive.Run].
func Open(o Options) (*Archive, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.ClockRate == 0 {
		o.ClockRate = 1
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.KeepHours == 0 {
		o.KeepHours = DefaultKeepHours
	}
	if o.KeepRollups == 0 {
		o.KeepRollups = DefaultKeepRollups
	}
	o.KeepRollups = max(o.KeepRollups, o.KeepHours) // they would be made again
	if o.Exists == nil {
		o.Exists = func(string, uint64) bool { return true }
	}
	if o.Closed == nil {
		o.Closed = func(string) {}
	}
	if o.Stream == nil {
		o.Stream = func(string, graph.Cursor) string { return "" }
	}
	a := &Archive{o: o, d: disk{o.FS}, started: o.Clock(), builds: make(chan struct{}, maxBuilds), refresh: make(chan struct{}, 1), coded: minCoded,
		series: map[string]*series{}}
	var err error
	if a.manifests, err = lru.New[string, *Manifest](maxManifests); err != nil {
		return nil, err
	}
	if err := a.d.makeFolder(path.Dir(o.Dir), path.Base(o.Dir)); err != nil {
		return nil, err
	}
	if _, err := openKeys(a.d, o.Keys, a.started); err != nil {
		return nil, fmt.Errorf("keys of digests: %w", err)
	}
	names, err := a.d.List(o.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue
		}
		s, err := a.load(name)
		if err != nil {
			return nil, fmt.Errorf("digest of %s: %w; put back the file, or move the folder %s away, and digests of it begin anew", name, err, path.Join(o.Dir, name))
		}
		a.series[name] = s
	}
	return a, nil
}

// Refresh has the channels looked at again.
func (a *Archive) Refresh() {
	select {
	case a.refresh <- struct{}{}:
	default: // it will be
	}
}

// Run makes digests until ctx ends. What cannot be made is tried again; a disk that
// fails does not end it.
func (a *Archive) Run(ctx context.Context) error {
	running := map[string]*running{}
	var g errgroup.Group
	for {
		asking := map[string]Channel{}
		for _, ch := range a.o.Channels() {
			asking[ch.Name] = ch
		}
		for name, r := range running {
			if ch, asks := asking[name]; !asks || ch.Born != r.born {
				r.stop()
				<-r.done
				delete(running, name)
			}
		}
		a.setAside(asking)
		for _, name := range slices.Sorted(maps.Keys(asking)) {
			if running[name] == nil {
				running[name] = a.begin(ctx, &g, asking[name])
			}
		}
		select {
		case <-ctx.Done():
			for _, r := range running {
				r.stop()
			}
			return g.Wait()
		case <-a.refresh:
		}
	}
}

// running is a channel whose digests are being made.
type running struct {
	born uint64
	stop context.CancelFunc
	done chan struct{}
}

func (a *Archive) begin(ctx context.Context, g *errgroup.Group, ch Channel) *running {
	ctx, stop := context.WithCancel(ctx)
	r := &running{ch.Born, stop, make(chan struct{})}
	a.mu.Lock()
	s := a.series[ch.Name]
	if s == nil {
		s = a.newSeries(ch.Name)
		a.series[ch.Name] = s
	}
	a.mu.Unlock()
	g.Go(func() error {
		defer close(r.done)
		s.run(ctx, &ch)
		return nil
	})
	return r
}

// setAside puts away what channels had that are no more, so that nobody is shown it who
// may see another channel of the same name.
func (a *Archive) setAside(asking map[string]Channel) {
	now := a.o.Clock()
	for _, s := range a.all() {
		ch, asks := asking[s.name]
		born, begun := s.bornAt()
		if !begun || asks && ch.Born == born || !asks && a.o.Exists(s.name, born) {
			continue
		}
		a.mu.Lock()
		delete(a.series, s.name)
		a.mu.Unlock()
		a.manifests.Purge()
		to := path.Join(a.o.Dir, removed, fmt.Sprintf("%d-%s", now.Unix(), s.name))
		err := a.d.makeFolder(a.o.Dir, removed)
		if err == nil {
			err = a.d.rename(s.dir, to)
		}
		if err != nil {
			a.o.Log.Error("digests of a channel that is no more stay where they are", "channel", s.name, "err", err)
			continue
		}
		a.o.Log.Info("digests of a channel that is no more are put away", "channel", s.name, "folder", to)
	}
	names, err := a.d.List(path.Join(a.o.Dir, removed))
	if err != nil {
		return // there is none
	}
	for _, name := range names {
		at, _, _ := strings.Cut(name, "-")
		if since, err := strconv.ParseInt(at, 10, 64); err == nil && now.Sub(time.Unix(since, 0)) > keepRemoved {
			a.d.RemoveAll(path.Join(a.o.Dir, removed, name))
		}
	}
}

func (a *Archive) all() []*series {
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := slices.Collect(maps.Values(a.series))
	slices.SortFunc(list, func(x, y *series) int { return strings.Compare(x.name, y.name) })
	return list
}

// sleep waits for a time of the archive's clock, and reports whether it passed.
func (a *Archive) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(min(maxSleep, time.Duration(float64(d)/a.o.ClockRate)))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// figures count since the start.
type figures struct {
	mu       sync.Mutex
	closed   uint64
	entries  uint64
	failures uint64
	took     time.Duration
}

// Stats are the figures of an Archive since its start.
type Stats struct {
	Closed   uint64        // hours
	Entries  uint64        // in them
	Failures uint64        // tries to make a digest that failed
	Took     time.Duration // that the newest hour took to be made, of real time
}

// Stats returns the current figures.
func (a *Archive) Stats() Stats {
	a.figures.mu.Lock()
	defer a.figures.mu.Unlock()
	return Stats{a.figures.closed, a.figures.entries, a.figures.failures, a.figures.took}
}

func (f *figures) made(entries uint64, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	f.entries += entries
	f.took = took
}

func (f *figures) failed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures++
}
