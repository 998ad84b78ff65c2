package hub

import "strings"

// A hostile is a request that means no good, as it stands on the wire.
type hostile struct {
	name, raw string
	want      string // "status slug" of a problem, "status" of an answer that is none, "closed" for no answer at all
}

// longURI has more bytes than a URI may have.
var longURI = "https://e.example/" + strings.Repeat("a", 2048)

// hostileHTTP is what is wrong with the protocol itself.
func hostileHTTP() []hostile {
	return []hostile{
		{"a TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\r\n\r\n", "400"},
		{"NULs", times(1000, "\x00") + "\r\n\r\n", "400"},
		{"an HTTP/0.9 request", "GET /livez\r\n\r\n", "400"},
		{"an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "421 bad-host"},
		{"HTTP/3.0", "GET /livez HTTP/3.0\r\nHost: localhost\r\n\r\n", "505"},
		{"no Host", "GET /livez HTTP/1.1\r\n\r\n", "400"},
		{"HTTP/1.0 without Host", "GET /livez HTTP/1.0\r\n\r\n", "421 bad-host"},
		{"two Hosts", "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", "400"},
		{"a Host with a space", bare("GET", "/livez", "Host: local host"), "400"},
		{"a method with a space", bare("GE T", "/livez"), "400"},
		{"a method that is no token", bare("G(T", "/livez"), "400"},
		{"a method of 10 kB", bare(times(10_000, "G"), "/livez"), "405 method-not-allowed"},
		{"a header without a colon", bare("GET", "/livez", "Nothing"), "400"},
		{"a space before a colon", bare("GET", "/livez", "Content-Length : 0"), "400"},
		{"a NUL in a header", bare("GET", "/livez", "X-A: a\x00b"), "400"},
		{"a bare CR in a header", bare("GET", "/livez", "X-A: a\rb"), "400"},
		{"10,000 headers", bare("GET", "/livez", strings.TrimSuffix(times(10_000, "X-A: b\r\n"), "\r\n")), "431"},
		{"a header of 1 MiB", bare("GET", "/livez", "X-A: "+times(1<<20, "a")), "431"},
		{"a length and chunks", sending("POST", up, "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", "Content-Length: 4", "Transfer-Encoding: chunked"), "400 bad-json"},
		{"chunks and a length", sending("POST", up, "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 60"), "400 bad-json"},
		{"an unknown transfer encoding", sending("POST", up, good, "Transfer-Encoding: xchunked"), "501"},
		{"chunks that are not last", sending("POST", up, good, "Transfer-Encoding: chunked, identity"), "501"},
		{"chunks twice", sending("POST", up, "0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "501"},
		{"chunks after a vertical tab", sending("POST", up, good, "Transfer-Encoding: \x0bchunked"), "400"},
		{"a negative length", sending("POST", up, good, "Content-Length: -1"), "400"},
		{"a length with a sign", sending("POST", up, good, "Content-Length: +5"), "400"},
		{"a length in hexadecimal", sending("POST", up, good, "Content-Length: 0x5"), "400"},
		{"a length beyond all numbers", sending("POST", up, good, "Content-Length: 99999999999999999999"), "400"},
		{"a length beyond all disks", sending("POST", up, good, "Content-Length: 9223372036854775807"), "413 body-too-large"},
		{"two lengths", sending("POST", up, good, "Content-Length: 5", "Content-Length: 44"), "400"},
		{"a chunk of no size", sending("POST", up, "zz\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "400 bad-body"},
		{"a chunk of negative size", sending("POST", up, "-1\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "400 bad-body"},
		{"a chunk beyond all numbers", sending("POST", up, "fffffffffffffffff\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "400 bad-body"},
		{"a chunk that is longer than it says", sending("POST", up, "2\r\n{}{}{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "400 bad-body"},
		{"chunks of one byte with long extensions", sending("POST", up, times(300, "1;"+times(4000, "x")+"\r\n \r\n")+"0\r\n\r\n", "Transfer-Encoding: chunked"), "400 bad-body"},
		{"half a request", "GET /livez HTTP/1.1\r\nHost: local", "closed"},
		{"half a body", sending("POST", up, good, "Content-Length: 1000"), "408 body-timeout"},
		{"half a chunk", sending("POST", up, "100\r\n"+good, "Transfer-Encoding: chunked"), "408 body-timeout"},
		{"half a list", sending("PATCH", chans+"listed", "", "Content-Length: 9", "Expect: 100-continue"), "408 body-timeout"},
		{"half a filter", sending("POST", "/v1/stream", "{", "Content-Length: 9"), "400 bad-body"},
		{"a length in a trailer", sending("POST", up, "2\r\n[]\r\n0\r\nContent-Length: 3\r\n\r\n", "Transfer-Encoding: chunked", "Trailer: Content-Length"), "400"},
	}
}

// hostileHosts is what is wrong with who is spoken to, and with who speaks.
func hostileHosts() []hostile {
	return []hostile{
		{"another hub in the target", bare("GET", "http://evil.example/livez"), "421 bad-host"},
		{"a user in the target", bare("GET", "http://localhost@evil.example/livez"), "421 bad-host"},
		{"a file as target", bare("GET", "file:///etc/passwd"), "404 not-found"},
		{"a tunnel", bare("CONNECT", "evil.example:443", "Host: evil.example:443"), "421 bad-host"},
		{"a tunnel to loopback", bare("CONNECT", "localhost:22", "Host: localhost:22"), "404 not-found"},
		{"TRACE", bare("TRACE", "/v1/token", "Authorization: secret"), "405 method-not-allowed"},
		{"an unknown method", bare("BREW", "/v1/token"), "405 method-not-allowed"},
		{"a preflight", bare("OPTIONS", up, "Origin: https://evil.example", "Access-Control-Request-Method: POST"), "405 method-not-allowed"},
		{"a Host of user and host", bare("GET", "/livez", "Host: localhost@evil.example"), "400"},
		{"a Host that begins like loopback", bare("GET", "/livez", "Host: 127.0.0.1.evil.example"), "421 bad-host"},
		{"a Host in hexadecimal", bare("GET", "/livez", "Host: 0x7f.1"), "421 bad-host"},
		{"a Host as one number", bare("GET", "/livez", "Host: 2130706433"), "421 bad-host"},
		{"a Host that is short for loopback", bare("GET", "/livez", "Host: 127.1"), "421 bad-host"},
		{"a Host with a mapped address", bare("GET", "/livez", "Host: [::ffff:10.0.0.1]"), "421 bad-host"},
		{"a Host of any address", bare("GET", "/livez", "Host: 0.0.0.0"), "421 bad-host"},
		{"a Host with text after an address", bare("GET", "/livez", "Host: [::1]evil.example"), "421 bad-host"},
		{"a Host with two ports", bare("GET", "/livez", "Host: localhost:80:80"), "421 bad-host"},
		{"a Host with a path", bare("GET", "/livez", "Host: localhost/evil"), "400"},
		{"an empty Host", bare("GET", "/livez", "Host: "), "421 bad-host"},
		{"a forwarded Host", bare("GET", "/livez", "Host: evil.example", "X-Forwarded-Host: localhost"), "421 bad-host"},
		{"an origin that is null", postUpdate(good, "Origin: null"), "403 cross-origin"},
		{"an origin on another port", postUpdate(good, "Origin: http://localhost:1"), "403 cross-origin"},
		{"an origin like loopback", postUpdate(good, "Origin: http://localhost.evil.example"), "403 cross-origin"},
		{"a page of the same site", postUpdate(good, "Sec-Fetch-Site: same-site"), "403 cross-origin"},
		{"an expectation nobody knows", postUpdate(good, "Expect: 200-ok"), "417"},
		{"an upgrade to HTTP/2", bare("GET", "/v1/tokens", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), "404 not-found"},
		{"an upgrade to a WebSocket", bare("GET", "/v1/tokens", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"), "404 not-found"},
		{"another method in a header", sending("POST", deps+k, "", "X-HTTP-Method-Override: DELETE"), "405 method-not-allowed"},
		{"ranges without end", bare("GET", "/v1/nothing", "Range: bytes="+times(3000, "0-1,")+"0-"), "404 not-found"},
		{"a request id that forges a line", bare("GET", "/v1/nothing", "X-Request-Id: a level=ERROR msg=forged"), "404 not-found"},
		{"an address that forges a line", bare("GET", "/v1/nothing", "X-Forwarded-For: 1.1.1.1 level=ERROR msg=forged"), "404 not-found"},
	}
}

// hostilePaths is what is wrong with an address.
func hostilePaths() []hostile {
	return []hostile{
		{"a path that is no escape", bare("GET", "/%ZZ"), "400"},
		{"a path with a control character", bare("GET", "/\x01"), "400"},
		{"a path with a space", bare("GET", "/a b"), "400"},
		{"a path with raw bytes", bare("GET", "/\xff\xfe"), "404 not-found"},
		{"a path that forges a line", bare("GET", "/a"+forged), "404 not-found"},
		{"a path that turns around", bare("GET", "/v1/%E2%80%AEnekot"), "404 not-found"},
		{"a path of 8 kB", bare("GET", "/"+times(8<<10, "a")), "404 not-found"},
		{"a path of 64 kB", bare("GET", "/"+times(64<<10, "a")), "431"},
		{"10,000 folders", bare("GET", times(10_000, "/a")), "404 not-found"},
		{"folders upwards, escaped", bare("GET", "/%2e%2e/%2e%2e/etc/passwd"), "404 not-found"},
		{"folders upwards, escaped twice", bare("GET", "/%252e%252e%252fetc%252fpasswd"), "404 not-found"},
		{"folders upwards with backslashes", bare("GET", `/..\..\windows\win.ini`), "404 not-found"},
		{"the path of another host", bare("GET", "//evil.example/"), "404 not-found"},
		{"a NUL in a path", bare("GET", "/livez%00.html"), "404 not-found"},
		{"an address with a slash after it", sending("POST", up+"/", good), "404 not-found"},
		{"an address in capitals", sending("POST", "/V1/UPDATES", good), "404 not-found"},
		{"an address with two slashes", sending("POST", "/v1//updates", good), "404 not-found"},
		{"a folder of a version system", bare("GET", "/.git/config"), "404 not-found"},
		{"the profiles", bare("GET", "/debug/pprof/heap"), "404 not-found"},
		{"health by POST", sending("POST", "/healthz", "{}"), "405 method-not-allowed"},
		{"metrics by DELETE", bare("DELETE", "/metrics"), "405 method-not-allowed"},
		{"the description by PUT", sending("PUT", "/openapi.json", "{}"), "405 method-not-allowed"},
		{"a token by POST", sending("POST", "/v1/token", "{}"), "405 method-not-allowed"},
	}
}

// hostileQueries is what is wrong with a question.
func hostileQueries() []hostile {
	return []hostile{
		{"a semicolon in a query", bare("GET", "/v1/resource?uri=a;b"), "400 bad-query"},
		{"a NUL in a query", bare("GET", "/v1/resource"+k+"%00"), "400 bad-uri"},
		{"a line end in a query", bare("GET", "/v1/resource"+k+"%0d%0aX:y"), "400 bad-uri"},
		{"an overlong slash in a query", bare("GET", "/v1/resource"+k+"%c0%af"), "400 bad-uri"},
		{"a URI that turns around", bare("GET", "/v1/resource"+k+"%E2%80%AE"), "400 bad-uri"},
		{"a URI escaped twice", bare("GET", "/v1/resource?uri=https%253A%252F%252Fe.example%252Fknown"), "400 bad-uri"},
		{"a URI of 2 kB and one byte", bare("GET", "/v1/resource?uri="+longURI), "400 bad-uri"},
		{"a URI of 30 kB", bare("GET", "/v1/why?uri=https://e.example/"+times(30_000, "a")), "400 bad-uri"},
		{"a list in brackets", bare("GET", "/v1/resource?uri[]="+known), "400 bad-query"},
		{"2,000 URIs", bare("GET", "/v1/resource"+k+times(2000, "&uri=a")), "400 bad-query"},
		{"a parameter that forges a line", bare("GET", "/v1/token?a"+forged+"=b"), "400 bad-query"},
		{"a limit below nothing", bare("GET", dependents+k+"&limit=-1"), "400 bad-query"},
		{"a limit beyond all numbers", bare("GET", dependents+k+"&limit=99999999999999999999"), "400 bad-query"},
		{"a limit with an exponent", bare("GET", dependents+k+"&limit=1e3"), "400 bad-query"},
		{"a limit in wide digits", bare("GET", dependents+k+"&limit=%EF%BC%91"), "400 bad-query"},
		{"an impact beyond its limit", bare("GET", "/v1/impact"+k+"&limit=1000000000"), "400 bad-query"},
		{"after 10 kB", bare("GET", dependents+k+"&after="+times(10_000, "a")), "400 bad-query"},
		{"after folders upwards", bare("GET", dependents+k+"&after=../../1"), "400 bad-query"},
		{"a page of lines that is asked for with rubbish", bare("GET", dependents+k+"&limit=x", "Accept: "+times(5000, "a/b;q=9,")), "431"},
		{"a delete of a URI that is none", bare("DELETE", dependents+"?uri=%2e%2e"), "400 bad-uri"},
		{"a question with a body", sending("GET", "/v1/resource?uri=x", times(1<<20, "a")), "400 bad-uri"},
	}
}

// hostileStreams is what is wrong with what a reader asks for, and with names of channels and jobs.
func hostileStreams() []hostile {
	return []hostile{
		{"a stream of a channel that is a path", bare("GET", "/v1/stream?channel=../../etc/passwd"), "404 unknown-channel"},
		{"a stream of two channels", bare("GET", "/v1/stream?channel=all&channel=all"), "400 bad-query"},
		{"a stream after rubbish", bare("GET", "/v1/stream", "Last-Event-ID: \xff\xfe"), "200"},
		{"a stream after 20 kB", bare("GET", "/v1/stream", "Last-Event-ID: "+times(20<<10, "1")), "200"},
		{"a stream since an exponent", bare("GET", "/v1/stream?since=1e99"), "400 bad-since"},
		{"a stream that lingers below nothing", bare("GET", "/v1/stream?linger=-1s"), "400 bad-linger"},
		{"a stream that lingers for ever", bare("GET", "/v1/stream?linger=999999h"), "400 bad-linger"},
		{"a stream that lingers for no number", bare("GET", "/v1/stream?linger=NaN"), "400 bad-linger"},
		{"a stream of a URI that turns around", bare("GET", "/v1/stream?uri=https://e.example/%E2%80%AE"), "400 bad-filter"},
		{"a stream of 257 prefixes", bare("GET", "/v1/stream?prefix=https://e.example/0"+times(256, "&prefix=https://e.example/a")), "400 bad-filter"},
		{"a stream by DELETE", bare("DELETE", "/v1/stream"), "405 method-not-allowed"},
		{"a stream of a deep filter", sending("POST", "/v1/stream", times(10_000, `{"uri":[`)), "400 bad-filter"},
		{"a stream of a filter of 2 MiB", sending("POST", "/v1/stream", `{"uri":["`+times(2<<20, "a")+`"]}`), "413 body-too-large"},
		{"a stream of a filter as plain text", sending("POST", "/v1/stream", `{}`, "Content-Type: text/plain"), "415 bad-content-type"},
		{"a stream of a filter twice", sending("POST", "/v1/stream", `{"uri":[],"uri":[]}`), "400 bad-filter"},
		{"a stream of too many URIs", sending("POST", "/v1/stream", `{"uri":["urn:a:0"`+times(10_000, `,"urn:a:b"`)+`]}`), "400 bad-filter"},

		{"a channel upwards", sending("PUT", chans+"..%2f..%2fetc", "{}"), "400 bad-value"},
		{"a channel that is a dot", sending("PUT", chans+"%2e%2e", "{}"), "400 bad-value"},
		{"a channel with a NUL", sending("PUT", chans+"a%00b", "{}"), "400 bad-value"},
		{"a channel with a line end", sending("PUT", chans+"a%0d%0aX:y", "{}"), "400 bad-value"},
		{"a channel that turns around", sending("PUT", chans+"%E2%80%AE", "{}"), "400 bad-value"},
		{"a channel of 10 kB", sending("PUT", chans+times(10_000, "a"), "{}"), "400 bad-value"},
		{"a list of a channel upwards", bare("GET", chans+"..%2f..%2fetc/uris"), "404 unknown-channel"},
		{"a job upwards", sending("POST", "/v1/jobs/..%2f..%2fetc", `{"paused":true}`), "404 unknown-job"},
		{"a job with a NUL", sending("POST", "/v1/jobs/%00", `{"paused":true}`), "404 unknown-job"},
		{"a job of 10 kB", sending("POST", "/v1/jobs/"+times(10_000, "1"), `{"rate":-1}`), "404 unknown-job"},
	}
}

// hostileTopics is what is wrong with what a document is asked for by.
func hostileTopics() []hostile {
	const all, one = "/topics/all", "/topics/resource"
	return []hostile{
		{"a topic upwards", bare("GET", "/topics/..%2f..%2fetc%2fpasswd"), "404 unknown-channel"},
		{"a topic of folders", bare("GET", "/topics/../../etc/passwd"), "404 not-found"},
		{"a topic with a NUL", bare("GET", "/topics/a%00"), "404 unknown-channel"},
		{"a topic with a line end", bare("GET", "/topics/a%0d%0aLink:x"), "404 unknown-channel"},
		{"a topic of 10 kB", bare("GET", "/topics/"+times(10_000, "a")), "404 unknown-channel"},
		{"a topic of no name", bare("GET", "/topics/"), "404 not-found"},
		{"a topic of a host of 10 kB", bare("GET", "/topics/host:"+times(10_000, "a")), "400 bad-filter"},
		{"a topic of a type that is no UTF-8", bare("GET", "/topics/type:%ff%fe"), "400 bad-filter"},
		{"a topic of a host that ends a link", bare("GET", "/topics/host:%3e%3b%20rel=%22hub%22,%20%3chttp:evil%3e"), "200"},
		{"a topic by POST", sending("POST", all, "hub.mode=publish"), "405 method-not-allowed"},
		{"a topic by DELETE", bare("DELETE", all), "405 method-not-allowed"},
		{"a document after nothing", bare("GET", all+"?after="), "400 bad-query"},
		{"a document after less than nothing", bare("GET", all+"?after=-1"), "400 bad-query"},
		{"a document after an exponent", bare("GET", all+"?after=1e3"), "400 bad-query"},
		{"a document after all numbers", bare("GET", all+"?after=18446744073709551616"), "400 bad-query"},
		{"a document after the last number", bare("GET", all+"?after=18446744073709551615"), "200"},
		{"a document after another journal", bare("GET", all+"?after=00000000.7"), "200"},
		{"a document after 10 kB", bare("GET", all+"?after="+times(10_000, "1")), "400 bad-query"},
		{"a document after two positions", bare("GET", all+"?after=1&after=2"), "400 bad-query"},
		{"a document of all lanes", bare("GET", all+"?lane=*"), "400 bad-query"},
		{"a document as a script", bare("GET", all+"?format=javascript"), "400 bad-query"},
		{"a document with a callback", bare("GET", all+"?callback=alert"), "400 bad-query"},
		{"a document that is no type's", bare("GET", all, "Accept: "+times(3000, "a/b;q=9,")), "200"},
		{"a document by weights that are none", bare("GET", all, "Accept: application/atom+xml;q=NaN, */*;q=-1e999, ;;;"), "200"},
		{"tags without end", bare("GET", all, "If-None-Match: "+times(3000, `"a", `)), "200"},
		{"a document of no resource", bare("GET", one), "400 bad-query"},
		{"a document of two resources", bare("GET", one+k+"&uri=urn:a:b"), "400 bad-query"},
		{"a document of a resource that turns around", bare("GET", one+k+"%E2%80%AE"), "400 bad-uri"},
		{"a document of a resource with a line end", bare("GET", one+k+"%0d%0aLink:x"), "400 bad-uri"},
		{"a document of a resource of 2 kB and one byte", bare("GET", one+"?uri="+longURI), "400 bad-uri"},
		{"a channel called resource", sending("PUT", chans+"resource", "{}"), "400 bad-value"},
	}
}

// hostileBodies is what is wrong with how a body is sent.
func hostileBodies() []hostile {
	return []hostile{
		{"many parts", postUpdate("--a\r\n\r\n{}\r\n--a--", "Content-Type: multipart/form-data; boundary=a"), "415 bad-content-type"},
		{"XML with an entity", postUpdate(`<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>`, "Content-Type: application/xml"), "415 bad-content-type"},
		{"XML that says it is JSON", postUpdate(`<a/>`), "400 bad-json"},
		{"UTF-16", postUpdate("\xff\xfe{\x00}\x00", "Content-Type: application/json; charset=utf-16"), "415 bad-content-type"},
		{"UTF-16 that says nothing", postUpdate("\xff\xfe{\x00}\x00"), "400 bad-json"},
		{"a mark of byte order", postUpdate("\xef\xbb\xbf" + good), "400 bad-json"},
		{"two media types", postUpdate(good, "Content-Type: application/json, text/plain"), "415 bad-content-type"},
		{"a pickled object", postUpdate("\x80\x04\x95.", "Content-Type: application/octet-stream"), "415 bad-content-type"},
		{"gzip twice", postUpdate(gzipped(gzipped(good)), asGzip+", gzip"), "415 bad-content-type"},
		{"gzip in two headers", postUpdate(gzipped(gzipped(good)), asGzip, asGzip), "415 bad-content-type"},
		{"gzip that was encoded twice and says once", postUpdate(gzipped(gzipped(good)), asGzip), "400 bad-json"},
		{"gzip with rubbish after it", postUpdate(gzipped(good)+"rubbish", asGzip), "400 bad-body"},
		{"gzip of 64 MiB", postUpdate(gzipped(times(64<<20, " ")), asGzip), "413 body-too-large"},
		{"gzip of 64 MiB in pieces", postUpdate(times(64, gzipped(times(1<<20, " "))), asGzip), "413 body-too-large"},
		{"zstd of 64 MiB", postUpdate(zstded(times(64<<20, " ")), asZstd), "413 body-too-large"},
		{"zstd with a window of 1 GiB", postUpdate("\x28\xb5\x2f\xfd\x00\xa0"+times(100, "\x00"), asZstd), "413 body-too-large"},
		{"zstd with a dictionary", postUpdate("\x28\xb5\x2f\xfd\x03\x58\x01\x02\x03\x04"+times(100, "\x00"), asZstd), "400 bad-body"},
		{"zstd that is skipped", postUpdate(times(1000, "\x50\x2a\x4d\x18\x00\x00\x00\x00"), asZstd), "400 bad-json"},
		{"states from gzip of 64 MiB", sending("POST", st, gzipped(times(64<<20, " ")), asGzip), "413 body-too-large"},
		{"an edit from gzip of 64 MiB", sending("PATCH", deps, gzipped(times(64<<20, " ")), asGzip), "413 body-too-large"},
		{"a channel from zstd of 64 MiB", sending("PUT", chans+"x", zstded(times(64<<20, " ")), asZstd), "413 body-too-large"},
		{"a line of 64 MiB from gzip", patchLines(gzipped(times(64<<20, "a")), asGzip), "400 over-limit"},
	}
}

// hostileJSON is what is wrong with JSON and lines of it.
func hostileJSON() []hostile {
	return []hostile{
		{"arrays 10,000 deep", postUpdate(times(10_000, "[")), "400 bad-value"},
		{"objects 10,000 deep", postUpdate(times(10_000, `{"a":`)), "400 unknown-field"},
		{"a value 10,000 deep", with(`"deps":` + times(10_000, "[") + times(10_000, "]")), "400 bad-value"},
		{"states 10,000 deep", sending("POST", st, `{"uris":`+times(10_000, "[")), "400 bad-value"},
		{"an edit 10,000 deep", sending("PATCH", deps, `{"add":`+times(10_000, "[")), "400 bad-value"},
		{"a channel 10,000 deep", putChannel(`{"uri":` + times(10_000, "[")), "400 bad-value"},
		{"a change of a channel 10,000 deep", sending("PATCH", chans+"listed", times(10_000, `{"add":`)), "400 unknown-field"},
		{"lines 10,000 deep", patchLines(times(10_000, `{"add":`)), "400 over-limit"},
		{"a job 10,000 deep", sending("POST", "/v1/jobs/1", times(10_000, `{"rate":`)), "404 unknown-job"},
		{"a number beyond all numbers", with(`"version":1e999999999`), "400 bad-value"},
		{"a number of 100 kB", with(`"at":` + times(100_000, "9")), "400 bad-value"},
		{"no number", with(`"version":NaN`), "400 bad-json"},
		{"a name that stands twice, escaped", postUpdate(`{"uri":"https://e.example/new","\u0075ri":"https://e.example/other"}`), "400 bad-json"},
		{"a name that stands twice in a dependency", with(`"deps":[{"uri":"` + known + `","uri":"` + artefact + `"}]`), "400 bad-json"},
		{"a name of the language", with(`"__proto__":{"a":1}`), "400 unknown-field"},
		{"a name of 100 kB", with(`"` + times(100_000, "a") + `":1`), "400 unknown-field"},
		{"a name that forges a line", with(`"\ntime=x level=ERROR msg=forged":1`), "400 unknown-field"},
		{"half a pair in a name", with(`"\ud800":1`), "400 bad-json"},
		{"half a pair in a URI", uriOf(`https://e.example/\udc00`), "400 bad-json"},
		{"a pair the wrong way round", with(`"hash":"\udc00\ud800"`), "400 bad-json"},
		{"an escape that breaks off", with(`"hash":"\u12"`), "400 bad-json"},
		{"an escape that is none", with(`"hash":"\x41"`), "400 bad-json"},
		{"a line end in a text", with("\"hash\":\"a\nb\""), "400 bad-json"},
		{"a NUL in a text", with("\"hash\":\"a\x00b\""), "400 bad-json"},
		{"an overlong slash", uriOf("https://e.example\xc0\xaf"), "400 bad-json"},
		{"a half pair in UTF-8", with("\"hash\":\"\xed\xa0\x80\""), "400 bad-json"},
		{"beyond Unicode", with("\"hash\":\"\xf4\x90\x80\x80\""), "400 bad-json"},
		{"a comment", postUpdate(`{/* a */"uri":"https://e.example/new"}`), "400 bad-json"},
		{"a comma too many", postUpdate(`{"uri":"https://e.example/new",}`), "400 bad-json"},
		{"single quotes", postUpdate(`{'uri':'https://e.example/new'}`), "400 bad-json"},
		{"a text that does not end", postUpdate(`{"uri":"https://e.example/new`), "400 bad-json"},
		{"a text alone", postUpdate(`"https://e.example/new"`), "400 bad-value"},
		{"a number alone", postUpdate(`1`), "400 bad-value"},
		{"null alone", postUpdate(`null`), "400 bad-value"},
		{"an array in an array", postUpdate(`[[` + good + `]]`), "400 bad-value"},
		{"an array and a line", postUpdate(`[` + good + `]` + "\n" + good), "400 bad-json"},
		{"a line that is an array", asLines(good + "\n[" + good + "]\n"), "400 bad-value"},
		{"a line of 4 MiB", asLines(`{"uri":"` + times(4<<20, "a") + `"}`), "400 bad-uri"},
		{"a million empty lines and a bad one", asLines(times(1<<20, "\n") + "{"), "400 bad-json"},
		{"a line end after a CR alone", asLines(good + "\r{"), "400 bad-json"},
	}
}

// hostileValues is what is wrong with what a field says.
func hostileValues() []hostile {
	return []hostile{
		{"a user in a URI", uriOf("https://user@e.example/"), "400 bad-uri"},
		{"the default port in a URI", uriOf("https://e.example:443/"), "400 bad-uri"},
		{"a port beyond all ports", uriOf("https://e.example:99999/"), "400 bad-uri"},
		{"a zone in a URI", uriOf("https://[fe80::1%25eth0]/"), "400 bad-uri"},
		{"a URI without a host", uriOf("https:///etc/passwd"), "400 bad-uri"},
		{"a file as URI", uriOf("file:///etc/passwd"), "400 bad-uri"},
		{"data as URI", uriOf("data:text/html,<script>"), "400 bad-uri"},
		{"a host with letters of another script", uriOf("https://\u0435.example/"), "400 bad-uri"},
		{"dot segments, escaped", uriOf("https://e.example/%2e%2e/a"), "400 bad-uri"},
		{"an escape in small letters", uriOf("https://e.example/%c3%a4"), "400 bad-uri"},
		{"an escape of a plain letter", uriOf("https://e.example/%41"), "400 bad-uri"},
		{"a backslash in a URI", uriOf(`https://e.example\\evil`), "400 bad-uri"},
		{"a space in a URI", uriOf("https://e.example/a b"), "400 bad-uri"},
		{"a line end in a URI", uriOf(`https://e.example/a\nb`), "400 bad-uri"},
		{"a separator of lines in a URI", uriOf(`https://e.example/\u2028`), "400 bad-uri"},
		{"a mark that turns around in a URI", uriOf(`https://e.example/\u202e`), "400 bad-uri"},
		{"a space of no width in a URI", uriOf(`https://e.example/\u200b`), "400 bad-uri"},
		{"a replacement character in a URI", uriOf(`https://e.example/\ufffd`), "400 bad-uri"},
		{"two fragments", uriOf("https://e.example/#a#b"), "400 bad-uri"},
		{"a URI that is too long", uriOf(longURI), "400 bad-uri"},
		{"a ticker of no time", with(`"deps":["ticker:PT0S"]`), "400 bad-value"},
		{"a ticker of all time", with(`"deps":["ticker:P99999999999Y"]`), "400 bad-value"},

		{"a version below nothing", with(`"version":"-1"`), "400 missing-field"},
		{"a C1 control in a version", with(`"id":"1","version":"\u0085"`), "400 bad-value"},
		{"a year beyond all years", with(`"at":"10000-01-01T00:00:00Z"`), "400 bad-value"},
		{"a time before all times", with(`"at":"0000-01-01T00:00:00Z"`), "400 bad-value"},
		{"an aspect with a fragment", with(`"aspects":["a#b"]`), "400 bad-uri"},
		{"an aspect upwards", with(`"aspects":["../../a b"]`), "400 bad-uri"},
		{"a bucket that is a list", with(`"buckets":[[]]`), "400 bad-value"},
		{"a cause of 100 kB", with(`"cause":"` + times(100_000, "a") + `"`), "400 over-limit"},
		{"a trace that forges a header", with(`"traceparent":"a\r\nX: y"`), "400 bad-value"},
		{"a dependency that was seen as nothing", with(`"deps":[{"uri":"` + known + `","seen":null}]`), "400 bad-value"},
		{"a dependency that is a number", with(`"deps":[1]`), "400 bad-value"},

		{"states of a URI that is none", sending("POST", st, `{"uris":["..\/..\/etc"]}`), "400 bad-uri"},
		{"a filter of a prefix that turns around", putChannel(`{"prefix":["https://e.example/\u202e"]}`), "400 bad-filter"},
		{"a filter of a host of 10 kB", putChannel(`{"host":["` + times(10_000, "a") + `"]}`), "400 bad-filter"},
		{"a line that adds and removes", patchLines(`{"add":` + some + `,"remove":` + some + `}`), "400 bad-value"},
		{"a line that adds nothing", patchLines(`{}`), "400 missing-field"},
		{"a line that adds a path", patchLines(`{"add":"../../etc/passwd"}`), "400 bad-uri"},
		{"a line longer than a URI can be", patchLines(`{"add":"` + times(20_000, "a") + `"}`), "400 over-limit"},
	}
}
