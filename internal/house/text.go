package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/types"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	// postponing are the notes that put work off. The words are put together
	// here so that this file does not contain them.
	postponing = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	// foreign is what only means something on one machine: a folder beside the
	// repository, somebody's own folders, hosts that packages are fetched from.
	foreign = regexp.MustCompile(`\.\./sha` + `red\b|(^|[^\w./*-])/(work|farm|root|home|Users)/|` +
		`\b((proxy|sum)\.golang\.o` + `rg|registry\.npmjs\.o` + `rg|(files\.pythonhosted|pypi)\.o` + `rg|` +
		`(index\.|static\.)?crates\.i` + `o|(deb|security)\.debian\.o` + `rg)\b`)
)

// postponed finds notes that put work off.
func postponed(t *tree) []string { return t.find(postponing, "do it now, or leave it out") }

// foreignTexts finds what means nothing outside of one machine.
func foreignTexts(t *tree) []string { return t.find(foreign, "not everybody has that") }

// find reports each line of a text that matches.
func (t *tree) find(what *regexp.Regexp, advice string) (faults []string) {
	t.each((*file).isText, func(f *file) {
		number := 0
		for line := range bytes.Lines(f.text) {
			number++
			if hit := what.Find(line); hit != nil {
				faults = append(faults, fmt.Sprintf("%s:%d: %q: %s", f.path, number, strings.TrimSpace(string(hit)), advice))
			}
		}
	})
	return faults
}

// skips finds tests that are left out without a reason in words. In a random
// test it is an action that is left out, and another one is drawn.
func skips(t *tree) (faults []string) {
	t.eachTestCall(func(f *file, call *ast.CallExpr, around []ast.Node, on, method string) {
		switch {
		case method != "Skip" && method != "Skipf" && method != "SkipNow" || isRandom(around):
		case method == "SkipNow" || len(call.Args) == 0 || isEmptyText(call.Args[0]):
			faults = append(faults, t.fault(call, "%s.%s without a reason", on, method))
		}
	})
	return faults
}

// sleeps finds tests that wait for the clock. Inside a synctest bubble the
// clock is a fake that stands still until everybody waits, so files that use
// one may sleep. A benchmark may look again and again whether the work is done.
func sleeps(t *tree) (faults []string) {
	t.eachTestCall(func(f *file, call *ast.CallExpr, _ []ast.Node, on, method string) {
		if on == "time" && method == "Sleep" && !t.inBubbles(f) &&
			!strings.HasSuffix(f.path, "bench_test.go") {
			faults = append(faults, t.fault(call, "time.Sleep outside a synctest bubble; wait for what is to happen"))
		}
	})
	return faults
}

// inBubbles reports whether the tests of f run in bubbles.
func (t *tree) inBubbles(f *file) bool {
	return importsPackage(f.syntax, "testing/synctest") || importsPackage(f.syntax, t.module+"/internal/bubble") ||
		f.dir() == "internal/bubble"
}

// bareBubbles finds bubbles in which the race detector may end the process.
func bareBubbles(t *tree) (faults []string) {
	t.eachTestCall(func(f *file, call *ast.CallExpr, _ []ast.Node, on, method string) {
		if on == "synctest" && method == "Test" && f.dir() != "internal/bubble" {
			faults = append(faults, t.fault(call, "synctest.Test; call bubble.Test, which the race detector survives"))
		}
	})
	return faults
}

// eachTestCall calls f with every call of the form on.method in a test file, and
// the nodes around it.
func (t *tree) eachTestCall(f func(file *file, call *ast.CallExpr, around []ast.Node, on, method string)) {
	t.each((*file).isTest, func(file *file) {
		ast.PreorderStack(file.syntax, nil, func(n ast.Node, around []ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				if on, ok := sel.X.(*ast.Ident); ok {
					f(file, call, around, on.Name, sel.Sel.Name)
				}
			}
			return true
		})
	})
}

// isRandom reports whether the innermost function around takes a *rapid.T.
func isRandom(around []ast.Node) bool {
	for _, n := range slices.Backward(around) {
		var params *ast.FieldList
		switch n := n.(type) {
		case *ast.FuncLit:
			params = n.Type.Params
		case *ast.FuncDecl:
			params = n.Type.Params
		default:
			continue
		}
		return slices.ContainsFunc(params.List, func(p *ast.Field) bool { return types.ExprString(p.Type) == "*rapid.T" })
	}
	return false
}

func isEmptyText(e ast.Expr) bool {
	lit, ok := e.(*ast.BasicLit)
	if !ok {
		return false
	}
	s, err := strconv.Unquote(lit.Value)
	return err == nil && strings.TrimSpace(s) == ""
}

func importsPackage(f *ast.File, name string) bool {
	for _, spec := range f.Imports {
		if spec.Path.Value == strconv.Quote(name) {
			return true
		}
	}
	return false
}
