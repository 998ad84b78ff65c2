package hub

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/hub/client"
)

// channelAnswer is what is read of an answer about a channel.
type channelAnswer struct {
	Name    string
	Listed  bool
	URIs    int
	Prefix  []string
	Kind    []string
	Public  bool
	BuiltIn bool `json:"built_in"`
	Cursor  string
}

func TestAChannelIsMadeShownChangedAndDeleted(t *testing.T) {
	h := startHub(t, nil)
	expect := func(what string, a *reply, status int) (got channelAnswer) {
		t.Helper()
		if a.status != status {
			t.Fatalf("%s: got %d %s, want %d", what, a.status, a.body, status)
		}
		if err := json.Unmarshal(a.body, &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	made := expect("PUT", h.do("PUT", "/v1/channels/files", `{"uri":["https://a.example/1","https://a.example/2"],"kind":["changed"],"public":true}`), 201)
	if made.Name != "files" || !made.Listed || made.URIs != 2 || !made.Public || len(made.Kind) != 1 || made.Cursor == "" {
		t.Errorf("made %+v", made)
	}
	if shown := expect("GET", h.do("GET", "/v1/channels/files", ""), 200); fmt.Sprint(shown) != fmt.Sprint(made) {
		t.Errorf("shown as %+v, made as %+v", shown, made)
	}
	a := h.do("PATCH", "/v1/channels/files", `{"add":{"uri":["https://a.example/2","https://a.example/3"]},"remove":{"uri":["https://a.example/1"]}}`)
	if !strings.HasPrefix(string(a.body), `{"added":1,"removed":1,"cursor":`) {
		t.Errorf("PATCH: got %d %s", a.status, a.body)
	}
	a = h.do("GET", "/v1/channels/files/uris", "", "Accept", typeNDJSON)
	if string(a.body) != "{\"uri\":\"https://a.example/2\"}\n{\"uri\":\"https://a.example/3\"}\n" {
		t.Errorf("the list is %s", a.body)
	}
	if a = h.do("GET", "/v1/channels/files/uris?limit=1", ""); !strings.HasPrefix(string(a.body), `{"uris":["https://a.example/2"],"next":`) {
		t.Errorf("a page is %s", a.body)
	}
	if again := expect("PUT again", h.do("PUT", "/v1/channels/files", `{"prefix":["https://a.example"]}`), 200); again.Listed || again.URIs != 0 || len(again.Prefix) != 1 {
		t.Errorf("replaced by %+v", again)
	}
	for _, name := range []string{"all", "host:a.example", "type:html"} {
		if got := expect(name, h.do("GET", "/v1/channels/"+name, ""), 200); !got.BuiltIn {
			t.Errorf("%s is not built in: %+v", name, got)
		}
	}
	if a := h.do("GET", "/v1/channels", ""); !bytes.Contains(a.body, []byte(`"items":[{"name":"files"`)) {
		t.Errorf("channels: %s", a.body)
	}
	expect("DELETE", h.do("DELETE", "/v1/channels/files", ""), 200)
	if a := h.do("GET", "/v1/channels/files", ""); a.status != 404 {
		t.Errorf("after its end: %d %s", a.status, a.body)
	}
}

const (
	chans = "/v1/channels/"
	some  = `"https://a.example/"`
)

// uris6000 are so many values of a list.
var uris6000 = some + strings.Repeat(","+some, 5999)

// badChannelRequests are asked of a hub that has a channel plain, without a list,
// and one listed.
var badChannelRequests = []struct {
	name, method, path, body string
	header                   []string
	kind                     *problemKind
	field                    string
}{
	{"a built-in channel is replaced", "PUT", chans + "all", `{}`, nil, fixedChannel, "name"},
	{"that of a host is replaced", "PUT", chans + "host:a.example", `{}`, nil, fixedChannel, "name"},
	{"that of a type is replaced, escaped", "PUT", chans + "type%3Atext%2Fhtml", `{}`, nil, fixedChannel, "name"},
	{"a name with a capital", "PUT", chans + "Files", `{}`, nil, badValue, "name"},
	{"a name that begins with a dash", "PUT", chans + "-files", `{}`, nil, badValue, "name"},
	{"a name with a slash", "PUT", chans + "a%2Fb", `{}`, nil, badValue, "name"},
	{"a name with a percent sign", "PUT", chans + "a%25b", `{}`, nil, badValue, "name"},
	{"a name that is too long", "PUT", chans + strings.Repeat("a", 65), `{}`, nil, badValue, "name"},
	{"no name", "PUT", chans, `{}`, nil, notFound, ""},
	{"a URI that is not canonical", "PUT", chans + "x", `{"uri":["https://A.example/"]}`, nil, badURI, "uri"},
	{"a ticker without period", "PUT", chans + "x", `{"uri":["ticker:soon"]}`, nil, badValue, "uri"},
	{"too many URIs", "PUT", chans + "x", `{"uri":[` + uris6000 + "," + uris6000 + `]}`, nil, overLimit, "uri"},
	{"too many values", "PUT", chans + "x", `{"uri":[` + uris6000 + `],"host":[` + uris6000 + `]}`, nil, badFilter, "host"},
	{"a prefix that names nothing", "PUT", chans + "x", `{"prefix":["berlin"]}`, nil, badFilter, "prefix"},
	{"an unknown kind", "PUT", chans + "x", `{"kind":["reset"]}`, nil, badFilter, "kind"},
	{"an empty host", "PUT", chans + "x", `{"host":[""]}`, nil, badFilter, "host"},
	{"a misspelt field", "PUT", chans + "x", `{"uris":[]}`, nil, unknownField, "uris"},
	{"a repeated field", "PUT", chans + "x", `{"uri":[],"uri":[]}`, nil, badJSON, "uri"},
	{"null for a list", "PUT", chans + "x", `{"uri":null}`, nil, badValue, "uri"},
	{"a word for a flag", "PUT", chans + "x", `{"public":"yes"}`, nil, badValue, "public"},
	{"an array", "PUT", chans + "x", `[]`, nil, badValue, ""},
	{"nothing", "PUT", chans + "x", ``, []string{"Content-Type", typeJSON}, badJSON, ""},
	{"a definition as lines", "PUT", chans + "x", `{}`, []string{"Content-Type", typeNDJSON}, badContentType, "Content-Type"},
	{"a definition with a parameter", "PUT", chans + "x?public=1", `{}`, nil, badQuery, "public"},

	{"a channel without a list is changed", "PATCH", chans + "plain", `{"add":{"uri":[` + some + `]}}`, nil, fixedChannel, "name"},
	{"a built-in channel is changed", "PATCH", chans + "all", `{"add":{"uri":[` + some + `]}}`, nil, fixedChannel, "name"},
	{"that of a host is changed", "PATCH", chans + "host%3Aa.example", `{"add":{"uri":[` + some + `]}}`, nil, fixedChannel, "name"},
	{"a channel nobody made is changed", "PATCH", chans + "x", `{"add":{"uri":[` + some + `]}}`, nil, unknownChannel, "name"},
	{"more than a list is changed", "PATCH", chans + "listed", `{"add":{"prefix":[` + some + `]}}`, nil, unknownField, "prefix"},
	{"a list of no kind is changed", "PATCH", chans + "listed", `{"add":[` + some + `]}`, nil, badValue, "add"},
	{"a misspelt change", "PATCH", chans + "listed", `{"delete":{"uri":[]}}`, nil, unknownField, "delete"},
	{"a URI that is not canonical is added", "PATCH", chans + "listed", `{"add":{"uri":["a.example"]}}`, nil, badURI, "add"},
	{"a ticker without period is added", "PATCH", chans + "listed", `{"add":{"uri":[` + some + `,"ticker:soon"]}}`, nil, badValue, "add"},
	{"too many are added", "PATCH", chans + "listed", `{"add":{"uri":[` + uris6000 + "," + uris6000 + `]}}`, nil, overLimit, "add"},
	{"too many are added and removed", "PATCH", chans + "listed", `{"add":{"uri":[` + uris6000 + `]},"remove":{"uri":[` + uris6000 + `]}}`, nil, overLimit, "add"},
	{"a change with a parameter", "PATCH", chans + "listed?dry=1", `{}`, nil, badQuery, "dry"},
	{"a change as plain text", "PATCH", chans + "listed", `{}`, []string{"Content-Type", "text/plain"}, badContentType, "Content-Type"},

	{"lines for a channel without a list", "PATCH", chans + "plain", `{"add":` + some + `}`, ndjson, fixedChannel, "name"},
	{"lines for a built-in channel", "PATCH", chans + "all", `{"add":` + some + `}`, ndjson, fixedChannel, "name"},
	{"lines for a channel nobody made", "PATCH", chans + "x", `{"add":` + some + `}`, ndjson, unknownChannel, "name"},
	{"lines in another charset", "PATCH", chans + "listed", `{"add":` + some + `}`, []string{"Content-Type", typeNDJSON + "; charset=latin1"}, badContentType, "Content-Type"},
	{"lines in an unknown encoding", "PATCH", chans + "listed", `{"add":` + some + `}`, append(ndjson, "Content-Encoding", "br"), badContentType, "Content-Encoding"},
	{"lines that are no gzip", "PATCH", chans + "listed", `{"add":` + some + `}`, append(ndjson, "Content-Encoding", "gzip"), badBody, ""},
	{"lines that are no zstd", "PATCH", chans + "listed", `{"add":` + some + `}`, append(ndjson, "Content-Encoding", "zstd"), badBody, ""},

	{"a channel nobody made is deleted", "DELETE", chans + "x", ``, nil, unknownChannel, "name"},
	{"a built-in channel is deleted", "DELETE", chans + "type:html", ``, nil, fixedChannel, "name"},
	{"a channel is deleted with a parameter", "DELETE", chans + "plain?force=1", ``, nil, badQuery, "force"},
	{"a channel nobody made is shown", "GET", chans + "x", ``, nil, unknownChannel, "name"},
	{"a type that cannot be is shown", "GET", chans + "type:%FF", ``, nil, badFilter, "type"},
	{"a channel is shown by POST", "POST", chans + "plain", `{}`, nil, badMethod, ""},
	{"an escaped one is shown by POST", "POST", chans + "type:text%2Fhtml", `{}`, nil, badMethod, ""},
	{"the list of a channel without one", "GET", chans + "plain/uris", ``, nil, fixedChannel, "name"},
	{"the list of a built-in channel", "GET", chans + "all/uris", ``, nil, fixedChannel, "name"},
	{"the list of a channel nobody made", "GET", chans + "x/uris", ``, nil, unknownChannel, "name"},
	{"a list after nowhere", "GET", chans + "listed/uris?after=abc", ``, nil, badQuery, "after"},
	{"a list of another store", "GET", chans + "listed/uris?after=00000000.1", ``, nil, badQuery, "after"},
	{"a page of a list that is too long", "GET", chans + "listed/uris?limit=1001", ``, nil, badQuery, "limit"},
	{"a page of lines", "GET", chans + "listed/uris?limit=10", ``, []string{"Accept", typeNDJSON}, badQuery, "limit"},
	{"no page of channels", "GET", "/v1/channels?limit=0", ``, nil, badQuery, "limit"},
	{"channels by name", "GET", "/v1/channels?name=plain", ``, nil, badQuery, "name"},

	{"a stream of a channel nobody made", "GET", "/v1/stream?channel=x", ``, nil, unknownChannel, ""},
	{"a stream of a channel and a filter", "GET", "/v1/stream?channel=plain&kind=changed", ``, nil, badFilter, ""},
	{"a stream of two channels", "GET", "/v1/stream?channel=plain&channel=listed", ``, nil, &problemKind{slug: "bad-query", status: 400}, ""},
	{"a stream of a channel by POST", "POST", "/v1/stream?channel=plain", `{}`, nil, badFilter, ""},
	{"a stream of a type that cannot be", "GET", "/v1/stream?channel=type:%FF", ``, nil, badFilter, ""},
}

var ndjson = []string{"Content-Type", typeNDJSON}

func TestChannelRequestsThatCannotBeMeantAreRefused(t *testing.T) {
	h := startHub(t, nil)
	for name, body := range map[string]string{"plain": `{}`, "listed": `{"uri":["https://a.example/kept"]}`} {
		if a := h.do("PUT", chans+name, body); a.status != 201 {
			t.Fatalf("got %d %s", a.status, a.body)
		}
	}
	state := func() string {
		return string(h.do("GET", "/v1/channels", "").body) + string(h.do("GET", chans+"listed/uris", "").body)
	}
	before := state()
	for _, c := range badChannelRequests {
		t.Run(c.name, func(t *testing.T) {
			h := *h
			h.t = t
			a := h.do(c.method, c.path, c.body, c.header...)
			var p Problem
			a.decode(t, &p)
			if a.status != c.kind.status || p.Type != problemBase+c.kind.slug || p.Field != c.field || p.Item != nil {
				t.Errorf("got %d %s\nwant %d %s, field %q and no item", a.status, a.body, c.kind.status, c.kind.slug, c.field)
			}
			if p.Detail == "" && p.Help == "" {
				t.Errorf("the answer names no way out: %s", a.body)
			}
			if c.kind == badMethod && a.header.Get("Allow") != "GET, PUT, PATCH, DELETE" {
				t.Errorf("Allow is %q", a.header.Get("Allow"))
			}
			if after := state(); after != before {
				t.Errorf("the channels changed from %s\nto %s", before, after)
			}
		})
	}
}

func TestALongListIsToldHowToBeSent(t *testing.T) {
	h := startHub(t, nil)
	h.do("PUT", chans+"x", `{"uri":[]}`)
	for _, c := range []struct{ method, body string }{
		{"PUT", `{"uri":[` + uris6000 + "," + uris6000 + `]}`},
		{"PATCH", `{"add":{"uri":[` + uris6000 + `]},"remove":{"uri":[` + uris6000 + `]}}`},
	} {
		if a := h.do(c.method, chans+"x", c.body); !bytes.Contains(a.body, []byte(`"limit":10000`)) || !bytes.Contains(a.body, []byte(typeNDJSON)) {
			t.Errorf("%s: got %d %s, want the limit and another way", c.method, a.status, a.body)
		}
	}
}

func TestAChannelIsNamedAsAnAddressNamesIt(t *testing.T) {
	h := startHub(t, nil)
	for path, want := range map[string]string{
		"host:en.example.org": "host:en.example.org", "host%3Aen.example.org": "host:en.example.org",
		"type:text%2Fhtml": "type:text/html", "type%3atext%2fhtml": "type:text/html",
		"type:a%25b": "type:a%b", "type:a%252Fb": "type:a%2Fb", "type:a%2Fb%252F": "type:a/b%2F",
		"type:%C3%A4": "type:ä", "all": "all",
	} {
		a := h.do("GET", chans+path, "")
		var got channelAnswer
		if err := json.Unmarshal(a.body, &got); err != nil || a.status != 200 || got.Name != want || !got.BuiltIn {
			t.Errorf("%s: got %d %s, want the built-in channel %s", path, a.status, a.body, want)
		}
	}
	from := h.token()
	h.put(`[{"uri":"https://a.example/1","type":"text/html","version":"1"},{"uri":"https://b.example/2","type":"a%b","version":"1"}]`)
	end := h.token()
	// The first one is told all there is, so that the others are served up to the end at once.
	for _, c := range []struct{ channel, want string }{{"all", "[1 2]"}, {"type:text/html", "[1]"}, {"type:a%b", "[2]"}, {"host:b.example", "[2]"}} {
		if got := h.streamed(t, c.channel, from, end); fmt.Sprint(got) != c.want {
			t.Errorf("the stream of %s has %v, want %s", c.channel, got, c.want)
		}
	}
}

// streamed returns the last parts of the URIs that the stream of a channel tells
// between two positions.
func (h *testHub) streamed(t *testing.T, channel, from, end string) (names []string) {
	t.Helper()
	hub, err := client.New(h.URL(), client.Options{HTTP: h.client})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for n, err := range hub.Stream(ctx, client.StreamOptions{Channel: channel, After: from, Until: end}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, n.URI[strings.LastIndex(n.URI, "/")+1:])
	}
	if ctx.Err() != nil {
		t.Fatalf("the stream of %s did not come to %s", channel, end)
	}
	return names
}

// additions are lines that put so many URIs on a list.
func additions(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"add\":\"https://a.example/wiki/P%d\"}\n", i)
	}
	return b.String()
}

