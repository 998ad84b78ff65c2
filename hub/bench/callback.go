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
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"golang.org/x/sync/errgroup"
)

// Topics say what the subscribers follow.
type Topics string

const (
	OneTopic  Topics = "one"  // all of them the same
	EachTopic Topics = "each" // each a page of its own
)

// CallbackOptions say how callbacks are measured. The zero value of each field but Hub
// is its default.
type CallbackOptions struct {
	Hub         string        // address of the hub, http://HOST:PORT
	Token       string        // that the hub asks for; "" means none
	Subscribers int           // each with an address of its own; 0 means 500
	Hanging     float64       // percentage that never answers, in the second part; negative means none, 0 means 10
	Failing     float64       // percentage that answers 500, likewise
	Rounds      int           // windows of each kind in each part; 0 means 3
	Duration    time.Duration // of a window; 0 means 3 s
	Topics      Topics        // "" means OneTopic
	Rate        float64       // updates a second in a window of the hub; 0 means as many as subscribers take
	Backlog     int           // at Rate 0, updates of its topic that the average subscriber lacks; 0 means 4
	Pages       int           // of OneTopic; 0 means 1,000
	Patience    time.Duration // for subscribers to get what they lack; 0 means 2 min
	Progress    io.Writer     // lines on how far the run is; nil means none
	// Ceiling makes the calls that the hub is compared with; nil means [Ceiling] in
	// this process. A fair one is in a process of its own, as the hub is.
	Ceiling func(ctx context.Context, p CeilingPlan) (CeilingResult, error)
}

const (
	// maxSubscribers is less than a hub takes of one owner, 1,000, with room for those
	// who are there already.
	maxSubscribers = 900
	// subscribing is how many subscriptions are asked for at once.
	subscribing = 16
	// rampUp is how long a window is prepared: connections are opened, queues fill.
	rampUp = 700 * time.Millisecond
	// sampledBodies bounds the bodies that the calls of the ceiling have.
	sampledBodies = 64
	// callbackLook is how often is looked whether all have what they lack.
	callbackLook = 10 * time.Millisecond
	// calm is the pause between two updates whose latency is measured: whatever one of
	// them brought about has ended.
	calm = 20 * time.Millisecond
	// fewestLatencies is of how many updates latency is at least.
	fewestLatencies = 5
)

func (o CallbackOptions) withDefaults() (CallbackOptions, error) {
	defaultTo(&o.Subscribers, 500)
	defaultTo(&o.Hanging, 10)
	defaultTo(&o.Failing, 10)
	o.Hanging, o.Failing = max(o.Hanging, 0), max(o.Failing, 0)
	defaultTo(&o.Rounds, 3)
	defaultTo(&o.Duration, 3*time.Second)
	defaultTo(&o.Topics, OneTopic)
	if defaultTo(&o.Pages, 1000); o.Topics == EachTopic {
		o.Pages = o.Subscribers
	}
	defaultTo(&o.Backlog, 4)
	defaultTo(&o.Patience, 2*time.Minute)
	defaultTo(&o.Progress, io.Discard)
	if o.Ceiling == nil {
		o.Ceiling = Ceiling
	}
	u, err := url.Parse(o.Hub)
	switch {
	case err != nil:
		return o, fmt.Errorf("address of the hub: %w", err)
	case u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "":
		return o, fmt.Errorf("address of the hub %q: want http://HOST:PORT", o.Hub)
	case o.Subscribers < 1 || o.Subscribers > maxSubscribers:
		return o, fmt.Errorf("%d subscribers: want 1 to %d", o.Subscribers, maxSubscribers)
	case !(o.Hanging+o.Failing < 100):
		return o, fmt.Errorf("%v %% hanging and %v %% failing: somebody must be well", o.Hanging, o.Failing)
	case o.Topics != OneTopic && o.Topics != EachTopic:
		return o, fmt.Errorf("topics %q: want one or each", o.Topics)
	case !(o.Rate >= 0 && o.Rate <= maxRate):
		return o, fmt.Errorf("a rate of %v: want 0 to %d updates a second", o.Rate, maxRate)
	case o.Rounds < 1 || o.Backlog < 1 || o.Pages < 1 || o.Duration < 1 || o.Patience < 1:
		return o, errors.New("a number below 1")
	}
	return o, nil
}

// Check reports the first option that makes no sense.
func (o CallbackOptions) Check() error {
	_, err := o.withDefaults()
	return err
}

