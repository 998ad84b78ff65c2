package sink

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/freshwire/freshwire/subscriptions"
)

// maxRequest bounds a rendered request in bytes, header and body together: servers
// take no longer headers, and what is longer came from a publisher who means harm.
const maxRequest = 64 << 10

// An action is a compiled Action: the requests that one notice becomes, one for each
// target, and for each of its buckets if they name it.
type action struct {
	section string // of the definition: http, purge, …
	method  string
	urls    []*address // a notice makes a request of each …
	caches  []*url.URL // … to each of these; none is to the URL's own host
	headers []header
	body    *node           // nil if there is none
	form    []header        // nil if there is none
	media   string          // of the body
	host    template        // of a Host header that the operator set
	names   map[string]bool // that stand in the request
	cdn     bool            // it empties a cache
}

type header struct {
	name string
	text template
}

// preset is what a short form of an action stands for.
type preset struct {
	field          string
	method, header string
	url            string // of each cache: the resource's own, or the root
	key            place  // how the key is written
	before, after  string // around the key
}

// presets are the short forms.
// Source: xkey: the header of vmod_xkey's own example. surrogate-key: Fastly's purge
// API, which takes keys from a header. ban: FOSHttpCache's VCL, which bans what has a
// header X-Cache-Tags that matches a regular expression.
var presets = []preset{
	{field: "purge", method: "PURGE", url: "{url}"},
	{field: "xkey", method: "PURGE", header: "xkey-purge", key: inKey},
	{field: "surrogate-key", method: http.MethodPost, header: "Surrogate-Key", key: inKey},
	{field: "ban", method: "BAN", header: "X-Cache-Tags", key: inBan,
		before: `(?:^|[\s,])`, after: `(?:$|[\s,])`},
}

// compileAction checks a; captures are the names that its match has.
func compileAction(a *Action, captures map[string]bool) (*action, error) {
	short := map[string]*Purge{"purge": a.Purge, "xkey": a.XKey, "surrogate-key": a.SurrogateKey, "ban": a.Ban}
	var found []string
	if a.HTTP != nil {
		found = append(found, "http")
	}
	for _, p := range presets {
		if short[p.field] != nil {
			found = append(found, p.field)
		}
	}
	switch {
	case len(found) == 0:
		return nil, fault("", "it says not what to send: name one of http, purge, xkey, surrogate-key, ban")
	case len(found) > 1:
		return nil, fault(found[1], "%s is there already; a sink sends one thing, or has cases", found[0])
	}
	c := compiler{captures}
	if a.HTTP != nil {
		act, err := c.compileHTTP(a.HTTP)
		return act.of("http"), under("http", err)
	}
	p := presets[slices.IndexFunc(presets, func(p preset) bool { return p.field == found[0] })]
	act, err := c.compilePurge(&p, short[p.field])
	return act.of(p.field), under(p.field, err)
}

type compiler struct{ captures map[string]bool }

