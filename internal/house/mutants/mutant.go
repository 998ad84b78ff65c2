package main

import (
	"fmt"
	"strings"
)

// A mutant is one line to break.
type mutant struct {
	what string // what is wrong then
	file string // path from the root of the repository
	old  string // text that occurs exactly once in file
	new  string // what stands there instead
	test string // "room names": the tests that must go red, names as for go test -run
}

// apply returns text with the line broken; found says that old occurs once.
func (m *mutant) apply(text string) (broken string, found bool) {
	if strings.Count(text, m.old) != 1 {
		return text, false
	}
	return strings.Replace(text, m.old, m.new, 1), true
}

// parse reads a table of mutants: blocks of lines "name: value" between empty
// lines, in the order of what, file, old, new, test. A line that begins with # is a
// comment. In old and new, \n is a line end and \t a tab.
func parse(table string) (list []mutant, err error) {
	for block := range strings.SplitSeq(table, "\n\n") {
		var m mutant
		fields := []struct {
			name string
			into *string
		}{{"what", &m.what}, {"file", &m.file}, {"old", &m.old}, {"new", &m.new}, {"test", &m.test}}
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			if line == "" || line[0] == '#' {
				continue
			}
			name, value, ok := strings.Cut(line, ": ")
			if !ok && line == "new:" { // the text goes
				name, ok = "new", true
			}
			if !ok || len(fields) == 0 || fields[0].name != name {
				return nil, fmt.Errorf("mutants.txt: %q does not stand where it should", line)
			}
			*fields[0].into = unescape.Replace(value)
			fields = fields[1:]
		}
		switch len(fields) {
		case 0:
			list = append(list, m)
		case 5: // a comment alone
		default:
			return nil, fmt.Errorf("mutants.txt: %q has no %s", m.what, fields[0].name)
		}
	}
	return list, nil
}

var unescape = strings.NewReplacer(`\n`, "\n", `\t`, "\t")
