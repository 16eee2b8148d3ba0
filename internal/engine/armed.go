package engine

import (
	"slices"

	"github.com/backstay-dev/backstay"
)

// armed is a check that is asked, and the gate in whose name.
type armed struct{ check, step string }

// armed lists the checks that watch the deployment now: those of every gate that
// waits, and of those that have passed, until the deployment is proven or turns
// around. Of several gates with one check the last counts. A gate before the first
// share (test) is over when it has passed.
func (c *core) armed(s *Progress) []armed {
	switch s.State {
	case backstay.Running, backstay.Holding, backstay.Committed:
	case backstay.Planned, backstay.Approved, backstay.Proven, backstay.RollingBack, backstay.RolledBack, backstay.Held, backstay.Closed, backstay.Refused:
		return nil
	}
	if s.Failure != nil {
		return nil
	}
	var all []armed
	for _, i := range c.gates {
		st, phase := &c.plan.Steps[i], s.order[i].Phase
		test := st.Gate.Route != "" && st.Gate.Weight == 0
		if phase != PhaseOpen && (phase != PhaseApplied || test) {
			continue
		}
		for _, check := range st.Gate.Checks {
			all = slices.DeleteFunc(all, func(a armed) bool { return a.check == check.Name })
			all = append(all, armed{check.Name, st.ID})
		}
	}
	return all
}

// watches asks for every armed check. The runner passes over those in flight.
func (c *core) watches(s *Progress) []command {
	var cmds []command
	for _, a := range c.armed(s) {
		cmds = append(cmds, command{op: opWatch, step: a.step, check: a.check})
	}
	return cmds
}

// stalled is the gate whose time is over and that waits for evidence or a person;
// "" where there is none.
func (c *core) stalled(s *Progress) string {
	for _, i := range c.gates {
		if sp := s.order[i]; sp.Phase == PhaseOpen && sp.Stalled != "" {
			return c.plan.Steps[i].ID
		}
	}
	return ""
}

// openGate is a gate that waits; "" where none does.
func (c *core) openGate(s *Progress) string {
	for _, i := range c.gates {
		if s.order[i].Phase == PhaseOpen {
			return c.plan.Steps[i].ID
		}
	}
	return ""
}

// comparing is the sum of the parts of all comparisons in the plan.
func (c *core) comparing() float64 {
	parts := map[string]float64{}
	for _, i := range c.gates {
		for _, check := range c.plan.Steps[i].Gate.Checks {
			parts[check.Name] = check.Part
		}
	}
	whole := 0.0
	for _, p := range parts {
		whole += p
	}
	return whole
}

// sharesOf are the shares that the gate's release goes through.
func (c *core) sharesOf(st *backstay.Step) []int {
	for _, r := range c.plan.Releases {
		if r.Step == st.Of {
			return r.Through
		}
	}
	return nil
}
