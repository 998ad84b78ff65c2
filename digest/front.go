package digest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// recentHours bounds what the documents that are read again and again reach back to.
	recentHours = 24
	// listedHours bounds the hours that are told to people, to a week.
	listedHours = 168
	// topReasons bounds the reasons that are told to people.
	topReasons = 5
)

// A front is what the mutable documents of a channel are made of.
type front struct {
	base, hub      string // addresses of the archive, and of the hub of WebSub, "" if there is none
	state          *State
	hours          []*Manifest // newest first, all that are kept and may be shown, with their files
	entries, items []string    // lines of the newest entries, newest first, in Atom and as items of a JSON feed
	recent         []string    // lines of the change lists of the last 24 hours, oldest first, at most [MaxPart]
}

// address is that of something below the channel's folder.
func (f *front) address(path string) string {
	return channelAddress(f.base, f.state.Channel) + path
}

// newest is the address of the first file of a role of the newest hour, "" if there is
// no hour.
func (f *front) newest(role string) string {
	if len(f.hours) == 0 {
		return ""
	}
	return f.address(Hour.Folder(f.hours[0].From) + partName(role, 1))
}

// updated is when the newest hour closed.
func (f *front) updated() time.Time {
	if len(f.hours) == 0 {
		return f.state.Until
	}
	return f.hours[0].ClosedAt
}

// gaps are those of the last hours that are not complete, newest first.
func (f *front) gaps() (found []*Manifest) {
	for _, m := range f.hours[:min(len(f.hours), recentHours)] {
		if !m.Complete {
			found = append(found, m)
		}
	}
	return found
}

// feedAtom is the feed that people and programs subscribe to. Who was away for longer
// than it reaches back goes on in the archives.
// Source: RFC 5005, section 4; WebSub, section 4.
func (f *front) feedAtom() []byte {
	self := f.address("feed.atom")
	b := appendAtomHead([]byte(atomOpen), self, "freshwire digests of "+f.state.Channel, f.updated())
	b = appendAtomLink(b, "self", typeAtom, self)
	b = appendAtomLink(b, "hub", "", f.hub)
	b = appendAtomLink(b, "prev-archive", typeAtom, f.newest(RoleAtom))
	b = appendAtomLink(b, "alternate", "text/html", f.base+"/")
	b = appendAttr(append(b, "<fw:state"...), "channel", f.state.Channel)
	b = appendNumberAttr(b, "seq", f.state.Seq)
	b = appendAttr(b, "cursor", f.state.Cursor)
	b = append(appendAttr(b, "href", f.address("state.json")), ">\n"...)
	for _, m := range f.gaps() {
		b = appendTimeAttr(append(b, "<fw:incomplete"...), "from", m.From)
		b = appendTimeAttr(b, "until", m.Until)
		b = append(appendAttr(b, "reason", m.Reason), "/>\n"...)
	}
	b = append(b, "</fw:state>\n"...)
	for _, line := range f.entries {
		b = append(append(b, line...), '\n')
	}
	return append(b, atomClose...)
}

// feedJSON is the same as a JSON feed.
func (f *front) feedJSON() []byte {
	b := appendJSONFeedHead(nil, f.base, "freshwire digests of "+f.state.Channel, f.address("feed.json"), f.newest(RoleJSONFeed))
	if f.hub != "" {
		b = append(appendString(append(b, `"hubs":[{"type":"WebSub","url":`...), f.hub), "}],\n"...)
	}
	b = appendString(append(b, `"_freshwire":{"about":`...), f.base+"/")
	b = appendText(b, "channel", f.state.Channel)
	b = appendNumber(b, "seq", f.state.Seq)
	b = appendText(b, "cursor", f.state.Cursor)
	b = appendText(b, "state", f.address("state.json"))
	b = append(b, `,"incomplete":[`...)
	for i, m := range f.gaps() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(stamp(append(b, `{"from":"`...), m.From), '"')
		b = appendTime(b, "until", m.Until)
		b = append(appendText(b, "reason", m.Reason), '}')
	}
	b = append(b, "]},\n\"items\":["...)
	for i, line := range f.items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, '\n'), line...)
	}
	if len(f.items) > 0 {
		b = append(b, '\n')
	}
	return append(b, "]}\n"...)
}

// hoursAtom is a feed for people: an entry for each hour of the last week.
func (f *front) hoursAtom() []byte {
	self := f.address("hours.atom")
	b := appendAtomHead([]byte(atomOpen), self, "freshwire hours of "+f.state.Channel, f.updated())
	b = appendAtomLink(b, "self", typeAtom, self)
	b = appendAtomLink(b, "alternate", "text/html", f.base+"/")
	for _, m := range f.hours[:min(len(f.hours), listedHours)] {
		b = f.appendHour(b, m)
	}
	return append(b, atomClose...)
}