// A callbackRun is one measurement of callbacks.
type callbackRun struct {
	o         CallbackOptions
	transport *http.Transport
	hub       *client.Client
	host      string // of the pages, this run's own
	callbacks *callbacks
	truth     truth
	report    CallbackReport
}

// Callbacks has many subscribers of one topic called by a hub, and by a plain client of
// net/http with the same bodies, and compares. When it returns nobody is subscribed any
// more. What it published stays in the hub.
func Callbacks(ctx context.Context, o CallbackOptions) (report *CallbackReport, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	r := &callbackRun{o: o, transport: &http.Transport{MaxIdleConnsPerHost: subscribing}}
	defer r.transport.CloseIdleConnections()
	r.hub, err = client.New(strings.TrimSuffix(o.Hub, "/"), client.Options{HTTP: r.client(), Agent: "freshwire-bench",
		Token: func() (string, error) { return o.Token, nil }})
	if err != nil {
		return nil, err
	}
	name := make([]byte, 4)
	rand.Read(name)
	r.host = hex.EncodeToString(name) + ".callbacks.bench"
	r.report = CallbackReport{Hub: r.hub.URL(), Topics: o.Topics, Subscribers: o.Subscribers, Offered: o.Rate}
	if r.callbacks, err = openCallbacks(o.Subscribers, &r.truth); err != nil {
		return nil, err
	}
	defer r.callbacks.close()
	for i, c := range r.callbacks.all {
		c.page, c.topic = allPages, r.hub.URL()+"/topics/host:"+r.host
		if o.Topics == EachTopic {
			c.page, c.topic = i, r.hub.URL()+"/topics/resource?uri="+url.QueryEscape(r.pageURI(i))
		}
	}
	if err := r.measure(ctx); err != nil {
		return nil, err
	}
	return &r.report, nil
}

func (r *callbackRun) client() *http.Client {
	return &http.Client{Transport: r.transport, Timeout: postDeadline}
}

func (r *callbackRun) say(format string, a ...any) { fmt.Fprintf(r.o.Progress, format+"\n", a...) }

func (r *callbackRun) measure(ctx context.Context) error {
	began := time.Now()
	if err := r.subscribe(ctx); err != nil {
		return err
	}
	r.report.SubscribeSeconds = time.Since(began).Seconds()
	err := r.measureLatency(ctx)
	if err != nil {
		return err
	}
	if r.report.Well, err = r.part(ctx); err != nil {
		return err
	}
	n := float64(r.o.Subscribers)
	r.report.Hanging, r.report.Failing = int(n*r.o.Hanging/100), int(n*r.o.Failing/100)
	if r.report.Hanging+r.report.Failing > 0 {
		r.callbacks.disturb(r.report.Hanging, r.report.Failing)
		if r.report.Disturbed, err = r.part(ctx); err != nil {
			return err
		}
		r.callbacks.disturb(0, 0)
		r.report.Kept = r.report.Disturbed.Ratio / r.report.Well.Ratio
	}
	r.say("waiting for all to have everything")
	began = time.Now()
	if err := r.publish(ctx, r.news()...); err != nil { // who was given up waits for news
		return err
	}
	r.report.Missing = r.settle(ctx, r.callbacks.all)
	r.report.HealSeconds = time.Since(began).Seconds()
	r.judge()
	return r.post(ctx, "unsubscribe")
}

// subscribe makes all subscriptions and waits for the first delivery of each.
func (r *callbackRun) subscribe(ctx context.Context) error {
	r.say("%d subscribers", r.o.Subscribers)
	if err := r.post(ctx, "subscribe"); err != nil {
		return err
	}
	for until := time.Now().Add(r.o.Patience); r.callbacks.verified.Load() < int64(r.o.Subscribers); {
		if time.Now().After(until) {
			return fmt.Errorf("%w: of %d subscribers %d were asked whether they are; may the hub call 127.0.0.0/8 (callback-allow)?",
				errNoProgress, r.o.Subscribers, r.callbacks.verified.Load())
		}
		if err := pause(ctx, callbackLook); err != nil {
			return err
		}
	}
	// When the hub has read the last answer is not known: whoever lacks the first update
	// gets one of the next.
	for until := time.Now().Add(r.o.Patience); ; {
		if err := r.publish(ctx, r.news()...); err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		err := r.wait(short, r.callbacks.all)
		cancel()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(until) {
			return fmt.Errorf("%w: some subscribers get nothing", errNoProgress)
		}
	}
}

