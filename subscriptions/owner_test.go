package subscriptions

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

func openChannels(t testing.TB, store channelStore) *Channels {
	t.Helper()
	channels, err := OpenChannels(store)
	if err != nil {
		t.Fatal(err)
	}
	return channels
}

func TestAChannelStaysItsOwnersUnlessAnotherIsNamed(t *testing.T) {
	store := openStore(t, time.Now)
	// As it was written before channels had owners.
	_, err := store.EditList(t.Context(), graph.ListEdit{Key: "channel/old", Record: func(at graph.Cursor) []byte {
		return fmt.Appendf(nil, `{"epoch":%d,"versions":[{"from":%d,"filter":{},"public":true}]}`, at.Epoch, at.Seq)
	}})
	if err != nil {
		t.Fatal(err)
	}
	channels := openChannels(t, store)
	for _, c := range []struct{ channel, named, want string }{
		{"old", "", ""}, {"files", "ada", "ada"}, {"files", "", "ada"}, {"files", "bob", "bob"}, {"free", "", ""}, {"free", "ada", "ada"},
	} {
		info, _, err := channels.Put(t.Context(), c.channel, Definition{Owner: c.named})
		if err != nil || info.Owner != c.want {
			t.Errorf("%s put by %q is of %q (%v), want %q", c.channel, c.named, info.Owner, err, c.want)
		}
	}
	for _, channels := range []*Channels{channels, openChannels(t, store)} {
		list, _, err := channels.List("", 10, nil)
		var got []string
		for _, info := range list {
			got = append(got, info.Name+" of "+info.Owner)
		}
		if want := []string{"files of bob", "free of ada", "old of "}; err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q %v, want %q", got, err, want)
		}
		if channels.owned["ada"] != 1 || channels.owned["bob"] != 1 || len(channels.owned) != 2 {
			t.Errorf("counted %v", channels.owned)
		}
	}
}

func TestAnOwnerHasABoundedNumberOfChannels(t *testing.T) {
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	put := func(name, owner string) error {
		_, _, err := channels.Put(t.Context(), name, Definition{Owner: owner})
		return err
	}
	for i := range maxPerOwner {
		if err := put(fmt.Sprintf("c%d", i), "ada"); err != nil {
			t.Fatal(err)
		}
	}
	full := func(when string) {
		t.Helper()
		if err := put("more", "ada"); !errors.Is(err, ErrTooManyOwned) {
			t.Errorf("%s: one more gives %v", when, err)
		}
	}
	full("full")
	for _, err := range []error{put("c1", "ada"), put("other", "bob"), put("free", "")} {
		if err != nil {
			t.Errorf("a replacement and channels of others: %v", err)
		}
	}
	if err := put("free", "ada"); !errors.Is(err, ErrTooManyOwned) {
		t.Errorf("given to who is full: %v", err)
	}
	channels = openChannels(t, store)
	full("after a restart")
	if _, err := channels.Delete(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if err := put("c1", "ada"); err != nil {
		t.Errorf("after one was deleted: %v", err)
	}
	full("full again")
	if err := put("c2", "bob"); err != nil {
		t.Fatal(err)
	}
	if err := put("more", "ada"); err != nil {
		t.Errorf("after one was given away: %v", err)
	}
}

func TestTheGuardIsAskedBeforeAChannelIsChanged(t *testing.T) {
	type caller struct{}
	channels := openChannels(t, openStore(t, time.Now))
	refused := errors.New("not yours")
	channels.Guard(func(ctx context.Context, owner string) error {
		if ctx.Value(caller{}) != owner {
			return refused
		}
		return nil
	})
	as := func(name string) context.Context { return context.WithValue(t.Context(), caller{}, name) }
	put := func(by string) error {
		_, _, err := channels.Put(as(by), "files", Definition{Owner: by, Filter: Filter{URI: []string{}}})
		return err
	}
	edit := func(by string) error {
		_, err := channels.Edit(as(by), "files", []string{"https://a.example/"}, nil)
		return err
	}
	remove := func(by string) error { _, err := channels.Delete(as(by), "files"); return err }
	for _, c := range []struct {
		what string
		got  error
		want error
	}{
		{"somebody makes it", put("ada"), nil},
		{"another replaces it", put("bob"), refused},
		{"another edits it", edit("bob"), refused},
		{"another deletes it", remove("bob"), refused},
		{"its owner replaces it", put("ada"), nil},
		{"its owner edits it", edit("ada"), nil},
		{"its owner deletes it", remove("ada"), nil},
		{"another makes it anew", put("bob"), nil},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, c.got, c.want)
		}
	}
}

func TestPagesHoldWhatIsVisibleAndEndWithTheLastOfIt(t *testing.T) {
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	random := rand.New(rand.NewPCG(1, 1))
	visible := map[string]bool{}
	var wantNames, wantURIs, uris []string
	for i := range 40 {
		name, uri := fmt.Sprintf("c%02d", i), fmt.Sprintf("https://a.example/%02d", i)
		if _, _, err := channels.Put(t.Context(), name, Definition{}); err != nil {
			t.Fatal(err)
		}
		uris = append(uris, uri)
		if random.IntN(3) == 0 {
			visible[name], visible[uri] = true, true
			wantNames, wantURIs = append(wantNames, name), append(wantURIs, uri)
		}
	}
	if _, _, err := channels.Put(t.Context(), "zz", Definition{Filter: Filter{URI: uris}}); err != nil {
		t.Fatal(err)
	}
	for limit := 1; limit < 45; limit++ {
		var names, listed []string
		for after := ""; ; {
			page, next, err := channels.List(after, limit, func(info ChannelInfo) bool { return visible[info.Name] })
			if err != nil || len(page) > limit || next != "" && len(page) < limit || next == "" && len(page) == 0 {
				t.Fatalf("by %d: a page of %d with next %q, %v", limit, len(page), next, err)
			}
			for _, info := range page {
				names = append(names, info.Name)
			}
			if after = next; after == "" {
				break
			}
		}
		for after := ""; ; {
			page, next, err := channels.URIs("zz", after, limit, func(uri string) bool { return visible[uri] })
			if err != nil || len(page) > limit {
				t.Fatalf("by %d: a page of %d URIs, %v", limit, len(page), err)
			}
			listed = append(listed, page...)
			if after = next; after == "" {
				break
			}
		}
		if !slices.Equal(names, wantNames) || !slices.Equal(listed, wantURIs) {
			t.Errorf("by %d: got %s and %s", limit, strings.Join(names, " "), strings.Join(listed, " "))
		}
	}
}
