package hub

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/hub/auth"
)

// formed is a request of a subscriber whose parameters are changed, by pairs of name
// and value.
func formed(changes ...string) string {
	values := url.Values{"hub.mode": {"subscribe"}, "hub.callback": {"http://93.184.215.14/cb"}, "hub.topic": {"http://localhost/topics/all"}}
	for i := 0; i < len(changes); i += 2 {
		values.Set(changes[i], changes[i+1])
	}
	return sending("POST", webSubPath, values.Encode(), "Content-Type: "+typeForm, "Accept: application/json")
}

// hostileWebSub is what is wrong with what is said to subscribe with.
func hostileWebSub() []hostile {
	const refused = "400 bad-subscription"
	form := func(body string, header ...string) string {
		return sending("POST", webSubPath, body, append(header, "Content-Type: "+typeForm, "Accept: application/json")...)
	}
	callback := func(url string) string { return formed("hub.callback", url) }
	topic := func(url string) string { return formed("hub.topic", url) }
	return []hostile{
		{"a subscription as JSON", sending("POST", webSubPath, `{"hub.mode":"subscribe"}`, "Accept: application/json"), "415 bad-content-type"},
		{"a subscription as a page would send it", sending("POST", webSubPath, "x", "Content-Type: multipart/form-data; boundary=x", "Accept: application/json"), "415 bad-content-type"},
		{"a subscription of another origin", form("hub.mode=subscribe", "Origin: https://evil.example"), "403 cross-origin"},
		{"a subscription by another name", form("hub.mode=subscribe", "Host: evil.example"), "421 bad-host"},
		{"a subscription of 33 KiB", form(times(33<<10, "a")), "413 body-too-large"},
		{"a subscription of 2 MiB in chunks", form("200000\r\n"+times(2<<20, "a")+"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "413 body-too-large"},
		{"a subscription of 10,000 names", form(times(10_000, "a=&")), refused},
		{"a subscription of NULs", form(times(1000, "\x00")), refused},
		{"a subscription that is compressed", form("\x1f\x8b\x08", "Content-Encoding: gzip"), refused},
		{"a callback that smuggles a header", callback("http://93.184.215.14/\r\nX: y"), refused},
		{"a callback that smuggles a request", callback("http://93.184.215.14/ HTTP/1.1\r\n\r\nGET /smuggled"), refused},
		{"a callback with a NUL", callback("http://93.184.215.14/\x00"), refused},
		{"a callback with a password", callback("http://user:top-secret@93.184.215.14/"), refused},
		{"a callback into loopback", callback("http://127.0.0.1/"), refused},
		{"a callback into loopback by its other name", callback("http://[::1]/"), refused},
		{"a callback into loopback in hexadecimal", callback("http://0x7f000001/"), refused},
		{"a callback into loopback in octal", callback("http://0177.0.0.1/"), refused},
		{"a callback into loopback as one number", callback("http://2130706433/"), refused},
		{"a callback into loopback in IPv6", callback("http://[::ffff:127.0.0.1]/"), refused},
		{"a callback to the metadata of a cloud", callback("http://169.254.169.254/latest/meta-data/"), refused},
		{"a callback into a private network", callback("http://10.1.2.3/"), refused},
		{"a callback to everybody", callback("http://224.0.0.1/"), refused},
		{"a callback to a mail server", callback("http://93.184.215.14:25/"), refused},
		{"a callback to a port that is none", callback("http://93.184.215.14:99999/"), refused},
		{"a callback to a file", callback("file:///etc/passwd"), refused},
		{"a callback that is a script", callback("javascript:alert(1)"), refused},
		{"a callback with a host of 300 characters", callback("http://" + times(300, "a") + "/"), refused},
		{"a callback with a host beyond ASCII", callback("http://ｅxample.org/"), refused},
		{"a callback of 10 kB", callback("http://93.184.215.14/" + times(10_000, "a")), refused},
		{"a topic that ends a link", topic("http://localhost/topics/all?format=json>;rel=hub,<http:evil"), refused},
		{"a topic that smuggles a header", topic("http://localhost/topics/all\r\nX: y"), refused},
		{"a topic of somebody else", topic("http://evil.example/topics/all"), refused},
		{"a topic to follow upwards", topic("http://localhost/topics/../v1/token"), "404 unknown-channel"},
		{"a topic with a password", topic("http://a:b@localhost/topics/all"), refused},
		{"a topic of 10 kB", topic("http://localhost/topics/" + times(10_000, "a")), refused},
		{"a topic of no channel", topic("http://localhost/topics/%2e%2e%2f"), "404 unknown-channel"},
		{"a secret of 10 kB", formed("hub.secret", times(10_000, "s")), refused},
		{"a lease below nothing", formed("hub.lease_seconds", "-9223372036854775808"), refused},
		{"a lease with an exponent", formed("hub.lease_seconds", "1e308"), refused},
		{"a lease that is no number", formed("hub.lease_seconds", "NaN"), refused},
		{"a mode that is a denial", formed("hub.mode", "denied"), refused},
		{"a subscription upwards", bare("GET", "/v1/subscriptions/..%2f..%2fetc"), "404 unknown-subscription"},
		{"a subscription with a NUL", bare("DELETE", "/v1/subscriptions/%00"), "404 unknown-subscription"},
		{"subscriptions of a number below nothing", bare("GET", "/v1/subscriptions?limit=-1"), "400 bad-query"},
		{"a subscription 10,000 deep", sending("POST", "/v1/subscriptions/a", times(10_000, `{"action":`)), "404 unknown-subscription"},
	}
}

func TestWhoMayDoWhatWithSubscriptions(t *testing.T) {
	h := startKeyedWebSub(t, nil)
	s := newSubscriber(t)
	h.accepted(h.askAs(enwiki, h.form(s.server.URL+"/a")))
	path := "/v1/subscriptions/" + h.inForce(s.server.URL+"/a").ID
	peer := auth.Rights{Subject: "peer", Publish: auth.Prefixes{"*"}, Subscribe: auth.Prefixes{"*"}}
	for _, tt := range []struct {
		method, path, body              string
		stranger, other, owner, manager int
	}{
		{"GET", "/v1/subscriptions", "", 401, 200, 200, 200},
		{"GET", path, "", 401, 404, 200, 200},
		{"POST", path, `{"action":"pause"}`, 401, 404, 200, 200},
		{"POST", path, `{"action":"resume"}`, 401, 404, 200, 200},
		{"POST", path, `{"action":"ping"}`, 401, 404, 200, 200},
		{"GET", "/v1/subscriptions/nothing", "", 401, 404, 404, 404},
		{"DELETE", path, "", 401, 404, 204, 404},
	} {
		for who, want := range map[string]int{"a stranger": tt.stranger, "another": tt.other} {
			var a *reply
			if who == "another" {
				a = h.as(peer, tt.method, tt.path, tt.body)
			} else {
				a = h.testHub.do(tt.method, tt.path, tt.body)
			}
			if a.status != want {
				t.Errorf("%s: %s %s answers %d, want %d", who, tt.method, tt.path, a.status, want)
			}
		}
		if a := h.as(enwiki, tt.method, tt.path, tt.body); a.status != tt.owner {
			t.Errorf("its owner: %s %s answers %d %s, want %d", tt.method, tt.path, a.status, a.body, tt.owner)
		}
		if a := h.as(root, tt.method, tt.path, tt.body); a.status != tt.manager {
			t.Errorf("an administrator: %s %s answers %d %s, want %d", tt.method, tt.path, a.status, a.body, tt.manager)
		}
	}
}

func TestNothingSecretOfASubscriptionLeavesTheHub(t *testing.T) {
	var log lockedBuffer
	k := startLoggedHub(t, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), quickly)
	h := &webSubHub{k.testHub, k}
	h.open("open")
	s := newSubscriber(t)
	h.accepted(h.askAs(enwiki, h.form(s.server.URL+"/hidden?key=hidden", "hub.secret", "hidden")))
	h.inForce(s.server.URL + "/hidden")
	h.accepted(h.ask(h.form(s.server.URL+"/other?key=hidden", "hub.secret", "hidden")))
	h.inForce(s.server.URL + "/other")
	s.onTake(answering(http.StatusTeapot, "hidden"))
	s.onVerify(answering(http.StatusNotFound, "hidden"))
	h.accepted(h.ask(h.form(s.server.URL+"/never?key=hidden", "hub.secret", "hidden")))
	h.edit(aPage, 1)
	s.await(2, isPost)
	h.settled()
	if a := h.ask(h.form(s.server.URL+"/x?key=hidden", "hub.secret", "hidden"+strings.Repeat("x", 300))); strings.Contains(string(a.body), "hidden") {
		t.Errorf("a refusal shows it: %s", a.body)
	}
	var shown struct{ Items []json.RawMessage }
	h.admin("GET", "/v1/subscriptions", "").decode(t, &struct {
		Items *[]json.RawMessage
		Next  string
	}{Items: &shown.Items})
	for _, item := range shown.Items {
		if strings.Contains(string(item), "key=") || strings.Contains(string(item), "secret") {
			t.Errorf("an administrator sees %s", item)
		}
	}
	metrics := string(h.admin("GET", "/metrics", "").body)
	port := s.server.URL[strings.LastIndexByte(s.server.URL, ':')+1:]
	for what, text := range map[string]string{"the log": log.String(), "a metric": metrics} {
		if strings.Contains(text, "hidden") || strings.Contains(text, ":"+port) {
			t.Errorf("%s shows it", what)
		}
	}
	if len(shown.Items) != 2 || !strings.Contains(metrics, `freshwire_websub_verifications_total{mode="subscribe",outcome="refused"} 1`) ||
		!strings.Contains(metrics, "freshwire_subscriptions 2") {
		t.Errorf("%d subscriptions; the metrics are\n%s", len(shown.Items), metrics)
	}
}
