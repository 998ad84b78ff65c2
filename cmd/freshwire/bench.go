package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/freshwire/freshwire/hub/bench"
	"github.com/spf13/cobra"
)

func (c *cli) bench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure a hub from outside",
		Long:  `Measures a hub from outside: what it does in a second, and whether it does it right.`,
		Example: `  freshwire bench stream                       # 1,000 readers for 10 s
  freshwire bench callbacks                    # 500 subscribers that are called
  freshwire bench peers                        # two hubs that are peers
  freshwire bench stream --help`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.benchStream(), c.benchCallbacks(), c.benchPeers())
	return cmd
}

// benchModes are the flags that choose another mode than live.
type benchModes struct{ resume, idle bool }

func (c *cli) benchStream() *cobra.Command {
	o := bench.Options{Progress: c.stderr}
	var modes benchModes
	var filters string
	cmd := &cobra.Command{
		Use:   "stream",
		Short: "open many streams, publish, and check what each reader gets",
		Long: `Opens many streams, publishes updates, and checks that each reader gets every notice
that passes its filter, once and in order. It reports rates, latency from the
update to the reader, and what the hub needed for it: processor time and memory.

Without --hub it starts a hub of its own: another process of this executable, on a
free port and a temporary folder. A hub named by --hub is written to: the URIs
http://N.bench/… come into its store, and stay there. Such a hub must be on
127.0.0.1 to take more than 256 streams: they then come from 127.0.0.2 and up.

--filters says what the readers ask for: all (everything), sparse (one URI of its
own), host (one of ten hosts), or mix: of ten readers one asks for everything, two
for a host, two for a prefix that covers a hundredth, five for one URI.

With --rate 0 as many notices are published as the readers can take, so latency
then tells how far behind they are kept (--window) and not how fast a notice is.
deliveries_per_hub_cpu_s is the figure that other work on the machine changes least.

It fails if a reader lost a notice, or got one twice, late, or not meant for it.`,
		Example: `  freshwire bench stream                                       # as fast as 1,000 readers can take it
  freshwire bench stream --connections 10000 --rate 2 --duration 30s   # latency
  freshwire bench stream --connections 5000 --filters sparse --rate 3000
  freshwire bench stream --rate 200 --stalled 1                # 1 % do not read
  freshwire bench stream --resume --notices 100000 --connections 4
  freshwire bench stream --idle --connections 10000 -o json    # memory of a connection`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Filters, o.Hub = bench.Filters(filters), c.hub
			var err error
			if o.Token, err = c.bearer(); err != nil {
				return err
			}
			switch {
			case modes.idle && modes.resume:
				return usagef("--idle and --resume: give one of them")
			case modes.idle:
				o.Mode = bench.Idle
			case modes.resume:
				o.Mode = bench.Resume
			}
			if o.Warmup == 0 {
				o.Warmup = -1
			}
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			return c.measure(cmd.Context(), o, !cmd.Flags().Changed("hub"))
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&o.Connections, "connections", 1000, "readers")
	fl.Float64Var(&o.Rate, "rate", 0, "notices offered a second (0: as fast as the readers get them)")
	fl.IntVar(&o.Window, "window", 256, "at --rate 0, how many notices the average reader may lack")
	fl.IntVar(&o.Notices, "notices", 0, "publish so many and stop (0: for as long as --duration; with --resume 20,000)")
	fl.IntVar(&o.Size, "size", 300, "bytes of a notice on the wire, about")
	fl.StringVar(&filters, "filters", string(bench.FilterAll), "what the readers ask for: all, sparse, host or mix")
	fl.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure")
	fl.DurationVar(&o.Warmup, "warmup", time.Second, "how long to publish before that; without effect with --notices")
	fl.DurationVar(&o.Linger, "linger", 0, "for how long the hub may gather notices")
	fl.Float64Var(&o.Stalled, "stalled", 0, "percentage of the readers that stop reading once they are open")
	fl.IntVar(&o.Publishers, "publishers", 4, "requests in flight")
	fl.IntVar(&o.Threads, "threads", 0, "loops that read (0: half of the processors)")
	fl.DurationVar(&o.Patience, "patience", 30*time.Second, "how long to wait for a hub that makes no progress")
	fl.BoolVar(&o.Portable, "portable", false, "read by a goroutine for each connection, not by epoll")
	fl.BoolVar(&modes.resume, "resume", false, "publish first, then have all readers read it from the beginning")
	fl.BoolVar(&modes.idle, "idle", false, "publish nothing: what does a silent connection cost?")
	return c.chooseOutput(cmd)
}

