package follow_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/federation/follow"
	"github.com/r3labs/sse/v2"
)

// How fast events are read over loopback from a server that always has the next
// ones ready, beside the bare client in the same run.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{300, 4000} {
		const ready = 200
		text := strings.Repeat("x", size)
		var frames []byte
		for i := range ready {
			frames = fmt.Appendf(frames, "id: 5f3a0000.%d\nevent: refresh\ndata: %s\n\n", i, text)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for r.Context().Err() == nil {
				if _, err := w.Write(frames); err != nil {
					return
				}
			}
		}))
		report := func(b *testing.B) {
			b.SetBytes(int64(len(frames) / ready))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		}
		transport := &http.Transport{}
		b.Run(fmt.Sprintf("bytes=%d/client=follow", size), func(b *testing.B) {
			for _, err := range follow.Stream(b.Context(), server.URL, follow.Options{HTTP: &http.Client{Transport: transport}}) {
				if err != nil {
					b.Fatal(err)
				}
				if !b.Loop() {
					break
				}
			}
			report(b)
		})
		b.Run(fmt.Sprintf("bytes=%d/client=bare", size), func(b *testing.B) {
			client := sse.NewClient(server.URL)
			client.Connection.Transport = transport
			ctx, stop := context.WithCancel(b.Context())
			going := true
			if err := client.SubscribeRawWithContext(ctx, func(*sse.Event) {
				if going = going && b.Loop(); !going {
					stop()
				}
			}); err != nil {
				b.Fatal(err)
			}
			report(b)
		})
		transport.CloseIdleConnections()
		server.CloseClientConnections()
		server.Close()
	}
}
