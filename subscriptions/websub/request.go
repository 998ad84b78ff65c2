package websub

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// MaxForm bounds the body of a request in bytes: callback, topic and secret with
	// every byte percent-encoded, and as much again that nobody knows.
	MaxForm = 32 << 10
	// maxSecret is the length in bytes that a secret must stay below.
	// Source: WebSub, section 5.1: "This parameter MUST be less than 200 bytes in length".
	maxSecret = 200
)

// A Mode is what a request asks for.
type Mode string

// The modes of a request, and that of a call which tells that a subscription is
// denied. Publish is that of publishers who ping.
const (
	Subscribe   Mode = "subscribe"
	Unsubscribe Mode = "unsubscribe"
	Publish     Mode = "publish"
	denied      Mode = "denied"
)

// A RequestError reports what is wrong with a request. Its text repeats nothing of
// a callback or a secret.
type RequestError struct {
	Field  string // the parameter to blame, "" for the form itself
	Reason string
}

func (e *RequestError) Error() string {
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}

func bad(field, format string, args ...any) *RequestError {
	return &RequestError{field, fmt.Sprintf(format, args...)}
}

// A Request is what somebody asks of the hub, in form right. Whether there is such
// a topic, and whether it is theirs to ask for, is for the hub to say.
type Request struct {
	Mode     Mode
	Topics   []string      // one, and of a ping one or more; not checked
	Callback string        // byte for byte; "" of a ping
	Secret   []byte        // nil is none
	Lease    time.Duration // 0 where it is left to the hub; of what lasts longer than a Duration the longest

	compared string // the callback as it compares
	url      *url.URL
}

// ParseRequest reads the form of a request. Its error is a *RequestError. Parameters
// that nobody knows are ignored, also those that begin with hub; a known one that
// stands twice is refused, for nobody can tell which of them counts.
// Source: WebSub, section 5.1.
func ParseRequest(form []byte) (*Request, error) {
	if len(form) > MaxForm {
		return nil, bad("", "the form has more than %d bytes", MaxForm)
	}
	values, err := url.ParseQuery(string(form))
	if err != nil {
		return nil, bad("", "the form cannot be read: write it as application/x-www-form-urlencoded")
	}
	for _, name := range []string{"hub.mode", "hub.callback", "hub.secret", "hub.lease_seconds"} {
		if len(values[name]) > 1 {
			return nil, bad(name, "it stands more than once")
		}
	}
	r := &Request{Mode: Mode(values.Get("hub.mode"))}
	var no *RequestError
	switch r.Mode {
	case Subscribe:
		if no = r.readSubscriber(values); no == nil {
			no = r.readTerms(values)
		}
	case Unsubscribe:
		no = r.readSubscriber(values)
	case Publish:
		no = r.readPing(values)
	case "":
		no = bad("hub.mode", "it is missing")
	default:
		no = bad("hub.mode", "it is not subscribe, unsubscribe or publish")
	}
	if no != nil {
		return nil, no
	}
	return r, nil
}

// readSubscriber reads who is to be called, and about what.
func (r *Request) readSubscriber(values url.Values) (no *RequestError) {
	r.Callback = values.Get("hub.callback")
	if r.url, no = checkCallback(r.Callback); no != nil {
		return no
	}
	r.compared = comparable(r.url, r.Callback)
	r.Topics = values["hub.topic"]
	switch {
	case len(r.Topics) > 1:
		return bad("hub.topic", "it stands more than once")
	case len(r.Topics) == 0 || r.Topics[0] == "":
		return bad("hub.topic", "it is missing")
	}
	return checkTopicText("hub.topic", r.Topics[0])
}

// notInURLs are visible characters that stand in no URL. A topic stands in headers and
// documents, between some of them.
const notInURLs = "\"<>\\^`{|}"

func checkTopicText(field, topic string) *RequestError {
	switch {
	case len(topic) > 2*maxURL: // that of a resource holds its URI, encoded
		return bad(field, "it has more than %d bytes", 2*maxURL)
	case strings.ContainsFunc(topic, func(c rune) bool { return c <= ' ' || c > '~' }) || strings.ContainsAny(topic, notInURLs):
		return bad(field, "it has a character that stands in no URL; percent-encode it")
	}
	return nil
}

// readTerms reads what a subscriber may choose.
func (r *Request) readTerms(values url.Values) *RequestError {
	if secret := values.Get("hub.secret"); len(secret) >= maxSecret {
		return bad("hub.secret", "it has %d bytes; it must have less than %d", len(secret), maxSecret)
	} else if secret != "" {
		r.Secret = []byte(secret)
	}
	text := values.Get("hub.lease_seconds")
	if text == "" {
		return nil
	}
	if strings.Trim(text, "0123456789") != "" || strings.Trim(text, "0") == "" {
		return bad("hub.lease_seconds", "it is not a positive decimal number")
	}
	r.Lease = longest
	if digits := strings.TrimLeft(text, "0"); len(digits) < 10 {
		var seconds time.Duration
		for _, d := range []byte(digits) {
			seconds = 10*seconds + time.Duration(d-'0')
		}
		r.Lease = seconds * time.Second
	}
	return nil
}

// longest is a lease of more seconds than anybody counts, 31 years.
const longest = 1e9 * time.Second

// readPing reads which topics are said to have something new. Publishers name them
// by hub.url or by hub.topic.
func (r *Request) readPing(values url.Values) *RequestError {
	r.Topics = slices.Concat(values["hub.url"], values["hub.topic"])
	if len(r.Topics) == 0 {
		return bad("hub.url", "it is missing")
	}
	for _, topic := range r.Topics {
		if no := checkTopicText("hub.url", topic); no != nil {
			return no
		}
	}
	return nil
}
