package subscriptions

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// shown is what channels are, with their lists, by name.
func shown(t *testing.T, channels *Channels) map[string]string {
	t.Helper()
	list, _, err := channels.List("", 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, info := range list {
		uris, _, err := channels.URIs(info.Name, "", 100, nil)
		if info.Listed == (err != nil) {
			t.Fatalf("%s: listed %t, but %v", info.Name, info.Listed, err)
		}
		slices.Sort(uris)
		all[info.Name] = fmt.Sprintf("%+v listed=%t %q configured=%t", info.Definition, info.Listed, uris, info.Configured)
	}
	return all
}

// somethingConfigured draws a channel of a configuration.
func somethingConfigured(random *rand.Rand, name string) ConfiguredChannel {
	c := ConfiguredChannel{Name: name}
	pick := func(from ...string) (list []string) {
		for _, s := range from {
			if random.IntN(2) == 0 {
				list = append(list, s)
			}
		}
		return list
	}
	c.Kind, c.Host, c.Public = pick("changed"), pick("a.example", "b.example"), random.IntN(2) == 0
	if random.IntN(3) > 0 {
		c.URI = append([]string{}, pick("https://c.example/1", "https://c.example/2", "https://c.example/3")...)
	}
	return c
}

// Whatever a store has, it ends with what the configuration says, and says what it
// changed: nothing, if it was so before.
func TestConfiguredChannelsAreThoseOfTheConfiguration(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		store := openStore(t, time.Now)
		channels := openChannels(t, store)
		if _, _, err := channels.Put(t.Context(), "own", Definition{Filter: Filter{URI: []string{}}, Owner: "ada"}); err != nil {
			t.Fatal(err)
		}
		own := shown(t, channels)["own"]
		for step := range 12 {
			var list []ConfiguredChannel
			want := map[string]string{"own": own}
			for _, name := range []string{"a", "b", "c"} {
				if random.IntN(3) > 0 {
					c := somethingConfigured(random, name)
					list = append(list, c)
					listed, uris := c.URI != nil, slices.Clone(c.URI)
					c.URI = nil
					want[name] = fmt.Sprintf("%+v listed=%t %q configured=true", c.Definition, listed, uris)
				}
			}
			before := shown(t, channels)
			changes, err := channels.Configuring(list)
			if now := shown(t, channels); err != nil || !reflect.DeepEqual(now, before) {
				t.Fatalf("seed %d step %d: what would change (%v) changes %v to %v", seed, step, err, before, now)
			}
			done, err := channels.Configure(t.Context(), list)
			if err != nil || !slices.Equal(done, changes) {
				t.Fatalf("seed %d step %d: it does %v, %v, and said %v", seed, step, done, err, changes)
			}
			if step%4 == 3 {
				channels = openChannels(t, store)
			}
			now := shown(t, channels)
			if !reflect.DeepEqual(now, want) {
				t.Fatalf("seed %d step %d: got %v\nwant %v", seed, step, now, want)
			}
			said := map[string]string{}
			for _, c := range done {
				said[c.Name] = c.Change
			}
			for _, name := range []string{"a", "b", "c"} {
				change := ""
				switch was, is := before[name], now[name]; {
				case was == is:
				case was == "":
					change = ChannelAdded
				case is == "":
					change = ChannelRemoved
				default:
					change = ChannelChanged
				}
				if said[name] != change {
					t.Errorf("seed %d step %d: %s is said to be %q, was %q, is %q", seed, step, name, said[name], before[name], now[name])
				}
			}
			at := store.Token()
			if again, err := channels.Configure(t.Context(), list); err != nil || len(again) > 0 || store.Token() != at {
				t.Fatalf("seed %d step %d: the same again does %v, %v", seed, step, again, err)
			}
		}
	}
}

func TestAConfiguredChannelIsChangedByTheConfigurationAlone(t *testing.T) {
	channels := openChannels(t, openStore(t, time.Now))
	list := []ConfiguredChannel{{"files", Definition{Filter: Filter{URI: []string{"https://a.example/"}}}}}
	if _, err := channels.Configure(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	before := shown(t, channels)
	_, _, put := channels.Put(t.Context(), "files", Definition{Owner: "ada"})
	_, edit := channels.Edit(t.Context(), "files", nil, []string{"https://a.example/"})
	_, remove := channels.Delete(t.Context(), "files")
	for _, err := range []error{put, edit, remove} {
		if !errors.Is(err, ErrConfigured) {
			t.Errorf("got %v, want %v", err, ErrConfigured)
		}
	}
	if now := shown(t, channels); !reflect.DeepEqual(now, before) {
		t.Errorf("%v became %v", before, now)
	}
	if _, err := channels.Configure(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := channels.Put(t.Context(), "files", Definition{Owner: "ada"}); err != nil {
		t.Errorf("its name is not free: %v", err)
	}
}

func TestConfigurationsOfChannelsThatCannotBeAreRefusedWhole(t *testing.T) {
	store := openStore(t, time.Now)
	channels := openChannels(t, store)
	if _, _, err := channels.Put(t.Context(), "taken", Definition{}); err != nil {
		t.Fatal(err)
	}
	fresh := ConfiguredChannel{Name: "fresh"}
	if _, err := channels.Configure(t.Context(), []ConfiguredChannel{{Name: "worn"}}); err != nil {
		t.Fatal(err)
	}
	// As often as a channel may be replaced, but for once.
	for i := range maxVersions - 1 {
		// Something between them, or a replacement would decide nothing.
		if _, err := store.Apply(t.Context(), "", []graph.Update{{URI: "https://a.example/", Version: fmt.Sprint(i + 1)}}); err != nil {
			t.Fatal(err)
		}
		public := Definition{Public: i%2 == 0}
		if _, err := channels.Configure(t.Context(), []ConfiguredChannel{{"worn", public}}); err != nil {
			t.Fatal(err)
		}
	}
	before := shown(t, channels)
	for _, c := range []struct {
		name string
		bad  ConfiguredChannel
		want string
	}{
		{"a name that is taken", ConfiguredChannel{Name: "taken"}, `"taken": there is one of that name`},
		{"a name that is none", ConfiguredChannel{Name: "A B"}, `"A B": a name has a-z`},
		{"the name of a built-in one", ConfiguredChannel{Name: "all"}, `"all": a built-in channel`},
		{"a name twice", fresh, `"fresh": there are two`},
		{"an owner", ConfiguredChannel{"owned", Definition{Owner: "ada"}}, `"owned": it has an owner`},
		{"a URI that is none", ConfiguredChannel{"odd", Definition{Filter: Filter{URI: []string{"a"}}}}, `"odd": filter uri`},
		{"too many changes", ConfiguredChannel{"worn", Definition{Filter: Filter{Kind: []string{"changed"}}}}, `"worn": the channel was replaced 100 times`},
	} {
		list := []ConfiguredChannel{fresh, c.bad}
		_, err := channels.Configuring(list)
		done, failed := channels.Configure(t.Context(), list)
		if err == nil || failed == nil || !strings.Contains(err.Error(), c.want) || len(done) > 0 {
			t.Errorf("%s: got %v and %v (%v), want %q", c.name, err, failed, done, c.want)
		}
		if now := shown(t, channels); !reflect.DeepEqual(now, before) {
			t.Errorf("%s: %v became %v", c.name, before, now)
		}
	}
	if err := CheckConfigured(make([]ConfiguredChannel, MaxConfigured+1)); err == nil {
		t.Error("too many channels are taken")
	}
}
