package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/freshwire/freshwire/hub/bench"
	"github.com/spf13/cobra"
)

// callbackSettings are those of a hub that is measured by callbacks: it may call
// loopback, and those who failed are called again soon enough to be waited for.
var callbackSettings = []string{"--callback-allow", "127.0.0.0/8", "--delivery-timeout", "3s", "--retry-schedule", "8s,8s,8s,8s,8s,8s,8s,8s"}

func (c *cli) benchCallbacks() *cobra.Command {
	o := bench.CallbackOptions{Progress: c.stderr, Ceiling: ceilingApart}
	var topics string
	cmd := &cobra.Command{
		Use:   "callbacks",
		Short: "subscribe many callbacks, publish, and check what each gets",
		Long: `Subscribes many callbacks to one topic, or each to a topic of its own (WebSub), each
with an address of its own in 127.77.0.0/16, publishes, and checks what each gets:
documents that follow one another, that have what was published in their range, are
signed, and came twice only if nobody had heard that they came.

Latency is measured first, with nothing else to do. Of one topic each update is one
call for each subscriber.

It measures deliveries a second, in turn with the calls that a plain client of
net/http makes in a process of its own: of the same bodies, with the same settings
and as many at once. That is what a hub can reach at most; "ratio" is how much of it
it reaches. Then some callbacks hang and some fail, and it is measured what the others
get; "kept" is how much of the ratio is left.

What is delivered is documents, and what comes meanwhile is merged into the next one:
a hub that is slow has less to deliver. So with --rate 0 there is always something
published that the average subscriber lacks (--backlog), and no more, and it is told
after how many of the calls more was waiting.

Without --hub it starts a hub of its own, which may call loopback and tries again
after seconds. A hub named by --hub needs callback-allow 127.0.0.0/8 and a short
retry-schedule, and nobody else may publish to it meanwhile.

It fails if a subscriber lacks something in the end, or got what it should not.`,
		Example: `  freshwire bench callbacks
  freshwire bench callbacks --topics each
  freshwire bench callbacks --rounds 10 --duration 5s -o json
  freshwire bench callbacks --subscribers 50 --hanging 20 --failing 0`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Hub, o.Topics = c.hub, bench.Topics(topics)
			var err error
			if o.Token, err = c.bearer(); err != nil {
				return err
			}
			for _, share := range []*float64{&o.Hanging, &o.Failing} {
				if *share == 0 {
					*share = -1
				}
			}
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			return c.measureCallbacks(cmd.Context(), o, !cmd.Flags().Changed("hub"))
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&o.Subscribers, "subscribers", 500, "callbacks, each at an address of its own")
	fl.Float64Var(&o.Hanging, "hanging", 10, "percentage of them that never answers, in the second part")
	fl.Float64Var(&o.Failing, "failing", 10, "percentage of them that answers 500, in the second part")
	fl.IntVar(&o.Rounds, "rounds", 3, "how often hub and plain client are measured in each part")
	fl.DurationVar(&o.Duration, "duration", 3*time.Second, "how long each time")
	fl.StringVar(&topics, "topics", string(bench.OneTopic), "what they follow: one, or each a page of its own")
	fl.Float64Var(&o.Rate, "rate", 0, "updates a second while the hub is measured (0: as many as the subscribers take)")
	fl.IntVar(&o.Backlog, "backlog", 4, "at --rate 0, updates of its topic that the average subscriber lacks")
	fl.IntVar(&o.Pages, "pages", 1000, "pages that the updates of one topic are of")
	fl.DurationVar(&o.Patience, "patience", 2*time.Minute, "how long to wait for what subscribers lack")
	cmd.AddCommand(c.benchCeiling())
	return c.chooseOutput(cmd)
}

// benchCeiling is the plain client, for a process of its own.
func (c *cli) benchCeiling() *cobra.Command {
	return &cobra.Command{
		Use: "ceiling", Hidden: true, Short: "make the calls of a plan on standard input", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p bench.CeilingPlan
			if err := json.NewDecoder(cmd.InOrStdin()).Decode(&p); err != nil {
				return usageError{err}
			}
			r, err := bench.Ceiling(cmd.Context(), p)
			if err != nil {
				return err
			}
			return json.NewEncoder(c.stdout).Encode(r)
		},
	}
}

// ceilingApart makes the calls of p in another process of this executable.
func ceilingApart(ctx context.Context, p bench.CeilingPlan) (r bench.CeilingResult, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	plan, err := json.Marshal(p)
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, self, "bench", "callbacks", "ceiling")
	cmd.Args[0] = "freshwire"
	cmd.Env = withoutSettings(os.Environ())
	cmd.Stdin = bytes.NewReader(plan)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %.200s", err, exit.Stderr)
	}
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

// measureCallbacks runs the benchmark, on a hub of its own if so asked.
func (c *cli) measureCallbacks(ctx context.Context, o bench.CallbackOptions, own bool) error {
	return c.onHub(ctx, own, callbackSettings, func(ctx context.Context, url string) (report, error) {
		if own {
			o.Hub = url
		}
		r, err := bench.Callbacks(ctx, o)
		return report{r, func(w io.Writer) { drawCallbacks(w, r) }, r.Err}, err
	})
}

// drawCallbacks is a report for people.
func drawCallbacks(w io.Writer, r *bench.CallbackReport) {
	part := func(name string, p bench.CallbackPart) {
		field(w, name, fmt.Sprintf("%d of %d subscribers", p.Subscribers, r.Subscribers))
		size := 0.0
		if p.Hub.Calls > 0 {
			size = float64(p.Hub.Bytes) / float64(p.Hub.Calls)
		}
		field(w, "  hub", fmt.Sprintf("%.0f deliveries/s of %.0f bytes, %.0f µs of a processor each, more waiting after %.1f %%",
			p.Hub.Rate, size, p.Hub.PerCall, 100*p.Hub.Waiting))
		field(w, "  plain net/http", fmt.Sprintf("%.0f calls/s, %.0f µs of a processor each, %d failed", p.Ceiling.Rate, p.Ceiling.PerCall, p.CeilingFailed))
		field(w, "  ratio", fmt.Sprintf("%.2f", p.Ratio))
	}
	field(w, "subscribed", fmt.Sprintf("%d in %.2f s", r.Subscribers, r.SubscribeSeconds))
	field(w, "latency", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, max %.2f ms, of %d updates", r.Latency.P50, r.Latency.P99, r.Latency.Max, r.Updates))
	offered := "as many as the subscribers take"
	if r.Offered > 0 {
		offered = fmt.Sprintf("%.6g/s", r.Offered)
	}
	field(w, "updates", fmt.Sprintf("topics: %s, %s", r.Topics, offered))
	part("well", r.Well)
	if r.Hanging+r.Failing > 0 {
		part(fmt.Sprintf("beside %d hanging, %d failing", r.Hanging, r.Failing), r.Disturbed)
		field(w, "kept", fmt.Sprintf("%.2f of the ratio", r.Kept))
		field(w, "healed", fmt.Sprintf("all had everything after %.2f s", r.HealSeconds))
	}
	field(w, "exactness", fmt.Sprintf("%d deliveries of %d documents: %d retried, %d repeated, %d gaps, %d wrong, %d bad signatures, %d subscribers lack something",
		r.Deliveries, r.Documents, r.Retried, r.Repeated, r.Gaps, r.Wrong, r.BadSignatures, r.Missing))
}
