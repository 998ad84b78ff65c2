package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"golang.org/x/sync/errgroup"
)

// PeerOptions say how what passes between two hubs is measured. The zero value of each
// field but Hub and Peer is its default; a number below 0 leaves its part out.
type PeerOptions struct {
	Hub        string        // address of the hub that speaks for the files, http://HOST:PORT
	Peer       string        // address of its peer, where pages are made from them
	Token      string        // that the hub asks for; "" means none
	PeerToken  string        // that the peer asks for, likewise
	Updates    int           // whose latency is measured, one after the other; 0 means 500
	Rate       float64       // updates of other files a second beside them, in the second part; 0 means 200
	Files      int           // that change while the peer is away; 0 means 100,000
	Dependents int           // pages that are made from one file; 0 means 1,000,000
	Patience   time.Duration // how long the hubs may make no progress; 0 means 2 min
	Progress   io.Writer     // lines on how far the run is; nil means none
}

const (
	// maxPeerFiles is half of the resources that a hub lets one peer ask for.
	maxPeerFiles = 5_000_000
	// maxDependents is more pages than one hub was tried with in a day.
	maxDependents = 100_000_000
	// loadBatch is how many updates prepare a run at once: as many as a hub takes.
	loadBatch = 5000
	// loading is how many such requests are in flight: one is read while another is
	// written.
	loading = 2
	// besides is how many requests with one update each are in flight beside what is
	// measured: with fewer a disk that takes 10 ms to flush would bound the rate.
	besides = 8
	// roundTime is how long one update and the calm after it are taken to last: of so
	// many files each is changed once at the rate, and none twice unless it takes longer.
	roundTime = 50 * time.Millisecond
	// maxBesides bounds the files for that.
	maxBesides = 200_000
	// heardLook is how often it is looked how much was heard, which has the peer answer
	// one small request: 5 ms are a part in 400 of the time that 100,000 states may take.
	heardLook = 5 * time.Millisecond
	// firstVersion is the one that pages saw: 0 and 1 are no numbers but flags.
	firstVersion = 2
)

func (o PeerOptions) withDefaults() (PeerOptions, error) {
	defaultTo(&o.Updates, 500)
	defaultTo(&o.Rate, 200)
	defaultTo(&o.Files, 100_000)
	defaultTo(&o.Dependents, 1_000_000)
	defaultTo(&o.Patience, 2*time.Minute)
	defaultTo(&o.Progress, io.Discard)
	o.Updates, o.Files, o.Dependents = max(o.Updates, 0), max(o.Files, 0), max(o.Dependents, 0)
	for name, address := range map[string]string{"hub": o.Hub, "peer": o.Peer} {
		u, err := url.Parse(address)
		if err != nil {
			return o, fmt.Errorf("address of the %s: %w", name, err)
		}
		if u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return o, fmt.Errorf("address of the %s %q: want http://HOST:PORT", name, address)
		}
	}
	switch {
	case max(o.Files, o.Updates) > maxPeerFiles:
		return o, fmt.Errorf("%d files and %d updates: want up to %d of each", o.Files, o.Updates, maxPeerFiles)
	case o.Dependents > maxDependents:
		return o, fmt.Errorf("%d dependents: want up to %d", o.Dependents, maxDependents)
	case !(o.Rate <= maxRate):
		return o, fmt.Errorf("a rate of %v: want up to %d updates a second", o.Rate, maxRate)
	case o.Patience < 1:
		return o, errors.New("a patience below 1 ns")
	}
	o.Rate = max(o.Rate, 0)
	return o, nil
}

// Check reports the first option that makes no sense.
func (o PeerOptions) Check() error {
	_, err := o.withDefaults()
	return err
}

// A stretch is consecutive files or pages, by their numbers: from is in it, to is not.
type stretch struct{ from, to int }

func (s stretch) count() int { return s.to - s.from }

