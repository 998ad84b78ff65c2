package graph

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const enwiki = "https://en.wikipedia.example/wiki/"

// reported are the updates that a MediaWiki sent while it rendered real pages,
// in the order it sent them.
func reported(t testing.TB) (us []Update) {
	t.Helper()
	f, err := os.Open("testdata/enwiki-renderings.updates.ndjson.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var in struct {
			ID, URI, Type, Version, Hash string
			At                           time.Time
			Buckets                      []string
			Deps                         []reportedDep
		}
		if err := json.Unmarshal(lines.Bytes(), &in); err != nil {
			t.Fatalf("update %d: %v", len(us), err)
		}
		u := Update{ID: in.ID, URI: in.URI, Type: in.Type, Version: in.Version, Hash: in.Hash, At: in.At, Buckets: in.Buckets, Deps: []Dep{}}
		for _, d := range in.Deps {
			u.Deps = append(u.Deps, Dep(d))
		}
		us = append(us, u)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return us
}

// reportedDep is a URI, or an object with what was seen of it.
type reportedDep Dep

func (d *reportedDep) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return json.Unmarshal(b, &d.URI)
	}
	return json.Unmarshal(b, (*Dep)(d))
}

// realWiki is a store that has taken all that was reported.
type realWiki struct {
	*rig
	renderings map[string]Update // the newest of each
	latest     map[string]Update // the newest of everything else
}

// loadReal takes the updates one by one as they happened, or all in one batch later.
func loadReal(t *testing.T, batch bool) *realWiki {
	t.Helper()
	w := &realWiki{rig: newRig(t, Options{}), renderings: map[string]Update{}, latest: map[string]Update{}}
	us := reported(t)
	if len(us) != 301 {
		t.Fatalf("%d updates, want 301", len(us))
	}
	for _, u := range us {
		if u.Type == "html" {
			w.renderings[u.URI] = u
		} else {
			w.latest[u.URI] = u
		}
		if !batch {
			w.clock.Store(max(w.clock.Load(), u.At.Add(time.Millisecond).UnixMicro()))
			w.apply(u)
			w.drain()
		}
	}
	if batch {
		w.clock.Store(us[len(us)-1].At.Add(time.Hour).UnixMicro())
		w.apply(us...)
	}
	w.wait(time.Minute)
	return w
}

// clockMargin is how far producers' clocks are allowed to disagree.
const clockMargin = 5 * time.Second

// outdated are the dependencies of a rendering that changed after it read them:
// links to pages that were created later, and the members of a category.
func (w *realWiki) outdated(u Update) (uris []string) {
	for _, d := range u.Deps {
		x, heard := w.latest[d.URI]
		changed := d.Seen != x.Version
		if d.Seen == "" { // it does not say what it read: only times tell
			changed = !x.At.Add(clockMargin).Before(u.At)
		}
		if heard && changed {
			uris = append(uris, d.URI)
		}
	}
	return uris
}

// answer makes again what is not clean, from what there is now.
func (w *realWiki) answer() *realWiki {
	w.t.Helper()
	for uri, u := range w.renderings {
		if w.resource(uri).State == Clean {
			continue
		}
		u.ID, u.Hash, u.At, u.Deps, u.Token = w.nextID(), "made again", w.now(), slices.Clone(u.Deps), w.token()
		for i, d := range u.Deps {
			if x, heard := w.latest[d.URI]; heard && d.Seen != "" {
				u.Deps[i].Seen = x.Version
			}
		}
		w.renderings[uri] = u
		w.apply(u)
	}
	w.wait(time.Minute)
	return w
}

// listing are the renderings that were made from one of uris.
func (w *realWiki) listing(uris ...string) (list []string) {
	for uri, u := range w.renderings {
		if slices.ContainsFunc(u.Deps, func(d Dep) bool { return slices.Contains(uris, d.URI) }) {
			list = append(list, uri)
		}
	}
	slices.Sort(list)
	return list
}

// told are the resources told to refresh since a number of notices.
func (w *realWiki) told(since int) (list []string) {
	for _, n := range w.heard[since:] {
		if n.Kind == KindRefresh {
			list = append(list, n.URI)
		}
	}
	slices.Sort(list)
	return list
}

// send is what MediaWiki sends when something is saved: versions count up.
func (w *realWiki) send(typ, page, version, hash string) {
	w.t.Helper()
	u := Update{ID: w.nextID(), URI: enwiki + page, Type: typ, Version: version, Hash: hash, At: w.now(), Deps: []Dep{}}
	w.latest[u.URI] = u
	w.apply(u)
}

