package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/r3labs/sse/v2"
)

// A fanout is the part of a server that brings events to its readers.
type fanout interface {
	http.Handler
	// publish brings an event with this position and data to all who are there.
	publish(seq uint64, data []byte)
}

// A plainHub speaks as much of a hub's language as a run needs, over any fan-out.
// It keeps nothing: no store, no disk, no filter, no resuming.
type plainHub struct {
	fanout fanout
	mux    http.ServeMux

	mu      sync.Mutex
	seq     uint64
	buckets map[string]json.RawMessage // by URI
	swallow func(seq uint64) bool      // acknowledge it and write no notice; nil means never
}

func newPlainHub(f fanout) *plainHub {
	h := &plainHub{fanout: f, buckets: map[string]json.RawMessage{}}
	h.mux.Handle("GET /v1/stream", f)
	h.mux.HandleFunc("POST /v1/updates", h.updates)
	h.mux.HandleFunc("GET /v1/token", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		fmt.Fprintf(w, `{"token":"plain.%d"}`, h.seq)
	})
	h.mux.HandleFunc("GET /metrics", writeFigures)
	return h
}

func (h *plainHub) updates(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for line := range bytes.Lines(body) {
		var u struct {
			URI     string          `json:"uri"`
			Version string          `json:"version"`
			Buckets json.RawMessage `json:"buckets"`
		}
		if err := json.Unmarshal(line, &u); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if u.Buckets != nil {
			h.buckets[u.URI] = u.Buckets
		}
		n++
		h.seq++
		if h.swallow != nil && h.swallow(h.seq) {
			continue
		}
		data := fmt.Appendf(nil, `{"seq":%d,"kind":"changed","uri":%q,"version":%q`, h.seq, u.URI, u.Version)
		if b := h.buckets[u.URI]; b != nil {
			data = append(append(data, `,"buckets":`...), b...)
		}
		h.fanout.publish(h.seq, append(data, '}'))
	}
	fmt.Fprintf(w, `{"accepted":%d,"changed":%d,"cursor":"plain.%d"}`, n, n, h.seq)
}

// writeFigures says of this process what a hub says of itself.
func writeFigures(w http.ResponseWriter, _ *http.Request) {
	pages := 0
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		pages, _ = strconv.Atoi(strings.Fields(string(statm))[1])
	}
	fmt.Fprintf(w, "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %g\n"+
		"process_resident_memory_bytes %d\ngo_goroutines %d\nprocess_max_fds %d\n",
		processorTime().Seconds(), pages*os.Getpagesize(), runtime.NumGoroutine(), fileLimit())
}

// slots is how many events may wait for one reader of a netHTTP.
const slots = 1024

// A netHTTP is what most write: a handler of net/http with a channel for each
// reader, and a flush after each event. The bytes are shared. A reader whose
// channel is full is waited for.
type netHTTP struct {
	// twist, if not nil, changes what the n-th reader, counted from 0, is sent
	// instead of the frame at seq.
	twist func(n int, seq uint64, frame []byte) [][]byte

	mu      sync.Mutex
	opened  int
	readers map[chan plainFrame]<-chan struct{} // what ends when the reader goes
}

type plainFrame struct {
	seq   uint64
	bytes []byte
}

func (s *netHTTP) publish(seq uint64, data []byte) {
	f := plainFrame{seq, fmt.Appendf(nil, "id: plain.%d\nevent: changed\ndata: %s\n\n", seq, data)}
	s.mu.Lock()
	defer s.mu.Unlock()
	for frames, gone := range s.readers {
		select {
		case frames <- f:
		case <-gone:
		}
	}
}

func (s *netHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	frames := make(chan plainFrame, slots)
	s.mu.Lock()
	if s.readers == nil {
		s.readers = map[chan plainFrame]<-chan struct{}{}
	}
	s.readers[frames] = r.Context().Done()
	n := s.opened
	s.opened++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.readers, frames)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	if flush.Flush() != nil {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case f := <-frames:
			sent := [][]byte{f.bytes}
			if s.twist != nil {
				sent = s.twist(n, f.seq, f.bytes)
			}
			for _, b := range sent {
				w.Write(b)
			}
			if flush.Flush() != nil {
				return
			}
		}
	}
}

// r3labs is github.com/r3labs/sse v2, without its log, which has no bounds.
type r3labs struct{ server *sse.Server }

func newR3labs() r3labs {
	s := sse.New()
	s.AutoReplay = false
	s.CreateStream("all")
	return r3labs{s}
}

func (s r3labs) publish(seq uint64, data []byte) {
	s.server.Publish("all", &sse.Event{ID: fmt.Appendf(nil, "plain.%d", seq), Event: []byte("changed"), Data: data})
}

func (s r3labs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.URL.RawQuery = "stream=all"
	s.server.ServeHTTP(w, r)
}

// runServer makes this process a server of the kind that its arguments name, for
// a benchmark. It says where it is as a hub does.
func runServer(kind string) error {
	var f fanout = &netHTTP{}
	if kind == "r3labs" {
		f = newR3labs()
	}
	h := newPlainHub(f)
	l, err := listenLoopback()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "hub at http://%s, %s in %s\n", l.Addr(), kind, filepath.Base(os.Args[0]))
	return http.Serve(l, &h.mux)
}
