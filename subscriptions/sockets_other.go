//go:build !linux

package subscriptions

import (
	"context"
	"net/http"
)

// sockets are none here: all streams are portable.
type sockets struct{ owner }

func newSockets(*Streamer) *sockets { return nil }

func (*sockets) run(context.Context) error { return nil }

func (*sockets) wakeAll() {}

func isPlainTCP(*http.Request) bool { return false }

func (*Streamer) hijack(http.ResponseWriter, stream, start) error { return nil }