func TestAListOfAnyLengthIsTakenInByLines(t *testing.T) {
	h := startHub(t, nil)
	text := additions(25_000) + "\n{\"remove\":\"https://a.example/wiki/P7\"}\r\n" + `{"remove":"https://a.example/wiki/P9"}`
	for name, body := range map[string]string{"": text, "gzip": gzipped(text), "zstd": zstded(text)} {
		channel := chans + "list" + name
		h.do("PUT", channel, `{"uri":[]}`)
		a := h.do("PATCH", channel, body, append(ndjson, "Content-Encoding", name)...)
		if !strings.HasPrefix(string(a.body), `{"added":25000,"removed":2,"cursor":`) {
			t.Errorf("%q: got %d %s", name, a.status, a.body)
		}
		if a = h.do("GET", channel, ""); !bytes.Contains(a.body, []byte(`"uris":24998`)) {
			t.Errorf("%q: %s", name, a.body)
		}
		if a = h.do("PATCH", channel, body, append(ndjson, "Content-Encoding", name)...); !strings.HasPrefix(string(a.body), `{"added":2,"removed":2,`) {
			t.Errorf("%q sent again: got %d %s", name, a.status, a.body)
		}
	}
	h.do("PUT", chans+"short", `{"uri":[]}`)
	for _, c := range []struct{ name, body, want string }{
		{"nothing", "", `{"added":0,"removed":0,"cursor":`},
		{"blank lines", "\n\n", `{"added":0,"removed":0,"cursor":`},
		{"the last one about a URI counts", `{"add":"https://a.example/x"}` + "\n" + `{"remove":"https://a.example/x"}` + "\n" + `{"remove":"https://a.example/y"}` + "\n" + `{"add":"https://a.example/y"}`, `{"added":1,"removed":0,`},
	} {
		if a := h.do("PATCH", chans+"short", c.body, ndjson...); !strings.HasPrefix(string(a.body), c.want) {
			t.Errorf("%s: got %d %s, want %s", c.name, a.status, a.body, c.want)
		}
	}
}

