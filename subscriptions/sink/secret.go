package sink

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/subscriptions/delivery"
)

// maxSecret bounds a secret's file in bytes: a header takes no more.
const maxSecret = 16 << 10

// A secret is a value that stands in no configuration, journal, log or answer: it is
// looked up for each call, so that a new one counts at once.
type secret struct {
	kind string // "env" or "file"
	name string
}

// secretOf reads env:NAME and file:PATH; nil is neither.
func secretOf(text string) *secret {
	kind, name, ok := strings.Cut(text, ":")
	if !ok || kind != "env" && kind != "file" || name == "" {
		return nil
	}
	return &secret{kind, name}
}

// read returns the secret. Its error tells the name, never the value.
func (s *secret) read() (string, error) {
	text, found := "", true
	if s.kind == "env" {
		text, found = os.LookupEnv(s.name)
		if !found || text == "" {
			return "", fmt.Errorf("the environment variable %.80q is not set", s.name)
		}
	} else {
		info, err := os.Stat(s.name)
		if err == nil && info.Size() > maxSecret {
			return "", fmt.Errorf("%.200q is longer than %d bytes", s.name, maxSecret)
		}
		b, err := os.ReadFile(s.name)
		if err != nil {
			return "", fmt.Errorf("%.200q: %w", s.name, errors.Unwrap(err))
		}
		if text = strings.TrimSpace(string(b)); text == "" {
			return "", fmt.Errorf("%.200q is empty", s.name)
		}
	}
	if hasControl(text) {
		return "", fmt.Errorf("%s %.200q holds a control character, which no header can", s.kind, s.name)
	}
	return text, nil
}

// sensitive matches names whose values are likely to be secrets.
var sensitive = regexp.MustCompile(`(?i)auth|token|secret|passw|cookie|credential|signature|(^|[-_])(api[-_]?)?key$`)

// hidden stands for what is not shown. It is one that may stand in a URL.
const hidden = "(secret)"

// hide returns a literal that its name says to be a secret as hidden. What refers to
// one, or to values of notices, is none.
func hide(name, text string) string {
	if text != "" && sensitive.MatchString(name) && !strings.Contains(text, "{") {
		return hidden
	}
	return text
}

// Shown returns the definition for others to see: without secrets that stand in it.
func (d Definition) Shown() Definition {
	d.Action = d.Action.shown()
	d.Cases = slices.Clone(d.Cases)
	for i := range d.Cases {
		d.Cases[i].Action = d.Cases[i].Action.shown()
	}
	return d
}

func (a Action) shown() Action {
	if a.HTTP != nil {
		h := *a.HTTP
		h.URL, h.Headers, h.Form, h.JSON = shownURL(h.URL), shownPairs(h.Headers), shownPairs(h.Form), shownJSON("", h.JSON)
		a.HTTP = &h
	}
	for _, p := range []**Purge{&a.Purge, &a.XKey, &a.SurrogateKey, &a.Ban} {
		if *p != nil {
			shown := **p
			shown.URL, shown.Headers = shownURLs(shown.URL), shownPairs(shown.Headers)
			*p = &shown
		}
	}
	return a
}

func shownPairs(pairs map[string]string) map[string]string {
	if pairs == nil {
		return nil
	}
	shown := make(map[string]string, len(pairs))
	for name, text := range pairs {
		shown[name] = hide(name, text)
	}
	return shown
}

func shownURLs(urls Texts) Texts {
	shown := slices.Clone(urls)
	for i, text := range shown {
		shown[i] = shownURL(text)
	}
	return shown
}

// shownURL hides parameters of the query.
func shownURL(text string) string {
	path, query, ok := strings.Cut(text, "?")
	if !ok {
		return text
	}
	parameters := strings.Split(query, "&")
	for i, p := range parameters {
		if name, v, ok := strings.Cut(p, "="); ok {
			parameters[i] = name + "=" + hide(name, v)
		}
	}
	return path + "?" + strings.Join(parameters, "&")
}

// shownJSON hides texts that stand under the name of a secret.
func shownJSON(name string, v any) any {
	switch v := v.(type) {
	case string:
		return hide(name, v)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = shownJSON(name, v[i])
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for key, e := range v {
			object[key] = shownJSON(key, e)
		}
		return object
	}
	return v
}

// literalSecrets returns the fields in which a secret stands as it is.
func (s *Sink) literalSecrets() []string {
	var found []string
	for _, b := range s.branches {
		for _, h := range b.action.headers {
			if len(h.text) == 1 && h.text.isLiteral() && hide(h.name, h.text[0].text) == hidden {
				found = append(found, b.in("the header "+h.name))
			}
		}
	}
	return found
}

// CheckSecrets reports, as an *[Error], the first secret that a sink names and that is
// not there or cannot stand in a header.
func CheckSecrets(sinks []*Sink) error {
	for _, s := range sinks {
		for _, b := range s.branches {
			for _, h := range b.action.headers {
				for _, p := range h.text {
					if p.secret == nil {
						continue
					}
					if _, err := p.secret.read(); err != nil {
						field := b.action.section + ".headers." + quoteKey(h.name)
						if b.field != "" {
							field = b.field + "." + field
						}
						return &Error{s.index, s.Name, field, err.Error()}
					}
				}
			}
		}
	}
	return nil
}

// secretsKey is where the context of a request holds its secret headers.
type secretsKey struct{}

// A confidant makes calls with their secrets. Who gives it the request, and may keep
// it with a dead letter, never sees them.
type confidant struct{ delivery.Caller }

// Do reads the secrets and makes the call.
func (c confidant) Do(r *http.Request) (*http.Response, error) {
	secrets, _ := r.Context().Value(secretsKey{}).([]header)
	if len(secrets) == 0 {
		return c.Caller.Do(r)
	}
	r = r.Clone(r.Context())
	for _, h := range secrets {
		text := ""
		for _, p := range h.text {
			part := p.text
			if p.secret != nil {
				var err error
				if part, err = p.secret.read(); err != nil {
					return nil, fmt.Errorf("header %s: %w", h.name, err)
				}
			}
			text += part
		}
		r.Header.Set(h.name, text)
	}
	return c.Caller.Do(r)
}
