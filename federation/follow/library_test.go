package follow_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/r3labs/sse/v2"

	"github.com/freshwire/freshwire/internal/bubble"
)

// What the client that is wrapped does alone, so that it shows when a later one
// does otherwise: then something here can go.
func TestTheLibraryAlone(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         []string // events as id|data, then how it ended
	}{
		{"ends for ever at a clean end", event(1), []string{"1|d1", "end: <nil>"}},
		{"takes a comment for an event", event(1) + ":\n\n", []string{"1|d1", "1|", "end: <nil>"}},
		{"delivers what the end cut off", event(1) + "id: 2\ndata: {\"wh", []string{"1|d1", "2|{\"wh", "end: <nil>"}},
		{"takes what asks for a wait for an event", event(1) + "retry: 5000\n\n", []string{"1|d1", "1|", "end: <nil>"}},
		{"reads at most 64 KiB", "data: " + strings.Repeat("x", 1<<16) + "\n\n", []string{"end: bufio.Scanner: token too long"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := sse.NewClient("http://hub.example/")
			client.ReconnectStrategy = once{}
			client.Connection.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(c.stream)), Request: r}, nil
			})
			var got []string
			err := client.SubscribeRaw(func(e *sse.Event) { got = append(got, string(e.ID)+"|"+string(e.Data)) })
			check(t, "course", append(got, "end: "+errorText(err)), c.want)
		})
	}
	t.Run("waits for a silent server", func(t *testing.T) {
		bubble.Test(t, func(t *testing.T) {
			_, h := serve(t, turn{body: event(1), after: hang})
			client := sse.NewClient("http://hub.example/")
			client.Connection = h
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			began := time.Now()
			client.ReconnectStrategy = once{}
			_ = client.SubscribeRawWithContext(ctx, func(*sse.Event) {})
			if d := time.Since(began); d < 24*time.Hour {
				t.Errorf("gave up after %v", d)
			}
		})
	})
}

func errorText(err error) string {
	if err == nil {
		return "<nil>"
	}
	return err.Error()
}

type once struct{}

func (once) NextBackOff() time.Duration { return -1 }
func (once) Reset()                     {}
