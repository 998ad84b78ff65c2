package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/hub/mediawiki"
)

func recordedWiki(t *testing.T) *wiki {
	t.Helper()
	recording, err := readRecording()
	if err != nil {
		t.Fatal(err)
	}
	w, err := readWiki(recording)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestTheRecordingIsWhatItsNoteSays(t *testing.T) {
	w := recordedWiki(t)
	for what, n := range map[string][2]int{
		"renderings":                     {len(w.renderings), 219},
		"made from Template:Leaf":        {len(w.madeFrom(mediawiki.PageURI(articlePath, "Template:Leaf"))), 23},
		"showing File:Red.png":           {len(w.madeFrom(mediawiki.PageURI(articlePath, "File:Red.png") + "#file")), 21},
		"linking to the missing page":    {len(w.linking(mediawiki.PageURI(articlePath, missingPage))), 14},
		"outdated when the wiki stopped": {len(w.outdated()), 12},
		"newest revision":                {int(w.revision), 28},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: got %d, want %d", what, n[0], n[1])
		}
	}
	counter := mediawiki.Aspect(mediawiki.PageURI(articlePath, "Counter"), mediawiki.Canonical)
	if !w.undecidable(counter) {
		t.Errorf("%s names the members of a category without what it saw, and passes for decidable", counter)
	}
}

func TestARenderingSeesWhatTheWikiHasNow(t *testing.T) {
	w := recordedWiki(t)
	at := w.now.Add(time.Second)
	page := mediawiki.PageURI(articlePath, "Template:Leaf")
	s := editTemplate(w, at)
	w.take(s.updates...)
	got := w.outdated()
	for _, uri := range s.want {
		if !slices.Contains(got, uri) {
			t.Errorf("%s shows the template and is not outdated by its edit", uri)
		}
	}
	before := w.renderings[s.want[0]]
	after := w.render(s.want[0], at, "e.7")
	if after.Hash == before.Hash || after.Token != "e.7" || len(after.Deps) != len(before.Deps) {
		t.Errorf("got %+v, want another hash, the token, and the same dependencies as %+v", after, before)
	}
	if !slices.Contains(after.Deps, client.Dep{URI: page, Seen: "29"}) {
		t.Errorf("the rendering did not see revision 29: %v", after.Deps)
	}
	for _, uri := range w.outdated() {
		w.take(w.render(uri, at, ""))
	}
	if got := w.outdated(); len(got) != 0 {
		t.Errorf("rendered again, these are outdated still: %v", got)
	}
}

func TestTheDemoSaysHowAnAnswerIsWrong(t *testing.T) {
	err := same([]string{"a", "b"}, []string{"b", "c"})
	if err == nil {
		t.Fatal("two different lists pass for the same")
	}
	for _, want := range []string{"names without need: a", "does not name: c"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to say %q", err, want)
		}
	}
	if err := same([]string{"a", "b"}, []string{"b", "a"}); err != nil {
		t.Errorf("the order matters: %v", err)
	}
}
