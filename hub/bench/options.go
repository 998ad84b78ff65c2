package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Mode says what a run measures.
type Mode string

const (
	Live   Mode = "live"   // readers that are there when the notices are written
	Resume Mode = "resume" // readers that come after all are written, and read them all
	Idle   Mode = "idle"   // readers that get nothing
)

// Filters says what the readers ask for.
type Filters string

const (
	FilterAll    Filters = "all"    // all notices
	FilterSparse Filters = "sparse" // one URI of its own
	FilterHost   Filters = "host"   // one of ten hosts
	// FilterMix is, of ten readers: one of all notices, two of a host, two of a
	// prefix that covers a hundredth, five of one URI.
	FilterMix Filters = "mix"
)

// AllFilters lists them, for a command's help.
var AllFilters = []Filters{FilterAll, FilterSparse, FilterHost, FilterMix}

// Options says what to measure. The zero value of each field but Hub is its default.
type Options struct {
	Hub         string        // address of the hub, http://HOST:PORT
	Token       string        // that the hub asks for; "" means none
	Mode        Mode          // "" means Live
	Filters     Filters       // "" means FilterAll
	Connections int           // readers; 0 means 1,000
	Rate        float64       // notices offered a second; 0 means as fast as the readers get them
	Window      int           // at Rate 0, notices written that the average reader lacks; 0 means 256
	Notices     int           // stop publishing after so many; 0 means by Duration (of Resume: 20,000)
	Size        int           // of a notice on the wire, in bytes, about; 0 means 300
	Duration    time.Duration // of the measurement; 0 means 10 s
	Warmup      time.Duration // publishing before it; negative means none, 0 means 1 s
	Linger      time.Duration // for how long the hub may gather notices, asked for by each reader
	Stalled     float64       // percentage of the readers that stop reading once they are open
	Publishers  int           // requests in flight; 0 means 4
	Threads     int           // loops that read; 0 means half of the processors
	// Patience is how long the hub may make no progress before a phase ends; 0
	// means 30 s.
	Patience time.Duration
	Portable bool      // read by goroutines also where epoll is to be had
	Progress io.Writer // lines on how far the run is; nil means none
}

const (
	// maxConnections is more than the ports of the loopback network of one hub
	// were tried with.
	maxConnections = 1_000_000
	// maxFrameSize bounds a notice: the padding is a bucket, sent once for each URI.
	maxFrameSize = 2000
	// maxRate is more than any hub writes; beyond it the pace is lost in rounding.
	maxRate = 10_000_000
)

// withDefaults fills in what is not said, and checks the rest.
func (o Options) withDefaults() (Options, error) {
	defaultTo(&o.Mode, Live)
	defaultTo(&o.Filters, FilterAll)
	defaultTo(&o.Connections, 1000)
	defaultTo(&o.Window, 256)
	defaultTo(&o.Size, 300)
	defaultTo(&o.Duration, 10*time.Second)
	defaultTo(&o.Warmup, time.Second)
	defaultTo(&o.Publishers, 4)
	defaultTo(&o.Threads, max(1, runtime.NumCPU()/2))
	defaultTo(&o.Patience, 30*time.Second)
	defaultTo(&o.Progress, io.Discard)
	if o.Warmup = max(o.Warmup, 0); o.Notices > 0 {
		o.Warmup = 0 // it would take some of them
	}
	if o.Mode == Resume {
		defaultTo(&o.Notices, 20_000)
	}
	o.Threads = min(o.Threads, max(o.Connections, 1))
	u, err := url.Parse(o.Hub)
	switch {
	case err != nil:
		return o, fmt.Errorf("address of the hub: %w", err)
	case u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "":
		return o, fmt.Errorf("address of the hub %q: want http://HOST:PORT; behind TLS the proxy would be measured", o.Hub)
	case !slices.Contains([]Mode{Live, Resume, Idle}, o.Mode):
		return o, fmt.Errorf("mode %q: want live, resume or idle", o.Mode)
	case !slices.Contains(AllFilters, o.Filters):
		return o, fmt.Errorf("filters %q: want all, sparse, host or mix", o.Filters)
	case o.Connections < 0 || o.Connections > maxConnections:
		return o, fmt.Errorf("%d connections: want 1 to %d", o.Connections, maxConnections)
	case !(o.Rate >= 0 && o.Rate <= maxRate):
		return o, fmt.Errorf("a rate of %v: want 0 to %d notices a second", o.Rate, maxRate)
	case o.Size < 0 || o.Size > maxFrameSize:
		return o, fmt.Errorf("a size of %d: want up to %d bytes", o.Size, maxFrameSize)
	case !(o.Stalled >= 0 && o.Stalled < 100):
		return o, fmt.Errorf("%v %% of stalled readers: want 0 to less than 100", o.Stalled)
	case min(o.Window, o.Notices, o.Publishers, o.Threads) < 0 || min(o.Duration, o.Linger, o.Patience) < 0:
		return o, errors.New("a number below 0")
	case o.Mode == Resume && o.Stalled > 0:
		return o, errors.New("who resumes reads: resume and stalled readers do not go together")
	}
	return o, nil
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// address is where the hub listens, with its port.
func (o *Options) address() string {
	u, _ := url.Parse(o.Hub)
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), "80")
}

// Check reports the first option that makes no sense.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}