// post asks for something for all subscribers.
func (r *callbackRun) post(ctx context.Context, mode string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(subscribing)
	for _, c := range r.callbacks.all {
		g.Go(func() error {
			form := url.Values{"hub.mode": {mode}, "hub.topic": {c.topic}, "hub.callback": {c.url}, "hub.secret": {c.secret}}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.hub.URL()+"/websub", strings.NewReader(form.Encode()))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if r.o.Token != "" {
				req.Header.Set("Authorization", "Bearer "+r.o.Token)
			}
			resp, err := r.client().Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode == http.StatusAccepted {
				return nil
			}
			why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
			return fmt.Errorf("the hub refuses to %s: %s: %s", mode, resp.Status, why)
		})
	}
	return g.Wait()
}

// part measures the hub and the ceiling in turn, so that what else happens on the
// machine is the same for both.
func (r *callbackRun) part(ctx context.Context) (p CallbackPart, err error) {
	well := r.callbacks.well()
	for round := range r.o.Rounds {
		bodies, err := r.hubWindow(ctx, well, &p.Hub)
		if err != nil {
			return p, err
		}
		plan := CeilingPlan{Duration: r.o.Duration, Bodies: bodies}
		for _, c := range well {
			plan.Targets = append(plan.Targets, CeilingTarget{c.url, c.secret})
		}
		plain, err := r.o.Ceiling(ctx, plan)
		if err != nil {
			return p, fmt.Errorf("calls without a hub: %w", err)
		}
		r.callbacks.forgetPlain()
		p.Ceiling.add(plain.Calls, plain.Seconds, plain.CPU)
		p.CeilingFailed += plain.Failed
		r.say("round %d: %.0f deliveries/s by the hub, %.0f calls/s without it", round+1, p.Hub.Rate, p.Ceiling.Rate)
	}
	p.Subscribers = len(well)
	if p.Ceiling.Rate > 0 {
		p.Ratio = p.Hub.Rate / p.Ceiling.Rate
	}
	return p, nil
}

// hubWindow publishes for a while and counts what those who are well get. It returns
// bodies that they got, when they have had everything.
func (r *callbackRun) hubWindow(ctx context.Context, well []*callback, into *Calls) ([]CeilingBody, error) {
	publishing, stop := context.WithCancel(ctx)
	published := make(chan error, 1)
	go func() { published <- r.keepPublishing(publishing, well) }()
	end := func() error {
		stop()
		return <-published
	}
	if err := pause(ctx, rampUp); err != nil {
		return nil, errors.Join(err, end())
	}
	first := well[0].mark()
	before, err := r.callbackMoment(ctx, well)
	if err == nil {
		err = pause(ctx, r.o.Duration)
	}
	if err != nil {
		return nil, errors.Join(err, end())
	}
	after, err := r.callbackMoment(ctx, well)
	if err = errors.Join(err, end()); err != nil {
		return nil, err
	}
	into.add(after.calls-before.calls, after.at.Sub(before.at).Seconds(), after.cpu-before.cpu)
	into.Bytes += after.bytes - before.bytes
	into.wait(after.waiting-before.waiting, after.calls-before.calls)
	waiting, cancel := context.WithTimeout(ctx, r.o.Patience)
	defer cancel()
	if err := r.wait(waiting, well); err != nil {
		return nil, errors.Join(ctx.Err(), fmt.Errorf("%w: those who are well lack something", errNoProgress))
	}
	return well[0].since(first), nil
}

// A callbackMoment is what has happened up to then.
type callbackMoment struct {
	at           time.Time
	calls, bytes uint64
	waiting      uint64 // calls when whose answer was given more was waiting
	cpu          float64
}

func (r *callbackRun) callbackMoment(ctx context.Context, of []*callback) (callbackMoment, error) {
	s, err := takeSample(ctx, r.client(), r.hub.URL(), r.o.Token)
	if err != nil {
		return callbackMoment{}, err
	}
	m := callbackMoment{at: time.Now(), cpu: s.cpu}
	for _, c := range of {
		m.calls += c.taken.Load()
		m.bytes += c.bytes.Load()
		m.waiting += c.waiting.Load()
	}
	return m, nil
}

