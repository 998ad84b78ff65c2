package digest

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"strings"
	"time"
)

// An IndexItem is a channel on the page of [IndexPage].
type IndexItem struct {
	Channel string
	Public  bool // everybody may read it; else the page tells how a token is sent
	State   State
	Hours   int       // that are kept
	Bytes   int64     // of all that is kept
	Oldest  time.Time // when the oldest hour that is kept begins
	// Entries, Complete and Reason are those of the newest hour.
	Entries  uint64
	Complete bool
	Reason   string
	// KeepHours and KeepRollups are for how long hours and roll-ups are kept.
	KeepHours, KeepRollups time.Duration
}

// pageStyle is all the style the page has: the colours are the reader's own.
const pageStyle = `
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; overflow-wrap: break-word; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; min-width: 48rem; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { border: 1px solid; padding: .3rem .6rem; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
h2 { margin-top: 2rem; }
pre { border: 1px solid; overflow-wrap: anywhere; padding: .6rem; white-space: pre-wrap; }
code { font: .875rem/1.5 ui-monospace, monospace; }
`

// IndexPolicy is the Content-Security-Policy that the page of [IndexPage] is to be sent
// with. The page needs its one style, which is named by its hash, and nothing else: no
// script, no picture, no form.
var IndexPolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

var pageTemplate = template.Must(template.New("index").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>freshwire digests</title>
{{range .Channels}}<link rel="resourcesync" type="application/xml" href="{{.Folder}}capabilitylist.xml">
<link rel="alternate" type="application/atom+xml" title="{{.Channel}}" href="{{.Folder}}feed.atom">
<link rel="alternate" type="application/feed+json" title="{{.Channel}}" href="{{.Folder}}feed.json">
<link rel="alternate" type="application/atom+xml" title="{{.Channel}}, hours" href="{{.Folder}}hours.atom">
{{end}}<style>{{.Style}}</style>
</head>
<body>
<main>
<h1>freshwire digests</h1>
<p>What changed, an hour at a time, as plain files. Each hour has one entry for each resource that changed in it, and goes on exactly where
the hour before ends. A file of an hour that is over never changes. Times are UTC. For ResourceSync there is a
<a href="{{.Source}}">source description</a> of all channels.</p>
{{if not .Channels}}<p>No channel has a digest yet.</p>
{{else}}<div class="wide" role="region" aria-labelledby="channels" tabindex="0">
<table>
<caption id="channels">Channels</caption>
<thead><tr><th scope="col">Channel</th><th scope="col">Newest hour</th><th scope="col">Resources in it</th><th scope="col">Hours kept</th><th scope="col">Roll-ups kept</th><th scope="col">Size</th><th scope="col">Documents</th></tr></thead>
<tbody>
{{range .Channels}}<tr>
<th scope="row"><a href="#{{.Anchor}}">{{.Channel}}</a>{{if not .Public}} (needs a token){{end}}</th>
<td><a href="{{.Manifest}}"><time datetime="{{.From}}">{{.Span}}</time></a>{{with .Gap}} {{.}}{{end}}</td>
<td class="n">{{.Entries}}</td>
<td>{{.Hours}}, from {{.Oldest}}; {{.KeepHours}}</td>
<td>{{.Rollups}}; {{.KeepRollups}}</td>
<td class="n">{{.Size}}</td>
<td><a href="{{.Folder}}state.json">head</a>, <a href="{{.Folder}}feed.atom">Atom</a>, <a href="{{.Folder}}feed.json">JSON Feed</a>, <a href="{{.Folder}}hours.atom">hours</a>, <a href="{{.Folder}}capabilitylist.xml">ResourceSync</a></td>
</tr>
{{end}}</tbody>
</table>
</div>
{{range .Channels}}<section aria-labelledby="{{.Anchor}}">
<h2 id="{{.Anchor}}">{{.Channel}}</h2>
<details>
<summary>Read {{.Channel}} with curl</summary>
{{range .Commands}}<h3>{{.What}}</h3>
<pre><code>{{.Line}}</code></pre>
{{end}}</details>
</section>
{{end}}{{end}}</main>
</body>
</html>
`))

// pageChannel is a channel as the page shows it.
type pageChannel struct {
	Channel, Anchor, Folder, Manifest string
	Public                            bool
	From, Span, Oldest, Gap           string
	Entries, Hours, Rollups, Size     string
	KeepHours, KeepRollups            string
	Commands                          []pageCommand
}

// A pageCommand reads a channel in one format, in a POSIX shell.
type pageCommand struct{ What, Line string }

// IndexPage writes an HTML page about the channels of an archive: what there is of
// each, for how long it is kept, and how it is read. Base is the archive's address,
// without a slash at the end. [IndexPolicy] says what the page needs.
func IndexPage(w io.Writer, base string, list []IndexItem) error {
	page := struct {
		Source   string
		Style    template.CSS
		Channels []pageChannel
	}{Source: sourceAddress(base), Style: pageStyle}
	for i := range list {
		item := &list[i]
		folder := channelAddress(base, item.Channel)
		c := pageChannel{
			Channel: item.Channel, Anchor: "channel-" + item.Channel, Folder: folder, Manifest: folder + item.State.Manifest, Public: item.Public,
			From: string(stamp(nil, item.State.From)), Span: span(item.State.From, item.State.Until),
			Oldest: item.Oldest.UTC().Format("2006-01-02 15:04"), Entries: grouped(item.Entries),
			Hours: grouped(uint64(item.Hours)), Rollups: grouped(uint64(len(item.State.Rollups))), Size: byteCount(item.Bytes),
			KeepHours: forDays(item.KeepHours), KeepRollups: forDays(item.KeepRollups),
		}
		if !item.Complete {
			c.Gap = "(not complete: " + item.Reason + ")"
		}
		var err error
		if c.Commands, err = item.commands(folder); err != nil {
			return err
		}
		page.Channels = append(page.Channels, c)
	}
	return pageTemplate.Execute(w, page)
}

// forDays is for how long something is kept.
func forDays(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("for %d h", d/time.Hour)
	}
	return fmt.Sprintf("for %s days", grouped(uint64(d/(24*time.Hour))))
}

// commands are how a channel is read, each of them on its own.
func (item *IndexItem) commands(folder string) ([]pageCommand, error) {
	head, err := url.Parse(folder + "state.json")
	if err != nil {
		return nil, err
	}
	stream, err := head.Parse(item.State.Stream)
	if err != nil {
		return nil, err
	}
	curl := "curl -fsS"
	if !item.Public {
		curl += ` --oauth2-bearer "$TOKEN"`
	}
	at := "D=" + quoted(strings.TrimSuffix(folder, "/")) + "; "
	// each reads all parts of the newest hour, one after the other.
	each := func(options, filter string) string {
		return at + "M=$(" + curl + ` "$D/state.json" | jq -r .manifest); ` + curl + ` "$D/$M" | jq -r '.files[] | select(.role == "ndjson").href' | ` +
			`while read -r F; do ` + curl + options + ` "$D/${M%manifest.json}$F"` + filter + `; done`
	}
	return []pageCommand{
		{"The newest hour, as NDJSON", each("", "")},
		{"The same, sent as gzip", each(" -H 'Accept-Encoding: gzip'", " | gzip -dcf")},
		{"The same, sent as Zstandard", each(" -H 'Accept-Encoding: zstd'", " | zstd -dcqf")},
		{"What is new, as Atom", at + curl + ` "$D/feed.atom"`},
		{"What is new, as JSON Feed", at + curl + ` "$D/feed.json" | jq -r '.items[] | .title'`},
		{"The last 24 hours, as a change list of ResourceSync", at + curl + ` "$D/recent/changelist.xml"`},
		{"The stream, from where the newest hour ends", at + curl + ` -N -H "Last-Event-ID: $(` + curl + ` "$D/state.json" | jq -r .cursor)" ` + quoted(stream.String())},
	}, nil
}

// quoted is s as one word of a POSIX shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