func TestALoadThatStopsSaysWhereAndWhatIsKept(t *testing.T) {
	h := startHub(t, nil)
	many := additions(25_000)
	spoilt := func(line string) string {
		return strings.Replace(many, `{"add":"https://a.example/wiki/P12345"}`, line, 1)
	}
	for i, c := range []struct {
		name, body, encoding string
		kind                 *problemKind
		item                 int // -1: none
		kept                 int
	}{
		{"a URI that is not canonical", spoilt(`{"add":"berlin"}`), "", badURI, 12345, 10_000},
		{"the same in gzip", gzipped(spoilt(`{"add":"berlin"}`)), "gzip", badURI, 12345, 10_000},
		{"a blank line counts", spoilt("\n" + `{"add":"berlin"}`), "", badURI, 12346, 10_000},
		{"a URI that no list takes", spoilt(`{"add":"ticker:soon"}`), "", badValue, 12345, 10_000},
		{"an unknown field", spoilt(`{"uri":"https://a.example/"}`), "", unknownField, 12345, 10_000},
		{"an update", spoilt(`{"add":{"uri":[]}}`), "", badValue, 12345, 10_000},
		{"a bare URI", spoilt("https://a.example/"), "", badJSON, 12345, 10_000},
		{"two URIs in a line", spoilt(`{"add":"https://a.example/x","remove":"https://a.example/y"}`), "", badValue, 12345, 10_000},
		{"no URI in a line", spoilt(`{}`), "", missingField, 12345, 10_000},
		{"the first line", `{"add":"berlin"}` + "\n" + many, "", badURI, 0, 0},
		{"a line that is too long", spoilt(strings.Repeat(" ", maxListLine+1)), "", overLimit, 12345, 10_000},
		{"a first line that is too long", strings.Repeat(" ", maxListLine+1), "", overLimit, 0, 0},
		{"gzip that breaks off", gzipped(many)[:len(gzipped(many))-20], "gzip", badBody, -1, 20_000},
		{"zstd that breaks off", zstded(many)[:len(zstded(many))-20], "zstd", badBody, -1, 20_000},
		{"gzip that breaks off at once", gzipped(many)[:20], "gzip", badBody, -1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := *h
			h.t = t
			channel := fmt.Sprintf("%sc%d", chans, i)
			h.do("PUT", channel, `{"uri":[]}`)
			a := h.do("PATCH", channel, c.body, append(ndjson, "Content-Encoding", c.encoding)...)
			var p Problem
			a.decode(t, &p)
			item := -1
			if p.Item != nil {
				item = *p.Item
			}
			if a.status != c.kind.status || p.Type != problemBase+c.kind.slug || item != c.item {
				t.Errorf("got %d %s, want %s at %d", a.status, a.body, c.kind.slug, c.item)
			}
			if told := strings.Contains(p.Detail, fmt.Sprintf("; the first %d lines are kept", c.kept)); told != (c.kept > 0) {
				t.Errorf("got %q, want it to tell that %d lines are kept", p.Detail, c.kept)
			}
			if a := h.do("GET", channel, ""); !bytes.Contains(a.body, fmt.Appendf(nil, `"uris":%d,`, c.kept)) {
				t.Errorf("the channel is %s, want %d URIs", a.body, c.kept)
			}
		})
	}
}

