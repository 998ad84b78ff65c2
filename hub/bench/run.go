package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"golang.org/x/sync/errgroup"
)

const (
	// settling is how long a hub is left alone before its memory is looked at.
	settling = time.Second
	// postDeadline bounds one request that is not a stream.
	postDeadline = 30 * time.Second
	// ownFiles is how many descriptors are kept for all that is not a reader.
	ownFiles = 64
	// maxPhases is how often the patience may be used up by a phase that makes
	// progress.
	maxPhases = 20
)

// Run measures what o says. A hub that refuses the readers, or more connections
// than the system allows, are errors; what readers did not get is in the report.
// When it returns all connections are closed. What it published stays in the hub.
func Run(ctx context.Context, o Options) (*Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	addr, err := resolve(ctx, o.address())
	if err != nil {
		return nil, fmt.Errorf("address of the hub: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r, err := newRun(o, addr)
	if err != nil {
		return nil, err
	}
	defer r.transport.CloseIdleConnections()
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range append(r.pools, r.witness) {
		g.Go(func() error { return p.run(ctx) })
	}
	err = r.measure(ctx)
	stop()
	if poolErr := g.Wait(); poolErr != nil {
		err = poolErr
	}
	if err != nil {
		return nil, err
	}
	return &r.report, nil
}

func resolve(ctx context.Context, address string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, a := range list {
		if a.Unmap().Is4() {
			return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
		}
	}
	return netip.AddrPortFrom(list[0], uint16(n)), nil
}

// A run is one measurement.
type run struct {
	o         Options
	addr      netip.AddrPort
	plan      *plan
	transport *http.Transport
	hub       *client.Client
	pools     []*pool
	witness   *pool // one reader without a filter
	journal   *journal
	press     *press
	published tally  // all that the hub acknowledged
	from      string // where readers that resume begin; set before there are any
	report    Report
}

func newRun(o Options, addr netip.AddrPort) (*run, error) {
	r := &run{o: o, addr: addr, plan: newPlan(&o), transport: &http.Transport{MaxIdleConnsPerHost: o.Publishers + 2}}
	var err error
	r.hub, err = client.New(strings.TrimSuffix(o.Hub, "/"),
		client.Options{HTTP: &http.Client{Transport: r.transport, Timeout: postDeadline}, Agent: "freshwire-bench", Token: func() (string, error) { return o.Token, nil }})
	if err != nil {
		return nil, err
	}
	r.journal = &journal{byURI: r.plan.byURI}
	for range o.Threads {
		p := newPool(&o, addr, len(r.plan.classes))
		p.target = func(rd *reader) string { return r.plan.target(rd.seat.class, &r.o, r.from) }
		r.pools = append(r.pools, p)
	}
	r.witness = newPool(&o, addr, len(r.plan.classes))
	r.witness.target = func(*reader) string { return "/v1/stream" }
	r.witness.plain, r.witness.witness = true, r.journal
	r.press = &press{o: &r.o, hub: r.hub, plan: r.plan, arrived: r.delivered,
		room: int64(float64(o.Window) * max(r.plan.meanFanout(), 1))}
	r.report = Report{Hub: r.hub.URL(), Mode: o.Mode, Filters: o.Filters, Connections: o.Connections,
		LingerMS: o.Linger.Seconds() * 1000, Offered: o.Rate}
	for _, s := range r.plan.seats {
		if s.stalled {
			r.report.Stalled++
		}
	}
	return r, nil
}

func (r *run) say(format string, a ...any) { fmt.Fprintf(r.o.Progress, format+"\n", a...) }

func (r *run) measure(ctx context.Context) error {
	first, err := r.sample(ctx)
	if err != nil {
		return err
	}
	if err := r.checkLimits(first); err != nil {
		return err
	}
	switch r.o.Mode {
	case Idle:
		return r.measureIdle(ctx)
	case Resume:
		return r.measureResume(ctx)
	}
	return r.measureLive(ctx)
}

// checkLimits says what is possible before it is tried.
func (r *run) checkLimits(hub sample) error {
	n := int64(r.o.Connections)
	if most := fileLimit() - ownFiles; fileLimit() > 0 && n > most {
		return fmt.Errorf("%d connections need as many descriptors here, and this process may have %d in all: "+
			"%d are possible, or raise the limit (ulimit -n)", n, fileLimit(), max(most, 0))
	}
	if most := hub.maxFiles - hub.openFiles - ownFiles; hub.maxFiles > 0 && n > most {
		return fmt.Errorf("%d connections need as many descriptors of the hub, which may have %d and has %d open: "+
			"%d are possible, or raise its limit", n, hub.maxFiles, hub.openFiles, max(most, 0))
	}
	if n > readersPerAddr && !sourceOf(r.addr.Addr(), 0).IsValid() {
		r.say("note: the hub is not on 127.0.0.1, so all streams come from one address, of which it may not grant so many")
	}
	return nil
}

func (r *run) sample(ctx context.Context) (sample, error) {
	return takeSample(ctx, &http.Client{Transport: r.transport, Timeout: postDeadline}, r.hub.URL(), r.o.Token)
}

// measureIdle opens the readers and holds them.
func (r *run) measureIdle(ctx context.Context) error {
	before, err := r.sample(ctx)
	if err != nil {
		return err
	}
	idle, err := r.openAll(ctx)
	if err != nil {
		return err
	}
	r.say("holding them for %v", r.o.Duration)
	from, err := r.moment(ctx)
	if err == nil {
		err = pause(ctx, r.o.Duration)
	}
	if err != nil {
		return err
	}
	to, err := r.moment(ctx)
	if err != nil {
		return err
	}
	r.report.window(from, to)
	r.report.samples(before, idle, to.hub)
	r.collect()
	return nil
}

// measureLive publishes to readers that are there.
func (r *run) measureLive(ctx context.Context) error {
	before, err := r.prepare(ctx)
	if err != nil {
		return err
	}
	idle, err := r.openAll(ctx)
	if err != nil {
		return err
	}
	_, base, err := r.token(ctx)
	if err != nil {
		return err
	}
	from, until, err := r.publish(ctx)
	if err != nil {
		return err
	}
	truths, end, err := r.truths(ctx, base)
	if err != nil {
		return err
	}
	if err := r.drain(ctx, truths); err != nil {
		return err
	}
	to, err := r.moment(ctx)
	if err != nil {
		return err
	}
	r.report.Published = uint64(until.written - from.written)
	r.report.PublishedRate = rateOf(r.report.Published, until.at.Sub(from.at))
	r.report.window(from, to)
	r.report.samples(before, idle, to.hub)
	r.collect()
	r.judge(truths, base, end)
	return nil
}

// measureResume publishes, and then opens readers that want all of it.
func (r *run) measureResume(ctx context.Context) error {
	before, err := r.prepare(ctx)
	if err != nil {
		return err
	}
	since, base, err := r.token(ctx)
	if err != nil {
		return err
	}
	r.from = since
	r.say("publishing %d notices", r.o.Notices)
	began := time.Now()
	// Nobody reads yet, so that a window would never close.
	r.press.room = 1 << 62
	t, err := r.press.run(ctx, began.Add(maxPhases*r.o.Patience), r.o.Notices)
	if err != nil {
		return err
	}
	r.published.count += t.count
	r.published.sum += t.sum
	r.report.Published = t.count
	r.report.PublishedRate = rateOf(t.count, time.Since(began))
	truths, end, err := r.truths(ctx, base)
	if err != nil {
		return err
	}
	for _, p := range r.pools {
		p.expect(truths)
	}
	if err := pause(ctx, settling); err != nil {
		return err
	}
	from, err := r.moment(ctx)
	if err != nil {
		return err
	}
	idle, err := r.openAll(ctx)
	if err != nil {
		return err
	}
	if err := r.drain(ctx, truths); err != nil {
		return err
	}
	to, err := r.moment(ctx)
	if err != nil {
		return err
	}
	r.report.window(from, to)
	r.report.samples(before, idle, to.hub)
	r.collect()
	r.judge(truths, base, end)
	return nil
}

// expect tells the readers beforehand what they are to get.
func (p *pool) expect(truths [][]uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, truth := range truths {
		if len(truth) > 0 {
			p.ledgers[c] = ledger{seqs: append([]uint64(nil), truth...), goal: truth[len(truth)-1]}
		}
	}
}

// token is the newest position of the hub.
func (r *run) token(ctx context.Context) (text string, seq uint64, err error) {
	text, err = r.hub.Token(ctx)
	if err != nil {
		return "", 0, err
	}
	_, digits, _ := strings.Cut(text, ".")
	seq, ok := parseDigits([]byte(digits))
	if !ok {
		return "", 0, fmt.Errorf("the hub's position %.60q is not of the form NAME.NUMBER", text)
	}
	return text, seq, nil
}

// moment notes what has happened up to now.
func (r *run) moment(ctx context.Context) (moment, error) {
	hub, err := r.sample(ctx)
	if err != nil {
		return moment{}, err
	}
	m := moment{at: hub.at, hub: hub, own: processorTime(), delivered: r.delivered(), written: r.press.written.Load()}
	last := int64(0)
	for _, p := range r.pools {
		m.bytes += p.bytes.Load()
		p.mu.Lock()
		last = max(last, p.stats.lastDelivery)
		p.mu.Unlock()
	}
	m.lastDelivery = time.Unix(0, last)
	return m, nil
}

// delivered counts the notices that all readers got.
func (r *run) delivered() (n uint64) {
	for _, p := range r.pools {
		n += p.delivered.Load()
	}
	return n
}

// collect adds up what the pools counted.
func (r *run) collect() {
	var s poolStats
	for _, p := range r.pools {
		p.mu.Lock()
		s.add(&p.stats)
		p.mu.Unlock()
	}
	rep := &r.report
	rep.Latency, rep.CatchUp = newSpread(&s.latency), newSpread(&s.catchUp)
	rep.Altered, rep.Resets, rep.Disconnects = s.altered, s.resets, s.disconnects
	rep.Dropped, rep.Malformed = s.dropped, s.malformed
	rep.Stuck = rep.Stuck || r.press.stuck.Load()
	if s.fault != nil {
		rep.Fault = s.fault.Error()
	}
}

// judge compares what each reader got with the journal, and the journal with
// what was acknowledged.
func (r *run) judge(truths [][]uint64, from, to uint64) {
	var v verdict
	for _, p := range r.pools {
		p.mu.Lock()
		audits := make([]*audit, len(p.ledgers))
		for _, rd := range p.readers {
			if rd.seat.stalled {
				continue
			}
			c := rd.seat.class
			if audits[c] == nil {
				audits[c] = newAudit(&p.ledgers[c], truths[c], from, to)
			}
			v.add(audits[c].judge(&rd.track))
		}
		p.mu.Unlock()
	}
	rep := &r.report
	rep.Expected, rep.Lost, rep.Duplicated = v.expected, v.lost, v.duplicated
	rep.Reordered, rep.Unwanted = v.reordered, v.unwanted
	rep.Unjournaled = r.unjournaled()
}

// unjournaled counts the updates that were acknowledged and of which there is not
// exactly one notice.
func (r *run) unjournaled() uint64 {
	seen, _ := r.journal.published()
	switch {
	case seen == r.published:
		return 0
	case seen.count < r.published.count:
		return r.published.count - seen.count
	}
	return max(seen.count-r.published.count, 1)
}

// errNoProgress reports that the hub took longer than the patience for something
// without which the run makes no sense.
var errNoProgress = errors.New("no progress")
