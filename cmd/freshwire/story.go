package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/hub/mediawiki"
)

// recorded is what a real wiki sent; demo/README.md tells where it comes from.
//
//go:embed demo/enwiki-renderings.updates.ndjson.gz
var recorded []byte

// articlePath is where the recorded wiki's pages are.
const articlePath = "https://en.wikipedia.example/wiki/"

// readRecording inflates the recording, one update a line.
func readRecording() ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(recorded))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// A wiki is the recorded wiki: its pages, and the renderings in its cache. It
// plays the MediaWiki of the demo, and it says what a hub should answer: from
// the recorded data alone, by comparing, without any of the hub's rules.
type wiki struct {
	renderings map[string]client.Update // by URI, the newest of each
	primaries  map[string]client.Update // everything else
	revision   int64                    // the newest
	now        time.Time                // when the newest update was made
	sent       client.Update            // the last one
}

// readWiki replays updates, one a line.
func readWiki(ndjson []byte) (*wiki, error) {
	w := &wiki{renderings: map[string]client.Update{}, primaries: map[string]client.Update{}}
	lines := bufio.NewScanner(bytes.NewReader(ndjson))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var u client.Update
		if err := json.Unmarshal(lines.Bytes(), &u); err != nil {
			return nil, err
		}
		w.take(u)
	}
	return w, lines.Err()
}

// take records what the wiki did.
func (w *wiki) take(updates ...client.Update) {
	for _, u := range updates {
		gone := u.Action == client.ActionDelete
		switch {
		case u.Type != mediawiki.TypeHTML && gone:
			u.Version = "0"
			fallthrough
		case u.Type != mediawiki.TypeHTML:
			w.primaries[u.URI] = u
		case gone:
			delete(w.renderings, u.URI)
		default:
			w.renderings[u.URI] = u
		}
		if u.Type == mediawiki.TypeContent {
			if id, err := strconv.ParseInt(u.Version, 10, 64); err == nil {
				w.revision = max(w.revision, id)
			}
		}
		if u.At.After(w.now) {
			w.now = u.At
		}
		w.sent = u
	}
}

// madeFrom lists the renderings that name uri as a dependency.
func (w *wiki) madeFrom(uri string) []string {
	return w.pick(func(u *client.Update) bool {
		return slices.ContainsFunc(u.Deps, func(d client.Dep) bool { return d.URI == uri })
	})
}

// linking lists the renderings that link to page without being made from it:
// they show whether it exists, not what is in it.
func (w *wiki) linking(page string) []string {
	made := w.madeFrom(page)
	return slices.DeleteFunc(w.madeFrom(mediawiki.Aspect(page, mediawiki.Exists)), func(uri string) bool {
		_, found := slices.BinarySearch(made, uri)
		return found
	})
}

// outdated lists the renderings that show another version of something than the
// wiki has now.
func (w *wiki) outdated() []string {
	return w.pick(func(u *client.Update) bool {
		return slices.ContainsFunc(u.Deps, func(d client.Dep) bool {
			now, known := w.primaries[d.URI]
			return known && d.Seen != "" && d.Seen != now.Version
		})
	})
}

// undecidable reports whether the rendering uri names, without saying what it
// saw, something that has changed at some time. Then only clocks can tell.
func (w *wiki) undecidable(uri string) bool {
	return slices.ContainsFunc(w.renderings[uri].Deps, func(d client.Dep) bool {
		_, known := w.primaries[d.URI]
		return known && d.Seen == ""
	})
}

// pick lists the renderings for which keep holds, sorted.
func (w *wiki) pick(keep func(*client.Update) bool) []string {
	var list []string
	for _, uri := range slices.Sorted(maps.Keys(w.renderings)) {
		if u := w.renderings[uri]; keep(&u) {
			list = append(list, uri)
		}
	}
	return list
}

// render makes the rendering uri again, as MediaWiki does when a notice asks for
// it: from what the wiki has now. token is the notice's.
func (w *wiki) render(uri string, began time.Time, token string) client.Update {
	page, aspect, _ := strings.Cut(uri, "#")
	deps := slices.Clone(w.renderings[uri].Deps)
	for i := range deps {
		if now, known := w.primaries[deps[i].URI]; known && now.Version != "" {
			deps[i].Seen = now.Version
		}
	}
	return mediawiki.Rendered(mediawiki.Rendering{Page: page, Aspect: aspect, Hash: digest(uri, fmt.Sprint(deps)),
		Began: began, Token: token, Deps: deps})
}

