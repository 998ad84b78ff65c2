package graph

import (
	"testing"
	"time"
)

func TestAspects(t *testing.T) {
	everybody := []string{"usesC.P6", "usesC", "usesC.P7", "usesT.de", "usesall"}
	// One dependent for each aspect, named after it, and one of the base.
	item := func(t *testing.T) *rig {
		g := newRig(t, Options{})
		g.edit("Q64", "100", "")
		for _, aspect := range []string{"#C.P6", "#C", "#C.P7", "#T.de"} {
			g.render("uses"+aspect[1:], "", "d", g.token(), saw("Q64"+aspect, ""))
		}
		g.render("usesall", "", "d", g.token(), saw("Q64", "100"))
		g.touch("101", "*") // every aspect has been heard of now
		for _, d := range everybody {
			g.wait(time.Minute)
			g.want(d, Ready, 1)
			g.render(d, "", "d", g.token(), g.dependencyOf(d))
		}
		g.wait(time.Minute)
		return g
	}
	for _, tt := range []struct {
		name    string
		aspects []string
		told    []string
	}{
		{"a named aspect tells its own dependents, those of what it is part of, and those of the base", []string{"C.P6"}, []string{"usesC.P6", "usesC", "usesall"}},
		{"several tell each dependent once", []string{"C.P6", "C.P7"}, []string{"usesC.P6", "usesC.P7", "usesC", "usesall"}},
		{"an aspect that nobody uses tells the dependents of what it is part of", []string{"C.P9"}, []string{"usesC", "usesall"}},
		{"a star tells everybody", []string{"*"}, everybody},
		{"none tells the dependents of the base alone", nil, []string{"usesall"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := item(t)
			g.touch("102", tt.aspects...)
			g.wait(time.Minute)
			want := map[string]bool{}
			for _, d := range tt.told {
				want[d] = true
			}
			for _, d := range everybody {
				if got := len(g.refreshes(named(d))) - 1; got > 1 || (got == 1) != want[d] {
					t.Errorf("%s was told %d times, want it told: %t", d, got, want[d])
				}
			}
		})
	}
}

func (g *rig) dependencyOf(name string) Dep {
	g.t.Helper()
	return Dep{URI: g.dependencies(named(name))[0]}
}

// touch is an event of an item that says which of its aspects changed.
func (g *rig) touch(version string, aspects ...string) {
	g.t.Helper()
	g.apply(Update{ID: g.nextID(), URI: named("Q64"), Version: version, At: g.now(), Aspects: aspects})
}

func TestOfAnAspectOnlyWhatIsAboveTheBasesVersionIsAhead(t *testing.T) {
	g := newRig(t, Options{})
	g.render("D", "", "d", g.token(), saw("Q64#C.P6", ""))
	g.touch("100", "C.P6")
	g.touch("105", "T.de") // the base moves on, the aspect does not
	g.wait(time.Minute)
	for _, tt := range []struct {
		seen    string
		markers int
		why     string
	}{
		{"105", 0, "the base's own version is what every rendering sees"},
		{"103", 0, "between the aspect's version and the base's"},
		{"106", 1, "above the base's version"},
	} {
		g.wait(time.Minute)
		g.render("D", "", "d", g.token(), saw("Q64#C.P6", tt.seen))
		if got := g.resource(named("D")).State; got != Clean {
			t.Errorf("saw %s (%s): %s, want clean", tt.seen, tt.why, got)
		}
		if got := g.s.markers(); got != tt.markers {
			t.Errorf("saw %s (%s): %d markers, want %d", tt.seen, tt.why, got, tt.markers)
		}
	}
	told := len(g.refreshes(named("D")))
	g.touch("106", "C.P6")
	g.wait(time.Minute)
	g.want("D", Clean, told) // this is what it saw
	g.touch("107", "C.P6")
	g.wait(time.Minute)
	g.want("D", Ready, told+1)
}
