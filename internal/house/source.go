package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/token"
	"maps"
	"slices"
	"strings"
	"unicode"
)

const (
	// maxFunction is how many lines a function may have below its first: more
	// hide a noun that wants a name.
	maxFunction = 90
	// maxFile is how many lines a file may have: more are several concepts.
	maxFile = 1200
)

// formatting checks that gofmt would change nothing.
func formatting(t *tree) (faults []string) {
	t.each((*file).isGo, func(f *file) {
		want, err := format.Source(f.text)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", f.path, err))
		} else if !bytes.Equal(f.text, want) {
			faults = append(faults, fmt.Sprintf("%s: gofmt would change it; run: gofmt -w %s", f.path, f.path))
		}
	})
	return faults
}

func functionLength(t *tree) (faults []string) {
	t.each((*file).isGo, func(f *file) {
		for _, d := range f.syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := t.fset.Position(fn.End()).Line - t.fset.Position(fn.Type.Func).Line
			if n > maxFunction {
				faults = append(faults, t.fault(fn.Name, "%s has %d lines, at most %d fit", fn.Name.Name, n, maxFunction))
			}
		}
	})
	return faults
}

func fileLength(t *tree) (faults []string) {
	written := func(f *file) bool { return f.isGo() || f.isMarkdown() }
	t.each(written, func(f *file) {
		if n := f.lines(); n > maxFile {
			faults = append(faults, fmt.Sprintf("%s: has %d lines, at most %d can be read", f.path, n, maxFile))
		}
	})
	return faults
}

// packageComments checks that one file of each package opens with what it is.
func packageComments(t *tree) (faults []string) {
	said := map[string]bool{}
	product := func(f *file) bool { return f.isGo() && !f.isTest() }
	t.each(product, func(f *file) {
		want := "Package " + f.syntax.Name.Name + " "
		if f.syntax.Name.Name == "main" {
			want = "Command "
		}
		said[f.dir()] = said[f.dir()] || strings.HasPrefix(f.syntax.Doc.Text(), want)
	})
	for _, dir := range slices.Sorted(maps.Keys(said)) {
		if !said[dir] {
			faults = append(faults, fmt.Sprintf("%s: no package comment", dir))
		}
	}
	return faults
}

// wellKnown are methods whose effect is fixed by the interface they serve.
var wellKnown = []string{"String", "GoString", "Error", "Unwrap", "Is", "As", "Len", "Less", "Swap", "Push", "Pop",
	"Read", "Write", "Close", "ServeHTTP", "LogValue", "Enabled", "Handle", "WithAttrs", "WithGroup",
	"MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText", "MarshalYAML", "UnmarshalYAML",
	"Describe", "Collect", "Set", "Type"}

// exportedComments checks the exported names of every package but commands.
func exportedComments(t *tree) (faults []string) {
	product := func(f *file) bool { return f.isGo() && !f.isTest() && f.syntax.Name.Name != "main" }
	t.each(product, func(f *file) {
		for _, d := range f.syntax.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if !silentFunction(d) && d.Doc.Text() == "" {
					faults = append(faults, t.fault(d.Name, "%s has no comment", d.Name.Name))
				}
			case *ast.GenDecl:
				for _, name := range silentNames(d) {
					faults = append(faults, t.fault(name, "%s has no comment", name.Name))
				}
			}
		}
	})
	return faults
}

// silentFunction reports whether nobody outside can read about the function, or
// everybody knows it.
func silentFunction(d *ast.FuncDecl) bool {
	if !d.Name.IsExported() || d.Recv == nil {
		return !d.Name.IsExported()
	}
	return !ast.IsExported(receiver(d.Recv.List[0].Type)) || slices.Contains(wellKnown, d.Name.Name)
}

// receiver returns the name of the type a method belongs to.
func receiver(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// silentNames returns the exported types, constants and variables of d that
// nothing explains: no comment of their own, beside them, above their group, or
// with a neighbour of the group that names them too.
func silentNames(d *ast.GenDecl) (names []*ast.Ident) {
	if d.Tok == token.IMPORT || d.Doc.Text() != "" || enumerated(d) {
		return nil
	}
	var all strings.Builder
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			own := spec.Doc.Text() + spec.Comment.Text()
			all.WriteString(own)
			if own == "" {
				names = append(names, spec.Name)
			}
		case *ast.ValueSpec:
			own := spec.Doc.Text() + spec.Comment.Text()
			all.WriteString(own)
			if own == "" {
				names = append(names, spec.Names...)
			}
		}
	}
	said := strings.FieldsFunc(all.String(), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	return slices.DeleteFunc(names, func(name *ast.Ident) bool {
		return !name.IsExported() || slices.Contains(said, name.Name)
	})
}

// enumerated reports whether the group lists the values of one type: what the
// type is explains them, their names do the rest.
func enumerated(d *ast.GenDecl) bool {
	first, ok := d.Specs[0].(*ast.ValueSpec)
	return ok && d.Tok == token.CONST && d.Lparen.IsValid() && first.Type != nil
}
