package hub

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func gzipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(s))
	z.Close()
	return b.String()
}

func zstded(s string) string {
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(zstd.MinWindowSize))
	if err != nil {
		panic(err)
	}
	return string(z.EncodeAll([]byte(s), nil))
}

// What the bad requests name: a hub that knows one resource and what is made of it.
const (
	known    = "https://e.example/known"
	artefact = "https://e.example/made"
	good     = `{"uri":"https://e.example/new","version":"2"}`

	up, st     = "/v1/updates", "/v1/status"
	deps       = "/v1/dependencies"
	dependents = "/v1/dependents"
	k          = "?uri=" + known
)

// field is an update with further members.
func field(members string) string { return `{"uri":"https://e.example/new",` + members + `}` }

var badRequests = []struct {
	name, method, path, body string
	header                   []string
	kind                     *problemKind
	field                    string
}{
	{"no body", "POST", up, "", []string{"Content-Type", typeJSON}, badJSON, ""},
	{"white space", "POST", up, " \n ", nil, badJSON, ""},
	{"no JSON", "POST", up, "uri=https://e.example/new", nil, badJSON, ""},
	{"a form", "POST", up, good, []string{"Content-Type", "application/x-www-form-urlencoded"}, badContentType, "Content-Type"},
	{"plain text", "POST", up, good, []string{"Content-Type", "text/plain"}, badContentType, "Content-Type"},
	{"another charset", "POST", up, good, []string{"Content-Type", "application/json; charset=latin1"}, badContentType, "Content-Type"},
	{"an unknown encoding", "POST", up, good, []string{"Content-Encoding", "br"}, badContentType, "Content-Encoding"},
	{"two encodings", "POST", up, good, []string{"Content-Encoding", "gzip, zstd"}, badContentType, "Content-Encoding"},
	{"gzip that is none", "POST", up, good, []string{"Content-Encoding", "gzip"}, badBody, ""},
	{"gzip broken off", "POST", up, gzipped(good)[:30], []string{"Content-Encoding", "gzip"}, badBody, ""},
	{"zstd that is none", "POST", up, good, []string{"Content-Encoding", "zstd"}, badBody, ""},
	{"zstd broken off", "POST", up, zstded(good)[:20], []string{"Content-Encoding", "zstd"}, badBody, ""},
	{"a body too long", "POST", up, strings.Repeat(" ", maxBody+1), nil, bodyTooLarge, ""},
	{"gzip that inflates too far", "POST", up, gzipped(strings.Repeat(" ", maxBody+1)), []string{"Content-Encoding", "gzip"}, bodyTooLarge, ""},
	{"zstd that inflates too far", "POST", up, zstded(strings.Repeat(" ", maxBody+1)), []string{"Content-Encoding", "zstd"}, bodyTooLarge, ""},
	{"too many updates", "POST", up, strings.Repeat(good+"\n", maxBatch+1), nil, bodyTooLarge, ""},
	{"a parameter", "POST", up + "?dry=1", good, nil, badQuery, "dry"},
	{"a good and a broken update", "POST", up, "[" + good + `,{"uri":1}]`, nil, badValue, "uri"},
	{"a good and a broken line", "POST", up, good + "\n{", nil, badJSON, ""},
	{"a good update and one with an unknown scheme", "POST", up, good + "\n" + `{"uri":"https://e.example/x","action":"delete","deps":["tile:a"]}`, nil, badURI, "deps[0]"},
	{"a delete with dependencies", "POST", up, good + "\n" + field(`"action":"delete","deps":["`+known+`"]`), nil, badValue, "deps"},
	{"an update of a ticker", "POST", up, `{"uri":"ticker:PT1H"}`, nil, badValue, "uri"},
	{"a ticker without period", "POST", up, field(`"deps":["ticker:soon"]`), nil, badValue, "deps"},
	{"nested without end", "POST", up, strings.Repeat(`{"deps":[`, 1000), nil, unknownField, "deps[0].deps"},
	{"a misspelt field", "POST", up, field(`"verison":"2"`), nil, unknownField, "verison"},
	{"a repeated field", "POST", up, field(`"version":"2","version":"3"`), nil, badJSON, "version"},
	{"null", "POST", up, field(`"deps":null`), nil, badValue, "deps"},
	{"a number as version", "POST", up, field(`"version":2`), nil, badValue, "version"},
	{"a lone surrogate", "POST", up, field(`"hash":"\ud800"`), nil, badJSON, "hash"},
	{"invalid UTF-8", "POST", up, field("\"hash\":\"\xff\""), nil, badJSON, "hash"},
	{"a NUL in a hash", "POST", up, field(`"hash":"\u0000"`), nil, badValue, "hash"},
	{"a relative URI", "POST", up, `{"uri":"/wiki/A"}`, nil, badURI, "uri"},
	{"a URI with an upper-case host", "POST", up, `{"uri":"https://E.example/"}`, nil, badURI, "uri"},
	{"a URI with dot segments", "POST", up, `{"uri":"https://e.example/a/../b"}`, nil, badURI, "uri"},
	{"a script as URI", "POST", up, `{"uri":"javascript:alert(1)"}`, nil, badURI, "uri"},
	{"a dependency with raw letters", "POST", up, field(`"deps":["https://e.example/Ä"]`), nil, badURI, "deps[0]"},
	{"no uri", "POST", up, `{"version":"2"}`, nil, missingField, "uri"},
	{"no id where one is needed", "POST", up, field(`"version":"abc"`), nil, missingField, "id"},
	{"a time in the future", "POST", up, field(`"at":"2999-01-01T00:00:00Z"`), nil, futureTime, "at"},
	{"a time in words", "POST", up, field(`"at":"now"`), nil, badValue, "at"},
	{"a token that is none", "POST", up, field(`"token":"abc"`), nil, badValue, "token"},
	{"an unknown action", "POST", up, field(`"action":"touch"`), nil, badValue, "action"},
	{"a long hash", "POST", up, field(`"hash":"` + strings.Repeat("x", 256) + `"`), nil, overLimit, "hash"},
	{"too many buckets", "POST", up, field(`"buckets":["a"` + strings.Repeat(`,"a"`, 64) + `]`), nil, overLimit, "buckets"},
	{"too many aspects", "POST", up, field(`"aspects":["a"` + strings.Repeat(`,"a"`, 256) + `]`), nil, overLimit, "aspects"},
	{"too many dependencies", "POST", up, field(`"deps":["` + known + `"` + strings.Repeat(`,"`+known+`"`, 65536) + `]`), nil, overLimit, "deps"},
	{"updates by GET", "GET", up, "", nil, badMethod, ""},
	{"updates by PUT", "PUT", up, good, nil, badMethod, ""},

	{"a resource without uri", "GET", "/v1/resource", "", nil, badQuery, "uri"},
	{"a resource with two", "GET", "/v1/resource" + k + "&uri=https://e.example/made", "", nil, badQuery, "uri"},
	{"a resource with an unknown parameter", "GET", "/v1/resource" + k + "&url=a", "", nil, badQuery, "url"},
	{"a query that is broken", "GET", "/v1/resource?uri=%zz", "", nil, badQuery, ""},
	{"a resource that is not canonical", "GET", "/v1/resource?uri=HTTPS://e.example/known", "", nil, badURI, "uri"},
	{"a resource nobody heard of", "GET", "/v1/resource?uri=https://e.example/unheard", "", nil, unknownResource, ""},
	{"the why of nothing", "GET", "/v1/why?uri=https://e.example/unheard", "", nil, unknownResource, ""},
	{"the impact of nothing", "GET", "/v1/impact?uri=https://e.example/unheard", "", nil, unknownResource, ""},
	{"an impact without limit", "GET", "/v1/impact" + k + "&limit=0", "", nil, badQuery, "limit"},
	{"a token with a parameter", "GET", "/v1/token?a=b", "", nil, badQuery, "a"},

	{"dependencies of nothing", "GET", deps + "?uri=https://e.example/unheard", "", nil, unknownResource, ""},
	{"dependencies after nowhere", "GET", deps + k + "&after=abc", "", nil, badQuery, "after"},
	{"dependencies of another store", "GET", deps + k + "&after=00000000.1", "", nil, badQuery, "after"},
	{"a page too long", "GET", deps + k + "&limit=1001", "", nil, badQuery, "limit"},
	{"a page of words", "GET", dependents + k + "&limit=ten", "", nil, badQuery, "limit"},
	{"a page of lines", "GET", dependents + k + "&limit=10", "", []string{"Accept", typeNDJSON}, badQuery, "limit"},
	{"an edit that says nothing", "PATCH", deps, `{"uri":"` + artefact + `"}`, nil, missingField, "add"},
	{"an edit of nothing", "PATCH", deps, `{"add":["` + known + `"]}`, nil, missingField, "uri"},
	{"an edit with an unknown field", "PATCH", deps, `{"uri":"` + artefact + `","put":[]}`, nil, unknownField, "put"},
	{"an edit with text after it", "PATCH", deps, `{"uri":"` + artefact + `","clear":true}{}`, nil, badJSON, ""},
	{"an edit with a string for a list", "PATCH", deps, `{"uri":"` + artefact + `","add":"` + known + `"}`, nil, badValue, "add"},
	{"an edit with a number for a flag", "PATCH", deps, `{"uri":"` + artefact + `","clear":1}`, nil, badValue, "clear"},
	{"an edit with a URI that is none", "PATCH", deps, `{"uri":"` + artefact + `","add":["a"]}`, nil, badURI, "add"},
	{"an edit with a bad ticker", "PATCH", deps, `{"uri":"` + artefact + `","add":["ticker:soon"]}`, nil, badValue, "deps"},
	{"an edit as lines", "PATCH", deps, `{"uri":"` + artefact + `","clear":true}`, []string{"Content-Type", typeNDJSON}, badContentType, "Content-Type"},
	{"forgetting what nobody heard of", "DELETE", deps + "?uri=https://e.example/unheard", "", nil, unknownResource, ""},
	{"forgetting dependents of what nobody heard of", "DELETE", dependents + "?uri=https://e.example/unheard", "", nil, unknownResource, ""},
	{"forgetting everything", "DELETE", dependents, "", nil, badQuery, "uri"},

	{"states of nothing", "POST", st, `{}`, nil, missingField, "uris"},
	{"states of a string", "POST", st, `{"uris":"` + known + `"}`, nil, badValue, "uris"},
	{"states as an array", "POST", st, `["` + known + `"]`, nil, badValue, ""},
	{"states twice", "POST", st, `{"uris":[],"uris":[]}`, nil, badJSON, "uris"},
	{"too many states", "POST", st, `{"uris":["` + known + `"` + strings.Repeat(`,"`+known+`"`, maxStatus) + `]}`, nil, overLimit, "uris"},

	{"a job nobody knows", "POST", "/v1/jobs/j77", `{"paused":true}`, nil, unknownJob, ""},
	{"a reload with a parameter", "POST", "/v1/reload?dry=1", "", nil, badQuery, "dry"},
	{"a reload of what is sent", "POST", "/v1/reload", `{"channels":[]}`, nil, badBody, ""},
	{"a reload by GET", "GET", "/v1/reload", "", nil, badMethod, ""},
	{"jobs by DELETE", "DELETE", "/v1/jobs", "", nil, badMethod, ""},
	{"an address that is none", "GET", "/v1/nothing", "", nil, notFound, ""},
	{"a path with dots", "GET", "/v1/../../etc/passwd", "", nil, notFound, ""},

	{"a stream from nowhere", "GET", "/v1/stream?since=never", "", nil, &problemKind{slug: "bad-since", status: 400}, ""},
	{"a stream with a misspelt filter", "GET", "/v1/stream?tpye=html", "", nil, &problemKind{slug: "bad-filter", status: 400}, ""},

	{"another host name", "POST", up, good, []string{"Host", "evil.example"}, badHost, ""},
	{"another host name that begins alike", "POST", up, good, []string{"Host", "localhost.evil.example:80"}, badHost, ""},
	{"a claim of nothing", "POST", "/v1/claims", "{}", nil, missingField, "channel"},
	{"a claim of a channel and types", "POST", "/v1/claims", `{"channel":"all","types":["a"]}`, nil, missingField, "channel"},
	{"a claim of no types", "POST", "/v1/claims", `{"types":[]}`, nil, badValue, "types"},
	{"a claim of an empty type", "POST", "/v1/claims", `{"types":[""]}`, nil, badValue, "types"},
	{"a claim of a long type", "POST", "/v1/claims", `{"types":["` + strings.Repeat("a", 256) + `"]}`, nil, overLimit, "types"},
	{"a claim of too many types", "POST", "/v1/claims", `{"types":["a"` + strings.Repeat(`,"a"`, 100) + `]}`, nil, overLimit, "types"},
	{"a claim of a channel that is not there", "POST", "/v1/claims", `{"channel":"none"}`, nil, unknownChannel, "channel"},
	{"a claim of too much", "POST", "/v1/claims", `{"channel":"all","max":1001}`, nil, badValue, "max"},
	{"a claim of none", "POST", "/v1/claims", `{"channel":"all","max":0}`, nil, badValue, "max"},
	{"a claim for long", "POST", "/v1/claims", `{"channel":"all","lease_s":3601}`, nil, badValue, "lease_s"},
	{"a claim for no time", "POST", "/v1/claims", `{"channel":"all","lease_s":0}`, nil, badValue, "lease_s"},
	{"a claim with a long wait", "POST", "/v1/claims", `{"channel":"all","wait_s":61}`, nil, badValue, "wait_s"},
	{"a claim with half a second", "POST", "/v1/claims", `{"channel":"all","wait_s":0.5}`, nil, badValue, "wait_s"},
	{"a claim with a typing mistake", "POST", "/v1/claims", `{"channel":"all","lease":5}`, nil, unknownField, "lease"},
	{"a claim with a query", "POST", "/v1/claims?max=5", `{"channel":"all"}`, nil, badQuery, "max"},
	{"nothing about a claim", "POST", "/v1/claims/1", `{}`, nil, missingField, "action"},
	{"a claim with another action", "POST", "/v1/claims/1", `{"action":"finish"}`, nil, badValue, "action"},
	{"a claim given back for long", "POST", "/v1/claims/1", `{"action":"release","lease_s":5}`, nil, badValue, "lease_s"},
	{"a claim that never was", "POST", "/v1/claims/00000001.1", `{"action":"release"}`, nil, unknownClaim, ""},
	{"a claim with an odd name", "POST", "/v1/claims/%2e%2e%2f%00", `{"action":"fail"}`, nil, unknownClaim, ""},
	{"a look at a claim", "GET", "/v1/claims/00000001.1", "", nil, badMethod, ""},
	{"a page of another origin", "POST", up, good, []string{"Origin", "https://evil.example"}, crossOrigin, ""},
	{"a page of another site", "DELETE", deps + "?uri=" + artefact, "", []string{"Sec-Fetch-Site", "cross-site"}, crossOrigin, ""},
}

