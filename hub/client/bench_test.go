package client_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/freshwire/freshwire/hub/client"
)

// How fast notices of the usual length are read over loopback, from a server
// that always has the next ones ready.
func BenchmarkStream(b *testing.B) {
	const ready = 200
	var frames []byte
	for i := range ready {
		frames = fmt.Appendf(frames, "id: 5f3a0000.%d\nevent: refresh\ndata: {\"seq\":%d,\"kind\":\"refresh\",\"uri\":\"https://en.wikipedia.example/wiki/Article_%d#html/canonical\","+
			"\"type\":\"html\",\"reason\":\"dependency\",\"rule\":\"since\",\"lane\":\"bulk\",\"cause\":{\"uri\":\"https://en.wikipedia.example/wiki/Template:City\",\"id\":\"edit-%d\",\"at\":\"2026-11-22T02:12:49.123Z\"},"+
			"\"at\":\"2026-11-22T02:12:49.456Z\",\"token\":\"5f3a0000.%d\"}\n\n", i, i, i, i, i)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := w.Write(frames); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	hub, err := client.New(server.URL, client.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for _, err := range hub.Stream(b.Context(), client.StreamOptions{}) {
		if err != nil {
			b.Fatal(err)
		}
		if !b.Loop() {
			break
		}
	}
	b.SetBytes(int64(len(frames) / ready))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "notices/s")
}
