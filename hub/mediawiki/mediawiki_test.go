package mediawiki_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/hub/client"
	"github.com/freshwire/freshwire/hub/mediawiki"
)

const base = "https://en.example.org/wiki/"

var at = time.Date(2026, 11, 22, 2, 12, 49, 976_000_000, time.UTC)

func TestAPageIsNamedAsMediaWikiNamesIt(t *testing.T) {
	for _, c := range []struct{ title, want string }{
		{"Main Page", "Main_Page"},
		{"Template:Use dmy dates/doc", "Template:Use_dmy_dates/doc"},
		{"Abstract (law)", "Abstract_(law)"},
		{"Jehovah's Witnesses", "Jehovah%27s_Witnesses"},
		{"Washington, D.C.", "Washington,_D.C."},
		{"AT&T", "AT%26T"},
		{"C++", "C%2B%2B"},
		{"100% pure? ~ #1", "100%25_pure%3F_~_%231"},
		{"Köln", "K%C3%B6ln"},
	} {
		if got := mediawiki.PageURI(base, c.title); got != base+c.want {
			t.Errorf("PageURI(%q) = %s, want %s", c.title, got, base+c.want)
		}
	}
}

func TestATitleIsReadable(t *testing.T) {
	page := base + "Main_Page"
	for _, c := range []struct{ uri, want string }{
		{page, "Main Page"},
		{mediawiki.Aspect(page, mediawiki.Canonical), "HTML of Main Page"},
		{mediawiki.Aspect(page, mediawiki.Exists), "Main Page #exists"},
	} {
		if got := mediawiki.Title(base, c.uri); got != c.want {
			t.Errorf("Title(%s) = %q, want %q", c.uri, got, c.want)
		}
	}
}

func TestEachEventMakesTheseUpdates(t *testing.T) {
	page := base + "Berlin"
	rev := mediawiki.Revision{Page: page, ID: 1182, SHA1: "9e1c", At: at}
	for _, c := range []struct {
		name string
		got  []client.Update
		want []string
	}{
		{"an edit is a new version of the content", mediawiki.Edited(rev), []string{
			`{"id":"revision:1182:1795313569976000","uri":"https://en.example.org/wiki/Berlin","type":"content","version":"1182","hash":"9e1c","at":"2026-11-22T02:12:49.976Z","deps":[]}`}},
		{"a creation also turns links blue", mediawiki.Created(rev)[1:], []string{
			`{"id":"exists=1:1182:1795313569976000","uri":"https://en.example.org/wiki/Berlin#exists","type":"exists","version":"1","hash":"1","at":"2026-11-22T02:12:49.976Z","deps":[]}`}},
		{"a deletion takes rendering and content away and turns links red", mediawiki.Deleted(rev), []string{
			`{"id":"deleted:1182:1795313569976000","uri":"https://en.example.org/wiki/Berlin#html/canonical","type":"html","action":"delete","at":"2026-11-22T02:12:49.976Z"}`,
			`{"id":"deleted:1182:1795313569976000","uri":"https://en.example.org/wiki/Berlin","type":"content","action":"delete","at":"2026-11-22T02:12:49.976Z"}`,
			`{"id":"exists=0:1182:1795313569976000","uri":"https://en.example.org/wiki/Berlin#exists","type":"exists","version":"0","hash":"0","at":"2026-11-22T02:12:49.976Z","deps":[]}`}},
		{"an upload is a new version of the file, not of its page", mediawiki.Uploaded(base+"File:B.jpg", "t3zx", at), []string{
			`{"id":"file:t3zx:1795313569976000","uri":"https://en.example.org/wiki/File:B.jpg#file","type":"file","version":"t3zx","hash":"t3zx","at":"2026-11-22T02:12:49.976Z","deps":[]}`}},
		{"a rendering names what it saw, and its page's bucket", []client.Update{mediawiki.Rendered(mediawiki.Rendering{
			Page: page, Hash: "77aa", Began: at, Token: "5f3a.7",
			Deps: []client.Dep{{URI: page, Seen: "1182"}, {URI: base + "Template:Main"}}})}, []string{
			`{"id":"html:77aa:1795313569976000","uri":"https://en.example.org/wiki/Berlin#html/canonical","type":"html","hash":"77aa","at":"2026-11-22T02:12:49.976Z","token":"5f3a.7","deps":[{"uri":"https://en.example.org/wiki/Berlin","seen":"1182"},"https://en.example.org/wiki/Template:Main"],"buckets":["https://en.example.org/wiki/Berlin"]}`}},
		{"a rendering of nothing says so", []client.Update{mediawiki.Rendered(mediawiki.Rendering{Page: page, Aspect: "html/userlang=de", Hash: "77aa", Began: at})}, []string{
			`{"id":"html:77aa:1795313569976000","uri":"https://en.example.org/wiki/Berlin#html/userlang=de","type":"html","hash":"77aa","at":"2026-11-22T02:12:49.976Z","deps":[],"buckets":["https://en.example.org/wiki/Berlin"]}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, u := range c.got {
				b, err := json.Marshal(u)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(b))
			}
			if g, w := strings.Join(got, "\n"), strings.Join(c.want, "\n"); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}

func TestAPageMadeAndDeletedTwiceNeverRepeatsAnId(t *testing.T) {
	rev := mediawiki.Revision{Page: base + "Berlin", ID: 7, SHA1: "9e1c", At: at}
	ids := map[string]bool{}
	for range 2 {
		for _, u := range append(mediawiki.Created(rev), mediawiki.Deleted(rev)...) {
			ids[u.ID+" "+u.URI] = true
		}
		rev.At = rev.At.Add(time.Second)
	}
	if len(ids) != 10 {
		t.Errorf("%d different (id, uri), want 10: %v", len(ids), ids)
	}
}