// measure runs the benchmark, on a hub of its own if so asked.
func (c *cli) measure(ctx context.Context, o bench.Options, own bool) error {
	return c.onHub(ctx, own, nil, func(ctx context.Context, url string) (report, error) {
		if own {
			o.Hub = url
		}
		r, err := bench.Run(ctx, o)
		return report{r, func(w io.Writer) { drawBench(w, r) }, r.Err}, err
	})
}

// A report is what a benchmark found, drawn for people, and what was wrong with the hub.
type report struct {
	value any
	draw  func(w io.Writer)
	wrong func() error
}

// onHub measures a hub, if so asked one of its own with some settings, and reports. A
// benchmark of a hub that died ends with why it did.
func (c *cli) onHub(ctx context.Context, own bool, settings []string, measure func(ctx context.Context, url string) (report, error)) (err error) {
	url := ""
	if own {
		h, startErr := startChild(ctx, settings...)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, h.stop()) }()
		alive, cancel := h.whileAlive(ctx)
		defer cancel()
		ctx, url = alive, h.url
	}
	r, err := measure(ctx, url)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	if err := c.one(r.value, r.draw); err != nil {
		return err
	}
	return r.wrong()
}

// drawBench is a report for people.
func drawBench(w io.Writer, r *bench.Report) {
	spread := func(s bench.Spread) string {
		return fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, max %.2f ms", s.P50, s.P99, s.Max)
	}
	field(w, "connections", fmt.Sprintf("%d, opened in %.2f s", r.Connections, r.ConnectSeconds))
	if r.Stalled > 0 {
		field(w, "stalled", fmt.Sprintf("%d, of which the hub let %d go", r.Stalled, r.Dropped))
	}
	field(w, "measured", fmt.Sprintf("%.2f s", r.Seconds))
	if r.Mode != bench.Idle {
		offered := "as many as the readers take"
		if r.Offered > 0 {
			offered = fmt.Sprintf("%.6g/s", r.Offered)
		}
		field(w, "notices", fmt.Sprintf("%d of %d bytes, filters %s", r.Published, r.NoticeBytes, r.Filters))
		field(w, "published", fmt.Sprintf("%.0f/s, offered %s", r.PublishedRate, offered))
		field(w, "deliveries", fmt.Sprintf("%d, %.0f/s, %.1f MB/s", r.Deliveries, r.DeliveryRate, r.ByteRate/1e6))
		field(w, "per CPU-second", fmt.Sprintf("%.0f deliveries", r.DeliveriesPer))
	}
	switch r.Mode {
	case bench.Live:
		field(w, "latency", spread(r.Latency))
	case bench.Resume:
		field(w, "caught up in", spread(r.CatchUp))
	}
	field(w, "CPU of the hub", fmt.Sprintf("%.2f s, %.1f %% of a processor", r.HubCPU, 100*r.HubShare))
	field(w, "CPU of the bench", fmt.Sprintf("%.2f s", r.BenchCPU))
	m := r.HubMemory
	field(w, "hub memory", fmt.Sprintf("%.1f MB before, %.1f MB with the readers, %.1f MB after",
		float64(m.Before)/1e6, float64(m.Idle)/1e6, float64(m.After)/1e6))
	field(w, "per connection", fmt.Sprintf("%.1f KB, %.1f KB after", r.IdlePerConnection/1e3, r.LoadedPerConnection/1e3))
	g := r.HubGoroutines
	field(w, "hub goroutines", fmt.Sprintf("%d before, %d with the readers, %d after", g.Before, g.Idle, g.After))
	if r.Mode != bench.Idle {
		field(w, "expected", fmt.Sprintf("%d deliveries in all", r.Expected))
		field(w, "exactness", fmt.Sprintf("%d lost, %d duplicated, %d reordered, %d unwanted, %d altered, %d updates without a notice",
			r.Lost, r.Duplicated, r.Reordered, r.Unwanted, r.Altered, r.Unjournaled))
	}
	field(w, "connections lost", fmt.Sprintf("%d, resets %d, malformed %d", r.Disconnects, r.Resets, r.Malformed))
	if r.Stuck {
		field(w, "stuck", "yes: the hub made no progress for longer than --patience")
	}
}
