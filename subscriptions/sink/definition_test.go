package sink

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// read decodes a list of sinks as a configuration file has it.
func read(t testing.TB, text string) []Definition {
	t.Helper()
	var c struct {
		Sinks []Definition `yaml:"sinks"`
	}
	if err := yaml.NewDecoder(bytes.NewReader([]byte(text)), yaml.Strict()).Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c.Sinks
}

// compile reads and checks sinks that are right.
func compile(t testing.TB, text string) []*Sink {
	t.Helper()
	sinks, _, err := Compile(read(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return sinks
}

// refused are sinks that cannot be used: the field to blame, and what is said of it.
var refused = []struct{ name, text, field, reason string }{
	{"no name", `{purge: {}}`, "name", "not a name"},
	{"a name in capitals", `{name: A, purge: {}}`, "name", "not a name"},
	{"a name that is an address", `{name: test, purge: {}}`, "name", "address"},
	{"a secret for a host", `{name: a, http: {url: "https://a.example/", headers: {Host: "{env:HOME}"}}}`, "http.headers.Host", "no secret"},
	{"nothing to send", `{name: a}`, "", "says not what to send"},
	{"two things to send", `{name: a, purge: {}, http: {url: "https://a.example"}}`, "purge", "http is there already"},
	{"cases and something to send", `{name: a, purge: {}, cases: [{purge: {}}]}`, "cases", "already"},
	{"nothing to send in a case", `{name: a, cases: [{purge: {}}, {match: {type: a}}]}`, "cases[1]", "says not what"},
	{"a pattern that is none", `{name: a, match: {uri: "^(a"}, purge: {}}`, "match.uri", "missing closing"},
	{"a pattern among others", `{name: a, match: {uri: ["^a", "^(a"]}, purge: {}}`, "match.uri[1]", "missing closing"},
	{"a pattern that looks back", `{name: a, match: {uri: '^(a)\1'}, purge: {}}`, "match.uri", "invalid escape"},
	{"a pattern of an aspect", `{name: a, match: {uri: '^https://a.example/(.+)#html'}, purge: {}}`, "match.uri", "aspect"},
	{"a URI with an aspect", `{name: a, match: {uri: 'https://a.example/b#html'}, purge: {}}`, "match.uri", "aspect"},
	{"a URI that names nothing", `{name: a, match: {uri: 'https://A.example/'}, purge: {}}`, "match.uri", "lower case"},
	{"an empty value", `{name: a, match: {type: ""}, purge: {}}`, "match.type", "empty"},
	{"a name captured twice", `{name: a, match: {uri: '^(?P<a>.)(?P<a>.)'}, purge: {}}`, "match.uri", "captured twice"},
	{"a name captured by two fields", `{name: a, match: {uri: '^(?P<a>.)', type: '^(?P<a>.)'}, purge: {}}`, "match.uri", "another field"},
	{"a name captured by match and case", `{name: a, match: {uri: '^(?P<a>.)'}, cases: [{match: {type: '^(?P<a>.)'}, purge: {}}]}`, "cases[0].match", "already"},
	{"a capture of a field's name", `{name: a, match: {uri: '^(?P<url>.)'}, purge: {}}`, "match.uri", "field of the notice"},
	{"an unknown kind", `{name: a, match: {kind: changes}, purge: {}}`, "match.kind", "changed, refresh"},
	{"an unknown reason", `{name: a, match: {reason: [edit, foo]}, purge: {}}`, "match.reason[1]", "dependency"},
	{"an unknown change", `{name: a, match: {change: moved}, purge: {}}`, "match.change", "created"},
	{"an unknown lane", `{name: a, match: {lane: slow}, purge: {}}`, "match.lane", "bulk"},
	{"a prefix that names nothing", `{name: a, match: {prefix: 'https://a.example:443/'}, purge: {}}`, "match.prefix", "port"},
	{"a match_not that asks nothing", `{name: a, match_not: {}, purge: {}}`, "match_not", "everything"},
	{"a match_not among others", `{name: a, match_not: [{type: a}, {kind: b}], purge: {}}`, "match_not[1].kind", "none of"},
	{"no URL", `{name: a, http: {method: GET}}`, "http.url", "where"},
	{"a URL of another scheme", `{name: a, http: {url: "ftp://a.example/"}}`, "http.url", "http://"},
	{"a scheme from outside", `{name: a, http: {url: "{type}://a.example/"}}`, "http.url", "http://"},
	{"a URL without host", `{name: a, http: {url: "https:///a"}}`, "http.url", "no host"},
	{"a URL with a password", `{name: a, http: {url: "https://a:b@a.example/"}}`, "http.url", "password"},
	{"a URL with a fragment", `{name: a, http: {url: "https://a.example/#b"}}`, "http.url", "#"},
	{"a URL with a space", `{name: a, http: {url: "https://a.example/a b"}}`, "http.url", "percent-encoded"},
	{"a URL with dots", `{name: a, http: {url: "https://a.example/a/../b"}}`, "http.url", "dot segments"},
	{"a path that begins in the host", `{name: a, http: {url: "https://a.example{+path}"}}`, "http.url", "host"},
	{"an unknown name", `{name: a, http: {url: "https://a.example/{title}"}}`, "http.url", "nothing is captured"},
	{"a name of another form", `{name: a, http: {url: "https://a.example/{{message.meta.uri}}"}}`, "http.url", "not {name}"},
	{"a brace alone", `{name: a, http: {url: "https://a.example/{title"}}`, "http.url", "not closed"},
	{"a name that one value does not capture", `{name: a, match: {uri: ['^https://a/(?P<t>.)', '^https://b/']}, http: {url: "https://a.example/{t}"}}`, "http.url", "every value"},
	{"a method in small letters", `{name: a, http: {url: "https://a.example/", method: purge}}`, "http.method", "not a method"},
	{"a tunnel", `{name: a, http: {url: "https://a.example/", method: CONNECT}}`, "http.method", "not a method"},
	{"two bodies", `{name: a, http: {url: "https://a.example/", json: {}, form: {}}}`, "http.form", "already"},
	{"an unknown name in a body", `{name: a, http: {url: "https://a.example/", json: {a: [b, "{foo}"]}}}`, "http.json.a.[1]", "unknown"},
	{"an unknown name in a form", `{name: a, http: {url: "https://a.example/", form: {a: "{foo}"}}}`, "http.form.a", "unknown"},
	{"a header with a line end", `{name: a, http: {url: "https://a.example/", headers: {X-A: "a\r\nB: c"}}}`, "http.headers.'X-A'", "control"},
	{"a header's name with a space", `{name: a, http: {url: "https://a.example/", headers: {"X A": b}}}`, "http.headers.'X A'", "name of a header"},
	{"a header of the connection", `{name: a, http: {url: "https://a.example/", headers: {Transfer-Encoding: chunked}}}`, "http.headers.'Transfer-Encoding'", "connection"},
	{"a header twice", `{name: a, http: {url: "https://a.example/", headers: {X-A: a, x-a: b}}}`, "http.headers.'x-a'", "twice"},
	{"a secret that is not there", `{name: a, http: {url: "https://a.example/", headers: {A: "{env:NO_SUCH_VARIABLE}"}}}`, "http.headers.A", "not set"},
	{"a secret that breaks the line", `{name: a, http: {url: "https://a.example/", headers: {A: "{env:A_SECRET}"}}}`, "http.headers.A", "control"},
	{"a secret of a case that is not there", `{name: a, cases: [{purge: {headers: {A: "{env:NO_SUCH_VARIABLE}"}}}]}`, "cases[0].purge.headers.A", "not set"},
	{"a file that is not there", `{name: a, http: {url: "https://a.example/", headers: {A: "{file:DIR/no}"}}}`, "http.headers.A", "no such file"},
	{"a file that is empty", `{name: a, http: {url: "https://a.example/", headers: {A: "{file:DIR/empty}"}}}`, "http.headers.A", "empty"},
	{"a secret in a URL", `{name: a, http: {url: "https://a.example/?k={env:PATH}"}}`, "http.url", "only stand in a header"},
	{"a secret in a body", `{name: a, http: {url: "https://a.example/", json: {k: "{env:PATH}"}}}`, "http.json.k", "only stand in a header"},
	{"a secret beside a value", `{name: a, http: {url: "https://a.example/", headers: {A: "{type} {env:HOME}"}}}`, "http.headers.A", "header of its own"},
	{"nowhere to purge", `{name: a, xkey: {}}`, "xkey", "caches"},
	{"a key for caches and a URL", `{name: a, xkey: {caches: "http://a.example", url: "http://b.example/"}}`, "xkey.url", "already"},
	{"a key for two URLs", `{name: a, xkey: {url: ["http://a.example/", "http://b.example/"]}}`, "xkey.url", "one URL"},
	{"a fault in one of two URLs", `{name: a, purge: {url: ["{url}", "https://b.example/{foo}"]}}`, "purge.url[1]", "unknown"},
	{"a cache with a path", `{name: a, purge: {caches: ["http://a.example", "http://b.example/c"]}}`, "purge.caches[1]", "HOST:PORT"},
	{"a cache with a password", `{name: a, purge: {caches: "http://a:b@a.example"}}`, "purge.caches", "HOST:PORT"},
	{"a cache twice", `{name: a, purge: {caches: ["http://a.example", "http://a.example/"]}}`, "purge.caches[1]", "twice"},
	{"a key of a purge by URL", `{name: a, purge: {key: a}}`, "purge.key", "no key"},
	{"a key that is always the same", `{name: a, xkey: {caches: "http://a.example", key: a}}`, "xkey.key", "same"},
	{"a fault in a surrogate key", `{name: a, surrogate-key: {url: "https://a.example/", method: "a b"}}`, "surrogate-key.method", "not a method"},
	{"a timeout without unit", `{name: a, purge: {}, timeout: "5"}`, "timeout", "duration"},
	{"a timeout too long", `{name: a, purge: {}, timeout: 1h}`, "timeout", "more than"},
	{"a negative age", `{name: a, purge: {}, max_age: -1h}`, "max_age", "duration"},
	{"a negative rate", `{name: a, purge: {}, rate: -1}`, "rate", "calls a second"},
	{"a rate that is no number", `{name: a, purge: {}, rate: .nan}`, "rate", "calls a second"},
	{"too many at once", `{name: a, purge: {}, concurrency: 1000}`, "concurrency", "256"},
	{"a sample of nothing", `{name: a, purge: {}, sample: 0}`, "sample", "part of 1"},
	{"a sample of more than all", `{name: a, purge: {}, sample: 10}`, "sample", "part of 1"},
	{"a status that is none", `{name: a, purge: {}, retry_on: [429, 4x]}`, "retry_on[1]", "not a status"},
	{"a status beyond all", `{name: a, purge: {}, ignore: 6xx}`, "ignore", "not a status"},
	{"a status in both", `{name: a, purge: {}, retry_on: 5xx, ignore: 503}`, "ignore", "503"},
	{"a network that is none", `{name: a, purge: {}, allow: 10.0.0.1}`, "allow", "network"},
	{"a pause that is none", `{name: a, purge: {}, retry: {after: [5s, 1x]}}`, "retry.after[1]", "duration"},
	{"no attempt", `{name: a, purge: {}, retry: {limit: 0}}`, "retry.limit", "attempts"},
	{"a group without stage", `{name: a, purge: {}, group: g}`, "stage", "belong together"},
	{"a stage without group", `{name: a, purge: {}, stage: 1}`, "stage", "belong together"},
	{"a group of one stage", `{name: a, purge: {}, group: g, stage: 1}`, "group", "one stage alone"},
	{"a group without first stage", `{name: a, purge: {}, group: g, stage: 2}`, "stage", "no stage 1"},
	{"networks opened to hosts that publishers name", `{name: a, purge: {}, allow: 10.0.0.0/8}`, "match", "name the hosts"},
}

func TestWhatCannotBeUsedIsRefusedWithSinkAndField(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "empty"), []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("A_SECRET", "s3cr3t\nX-Injected: 1")
	for _, tt := range refused {
		t.Run(tt.name, func(t *testing.T) {
			sinks, _, err := Compile(read(t, "sinks:\n  - {name: fine, purge: {}}\n  - "+strings.ReplaceAll(tt.text, "DIR", dir)+"\n"))
			if err == nil {
				err = CheckSecrets(sinks)
			}
			var e *Error
			if !errors.As(err, &e) || e.Index != 1 || e.Field != tt.field || !strings.Contains(e.Reason, tt.reason) {
				t.Errorf("got %v, %+v; want field %q and %q", err, e, tt.field, tt.reason)
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

func TestNamesAreUniqueAndStagesHaveNoGaps(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a name twice", "- {name: a, purge: {}}\n- {name: a, purge: {}}", `sink "a": name: another`},
		{"a gap", "- {name: a, purge: {}, group: g, stage: 1}\n- {name: b, purge: {}, group: g, stage: 2}\n- {name: c, purge: {}, group: g, stage: 4}", `sink "c": stage: group "g" has no stage 3`},
	} {
		if _, _, err := Compile(read(t, "sinks:\n"+tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	sinks := compile(t, `sinks:
- {name: a, group: g, stage: 1, purge: {caches: "http://a.example"}}
- {name: b, group: g, stage: 1, purge: {caches: "http://b.example"}}
- {name: c, group: g, stage: 2, surrogate-key: {url: "https://c.example/"}}`)
	if !sinks[0].byBucket || !sinks[1].byBucket {
		t.Error("a stage by URL does not wait by bucket as the other does")
	}
}

func TestAnOperatorIsToldOfWhatMayNotBeMeant(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a purge on refresh", `{name: a, match: {kind: refresh, type: html}, purge: {}}`, "on refresh"},
		{"a purge on both", `{name: a, match: {kind: [changed, refresh], type: html}, purge: {}}`, "on refresh"},
		{"a purge on refresh in a case", `{name: a, match: {type: html}, cases: [{match: {kind: refresh}, purge: {}}]}`, "cases[0]: it empties"},
		{"a purge on changes of anything", `{name: a, purge: {}}`, "Name the renderings"},
		{"a secret as it is", `{name: a, match: {type: html}, purge: {headers: {Fastly-Key: abc}}}`, "Fastly-Key"},
		{"a purge of renderings", `{name: a, match: {type: html}, purge: {headers: {Fastly-Key: "{env:HOME}"}}}`, ""},
		{"a call on refresh", `{name: a, match: {kind: refresh}, http: {url: "{url}"}}`, ""},
	} {
		_, warnings, err := Compile(read(t, "sinks: ["+tt.text+"]"))
		if err != nil {
			t.Fatal(err)
		}
		if len(warnings) > 1 || len(warnings) == 1 != (tt.want != "") || tt.want != "" && !strings.Contains(warnings[0].String(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, warnings, tt.want)
		}
	}
}

func TestNoSecretIsShown(t *testing.T) {
	t.Setenv("CDN_KEY", "s3cr3t-of-the-environment")
	defs := read(t, `sinks:
- name: a
  match: {type: html}
  cases:
  - http:
      url: "https://a.example/?token=s3cr3t&lang=de"
      headers: {Authorization: Bearer s3cr3t, Fastly-Key: "{env:CDN_KEY}", X-Title: "{type}"}
      json: {api_key: s3cr3t, list: [{password: s3cr3t, b: "{uri}"}]}
  - match: {kind: changed}
    surrogate-key: {url: "https://a.example/", headers: {Cookie: s3cr3t}}
`)
	sinks, _, err := Compile(defs)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := yaml.MarshalWithOptions(sinks[0].Shown(), yaml.JSON())
	if err != nil {
		t.Fatal(err)
	}
	n := notice("https://a.example/b", "html")
	for _, text := range []string{string(shown), asJSON(t, sinks[0].Try(n, n.At))} {
		if strings.Contains(text, "s3cr3t") {
			t.Errorf("a secret is shown: %s", text)
		}
	}
	if text := string(shown); !strings.Contains(text, "{env:CDN_KEY}") || !strings.Contains(text, "lang=de") || !strings.Contains(text, "{uri}") {
		t.Errorf("what is no secret is hidden: %s", text)
	}
	if defs[0].Cases[0].HTTP.Headers["Authorization"] != "Bearer s3cr3t" {
		t.Error("to show a definition changes it")
	}
}
