package digest

import (
	"io"
	"strconv"
)

const jsonFeedVersion = "https://jsonfeed.org/version/1.1"

type jsonFeedView struct {
	sheet
	name string // of entries, as the beginning of a JSON string
	some bool
}

// newJSONFeed writes a part of a JSON feed, which leads to the one with the entries
// before. What JSON Feed has no place for is in the objects called _freshwire.
// Source: jsonfeed.org/version/1.1.
func newJSONFeed(w io.Writer, h *heading) view {
	name := appendString(nil, entryName(h.m.Channel, h.m.Epoch))
	v := &jsonFeedView{sheet: sheet{w: w}, name: string(name[:len(name)-1])}
	b := appendJSONFeedHead(nil, h.base, h.title(), h.address(RoleJSONFeed, h.part), h.older(RoleJSONFeed))
	b = appendString(append(b, `"_freshwire":{"about":`...), h.base+"/")
	b = appendText(b, "channel", h.m.Channel)
	b = appendText(b, "epoch", h.m.Epoch)
	b = appendNumber(b, "seq", h.m.Seq)
	b = appendTime(b, "from", h.m.From)
	b = appendTime(b, "until", h.m.Until)
	b = appendTime(b, "closed_at", h.m.ClosedAt)
	b = appendNumber(b, "first_offset", h.m.FirstOffset)
	b = appendNumber(b, "last_offset", h.m.LastOffset)
	b = appendNumber(b, "entries", h.m.Entries)
	b = appendNumber(b, "notices", h.m.Notices)
	b = strconv.AppendBool(append(b, `,"complete":`...), h.m.Complete)
	b = appendText(b, "reason", h.m.Reason)
	b = appendNumber(b, "part", uint64(h.part))
	b = appendNumber(b, "parts", uint64(h.parts))
	v.b = append(b, "},\n\"items\":["...)
	return v
}

func (v *jsonFeedView) add(e *Entry, line []byte) error {
	if v.some {
		v.b = append(v.b, ',')
	}
	v.some = true
	v.b = appendItem(append(v.b, '\n'), v.name, e, line)
	return v.spill()
}

func (v *jsonFeedView) end() error {
	if v.some {
		v.b = append(v.b, '\n')
	}
	v.b = append(v.b, "]}\n"...)
	return v.flush()
}

// appendJSONFeedHead appends the beginning of a feed, up to what is ours.
func appendJSONFeedHead(b []byte, base, title, self, next string) []byte {
	b = append(b, `{"version":"`+jsonFeedVersion+`",`+"\n"...)
	b = append(appendString(append(b, `"title":`...), title), ",\n"...)
	b = append(appendString(append(b, `"home_page_url":`...), base+"/"), ",\n"...)
	b = append(appendString(append(b, `"feed_url":`...), self), ",\n"...)
	if next != "" {
		b = append(appendString(append(b, `"next_url":`...), next), ",\n"...)
	}
	return b
}

// appendNumber appends a further member of an object.
func appendNumber(b []byte, name string, value uint64) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendUint(b, value, 10)
}

// appendItem appends an entry as an item of a feed, without line end.
func appendItem(b []byte, name string, e *Entry, line []byte) []byte {
	b = append(append(b, `{"id":`...), name...)
	b = append(strconv.AppendUint(b, e.Offset, 10), '"')
	b = appendText(b, "url", e.URI)
	b = appendInside(append(b, `,"title":"`...), e.Change)
	b = appendInside(append(b, ' '), readable(e.URI))
	b = append(b, `","content_text":"`...)
	if e.Count == 1 {
		b = append(b, `1 notice: `...)
	} else {
		b = append(strconv.AppendUint(b, e.Count, 10), ` notices, the last one: `...)
	}
	b = appendInside(b, e.Reason)
	if e.Cause != "" {
		b = appendInside(append(b, ", because of "...), e.Cause)
	}
	b = appendTime(append(b, '"'), "date_modified", e.Last)
	b = appendString(append(b, `,"tags":[`...), e.Change)
	if e.Reason != "" {
		b = appendString(append(b, ','), e.Reason)
	}
	return append(append(append(b, `],"_freshwire":`...), line...), '}')
}

// appendInside appends s to a JSON string that is open.
func appendInside(b []byte, s string) []byte {
	at := len(b)
	b = appendString(b, s)
	return append(b[:at], b[at+1:len(b)-1]...)
}
