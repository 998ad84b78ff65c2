package house

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"strconv"
	"strings"
)

var (
	// testName is how INVARIANTS.md names a test: folder, dot, function, and for
	// one of its parts a slash and how its name begins.
	testName = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)(/[^`]+)?`")
	// subtitle is the line of dashes under the head of a table.
	subtitle = regexp.MustCompile(`^\|[\s|:-]+\|$`)

	shellBlock  = regexp.MustCompile("(?ms)^```(?:sh|console)\n(.*?)^```")
	inlineCode  = regexp.MustCompile("`([^`\n]+)`")
	makeCommand = regexp.MustCompile(`(?m)^(?:\$ )?make +([a-z]+)`)
	ownCommand  = regexp.MustCompile(`(?m)^(?:\$ )?(?:\S*/)?freshwire +([a-z]+)`)
	makeTarget  = regexp.MustCompile(`(?m)^([a-z]+):(?:[^=]|$)`)
	link        = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)\s]*)?\)`)
)

// invariants checks that each row of the tables in INVARIANTS.md names a test,
// and that the tests exist.
func invariants(t *tree) (faults []string) {
	const name = "INVARIANTS.md"
	page := t.files[name]
	if page == nil {
		return []string{name + ": is missing"}
	}
	tests := t.tests()
	lines := strings.Split(string(page.text), "\n")
	for i, line := range lines {
		found := testName.FindAllStringSubmatch(line, -1)
		for _, m := range found {
			f := tests[m[1]+"."+m[2]]
			if f == nil || !f.says(strings.TrimPrefix(m[3], "/")) {
				faults = append(faults, fmt.Sprintf("%s:%d: %s has no test %s", name, i+1, m[1], m[2]+m[3]))
			}
		}
		head := i+1 < len(lines) && subtitle.MatchString(lines[i+1])
		row := strings.HasPrefix(line, "|") && !head && !subtitle.MatchString(line)
		if row && len(found) == 0 {
			faults = append(faults, fmt.Sprintf("%s:%d: no test would go red", name, i+1))
		}
	}
	return faults
}

// says reports whether a text in the Go file begins with a word.
func (f *file) says(word string) bool {
	found := word == ""
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && !found {
			text, err := strconv.Unquote(lit.Value)
			found = err == nil && (text == word || strings.HasPrefix(text, word+":") || strings.HasPrefix(text, word+" "))
		}
		return !found
	})
	return found
}

// tests returns the files of the tests and fuzz targets of the tree, by
// folder.Function.
func (t *tree) tests() map[string]*file {
	all := map[string]*file{}
	t.each((*file).isTest, func(f *file) {
		for _, d := range f.syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				all[f.dir()+"."+fn.Name.Name] = f
			}
		}
	})
	return all
}

// documents checks the commands and links of every Markdown page.
func documents(t *tree) (faults []string) {
	targets := map[string]bool{}
	if f := t.files["Makefile"]; f != nil {
		for _, m := range makeTarget.FindAllSubmatch(f.text, -1) {
			targets[string(m[1])] = true
		}
	}
	page := func(f *file) bool { return f.isMarkdown() && f.isText() }
	t.each(page, func(f *file) {
		for _, code := range codes(f.text) {
			for _, m := range makeCommand.FindAllStringSubmatch(code, -1) {
				if !targets[m[1]] {
					faults = append(faults, fmt.Sprintf("%s: the Makefile has no target %s", f.path, m[1]))
				}
			}
			for _, m := range ownCommand.FindAllStringSubmatch(code, -1) {
				if !t.hasCommand(m[1]) {
					faults = append(faults, fmt.Sprintf("%s: freshwire has no command %s", f.path, m[1]))
				}
			}
		}
		for _, m := range link.FindAllStringSubmatch(string(f.text), -1) {
			if target := path.Join(f.dir(), m[1]); !strings.Contains(m[1], "://") && !t.exists(target) {
				faults = append(faults, fmt.Sprintf("%s: links to %s, which does not exist", f.path, m[1]))
			}
		}
	})
	return faults
}

// hasCommand reports whether the command line knows a command: its name is a
// text of its own in the code, or begins one.
func (t *tree) hasCommand(name string) (found bool) {
	command := func(f *file) bool { return f.isGo() && !f.isTest() && f.dir() == "cmd/freshwire" }
	t.each(command, func(f *file) { found = found || f.says(name) })
	return found
}

// codes returns what a Markdown page gives the reader to type: shell blocks and
// inline code.
func codes(text []byte) (list []string) {
	for _, m := range shellBlock.FindAllSubmatch(text, -1) {
		list = append(list, string(m[1]))
	}
	for _, m := range inlineCode.FindAllSubmatch(text, -1) {
		list = append(list, string(m[1]))
	}
	return list
}

// exists reports whether a path is a file or a folder of the tree.
func (t *tree) exists(name string) bool {
	for _, p := range t.order {
		if p == name || strings.HasPrefix(p, name+"/") {
			return true
		}
	}
	return false
}