// A body whose connection goes away is not taken for a whole one, whatever part
// of a line it ends in.
func TestALoadWhoseConnectionBreaksIsNotTakenForWhole(t *testing.T) {
	h := startHub(t, nil)
	h.do("PUT", chans+"list", `{"uri":[]}`)
	for _, body := range []string{`{"add":"https://a.example/1"}`, `{"add":"https://a.example/1"}` + "\n" + `{"add":"https://a.exa`} {
		conn, err := net.Dial("tcp", h.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PATCH /v1/channels/list HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n%s", typeNDJSON, body)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		var p Problem
		err = json.NewDecoder(resp.Body).Decode(&p)
		resp.Body.Close()
		if err != nil || p.Type != problemBase+badBody.slug {
			t.Errorf("after %q: got %+v, %v, want %s", body, p, err, badBody.slug)
		}
	}
	if a := h.do("GET", chans+"list", ""); !bytes.Contains(a.body, []byte(`"uris":0,`)) {
		t.Errorf("the channel is %s, want nothing on its list", a.body)
	}
}

// The hub refuses as soon as it knows, and the client hears it although it has much
// left to send.
func TestARefusalOfALoadIsHeardWhileItIsSent(t *testing.T) {
	h := startHub(t, nil)
	hub, err := client.New(h.URL(), client.Options{HTTP: h.client})
	if err != nil {
		t.Fatal(err)
	}
	h.do("PUT", chans+"list", `{"uri":[]}`)
	rest := additions(50_000)
	for name, want := range map[string]*problemKind{"list": badURI, "x": unknownChannel, "all": fixedChannel} {
		for range 5 {
			_, err := hub.LoadChannel(t.Context(), name, strings.NewReader(strings.Replace(rest, "https://a.example/wiki/P10000\"", "berlin\"", 1)))
			if p := (*client.Problem)(nil); !errors.As(err, &p) || p.Type != problemBase+want.slug {
				t.Errorf("%s: got %v, want %s", name, err, want.slug)
			}
		}
	}
}

func TestTheListOfAChannelIsTheSameInPagesAndAsLines(t *testing.T) {
	h := startHub(t, nil)
	const n = 2*linesPage + 7
	h.do("PUT", chans+"list", `{"uri":[]}`)
	h.do("PATCH", chans+"list", additions(n), ndjson...)
	var pages strings.Builder
	count, after := 0, ""
	for first := true; first || after != ""; first = false {
		var page struct {
			URIs []string
			Next string
		}
		h.do("GET", chans+"list/uris?limit=300&after="+url.QueryEscape(after), "").decode(t, &page)
		for _, uri := range page.URIs {
			fmt.Fprintf(&pages, "{\"uri\":%q}\n", uri)
		}
		count, after = count+1, page.Next
	}
	if want := (n + 299) / 300; count != want {
		t.Errorf("%d pages of 300, want %d", count, want)
	}
	a := h.do("GET", chans+"list/uris", "", "Accept", typeNDJSON)
	if got := string(a.body); got != pages.String() || strings.Count(got, "\n") != n {
		t.Errorf("%d lines, %d in pages, want %d and the same", strings.Count(got, "\n"), strings.Count(pages.String(), "\n"), n)
	}
	if want := strings.ReplaceAll(additions(n), `"add"`, `"uri"`); pages.String() != want {
		t.Errorf("the list is not in the order in which it was sent:\n%.200s", pages.String())
	}
	if got := a.header.Get("Content-Type"); got != typeNDJSON {
		t.Errorf("Content-Type is %q", got)
	}
	h.do("PUT", chans+"empty", `{"uri":[]}`)
	if a := h.do("GET", chans+"empty/uris", ""); string(a.body) != "{\"uris\":[]}\n" {
		t.Errorf("an empty list is %s", a.body)
	}
}

func TestChannelsAreListedByName(t *testing.T) {
	h := startHub(t, nil)
	for _, name := range []string{"c", "a", "b"} {
		a := h.do("PUT", chans+name, `{"host":["a.example"]}`)
		if a.status != 201 || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("PUT %s: got %d %v", name, a.status, a.header)
		}
	}
	type page struct {
		BuiltIn []string `json:"built_in"`
		Items   []json.RawMessage
		Next    string
	}
	var first, second page
	h.do("GET", "/v1/channels?limit=2", "").decode(t, &first)
	h.do("GET", "/v1/channels?limit=2&after="+first.Next, "").decode(t, &second)
	if len(first.Items) != 2 || first.Next != "b" || len(second.Items) != 1 || second.Next != "" || len(first.BuiltIn) != 3 {
		t.Fatalf("got %+v and %+v", first, second)
	}
	for i, item := range append(first.Items, second.Items...) {
		name := string(rune('a' + i))
		if got := h.do("GET", chans+name, ""); string(got.body) != string(item)+"\n" {
			t.Errorf("%s is listed as %s and shown as %s", name, item, got.body)
		}
	}
}

