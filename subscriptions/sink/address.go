package sink

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// An address is the template of a URL. What stands in it knows its place, and what
// comes out is checked: no value may lead to another host or out of its segment.
type address struct {
	whole bool     // it is the resource's own URL …
	root  bool     // … or the root of a cache, in the name of the resource's host
	host  template // with the port
	path  template // from the first slash to the query
	query template // with the ?
	front string   // scheme and slashes
}

// parseAddress reads the template of a URL.
func parseAddress(text string, known func(string) error) (*address, error) {
	if text == "{url}" || text == "{+url}" {
		return &address{whole: true}, nil
	}
	a := &address{}
	for _, front := range []string{"http://", "https://"} {
		if len(text) >= len(front) && strings.EqualFold(text[:len(front)], front) {
			a.front, text = front, text[len(front):]
		}
	}
	if a.front == "" {
		return nil, errors.New("it does not begin with http:// or https:// and is not {url}")
	}
	if strings.ContainsRune(text, '#') {
		return nil, errors.New("it has a #, which no server is sent")
	}
	text, query, asks := strings.Cut(text, "?")
	host, path := text, "/"
	if i := strings.IndexByte(text, '/'); i >= 0 {
		host, path = text[:i], text[i:]
	}
	var err error
	if a.host, err = parseTemplate(host, inHost, known); err != nil {
		return nil, err
	}
	for _, p := range a.host {
		if p.raw {
			return nil, fmt.Errorf("{+%s} stands where the host is; a path begins with a slash", p.name)
		}
	}
	if a.path, err = parseTemplate(path, inPath, known); err != nil {
		return nil, err
	}
	if asks {
		if a.query, err = parseTemplate("?"+query, inQuery, known); err != nil {
			return nil, err
		}
	}
	return a, a.checkLiterals()
}

var (
	literalHost = regexp.MustCompile(`^[A-Za-z0-9.:\[\]-]*$`)
	wholeHost   = regexp.MustCompile(`^([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)
	partOfHost  = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)
)

// checkLiterals looks at what the operator wrote himself.
func (a *address) checkLiterals() error {
	if len(a.host) == 0 {
		return errors.New("it has no host")
	}
	for _, p := range a.host {
		if strings.ContainsRune(p.text, '@') {
			return errors.New("it has a user or a password; put them into a header, as {file:PATH}")
		}
		if !literalHost.MatchString(p.text) {
			return fmt.Errorf("%.80q is not a host", p.text)
		}
	}
	if a.host.isLiteral() && !wholeHost.MatchString(a.host[0].text) {
		return fmt.Errorf("%.80q is not a host", a.host[0].text)
	}
	for set, t := range map[*charset]template{rawPath: a.path, literalQuery: a.query} {
		for _, p := range t {
			if string(appendRaw(nil, p.text, set)) != p.text {
				return fmt.Errorf("%.80q is to be percent-encoded", p.text)
			}
		}
	}
	if a.path.isLiteral() && hasDotSegment(a.path[0].text) {
		return errors.New("its path has dot segments")
	}
	return nil
}

// literalQuery is what an operator may write into a query.
var literalQuery = newCharset(among("-._~!$&'()*+,;=:@/?"))

// foreignHost reports whether the host comes from a notice, and so from a publisher.
func (a *address) foreignHost() bool {
	return a.whole || !a.root && !a.host.isLiteral()
}

var (
	errNoURL     = errors.New("the resource has no address of http or https")
	errDots      = errors.New("a value makes dot segments, which lead to another path")
	errEmpty     = errors.New("it is empty, and the path would be another one")
	errHost      = errors.New("a value makes no host")
	errHostValue = errors.New("it cannot be a part of a host")
)

// render returns the URL to call and, if it is not the URL's own, the value of the
// Host header. A cache, nil for none, is asked for the URL in the name of its host.
func (a *address) render(s *subject, cache *url.URL) (to, host string, err error) {
	if a.root {
		// What is marked with a key need not be on the web.
		_, host, _ := webAddress(s.url())
		return cache.String() + "/", host, nil
	}
	to = s.url()
	if !a.whole {
		if to, err = a.renderTemplate(s); err != nil {
			return "", "", err
		}
	}
	tail, host, ok := webAddress(to)
	switch {
	case !ok:
		return "", "", errNoURL
	case cache == nil:
		return to, "", nil
	}
	return cache.String() + tail, host, nil
}

// webAddress parts the URL of a web page in its path, with the query, and its host.
func webAddress(text string) (tail, host string, ok bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", "", false
	}
	tail = text[len(u.Scheme)+len("://"):]
	at := strings.IndexAny(tail, "/?")
	if at < 0 {
		at = len(tail)
	}
	if tail = tail[at:]; !strings.HasPrefix(tail, "/") {
		tail = "/" + tail
	}
	return tail, u.Host, true
}

// renderTemplate writes the URL.
func (a *address) renderTemplate(s *subject) (string, error) {
	b := []byte(a.front)
	for i := range a.host {
		p := &a.host[i]
		if p.name == "" {
			b = append(b, p.text...)
			continue
		}
		v := s.value(p.name).text()
		if len(a.host) > 1 && !partOfHost.MatchString(v) {
			return "", fmt.Errorf("{%s}: %w", p.name, errHostValue)
		}
		b = append(b, v...)
	}
	if !wholeHost.Match(b[len(a.front):]) {
		return "", errHost
	}
	start := len(b)
	b, err := a.appendPath(b, s)
	if err != nil {
		return "", err
	}
	if hasDotSegment(string(b[start:])) {
		return "", errDots
	}
	b, err = a.query.append(b, s)
	return string(b), err
}

// appendPath writes the path. A segment that is but one value must not come out
// empty: DELETE /page/{title} is not to become DELETE /page/.
func (a *address) appendPath(b []byte, s *subject) ([]byte, error) {
	for i := range a.path {
		before := len(b)
		var err error
		if b, err = a.path[i:i+1].append(b, s); err != nil {
			return b, err
		}
		ends := i+1 == len(a.path) || strings.HasPrefix(a.path[i+1].text, "/")
		if len(b) == before && b[before-1] == '/' && ends {
			return b, fmt.Errorf("{%s}: %w", a.path[i].name, errEmpty)
		}
	}
	return b, nil
}

// hasDotSegment reports whether a path has a segment that is . or .., or means it.
// Source: RFC 3986 section 5.2.4.
func hasDotSegment(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if len(segment) > len("%2e%2e") {
			continue
		}
		if s := unescape(segment); s == "." || s == ".." {
			return true
		}
	}
	return false
}
