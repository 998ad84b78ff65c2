package digest

import (
	"io"
	"strconv"
	"time"
)

// Names of what is in the Atom documents.
// Source: RFC 4287; RFC 5005, section 4, of feeds whose past lies in archives.
const (
	atomOpen = `<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
		`<feed xmlns="http://www.w3.org/2005/Atom" xmlns:fh="http://purl.org/syndication/history/1.0" xmlns:fw="` + atomSpace + `">` + "\n"
	atomClose = "</feed>\n"
	// atomSpace is the namespace of what is ours, and what the schemes of categories
	// begin with.
	atomSpace = "urn:freshwire:digest"
)

type atomView struct {
	sheet
	name string // of entries, without the position
}

// newAtom writes a part of an archived feed. All parts of all hours are one feed, and
// each leads to the one with the entries before.
func newAtom(w io.Writer, h *heading) view {
	v := &atomView{sheet: sheet{w: w}, name: entryName(h.m.Channel, h.m.Epoch)}
	b := appendAtomHead([]byte(atomOpen), h.channel()+"feed.atom", h.title(), h.m.ClosedAt)
	b = appendAtomLink(b, "self", typeAtom, h.address(RoleAtom, h.part))
	b = appendAtomLink(b, "current", typeAtom, h.channel()+"feed.atom")
	b = appendAtomLink(b, "prev-archive", typeAtom, h.older(RoleAtom))
	if h.part > 1 {
		b = appendAtomLink(b, "next-archive", typeAtom, h.address(RoleAtom, h.part-1))
	}
	b = append(b, "<fh:archive/>\n<fw:digest"...)
	b = appendAttr(b, "channel", h.m.Channel)
	b = appendAttr(b, "epoch", h.m.Epoch)
	b = appendNumberAttr(b, "seq", h.m.Seq)
	b = appendTimeAttr(b, "from", h.m.From)
	b = appendTimeAttr(b, "until", h.m.Until)
	b = appendNumberAttr(b, "first_offset", h.m.FirstOffset)
	b = appendNumberAttr(b, "last_offset", h.m.LastOffset)
	b = appendNumberAttr(b, "entries", h.m.Entries)
	b = appendNumberAttr(b, "notices", h.m.Notices)
	b = appendAttr(b, "complete", strconv.FormatBool(h.m.Complete))
	b = appendAttr(b, "reason", h.m.Reason)
	b = appendNumberAttr(b, "part", uint64(h.part))
	b = appendNumberAttr(b, "parts", uint64(h.parts))
	v.b = append(b, "/>\n"...)
	return v
}

func (v *atomView) add(e *Entry, _ []byte) error {
	v.b = appendAtomEntry(v.b, v.name, e)
	return v.spill()
}

func (v *atomView) end() error {
	v.b = append(v.b, atomClose...)
	return v.flush()
}

// appendAtomHead appends what every feed has. An address that is the same for all
// documents of a feed is its name.
func appendAtomHead(b []byte, id, title string, updated time.Time) []byte {
	b = append(appendElement(b, "id", id), '\n')
	b = append(appendElement(b, "title", title), '\n')
	b = append(stamp(append(b, "<updated>"...), updated), "</updated>\n"...)
	return append(b, "<author><name>freshwire</name></author>\n"...)
}

// appendAtomLink appends a link, unless the address is empty.
func appendAtomLink(b []byte, rel, mediaType, href string) []byte {
	if href == "" {
		return b
	}
	b = appendAttr(append(b, "<link"...), "rel", rel)
	b = appendAttr(b, "type", mediaType)
	return append(appendAttr(b, "href", href), "/>\n"...)
}

// appendAtomEntry appends an entry on a line of its own. What Atom has no place for
// stands in one element, under the names it has as NDJSON.
func appendAtomEntry(b []byte, name string, e *Entry) []byte {
	b = appendXML(append(b, "<entry><id>"...), name)
	b = strconv.AppendUint(b, e.Offset, 10)
	b = appendXML(append(b, "</id><title>"...), e.Change)
	b = appendXML(append(b, ' '), readable(e.URI))
	b = stamp(append(b, "</title><updated>"...), e.Last)
	b = appendAttr(append(b, `</updated><link rel="alternate"`...), "href", e.URI)
	b = append(b, "/>"...)
	b = appendAtomCategory(b, atomSpace+":change", e.Change)
	b = appendAtomCategory(b, atomSpace+":reason", e.Reason)
	b = appendAttr(append(b, "<fw:entry"...), "change", e.Change)
	b = appendNumberAttr(b, "count", e.Count)
	b = appendTimeAttr(b, "first", e.First)
	b = appendNumberAttr(b, "offset", e.Offset)
	b = appendAttr(b, "reason", e.Reason)
	b = appendAttr(b, "cause", e.Cause)
	if e.Late {
		b = append(b, ` late="true"`...)
	}
	if e.Transient {
		b = append(b, ` transient="true"`...)
	}
	b = appendAttr(b, "hash", e.Hash)
	b = appendAttr(b, "type", e.Type)
	if len(e.Causes) == 0 {
		return append(b, "/></entry>\n"...)
	}
	b = append(b, '>')
	for _, cause := range e.Causes {
		b = appendElement(b, "fw:cause", cause)
	}
	return append(b, "</fw:entry></entry>\n"...)
}

// appendAtomCategory appends a category, unless the term is empty.
func appendAtomCategory(b []byte, scheme, term string) []byte {
	if term == "" {
		return b
	}
	b = appendAttr(append(b, "<category"...), "scheme", scheme)
	return append(appendAttr(b, "term", term), "/>"...)
}
