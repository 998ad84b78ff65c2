package house

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// may says which rooms a room may import. Arrows go one way, from the command
// down to the graph, and rooms beside each other do not know each other. The
// tests of a room are held to the same, but for what only tests use.
var may = map[string][]string{
	"cmd/freshwire": {"hub", "hub/auth", "hub/bench", "hub/client", "hub/mediawiki"},
	"hub": {"federation", "subscriptions", "subscriptions/claim", "subscriptions/delivery", "subscriptions/sink", "subscriptions/websub",
		"digest", "graph", "graph/backup", "graph/bulk",
		"hub/auth", "hub/client", "hub/mediawiki", "hub/outbound"},
	"hub/auth":               {"graph", "internal/strictjson"},
	"hub/client":             {"federation/follow"},
	"hub/bench":              {"hub/client"},
	"hub/mediawiki":          {"hub/client"},
	"hub/outbound":           {},
	"federation":             {"federation/follow", "graph", "internal/strictjson"},
	"federation/follow":      {},
	"subscriptions":          {"graph"},
	"digest":                 {"graph", "graph/bulk"},
	"subscriptions/delivery": {"graph"},
	"graph":                  {"graph/bulk"},
	"graph/backup":           {"graph"},
	"graph/bulk":             {},

	"subscriptions/claim":  {"graph", "subscriptions"},
	"subscriptions/sink":   {"graph", "subscriptions", "subscriptions/delivery"},
	"subscriptions/websub": {"graph", "subscriptions", "subscriptions/delivery"},

	"examples/extract": {"hub", "hub/client"}, // the hub in its test alone

	"internal/bubble":        {},
	"internal/faulty":        {},
	"internal/house":         {},
	"internal/strictjson":    {},
	"internal/house/mutants": {},
	"internal/house/slowest": {},
}

// imports checks each import of ours against may.
func imports(t *tree) (faults []string) {
	t.each((*file).isGo, func(f *file) {
		allowed, drawn := may[f.dir()]
		if !drawn {
			faults = append(faults, fmt.Sprintf("%s: %s is not a room of this house", f.path, f.dir()))
			return
		}
		for _, spec := range f.syntax.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				faults = append(faults, t.fault(spec, "%v", err))
				continue
			}
			room, ours := strings.CutPrefix(target, t.module+"/")
			if target == t.module {
				room, ours = ".", true
			}
			own := f.isTest() && room == f.dir() // the package that an outside test is about
			forTests := f.isTest() && (room == "internal/bubble" || room == "internal/faulty")
			if ours && !own && !forTests && !slices.Contains(allowed, room) {
				faults = append(faults, t.fault(spec, "%s may not import %s", f.dir(), room))
			}
		}
	})
	return faults
}

// vague are names that say nothing of what is inside.
var vague = []string{"utils", "util", "helpers", "helper", "types", "common", "misc", "shared", "base"}

// names checks that no file, folder or package has a vague name.
func names(t *tree) (faults []string) {
	t.each((*file).isGo, func(f *file) {
		stem := strings.TrimSuffix(strings.TrimSuffix(path.Base(f.path), ".go"), "_test")
		parts := append(strings.Split(f.dir(), "/"), stem, strings.TrimSuffix(f.syntax.Name.Name, "_test"))
		for _, part := range parts {
			if slices.Contains(vague, part) {
				faults = append(faults, fmt.Sprintf("%s: %q does not say what is inside", f.path, part))
				return
			}
		}
	})
	return faults
}