func TestBadRequestsAreRefusedAndChangeNothing(t *testing.T) {
	h := startHub(t, nil)
	h.put(`[{"uri":"` + known + `","version":"1"},{"uri":"` + artefact + `","hash":"h","deps":[{"uri":"` + known + `","seen":"1"}]}]`)
	for _, c := range badRequests {
		t.Run(c.name, func(t *testing.T) {
			before := h.state(artefact)
			h := *h
			h.t = t
			a := h.do(c.method, c.path, c.body, c.header...)
			var p Problem
			a.decode(t, &p)
			if a.status != c.kind.status || p.Status != a.status || p.Type != problemBase+c.kind.slug || p.Field != c.field {
				t.Errorf("got %d %s\nwant %d %s, field %q", a.status, a.body, c.kind.status, c.kind.slug, c.field)
			}
			if got := a.header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type is %q, want application/problem+json", got)
			}
			if p.Detail == "" && p.Help == "" {
				t.Errorf("the answer names no way out: %s", a.body)
			}
			if c.kind == badMethod && a.header.Get("Allow") == "" {
				t.Error("the answer has no Allow header")
			}
			if after := h.state(artefact); after != before {
				t.Errorf("the store changed from %s\nto %s", before, after)
			}
		})
	}
}

// state is what a refused request must leave as it is.
func (h *testHub) state(artefact string) string {
	s := h.store.Stats()
	r, err := h.store.Resource(artefact)
	return fmt.Sprint(h.store.Token(), s.Resources, s.States, s.Updates, s.Jobs, r, err)
}

