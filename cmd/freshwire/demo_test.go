package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// An interrupter ends a run when the run has written a text.
type interrupter struct {
	bytes.Buffer
	text      string
	interrupt func()
}

func (i *interrupter) Write(b []byte) (int, error) {
	n, err := i.Buffer.Write(b)
	if strings.Contains(i.String(), i.text) {
		i.interrupt()
	}
	return n, err
}

func TestTheDemoKeepsRunningUntilItIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &interrupter{text: "until you press Ctrl-C", interrupt: cancel}
	var stderr bytes.Buffer
	if code := run(ctx, []string{"demo"}, strings.NewReader(""), out, &stderr); code != exitOK || stderr.Len() > 0 {
		t.Errorf("got exit code %d and %q, want %d and nothing", code, stderr.String(), exitOK)
	}
	if !strings.Contains(out.String(), "/v1/stream") {
		t.Errorf("no request to try in\n%s", out.String())
	}
}
