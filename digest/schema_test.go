package digest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program finds a program that is installed. Without it the test is skipped, but not
// in continuous integration.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path
	case os.Getenv("CI") == "true":
		t.Fatalf("%s is not installed; make setup installs it on Debian", name)
	}
	t.Skipf("%s is not installed; make setup installs it on Debian", name)
	return ""
}

// validate checks a document with xmllint: that it is well-formed, and if schema is not
// "" also by that.
func validate(t *testing.T, schema string, document []byte) error {
	t.Helper()
	args := []string{"--noout", "--nonet"}
	if schema != "" {
		args = append(args, "--relaxng", filepath.Join("testdata", schema))
	}
	cmd := exec.Command(program(t, "xmllint"), append(args, "-")...)
	cmd.Stdin = bytes.NewReader(document)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %.2000s", err, out)
	}
	return nil
}

// schemaOf is that of a document of XML, by its address.
func schemaOf(address string) string {
	switch {
	case strings.HasSuffix(address, ".atom"):
		return "atom.rng"
	case strings.HasSuffix(address, ".xml"), strings.HasSuffix(address, "/resourcesync"):
		return "resourcesync.rng"
	}
	return ""
}

func TestAllDocumentsOfXMLAreValid(t *testing.T) {
	gaps := fill(t, 9, make([][]Entry, 3))
	for i, reason := range []string{Missed, Trimmed, Reconcile} {
		gaps.front.hours[i].Complete, gaps.front.hours[i].Reason = false, reason
	}
	gaps.refresh()
	for what, s := range map[string]*shelf{
		"a few hours":   fill(t, 2, append(numberedHours(3, 0, 7, 1), plainEntries())),
		"an empty hour": fill(t, 2, [][]Entry{nil}),
		"hostile texts": fill(t, 50, [][]Entry{hostileEntries(false), hostileEntries(false)}),
		"gaps":          gaps,
	} {
		checked := 0
		for address, document := range s.files {
			if schema := schemaOf(address); schema != "" {
				checked++
				if err := validate(t, schema, document); err != nil {
					t.Errorf("%s, %s: %v", what, address, err)
				}
			}
		}
		if checked < 9 {
			t.Errorf("%s: only %d documents", what, checked)
		}
	}
}

func TestHostileTextsInThePlaceOfURIsAreWellFormed(t *testing.T) {
	entries := hostileEntries(true)
	h := &heading{base: testBase, m: testHour(0, entries), part: 1, parts: 1}
	for _, role := range []string{RoleAtom, RoleChangeList} {
		if err := validate(t, "", written(t, role, h, entries)); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
}

// A schema that lets everything pass would prove nothing.
func TestTheSchemasRefuseWhatTheStandardsForbid(t *testing.T) {
	s := fill(t, 2, [][]Entry{{plainEntries()[1]}, plainEntries()})
	closed := testBase + "/all/" + Hour.Folder(testNoon)
	for _, c := range []struct{ what, address, old, new string }{
		{"a feed without id", closed + "digest.atom", "<id>https://hub.example/digest/all/feed.atom</id>\n", ""},
		{"an entry without id", closed + "digest.atom", "<entry><id>urn:freshwire:digest:all:00005f3a.88131</id>", "<entry>"},
		{"an entry without a link", closed + "digest.atom", `<link rel="alternate" href="https://en.example.org/wiki/Berlin#html"/>`, ""},
		{"an entry with two titles", closed + "digest.atom", "<title>updated", "<title>x</title><title>updated"},
		{"a feed without author", closed + "digest.atom", "<author><name>freshwire</name></author>\n", ""},
		{"a time without zone", closed + "digest.atom", "13:02:00Z</updated>", "13:02:00</updated>"},
		{"a time that is none", closed + "digest.atom", "<updated>2026-11-24T12:29", "<updated>2026-11-24T25:29"},
		{"an archive without its mark", closed + "digest.atom", "<fh:archive/>\n", ""},
		{"an archive without the current feed", closed + "digest.atom", `rel="current"`, `rel="related"`},
		{"a current feed that is marked as archive", testBase + "/all/feed.atom", "<entry>", "<fh:archive/>\n<entry>"},
		{"a change that is none", closed + "digest.atom", `change="updated"`, `change="touched"`},
		{"no notices", closed + "digest.atom", `count="3"`, `count="0"`},
		{"a gap without its reason", closed + "digest.atom", `complete="true"`, `complete="false"`},
		{"an address that is none", testBase + "/all/hours.atom", `href="https://hub.example/digest/"`, `href="digest"`},
		{"a script", testBase + "/all/hours.atom", "<ul>", "<script>1</script><ul>"},
		{"another capability", closed + "changelist.xml", `capability="changelist"`, `capability="changes"`},
		{"a list without its beginning", closed + "changelist.xml", ` from="2026-11-24T12:00:00Z"`, ""},
		{"a list that leads nowhere up", closed + "changelist.xml", `rel="up"`, `rel="top"`},
		{"a change without time", closed + "changelist.xml", ` datetime="2026-11-24T12:01:00Z"`, ""},
		{"a change of no resource", closed + "changelist.xml", "<loc>urn:x:gone</loc>", ""},
		{"an address that is too long", closed + "changelist.xml", "<loc>urn:x:gone", "<loc>urn:x:" + strings.Repeat("x", 2048)},
		{"a list in another order", closed + "changelist.xml", "<url>", "<url/><url>"},
		{"an index of no time", testBase + "/all/changelist.xml", `<rs:md from="2026-11-24T12:00:00Z" until="2026-11-24T13:00:00Z"/>`, ""},
		{"an index of URLs", testBase + "/all/changelist.xml", "sitemap>", "url>"},
		{"a description of nothing", "https://hub.example/.well-known/resourcesync", `<rs:md capability="description"/>`, ""},
		{"capabilities without the way up", testBase + "/all/capabilitylist.xml", `<rs:ln rel="up"`, `<rs:ln rel="describedby"`},
	} {
		document := s.at(t, c.address)
		if err := validate(t, schemaOf(c.address), document); err != nil {
			t.Fatalf("%s: %v", c.address, err)
		}
		broken := bytes.ReplaceAll(document, []byte(c.old), []byte(c.new))
		if bytes.Equal(broken, document) {
			t.Errorf("%s: %q is not in %s", c.what, c.old, c.address)
		} else if err := validate(t, schemaOf(c.address), broken); err == nil {
			t.Errorf("%s is valid", c.what)
		}
	}
}
