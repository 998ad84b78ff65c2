package sink

import (
	"fmt"
	"strings"
)

// Texts is one text or a list of them: what a file writes as `type: html` or as
// `type: [html, mobile]`.
type Texts []string

// UnmarshalYAML reads a text, or a list of texts.
func (t *Texts) UnmarshalYAML(decode func(any) error) error {
	var form any
	if err := decode(&form); err != nil {
		return err
	}
	if _, isList := form.([]any); isList {
		return decode((*[]string)(t))
	}
	*t = Texts{""}
	return decode(&(*t)[0])
}

// A Definition is one sink as its operator wrote it: which notices it takes, what
// request becomes of each, and how it is sent. Durations are texts such as 5s, and
// are checked with all else by [Compile], so that an error can name the line.
type Definition struct {
	Name     string  `json:"name" yaml:"name"`
	Match    Match   `json:"match,omitzero" yaml:"match"`         // takes a notice if all of its fields agree
	MatchNot Matches `json:"match_not,omitzero" yaml:"match_not"` // … and none of these does
	Cases    []Case  `json:"cases,omitzero" yaml:"cases"`         // instead of one request: the first that matches

	Action `yaml:",inline"`

	Group string `json:"group,omitzero" yaml:"group"` // sinks of one group call in the order of their stages,
	Stage int    `json:"stage,omitzero" yaml:"stage"` // bucket by bucket, from 1 on

	Rate        float64  `json:"rate,omitzero" yaml:"rate"`               // calls a second; 0 is no bound
	Concurrency int      `json:"concurrency,omitzero" yaml:"concurrency"` // calls at once; 0 means 4
	Timeout     string   `json:"timeout,omitzero" yaml:"timeout"`         // of a call; "" means 10 s
	Linger      string   `json:"linger,omitzero" yaml:"linger"`           // waits so long for more about the same before it calls
	Retry       Retry    `json:"retry,omitzero" yaml:"retry"`
	RetryOn     Texts    `json:"retry_on,omitzero" yaml:"retry_on"` // statuses that are tried again; none means 408, 425, 429 and 5xx
	Ignore      Texts    `json:"ignore,omitzero" yaml:"ignore"`     // statuses that count as done, besides 2xx
	Sample      *float64 `json:"sample,omitzero" yaml:"sample"`     // takes this part of the resources; nil means all
	DryRun      bool     `json:"dry_run,omitzero" yaml:"dry_run"`   // does all but send
	MaxAge      string   `json:"max_age,omitzero" yaml:"max_age"`   // leaves out notices older than that; "" means none
	Allow       Texts    `json:"allow,omitzero" yaml:"allow"`       // networks it may call although they are not public
}

// Match says which notices are meant. The values of a field are alternatives, and
// each field that is set must agree. A value that begins with ^ is a regular
// expression (RE2), any other stands for itself.
type Match struct {
	URI    Texts `json:"uri,omitzero" yaml:"uri"`       // the URI without its aspect, which is what stands after #
	Prefix Texts `json:"prefix,omitzero" yaml:"prefix"` // everything under it, by whole path segments
	Host   Texts `json:"host,omitzero" yaml:"host"`
	Aspect Texts `json:"aspect,omitzero" yaml:"aspect"`
	Type   Texts `json:"type,omitzero" yaml:"type"`
	Bucket Texts `json:"bucket,omitzero" yaml:"bucket"`
	Kind   Texts `json:"kind,omitzero" yaml:"kind"`     // changed, refresh
	Lane   Texts `json:"lane,omitzero" yaml:"lane"`     // prompt, bulk
	Reason Texts `json:"reason,omitzero" yaml:"reason"` // edit, dependency, settled, …
	Change Texts `json:"change,omitzero" yaml:"change"` // created, updated, deleted
}

// Matches is one Match or a list of them.
type Matches []Match

