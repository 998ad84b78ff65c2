package main

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub"
	"github.com/rogpeppe/go-internal/testscript"
)

// peers start NAME PREFIX… runs a hub that other hubs know by its address, $NAME, and
// that speaks for these prefixes; a prefix of "own" is the hub's own address.
func scriptPeers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || args[0] != "start" {
		ts.Fatalf("usage: peers start NAME PREFIX…")
	}
	cfg := hub.DefaultConfig()
	cfg.Data = ts.MkAbs("data-" + args[1])
	local, err := startPublicHub(context.Background(), cfg, args[2:])
	ts.Check(err)
	ts.Setenv(args[1], local.url)
	ts.Defer(func() { ts.Check(local.stop()) })
}

// startPublicHub runs a hub under an address that it is told before it starts.
func startPublicHub(ctx context.Context, cfg hub.Config, authority []string) (local *localHub, err error) {
	err = onFreeAddress(ctx, func(address string) error {
		cfg.Listen, cfg.PublicURL, cfg.Federation.Authority = address, "http://"+address, nil
		for _, prefix := range authority {
			if prefix == "own" {
				prefix = cfg.PublicURL
			}
			cfg.Federation.Authority = append(cfg.Federation.Authority, prefix)
		}
		local, err = startHub(ctx, cfg, slog.New(slog.DiscardHandler))
		return err
	})
	return local, err
}

func TestATimeIsToldAsAnAge(t *testing.T) {
	for _, c := range []struct {
		name string
		t    time.Time
		want string
	}{
		{"never", time.Time{}, ""},
		{"just now", time.Now(), "0s ago"},
		{"of a clock that is ahead", time.Now().Add(time.Hour), "0s ago"},
		{"long ago", time.Now().Add(-90 * time.Minute), "1h30m0s ago"},
	} {
		if got := ago(c.t); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestWhatAPeerSaysNeitherBreaksTheTableNorTheTerminal(t *testing.T) {
	if got, want := printable("no \x1b[2J\"room\"\tfor\nMüller"), "no \uFFFD[2J\"room\"\uFFFDfor\uFFFDMüller"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestACommandIsWrittenAsAShellTakesIt(t *testing.T) {
	got := shellWords([]string{"freshwire", "https://a.example/(it's)", "SHA256:a+b/c", ""})
	if want := `freshwire 'https://a.example/(it'\''s)' SHA256:a+b/c ''`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
