package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// fileLook is how often a key file is looked at for a change.
	fileLook = time.Second
	// urlRefresh is how often keys are fetched anew though all is well, spread by a
	// tenth: a key that was taken out of the set is believed no longer than that.
	urlRefresh = 10 * time.Minute
	// urlRetry is how long to wait after a fetch that brought no good set.
	urlRetry = 30 * time.Second
	// minRefresh is the least time between two fetches for keys that are unknown,
	// and perKid that between two for the same one: anybody can send tokens with
	// made-up ids, and the issuer must not be asked for each.
	minRefresh = 5 * time.Second
	perKid     = time.Minute
	// askedKids bounds the unknown ids that are remembered.
	askedKids = 1024
	// fetchTime bounds one fetch.
	fetchTime = 10 * time.Second
)

// KeysOptions configures Keys. The zero value of each field is its default.
type KeysOptions struct {
	// Fetch gets the bytes of a URL, at most MaxKeySet and one more; nil means that
	// only files are read.
	Fetch func(ctx context.Context, url string) ([]byte, error)
	Log   *slog.Logger // nil means none
}

// Keys are the keys in force, kept from a file or a URL. They are safe for
// concurrent use; [Keys.Run] keeps them fresh.
type Keys struct {
	source  string
	remote  bool
	o       KeysOptions
	current atomic.Pointer[KeySet]
	turn    chan struct{} // holds one who may refresh; guards what follows
	text    []byte        // of the set in force
	tried   time.Time     // last refresh
	failed  string        // why the last refresh brought nothing, "" if it did
	asked   *lru.Cache[string, time.Time]
}

// OpenKeys reads the key set at source: a file, or a URL of https (http only to
// this very machine). A file has to be good; a URL that does not answer is asked
// again while the hub runs, and until then no token can be checked.
func OpenKeys(ctx context.Context, source string, o KeysOptions) (*Keys, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keys{source: source, o: o, turn: make(chan struct{}, 1)}
	k.asked, _ = lru.New[string, time.Time](askedKids)
	if strings.HasPrefix(source, "http:") || strings.HasPrefix(source, "https:") {
		if err := checkURL(source); err != nil {
			return nil, err
		}
		if o.Fetch == nil {
			return nil, errors.New("keys are not read from URLs here; name a file")
		}
		k.remote = true
	}
	k.refresh(ctx)
	if !k.remote && k.failed != "" {
		return nil, errors.New(k.failed)
	}
	return k, nil
}

// checkURL refuses a URL over which somebody on the way could give us keys.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return errors.New("it is not a URL")
	case u.User != nil:
		return errors.New("the URL has a password in it; a key set is public")
	case u.Scheme != "https" && u.Hostname() != "localhost" && u.Hostname() != "127.0.0.1" && u.Hostname() != "::1":
		return errors.New("over http anybody on the way could put keys in; use https")
	}
	return nil
}

// Current returns the set in force, nil if there is none yet.
func (k *Keys) Current() *KeySet { return k.current.Load() }

// Run reads the keys again when they change, or when they are old, until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	for {
		wait := fileLook
		switch {
		case k.remote && k.Current() == nil:
			wait = urlRetry
		case k.remote:
			wait = urlRefresh*9/10 + rand.N(urlRefresh/5)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		if k.take(ctx) {
			k.refresh(ctx)
			k.release()
		}
	}
}

// Refresh reads the keys now. A file that is not good is an error, and the keys in
// force stay; an issuer who does not answer is none, and is asked again by [Keys.Run].
func (k *Keys) Refresh(ctx context.Context) error {
	if !k.take(ctx) {
		return ctx.Err()
	}
	defer k.release()
	k.refresh(ctx)
	if k.failed != "" && !k.remote {
		return errors.New(k.failed)
	}
	return nil
}

// take waits for the turn to refresh, and reports false if ctx ended first.
func (k *Keys) take(ctx context.Context) bool {
	select {
	case k.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (k *Keys) release() { <-k.turn }

// Find returns the key of an id and the set it stands in. An id that is unknown has
// the set read again, if that was not done just before. Its error is an *Error.
func (k *Keys) Find(ctx context.Context, kid string) (key, *KeySet, error) {
	if found, set := k.look(kid); set != nil && found.public != nil {
		return found, set, nil
	}
	if k.take(ctx) {
		if found, set := k.look(kid); set != nil && found.public != nil {
			k.release()
			return found, set, nil
		}
		if k.mayAsk(kid, time.Now()) {
			k.refresh(ctx)
		}
		k.release()
	}
	found, set := k.look(kid)
	switch {
	case set == nil:
		return key{}, nil, bad(Unavailable, "the hub has no keys yet to check it with")
	case found.public == nil:
		return key{}, nil, bad(UnknownKey, "kid names no key of the issuer")
	}
	return found, set, nil
}

func (k *Keys) look(kid string) (key, *KeySet) {
	set := k.Current()
	if set == nil {
		return key{}, nil
	}
	return (*set)[kid], set
}

// mayAsk reports whether the source is to be read for the sake of kid. The turn is
// held.
func (k *Keys) mayAsk(kid string, now time.Time) bool {
	least := minRefresh
	if !k.remote {
		least = fileLook
	}
	if now.Sub(k.tried) < least {
		return false
	}
	if at, ok := k.asked.Get(kid); ok && k.remote && now.Sub(at) < perKid {
		return false
	}
	k.asked.Add(kid, now)
	return true
}

// refresh reads the source. If that brings no good set, the one in force stays.
// The turn is held.
func (k *Keys) refresh(ctx context.Context) {
	k.tried = time.Now()
	b, err := k.read(ctx)
	if err == nil && k.text != nil && bytes.Equal(b, k.text) {
		k.failed = ""
		return
	}
	var set KeySet
	if err == nil {
		set, err = ParseKeySet(b)
	}
	if err != nil {
		// Said once, and not every second.
		if text := err.Error(); k.failed != text {
			k.failed = text
			k.o.Log.Error("keys could not be read", "err", err, "kept", k.Current() != nil)
		}
		return
	}
	first := k.Current() == nil
	k.failed, k.text = "", b
	k.current.Store(&set)
	if !first {
		k.o.Log.Info("keys changed", "keys", len(set))
	}
}

// read returns the bytes of the source.
func (k *Keys) read(ctx context.Context) ([]byte, error) {
	if k.remote {
		ctx, cancel := context.WithTimeout(ctx, fetchTime)
		defer cancel()
		b, err := k.o.Fetch(ctx, k.source)
		if err != nil {
			return nil, fmt.Errorf("fetch keys: %w", err)
		}
		return b, nil
	}
	f, err := os.Open(k.source)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxKeySet+1))
}