// A layout says which files there are and what pages are made from them: of each but the
// hot one one page, which has the number of the file, and of the hot one all others.
type layout struct {
	idle, loaded stretch // changed one after the other
	beside       stretch // changed meanwhile
	away         stretch // changed while the peer is away
	ends         stretch // changed, the one before the hot file and the other in the end: whoever hears of one has heard all before
	hot          int     // the file of many pages
	many         stretch // these
}

func layoutOf(o *PeerOptions) (l layout) {
	end := 0
	take := func(n int) stretch {
		end += n
		return stretch{end - n, end}
	}
	l.idle = take(o.Updates)
	if o.Rate > 0 && o.Updates > 0 {
		l.loaded = take(o.Updates)
		n := min(float64(o.Updates)*o.Rate*roundTime.Seconds(), maxBesides)
		// Of several requests in flight each has files of its own, so that versions rise.
		l.beside = take((int(n)/besides + 1) * besides)
	}
	l.away = take(o.Files)
	l.ends = take(2)
	l.hot = end
	l.many = take(o.Dependents)
	return l
}

// files is how many files there are. Without pages of its own the hot one is none.
func (l *layout) files() int {
	if l.many.count() == 0 {
		return l.hot
	}
	return l.hot + 1
}

func (l *layout) pages() int { return l.many.to }

// fileOf is the file that a page is made from.
func (l *layout) fileOf(page int) int { return min(page, l.hot) }

// A peersRun is one measurement of two hubs.
type peersRun struct {
	o           PeerOptions
	transport   *http.Transport
	owner, peer *client.Client
	ownerURL    string // name of the owner for other hubs, and so of the peer for the owner
	peerURL     string
	layout      layout
	files       string // what URIs of files begin with: the number follows
	host        string // of the pages
	versions    []int  // of the files, as they were sent last
	refreshes   *refreshes
	report      PeersReport
}

// Peers measures what passes from one hub to another that is its peer: how late, how
// fast, how much, and whether it is right. The hubs are peers already, and the peer takes
// the owner for who speaks for some prefix of http or https, below which files are made
// up. Nothing else should happen in them meanwhile. What was published stays in both.
func Peers(ctx context.Context, o PeerOptions) (report *PeersReport, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	r := &peersRun{o: o, transport: &http.Transport{MaxIdleConnsPerHost: besides + loading}, layout: layoutOf(&o)}
	defer r.transport.CloseIdleConnections()
	hub := func(address, token string) (*client.Client, error) {
		return client.New(strings.TrimSuffix(address, "/"), client.Options{HTTP: r.client(), Agent: "freshwire-bench",
			Token: func() (string, error) { return token, nil }})
	}
	if r.owner, err = hub(o.Hub, o.Token); err != nil {
		return nil, err
	}
	if r.peer, err = hub(o.Peer, o.PeerToken); err != nil {
		return nil, err
	}
	r.report = PeersReport{Hub: r.owner.URL(), Peer: r.peer.URL(), Files: r.layout.files(), Pages: r.layout.pages()}
	if err := r.measure(ctx); err != nil {
		return nil, err
	}
	return &r.report, nil
}

func (r *peersRun) client() *http.Client {
	return &http.Client{Transport: r.transport, Timeout: postDeadline}
}

func (r *peersRun) say(format string, a ...any) { fmt.Fprintf(r.o.Progress, format+"\n", a...) }

