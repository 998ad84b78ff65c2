package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// envServer, when set, makes the test binary a server for a benchmark.
const envServer = "FANOUT_SERVER"

func TestMain(m *testing.M) {
	if kind := os.Getenv(envServer); kind != "" {
		fmt.Fprintln(os.Stderr, runServer(kind))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func listenLoopback() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// serve runs a hub that twists what its readers get, and returns its address.
func serve(t *testing.T, h *plainHub) string {
	t.Helper()
	s := httptest.NewServer(&h.mux)
	t.Cleanup(s.Close)
	return s.URL
}

// small is a run of ten readers that takes as long as it must.
func small(url string) Options {
	return Options{Hub: url, Connections: 10, Notices: 300, Window: 50, Publishers: 2, Duration: time.Minute,
		Patience: 2 * time.Second, Threads: 2}
}

func TestEachFaultOfAHubIsNoticed(t *testing.T) {
	// The pages are made known first; what is spoilt comes after that.
	const spoilt = fewestPages + 100
	var held []byte
	for _, c := range []struct {
		name  string
		twist func(seq uint64, frame []byte) [][]byte // of the fourth reader; the first keeps the journal
		want  func(r *Report) bool
	}{
		{"none", nil, func(r *Report) bool { return r.Err() == nil && r.Expected == 3000 && r.Disconnects == 0 && !r.Stuck }},
		{"a notice is lost", func(seq uint64, f []byte) [][]byte {
			if seq == spoilt {
				return nil
			}
			return [][]byte{f}
		}, func(r *Report) bool { return r.Lost == 1 && r.Duplicated+r.Reordered+r.Unwanted == 0 }},
		{"all is lost from then on", func(seq uint64, f []byte) [][]byte {
			if seq >= spoilt {
				return nil
			}
			return [][]byte{f}
		}, func(r *Report) bool { return r.Lost > 0 && r.Stuck }},
		{"a notice comes twice", func(seq uint64, f []byte) [][]byte {
			if seq == spoilt {
				return [][]byte{f, f}
			}
			return [][]byte{f}
		}, func(r *Report) bool { return r.Duplicated == 1 && r.Lost+r.Reordered+r.Unwanted == 0 }},
		{"a notice comes late", func(seq uint64, f []byte) [][]byte {
			switch seq {
			case spoilt:
				held = f
				return nil
			case spoilt + 3:
				return [][]byte{f, held}
			}
			return [][]byte{f}
		}, func(r *Report) bool { return r.Reordered == 1 && r.Lost+r.Duplicated+r.Unwanted == 0 }},
		{"a notice of another place", func(seq uint64, f []byte) [][]byte {
			if seq == spoilt {
				return [][]byte{f, bytes.Replace(f, fmt.Appendf(nil, "id: plain.%d", seq), []byte("id: plain.99999"), 1)}
			}
			return [][]byte{f}
		}, func(r *Report) bool { return r.Err() != nil && r.Lost == 0 }},
		{"a byte is another", func(seq uint64, f []byte) [][]byte {
			if seq == spoilt {
				return [][]byte{bytes.Replace(f, []byte(`"kind"`), []byte(`"kinb"`), 1)}
			}
			return [][]byte{f}
		}, func(r *Report) bool { return r.Altered >= 1 && r.Lost+r.Duplicated+r.Reordered+r.Unwanted == 0 }},
		{"a frame is torn", func(seq uint64, f []byte) [][]byte {
			if seq == spoilt {
				return [][]byte{f, f[40:]}
			}
			return [][]byte{f}
		}, func(r *Report) bool {
			return r.Malformed == 1 && r.Disconnects == 1 && strings.Contains(r.Fault, "malformed")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &netHTTP{}
			if c.twist != nil {
				s.twist = func(n int, seq uint64, f []byte) [][]byte {
					if n != 3 {
						return [][]byte{f}
					}
					return c.twist(seq, f)
				}
			}
			r, err := Run(t.Context(), small(serve(t, newPlainHub(s))))
			if err != nil {
				t.Fatal(err)
			}
			if !c.want(r) {
				t.Errorf("got %+v", *r)
			}
			if wrong := c.twist != nil; wrong != errors.Is(r.Err(), ErrInexact) {
				t.Errorf("got error %v", r.Err())
			}
		})
	}
}

func TestWhatWasAcknowledgedAndNotWrittenIsNoticed(t *testing.T) {
	t.Parallel()
	h := newPlainHub(&netHTTP{})
	h.swallow = func(seq uint64) bool { return seq == fewestPages+100 }
	r, err := Run(t.Context(), small(serve(t, h)))
	if err != nil {
		t.Fatal(err)
	}
	if r.Unjournaled != 1 || r.Lost != 0 || !errors.Is(r.Err(), ErrInexact) {
		t.Errorf("got %+v, want one update without a notice", *r)
	}
}

func TestWhatAReaderDidNotAskForIsNoticed(t *testing.T) {
	t.Parallel()
	o := small(serve(t, newPlainHub(&netHTTP{}))) // which knows no filters
	o.Filters = FilterHost
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Expected != 300 || r.Unwanted != 2700 || r.Lost+r.Duplicated+r.Reordered != 0 {
		t.Errorf("got %+v, want 300 expected and the other 2,700 unwanted", *r)
	}
}

func TestARunEndsThoughTheHubDoesNot(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			writeFigures(w, r)
			return
		}
		<-r.Context().Done()
	}))
	t.Cleanup(silent.Close)
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			writeFigures(w, r)
			return
		}
		http.Error(w, "come again", http.StatusTooManyRequests)
	}))
	t.Cleanup(busy.Close)
	for _, c := range []struct{ name, url, want string }{
		{"a hub that does not answer", silent.URL, "0 of 1 streams are open"},
		{"a hub that refuses", busy.URL, "429 Too Many Requests: come again"},
		{"no hub", "http://127.0.0.1:1", "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := small(c.url)
			o.Patience = 100 * time.Millisecond
			if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestARunLeavesNothingBehind(t *testing.T) {
	url := serve(t, newPlainHub(&netHTTP{}))
	before := goleak.IgnoreCurrent()
	for _, portable := range []bool{false, true} {
		o := small(url)
		o.Portable = portable
		o.Stalled = 20
		if _, err := Run(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("net/http.(*conn).serve"))
}

func TestMoreConnectionsThanDescriptorsAreRefusedAtOnce(t *testing.T) {
	limit := fileLimit()
	if limit == 0 || limit > maxConnections {
		t.Skip("this system limits descriptors to more than a run may have")
	}
	o := small(serve(t, newPlainHub(&netHTTP{})))
	o.Connections = int(limit)
	_, err := Run(t.Context(), o)
	if want := fmt.Sprintf("%d are possible", limit-ownFiles); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	if err := (Options{Hub: "http://127.0.0.1:1"}).Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for name, o := range map[string]Options{
		"hub":         {Hub: "https://127.0.0.1"},
		"filters":     {Filters: "some"},
		"mode":        {Mode: "dead"},
		"connections": {Connections: -1},
		"rate":        {Rate: -1},
		"size":        {Size: maxFrameSize + 1},
		"stalled":     {Stalled: 100},
		"window":      {Window: -1},
		"resume":      {Mode: Resume, Stalled: 1},
	} {
		if o.Hub == "" {
			o.Hub = "http://127.0.0.1:1"
		}
		if o.Check() == nil {
			t.Errorf("%s: taken, want an error", name)
		}
	}
}