// keepPublishing publishes at the rate, or as subscribers take it, until ctx ends.
func (r *callbackRun) keepPublishing(ctx context.Context, well []*callback) error {
	began, sent := time.Now(), 0
	for {
		pages := r.lacking(well)
		wait := windowLook
		if r.o.Rate > 0 {
			pages = r.news()
			wait = time.Until(began.Add(time.Duration(float64(sent) / r.o.Rate * float64(time.Second))))
		}
		if len(pages) == 0 || r.o.Rate > 0 {
			if pause(ctx, wait) != nil {
				return nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		sent++
		if err := r.publish(context.WithoutCancel(ctx), pages...); err != nil {
			return err
		}
	}
}

// news are the pages of the next update of each topic.
func (r *callbackRun) news() (pages []int) {
	if r.o.Topics == OneTopic {
		return []int{r.truth.count() % r.o.Pages}
	}
	for i := range r.o.Pages {
		pages = append(pages, i)
	}
	return pages
}

// lacking are the pages of the next update of each topic whose subscribers soon have
// nothing that waits for them.
func (r *callbackRun) lacking(well []*callback) (pages []int) {
	if r.o.Topics == OneTopic {
		sum := int64(0)
		for _, c := range well {
			sum += c.number.Load()
		}
		if published := int64(r.truth.count()); published*int64(len(well))-sum < int64(r.o.Backlog*len(well)) {
			return r.news()
		}
		return nil
	}
	for _, c := range well {
		if r.truth.lacks(c.page, c.number.Load()) < r.o.Backlog {
			pages = append(pages, c.page)
		}
	}
	return pages
}

func (r *callbackRun) pageURI(page int) string { return fmt.Sprintf("http://%s/%d", r.host, page) }

// publish writes the next version of pages, each of which is one position of the
// journal: nobody else publishes.
func (r *callbackRun) publish(ctx context.Context, pages ...int) error {
	for len(pages) > 0 {
		n := min(len(pages), maxPost)
		if err := r.publishSome(ctx, pages[:n]); err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
		pages = pages[n:]
	}
	return nil
}

func (r *callbackRun) publishSome(ctx context.Context, pages []int) error {
	number := r.truth.next(len(pages))
	batch := make([]client.Update, len(pages))
	for i, page := range pages {
		batch[i] = client.Update{URI: r.pageURI(page), Version: strconv.Itoa(number + i)}
	}
	r.callbacks.published.Store(time.Now().UnixNano())
	res, err := r.hub.Update(ctx, batch...)
	if err != nil {
		return err
	}
	_, digits, _ := strings.Cut(res.Cursor, ".")
	seq, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return fmt.Errorf("the hub's position %.60q is not of the form NAME.NUMBER", res.Cursor)
	}
	for i, page := range pages {
		r.truth.add(seq-uint64(len(pages)-1-i), page, number+i)
	}
	return nil
}

// measureLatency measures how late subscribers hear of an update when there is nothing
// else to do. Of one topic each update is one call for each of them.
func (r *callbackRun) measureLatency(ctx context.Context) error {
	r.say("measuring latency")
	took := &latencies{}
	for began := time.Now(); time.Since(began) < r.o.Duration || r.report.Updates < fewestLatencies; r.report.Updates++ {
		if err := pause(ctx, calm); err != nil {
			return err
		}
		r.callbacks.timing.Store(took)
		pages := r.news()
		if err := r.publish(ctx, pages[r.report.Updates%len(pages)]); err != nil {
			return err
		}
		waiting, cancel := context.WithTimeout(ctx, r.o.Patience)
		err := r.wait(waiting, r.callbacks.all)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // what is lost will be found
			r.say("%d subscribers do not get an update", r.lack(r.callbacks.all))
			break
		}
	}
	r.callbacks.timing.Store(nil)
	r.report.Latency = took.spread()
	return nil
}

// wait returns when all of some subscribers have had what was published last.
func (r *callbackRun) wait(ctx context.Context, of []*callback) error {
	for r.lack(of) > 0 {
		if err := pause(ctx, callbackLook); err != nil {
			return err
		}
	}
	return nil
}

// lack is how many of some subscribers lack something.
func (r *callbackRun) lack(of []*callback) (lacking int) {
	for _, c := range of {
		if r.truth.lacks(c.page, c.number.Load()) > 0 {
			lacking++
		}
	}
	return lacking
}

// settle waits for everybody as long as the patience lasts and returns how many lack
// something then.
func (r *callbackRun) settle(ctx context.Context, of []*callback) (lacking int) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Patience)
	defer cancel()
	if r.wait(ctx, of) == nil {
		return 0
	}
	return r.lack(of)
}