func TestARealWikiIsFreshWhenItHasLoaded(t *testing.T) {
	for name, batch := range map[string]bool{"as it happened": false, "in one batch": true} {
		t.Run(name, func(t *testing.T) {
			w := loadReal(t, batch)
			var stale []string
			for uri, u := range w.renderings {
				because := w.outdated(u)
				if len(because) > 0 {
					stale = append(stale, uri)
				}
				if r := w.resource(uri); (r.State != Clean) != (len(because) > 0) {
					t.Errorf("%s is %s, but these changed since it read them: %v", uri, w.describe(uri), because)
				}
			}
			if got := w.s.markers(); got >= 100 {
				t.Errorf("%d renderings are ahead of the store, want fewer than 100", got)
			}
			slices.Sort(stale)
			if got := slices.Compact(w.told(0)); batch && !slices.Equal(got, stale) {
				t.Errorf("told to refresh: %v, want %v", got, stale)
			}
			w.answer()
			for uri := range w.renderings {
				if r := w.resource(uri); r.State != Clean {
					t.Errorf("made again, %s is %s", uri, w.describe(uri))
				}
			}
		})
	}
}

func TestARealWikiIsToldExactlyWhatAnEditAffects(t *testing.T) {
	w := loadReal(t, true).answer()
	for _, tt := range []struct {
		name string
		edit func()
		list []string // the renderings that were made from one of these
		want int
	}{
		{"a template", func() { w.send("content", "Template:Leaf", "9001", "new") }, []string{"Template:Leaf"}, 23},
		{"a null edit of a template", func() {
			w.send("content", "Template:Leaf", "9002", w.resource(enwiki+"Template:Leaf").Hash)
		}, nil, 0},
		{"a module", func() { w.send("content", "Module:Num", "9001", "new") }, []string{"Module:Num"}, 22},
		{"a file", func() { w.send("file", "File:Red.png#file", "other", "other") }, []string{"File:Red.png#file"}, 21},
		{"a page that others only link to", func() { w.send("content", "Aristotle", "9001", "new") }, []string{"Aristotle"}, 1},
		{"a red link that turns blue", func() { w.send("exists", "Template:Reflist#exists", "1", "1") }, []string{"Template:Reflist#exists"}, 98},
		{"the first event of what nobody said they had seen", func() {
			w.send("exists", "Category:Pages_with_broken_file_links#exists", "1", "1")
		}, []string{"Category:Pages_with_broken_file_links#exists"}, 81},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer w.answer()
			since := len(w.heard)
			tt.edit()
			w.wait(time.Minute)
			uris := make([]string, len(tt.list))
			for i, page := range tt.list {
				uris[i] = enwiki + page
			}
			got, want := w.told(since), w.listing(uris...)
			if !slices.Equal(got, want) || len(got) != tt.want {
				t.Errorf("%d renderings were told, want the %d that list it:\n got %s\nwant %s", len(got), tt.want, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
			}
		})
	}
}

func TestAPagesOwnRenderingIsNotOrderedAgainByTheEditItWasMadeFor(t *testing.T) {
	w := loadReal(t, true).answer()
	for page, lead := range map[string]time.Duration{"Article_03": 3 * time.Millisecond, "Article_04": -3 * time.Millisecond} {
		uri := enwiki + page + "#html/canonical"
		since := len(w.heard)
		u := w.renderings[uri]
		u.ID, u.Hash, u.At, u.Deps = w.nextID(), "rendered anew", w.now().Truncate(time.Second), slices.Clone(u.Deps)
		i := slices.IndexFunc(u.Deps, func(d Dep) bool { return d.URI == enwiki+page })
		u.Deps[i].Seen = "9001"
		content := func() { w.send("content", page, "9001", "edited") }
		if lead < 0 {
			content()
			w.wait(-lead)
		}
		w.apply(u)
		if lead > 0 {
			w.wait(lead)
			content()
		}
		w.wait(time.Minute)
		got, want := w.told(since), []string(nil)
		if lead < 0 { // the edit was heard first: the rendering that was asked for is the one that comes
			want = []string{uri}
		}
		if !slices.Equal(got, want) {
			t.Errorf("rendering %s before the edit: told %v, want %v", lead, got, want)
		}
		if r := w.resource(uri); r.State != Clean {
			t.Errorf("rendering %s before the edit: %s", lead, w.describe(uri))
		}
	}
}

func TestARealLinkTurnsBlueAndRedAgain(t *testing.T) {
	w := loadReal(t, true).answer()
	const link = "Template:Reflist#exists"
	list := w.listing(enwiki + link)
	for turn, exists := range []string{"1", "0", "1", "0"} {
		since := len(w.heard)
		if exists == "1" {
			w.send("exists", link, "1", "1")
		} else {
			w.apply(Update{ID: w.nextID(), URI: enwiki + link, Action: ActionDelete, At: w.now()})
		}
		w.wait(time.Minute)
		if got := w.told(since); !slices.Equal(got, list) {
			t.Errorf("turn %d: %d renderings were told, want %d", turn, len(got), len(list))
		}
		for _, uri := range list {
			u := w.renderings[uri]
			u.ID, u.Hash, u.At, u.Deps = w.nextID(), "link is "+exists, w.now(), slices.Clone(u.Deps)
			i := slices.IndexFunc(u.Deps, func(d Dep) bool { return d.URI == enwiki+link })
			u.Deps[i].Seen = exists
			w.apply(u)
			if r := w.resource(uri); r.State != Clean {
				t.Errorf("made again, %s is %s", uri, w.describe(uri))
			}
		}
		w.wait(time.Minute)
	}
}
