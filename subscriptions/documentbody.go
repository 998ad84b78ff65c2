package subscriptions

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"strconv"
	"sync"
	"time"

	"github.com/freshwire/freshwire/graph"
)

// Content types of a document's bodies.
const (
	DocumentJSON = "application/json"
	DocumentAtom = "application/atom+xml"
)

// bodies are what documents are sent as, each made when it is first asked for.
type bodies struct{ json, atom body }

type body struct {
	once  sync.Once
	bytes []byte
	tag   string
}

func (b *body) made(by func() []byte) *body {
	b.once.Do(func() {
		b.bytes = by()
		sum := sha256.Sum256(b.bytes)
		b.tag = `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
	})
	return b
}

// JSON returns the document as an object. Its bytes are shared: nobody changes them.
func (d *Document) JSON() []byte { return d.bodies.json.made(d.json).bytes }

// Atom returns the document as a feed with an entry for each notice. Its bytes are
// shared: nobody changes them.
// Source: RFC 4287.
func (d *Document) Atom() []byte { return d.bodies.atom.made(d.atom).bytes }

// Body returns JSON, or Atom, with its content type and a strong entity tag.
func (d *Document) Body(atom bool) (b []byte, contentType, etag string) {
	if atom {
		made := d.bodies.atom.made(d.atom)
		return made.bytes, DocumentAtom, made.tag
	}
	made := d.bodies.json.made(d.json)
	return made.bytes, DocumentJSON, made.tag
}

// Links are what the field Link of HTTP tells of the document.
// Source: WebSub, section 4.
func (d *Document) Links() string {
	return "<" + d.Hub + `>; rel="hub", <` + d.Self + `>; rel="self"`
}

// Lane names the lane the document is of, "" if it is of both.
func (d *Document) Lane() string {
	switch d.Lanes {
	case 1 << graph.Prompt:
		return graph.Prompt.String()
	case 1 << graph.Bulk:
		return graph.Bulk.String()
	}
	return ""
}

func (d *Document) json() []byte {
	b := append(make([]byte, 0, 512+512*len(d.Notices)), '{')
	if d.Topic.URI != "" {
		b = append(appendString(append(b, `"resource":`...), d.Topic.URI), ',')
	} else {
		b = append(appendString(append(b, `"channel":`...), d.Topic.Channel), ',')
	}
	b = appendString(append(b, `"self":`...), d.Self)
	b = appendString(append(b, `,"hub":`...), d.Hub)
	b = appendField(b, "epoch", d.Epoch.String())
	b = appendField(b, "lane", d.Lane())
	for _, place := range []struct {
		name string
		seq  uint64
	}{{`,"first":`, d.First}, {`,"last":`, d.Last}, {`,"prev":`, d.Prev}} {
		b = strconv.AppendUint(append(b, place.name...), place.seq, 10)
	}
	if d.Reset != nil {
		b = appendString(append(b, `,"reset":{"reason":`...), d.Reset.Reason)
		b = appendField(b, "oldest", d.Reset.Oldest.String())
		b = append(appendField(b, "newest", d.Reset.Newest.String()), '}')
	}
	b = append(b, `,"notices":[`...)
	for i := range d.Notices {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendNotice(append(b, '\n'), &d.Notices[i])
	}
	return append(b, "]}\n"...)
}

// atomFeed is a feed document.
// Source: RFC 4287, section 4.1.1.
type atomFeed struct {
	XMLName xml.Name    `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string      `xml:"id"`
	Title   string      `xml:"title"`
	Updated string      `xml:"updated"`
	Author  string      `xml:"author>name"`
	Links   []atomLink  `xml:"link"`
	Range   atomRange   `xml:"urn:freshwire:topic range"`
	Reset   *atomReset  `xml:"urn:freshwire:topic reset"`
	Entries []atomEntry `xml:"entry"`
}

type atomLink struct {
	Rel  string `xml:"rel,attr"`
	Href string `xml:"href,attr"`
}

// atomRange and atomReset are the members of the same names in JSON.
type atomRange struct {
	Epoch string `xml:"epoch,attr"`
	Lane  string `xml:"lane,attr,omitempty"`
	First uint64 `xml:"first,attr"`
	Last  uint64 `xml:"last,attr"`
	Prev  uint64 `xml:"prev,attr"`
}

type atomReset struct {
	Reason string `xml:"reason,attr"`
	Oldest string `xml:"oldest,attr"`
	Newest string `xml:"newest,attr"`
}

type atomEntry struct {
	ID         string         `xml:"id"`
	Title      string         `xml:"title"`
	Updated    string         `xml:"updated"`
	Link       atomLink       `xml:"link"`
	Categories []atomCategory `xml:"category"`
	Content    atomText       `xml:"content"`
}

type atomCategory struct {
	Term string `xml:"term,attr"`
}

type atomText struct {
	Type string `xml:"type,attr"`
	Text string `xml:",chardata"`
}

func (d *Document) atom() []byte {
	f := atomFeed{ID: d.Self, Title: "freshwire: " + d.Topic.Channel + d.Topic.URI, Updated: atomTime(time.Unix(0, 0)),
		Author: "freshwire", Links: []atomLink{{"self", d.Self}, {"hub", d.Hub}},
		Range: atomRange{d.Epoch.String(), d.Lane(), d.First, d.Last, d.Prev}}
	if d.Reset != nil {
		f.Reset = &atomReset{d.Reset.Reason, d.Reset.Oldest.String(), d.Reset.Newest.String()}
	}
	for i := range d.Notices {
		n := &d.Notices[i]
		f.Updated = atomTime(n.At)
		f.Entries = append(f.Entries, atomEntry{
			ID:    "urn:freshwire:notice:" + n.Cursor.String(),
			Title: n.Kind.String() + " " + n.URI, Updated: f.Updated, Link: atomLink{"alternate", n.URI},
			Categories: []atomCategory{{n.Kind.String()}, {n.Lane.String()}},
			Content:    atomText{"text", string(AppendNotice(nil, n))},
		})
	}
	b, err := xml.MarshalIndent(f, "", " ")
	if err != nil {
		panic(err) // texts and numbers
	}
	return append(append([]byte(xml.Header), b...), '\n')
}

func atomTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