func (r *peersRun) measure(ctx context.Context) error {
	if err := r.meet(ctx); err != nil {
		return err
	}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{r.measureLatency, r.measureCatchUp, r.measureEdit, r.judge} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// meet finds out who the hubs are to each other, and names the files and pages.
func (r *peersRun) meet(ctx context.Context) error {
	owner, _, err := r.owner.Peers(ctx)
	if err != nil {
		return fmt.Errorf("the hub %s: %w", r.owner.URL(), err)
	}
	peer, _, err := r.peer.Peers(ctx)
	if err != nil {
		return fmt.Errorf("the hub %s: %w", r.peer.URL(), err)
	}
	r.ownerURL, r.peerURL = owner.URL, peer.URL
	if _, err := r.owner.Peer(ctx, peer.URL); err != nil {
		return fmt.Errorf("for the hub %s the other one, %s, is no peer (freshwire peer add): %w", r.owner.URL(), peer.URL, err)
	}
	var heard client.Peer
	why := ""
	met, err := r.until(ctx, lookAround, func() (bool, int, error) {
		heard, err = r.peer.Peer(ctx, owner.URL)
		if err == nil && heard.Phase == client.PeerPaused {
			err = errors.New("the exchange is paused (freshwire peer resume)")
		}
		if heard.Fault != "" {
			why = ": " + heard.Fault
		}
		return heard.Phase == client.PeerFollowing, 0, err
	})
	if err != nil {
		return fmt.Errorf("how the hub %s follows the other one, %s: %w", r.peer.URL(), owner.URL, err)
	}
	if !met {
		return fmt.Errorf("%w: the hub %s does not come to follow the other one, %s%.300s", errNoProgress, r.peer.URL(), owner.URL, why)
	}
	name := make([]byte, 4)
	rand.Read(name)
	run := hex.EncodeToString(name)
	for _, prefix := range heard.Authority {
		if strings.HasPrefix(prefix, "http://") || strings.HasPrefix(prefix, "https://") {
			r.files = strings.TrimSuffix(prefix, "/") + "/freshwire-bench/" + run + "/"
		}
	}
	if r.files == "" {
		return fmt.Errorf("for the hub %s the other one, %s, speaks for nothing of http or https (freshwire peer add --authority)", r.peer.URL(), owner.URL)
	}
	r.host = run + ".pages.bench"
	r.refreshes = newRefreshes(r.peer.URL(), r.o.PeerToken, r.host, r.layout.pages())
	return nil
}

// until looks again and again until something holds, and reports whether it came to: not
// if the number beside it has stood still for longer than the patience.
func (r *peersRun) until(ctx context.Context, every time.Duration, holds func() (good bool, progress int, err error)) (bool, error) {
	last, since := 0, time.Now()
	for {
		good, progress, err := holds()
		switch {
		case good || err != nil:
			return good && err == nil, err
		case progress != last:
			last, since = progress, time.Now()
		case time.Since(since) > r.o.Patience:
			return false, nil
		}
		if err := pause(ctx, every); err != nil {
			return false, err
		}
	}
}

func (r *peersRun) fileURI(file int) string { return r.files + strconv.Itoa(file) }
func (r *peersRun) pageURI(page int) string { return "http://" + r.host + "/" + strconv.Itoa(page) }

// appendFile appends an update of a file.
func (r *peersRun) appendFile(b []byte, file int) []byte {
	b = append(b, `{"uri":`...)
	b = strconv.AppendQuote(b, r.fileURI(file))
	b = append(b, `,"version":"`...)
	b = strconv.AppendInt(b, int64(r.versions[file]), 10)
	return append(b, "\"}\n"...)
}

// appendPage appends that a page was made, from its file as that was at first.
func (r *peersRun) appendPage(b []byte, page int) []byte {
	b = append(b, `{"uri":`...)
	b = strconv.AppendQuote(b, r.pageURI(page))
	b = append(b, `,"version":"1","hash":"1","deps":[{"uri":`...)
	b = strconv.AppendQuote(b, r.fileURI(r.layout.fileOf(page)))
	return fmt.Appendf(b, `,"seen":"%d"}]}`+"\n", firstVersion)
}

// send sends updates of all that is in s, in large batches in no order.
func (r *peersRun) send(ctx context.Context, to *client.Client, s stretch, line func(b []byte, i int) []byte) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(loading)
	for from := s.from; from < s.to; from += loadBatch {
		g.Go(func() error { return r.sendSome(ctx, to, stretch{from, min(from+loadBatch, s.to)}, line) })
	}
	return g.Wait()
}