func TestARefusalNamesTheItemOfABatch(t *testing.T) {
	h := startHub(t, nil)
	a := h.do("POST", "/v1/updates", `[{"uri":"https://e.example/a"},{"uri":"https://e.example/b"},{"uri":"c"}]`)
	var p Problem
	a.decode(t, &p)
	if p.Item == nil || *p.Item != 2 || !strings.Contains(p.Detail, "begin with a scheme") {
		t.Errorf("got %s, want item 2 and what to change", a.body)
	}
	if a := h.do("GET", "/v1/resource?uri=https://e.example/a", ""); a.status != 404 {
		t.Errorf("the first item of a refused batch is known: %s", a.body)
	}
}

func TestEncodedBodiesAreInflated(t *testing.T) {
	h := startHub(t, nil)
	line := `{"uri":"https://e.example/a","version":"1"}` + "\n"
	for encoding, body := range map[string]string{
		"identity": line, "gzip": gzipped(line), "x-gzip": gzipped(line), "ZSTD": zstded(line), "zstd": zstded(line[:20]) + zstded(line[20:]),
	} {
		for range 2 { // the second one with a reader that was used before
			a := h.do("POST", "/v1/updates", body, "Content-Encoding", encoding, "Content-Type", typeNDJSON)
			if a.status != 200 || !strings.Contains(string(a.body), `"accepted":1`) {
				t.Errorf("%s: %d %s", encoding, a.status, a.body)
			}
		}
	}
}

