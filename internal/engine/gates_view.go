package engine

import (
	"maps"
	"slices"
	"time"

	"github.com/backstay-dev/backstay"
)

// GateState is a gate of a View that waits.
type GateState struct {
	Step      string              `json:"step"`
	Route     string              `json:"route,omitempty"`
	Weight    int                 `json:"weight"` // the share of the new side that it stands at, in percent
	Opened    time.Time           `json:"opened"`
	Hold      time.Time           `json:"hold,omitzero"` // it goes on no sooner
	Until     time.Time           `json:"until"`         // its time is over
	Undecided backstay.GatePolicy `json:"undecided"`     // what happens then
	Stalled   string              `json:"stalled,omitempty"`
	Next      string              `json:"next"` // what follows when it passes
}

// CheckState is what a check of a gate said last.
type CheckState struct {
	Check    string             `json:"check"`
	Step     string             `json:"step"`  // the gate
	Armed    bool               `json:"armed"` // it is asked again and again
	Verdict  backstay.Verdict   `json:"verdict"`
	Reason   string             `json:"reason,omitempty"`
	Samples  int                `json:"samples,omitempty"`
	Evidence *backstay.Evidence `json:"evidence,omitempty"`
	// At is when the ledger was told last; what a process that drives shows may be newer.
	At time.Time `json:"at,omitzero"`
}

// gateStates are the gates that wait, in the plan's order.
func (c *core) gateStates(s *Progress) []GateState {
	var all []GateState
	for _, i := range c.gates {
		st, sp := &c.plan.Steps[i], s.order[i]
		if sp.Phase != PhaseOpen || s.State.Settled() {
			continue
		}
		g := GateState{
			Step: st.ID, Route: st.Gate.Route, Weight: st.Gate.Weight, Opened: sp.Opened, Until: sp.Opened.Add(st.Gate.Within.Std()),
			Undecided: st.Gate.Undecided, Stalled: sp.Stalled, Next: "verify, then commit",
		}
		if g.Undecided == "" {
			g.Undecided = backstay.RollBackUndecided
		}
		if st.Gate.Hold > 0 {
			g.Hold = sp.Opened.Add(st.Gate.Hold.Std())
		}
		for j := i + 1; j < len(c.plan.Steps); j++ {
			if s.order[j].Phase == PhasePending {
				g.Next = c.plan.Steps[j].Summary
				break
			}
		}
		all = append(all, g)
	}
	return all
}

// checkStates are the checks that are asked, or were, by name.
func (c *core) checkStates(s *Progress) []CheckState {
	known := map[string]CheckState{}
	for name, g := range s.Gauges {
		known[name] = CheckState{
			Check: name, Step: g.Step, Verdict: g.Result.Verdict, Reason: g.Result.Reason, Samples: g.Result.Samples, Evidence: g.Result.Evidence, At: g.At,
		}
	}
	for _, a := range c.armed(s) {
		k := known[a.check]
		if k.Check == "" {
			k.Reason = "it was not asked yet"
		}
		k.Check, k.Step, k.Armed = a.check, a.step, true
		known[a.check] = k
	}
	var all []CheckState
	for _, name := range slices.Sorted(maps.Keys(known)) {
		all = append(all, known[name])
	}
	return all
}

// newest puts what this process knows of its checks into a view.
func (r *runner) newest(v *View) {
	for i := range v.Checks {
		k := &v.Checks[i]
		if w := r.watches[k.Check]; k.Armed && w != nil && !w.asked.IsZero() {
			k.Verdict, k.Reason, k.Samples, k.Evidence = w.last.Verdict, w.last.Reason, w.samples, w.last.Evidence
		}
	}
	v.Convicts = r.core.convicts(v.Checks)
}

// convicts is the evidence of all comparisons together, in units of what convicts.
func (c *core) convicts(all []CheckState) float64 {
	var evidence []backstay.Evidence
	for _, k := range all {
		if k.Evidence != nil {
			evidence = append(evidence, *k.Evidence)
		}
	}
	return backstay.Weigh(evidence, c.comparing())
}