func (r *peersRun) sendSome(ctx context.Context, to *client.Client, s stretch, line func(b []byte, i int) []byte) error {
	var body []byte
	for i := s.from; i < s.to; i++ {
		body = line(body, i)
	}
	res, err := to.UpdateLines(ctx, body)
	if err == nil && res.Changed != s.count() {
		err = fmt.Errorf("of %d updates it takes %d for a change", s.count(), res.Changed)
	}
	if err != nil {
		return fmt.Errorf("publishing to %s: %w", to.URL(), err)
	}
	return nil
}

// edit changes files at the owner.
func (r *peersRun) edit(ctx context.Context, s stretch) error {
	for i := s.from; i < s.to; i++ {
		r.versions[i]++
	}
	return r.send(ctx, r.owner, s, r.appendFile)
}

// prepare publishes all files and pages, and waits until the peer has heard of the files.
func (r *peersRun) prepare(ctx context.Context) error {
	began := time.Now()
	l := &r.layout
	r.say("%d files at the hub", r.report.Files)
	r.versions = make([]int, l.files())
	for i := range r.versions {
		r.versions[i] = firstVersion
	}
	if err := r.send(ctx, r.owner, stretch{0, l.files()}, r.appendFile); err != nil {
		return err
	}
	r.say("%d pages at the peer", r.report.Pages)
	if err := r.send(ctx, r.peer, stretch{0, l.pages()}, r.appendPage); err != nil {
		return err
	}
	r.say("waiting for the peer to have heard of all files")
	behind, err := r.lag(ctx, r.peer, stretch{0, l.files()})
	if err == nil && behind > 0 {
		err = fmt.Errorf("%w: of %d files the peer hears nothing", errNoProgress, behind)
	}
	if err != nil {
		return err
	}
	r.report.SetupSeconds = time.Since(began).Seconds()
	return r.refreshes.begin(ctx, r.peer)
}

// lag waits until a hub has of files the versions that were sent last, and returns of how
// many it has not when it makes no progress any more.
func (r *peersRun) lag(ctx context.Context, hub *client.Client, s stretch) (behind int, err error) {
	list := make([]int, 0, s.count())
	for i := s.from; i < s.to; i++ {
		list = append(list, i)
	}
	_, err = r.until(ctx, lookAround, func() (bool, int, error) {
		kept := list[:0]
		for part := list; len(part) > 0; {
			n := min(len(part), loadBatch)
			uris := make([]string, n)
			for i, file := range part[:n] {
				uris[i] = r.fileURI(file)
			}
			states, err := hub.Status(ctx, uris...)
			if err != nil {
				return false, 0, err
			}
			for i, file := range part[:n] {
				if i >= len(states) || states[i].Version != strconv.Itoa(r.versions[file]) {
					kept = append(kept, file)
				}
			}
			part = part[n:]
		}
		list = kept
		return len(list) == 0, len(list), nil
	})
	return len(list), err
}

// measureLatency changes files one after the other, with nothing else to do and then
// beside a load.
func (r *peersRun) measureLatency(ctx context.Context) error {
	l := &r.layout
	if l.idle.count() == 0 {
		return nil
	}
	stop, err := r.refreshes.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	r.say("measuring latency")
	if r.report.Idle, err = r.crossings(ctx, l.idle); err != nil || l.loaded.count() == 0 {
		return errors.Join(err, stop())
	}
	r.say("measuring latency beside %.6g updates/s", r.o.Rate)
	loading, end := context.WithCancel(ctx)
	defer end()
	var sent atomic.Int64
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- r.keepEditing(loading, &sent) }()
	part, err := r.crossings(ctx, l.loaded)
	part.Offered = r.o.Rate
	part.Rate = float64(sent.Load()) / time.Since(began).Seconds()
	end()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	r.report.Loaded = part
	// What was sent beside must not be counted among what follows.
	if _, err := r.lag(ctx, r.peer, l.beside); err != nil {
		return err
	}
	return stop()
}

