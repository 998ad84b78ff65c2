package bench

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A CeilingPlan says which calls are made without a hub.
type CeilingPlan struct {
	Targets  []CeilingTarget `json:"targets"`
	Bodies   []CeilingBody   `json:"bodies"` // each target gets them in turn
	Duration time.Duration   `json:"duration"`
}

// A CeilingTarget is one who is called.
type CeilingTarget struct {
	URL    string `json:"url"`
	Secret string `json:"secret"`
}

// A CeilingBody is what one call brings.
type CeilingBody struct {
	Bytes []byte `json:"bytes"`
}

// A CeilingResult is what came of it.
type CeilingResult struct {
	Calls   uint64  `json:"calls"` // that were answered 200
	Failed  uint64  `json:"failed"`
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu"` // of this process, in seconds
}

const (
	// ceilingCalls is how many calls are made at once: as many as a hub makes.
	ceilingCalls = 256
	// ceilingPerHost is how many connections to one host wait: as many as with a hub.
	ceilingPerHost = 8
	// ceilingTimeout bounds one call.
	ceilingTimeout = 10 * time.Second
)

// Ceiling calls the targets of p in turn, each one after the other and many at once, by
// a plain client of net/http with the settings of a hub's: what a hub can reach at most.
// What is signed is signed beforehand.
func Ceiling(ctx context.Context, p CeilingPlan) (CeilingResult, error) {
	if len(p.Targets) == 0 || len(p.Bodies) == 0 {
		return CeilingResult{}, errors.New("there is nobody to call, or nothing to bring")
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{DialContext: dialer.DialContext, MaxIdleConns: 4 * ceilingCalls * ceilingPerHost, MaxIdleConnsPerHost: ceilingPerHost,
		IdleConnTimeout: 30 * time.Second, DisableCompression: true, ResponseHeaderTimeout: 30 * time.Second, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true)
	defer transport.CloseIdleConnections()
	c := &ceiling{plan: p, client: &http.Client{Transport: transport, Timeout: ceilingTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	c.waiting = make(chan *ceilingTarget, len(p.Targets))
	for _, t := range p.Targets {
		target := &ceilingTarget{CeilingTarget: t}
		for _, b := range p.Bodies {
			mac := hmac.New(sha256.New, []byte(t.Secret))
			mac.Write(b.Bytes)
			target.signatures = append(target.signatures, "sha256="+hex.EncodeToString(mac.Sum(nil)))
		}
		c.waiting <- target
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var calls sync.WaitGroup
	for range min(ceilingCalls, len(p.Targets)) {
		calls.Go(func() { c.work(ctx) })
	}
	err := pause(ctx, rampUp)
	from, failed, began, cpu := c.done.Load(), c.failed.Load(), time.Now(), processorTime()
	if err == nil {
		err = pause(ctx, p.Duration)
	}
	r := CeilingResult{Calls: c.done.Load() - from, Failed: c.failed.Load() - failed, Seconds: time.Since(began).Seconds(),
		CPU: (processorTime() - cpu).Seconds()}
	stop()
	calls.Wait()
	return r, err
}

type ceiling struct {
	plan         CeilingPlan
	client       *http.Client
	waiting      chan *ceilingTarget
	done, failed atomic.Uint64
}

// A ceilingTarget is called by one at a time.
type ceilingTarget struct {
	CeilingTarget
	signatures []string // of each body
	calls      int
}

func (c *ceiling) work(ctx context.Context) {
	for ctx.Err() == nil {
		t := <-c.waiting
		if err := c.call(ctx, t); err == nil {
			c.done.Add(1)
		} else if ctx.Err() == nil {
			c.failed.Add(1)
		}
		t.calls++
		c.waiting <- t
	}
}

func (c *ceiling) call(ctx context.Context, t *ceilingTarget) error {
	n := t.calls % len(c.plan.Bodies)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(c.plan.Bodies[n].Bytes))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Link", `<http://127.0.0.1:8420/websub>; rel="hub", <http://127.0.0.1:8420/topics/all>; rel="self"`)
	r.Header.Set("User-Agent", "freshwire-bench")
	r.Header.Set("Webhook-Id", "ceiling.prompt.0-0")
	r.Header.Set("Webhook-Timestamp", "1700000000")
	r.Header.Set("Webhook-Signature", "v1,"+t.signatures[n][:44])
	r.Header.Set("X-Hub-Signature", t.signatures[n])
	r.Header.Set(headerCeiling, "1")
	resp, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s (%w)", resp.Status, err)
	}
	return nil
}
