package report

import "strings"

// flagKind is the kind of steps that move feature flags.
const flagKind = "flag"

// flagMoves is what a done step did to a feature flag; nothing of other steps.
func flagMoves(s Step) []FlagMove {
	if s.Kind != flagKind || s.Result != "done" || len(s.Keys) != 1 {
		return nil
	}
	m := FlagMove{Flag: strings.TrimPrefix(string(s.Keys[0]), flagKind+":"), Key: s.Keys[0], Step: s.ID, What: s.Summary, At: s.Ended}
	if s.Undo != nil && s.Undo.Result != "failed" {
		m.Back = s.Undo.Ended
	}
	return []FlagMove{m}
}
