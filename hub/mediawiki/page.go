// Package mediawiki is the one mapping between what happens in a MediaWiki and
// the updates a hub is told: which resources a page, a file and a rendering are,
// what their versions are, and which updates an edit, an upload, a deletion and
// a rendering make.
//
// A page's URI names its content, whose version is the revision. Other things
// that renderings are made from are aspects of it:
//
//	…/wiki/Berlin                  the content           version: revision id
//	…/wiki/Berlin#exists           whether it exists     version: "1" or "0"
//	…/wiki/File:B.jpg#file         the file              version: its SHA-1
//	…/wiki/Category:Arts#members   who is in it          no version: each event is a change
//	…/wiki/Berlin#html/canonical   a rendering           no version: its hash identifies it
//
// So a page that merely links to another depends on its #exists, and is left
// alone when the other is edited.
//
// Imports [client] of ours, for the wire form, and nothing else.
package mediawiki

import "strings"

// Aspects of a page.
const (
	Exists    = "exists"
	File      = "file"
	Members   = "members"
	Canonical = "html/canonical" // the rendering that readers without preferences share
)

// PageURI returns the URI of the page with this title, namespace included, in a
// wiki whose article path is base, such as https://en.example.org/wiki/. It
// encodes as MediaWiki does, so that the two sides name one page alike.
// Source: MediaWiki, wfUrlencode.
func PageURI(base, title string) string {
	var b strings.Builder
	b.WriteString(base)
	for _, c := range []byte(title) {
		switch {
		case c == ' ':
			b.WriteByte('_')
		case plain(c):
			b.WriteByte(c)
		default:
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// plain reports whether MediaWiki leaves c as it is in a path.
func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("-_.~;@$!*(),/:", c) >= 0
}

// Aspect returns the URI of an aspect of page.
func Aspect(page, aspect string) string { return page + "#" + aspect }

// Title returns what people call the resource: the page's title, without the
// article path, and what of it. It is for display only.
func Title(base, uri string) string {
	page, aspect, _ := strings.Cut(strings.TrimPrefix(uri, base), "#")
	page = strings.ReplaceAll(page, "_", " ")
	switch aspect {
	case "":
		return page
	case Canonical:
		return "HTML of " + page
	}
	return page + " #" + aspect
}
