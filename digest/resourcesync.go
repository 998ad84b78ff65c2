package digest

import (
	"io"
	"strings"
	"time"
)

// Names of what is in the documents of ResourceSync.
// Source: ANSI/NISO Z39.99-2017, section 7.
const (
	syncSpaces = ` xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:rs="http://www.openarchives.org/rs/terms/">` + "\n"
	syncOpen   = `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<urlset` + syncSpaces
	syncClose  = "</urlset>\n"
	indexOpen  = `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<sitemapindex` + syncSpaces
	indexClose = "</sitemapindex>\n"

	capabilityListName = "capabilitylist.xml"
	changeListName     = "changelist.xml"
	recentFolder       = "recent/"
)

// Capabilities.
const (
	capDescription = "description"
	capList        = "capabilitylist"
	capChangeList  = "changelist"
)

type changeListView struct{ sheet }

// newChangeList writes a part of a closed change list. All parts are said to go from
// the beginning of the hour to its end, so that whoever chooses by time takes them all.
func newChangeList(w io.Writer, h *heading) view {
	v := &changeListView{sheet{w: w}}
	v.b = appendSyncLink([]byte(syncOpen), "up", h.channel()+capabilityListName)
	v.b = appendSyncLink(v.b, "index", h.channel()+changeListName)
	v.b = append(appendSyncRange(v.b, capChangeList, h.m.From, h.m.Until), '\n')
	return v
}

func (v *changeListView) add(e *Entry, _ []byte) error {
	v.b = appendChange(v.b, e)
	return v.spill()
}

func (v *changeListView) end() error {
	v.b = append(v.b, syncClose...)
	return v.flush()
}

// appendChange appends an entry on a line of its own. What is deleted has no date of
// its last modification.
func appendChange(b []byte, e *Entry) []byte {
	b = appendXML(append(b, "<url><loc>"...), e.URI)
	b = append(b, "</loc>"...)
	if e.Change != Deleted {
		b = append(stamp(append(b, "<lastmod>"...), e.Last), "</lastmod>"...)
	}
	b = appendAttr(append(b, "<rs:md"...), "change", e.Change)
	b = appendTimeAttr(b, "datetime", e.Last)
	return append(b, "/></url>\n"...)
}

func appendSyncLink(b []byte, rel, href string) []byte {
	b = appendAttr(append(b, "<rs:ln"...), "rel", rel)
	return append(appendAttr(b, "href", href), "/>\n"...)
}

// appendSyncRange appends what a document is and what time it covers; either may be
// left out, and a list without until is open.
func appendSyncRange(b []byte, capability string, from, until time.Time) []byte {
	b = appendAttr(append(b, "<rs:md"...), "capability", capability)
	if !from.IsZero() {
		b = appendTimeAttr(b, "from", from)
	}
	if !until.IsZero() {
		b = appendTimeAttr(b, "until", until)
	}
	return append(b, "/>"...)
}

// appendOffer appends an address that has a capability.
func appendOffer(b []byte, loc, capability string) []byte {
	b = appendElement(append(b, "<url>"...), "loc", loc)
	return append(appendSyncRange(b, capability, time.Time{}, time.Time{}), "</url>\n"...)
}

// sourceAddress is that of the source description.
// Source: ANSI/NISO Z39.99-2017, section 6.3.2.
func sourceAddress(base string) string {
	return strings.TrimSuffix(base, "/digest") + "/.well-known/resourcesync"
}

// SourceDescription is the document at /.well-known/resourcesync of the host whose
// archive lies at base. Each channel has two lists of capabilities: one leads to all
// hours that are kept, the other one to a list of what is recent, for clients who do
// not read an index.
// Source: ANSI/NISO Z39.99-2017, section 8.
func SourceDescription(base string, channels []string) []byte {
	b := appendSyncLink([]byte(syncOpen), "describedby", base+"/")
	b = append(appendSyncRange(b, capDescription, time.Time{}, time.Time{}), '\n')
	for _, channel := range channels {
		at := channelAddress(base, channel)
		b = appendOffer(b, at+capabilityListName, capList)
		b = appendOffer(b, at+recentFolder+capabilityListName, capList)
	}
	return append(b, syncClose...)
}

