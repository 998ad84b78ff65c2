package house

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func TestTheRepositoryKeepsTheHouseRules(t *testing.T) {
	repository, err := load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if repository.module != "github.com/freshwire/freshwire" {
		t.Errorf("module %q, want the one this test stands in", repository.module)
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, fault := range r.check(repository) {
				t.Error(fault)
			}
		})
	}
}

// sound is a repository in which every rule holds.
func sound() fstest.MapFS {
	files := map[string]string{
		".gitignore":    "/bin/\n*.prof\n",
		"go.mod":        "module example.org/m\n",
		"Makefile":      "SHELL := bash\n\ntest: build\n\tgo test ./...\n\nbuild:\n\tgo build ./...\n",
		"README.md":     "Run `make test`, then read [why](INVARIANTS.md#top) and the [graph](graph).\n\n```sh\nmake build\nbin/freshwire serve\n```\n",
		"INVARIANTS.md": "| rule | test |\n| --- | --- |\n| it holds | `graph.TestItHolds`, `graph.TestItHolds/twice` |\n",
		"graph/graph.go": "// Package graph is sound.\npackage graph\n\n// A Store keeps.\ntype Store struct{}\n\n" +
			"func (Store) String() string { return \"\" }\n",
		"graph/graph_test.go": "package graph\n\nimport \"testing\"\n\nfunc TestItHolds(t *testing.T) {\n\tt.Log(\"twice: it holds again\")\n}\n",
		"hub/hub.go":          "// Package hub wires.\npackage hub\n\nimport _ \"example.org/m/graph\"\n",
		"cmd/freshwire/main.go": "// Command freshwire runs.\npackage main\n\nimport _ \"example.org/m/hub\"\n\n" +
			"type command struct{ Use string }\n\nvar _ = command{\n\tUse: \"serve\",\n}\n\nfunc main() {}\n",
		"bin/freshwire":     "../sha" + "red is not read here",
		"cpu.prof":          "nor TO" + "DO here",
		"graph/testdata/in": "recorded: XX" + "X in /ho" + "me/",
	}
	fs := fstest.MapFS{}
	for name, text := range files {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fs
}

func TestASoundTreeBreaksNoRule(t *testing.T) {
	for name, got := range check(t, sound()) {
		if len(got) != 0 {
			t.Errorf("%s: got %q, want nothing", name, got)
		}
	}
}

func TestEachRuleNamesThePlaceThatBreaksIt(t *testing.T) {
	const inTest = "package graph\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\n"
	for _, c := range []struct {
		what, file, text string // what is changed in a sound tree
		rule, want       string
	}{
		{"a room imports upwards", "graph/up.go", "package graph\n\nimport _ \"example.org/m/hub\"\n",
			"a room imports", "graph/up.go:3: graph may not import hub"},
		{"the command reaches past its hub", "cmd/freshwire/x.go", "package main\n\nimport _ \"example.org/m/graph\"\n",
			"a room imports", "cmd/freshwire/x.go:3: cmd/freshwire may not import graph"},
		{"a test reaches upwards", "graph/up_test.go", "package graph_test\n\nimport _ \"example.org/m/hub\"\n",
			"a room imports", "graph/up_test.go:3: graph may not import hub"},
		{"a room nobody drew", "attic/a.go", "// Package attic keeps.\npackage attic\n",
			"a room imports", "attic/a.go: attic is not a room"},
		{"spaces for a tab", "graph/a.go", "package graph\n\nfunc f() {\n  f()\n}\n",
			"formatted", "graph/a.go: gofmt would change it"},
		{"a vague file", "graph/utils_test.go", "package graph\n",
			"named by concept", `graph/utils_test.go: "utils" does not say`},
		{"a vague folder", "hub/common/a.go", "// Package common keeps.\npackage common\n",
			"named by concept", `hub/common/a.go: "common" does not say`},
		{"a long function", "graph/a.go", "package graph\n\nfunc f() {\n" + strings.Repeat("\tf()\n", maxFunction) + "}\n",
			"functions fit", "graph/a.go:3: f has 91 lines"},
		{"a long file", "docs/long.md", strings.Repeat("line\n", maxFile+1),
			"in one sitting", "docs/long.md: has 1201 lines"},
		{"a package without a comment", "graph/graph.go", "package graph\n",
			"each package", "graph: no package comment"},
		{"a comment about another package", "graph/graph.go", "// Package hub is elsewhere.\npackage graph\n",
			"each package", "graph: no package comment"},
		{"a function without a comment", "graph/a.go", "package graph\n\nfunc Open() {}\n",
			"exported name", "graph/a.go:3: Open has no comment"},
		{"a method without a comment", "graph/a.go", "package graph\n\nfunc (s *Store) Run() {}\n",
			"exported name", "graph/a.go:3: Run has no comment"},
		{"a constant without a comment", "graph/a.go", "package graph\n\nconst (\n\t// A is the first.\n\tA = 1\n\tB = 2\n)\n",
			"exported name", "graph/a.go:6: B has no comment"},
		{"a folder beside the repository", "docs/a.md", "see ../sha" + "red/design\n",
			"outside the repository", `docs/a.md:1: "../sha`},
		{"somebody's folder", "graph/a.go", "package graph\n\nconst dir = \"/ho" + "me/me\"\n",
			"outside the repository", "graph/a.go:3:"},
		{"a host of packages", ".ci/run", "GOPROXY=https://proxy.golang.o" + "rg\n",
			"outside the repository", ".ci/run:1:"},
		{"work put off", "hub/a.go", "package hub\n\n// TO" + "DO: later\n",
			"put off", "hub/a.go:3:"},
		{"a skip without words", "graph/a_test.go", inTest + "func TestA(t *testing.T) { t.Skip() }\n\nvar _ time.Time\n",
			"says why", "graph/a_test.go:8: t.Skip without a reason"},
		{"a skip with no words in it", "graph/a_test.go", inTest + "func TestA(t *testing.T) { t.Skip(\" \") }\n\nvar _ time.Time\n",
			"says why", "graph/a_test.go:8: t.Skip without a reason"},
		{"a sleep", "graph/a_test.go", inTest + "func TestA(t *testing.T) { time.Sleep(1) }\n",
			"not for the clock", "graph/a_test.go:8: time.Sleep outside"},
		{"a bubble that the race detector may not survive", "graph/a_test.go",
			"package graph\n\nimport (\n\t\"testing\"\n\t\"testing/synctest\"\n)\n\n" +
				"func TestA(t *testing.T) { synctest.Test(t, func(*testing.T) {}) }\n",
			"race detector survives", "graph/a_test.go:8: synctest.Test; call bubble.Test"},
		{"a rule without a test", "INVARIANTS.md", "| rule | test |\n| --- | --- |\n| it holds | surely |\n",
			"each invariant", "INVARIANTS.md:3: no test would go red"},
		{"a test that was renamed", "INVARIANTS.md", "| rule | test |\n| --- | --- |\n| it holds | `graph.TestItHeld` |\n",
			"each invariant", "INVARIANTS.md:3: graph has no test TestItHeld"},
		{"a part of a test that was renamed", "INVARIANTS.md", "| rule | test |\n| --- | --- |\n| it holds | `graph.TestItHolds/always` |\n",
			"each invariant", "INVARIANTS.md:3: graph has no test TestItHolds/always"},
		{"a target that was renamed", "README.md", "Run `make tests`.\n",
			"documents name", "README.md: the Makefile has no target tests"},
		{"a command that was renamed", "docs/a.md", "```sh\n$ freshwire server\n```\n",
			"documents name", "docs/a.md: freshwire has no command server"},
		{"a page that was moved", "docs/a.md", "[why](INVARIANTS.md)\n",
			"documents name", "docs/a.md: links to INVARIANTS.md"},
	} {
		t.Run(c.what, func(t *testing.T) {
			fs := sound()
			fs[c.file] = &fstest.MapFile{Data: []byte(c.text)}
			found := false
			for name, faults := range check(t, fs) {
				if !strings.Contains(name, c.rule) {
					continue
				}
				found = true
				if len(faults) != 1 || !strings.HasPrefix(faults[0], c.want) {
					t.Errorf("%s: got %q, want one fault %q", name, faults, c.want)
				}
			}
			if !found {
				t.Errorf("no rule is called %q", c.rule)
			}
		})
	}
}

func TestTheRulesAllowWhatIsMeant(t *testing.T) {
	for _, c := range []struct{ what, file, text string }{
		{"one comment explains two constants", "graph/a.go",
			"package graph\n\nconst (\n\t// Min and Max bound it.\n\tMin = 1\n\tMax = 2\n)\n"},
		{"a random test leaves out an action", "graph/a_test.go",
			"package graph\n\nimport \"pgregory.net/rapid\"\n\nfunc act(t *rapid.T) { t.SkipNow() }\n"},
		{"fake time passes in a synctest bubble", "graph/a_test.go",
			"package graph\n\nimport (\n\t_ \"testing/synctest\"\n\t\"time\"\n)\n\nfunc wait() { time.Sleep(1) }\n"},
		{"fake time passes in a bubble of ours", "graph/a_test.go",
			"package graph\n\nimport (\n\t_ \"example.org/m/internal/bubble\"\n\t\"time\"\n)\n\nfunc wait() { time.Sleep(1) }\n"},
		{"a benchmark looks again and again", "graph/bench_test.go",
			"package graph\n\nimport \"time\"\n\nfunc wait() { time.Sleep(1) }\n"},
	} {
		t.Run(c.what, func(t *testing.T) {
			fs := sound()
			fs[c.file] = &fstest.MapFile{Data: []byte(c.text)}
			for name, faults := range check(t, fs) {
				if len(faults) != 0 {
					t.Errorf("%s: got %q, want nothing", name, faults)
				}
			}
		})
	}
}

// check returns what each rule finds in a tree.
func check(t *testing.T, fs fstest.MapFS) map[string][]string {
	t.Helper()
	tree, err := load(fs)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, r := range rules {
		found[r.name] = r.check(tree)
	}
	return found
}