func TestAnEmptyArrayIsABatchOfNothing(t *testing.T) {
	h := startHub(t, nil)
	if res := h.put("[]"); res != (resultShape{Cursor: h.token()}) {
		t.Errorf("an empty batch gives %+v", res)
	}
}

func TestHeadersBeyondTheCapAreRefused(t *testing.T) {
	h := startHub(t, nil)
	conn, err := net.Dial("tcp", h.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", maxHeader+8<<10))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d, want %d", resp.StatusCode, http.StatusRequestHeaderFieldsTooLarge)
	}
}

// Who closes its half of a connection in the middle of a body, as a proxy may when
// its own client has gone, still reads the answer.
func TestABodyThatBreaksOffIsRefusedAndNotAnsweredByNothing(t *testing.T) {
	h := startHub(t, nil)
	for _, request := range []string{"POST /v1/updates", "POST /v1/status", "PATCH /v1/dependencies"} {
		conn, err := net.Dial("tcp", h.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n%s", request, good)
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
		if err != nil || resp.StatusCode != 400 || p.Type != problemBase+badBody.slug {
			t.Errorf("%s: got %s %+v, %v, want %s", request, resp.Status, p, err, badBody.slug)
		}
	}
}

func TestEveryKindOfProblemHasATitleAndAWayOut(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range problemKinds {
		if seen[k.slug] || k.title == "" || k.status < 400 || k.help == "" && k != missingField {
			t.Errorf("problem %+v is incomplete or there twice", *k)
		}
		seen[k.slug] = true
	}
	if b, err := json.Marshal(badURI.problem("x")); err != nil || !strings.Contains(string(b), `"type":"urn:freshwire:problem:bad-uri"`) {
		t.Errorf("got %s, %v", b, err)
	}
}

// What goes by the length that stands in such a request would send the rest of
// its body as a request of somebody else.
func TestARequestInChunksIsTheLastOfItsConnection(t *testing.T) {
	h := startHub(t, nil)
	for _, head := range []string{"Transfer-Encoding: chunked\r\nContent-Length: 4", "Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked"} {
		conn, err := net.Dial("tcp", h.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /v1/updates HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n2\r\n[]\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", head)
		answers := bufio.NewReader(conn)
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 200 || !resp.Close {
			t.Errorf("%s: got %s, kept open: %t", head, resp.Status, !resp.Close)
		}
		if second, err := http.ReadResponse(answers, nil); err == nil {
			t.Errorf("%s: what stands after it is answered with %s", head, second.Status)
		}
	}
}
