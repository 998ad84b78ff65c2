// Package house holds the rules that this repository sets itself: who may
// import whom, how files and functions look, and that the documents speak of
// things that exist. They are tests: a rule that nothing checks is not a rule.
//
// Each rule reads the tree of files and returns a line for whatever breaks it,
// beginning with the place. What .gitignore names is not read.
//
// Imports nothing of ours.
package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
	"unicode/utf8"
)

// A rule is one thing that holds everywhere in the repository.
type rule struct {
	name  string
	check func(*tree) []string // a line for each fault
}

// rules are all of them.
var rules = []rule{
	{"a room imports only the rooms it may", imports},
	{"Go files are formatted", formatting},
	{"files and packages are named by concept", names},
	{"functions fit on a screen or two", functionLength},
	{"files can be read in one sitting", fileLength},
	{"each package says what it is for", packageComments},
	{"each exported name says what it does", exportedComments},
	{"texts speak of nothing outside the repository", foreignTexts},
	{"nothing is put off by a note", postponed},
	{"a skipped test says why", skips},
	{"tests wait for events and not for the clock", sleeps},
	{"tests run in bubbles that the race detector survives", bareBubbles},
	{"each invariant names tests that exist", invariants},
	{"the documents name commands and files that exist", documents},
}

// A tree is what the repository holds.
type tree struct {
	files  map[string]*file // by path from the root, with slashes
	order  []string         // their paths, sorted
	module string           // path of the Go module
	fset   *token.FileSet
}

// A file is one of them.
type file struct {
	path   string
	text   []byte
	syntax *ast.File // nil if it is not Go
}

func (f *file) isGo() bool       { return f.syntax != nil }
func (f *file) isTest() bool     { return strings.HasSuffix(f.path, "_test.go") }
func (f *file) isMarkdown() bool { return path.Ext(f.path) == ".md" }
func (f *file) dir() string      { return path.Dir(f.path) }

// isText reports whether people wrote the file. Recorded input and what
// tools keep is not theirs.
func (f *file) isText() bool {
	return utf8.Valid(f.text) && !bytes.Contains(f.text, []byte{0}) &&
		!strings.Contains("/"+f.path, "/testdata/") && f.path != "go.sum" && f.path != "LICENSE"
}

// lines returns how many lines the file has.
func (f *file) lines() int { return bytes.Count(f.text, []byte("\n")) }

// load reads the repository whose root is fsys.
func load(fsys fs.FS) (*tree, error) {
	t := &tree{files: map[string]*file{}, fset: token.NewFileSet()}
	ignored, err := ignoredPaths(fsys)
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == ".git" || ignored(name)):
			return fs.SkipDir
		case !entry.Type().IsRegular() || name == ".git" || ignored(name): // of a further work tree .git is a file
			return nil
		}
		return t.read(fsys, name)
	})
	return t, err
}

func (t *tree) read(fsys fs.FS, name string) error {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	f := &file{path: name, text: text}
	if path.Ext(name) == ".go" {
		if f.syntax, err = parser.ParseFile(t.fset, name, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return err
		}
	}
	if name == "go.mod" {
		line, _, _ := strings.Cut(string(text), "\n")
		t.module = strings.TrimSpace(strings.TrimPrefix(line, "module "))
	}
	t.files[name] = f
	t.order = append(t.order, name) // WalkDir goes in lexical order
	return nil
}

// ignoredPaths reads .gitignore: names from the root that begin with a slash,
// and patterns for the last part of a path.
func ignoredPaths(fsys fs.FS) (func(string) bool, error) {
	text, err := fs.ReadFile(fsys, ".gitignore")
	if err != nil {
		return nil, err
	}
	patterns := strings.Fields(string(text))
	return func(name string) bool {
		for _, p := range patterns {
			p = strings.TrimSuffix(p, "/")
			if root, ok := strings.CutPrefix(p, "/"); ok {
				if name == root {
					return true
				}
			} else if hit, _ := path.Match(p, path.Base(name)); hit {
				return true
			}
		}
		return false
	}, nil
}

// each calls f with every file for which keep holds, in the order of paths.
func (t *tree) each(keep func(*file) bool, f func(*file)) {
	for _, name := range t.order {
		if keep(t.files[name]) {
			f(t.files[name])
		}
	}
}

// fault describes what is wrong at a node of a Go file.
func (t *tree) fault(at ast.Node, format string, a ...any) string {
	p := t.fset.Position(at.Pos())
	return fmt.Sprintf("%s:%d: ", p.Filename, p.Line) + fmt.Sprintf(format, a...)
}