// UnmarshalYAML reads a match, or a list of them.
func (m *Matches) UnmarshalYAML(decode func(any) error) error {
	var form any
	if err := decode(&form); err != nil {
		return err
	}
	if _, isList := form.([]any); isList {
		return decode((*[]Match)(m))
	}
	*m = Matches{{}}
	return decode(&(*m)[0])
}

// A Case is one of several requests of a sink, for the notices that it matches
// besides the sink's own match.
type Case struct {
	Match    Match   `json:"match,omitzero" yaml:"match"`
	MatchNot Matches `json:"match_not,omitzero" yaml:"match_not"`
	Action   `yaml:",inline"`
}

// An Action says what to send; exactly one of its fields is set. All but HTTP empty
// caches, and are ready-made forms of it.
type Action struct {
	HTTP         *HTTP  `json:"http,omitzero" yaml:"http"`
	Purge        *Purge `json:"purge,omitzero" yaml:"purge"`
	XKey         *Purge `json:"xkey,omitzero" yaml:"xkey"`
	SurrogateKey *Purge `json:"surrogate-key,omitzero" yaml:"surrogate-key"`
	Ban          *Purge `json:"ban,omitzero" yaml:"ban"`
}

// HTTP is a request. Its texts are templates: {name} stands for a named capture of
// the match or for a field of the notice.
type HTTP struct {
	Method  string            `json:"method,omitzero" yaml:"method"` // "" means GET, or POST with a body
	URL     string            `json:"url,omitzero" yaml:"url"`
	Headers map[string]string `json:"headers,omitzero" yaml:"headers"`
	JSON    any               `json:"json,omitzero" yaml:"json"` // a body
	Form    map[string]string `json:"form,omitzero" yaml:"form"` // a body
}

// Purge empties caches: of one URL for each resource (purge), or of all that is
// marked with a key (xkey, surrogate-key, ban), which costs one call where each
// variant of a page would cost one of its own.
type Purge struct {
	// Caches are called each for itself, as http://10.0.0.7:6081. What is purged is
	// named by the resource's own host and path.
	Caches Texts `json:"caches,omitzero" yaml:"caches"`
	// URL is a template, or several. A purge is of them, {url} without any, and asks
	// their own hosts if there are no caches; a key is sent to it instead of to caches.
	URL     Texts             `json:"url,omitzero" yaml:"url"`
	Method  string            `json:"method,omitzero" yaml:"method"`
	Header  string            `json:"header,omitzero" yaml:"header"` // which carries the key
	Key     string            `json:"key,omitzero" yaml:"key"`       // "" means {bucket}
	Headers map[string]string `json:"headers,omitzero" yaml:"headers"`
}

// Retry says when a call that failed is made again, and when it is given up. What
// is given up becomes a dead letter.
type Retry struct {
	After Texts `json:"after,omitzero" yaml:"after"` // how long after the first failure, the second, …
	Limit *int  `json:"limit,omitzero" yaml:"limit"` // attempts in all, the first among them; nil means as many as After has room for
}

// Summary says on one line what the sink does.
func (d Definition) Summary() string {
	var what []string
	for _, c := range append([]Case{{Action: d.Action}}, d.Cases...) {
		if s := c.Action.summary(); s != "" {
			what = append(what, s)
		}
	}
	text := strings.Join(what, "; ")
	if d.Group != "" {
		text += fmt.Sprintf(", stage %d of %s", d.Stage, d.Group)
	}
	if d.DryRun {
		text += ", dry run"
	}
	return text
}

func (a *Action) summary() string {
	if a.HTTP != nil {
		return words("http", a.HTTP.Method, shownURL(a.HTTP.URL))
	}
	for i, p := range []*Purge{a.Purge, a.XKey, a.SurrogateKey, a.Ban} {
		if p != nil {
			return words(presets[i].field, p.Method, strings.Join(shownURLs(p.URL), " "), strings.Join(p.Caches, " "))
		}
	}
	return ""
}
