package websub

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"
)

func form(pairs ...string) []byte {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	return []byte(values.Encode())
}

const (
	aCallback = "https://wiki.example/api.php?action=websub&hub.mode=push&hub.topic=x"
	aTopic    = "https://hub.example/topics/all"
)

func TestARequestIsReadAsItWasSent(t *testing.T) {
	r, err := ParseRequest(form("hub.mode", "subscribe", "hub.callback", aCallback, "hub.topic", aTopic, "hub.secret", "s3cret",
		"hub.lease_seconds", "0086400", "hub.verify", "sync", "hub.verify", "async", "hub.mystery", "1", "foo", "bar"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Mode != Subscribe || r.Callback != aCallback || r.Topics[0] != aTopic || string(r.Secret) != "s3cret" || r.Lease != 24*time.Hour {
		t.Errorf("got %+v", r)
	}
}

func TestRequestsThatCannotBeMeantAreRefused(t *testing.T) {
	full := func(changes ...string) []byte {
		values := url.Values{"hub.mode": {"subscribe"}, "hub.callback": {aCallback}, "hub.topic": {aTopic}}
		for i := 0; i < len(changes); i += 2 {
			values.Set(changes[i], changes[i+1])
		}
		return []byte(values.Encode())
	}
	for _, tt := range []struct {
		what  string
		form  []byte
		field string
	}{
		{"nothing", nil, "hub.mode"},
		{"an unknown mode", full("hub.mode", "denied"), "hub.mode"},
		{"a mode in capitals", full("hub.mode", "SUBSCRIBE"), "hub.mode"},
		{"no callback", full("hub.callback", ""), "hub.callback"},
		{"a callback without a scheme", full("hub.callback", "wiki.example/x"), "hub.callback"},
		{"a relative callback", full("hub.callback", "/x"), "hub.callback"},
		{"a callback that cannot be parsed", full("hub.callback", "https://wiki.example/%zz"), "hub.callback"},
		{"a callback without a host", full("hub.callback", "https:///x"), "hub.callback"},
		{"a callback of another scheme", full("hub.callback", "ftp://wiki.example/x"), "hub.callback"},
		{"a javascript callback", full("hub.callback", "javascript:alert(1)"), "hub.callback"},
		{"a callback with a password", full("hub.callback", "https://a:b@wiki.example/x"), "hub.callback"},
		{"a callback with a fragment", full("hub.callback", "https://wiki.example/x#y"), "hub.callback"},
		{"a callback with a line end", full("hub.callback", "https://wiki.example/x\r\nHost: evil"), "hub.callback"},
		{"a callback with a space", full("hub.callback", "https://wiki.example/a b"), "hub.callback"},
		{"a callback with a space in its query", full("hub.callback", "https://wiki.example/a?b c"), "hub.callback"},
		{"a callback beyond ASCII", full("hub.callback", "https://wiki.example/ä"), "hub.callback"},
		{"a callback whose path is no path", full("hub.callback", "https://wiki.example/a|b"), "hub.callback"},
		{"a callback that is too long", full("hub.callback", "https://wiki.example/"+strings.Repeat("a", maxURL)), "hub.callback"},
		{"two callbacks", append(full(), "&hub.callback=https://b.example/"...), "hub.callback"},
		{"no topic", full("hub.topic", ""), "hub.topic"},
		{"two topics", append(full(), "&hub.topic=https://b.example/"...), "hub.topic"},
		{"a topic with a line end", full("hub.topic", aTopic+"\n"), "hub.topic"},
		{"a secret of 200 bytes", full("hub.secret", strings.Repeat("s", 200)), "hub.secret"},
		{"a secret of 200 bytes in 100 characters", full("hub.secret", strings.Repeat("ä", 100)), "hub.secret"},
		{"a negative lease", full("hub.lease_seconds", "-1"), "hub.lease_seconds"},
		{"no lease at all", full("hub.lease_seconds", "0"), "hub.lease_seconds"},
		{"no lease in many digits", full("hub.lease_seconds", "000"), "hub.lease_seconds"},
		{"a lease in words", full("hub.lease_seconds", "day"), "hub.lease_seconds"},
		{"a lease with an exponent", full("hub.lease_seconds", "1e3"), "hub.lease_seconds"},
		{"a lease with a fraction", full("hub.lease_seconds", "10.5"), "hub.lease_seconds"},
		{"a lease with a sign", full("hub.lease_seconds", "+10"), "hub.lease_seconds"},
		{"a lease in other digits", full("hub.lease_seconds", "１０"), "hub.lease_seconds"},
		{"a broken encoding", []byte("hub.mode=%zz"), ""},
		{"semicolons", []byte("hub.mode=subscribe;hub.topic=x"), ""},
		{"a form that is too long", append(full(), "&x="+strings.Repeat("a", MaxForm)...), ""},
		{"a ping of nothing", form("hub.mode", "publish"), "hub.url"},
	} {
		_, err := ParseRequest(tt.form)
		var no *RequestError
		if !errors.As(err, &no) || no.Field != tt.field {
			t.Errorf("%s: %v", tt.what, err)
		} else if strings.Contains(no.Error(), "wiki.example") {
			t.Errorf("%s: the reason repeats the callback: %s", tt.what, no)
		}
	}
}

func TestALeaseIsADecimalNumberOfAnyLength(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "1": time.Second, "864000": 240 * time.Hour, "999999999": 999999999 * time.Second,
		"1000000000": longest, "9223372036854775808": longest, strings.Repeat("9", 1000): longest} {
		r, err := ParseRequest(form("hub.mode", "subscribe", "hub.callback", aCallback, "hub.topic", aTopic, "hub.lease_seconds", text))
		if err != nil || r.Lease != want {
			t.Errorf("%.20s: %v, %v", text, r, err)
		}
	}
}

func TestWhatAnUnsubscriberAddsDoesNotMatter(t *testing.T) {
	r, err := ParseRequest(form("hub.mode", "unsubscribe", "hub.callback", aCallback, "hub.topic", aTopic,
		"hub.lease_seconds", "-1", "hub.secret", strings.Repeat("s", 300)))
	if err != nil || r.Lease != 0 || r.Secret != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestASecretHasLessThan200Bytes(t *testing.T) {
	for _, secret := range []string{"", "s", strings.Repeat("s", 199), strings.Repeat("ä", 99)} {
		r, err := ParseRequest(form("hub.mode", "subscribe", "hub.callback", aCallback, "hub.topic", aTopic, "hub.secret", secret))
		if err != nil || string(r.Secret) != secret || (r.Secret == nil) != (secret == "") {
			t.Errorf("%d bytes: %v", len(secret), err)
		}
	}
}

func TestAQueryIsKeptAndWhatIsAskedComesAfterIt(t *testing.T) {
	for given, want := range map[callback]string{
		"https://a.example":                             "https://a.example?ours",
		"https://a.example/":                            "https://a.example/?ours",
		"https://a.example/b?":                          "https://a.example/b?&ours",
		"https://a.example/b?c=d":                       "https://a.example/b?c=d&ours",
		"https://a.example/b?c=d&":                      "https://a.example/b?c=d&&ours",
		"https://a.example/b?c=%7e%2F+x|y&c&hub.mode=a": "https://a.example/b?c=%7e%2F+x|y&c&hub.mode=a&ours",
	} {
		if got := given.with("ours"); got != want {
			t.Errorf("%s: %s", given, got)
		}
	}
}

func TestCallbacksCompareWithoutRegardToHowTheyAreEncoded(t *testing.T) {
	compared := func(text string) string {
		u, no := checkCallback(text)
		if no != nil {
			t.Fatalf("%s: %v", text, no)
		}
		return comparable(u, text)
	}
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"https://a.example/~b", "https://a.example/%7Eb", true},
		{"https://a.example/~b", "https://a.example/%7eb", true},
		{"https://a.example/%61%2D%2e%5f", "https://a.example/a-._", true},
		{"https://a.example/b?c=%41", "https://a.example/b?c=A", true},
		{"https://a.example/b%2fc", "https://a.example/b%2Fc", true},
		{"https://a.example/b%2Fc", "https://a.example/b/c", false},
		{"https://a.example/b?c=%26", "https://a.example/b?c=&", false},
		{"https://A.Example/b", "https://a.example/b", true},
		{"HTTPS://a.example/b", "https://a.example/b", true},
		{"https://a.example:443/b", "https://a.example/b", true},
		{"https://a.example:80/b", "https://a.example/b", false},
		{"http://a.example:80/b", "http://a.example/b", true},
		{"https://a.example", "https://a.example/", true},
		{"https://a.example?b", "https://a.example/?b", true},
		{"https://a.example/B", "https://a.example/b", false},
		{"https://a.example/b?", "https://a.example/b", false},
		{"https://a.example/b?c=%2541", "https://a.example/b?c=%41", false},
		{"https://a.example/b?c=100%", "https://a.example/b?c=100%25", false},
		{"http://a.example/b", "https://a.example/b", false},
	} {
		if got := compared(tt.a) == compared(tt.b); got != tt.same {
			t.Errorf("%s and %s: same %t", tt.a, tt.b, got)
		}
	}
}

