package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestEachMutantBreaksALineThatIsThereOnceAndNamesTestsThatExist(t *testing.T) {
	mutants, err := parse(table)
	if err != nil {
		t.Fatal(err)
	}
	if len(mutants) < 15 {
		t.Errorf("%d mutants, want 15 at least", len(mutants))
	}
	seen := map[string]bool{}
	for _, m := range mutants {
		text, err := os.ReadFile(filepath.Join("../../..", filepath.FromSlash(m.file)))
		if err != nil {
			t.Errorf("%s: %v", m.what, err)
			continue
		}
		if broken, found := m.apply(string(text)); !found || broken == string(text) {
			t.Errorf("%s: %q is not there once in %s, or stays as it is", m.what, m.old, m.file)
		}
		if seen[m.what] {
			t.Errorf("%s: it is there twice", m.what)
		}
		seen[m.what] = true
		room, names, _ := strings.Cut(m.test, " ")
		for name := range strings.SplitSeq(names, "|") {
			if !declares(t, room, name) {
				t.Errorf("%s: no test of %s begins with %s", m.what, room, name)
			}
		}
	}
}

// declares reports whether a test of room begins with name, which begins with ^.
func declares(t *testing.T, room, name string) bool {
	t.Helper()
	name, anchored := strings.CutPrefix(name, "^")
	name, _, _ = strings.Cut(name, "/")
	files, err := filepath.Glob(filepath.Join("../../..", filepath.FromSlash(room), "*_test.go"))
	if err != nil || !anchored {
		return false
	}
	declared := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name))
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && declared.Match(text) {
			return true
		}
	}
	return false
}

// A repository of one package, whose test looks at one of two things.
var watched = map[string]string{
	"go.mod":        "module m\n\ngo 1.26\n",
	"a/a.go":        "package a\n\nfunc one() int { return 1 }\n\nfunc two() int { return 2 }\n",
	"a/a_test.go":   "package a\n\nimport \"testing\"\n\nfunc TestOne(t *testing.T) {\n\tif one() != 1 {\n\t\tt.Error(one())\n\t}\n}\n",
	".git/config":   "secret",
	"bin/freshwire": "built",
}

func TestWhatNoTestNoticesSurvives(t *testing.T) {
	root := t.TempDir()
	for name, text := range watched {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	defer func(was string) { table = was }(table)
	row := func(old, new string) string {
		return "what: " + old + "\nfile: a/a.go\nold: " + old + "\nnew: " + new + "\ntest: a ^TestOne\n\n"
	}
	table = "# a comment\n\n" + row("return 1", "return 3") + row("return 2", "return 3") + row("return", "") + row("func two()", "func one()")
	var out strings.Builder
	failed, err := run(context.Background(), root, "", &out)
	if err != nil || failed != 3 {
		t.Errorf("%d are not killed, %v; want 3", failed, err)
	}
	var verdicts []string
	for line := range strings.Lines(out.String()) {
		verdicts = append(verdicts, regexp.MustCompile(`^[a-zA-Z ]*[a-zA-Z]`).FindString(line))
	}
	if got := strings.Join(verdicts, ","); got != "killed,SURVIVED,NOT FOUND,DOES NOT BUILD," {
		t.Errorf("got %s:\n%s", got, out.String())
	}
	if _, err := run(context.Background(), root, "nobody", &out); err == nil {
		t.Error("a word that no mutant has is not told")
	}
	table = "what: a\nold: b\n"
	if _, err := run(context.Background(), root, "", &out); err == nil {
		t.Error("a table with a hole is taken")
	}
}
