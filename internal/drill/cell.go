package drill

import (
	"fmt"
	"slices"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/fault"
)

// LevelModel is the evidence level of modelled targets.
const LevelModel = "D1"

// cell is one square of the matrix.
type cell struct {
	level   string
	step    string // "" for the plan
	name    string // of the fault
	planted []fault.Planted
	commits bool   // verify passes
	again   bool   // once everything is restored, everything is done again
	skip    string // why it is not run
}

// cells enumerates the matrix: each fault at each step that it can happen to,
// in the order of faults, then steps. Where a fault cannot happen to a step the
// cell says why it is not run; what makes no sense at all (the undo of a wait)
// has no cell.
func (m *model) cells(only Only) []cell {
	var all []cell
	for _, f := range fault.Catalogue() {
		if only.Fault != "" && only.Fault != f.Name {
			continue
		}
		first := len(all)
		if f.Scope == fault.OfPlan && only.Step == "" {
			all = append(all, m.cell(f, backstay.Step{}))
		}
		for _, st := range m.plan.Steps {
			if fits(f, st) && (only.Step == "" || only.Step == st.ID) {
				all = append(all, m.cell(f, st))
			}
		}
		// A model remembers nothing but what is read of it: where that is as
		// before, doing it again is the same at each step.
		if len(all) > first {
			all[len(all)-1].again = true
		}
	}
	return all
}

// fits reports whether a fault makes sense at a step.
func fits(f fault.Fault, st backstay.Step) bool {
	switch f.Scope {
	case fault.OfAny:
		return true
	case fault.OfWait:
		return st.Hold != nil
	case fault.OfStep, fault.OfUndo:
		return !st.Waits()
	case fault.OfPlan:
	}
	return false
}

func (m *model) cell(f fault.Fault, st backstay.Step) cell {
	p := fault.Planted{Fault: f, Step: st, Refused: m.late(st)}
	c := cell{level: LevelModel, step: st.ID, name: f.Name, planted: []fault.Planted{p}, commits: f.Name == fault.Commits}
	switch {
	case f.Scope == fault.OfUndo && !st.HasUndo:
		c.skip = "the step has no undo"
	case f.Scope == fault.OfUndo && m.late(st):
		c.skip = "the step stands past the point of no return: it is not taken back"
	case f.Outsider() && len(m.changes[st.ID]) == 0:
		c.skip = "the step changes nothing in the model"
	}
	return c
}

// late reports whether a step is the point of no return or comes after it.
func (m *model) late(st backstay.Step) bool {
	if m.plan.Pivot == "" {
		return false
	}
	at := slices.IndexFunc(m.plan.Steps, func(s backstay.Step) bool { return s.Pivot })
	own := slices.IndexFunc(m.plan.Steps, func(s backstay.Step) bool { return s.ID == st.ID })
	return own >= at
}

// Only narrows a drill to some cells. The zero value is all of them.
type Only struct{ Step, Fault string }

// check refuses names that the plan or the catalogue does not have.
func (o Only) check(m *model) error {
	var problems []backstay.Problem
	if _, ok := m.plan.Step(o.Step); o.Step != "" && !ok {
		problems = append(problems, backstay.Problem{Path: "--step", Message: fmt.Sprintf("the plan has no step %q", o.Step), Hint: "list them with `backstay plan`"})
	}
	if _, ok := fault.Find(o.Fault); o.Fault != "" && !ok {
		problems = append(problems, backstay.Problem{Path: "--fault", Message: fmt.Sprintf("there is no fault %q", o.Fault), Hint: "docs/guide/drill.md lists them, and so does each drill"})
	}
	if len(problems) == 0 && len(m.cells(o)) == 0 {
		problems = append(problems, backstay.Problem{Path: "--fault", Message: fmt.Sprintf("fault %q cannot happen to step %q", o.Fault, o.Step), Hint: "leave out --step or --fault"})
	}
	if len(problems) > 0 {
		return &backstay.RefusedError{What: "drill", Problems: problems}
	}
	return nil
}