func TestACallbackIsShownWithoutItsQuery(t *testing.T) {
	for given, want := range map[callback]string{"https://a.example/b": "https://a.example/b", "https://a.example/b?key=secret": "https://a.example/b?…"} {
		if got := given.shown(); got != want {
			t.Errorf("%s: %s", given, got)
		}
	}
}

func TestATopicIsADocumentOfOurs(t *testing.T) {
	for _, tt := range []struct {
		url, channel, uri string
		atom              bool
		lanes             uint8
		digest            string
	}{
		{"https://hub.example/topics/all", "all", "", false, 0, ""},
		{"http://hub.example:8420/topics/mine", "mine", "", false, 0, ""},
		{"https://hub.example/topics/host:en.example.org", "host:en.example.org", "", false, 0, ""},
		{"https://hub.example/topics/host%3Aen.example.org", "host:en.example.org", "", false, 0, ""},
		{"https://hub.example/topics/type:a%2Fb", "type:a/b", "", false, 0, ""},
		{"https://hub.example/topics/all?format=atom", "all", "", true, 0, ""},
		{"https://hub.example/topics/all?format=json&lane=prompt", "all", "", false, 1, ""},
		{"https://hub.example/topics/all?lane=bulk", "all", "", false, 2, ""},
		{"https://hub.example/topics/resource?uri=https%3A%2F%2Fen.example.org%2Fwiki%2FA%23html", "", "https://en.example.org/wiki/A#html", false, 0, ""},
		{"https://hub.example/digest/all/feed.atom", "all", "", true, 1, "feed.atom"},
		{"https://hub.example/digest/mine/feed.json", "mine", "", false, 1, "feed.json"},
		{"http://hub.example:8420/digest/mine/state.json", "mine", "", false, 1, "state.json"},
	} {
		got, no := parseTopic(tt.url)
		if no != nil || got.Channel != tt.channel || got.URI != tt.uri || got.atom != tt.atom || got.lanes != tt.lanes || got.digest != tt.digest {
			t.Errorf("%s: %+v, %v", tt.url, got, no)
		}
	}
	for _, url := range []string{"", "all", "/topics/all", "https://hub.example/", "https://hub.example/topics/", "https://hub.example/topics",
		"https://hub.example/v1/stream", "https://hub.example/topics/resource", "https://hub.example/topics/resource?uri=",
		"https://hub.example/topics/all?uri=x", "https://hub.example/topics/all?after=1", "https://hub.example/topics/all?format=xml",
		"https://hub.example/topics/all?lane=prompt&lane=bulk", "https://hub.example/topics/all#x", "https://u:p@hub.example/topics/all",
		"ftp://hub.example/topics/all", "https:///topics/all", "https://hub.example/topics/all?%zz",
		"https://hub.example/digest/", "https://hub.example/digest/all", "https://hub.example/digest/all/", "https://hub.example/digest//feed.atom",
		"https://hub.example/digest/all/hours.atom", "https://hub.example/digest/all/feed.atom/", "https://hub.example/digest/all/x/feed.atom",
		"https://hub.example/digest/all/h/2026/11/22/10/digest.atom", "https://hub.example/digest/all/feed.atom?format=json",
		"https://hub.example/digest/all/feed.atom?uri=x", "https://hub.example/digest/all%2Ffeed.atom"} {
		if got, no := parseTopic(url); no == nil {
			t.Errorf("%s: taken for %+v", url, got)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(form("hub.mode", "subscribe", "hub.callback", aCallback, "hub.topic", aTopic, "hub.secret", "s", "hub.lease_seconds", "60"))
	f.Add(form("hub.mode", "publish", "hub.url", aTopic))
	f.Add([]byte("hub.mode=unsubscribe&hub.callback=http%3A%2F%2F[::1%25a]:80%2F%3f&hub.topic=http%3A%2F%2Fh%2Ftopics%2Fresource%3Furi%3Dx"))
	f.Fuzz(func(t *testing.T, form []byte) {
		r, err := ParseRequest(form)
		if err != nil {
			if no := (*RequestError)(nil); !errors.As(err, &no) {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		for _, topic := range r.Topics {
			parseTopic(topic)
		}
		if r.Mode == Publish {
			return
		}
		checkFuzzed(t, r.Callback)
	})
}

func FuzzCallback(f *testing.F) {
	for _, c := range []string{aCallback, "http://a.example?b", "http://[2001:db8::1]:8080/%7e/%2F?%", "HTTPS://A.EXAMPLE:443", "http://a/;p=1/*/[x]?a|b"} {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, no := checkCallback(text); no == nil {
			checkFuzzed(t, text)
		}
	})
}

// checkFuzzed checks that a callback that was taken is sent byte for byte, goes to
// one host whoever reads it, and compares equal to itself however often that is done.
func checkFuzzed(t *testing.T, text string) {
	u, no := checkCallback(text)
	if no != nil {
		t.Fatalf("%q is taken in a form: %v", text, no)
	}
	sent := callback(text).with("hub.mode=subscribe")
	v, err := url.Parse(sent)
	if err != nil || v.Host != u.Host {
		t.Fatalf("%q: %v", sent, err)
	}
	want := afterHost(sent)
	if want[0] == '?' {
		want = "/" + want
	}
	if got := v.RequestURI(); got != want {
		t.Fatalf("%q is sent as %q", want, got)
	}
	once := comparable(u, text)
	w, no := checkCallback(once)
	if no != nil {
		t.Fatalf("%q compares as %q: %v", text, once, no)
	}
	if twice := comparable(w, once); twice != once {
		t.Fatalf("%q compares as %q, and that as %q", text, once, twice)
	}
}
