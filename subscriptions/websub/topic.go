package websub

import (
	"net/url"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/graph"
	"github.com/freshwire/freshwire/subscriptions"
)

// A topic is what a topic's URL names: something to follow, and the form in which it
// is told. The URL is that of a document of our own, and its query says what an
// Accept header would: ?format=atom, and ?lane=prompt or ?lane=bulk.
type topic struct {
	subject
	lanes    uint8 // a set of 1<<graph.Lane, 0 is both
	atom     bool
	compared string // the URL as it compares
	base     string // scheme and host of the URL
}

// hub is where subscriptions to the topic are asked for.
func (t *topic) hub() string { return t.base + "/websub" }

// A subject is what is followed.
type subject struct {
	subscriptions.Topic
	digest string // the document of a channel's digests; "" is what the journal has
}

const (
	topics   = "/topics/"
	digests  = "/digest/"
	resource = topics + "resource"
)

// documents are those of a channel's digests that can be followed.
var documents = []string{"feed.atom", "feed.json", "state.json"}

// parseTopic reads the URL of a topic. Whose host it names is not looked at.
func parseTopic(text string) (t topic, no *RequestError) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return t, bad("hub.topic", "it is not a http or https URL of a topic of this hub")
	}
	t.compared, t.base = comparable(u, text), u.Scheme+"://"+u.Host
	return t, t.read(u)
}

// read reads path and query.
func (t *topic) read(u *url.URL) *RequestError {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("hub.topic", "its query cannot be read")
	}
	for name, values := range query {
		if len(values) > 1 {
			return bad("hub.topic", "a parameter of it stands more than once")
		}
		switch value := values[0]; {
		case name == "format" && (value == "json" || value == "atom"):
			t.atom = value == "atom"
		case name == "lane" && value == graph.Prompt.String():
			t.lanes = 1 << graph.Prompt
		case name == "lane" && value == graph.Bulk.String():
			t.lanes = 1 << graph.Bulk
		case name == "uri" && u.Path == resource:
			t.URI = value
		default:
			return bad("hub.topic", "it has a parameter that no topic has; there are format=json, format=atom, lane=prompt and lane=bulk")
		}
	}
	name, isTopic := strings.CutPrefix(u.Path, topics)
	// As it is written: names of channels that have digests need no encoding.
	if rest, ok := strings.CutPrefix(u.EscapedPath(), digests); ok {
		name, t.digest, _ = strings.Cut(rest, "/")
		if isTopic = slices.Contains(documents, t.digest); isTopic && len(query) > 0 {
			return bad("hub.topic", "it has a parameter, and a digest has none")
		}
		t.lanes = 1 << graph.Prompt
		t.atom = strings.HasSuffix(t.digest, ".atom")
	}
	switch {
	case !isTopic || name == "":
		return bad("hub.topic", "it is not a topic of this hub, such as /topics/CHANNEL or /digest/CHANNEL/feed.atom")
	case u.Path == resource && t.URI == "":
		return bad("hub.topic", "it does not say which resource: ?uri=")
	case u.Path != resource:
		t.Channel = name
	}
	return nil
}

// parseDenied reads what a setting denies: a topic's URL, or its path alone.
func parseDenied(text string) (subject, *RequestError) {
	if strings.HasPrefix(text, "/") {
		text = "http://localhost" + text
	}
	t, no := parseTopic(text)
	return t.subject, no
}