// revise returns a new revision of page, whose text differs from all others.
func (w *wiki) revise(page string, at time.Time) mediawiki.Revision {
	id := w.revision + 1
	return mediawiki.Revision{Page: page, ID: id, SHA1: digest(page, strconv.FormatInt(id, 10)), At: at}
}

// digest stands for the digest of a text that names these things.
func digest(parts ...string) string {
	return fmt.Sprintf("%x", sha1.Sum([]byte(strings.Join(parts, "\n"))))
}

// A scene is one thing that happens in the wiki.
type scene struct {
	title   string
	updates []client.Update // what MediaWiki sends at once
	want    []string        // renderings that must be made again, and no others
	reason  string          // which those are
	linking []string        // renderings that merely link to the page
	spared  string          // why the others are left alone
}

// The scenes of the demo. Each is made when it begins, from what the wiki is by
// then.
var scenes = []func(w *wiki, now time.Time) scene{editTemplate, uploadFile, createPage, editPage, deletePage, nullEdit}

func editTemplate(w *wiki, now time.Time) scene {
	page := mediawiki.PageURI(articlePath, "Template:Leaf")
	return scene{
		title:   "an editor changes Template:Leaf",
		updates: mediawiki.Edited(w.revise(page, now)),
		want:    w.madeFrom(page), linking: w.linking(page),
		reason: "all that use the template, directly or inside another one",
		spared: "do not use it",
	}
}

func uploadFile(w *wiki, now time.Time) scene {
	page := mediawiki.PageURI(articlePath, "File:Red.png")
	return scene{
		title:   "somebody uploads a new version of File:Red.png",
		updates: mediawiki.Uploaded(page, digest(page, "second version"), now),
		want:    w.madeFrom(mediawiki.Aspect(page, mediawiki.File)), linking: w.linking(page),
		reason: "all that show the image",
		spared: "do not show it",
	}
}

// missingPage is linked in red by 14 real articles of the recording.
const missingPage = "Latin"

// createPage sends the new page's own rendering first, as MediaWiki does: the
// event of the revision comes some milliseconds later and must not ask for it
// again.
func createPage(w *wiki, now time.Time) scene {
	page := mediawiki.PageURI(articlePath, missingPage)
	r := w.revise(page, now)
	first := mediawiki.Rendered(mediawiki.Rendering{Page: page, Hash: digest(page, "first rendering"), Began: now,
		Deps: []client.Dep{{URI: page, Seen: strconv.FormatInt(r.ID, 10)}}})
	exists := mediawiki.Aspect(page, mediawiki.Exists)
	return scene{
		title:   "somebody writes the missing page " + missingPage,
		updates: append([]client.Update{first}, mediawiki.Created(r)...),
		want:    w.madeFrom(exists),
		reason:  "all that link to it, for the link turns from red to blue",
		spared:  "do not link to it; its own rendering is fresh",
	}
}

func editPage(w *wiki, now time.Time) scene {
	page := mediawiki.PageURI(articlePath, missingPage)
	return scene{
		title:   "an editor changes " + missingPage,
		updates: mediawiki.Edited(w.revise(page, now)),
		want:    w.madeFrom(page), linking: w.linking(page),
		reason: "all that show its text",
		spared: "do not show its text",
	}
}

func deletePage(w *wiki, now time.Time) scene {
	page := mediawiki.PageURI(articlePath, missingPage)
	last := mediawiki.Revision{Page: page, ID: w.revision, At: now}
	return scene{
		title:   "somebody deletes " + missingPage,
		updates: mediawiki.Deleted(last),
		want:    w.madeFrom(mediawiki.Aspect(page, mediawiki.Exists)),
		reason:  "all that link to it, for the link turns red again",
		spared:  "do not link to it",
	}
}

// nullEdit saves what is there already: a new revision with the same content.
func nullEdit(w *wiki, now time.Time) scene {
	page := mediawiki.PageURI(articlePath, "Template:Leaf")
	r := w.revise(page, now)
	r.SHA1 = w.primaries[page].Hash
	return scene{
		title:   "an editor saves Template:Leaf without changing anything",
		updates: mediawiki.Edited(r),
		linking: w.linking(page),
		spared:  "are as fresh as before: the new revision has the same content",
	}
}
