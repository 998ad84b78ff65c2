package graph

import "testing"

// The edges of each rule, where a comparison that is off by one shows.
func TestTheEdgesOfWhatIsNewer(t *testing.T) {
	primary := row{flags: rowHeard | rowKnown, version: "10", hash: "h", changed: 100, changedAt: 50_000_000}
	artefact := primary
	artefact.flags |= rowArtefact
	const justBefore, justAfter = 55_000_000, 55_000_001 // of the change and five seconds
	for _, c := range []struct {
		name string
		x    row
		e    evidence
		want verdict
		rule Rule
	}{
		{"the number that it is", primary, evidence{seen: "10"}, notNewer, RuleSame},
		{"a number below", primary, evidence{seen: "9", token: 100, hasToken: true}, newer, RuleLower},
		{"a number above", primary, evidence{seen: "11"}, ahead, RuleHigher},
		{"the number of an artefact, which tells nothing, with a token", artefact, evidence{seen: "10", token: 100, hasToken: true}, notNewer, RuleToken},
		{"the number of an artefact, with an older token", artefact, evidence{seen: "10", token: 99, hasToken: true}, newer, RuleToken},
		{"a token of the change", primary, evidence{token: 100, hasToken: true}, notNewer, RuleToken},
		{"a token of just before it", primary, evidence{token: 99, hasToken: true}, newer, RuleToken},
		{"a time within five seconds", primary, evidence{at: justBefore}, newer, RuleTime},
		{"a time beyond them", primary, evidence{at: justAfter}, notNewer, RuleTime},
	} {
		v, rule := judge(&c.x, c.e, func() string { return "" })
		if v != c.want || rule != c.rule {
			t.Errorf("%s: got %d by %s, want %d by %s", c.name, v, rule, c.want, c.rule)
		}
	}
}