// crossings changes files, each when the page of the one before was to be refreshed.
func (r *peersRun) crossings(ctx context.Context, s stretch) (part Crossings, err error) {
	var took, answered histogram
	for file := s.from; file < s.to; file++ {
		if err := pause(ctx, calm); err != nil {
			return part, err
		}
		w := r.refreshes.watch(stretch{file, file + 1})
		sent := time.Now()
		r.versions[file]++
		if err := r.sendSome(ctx, r.owner, stretch{file, file + 1}, r.appendFile); err != nil {
			return part, err
		}
		answered.record(time.Since(sent))
		if heard, err := r.await(ctx, w); err != nil || !heard { // what is lost will be found
			return part, err
		}
		_, _, last := r.refreshes.sofar(w)
		took.record(last.Sub(sent))
		part.Updates++
	}
	part.Latency, part.Answered = newSpread(&took), newSpread(&answered)
	return part, nil
}

// await waits for what is watched for, and reports whether it came.
func (r *peersRun) await(ctx context.Context, w *lookout) (bool, error) {
	for left := -1; ; {
		select {
		case <-w.done:
			return true, nil
		case <-r.refreshes.broken:
			return false, r.refreshes.fault
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(r.o.Patience):
		}
		now, _, _ := r.refreshes.sofar(w)
		if now == left || now == w.pages.count() {
			r.say("%d pages of %d are not to be refreshed", now, w.pages.count())
			return false, nil
		}
		left = now
	}
}

// keepEditing changes files at the rate, one a request, until ctx ends.
func (r *peersRun) keepEditing(ctx context.Context, sent *atomic.Int64) error {
	began, s := time.Now(), r.layout.beside
	g, failing := errgroup.WithContext(ctx)
	for first := range besides {
		g.Go(func() error {
			for n := first; ; n += besides {
				if pause(failing, time.Until(began.Add(time.Duration(float64(n)/r.o.Rate*float64(time.Second))))) != nil {
					return nil
				}
				file := s.from + n%s.count()
				r.versions[file]++
				// What was begun is finished: else nobody knows which version the hub has.
				if err := r.sendSome(context.WithoutCancel(ctx), r.owner, stretch{file, file + 1}, r.appendFile); err != nil {
					return err
				}
				sent.Add(1)
			}
		})
	}
	return g.Wait()
}