// known reports names that templates may use.
func (c compiler) known(name string) error {
	always, captured := c.captures[name]
	if captured && !always {
		return fmt.Errorf("{%s} is not captured by every value of its field", name)
	}
	if captured || fields[name] != nil {
		return nil
	}
	var have []string
	have = slices.AppendSeq(have, maps.Keys(c.captures))
	slices.Sort(have)
	text := "nothing is captured"
	if len(have) > 0 {
		text = "captured is " + strings.Join(have, ", ")
	}
	return fmt.Errorf("{%s} is unknown: %s, and a notice has %s", name, text,
		strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
}

var (
	methodName = regexp.MustCompile(`^[A-Z][A-Z-]{0,31}$`)
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")
	// own are headers that belong to the connection, or that the body decides.
	own = []string{"connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)

func (c compiler) compileHTTP(h *HTTP) (*action, error) {
	a := new(action)
	if h.JSON != nil && h.Form != nil {
		return nil, fault("form", "there is a json body already")
	}
	def := http.MethodGet
	var err error
	switch {
	case h.JSON != nil:
		def, a.media = http.MethodPost, "application/json"
		if a.body, err = c.compileNode(h.JSON); err != nil {
			return nil, under("json", err)
		}
	case h.Form != nil:
		def, a.media = http.MethodPost, "application/x-www-form-urlencoded"
		if a.form, err = c.compilePairs(h.Form, inForm); err != nil {
			return nil, under("form", err)
		}
	}
	if a.method, err = checkMethod(cmp.Or(h.Method, def)); err != nil {
		return nil, err
	}
	if h.URL == "" {
		return nil, fault("url", "say where the request goes")
	}
	if err := c.compileURLs(a, Texts{h.URL}); err != nil {
		return nil, err
	}
	return a, c.compileHeaders(a, h.Headers)
}

func checkMethod(method string) (string, error) {
	if !methodName.MatchString(method) || method == http.MethodConnect {
		return "", fault("method", "%.40q is not a method, such as PURGE", method)
	}
	return method, nil
}

func (c compiler) compilePurge(p *preset, d *Purge) (*action, error) {
	a := &action{cdn: true}
	var err error
	if a.method, err = checkMethod(cmp.Or(d.Method, p.method)); err != nil {
		return nil, err
	}
	switch urls := d.URL; {
	case p.url == "" && len(d.Caches) > 0 && len(urls) > 0:
		return nil, fault("url", "there are caches already: a key is sent to them, or to one URL")
	case p.url == "" && len(urls) > 1:
		return nil, fault("url", "a key is sent to one URL, or to caches")
	case p.url == "" && len(urls)+len(d.Caches) == 0:
		return nil, fault("", "say where it goes: caches: [http://10.0.0.7:6081], or url:")
	case p.url == "" && len(urls) == 0:
		a.urls = []*address{{root: true}}
	case len(urls) == 0:
		err = c.compileURLs(a, Texts{p.url})
	default:
		err = c.compileURLs(a, urls)
	}
	if err != nil {
		return nil, err
	}
	for i, text := range d.Caches {
		cache, err := parseCache(text)
		if err != nil {
			return nil, under(indexed("caches", i, d.Caches), err)
		}
		if a.cache(cache.Host) != nil {
			return nil, fault(indexed("caches", i, d.Caches), "it is there twice")
		}
		a.caches = append(a.caches, cache)
	}
	if err := c.compileKey(p, d, a); err != nil {
		return nil, err
	}
	return a, c.compileHeaders(a, d.Headers)
}

// maxURLs bounds the URLs of one purge: a notice makes as many calls.
const maxURLs = 16

// compileURLs reads what is called, or purged.
func (c compiler) compileURLs(a *action, urls Texts) error {
	if len(urls) > maxURLs {
		return fault("url", "more than %d", maxURLs)
	}
	for i, text := range urls {
		to, err := parseAddress(text, c.known)
		if err != nil {
			return under(indexed("url", i, urls), err)
		}
		a.urls = append(a.urls, to)
	}
	return nil
}

// cache returns the cache of a target, nil if it is none.
func (a *action) cache(target string) *url.URL {
	for _, c := range a.caches {
		if c.Host == target {
			return c
		}
	}
	return nil
}

// targets are those that the action calls: its caches, or "" for what is called by URL.
func (a *action) targets() []string {
	if len(a.caches) == 0 {
		return []string{""}
	}
	list := make([]string, len(a.caches))
	for i, c := range a.caches {
		list[i] = c.Host
	}
	return list
}

// calls reports whether a target is one of the action's.
func (a *action) calls(target string) bool {
	return target == "" && len(a.caches) == 0 || a.cache(target) != nil
}

// foreignHost reports whether a notice, and so a publisher, says whom to call.
func (a *action) foreignHost() bool {
	return len(a.caches) == 0 && slices.ContainsFunc(a.urls, (*address).foreignHost)
}

// compileKey makes the header that carries the key.
func (c compiler) compileKey(p *preset, d *Purge, a *action) error {
	if p.header == "" {
		if d.Header != "" || d.Key != "" {
			return fault(cmp.Or(map[bool]string{true: "header"}[d.Header != ""], "key"), "a purge by URL has no key; write xkey, surrogate-key or ban")
		}
		return nil
	}
	name := cmp.Or(d.Header, p.header)
	if !headerName.MatchString(name) {
		return fault("header", "%.80q is not the name of a header", name)
	}
	key, err := parseTemplate(cmp.Or(d.Key, "{bucket}"), p.key, c.known)
	if err != nil {
		return under("key", err)
	}
	if key.isLiteral() {
		return fault("key", "it is the same for all resources")
	}
	if p.key == inBan {
		for i := range key {
			if key[i].name == "" {
				key[i].text = regexp.QuoteMeta(key[i].text)
			}
		}
	}
	t := append(template{{text: p.before}}, append(key, part{text: p.after})...)
	a.headers = append(a.headers, header{name, t})
	return nil
}

// parseCache reads the address of one cache.
func parseCache(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || !wholeHost.MatchString(u.Host) || u.User != nil ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%.200q is not of the form http://HOST:PORT", text)
	}
	u.Path = ""
	return u, nil
}

// compileHeaders adds the operator's headers.
func (c compiler) compileHeaders(a *action, headers map[string]string) error {
	list, err := c.compilePairs(headers, inHeader)
	if err != nil {
		return under("headers", err)
	}
	for _, h := range list {
		field := "headers." + quoteKey(h.name)
		name := strings.ToLower(h.name)
		switch {
		case !headerName.MatchString(h.name):
			return fault(field, "it is not the name of a header")
		case slices.Contains(own, name):
			return fault(field, "it belongs to the connection and cannot be set")
		case slices.ContainsFunc(a.headers, func(o header) bool { return strings.EqualFold(o.name, name) }):
			return fault(field, "it is there twice")
		case h.text.hasSecret() && slices.ContainsFunc(h.text, func(p part) bool { return p.name != "" }):
			return fault(field, "a secret stands beside values of notices; give it a header of its own")
		case name == "host" && h.text.hasSecret():
			return fault(field, "a host is no secret")
		case slices.ContainsFunc(h.text, func(p part) bool { return hasControl(p.text) }):
			return fault(field, "it has a control character")
		}
		if name == "host" {
			a.host = h.text
			continue
		}
		a.headers = append(a.headers, h)
	}
	return nil
}

// compilePairs reads names and templates, sorted by name.
func (c compiler) compilePairs(pairs map[string]string, at place) ([]header, error) {
	list := []header{}
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		t, err := parseTemplate(pairs[name], at, c.known)
		if err != nil {
			return nil, under(quoteKey(name), err)
		}
		for i := range t {
			if at == inForm {
				t[i].text = string(appendEscaped(nil, t[i].text, unreserved))
			}
		}
		list = append(list, header{name, t})
	}
	return list, nil
}

// quoteKey writes a key of a mapping as YAML paths have it.
func quoteKey(name string) string {
	if strings.ContainsAny(name, ".-[]' ") {
		return "'" + strings.ReplaceAll(name, "'", "") + "'"
	}
	return name
}

// of says in which section of the definition a stands, and notes the names that stand
// in the request.
func (a *action) of(section string) *action {
	if a == nil {
		return nil
	}
	a.section, a.names = section, map[string]bool{}
	for _, to := range a.urls {
		to.host.collect(a.names)
		to.path.collect(a.names)
		to.query.collect(a.names)
		if to.whole {
			a.names["url"] = true
		}
	}
	a.host.collect(a.names)
	for _, h := range slices.Concat(a.headers, a.form) {
		h.text.collect(a.names)
	}
	if a.body != nil {
		a.body.collect(a.names)
	}
	return a
}

// perBucket reports whether the request is made once for each bucket.
func (a *action) perBucket() bool { return a.names["bucket"] }

// namesOnly reports whether no names stand in the request but these.
func (a *action) namesOnly(names ...string) bool {
	for name := range a.names {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

// A node is a part of a JSON body: a constant, a text, a list, an object, or what a
// notice has whole.
type node struct {
	constant any
	text     template
	list     []*node
	members  []member
	special  string // "notice", "buckets"
	kind     byte   // 'c', 't', 'l', 'o', 's'
}

type member struct {
	name  string
	value *node
}

func (c compiler) compileNode(v any) (*node, error) {
	switch v := v.(type) {
	case string:
		if v == "{notice}" || v == "{buckets}" {
			return &node{kind: 's', special: strings.Trim(v, "{}")}, nil
		}
		t, err := parseTemplate(v, inJSON, c.known)
		return &node{kind: 't', text: t}, err
	case []any:
		n := &node{kind: 'l'}
		for i, e := range v {
			child, err := c.compileNode(e)
			if err != nil {
				return nil, under(fmt.Sprintf("[%d]", i), err)
			}
			n.list = append(n.list, child)
		}
		return n, nil
	case map[string]any:
		n := &node{kind: 'o'}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			child, err := c.compileNode(v[name])
			if err != nil {
				return nil, under(quoteKey(name), err)
			}
			n.members = append(n.members, member{name, child})
		}
		return n, nil
	}
	if _, err := json.Marshal(v); err != nil {
		return nil, errors.New("it cannot be written as JSON")
	}
	return &node{kind: 'c', constant: v}, nil
}

// collect notes the names that stand in n.
func (n *node) collect(names map[string]bool) {
	if n.special != "" {
		names[n.special] = true
	}
	n.text.collect(names)
	for _, e := range n.list {
		e.collect(names)
	}
	for _, m := range n.members {
		m.value.collect(names)
	}
}

// render returns what is to be marshalled.
func (n *node) render(s *subject) (any, error) {
	switch n.kind {
	case 't':
		b, err := n.text.append(nil, s)
		return string(b), err
	case 'l':
		list := make([]any, 0, len(n.list))
		for _, e := range n.list {
			v, err := e.render(s)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case 'o':
		object := make(map[string]any, len(n.members))
		for _, m := range n.members {
			v, err := m.value.render(s)
			if err != nil {
				return nil, err
			}
			object[m.name] = v
		}
		return object, nil
	case 's':
		if n.special == "notice" {
			return json.RawMessage(subscriptions.AppendNotice(nil, s.notice)), nil
		}
		return append([]string{}, s.notice.Buckets...), nil
	}
	return n.constant, nil
}

// A Call is a request as it would be sent, but for its secrets, which are read when
// it is.
type Call struct {
	Method  string
	URL     string
	Host    string // of the Host header, "" if it is that of the URL
	Headers [][2]string
	Body    string
	secrets []header
}

// render makes the request to a target.
func (a *action) render(target string, s *subject) (*Call, error) {
	c := &Call{Method: a.method}
	var err error
	if c.URL, c.Host, err = a.urls[s.index].render(s, a.cache(target)); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if len(a.host) > 0 {
		b, err := a.host.append(nil, s)
		if err != nil || !wholeHost.Match(b) {
			return nil, fmt.Errorf("header Host: %w", cmp.Or(err, errHost))
		}
		c.Host = string(b)
	}
	size := len(c.URL) + len(c.Host)
	for _, h := range a.headers {
		if h.text.hasSecret() {
			c.secrets = append(c.secrets, h)
			continue
		}
		b, err := h.text.append(nil, s)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", h.name, err)
		}
		c.Headers = append(c.Headers, [2]string{h.name, string(b)})
		size += len(h.name) + len(b)
	}
	if err := a.renderBody(c, s); err != nil {
		return nil, err
	}
	if size+len(c.Body) > maxRequest {
		return nil, fmt.Errorf("it is longer than %d bytes", maxRequest)
	}
	return c, nil
}

func (a *action) renderBody(c *Call, s *subject) error {
	switch {
	case a.body != nil:
		v, err := a.body.render(s)
		if err != nil {
			return fmt.Errorf("json: %w", err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("json: %w", err)
		}
		c.Body = string(b)
	case a.form != nil:
		var b []byte
		for i, f := range a.form {
			if i > 0 {
				b = append(b, '&')
			}
			b = append(appendEscaped(b, f.name, unreserved), '=')
			var err error
			if b, err = f.text.append(b, s); err != nil {
				return fmt.Errorf("form %s: %w", f.name, err)
			}
		}
		c.Body = string(b)
	default:
		return nil
	}
	if !slices.ContainsFunc(c.Headers, func(h [2]string) bool { return strings.EqualFold(h[0], "Content-Type") }) {
		c.Headers = append(c.Headers, [2]string{"Content-Type", a.media})
	}
	return nil
}

// request makes what is sent, but for the secrets: a confidant adds those.
func (c *Call) request(ctx context.Context) (*http.Request, error) {
	if len(c.secrets) > 0 {
		ctx = context.WithValue(ctx, secretsKey{}, c.secrets)
	}
	r, err := http.NewRequestWithContext(ctx, c.Method, c.URL, strings.NewReader(c.Body))
	if err != nil {
		return nil, errors.New("the URL cannot be read")
	}
	if c.Body == "" {
		r.Body, r.GetBody, r.ContentLength = http.NoBody, nil, 0
	}
	r.Host = cmp.Or(c.Host, r.URL.Host)
	r.Header.Set("User-Agent", "freshwire")
	for _, h := range c.Headers {
		r.Header.Set(h[0], h[1])
	}
	return r, nil
}