// capabilityDocument offers the change list that lies beside it.
func (f *front) capabilityDocument(folder string) []byte {
	at := channelAddress(f.base, f.state.Channel)
	b := appendSyncLink([]byte(syncOpen), "describedby", at+"state.json")
	b = appendSyncLink(b, "up", sourceAddress(f.base))
	b = append(appendSyncRange(b, capList, time.Time{}, time.Time{}), '\n')
	b = appendOffer(b, at+folder+changeListName, capChangeList)
	return append(b, syncClose...)
}

func (f *front) capabilityList() []byte { return f.capabilityDocument("") }

func (f *front) recentCapabilityList() []byte { return f.capabilityDocument(recentFolder) }

// changeListIndex lists the change lists of all hours, oldest first. It stays open:
// more hours follow. Of more than [MaxPart] lists it has those of the newest hours.
// Source: ANSI/NISO Z39.99-2017, section 12.2.
func (f *front) changeListIndex() []byte {
	first, count := len(f.hours), 0
	for i, m := range f.hours {
		for j := range m.Files {
			if m.Files[j].Role == RoleChangeList {
				count++
			}
		}
		if count > MaxPart {
			first = i
			break
		}
	}
	hours := f.hours[:first]
	from := f.state.Until
	if len(hours) > 0 {
		from = hours[len(hours)-1].From
	}
	at := channelAddress(f.base, f.state.Channel)
	b := appendSyncLink([]byte(indexOpen), "up", at+capabilityListName)
	b = append(appendSyncRange(b, capChangeList, from, time.Time{}), '\n')
	for i := len(hours) - 1; i >= 0; i-- {
		m := hours[i]
		for j := range m.Files {
			if m.Files[j].Role != RoleChangeList {
				continue
			}
			b = appendElement(append(b, "<sitemap>"...), "loc", at+Hour.Folder(m.From)+m.Files[j].Href)
			b = append(stamp(append(b, "<lastmod>"...), m.ClosedAt), "</lastmod>"...)
			b = append(appendSyncRange(b, "", m.From, m.Until), "</sitemap>\n"...)
		}
	}
	return append(b, indexClose...)
}

// recentChangeList is one plain list of what changed of late, without an index over
// it: there are clients that read none. It is open, for it says no more than what has
// changed since it begins.
func (f *front) recentChangeList() []byte {
	b := appendSyncLink([]byte(syncOpen), "up", channelAddress(f.base, f.state.Channel)+recentFolder+capabilityListName)
	b = append(appendSyncRange(b, capChangeList, f.recentSince(), time.Time{}), '\n')
	for _, line := range f.recent {
		b = append(append(b, line...), '\n')
	}
	return append(b, syncClose...)
}

// recentSince is the time since when all changes are in the recent list: the beginning
// of the oldest hour that is whole in it and after which none is missing or has lost
// anything. If the list begins within an hour it is the time after its first change,
// because others of that moment may have had no room.
func (f *front) recentSince() time.Time {
	since, left := f.state.Until, uint64(len(f.recent))
	for i, m := range f.hours[:min(len(f.hours), recentHours)] {
		if i > 0 && !m.Until.Equal(f.hours[i-1].From) || m.Reason == Trimmed || m.Reason == Reconcile {
			break
		}
		if m.Entries > left {
			if at := changeTime(f.recent); left > 0 && !at.IsZero() {
				since = at.Add(1)
			}
			break
		}
		since, left = m.From, left-m.Entries
	}
	return since
}

// changeTime is the time that the first of some lines of appendChange says.
func changeTime(urls []string) time.Time {
	if len(urls) == 0 {
		return time.Time{}
	}
	_, rest, _ := strings.Cut(urls[0], ` datetime="`)
	text, _, _ := strings.Cut(rest, `"`)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return at
}