func TestAChannelOutlivesTheHubAndItsStreamSaysWhatItWasAtEachPosition(t *testing.T) {
	dir := t.TempDir()
	run := func() (*testHub, func()) {
		cfg := DefaultConfig()
		cfg.Listen, cfg.Data, cfg.Cache = "127.0.0.1:0", dir, minCache
		h, err := New(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		transport := &http.Transport{}
		return &testHub{h, t, &http.Client{Transport: transport}}, func() {
			transport.CloseIdleConnections()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	h, stop := run()
	edit := func(version int) string {
		a := h.do("POST", "/v1/updates", fmt.Sprintf(`[{"uri":"https://a.example/1","version":"%[1]d"},{"uri":"https://a.example/2","version":"%[1]d"}]`, version))
		var r struct{ Cursor string }
		if err := json.Unmarshal(a.body, &r); err != nil {
			t.Fatal(err)
		}
		return r.Cursor
	}
	edit(100)
	h.do("PUT", "/v1/channels/files", `{"uri":["https://a.example/1"]}`)
	edit(101)
	h.do("PATCH", "/v1/channels/files", `{"add":{"uri":["https://a.example/2"]},"remove":{"uri":["https://a.example/1"]}}`)
	edit(102)
	h.do("PUT", "/v1/channels/files", `{"prefix":["https://a.example"]}`)
	end := edit(103)
	stop()
	h, stop = run()
	defer stop()
	hub, err := client.New(h.URL(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	for n, err := range hub.Stream(ctx, client.StreamOptions{Channel: "files", Since: time.Unix(0, 0), Until: end}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, n.URI[len(n.URI)-1:]+" "+n.Version)
	}
	if want := "[1 101 2 102 1 103 2 103]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// A channelEra is what a channel lets through after a position, by path.
type channelEra struct {
	from  graph.Cursor
	paths []string
}

// judged returns what of all after a position passes, each by the last era that
// began before it.
func judged(all []client.Notice, eras []channelEra, after uint64) (passed []string) {
	for _, n := range all {
		for _, e := range slices.Backward(eras) {
			if e.from.Seq < n.Seq {
				if n.Seq > after && slices.Contains(e.paths, strings.TrimPrefix(n.URI, "https://w.example")) {
					passed = append(passed, n.URI+" "+n.Version)
				}
				break
			}
		}
	}
	return passed
}

// changeChannel changes the channel files and returns what it is then.
func (h *testHub) changeChannel(t *testing.T, method, body string, paths ...string) channelEra {
	t.Helper()
	a := h.do(method, chans+"files", body)
	var got struct{ Cursor string }
	err := json.Unmarshal(a.body, &got)
	from, wrong := graph.ParseCursor(got.Cursor)
	if err != nil || wrong != nil || a.status/100 != 2 {
		t.Fatalf("%s %s: got %d %s", method, body, a.status, a.body)
	}
	return channelEra{from, paths}
}

// publishing writes new versions of pages /0 to /3 until stop is called, and then
// one of /end.
func (h *testHub) publishing(t *testing.T) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for version := 1; ; version++ {
			if err := post(h.client, h.URL(), edits(version, "/0", "/1", "/2", "/3")); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	return func() {
		close(end)
		<-ended
		if err := post(h.client, h.URL(), edits(1, "/end")); err != nil {
			t.Error(err)
		}
	}
}

// What a channel is changes by PATCH and by PUT while somebody publishes without
// pause. A stream that is open all the time tells what the positions in the
// answers say, and so do those that begin later from before or after a change.
func TestAChangeOfAChannelTakesEffectAtThePositionThatItsAnswerNames(t *testing.T) {
	h := startHub(t, nil)
	hub, err := client.New(h.URL(), client.Options{HTTP: h.client})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	start := h.token()
	eras := []channelEra{h.changeChannel(t, "PUT", `{"uri":["https://w.example/0"]}`, "/0")}
	live := make(chan client.Notice)
	go func() {
		defer close(live)
		for n, err := range hub.Stream(ctx, client.StreamOptions{Channel: "files", After: start}) {
			if err != nil {
				t.Error(err)
				return
			}
			live <- n
			if n.URI == "https://w.example/end" {
				return
			}
		}
	}()
	stop := h.publishing(t)
	var got []client.Notice
	reach := func(seq uint64) {
		for n := range live {
			if got = append(got, n); n.Seq > seq {
				return
			}
		}
	}
	for _, c := range []struct {
		method, body string
		paths        []string
	}{
		{"PATCH", `{"add":{"uri":["https://w.example/1","https://w.example/2"]},"remove":{"uri":["https://w.example/0"]}}`, []string{"/1", "/2"}},
		{"PATCH", `{"remove":{"uri":["https://w.example/1"]}}`, []string{"/2"}},
		{"PUT", `{"uri":["https://w.example/3"]}`, []string{"/3"}},
		{"PATCH", `{"add":{"uri":["https://w.example/0"]}}`, []string{"/0", "/3"}},
		{"PUT", `{"uri":[],"prefix":["https://w.example/1"]}`, []string{"/1"}},
		{"PATCH", `{"add":{"uri":["https://w.example/2"]}}`, []string{"/1", "/2"}},
		{"PUT", `{"kind":["changed"],"host":["w.example"]}`, []string{"/0", "/1", "/2", "/3", "/end"}},
	} {
		reach(eras[len(eras)-1].from.Seq)
		eras = append(eras, h.changeChannel(t, c.method, c.body, c.paths...))
	}
	reach(eras[len(eras)-1].from.Seq)
	stop()
	reach(math.MaxUint64)
	end := h.token()

	var all []client.Notice
	for n, err := range hub.Stream(ctx, client.StreamOptions{After: start, Until: end}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	check := func(who string, got []client.Notice, after uint64) {
		t.Helper()
		var texts []string
		for _, n := range got {
			texts = append(texts, n.URI+" "+n.Version)
		}
		if want := judged(all, eras, after); !slices.Equal(texts, want) {
			t.Errorf("%s got %d notices, want %d:\n%v\nwant\n%v", who, len(texts), len(want), texts, want)
		}
	}
	check("the stream that was open", got, 0)
	for i, e := range append([]channelEra{{from: graph.Cursor{Epoch: eras[0].from.Epoch}}}, eras...) {
		var got []client.Notice
		for n, err := range hub.Stream(ctx, client.StreamOptions{Channel: "files", After: e.from.String(), Until: end}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
		check(fmt.Sprintf("a stream from change %d on", i), got, e.from.Seq)
	}
}

func TestTheEndOfAChannelEndsItsStreams(t *testing.T) {
	h := startHub(t, nil)
	hub, err := client.New(h.URL(), client.Options{HTTP: h.client})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h.changeChannel(t, "PUT", `{"uri":["https://w.example/1"]}`)
	after := h.token()
	h.put(string(edits(1, "/0", "/1")))
	var got []string
	for n, err := range hub.Stream(ctx, client.StreamOptions{Channel: "files", After: after}) {
		var p *client.Problem
		if errors.As(err, &p) {
			got = append(got, p.Type)
		} else if err != nil {
			t.Fatal(err)
		} else {
			got = append(got, n.URI)
			h.changeChannel(t, "DELETE", "")
		}
	}
	if want := []string{"https://w.example/1", problemBase + "unknown-channel"}; !slices.Equal(got, want) {
		t.Errorf("a reader of the channel got %v, want %v", got, want)
	}
}