// appendHour appends an entry about an hour, with the first file of each view: a busy
// hour may have hundreds.
func (f *front) appendHour(b []byte, m *Manifest) []byte {
	folder := f.address(Hour.Folder(m.From))
	title := fmt.Sprintf("%s: %s", span(m.From, m.Until), counted(m.Entries, "resource"))
	if !m.Complete {
		title += ", not complete"
	}
	b = appendElement(append(b, "<entry>"...), "id", "urn:freshwire:digest:"+m.Channel+":hour:"+m.From.UTC().Format("2006-01-02T15Z"))
	b = appendElement(append(b, '\n'), "title", title)
	b = append(stamp(append(b, "\n<updated>"...), m.ClosedAt), "</updated>\n"...)
	b = appendAtomLink(b, "alternate", "application/json", folder+"manifest.json")
	first := slices.DeleteFunc(slices.Clone(m.Files), func(file File) bool { return file.Href != partName(file.Role, 1) })
	for i := range first {
		b = appendAttr(append(b, `<link rel="enclosure"`...), "type", first[i].Type)
		b = appendNumberAttr(b, "length", uint64(first[i].Size))
		b = append(appendAttr(b, "href", folder+first[i].Href), "/>\n"...)
	}
	b = append(b, `<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">`...)
	b = appendElement(b, "p", m.totals())
	b = appendElement(b, "p", m.state())
	if len(first) > 0 {
		b = append(b, "<ul>"...)
		for i := range first {
			b = appendFile(append(b, "<li>"...), folder, &first[i])
			b = append(b, "</li>"...)
		}
		b = append(b, "</ul>"...)
	}
	if more := len(m.Files) - len(first); more > 0 {
		b = appendElement(b, "p", "The manifest names "+counted(uint64(more), "further file")+".")
	}
	return append(b, "</div></content>\n</entry>\n"...)
}

// appendFile appends links of HTML to a file and its codings.
func appendFile(b []byte, folder string, file *File) []byte {
	b = appendAttr(append(b, "<a"...), "href", folder+file.Href)
	b = appendXML(append(b, '>'), file.Href)
	b = appendXML(append(b, "</a>, "...), byteCount(file.Size))
	for _, coded := range file.Codings {
		b = appendAttr(append(b, ", <a"...), "href", folder+coded.Href)
		b = appendXML(append(b, '>'), coded.Coding)
		b = appendXML(append(b, "</a> "...), byteCount(coded.Size))
	}
	return b
}

// totals says in words what happened.
func (m *Manifest) totals() string {
	if m.Entries == 0 {
		return "Nothing changed."
	}
	var parts []string
	for _, change := range []string{Created, Updated, Deleted} {
		if n := m.Changes[change]; n > 0 {
			parts = append(parts, grouped(n)+" "+change)
		}
	}
	s := fmt.Sprintf("%s in %s: %s.", counted(m.Entries, "resource"), counted(m.Notices, "notice"), strings.Join(parts, ", "))
	reasons := slices.SortedFunc(maps.Keys(m.Reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(m.Reasons[b], m.Reasons[a]), cmp.Compare(a, b))
	})
	parts = nil
	for _, reason := range reasons[:min(len(reasons), topReasons)] {
		parts = append(parts, reason+" "+grouped(m.Reasons[reason]))
	}
	if len(reasons) > topReasons {
		parts = append(parts, "others")
	}
	return s + " Reasons: " + strings.Join(parts, ", ") + "."
}

// state says in words whether it is complete.
func (m *Manifest) state() string {
	if m.Complete {
		return "Complete."
	}
	switch m.Reason {
	case Missed:
		return "Not complete: no hub ran when it ended. What is here is whole, but of what happened meanwhile nobody may have been told."
	case Trimmed:
		return "Not complete: a part of the journal was lost before this was made. Changes are missing."
	case Reconcile:
		return "Not complete: the hub went on with another journal. Trust nothing from before, and begin anew."
	}
	return "Not complete: " + m.Reason + "."
}

// counted is a number of things for people.
func counted(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return grouped(n) + " " + what + "s"
}

// grouped is a number for people, as 1,234,567.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// byteCount is a size for people.
func byteCount(n int64) string {
	size := float64(n)
	if n < 1000 {
		return counted(uint64(max(n, 0)), "byte")
	}
	for _, unit := range []string{"kB", "MB", "GB"} {
		if size /= 1000; size < 999.95 {
			return strconv.FormatFloat(size, 'f', 1, 64) + " " + unit
		}
	}
	return strconv.FormatFloat(size/1000, 'f', 1, 64) + " TB"
}