// measureCatchUp changes all files while the peer is away, twice: when that is known the
// first time pages are to be refreshed, and the second time they already are.
func (r *peersRun) measureCatchUp(ctx context.Context) (err error) {
	s := r.layout.away
	if s.count() == 0 {
		return nil
	}
	r.say("changing %d files while the peer is away", s.count())
	if r.report.Refreshing, err = r.catchUp(ctx, s); err != nil {
		return err
	}
	w := r.refreshes.watch(s)
	stop, err := r.refreshes.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if _, err := r.await(ctx, w); err != nil { // what is lost will be found
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	r.say("%.0f states/s; changing them again", r.report.Refreshing.Rate)
	if r.report.Alone, err = r.catchUp(ctx, s); err == nil {
		r.say("%.0f states/s", r.report.Alone.Rate)
	}
	return err
}

// catchUp changes files while the peer is away and measures how long it takes to hear.
func (r *peersRun) catchUp(ctx context.Context, s stretch) (part CatchUp, err error) {
	if err := r.away(ctx); err != nil {
		return part, err
	}
	if err := r.edit(ctx, s); err != nil {
		return part, err
	}
	first, err := r.peersMoment(ctx)
	if err != nil {
		return part, err
	}
	r.say("the peer goes on")
	began := time.Now()
	if _, err := r.peer.ControlPeer(ctx, r.ownerURL, "resume"); err != nil {
		return part, err
	}
	heard := 0
	all, err := r.until(ctx, heardLook, func() (bool, int, error) {
		p, err := r.peer.Peer(ctx, r.ownerURL)
		heard = p.Hears.Changed + p.Hears.Same - first.heard
		return heard >= s.count(), heard, err
	})
	took := time.Since(began)
	if err == nil && !all {
		err = fmt.Errorf("%w: of %d states the peer heard %d", errNoProgress, s.count(), heard)
	}
	if err != nil {
		return part, err
	}
	last, err := r.peersMoment(ctx)
	if err != nil {
		return part, err
	}
	part = CatchUp{States: heard, Told: last.told - first.told, Seconds: took.Seconds(), Rate: float64(heard) / took.Seconds()}
	per := float64(heard) / 100_000
	part.HubCPU, part.PeerCPU = (last.owner.cpu-first.owner.cpu)/per, (last.peer.cpu-first.peer.cpu)/per
	return part, nil
}

// away has the peer stop to hear.
func (r *peersRun) away(ctx context.Context) error {
	if _, err := r.peer.ControlPeer(ctx, r.ownerURL, "pause"); err != nil {
		return err
	}
	gone, err := r.until(ctx, heardLook, func() (bool, int, error) {
		p, err := r.owner.Peer(ctx, r.peerURL)
		return p.Tells.Streams == 0, 0, err
	})
	if err == nil && !gone {
		err = fmt.Errorf("%w: the peer was told to pause, and goes on to hear", errNoProgress)
	}
	return err
}

// A peersMoment is what has happened up to then.
type peersMoment struct {
	owner, peer sample
	told        uint64
	heard       int
}

func (r *peersRun) peersMoment(ctx context.Context) (m peersMoment, err error) {
	if m.owner, err = takeSample(ctx, r.client(), r.owner.URL(), r.o.Token); err != nil {
		return m, err
	}
	if m.peer, err = takeSample(ctx, r.client(), r.peer.URL(), r.o.PeerToken); err != nil {
		return m, err
	}
	tells, err := r.owner.Peer(ctx, r.peerURL)
	if err != nil {
		return m, err
	}
	hears, err := r.peer.Peer(ctx, r.ownerURL)
	m.told, m.heard = tells.Tells.Told, hears.Hears.Changed+hears.Hears.Same
	return m, err
}

// readOn listens, and returns when all has been read that was written before: it changes a
// file, whose page comes after all others.
func (r *peersRun) readOn(ctx context.Context, file int) (stop func() error, err error) {
	s := stretch{file, file + 1}
	w := r.refreshes.watch(s)
	if stop, err = r.refreshes.listen(ctx); err != nil {
		return nil, err
	}
	if err = r.edit(ctx, s); err == nil {
		_, err = r.await(ctx, w) // what is lost will be found
	}
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// measureEdit changes the file of many pages.
func (r *peersRun) measureEdit(ctx context.Context) error {
	l := &r.layout
	if l.many.count() == 0 {
		return nil
	}
	// The stream is read to its end first, or what was written while nobody listened would
	// count for lateness.
	stop, err := r.readOn(ctx, l.ends.from)
	if err != nil {
		return err
	}
	defer stop()
	r.say("changing a file of %d pages", l.many.count())
	first, err := r.peersMoment(ctx)
	if err != nil {
		return err
	}
	w := r.refreshes.watch(l.many)
	began := time.Now()
	if err := r.edit(ctx, stretch{l.hot, l.hot + 1}); err != nil {
		return err
	}
	if _, err := r.await(ctx, w); err != nil { // what is lost will be found
		return err
	}
	last, err := r.peersMoment(ctx)
	if err != nil {
		return err
	}
	e := &r.report.Edit
	e.Dependents, e.Crossed = l.many.count(), last.told-first.told
	e.HubCPU, e.PeerCPU = last.owner.cpu-first.owner.cpu, last.peer.cpu-first.peer.cpu
	if missing, head, tail := r.refreshes.sofar(w); missing < e.Dependents {
		e.FirstMS = float64(head.Sub(began)) / float64(time.Millisecond)
		e.LastMS = float64(tail.Sub(began)) / float64(time.Millisecond)
		e.Rate = float64(e.Dependents-missing) / tail.Sub(began).Seconds()
	}
	return stop()
}
